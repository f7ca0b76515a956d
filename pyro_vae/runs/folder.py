"""The folder of a run: the trained pair and the data that it holds, and the results that are put into it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from pyro_vae._files import appending, write_text
from pyro_vae.data import Data
from pyro_vae.pair import evaluating
from pyro_vae.pair import run as run_pair
from pyro_vae.pair.arguments import arguments
from pyro_vae.pair.gate import has_autoguide
from pyro_vae.runs.explained import file_explained
from pyro_vae.runs.options import CONFIG, EVALUATION, add_options, build, nearest, read
from pyro_vae.runs.trust import check_built
from pyro_vae.training import checkpoint


def open_run(run: str, trust: bool = False, within: tuple[Path, ...] = ()) -> tuple[nn.Module, Data, Path]:
    """The trained pair, the data as it was trained on them (binarized, standardized), and the path of a run folder.

    Args:
        run: the folder.
        trust: whether what its configuration names is imported and called, whatever it is, and data that are not there
            are downloaded. Without it only what :mod:`~pyro_vae.runs.trust` takes from a file.
        within: folders that are being opened, whose pairs hold this one's.

    Raises:
        ValueError: if ``run`` is no folder that ``pyro-vae train`` has written, or names what is not trusted.
        FileNotFoundError: if the data are not there.
    """
    out = Path(run)
    path, place = out / CONFIG, out.resolve()
    if not path.is_file():
        there = sorted(str(path.parent) for path in Path("runs").glob(f"*/{CONFIG}"))
        named = nearest(run, there) or (f"; there are {', '.join(there[:10])}" if there else "")
        raise ValueError(
            f"{run} is no run folder: it has no {CONFIG}. Give a folder that pyro-vae train has written{named}."
        )
    if place in within:
        raise ValueError(f"the run {run} names itself as the one that trained a pair inside of its pair.")
    options, model = read(path, trust=trust)
    fetched = trust and options.get("download", True)
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, model, lambda first: open_run(first, trust, (*within, place))[0])
    try:
        config = parser.parse_object({**options, "download": fetched})
    except ArgumentError as error:
        said = file_explained(parser, path, options, str(error))
        raise ValueError(said or f"the configuration {path} cannot be read: {error}") from error
    if not trust:
        check_built(path, config)
    try:
        pair, data, _ = build(parser, config)
    except FileNotFoundError as error:
        more = "" if fetched or not options.get("download", True) else " --trust (trust=True) downloads them."
        raise FileNotFoundError(f"the data of the run {run} are not there: {error}{more}") from error
    except (MemoryError, RuntimeError) as error:
        raise ValueError(f"the pair of {path} cannot be built: {str(error).splitlines()[0]}") from error
    tensors, state = checkpoint.load(out / "checkpoint")
    with torch.random.fork_rng(), evaluating(pair):  # parameters that a program makes when it first runs
        size = config.batch_size if has_autoguide(pair) else 1  # which is made for the data of its first run
        run_pair(pair, *arguments(pair, *next(iter(data.train.batches(size))), any_data=True))
    checkpoint.load_weights(pair, tensors, state)
    return pair.eval(), data, out


def free_folder(parent: Path, stem: str) -> str:
    """``parent/stem-1``, or with the first number that is not taken; it is made, so that nobody else takes it."""
    for number in itertools.count(1):
        folder = parent / f"{stem}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return str(folder)
    raise AssertionError("numbers do not end")


def evaluations(out: Path) -> list[Any]:
    """The entries of the evaluation file of a run, none where there is no file.

    Raises:
        ValueError: if the file is no list of entries.
    """
    path = out / EVALUATION
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except ValueError:  # no JSON, or no UTF-8
        entries = None
    if not isinstance(entries, list):
        raise ValueError(f"{path} is no list of evaluations. Move it away, and a new one is begun.")
    return entries


def store_evaluation(out: Path, entry: Mapping[str, Any]) -> Path:
    """Adds an entry to the evaluation file of a run."""
    path = out / EVALUATION
    with appending(path):
        write_text(path, json.dumps([*evaluations(out), entry], indent=2) + "\n")
    return path
