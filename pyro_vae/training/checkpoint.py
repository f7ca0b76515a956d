"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all.

A folder holds the newest state, ``last.safetensors``, and the one before, ``previous.safetensors``. Each file carries a
SHA-256 of all that it holds, so that a truncated or edited file is noticed and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_vae._checks import warn

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is not there, or is not what was written."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` with a temporary path beside ``path``, then puts the file in place in one step.

    Raises:
        OSError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise type(error)(
            f"cannot write to the folder {path.parent} ({error.strerror}). Choose another output folder, or make this "
            "one writable."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def digest(tensors: Mapping[Any, Tensor], state: str = "") -> str:
    """SHA-256 of tensors, with their names, and of a text."""
    found = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def save(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes a checkpoint of tensors and of what JSON can hold; the newest one there becomes the one before."""
    text = json.dumps(state)
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"state": text, "sha256": digest(held, text)}

    # The newest file is there at every moment, and the one before goes only after the new one has come, so that not
    # even a damaged newest one can be all that is left.
    last, aside = folder / LAST, folder / f".{PREVIOUS}"

    def write(temporary: Path) -> None:
        save_file(held, temporary, metadata=metadata)
        aside.unlink(missing_ok=True)
        if last.exists():
            try:
                os.link(last, aside)
            except OSError:  # a file system without hard links
                shutil.copyfile(last, aside)

    try:
        write_whole(last, write)
        if aside.exists():
            os.replace(aside, folder / PREVIOUS)
    finally:
        if aside.exists():
            aside.unlink()


def exists(folder: Path) -> bool:
    """Whether a checkpoint, good or bad, is in ``folder``."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``(tensors, state)`` of the newest checkpoint that is whole.

    If the newest one is damaged the one before is taken, with a warning.

    Raises:
        CheckpointError: if there is none, or none is whole.
    """
    problems = []
    for path in (path for path in (folder / LAST, folder / PREVIOUS) if path.exists()):
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
        if metadata["sha256"] == digest(tensors, metadata["state"]):
            return tensors, json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read ({type(error).__name__}).") from error
    raise CheckpointError(f"the checkpoint {path} has been altered since it was written: its checksum differs.")


def pack(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A nest of dictionaries, lists and tuples as JSON can hold it; its tensors go into ``tensors`` by their place."""
    if isinstance(value, Tensor):
        while name in tensors:
            name += "'"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, pack(item, tensors, f"{name}/{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [pack(item, tensors, f"{name}/{index}") for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    return value


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`pack` was given."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    return dict(unpack(held, tensors)) if kind == "items" else tuple(unpack(held, tensors))


def load_weights(pair: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts the parameters and buffers of a checkpoint into ``pair``.

    Raises:
        ValueError: if the pair has others.
    """
    weights = {name.removeprefix("pair/"): value for name, value in tensors.items() if name.startswith("pair/")}
    try:
        pair.load_state_dict(weights)
    except RuntimeError as error:
        differences = " ".join(str(error).splitlines()[1:3]).strip()
        raise ValueError(
            f"the checkpoint belongs to another pair than this {type(pair).__name__}: {differences} Build the pair "
            "with the arguments that it was trained with."
        ) from error
