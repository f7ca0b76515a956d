"""What a run is known again by: its settings, the code of functions among them, its data, and the pair as it began."""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from pyro_vae.batches import flattened
from pyro_vae.compiled import resolved
from pyro_vae.data import Data, Mixed, Split, Stream
from pyro_vae.frozen import LIBRARIES
from pyro_vae.pair import device_of
from pyro_vae.ranks import Ranks
from pyro_vae.training import checkpoint
from pyro_vae.training.scheduled import Schedules
from pyro_vae.training.schedules import Schedule
from pyro_vae.training.settings import Settings, described
from pyro_vae.training.state import State

_FREE = ("out", "resume", "device", "epochs", "checkpoint_every", "progress", "callbacks")
_MOST, _READ = 2**30, 2**24  # bytes of a tensor and of a file, above which rows of it are looked at
_DEEP = 1_000  # things in which functions are looked for


def configuration(
    settings: Settings, data: Data, first: Mapping[int, Sequence[Any]], state: State, schedules: Schedules
) -> dict[str, Any]:
    """What a run is known again by, all of which JSON can hold.

    Args:
        settings: of the run.
        data: that it is trained on.
        first: by the id of a stream, batches that it begins with, where these are the same in every process.
        state: as it is at the start.
        schedules: of its numbers.
    """
    pair, optimizer = state.pair, state.optimizer
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    follows = any(map(callable, schedules.given.values())) or isinstance(settings.scheduler, Schedule)
    return {
        **{name: described(value) for name, value in vars(settings).items()},
        "pair": f"{type(pair).__module__}.{type(pair).__qualname__}",
        "networks": repr(pair),
        "num_data": settings.num_data,  # None as in a run of before there was one
        "parameters": {name: list(parameter.shape) for name, parameter in pair.named_parameters()},
        "data": data.describe(),
        **{name: None if part is None else _of_data(part, first) for name, part in sets_of(data).items()},
        "estimator": repr(state.estimator),
        "optimizer": f"{type(optimizer).__name__}({described(groups)})",
        # A schedule is a function of the share of the epochs: with other epochs it would jump.
        "scheduled epochs": settings.epochs if follows else None,
        "schedules": described({name: schedules.given[name] for name in schedules.buffers}) or None,
        **{name: described(schedules.given[name]) for name in schedules.at},
        "precision": resolved(settings.precision, device_of(pair)),
        "code": {name: code_of(value) for name, value in vars(settings).items() if name not in _FREE},
        "python": list(sys.version_info[:2]),
    }


def check_same_run(ours: Mapping[str, Any], theirs: Mapping[str, Any], out: Any) -> None:
    """Raises a ``ValueError`` if two configurations differ in what has to be the same for a run to go on."""
    if told := _differences(ours, theirs, _FREE, "{name} was {theirs} and is now {ours}"):
        raise ValueError(
            f"{out} belongs to another configuration ({told}), so this run cannot go on there. "
            "Choose another folder, or use the configuration of that run."
        )


def check_same_of_ranks(ours: Mapping[str, Any], first: Mapping[int, Sequence[Any]], ranks: Ranks) -> None:
    """Raises a ``ValueError`` if this rank was given another run than the first one, with which it is to take steps.

    Args:
        ours: what :func:`configuration` gave.
        first: batches that each stream begins with, also of one that begins otherwise in every process.
        ranks: the processes.
    """
    if ranks.alone:
        return
    began = [_hash([t for batch in batches for t in flattened(batch)[0]]) for batches in first.values()]
    ours = {**ours, "the hash of the first batches of loaders": began}
    free = [name for name in _FREE if name != "epochs"]
    if told := _differences(ours, ranks.share(ours), free, "{name} is {theirs} there and {ours} here"):
        raise ValueError(
            f"rank {ranks.rank} was given another run than the first rank ({told}). Give all the same pair, data and "
            "settings: each takes its slice of every batch itself."
        )


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], free: Sequence[str], words: str) -> str:
    different = [key for key in ours if key not in (*free, "code", "python") and ours[key] != theirs.get(key)]
    told = [words.format(name=key, theirs=theirs.get(key), ours=ours[key]) for key in different]
    if ours["python"] == theirs.get("python"):  # which fixes what code is compiled to
        for key, code in ours["code"].items():
            if code != theirs["code"].get(key) and key not in different:
                told.append(f"{key} is {ours[key]}, as it was, but of other code")
    return "another pair" if "parameters" in different or "networks" in different else ", ".join(told)


