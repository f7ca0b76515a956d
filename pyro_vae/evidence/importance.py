"""Importance sampling of log p(x) from the guide."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae.compiled import Compile, Compiled, Precision, autocast
from pyro_vae.contract import (
    as_pair,
    data_frame,
    device_of,
    evaluating,
    latent_sites,
    observed_sites,
    run,
    tracing_obstacle,
)
from pyro_vae.estimators import SGVB_A

_POOR = 5.0  # effective samples of S, below which an estimate rests on a handful of draws


@dataclass(frozen=True)
class Importance:
    r"""Estimates of log p(x) for each datum.

    In expectation ``log_prob`` lies below log p(x), and rises to it with the number of samples.

    Attributes:
        log_prob: ``[N]``, in nats.
        effective_sample_size: ``[N]``, :math:`(\sum_s w_s)^2 / \sum_s w_s^2`, between 1 and ``num_samples``.
        num_samples: samples for each datum, S.
    """

    log_prob: Tensor
    effective_sample_size: Tensor
    num_samples: int

    @property
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each ``log_prob`` over the draws, by the delta method, in nats."""
        return (1 / self.effective_sample_size - 1 / self.num_samples).clamp_min(0).sqrt()

    @property
    def nll(self) -> float:
        """Negative log-likelihood, averaged over the data: a positive number for binary data, in nats."""
        return -self.log_prob.double().mean().item()

    @property
    def nll_standard_error(self) -> float:
        """Standard error of :attr:`nll` as an estimate for further data of the same kind, in nats."""
        return (self.log_prob.double().std() / math.sqrt(len(self.log_prob))).item()


class _LogWeights(nn.Module):
    """log of sum_s w_s and of sum_s w_s^2 over a chunk of draws."""

    def __init__(self, pair: nn.Module, num_samples: int, nesting: int, precision: Precision) -> None:
        super().__init__()
        self.pair = pair
        self.estimator = SGVB_A(num_samples, max_plate_nesting=nesting)
        self.precision = precision

    def forward(self, *batch: Tensor) -> list[Tensor]:
        with autocast(self.precision, batch[0].device):
            weights = self.estimator.log_weights(self.pair, *batch).reshape(self.estimator.num_particles, -1)
        return [weights.logsumexp(0), (2 * weights).logsumexp(0)]


def importance(
    pair: Any,
    x: Tensor | Sequence[Tensor],
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

    Args:
        pair: the pair.
        x: the data ``[N, *event]``, or a tuple of the arguments of model and guide.
        num_samples: draws for each datum, S.
        chunk: draws (over data and samples) that are held in memory at once.
        seed: of the draws; the caller's random state is left as it was.
        max_plate_nesting: number of nested plates of the pair.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        precision: ``"bfloat16"`` for matrix products in bfloat16.
        progress: show a progress bar.

    Raises:
        ValueError: if a number is below 1, there are no data, or the model has random variables outside the data
            plate, whose evidence is no sum over data.

    Warns:
        UserWarning: where the effective sample size is below 5 for more than one datum in a hundred, so that their
            log p(x) may be far above the estimate.

    Source: Rezende, Mohamed & Wierstra (2014), appendix E; Burda et al. (2015), section 5.
    """
    for name, value in (("num_samples", num_samples), ("chunk", chunk)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} has to be a whole number of at least 1; got {value!r}.")
    module = as_pair(pair)
    batch = (x,) if isinstance(x, Tensor) else tuple(x)
    if not batch or not len(batch[0]):
        raise ValueError("there are no data: x is empty. Give x of shape [N, *event] with N at least 1.")
    size = len(batch[0])
    rows = max(1, min(size, chunk // min(num_samples, 512)))  # data in a chunk
    draws = min(num_samples, max(1, chunk // rows))
    plan = [draws] * (num_samples // draws) + ([num_samples % draws] if num_samples % draws else [])
    device = device_of(module)
    totals: list[tuple[Tensor, Tensor]] = []
    with evaluating(module), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        _check_local(module, *(tensor[:1].to(device) for tensor in batch))
        runs = {
            count: Compiled(
                _LogWeights(module, count, max_plate_nesting, precision),
                compile=compile,
                often=False,
                obstacle=tracing_obstacle(module),
            )
            for count in set(plan)
        }
        bar = tqdm(total=size, unit=" data", desc="importance sampling", disable=not progress, dynamic_ncols=True)
        with bar:
            for start in range(0, size, rows):
                part = tuple(tensor[start : start + rows].to(device) for tensor in batch)
                sums = [runs[count](*part)[0] for count in plan]
                first_sum, second_sum = (torch.stack(column).logsumexp(0).cpu() for column in zip(*sums, strict=True))
                totals.append((first_sum, second_sum))
                bar.update(len(part[0]))
    first_moment, second_moment = (torch.cat(column) for column in zip(*totals, strict=True))
    result = Importance(
        log_prob=first_moment - math.log(num_samples),
        effective_sample_size=(2 * first_moment - second_moment).exp().clamp(1, num_samples),
        num_samples=num_samples,
    )
    _warn(result)
    return result


def _check_local(pair: nn.Module, *batch: Tensor) -> None:
    """Runs the pair once, so that its parameters are there, and refuses latents that the data share."""
    model_trace, guide_trace = run(pair, *batch)
    plate = data_frame(model_trace)
    sites = {**latent_sites(guide_trace), **latent_sites(model_trace), **observed_sites(model_trace)}
    for name, site in sites.items():
        if plate is not None and all(frame.name != plate.name for frame in site["cond_indep_stack"]):
            raise ValueError(
                f"the random variable {name!r} stands outside the data plate, so all data share it and log p(x) is no "
                "sum over data. Fix it by poutine.condition, hide it by poutine.block in model and guide."
            )


def _warn(result: Importance) -> None:
    poor = int((result.effective_sample_size < _POOR).sum())
    # With fewer samples than that in all, a small effective size says nothing.
    if result.num_samples > 10 * _POOR and poor > 0.01 * len(result.log_prob):
        warnings.warn(
            f"the effective sample size is below {_POOR:.0f} of {result.num_samples} for {poor:,} of "
            f"{len(result.log_prob):,} data: for these log p(x) may be well above the estimate. "
            "Use more samples, or a richer guide.",
            stacklevel=3,
        )
