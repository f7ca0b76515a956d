"""What only further runs of the programs tell: what depends on masked latents, and on draws."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae.batches import flattened, num_rows, rows, unflattened
from pyro_vae.distributions.wrappers import innermost, unmasked, whole
from pyro_vae.pair.gate import has_autoguide
from pyro_vae.pair.pair import programs
from pyro_vae.pair.running import argument_of, evaluating, put, run, trying
from pyro_vae.pair.sites import latent_sites, random_sites, same, support_of
from pyro_vae.pair.structure import is_point
from pyro_vae.pair.turns import fork_rng

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
    with evaluating(pair), fork_rng(), torch.inference_mode(False), pyro.validation_enabled(False):
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


# Data that a model reads


def reading_problems(
    model: Callable[..., Any],
    drawn: Trace,
    batch: Sequence[Any],
    other: Callable[[str, Any], Tensor] = lambda _, site: site["fn"].sample(),
) -> list[str]:
    """Whether a model takes a distribution from data that it observes; a sentence if it does.

    Then what it draws in the place of these, or of entries that are missing, is not of p(x, z): what follows is told
    those that were given. Where every site has the same value, each density has to be the same with other data.

    Args:
        model: the program.
        drawn: a run of it, with its latents.
        batch: its arguments.
        other: of an observed site, by its name, other data of the shape of its value; draws by default.
    """
    tensors, structure = flattened(batch)
    with torch.no_grad(), fork_rng(), pyro.validation_enabled(False):
        given = [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
        first = _met(model, drawn, structure, given)
        found = {name: argument_of(site["value"], given) for name, site in first.items() if site["is_observed"]}
        read = {name: index for name, index in found.items() if index is not None}
        discrete = any(getattr(support_of(first[name]["fn"]), "is_discrete", True) for name in read)
        held = poutine.condition(model, data={name: first[name]["value"] for name in read})
        for _ in range((_TRIES if discrete else 1) if read else 0):  # few values are easily drawn twice
            changed = list(given)
            for name, index in read.items():
                changed[index] = put(name, changed[index], first[name]["value"], other(name, first[name]))
            for name in _differing(first, _met(held, drawn, structure, changed)):
                return [
                    f"The model takes p({name}) from data that it observes, and not from what pyro.sample returns, "
                    "so that what it draws in their place is not of p(x, z). Go on from what pyro.sample returns, "
                    "or write a sequence as one distribution, as the decoder of models.GRUVAE does."
                ]
    return []


def condition_problems(model: Callable[..., Any], drawn: Trace, batch: Sequence[Any], size: int) -> list[str]:
    """Whether a model takes a distribution from rows of its arguments that differ; a sentence if it does.

    Args:
        model, drawn, batch: as of :func:`reading_problems`.
        size: of how many data the arguments are.
    """
    tensors, structure = flattened(batch)
    rolled = [tensor.roll(1, 0) if tensor.shape[:1] == (size,) else tensor for tensor in tensors]
    with torch.no_grad(), fork_rng(), pyro.validation_enabled(False):
        first, second = (_met(model, drawn, structure, one) for one in (tensors, rolled))
        return [
            f"What is drawn is of one condition, but p({name}) differs between the rows of the arguments. Give one "
            "row, or rows that are alike but for what the model observes."
            for name in _differing(first, second)
        ][:1]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    """The sites that have other densities in a second run."""
    for name, site in first.items():
        if name not in second or not same(*(_log_prob(one["fn"], site["value"]) for one in (site, second[name]))):
            yield name


def _log_prob(fn: Any, value: Tensor) -> Tensor:
    """At a value, wherever it is masked or missing; 0 where the distribution cannot score one."""
    try:
        return cast(Tensor, whole(unmasked(fn)).log_prob(value))
    except (NotImplementedError, KeyError):  # as of Pyro's planar flow
        return torch.zeros(())


def _met(model: Callable[..., Any], drawn: Trace, structure: Any, tensors: Sequence[Tensor]) -> dict[str, Any]:
    """The random variables of a run at the latents of another."""
    torch.manual_seed(0)  # of what the model draws unseen
    trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*unflattened(structure, iter(tensors)))
    return {name: site for name, site in random_sites(trace).items() if not isinstance(site["fn"], Unit)}
