"""How the systems put their parts together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pyro_vae._checks import made, whole
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP, Centered, Corrupted, Network, Residual, shape_of
from pyro_vae.networks.layers import activated
from pyro_vae.pair.protocols import HasNetworkShape
from pyro_vae.pair.turns import fork_rng
from pyro_vae.posteriors import Flow

#: Makes a step of a flow, such as a class of :mod:`pyro_vae.transforms`, of the size of the latent and of the context.
StepFactory = Callable[[int, int | None], nn.Module]


def image_shape(who: str, event_shape: Sequence[int]) -> tuple[int, int, int]:
    """``event_shape`` as (channels, height, width); ``who`` is made of images, for the message.

    Raises:
        ValueError: if it is something else, or a size is below 1.
    """
    shape = shape_of("event_shape", event_shape)
    if len(shape) != 3:
        raise ValueError(f"{who} is of images, of event_shape (channels, height, width); got {tuple(shape)}.")
    return shape[0], shape[1], shape[2]


def with_network(
    make: Callable[[nn.Module], nn.Module],
    shape: Sequence[int],
    network: Callable[[tuple[int, ...]], nn.Module],
    default: Sequence[int],
) -> Any:
    """``make(network)``, of a network with the output shape that it asks for.

    Args:
        make: a class of :mod:`pyro_vae.posteriors` or :mod:`pyro_vae.likelihoods`, or a function of a network.
        shape: event shape of the variable.
        network: makes the network of an output shape.
        default: the output shape where what ``make`` gives has no ``network_shape``.
    """
    tried: Any = None
    with fork_rng(devices=[]), contextlib.suppress(AttributeError, TypeError):
        tried = make(nn.Identity())  # what looks at its network has to take the default
    asked = tried.network_shape(shape) if isinstance(tried, HasNetworkShape) else default
    return made("a posterior or a likelihood", make, network(tuple(asked)))


def recognition(
    posterior: Callable[[nn.Module], nn.Module],
    latent_dim: int,
    encoder: Callable[[tuple[int, ...]], nn.Module],
    trunk: Callable[[], nn.Module],
    width: int,
    *,
    transforms: Sequence[StepFactory] = (),
    num_transforms: int | None = None,
    amortized: bool = True,
    corruption: nn.Module | None = None,
) -> nn.Module:
    r"""q(z | x), with a flow on it where there are ``transforms``.

    .. math:: h = \mathrm{trunk}(x), \quad z_0 \sim q_0(z_0 \mid h), \quad z = f_K(\dots f_1(z_0; h) \dots; h)

    Args:
        posterior: makes q(z | x), or the base of the flow, of a network.
        latent_dim: size of z.
        encoder: makes the network of a posterior without a flow, of its output shape.
        trunk: makes the network that gives h.
        width: size of h.
        transforms: make the steps of the flow, in their order.
        num_transforms: number of steps K: ``transforms`` from the first again and again. By default one of each; 0 for
            no flow.
        amortized: whether the steps' parameters come from h.
        corruption: of x on its way into the encoder or the trunk; it becomes ``network.corruption`` of the posterior.

    Raises:
        ValueError: if ``num_transforms`` is below the number of ``transforms``, or there are none to repeat.
    """

    def corrupted(network: nn.Module) -> nn.Module:
        return network if corruption is None else Corrupted(network, corruption)

    whole(latent_dim=latent_dim)
    default = (2, latent_dim)
    if not transforms or num_transforms == 0:
        if num_transforms:
            raise ValueError(
                f"there are no transforms of which num_transforms={num_transforms} could be made. Give at least one, "
                "for example transforms=[pyro_vae.transforms.Planar]."
            )
        return with_network(posterior, (latent_dim,), lambda shape: corrupted(encoder(shape)), default)
    count = len(transforms) if num_transforms is None else num_transforms
    if count < len(transforms):
        raise ValueError(
            f"{len(transforms)} transforms do not fit in num_transforms={count} steps. Give num_transforms >= "
            f"{len(transforms)}, or leave it out for one step of each."
        )
    base = with_network(posterior, (latent_dim,), lambda shape: MLP(width, shape, hidden=()), default)
    steps = [transforms[index % len(transforms)](latent_dim, width if amortized else None) for index in range(count)]
    return Flow(base, steps, corrupted(trunk()))


def decoding(
    likelihood: Callable[[nn.Module], nn.Module],
    event_shape: Sequence[int],
    decoder: Callable[[tuple[int, ...]], nn.Module],
    mean: Tensor | None = None,
) -> nn.Module:
    """p(x | z); with the mean of the data, a Bernoulli decoder starts there.

    Args:
        likelihood: makes p(x | z) of a network.
        event_shape: shape of one datum.
        decoder: makes the network of its output shape.
        mean: mean of the data, ``[*event_shape]``.
    """
    p = with_network(likelihood, event_shape, decoder, default=event_shape)
    if mean is not None and isinstance(p, Bernoulli) and isinstance(p.network, Network):
        p.network.start_at(mean.clamp(0.005, 0.995).logit())
    return p


@dataclass(frozen=True)
class Dense:
    """The dense networks between x and z.

    Args:
        event_shape: shape of x.
        latent_dim: size of z, and of what the decoder sees beside it.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: class of the non-linearity.
        network: class of both networks, with the arguments of ``MLP``.
        mean: mean of the data, ``[*event_shape]``, about which the encoder sees them, and where a Bernoulli starts.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
    """

    event_shape: Sequence[int]
    latent_dim: int
    hidden: Sequence[int]
    activation: type[nn.Module]
    network: Callable[[Any, Any, Any, Any], nn.Module] = MLP
    mean: Tensor | None = None
    decoder_hidden: Sequence[int] | None = None

    def encoder(self, out_shape: Sequence[int], hidden: Sequence[int] | None = None) -> nn.Module:
        """A network of x, ``[*, *event_shape] -> [*, *out_shape]``, with other hidden layers where they are given."""
        widths = self.hidden if hidden is None else hidden
        network = made("a network", self.network, self.event_shape, out_shape, widths, self.activation)
        return network if self.mean is None else Centered(network, self.mean)

    def recognition(self, posterior: Callable[[nn.Module], nn.Module], **options: Any) -> nn.Module:
        """q(z | x), with the options of :func:`recognition`; the context of a flow is the last hidden layer.

        Raises:
            ValueError: if a flow has no hidden layer to take its parameters from, and as :func:`recognition`.
        """
        if options.get("transforms") and not self.hidden:
            raise ValueError("a flow's parameters come from the encoder's last hidden layer: give hidden at least one.")
        width = self.hidden[-1] if self.hidden else 0

        def trunk() -> nn.Module:
            return nn.Sequential(self.encoder((width,), self.hidden[:-1]), activated(self.activation))

        return recognition(posterior, self.latent_dim, self.encoder, trunk, width, **options)

    def decoding(self, likelihood: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """p(x | z)."""
        widths = tuple(reversed(self.hidden)) if self.decoder_hidden is None else self.decoder_hidden

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            return made("a network", self.network, self.latent_dim, out_shape, widths, self.activation)

        return decoding(likelihood, self.event_shape, decoder, self.mean)


def bottleneck(channels: int, inner_channels: int, activation: type[nn.Module]) -> nn.Module:
    """A residual block of images ``[N, channels, H, W]``: a 3 x 3 convolution to ``inner_channels``, a 1 x 1 back."""
    return Residual(
        nn.Sequential(
            activated(activation),
            nn.Conv2d(channels, inner_channels, 3, padding=1),
            activated(activation),
            nn.Conv2d(inner_channels, channels, 1),
        )
    )
