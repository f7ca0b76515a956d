"""Mixed: sets whose batches come in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae._checks import checked, whole
from pyro_vae.data.draws import Binarization
from pyro_vae.data.sets import Split, Stream, labeled


class Mixed:
    """Several sets whose batches come in turn, each of its own arguments: labeled and unlabeled data, say.

    ``Mixed(TensorDataset(x, y), unlabeled)`` trains by ``step(x, y)`` and ``step(x)``. A pass goes once through each
    set; the batches of a smaller one are spread evenly among the others. N is the number of all data.

    Args:
        sets: each a :class:`Split` or :class:`Stream`, or what these are made of: a tensor, an array, a
            ``TensorDataset``, a dictionary of tensors (arguments by name), a ``DataLoader``.
        name: for messages and titles.

    Raises:
        ValueError: if there are no sets, they are binarized differently, or a loader does not tell its length.

    >>> mixed = Mixed(TensorDataset(torch.rand(4, 3), torch.arange(4)), torch.rand(8, 3))
    >>> [len(batch) for batch in mixed.batches(4)]
    [1, 2, 1]
    """

    labels: None = None

    @checked
    def __init__(self, *sets: Any, name: str = "data") -> None:
        if not sets:
            raise ValueError("Mixed() was given no sets; give two or more, such as labeled and unlabeled data.")
        self.parts = tuple(as_set(part, seed=seed, name=name) for seed, part in enumerate(sets))
        self.name = name
        if len({part.binarization for part in self.parts}) > 1:
            kinds = ", ".join(part.binarization for part in self.parts)
            raise ValueError(f"the sets of {name!r} have the binarizations {kinds}; make them with the same.")
        for part in self.parts:
            if part.num_batches(1) is None:
                raise ValueError(f"a loader of {name!r} does not tell its length, by which batches are taken in turn.")

    @property
    def binarization(self) -> Binarization:
        """That of all the sets."""
        return self.parts[0].binarization

    @property
    def in_memory(self) -> bool:
        """Whether all the sets are."""
        return all(part.in_memory for part in self.parts)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, of the first set."""
        return self.parts[0].event_shape

    @property
    def num_data(self) -> int | None:
        """Number of all data, N; ``None`` where a loader does not tell it."""
        counts = [part.num_data for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    def num_batches(self, batch_size: int) -> int:
        """The batches of all sets."""
        return sum(part.num_batches(batch_size) or 0 for part in self.parts)

    def __repr__(self) -> str:
        return f"Mixed({', '.join(map(repr, self.parts))})"

    def batches(
        self, batch_size: int, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """One pass over all sets, as :meth:`Split.batches`; which set a batch is of depends on its place alone."""
        whole(0, epoch=epoch, seed=seed, start=start)
        counts = [part.num_batches(batch_size) or 0 for part in self.parts]
        turns = sorted(((j + 0.5) / count, i) for i, count in enumerate(counts) for j in range(count))
        order = [i for _, i in turns]

        def iterate() -> Iterator[tuple[Any, ...]]:
            options: dict[str, Any] = {"shuffle": shuffle, "epoch": epoch, "seed": seed}
            passes = [
                part.batches(batch_size, start=order[:start].count(i), **options) for i, part in enumerate(self.parts)
            ]
            for i in order[start:]:
                yield next(passes[i])

        return iterate()

    def take(self, n: int) -> Split:
        """The first n data of the first set, in memory."""
        return self.parts[0].take(n)

    def to(self, device: torch.device | str) -> Mixed:
        """The same sets on ``device``."""
        return Mixed(*(part.to(device) for part in self.parts), name=self.name)


def as_set(data: Any, **options: Any) -> Split | Stream:
    """One set of a loader, a ``TensorDataset``, a dictionary or an array, with the options of :class:`Split`."""
    if isinstance(data, (Split, Stream)):
        return data
    if isinstance(data, DataLoader):
        return Stream(data, **options)
    if isinstance(data, TensorDataset):
        return labeled(data.tensors, **options)
    if isinstance(data, dict):
        return labeled(list(data.values()), names=list(data), **options)
    return Split(data, **options)
