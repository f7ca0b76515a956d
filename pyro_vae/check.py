"""check(): what is wrong with a pair, in sentences, before a long run starts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.contract import DATA_PLATE, as_pair, data_frame, latent_sites, observed_sites, run
from pyro_vae.estimators import Estimator
from pyro_vae.estimators.sgvb import analytic_kl

_MISMATCH = re.compile(r"Shape mismatch inside plate\('(.*)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)")


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
    """

    sites: list[Site] = field(default_factory=list)
    num_parameters: int = 0

    def __str__(self) -> str:
        rows = [("site", "kind", "batch", "event", "p", "q", "KL")]
        for site in self.sites:
            kl = "" if site.analytic_kl is None else ("closed form" if site.analytic_kl else "sampled")
            shapes = [" x ".join(map(str, shape)) or "-" for shape in (site.batch_shape, site.event_shape)]
            kind = "observed" if site.observed else "latent"
            rows.append((site.name, kind, *shapes, site.model, site.guide or "", kl))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"{self.num_parameters:,} parameters"])


def check(pair: Any, *batch: Any, estimator: Estimator | None = None) -> Report:
    """Runs guide and model on a batch, with one particle and with two, and says what is wrong and how to mend it.

    Looked for: no plate over the data or one of the wrong size, event dimensions not declared, latents that only the
    model or only the guide has, shapes in which model and guide differ, data outside the support of the likelihood,
    networks that fold leading dimensions away, and, with ``estimator``, what that estimator cannot take.

    Args:
        pair: the pair.
        batch: the arguments of model and guide, ``x: [B, *event]`` first.
        estimator: an estimator to try on the pair.

    Returns:
        The sites with their shapes, families and whether their KL is known in closed form.

    Raises:
        PairError: a ``ValueError`` with a sentence for each problem.
    """
    module = as_pair(pair)
    tensors = [value for value in batch if isinstance(value, Tensor)]
    if not tensors or not len(tensors[0]):
        raise PairError(["check needs a batch: check(pair, x), with x of shape [B, *event] and B at least 1."])
    size = len(tensors[0])
    nesting = 1 if estimator is None else estimator.max_plate_nesting - (estimator.num_particles > 1)
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
            module.eval()  # batch statistics and dropout are none of check's business
            one = _run(module, batch, size, None, nesting)
            _raise(_problems(*one, tensors, size))
            two = _run(module, batch, size, 2, nesting)
            _raise(_particle_problems(*two, one[0], size))
        with torch.random.fork_rng():
            _try(module, batch, estimator)
    finally:
        for part, training in modes:
            part.training = training
    return _report(module, *one)


def _raise(problems: list[str]) -> None:
    if problems:
        raise PairError(problems)


def _run(
    pair: nn.Module, batch: tuple[Any, ...], size: int, particles: int | None, nesting: int
) -> tuple[Trace, Trace]:
    try:
        traces = run(pair, *batch, num_particles=particles, max_plate_nesting=nesting)
        for trace in traces:
            trace.compute_log_prob()
        return traces
    except (ValueError, RuntimeError, IndexError) as error:
        mismatch = _MISMATCH.search(str(error))
        if mismatch:
            plate, site, dim = mismatch[1], mismatch[2], int(mismatch[3])
            raise PairError(
                [_mismatch(plate, site, dim, int(mismatch[4]), int(mismatch[5]), size, particles)]
            ) from error
        if particles is not None:
            raise PairError([_FOLDS.format(error=_first_line(error))]) from error
        if type(error) is ValueError and "\n" not in str(error):
            raise  # already a sentence, from one of the rooms or from the user's own program
        raise PairError([f"the pair fails on this batch of {size}: {_first_line(error)}"]) from error


_FOLDS = (
    "With two particles the pair fails ({error}). A latent then has one more dimension on the left, "
    "[2, B, *event], which a network has to keep: flatten and unflatten only the event dimensions, for example "
    "x.flatten(-3) instead of x.view(len(x), -1)."
)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


def _mismatch(plate: str, site: str, dim: int, wanted: int, got: int, size: int, particles: int | None) -> str:
    if particles is not None:
        return _FOLDS.format(error=f"site {site} has {got} where plate {plate} has {wanted}")
    if wanted != size and got == size and dim == -1:
        return (
            f"The plate {plate!r} has size {wanted}, but the batch has {size} data. "
            f'Size it by the batch: pyro.plate("{DATA_PLATE}", len(x)).'
        )
    return (
        f"At site {site!r} the distribution has size {got} at dimension {dim}, where plate {plate!r} has {wanted}. "
        "If that is a dimension of one datum, declare it as an event dimension: add .to_event(n), n the number of "
        "dimensions of one datum; otherwise make the network give one row for each datum."
    )


def _problems(model_trace: Trace, guide_trace: Trace, tensors: list[Tensor], size: int) -> list[str]:
    problems = _plate_problems(model_trace, guide_trace, size)
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    auxiliary = {name for name, site in in_guide.items() if site["infer"].get("is_auxiliary")}
    for name in in_model.keys() - in_guide.keys():
        problems.append(
            f"The latent {name!r} is in the model but not in the guide. Sample it in the guide as well, or, if it is "
            f'the data, pass obs=x in the model: pyro.sample("{name}", ..., obs=x).'
        )
    for name in in_guide.keys() - in_model.keys() - auxiliary:
        problems.append(
            f"The latent {name!r} is in the guide but not in the model. Sample it in the model under the same name, "
            'or mark it by infer={"is_auxiliary": True}.'
        )
    for name in in_model.keys() & in_guide.keys():
        p, q = in_model[name]["fn"], in_guide[name]["fn"]
        if p.event_shape != q.event_shape:
            problems.append(
                f"At site {name!r} the model's event shape is {list(p.event_shape)}, the guide's {list(q.event_shape)}. "
                "Give both the same size and the same to_event(n)."
            )
        elif p.shape() != q.shape():
            problems.append(
                f"At site {name!r} the model draws {list(p.shape())}, the guide {list(q.shape())}. "
                "Put both inside the same plates."
            )
    observed = observed_sites(model_trace)
    if not observed:
        problems.append('The model observes nothing. Pass the data: pyro.sample("x", ..., obs=x).')
    for name, site in observed.items():
        problems += _observed_problems(name, site, tensors[0])
    return problems


