"""The steps of a flow as modules, of ours, of torch and of Pyro."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform

from pyro_vae import _torch
from pyro_vae.transforms.base import Bijection, Parameters, Step


class Steps(nn.ModuleList):
    """The steps of a flow; called with ``context: [*, B, C]``, they are its transforms.

    Args:
        transforms: each a :class:`~pyro_vae.transforms.Step`, Pyro's ``TransformModule`` or
            ``ConditionalTransformModule``, or a ``Transform`` without parameters, which is held by a module.

    Raises:
        ValueError: if there is none. When called: if a step needs a context and there is none, or one that does not
            fit. Steps with parameters of their own are not given it.
        TypeError: if a step is something else.
    """

    def __init__(self, transforms: Iterable[Any]) -> None:
        super().__init__()
        for step in transforms:
            kinds = (Step, _Plain, ConditionalTransform, Transform)
            is_module = isinstance(step, nn.Module) and isinstance(step, kinds)
            if is_module:
                self.append(step)
            elif isinstance(step, ComposeTransform):
                self.extend(Steps(step.parts))
            elif isinstance(step, Transform):
                self.append(_Plain(step))
            else:
                raise TypeError(
                    f"a step of a flow is a pyro_vae.transforms.Step, a torch or Pyro Transform or a Pyro "
                    f"ConditionalTransformModule; got {type(step).__name__}."
                )
        if not len(self):
            raise ValueError("a Flow needs at least one step; without any it is its base.")

    @property
    def amortized(self) -> bool:
        """Whether a step depends on a context."""
        return any(
            step.context_dim is not None if isinstance(step, Step) else isinstance(step, ConditionalTransform)
            for step in self
        )

    def forward(self, context: Tensor | None = None) -> list[Transform]:
        found = _together(self)
        return [found.get(index) or self._transform(step, context) for index, step in enumerate(self)]

    @staticmethod
    def _transform(step: Any, context: Tensor | None) -> Transform:
        if isinstance(step, Step):
            return step(None if step.context_dim is None else context)
        if isinstance(step, ConditionalTransform):
            if context is None:
                raise ValueError(f"{type(step).__name__} is a conditional transform and needs a context; got none.")
            return step.condition(context)
        return step.transform if isinstance(step, _Plain) else step


def _together(steps: Iterable[Any]) -> dict[int, Bijection]:
    """By their places, the transforms of steps that are alike: what their numbers become is computed at once."""
    alike: dict[Any, list[tuple[int, Any]]] = {}
    for index, step in enumerate(steps):
        if _is_as_written(step):
            start = step.numbers.start
            key = type(step), tuple(step.numbers.shapes), start.shape, start.dtype, start.device
            alike.setdefault(key, []).append((index, step))
    found = {}
    for several in alike.values():
        if len(several) > 1:
            _, first = several[0]
            numbers = torch.stack([step.numbers.start for _, step in several])
            parts = (part.unbind() for part in first.constrained(*first.numbers.parts(numbers)))
            for (index, step), *theta in zip(several, *parts, strict=True):
                found[index] = Bijection(step, tuple(theta))
    return found


def _is_as_written(step: Any) -> bool:
    """Whether a step is called as :class:`Step` is, with numbers of its own."""
    if not isinstance(step, Step) or step.context_dim is not None or type(step.numbers) is not Parameters:
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooked = any(getattr(module, name) for module in (step, step.numbers) for name in hooks)
    own = inspect.getattr_static(step, "constrained")
    computes = isinstance(own, staticmethod) and step.constrained is not Step.constrained
    return computes and not hooked and type(step).forward is Step.forward and type(step).theta is Step.theta


class _Plain(nn.Module):
    """A transform without parameters, such as torch's ``ExpTransform``, as a module; its tensors move with it."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if any(isinstance(value, (nn.Module, nn.Parameter)) for value in vars(transform).values()):
            raise TypeError(
                f"a plain transform among the steps of a flow has no parameters, as they would not be trained; got "
                f"one in a {type(transform).__name__}. Give the module itself (a prior's Flow can invert it)."
            )
        with _torch.forgetful(transform):
            self.transform = copy.deepcopy(transform)

    def extra_repr(self) -> str:
        return repr(self.transform)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Plain:
        super()._apply(fn, recurse)
        for part in _torch.parts_of(self.transform):
            vars(part).update({name: fn(value) for name, value in vars(part).items() if isinstance(value, Tensor)})
        return self
