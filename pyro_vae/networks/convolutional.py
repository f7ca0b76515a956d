"""Networks of images."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae.networks.base import Network
from pyro_vae.networks.layers import Normalization, Residual, activated, affine, hidden_layer, normalizer, preactivated
from pyro_vae.networks.shapes import applied, check_input, shape_of

HiddenLayer = Callable[[Callable[[], nn.Linear]], list[nn.Module]]


class Convolutional(Network):
    """Layers of images, ``[*, *in_shape] -> [*, *out_shape]``, with any number of leading dimensions.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        layers: modules in their order, from ``[N, *in_shape]`` to ``[N, ...]`` of the output's size.

    Raises:
        ValueError: if a size is below 1, or the input has another event shape.
    """

    @checked(but=("layers",))
    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], layers: Iterable[nn.Module]) -> None:
        super().__init__(shape_of("in_shape", in_shape), shape_of("out_shape", out_shape), layers)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        leading = x.shape[: -len(self.in_shape)]
        return applied(self.layers, x.reshape(-1, *self.in_shape), "network").reshape(*leading, *self.out_shape)


class ConvEncoder(Convolutional):
    r"""Convolutions of stride 2 and a hidden layer: images ``[*, C, H, W] -> [*, *out_shape]``.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: event shape of the output.
        channels: output channels of each 3 x 3 convolution; each halves height and width (rounded up).
        hidden: width of the layer between the convolutions and the output; ``None`` or 0 for none.
        activation: class of the non-linearity :math:`\phi`.
        normalization: behind each layer but the last, as in :class:`~pyro_vae.networks.MLP`: ``"batch"`` (each
            channel over data and pixels), ``"layer"`` (each datum over channels and pixels), ``"weight"``, or ``None``.
        gated: layers are :math:`\phi(W * x + b) \, \sigma(V * x + c)`; the paper has nn.Identity for :math:`\phi`.

    Raises:
        ValueError: if ``in_shape`` is not ``(C, H, W)``, there are no ``channels``, ``normalization`` is something
            else, or the input has another event shape.

    Source: Tomczak & Welling (2018), VAE with a VampPrior, section 5, for the gates.
    """

    @checked
    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int | None = 256,
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        gated: bool = False,
    ) -> None:
        image, size_out = _image_shape("in_shape", in_shape), shape_of("out_shape", out_shape)
        shapes = _halved(image, shape_of("channels", channels))
        layer = functools.partial(hidden_layer, activation=activation, normalization=normalization, gated=gated)
        layers: list[nn.Module] = []
        for outer, inner in itertools.pairwise(shapes):
            layers += layer(functools.partial(nn.Conv2d, outer[0], inner[0], 3, stride=2, padding=1))
        super().__init__(image, size_out, [*layers, *_out_of_image(shapes[-1], hidden, size_out, layer)])


class ConvDecoder(Convolutional):
    """A hidden layer and transposed convolutions of stride 2: ``[*, in_features] -> [*, *out_shape]``.

    The mirror image of :class:`ConvEncoder`; any height and width come out exactly.

    Args:
        in_features: size of the latent.
        out_shape: ``(C, H, W)``, or ``(2, C, H, W)`` for two parameters a pixel.
        channels: input channels of each 3 x 3 transposed convolution, from the innermost outwards.
        hidden: width of the layer between the input and the one into the convolutions; ``None`` or 0 for none.
        activation, normalization, gated: see :class:`ConvEncoder`.

    Raises:
        ValueError: if ``out_shape`` does not end with ``(C, H, W)``, there are no ``channels``, ``normalization`` is
            something else, or the input has another size.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int | None = 256,
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        gated: bool = False,
    ) -> None:
        size_in, size_out = shape_of("in_features", in_features), shape_of("out_shape", out_shape)
        inwards = tuple(reversed(shape_of("channels", channels)))
        shapes = _halved(_stacked_image(size_out), inwards)[::-1]  # innermost first, the image last
        layer = functools.partial(hidden_layer, activation=activation, normalization=normalization, gated=gated)
        layers = _into_image(size_in.numel(), hidden, shapes[0], layer)
        for inner, outer in itertools.pairwise(shapes[:-1]):
            layers += layer(functools.partial(_transposed, inner, outer))
        super().__init__(size_in, size_out, [*layers, _transposed(*shapes[-2:])])


