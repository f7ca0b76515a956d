"""Masked latents: what a bound may leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.pair.gate import same
from pyro_vae.pair.pair import programs
from pyro_vae.pair.running import evaluating, run
from pyro_vae.pair.sites import latent_sites, random_sites

_TRIES = 10


def has_masks(*traces: Trace) -> bool:
    """Whether a latent has a mask."""
    sites = [site for trace in traces for site in latent_sites(trace).values()]
    return any(site["mask"] is not None and site["mask"] is not True for site in sites)


def mask_problems(pair: nn.Module, *batch: Any) -> list[str]:
    """What is wrong with masked latents: a bound without their terms bounds nothing where what counts depends on them.

    The pair runs again with other draws in the place of those that are masked.
    """
    with evaluating(pair), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        found = run(pair, *batch)
        if not has_masks(*found):
            return []
        in_model, in_guide = map(latent_sites, found)
        shared = {name: (in_model[name], site) for name, site in in_guide.items() if name in in_model}
        masks = {name: [_mask(site) for site in sites] for name, sites in shared.items()}
        wrong = [
            f"The latent {name!r} is masked otherwise in the model than in the guide, so that the terms of the bound "
            "do not belong together. Put the same poutine.mask around it in both."
            for name, both in masks.items()
            if not torch.equal(*torch.broadcast_tensors(*both))
        ]
        model, guide = programs(pair)
        before = _scored(model, found.guide_trace, *batch)
        discrete = any(site["fn"].support.is_discrete for _, site in shared.values())
        for _ in range(_TRIES if discrete else 1):  # few values are easily drawn twice
            other, mixed = poutine.trace(guide).get_trace(*batch), Trace()
            for name, site in found.guide_trace.nodes.items():
                if name in masks:
                    values: Any = site["value"], other.nodes[name]["value"]
                    site = {**site, "value": torch.where(masks[name][1], *values)}
                mixed.add_node(name, **site)
            after = _scored(model, mixed, *batch)
            depend = [name for name, log_prob in before.items() if not same(log_prob, after[name])]
            if depend:
                masked = ", ".join(name for name, (mask, _) in masks.items() if not mask.all())
                wrong.append(
                    f"{masked} has masked draws on which {depend[0]!r} depends, so that these would count without "
                    "their density. Mask what depends on them too, or take the mask from the latent."
                )
                break
    return wrong


def _scored(model: Callable[..., Any], draws: Trace, *batch: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)  # of what the model draws itself
    trace = poutine.trace(poutine.replay(model, trace=draws)).get_trace(*batch)
    trace.compute_log_prob()
    return {name: site["log_prob"] for name, site in random_sites(trace).items()}


def _mask(site: Any) -> Tensor:
    """A site's mask, in the shape of its values."""
    value, mask, events = site["value"], site["mask"], site["fn"].event_dim
    if mask is None or isinstance(mask, bool):
        mask = torch.tensor(mask is not False, device=value.device)
    return mask.reshape(mask.shape + (1,) * events).expand(
        torch.broadcast_shapes(mask.shape + (1,) * events, value.shape)
    )
