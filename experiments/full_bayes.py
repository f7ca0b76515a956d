"""Full variational Bayes over the decoder's weights against MAP, as the number N of training data grows.

Kingma & Welling (2013), appendix F: q(theta) is a Gaussian over every weight of the decoder, p(theta) = N(0, I), and
the bound is on log p(X) of all N data. A published replication reports that its attempt "does not learn"; a reading of
its code shows a likelihood that used the point weights, so that q(theta) had no gradient from the data.

Binarized MNIST (static), 784-200-10-200-784 with tanh (--full: 500 hidden units), N = 100 ... 50,000 of the training
images, and Frey faces (560-200-10-200-560, a Gaussian with one learned scale, N = 300 and 1,500). The same networks,
optimizer, number of updates and initial weights for

  MAP             point weights, prior N(0, I) on all of them, counted once for the data
  VB              q(theta) of independent weights over the decoder, p(theta) = N(0, I); the encoder as in MAP
  VB, matrix      a matrix-variate normal for each layer of the decoder, and prior scales that are learned, one for each
                  column (type-II maximum likelihood); the encoder as in MAP

The bound is that of held-out data, E[log p(x | theta)] under q(theta), without the KL of the weights, which the
training data have paid for. "end" is the last epoch of a run: the posterior's mode for MAP, the optimum of the bound
for VB. "best epoch" is the one that validation data choose; it is no longer MAP, since early stopping regularizes by
itself. The test bound and the predictive NLL (importance sampling with a draw of the weights in each sample) are those
of the best epoch. The last figure shows what the posterior knows of the weights: the spread of E[x | z] over draws of
theta, as z leaves the sphere where the codes of the data are.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from shared import adam, cached_fit, cached_json, dataset, finish, in_batches, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import SGVB_B, Cosine, Gaussian, WeightPrior, diagnostics, evidence, plotting
from pyro_vae.bayesian import IsotropicNormal, MatrixVariate, MeanField
from pyro_vae.models import MLPVAE, FullBayes

SIZES = {"mnist": (100, 300, 1000, 3000, 10_000, 50_000), "frey": (300, 1500)}
HIDDEN = {"quick": {"mnist": 200, "frey": 200}, "full": {"mnist": 500, "frey": 200}}
LATENT_DIM = 10
BATCH = 100
UPDATES = {
    "quick": {100: 3000, 300: 4000, 1000: 5000, 1500: 4000, 3000: 5000, 10_000: 4000, 50_000: 6000},
    "full": dict.fromkeys((100, 300, 1000, 1500, 3000, 10_000, 50_000), 500_000),
}
AN_EPOCH = 100  # updates at least, between two validations
METHODS = ("MAP", "VB", "VB, matrix")
HELD_OUT = {"quick": 1000, "full": 10_000}  # validation and test data
RADII = (0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 9.0, 12.0)  # in standard deviations of the prior
NUM_WEIGHTS = 20  # draws of theta
SHOWN = 12


def images(name: str, arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Training data in the order in which N of them are taken, validation and test data."""
    data: Any = dataset(name, arguments, "static")
    train, valid, test = (split.batch(slice(None))[0] for split in (data.train, data.valid, data.test))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(arguments.seed))
    most = HELD_OUT[arguments.size]
    return train[order], valid[:most], test[:most]


def make(name: str, method: str, size: str, mean: Tensor) -> nn.Module:
    """The pair of a method: the same networks, with the same weights at the start."""
    likelihood: Any = {"likelihood": functools.partial(Gaussian, scale="shared")} if name == "frey" else {}
    vae = MLPVAE(mean.shape, LATENT_DIM, (HIDDEN[size][name],), activation=nn.Tanh, mean=mean, **likelihood)
    if method == "MAP":
        return vae
    matrix = method == "VB, matrix"
    prior = functools.partial(IsotropicNormal, scale="fan_in", learned="column") if matrix else IsotropicNormal
    family: Any = MatrixVariate if matrix else MeanField
    return FullBayes(vae, prior=prior, posterior=functools.partial(family, scale=0.02), noise="local")


