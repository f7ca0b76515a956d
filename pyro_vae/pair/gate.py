"""What a number asks of a pair: each ``check_...`` raises a ``ValueError`` that names the site and the way out.

Most read the traces of a run of the guide and of the model against its draws; :func:`check_repeatable` compares two
runs. What is wrong with a pair in itself is said by :func:`pyro_vae.pair.structure.problems`, and what only further
runs tell, of masks and points, by :mod:`pyro_vae.pair.trials`.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import Delta, ImproperUniform
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae._checks import is_ours, warn
from pyro_vae._pyro import is_subsample, is_unseen, unvalidated
from pyro_vae._torch import has_values
from pyro_vae.batches import leaves, moved, num_rows, rows
from pyro_vae.distributions.wrappers import family, innermost, is_rounded, unmasked
from pyro_vae.pair.failures import why
from pyro_vae.pair.pair import modules_of, programs
from pyro_vae.pair.running import PairRun, device_of, evaluating, run
from pyro_vae.pair.sites import (
    data_frame,
    data_frames,
    inside,
    is_auxiliary_data,
    latent_sites,
    plate_nesting,
    random_sites,
    same,
    scale_of_plates,
)
from pyro_vae.pair.structure import (
    common_latents,
    data_plate_problems,
    determined,
    extent,
    is_point,
    problems,
    purposes,
    value_problems,
)
from pyro_vae.pair.turns import fork_rng

_FEW = 100  # data that tell why programs fail
_CALLED = ("() missing ", "() takes ", "() got an unexpected ")  # Python's own, of a call in a line of the library


def refuse(sentences: list[str]) -> None:
    """Raises a ``ValueError`` of the sentences, if there are any."""
    if sentences:
        raise ValueError("\n".join(sentences))


def check_data(sites: Iterable[Any]) -> None:
    """Refuses data that are not finite, or outside of the support of their likelihood, where a run has values.

    Args:
        sites: observed and others, with ``name``, ``fn``, ``value``, ``observed`` and ``mask``.

    Raises:
        ValueError: with a sentence for each site.
    """
    seen = [site for site in sites if site.observed and site.mask is None and has_values(site.value)]
    refuse([text for site in seen for text in value_problems(site.name, site.fn, site.value)])


# The guide as a density of the model's latents


def check_order(who: str, model: Iterable[str], guide: Iterable[str]) -> None:
    """Refuses latents that guide and model draw in different orders, for what takes a KL in closed form.

    Raises:
        ValueError: if they do, given as to :func:`common_latents`.
    """
    in_model, in_guide = common_latents(model, guide)
    if in_model != in_guide:
        raise ValueError(
            f"{who} needs a guide that draws the latents in the model's order; the model draws {', '.join(in_model)}, "
            f"the guide {', '.join(in_guide)}, where the closed-form KL is biased. Use SGVB_A, or reorder the guide."
        )


def check_densities(who: str, model_trace: Trace) -> None:
    """Refuses latents without a density, for what takes p(x, z) / q(z | x) as a weight of each datum.

    Raises:
        ValueError: if the prior of a latent is improper, as an autoencoder's.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> pair.check_densities("my number", pair.run(vae, x).model_trace)  # of an autoencoder a ValueError
    """
    for name, site in latent_sites(model_trace).items():
        if isinstance(site["fn"], ImproperUniform):
            raise ValueError(
                f"{who} needs densities p({name}) and q({name}), but the prior is improper: an autoencoder has no "
                f"prior, and its q({name}) is a point without a density: there are no importance weights, and no p(x). "
                "Train it by SGVB_A or SGVB_B, or take a VAE, such as pyro_vae.models.MLPVAE."
            )


def check_points(who: str, model_trace: Trace, guide_trace: Trace, plate: Any = None) -> None:
    """Refuses a point for a continuous latent with a proper prior: log p(x, z) at a point bounds no log p(x).

    With a ``plate`` the latents outside of it do not matter.

    Raises:
        ValueError: if the guide has one.
    """
    in_model = latent_sites(model_trace)
    for name, site in latent_sites(guide_trace).items():
        if not is_point(site) or name not in in_model or _has_density(site):
            continue
        p = innermost(in_model[name]["fn"])
        if isinstance(p, (Delta, ImproperUniform)) or p.support.is_discrete or (plate and not inside(site, plate)):
            continue
        if determined(model_trace, guide_trace):
            return
        raise ValueError(
            f"{who} needs a density q({name} | x), but the guide gives {name!r} a point, as AutoDelta does, so that "
            f"log p(x, {name}) at the point is no bound of log p(x). Train such a pair as it is, and for a number give "
            "the guide a distribution, such as AutoNormal's."
        )


def _has_density(point: Any) -> bool:
    """Whether a point tells a log-density, as a guide does that transforms its draws by itself."""
    log_density = torch.as_tensor(innermost(point["fn"]).log_density)
    return log_density.requires_grad or not has_values(log_density) or bool((log_density != 0).any())


def check_support(who: str, model_trace: Trace, guide_trace: Trace) -> None:
    """Refuses a q that ends inside of the prior's support, or whose ends move with its parameters.

    The score of log q then misses what its ends contribute, and importance weights miss what lies beyond them.

    Raises:
        ValueError: if a latent of the guide has one.
    """
    in_model = latent_sites(model_trace)
    for name, site in latent_sites(guide_trace).items():
        if name not in in_model or is_point(site):  # a point of an AutoGuide has the support of its prior
            continue
        of_q, of_p = extent(site["fn"]), extent(in_model[name]["fn"])
        if of_q is None or of_p is None or not all(map(has_values, (*of_q, *of_p))):
            continue
        if all(torch.isclose(q, p.to(q), rtol=1e-5, atol=1e-6).all() for q, p in zip(of_q, of_p, strict=True)):
            continue
        raise ValueError(
            f"{who} needs q({name}) on all of the support of p({name}), but the guide's {family(site['fn'])} lives on "
            f"({of_q[0].min().item():g}, {of_q[1].max().item():g}), which its parameters move, and the model's "
            f"{family(in_model[name]['fn'])} on ({of_p[0].min().item():g}, {of_p[1].max().item():g}). Use SGVB_A or "
            "IWAE, whose pathwise gradients and bounds hold for it, or a posterior on all of the support, such as "
            "posteriors.Beta or LogitNormal."
        )


# Plates


def check_local(*traces: Trace, size: int | None = None) -> Any | None:
    """The plate of the ``size`` data of a model, the first trace; ``None`` if it has none.

    Raises:
        ValueError: if a random variable of a trace stands outside of it, so that the data share it.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> pair.check_local(*pair.run(vae, x), size=3).name
    'data'
    """
    plate = data_frame(traces[0], size)
    if plate is not None:
        for trace in reversed(traces):
            check_inside(plate, trace)
    return plate


def check_inside(plate: Any, trace: Trace) -> None:
    """Refuses random variables outside the data plate, for what is a number of each datum.

    Raises:
        ValueError: if there is one.
    """
    for name, site in random_sites(trace).items():
        if not inside(site, plate):
            raise ValueError(
                f"the random variable {name!r} stands outside the data plate, so all data share it and log p(x) is no "
                "sum over data. Fix it by poutine.condition, hide it by poutine.block in model and guide. Of a "
                "FullBayes take pair.posterior_predictive() for importance sampling, pair.sample_weights() for chains; "
                "in a pair of your own, sample_posterior(self, traced=False) in model and guide hides weights."
            )


_plates: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def told_plate(model: Any, trace: Trace, size: int, num_data: float | None, *, needed: bool = True) -> Any | None:
    """The plate over the data of a run of ``model``: where this batch does not tell it, the one that another told.

    So a last batch may be of as many data as there are columns.

    Raises:
        ValueError: if it is ``needed``, and no batch has told it.
    """
    found, owner = data_frames(trace, size, num_data), getattr(model, "__self__", model)
    with contextlib.suppress(TypeError):  # of what cannot be referred to weakly
        if len(found) == 1:
            _plates[owner] = found[0].name
        elif known := [frame for frame in found if frame.name == _plates.get(owner)]:
            return known[0]
    if len(found) < 2:
        return found[0] if found else None
    if needed:
        refuse(data_plate_problems(trace, size, num_data))
    return data_frame(trace, size, num_data)


def check_data_plate(model_trace: Trace, guide_trace: Trace, plate: Any | None) -> None:
    """Refuses a data plate, having no size, around one draw for all data.

    Raises:
        ValueError: if a latent has no dimension of the data in a plate without a size.
    """
    if plate is None:
        return
    for trace in (model_trace, guide_trace):
        for name, site in latent_sites(trace).items():
            unsized = any(frame.name == plate.name and frame.size < 0 for frame in site["cond_indep_stack"])
            shape = site["fn"].batch_shape if unsized else ()
            if unsized and plate.size > 1 and (len(shape) < -plate.dim or shape[plate.dim] != plate.size):
                raise ValueError(
                    f"The latent {name!r} is one draw for all {plate.size} data, since its plate has no size. Give it "
                    f"that of the data: pyro.plate({plate.name!r}, len(x))."
                )


def check_whole(who: str, model_trace: Trace, size: int) -> None:
    """Refuses a data plate that subsamples inside of the program, for what is a number of each datum.

    Raises:
        ValueError: if the plate has not the ``size`` data that the program was given.
    """
    plate = data_frame(model_trace, size)
    if plate is not None and plate.size != size:
        raise ValueError(
            f"{who} is a number of each of the {size} data that were given, but the plate {plate.name!r} has "
            f"{plate.size} of {plate.full_size}, drawn anew at each run. Leave out subsample_size, and give the "
            "program its mini-batch."
        )


def check_subsampled(who: str, *traces: Trace, size: float | None = None) -> None:
    """Refuses plates inside a datum that subsample, for what exponentiates log-probabilities.

    Raises:
        ValueError: if there is one: N / B times the log-probability of a few is not the log-probability of all.
    """
    plate = data_frame(traces[0], size)
    for trace in traces:
        for name, site in random_sites(trace).items():
            for frame in site["cond_indep_stack"]:
                if frame.size != frame.full_size and (plate is None or frame.name != plate.name):
                    raise ValueError(
                        f"{who} weighs a datum by all of its likelihood, but the plate {frame.name!r} around {name!r} "
                        f"subsamples {frame.size} of {frame.full_size}. Leave out subsample_size there, or train by "
                        "SGVB_A or SGVB_B, whose expectation does not change by it."
                    )


def run_problems(model: Any, guide: Any, args: Any, kwargs: Any) -> list[str]:
    """Why programs fail, read off a run without particles; nothing where that fails too or finds nothing."""
    quiet = contextlib.suppress(Exception)
    with quiet, torch.no_grad(), fork_rng(), unvalidated():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        return problems(PairRun(model_trace, guide_trace), num_rows(args))
    return []


@contextlib.contextmanager
def explained(pair: nn.Module, *batch: Any, guide: bool = True) -> Iterator[None]:
    """Around what runs the programs of a pair, or its model alone: where they fail by themselves, a sentence says why.

    Raises:
        ValueError: in the place of any error but a sentence of the library, and but one in a trace.
    """
    try:
        yield
    except Exception as error:
        traced = any(isinstance(value, Tensor) and not has_values(value) for value in leaves(batch))
        called = type(error) is TypeError and any(word in str(error) for word in _CALLED)
        if traced or (isinstance(error, (ValueError, TypeError)) and is_ours(error) and not called):
            raise
        few = batch if has_autoguide(pair) else rows(batch, slice(_FEW))
        model, drawing = programs(pair)
        for validation in (unvalidated(), contextlib.nullcontext()):
            with fork_rng(), evaluating(pair), torch.no_grad(), validation:
                if said := why(model, drawing if guide else lambda *args: None, moved(few, device_of(pair))):
                    break
        if not said:
            raise
        raise ValueError("\n".join(said)) from error


# Evidence


class Unweighed(Messenger):
    """The densities of a program as they are, for evidence.

    No ``poutine.scale`` weighs them, but N / B of a plate that subsamples, and a latent counts also where it is masked:
    what is drawn has a density. (A masked observation is one that is missing.)

    Args:
        latents: names of latents that a run is conditioned on.
        guide: whether it is a guide, of which the auxiliary data that it observes are no part of q(z | x).
    """

    def __init__(self, latents: Collection[str] = (), guide: bool = False) -> None:
        super().__init__()
        self.latents, self.guide = latents, guide

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        if self.guide and is_auxiliary_data(msg):
            msg["stop"] = True  # hidden from what traces the guide
        msg["scale"] = scale_of_plates(msg)
        if not msg["is_observed"] or msg["name"] in self.latents:
            msg["mask"], msg["fn"] = None, unmasked(msg["fn"])


def trial(pair: nn.Module, *batch: Any, guide: bool = True) -> PairRun:
    """A run to be looked at, of the model alone where the guide does not matter; torch's random state stays."""
    with fork_rng(), explained(pair, *batch, guide=guide):
        if guide:
            found = run(pair, *batch)
            nodes: Any = found.guide_trace.nodes
            for name in [name for name, site in nodes.items() if site["type"] == "sample" and is_auxiliary_data(site)]:
                found.guide_trace.remove_node(name)
            return found
        return PairRun(poutine.trace(programs(pair)[0]).get_trace(*batch), Trace())


