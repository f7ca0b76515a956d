"""fit(): the same bits for the same seed, resumed or not; what it refuses; what it leaves behind."""

import functools
import inspect
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from queue import SimpleQueue

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import CUBO
from pairs import made, two_arguments
from test_schedules import NoValue
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, MultiStepLR, ReduceLROnPlateau, SequentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import (
    IWAE,
    SGVB_A,
    SGVB_B,
    TCVAE,
    Capacity,
    Cosine,
    Linear,
    MonteCarloEM,
    NonFiniteError,
    WeightPrior,
    compiled,
)
from pyro_vae.data import Split
from pyro_vae.estimators import DoublyReparameterized, Estimator
from pyro_vae.models import MLPVAE, FullBayes, HierarchicalVAE
from pyro_vae.networks import GaussianNoise, Masking, SaltAndPepper
from pyro_vae.training import Progress, checkpoint
from pyro_vae.training.records import read_metrics

fit = functools.partial(pyro_vae.fit, compile="eager", progress=False, batch_size=32)
adam = functools.partial(functools.partial, torch.optim.Adam)
SHAPE = (1, 4, 4)
LEVEL = "posterior.network.corruption.level"


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return MLPVAE(SHAPE, latent_dim=3, hidden=(16,), **arguments)


def normed(seed=0):
    pair = make(seed)
    pair.posterior.network.layers.insert(1, nn.BatchNorm1d(16))
    return pair


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(150, *SHAPE, generator=generator) < torch.rand(1, *SHAPE, generator=generator)).float()
    return Split(x[:110]), Split(x[110:])


def weights(pair):
    return torch.cat([parameter.detach().flatten() for parameter in pair.parameters()])


def assert_same_state(pair, other):
    assert pair.state_dict().keys() == other.state_dict().keys()
    for name, value in pair.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# What it does


