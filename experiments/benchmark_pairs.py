"""The time of one training step of three more pairs, each in one interleaved run.

  iwae           784-200-200-50 with tanh, IWAE(50), batches of 20 and 128
  planar         784-300-300-40 with 40 planar steps in the guide, batches of 128 and 1,024
  convolutional  two convolutions of stride 2, 256 units, 40 latents, and their mirror image, batches of 128 and 512

Rows: the same loss hand-written in PyTorch, eager and compiled, and in JAX, an epoch under one jit (where jax and
numpyro are installed, pip install 'pyro-vae[bench]'); ours traced and compiled. Float32, Adam, binary pixels; see
benchmark.py for how the rows take turns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from benchmark import HandWritten, Row, benchmark, hand_written, jitted, ours
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_B
from pyro_vae.estimators import Estimator
from pyro_vae.models import MLPVAE, ConvVAE
from pyro_vae.transforms import Planar

PIXELS, PARTICLES, STEPS = 784, 50, 40
IWAE_SIZES, PLANAR_SIZES, CONV_LATENT = (200, 200, 50), (300, 300, 40), 40


def chain(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation()]
    return nn.Sequential(*layers[:-1])


class Networks(nn.Module):
    """Encoder and decoder with hidden layers of these widths before a latent of the last."""

    def __init__(self, sizes: Sequence[int], activation: type[nn.Module]) -> None:
        super().__init__()
        *hidden, latent = sizes
        self.encoder = chain([PIXELS, *hidden, 2 * latent], activation)
        self.decoder = chain([latent, *reversed(hidden), PIXELS], activation)


class Weighted(Networks):
    """IWAE(50) without a library."""

    def __init__(self) -> None:
        super().__init__(IWAE_SIZES, nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, -1)
        noise = torch.randn(PARTICLES, *loc.shape)
        z = loc + (log_variance / 2).exp() * noise
        log_p = -F.binary_cross_entropy_with_logits(self.decoder(z), x.expand(PARTICLES, *x.shape), reduction="none")
        log_weights = log_p.sum(-1) + 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        return math.log(PARTICLES) - log_weights.logsumexp(0).mean()


class Flowing(Networks):
    """Forty planar steps without a library."""

    def __init__(self) -> None:
        super().__init__(PLANAR_SIZES, nn.ReLU)
        latent = PLANAR_SIZES[-1]
        self.w, self.u = (nn.Parameter(0.1 * torch.randn(STEPS, latent)) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(STEPS, 1))

    def forward(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + (log_variance / 2).exp() * noise
        product = (self.w * self.u).sum(-1, keepdim=True)
        slopes = F.softplus(product)
        steps = self.u + (slopes - 1 - product) * self.w / (self.w**2).sum(-1, keepdim=True)
        ladj = torch.zeros(())
        for w, u, b, slope in zip(self.w, steps, self.b, slopes, strict=True):
            t = ((w * z).sum(-1, keepdim=True) + b).tanh()
            z = z + u * t
            ladj = ladj + (1 + (slope - 1) * (1 - t**2)).log().sum()
        rate = 0.5 * (z**2 - noise**2 - log_variance).sum() - ladj
        return (F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + rate) / len(x)


class Convolutional(HandWritten):
    """A convolutional VAE without a library, of the same loss as the dense one."""

    def __init__(self) -> None:
        super().__init__()
        down = {"kernel_size": 3, "stride": 2, "padding": 1}
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, **down), nn.ReLU(), nn.Conv2d(32, 64, **down), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * 49, 256), nn.ReLU(), nn.Linear(256, 2 * CONV_LATENT),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(CONV_LATENT, 256), nn.ReLU(), nn.Linear(256, 64 * 49), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, **down, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, **down, output_padding=1),
        )  # fmt: skip


def _dense(names: Sequence[str], p: Any, value: Any, activation: Any) -> Any:
    for index, name in enumerate(names):
        value = value @ p[f"{name}.w"] + p[f"{name}.b"]
        if index < len(names) - 1:
            value = activation(value)
    return value


def _layers(name: str, sizes: Sequence[int]) -> tuple[dict[str, Any], list[str]]:
    """Weights of a chain of layers, and the names of the layers."""
    parameters, names = {}, []
    for index, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
        names.append(f"{name}.{index}")
        parameters[f"{names[-1]}.w"] = (torch.rand(size_in, size_out) * 2 - 1).numpy() / size_in**0.5
        parameters[f"{names[-1]}.b"] = torch.zeros(size_out).numpy()
    return parameters, names


def _two_chains(sizes: Sequence[int]) -> tuple[dict[str, Any], list[str], list[str]]:
    *hidden, latent = sizes
    encoder, up = _layers("encoder", [PIXELS, *hidden, 2 * latent])
    decoder, down = _layers("decoder", [latent, *reversed(hidden), PIXELS])
    return {**encoder, **decoder}, up, down


def jax_weighted(x: Tensor) -> Row:
    import jax
    import jax.numpy as jnp

    parameters, up, down = _two_chains(IWAE_SIZES)

    def loss(p: Any, key: Any, x: Any) -> Any:
        loc, log_variance = jnp.split(_dense(up, p, x, jnp.tanh), 2, -1)
        noise = jax.random.normal(key, (PARTICLES, *loc.shape))
        z = loc + jnp.exp(log_variance / 2) * noise
        logits = _dense(down, p, z, jnp.tanh)
        log_p = (x * logits - jax.nn.softplus(logits)).sum(-1)
        log_weights = log_p + 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        return math.log(PARTICLES) - jax.nn.logsumexp(log_weights, 0).mean()

    return jitted(loss, parameters, x)


def jax_flowing(x: Tensor) -> Row:
    import jax
    import jax.numpy as jnp

    parameters, up, down = _two_chains(PLANAR_SIZES)
    for name in "wu":
        parameters[name] = 0.1 * torch.randn(STEPS, PLANAR_SIZES[-1]).numpy()
    parameters["c"] = torch.zeros(STEPS, 1).numpy()

    def loss(p: Any, key: Any, x: Any) -> Any:
        loc, log_variance = jnp.split(_dense(up, p, x, jax.nn.relu), 2, -1)
        noise = jax.random.normal(key, loc.shape)
        product = (p["w"] * p["u"]).sum(-1, keepdims=True)
        slopes = jax.nn.softplus(product)
        steps = p["u"] + (slopes - 1 - product) * p["w"] / (p["w"] ** 2).sum(-1, keepdims=True)

        def step(carry: Any, of: Any) -> Any:
            (z, ladj), (w, u, b, slope) = carry, of
            t = jnp.tanh((w * z).sum(-1, keepdims=True) + b)
            return (z + u * t, ladj + jnp.log(1 + (slope - 1) * (1 - t**2)).sum()), None

        start = (loc + jnp.exp(log_variance / 2) * noise, 0.0)
        (z, ladj), _ = jax.lax.scan(step, start, (p["w"], steps, p["c"], slopes))
        logits = _dense(down, p, z, jax.nn.relu)
        rate = 0.5 * (z**2 - noise**2 - log_variance).sum() - ladj
        return ((jax.nn.softplus(logits) - x * logits).sum() + rate) / len(x)

    return jitted(loss, parameters, x)


def jax_convolutional(x: Tensor) -> Row:
    import jax
    import jax.numpy as jnp

    encoder, up = _layers("encoder", [64 * 49, 256, 2 * CONV_LATENT])
    decoder, down = _layers("decoder", [CONV_LATENT, 256, 64 * 49])
    kernels = {
        name: 0.1 * torch.randn(3, 3, *sizes).numpy()
        for name, sizes in {"e1": (1, 32), "e2": (32, 64), "d1": (64, 32), "d2": (32, 1)}.items()
    }
    offsets = {f"{name}.b": torch.zeros(kernel.shape[-1]).numpy() for name, kernel in kernels.items()}
    layout = ("NHWC", "HWIO", "NHWC")

    def loss(p: Any, key: Any, x: Any) -> Any:
        def down_by_two(value: Any, name: str) -> Any:
            pads = ((1, 1), (1, 1))
            found = jax.lax.conv_general_dilated(value, p[name], (2, 2), pads, dimension_numbers=layout)
            return jax.nn.relu(found + p[f"{name}.b"])

        def up_by_two(value: Any, name: str) -> Any:
            pads = ((1, 2), (1, 2))
            found = jax.lax.conv_general_dilated(value, p[name], (1, 1), pads, (2, 2), dimension_numbers=layout)
            return found + p[f"{name}.b"]

        hidden = down_by_two(down_by_two(x.reshape(-1, 28, 28, 1), "e1"), "e2")
        loc, log_variance = jnp.split(_dense(up, p, hidden.reshape(len(x), -1), jax.nn.relu), 2, -1)
        z = loc + jnp.exp(log_variance / 2) * jax.random.normal(key, loc.shape)
        hidden = jax.nn.relu(_dense(down, p, z, jax.nn.relu)).reshape(-1, 7, 7, 64)
        logits = up_by_two(jax.nn.relu(up_by_two(hidden, "d1")), "d2").reshape(len(x), -1)
        rate = -0.5 * (1 + log_variance - loc**2 - jnp.exp(log_variance)).sum()
        return ((jax.nn.softplus(logits) - x * logits).sum() + rate) / len(x)

    return jitted(loss, {**encoder, **decoder, **kernels, **offsets}, x)


def rows_of(
    network: type[nn.Module],
    pair: Callable[[], nn.Module],
    estimator: Callable[[], Estimator],
    in_jax: Callable[[Tensor], Row],
    x: Tensor,
) -> dict[str, Callable[[], Row]]:
    return {
        "hand-written PyTorch, eager": lambda: hand_written(network(), x, compiled=False),
        "hand-written PyTorch, torch.compile": lambda: hand_written(network(), x, compiled=True),
        "pyro_vae, traced": lambda: ours(pair(), x, "traced", estimator()),
        "pyro_vae, compiled": lambda: ours(pair(), x, "inductor", estimator()),
        "JAX, epoch under jit": lambda: in_jax(x.flatten(1)),
    }


def iwae(x: Tensor) -> dict[str, Callable[[], Row]]:
    *hidden, latent = IWAE_SIZES

    def pair() -> MLPVAE:
        return MLPVAE((PIXELS,), latent, hidden, activation=nn.Tanh)

    return rows_of(Weighted, pair, lambda: IWAE(PARTICLES), jax_weighted, x)


def planar(x: Tensor) -> dict[str, Callable[[], Row]]:
    *hidden, latent = PLANAR_SIZES

    def pair() -> MLPVAE:
        steps = {"transforms": [Planar], "num_transforms": STEPS, "amortized": False}
        return MLPVAE((PIXELS,), latent, hidden, activation=nn.ReLU, **steps)

    return rows_of(Flowing, pair, SGVB_B, jax_flowing, x)


def convolutional(x: Tensor) -> dict[str, Callable[[], Row]]:
    def pair() -> ConvVAE:
        return ConvVAE((1, 28, 28), CONV_LATENT, activation=nn.ReLU)

    return rows_of(Convolutional, pair, SGVB_B, jax_convolutional, x.unflatten(1, (1, 28, 28)))


if __name__ == "__main__":
    benchmark(
        "benchmark_pairs",
        __doc__,
        {"iwae": (iwae, (20, 128)), "planar": (planar, (128, 1024)), "convolutional": (convolutional, (128, 512))},
    )
