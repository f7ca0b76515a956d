"""The deterministic autoencoder and the denoising autoencoder, as pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import checked
from pyro_vae.distributions.point import Point
from pyro_vae.likelihoods import Normal
from pyro_vae.models.parts import Dense
from pyro_vae.networks import MLP, at_least_float32, shape_of
from pyro_vae.posteriors import Posterior
from pyro_vae.vae import VAE


class Flat(dist.ImproperUniform):
    """The measure log p(z) = 0 on all z, which is no distribution: it cannot be drawn from."""

    def log_prob(self, value: Tensor) -> Tensor:
        """0, with the device and dtype of ``value``."""
        leading = value.shape[: value.dim() - self.event_dim]
        return value.new_zeros(torch.broadcast_shapes(leading, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "an autoencoder has no prior: there is no p(z) to draw latents from, and no p(x). Decode the codes of data "
            "(diagnostics.reconstruct, diagnostics.interpolate), or train a VAE, such as pyro_vae.models.MLPVAE."
        )


class FlatPrior(nn.Module):
    r"""In the place of a prior, :math:`\log p(z) = 0` for all z: improper, so that it cannot be drawn from.

    Args:
        latent_dim: size (or event shape) of z.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(self, latent_dim: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)

    def forward(self) -> dist.Distribution:
        space = constraints.independent(constraints.real, len(self.event_shape))
        return Flat(space, torch.Size(), self.event_shape)


class PointPosterior(Posterior):
    r"""In the place of a posterior a code, :math:`q(z \mid x) = \delta(z - \mathrm{network}(x))`.

    Args:
        network: ``x: [*, B, *event] -> [*, B, *latent_shape]``.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.
    """

    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(latent_shape)

    def forward(self, x: Tensor) -> dist.Distribution:
        code = at_least_float32(self.network(x))
        return Point(code, code.dim() - (x.dim() - self.event_dim))


class Autoencoder(VAE):
    r"""A code in the place of the latent's distribution, multilayer perceptrons on both sides.

    .. math:: z = \mathrm{MLP}(x), \qquad \mathcal L(x) = \log p(x \mid z)

    As a pair it has :math:`q(z \mid x) = \delta(z - \mathrm{MLP}(x))` and, for a prior, the flat measure. Their KL is
    0, so that the estimators' bound is the log-likelihood of the reconstruction, exactly; with a Gaussian of scale 1

    .. math:: \mathcal L(x) = -\tfrac 1 2 |x - \mathrm{loc}(z)|^2 - \tfrac D 2 \log 2 \pi

    It is no bound on log p(x): there is no prior, so no p(x), and q has no density. What draws from the prior, such as
    :func:`pyro_vae.diagnostics.sample` and annealed importance sampling, refuses. Train with SGVB_B (the default) or
    SGVB_A; beta changes nothing.

    With a ``corruption`` it is the denoising autoencoder: the encoder sees :math:`\tilde x \sim p(\tilde x \mid x)` in
    training, and the target stays x,

    .. math:: \mathcal L(x) = \mathbb E_{p(\tilde x \mid x)} \log p(x \mid z = \mathrm{MLP}(\tilde x))

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        latent_dim: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function. By default a
            Gaussian of scale 1 whose mean is a sigmoid, so the squared error of data in [0, 1].
        mean: mean of the training data, of shape ``event_shape``. The encoder then sees x - mean, and a Bernoulli
            decoder starts at it.
        corruption: of x on its way into the encoder in training, one of :class:`~pyro_vae.networks.Masking`,
            :class:`~pyro_vae.networks.SaltAndPepper`, :class:`~pyro_vae.networks.GaussianNoise`, any module of which
            the same holds, such as ``nn.Dropout``, or ``None``. The module is ``posterior.network.corruption``.

    Raises:
        ValueError: if ``mean`` is of another shape.

    Source: Rumelhart, Hinton & Williams (1986); denoising: Vincent et al. (2008).

    >>> pair = Autoencoder((1, 28, 28), latent_dim=10)
    >>> pair.posterior(torch.rand(7, 1, 28, 28)).mean.shape
    torch.Size([7, 10])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        decoder_hidden: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        likelihood: Callable[[nn.Module], nn.Module] = Normal,
        mean: Tensor | None = None,
        corruption: nn.Module | None = None,
    ) -> None:
        dense = Dense(event_shape, latent_dim, hidden, activation, network, mean, decoder_hidden)
        q = dense.recognition(PointPosterior, corruption=corruption)
        p = dense.decoding(likelihood)
        super().__init__(FlatPrior(latent_dim), q, p)
