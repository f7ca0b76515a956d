"""Priors over the weights of a pair: maximum a posteriori in place of maximum likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyro_vae._checks import number, one_of, whole
from pyro_vae._torch import BatchNorm, Convolution
from pyro_vae.pair.protocols import HasRandomWeights

Count = Literal["data", "batch"]


class WeightPenalty(ABC):
    """What the weights of a pair add to the loss per datum; ``fit(weight_prior=...)`` takes it.

    It leaves out layers with random weights (:mod:`pyro_vae.bayesian`), which have a prior of their own in the model.
    """

    @abstractmethod
    def loss(self, pair: nn.Module, num_data: int, batch_size: int) -> Tensor:
        """Differentiable, in nats per datum, for N training data and M in the mini-batch."""

    @property
    def needs_num_data(self) -> bool:
        """Whether :meth:`loss` depends on the number of data, which a stream may not know."""
        return False


@dataclass(frozen=True)
class WeightPrior(WeightPenalty):
    r"""A normal prior over the weights, so that training gives their maximum a posteriori value.

    The objective per datum becomes

    .. math:: \frac 1 M \sum_i \mathcal L(x_i) + \frac{1}{c} \log \mathcal N(\theta; 0, \mathrm{scale}^2)

    up to a constant. Here c = N, the number of training data, makes it 1/N of log p(theta, X), for any batch size M.

    Args:
        scale: standard deviation of every weight.
        count: ``"data"`` for c = N; ``"batch"`` for c = M, which adds the prior once for each mini-batch, so N/M times
            too often, as a published replication of Kingma & Welling (2013) does.

    Raises:
        ValueError: if ``scale`` is not positive or ``count`` is something else.
    """

    scale: float = 1.0
    count: Count = "data"

    def __post_init__(self) -> None:
        number(above=0, scale=self.scale)
        one_of(get_args(Count), count=self.count)

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

    A convolution with groups is the matrix [out, in / groups k k]; a parametrized layer (weight norm) counts with its
    effective weights, a masked one with those that its ``mask`` leaves. The singular value is found by power iteration
    anew in each step, from the row with the greatest norm. So :math:`s_l` is never above the singular value, and near
    it where that stands out among the others; its gradient is :math:`u v^\top` of the directions that were found.

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
        number(0, strength=self.strength)
        whole(1, num_iterations=self.num_iterations)

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
            gains = (layer.weight for layer in _trained(pair, BatchNorm) if layer.weight is not None)  # [C]
            norms += [gain.abs().max() for gain in gains]
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
    layers = [part for part in pair.modules() if isinstance(part, HasRandomWeights) and part.random_weights]
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def _trained(pair: nn.Module, *kinds: type[nn.Module]) -> Iterator[Any]:
    """The layers of these classes with weights that are trained and not random."""
    random = _random_weights(pair)
    for layer in pair.modules():
        if isinstance(layer, kinds) and any(p.requires_grad and id(p) not in random for p in layer.parameters()):
            yield layer


def _matrices(pair: nn.Module) -> Iterator[Tensor]:
    """``[out, in k k]`` of each layer."""
    for layer in _trained(pair, nn.Linear, Convolution):
        weight, mask = layer.weight, dict(layer.named_buffers(recurse=False)).get("mask")
        if mask is not None:
            weight = weight * mask
        if isinstance(layer, Convolution) and layer.transposed:  # [in, out / groups, k, k]
            weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
        yield weight.flatten(1)
