"""Hamiltonian Monte Carlo, vectorized: all chains of all data move in one batch.

The state is ``u: [C, N, D]``: C chains for each of N data. The data are independent targets: a step size belongs to a
datum and is shared by its chains. Step sizes are adapted in a warm-up alone, so that what follows is an exact Markov
kernel. The noise comes from torch's generator. A sampler is a value with ``init(u)``, which makes a state, and
``step(state)``, which makes the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: ``u [C, N, D] -> (log density [C, N], its gradient [C, N, D], ...)``; what else it gives goes along with the state.
Density = Callable[[Tensor], "tuple[Tensor, ...]"]


class State(NamedTuple):
    """Where the chains are.

    Attributes:
        u: ``[C, N, D]``.
        log_density: ``[C, N]``, in nats, up to a constant.
        gradient: of the log density, ``[C, N, D]``.
        carried: what else the density gave at ``u``, each ``[C, N, ...]``.
    """

    u: Tensor
    log_density: Tensor
    gradient: Tensor
    carried: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Hamiltonian:
    r"""HMC of a density, a sampler: leapfrog, then accepted or rejected, for each chain by itself.

    .. math::
        p \sim N(0, I), \quad (u, p) \to (u', p') \text{ by leapfrog}, \quad
        \alpha = \min(1, e^{H(u, p) - H(u', p')}), \quad H = \tfrac 1 2 |p|^2 - \log f(u)

    A step leaves the density invariant and is reversible, whatever the step size. An energy that is not finite is a
    rejection.

    Attributes:
        density: :math:`\log f` and its gradient.
        step_size: ``[N]``, or one for all data.
        num_leapfrog: leapfrog steps.
        scale: ``[N, D]``, the spread of u along each coordinate (the mass is its inverse square); ``None`` is 1.
        jitter: each chain multiplies its step size by a draw from [1 - jitter, 1 + jitter], so that no trajectory
            is a whole period of the target.

    Source: Neal (2011), MCMC using Hamiltonian dynamics, sections 2, 3 and 4.2.
    """

    density: Density
    step_size: float | Tensor = 0.1
    num_leapfrog: int = 10
    scale: Tensor | None = None
    jitter: float = 0.2

    def init(self, u: Tensor) -> State:
        """The chains at ``u: [C, N, D]``."""
        log_density, gradient, *carried = self.density(u)
        return State(u, log_density, gradient, tuple(carried))

    def step(self, state: State) -> tuple[State, Tensor]:
        """``(the new state, the probability of acceptance [C, N])``."""
        u, momentum = state.u, torch.randn_like(state.u)
        step = torch.as_tensor(self.step_size).to(u)[..., None]
        if self.jitter:
            step = step * (1 + self.jitter * (2 * torch.rand_like(u[..., :1]) - 1))
        if self.scale is not None:
            step = step * self.scale
        energy = 0.5 * momentum.square().sum(-1) - state.log_density
        momentum = momentum + 0.5 * step * state.gradient
        for last in (*[False] * (self.num_leapfrog - 1), True):
            u = torch.addcmul(u, step, momentum)
            end = self.init(u)
            momentum = torch.addcmul(momentum, step, end.gradient, value=0.5 if last else 1.0)
        proposed = 0.5 * momentum.square().sum(-1) - end.log_density
        acceptance = torch.where(proposed.isfinite(), (energy - proposed).clamp(max=0).exp(), 0.0).nan_to_num(0.0)
        accepted = torch.rand_like(acceptance) < acceptance

        def chosen(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(accepted.reshape(*accepted.shape, *[1] * (new.dim() - 2)), new, old)

        u, log_density, gradient = map(chosen, end[:3], state[:3])
        return State(u, log_density, gradient, tuple(map(chosen, end.carried, state.carried))), acceptance


class StepSize:
    r"""Stochastic approximation of the step sizes at which a target share of the proposals is accepted.

    .. math:: \log \epsilon_{t+1} = \log \epsilon_t + g_t (\alpha_t - \alpha^*), \quad g_t = \max(t^{-0.6}, g)

    At first the step size is doubled, or halved, until the acceptance passes the target.

    Args:
        initial: ``[N]``.
        target: :math:`\alpha^*`.
        floor: :math:`g`; above 0 the step sizes can follow a target that changes.

    Attributes:
        current: ``[N]``, the step sizes to try next.
        updates: how many there have been.

    Source: Robbins & Monro (1951); the search and the average are those of Hoffman & Gelman (2014), section 3.2.
    """

    _TENSORS = ("_log", "_mean", "_direction", "_found")

    def __init__(self, initial: Tensor, target: float = 0.8, floor: float = 0.0) -> None:
        self.target, self.floor = target, floor
        self.updates = 0
        self._log = self._mean = initial.log()
        self._direction = torch.zeros_like(initial)  # of the search
        self._found = torch.zeros_like(initial, dtype=torch.bool)

    @property
    def current(self) -> Tensor:
        return self._log.exp()

    def state(self) -> dict[str, Any]:
        """What it has found so far, as numbers and lists: another one goes on with it after :meth:`load_state`."""
        return {"updates": self.updates, **{name: getattr(self, name).tolist() for name in self._TENSORS}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where another one was."""
        self.updates = state["updates"]
        for name in self._TENSORS:
            setattr(self, name, torch.as_tensor(state[name], dtype=getattr(self, name).dtype).to(getattr(self, name)))

    @property
    def average(self) -> Tensor:
        """``[N]``: the geometric mean of the step sizes tried, the later ones weighing more; what to keep."""
        return self._mean.exp()

    def update(self, acceptance: Tensor) -> None:
        """Takes in the probabilities of acceptance ``[C, N]`` at :attr:`current`."""
        self.updates += 1
        excess = acceptance.mean(0) - self.target
        self._direction = torch.where(self._direction == 0, excess.sign(), self._direction)
        self._found = self._found | (excess * self._direction <= 0)
        change = max(self.updates**-0.6, self.floor) * excess
        self._log = self._log + torch.where(self._found, change, math.log(2) * self._direction)
        self._mean = torch.where(self._found, torch.lerp(self._mean, self._log, self.updates**-0.75), self._log)


