"""Bidirectional Monte Carlo: log p(x) of simulated data between two stochastic bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae._checks import checked
from pyro_vae.batches import joined, moved
from pyro_vae.compiled import Compile
from pyro_vae.estimators.bounds import log_mean_exp
from pyro_vae.evidence.ais import AIS, Annealer, AnnealingSchedule
from pyro_vae.evidence.result import Evidence, chain_reliability, check_log_prob, error_of_mean, gray_levels
from pyro_vae.pair import as_pair
from pyro_vae.pair.arguments import batch_of
from pyro_vae.sampling.chains import Chunk, check_acceptance, concatenated, over_chunks
from pyro_vae.sampling.joint import Start


@dataclass(frozen=True)
class BDMC(Evidence):
    """log p(x) of each simulated datum from both sides; ``log_prob`` is the lower one.

    The upper bound is strict because the data are drawn from the model, which gives an exact draw of p(z | x). It says
    nothing strict of real data; what carries over, where those are like the simulated ones, is the size of the gap.

    Attributes:
        log_prob: ``[N]``, in nats: in expectation a lower bound of log p(x).
        upper: ``[N]``, in nats: in expectation an upper bound of log p(x).
        forward: the annealed importance sampling of the lower bound.
        log_inverse_weights: ``[C, N]`` of the reverse chains: log w', with E[w'] = 1 / p(x).
        reverse_acceptance: ``[N]``, the mean probability of acceptance of the reverse chains.
        data: the simulated data, as the arguments of the model.
    """

    upper: Tensor
    forward: AIS
    log_inverse_weights: Tensor
    reverse_acceptance: Tensor
    data: tuple[Any, ...]

    @property
    def lower(self) -> Tensor:
        """``[N]``: ``log_prob``."""
        return self.log_prob

    @property
    def gap(self) -> Tensor:
        """``[N]``: upper - lower, in nats; in expectation no less than the error of either."""
        return self.upper - self.lower

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each :attr:`lower` over the chains, by the delta method; NaN for one chain."""
        return self.forward.standard_error

    @property
    def upper_standard_error(self) -> Tensor:
        """``[N]``: as :attr:`standard_error`. The reverse chains of a datum share their first state, which it omits."""
        return error_of_mean(self.log_inverse_weights)

    def reliability(self) -> dict[str, float]:
        """Of the lower bound's chains; and each bound's mean over the data, with its standard error over the draws."""
        found = chain_reliability(self.standard_error, self.forward.acceptance)
        bounds = {"lower": (self.lower, self.standard_error), "upper": (self.upper, self.upper_standard_error)}
        for side, (bound, error) in bounds.items():
            found[side] = bound.double().mean().item()
            found[f"{side}_standard_error"] = error.double().square().sum().sqrt().item() / len(error)
        return found

    def __str__(self) -> str:
        found = self.reliability()
        lower, upper = (
            f"{found[side]:.3f} (standard error {found[f'{side}_standard_error']:.3f})" for side in ("lower", "upper")
        )
        means = f"mean log p(x) from below {lower}, from above {upper} nats"
        return f"data drawn from the model: {means} ({self._details()})"


@checked
def bdmc(
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
) -> BDMC:
    r"""log p(x) of data drawn from the model, by annealing from both ends of the path.

    .. math::
        (z, x) \sim p(z) \, p(x \mid z), \qquad
        E\Big[\log \frac 1 C \sum_c w_c\Big] \le \log p(x) \le E\Big[-\log \frac 1 C \sum_c w'_c\Big]

    The w are those of :func:`~pyro_vae.evidence.ais`; the w' come from chains that start at z, an exact draw of
    p(z | x), and take the same transitions in the opposite order. The gap bounds the error of both, on data like these.

    Args:
        pair: the pair.
        x: as many data as are to be simulated, ``[N, *event]``, or a tuple of the arguments of model and guide. Of
            what the model observes only the shape matters.
        num_chains: chains for each datum, in either direction.
        num_steps, num_leapfrog, start, schedule, target_acceptance, chunk, seed, max_plate_nesting, compile, progress:
            as for :func:`~pyro_vae.evidence.ais`.

    Raises:
        ValueError: as :func:`~pyro_vae.evidence.ais`, or if what the model observes is not one of its arguments.

    Warns:
        UserWarning: if for more than one datum in a hundred the mean acceptance is outside of [0.4, 0.95].

    Source: Grosse, Ghahramani & Adams (2015); Wu, Burda, Salakhutdinov & Grosse (2016), section 3.1.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> both = bdmc(pair, x, num_chains=2, num_steps=10)
    >>> both.lower.shape, both.upper.shape
    (torch.Size([3]), torch.Size([3]))
    """
    annealer = Annealer(num_chains, num_steps, num_leapfrog, start, schedule, target_acceptance)
    batch = batch_of(pair, x)

    def sandwich(part: Chunk) -> tuple[Any, ...]:
        part, exact = part.simulated()
        path = annealer.pilot(part)
        u = part.draw(start, num_chains)
        forward = (*annealer.run(part, u, path), *path)
        return forward, annealer.run(part, exact.expand_as(u), path.reversed()), part.batch

    options = (chunk, seed, max_plate_nesting, compile, progress)
    parts, joint = over_chunks(
        sandwich, as_pair(pair), batch, num_chains, 2 * num_steps, *options, start=start, num_gradients=num_leapfrog
    )
    forward, reverse, data = zip(*parts, strict=True)
    lower = annealer.result(forward, gray_levels(joint.observed, batch))
    log_inverse_weights, reverse_acceptance = concatenated(reverse)
    result = BDMC(
        log_prob=lower.log_prob,
        upper=-log_mean_exp(log_inverse_weights),
        forward=lower,
        log_inverse_weights=log_inverse_weights,
        reverse_acceptance=reverse_acceptance,
        data=moved(joined(data), "cpu"),
        num_dims=lower.num_dims,
        effort=lower.effort,
    )
    check_log_prob(result.lower)
    check_log_prob(-result.upper)
    check_acceptance((lower.acceptance + reverse_acceptance) / 2, 2 * num_chains * (num_steps - 1))
    return result
