"""The model learns awake, from data; the guide may learn asleep, from the model's dreams."""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._checks import whole
from pyro_vae.estimators.base import Draws, Facts
from pyro_vae.estimators.per_datum import Detached, PerDatum, log_mean_exp
from pyro_vae.pair import simulate

Phase = Literal["wake", "sleep", "both"]


class _Phases(PerDatum):
    """Draws carry no gradient: model and guide learn from terms of their own."""

    no_beta = "has one objective for the model and another for the guide"

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        self.check_beta(options.pop("beta", 1.0) != 1.0)
        super().__init__(num_particles, **options)

    def _guide_trace(self, guide: Any, args: Any, kwargs: Any) -> Trace:
        with Detached(type(self).__name__):
            return poutine.trace(guide).get_trace(*args, **kwargs)

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: Any = ()) -> Draws:
        draws = super()._draw(model, guide, args, kwargs)
        learns = torch.is_grad_enabled()
        return draws._replace(extra=self._sleep(model, guide, draws, args, kwargs) if learns else torch.zeros(()))

    def _sleep(self, model: Any, guide: Any, draws: Draws, args: Any, kwargs: Any) -> Tensor:
        """``[B]``: log q(z | x) of dreams z, x ~ p(x, z), one for each datum."""
        with torch.no_grad():
            dreamt, trace = simulate(functools.partial(model, **kwargs), *args)
        guide_trace = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*dreamt, **kwargs)
        guide_trace.compute_log_prob()
        log_q = [
            self._without_particles(site["log_prob"], site, draws.plate)
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample" and not site["is_observed"] and name in trace.nodes
        ]
        return torch.as_tensor(sum(log_q))

    @staticmethod
    def _without_particles(value: Tensor, site: Any, plate: Any) -> Tensor:
        kept = value.dim() + plate.dim
        summed = [dim for dim in range(value.dim()) if dim != kept]
        return (value.sum(summed) if summed else value) * (plate.size / plate.full_size)


class WakeSleep(_Phases):
    r"""Wake-sleep.

    .. math:: \text{wake:} \quad \nabla_\theta \, \mathbb E_{q(z \mid x)} \log p(x, z), \qquad
              \text{sleep:} \quad \nabla_\phi \, \mathbb E_{p(x, z)} \log q(z \mid x)

    The wake phase raises the ELBO, which is its value; the sleep phase fits the guide to dreams of the model, by the
    KL from the posterior to the guide, so that together they are the gradient of no single function. A dream is a
    draw of all random variables of the model, one for each datum of the batch. Latents may be discrete.

    Args:
        num_particles: draws of the guide for each datum in the wake phase.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if beta is given, a random variable stands outside the data plate, a distribution of the guide
            cannot score a given value, as Pyro's planar flow cannot, or a dream cannot be given to the guide, because
            the observed site is none of the arguments.

    Source: Hinton, Dayan, Frey & Neal (1995).
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="model: the ELBO's; guide: minus the KL(p(z|x) || q(z|x)) over the model's own data",
        sites="any, in the data plate",
        cost="L + 1 model (one forward only), 2 guide",
        source="Hinton et al. 1995",
    )

    @property
    def evaluations(self) -> tuple[int, int]:
        return self.num_particles + 1, 2

    def _surrogate(self, draws: Draws) -> Tensor:
        return self._sum(draws, "log_p").mean(0) + draws.extra


class ReweightedWakeSleep(_Phases):
    r"""Reweighted wake-sleep, with weights for each datum.

    .. math:: \text{model:} \; \sum_k \tilde w_k \nabla_\theta \log p(x, z_k), \quad
              \text{wake guide:} \; \sum_k \tilde w_k \nabla_\phi \log q(z_k \mid x), \quad
              \text{sleep guide:} \; \nabla_\phi \, \mathbb E_{p(x, z)} \log q(z \mid x)

    with :math:`\tilde w_k = w_k / \sum_j w_j`. The model's gradient is that of :class:`IWAE`, whose bound is the value.
    Latents may be discrete.

    Args:
        num_particles: importance samples for each datum, K, at least 2 (with one the weights are constant).
        guide: how the guide learns: ``"wake"``, ``"sleep"``, or ``"both"``, their mean.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if K is below 2, ``guide`` is something else, and as :class:`WakeSleep`.

    Source: Bornschein & Bengio (2015); the names of Le et al. (2019).
    """

    facts = Facts(
        bounds="log p(x), from below; that of IWAE(K)",
        gradient="model: IWAE(K)'s; guide: minus KL(p(z|x) || q(z|x)), wake: biased by 1/K, sleep: over dreams",
        sites="any, in the data plate",
        cost="K model, 1 guide; asleep 1 and 1 more",
        source="Bornschein & Bengio 2015; Le et al. 2019",
    )

    def __init__(self, num_particles: int, *, guide: Phase = "wake", **options: Any) -> None:
        whole(2, num_particles=num_particles)
        if guide not in get_args(Phase):
            raise ValueError(f"guide is the phase in which it learns, {', '.join(get_args(Phase))}; got {guide!r}.")
        super().__init__(num_particles, **options)
        self.guide = guide

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "guide": self.guide}

    @property
    def evaluations(self) -> tuple[int, int]:
        asleep = self.guide != "wake"
        return self.num_particles + asleep, 1 + asleep

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def _sleep(self, model: Any, guide: Any, draws: Draws, args: Any, kwargs: Any) -> Tensor:
        if self.guide == "wake":
            return torch.zeros(())
        return super()._sleep(model, guide, draws, args, kwargs)

    def _surrogate(self, draws: Draws) -> Tensor:
        weights = self._log_weights(draws).detach().softmax(0)
        wake = -(weights * self._sum(draws, "log_q")).sum(0)
        share = {"wake": (1.0, 0.0), "sleep": (0.0, 1.0), "both": (0.5, 0.5)}[self.guide]
        return (weights * self._sum(draws, "log_p")).sum(0) + share[0] * wake + share[1] * draws.extra
