"""How the systems put their parts together."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import (
    MLP,
    Centered,
    ConvDecoder,
    ConvEncoder,
    Corrupted,
    Network,
    Normalization,
    shape_of,
)
from pyro_vae.networks.layers import normalizer
from pyro_vae.posteriors import Flow

#: Makes a step of a flow, such as a class of :mod:`pyro_vae.transforms`, of the size of the latent and of the context.
StepFactory = Callable[[int, int | None], nn.Module]


def with_network(
    make: Callable[[nn.Module], nn.Module],
    shape: Sequence[int],
    network: Callable[[tuple[int, ...]], nn.Module],
    default: Sequence[int],
) -> Any:
    """What ``make`` gives of a network with the output that it asks for.

    Args:
        make: a class of :mod:`pyro_vae.posteriors` or :mod:`pyro_vae.likelihoods`, or a function of a network.
        shape: event shape of the variable, of which ``network_shape`` makes that of the network's output.
        network: makes the network of an output shape.
        default: the output shape where ``make`` gives something without ``network_shape``.
    """
    asked: Any = None
    with torch.random.fork_rng(devices=[]), contextlib.suppress(AttributeError, TypeError):
        asked = make(nn.Identity()).network_shape  # what looks at its network has to take the default
    return make(network(tuple(default) if asked is None else tuple(asked(shape))))


def image_shape(who: str, event_shape: Sequence[int]) -> tuple[int, int, int]:
    """``event_shape`` as (channels, height, width); ``who`` is made of images, for the message.

    Raises:
        ValueError: if it is something else, or a size is below 1.
    """
    shape = shape_of("event_shape", event_shape)
    if len(shape) != 3:
        raise ValueError(f"{who} is of images, of event_shape (channels, height, width); got {tuple(shape)}.")
    return shape[0], shape[1], shape[2]


def dense_recognition(
    posterior: Callable[[nn.Module], nn.Module],
    event_shape: Sequence[int],
    latent_dim: int,
    hidden: Sequence[int],
    activation: type[nn.Module],
    network: Callable[[Any, Any, Any, Any], nn.Module],
    mean: Tensor | None = None,
    **options: Any,
) -> nn.Module:
    """q(z | x) of a dense encoder; the context of a flow is its last hidden layer.

    Args:
        posterior: makes q(z | x), or the base of the flow, of a network.
        event_shape: shape of one datum.
        latent_dim: size of z.
        hidden: widths of the hidden layers.
        activation: class of the non-linearity.
        network: class of the encoder, with the arguments of ``MLP``.
        mean: mean of the data, ``[*event_shape]``, about which the encoder sees them.
        options: transforms, num_transforms, amortized and corruption, see :func:`recognition`.

    Raises:
        ValueError: if a flow has no hidden layer to take its parameters from, and as :func:`recognition`.
    """
    if options.get("transforms") and not hidden:
        raise ValueError("a flow's parameters come from the encoder's last hidden layer: give hidden at least one.")

    def encoder(out_shape: Sequence[int], hidden: Sequence[int] = hidden) -> nn.Module:
        net = network(event_shape, out_shape, hidden, activation)
        return net if mean is None else Centered(net, mean)

    return recognition(
        posterior,
        latent_dim,
        encoder,
        trunk=lambda: nn.Sequential(encoder((hidden[-1],), hidden[:-1]), activation()),
        width=hidden[-1] if hidden else 0,
        **options,
    )


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


def dense_decoding(
    likelihood: Callable[[nn.Module], nn.Module],
    event_shape: Sequence[int],
    latent_dim: int,
    hidden: Sequence[int],
    activation: type[nn.Module],
    network: Callable[[Any, Any, Any, Any], nn.Module],
    mean: Tensor | None = None,
    decoder_hidden: Sequence[int] | None = None,
) -> nn.Module:
    """p(x | z) of a dense decoder, the counterpart of :func:`dense_recognition`.

    Args:
        likelihood: makes p(x | z) of a network.
        event_shape: shape of one datum.
        latent_dim: size of z.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: class of the non-linearity.
        network: class of the decoder, with the arguments of ``MLP``.
        mean: mean of the data, ``[*event_shape]``, see :func:`decoding`.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
    """
    widths = tuple(reversed(hidden)) if decoder_hidden is None else decoder_hidden
    return decoding(likelihood, event_shape, lambda shape: network(latent_dim, shape, widths, activation), mean)


def recognition(
    posterior: Callable[[nn.Module], nn.Module],
    latent_dim: int,
    encoder: Callable[[tuple[int, ...]], nn.Module],
    *,
    transforms: Sequence[StepFactory] = (),
    num_transforms: int | None = None,
    amortized: bool = True,
    trunk: Callable[[], nn.Module],
    width: int,
    corruption: nn.Module | None = None,
) -> nn.Module:
    r"""q(z | x), with a flow on it where there are ``transforms``.

    .. math:: h = \mathrm{trunk}(x), \quad z_0 \sim q_0(z_0 \mid h), \quad z = f_K(\dots f_1(z_0; h) \dots; h)

    Args:
        posterior: makes q(z | x), or the base of the flow, of a network.
        latent_dim: size of z.
        encoder: makes the network of a posterior without a flow, of its output shape.
        transforms: make the steps of the flow, in their order.
        num_transforms: number of steps K: ``transforms`` from the first again and again. By default one of each; 0 for
            no flow.
        amortized: whether the steps' parameters come from h.
        trunk: makes the network that gives h.
        width: size of h.
        corruption: of x on its way into the encoder or the trunk; it becomes ``network.corruption`` of the posterior.

    Raises:
        ValueError: if ``num_transforms`` is below the number of ``transforms``, or there are none to repeat.
    """

    def corrupted(network: nn.Module) -> nn.Module:
        return network if corruption is None else Corrupted(network, corruption)

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


def corruption_of(posterior: Any) -> nn.Module | None:
    """The corruption that :func:`recognition` was given, ``None`` where it was given none."""
    return next((module.corruption for module in posterior.modules() if isinstance(module, Corrupted)), None)


@dataclass(frozen=True)
class Chain:
    """The networks between neighbors of a chain of latents, x - z_1 - ... - z_L.

    Args:
        event_shape: shape of x.
        latent_dims: sizes of z_1, ..., z_L.
        hidden: width of the hidden layers between x and z_1, z_1 and z_2, ...
        depth: number of hidden layers between two neighbors.
        activation: class of the non-linearity.
        normalization: of the hidden layers, see :class:`~pyro_vae.networks.MLP`.
        mean: mean of the data, ``[*event_shape]``, about which the encoder sees them, and where a Bernoulli starts.
        channels: of convolutions between x and the one hidden layer before z_1; ``None`` for none.

    Raises:
        ValueError: if there is not one width for each latent, or a size is below 1.
    """

    event_shape: Sequence[int]
    latent_dims: Sequence[int]
    hidden: Sequence[int]
    depth: int
    activation: type[nn.Module]
    normalization: Normalization | None
    mean: Tensor | None = None
    channels: Sequence[int] | None = None

    def __post_init__(self) -> None:
        shape_of("latent_dims", self.latent_dims)
        shape_of("hidden", self.hidden)
        shape_of("depth", self.depth)
        if len(self.latent_dims) != len(self.hidden):
            raise ValueError(
                f"a hierarchy has a width of hidden layers for each latent; got {len(self.latent_dims)} latents, "
                f"latent_dims={tuple(self.latent_dims)}, and {len(self.hidden)} widths, hidden={tuple(self.hidden)}."
            )

    def widths(self, level: int) -> tuple[int, ...]:
        """The hidden layers between z_level and z_(level + 1), where z_0 is x."""
        return (self.hidden[level],) * self.depth

    def encoder(self, out_shape: int | Sequence[int]) -> nn.Module:
        """A network of x with the hidden layers before z_1, ``[*, *event_shape] -> [*, *out_shape]``."""
        return self._recognizing(out_shape, self.widths(0))

    def trunk(self) -> nn.Module:
        """The hidden layers before z_1 alone, ``[*, *event_shape] -> [*, hidden[0]]``."""
        width = self.hidden[0]
        last = [*normalizer(width, self.normalization), self.activation()]
        return nn.Sequential(self._recognizing(width, self.widths(0)[1:]), *last)

    def _recognizing(self, out_shape: int | Sequence[int], hidden: Sequence[int]) -> nn.Module:
        network: nn.Module
        if self.channels is None:
            network = MLP(self.event_shape, out_shape, hidden, self.activation, self.normalization)
        else:  # with one hidden layer behind the convolutions, or none in a trunk, which is that layer
            dense = self.hidden[0] if len(hidden) == self.depth else None
            network = ConvEncoder(
                self.event_shape, out_shape, self.channels, dense, self.activation, self.normalization
            )
        return network if self.mean is None else Centered(network, self.mean)

    def downwards(self) -> list[nn.Module]:
        """The networks of p(z_l | z_(l+1)), l = 1, ..., L - 1: loc and log variance stacked, ``[*, 2, d_l]``."""
        pairs = enumerate(itertools.pairwise(self.latent_dims), 1)
        return [
            MLP(above, (2, below), self.widths(level), self.activation, self.normalization)
            for level, (below, above) in pairs
        ]

    def decoding(self, likelihood: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """p(x | z_1)."""

        def decoder(shape: tuple[int, ...]) -> nn.Module:
            if self.channels is None:
                return MLP(self.latent_dims[0], shape, self.widths(0), self.activation, self.normalization)
            inwards = tuple(reversed(self.channels))
            return ConvDecoder(self.latent_dims[0], shape, inwards, self.hidden[0], self.activation, self.normalization)

        return decoding(likelihood, self.event_shape, decoder, self.mean)
