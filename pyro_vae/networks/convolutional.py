"""Networks of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.networks.shapes import check_input, shape_of


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 and one hidden layer: images ``[*, C, H, W] -> [*, *out_shape]``.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: event shape of the output.
        channels: output channels of each 3 x 3 convolution; each halves height and width (rounded up).
        hidden: width of the layer between the convolutions and the output.
        activation: class of the non-linearity.

    Raises:
        ValueError: if ``in_shape`` is not ``(C, H, W)``, there are no ``channels``, or the input has another event
            shape.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _image_shape("in_shape", in_shape), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        layers: list[nn.Module] = []
        for channels_in, channels_out in itertools.pairwise((self.in_shape[0], *channels)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), activation()]
        features = math.prod(_halved(self.in_shape, channels)[-1])
        layers += [nn.Flatten(), nn.Linear(features, hidden), activation(), nn.Linear(hidden, self.out_shape.numel())]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        leading = x.shape[:-3]
        return self.layers(x.reshape(-1, *self.in_shape)).reshape(*leading, *self.out_shape)


class ConvDecoder(nn.Module):
    """One hidden layer and transposed convolutions of stride 2: ``[*, in_features] -> [*, *out_shape]``.

    The mirror image of :class:`ConvEncoder`; any height and width come out exactly.

    Args:
        in_features: size of the latent.
        out_shape: ``(C, H, W)``, or ``(2, C, H, W)`` for two parameters a pixel.
        channels: input channels of each 3 x 3 transposed convolution, from the innermost outwards.
        hidden: width of the layer between the input and the convolutions.
        activation: class of the non-linearity.

    Raises:
        ValueError: if ``out_shape`` does not end with ``(C, H, W)``, there are no ``channels``, or the input has
            another size.
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = shape_of("in_features", in_features), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        image = _image_shape("out_shape", self.out_shape[-3:])
        image = torch.Size((image[0] * self.out_shape[:-3].numel(), *image[1:]))
        shapes = _halved(image, tuple(reversed(channels)))[::-1]  # innermost first, the image last
        layers: list[nn.Module] = [
            nn.Linear(in_features, hidden),
            activation(),
            nn.Linear(hidden, math.prod(shapes[0])),
            activation(),
            nn.Unflatten(-1, shapes[0]),
        ]
        for inner, outer in itertools.pairwise(shapes):
            # A stride of 2 leaves open whether a size was even or odd: output_padding says which.
            padding = (1 - 2 * inner[1] + outer[1], 1 - 2 * inner[2] + outer[2])
            layers += [
                nn.ConvTranspose2d(inner[0], outer[0], 3, stride=2, padding=1, output_padding=padding),
                activation(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        check_input(self, z, self.in_shape)
        leading = z.shape[:-1]
        return self.layers(z.reshape(-1, *self.in_shape)).reshape(*leading, *self.out_shape)


def _image_shape(name: str, shape: Sequence[int]) -> torch.Size:
    if len(shape) != 3:
        raise ValueError(f"{name} has to be (channels, height, width); got {tuple(shape)}.")
    return shape_of(name, shape)


def _halved(image: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """The shapes from the image inwards: each step halves height and width, rounded up."""
    shapes = [(image[0], image[1], image[2])]
    for width in channels:
        _, height, breadth = shapes[-1]
        shapes.append((width, (height + 1) // 2, (breadth + 1) // 2))
    return shapes
