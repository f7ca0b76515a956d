"""load(): data by name, or from a path."""

from __future__ import annotations

import difflib
import functools
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae._checks import checked, one_of, shown, whole
from pyro_vae.data.arrays import tensor
from pyro_vae.data.cut import cut
from pyro_vae.data.data import Data
from pyro_vae.data.draws import Binarization
from pyro_vae.data.files import IMAGE_SUFFIXES, array_file, image_folder
from pyro_vae.data.named import NAMES, key, named
from pyro_vae.data.quadrants import Quadrants, divided, missing_pixels
from pyro_vae.data.rows import Rows
from pyro_vae.data.saved import saved_datasets
from pyro_vae.data.sets import Split
from pyro_vae.data.stored import Stored
from pyro_vae.data.tables import column, names_of_x, parquet_files, parquet_table, places, text_table


@checked(but=("seed", "valid_size", "test_size", "quadrants"))
def load(
    name_or_path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    binarization: Binarization = "none",
    seed: int = 0,
    split: str | None = None,
    valid_size: int | float | None = None,
    test_size: int | float | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    covariates: str | None = None,
    weights: str | None = None,
    labels: str | None = None,
    missing: bool = False,
    quadrants: int | None = None,
    in_memory: bool | None = None,
    download: bool = True,
) -> Data:
    """Data by name, or from a file or folder of your own.

    Names (images are uint8 [N, C, H, W]):

    - ``"digits"``: the 8 x 8 digits of scikit-learn, 0..16 scaled to 0..255; 1,297 / 250 / 250 by a seeded permutation.
    - ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"``: 28 x 28; the first 50,000 training images, the last 10,000 of them
      to validate, and the 10,000 test images. Read from ``root/<torchvision's class>/raw``, unpacked or as the
      published .gz files (``root`` may be read-only); else downloaded by torchvision.
    - ``"frey"``: the 1,965 Frey faces, 28 x 20, in the order of the film.
    - ``"ambiguous-digits"``: maps of classes, int64 [N, 28, 28], and as the second argument of model and guide the
      images that they are of, uint8 [N, 1, 28, 28]: 3,000 / 300 / 400 images made of MNIST and the Frey faces, each
      with the maps of five annotators who disagree by a known rule
      (:func:`~pyro_vae.data.ambiguous.ambiguous_digits`).
    - ``"celeba"``: 202,599 faces in color, the central 148 x 148 pixels resized to 64 x 64; the published
      162,770 / 19,867 / 19,962. Read from ``root/celeba`` (``list_eval_partition.txt`` and the unpacked folder
      ``img_align_celeba``, as torchvision lays them out) in minutes, into 2.3 GiB; never downloaded.

    A path (give a name's namesake as ``./mnist``):

    - ``.npy``: [N, D], [N, C, H, W], or [N, H, W], which becomes [N, 1, H, W] where the values are of gray images:
      uint8, bool, or floats in [0, 1]. Other numbers, [N, T, F], stay as they are.
    - ``.csv``, ``.tsv``: a table of numbers, [N, D]; a first line that is not of numbers names the columns, and a
      cell that is empty, or NA, is NaN. Lines before it that begin with # are comments, the last of which names the
      columns where no other line does.
    - ``.parquet``, a file or a folder of such: likewise; one column of lists of one length is x, ``[N, *event]``.
      Files of a folder whose names begin with train, valid or test (``train-0.parquet``) are the splits.
    - a folder that ``save_to_disk`` of Hugging Face's ``datasets`` has written: likewise, with its splits train, valid
      (or validation) and test; a column of images is x, and one of class labels is labels. Images are read of the bytes
      and the files that the folder holds. (Parquet, HDF5, Zarr and these need packages of their own: ``pip install
      'pyro_vae[files]'``.)
    - ``.h5``, ``.hdf5``, ``.zarr``: arrays as of an .npz file, also in a group, or x and y of each split in a group of
      its name.
    - ``.npz``: arrays ``train``, ``valid``, ``test`` (or ``x_train``, ...) with labels ``y_train``, ...; or one array,
      or ``x`` with labels ``y``. Nothing is ever unpickled.
    - a folder of images, searched at any depth: png, jpg, jpeg, bmp, gif (its first frame), webp. Subfolders ``train``,
      ``valid``, ``test`` are the splits; otherwise names of several subfolders are the labels, in sorted order.

    One set without splits is cut by a seeded permutation into 80 / 10 / 10 %, or as ``valid_size`` and ``test_size``
    say. A train set that comes with a valid or test set is cut only as far as a size asks for the missing one.

    Args:
        name_or_path: a name (upper case and underscores are as good), or a path.
        root: where the named sets lie; by default the environment variable ``PYRO_VAE_DATA``, else
            ``~/.cache/pyro_vae``.
        binarization: ``"none"``, ``"dynamic"`` or ``"static"``, see :mod:`pyro_vae.data`.
        seed: of the permutations and of static and dynamic draws.
        split: for ``"frey"``: ``"published"`` (the default) trains on the first 1,500, validates on the rest and has
            no test set; ``"shuffled"`` is 1,565 / 200 / 200 by a seeded permutation.
        valid_size: a count (int) or a fraction below 1 (float); 0 for none. For your own data only.
        test_size: likewise.
        image_size: for a folder: each image is cropped at the center to a square and resized to this side; without it
            all must have one size. For ``"celeba"``: the side, by default 64.
        channels: for a folder: 1 or 3; by default 1 if all files are of gray images, else 3.
        covariates: of a table, [N, D], names or numbers (from 0) of columns, separated by commas: ``"age,sex"``. They
            are no part of x but the second argument of model and guide, [N, C], numbers as they are. A class, of words
            or of whole numbers, is a label: ``load(..., labels="sex").with_labels()``.
        labels: of a table that is no array, the name or number of the column of labels, of whole numbers or of words,
            which are numbered in sorted order. They are no part of x, and by ``with_labels()`` an argument of model
            and guide.
        weights: of a table, the name or number of one column, which is no part of x but the last argument of model and
            guide, [N], as ``poutine.scale(scale=weights)`` takes it: finite numbers of at least 0.
        missing: whether x and covariates may hold NaN, for values that are missing, where programs mask these
            themselves.
        quadrants: of images, how many quadrants of each are given: 1, the lower left one; 2, the left half; 3, all but
            the lower right one. x is then what is missing, [N, D], and the second argument of model and guide the rest,
            [N, C, H, W], 0 where pixels are missing.
        in_memory: whether a file of your own is read as a whole; if not, each batch is read as it is needed
            (:class:`~pyro_vae.data.stored.Stored`), in the same order and with the same numbers. Tables, HDF5 and Zarr
            arrays are unpacked to a temporary file for that. By default so are data of more than 1 GiB.
        download: fetch a named set that ``root`` does not hold.

    Raises:
        ValueError: for an unknown name (with the nearest), a damaged file, an option that the data do not have, sizes
            that leave nothing to train on, weights below 0, and what :class:`Split` refuses; of data that are read as
            they are needed, when they are.
        FileNotFoundError: if there is no such path, or a named set is neither there nor could be downloaded; the
            message says which files to put where.

    >>> import tempfile, numpy as np, pyro_vae as pv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/mine.npy", np.random.default_rng(0).random((50, 4)))
    ...     data = pv.data.load(f"{folder}/mine.npy")
    >>> len(data.train), len(data.valid), len(data.test)
    (40, 5, 5)
    """
    whole(0, seed=seed)
    seed = operator.index(seed)
    if quadrants is not None:
        one_of((1, 2, 3), quadrants=quadrants)
    text = os.fspath(name_or_path)
    name = key(text)
    sizes = {"valid_size": valid_size, "test_size": test_size}
    options = {"split": split, **sizes, "image_size": image_size, "channels": channels}
    options |= {"covariates": covariates, "weights": weights, "labels": labels, "missing": missing or None}
    options["in_memory"] = in_memory
    of_table = {*sizes, "covariates", "weights", "labels", "missing", "in_memory"}
    columns: dict[str, int] | None = None
    hidden = None if quadrants is None else functools.partial(missing_pixels, quadrants=quadrants)

    if name in NAMES and not isinstance(name_or_path, os.PathLike):
        _refuse(options, {"frey": {"split"}, "celeba": {"image_size"}}.get(name, set()), f"the data set {name!r}")
        parts = named(name, root, split, seed, download, image_size)
    else:
        path = _existing(name_or_path)
        name = path.resolve().stem if path.is_file() else path.resolve().name
        if not path.is_dir() and not path.is_file():
            raise ValueError(f"{text!r} is a pipe or a device; data are read from files, and from folders of images.")
        tables = {".csv": text_table, ".tsv": text_table, ".parquet": parquet_table}
        table = tables.get(path.suffix.lower())
        if path.is_dir() and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
            table = saved_datasets
        elif path.is_dir() and parquet_files(path):
            table = parquet_table
        is_zarr = any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
        if table is not None:
            _refuse(options, of_table, f"the table {text!r}")
            parts, columns = table(path, labels, in_memory)
        elif path.suffix.lower() in (".npy", ".npz", ".h5", ".hdf5") or is_zarr:
            _refuse(options, of_table - {"labels"}, f"the array file {text!r}")
            parts = array_file(path, in_memory)
        elif path.is_dir():
            _refuse(options, {*sizes, "image_size", "channels"}, f"the folder {text!r}")
            parts = image_folder(path, image_size, channels)
        else:
            raise ValueError(
                f"{text!r} is a file of a kind that load() does not read; it reads .npy, .npz, .h5, .zarr, .csv, .tsv, "
                ".parquet, folders of Hugging Face's datasets, and folders of images "
                f"({' '.join(IMAGE_SUFFIXES)}). Save the data as an array with numpy.save."
            )
        parts = cut(parts, valid_size, test_size, seed, text)
    splits: dict[str, Any] = {
        part: (Stored if isinstance(x, Rows) else Split)(
            *_arguments(x, covariates, weights, columns, missing, hidden),
            labels=y,
            missing=missing,
            binarization=binarization,
            seed=3 * seed + i,
            name=f"{name} {part}",
        )
        for i, (part, (x, y)) in enumerate(parts.items())
    }  # a seed for each: no two splits share their draws
    if hidden is None:
        return Data(name, **splits, columns=names_of_x(columns, covariates, weights))
    return Quadrants(name, **splits, missing=hidden(*splits["train"].tensors[1].shape[-2:]))


