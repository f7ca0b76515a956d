"""What is found of gradients, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pyro_vae._checks import counted
from pyro_vae.diagnostics.table import columns


@dataclass(frozen=True)
class GroupStatistics:
    r"""The gradient g of one estimator by the parameters of one group, over n draws.

    Mean and variance of a parameter's gradient are :math:`\bar g_j` and :math:`s_j^2`, the reference is
    :math:`\bar r`, the mean of R draws. Lengths are in nats per unit of the parameters.

    Attributes:
        num_parameters: how many numbers the group holds.
        norm: :math:`|\bar g|`.
        reference_norm: :math:`|\bar r|`.
        bias: :math:`|\bar g - \bar r|`.
        bias_error: :math:`\sqrt{\sum_j s_j^2 / n + s_j^2(r) / R}`, the root mean square of ``bias`` where there is
            none: a bias has to be well above it to be seen.
        bias_z: standard normal if there is no bias, large if there is one. The first half of the draws, of the
            estimator and of the reference, gives a direction; it is the mean of the other half's difference along
            it, over its standard error (Kim & Ramdas 2024, which holds for any number of parameters).
        variance: :math:`\sum_j s_j^2`, the trace of the covariance of one draw, in squared lengths.
        variance_error: its standard error.
        snr: signal-to-noise ratio, the mean of :math:`|\bar g_j| / s_j` over the parameters whose gradient varies
            (Rainforth et al. 2018, eq. 3). Noise alone gives :math:`\sqrt{2 / \pi n}`. Infinite where no gradient
            varies, and NaN where moreover all are zero.
        snr_error: its standard error, by the delta method.
        cosine: mean cosine of the angle between one draw and :math:`\bar r`.
        cosine_of_mean: cosine of the angle between :math:`\bar g` and :math:`\bar r`.
        variance_seconds: ``variance`` times the seconds of a gradient: the variance of the average of what can be
            drawn in one second.
        variance_evaluations: ``variance`` times the evaluations of a gradient, of model and guide together.
    """

    num_parameters: int
    norm: float
    reference_norm: float
    bias: float
    bias_error: float
    bias_z: float
    variance: float
    variance_error: float
    snr: float
    snr_error: float
    cosine: float
    cosine_of_mean: float
    variance_seconds: float
    variance_evaluations: float

    @property
    def relative_bias(self) -> float:
        """``bias`` as a share of ``reference_norm``."""
        return self.bias / self.reference_norm if self.reference_norm else math.inf if self.bias else 0.0


@dataclass(frozen=True)
class EstimatorStatistics:
    """One estimator.

    Attributes:
        estimator: what it is.
        seconds: for one gradient, as measured, on average over the draws.
        evaluations: of the model and of the guide, for one gradient and one datum.
        mode: how it ran: ``"inductor"``, ``"traced"`` or ``"eager"``.
        groups: the statistics by group of parameters.
    """

    estimator: str
    seconds: float
    evaluations: tuple[int, int]
    mode: str
    groups: dict[str, GroupStatistics]


@dataclass(frozen=True, repr=False)
class GradientStatistics:
    """What :func:`gradient_statistics` gives: ``result["IWAE(5)"].groups["q(z)"].variance``; printed, it is a table.

    Attributes:
        estimators: the statistics by the estimator's name.
        parameters: the names of the parameters of each group.
        reference: the name of the estimator whose mean is the reference.
        num_draws: gradients of each estimator, n.
        num_reference_draws: gradients of the reference, R.
        batch_size: number of data of the batch.
    """

    estimators: dict[str, EstimatorStatistics]
    parameters: dict[str, tuple[str, ...]]
    reference: str
    num_draws: int
    num_reference_draws: int
    batch_size: int

    def __getitem__(self, name: str) -> EstimatorStatistics:
        try:
            return self.estimators[name]
        except KeyError:
            raise KeyError(f"no estimator is called {name!r}; there are {', '.join(self.estimators)}") from None

    def as_rows(self) -> list[dict[str, Any]]:
        """A flat dictionary for each estimator and group, for JSON (``None`` for what is not finite) and for plots."""
        rows = []
        for name, found in self.estimators.items():
            model, guide = found.evaluations
            cost = {"seconds": found.seconds, "model_evaluations": model, "guide_evaluations": guide}
            for group, statistics in found.groups.items():
                numbers = {key: value if math.isfinite(value) else None for key, value in asdict(statistics).items()}
                rows.append({"estimator": name, "group": group, **cost, **numbers})
        return rows

    def __repr__(self) -> str:
        return _table(self)


_NAME = 30  # characters of an estimator's name in the table


def _table(result: GradientStatistics) -> str:
    head = (
        "Gradient of the loss, in nats per datum, "
        f"on a batch of {result.batch_size:,}; {counted(result.num_draws, 'draw')} of each estimator.\n"
        f"bias: distance to the mean of {result.num_reference_draws:,} draws of {result.reference}, "
        "± what chance alone gives; z: standard normal\n"
        "without bias. variance: summed over the parameters. SNR: |mean| / standard deviation, averaged over the\n"
        "parameters. cos: of the angle between a draw and the reference. Last: variance times cost, for equal budgets."
    )
    costs = [["", "ms", "model", "guide", "run"]]
    for name, found in result.estimators.items():
        costs.append([name, f"{1e3 * found.seconds:.3g}", *map(str, found.evaluations), found.mode])
    blocks = [head, "Cost of a gradient: milliseconds, and evaluations for each datum\n" + columns(costs)]
    for names in _distinct(result.parameters):
        rows = [["", "|mean|", "bias", "z", "variance", "SNR", "cos", "var ms", "var eval"]]
        for name, found in result.estimators.items():
            of = found.groups[names[0]]
            share = of.variance_error / of.variance if of.variance else 0.0
            rows.append(
                [
                    name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}",
                    f"{of.norm:.3g}",
                    f"{of.bias:.2g} ±{of.bias_error:.2g}",
                    f"{of.bias_z:.1f}",
                    f"{of.variance:.3g} ±{share:.0%}",
                    f"{of.snr:.3g} ±{of.snr_error:.1g}",
                    f"{of.cosine:.2f}",
                    f"{1e3 * of.variance_seconds:.2g}",
                    f"{of.variance_evaluations:.2g}",
                ]
            )
        count = found.groups[names[0]].num_parameters
        blocks.append(f"{' = '.join(names)}: {counted(count, 'parameter')}\n" + columns(rows))
    return "\n\n".join(blocks)


def _distinct(groups: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Names of groups, those of the same parameters together."""
    same: dict[tuple[str, ...], list[str]] = {}
    for name, parameters in groups.items():
        same.setdefault(parameters, []).append(name)
    return list(same.values())
