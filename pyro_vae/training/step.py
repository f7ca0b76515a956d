"""One training step: the loss of a batch and its gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_vae.compiled import Compile, Compiled, Precision, autocast
from pyro_vae.estimators import Estimator, Objective
from pyro_vae.pair import evaluating, programs, tracing_obstacle


class WeightPenalty(ABC):
    """What the weights of a pair add to the loss per datum; ``fit(weight_prior=...)`` takes it.

    It is over all trained parameters, or some of them, but those of layers with random weights
    (:mod:`pyro_vae.bayesian`), which have a prior of their own in the model.
    """

    @abstractmethod
    def loss(self, pair: nn.Module, num_data: int, batch_size: int) -> Tensor:
        """Differentiable, in nats per datum.

        Args:
            pair: whose weights.
            num_data: the number of training data N.
            batch_size: data in the mini-batch, M.
        """

    @property
    def needs_num_data(self) -> bool:
        """Whether :meth:`loss` depends on the number of data, which a stream may not know."""
        return False


@dataclass(frozen=True)
class WeightPrior(WeightPenalty):
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

    def loss(self, pair: nn.Module, num_data: int, batch_size: int) -> Tensor:
        """Minus the log-prior's share of one datum, without its constant."""
        random = _random_weights(pair)
        trained = [value for value in pair.parameters() if value.requires_grad and id(value) not in random]
        square = torch.stack([(value**2).sum() for value in trained]).sum()
        return square / (2 * self.scale**2) / (num_data if self.count == "data" else batch_size)

    @property
    def needs_num_data(self) -> bool:
        return self.count == "data"


@dataclass(frozen=True)
class SpectralPrior(WeightPenalty):
    r"""Spectral regularization: a penalty on the largest singular value of each layer.

    The objective per datum becomes

    .. math:: \frac 1 M \sum_i \mathcal L(x_i) - \mathrm{strength} \, \Big(\sum_l s_l + \sum_b \max_c |g_{bc}|\Big)

    where :math:`s_l` is the largest singular value of the weights of layer l as a matrix [out, in k k], for all
    ``nn.Linear``, convolutions and transposed convolutions, and :math:`g_b` are the gains of batch norm b. It bounds
    how far each layer can carry a change of its input, and so the KL between posterior and prior.

    The penalty stands beside the loss per datum and is not divided by the number of data N, as in the paper, whose
    strength is 1e-2 to 1e-1. As a prior it is :math:`\log p(\theta) = -N \, \mathrm{strength} \, (\dots)`.

    A convolution with groups is the matrix [out, in / groups k k] (of a depthwise one [out, k k]); a parametrized layer
    (weight norm) counts with its effective weights, a masked one with those that its ``mask`` leaves. The singular
    value is found by power iteration anew in each step, from the row with the greatest norm. So :math:`s_l` is never
    above the singular value, and near it where that stands out among the others; its gradient is :math:`u v^\top` of
    the directions that were found.

    Args:
        strength: :math:`\lambda`, in nats per datum for a singular value of 1.
        num_iterations: of the power iteration.
        batch_norm: whether the gains of batch norms are in it.

    Raises:
        ValueError: if ``strength`` is negative or not finite, or ``num_iterations`` is below 1; from :meth:`loss`, if
            the pair has no such layer.

    Source: Vahdat & Kautz (2020), section 3.2 and appendix A; Yoshida & Miyato (2017).
    """

    strength: float = 1e-2
    num_iterations: int = 8
    batch_norm: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf"):
            raise ValueError(
                f"the strength of a spectral prior is finite and cannot be negative; got {self.strength!r}."
            )
        if not isinstance(self.num_iterations, int) or self.num_iterations < 1:
            raise ValueError(f"num_iterations has to be a whole number of at least 1; got {self.num_iterations!r}.")

    def loss(self, pair: nn.Module, num_data: int, batch_size: int) -> Tensor:
        """strength times the sum of the norms, in nats per datum whatever N and M are."""
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in _matrices(pair):
            by_shape.setdefault(matrix.shape, []).append(matrix)
        norms = [spectral_norm(torch.stack(matrices), self.num_iterations).sum() for matrices in by_shape.values()]
        if not norms:
            raise ValueError(
                "a spectral prior is over linear layers and convolutions, of which this pair trains none. Leave it "
                "out, or use WeightPrior, which is over all weights."
            )
        if self.batch_norm:
            norms += [gain.abs().max() for gain in _gains(pair)]
        return self.strength * torch.stack(norms).sum()