def _arguments(
    x: Any,
    covariates: str | None,
    weights: str | None,
    columns: dict[str, int] | None,
    missing: bool,
    hidden: Callable[[int, int], Tensor] | None,
) -> tuple[Any, ...]:
    """x, those of its columns that are covariates, and the one of weights; of images the hidden pixels and the rest."""
    if hidden is not None and (isinstance(x, tuple) or len(x.shape) != 4):
        what = "other arguments beside them" if isinstance(x, tuple) else f"the shape {list(x.shape)}"
        raise ValueError(f"quadrants are of images alone, [N, C, H, W]; these data have {what}.")
    if isinstance(x, tuple):  # a set that has its arguments
        return x
    if hidden is not None:
        return _taken(x, divided(hidden(*x.shape[-2:])))
    asked = ", ".join(f"{n}={v!r}" for n, v in (("covariates", covariates), ("weights", weights)) if v is not None)
    if not asked:
        return (x,)
    if x.dim() != 2:
        raise ValueError(f"{asked} are columns of a table, [N, D]; the data are {list(x.shape)}.")
    columns = places({number: str(number) for number in range(x.shape[1])}) if columns is None else columns
    chosen = [] if covariates is None else [column(word.strip(), columns) for word in covariates.split(",")]
    weight = [] if weights is None else [column(weights, columns)]
    if len({*chosen, *weight}) < len(chosen + weight):
        raise ValueError(f"{asked} name a column twice.")
    others = [number for number in range(x.shape[1]) if number not in chosen + weight]
    if not others:
        raise ValueError(f"{asked} are all columns of the table, which leaves none for x.")
    taken = [functools.partial(_columns, places=others)]
    if chosen:
        taken.append(functools.partial(_covariates, places=chosen, words=str(covariates), missing=missing))
    if weight:
        taken.append(functools.partial(_weights, place=weight[0], word=str(weights)))
    return _taken(x, taken)


