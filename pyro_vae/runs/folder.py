"""The folder of a run: the trained pair and the data that it holds, and the results that are put into it."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae._checks import checked, warn
from pyro_vae._files import appending, read_text, write_text
from pyro_vae.data import Data
from pyro_vae.data.named import NAMES, key
from pyro_vae.pair import as_pair, modules_of
from pyro_vae.pair import run as run_pair
from pyro_vae.pair.protocols import RecallsState
from pyro_vae.pair.running import reading
from pyro_vae.pair.turns import fork_rng
from pyro_vae.runs.explained import file_explained
from pyro_vae.runs.options import CONFIG, EVALUATION, Shapes, add_options, build_pair, data_of, nearest, read
from pyro_vae.runs.trust import Bounded, TooLarge, Untrusted, check_built, configured, is_known
from pyro_vae.training import Run, checkpoint
from pyro_vae.training.identity import changed
from pyro_vae.training.opening import remade
from pyro_vae.training.records import METRICS

_NUMBERS = 2**31  # which no datum has
Loaded = tuple[dict[str, Tensor], dict[str, Any]]  # a checkpoint: tensors, and the rest


@checked
def load(folder: str | os.PathLike[str], pair: Any = None, trust: bool = False) -> Run:
    """A run as ``fit`` gave it, of its folder: the trained pair in evaluation mode, its history and its configuration.

    It opens runs of the command line and of ``fit(..., out=folder)``, without their data. The weights are those with
    which validation went on: averaged, or the best, where the run has such.

    A pair of the library's own parts, and of torch's layers, is made again by what the folder tells. One that only its
    maker can build, of a class or functions of one's own, is given as ``pair`` and gets the weights; what its programs
    have yet to make meets them at its first run.

    Args:
        folder: of the run.
        pair: takes the weights, built as the one that was trained.
        trust: whether what a configuration names is imported and called, whatever it is. Without it only what
            :mod:`~pyro_vae.runs.trust` takes from a file.

    Raises:
        ValueError: if ``folder`` is none of a run, its checkpoint is damaged or of a newer version, names what is not
            trusted, cannot be made again without ``pair``, or if ``pair`` has other parameters.

    >>> import tempfile, torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((5,), latent_dim=2, hidden=(8,)), (torch.rand(20, 5) > 0.5).float()
    >>> with tempfile.TemporaryDirectory() as out:
    ...     trained = pv.fit(vae, x, epochs=1, batch_size=10, out=out, compile="eager", progress=False)
    ...     run = pv.load(out)
    >>> run.bound == trained.bound, type(run.pair).__name__, run.pair.training
    (True, 'MLPVAE', False)
    """
    with fork_rng():
        return _load(Path(folder), None if pair is None else as_pair(pair), trust)


@checked
def load_data(folder: str | os.PathLike[str], trust: bool = False) -> Data:
    """The data of a run of the command line, as its pair was trained on them: binarized, standardized.

    Args:
        folder: of the run.
        trust: as for :func:`load`; data that are not there are then downloaded.

    Warns:
        UserWarning: if they are others than those that the run was trained on.

    Raises:
        ValueError: if ``folder`` was not written by ``pyro-vae train``, or names what is not trusted.
        FileNotFoundError: if the data are not there.
    """
    out = Path(folder)
    if not os.path.isfile(out / CONFIG):
        raise _no_run(out, f"pyro-vae train has written no {CONFIG} there, which names its data")
    loaded = _checkpoint(out)
    _, config, fetched = _parsed(out, trust, (), _shapes(out, loaded))
    data = _with_data(out, fetched, config)
    if loaded is not None:
        with checkpoint.as_written(out):
            others = changed(data, loaded[1]["configuration"])
        if others:
            warn(
                f"{config.data} has other data than those that the run {out} was trained on ({' and '.join(others)} "
                "differ): what is told of them is of the new ones. Put the old ones back, or train again."
            )
    return data


def _load(out: Path, pair: nn.Module | None, trust: bool, within: tuple[Path, ...] = ()) -> Run:
    """:func:`load` of a run whose pair the pairs of the folders ``within`` hold."""
    if Path(os.path.realpath(out)) in within:
        raise ValueError(f"the run {out} names itself as the one that trained a pair inside of its pair.")
    of_command = os.path.isfile(out / CONFIG)
    if not of_command and not checkpoint.exists(out / "checkpoint"):
        if os.path.isfile(out / METRICS):
            raise ValueError(f"the run {out} ended before its first checkpoint, so that there is nothing to open.")
        raise _no_run(out, f"it has no {CONFIG}", " or fit(..., out=FOLDER)")
    given, options, loaded = pair is not None, None, _checkpoint(out)
    if of_command and pair is None:
        pair = _of_command(out, trust, within, loaded)
    tensors, state = loaded or checkpoint.load(out / "checkpoint")  # which says that there is none
    with checkpoint.as_written(out):
        told = checkpoint.unpack(state.get("opening", {"items": []}), tensors)
        weights = checkpoint.unpack(state["pair"], tensors)
        if pair is None:
            pair = _of_recipe(out, told, weights)
        else:
            _check_precision(pair, weights, given)
        _fill(pair, tensors, state, told)
        found = {name: checkpoint.unpack(state[name], tensors) for name in ("history", "stopped_early", "best_epoch")}
        options = configured(out / CONFIG) if of_command else state["configuration"]
        opened = Run(pair, out=out, configuration=options, **found)
        if not isinstance(opened.history, list) or not isinstance(opened.bound, (float, int, type(None))):
            raise TypeError("the history tells no bound")
    for module in (*modules_of(pair), pair):
        module.eval()
    return opened


def _parsed(
    out: Path, trust: bool, within: tuple[Path, ...], shapes: Shapes | None
) -> tuple[ArgumentParser, Namespace, bool]:
    """The parser of a run's configuration, what it reads, and whether data may be fetched."""
    path = out / CONFIG
    options, model = read(path, trust=trust)
    fetched = trust and options.get("download", True)
    parser = ArgumentParser(exit_on_error=False)
    open_pair = lambda first: _load(Path(first), None, trust, (*within, Path(os.path.realpath(out)))).pair  # noqa: E731
    add_options(parser, model, open_pair, shapes)
    try:
        config = parser.parse_object({**options, "download": fetched})
    except ArgumentError as error:
        said = file_explained(parser, path, options, str(error))
        raise ValueError(said or f"the configuration {path} cannot be read: {error}") from error
    if not trust:
        check_built(path, config)
    return parser, config, fetched or not options.get("download", True)


