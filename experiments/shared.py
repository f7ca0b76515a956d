"""What the experiments share: options, cached runs, results as JSON, tables."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import pyro_vae
from pyro_vae.training.checkpoint import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def options(description: str) -> argparse.ArgumentParser:
    """The options of every experiment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="minutes on two cores (the default; the committed results)")
    size.add_argument("--full", action="store_true", help="the paper's own schedule")
    parser.add_argument("--root", default=None, help="folder of the data (default: the variable PYRO_VAE_DATA)")
    parser.add_argument(
        "--cache", type=Path, default=HERE / "cache", help="folder of the runs, taken up where they are"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file and the figure")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and order")
    return parser


def cached_fit(folder: Path, make_pair: Callable[[], Any], data: Any, *, seed: int, **arguments: Any) -> pyro_vae.Run:
    """``fit`` in a folder of its own: a finished run is read, an interrupted one goes on."""
    torch.manual_seed(seed)
    print(f"-- {folder.name}", flush=True)
    return pyro_vae.fit(make_pair(), data, seed=seed, out=folder, resume=True, **arguments)


def cached_json(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``compute()`` gives, kept as JSON in ``path``: a second call reads it."""
    if not path.exists():
        write_text(path, json.dumps(compute(), indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def training_seconds(history: Sequence[dict[str, Any]]) -> list[float]:
    """The seconds of training at the end of each epoch, each epoch taken as long as the median one.

    That leaves out what the first epoch compiles, and evens out what else the machine had to do.
    """
    ends = [entry["seconds"] for entry in history]
    usual = statistics.median(b - a for a, b in itertools.pairwise(ends)) if len(ends) > 1 else ends[0]
    return [usual * entry["epoch"] for entry in history]


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    return {
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
