"""Figure 3 of Kingma & Welling (2013): the estimated marginal likelihood as training samples are seen.

784-100-3-100-784 with tanh and a Bernoulli likelihood on gray MNIST, N_train = 1,000 (the first) and 50,000; the prior
N(0, I) of the weights counted once for all data; batches of 100, L = 1, Adagrad. Three ways to train:
  AEVB        pyro_vae.SGVB_B
  wake-sleep  pyro_vae.WakeSleep
  MCEM        pyro_vae.MonteCarloEM: for each batch 10 transitions of Hamiltonian Monte Carlo from the prior, of 10
              leapfrog steps each, at 90 % acceptance, then 5 updates of the weights with the last draw. The paper says
              "10 HMC leapfrog steps"; how many transitions a draw takes it does not say, and one, from the prior, is
              too few: log p(x) is then 23 nats lower after 10,000 samples (N_train = 1,000). A guide is fitted to the
              draws on the side. A batch counts once as samples seen, though it is used for 5 updates; the seconds tell
              the cost
The step size of Adagrad is chosen from the paper's 0.01, 0.02 and 0.1 for each way, by the estimated log p(x) of the
training data after the first 100 batches.

Estimated log p(x) is the paper's Appendix D (pyro_vae.evidence.hmc: posterior draws by Hamiltonian Monte Carlo, 4
leapfrog steps each; a Gaussian fitted to them; new draws), on the first data of the training and the test set: 1,000
as in the paper (--full) or 100 (--quick). In expectation it lies above log p(x), if the chains have mixed. Where a
posterior has several modes they do not: a chain that stays in a minor mode counts as if all the mass were there, and
the estimate is tens of nats too low for such a datum. Importance sampling from the guide stands beside it on the test
data, and at the end of each run, for some of them, importance sampling with 5,000 samples and annealed importance
sampling, both of which lie below log p(x) in expectation: where these two agree and Appendix D lies lower, it is
Appendix D that is wrong. The share of data whose chains disagree (R-hat above 1.1) is printed.

The paper gives curves without numbers, so the comparison is in words.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from drawing import TRAIN, color, legend, line, log_axis, panels, styled
from networks import published_pair
from safetensors.torch import load_file, save_file
from shared import cached_fit, finish, options, table, training_seconds
from torch import Tensor

from pyro_vae import SGVB_B, MonteCarloEM, WakeSleep, WeightPrior, evidence
from pyro_vae._files import write_text, write_whole
from pyro_vae.data import Data, Split, load

LATENT_DIM, HIDDEN, BATCH = 3, 100, 100
NUM_TRAIN = (1_000, 50_000)
NUM_TRANSITIONS = 10
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "AEVB": SGVB_B,
    "wake-sleep": WakeSleep,
    "MCEM": functools.partial(MonteCarloEM, num_transitions=NUM_TRANSITIONS, num_leapfrog=10, num_updates=5),
}
RATES = (0.01, 0.02, 0.1)
PILOT = 10_000  # samples after which the rate is chosen
FIRST = 10_000  # samples at the first evaluation, or at the end of the first epoch


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        samples: training samples, by way and N_train; a way that is missing is not trained.
        num_data: data of the training and of the test set on which log p(x) is estimated.
        hmc: arguments of the Appendix D estimator.
        importance: arguments of importance sampling on the same test data.
        num_checked: test data on which the three estimators are compared.
        ais: arguments of annealed importance sampling.
    """

    samples: dict[int, dict[str, int]]
    num_data: int
    hmc: dict[str, int]
    importance: dict[str, int]
    num_checked: int
    ais: dict[str, int]


