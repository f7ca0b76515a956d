"""What every estimate of log p(x) gives."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import whole
from pyro_vae.estimators.bounds import log_mean_exp


@dataclass(frozen=True)
class Evidence(ABC):
    """Estimates of log p(x) for each datum; a subclass says from which side they approach it.

    Attributes:
        log_prob: ``[N]``, in nats.
    """

    log_prob: Tensor

    @property
    @abstractmethod
    def standard_error(self) -> Tensor:
        """``[N]``: standard error of each :attr:`log_prob` over the draws, in nats."""

    @property
    def nll(self) -> float:
        """Negative log-likelihood, averaged over the data: a positive number for binary data, in nats."""
        return -self.log_prob.double().mean().item()

    @property
    def nll_standard_error(self) -> float:
        """Standard error of :attr:`nll` as an estimate for further data of the same kind, in nats."""
        return (self.log_prob.double().std() / math.sqrt(len(self.log_prob))).item()


def arguments(x: Tensor | Sequence[Tensor], **counts: Any) -> tuple[Tensor, ...]:
    """``x`` as the arguments of model and guide.

    Raises:
        ValueError: if there are no data, or one of ``counts`` is no whole number of at least 1.
    """
    whole(1, **counts)
    batch = (x,) if isinstance(x, Tensor) else tuple(x)
    if not batch or not len(batch[0]):
        raise ValueError("there are no data: x is empty. Give x of shape [N, *event] with N at least 1.")
    return batch


def check_log_prob(log_prob: Tensor) -> None:
    """Looks at averages of importance weights, in logs ``[N]``.

    Raises:
        ValueError: if one is NaN or infinite.

    Warns:
        UserWarning: if one is zero.
    """
    bad = int((log_prob.isnan() | (log_prob == math.inf)).sum())
    if bad:
        raise ValueError(
            f"the importance weights of {bad:,} of {len(log_prob):,} data are NaN or infinite: a density of the model "
            "or the guide overflows there. Look for NaN in the data and the parameters, keep scales away from 0, "
            "or compute in float64."
        )
    zero = int((log_prob == -math.inf).sum())
    if zero:
        warnings.warn(
            f"all importance weights of {zero:,} of {len(log_prob):,} data are 0, so that their log p(x) is estimated "
            "as minus infinity: p(x, z) is 0 at each draw. Use more samples, or see whether the model can produce "
            "these data at all.",
            stacklevel=3,
        )


def check_acceptance(acceptance: Tensor, proposals: int, low: float = 0.4, high: float = 0.95) -> None:
    """Looks at the mean acceptance of Hamiltonian Monte Carlo for each datum, ``[N]``, over ``proposals`` of each.

    With fewer than 100 proposals a datum's mean says little; then it is the mean over all data that is looked at.

    Raises:
        ValueError: if nothing is accepted for more than one datum in a hundred.

    Warns:
        UserWarning: if it is outside of [low, high] for more than one datum in a hundred.
    """
    mean, size = acceptance.mean().item(), len(acceptance)
    judged = acceptance if proposals >= 100 else acceptance.mean(0, keepdim=True)

    def many(bad: Tensor) -> str:
        count = int(bad.sum())
        return "" if count <= 0.01 * len(judged) else f"{count:,} of {size:,} data" if proposals >= 100 else "all data"

    if data := many(judged < 1e-3):
        raise ValueError(
            f"Hamiltonian Monte Carlo accepts nothing for {data}: either log p(x, z) or its gradient is not finite, or "
            "the density is so rough that no step size is small enough. Look for NaN in the parameters, compute in "
            "float64, or use importance sampling."
        )
    if data := many((judged < low) | (judged > high)):
        remedy = (
            "Chains hardly move: use a higher target_acceptance, fewer leapfrog steps for each transition, more steps, "
            "or float64."
            if (judged < low).sum() >= (judged > high).sum()
            else "Steps are smaller than they need be, or the density is flat: use a lower target_acceptance, more "
            "leapfrog steps, or a longer warm-up."
        )
        warnings.warn(
            f"the mean acceptance of Hamiltonian Monte Carlo is outside of [{low}, {high}] for {data} (the mean of all "
            f"is {mean:.2f}). {remedy}",
            stacklevel=3,
        )


def error_of_mean(log_weights: Tensor) -> Tensor:
    """``[S, N]`` of independent draws -> ``[N]``, the standard error of the log of their mean, by the delta method."""
    if len(log_weights) == 1:
        return torch.full_like(log_weights[0], math.nan)
    return (log_weights - log_mean_exp(log_weights)).exp().std(0) / math.sqrt(len(log_weights))
