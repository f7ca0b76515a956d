"""Objectives of which model and guide each learn another: wake-sleep, and Monte Carlo expectation maximization."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae._checks import checked, number, one_of, warn, whole
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import Bound, Mean
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.gradients import Gradient
from pyro_vae.estimators.run import Call, Run, sites_of, summed_to
from pyro_vae.pair import simulate
from pyro_vae.pair.gate import refuse
from pyro_vae.pair.trials import reading_problems
from pyro_vae.pair.turns import fork_rng
from pyro_vae.sampling import hamiltonian
from pyro_vae.sampling.joint import Joint, Start

Phase = Literal["wake", "sleep", "both"]
_EXTREME = 200  # transitions in a row that accept nothing, or everything, before it is said


class Apart(Gradient):
    """Draws carry no gradient: model and guide learn from terms of their own; here the model alone."""

    reparameterized = False
    per_datum = True
    detached = True
    needs_support = True
    no_beta = "has one objective for the model and another for the guide"
    sites = "any"

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        if bound.side == "above":
            raise ValueError(f"{who}: {self!r} raises log p(x, z); {bound!r} is an upper bound. Use one from below.")

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        log_p = run.sum("log_p")
        if bound.linear:
            return bound.reduce(log_p)
        fixed = run.sum().detach()
        return (bound.weights(fixed) * torch.where(fixed > -torch.inf, log_p, 0.0)).sum(0)


@dataclass(frozen=True)
class Phases(Apart):
    r"""The model learns awake, from data; the guide awake as well, or asleep, from the model's dreams.

    The formulas are those of :class:`ReweightedWakeSleep`, with :math:`c_k = \partial L / \partial \log w_k` of any
    bound as the weights.

    Args:
        guide: how the guide learns: ``"wake"``, ``"sleep"``, or ``"both"``, their mean.

    Raises:
        ValueError: if ``guide`` is something else, or the guide would learn awake with weights that are constant.
    """

    guide: Phase = "wake"

    def __post_init__(self) -> None:
        one_of(get_args(Phase), guide=self.guide)

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        super().check(who, bound, num_particles)
        if self.guide != "sleep" and (bound.linear or num_particles == bound.num_groups):
            raise ValueError(
                f"{who}: under {bound!r} with {num_particles} particles all draws weigh the same, from which a guide "
                "learns nothing awake. Use more particles and ImportanceWeighted(), or guide='sleep'."
            )

    def check_sites(self, who: str, run: Run) -> None:
        if run.linear and run.unguided:
            raise ValueError(
                f"{who} learns p({next(iter(run.unguided))}) from the guide's draws, but the guide has no such latent. "
                "Draw it in the guide, or use ReweightedWakeSleep, which weighs draws from the prior."
            )

    def check_once(self, run: Run) -> None:
        if self.guide != "wake":
            model, _, args, kwargs = run.call[:4]
            model = functools.partial(model, **kwargs)
            _, trace = simulate(model, *args)
            refuse(reading_problems(model, trace, args))

    def evaluations(self, num_particles: int) -> tuple[int, int]:
        asleep = self.guide != "wake"
        return num_particles + asleep, 1 + asleep

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        learned = super().surrogate(bound, run)
        share = 0.5 if self.guide == "both" else 1.0
        if self.guide != "sleep":
            learned = learned - share * (bound.weights(run.sum().detach()) * run.sum("log_q")).sum(0)
        if self.guide != "wake" and torch.is_grad_enabled():
            learned = learned + share * dreams(run)
        return learned


def dreams(run: Run) -> Tensor:
    """``[B]``: log q(z | x) of dreams z, x ~ p(x, z), one for each datum."""
    model, guide, args, kwargs = run.call[:4]
    with torch.no_grad():
        dreamt, trace = simulate(functools.partial(model, **kwargs), *args)
    guide_trace = poutine.trace(poutine.replay(guide, trace=trace)).get_trace(*dreamt, **kwargs)
    guide_trace.compute_log_prob()
    log_q = [
        summed_to(site.log_prob, [run.plate.dim]) * run.share
        for name, site in sites_of(guide_trace).items()
        if not site.observed and name in trace.nodes
    ]
    return torch.as_tensor(sum(log_q))


class WakeSleep(Estimator):
    r"""Wake-sleep.

    .. math:: \text{wake:} \quad \nabla_\theta \, \mathbb E_{q(z \mid x)} \log p(x, z), \qquad
              \text{sleep:} \quad \nabla_\phi \, \mathbb E_{p(x, z)} \log q(z \mid x)

    The wake phase raises the ELBO, which is its value; the sleep phase fits the guide to dreams of the model, by the
    KL from the posterior to the guide, so that together they are the gradient of no single function. A dream is a
    draw of all random variables of the model, one for each datum of the batch. Latents may be discrete. Parameters that
    guide and model share follow the sum of both gradients, which is neither.

    Args:
        num_particles: draws of the guide for each datum in the wake phase.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if beta is given, a random variable stands outside the data plate, a distribution of the guide
            cannot score a given value, as Pyro's planar flow cannot, a dream cannot be given to the guide, because the
            observed site is none of the arguments, or (asked by ``check`` and ``fit``) what the model draws in the
            place of data is no dream, because it takes a distribution from data that it observes.

    Source: Hinton, Dayan, Frey & Neal (1995).
    """

    known = Facts(
        gradient="model: the ELBO's; guide: minus the KL(p(z|x) || q(z|x)) over the model's own data",
        cost="L + 1 model (one forward only), 2 guide",
    )

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(Mean(), Phases("sleep"), num_particles, **options)


class MonteCarloEM(Estimator):
    r"""Monte Carlo EM: latents from the posterior by Hamiltonian Monte Carlo, then updates of the weights.

    .. math:: \text{E-step:} \; z_c \sim p(z \mid x) \text{ by HMC}, \qquad
              \text{M-step:} \; \nabla_\theta \frac 1 C \sum_c \log p(x, z_c)

    An E-step draws chains of each datum of the batch; the weights are then updated ``num_updates`` times with the same
    draws. The step size, one for all data, is adapted over the E-steps to the target acceptance. The guide has no part
    in this. So that the pair has one at the end, it is fitted to the draws, by :math:`\nabla_\phi \frac 1 C \sum_c
    \log q(z_c \mid x)`; its ELBO is the value. A draw is as good as its chain is long.

    In ``pyro.infer.SVI`` a call with the same tensors as the call before uses the same draws, ``num_updates`` times.

    Args:
        num_chains: chains of each datum, C.
        num_transitions: HMC transitions of an E-step.
        num_leapfrog: leapfrog steps of a transition.
        target_acceptance: of the proposals, to which the step size is adapted.
        num_updates: updates of the weights for each E-step.
        start: where the chains of an E-step start, ``"prior"`` or ``"guide"``.
        fit_guide: whether the guide learns from the draws; it has to be able to score given values.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if a count is below 1, the target is not in (0, 1), a latent is discrete or stands outside the data
            plate, or a distribution of the guide cannot score a given value, as Pyro's planar flow cannot.

    Warns:
        UserWarning: if the chains accept nothing, or everything, for a long time.

    Source: Kingma & Welling (2013), appendix E; Wei & Tanner (1990).
    """

    known = Facts(
        bounds="log p(x), from below (the guide's ELBO)",
        gradient="model: log p(x)'s, as far as the chains have converged; guide: minus KL(p(z|x) || q(z|x))",
        sites="continuous, in the data plate",
        cost="E-step: leapfrog steps x transitions x C model; each update: C + 1 model, 2 guide",
    )

    @checked(but=("target_acceptance", "num_updates"))
    def __init__(
        self,
        num_chains: int = 1,
        *,
        num_transitions: int = 10,
        num_leapfrog: int = 10,
        target_acceptance: float = 0.9,
        num_updates: int = 5,
        start: Start = "prior",
        fit_guide: bool = True,
        **options: Any,
    ) -> None:
        counts = {"num_chains": num_chains, "num_transitions": num_transitions, "num_leapfrog": num_leapfrog}
        whole(1, **counts, num_updates=num_updates)
        number(above=0, below=1, target_acceptance=target_acceptance)
        super().__init__(Mean(), Apart(), **options)
        self.num_chains, self.num_transitions, self.num_leapfrog = num_chains, num_transitions, num_leapfrog
        self.target_acceptance, self.num_updates = target_acceptance, num_updates
        self.start: Start = start
        self.fit_guide = fit_guide
        # One step size for all data; a floor of the gain, since the posterior moves with the weights.
        self._steps = hamiltonian.StepSize(torch.full((1,), 0.1, dtype=torch.float64), target_acceptance, floor=0.05)
        self._extreme = 0  # transitions in a row that accepted nothing, or everything
        self._joint: tuple[Any, Joint] | None = None  # with the model that it is of
        self._kept: tuple[Any, Tensor, int] | None = None  # the arguments, their draws, and how often they were used

    @classmethod
    def example(cls, **options: Any) -> MonteCarloEM:
        return cls(2, num_transitions=2, num_leapfrog=3, num_updates=2, **options)

    @property
    def evaluations(self) -> tuple[int, int]:
        chain = self.num_leapfrog * self.num_transitions * self.num_chains
        return -(-chain // self.num_updates) + self.num_chains + 1, 1 + self.fit_guide

    @property
    def step_size(self) -> float:
        """The step size of the next transition."""
        return self._steps.current.item()

    def state(self) -> dict[str, Any]:
        return self._steps.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._steps.load_state(state)

    def __copy__(self) -> MonteCarloEM:
        """A copy adapts its own step size."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self), _steps=copy.copy(self._steps), _joint=None, _kept=None)
        return copied

    def prepare(
        self, model: Any, guide: Any, *batch: Any, compiled: Callable[[Any], Any] = lambda function: function
    ) -> tuple[Tensor, ...]:
        """The E-step: draws from the posterior of each datum, unconstrained, ``[C, B, D]``."""
        if self._joint is None or self._joint[0] is not model:
            with fork_rng():  # it runs the model, which a resumed training does once more
                self._joint = (model, Joint(model, guide, *batch, max_plate_nesting=self.max_plate_nesting))
        joint = self._joint[1]
        graph = compiled(joint.value_and_grad)

        def density(u: Tensor) -> tuple[Tensor, ...]:
            value, gradient = graph(u, *batch)
            return value, gradient

        # A trajectory that leaves for infinity is a rejection, not an error.
        with torch.no_grad(), pyro.validation_enabled(False):
            state = hamiltonian.Hamiltonian(density).init(joint.draw(self.start, self.num_chains, *batch))
            for _ in range(self.num_transitions):
                sampler = hamiltonian.Hamiltonian(density, self._steps.current, self.num_leapfrog)
                state, acceptance = sampler.step(state)
                self._steps.update(acceptance.double().mean().reshape(1, 1))
                self._watch(acceptance.mean().item())
        return (state.u,)

    def _watch(self, acceptance: float) -> None:
        extreme = acceptance < 0.01 or acceptance > 0.9999
        self._extreme = self._extreme + 1 if extreme else 0
        if self._extreme == _EXTREME:
            what = "accept nothing" if acceptance < 0.5 else "accept everything, so that they hardly move"
            warn(
                f"MonteCarloEM: for {_EXTREME} transitions the chains {what} (step size {self.step_size:.1e}). Check "
                "the scale of the likelihood, whether its density is nearly a point or flat, or start='guide'.",
            )

    def _surrogate(self, run: Run) -> Tensor:
        """``[B]``: log p(x, z), and log q(z | x), of the draws of the chains."""
        if not torch.is_grad_enabled():
            return torch.zeros(())
        (u,) = run.call.prepared or self._drawn(run.call)
        assert self._joint is not None
        densities = self._joint[1].densities(u, *run.call.args, guide=self.fit_guide)
        learned = densities.prior + densities.likelihood
        if densities.guide is not None:
            learned = learned + densities.guide
        return replace(run, linear=False).counted(learned.mean(0)).sum() * run.scale

    def _drawn(self, call: Call) -> tuple[Tensor, ...]:
        """The draws of an E-step, taken once for ``num_updates`` calls with the same arguments."""
        uses = 0
        if self._kept is not None and self._kept[2] < self.num_updates:
            before, u, uses = self._kept
            if len(before) != len(call.args) or any(a is not b for a, b in zip(before, call.args, strict=True)):
                uses = 0
        if uses == 0:
            (u,) = self.prepare(call.model, call.guide, *call.args)
        self._kept = (call.args, u, uses + 1)
        return (u,)