SIZES = {
    "quick": Size(
        samples={
            1_000: {"AEVB": 1_000_000, "wake-sleep": 1_000_000, "MCEM": 100_000},
            50_000: {"AEVB": 1_000_000, "wake-sleep": 1_000_000, "MCEM": 100_000},
        },
        num_data=100,
        hmc={"num_samples": 25, "num_chains": 2, "num_warmup": 100, "num_leapfrog": 4},
        importance={"num_samples": 1_000},
        num_checked=50,
        ais={"num_chains": 8, "num_steps": 300, "num_leapfrog": 5},
    ),
    # 50,000 data at 60 million samples: MCEM alone would take days; the paper leaves it out too.
    "full": Size(
        samples={
            1_000: {"AEVB": 60_000_000, "wake-sleep": 60_000_000, "MCEM": 60_000_000},
            50_000: {"AEVB": 60_000_000, "wake-sleep": 60_000_000},
        },
        num_data=1_000,
        hmc={"num_samples": 25, "num_chains": 2, "num_warmup": 200, "num_leapfrog": 4},
        importance={"num_samples": 5_000},
        num_checked=100,
        ais={"num_chains": 16, "num_steps": 1_000, "num_leapfrog": 10},
    ),
}
IN_WORDS = """\
The published figure, in words: AEVB is above wake-sleep, on training and on test data, at both N_train. Monte Carlo EM
is no on-line algorithm and "can't be applied efficiently for the full MNIST dataset". Here it runs batch by batch, with
fresh chains for each batch, which makes it possible at 50,000 too, at the price that the seconds tell."""


def main() -> None:
    arguments = options(__doc__).parse_args()
    size = SIZES[arguments.size]
    data = load("mnist", arguments.root)
    cache = arguments.cache / "marginal_likelihood"
    rates = {way: chosen_rate(way, data, cache, arguments.seed) for way in ESTIMATORS}
    runs = [
        trained(way, num_train, samples, rates[way], data, size, cache, arguments.seed)
        for num_train in NUM_TRAIN
        for way, samples in size.samples[num_train].items()
    ]
    header = ("N_train", "way", "Adagrad", "samples", "train", "test", "R-hat > 1.1", "test, importance", "seconds")
    rows = [
        (
            f"{run['num_train']:,}", run["way"], f"{run['rate']:g}", f"{point['samples']:.1e}",
            point["train"]["log_prob"], point["test"]["log_prob"], f"{point['test']['unmixed']:.0%}",
            point["importance"]["log_prob"], point["seconds"],
        )
        for run in runs
        for point in run["points"]
    ]  # fmt: skip
    print(
        f"Estimated log p(x), nats per datum, on the first {size.num_data:,} data, by Appendix D; "
        f"on the test data also by importance sampling with {size.importance['num_samples']:,} samples:"
    )
    print(table(header, rows))
    header = ("N_train", "way", "HMC (app. D)", "±", "importance", "±", "AIS", "±")
    checks = [(f"{run['num_train']:,}", run["way"], *_check_row(run["check"])) for run in runs]
    print(f"\nThree estimators at the end of each run, on the same {size.num_checked} test data:")
    print(table(header, checks))
    print(f"\n{IN_WORDS}\n{in_words(runs)}")
    result = {"settings": asdict(size), "pilot": rates, "runs": runs}
    finish(arguments, "marginal_likelihood", result, {"marginal_likelihood": draw(runs)})


# Training


def fitted(
    folder: Path, way: str, train: Split, rate: float, samples: int, seed: int, callbacks: tuple[Any, ...] = ()
) -> Any:
    """A run of ``samples`` training samples."""
    return cached_fit(
        folder,
        functools.partial(published_pair, "mnist", train.event_shape, LATENT_DIM, HIDDEN),
        Data("mnist", train),
        seed=seed,
        estimator=ESTIMATORS[way](),
        optimizer=functools.partial(torch.optim.Adagrad, lr=rate, fused=True),
        weight_prior=WeightPrior(count="data"),
        batch_size=BATCH,
        epochs=round(samples / len(train)),
        callbacks=callbacks,
    )


