"""A hierarchy of counts in the manner of scANVI: library size l, codes z2 and z1, a class y that is seen or not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softmax, softplus

from pyro_programs import data


def network(inputs, outputs, hidden=10):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def apply(net, *inputs):
    """Broadcasts, joins and reshapes, since a ``BatchNorm1d`` takes one batch dimension alone."""
    shape = torch.broadcast_shapes(*(value.shape[:-1] for value in inputs))
    joined = torch.cat([value.expand(shape + value.shape[-1:]) for value in inputs], -1)
    return net(joined.reshape(-1, joined.size(-1))).reshape((*shape, -1))


class SCANVI(nn.Module):
    def __init__(self, num_genes=10, num_labels=3, latent_dim=2, l_loc=2.5, l_scale=0.5, alpha=0.1, scale_factor=0.1):
        super().__init__()
        self.num_genes, self.num_labels, self.latent_dim = num_genes, num_labels, latent_dim
        self.l_loc, self.l_scale, self.alpha, self.scale_factor = l_loc, l_scale, alpha, scale_factor
        self.z2_decoder = network(num_labels + latent_dim, 2 * latent_dim)
        self.x_decoder = network(latent_dim, 2 * num_genes)
        self.z2l_encoder = network(num_genes, 2 * latent_dim + 2)
        self.classifier = network(latent_dim, num_labels)
        self.z1_encoder = network(num_labels + latent_dim, 2 * latent_dim)

    def model(self, x, y=None, annealing_factor=1.0):
        pyro.module("scanvi", self)
        theta = pyro.param("inverse_dispersion", 10.0 * x.new_ones(self.num_genes), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            with poutine.scale(scale=annealing_factor):
                z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(self.latent_dim)).to_event(1))
                y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(self.num_labels)), obs=y)
                z2_loc, z2_scale = apply(self.z2_decoder, z1, y).chunk(2, -1)
                z2 = pyro.sample("z2", dist.Normal(z2_loc, softplus(z2_scale)).to_event(1))
                l_scale = self.l_scale * x.new_ones(1)
                l = pyro.sample("l", dist.LogNormal(self.l_loc, l_scale).to_event(1))  # noqa: E741
            gate_logits, mu = apply(self.x_decoder, z2).chunk(2, -1)
            mu = softmax(mu, dim=-1)
            nb_logits = (l * mu + 1e-6).log() - (theta + 1e-6).log()
            x_dist = dist.ZeroInflatedNegativeBinomial(gate_logits=gate_logits, total_count=theta, logits=nb_logits)
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(self, x, y=None, annealing_factor=1.0):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            out = apply(self.z2l_encoder, torch.log(1 + x))
            z2_loc, z2_scale = out[..., : self.latent_dim], softplus(out[..., self.latent_dim : 2 * self.latent_dim])
            l_loc, l_scale = out[..., -2:-1], softplus(out[..., -1:])
            with poutine.scale(scale=annealing_factor):
                pyro.sample("l", dist.LogNormal(l_loc, l_scale).to_event(1))
                z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_scale).to_event(1))
                y_dist = dist.OneHotCategorical(logits=apply(self.classifier, z2))
                if y is None:
                    y = pyro.sample("y", y_dist)
                else:
                    classification_loss = y_dist.log_prob(y)
                    pyro.factor("classification_loss", -self.alpha * classification_loss, has_rsample=False)
                z1_loc, z1_scale = apply(self.z1_encoder, z2, y).chunk(2, -1)
                pyro.sample("z1", dist.Normal(z1_loc, softplus(z1_scale)).to_event(1))


def make(labeled=False):
    scanvi = SCANVI()
    guide = config_enumerate(scanvi.guide, "parallel", expand=True)
    x, y = data.counts(), data.one_hot_labels()
    return scanvi.model, guide, [(x, y, 0.5)] if labeled else [(x,)]
