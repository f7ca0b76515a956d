"""Name -> tensors, splits, binarisation.

``load("mnist", binarization="dynamic")`` gives a :class:`Data`: its ``train``, ``valid`` and ``test`` are each a
:class:`Split` (tensors in memory) or a :class:`Stream` (a ``DataLoader``), and both hand out batches by the same
method::

    for (x,) in data.train.batches(128, shuffle=True, epoch=3):  # x: [B, C, H, W], float32
        ...

Three ways to see a grey image g in [0, 1] (``binarization``):

- ``"none"``: x = g.
- ``"static"``: x ~ Bernoulli(g) once, when the split is made (as in Larochelle & Murray 2011, "The Neural
  Autoregressive Distribution Estimator"). The draw is ours, fixed by the seed; it is not the file that Larochelle
  published.
- ``"dynamic"``: x ~ Bernoulli(g) anew for each batch (as in Burda et al. 2015, "Importance Weighted Autoencoders").

A published log p(x) of MNIST depends on which of them was used: static and dynamic numbers must not stand in one column
of a table.

All draws come from generators of their own, keyed by the seeds that the caller gives: the same keys give the same draws
on every device, and the global random states of torch and numpy are neither read nor moved.
"""

from __future__ import annotations

import copy
import difflib
import functools
import gzip
import hashlib
import math
import numbers
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

__all__ = ["Binarization", "Data", "FreyFace", "Split", "Stream", "as_data", "load"]  # noqa: F822 (FreyFace: see the end)

Binarization = Literal["none", "dynamic", "static"]

NAMES = ("digits", "mnist", "fashion-mnist", "kmnist", "frey")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
IN_MEMORY_LIMIT = 8 * 2**30  # bytes of one set that may be gathered into a Split; beyond it a DataLoader is asked for

_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
_PARTS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}

# The first word of a key says what is drawn, so that no two purposes share a stream.
_STATIC, _DYNAMIC, _ORDER, _SPLIT, _LOADER = range(1, 6)


# Random draws ---------------------------------------------------------------------------------------------------------


def _bits(*key: int) -> np.random.SFC64:
    # Raw output of a numpy bit generator is fixed for good by its key; Generator's methods may change between releases.
    return np.random.SFC64(np.random.SeedSequence(key))


def _permutation(n: int, *key: int) -> Tensor:
    """A permutation of 0..n-1 that depends on n and the key alone."""
    return torch.from_numpy(np.argsort(_bits(*key).random_raw(n), kind="stable"))