# Data


def sets_of(data: Data) -> dict[str, Split | Stream | Mixed | None]:
    """The sets that a run is known by."""
    return {"training data": data.train, "validation data": data.valid}


def changed(data: Data, told: Mapping[str, Any]) -> list[str]:
    """Which sets are others than a configuration tells of; of streams that cannot be told."""
    parts = {name: part for name, part in sets_of(data).items() if isinstance(part, Split) and name in told}
    return [name for name, part in parts.items() if _of_data(part, {}) != told[name]]


def _of_data(part: Split | Stream | Mixed, first: Mapping[int, Sequence[Any]]) -> str:
    """A set of data in a few words, with a hash of those in memory, or of what a stream begins with."""
    if isinstance(part, Mixed):
        return f"Mixed({', '.join(_of_data(one, first) for one in part.parts)})"
    how = f"{part.binarization} of seed {part.seed}" if part.binarization == "dynamic" else part.binarization
    if isinstance(part, Split):
        return f"of the hash {_hash(part.tensors, part.names)}, binarization {how}"
    loader = part.loader
    held = loader.dataset.tensors if isinstance(loader.dataset, TensorDataset) else ()
    began = [flattened(batch)[0] for batch in first.get(id(part), ())]
    sizes = f"batches of {loader.batch_size}{', the last dropped' if loader.drop_last else ''}"
    kinds = f"{_kind(loader.dataset)} in the order of {_kind(loader.sampler)}"
    return f"{kinds}, {sizes}, of the hash {_hash([*held, *(t for batch in began for t in batch)])}, binarization {how}"


def _hash(tensors: Sequence[Tensor], names: Any = None) -> str:
    rows: list[Tensor] = []
    for tensor in tensors:
        most = _MOST if isinstance(tensor, Tensor) else _READ
        rows += [tensor[:: max(1, tensor.nbytes // most)], tensor[-1:]] if tensor.dim() else [tensor]
    return checkpoint.digest(dict(enumerate(rows)), f"{names} {[list(tensor.shape) for tensor in tensors]}")[:16]


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# Code


def code_of(value: Any) -> str | None:
    """A hash of the functions that a value has: their code, what is around them, and their defaults; ``None`` of none.

    Functions and classes of libraries are known by their names.
    """
    found = list(_functions(value))
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] if found else None


def _functions(value: Any) -> Iterator[str]:
    """The functions in a value, each as a text, to any depth."""
    left: list[Any] = [value]
    seen: dict[int, Any] = {}
    while left and len(seen) < _DEEP:
        value = left.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # which keeps it alive, so that no id comes twice
        if isinstance(value, (list, tuple)):
            left += value
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, functools.partial):
            left += [value.func, value.args, value.keywords]
        elif isinstance(value, types.MethodType):
            left += [value.__func__, value.__self__]
        elif isinstance(value, types.FunctionType) and not _of_library(value):
            yield _code(value.__code__)
            names = sorted(_names(value.__code__) & value.__globals__.keys())
            around = [_content(cell) for cell in value.__closure__ or ()]
            around += [value.__defaults__, value.__kwdefaults__]
            yield repr([_plain(part) for part in (*around, *map(value.__globals__.__getitem__, names))])
            left += around
        elif isinstance(value, type) and not _of_library(value):
            left += [member for member in vars(value).values() if isinstance(member, types.FunctionType)]
        elif not isinstance(value, (type, torch.nn.Module, types.ModuleType)) and hasattr(value, "__dict__"):
            left += [vars(value), *([] if _of_library(type(value)) else [type(value)])]


def _code(code: types.CodeType) -> str:
    constants = [_code(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {constants}"


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing has been assigned yet
        return None


def _plain(value: Any) -> Any:
    """A number, a text, and tensors and lists of these as they are; of all else its class, since it may move."""
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return [(str(key), _plain(part)) for key, part in value.items()]
    if isinstance(value, (Tensor, np.ndarray)):
        return type(value).__name__, list(value.shape)
    return type(value).__qualname__


def _of_library(value: Callable[..., Any]) -> bool:
    return (value.__module__ or "").partition(".")[0] in LIBRARIES
