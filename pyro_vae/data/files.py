"""Data of one's own: array files and folders of images; :mod:`~pyro_vae.data.tables` are the tables."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyro_vae._checks import whole
from pyro_vae.data.arrays import check_size, images, tensor
from pyro_vae.data.cut import PARTS, Arrays, part_names
from pyro_vae.data.rows import Rows, kept_in_memory, package

_UNPACKED, _RATIO = 2**28, 200  # bytes, and to 1: beyond both an archive is none of data
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class Refused(ValueError):
    """A file that can be read, and is not."""


def array_file(path: Path, in_memory: bool | None) -> Arrays:
    """The sets of an .npy, .npz, HDF5 or Zarr file.

    Nothing is unpickled, and no memory is taken that the file does not fill.
    """
    read = {".npy": _numpy, ".npz": _numpy, ".h5": _hdf5, ".hdf5": _hdf5}.get(path.suffix.lower(), _zarr)
    try:
        arrays = read(path, in_memory)
    except (Refused, ModuleNotFoundError):
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
        labels = y[:] if isinstance(y, Rows) else y
        parts[part] = (images(x if isinstance(x, Rows) else tensor(x, what), what), labels)
    return parts


def _numpy(path: Path, in_memory: bool | None) -> dict[str, Any]:
    """An .npy or .npz file, whatever it is called."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            return _npz(path, in_memory)
        if not kept_in_memory(size, in_memory):
            return {"x": Rows.of_npy(path)}
        check_size(size, str(path))
        file.seek(0)
        return {"x": _array(file, size)}


def _npz(path: Path, in_memory: bool | None) -> dict[str, Any]:
    if in_memory is False:
        raise Refused(f"{path} is packed as a whole; numpy.save makes files of which parts are read (in_memory=False).")
    size = path.stat().st_size
    check_size(size, str(path))
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        check_size(unpacked, f"{path}, unpacked,")
        _check_ratio(unpacked, size, path)
        if len(members) > 100:
            raise Refused(f"{path} has {len(members):,} arrays; expected were those of train, valid and test.")
        arrays = {}
        for member in members:
            with archive.open(member) as opened:
                arrays[member.filename.removesuffix(".npy")] = _array(opened, member.file_size)
        return arrays


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


def _hdf5(path: Path, in_memory: bool | None) -> dict[str, Any]:
    h5py = package("h5py", f"{path} is an HDF5 file")
    with h5py.File(path, "r") as file:
        for name in file:
            if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
                raise ValueError(f"{name} lies in another file, which is not followed")
        arrays = {name: one for name, one in file.items() if isinstance(one, h5py.Dataset)}
        for name, one in arrays.items():
            if one.external or one.is_virtual:
                raise ValueError(f"the numbers of {name} lie in another file, which is not read")
        return {name: _unpacked(one, name, path, in_memory) for name, one in arrays.items()}


def _zarr(path: Path, in_memory: bool | None) -> dict[str, Any]:
    zarr = package("zarr", f"{path} is a Zarr array")
    found = zarr.open(path, mode="r")
    arrays = {"x": found} if isinstance(found, zarr.Array) else dict(found.arrays())
    for name, one in arrays.items():
        described = one.metadata.to_dict()
        given = [*(described.get("codecs") or ()), *(described.get("filters") or ()), described.get("compressor")]
        for codec in [one for one in given if one]:
            word = codec.get("name", codec.get("id"))
            if word not in _CODECS:  # one is pickle, and runs what is in the file
                raise ValueError(f"{name} is packed by {word!r}, and expected is one of {', '.join(sorted(_CODECS))}")
    return {name: _unpacked(one, name, path, in_memory) for name, one in arrays.items()}


#: By which Zarr arrays may be packed.
_CODECS = {"bytes", "transpose", "crc32c", "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"}


def _unpacked(array: Any, name: str, path: Path, in_memory: bool | None) -> Any:
    """All of an array that is read in parts."""
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
