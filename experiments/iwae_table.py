"""Table 1 of Burda, Grosse & Salakhutdinov (2015): VAE and IWAE, one and two stochastic layers, dynamic MNIST.

Each system is trained with k samples of each datum, by the mean of the k log-weights (VAE, SGVB_A) or by the log of the
mean of the k weights (IWAE); the test NLL is estimated by importance sampling with 5,000 samples.

  --full    the paper's schedule: stages i = 0 .. 7 of 3^i epochs (3,280 in all), learning rate 1e-3 * 10^(-i/7), Adam,
            batch 20; NLL of all 10,000 test images
  --quick   the same stages squeezed into a few epochs at batch 100. The NLL is that of all test images: 5,000 samples
            for the first 250 of them, and the bound for all, which carries the estimate over from those to all.

Published figures: Burda et al. (2015), table 1, which are for the full schedule. The last column tells how much of it
was trained.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from shared import adam, cached_fit, cached_json, carried_over, dataset, finish, in_batches, options, table
from torch import Tensor, nn

from pyro_vae import (
    IWAE,
    MLP,
    SGVB_A,
    VAE,
    Bernoulli,
    DiagonalNormal,
    Gaussian,
    StandardNormal,
    evidence,
    pair_method,
    plotting,
)
from pyro_vae.pair import data_plate
from pyro_vae.training import Progress, Schedule

# (layers, objective, k) -> NLL
PUBLISHED = {
    (1, "VAE", 1): 86.76, (1, "VAE", 5): 86.47, (1, "VAE", 50): 86.35,
    (1, "IWAE", 5): 85.54, (1, "IWAE", 50): 84.78,
    (2, "VAE", 1): 85.33, (2, "VAE", 5): 85.01, (2, "VAE", 50): 84.78,
    (2, "IWAE", 5): 83.89, (2, "IWAE", 50): 82.90,
}  # fmt: skip
FULL_EPOCHS, FULL_BATCH = 3280, 20
SIZES = {
    "quick": {"epochs": 4, "batch_size": 100, "exact": 250},
    "full": {"epochs": FULL_EPOCHS, "batch_size": FULL_BATCH, "exact": 10_000},
}
# What the quick run leaves to the full one, to end within 15 minutes on two cores.
ONLY_FULL = {(2, "VAE", 50), (2, "IWAE", 50)}


class Stages(Schedule):
    """Stage i = 0 .. 7 takes 3^i of 3,280 parts of the training, at 10^(-i / 7) times the learning rate."""

    def __call__(self, progress: Progress) -> float:
        done = progress.fraction * FULL_EPOCHS
        stage = min(7, int(math.log(2 * done + 1, 3) + 1e-9))  # stages 0 .. i - 1 take (3^i - 1) / 2 parts
        return 10 ** (-stage / 7)


class TwoLayers(PyroModule):
    r"""Two stochastic layers, the guide bottom-up.

    .. math:: z_2 \sim N(0, I), \; z_1 \sim p(z_1 \mid z_2), \; x \sim p(x \mid z_1); \qquad
              z_1 \sim q(z_1 \mid x), \; z_2 \sim q(z_2 \mid z_1)
    """

    def __init__(self, event_shape: torch.Size, mean: Tensor, dims: tuple[int, int] = (100, 50)) -> None:
        super().__init__()
        z1, z2 = dims
        self.prior = StandardNormal(z2)
        self.p_z1 = Gaussian(MLP(z2, (2, z1), (100, 100), nn.Tanh), scale=None, sigmoid_mean=False)
        self.p_x = Bernoulli(decoder(z1, event_shape, mean))
        self.q_z1 = DiagonalNormal(MLP(event_shape, (2, z1), (200, 200), nn.Tanh))
        self.q_z2 = DiagonalNormal(MLP(z1, (2, z2), (100, 100), nn.Tanh))

    @pair_method
    def model(self, x: Tensor | None = None) -> Tensor:
        with data_plate(x):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.p_z1(z2))
            return pyro.sample("x", self.p_x(z1), obs=x)

    @pair_method
    def guide(self, x: Tensor) -> None:
        with data_plate(x):
            z1 = pyro.sample("z1", self.q_z1(x))
            pyro.sample("z2", self.q_z2(z1))


def decoder(in_shape: int, event_shape: torch.Size, mean: Tensor) -> MLP:
    """Two hidden layers of 200; the biases of the output are the log-odds of the data's mean."""
    network = MLP(in_shape, event_shape, (200, 200), nn.Tanh)
    network.start_at(mean.clamp(0.001, 0.999).logit())
    return network


def make(layers: int, event_shape: torch.Size, mean: Tensor) -> Any:
    """The paper's networks: tanh, Glorot's uniform weights."""
    if layers == 2:
        pair: Any = TwoLayers(event_shape, mean)
    else:
        encoder = MLP(event_shape, (2, 50), (200, 200), nn.Tanh)
        pair = VAE(StandardNormal(50), DiagonalNormal(encoder), Bernoulli(decoder(50, event_shape, mean)))
    for module in pair.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return pair


