"""Data of one's own: array files and folders of images; :mod:`~pyro_vae.data.tables` are the tables."""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from pyro_vae._checks import whole
from pyro_vae.data.arrays import check_size, images, tensor
from pyro_vae.data.cut import PARTS, Arrays, part_names
from pyro_vae.data.rows import NoRoom, Rows, kept_in_memory, package

T = TypeVar("T")
_UNPACKED, _RATIO = 2**28, 200  # bytes, and to 1: beyond both an archive is none of data
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class Refused(ValueError):
    """A file that can be read, and is not."""


def inside(file: Path, folder: Path) -> Path | None:
    """Where a file lies, if that is in a folder, also behind links."""
    try:
        found = file.resolve()
        return found if found.is_relative_to(folder.resolve()) and found.is_file() else None
    except (OSError, ValueError, RuntimeError):  # of a name that no file can have, and of links in a circle
        return None


def array_file(path: Path, in_memory: bool | None) -> Arrays:
    """The sets of an .npy, .npz, HDF5 or Zarr file.

    Nothing is unpickled, and no memory is taken that the file does not fill.
    """
    read = {".npy": _numpy, ".npz": _numpy, ".h5": _hdf5, ".hdf5": _hdf5}.get(path.suffix.lower(), _zarr)
    try:
        arrays = read(path, in_memory)
    except (Refused, NoRoom, ModuleNotFoundError):
        raise
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise ValueError(
            f"{path} could not be read as an array of numbers ({str(error) or type(error).__name__}). Save it again "
            "with numpy.save or numpy.savez; arrays of Python objects are never unpickled."
        ) from error
    parts: Arrays = {}
    for part, (x, y) in arrays.items():
        what = f"{path} ({part})"
        if y is not None and y.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"{what} has x of shape {list(x.shape)} and labels y of {list(y.shape)}; the first dimensions must be"
                " equal."
            )
        labels = y[:] if isinstance(y, Rows) else y
        parts[part] = (images(x if isinstance(x, Rows) else tensor(x, what), what), labels)
    return parts


def _sets(names: Sequence[str], path: Path) -> dict[str, tuple[str, str | None]]:
    """Which arrays are x and the labels of each part; all may lie in a group, or those of a part in one of its name.

    Raises:
        Refused: if there are others.
    """
    known = [name for same in PARTS.values() for name in same]
    places = [name.split("/") for name in names]
    while len({place[0] for place in places}) == 1 and all(len(place) > 1 for place in places):
        if places[0][0] in known:
            break
        places = [place[1:] for place in places]
    meant = [f"{p[1]}_{p[0]}" if len(p) == 2 and p[0] in known and p[1] in ("x", "y") else "/".join(p) for p in places]
    arrays = dict(zip(meant, names, strict=True))

    chosen: dict[str, tuple[str, str]] = {}  # part -> the keys of x and of its labels
    for part, same in PARTS.items():
        keys = [key for name in same for key in (name, f"x_{name}") if key in arrays]
        if len(keys) > 1 or any(meant.count(key) > 1 for key in keys):
            two = sorted(name for key, name in zip(meant, names, strict=True) if key in keys)
            raise Refused(f"{path} has two arrays for the {part} set, {two[0]!r} and {two[1]!r}. Keep one.")
        if keys:
            chosen[part] = (keys[0], "y_" + keys[0].removeprefix("x_"))
    if not chosen and (len(arrays) == 1 or set(arrays) == {"x", "y"}):
        chosen["train"] = ("x" if "x" in arrays else next(iter(arrays)), "y")
    if "train" not in chosen or not set(arrays) <= {key for keys in chosen.values() for key in keys}:
        raise Refused(
            f"{path} has {_listed(names)}; expected were train, valid, test (or x_train, x_valid, x_test)"
            " with labels y_train, y_valid, y_test, or x with labels y, or a single array; all in one group, or x and y"
            " of each part in a group of its name."
        )
    return {part: (arrays[x], arrays.get(y)) for part, (x, y) in chosen.items()}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return f"the arrays {sorted(names)[:20]}{more}" if names else "no array"


def _read(arrays: Mapping[str, T], path: Path, read: Callable[[str, T], Any]) -> dict[str, tuple[Any, Any]]:
    """x and labels, or ``None``, of each part, and nothing else. Groups that lie beside arrays are not looked at."""
    arrays = {name: one for name, one in arrays.items() if "/" not in name} or arrays
    sets = _sets(list(arrays), path)
    return {part: (read(x, arrays[x]), None if y is None else read(y, arrays[y])) for part, (x, y) in sets.items()}


