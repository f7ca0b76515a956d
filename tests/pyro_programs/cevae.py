"""A causal effect variational autoencoder: proxies x, treatment t, outcome y and a confounder z."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from pyro.nn import PyroModule
from pyro.util import torch_isnan
from torch import nn

from pyro_programs import data


class Head(nn.Module):
    """Parameters of a normal, or the logits of a Bernoulli, from a small network."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 8), nn.ELU(), nn.Linear(8, outputs))

    def forward(self, x):
        return self.net(x)


class Model(PyroModule):
    def __init__(self, config):
        self.latent_dim = config["latent_dim"]
        super().__init__()
        self.x_nn = Head(config["latent_dim"], 2 * config["feature_dim"])
        self.y0_nn, self.y1_nn = Head(config["latent_dim"], 2), Head(config["latent_dim"], 2)
        self.t_nn = Head(config["latent_dim"], 1)

    def forward(self, x, t=None, y=None, size=None):
        if size is None:
            size = x.size(0)
        with pyro.plate("data", size, subsample=x):
            z = pyro.sample("z", self.z_dist())
            x = pyro.sample("x", self.x_dist(z), obs=x)
            t = pyro.sample("t", self.t_dist(z), obs=t)
            y = pyro.sample("y", self.y_dist(t, z), obs=y)
        return y

    def z_dist(self):
        return dist.Normal(0, 1).expand([self.latent_dim]).to_event(1)

    def x_dist(self, z):
        loc, scale = self.x_nn(z).chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(scale)).to_event(1)

    def y_dist(self, t, z):
        loc0, scale0 = self.y0_nn(z).unbind(-1)
        loc1, scale1 = self.y1_nn(z).unbind(-1)
        t = t.bool()
        return dist.Normal(torch.where(t, loc1, loc0), nn.functional.softplus(torch.where(t, scale1, scale0)))

    def t_dist(self, z):
        return dist.Bernoulli(logits=self.t_nn(z).squeeze(-1))


class Guide(PyroModule):
    def __init__(self, config):
        super().__init__()
        self.t_nn = Head(config["feature_dim"], 1)
        self.y_nn = Head(config["feature_dim"] + 1, 2)
        self.z_nn = Head(config["feature_dim"] + 2, 2 * config["latent_dim"])

    def forward(self, x, t=None, y=None, size=None):
        if size is None:
            size = x.size(0)
        with pyro.plate("data", size, subsample=x):
            t = pyro.sample("t", self.t_dist(x), obs=t, infer={"is_auxiliary": True})
            y = pyro.sample("y", self.y_dist(t, x), obs=y, infer={"is_auxiliary": True})
            pyro.sample("z", self.z_dist(y, t, x))

    def t_dist(self, x):
        return dist.Bernoulli(logits=self.t_nn(x).squeeze(-1))

    def y_dist(self, t, x):
        loc, scale = self.y_nn(torch.cat([x, t.unsqueeze(-1)], dim=-1)).unbind(-1)
        return dist.Normal(loc, nn.functional.softplus(scale))

    def z_dist(self, y, t, x):
        loc, scale = self.z_nn(torch.cat([x, t.unsqueeze(-1), y.unsqueeze(-1)], dim=-1)).chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(scale)).to_event(1)


class TraceCausalEffect_ELBO(Trace_ELBO):
    """Adds log q(t | x) + log q(y | t, x), so that the guide can predict them for new data."""

    def _differentiable_loss_particle(self, model_trace, guide_trace):
        blocked_names = [
            name for name, site in guide_trace.nodes.items() if site["type"] == "sample" and site["is_observed"]
        ]
        blocked_guide_trace = guide_trace.copy()
        for name in blocked_names:
            del blocked_guide_trace.nodes[name]
        loss, surrogate_loss = super()._differentiable_loss_particle(model_trace, blocked_guide_trace)
        for name in blocked_names:
            log_q = guide_trace.nodes[name]["log_prob_sum"]
            loss = loss - torch_item(log_q)
            surrogate_loss = surrogate_loss - log_q
        return loss, surrogate_loss

    @torch.no_grad()
    def loss(self, model, guide, *args, **kwargs):
        return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))


class CEVAE(nn.Module):
    def __init__(self, feature_dim=3, latent_dim=2):
        super().__init__()
        config = dict(feature_dim=feature_dim, latent_dim=latent_dim)
        self.model = Model(config)
        self.guide = Guide(config)

    def ite(self, x, num_samples=10):
        with pyro.plate("num_particles", num_samples, dim=-2):
            with poutine.trace() as tr, poutine.block(hide=["y", "t"]):
                self.guide(x)
            with poutine.do(data=dict(t=torch.zeros(()))):
                y0 = poutine.replay(self.model.forward, tr.trace)(x)
        assert not torch_isnan(y0)
        return y0


def make():
    cevae = CEVAE()
    x, y = data.points(20)
    return cevae, [(x, (x[:, 0] > 0).float(), y)]
