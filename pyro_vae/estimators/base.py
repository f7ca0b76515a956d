"""What every estimator shares: one run of guide and model, accounted for site by site and datum by datum."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae._checks import number, whole
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.facts import Facts
from pyro_vae.pair import as_pair, computing_once, data_frame, latent_sites, programs

REMEDY = (
    "Use SGVB_A or, with less variance, ScoreFunction, VIMCO or ReweightedWakeSleep; or Enumeration where the support "
    "is finite."
)


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
    """

    log_p: Tensor | None = None
    log_q: Tensor | None = None
    kl: Tensor | None = None

    def items(self) -> list[tuple[str, Tensor]]:
        """``(name, value)`` of the terms that are there."""
        named = (("log_p", self.log_p), ("log_q", self.log_q), ("kl", self.kl))
        return [(name, value) for name, value in named if value is not None]


class Objective(NamedTuple):
    """One run of an estimator, averaged over the data of a batch, in nats per datum.

    Attributes:
        loss: differentiable; minus the bound with beta.
        bound: the bound at beta = 1, detached.
        terms: mean of each term by site, ``{"x": {"log_p": ...}, "z": {"kl": ...}}``, detached.
    """

    loss: Tensor
    bound: Tensor
    terms: dict[str, dict[str, Tensor]]


class Term(NamedTuple):
    """One summand ``sign * beta * value`` of the log-weight; a sum of terms differentiates ``surrogate`` instead."""

    name: str
    kind: str  # "log_p", "log_q" or "kl"
    sign: int
    beta: Tensor | float
    value: Tensor
    surrogate: Tensor
    site: Any

    @property
    def weight(self) -> Tensor | float:
        return self.sign * self.beta


class Draws(NamedTuple):
    """One run of guide and model; ``extra`` is what else they learn from, ``[B]``: dreams, or posterior draws."""

    model_trace: Trace
    guide_trace: Trace
    terms: list[Term]
    extra: Any = None

    @property
    def plate(self) -> Any:
        """The plate over the data."""
        plate = data_frame(self.model_trace)
        if plate is None:
            raise ValueError(
                "the model has no plate over the data, so there is no bound for each datum. "
                'Put the sites of a datum inside `with pyro.plate("data", len(x)):`.'
            )
        return plate