def chosen_rate(way: str, data: Data, cache: Path, seed: int) -> float:
    """The step size of Adagrad that has come furthest after the first batches, on 1,000 training data."""
    train = data.train.take(1_000)
    reached = {}
    for rate in RATES:
        folder = cache / f"pilot-{way}-{rate:g}-{PILOT}-seed{seed}"

        def estimate(folder: Path = folder, rate: float = rate) -> dict[str, Any]:
            run = fitted(folder, way, train, rate, PILOT, seed)
            return summary(evidence.importance(run.pair, train.batch(slice(200)), 1_000, seed=seed))

        reached[rate] = cached(folder / "evidence", {"importance": 1_000, "num_data": 200}, estimate)["log_prob"]
    best = max(reached, key=lambda rate: reached[rate])
    print(f"{way}: " + ", ".join(f"{rate:g}: {value:.1f}" for rate, value in reached.items()) + f"; takes {best:g}")
    return best


def trained(
    way: str, num_train: int, samples: int, rate: float, data: Data, size: Size, cache: Path, seed: int
) -> dict[str, Any]:
    """A run, and log p(x) at its marks."""
    folder = cache / f"{way}-{num_train}-{samples}-rate{rate:g}-seed{seed}"
    train = data.train.take(num_train)
    marks = [mark for mark in log_spaced(samples) if mark % num_train == 0]

    def keep(run: Any) -> None:
        seen = run.history[-1]["samples"]
        if seen in marks and not (path := _weights(folder, seen)).exists():
            weights = {key: value.detach().clone().contiguous() for key, value in run.pair.state_dict().items()}
            write_whole(path, lambda temporary: save_file(weights, temporary))

    history = fitted(folder, way, train, rate, samples, seed, (keep,)).history
    seconds = dict(zip((entry["samples"] for entry in history), training_seconds(history), strict=True))
    bounds = {entry["samples"]: entry["train"] for entry in history}
    pair = published_pair("mnist", data.event_shape, LATENT_DIM, HIDDEN)
    first = {split: part.batch(slice(size.num_data)) for split, part in (("train", train), ("test", data.test))}
    points = []
    for mark in marks:
        pair.load_state_dict(load_file(_weights(folder, mark)))
        point: dict[str, Any] = {"samples": mark, "seconds": seconds[mark], "bound": bounds[mark]}
        for split, x in first.items():
            point[split] = estimated(folder / "evidence", "hmc", pair, x, {**size.hmc, "seed": seed}, mark, split)
        point["importance"] = estimated(
            folder / "evidence", "importance", pair, first["test"], {**size.importance, "seed": seed}, mark, "test"
        )
        points.append(point)
        print(
            f"   {mark:>10,} samples: log p(x) train {point['train']['log_prob']:.1f}, "
            f"test {point['test']['log_prob']:.1f} (importance sampling {point['importance']['log_prob']:.1f})",
            flush=True,
        )
    x = data.test.batch(slice(size.num_checked))
    check = {
        method: estimated(folder / "evidence", method, pair, x, {**settings, "seed": seed}, samples, "check")
        for method, settings in (("hmc", size.hmc), ("importance", {"num_samples": 5_000}), ("ais", size.ais))
    }
    return {"num_train": num_train, "way": way, "rate": rate, "points": points, "check": check}


def log_spaced(samples: int) -> list[int]:
    """1, 2 and 5 of each decade from FIRST on, and the end."""
    grid = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    return [*(mark for mark in grid if FIRST <= mark < samples), samples]


def _weights(folder: Path, samples: int) -> Path:
    return folder / "weights" / f"{samples}.safetensors"


# Evidence


def estimated(
    folder: Path, method: str, pair: Any, x: tuple[Tensor, ...], settings: dict[str, int], samples: int, split: str
) -> dict[str, Any]:
    """log p(x) of a pair by one of the estimators, kept in a file."""
    key = {"method": method, **settings, "samples": samples, "split": split, "num_data": len(x[0])}
    return cached(folder, key, lambda: summary(getattr(evidence, method)(pair, x, **settings)))


