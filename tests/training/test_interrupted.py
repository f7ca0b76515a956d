"""fit(), interrupted and resumed: the same bits, or a refusal."""

import functools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from small import LEVEL, SHAPE, adam, assert_same_state, fit, images, make, normed, weights
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, MultiStepLR, SequentialLR, StepLR

from pyro_vae import (
    SGVB_A,
    Capacity,
    Cosine,
    Linear,
    MonteCarloEM,
    WeightPrior,
)
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE
from pyro_vae.networks import Masking
from pyro_vae.training import checkpoint
from pyro_vae.training.records import read_metrics

data = pytest.fixture(images)


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
