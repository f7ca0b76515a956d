"""Rows that lie in a file and are read as they are needed, by the same words as a tensor in memory."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.arrays import tensor

T = TypeVar("T")

AT_ONCE = 4096  # rows of a pass over all data


class NoRoom(OSError):
    """Temporary files have no room for what is unpacked."""


class Held:
    """An open file, which is closed with the last rows of it, and opened by its path where it is unpickled.

    A temporary one has no name on the disk, so that it ends with the last process that has it; others find it among
    the files of this one, on systems that show these.
    """

    def __init__(self, path: str, handle: int | None = None) -> None:
        # A relative path is one of the folder in which the program is now.
        self._path, self._is_named = os.path.abspath(path) if handle is None else path, handle is None
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)) if handle is None else handle
        weakref.finalize(self, os.close, self.handle)

    @classmethod
    def temporary(cls) -> Held:
        """A new file, which can be written to."""
        try:
            with tempfile.TemporaryFile() as file:
                return cls("a temporary file", os.dup(file.fileno()))
        except OSError as error:
            raise NoRoom(f"no temporary file can be made ({error.strerror}). {_ROOM}") from error

    def write(self, numbers: np.ndarray) -> None:
        """Adds numbers behind the others.

        Raises:
            NoRoom: if the disk is full.
        """
        left = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data
        try:
            while left:
                left = left[os.write(self.handle, left) :]
        except OSError as error:
            size = os.fstat(self.handle).st_size
            raise NoRoom(
                f"{tempfile.gettempdir()} has no room for the unpacked data ({error.strerror}, after {size:,} bytes). "
                f"{_ROOM}"
            ) from error

    def rows(self, dtype: np.dtype[Any], shape: Sequence[int], offset: int, where: np.ndarray | slice) -> np.ndarray:
        """Some rows of the numbers ``shape: [N, *event]`` that begin at ``offset``.

        They are read and not mapped: of a mapped file, the system counts up to 2 MiB as resident for each row.

        Raises:
            ValueError: if the file has been cut off, or cannot be read.
        """
        places = np.arange(*where.indices(shape[0])) if isinstance(where, slice) else _places(where, shape[0])
        size = dtype.itemsize * math.prod(shape[1:])
        if os.fstat(self.handle).st_size < offset + shape[0] * size:
            raise self._cut_off()
        found = np.empty((len(places), *shape[1:]), dtype)
        if not found.size:
            return found
        left = found.reshape(-1).view(np.uint8).data
        runs = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]  # rows that lie side by side
        for begin, end in itertools.pairwise(runs):
            self._fill(left[begin * size : end * size], offset + int(places[begin]) * size)
        return found

    def _fill(self, left: memoryview, start: int) -> None:
        while left:
            try:
                count = _read_into(self.handle, left, start)
            except OSError as error:
                raise ValueError(f"{self._path} cannot be read any more ({error.strerror}).") from error
            if not count:
                raise self._cut_off()
            left, start = left[count:], start + count

    def _cut_off(self) -> ValueError:
        return ValueError(f"{self._path} was cut off while it was in use. Load the data again.")

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self.handle)
        return found.st_size, found.st_mtime_ns

    def __deepcopy__(self, memo: Any) -> Held:
        return self

    def __reduce__(self) -> Any:
        path = self._path if self._is_named else f"/proc/{os.getpid()}/fd/{self.handle}"
        return _reopened, (path, self._state())


def _places(where: np.ndarray, count: int) -> np.ndarray:
    if where.dtype == bool:
        return np.arange(count)[where]
    if ((where < -count) | (where >= count)).any():
        raise IndexError(f"rows {where.min()} to {where.max()} are asked for, of {count}.")
    return where.astype(np.int64) % count


_seeking = threading.Lock()


def _read_into(handle: int, left: memoryview, start: int) -> int:
    """Reads what it can get, without moving the file's own position, which the processes of a fork share."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [left], start)
    with _seeking:  # on Windows, where nothing forks
        os.lseek(handle, start, os.SEEK_SET)
        found = os.read(handle, len(left))
    left[: len(found)] = found
    return len(found)


def _reopened(path: str, state: tuple[int, int]) -> Held:
    try:
        held = Held(path)
    except OSError as error:
        raise ValueError(
            f"the data lie in {path}, which cannot be opened ({error.strerror}); of unpacked data that is a file of "
            "the process that has loaded them. Load the data in this one."
        ) from error
    if held._state() != state:
        raise ValueError(f"{path} is another file than the one that was loaded. Load the data again.")
    return held


_ROOM = (
    "Name a folder with more of it by the environment variable TMPDIR, or save the data by numpy.save, of which "
    "nothing is unpacked."
)


class Rows:
    """Numbers ``[N, *event]`` in a file, of which so many are in memory as are asked for.

    Args:
        file: in which the rows lie one behind the other.
        dtype, shape: of the numbers in the file.
        offset: bytes before them.
        index: ``[M]``, the rows of the file that these are; by default all.
        changes: of rows that have been read, ``[B, *read] -> [B, *event]``, each row by itself; one after the other.

    Attributes:
        shape, dtype: as of a tensor.
    """

    def __init__(
        self,
        file: Held,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        offset: int,
        index: np.ndarray | None = None,
        changes: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> None:
        self._file = file
        self._of_file: dict[str, Any] = {"dtype": dtype, "shape": tuple(shape), "offset": offset}
        self._index, self._changes = index, tuple(changes)
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
        return cls(Held(str(path)), found.dtype, found.shape, found.offset)

    @classmethod
    def of_blocks(cls, blocks: Iterable[np.ndarray]) -> Rows:
        """Rows that are unpacked, ``[B, *event]`` at a time, into a temporary file.

        Raises:
            NoRoom: if the disk is full.
            ValueError: if blocks differ in dtype or shape, or there are none.
        """
        file, count, first = Held.temporary(), 0, None
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
            file.write(block.astype(first.dtype, copy=False))
        if first is None or count == 0:
            raise ValueError("there are no rows.")
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
        where = index if isinstance(index, slice) else np.asarray(index)
        if self._index is not None:
            where = self._index[where]
        read = tensor(self._file.rows(**self._of_file, where=where), "what was read")
        for change in self._changes:
            read = change(read)
        return read

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
        return Rows(self._file, **self._of_file, index=places[chosen], changes=self._changes)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Those that ``change`` makes of them, ``[B, *event] -> [B, *other]``, as they are read."""
        return Rows(self._file, **self._of_file, index=self._index, changes=(*self._changes, change))


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
