"""Disks that are full or fail, folders that are read-only or go away, and files that are damaged or no files.

Each ends in the right result, the bits of an undisturbed run, or in one sentence of ours, soon; and what was whole of
the checkpoints before is whole after.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import importlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import pyro_vae
from pyro_vae import cli
from pyro_vae.models import MLPVAE
from pyro_vae.training import checkpoint, trainer
from storm import kills
from storm.api import PACKAGE, _raises

EPOCHS, SECONDS, BYTES = 4, 60, 12 << 30
FILES = (
    ".", "checkpoint", "checkpoint/last.safetensors", "checkpoint/previous.safetensors", "metrics.jsonl",
    "config.yaml", "evaluation.json", "run.md", ".lock", "figures", "tensorboard",
)  # fmt: skip


# What is done with a folder

_over: list[bool] = []  # in the process that does it, once it is done


def _fitted(out: Path) -> Any:
    """A training in Python that goes on."""
    torch.manual_seed(7)
    x = torch.from_numpy(np.load("x.npy"))
    pair = MLPVAE((6,), 2, (4,))
    run = pyro_vae.fit(
        pair, (x, x[:8]), epochs=EPOCHS, batch_size=20, average=0.9, compile="eager", out=out, resume=True,
        checkpoint_every=0.0, progress=False,
    )  # fmt: skip
    _over.append(True)
    return kills.outcome(run, out)["outcome"]["weights"]


def _opened(out: Path) -> Any:
    return checkpoint.digest(dict(pyro_vae.load(out).pair.state_dict()))


def _typed(line: str, after: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def typed(out: Path) -> Any:
        status = cli.main([str(out) if word == "RUN" else word for word in line.split()])
        _over.append(True)
        if status:
            raise _Status(status)
        return after(out)

    return typed


class _Status(Exception):
    pass


def _checkpointed(out: Path) -> str:
    tensors, state = checkpoint.load(out / "checkpoint")
    return f"epoch {state['epoch']} {checkpoint.digest({k: v for k, v in tensors.items() if k.startswith('pair/')})}"


def _nll(out: Path) -> float:
    return json.loads((out / "evaluation.json").read_text())[-1]["nll"]


_TRAIN = "train --data x.npy --model.hidden [4] --model.latent_dim 2 --compile eager --batch-size 20 --progress false"
DONE: dict[str, Callable[[Path], Any]] = {
    "fit": _fitted,
    "open": _opened,
    "train": _typed(f"{_TRAIN} --epochs {EPOCHS} --checkpoint-every 0 --resume true --out RUN", _checkpointed),
    "evaluate": _typed("evaluate RUN --num-samples 4 --compile eager --progress false", _nll),
    "plot": _typed("plot RUN", lambda out: sorted(path.name for path in (out / "figures").iterdir())),
    "apply": _typed("apply reduce RUN --out RUN --num-neighbors 2 --progress false", lambda out: None),
}


def _templates(folder: Path) -> None:
    """Two folders of runs that have come half of their way, of the command line and of Python."""
    x = np.random.default_rng(0).random((60, 6)) < 0.5
    np.save(folder / "x.npy", x.astype(np.float32))
    end_epoch = trainer.Trainer._end_epoch

    def stopped(self: trainer.Trainer, speed: float) -> None:
        end_epoch(self, speed)
        if self.state.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def begin() -> None:
        trainer.Trainer._end_epoch = stopped  # type: ignore[method-assign]
        with contextlib.suppress(KeyboardInterrupt):
            _fitted(folder / "python")
        line = f"{_TRAIN} --epochs {EPOCHS} --checkpoint-every 0 --out typed"
        assert cli.main(line.split()) == 130
        assert cli.main(["evaluate", "typed", "--num-samples", "4", "--compile", "eager", "--progress", "false"]) == 0

    ended = _forked(begin, folder)
    assert ended.kind == "result", ended


# What happens to it


class Fault(NamedTuple):
    """``put`` changes the folder; ``meet`` is called in the process before anything is done there."""

    name: str
    put: Callable[[Path], Any] = lambda out: None
    meet: Callable[[Path], Any] = lambda out: None


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _placed(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def put(path: Path) -> None:
        _gone(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return put


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def _linked_out(path: Path) -> None:
    """To the very file, or folder, which is elsewhere."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    if path.exists():
        _gone(elsewhere)
        path.rename(elsewhere)
        path.symlink_to(elsewhere)