def _send(drawn: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory the copy does not wait for the work that is queued before it
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


def _bernoulli(x: Tensor, bits: np.random.SFC64) -> Tensor:
    """x ~ Bernoulli(grey), float32 0/1, for x uint8 (grey = x / 255) or float in [0, 1]."""
    if x.dtype != torch.uint8:
        uniform = np.random.Generator(bits).random(tuple(x.shape), dtype=np.float32)  # in [0, 1): 0 never, 1 always
        return (_send(torch.from_numpy(uniform), x.device) < x).to(torch.float32)
    # 16 bits decide a pixel: u < 257 x with u uniform on the even numbers 0, 2, .., 65534, so P(1) is within 2**-16 of
    # x / 255, 0 for x = 0 and 1 for x = 255. This is the inner loop of every epoch: a tenth of torch.bernoulli's time.
    n = x.numel()
    raw = bits.random_raw((n + 3) // 4)
    raw &= np.uint64(0xFFFEFFFEFFFEFFFE)
    u = raw.view(np.uint16)[:n].reshape(x.shape)
    if x.device.type != "cpu":
        on_device = _send(torch.from_numpy(u.view(np.int16)), x.device).to(torch.int32).bitwise_and_(0xFFFF)
        return (on_device < x.to(torch.int32).mul_(257)).to(torch.float32)
    threshold = x.numpy().astype(np.uint16)
    threshold *= np.uint16(257)
    return torch.from_numpy((u < threshold).view(np.uint8).astype(np.float32))


def _grey(x: Tensor) -> Tensor:
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


# Checks ---------------------------------------------------------------------------------------------------------------


def _whole(value: Any, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what} is {value!r}; it must be a whole number of at least {least}.")
    if value < least:
        raise ValueError(f"{what} is {value}; it must be a whole number of at least {least}.")
    return int(value)


def _check_binarization(binarization: str) -> None:
    if binarization not in get_args(Binarization):
        raise ValueError(f'binarization is {binarization!r}; it must be one of "none", "dynamic", "static".')


def _check_size(n_bytes: int, what: str) -> None:
    if n_bytes > IN_MEMORY_LIMIT:
        raise ValueError(
            f"{what} would take {n_bytes / 2**30:.1f} GiB in memory, more than the {IN_MEMORY_LIMIT / 2**30:.0f} GiB"
            " that a Split gathers; pass a torch DataLoader instead (it becomes a Stream), or for images a smaller"
            " image_size."
        )


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{what} is a {type(value).__name__}; a torch tensor or numpy array was expected.")
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{what} is an array of dtype {value.dtype}; numbers were expected (bool, integer or float).")
    if value.dtype.kind == "f" and value.dtype.itemsize > 8:
        value = value.astype(np.float64)
    # torch takes neither foreign byte order, nor negative strides, nor (without a warning) read-only memory
    value = np.require(value, value.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(value)


def _pixels(x: Tensor, binarization: str, what: str) -> Tensor:
    """x as uint8 in 0..255 or finite float32; raises the sentences of :class:`Split`."""
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{what} is empty (shape {list(x.shape)}); at least one datum with one value is needed.")
    if x.dtype == torch.bool:
        return x.to(torch.float32)
    if x.is_complex():
        raise TypeError(f"{what} is complex ({x.dtype}); pass real numbers, e.g. the two parts as two channels.")
    if not x.is_floating_point():
        if x.dtype != torch.uint8:
            x = x.to(torch.int64)
        low, high = (int(v) for v in x.aminmax())
        if low < 0 or high > 255:
            raise ValueError(
                f"{what} holds integers from {low} to {high}; integer pixels must lie in 0..255. Scale them to 0..255,"
                " or convert to float (within [0, 1] if you binarise)."
            )
        return x.to(torch.uint8)
    x = x.to(torch.float32)
    finite = torch.isfinite(x)
    if not finite.all():
        rows = (~finite).flatten(1).any(1) if x.dim() > 1 else ~finite
        bad = int(rows.nonzero()[0])
        raise ValueError(
            f"{what} has values that are not finite (NaN, infinity, or too large for float32) in {int(rows.sum())} of"
            f" {len(x)} data, the first at index {bad}; drop or repair them."
        )
    if binarization != "none":
        low_f, high_f = (float(v) for v in x.aminmax())
        if low_f < 0 or high_f > 1:
            raise ValueError(
                f"{what} has float values from {low_f:.6g} to {high_f:.6g}, but binarization {binarization!r} reads"
                ' them as probabilities in [0, 1]. Scale them (x / 255), or pass uint8, or use binarization "none".'
            )
    return x


def _images(x: Tensor, what: str) -> Tensor:
    """[N, D] and [N, C, H, W] as they are, [N, H, W] as [N, 1, H, W]."""
    shape = list(x.shape)
    if x.dim() not in (2, 3, 4):
        raise ValueError(
            f"{what} has shape {shape}; [N, D], [N, H, W] or [N, C, H, W] was expected. Reshape it, or make a"
            " Split(x) yourself, which takes any shape."
        )
    if x.dim() == 4 and shape[1] > 4 and shape[3] in (1, 3):
        raise ValueError(
            f"{what} has shape {shape}, which looks like [N, H, W, C]; images are [N, C, H, W] here. Move the channels"
            " first (x.transpose(0, 3, 1, 2) in numpy, x.permute(0, 3, 1, 2) in torch), or make a Split(x) yourself,"
            " which takes any shape."
        )
    return x.unsqueeze(1) if x.dim() == 3 else x


# A set of data --------------------------------------------------------------------------------------------------------


class Split:
    """One set of data in memory: N data, spread over tensors whose first dimension is the datum; the first is x.

    :param tensors: x: [N, *event] and any further tensors [N, ...]; together they are the arguments of model and guide.
        Tensors or numpy arrays. x is kept as uint8 where it is uint8 (or another integer type within 0..255), bool
        becomes float 0/1, floats become float32. Images are [N, C, H, W]. The further tensors keep their dtype.
    :param labels: [N, ...], never passed to the model; for scatter plots and nearest neighbours.
    :param binarization: ``"none"``, ``"dynamic"`` or ``"static"``, see the head of this module. ``"static"`` draws here
        and now, from ``seed`` alone; x is then uint8, 0 or 255.
    :param seed: of the Bernoulli draws.
    :param name: for messages and titles.
    :raises ValueError: an empty x, lengths that differ, x not finite (names the first bad datum), integers outside
        0..255 or only 0 and 1 (which would be read as black), floats outside [0, 1] with a binarization.
    :raises TypeError: what is neither a tensor nor an array of numbers.

    >>> split = Split(torch.rand(100, 1, 8, 8), binarization="dynamic")
    >>> (x,) = split.batch([3, 1, 4])
    >>> x.shape, sorted(set(x.flatten().tolist()))
    (torch.Size([3, 1, 8, 8]), [0.0, 1.0])
    """

    tensors: tuple[Tensor, ...]
    labels: Tensor | None

    def __init__(
        self,
        *tensors: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | None = None,
        binarization: Binarization = "none",
        seed: int = 0,
        name: str = "data",
    ) -> None:
        _check_binarization(binarization)
        if not tensors:
            raise ValueError("Split() was given no tensors; the first one is x: [N, *event].")
        self.binarization: Binarization = binarization
        self.seed = _whole(seed, "seed", 0)
        self.name = name
        x = _pixels(_tensor(tensors[0], f"x of {name!r}"), binarization, f"x of {name!r}").contiguous()
        if x.dtype == torch.uint8 and int(x.max()) == 1:
            raise ValueError(
                f"x of {name!r} holds only the integers 0 and 1, which as pixels of 0..255 are two shades of black. For"
                " binary images pass booleans or floats, or multiply by 255."
            )
        others = [_tensor(t, f"tensor {i} of {name!r}") for i, t in enumerate(tensors[1:], 1)]
        self.labels = None if labels is None else _tensor(labels, f"labels of {name!r}")
        named = [(f"tensor {i}", t) for i, t in enumerate(others, 1)]
        named += [] if self.labels is None else [("labels", self.labels)]
        for what, t in named:
            if t.dim() == 0 or len(t) != len(x):
                raise ValueError(
                    f"{what} of {name!r} has shape {list(t.shape)}, but x has {len(x)} data: the first dimensions must"
                    " be equal."
                )
        if binarization == "static":
            bits = _bits(_STATIC, self.seed)
            x = torch.cat([_bernoulli(part, bits).mul_(255).to(torch.uint8) for part in x.split(4096)])
        self.tensors = (x, *others)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, e.g. (1, 28, 28)."""
        return self.tensors[0].shape[1:]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{list(t.shape)} {_dtypes([t])}" for t in self.tensors)
        return f"Split({self.name}: {shapes}, binarization={self.binarization!r})"

    def _gather(self, index: Tensor, key: Sequence[int]) -> tuple[Tensor, ...]:
        x = self.tensors[0].index_select(0, index)
        x = _bernoulli(x, _bits(_DYNAMIC, self.seed, *key)) if self.binarization == "dynamic" else _grey(x)
        return (x, *(t.index_select(0, index) for t in self.tensors[1:]))

    def batch(self, index: Tensor | np.ndarray | Sequence[int] | slice, *, draw: int = 0) -> tuple[Tensor, ...]:
        """The data at ``index`` (0..N-1, or a slice): x as float32 ``[B, *event]``, the further tensors as they are.

        uint8 x is divided by 255. Under ``"dynamic"`` a pixel g becomes 1 with probability g, by a draw that the
        split's seed, ``draw`` and the place in the batch determine; for uint8 the probability is exact to 2**-16, and 0
        and 255 are certain. The tensors are copies: writing into them leaves the split as it is.

        :raises IndexError: an index outside 0..N-1.
        """
        n, device = len(self), self.tensors[0].device
        if isinstance(index, slice):
            index = torch.arange(n)[index]
        else:
            index = torch.as_tensor(index)
            if index.numel() == 0:
                index = index.to(torch.int64)
            if index.dtype == torch.bool or index.is_floating_point() or index.dim() != 1:
                raise TypeError(
                    f"index of a batch has dtype {index.dtype} and shape {list(index.shape)}; a vector of whole"
                    " numbers was expected (from a mask: mask.nonzero()[:, 0])."
                )
            index = index.to(torch.int64)
            if index.numel() and (int(index.min()) < 0 or int(index.max()) >= n):
                bad = int(index[(index < 0) | (index >= n)][0])
                raise IndexError(f"index {bad} is outside of {self.name!r}, which has {n} data (0 to {n - 1}).")
        return self._gather(index.to(device), (_whole(draw, "draw", 0),))

    def batches(
        self, batch_size: int, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the data in batches ``[B, *event]``; the last may be smaller.

        The order is a permutation fixed by (seed, epoch), or the data's own order without ``shuffle``. The batch at
        place k is the same whatever ``start`` is, so a pass that stopped before batch k goes on with ``start=k`` (the
        skipped ones are not touched). Dynamic draws depend on (the split's seed, seed, epoch, k) alone: another epoch
        draws anew; for evaluation leave ``epoch=0`` and every pass sees the same draw.

        :raises ValueError: batch_size < 1, or a negative epoch, seed or start.
        """
        batch_size = _whole(batch_size, "batch_size", 1)
        epoch, seed, start = _whole(epoch, "epoch", 0), _whole(seed, "seed", 0), _whole(start, "start", 0)

        def iterate() -> Iterator[tuple[Tensor, ...]]:
            n = len(self)
            order = _permutation(n, _ORDER, seed, epoch) if shuffle else torch.arange(n)
            order = order.to(self.tensors[0].device)
            for k in range(start, self.num_batches(batch_size)):
                yield self._gather(order[k * batch_size : (k + 1) * batch_size], (seed, epoch, k))

        return iterate()

    @property
    def num_data(self) -> int:
        """Number of data, N."""
        return len(self)

    def num_batches(self, batch_size: int) -> int:
        """ceil(N / batch_size)."""
        return -(-len(self) // _whole(batch_size, "batch_size", 1))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Split:
        other = copy.copy(self)  # not the constructor: what is binarised once stays as it was drawn
        other.tensors = tuple(change(t) for t in self.tensors)
        other.labels = None if self.labels is None else change(self.labels)
        return other

    def take(self, n: int) -> Split:
        """The first n data (all of them where there are fewer), sharing memory with this split."""
        n = _whole(n, "n", 1)
        return self._with(lambda t: t[:n])

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on ``device``."""
        return self._with(lambda t: t.to(device))


class Stream:
    """Data larger than memory: a ``DataLoader`` with the same ``batches`` as a :class:`Split`.

    The loader gives a tensor x: [B, *event], or a tuple or list (x, ...) of tensors. Where that is a pair (x, y) and y
    is a vector of integers, y is a label and only x is passed on; ``keep_labels=True`` passes it on as well. uint8 x
    becomes float32 x / 255, floats become float32, and ``"dynamic"`` binarises as in :class:`Split`; ``"static"``
    needs a Split.

    Batch size and shuffling are the loader's own. The order of a shuffling loader is fixed by (seed, epoch) unless the
    loader has a ``generator`` of its own, which then has its way. ``start`` skips by drawing and dropping.

    :raises TypeError: not a DataLoader; while iterating: items that are no tensors (a dict, say).
    :raises ValueError: ``"static"``; while iterating: what :class:`Split` refuses.
    """

    labels: None = None

    def __init__(
        self,
        loader: DataLoader,
        *,
        binarization: Binarization = "none",
        seed: int = 0,
        name: str = "stream",
        keep_labels: bool = False,
    ) -> None:
        _check_binarization(binarization)
        if not isinstance(loader, DataLoader):
            raise TypeError(f"Stream() was given a {type(loader).__name__}; a torch DataLoader was expected.")
        if binarization == "static":
            raise ValueError(
                'binarization "static" needs all data in memory, and a DataLoader streams them: use "dynamic",'
                " binarise in the Dataset, or make a Split."
            )
        self.loader = loader
        self.binarization: Binarization = binarization
        self.seed = _whole(seed, "seed", 0)
        self.name = name
        self.keep_labels = keep_labels
        self.device: torch.device | None = None
        self._event_shape: torch.Size | None = None

    def __repr__(self) -> str:
        return f"Stream({self.name}: {self.num_batches() or 'unknown'} batches, binarization={self.binarization!r})"

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x. The first time, one batch is drawn from the loader to see it."""
        if self._event_shape is None:
            for _ in self._raw(0, 0):
                break
            if self._event_shape is None:
                raise ValueError(f"the loader of {self.name!r} gives no batch; at least one is needed.")
        return self._event_shape

    @property
    def num_data(self) -> int | None:
        """Number of data, N, where the loader's data set knows it."""
        try:
            return len(self.loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            return None

    def num_batches(self, batch_size: int | None = None) -> int | None:
        """Batches in one pass, or None where the loader does not know. ``batch_size`` is not used."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def _raw(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(epoch)
        with _own_torch_seed(_LOADER, seed, epoch):  # workers and sampler take their seeds from it in these two calls
            iterator = iter(self.loader)
            item = next(iterator, None)
        while item is not None:
            parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
            if not parts or not all(isinstance(p, Tensor) for p in parts):
                kinds = "a " + type(item).__name__ + (f" of {[type(p).__name__ for p in parts]}" if parts else "")
                raise TypeError(
                    f"the loader of {self.name!r} gives {kinds}; a tensor x or a tuple of tensors (x, ...) was"
                    " expected. Convert in the Dataset or in the loader's collate_fn."
                )
            if self._event_shape is None:
                self._event_shape = parts[0].shape[1:]
            yield parts
            item = next(iterator, None)

    def _is_labelled(self, parts: tuple[Tensor, ...]) -> bool:
        return len(parts) == 2 and parts[1].dim() == 1 and _is_integer(parts[1]) and not self.keep_labels

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the loader; ``batch_size`` and ``shuffle`` are the loader's own, whatever is given here.

        Dynamic draws depend on (the stream's seed, seed, epoch, k) alone for the batch at place k.
        """
        epoch, seed, start = _whole(epoch, "epoch", 0), _whole(seed, "seed", 0), _whole(start, "start", 0)

        def iterate() -> Iterator[tuple[Tensor, ...]]:
            for k, parts in enumerate(self._raw(seed, epoch)):
                if k < start:
                    continue
                x, *others = parts[:1] if self._is_labelled(parts) else parts
                x = _pixels(x, self.binarization, f"x of batch {k} of {self.name!r}")
                if self.device is not None:
                    x = x.to(self.device, non_blocking=True)
                    others = [t.to(self.device, non_blocking=True) for t in others]
                if self.binarization == "dynamic":
                    x = _bernoulli(x, _bits(_DYNAMIC, self.seed, seed, epoch, k))
                yield (_grey(x), *others)

        return iterate()

    def take(self, n: int) -> Split:
        """The first n data of a pass, in memory; labels that :meth:`batches` leaves out become the split's labels."""
        n = _whole(n, "n", 1)
        found, count = [], 0
        for parts in self._raw(0, 0):
            found.append(parts)
            count += len(parts[0])
            if count >= n:
                break
        if not found:
            raise ValueError(f"the loader of {self.name!r} gives no batch; at least one is needed.")
        tensors = [torch.cat(ts)[:n] for ts in zip(*found, strict=True)]
        labels = tensors.pop() if self._is_labelled(found[0]) else None
        split = Split(*tensors, labels=labels, binarization=self.binarization, seed=self.seed, name=self.name)
        return split if self.device is None else split.to(self.device)

    def to(self, device: torch.device | str) -> Stream:
        """The same stream, whose batches arrive on ``device``."""
        other = copy.copy(self)
        other.device = torch.device(device)
        return other


def _is_integer(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)


@contextmanager
def _own_torch_seed(*key: int) -> Iterator[None]:
    # A DataLoader takes its seeds from torch's global generator: give it ours, and leave the global one as it was.
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(_bits(*key).random_raw()) >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@dataclass(frozen=True)
class Data:
    """Named data: a set to train on, and perhaps one to choose by (valid) and one to report (test).

    :raises ValueError: splits whose event shapes differ.
    """

    name: str
    train: Split | Stream
    valid: Split | Stream | None = None
    test: Split | Stream | None = None

    def __post_init__(self) -> None:
        for part, split in (("valid", self.valid), ("test", self.test)):
            # a stream is not asked: it would have to draw a batch to know
            if isinstance(self.train, Split) and isinstance(split, Split) and split.event_shape != self.event_shape:
                raise ValueError(
                    f"{part} of {self.name!r} has data of shape {list(split.event_shape)} and train of"
                    f" {list(self.event_shape)}; they must be equal."
                )

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, e.g. (1, 28, 28)."""
        return self.train.event_shape

    def describe(self) -> str:
        """One line: counts, shape and binarization.

        >>> load("digits").describe()
        'digits: 1,297 train, 250 valid, 250 test images of 1 x 8 x 8, binarization none'
        """
        counts = []
        for part, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if isinstance(split, Split):
                counts.append(f"{len(split):,} {part}")
            elif split is not None:
                batches = split.num_batches()
                counts.append(f"{part} streamed" + ("" if batches is None else f" in {batches:,} batches"))
        shape = self.event_shape
        kind = "images" if len(shape) == 3 else "data"
        size = " x ".join(str(n) for n in shape) if shape else "1"
        return f"{self.name}: {', '.join(counts)} {kind} of {size}, binarization {self.train.binarization}"


# load -----------------------------------------------------------------------------------------------------------------


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
    download: bool = True,
) -> Data:
    """Data by name, or from a file or folder of your own.

    Names (images are uint8 [N, C, H, W]):

    - ``"digits"``: the 8 x 8 digits of scikit-learn, 0..16 scaled to 0..255; 1,297 / 250 / 250 by a seeded permutation.
    - ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"``: 28 x 28; the first 50,000 training images, the last 10,000 of them
      to validate, and the 10,000 test images. Read from ``root/<torchvision's class>/raw``, unpacked or as the
      published .gz files (``root`` may be read-only); else downloaded by torchvision.
    - ``"frey"``: the 1,965 Frey faces, 28 x 20, in the order of the film. ``split="published"`` (the default) trains on
      the first 1,500, validates on the rest and has no test set; ``split="shuffled"`` is 1,565 / 200 / 200 by a seeded
      permutation.

    A path (give a name's namesake as ``./mnist``):

    - ``.npy``: [N, D], [N, H, W] (becomes [N, 1, H, W]) or [N, C, H, W].
    - ``.npz``: arrays ``train``, ``valid``, ``test`` (or ``x_train``, ...) with labels ``y_train``, ...; or one array,
      or ``x`` with labels ``y``. Nothing is ever unpickled.
    - a folder of images, searched at any depth: png, jpg, jpeg, bmp, gif (its first frame), webp. With ``image_size``
      each is cropped at the centre to a square and resized; without it all must have one size. Subfolders ``train``,
      ``valid``, ``test`` are the splits; otherwise names of several subfolders are the labels, in sorted order.

    One set without splits is cut by a seeded permutation into 80 / 10 / 10 %, or as ``valid_size`` and ``test_size``
    say. A train set that comes with a valid or test set is cut only as far as a size asks for the missing one.

    :param root: where the named sets lie; default: the environment variable ``PYRO_VAE_DATA``, else
        ``~/.cache/pyro_vae``.
    :param seed: of the permutations and of static and dynamic draws.
    :param valid_size: a count (int) or a fraction below 1 (float); 0 for none. For your own data only.
    :param channels: 1 or 3, for a folder; default: 1 if all files are of grey images, else 3.
    :param download: fetch a named set that ``root`` does not hold.
    :raises ValueError: an unknown name (with the nearest), a damaged file, an option that the data do not have, sizes
        that leave nothing to train on, and what :class:`Split` refuses.
    :raises FileNotFoundError: no such path, or a named set that is neither there nor could be downloaded: the message
        says which files to put where.
    """
    _check_binarization(binarization)
    seed = _whole(seed, "seed", 0)
    is_path = isinstance(name_or_path, os.PathLike)
    text = os.fspath(name_or_path)
    name = text.lower().replace("_", "-")
    path = Path(text).expanduser()
    options = {
        "split": split,
        "valid_size": valid_size,
        "test_size": test_size,
        "image_size": image_size,
        "channels": channels,
    }

    if not is_path and name in NAMES:
        _refuse(options, {"split"} if name == "frey" else set(), f"the data set {name!r}")
        if name == "digits":
            parts = _digits(seed)
        elif name == "frey":
            parts = _frey(_root(root), split, seed, download)
        else:
            parts = _mnist(name, _root(root), download)
    else:
        if not path.exists():
            raise _unknown(text, is_path)
        name = path.resolve().stem if path.is_file() else path.resolve().name
        if path.is_dir():
            _refuse(options, {"valid_size", "test_size", "image_size", "channels"}, f"the folder {text!r}")
            parts = _folder(path, image_size, channels)
        elif path.suffix.lower() in (".npy", ".npz"):
            _refuse(options, {"valid_size", "test_size"}, f"the array file {text!r}")
            parts = _array_file(path)
        else:
            raise ValueError(
                f"{text!r} is a file of a kind that load() does not read; it reads .npy, .npz, and folders of images"
                f" ({' '.join(IMAGE_SUFFIXES)}). Save the data as an array with numpy.save."
            )
        parts = _cut(parts, valid_size, test_size, seed, text)
    return _data(name, parts, binarization, seed)


_Part = tuple[Any, Any]  # x and labels or None


def _data(name: str, parts: dict[str, _Part], binarization: Binarization, seed: int) -> Data:
    splits = {
        part: Split(x, labels=labels, binarization=binarization, seed=3 * seed + i, name=f"{name} {part}")
        for i, (part, (x, labels)) in enumerate(parts.items())
    }  # a seed for each: no two splits share their draws
    return Data(name, **splits)


def _refuse(options: dict[str, Any], known: set[str], what: str) -> None:
    for option, value in options.items():
        if value is not None and option not in known:
            has = f"it has {', '.join(sorted(known))}" if known else "its splits and sizes are fixed"
            raise ValueError(f"{option}={value!r} does not apply to {what}: {has}. Leave the option out.")


def _unknown(text: str, is_path: bool) -> Exception:
    if is_path or os.sep in text or text.startswith("~") or Path(text).suffix:
        return FileNotFoundError(f"There is no file or folder {text!r} (looked from {os.getcwd()}).")
    near = difflib.get_close_matches(text.lower().replace("_", "-"), NAMES, n=3, cutoff=0.5)
    nearest = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return ValueError(
        f"{text!r} is not the name of a data set, and no such file or folder exists.{nearest} The names are"
        f" {', '.join(NAMES)}; a path leads to a .npy or .npz file or a folder of images."
    )


def _root(root: str | os.PathLike[str] | None) -> Path:
    return Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()


def _count(size: int | float | None, n: int, default: float, what: str) -> int:
    if size is None:
        return round(default * n)
    if isinstance(size, bool) or not isinstance(size, numbers.Real):
        raise TypeError(f"{what} is {size!r}; it must be a count (int) or a fraction below 1 (float).")
    if size < 0 or not math.isfinite(size) or (size >= 1 and not isinstance(size, numbers.Integral)):
        raise ValueError(f"{what} is {size}; it must be a count of at least 0 (int) or a fraction in [0, 1) (float).")
    return int(size) if isinstance(size, numbers.Integral) else round(size * n)


def _cut(
    parts: dict[str, _Part], valid_size: int | float | None, test_size: int | float | None, seed: int, what: str
) -> dict[str, _Part]:
    """Complete parts by cutting what is missing off the train set."""
    alone = set(parts) == {"train"}
    for part, size in (("valid", valid_size), ("test", test_size)):
        if part in parts and size is not None:
            raise ValueError(f"{part}_size={size!r} was given, but {what!r} has a {part} set of its own. Leave it out.")
    x, labels = parts["train"]
    n = len(x)
    if n == 0:
        return parts  # which Split refuses
    sizes = {
        "valid": 0 if "valid" in parts else _count(valid_size, n, 0.1 * alone, "valid_size"),
        "test": 0 if "test" in parts else _count(test_size, n, 0.1 * alone, "test_size"),
    }
    n_train = n - sum(sizes.values())
    if n_train < 1:
        raise ValueError(
            f"{what!r} has {n:,} data, and {sizes['valid']:,} to validate and {sizes['test']:,} to test leave none to"
            " train on. Ask for smaller valid_size or test_size."
        )
    if n_train == n:
        return parts
    order = _permutation(n, _SPLIT, seed).numpy()
    ends = np.cumsum([n_train, sizes["valid"], sizes["test"]])
    cut = {
        part: (x[rows], None if labels is None else labels[rows])
        for part, rows in zip(_PARTS, np.split(order, ends[:-1]), strict=True)
        if len(rows)
    }
    whole = {**parts, **cut}
    return {part: whole[part] for part in _PARTS if part in whole}


# Named sets -----------------------------------------------------------------------------------------------------------


def _digits(seed: int) -> dict[str, _Part]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return _cut({"train": (x, digits.target)}, 250, 250, seed, "digits")


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _idx(path: Path, md5: str | None) -> np.ndarray:
    """An array in the IDX format of MNIST (unsigned bytes); with its MD5 sum where it is the published .gz file."""
    if md5 is not None and (found := _checksum(path, "md5")) != md5:
        raise ValueError(f"{path} is damaged: its MD5 sum is {found}, the published file's is {md5}. Replace it.")
    raw = path.read_bytes() if md5 is None else gzip.decompress(path.read_bytes())
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path} is damaged: it does not begin as an IDX file of unsigned bytes. Replace it.")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    have, need = len(raw) - 4 - 4 * raw[3], math.prod(shape)
    if have != need:
        raise ValueError(f"{path} is damaged: {list(shape)} takes {need:,} bytes, it has {have:,}. Replace it.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _mnist(name: str, root: Path, download: bool) -> dict[str, _Part]:
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
            cls(str(root), download=True)
        except (
            OSError,
            HTTPException,
            RuntimeError,
        ) as error:  # no network (URLError is an OSError), no permission, a bad file
            reason = error
        files = present()
    if files is None:
        why = f" The download failed: {reason}." if download else " Or pass download=True."
        raise FileNotFoundError(
            f"{name!r} is not in {folder}. Put {', '.join(names)} there (the published files, as they are), or name the"
            f" folder that holds {class_name}/raw by root= or the environment variable PYRO_VAE_DATA.{why}"
        ) from reason
    arrays = {path.name.removesuffix(".gz"): _idx(path, md5) for path, md5 in files}
    train, train_labels, test, test_labels = (arrays[n.removesuffix(".gz")] for n in names)
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


def _frey(root: Path, split: str | None, seed: int, download: bool) -> dict[str, _Part]:
    if split not in (None, "published", "shuffled"):
        raise ValueError(f'split is {split!r}; "frey" has "published" and "shuffled".')
    x = _frey_face()(root, download=download).data[:, None]
    if split == "shuffled":
        return _cut({"train": (x, None)}, 200, 200, seed, "frey")
    return {"train": (x[:1500], None), "valid": (x[1500:], None)}


@functools.cache
def _frey_face() -> Any:
    """The class FreyFace, made on first use: its base is torchvision's, which is slow to import."""
    from torchvision.datasets import VisionDataset

    class FreyFace(VisionDataset):
        """The 1,965 frames of Brendan Frey's face that S. Roweis published, in the manner of ``torchvision.datasets``.

        :param root: the file is ``root/FreyFace/frey_rawface.mat``; its SHA-256 sum is checked before it is read.
        :param transform: of the PIL image (grey, 20 wide and 28 high) that ``dataset[i]`` gives. There are no targets.
        :param download: fetch the file where it is missing.
        :raises FileNotFoundError: it is missing, or could not be downloaded.
        :raises ValueError: it is another file.

        ``data`` is the array of all, uint8 [1965, 28, 20].
        """

        url = "https://cs.nyu.edu/~roweis/data/frey_rawface.mat"
        filename = "frey_rawface.mat"
        sha256 = "ce2dcba3d6ffb0d19fc322b1d8501005c841da8764ff9d6589da7f8de0a0ea86"

        def __init__(
            self,
            root: str | os.PathLike[str],
            transform: Callable[[Any], Any] | None = None,
            download: bool = False,
        ) -> None:
            super().__init__(str(root), transform=transform)
            from scipy.io import loadmat

            path = Path(self.root) / "FreyFace" / self.filename
            if not path.is_file():
                reason = self._download(path) if download else None
                if not path.is_file():
                    why = f" The download failed: {reason}." if download else " Or pass download=True."
                    raise FileNotFoundError(
                        f"The Frey faces are not in {path.parent}. Put {self.filename} there ({self.url}), or name the"
                        f" folder that holds FreyFace/ by root= or the environment variable PYRO_VAE_DATA.{why}"
                    ) from reason
            self._check(path, path)
            # a column is an image, row by row
            self.data = np.ascontiguousarray(loadmat(str(path), variable_names=["ff"])["ff"].T).reshape(-1, 28, 20)

        def _check(self, path: Path, called: Path | str) -> None:
            if (found := _checksum(path, "sha256")) != self.sha256:
                raise ValueError(
                    f"{called} is not the published file of Frey faces: its SHA-256 sum is {found}, expected was"
                    f" {self.sha256}. Replace it."
                )

        def _download(self, path: Path) -> Exception | None:
            from urllib.request import urlopen

            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with urlopen(self.url, timeout=60) as response:
                    part.write_bytes(response.read(2**26))
                self._check(part, self.url)
                os.replace(part, path)  # whole or not at all
            except (OSError, HTTPException, ValueError) as error:
                if part.is_file():
                    part.unlink()
                return error
            return None

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            from PIL import Image

            image = Image.fromarray(self.data[index])
            return image if self.transform is None else self.transform(image)

    # so that pickle, and with it a DataLoader's workers, finds the class where the module shows it
    FreyFace.__qualname__, FreyFace.__module__ = "FreyFace", __name__
    return FreyFace


# A user's own ---------------------------------------------------------------------------------------------------------


def _array_file(path: Path) -> dict[str, _Part]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = {"x": found}
        else:
            with found:
                arrays = {key: found[key] for key in found.files}
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} could not be read as an array of numbers ({error}). Save it again with numpy.save or numpy.savez;"
            " arrays of Python objects are never unpickled."
        ) from error

    parts: dict[str, _Part] = {}
    used = set()
    for part, names in _PARTS.items():
        for key in names:
            xs = [k for k in (key, f"x_{key}") if k in arrays]
            if xs and part in parts:
                raise ValueError(f"{path} has two arrays for the {part} set, {xs[0]!r} being the second. Keep one.")
            if xs:
                ys = [k for k in (f"y_{key}",) if k in arrays]
                parts[part] = (arrays[xs[0]], arrays[ys[0]] if ys else None)
                used |= {xs[0], *ys}
    if not parts and (len(arrays) == 1 or set(arrays) == {"x", "y"}):
        key = "x" if "x" in arrays else next(iter(arrays))
        parts["train"] = (arrays[key], arrays.get("y") if key == "x" else None)
        used = set(arrays)
    if "train" not in parts or used != set(arrays):
        raise ValueError(
            f"{path} has the arrays {sorted(arrays)}; expected were train, valid, test (or x_train, x_valid, x_test)"
            " with labels y_train, y_valid, y_test, or x with labels y, or a single array."
        )
    for part, (x, y) in parts.items():
        what = f"{path} ({part})"
        if y is not None and y.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"{what} has x of shape {list(x.shape)} and labels y of {list(y.shape)}; the first dimensions must be"
                " equal."
            )
        parts[part] = (_images(_tensor(x, what), what), y)
    return parts


def _folder(folder: Path, image_size: int | None, channels: int | None) -> dict[str, _Part]:
    if image_size is not None:
        image_size = _whole(image_size, "image_size", 1)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels!r}; it must be 1 (grey) or 3 (colour).")

    below = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    roots = {"train": folder}
    if "train" in below:
        roots = {part: below[n] for part, names in _PARTS.items() for n in names if n in below}
    files = {part: _image_files(path) for part, path in roots.items()}
    for part, found in files.items():
        if not found:
            raise ValueError(f"{roots[part]} holds no images ({' '.join(IMAGE_SUFFIXES)}), at any depth.")

    if channels is None:
        channels = 1 if all(_is_grey(path) for found in files.values() for path in found) else 3
    # Names of subfolders are labels where every image lies in one and there are several; one numbering for all splits.
    first = {part: [p.relative_to(roots[part]).parts for p in found] for part, found in files.items()}
    classes = sorted({p[0] for parts in first.values() for p in parts if len(p) > 1})
    labelled = len(classes) > 1 and all(len(p) > 1 for parts in first.values() for p in parts)

    result: dict[str, _Part] = {}
    size: tuple[int, int] | None = None if image_size is None else (image_size, image_size)
    size_of: Path | None = None  # the image that the size was taken from
    for part, found in files.items():
        x: np.ndarray | None = None
        for i, path in enumerate(found):
            image = _read_image(path, channels, image_size)
            if size is None:
                size, size_of = image.shape[1:], path
            if x is None:
                _check_size(len(found) * channels * size[0] * size[1], f"{roots[part]} ({len(found):,} images)")
                x = np.empty((len(found), channels, *size), np.uint8)
            if image.shape[1:] != size:
                raise ValueError(
                    f"the images of {folder} differ in size: {size_of} is {size[0]} x {size[1]} (height x width),"
                    f" {path} is {image.shape[1]} x {image.shape[2]}. Give image_size= to crop and resize them to one."
                )
            x[i] = image
        labels = np.array([classes.index(p[0]) for p in first[part]]) if labelled else None
        result[part] = (x, labels)
    return result


def _image_files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in found if p.is_file()), key=lambda p: p.relative_to(folder).as_posix())


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} could not be read as an image ({error}). Repair or remove it.")