class ResidualEncoder(Convolutional):
    r"""Residual blocks of stride 2 and a hidden layer: images ``[*, C, H, W] -> [*, *out_shape]``.

    A 3 x 3 convolution, then blocks of two 3 x 3 convolutions, the first of stride 2, beside a 1 x 1 one of stride 2:

    .. math:: h_0 = W_0 * x, \qquad h_l = S_l * h_{l-1} + W_l' * \phi(W_l * \phi(h_{l-1}))

    Args:
        in_shape, out_shape, hidden, activation: see :class:`ConvEncoder`.
        channels: output channels of each block; each halves height and width (rounded up).
        normalization: of the input of each :math:`\phi` (``"batch"``, ``"layer"``), or of all weights but the last
            (``"weight"``), see :class:`ConvEncoder`.

    Raises:
        ValueError: as :class:`ConvEncoder`.

    Source: Kingma et al. (2016), Improved Variational Inference with Inverse Autoregressive Flow, section 6.1, in the
        manner of; He et al. (2016), Identity Mappings in Deep Residual Networks, for the blocks.
    """

    @checked
    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int | None = 256,
        activation: type[nn.Module] = nn.ELU,
        normalization: Normalization | None = None,
    ) -> None:
        image, size_out = _image_shape("in_shape", in_shape), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        shapes = _halved((channels[0], *image[1:]), channels)
        layer = functools.partial(hidden_layer, activation=activation, normalization=normalization)
        layers = [affine(nn.Conv2d(image[0], channels[0], 3, padding=1), normalization)]
        for outer, inner in itertools.pairwise(shapes):
            layers.append(residual_block(outer[0], inner[0], activation, normalization, stride=2))
        layers += [*normalizer(channels[-1], normalization, image=True), activated(activation)]
        super().__init__(image, size_out, [*layers, *_out_of_image(shapes[-1], hidden, size_out, layer)])


class ResidualDecoder(Convolutional):
    r"""A hidden layer and residual blocks that double the image: ``[*, in_features] -> [*, *out_shape]``.

    The mirror image of :class:`ResidualEncoder`, with transposed convolutions for those of stride 2, and pixels
    repeated on the shortcut; any height and width come out exactly.

    Args:
        in_features, out_shape, hidden, activation: see :class:`ConvDecoder`.
        channels: input channels of each block, from the innermost outwards.
        normalization: see :class:`ResidualEncoder`.

    Raises:
        ValueError: as :class:`ConvDecoder`.

    Source: as :class:`ResidualEncoder`.
    """

    @checked
    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int | None = 256,
        activation: type[nn.Module] = nn.ELU,
        normalization: Normalization | None = None,
    ) -> None:
        size_in, size_out = shape_of("in_features", in_features), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        image = _stacked_image(size_out)
        shapes = _halved((channels[-1], *image[1:]), tuple(reversed(channels)))[::-1]
        layer = functools.partial(hidden_layer, activation=activation, normalization=normalization)
        layers = _into_image(size_in.numel(), hidden, shapes[0], layer)
        for inner, outer in itertools.pairwise(shapes):
            shortcut = nn.Sequential(
                affine(nn.Conv2d(inner[0], outer[0], 1), normalization), nn.Upsample(size=outer[1:])
            )
            first = _transposed(inner, outer)
            layers.append(preactivated(first, _same(outer[0]), activation, normalization, shortcut))
        layers += [*normalizer(channels[-1], normalization, image=True), activated(activation)]
        super().__init__(size_in, size_out, [*layers, nn.Conv2d(channels[-1], image[0], 3, padding=1)])


class UNet(Convolutional):
    r"""Images to maps of the same height and width, ``[*, C, H, W] -> [*, F, H, W]``, which keep what is fine.

    Down by convolutions of stride 2 and up again by repeated pixels; at each size what came down stands beside what
    comes up:

    .. math:: h_l = \mathrm{conv}(\mathrm{conv}(h_{l-1})), \qquad g_l = \mathrm{conv}([h_l, \mathrm{up}(g_{l+1})]),
        \qquad y = W g_1

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: ``(F, H, W)``, or ``(2, F, H, W)`` for two parameters a pixel.
        channels: of the 3 x 3 convolutions at each size, from the whole image inwards; each but the first halves
            height and width (rounded up).
        activation: class of the non-linearity behind each convolution but the last, which is 1 x 1.
        normalization: see :class:`~pyro_vae.networks.ConvEncoder`.

    Raises:
        ValueError: if input and output are no images of one height and width, there are no ``channels``,
            ``normalization`` is something else, or the input has another event shape.

    Source: Ronneberger, Fischer & Brox (2015), U-Net: Convolutional Networks for Biomedical Image Segmentation, with
        padded convolutions.

    >>> import torch
    >>> UNet((1, 28, 28), (3, 28, 28))(torch.rand(7, 5, 1, 28, 28)).shape
    torch.Size([7, 5, 3, 28, 28])
    """

    @checked
    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
    ) -> None:
        image, size_out = _image_shape("in_shape", in_shape), shape_of("out_shape", out_shape)
        target, widths = _stacked_image(size_out), shape_of("channels", channels)
        if target[1:] != image[1:]:
            raise ValueError(
                f"a UNet gives maps of the height and width of its images, {tuple(image[1:])}; got out_shape "
                f"{tuple(size_out)}."
            )
        sizes = [shape[1:] for shape in _halved(image, widths)]
        layer = functools.partial(hidden_layer, activation=activation, normalization=normalization)

        def convolution(width_in: int, width: int, stride: int = 1) -> list[nn.Module]:
            return layer(functools.partial(nn.Conv2d, width_in, width, 3, stride=stride, padding=1))

        level: nn.Module | None = None
        for place in reversed(range(len(widths))):
            width = widths[place]
            first = convolution(widths[place - 1], width, 2) if place else convolution(image[0], width)
            down = nn.Sequential(*first, *convolution(width, width))
            if level is None:
                level = down
            else:
                below = nn.Sequential(level, nn.Upsample(size=sizes[place]))
                level = _Level(down, below, nn.Sequential(*convolution(width + widths[place + 1], width)))
        assert level is not None
        super().__init__(image, size_out, [level, nn.Conv2d(widths[0], target[0], 1)])


