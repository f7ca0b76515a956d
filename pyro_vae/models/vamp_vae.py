"""The VAE with a VampPrior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense, StepFactory
from pyro_vae.networks import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import VampPrior
from pyro_vae.vae import VAE


class VampVAE(VAE):
    r"""One latent whose prior is the mixture of its posteriors at K learned pseudo-inputs.

    .. math::
        z \sim \frac 1 K \sum_k q(z \mid u_k), \quad x \sim p(x \mid \mathrm{MLP}(z)), \qquad
        z \sim q(z \mid \mathrm{MLP}(x))

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        latent_dim: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        num_components: K.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        posterior: makes q(z | x) of the encoder, a class of :mod:`pyro_vae.posteriors` or a function.
        transforms: a normalizing flow on the posterior, see :class:`~pyro_vae.models.MLPVAE`. The prior scores given
            values with it, for which steps with a fast inverse are the better ones.
        num_transforms: number of steps of the flow; by default one of each.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, where the pseudo-inputs start, see also :class:`~pyro_vae.models.MLPVAE`.

    Raises:
        ValueError: if ``mean`` is of another shape.

    Source: Tomczak & Welling (2018).

    >>> vae = VampVAE((1, 28, 28), latent_dim=20, hidden=(100,), num_components=50)
    >>> vae.prior.pseudo_inputs.shape
    torch.Size([50, 1, 28, 28])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (300, 300),
        num_components: int = 500,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        transforms: Sequence[StepFactory] = (),
        num_transforms: int | None = None,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
    ) -> None:
        dense = Dense(event_shape, latent_dim, hidden, activation, network, mean)
        q = dense.recognition(posterior, transforms=transforms, num_transforms=num_transforms)
        p = dense.decoding(likelihood)
        super().__init__(VampPrior(q, event_shape, num_components, mean), q, p)