def _of_command(out: Path, trust: bool, within: tuple[Path, ...], loaded: Loaded | None) -> nn.Module:
    """The pair of a run of the command line, with new weights."""
    shapes = _shapes(out, loaded)
    parser, config, fetched = _parsed(out, trust, within, shapes)
    if shapes is None:  # a run of before its checkpoint told it
        shapes = Shapes(_with_data(out, fetched, config).event_shape)
    stored, _ = loaded or checkpoint.load(out / "checkpoint")
    try:
        with Bounded(out, [value for name, value in stored.items() if name.startswith("pair/")]):
            return build_pair(parser, config, shapes.event_shape).model
    except (MemoryError, RuntimeError) as error:
        raise ValueError(f"the pair of {out / CONFIG} cannot be built: {str(error).splitlines()[0]}") from error


def _checkpoint(out: Path) -> Loaded | None:
    """That of a run, which may have none yet."""
    return checkpoint.load(out / "checkpoint") if checkpoint.exists(out / "checkpoint") else None


def _shapes(out: Path, loaded: Loaded | None) -> Shapes | None:
    """The shapes of the data that a run was trained on, where its checkpoint tells them."""
    if loaded is None or "opening" not in loaded[1]:
        return None
    tensors, state = loaded
    with checkpoint.as_written(out):
        told = checkpoint.unpack(state["opening"], tensors)
        event, condition = told["event_shape"], told.get("condition_shape")
        for shape in (event, [condition] if type(condition) is int else condition):
            if shape is not None and not (
                all(type(n) is int and n >= 0 for n in shape) and math.prod(shape) < _NUMBERS
            ):
                raise TypeError(f"{shape} is no shape of a datum")
    return None if event is None else Shapes(event, tuple(condition) if isinstance(condition, list) else condition)


def _with_data(out: Path, fetched: bool, config: Namespace) -> Data:
    try:
        return data_of(config)
    except FileNotFoundError as error:
        if key(config.data) not in NAMES:
            more = " Work in the folder in which it was trained, or put them here."
        else:
            more = "" if fetched else " --trust (trust=True) downloads them."
        raise FileNotFoundError(f"the data of the run {out} are not there: {error}{more}") from error


