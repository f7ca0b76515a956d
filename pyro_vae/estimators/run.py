"""One run of guide and model: what each random variable was, and what its terms count for each datum."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import torch
from pyro import poutine
from pyro.distributions import TransformedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor

from pyro_vae._pyro import PARTICLES
from pyro_vae._torch import has_values
from pyro_vae.distributions.wrappers import family, is_rounded, without_events
from pyro_vae.pair import latent_sites
from pyro_vae.pair.particles import Around, Plan
from pyro_vae.pair.sites import plate_nesting, scale_of_plates

Number = Tensor | float


class Site(NamedTuple):
    """A random variable as a program met it.

    ``log_prob`` is its ``density`` at the value, masked, and scaled by N / B of plates that subsample (``scale``).
    What handlers scale it by besides is ``weight``: it weighs the terms of a loss, and no bound. ``path`` is what is
    differentiated in the place of ``log_prob``, and ``score`` what the score function differentiates.
    """

    name: str
    fn: Any
    value: Tensor
    observed: bool
    frames: tuple[Any, ...]
    scale: float
    weight: Number
    mask: Tensor | bool | None
    infer: Mapping[str, Any]
    density: Tensor
    log_prob: Tensor
    score: Number
    path: Number

    @property
    def is_weighed(self) -> bool:
        """Whether handlers scale it besides its plates."""
        return isinstance(self.weight, Tensor) or self.weight != 1


def sites_of(trace: Trace) -> dict[str, Site]:
    """The random variables of a program whose log-probabilities have been computed, observed or not."""
    found = {}
    for name, node in cast("dict[str, Any]", trace.nodes).items():
        if node["type"] != "sample":
            continue
        scale, weight, log_prob, mask = scale_of_plates(node), 1.0, node["log_prob"], node["mask"]
        _, score, path = node.get("score_parts", (None, 0, log_prob))
        if isinstance(node["scale"], Tensor) or not math.isclose(node["scale"], scale, rel_tol=1e-6):
            weight = node["scale"] / scale
            log_prob = scale_and_mask(node["unscaled_log_prob"], scale=scale, mask=mask)
            path = path if is_identically_zero(path) else log_prob
        found[name] = Site(
            name,
            node["fn"],
            node["value"],
            node["is_observed"],
            node["cond_indep_stack"],
            scale,
            weight,
            mask,
            node["infer"],
            node["unscaled_log_prob"],
            log_prob,
            score,
            path,
        )
    return found


class Term(NamedTuple):
    """One summand ``sign * value`` of the log-weight; a sum of terms differentiates ``surrogate`` instead.

    In a loss it counts ``beta`` times, and as often as the handlers around its site say.
    """

    kind: str  # "log_p", "log_q", "kl", or "prior": the proposal of a latent that the model alone draws
    sign: int
    beta: Number
    value: Tensor
    surrogate: Tensor
    site: Site

    @property
    def weight(self) -> Number:
        return self.sign * self.beta * self.site.weight


@dataclass(frozen=True)
class SiteTerms:
    """The terms of one site, in nats per datum; those that the estimator did not need are ``None``.

    Inside the data plate a term is ``[B]``, or ``[num_particles, B]`` with more than one particle. Outside of it the
    last dimension has size 1 and the term is divided by the number of data N, so that summing over the N data counts
    the site once.

    Attributes:
        log_p: log p(site | parents) at the drawn or observed value.
        log_q: log q(site | x, parents) at the drawn value.
        kl: KL(q || p) of the site in closed form.
        shared: N, of a site outside of the data plate; 0 of one inside.
    """

    log_p: Tensor | None = None
    log_q: Tensor | None = None
    kl: Tensor | None = None
    shared: float = 0

    def items(self) -> list[tuple[str, Tensor]]:
        """``(name, value)`` of the terms that are there."""
        return [(name, value) for name in ("log_p", "log_q", "kl") if (value := getattr(self, name)) is not None]


class Call(NamedTuple):
    """The two programs, their arguments, what an estimator has prepared for them, and how particles of them are run."""

    model: Any
    guide: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    prepared: tuple[Tensor, ...] = ()
    plan: Plan | None = None


class Objective(NamedTuple):
    """One run of an estimator, averaged over the data of a batch, in nats per datum.

    Attributes:
        loss: differentiable; minus the bound with beta (of an upper bound the bound itself).
        bound: the bound at beta = 1, detached; ``None`` where the loss claims none.
        terms: mean of each term by site, ``{"x": {"log_p": ...}, "z": {"kl": ...}}``, detached.
    """

    loss: Tensor
    bound: Tensor | None
    terms: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Run:
    """One run of the guide, and of the model against its draws.

    Attributes:
        call: of which programs.
        model, guide: their random variables, in the order of the program.
        seen: the guide's draws as the model saw them, where those are other tensors.
        scores: log q of the guide's latents at fixed draws, a function of the parameters alone, where it is needed.
        frame: the plate over the data, if the model has one.
        at: the numbers of the estimator that a schedule may move.
        num_particles: draws of each latent and datum, K.
        nesting: nested plates, with that of the particles.
        given_num_data: N as the estimator was told it.
        detached: whether the draws carry no gradient.
        linear: whether the bound is a sum over the sites, so that each of them may be weighed by itself.
        terms: the summands of log p(x, z) - log q(z | x).
    """

    call: Call
    model: dict[str, Site]
    guide: dict[str, Site]
    seen: dict[str, Tensor]
    scores: dict[str, Tensor]
    frame: Any | None
    at: Mapping[str, Any]
    num_particles: int
    nesting: int
    given_num_data: float | None
    detached: bool = False
    linear: bool = True
    terms: list[Term] = field(default_factory=list)

    @property
    def plate(self) -> Any:
        """The plate over the data."""
        if self.frame is None:
            raise ValueError(
                "the model has no plate over the data, so there is no bound for each datum. "
                'Put the sites of a datum inside `with pyro.plate("data", len(x)):`.'
            )
        return self.frame

    @property
    def scale(self) -> float:
        """N / B, by which a subsampled data plate scales its sites."""
        return self.plate.full_size / self.plate.size

    @property
    def share(self) -> float:
        """B / N."""
        return self.plate.size / self.plate.full_size

    @property
    def num_data(self) -> float:
        """The number of data that share what stands outside the data plate; one that subsamples knows it itself."""
        given = self.given_num_data
        if given == math.inf or (given is not None and self.share == 1):
            return given
        return self.plate.full_size

    @property
    def latents(self) -> dict[str, Site]:
        """The guide's random variables."""
        return {name: site for name, site in self.guide.items() if not site.observed}

    @property
    def unguided(self) -> dict[str, Site]:
        """The latents of the model alone, which are drawn from their priors, with weight one."""
        return {name: site for name, site in self.model.items() if not site.observed and name not in self.guide}

    @property
    def drawn(self) -> dict[str, Site]:
        """All latents, as their proposals: the guide's, and those of the model alone with their priors' scores."""
        priors = {
            name: site._replace(score=0 if site.fn.has_rsample and not self.detached else site.density)
            for name, site in self.unguided.items()
        }
        return {**self.latents, **priors}

    @functools.cached_property
    def weight(self) -> Number:
        """How often a datum counts in a loss that is no sum over the sites, by the handlers around all of it: ``[B]``.

        It is what scales the observed sites. What scales a latent otherwise is a beta of its terms.

        Raises:
            ValueError: if the observed sites of a datum differ in it.
        """
        if self.linear:
            return 1.0
        sites = [site for site in self.model.values() if site.observed and self.inside(site)]
        if not any(site.is_weighed for site in sites):
            return 1.0
        weights = [torch.as_tensor(site.weight) for site in sites]
        data = self.plate.dim
        for site, weight in zip(sites, weights, strict=True):
            within = [size for dim, size in enumerate(weight.shape, -weight.dim()) if dim != data]
            known = has_values(weight) and has_values(weights[0])
            if math.prod(within) != 1 or (known and not bool((weight == weights[0]).all())):
                raise ValueError(
                    f"poutine.scale weighs {site.name!r} otherwise than {sites[0].name!r} of the same datum, so that "
                    "the draws of a datum would be weighed by no likelihood of it. Put one poutine.scale around all of "
                    "a datum, or use SGVB_A, SGVB_B or ScoreFunction, which weigh sites alone."
                )
        given = sites[0].weight
        return given.reshape(-1).expand(self.plate.size) if isinstance(given, Tensor) else given

    @property
    def local_latents(self) -> list[tuple[str, Site, Site]]:
        """``(name, guide's site, model's site)`` of the latents in the data plate, as the guide draws them."""
        shared = [(name, site, self.model[name]) for name, site in self.latents.items() if name in self.model]
        return [latent for latent in shared if not latent[2].observed and self.inside(latent[1])]

    def inside(self, site: Site) -> bool:
        """Whether a site stands in the plate over the data."""
        return any(frame.name == self.plate.name for frame in site.frames)

    def plates(self, site: Site) -> list[str]:
        """The names of the plates around a site, but that of the particles."""
        return [frame.name for frame in site.frames if frame.vectorized and frame.name != PARTICLES]

    def differentiated(self, site: Site) -> Tensor:
        """What is differentiated in the place of log q of a draw: nothing where only the score function does.

        The gradient of log q(z(phi); phi) has two parts: through the draw z, and the score, whose expectation is zero.
        Where the score is known by itself, it is left out.
        """
        if is_identically_zero(site.path):
            return torch.zeros_like(site.log_prob)
        score = self.scores.get(site.name)
        return cast(Tensor, site.path) if score is None else site.log_prob - (score - score.detach())

    def laid(self, weights: Tensor) -> Tensor:
        """``[K, B]``, or ``[B]``, as the plates lie, to meet a site's ``[*batch_shape]``."""
        shape = [1] * self.nesting
        shape[self.plate.dim] = self.plate.size
        if self.num_particles > 1 and weights.dim() > 1:
            shape[-self.nesting] = self.num_particles
        return weights.reshape(shape)

    def each_datum(self, value: Tensor, site: Site) -> Tensor:
        """``value`` (a site's log-probability, scaled by its plates) as ``[*particles, B or 1]``, a share per datum."""
        particles = [-self.nesting] if self.num_particles > 1 else []
        if self.inside(site):
            return summed_to(value, [*particles, self.plate.dim]) * self.share
        return summed_to(value, particles).unsqueeze(-1) * (1 / self.num_data)

    def counted(self, values: Tensor) -> Tensor:
        """``[*, B]``, each datum as often as it counts in a loss."""
        return values if isinstance(self.weight, float) and self.weight == 1 else self.weight * values

    def tempering(self, site: Site) -> Number:
        """By how much handlers weigh the terms of a site more than its datum, :attr:`weight`; in a tensor by plate."""
        weight = self.weight
        if not isinstance(weight, Tensor):
            return site.weight / weight if weight else 0.0
        weight = self.laid(weight)
        return torch.where(weight > 0, site.weight / weight, torch.zeros_like(weight))

    def weighed(self, term: Term, attribute: str, beta: bool) -> Tensor:
        """A term for each datum with its sign, and its beta and tempering, or 1."""
        value, tempering = getattr(term, attribute), self.tempering(term.site) if beta else 1.0
        if isinstance(tempering, Tensor):
            value, tempering = value * tempering, 1.0
        return (term.sign * (term.beta * tempering if beta else 1)) * self.each_datum(value, term.site)

    def sum(self, kind: str | None = None, attribute: str = "value", *, beta: bool = True) -> Tensor:
        """``[K, B]``: the sum of the terms, or of those of a kind, each with its sign and its beta, or with 1."""
        summed = sum(self.weighed(term, attribute, beta) for term in self.terms if kind is None or term.kind == kind)
        return torch.as_tensor(summed).expand(self.num_particles, self.plate.size)

    def total(self, attribute: str = "value") -> Tensor:
        """The sum of the terms in Pyro's scale, of all particles."""

        def of(term: Term) -> Tensor:
            weight, value = term.weight, getattr(term, attribute)
            return (weight * value).sum() if isinstance(weight, Tensor) and weight.dim() else weight * value.sum()

        return torch.as_tensor(sum(map(of, self.terms)))

    def outside(self) -> float:
        """The sum of the terms outside of the data plate, with their beta, averaged over the particles."""
        terms = [term.weight * term.value.sum() for term in self.terms if not self.inside(term.site)]
        return float(torch.as_tensor(sum(terms)).sum()) / self.num_particles

    def unweighed(self) -> Run:
        """The run without what handlers weigh its sites by."""
        if not any(site.is_weighed for site in (*self.model.values(), *self.guide.values())):
            return self
        model, guide = (
            {name: site._replace(weight=1.0) for name, site in program.items()} for program in (self.model, self.guide)
        )
        terms = [term._replace(site=term.site._replace(weight=1.0)) for term in self.terms]
        return replace(self, model=model, guide=guide, terms=terms)

    def shared(self) -> Run:
        """For a total that is divided by the plate's size: what stands outside of it counts 1/N instead."""
        share = self.plate.full_size / self.num_data

        def of(term: Term) -> Term:
            outside = share != 1 and not self.inside(term.site)
            return term._replace(value=term.value * share, surrogate=term.surrogate * share) if outside else term

        return replace(self, terms=[of(term) for term in self.terms])

    def by_site(self) -> dict[str, SiteTerms]:
        """The terms of each site for each datum, before beta."""
        sites: dict[str, dict[str, Any]] = {}
        for term in self.terms:
            if term.kind != "prior":
                sites.setdefault(term.site.name, {})[term.kind] = self.each_datum(term.value, term.site)
        shared = {term.site.name: 0 if self.inside(term.site) else self.num_data for term in self.terms}
        return {name: SiteTerms(**kinds, shared=shared[name]) for name, kinds in sites.items()}


