"""Bayesian linear regression with each automatic guide, and by hand."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_mean
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_programs import data


class BayesianRegression(PyroModule):
    def __init__(self, in_features=3, out_features=1):
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, out_features)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([out_features, in_features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([out_features]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def structured(model):
    return autoguide.AutoStructured(
        model,
        conditionals={"sigma": "normal", "linear.weight": "normal", "linear.bias": "normal"},
        dependencies={"linear.bias": {"linear.weight": "linear"}},
    )


def listed(model):
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoDelta(poutine.block(model, expose=["sigma"])))
    guide.append(autoguide.AutoDiagonalNormal(poutine.block(model, hide=["sigma"])))
    return guide


GUIDES = {
    "AutoNormal": autoguide.AutoNormal,
    "AutoDelta": autoguide.AutoDelta,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": lambda model: autoguide.AutoMultivariateNormal(model, init_loc_fn=init_to_mean),
    "AutoLowRankMultivariateNormal": lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=2),
    "AutoIAFNormal": lambda model: autoguide.AutoIAFNormal(model, hidden_dim=[8], num_transforms=1),
    "AutoLaplaceApproximation": autoguide.AutoLaplaceApproximation,
    "AutoStructured": structured,
    "AutoGuideList": listed,
}


def make(guide="AutoNormal"):
    model = BayesianRegression()
    return model, GUIDES[guide](model), [data.points()]


def plain(x, y):
    """The same by statements: weights are drawn and multiplied as matrices."""
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal((x @ w.t()).squeeze(-1), 0.5), obs=y)


def plain_guide(x, y):
    loc = pyro.param("w_loc", torch.zeros(1, 3))
    scale = pyro.param("w_scale", 0.1 * torch.ones(1, 3), constraint=dist.constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale).to_event(2))


def make_plain():
    return plain, plain_guide, [data.points()]