def summary(result: Any) -> dict[str, Any]:
    """Mean over the data; its standard error over the estimator's draws; what the estimator says of itself."""
    log_prob = result.log_prob.double()
    found = {
        "log_prob": log_prob.mean().item(),
        "standard_error": (result.standard_error.double().square().sum().sqrt() / len(log_prob)).item(),
        "num_data": len(log_prob),
    }
    for name in ("acceptance", "r_hat", "effective_sample_size", "k_hat"):
        value = getattr(result, name, None)
        if isinstance(value, Tensor):
            median = value.double().nanmedian().item()
            found[f"{name}_median"] = median if math.isfinite(median) else None
    if isinstance(getattr(result, "r_hat", None), Tensor):
        found["unmixed"] = (result.r_hat > 1.1).double().mean().item()
    return found


def cached(folder: Path, key: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``compute`` gives, from a file if it was computed before; with what it warned of."""
    text = json.dumps(key, sort_keys=True)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text())["result"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = compute()
    result["warnings"] = sorted({str(w.message) for w in caught if issubclass(w.category, UserWarning)})
    write_text(path, json.dumps({"key": key, "result": result}, indent=1) + "\n")
    return result


# What is shown


def _check_row(check: dict[str, Any]) -> list[Any]:
    return [
        text
        for method in ("hmc", "importance", "ais")
        for text in (f"{check[method]['log_prob']:.2f}", f"{check[method]['standard_error']:.2f}")
    ]


def in_words(runs: list[dict[str, Any]]) -> str:
    """The ways in order: by importance sampling at the most samples that all have seen, by AIS at the end of each."""
    lines = []
    for num_train in NUM_TRAIN:
        shown = [run for run in runs if run["num_train"] == num_train]
        common = max(set.intersection(*({point["samples"] for point in run["points"]} for run in shown)), default=None)
        early = [(run, point) for run in shown for point in run["points"] if point["samples"] == common]
        found = {
            "importance sampling, at the last common mark": [(p["importance"], run["way"], p) for run, p in early],
            "AIS, at the end": [(run["check"]["ais"], run["way"], run["points"][-1]) for run in shown],
        }
        for what, entries in found.items():
            ordered = sorted(entries, key=lambda entry: -entry[0]["log_prob"])
            texts = [
                f"{way} {estimate['log_prob']:.1f} ({point['samples']:.1e} samples, {point['seconds']:.0f} s)"
                for estimate, way, point in ordered
            ]
            lines.append(f"Ours, N_train = {num_train:,}, test ({what}): {', '.join(texts)}.")
    return "\n".join(lines)


@styled
def draw(runs: list[dict[str, Any]]) -> Any:
    """A column for each N_train; above by samples, as in the paper, below by the seconds of training."""
    figure, axes = panels(2, len(NUM_TRAIN), sharey=True)
    for num_train, column in zip(NUM_TRAIN, axes.T, strict=True):
        for key, ax in zip(("samples", "seconds"), column, strict=True):
            for run in runs:
                if run["num_train"] == num_train:
                    _draw_run(ax, key, run)
            ax.set_title(f"N_train = {num_train:,}")
        log_axis(column[0])
        log_axis(column[1], "seconds of training")
    for ax in axes[:, 0]:
        ax.set_ylabel("estimated log p(x) (nats per datum)")
    names = {"MCEM": "Monte Carlo EM"}
    legend(figure, [names.get(way, way) for way in ESTIMATORS], "train", "test", "test, by importance\nsampling", "x")
    return figure


def _draw_run(ax: Any, key: str, run: dict[str, Any]) -> None:
    style = {"color": color(list(ESTIMATORS).index(run["way"]))}
    x = [point[key] for point in run["points"]]
    line(ax, x, [point["train"]["log_prob"] for point in run["points"]], ls=TRAIN, mfc="white", **style)
    line(ax, x, [point["test"]["log_prob"] for point in run["points"]], **style)
    by_importance = [point["importance"]["log_prob"] for point in run["points"]]
    line(ax, x, by_importance, **{**style, "ls": "", "marker": "x", "markersize": 6})


if __name__ == "__main__":
    main()
