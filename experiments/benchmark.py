"""The time of one training step, 784-400-20 Bernoulli VAE, in one interleaved run.

Rows: the matrix products alone (forward and backward, as torch runs them), hand-written PyTorch eager and compiled,
Pyro's SVI.step with both ELBOs, ours eager, traced and compiled, and NumPyro and pythae where they are installed
(pip install 'pyro-vae[bench]'). All in float32 with Adam, on the same batch of binary pixels. Each round times every
row once, in turn, so that a slow moment of the machine meets all of them; printed is the median over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from shared import machine, table
from torch import Tensor, nn

from pyro_vae import SGVB_B
from pyro_vae.models import MLPVAE
from pyro_vae.training import TrainingStep
from pyro_vae.training.averaging import Weights

Row = Callable[[], Any]
PIXELS, HIDDEN, LATENT = 784, 400, 20


class HandWritten(nn.Module):
    """What a PyTorch user writes without any library."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))

    def forward(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, -1)
        z = loc + (log_variance / 2).exp() * torch.randn_like(loc)
        distortion = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        rate = -0.5 * (1 + log_variance - loc**2 - log_variance.exp()).sum()
        return (distortion + rate) / len(x)


def matrix_products(x: Tensor) -> Row:
    """The products of the four layers: output, and gradients by weight and (but for the first) by input."""
    sizes = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, PIXELS)]
    layers = [(torch.randn(len(x), i), torch.randn(o, i), torch.randn(len(x), o)) for i, o in sizes]

    def run() -> None:
        for index, (value, weight, gradient) in enumerate(layers):
            value @ weight.T
            gradient.T @ value
            if index:
                gradient @ weight

    return run


def hand_written(model: nn.Module, x: Tensor, compiled: bool) -> Row:
    call: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss = call(x)
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def _pair() -> MLPVAE:
    return MLPVAE((PIXELS,), LATENT, hidden=(HIDDEN,), activation=nn.ReLU)


def svi(pair: Any, x: Tensor, elbo: type, validate: bool) -> Row:
    inference = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), loss=elbo())

    def run() -> None:
        with pyro.validation_enabled(validate):
            inference.step(x)

    return run


def ours(pair: nn.Module, x: Tensor, mode: Any) -> Row:
    parameters = list(pair.parameters())
    optimizer = torch.optim.Adam(parameters, fused=True)
    step = TrainingStep(pair, SGVB_B(), compile=mode)
    step.follow(optimizer, parameters, Weights(pair, (), None))
    steps = itertools.count(1)

    def run() -> None:
        with pyro.validation_enabled(False):
            objective = step((x,), step=next(steps))
            if not step.updated:
                optimizer.step()
            objective.loss.item()

    return run


def numpyro(x: Tensor) -> Row:
    """NumPyro's SVI, an epoch of steps under one jit (jax.lax.scan); the time is per step."""
    import jax
    import jax.numpy as jnp
    import numpyro as npr
    import numpyro.distributions as dist

    steps = 20
    data = jnp.asarray(x.numpy())
    key = jax.random.PRNGKey(0)

    def dense(name: str, n_in: int, n_out: int) -> tuple[Any, Any]:
        keys = jax.random.split(jax.random.fold_in(key, n_in * 7919 + n_out), 2)
        scale = 1 / n_in**0.5
        weight = npr.param(f"{name}.weight", jax.random.uniform(keys[0], (n_in, n_out), minval=-scale, maxval=scale))
        return weight, npr.param(f"{name}.bias", jnp.zeros(n_out))

    def layer(name: str, value: Any, n_in: int, n_out: int) -> Any:
        weight, bias = dense(name, n_in, n_out)
        return value @ weight + bias

    def model(x: Any) -> None:
        with npr.plate("data", x.shape[0]):
            z = npr.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            hidden = jax.nn.relu(layer("decoder.0", z, LATENT, HIDDEN))
            logits = layer("decoder.1", hidden, HIDDEN, PIXELS)
            npr.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Any) -> None:
        hidden = jax.nn.relu(layer("encoder.0", x, PIXELS, HIDDEN))
        loc, log_variance = jnp.split(layer("encoder.1", hidden, HIDDEN, 2 * LATENT), 2, -1)
        with npr.plate("data", x.shape[0]):
            npr.sample("z", dist.Normal(loc, jnp.exp(log_variance / 2)).to_event(1))

    inference = npr.infer.SVI(model, guide, npr.optim.Adam(1e-3), npr.infer.TraceMeanField_ELBO())
    state = [inference.init(key, data)]

    @jax.jit
    def epoch(state: Any, data: Any) -> Any:
        return jax.lax.scan(lambda state, _: inference.update(state, data), state, None, length=steps)

    def run() -> None:
        state[0], losses = epoch(state[0], data)
        losses.block_until_ready()

    run.steps = steps  # type: ignore[attr-defined]
    return run


