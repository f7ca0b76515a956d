"""Rows that lie in a file and are read as they are needed, by the same words as a tensor in memory."""

from __future__ import annotations

import importlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import tensor

T = TypeVar("T")

AT_ONCE = 4096  # rows of a pass over all data


class Rows:
    """Numbers ``[N, *event]`` in a file, of which so many are in memory as are asked for.

    They are mapped anew for each reading, so that what was read does not stay in memory.

    Args:
        file: open, in which the rows lie one behind the other.
        dtype, shape: of the numbers in the file.
        offset: bytes before them.
        index: ``[M]``, the rows of the file that these are; by default all.
        change: of rows that have been read, ``[B, *read] -> [B, *event]``: each by itself.

    Attributes:
        shape, dtype: as of a tensor.
    """

    def __init__(
        self,
        file: IO[bytes],
        dtype: np.dtype[Any],
        shape: Sequence[int],
        offset: int,
        index: np.ndarray | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._file: Any = file
        self._of_file: dict[str, Any] = {"dtype": dtype, "shape": tuple(shape), "offset": offset}
        self._index, self._change = index, change
        one = self[:1]
        self.shape = torch.Size((shape[0] if index is None else len(index), *one.shape[1:]))
        self.dtype, self.device = one.dtype, one.device

    @classmethod
    def of_npy(cls, path: Path) -> Rows:
        """Those of an .npy file.

        Raises:
            ValueError: if it is damaged, or of Python objects, which are never unpickled.
        """
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not found.flags.c_contiguous:
            return cls.of_blocks(found[start : start + AT_ONCE] for start in range(0, len(found), AT_ONCE))
        return cls(path.open("rb"), found.dtype, found.shape, found.offset)

    @classmethod
    def of_blocks(cls, blocks: Iterable[np.ndarray]) -> Rows:
        """Rows that are unpacked, ``[B, *event]`` at a time, into a temporary file, which ends with the process."""
        file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the rows are
        count, first = 0, None
        for block in blocks:
            first = block[:0] if first is None else first
            if not np.can_cast(block.dtype, first.dtype, "same_kind"):
                raise ValueError(
                    f"the rows are of {first.dtype}, and those from {count} on of {block.dtype}, such as empty cells "
                    "have. Save them all as the second."
                )
            if block.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"a row is of shape {list(first.shape[1:])}, and those from {count} on are of "
                    f"{list(block.shape[1:])}. Give all the same."
                )
            count += len(block)
            file.write(np.ascontiguousarray(block, first.dtype).data)
        if first is None or count == 0:
            raise ValueError("there are no rows.")
        file.flush()
        return cls(file, first.dtype, (count, *first.shape[1:]), 0)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Rows({list(self.shape)}, {self.dtype})"

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    @property
    def nbytes(self) -> int:
        """Of all rows, if they were in memory."""
        return self.numel() * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Tensor:
        """Some rows, in memory."""
        rows = np.memmap(self._file, mode="r", **self._of_file)
        where = np.asarray(index) if isinstance(index, Tensor) else index
        if self._index is not None:
            where = self._index[where]
        read = tensor(np.array(rows[where]), "what was read")
        return read if self._change is None else self._change(read)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows at ``index: [B]``, in memory."""
        return self[index]

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows, so many at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def at(self, index: Any) -> Rows:
        """The rows at ``index``, which stay in the file."""
        places = np.arange(self._of_file["shape"][0]) if self._index is None else self._index
        chosen = np.asarray(index) if isinstance(index, Tensor) else index
        return Rows(self._file, **self._of_file, index=places[chosen], change=self._change)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Those that ``change`` makes of them, ``[B, *event] -> [B, *other]``, as they are read."""
        before = self._change
        both = change if before is None else lambda rows: change(before(rows))
        return Rows(self._file, **self._of_file, index=self._index, change=both)


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items, of which a thread has so many ready before they are asked for."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    ended = threading.Event()

    def put(good: bool, item: Any) -> bool:
        while not ended.is_set():
            try:
                ready.put((good, item), timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=read, daemon=True, name="reading ahead")
    thread.start()
    try:
        while True:
            good, item = ready.get()
            if good:
                yield item
            elif item is None:
                return
            else:
                raise item
    finally:
        ended.set()
        thread.join()


def kept_in_memory(size: int, in_memory: bool | None) -> bool:
    """Whether data of so many bytes are read into memory; where it was not said, up to 1 GiB are."""
    return size <= 2**30 if in_memory is None else in_memory


def package(name: str, what: str) -> Any:
    """A package that not every user has.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what}, which needs the package {name}: pip install {name}, or all of this kind by "
            "pip install 'pyro_vae[files]'."
        ) from error