def _of_recipe(out: Path, told: Mapping[str, Any], weights: Mapping[str, Any]) -> nn.Module:
    """The pair of a run of ``fit``, with new weights."""
    ask = f"Give it, built as it was: pyro_vae.load({str(out)!r}, pair=...)."
    if "recipe" not in told:
        why = told.get("unknown", "its checkpoint is of before that was recorded")
        raise ValueError(f"the pair of {out} cannot be made again by what its checkpoint tells ({why}). {ask}")

    def find(name: str) -> Any:
        if not is_known(name):
            raise Untrusted(out / "checkpoint", name, "pair")
        module, _, kind = name.rpartition(".")
        return getattr(importlib.import_module(module), kind)

    bounded = Bounded(out, weights.values())
    try:
        with bounded:
            return remade(told, weights, find)
    except (Untrusted, TooLarge):
        raise
    except Exception as error:  # of a class that takes other arguments now, or of a recipe that was made up
        raise ValueError(f"the pair of {out} cannot be built: {type(error).__name__}: {error}. {ask}") from error


def _check_precision(pair: nn.Module, weights: Mapping[str, Any], given: bool) -> None:
    """Refuses a pair of other precisions, which would round the weights."""
    for name, value in pair.state_dict().items() if given else ():
        held = weights.get(name, value)
        if isinstance(value, Tensor) and isinstance(held, Tensor) and value.dtype != held.dtype:
            raise ValueError(
                f"the checkpoint has {name} in {held.dtype}, and this pair in {value.dtype}. Give pair.to(...) of the "
                "precision that it was trained in."
            )


def _fill(pair: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Puts the weights into a pair, and runs it on a batch of zeros where it is of what a first run makes."""
    try:
        missing = checkpoint.load_weights(pair, tensors, state)
    except ValueError:
        before = set(pair.state_dict())
        if not _ran(pair, told) or set(pair.state_dict()) == before:
            raise
        missing = checkpoint.load_weights(pair, tensors, state)
    else:
        if isinstance(pair, RecallsState) and pair.recalls:
            _ran(pair, told)
    if missing:
        warn(
            f"the checkpoint is of an earlier version of pyro_vae, which did not keep the buffer {missing[0]!r}: it is "
            "as the pair was built."
        )


def _ran(pair: nn.Module, told: Mapping[str, Any]) -> bool:
    """Whether a pair runs on zeros of the shapes that it was trained on; programs may need other values."""
    try:
        batch = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in told["arguments"]]
        with reading(pair, seed=0):
            run_pair(pair, *batch)
    except Exception:
        return False
    return True


def _no_run(out: Path, why: str, also: str = "") -> ValueError:
    there = sorted(str(path.parent) for path in Path("runs").glob(f"*/{CONFIG}"))
    named = nearest(str(out), there) or (f"; there are {', '.join(there[:10])}" if there else "")
    return ValueError(f"{out} is no run folder: {why}. Give a folder that pyro-vae train{also} has written{named}.")


def free_folder(parent: Path, stem: str) -> str:
    """``parent/stem-1``, or with the first number that is not taken; it is made, so that nobody else takes it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyro_vae import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     names = [Path(runs.free_folder(Path(folder), "mnist")).name for _ in range(2)]
    >>> names
    ['mnist-1', 'mnist-2']
    """
    for number in itertools.count(1):
        folder = parent / f"{stem}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return str(folder)
    raise AssertionError("numbers do not end")


@checked
def evaluations(out: str | os.PathLike[str]) -> list[Any]:
    """The entries of the evaluation file of a run, none where there is no file.

    Raises:
        ValueError: if the file is no list of entries.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyro_vae import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     before = runs.evaluations(Path(folder))
    ...     path = runs.store_evaluation(Path(folder), {"bound": -91.5})
    ...     after = runs.evaluations(Path(folder))
    >>> before, after
    ([], [{'bound': -91.5}])
    """
    path = Path(out) / EVALUATION
    try:
        entries = json.loads(read_text(path)) if os.path.lexists(path) else []
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        entries = None
    if not isinstance(entries, list):
        raise ValueError(f"{path} is no list of evaluations. Move it away, and a new one is begun.")
    return entries


def store_evaluation(out: Path, entry: Mapping[str, Any]) -> Path:
    """Adds an entry to the evaluation file of a run.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyro_vae import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs.store_evaluation(Path(folder), {"bound": -91.5}).name
    'evaluation.json'
    """
    path = out / EVALUATION
    with appending(path):
        write_text(path, json.dumps([*evaluations(out), entry], indent=2) + "\n")
    return path
