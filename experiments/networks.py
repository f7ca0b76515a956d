"""The networks of Kingma & Welling (2013), which several experiments train."""

from __future__ import annotations

import torch
from torch import nn

from pyro_vae import MLP, VAE, Bernoulli, DiagonalNormal, Gaussian, StandardNormal
from pyro_vae.networks import normal_init

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
    """Bernoulli on gray MNIST; Gaussian with sigmoid mean and a scale a pixel on Frey."""
    if name == "mnist":
        return Bernoulli(MLP(latent_dim, event_shape, hidden, nn.Tanh), support="unit_interval")
    return Gaussian(MLP(latent_dim, (2, *event_shape), hidden, nn.Tanh), scale=None)
