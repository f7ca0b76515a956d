"""Bounds from several importance samples of each datum, and their gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._checks import whole
from pyro_vae.estimators.base import Draws, Facts, add_scores, with_values
from pyro_vae.estimators.per_datum import PerDatum, log_mean_exp
from pyro_vae.pair import latent_sites


class _Pathwise(PerDatum):
    """The gradient of the bound itself, through reparameterized draws."""

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: Any = ()) -> Draws:
        draws = super()._draw(model, guide, args, kwargs)
        self._needs_reparameterized(draws.guide_trace)
        return draws

    def _surrogate(self, draws: Draws) -> Tensor:
        return self._bound(draws)


class IWAE(_Pathwise):
    r"""The importance-weighted bound.

    .. math:: \mathcal L_K(x) = \log \frac 1 K \sum_{k=1}^K w_k, \quad
              w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    In expectation it rises with K towards log p(x). The signal-to-noise ratio of the guide's gradient falls as
    :math:`1 / \sqrt K` (Rainforth et al. 2018); :class:`DReG` has the same expectation without that.

    Args:
        num_particles: importance samples for each datum, K.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a count is below 1, a latent cannot be reparameterized, or a random variable stands outside the
            data plate.

    Source: Burda, Grosse & Salakhutdinov (2015), eq. 8.
    """

    facts = Facts(
        bounds="log p(x), from below; tighter with K",
        gradient="the bound's",
        sites="reparameterized, in the data plate",
        cost="K model, 1 guide",
        source="Burda et al. 2015, eq. 8",
    )

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)


class DReG(IWAE):
    r"""The importance-weighted bound with the doubly reparameterized gradient of the guide.

    .. math:: \nabla_\phi \mathcal L_K = \sum_k \tilde w_k^2 \,
              \frac{\partial \log w_k}{\partial z_k} \nabla_\phi z_k, \quad
              \nabla_\theta \mathcal L_K = \sum_k \tilde w_k \nabla_\theta \log p(x, z_k), \quad
              \tilde w_k = w_k / \textstyle\sum_j w_j

    Value and expected gradient are those of :class:`IWAE`; the signal-to-noise ratio of the guide's gradient rises
    with K. With beta, :math:`\tilde w_k \, (1 - \beta (1 - \tilde w_k))` stands in the place of :math:`\tilde w_k^2`.
    A guide of several latents is run once more, and must not draw other noise (dropout) than its latents. At K = 1 it
    is sticking the landing.

    Raises:
        ValueError: as :class:`IWAE`, and if a distribution cannot score a given value, as Pyro's planar flow cannot.

    Source: Tucker, Lawson, Gu & Maddison (2019).
    """

    facts = Facts(
        bounds="log p(x), from below; tighter with K",
        gradient="the IWAE bound's",
        sites="reparameterized, in the data plate, able to score a given value",
        cost="K model, 1 guide (2 with several latents)",
        source="Tucker et al. 2019",
    )

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide = poutine.trace(guide)
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        self._needs_reparameterized(guide_trace)
        add_scores(type(self).__name__, guide, guide_trace, args, kwargs)
        return model_trace, guide_trace

    def _seen(self, guide_trace: Trace) -> Trace:
        """Copies of the draws, at which the gradient from the model is weighed once more."""
        values = {}
        for name, site in latent_sites(guide_trace).items():
            value = site["value"]
            weights: list[Tensor] = []
            site["weights"] = weights
            if value.requires_grad:
                value = value.view_as(value)
                events = (1,) * site["fn"].event_dim

                def again(gradient: Tensor, weights: list[Tensor] = weights, events: Any = events) -> Tensor:
                    (weight,) = weights
                    weighed = weight.reshape(weight.shape + events) * gradient
                    return weighed.reshape(gradient.shape).to(gradient.dtype)  # a draw of bfloat16 keeps its type

                value.register_hook(again)
            values[name] = value
        return with_values(guide_trace, values)

    def _surrogate(self, draws: Draws) -> Tensor:
        weights = self._log_weights(draws).detach().softmax(0)
        shape = [1] * self.max_plate_nesting  # as the plates lie
        shape[draws.plate.dim] = draws.plate.size
        if self.num_particles > 1:
            shape[-self.max_plate_nesting] = self.num_particles
        again = 1 - self.beta * (1 - weights)
        for site in latent_sites(draws.guide_trace).values():
            site["weights"].append(again.reshape(shape))
        return weights * (self._sum(draws, "log_p") + again * self._sum(draws, "log_q", "surrogate"))


class Renyi(_Pathwise):
    r"""The variational Renyi bound.

    .. math:: \mathcal L_{\alpha, K}(x) = \frac{1}{1 - \alpha} \log \frac 1 K \sum_{k=1}^K w_k^{1 - \alpha}

    At alpha = 0 it is :class:`IWAE`, and in the limit alpha -> 1 the ELBO. For alpha >= 0 it is a lower bound of
    log p(x), at any K. For alpha < 0 the limit of large K lies above log p(x), but the estimate falls short of it
    at a finite K, so that it bounds neither side.

    Args:
        alpha: order, of either sign, not 1.
        num_particles: importance samples for each datum, K.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if alpha is 1 or not finite, and as :class:`IWAE`.

    Source: Li & Turner (2016).
    """

    facts = Facts(
        bounds="log p(x), from below for alpha >= 0; for alpha < 0 neither side at finite K",
        gradient="the value's",
        sites="reparameterized, in the data plate",
        cost="K model, 1 guide",
        source="Li & Turner 2016",
    )

    def __init__(self, alpha: float, num_particles: int = 1, **options: Any) -> None:
        if not math.isfinite(alpha):
            raise ValueError(f"alpha has to be a finite number; got {alpha}.")
        if alpha == 1:
            raise ValueError(
                "at alpha = 1 the Renyi bound is a limit, the ELBO, which this formula does not give. "
                f"Use SGVB_A(num_particles={num_particles}) or SGVB_B."
            )
        super().__init__(num_particles, **options)
        self.alpha = alpha

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "alpha": self.alpha}

    def _reduce(self, log_weights: Tensor) -> Tensor:
        powers = (1 - self.alpha) * log_weights
        limits = torch.finfo(powers.dtype)
        largest = powers.detach().amax(0).clamp(limits.min, limits.max)
        # By expm1 and log1p, since near alpha = 1 all powers are near 1, and a log of their mean would be rounding.
        return ((powers - largest).expm1().mean(0).log1p() + largest) / (1 - self.alpha)


class _Grouped(_Pathwise):
    """M groups of K importance samples each."""

    def __init__(self, num_groups: int, samples_per_group: int, **options: Any) -> None:
        whole(1, num_groups=num_groups, samples_per_group=samples_per_group)
        super().__init__(num_groups * samples_per_group, **options)
        self.num_groups, self.samples_per_group = num_groups, samples_per_group

    def _options(self) -> dict[str, Any]:
        return {"num_groups": self.num_groups, "samples_per_group": self.samples_per_group}

    def _group(self, log_weights: Tensor) -> Tensor:
        """``[M, K, B]``."""
        return log_weights.reshape(self.num_groups, self.samples_per_group, -1)


class MIWAE(_Grouped):
    r"""The mean of M importance-weighted bounds of K samples each.

    .. math:: \mathcal L_{M,K}(x) = \frac 1 M \sum_{m=1}^M \log \frac 1 K \sum_{k=1}^K w_{m,k}

    Args:
        num_groups: M.
        samples_per_group: K.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: as :class:`IWAE`.

    Source: Rainforth et al. (2018).
    """

    facts = Facts(
        bounds="log p(x), from below; that of IWAE(K)",
        gradient="the bound's",
        sites="reparameterized, in the data plate",
        cost="M K model, 1 guide",
        source="Rainforth et al. 2018",
    )

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(self._group(log_weights), 1).mean(0)


class CIWAE(_Pathwise):
    r"""A convex combination of the ELBO and the importance-weighted bound.

    .. math:: \mathcal L(x) = \beta \, \frac 1 K \sum_k \log w_k + (1 - \beta) \log \frac 1 K \sum_k w_k

    Args:
        elbo_weight: the weight of the ELBO, beta in the paper, from 0 (IWAE) to 1 (ELBO). (The option ``beta`` is that
            of all estimators: the weight of the latents' terms.)
        num_particles: importance samples for each datum, K.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if the weight is outside of [0, 1], and as :class:`IWAE`.

    Source: Rainforth et al. (2018).
    """

    facts = Facts(
        bounds="log p(x), from below; between the ELBO and IWAE(K)",
        gradient="the bound's",
        sites="reparameterized, in the data plate",
        cost="K model, 1 guide",
        source="Rainforth et al. 2018",
    )

    def __init__(self, elbo_weight: float, num_particles: int = 1, **options: Any) -> None:
        if not 0 <= elbo_weight <= 1:
            raise ValueError(f"elbo_weight is the share of the ELBO, from 0 to 1; got {elbo_weight}.")
        super().__init__(num_particles, **options)
        self.elbo_weight = elbo_weight

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "elbo_weight": self.elbo_weight}

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return self.elbo_weight * log_weights.mean(0) + (1 - self.elbo_weight) * log_mean_exp(log_weights)


class PIWAE(_Grouped):
    r"""The model learns by the bound of all M K samples, the guide by the mean of M bounds of K samples.

    .. math:: \nabla_\theta \log \frac{1}{M K} \sum_{m,k} w_{m,k}, \quad
              \nabla_\phi \frac 1 M \sum_m \log \frac 1 K \sum_k w_{m,k}

    Its value is the first of the two, :class:`IWAE` with M K samples.

    Args:
        num_groups: M.
        samples_per_group: K.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: as :class:`IWAE`.

    Source: Rainforth et al. (2018).
    """

    facts = Facts(
        bounds="log p(x), from below; that of IWAE(M K)",
        gradient="model: IWAE(M K)'s; guide: MIWAE(M, K)'s",
        sites="reparameterized, in the data plate",
        cost="M K model (backward twice), 1 guide",
        source="Rainforth et al. 2018",
    )

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def _seen(self, guide_trace: Trace) -> Trace:
        """Draws cut off from the guide; the model's gradient reaches it by another weight."""
        values = {}
        for name, site in latent_sites(guide_trace).items():
            values[name] = site["seen"] = site["value"].detach().requires_grad_(site["value"].requires_grad)
        return with_values(guide_trace, values)

    def _surrogate(self, draws: Draws) -> Tensor:
        log_weights = self._log_weights(draws).detach()
        in_group = self._group(log_weights).softmax(1).reshape(log_weights.shape) / self.num_groups
        log_p = self._sum(draws, "log_p")
        sites = [site for site in latent_sites(draws.guide_trace).values() if site["seen"].requires_grad]
        surrogate = (log_weights.softmax(0) * log_p).sum() + (in_group * self._sum(draws, "log_q")).sum()
        if not sites:
            return surrogate
        gradients = torch.autograd.grad(
            (in_group * log_p).sum(), [site["seen"] for site in sites], retain_graph=True, allow_unused=True
        )
        for gradient, site in zip(gradients, sites, strict=True):
            if gradient is not None:
                surrogate = surrogate + (gradient * site["value"]).sum()
        return surrogate
