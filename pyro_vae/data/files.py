"""Data of one's own: array files and folders of images."""

from __future__ import annotations

import contextlib
import csv
import difflib
import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae._checks import shown, whole
from pyro_vae.data.arrays import check_size, images, tensor
from pyro_vae.data.cut import PARTS, Arrays

_UNPACKED, _RATIO = 2**28, 200  # bytes, and to 1: beyond both an archive is none of data
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def array_file(path: Path) -> Arrays:
    """The sets of a .npy or .npz file. Nothing is unpickled, and no memory is taken that the file does not fill."""
    try:
        arrays = _arrays(path)
    except Refused:
        raise
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise ValueError(
            f"{path} could not be read as an array of numbers ({str(error) or type(error).__name__}). Save it again "
            "with numpy.save or numpy.savez; arrays of Python objects are never unpickled."
        ) from error

    chosen: dict[str, tuple[str, str]] = {}  # part -> the keys of x and of its labels
    for part, names in PARTS.items():
        keys = [key for name in names for key in (name, f"x_{name}") if key in arrays]
        if len(keys) > 1:
            raise ValueError(f"{path} has two arrays for the {part} set, {keys[0]!r} and {keys[1]!r}. Keep one.")
        if keys:
            chosen[part] = (keys[0], "y_" + keys[0].removeprefix("x_"))
    if not chosen and (len(arrays) == 1 or set(arrays) == {"x", "y"}):
        chosen["train"] = ("x" if "x" in arrays else next(iter(arrays)), "y")
    if "train" not in chosen or not set(arrays) <= {key for keys in chosen.values() for key in keys}:
        raise ValueError(
            f"{path} has the arrays {sorted(arrays)}; expected were train, valid, test (or x_train, x_valid, x_test)"
            " with labels y_train, y_valid, y_test, or x with labels y, or a single array."
        )
    parts: Arrays = {}
    for part, (x_key, y_key) in chosen.items():
        x, y, what = arrays[x_key], arrays.get(y_key), f"{path} ({part})"
        if y is not None and y.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"{what} has x of shape {list(x.shape)} and labels y of {list(y.shape)}; the first dimensions must be"
                " equal."
            )
        parts[part] = (images(tensor(x, what), what), y)
    return parts