def has_autoguide(pair: nn.Module) -> bool:
    """Whether a program is one of Pyro's AutoGuides, which are made for the data of their first run."""
    return any(isinstance(part, (AutoGuide, EasyGuide)) for module in modules_of(pair) for part in module.modules())


def first_part(pair: nn.Module, few: int, *batch: Any, guide: bool = True) -> tuple[int, PairRun]:
    """How many data a pair can be given at once, and a run of the first so many.

    These are ``few``, or the whole batch where the programs are made for its size, as an AutoGuide's latents are.
    """
    count = num_rows(batch)
    few = count if has_autoguide(pair) else few  # which is made at its first run
    batch = moved(batch, device_of(pair))
    part = rows(batch, slice(few))
    try:
        found = trial(pair, *part, guide=guide)
        if num_rows(part) == count or not problems(found, num_rows(part)):
            return num_rows(part), found
    except Exception:  # also what a program raises of another number of data
        if num_rows(part) == count:
            raise
    with contextlib.suppress(Exception):
        found_of_all = trial(pair, *batch, guide=guide)
        if not problems(found_of_all, count):
            return count, found_of_all
    return num_rows(part), trial(pair, *part, guide=guide)


def smallest(pair: nn.Module, *batch: Any, guide: bool = True) -> tuple[Any, ...]:
    """The first datum of a batch; all of it where the programs are made for its size, as an AutoGuide's latents are."""
    first = rows(batch, slice(1))
    if has_autoguide(pair):
        return batch
    try:
        found = trial(pair, *first, guide=guide)
        plate = data_frame(found.model_trace, 1)
        for trace in found:
            trace.compute_log_prob()
        fits = all(
            plate is None or site["log_prob"].dim() < -plate.dim or site["log_prob"].shape[plate.dim] == 1
            for trace in found
            for site in random_sites(trace).values()
        )
    except Exception:
        return batch
    return first if fits else batch


