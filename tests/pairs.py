"""Toy pairs, each written as a user may write it; the contract suite and the laws of the estimators run over them.

``PAIRS`` is a list of pytest parameters, each a function without arguments that gives ``(pair, batch)``, a new pair
at each call; ``batch`` are the arguments of its model and guide. Seed torch before the call for a reproducible pair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, pyro_method
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import (
    MLP,
    SGVB_A,
    VAE,
    DiagonalNormal,
    Gaussian,
    Pair,
    StandardNormal,
    likelihoods,
    posteriors,
    priors,
    transforms,
)
from pyro_vae.models import MLPVAE, ConvVAE
from pyro_vae.pair import as_pair

BATCH = 5  # a size that no event below has, so that a mix-up of dimensions cannot pass unseen


def binary(*event_shape: int, size: int = BATCH) -> Tensor:
    """``[size, *event_shape]`` of zeros and ones, the same at each call."""
    return torch.bernoulli(torch.full((size, *event_shape), 0.4), generator=torch.Generator().manual_seed(1))


def real(*event_shape: int, size: int = BATCH) -> Tensor:
    """``[size, *event_shape]`` of normal numbers, the same at each call."""
    return torch.randn(size, *event_shape, generator=torch.Generator().manual_seed(2))


def mlp_vae() -> tuple[Any, tuple[Any, ...]]:
    return MLPVAE((1, 8, 8), latent_dim=3, hidden=(16,)), (binary(1, 8, 8),)


def conv_vae() -> tuple[Any, tuple[Any, ...]]:
    return ConvVAE((1, 8, 8), latent_dim=3, channels=(2, 4), hidden=8), (binary(1, 8, 8),)


def gaussian_vae() -> tuple[Any, tuple[Any, ...]]:
    """A Gaussian likelihood with a scale for each pixel, and a latent of one dimension."""
    vae = VAE(
        StandardNormal(1),
        DiagonalNormal(MLP(6, (2, 1), hidden=(8,))),
        Gaussian(MLP(1, (2, 6), hidden=(8,)), scale=None, sigmoid_mean=False),
    )
    return vae, (real(6),)


def flow_vae() -> tuple[Any, tuple[Any, ...]]:
    """Amortized steps of three kinds on the posterior, a mixture prior."""
    steps = (transforms.Planar, functools.partial(transforms.InverseAutoregressive, hidden=(8,)), transforms.Radial)
    prior = functools.partial(priors.MixtureOfNormals, num_components=3)
    return MLPVAE((6,), 2, (8,), prior=prior, transforms=steps), (binary(6),)


def gamma_vae() -> tuple[Any, tuple[Any, ...]]:
    """Positive latents, and a discretized likelihood."""
    vae = MLPVAE(
        (6,), 2, (8,), prior=priors.Gamma, posterior=posteriors.Gamma, likelihood=likelihoods.DiscretizedLogistic
    )
    return vae, (binary(6),)


def functions() -> tuple[Any, tuple[Any, ...]]:
    """Two plain functions: networks in their closure, and a constrained ``pyro.param``."""
    encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(x: Tensor) -> Tensor:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> Tensor:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide), (real(6),)


class UserPyroModule(PyroModule):
    """A user's own class: PyroModules as attributes, a constrained PyroParam, Pyro's own decorator."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PyroModule[nn.Linear](6, 4)
        self.decoder = PyroModule[nn.Linear](2, 6)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    @pyro_method
    def model(self, x: Tensor | None = None) -> Tensor:
        with pyro.plate("data", 1 if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), self.scale).to_event(1), obs=x)

    @pyro_method
    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_module() -> tuple[Any, tuple[Any, ...]]:
    return UserPyroModule(), (real(6),)


