"""Reconstruction error of the VAE and of the deterministic autoencoder over N_z, with tuned weight decay.

Squared error of E[x | z] at z = E[z | x], summed over the pixels, on gray MNIST and Frey faces. The networks are those
of the Cambridge poster (784-500-N_z-500-784, 560-200-N_z-200-560, tanh); the optimizer is Adam. The pairs:

  VAE          the poster's: Bernoulli on gray MNIST, Gaussian with a scale a pixel and sigmoid mean on Frey
  autoencoder  pyro_vae.models.Autoencoder on the squared error (a Gaussian of scale 1, sigmoid mean), which is what the
               poster's autoencoder was trained on as far as can be told from it
  denoising    the same, each pixel of the encoder's input lost with probability 0.1 in training; the published
               numbers have no such row
  PCA          the mean and the first N_z principal components of the training data: the best linear autoencoder

Weight decay is a prior N(0, scale^2) over the weights (pyro_vae.WeightPrior), counted once for the training set. The
scale is chosen on the validation set by the same error, for VAE and autoencoder and each data set, from none and three
scales; the denoising autoencoder takes the autoencoder's. The poster did not tune its autoencoder. --quick chooses at
one N_z, --full at each. Errors are those of the test set.
The weights are those of the epoch with the best validation bound. Frey faces: 1,565 / 200 / 200 in a shuffled split, so
that there is a test set; the frames are of one film, so that neighbors of a test frame are in the training set.

Published, MNIST, VAE / autoencoder: N_z = 2: 33.1 / 37.1, 10: 12.7 / 19.0, 20: 8.3 / 14.8 (the poster's replication).
"""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any

import torch
from networks import HIDDEN, likelihood
from shared import adam, cached_fit, cached_json, dataset, finish, options, table, training_seconds
from torch import nn

from pyro_vae import MLP, VAE, Cosine, DiagonalNormal, StandardNormal, WeightPrior, diagnostics, plotting
from pyro_vae.models import Autoencoder
from pyro_vae.networks import Masking

LATENT_DIMS = (2, 5, 10, 20, 50)
METHODS = ("VAE", "autoencoder", "denoising")
SCALES = (None, 1.0, 0.3, 0.1)  # of the weight prior
PUBLISHED = {"VAE": {2: 33.1, 10: 12.7, 20: 8.3}, "autoencoder": {2: 37.1, 10: 19.0, 20: 14.8}}
TITLES = {"mnist": "MNIST (gray)", "frey": "Frey faces"}
EPOCHS = {"quick": {"mnist": 4, "frey": 50}, "full": {"mnist": 200, "frey": 1000}}
SEEDS = {"quick": {"mnist": 1, "frey": 2}, "full": {"mnist": 3, "frey": 5}}
CHOSEN_AT = {"quick": (20,), "full": LATENT_DIMS}  # N_z at which the scale of the prior is chosen
BATCH = {"mnist": 100, "frey": 50}
PATIENCE = {"mnist": 20, "frey": 100}
LOST = 0.1  # share of the pixels that the denoising autoencoder does not see


def make(name: str, method: str, latent_dim: int, shape: torch.Size) -> nn.Module:
    """The pair: one hidden layer of tanh on each side for every method."""
    hidden = (HIDDEN[name],)
    if method == "VAE":
        encoder = MLP(shape, (2, latent_dim), hidden, nn.Tanh)
        return VAE(StandardNormal(latent_dim), DiagonalNormal(encoder), likelihood(name, shape, latent_dim, hidden))
    corruption = Masking(LOST) if method == "denoising" else None
    return Autoencoder(shape, latent_dim, hidden, activation=nn.Tanh, corruption=corruption)


