"""fit(): the same bits for the same seed, resumed or not; what it refuses; what it leaves behind."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import SGVB_A, SGVB_B, Cosine, Linear, NonFiniteError, WeightPrior, fit
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE
from pyro_vae.networks import GaussianNoise, Masking, SaltAndPepper
from pyro_vae.training import checkpoint
from pyro_vae.training.records import read_metrics

fit = functools.partial(fit, compile="traced", progress=False)
SHAPE = (1, 4, 4)


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return MLPVAE(SHAPE, latent_dim=3, hidden=(16,), **arguments)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(150, *SHAPE, generator=generator) < torch.rand(1, *SHAPE, generator=generator)).float()
    return Split(x[:110]), Split(x[110:])


def weights(pair):
    return torch.cat([parameter.detach().flatten() for parameter in pair.parameters()])


def test_the_bound_rises_and_the_history_tells_it(data):
    run = fit(make(), data, epochs=8, batch_size=32, optimizer=functools.partial(torch.optim.Adam, lr=1e-2))
    assert [entry["epoch"] for entry in run.history] == list(range(1, 9))
    assert [entry["samples"] for entry in run.history] == [110 * epoch for epoch in range(1, 9)]
    assert run.history[-1]["train"] > run.history[0]["train"] + 0.5
    assert run.history[-1]["valid"] > run.history[0]["valid"] + 0.5
    last = run.history[-1]
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-4)
    assert last["seconds"] > 0
    assert last["images_per_second"] > 0
    assert run.bound == last["valid"]


def test_the_training_bound_is_a_mean_over_data_not_over_batches(data):
    # A learning rate of 0 keeps the pair as it is; the last batch is smaller than the others.
    pair = make()
    run = fit(pair, data, epochs=1, batch_size=100, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    draws = torch.stack([SGVB_B().bound(pair, *data[0].batch(torch.arange(110))).mean() for _ in range(200)])
    assert run.history[0]["train"] == pytest.approx(draws.mean().item(), abs=5 * draws.std().item())


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_same_seed_same_bits(data, mode):
    runs = [fit(make(), data, epochs=2, batch_size=32, seed=5, compile=mode) for _ in range(2)]
    assert torch.equal(weights(runs[0].pair), weights(runs[1].pair))
    other = fit(make(), data, epochs=2, batch_size=32, seed=6, compile=mode)
    assert not torch.equal(weights(runs[0].pair), weights(other.pair))


def test_eager_and_traced_train_alike(data):
    runs = [fit(make(), data, epochs=2, batch_size=32, compile=mode) for mode in ("eager", "traced")]
    torch.testing.assert_close(weights(runs[0].pair), weights(runs[1].pair), rtol=1e-3, atol=1e-4)


def test_two_fits_in_one_process_are_what_two_processes_give(data):
    alone = weights(fit(make(1), data, epochs=2, batch_size=32).pair)
    fit(make(2), data, epochs=2, batch_size=32)
    pyro.param("decoder", torch.zeros(3))
    again = weights(fit(make(1), data, epochs=2, batch_size=32).pair)
    assert torch.equal(alone, again)
    assert list(pyro.get_param_store().keys()) == ["decoder"]


def test_the_callers_random_state_and_settings_stay(data):
    pair = make().eval()
    state = torch.get_rng_state()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    estimator = SGVB_B(beta=0.5)
    fit(pair, data, epochs=1, batch_size=32, estimator=estimator, beta=Linear())
    assert torch.equal(torch.get_rng_state(), state)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert estimator.beta == 0.5
    assert not pair.training


CHOICES = {
    "adam": {},
    "adagrad, prior": {"optimizer": functools.partial(torch.optim.Adagrad, lr=0.01), "weight_prior": WeightPrior()},
    "sgd, torch scheduler": {
        "optimizer": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        "scheduler": functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    },
    "average": {"average": 0.9, "scheduler": Cosine(), "beta": Linear(duration=0.5)},
    "patience": {"patience": 50, "clip_norm": 1.0, "estimator": SGVB_A(2)},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_resumed_is_the_same_bits(data, tmp_path, choice):
    """Interrupted in the middle of an epoch, with dynamic draws, and taken up in a fresh pair."""
    gray = tuple(Split((part.tensors[0] * 255).to(torch.uint8), binarization="dynamic") for part in data)
    arguments = {"epochs": 3, "batch_size": 32, "seed": 4, **CHOICES[choice]}
    whole = fit(make(), gray, out=tmp_path / "whole", **arguments)
    with pytest.raises(KeyboardInterrupt, match="resume"):
        fit(make(), _interrupting(gray, after=6), out=tmp_path / "parts", **arguments)
    resumed = fit(make(9), gray, out=tmp_path / "parts", resume=True, **arguments)
    assert torch.equal(weights(whole.pair), weights(resumed.pair))
    for ours, theirs in zip(whole.history, resumed.history, strict=True):
        for key in ("epoch", "samples", "train", "valid", "loss", "terms", "beta", "learning_rate"):
            assert ours[key] == theirs[key], key
    assert read_metrics(tmp_path / "parts") == resumed.history


class _Interrupting(Split):
    """Presses Ctrl-C while it hands out a batch."""

    after: int

    def batches(self, *args, **kwargs):
        for batch in super().batches(*args, **kwargs):
            self.after -= 1
            if self.after == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def _interrupting(data, after):
    train = _Interrupting(data[0].tensors[0], binarization=data[0].binarization, seed=data[0].seed)
    train.name = data[0].name
    train.after = after + 1  # one batch is drawn to check the pair
    return train, data[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path, number):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
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
        )
    )
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    process = subprocess.Popen([*command, str(out), "slow"], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 3):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    if number == signal.SIGTERM:
        assert "terminated" in errors
    assert len(read_metrics(out)) < 40
    ends = [
        subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, check=True).stdout
        for folder in (out, tmp_path / "other")
    ]
    assert ends[0] == ends[1]
    assert len(read_metrics(out)) == 40


def test_a_finished_run_is_read_and_can_be_prolonged(data, tmp_path):
    first = fit(make(), data, epochs=2, batch_size=32, out=tmp_path / "run", average=0.9)
    read = fit(make(8), data, epochs=2, batch_size=32, out=tmp_path / "run", average=0.9, resume=True)
    assert torch.equal(weights(first.pair), weights(read.pair))
    assert read.history == first.history
    longer = fit(make(8), data, epochs=4, batch_size=32, out=tmp_path / "run", average=0.9, resume=True)
    whole = fit(make(), data, epochs=4, batch_size=32, average=0.9)
    assert torch.equal(weights(longer.pair), weights(whole.pair))


def test_out_of_another_run_is_refused_and_stays(data, tmp_path):
    run = fit(make(), data, epochs=1, batch_size=32, out=tmp_path / "run")
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="already holds a trained run"):
        fit(make(), data, epochs=1, batch_size=32, out=tmp_path / "run")
    with pytest.raises(ValueError, match="batch_size was 32 and is now 16"):
        fit(make(), data, epochs=1, batch_size=16, out=tmp_path / "run", resume=True)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="another configuration"):
        fit(MLPVAE(SHAPE, latent_dim=4, hidden=(16,)), data, epochs=1, batch_size=32, out=tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept
    assert run.history


def test_a_damaged_checkpoint_falls_back_to_the_one_before(data, tmp_path):
    arguments = {"epochs": 4, "batch_size": 32, "checkpoint_every": 0.0}
    whole = fit(make(), data, out=tmp_path / "run", **arguments)
    last = tmp_path / "run" / "checkpoint" / checkpoint.LAST
    last.write_bytes(last.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="cannot be read.*Going on from the checkpoint before"):
        again = fit(make(7), data, out=tmp_path / "run", resume=True, **arguments)
    assert torch.equal(weights(whole.pair), weights(again.pair))


def test_an_unwritable_folder(data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the folder"):
        fit(make(), data, epochs=1, batch_size=32, out=tmp_path / "file" / "run")


class Exploding(nn.Module):
    """A likelihood whose mean overflows as soon as its factor has moved."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, z):
        shift = (self.factor * 1e5).exp() - (-self.factor * 1e5).exp()
        return dist.Normal(self.inner(z).mean + shift, 1.0).to_event(3)


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_not_finite_stops_and_says_where(data, tmp_path, mode):
    pair = make(likelihood=lambda network: Exploding(pyro_vae.Bernoulli(network)))
    message = "epoch 1, step 2; site: x; parameter with such a gradient: .* and 6 more"
    with pytest.raises(NonFiniteError, match=message):
        fit(pair, data, epochs=2, batch_size=32, out=tmp_path, compile=mode)


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_a_gradient_that_is_not_finite_stops_before_it_is_taken(data, mode):
    class Root(nn.Module):
        """Finite at 0, with an infinite derivative."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, z):
            return dist.Normal(self.inner(z).mean + self.offset.sqrt(), 1.0).to_event(3)

    pair = make(likelihood=lambda network: Root(pyro_vae.Bernoulli(network)))
    before = weights(pair)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1; .*such a gradient: likelihood\.offset"):
        fit(pair, data, epochs=2, batch_size=32, compile=mode)
    assert torch.equal(weights(pair), before)


def test_not_finite_keeps_the_last_good_checkpoint(data, tmp_path):
    calls = []

    def poison(run):
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad():
                next(run.pair.parameters()).fill_(math.nan)

    with pytest.raises(NonFiniteError, match="last good checkpoint"):
        fit(make(), data, epochs=5, batch_size=32, out=tmp_path, callbacks=[poison], checkpoint_every=1e-9)
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("pair/"))


def test_early_stopping_goes_back_to_the_best(data):
    run = fit(
        make(), data, epochs=60, batch_size=32, patience=3, optimizer=functools.partial(torch.optim.Adam, lr=0.05)
    )
    assert run.stopped_early
    valid = [entry["valid"] for entry in run.history]
    assert len(valid) - 1 - valid.index(max(valid)) == 3
    torch.manual_seed(0)
    batch = data[1].batch(torch.arange(len(data[1])))
    ours = torch.stack([SGVB_B().bound(run.pair.eval(), *batch).mean() for _ in range(100)])
    assert ours.mean().item() == pytest.approx(max(valid), abs=6 * ours.std().item())


def test_average_is_what_the_pair_ends_with(data):
    plain = fit(make(), data, epochs=2, batch_size=32)
    averaged = fit(make(), data, epochs=2, batch_size=32, average=0.5)
    assert [entry["train"] for entry in plain.history] == [entry["train"] for entry in averaged.history]
    assert not torch.equal(weights(plain.pair), weights(averaged.pair))


def test_schedules_move_beta_and_the_rate(data):
    seen = []
    run = fit(
        make(), data, epochs=4, batch_size=32, beta=Linear(0.0, 1.0, duration=1.0), scheduler=Cosine(),
        callbacks=[lambda run: seen.append(run.history[-1]["beta"])],
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[0] < 0.3 < 0.7 < seen[-1] < 1
    assert run.history[0]["learning_rate"] > run.history[-1]["learning_rate"]


def test_beta_changes_what_is_learnt_and_the_bound_stays_at_one(data):
    small, large = (fit(make(), data, epochs=10, batch_size=32, beta=beta) for beta in (0.01, 10.0))
    assert small.history[-1]["terms"]["z"]["kl"] > 5 * large.history[-1]["terms"]["z"]["kl"]
    last = large.history[-1]
    assert last["loss"] == pytest.approx(-last["terms"]["x"]["log_p"] + 10 * last["terms"]["z"]["kl"], abs=1e-3)
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-3)


def test_other_kinds_of_data(data):
    x = data[0].tensors[0]
    by_tensor = fit(make(), x, epochs=1, batch_size=32)
    by_loader = fit(make(), DataLoader(TensorDataset(x), batch_size=32, shuffle=True), epochs=1)
    for run in (by_tensor, by_loader):
        assert run.history[0]["samples"] == 110
        assert run.history[0]["valid"] is None


def test_two_tensors_are_two_arguments(data):
    class Conditional(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 3))

        @pyro_vae.pair_method
        def model(self, x, y):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z + y @ self.weight, 1.0).to_event(1), obs=x)

        @pyro_vae.pair_method
        def guide(self, x, y):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    x, y = torch.randn(60, 3), torch.randn(60, 2)
    run = fit(Conditional(), TensorDataset(x, y), epochs=1, batch_size=20)
    assert run.history[0]["samples"] == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 111}, "batch_size=111 is larger than the training set of 110"),
        ({"epochs": 0}, "epochs has to be a whole number"),
        ({"average": 1.5}, "average is the decay"),
        ({"compile": "fast"}, "compile is one of auto, inductor, traced, eager"),
        ({"precision": "float16"}, "precision is one of"),
    ],
)
def test_bad_arguments(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(make(), data, **{"epochs": 1, "batch_size": 32, **arguments})


def test_bad_pairs_and_data(data):
    with pytest.raises(TypeError, match="a pair has two methods"):
        fit(nn.Linear(2, 2), data)
    with pytest.raises(TypeError, match=r"estimator is the class SGVB_A; .*such as SGVB_A\(\)"):
        fit(make(), data, estimator=SGVB_A)
    with pytest.raises(TypeError, match=r"estimator is a Trace_ELBO; .*pyro\.infer\.SVI"):
        fit(make(), data, estimator=pyro.infer.Trace_ELBO())
    with pytest.raises(ValueError, match="Gray pixels"):
        fit(make(), torch.rand(40, *SHAPE), batch_size=20)
    with pytest.raises(ValueError, match="patience needs a validation set"):
        fit(make(), data[0], patience=2, batch_size=32)
    frozen = make().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(frozen, data, batch_size=32)


def test_bfloat16_stays_near_float32(data):
    runs = [fit(make(), data, epochs=3, batch_size=32, precision=p) for p in ("float32", "bfloat16")]
    assert runs[1].history[-1]["valid"] == pytest.approx(runs[0].history[-1]["valid"], abs=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in runs[1].pair.parameters())


def test_metrics_are_a_line_an_epoch(data, tmp_path):
    run = fit(make(), data, epochs=3, batch_size=32, out=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history


def test_the_progress_bar_tells_bound_speed_and_time_left(data, capfd):
    fit(make(), data, epochs=3, batch_size=32, progress=True)
    shown = capfd.readouterr().err.split("\r")[-1]
    assert "nats" in shown
    assert "images/s" in shown
    assert "steps/s" in shown


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


@pytest.mark.parametrize("batch_size", [10, 40])
def test_what_all_data_share_counts_once_whatever_the_batch_size(batch_size):
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) + 2
    pair = GlobalShift()
    fit(
        pair, x, epochs=600 * batch_size // 10, batch_size=batch_size, scheduler=Cosine(),
        optimizer=functools.partial(torch.optim.Adam, lr=0.05),
    )  # fmt: skip
    # The exact posterior of w given N data: precision 1 + N.
    assert pair.log_scale.exp().item() == pytest.approx((1 / 41) ** 0.5, rel=0.05)
    assert pair.loc.item() == pytest.approx(x.sum().item() / 41, abs=0.05)


def test_with_patience_the_best_weights_are_kept_also_at_the_last_epoch(data):
    run = fit(
        make(), data, epochs=12, batch_size=32, patience=50, optimizer=functools.partial(torch.optim.Adam, lr=0.1)
    )
    valid = [entry["valid"] for entry in run.history]
    assert not run.stopped_early
    assert run.best_epoch == 1 + valid.index(max(valid))
    assert run.best_epoch < 12, "the case is not tested: the last epoch is the best"
    assert run.bound == max(valid)
    until = fit(
        make(), data, epochs=run.best_epoch, batch_size=32, optimizer=functools.partial(torch.optim.Adam, lr=0.1)
    )
    assert torch.equal(weights(until.pair), weights(run.pair))


def test_a_schedule_of_other_epochs_would_jump(data, tmp_path):
    fit(make(), data, epochs=2, batch_size=32, out=tmp_path, scheduler=Cosine())
    with pytest.raises(ValueError, match="epochs was 2 and is now 4"):
        fit(make(), data, epochs=4, batch_size=32, out=tmp_path, scheduler=Cosine(), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {"optimizer": functools.partial(torch.optim.Adam, lr=1e-3, eps=1e-3)}, "optimizer options"),
        (lambda data: {"data": (Split(1 - data[0].tensors[0]), data[1])}, "first batch"),
        (lambda data: {"pair": make(activation=nn.Tanh)}, "another pair"),
    ],
)
def test_another_configuration_of_the_same_shapes_is_refused(data, tmp_path, change, message):
    arguments = {"pair": make(), "data": data, "epochs": 1, "batch_size": 32, "out": tmp_path}
    arguments["optimizer"] = functools.partial(torch.optim.Adam, lr=1e-3)
    fit(**arguments)
    with pytest.raises(ValueError, match=message):
        fit(**{**arguments, **change(data), "resume": True})


def test_a_plateau_scheduler_sees_the_validation_bound(data):
    plateau = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1, threshold=10.0)
    run = fit(make(), data, epochs=5, batch_size=32, scheduler=plateau)
    assert run.history[-1]["learning_rate"] < 1e-4


def test_average_is_the_exponential_moving_average(data):
    """One batch an epoch: the average after each step, by its formula."""
    steps, decay = 6, 0.5
    seen = [weights(fit(make(), data, epochs=n, batch_size=110).pair) for n in range(1, steps + 1)]
    average = weights(make())
    for step, value in enumerate(seen, 1):
        average = average + (1 - min(decay, (1 + step) / (10 + step))) * (value - average)
    averaged = fit(make(), data, epochs=steps, batch_size=110, average=decay)
    torch.testing.assert_close(weights(averaged.pair), average, rtol=1e-5, atol=1e-6)


def test_a_float64_pair(data):
    pair = make().double()
    run = fit(pair, data, epochs=1, batch_size=32)
    assert math.isfinite(run.bound)
    assert next(pair.parameters()).dtype == torch.float64


def test_a_gpu_that_is_not_there(data):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        fit(make(), data, epochs=1, batch_size=32, device="cuda")


def test_batch_norm_resumes_to_the_same_bits(data, tmp_path):
    def pair(seed):
        torch.manual_seed(seed)
        made = make(seed)
        made.posterior.network.layers.insert(1, nn.BatchNorm1d(16))
        return made

    arguments = {"epochs": 3, "batch_size": 32}
    whole = fit(pair(0), data, **arguments)
    with pytest.raises(KeyboardInterrupt):
        fit(pair(0), _interrupting(data, after=6), out=tmp_path, **arguments)
    resumed = fit(pair(5), data, out=tmp_path, resume=True, **arguments)
    for (name, ours), theirs in zip(whole.pair.state_dict().items(), resumed.pair.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def _normed(seed=0):
    pair = make(seed)
    pair.posterior.network.layers.insert(1, nn.BatchNorm1d(16))
    return pair


def test_batch_statistics_go_back_with_the_best_weights(data):
    arguments = {"batch_size": 32, "optimizer": functools.partial(torch.optim.Adam, lr=0.1)}
    run = fit(_normed(), data, epochs=12, patience=50, **arguments)
    assert run.best_epoch < 12, "the case is not tested: the last epoch is the best"
    until = fit(_normed(), data, epochs=run.best_epoch, **arguments)
    for (name, ours), theirs in zip(run.pair.named_buffers(), until.pair.buffers(), strict=True):
        assert not ours.is_floating_point() or torch.equal(ours, theirs), name


def test_batch_statistics_are_averaged_with_the_weights(data):
    seen = [
        fit(_normed(), data, epochs=n, batch_size=110).pair.posterior.network.layers[1].running_var for n in (1, 2, 3)
    ]
    average = torch.ones(16)
    for step, value in enumerate(seen, 1):
        average = average + (1 - min(0.5, (1 + step) / (10 + step))) * (value - average)
    averaged = fit(_normed(), data, epochs=3, batch_size=110, average=0.5)
    torch.testing.assert_close(averaged.pair.posterior.network.layers[1].running_var, average)


def test_a_checkpoint_without_statistics_is_taken_up(data, tmp_path):
    arguments = {"epochs": 3, "batch_size": 32, "average": 0.5}
    with pytest.raises(KeyboardInterrupt):
        fit(_normed(), _interrupting(data, after=6), out=tmp_path, **arguments)
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    count = len(list(_normed().parameters()))
    kept = {
        name: value
        for name, value in tensors.items()
        if name.split("/")[0] not in ("trained", "average") or int(name.split("/")[1]) < count
    }
    assert len(kept) < len(tensors)
    checkpoint.save(tmp_path / "checkpoint", kept, state)
    assert len(fit(_normed(), data, out=tmp_path, resume=True, **arguments).history) == 3


def test_the_estimator_that_is_taken_where_none_is_asked_for(data):
    class Inverted(nn.Module):
        """z2 -> z1 -> x, and a guide that draws z1 first."""

        def __init__(self):
            super().__init__()
            self.encoder, self.up, self.down = nn.Linear(16, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.decoder = nn.Linear(2, 16)

        def model(self, x):
            pyro.module("inverted", self)
            with pyro.plate("data", len(x)):
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(self.down(z2), 1.0).to_event(1))
                logits = self.decoder(z1).unflatten(-1, SHAPE)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

        def guide(self, x):
            pyro.module("inverted", self)
            with pyro.plate("data", len(x)):
                z1 = pyro.sample("z1", dist.Normal(self.encoder(x.flatten(-3)), 1.0).to_event(1))
                pyro.sample("z2", dist.Normal(self.up(z1), 1.0).to_event(1))

    pairs = []
    for estimator in (None, SGVB_A()):
        torch.manual_seed(0)
        pairs.append(fit(Inverted(), data, epochs=2, batch_size=32, estimator=estimator).pair)
    assert torch.equal(weights(pairs[0]), weights(pairs[1]))
    (x,) = data[1].batch(torch.arange(20))
    assert pyro_vae.diagnostics.rate_distortion(pairs[0], [(x,)]).rates.keys() == {"z1", "z2"}
    assert not any(site.analytic_kl for site in pyro_vae.check(pairs[0], x).sites)
    torch.manual_seed(0)
    asked = fit(make(), data, epochs=1, batch_size=32, estimator=SGVB_B()).pair
    assert torch.equal(weights(fit(make(), data, epochs=1, batch_size=32).pair), weights(asked))


LEVEL = "posterior.network.corruption.level"


class _Noting(Masking):
    """Notes the levels that it meets, where it runs eagerly."""

    def corrupted(self, x):
        self.seen.append(self.level.item())
        return super().corrupted(x)


def test_a_scheduled_buffer_moves_before_each_step(data):
    corruption = _Noting(0.3)
    corruption.seen = []
    schedule = Linear(0.5, 0.1, duration=0.8)
    run = fit(
        make(corruption=corruption), data, epochs=2, batch_size=32, compile="eager", schedules={LEVEL: schedule}
    )  # fmt: skip
    expected = [schedule(pyro_vae.training.Progress(step, step / 4, step / 8)) for step in range(8)]
    assert corruption.seen == pytest.approx(expected)
    assert [entry["schedules"][LEVEL] for entry in run.history] == pytest.approx([0.25, 0.1])
    assert corruption.level.item() == pytest.approx(0.1)


@pytest.mark.parametrize("arguments", [{}, {"average": 0.9}, {"patience": 50}], ids=str)
def test_after_training_a_buffer_has_the_last_value_of_its_schedule(data, arguments):
    pair = make(corruption=Masking(0.3))
    fit(pair, data, epochs=3, batch_size=32, schedules={LEVEL: Linear(0.8, 0.2, duration=1.0)}, **arguments)
    assert pair.corruption.level.item() == pytest.approx(0.2)


def test_the_average_leaves_a_scheduled_buffer_alone(data):
    seen = []
    run = fit(
        make(corruption=Masking(0.3)), data, epochs=4, batch_size=32, average=0.9,
        schedules={LEVEL: Linear(1.0, 0.0, duration=1.0)},
        callbacks=[lambda run: seen.append(run.pair.corruption.level.item())],
    )  # fmt: skip
    assert seen == pytest.approx([0.75, 0.5, 0.25, 0.0])
    assert [entry["schedules"][LEVEL] for entry in run.history] == seen


@pytest.mark.parametrize("corruption", [Masking, SaltAndPepper, GaussianNoise])
def test_a_schedule_is_the_same_eager_and_traced(data, corruption):
    runs = []
    for mode in ("eager", "traced"):
        pair = make(corruption=corruption(0.0))
        runs.append(fit(pair, data, epochs=2, batch_size=32, compile=mode, schedules={LEVEL: Linear(0.9, 0.1, 1.0)}))
    torch.testing.assert_close(weights(runs[0].pair), weights(runs[1].pair), rtol=1e-3, atol=1e-4)
    constant = fit(make(corruption=corruption(0.9)), data, epochs=2, batch_size=32)
    assert (weights(constant.pair) - weights(runs[1].pair)).abs().max() > 1e-3


def test_a_schedule_of_one_value_is_the_constant(data):
    constant = fit(make(corruption=Masking(0.4)), data, epochs=2, batch_size=32)
    pair = make(corruption=Masking(0.0))
    fit(pair, data, epochs=2, batch_size=32, schedules={LEVEL: Linear(0.4, 0.4)})
    assert torch.equal(weights(constant.pair), weights(pair))
    assert not torch.equal(weights(pair), weights(fit(make(), data, epochs=2, batch_size=32).pair))


def test_a_schedule_is_resumed_to_the_same_bits(data, tmp_path):
    arguments = {"epochs": 3, "batch_size": 32, "average": 0.9, "schedules": {LEVEL: Linear(0.8, 0.0, duration=1.0)}}
    whole = fit(make(corruption=Masking(0.5)), data, **arguments)
    with pytest.raises(KeyboardInterrupt):
        fit(make(corruption=Masking(0.5)), _interrupting(data, after=6), out=tmp_path, **arguments)
    resumed = fit(make(9, corruption=Masking(0.5)), data, out=tmp_path, resume=True, **arguments)
    assert torch.equal(weights(whole.pair), weights(resumed.pair))
    assert whole.history[-1]["schedules"] == resumed.history[-1]["schedules"] == {LEVEL: 0.0}
    again = make(9, corruption=Masking(0.5))
    fit(again, data, out=tmp_path, resume=True, **arguments)
    assert again.corruption.level.item() == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedules": {LEVEL: Linear(0.8, 0.1)}}, r"schedules was .*end=0\.0.* and is now .*end=0\.1"),
        ({"schedules": None}, "schedules was .* and is now None"),
        ({"epochs": 4}, "epochs was 2 and is now 4"),
        ({"pair": make(corruption=Masking(0.4))}, "another pair"),
    ],
)
def test_another_schedule_is_another_run(data, tmp_path, change, message):
    arguments = {"pair": make(corruption=Masking(0.5)), "epochs": 2, "schedules": {LEVEL: Linear(0.8, 0.0)}}
    fit(**arguments, data=data, batch_size=32, out=tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(**{**arguments, **change}, data=data, batch_size=32, out=tmp_path, resume=True)


def test_bad_schedules_are_refused_before_the_first_step(data, tmp_path):
    def start(schedules):
        fit(make(corruption=Masking(0.5)), data, epochs=2, batch_size=32, out=tmp_path / "run", schedules=schedules)

    with pytest.raises(ValueError, match=rf"MLPVAE has no such buffer; the nearest are {LEVEL}"):
        start({"corruption.level": Linear()})
    with pytest.raises(ValueError, match="is a parameter"):
        start({"posterior.network.network.layers.0.weight": Linear()})
    for schedule in (Linear(0.5, -0.1), Linear(1.2, 0.0), Linear(0.5, 1.1, steps=8)):
        with pytest.raises(ValueError, match=r"the schedule of .*level after [02] epochs: .* in \[0, 1\]"):
            start({LEVEL: schedule})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_one_buffer_has_one_schedule(data):
    pair = make(corruption=Masking(0.5))
    pair.also = pair.corruption
    with pytest.raises(ValueError, match=rf"two of schedules name the same buffer, of also.level, {LEVEL}\."):
        fit(pair, data, epochs=1, batch_size=32, schedules={LEVEL: Linear(), "also.level": Linear()})
    with pytest.raises(TypeError, match=r"schedules is a mapping of the names of buffers .*; got Linear"):
        fit(pair, data, epochs=1, batch_size=32, schedules=Linear())


def test_the_order_of_schedules_is_none_of_a_runs(data, tmp_path):
    def pair():
        made = make(corruption=Masking(0.5))
        made.register_buffer("temperature", torch.ones(()))
        return made

    schedules = {LEVEL: Linear(0.8, 0.0), "temperature": Linear(1.0, 2.0)}
    arguments = {"data": data, "epochs": 2, "batch_size": 32, "out": tmp_path}
    fit(pair(), schedules=schedules, **arguments)
    fit(pair(), schedules=dict(reversed(schedules.items())), resume=True, **arguments)


@pytest.mark.parametrize("y", [torch.zeros(40), torch.zeros(40, 3), torch.zeros(40, dtype=torch.int64).numpy()])
def test_data_and_labels_are_no_train_and_valid(y):
    with pytest.raises(ValueError, match=r"shapes \[40, 1, 4, 4\] and \[40.*give one TensorDataset\(x, y\)"):
        fit(make(), (torch.zeros(40, 1, 4, 4), y), epochs=1, batch_size=10)
