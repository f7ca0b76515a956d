"""Bounds of log p(x): what the log-weights of a datum are reduced to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_vae._checks import number, warn, whole
from pyro_vae.estimators.facts import Axis

Side = Literal["below", "above", "neither"]


class Bound(Axis, ABC):
    r"""A function L of the log-weights of a datum, :math:`\log w_k = \log p(x, z_k) - \log q(z_k \mid x)`.

    A bound of one's own is :meth:`reduce`, and :attr:`side` where it does not lie below log p(x). What its gradients
    need of it, :meth:`weights` and :meth:`curvature`, follows by automatic differentiation (K times in each step), and
    may be given in closed form.

    Attributes:
        side: of log p(x) on which the expectation of L lies: ``"below"``, ``"above"`` (an upper bound), ``"neither"``.
            (A log of a mean of powers lies above it in the limit alone: at a finite K it falls short of that.)
        linear: whether L is the mean of the log-weights, which is a sum over the sites; then latents may stand outside
            the data plate.
        num_groups: groups of samples over which L is a mean.
    """

    side: Side = "below"
    linear: bool = False
    num_groups: int = 1

    @abstractmethod
    def reduce(self, log_weights: Tensor) -> Tensor:
        """L of each datum, differentiable (required).

        Args:
            log_weights: ``[K, *]``, in nats; the samples of a datum along the first dimension.

        Returns:
            ``[*]``, in nats.
        """

    def weights(self, log_weights: Tensor) -> Tensor:
        r"""``[K, *]``: :math:`c_k = \partial L / \partial \log w_k`, what a sample counts in the gradient of L."""
        with torch.enable_grad():
            leaf = log_weights.detach().requires_grad_()
            return torch.autograd.grad(self.reduce(leaf).sum(), leaf)[0].nan_to_num(0.0)

    def curvature(self, log_weights: Tensor) -> Tensor:
        r"""``[K, *]``: :math:`r_k = \partial \log c_k / \partial \log w_k`, how a weight rises with its log-weight."""
        with torch.enable_grad():
            leaf = log_weights.detach().requires_grad_()
            (weights,) = torch.autograd.grad(self.reduce(leaf).sum(), leaf, create_graph=True)
            if not weights.requires_grad:
                return torch.zeros_like(weights)
            rise = [torch.autograd.grad(c.sum(), leaf, retain_graph=True)[0][k] for k, c in enumerate(weights)]
        return torch.stack(rise) / torch.where(weights == 0, 1.0, weights.detach())

    @property
    def fact(self) -> str:
        """What L bounds, for a table of facts."""
        sides = {"below": "from below", "above": "from above: an upper bound", "neither": "neither side"}
        return f"log p(x), {sides[self.side]}"


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of weights along ``dim``.

    >>> import torch
    >>> from pyro_vae.estimators import log_mean_exp
    >>> log_mean_exp(torch.tensor([1.0, 3.0]).log()).exp()
    tensor(2.)
    """
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def warn_of(who: str, bound: Tensor) -> None:
    """Warns of the data whose bound, ``[B]``, is not finite."""
    broken = int((~bound.isfinite()).sum())
    if broken:
        warn(
            f"{who}: the bound of {broken:,} of {len(bound):,} data is not finite, because a log-weight log p(x, z) - "
            "log q(z | x) is not. `check(pair, *batch)` names the site; a likelihood with a bounded scale, or logits "
            "in place of probabilities, is the usual remedy.",
        )


def normalized(log_weights: Tensor, dim: int = 0) -> Tensor:
    """The weights as shares of their sum along ``dim``; nothing where all are 0."""
    return log_weights.softmax(dim).nan_to_num(0.0)


def grouped(log_weights: Tensor, num_groups: int) -> Tensor:
    """``[M K, *]`` -> ``[M, K, *]``."""
    return log_weights.unflatten(0, (num_groups, -1))


@dataclass(frozen=True)
class Mean(Bound):
    r"""The ELBO, :math:`\frac 1 L \sum_l \log w_l`."""

    linear = True
    fact = "log p(x), from below (ELBO)"

    def reduce(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)


@dataclass(frozen=True)
class ImportanceWeighted(Bound):
    r"""The mean over M groups of :math:`\log \frac 1 K \sum_k w_k`; each of K = ``num_particles`` / M samples.

    Raises:
        ValueError: if ``num_groups`` is below 1.
    """

    num_groups: int = 1

    def __post_init__(self) -> None:
        whole(1, num_groups=self.num_groups)

    @property
    def fact(self) -> str:
        return "log p(x), from below; " + ("tighter with K" if self.num_groups == 1 else "that of IWAE(K)")

    def reduce(self, log_weights: Tensor) -> Tensor:
        if self.num_groups == 1:
            return log_mean_exp(log_weights)
        return log_mean_exp(grouped(log_weights, self.num_groups), 1).mean(0)

    def weights(self, log_weights: Tensor) -> Tensor:
        return self._in_group(log_weights) / self.num_groups

    def curvature(self, log_weights: Tensor) -> Tensor:
        return 1 - self._in_group(log_weights)

    def _in_group(self, log_weights: Tensor) -> Tensor:
        return normalized(grouped(log_weights, self.num_groups), 1).reshape(log_weights.shape)


@dataclass(frozen=True)
class RenyiBound(Bound):
    r"""The variational Renyi bound, :math:`\frac{1}{1 - \alpha} \log \frac 1 K \sum_k w_k^{1 - \alpha}`.

    Raises:
        ValueError: if alpha is 1 or not finite.
    """

    alpha: float

    fact = "log p(x), from below for alpha >= 0; for alpha < 0 neither side at finite K"

    def __post_init__(self) -> None:
        number(alpha=self.alpha)
        if self.alpha == 1:
            raise ValueError(
                "at alpha = 1 the Renyi bound is a limit, the ELBO, which this formula does not give. "
                "Use SGVB_A of as many particles, or SGVB_B."
            )

    @property
    def side(self) -> Side:  # type: ignore[override]
        return "below" if self.alpha >= 0 else "neither"

    def reduce(self, log_weights: Tensor) -> Tensor:
        powers = (1 - self.alpha) * log_weights
        limits = torch.finfo(powers.dtype)
        largest = powers.detach().amax(0).clamp(limits.min, limits.max)
        # By expm1 and log1p, since near alpha = 1 all powers are near 1, and a log of their mean would be rounding.
        return ((powers - largest).expm1().mean(0).log1p() + largest) / (1 - self.alpha)

    def weights(self, log_weights: Tensor) -> Tensor:
        return normalized((1 - self.alpha) * log_weights)

    def curvature(self, log_weights: Tensor) -> Tensor:
        return (1 - self.alpha) * (1 - self.weights(log_weights))


@dataclass(frozen=True)
class Mixture(Bound):
    """A convex combination of two bounds.

    Args:
        share: that of the first, from 0 to 1.
        one, other: the bounds, by default the ELBO and the importance-weighted one.

    Raises:
        ValueError: if the share is outside of [0, 1].
    """

    share: float
    one: Bound = Mean()
    other: Bound = ImportanceWeighted()

    def __post_init__(self) -> None:
        number(0, 1, share=self.share)

    @property
    def side(self) -> Side:  # type: ignore[override]
        return self.one.side if self.one.side == self.other.side else "neither"

    def reduce(self, log_weights: Tensor) -> Tensor:
        return self.share * self.one.reduce(log_weights) + (1 - self.share) * self.other.reduce(log_weights)
