"""Importance sampling of log p(x) from the guide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae._checks import PLATES, checked, counted, warn, whole
from pyro_vae.batches import num_rows
from pyro_vae.batches import rows as rows_of
from pyro_vae.compiled import Compile, Compiled, Precision, autocast
from pyro_vae.estimators import SGVB_A
from pyro_vae.evidence.result import Evidence, check_log_prob, gray_levels
from pyro_vae.evidence.sharing import over_ranks
from pyro_vae.pair import as_pair, device_of, programs, run, tracing_obstacle
from pyro_vae.pair.arguments import batch_of
from pyro_vae.pair.gate import check_evidence, explained, first_part, refuse, smallest
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.running import reading
from pyro_vae.pair.trials import point_problems
from pyro_vae.sampling.joint import observed_supports

_POOR = 5.0  # effective samples of S, below which an estimate rests on a handful of draws
_HEAVY = 0.7  # k-hat above which the error of an importance-sampling estimate does not shrink at a useful rate
_LOOPED = 16  # draws that are a run of the programs each, in one graph
_EQUAL = 1e-3  # nats, below which the largest weights differ by rounding


@dataclass(frozen=True)
class Importance(Evidence):
    r"""Estimates of log p(x) for each datum.

    In expectation ``log_prob`` lies below log p(x), and rises to it with the number of samples.

    Attributes:
        log_prob: ``[N]``, in nats.
        effective_sample_size: ``[N]``, :math:`(\sum_s w_s)^2 / \sum_s w_s^2`, between 1 and ``num_samples``.
        num_samples: samples for each datum, S.
        k_hat: ``[N]``, the shape of the tail of the weights (:func:`pareto_k_hat`). Above 0.5 their variance, above 1
            their mean is infinite; above 0.7 the estimate and its errors are not to be trusted. NaN with fewer than
            21 samples.
    """

    effective_sample_size: Tensor
    num_samples: int
    k_hat: Tensor = field(default_factory=lambda: torch.tensor(math.nan))

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each ``log_prob`` over the draws, by the delta method, in nats."""
        return (1 / self.effective_sample_size - 1 / self.num_samples).clamp_min(0).sqrt()

    def reliability(self) -> dict[str, float]:
        """The median effective sample size and k-hat, and the share of data whose k-hat is above 0.7."""
        return {
            "effective_sample_size_median": self.effective_sample_size.median().item(),
            "k_hat_median": self.k_hat.median().item(),
            "k_hat_above_0.7": (self.k_hat > _HEAVY).double().mean().item(),
        }

    def _reliability(self) -> str:
        found = self.reliability()
        return (
            f"median effective sample size {found['effective_sample_size_median']:.1f}, "
            f"k-hat above 0.7 for {found['k_hat_above_0.7']:.0%}"
        )


class _LogWeights(nn.Module):
    """log of sum_s w_s and of sum_s w_s^2 over a chunk of draws, and the draws' log w ``[S, B]`` themselves."""

    def __init__(self, pair: nn.Module, num_samples: int, nesting: int, precision: Precision) -> None:
        super().__init__()
        self.pair = pair
        self.estimator = SGVB_A(num_samples, max_plate_nesting=nesting)
        self.precision = precision

    def forward(self, *batch: Tensor) -> list[Tensor]:
        with autocast(self.precision, device_of(self.pair)):
            weights = self.estimator.log_weights(self.pair, *batch).reshape(self.estimator.num_particles, -1)
        return [weights.logsumexp(0), (2 * weights).logsumexp(0), weights]


