"""The two stochastic gradient variational Bayes estimators of Kingma & Welling (2013)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.util import MultiFrameTensor
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.distributions.wrappers import family, innermost
from pyro_vae.estimators.base import REMEDY, Draws, Estimator, Facts, Term, add_scores, inside, sample_sites
from pyro_vae.pair import evaluating, latent_sites, run


class SGVB(Estimator):
    r"""An ELBO as a sum of terms, so that latents may also stand outside the data plate.

    .. math:: \mathcal L_\beta = \log p(x \mid z) - \beta \, [\log q(z \mid x) - \log p(z)]

    Args:
        num_particles: Monte Carlo samples of the latents for each datum, L.
        sticking_the_landing: leave out of the gradient of log q(z | x) its score, whose expectation is zero (Roeder
            et al. 2017): at the exact posterior the guide's gradient then has no variance. A guide of several latents
            is run once more for it, and must not draw other noise (dropout) than its latents.
        options: beta, max_plate_nesting and num_data, see :class:`Estimator`.

    Raises:
        ValueError: if a count is below 1, or ``beta`` is negative.
    """

    def __init__(self, num_particles: int = 1, *, sticking_the_landing: bool = False, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.sticking_the_landing = sticking_the_landing

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        return {**options, "sticking_the_landing": True} if self.sticking_the_landing else options

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        if not self.sticking_the_landing:
            return super()._get_trace(model, guide, args, kwargs)
        guide = poutine.trace(guide)
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        add_scores(f"{type(self).__name__}(sticking_the_landing=True)", guide, guide_trace, args, kwargs)
        return model_trace, guide_trace

    def _value(self, draws: Draws) -> Tensor:
        return torch.as_tensor(sum(term.weight * term.value.sum() for term in draws.terms)) / self.num_particles

    def _loss(self, draws: Draws) -> Tensor:
        bound = torch.as_tensor(sum(term.weight * term.surrogate.sum() for term in draws.terms))
        score = self._score_function(draws)
        if is_identically_zero(score) and not self.sticking_the_landing:
            return -bound / self.num_particles
        surrogate = (bound + score) / self.num_particles
        # Pyro's form: the value of the bound with the gradient of the surrogate.
        return -(self._value(draws).detach() + (surrogate - surrogate.detach()))

    def _mean_loss(self, draws: Draws) -> Tensor:
        return self._loss(self._shared(draws)) / draws.plate.full_size

    def _shared(self, draws: Draws) -> Draws:
        """``draws`` for a loss that is divided by the plate's size: what stands outside counts 1/N instead."""
        plate = draws.plate
        share = plate.full_size / self._num_data(plate)
        if share == 1:
            return draws
        return draws._replace(
            terms=[
                term
                if inside(term.site, plate)
                else term._replace(value=term.value * share, surrogate=term.surrogate * share)
                for term in draws.terms
            ]
        )

    def _score_function(self, draws: Draws) -> Tensor | float:
        """Score-function part of the surrogate: sum of log r * score, Rao-Blackwellized over the plates as in Pyro."""
        surrogate: Tensor | float = 0.0
        log_r = None
        for _, site in sample_sites(draws.guide_trace):
            if is_identically_zero(site["score_parts"].score_function):
                continue
            if log_r is None:
                log_r = MultiFrameTensor()
                for term in draws.terms:
                    frames = [frame for frame in term.site["cond_indep_stack"] if frame.vectorized]
                    log_r.add((frames, (term.weight * term.value).detach()))
            weight = self._centered(draws, log_r.sum_to(site["cond_indep_stack"]), site)
            surrogate = surrogate + (weight * site["score_parts"].score_function).sum()
        return surrogate

    def _centered(self, draws: Draws, weight: Tensor, site: Any) -> Tensor:
        """The weight of a score, less a baseline."""
        return weight


class SGVB_A(SGVB):
    r"""SGVB-A: every term sampled; Pyro's ``Trace_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^A(x) = \frac 1 L \sum_l \log p(x, z_l) - \log q(z_l \mid x)

    Works for every pair; a guide that cannot be reparameterized is differentiated by the score function (better:
    :class:`~pyro_vae.estimators.ScoreFunction`).

    Source: Kingma & Welling (2013), eq. 6.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="the ELBO's",
        sites="any; without reparameterization by the score function",
        cost="L model, 1 guide",
        source="Kingma & Welling 2013, eq. 6; sticking the landing: Roeder et al. 2017",
    )


class Annealed(SGVB_A):
    r"""SGVB-A with beta as an inverse temperature of the joint density.

    .. math:: \mathcal L_\beta = \beta \log p(x, z) - \log q(z \mid x)

    Elsewhere beta weighs the latents' terms, :math:`\log p(x \mid z) - \beta \, [\log q(z \mid x) - \log p(z)]`; here
    it weighs the model's terms, likelihood and prior alike. Divided by beta this is an entropy of weight
    :math:`1 / \beta`: at a small beta the guide is drawn to be wide. ``fit(pair, data, estimator=Annealed(),
    beta=Linear(0.01, steps=9_900))`` is the schedule of the paper, :math:`\beta_t = \min(1, 0.01 + t / 10\,000)`.

    Source: Rezende & Mohamed (2015), eq. 20.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="that of beta log p(x, z) - log q(z | x)",
        sites="any; without reparameterization by the score function",
        cost="L model, 1 guide",
        source="Rezende & Mohamed 2015, eq. 20",
    )

    def _log_p(self, name: str, site: Any) -> Term:
        return super()._log_p(name, site)._replace(beta=self.beta)

    def _log_q(self, name: str, site: Any) -> Term:
        return super()._log_q(name, site)._replace(beta=1.0)


