"""check(): what is wrong with a pair, in sentences, before a long run starts."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import is_dependent

from pyro_vae.distributions.wrappers import family, innermost
from pyro_vae.estimators import Estimator
from pyro_vae.estimators.kl import closed_kl, shared_latents
from pyro_vae.pair import (
    DATA_PLATE,
    Pair,
    as_pair,
    data_frame,
    evaluating,
    latent_sites,
    observed_sites,
    support_of,
    vectorized,
)

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


def check(pair: Any, *batch: Any, estimator: Estimator | None = None) -> Report:
    """Runs guide and model on a batch, with one particle and with two, and says what is wrong and how to mend it.

    Looked for: no plate over the data or one of the wrong size, event dimensions not declared, latents that only the
    model or only the guide has, shapes and plates in which model and guide differ, data outside the support of the
    likelihood, distributions with parameters that they cannot have, networks that fold leading dimensions away, and,
    with ``estimator``, what that estimator cannot take.

    The pair, torch's random state and Pyro's settings are left as they were, but that the ``pyro.param`` statements
    and modules of its programs then belong to the pair.

    Args:
        pair: the pair.
        batch: the arguments of model and guide, ``x: [B, *event]`` first.
        estimator: an estimator to try on the pair.

    Returns:
        The sites with their shapes, families and whether their KL is known in closed form.

    Raises:
        TypeError: if ``pair`` has no model and guide.
        PairError: a ``ValueError`` with a sentence for each problem.
    """
    module = as_pair(pair)
    tensors = [value for value in batch if isinstance(value, Tensor)]
    if not tensors or not tensors[0].dim() or not len(tensors[0]):
        given = ", ".join(f"shape {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__ for v in batch)
        raise PairError(
            [
                "check needs a batch of tensors: check(pair, x), with x of shape [B, *event] and B at least 1; got "
                f"{given or 'none'}."
            ]
        )
    wanted = 1 if estimator is None else estimator.max_plate_nesting - (estimator.num_particles > 1)
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        # In evaluation mode: batch statistics and dropout are none of check's business.
        with evaluating(module), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
            one = _run(module, batch, tensors[0], None, wanted)
            nesting = _nesting(*one)
            if estimator is not None and nesting > wanted:
                _raise(
                    [
                        f"The pair nests {nesting} plates, but {type(estimator).__name__} was made for {wanted}: "
                        f"make it as {type(estimator).__name__}(..., max_plate_nesting={nesting})."
                    ]
                )
            nesting = max(nesting, wanted)
            two = _run(module, batch, tensors[0], 2, nesting)
            _raise(_particle_problems(two[0], one[0], nesting))
        with evaluating(module), torch.random.fork_rng():
            _try(module, batch, estimator, nesting)
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
    return _report(module, *one)


def _raise(problems: list[str], cause: Exception | None = None) -> None:
    if problems:
        raise PairError(problems) from cause


def _nesting(*traces: Trace) -> int:
    frames = [frame for trace in traces for _, site in _sites(trace) for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.vectorized), default=1)


def _sites(trace: Trace) -> list[tuple[str, Any]]:
    return [*latent_sites(trace).items(), *observed_sites(trace).items()]


def _run(
    pair: nn.Module, batch: tuple[Any, ...], x: Tensor, particles: int | None, nesting: int
) -> tuple[Trace, Trace]:
    """``(model_trace, guide_trace)`` with log-probabilities."""
    model, guide = vectorized(pair, particles, nesting)
    which = "guide"
    try:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        which = "model"
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        if particles is None:
            _raise(_problems(model_trace, guide_trace, x))
        model_trace.compute_log_prob()
        which = "guide"
        guide_trace.compute_log_prob()
    except PairError:
        raise
    except Exception as error:
        if which == "model" and particles is None:
            # What the guide draws may not fit the model: on its own draws it tells where they differ.
            differences: list[str] = []
            with contextlib.suppress(Exception):
                differences = _problems(poutine.trace(model).get_trace(*batch), guide_trace, x)
            _raise(differences, error)
        raise PairError([_failure(error, which, pair, x, particles)]) from error
    if particles is None:
        _raise(_not_finite(model_trace, guide_trace))
    return model_trace, guide_trace


_FOLDS = (
    "With two particles the {which} fails ({error}). A latent then has one more dimension on the left, "
    "[2, B, *event], which a network has to keep: flatten and unflatten only the event dimensions, for example "
    "x.flatten(-3) instead of x.view(len(x), -1). Where data meet a latent, give them its dimensions: "
    "x.expand(*z.shape[:-1], -1)."
)


def _failure(error: Exception, which: str, pair: nn.Module, x: Tensor, particles: int | None) -> str:
    text = str(error)
    mismatch = _MISMATCH.search(text)
    if mismatch:
        plate, site, dim = mismatch[1], mismatch[2], int(mismatch[3])
        return _mismatch(which, plate, site, dim, int(mismatch[4]), int(mismatch[5]), len(x), particles)
    if particles is not None:
        return _FOLDS.format(which=which, error=_first_line(error))
    if type(error) is ValueError and "\n" not in text:
        return text  # already a sentence, from one of the rooms or from the user's own program
    return f"The {which} fails on this batch of {len(x)} ({_first_line(error)}).{_hint(text, pair, x)}"


def _hint(text: str, pair: nn.Module, x: Tensor) -> str:
    dtype = next((parameter.dtype for parameter in pair.parameters()), torch.get_default_dtype())
    if "dtype" in text and dtype != x.dtype:
        return f" The data are of {x.dtype}, the parameters of {dtype}: pass x.to({dtype})."
    if "argument" in text and "positional" in text:
        return " Model and guide take the same arguments, those of check: check(pair, x) runs guide(x) and model(x)."
    if "Multiple" in text and "named" in text:
        return " Give each sample statement and each plate a name of its own."
    if "is not callable" in text:
        return " pyro.sample takes a distribution, for example pyro.distributions.Normal(loc, scale).to_event(1)."
    return ""


def _first_line(error: Exception) -> str:
    text = str(error).split("Trace Shapes:")[0]
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


def _mismatch(
    which: str, plate: str, site: str, dim: int, wanted: int, got: int, size: int, particles: int | None
) -> str:
    if particles is not None:
        return _FOLDS.format(which=which, error=f"site {site} has {got} where plate {plate} has {wanted}")
    if wanted != size and got == size and dim == -1:
        return (
            f"The plate {plate!r} of the {which} has size {wanted}, but the batch has {size} data. "
            f'Size it by the batch: pyro.plate("{DATA_PLATE}", len(x)).'
        )
    return (
        f"At site {site!r} of the {which} the distribution has size {got} at dimension {dim}, where plate {plate!r} "
        f"has {wanted}. If that is a dimension of one datum, declare it as an event dimension: add .to_event(n), n the "
        "number of dimensions of one datum; otherwise make the network give one row for each datum."
    )


def _problems(model_trace: Trace, guide_trace: Trace, x: Tensor) -> list[str]:
    problems = _plate_problems(model_trace, guide_trace, len(x))
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    observed = observed_sites(model_trace)
    plate = data_frame(model_trace)
    if not any(_tells(site, plate) for site in observed.values()):
        problems.append('The model observes nothing. Pass the data: pyro.sample("x", ..., obs=x).')
    else:
        for name in [name for name in in_model if name not in in_guide]:
            problems.append(
                f"The latent {name!r} is in the model but not in the guide. Sample it in the guide as well, or, if it "
                f'is data, pass obs= in the model: pyro.sample("{name}", ..., obs=x).'
            )
    for name in observed.keys() & {**in_guide, **observed_sites(guide_trace)}.keys():
        problems.append(
            f"The guide has the site {name!r}, which the model observes. A guide draws the latents only: "
            f"remove {name!r} from it."
        )
    for name, site in in_guide.items():
        if name not in in_model and name not in observed and not site["infer"].get("is_auxiliary"):
            problems.append(
                f"The latent {name!r} is in the guide but not in the model. Sample it in the model under the same "
                'name, or mark it by infer={"is_auxiliary": True}.'
            )
    for name in [name for name in in_model if name in in_guide]:
        p, q = in_model[name]["fn"], in_guide[name]["fn"]
        plates = [
            sorted(frame.name for frame in sites[name]["cond_indep_stack"] if frame.vectorized)
            for sites in (in_model, in_guide)
        ]
        if p.event_shape != q.event_shape:
            problems.append(
                f"At site {name!r} the model's event shape is {list(p.event_shape)}, the guide's "
                f"{list(q.event_shape)}. Give both the same size and the same to_event(n)."
            )
        elif p.shape() != q.shape():
            problems.append(
                f"At site {name!r} the model draws {list(p.shape())}, the guide {list(q.shape())}. "
                "Put both inside the same plates."
            )
        elif plates[0] != plates[1] and all(plates):
            problems.append(
                f"Site {name!r} is in other plates in the model ({', '.join(plates[0])}) than in the guide "
                f"({', '.join(plates[1])}). Give the plates the same names in both."
            )
        problems += _support_problems(name, p, q)
    for name, site in observed.items():
        problems += _observed_problems(name, site, x)
    for which, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in _sites(trace):
            problems += _parameter_problems(name, which, site["fn"])
    return problems


def _tells(site: Any, plate: Any) -> bool:
    """Whether a site says something of a datum: an observation, or a factor (a Unit) in the data plate."""
    frames = [frame.name for frame in site["cond_indep_stack"]]
    return type(site["fn"]).__name__ != "Unit" or (plate is not None and plate.name in frames)


def _support_problems(name: str, p: Any, q: Any) -> list[str]:
    """Where prior and posterior of a latent live on different sets, so that one of them cannot be right."""
    model, guide = _support(p), _support(q)
    if model is None or guide is None or type(q).__name__ == "Delta":
        return []
    inside = model[0] == guide[0] and (model[1] <= guide[1]).all() and (guide[2] <= model[2]).all()
    if inside:
        return []
    return [
        f"At site {name!r} the guide's {family(q)} lives on {_named(guide)}, the model's {family(p)} on "
        f"{_named(model)}. Choose a prior and a posterior on the same support: each family of pyro_vae.posteriors has "
        "its prior in pyro_vae.priors."
    ]


def _support(fn: Any) -> tuple[str, Tensor, Tensor] | None:
    """The kind of set and its bounds; ``None`` where a distribution does not say."""
    support = support_of(fn)
    if support is None or is_dependent(support):
        return None
    if getattr(support, "is_discrete", False):
        return "discrete values", torch.zeros(()), torch.zeros(())
    low = torch.as_tensor(getattr(support, "lower_bound", -math.inf))
    high = torch.as_tensor(getattr(support, "upper_bound", math.inf))
    if support is constraints.real or low.isfinite().all() or high.isfinite().all():
        kind = {(False, False): "the real line", (True, True): "an interval"}
        return kind.get((bool(low.isfinite().all()), bool(high.isfinite().all())), "a half-line"), low, high
    return f"a {type(support).__name__.strip('_').lower()}", torch.zeros(()), torch.zeros(())


def _named(support: tuple[str, Tensor, Tensor]) -> str:
    kind, low, high = support
    return f"({low.min().item():g}, {high.max().item():g})" if kind in ("an interval", "a half-line") else kind


def _parameter_problems(name: str, which: str, fn: Any) -> list[str]:
    """The parameters that a distribution cannot have, which torch says only while validation is on."""
    fn = innermost(fn)
    problems = []
    for parameter, constraint in fn.arg_constraints.items():
        value = vars(fn).get(parameter)
        if not isinstance(value, Tensor) or is_dependent(constraint) or not value.numel():
            continue
        if constraint.check(value).all():
            continue
        low, high = value.min().item(), value.max().item()
        problem = f"At site {name!r} of the {which} the {parameter} of the {family(fn)} "
        if math.isnan(low):
            problem += "is not a number. Look at the data and at the weights of the network that gives it."
        elif constraint is constraints.positive or constraint is constraints.nonnegative:
            problem += f"is not positive: it goes down to {low:.4g}. Give it as network(...).exp() or through softplus."
        elif constraint is constraints.unit_interval:
            problem += f"is outside of [0, 1]: it spans [{low:.4g}, {high:.4g}]. Give logits= instead, or a sigmoid."
        else:
            problem += f"has to be {constraint}; its values span [{low:.4g}, {high:.4g}]."
        problems.append(problem)
    return problems


def _not_finite(model_trace: Trace, guide_trace: Trace) -> list[str]:
    return [
        f"At site {name!r} of the {which} the log-probability is not finite for {int((~finite).sum())} of "
        f"{finite.numel()} values. Look for a scale close to 0 or very large data, and rescale or bound them."
        for which, trace in (("guide", guide_trace), ("model", model_trace))
        for name, site in _sites(trace)
        if not (finite := torch.isfinite(site["log_prob"])).all()
    ]


def _plate_problems(model_trace: Trace, guide_trace: Trace, size: int) -> list[str]:
    problems = []
    for which, trace in (("model", model_trace), ("guide", guide_trace)):
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
        for name, site in _sites(trace):
            shape = site["fn"].batch_shape
            plates = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
            loose = [shape[dim] for dim in range(-len(shape), 0) if dim not in plates and shape[dim] != 1]
            if loose and size in loose and not plates:
                problems.append(
                    f"At site {name!r} of the {which} a dimension of size {size}, that of the data, is in no plate. "
                    f'Put it inside `with pyro.plate("{DATA_PLATE}", len(x)):`.'
                )
            elif loose:
                problems.append(
                    f"At site {name!r} of the {which} the dimensions {loose} are neither in a plate nor declared as "
                    f"event dimensions. Add .to_event({len(loose)})."
                )
    in_model, in_guide = (
        {frame.name: frame.full_size for _, site in _sites(trace) for frame in site["cond_indep_stack"]}
        for trace in (model_trace, guide_trace)
    )
    for plate in [plate for plate in in_model if in_guide.get(plate, in_model[plate]) != in_model[plate]]:
        problems.append(
            f"The plate {plate!r} has size {in_model[plate]} in the model and {in_guide[plate]} in the guide. "
            f'Size both by the batch: pyro.plate("{plate}", len(x)).'
        )
    return problems


def _observed_problems(name: str, site: Any, x: Tensor) -> list[str]:
    fn, value = site["fn"], site["value"]
    if value.shape != fn.shape():
        return [
            f"At the observed site {name!r} the data have shape {list(value.shape)}, but the likelihood is over "
            f"{list(fn.shape())}. Give the decoder an output of the data's event shape, or reshape the data."
        ]
    if value.is_floating_point() and site["mask"] is None and not torch.isfinite(value).all():
        return [
            f"At the observed site {name!r} {int((~torch.isfinite(value)).sum())} of {value.numel()} numbers of the "
            "data are NaN or infinite. Remove or replace them."
        ]
    support = support_of(fn)
    inside = torch.ones_like(value, dtype=torch.bool) if support is None else support.check(value)
    if inside.all():
        return []
    bad = value[~inside] if inside.shape == value.shape else value
    low, high = bad.min().item(), bad.max().item()
    message = (
        f"At the observed site {name!r} the data leave the support of the {family(fn)} likelihood: values in "
        f"[{low:.4g}, {high:.4g}] are outside of it."
    )
    if family(fn) == "Bernoulli" and low >= 0 and high <= 1:
        message += (
            " Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or 'static', or take them "
            "on purpose by Bernoulli(network, support='unit_interval')."
        )
    elif (levels := getattr(support, "num_levels", None)) is not None:
        message += (
            f" Quantized pixels are k / {levels - 1} for k = 0 to {levels - 1}: round the data to them, or choose a "
            "likelihood for continuous values."
        )
    else:
        message += " Rescale the data, or choose a likelihood for such values."
    return [message]


def _particle_problems(model_trace: Trace, one: Trace, nesting: int) -> list[str]:
    for name, site in observed_sites(model_trace).items():
        expected, shape = observed_sites(one)[name]["log_prob"].shape, site["log_prob"].shape
        plates = (1,) * (nesting - len(expected)) + tuple(expected)
        if (1,) * (nesting + 1 - len(shape)) + tuple(shape) not in ((1, *plates), (2, *plates)):
            error = f"the log-likelihood of {name} has shape {list(shape)} instead of {[2, *plates]}"
            return [_FOLDS.format(which="model", error=error)]
    return []


def _try(pair: nn.Module, batch: tuple[Any, ...], estimator: Estimator | None, nesting: int) -> None:
    """One validated pass: Pyro's own checks, and the estimator's."""
    from pyro_vae.estimators import SGVB_A

    with torch.no_grad(), pyro.validation_enabled(True):
        try:
            SGVB_A(2, max_plate_nesting=nesting).bound(pair, *batch)
            if estimator is not None:
                estimator.bound(pair, *batch)
        except (ValueError, RuntimeError) as error:
            text = str(error).split("\nTrace Shapes:")[0]  # which Pyro adds to what goes wrong while a program runs
            raise PairError([text if "\n" not in text else f"Pyro's own check fails: {_first_line(error)}"]) from error


def _report(pair: nn.Module, model_trace: Trace, guide_trace: Trace) -> Report:
    sites = []
    observed = observed_sites(model_trace)
    in_model, in_guide = shared_latents(latent_sites(model_trace), latent_sites(guide_trace))
    for name, site in {**latent_sites(model_trace), **observed}.items():
        q = guide_trace.nodes.get(name)
        is_observed = name in observed
        sites.append(
            Site(
                name,
                is_observed,
                tuple(site["fn"].batch_shape),
                tuple(site["fn"].event_shape),
                family(site["fn"]),
                None if is_observed or q is None else family(q["fn"]),
                None
                if is_observed or q is None
                else in_model == in_guide and closed_kl(q["fn"], site["fn"]) is not None,
            )
        )
    trained = sum(parameter.numel() for parameter in pair.parameters() if parameter.requires_grad)
    return Report(sites, trained, _notes(pair), in_model == in_guide)


def _notes(pair: nn.Module) -> list[str]:
    if not isinstance(pair, Pair):
        return []
    owned = {id(parameter) for parameter in pair.parameters()}
    notes = []
    for module in pair.reachable():
        left_out = {id(p): p.numel() for p in module.parameters() if p.requires_grad and id(p) not in owned}
        owned.update(left_out)  # said once
        if left_out:
            notes.append(
                f"A {type(module).__name__} that the programs refer to is not trained ({sum(left_out.values()):,} "
                "parameters): announce it in them by pyro.module(name, module), unless it is fixed on purpose."
            )
    return notes
