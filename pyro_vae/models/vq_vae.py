"""VQ-VAE and VQ-VAE-2: maps of codes, one or several."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_vae._checks import PARTS, checked, is_dense, number, shown, whole
from pyro_vae.hierarchy import BottomUpEncoder
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.code_book import CodeBook, CodeLevel, CodesVAE
from pyro_vae.models.parts import bottleneck, decoding, image_shape
from pyro_vae.networks import Convolutional, shape_of
from pyro_vae.networks.layers import activated


class VQVAE(CodesVAE):
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
    the bound is lower by the commitment of the encoder, :math:`\beta_c \sum |e - \mathrm{sg}(z^* C)|^2` of each level.
    An estimator's beta weighs it as one of the latents' terms; it is the only one of them with a gradient. The gradient
    of log p(x | z*) goes straight through to the encoder. The codes are moving means (:class:`CodeBook`): each run of
    the guide in training mode moves them, and the model of the same step sees them moved.

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

    >>> import torch
    >>> pair = VQVAE((1, 28, 28), num_codes=64, code_dim=16)
    >>> pair.guide(torch.rand(3, 1, 28, 28))
    >>> [tuple(level.event_shape) for level in pair.levels]
    [(14, 14, 64), (7, 7, 64)]
    """

    @checked(but=("commitment",))
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
        number(0, commitment=commitment)
        shape_of("channels and block_channels", (channels, block_channels))
        strides = shape_of("strides", strides)
        maps = _maps(image, channels, strides)

        whole(0, PARTS, num_blocks=num_blocks)

        def blocks() -> list[nn.Module]:
            return [
                *(bottleneck(channels, block_channels, activation) for _ in range(num_blocks)),
                activated(activation),
            ]

        encoders, levels = [], []
        for index, (stride, below, here) in enumerate(zip(strides, maps[:-1], maps[1:], strict=True), 1):
            encoders.append(Convolutional(below, here, [*_halvings(below[0], channels, stride, activation), *blocks()]))
            above = 0 if index == len(strides) else code_dim  # channels of the state from above
            down: nn.Module = nn.Identity()
            if index > 1:
                doublings = _doublings(channels, code_dim, stride, activation)
                layers = [nn.Conv2d(code_dim + above, channels, 3, padding=1), *blocks(), *doublings]
                down = Convolutional((code_dim + above, *here[1:]), (code_dim, *below[1:]), layers)
            book = CodeBook(num_codes, code_dim, decay, revival)
            coded = [nn.Conv2d(channels + above, code_dim, 1)]
            encoder = Convolutional((channels + above, *here[1:]), (code_dim, *here[1:]), coded)
            levels.append(CodeLevel(f"commitment{index}", here[1:], book, encoder, down, commitment))

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            state = (code_dim if len(strides) == 1 else 2 * code_dim, *maps[1][1:])
            layers = [nn.Conv2d(state[0], channels, 3, padding=1), *blocks()]
            layers += _doublings(channels, math.prod(out_shape[:-2]), strides[0], activation)
            return Convolutional(state, out_shape, layers)

        super().__init__(BottomUpEncoder(encoders), levels, decoding(likelihood, image, decoder))

    def check_batch(self, x: Tensor) -> None:
        """Whether the code books can be trained on batches like ``x: [B, *event]``.

        Raises:
            ValueError: if a level has fewer codes in the batch than its code book, or x holds no data.
        """
        if not is_dense(x) or not x.dim():
            raise ValueError(f"a batch is a dense tensor [B, *event]; got {shown(x)}.")
        for index, level in enumerate(self.levels, 1):
            height, width, num_codes = level.event_shape
            if len(x) * height * width < num_codes:
                raise ValueError(
                    f"a batch of {len(x)} has {len(x) * height * width} codes in z{index} ({height} x {width} each), "
                    f"fewer than the code book, num_codes={num_codes}, which starts at the codes of a batch. Take a "
                    f"batch size of at least {-(-num_codes // (height * width))}, or fewer codes."
                )


def _maps(image: tuple[int, int, int], channels: int, strides: Sequence[int]) -> list[tuple[int, int, int]]:
    """The shape of the image, and of the features of each level."""
    if any(stride & (stride - 1) for stride in strides):
        raise ValueError(f"the strides of the levels are powers of 2, such as (4, 2); got {tuple(strides)}.")
    _, height, width = image
    factors = list(itertools.accumulate(strides, operator.mul))
    if height % factors[-1] or width % factors[-1]:
        raise ValueError(
            f"strides={tuple(strides)} divide the sides of an image by {factors[-1]}, which {height} x {width} are not "
            "multiples of. Choose other strides, or pad or crop the images."
        )
    return [image, *((channels, height // factor, width // factor) for factor in factors)]


def _halvings(size_in: int, channels: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Convolutions that divide height and width by ``stride``, and one that keeps them."""
    layers: list[nn.Module] = []
    while stride > 1:
        layers += [nn.Conv2d(size_in, channels, 4, stride=2, padding=1), activated(activation)]
        size_in, stride = channels, stride // 2
    return [*layers, nn.Conv2d(size_in, channels, 3, padding=1)]


def _doublings(channels: int, size_out: int, stride: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Transposed convolutions that multiply height and width by ``stride``; a convolution where it is 1."""
    if stride == 1:
        return [nn.Conv2d(channels, size_out, 3, padding=1)]
    layers: list[nn.Module] = []
    while stride > 2:
        layers += [nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1), activated(activation)]
        stride //= 2
    return [*layers, nn.ConvTranspose2d(channels, size_out, 4, stride=2, padding=1)]
