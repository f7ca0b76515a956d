"""A conditional variational autoencoder: p(z) p(x | z, y), where y is given and nothing that is observed."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_programs import data


class CVAE(nn.Module):
    def __init__(self, z_dim=3, num_classes=3, hidden=12):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(16 + num_classes, hidden), nn.ReLU(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim + num_classes, hidden), nn.ReLU(), nn.Linear(hidden, 16))

    def model(self, x, y):
        pyro.module("generation_net", self.decoder)
        batch_size = x.shape[0]
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(x.new_zeros(batch_size, self.z_dim), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.view(batch_size, -1))
            return logits

    def guide(self, x, y):
        pyro.module("recognition_net", self.encoder)
        batch_size = x.shape[0]
        with pyro.plate("data"):
            hidden = self.encoder(torch.cat([x.view(batch_size, -1), y], -1))
            loc, log_scale = hidden.chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def make():
    cvae = CVAE()
    return cvae, [(data.binary_images(), data.one_hot_labels())]
