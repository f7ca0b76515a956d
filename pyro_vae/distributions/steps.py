"""Sequences as one event: steps that are independent, a Markov chain of normals, steps given those before them.

A datum may have fewer steps than others of its batch, or miss some. What stands there counts nothing, whatever it is,
and neither has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyro_vae._checks import checked, held, is_dense, shown, whole
from pyro_vae.distributions.base import Sized, broadcast, expandable, validated
from pyro_vae.distributions.supports import some_value

#: Parameters ``(loc, scale)`` of the steps behind ``previous: [*, S, L]``, the first of which is step t (from 0).
Conditional = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class Present(Sized, TorchDistribution):
    """A distribution of which some of the batch is not there: :math:`\\log p = 0`, at any value.

    Unlike under a mask the value there is not even looked at: it may be NaN, and its gradient is zero. What is not
    there is drawn as 0.

    Args:
        base_dist: of batch shape ``[*]``.
        present: ``[*]``, booleans.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)

    def __init__(self, base_dist: Any, present: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(base_dist.batch_shape, present.shape)
        self.base_dist = base_dist.expand(shape)
        self.present = present
        super().__init__(shape, base_dist.event_shape)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Present:
        return Present(self.base_dist.expand(expandable(self, batch_shape)), self.present)

    @property
    def whole(self) -> Any:
        """The same of which all is there."""
        return self.base_dist

    def _only(self, value: Tensor, otherwise: Tensor | None = None) -> Tensor:
        present = self.present.reshape(*self.present.shape, *(1 for _ in self.event_shape))
        return torch.where(present, value, value.new_zeros(()) if otherwise is None else otherwise)

    def filled(self, value: Tensor) -> Tensor:
        """The value, with one of the support where nothing is."""
        return self._only(value, some_value(self.base_dist, value))

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.base_dist.log_prob(self.filled(value))
        return torch.where(self.present, log_prob, log_prob.new_zeros(()))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._only(self.base_dist.rsample(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._only(self.base_dist.sample(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self._only(self.base_dist.mean)

    @property
    def mode(self) -> Tensor:
        return self._only(self.base_dist.mode)

    @property
    def variance(self) -> Tensor:
        return self._only(self.base_dist.variance)


class _Sequence(Sized, TorchDistribution):
    """What sequences share: where in an event the steps lie.

    Args:
        batch_shape: ``[*]``.
        num_steps: T.
        step_shape: event shape of one step.
        axis: the dimension of an event that counts its steps: 0 in ``[T, *step]``, 1 in an image ``[C, T, W]`` of rows.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)

    def __init__(self, batch_shape: Size, num_steps: int, step_shape: Size, axis: int) -> None:
        self.axis = axis
        event_shape = Size((*step_shape[:axis], num_steps, *step_shape[axis:]))
        held(f"sequences of {num_steps:,} steps", batch_shape.numel() * event_shape.numel())
        super().__init__(batch_shape, event_shape)

    def _steps(self, value: Tensor) -> Tensor:
        """``[*, *event]`` as ``[*, T, *step]``."""
        events = len(self.event_shape)
        return value.movedim(self.axis - events, -events) if self.axis else value

    def _event(self, steps: Tensor) -> Tensor:
        """The inverse of :meth:`_steps`."""
        events = len(self.event_shape)
        return steps.movedim(-events, self.axis - events) if self.axis else steps


class Steps(_Sequence):
    r"""Steps that are independent given their parameters, :math:`\log p(x) = \sum_t \log p_t(x_t)`, as one event.

    Args:
        base_dist: of one step, with batch shape ``[*, T]``.
        present: ``[*, T]``, booleans; by default all steps are there.
        axis: the dimension of an event that counts its steps.
    """

    def __init__(
        self, base_dist: Any, present: Tensor | None = None, axis: int = 0, validate_args: bool | None = None
    ) -> None:
        _check_present(present, base_dist.batch_shape[-1] if base_dist.batch_shape else 1)
        self.base_dist = base_dist if present is None else Present(base_dist, present)
        *batch, count = self.base_dist.batch_shape
        super().__init__(Size(batch), count, base_dist.event_shape, axis)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        return constraints.independent(self.base_dist.support, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Steps:
        shape = expandable(self, batch_shape)
        return Steps(self.base_dist.expand((*shape, self.base_dist.batch_shape[-1])), axis=self.axis)

    @property
    def whole(self) -> Steps:
        """The same of which all steps are there."""
        return Steps(self.base_dist.whole, axis=self.axis) if isinstance(self.base_dist, Present) else self

    def filled(self, value: Tensor) -> Tensor:
        """The value, with one of the support at the steps that are not there."""
        if not isinstance(self.base_dist, Present):
            return value
        return self._event(self.base_dist.filled(self._steps(value)))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(self._steps(value)).sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._event(self.base_dist.rsample(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self._event(self.base_dist.sample(sample_shape))

    @property
    def mean(self) -> Tensor:
        return self._event(self.base_dist.mean)

    @property
    def mode(self) -> Tensor:
        return self._event(self.base_dist.mode)

    @property
    def variance(self) -> Tensor:
        return self._event(self.base_dist.variance)


class MarkovNormal(_Sequence):
    r"""A path of latents, each normal given the one before it.

    .. math:: z_1 \sim \mathcal N(\mathrm{loc}, \mathrm{scale}^2), \qquad
        z_t \sim \mathcal N(\mathrm{loc}_t(z_{t-1}), \mathrm{scale}_t(z_{t-1})^2), \quad t = 2, \dots, T

    A draw takes T evaluations of the conditional, one after the other, and a score one for all steps at once; the score
    of its own last draw is known. Steps that are not there are 0, and have no density.

    Args:
        loc, scale: of the first step, ``[*, L]``; without a conditional those of all, ``[*, T, L]``.
        num_steps: T.
        conditional: ``(previous: [*, S, L], t)`` to loc and scale of the steps t, ..., t + S - 1, counted from 0.
        present: ``[*, T]``, booleans, of each row the first ones; by default all steps are there.

    Raises:
        ValueError: if ``num_steps`` is below 1, or the shapes do not fit.

    Source: Krishnan, Shalit & Sontag (2017), section 4.
    """

    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    @checked
    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        num_steps: int,
        conditional: Conditional | None = None,
        present: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        whole(1, num_steps=num_steps)
        self.loc, self.scale = broadcast(loc=loc, scale=scale)
        wanted = ("L",) if conditional is not None else (num_steps, "L")
        if self.loc.dim() < len(wanted) or (conditional is None and self.loc.shape[-2] != num_steps):
            raise ValueError(
                f"loc and scale of a MarkovNormal of {num_steps} steps have to be [*, {', '.join(map(str, wanted))}]; "
                f"got {list(self.loc.shape)}."
            )
        _check_present(present, num_steps)
        self.num_steps, self.conditional, self.present = num_steps, conditional, present
        self._drawn: tuple[Tensor, Tensor, Tensor] | None = None  # with loc and scale of each step
        shape = self.loc.shape[: -1 if conditional is not None else -2]
        if present is not None:
            shape = torch.broadcast_shapes(shape, present.shape[:-1])
        super().__init__(shape, num_steps, self.loc.shape[-1:], 0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MarkovNormal:
        tail = self.loc.shape[-1 if self.conditional is not None else -2 :]
        loc, scale = (value.expand(*expandable(self, batch_shape), *tail) for value in (self.loc, self.scale))
        return MarkovNormal(loc, scale, self.num_steps, self.conditional, self.present)

    def _only(self, value: Tensor) -> Tensor:
        return value if self.present is None else torch.where(self.present.unsqueeze(-1), value, value.new_zeros(()))

    def _walk(self, noise: Tensor | None) -> Tensor:
        """A path by its noise, ``[*, T, L]``, or that of all means."""
        loc, scale = self.loc, self.scale
        if self.conditional is None:
            path = loc if noise is None else loc + scale * noise
        else:
            found: list[tuple[Tensor, ...]] = []
            for t in range(self.num_steps):
                if t:
                    loc, scale = (part.squeeze(-2) for part in self.conditional(found[-1][0].unsqueeze(-2), t))
                z = loc if noise is None else loc + scale * noise[..., t, :]
                found.append((z, *torch.broadcast_tensors(loc, scale, z)[:2]))
            path, loc, scale = (torch.stack(parts, -2) for parts in zip(*found, strict=True))
        path = self._only(path)
        self._drawn = (path, loc, scale) if noise is not None else self._drawn
        return path

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self._walk(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def _parameters(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """loc and scale of each step, given the value of the one before it."""
        if self.conditional is None:
            return self.loc, self.scale
        if self._drawn is not None and self._drawn[0] is value:
            _, loc, scale = self._drawn
            if loc.requires_grad or not torch.is_grad_enabled():  # else it was drawn without a graph
                return loc, scale
        parts: list[tuple[Tensor, ...]] = [(self.loc.unsqueeze(-2), self.scale.unsqueeze(-2))]
        if self.num_steps > 1:
            parts.append(torch.broadcast_tensors(*self.conditional(self._only(value)[..., :-1, :], 1)))
        leading = torch.broadcast_shapes(*(part.shape[:-2] for part, _ in parts))
        loc, scale = (
            torch.cat([part.expand(*leading, *part.shape[-2:]) for part in each], -2)
            for each in zip(*parts, strict=True)
        )
        return loc, scale

    def log_prob(self, value: Tensor) -> Tensor:
        held = validated(self, self._only(value) if isinstance(value, Tensor) else value)
        loc, scale = self._parameters(value)
        return self._only(dist.Normal(loc, scale, validate_args=False).log_prob(held)).sum((-2, -1))

    @property
    def center(self) -> Tensor:
        """The path of means, each given the one before it: the mean where the conditional is linear."""
        return self._walk(None)


def _check_present(present: Tensor | None, num_steps: int) -> None:
    if present is None:
        return
    if not is_dense(present) or present.dtype != torch.bool or present.shape[-1:] != (num_steps,):
        found = f"{list(present.shape)} of {present.dtype}" if isinstance(present, Tensor) else shown(present)
        raise ValueError(
            f"present tells by booleans which of {num_steps} steps are there, [*, {num_steps}]; got {found}."
        )


class Unrolled(Protocol):
    """What an :class:`Autoregressive` is of: each step given those before it, and a context."""

    def example(self) -> Any:
        """The distribution of some step, of which support and event shape are read."""

    def conditionals(self, steps: Tensor, context: Tensor) -> Any:
        """The distribution of each step, with batch shape ``[*, T]``, for ``steps: [*, T, *step]``."""

    def unroll(self, context: Tensor, num_steps: int, pick: Callable[[Any], Tensor]) -> Tensor:
        """``[*, T, *step]``: what ``pick`` takes of the distribution of each step, given what it took before."""


class Autoregressive(_Sequence):
    r"""Steps given those before them, as one event: :math:`\log p(x \mid c) = \sum_t \log p(x_t \mid x_{<t}, c)`.

    Args:
        unrolled: gives the distribution of a step.
        context: c, ``[*, C]``.
        num_steps: T.
        present: ``[*, T]``, booleans, of each row the first ones; by default all steps are there.
        axis: the dimension of an event that counts its steps.
    """

    def __init__(
        self,
        unrolled: Unrolled,
        context: Tensor,
        num_steps: int,
        present: Tensor | None = None,
        axis: int = 0,
        validate_args: bool | None = None,
    ) -> None:
        _check_present(present, num_steps)
        self.unrolled, self.context, self.num_steps, self.present = unrolled, context, num_steps, present
        step = unrolled.example()
        self._support = constraints.independent(step.support, 1)
        shape = context.shape[:-1]
        if present is not None:
            shape = torch.broadcast_shapes(shape, present.shape[:-1])
        super().__init__(shape, num_steps, step.event_shape, axis)

    @property
    def support(self) -> Any:
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        context = self.context.expand(*expandable(self, batch_shape), -1)
        return Autoregressive(self.unrolled, context, self.num_steps, self.present, self.axis)

    @property
    def whole(self) -> Autoregressive:
        """The same of which all steps are there."""
        return Autoregressive(self.unrolled, self.context, self.num_steps, axis=self.axis)

    def filled(self, value: Tensor) -> Tensor:
        """The value, with 0 at the steps that are not there."""
        steps = self._steps(value)
        if self.present is not None:
            present = self.present.reshape(*self.present.shape, *(1 for _ in self.event_shape[1:]))
            steps = torch.where(present, steps, steps.new_zeros(()))
        return self._event(steps)

    def log_prob(self, value: Tensor) -> Tensor:
        steps = self._steps(self.filled(value))
        return Steps(self.unrolled.conditionals(steps, self.context), self.present).log_prob(steps)

    def _picked(self, context: Tensor, pick: Callable[[Any], Tensor]) -> Tensor:
        return self.filled(self._event(self.unrolled.unroll(context, self.num_steps, pick)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            batch = self._extended_shape(sample_shape)[: -len(self.event_shape)]
            return self._picked(self.context.expand(*batch, -1), lambda p: p.sample())

    @property
    def mode(self) -> Tensor:
        """Of each step the mode, or else the mean, given those before it: no mode of the sequence, but near one."""

        def most(p: Any) -> Tensor:
            try:
                return p.mode
            except NotImplementedError:
                return p.mean

        return self._picked(self.context.expand(*self.batch_shape, -1), most)
