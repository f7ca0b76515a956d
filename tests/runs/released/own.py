"""A pair of one's own, which only its maker can build: its network is made outside of it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import pair_method


class Own(PyroModule):
    """A linear Gaussian pair with a bare ``pyro.param``, which its guide makes at its first run."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, nn.Linear(4, 2)

    @pair_method
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    @pair_method
    def guide(self, x: Tensor) -> None:
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), scale).to_event(1))


def own(seed: int = 0) -> Own:
    torch.manual_seed(seed)
    return Own(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 4)))
