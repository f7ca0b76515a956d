"""The networks of Kingma & Welling (2013), and a network alone, which several experiments train."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import MLP, VAE, Bernoulli, DiagonalNormal, Gaussian, StandardNormal, pair_method
from pyro_vae.networks import normal_init
from pyro_vae.pair import data_plate

HIDDEN = {"mnist": 500, "frey": 200}  # units, Figure 2


def published_pair(name: str, event_shape: torch.Size, latent_dim: int, hidden: int | None = None) -> VAE:
    """The paper's networks: one hidden layer of tanh on each side, weights from N(0, 0.01^2).

    ``name`` is that of the data, ``"mnist"`` or ``"frey"``; ``hidden`` is by default as in Figure 2.
    """
    units = (hidden or HIDDEN[name],)
    encoder = MLP(event_shape, (2, latent_dim), units, nn.Tanh)
    pair = VAE(StandardNormal(latent_dim), DiagonalNormal(encoder), likelihood(name, event_shape, latent_dim, units))
    normal_init(pair, 0.01)
    return pair


def likelihood(name: str, event_shape: torch.Size, latent_dim: int, hidden: tuple[int, ...]) -> nn.Module:
    """Bernoulli on gray MNIST; Gaussian with sigmoid mean and a scale a pixel, without a floor, on Frey."""
    if name == "mnist":
        return Bernoulli(MLP(latent_dim, event_shape, hidden, nn.Tanh), support="unit_interval")
    network = MLP(latent_dim, (2, *event_shape), hidden, nn.Tanh)
    return Gaussian(network, scale=None, min_log_scale=-math.inf)


class Plain(PyroModule):
    r"""A network alone, as a pair without latents, :math:`x \sim p(x \mid c)`, trained by maximum likelihood.

    Args:
        likelihood: ``c -> p(x | c)``.
    """

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood

    @pair_method
    def model(self, x: Tensor | None, c: Tensor) -> Any:
        """x ~ p(x | c)."""
        with data_plate(c if x is None else x):
            return pyro.sample("x", self.likelihood(c), obs=x)

    @pair_method
    def guide(self, x: Tensor | None, c: Tensor) -> None:
        """There is no latent."""


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
