"""Figure 2 of Kingma & Welling (2013): the lower bound as training samples are seen, MNIST and Frey faces.

The published figures are those of a replication by the authors of the Cambridge poster, in nats per datum: train is the
running mean of an epoch, validation all held-out data with one sample each, both without the prior of the weights. What
they were made by was read from the replication's history and is not one set-up but three. All three share the networks
and Adagrad (0.01, eps 1e-6), pixels v / 256, and batches of 100 that are cut once, in the order of the data; an epoch
shuffles the batches alone. They differ in the prior of the weights:

  MNIST, L^B  none
  MNIST, L^A  -|theta|^2 / 2 added to each mini-batch's sum, N/M times the prior N(0, I)
  Frey, L^B   the same; and the pixels are inverted, 1 - v / 256. A batch is 100 consecutive frames of the film

Each published point stands beside ours under its own set-up. Beside these, from the same data:

  no prior    MNIST by L^A without the prior, so that L^A and L^B are compared at one set-up
  MAP         the prior N(0, I) counted once for all training data, as the paper has it; data shuffled anew each epoch,
              pixels v / 255
  defaults    the networks and the recipe of this library (pyro_vae.models.MLPVAE with the data's mean, and
              pyro_vae.training.CLI_DEFAULTS); on Frey, which it overfits, it stops when the validation bound has not
              risen for 50 epochs, and its row is the best epoch
  wake-sleep  the guide learns from the model's dreams (pyro_vae.WakeSleep), with which the paper compares AEVB; without
              a prior, data as MAP. Its train and validation values are the ELBO too, by sampling (SGVB_A), so that they
              can be compared with the rest, though the guide is not trained to raise it. On Frey by Adam at 1e-3: with
              Adagrad at 0.01 it stays at the solution that ignores the latents

--quick trains on a few thousand samples, and is a smoke test. --mnist-samples 1e8 goes as far as the publication.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any, NamedTuple

import torch
from drawing import TRAIN, color, crop, legend, line, log_axis, panels, styled
from networks import published_pair
from shared import cached_fit, finish, kept, options, table, thinned
from torch.utils.data import DataLoader

from pyro_vae import SGVB_A, SGVB_B, VAE, Bernoulli, Gaussian, WakeSleep, WeightPrior, plotting
from pyro_vae.data import load
from pyro_vae.models import MLPVAE
from pyro_vae.training import CLI_DEFAULTS

# (data, N_z, estimator) -> samples -> (train, validation)
PUBLISHED: dict[tuple[str, int, str], dict[float, tuple[float, float]]] = {
    ("mnist", 3, "L^B"): {1e5: (-179.0, -175.3), 1e6: (-166.4, -165.5), 1e7: (-143.2, -142.5), 1e8: (-132.6, -135.3)},
    ("mnist", 10, "L^B"): {1e5: (-161.4, -152.6), 1e6: (-132.7, -132.3), 1e7: (-111.2, -111.6), 1e8: (-103.1, -105.3)},
    ("mnist", 20, "L^B"): {1e5: (-164.0, -158.4), 1e6: (-123.2, -123.0), 1e7: (-106.1, -106.5), 1e8: (-100.2, -101.6)},
    ("mnist", 10, "L^A"): {1e5: (-173.4, -167.2), 1e6: (-136.2, -135.7), 1e7: (-117.9, -117.8), 1e8: (-112.1, -112.2)},
    ("frey", 2, "L^B"): {1.5e5: (647.8, 580.2), 6e5: (728.5, 636.7), 1.5e6: (752.4, 654.5), 3e6: (768.9, 657.9)},
    ("frey", 10, "L^B"): {1.5e5: (704.2, 634.6), 6e5: (832.0, 717.1), 1.5e6: (966.1, 747.6), 3e6: (1112.5, 737.3)},
}
ALL_MARKS = {samples for marks in PUBLISHED.values() for samples in marks}
TITLES = {"mnist": "MNIST (gray pixels, Bernoulli)", "frey": "Frey faces (Gaussian)"}
BATCH = 100
ESTIMATORS = {"L^A": SGVB_A, "L^B": SGVB_B}


class Way(NamedTuple):
    """One curve: how a pair is trained, how far, and on which seeds."""

    data: str
    name: str
    latent_dim: int
    samples: float
    estimator: str = "L^B"
    seeds: tuple[int, ...] = (0,)


def plan(furthest: float, short: float, frey: float) -> list[Way]:
    """All curves; ``furthest`` and ``frey`` are how far those go that were published."""
    ways = [Way("mnist", "replication", n, short) for n in (5, 200)]
    ways += [Way("frey", "replication", n, short) for n in (5, 20)]
    for name, latent_dim, estimator in PUBLISHED:
        if name == "frey":
            ways.append(Way(name, "replication", latent_dim, frey, estimator, seeds=(0, 1, 2)))
        else:  # a seed moves the early points alone
            ways.append(Way(name, "replication", latent_dim, furthest, estimator))
            ways.append(Way(name, "replication", latent_dim, short, estimator, seeds=(1, 2)))
    ways.append(Way("mnist", "no prior", 10, furthest, "L^A"))
    for way in ("MAP", "wake-sleep", "defaults"):
        ways += [Way("mnist", way, n, short) for n in ((10, 20) if way == "defaults" else (3, 10, 20))]
        ways += [Way("frey", way, n, frey / 2) for n in ((2,) if way == "defaults" else (2, 10))]
    return ways


def as_replicated(name: str, root: str | None) -> tuple[DataLoader[torch.Tensor], torch.Tensor]:
    """Batches that are cut once, whose order alone is shuffled, and the validation data."""
    data = load(name, root)
    (train,), (valid,) = (split.batch(slice(None)) for split in (data.train, data.valid))
    train, valid = (255 / 256 * x if name == "mnist" else 1 - 255 / 256 * x for x in (train, valid))
    return DataLoader(train.view(-1, BATCH, *data.event_shape), batch_size=None, shuffle=True), valid


def default_pair(name: str, mean: torch.Tensor, latent_dim: int) -> VAE:
    """This library's networks, under the same likelihood."""
    if name == "mnist":
        gray = functools.partial(Bernoulli, support="unit_interval")
        return MLPVAE(mean.shape, latent_dim, likelihood=gray, mean=mean)
    learned_scale = functools.partial(Gaussian, scale=None)
    return MLPVAE(mean.shape, latent_dim, likelihood=learned_scale, mean=mean)


