"""The probabilistic U-Net: several plausible segmentations of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._checks import checked, whole
from pyro_vae._recipes import Remembered
from pyro_vae.models.parts import with_network
from pyro_vae.networks import (
    ConvEncoder,
    Convolutional,
    Normalization,
    Numbers,
    OneHot,
    UNet,
    applied,
    at_least_float32,
    shape_of,
    side_by_side,
)
from pyro_vae.networks.layers import activated
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.vae import CVAE


class ProbabilisticUNet(CVAE):
    r"""Maps x of classes, a whole number for each pixel, given images c; a draw of z is one way to see the image.

    .. math::
        z \sim p(z \mid \mathrm{conv}(c)), \quad
        x_{ij} \sim \mathrm{Cat}\big(\mathrm{head}(\mathrm{UNet}(c)_{ij}, z)\big), \qquad
        z \sim q(z \mid \mathrm{conv}(x, c))

    Arguments are ``x: [B, H, W]`` of the numbers 0 ... K - 1, and ``c: [B, C, H, W]``. An image that was annotated by
    several is in the data once for each of them. z joins the U-Net behind its last map,

    .. math:: \mathrm{head}(f, z) = W_3 \, \phi(W_2 \, \phi(f + V z)),

    so that the U-Net runs once for all draws of an image.

    Args:
        event_shape: (height, width) of a map.
        condition_shape: (channels, height, width) of an image; uint8 are pixels.
        num_classes: K, at least 2.
        latent_dim: size of z.
        channels: of the U-Net, from the whole image inwards, see :class:`~pyro_vae.networks.UNet`; the encoders of
            p(z | c) and q(z | x, c) have convolutions of stride 2 with as many.
        activation: class of the non-linearity.
        normalization: see :class:`~pyro_vae.networks.ConvEncoder`.
        posterior: makes q(z | x, c) and p(z | c) of their encoders, a class of :mod:`pyro_vae.posteriors`.

    Raises:
        ValueError: if image and map are of different height or width, a size is below 1 or ``num_classes`` below 2.
            When run: if x holds another number than the classes, or is of another shape.

    Source: Kohl et al. (2018), A probabilistic U-Net for segmentation of ambiguous images, with a smaller U-Net.

    >>> import torch
    >>> pair = ProbabilisticUNet((28, 28), (1, 28, 28), num_classes=3)
    >>> pair.model(None, torch.rand(4, 1, 28, 28)).shape
    torch.Size([4, 28, 28])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        condition_shape: int | Sequence[int],
        num_classes: int = 2,
        latent_dim: int = 6,
        channels: Sequence[int] = (16, 32, 64),
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
    ) -> None:
        event = shape_of("event_shape", event_shape)
        whole(latent_dim=latent_dim)
        whole(2, num_classes=num_classes)
        image, channels = shape_of("condition_shape", condition_shape), shape_of("channels", channels)
        if len(image) != 3 or image[1:] != event:
            raise ValueError(
                "a ProbabilisticUNet gives maps of event_shape (height, width) for images of condition_shape "
                f"(channels, height, width); got {tuple(event)} and {tuple(image)}."
            )

        def encoded(in_channels: int) -> Any:
            def encoder(out_shape: tuple[int, ...]) -> nn.Module:
                of = (in_channels, *event)
                return ConvEncoder(of, out_shape, channels, None, activation, normalization)

            return with_network(posterior, (latent_dim,), encoder, default=(2, latent_dim))

        unet = UNet(image, (channels[0], *event), channels, activation, normalization)
        head = SegmentationHead(unet, latent_dim, num_classes, activation)
        q = OfMaps(encoded(image[0] + num_classes), num_classes)
        super().__init__(encoded(image[0]), q, head, Numbers(image, flat=False))


class OfMaps(Remembered, nn.Module):
    """A posterior of maps ``[*, B, H, W]`` and images ``[*, B, C, H, W]``: of a channel for each class beside those."""

    def __init__(self, posterior: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.posterior = posterior
        self.one_hot = OneHot(num_classes)

    def forward(self, x: Tensor, c: Tensor) -> Any:
        if x.dim() < 3:
            raise ValueError(
                f"maps [B, H, W] stand beside images [B, C, H, W]; got maps of {list(x.shape)} and images of "
                f"{list(c.shape)}."
            )
        return self.posterior(side_by_side(self.one_hot(x).movedim(-1, -3), c, -3))


class SegmentationHead(Remembered, nn.Module):
    """p(x | z, c) of maps: the U-Net of c, and 1 x 1 convolutions that z joins."""

    def __init__(self, unet: UNet, latent_dim: int, num_classes: int, activation: type[nn.Module]) -> None:
        super().__init__()
        width, *size = unet.out_shape
        self.unet = unet
        self.of_z = nn.Linear(latent_dim, width, bias=False)
        self.head = Convolutional(
            unet.out_shape,
            (num_classes, *size),
            [
                activated(activation),
                nn.Conv2d(width, width, 1),
                activated(activation),
                nn.Conv2d(width, num_classes, 1),
            ],
        )

    def forward(self, z: Tensor, c: Tensor) -> Any:
        logits = self.head(self.unet(c) + applied(self.of_z, z, "ProbabilisticUNet")[..., None, None])
        return dist.Categorical(logits=at_least_float32(logits).movedim(-3, -1)).to_event(2)
