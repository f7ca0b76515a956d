"""Optimizers as users pass them, as one of torch's."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from pyro_vae._pyro import options_of, scheduler_of
from pyro_vae.data import draws

Factory = Callable[[Any], torch.optim.Optimizer]


class Made(NamedTuple):
    """An optimizer of a run.

    Attributes:
        optimizer: moves the parameters.
        scheduler: of its learning rates, stepped once an epoch, where it comes with one.
        clip: is given each parameter that has a gradient, and the tensor that has it, before a step.
    """

    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    clip: Callable[[nn.Parameter, Tensor], Any] | None = None


def made(optimizer: Factory | PyroOptim, parameters: Sequence[nn.Parameter], names: Mapping[int, str]) -> Made:
    """One torch optimizer of the parameters, ``names`` being those of their statements, by id.

    One of ``pyro.optim`` has an optimizer for each parameter; of one with a group for each the updates are the same.
    What it has adapted in another training is not taken over, and it stays as it was.

    Raises:
        TypeError: if a factory makes something else.
        ValueError: if it is LBFGS.
    """
    try:
        if isinstance(optimizer, PyroOptim):
            found = _of_pyro(optimizer, parameters, names)
        else:
            found = Made(optimizer(parameters))
    except (ValueError, TypeError) as error:  # of torch, which does not say of what
        raise ValueError(f"optimizer cannot be made of these options: {str(error).rstrip('.')}.") from error
    if not isinstance(found.optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer made a {type(found.optimizer).__name__} of the parameters; expected a torch optimizer: "
            "optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3)."
        )
    if isinstance(found.optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS evaluates the loss several times a step, which fit does not do; use another one.")
    # What torch's load_state_dict sets, so that an optimizer that has taken up a state is as it was.
    found.optimizer.defaults.setdefault("differentiable", False)
    return found


def _of_pyro(optimizer: PyroOptim, parameters: Sequence[nn.Parameter], names: Mapping[int, str]) -> Made:
    constructor, options, clips = options_of(optimizer)
    if callable(options):
        groups = [{"params": [p], **options(names.get(id(p), ""))} for p in parameters]
        of_torch = constructor(groups)
    else:
        of_torch = constructor(parameters, **options)
    clipped = {id(p): clips(names.get(id(p), "")) for p in parameters}

    def clip(parameter: nn.Parameter, held: Tensor) -> None:
        of_one = clipped[id(parameter)]
        if of_one.get("clip_norm") is not None:
            clip_grad_norm_(held, of_one["clip_norm"])
        if of_one.get("clip_value") is not None:
            clip_grad_value_(held, of_one["clip_value"])

    return Made(of_torch, scheduler_of(optimizer, of_torch), clip if any(clipped.values()) else None)


def step(optimizer: torch.optim.Optimizer) -> None:
    """A step.

    Raises:
        ValueError: if it takes no gradients that are sparse, or none that are not.
    """
    try:
        optimizer.step()
    except RuntimeError as error:
        kind = type(optimizer).__name__
        if not any(words in str(error) for words in ("sparse gradient", "dense gradient")):
            raise
        raise ValueError(
            f"{kind} does not go with these gradients ({error}). Layers with sparse=True have sparse ones and others "
            "do not: SGD and Adagrad take both, SparseAdam needs sparse ones alone, and others take sparse=False."
        ) from error


def load_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """``load_state_dict``, which gives floating tensors the parameters' precision, and then their own again."""
    optimizer.load_state_dict(dict(saved))
    ours = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    theirs = [index for group in saved["param_groups"] for index in group["params"]]
    for parameter, index in zip(ours, theirs, strict=True):
        held = optimizer.state[parameter] if index in saved["state"] else {}
        for name, value in saved["state"].get(index, {}).items():
            if isinstance(value, Tensor) and held[name].dtype != value.dtype:
                held[name] = value.to(held[name].device)


def take_up(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """:func:`load_state` of a file, which may be anybody's.

    Raises:
        TypeError: if the optimizer could not make a step with it.
    """
    begun = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    load_state(optimizer, saved)
    _check_steps(optimizer, begun)


def _check_steps(optimizer: torch.optim.Optimizer, begun: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a loaded state that is none which steps give: of other tensors, or one that a step fails with.

    Copies make a step of gradients that are 0: anew with the options ``begun`` of the groups, anew with those that were
    loaded, and from the state. An optimizer of which no copy can be made anew is not judged.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    devices = list({parameter.device for parameter in parameters if parameter.device.type == "cuda"})
    with draws.Apart(draws.TRIAL, devices=devices):
        try:
            _stepped(optimizer, begun, {})
        except Exception:
            return
        try:
            anew = _stepped(optimizer, optimizer.param_groups, {})
        except Exception as error:
            raise TypeError(f"a step with the options of the optimizer fails: {error}") from error
    # Before a step from it, which crashed the process where a tensor was of another shape.
    for parameter, expected in zip(parameters, anew, strict=True):
        held = optimizer.state.get(parameter, {})
        for name, value in expected.items() if held else ():
            if not isinstance(value, Tensor):
                continue
            found = held.get(name)
            if not isinstance(found, Tensor) or (found.shape, found.dtype) != (value.shape, value.dtype):
                raise TypeError(f"{name} of the optimizer is no {value.dtype} of shape {list(value.shape)}")
            if name == "step" and not (found.isfinite() & (found >= 0)).all():
                raise TypeError("the optimizer has made no whole number of steps")
    with draws.Apart(draws.TRIAL, devices=devices):
        try:
            _stepped(optimizer, optimizer.param_groups, optimizer.state)
        except Exception as error:
            raise TypeError(f"a step from the state of the optimizer fails: {error}") from error


def _stepped(
    optimizer: torch.optim.Optimizer, options: Sequence[Mapping[str, Any]], state: Mapping[Any, Any]
) -> list[dict[str, Any]]:
    """The state of each parameter once a copy of an optimizer has made a step; the optimizer stays as it is."""
    copies = {p: nn.Parameter(torch.zeros_like(p)) for group in optimizer.param_groups for p in group["params"]}
    for parameter in copies.values():
        parameter.grad = torch.zeros_like(parameter)
    groups = [
        {
            **copy.deepcopy({name: value for name, value in option.items() if name != "params"}),
            "params": [copies[p] for p in group["params"]],
        }
        for option, group in zip(options, optimizer.param_groups, strict=True)
    ]
    held = defaultdict(dict, {copies[p]: copy.deepcopy(dict(value)) for p, value in state.items()})
    other = object.__new__(type(optimizer))
    other.__setstate__({"defaults": optimizer.defaults, "state": held, "param_groups": groups})
    other.step()
    return [other.state[parameter] for parameter in copies.values()]
