"""The VAE of convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import with_network
from pyro_vae.networks import ConvDecoder, ConvEncoder
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


class ConvVAE(VAE):
    r"""One Gaussian latent, convolutions in the encoder and transposed convolutions in the decoder.

    .. math::
        z \sim \mathcal N(0, I), \quad x \sim p(x \mid \mathrm{deconv}(z)), \qquad
        z \sim \mathcal N(\mathrm{loc}(x), \mathrm{scale}(x)^2)

    Args:
        event_shape: (channels, height, width) of one image.
        latent_dim: size of z.
        channels: channels of the encoder's convolutions, each halving the image; the decoder has them in reverse.
        hidden: width of the layer between convolutions and latent.
        activation: class of the non-linearity.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.

    Raises:
        ValueError: if the data are no images.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: type[nn.Module] = nn.SiLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
    ) -> None:
        super().__init__(
            StandardNormal(latent_dim),
            DiagonalNormal(ConvEncoder(event_shape, (2, latent_dim), channels, hidden, activation)),
            with_network(
                likelihood,
                event_shape,
                lambda out_shape: ConvDecoder(latent_dim, out_shape, tuple(reversed(channels)), hidden, activation),
                default=event_shape,
            ),
        )
