"""Missing values: IncompleteVAE (MIWAE, not-MIWAE) beside the imputers of scikit-learn.

  tables  five tables of scikit-learn, standardized, of which half of the entries are missing completely at random, each
          with five seeds of the mask and of all else: root mean square error of the missing entries
  masked  the same tables, of which half of the columns are self-masked: what is above the mean of its column is
          missing (Ipsen, Mattei & Frellsen 2021, section 4.2). not-MIWAE knows that missing values depend on what they
          are, and that it is the high ones.
  images  MNIST, binarized once, half of the pixels missing in training and in test

All imputers see the same table with its holes. The pair is one setting for all tables, chosen on masks of two other
seeds than those of the results, by the error of the entries that these leave out.

It is trained by IWAE(10), and imputes E[x_mis | x_obs] by 2,000 importance samples.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import drawing
import numpy as np
import torch
from matplotlib.figure import Figure
from shared import adam, cached_fit, cached_json, dataset, finish, options, table
from torch import Tensor, nn

from pyro_vae import IWAE, Cosine, likelihoods, networks, plotting
from pyro_vae.conditioning import impute
from pyro_vae.data import Data, Split
from pyro_vae.models import IncompleteVAE

TABLES = ("breast_cancer", "wine", "diabetes", "iris", "digits")
SEEDS = (1, 2, 3, 4, 5)  # the pair was chosen on 101 and 102
MASKED = ("breast_cancer", "wine", "diabetes", "iris")
PAIR: dict[str, Any] = {"latent_dim": 10, "hidden": (64,), "steps": 1500, "lr": 5e-3, "particles": 10}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"seeds": SEEDS, "images": 10_000, "image_epochs": 20, "samples": 2000},
    "full": {"seeds": SEEDS, "images": 50_000, "image_epochs": 200, "samples": 10_000},
}


def columns_of(name: str) -> Tensor:
    """A table of scikit-learn, standardized; a column that does not vary is left out."""
    from sklearn import datasets

    x = torch.as_tensor(np.asarray(getattr(datasets, f"load_{name}")().data), dtype=torch.float64)
    x = x[:, x.std(0) > 0]
    return ((x - x.mean(0)) / x.std(0, correction=0)).float()


def at_random(x: Tensor, seed: int, share: float = 0.5) -> Tensor:
    """A mask, true where x is observed; no column is missing as a whole."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(x.shape, generator=generator) >= share


def self_masked(x: Tensor) -> Tensor:
    """What is above the mean of its column is missing, in the first half of the columns."""
    mask = torch.ones(x.shape, dtype=torch.bool)
    half = x.shape[1] // 2
    mask[:, :half] = x[:, :half] <= x[:, :half].mean(0)
    return mask


def pair_of(dim: int, missingness: Any = None, **settings: Any) -> IncompleteVAE:
    return IncompleteVAE(
        (dim,),
        settings["latent_dim"],
        settings["hidden"],
        activation=nn.Tanh,
        likelihood=functools.partial(likelihoods.Normal, scale=None, sigmoid_mean=False),
        missingness=missingness,
    )


