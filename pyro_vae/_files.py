"""Files that are written whole or not at all, and folders that one process has to itself."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
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
_SELF = getattr(os, "O_NOFOLLOW", 0)  # no file that a link in a folder of somebody else leads to
_TEMPORARY = re.compile(r"\..+\.[0-9a-z_]{8}|\.tmp\w{6}")  # of write_whole, and of safetensors inside of it
#: The lock by the folders of this process, whose own locks a file system does not tell from each other.
_held: dict[tuple[int, str], os.stat_result | None] = {}
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
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the error is that of writing
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # of a system that does not open folders, or does not sync them
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Has what is written, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_text(path: Path, text: str) -> None:
    """Adds to a text file.

    Raises:
        OSError: if it cannot be written to.
    """
    try:
        with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | _SELF, 0o666)) as file:
            file.write(text)
    except OSError as error:
        raise _not_written(path, error) from error


def move(source: Path, target: Path) -> None:
    """Gives a file another name, in the place of what has it.

    Raises:
        OSError: if the folder cannot be written to, or a folder has the name.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        raise _not_written(target, error) from error


def read_text(path: Path) -> str:
    """A text file as a whole.

    Raises:
        OSError: if it cannot be read, or is no file: a folder, a pipe, a device, of which some have no end; or if it
            is a link out of its folder, since what is read is written into that.
        ValueError: if it is no text in UTF-8.
    """
    try:
        if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(path.parent)):
            raise OSError("it is a link out of its folder")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # who opens a pipe waits for a writer
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("it is no file")
            held = b"".join(iter(lambda: os.read(handle, 1 << 20), b""))
        finally:
            os.close(handle)
    except OSError as error:
        raise type(error)(
            f"cannot read {path} ({error.strerror or error}). Make it a file that you can read, or move it away."
        ) from error
    try:
        return held.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8. Move it away.") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sweep(*folders: Path) -> None:
    """Removes what :func:`write_whole` has left behind in a process that was killed; only for who holds the folder."""
    for path in (path for folder in folders if os.path.isdir(folder) for path in folder.glob(".*")):
        if _TEMPORARY.fullmatch(path.name) and os.path.isfile(path):
            with contextlib.suppress(OSError):
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
    key, new = _key(folder), _names(folder) in ([], None)
    with _mutex:
        if key in _held:  # not asked of the file: closing it would free it
            raise ValueError(_IN_USE.format(folder))
        _held[key] = None
    try:
        with _locked(folder / LOCK) as held:
            _held[key] = held
            sweep(folder, folder / "checkpoint")
            try:
                yield
            finally:
                if (
                    new and key == _key(folder) and not _is_taken(folder, held) and _names(folder) == [LOCK]
                ):  # nothing has begun
                    with contextlib.suppress(OSError):
                        (folder / LOCK).unlink()
                        folder.rmdir()
    finally:
        del _held[key]


def check_held(folder: Path) -> None:
    """Refuses to go on where the folder that a process has to itself was taken away under it.

    Raises:
        OSError: if it was removed, or its lock is another's.
        ValueError: in a forked process, which has a copy of a training that goes on in the one it was forked of.
    """
    key = _key(folder)
    if key not in _held and any(path == key[1] for _, path in _held):
        raise ValueError(_IN_USE.format(folder))
    held = _held.get(key)
    if held is not None and _is_taken(folder, held):
        raise OSError(
            f"the folder {folder} was removed, or made anew, while a training wrote there. Nothing more is written; "
            "train again."
        )


def _is_taken(folder: Path, held: os.stat_result) -> bool:
    """Whether a folder is gone, or has another lock than the one that is held."""
    try:
        return not os.path.isdir(folder) or not os.path.samestat(held, os.stat(folder / LOCK))
    except OSError:  # the lock alone is gone
        return False


def _key(folder: Path) -> tuple[int, str]:
    return os.getpid(), os.path.realpath(folder)


def _names(folder: Path) -> list[str] | None:
    """What a folder has; ``None`` where it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_writable(folder, error) from error


@contextmanager
def appending(path: Path) -> Iterator[None]:
    """Has a file to itself while it is read and written anew; others wait."""
    if fcntl is None:
        yield
        return
    try:
        handle = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        with contextlib.suppress(OSError):  # of a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[os.stat_result]:
    """Holds the lock of a file, which ends with the process; a file system without locks has none that is taken."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | _SELF, 0o666)
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
        yield os.fstat(handle)
    finally:
        os.close(handle)


def _not_written(path: Path, error: OSError) -> OSError:
    return type(error)(f"cannot write {path} ({error.strerror or error}). What was there before is kept.")


_IN_USE = "{} is in use: another training writes there. Wait until it has ended, or choose another folder."


def _not_writable(folder: Path, error: OSError) -> OSError:
    return type(error)(
        f"cannot write to the folder {folder} ({error.strerror}). Choose another output folder, or make this one "
        "writable."
    )
