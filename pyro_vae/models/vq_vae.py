"""Vector-quantized autoencoders as pairs, and the second stage: an autoregressive prior over their codes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints, register_kl
from torch.nn import functional as F

from pyro_vae.hierarchy import BottomUpEncoder, LatentLayer, TopDownVAE, concat
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import decoding, image_shape
from pyro_vae.networks import Convolutional, Residual, at_least_float32, shape_of
from pyro_vae.networks.masked import Mask, MaskedConv2d
from pyro_vae.pair.protocols import TrainedPair

_ONE_HOT = constraints.independent(constraints.one_hot, 2)


class Codes(TorchDistribution):
    """All mass at one map of codes. A point of a discrete set has the probability 1: log q = 0 there.

    Args:
        value: one-hot ``[*, h, w, K]``; a draw is this tensor, with its gradient.
    """

    arg_constraints: ClassVar = {}
    support = _ONE_HOT
    has_rsample = True

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__(value.shape[:-3], value.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.value

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Codes:
        return Codes(self.value.expand(*batch_shape, *self.event_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.value.expand(*sample_shape, *self.value.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        equal = (value == self.value).flatten(-3).all(-1)
        return torch.where(equal, 0.0, -math.inf).to(self.value.dtype)


@register_kl(Codes, dist.Distribution)
def _kl_codes(q: Codes, p: Any) -> Tensor:
    return -p.log_prob(q.value)


class CodeBook(nn.Module):
    r"""Codes :math:`c_1, \dots, c_K` in :math:`\mathbb R^D`, the moving means of what is assigned to them.

    In training mode each call of :meth:`nearest` moves them: with n_k the share of the batch that is nearest to code k,
    and s_k the sum of its encoder outputs over the size of the batch,

    .. math::
        N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad S_k \leftarrow \gamma S_k + (1 - \gamma) s_k, \quad
        c_k = S_k / N_k

    with a little added to all N_k (Laplace); a code that has never been the nearest stays. Before that, a code whose
    usage N_k is below ``revival / K`` is put at the encoder output of a random place of the batch, with the usage
    1 / K. No code has been used before the first batch, so that they all start there. A batch of fewer than K codes
    revives none.

    Args:
        num_codes: K.
        code_dim: D, at most K.
        decay: :math:`\gamma`.
        revival: share of the mean usage below which a code counts as dead; 0 revives none.

    Attributes:
        codes: ``[K, D]``.
        usage: N, ``[K]``.

    Raises:
        ValueError: if D is above K, a size is below 1, or a number is out of its range.

    Source: van den Oord et al. (2017), appendix A.1; Razavi et al. (2019), section 3.1; revival: Dhariwal et al.
    (2020), Jukebox, section 3.1.
    """

    codes: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(self, num_codes: int, code_dim: int, decay: float = 0.99, revival: float = 0.05) -> None:
        super().__init__()
        shape_of("num_codes and code_dim", (num_codes, code_dim))
        if code_dim > num_codes:
            raise ValueError(
                f"num_codes={num_codes} one-hot vectors carry the gradient of at most {num_codes} numbers to the "
                f"encoder, but code_dim={code_dim}. Take at least as many codes as dimensions."
            )
        if not 0 < decay < 1 or not 0 <= revival < 1:
            raise ValueError(f"decay is in (0, 1) and revival in [0, 1); got decay={decay}, revival={revival}.")
        self.num_codes, self.code_dim, self.decay, self.revival = num_codes, code_dim, decay, revival
        self.register_buffer("codes", torch.randn(num_codes, code_dim))
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.code_dim}, decay={self.decay}, revival={self.revival}"

    def forward(self, z: Tensor) -> Tensor:
        """The codes of one-hot maps, ``[*, h, w, K] -> [*, D, h, w]``; linear in z."""
        # A copy, since the code book is written in place while a step may still have its backward pass before it.
        with torch.autocast(z.device.type, enabled=False):
            return _Laid.apply((z @ self.codes.clone()).movedim(-1, -3))

    def nearest(self, e: Tensor) -> Tensor:
        r"""The nearest code of each position, one-hot, ``[*, D, h, w] -> [*, h, w, K]``, the gradient straight through.

        .. math:: z = \mathrm{onehot}(\arg\min_k |e - c_k|^2) + (e - \mathrm{sg}(e)) M, \quad M = (C^T C)^{-1} C^T

        so that z C has the value of the nearest code and, since M C = I, the gradient of e. Where the codes span fewer
        than D dimensions, it is the part of the gradient in their span.

        Source: van den Oord et al. (2017), section 3.2.
        """
        rows = _rows(e)
        flat = rows.reshape(-1, self.code_dim)
        with torch.autocast(e.device.type, enabled=False):
            with torch.no_grad():
                if self.training and self.revival and len(flat) >= self.num_codes:
                    self._revive(flat)
                nearest = self._distances(flat).argmin(-1, keepdim=True)
                z = (nearest == torch.arange(self.num_codes, device=e.device)).to(flat.dtype)
                if self.training:
                    self._follow(flat, z)
            if flat.requires_grad:
                z = z + (flat - flat.detach()) @ self._inverse()
        return z.reshape(*rows.shape[:-1], self.num_codes)

    def distances(self, e: Tensor) -> Tensor:
        """|e - c_k|^2, up to what is the same for all k, ``[*, D, h, w] -> [*, h, w, K]``."""
        with torch.autocast(e.device.type, enabled=False):
            return self._distances(_rows(e))

    @property
    def perplexity(self) -> Tensor:
        """exp of the entropy of the moving usage: between 1 and K, NaN before the first batch."""
        return torch.special.entr(self.usage / self.usage.sum()).sum().exp()

    def _distances(self, e: Tensor) -> Tensor:
        codes = self.codes.clone()
        return codes.square().sum(-1) - 2 * e @ codes.T

    def _inverse(self) -> Tensor:
        """M, ``[D, K]``."""
        with torch.no_grad():
            codes = self.codes.double()
            gram = codes.T @ codes
            ridge = 1e-12 * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
            gram = gram + ridge * torch.eye(self.code_dim, dtype=gram.dtype, device=gram.device)
            return torch.linalg.solve_ex(gram, codes.T)[0].to(self.codes.dtype)

    def _revive(self, e: Tensor) -> None:
        uniform = 1 / self.num_codes
        dead = self.usage < self.revival * uniform
        start = e[torch.randperm(len(e), device=e.device)[: self.num_codes]]
        self.usage.copy_(torch.where(dead, uniform, self.usage))
        self.codes.copy_(torch.where(dead[:, None], start, self.codes))
        self.sums.copy_(torch.where(dead[:, None], start * uniform, self.sums))

    def _follow(self, e: Tensor, z: Tensor) -> None:
        self.usage.copy_(torch.lerp(z.mean(0), self.usage, self.decay))
        self.sums.copy_(torch.lerp(z.T @ e / len(e), self.sums, self.decay))
        total = self.usage.sum()
        smoothed = (self.usage + _SMOOTHING / self.num_codes) / (total + _SMOOTHING) * total
        self.codes.copy_(torch.where(self.usage[:, None] > 0, self.sums / smoothed[:, None], self.codes))


_SMOOTHING = 1e-5


def _rows(e: Tensor) -> Tensor:
    """``[*, D, h, w] -> [*, h, w, D]``, in float32 or better."""
    return _Laid.apply(at_least_float32(e).movedim(-3, -1))


class _Laid(torch.autograd.Function):
    """A copy in the usual layout, forwards and backwards.

    What a convolution gives is laid out otherwise when it is traced than when it is run, so that a traced reshape of
    its dimensions in another order may not be possible in the run.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone(memory_format=torch.contiguous_format)