def warm_up(
    sampler: Hamiltonian, state: State, num_steps: int, target_acceptance: float = 0.8
) -> tuple[State, Hamiltonian]:
    """Moves the chains towards the target while the sampler is fitted to it.

    Args:
        sampler: its step size is the first to try.
        state: where the chains start.
        num_steps: of HMC. In the second quarter of them the spread of each coordinate is learned, in the second half
            the step size is adapted to it.
        target_acceptance: the mean probability of acceptance to adapt the step sizes to.

    Returns:
        ``(state, sampler)``, with a step size for each datum and a scale.

    >>> import torch
    >>> from pyro_vae.sampling.hamiltonian import Hamiltonian, warm_up
    >>> seed = torch.manual_seed(0)
    >>> sampler = Hamiltonian(lambda u: (-u.square().sum(-1) / 2, -u))  # of N(0, I)
    >>> state, sampler = warm_up(sampler, sampler.init(torch.randn(4, 3, 2)), 100)
    >>> state.u.shape, sampler.step_size.shape, sampler.scale.shape
    (torch.Size([4, 3, 2]), torch.Size([3]), torch.Size([3, 2]))
    """
    first = torch.as_tensor(sampler.step_size).to(state.u).expand(state.u.shape[1])
    steps, moments = StepSize(first, target_acceptance), _Moments()
    for step in range(num_steps):
        if moments.count and step == num_steps // 2:
            sampler = replace(sampler, scale=moments.scale())
            steps = StepSize(steps.average / moments.scale().amin(-1), target_acceptance)
        state, acceptance = replace(sampler, step_size=steps.current).step(state)
        steps.update(acceptance)
        if num_steps // 4 <= step < num_steps // 2:
            moments.add(state.u)
    return state, replace(sampler, step_size=steps.average)


class _Moments:
    """Mean and spread of draws ``[C, N, D]``, for each datum and coordinate, in one pass."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, draws: Tensor) -> None:
        count = self.count + len(draws)
        shift = draws.mean(0) - self.mean
        within = (draws - draws.mean(0)).square().sum(0)
        self.squares = self.squares + within + shift.square() * self.count * len(draws) / count
        self.mean = self.mean + shift * len(draws) / count
        self.count = count

    def scale(self) -> Tensor:
        """``[N, D]``, drawn towards a small number where there are few draws, as Stan does."""
        variance = self.squares / max(self.count - 1, 1)
        return ((self.count * variance + 5e-3) / (self.count + 5)).sqrt()


class Samples(NamedTuple):
    """Draws of all chains.

    Attributes:
        u: ``[S, C, N, D]``.
        log_density: ``[S, C, N]``.
        acceptance: ``[C, N]``, mean probability of acceptance.
        state: where the chains are now.
    """

    u: Tensor
    log_density: Tensor
    acceptance: Tensor
    state: State


def run_chains(sampler: Hamiltonian, state: State, num_samples: int) -> Samples:
    """``num_samples`` steps of each chain, all kept.

    >>> import torch
    >>> from pyro_vae.sampling.hamiltonian import Hamiltonian, run_chains
    >>> sampler = Hamiltonian(lambda u: (-u.square().sum(-1) / 2, -u), step_size=0.3)  # of N(0, I)
    >>> run_chains(sampler, sampler.init(torch.randn(4, 3, 2)), 10).u.shape
    torch.Size([10, 4, 3, 2])
    """
    draws, log_densities, total = [], [], torch.zeros_like(state.log_density)
    for _ in range(num_samples):
        state, acceptance = sampler.step(state)
        draws.append(state.u)
        log_densities.append(state.log_density)
        total = total + acceptance
    return Samples(torch.stack(draws), torch.stack(log_densities), total / num_samples, state)
