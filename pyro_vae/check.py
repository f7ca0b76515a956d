"""check(): what is wrong with a pair, in sentences, before a long run starts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae._pyro import mismatch, without_shapes
from pyro_vae.batches import num_rows
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators import SGVB_A, Estimator
from pyro_vae.estimators.kl import closed_kl
from pyro_vae.pair import (
    PairRun,
    as_pair,
    evaluating,
    latent_sites,
    modules_of,
    observed_sites,
    random_sites,
    run,
    vectorized,
)
from pyro_vae.pair.arguments import arguments, converted
from pyro_vae.pair.gate import too_deep
from pyro_vae.pair.structure import common_latents, density_problems, plate_nesting, problems, wrong_size
from pyro_vae.pair.trials import has_masks, mask_problems, point_problems


class PairError(ValueError):
    """A pair that cannot be trained as it is; the message has a sentence for each thing to mend.

    Attributes:
        problems: the sentences.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True)
class Site:
    """One random variable of a pair, as :func:`check` saw it.

    Attributes:
        name: of the sample statement.
        observed: whether the model meets the data here.
        batch_shape: plates around it, without particles.
        event_shape: shape of one value.
        model: family of p.
        guide: family of q; ``None`` where observed.
        analytic_kl: whether KL(q || p) is known in closed form; ``None`` where observed.
    """

    name: str
    observed: bool
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    model: str
    guide: str | None
    analytic_kl: bool | None


@dataclass(frozen=True)
class Report:
    """A pair that passed :func:`check`. ``print(report)`` is a table.

    Attributes:
        sites: in the model's order.
        num_parameters: how many numbers are trained.
        notes: what is allowed but may not be meant.
        in_order: whether the guide draws the latents in the model's order, as a KL in closed form needs.
    """

    sites: list[Site] = field(default_factory=list)
    num_parameters: int = 0
    notes: list[str] = field(default_factory=list)
    in_order: bool = True

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("site", "kind", "batch", "event", "p", "q", "KL")]
        for site in self.sites:
            kl = "" if site.analytic_kl is None else ("closed form" if site.analytic_kl else "sampled")
            shapes = [" x ".join(map(str, shape)) or "-" for shape in (site.batch_shape, site.event_shape)]
            kind = "observed" if site.observed else "latent"
            rows.append((site.name, kind, *shapes, site.model, site.guide or "", kl))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"{self.num_parameters:,} parameters", *self.notes])


