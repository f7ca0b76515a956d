"""What the tests of the estimators share: equal seeds, gradients, tests of expectations, and small pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    VIMCO,
    DReG,
    Enumeration,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
)
from pyro_vae.estimators import TCVAE, Annealed, Balanced, Capacity, Estimator, FreeBits
from pyro_vae.pair import programs

# One of each class, by name, as functions of the options that all of them have.
MADE: dict[str, Callable[..., Estimator]] = {
    "SGVB_A": lambda **options: SGVB_A(3, **options),
    "SGVB_B": lambda **options: SGVB_B(3, **options),
    "Annealed": lambda **options: Annealed(3, **options),
    # With the weights at which the loss is minus the bound; test_objectives has the others.
    "Capacity": lambda **options: Capacity(0.0, 1.0, 3, **options),
    "FreeBits": lambda **options: FreeBits(0.0, num_particles=3, **options),
    # Below a beta of 1 its loss is another.
    "Balanced": lambda beta=1.0, **options: Balanced(3, **options),
    # Its beta weighs a part of the KL, and its bound knows nothing of it.
    "TCVAE": lambda beta=1.0, **options: TCVAE(1.0, 1.0, 1.0, 3, **options),
    "IWAE": lambda **options: IWAE(3, **options),
    "DReG": lambda **options: DReG(3, **options),
    "Renyi": lambda **options: Renyi(0.5, 3, **options),
    "MIWAE": lambda **options: MIWAE(2, 3, **options),
    "CIWAE": lambda **options: CIWAE(0.3, 3, **options),
    "PIWAE": lambda **options: PIWAE(2, 3, **options),
    "ScoreFunction": lambda **options: ScoreFunction(3, **options),
    "VIMCO": lambda **options: VIMCO(3, **options),
    "Enumeration": lambda **options: Enumeration(3, **options),
    "WakeSleep": lambda **options: WakeSleep(3, **options),
    "ReweightedWakeSleep": lambda **options: ReweightedWakeSleep(3, guide="both", **options),
}
# Estimators whose draws or whose gradient take other ways.
VARIANTS: dict[str, Callable[..., Estimator]] = {
    "SGVB_A, sticking": lambda **options: SGVB_A(3, sticking_the_landing=True, **options),
    "SGVB_B, sticking": lambda **options: SGVB_B(3, sticking_the_landing=True, **options),
    "Renyi, negative": lambda **options: Renyi(-1.0, 3, **options),
    "DReG, one": lambda **options: DReG(1, **options),
    "PIWAE, one": lambda **options: PIWAE(1, 1, **options),
    "ScoreFunction, no path": lambda **options: ScoreFunction(3, pathwise=False, **options),
    "ScoreFunction, one": lambda **options: ScoreFunction(1, **options),
    "Enumeration, one": lambda **options: Enumeration(1, **options),
    "ReweightedWakeSleep, wake": lambda **options: ReweightedWakeSleep(2, **options),
    "ReweightedWakeSleep, sleep": lambda **options: ReweightedWakeSleep(2, guide="sleep", **options),
}


def seeded(seed: int, call: Callable[..., Any], *args: Any) -> Any:
    torch.manual_seed(seed)
    return call(*args)


def gradients(pair: nn.Module, loss: Callable[[], Any], seed: int = 1) -> dict[str, Tensor]:
    """The gradients that ``loss`` leaves behind, or those of the tensor that it gives."""
    pair.zero_grad()
    value = seeded(seed, loss)
    if isinstance(value, Tensor):
        value.backward()
    return {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}


def gradients_of(estimator: Estimator, pair: nn.Module, *batch: Any, seed: int = 1) -> dict[str, Tensor]:
    """The gradients of an estimator's loss at a seed."""
    return gradients(pair, lambda: estimator.loss_and_grads(*programs(pair), *batch), seed)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 1e-5, atol: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    assert ours
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_mean(draws: Tensor, expected: Tensor | float, errors: float = 4.5) -> None:
    """The mean of independent ``draws`` is ``expected``, which is told from zero, within its standard error."""
    mean, error = draws.mean().item(), (draws.std() / math.sqrt(len(draws))).item()
    assert abs(mean - float(expected)) < errors * error, f"{mean} +- {error}, expected {float(expected)}"
    assert abs(float(expected)) > 2 * errors * error, f"{mean} +- {error} cannot be told from zero"


def assert_means_equal(one: Tensor, other: Tensor, errors: float = 4.5) -> None:
    """Two samples, drawn independently, have one mean, which is told from zero."""
    error = math.sqrt((one.var() / len(one) + other.var() / len(other)).item())
    difference = (one.mean() - other.mean()).item()
    assert abs(difference) < errors * error, f"{difference} +- {error}"
    assert abs(other.mean().item()) > 2 * errors * error, f"{other.mean().item()} +- {error} cannot be told from zero"


class Own(nn.Module):
    """Base of pairs in which every datum has parameters of its own, each ``[B]``, and all data are alike.

    One run then gives B independent draws of the gradient.
    """

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__()
        self.size = size
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(torch.full((size,), value, dtype=dtype)))

    def draws(self, estimator: Estimator, x: float, seed: int = 0) -> dict[str, Tensor]:
        """B draws of the gradient of the bound of one datum ``x``."""
        first = next(self.parameters())
        found = gradients_of(estimator, self, torch.full((self.size,), x, dtype=first.dtype), seed=seed)
        return {name: -found.get(name, torch.zeros_like(p)) for name, p in self.named_parameters()}


class OneLatent(Own):
    """z ~ N(0, 1), x | z ~ N(w z, 1), q(z | x) = N(a x + b, exp s). By default the guide is not the posterior."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float32, **values: float) -> None:
        super().__init__(size, dtype, **{"w": 1.0, "a": 0.2, "b": 0.1, "s": -0.8, **values})

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
