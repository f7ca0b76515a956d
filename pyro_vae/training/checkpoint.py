"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all.

The JSON stands there as a tensor of its bytes, since the header of a file is bounded.

A folder holds the newest state, ``last.safetensors``, and the one before, ``previous.safetensors``. Each file carries a
SHA-256 of all that it holds, so that a truncated or edited file is noticed and the one before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_vae._checks import is_ours, warn
from pyro_vae._files import move, write_whole

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
FORMAT = 1  # of the file: 0 had the state in the header
_STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is not what was written."""


def digest(tensors: Mapping[Any, Tensor], state: str = "") -> str:
    """SHA-256 of tensors, with their names, and of a text."""
    found = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def save(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint of tensors and of what JSON can hold; the newest one there becomes the one before.

    Raises:
        OSError: if it cannot be written; those before are kept.
    """
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    held[_STATE] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    metadata = {"format": str(FORMAT), "sha256": digest(held)}

    # The newest file is there at every moment, and the one before goes only after the new one has come, so that not
    # even a damaged newest one can be all that is left.
    last, aside = folder / LAST, folder / f".{PREVIOUS}"

    def write(temporary: Path) -> None:
        try:
            save_file(held, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        aside.unlink(missing_ok=True)
        if last.exists():
            try:
                os.link(last, aside)
            except OSError:  # a file system without hard links
                shutil.copyfile(last, aside)

    try:
        write_whole(last, write)
        if aside.exists():
            move(aside, folder / PREVIOUS)
    finally:
        with contextlib.suppress(OSError):  # the error is that of writing
            aside.unlink(missing_ok=True)


def exists(folder: Path) -> bool:
    """Whether a checkpoint, good or bad, is in ``folder``."""
    return any(os.path.isfile(folder / name) for name in (LAST, PREVIOUS))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(tensors, state)`` of the newest checkpoint that is whole.

    If the newest one is damaged the one before is taken, with a warning.

    Raises:
        CheckpointError: if there is none, or none is whole.
    """
    problems = []
    for path in (path for path in (folder / LAST, folder / PREVIOUS) if os.path.isfile(path)):
        try:
            loaded = _read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            warn(f"{' '.join(problems)} Going on from the checkpoint before it, {path}.")
        return loaded
    if problems:
        raise CheckpointError(f"{' '.join(problems)} There is no other checkpoint; train again into a new folder.")
    raise CheckpointError(f"there is no checkpoint in {folder}. Give the folder of a run that has been trained.")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        if (written := int(metadata.get("format", 0))) > FORMAT:
            raise CheckpointError(f"the checkpoint {path} is of a newer pyro_vae (format {written}). Use that one.")
        if metadata["sha256"] == digest(tensors, metadata.get("state", "")):
            state = metadata["state"] if written == 0 else bytes(tensors.pop(_STATE).numpy()).decode()
            if isinstance(found := json.loads(state), dict):
                return tensors, found
            raise ValueError("its state is no mapping")
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read ({type(error).__name__}).") from error
    raise CheckpointError(f"the checkpoint {path} has been altered since it was written: its checksum differs.")


@contextlib.contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Says of what cannot be in a checkpoint of ``fit`` that it is none; sentences of the library stay as they are."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and is_ours(error):
            raise
        raise CheckpointError(
            f"the checkpoint in {folder} is none that fit has written ({type(error).__name__}). Get it anew from who "
            "made it, or train again into a new folder."
        ) from error


def pack(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A nest of dictionaries, lists and tuples as JSON can hold it; its tensors go into ``tensors`` by their place.

    Raises:
        TypeError: if something in it can be kept by neither; which names its place.
    """
    if isinstance(value, Tensor):
        while name in tensors:
            name += "'"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": pack(torch.from_numpy(value.copy()), tensors, name)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Counter):
        return {"counter": pack(dict(value), tensors, name)}
    if isinstance(value, Mapping):
        return {"items": [[key, pack(item, tensors, f"{name}/{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [pack(item, tensors, f"{name}/{index}") for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    raise TypeError(f"{name} is of the class {type(value).__module__}.{type(value).__qualname__}")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`pack` was given.

    Raises:
        KeyError, TypeError, AttributeError, RecursionError: if it is none that it gives; see :func:`as_written`.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise TypeError(f"a value is packed as one kind, not as {len(value)}")
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "array":
        return unpack(held, tensors).numpy()
    if kind == "counter":
        return Counter(unpack(held, tensors))
    if kind == "items":
        return {key: item for key, item in _pairs(unpack(held, tensors))}
    return tuple(unpack(held, tensors))


def _pairs(items: Any) -> Any:
    if not all(isinstance(item, list) and len(item) == 2 for item in items):
        raise TypeError("a mapping is packed as pairs")
    return items


def load_weights(pair: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any] | None = None) -> list[str]:
    """Puts the parameters and buffers of a checkpoint into ``pair``, and with its ``state`` what else modules keep.

    Returns:
        the buffers of the pair that ``state_dict`` leaves out and the checkpoint, an early one, does not hold: they
        stay as they are.

    Raises:
        ValueError: if the pair has others; which names the first, and its shapes.
    """
    if state is None:
        weights = {name.removeprefix("pair/"): value for name, value in tensors.items() if name.startswith("pair/")}
    else:
        weights = unpack(state["pair"], tensors)
    try:
        pair.load_state_dict(weights)
    except Exception as error:
        if kind := _setter(error):
            raise ValueError(
                f"set_extra_state of {kind}, a part of this pair, refuses what the checkpoint has for it "
                f"({type(error).__name__}: {error}). Have it take what get_extra_state gave when the pair was trained."
            ) from error
        if not isinstance(error, RuntimeError):
            raise
        raise ValueError(
            f"the checkpoint belongs to another pair than this {type(pair).__name__}: {_difference(pair, weights)}. "
            "Build the pair with the arguments that it was trained with."
        ) from error
    held, missing = unpack((state or {}).get("buffers", {"items": []}), tensors), []
    for name, buffer in unsaved(pair):
        if name not in held:
            missing.append(name)
        elif held[name].shape != buffer.shape:
            there, here = list(held[name].shape), list(buffer.shape)
            raise ValueError(
                f"the checkpoint belongs to another pair than this {type(pair).__name__}: {name} is {there} there and "
                f"{here} here. Build the pair with the arguments that it was trained with."
            )
        else:
            buffer.copy_(held[name])
    return missing


def _setter(error: Exception) -> str:
    """The class whose ``set_extra_state`` an error was raised in, or nothing."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "set_extra_state":
            return type(frame.f_locals.get("self")).__name__
    return ""


def unsaved(pair: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that ``state_dict`` leaves out."""
    saved = pair.state_dict().keys()
    return [(name, buffer) for name, buffer in pair.named_buffers() if name not in saved]


def _difference(pair: nn.Module, weights: Mapping[str, Any]) -> str:
    """The first thing in which the state of a pair is another than ``weights``."""
    ours = pair.state_dict()
    for name, value in weights.items():
        shapes = [list(one.shape) for one in (value, ours.get(name)) if isinstance(one, Tensor)]
        if name not in ours:
            return f"{name}, {shapes[0]}, is there and not here" if shapes else f"{name} is there and not here"
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} there and {shapes[1]} here"
    name = next(name for name in ours if name not in weights)
    return f"{name}, {list(ours[name].shape)}, is here and not there"