def spectral_norm(matrices: Tensor, num_iterations: int) -> Tensor:
    """``[L]``: the largest singular value of each of ``[L, m, n]``, from below, by power iteration.

    The start is the row with the greatest norm. The gradient is that of u' W v at fixed u and v.
    """
    fixed = matrices.detach()
    fixed = fixed / fixed.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(fixed.dtype).tiny)
    longest = fixed.square().sum(-1).argmax(-1)
    right = fixed.gather(1, longest[:, None, None].expand(-1, 1, fixed.shape[2])).mT  # [L, n, 1]
    left = fixed @ normalize(right, dim=1)
    for _ in range(num_iterations):
        right = normalize(fixed.mT @ normalize(left, dim=1), dim=1)
        left = fixed @ right
    return (normalize(left, dim=1) * (matrices @ right)).sum((1, 2))


def _random_weights(pair: nn.Module) -> set[int]:
    """The ids of the parameters of layers with random weights, whose prior is a part of the model."""
    layers = [module for module in pair.modules() if getattr(module, "random_weights", False)]
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def _trained(pair: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    """The layers of these classes with weights that are trained and not random."""
    random = _random_weights(pair)
    for layer in pair.modules():
        if isinstance(layer, kinds) and any(p.requires_grad and id(p) not in random for p in layer.parameters()):
            yield layer


def _matrices(pair: nn.Module) -> Iterator[Tensor]:
    """``[out, in k k]`` of each layer."""
    for layer in _trained(pair, (nn.Linear, nn.modules.conv._ConvNd)):
        weight, mask = layer.weight, getattr(layer, "mask", None)
        assert isinstance(weight, Tensor)
        if isinstance(mask, Tensor):
            weight = weight * mask
        if getattr(layer, "transposed", False):  # [in, out / groups, k, k]
            weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        yield weight.flatten(1)


def _gains(pair: nn.Module) -> Iterator[Tensor]:
    """``[C]`` of each batch norm that has gains."""
    for layer in _trained(pair, (nn.modules.batchnorm._BatchNorm,)):
        if isinstance(layer.weight, Tensor):
            yield layer.weight


class _Loss(nn.Module):
    """The pair under the estimator, as a module of tensors in and tensors out."""

    def __init__(
        self,
        pair: nn.Module,
        estimator: Estimator,
        weight_prior: WeightPenalty | None,
        num_data: int | None,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.pair = pair
        self.estimator = estimator
        self.weight_prior = weight_prior
        self.num_data = num_data or 1
        self.shared_by = num_data if estimator.num_data is None else None
        self.precision = precision
        self.programs = programs(pair)
        self.names: list[tuple[str, str]] = []  # of the terms, which come out as a flat list
        self.num_prepared = 0  # tensors behind those of the batch

    def forward(self, beta: Tensor, *inputs: Tensor) -> list[Tensor]:
        split = len(inputs) - self.num_prepared
        batch, prepared = inputs[:split], inputs[split:]
        with autocast(self.precision, batch[0].device):
            loss, bound, terms = self.estimator.objective(
                *self.programs, *batch, prepared=prepared, at=moved(self.estimator, beta), num_data=self.shared_by
            )
        if self.weight_prior is not None:
            loss = loss + self.weight_prior.loss(self.pair, self.num_data, len(batch[0]))
        self.names = [(site, kind) for site, kinds in terms.items() for kind in kinds]
        return [loss, bound, *(value for kinds in terms.values() for value in kinds.values())]


def moved(estimator: Estimator, beta: Any) -> dict[str, Any]:
    """The number that ``beta`` moves, by its name."""
    name = "beta" if "beta" in estimator.scheduled else next(iter(estimator.scheduled), None)
    return {} if name is None else {name: beta}


class _Function(nn.Module):
    """A function that runs the programs of a pair, with the pair's parameters as its own."""

    def __init__(self, pair: nn.Module, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.pair = pair
        self.function = function

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return list(self.function(*inputs))


class TrainingStep:
    """Computes the loss per datum of a batch, its terms by site, and the gradients.

    Calling it with a batch and beta sets ``.grad`` of every trained parameter and returns the
    :class:`~pyro_vae.estimators.Objective`, in nats per datum, whose loss is NaN where a gradient is not finite.

    Args:
        pair: the pair; its parameters have to be there already (run :func:`pyro_vae.check` first).
        estimator: the objective.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        precision: ``"bfloat16"`` runs the matrix products in bfloat16.
        weight_prior: a prior over the weights (:class:`WeightPrior`, :class:`SpectralPrior`), or ``None`` for
            maximum likelihood.
        num_data: number of training data N, for ``weight_prior``.
    """

    def __init__(
        self,
        pair: nn.Module,
        estimator: Estimator,
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        weight_prior: WeightPenalty | None = None,
        num_data: int | None = None,
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