def test_the_bound_rises_and_the_history_tells_it(data, tmp_path):
    run = fit(make(), data, epochs=8, optimizer=adam(lr=1e-2), out=tmp_path)
    assert [entry["epoch"] for entry in run.history] == list(range(1, 9))
    assert [entry["samples"] for entry in run.history] == [110 * epoch for epoch in range(1, 9)]
    assert run.history[-1]["train"] > run.history[0]["train"] + 0.5
    assert run.history[-1]["valid"] > run.history[0]["valid"] + 0.5
    last = run.history[-1]
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-4)
    assert last["seconds"] > 0
    assert last["data_per_second"] > 0
    assert run.bound == last["valid"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history


def test_the_training_bound_is_a_mean_over_data_not_over_batches(data):
    # A learning rate of 0 keeps the pair as it is; the last batch is smaller than the others.
    pair = make()
    run = fit(pair, data, epochs=1, batch_size=100, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    draws = torch.stack([SGVB_B().bound(pair, *data[0].batch(torch.arange(110))).mean() for _ in range(200)])
    assert run.history[0]["train"] == pytest.approx(draws.mean().item(), abs=5 * draws.std().item())


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_same_seed_same_bits(data, mode):
    one, same, other = (weights(fit(make(), data, epochs=2, seed=seed, compile=mode).pair) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_two_fits_in_one_process_are_what_two_processes_give(data):
    alone = weights(fit(make(1), data, epochs=2).pair)
    fit(make(2), data, epochs=2)
    pyro.param("decoder", torch.zeros(3))
    assert torch.equal(alone, weights(fit(make(1), data, epochs=2).pair))
    assert list(pyro.get_param_store().keys()) == ["decoder"]


def test_the_callers_random_state_and_settings_stay(data):
    pair, estimator = make().eval(), SGVB_B(beta=0.5)
    state = torch.get_rng_state()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(pair, data, epochs=1, estimator=estimator, beta=Linear())
    assert torch.equal(torch.get_rng_state(), state)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert estimator.beta == 0.5
    assert estimator.num_data is None
    assert not pair.training


class Counting(MLPVAE):
    """Counts the runs of its programs: those of check, in evaluation mode, and those of the steps."""

    def model(self, *args):
        self.runs.put(("model", self.training))
        return super().model(*args)

    def guide(self, *args):
        self.runs.put(("guide", self.training))
        return super().guide(*args)


@pytest.mark.parametrize(("estimator", "checks"), [(None, 2), (SGVB_B(), 3), (IWAE(3), 31)])
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_guide_and_model_run_a_few_times_before_the_first_step(data, estimator, checks, mode):
    """By itself, under Pyro's validation, by an estimator that is asked for, and to see how its particles are run."""
    pair = Counting(SHAPE, 3, (16,))
    pair.runs = SimpleQueue()  # a list would be a reason not to trace
    fit(pair, data[0], epochs=1, batch_size=110, estimator=estimator, compile=mode)
    steps = 1 if mode == "eager" else 2  # one step, for which the program is run and traced
    runs = [pair.runs.get() for _ in range(pair.runs.qsize())]
    before = runs[: 2 * checks]
    assert sorted(name for name, _ in before) == ["guide"] * checks + ["model"] * checks
    looks = isinstance(estimator, IWAE)  # at particles in training, too: a class of the user's own may differ there
    assert any(training for _, training in before) == looks
    assert runs[2 * checks :] == [("guide", True), ("model", True)] * steps


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_precisions(data, precision):
    plain = fit(make(), data, epochs=3)
    pair = make().double() if precision == "float64" else make()
    run = fit(pair, data, epochs=3, precision="float32" if precision == "float64" else precision)
    assert run.history[-1]["valid"] == pytest.approx(plain.history[-1]["valid"], abs=0.1)
    expected = torch.float64 if precision == "float64" else torch.float32
    assert all(parameter.dtype == expected for parameter in pair.parameters())
    assert not torch.equal(weights(pair).float(), weights(plain.pair))


def test_the_progress_bar_tells_bound_speed_and_time_left(data, capfd):
    fit(make(), data, epochs=3, progress=True)
    shown = capfd.readouterr().err.split("\r")[-1]
    assert "nats" in shown
    assert "data/s" in shown
    assert "steps/s" in shown


def test_the_progress_bar_tells_what_a_step_waits_for(data, capfd, monkeypatch):
    monkeypatch.setattr(compiled, "_has_compiler", lambda module: True)
    monkeypatch.setattr(compiled, "compiled_by_inductor", lambda graph, flat: graph)
    monkeypatch.setattr(compiled, "_RUNS", 1)
    fit(make(), data, epochs=2, progress=True, compile="auto")
    shown = capfd.readouterr().err.split("\r")
    assert sum("compiling the programs" in line for line in shown) == 1
    assert "compiling" not in shown[-1]


def test_other_kinds_of_data(data):
    x = data[0].tensors[0]
    loader = DataLoader(TensorDataset(x), batch_size=32, shuffle=True)
    for run in (fit(make(), x, epochs=1), fit(make(), loader, epochs=1)):
        assert run.history[0]["samples"] == 110
        assert run.history[0]["valid"] is None


def test_two_tensors_are_two_arguments():
    pair, batch = made(two_arguments)
    run = fit(pair, TensorDataset(*batch), epochs=1, batch_size=2)
    assert run.history[0]["samples"] == len(batch[0])


class GlobalShift(pyro.nn.PyroModule):
    """x_i ~ N(w, 1) with one w for all data: conjugate, and its plate knows the batch alone."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @pyro_vae.pair_method
    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.unsqueeze(-1), 1.0).to_event(1), obs=x)

    @pyro_vae.pair_method
    def guide(self, x):
        pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [10, 40])
def test_what_all_data_share_counts_once_whatever_the_batch_size(batch_size):
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) + 2
    pair = GlobalShift()
    epochs = 600 * batch_size // 10
    fit(pair, x, epochs=epochs, batch_size=batch_size, scheduler=Cosine(), optimizer=adam(lr=0.05))
    # The exact posterior of w given N data: precision 1 + N.
    assert pair.log_scale.exp().item() == pytest.approx((1 / 41) ** 0.5, rel=0.05)
    assert pair.loc.item() == pytest.approx(x.sum().item() / 41, abs=0.05)


def test_the_estimator_that_is_taken_where_none_is_asked_for(data):
    """SGVB_B, or SGVB_A for a guide from the data upwards."""

    def upwards():
        torch.manual_seed(0)
        return HierarchicalVAE(SHAPE, (2, 2), (4, 4), 1)

    for pair, estimator in ((make, SGVB_B()), (upwards, SGVB_A())):
        taken, asked = (fit(pair(), data, epochs=2, estimator=given).pair for given in (None, estimator))
        assert torch.equal(weights(taken), weights(asked))
    (x,) = data[1].batch(torch.arange(20))
    assert pyro_vae.diagnostics.rate_distortion(taken, [(x,)]).rates.keys() == {"z1", "z2"}
    report = pyro_vae.check(taken, x)
    assert not report.in_order
    assert not any(site.analytic_kl for site in report.sites)


# Interrupted and resumed


class Drift(nn.Module):
    """A buffer that moves, and that ``state_dict`` leaves out."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.level += 0.01
        return x + self.level


def drifting(seed=0):
    pair = make(seed)
    pair.posterior.network.layers.insert(1, Drift())
    return pair


class Wide(torch.optim.Optimizer):
    """Momentum in float64, and a whole number and a numpy number beside it."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01, "scale": np.float64(1.0)})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                state["moment"] = state.get("moment", 0.0) * 0.9 + parameter.grad.double()
                parameter -= (group["lr"] * group["scale"] / state["steps"] * state["moment"]).float()


class Own(torch.optim.Optimizer):
    """Defaults of many kinds, a number of its own, and noise."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01, "betas": [0.9, (0.5, None)], "options": {"a": (1, 2)}})
        self.updates = 0

    @torch.no_grad()
    def step(self):
        self.updates += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                noise = torch.randn_like(parameter) + np.random.randn() + random.random()  # noqa: NPY002
                parameter -= group["lr"] / self.updates * (parameter.grad + 0.1 * noise)


def in_turn(optimizer):
    """Schedulers inside of one; their counters are no plain dictionaries."""
    first = MultiStepLR(optimizer, milestones=[1, 1, 2], gamma=0.5)
    return SequentialLR(optimizer, [first, MultiStepLR(optimizer, milestones=[1], gamma=0.1)], milestones=[2])


CHOICES = {
    "adam": {"compile": "traced"},
    "schedulers in turn": {"scheduler": in_turn},
    "schedulers at once": {"scheduler": lambda optimizer: ChainedScheduler([MultiStepLR(optimizer, [1, 2], 0.5)])},
    "buffers that are not saved": {"pair": drifting},
    "moments of float64": {"optimizer": Wide},
    "adafactor": {"optimizer": torch.optim.Adafactor},
    "an optimizer that counts and draws": {"optimizer": Own},
    "adagrad, prior": {"optimizer": functools.partial(torch.optim.Adagrad, lr=0.01), "weight_prior": WeightPrior()},
    "sgd, torch scheduler": {
        "optimizer": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        "scheduler": functools.partial(StepLR, step_size=1, gamma=0.5),
    },
    "average": {"average": 0.9, "scheduler": Cosine(), "beta": Linear(duration=0.5)},
    "patience": {"patience": 50, "clip_norm": 1.0, "estimator": SGVB_A(2)},
    "batch norm": {"pair": normed},
    "batch norm, average": {"pair": normed, "average": 0.5, "patience": 50, "compile": "traced"},
    "buffer": {
        "pair": lambda seed=0: make(seed, corruption=Masking(0.5)),
        "average": 0.9,
        "compile": "traced",
        "schedules": {LEVEL: Linear(0.8, 0.0, duration=1.0)},
    },
    "capacity": {"estimator": Capacity(Linear(0.0, 3.0, duration=1.0), gamma=10.0), "compile": "traced"},
    "chains": {"estimator": MonteCarloEM(num_transitions=2, num_leapfrog=2, num_updates=2), "compile": "traced"},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_resumed_is_the_same_bits(data, tmp_path, choice):
    """Interrupted in the middle of an epoch, with dynamic draws, and taken up in a fresh pair."""
    gray = tuple(Split((part.tensors[0] * 255).to(torch.uint8), binarization="dynamic") for part in data)
    arguments = {"pair": make, "epochs": 3, "seed": 4, **CHOICES[choice]}
    pair = arguments.pop("pair")
    whole = fit(pair(), gray, out=tmp_path / "whole", **arguments)
    parts = {"out": tmp_path / "parts", **arguments}
    with pytest.raises(KeyboardInterrupt, match="resume"):
        fit(pair(), interrupting(gray, after=6), **parts)
    resumed = fit(pair(9), gray, resume=True, **parts)
    assert_same_state(whole.pair, resumed.pair)
    for ours, theirs in zip(whole.history, resumed.history, strict=True):
        for key in ours.keys() - {"seconds", "data_per_second"}:
            assert ours[key] == theirs[key], key
    assert read_metrics(tmp_path / "parts") == resumed.history
    read = fit(pair(8), gray, resume=True, **parts)  # a run that is at its end
    assert_same_state(whole.pair, read.pair)
    assert read.history == resumed.history


class Interrupting(Split):
    """Presses Ctrl-C while it hands out a batch."""

    after: int

    def batches(self, *args, **kwargs):
        for batch in super().batches(*args, **kwargs):
            self.after -= 1
            if self.after == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def interrupting(data, after):
    train = Interrupting(data[0].tensors[0], binarization=data[0].binarization, seed=data[0].seed)
    train.name = data[0].name
    train.after = after + 1  # one batch is drawn to check the pair
    return train, data[1]


SCRIPT = """
import sys, time, torch, pyro_vae
from pyro_vae.models import MLPVAE
torch.manual_seed(0)
x = (torch.rand(200, 1, 4, 4) < 0.5).float()
slow = [lambda run: time.sleep(0.05)] if "slow" in sys.argv else []
run = pyro_vae.fit(
    MLPVAE((1, 4, 4), 2, hidden=(8,)), x, epochs=40, batch_size=20, out=sys.argv[1], resume=True,
    compile="eager", progress=False, checkpoint_every=0.0, callbacks=slow,
)
print(torch.cat([p.flatten() for p in run.pair.parameters()]).double().sum().item().hex())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path, number):
    out, script = tmp_path / "run", tmp_path / "run.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    process = subprocess.Popen([*command, str(out), "slow"], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 3):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert number != signal.SIGTERM or "terminated" in errors
    assert len(read_metrics(out)) < 40
    ends = [
        subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, check=True).stdout
        for folder in (out, tmp_path / "other")
    ]
    assert ends[0] == ends[1]
    assert len(read_metrics(out)) == 40


def test_a_finished_run_can_be_prolonged(data, tmp_path):
    fit(make(), data, epochs=2, out=tmp_path, average=0.9)
    longer = fit(make(8), data, epochs=4, out=tmp_path, average=0.9, resume=True)
    assert torch.equal(weights(longer.pair), weights(fit(make(), data, epochs=4, average=0.9).pair))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(data, tmp_path):
    whole = fit(make(), data, epochs=4, checkpoint_every=0.0, out=tmp_path)
    last = tmp_path / "checkpoint" / checkpoint.LAST
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.warns(UserWarning, match=r"cannot be read.*Going on from the checkpoint before"):
        again = fit(make(7), data, epochs=4, out=tmp_path, resume=True)
    assert torch.equal(weights(whole.pair), weights(again.pair))


def moved(**arguments):
    """A pair and schedules of its level and of beta."""
    return {"pair": make(corruption=Masking(0.5)), "schedules": {LEVEL: Linear(0.8, 0.0)}, **arguments}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"batch_size": 16}, "batch_size was 32 and is now 16"),
        ({}, {"optimizer": adam(lr=1e-3, eps=1e-3)}, r"optimizer was Adam\(.*eps=1e-08.* is now Adam\(.*eps=0.001"),
        ({}, {"estimator": SGVB_A()}, r"estimator was SGVB_B\(.* is now SGVB_A\("),
        ({"beta": 0.5}, {}, "beta was 0.5 and is now 1.0"),
        ({"beta": Linear()}, {"beta": Linear(0.1)}, r"beta was Linear\(start=0\.0.* is now Linear\(start=0\.1"),
        ({"average": 0.5}, {}, "average was 0.5 and is now None"),
        ({}, {"pair": make(activation=nn.Tanh)}, "another pair"),
        ({}, {"pair": MLPVAE(SHAPE, 4, (16,))}, "another pair"),
        ({"scheduler": Cosine()}, {"scheduler": Cosine(), "epochs": 4}, "epochs was 2 and is now 4"),
        ({"beta": Linear()}, {"beta": Linear(), "epochs": 4}, "epochs was 2 and is now 4"),
        (moved(), moved(schedules={LEVEL: Linear(0.8, 0.1)}), r"schedules was .*end=0\.0.* and is now .*end=0\.1"),
        (moved(), moved(schedules=None), "schedules was .* and is now None"),
        (moved(), moved(epochs=4), "epochs was 2 and is now 4"),
        (moved(), moved(pair=make(corruption=Masking(0.4))), "another pair"),
    ],
)
def test_another_configuration_is_refused_and_the_run_stays(data, tmp_path, first, second, message):
    arguments = {"data": data, "epochs": 2, "out": tmp_path, "optimizer": adam(lr=1e-3)}
    fit(**{"pair": make(), **arguments, **first})
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a trained run"):
        fit(**{"pair": make(), **arguments, **first})
    with pytest.raises(ValueError, match=rf"belongs to another configuration \(.*{message}"):
        fit(**{"pair": make(), **arguments, **second, "resume": True})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_other_data_are_another_configuration(data, tmp_path):
    """Also where they differ in one number of the last datum."""
    fit(make(), data, epochs=1, out=tmp_path)
    for place, name in enumerate(("training", "validation")):
        other = [Split(part.tensors[0].clone()) for part in data]
        other[place].tensors[0][-1, 0, 0, 0] -= 1
        other[place].tensors[0].abs_()
        with pytest.raises(ValueError, match=rf"\({name} data was of the hash \w+.* is now of the hash [^,]+, bin"):
            fit(make(), tuple(other), epochs=1, out=tmp_path, resume=True)
    fit(make(), tuple(Split(part.tensors[0].clone()) for part in data), epochs=1, out=tmp_path, resume=True)


def stepped(momentum):
    """A factory that is another function each time, of the same code."""
    return lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=momentum)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"compile": "traced"}, {"compile": "eager"}, "compile was 'traced' and is now 'eager'"),
        ({"patience": 50}, {"patience": 40}, "patience was 50 and is now 40"),
        (
            {"scheduler": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.9**epoch)},
            {"scheduler": lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.8**epoch)},
            r"scheduler is \S+<lambda>, as it was, but of other code",
        ),
        ({"optimizer": stepped(0.5)}, {"optimizer": stepped(0.6)}, r"momentum=0.5.* is now .*momentum=0.6"),
        ({"optimizer": stepped(0.5)}, {"optimizer": stepped(0.5)}, None),
        ({"optimizer": torch.optim.Adafactor}, {"optimizer": torch.optim.Adafactor}, None),
        ({"optimizer": Own}, {"optimizer": Own}, None),
    ],
)
def test_what_is_given_is_compared(data, tmp_path, first, second, message):
    """And what is the same is taken for the same as often as it goes on."""
    fit(**{"pair": make(), "data": data, "epochs": 1, "out": tmp_path, **first})
    for epochs in (2, 3, 4):
        arguments = {"pair": make(), "data": data, "epochs": epochs, "out": tmp_path, "resume": True, **second}
        if message is None:
            assert len(fit(**arguments).history) == epochs
            continue
        with pytest.raises(ValueError, match=message):
            fit(**arguments)


def test_the_order_of_schedules_is_none_of_a_runs(data, tmp_path):
    def pair():
        made = make(corruption=Masking(0.5))
        made.register_buffer("temperature", torch.ones(()))
        return made

    schedules = {LEVEL: Linear(0.8, 0.0), "temperature": Linear(1.0, 2.0), "beta": Linear()}
    fit(pair(), data, epochs=2, out=tmp_path, schedules=schedules)
    beta = schedules.pop("beta")
    fit(pair(), data, epochs=2, out=tmp_path, schedules=dict(reversed(schedules.items())), beta=beta, resume=True)


# What is not finite


class Exploding(nn.Module):
    """A likelihood whose mean overflows as soon as its factor has moved."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.factor = inner, nn.Parameter(torch.zeros(()))

    def forward(self, z):
        shift = (self.factor * 1e5).exp() - (-self.factor * 1e5).exp()
        return dist.Normal(self.inner(z).mean + shift, 1.0).to_event(3)


class Root(nn.Module):
    """Finite at 0, with an infinite derivative."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.offset = inner, nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return dist.Normal(self.inner(z).mean + self.offset.sqrt(), 1.0).to_event(3)


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Exploding, "epoch 1, step 2; site: x; parameter with such a gradient: .* and 6 more"),
        (Root, r"epoch 1, step 1; .*such a gradient: likelihood\.offset"),
    ],
)
def test_not_finite_stops_and_says_where(data, tmp_path, mode, kind, message):
    pair = make(likelihood=lambda network: kind(pyro_vae.Bernoulli(network)))
    before = weights(pair)
    with pytest.raises(NonFiniteError, match=message):
        fit(pair, data, epochs=2, out=tmp_path, compile=mode)
    assert torch.equal(weights(pair), before) == (kind is Root)  # the gradient is not taken


def test_not_finite_keeps_the_last_good_checkpoint(data, tmp_path):
    def poison(run):
        if len(run.history) == 2:
            with torch.no_grad():
                next(run.pair.parameters()).fill_(math.nan)

    with pytest.raises(NonFiniteError, match="last good checkpoint"):
        fit(make(), data, epochs=5, out=tmp_path, callbacks=[poison], checkpoint_every=1e-9)
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    assert state["epoch"] == 1
    assert {**inspect.signature(pyro_vae.fit).parameters}.keys() - {"pair", "data"} < state["configuration"].keys()
    assert state["configuration"]["epochs"] == "5"
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("pair/"))


# The weights that a pair ends with


def test_early_stopping_goes_back_to_the_best(data):
    run = fit(make(), data, epochs=60, patience=3, optimizer=adam(lr=0.05))
    assert run.stopped_early
    valid = [entry["valid"] for entry in run.history]
    assert len(valid) - 1 - valid.index(max(valid)) == 3
    torch.manual_seed(0)
    batch = data[1].batch(torch.arange(len(data[1])))
    ours = torch.stack([SGVB_B().bound(run.pair.eval(), *batch).mean() for _ in range(100)])
    assert ours.mean().item() == pytest.approx(max(valid), abs=6 * ours.std().item())


@pytest.mark.parametrize("pair", [make, normed])
def test_with_patience_the_best_weights_are_kept_also_at_the_last_epoch(data, pair):
    """And with them the statistics of a batch norm."""
    run = fit(pair(), data, epochs=12, patience=50, optimizer=adam(lr=0.1))
    valid = [entry["valid"] for entry in run.history]
    assert not run.stopped_early
    assert run.best_epoch == 1 + valid.index(max(valid))
    assert run.best_epoch < 12, "the case is not tested: the last epoch is the best"
    assert run.bound == max(valid)
    until = fit(pair(), data, epochs=run.best_epoch, optimizer=adam(lr=0.1)).pair.state_dict()
    for name, value in run.pair.state_dict().items():
        assert not value.is_floating_point() or torch.equal(value, until[name]), name


def test_average_is_the_exponential_moving_average(data):
    """One batch an epoch: the average of weights and batch statistics after each step, by its formula."""

    def values(pair):
        return torch.cat([weights(pair), *(b.flatten() for b in pair.buffers() if b.is_floating_point())])

    steps, decay = 6, 0.5
    average = values(normed())
    for step in range(1, steps + 1):
        seen = fit(normed(), data, epochs=step, batch_size=110)
        average = average + (1 - min(decay, (1 + step) / (10 + step))) * (values(seen.pair) - average)
    averaged = fit(normed(), data, epochs=steps, batch_size=110, average=decay)
    torch.testing.assert_close(values(averaged.pair), average, rtol=1e-5, atol=1e-6)
    assert [entry["train"] for entry in averaged.history] == [entry["train"] for entry in seen.history]
    assert not torch.equal(values(averaged.pair), values(seen.pair))


# Schedules


def test_schedules_move_beta_and_the_rate(data):
    """By beta=, or by schedules=; the history tells what the last step of each epoch met."""
    runs = [
        fit(make(), data, epochs=4, scheduler=Cosine(), **{"callbacks": [lambda run: None], **given})
        for given in ({"beta": Linear(duration=1.0)}, {"schedules": {"beta": Linear(duration=1.0)}})
    ]
    for run in runs:
        assert [entry["beta"] for entry in run.history] == [(4 * epoch + 3) / 16 for epoch in range(4)]
        assert "schedules" not in run.history[0]
        assert run.history[0]["learning_rate"] > run.history[-1]["learning_rate"]
    assert torch.equal(weights(runs[0].pair), weights(runs[1].pair))


def test_a_capacity_moves(data):
    """As fit is told, or as the estimator was made."""
    line = Linear(0.0, 3.0, duration=1.0)
    given = fit(make(), data, epochs=3, estimator=Capacity(1.0, 10.0), schedules={"capacity": line})
    own = fit(make(), data, epochs=3, estimator=Capacity(line, 10.0))
    assert torch.equal(weights(given.pair), weights(own.pair))
    for run in (given, own):
        assert [entry["capacity"] for entry in run.history] == pytest.approx([3 * n / 12 for n in (3, 7, 11)])
        assert "beta" not in run.history[0]
    constant = fit(make(), data, epochs=3, estimator=Capacity(1.0, 10.0))
    assert [entry["capacity"] for entry in constant.history] == [1.0] * 3
    assert not torch.equal(weights(constant.pair), weights(own.pair))


def test_beta_changes_what_is_learnt_and_the_bound_stays_at_one(data):
    small, large = (fit(make(), data, epochs=10, beta=beta) for beta in (0.01, 10.0))
    assert small.history[-1]["terms"]["z"]["kl"] > 5 * large.history[-1]["terms"]["z"]["kl"]
    last = large.history[-1]
    assert last["loss"] == pytest.approx(-last["terms"]["x"]["log_p"] + 10 * last["terms"]["z"]["kl"], abs=1e-3)
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-3)
    own = fit(make(), data, epochs=10, estimator=SGVB_B(beta=10.0))
    assert torch.equal(weights(own.pair), weights(large.pair))


def test_a_plateau_scheduler_sees_the_validation_bound(data):
    plateau = functools.partial(ReduceLROnPlateau, patience=0, factor=0.1, threshold=10.0)
    assert fit(make(), data, epochs=5, scheduler=plateau).history[-1]["learning_rate"] < 1e-4


class Noting(Masking):
    """Notes the levels that it meets, where it runs eagerly."""

    def corrupted(self, x):
        self.seen.append(self.level.item())
        return super().corrupted(x)


def test_a_scheduled_buffer_moves_before_each_step(data):
    corruption = Noting(0.3)
    corruption.seen = []
    schedule = Linear(0.5, 0.1, duration=0.8)
    run = fit(make(corruption=corruption), data, epochs=2, compile="eager", schedules={LEVEL: schedule})
    expected = [schedule(Progress(step, step / 4, step / 8)) for step in range(8)]
    assert corruption.seen == pytest.approx(expected)
    assert [entry["schedules"][LEVEL] for entry in run.history] == pytest.approx([0.25, 0.1])
    assert corruption.level.item() == pytest.approx(0.1)


@pytest.mark.parametrize("arguments", [{}, {"average": 0.9}, {"patience": 50}], ids=str)
def test_after_an_epoch_a_buffer_has_the_value_of_its_end(data, arguments):
    seen, pair = [], make(corruption=Masking(0.3))
    run = fit(
        pair, data, epochs=4, schedules={LEVEL: Linear(1.0, 0.0, duration=1.0)},
        callbacks=[lambda run: seen.append(run.pair.corruption.level.item())], **arguments,
    )  # fmt: skip
    assert seen == pytest.approx([0.75, 0.5, 0.25, 0.0])
    assert [entry["schedules"][LEVEL] for entry in run.history] == seen
    assert pair.corruption.level.item() == 0.0


@pytest.mark.parametrize("corruption", [Masking, SaltAndPepper, GaussianNoise])
def test_a_schedule_is_the_same_eager_and_traced(data, corruption):
    def fitted(level, **arguments):
        return weights(fit(make(corruption=corruption(level)), data, epochs=2, **arguments).pair)

    line = {"schedules": {LEVEL: Linear(0.9, 0.1, 1.0)}}
    traced = fitted(0.0, compile="traced", **line)
    torch.testing.assert_close(fitted(0.0, **line), traced, rtol=1e-3, atol=1e-4)
    constant = fitted(0.9, compile="traced")
    assert (constant - traced).abs().max() > 1e-3
    assert torch.equal(fitted(0.0, compile="traced", schedules={LEVEL: Linear(0.9, 0.9)}), constant)


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 111}, "batch_size=111 is larger than the training set of 110"),
        ({"schedules": {"corruption.level": Linear()}}, rf"MLPVAE has no such buffer; the nearest are {LEVEL}"),
        ({"schedules": {"posterior.network.network.layers.0.weight": Linear()}}, "is a parameter"),
        *(
            (
                {"schedules": {LEVEL: line}},
                r"the schedule of .*level after [02] epochs: level .* number of at least 0 and at most 1",
            )
            for line in (Linear(0.5, -0.1), Linear(1.2, 0.0), Linear(0.5, 1.1, steps=8))
        ),
        ({"beta": Linear(0.5, -0.5)}, r"the schedule of beta after 2 epochs: .*got -0\.5"),
        ({"beta": -1.0}, r"got -1\.0"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
    ],
)
def test_what_does_not_go_is_refused_before_the_first_step(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(make(corruption=Masking(0.5)), data, out=tmp_path / "run", **{"epochs": 2, **arguments})
    assert not (tmp_path / "run").exists()


def test_bad_pairs_and_data(data, tmp_path):
    with pytest.raises(TypeError, match="a pair has two methods"):
        fit(nn.Linear(2, 2), data)
    with pytest.raises(ValueError, match="Gray pixels"):
        fit(make(), torch.rand(40, *SHAPE), batch_size=20)
    with pytest.raises(ValueError, match="patience needs a validation set"):
        fit(make(), data[0], patience=2)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(make().requires_grad_(False), data)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the folder"):
        fit(make(), data, epochs=1, out=tmp_path / "file" / "run")


@pytest.mark.parametrize("y", [torch.zeros(40), torch.zeros(40, 3), torch.zeros(40, dtype=torch.int64).numpy()])
def test_data_and_labels_are_no_train_and_valid(y):
    with pytest.raises(ValueError, match=r"shapes \[40, 1, 4, 4\] and \[40.*give one TensorDataset\(x, y\)"):
        fit(make(), (torch.zeros(40, 1, 4, 4), y), epochs=1, batch_size=10)


# The number of data


class Endless(torch.utils.data.IterableDataset):
    """Forty rows, without saying that there are so many."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def shared_loss(data, **options):
    """The mean loss of an epoch in which nothing moves: the KL of w counts 1/N in it."""
    pair = GlobalShift()
    with torch.no_grad():
        pair.loc.fill_(3.0)
        pair.log_scale.fill_(-20.0)
    run = fit(pair, data, epochs=1, optimizer=functools.partial(torch.optim.SGD, lr=0.0), **options)
    return run.history[0]["loss"]


def test_the_number_of_data_is_told_and_never_guessed():
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) + 2
    rows, sampler = TensorDataset(x), torch.utils.data.SubsetRandomSampler(range(40))
    kl = torch.distributions.kl_divergence(dist.Normal(3.0, math.exp(-20)), dist.Normal(0.0, 1.0)).item()
    expected = kl / 40 - dist.Normal(3.0, 1.0).log_prob(x[:40]).mean().item()
    for loader, options in (
        (DataLoader(rows, batch_size=10, sampler=sampler), {}),
        (DataLoader(Endless(x[:40]), batch_size=10), {"num_data": 40}),
        (DataLoader(rows, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 40 + [0.0] * 160, 40, False)),
         {"num_data": 40}),
        (x[:40], {"batch_size": 10}),
    ):  # fmt: skip
        assert shared_loss(loader, **options) == pytest.approx(expected, abs=1e-4)
    assert shared_loss(x[:40], num_data=80) == pytest.approx(expected - kl / 80, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda: FullBayes(make()), {}, r"likelihood.* stands outside the data plate.*num_data=N"),
        (make, {"weight_prior": WeightPrior()}, r"a weight prior needs the number of data.*num_data=N"),
        (make, {"estimator": TCVAE()}, r"TCVAE weighs by it.*num_data=N"),
        (make, {"num_data": 0}, "num_data has to be a whole number of at least 1; got 0"),
    ],
)
def test_what_is_divided_by_an_unknown_number_of_data_is_refused(make, options, match):
    loader = DataLoader(Endless(torch.rand(40, *SHAPE).round()), batch_size=10)
    with pytest.raises(ValueError, match=match):
        fit(make(), loader, epochs=1, **options)


