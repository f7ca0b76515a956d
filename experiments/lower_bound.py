"""Figure 2 of Kingma & Welling (2013): the lower bound as training samples are seen, MNIST and Frey faces.

Four ways to train each pair:
  published   the paper's networks and optimizer, with the weight prior as the published replication scales it
              (-|theta|^2 / 2 added to each mini-batch's sum, N/M times the stated prior); ours beside their numbers
  MAP         the same, with the prior N(0, I) counted once for the whole training set
  defaults    the networks and the recipe of this library (pyro_vae.models.MLPVAE with the data's mean, and
              pyro_vae.training.CLI_DEFAULTS), at the same number of samples; on Frey, which it overfits, it stops when
              the validation bound has not risen for 50 epochs, and its row is the best epoch
  wake-sleep  as published, but the guide learns from the model's dreams (pyro_vae.WakeSleep), with which the paper
              compares AEVB. Its train and validation values are the ELBO too, by sampling (SGVB_A), so that they can
              be compared with the rest, though the guide is not trained to raise it
Published figures: the replication by the authors of the Cambridge poster, lower bound L^B, train (running) and
validation, in nats per datum.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from drawing import TRAIN, color, crop, legend, line, log_axis, panels, styled
from drawing import published as mark
from networks import published_pair
from shared import cached_fit, finish, kept, options, table, thinned

from pyro_vae import VAE, Bernoulli, Gaussian, WakeSleep, WeightPrior, plotting
from pyro_vae.data import load
from pyro_vae.models import MLPVAE
from pyro_vae.training import CLI_DEFAULTS

# samples -> (train, validation)
PUBLISHED: dict[str, dict[int, dict[float, tuple[float, float]]]] = {
    "mnist": {
        3: {1e5: (-179.0, -175.3), 1e6: (-166.4, -165.5), 1e7: (-143.2, -142.5), 1e8: (-132.6, -135.3)},
        10: {1e5: (-161.4, -152.6), 1e6: (-132.7, -132.3), 1e7: (-111.2, -111.6), 1e8: (-103.1, -105.3)},
        20: {1e5: (-164.0, -158.4), 1e6: (-123.2, -123.0), 1e7: (-106.1, -106.5), 1e8: (-100.2, -101.6)},
    },
    "frey": {
        2: {1.5e5: (647.8, 580.2), 6e5: (728.5, 636.7), 1.5e6: (752.4, 654.5), 3e6: (768.9, 657.9)},
        10: {1.5e5: (704.2, 634.6), 6e5: (832.0, 717.1), 1.5e6: (966.1, 747.6), 3e6: (1112.5, 737.3)},
    },
}
ALL_MARKS = {samples for dims in PUBLISHED.values() for marks in dims.values() for samples in marks}
LATENT_DIMS = {"mnist": (3, 5, 10, 20, 200), "frey": (2, 5, 10, 20)}
SAMPLES = {"quick": {"mnist": 1_000_000, "frey": 1_500_000}, "full": {"mnist": 100_000_000, "frey": 3_000_000}}
# The quick run trains the other ways where a published number is to be compared with.
ALSO: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "quick": {
        "MAP": {"mnist": (10, 20), "frey": (2,)},
        "defaults": {"mnist": (10, 20), "frey": (2,)},
        "wake-sleep": {"mnist": (3, 10, 20), "frey": (2, 10)},
    },
    "full": {"MAP": LATENT_DIMS, "defaults": LATENT_DIMS, "wake-sleep": LATENT_DIMS},
}
TITLES = {"mnist": "MNIST (gray pixels, Bernoulli)", "frey": "Frey faces (Gaussian)"}


def default_pair(name: str, mean: torch.Tensor, latent_dim: int) -> VAE:
    """This library's networks, under the same likelihood."""
    if name == "mnist":
        gray = functools.partial(Bernoulli, support="unit_interval")
        return MLPVAE(mean.shape, latent_dim, likelihood=gray, mean=mean)
    learned_scale = functools.partial(Gaussian, scale=None)
    return MLPVAE(mean.shape, latent_dim, likelihood=learned_scale, mean=mean)


def train(name: str, way: str, latent_dim: int, epochs: int, arguments: Any) -> list[dict[str, Any]]:
    """The history of one run."""
    data = load(name, arguments.root)
    if way == "defaults":
        make = functools.partial(default_pair, name, data.train.mean(), latent_dim)
        choices = dict(CLI_DEFAULTS)
        if name == "frey":  # 1,500 images are soon overfitted by networks made for 50,000
            choices["patience"] = 50
    else:
        make = functools.partial(published_pair, name, data.event_shape, latent_dim)
        choices = {
            "optimizer": functools.partial(torch.optim.Adagrad, lr=0.01, fused=True),
            "weight_prior": WeightPrior(count="data" if way == "MAP" else "batch"),
            "batch_size": 100,
        }
        if way == "wake-sleep":
            choices["estimator"] = WakeSleep()
    choices["epochs"] = epochs
    folder = arguments.cache / "lower_bound" / f"{name}-{way}-{latent_dim}-{epochs}-seed{arguments.seed}"
    run = cached_fit(folder, make, data, seed=arguments.seed, **choices)
    return run.history


