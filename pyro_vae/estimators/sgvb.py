"""The two stochastic gradient variational Bayes estimators of Kingma & Welling (2013)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.contract import latent_sites
from pyro_vae.estimators.base import Estimator, Term


class SGVB_A(Estimator):
    r"""SGVB-A: every term sampled; Pyro's ``Trace_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^A(x) = \frac 1 L \sum_l \log p(x, z_l) - \log q(z_l \mid x)

    Works for every pair; a guide that cannot be reparameterised is differentiated by the score function.

    Source: Kingma & Welling (2013), eq. 6.
    """

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        log_p = [self._log_p(name, site) for name, site in _sample_sites(model_trace)]
        log_q = [self._log_q(name, site) for name, site in _sample_sites(guide_trace)]
        return log_p + log_q


class SGVB_B(Estimator, TraceMeanField_ELBO):
    r"""SGVB-B: the KL in closed form; Pyro's ``TraceMeanField_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^B(x) = -\mathrm{KL}(q(z \mid x) \| p(z)) + \frac 1 L \sum_l \log p(x \mid z_l)

    Where no closed form is registered a site falls back to sampling, which is said once in a warning. The closed form
    needs reparameterised latents, and a guide that draws them in the model's order.

    Raises:
        ValueError: if a latent cannot be reparameterised, or guide and model draw the latents in different orders.

    Source: Kingma & Welling (2013), eq. 7.
    """

    def _score_function(self, model_trace: Trace, guide_trace: Trace) -> Tensor | float:
        return 0.0

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        _check_order(model_trace, guide_trace)
        terms = []
        sampled = []
        for name, site in _sample_sites(model_trace):
            if site["is_observed"]:
                terms.append(self._log_p(name, site))
                continue
            guide_site = guide_trace.nodes[name]
            _check_reparameterised(name, guide_site)
            kl = analytic_kl(guide_site, site)
            if kl is None:
                sampled.append(name)
                terms += [self._log_p(name, site), self._log_q(name, guide_site)]
            else:
                terms.append(Term(name, "kl", -1, self.beta, kl, kl, guide_site))
        for name, site in _sample_sites(guide_trace):
            if name not in model_trace.nodes:  # auxiliary variables of the guide
                _check_reparameterised(name, site)
                terms.append(self._log_q(name, site))
        self._say_what_is_sampled(sampled)
        return terms

    def _say_what_is_sampled(self, sites: list[str]) -> None:
        said = vars(self).setdefault("_said", set())
        news = [name for name in sites if name not in said]
        if news:
            said.update(news)
            warnings.warn(
                f"SGVB_B: no closed-form KL is registered for {', '.join(news)}; there it is sampled, as in SGVB_A.",
                stacklevel=2,
            )


def analytic_kl(guide_site: Any, model_site: Any) -> Tensor | None:
    """KL(q || p) of one site, shaped as its batch and scaled by its plates; ``None`` if none is registered."""
    if _transforms_a_delta(guide_site["fn"]):
        return None
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    kl = torch.as_tensor(kl).expand(guide_site["fn"].batch_shape)
    return scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"])


def _transforms_a_delta(fn: Any) -> bool:
    """A ``Delta`` with a log-density stands for a transformed variable, which its registered KL forgets."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    density = getattr(fn, "log_density", 0)
    return isinstance(density, Tensor) or density != 0


def _sample_sites(trace: Trace) -> list[tuple[str, Any]]:
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]


def _check_reparameterised(name: str, site: Any) -> None:
    if not site["fn"].has_rsample:
        raise ValueError(
            f"SGVB_B needs reparameterised latents, but q({name}) is a {type(site['fn']).__name__}, which has no "
            "reparameterised sampler. Use SGVB_A, which differentiates it by the score function."
        )


def _check_order(model_trace: Trace, guide_trace: Trace) -> None:
    """A closed-form KL of one site given another is right only where guide and model share the order of dependence."""
    in_model = [name for name in latent_sites(model_trace) if name in guide_trace.nodes]
    in_guide = [name for name in latent_sites(guide_trace) if name in model_trace.nodes]
    if in_model != in_guide:
        raise ValueError(
            f"SGVB_B needs a guide that draws the latents in the model's order; the model draws {', '.join(in_model)}, "
            f"the guide {', '.join(in_guide)}, where the closed-form KL is biased. Use SGVB_A, or reorder the guide."
        )
