"""as_data(): what ``fit`` accepts -> Data."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_vae._checks import checked
from pyro_vae.data.arrays import check_size, dtypes, not_held, tensor
from pyro_vae.data.cut import PARTS
from pyro_vae.data.data import Data
from pyro_vae.data.draws import Binarization
from pyro_vae.data.files import channels_first
from pyro_vae.data.mixed import Mixed, as_set
from pyro_vae.data.sets import Split, Stream, labeled


@checked
def as_data(data: Any, *, binarization: Binarization = "none", missing: bool = False) -> Data:
    """Data in any of the forms that ``fit`` accepts, as :class:`Data`.

    - :class:`Data`, :class:`Split`, :class:`Stream`, :class:`Mixed`: as they are; their binarization is their own.
    - a tensor, an array, a table with ``__array__``, or numbers in lists: x, ``[N, *event]``, of any shape.
    - ``TensorDataset``: all its tensors, which are the arguments of model and guide.
    - another map-style ``Dataset``, or a list of items: read once into memory (a random transform is drawn once). Items
      are x (a tensor, an array or a PIL image), or a tuple (x, ...), which are all arguments, as of a TensorDataset:
      tensors, arrays, images or numbers, such as the label of an image. PIL images become uint8
      [C, H, W], of 16 bits the upper 8. Items that are dictionaries are arguments by name.
    - a dictionary of tensors or arrays, or a ``Dataset`` of Hugging Face's: arguments by name.
    - ``DataLoader``: a :class:`Stream`, whose batches may hold what is no tensor. So is any other object that gives
      batches anew whenever it is iterated; a list is one of data, and a list of batches
      ``DataLoader(batches, batch_size=None)``.
    - None, with ``missing``: one batch without arguments, for programs that hold their data themselves.
    - (train, valid) or (train, valid, test), a tuple of those; valid and test may be None.

    Of several arguments a pair is passed those that its programs take (:mod:`pyro_vae.pair.arguments`). A second one
    that is a whole number for each datum is also :attr:`Split.labels`, for figures.

    Args:
        data: one of these.
        binarization: ``"none"``, ``"dynamic"`` or ``"static"``, see :mod:`pyro_vae.data`.
        missing: whether x may hold NaN, see :class:`Split`, and a loader's batches no data, see :class:`Stream`.

    Raises:
        TypeError: for anything else.
        ValueError: for what :class:`Split` refuses, a tuple of data and their labels, a Dataset too large for memory,
            or a binarization other than the one that a Data, Split or Stream was made with.

    >>> import torch, pyro_vae as pv
    >>> x = torch.rand(30, 5)
    >>> data = pv.data.as_data((x[:20], x[20:]))
    >>> len(data.train), len(data.valid), data.test
    (20, 10, None)
    """
    if isinstance(data, Data):
        for split in (data.train, data.valid, data.test):
            if split is not None:
                _as_split(split, binarization, 0, "", missing)
        return data
    if not isinstance(data, tuple):
        split = _as_split(data, binarization, 0, "data", missing)
        return Data(split.name, split)
    if len(data) not in (2, 3) or data[0] is None:
        raise TypeError(f"a tuple of data is (train, valid) or (train, valid, test); this one has {len(data)} parts.")
    shapes = [list(part.shape) for part in data if hasattr(part, "__array__") and hasattr(part, "shape")]
    if len(shapes) == len(data) == 2 and _rows_of_others(*shapes):
        raise ValueError(
            f"a tuple of data is (train, valid), but these have shapes {shapes[0]} and {shapes[1]}. If they are two "
            "arguments of model and guide, such as data and labels, give one TensorDataset(x, y), or a dictionary of "
            "them by the names of these arguments."
        )
    named = enumerate(zip(PARTS, data, strict=False))  # a seed for each: no two splits share their draws
    splits = [None if d is None else _as_split(d, binarization, i, part, missing) for i, (part, d) in named]
    return Data("data", *splits)  # type: ignore[arg-type]  # the first is not None, see above


def _rows_of_others(shape: list[int], other: list[int]) -> bool:
    """As many rows, of another size."""
    return shape[:1] == other[:1] and math.prod(shape[1:]) != math.prod(other[1:])


def _as_split(data: Any, binarization: Binarization, seed: int, name: str, missing: bool) -> Split | Stream | Mixed:
    if isinstance(data, (Split, Stream, Mixed)):
        if binarization not in ("none", data.binarization):
            raise ValueError(
                f"binarization {binarization!r} was asked for, but {data.name!r} was made with {data.binarization!r}."
                " Make it with the one you want, and leave the argument out."
            )
        return data
    options: dict[str, Any] = {"binarization": binarization, "seed": seed, "name": name, "missing": missing}
    if data is None and missing:
        data = DataLoader(cast(Any, [()]), batch_size=None, collate_fn=tuple)
    if hasattr(data, "with_format") and isinstance(data, dict):
        raise TypeError(
            f"data are a {type(data).__name__} of {', '.join(map(repr, data))}. Give one of them, or a tuple of those "
            "to train on and to validate by: (sets['train'], sets['test'])."
        )
    if hasattr(data, "with_format") and hasattr(data, "column_names"):  # of Hugging Face's
        check_size(data.num_rows * len(data.column_names) * 8, f"the {type(data).__name__}")
        data = data.with_format("numpy")[:]
    if isinstance(data, (DataLoader, TensorDataset, dict)):
        return as_set(data, **options)
    if isinstance(data, np.memmap) and not_held(data.nbytes):
        raise ValueError(
            f"{name} is a mapped array of {data.nbytes / 2**30:.1f} GiB, which a Split would read into memory. Give "
            f"load({str(data.filename)!r}, in_memory=False), which reads each batch as it is needed."
        )
    if _are_numbers(data) or hasattr(data, "__array__") or hasattr(data, "toarray"):
        return Split(tensor(data, name), **options)
    if isinstance(data, (Dataset, list)) and not isinstance(data, IterableDataset) and isinstance(data, Sized):
        first = data[0] if len(data) else None
        return labeled(_read(data), names=list(first) if isinstance(first, dict) else None, **options)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, os.PathLike, Dataset, Iterator)):
        if isinstance(data, Collection) and not len(data):
            raise ValueError(f"the {type(data).__name__} has no batches; at least one is needed.")
        return Stream(DataLoader(_Batches(data), batch_size=None, collate_fn=_as_it_is), **options)
    hint = ""
    if isinstance(data, Iterator):
        hint = (
            " It gives its batches once, and an epoch is one pass: give a DataLoader(list(batches), batch_size=None),"
            " or an object of a class whose __iter__ begins anew."
        )
    if isinstance(data, (str, os.PathLike)):
        hint = f" Load it first: load({os.fspath(data)!r})."
    elif isinstance(data, Dataset):
        hint = " A Dataset without a length can be streamed: pass a DataLoader of it."
    raise TypeError(
        f"data is a {type(data).__name__}; expected was a Data, Split or Stream, a tensor, an array, a list of data, a"
        f" torch Dataset or DataLoader, or a tuple (train, valid) of those.{hint}"
    )


class _Batches(IterableDataset[Any]):
    """What is gone through again in each epoch, as the data set of a ``DataLoader`` of whole batches."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(cast(Sized, self.batches))


