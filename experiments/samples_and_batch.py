"""L against M: samples for each datum against data in a batch, on the Frey faces.

Kingma & Welling (2013), section 2.3: "the number of samples L per datapoint can be set to 1 as long as the minibatch
size M was large enough, e.g. M = 100". The networks of Figure 2 (560-200-2-200-560) with Adagrad at 0.01 are trained
with each L and M for the same number of training samples; the validation bound is read

  at equal samples    by which a small batch has made more updates, and a large L has cost more time
  at equal time       of the fastest run (without compiling; as measured, so that it depends on the machine)

for the bound L^B (pyro_vae.SGVB_B) and, at some of them, L^A (pyro_vae.SGVB_A). The prior N(0, I) of the weights is
counted once for all data, so that the objective is the same for any M. One run more has it once for each mini-batch, as
the published replication has (15 times too often at M = 100), and is the one to compare with its figures; it has none
for other L or M. One seed: differences of a few nats are not to be trusted.
"""

from __future__ import annotations

import functools
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from drawing import TRAIN, color, crop, legend, line, log_axis, panels, styled
from drawing import published as mark
from networks import published_pair
from shared import cached_fit, finish, kept, options, table, thinned, training_seconds

from pyro_vae import SGVB_A, SGVB_B, WeightPrior
from pyro_vae.data import Data, load

LATENT_DIM = 2
BATCHES = (20, 50, 100, 200)
ESTIMATORS: dict[str, Any] = {"L^B": SGVB_B, "L^A": SGVB_A}
# The replication's validation bound at L = 1, M = 100, by samples.
PUBLISHED = {1.5e5: 580.2, 6e5: 636.7, 1.5e6: 654.5}


@dataclass(frozen=True)
class Size:
    """How much is computed: training samples of a run, and the grid, L by estimator and M."""

    samples: int
    grid: dict[str, dict[int, tuple[int, ...]]]


SIZES = {
    "quick": Size(300_000, {"L^B": dict.fromkeys(BATCHES, (1, 2, 5)), "L^A": {100: (1, 2, 5)}}),
    "full": Size(1_500_000, {name: dict.fromkeys(BATCHES, (1, 2, 5, 10)) for name in ESTIMATORS}),
}


def main() -> None:
    arguments = options(__doc__).parse_args()
    size = SIZES[arguments.size]
    data = load("frey", arguments.root)
    runs = [
        trained(estimator, batch_size, num_samples, "data", data, size.samples, arguments)
        for estimator, grid in size.grid.items()
        for batch_size, all_samples in grid.items()
        for num_samples in all_samples
    ]
    like_published = trained("L^B", 100, 1, "batch", data, size.samples, arguments)

    marks = sorted({at for at in PUBLISHED if at <= size.samples} | {float(size.samples)})
    rows = []
    for run in [*runs, like_published]:
        what = "as published" if run is like_published else run["estimator"]
        for at in marks:
            entry, theirs = at_samples(run, at), PUBLISHED.get(at) if run is like_published else None
            seen = f"{entry['samples']:.1e}"
            rows.append((what, run["M"], run["L"], seen, entry["train"], entry["read"], theirs, entry["time"]))
    print("At equal samples (bound in nats per datum; published: validation):")
    print(table(("", "M", "L", "samples", "train", "valid", "published", "seconds"), rows))

    limit = min(run["history"][-1]["time"] for run in runs)
    rows = []
    for run in runs:
        entry = at_time(run, limit)
        run["at_equal_time"] = None if entry is None else entry["read"]
        run["seconds"] = run["history"][-1]["time"]
        seen = None if entry is None else f"{entry['samples']:.1e}"
        rows.append((run["estimator"], run["M"], run["L"], run["at_equal_time"], seen))
    print(f"\nAt equal time, {limit:.1f} seconds of training:")
    print(table(("", "M", "L", "valid", "samples"), rows))
    print(f"\n{in_words(runs)}")

    for run in [*runs, like_published]:
        run["history"] = thinned(run["history"], 40, PUBLISHED)
    result = {
        "samples": size.samples,
        "equal_time": limit,
        "runs": runs,
        "as_published": like_published,
    }
    figures = {"curves": draw_curves(runs, like_published), "final": draw_final(runs, limit)}
    named = {f"samples_and_batch_{kind}": figure for kind, figure in figures.items()}
    finish(arguments, "samples_and_batch", result, named)


def trained(
    estimator: str, batch_size: int, num_samples: int, count: Any, data: Data, samples: int, arguments: Any
) -> dict[str, Any]:
    """One run, its history with ``time``, the seconds of training without those that compiling took, and ``read``."""
    epochs = round(samples / data.train.num_data)
    kind = estimator.replace("^", "") + ("" if count == "data" else "-published")
    folder = f"{kind}-M{batch_size}-L{num_samples}-{epochs}-seed{arguments.seed}"
    run = cached_fit(
        arguments.cache / "samples_and_batch" / folder,
        functools.partial(published_pair, "frey", data.event_shape, LATENT_DIM),
        data,
        seed=arguments.seed,
        estimator=ESTIMATORS[estimator](num_samples),
        optimizer=functools.partial(torch.optim.Adagrad, lr=0.01, fused=True),
        weight_prior=WeightPrior(count=count),
        batch_size=batch_size,
        epochs=epochs,
    )
    history = kept(run.history, "epoch", "samples", "train", "valid", "seconds")
    for entry, seconds in zip(history, training_seconds(history), strict=True):
        entry["time"] = seconds
        tenth = [e["valid"] for e in history[int(0.9 * entry["epoch"]) : entry["epoch"]]]
        entry["read"] = statistics.median(tenth)
    return {"estimator": estimator, "M": batch_size, "L": num_samples, "prior": count, "history": history}


