"""The semi-supervised variational autoencoder M2, whose missing labels are enumerated."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import nn

from pyro_programs import data


class Concatenated(nn.Module):
    """A network of several arguments, which are broadcast to each other."""

    def __init__(self, *sizes):
        super().__init__()
        self.hidden = nn.Linear(sizes[0], sizes[1])
        self.out = nn.Linear(sizes[1], sizes[2])

    def forward(self, *inputs):
        shape = torch.broadcast_shapes(*(value.shape[:-1] for value in inputs))
        joined = torch.cat([value.expand(shape + value.shape[-1:]) for value in inputs], -1)
        return self.out(nn.functional.softplus(self.hidden(joined)))


class SSVAE(nn.Module):
    def __init__(self, output_size=3, input_size=16, z_dim=3, hidden=12, aux_loss_multiplier=None):
        super().__init__()
        self.output_size, self.input_size, self.z_dim = output_size, input_size, z_dim
        self.aux_loss_multiplier = aux_loss_multiplier
        self.encoder_y = Concatenated(input_size, hidden, output_size)
        self.encoder_z = Concatenated(input_size + output_size, hidden, 2 * z_dim)
        self.decoder = Concatenated(z_dim + output_size, hidden, input_size)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        options = dict(dtype=xs.dtype, device=xs.device)
        with pyro.plate("data"):
            prior_loc = torch.zeros(batch_size, self.z_dim, **options)
            prior_scale = torch.ones(batch_size, self.z_dim, **options)
            zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
            alpha_prior = torch.ones(batch_size, self.output_size, **options) / (1.0 * self.output_size)
            ys = pyro.sample("y", dist.OneHotCategorical(alpha_prior), obs=ys)
            loc = torch.sigmoid(self.decoder(zs, ys))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                alpha = self.encoder_y(xs).softmax(-1)
                ys = pyro.sample("y", dist.OneHotCategorical(alpha))
            loc, log_scale = self.encoder_z(xs, ys).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model_classify(self, xs, ys=None):
        """The auxiliary loss of Kingma et al."""
        pyro.module("ss_vae", self)
        with pyro.plate("data"):
            if ys is not None:
                alpha = self.encoder_y(xs).softmax(-1)
                with pyro.poutine.scale(scale=self.aux_loss_multiplier):
                    pyro.sample("y_aux", dist.OneHotCategorical(alpha), obs=ys)

    def guide_classify(self, xs, ys=None):
        pass


def make():
    ss_vae = SSVAE()
    xs, ys = data.images().flatten(1), data.one_hot_labels()
    return ss_vae.model, config_enumerate(ss_vae.guide, "parallel", expand=True), [(xs,), (xs, ys)]
