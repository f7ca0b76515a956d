"""The processes of torch's default group (``torch.distributed``), as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from pyro_vae.batches import num_rows, rows
from pyro_vae.data import draws

if distributed.is_available():
    # Its functions have the group as a default. torch imports it with the first optimizer, which is after the group was
    # made: then destroy_process_group leaves gloo's threads alive, and one that meets the end of Python aborts.
    import torch.distributed.nn.functional


class Ranks:
    """The processes of the group, of which this one is ``rank``; alone where there is no such group.

    Each has a slice of every batch. The first one draws as a process that is alone, the others have noise of their own,
    by (seed, rank).

    Attributes:
        rank, count: the number of this process, and how many there are.
    """

    def __init__(self) -> None:
        there = distributed.is_available() and distributed.is_initialized()
        self.rank, self.count = (distributed.get_rank(), distributed.get_world_size()) if there else (0, 1)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.rank == 0

    def place(self, size: int) -> slice:
        """Which of so many data are this rank's; of fewer data than ranks each has all."""
        if self.alone or size < self.count:
            return slice(None)
        return slice(self.rank * size // self.count, (self.rank + 1) * size // self.count)

    def slice_of(self, batch: Any) -> Any:
        """This rank's data of a batch."""
        if self.alone:  # at each step, where to count rows would be in vain
            return batch
        place = self.place(num_rows(batch))
        return batch if place == slice(None) else rows(batch, place)

    @contextlib.contextmanager
    def answered(self) -> Iterator[None]:
        """Around what waits for the other ranks.

        Raises:
            ConnectionError: if another rank has ended.
        """
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                f"rank {self.rank} of {self.count} got no answer from another one, which has ended or cannot be "
                f"reached; what that one said tells why. The last good checkpoint stays. ({error})"
            ) from error

    def sum(self, vector: Tensor) -> None:
        """The sum over all ranks, in place."""
        with self.answered():
            distributed.all_reduce(vector)

    def joined(self, value: Tensor, size: int) -> Tensor:
        """Of ``[*, n]`` of this rank's data ``[*, size]`` of all; as they are where each rank has all."""
        place = self.place(size)
        if place == slice(None):
            return value
        held = torch.zeros(*value.shape[:-1], size, dtype=value.dtype, device=value.device)
        held[..., place] = value
        self.sum(held)
        return held

    def agree(self, number: float | None, device: torch.device) -> float | None:
        """The greatest of the numbers that the ranks tell, ``None`` where none tells one."""
        if self.alone:
            return number
        told = torch.zeros(self.count, dtype=torch.float64, device=device)
        told[self.rank] = 0.0 if number is None else float(number)
        self.sum(told)
        return told.max().item() or None

    def gathered(self, value: Any) -> list[Any]:
        """What the ranks give, in their order, on all."""
        if self.alone:
            return [value]
        box: list[Any] = [None] * self.count
        with self.answered():
            distributed.all_gather_object(box, value)  # as of share
        return box

    def share(self, value: Any) -> Any:
        """What the first rank gives, on all."""
        if self.alone:
            return value
        box = [value if self.first else None]
        with self.answered():
            distributed.broadcast_object_list(box)  # between processes of one run; nothing of a file is unpickled
        return box[0]

    def seed_of(self, *key: int) -> int:
        """A seed for what this rank draws: of the first it is the last number of the key itself."""
        return key[-1] if self.first else int(draws.bits(draws.RANK, self.rank, *key).random_raw()) >> 1


@contextlib.contextmanager
def group() -> Iterator[Ranks]:
    """The group that the environment tells of, as ``torchrun`` sets it, for as long as the command runs."""
    begin = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if begin:
        place = int(os.environ.get("LOCAL_RANK", "0"))
        if place < torch.cuda.device_count():
            torch.cuda.set_device(place)  # or all would train on the first
        # What is told of Python's objects, and a training on the CPU, needs gloo in any case.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks()
    finally:
        if begin:
            distributed.destroy_process_group()