def summed_to(value: Tensor, dims: Sequence[int]) -> Tensor:
    """``value`` summed over all of its dimensions but ``dims``, which count from the right."""
    kept = [dim + value.dim() for dim in dims]
    summed = [dim for dim in range(value.dim()) if dim not in kept]
    return value.sum(summed) if summed else value


def traced(
    who: str,
    call: Call,
    plan: Plan,
    count: int | None,
    *,
    detached: bool = False,
    shown: Callable[[Tensor], Tensor] | None = None,
    scored: bool = False,
    around: Callable[[Trace | None], Around] = lambda drawn: lambda program: program,
) -> tuple[Trace, Trace, dict[str, Tensor], dict[str, Tensor]]:
    """Runs the guide, and the model against its draws: their traces, and ``seen`` and ``scores`` of a :class:`Run`.

    There are ``count`` particles, by ``plan``; ``who`` needs the run, for the messages; ``around`` gives what handles
    the guide, and the model against a trace of the guide; for the others see :class:`~pyro_vae.estimators.Gradient`.

    Raises:
        ValueError: if a distribution has to score a given value and cannot, as Pyro's planar flow cannot.
    """
    model, guide, args, kwargs = call[:4]
    plain = not detached and shown is None
    if isinstance(poutine.unwrap(guide), Messenger):
        return (*get_importance_trace("flat", plan.nesting, model, guide, args, kwargs), {}, {})
    seen: dict[str, Tensor] = {}
    if plain:
        model_trace, drawn = plan.traces(model, guide, args, kwargs, count, around)
    else:
        with _Detached(who) if detached else contextlib.nullcontext():
            drawn = plan.trace(guide, args, kwargs, count, around=around(None))
        if shown is not None:
            seen = {name: shown(site["value"]) for name, site in latent_sites(drawn).items()}
        with _Detached(who, latent_sites(drawn)) if detached else contextlib.nullcontext():
            replayed = _with_values(drawn, seen)
            model_trace = plan.trace(model, args, kwargs, count, replayed=replayed, around=around(drawn))
    if not plain or scored:
        _check_rounded(who, drawn)
    nesting = max(plan.nesting, plate_nesting(model_trace, drawn)) if count is None else plan.nesting + 1
    if is_validation_enabled():
        check_model_guide_match(model_trace, drawn, nesting)
    model_trace, guide_trace = prune_subsample_sites(model_trace), prune_subsample_sites(drawn)
    model_trace.compute_log_prob()
    guide_trace.compute_score_parts()
    if plain and is_validation_enabled():
        for site in (*model_trace.nodes.values(), *guide_trace.nodes.values()):
            if site["type"] == "sample":
                check_site_shape(site, nesting)
    return model_trace, guide_trace, seen, _scores(who, call, plan, count, drawn) if scored else {}


