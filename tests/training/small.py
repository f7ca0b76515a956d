"""What the tests of fit() share: a small pair, and data."""

import functools

import torch
from torch import nn

import pyro_vae
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE

fit = functools.partial(pyro_vae.fit, compile="eager", progress=False, batch_size=32)
adam = functools.partial(functools.partial, torch.optim.Adam)
SHAPE = (1, 4, 4)
LEVEL = "posterior.network.corruption.level"


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return MLPVAE(SHAPE, latent_dim=3, hidden=(16,), **arguments)


def normed(seed=0):
    pair = make(seed)
    pair.posterior.network.layers.insert(1, nn.BatchNorm1d(16))
    return pair


def images():
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(150, *SHAPE, generator=generator) < torch.rand(1, *SHAPE, generator=generator)).float()
    return Split(x[:110]), Split(x[110:])


def weights(pair):
    return torch.cat([parameter.detach().flatten() for parameter in pair.parameters()])


def assert_same_state(pair, other):
    assert pair.state_dict().keys() == other.state_dict().keys()
    for name, value in pair.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
