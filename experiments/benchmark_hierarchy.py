"""The time of one training step of the five-level ladder, in one interleaved run.

Rows: the same network hand-written in PyTorch, eager and compiled, which walks through the decoder once; Pyro's
SVI.step on our pair, where the guide walks through the decoder and then the model does; ours eager, traced and
compiled, where both programs share the one walk (``pyro_vae.pair.once``), and traced without it. Batch norm, Adam,
float32, binary pixels, the KL of each level in closed form but for SVI's Trace_ELBO. And the same network in JAX, an
epoch under one jit, without the running averages of batch norm. Each round times every row once, in turn; printed is
the median over the rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyro
import torch
import torch.nn.functional as F
from benchmark import Row, benchmark, hand_written, jitted, ours, svi
from torch import Tensor, nn

from pyro_vae.models import LadderVAE

PIXELS, LATENT_DIMS, HIDDEN = 784, (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)


def dense(*sizes: int) -> nn.Sequential:
    """Hidden layers with batch norm."""
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out, bias=False), nn.BatchNorm1d(size_out), nn.SiLU()]
    return nn.Sequential(*layers)


class HandWritten(nn.Module):
    """The ladder as a PyTorch user writes it, without any library."""

    def __init__(self) -> None:
        super().__init__()
        widths = [PIXELS, *HIDDEN]
        self.up = nn.ModuleList(dense(a, b, b) for a, b in itertools.pairwise(widths))
        self.seen = nn.ModuleList(nn.Linear(width, 2 * size) for width, size in zip(HIDDEN, LATENT_DIMS, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(dense(above, width, width), nn.Linear(width, 2 * below))
            for width, above, below in zip(HIDDEN[1:], LATENT_DIMS[1:], LATENT_DIMS[:-1], strict=True)
        )
        self.decoder = nn.Sequential(dense(LATENT_DIMS[0], HIDDEN[0], HIDDEN[0]), nn.Linear(HIDDEN[0], PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        seen, h = [], x
        for layers, head in zip(self.up, self.seen, strict=True):
            h = layers(h)
            seen.append(head(h).chunk(2, -1))
        loc, log_variance = seen[-1]
        rate = -0.5 * (1 + log_variance - loc**2 - log_variance.exp()).sum()
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        for layers, (loc, log_variance) in zip(reversed(self.down), reversed(seen[:-1]), strict=True):
            loc_p, log_variance_p = layers(z).chunk(2, -1)
            weight = (log_variance_p - log_variance).sigmoid()
            log_variance = -torch.logaddexp(-log_variance, -log_variance_p)
            loc = torch.lerp(loc_p, loc, weight)
            rate = (
                rate
                + 0.5
                * (
                    log_variance_p - log_variance - 1 + ((loc - loc_p) ** 2 + log_variance.exp()) / log_variance_p.exp()
                ).sum()
            )
            z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        distortion = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return (distortion + rate) / len(x)


def in_jax(x: Tensor) -> Row:
    """The ladder in JAX: in a chain each layer has a weight, and batch norm a scale and a shift."""
    import jax
    import jax.numpy as jnp

    parameters: dict[str, Any] = {}

    def weight(name: str, size_in: int, size_out: int) -> None:
        parameters[f"{name}.w"] = ((2 * torch.rand(size_in, size_out) - 1) / size_in**0.5).numpy()
        parameters[f"{name}.b"] = torch.zeros(size_out).numpy()

    def chain(name: str, *sizes: int) -> list[str]:
        names = []
        for index, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
            names.append(f"{name}.{index}")
            weight(names[-1], size_in, size_out)
            parameters[f"{names[-1]}.scale"] = torch.ones(size_out).numpy()
        return names

    widths = [PIXELS, *HIDDEN]
    up = [chain(f"up.{level}", a, b, b) for level, (a, b) in enumerate(itertools.pairwise(widths))]
    for level, (width, size) in enumerate(zip(HIDDEN, LATENT_DIMS, strict=True)):
        weight(f"seen.{level}", width, 2 * size)
    down = []
    for level, width in enumerate(HIDDEN[1:]):
        down.append(chain(f"down.{level}", LATENT_DIMS[level + 1], width, width))
        weight(f"prior.{level}", width, 2 * LATENT_DIMS[level])
    decoder = chain("decoder", LATENT_DIMS[0], HIDDEN[0], HIDDEN[0])
    weight("logits", HIDDEN[0], PIXELS)

    def hidden(p: Any, names: list[str], h: Any) -> Any:
        for name in names:
            h = h @ p[f"{name}.w"]
            loc, variance = h.mean(0), h.var(0)
            h = jax.nn.silu((h - loc) / jnp.sqrt(variance + 1e-5) * p[f"{name}.scale"] + p[f"{name}.b"])
        return h

    def head(p: Any, name: str, h: Any) -> Any:
        return jnp.split(h @ p[f"{name}.w"] + p[f"{name}.b"], 2, -1)

    def loss(p: Any, key: Any, x: Any) -> Any:
        seen, h = [], x
        for level, names in enumerate(up):
            h = hidden(p, names, h)
            seen.append(head(p, f"seen.{level}", h))
        keys = jax.random.split(key, len(LATENT_DIMS))
        loc, log_variance = seen[-1]
        rate = -0.5 * (1 + log_variance - loc**2 - jnp.exp(log_variance)).sum()
        z = loc + jnp.exp(log_variance / 2) * jax.random.normal(keys[-1], loc.shape)
        for level in reversed(range(len(down))):
            loc_p, log_variance_p = head(p, f"prior.{level}", hidden(p, down[level], z))
            loc, log_variance = seen[level]
            share = jax.nn.sigmoid(log_variance_p - log_variance)
            log_variance = -jnp.logaddexp(-log_variance, -log_variance_p)
            loc = loc_p + share * (loc - loc_p)
            squares = ((loc - loc_p) ** 2 + jnp.exp(log_variance)) / jnp.exp(log_variance_p)
            rate = rate + 0.5 * (log_variance_p - log_variance - 1 + squares).sum()
            z = loc + jnp.exp(log_variance / 2) * jax.random.normal(keys[level], loc.shape)
        logits = hidden(p, decoder, z) @ p["logits.w"] + p["logits.b"]
        return ((jax.nn.softplus(logits) - x * logits).sum() + rate) / len(x)

    return jitted(loss, parameters, x)


def pair() -> LadderVAE:
    return LadderVAE((PIXELS,), LATENT_DIMS, HIDDEN, normalization="batch")


def apart(x: Tensor) -> Row:
    """Our traced step as it is where both programs compute the way down for themselves."""
    # For good: a row has a process of its own.
    mock.patch("pyro_vae.hierarchy.once", lambda function, *inputs: function(*inputs)).start()
    return ours(pair(), x, "traced")


def rows(x: Tensor) -> dict[str, Callable[[], Row]]:
    trace, mean_field = pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO
    return {
        "hand-written PyTorch, eager": lambda: hand_written(HandWritten(), x, compiled=False),
        "hand-written PyTorch, torch.compile": lambda: hand_written(HandWritten(), x, compiled=True),
        "SVI.step(Trace_ELBO), validation off": lambda: svi(pair(), x, trace, False),
        "SVI.step(TraceMeanField_ELBO), validation off": lambda: svi(pair(), x, mean_field, False),
        "pyro_vae, traced, the way down twice": lambda: apart(x),
        "pyro_vae, eager": lambda: ours(pair(), x, "eager"),
        "pyro_vae, traced": lambda: ours(pair(), x, "traced"),
        "pyro_vae, compiled": lambda: ours(pair(), x, "inductor"),
        "JAX, epoch under jit": lambda: in_jax(x),
    }


if __name__ == "__main__":
    benchmark("benchmark_hierarchy", __doc__, {"ladder": (rows, (128,))})