def _taken(x: Any, parts: Sequence[Callable[[Tensor], Tensor]]) -> tuple[Any, ...]:
    """What is made of some rows of the data, by each of the functions."""
    return tuple(x.mapped(take) if isinstance(x, Rows) else take(tensor(x, "the data")) for take in parts)


def _columns(rows: Tensor, places: list[int]) -> Tensor:
    return rows[:, places]


def _covariates(rows: Tensor, places: list[int], words: str, missing: bool) -> Tensor:
    """Some columns, which may be NaN where ``missing`` says so."""
    values = rows[:, places]
    bad = values.isinf() if missing else ~values.isfinite()
    if bad.any():
        raise ValueError(
            f"covariates={words!r} are not finite in {int(bad.any(1).sum())} of {len(bad)} data. Fill or drop them"
            f"{'' if missing else ', or say missing=True where the programs mask what is missing'}."
        )
    return values


def _weights(rows: Tensor, place: int, word: str) -> Tensor:
    """A column, of which the data count so much; there is no such thing as a missing weight."""
    values = rows[:, place]
    bad = ~(values.isfinite() & (values >= 0))
    if bad.any():
        raise ValueError(
            f"weights={word!r} are finite numbers of at least 0, and {int(bad.sum())} of {len(bad)} data have others, "
            f"such as {values[bad][0].item():.6g}. Fill or drop them."
        )
    return values