def test_a_stream_without_a_length_trains_what_needs_none():
    loader = DataLoader(Endless(torch.rand(40, *SHAPE).round()), batch_size=10)
    assert fit(make(), loader, epochs=2).history[-1]["samples"] == 80
    assert fit(make(), loader, epochs=1, weight_prior=WeightPrior(), num_data=40).bound is not None


# Comparisons that NaN slips through


def bounds(monkeypatch, *values):
    """Validation bounds, one an epoch."""
    left = list(values)
    monkeypatch.setattr("pyro_vae.training.trainer.Trainer._validate", lambda self: left.pop(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_is_never_the_best(data, monkeypatch, bad):
    bounds(monkeypatch, -5.0, bad, -4.0, bad, bad, -3.0)
    run = fit(make(), data, epochs=6, patience=2)
    assert (run.best_epoch, run.stopped_early, len(run.history), run.bound) == (3, True, 5, -4.0)
    bounds(monkeypatch, bad, bad, bad)
    run = fit(make(), data, epochs=6, patience=3)
    assert (run.best_epoch, run.stopped_early, len(run.history)) == (None, True, 3)


def test_of_an_upper_bound_the_least_is_the_best(data, monkeypatch):
    estimator = Estimator(CUBO(-10.0), DoublyReparameterized(), num_particles=2)
    bounds(monkeypatch, 5.0, 4.0, 6.0, 7.0)
    pair = make()
    run = fit(pair, data, epochs=4, patience=2, estimator=estimator)
    assert (run.best_epoch, run.stopped_early, len(run.history)) == (2, True, 4)


@pytest.mark.parametrize("schedule", [Linear(1.0, -1.0, duration=1.0), NoValue()])
def test_a_rate_below_zero_or_of_no_value_is_refused(data, schedule):
    with pytest.raises(ValueError, match=r"the schedule of the learning rate after .* at least 0; got (-|nan)"):
        fit(make(), data, epochs=4, scheduler=schedule)


def test_data_that_a_sigmoid_mean_does_not_reach_are_told_of():
    options = {"epochs": 1, "batch_size": 8, "compile": "eager", "progress": False}
    x, vae = torch.randn(8, 3), functools.partial(pyro_vae.models.MLPVAE, (3,), 2, (4,))
    with pytest.warns(UserWarning, match=r"of the Laplace likelihood is a sigmoid.*Give Laplace\(\.\.\., sigmoid_mean"):
        pyro_vae.fit(vae(likelihood=pyro_vae.likelihoods.Laplace), x, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyro_vae.fit(vae(likelihood=pyro_vae.likelihoods.Laplace), x.sigmoid(), **options)
        reaches = functools.partial(pyro_vae.likelihoods.Laplace, sigmoid_mean=False)
        pyro_vae.fit(vae(likelihood=reaches), x, **options)