class SGVB_B(SGVB, TraceMeanField_ELBO):
    r"""SGVB-B: the KL in closed form; Pyro's ``TraceMeanField_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^B(x) = -\mathrm{KL}(q(z \mid x) \| p(z)) + \frac 1 L \sum_l \log p(x \mid z_l)

    Where no closed form is registered a site falls back to sampling, which is said once in a warning. The closed form
    needs reparameterized latents, and a guide that draws them in the model's order. ``sticking_the_landing`` acts on
    the sites that are sampled: a KL in closed form has no score to leave out.

    Raises:
        ValueError: if a latent cannot be reparameterized, or guide and model draw the latents in different orders.

    Source: Kingma & Welling (2013), eq. 7.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="the ELBO's",
        sites="reparameterized; KL sampled where no closed form is known; guide in the model's order",
        cost="L model, 1 guide",
        source="Kingma & Welling 2013, eq. 7",
    )

    def _score_function(self, draws: Draws) -> Tensor | float:
        return 0.0

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        estimator = type(self).__name__
        _check_order(estimator, model_trace, guide_trace)
        terms = []
        sampled = []
        for name, site in sample_sites(model_trace):
            if site["is_observed"]:
                terms.append(self._log_p(name, site))
                continue
            guide_site = guide_trace.nodes[name]
            _check_reparameterized(estimator, name, guide_site)
            kl = analytic_kl(guide_site, site)
            if kl is None:
                sampled.append(name)
                terms += [self._log_p(name, site), self._log_q(name, guide_site)]
            else:
                terms.append(Term(name, "kl", -1, self.beta, kl, kl, guide_site))
        for name, site in sample_sites(guide_trace):
            if name not in model_trace.nodes:  # auxiliary variables of the guide
                _check_reparameterized(estimator, name, site)
                terms.append(self._log_q(name, site))
        self._say_what_is_sampled(sampled)
        return terms

    def _say_what_is_sampled(self, sites: list[str]) -> None:
        said = vars(self).setdefault("_said", set())
        news = [name for name in sites if name not in said]
        if news:
            said.update(news)
            warnings.warn(
                f"{type(self).__name__}: no closed-form KL is registered for {', '.join(news)}; there it is "
                "sampled, as in SGVB_A.",
                stacklevel=2,
            )


def analytic_kl(guide_site: Any, model_site: Any) -> Tensor | None:
    """KL(q || p) of one site, shaped as its batch and scaled by its plates; ``None`` if none is registered."""
    if transforms_a_delta(guide_site["fn"]):
        return None
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    kl = torch.as_tensor(kl).expand(guide_site["fn"].batch_shape)
    return scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"])


def transforms_a_delta(fn: Any) -> bool:
    """A ``Delta`` with a log-density stands for a transformed variable, which its registered KL forgets."""
    density = getattr(innermost(fn), "log_density", 0)
    return isinstance(density, Tensor) or density != 0


def _check_reparameterized(estimator: str, name: str, site: Any) -> None:
    if not site["fn"].has_rsample:
        raise ValueError(
            f"{estimator} needs reparameterized latents, but q({name}) is a {family(site['fn'])}, which has no "
            f"reparameterized sampler. {REMEDY}"
        )


def shared_latents(model_trace: Trace, guide_trace: Trace) -> tuple[list[str], list[str]]:
    """The latents of both programs, in the model's and in the guide's order.

    A closed-form KL of one site given another is right only where guide and model share the order of dependence.
    """
    in_model = [name for name in latent_sites(model_trace) if name in guide_trace.nodes]
    in_guide = [name for name in latent_sites(guide_trace) if name in model_trace.nodes]
    return in_model, in_guide


def elbo_of(pair: Any, *batch: Any) -> SGVB:
    """The ELBO that is taken where none is asked for.

    ``SGVB_B()``, or ``SGVB_A()`` where guide and model draw the latents in different orders.
    """
    with evaluating(pair), torch.no_grad(), torch.random.fork_rng():
        in_model, in_guide = shared_latents(*run(pair, *batch))
    return SGVB_B() if in_model == in_guide else SGVB_A()


def _check_order(estimator: str, model_trace: Trace, guide_trace: Trace) -> None:
    in_model, in_guide = shared_latents(model_trace, guide_trace)
    if in_model != in_guide:
        raise ValueError(
            f"{estimator} needs a guide that draws the latents in the model's order; the model draws "
            f"{', '.join(in_model)}, the guide {', '.join(in_guide)}, where the closed-form KL is biased. Use SGVB_A, "
            "or reorder the guide."
        )
