"""The KL of the latents in three parts, each with a weight of its own."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.base import Draws, Facts, Term
from pyro_vae.estimators.penalized import Penalized, local_latents
from pyro_vae.estimators.units import aggregate, units
from pyro_vae.pair import data_frame

Sampling = Literal["stratified", "weighted"]


class Parts(NamedTuple):
    """Samples of the three parts of a KL, ``[B, *particles]``, in nats; they sum to log q(z | x) - log p(z)."""

    index_code_mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


class TCVAE(Penalized):
    r"""The KL as mutual information, total correlation and KL of each unit, with a weight each.

    .. math:: \mathbb E_x \mathrm{KL}(q(z \mid x) \| p(z)) =
              \underbrace{\mathrm{KL}(q(z, x) \| q(z) q(x))}_{\alpha} +
              \underbrace{\mathrm{KL}\Big(q(z) \Big\| \prod_j q(z_j)\Big)}_{\beta} +
              \underbrace{\sum_j \mathrm{KL}(q(z_j) \| p(z_j))}_{\gamma}

    where :math:`q(z) = \frac 1 N \sum_n q(z \mid x_n)` over the N training data. From a batch of M data it is estimated
    by weights of the batch's posteriors,

    - ``"stratified"``: 1/N for the datum of the draw, and (N - 1) / (N (M - 1)) for each other one. Free of bias for
      q(z), and exact where the batch is all the data. It is the estimator of appendix C.2, averaged over the order of
      the batch;
    - ``"weighted"``: 1 / (N M) for all of them (eq. 3), biased; the published experiments use it.

    The parts sum to the KL whatever the estimate of q(z), so the KL is taken in closed form where one is known, and
    only :math:`(\alpha - 1)`, :math:`(\beta - 1)` and :math:`(\gamma - 1)` times the parts are sampled.

    Where there are several latents, the first that the guide draws in the data plate is taken apart, as its
    distribution depends on x alone; the others keep their terms of the ELBO. N is ``num_data``, which
    :func:`pyro_vae.fit` sets. ``fit(beta=...)`` moves the weight of the total correlation. A ``poutine.scale`` or
    ``poutine.mask`` at the latent does not reach the parts.

    Args:
        alpha: weight of the mutual information of code and datum.
        beta: weight of the total correlation.
        gamma: weight of the units' KL.
        num_particles: Monte Carlo samples of the latents for each datum.
        sampling: how q(z) is estimated, see above.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a weight is negative, ``sampling`` is something else, the units of q(z | x) are not independent,
            the latent stands in a plate within the data plate, and as :class:`SGVB_B`.

    Source: Chen, Li, Grosse & Duvenaud (2018), eq. 2 to 4, appendix C.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO); its loss bounds nothing",
        gradient="that of the weighted parts, with q(z) estimated from the batch",
        sites="reparameterized, of independent units in the guide; guide in the model's order",
        cost="L model, 1 guide; L M densities of a code",
        source="Chen et al. 2018, eq. 4",
    )

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float | Tensor = 6.0,
        gamma: float = 1.0,
        num_particles: int = 1,
        *,
        sampling: Sampling = "stratified",
        **options: Any,
    ) -> None:
        for name, weight in (("alpha", alpha), ("gamma", gamma)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name} weighs a part of the KL: it cannot be negative; got {weight!r}.")
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling is one of {', '.join(get_args(Sampling))}; got {sampling!r}.")
        super().__init__(num_particles, beta=beta, **options)
        self.alpha, self.gamma = alpha, gamma
        self.sampling: Sampling = sampling

    def _options(self) -> dict[str, Any]:
        weights = {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}
        return {**weights, **super()._options(), "sampling": self.sampling}

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        for name, site, _ in local_latents(model_trace, guide_trace)[:1]:
            if units(site["fn"]) is None:
                raise ValueError(
                    f"TCVAE takes each unit of q({name}) by itself, but it is a {family(site['fn'])}, whose units are "
                    "not independent. Use a guide such as DiagonalNormal, or SGVB_B."
                )
            self._check_plates(name, site, data_frame(model_trace))
        return [term._replace(beta=1.0) for term in super()._terms(model_trace, guide_trace)]

    def _check_plates(self, name: str, site: Any, plate: Any) -> None:
        within = [f.name for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles_vectorized"]
        if within != [plate.name]:
            raise ValueError(
                f"TCVAE takes the code of a datum apart, but {name!r} stands in the plates {', '.join(within)}. Draw "
                "it at once, with to_event in place of the inner plate."
            )

    def _penalty(self, draws: Draws) -> Tensor:
        if not local_latents(draws.model_trace, draws.guide_trace):
            return torch.zeros(())
        parts = self._parts(draws)
        weights = (self.alpha - 1, self.beta - 1, self.gamma - 1)
        return torch.stack([weight * part.mean() for weight, part in zip(weights, parts, strict=True)]).sum()

    def _parts(self, draws: Draws) -> Parts:
        plate = draws.plate
        _, site, model_site = local_latents(draws.model_trace, draws.guide_trace)[0]
        q, z = units(site["fn"]), site["value"]
        assert q is not None
        num_events = len(site["fn"].event_shape)
        dim = plate.dim - num_events
        # The datum of the draw becomes the first dimension; those of the posteriors, and the units, the last two.
        log_q = q.log_prob(z.movedim(dim, 0).unsqueeze(dim))
        log_q = (log_q.flatten(-num_events) if num_events else log_q.unsqueeze(-1)).movedim(plate.dim - 1, -2)
        log_weights = self._log_mixture(plate, log_q)
        joint, single = aggregate(log_q, log_weights.unflatten(0, (-1, *[1] * (log_q.dim() - 3))))
        product = single.sum(-1)
        log_posterior, log_prior = (s["unscaled_log_prob"].movedim(plate.dim, 0) for s in (site, model_site))
        return Parts(log_posterior - joint, joint - product, product - log_prior)

    def _log_mixture(self, plate: Any, like: Tensor) -> Tensor:
        """``[M, M]``: log-weight in q(z) of each posterior of the batch, at the draw of each datum."""
        size = plate.size
        num_data = max(self._num_data(plate), size)
        if num_data == math.inf:  # held-out data have a q(z) of their own
            num_data = plate.full_size
        if self.sampling == "weighted":
            return like.new_full((size, size), -math.log(num_data * size))
        others = math.log((num_data - 1) / (num_data * (size - 1))) if size > 1 else 0.0
        own = torch.eye(size, dtype=torch.bool, device=like.device)
        return torch.where(own, like.new_full((), -math.log(num_data)), like.new_full((), others))
