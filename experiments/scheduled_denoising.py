"""Does denoising help a VAE, and does it help more if the noise falls while it trains?

MNIST (static binarization), 784-200-20-200-784, on the first 10,000 and the first 2,000 training images, as many
optimizer steps on both. The encoder sees a corrupted x in training, the target stays x, so that training raises

    E_{p(x~ | x)} E_{q(z | x~)} [log p(x, z) - log q(z | x~)] <= log p(x)

(Im, Ahn, Memisevic & Bengio 2017), and what is measured is the plain bound and log p(x), without corruption:

  none        no corruption
  constant    one level all the way
  scheduled   a level that falls to 0 on a straight line over the first 80 % of training, of the same mean

for masking, salt and pepper and Gaussian noise. Each has five seeds (of the weights, the order and the noise), and the
weights are those of the epoch with the best validation bound. Seeds start from the same weights in all conditions, so
that the differences to none are taken at equal seed. Errors are standard errors over the seeds. log p(x) is by
importance sampling: the smaller the effective sample size (ESS in the table), the further below it the estimate lies.

Im et al. report gains of about 1 nat or less from denoising. A falling level is that of Geras & Sutton (2015),
Scheduled Denoising Autoencoders.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from drawing import styled
from scipy import stats
from shared import adam, cached_fit, cached_json, finish, options, table, training_seconds
from torch import nn

from pyro_vae import SGVB_B, Cosine, Linear, evidence
from pyro_vae.data import Data, load
from pyro_vae.models import MLPVAE
from pyro_vae.networks import GaussianNoise, Masking, SaltAndPepper
from pyro_vae.plotting.style import INK, LINES, HouseFigure

LEVEL = "posterior.network.corruption.level"
FALL = 0.8  # of training, to 0
NOISES: dict[str, tuple[Callable[[float], nn.Module], float]] = {  # and the mean level
    "masking": (Masking, 0.2),
    "salt and pepper": (SaltAndPepper, 0.1),
    "Gaussian": (GaussianNoise, 0.2),
}
HOWS = ("constant", "scheduled")
NONE = ("none", "")
CONDITIONS = (NONE, *itertools.product(NOISES, HOWS))
SEEDS = 5
EPOCHS = {"quick": {10_000: 30, 2_000: 150}, "full": {50_000: 200, 10_000: 500, 2_000: 1000}}  # by training images
NUM_SAMPLES = {"quick": 200, "full": 5000}
NUM_SCORED = 1000  # test data that log p(x) is estimated of; the bound is of all
SHOWN = 20.0  # nats of the validation curves below the best
MEASURES = {"log_p": "log p(x)", "bound": "bound"}


@functools.cache
def subset(root: str | None, num_data: int) -> Data:
    data: Any = load("mnist", root, binarization="static")
    return Data(data.name, data.train.take(num_data), data.valid.take(2000), data.test)


def run(condition: tuple[str, str], num_data: int, seed: int, arguments: Any) -> dict[str, Any]:
    """One training and its evaluation."""
    (noise, how), size = condition, arguments.size
    data: Any = subset(arguments.root, num_data)
    epochs = EPOCHS[size][num_data]
    corruption, schedules = None, None
    if condition != NONE:
        make, level = NOISES[noise]
        start = 2 * level / FALL  # a triangle over FALL of training, of the mean level
        corruption = make(level if how == "constant" else start)
        schedules = {LEVEL: Linear(start, 0.0, FALL)} if how == "scheduled" else None
    name = "-".join(filter(None, (*condition, f"{num_data}", f"{epochs}", f"seed{seed}"))).replace(" ", "_")
    folder = arguments.cache / "scheduled_denoising" / name
    trained = cached_fit(
        folder,
        functools.partial(MLPVAE, data.event_shape, 20, (200,), mean=data.train.mean(), corruption=corruption),
        data,
        seed=seed,
        estimator=SGVB_B(),
        optimizer=adam(3e-3),
        scheduler=Cosine(warmup=0.02),
        schedules=schedules,
        epochs=epochs,
        batch_size=250,
        patience=epochs,
        compile="traced" if size == "quick" else "auto",
        progress=False,
    )
    found = cached_json(folder / f"test-{size}.json", functools.partial(evaluate, trained.pair, data, size))
    history = trained.history
    return {
        "noise": noise,
        "how": how,
        "num_data": num_data,
        "seed": seed,
        **found,
        "valid": trained.bound,
        "best_epoch": trained.best_epoch,
        "curve": [(entry["epoch"], entry["valid"]) for entry in history],
        "seconds": training_seconds(history)[-1],
    }


def evaluate(pair: Any, data: Any, size: str) -> dict[str, Any]:
    """The bound of all test data and log p(x) of some, in nats."""
    started = time.perf_counter()
    pair.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same draws for all
        bound = SGVB_B().mean_bound(pair, data.test.batches(1000))
    (x,) = data.test.take(NUM_SCORED).batch(slice(None))
    found = evidence.importance(pair, x, NUM_SAMPLES[size], compile="traced")
    return {
        "bound": bound,
        "log_p": -found.nll,
        "effective_sample_size": found.effective_sample_size.median().item(),
        "evaluation_seconds": time.perf_counter() - started,
    }


def mean_and_error(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


class Results:
    """The runs by condition, and their differences at equal seed."""

    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self.by: dict[Any, list[dict[str, Any]]] = {}
        for row in sorted(runs, key=lambda row: row["seed"]):
            self.by.setdefault((row["num_data"], (row["noise"], row["how"])), []).append(row)

    def values(self, num_data: int, condition: tuple[str, str], measure: str) -> list[float]:
        return [row[measure] for row in self.by[num_data, condition]]

    def gains(self, num_data: int, ours: tuple[str, str], other: tuple[str, str], measure: str) -> list[float]:
        """What ``ours`` is above ``other``, for each seed, in nats."""
        pairs = zip(self.values(num_data, ours, measure), self.values(num_data, other, measure), strict=True)
        return [a - b for a, b in pairs]


def main() -> None:
    arguments = options(__doc__).parse_args()
    seeds = range(arguments.seed, arguments.seed + SEEDS)
    sizes = list(EPOCHS[arguments.size])
    runs = [run(c, n, seed, arguments) for n, seed, c in itertools.product(sizes, seeds, CONDITIONS)]
    results = Results(runs)
    print(f"\n{table(*means(results, sizes))}\n")
    print("Above none, at equal seed (nats):\n")
    print(f"{table(*differences(results, sizes))}\n")
    words = in_words(results, sizes)
    print(f"{words}\n")
    seconds = sum(row["seconds"] + row["evaluation_seconds"] for row in runs)
    figures = {"scheduled_denoising": draw(results, sizes), "scheduled_denoising_curves": draw_curves(results, sizes)}
    finish(arguments, "scheduled_denoising", {"runs": runs, "words": words.splitlines(), "seconds": seconds}, figures)


def named(condition: tuple[str, str]) -> str:
    return ", ".join(filter(None, condition))


def with_error(values: list[float], sign: str = "") -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.2f} ± {error:.2f}"


def means(results: Results, sizes: list[int]) -> tuple[Any, Any]:
    """Header and rows: the measures of each condition."""
    header = (
        "training images", "corruption", "test bound", "log p(x), test", "valid", "ESS", "best epoch", "seconds a run",
    )  # fmt: skip
    rows = [
        (
            f"{n:,}",
            named(condition),
            *(with_error(results.values(n, condition, key)) for key in ("bound", "log_p", "valid")),
            *(
                statistics.fmean(results.values(n, condition, key))
                for key in ("effective_sample_size", "best_epoch", "seconds")
            ),
        )
        for n, condition in itertools.product(sizes, CONDITIONS)
    ]
    return header, rows


def differences(results: Results, sizes: list[int]) -> tuple[Any, Any]:
    """Header and rows: the gains over none, and those of the falling level over the constant one."""
    header = ("training images", "noise", "measure", "constant", "scheduled", "scheduled - constant")
    rows = []
    for n, noise, (key, name) in itertools.product(sizes, NOISES, MEASURES.items()):
        constant, scheduled = ((noise, how) for how in HOWS)
        compared = ((constant, NONE), (scheduled, NONE), (scheduled, constant))
        rows.append((f"{n:,}", noise, name, *(with_error(results.gains(n, *both, key), "+") for both in compared)))
    return header, rows


def verdict(gains: list[float]) -> str:
    """Whether zero is in the 95 % interval of the mean (Student's t), in words."""
    mean, error = mean_and_error(gains)
    if abs(mean) <= stats.t.ppf(0.975, len(gains) - 1) * error:
        return "no difference within the errors"
    return "better" if mean > 0 else "worse"


def in_words(results: Results, sizes: list[int]) -> str:
    """The answers: log p(x) at equal seed, of each noise and of the mean of the three."""
    lines, verdicts = [], []
    for n in sizes:
        for how, other in (("constant", "none"), ("scheduled", "none"), ("scheduled", "constant")):
            of = [
                results.gains(n, (noise, how), NONE if other == "none" else (noise, other), "log_p") for noise in NOISES
            ]
            pooled = [statistics.fmean(values) for values in zip(*of, strict=True)]
            parts = ", ".join(f"{noise} {verdict(v)}" for noise, v in zip(NOISES, of, strict=True))
            verdicts += [verdict(values) for values in of]
            lines.append(
                f"{n:,} images, {how} against {other}: {parts}. The mean of the three is "
                f"{with_error(pooled, '+')} nats of log p(x): {verdict(pooled)}."
            )
    clear = sum(not found.startswith("no ") for found in verdicts)
    lines.append(
        f"Errors: 95 % intervals of the mean over {len(pooled)} seeds by Student's t. {clear} of the {len(verdicts)} "
        f"comparisons of single noises are outside; {0.05 * len(verdicts):.1f} would be by chance alone."
    )
    return "\n".join(lines)


@styled
def draw(results: Results, sizes: list[int]) -> Any:
    """What each corruption is above none, at equal seed: means with standard errors, and the seeds as dots."""
    figure = HouseFigure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(sizes), sharex=True, sharey="row", squeeze=False)
    for (key, name), row in zip(MEASURES.items(), axes, strict=True):
        for n, ax in zip(sizes, row, strict=True):
            ax.grid(True, axis="y")
            ax.axhline(0, color=INK, linewidth=0.8)
            for index, how in enumerate(HOWS):
                places = [place + (index - 0.5) * 0.3 for place in range(len(NOISES))]
                gains = [results.gains(n, (noise, how), NONE, key) for noise in NOISES]
                for place, values in zip(places, gains, strict=True):
                    ax.plot([place + 0.06] * len(values), values, ".", color=LINES[index], alpha=0.35, markersize=4)
                centres, errors = zip(*map(mean_and_error, gains), strict=True)
                ax.errorbar(places, centres, errors, fmt="o", color=LINES[index], capsize=3, markersize=5, label=how)
            ax.set_xticks(range(len(NOISES)), list(NOISES))
            ax.set_xlim(-0.5, len(NOISES) - 0.5)
        row[0].set_ylabel(f"test {name} above none (nats)")
    for n, ax in zip(sizes, axes[0], strict=True):
        ax.set_title(f"{n:,} training images")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", title="level")
    return figure