def _socket(path: Path) -> None:
    import socket

    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(os.path.relpath(path))


PLACES: dict[str, Callable[[Path], Any]] = {
    "missing": _gone,
    "folder": _placed(Path.mkdir),
    "folder with a file": _placed(_full_folder),
    "FIFO": _placed(os.mkfifo),
    "socket": _placed(_socket),
    "link to itself": _placed(lambda path: path.symlink_to(path.name)),
    "link to nothing": _placed(lambda path: path.symlink_to("nothing")),
    "link to it elsewhere": _linked_out,
    "/dev/null": _placed(lambda path: path.symlink_to("/dev/null")),
    "/dev/zero": _placed(lambda path: path.symlink_to("/dev/zero")),
    "/dev/full": _placed(lambda path: path.symlink_to("/dev/full")),
    "empty file": _placed(Path.touch),
    "text": _placed(lambda path: path.write_text("Lorem ipsum: [dolor\n")),
}


def _flipped(held: bytes, chance: random.Random) -> bytes:
    changed = bytearray(held)
    for _ in range(chance.randint(1, 8) if held else 0):
        changed[chance.randrange(len(held))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _other(path: Path, chance: random.Random) -> bytes:
    top = path.parent.parent if path.parent.name == "checkpoint" else path.parent
    others = [one for one in sorted(top.rglob("*")) if one.is_file() and one != path and one.stat().st_size]
    return chance.choice(others).read_bytes()


DAMAGES: dict[str, Callable[[bytes, Path, random.Random], bytes]] = {
    "bits flipped": lambda held, path, chance: _flipped(held, chance),
    "cut": lambda held, path, chance: held[: chance.randrange(len(held) or 1)],
    "more behind": lambda held, path, chance: held + chance.randbytes(chance.randint(1, 99)),
    "zeros": lambda held, path, chance: bytes(len(held)),
    "noise": lambda held, path, chance: chance.randbytes(len(held)),
    "another file's content": lambda held, path, chance: _other(path, chance),
    "a part twice": lambda held, path, chance: held + held[: chance.randrange(len(held) or 1)],
    "a number for another": lambda held, path, chance: re.sub(
        rb"\d+", lambda found: chance.choice([b"-1", b"1e999", b"null", b"[]", found[0]]), held
    ),
    "JSON of another kind": lambda held, path, chance: chance.choice([b"{}", b"[]", b"null", b"3\n", b'"a"', b"[3]\n"]),
}


def _damaged(name: str, damage: str, seed: int) -> Callable[[Path], Any]:
    def put(out: Path) -> None:
        path = out / name
        if path.is_file():
            path.write_bytes(DAMAGES[damage](path.read_bytes(), path, random.Random(seed)))

    return put


_STEPS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod"}


def _at_step(number: int, act: Callable[[Path], Any], once: bool) -> Callable[[Path], Any]:
    """Has ``act`` called before a step in the folder, and all of those behind it if not ``once``."""

    def meet(out: Path) -> None:
        count, inside, fsync, folder = [0], [False], os.fsync, str(out)

        def step() -> None:
            if inside[0] or _over:
                return
            count[0] += 1
            if count[0] == number or (count[0] > number and not once):
                inside[0] = True
                try:
                    act(out)
                finally:
                    inside[0] = False

        def see(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _STEPS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(folder):
                step()

        sys.addaudithook(see)
        os.fsync = lambda handle: (step(), fsync(handle))[1]

    return meet


def _raising(number: int) -> Callable[[Path], Any]:
    def act(out: Path) -> None:
        raise OSError(number, os.strerror(number))

    return act


def _without_powers() -> None:
    """Modes of files hold for the superuser as well."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.capget(header, data)
    for place in (0, 1):  # effective and permitted; CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        data[place] &= ~0b110
    libc.capset(header, data)


def _mode(name: str, mode: int) -> Fault:
    def put(out: Path) -> None:
        if (out / name).exists():
            (out / name).chmod(mode)

    return Fault(f"mode {mode:o} of {name}", put, lambda out: _without_powers())


def _taken(name: str, text: str | None) -> Callable[[Path], Any]:
    def act(out: Path) -> None:
        _gone(out / name)
        if text is not None:
            (out / name).write_text(text)

    return act


def faults(seed: int) -> list[Fault]:
    """One of each, with chances of ``seed``."""
    chance = random.Random(seed)
    found = [
        Fault(f"{place} in the place of {name}", lambda out, put=put, name=name: put(out / name))
        for place, put in PLACES.items()
        for name in FILES
    ]
    found += [
        Fault(f"{damage} of {name}", _damaged(name, damage, chance.randrange(2**32)))
        for damage in DAMAGES
        for name in FILES
        if "." in name[1:] or name == ".lock"
    ]
    found += [_mode(name, mode) for name in FILES for mode in (0o000, 0o400, 0o500)]
    for number in (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EDQUOT):
        for once in (True, False):
            at = chance.randint(1, 60)
            what = f"{errno.errorcode[number]} at step {at}{'' if once else ' and later'}"
            found.append(Fault(what, meet=_at_step(at, _raising(number), once)))
    for name in (".", "checkpoint", "metrics.jsonl", ".lock"):
        for what, text in (("removed", None), ("replaced by a file", "a file")):
            at = chance.randint(1, 60)
            found.append(Fault(f"{name} {what} at step {at}", meet=_at_step(at, _taken(name, text), True)))
    found += [Fault(f"{room} bytes left", meet=_limited(room)) for room in (0, 1, 300, 4000, 9000)]
    found += [Fault(f"a disk with {room} KiB left", meet=_full(room)) for room in (0, 4, 8, 16, 24, 32)]
    return found


def _limited(size: int) -> Callable[[Path], Any]:
    return lambda out: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _full(room: int) -> Callable[[Path], Any]:
    """Moves the folder to a disk of its own, of which all but so many KiB are taken; where one may mount one."""

    def meet(out: Path) -> None:
        aside = out.parent / "aside"
        shutil.copytree(out, aside, symlinks=True)
        size = "size=1m,nr_inodes=1000"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", out], capture_output=True).returncode == 0:
            shutil.copytree(aside, out, symlinks=True, dirs_exist_ok=True)
            free = os.statvfs(out)
            (out / "filler").write_bytes(bytes(max(free.f_bavail * free.f_frsize - 1024 * room, 0)))
        shutil.rmtree(aside)

    return meet


# What comes of it


class Ended(NamedTuple):
    kind: str  # "result", "sentence" or "raw error", "hang"
    value: Any = None


def _forked(do: Callable[[], Any], folder: Path) -> Ended:
    """What comes of ``do`` in a fork of this process, which has run nothing yet."""
    answer = folder / "answer"
    child = os.fork()
    if child == 0:
        try:
            answer.write_bytes(pickle.dumps(_judged(do, folder)))
        finally:
            os._exit(0)
    until = time.monotonic() + SECONDS
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended("hang", f"over {SECONDS} s")
        time.sleep(0.002)
    if not answer.exists():
        return Ended("raw error", "the process died")
    ended = pickle.loads(answer.read_bytes())
    answer.unlink()
    return ended


def _judged(do: Callable[[], Any], folder: Path) -> Ended:
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    said, traces, fail = io.StringIO(), list[str](), cli._fail

    def failing(message: str, status: int = 2) -> int:
        traces.append(traceback.format_exc())
        return fail(message, status)

    cli._fail = failing
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = do()
        ended = Ended("result", value)
    except _Status as error:
        lines = [line for line in said.getvalue().splitlines() if not line.startswith("pyro-vae: warning: ")]
        good = len(lines) == 1 and lines[0].startswith("pyro-vae: error: ") and "[Errno" not in lines[0]
        good = good and len(lines[0].split()) >= 7 and error.args == (2,)
        ended = Ended("sentence" if good else "raw error", "\n".join([*([] if good else traces), *lines]))
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = str(PACKAGE) in last.filename and _raises(last.filename, last.lineno or 0)
        good = ours and isinstance(error, (ValueError, TypeError, OSError)) and len(str(error).split()) >= 5
        good = good and "[Errno" not in str(error)
        text = f"{type(error).__name__}: {error}"
        ended = Ended("sentence", text) if good else Ended("raw error", "".join(traceback.format_exception(error)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return ended


def _whole(out: Path) -> str | None:
    """The newest checkpoint that is whole, as its epoch and batch."""
    if not all(path.is_file() or not path.exists() for path in (out / "checkpoint").glob("*.safetensors")):
        return None
    with warnings.catch_warnings(), contextlib.suppress(ValueError, OSError):
        warnings.simplefilter("ignore")
        state = checkpoint.load(out / "checkpoint")[1]
        return f"{state['steps']:09d}"
    return None


def storm(times: int, seed: int, say: Callable[[str], Any] = print) -> tuple[Counter[str], list[str]]:
    """How often what came, and what was wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _templates(folder)
        expected: dict[str, Any] = {}
        for name in DONE:
            expected[name] = _case(folder, name, Fault("nothing"))[0].value
        chance = random.Random(seed)
        cases: list[tuple[str, Fault]] = []
        for index in range(times):
            if not cases:
                cases = [(name, fault) for name in DONE for fault in faults(seed + index)]
                chance.shuffle(cases)
            name, fault = cases.pop()
            ended, lost = _case(folder, name, fault)
            about = f"{name} with {fault.name}: {ended.kind}: {str(ended.value)[-1500:]}"
            kind = ended.kind
            if kind == "result" and not _is_right(name, ended.value, expected[name]):
                kind = "another result"
            if lost:
                kind = "a checkpoint lost"
                about += f" {lost}"
            counts[kind] += 1
            if kind not in ("result", "sentence"):
                wrong.append(f"{kind}: {about}")
                say(wrong[-1])
    return counts, wrong


def _is_right(name: str, value: Any, expected: Any) -> bool:
    if name == "plot":  # there are no curves of a history that is empty
        return {*value, "learning_curves.png"} == {*expected}
    return value == expected


def _case(folder: Path, name: str, fault: Fault) -> tuple[Ended, str]:
    """What comes of doing one thing in a folder that meets a fault, and which checkpoint is lost by it."""
    out = folder / "run"
    shutil.copytree(folder / ("python" if name == "fit" else "typed"), out, symlinks=True)
    try:
        fault.put(out)
        before = _whole(out)

        def do() -> Any:
            fault.meet(out)
            return DONE[name](out)

        ended = _forked(do, folder)
        after = _whole(out)
        lost = fault.name.partition(" ")[2].startswith(("removed", "replaced")) or before is None
        return ended, "" if lost or (after is not None and after >= before) else f"(was {before}, is {after})"
    finally:
        subprocess.run(["umount", out], capture_output=True)
        for path in [out, *out.rglob("*")] if out.is_dir() else []:
            if not path.is_symlink():
                path.chmod(0o700)
        _gone(out)
        for path in folder.glob("elsewhere-*"):
            _gone(path)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    kills.prepare()
    for name in ("matplotlib.pyplot", "scipy.stats", "sklearn.neighbors", "sklearn.manifold"):
        importlib.import_module(name)
    started = time.monotonic()
    counts, wrong = storm(options.times, options.seed)
    print(", ".join(f"{name} {number:,}" for name, number in counts.items()))
    print(f"{len(wrong)} of {options.times:,} wrong; seed {options.seed}; {time.monotonic() - started:.0f} s")
    return int(bool(wrong))