def nll(pair: Any, x: Tensor, exact: int, seed: int) -> dict[str, float]:
    """NLL of ``x`` in nats: importance sampling of the first ``exact`` data, carried over to all by the bound."""
    result = evidence.importance(pair, x[:exact], 5000, seed=seed, precision="auto", progress=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bound = SGVB_A(10).mean_bound(pair, list(in_batches(x)))
        torch.manual_seed(seed)
        first = torch.cat([SGVB_A(10).bound(pair, part) for (part,) in in_batches(x[:exact])])
    nll, error = carried_over(result.log_prob, first, bound)
    return {"nll": nll, "standard_error": result.nll_standard_error if exact == len(x) else error, "bound": bound}


def folder_of(layers: int, objective: str, k: int, size: str, arguments: Any) -> Path:
    """Where a system is kept."""
    name = f"{layers}-{objective}-{k}-{SIZES[size]['epochs']}-seed{arguments.seed}"
    return arguments.cache / "iwae_table" / name


def train(layers: int, objective: str, k: int, arguments: Any) -> dict[str, Any]:
    """One system: trained, and its NLL."""
    chosen = SIZES[arguments.size]
    data: Any = dataset("mnist", arguments, "dynamic")
    folder = folder_of(layers, objective, k, arguments.size, arguments)
    run = cached_fit(
        folder,
        functools.partial(make, layers, data.event_shape, data.train.mean()),
        data,
        seed=arguments.seed,
        estimator=(SGVB_A if objective == "VAE" else IWAE)(k),
        optimizer=adam(1e-3, eps=1e-4),
        scheduler=Stages(),
        epochs=chosen["epochs"],
        batch_size=chosen["batch_size"],
        precision="auto",
    )
    (x,) = data.test.batch(slice(None))

    def evaluate() -> dict[str, float]:
        started = time.perf_counter()
        found = nll(run.pair, x, chosen["exact"], arguments.seed)
        return {**found, "evaluation_seconds": time.perf_counter() - started}

    last = run.history[-1]
    return {
        "layers": layers,
        "objective": objective,
        "k": k,
        **cached_json(folder / "nll.json", evaluate),
        "published": PUBLISHED[layers, objective, k],
        "validation_bound": last["valid"],
        "epochs": last["epoch"],
        "share_of_full_schedule": last["epoch"] / FULL_EPOCHS,
        "seconds": last["seconds"],
    }


def main() -> None:
    arguments = options(__doc__).parse_args()
    systems = [system for system in PUBLISHED if arguments.size == "full" or system not in ONLY_FULL]
    rows = [train(*system, arguments) for system in systems]
    header = ("layers", "objective", "k", "test NLL", "s.e.", "published", "epochs", "of the schedule", "seconds")
    lines = [
        (
            row["layers"], row["objective"], row["k"], f"{row['nll']:.2f}", f"{row['standard_error']:.2f}",
            f"{row['published']:.2f}", row["epochs"], f"{row['share_of_full_schedule']:.2%}",
            f"{row['seconds']:.0f} + {row['evaluation_seconds']:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    print(table(header, lines))
    total = sum(row["seconds"] + row["evaluation_seconds"] for row in rows)
    chosen = SIZES[arguments.size]
    print(
        f"NLL in nats, of 10,000 test images. {chosen['epochs']} of {FULL_EPOCHS:,} epochs were trained, at batch "
        f"{chosen['batch_size']} (published: {FULL_BATCH}), in {total / 60:.1f} minutes in all."
    )
    finish(arguments, "iwae_table", {"rows": rows}, {"iwae_table": draw(rows)})


def draw(rows: list[dict[str, Any]]) -> Any:
    """NLL against k: ours and the published numbers, one and two layers side by side."""
    panels: dict[str, Any] = {}
    published: dict[str, Any] = {}
    for layers in (1, 2):
        heading = "one stochastic layer" if layers == 1 else "two stochastic layers"
        for objective in ("VAE", "IWAE"):
            found = [row for row in rows if (row["layers"], row["objective"]) == (layers, objective)]
            line = [[row[key] for row in found] for key in ("k", "nll", "standard_error")]
            panels.setdefault(heading, {})[objective] = line
            marks = [(k, value) for (n, name, k), value in PUBLISHED.items() if (n, name) == (layers, objective)]
            label = f"published, {objective}, {FULL_EPOCHS:,} epochs"
            published.setdefault(heading, {})[label] = list(zip(*marks, strict=True))
    epochs = rows[0]["epochs"]
    return plotting.lines(
        panels,
        x="samples of each datum in training, k",
        y="test NLL (nats per datum)",
        published=published,
        log="x",
        title=f"dynamic MNIST, {epochs} epochs of {FULL_EPOCHS:,}",
    )


if __name__ == "__main__":
    main()