class Refused(ValueError):
    """A file that can be read, and is not."""


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by name; of a .npy file it is x."""
    size = path.stat().st_size
    check_size(size, str(path))
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return {"x": _array(file, size)}
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            check_size(unpacked, f"{path}, unpacked,")
            if unpacked > _UNPACKED and unpacked > _RATIO * size:
                raise Refused(
                    f"{path} has {size:,} bytes, which would become {unpacked:,}: over {_RATIO} to 1, as of a file "
                    "that is made to fill the memory. If it is yours, save it by numpy.savez, which does not compress."
                )
            if len(members) > 100:
                raise Refused(f"{path} has {len(members):,} arrays; expected were those of train, valid and test.")
            arrays = {}
            for member in members:
                with archive.open(member) as opened:
                    arrays[member.filename.removesuffix(".npy")] = _array(opened, member.file_size)
            return arrays


def _array(file: Any, size: int) -> np.ndarray:
    """One array of ``size`` bytes with its header, which may claim more."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"the version of its format is {version[0]}.{version[1]}, and no array of numbers has that")
    shape, _, dtype = read[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size:
        raise ValueError(f"it is cut off: {list(shape)} of {dtype} are {needed:,} bytes, and it has {size:,}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def table_file(path: Path, labels: str | None) -> tuple[Arrays, dict[str, int]]:
    """A .csv or .tsv file: its numbers ``[N, D]``, labels, and where in x columns are, by name and number in the file.

    An empty cell is NaN. Labels that are words are numbered in sorted order.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    check_size(path.stat().st_size, str(path))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file, delimiter=delimiter), [])
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path} is no table of numbers ({error}). Save it as UTF-8.") from error
    named = not all(_is_number(word) for number, word in enumerate(first) if str(number) != labels)
    names = [name.strip() for name in first] if named else [str(number) for number in range(len(first))]
    label = None if labels is None else column(labels, places(dict(enumerate(names))))
    taken = [number for number in range(len(names)) if number != label]
    if not taken and first:
        raise ValueError(f"{path} has no column but its labels; leave labels= out, or save x beside them.")

    def read(columns: list[int] | None, **options: Any) -> np.ndarray:
        where: dict[str, Any] = {"delimiter": delimiter, "skiprows": int(named), "ndmin": 2, "usecols": columns}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input contained no data")  # which is said below
            return np.loadtxt(path, encoding="utf-8-sig", quotechar='"', **where, **options)

    columns = None if label is None else taken
    try:
        try:
            x = read(columns)
        except ValueError:
            x = read(columns, converters=_number)  # slower, and knows empty cells
        if not x.size:
            raise Refused(f"{path} has no row of numbers{' below its names' if named else ''}. Save the table again.")
        y = None if label is None else _classes(read([label], dtype=str, comments=None)[:, 0])
    except Refused:
        raise
    except (ValueError, IndexError, OverflowError, csv.Error) as error:
        raise ValueError(
            f"{path} is no table of numbers ({_wrong_cell(path, delimiter, named, names, label) or error}). Leave out "
            "columns of text, or number their values; labels= takes the name of a column of labels, also of words."
        ) from error
    return {"train": (torch.from_numpy(x), y)}, places({number: names[number] for number in taken})


def places(names: Mapping[int, str]) -> dict[str, int]:
    """Where in x columns are, by their numbers in the file and by their names."""
    numbers = {str(number): place for place, number in enumerate(names)}
    return numbers | {name: place for place, name in enumerate(names.values())}


def column(word: str, columns: dict[str, int]) -> int:
    """The place of a column.

    Raises:
        ValueError: if there is none of that name or number; the nearest are named.
    """
    if word not in columns:
        names = [name for name in columns if not name.isdecimal()] or list(columns)
        near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
        there = f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(names[:10])}"
        raise ValueError(f"the table has no column {word!r}; {there}. Columns have numbers from 0, too.")
    return columns[word]


def _number(cell: str) -> float:
    return float(cell.strip() or "nan")


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _classes(words: np.ndarray) -> np.ndarray:
    """Labels as whole numbers: those that they are, or the places of their words in sorted order."""
    try:
        return words.astype(np.int64)
    except ValueError:
        return np.unique(words, return_inverse=True)[1]


def _wrong_cell(path: Path, delimiter: str, named: bool, names: list[str], label: int | None) -> str:
    """Where the first cell is that is no number."""
    with path.open(encoding="utf-8-sig", newline="") as file, contextlib.suppress(ValueError, csv.Error):
        for line, row in enumerate(csv.reader(file, delimiter=delimiter), 1):
            if row and len(row) != len(names):
                return f"line {line} has {len(row)} cells, and the first has {len(names)}"
            for number, cell in enumerate(row if line > named else []):
                if number != label and not _is_number(cell):
                    return f"{shown(cell)} in line {line}, column {names[number]!r}"
    return ""


def image_folder(folder: Path, image_size: int | None, channels: int | None) -> Arrays:
    """The images below ``folder``, uint8 [N, C, H, W]; the arguments are those of :func:`pyro_vae.data.load`."""
    if image_size is not None:
        whole(image_size=image_size)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels!r}; it must be 1 (gray) or 3 (color).")

    below = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    roots = {"train": folder}
    if "train" in below:
        roots = {part: below[n] for part, names in PARTS.items() for n in names if n in below}
    files = {part: _image_files(path) for part, path in roots.items()}
    for part, found in files.items():
        if not found:
            raise ValueError(f"{roots[part]} holds no images ({' '.join(IMAGE_SUFFIXES)}), at any depth.")

    if channels is None:
        channels = 1 if all(_is_gray(path) for found in files.values() for path in found) else 3
    # Names of subfolders are labels where every image lies in one and there are several; one numbering for all splits.
    inside = {part: [p.relative_to(roots[part]).parts for p in found] for part, found in files.items()}
    classes = sorted({p[0] for paths in inside.values() for p in paths if len(p) > 1})
    labeled = len(classes) > 1 and all(len(p) > 1 for paths in inside.values() for p in paths)

    result: Arrays = {}
    if image_size is not None:
        check_size(channels * image_size**2, f"an image of {image_size:,} x {image_size:,} pixels")
    first, shape = files["train"][0], read_image(files["train"][0], channels, image_size).shape
    for part, found in files.items():
        check_size(len(found) * int(np.prod(shape)), f"{roots[part]} ({len(found):,} images)")
        x = np.empty((len(found), *shape), np.uint8)
        for i, path in enumerate(found):
            image = read_image(path, channels, image_size)
            if image.shape != shape:
                raise ValueError(
                    f"the images of {folder} differ in size: {first} is {shape[1]} x {shape[2]} (height x width),"
                    f" {path} is {image.shape[1]} x {image.shape[2]}. Give image_size= to crop and resize them to one."
                )
            x[i] = image
        result[part] = (x, np.array([classes.index(p[0]) for p in inside[part]]) if labeled else None)
    return result


def _image_files(folder: Path) -> list[Path]:
    try:
        found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
        return sorted((p for p in found if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())
    except OSError as error:
        raise ValueError(f"{folder} could not be searched for images ({error}). Give a folder of your own.") from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    why = str(error) or type(error).__name__
    return ValueError(f"{path} could not be read as an image ({why}). Repair or remove it.")


def _is_gray(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise _unreadable(path, error) from error


def read_image(path: Path, channels: int, image_size: int | None, crop: int | None = None) -> np.ndarray:
    """uint8 [C, H, W]; with ``image_size``, of the central square of side ``crop``, by default the largest."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits: PIL's own conversion to 8 clips instead of scaling
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
            if image.mode == "P":  # a palette may have transparency, of which PIL warns on the direct way
                image = image.convert("RGBA")
            image = image.convert("L" if channels == 1 else "RGB")
            if image_size is not None:
                side = min(*image.size, crop or image.width)
                left, top = ((length - side) // 2 for length in image.size)
                image = image.crop((left, top, left + side, top + side))
                image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise _unreadable(path, error) from error
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
