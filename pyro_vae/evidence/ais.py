"""Annealed importance sampling of log p(x), with transitions by Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from pyro_vae._checks import checked, counted, number, one_of, whole
from pyro_vae.compiled import Compile
from pyro_vae.estimators.bounds import log_mean_exp
from pyro_vae.evidence.result import Evidence, chain_reliability, check_log_prob, error_of_mean, gray_levels
from pyro_vae.evidence.sharing import over_ranks
from pyro_vae.pair import as_pair
from pyro_vae.pair.arguments import batch_of
from pyro_vae.sampling.chains import Chunk, check_acceptance, concatenated, over_chunks
from pyro_vae.sampling.hamiltonian import Hamiltonian, State, StepSize
from pyro_vae.sampling.joint import Start

AnnealingSchedule = Literal["linear", "sigmoid", "adaptive"]

_PILOT_CHAINS = 4
_PILOT_STEPS = 200


@dataclass(frozen=True)
class AIS(Evidence):
    r"""Estimates of log p(x) for each datum.

    The mean of the weights has expectation p(x), so that in expectation ``log_prob`` is a lower bound of log p(x). It
    rises to it with the number of steps, and of chains.

    Attributes:
        log_prob: ``[N]``, the log of the mean of the chains' weights, in nats.
        log_weights: ``[C, N]``, of each chain, in nats.
        acceptance: ``[N]``, the mean probability of acceptance; NaN where there are no transitions (one step).
        beta: ``[K + 1, N]``, the inverse temperatures, from 0 to 1.
        step_size: ``[K - 1, N]``, of the transition at each inverse temperature between them.
    """

    log_weights: Tensor
    acceptance: Tensor
    beta: Tensor
    step_size: Tensor

    @property
    def effective_sample_size(self) -> Tensor:
        r"""``[N]``, :math:`(\sum_c w_c)^2 / \sum_c w_c^2`, between 1 and the number of chains."""
        normalized = self.log_weights.softmax(0).nan_to_num(0.0)
        return (1 / normalized.square().sum(0)).clamp(1, len(normalized))

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each ``log_prob`` over the chains, by the delta method; NaN for one chain."""
        return error_of_mean(self.log_weights)

    def reliability(self) -> dict[str, float]:
        """The median of :attr:`standard_error`, and the mean acceptance."""
        return chain_reliability(self.standard_error, self.acceptance)


@over_ranks
@checked
def ais(
    pair: Any,
    x: Any,
    num_chains: int = 16,
    num_steps: int = 1000,
    *,
    num_leapfrog: int = 10,
    start: Start = "prior",
    schedule: AnnealingSchedule = "adaptive",
    target_acceptance: float = 0.65,
    chunk: int = 4096,
    seed: int = 0,
    max_plate_nesting: int = 1,
    compile: Compile = "auto",
    progress: bool = False,
) -> AIS:
    r"""log p(x) by annealed importance sampling: a stochastic lower bound, for continuous latents.

    .. math::
        f_\beta = f_0^{1 - \beta} \, p(x, z)^\beta, \quad
        \log w = \sum_{k=1}^K (\beta_k - \beta_{k-1}) \log \frac{p(x, z_{k-1})}{f_0(z_{k-1})}, \quad
        z_0 \sim f_0, \; z_k \sim T_{\beta_k}(\cdot \mid z_{k-1})

    The transition T is a step of :class:`~pyro_vae.sampling.hamiltonian.Hamiltonian`. Its step sizes, for each datum
    and temperature, and the adaptive schedule come from a pilot run (4 chains, 200 steps) and are fixed in the run that
    counts, so that E[w] = p(x) holds exactly, for any number of steps.

    The densities are those of the programs without their ``poutine.scale``, of latents also where they are masked.

    Args:
        pair: the pair.
        x: the data ``[N, *event]``, or a tuple of the arguments of model and guide.
        num_chains: chains for each datum, C.
        num_steps: inverse temperatures above 0, K. One step is importance sampling from ``start``.
        num_leapfrog: leapfrog steps of a transition; the cost is ``num_chains * num_steps * num_leapfrog`` gradients
            of log p(x, z) for each datum.
        start: :math:`f_0`: the "prior", or the "guide", which is nearer to the posterior but whose tails may be light.
        schedule: "linear"; "sigmoid" (delta = 4, dense at both ends); or "adaptive", at equal thermodynamic length:
            the density of temperatures follows the standard deviation of log p(x, z) - log f_0(z), for each datum.
        target_acceptance: what the pilot adapts the step sizes to.
        chunk: chains (over data) that are held in memory at once.
        seed: of all draws; the caller's random state is left as it was.
        max_plate_nesting: number of nested plates of the pair at least; those that it has are counted.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, there are no data, a latent is discrete or shared by the data,
            the guide cannot be scored or is no density on all of the support though ``start`` is "guide", a program
            draws noise that no site shows, no proposal is accepted, or weights are NaN.

    Warns:
        UserWarning: if for more than one datum in a hundred the mean acceptance is outside of [0.4, 0.95].

    Source: Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov & Grosse (2016), section 3.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> ais(pair, x, num_chains=2, num_steps=10).log_prob.shape
    torch.Size([3])
    """
    annealer = Annealer(num_chains, num_steps, num_leapfrog, start, schedule, target_acceptance)
    batch = batch_of(pair, x)

    def anneal(part: Chunk) -> tuple[Tensor, ...]:
        path = annealer.pilot(part)
        return *annealer.run(part, part.draw(start, num_chains), path), *path

    options = (chunk, seed, max_plate_nesting, compile, progress)
    parts, joint = over_chunks(
        anneal, as_pair(pair), batch, num_chains, num_steps, *options, start=start, num_gradients=num_leapfrog
    )
    result = annealer.result(parts, gray_levels(joint.observed, batch))
    check_log_prob(result.log_prob)
    check_acceptance(result.acceptance, num_chains * (num_steps - 1))
    return result