def _is_grey(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _read_image(path: Path, channels: int, image_size: int | None) -> np.ndarray:
    """uint8 [C, H, W]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits: PIL's own conversion to 8 clips instead of scaling
                image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
            image = image.convert("L" if channels == 1 else "RGB")
            if image_size is not None:
                side = min(image.size)
                left, top = ((length - side) // 2 for length in image.size)
                image = image.crop((left, top, left + side, top + side))
                image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


# What fit() accepts ---------------------------------------------------------------------------------------------------


def as_data(data: Any, *, binarization: Binarization = "none") -> Data:
    """Data in any of the forms that ``fit`` accepts, as :class:`Data`.

    - :class:`Data`, :class:`Split`, :class:`Stream`: as they are; their binarization is their own.
    - a tensor or numpy array: x, [N, D], [N, H, W] (becomes [N, 1, H, W]) or [N, C, H, W].
    - ``TensorDataset``: all its tensors, which are the arguments of model and guide.
    - another map-style ``Dataset``: read once into memory (a random transform is drawn once). Items are x (a tensor, an
      array or a PIL image), or (x, label) with one whole number as the label, which becomes ``labels``, or a tuple of
      tensors (x, ...), which are all arguments.
    - ``DataLoader``: a :class:`Stream`.
    - (train, valid) or (train, valid, test), a tuple of those; valid and test may be None.

    :raises TypeError: anything else.
    :raises ValueError: what :class:`Split` refuses, a Dataset too large for memory, or a binarization other than the
        one that a Data, Split or Stream was made with.
    """
    _check_binarization(binarization)
    if isinstance(data, Data):
        for split in (data.train, data.valid, data.test):
            if split is not None:
                _as_split(split, binarization, 0, "")
        return data
    if not isinstance(data, tuple):
        split = _as_split(data, binarization, 0, "data")
        return Data(split.name, split)
    if len(data) not in (2, 3) or data[0] is None:
        raise TypeError(f"a tuple of data is (train, valid) or (train, valid, test); this one has {len(data)} parts.")
    named = enumerate(zip(_PARTS, data, strict=False))  # a seed for each: no two splits share their draws
    splits = [None if d is None else _as_split(d, binarization, i, part) for i, (part, d) in named]
    return Data("data", *splits)  # type: ignore[arg-type]  # the first is not None, see above


def _as_split(data: Any, binarization: Binarization, seed: int, name: str) -> Split | Stream:
    if isinstance(data, (Split, Stream)):
        if binarization not in ("none", data.binarization):
            raise ValueError(
                f"binarization {binarization!r} was asked for, but {data.name!r} was made with {data.binarization!r}."
                " Make it with the one you want, and leave the argument out."
            )
        return data
    if isinstance(data, (Tensor, np.ndarray)):
        return Split(_images(_tensor(data, name), name), binarization=binarization, seed=seed, name=name)
    if isinstance(data, TensorDataset):
        return Split(*data.tensors, binarization=binarization, seed=seed, name=name)
    if isinstance(data, DataLoader):
        return Stream(data, binarization=binarization, seed=seed, name=name)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        tensors, labels = _read_dataset(data)
        return Split(*tensors, labels=labels, binarization=binarization, seed=seed, name=name)
    hint = ""
    if isinstance(data, (str, os.PathLike)):
        hint = f" Load it first: load({os.fspath(data)!r})."
    elif isinstance(data, Dataset):
        hint = " A Dataset without a length can be streamed: pass a DataLoader of it."
    elif isinstance(data, list):
        hint = " Stack the list into one tensor, or make it a tuple (train, valid)."
    raise TypeError(
        f"data is a {type(data).__name__}; expected was a Data, Split or Stream, a tensor or numpy array, a torch"
        f" Dataset or DataLoader, or a tuple (train, valid) of those.{hint}"
    )


def _read_dataset(dataset: Any) -> tuple[list[Tensor], Tensor | None]:
    n = len(dataset)
    if n == 0:
        raise ValueError(f"the dataset {type(dataset).__name__} is empty; at least one datum is needed.")
    tensors: list[Tensor] = []
    for i in range(n):
        item = dataset[i]
        row = [_tensor_of_item(p, i) for p in (item if isinstance(item, (tuple, list)) else (item,))]
        if i == 0:
            _check_size(n * sum(t.nbytes for t in row), f"the dataset {type(dataset).__name__} ({n:,} items)")
            tensors = [t.new_empty((n, *t.shape)) for t in row]
        if [(t.shape, t.dtype) for t in row] != [(t.shape[1:], t.dtype) for t in tensors]:
            raise ValueError(
                f"item {i} of the dataset has shapes {[list(t.shape) for t in row]} ({_dtypes(row)}),"
                f" item 0 has {[list(t.shape[1:]) for t in tensors]} ({_dtypes(tensors)}); all items must"
                " have the same. Resize and convert them in its transform."
            )
        for t, value in zip(tensors, row, strict=True):
            t[i] = value
    if len(tensors) == 2 and tensors[1].dim() == 1 and _is_integer(tensors[1]):
        return tensors[:1], tensors[1]
    return tensors, None


def _dtypes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)


def _tensor_of_item(value: Any, i: int) -> Tensor:
    if isinstance(value, (Tensor, np.ndarray)):
        return _tensor(value, f"item {i} of the dataset")
    if isinstance(value, (int, float, np.number, np.bool_)):
        return torch.tensor(value)
    if hasattr(value, "getbands"):  # a PIL image, without importing PIL
        array = np.asarray(value.convert("RGB") if value.mode == "P" else value)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return torch.from_numpy(np.array(array))
    raise TypeError(
        f"item {i} of the dataset holds a {type(value).__name__}; a tensor, an array, a PIL image or a number was"
        " expected. Convert it in the dataset's transform."
    )


def __getattr__(name: str) -> Any:
    if name == "FreyFace":
        return _frey_face()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
