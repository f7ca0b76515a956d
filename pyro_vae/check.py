"""check(): what is wrong with a pair, in sentences, before a long run starts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, counted
from pyro_vae._pyro import unvalidated, without_shapes
from pyro_vae.batches import Keywords, num_rows
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators import SGVB_A, Estimator, SVILoss, as_estimator
from pyro_vae.estimators.kl import closed_kl
from pyro_vae.pair import (
    PairRun,
    as_pair,
    evaluating,
    latent_sites,
    modules_of,
    programs,
    random_sites,
    run,
)
from pyro_vae.pair.arguments import converted
from pyro_vae.pair.failures import failure, first_line, why
from pyro_vae.pair.particles import SAID, How
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.sites import observed_sites
from pyro_vae.pair.structure import common_latents, density_problems, problems, purposes
from pyro_vae.pair.supports import Supports
from pyro_vae.pair.trials import has_masks, mask_problems, point_problems
from pyro_vae.pair.turns import fork_rng, in_turn


class PairError(ValueError):
    """A pair that cannot be trained as it is; the message has a sentence for each thing to mend.

    Attributes:
        problems: the sentences.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[Any, ...]:  # as a process of a pool sends it
        return type(self), (self.problems,)


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
        reparameterized: whether a draw carries a gradient, as one of a discrete latent does not.
    """

    name: str
    observed: bool
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    model: str
    guide: str | None
    analytic_kl: bool | None
    reparameterized: bool = True


@dataclass(frozen=True)
class Report:
    """A pair that passed :func:`check`. ``print(report)`` is a table.

    Attributes:
        sites: in the model's order.
        num_parameters: how many numbers are trained.
        notes: what is allowed but may not be meant.
        in_order: whether the guide draws the latents in the model's order, as a KL in closed form needs.
        particles: how several particles are run: ``"vectorized"``, ``"repeated"`` or ``"looped"``
            (:class:`~pyro_vae.pair.particles.Plan`); ``None`` where it was not looked at.
    """

    sites: list[Site] = field(default_factory=list)
    num_parameters: int = 0
    notes: list[str] = field(default_factory=list)
    in_order: bool = True
    particles: How | None = None

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("site", "kind", "batch", "event", "p", "q", "KL")]
        for site in self.sites:
            kl = "" if site.analytic_kl is None else ("closed form" if site.analytic_kl else "sampled")
            shapes = [" x ".join(map(str, shape)) or "-" for shape in (site.batch_shape, site.event_shape)]
            kind = "observed" if site.observed else "latent"
            rows.append((site.name, kind, *shapes, site.model, site.guide or "", kl))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        particles = [SAID[self.particles]] if self.particles else []
        return "\n".join([*lines, counted(self.num_parameters, "parameter"), *particles, *self.notes])


@checked
def check(pair: Any, *batch: Any, estimator: Any = None, **named: Any) -> Report:
    """Runs guide and model on a batch, and says what is wrong and how to mend it.

    Looked for: no plate over the data or one of the wrong size, event dimensions not declared, latents and factors that
    only the guide has, masked latents on which data depend, shapes and plates in which model and guide differ, data
    outside the support of the likelihood, distributions with parameters that they cannot have, and, with ``estimator``,
    what that estimator cannot take. The report says how several particles of the pair are run.

    The pair, torch's random state and Pyro's settings are left as they were, but that the ``pyro.param`` statements
    and modules of its programs then belong to the pair.

    Args:
        pair: the pair.
        batch: the arguments of model and guide, ``x: [B, *event]`` first; :mod:`pyro_vae.pair.arguments` tells what the
            programs are given of them, here as in ``fit``.
        estimator: an estimator to try on the pair, or a loss as ``pyro.infer.SVI`` takes it. Such a loss asks for
            nothing that a bound needs: what stands in the way of one is then a note.
        named: arguments that are passed by name.

    Returns:
        The sites with their shapes, families and whether their KL is known in closed form.

    Raises:
        TypeError: if ``pair`` has no model and guide.
        PairError: a ``ValueError`` with a sentence for each problem.

    >>> import torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.rand(3, 4).round()
    >>> print(pv.check(vae, x, estimator=pv.SGVB_B()))
    site  kind      batch  event  p          q       KL
    z     latent    3      2      Normal     Normal  closed form
    x     observed  3      4      Bernoulli
    136 parameters
    Several particles are one run of the programs, with a dimension of their own on the left.
    """
    with in_turn():
        return _checked(as_pair(pair), batch, estimator, named)


def _checked(module: nn.Module, batch: Any, estimator: Any, named: dict[str, Any]) -> Report:
    try:
        batch = converted(module, (*batch, Keywords(named)) if named else batch, any_data=True)
    except (ValueError, TypeError) as error:
        _refuse(str(error), because=error)
    report = report_on(module, batch, as_estimator(estimator))
    return replace(report, particles=plan_of(*programs(module), batch, {}).how)


def report_on(
    module: nn.Module, batch: tuple[Any, ...], estimator: Estimator | None, supports: Supports | None = None
) -> Report:
    """What :func:`check` says, but for particles, of a batch as the programs are given it; ``supports`` learns it."""
    count = num_rows(batch)
    if not count and not isinstance(estimator, SVILoss):
        given = ", ".join(f"shape {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in batch)
        _refuse(
            "check needs a batch of tensors: check(pair, x), with x of shape [B, *event] and B at least 1; got "
            f"{given or 'none'}. Programs whose arguments are no data are trained by a loss of Pyro's: "
            "estimator=Trace_ELBO()."
        )
    buffers = [(buffer, buffer.detach().clone()) for part in modules_of(module) for buffer in part.buffers()]
    try:
        # In evaluation mode: batch statistics and dropout are none of check's business.
        with evaluating(module), torch.no_grad(), fork_rng():
            if isinstance(estimator, SVILoss):
                return _trained_as_it_is(module, batch, estimator)
            with unvalidated():
                one = _run(module, batch, count)
                if supports is not None:
                    supports.learn(batch, observed_sites(one.model_trace))
                _refuse(*(mask_problems(module, *batch) if has_masks(*one) else ()))
                alone = latent_sites(one.guide_trace).keys() - latent_sites(one.model_trace).keys()
                _refuse(*(point_problems(module, *batch) if alone else ()))
            with pyro.validation_enabled(True):  # Pyro's own checks, and the estimator's
                _try(SGVB_A(), module, batch)
                if estimator is not None:
                    _try(estimator, module, batch)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return _report(module, one)


def _trained_as_it_is(pair: nn.Module, batch: tuple[Any, ...], loss: SVILoss) -> Report:
    """A report of a pair that a loss of SVI trains, of which no bound is asked."""
    with pyro.validation_enabled(True):
        _try(loss, pair, batch)
    with unvalidated():
        one = run(pair, *batch)
        report = _report(pair, one)
        wrong = problems(one, num_rows(batch))
    report.notes.extend(f"No bound is known of this pair, nor log p(x): {text}" for text in wrong)
    return report


def _refuse(*sentences: str, because: Exception | None = None) -> None:
    if sentences:
        raise PairError(list(sentences)) from because


def _run(pair: nn.Module, batch: tuple[Any, ...], count: int) -> PairRun:
    """A run with log-probabilities, in which nothing is wrong."""
    try:
        found = run(pair, *batch)
        wrong = problems(found, count)
    except Exception as error:
        _refuse(*(why(*programs(pair), batch) or [failure(error, "pair", batch)]), because=error)
    _refuse(*wrong)
    for which, trace in (("model", found.model_trace), ("guide", found.guide_trace)):
        try:
            trace.compute_log_prob()
        except Exception as error:
            _refuse(failure(error, which, batch), because=error)
    _refuse(*density_problems(found))
    return found


def _try(estimator: Estimator, pair: nn.Module, batch: tuple[Any, ...]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found vars in model but not guide")  # a note of the report
            estimator.try_on(pair, *batch)
    except (ValueError, RuntimeError) as error:
        text = without_shapes(str(error))
        _refuse(text if "\n" not in text else f"Pyro's own check fails: {first_line(error)}", because=error)


def _report(pair: nn.Module, one: PairRun) -> Report:
    in_model, in_guide = common_latents(*map(latent_sites, one))
    sites = []
    for name, p in random_sites(one.model_trace).items():
        q: Any = None if p["is_observed"] else one.guide_trace.nodes.get(name)
        shapes = tuple(p["fn"].batch_shape), tuple(p["fn"].event_shape)
        closed = None if q is None else in_model == in_guide and closed_kl(q["fn"], p["fn"]) is not None
        drawn = p["is_observed"] or bool((p if q is None else q)["fn"].has_rsample)
        families = family(p["fn"]), None if q is None else family(q["fn"])
        sites.append(Site(name, p["is_observed"], *shapes, *families, closed, drawn))
    trained = sum(parameter.numel() for parameter in pair.parameters() if parameter.requires_grad)
    return Report(sites, trained, [*_notes(pair), *_unguided(one), *_purposes(one)], in_model == in_guide)


def _unguided(found: PairRun) -> list[str]:
    alone = [name for name in latent_sites(found.model_trace) if name not in found.guide_trace.nodes]
    return [
        f"The latent {name!r} is in the model but not in the guide, so that it is drawn from its prior, with weight "
        "one, or summed out by Enumeration."
        for name in alone
    ]


def _purposes(found: PairRun) -> list[str]:
    return [
        f"{text[:1].upper()}{text[1:]}. A bound or an evidence of it compares with others of this likelihood alone."
        for text in purposes(found.model_trace)
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