def at(history: list[dict[str, Any]], samples: float) -> dict[str, Any] | None:
    """The epoch that ended with ``samples`` seen."""
    return next((entry for entry in history if entry["samples"] == samples), None)


def main() -> None:
    arguments = options(__doc__).parse_args()
    size = arguments.size
    runs: list[dict[str, Any]] = []
    for name, latent_dims in LATENT_DIMS.items():
        num_data = load(name, arguments.root).train.num_data
        epochs = round(SAMPLES[size][name] / num_data)
        for latent_dim in latent_dims:
            also = [way for way, dims in ALSO[size].items() if latent_dim in dims[name]]
            for way in ("published", *also):
                history = train(name, way, latent_dim, epochs, arguments)
                marks = {max(history, key=lambda entry: entry["valid"])["samples"], *ALL_MARKS}
                shown = thinned(kept(history, "epoch", "samples", "train", "valid", "seconds"), 60, marks)
                runs.append({"data": name, "way": way, "latent_dim": latent_dim, "history": shown})
    rows = []
    for run in runs:
        marks = PUBLISHED[run["data"]].get(run["latent_dim"], {})
        for samples in marks or [run["history"][-1]["samples"]]:
            entry = at(run["history"], samples)
            stopped = run["history"][-1]["samples"] < SAMPLES[size][run["data"]]
            if entry is None and stopped and samples == max(marks):
                entry = max(run["history"], key=lambda e: e["valid"])  # where its weights are from
                samples = entry["samples"]
            if entry is None:
                continue
            theirs = marks.get(samples, (None, None)) if run["way"] == "published" else (None, None)
            rows.append(
                (
                    run["data"], run["latent_dim"], run["way"], f"{samples:.1e}", entry["train"], theirs[0],
                    entry["valid"], theirs[1], entry["seconds"],
                )
            )  # fmt: skip
    header = ("data", "N_z", "way", "samples", "train", "published", "valid", "published", "seconds")
    print(table(header, rows))
    figures = {f"lower_bound_{name}": draw(name, runs) for name in LATENT_DIMS}
    figures["lower_bound_wake_sleep"] = draw_wake_sleep(runs)
    finish(arguments, "lower_bound", {"runs": runs}, figures)


def draw(name: str, runs: list[dict[str, Any]]) -> Any:
    """Our curves with the published set-up, and the published marks."""
    shown = [run for run in runs if run["data"] == name and run["way"] == "published"]
    curves = {f"N_z = {run['latent_dim']}": run["history"] for run in shown}
    curves.update(
        {
            f"N_z = {run['latent_dim']}, defaults of this library": run["history"]
            for run in runs
            if run["data"] == name and run["way"] == "defaults"
        }
    )
    furthest = max(run["history"][-1]["samples"] for run in shown)
    published = [
        {
            "label": f"published, validation, N_z = {latent_dim}",
            "x": [samples for samples in marks if samples <= furthest],
            "y": [marks[samples][1] for samples in marks if samples <= furthest],
        }
        for latent_dim, marks in PUBLISHED[name].items()
        if min(marks) <= furthest
    ]
    return plotting.learning_curves(curves, x="samples", published=published, title=TITLES[name])


@styled
def draw_wake_sleep(runs: list[dict[str, Any]]) -> Any:
    """AEVB against wake-sleep, a panel for each N_z, as the paper has it."""
    ways = {"published": "AEVB", "wake-sleep": "wake-sleep"}
    dims = {name: [run["latent_dim"] for run in _of(runs, name, "wake-sleep")] for name in LATENT_DIMS}
    figure, axes = panels(len(dims), max(map(len, dims.values())), sharey="row")
    for (name, latent_dims), row in zip(dims.items(), axes, strict=True):
        for latent_dim, ax in zip(latent_dims, row, strict=False):
            furthest = 0.0
            for index, way in enumerate(ways):
                for history in [run["history"] for run in _of(runs, name, way) if run["latent_dim"] == latent_dim]:
                    samples = [entry["samples"] for entry in history]
                    line(ax, samples, [entry["train"] for entry in history], color=color(index), ls=TRAIN, marker="")
                    line(ax, samples, [entry["valid"] for entry in history], color=color(index), marker="")
                    furthest = max(furthest, samples[-1])
            marks = {at: both[1] for at, both in PUBLISHED[name].get(latent_dim, {}).items() if at <= furthest}
            if marks:
                mark(ax, list(marks), list(marks.values()))
            ax.set_title(f"{TITLES[name].split(' (')[0]}, N_z = {latent_dim}")
            log_axis(ax)
        row[0].set_ylabel("bound (nats per datum)")
        crop(row[: len(latent_dims)])
        for ax in row[len(latent_dims) :]:
            ax.set_visible(False)
    legend(figure, list(ways.values()), "train", "valid", "published (AEVB),\nvalidation")
    return figure


def _of(runs: list[dict[str, Any]], name: str, way: str) -> list[dict[str, Any]]:
    return [run for run in runs if run["data"] == name and run["way"] == way]


if __name__ == "__main__":
    main()
