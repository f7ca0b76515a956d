"""Autoencoders with flows of Pyro: in the prior, and in the guide."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import nn

from pyro_programs import data

PRIORS = {
    "affine_coupling": lambda dim: T.affine_coupling(dim, hidden_dims=[8]),
    "spline_coupling": lambda dim: T.spline_coupling(dim, hidden_dims=[8], count_bins=4),
}
GUIDES = {
    "iaf": lambda dim, context: T.conditional_affine_autoregressive(dim, context, hidden_dims=[8]),
    "planar": lambda dim, context: T.conditional_planar(dim, context, hidden_dims=[8]),
}


class FlowPriorVAE(nn.Module):
    def __init__(self, flow="affine_coupling", z_dim=4, hidden=12):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, hidden), nn.Tanh(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Tanh(), nn.Linear(hidden, 16))
        self.register_buffer("zero", torch.zeros(z_dim))
        self.register_buffer("one", torch.ones(z_dim))
        self.flow = PRIORS[flow](z_dim)

    def model(self, x):
        pyro.module("vae", self)
        base = dist.Normal(self.zero, self.one).to_event(1)
        prior = dist.TransformedDistribution(base, [self.flow])
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        pyro.module("vae", self)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class FlowGuideVAE(nn.Module):
    def __init__(self, flow="iaf", z_dim=4, hidden=12):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, 2 * z_dim)
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Tanh(), nn.Linear(hidden, 16))
        self.z_dim = z_dim
        self.flow = GUIDES[flow](z_dim, hidden)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], self.z_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        pyro.module("head", self.head)
        pyro.module("flow", self.flow)
        with pyro.plate("data", x.shape[0]):
            hidden = self.encoder(x.flatten(1))
            loc, log_scale = self.head(hidden).chunk(2, -1)
            base = dist.Normal(loc, log_scale.exp())
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow.condition(hidden)]))


def make_prior(flow="affine_coupling"):
    vae = FlowPriorVAE(flow)
    return vae, [(data.binary_images(),)]


def make_guide(flow="iaf"):
    vae = FlowGuideVAE(flow)
    return vae, [(data.binary_images(),)]
