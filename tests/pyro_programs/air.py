"""Attend, infer, repeat: up to two objects in an image, where z_pres says whether there is another one."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.nn import functional as F

from pyro_programs import data


class AIR(nn.Module):
    def __init__(self, num_steps=2, x_size=6, window_size=3, z_what_size=4, rnn_hidden_size=12, use_baselines=True):
        super().__init__()
        self.num_steps, self.x_size, self.window_size = num_steps, x_size, window_size
        self.z_what_size, self.rnn_hidden_size, self.use_baselines = z_what_size, rnn_hidden_size, use_baselines
        self.rnn = nn.LSTMCell(x_size**2 + 3 + z_what_size + 1, rnn_hidden_size)
        self.bl_rnn = nn.LSTMCell(x_size**2 + 3 + z_what_size + 1, rnn_hidden_size)
        self.bl_predict = nn.Linear(rnn_hidden_size, 1)
        self.predict = nn.Linear(rnn_hidden_size, 1 + 2 * 3)
        self.encode = nn.Linear(window_size**2, 2 * z_what_size)
        self.decode = nn.Sequential(nn.Linear(z_what_size, window_size**2), nn.Sigmoid())

    def window(self, z_where, images, size_in, size_out):
        n = images.size(0)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = z_where[:, 0]
        theta[:, :, 2] = z_where[:, 1:]
        grid = F.affine_grid(theta, torch.Size((n, 1, size_out, size_out)), align_corners=False)
        out = F.grid_sample(images.view(n, 1, size_in, size_in), grid, align_corners=False)
        return out.view(n, size_out, size_out)

    def model(self, images):
        pyro.module("decode", self.decode)
        n = images.size(0)
        with pyro.plate("data", n, device=images.device):
            x, z_pres, total = images.new_zeros(n, self.x_size, self.x_size), images.new_ones(n, 1), 0.0
            for t in range(self.num_steps):
                z_pres = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.4 * z_pres).to_event(1))
                mask = z_pres.bool()
                z_where = pyro.sample(
                    f"z_where_{t}", dist.Normal(torch.tensor([3.0, 0.0, 0.0]).expand(n, 3), 0.5).mask(mask).to_event(1)
                )
                z_what = pyro.sample(
                    f"z_what_{t}", dist.Normal(images.new_zeros(n, self.z_what_size), 1.0).mask(mask).to_event(1)
                )
                y = self.window(z_where, self.decode(z_what), self.window_size, self.x_size)
                x = x + y * z_pres.view(n, 1, 1)
                total = total + z_pres
            pyro.sample("obs", dist.Normal(x.view(n, -1), 0.3).to_event(1), obs=images.view(n, -1))
        return total, x

    def guide(self, images):
        pyro.module("air", self)
        n = images.size(0)
        with pyro.plate("data", n, device=images.device):
            h = c = bl_h = bl_c = images.new_zeros(n, self.rnn_hidden_size)
            z_pres, z_where, z_what = (
                images.new_ones(n, 1),
                images.new_zeros(n, 3),
                images.new_zeros(n, self.z_what_size),
            )
            for t in range(self.num_steps):
                rnn_input = torch.cat((images.reshape(n, -1), z_where, z_what, z_pres), 1)
                infer = {}
                if self.use_baselines:
                    bl_h, bl_c = self.bl_rnn(rnn_input.detach(), (bl_h, bl_c))
                    infer = dict(baseline=dict(baseline_value=self.bl_predict(bl_h).squeeze(-1) * z_pres.squeeze(-1)))
                h, c = self.rnn(rnn_input, (h, c))
                pres, loc, scale = self.predict(h).split([1, 3, 3], -1)
                z_pres = pyro.sample(
                    f"z_pres_{t}", dist.Bernoulli(torch.sigmoid(pres) * z_pres).to_event(1), infer=infer
                )
                mask = z_pres.bool()
                where = dist.Normal(loc + torch.tensor([3.0, 0.0, 0.0]), F.softplus(scale))
                z_where = pyro.sample(f"z_where_{t}", where.mask(mask).to_event(1))
                inverse = torch.cat((1 / z_where[:, :1], -z_where[:, 1:] / z_where[:, :1]), 1)
                glimpse = self.window(inverse, images, self.x_size, self.window_size)
                loc, scale = self.encode(glimpse.view(n, -1)).chunk(2, -1)
                z_what = pyro.sample(f"z_what_{t}", dist.Normal(loc, F.softplus(scale)).mask(mask).to_event(1))


def make(use_baselines=True):
    air = AIR(use_baselines=use_baselines)
    return air, [(data.images(10, 6),)]