def _as_it_is(batch: Any) -> Any:
    return batch


def _are_numbers(data: Any) -> bool:
    """Whether these are lists of numbers, of any depth, by the first of them."""
    first = data
    for _ in range(64):  # numpy's dimensions, where a list may hold itself
        if isinstance(first, list) and first:
            first = first[0]
    return isinstance(data, list) and isinstance(first, (int, float, np.number))


def _read(dataset: Any) -> list[Tensor]:
    """All items of a map-style dataset, or of a list, as tensors."""
    n, kind = len(dataset), "list of data" if isinstance(dataset, list) else f"dataset {type(dataset).__name__}"
    if n == 0:
        raise ValueError(f"the {kind} is empty; at least one datum is needed.")
    tensors: list[Tensor] = []
    for i in range(n):
        item = dataset[i]
        if isinstance(item, dict):
            if i and list(item) != list(dataset[0]):
                raise ValueError(f"item {i} of the dataset has the keys {list(item)}, item 0 {list(dataset[0])}.")
            item = tuple(item.values())
        row = [_item(p, i) for p in (item if isinstance(item, (tuple, list)) else (item,))]
        if i == 0:
            check_size(n * sum(t.nbytes for t in row), f"the {kind} ({n:,} items)")
            tensors = [t.new_empty((n, *t.shape)) for t in row]
        if [(t.shape, t.dtype) for t in row] != [(t.shape[1:], t.dtype) for t in tensors]:
            raise ValueError(
                f"item {i} of the dataset has shapes {[list(t.shape) for t in row]} ({dtypes(row)}),"
                f" item 0 has {[list(t.shape[1:]) for t in tensors]} ({dtypes(tensors)}); all items must"
                " have the same. Resize and convert them in its transform, or give a DataLoader whose collate_fn pads"
                " them: (x, lengths). If they are batches, give a DataLoader(batches, batch_size=None)."
            )
        for t, value in zip(tensors, row, strict=True):
            t[i] = value
    return tensors


def _item(value: Any, i: int) -> Tensor:
    if isinstance(value, (Tensor, np.ndarray, list)):
        return tensor(value, f"item {i} of the dataset")
    if isinstance(value, (int, float, np.number, np.bool_)):
        return torch.from_numpy(np.asarray(value))  # a real number in float64, as a DataLoader collates it
    from PIL.Image import Image  # which torchvision brings along

    if isinstance(value, Image):
        return torch.from_numpy(channels_first(value))
    raise TypeError(
        f"item {i} of the dataset holds a {type(value).__name__}; a tensor, an array, a PIL image or a number was"
        " expected. Convert it in the dataset's transform, or give a DataLoader, whose batches may hold such."
    )