def _refuse(options: dict[str, Any], known: set[str], what: str) -> None:
    for option, value in options.items():
        if value is not None and option not in known:
            has = f"it has {', '.join(sorted(known))}" if known else "its splits and sizes are fixed"
            raise ValueError(f"{option}={shown(value)} does not apply to {what}: {has}. Leave the option out.")


def _existing(name_or_path: str | os.PathLike[str]) -> Path:
    """The path, if there is something."""
    try:
        path = Path(os.fspath(name_or_path)).expanduser()
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError):  # of a name that no file can have, or of no such user
        pass
    raise _unknown(name_or_path)


def _unknown(name_or_path: str | os.PathLike[str]) -> Exception:
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, os.PathLike) or os.sep in text or text.startswith("~") or Path(text).suffix:
        place = Path(text).parent
        there = (
            [file.name for file in place.iterdir() if file.exists()]
            if os.path.isdir(place) and os.access(place, os.R_OK)
            else []
        )
        near = difflib.get_close_matches(Path(text).name, there, n=3, cutoff=0.6)
        nearest = f"; the nearest are {', '.join(str(place / name) for name in near)}" if near else ""
        return FileNotFoundError(f"There is no file or folder {shown(text)} (looked from {os.getcwd()}){nearest}.")
    near = difflib.get_close_matches(key(text), NAMES, n=3, cutoff=0.5)
    nearest = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ValueError(
        f"{shown(text)} is not the name of a data set, and no such file or folder exists.{nearest} The names are"
        f" {', '.join(NAMES)}; a path leads to arrays (.npy, .npz, .h5, .zarr),"
        " a table (.csv, .parquet) or a folder of images."
    )
