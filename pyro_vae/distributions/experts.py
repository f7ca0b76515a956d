"""Experts, each of which has seen a part of a datum: their product and their mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, constraints

from pyro_vae._checks import checked, shown
from pyro_vae._torch import has_values
from pyro_vae.distributions.base import Sized, expandable, size_of, validated
from pyro_vae.distributions.wrappers import without_events


@checked(but=("prior",))
def product_of_experts(experts: Sequence[Any], present: Tensor, prior: Any) -> Any:
    r"""The normalized product of a Gaussian prior and of the Gaussian experts that are there; precisions add up.

    .. math:: q \propto p(z) \prod_{m : \text{present}} \mathcal N(z; \mathrm{loc}_m, s_m^2), \qquad
        s^{-2} = s_p^{-2} + \sum_m s_m^{-2}, \quad
        \mathrm{loc} = s^2 \Big(\frac{\mathrm{loc}_p}{s_p^2} + \sum_m \frac{\mathrm{loc}_m}{s_m^2}\Big)

    Args:
        experts: M diagonal Gaussians of batch shape ``[*, B]`` and of one event shape.
        present: ``[*, B, M]``, booleans.
        prior: a diagonal Gaussian of the same event shape.

    Raises:
        TypeError: if one of them is no diagonal Gaussian.
        ValueError: if ``present`` does not tell of each expert.

    Source: Wu & Goodman (2018), Multimodal Generative Models for Scalable Weakly-Supervised Learning, section 2.

    >>> import torch
    >>> from pyro.distributions import Normal
    >>> from pyro_vae.distributions import product_of_experts
    >>> prior = Normal(torch.zeros(1), torch.ones(1)).to_event(1)
    >>> expert = Normal(torch.full((2, 1), 4.0), torch.ones(2, 1)).to_event(1)
    >>> product = product_of_experts([expert], torch.tensor([[True], [False]]), prior)  # there for the first datum
    >>> product.mean.tolist()
    [[2.0], [0.0]]
    """
    loc, scale = _normal(prior, "the prior")
    events = len(prior.event_shape)
    if present.shape[-1:] != (len(experts),) or present.dtype != torch.bool:
        raise ValueError(
            f"present tells by booleans which of {len(experts)} experts are there, [*, {len(experts)}]; got "
            f"{list(present.shape)} of {present.dtype}."
        )
    precision, weighed = scale.square().reciprocal(), loc / scale.square()
    for index, expert in enumerate(experts):
        loc, scale = _normal(expert, f"expert {index + 1}")
        there = present[..., index].reshape(*present.shape[:-1], *(1 for _ in range(events)))
        own = torch.where(there, scale.square().reciprocal(), scale.new_zeros(()))
        precision, weighed = precision + own, weighed + own * loc
    return dist.Normal(weighed / precision, precision.rsqrt()).to_event(events)


def _normal(fn: Any, what: str) -> tuple[Tensor, Tensor]:
    base = without_events(fn)
    if not isinstance(base, Normal):
        raise TypeError(
            f"a product of experts is of diagonal Gaussians, and {what} is a {type(base).__name__}. Take "
            "posteriors.DiagonalNormal and priors.StandardNormal, or a mixture of experts, which may be any."
        )
    return base.loc, base.scale


def _are_shares(weights: Tensor) -> bool:
    ones = (weights.sum(-1) - 1).abs() < 1e-2  # also of half precision
    return bool(((weights >= 0).all(-1) & ones).all())


class MixtureOfExperts(Sized, TorchDistribution):
    r"""The mixture of the experts that are there, all alike, :math:`q(z) = \sum_m w_m \, q_m(z)`.

    A draw is one of an expert, and its score is that of the mixture: importance weights p / q of it average to p(x).
    Draws are reparameterized, since the weights are no parameters.

    Several draws, as particles are, are stratified: particle k of K comes from the expert in whose part of [0, 1) the
    number (k / K + u) mod 1 falls, with u ~ U(0, 1) for each datum. So each draw by itself follows the mixture, and
    each expert gives its share of K, to the next whole number. Means over the draws are unbiased, as those of SGVB,
    IWAE and evidence are, and vary less; gradients that take draws for independent are not, those by a leave-one-out
    baseline and doubly reparameterized ones: these refuse it, and take ``stratified=False``.

    Args:
        experts: M distributions of batch shape ``[*]`` and of one event shape.
        weights: ``[*, M]``, w, which sum to one; an expert of weight 0 is not there.
        stratified: whether several draws are; else each is drawn by itself.

    Raises:
        TypeError: if an expert is no distribution.
        ValueError: if there is none, they differ in their event shapes, or there is not a weight for each, of at
            least 0, or they do not sum to one.

    Source: Shi, Siddharth, Paige & Torr (2019), Variational Mixture-of-Experts Autoencoders, section 3.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)

    @checked
    def __init__(
        self,
        experts: Sequence[Any],
        weights: Tensor,
        stratified: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        for expert in experts:
            if not isinstance(expert, torch.distributions.Distribution):
                raise TypeError(f"an expert has to be a distribution; got {shown(expert)}.")
        events = {tuple(expert.event_shape) for expert in experts}
        if len(events) != 1:
            raise ValueError(f"a mixture is of experts of one event shape; got {len(experts)}, of {sorted(events)}.")
        if weights.shape[-1:] != (len(experts),) or (has_values(weights) and not _are_shares(weights)):
            raise ValueError(
                f"weights of {len(experts)} experts are [*, {len(experts)}], of at least 0, and sum to 1; got "
                f"{shown(weights)}. Divide by weights.sum(-1, keepdim=True)."
            )
        shape = torch.broadcast_shapes(weights.shape[:-1], *(expert.batch_shape for expert in experts))
        self.experts = [expert.expand(shape) for expert in experts]
        self.weights, self.stratified = weights, stratified
        self._own = len(shape)  # dimensions on the left of these are draws
        super().__init__(shape, experts[0].event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return all(expert.has_rsample for expert in self.experts)

    @property
    def support(self) -> constraints.Constraint:
        return self.experts[0].support

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixtureOfExperts:
        shape = torch.Size(map(int, expandable(self, batch_shape)))
        new = MixtureOfExperts([expert.expand(shape) for expert in self.experts], self.weights, self.stratified)
        new._own = self._own
        return new

    def _chosen(self, shape: torch.Size) -> Tensor:
        """``[*shape]``: which expert each draw is of."""
        kind: dict[str, Any] = {"dtype": self.weights.dtype, "device": self.weights.device}
        left = shape[: len(shape) - self._own]
        if self.stratified:
            start = torch.rand(shape[len(left) :], **kind)
            count = math.prod(left)
            place = torch.arange(count, **kind).reshape((*left, *(1 for _ in start.shape))) / max(count, 1)
            place = (place + start) % 1
        else:
            place = torch.rand(shape, **kind)
        ends = self.weights.cumsum(-1)
        chosen = (place.unsqueeze(-1) >= ends).sum(-1)
        # Where rounding leaves the last end below 1, the last expert that is there.
        last = (self.weights > 0).long().mul(torch.arange(1, 1 + len(self.experts), device=ends.device)).amax(-1) - 1
        return torch.minimum(chosen, last)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = size_of(sample_shape)
        return self._picked([expert.rsample(sample_shape) for expert in self.experts])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        sample_shape = size_of(sample_shape)
        with torch.no_grad():
            return self._picked([expert.sample(sample_shape) for expert in self.experts])

    def _picked(self, draws: list[Tensor]) -> Tensor:
        events = len(self.event_shape)
        leading = draws[0].shape[: draws[0].dim() - events]
        chosen = self._chosen(leading).reshape((*leading, *(1 for _ in range(events))))
        value = draws[0]
        for index, draw in enumerate(draws[1:], 1):
            value = torch.where(chosen == index, draw, value)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        value = validated(self, value)
        each = torch.stack([expert.log_prob(value) for expert in self.experts], -1)
        there = self.weights > 0
        log_weights = torch.where(there, self.weights, self.weights.new_ones(())).log()
        return torch.where(there, each + log_weights, each.new_full((), -math.inf)).logsumexp(-1)

    def _moment(self, moments: Sequence[Tensor]) -> Tensor:
        weights = self.weights.reshape(*self.weights.shape[:-1], *(1 for _ in self.event_shape), len(moments))
        return (weights * torch.stack(list(moments), -1)).sum(-1)

    @property
    def mean(self) -> Tensor:
        return self._moment([expert.mean for expert in self.experts])

    @property
    def variance(self) -> Tensor:
        square = self._moment([expert.variance + expert.mean.square() for expert in self.experts])
        return square - self.mean.square()
