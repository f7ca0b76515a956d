"""What is wrong with a pair in itself, read off a run of guide and model, in sentences.

What a number asks for besides is in :mod:`pyro_vae.pair.gate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, TransformedDistribution, biject_to, constraints
from torch.distributions.constraints import is_dependent

from pyro_vae._checks import is_tensor, shown
from pyro_vae._pyro import is_deterministic, is_subsample, takes_anything
from pyro_vae._torch import forgetful, has_values
from pyro_vae.distributions.incomplete import known
from pyro_vae.distributions.wrappers import family, innermost, unwrapped
from pyro_vae.pair.protocols import HasNumLevels
from pyro_vae.pair.running import PairRun
from pyro_vae.pair.sites import (
    DATA_PLATE,
    PENALTY,
    batch_shape,
    data_frame,
    data_frames,
    inside,
    latent_sites,
    observed_sites,
    random_sites,
    support_of,
)


def common_latents(model: Iterable[str], guide: Iterable[str]) -> tuple[list[str], list[str]]:
    """The latents that both programs draw, in the model's and in the guide's order.

    A closed-form KL of one site given another is right only where guide and model share the order of dependence.

    Args:
        model, guide: names of sites, in the order of the program; of the guide its latents alone.
    """
    model, guide = list(model), list(guide)
    return [name for name in model if name in guide], [name for name in guide if name in model]


# What is wrong with a pair


def problems(run: PairRun, size: int) -> list[str]:
    """What is wrong, by a run without particles on a batch of ``size`` data; a sentence for each thing."""
    if found := odd_sites(run):
        return found  # the others read names, distributions and tensors
    in_model, in_guide = map(latent_sites, run)
    found = [*_plate_problems(run, size), *_name_problems(run, size)]
    for name in common_latents(in_model, in_guide)[0]:
        found += _latent_problems(name, in_model[name], in_guide[name])
    for name, site in observed_sites(run.model_trace).items():
        found += _data_problems(name, site)
    for which, trace in zip(("model", "guide"), run, strict=True):
        for name, site in random_sites(trace).items():
            found += _parameter_problems(f"At site {name!r} of the {which} the", innermost(site["fn"]))
    return found


_OF_DISTRIBUTIONS = ("batch_shape", "event_shape", "shape", "log_prob")


def odd_sites(run: PairRun) -> list[str]:
    """What is no name, no distribution or no tensor where Pyro takes anything."""
    return [text for which, trace in zip(("model", "guide"), run, strict=True) for text in _odd(which, trace)]


def _odd(which: str, trace: Trace) -> Iterator[str]:
    sites: Any = trace.nodes.items()
    for name, site in sites:
        if site["type"] != "sample":
            continue
        fn, value = site["fn"], site["value"]
        if not isinstance(name, str):
            yield f"A site of the {which} is called {shown(name)}. Give sample statements and plates a text as a name."
        elif is_subsample(site) or is_deterministic(site):
            continue
        elif isinstance(fn, type) or not all(hasattr(fn, method) for method in _OF_DISTRIBUTIONS):
            yield (
                f"At site {name!r} of the {which} there is {shown(fn)}, which is no distribution of Pyro's. Give one, "
                "for example pyro.distributions.Normal(loc, scale).to_event(1)."
            )
        elif not is_tensor(value):
            yield (
                f"At site {name!r} of the {which} the value is {_kind(value)}. Give a dense tensor of real numbers, "
                "which has values."
            )


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return shown(value)
    return f"a tensor of {value.dtype}, {value.layout}, on {value.device}"


def density_problems(run: PairRun) -> list[str]:
    """Where log-probabilities, computed already, are not finite."""
    return [
        f"At site {name!r} of the {which} the log-probability is not finite for {int((~finite).sum())} of "
        f"{finite.numel()} values. Look for a scale close to 0 or very large data, and rescale or bound them."
        for which, trace in zip(("model", "guide"), run, strict=True)
        for name, site in random_sites(trace).items()
        if not (finite := torch.isfinite(site["log_prob"])).all()
    ]


def wrong_size(plate: str, which: str, got: int, size: int) -> str:
    """What to say of a plate of the model, or of the guide, over the data of a batch."""
    return (
        f"The {plate} of the {which} has size {got}, but the batch has {size} data. "
        f'Size it by the batch: pyro.plate("{DATA_PLATE}", len(x)).'
    )


def _plate_problems(run: PairRun, size: int) -> Iterator[str]:
    for which, trace in zip(("model", "guide"), run, strict=True):
        plate = data_frame(trace, size)
        if which == "model":
            yield from data_plate_problems(trace, size)
        loops = _loops(trace, size)
        if which == "model" and loops and (plate is None or plate.size != size):
            yield (
                f"The plate {loops[0]!r} over the data is a loop, of which the bound of a datum is not known. Write it "
                f"as `with pyro.plate({loops[0]!r}, len(x)):`, or train by a loss of Pyro's, which takes it as it is: "
                "estimator=Trace_ELBO(), or TraceEnum_ELBO()."
            )
            return
        if plate is None and which == "model":
            yield (
                "The model has no plate over the data, so that its data would not be independent. Put what belongs to "
                f'a datum inside `with pyro.plate("{DATA_PLATE}", len(x)):`, in model and guide; or train it as it is '
                "by a loss of Pyro's: estimator=Trace_ELBO()."
            )
            return
        if plate is not None and size not in (plate.size, plate.full_size):
            if plate.size < plate.full_size:
                yield (
                    f"The data plate of the {which} subsamples {plate.size} of {plate.full_size} data inside of the "
                    f"program, which was given {size}. Leave out subsample_size, and give the program its mini-batch."
                )
            else:
                yield wrong_size("data plate", which, plate.size, size)
        for name, site in random_sites(trace).items():
            shape, plates = site["fn"].batch_shape, {f.dim for f in site["cond_indep_stack"] if f.vectorized}
            loose = [shape[dim] for dim in range(-len(shape), 0) if dim not in plates and shape[dim] != 1]
            if loose and size in loose and not plates:
                yield (
                    f"At site {name!r} of the {which} a dimension of size {size}, that of the data, is in no plate. "
                    f'Put it inside `with pyro.plate("{DATA_PLATE}", len(x)):`.'
                )
            elif loose:
                yield (
                    f"At site {name!r} of the {which} the dimensions {loose} are neither in a plate nor declared as "
                    f"event dimensions. Add .to_event({len(loose)})."
                )
    in_model, in_guide = (
        {
            plate.name: plate.full_size
            for site in random_sites(trace).values()
            for plate in site["cond_indep_stack"]
            if plate.full_size >= 0
        }
        for trace in run
    )
    for name in [name for name in in_model if in_guide.get(name, in_model[name]) != in_model[name]]:
        yield (
            f"The plate {name!r} has size {in_model[name]} in the model and {in_guide[name]} in the guide. "
            f'Size both by the batch: pyro.plate("{name}", len(x)).'
        )


def _loops(trace: Trace, size: int) -> list[str]:
    """Plates of the ``size`` data that a program goes through one by one."""
    frames = [frame for site in random_sites(trace).values() for frame in site["cond_indep_stack"]]
    return [frame.name for frame in frames if not frame.vectorized and frame.full_size == size]


def data_plate_problems(model_trace: Trace, size: float | None = None, num_data: float | None = None) -> list[str]:
    """A sentence, if it cannot be told which of several plates is that of the data."""
    found = data_frames(model_trace, size, num_data)
    if len(found) < 2:
        return []
    names = ", ".join(f"{frame.name!r} (dim={frame.dim}, size {frame.size})" for frame in found)
    return [
        f"The data stand in several plates, {names}, none of them called {DATA_PLATE!r}, and each may be that over the "
        f'data. Call that one so: pyro.plate("{DATA_PLATE}", len(x)).'
    ]


def _name_problems(run: PairRun, size: int) -> Iterator[str]:
    in_model, in_guide = map(latent_sites, run)
    observed, plate = observed_sites(run.model_trace), data_frame(run.model_trace, size)
    # An observation says something of the data, and so does a factor in their plate.
    if all(isinstance(site["fn"], Unit) and (plate is None or not inside(site, plate)) for site in observed.values()):
        yield 'The model observes nothing. Pass the data: pyro.sample("x", ..., obs=x).'
    elif any(name not in in_model and not site["infer"].get("is_auxiliary") for name, site in in_guide.items()):
        for name in [name for name in in_model if name not in in_guide]:
            yield (
                f"The latent {name!r} is in the model but not in the guide. Sample it in the guide as well, or, if it "
                f'is data, pass obs= in the model: pyro.sample("{name}", ..., obs=x).'
            )
    yield from guide_problems(*run)


def guide_problems(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """What makes log q(z | x) no log-density of the model's latents, a sentence for each thing."""
    found, alone = [], {}
    nodes: Any = guide_trace.nodes
    for name, site in nodes.items():
        if site["type"] != "sample" or is_subsample(site):
            continue
        other: Any = model_trace.nodes.get(name)
        if other is not None and other["type"] == "sample" and other["is_observed"] and not is_deterministic(other):
            found.append(
                f"The guide has the site {name!r}, which the model observes. A guide draws the latents only: remove "
                f"{name!r} from it, or train by a loss of Pyro's that reads it: estimator=Trace_ELBO(), or one of your "
                "own that is derived from it."
            )
        elif site["is_observed"]:
            if not is_deterministic(site) and not site["infer"].get(PENALTY):
                found.append(
                    f"The guide has the factor or observation {name!r}, which would count as a part of log q(z | x). "
                    "If it lowers the bound on purpose, write pyro_vae.pair.penalty(name, value); the density of a "
                    "transformed draw belongs into Delta(value, log_density=...); what says something of the data "
                    "belongs into the model. A loss of Pyro's trains it as it is: estimator=TraceEnum_ELBO()."
                )
        elif other is None and not is_point(site):
            alone[name] = site
    if alone and determined(model_trace, guide_trace) is False:
        found += [
            f"The latent {name!r} is in the guide but not in the model. Sample it in the model under the same name; an "
            f"auxiliary variable from a reverse model r({name} | z, x), without which log q(z | x) is not known and "
            "the bound would be off. A latent that is a function of it is one draw, of a TransformedDistribution."
            for name in alone
        ]
    return found