def train(name: str, method: str, latent_dim: int, scale: float | None, seed: int, arguments: Any) -> dict[str, Any]:
    """One training: its errors, and what it took."""
    data = dataset(name, arguments)
    epochs = EPOCHS[arguments.size][name]
    folder = arguments.cache / "autoencoder" / f"{name}-{method}-{latent_dim}-{scale}-{epochs}-seed{seed}"
    run = cached_fit(
        folder,
        functools.partial(make, name, method, latent_dim, data.event_shape),
        data,
        seed=seed,
        optimizer=adam(5e-3),
        scheduler=Cosine(warmup=0.02),
        weight_prior=None if scale is None else WeightPrior(scale),
        epochs=epochs,
        batch_size=BATCH[name],
        patience=PATIENCE[name],
        compile="traced",
        progress=False,
    )
    held = {"valid": data.valid, "test": data.test}
    errors = cached_json(
        folder / "errors.json",
        lambda: {key: diagnostics.reconstruction_mse(run.pair, split.batches(1000)) for key, split in held.items()},
    )
    history = run.history
    return {
        "data": name, "method": method, "latent_dim": latent_dim, "scale": scale, "seed": seed, **errors,
        "epochs": len(history), "best_epoch": run.best_epoch or len(history), "seconds": training_seconds(history)[-1],
    }  # fmt: skip


def choice(name: str, method: str, arguments: Any) -> tuple[list[dict[str, Any]], dict[int, float | None]]:
    """The trainings that choose the scale of the weight prior, and the chosen one for each N_z."""
    places = CHOSEN_AT[arguments.size]
    tried = [
        train(name, method, latent_dim, scale, arguments.seed, arguments) for latent_dim in places for scale in SCALES
    ]
    best: dict[int, float | None] = {}
    for latent_dim in LATENT_DIMS:
        nearest = min(places, key=lambda at: abs(math.log(at / latent_dim)))
        there = [run for run in tried if run["latent_dim"] == nearest]
        best[latent_dim] = min(there, key=lambda run: run["valid"])["scale"]
    return tried, best


def principal_components(name: str, arguments: Any) -> list[dict[str, Any]]:
    """The test error of the mean and the first N_z principal components of the training data."""
    data = dataset(name, arguments)
    train_x, test_x = (
        split.batch(torch.arange(len(split)))[0].flatten(1).double() for split in (data.train, data.test)
    )
    mean = train_x.mean(0)
    basis = torch.linalg.eigh((train_x - mean).T.cov()).eigenvectors.flip(1)
    centered = test_x - mean
    kept = (centered @ basis).square().mean(0).cumsum(0)
    total = centered.square().sum(1).mean()
    return [
        {"data": name, "method": "PCA", "latent_dim": latent_dim, "test": (total - kept[latent_dim - 1]).item()}
        for latent_dim in LATENT_DIMS
    ]


