"""The optimizer's step in one graph with the gradients: what it is outside of one, and where it stays there."""

from __future__ import annotations

import functools
import types
from typing import Any

import pyro.optim
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import compiled as compiled_module
from pyro_vae import fit
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE
from pyro_vae.training import Linear, NonFiniteError, Run, TrainingStep, WeightPrior, trainer, update

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
SGD = functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True)
Schedulers = torch.optim.lr_scheduler


@pytest.fixture
def updated(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step had the optimizer's with it; the graphs that inductor is given run as they are."""
    noted: list[bool] = []
    call = TrainingStep.__call__

    def noting(self: TrainingStep, *args: Any, **kwargs: Any) -> Any:
        objective = call(self, *args, **kwargs)
        noted.append(self.updated)
        return objective

    monkeypatch.setattr(TrainingStep, "__call__", noting)
    monkeypatch.setattr(compiled_module, "_has_compiler", lambda module: True)
    monkeypatch.setattr(compiled_module, "compiled_by_inductor", lambda graph, flat: torch.fx.Interpreter(graph).run)
    return noted


def trained(compile: Any, double: bool = False, **options: Any) -> Run:
    torch.manual_seed(0)
    x = (torch.rand(70, 12) < 0.3).double()
    pair = MLPVAE((12,), 2, hidden=(8,), activation=nn.ReLU)
    options = {"optimizer": ADAM, "epochs": 4, "batch_size": 20, "progress": False, **options}
    data: Any = x if double else x.float()
    data = (Split(data), Split(data[:30])) if options.pop("valid", False) else data
    return fit(pair.double() if double else pair, data, compile=compile, **options)


WITHIN: dict[str, dict[str, Any]] = {
    "Adam": {},
    "Adam, amsgrad": {"optimizer": functools.partial(ADAM, amsgrad=True, weight_decay=0.1)},
    "AdamW, uphill": {"optimizer": functools.partial(torch.optim.AdamW, lr=1e-3, maximize=True)},
    "SGD, damped": {
        "optimizer": functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9, dampening=0.5, weight_decay=0.1)
    },
    "SGD": {"optimizer": SGD},
    "SGD without a state": {"optimizer": functools.partial(torch.optim.SGD, lr=1e-2)},
    "a rate that is a tensor": {"optimizer": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.01))},
    "groups in another order": {
        "optimizer": lambda p: torch.optim.AdamW([{"params": p[3:], "lr": 1e-3}, {"params": p[:3], "eps": 1e-3}])
    },
    "some parameters": {"optimizer": lambda p: ADAM(p[1:])},
    "clipped": {"clip_norm": 0.5},
    "averaged": {"average": 0.9, "valid": True},
    "schedule": {"scheduler": Linear(1.0, 0.1)},
    "scheduler of torch's": {"scheduler": functools.partial(Schedulers.ExponentialLR, gamma=0.5)},
    "beta": {"beta": Linear(0.0, 1.0)},
    "prior": {"weight_prior": WeightPrior()},
    "of Pyro's": {"optimizer": pyro.optim.Adam({"lr": 1e-2})},
    "of Pyro's, clipped": {"optimizer": pyro.optim.Adam({"lr": 1e-2}, {"clip_norm": 1.0, "clip_value": 0.1})},
}


# Where numbers of float64, such as a rate and its corrections, could meet parameters of float32.
SINGLE = ["Adam", "SGD", "a rate that is a tensor", "clipped", "averaged"]


@pytest.mark.parametrize(
    ("case", "double"), [*((case, True) for case in WITHIN), *((case, False) for case in SINGLE)],
    ids=[*WITHIN, *(f"{case}, float32" for case in SINGLE)],
)  # fmt: skip
def test_is_what_the_optimizer_does(case: str, double: bool, updated: list[bool]) -> None:
    options = WITHIN[case]
    ours = trained("inductor", double, **options)
    assert sum(updated) == 11
    assert not updated[0]
    theirs = trained("eager", double, **options)
    assert sum(updated) == 11
    close = {"rtol": 1e-12, "atol": 1e-13} if double else {"rtol": 1e-4, "atol": 1e-6}
    for one, other in zip(ours.pair.parameters(), theirs.pair.parameters(), strict=True):
        torch.testing.assert_close(one, other, **close)
    for key in ("loss", "learning_rate", *(["valid"] if "valid" in options else [])):
        assert ours.history[-1][key] == pytest.approx(theirs.history[-1][key], rel=1e-5)
    assert all(p.grad is not None for p in ours.pair.parameters())


