"""Estimators that treat each datum by itself."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor

from pyro_vae.distributions.wrappers import family, without_events
from pyro_vae.estimators.base import REMEDY, Draws, Estimator, inside, score_anew
from pyro_vae.pair import check_densities, latent_sites


class PerDatum(Estimator):
    """An estimator that is one number for each datum, so that its weights are per datum for any batch size.

    A subclass gives the number (:meth:`_reduce`, of the datum's log-weights) and what is differentiated in its place
    (:meth:`_surrogate`).

    Args:
        num_particles: samples of the latents for each datum, K, vectorized.
        options: beta, max_plate_nesting and num_data, see :class:`Estimator`.

    Raises:
        ValueError: if a random variable stands outside the data plate, where its weight is not a datum's own, or a
            latent's prior is improper.
    """

    @abstractmethod
    def _surrogate(self, draws: Draws) -> Tensor:
        """A tensor whose sum has the gradient of the estimator, summed over the data of the batch."""

    def _value(self, draws: Draws) -> Tensor:
        return self._bound(draws).sum() * (draws.plate.full_size / draws.plate.size)

    def _loss(self, draws: Draws) -> Tensor:
        plate = draws.plate
        surrogate = self._surrogate(draws).sum()
        value = self._bound(draws).detach().sum() + (surrogate - surrogate.detach())
        return -value * (plate.full_size / plate.size)

    def _mean_loss(self, draws: Draws) -> Tensor:
        return self._loss(draws) / draws.plate.full_size

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: Any = ()) -> Draws:
        draws = super()._draw(model, guide, args, kwargs)
        check_densities(type(self).__name__, draws.model_trace)
        plate = draws.plate
        for term in draws.terms:
            if not inside(term.site, plate):
                raise ValueError(
                    f"{type(self).__name__} weighs each datum by itself, but {term.name!r} stands outside the data "
                    "plate and belongs to all of them. Use SGVB_A, SGVB_B or ScoreFunction; or of a FullBayes "
                    "pair.posterior_predictive(), whose weights are drawn, not weighed."
                )
        return draws

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = self._guide_trace(guide, args, kwargs)
        replayed = poutine.replay(model, trace=self._seen(guide_trace))
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
        return model_trace, guide_trace

    def _guide_trace(self, guide: Any, args: Any, kwargs: Any) -> Trace:
        return poutine.trace(guide).get_trace(*args, **kwargs)

    def _seen(self, guide_trace: Trace) -> Trace:
        """The draws as the model sees them."""
        return guide_trace

    def _sum(self, draws: Draws, kind: str, attribute: str = "value") -> Tensor:
        """``[K, B]``: the sum of the terms of a kind, each with its sign and beta."""
        plate, num_data = draws.plate, self._num_data(draws.plate)
        summed = sum(
            term.weight * self._each_datum(getattr(term, attribute), term.site, plate, num_data)
            for term in draws.terms
            if term.kind == kind
        )
        return torch.as_tensor(summed).expand(self.num_particles, plate.size)

    def _needs_reparameterized(self, guide_trace: Trace, gradient: str = "pathwise gradient") -> None:
        for name, site in latent_sites(guide_trace).items():
            if not site["fn"].has_rsample:
                raise ValueError(
                    f"the {gradient} of {type(self).__name__} needs reparameterized latents, but q({name}) is a "
                    f"{family(site['fn'])}, which has no reparameterized sampler. {REMEDY}"
                )


class Detached(Messenger):
    """Runs a guide so that its draws carry no gradient.

    A transformed distribution then no longer knows a draw as its own, and has to find its way back from it.

    Args:
        estimator: what needs it, for the message.

    Raises:
        ValueError: if a distribution cannot score such a draw, as Pyro's planar flow cannot.
    """

    def __init__(self, estimator: str) -> None:
        super().__init__()
        self.estimator = estimator

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            msg["value"] = msg["value"].detach()
            if _transformed(msg["fn"]):
                score_anew(self.estimator, msg["name"], msg["fn"], msg["value"])


def _transformed(fn: Any) -> bool:
    return isinstance(without_events(fn), TransformedDistribution)


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of weights along ``dim``."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])