def check(pair: Any, *batch: Any, estimator: Estimator | None = None, **named: Any) -> Report:
    """Runs guide and model on a batch, with one particle and with two, and says what is wrong and how to mend it.

    Looked for: no plate over the data or one of the wrong size, event dimensions not declared, latents and factors that
    only the guide has, masked latents on which data depend, shapes and plates in which model and guide differ, data
    outside the support of the likelihood, distributions with parameters that they cannot have, networks that fold
    leading dimensions away, and, with ``estimator``, what that estimator cannot take.

    The pair, torch's random state and Pyro's settings are left as they were, but that the ``pyro.param`` statements
    and modules of its programs then belong to the pair.

    Args:
        pair: the pair.
        batch: the arguments of model and guide, ``x: [B, *event]`` first; :mod:`pyro_vae.pair.arguments` tells what the
            programs are given of them, here as in ``fit``.
        estimator: an estimator to try on the pair.
        named: arguments that are passed by name.

    Returns:
        The sites with their shapes, families and whether their KL is known in closed form.

    Raises:
        TypeError: if ``pair`` has no model and guide.
        PairError: a ``ValueError`` with a sentence for each problem.
    """
    module = as_pair(pair)
    try:
        batch = arguments(module, *batch, **named) if named else converted(module, batch)
    except (ValueError, TypeError) as error:
        _refuse(str(error), because=error)
    count = num_rows(batch)
    if not count:
        given = ", ".join(f"shape {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in batch)
        _refuse(
            "check needs a batch of tensors: check(pair, x), with x of shape [B, *event] and B at least 1; got "
            f"{given or 'none'}."
        )
    wanted = 1 if estimator is None else estimator.room
    buffers = [(buffer, buffer.detach().clone()) for part in modules_of(module) for buffer in part.buffers()]
    try:
        # In evaluation mode: batch statistics and dropout are none of check's business.
        with evaluating(module), torch.no_grad(), torch.random.fork_rng():
            with pyro.validation_enabled(False):
                one = _run(module, batch, count)
                nesting = plate_nesting(*one)
                if estimator is not None and nesting > wanted:
                    _refuse(too_deep(type(estimator).__name__, nesting, wanted))
                nesting = max(nesting, wanted)
                _refuse(*(mask_problems(module, *batch) if has_masks(*one) else ()))
                alone = latent_sites(one.guide_trace).keys() - latent_sites(one.model_trace).keys()
                _refuse(*(point_problems(module, *batch) if alone else ()))
                _refuse(*_particle_problems(_run(module, batch, count, 2, nesting), one, nesting))
            with pyro.validation_enabled(True):  # Pyro's own checks, and the estimator's
                _try(SGVB_A(2, max_plate_nesting=nesting), module, batch)
                if estimator is not None:
                    _try(estimator, module, batch)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return _report(module, one)


def _refuse(*sentences: str, because: Exception | None = None) -> None:
    if sentences:
        raise PairError(list(sentences)) from because


def _run(
    pair: nn.Module, batch: tuple[Any, ...], count: int, particles: int | None = None, nesting: int = 1
) -> PairRun:
    """A run with log-probabilities, in which nothing is wrong."""
    wrong: list[str] = []
    which = "guide"
    try:
        found = run(pair, *batch, num_particles=particles, max_plate_nesting=nesting)
        if particles is None:
            wrong = problems(found, count)
    except Exception as error:
        model, guide = vectorized(pair, particles, nesting)
        with contextlib.suppress(Exception):
            guide_trace = poutine.trace(guide).get_trace(*batch)
            which = "model"
            if particles is None:
                # What the guide draws may not fit the model: on its own draws it tells where they differ.
                wrong = problems(PairRun(poutine.trace(model).get_trace(*batch), guide_trace), count)
        _refuse(*(wrong or [_failure(error, which, pair, count, particles)]), because=error)
    _refuse(*wrong)
    for which, trace in (("model", found.model_trace), ("guide", found.guide_trace)):
        try:
            trace.compute_log_prob()
        except Exception as error:
            _refuse(_failure(error, which, pair, count, particles), because=error)
    _refuse(*(density_problems(found) if particles is None else ()))
    return found


def _try(estimator: Estimator, pair: nn.Module, batch: tuple[Any, ...]) -> None:
    try:
        estimator.try_on(pair, *batch)
    except (ValueError, RuntimeError) as error:
        text = without_shapes(str(error))
        _refuse(text if "\n" not in text else f"Pyro's own check fails: {_first_line(error)}", because=error)


_FOLDS = (
    "With two particles the {which} fails ({error}). A latent then has one more dimension on the left, "
    "[2, B, *event], which a network has to keep: flatten and unflatten only the event dimensions, for example "
    "x.flatten(-3) instead of x.view(len(x), -1). Where data meet a latent, give them its dimensions: "
    "x.expand(*z.shape[:-1], -1)."
)


def _particle_problems(two: PairRun, one: PairRun, nesting: int) -> list[str]:
    """Data whose log-likelihood with two particles has no dimension of them."""
    for name, site in observed_sites(two.model_trace).items():
        expected, shape = one.model_trace.nodes[name]["log_prob"].shape, site["log_prob"].shape
        plates = (1,) * (nesting - len(expected)) + tuple(expected)
        if (1,) * (nesting + 1 - len(shape)) + tuple(shape) not in ((1, *plates), (2, *plates)):
            error = f"the log-likelihood of {name} has shape {list(shape)} instead of {[2, *plates]}"
            return [_FOLDS.format(which="model", error=error)]
    return []


def _failure(error: Exception, which: str, pair: nn.Module, count: int, particles: int | None) -> str:
    text, wrong = str(error), mismatch(str(error))
    if particles is not None:
        details = wrong and f"site {wrong.site} has {wrong.got} where plate {wrong.plate} has {wrong.wanted}"
        return _FOLDS.format(which=which, error=details or _first_line(error))
    if wrong is not None and wrong.wanted != count == wrong.got and wrong.dim == -1:
        return wrong_size(f"plate {wrong.plate!r}", which, wrong.wanted, count)
    if wrong is not None:
        return (
            f"At site {wrong.site!r} of the {which} the distribution has size {wrong.got} at dimension {wrong.dim}, "
            f"where plate {wrong.plate!r} has {wrong.wanted}. If that is a dimension of one datum, declare it as an "
            "event dimension: add .to_event(n), n the number of dimensions of one datum; otherwise make the network "
            "give one row for each datum."
        )
    if type(error) is ValueError and "\n" not in text:
        return text  # already a sentence, from one of the rooms or from the user's own program
    return f"The {which} fails on this batch of {count} ({_first_line(error)}).{_hint(text)}"


def _hint(text: str) -> str:
    if "argument" in text and "positional" in text:
        return " Model and guide take the same arguments, those of check: check(pair, x) runs guide(x) and model(x)."
    if "Multiple" in text and "named" in text:
        return " Give each sample statement and each plate a name of its own."
    if "is not callable" in text:
        return " pyro.sample takes a distribution, for example pyro.distributions.Normal(loc, scale).to_event(1)."
    return ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in without_shapes(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


def _report(pair: nn.Module, one: PairRun) -> Report:
    in_model, in_guide = common_latents(*map(latent_sites, one))
    sites = []
    for name, p in random_sites(one.model_trace).items():
        q = None if p["is_observed"] else one.guide_trace.nodes.get(name)
        shapes = tuple(p["fn"].batch_shape), tuple(p["fn"].event_shape)
        closed = None if q is None else in_model == in_guide and closed_kl(q["fn"], p["fn"]) is not None
        sites.append(
            Site(name, p["is_observed"], *shapes, family(p["fn"]), None if q is None else family(q["fn"]), closed)
        )
    trained = sum(parameter.numel() for parameter in pair.parameters() if parameter.requires_grad)
    return Report(sites, trained, [*_notes(pair), *_unguided(one)], in_model == in_guide)


def _unguided(found: PairRun) -> list[str]:
    alone = [name for name in latent_sites(found.model_trace) if name not in found.guide_trace.nodes]
    return [
        f"The latent {name!r} is in the model but not in the guide, so that it is drawn from its prior, with weight "
        "one, or summed out by Enumeration."
        for name in alone
    ]


def _notes(pair: nn.Module) -> list[str]:
    owned = {id(parameter) for parameter in pair.parameters()}
    notes = []
    for module in modules_of(pair)[1:]:
        left_out = {id(p): p.numel() for p in module.parameters() if p.requires_grad and id(p) not in owned}
        owned.update(left_out)  # said once
        if left_out:
            notes.append(
                f"A {type(module).__name__} that the programs refer to is not trained ({sum(left_out.values()):,} "
                "parameters): announce it in them by pyro.module(name, module), unless it is fixed on purpose."
            )
    return notes
