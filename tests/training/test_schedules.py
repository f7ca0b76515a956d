"""training.schedules: numbers as functions of the progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pyro_vae import SGVB_B, Capacity, Cosine, Linear, WakeSleep
from pyro_vae.estimators import Estimator
from pyro_vae.networks import Corrupted, GaussianNoise, Masking
from pyro_vae.training import Cyclical, Progress, Schedule
from pyro_vae.training.scheduled import Schedules


class NoValue(Schedule):
    """A schedule of one's own."""

    def __call__(self, progress: Progress) -> float:
        return math.nan


def at(fraction: float) -> Progress:
    return Progress(step=int(1000 * fraction), epoch=10 * fraction, fraction=fraction)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(), {0: 0, 0.05: 0.5, 0.1: 1, 0.5: 1, 1: 1}),
        (Linear(duration=1), {0: 0, 0.25: 0.25, 1: 1}),
        (Linear(1.0, 0.2, duration=0.5), {0: 1, 0.25: 0.6, 0.5: 0.2, 1: 0.2}),
        (Linear(4.0, 4.0), {0: 4, 0.05: 4, 1: 4}),
        (Cosine(), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 1: 0}),
        (Cosine(final=0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
        (Cosine(warmup=0.2), {0: 1e-3, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1: 0}),
        (Cosine(warmup=0.5, final=0.5), {0.25: 0.5, 0.5: 1, 0.75: 0.75, 1: 0.5}),
        (Linear(steps=500), {0: 0, 0.25: 0.5, 0.5: 1, 1: 1}),  # of 1,000
        (Linear(4.0, 2.0, 0.1, steps=2000), {0: 4, 0.5: 3.5, 1: 3}),
        (Cyclical(), {0: 0, 0.0625: 0.5, 0.125: 1, 0.2: 1, 0.25: 0, 0.5625: 0.5, 0.875: 1, 1: 1}),
        (Cyclical(2, ratio=1.0, start=1.0, end=3.0), {0: 1, 0.25: 2, 0.5: 1, 0.75: 2, 1: 3}),
        (Cyclical(1, ratio=0.25), {0.125: 0.5, 0.25: 1, 0.9: 1, 1: 1}),
    ],
    ids=str,
)
def test_values(schedule: Schedule, values: dict[float, float]) -> None:
    for fraction, value in values.items():
        assert schedule(at(fraction)) == pytest.approx(value, abs=1e-12), fraction


