"""The VAE of multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae._checks import checked, made
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense, StepFactory
from pyro_vae.networks import MLP
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE


class MLPVAE(VAE):
    r"""One latent, multilayer perceptrons on both sides.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid \mathrm{MLP}(z)), \qquad z \sim q(z \mid \mathrm{MLP}(x))

    with a standard normal prior, a diagonal Gaussian posterior and Bernoulli pixels unless told otherwise.

    With a ``corruption`` the encoder sees :math:`\tilde x` in training, and the target stays x. Training then raises
    the denoising bound

    .. math::
        \mathbb E_{p(\tilde x \mid x)} \mathbb E_{q(z \mid \tilde x)}
        [\log p(x, z) - \log q(z \mid \tilde x)] \le \log p(x)

    and in evaluation mode nothing is corrupted. The module is ``posterior.network.corruption`` (also ``corruption``),
    so that ``fit(..., schedules={"posterior.network.corruption.level": Linear(0.5, 0.0, duration=0.8)})`` moves its
    level.

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        latent_dim: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        prior: makes p(z) of ``latent_dim``, a class of :mod:`pyro_vae.priors` or a function.
        posterior: makes q(z | x) of the encoder, a class of :mod:`pyro_vae.posteriors` or a function.
        transforms: a normalizing flow on the posterior: classes of :mod:`pyro_vae.transforms`, in their order.
        num_transforms: number of steps of the flow, ``transforms`` again and again; by default one of each.
        amortized: whether the flow's parameters come from the encoder.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, of shape ``event_shape``. The encoder then sees x - mean, and a Bernoulli
            decoder starts at it. It is worth whole nats in a short training of 784-dimensional images.
        corruption: of x on its way into the encoder in training, one of :class:`~pyro_vae.networks.Masking`,
            :class:`~pyro_vae.networks.SaltAndPepper`, :class:`~pyro_vae.networks.GaussianNoise`, or ``None``.

    Raises:
        ValueError: if ``mean`` is of another shape, or a flow has no hidden layer to take its parameters from.

    Source: Kingma & Welling (2013), appendix C; flows: Rezende & Mohamed (2015); corruption: Im, Ahn, Memisevic &
        Bengio (2017), Denoising Criterion for Variational Auto-Encoding Framework.

    >>> vae = MLPVAE((1, 28, 28), latent_dim=20, hidden=(400,))
    >>> vae.model().shape
    torch.Size([1, 1, 28, 28])
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
        prior: Callable[[int], nn.Module] = StandardNormal,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        transforms: Sequence[StepFactory] = (),
        num_transforms: int | None = None,
        amortized: bool = True,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
        corruption: nn.Module | None = None,
    ) -> None:
        dense = Dense(event_shape, latent_dim, hidden, activation, network, mean, decoder_hidden)
        q = dense.recognition(
            posterior,
            transforms=transforms,
            num_transforms=num_transforms,
            amortized=amortized,
            corruption=corruption,
        )
        p = dense.decoding(likelihood)
        super().__init__(made("a prior", prior, latent_dim), q, p)