class Path(NamedTuple):
    """Where the chains go: inverse temperatures ``beta: [K + 1, N]`` and step sizes ``step_size: [K - 1, N]``."""

    beta: Tensor
    step_size: Tensor

    def reversed(self) -> Path:
        return Path(self.beta.flip(0), self.step_size.flip(0))


@dataclass(frozen=True)
class Annealer:
    """How chains are annealed; the attributes are the arguments of :func:`ais`.

    Raises:
        ValueError: if one is out of its range.
    """

    num_chains: int
    num_steps: int
    num_leapfrog: int
    start: Start
    schedule: AnnealingSchedule
    target_acceptance: float

    def __post_init__(self) -> None:
        whole(1, num_chains=self.num_chains, num_steps=self.num_steps, num_leapfrog=self.num_leapfrog)
        one_of(get_args(Start), start=self.start)
        one_of(get_args(AnnealingSchedule), schedule=self.schedule)
        number(above=0, below=1, target_acceptance=self.target_acceptance)

    def result(self, parts: Sequence[Sequence[Tensor]], num_dims: int | None) -> AIS:
        """Of what :meth:`run` gives of each chunk, and its path."""
        log_weights, *others = concatenated(parts)
        effort = f"{counted(self.num_chains, 'chain')} of {counted(self.num_steps, 'step')}"
        return AIS(log_mean_exp(log_weights), log_weights, *others, num_dims=num_dims, effort=effort)

    def run(self, chunk: Chunk, u: Tensor, path: Path) -> tuple[Tensor, Tensor]:
        """Anneals chains from ``u: [C, N, D]``, a draw from the first end of ``path``.

        Returns:
            ``(log_weights [C, N], acceptance [N])``. Along a reversed path, from draws of p(z | x), the weights are
            the inverse ones: their expectation is 1 / p(x).
        """
        values: Sequence[Tensor] = chunk.ends(u)
        log_weights, accepted = torch.zeros_like(values[1], dtype=torch.float64), torch.zeros_like(values[1])
        for step in range(self.num_steps):
            log_weights += (path.beta[step + 1] - path.beta[step]) * values[1]
            if step < self.num_steps - 1:
                u, values, acceptance = self._move(chunk, u, values, path.beta[step + 1], path.step_size[step])
                accepted += acceptance
            chunk.tick()
        acceptance = accepted.mean(0) / (self.num_steps - 1) if self.num_steps > 1 else accepted.mean(0) * torch.nan
        return log_weights.to(u.dtype), acceptance

    def pilot(self, chunk: Chunk) -> Path:
        """The schedule, and step sizes for it, learned by annealing a few chains once."""
        u = chunk.draw(self.start, _PILOT_CHAINS)
        size = u.shape[1]
        if self.num_steps == 1:
            return Path(_linear(1, u)[:, None].expand(-1, size), u.new_empty(0, size))
        # From the prior nearly all happens where the likelihood sets in.
        grid = _linear(_PILOT_STEPS, u) ** (4 if self.start == "prior" else 1)
        steps = StepSize(u.new_full((size,), 0.25), self.target_acceptance, floor=0.25)
        values: Sequence[Tensor] = chunk.ends(u)
        spreads, log_steps = [_log_spread(values[1])], [steps.current.log()]
        burn_in = _PILOT_STEPS // 5
        for beta in (*[grid[1]] * burn_in, *grid[1:]):
            u, values, acceptance = self._move(chunk, u, values, beta, steps.current)
            steps.update(acceptance)
            spreads.append(_log_spread(values[1]))
            log_steps.append(steps.current.log())
        grid = grid[:, None].expand(-1, size)
        spread, log_step = (_smooth(torch.stack(column[burn_in:])) for column in (spreads, log_steps))
        beta = self._beta(grid, spread.exp())
        return Path(beta, _interpolated(beta[1:-1], grid, log_step.double()).exp().to(u.dtype))

    def _move(
        self, chunk: Chunk, u: Tensor, values: Sequence[Tensor], beta: Tensor, step_size: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """One transition at ``beta``, ``[]`` or ``[N]``, and what ``chunk.ends`` gives where it leads."""
        beta = beta.to(u.dtype)

        def tempered(first: Tensor, ratio: Tensor, first_slope: Tensor, ratio_slope: Tensor) -> tuple[Tensor, Tensor]:
            return first + beta * ratio, first_slope + beta[..., None] * ratio_slope

        def density(u: Tensor) -> tuple[Tensor, ...]:
            values = chunk.ends(u)
            return *tempered(*values), *values

        sampler = Hamiltonian(density, step_size, self.num_leapfrog)
        state, acceptance = sampler.step(State(u, *tempered(*values), tuple(values)))
        return state.u, state.carried, acceptance

    def _beta(self, grid: Tensor, spread: Tensor) -> Tensor:
        """``[K + 1, N]``; ``spread`` is the standard deviation of log p(x, z) - log f_0 at ``grid: [P + 1, N]``."""
        time = _linear(self.num_steps, grid)[:, None].expand(-1, grid.shape[1])
        if self.schedule == "linear":
            return time
        if self.schedule == "sigmoid":
            bounds = torch.tensor([-4.0, 4.0]).to(time).sigmoid()
            return ((8 * time - 4).sigmoid() - bounds[0]) / (bounds[1] - bounds[0])
        length = torch.cumulative_trapezoid(spread, grid, dim=0)
        length = torch.cat([torch.zeros_like(length[:1]), length / length[-1]])
        return _interpolated(time, 0.9 * length + 0.1 * grid, grid)  # nowhere ten times thinner than linear


def _linear(num_steps: int, like: Tensor) -> Tensor:
    return torch.linspace(0, 1, num_steps + 1, dtype=torch.float64, device=like.device)


def _log_spread(ratio: Tensor) -> Tensor:
    """``[C, N]`` -> ``[N]``, the log of the standard deviation over the chains, finite."""
    return ratio.double().std(0).nan_to_num(0.0, posinf=0.0).clamp_min(1e-6).log()


def _smooth(values: Tensor) -> Tensor:
    """``[P, N]`` averaged over a twentieth of the path on either side."""
    reach = len(values) // 20
    return avg_pool1d(pad(values.T[:, None], (reach, reach), mode="replicate"), 2 * reach + 1, stride=1)[:, 0].T


def _interpolated(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``[K, N]``: y at ``at: [K, N]``, by lines between the points ``(x, y): [P, N]``, for each column."""
    right = torch.searchsorted(x.T.contiguous(), at.T.contiguous()).T.clamp(1, len(x) - 1)
    (x0, x1), (y0, y1) = ((values.gather(0, right - 1), values.gather(0, right)) for values in (x, y))
    return torch.lerp(y0, y1, ((at - x0) / (x1 - x0)).clamp(0, 1))