class CodeLevel(LatentLayer):
    r"""One map of codes: uniform a priori, the nearest codes of a network of x and of the codes above a posteriori.

    .. math:: p(z_l \mid h_l) = K^{-hw}, \qquad q(z_l \mid h_l, x) = \delta(z_l - \mathrm{nearest}(e_l(x, h_l)))

    In training mode the guide has the encoder's commitment beside it, an auxiliary site
    ``commitment<l>`` of :math:`\beta |e_l - \mathrm{sg}(z_l C)|^2`.

    Args:
        name: of the auxiliary site.
        shape: ``(h, w)``.
        book: the codes.
        encoder: of evidence and, below the top, h, stacked by channels, to e: ``[*, D, h, w]``.
        decoder: of the codes and, below the top, h, stacked by channels, to the state of the level below.
        commitment: weight of the commitment.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        book: CodeBook,
        encoder: nn.Module,
        decoder: nn.Module,
        commitment: float,
    ) -> None:
        super().__init__()
        self.name, self.event_shape, self.commitment = name, torch.Size((*shape, book.num_codes)), commitment
        self.book, self.encoder, self.decoder = book, encoder, decoder

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return dist.OneHotCategorical(logits=self.book.codes.new_zeros(self.event_shape)).to_event(2)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        e = self.encoder(concat(evidence, h, -3))
        z = self.book.nearest(e)
        if self.training:
            distance = (at_least_float32(e) - self.book(z.detach())).square().sum((-3, -2, -1))
            pyro.factor(self.name, self.commitment * distance, has_rsample=True)  # of the guide: it lowers the bound
        return Codes(z)

    def distances(self, h: Tensor | None, evidence: Tensor) -> Tensor:
        """|e - c_k|^2 of each position, up to what is the same for all k, ``[*, h, w, K]``."""
        return self.book.distances(self.encoder(concat(evidence, h, -3)))

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.decoder(concat(self.book(z), h, -3))


class _Softened(LatentLayer):
    """A level whose posterior is drawn to near codes, but has all of them."""

    def __init__(self, level: Any, temperature: float) -> None:
        super().__init__()
        self.level, self.temperature = level, temperature

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return self.level.prior(h)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        logits = -self.level.distances(h, evidence) / self.temperature
        return dist.OneHotCategorical(logits=logits).to_event(2)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.level(h, z)


class _CodesVAE(TopDownVAE):
    """What both stages share."""

    def softened(self, temperature: float) -> TopDownVAE:
        r"""The same model with a guide that can draw every code: a pair on the same networks.

        .. math:: q(z_{li} = k \mid x, z_{>l}) \propto \exp(-|e_{li} - c_k|^2 / \mathrm{temperature})

        Importance sampling with the nearest codes gives log p(x, z*), a lower bound of log p(x) that does not rise with
        the number of samples; with this guide it is consistent.

        Args:
            temperature: in the units of squared distances.

        Raises:
            ValueError: if it is not positive and finite.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"the temperature of a softened guide has to be positive and finite; got {temperature}.")
        levels = [_Softened(level, temperature) for level in self.levels]
        softened = TopDownVAE(self.bottom_up, levels, self.likelihood).train(self.training)
        self.train(self.training)  # the parts that a CodePrior keeps in evaluation mode
        return softened