def summary(name: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and N_z: mean and standard error over the seeds."""
    rows = []
    for method in (*METHODS, "PCA"):
        for latent_dim in LATENT_DIMS:
            found = [
                run for run in runs if (run["data"], run["method"], run["latent_dim"]) == (name, method, latent_dim)
            ]
            tests = [run["test"] for run in found]
            error = statistics.stdev(tests) / math.sqrt(len(tests)) if len(tests) > 1 else None
            rows.append(
                {
                    "data": name, "method": method, "latent_dim": latent_dim, "test": statistics.mean(tests),
                    "standard_error": error, "scale": found[0].get("scale"), "seeds": len(found),
                    "published": PUBLISHED.get(method, {}).get(latent_dim) if name == "mnist" else None,
                    "seconds": statistics.mean(run.get("seconds", 0.0) for run in found),
                    "epochs": found[0].get("best_epoch"),
                }
            )  # fmt: skip
    return rows


def main() -> None:
    arguments = options(__doc__).parse_args()
    tried, runs, rows = [], [], []
    for name in TITLES:
        best: dict[int, float | None] = {}
        for method in METHODS:
            if method != "denoising":  # it takes the autoencoder's
                choosing, best = choice(name, method, arguments)
                tried += choosing
            for latent_dim in LATENT_DIMS:
                for seed in range(arguments.seed, arguments.seed + SEEDS[arguments.size][name]):
                    runs.append(train(name, method, latent_dim, best[latent_dim], seed, arguments))
        runs += principal_components(name, arguments)
        rows += summary(name, runs)
    header = ("data", "method", "N_z", "test error", "standard error", "published", "weight prior", "best epoch",
              "seconds")  # fmt: skip
    print(table(header, [_row(row) for row in rows]))
    header = ("data", "method", "N_z", "weight prior", "validation error", "test error")
    choices = [
        (run["data"], run["method"], run["latent_dim"], _scale(run["scale"]), f"{run['valid']:.2f}",
         f"{run['test']:.2f}")
        for run in tried
    ]  # fmt: skip
    print(f"\nThe choice of the weight prior (one seed)\n{table(header, choices)}")
    print(f"\n{in_words(rows)}")
    finish(arguments, "autoencoder", {"rows": rows, "tried": tried, "runs": runs}, {"autoencoder": draw(rows)})


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    error = row["standard_error"]
    trained = row["method"] != "PCA"
    return (
        row["data"], row["method"], row["latent_dim"], f"{row['test']:.2f}",
        None if error is None else f"{error:.2f}", row["published"], _scale(row["scale"]) if trained else None,
        row["epochs"], row["seconds"] if trained else None,
    )  # fmt: skip


def _scale(scale: float | None) -> str:
    return "none" if scale is None else f"N(0, {scale:g}^2)"


def in_words(rows: list[dict[str, Any]]) -> str:
    """What the errors come to."""
    lines = []
    for name, title in TITLES.items():
        error = {(row["method"], row["latent_dim"]): row["test"] for row in rows if row["data"] == name}
        ratios = {n: error["autoencoder", n] / error["VAE", n] for n in LATENT_DIMS}
        lower = [n for n, ratio in ratios.items() if ratio < 1]
        noisy = [n for n in LATENT_DIMS if error["denoising", n] < error["autoencoder", n]]
        worse = {method: [n for n in LATENT_DIMS if error[method, n] > error["PCA", n]] for method in METHODS}
        lines += [
            f"{title}: the autoencoder's error is {_listed(ratios)} times the VAE's. It is the lower one at "
            f"{_dims(lower)}; the denoising autoencoder's is below the autoencoder's at {_dims(noisy)}.",
            f"{title}: " + ", ".join(f"{method} is above PCA at {_dims(dims)}" for method, dims in worse.items()) + ".",
        ]
        published = {n: PUBLISHED["autoencoder"][n] / PUBLISHED["VAE"][n] for n in PUBLISHED["VAE"]}
        if name == "mnist":
            lines.append(f"{title}, as published: {_listed(published)} times.")
    return "\n".join(lines)


def _listed(ratios: dict[int, float]) -> str:
    return ", ".join(f"{ratio:.2f} (N_z = {n})" for n, ratio in ratios.items())


def _dims(dims: list[int]) -> str:
    return f"N_z = {', '.join(map(str, dims))}" if dims else "no N_z"


def draw(rows: list[dict[str, Any]]) -> Any:
    """Error over N_z, a panel for each data set."""
    panels: dict[str, dict[str, Any]] = {}
    for name, title in TITLES.items():
        panels[title] = {}
        for method in (*METHODS, "PCA"):
            found = [row for row in rows if (row["data"], row["method"]) == (name, method)]
            line = [[row["latent_dim"] for row in found], [row["test"] for row in found]]
            errors = [row["standard_error"] for row in found]
            panels[title][method] = (*line, errors) if None not in errors else tuple(line)
    papers = {f"published, {method}": (list(found), list(found.values())) for method, found in PUBLISHED.items()}
    return plotting.lines(
        panels, x="N_z", y="squared error (sum over pixels)", published={TITLES["mnist"]: papers}, log="xy"
    )


if __name__ == "__main__":
    main()
