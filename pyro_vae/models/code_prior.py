"""The second stage of a VQ-VAE: an autoregressive prior over its codes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae._checks import checked, number
from pyro_vae.hierarchy import TopDownVAE
from pyro_vae.models.code_book import CODES, CodeLevel, CodesVAE, RelayedLevel
from pyro_vae.models.parts import bottleneck
from pyro_vae.networks import at_least_float32, shape_of
from pyro_vae.networks.masked import Mask, MaskedConv2d
from pyro_vae.pair.protocols import TrainedPair


class AutoregressiveCodes(TorchDistribution):
    r"""Maps of codes, one position after the other in raster order.

    .. math:: p(z \mid h) = \prod_{i = 1}^{hw} \mathrm{Categorical}(z_i; \mathrm{network}(z_{<i}, h))

    The score of given codes takes one pass of the network, a draw hw passes.

    Args:
        network: with ``network.features(context)`` and ``network(z, features)``, such as :class:`PixelCNN`.
        event_shape: ``(h, w, K)``.
        context: h, ``[*, C, h, w]``, or ``None``.
    """

    arg_constraints: ClassVar = {}
    support = CODES

    def __init__(self, network: PixelCNN, event_shape: Sequence[int], context: Tensor | None = None) -> None:
        self.network = network
        self.features = network.features(context)
        leading = torch.Size() if context is None else context.shape[:-3]
        super().__init__(leading, torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> AutoregressiveCodes:
        new = type(self).__new__(type(self))
        new.network, new.features = self.network, self.features
        super(AutoregressiveCodes, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def logits(self, z: Tensor) -> Tensor:
        """``[*, h, w, K]``: of each position given those before it, up to a constant."""
        return self.network(z, self.features)

    def log_prob(self, value: Tensor) -> Tensor:
        score = (value.detach() * self.logits(value.detach()).log_softmax(-1)).sum((-3, -2, -1))
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        height, width, _ = self.event_shape
        with torch.no_grad():
            z = self.network.output.weight.new_zeros(*sample_shape, *self.batch_shape, *self.event_shape)
            for row in range(height):
                features = None if self.features is None else self.features[..., : row + 1, :]
                for column in range(width):  # the rows below have no part in it
                    logits = self.network(z[..., : row + 1, :, :], features)[..., row, column, :]
                    z[..., row, column, :] = dist.OneHotCategorical(logits=logits, validate_args=False).sample()
        return z


class PixelCNN(nn.Module):
    r"""A gated PixelCNN of one-hot maps: ``z: [*, h, w, K]`` to the logits of each position given those before it.

    Two stacks of convolutions, one of the rows above and one of the row to the left, see all positions before, without
    a blind spot; a layer is :math:`\tanh(W_1 * h + V_1 c) \, \sigma(W_2 * h + V_2 c)`, c the features of the context.

    Args:
        num_codes: K.
        context_channels: C of the context ``[*, C, h, w]``; 0 for none.
        channels: of each layer.
        num_layers: gated layers; each sees ``kernel_size // 2`` positions further.
        kernel_size: odd.
        dropout: probability with which a unit of a layer is dropped in training.

    Raises:
        ValueError: if a size is below 1, or the kernel size is even.

    Source: van den Oord et al. (2016), Conditional Image Generation with PixelCNN Decoders, section 2.
    """

    def __init__(
        self,
        num_codes: int,
        context_channels: int = 0,
        channels: int = 64,
        num_layers: int = 5,
        kernel_size: int = 3,
        dropout: float = 0.0,
    ) -> None:
        number(0, below=1, dropout=dropout)
        super().__init__()
        sizes = (num_codes, channels, num_layers, kernel_size)
        shape_of("num_codes, channels, num_layers and kernel_size of a PixelCNN", sizes)
        self.embedding = nn.Conv2d(num_codes, channels, 1, bias=False)
        self.layers = nn.ModuleList(
            _GatedLayer(channels, kernel_size, "B" if index else "A", dropout) for index in range(num_layers)
        )
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, num_codes, 1)
        self.reading = (
            nn.Sequential(
                nn.Conv2d(context_channels, channels, 3, padding=1),
                bottleneck(channels, channels, nn.ReLU),
                bottleneck(channels, channels, nn.ReLU),
            )
            if context_channels
            else None
        )

    def features(self, context: Tensor | None) -> Tensor | None:
        """What the layers see of the context, ``[*, C, h, w] -> [*, channels, h, w]``."""
        if self.reading is None or context is None:
            return None
        features = self.reading(context.reshape(-1, *context.shape[-3:]))
        return features.reshape(*context.shape[:-3], *features.shape[1:])

    def forward(self, z: Tensor, features: Tensor | None = None) -> Tensor:
        if features is not None:
            leading = torch.broadcast_shapes(z.shape[:-3], features.shape[:-3])
            z = z.expand(*leading, *z.shape[-3:])
            features = features.expand(*leading, *features.shape[-3:]).reshape(-1, *features.shape[-3:])
        v = h = self.embedding(z.reshape(-1, *z.shape[-3:]).movedim(-1, -3))
        for layer in self.layers:
            v, h = layer(v, h, features)
        logits = self.output(self.hidden(h.relu()).relu())
        return at_least_float32(logits.movedim(-3, -1).reshape(z.shape))


class _GatedLayer(nn.Module):
    """A layer of a gated PixelCNN: of the rows above, ``v``, and of the row up to the position, ``h``."""

    def __init__(self, channels: int, kernel_size: int, mask: Mask, dropout: float) -> None:
        super().__init__()
        half = kernel_size // 2
        self.vertical = nn.Conv2d(channels, 2 * channels, (half + 1, kernel_size), padding=(half, half))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.horizontal = MaskedConv2d(channels, 2 * channels, (1, kernel_size), mask)
        self.context = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels, channels, 1))
        self.is_first = mask == "A"

    def forward(self, v: Tensor, h: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        below = self.vertical(v)[..., : v.shape[-2], :]  # at a row, of that row and those above it
        above = F.pad(below, (0, 0, 1, 0))[..., :-1, :]
        across = self.horizontal(h) + self.across(above)
        if features is not None:
            across = across + self.context(features)
        out = self.out(_gate(across))
        return _gate(below), out if self.is_first else h + out  # h itself is the position's own code at first


def _gate(stacked: Tensor) -> Tensor:
    value, gate = stacked.chunk(2, -3)
    return value.tanh() * gate.sigmoid()


class CodePrior(CodesVAE):
    r"""The second stage: autoregressive priors over the codes of a trained VQVAE, which stays as it is.

    .. math::
        z_2 \sim \mathrm{PixelCNN}_2, \quad z_1 \sim \mathrm{PixelCNN}_1(h_1), \quad
        x \sim p(x \mid z_1 C_1, h_1), \quad h_1 = \mathrm{up}(z_2 C_2)

    with the guide, code books and networks of the first stage. ``fit(CodePrior(vq_vae), data)`` trains the PixelCNNs
    by the same bound, :math:`\log p(x \mid z^*) + \log p(z^*)`, of which only the second term has a gradient. The first
    stage is copied, takes no gradient, and is in evaluation mode also in training.

    Args:
        first: the first stage, a :class:`~pyro_vae.models.VQVAE`, or a pair of one's own with levels of codes
            (:class:`~pyro_vae.models.code_book.CodeLevel`) alone; on the command line, the folder of its run.
        channels: of the PixelCNNs' layers.
        num_layers: of each PixelCNN.
        kernel_size: of their convolutions, odd.
        dropout: in their layers.

    Raises:
        TypeError: if ``first`` is something else.
        ValueError: as :class:`PixelCNN`.

    Source: Razavi et al. (2019), section 3.2, with gated PixelCNNs (van den Oord et al. 2016) on both levels.

    >>> from pyro_vae.models import VQVAE
    >>> first = VQVAE((1, 28, 28), num_codes=64, code_dim=16)  # which fit(first, data) trains beforehand
    >>> CodePrior(first, channels=8, num_layers=2).model().shape
    torch.Size([1, 1, 28, 28])
    """

    @checked
    def __init__(
        self, first: TrainedPair, channels: int = 64, num_layers: int = 5, kernel_size: int = 3, dropout: float = 0.0
    ) -> None:
        if not isinstance(first, TopDownVAE) or not all(isinstance(level, CodeLevel) for level in first.levels):
            raise TypeError(f"a CodePrior is a prior over the codes of a VQVAE; got {type(first).__name__}.")
        first = copy.deepcopy(first).requires_grad_(False).eval()
        coded: Any = first.levels
        levels = []
        for index, level in enumerate(coded, 1):
            context = 0 if index == len(coded) else level.book.code_dim
            network = PixelCNN(level.book.num_codes, context, channels, num_layers, kernel_size, dropout)
            levels.append(_PriorLevel(level, network))
        super().__init__(first.bottom_up, levels, first.likelihood)
        self.train()

    def check_batch(self, x: Tensor) -> None:
        """Whether there is a prior to be trained.

        Raises:
            ValueError: if the first stage has not been trained.
        """
        levels: Any = self.levels
        if not all(level.level.book.usage.any() for level in levels):
            raise ValueError(
                "the first stage of this CodePrior has not been trained: no data have been met with its codes. "
                "Train the VQVAE by fit, and make the CodePrior of that."
            )

    def train(self, mode: bool = True) -> CodePrior:
        """Training mode of the PixelCNNs; the first stage stays in evaluation mode."""
        super().train(mode)
        fixed: Any = (self.bottom_up, self.likelihood)
        for part in fixed:
            part.eval()
        self.levels.training = False  # the list alone: in training Pyro warns of what in it takes no gradient
        return self


class _PriorLevel(RelayedLevel):
    """A level of the first stage, fixed, with an autoregressive prior."""

    def __init__(self, level: CodeLevel, network: PixelCNN) -> None:
        super().__init__(level)
        self.network = network

    def train(self, mode: bool = True) -> _PriorLevel:
        super().train(mode)
        self.level.eval()
        return self

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return AutoregressiveCodes(self.network, self.level.event_shape, h)
