"""What every estimator shares: one run of guide and model, accounted for site by site and datum by datum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.util import MultiFrameTensor, get_plate_stacks, torch_item
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.contract import as_pair, data_frame, programs


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
    """One summand ``sign * beta * value`` of the bound; autograd differentiates ``surrogate`` in its place."""

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


class Estimator(Trace_ELBO):
    r"""Base of all estimators: a Pyro ELBO with ``beta`` that also accounts for each datum.

    .. math:: \mathcal L_\beta = \log p(x \mid z) - \beta \, [\log q(z \mid x) - \log p(z)]

    A subclass says which terms there are (:meth:`_terms`). :meth:`loss`, :meth:`differentiable_loss` and
    :meth:`loss_and_grads` keep Pyro's meaning, sign and scale (minus the sum over the data, scaled by the plates), so
    that an estimator stands in ``pyro.infer.SVI``; :meth:`bound` is per datum.

    Args:
        num_particles: Monte Carlo samples of the latents for each datum, vectorised.
        beta: weight of the latents' terms, in model and guide alike; a tensor may be moved by a schedule.
        max_plate_nesting: number of nested plates of the pair (the data plate is one).
        num_data: number of data N that share what stands outside the data plate, for :meth:`bound` and
            :meth:`objective`. By default the plate's own size; :func:`pyro_vae.fit` sets it to that of the training
            set, since ``plate("data", len(x))`` knows its batch alone.

    Raises:
        ValueError: if a count is below 1, or ``beta`` is negative.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        max_plate_nesting: int = 1,
        num_data: int | None = None,
    ) -> None:
        counts = {"num_particles": num_particles, "max_plate_nesting": max_plate_nesting, "num_data": num_data or 1}
        for name, count in counts.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} has to be a whole number of at least 1; got {count!r}.")
        if not isinstance(beta, Tensor) and not beta >= 0:
            raise ValueError(f"beta weighs the latents' terms and cannot be negative; got {beta!r}.")
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)
        self.beta = beta
        self.num_data = num_data

    def __repr__(self) -> str:
        nesting = self.max_plate_nesting - (self.num_particles > 1)
        return f"{type(self).__name__}(num_particles={self.num_particles}, max_plate_nesting={nesting})"

    @abstractmethod
    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        """The summands of the bound; a subclass's one duty."""

    def _log_p(self, name: str, site: Any) -> Term:
        beta = 1.0 if site["is_observed"] else self.beta
        return Term(name, "log_p", 1, beta, site["log_prob"], site["log_prob"], site)

    def _log_q(self, name: str, site: Any) -> Term:
        entropy_term = site["score_parts"].entropy_term
        if is_identically_zero(entropy_term):
            entropy_term = torch.zeros_like(site["log_prob"])
        return Term(name, "log_q", -1, self.beta, site["log_prob"], entropy_term, site)

    def _run(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace, list[Term]]:
        model_trace, guide_trace = next(iter(self._get_traces(model, guide, args, kwargs)))
        return model_trace, guide_trace, self._terms(model_trace, guide_trace)

    def _score_function(self, model_trace: Trace, guide_trace: Trace) -> Tensor | float:
        """Score-function part of the surrogate: sum of log r * score, Rao-Blackwellised over the plates as in Pyro."""
        surrogate: Tensor | float = 0.0
        log_r = None
        for site in guide_trace.nodes.values():
            if site["type"] != "sample" or is_identically_zero(site["score_parts"].score_function):
                continue
            if log_r is None:
                log_r = MultiFrameTensor()
                stacks = get_plate_stacks(model_trace)
                for name, model_site in model_trace.nodes.items():
                    if model_site["type"] == "sample":
                        term = model_site["log_prob"]
                        if not model_site["is_observed"]:
                            term = self.beta * (term - guide_trace.nodes[name]["log_prob"])
                        log_r.add((stacks[name], term.detach()))
            weight = log_r.sum_to(site["cond_indep_stack"])
            surrogate = surrogate + (weight * site["score_parts"].score_function).sum()
        return surrogate

    def _loss(self, model_trace: Trace, guide_trace: Trace, terms: list[Term]) -> Tensor:
        """Minus the bound in Pyro's scale, summed over the data of the plates."""
        bound = torch.as_tensor(sum(term.weight * term.surrogate.sum() for term in terms))
        score = self._score_function(model_trace, guide_trace)
        if is_identically_zero(score):
            return -bound / self.num_particles
        surrogate = bound + score
        value = sum(term.weight * term.value.sum() for term in terms)
        # Pyro's form: the value of the bound with the gradient of the surrogate.
        return -(torch.as_tensor(value).detach() + (surrogate - surrogate.detach())) / self.num_particles

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound summed over the data (Pyro's scale); its gradient is the estimator's gradient."""
        return self._loss(*self._run(model, guide, args, kwargs))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound summed over the data (Pyro's scale), as a number."""
        with torch.no_grad():
            _, _, terms = self._run(model, guide, args, kwargs)
            loss = -torch_item(sum(term.weight * term.value.sum() for term in terms)) / self.num_particles
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

    def objective(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Objective:
        """What a training step needs of one run, in nats per datum (:class:`Objective`)."""
        model_trace, guide_trace, terms = self._run(model, guide, args, kwargs)
        plate = _plate(model_trace)
        loss = self._loss(model_trace, guide_trace, self._shared(plate, model_trace, guide_trace, terms))
        loss = loss / plate.full_size
        bound = self._reduce(_log_weights(self._per_datum(model_trace, terms), beta=False)).detach().mean()
        means = {
            name: {kind: value.detach().mean() for kind, value in site.items()}
            for name, site in self._by_site(model_trace, terms).items()
        }
        return Objective(loss, bound, means)

    def terms(self, pair: Any, *batch: Any) -> dict[str, SiteTerms]:
        """log p, log q or KL of each site for each datum of ``batch``, before beta, in nats (:class:`SiteTerms`)."""
        with torch.no_grad():
            model_trace, _, terms = self._run(*programs(as_pair(pair)), batch, {})
            return self._by_site(model_trace, terms)

    def bound(self, pair: Any, *batch: Any) -> Tensor:
        """The bound of each datum: ``[B]``, in nats, higher is better.

        Its expectation does not depend on the batch size: what a subsampled plate scales by N/B is scaled back, and
        what stands outside the data plate counts 1/N for each datum.

        Raises:
            ValueError: if the model has no plate over the data.
        """
        with torch.no_grad():
            model_trace, _, terms = self._run(*programs(as_pair(pair)), batch, {})
            bound = self._reduce(_log_weights(self._per_datum(model_trace, terms)))
            return bound.expand(_plate(model_trace).size)

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """``[num_particles, B]``: log p(x, z) - log q(z | x) of each draw, at beta = 1, in nats.

        Raises:
            ValueError: if a term was integrated in closed form, so that there is no weight for each draw.
        """
        model_trace, _, terms = self._run(*programs(as_pair(pair)), batch, {})
        if any(term.kind == "kl" for term in terms):
            raise ValueError(
                f"{type(self).__name__} integrates a KL in closed form; take importance weights from SGVB_A."
            )
        weights = _log_weights(self._per_datum(model_trace, terms), beta=False)
        return weights.expand(self.num_particles, _plate(model_trace).size)

    def mean_bound(self, pair: Any, batches: Iterable[Sequence[Any]]) -> float:
        """The mean of :meth:`bound` over all data of ``batches``, in nats per datum."""
        total, count = 0.0, 0
        for batch in batches:
            bound = self.bound(pair, *batch)
            total, count = total + bound.double().sum().item(), count + len(bound)
        if count == 0:
            raise ValueError("there are no data to average the bound over: the batches are empty.")
        return total / count

    def _num_data(self, plate: Any) -> int:
        """The number of data that share what stands outside ``plate``."""
        return plate.full_size if self.num_data is None or plate.size != plate.full_size else self.num_data

    def _shared(self, plate: Any, model_trace: Trace, guide_trace: Trace, terms: list[Term]) -> list[Term]:
        """``terms`` for a loss that is divided by the plate's size: what stands outside counts 1/N instead."""
        share = plate.full_size / self._num_data(plate)
        if share == 1:
            return terms
        for trace in (model_trace, guide_trace):  # the weights of the score function read the traces
            for site in trace.nodes.values():
                if site["type"] == "sample" and not _inside(site, plate):
                    site["log_prob"] = site["log_prob"] * share
        return [
            term
            if _inside(term.site, plate)
            else term._replace(value=term.value * share, surrogate=term.surrogate * share)
            for term in terms
        ]

    def _reduce(self, log_weights: Tensor) -> Tensor:
        """``[*particles, B]`` log p(x, z) / q(z | x) -> ``[B]`` the bound; a mean for every ELBO."""
        return log_weights.mean(0) if self.num_particles > 1 else log_weights

    def _per_datum(self, model_trace: Trace, terms: list[Term]) -> list[tuple[Term, Tensor]]:
        plate = _plate(model_trace)
        particles = -self.max_plate_nesting if self.num_particles > 1 else None
        num_data = self._num_data(plate)
        return [(term, _each_datum(term.value, term.site, plate, particles, num_data)) for term in terms]

    def _by_site(self, model_trace: Trace, terms: list[Term]) -> dict[str, SiteTerms]:
        sites: dict[str, dict[str, Tensor]] = {}
        for term, value in self._per_datum(model_trace, terms):
            sites.setdefault(term.name, {})[term.kind] = value
        return {name: SiteTerms(**kinds) for name, kinds in sites.items()}


def _log_weights(terms: list[tuple[Term, Tensor]], beta: bool = True) -> Tensor:
    """``[*particles, B]``: log p(x, z) / q(z | x) with its parts weighed by beta, or all by 1."""
    return torch.as_tensor(sum((term.weight if beta else term.sign) * value for term, value in terms))


def _plate(trace: Trace) -> Any:
    plate = data_frame(trace)
    if plate is None:
        raise ValueError(
            "the model has no plate over the data, so there is no bound for each datum. "
            'Put the sites of a datum inside `with pyro.plate("data", len(x)):`.'
        )
    return plate


def _inside(site: Any, plate: Any) -> bool:
    return any(frame.name == plate.name for frame in site["cond_indep_stack"])


def _each_datum(value: Tensor, site: Any, plate: Any, particles: int | None, num_data: int) -> Tensor:
    """``value`` (a site's log-probability, scaled by its plates) as ``[*particles, B or 1]``, a share per datum."""
    inside = _inside(site, plate)
    share = plate.size / plate.full_size if inside else 1 / num_data
    kept = ([particles] if particles is not None else []) + ([plate.dim] if inside else [])
    kept = [dim + value.dim() for dim in kept if dim + value.dim() >= 0]
    summed = [dim for dim in range(value.dim()) if dim not in kept]
    if summed:
        value = value.sum(summed)
    if not inside:
        value = value.unsqueeze(-1)
    return value * share
