"""The time of one training step, 784-400-20 Bernoulli VAE, in one interleaved run.

Rows: the matrix products alone (forward and backward, as torch runs them), hand-written PyTorch eager and compiled,
Pyro's SVI.step with both ELBOs, ours eager, traced and compiled, and NumPyro and pythae where they are installed
(pip install 'pyro-vae[bench]'). All in float32 with Adam, on the same batch of binary pixels. Each row has a process of
its own; each round times every row once, in turn, so that a slow moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from shared import store, table
from torch import Tensor, nn

from pyro_vae import SGVB_B
from pyro_vae.estimators import Estimator
from pyro_vae.models import MLPVAE
from pyro_vae.training import TrainingStep
from pyro_vae.training.averaging import Weights

Row = Callable[[], Any]
Rows = Callable[[Tensor], dict[str, Callable[[], Row]]]
RIVALS = {
    "hand-written PyTorch, torch.compile": "x hand-written, compiled",
    "SVI.step(TraceMeanField_ELBO), validation off": "x SVI.step",
    "NumPyro, epoch under jit": "x NumPyro",
    "JAX, epoch under jit": "x JAX",
}
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


def stepped(pair: nn.Module, x: Tensor, mode: Any, estimator: Estimator | None = None) -> Callable[[], Tensor]:
    """A training step of ours on a batch, which gives the loss without waiting for it."""
    parameters = list(pair.parameters())
    optimizer = torch.optim.Adam(parameters, fused=True, capturable=x.is_cuda)
    step = TrainingStep(pair, SGVB_B() if estimator is None else estimator, compile=mode)
    step.follow(optimizer, parameters, Weights(pair, (), None))
    steps = itertools.count(1)

    def run() -> Tensor:
        with pyro.validation_enabled(False):
            objective = step((x,), step=next(steps))
            if not step.updated:
                optimizer.step()
            return objective.loss

    return run


def ours(pair: nn.Module, x: Tensor, mode: Any, estimator: Estimator | None = None) -> Row:
    run = stepped(pair, x, mode, estimator)
    return lambda: run().item()


def jitted(loss: Any, parameters: Any, x: Tensor) -> Row:
    """Adam on a loss in JAX, ``loss(parameters, key, x)``: an epoch of steps under one jit; the time is per step."""
    import jax
    import jax.numpy as jnp
    from numpyro.optim import Adam

    steps, data, optimizer = 20, jnp.asarray(x.numpy()), Adam(1e-3)
    state = [(optimizer.init(jax.tree.map(jnp.asarray, parameters)), jax.random.PRNGKey(0))]

    @jax.jit
    def epoch(state: Any, data: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            inner, (key, now) = state[0], jax.random.split(state[1])
            value, gradient = jax.value_and_grad(loss)(optimizer.get_params(inner), now, data)
            return (optimizer.update(gradient, inner, value=value), key), value

        return jax.lax.scan(step, state, None, length=steps)

    def run() -> None:
        state[0], losses = epoch(state[0], data)
        losses.block_until_ready()

    run.steps = steps  # type: ignore[attr-defined]
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


def _serve(rows: Rows, name: str, size: int, threads: int, pipe: Any) -> None:
    """One row in a process of its own: warmed up, then as many steps as are asked for, until none are."""
    torch.set_num_threads(threads)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    x = (torch.rand(size, PIXELS) < 0.3).float()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run = rows(x)[name]()
    except ImportError as error:
        pipe.send(str(error))
        return
    for _ in range(5):
        run()
    pipe.send(None)
    steps = getattr(run, "steps", 1)
    while repeats := pipe.recv():
        calls = max(1, repeats // steps)
        run()  # which wakes the threads
        started = time.perf_counter()
        for _ in range(calls):
            run()
        pipe.send((time.perf_counter() - started) / (calls * steps) * 1e3)


def measure(rows: Rows, size: int, threads: int, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds a step in each of the rounds.

    Each row has a process, since the threads of JAX and of OpenMP spin, and would take each other's cores.
    """
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in rows(torch.zeros(1, PIXELS)):
        pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(rows, name, size, threads, other), daemon=True)
        process.start()
        processes.append(process)
        if (missing := pipe.recv()) is None:
            pipes[name] = pipe
        else:
            print(f"left out: {name} ({missing})")
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(repeats)
            times[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()
    return times


def benchmark(name: str, description: str | None, pairs: dict[str, tuple[Rows, Sequence[int]]]) -> None:
    """The command of a benchmark: of each pair its rows and batch sizes, timed on random pixels; prints tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(pairs) > 1:
        parser.add_argument("--pair", nargs="+", choices=pairs, default=list(pairs))
    parser.add_argument("--batch-size", type=int, nargs="+", default=None, help="default: each pair's own")
    parser.add_argument("--rounds", type=int, default=15, help="rounds over all rows")
    parser.add_argument("--repeats", type=int, default=20, help="steps of a row in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for pair in getattr(arguments, "pair", pairs):
        rows, batch_sizes = pairs[pair]
        for batch_size in arguments.batch_size or batch_sizes:
            every = measure(rows, batch_size, arguments.threads, arguments.rounds, arguments.repeats)
            times = {row: statistics.median(values) for row, values in every.items()}
            rivals = {heading: row for row, heading in RIVALS.items() if row in times}
            body = [
                (row, f"{min(every[row]):.2f}", f"{ms:.2f}", *(f"{ms / times[rival]:.2f}" for rival in rivals.values()))
                for row, ms in times.items()
            ]
            print(f"\n{pair}, batch {batch_size}, {arguments.threads} threads, {arguments.rounds} rounds\n")
            print(table(("row", "ms a step, least", "median", *rivals), body), flush=True)
            entry = {"batch_size": batch_size, "threads": arguments.threads, "ms": times, "rounds": every}
            results.append({"pair": pair, **entry} if len(pairs) > 1 else entry)
            if arguments.json is not None:
                store(arguments.json, {"experiment": name, "results": results})  # so far


if __name__ == "__main__":
    benchmark("benchmark", __doc__, {"784-400-20": (rows, (128, 1024))})