def determined(model_trace: Trace, guide_trace: Trace) -> bool | None:
    """Whether the points of a guide may be functions of what it draws besides, as in Pyro's AutoGuides.

    They may where, in unconstrained numbers, as many are drawn as points are given. ``None`` where there are more
    points than that: then some may be, and others are points, as in an AutoGuideList with an AutoDelta. Whether they
    are is for :func:`pyro_vae.pair.trials.point_problems` to see.
    """
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    drawn = sum(site["value"].numel() for name, site in in_guide.items() if name not in in_model and not is_point(site))
    given = 0
    for name, site in in_guide.items():
        if name in in_model and is_point(site):
            try:
                given += biject_to(in_model[name]["fn"].support).inv(site["value"]).numel()
            except NotImplementedError:
                return False
    return True if 0 < drawn == given else None if 0 < drawn < given else False


def is_point(site: Any) -> bool:
    """Whether a site gives one value, as ``Delta`` does."""
    return isinstance(innermost(site["fn"]), Delta)


def _latent_problems(name: str, model: Any, guide: Any) -> Iterator[str]:
    p, q = model["fn"], guide["fn"]
    plates = [sorted(f.name for f in site["cond_indep_stack"] if f.vectorized) for site in (model, guide)]
    if p.event_shape != q.event_shape:
        yield (
            f"At site {name!r} the model's event shape is {list(p.event_shape)}, the guide's {list(q.event_shape)}. "
            "Give both the same size and the same to_event(n)."
        )
    elif p.shape() != q.shape():
        yield (
            f"At site {name!r} the model draws {list(p.shape())}, the guide {list(q.shape())}. "
            "Put both inside the same plates."
        )
    elif plates[0] != plates[1] and all(plates):
        yield (
            f"Site {name!r} is in other plates in the model ({', '.join(plates[0])}) than in the guide "
            f"({', '.join(plates[1])}). Give the plates the same names in both."
        )
    on_p, on_q = _support(p), _support(q)
    if on_p is None or on_q is None or is_point(guide):
        return
    ends = (on_p[1], on_q[1]), (on_q[2], on_p[2])
    within = [(low == high) | (low - high <= 1e-5 * (1 + high.abs())) for low, high in ends]  # rounding is no matter
    if on_p[0] != on_q[0] or not all(bool(one.all()) for one in within):
        yield (
            f"At site {name!r} the guide's {family(q)} lives on {_named(on_q)}, the model's {family(p)} on "
            f"{_named(on_p)}. Choose a prior and a posterior on the same support: each family of pyro_vae.posteriors "
            "has its prior in pyro_vae.priors."
        )