def check_evidence(who: str, found: PairRun, size: int) -> int:
    """Refuses a pair of which the log p(x) of ``size`` data would not be right.

    Args:
        who: computes it.
        found: a run without particles; with an empty trace of the guide where its density does not count.
        size: the number of data that it was given.

    Returns:
        how many plates the pair nests.

    Raises:
        ValueError: with a sentence for each thing.

    Warns:
        UserWarning: where data leave the support of a likelihood on purpose.
    """
    refuse(problems(found, size))
    for text in purposes(found.model_trace):
        warn(f"what {who} gives is no log p(x): {text}.")
    check_whole(who, found.model_trace, size)
    check_data_plate(*found, data_frame(found.model_trace, size))
    check_local(*found, size=size)
    check_densities(who, found.model_trace)
    check_subsampled(who, *found, size=size)
    check_points(who, *found)
    check_support(who, *found)
    return plate_nesting(*found)


def check_continuous(name: str, fn: Any) -> None:
    """Refuses a latent on which no chain can move.

    Raises:
        ValueError: if it is discrete, or no bijection to its support is known.
    """
    try:
        if fn.support.is_discrete or is_rounded(fn):
            raise ValueError(
                f"the chains of AIS, BDMC, HMC and MonteCarloEM move over continuous latents, but {name!r} is a "
                f"{family(fn)}, which is discrete. For log p(x) use evidence.importance; to train, the default of fit, "
                "Enumeration where the values are few, ScoreFunction, VIMCO or ReweightedWakeSleep. Where the guide is "
                "a point, a pair of this library has another guide for evidence: pair.softened(temperature)."
            )
        biject_to(fn.support)
    except NotImplementedError as error:
        raise ValueError(
            f"no bijection from the real numbers to the support of {name!r}, a {family(fn)}, is registered. "
            "Register one with torch.distributions.biject_to, or use importance sampling."
        ) from error


