"""An autoencoder whose prior is a flow of Zuko."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import zuko
from pyro.contrib.zuko import ZukoToPyro
from torch import nn

from pyro_programs import data


class ZukoVAE(nn.Module):
    def __init__(self, z_dim=3, hidden=12):
        super().__init__()
        self.prior = zuko.flows.MAF(features=z_dim, transforms=1, hidden_features=(8,))
        self.encoder = nn.Sequential(nn.Linear(16, hidden), nn.Tanh(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Tanh(), nn.Linear(hidden, 16))

    def model(self, x):
        pyro.module("prior", self.prior)
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", ZukoToPyro(self.prior()))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def make():
    vae = ZukoVAE()
    return vae, [(data.binary_images(),)]
