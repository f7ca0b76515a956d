"""Latents whose units are independent, unit by unit."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from pyro_vae.distributions.wrappers import without_events
from pyro_vae.estimators.sgvb import transforms_a_delta


def units(fn: Any) -> Distribution | None:
    """The distribution ``[*batch, *event]`` of the single units, which ``fn`` takes as independent; else ``None``."""
    fn = without_events(fn)
    return None if fn.event_shape else fn


def kl_by_unit(guide_site: Any, model_site: Any) -> Tensor | None:
    """``[*batch, U]``: KL(q || p) of each unit of a site, scaled by its plates, at the draw if no closed form is known.

    ``None`` if the units are not independent, in guide or model.
    """
    q, p = units(guide_site["fn"]), units(model_site["fn"])
    if q is None or p is None:
        return None
    try:
        if transforms_a_delta(q):
            raise NotImplementedError
        kl = kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(guide_site["value"]) - p.log_prob(guide_site["value"])
    batch_shape = guide_site["fn"].batch_shape
    kl = kl.expand(batch_shape + guide_site["fn"].event_shape).reshape(*batch_shape, -1)
    scale, mask = (
        value.unsqueeze(-1) if isinstance(value, Tensor) and value.dim() else value
        for value in (guide_site["scale"], guide_site["mask"])
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
