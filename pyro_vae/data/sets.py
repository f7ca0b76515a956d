"""Sets of data that hand out batches: Split and Stream."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from pyro_vae._checks import checked, one_of, shown, whole
from pyro_vae._tensors import check_dense, device_
from pyro_vae.batches import is_packed, joined, kind_of, leaves, mapped, moved, num_rows, rows, with_first
from pyro_vae.data import draws
from pyro_vae.data.arrays import check_pixels, dtypes, is_classes, is_integer, numbers, tensor
from pyro_vae.data.draws import Binarization, bernoulli, bits, gray


class Split:
    """One set of data in memory: N data, spread over tensors whose first dimension is the datum; the first is x.

    Args:
        tensors: ``x: [N, *event]`` and any further tensors ``[N, ...]``; together they are the arguments of model and
            guide. Tensors, arrays or lists of numbers, of any shape; images are [N, C, H, W]. uint8 x are pixels and
            become float32 x / 255 in a batch. Other integers are numbers and stay what they are, as do float32 and
            float64; bool becomes float32 0/1, and half precision float32. The further tensors keep their dtype.
        labels: [N, ...], for scatter plots and nearest neighbors; passed to programs by :meth:`Data.with_labels`.
        missing: whether x may hold NaN, for values that are missing, where programs mask these themselves.
        names: of the tensors, where batches are to be dictionaries: arguments that are passed by name.
        binarization: ``"none"``, ``"dynamic"`` or ``"static"``, see :mod:`pyro_vae.data`. ``"static"`` draws here and
            now, from ``seed`` alone; x is then uint8, 0 or 255.
        seed: of the Bernoulli draws.
        name: for messages and titles.

    Raises:
        ValueError: if x is empty or not finite (names the first bad datum), lengths differ, uint8 are only 0 and 1
            (which would be read as black), or other numbers leave [0, 1] with a binarization.
        TypeError: if something is neither a tensor nor an array of numbers.

    >>> split = Split(torch.rand(100, 1, 8, 8), binarization="dynamic")
    >>> (x,) = split.batch([3, 1, 4])
    >>> x.shape, sorted(set(x.flatten().tolist()))
    (torch.Size([3, 1, 8, 8]), [0.0, 1.0])
    """

    tensors: tuple[Tensor, ...]
    labels: Tensor | None
    in_memory = True

    @checked(but=("tensors", "seed"))
    def __init__(
        self,
        *tensors: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | None = None,
        names: Sequence[str] | None = None,
        missing: bool = False,
        binarization: Binarization = "none",
        seed: int = 0,
        name: str = "data",
    ) -> None:
        if names is not None and len(names) != len(tensors):
            raise ValueError(f"{len(names)} names were given for {len(tensors)} tensors; give one for each.")
        if not tensors:
            raise ValueError("Split() was given no tensors; the first one is x: [N, *event].")
        whole(0, seed=seed)
        self.binarization: Binarization = binarization
        self.seed, self.name = seed, name
        self.names = None if names is None else tuple(names)
        what = f"x of {name!r}"
        x = numbers(tensor(tensors[0], what), binarization, what, missing).contiguous()
        check_pixels(x, what)
        others = {f"tensor {i}": tensor(t, f"tensor {i} of {name!r}") for i, t in enumerate(tensors[1:], 1)}
        self.labels = None if labels is None else tensor(labels, f"labels of {name!r}")
        for what, t in {**others, **({} if self.labels is None else {"labels": self.labels})}.items():
            if t.dim() == 0 or len(t) != len(x):
                raise ValueError(
                    f"{what} of {name!r} has shape {list(t.shape)}, but x has {len(x)} data: the first dimensions must"
                    " be equal."
                )
        if binarization == "static":
            source = bits(draws.STATIC, self.seed)
            x = torch.cat([bernoulli(part, source).mul_(255).to(torch.uint8) for part in x.split(4096)])
        self.tensors = (x, *others.values())

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, e.g. (1, 28, 28)."""
        return self.tensors[0].shape[1:]

    @property
    def num_data(self) -> int:
        """Number of data, N."""
        return len(self)

    @property
    def classes(self) -> Tensor | None:
        """The labels, if they are classes, a whole number for each datum; else ``None``."""
        labels = self.labels
        return labels if labels is not None and is_classes(labels) else None

    def mean(self) -> Tensor:
        """The mean of x, ``[*event]``, float32, before any dynamic binarization; pixels in [0, 1].

        It is that of the entries that are not NaN; 0 where there are none.
        """
        x = self.tensors[0]
        total = torch.stack([part.double().nan_to_num().sum(0) for part in x.split(4096)]).sum(0)
        count = torch.stack([(~part.isnan()).sum(0) for part in x.split(4096)]).sum(0).clamp(min=1)
        return (total / (count * (255 if x.dtype == torch.uint8 else 1))).float()

    def gray(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """x of some data before dynamic binarization, ``[B, *event]``, float32; of uint8 a 255th."""
        chosen = rows if isinstance(rows, slice) else self._chosen(rows, "rows")
        return gray(self.tensors[0][chosen]).float()

    def num_batches(self, batch_size: int) -> int:
        """ceil(N / batch_size)."""
        whole(batch_size=batch_size)
        return -(-len(self) // batch_size)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __repr__(self) -> str:
        shapes = ", ".join(f"{list(t.shape)} {dtypes([t])}" for t in self.tensors)
        return f"Split({self.name}: {shapes}, binarization={self.binarization!r})"

    def _read(self, index: Tensor) -> Tensor:
        return self.tensors[0].index_select(0, index)

    def _gather(self, index: Tensor, key: Sequence[int]) -> tuple[Any, ...]:
        x = self._read(index)
        x = bernoulli(x, bits(draws.DYNAMIC, self.seed, *key)) if self.binarization == "dynamic" else gray(x)
        parts = (x, *(t.index_select(0, index) for t in self.tensors[1:]))
        return parts if self.names is None else (dict(zip(self.names, parts, strict=True)),)

    def _chosen(self, index: Any, what: str = "index of a batch") -> Tensor:
        """Whole numbers ``[B]``, each of a datum."""
        n = len(self)
        try:
            chosen = torch.arange(n)[index] if isinstance(index, slice) else torch.as_tensor(index)
            check_dense(chosen, what)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{what} is a slice or a vector of whole numbers; got {shown(index)}.") from error
        if chosen.numel() == 0:
            chosen = chosen.to(torch.int64)
        if not is_integer(chosen) or chosen.dim() != 1:
            raise TypeError(
                f"{what} has dtype {chosen.dtype} and shape {list(chosen.shape)}; a vector of whole numbers"
                " was expected (from a mask: mask.nonzero()[:, 0])."
            )
        chosen = chosen.to(torch.int64)
        outside = chosen[(chosen < 0) | (chosen >= n)]
        if len(outside):
            raise IndexError(f"index {int(outside[0])} is outside of {self.name!r}, which has {n} data (0 to {n - 1}).")
        return chosen

    def batch(self, index: Tensor | np.ndarray | Sequence[int] | slice, *, draw: int = 0) -> tuple[Any, ...]:
        """The data at ``index`` (0..N-1, or a slice): x ``[B, *event]``, and the further tensors as they are.

        uint8 x is divided by 255, in float32; other numbers are as they were given. Under ``"dynamic"`` a pixel g
        becomes 1 with probability g, by a draw that the split's seed, ``draw`` and the place in the batch determine;
        for uint8 the probability is exact to 2**-16, and 0 and 255 are certain. The tensors are copies: writing into
        them leaves the split as it is.

        Raises:
            IndexError: if an index is outside 0..N-1.
        """
        chosen = self._chosen(index)
        whole(0, draw=draw)
        return self._gather(chosen.to(self.tensors[0].device), (draw,))

    def batches(
        self, batch_size: int, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """One pass over the data in batches ``[B, *event]``; the last may be smaller.

        The order is a permutation fixed by (seed, epoch), or the data's own order without ``shuffle``. The batch at
        place k is the same whatever ``start`` is, so a pass that stopped before batch k goes on with ``start=k`` (the
        skipped ones are not touched). Dynamic draws depend on (the split's seed, seed, epoch, k) alone: another epoch
        draws anew; for evaluation leave ``epoch=0`` and every pass sees the same draw.

        Raises:
            ValueError: if batch_size < 1, or epoch, seed or start is negative.
        """
        whole(batch_size=batch_size)
        whole(0, epoch=epoch, seed=seed, start=start)
        one_of((True, False), shuffle=shuffle)

        def iterate() -> Iterator[tuple[Any, ...]]:
            n = len(self)
            order = draws.permutation(n, draws.ORDER, seed, epoch) if shuffle else torch.arange(n)
            order = order.to(self.tensors[0].device)
            for k in range(start, self.num_batches(batch_size)):
                yield self._gather(order[k * batch_size : (k + 1) * batch_size], (seed, epoch, k))

        return iterate()

    def _with(self, change: Callable[[Tensor], Tensor]) -> Split:
        other = copy.copy(self)  # not the constructor: what is binarized once stays as it was drawn
        other.tensors = tuple(change(t) for t in self.tensors)
        other.labels = None if self.labels is None else change(self.labels)
        return other

    def take(self, n: int) -> Split:
        """The first n data (all of them where there are fewer), sharing memory with this split."""
        whole(n=n)
        return self._with(lambda t: t[:n])

    @checked(but=("rows",))
    def at(self, rows: Tensor, name: str) -> Split:
        """The data at ``rows: [B]``, whole numbers from 0, as a split of its own."""
        chosen = self._chosen(rows, "rows")
        other = self._with(lambda t: t[chosen.to(t.device)])
        other.name = name
        return other

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on ``device``."""
        device_(device=device)
        return self._with(lambda t: t.to(device))


@runtime_checkable
class _KnowsEpochs(Protocol):
    """What is shuffled anew in each epoch where it is told so, as torch's distributed samplers."""

    def set_epoch(self, epoch: int) -> None:
        """The number of the epoch that begins."""


class Stream:
    """Data larger than memory: a ``DataLoader`` with the same ``batches`` as a :class:`Split`.

    The loader gives ``x: [B, *event]``, or a tuple or list (x, ...), which are the arguments of model and guide, or a
    dictionary of arguments by name; a list of sequences of several lengths is one argument. x, the first tensor, is
    treated as in :class:`Split`: uint8 becomes float32 x / 255, other numbers stay what they are, and ``"dynamic"``
    binarizes. All else is handed on as the loader gives it: labels, ``None``, lists, numbers, packed sequences
    (:mod:`pyro_vae.batches`); arrays become tensors.

    Batch size and shuffling are the loader's own. What it draws from the generators of torch, numpy and Python, for the
    order or for transforms, is fixed by (seed, epoch), whatever is drawn elsewhere, and leaves them as they were; a
    sampler or data set that has ``set_epoch`` is told the epoch. Generators of the loader's own go on as they do.
    ``start`` skips by drawing and dropping.

    Args:
        loader: of data that are read as they are needed.
        missing: as of :class:`Split`; and whether batches may hold nothing that has rows, but a number, say, or no
            argument at all.
        binarization: ``"none"`` or ``"dynamic"``; ``"static"`` needs a Split.
        seed: of the Bernoulli draws.
        name: for messages and titles.

    Raises:
        TypeError: if it is no DataLoader; while iterating: if a batch holds no data.
        ValueError: for ``"static"``; while iterating: what :class:`Split` refuses.
    """

    labels: None = None
    in_memory = False

    @checked(but=("loader", "seed"))
    def __init__(
        self,
        loader: DataLoader,
        *,
        missing: bool = False,
        binarization: Binarization = "none",
        seed: int = 0,
        name: str = "stream",
    ) -> None:
        if not isinstance(loader, DataLoader):
            raise TypeError(f"Stream() was given a {type(loader).__name__}; a torch DataLoader was expected.")
        if binarization == "static":
            raise ValueError(
                'binarization "static" needs all data in memory, and a DataLoader streams them: use "dynamic",'
                " binarize in the Dataset, or make a Split."
            )
        self.loader, self.missing = loader, missing
        whole(0, seed=seed)
        self.binarization: Binarization = binarization
        self.seed, self.name = seed, name
        self.device: torch.device | None = None
        self._event_shape: torch.Size | None = None

    def __repr__(self) -> str:
        return f"Stream({self.name}: {self.num_batches() or 'unknown'} batches, binarization={self.binarization!r})"

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x. The first time, one batch is drawn from the loader to see it."""
        if self._event_shape is None and next(self._raw(0, 0), None) is None:
            raise ValueError(f"the loader of {self.name!r} gives no batch; at least one is needed.")
        assert self._event_shape is not None
        return self._event_shape

    @property
    def num_data(self) -> int | None:
        """Number of data that the loader draws from, N; ``None`` where it does not tell it.

        A sampler of a subset has the size of that, of indices that repeat the number of different ones; torch's random
        samplers draw, in the end, from the whole data set; of an order that is fixed ``drop_last`` leaves out the last
        data for good. Not known is N of a weighted sampler, under which data count differently, of one that draws more
        data than there are, of a batch sampler of one's own, of a loader whose items are batches already
        (``batch_size=None``), and of a stream without a length.
        """
        loader, batches = self.loader, self.loader.batch_sampler
        sampler = batches.sampler if type(batches) is BatchSampler else None
        if isinstance(loader.dataset, IterableDataset):
            counted: Any = loader.dataset if loader.batch_size else None
        elif isinstance(sampler, RandomSampler):
            counted = sampler.data_source
        elif isinstance(sampler, DistributedSampler) and sampler.shuffle:
            counted = sampler.dataset
        else:
            counted = None if isinstance(sampler, WeightedRandomSampler) else sampler
        if not isinstance(counted, Sized):
            return None
        indices: Any = getattr(counted, "indices", counted)
        try:
            repeats = counted is sampler and isinstance(indices, (list, tuple, range))
            size = len(set(indices)) if repeats else len(counted)
        except TypeError:  # of a ChainDataset of streams
            return None
        if counted is sampler and isinstance(loader.dataset, Sized) and size > len(loader.dataset):
            return None
        if isinstance(sampler, SequentialSampler) and loader.drop_last and loader.batch_size:
            size -= size % loader.batch_size
        return size

    def num_batches(self, batch_size: int | None = None) -> int | None:
        """Batches in one pass, or None where the loader does not know. ``batch_size`` is not used."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def _is_of_sequences(self, item: Any) -> bool:
        """Whether a list holds one tensor for each datum, of several lengths, and is one argument."""
        tensors = isinstance(item, list) and all(isinstance(part, Tensor) and part.dim() for part in item)
        return tensors and (self.loader.collate_fn is list or len({len(part) for part in item}) > 1)

    def _raw(self, seed: int, epoch: int) -> Iterator[tuple[Any, ...]]:
        for part in (self.loader.sampler, self.loader.batch_sampler, self.loader.dataset):
            if isinstance(part, _KnowsEpochs):
                part.set_epoch(epoch)
        apart = draws.Apart(draws.LOADER, seed, epoch)  # so that a pass draws the same, wherever training begins in it
        with apart:
            iterator = iter(self.loader)
            item = next(iterator, None)
        while item is not None:
            alone = is_packed(item) or not isinstance(item, (tuple, list)) or self._is_of_sequences(item)
            parts = (item,) if alone else tuple(item)
            parts = mapped(lambda leaf: tensor(leaf, "an array") if isinstance(leaf, np.ndarray) else leaf, parts)
            if not num_rows(parts) and not self.missing:
                kinds = ", ".join(type(part).__name__ for part in parts) or "nothing"
                raise TypeError(
                    f"the loader of {self.name!r} gives {kinds}, in which there are no data; a tensor x, a tuple"
                    " (x, ...) or a dictionary of tensors was expected. Convert in the Dataset or in the"
                    " loader's collate_fn."
                )
            x = next(leaves(parts), None)
            self._event_shape = x.shape[1:] if isinstance(x, Tensor) else torch.Size(())
            yield parts
            with apart:
                item = next(iterator, None)

    def batches(
        self, batch_size: int | None = None, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """One pass over the loader; ``batch_size`` and ``shuffle`` are the loader's own, whatever is given here.

        Dynamic draws depend on (the stream's seed, seed, epoch, k) alone for the batch at place k.
        """
        whole(0, epoch=epoch, seed=seed, start=start)

        def iterate() -> Iterator[tuple[Any, ...]]:
            for k, parts in enumerate(self._raw(seed, epoch)):
                if k < start:
                    continue
                what = f"x of batch {k} of {self.name!r}"
                x = next(leaves(parts), None)
                if isinstance(x, Tensor) and (x.dim() or not self.missing):
                    parts = with_first(lambda x: numbers(x, self.binarization, what, self.missing), parts)  # noqa: B023
                if k == 0:  # a later batch may just be dark
                    with_first(lambda x: check_pixels(x, what), parts)  # noqa: B023
                parts = parts if self.device is None else moved(parts, self.device)
                if self.binarization == "dynamic":
                    source = bits(draws.DYNAMIC, self.seed, seed, epoch, k)
                    parts = with_first(lambda x: bernoulli(x, source), parts)  # noqa: B023
                yield with_first(gray, parts)

        return iterate()

    def take(self, n: int) -> Split:
        """The first n data of a pass, in memory; an integer vector that comes with x is also the split's labels."""
        whole(n=n)
        found, count = [], 0
        for parts in self._raw(0, 0):
            found.append(parts)
            count += num_rows(parts)
            if count >= n:
                break
        if not found:
            raise ValueError(f"the loader of {self.name!r} gives no batch; at least one is needed.")
        if len({kind_of(parts) for parts in found}) > 1:
            raise ValueError(f"the loader of {self.name!r} gives batches of several kinds, which are not one set.")
        parts = rows(joined(found), slice(n))
        options: dict[str, Any] = {"binarization": self.binarization, "seed": self.seed, "name": self.name}
        if len(parts) == 1 and isinstance(parts[0], dict):
            options["names"], parts = tuple(parts[0]), tuple(parts[0].values())
        if not all(isinstance(part, Tensor) for part in parts):
            kinds = [type(part).__name__ for part in parts]
            raise ValueError(
                f"the loader of {self.name!r} gives {kinds}, of which no set in memory is made: tensors alone were "
                "expected. Give the batches themselves."
            )
        split = labeled(parts, **options)
        return split if self.device is None else split.to(self.device)

    def to(self, device: torch.device | str) -> Stream:
        """The same stream, whose batches arrive on ``device``."""
        device_(device=device)
        other = copy.copy(self)
        other.device = torch.device(device)
        return other


def labeled(tensors: Sequence[Tensor | np.ndarray], **options: Any) -> Split:
    """A split of arguments; of (x, y) with a whole number y for each datum, y are its labels as well."""
    classes = len(tensors) == 2 and is_classes(y := tensor(tensors[1], "tensor 1"))
    return Split(*tensors, labels=y if classes else None, **options)
