"""The scale of a Gaussian likelihood: known, one for each pixel, learned, or optimal (Rybkin et al. 2021).

Gray images as real numbers in [0, 1], Frey faces (560-200-10-200-560) and MNIST (784-300-20-300-784), where
p(x | z) = N(loc(z), sigma^2) has a sigma that is

  unit        1: the squared error, as many write it
  per pixel   given by the network for each pixel, above exp(-6) = 0.0025 (the clip of pyro_vae.likelihoods.Gaussian)
  shared      one parameter for all pixels, learned with the others
  optimal     the root of the mean square error, of the batch in training, and fixed after it

Under the optimal sigma the reconstruction term of the bound is -(D / 2) log(2 pi e MSE) for data of D pixels; the
second table has both sides of that. Beside the active units stands how many a linear VAE of the same sigma would use
(diagnostics.linear_vae_optimum): the principal components of the data whose variance is above sigma^2.

The bounds are densities of gray images, in nats: a level of 1/255 is narrower than most of these sigmas, yet wider than
the clip. There are no published numbers to compare to.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import torch
from drawing import rows_of_images, styled
from shared import adam, cached_fit, cached_json, dataset, finish, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import SGVB_B, Cosine, diagnostics
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import MLPVAE
from pyro_vae.plotting.style import SQUARE, HouseFigure

SCALES: dict[str, Any] = {"unit": 1.0, "per pixel": None, "shared": "shared", "optimal": "optimal"}
NETWORKS = {"frey": (10, (200,)), "mnist": (20, (300,))}  # N_z and hidden units
EPOCHS = {"quick": {"frey": 150, "mnist": 8}, "full": {"frey": 2000, "mnist": 200}}
BATCH = {"frey": 50, "mnist": 100}
PATIENCE = {"frey": 50, "mnist": 10}
DRAWS = {"frey": 20, "mnist": 1}  # of z for each datum of the test set
SHOWN = 8


def make(name: str, scale: Any, mean: Tensor) -> nn.Module:
    """The pair: one scale, the same networks for all of them."""
    latent_dim, hidden = NETWORKS[name]
    return MLPVAE(mean.shape, latent_dim, hidden, likelihood=functools.partial(Gaussian, scale=scale), mean=mean)


def run(name: str, kind: str, arguments: Any) -> tuple[dict[str, Any], list[Tensor]]:
    """One training and its evaluation; reconstructions of test data and samples, ``[SHOWN, *event]`` each."""
    data: Any = dataset(name, arguments)
    epochs = EPOCHS[arguments.size][name]
    folder = arguments.cache / "sigma" / f"{name}-{kind}-{epochs}-seed{arguments.seed}".replace(" ", "-")
    trained = cached_fit(
        folder,
        functools.partial(make, name, SCALES[kind], data.train.mean()),
        data,
        seed=arguments.seed,
        estimator=SGVB_B(),
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=epochs,
        batch_size=BATCH[name],
        clip_norm=1000.0,
        patience=PATIENCE[name],
    )
    pair: Any = trained.pair.eval()
    (x,) = data.test.batch(slice(None))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(arguments.seed)
        found = cached_json(folder / "test.json", functools.partial(evaluate, pair, x, DRAWS[name], variances(data)))
        torch.manual_seed(arguments.seed)
        images = [diagnostics.reconstruct(pair, x[:SHOWN]), diagnostics.sample(pair, SHOWN, x[:1])]
    history = trained.history
    row = {
        "data": name,
        "sigma": kind,
        "valid": trained.bound,
        **found,
        "best_epoch": trained.best_epoch or len(history),
        "epochs": len(history),
        "seconds": training_seconds(history)[-1],
    }
    return row, images


def variances(data: Any) -> Tensor:
    """``[D]``: the variances of the principal components of the training data."""
    (x,) = data.train.batch(slice(None))
    return torch.linalg.eigvalsh(x.flatten(1).T.cov()).clamp(min=0)


def evaluate(pair: Any, x: Tensor, num_draws: int, eigenvalues: Tensor) -> dict[str, Any]:
    """The bound and its parts, the error and sigma on test data; the identity, and how far it holds."""
    parts, num_pixels = x.split(1000), x[0].numel()
    batches = [(part,) for part in parts]
    scores, squares, scales = [], [], []
    for part in parts:
        p = pair.likelihood(pair.posterior(part).sample((num_draws,)))
        scores.append(p.log_prob(part).mean(0))
        squares.append((part - p.mean).square().mean(0).flatten(1).mean(1))
        scales.append(p.stddev[0].flatten())
    score, square, scale = torch.cat(scores).double(), torch.cat(squares).double(), torch.cat(scales)
    sides = diagnostics.rate_distortion(pair, batches, SGVB_B())
    units = diagnostics.active_units(pair, batches)
    error = diagnostics.reconstruction_mse(pair, batches)
    sigma = scale.double().log().mean().exp().item()
    latent_dim, one_sigma = len(units.variances), bool(scale.min() == scale.max())
    return {
        "test": score.mean().item() - sides.rate,
        "worst_datum": score.min().item(),
        "median_score": score.median().item(),
        "rate": sides.rate,
        "score": score.mean().item(),
        "identity": identity(square.mean().item(), num_pixels),
        "as_trained": as_trained(pair, parts[0]),
        "error": error,
        "error_of_pixel": error / num_pixels,
        "error_of_draws": square.mean().item(),
        "scale": sigma,
        "least_scale": scale.min().item(),
        "at_the_clip": (scale < 1.1 * math.exp(-6)).double().mean().item(),
        "active_units": units.count,
        "latent_dim": latent_dim,
        "linear": diagnostics.linear_vae_optimum(eigenvalues, latent_dim, sigma).num_active if one_sigma else None,
    }


def identity(mean_square: float, num_pixels: int) -> float:
    """-(D / 2) log(2 pi e MSE), the greatest log-likelihood with one sigma."""
    return -num_pixels / 2 * math.log(2 * math.pi * math.e * mean_square)


def as_trained(pair: Any, x: Tensor) -> dict[str, float]:
    """The reconstruction term of one batch and one draw of z in training mode, beside the identity."""
    pair = copy.deepcopy(pair).train()  # a copy: the optimal sigma remembers what it scores
    p = pair.likelihood(pair.posterior(x).sample())
    mean_square = (x - p.mean).double().square().mean().item()
    return {"score": p.log_prob(x).double().mean().item(), "identity": identity(mean_square, x[0].numel())}


def main() -> None:
    arguments = options(__doc__).parse_args()
    found = {(name, kind): run(name, kind, arguments) for name in NETWORKS for kind in SCALES}
    runs = [row for row, _ in found.values()]
    header = (
        "data", "sigma", "valid", "test", "KL", "squared error", "a pixel", "sigma (geometric mean)", "least",
        "% at the clip", "active units", "linear", "best epoch", "seconds",
    )  # fmt: skip
    rows = [
        (
            row["data"], row["sigma"], row["valid"], row["test"], row["rate"], f"{row['error']:.2f}",
            f"{row['error_of_pixel']:.5f}", f"{row['scale']:.4f}", f"{row['least_scale']:.4f}",
            100 * row["at_the_clip"], f"{row['active_units']} of {row['latent_dim']}", row["linear"],
            f"{row['best_epoch']} of {row['epochs']}", row["seconds"],
        )
        for row in runs
    ]  # fmt: skip
    print(table(header, rows))
    header = ("data", "sigma", "E log p(x | z), test", "identity", "difference", "as in training", "identity", "diff.")
    rows = []
    for row in runs:
        once = row["as_trained"]
        sides = (row["score"], row["identity"], row["score"] - row["identity"], once["score"], once["identity"])
        rows.append((row["data"], row["sigma"], *sides, f"{once['score'] - once['identity']:.4f}"))
    print(f"\n-(D / 2) log(2 pi e MSE), in nats per datum\n{table(header, rows)}")
    print(f"\n{in_words(runs)}")
    images = {key: shown for key, (_, shown) in found.items()}
    finish(arguments, "sigma", {"runs": runs}, {"sigma": draw(images, arguments)})


def in_words(runs: list[dict[str, Any]]) -> str:
    """What the four come to."""
    lines = []
    for name in NETWORKS:
        row = {entry["sigma"]: entry for entry in runs if entry["data"] == name}
        best = max(row.values(), key=lambda entry: entry["test"])
        unit, optimal, pixel = row["unit"], row["optimal"], row["per pixel"]
        lines += [
            f"{name}: unit uses {unit['active_units']} of {unit['latent_dim']} units and optimal "
            f"{optimal['active_units']}; its squared error is {unit['error'] / optimal['error']:.2f} times as large.",
            f"{name}, test bound: shared - optimal is {row['shared']['test'] - optimal['test']:+.1f} nats, per pixel - "
            f"optimal {pixel['test'] - optimal['test']:+.1f}; the highest is that of {best['sigma']}.",
            f"{name}, per pixel: {100 * pixel['at_the_clip']:.1f} % of the sigmas are at the clip; log p(x | z) of a "
            f"datum goes down to {pixel['worst_datum']:.0f} nats, its median is {pixel['median_score']:.0f}. The "
            f"squared error is {pixel['error'] / optimal['error']:.2f} times that of optimal.",
        ]
    return "\n".join(lines)


@styled
def draw(images: dict[tuple[str, str], list[Tensor]], arguments: Any) -> Any:
    """Rows: data and the four likelihoods; columns: reconstructions of test data, and samples from the prior."""
    titles = {"frey": "Frey faces", "mnist": "MNIST"}
    figure = HouseFigure(figsize=(9.0, 6.2), layout=SQUARE)
    axes = figure.subplots(len(NETWORKS), 2, squeeze=False)
    for name, pair_of_axes in zip(NETWORKS, axes, strict=True):
        data: Any = dataset(name, arguments)
        columns = (
            ("test data", data.test, "reconstructions E[x | z], z = E[z | x]"),
            ("training data", data.train, "samples E[x | z], z from the prior"),
        )
        for column, (ax, (label, split, what)) in enumerate(zip(pair_of_axes, columns, strict=True)):
            rows = {kind: images[name, kind][column] for kind in SCALES}
            rows_of_images(ax, {label: split.batch(slice(SHOWN))[0], **rows}, f"{titles[name]}: {what}")
    return figure


if __name__ == "__main__":
    main()
