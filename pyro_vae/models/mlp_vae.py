"""The VAE of multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import with_network
from pyro_vae.networks import MLP, Centered
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


class MLPVAE(VAE):
    r"""One Gaussian latent, multilayer perceptrons on both sides.

    .. math::
        z \sim \mathcal N(0, I), \quad x \sim p(x \mid \mathrm{MLP}(z)), \qquad
        z \sim \mathcal N(\mathrm{loc}(x), \mathrm{scale}(x)^2)

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        latent_dim: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
        activation: class of the non-linearity.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, of shape ``event_shape``. The encoder then sees x - mean, and a Bernoulli
            decoder starts at it. It is worth whole nats in a short training of 784-dimensional images.

    Raises:
        ValueError: if ``mean`` is of another shape.

    Source: Kingma & Welling (2013), appendix C.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        decoder_hidden: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.SiLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
    ) -> None:
        decoder_hidden = tuple(reversed(hidden)) if decoder_hidden is None else decoder_hidden
        encoder: nn.Module = MLP(event_shape, (2, latent_dim), hidden, activation)
        p = with_network(
            likelihood,
            event_shape,
            lambda out_shape: MLP(latent_dim, out_shape, decoder_hidden, activation),
            default=event_shape,
        )
        if mean is not None:
            encoder = Centered(encoder, mean)
            if isinstance(p, Bernoulli):
                p.network.start_at(mean.clamp(0.005, 0.995).logit())
        super().__init__(StandardNormal(latent_dim), DiagonalNormal(encoder), p)