def _check_rounded(who: str, drawn: Trace) -> None:
    """Refuses draws that carry what they are scored by, which other tensors of the same values lack.

    Raises:
        ValueError: if there are some.
    """
    for name, site in latent_sites(drawn).items():
        if is_rounded(site["fn"]):
            raise ValueError(
                f"{who} scores other tensors than the guide draws, and those of q({name}), a "
                f"{family(site['fn'])}, are scored by what they were rounded from. Use SGVB_A or IWAE."
            )


def _scores(who: str, call: Call, plan: Plan, count: int | None, drawn: Trace) -> dict[str, Tensor]:
    """log q of the guide's latents as a function of the parameters, at the draws of a trace.

    One latent is scored by the distribution at hand; with several, where a distribution may depend on the draws before
    it, the guide runs once more.
    """
    sites = latent_sites(drawn)
    fixed = _with_values(drawn, {name: site["value"].detach() for name, site in sites.items()})
    if len(sites) > 1:
        fixed = plan.trace(call.guide, call.args, call.kwargs, count, replayed=fixed)
    found = {}
    for name in sites:
        node: Any = fixed.nodes[name]
        score = _score_anew(who, name, node["fn"], node["value"])
        found[name] = scale_and_mask(score, scale_of_plates(node), node["mask"])
    return found


def _with_values(trace: Trace, values: Mapping[str, Tensor]) -> Trace:
    """A copy of a trace with other values, to be replayed."""
    copied = Trace()
    for name, site in trace.nodes.items():
        copied.add_node(name, **{**site, **({"value": values[name]} if name in values else {})})
    return copied


def _score_anew(who: str, name: str, fn: Any, value: Tensor) -> Tensor:
    """log q at a value that the distribution has not just drawn itself."""
    try:
        return cast(Tensor, fn.log_prob(value))
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{who} scores draws anew, which q({name}), a {family(fn)}, cannot do "
            f"({type(error).__name__}: {error}). Use SGVB_A or IWAE, which score a draw as it is made."
        ) from error


class _Detached(Messenger):
    """Runs a program so that its draws carry no gradient.

    A transformed distribution then no longer knows a draw as its own, and has to find its way back from it.
    """

    def __init__(self, who: str, known: Collection[str] = ()) -> None:
        super().__init__()
        self.who, self.known = who, known

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor) and not msg["is_observed"] and msg["name"] not in self.known:
            msg["value"] = msg["value"].detach()
            if isinstance(without_events(msg["fn"]), TransformedDistribution):
                _score_anew(self.who, msg["name"], msg["fn"], msg["value"])