_BOUNDED = (constraints.interval, constraints.half_open_interval)
_FROM = (*_BOUNDED, constraints.greater_than, constraints.greater_than_eq)
_TO = (*_BOUNDED, constraints.less_than)
_NUMBERS = ("the real line", "a half-line", "an interval")  # by how many of their ends are finite


def extent(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Between which numbers, ``[*batch]`` or ``[]``, a distribution of single numbers has its mass.

    ``None`` where it is not known, or the values are discrete.
    """
    on = _support(fn)
    return on[1:] if on is not None and on[0] in _NUMBERS else None


def _support(fn: Any) -> tuple[str, Tensor, Tensor] | None:
    """The kind of set and its bounds; ``None`` where a distribution does not say.

    Where a distribution is transformed unit by unit, it is the image of what its base lives on: a codomain may be more.
    """
    support, base = support_of(fn), unwrapped(fn)
    # A family of its own name knows its support.
    if isinstance(base, TransformedDistribution) and type(base).__name__ == "TransformedDistribution":
        inner, transforms = _support(base.base_dist), [part for one in base.transforms for part in _parts(one)]
        if inner is not None and inner[0] in _NUMBERS and all(map(_is_monotone, transforms)):
            ends = inner[1:]
            for transform in transforms:
                with forgetful(transform):  # it knows the draw, whose score would be lost
                    ends = transform(ends[0]), transform(ends[1])
            low, high = torch.minimum(*ends), torch.maximum(*ends)
            if not (has_values(low) and has_values(high)) or not (low.isnan().any() or high.isnan().any()):
                return _interval(low, high)
    if support is None or is_dependent(support):
        return None
    if support.is_discrete:
        return "discrete values", torch.zeros(()), torch.zeros(())
    bounds: Any = support
    low = torch.as_tensor(bounds.lower_bound if isinstance(support, _FROM) else -math.inf)
    high = torch.as_tensor(bounds.upper_bound if isinstance(support, _TO) else math.inf)
    if support is constraints.real or low.isfinite().all() or high.isfinite().all():
        return _interval(low, high)
    return f"a {type(support).__name__.strip('_').lower()}", torch.zeros(()), torch.zeros(())


def _interval(low: Tensor, high: Tensor) -> tuple[str, Tensor, Tensor]:
    known = has_values(low) and has_values(high)
    return _NUMBERS[int(low.isfinite().all()) + int(high.isfinite().all()) if known else 2], low, high


def _is_monotone(transform: Any) -> bool:
    try:
        return bool(transform.bijective) and transform.codomain.event_dim == 0
    except NotImplementedError:
        return False


def _parts(transform: Any) -> list[Any]:
    """The elementwise steps of a transform, seen through what composes them."""
    if isinstance(transform, ComposeTransform):
        return [part for one in transform.parts for part in _parts(one)]
    return _parts(transform.base_transform) if isinstance(transform, IndependentTransform) else [transform]


def _named(support: tuple[str, Tensor, Tensor]) -> str:
    kind, low, high = support
    return f"({low.min().item():g}, {high.max().item():g})" if kind in _NUMBERS[1:] else kind


def _data_problems(name: str, site: Any) -> Iterator[str]:
    fn, value, at = site["fn"], site["value"], f"At the observed site {name!r}"
    if value.shape != _shape_for(site):
        yield (
            f"{at} the data have shape {list(value.shape)}, but the likelihood is over {list(fn.shape())}. Give the "
            "decoder an output of the data's event shape, or reshape the data."
        )
        return
    yield from value_problems(name, fn, value, missing=site["mask"] is not None)


def value_problems(name: str, fn: Any, value: Tensor, missing: bool = False) -> Iterator[str]:
    """What is wrong with data at an observed site: they are not finite, or outside of the likelihood's support.

    With ``missing`` what is not finite is masked. What a mask of the distribution itself leaves out is not looked at.
    """
    value = known(fn, value)
    at = f"At the observed site {name!r}"
    if value.is_floating_point() and not missing and not torch.isfinite(value).all():
        yield (
            f"{at} {int((~torch.isfinite(value)).sum())} of {value.numel()} numbers of the data are NaN or infinite. "
            "Remove or replace them."
        )
        return
    support: Any = support_of(fn)
    span = _outside(fn, value)
    if span is None or takes_anything(unwrapped(fn)):
        return
    low, high = span
    if family(fn) == "Bernoulli" and low >= 0 and high <= 1:
        remedy = (
            "Gray pixels are no Bernoulli draws: load the data with binarization='dynamic' or 'static', or take them "
            "on purpose by Bernoulli(network, support='unit_interval') or, of Pyro's, by validate_args=False."
        )
    elif isinstance(support, HasNumLevels):
        last = support.num_levels - 1
        remedy = (
            f"Quantized pixels are k / {last} for k = 0 to {last}: round the data to them, or choose a likelihood for "
            "continuous values."
        )
    else:
        remedy = "Rescale the data, or choose a likelihood for such values."
    yield (
        f"{at} the data leave the support of the {family(fn)} likelihood: values in [{low:.4g}, {high:.4g}] are "
        f"outside of it. {remedy}"
    )


def _shape_for(site: Any) -> torch.Size:
    """The shape of a site's distribution, with the length of the data where it takes sequences of any length."""
    fn, value = site["fn"], site["value"]
    shape, inner = [*batch_shape(site), *fn.event_shape], innermost(fn)
    if getattr(inner, "duration", 1) is None and value.dim() == len(shape):  # as Pyro's hidden Markov models
        shape[-inner.event_dim] = value.shape[-inner.event_dim]
    return torch.Size(shape)


def _outside(fn: Any, value: Tensor) -> tuple[float, float] | None:
    """The span of the data that are outside of the support of a distribution; ``None`` where all are inside."""
    support = support_of(fn)
    inside = None if support is None else support.check(value)
    if inside is None or inside.all():
        return None
    bad = value[~inside] if inside.shape == value.shape else value
    return bad.min().item(), bad.max().item()


def purposes(model_trace: Trace) -> list[str]:
    """Where data leave the support of a likelihood on purpose, by ``validate_args=False``, and what its score then is.

    Each is the end of a sentence that a note or a warning begins.
    """
    found = []
    for name, site in observed_sites(model_trace).items():
        fn, kind = site["fn"], family(site["fn"])
        if takes_anything(unwrapped(fn)) and (span := _outside(fn, known(fn, site["value"]))) is not None:
            score = "the negative cross-entropy" if kind == "Bernoulli" else "a score"
            found.append(
                f"at the observed site {name!r} validate_args=False takes values in [{span[0]:.4g}, {span[1]:.4g}] "
                f"outside of the support of the {kind}: its log_prob is there {score} and no log-probability of the "
                "data, over which it does not sum or integrate to one"
            )
    return found


def _parameter_problems(at_site: str, fn: Any) -> Iterator[str]:
    """The parameters that a distribution cannot have, which torch says only while validation is on."""
    for parameter, constraint in fn.arg_constraints.items():
        value = vars(fn).get(parameter)
        if not isinstance(value, Tensor) or is_dependent(constraint) or not value.numel():
            continue
        if constraint.check(value).all():
            continue
        low, high = value.min().item(), value.max().item()
        if takes_anything(fn) and not math.isnan(low):
            continue
        if math.isnan(low):
            what = "is not a number. Look at the data and at the weights of the network that gives it."
        elif constraint is constraints.positive or constraint is constraints.nonnegative:
            what = f"is not positive: it goes down to {low:.4g}. Give it as network(...).exp() or through softplus."
        elif constraint is constraints.unit_interval:
            what = f"is outside of [0, 1]: it spans [{low:.4g}, {high:.4g}]. Give logits= instead, or a sigmoid."
        else:
            what = f"has to be {constraint}; its values span [{low:.4g}, {high:.4g}]."
        yield f"{at_site} {parameter} of the {family(fn)} {what}"