def at_samples(run: dict[str, Any], samples: float) -> dict[str, Any]:
    """The epoch that ended nearest to ``samples`` seen."""
    return min(run["history"], key=lambda entry: abs(entry["samples"] - samples))


def at_time(run: dict[str, Any], limit: float) -> dict[str, Any] | None:
    """The last epoch that ended by ``limit`` seconds."""
    return next((entry for entry in reversed(run["history"]) if entry["time"] <= limit), None)


def in_words(runs: list[dict[str, Any]]) -> str:
    """What more samples bring at each M."""
    lines = []
    for estimator in ESTIMATORS:
        for batch_size in BATCHES:
            shown = [run for run in runs if run["estimator"] == estimator and run["M"] == batch_size]
            if len(shown) < 2:
                continue
            one, many = shown[0], shown[-1]
            gain = many["history"][-1]["read"] - one["history"][-1]["read"]
            text = f"{estimator}, M = {batch_size}: L = {many['L']} instead of {one['L']} brings {gain:+.1f} nats at "
            text += f"equal samples, in {many['seconds'] / one['seconds']:.1f} times the time"
            if many["at_equal_time"] is not None and one["at_equal_time"] is not None:
                text += f"; {many['at_equal_time'] - one['at_equal_time']:+.1f} nats at equal time"
            lines.append(f"{text}.")
    return "\n".join(lines)


# Figures


def _all(runs: list[dict[str, Any]], key: str) -> list[int]:
    return sorted({run[key] for run in runs})


@styled
def draw_curves(runs: list[dict[str, Any]], like_published: dict[str, Any]) -> Any:
    """The validation bound against samples: a panel for each M, a color for each L."""
    shown = [run for run in runs if run["estimator"] == "L^B"]
    batches, samples = _all(shown, "M"), _all(shown, "L")
    figure, axes = panels(1, len(batches), "Frey faces, N_z = 2, L^B", sharey=True)
    for batch_size, ax in zip(batches, axes[0], strict=True):
        for run in shown:
            if run["M"] == batch_size:
                style = {"color": color(samples.index(run["L"])), "marker": ""}
                _draw_history(ax, run["history"], **style)
        if batch_size == like_published["M"]:
            _draw_history(ax, like_published["history"], color="#222222", ls=TRAIN, marker="", lw=1.0)
            furthest = like_published["history"][-1]["samples"]
            known = {at: value for at, value in PUBLISHED.items() if at <= furthest}
            mark(ax, list(known), list(known.values()))
        ax.set_title(f"M = {batch_size}")
        log_axis(ax)
    crop(axes[0])
    axes[0, 0].set_ylabel("validation bound (nats per datum)")
    names = [f"L = {value}" for value in samples]
    legend(figure, names, "L = 1, prior as published", marked="published, L = 1")
    return figure


def _draw_history(ax: Any, history: list[dict[str, Any]], **style: Any) -> None:
    line(ax, [entry["samples"] for entry in history], [entry["read"] for entry in history], **style)


@styled
def draw_final(runs: list[dict[str, Any]], limit: float) -> Any:
    """Over L, a color for each M: the last bound, the bound at equal time, and the time. L^A is dashed."""
    samples = runs[0]["history"][-1]["samples"]
    batches = _all(runs, "M")
    figure, axes = panels(1, 3, "Frey faces, N_z = 2")
    shown = {
        f"after {samples:,} samples": lambda run: run["history"][-1]["read"],
        f"after {limit:.1f} seconds": lambda run: run["at_equal_time"],
        f"seconds for {samples:,} samples": lambda run: run["seconds"],
    }
    for (title, value), ax in zip(shown.items(), axes[0], strict=True):
        for estimator in ESTIMATORS:
            for batch_size in batches:
                these = [run for run in runs if run["estimator"] == estimator and run["M"] == batch_size]
                style = {"color": color(batches.index(batch_size)), "ls": "-" if estimator == "L^B" else TRAIN}
                line(ax, [run["L"] for run in these], [value(run) for run in these], **style)
        ax.set_title(title)
        ax.set_xscale("log")
        ax.set_xticks(_all(runs, "L"), [str(value) for value in _all(runs, "L")])
        ax.minorticks_off()
        ax.set_xlabel("L (samples for each datum)")
    for ax in axes[0, :2]:
        ax.set_ylabel("validation bound (nats per datum)")
    low, high = zip(*(ax.get_ylim() for ax in axes[0, :2]), strict=True)
    for ax in axes[0, :2]:
        ax.set_ylim(min(low), max(high))
    axes[0, 2].set_ylim(bottom=0)
    axes[0, 2].set_ylabel("seconds")
    legend(figure, [f"M = {value}" for value in batches], "L^A", "L^B")
    return figure


if __name__ == "__main__":
    main()
