"""Small pairs whose log p(x), posterior and gradients are known, for the laws of estimators.

In :class:`OneLatent`, :class:`Chain` and :class:`Coin` every datum has parameters of its own, each ``[B]``, and all are
alike: one run on B equal data gives B independent draws of the bound of a datum and of its gradient.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.estimators import Estimator
from pyro_vae.pair import programs
from pyro_vae.testing.comparing import gradients


class Own(nn.Module):
    """Base of the pairs in which every datum has parameters of its own.

    Args:
        size: number of data B.
        dtype: of the parameters.
        values: of each parameter.
    """

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__()
        self.size = size
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.full((size,), value, dtype=dtype)))

    def data(self, x: float) -> Tensor:
        """B data ``x`` in the type of the parameters."""
        return torch.full((self.size,), x, dtype=next(self.parameters()).dtype)

    def draws(self, estimator: Estimator, x: float, seed: int = 0) -> dict[str, Tensor]:
        """B draws of the gradient of the bound of one datum ``x``, by name of the parameter."""
        call = lambda: estimator.loss_and_grads(*programs(self), self.data(x))  # noqa: E731
        found = gradients(self, call, seed)
        return {name: -found.get(name, torch.zeros_like(p)) for name, p in self.named_parameters()}


class OneLatent(Own):
    """z ~ N(0, 1), x | z ~ N(w z, 1), q(z | x) = N(a x + b, exp s). By default the guide is not the posterior."""

    w: Tensor
    a: Tensor
    b: Tensor
    s: Tensor

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__(size, dtype, **{"w": 1.0, "a": 0.2, "b": 0.1, "s": -0.8, **values})

    @classmethod
    def exact(cls, size: int) -> OneLatent:
        """With the posterior N(x / 2, 1 / 2) as its guide, in float64."""
        return cls(size, torch.float64, a=0.5, b=0.0, s=-0.5 * math.log(2))

    def log_evidence(self, x: float) -> float:
        """log p(x): x ~ N(0, 1 + w^2)."""
        variance = 1 + self.w[0].item() ** 2
        return -0.5 * (math.log(2 * math.pi * variance) + x**2 / variance)

    def prior(self, x: Tensor) -> Any:
        return dist.Normal(torch.zeros_like(x), 1.0)

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(x))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x + self.b, self.s.exp()))


class Chain(Own):
    """z2 ~ N(0, 1), z1 | z2 ~ N(w z2, 1), x | z1 ~ N(z1, 1); q(z2 | x) = N(a x, exp s), q(z1 | z2, x) = N(b x + c z2,
    exp t). With ``posterior()`` the guide is exact."""

    w: Tensor
    a: Tensor
    s: Tensor
    b: Tensor
    c: Tensor
    t: Tensor

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__(size, dtype, **{"w": 1.0, "a": 0.2, "s": -0.9, "b": 0.4, "c": 0.4, "t": -0.8, **values})

    @classmethod
    def posterior(cls, size: int) -> Chain:
        halves = {"b": 0.5, "c": 0.5, "t": 0.5 * math.log(1 / 2)}
        return cls(size, torch.float64, a=1 / 3, s=0.5 * math.log(2 / 3), **halves)

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.w * z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.a * x, self.s.exp()))
            pyro.sample("z1", dist.Normal(self.b * x + self.c * z2, self.t.exp()))


class Coin(Own):
    """y ~ Bernoulli(0.3), x | y ~ N(w y, 1), q(y) = Bernoulli(logits=l)."""

    w: Tensor
    l: Tensor  # noqa: E741

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__(size, dtype, **{"w": 1.5, "l": 0.2, **values})

    def model(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.3)))
            pyro.sample("x", dist.Normal(self.w * y, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("own", self)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=self.l))

    def log_weight(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(x, y) - log q(y), with the parameters of the first datum."""
        log_p = dist.Bernoulli(torch.full_like(y, 0.3)).log_prob(y) + dist.Normal(self.w[0] * y, 1.0).log_prob(x)
        return log_p - dist.Bernoulli(logits=self.l[0]).log_prob(y)


class Pixels(nn.Module):
    """A latent for each datum, and one for each of its D pixels in an inner plate; ``x: [D, B]``."""

    def __init__(self, pixels: int = 4) -> None:
        super().__init__()
        self.pixels = pixels
        self.loc = nn.Parameter(torch.tensor(0.3))

    def sites(self, x: Tensor, observe: bool) -> None:
        pyro.module("pixels", self)
        loc = torch.zeros(()) if observe else self.loc
        with pyro.plate("data", x.shape[-1], dim=-1):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            with pyro.plate("pixels", self.pixels, dim=-2):
                w = pyro.sample("w", dist.Normal(z if observe else loc, 0.5))
                if observe:
                    pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def model(self, x: Tensor) -> None:
        self.sites(x, True)

    def guide(self, x: Tensor) -> None:
        self.sites(x, False)


class Outside(nn.Module):
    """A latent of each datum, and one of all data outside of their plate: x | z, c ~ N(z + c, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def model(self, x: Tensor) -> None:
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + c, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("outside", self)
        pyro.sample("c", dist.Normal(self.loc, 0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc * x, 0.7))
