"""Files that are written whole or not at all, and folders that one process has to itself."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # as on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TEMPORARY = re.compile(r"\..+\.[0-9a-z_]{8}|\.tmp\w{6}")  # of write_whole, and of safetensors inside of it
_held: set[tuple[int, Path]] = set()  # by this process, whose own locks a file system does not tell from each other
_mutex = threading.Lock()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls ``write`` with a temporary path beside ``path``, then puts the file in place in one step, and on the disk.

    Raises:
        OSError: if the folder cannot be written to, or the file not be written; what was there before is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the umask says
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise type(error)(f"cannot write {path} ({error.strerror or error}). What was there before is kept.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Has what is written, or the names in a folder, reach the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a folder, where these cannot be opened
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sweep(*folders: Path) -> None:
    """Removes what :func:`write_whole` has left behind in a process that was killed; only for who holds the folder."""
    for folder in folders:
        for path in folder.glob(".*") if folder.is_dir() else ():
            if _TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


@contextmanager
def holding(folder: Path | None) -> Iterator[None]:
    """Has a folder, which is made, to itself; ``None`` is no folder. However the process ends, it is free again.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if another process, or thread, has it.
    """
    if folder is None:
        yield
        return
    key = (os.getpid(), folder.resolve())
    new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    with _mutex:
        if key in _held:  # not asked of the file: closing it would free it
            raise ValueError(_IN_USE.format(folder))
        _held.add(key)
    try:
        with _locked(folder / LOCK):
            sweep(folder, folder / "checkpoint")
            try:
                yield
            finally:
                if new and folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:  # nothing has begun
                    (folder / LOCK).unlink()
                    folder.rmdir()
    finally:
        _held.discard(key)


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """Has a file to itself while it is read and written anew; others wait."""
    if fcntl is None:
        yield
        return
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which ends with the process; a file system without locks has none that is taken."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        if fcntl is not None:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ValueError(_IN_USE.format(path.parent)) from error
            except OSError:
                pass
        yield
    finally:
        os.close(handle)


_IN_USE = "{} is in use: another training writes there. Wait until it has ended, or choose another folder."


def _not_writable(folder: Path, error: OSError) -> OSError:
    return type(error)(
        f"cannot write to the folder {folder} ({error.strerror}). Choose another output folder, or make this one "
        "writable."
    )
