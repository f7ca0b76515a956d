"""The time of one training step of the five-level ladder, in one interleaved run.

Rows: the same network hand-written in PyTorch, eager and compiled, which walks through the decoder once; Pyro's
SVI.step on our pair, where the guide walks through the decoder and then the model does; ours eager, traced and
compiled, where both programs share the one walk (``pyro_vae.pair.once``), and traced without it. Batch norm, Adam,
float32, binary pixels, the KL of each level in closed form but for SVI's Trace_ELBO. Each round times every row once,
in turn; printed is the median over the rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from unittest import mock

import pyro
import torch
import torch.nn.functional as F
from benchmark import Row, benchmark, hand_written, ours, svi
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


def pair() -> LadderVAE:
    return LadderVAE((PIXELS,), LATENT_DIMS, HIDDEN, normalization="batch")


def apart(x: Tensor) -> Row:
    """Our traced step as it is where both programs compute the way down for themselves."""
    run = ours(pair(), x, "traced")
    with mock.patch("pyro_vae.hierarchy.once", lambda function, *inputs: function(*inputs)):
        run()  # is traced now, and not again
    return run


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
    }


if __name__ == "__main__":
    benchmark("benchmark_hierarchy", __doc__, rows)
