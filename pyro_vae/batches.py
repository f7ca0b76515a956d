"""A batch of any structure: how many data it holds, some of them, another place, its tensors.

A batch is the arguments of model and guide: tensors, ``None``, numbers, strings, dictionaries, tuples and lists of
these, and ``PackedSequence``. Its data are counted by its first argument that has some: the length of a tensor or a
list, the number of packed sequences. What has as many rows (a tensor, a list, packed sequences) belongs to the data,
row by row; all else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class Keywords(dict[str, Any]):
    """The arguments of a batch that programs are given by name; the last of the batch."""


def by_name(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a program, with those of :class:`Keywords` by name.

    >>> from pyro_vae.batches import Keywords, by_name
    >>> by_name((1, Keywords(label=2)), {})
    ((1,), {'label': 2})
    """
    if args and isinstance(args[-1], Keywords):
        return args[:-1], {**args[-1], **kwargs}
    return args, kwargs


def is_packed(value: Any) -> bool:
    """Whether a value is a packed sequence.

    >>> import torch
    >>> from pyro_vae.batches import is_packed
    >>> is_packed(torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])), is_packed([torch.ones(3)])
    (True, False)
    """
    return isinstance(value, PackedSequence)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``change(leaf)`` in the place of what is neither dictionary, tuple nor list.

    >>> from pyro_vae.batches import mapped
    >>> mapped(lambda leaf: leaf + 1, (1, [2, {"label": 3}]))
    (2, [3, {'label': 4}])
    """
    if isinstance(value, PackedSequence):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, mapped(change, part)) for key, part in value.items())
    if isinstance(value, (tuple, list)):
        return like(value, [mapped(change, part) for part in value])
    return change(value)


def like(value: Any, parts: Sequence[Any]) -> Any:
    """Parts as a tuple, a list or a named tuple, as ``value`` is one.

    >>> from pyro_vae.batches import like
    >>> like((1, 2), [3, 4]), like([1, 2], (3, 4))
    ((3, 4), [3, 4])
    """
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def with_first(change: Callable[[Tensor], Any], batch: Any) -> Any:
    """The batch with ``change(x)`` in the place of x, its first tensor, where that comes first.

    >>> import torch
    >>> from pyro_vae.batches import with_first
    >>> with_first(lambda x: x + 1, (torch.zeros(2), torch.zeros(2)))
    (tensor([1., 1.]), tensor([0., 0.]))
    """
    first = next(leaves(batch), None)
    return mapped(lambda leaf: change(leaf) if leaf is first else leaf, batch) if isinstance(first, Tensor) else batch


def leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """What is neither dictionary, tuple nor list in a batch, in order.

    Raises:
        ValueError: if it nests deeper than any batch does, or holds itself.

    >>> from pyro_vae.batches import leaves
    >>> list(leaves((1, [2, {"label": 3}])))
    [1, 2, 3]
    """
    if depth > 50:
        raise ValueError("a batch nests deeper than 50 levels, or holds itself. Give tensors, or lists of them.")
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence):
        for part in value:
            yield from leaves(part, depth + 1)
    else:
        yield value


def kind_of(batch: Any) -> Any:
    """The kind of a batch: its structure, with the types of numbers. Batches of one kind are treated alike.

    >>> import torch
    >>> from pyro_vae.batches import kind_of
    >>> kind_of((torch.ones(3, 4),)) == kind_of((torch.ones(5, 4),)), kind_of((1,)) == kind_of((1.0,))
    (True, False)
    """
    if isinstance(batch, dict):
        return type(batch), *((key, kind_of(part)) for key, part in batch.items())
    if isinstance(batch, list):
        return list, frozenset(map(kind_of, batch))
    if isinstance(batch, tuple) and not is_packed(batch):
        return tuple, *map(kind_of, batch)
    return batch.dtype if isinstance(batch, Tensor) else type(batch)


def described(batch: Any) -> str:
    """The arguments of a batch in words.

    >>> import torch
    >>> from pyro_vae.batches import described
    >>> described((torch.ones(3, 4), {"label": torch.tensor([1])}))
    '([3, 4] float32, {label: [1] int64})'
    """
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{key}: {described(part)}" for key, part in batch.items()) + "}"
    if isinstance(batch, tuple) and not is_packed(batch):
        return f"({', '.join(map(described, batch))})"
    if isinstance(batch, Tensor):
        return f"{list(batch.shape)} {batch.dtype}".replace("torch.", "")
    return "None" if batch is None else f"a {type(batch).__name__}"


def num_rows(batch: Any) -> int:
    """How many data a batch holds; 0 where no argument tells it.

    >>> import torch
    >>> from pyro_vae.batches import num_rows
    >>> num_rows((torch.ones(3, 4), torch.ones(3))), num_rows((1.0,))
    (3, 0)
    """
    for part in batch.values() if isinstance(batch, dict) else batch:
        if isinstance(part, PackedSequence):
            return int(part.batch_sizes[0])
        if isinstance(part, (Tensor, np.ndarray)):
            if isinstance(part, Tensor) and part.is_nested:
                raise TypeError("an argument is a nested tensor: give a padded one, and the lengths beside it.")
            if part.ndim:
                return len(part)
        elif isinstance(part, (tuple, dict)):
            if found := num_rows(part):
                return found
        elif isinstance(part, list) and part:
            return len(part)
    return 0


def num_told(batch: Any) -> int:
    """How many data a loss is divided by to be told: where no argument tells their number, the batch is one.

    >>> import torch
    >>> from pyro_vae.batches import num_told
    >>> num_told((torch.ones(3, 4), torch.ones(3))), num_told((1.0,))
    (3, 1)
    """
    return num_rows(batch) or 1


def rows(batch: Any, index: Any) -> Any:
    """The data at ``index`` (a slice, or a vector of whole numbers) of a batch.

    >>> import torch
    >>> from pyro_vae.batches import rows
    >>> rows((torch.arange(4), [5, 6, 7, 8]), slice(1, 3))
    (tensor([1, 2]), [6, 7])
    """
    return _rows(batch, index, num_rows(batch))


def _rows(value: Any, index: Any, count: int) -> Any:
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        return pack_padded_sequence(padded[index], lengths[index], batch_first=True, enforce_sorted=False)
    if isinstance(value, (Tensor, np.ndarray)):
        return value[index] if value.shape[:1] == (count,) else value
    if isinstance(value, dict):
        return type(value)((key, _rows(part, index, count)) for key, part in value.items())
    if isinstance(value, list) and len(value) == count:
        return value[index] if isinstance(index, slice) else [value[int(i)] for i in index]
    if isinstance(value, (tuple, list)):
        return like(value, [_rows(part, index, count) for part in value])
    return value


def repeated(batch: Any, times: int) -> Any:
    """Each datum as often, one after the other.

    >>> import torch
    >>> from pyro_vae.batches import repeated
    >>> repeated((torch.arange(2),), 3)
    (tensor([0, 0, 0, 1, 1, 1]),)
    """
    return rows(batch, torch.arange(num_rows(batch)).repeat_interleave(times))


def moved(batch: Any, device: torch.device | str) -> Any:
    """The batch on a device.

    >>> import torch
    >>> from pyro_vae.batches import moved
    >>> moved((torch.ones(2), "a word"), "meta")[0].device
    device(type='meta')
    """
    to: Any = torch.device(device)
    return mapped(lambda leaf: leaf.to(to) if isinstance(leaf, (Tensor, PackedSequence)) else leaf, batch)


def joined(batches: Sequence[Any]) -> Any:
    """Batches of one structure, one after the other, as one.

    Raises:
        ValueError: if their data cannot be laid side by side, such as sequences of other lengths.

    >>> import torch
    >>> from pyro_vae.batches import joined
    >>> joined([(torch.arange(2),), (torch.arange(3),)])
    (tensor([0, 1, 0, 1, 2]),)
    """
    return _joined(batches, [num_rows(batch) for batch in batches])


def _joined(values: Sequence[Any], counts: Sequence[int]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return type(first)((key, _joined([value[key] for value in values], counts)) for key in first)
    if isinstance(first, PackedSequence):
        raise ValueError("packed sequences of several batches are not one batch. Give padded ones and their lengths.")
    if isinstance(first, Tensor):
        if not all(value.shape[:1] == (count,) for value, count in zip(values, counts, strict=True)):
            return first
        if any(value.shape[1:] != first.shape[1:] for value in values):
            shapes = sorted({tuple(value.shape[1:]) for value in values})
            raise ValueError(
                f"the batches have data of shapes {list(shapes[0])} and {list(shapes[1])}, which are not one batch. "
                "Pad them to one length, or take one batch at a time."
            )
        return torch.cat(list(values))
    if isinstance(first, list) and all(len(value) == count for value, count in zip(values, counts, strict=True)):
        return [part for value in values for part in value]
    if isinstance(first, (tuple, list)):
        return like(first, [_joined(parts, counts) for parts in zip(*values, strict=True)])
    return first


def flattened(batch: Any) -> tuple[list[Tensor], Any]:
    """The tensors of a batch, and its structure with all else: a value that can be compared and looked up.

    >>> import torch
    >>> from pyro_vae.batches import flattened, unflattened
    >>> tensors, structure = flattened({"x": torch.ones(2), "label": 3})
    >>> tensors, unflattened(structure, iter(tensors))
    ([tensor([1., 1.])], {'x': tensor([1., 1.]), 'label': 3})
    """
    if isinstance(batch, Tensor):
        return [batch], None
    if isinstance(batch, dict):
        parts, kind = list(batch.values()), (type(batch), *batch)
    elif isinstance(batch, (tuple, list)):
        parts, kind = list(batch), (type(batch),)
    else:
        return [], _Constant(batch)
    flat = [flattened(part) for part in parts]
    return [tensor for tensors, _ in flat for tensor in tensors], (kind, tuple(structure for _, structure in flat))


def packed_sizes(structure: Any) -> list[int]:
    """Which of the tensors of a batch tell how many packed sequences go on, which torch reads in C++."""
    places: list[int] = []
    count = 0

    def visit(structure: Any, name: str) -> None:
        nonlocal count
        if structure is None:
            places.extend([count] if name == "batch_sizes" else [])
            count += 1
        elif not isinstance(structure, _Constant):
            (kind, *_), parts = structure
            names = PackedSequence._fields if kind is PackedSequence else [""] * len(parts)
            for part, name in zip(parts, names, strict=True):
                visit(part, name)

    visit(structure, "")
    return places


def unflattened(structure: Any, tensors: Iterator[Tensor]) -> Any:
    """The inverse of :func:`flattened`.

    >>> import torch
    >>> from pyro_vae.batches import flattened, unflattened
    >>> tensors, structure = flattened({"x": torch.ones(2), "label": 3})
    >>> unflattened(structure, iter([torch.zeros(2)]))
    {'x': tensor([0., 0.]), 'label': 3}
    """
    if structure is None:
        return next(tensors)
    if isinstance(structure, _Constant):
        return structure.value
    (kind, *keys), parts = structure
    values = [unflattened(part, tensors) for part in parts]
    if issubclass(kind, dict):
        return kind(zip(keys, values, strict=True))
    return kind(*values) if hasattr(kind, "_fields") else kind(values)


class _Constant:
    """What is no tensor, equal to what is of one type and value; without a hash it is equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            self._key: Any = type(value), value, hash(value)
        except TypeError:
            self._key = type(value), id(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and self._key == other._key

    def __hash__(self) -> int:
        return hash((self._key[0], self._key[-1]))

    def __repr__(self) -> str:
        return f"{type(self.value).__qualname__} {self.value!r}"
