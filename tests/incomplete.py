"""Pairs of data with missing entries of which all is known exactly."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pairs import LinearGaussian
from torch import Tensor, nn


class FactorAnalysis(nn.Module):
    """z ~ N(0, I), x | z ~ N(W z + b, diag(s^2)), with a mask as a user writes it; the guide is p(z | x_obs) widened.

    Args:
        widened: by which the guide's scale is more than the posterior's; at 1 it is exact.
    """

    def __init__(self, dim: int = 4, latent_dim: int = 2, widened: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        W, b, s = (torch.randn(*shape, generator=generator).double() for shape in ((dim, latent_dim), (dim,), (dim,)))
        self.W, self.b, self.s = nn.Parameter(W), nn.Parameter(b), nn.Parameter(0.3 + s.abs())
        self.widened = widened

    def model(self, x: Tensor, mask: Tensor) -> Tensor:
        pyro.module("factor_analysis", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.b.new_zeros(self.W.shape[1]), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.W.T + self.b, self.s).mask(mask).to_event(1), obs=x)

    def guide(self, x: Tensor, mask: Tensor) -> Tensor:
        pyro.module("factor_analysis", self)
        seen = mask / self.s**2
        precision = torch.eye(self.W.shape[1], dtype=x.dtype) + torch.einsum("dk,bd,dl->bkl", self.W, seen, self.W)
        covariance = torch.linalg.inv(precision)
        loc = torch.einsum("bkl,dl,bd->bk", covariance, self.W, seen * (x - self.b))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(loc, self.widened**2 * covariance))

    def marginal(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x."""
        return self.b.detach(), (self.W @ self.W.T + (self.s**2).diag()).detach()


def of_linear(pair: LinearGaussian) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x."""
    return pair.b.detach(), (pair.W @ pair.W.T).detach() + pair.s**2 * torch.eye(len(pair.b)).double()


def log_evidence(mean: Tensor, covariance: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """log p(x_obs) of each datum of a Gaussian, ``[B]``; 0 where nothing is observed."""
    found = []
    for row, seen in zip(x, mask, strict=True):
        normal = dist.MultivariateNormal(mean[seen], covariance[seen][:, seen]) if seen.any() else None
        found.append(x.new_zeros(()) if normal is None else normal.log_prob(row[seen]))
    return torch.stack(found)


def conditional(mean: Tensor, covariance: Tensor, row: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_mis given x_obs of one datum of a Gaussian."""
    gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    expected = mean[~seen] + gain @ (row[seen] - mean[seen])
    return expected, covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]


def data(dim: int = 4, size: int = 5) -> tuple[Tensor, Tensor]:
    """``(x, mask)``, rows all observed and not at all among them, and NaN where x is not observed."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(size, dim, generator=generator).double()
    mask = torch.rand(size, dim, generator=generator) < 0.5
    mask[0], mask[1], mask[2:, 0] = True, False, True
    mask[2:, -1] = False
    return torch.where(mask, x, torch.nan), mask


def follows_the_argument(x: Tensor) -> None:
    """x_2 ~ N(z + x_1, 1) with the x_1 that was passed, and not what is drawn in its place."""
    before = torch.cat([torch.zeros(len(x), 1), x[:, :-1]], 1)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] + before, 1.0).to_event(1), obs=x)
