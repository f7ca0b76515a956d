"""Draws of the prior where a predicate of the sites holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._checks import shown
from pyro_vae.batches import num_rows
from pyro_vae.conditioning.result import Draws, check_effective
from pyro_vae.diagnostics.latents import by_datum, opened, resized, run_model
from pyro_vae.distributions.steps import Present
from pyro_vae.pair import data_frame, latent_sites, programs
from pyro_vae.pair.gate import refuse, trial
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.running import Drawing, reading
from pyro_vae.pair.sites import held_sites, inside, random_sites
from pyro_vae.pair.trials import condition_problems, reading_problems
from pyro_vae.pair.turns import fork_rng

#: ``{name: [n, *event]} -> [n]``, booleans or log-weights.
Predicate = Callable[[dict[str, Tensor]], Tensor]

_AT_ONCE = 4096  # draws of the prior in one run


def everything(sites: dict[str, Tensor]) -> Tensor:
    """The predicate that holds always."""
    return torch.ones(len(next(iter(sites.values()))), dtype=torch.bool)


def of_predicate(
    module: nn.Module, num_samples: int, batch: Any, predicate: Predicate, max_draws: int, seed: int
) -> Draws:
    """See :func:`pyro_vae.conditioning.sample`."""
    parts: list[dict[str, Tensor]] = []
    weights = torch.empty(0, dtype=torch.float64)
    drawn, effective = 0, 0.0
    with fork_rng():
        torch.manual_seed(seed)
        while drawn < max_draws and effective < num_samples:
            sites = _prior(module, batch, min(_AT_ONCE, max_draws - drawn), look=not parts)
            count = len(next(iter(sites.values())))
            found = _log_weights(predicate(dict(sites)), count)
            chosen = found > -math.inf
            weights = torch.cat([weights, found[chosen]])
            parts.append({name: value[chosen] for name, value in sites.items()})
            drawn += count
            if len(weights):
                effective = (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp().item()
        if not len(weights):
            raise ValueError(
                f"none of {drawn:,} draws of the prior satisfies the predicate. Give one that is less narrow, or that "
                "tells log-weights, or allow more draws (max_draws)."
            )
        check_effective(effective, drawn, num_samples)
        if bool((weights == weights[0]).all()):  # none counts more: each is kept once
            index = torch.arange(num_samples)
        else:
            index = torch.multinomial(weights.softmax(0), num_samples, replacement=True)
    kept = {name: torch.cat([part[name] for part in parts])[index] for name in parts[0]}
    return Draws(kept, torch.tensor(effective), "prior", drawn)


def _log_weights(told: Any, count: int) -> Tensor:
    """What a predicate tells of ``count`` draws, as log-weights."""
    if not isinstance(told, Tensor):
        raise TypeError(f"a predicate gives a tensor [{count}], of booleans or log-weights; got {shown(told)}.")
    if told.shape != (count,):
        raise ValueError(
            f"a predicate gives a number for each of the {count} draws that it is given; got the shape "
            f"{list(told.shape)}. Reduce other dimensions, as by .all(-1) or .sum(-1)."
        )
    told = told.detach().cpu()
    found = torch.where(told, 0.0, -math.inf).double() if told.dtype == torch.bool else told.double()
    if not bool((found < math.inf).all()):
        raise ValueError(
            f"the log-weights of a predicate are NaN or infinite for {int((~(found < math.inf)).sum())} of {count} "
            "draws. Minus infinity is the weight 0."
        )
    return found


def _prior(module: nn.Module, batch: Any, count: int, look: bool) -> dict[str, Tensor]:
    """Draws of the model, ``{name: [n, *event]}``: each latent of a datum, and what it observes."""
    if num_rows(batch):
        batch = resized(batch, count)
        with _Whole():
            trace = run_model(module, batch, {}, draw_shared=True)
        plate = data_frame(trace, count)
        if look:
            _look(module, batch, trace, plate, count)
        sites = latent_sites(trace)
        found = {name: by_datum(site, site["value"], plate, count) for name, site in sites.items()}
    else:
        with reading(module):
            model, _ = programs(module)
            try:
                held = held_sites(trial(module, *batch, guide=False).model_trace, batch)
                trace = plan_of(model, model, batch, {}).trace(Drawing(held)(model), batch, {}, count)
            except Exception as error:
                what = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ValueError(
                    f"the model does not run without data ({what}): pass an example batch, as in sample(pair, 100, x, "
                    "where=...)."
                ) from error
        plate = data_frame(trace)
        found = {name: _of_particles(site, count, plate) for name, site in latent_sites(trace).items()}
    _refuse_factors(trace)
    return {name: value.detach().cpu() for name, value in found.items()}


def _look(module: nn.Module, batch: Any, trace: Trace, plate: Any, count: int) -> None:
    """Refuses draws that are not independent ones of one condition."""
    with opened(module, batch, any_data=True) as (_, examples):
        model = programs(module)[0]
        held = held_sites(trial(module, *examples, guide=False).model_trace, examples, count)
        drawn = {n: s for n, s in random_sites(trace).items() if n not in held and not isinstance(s["fn"], Unit)}
        if plate is not None and (shared := [name for name, site in drawn.items() if not inside(site, plate)]):
            raise ValueError(
                f"the site {shared[0]!r} stands outside of the data plate, so that all data of a run share one draw of "
                "it, and draws of several runs are needed. Leave out the example data, where the model runs without, "
                "or hold it by poutine.condition, and hide it by poutine.block, in model and guide."
            )
        refuse(reading_problems(model, trace, examples))
        refuse(condition_problems(model, trace, examples, count))


class _Whole(Messenger):
    """Draws what is missing in example data too, of which the shape alone matters."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and isinstance(msg["fn"], Present):
            msg["fn"] = msg["fn"].whole


def _of_particles(site: Any, count: int, plate: Any) -> Tensor:
    """The draws of ``count`` particles of one datum, ``[n, *other plates, *event]``."""
    value = site["value"] if plate is None else site["value"].select(plate.dim - site["fn"].event_dim, 0)
    return value.expand(count, *value.shape[1:])


def _refuse_factors(trace: Trace) -> None:
    for name, site in random_sites(trace).items():
        if isinstance(site["fn"], Unit):
            raise ValueError(
                f"{name!r} is a factor, which weighs what the model draws, so that its draws are not of p(x, z). Leave "
                "it out of the model, and tell its value by where=, a function of the sites that gives log-weights."
            )
