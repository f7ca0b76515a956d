"""Annealed importance sampling of log p(x), with transitions by Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import pyro
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad
from tqdm import tqdm

from pyro_vae.compiled import Compile, Compiled
from pyro_vae.evidence.result import (
    Evidence,
    arguments,
    check_acceptance,
    check_log_prob,
    error_of_mean,
    log_mean_exp,
)
from pyro_vae.pair import as_pair, device_of, evaluating, tracing_obstacle
from pyro_vae.sampling.hamiltonian import Kernel, State, StepSize
from pyro_vae.sampling.joint import Ends, Joint, Start, joint_of

Schedule = Literal["linear", "sigmoid", "adaptive"]
EndsAt = Callable[[Tensor], list[Tensor]]  # u -> what Ends gives, for one chunk of data

PILOT_CHAINS = 4
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

    @classmethod
    def of(cls, log_weights: Tensor, acceptance: Tensor, beta: Tensor, step_size: Tensor) -> AIS:
        return cls(log_mean_exp(log_weights), log_weights, acceptance, beta, step_size)

    @property
    def effective_sample_size(self) -> Tensor:
        r"""``[N]``, :math:`(\sum_c w_c)^2 / \sum_c w_c^2`, between 1 and the number of chains."""
        normalized = self.log_weights.softmax(0).nan_to_num(0.0)
        return (1 / normalized.square().sum(0)).clamp(1, len(normalized))

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each ``log_prob`` over the chains, by the delta method; NaN for one chain."""
        return error_of_mean(self.log_weights)