class NothingUnseen(Messenger):
    """Refuses draws that are noise of the program, for chains: with them each run has another density.

    Raises:
        ValueError: at such a draw.
    """

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_unseen(msg):
            raise ValueError(
                f"{msg['name']!r} is drawn anew at each run of the program, unseen, so that the steps of a chain would "
                "not meet the same density. Use evidence.importance, or of a FullBayes pair.sample_weights(), which "
                "holds its weights at one draw."
            )


def check_repeatable(which: str, run: Callable[[], Trace]) -> None:
    """Refuses a program whose densities differ from run to run at the same values, for chains.

    Args:
        which: "model" or "guide".
        run: runs it, with its latents at the same values each time.

    Raises:
        ValueError: if it draws noise that no site shows, by ``torch.randn``, say.
    """
    with fork_rng():
        first, second = run(), run()
    for trace in (first, second):
        trace.compute_log_prob()
    for name, site in random_sites(first).items():
        other: Any = second.nodes.get(name)
        if other is None or not same(site["log_prob"], other["log_prob"]):
            raise ValueError(
                f"at the same latents {name!r} of the {which} has another density in each run, so that the steps of a "
                f"chain would not meet the same one: the {which} draws noise that no site shows. Draw it by "
                "pyro.sample, as a latent of model and guide, or use evidence.importance."
            )