class UserModule(nn.Module):
    """The class of Pyro's VAE tutorial: an ``nn.Module`` with ``pyro.module`` statements in its methods."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 7), nn.Softplus(), nn.Linear(7, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 7), nn.Softplus(), nn.Linear(7, 6))

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], 2)))
            z = pyro.sample("z", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def plain_module() -> tuple[Any, tuple[Any, ...]]:
    return UserModule(), (binary(6),)


class UserObject:
    """No module at all: an object that holds its networks and a global latent's parameters by ``pyro.param``."""

    def __init__(self) -> None:
        self.networks = {"decoder": nn.Linear(2, 6)}
        self.encoder = nn.Linear(6, 4)

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.networks["decoder"])
        bias = pyro.sample("bias", dist.Normal(torch.zeros(6), 1.0).to_event(1))  # outside of the plate
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.networks["decoder"](z) + bias
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        pyro.module("encoder", self.encoder)
        loc = pyro.param("bias.loc", torch.zeros(6))
        scale = pyro.param("bias.scale", lambda: 0.1 * torch.ones(6), constraint=constraints.positive)
        pyro.sample("bias", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def plain_object() -> tuple[Any, tuple[Any, ...]]:
    return UserObject(), (binary(6),)


class Hierarchy(nn.Module):
    """z2 ~ N(0, I), z1 ~ p(z1 | z2), x ~ p(x | z1); the guide is top-down: q(z2 | x) q(z1 | z2, x)."""

    def __init__(self) -> None:
        super().__init__()
        self.p_z1, self.p_x = nn.Linear(2, 6), nn.Linear(3, 7)
        self.q_z2, self.q_z1 = nn.Linear(7, 4), nn.Linear(9, 6)

    def model(self, x: Tensor) -> Tensor:
        pyro.module("hierarchy", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc, log_scale = self.p_z1(z2).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.p_x(z1)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("hierarchy", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.q_z2(x).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))
            x = x.expand(*z2.shape[:-1], 7)  # z2 may have a dimension of particles, which the data have not
            loc, log_scale = self.q_z1(torch.cat([x, z2], -1)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))


def hierarchy() -> tuple[Any, tuple[Any, ...]]:
    return Hierarchy(), (binary(7),)


def _two_arguments_model(decoder: nn.Module, x: Tensor, y: Tensor) -> None:
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        condition = torch.nn.functional.one_hot(y, 3).to(z.dtype).expand(*z.shape[:-1], 3)
        pyro.sample("x", dist.Bernoulli(logits=decoder(torch.cat([z, condition], -1))).to_event(1), obs=x)


def _two_arguments_guide(encoder: nn.Module, x: Tensor, y: Tensor) -> None:
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        condition = torch.nn.functional.one_hot(y, 3).to(x.dtype)
        loc, log_scale = encoder(torch.cat([x, condition], -1)).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def two_arguments() -> tuple[Any, tuple[Any, ...]]:
    """A conditional pair, p(x | y): batches of images and labels; programs are partial functions."""
    model = functools.partial(_two_arguments_model, nn.Linear(5, 6))
    guide = functools.partial(_two_arguments_guide, nn.Linear(9, 4))
    return Pair(model, guide), (binary(6), torch.arange(BATCH) % 3)


class LinearGaussian(nn.Module):
    """Probabilistic PCA: z ~ N(0, I), x | z ~ N(W z + b, s^2 I); the guide is the exact posterior.

    Posterior: N(S W'(x - b) / s^2, S) with S = (I + W'W / s^2)^-1. Evidence: x ~ N(b, W W' + s^2 I).
    """

    def __init__(self, W: Tensor, b: Tensor, s: float) -> None:
        super().__init__()
        self.W, self.b, self.s = nn.Parameter(W), nn.Parameter(b), s

    def model(self, x: Tensor) -> Tensor:
        pyro.module("linear_gaussian", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.b.new_zeros(self.W.shape[1]), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.W.T + self.b, self.s).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        pyro.module("linear_gaussian", self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

    def posterior(self, x: Tensor) -> dist.Distribution:
        """p(z | x), exact."""
        precision = torch.eye(self.W.shape[1], dtype=x.dtype) + self.W.T @ self.W / self.s**2
        covariance = torch.linalg.inv(precision)
        return dist.MultivariateNormal((x - self.b) @ self.W @ covariance / self.s**2, covariance)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of each datum, exact: ``[B]``."""
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(len(self.b), dtype=x.dtype)
        return dist.MultivariateNormal(self.b, covariance).log_prob(x).detach()


def linear_gaussian(dtype: torch.dtype = torch.float64) -> tuple[LinearGaussian, Tensor, Tensor]:
    """``(pair, x, log p(x) of each datum)``: every tight bound of this pair equals the evidence, draw by draw."""
    generator = torch.Generator().manual_seed(3)
    W, b, x = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((4, 2), (4,), (BATCH, 4)))
    pair = LinearGaussian(W, b, 0.5)
    return pair, x, pair.log_evidence(x)


PAIRS = [
    pytest.param(factory, id=factory.__name__)
    for factory in (
        mlp_vae,
        conv_vae,
        gaussian_vae,
        gamma_vae,
        functions,
        pyro_module,
        plain_module,
        plain_object,
        hierarchy,
        two_arguments,
    )
]

# A KL without a closed form, and units of q(z | x) that depend on each other.
SAMPLED = [pytest.param(flow_vae, id="flow_vae")]


def made(factory: Callable[[], tuple[Any, tuple[Any, ...]]]) -> tuple[nn.Module, tuple[Any, ...]]:
    """A reproducible pair that has its parameters."""
    torch.manual_seed(0)
    pair, batch = factory()
    module = as_pair(pair)
    SGVB_A().bound(module, *batch)
    return module, batch
