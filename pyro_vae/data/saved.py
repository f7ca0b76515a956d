"""Folders that Hugging Face's ``datasets`` has written. They may be anyone's, and are not believed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae._checks import shown
from pyro_vae.data.cut import Arrays, part_names
from pyro_vae.data.files import Refused, inside, pixels
from pyro_vae.data.rows import package
from pyro_vae.data.tables import AT_ONCE, Table, check_columns, numbered, of_columns, place_of, places_of_x

_IMAGES_AT_ONCE = 256
_OTHER_PLACES = re.compile(r"[/\\:]|^\.+$")  # in what is to be the name of a file in a folder


def saved_datasets(path: Path, labels: str | None, in_memory: bool | None) -> Table:
    """What ``save_to_disk`` of Hugging Face's datasets has written: a table, or tables by the names of splits.

    A column of images is x, uint8 ``[N, C, H, W]``; one of class labels is labels, where no other is named. Nothing is
    read but what lies in the folder.
    """
    datasets = package("datasets", f"{path} is a folder of Hugging Face's datasets")
    try:
        _check_names(path)
        found = datasets.load_from_disk(str(path))
    except Refused:
        raise
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise ValueError(
            f"{path} could not be read as a folder of datasets ({str(error) or type(error).__name__}). Save it again."
        ) from error
    sets = found if isinstance(found, dict) else {"train": found}
    taken = part_names(list(sets), path)
    if "train" not in taken:
        raise ValueError(f"{path} has the splits {sorted(sets)}; one of the name train was expected.")
    train = sets[taken["train"]]
    columns, features = train.column_names, train.features  # in the order of which all splits are read
    classes = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = place_of(classes[0] if labels is None and len(classes) == 1 else labels, columns)
    parts: Arrays = {}
    for part, name in taken.items():
        one = sets[name]
        check_columns(path, columns, one.column_names)
        modes = {key: kind.mode for key, kind in one.features.items() if isinstance(kind, datasets.Image)}
        for key in modes:  # whose bytes alone are asked for: datasets would open the files and addresses of its cells
            one = one.cast_column(key, datasets.Image(decode=False))
        for key, kind in one.features.items():
            if datasets.features.features.require_decoding(kind):
                raise Refused(
                    f"column {key!r} of {path} is a {type(kind).__name__}, whose cells may lie elsewhere and are "
                    "not read. Keep columns of numbers, or one of images."
                )

        def read(columns: list[str], one: Any = one, modes: Mapping[str, Any] = modes) -> Iterator[dict[str, Any]]:
            images = [name for name in columns if name in modes]
            cells = one.with_format("arrow", columns=columns)
            few = _IMAGES_AT_ONCE if images else AT_ONCE
            for start in range(0, len(one), few):
                held = cells[start : start + few]
                block = {name: _numbers(held[name]) for name in columns if name not in modes}
                for name in images:
                    found = [_image(cell, name, modes[name], path) for cell in held[name].to_pylist()]
                    block[name] = _stacked(found, path)
                yield block

        parts[part] = of_columns(path, columns, read, label, len(one), in_memory)
    return numbered(parts), places_of_x(columns, label)


def _numbers(cells: Any) -> np.ndarray:
    """A column of arrow's, in the dtype that it has there."""
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in cells.chunks])


def _check_names(path: Path) -> None:
    """Refuses a folder whose descriptions, or links, lead out of it."""
    named = [path]
    if (path / "dataset_dict.json").exists():
        listed = _file(path, "dataset_dict.json", path)
        named = [path / _name(split, listed) for split in json.loads(listed.read_text(encoding="utf-8"))["splits"]]
    for folder in named:
        _file(folder, "dataset_info.json", path)
        state = _file(folder, "state.json", path)
        for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]:
            _file(folder, _name(file["filename"], state), path)


def _name(name: Any, where: Path) -> str:
    if not isinstance(name, str) or _OTHER_PLACES.search(name):
        raise Refused(f"{where} names {shown(name)}, which is no file of its folder; nothing else is read.")
    return name


def _file(folder: Path, name: str, path: Path) -> Path:
    """A file of a folder, which lies in the folder of the data set also behind links."""
    if (found := inside(folder / name, path)) is None:
        raise Refused(
            f"{shown(name)} in {folder} is no file of {path}: it is missing, a link out of it, or none of data; "
            "nothing else is read. If you know where it leads, copy the folder with what is linked: cp -rL."
        )
    return found


def _image(cell: Any, name: str, mode: str | None, path: Path) -> np.ndarray:
    """The image of a cell ``{bytes, path}``, by its bytes, or a path to a file in the folder of the data set."""
    held = cell or {"bytes": None, "path": None}
    if held["bytes"] is not None:
        return pixels(io.BytesIO(held["bytes"]), f"an image of column {name!r} of {path}", mode)
    if held["path"] is None:
        raise Refused(f"column {name!r} of {path} has a row without an image. Fill it, or drop the row.")
    file = inside(path / held["path"], path)
    if file is None:
        raise Refused(
            f"column {name!r} of {path} names the image {shown(held['path'])}, which is no file of that folder; "
            "nothing else is opened. If you know where it leads, have Hugging Face's datasets put it inside: "
            "load_from_disk(...).save_to_disk(...) into a new folder."
        )
    return pixels(file, str(file), mode)


def _stacked(images: list[np.ndarray], path: Path) -> np.ndarray:
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"the images of {path} differ in size or in channels. Resize and convert them to one.")
    return np.stack(images)
