"""Two-dimensional manifolds of MNIST and Frey faces: figure 4 of Kingma & Welling (2013).

A pair with N_z = 2 is trained on each. The unit square is covered by a grid of equal cells, the middle of each goes
through the inverse CDF of the prior to a z, and the mean of p(x | z) is drawn there, so that all cells are equally
probable under the prior. Beside it are the means of q(z | x) of test images, by their label where they have one.

Networks and training are this library's (pyro_vae.models.MLPVAE with the data's mean, SiLU, Adam with a cosine); the
likelihoods are the paper's, Bernoulli on gray MNIST and, on the Frey faces, Gaussian with a sigmoid mean and a scale a
pixel. Published: by the authors of the Cambridge poster, with the paper's networks, the validation bound of the Frey
faces after 3e6 samples and the squared error of MNIST reconstructions.

--run FOLDER draws the same of a run of the command line (``pyro-vae train --model.latent_dim 2``), into its figures/.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import torch
from shared import adam, cached_fit, cached_json, finish, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import SGVB_B, Bernoulli, Cosine, Gaussian, diagnostics, plotting
from pyro_vae import runs as saved_runs
from pyro_vae.data import Data, load
from pyro_vae.models import MLPVAE

HIDDEN = {"mnist": (300, 300), "frey": (200, 200)}
EPOCHS = {"quick": {"mnist": 30, "frey": 150}, "full": {"mnist": 500, "frey": 2000}}
BATCH = {"mnist": 250, "frey": 100}
PATIENCE = {"mnist": 50, "frey": 50}
PUBLISHED = {"mnist": {"mse": 33.1}, "frey": {"valid": 657.9}}
MOST_CODES = 5000
MIDDLE = 0.95  # share of the prior, along each unit, in which codes are counted


def make(name: str, mean: Tensor) -> nn.Module:
    """The pair: this library's networks under the paper's likelihood."""
    gray = functools.partial(Bernoulli, support="unit_interval")
    learned_scale = functools.partial(Gaussian, scale=None)
    return MLPVAE(mean.shape, 2, HIDDEN[name], likelihood=gray if name == "mnist" else learned_scale, mean=mean)


def trained(name: str, arguments: Any) -> tuple[dict[str, Any], nn.Module, Data]:
    """One training and its numbers."""
    data: Any = load(name, arguments.root)
    epochs = EPOCHS[arguments.size][name]
    folder = arguments.cache / "manifold" / f"{name}-{epochs}-seed{arguments.seed}"
    run = cached_fit(
        folder,
        functools.partial(make, name, data.train.mean()),
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
        compile="traced",
    )

    def measure() -> dict[str, float]:
        batches = list(data.valid.batches(1000))
        with torch.random.fork_rng():
            torch.manual_seed(arguments.seed)
            sides = diagnostics.rate_distortion(run.pair, batches, SGVB_B())
        return {
            "valid": -sides.rate - sides.distortion,
            "rate": sides.rate,
            "mse": diagnostics.reconstruction_mse(run.pair, batches),
            "inside": inside(run.pair, data.held(MOST_CODES)),
        }

    numbers = {
        "data": name,
        **cached_json(folder / "measured.json", measure),
        "best_epoch": run.best_epoch or len(run.history),
        "epochs": len(run.history),
        "samples": run.history[-1]["samples"],
        "seconds": training_seconds(run.history)[-1],
    }
    return numbers, run.pair, data


def inside(pair: Any, split: Any) -> float:
    """The share of the codes in the middle of the prior along both units."""
    batch = split.batch(slice(None))
    edges = diagnostics.prior_quantiles(pair, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2], *batch)
    codes = diagnostics.encode(pair, *batch)["z"]
    return ((codes > edges[:, 0]) & (codes < edges[:, 1])).all(1).double().mean().item()


def check_plane(pair: Any, batch: tuple[Tensor, ...], what: str) -> None:
    """Raises a ``ValueError`` where the pair has no manifold to draw: the latent is no plane, or the data no images."""
    codes = diagnostics.encode(pair, *(tensor[:2] for tensor in batch))
    shapes = ", ".join(f"{name} of shape {list(code.shape[1:])}" for name, code in codes.items()) or "none"
    if [tuple(code.shape[1:]) for code in codes.values()] != [(2,)]:
        raise ValueError(
            f"the manifold of {what} cannot be drawn: it takes one latent of two dimensions, and this pair has "
            f"{shapes}. Train one by `pyro-vae train --model.latent_dim 2`."
        )
    space = diagnostics.support(pair, *batch, site=next(iter(codes)))
    if "z" not in codes or space.is_discrete or space.event_dim > 0:
        raise ValueError(
            f"the manifold of {what} cannot be drawn: it takes a latent z whose two units are real numbers, each free "
            f"of the other; this pair has {shapes} on {space}."
        )
    if batch[0].dim() != 4 or batch[0].shape[1] not in (1, 3):
        raise ValueError(
            f"the manifold of {what} cannot be drawn: its data have the shape {list(batch[0].shape[1:])}, and images "
            "[C, H, W] with 1 or 3 channels were expected."
        )


def draw(pair: Any, split: Any, side: int, prior: str = "N(0, 1)") -> dict[str, Any]:
    """The manifold, and the codes of a set."""
    batch = split.batch(slice(None))
    places = diagnostics.prior_quantiles(pair, (torch.arange(side) + 0.5) / side, *batch)
    codes = diagnostics.encode(pair, *batch)["z"].cpu()
    grid = torch.as_tensor(plotting.manifold_grid(side, places.cpu()), dtype=codes.dtype)
    images = diagnostics.decode(pair, grid, *(tensor[:1] for tensor in batch)).clamp(0, 1).cpu()
    return {
        "manifold": plotting.manifold(images, side=side, prior=prior),
        "latent_scatter": plotting.latent_scatter(codes, split.labels),
    }


def of_run(folder: str, side: int) -> list[Path]:
    """The figures of a run of the command line, in its own folder."""
    pair, data, out = saved_runs.load(folder).pair, saved_runs.load_data(folder), Path(folder)
    split = data.held(MOST_CODES)
    check_plane(pair, split.batch(slice(100)), folder)
    figures = draw(pair, split, side, "the prior")
    return [plotting.save(figure, out / "figures" / f"{kind}.png") for kind, figure in figures.items()]


def in_words(runs: list[dict[str, Any]]) -> str:
    """What the pictures hold."""
    lines = [
        f"{run['data']}: q tells {run['rate']:.1f} nats of x. {100 * run['inside']:.0f} % of the codes of held-out "
        f"images lie in the middle {100 * MIDDLE:.0f} % of the prior along both units, where {100 * MIDDLE**2:.0f} % "
        "of its draws lie."
        for run in runs
    ]
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--run", default=None, help="folder of a run with a two-dimensional latent, to draw instead")
    parser.add_argument("--side", type=int, default=20, help="images along a side of the manifold")
    arguments = parser.parse_args()
    if arguments.run is not None:
        try:
            paths = of_run(arguments.run, arguments.side)
        except (ValueError, TypeError, OSError) as error:
            sys.exit(f"manifold.py: error: {error}")
        print("\n".join(f"figure: {path}" for path in paths))
        return
    runs, figures = [], {}
    for name in HIDDEN:
        numbers, pair, data = trained(name, arguments)
        runs.append(numbers)
        for kind, figure in draw(pair, data.held(MOST_CODES), arguments.side).items():
            figures[f"{kind}_{name}"] = figure
    header = ("data", "samples", "valid", "published", "squared error", "published", "best epoch", "seconds")
    rows = [
        (
            run["data"], f"{run['samples']:.1e}", run["valid"], PUBLISHED[run["data"]].get("valid"), run["mse"],
            PUBLISHED[run["data"]].get("mse"), f"{run['best_epoch']} of {run['epochs']}", run["seconds"],
        )
        for run in runs
    ]  # fmt: skip
    print(table(header, rows))
    print(f"\n{in_words(runs)}")
    finish(arguments, "manifold", {"runs": runs}, figures)


if __name__ == "__main__":
    main()
