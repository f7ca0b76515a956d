"""What the experiments share: options, data, cached runs and numbers, results as JSON and figures, tables."""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import pyro_vae
from pyro_vae._files import write_text
from pyro_vae.data import Data, load

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def options(description: str | None, smoke: bool = False) -> argparse.ArgumentParser:
    """The options of every experiment; ``size`` is ``"quick"`` or ``"full"``.

    With ``smoke`` the full size is the default, and the one whose results are committed; the quick one is a smoke test.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = parser.add_mutually_exclusive_group()
    size: dict[str, Any] = {"dest": "size", "action": "store_const", "default": "full" if smoke else "quick"}
    committed = "minutes on two cores (the default; the committed results)"
    quick, full = ("a smoke test", committed) if smoke else (committed, "the paper's own schedule")
    sizes.add_argument("--quick", const="quick", help=quick, **size)
    sizes.add_argument("--full", const="full", help=full, **size)
    parser.add_argument("--root", default=None, help="folder of the data (default: the variable PYRO_VAE_DATA)")
    parser.add_argument(
        "--cache", type=Path, default=HERE / "cache", help="folder of the runs, taken up where they are"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file and the figure")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and order")
    return parser


def dataset(name: str, arguments: Any, binarization: Any = "none") -> Data:
    """MNIST, or the Frey faces in a shuffled split, which has a test set."""
    if name == "frey":
        return load("frey", arguments.root, split="shuffled")
    return load("mnist", arguments.root, binarization=binarization)


def adam(lr: float, **settings: Any) -> Any:
    return functools.partial(torch.optim.Adam, lr=lr, **settings, fused=True)


def cached_fit(folder: Path, make_pair: Callable[[], Any], data: Any, *, seed: int, **arguments: Any) -> pyro_vae.Run:
    """``fit`` in a folder of its own: a finished run is read, an interrupted one goes on."""
    torch.manual_seed(seed)
    print(f"-- {folder.name}", flush=True)
    return pyro_vae.fit(make_pair(), data, seed=seed, out=folder, resume=True, **arguments)


def cached_to_its_best(
    experiment: str, name: str, make_pair: Callable[[], Any], data: Data, arguments: Any, **settings: Any
) -> pyro_vae.Run:
    """A run of a pair or of a network alone beside it, which goes back to its best epoch on the validation set."""
    return cached_fit(
        arguments.cache / experiment / f"{name}-{arguments.size}-seed{arguments.seed}",
        make_pair,
        data,
        seed=arguments.seed,
        estimator=pyro_vae.SGVB_A(),
        optimizer=adam(2e-3),
        scheduler=pyro_vae.Cosine(warmup=0.02),
        average=0.99,
        patience=8,
        progress=False,
        **settings,
    )


def cached_json(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``compute()`` gives, kept as JSON in ``path``: a second call reads it."""
    if not path.exists():
        write_text(path, json.dumps(compute(), indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def scored(pair: Any, x: torch.Tensor, num_samples: int, seed: int, **settings: Any) -> dict[str, float]:
    """The bound of ``x`` with its two sides, by L^A, and -log p(x) by importance sampling."""
    result = pyro_vae.evidence.importance(pair, x, num_samples, seed=seed, progress=False, **settings)
    sides = pyro_vae.diagnostics.rate_distortion(pair, in_batches(x), pyro_vae.SGVB_A())
    return {
        "test_bound": -(sides.rate + sides.distortion),
        "rate": sides.rate,
        "distortion": sides.distortion,
        "nll": result.nll,
        "nll_error": result.nll_standard_error,
        "effective_sample_size": result.effective_sample_size.median().item(),
    }


def carried_over(log_prob: torch.Tensor, bounds: torch.Tensor, bound: float) -> tuple[float, float]:
    """-log p(x) of all data with its standard error, from log p(x) and the bound of a few and the bound of all.

    The mean of log p is the mean of the bound over all + the mean of (log p - bound) over a few: what data differ in is
    mostly in the bound, so that few tell the rest.
    """
    gap = (log_prob - bounds).double()
    return -(bound + gap.mean().item()), gap.std().item() / math.sqrt(len(gap))


def in_batches(x: torch.Tensor, size: int = 500) -> Iterator[tuple[torch.Tensor]]:
    return ((part,) for part in x.split(size))


def kept(history: Sequence[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """A history of these keys alone."""
    return [{key: entry[key] for key in keys} for entry in history]


def thinned(history: Sequence[dict[str, Any]], most: int, marks: Collection[float] = ()) -> list[dict[str, Any]]:
    """So many epochs, evenly on a logarithmic axis, and those that end at a mark of ``samples``."""
    epochs = {round(len(history) ** (index / (most - 1))) for index in range(most)}
    return [entry for entry in history if entry["epoch"] in epochs or entry["samples"] in marks]


def training_seconds(history: Sequence[dict[str, Any]]) -> list[float]:
    """The seconds of training at the end of each epoch, each epoch taken as long as the median one.

    That leaves out what the first epoch compiles, and evens out what else the machine had to do.
    """
    ends = [entry["seconds"] for entry in history]
    usual = statistics.median(b - a for a, b in itertools.pairwise(ends)) if len(ends) > 1 else ends[0]
    return [usual * entry["epoch"] for entry in history]


def machine() -> dict[str, Any]:
    """What the times were measured on, and when."""
    return {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def store(path: Path, result: dict[str, Any]) -> None:
    """Writes the result as JSON, whole or not at all."""
    write_text(path, json.dumps({**result, "machine": machine()}, indent=1) + "\n")
    print(f"stored: {path}")


def finish(arguments: Any, name: str, result: dict[str, Any], figures: Mapping[str, Figure]) -> None:
    """Writes ``NAME_SIZE.json`` and each figure, ``KEY_SIZE.png``, into the folder of the results."""
    found = {"experiment": name, "size": arguments.size, "seed": arguments.seed, **result}
    store(arguments.results / f"{name}_{arguments.size}.json", found)
    for key, figure in figures.items():
        path = pyro_vae.plotting.save(figure, arguments.results / f"{key}_{arguments.size}.png")
        print(f"figure: {path}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; numbers with one decimal, ``None`` as a dash."""

    def text(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.1f}" if isinstance(value, float) else str(value)

    cells = [list(header), *([text(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