def _plate_problems(model_trace: Trace, guide_trace: Trace, size: int) -> list[str]:
    problems = []
    for which, trace in (("model", model_trace), ("guide", guide_trace)):
        sites = {**observed_sites(trace), **latent_sites(trace)}
        frame = data_frame(trace)
        if frame is None and which == "model":
            return [
                "The model has no plate over the data, so that its data would not be independent. Put what belongs to "
                f'a datum inside `with pyro.plate("{DATA_PLATE}", len(x)):`, in model and guide.'
            ]
        if frame is not None and frame.dim != -1:
            problems.append(
                f"The data plate of the {which} is at dimension {frame.dim}; it has to be the rightmost, dim=-1."
            )
        elif frame is not None and frame.size != size:
            problems.append(
                f"The data plate of the {which} has size {frame.size}, but the batch has {size} data. "
                f'Size it by the batch: pyro.plate("{DATA_PLATE}", len(x)).'
            )
        for name, site in sites.items():
            shape = site["fn"].batch_shape
            plates = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
            loose = [shape[dim] for dim in range(-len(shape), 0) if dim not in plates and shape[dim] != 1]
            if loose and size in loose and not plates:
                problems.append(
                    f"At site {name!r} of the {which} a dimension of size {size}, that of the data, is in no plate. Put "
                    f'it inside `with pyro.plate("{DATA_PLATE}", len(x)):`.'
                )
            elif loose:
                problems.append(
                    f"At site {name!r} of the {which} the dimensions {loose} are neither in a plate nor declared as "
                    f"event dimensions. Add .to_event({len(loose)})."
                )
    return problems


def _observed_problems(name: str, site: Any, x: Tensor) -> list[str]:
    fn, value = site["fn"], site["value"]
    if value.shape != fn.shape():
        return [
            f"At the observed site {name!r} the data have shape {list(value.shape)}, but the likelihood is over "
            f"{list(fn.shape())}. Give the decoder an output of the data's event shape, or reshape the data."
        ]
    inside = fn.support.check(value)
    if inside.all():
        return []
    bad = value[~inside] if inside.shape == value.shape else value
    family = _family(fn)
    low, high = bad.min().item(), bad.max().item()
    message = (
        f"At the observed site {name!r} the data leave the support of the {family} likelihood: values in "
        f"[{low:.4g}, {high:.4g}] are outside of it."
    )
    if family == "Bernoulli" and 0 <= low and high <= 1:
        message += (
            " Grey pixels are no Bernoulli draws: load the data with binarization='dynamic' or 'static', or take them "
            "on purpose by Bernoulli(network, support='unit_interval')."
        )
    elif not math.isfinite(low + high):
        message += " Remove what is not finite."
    else:
        message += " Rescale the data, or choose a likelihood for such values."
    return [message]


def _particle_problems(model_trace: Trace, guide_trace: Trace, one: Trace, size: int) -> list[str]:
    for name, site in observed_sites(model_trace).items():
        expected = observed_sites(one)[name]["log_prob"].shape
        shape = site["log_prob"].shape
        if shape[-len(expected) :] != expected or shape.numel() not in (expected.numel(), 2 * expected.numel()):
            error = f"the log-likelihood of {name} has shape {list(shape)} instead of {[2, *expected]}"
            return [_FOLDS.format(error=error)]
    return []


def _try(pair: nn.Module, batch: tuple[Any, ...], estimator: Estimator | None) -> None:
    """One validated pass: Pyro's own checks, and the estimator's."""
    from pyro_vae.estimators import SGVB_A

    with torch.no_grad(), pyro.validation_enabled(True):
        try:
            nesting = 1 if estimator is None else estimator.max_plate_nesting - (estimator.num_particles > 1)
            SGVB_A(2, max_plate_nesting=nesting).bound(pair, *batch)
            if estimator is not None:
                estimator.bound(pair, *batch)
        except (ValueError, RuntimeError) as error:
            text = str(error)
            raise PairError([text if "\n" not in text else f"Pyro's own check fails: {_first_line(error)}"]) from error


def _family(fn: Any) -> str:
    while hasattr(fn, "base_dist") and type(fn).__name__ in (
        "Independent",
        "ExpandedDistribution",
        "MaskedDistribution",
    ):
        fn = fn.base_dist
    name = type(fn).__name__
    return "Bernoulli" if name.endswith("Bernoulli") and name.startswith("_") else name


def _report(pair: nn.Module, model_trace: Trace, guide_trace: Trace) -> Report:
    sites = []
    observed = observed_sites(model_trace)
    for name, site in {**latent_sites(model_trace), **observed}.items():
        q = guide_trace.nodes.get(name)
        is_observed = name in observed
        sites.append(
            Site(
                name,
                is_observed,
                tuple(site["fn"].batch_shape),
                tuple(site["fn"].event_shape),
                _family(site["fn"]),
                None if is_observed or q is None else _family(q["fn"]),
                None if is_observed or q is None else analytic_kl(q, site) is not None,
            )
        )
    trained = sum(parameter.numel() for parameter in pair.parameters() if parameter.requires_grad)
    return Report(sites, trained)
