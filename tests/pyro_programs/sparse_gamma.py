"""A deep exponential family of gammas: global weights and two local layers; a guide by hand, and an EasyGuide."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.easyguide import EasyGuide
from torch.nn.functional import softplus

from pyro_programs import data

TOP, BOTTOM, FEATURES = 3, 4, 10


def model(x):
    x_size = x.size(0)
    with pyro.plate("w_top_plate", TOP * BOTTOM):
        w_top = pyro.sample("w_top", dist.Gamma(0.1, 0.3))
    with pyro.plate("w_bottom_plate", BOTTOM * FEATURES):
        w_bottom = pyro.sample("w_bottom", dist.Gamma(0.1, 0.3))
    with pyro.plate("data", x_size):
        z_top = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([TOP]).to_event(1))
        w_top = w_top.reshape(TOP, BOTTOM) if w_top.dim() == 1 else w_top.reshape(-1, TOP, BOTTOM)
        mean_bottom = torch.matmul(z_top, w_top)
        z_bottom = pyro.sample("z_bottom", dist.Gamma(0.1, 0.1 / mean_bottom).to_event(1))
        w_bottom = w_bottom.reshape(BOTTOM, FEATURES) if w_bottom.dim() == 1 else w_bottom.reshape(-1, BOTTOM, FEATURES)
        mean_obs = torch.matmul(z_bottom, w_bottom)
        pyro.sample("obs", dist.Poisson(mean_obs).to_event(1), obs=x)


def rand_tensor(shape, mean, sigma):
    return mean * torch.ones(shape) + sigma * torch.randn(shape)


def sample_zs(name, size, width):
    alpha = softplus(pyro.param(f"alpha_{name}", lambda: rand_tensor((size, width), 0.5, 0.1)))
    mean = softplus(pyro.param(f"mean_{name}", lambda: rand_tensor((size, width), 0.0, 0.1)))
    pyro.sample(name, dist.Gamma(alpha, alpha / mean).to_event(1))


def sample_ws(name, size):
    alpha = softplus(pyro.param(f"alpha_{name}", lambda: rand_tensor((size,), 0.5, 0.1)))
    mean = softplus(pyro.param(f"mean_{name}", lambda: rand_tensor((size,), 0.0, 0.1)))
    pyro.sample(name, dist.Gamma(alpha, alpha / mean))


def guide(x):
    with pyro.plate("w_top_plate", TOP * BOTTOM):
        sample_ws("w_top", TOP * BOTTOM)
    with pyro.plate("w_bottom_plate", BOTTOM * FEATURES):
        sample_ws("w_bottom", BOTTOM * FEATURES)
    with pyro.plate("data", x.size(0)):
        sample_zs("z_top", x.size(0), TOP)
        sample_zs("z_bottom", x.size(0), BOTTOM)


class MyEasyGuide(EasyGuide):
    def guide(self, x):
        global_group = self.group(match="w_")
        global_mean = pyro.param("w_mean", lambda: rand_tensor(global_group.event_shape, 0.5, 0.1))
        global_scale = softplus(pyro.param("w_sigma", lambda: rand_tensor(global_group.event_shape, 0.0, 0.1)))
        global_group.sample("ws", dist.Normal(global_mean, global_scale).to_event(1))
        local_group = self.group(match="z_")
        x_shape = x.shape[:1] + local_group.event_shape
        with self.plate("data", x.size(0)):
            local_mean = pyro.param("z_mean", lambda: rand_tensor(x_shape, 0.5, 0.1))
            local_scale = softplus(pyro.param("z_sigma", lambda: rand_tensor(x_shape, 0.0, 0.1)))
            local_group.sample("zs", dist.Normal(local_mean, local_scale).to_event(1))


def make(kind="custom"):
    return model, guide if kind == "custom" else MyEasyGuide(model), [(data.counts(),)]
