"""What every estimate of log p(x) gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import warn
from pyro_vae.batches import leaves
from pyro_vae.estimators.bounds import log_mean_exp
from pyro_vae.pair.protocols import HasNumLevels


@dataclass(frozen=True)
class Evidence(ABC):
    """Estimates of log p(x) for each datum; a subclass says from which side they approach it. Printed, a sentence.

    Attributes:
        log_prob: ``[N]``, in nats.
        num_dims: how many numbers a datum has, where they are gray levels, so that :attr:`bits_per_dim` compares.
        effort: what was drawn for each datum, in words.
        seconds: how long it took, where that was measured.
    """

    log_prob: Tensor
    num_dims: int | None = field(default=None, kw_only=True)
    effort: str = field(default="", kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)

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
        """Standard error of :attr:`nll` as an estimate for further data of the same kind, in nats; NaN of one datum."""
        if len(self.log_prob) < 2:
            return math.nan
        return (self.log_prob.double().std() / math.sqrt(len(self.log_prob))).item()

    @property
    def bits_per_dim(self) -> float | None:
        """:attr:`nll` in bits per dimension, where the likelihood is one of gray levels."""
        return None if self.num_dims is None else self.nll / (self.num_dims * math.log(2))

    @abstractmethod
    def reliability(self) -> dict[str, float]:
        """Numbers over the data that tell whether the estimate can be trusted."""

    def summary(self) -> dict[str, Any]:
        """Numbers over the data, by name: what ``pyro-vae evaluate`` stores."""
        found: dict[str, Any] = {"nll": self.nll, "nll_standard_error": self.nll_standard_error}
        if self.bits_per_dim is not None:
            found["bits_per_dim"] = self.bits_per_dim
        found |= self.reliability()
        return found if self.seconds is None else {**found, "seconds": self.seconds}

    def __str__(self) -> str:
        return (
            f"NLL {self.nll:.3f} nats (standard error over the data {self.nll_standard_error:.3f}; {self._details()})"
        )

    def _details(self) -> str:
        bits = "" if self.bits_per_dim is None else f"{self.bits_per_dim:.3f} bits per dimension; "
        seconds = "" if self.seconds is None else f"{self.seconds:.0f} s"
        parts = (f"{len(self.log_prob):,} data", self.effort, self._reliability(), seconds)
        return bits + ", ".join(part for part in parts if part)

    def _reliability(self) -> str:
        """In words, of chains."""
        found = self.reliability()
        return (
            f"median standard error of a datum {found['standard_error_median']:.3f}, "
            f"acceptance {found['acceptance_mean']:.2f}"
        )


def chain_reliability(standard_error: Tensor, acceptance: Tensor) -> dict[str, float]:
    """:meth:`Evidence.reliability` of chains, both ``[N]``."""
    return {
        "standard_error_median": standard_error.median().item(),
        "acceptance_mean": acceptance.mean().item(),
    }


def gray_levels(supports: Mapping[str, Any], batch: Sequence[Tensor]) -> int | None:
    """:attr:`Evidence.num_dims` of data, by the supports of the sites that the model observes."""
    quantized = any(isinstance(support, HasNumLevels) for support in supports.values())
    x = next(leaves(batch))
    return x.shape[1:].numel() if quantized and isinstance(x, Tensor) else None


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
        warn(
            f"all importance weights of {zero:,} of {len(log_prob):,} data are 0, so that their log p(x) is estimated "
            "as minus infinity: p(x, z) is 0 at each draw. Use more samples, or see whether the model can produce "
            "these data at all.",
        )


def error_of_mean(log_weights: Tensor) -> Tensor:
    """``[S, N]`` of independent draws -> ``[N]``, the standard error of the log of their mean, by the delta method."""
    if len(log_weights) == 1:
        return torch.full_like(log_weights[0], math.nan)
    return (log_weights - log_mean_exp(log_weights)).exp().std(0) / math.sqrt(len(log_weights))