class VQVAE(_CodesVAE):
    r"""Maps of codes: VQ-VAE with one level, VQ-VAE-2 with two (or more).

    With two levels, z2 the coarser one and :math:`C_1, C_2` the code books, [K, D] each,

    .. math::
        z_{2i} \sim \mathrm{Uniform}\{1, \dots, K\}, \quad z_{1i} \sim \mathrm{Uniform}\{1, \dots, K\}, \quad
        x \sim p(x \mid z_1 C_1, h_1), \quad h_1 = \mathrm{up}(z_2 C_2)

    .. math::
        q(z_2 \mid x) = \delta(z_2 - \mathrm{nearest}(e_2(x))), \quad
        q(z_1 \mid x, z_2) = \delta(z_1 - \mathrm{nearest}(e_1(x, h_1)))

    The sites ``z1`` (next to the data), ``z2``, ... are one-hot, ``[*, B, h, w, K]``. The latents are discrete, so that
    a point mass has the probability 1 and the bound is

    .. math:: \mathcal L(x) = \log p(x \mid z^*) + \log p(z^*) = \log p(x, z^*) \le \log p(x)

    with log p(z*) = -(number of positions) log K, until a :class:`CodePrior` is fitted to the codes. In training mode
    the bound also pays for the encoder's commitment, :math:`\beta_c \sum |e - \mathrm{sg}(z^* C)|^2` of each level; an
    estimator's beta weighs it with the latents' terms, of which it is the only one with a gradient. The gradient of
    log p(x | z*) goes straight through to the encoder, the codes are moving means (:class:`CodeBook`): each run of the
    guide in training mode moves them, and the model of the same step sees them moved.

    Train with SGVB_B (the default) or SGVB_A. WakeSleep scores the guide at codes that it would not choose, of
    probability 0, and DReG runs it twice while the codes move: both stop with a loss that is not finite. Samplers of
    continuous latents (annealed importance sampling, HMC, MonteCarloEM) refuse. Importance sampling, and so
    ``pyro-vae evaluate``, gives log p(x, z*) again; for log p(x) see :meth:`softened`.

    Args:
        event_shape: (channels, height, width) of one image.
        num_codes: K, at most the number of codes of a level in one batch: ``fit`` refuses more.
        code_dim: D, at most K.
        strides: of each level, from the data upwards, powers of 2: z1 has 1 / strides[0] of the image's sides, z2
            1 / strides[1] of those of z1. As many levels as strides.
        channels: of the convolutions.
        num_blocks: residual blocks of each encoder and decoder.
        block_channels: of the convolution inside a block.
        activation: class of the non-linearity.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        commitment: :math:`\beta_c`.
        decay, revival: see :class:`CodeBook`.

    Raises:
        ValueError: if the data are no images, the strides do not divide their sides or are no powers of 2, D is above
            K, or a number is out of its range.

    Source: van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning; Razavi, van den Oord &
    Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2.

    >>> pair = VQVAE((1, 28, 28), num_codes=64, code_dim=16)
    >>> pair.guide(torch.rand(3, 1, 28, 28))
    >>> [tuple(level.event_shape) for level in pair.levels]
    [(14, 14, 64), (7, 7, 64)]
    """

    levels: Any

    def __init__(
        self,
        event_shape: Sequence[int],
        num_codes: int = 512,
        code_dim: int = 64,
        strides: Sequence[int] = (2, 2),
        channels: int = 128,
        num_blocks: int = 2,
        block_channels: int = 32,
        activation: type[nn.Module] = nn.ReLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        commitment: float = 0.25,
        decay: float = 0.99,
        revival: float = 0.05,
    ) -> None:
        image = image_shape("a VQVAE", event_shape)
        if not 0 <= commitment < math.inf:
            raise ValueError(f"commitment is a weight: finite and not negative; got {commitment}.")
        shape_of("channels and block_channels", (channels, block_channels))
        strides = _checked_strides(strides, image)

        def blocks() -> list[nn.Module]:
            return [*(_residual(channels, block_channels, activation) for _ in range(num_blocks)), activation()]

        encoders, levels = [], []
        size: Any = image
        for index, stride in enumerate(strides, 1):
            below, size = size, torch.Size((channels, size[-2] // stride, size[-1] // stride))
            encoders.append(Convolutional(below, size, [*_halvings(below[0], channels, stride, activation), *blocks()]))
            top, lowest = index == len(strides), index == 1
            width = code_dim if top else 2 * code_dim  # channels of the codes and of the state from above
            state = torch.Size((width, *size[-2:]))
            seen = size if top else torch.Size((channels + code_dim, *size[-2:]))
            coded = torch.Size((code_dim, *size[-2:]))
            down: nn.Module = nn.Identity()
            if not lowest:
                doublings = _doublings(channels, code_dim, stride, activation)
                layers = [nn.Conv2d(width, channels, 3, padding=1), *blocks(), *doublings]
                down = Convolutional(state, torch.Size((code_dim, *below[-2:])), layers)
            levels.append(
                CodeLevel(
                    f"commitment{index}",
                    (size[-2], size[-1]),
                    CodeBook(num_codes, code_dim, decay, revival),
                    Convolutional(seen, coded, [nn.Conv2d(seen[0], code_dim, 1)]),
                    down,
                    commitment,
                )
            )
            if lowest:
                lowest_state = state

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            out = math.prod(out_shape[:-2])
            layers = [
                nn.Conv2d(lowest_state[0], channels, 3, padding=1),
                *blocks(),
                *_doublings(channels, out, strides[0], activation),
            ]
            return Convolutional(lowest_state, torch.Size(out_shape), layers)

        super().__init__(BottomUpEncoder(encoders), levels, decoding(likelihood, image, decoder))

    def check_batch(self, x: Tensor) -> None:
        """Whether the code books can be trained on batches like ``x: [B, *event]``.

        Raises:
            ValueError: if a level has fewer codes in the batch than its code book.
        """
        for index, level in enumerate(self.levels, 1):
            height, width, num_codes = level.event_shape
            if len(x) * height * width < num_codes:
                raise ValueError(
                    f"a batch of {len(x)} has {len(x) * height * width} codes in z{index} ({height} x {width} each), "
                    f"fewer than the code book, num_codes={num_codes}, which starts at the codes of a batch. Take a "
                    f"batch size of at least {-(-num_codes // (height * width))}, or fewer codes."
                )


def _residual(channels: int, block_channels: int, activation: type[nn.Module]) -> nn.Module:
    return Residual(
        nn.Sequential(
            activation(),
            nn.Conv2d(channels, block_channels, 3, padding=1),
            activation(),
            nn.Conv2d(block_channels, channels, 1),
        )
    )


def _halvings(size_in: int, channels: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Convolutions that divide height and width by ``stride``, and one that keeps them."""
    layers: list[nn.Module] = []
    while stride > 1:
        layers += [nn.Conv2d(size_in, channels, 4, stride=2, padding=1), activation()]
        size_in, stride = channels, stride // 2
    return [*layers, nn.Conv2d(size_in, channels, 3, padding=1)]


def _doublings(channels: int, size_out: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Transposed convolutions that multiply height and width by ``stride``; a convolution where it is 1."""
    if stride == 1:
        return [nn.Conv2d(channels, size_out, 3, padding=1)]
    layers: list[nn.Module] = []
    while stride > 2:
        layers += [nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1), activation()]
        stride //= 2
    return [*layers, nn.ConvTranspose2d(channels, size_out, 4, stride=2, padding=1)]


def _checked_strides(strides: Sequence[int], image: Sequence[int]) -> tuple[int, ...]:
    strides = tuple(shape_of("strides", strides))
    if any(stride & (stride - 1) for stride in strides):
        raise ValueError(f"the strides of the levels are powers of 2, such as (4, 2); got {strides}.")
    whole = math.prod(strides)
    if image[1] % whole or image[2] % whole:
        raise ValueError(
            f"strides={strides} divide the sides of an image by {whole}, which {image[1]} x {image[2]} are not "
            "multiples of. Choose other strides, or pad or crop the images."
        )
    return strides


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
    support = _ONE_HOT

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
        super().__init__()
        shape_of("num_codes, channels and num_layers of a PixelCNN", (num_codes, channels, num_layers))
        self.embedding = nn.Conv2d(num_codes, channels, 1, bias=False)
        self.layers = nn.ModuleList(
            _GatedLayer(channels, kernel_size, "B" if index else "A", dropout) for index in range(num_layers)
        )
        self.hidden = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, num_codes, 1)
        self.reading = (
            nn.Sequential(
                nn.Conv2d(context_channels, channels, 3, padding=1),
                _residual(channels, channels, nn.ReLU),
                _residual(channels, channels, nn.ReLU),
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


class CodePrior(_CodesVAE):
    r"""The second stage: autoregressive priors over the codes of a trained :class:`VQVAE`, which stays as it is.

    .. math::
        z_2 \sim \mathrm{PixelCNN}_2, \quad z_1 \sim \mathrm{PixelCNN}_1(h_1), \quad
        x \sim p(x \mid z_1 C_1, h_1), \quad h_1 = \mathrm{up}(z_2 C_2)

    with the guide, code books and networks of the first stage. ``fit(CodePrior(vq_vae), data)`` trains the PixelCNNs
    by the same bound, :math:`\log p(x \mid z^*) + \log p(z^*)`, of which only the second term has a gradient. The first
    stage is copied, takes no gradient, and is in evaluation mode also in training.

    From the command line, ``--first`` names the run of the first stage::

        pyro-vae train --data mnist --model VQVAE --out runs/codes
        pyro-vae train --data mnist --model CodePrior --first runs/codes

    Args:
        first: the first stage.
        channels: of the PixelCNNs' layers.
        num_layers: of each PixelCNN.
        kernel_size: of their convolutions, odd.
        dropout: in their layers.

    Raises:
        TypeError: if ``first`` is no :class:`VQVAE`.
        ValueError: as :class:`PixelCNN`.

    Source: Razavi et al. (2019), section 3.2, with gated PixelCNNs (van den Oord et al. 2016) on both levels.
    """

    def __init__(
        self, first: TrainedPair, channels: int = 64, num_layers: int = 5, kernel_size: int = 3, dropout: float = 0.0
    ) -> None:
        if not isinstance(first, VQVAE):
            raise TypeError(f"a CodePrior is a prior over the codes of a VQVAE; got {type(first).__name__}.")
        first = copy.deepcopy(first).requires_grad_(False).eval()
        levels = []
        for index, level in enumerate(first.levels, 1):
            context = 0 if index == first.num_levels else level.book.code_dim
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


class _PriorLevel(LatentLayer):
    """A level of the first stage, fixed, with an autoregressive prior."""

    def __init__(self, level: CodeLevel, network: PixelCNN) -> None:
        super().__init__()
        self.level, self.network = level, network

    def train(self, mode: bool = True) -> _PriorLevel:
        super().train(mode)
        self.level.eval()
        return self

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return AutoregressiveCodes(self.network, self.level.event_shape, h)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        return self.level.posterior(p, h, evidence)

    def distances(self, h: Tensor | None, evidence: Tensor) -> Tensor:
        return self.level.distances(h, evidence)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.level(h, z)