def pythae(x: Tensor) -> Row:
    """pythae's VAE with its own default networks replaced by the same layers."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.loc, self.log_variance = (
                nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
            )  # fmt: skip

        def forward(self, x: Tensor) -> Any:
            hidden = self.hidden(x.flatten(1)).relu()
            return ModelOutput(embedding=self.loc(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce")
    model = VAE(config, encoder=Encoder(), decoder=Decoder())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = {"data": x.reshape(-1, 1, 28, 28)}

    def run() -> None:
        optimizer.zero_grad()
        loss = model(batch).loss
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def rows(x: Tensor) -> dict[str, Callable[[], Row]]:
    trace, mean_field = pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO
    return {
        "matrix products alone": lambda: matrix_products(x),
        "hand-written PyTorch, eager": lambda: hand_written(HandWritten(), x, compiled=False),
        "hand-written PyTorch, torch.compile": lambda: hand_written(HandWritten(), x, compiled=True),
        "SVI.step(Trace_ELBO), validation on": lambda: svi(_pair(), x, trace, True),
        "SVI.step(Trace_ELBO), validation off": lambda: svi(_pair(), x, trace, False),
        "SVI.step(TraceMeanField_ELBO), validation on": lambda: svi(_pair(), x, mean_field, True),
        "SVI.step(TraceMeanField_ELBO), validation off": lambda: svi(_pair(), x, mean_field, False),
        "pyro_vae, eager": lambda: ours(_pair(), x, "eager"),
        "pyro_vae, traced": lambda: ours(_pair(), x, "traced"),
        "pyro_vae, compiled": lambda: ours(_pair(), x, "inductor"),
        "NumPyro, epoch under jit": lambda: numpyro(x),
        "pythae": lambda: pythae(x),
    }


def warm(makers: dict[str, Callable[[], Row]]) -> dict[str, Row]:
    """All rows, warmed up (compiled, optimizer state made)."""
    made = {}
    for name, make in makers.items():
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                made[name] = make()
        except ImportError as error:
            print(f"left out: {name} ({error})")
            continue
        for _ in range(5):
            made[name]()
    return made


def measure(made: dict[str, Row], rounds: int, repeats: int) -> dict[str, float]:
    """Milliseconds a step: the median over the rounds."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, run in made.items():
            steps = getattr(run, "steps", 1)
            calls = max(1, repeats // steps)
            started = time.perf_counter()
            for _ in range(calls):
                run()
            times[name].append((time.perf_counter() - started) / (calls * steps) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def benchmark(name: str, description: str | None, rows: Callable[[Tensor], dict[str, Callable[[], Row]]]) -> None:
    """The command of a benchmark: times its rows on random pixels and prints a table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=15, help="rounds over all rows")
    parser.add_argument("--repeats", type=int, default=20, help="steps of a row in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    results = []
    for batch_size in arguments.batch_size:
        torch.manual_seed(0)
        x = (torch.rand(batch_size, PIXELS) < 0.3).float()
        times = measure(warm(rows(x)), arguments.rounds, arguments.repeats)
        hand = times["hand-written PyTorch, eager"]
        step = times["SVI.step(TraceMeanField_ELBO), validation off"]
        body = [(name, f"{ms:.2f}", f"{ms / hand:.2f}", f"{ms / step:.2f}") for name, ms in times.items()]
        print(f"\nbatch {batch_size}, {arguments.threads} threads, median of {arguments.rounds} rounds\n")
        print(table(("row", "ms a step", "x hand-written", "x SVI.step"), body), flush=True)
        results.append({"batch_size": batch_size, "threads": arguments.threads, "ms": times})
    if arguments.json is not None:
        text = json.dumps({"experiment": name, "results": results, "machine": machine()}, indent=1)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    benchmark("benchmark", __doc__, rows)
