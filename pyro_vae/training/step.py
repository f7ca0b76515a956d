"""One training step: the loss of a batch and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae.compiled import Compile, Compiled, Precision, autocast
from pyro_vae.contract import evaluating, programs, tracing_obstacle
from pyro_vae.estimators import Estimator, Objective


@dataclass(frozen=True)
class WeightPrior:
    r"""A normal prior over the weights, so that training gives their maximum a posteriori value.

    The objective per datum becomes

    .. math:: \frac 1 M \sum_i \mathcal L(x_i) + \frac{1}{c} \log \mathcal N(\theta; 0, \mathrm{scale}^2)

    up to a constant. Here c = N, the number of training data, makes it 1/N of log p(theta, X), for any batch size M. It
    is over all trained parameters but those of layers with random weights (:mod:`pyro_vae.bayesian`), which have a
    prior of their own in the model.

    Args:
        scale: standard deviation of every weight.
        count: ``"data"`` for c = N; ``"batch"`` for c = M, which adds the prior once for each mini-batch, so N/M times
            too often, as a published replication of Kingma & Welling (2013) does.

    Raises:
        ValueError: if ``scale`` is not positive or ``count`` is something else.
    """

    scale: float = 1.0
    count: Literal["data", "batch"] = "data"

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"the scale of a weight prior has to be positive; got {self.scale}.")
        if self.count not in ("data", "batch"):
            raise ValueError(f"count of a weight prior is 'data' or 'batch'; got {self.count!r}.")

    def loss(self, parameters: Sequence[Tensor], num_data: int, batch_size: int) -> Tensor:
        """Minus the log-prior's share of one datum, without its constant."""
        square = torch.stack([(parameter**2).sum() for parameter in parameters]).sum()
        return square / (2 * self.scale**2) / (num_data if self.count == "data" else batch_size)


class _Loss(nn.Module):
    """The pair under the estimator, as a module of tensors in and tensors out."""

    def __init__(
        self,
        pair: nn.Module,
        estimator: Estimator,
        weight_prior: WeightPrior | None,
        num_data: int,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.pair = pair
        self.estimator = estimator
        self.weight_prior = weight_prior
        self.num_data = num_data
        self.precision = precision
        self.programs = programs(pair)
        self.names: list[tuple[str, str]] = []  # of the terms, which come out as a flat list
        self.num_prepared = 0  # tensors behind those of the batch

    def forward(self, beta: Tensor, *inputs: Tensor) -> list[Tensor]:
        split = len(inputs) - self.num_prepared
        batch, prepared = inputs[:split], inputs[split:]
        before, self.estimator.beta = self.estimator.beta, beta
        try:
            with autocast(self.precision, batch[0].device):
                loss, bound, terms = self.estimator.objective(*self.programs, *batch, prepared=prepared)
        finally:
            self.estimator.beta = before
        if self.weight_prior is not None:
            trained = _point_weights(self.pair)
            loss = loss + self.weight_prior.loss(trained, self.num_data, len(batch[0]))
        self.names = [(site, kind) for site, kinds in terms.items() for kind in kinds]
        return [loss, bound, *(value for kinds in terms.values() for value in kinds.values())]


def _point_weights(pair: nn.Module) -> list[Tensor]:
    """The trained parameters but for those of layers with random weights, whose prior is a part of the model."""
    layers = [module for module in pair.modules() if getattr(module, "random_weights", False)]
    random = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [value for value in pair.parameters() if value.requires_grad and id(value) not in random]


class _Function(nn.Module):
    """A function that runs the programs of a pair, with the pair's parameters as its own."""

    def __init__(self, pair: nn.Module, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.pair = pair
        self.function = function

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return list(self.function(*inputs))


class Step:
    """Computes the loss per datum of a batch, its terms by site, and the gradients.

    Calling it with a batch and beta sets ``.grad`` of every trained parameter and returns the
    :class:`~pyro_vae.estimators.Objective`, in nats per datum, whose loss is NaN where a gradient is not finite.

    Args:
        pair: the pair; its parameters have to be there already (run :func:`pyro_vae.check` first).
        estimator: the objective.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        precision: ``"bfloat16"`` runs the matrix products in bfloat16.
        weight_prior: a prior over the weights, or ``None`` for maximum likelihood.
        num_data: number of training data N, for ``weight_prior``.
    """

    def __init__(
        self,
        pair: nn.Module,
        estimator: Estimator,
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        weight_prior: WeightPrior | None = None,
        num_data: int = 1,
    ) -> None:
        self._loss = _Loss(pair, estimator, weight_prior, num_data, precision)
        self._compile: Compile = compile
        self._compiled = Compiled(self._loss, compile=compile, gradients=True, obstacle=tracing_obstacle(pair))
        self._functions: dict[Any, Compiled] = {}

    @property
    def mode(self) -> str:
        """How steps run: ``"inductor"``, ``"traced"`` or ``"eager"``."""
        return self._compiled.mode

    def prepare(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the estimator draws before the updates of a batch (:meth:`Estimator.prepare`), in evaluation mode."""
        if type(self._loss.estimator).prepare is Estimator.prepare:
            return ()
        with evaluating(self._loss.pair):
            return self._loss.estimator.prepare(*self._loss.programs, *batch, compiled=self._fast)

    def _fast(self, function: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        """``function``, which runs the pair's programs, as a graph."""
        if function not in self._functions:
            module = _Function(self._loss.pair, function)
            obstacle = tracing_obstacle(self._loss.pair)
            self._functions[function] = Compiled(module, compile=self._compile, obstacle=obstacle)
        return lambda *inputs: self._functions[function](*inputs)[0]

    def __call__(self, batch: Sequence[Tensor], beta: Tensor, prepared: tuple[Tensor, ...] = ()) -> Objective:
        self._loss.num_prepared = len(prepared)
        (loss, bound, *values), gradients = self._compiled(beta, *batch, *prepared)
        trained = iter(gradients)
        for parameter in self._loss.parameters():
            parameter.grad = next(trained) if parameter.requires_grad else None
        terms: dict[str, dict[str, Tensor]] = {}
        for (site, kind), value in zip(self._loss.names, values, strict=True):
            terms.setdefault(site, {})[kind] = value
        return Objective(loss, bound, terms)