def train(way: Way, seed: int, arguments: Any) -> list[dict[str, Any]]:
    """The history of one run."""
    data: Any = load(way.data, arguments.root)
    make: Any = functools.partial(published_pair, way.data, data.event_shape, way.latent_dim)
    settings: dict[str, Any] = {
        "estimator": ESTIMATORS[way.estimator](),
        "optimizer": functools.partial(torch.optim.Adagrad, lr=0.01, eps=1e-6, fused=True),
        "batch_size": BATCH,
    }
    num_data = data.train.num_data
    if way.name in ("replication", "no prior"):
        data = as_replicated(way.data, arguments.root)
        settings["num_data"] = num_data
        if way.name == "replication" and (way.data, way.estimator) != ("mnist", "L^B"):
            settings["weight_prior"] = WeightPrior(count="batch")
    elif way.name == "MAP":
        settings["weight_prior"] = WeightPrior(count="data")
    elif way.name == "wake-sleep":
        settings["estimator"] = WakeSleep()
        if way.data == "frey":
            settings["optimizer"] = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
    else:
        make = functools.partial(default_pair, way.data, data.train.mean(), way.latent_dim)
        settings = dict(CLI_DEFAULTS)
        if way.data == "frey":  # 1,500 images are soon overfitted by networks made for 50,000
            settings["patience"] = 50
    settings["epochs"] = epochs = max(1, round(way.samples / num_data))
    name = f"{way.data}-{way.name}-{way.estimator}-{way.latent_dim}-{epochs}-seed{seed}".replace(" ", "_")
    return cached_fit(arguments.cache / "lower_bound" / name, make, data, seed=seed, progress=False, **settings).history


def at(history: list[dict[str, Any]], samples: float) -> dict[str, Any] | None:
    """The epoch that ended with ``samples`` seen."""
    return next((entry for entry in history if entry["samples"] == samples), None)