class _Level(nn.Module):
    """One size of a U-Net: what came down beside what the smaller sizes make of it."""

    def __init__(self, down: nn.Module, below: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.below, self.up = down, below, up

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x)
        return self.up(torch.cat([h, self.below(h)], 1))


def residual_block(
    width: int,
    width_out: int,
    activation: type[nn.Module],
    normalization: Normalization | None = None,
    stride: int = 1,
    kernel_size: int = 3,
) -> Residual:
    r"""Two convolutions beside a shortcut: images ``[N, width, H, W] -> [N, width_out, H / stride, W / stride]``.

    .. math:: h = S * x + W' * \phi(W * \phi(x))

    with the identity for S where neither width nor size changes.

    Source: He et al. (2016), Identity Mappings in Deep Residual Networks.

    >>> import torch
    >>> from pyro_vae import networks
    >>> block = networks.residual_block(8, 16, torch.nn.SiLU, stride=2)
    >>> block(torch.zeros(5, 8, 28, 28)).shape
    torch.Size([5, 16, 14, 14])
    """
    first = nn.Conv2d(width, width_out, kernel_size, stride=stride, padding=kernel_size // 2)
    same = width == width_out and stride == 1
    shortcut = nn.Identity() if same else affine(nn.Conv2d(width, width_out, 1, stride=stride), normalization)
    return preactivated(first, _same(width_out, kernel_size), activation, normalization, shortcut)


def _same(width: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(width, width, size, padding=size // 2)


def _out_of_image(
    image: tuple[int, int, int], hidden: int | None, size_out: torch.Size, layer: HiddenLayer
) -> list[nn.Module]:
    """From the innermost image to the output, by way of the hidden layer."""
    width = math.prod(image)
    layers: list[nn.Module] = [nn.Flatten()]
    if hidden:
        (width,) = shape_of("hidden", hidden)
        layers += layer(functools.partial(nn.Linear, math.prod(image), width))
    return [*layers, nn.Linear(width, size_out.numel())]


def _into_image(
    in_features: int, hidden: int | None, image: tuple[int, int, int], layer: HiddenLayer
) -> list[nn.Module]:
    """From the input to the innermost image, by way of the hidden layer."""
    width = in_features
    layers: list[nn.Module] = []
    if hidden:
        (width,) = shape_of("hidden", hidden)
        layers += layer(functools.partial(nn.Linear, in_features, width))
    return [*layers, *layer(functools.partial(nn.Linear, width, math.prod(image))), nn.Unflatten(-1, image)]


def _transposed(inner: tuple[int, int, int], outer: tuple[int, int, int]) -> nn.ConvTranspose2d:
    # A stride of 2 leaves open whether a size was even or odd: output_padding says which.
    padding = (1 - 2 * inner[1] + outer[1], 1 - 2 * inner[2] + outer[2])
    return nn.ConvTranspose2d(inner[0], outer[0], 3, stride=2, padding=1, output_padding=padding)


def _image_shape(name: str, shape: Sequence[int]) -> torch.Size:
    if len(shape) != 3:
        raise ValueError(f"{name} has to be (channels, height, width); got {tuple(shape)}.")
    return shape_of(name, shape)


def _stacked_image(out_shape: torch.Size) -> tuple[int, int, int]:
    """``(n C, H, W)``, of ``(*, C, H, W)`` with n parameters a pixel."""
    channels, height, width = _image_shape("out_shape", out_shape[-3:])
    return out_shape[:-3].numel() * channels, height, width


def _halved(image: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """The shapes from the image inwards: each step halves height and width, rounded up."""
    shapes = [(image[0], image[1], image[2])]
    for width in channels:
        _, height, breadth = shapes[-1]
        shapes.append((width, (height + 1) // 2, (breadth + 1) // 2))
    return shapes