@over_ranks
@checked(but=("num_samples", "chunk"))
def importance(
    pair: Any,
    x: Any,
    num_samples: int = 5000,
    *,
    chunk: int = 16384,
    seed: int = 0,
    max_plate_nesting: int = 1,
    compile: Compile = "auto",
    precision: Precision = "float32",
    progress: bool = False,
) -> Importance:
    r"""log p(x) by importance sampling from the guide.

    .. math:: \log p(x) \approx \log \frac 1 S \sum_{s=1}^S \frac{p(x, z_s)}{q(z_s \mid x)}, \quad z_s \sim q(z \mid x)

    The densities are those of the programs without their ``poutine.scale``, of latents also where they are masked; a
    masked observation is a missing one. A latent of the model alone is drawn from its prior, and noise that no site
    shows is another one for each draw.

    Args:
        pair: the pair.
        x: the data ``[N, *event]``, or a tuple of the arguments of model and guide.
        num_samples: draws for each datum, S.
        chunk: draws (over data and samples) that are held in memory at once.
        seed: of the draws; the caller's random state is left as it was.
        max_plate_nesting: number of nested plates of the pair at least; those that it has are counted.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        precision: ``"bfloat16"`` for matrix products in bfloat16.
        progress: show a progress bar.

    Raises:
        ValueError: if a number is below 1, there are no data, the model has random variables outside the data
            plate, whose evidence is no sum over data, or latents with an improper prior, the guide is no density on
            all of their support, a plate subsamples inside of the programs, or weights are NaN or infinite.

    Warns:
        UserWarning: where for more than one datum in a hundred the effective sample size is below 5, so that their
            log p(x) may be far above the estimate, or k-hat above 0.7; where a datum has no weight but 0.

    Source: Rezende, Mohamed & Wierstra (2014), appendix E; Burda et al. (2015), section 5.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> found = importance(pair, x, num_samples=100)
    >>> found.log_prob.shape, found.k_hat.shape
    (torch.Size([3]), torch.Size([3]))
    """
    whole(1, num_samples=num_samples, chunk=chunk)
    whole(1, PLATES, max_plate_nesting=max_plate_nesting)
    module, batch = as_pair(pair), batch_of(pair, x)
    size = num_rows(batch)
    rows = max(1, min(size, chunk // min(num_samples, 512)))  # data in a chunk
    totals: list[tuple[Tensor, Tensor, Tensor]] = []
    with reading(module, seed), explained(module, *batch):
        # A run also makes the parameters that the programs make when they first run.
        rows, found = first_part(module, rows, *batch)
        several = rows_of(batch, slice(rows))
        draws = min(num_samples, max(1, chunk // rows))
        if plan_of(*programs(module), several, {}, max_plate_nesting).how == "looped":
            draws = min(draws, _LOOPED)
        plan = [draws] * (num_samples // draws) + ([num_samples % draws] if num_samples % draws else [])
        nesting = max(max_plate_nesting, check_evidence("importance sampling", found, rows))
        refuse(point_problems(module, *several))
        first = smallest(module, *several)
        num_dims = gray_levels(observed_supports(run(module, *first).model_trace), batch)
        runs = {
            count: Compiled(
                _LogWeights(module, count, nesting, precision),
                compile=compile,
                planned=math.ceil(size / rows) * plan.count(count),
                obstacle=tracing_obstacle(module),
            )
            for count in set(plan)
        }
        bar = tqdm(total=size, unit=" data", desc="importance sampling", disable=not progress, dynamic_ncols=True)
        with bar:
            for start in range(0, size, rows):
                part = rows_of(batch, slice(start, start + rows))
                sums: list[list[Tensor]] = []
                largest = torch.empty(0)
                for count in plan:
                    (*moments, weights), _ = runs[count](*part)
                    largest = _largest(torch.cat([largest, weights]) if sums else weights, num_samples)
                    sums.append(moments)
                first_sum, second_sum = (torch.stack(column).logsumexp(0).cpu() for column in zip(*sums, strict=True))
                totals.append((first_sum, second_sum, pareto_k_hat(largest, num_samples).cpu()))
                bar.update(num_rows(part))
    first_moment, second_moment, k_hat = (torch.cat(column) for column in zip(*totals, strict=True))
    check_log_prob(first_moment)
    result = Importance(
        log_prob=first_moment - math.log(num_samples),
        effective_sample_size=(2 * first_moment - second_moment).exp().nan_to_num(1.0).clamp(1, num_samples),
        num_samples=num_samples,
        k_hat=k_hat,
        num_dims=num_dims,
        effort=f"{counted(num_samples, 'sample')} each",
    )
    _warn(result)
    return result


def pareto_k_hat(log_weights: Tensor, num_samples: int | None = None) -> Tensor:
    r"""Shape of the tail of importance weights: k of the generalized Pareto distribution fitted to the largest.

    The M = min(S / 5, 3 sqrt(S)) largest weights' excesses over the next one are fitted by Zhang & Stephens; the
    estimate is drawn to 1/2 with the weight of ten draws.

    Args:
        log_weights: ``[S, N]`` log-weights, up to a constant for each datum, or no fewer than the M + 1 largest.
        num_samples: S, if ``log_weights`` are only the largest.

    Returns:
        k-hat, ``[N]``. NaN where S is below 21; minus infinity where the M largest weights are equal (to 0.001
        nats), so that there is no tail; plus infinity where fewer than M + 1 weights are positive.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling; Zhang & Stephens (2009).
    """
    num_samples = num_samples or len(log_weights)
    size = _tail_size(num_samples)
    if size < 5:
        return log_weights.new_full(log_weights.shape[1:], math.nan)
    top = _largest(log_weights, num_samples).double().sort(0).values
    relative = (top - top[-1]).exp()  # [M + 1, N], ascending to 1
    excess = (relative[1:] - relative[0]).clamp_min(torch.finfo(relative.dtype).tiny)
    quartile = excess[int(size / 4 + 0.5) - 1]
    # Candidates of theta = -k / sigma, and the profile likelihood of each as its weight (Zhang & Stephens, eq. 7).
    index = torch.arange(1, 31 + int(size**0.5), dtype=top.dtype, device=top.device)[:, None]
    theta = 1 / excess[-1] + (1 - (len(index) / (index - 0.5)).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta[:, None] * excess).mean(1)
    weights = (size * ((-theta / k).log() - k - 1)).nan_to_num(-math.inf).softmax(0)
    k = torch.log1p(-(weights * theta).sum(0) * excess).mean(0)
    k = (size * k + 10 * 0.5) / (size + 10)
    k = torch.where(top[-1] - top[0] < _EQUAL, -math.inf, k)
    return torch.where(top[0] > -math.inf, k, math.inf).to(log_weights.dtype)


def _tail_size(num_samples: int) -> int:
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def _largest(log_weights: Tensor, num_samples: int) -> Tensor:
    """The M + 1 largest of ``[S, N]`` (all, where there are fewer)."""
    return log_weights.topk(min(_tail_size(num_samples) + 1, len(log_weights)), 0, sorted=False).values


def _warn(result: Importance) -> None:
    size, draws = len(result.log_prob), result.num_samples
    if draws <= 10 * _POOR:  # with so few samples a small effective size or a long tail says nothing
        return
    poor = int((result.effective_sample_size < _POOR).sum())
    if poor > 0.01 * size:
        warn(
            f"the effective sample size is below {_POOR:.0f} of {draws} for {poor:,} of "
            f"{size:,} data: for these log p(x) may be well above the estimate. "
            "Use more samples, or a richer guide.",
        )
    heavy = int((result.k_hat > _HEAVY).sum())
    if heavy > 0.01 * size:
        warn(
            f"the Pareto k-hat of the weights is above {_HEAVY} for {heavy:,} of {size:,} data: their tail is so heavy "
            "that log p(x) may be well above the estimate, and the standard errors are too small. "
            "Use more samples, a richer guide, or annealed importance sampling: evidence.ais(pair, x).",
        )