class Estimator(Trace_ELBO):
    r"""Base of all estimators: a Pyro ELBO that also accounts for each datum.

    :meth:`loss`, :meth:`differentiable_loss` and :meth:`loss_and_grads` keep Pyro's meaning, sign and scale (minus
    the sum over the data, scaled by the plates), so that an estimator stands in ``pyro.infer.SVI``; :meth:`bound` is
    per datum. A subclass is a sum of terms (:class:`~pyro_vae.estimators.sgvb.SGVB`), or treats each datum by itself
    (:class:`~pyro_vae.estimators.per_datum.PerDatum`).

    Args:
        num_particles: Monte Carlo samples of the latents for each datum, vectorized.
        beta: weight of the latents' terms, in model and guide alike; a tensor may be moved by a schedule.
        max_plate_nesting: number of nested plates of the pair (the data plate is one).
        num_data: number of data N that share what stands outside the data plate, for :meth:`bound` and
            :meth:`objective`. By default the plate's own size; :func:`pyro_vae.fit` sets it to that of the training
            set, since ``plate("data", len(x))`` knows its batch alone. ``math.inf`` for held-out data, whose bound is
            E[log p(x | theta)] under the guide's theta, without the KL that the training data have paid.

    Raises:
        ValueError: if a count is below 1, or ``beta`` is negative.
    """

    facts: ClassVar[Facts]
    no_beta: ClassVar[str] = ""  # why, of an estimator whose objective has no place for it

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        max_plate_nesting: int = 1,
        num_data: float | None = None,
    ) -> None:
        whole(1, num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        if num_data is not None and num_data != math.inf:
            whole(1, num_data=num_data)
        if not isinstance(beta, Tensor) and not 0 <= beta < float("inf"):
            raise ValueError(f"beta weighs the latents' terms: it is finite and cannot be negative; got {beta!r}.")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)
        self.beta = beta
        self.num_data = num_data

    def __repr__(self) -> str:
        nesting = self.max_plate_nesting - (self.num_particles > 1)
        options = {**self._options(), "max_plate_nesting": nesting}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    @classmethod
    def check_beta(cls, given: bool) -> None:
        """Raises a ``ValueError`` if a beta is ``given`` to an estimator that has no place for it."""
        if given and cls.no_beta:
            raise ValueError(
                f"{cls.__name__} {cls.no_beta}, so no beta weighs. Leave it out, or use an ELBO (SGVB_A, SGVB_B)."
            )

    @property
    def scheduled(self) -> dict[str, Tensor]:
        """What may be moved during training, by name, as it is now."""
        return {} if self.no_beta else {"beta": torch.as_tensor(self.beta)}

    @property
    def schedules(self) -> dict[str, Any]:
        """The schedules that it was given for some of them."""
        return {}

    def check_scheduled(self, name: str, value: float) -> None:
        """Refuses by a ``ValueError`` what is not :attr:`scheduled`, or a value that it cannot have."""
        if name not in self.scheduled:
            self.check_beta(name == "beta")
            raise ValueError(f"{type(self).__name__} has no {name} that could be moved.")
        number(0, **{name: value})

    @contextmanager
    def _at(self, at: Mapping[str, Tensor] | None, num_data: float | None) -> Iterator[None]:
        before = self.beta, self.num_data
        if at:
            (self.beta,) = at.values()
        if num_data is not None:
            self.num_data = num_data
        try:
            yield
        finally:
            self.beta, self.num_data = before

    def _options(self) -> dict[str, Any]:
        """The arguments by which a run folder knows an estimator again."""
        return {"num_particles": self.num_particles}

    @property
    def evaluations(self) -> tuple[int, int]:
        """Evaluations of the model and of the guide's networks for one gradient and one datum."""
        return self.num_particles, 1

    num_updates: int = 1  # of the weights, for each batch

    def prepare(
        self, model: Any, guide: Any, *batch: Any, compiled: Callable[[Any], Any] = lambda function: function
    ) -> tuple[Tensor, ...]:
        """What is drawn for a batch before its updates, without gradient; for most estimators nothing.

        Args:
            model: z ~ p(z), x ~ p(x | z).
            guide: z ~ q(z | x).
            batch: arguments of both.
            compiled: gives a faster version of a function of tensors.
        """
        return ()

    def state(self) -> dict[str, Any]:
        """What the estimator has adapted so far, for a checkpoint; for most nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up :meth:`state`."""

    # What a subclass says

    @abstractmethod
    def _value(self, draws: Draws) -> Tensor:
        """The bound with beta in Pyro's scale: summed over the data of the plates."""

    @abstractmethod
    def _loss(self, draws: Draws) -> Tensor:
        """Minus :meth:`_value`, with the estimator's gradient."""

    @abstractmethod
    def _mean_loss(self, draws: Draws) -> Tensor:
        """The loss per datum."""

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        """The summands of the log-weight log p(x, z) - log q(z | x)."""
        log_p = [self._log_p(name, site) for name, site in sample_sites(model_trace)]
        log_q = [self._log_q(name, site) for name, site in sample_sites(guide_trace)]
        return log_p + log_q

    def _reduce(self, log_weights: Tensor) -> Tensor:
        """``[K, B]`` log p(x, z) / q(z | x) -> ``[B]`` the bound; a mean for every ELBO."""
        return log_weights.mean(0)

    # One run

    def _log_p(self, name: str, site: Any) -> Term:
        beta = 1.0 if site["is_observed"] else self.beta
        return Term(name, "log_p", 1, beta, site["log_prob"], site["log_prob"], site)

    def _log_q(self, name: str, site: Any) -> Term:
        surrogate = site["score_parts"].entropy_term
        if is_identically_zero(surrogate):
            surrogate = torch.zeros_like(site["log_prob"])
        elif "score_log_prob" in site:
            surrogate = path(site)
        return Term(name, "log_q", -1, self.beta, site["log_prob"], surrogate, site)

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: tuple[Tensor, ...] = ()) -> Draws:
        with computing_once():
            model_trace, guide_trace = next(iter(self._get_traces(model, guide, args, kwargs)))
        return Draws(model_trace, guide_trace, self._terms(model_trace, guide_trace))

    # Pyro's interface

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound summed over the data (Pyro's scale); its gradient is the estimator's gradient."""
        return self._loss(self._draw(model, guide, args, kwargs))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound summed over the data (Pyro's scale), as a number."""
        with torch.no_grad():
            loss = -torch_item(self._value(self._draw(model, guide, args, kwargs)))
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """As :meth:`loss`, with the gradient added to each parameter's ``.grad``."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        value = torch_item(loss)
        warn_if_nan(value, "loss")
        return value

    # For each datum

    def objective(
        self,
        model: Any,
        guide: Any,
        *args: Any,
        prepared: tuple[Tensor, ...] = (),
        at: Mapping[str, Tensor] | None = None,
        num_data: float | None = None,
        **kwargs: Any,
    ) -> Objective:
        """What a training step needs of one run, in nats per datum (:class:`Objective`).

        Args:
            model: z ~ p(z), x ~ p(x | z).
            guide: z ~ q(z | x).
            args: arguments of both.
            prepared: what :meth:`prepare` gave for them; where it is missing, the estimator prepares it itself.
            at: the values of what is :attr:`scheduled`, in place of the estimator's own.
            num_data: in place of the estimator's own.
            kwargs: further arguments of both.
        """
        with self._at(at, num_data):
            draws = self._draw(model, guide, args, kwargs, prepared)
            bound = self._bound(draws, beta=False).detach().mean()
            means = {
                name: {kind: value.detach().mean() for kind, value in site.items()}
                for name, site in self._by_site(draws).items()
            }
            return Objective(self._mean_loss(draws), bound, means)

    def terms(self, pair: Any, *batch: Any) -> dict[str, SiteTerms]:
        """log p, log q or KL of each site for each datum of ``batch``, before beta, in nats (:class:`SiteTerms`)."""
        with torch.no_grad():
            return self._by_site(self._draw(*programs(as_pair(pair)), batch, {}))

    def bound(self, pair: Any, *batch: Any, num_data: float | None = None) -> Tensor:
        """The bound of each datum: ``[B]``, in nats, higher is better.

        The pair runs in the mode that it is in: ``pair.eval()`` before, where it has dropout, a batch norm, or a scale
        that is taken from the batch in training.

        Its expectation does not depend on the batch size: what a subsampled plate scales by N/B is scaled back, and
        what stands outside the data plate counts 1/N for each datum.

        Raises:
            ValueError: if the model has no plate over the data.

        Warns:
            UserWarning: if the bound of a datum is not finite.
        """
        with torch.no_grad(), self._at(None, num_data):
            bound = self._bound(self._draw(*programs(as_pair(pair)), batch, {}), beta=num_data is None)
        broken = int((~bound.isfinite()).sum())
        if broken:
            warnings.warn(
                f"{type(self).__name__}: the bound of {broken:,} of {len(bound):,} data is not finite, because a "
                "log-weight log p(x, z) - log q(z | x) is not. `check(pair, *batch)` names the site; a likelihood "
                "with a bounded scale, or logits in place of probabilities, is the usual remedy.",
                stacklevel=2,
            )
        return bound

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """``[num_particles, B]``: log p(x, z) - log q(z | x) of each draw, at beta = 1, in nats.

        Raises:
            ValueError: if a term was integrated in closed form, so that there is no weight for each draw.
        """
        draws = self._draw(*programs(as_pair(pair)), batch, {})
        if any(term.kind == "kl" for term in draws.terms):
            raise ValueError(
                f"{type(self).__name__} integrates a KL in closed form; take importance weights from SGVB_A."
            )
        return self._log_weights(draws, beta=False)

    def mean_bound(self, pair: Any, batches: Iterable[Sequence[Any]], num_data: float | None = None) -> float:
        """The mean of :meth:`bound` over all data of ``batches``, in nats per datum."""
        total, count = 0.0, 0
        for batch in batches:
            bound = self.bound(pair, *batch, num_data=num_data)
            total, count = total + bound.double().sum().item(), count + len(bound)
        if count == 0:
            raise ValueError("there are no data to average the bound over: the batches are empty.")
        return total / count

    def _bound(self, draws: Draws, beta: bool = True) -> Tensor:
        """``[B]``: the bound of each datum, its parts weighed by beta, or all by 1."""
        return self._reduce(self._log_weights(draws, beta))

    def _log_weights(self, draws: Draws, beta: bool = True) -> Tensor:
        """``[K, B]``: log p(x, z) / q(z | x) of each draw, its parts weighed by beta, or all by 1."""
        terms = self._per_datum(draws)
        summed = torch.as_tensor(sum((term.weight if beta else term.sign) * value for term, value in terms))
        return summed.expand(self.num_particles, draws.plate.size)

    def _num_data(self, plate: Any) -> float:
        """The number of data that share what stands outside ``plate``."""
        if self.num_data is None or (plate.size != plate.full_size and self.num_data != math.inf):
            return plate.full_size
        return self.num_data

    def _per_datum(self, draws: Draws) -> list[tuple[Term, Tensor]]:
        plate = draws.plate
        num_data = self._num_data(plate)
        return [(term, self._each_datum(term.value, term.site, plate, num_data)) for term in draws.terms]

    def _each_datum(self, value: Tensor, site: Any, plate: Any, num_data: float) -> Tensor:
        """``value`` (a site's log-probability, scaled by its plates) as ``[*particles, B or 1]``, a share per datum."""
        within = inside(site, plate)
        share = plate.size / plate.full_size if within else 1 / num_data
        particles = [-self.max_plate_nesting] if self.num_particles > 1 else []
        kept = [dim + value.dim() for dim in (particles + ([plate.dim] if within else [])) if dim + value.dim() >= 0]
        summed = [dim for dim in range(value.dim()) if dim not in kept]
        if summed:
            value = value.sum(summed)
        if not within:
            value = value.unsqueeze(-1)
        return value * share

    def _by_site(self, draws: Draws) -> dict[str, SiteTerms]:
        sites: dict[str, dict[str, Tensor]] = {}
        for term, value in self._per_datum(draws):
            sites.setdefault(term.name, {})[term.kind] = value
        return {name: SiteTerms(**kinds) for name, kinds in sites.items()}


def sample_sites(trace: Trace) -> list[tuple[str, Any]]:
    """``(name, site)`` of the random variables, observed or not."""
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample"]


def inside(site: Any, plate: Any) -> bool:
    """Whether a site stands in the plate over the data."""
    return any(frame.name == plate.name for frame in site["cond_indep_stack"])


def detached(trace: Trace) -> Trace:
    """A copy of a trace whose values carry no gradient."""
    return with_values(trace, {name: site["value"].detach() for name, site in latent_sites(trace).items()})


def with_values(trace: Trace, values: dict[str, Tensor]) -> Trace:
    """A copy of a trace with other values, to be replayed."""
    copied = Trace()
    for name, site in trace.nodes.items():
        copied.add_node(name, **{**site, **({"value": values[name]} if name in values else {})})
    return copied


def path(site: Any) -> Tensor:
    """log q at the site's draw, with the gradient that comes through the draw alone.

    The gradient of log q(z(phi); phi) has two parts: through the draw z, and the score, whose expectation is zero.
    ``score_log_prob`` has the value of log q and the score alone, so the difference leaves the other part.
    """
    score = site["score_log_prob"]
    return site["log_prob"] - (score - score.detach())


def add_scores(estimator: str, guide: Any, guide_trace: Trace, args: Any, kwargs: Any) -> None:
    """Puts ``score_log_prob`` into the guide's latents: log q as a function of the parameters at fixed draws.

    One latent is scored by the distribution at hand. With several, where a distribution may depend on the draws
    before it, the guide is run once more on the fixed draws.

    Args:
        estimator: what needs the scores, for the message.
        guide: the guide under ``poutine.trace``, as it ran: its trace has the plates' subsamples, too.
        guide_trace: the trace to put the scores into.
        args, kwargs: the guide's arguments.

    Raises:
        ValueError: if a distribution cannot score a given value, as Pyro's planar flow cannot.
    """
    sites = latent_sites(guide_trace)
    fixed = detached(guide.trace)
    if len(sites) > 1:
        fixed = poutine.trace(poutine.replay(guide.fn, trace=fixed)).get_trace(*args, **kwargs)
    for name, site in sites.items():
        scored: Any = fixed.nodes[name]
        score = score_anew(estimator, name, scored["fn"], scored["value"])
        site["score_log_prob"] = scale_and_mask(score, scored["scale"], scored["mask"])


def score_anew(estimator: str, name: str, fn: Any, value: Tensor) -> Tensor:
    """log q at a value that the distribution has not just drawn itself.

    Raises:
        ValueError: if it cannot, as Pyro's planar flow cannot.
    """
    try:
        return cast(Tensor, fn.log_prob(value))
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{estimator} scores draws anew, which q({name}), a {family(fn)}, cannot do "
            f"({type(error).__name__}: {error}). Use SGVB_A or IWAE, which score a draw as it is made."
        ) from error
