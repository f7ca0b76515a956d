"""KL divergences: in closed form in the ELBO, and of latents whose units are independent."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from pyro_vae._checks import checked, warn
from pyro_vae.distributions.wrappers import innermost, without_events
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import Mean
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.gradients import Pathwise, StickingTheLanding
from pyro_vae.estimators.run import Run, Term
from pyro_vae.pair.gate import check_order


class ClosedForm(Estimator, TraceMeanField_ELBO):
    """The ELBO, with the KL of a site in closed form where one is registered (:class:`~pyro_vae.SGVB_B`)."""

    known = Facts(sites="reparameterized; KL sampled where no closed form is known; guide in the model's order")

    @checked(but=("num_particles",))
    def __init__(self, num_particles: int = 1, *, sticking_the_landing: bool = False, **options: Any) -> None:
        super().__init__(Mean(), StickingTheLanding() if sticking_the_landing else None, num_particles, **options)
        self.sticking_the_landing = sticking_the_landing
        self._said: set[str] = set()  # the sites whose KL is sampled, each named once

    def _check(self, run: Run) -> None:
        check_order(type(self).__name__, run.model, run.latents)
        Pathwise().check_sites(type(self).__name__, run)
        self.gradient.check_sites(type(self).__name__, run)

    def _terms(self, run: Run) -> list[Term]:
        terms = []
        sampled, priors = [], run.unguided
        for name, site in run.model.items():
            if name in priors:
                continue
            guide_site = None if site.observed else run.guide[name]
            kl = None if guide_site is None else closed_kl(guide_site.fn, site.fn)
            if guide_site is not None and kl is not None:
                kl = scale_and_mask(kl, guide_site.scale, guide_site.mask)
                terms.append(Term("kl", -1, self._weight(run, "kl", guide_site), kl, kl, guide_site))
                continue
            terms.append(self._log_p(run, site))
            if guide_site is not None:
                sampled.append(name)
                terms.append(self._log_q(run, guide_site))
        # what Pyro's AutoGuides draw, of which the latents are functions
        terms += [self._log_q(run, site) for name, site in run.guide.items() if name not in run.model]
        news = [name for name in sampled if name not in self._said]
        if news:
            self._said.update(news)
            warn(
                f"{type(self).__name__}: no closed-form KL is registered for {', '.join(news)}; there it is "
                "sampled, as in SGVB_A.",
            )
        return terms


def closed_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p), shaped as the batch of q; ``None`` if no closed form is registered."""
    base = innermost(q)
    if isinstance(base, Delta) and (isinstance(base.log_density, Tensor) or base.log_density != 0):
        return None  # it stands for a transformed variable, whose density its registered KL forgets
    try:
        if q.batch_shape != p.batch_shape:  # outside of plates; some closed forms index their parameters
            shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)
            return torch.as_tensor(kl_divergence(q.expand(shape), p.expand(shape)))
        return torch.as_tensor(kl_divergence(q, p)).expand(q.batch_shape)
    except NotImplementedError:
        return None


def units(fn: Any) -> Distribution | None:
    """The distribution ``[*batch, *event]`` of the single units, which ``fn`` takes as independent; else ``None``."""
    fn = without_events(fn)
    return None if fn.event_shape else fn


def kl_by_unit(q: Any, p: Any, value: Tensor, scale: Any = 1.0, mask: Any = None) -> Tensor | None:
    """``[*batch, U]``: KL(q || p) of each unit of a latent, at ``value`` if no closed form is known.

    ``None`` if the units are not independent, in guide or model.

    Args:
        q, p: of the latent in guide and model.
        value: the guide's draw.
        scale, mask: of the latent's plates and handlers, of the shape of the batch.
    """
    one, other = units(q), units(p)
    if one is None or other is None:
        return None
    kl = closed_kl(one, other)
    if kl is None:
        kl = one.log_prob(value) - other.log_prob(value)
    kl = kl.expand(q.batch_shape + q.event_shape).reshape(*q.batch_shape, -1)
    scale, mask = (
        factor.unsqueeze(-1) if isinstance(factor, Tensor) and factor.dim() else factor for factor in (scale, mask)
    )
    return scale_and_mask(kl, scale=scale, mask=mask)


def aggregate(log_q: Tensor, log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""The log-density of a mixture of posteriors, :math:`\log \sum_j w_j \, q(z \mid x_j)`, and of each unit alone.

    Args:
        log_q: ``[*, M, U]``, log q(z_u | x_j) of each unit u under each of M data.
        log_weights: ``[*, M]``, log w_j.

    Returns:
        ``[*]`` and ``[*, U]``.
    """
    joint = (log_q.sum(-1) + log_weights).logsumexp(-1)
    single = (log_q + log_weights.unsqueeze(-1)).logsumexp(-2)
    return joint, single
