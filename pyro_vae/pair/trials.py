"""What only further runs of the programs tell: what depends on masked latents, and on draws."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae.batches import num_rows, rows
from pyro_vae.distributions.wrappers import innermost
from pyro_vae.pair.gate import has_autoguide
from pyro_vae.pair.pair import programs
from pyro_vae.pair.running import evaluating, run, trying
from pyro_vae.pair.sites import latent_sites, random_sites, same
from pyro_vae.pair.structure import is_point

_FEW = 64  # numbers of a map whose determinant is taken
_TRIES = 10


def has_masks(*traces: Trace) -> bool:
    """Whether a latent has a mask."""
    sites = [site for trace in traces for site in latent_sites(trace).values()]
    return any(site["mask"] is not None and site["mask"] is not True for site in sites)


def mask_problems(pair: nn.Module, *batch: Any) -> list[str]:
    """What is wrong with masked latents: a bound without their terms bounds nothing where what counts depends on them.

    The pair runs again with other draws in the place of those that are masked.
    """
    with trying(pair):
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


# Points


def point_problems(pair: nn.Module, *batch: Any) -> list[str]:
    """Whether points of a guide are what it says of what it draws besides; a sentence for what it is not.

    An AutoGuide is taken at its word. For others the points move when the draws do, and their ``log_density`` is minus
    the log-determinant of that map, where it is of few numbers.
    """
    if has_autoguide(pair):
        return []
    _, guide = programs(pair)
    with evaluating(pair), torch.random.fork_rng(), torch.inference_mode(False), pyro.validation_enabled(False):
        with torch.no_grad():
            found = run(pair, *batch)
        in_model, in_guide = map(latent_sites, found)
        alone = [name for name, site in in_guide.items() if name not in in_model and not is_point(site)]
        if not alone:
            return []
        drawn = {name: in_guide[name]["value"].detach().clone() for name in alone}
        count, number = sum(value.numel() for value in drawn.values()), max(num_rows(batch), 1)
        if count > _FEW and number > 1:  # a few data tell, where the programs take them
            few = max(1, _FEW * number // count)
            with contextlib.suppress(RuntimeError, ValueError, IndexError):
                return point_problems(pair, *rows(batch, slice(few)))
        if not all(value.is_floating_point() for value in drawn.values()):
            return [_other_point(alone)]
        sizes = [value.numel() for value in drawn.values()]

        def points(a: Tensor) -> Tensor:
            values = {name: part.reshape(drawn[name].shape) for name, part in zip(alone, a.split(sizes), strict=True)}
            trace = poutine.trace(poutine.condition(guide, data=values)).get_trace(*batch)
            sites: Any = {name: site for name, site in trace.nodes.items() if name in in_model}
            kept.update(sites)
            real = [
                biject_to(in_model[name]["fn"].support).inv(site["value"]).flatten()
                for name, site in sites.items()
                if is_point(site)
            ]
            return torch.cat(real)

        kept: dict[str, Any] = {}
        with torch.enable_grad():
            a = torch.cat([value.flatten() for value in drawn.values()])
            if a.numel() > _FEW:
                moved = points(a) != points(torch.cat([0.5 * value.flatten() + 0.1 for value in drawn.values()]))
                return [] if bool(moved.all()) else [_other_point(alone)]
            slope = torch.autograd.functional.jacobian(points, a)
        if slope.shape[0] != slope.shape[1]:
            return []  # some are points, which is said elsewhere
        log_slope = torch.linalg.slogdet(slope.double())[1]
        told = torch.zeros((), dtype=torch.float64)
        for name, site in kept.items():
            if is_point(site):
                to = biject_to(in_model[name]["fn"].support)
                u = to.inv(site["value"])
                told = told + torch.as_tensor(innermost(site["fn"]).log_density).double().sum()
                told = told + to.log_abs_det_jacobian(u, site["value"]).double().sum()
    right = torch.allclose(told.detach(), -log_slope.detach(), rtol=1e-3, atol=1e-2)
    return [] if right else [_other_point(alone)]


def _other_point(alone: list[str]) -> str:
    return (
        f"The latent {alone[0]!r} is in the guide but not in the model, and the points that the guide gives besides "
        "are not functions of it with the log_density that they tell. Sample it in the model under the same name, from "
        f"a reverse model r({alone[0]} | z, x); or draw what is a function of it from a TransformedDistribution."
    )
