"""The data sets that have a name: digits, the MNIST family, the Frey faces, CelebA, and ambiguous digits."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import os
import struct
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from pyro_vae._checks import whole
from pyro_vae._files import appending
from pyro_vae.data.ambiguous import ambiguous_digits
from pyro_vae.data.arrays import check_size
from pyro_vae.data.cut import Arrays, cut
from pyro_vae.data.files import read_image

NAMES = ("digits", "mnist", "fashion-mnist", "kmnist", "frey", "celeba", "ambiguous-digits")
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def key(text: str) -> str:
    """The name of a set as :data:`NAMES` has it."""
    return text.lower().replace("_", "-")


def named(
    name: str,
    root: str | os.PathLike[str] | None,
    split: str | None,
    seed: int,
    download: bool,
    image_size: int | None = None,
) -> Arrays:
    """The data set ``name``, one of ``NAMES``; the arguments are those of :func:`pyro_vae.data.load`."""
    folder = Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
    if name == "digits":
        return _digits(seed)
    if name == "ambiguous-digits":
        faces = _frey(folder, None, seed, download)
        return ambiguous_digits(_mnist("mnist", folder, download), np.concatenate([x for x, _ in faces.values()])[:, 0])
    if name == "celeba":
        return _celeba(folder, 64 if image_size is None else image_size)
    return _frey(folder, split, seed, download) if name == "frey" else _mnist(name, folder, download)


def _digits(seed: int) -> Arrays:
    spec = importlib.util.find_spec("sklearn")  # whose import takes seconds
    assert spec is not None
    assert spec.origin is not None
    rows = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    x = np.round(rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return cut({"train": (x, rows[:, -1].astype(np.int64))}, 250, 250, seed, "digits")


def _frey(root: Path, split: str | None, seed: int, download: bool) -> Arrays:
    from pyro_vae.data.frey import FreyFace

    if split not in (None, "published", "shuffled"):
        raise ValueError(f'split is {split!r}; "frey" has "published" and "shuffled".')
    x = FreyFace(root, download=download).data[:, None]
    if split == "shuffled":
        return cut({"train": (x, None)}, 200, 200, seed, "frey")
    return {"train": (x[:1500], None), "valid": (x[1500:], None)}


def _celeba(root: Path, image_size: int) -> Arrays:
    whole(image_size=image_size)
    folder, partition = root / "celeba" / "img_align_celeba", root / "celeba" / "list_eval_partition.txt"
    if not (folder.is_dir() and partition.is_file()):
        raise FileNotFoundError(
            f"'celeba' is not in {folder.parent}. Put {partition.name} and the unpacked folder {folder.name} there, as"
            " torchvision.datasets.CelebA(root, download=True) does, or name the folder that holds celeba/ by root= or"
            " the environment variable PYRO_VAE_DATA."
        )
    rows = [line.split() for line in partition.read_text(errors="replace").splitlines() if line.strip()]
    if any(len(row) != 2 or row[1] not in ("0", "1", "2") for row in rows):
        raise ValueError(f"{partition} is damaged: a file name and 0, 1 or 2 were expected in each line. Replace it.")
    parts: Arrays = {}
    for key, part in (("0", "train"), ("1", "valid"), ("2", "test")):
        files = [folder / name for name, split in rows if split == key]
        check_size(3 * len(files) * image_size**2, f"the {part} set of 'celeba' ({len(files):,} images)")
        x = np.empty((len(files), 3, image_size, image_size), np.uint8)
        for i, path in enumerate(files):
            x[i] = read_image(path, 3, image_size, crop=148)
        parts[part] = (x, None)
    return parts


def _mnist(name: str, root: Path, download: bool) -> Arrays:
    from torchvision import datasets

    class_name = _TORCHVISION[name]
    cls = getattr(datasets, class_name)
    folder = root / class_name / "raw"
    names = [resource for resource, _ in cls.resources]

    def present() -> list[tuple[Path, str | None]] | None:
        # Read here and not by torchvision, which unpacks beside the .gz files: the root may be read-only.
        files: list[tuple[Path, str | None]] = []
        for resource, md5 in cls.resources:
            if (unpacked := folder / resource.removesuffix(".gz")).is_file():
                files.append((unpacked, None))
            elif (packed := folder / resource).is_file():
                files.append((packed, md5))
            else:
                return None
        return files

    files, reason = present(), None
    if files is None and download:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with appending(root / class_name), tempfile.TemporaryDirectory(dir=root) as made:
                if present() is None:  # no other process has fetched them meanwhile
                    cls(made, download=True)
                for file in (Path(made) / class_name / "raw").glob("*"):
                    folder.mkdir(parents=True, exist_ok=True)
                    os.replace(file, folder / file.name)  # whole or not at all
        except (OSError, HTTPException, RuntimeError) as error:  # no network, no permission, a damaged file
            reason = error
        files = present()
    if files is None:
        why = f" The download failed: {reason}." if download else " Or pass download=True."
        raise FileNotFoundError(
            f"{name!r} is not in {folder}. Put {', '.join(names)} there (the published files, as they are), or name the"
            f" folder that holds {class_name}/raw by root= or the environment variable PYRO_VAE_DATA.{why}"
        ) from reason
    train, train_labels, test, test_labels = (_idx(path, md5) for path, md5 in files)
    for images, labels, n in ((train, train_labels, 60_000), (test, test_labels, 10_000)):
        if images.ndim != 3 or len(images) != n or labels.shape != (n,):
            raise ValueError(
                f"{folder} does not hold {name}: {n:,} images and labels were expected, and they have shapes"
                f" {list(images.shape)} and {list(labels.shape)}. Replace the files."
            )
    train_labels, test_labels = train_labels.astype(np.int64), test_labels.astype(np.int64)
    return {
        "train": (train[:50_000, None], train_labels[:50_000]),
        "valid": (train[50_000:, None], train_labels[50_000:]),
        "test": (test[:, None], test_labels),
    }


def _idx(path: Path, md5: str | None) -> np.ndarray:
    """An array in the IDX format of MNIST (unsigned bytes); with its MD5 sum where it is the published .gz file."""
    raw = path.read_bytes()
    if md5 is not None:
        if (found := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
            raise ValueError(f"{path} is damaged: its MD5 sum is {found}, the published file's is {md5}. Replace it.")
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path} is damaged: it does not begin as an IDX file of unsigned bytes. Replace it.")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    have, need = len(raw) - 4 - 4 * raw[3], math.prod(shape)
    if have != need:
        raise ValueError(f"{path} is damaged: {list(shape)} takes {need:,} bytes, it has {have:,}. Replace it.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