class Counting(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return super().step(closure)


def hooked(parameters: Any) -> torch.optim.Optimizer:
    optimizer = ADAM(parameters)
    optimizer.register_step_post_hook(lambda *given: None)
    return optimizer


OUTSIDE: dict[str, dict[str, Any]] = {
    "another of torch's": {"optimizer": functools.partial(torch.optim.RMSprop, lr=1e-3)},
    "options that are tensors": {
        "optimizer": lambda p: ADAM(p, betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False)
    },
    "of one's own": {"optimizer": Counting},
    "of Pyro's own": {"optimizer": pyro.optim.ClippedAdam({"lr": 1e-2})},
    "with a hook": {"optimizer": hooked},
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_stays_outside(case: str, updated: list[bool]) -> None:
    run, other = trained("inductor", **OUTSIDE[case]), trained("traced", **OUTSIDE[case])
    assert not any(updated)
    assert run.mode == "inductor"
    for one, same in zip(run.pair.parameters(), other.pair.parameters(), strict=True):
        assert torch.equal(one, same)


def test_options_that_move_take_it_out(updated: list[bool]) -> None:
    one_cycle = functools.partial(Schedulers.OneCycleLR, max_lr=0.01, total_steps=10)  # which moves the momentum
    ours, theirs = (trained(mode, scheduler=one_cycle) for mode in ("inductor", "traced"))
    assert updated[:16] == [False, True, True] + [False] * 13
    for one, same in zip(ours.pair.parameters(), theirs.pair.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-6)


READINGS = "item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"


def test_a_device_is_waited_for_once_for_many_steps(monkeypatch: pytest.MonkeyPatch, updated: list[bool]) -> None:
    """As on a GPU: the optimizer counts its steps there, and losses are read together; the same numbers come out."""
    count = [0]

    def counted(read: Any) -> Any:
        def counting(self: Tensor, *given: Any, **named: Any) -> Any:
            count[0] += not isinstance(self, torch._subclasses.FakeTensor)
            return read(self, *given, **named)

        return counting

    def run(num_data: int) -> Run:
        torch.manual_seed(0)
        x, pair = (torch.rand(num_data, 12) < 0.3).float(), MLPVAE((12,), 2, hidden=(8,), activation=nn.ReLU)
        options: Any = {"optimizer": ADAM, "compile": "inductor", "batch_size": 10, "progress": False}
        count[0] = 0
        return fit(pair, x, epochs=3, average=0.9, scheduler=Linear(1.0, 0.1), **options)

    near = run(640)
    monkeypatch.setattr(update, "_is_far", lambda state: "step" in state)
    monkeypatch.setitem(trainer._AT_ONCE, "cpu", 32)
    for name in READINGS:
        monkeypatch.setattr(Tensor, name, counted(getattr(Tensor, name)))
    far, many = run(640), count[0]
    run(320)
    assert many - count[0] <= 3  # for 3 x 32 steps more
    assert all(updated[2:192])
    for one, same in zip(far.pair.parameters(), near.pair.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-6)
    assert far.history[-1]["loss"] == pytest.approx(near.history[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 32])
def test_nothing_moves_where_the_loss_is_not_finite(
    at_once: int, monkeypatch: pytest.MonkeyPatch, updated: list[bool]
) -> None:
    monkeypatch.setitem(trainer._AT_ONCE, "cpu", at_once)
    pair = MLPVAE((12,), 2, hidden=(8,), activation=nn.ReLU)
    before: list[Tensor] = []

    class Breaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = pair

        def model(self, x: Tensor) -> None:
            pair.model((x > 0.5).float())

        def guide(self, x: Tensor) -> None:
            # The fifth batch has a number that makes the gradients infinite, and not the loss.
            pair.guide(x * torch.where(x.sum() > 1e3, 1e30, 1.0))

    x = (torch.rand(100, 12) < 0.5).float()
    x[80:] = 1e20
    loader = DataLoader(TensorDataset(x), batch_size=20)  # in order
    step = TrainingStep.__call__

    def noting(self: TrainingStep, *args: Any, **kwargs: Any) -> Any:
        before[:] = [p.detach().clone() for p in pair.parameters()]
        return step(self, *args, **kwargs)

    TrainingStep.__call__ = noting  # type: ignore[method-assign]
    try:
        with pytest.raises(NonFiniteError, match=r"epoch 1, step 5; .*parameter with such a gradient: \w"):
            fit(Breaking(), loader, epochs=3, compile="inductor", progress=False, optimizer=ADAM)
    finally:
        TrainingStep.__call__ = step  # type: ignore[method-assign]
    assert len(updated) > 1
    assert updated[-1]
    assert all(torch.equal(p, kept) for p, kept in zip(pair.parameters(), before, strict=True))


@pytest.mark.slow
def test_by_inductor() -> None:
    ours, theirs = (trained(mode, clip_norm=1.0, average=0.9) for mode in ("inductor", "traced"))
    assert ours.mode == "inductor"
    for one, same in zip(ours.pair.parameters(), theirs.pair.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-6)


def _reordered(run: Run, optimizer: torch.optim.Optimizer) -> None:
    for state in optimizer.state.values():
        state.update({key: state.pop(key) for key in sorted(state)})


def _other_rate(run: Run, optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())  # which replaces the groups
    optimizer.param_groups[0]["lr"] = 0.1


def _left_out(run: Run, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][2:]


def _replaced(run: Run, optimizer: torch.optim.Optimizer) -> None:
    layer = next(part for part in run.pair.modules() if isinstance(part, nn.Linear))
    layer.bias = nn.Parameter(layer.bias.detach() + 1)


def _moved(run: Run, optimizer: torch.optim.Optimizer) -> None:
    layer = next(part for part in run.pair.modules() if isinstance(part, nn.Linear))
    layer.register_parameter("weight", layer._parameters.pop("weight"))  # behind the bias


def _cleared(run: Run, optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def _hooked(run: Run, optimizer: torch.optim.Optimizer) -> None:
    optimizer.register_step_pre_hook(lambda one, *given: one.param_groups[0].update(lr=0.1))


@pytest.mark.parametrize(
    "change", [_reordered, _other_rate, _left_out, _replaced, _moved, _cleared, _hooked], ids=lambda one: one.__name__
)
def test_what_a_callback_does_to_it(change: Any, updated: list[bool]) -> None:
    def run(mode: str) -> Run:
        made: list[torch.optim.Optimizer] = []
        optimizer = lambda parameters: made.append(ADAM(parameters)) or made[-1]  # noqa: E731

        def call(run: Run) -> None:
            if len(run.history) == 2:
                change(run, made[0])

        return trained(mode, double=True, optimizer=optimizer, callbacks=[call])

    runs = [run(mode) for mode in ("traced", "inductor", "eager")]
    for first, *others in zip(*(run.pair.parameters() for run in runs), strict=True):
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scheduler", [functools.partial(Schedulers.ExponentialLR, gamma=0.5), Linear(1.0, 0.1)])
def test_a_resumed_run_has_its_learning_rate(scheduler: Any, tmp_path: Any, updated: list[bool]) -> None:
    stops = iter([False, True])  # behind the second epoch, once

    def stop(run: Run) -> None:
        if next(stops, False):
            raise KeyboardInterrupt

    options: dict[str, Any] = {"scheduler": scheduler, "double": True, "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        trained("inductor", out=tmp_path, callbacks=[stop], **options)
    ours, whole = (
        trained("inductor", out=tmp_path, resume=True, callbacks=[stop], **options),
        trained("inductor", **options),
    )
    for one, other in zip(ours.pair.parameters(), whole.pair.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_of_its_own_below_a_scheduler(updated: list[bool]) -> None:
    called: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made = ADAM(parameters)
        step = made.step

        def own(self: Any, closure: Any = None) -> Any:
            called.append(1)
            return step(closure)

        made.step = types.MethodType(own, made)  # type: ignore[method-assign]
        return made

    trained("inductor", optimizer=optimizer, scheduler=functools.partial(Schedulers.ExponentialLR, gamma=0.5))
    assert len(called) == 16


def test_a_part_that_is_a_script_trains() -> None:
    pair = MLPVAE((12,), 2, hidden=(8,), activation=lambda: torch.jit.script(nn.ReLU()))
    fit(pair, torch.rand(40, 12).round(), epochs=1, batch_size=20, progress=False, compile="traced")


def test_a_second_compilation_that_fails(updated: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it the graph that had the optimizer's step is not run without it."""
    compile_, left = compiled_module.compiled_by_inductor, iter([True])

    def once(graph: Any, flat: Any) -> Any:
        if not next(left, False):
            raise RuntimeError("no space is left")
        return compile_(graph, flat)

    monkeypatch.setattr(compiled_module, "compiled_by_inductor", once)
    monkeypatch.setattr(compiled_module, "_RUNS", 0)
    one_cycle = functools.partial(Schedulers.OneCycleLR, max_lr=0.01, total_steps=10)  # whose momentum moves
    with pytest.warns(UserWarning, match="inductor failed"):
        ours = trained("auto", double=True, scheduler=one_cycle, epochs=4)
    theirs = trained("traced", double=True, scheduler=one_cycle, epochs=4)
    for one, other in zip(ours.pair.parameters(), theirs.pair.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