def fitted(folder: Path, x: Tensor, mask: Tensor, seed: int, missingness: Any = None, **changes: Any) -> Any:
    settings = {**PAIR, **changes}
    batch_size = min(128, len(x) // 3)
    return cached_fit(
        folder,
        lambda: pair_of(x.shape[1], missingness, **settings),
        Data(folder.name, Split(torch.where(mask, x, 0.0), mask)),
        seed=seed,
        estimator=IWAE(settings["particles"]),
        optimizer=adam(settings["lr"]),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=math.ceil(settings["steps"] / math.ceil(len(x) / batch_size)),
        batch_size=batch_size,
        progress=False,
    ).pair.eval()


def imputers(x: Tensor, mask: Tensor, seed: int) -> dict[str, Tensor]:
    """What scikit-learn's give for the table with its holes."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    holed = torch.where(mask, x, math.nan).double().numpy()
    made: dict[str, Any] = {
        "mean": SimpleImputer(keep_empty_features=True),
        "k-NN": KNNImputer(n_neighbors=5, keep_empty_features=True),
        "iterative": IterativeImputer(max_iter=20, random_state=seed, keep_empty_features=True),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rounds that have not converged
        return {name: torch.as_tensor(one.fit_transform(holed)) for name, one in made.items()}


def rmse(filled: Tensor, x: Tensor, mask: Tensor) -> float:
    return (filled - x)[~mask].double().square().mean().sqrt().item()


def measured(name: str, seed: int, folder: Path, kind: str, size: Mapping[str, Any]) -> dict[str, Any]:
    """The errors on one table with one mask."""
    x = columns_of(name)
    mask = at_random(x, seed) if kind == "tables" else self_masked(x)
    found = {method: rmse(filled, x, mask) for method, filled in imputers(x, mask, seed).items()}
    ways: dict[str, Any] = {"MIWAE": None}
    if kind == "masked":
        ways["not-MIWAE"] = functools.partial(networks.SelfMasking, missing="high")
    samples: dict[str, float] = {}
    started = time.perf_counter()
    for method, missingness in ways.items():
        pair = fitted(folder / f"{kind}-{name}-{seed}-{method}", x, mask, seed, missingness)
        filled = impute(pair, (torch.where(mask, x, 0.0), mask), size["samples"], seed=seed)
        found[method] = rmse(filled.mean, x, mask)
        samples[method] = filled.effective_sample_size.median().item()
    return {"rmse": found, "effective_sample_size": samples, "seconds": time.perf_counter() - started}


def images(arguments: Any, folder: Path, size: Mapping[str, Any]) -> tuple[dict[str, Any], Figure]:
    """MNIST with half of its pixels missing."""
    from sklearn.impute import KNNImputer

    seed = arguments.seed
    data: Any = dataset("mnist", arguments, "static")
    (train,), (test,) = data.train.take(size["images"]).batch(slice(None)), data.test.take(1000).batch(slice(None))
    masks = [at_random(x, seed + place) for place, x in enumerate((train, test))]
    mean = (train * masks[0]).sum(0) / masks[0].sum(0).clamp(min=1)
    started = time.perf_counter()
    pair = cached_fit(
        folder / f"images-{size['images']}-{size['image_epochs']}-{seed}",
        lambda: IncompleteVAE(tuple(train.shape[1:]), 20, (400,), mean=mean),
        Data("images", Split(train * masks[0], masks[0])),
        seed=seed,
        estimator=IWAE(5),
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=size["image_epochs"],
        batch_size=128,
        progress=False,
    ).pair.eval()
    found = impute(pair, (test * masks[1], masks[1]), 500, 3, seed=seed)
    seconds = time.perf_counter() - started

    def compared() -> dict[str, float]:
        few = torch.where(masks[0], train, math.nan)[:2000].flatten(1).numpy()
        holed = torch.where(masks[1], test, math.nan).flatten(1).numpy()
        nearest = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(few).transform(holed)
        return {
            "mean": rmse(mean.expand_as(test), test, masks[1]),
            "k-NN": rmse(torch.as_tensor(nearest).reshape(test.shape), test, masks[1]),
        }

    errors = cached_json(folder / f"images-others-{seed}.json", compared)
    errors["MIWAE"] = rmse(found.mean, test, masks[1])
    shown = slice(10)
    rows = {"observed": torch.where(masks[1], test, 0.5)[shown], "E[x | observed]": found.mean[shown]}
    rows |= {f"draw {index + 1}": draw[shown] for index, draw in enumerate(found.draws)}
    figure = plotting.restorations([{"original": test[shown]}, rows])
    ess = found.effective_sample_size.median().item()
    return {"rmse": errors, "effective_sample_size": ess, "seconds": seconds}, figure


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean and standard error over the seeds, by method."""
    by_method = {name: [one["rmse"][name] for one in results] for name in results[0]["rmse"]}
    return {
        name: (statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0)
        for name, values in by_method.items()
    }


def told(found: Mapping[str, Mapping[str, tuple[float, float]]], title: str) -> None:
    methods = list(next(iter(found.values())))
    rows = [[name, *(f"{one[m][0]:.3f} ({one[m][1]:.3f})" for m in methods)] for name, one in found.items()]
    print(f"\n{title}: RMSE of standardized columns, and standard error over the seeds")
    print(table(["table", *methods], rows))


@drawing.styled
def drawn(parts: Mapping[str, Mapping[str, Mapping[str, tuple[float, float]]]]) -> Figure:
    """Errors by table and method, with standard errors."""
    figure, axes = drawing.panels(1, len(parts))
    methods = list(dict.fromkeys(m for found in parts.values() for one in found.values() for m in one))
    for ax, (title, found) in zip(axes.flat, parts.items(), strict=True):
        for index, method in enumerate(methods):
            places = [place + 0.12 * (index - (len(methods) - 1) / 2) for place in range(len(found))]
            pairs = [(place, *one[method]) for place, one in zip(places, found.values(), strict=True) if method in one]
            if pairs:
                at, means, errors = zip(*pairs, strict=True)
                style: Any = {"color": drawing.color(index), "marker": "os^Dv"[index % 5], "markersize": 4}
                ax.errorbar(at, means, errors, linestyle="", label=method, **style)
        ax.set_xticks(range(len(found)), [name.replace("_", "\n") for name in found])
        ax.set(title=title, ylabel="RMSE of missing entries", ylim=(0, None))
    drawing.legend(figure, methods)
    return figure


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=("tables", "masked", "images"), help="one of them")
    arguments = parser.parse_args()
    size, folder = SIZES[arguments.size], arguments.cache / "imputation"
    parts: dict[str, Callable[[], Any]] = {}
    result: dict[str, Any] = {"pair": {**PAIR, "likelihood": "Normal"}, "settings": dict(size)}
    titles = {"tables": "half missing at random", "masked": "high values missing"}
    seconds, sheets = 0.0, {}
    for kind, names in (("tables", TABLES), ("masked", MASKED)):
        if arguments.only not in (None, kind):
            continue
        found = {}
        for name in names:
            runs = []
            for seed in size["seeds"]:
                path = folder / f"{kind}-{name}-{seed}-{arguments.size}.json"
                compute = functools.partial(measured, name, seed, folder, kind, size)
                runs.append(cached_json(path, compute))
            found[name] = summary(runs)
            seconds += sum(one["seconds"] for one in runs)
            result[kind] = {**result.get(kind, {}), name: {"runs": runs, "rmse": found[name]}}
        told(found, titles[kind])
        parts[kind] = found  # type: ignore[assignment]
        if kind == "tables":
            below = [name for name, one in found.items() if one["MIWAE"][0] < one["iterative"][0]]
            print(f"below iterative imputation on {len(below)} of {len(found)} tables: {', '.join(below)}")
    if parts:
        sheets["imputation"] = drawn({titles[kind]: found for kind, found in parts.items()})  # type: ignore[misc]
    if arguments.only in (None, "images"):
        result["images"], sheets["imputation_mnist"] = images(arguments, folder, size)
        seconds += result["images"]["seconds"]
        errors = result["images"]["rmse"]
        print(f"\nMNIST, half of the pixels missing: RMSE {', '.join(f'{n} {e:.3f}' for n, e in errors.items())}")
    finish(arguments, "imputation", {**result, "seconds": seconds}, sheets)


if __name__ == "__main__":
    main()
