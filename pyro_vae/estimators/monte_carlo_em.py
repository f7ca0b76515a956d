"""Monte Carlo expectation maximization."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._checks import whole
from pyro_vae.estimators.base import Draws, Facts
from pyro_vae.estimators.per_datum import Detached, PerDatum
from pyro_vae.sampling import hamiltonian
from pyro_vae.sampling.joint import Joint, Start

_EXTREME = 200  # transitions in a row that accept nothing, or everything, before it is said


class MonteCarloEM(PerDatum):
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

    facts = Facts(
        bounds="log p(x), from below (the guide's ELBO)",
        gradient="model: log p(x)'s, as far as the chains have converged; guide: minus KL(p(z|x) || q(z|x))",
        sites="continuous, in the data plate",
        cost="E-step: leapfrog steps x transitions x C model; each update: C + 1 model, 2 guide",
        source="Kingma & Welling 2013, app. E; Wei & Tanner 1990",
    )
    no_beta = "has one objective for the model and another for the guide"

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
        max_plate_nesting: int = 1,
        num_data: float | None = None,
    ) -> None:
        whole(
            1,
            num_chains=num_chains,
            num_transitions=num_transitions,
            num_leapfrog=num_leapfrog,
            num_updates=num_updates,
        )
        if not 0 < target_acceptance < 1:
            raise ValueError(f"target_acceptance is a probability between 0 and 1; got {target_acceptance}.")
        if start not in ("prior", "guide"):
            raise ValueError(f"start is 'prior' or 'guide'; got {start!r}.")
        super().__init__(1, max_plate_nesting=max_plate_nesting, num_data=num_data)
        self.num_chains, self.num_transitions, self.num_leapfrog = num_chains, num_transitions, num_leapfrog
        self.target_acceptance, self.num_updates = target_acceptance, num_updates
        self.start: Start = start
        self.fit_guide = fit_guide
        self._nesting = max_plate_nesting
        # One step size for all data; a floor of the gain, since the posterior moves with the weights.
        self._steps = hamiltonian.StepSize(torch.full((1,), 0.1, dtype=torch.float64), target_acceptance, floor=0.05)
        self._extreme = 0  # transitions in a row that accepted nothing, or everything
        self._joint: tuple[Any, Joint] | None = None  # with the model that it is of
        self._kept: tuple[Any, Tensor, int] | None = None  # the arguments, their draws, and how often they were used

    def _options(self) -> dict[str, Any]:
        names = ("num_chains", "num_transitions", "num_leapfrog", "target_acceptance", "num_updates", "start")
        return {name: getattr(self, name) for name in (*names, "fit_guide")}

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
            with torch.random.fork_rng():  # it runs the model, which a resumed training does once more
                self._joint = (model, Joint(model, guide, *batch, max_plate_nesting=self._nesting))
        joint = self._joint[1]
        graph = compiled(joint.value_and_grad)

        def density(u: Tensor) -> tuple[Tensor, ...]:
            value, gradient = graph(u, *batch)
            return value, gradient

        # A trajectory that leaves for infinity is a rejection, not an error.
        with torch.no_grad(), pyro.validation_enabled(False):
            state = hamiltonian.state(density, joint.draw(self.start, self.num_chains, *batch))
            for _ in range(self.num_transitions):
                step_size = self._steps.current.to(state.u).expand(state.u.shape[1])
                state, acceptance = hamiltonian.Kernel(step_size, self.num_leapfrog)(density, state)
                self._steps.update(acceptance.double().mean().reshape(1, 1))
                self._watch(acceptance.mean().item())
        return (state.u,)

    def _watch(self, acceptance: float) -> None:
        extreme = acceptance < 0.01 or acceptance > 0.9999
        self._extreme = self._extreme + 1 if extreme else 0
        if self._extreme == _EXTREME:
            what = "accept nothing" if acceptance < 0.5 else "accept everything, so that they hardly move"
            warnings.warn(
                f"MonteCarloEM: for {_EXTREME} transitions the chains {what} (step size {self.step_size:.1e}). Check "
                "the scale of the likelihood, whether its density is nearly a point or flat, or start='guide'.",
                stacklevel=2,
            )

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: tuple[Tensor, ...] = ()) -> Draws:
        draws = super()._draw(model, guide, args, kwargs)
        if not torch.is_grad_enabled():
            return draws
        (u,) = prepared or self._drawn(model, guide, args)
        assert self._joint is not None
        densities = self._joint[1].densities(u, *args, guide=self.fit_guide)
        learned = densities.prior + densities.likelihood
        if densities.guide is not None:
            learned = learned + densities.guide
        return draws._replace(extra=learned.mean(0))

    def _drawn(self, model: Any, guide: Any, args: Any) -> tuple[Tensor, ...]:
        """The draws of an E-step, taken once for ``num_updates`` calls with the same arguments."""
        uses = 0
        if self._kept is not None and self._kept[2] < self.num_updates:
            before, u, uses = self._kept
            if len(before) != len(args) or any(a is not b for a, b in zip(before, args, strict=True)):
                uses = 0
        if uses == 0:
            (u,) = self.prepare(model, guide, *args)
        self._kept = (args, u, uses + 1)
        return (u,)

    def _guide_trace(self, guide: Any, args: Any, kwargs: Any) -> Any:
        with Detached(type(self).__name__):
            return super()._guide_trace(guide, args, kwargs)

    def _surrogate(self, draws: Draws) -> Tensor:
        return draws.extra
