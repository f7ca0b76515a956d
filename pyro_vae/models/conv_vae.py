"""The VAE of convolutional networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pyro_vae._checks import checked, made
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import StepFactory, decoding, recognition
from pyro_vae.networks import ConvDecoder, ConvEncoder, Normalization
from pyro_vae.networks.layers import activated
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


class ConvVAE(VAE):
    r"""One latent, convolutions in the encoder and transposed convolutions in the decoder.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid \mathrm{deconv}(z)), \qquad z \sim q(z \mid \mathrm{conv}(x))

    with a standard normal prior, a diagonal Gaussian posterior and Bernoulli pixels unless told otherwise.

    Args:
        event_shape: (channels, height, width) of one image.
        latent_dim: size of z.
        channels: channels of the encoder's convolutions, each halving the image; the decoder has them in reverse.
        hidden: width of the layer between convolutions and latent; ``None`` or 0 for none.
        activation: class of the non-linearity.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        normalization: ``"batch"``, ``"layer"``, ``"weight"`` or ``None``, see
            :class:`~pyro_vae.networks.ConvEncoder`.
        prior: makes p(z) of ``latent_dim``, a class of :mod:`pyro_vae.priors` or a function.
        posterior: makes q(z | x) of the encoder, a class of :mod:`pyro_vae.posteriors` or a function.
        transforms: a normalizing flow on the posterior: classes of :mod:`pyro_vae.transforms`, in their order. Its
            context is the layer between convolutions and latent (of 256 units where ``hidden`` is ``None``).
        num_transforms: number of steps of the flow, ``transforms`` again and again; by default one of each.
        amortized: whether the flow's parameters come from the encoder.
        gated: whether each convolution is multiplied by the sigmoid of another one, see
            :class:`~pyro_vae.networks.ConvEncoder`.
        corruption: of x on its way into the encoder in training, one of :class:`~pyro_vae.networks.Masking`,
            :class:`~pyro_vae.networks.SaltAndPepper`, :class:`~pyro_vae.networks.GaussianNoise`, or ``None``.
            The module is ``posterior.network.corruption``; see :class:`~pyro_vae.models.MLPVAE` for the bound.

    Raises:
        ValueError: if the data are no images.

    >>> from torch import nn
    >>> vae = ConvVAE((3, 64, 64), 128, (32, 64, 128, 256), None, nn.LeakyReLU, normalization="batch")
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        channels: Sequence[int] = (32, 64),
        hidden: int | None = 256,
        activation: type[nn.Module] = nn.SiLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        normalization: Normalization | None = None,
        prior: Callable[[int], nn.Module] = StandardNormal,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        transforms: Sequence[StepFactory] = (),
        num_transforms: int | None = None,
        amortized: bool = True,
        gated: bool = False,
        corruption: nn.Module | None = None,
    ) -> None:
        options: Any = {"activation": activation, "normalization": normalization, "gated": gated}
        width = hidden or 256

        def encoder(out_shape: tuple[int, ...]) -> nn.Module:
            return ConvEncoder(event_shape, out_shape, channels, hidden, **options)

        def trunk() -> nn.Module:
            return nn.Sequential(ConvEncoder(event_shape, width, channels, None, **options), activated(activation))

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            return ConvDecoder(latent_dim, out_shape, tuple(reversed(channels)), hidden, **options)

        q = recognition(
            posterior,
            latent_dim,
            encoder,
            trunk,
            width,
            transforms=transforms,
            num_transforms=num_transforms,
            amortized=amortized,
            corruption=corruption,
        )
        p = decoding(likelihood, event_shape, decoder)
        super().__init__(made("a prior", prior, latent_dim), q, p)
