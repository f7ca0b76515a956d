"""Stored: a set of data that lies in files."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import checked, whole
from pyro_vae._tensors import device_
from pyro_vae.batches import moved
from pyro_vae.data.arrays import check_pixels, check_size, numbers, tensor
from pyro_vae.data.draws import Binarization
from pyro_vae.data.rows import Rows, ahead
from pyro_vae.data.sets import Split


class Stored(Split):
    """One set of data that lies in files, of which a batch at a time is read, and a thread reads the next ones.

    It hands out what a :class:`Split` of the same data does, in the same order and with the same draws. Each batch is
    looked at as it is read; ``take`` gives data in memory.

    Args:
        tensors: x, :class:`~pyro_vae.data.rows.Rows` ``[N, *event]``, and any further arguments of model and guide,
            rows or tensors [N, ...].
        labels: [N, ...], in memory.
        missing, names, seed, name: as of :class:`Split`.
        binarization: ``"none"`` or ``"dynamic"``; ``"static"`` needs a Split.

    Raises:
        ValueError: for ``"static"``, and where lengths differ; while iterating: what :class:`Split` refuses.
    """

    in_memory = False

    @checked(but=("seed",))
    def __init__(
        self,
        *tensors: Rows | Tensor,
        labels: Any = None,
        names: Sequence[str] | None = None,
        missing: bool = False,
        binarization: Binarization = "none",
        seed: int = 0,
        name: str = "data",
    ) -> None:
        if binarization == "static":
            raise ValueError(
                f'binarization "static" keeps its draws in memory, and {name!r} lies in a file. Use "dynamic", or load '
                "it with in_memory=True."
            )
        if not all(rows.dim() for rows in tensors):
            raise ValueError(f"the arguments of {name!r} hold a row for each datum, [N, ...]; got one without rows.")
        alike = [torch.zeros_like(rows[:1]) for rows in tensors]  # of what holds for one datum and for all
        super().__init__(*alike, names=names, binarization=binarization, seed=seed, name=name)
        if alike[0].dtype in (torch.bool, torch.float16):  # which a Split has in float32, too
            first: Any = tensors[0]
            tensors = (first.float() if isinstance(first, Tensor) else first.mapped(Tensor.float), *tensors[1:])
        check_pixels(tensors[0], f"x of {name!r}")
        self.tensors = tensors  # type: ignore[assignment]
        self.labels = None if labels is None else tensor(labels, f"labels of {name!r}")
        self.missing, self.device = missing, torch.device("cpu")
        lengths = {rows.shape[0] if rows.dim() else 1 for rows in (*tensors, self.labels) if rows is not None}
        if len(lengths) > 1:
            raise ValueError(
                f"the arguments and labels of {name!r} have {sorted(lengths)} rows; expected as many each."
            )

    def _gather(self, index: Tensor, key: Sequence[int]) -> tuple[Any, ...]:
        return moved(super()._gather(index, key), self.device)

    def _read(self, index: Tensor) -> Tensor:
        return numbers(super()._read(index), self.binarization, f"x of a batch of {self.name!r}", self.missing)

    def batches(
        self, batch_size: int, *, shuffle: bool = False, epoch: int = 0, seed: int = 0, start: int = 0
    ) -> Iterator[tuple[Any, ...]]:
        """As of :class:`Split`; a thread reads the next batches."""
        return ahead(super().batches(batch_size, shuffle=shuffle, epoch=epoch, seed=seed, start=start))

    def take(self, n: int) -> Split:
        """The first n data, in memory."""
        whole(n=n)
        n = min(n, len(self))
        check_size(n * sum(rows[:1].nbytes for rows in self.tensors), f"{n:,} data of {self.name!r}")
        options: dict[str, Any] = {"names": self.names, "missing": self.missing, "binarization": self.binarization}
        labels = None if self.labels is None else self.labels[:n]
        held = Split(*(t[:n] for t in self.tensors), labels=labels, seed=self.seed, name=self.name, **options)
        return held.to(self.device)

    @checked(but=("rows",))
    def at(self, rows: Tensor, name: str) -> Split:
        """The data at ``rows: [B]``, which stay in their files."""
        rows = self._chosen(rows, "rows")
        other = copy.copy(self)
        taken = (one.at(rows) if isinstance(one, Rows) else one[rows] for one in self.tensors)
        other.tensors = tuple(taken)  # type: ignore[arg-type]
        other.labels = None if self.labels is None else self.labels[rows]
        other.name = name
        return other

    def to(self, device: torch.device | str) -> Stored:
        """The same set, whose batches arrive on ``device``."""
        device_(device=device)
        other = copy.copy(self)
        other.device = torch.device(device)
        return other
