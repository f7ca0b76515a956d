"""What the steps share: their parameters, their checks, and when a remembered pair may be used."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from pyro.distributions.conditional import ConditionalTransform
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform, constraints
from torch.distributions.transforms import _InverseTransform
from torch.nn import functional as F

from pyro_vae._checks import whole
from pyro_vae.networks import at_least_float32


class Bijection(Transform):
    """A bijection of vectors of size ``latent_dim`` that remembers its last pair and the log-determinant there.

    ``_call`` and ``_inverse`` leave the log-determinant in ``_cached_logDetJ``, as Pyro's transforms do. A pair that
    was computed without a graph (``sample()``) is not used once gradients are asked for: the value would be right and
    its gradient with respect to the parameters and the value missing.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    _cached_logDetJ: Any = None

    def __init__(self, latent_dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.latent_dim = latent_dim

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x.shape)
        self._forget_without_graph()
        return super().__call__(x)

    def _inv_call(self, y: Tensor) -> Tensor:
        self._check(y.shape)
        self._forget_without_graph()
        return super()._inv_call(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        self._forget_without_graph()
        x_old, y_old = self._cached_x_y
        if x is not x_old or y is not y_old:
            self(x)
        return self._cached_logDetJ

    def forward_shape(self, shape: Sequence[int]) -> Sequence[int]:
        self._check(shape)
        return super().forward_shape(shape)

    def inverse_shape(self, shape: Sequence[int]) -> Sequence[int]:
        self._check(shape)
        return super().inverse_shape(shape)

    def _check(self, shape: Sequence[int]) -> None:
        if not shape or shape[-1] != self.latent_dim:
            raise ValueError(
                f"this step was built for latents of shape [*, {self.latent_dim}]; got {list(shape)}. "
                f"Build it with latent_dim={shape[-1] if shape else '...'}, or give it the right latent."
            )

    def _forget_without_graph(self) -> None:
        pair = self._cached_x_y
        if torch.is_grad_enabled() and all(value is None or value.grad_fn is None for value in pair):
            self._cached_x_y = None, None


class Step(nn.Module):
    r"""A step of a normalizing flow: ``step(context)`` gives a bijection of :math:`\mathbb R^D`.

    The bijection acts on the last dimension, ``z: [*, D] -> y: [*, D]``, and can score any given value. It is a new
    object at each call and remembers its last pair, so that scoring its own draw costs nothing.

    Args:
        latent_dim: D.
        context_dim: ``None`` for a step with parameters of its own, the same for all data; C for parameters that
            depend on ``context: [*, B, C]`` (amortized), which broadcasts against the leading dimensions of z.

    Raises:
        ValueError: if a size is below 1. When called: if a context is missing, of another size, or not wanted.
    """

    def __init__(self, latent_dim: int, context_dim: int | None = None) -> None:
        super().__init__()
        whole(latent_dim=latent_dim)
        if context_dim is not None:
            whole(context_dim=context_dim)
        self.latent_dim, self.context_dim = latent_dim, context_dim

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, context_dim={self.context_dim}"

    def forward(self, context: Tensor | None = None) -> Transform:
        name = type(self).__name__
        if self.context_dim is None and context is not None:
            raise ValueError(
                f"{name} has parameters of its own (context_dim=None) but was given a context of shape "
                f"{list(context.shape)}. Call it without, or build it with context_dim={context.shape[-1]}."
            )
        if self.context_dim is not None and context is None:
            raise ValueError(
                f"{name} was built with context_dim={self.context_dim}, so it needs a context of shape "
                f"[*, B, {self.context_dim}]; got none. Give it one, or build it with context_dim=None."
            )
        if context is not None and (context.dim() < 1 or context.shape[-1] != self.context_dim):
            raise ValueError(
                f"{name} was built for a context of shape [*, B, {self.context_dim}]; got {list(context.shape)}. "
                f"Build it with the context_dim that the network gives."
            )
        return self._transform(context)

    @abstractmethod
    def _transform(self, context: Tensor | None) -> Transform:
        """The bijection for a context that fits."""


class Parameters(nn.Module):
    """The numbers of a step: free, or linear in a context, ``[*, C] -> [*, P]``, with the same start.

    Args:
        start: ``[P]``, in a parameter of this name; a context changes it little at first.
        context_dim: C, or ``None``.
    """

    def __init__(self, start: Tensor, context_dim: int | None) -> None:
        super().__init__()
        self.start = nn.Parameter(start)
        self.weight = None if context_dim is None else nn.Parameter(0.01 * torch.randn(len(start), context_dim))

    def forward(self, context: Tensor | None) -> Tensor:
        if context is None or self.weight is None:
            return self.start
        return at_least_float32(F.linear(context, self.weight, self.start))


def broadcast(z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """``[*, D], [*, C]``, each with the leading dimensions that the two have together."""
    leading = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
    return z.expand(*leading, -1), context.expand(*leading, -1)


class Plain(nn.Module):
    """A transform without parameters, such as torch's ``ExpTransform``, as a module; its tensors move with it.

    Raises:
        TypeError: if there are parameters inside.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if any(isinstance(value, (nn.Module, nn.Parameter)) for value in vars(transform).values()):
            raise TypeError(
                f"a plain transform among the steps of a flow has no parameters, as they would not be trained; got "
                f"one in a {type(transform).__name__}. Give the module itself (a prior's Flow can invert it)."
            )
        self.transform = _fresh(transform)

    def extra_repr(self) -> str:
        return repr(self.transform)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Plain:
        super()._apply(fn, recurse)
        self.transform = _fresh(self.transform, fn)
        return self


def steps_of(transforms: Sequence[Any]) -> nn.ModuleList:
    """The steps of a flow as modules: a plain ``Transform`` is held by one.

    Raises:
        TypeError: if a step is of no kind that :func:`transform_of` knows.
    """
    steps: list[Any] = []
    for step in transforms:
        if isinstance(step, nn.Module) and isinstance(step, (Step, Plain, ConditionalTransform, Transform)):
            steps.append(step)
        elif isinstance(step, ComposeTransform):
            steps.extend(steps_of(step.parts))
        elif isinstance(step, Transform):
            steps.append(Plain(step))
        else:
            raise _no_step(step)
    return nn.ModuleList(steps)


def transform_of(step: Any, context: Tensor | None = None) -> Transform:
    """The bijection of a step of any kind, for ``context: [*, B, C]``.

    A :class:`Step` that is amortized, and one of Pyro's ``ConditionalTransformModule``, is given the context; a step
    with parameters of its own is not; a plain ``Transform`` (also Pyro's ``TransformModule``) is returned as it is,
    also out of the module :class:`Plain`.

    Raises:
        ValueError: if the context is missing or does not fit.
        TypeError: if ``step`` is none of these.
    """
    if isinstance(step, Step):
        return step(None if step.context_dim is None else context)
    if isinstance(step, ConditionalTransform):
        if context is None:
            raise ValueError(f"{type(step).__name__} is a conditional transform and needs a context; got none.")
        return step.condition(context)
    if isinstance(step, Plain):
        return step.transform
    if isinstance(step, Transform):
        return step
    raise _no_step(step)


def _no_step(step: Any) -> TypeError:
    return TypeError(
        f"a step of a flow is a pyro_vae.transforms.Step, a torch or Pyro Transform or a Pyro "
        f"ConditionalTransformModule; got {type(step).__name__}."
    )


def transforms_of(step: Any, context: Tensor | None = None) -> list[Transform]:
    """The bijections of a step, as :func:`transform_of` gives them, each a new object with a memory of its own.

    A plain transform, and a module of Pyro's, is its own transform and would keep what it remembers from one call to
    the next; it is copied, with the same parameters.
    """
    if isinstance(step, Plain):
        step = step.transform
    transform = transform_of(step, context)
    if transform is not step:
        return [transform]
    if isinstance(transform, ComposeTransform):
        return [fresh for part in transform.parts for fresh in transforms_of(part)]
    return [_fresh(transform)]


def _fresh(transform: Any, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Any:
    """A copy that will remember its last pair and knows none, of parts that are such copies, with the same parameters.

    ``change`` is applied to tensors that are no parameters of a module.
    """
    if isinstance(transform, _InverseTransform):
        return _fresh(transform.inv, change).inv
    fresh = copy.copy(transform)

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, Transform):
            return _fresh(value, change)
        if type(value) in (list, tuple):
            return type(value)(of(part) for part in value)
        if isinstance(value, MethodType) and value.__self__ is transform:
            return MethodType(value.__func__, fresh)
        return value

    fields = {name: of(value) for name, value in vars(transform).items() if name != "_inv"}
    if isinstance(transform, nn.Module):
        fields["_modules"] = {name: of(part) for name, part in transform._modules.items()}
    vars(fresh).update(fields, _inv=None, _cache_size=1, _cached_x_y=(None, None))
    return fresh