@styled
def draw_curves(results: Results, sizes: list[int]) -> Any:
    """Validation bounds over the epochs, near their best; means over the seeds, with bands of one standard error."""
    figure = HouseFigure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.subplots(len(sizes), len(NOISES), sharex="row", sharey="row", squeeze=False)
    for n, row in zip(sizes, axes, strict=True):
        tops = []
        for noise, ax in zip(NOISES, row, strict=True):
            ax.grid(True)
            for condition, color in ((NONE, INK), *zip(itertools.product((noise,), HOWS), LINES, strict=False)):
                curves = [entry["curve"] for entry in results.by[n, condition]]
                epochs = [epoch for epoch, _ in curves[0]]
                points = [mean_and_error([value for _, value in points]) for points in zip(*curves, strict=True)]
                centres = [center for center, _ in points]
                ax.plot(epochs, centres, color=color, label=condition[1] or "none")
                ends = [[c + sign * e for c, e in points] for sign in (-1, 1)]
                ax.fill_between(epochs, *ends, color=color, alpha=0.2, linewidth=0)
                tops.append(max(centres))
            ax.set_title(f"{n:,} images, {noise}")
        row[0].set_ylim(max(tops) - SHOWN, max(tops) + 0.05 * SHOWN)
        row[0].set_ylabel("validation bound (nats)")
    for ax in axes[-1]:
        ax.set_xlabel("epochs")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", title="level")
    return figure


if __name__ == "__main__":
    main()