def points(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each published point, and ours at its own set-up: the mean over the seeds, and how far they lie apart."""
    found = []
    for (name, latent_dim, estimator), marks in PUBLISHED.items():
        chosen = [
            run for run in runs
            if (run["data"], run["way"], run["latent_dim"], run["estimator"])
            == (name, "replication", latent_dim, estimator)
        ]  # fmt: skip
        for samples, published in marks.items():
            by_seed = {run["seed"]: entry for run in chosen if (entry := at(run["history"], samples)) is not None}
            for key, theirs in zip(("train", "valid"), published, strict=True):
                ours = [entry[key] for entry in by_seed.values()]
                if ours:
                    found.append(
                        {
                            "data": name, "latent_dim": latent_dim, "estimator": estimator, "samples": samples,
                            "bound": key, "published": theirs, "ours": statistics.fmean(ours),
                            "spread": max(ours) - min(ours) if len(ours) > 1 else None, "seeds": len(ours),
                        }
                    )  # fmt: skip
    return found


def main() -> None:
    parser = options(__doc__, smoke=True)
    parser.add_argument("--mnist-samples", type=float, default=1e7, help="how far MNIST is trained as published")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    far = (5e4, 5e4, 5e4) if arguments.size == "quick" else (arguments.mnist_samples, 1e6, 3e6)
    for way in plan(*far):
        for seed in (arguments.seed + each for each in way.seeds):
            history = train(way, seed, arguments)
            best = max(history, key=lambda entry: entry["valid"])["samples"]
            shown = thinned(kept(history, "epoch", "samples", "train", "valid", "seconds"), 60, {best, *ALL_MARKS})
            runs.append(
                {
                    "data": way.data, "way": way.name, "latent_dim": way.latent_dim, "estimator": way.estimator,
                    "seed": seed, "history": shown,
                }
            )  # fmt: skip
    compared = points(runs)
    header = ("data", "N_z", "estimator", "samples", "bound", "published", "ours", "spread", "seeds", "difference")
    print(
        table(
            header,
            [
                (
                    row["data"], row["latent_dim"], row["estimator"], f"{row['samples']:.1e}", row["bound"],
                    row["published"], row["ours"], row["spread"], row["seeds"], row["ours"] - row["published"],
                )
                for row in compared
            ],
        )
    )  # fmt: skip
    others = [run for run in runs if run["way"] != "replication"]
    rows = []
    for run in others:
        last = run["history"][-1]
        best = max(run["history"], key=lambda entry: entry["valid"])
        rows.append(
            (
                run["data"], run["latent_dim"], run["way"], run["estimator"], f"{last['samples']:.1e}", last["train"],
                last["valid"], best["valid"], f"{best['samples']:.1e}", last["seconds"],
            )
        )  # fmt: skip
    print(table(("data", "N_z", "way", "estimator", "samples", "train", "valid", "best", "at", "seconds"), rows))
    figures = {f"lower_bound_{name}": draw(name, runs) for name in TITLES}
    figures["lower_bound_wake_sleep"] = draw_wake_sleep(runs)
    finish(arguments, "lower_bound", {"points": compared, "runs": runs}, figures)


def draw(name: str, runs: list[dict[str, Any]]) -> Any:
    """Our curves at the published set-ups, and the published marks."""
    first = [run for run in _of(runs, name, "replication") if run["seed"] == runs[0]["seed"]]
    both = len({run["estimator"] for run in first}) > 1
    curves = {
        f"N_z = {run['latent_dim']}" + (f", {run['estimator']}" if both else ""): run["history"]
        for run in sorted(first, key=lambda run: (run["estimator"], run["latent_dim"]))
    }
    furthest = max(run["history"][-1]["samples"] for run in first)
    published = [
        {
            "label": f"published, valid, N_z = {latent_dim}" + (f", {estimator}" if both else ""),
            "x": [samples for samples in marks if samples <= furthest],
            "y": [marks[samples][1] for samples in marks if samples <= furthest],
        }
        for (data, latent_dim, estimator), marks in PUBLISHED.items()
        if data == name and min(marks) <= furthest
    ]
    return plotting.learning_curves(curves, x="samples", published=published, title=TITLES[name])


@styled
def draw_wake_sleep(runs: list[dict[str, Any]]) -> Any:
    """AEVB against wake-sleep, a panel for each N_z, as the paper has it."""
    ways = {"MAP": "AEVB", "wake-sleep": "wake-sleep"}
    dims = {name: [run["latent_dim"] for run in _of(runs, name, "wake-sleep")] for name in TITLES}
    figure, axes = panels(len(dims), max(map(len, dims.values())), sharey="row")
    for (name, latent_dims), row in zip(dims.items(), axes, strict=True):
        for latent_dim, ax in zip(latent_dims, row, strict=False):
            for index, way in enumerate(ways):
                for history in [run["history"] for run in _of(runs, name, way) if run["latent_dim"] == latent_dim]:
                    samples = [entry["samples"] for entry in history]
                    line(ax, samples, [entry["train"] for entry in history], color=color(index), ls=TRAIN, marker="")
                    line(ax, samples, [entry["valid"] for entry in history], color=color(index), marker="")
            ax.set_title(f"{TITLES[name].split(' (')[0]}, N_z = {latent_dim}")
            log_axis(ax)
        row[0].set_ylabel("bound (nats per datum)")
        crop(row[: len(latent_dims)])
        for ax in row[len(latent_dims) :]:
            ax.set_visible(False)
    legend(figure, list(ways.values()), "train", "valid")
    return figure


def _of(runs: list[dict[str, Any]], name: str, way: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["data"] == name and run["way"] == way]


if __name__ == "__main__":
    main()
