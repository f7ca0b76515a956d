"""log p(x) from posterior draws by Hamiltonian Monte Carlo, and those draws themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_vae._checks import checked, counted, held, number, warn, whole
from pyro_vae.compiled import Compile
from pyro_vae.estimators.bounds import log_mean_exp
from pyro_vae.evidence.result import Evidence, chain_reliability, check_log_prob, error_of_mean, gray_levels
from pyro_vae.pair import as_pair
from pyro_vae.pair.arguments import batch_of
from pyro_vae.sampling.chains import Chunk, check_acceptance, concatenated, over_chunks, r_hat
from pyro_vae.sampling.hamiltonian import Hamiltonian, Samples, run_chains
from pyro_vae.sampling.joint import Joint, Start

_DIMENSIONS = 5  # of the latents, up to which the paper uses the estimator
_MIXED = 1.1  # R-hat above which chains of one datum do not agree


@dataclass(frozen=True)
class HMC(Evidence):
    """Estimates of log p(x) for each datum.

    The mean of q / p has expectation 1 / p(x), where the draws are exact ones, so that in expectation ``log_prob`` lies
    above log p(x).

    Attributes:
        log_prob: ``[N]``, in nats.
        log_inverse_weights: ``[C, N]``, of each chain: log of the mean of q(z) / p(x, z) over its draws.
        acceptance: ``[N]``, the mean probability of acceptance.
        r_hat: ``[N]``, split R-hat of the chains, the largest of all coordinates; 1 where they agree.
        step_size: ``[N]``, in units of the posterior's spread along each coordinate.
    """

    log_inverse_weights: Tensor
    acceptance: Tensor
    r_hat: Tensor
    step_size: Tensor

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each ``log_prob`` from the spread of the chains, by the delta method, in nats."""
        return error_of_mean(self.log_inverse_weights)

    def reliability(self) -> dict[str, float]:
        """The median of :attr:`standard_error`, the largest R-hat and the mean acceptance."""
        found = chain_reliability(self.standard_error, self.acceptance)
        return {**found, "r_hat_largest": self.r_hat.max().item()}


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of p(z | x) for each datum.

    Attributes:
        latents: by site, ``[S, C, N, *event]``: S draws of each of C chains. (With plates inside of the data plate
            those are where the model has them.)
        acceptance: ``[N]``, the mean probability of acceptance.
        r_hat: ``[N]``, split R-hat of the chains, the largest of all coordinates; 1 where they agree.
        step_size: ``[N]``, in units of the posterior's spread along each coordinate.
    """

    latents: dict[str, Tensor]
    acceptance: Tensor
    r_hat: Tensor
    step_size: Tensor


@checked
def hmc(
    pair: Any,
    x: Any,
    num_samples: int = 100,
    num_chains: int = 16,
    num_warmup: int = 200,
    *,
    num_leapfrog: int = 4,
    start: Start = "guide",
    target_acceptance: float = 0.8,
    chunk: int = 4096,
    seed: int = 0,
    max_plate_nesting: int = 1,
    compile: Compile = "auto",
    progress: bool = False,
) -> HMC:
    r"""log p(x) by the estimator of Kingma & Welling, for continuous latents of few dimensions.

    .. math::
        p(x) \approx \Big[ \frac 1 L \sum_{l=1}^L \frac{q(z_l)}{p(z_l) \, p(x \mid z_l)} \Big]^{-1},
        \quad z_l \sim p(z \mid x)

    The draws are those of HMC; q is a Gaussian of full covariance, fitted to a first set of them for each datum (in the
    unconstrained space), and the mean is over a second set. Where the posterior has lighter tails than that Gaussian,
    the variance of q / p is infinite, and the standard error too small.

    Args:
        pair: the pair; of the guide only draws are needed.
        x: the data ``[N, *event]``, or a tuple of the arguments of model and guide.
        num_samples: draws of each chain, in either set.
        num_chains: chains for each datum; the standard error comes from their spread.
        num_warmup: steps of each chain before, in which step sizes and the mass are adapted.
        num_leapfrog: leapfrog steps of a transition.
        start: where the chains start, a draw from the "guide" or the "prior".
        target_acceptance: what the step sizes are adapted to.
        chunk, seed, max_plate_nesting, compile, progress: as for :func:`~pyro_vae.evidence.ais`.

    Raises:
        ValueError: if an argument is out of its range, there are no data, a latent is discrete or shared by the data,
            there are too few draws for a covariance, or no proposal is accepted.

    Warns:
        UserWarning: if the latents have more than 5 dimensions, where a Gaussian rarely fits; if for more than one
            datum in a hundred the mean acceptance is outside of [0.4, 0.95], or R-hat above 1.1 or NaN.

    Source: Kingma & Welling (2013), appendix D.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> hmc(pair, x, num_samples=200, num_chains=2, num_warmup=100).log_prob.shape
    torch.Size([3])
    """

    _check(target_acceptance, num_samples, num_chains, num_warmup, num_leapfrog)
    batch = batch_of(pair, x)

    def estimate(part: Chunk) -> tuple[Tensor, ...]:
        chains, sampler = part.warmed_up(part.draw(start, num_chains), num_warmup, num_leapfrog, target_acceptance)
        first = run_chains(sampler, chains, num_samples)
        second = run_chains(sampler, first.state, num_samples)
        log_ratio = _fitted(first.u).log_prob(second.u.double()) - second.log_density
        return log_mean_exp(log_ratio).to(second.u.dtype), *_diagnostics(second, sampler)

    def check(joint: Joint) -> None:
        _check_dimensions(joint.dim, num_samples * num_chains)

    num_steps, options = (
        (num_warmup + 2 * num_samples) * num_leapfrog,
        (chunk, seed, max_plate_nesting, compile, progress),
    )
    parts, joint = over_chunks(
        estimate, as_pair(pair), batch, num_chains, num_steps, *options, begin=start, check=check
    )
    log_inverse_weights, acceptance, split_r_hat, step_size = concatenated(parts)
    result = HMC(
        -log_mean_exp(log_inverse_weights),
        log_inverse_weights,
        acceptance,
        split_r_hat,
        step_size,
        num_dims=gray_levels(joint.observed, batch),
        effort=f"{counted(num_chains, 'chain')} of {counted(num_samples, 'draw')}, twice",
    )
    check_log_prob(-result.log_prob)
    check_acceptance(acceptance, num_chains * num_samples)
    _check_mixing(split_r_hat)
    return result


@checked
def posterior_draws(
    pair: Any,
    x: Any,
    num_samples: int = 100,
    num_chains: int = 4,
    num_warmup: int = 200,
    *,
    num_leapfrog: int = 10,
    start: Start = "guide",
    target_acceptance: float = 0.8,
    chunk: int = 4096,
    seed: int = 0,
    max_plate_nesting: int = 1,
    compile: Compile = "auto",
    progress: bool = False,
) -> PosteriorDraws:
    r"""Draws z ~ p(z | x) by Hamiltonian Monte Carlo, for continuous latents of any number of dimensions.

    The arguments, errors and warnings are those of :func:`hmc`, but for its limits to the dimensions.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> draws = pv.evidence.posterior_draws(pair, x, num_samples=200, num_chains=2, num_warmup=100)
    >>> draws.latents["z"].shape
    torch.Size([200, 2, 3, 2])
    """

    _check(target_acceptance, num_samples, num_chains, num_warmup, num_leapfrog)

    def draw(part: Chunk) -> tuple[Tensor, ...]:
        chains, sampler = part.warmed_up(part.draw(start, num_chains), num_warmup, num_leapfrog, target_acceptance)
        samples = run_chains(sampler, chains, num_samples)
        draws = [part.joint.latents(u, *part.batch) for u in samples.u]
        by_site = [torch.stack([draw[name] for draw in draws]).cpu() for name in part.joint.shapes]
        return *_diagnostics(samples, sampler), *by_site

    num_steps = (num_warmup + num_samples) * num_leapfrog
    options = (chunk, seed, max_plate_nesting, compile, progress)
    parts, joint = over_chunks(draw, as_pair(pair), batch_of(pair, x), num_chains, num_steps, *options, begin=start)
    acceptance, split_r_hat, step_size = concatenated([part[:3] for part in parts])
    check_acceptance(acceptance, num_chains * num_samples)
    _check_mixing(split_r_hat)
    sites = zip(*(part[3:] for part in parts), strict=True)
    latents = {name: torch.cat(column, joint.data_dim + 1) for name, column in zip(joint.shapes, sites, strict=True)}
    return PosteriorDraws(latents, acceptance, split_r_hat, step_size)


def _check(target_acceptance: float, *counts: int) -> None:
    number(above=0, below=1, target_acceptance=target_acceptance)
    names = ("num_samples", "num_chains", "num_warmup", "num_leapfrog")
    whole(1, **dict(zip(names, counts, strict=True)))
    held(f"{counts[1]:,} chains of {counts[0]:,} draws", counts[0] * counts[1])


def _diagnostics(samples: Samples, sampler: Hamiltonian) -> tuple[Tensor, Tensor, Tensor]:
    """``(acceptance, r_hat, step_size)``, each ``[N]``."""
    return samples.acceptance.mean(0), r_hat(samples), torch.as_tensor(sampler.step_size)


def _fitted(u: Tensor) -> MultivariateNormal:
    """The Gaussian with mean and covariance of draws ``[S, C, N, D]``, for each datum."""
    draws = u.double().flatten(0, 1).movedim(1, 0)
    mean = draws.mean(1)
    centered = draws - mean[:, None]
    covariance = centered.mT @ centered / (draws.shape[1] - 1)
    ridge = 1e-9 * covariance.diagonal(dim1=-2, dim2=-1) + torch.finfo(torch.float64).tiny
    factor, failed = torch.linalg.cholesky_ex(covariance + ridge.diag_embed())
    factor = torch.where(failed[:, None, None] > 0, math.nan, factor)  # so that the weights tell of it
    return MultivariateNormal(mean, scale_tril=factor, validate_args=False)


def _check_dimensions(dim: int, draws: int) -> None:
    if draws < 2 * (dim + 1):
        raise ValueError(
            f"{draws} draws (chains times samples) are too few for the covariance of {dim} latent dimensions. "
            f"Take at least {2 * (dim + 1)}, better {20 * dim}: num_samples or num_chains."
        )
    if dim > _DIMENSIONS:
        warn(
            f"the latents have {dim} dimensions; this estimator of log p(x) is of use up to {_DIMENSIONS}: beyond, "
            "a Gaussian rarely fits the posterior, and a misfit counts in each dimension. "
            "Use annealed importance sampling: evidence.ais(pair, x).",
        )


def _check_mixing(r_hat: Tensor) -> None:
    unknown, apart = int(r_hat.isnan().sum()), int((r_hat > _MIXED).sum())
    if unknown > 0.01 * len(r_hat):
        warn(
            f"whether the chains of {unknown:,} of {len(r_hat):,} data agree is not known (split R-hat is NaN): they "
            "have fewer than four draws each, or do not move. Use more samples, or a longer warm-up.",
        )
    if apart > 0.01 * len(r_hat):
        warn(
            f"the chains of {apart:,} of {len(r_hat):,} data do not agree (split R-hat above {_MIXED}), so that their "
            "draws do not stand for the posterior. Use more samples, a longer warm-up, or more leapfrog steps.",
        )