def ais(
    pair: Any,
    x: Tensor | Sequence[Tensor],
    num_chains: int = 16,
    num_steps: int = 1000,
    *,
    num_leapfrog: int = 10,
    start: Start = "prior",
    schedule: Schedule = "adaptive",
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

    The transition T is one step of HMC (:class:`~pyro_vae.sampling.hamiltonian.Kernel`). Its step sizes, for each datum
    and temperature, and the adaptive schedule come from a pilot run (4 chains, 200 steps) and are fixed in the run that
    counts, so that E[w] = p(x) holds exactly, for any number of steps.

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
        max_plate_nesting: number of nested plates of the pair.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, there are no data, a latent is discrete or shared by the data,
            the guide cannot be scored though ``start`` is "guide", no proposal is accepted, or weights are NaN.

    Warns:
        UserWarning: if for more than one datum in a hundred the mean acceptance is outside of [0.4, 0.95].

    Source: Neal (2001), Annealed importance sampling; Wu, Burda, Salakhutdinov & Grosse (2016), section 3.
    """
    annealer = Annealer(num_chains, num_steps, num_leapfrog, start, schedule, target_acceptance)
    batch = arguments(x, num_chains=num_chains, num_steps=num_steps, num_leapfrog=num_leapfrog, chunk=chunk)
    module, count = as_pair(pair), max(1, chunk // num_chains)
    parts = []
    with (
        target(module, *batch, start=start, seed=seed, max_plate_nesting=max_plate_nesting, compile=compile) as (
            joint,
            at,
        ),
        bar(-(-len(batch[0]) // count) * num_steps, progress) as tick,
    ):
        for part in rows(batch, count, device_of(module)):
            path = annealer.pilot(at(*part), joint.draw(start, PILOT_CHAINS, *part))
            u = joint.draw(start, num_chains, *part)
            parts.append((*annealer.run(at(*part), u, path, tick), *path))
    result = AIS.of(*concatenated(parts))
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
    schedule: Schedule
    target_acceptance: float

    def __post_init__(self) -> None:
        check_choice("start", self.start, Start)
        check_choice("schedule", self.schedule, Schedule)
        check_target(self.target_acceptance)

    def run(self, ends: EndsAt, u: Tensor, path: Path, tick: Any) -> tuple[Tensor, Tensor]:
        """Anneals chains from ``u: [C, N, D]``, a draw from the first end of ``path``.

        Returns:
            ``(log_weights [C, N], acceptance [N])``. Along a reversed path, from draws of p(z | x), the weights are
            the inverse ones: their expectation is 1 / p(x).
        """
        values: Sequence[Tensor] = ends(u)
        log_weights, accepted = torch.zeros_like(values[1], dtype=torch.float64), torch.zeros_like(values[1])
        for step in range(self.num_steps):
            log_weights += (path.beta[step + 1] - path.beta[step]) * values[1]
            if step < self.num_steps - 1:
                kernel = Kernel(path.step_size[step], self.num_leapfrog)
                u, values, acceptance = _move(ends, u, values, path.beta[step + 1], kernel)
                accepted += acceptance
            tick.update()
        acceptance = accepted.mean(0) / (self.num_steps - 1) if self.num_steps > 1 else accepted.mean(0) * torch.nan
        return log_weights.to(u.dtype), acceptance

    def pilot(self, ends: EndsAt, u: Tensor) -> Path:
        """The schedule, and step sizes for it, learned by annealing ``u: [C, N, D]`` once."""
        size = u.shape[1]
        if self.num_steps == 1:
            return Path(_linear(1, u)[:, None].expand(-1, size), u.new_empty(0, size))
        # From the prior nearly all happens where the likelihood sets in.
        grid = _linear(_PILOT_STEPS, u) ** (4 if self.start == "prior" else 1)
        steps = StepSize(u.new_full((size,), 0.25), self.target_acceptance, floor=0.25)
        values: Sequence[Tensor] = ends(u)
        spreads, log_steps = [_log_spread(values[1])], [steps.current.log()]
        burn_in = _PILOT_STEPS // 5
        for beta in (*[grid[1]] * burn_in, *grid[1:]):
            u, values, acceptance = _move(ends, u, values, beta, Kernel(steps.current, self.num_leapfrog))
            steps.update(acceptance)
            spreads.append(_log_spread(values[1]))
            log_steps.append(steps.current.log())
        grid = grid[:, None].expand(-1, size)
        spread, log_step = (_smooth(torch.stack(column[burn_in:])) for column in (spreads, log_steps))
        beta = self._beta(grid, spread.exp())
        return Path(beta, _interpolated(beta[1:-1], grid, log_step.double()).exp().to(u.dtype))

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


def _move(
    ends: EndsAt, u: Tensor, values: Sequence[Tensor], beta: Tensor, kernel: Kernel
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """One transition at ``beta``, ``[]`` or ``[N]``, and what ``ends`` gives where it leads."""
    beta = beta.to(u.dtype)

    def tempered(first: Tensor, ratio: Tensor, first_gradient: Tensor, ratio_gradient: Tensor) -> tuple[Tensor, Tensor]:
        return first + beta * ratio, first_gradient + beta[..., None] * ratio_gradient

    def density(u: Tensor) -> tuple[Tensor, ...]:
        values = ends(u)
        return *tempered(*values), *values

    state, acceptance = kernel(density, State(u, *tempered(*values), tuple(values)))
    return state.u, state.carried, acceptance


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


@contextmanager
def target(
    pair: Any, *batch: Tensor, start: Start = "prior", seed: int, max_plate_nesting: int, compile: Compile
) -> Iterator[tuple[Joint, Callable[..., EndsAt]]]:
    """``(joint, at)`` of a pair: its densities, and ``at(*batch)``, both ends of the path as a graph.

    Inside, the pair is in evaluation mode and all draws come from ``seed``.
    """
    module = as_pair(pair)
    first = tuple(tensor[:1].to(device_of(module)) for tensor in batch)
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        joint = joint_of(module, *first, max_plate_nesting=max_plate_nesting)
        if start == "guide":
            _check_guide(joint, *first)
        obstacle = tracing_obstacle(module)
        ends = Compiled(Ends(module, joint, start), compile=compile, often=False, obstacle=obstacle)
        yield joint, lambda *part: lambda u: ends(u.contiguous(), *part)[0]  # a graph is made for its strides


def rows(batch: Sequence[Tensor], count: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """The batch cut into parts of ``count`` data."""
    for start in range(0, len(batch[0]), count):
        yield tuple(tensor[start : start + count].to(device).contiguous() for tensor in batch)


def concatenated(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The results of the parts, each ``[..., N]``, as one."""
    return [torch.cat(column, -1).cpu() for column in zip(*parts, strict=True)]


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises a ValueError if ``value`` is none of the ``choices``, a ``Literal``."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(choices)))}; got {value!r}.")


def check_target(acceptance: float) -> None:
    """Raises a ValueError if ``acceptance`` is no share that step sizes can be adapted to."""
    if not 0 < acceptance < 1:
        raise ValueError(f"target_acceptance is a probability between 0 and 1; got {acceptance!r}.")


def _check_guide(joint: Joint, *batch: Tensor) -> None:
    u = joint.draw("guide", 1, *batch)
    try:
        scored = joint.densities(u.clone(), *batch, guide=True).guide
        reason = "it is NaN" if scored is None or scored.isnan().any() else None
    except Exception as error:  # each family fails in its own way
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if reason is not None:
        raise ValueError(
            "the density of the guide cannot be computed at values that it has not just drawn itself, as for Pyro's "
            f"planar flow ({reason}). Start from the prior, which needs no guide: start='prior'."
        )


def bar(total: int, progress: bool) -> Any:
    """A progress bar, or none."""
    return tqdm(total=total, unit=" steps", desc="Hamiltonian Monte Carlo", disable=not progress, dynamic_ncols=True)