def run(name: str, method: str, num_data: int, arguments: Any) -> tuple[dict[str, Any], Any, Tensor]:
    """One training and its evaluation: its row of the table, the pair at its best epoch, and the training data."""
    train, valid, test = images(name, arguments)
    updates = UPDATES[arguments.size][num_data]
    x = train[:num_data]
    batch = min(BATCH, num_data)
    # A pass over few data is over in a few updates: they are laid out several times, so that validation is seldom.
    copies = max(1, AN_EPOCH * batch // num_data)
    epochs = max(1, updates * batch // (copies * num_data))
    # Of the point weights; it counts once for num_data data, and fit sees copies of them.
    prior = WeightPrior(scale=copies**-0.5)
    kind = method.replace(", ", "-").lower()
    folder = arguments.cache / "full_bayes" / f"{name}-{kind}-{num_data}-{epochs}-seed{arguments.seed}"
    trained = cached_fit(
        folder,
        functools.partial(make, name, method, arguments.size, x.mean(0)),
        (x.repeat(copies, *[1] * (x.dim() - 1)), valid),
        seed=arguments.seed,
        estimator=SGVB_B(num_data=num_data),
        optimizer=adam(4e-3, betas=(0.9, 0.99)),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=epochs,
        batch_size=batch,
        weight_prior=prior,
        patience=epochs,  # goes back to the best epoch at the end
        clip_norm=1000.0,
    )
    pair: Any = trained.pair.eval()
    history = trained.history
    found = cached_json(folder / "test.json", functools.partial(evaluate, pair, test, arguments.seed))
    row = {
        "data": name,
        "method": method,
        "N": num_data,
        "train": history[-1]["train"],
        "weights": sum(terms["kl"] for site, terms in history[-1]["terms"].items() if site.endswith("weights")),
        "valid_end": history[-1]["valid"],
        "valid_best": trained.bound,
        "best_epoch": trained.best_epoch,
        "epochs": len(history),
        "updates": updates,
        **found,
        "seconds": training_seconds(history)[-1],
    }
    return row, pair, x


def evaluate(pair: Any, test: Tensor, seed: int) -> dict[str, float]:
    """The bound and the predictive NLL of test data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bound = SGVB_B(num_data=math.inf).mean_bound(pair, in_batches(test, 100))
    predictive = pair.posterior_predictive() if isinstance(pair, FullBayes) else pair
    found = evidence.importance(predictive, test, 200, seed=seed, compile="traced", progress=False)
    return {
        "test": bound,
        "nll": found.nll,
        "nll_standard_error": found.nll_standard_error,
        "effective_sample_size": found.effective_sample_size.median().item(),
    }


def spread(pair: FullBayes, x: Tensor, seed: int) -> list[float]:
    """At each radius: the standard deviation of E[x | z] over draws of theta, as a mean over pixels and directions."""
    directions = torch.randn(64, LATENT_DIM, generator=torch.Generator().manual_seed(seed))
    directions = directions / directions.norm(dim=1, keepdim=True)
    pairs = [pair.sample_weights(draw) for draw in range(NUM_WEIGHTS)]
    found = []
    for radius in RADII:
        means = torch.stack([diagnostics.decode(one, radius * directions, x[:1]) for one in pairs])
        found.append(means.var(0).mean().sqrt().item())
    return found


def main() -> None:
    arguments = options(__doc__).parse_args()
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[float]] = {}
    codes: dict[str, float] = {}
    groups = []
    for name, sizes in SIZES.items():
        for num_data in sizes:
            drawn = {}
            for method in METHODS:
                row, pair, x = run(name, method, num_data, arguments)
                rows.append(row)
                with torch.random.fork_rng():
                    torch.manual_seed(arguments.seed)
                    drawn[f"{method}, N = {num_data:,}"] = diagnostics.sample(pair, SHOWN, x[:1])
                if isinstance(pair, FullBayes) and name == "mnist" and method == "VB":
                    curves[f"N = {num_data:,}"] = spread(pair, x, arguments.seed)
                    codes[f"N = {num_data:,}"] = diagnostics.encode(pair, x[:1000])["z"].norm(dim=1).mean().item()
            if name == "mnist" and num_data in (100, 1000, 50_000):
                groups.append(drawn)
    header = (
        "data", "N", "method", "train", "weights' KL / N", "valid, end", "valid, best epoch", "test, best epoch",
        "predictive NLL", "epoch", "seconds",
    )  # fmt: skip
    print(table(header, [
        (
            row["data"], row["N"], row["method"], row["train"], row["weights"], row["valid_end"], row["valid_best"],
            row["test"], row["nll"], f"{row['best_epoch']} of {row['epochs']}", row["seconds"],
        )
        for row in rows
    ]))  # fmt: skip
    print("\nspread of E[x | z] over the weights (MNIST, VB), by the length of z")
    print(table(("", *map(str, RADII), "codes"), [
        (label, *(f"{value:.3f}" for value in values), f"{codes[label]:.1f}") for label, values in curves.items()
    ]))  # fmt: skip
    print(f"\n{in_words(rows, curves)}")
    panels: dict[str, dict[str, dict[str, Any]]] = {name: {"end of training": {}, "best epoch": {}} for name in SIZES}
    for name, panel in panels.items():
        for method in METHODS:
            chosen = [row for row in rows if (row["data"], row["method"]) == (name, method)]
            at = [row["N"] for row in chosen]
            panel["end of training"][method] = (at, [row["valid_end"] for row in chosen])
            panel["best epoch"][method] = (at, [row["valid_best"] for row in chosen])
    labels: dict[str, Any] = {"x": "training data N", "y": "validation bound (nats per datum)", "log": "x"}
    figures = {
        **{f"full_bayes_{name}": plotting.lines(panel, **labels) for name, panel in panels.items()},
        "full_bayes_samples": plotting.restorations(groups),
        "full_bayes_spread": plotting.lines(
            {"": {label: (RADII, values) for label, values in curves.items()}},
            x=f"length of z (mean length of codes: {min(codes.values()):.1f} to {max(codes.values()):.1f})",
            y="sd of E[x | z] over weights",
        ),
    }
    # One draw of independent weights at N = 100 is worse than no network at all: its line leaves the axis below.
    low = min(row["valid_best"] for row in rows if row["data"] == "mnist") - 60
    figures["full_bayes_mnist"].axes[0].set_ylim(bottom=low)
    result = {"runs": rows, "radii": RADII, "spread": curves, "codes": codes}
    finish(arguments, "full_bayes", result, figures)


def in_words(rows: list[dict[str, Any]], curves: dict[str, list[float]]) -> str:
    """What the table comes to."""
    lines = []
    for name, sizes in SIZES.items():
        for num_data in sorted({min(sizes), 1000, max(sizes)} & set(sizes)):
            row = {r["method"]: r for r in rows if (r["data"], r["N"]) == (name, num_data)}
            for method in METHODS[1:]:
                best = row[method]["valid_best"] - row["MAP"]["valid_best"]
                end = row[method]["valid_end"] - row["MAP"]["valid_end"]
                lines.append(
                    f"{name}, N = {num_data:,}: {method} - MAP is {best:+.1f} nats at the best epochs, {end:+.1f} at "
                    "the end of training (validation)."
                )
    for label, values in curves.items():
        lines.append(f"{label}: from z = 0 to |z| = {RADII[-1]:g} the spread grows {values[-1] / values[0]:.1f} times.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