@given(st.floats(0, 1), st.floats(1e-3, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_linear_stays_between_its_ends(fraction: float, duration: float, start: float, end: float) -> None:
    value = Linear(start, end, duration)(at(fraction))
    assert min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9
    assert Linear(start, end, duration)(at(1.0)) == pytest.approx(end, abs=1e-9)


@pytest.mark.parametrize("step", [0, 1, 4_321, 9_899, 9_900, 9_901, 500_000])
def test_the_annealing_of_the_flows_paper(step: int) -> None:
    place = Progress(step, epoch=step / 1000, fraction=min(step / 500_000, 1.0))
    assert Linear(0.01, steps=9_900)(place) == pytest.approx(min(1.0, 0.01 + step / 10_000), abs=1e-12)


@given(st.floats(0.001, 0.999), st.integers(1, 9), st.floats(0.01, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_cyclical_repeats(fraction: float, num_cycles: int, ratio: float, start: float, end: float) -> None:
    """Each cycle is a Linear of its own."""
    schedule = Cyclical(num_cycles, ratio, start, end)
    expected = Linear(start, end, ratio)(at(fraction))
    for cycle in range(num_cycles):
        assert schedule(at((cycle + fraction) / num_cycles)) == pytest.approx(expected, abs=1e-9)
    assert schedule(at(1.0)) == pytest.approx(end, abs=1e-9)


@given(st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 1))
def test_cosine_is_a_factor(fraction: float, warmup: float, final: float) -> None:
    """Never above the optimizer's own rate, and never nothing while it warms up."""
    schedule = Cosine(warmup, final)
    value = schedule(at(fraction))
    assert 0 <= value <= 1
    assert math.isfinite(value)
    if fraction < warmup:
        assert value >= 1e-3
    assert schedule(at(1.0)) == pytest.approx(final, abs=1e-9)


def test_depends_on_the_fraction_alone() -> None:
    for schedule in (Linear(), Cosine(warmup=0.1), Cyclical()):
        assert schedule(Progress(1, 1.0, 0.05)) == schedule(Progress(700, 3.5, 0.05))


def test_or_on_the_steps_alone() -> None:
    schedule = Linear(steps=1000)
    assert schedule(Progress(70, 1.0, 0.05)) == schedule(Progress(70, 3.5, 0.9)) == 0.07


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Linear, {"duration": 0.0}, r"duration is a fraction of the epochs in \(0, 1\]; got 0\.0"),
        (Linear, {"duration": -0.1}, r"got -0\.1"),
        (Linear, {"duration": math.nan}, "got nan"),
        (Linear, {"start": math.nan}, "start has to be a finite number; got nan"),
        (Cyclical, {"end": math.inf}, "end has to be a finite number; got inf"),
        (Cosine, {"final": -0.1}, r"final has to be a finite number of at least 0; got -0\.1"),
        (Linear, {"duration": 10_000}, r"got 10000\. A number of steps is steps=\.\.\."),
        (Linear, {"steps": 0}, "steps has to be a whole number of at least 1; got 0"),
        (Cosine, {"warmup": 1.0}, r"warmup has to be a finite number of at least 0 and below 1; got 1\.0"),
        (Cosine, {"warmup": -0.1}, r"got -0\.1"),
        (Cosine, {"warmup": math.nan}, "got nan"),
        (Cyclical, {"ratio": 0.0}, r"ratio has to be a finite number above 0 and at most 1; got 0\.0"),
        (Cyclical, {"ratio": math.nan}, "got nan"),
        (Cyclical, {"num_cycles": 0}, "num_cycles has to be a whole number of at least 1; got 0"),
    ],
)
def test_refuses(make: Callable[..., Schedule], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_schedules_are_abstract_or_final() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Schedule()  # type: ignore[abstract]
    assert repr(Linear(0.1, 1.0, 0.2)) == "Linear(start=0.1, end=1.0, duration=0.2, steps=None)"


# What they move


class Buffers(nn.Module):
    """Buffers of several kinds, and one level under two names."""

    temperature: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("mean", torch.zeros(1))
        self.also = Masking(0.1)
        self.encoder = Corrupted(nn.Linear(2, 2), self.also)
        self.noise = GaussianNoise(0.1)


def moving(given: dict[str, Any], pair: nn.Module | None = None, estimator: Estimator | None = None) -> Schedules:
    return Schedules(pair or Buffers(), estimator or SGVB_B(beta=0.3), given)


def test_buffers_and_numbers_follow_their_schedules_in_place() -> None:
    module = Buffers()
    held = module.temperature
    schedules = moving({"temperature": Linear(1.0, 3.0, 1.0), "beta": Linear(0.0, 0.5, 1.0)}, module)
    beta = schedules.at["beta"]
    for fraction in (0.0, 0.25, 1.0):
        schedules.move(at(fraction))
        assert held.item() == schedules.buffers["temperature"].item() == pytest.approx(1 + 2 * fraction, abs=1e-12)
        assert beta.item() == pytest.approx(0.5 * fraction)
    assert held is module.temperature
    assert beta is schedules.at["beta"]
    module.temperature = torch.tensor(9.0)  # one that the module replaces
    schedules.move(at(0.5))
    assert module.temperature.item() == 2
    moving({"also.level": Linear(0.5, 0.5)}, module).move(at(0.0))
    assert module.encoder.corruption.level.item() == 0.5


def test_numbers_of_the_estimator() -> None:
    """As they are without a schedule; its own schedules; and the number that fit is given."""
    assert moving({}).at == {"beta": torch.tensor(0.3)}
    assert moving({"beta": 2}).at["beta"].dtype == torch.float32
    tensor = torch.tensor(0.4)
    assert moving({}, estimator=SGVB_B(beta=tensor)).at["beta"] is tensor  # which its owner may move
    fixed = moving({"beta": Linear()}, estimator=SGVB_B(beta=tensor))
    fixed.move(at(1.0))
    assert (fixed.at["beta"].item(), tensor.item()) == (1.0, pytest.approx(0.4))
    capacity = moving({}, estimator=Capacity(Linear(0.0, 3.0, 1.0)))
    capacity.move(at(0.5))
    assert capacity.at["capacity"].item() == 1.5
    assert "beta" not in capacity.at


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.corruption.levels", r"Buffers has no such buffer; the nearest are encoder\.corruption\.level"),
        ("corruption.level", r"no such buffer; the nearest are .*encoder\.corruption\.level"),
        ("0", "no such buffer; the nearest are temperature"),
        ("betas", "no such buffer; the nearest are beta"),
        ("encoder.network.weight", "is a parameter: the optimizer moves it"),
        ("mean", r"one floating-point number; the buffer 'mean' has shape \[1\] and dtype torch.float32"),
        ("count", r"the buffer 'count' has shape \[\] and dtype torch.int64"),
    ],
)
def test_what_no_schedule_moves(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moving({name: Linear()})
    with pytest.raises(ValueError, match="Linear has no such buffer; it has none that is one number"):
        moving({"level": Linear()}, nn.Linear(1, 1))


def test_names_of_two_things() -> None:
    module = Buffers()
    module.register_buffer("beta", torch.ones(()))
    assert moving({}, module).buffers == {}
    with pytest.raises(ValueError, match="'beta' is a number of the estimator and a buffer of the pair"):
        moving({"beta": Linear()}, module)
    moving({"beta": Linear(0.2, 0.2)}, module, WakeSleep()).move(at(0.0))
    assert module.beta.item() == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"two of schedules name the same buffer, of also.level, encoder.corr"):
        moving({"also.level": Linear(), "encoder.corruption.level": Linear()})


def test_a_schedule_out_of_range() -> None:
    module, level = Buffers(), "encoder.corruption.level"
    schedules = moving({level: Linear(0.5, -0.5, duration=1.0)}, module)
    schedules.move(at(0.5))
    message = r"encoder\.corruption\.level after 10 epochs: level .* number of at least 0 and at most 1; got -0.5"
    with pytest.raises(ValueError, match=message):
        schedules.move(at(1.0))
    assert module.encoder.corruption.level.item() == 0.0
    moving({"noise.level": Linear(2.0, 2.0)}, module).move(at(0.0))
    assert module.noise.level == 2
    with pytest.raises(ValueError, match="the schedule of temperature gives nan after 0 epochs"):
        moving({"temperature": NoValue()}).move(at(0.0))
    with pytest.raises(ValueError, match=r"the schedule of beta after 0 epochs: .*got -1\.0"):
        moving({"beta": Linear(-1.0)}).values(at(0.0))
    for beta in (0.5, Linear()):
        with pytest.raises(ValueError, match="no beta weighs"):
            moving({"beta": beta}, estimator=WakeSleep()).values(at(0.0))
    with pytest.raises(ValueError, match=r"got -0\.5"):
        moving({"beta": -0.5})