def _numpy(path: Path, in_memory: bool | None) -> Arrays:
    """An .npy or .npz file, whatever it is called."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            return _npz(path, in_memory)
        if not kept_in_memory(size, in_memory):
            return {"train": (Rows.of_npy(path), None)}
        check_size(size, str(path))
        file.seek(0)
        return {"train": (_array(file, size), None)}


def _npz(path: Path, in_memory: bool | None) -> Arrays:
    if in_memory is False:
        raise Refused(f"{path} is packed as a whole; numpy.save makes files of which parts are read (in_memory=False).")
    size = path.stat().st_size
    check_size(size, str(path))
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        check_size(unpacked, f"{path}, unpacked,")
        _check_ratio(unpacked, size, path)

        def read(name: str, member: zipfile.ZipInfo) -> np.ndarray:
            with archive.open(member) as opened:
                return _array(opened, member.file_size)

        return _read({member.filename.removesuffix(".npy"): member for member in members}, path, read)


def _check_ratio(unpacked: int, size: int, path: Path) -> None:
    if unpacked > _UNPACKED and unpacked > _RATIO * size:
        raise Refused(
            f"{path} has {size:,} bytes, which would become {unpacked:,}: over {_RATIO} to 1, as of a file that is "
            "made to fill memory or disk. If it is yours, save it without compression."
        )


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


def _hdf5(path: Path, in_memory: bool | None) -> Arrays:
    h5py = package("h5py", f"{path} is an HDF5 file")

    def read(name: str, one: Any) -> Any:
        if one.external or one.is_virtual:
            raise ValueError(f"the numbers of {name} lie in another file, which is not read")
        return _unpacked(one, name, path, in_memory)

    with h5py.File(path, "r") as file:
        return _read(_hdf5_arrays(h5py, file), path, read)


def _hdf5_arrays(h5py: Any, file: Any) -> dict[str, Any]:
    """The arrays of a file by their paths, also in groups; none of one that leads to another file."""
    arrays, linked, left, seen = {}, [], [file], set()
    while left:
        group = left.pop()
        seen.add(group)
        for name in group:
            link, place = group.get(name, getlink=True), f"{group.name}/{name}".lstrip("/")
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{place} lies in another file, which is not followed")
            if not isinstance(link, h5py.HardLink):
                linked.append(place)
            elif isinstance(found := group[name], h5py.Dataset):
                arrays[place] = found
            elif isinstance(found, h5py.Group) and found not in seen:  # which may hold itself
                left.append(found)
    for place in linked:  # only now, when no name leads to another file
        with contextlib.suppress(KeyError, OSError, RuntimeError):  # of links to nowhere, and in a circle
            if isinstance(found := file[place], h5py.Dataset):
                arrays[place] = found
    return arrays


def _zarr(path: Path, in_memory: bool | None) -> Arrays:
    zarr = package("zarr", f"{path} is a Zarr array")
    for folder, folders, files in os.walk(path):
        linked = [Path(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
        for file in [*linked, *(Path(folder, name) for name in files)]:
            if inside(file, path) is None:
                raise ValueError(f"{file.relative_to(path)} is no file or folder of it, but a link or something else")
    found = zarr.open(path, mode="r")
    members = {"x": found} if isinstance(found, zarr.Array) else dict(found.members(max_depth=None))

    def read(name: str, one: Any) -> Any:
        _check_codecs(name, one.metadata.to_dict())
        return _unpacked(one, name, path, in_memory)

    return _read({name: one for name, one in members.items() if isinstance(one, zarr.Array)}, path, read)


#: By which Zarr arrays may be packed; pickle, which runs what is in the file, is another.
_CODECS = {"bytes", "transpose", "crc32c", "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"}


def _check_codecs(name: str, described: Mapping[str, Any]) -> None:
    """Refuses an array, or the pieces inside of a shard, that are packed by what is not known."""
    given = [described.get(key) or () for key in ("codecs", "index_codecs", "filters")]
    for codec in [*(one for some in given for one in some), *filter(None, [described.get("compressor")])]:
        word = str(codec.get("name", codec.get("id"))).removeprefix("numcodecs.")
        if word == "sharding_indexed":
            _check_codecs(name, codec["configuration"])
        elif word not in _CODECS:
            raise ValueError(f"{name} is packed by {word!r}, and expected is one of {', '.join(sorted(_CODECS))}")


def _unpacked(array: Any, name: str, path: Path, in_memory: bool | None) -> Any:
    """All of an array that is read in parts."""
    if array.shape is None:
        raise ValueError(f"{name} is empty")
    if np.dtype(array.dtype).kind not in "biuf":
        raise ValueError(f"{name} is of dtype {array.dtype}, and numbers were expected")
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    _check_ratio(size, sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file()), path)
    if array.ndim == 0 or kept_in_memory(size, in_memory):
        check_size(size, f"{name} of {path}")
        return np.asarray(array[()])
    per = max(1, 2**24 // max(1, size // max(1, array.shape[0])))
    chunk = (getattr(array, "chunks", None) or (1,))[0]
    per = -(-per // chunk) * chunk
    return Rows.of_blocks(np.asarray(array[start : start + per]) for start in range(0, array.shape[0], per))


def image_folder(folder: Path, image_size: int | None, channels: int | None) -> Arrays:
    """The images below ``folder``, uint8 [N, C, H, W]; the arguments are those of :func:`pyro_vae.data.load`."""
    if image_size is not None:
        whole(image_size=image_size)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels!r}; it must be 1 (gray) or 3 (color).")

    below = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    roots = {"train": folder}
    if "train" in below:
        roots = {part: below[n] for part, n in part_names((n for n in below if n[0] != "."), folder).items()}
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
    first = files["train"][0]
    shape = read_image(first, channels, None).shape if image_size is None else (channels, image_size, image_size)
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


def _unreadable(path: Path | str, error: Exception) -> ValueError:
    why = str(error) or type(error).__name__
    return ValueError(f"{path} could not be read as an image ({why}). Repair or remove it.")


def _is_gray(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise _unreadable(path, error) from error


def pixels(source: Path | IO[bytes], what: str, mode: str | None = None) -> np.ndarray:
    """[C, H, W] of an image file, upright, in its own colors or those of a mode of PIL's."""
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as file:
            image = ImageOps.exif_transpose(file)
            return channels_first(image if mode is None else image.convert(mode))
    except Exception as error:  # a damaged file raises whatever meets the damage
        raise _unreadable(what, error) from error


def channels_first(image: Any) -> np.ndarray:
    """[C, H, W] of an image of PIL's; of 16 bits the upper 8, as those of a folder."""
    array = np.array(image.convert("RGB") if image.mode == "P" else image)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        array = (array.astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


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
