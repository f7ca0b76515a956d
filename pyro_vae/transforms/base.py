"""What a step of a flow is: two stateless methods; and the bijection that it is for one context."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn import functional as F

from pyro_vae._checks import is_tensor, shown, whole
from pyro_vae._recipes import Remembered
from pyro_vae.networks import at_least_float32, check_fits


class Step(Remembered, nn.Module):
    r"""A step of a normalizing flow: ``step(context)`` gives a :class:`Bijection` of :math:`\mathbb R^D`.

    The bijection acts on the last dimension, ``z: [*, D] -> y: [*, D]``, and can score any given value. A step of one's
    own gives its two directions, :meth:`call_and_ladj` and :meth:`inverse_and_ladj`. Its :class:`Parameters`, if it has
    any, are its ``numbers``; a step that computes more of a context than they do says so by :meth:`theta`.

    Args:
        latent_dim: D.
        context_dim: ``None`` for a step with parameters of its own, the same for all data; C for parameters that
            depend on ``context: [*, B, C]`` (amortized), which broadcasts against the leading dimensions of z.

    Raises:
        ValueError: if a size is below 1. When called: if a context is missing, of another size, or not wanted.

    >>> class Scaling(Step):
    ...     def __init__(self, latent_dim, context_dim=None):
    ...         super().__init__(latent_dim, context_dim)
    ...         self.numbers = Parameters([torch.zeros(latent_dim)], context_dim)
    ...     def call_and_ladj(self, z, theta):
    ...         (log_scale,) = theta
    ...         y = z * log_scale.exp()
    ...         return y, log_scale.sum(-1).expand(y.shape[:-1])
    ...     def inverse_and_ladj(self, y, theta):
    ...         return self.call_and_ladj(y, [-part for part in theta])
    >>> Scaling(2)()(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    numbers: Parameters | None

    def __init__(self, latent_dim: int, context_dim: int | None = None) -> None:
        super().__init__()
        whole(latent_dim=latent_dim)
        if context_dim is not None:
            whole(context_dim=context_dim)
        self.latent_dim, self.context_dim = latent_dim, context_dim
        self.latent_shape: tuple[int, ...] = (latent_dim,)
        self.numbers = None

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, context_dim={self.context_dim}"

    def theta(self, context: Tensor | None) -> Any:
        """What the two directions are given of a context that fits, computed once for both.

        By default the parts of ``numbers``, :meth:`constrained`; or, of a step that has none, the context itself,
        ``[*, B, context_dim]``.
        """
        return context if self.numbers is None else self.constrained(*self.numbers(context))

    @staticmethod
    def constrained(*parts: Tensor) -> tuple[Tensor, ...]:
        """What the parts of ``numbers`` become before they are used: by default what they are.

        Args:
            parts: ``[*, *part]`` each. The leading dimensions stay as they are: of several steps of one class that have
                parameters of their own all are computed at once. That is why no step is given.
        """
        return parts

    @abstractmethod
    def call_and_ladj(self, z: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        r"""y = f(z) and :math:`\log |\det \partial y / \partial z|` (required).

        Args:
            z: ``[*, D]``.
            theta: what :meth:`theta` gave, of leading dimensions that broadcast against those of z.

        Returns:
            y, ``[*, D]``, and its log-determinant, ``[*]``.
        """

    @abstractmethod
    def inverse_and_ladj(self, y: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        r"""z = :math:`f^{-1}(y)` and :math:`\log |\det \partial z / \partial y|` (required).

        That is minus the log-determinant that :meth:`call_and_ladj` gives at z.
        """

    def forward(self, context: Tensor | None = None) -> Bijection:
        if context is not None and not is_tensor(context):
            raise TypeError(f"the context of a {type(self).__name__} is a dense tensor; got {shown(context)}.")
        given = None if context is None else context.shape[-1] if context.dim() else 0
        if given != self.context_dim:
            needs = f"needs a context of shape [*, B, {self.context_dim}]"
            raise ValueError(
                f"this {type(self).__name__} {needs if self.context_dim else 'has parameters of its own, no context'}; "
                f"got {'none' if context is None else list(context.shape)}. Build it with context_dim={given}, or give "
                "it the context that it was built for."
            )
        try:
            return Bijection(self, self.theta(context))
        except RuntimeError as error:
            if context is not None:
                check_fits(self, context, error)
            raise


class Bijection(Transform):
    """A step for one context, or its inverse: a torch ``Transform`` that remembers nothing.

    Anything that takes a ``Transform`` takes it, such as Pyro's ``TransformedDistribution``, which then scores its own
    draws by the inverse, as any value; :class:`~pyro_vae.transforms.NormalizingFlow` scores them as they were made.
    The step's ``latent_shape`` says which of the last dimensions are one latent.
    """

    bijective = True

    def __init__(self, step: Step, theta: Any, inverted: bool = False) -> None:
        super().__init__()
        self.step, self.theta, self.inverted = step, theta, inverted
        self.domain = self.codomain = constraints.independent(constraints.real, len(step.latent_shape))

    @property
    def inv(self) -> Bijection:
        return Bijection(self.step, self.theta, not self.inverted)

    def call_and_ladj(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""y = f(z) and :math:`\log |\det \partial y / \partial z|`."""
        if not is_tensor(z):
            raise TypeError(f"a {type(self.step).__name__} step takes a dense tensor of numbers; got {shown(z)}.")
        self.forward_shape(z.shape)
        try:
            return (self.step.inverse_and_ladj if self.inverted else self.step.call_and_ladj)(z, self.theta)
        except RuntimeError as error:
            check_fits(self.step, z, error)
            raise

    def inverse_and_ladj(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`z = f^{-1}(y)` and :math:`\log |\det \partial z / \partial y|`."""
        return self.inv.call_and_ladj(y)

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_ladj(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def forward_shape(self, shape: Sequence[int]) -> Sequence[int]:
        wanted = self.step.latent_shape
        given = tuple(shape[-len(wanted) :])
        if given != wanted:
            raise ValueError(
                f"this step was built for latents of shape [*, {', '.join(map(str, wanted))}]; got {list(shape)}. "
                f"Build it with latent_dim={math.prod(given)}, or give it the right latent."
            )
        return shape

    inverse_shape = forward_shape


class Parameters(nn.Module):
    """The numbers of a step, in parts: free, or linear in a context, ``[*, C]``, with the same start.

    Called with the context they give each part, ``[*, *part]``.

    Args:
        parts: what each starts at, together in the parameter ``start``; a context changes it little at first.
        context_dim: C, or ``None``.
    """

    def __init__(self, parts: Sequence[Tensor], context_dim: int | None) -> None:
        super().__init__()
        self.shapes = [part.shape for part in parts]
        self.start = nn.Parameter(torch.cat([part.flatten() for part in parts]))
        self.weight = None if context_dim is None else nn.Parameter(0.01 * torch.randn(len(self.start), context_dim))

    def forward(self, context: Tensor | None) -> tuple[Tensor, ...]:
        numbers: Tensor = self.start
        if context is not None and self.weight is not None:
            numbers = at_least_float32(F.linear(context, self.weight, self.start))
        return self.parts(numbers)

    def parts(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """``[*, all numbers]`` -> each part, ``[*, *part]``."""
        parts = numbers.split([shape.numel() for shape in self.shapes], -1)
        return tuple(part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True))


def broadcast(z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """``[*, D], [*, C]``, each with the leading dimensions that the two have together."""
    leading = torch.broadcast_shapes(z.shape[:-1], context.shape[:-1])
    return z.expand(*leading, -1), context.expand(*leading, -1)
