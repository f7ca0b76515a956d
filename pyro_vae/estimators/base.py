"""What every estimator is: a bound and a gradient, behind Pyro's interface, and accounted for datum by datum."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae._checks import PLATES, callable_, checked, data_size, held, number, shown, whole
from pyro_vae._pyro import validates
from pyro_vae.batches import num_rows
from pyro_vae.estimators.bounds import Bound, Side, warn_of
from pyro_vae.estimators.claims import Claims, check_bounds, check_run, looked_at
from pyro_vae.estimators.facts import Facts, facts_of
from pyro_vae.estimators.gradients import Gradient, Pathwise
from pyro_vae.estimators.run import Call, Number, Objective, Run, Site, SiteTerms, Term, sites_of, traced
from pyro_vae.pair import as_pair, computing_once, gate, programs
from pyro_vae.pair.arguments import Arguments, Converted, batch_by_batch, converted
from pyro_vae.pair.particles import Plan
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.sites import plate_nesting
from pyro_vae.pair.structure import guide_problems
from pyro_vae.pair.turns import in_turn

At = Mapping[str, Number]


class Estimator(Trace_ELBO):
    r"""A bound of log p(x) with a gradient: a Pyro ELBO that also accounts for each datum.

    :meth:`loss`, :meth:`differentiable_loss` and :meth:`loss_and_grads` keep Pyro's meaning, sign and scale (minus
    the sum over the data, scaled by the plates), so that an estimator stands in ``pyro.infer.SVI``; :meth:`bound` is
    per datum. An upper bound is minimized, so that its loss has the other sign; it is for a guide, while the model's
    parameters stay fixed.

    A latent of the model alone is drawn from its prior, with weight one. A ``poutine.scale`` weighs the terms of a loss
    that is a sum over the sites as in Pyro; where draws are weighed against each other, what scales the observed sites
    weighs the bound of their datum, and what scales a latent besides is a beta of its terms.

    To write one, write a bound: one method, and the side of log p(x) on which it lies.

    >>> from pyro_vae.estimators import Bound, DoublyReparameterized, Estimator
    >>> class CUBO(Bound):
    ...     '''log E[w^2]^(1/2) (Dieng et al. 2017), with the log's tangent at a guess, so that it holds at any K.'''
    ...     side = "above"
    ...     def __init__(self, guess):
    ...         self.guess = guess
    ...     def reduce(self, log_weights):  # [K, *] -> [*]
    ...         return self.guess + ((2 * (log_weights - self.guess)).exp().mean(0) - 1) / 2
    >>> cubo = Estimator(CUBO(-90.0), DoublyReparameterized(), num_particles=20)
    >>> cubo.facts.bounds
    'log p(x), from above: an upper bound'

    A gradient is :meth:`Gradient.surrogate`, a penalty on the ELBO :meth:`Penalized.penalty`. A class with a name of
    its own is its constructor, ``super().__init__(bound, gradient, num_particles, **options)``.

    Args:
        bound: what the log-weights of a datum are reduced to.
        gradient: how that is differentiated, by default :class:`~pyro_vae.estimators.Pathwise`.
        num_particles: Monte Carlo samples of the latents for each datum, vectorized.
        beta: weight of the latents' terms, in model and guide alike; a tensor may be moved from outside.
        max_plate_nesting: number of nested plates of the pair (the data plate is one).
        num_data: number of data N that share what stands outside the data plate, for :meth:`bound` and
            :meth:`objective`. By default the plate's own size; :func:`pyro_vae.fit` takes that of the training set,
            since ``plate("data", len(x))`` knows its batch alone. ``math.inf`` for held-out data, whose bound is
            E[log p(x | theta)] under the guide's theta, without the KL that the training data have paid.

    Raises:
        ValueError: if a count is below 1, ``beta`` is negative, or bound and gradient cannot be combined; from a run,
            if they cannot take a latent of the pair.

    Attributes:
        numbers: the names of the attributes that a schedule may move, each a finite number of at least 0.
        no_beta: why beta is not among them; else empty.
        known: facts that follow neither from bound and gradient nor from the docstring's source.
        num_updates: of the weights, for each batch.
    """

    numbers: tuple[str, ...] = ("beta",)
    no_beta: str = ""
    known: ClassVar[Facts] = Facts()
    needs_support: ClassVar[bool] = False  # whether the densities of draws of other data matter
    num_updates: int = 1
    beta: Number
    _small: ClassVar[tuple[Any, ...]] = (3,)  # the first arguments of an example
    _runs: ClassVar[type[Run]] = Run

    @checked(but=("num_particles", "max_plate_nesting"))
    def __init__(
        self,
        bound: Bound,
        gradient: Gradient | None = None,
        num_particles: int = 1,
        *,
        beta: float | Tensor = 1.0,
        max_plate_nesting: int = 1,
        num_data: float | None = None,
    ) -> None:
        whole(1, num_particles=num_particles)
        whole(1, PLATES, max_plate_nesting=max_plate_nesting)
        data_size(num_data=num_data)
        if num_particles % bound.num_groups:
            raise ValueError(f"num_particles has to be a multiple of the groups of {bound!r}; got {num_particles}.")
        self._bound, self.gradient = bound, gradient or Pathwise()
        self.gradient.check(type(self).__name__, bound, num_particles)
        if self.gradient.no_beta:
            self.numbers, self.no_beta = (), self.gradient.no_beta
        if "beta" in self.numbers or isinstance(beta, Tensor) or beta != 1.0:
            self.check_scheduled("beta", beta)
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting, vectorize_particles=True)
        self.beta, self.num_data = beta, num_data

    @classmethod
    def example(cls, **options: Any) -> Estimator:
        """A small one, for tables and tests; as it is, its loss is minus its bound."""
        return cls(*cls._small, **options)

    def __repr__(self) -> str:
        """The arguments by which a run folder knows an estimator again; an option that is off is left out."""
        options = {}
        for name, given in inspect.signature(type(self)).parameters.items():
            value = vars(self).get(name, vars(self).get(f"_{name}"))
            value = None if isinstance(value, Pathwise) else value
            off = name in ("beta", "num_data") or (not given.default and value == given.default)
            if given.kind is not given.VAR_KEYWORD and not (given.kind is given.KEYWORD_ONLY and off):
                options[name] = value
        options["max_plate_nesting"] = self.room
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    @property
    def room(self) -> int:
        """How many nested plates of a pair it was made for; the particles lie on the left of them."""
        return self.max_plate_nesting - (self.num_particles > 1)

    @property
    def side(self) -> Side:
        """Of log p(x) on which the expectation of :meth:`bound` lies: ``"below"``, ``"above"`` or ``"neither"``."""
        return self._bound.side

    @property
    def per_datum(self) -> bool:
        """Whether each datum is weighed by itself, so that all latents have to stand in the data plate."""
        return self.gradient.per_datum or not self._bound.linear

    @property
    def evaluations(self) -> tuple[int, int]:
        """Evaluations of the model and of the guide's networks for one gradient and one datum."""
        return self.gradient.evaluations(self.num_particles)

    @property
    def facts(self) -> Facts:
        """What is known of its bound, of its gradient and of itself."""
        return facts_of(type(self), self._bound, self.gradient, self.per_datum)

    # What a schedule moves

    @property
    def schedules(self) -> Mapping[str, Callable[[Any], float]]:
        """Those of :attr:`numbers` that were given as a schedule."""
        return {name: value for name in self.numbers if callable(value := getattr(self, name))}

    @property
    def scheduled(self) -> Mapping[str, Tensor]:
        """The :attr:`numbers` as they are now, 0-d tensors by name; one that was given as a schedule is NaN."""
        values = {name: getattr(self, name) for name in self.numbers} | dict.fromkeys(self.schedules, math.nan)
        tensors = {name: v if isinstance(v, Tensor) else torch.tensor(float(v)) for name, v in values.items()}
        return MappingProxyType(tensors)

    def check_scheduled(self, name: str, value: Any) -> None:
        """Raises a ``ValueError`` if the estimator has no such number, or it cannot have this value."""
        if name == "beta" and self.no_beta:
            raise ValueError(
                f"{type(self).__name__} {self.no_beta}, so no beta weighs. Leave it out, or use an ELBO (SGVB_A, "
                "SGVB_B)."
            )
        if name not in self.numbers:
            its = ", ".join(self.numbers) or "none"
            raise ValueError(f"{type(self).__name__} has no number {name!r} that a schedule moves; it has {its}.")
        number(0, **{name: value})

    # One run

    def prepare(
        self, model: Any, guide: Any, *batch: Any, compiled: Callable[[Any], Any] = lambda function: function
    ) -> tuple[Tensor, ...]:
        """What is drawn for a batch before its updates, without gradient; for most estimators nothing.

        ``compiled`` gives a faster version of a function of tensors.
        """
        return ()

    def state(self) -> dict[str, Any]:
        """What the estimator has adapted so far, for a checkpoint; for most nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up :meth:`state`."""

    def _run(self, call: Call, at: At | None = None, num_data: float | None = None, claims: Claims = "none") -> Run:
        """One run; ``claims`` names the latents that must be no points, since the value is told as a bound."""
        at = {} if at is None else at
        if not isinstance(at, Mapping):
            raise TypeError(f"at is a mapping of names to numbers, such as {{'beta': 0.5}}; got {shown(at)}.")
        data_size(num_data=num_data)
        callable_(model=call.model, guide=call.guide)
        for name in at.keys() - set(self.numbers):
            self.check_scheduled(name, 1.0)
        who, size = type(self).__name__, num_rows(call.args)
        held(f"{self.num_particles:,} particles of {size} data", self.num_particles * size)
        try:
            with computing_once(), looked_at(claims):
                call = call if call.plan else call._replace(plan=self._plan(call))
                model_trace, guide_trace, seen, scores = self._traces(call)
        except (RuntimeError, ValueError) as error:
            wrong = gate.run_problems(*call[:4])
            if wrong:
                raise ValueError("\n".join(wrong)) from error
            raise
        gate.refuse(guide_problems(model_trace, guide_trace))
        given = self.num_data if num_data is None else num_data
        needed = claims != "none" or self.per_datum
        known = None if given == math.inf else given
        plate = gate.told_plate(call.model, model_trace, size, known, needed=needed)
        gate.check_data_plate(model_trace, guide_trace, plate)
        guide = sites_of(guide_trace)
        if self.gradient.detached:
            guide = {n: s if s.observed else s._replace(path=0, score=s.density) for n, s in guide.items()}
        nesting = max(call.plan.nesting if call.plan else 1, plate_nesting(model_trace, guide_trace))
        run = self._runs(
            call,
            sites_of(model_trace),
            guide,
            seen,
            scores,
            plate,
            {name: at.get(name, getattr(self, name)) for name in self.numbers},
            self.num_particles,
            nesting + (self.num_particles > 1),
            given,
            self.gradient.detached,
            self._bound.linear,
        )
        supported = self.gradient.needs_support or self.needs_support
        check_run(who, run, model_trace, guide_trace, claims, per_datum=self.per_datum, supported=supported)
        self._check(run)
        return dataclasses.replace(run, terms=self._terms(run))

    @property
    def _count(self) -> int | None:
        """The size of the particles' dimension, if there is one."""
        return self.num_particles if self.num_particles > 1 else None

    def look_at(self, model: Any, guide: Any, *batch: Any) -> None:
        """Finds out how particles of a pair are run, which inside of a graph cannot be."""
        self._plan(Call(model, guide, batch, {}))

    def _plan(self, call: Call) -> Plan:
        """How particles of the programs are run, or, of one, how many plates are nested."""
        if self.num_particles == 1 and self._runs is Run:
            return Plan("vectorized", self.room)
        return plan_of(*call[:4], self.room, self.num_particles > 1)

    def _traces(self, call: Call) -> Any:
        gradient = self.gradient
        assert call.plan is not None
        return traced(
            f"{type(self).__name__} by {gradient!r}",
            call,
            call.plan,
            self._count,
            detached=gradient.detached,
            shown=gradient.shown,
            scored=gradient.scored,
        )

    def _check(self, run: Run) -> None:
        """Refuses the latents that the estimator cannot take."""
        self.gradient.check_sites(type(self).__name__, run)

    def _terms(self, run: Run) -> list[Term]:
        """The summands of the log-weight log p(x, z) - log q(z | x).

        The proposal of what the model alone draws is its prior, so that both cancel. Where draws are fixed both are
        there, as the model learns from its log p.
        """
        priors = run.unguided
        log_p = [
            self._log_p(run, site) for name, site in run.model.items() if self.gradient.detached or name not in priors
        ]
        log_q = [self._log_q(run, site) for site in run.guide.values()]
        if self.gradient.detached:
            for site in priors.values():
                beta = self._weight(run, "log_p", site)
                log_q.append(Term("prior", -1, beta, site.log_prob, site.log_prob.detach(), site))
        return log_p + log_q

    def _log_p(self, run: Run, site: Site) -> Term:
        return Term("log_p", 1, self._weight(run, "log_p", site), site.log_prob, site.log_prob, site)

    def _log_q(self, run: Run, site: Site) -> Term:
        return Term("log_q", -1, self._weight(run, "log_q", site), site.log_prob, run.differentiated(site), site)

    def _weight(self, run: Run, kind: str, site: Site) -> Number:
        """Beta of a term."""
        return 1.0 if kind == "log_p" and site.observed else run.at.get("beta", 1.0)

    # The bound and its gradient

    def _each(self, run: Run, beta: bool = True) -> Tensor:
        """``[B]``: the bound of each datum, its parts weighed by beta, or all by 1."""
        return self._bound.reduce(run.sum(beta=beta))

    def _mean(self, run: Run) -> Tensor:
        """The mean of the bound at beta = 1 over the data."""
        return self._each(run, beta=False).detach().mean()

    def _value(self, run: Run) -> Tensor:
        """The bound with beta in Pyro's scale: summed over the data of the plates."""
        return run.counted(self._each(run)).sum() * run.scale if self.per_datum else run.total() / self.num_particles

    def _surrogate(self, run: Run) -> Tensor:
        """What is differentiated in its place, in the same scale."""
        surrogate = self.gradient.surrogate(self._bound, run)
        if not self.per_datum:
            return surrogate / self.num_particles
        if not self.gradient.exact(run):  # a datum all of whose draws are impossible
            surrogate = torch.where(surrogate > -torch.inf, surrogate, 0.0)
        return run.counted(surrogate).sum() * run.scale

    def _loss(self, run: Run) -> Tensor:
        """Minus :meth:`_value`, with the estimator's gradient."""
        value = self._surrogate(run)
        if not self.gradient.exact(run):
            change = value - value.detach()  # NaN where it is infinite, by a draw that is impossible
            value = self._value(run).detach() + torch.where(change.isnan(), 0.0, change)
        return value if self.side == "above" else -value

    # Pyro's interface

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound summed over the data (Pyro's scale); its gradient is the estimator's gradient."""
        return self._loss(self._run(Call(model, guide, args, kwargs)))

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the bound summed over the data (Pyro's scale), as a number."""
        with torch.no_grad():
            value = torch_item(self._value(self._run(Call(model, guide, args, kwargs))))
        warn_if_nan(value, "loss")
        return value if self.side == "above" else -value

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
        at: At | None = None,
        num_data: float | None = None,
        **kwargs: Any,
    ) -> Objective:
        """What a training step needs of one run, in nats per datum (:class:`Objective`).

        Args:
            model, guide, args, kwargs: the programs and their arguments.
            prepared: what :meth:`prepare` gave for them; where it is missing, the estimator prepares it itself.
            at: values in the place of those in :attr:`scheduled`, by name.
            num_data: in the place of the estimator's own.
        """
        run = self._run(Call(model, guide, args, kwargs, prepared), at, num_data)
        bound = self._mean(run)
        means = {name: {kind: v.detach().mean() for kind, v in site.items()} for name, site in run.by_site().items()}
        return Objective(self._loss(run if self.per_datum else run.shared()) / run.plate.full_size, bound, means)

    def terms(self, pair: Any, *batch: Any, num_data: float | None = None) -> dict[str, SiteTerms]:
        """log p, log q or KL of each site for each datum of ``batch``, before beta, in nats (:class:`SiteTerms`)."""
        with torch.no_grad():
            return self._claimed(pair, batch, num_data=num_data).by_site()

    def try_on(self, pair: Any, *batch: Any) -> None:
        """One run as in training, for the sentences in which it refuses a pair that it cannot train."""
        with torch.no_grad():
            run = self._run(call_of(pair, batch))
            self._each(run)
            self.gradient.check_once(run)

    def _claimed(
        self, pair: Any, batch: Sequence[Any], at: At | None = None, num_data: float | None = None, local: bool = False
    ) -> Run:
        """A run whose value is told as a bound, with ``local`` of a datum alone; no handler weighs its terms."""
        call = call_of(pair, batch)
        with in_turn(), gate.explained(as_pair(pair), *call.args):
            run = self._run(call, at, num_data, "local" if local else "all")
        check_bounds(pair, run)
        return run.unweighed()

    def bound(self, pair: Any, *batch: Any, at: At | None = None, num_data: float | None = None) -> Tensor:
        """The bound of each datum: ``[B]``, in nats; of a bound from below, higher is better.

        The pair runs in the mode that it is in: ``pair.eval()`` before, where it has dropout, a batch norm, or a scale
        that is taken from the batch in training.

        Its expectation does not depend on the batch size: what a subsampled plate scales by N/B is scaled back, and
        what stands outside the data plate counts 1/N for each datum. ``at`` and ``num_data`` as in :meth:`objective`.

        A ``poutine.scale`` of the programs weighs what is trained, and not this number, which stays a bound.

        Raises:
            ValueError: if the model has no plate over the data, or the number would bound nothing: the guide draws
                what the model does not have, has a factor, or gives a latent with a proper prior as a point; data
                depend on a masked latent.

        Warns:
            UserWarning: if the bound of a datum is not finite.
        """
        data_size(num_data=num_data)
        with torch.no_grad():
            bound = self._each(self._claimed(pair, batch, at, num_data, local=num_data == math.inf))
        warn_of(type(self).__name__, bound)
        return bound

    def mean_bound(
        self, pair: Any, batches: Iterable[Sequence[Any]], *, at: At | None = None, num_data: float | None = None
    ) -> float:
        """The mean of :meth:`bound` over all data of ``batches``, in nats per datum.

        What stands outside the data plate counts once for all of them, or 1 / ``num_data`` for each.
        """
        total, shared, count, number = 0.0, 0.0, 0, 0
        data_size(num_data=num_data)
        given = self.num_data if num_data is None else num_data
        convert = Arguments(pair, any_data=validates())  # then each run looks at its data
        for batch in batch_by_batch(batches):
            batch = batch if isinstance(batch, Converted) else convert(*batch)
            with torch.no_grad():
                run = self._claimed(pair, batch, at, math.inf, local=given == math.inf)
                bound = self._each(run)
                warn_of(type(self).__name__, bound)
                total, count, number = total + bound.double().sum().item(), count + len(bound), number + 1
                if given != math.inf:
                    shared += run.outside()
                    given = run.plate.full_size if run.share != 1 else given
        if count == 0:
            raise ValueError("there are no data to average the bound over: the batches are empty.")
        return total / count + shared / number / (given or count)

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """``[num_particles, B]``: log p(x, z) - log q(z | x) of each draw, in nats, see :meth:`weighted`."""
        return self.weighted(pair, *batch)[0]

    def weighted(self, pair: Any, *batch: Any) -> tuple[Tensor, Run]:
        """``(log_weights, run)``: the log-weights ``[num_particles, B]`` at beta = 1, and the run that has drawn.

        Raises:
            ValueError: if a term was integrated in closed form, so that there is no weight for each draw.
        """
        with in_turn(), torch.no_grad():
            call = call_of(pair, batch)
            call = call._replace(plan=self._plan(call))
            call = call._replace(model=gate.Unweighed()(call.model), guide=gate.Unweighed(guide=True)(call.guide))
            run = self._run(call, claims="all")
        if any(term.kind == "kl" for term in run.terms):
            raise ValueError(
                f"{type(self).__name__} integrates a KL in closed form; take importance weights from SGVB_A."
            )
        return run.sum(beta=False), run


def call_of(pair: Any, batch: Sequence[Any]) -> Call:
    """Of the programs on a batch; where distributions are validated, the run refuses data outside of their supports."""
    return Call(*programs(as_pair(pair)), converted(pair, batch, any_data=validates()), {})
