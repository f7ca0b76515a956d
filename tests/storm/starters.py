"""Two or more at once in one folder: trainings of which one succeeds, and results of which none is lost."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pyro_vae import fit, runs
from pyro_vae.models import MLPVAE


def _train(out: Path, number: int) -> str:
    pair = MLPVAE((6,), latent_dim=2, hidden=[4])
    x = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    fit(pair, x, epochs=3, batch_size=20, out=out / "run", compile="eager", progress=False, checkpoint_every=0.0)
    return "trained"


def _take(out: Path, number: int) -> str:
    return runs.free_folder(out, "run")


def _store(out: Path, number: int) -> str:
    runs.store_evaluation(out, {"number": number})
    return str(number)


def _started(what: Callable[[Path, int], str], out: Path, number: int, gate: Any, answers: Any) -> None:
    gate.wait()
    try:
        answers.put(what(out, number))
    except ValueError as error:
        answers.put(f"refused: {error}")


def at_once(what: Callable[[Path, int], str], out: Path, count: int) -> list[str]:
    """What ``count`` processes say that begin together; they come of one that has run nothing."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["pyro_vae"])
    gate, answers = server.Barrier(count), server.SimpleQueue()
    started = [server.Process(target=_started, args=(what, out, number, gate, answers)) for number in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [answers.get() for _ in started if not answers.empty()]


def storm(times: int, count: int = 2) -> dict[str, int]:
    """How often things went wrong, by what went wrong."""
    wrong = {"both trained": 0, "none trained": 0, "one folder taken twice": 0, "results lost": 0}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            trained = at_once(_train, out, count).count("trained")
            wrong["both trained"] += trained > 1
            wrong["none trained"] += trained == 0
            wrong["one folder taken twice"] += len(set(at_once(_take, out / "free", count))) < count
            at_once(_store, out, count)
            wrong["results lost"] += len(runs.evaluations(out)) < count
    return wrong


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--count", type=int, default=2, help="processes at once")
    parser.set_defaults(run=lambda options: _told(options.times, options.count))


def _told(times: int, count: int) -> int:
    wrong = storm(times, count)
    for name, number in wrong.items():
        print(f"{name}: {number} of {times}")
    return int(any(wrong.values()))
