"""The VAE of data that come with a condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, made, shown
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense, StepFactory, decoding, with_network
from pyro_vae.networks import MLP, Joined, Numbers, OneHot, shape_of
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.vae import CVAE


class ConditionalVAE(CVAE):
    r"""One latent of data that come with a condition c, multilayer perceptrons on all sides.

    .. math::
        z \sim p(z \mid \mathrm{MLP}(c)), \quad x \sim p(x \mid \mathrm{MLP}(z, c)), \qquad
        z \sim q(z \mid \mathrm{MLP}(x, c))

    with diagonal Gaussians and Bernoulli pixels unless told otherwise. Arguments are ``x: [B, *event]`` and c: labels
    ``[B]``, whole numbers 0 ... K - 1, or numbers ``[B, *condition]``, such as an image of which x is the missing part.
    Of c nothing is modeled: bounds and evidences are of log p(x | c). Labels that are none of the classes are refused
    where the programs run, and become NaN in a training step of one graph, which stops.

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        condition_shape: the number of classes K, where c are labels; or the shape of one condition, for example
            (1, 28, 28). uint8 are pixels.
        latent_dim: size of z.
        hidden: widths of the hidden layers of q(z | x, c) and p(z | c); the decoder has them in reverse. c enters each
            first layer.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        prior: makes a p(z) of ``latent_dim`` that is the same for all conditions, a class of :mod:`pyro_vae.priors` or
            a function. By default p(z | c) is learned, of the family of ``posterior``.
        posterior: makes q(z | x, c) of the encoder, a class of :mod:`pyro_vae.posteriors` or a function.
        transforms: a normalizing flow on the posterior, see :class:`~pyro_vae.models.MLPVAE`.
        num_transforms: number of steps of the flow; by default one of each.
        amortized: whether the flow's parameters come from the encoder.
        likelihood: makes p(x | z, c) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, of shape ``event_shape``, see :class:`~pyro_vae.models.MLPVAE`.
        condition_mean: mean of the conditions, where they are no labels: all networks see c about it.
        condition_scale: of the conditions, in units of which all networks see them.

    Raises:
        ValueError: if there is no condition, or a mean or scale is of another shape; and as
            :class:`~pyro_vae.models.MLPVAE`. When run: if c has not one condition of the shape, or label of the
            classes, for each datum.

    Source: Sohn, Lee & Yan (2015), Learning structured output representation using deep conditional generative models,
        section 4.1, without the recurrent connection.

    >>> import torch
    >>> cvae = ConditionalVAE((1, 28, 28), 10, latent_dim=5, hidden=(100,))
    >>> cvae.model(None, torch.tensor([3, 8])).shape
    torch.Size([2, 1, 28, 28])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        condition_shape: int | Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        decoder_hidden: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        prior: Callable[[int], nn.Module] | None = None,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        transforms: Sequence[StepFactory] = (),
        num_transforms: int | None = None,
        amortized: bool = True,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
        condition_mean: Tensor | None = None,
        condition_scale: Tensor | None = None,
    ) -> None:
        event = shape_of("event_shape", event_shape)
        condition = condition_of("ConditionalVAE", condition_shape, condition_mean, condition_scale)
        size = condition.num_classes if isinstance(condition, OneHot) else condition.in_shape.numel()
        beside = torch.zeros(size)
        if mean is not None and mean.shape != event:
            raise ValueError(
                f"the mean of the data has to be of their shape event_shape={tuple(event)}; got {list(mean.shape)}."
            )
        joint = None if mean is None else torch.cat([mean.flatten(), beside.to(mean)])
        dense = Dense((event.numel() + size,), latent_dim, hidden, activation, network, joint)
        q = dense.recognition(posterior, transforms=transforms, num_transforms=num_transforms, amortized=amortized)

        def of_condition(out_shape: tuple[int, ...]) -> nn.Module:
            return made("a network", network, size, out_shape, hidden, activation)

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            widths = tuple(reversed(hidden)) if decoder_hidden is None else decoder_hidden
            return made("a network", network, latent_dim + size, out_shape, widths, activation)

        p_z: nn.Module
        if prior is None:
            p_z = with_network(posterior, (latent_dim,), of_condition, default=(2, latent_dim))
        else:
            p_z = SameForAll(made("a prior", prior, latent_dim))
        p_x = decoding(likelihood, event, decoder, mean)
        super().__init__(p_z, Joined(q, event), Joined(p_x, latent_dim), condition)


class SameForAll(nn.Module):
    """A prior p(z) in the place of p(z | c)."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, c: Tensor) -> Any:
        return self.prior()


def condition_of(
    who: str, condition_shape: int | Sequence[int], mean: Tensor | None = None, scale: Tensor | None = None
) -> OneHot | Numbers:
    """What makes vectors of conditions: of labels, where ``condition_shape`` is their number, or of tensors.

    Raises:
        ValueError: if there is no condition, or labels have a mean or scale.
    """
    if not isinstance(condition_shape, Sequence):
        for name, given in {"mean": mean, "scale": scale}.items():
            if given is not None:
                raise ValueError(
                    f"condition_{name} is of conditions that are numbers, and c are labels; got {shown(given)}."
                )
        return OneHot(condition_shape)
    if not len(condition_shape):
        raise ValueError(
            f"a {who} is given a condition beside each datum, and there is none. Give condition_shape, a number of "
            "classes or a shape; on the command line, data with labels, or with --covariates or --quadrants."
        )
    return Numbers(condition_shape, mean, scale=scale)
