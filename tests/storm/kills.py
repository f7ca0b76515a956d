"""Trainings that are killed before each step in the file system and at any moment, and end with a whole one's bits.

A kill is one of SIGKILL, SIGTERM, SIGINT, one of the last two twice, and the end of the disk quota in the middle of a
write. A training is started again until it ends, and killed again on the way.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

import pyro_vae
from pyro_vae import compiled
from pyro_vae.training import checkpoint
from pyro_vae.training.records import read_metrics
from storm.trainings import AXES, Configuration, configurations

# One process


class Kill(NamedTuple):
    """How a training is ended, and when.

    Attributes:
        numbers: of the signals, sent one after the other; of none, the kernel kills it as it writes over its limit.
        step: before which step in the file system.
        seconds: or after how many.
        size: or at which size of a file.
    """

    numbers: tuple[int, ...] = ()
    step: int | None = None
    seconds: float | None = None
    size: int | None = None

    def __str__(self) -> str:
        names = " ".join(signal.Signals(number).name for number in self.numbers) or "SIGXFSZ"
        at = f"step {self.step}" if self.step is not None else None
        return f"{names} at {at or (f'{self.seconds:.3f} s' if self.size is None else f'{self.size} bytes')}"


class Ended(NamedTuple):
    """How a process ended: ``kind`` is "whole", "killed", "refused" (by a sentence) or "failed"."""

    kind: str
    found: dict[str, Any] = {}  # noqa: RUF012
    seconds: float = 0.0


_EVENTS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


class _Steps:
    """Counts what a process does in a folder, and sends itself the signals before one of them."""

    def __init__(self, folder: Path, kill: Kill | None) -> None:
        self.count, self.folder, self.kill = 0, str(folder), kill
        sys.addaudithook(self.see)
        fsync = os.fsync
        os.fsync = lambda handle: (self.step(), fsync(handle))[1]  # which tells no hook

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(self.folder):
            self.step()

    def step(self) -> None:
        self.count += 1
        if self.kill is not None and self.kill.step is not None:
            place = self.count - self.kill.step
            if 0 <= place < len(self.kill.numbers):
                os.kill(os.getpid(), self.kill.numbers[place])


def process(configuration: Configuration, out: Path, kill: Kill | None = None, limit: float = 300) -> Ended:
    """Trains in a process of its own, a fork of this one, which has run nothing yet."""
    answer = out.parent / f"{out.name}.answer"
    started = time.monotonic()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is who handles them
    child = os.fork()
    if child == 0:
        try:
            _child(configuration, out, kill, answer)
        finally:
            os._exit(70)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    at = None if kill is None or kill.seconds is None else started + kill.seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        now = time.monotonic()
        if at is not None and now >= at and kill is not None:
            for number in kill.numbers:
                os.kill(child, number)
                time.sleep(0.002)
            at = None
        if now - started > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended("failed", {"error": f"over {limit} s"})
        time.sleep(0.001)
    seconds = time.monotonic() - started
    found: dict[str, Any] = {}
    if answer.exists():
        found = pickle.loads(answer.read_bytes())
        answer.unlink()
    code = os.waitstatus_to_exitcode(status)
    kinds = {0: "whole", 3: "killed", 4: "failed", 5: "refused"}
    if code < 0 or (kill is not None and code == 70):  # as a second signal is sent while the first one is answered
        return Ended("killed" if kill is not None else "failed", found or {"error": f"signal {-code}"}, seconds)
    return Ended(kinds.get(code, "failed"), found or {"error": f"status {code}"}, seconds)


def _child(configuration: Configuration, out: Path, kill: Kill | None, answer: Path) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (1, 2):
        os.dup2(null, handle)
    code, found = 0, {}
    # Of seconds: a graph that comes seldom is compiled after few uses, so that a run of few steps has both kinds.
    compiled.Compiled._uses_before_compiling, compiled._RUNS = 3, 1
    steps = _Steps(out, kill)
    if kill is not None and kill.size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kill.size, resource.RLIM_INFINITY))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run = configuration.fit(out)
            found = {**outcome(run, out), "steps": steps.count}
        found["damaged"] = [str(w.message) for w in said if "Going on from" in str(w.message)]
    except (KeyboardInterrupt, SystemExit):
        code = 3
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    except BaseException as error:
        code, trace = 5 if isinstance(error, (ValueError, TypeError, FloatingPointError)) else 4, traceback.format_exc()
        if kill is not None and kill.size is not None and "File size limit exceeded" in trace:
            code = 3  # the limit has met inductor's compiler, of which the run says that it failed
        found = {"error": f"{type(error).__name__}: {error}", "trace": trace}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    written = answer.with_name(f"{answer.name}.part")  # a late kill may come here as well
    written.write_bytes(pickle.dumps(found))
    written.replace(answer)
    os._exit(code)


_TIMES = ("seconds", "data_per_second")


def _told(history: list[dict[str, Any]]) -> str:
    return json.dumps([{name: value for name, value in entry.items() if name not in _TIMES} for entry in history])


def outcome(run: pyro_vae.Run, out: Path) -> dict[str, Any]:
    """All that a run ends with, but for times, as digests by what it is of."""
    tensors, state = checkpoint.load(out / "checkpoint")
    by_kind: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        by_kind.setdefault(name.partition("/")[0], {})[name] = tensor
    rest = {name: value for name, value in state.items() if name not in ("seconds", "history", "configuration")}
    found = {f"tensors of {kind}": checkpoint.digest(held) for kind, held in by_kind.items()}
    found |= {f"state of {name}": json.dumps(value) for name, value in rest.items()}
    found["weights"] = checkpoint.digest({name: value for name, value in run.pair.state_dict().items()})
    found["history"], found["metrics"] = _told(run.history), _told(read_metrics(out))
    found["history that is kept"] = _told(checkpoint.unpack(state["history"], tensors))
    found["files"] = sorted(str(path.relative_to(out)) for path in out.rglob("*") if "previous" not in path.name)
    return {"outcome": {name: str(value) for name, value in found.items()},
            "size": (out / "checkpoint" / checkpoint.LAST).stat().st_size}  # fmt: skip


# Many


@dataclass
class Count:
    """What came of a storm."""

    kills: Counter[str] = field(default_factory=Counter)
    trained: Counter[str] = field(default_factory=Counter)
    divergences: list[str] = field(default_factory=list)
    not_resumable: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    configurations: int = 0

    @property
    def wrong(self) -> list[str]:
        return [*self.divergences, *self.not_resumable, *self.damaged]


_SIGNALS = (
    (signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGKILL,), (signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGKILL),
)  # fmt: skip


def storm(times: int, seed: int, modes: tuple[str, ...], each: int = 12, say: Callable[[str], Any] = print) -> Count:
    """``times`` kills, ``each`` of every configuration."""
    count, chance = Count(), random.Random(seed)
    drawn = configurations(seed, modes)
    # In memory, where there is some: thousands of runs wait for the disk otherwise.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        while sum(count.kills.values()) < times:
            configuration = next(drawn)
            _one(configuration, Path(folder), min(each, times - sum(count.kills.values())), chance, count, say)
    return count


def _one(
    configuration: Configuration, folder: Path, kills: int, chance: random.Random, count: Count, say: Callable[..., Any]
) -> None:
    reference = process(configuration, folder / "whole")
    shutil.rmtree(folder / "whole", ignore_errors=True)
    if reference.kind == "refused":
        count.refused[reference.found["error"].partition(":")[0]] += 1
        return
    if reference.kind != "whole":
        count.not_resumable.append(f"{configuration}: not even once: {reference.found.get('trace', reference.found)}")
        say(count.not_resumable[-1])
        return
    count.configurations += 1
    count.trained.update([*configuration.names, configuration.compile])
    last = reference.found["steps"]
    places = chance.sample(range(1, last + 1), last)  # each once, before any comes again
    done = 0
    while done < kills:
        out, story = folder / "run", list[str]()
        first = True
        while True:
            kill = _kill(chance, places if first else None, reference, last) if done < kills else None
            first = first and kill is None
            ended = process(configuration, out, kill)
            if ended.kind != "killed":
                break
            story.append(str(kill))
            count.kills[str(kill).partition(" at")[0]] += 1
            done += 1
        about = f"{configuration}: after {'; '.join(story) or 'nothing'}"
        if ended.kind != "whole":
            count.not_resumable.append(f"{about}: {ended.found.get('trace') or ended.found}")
            say(f"not resumable: {count.not_resumable[-1]}")
        elif ended.found["outcome"] != reference.found["outcome"]:
            ours, theirs = ended.found["outcome"], reference.found["outcome"]
            differ = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            where = _difference(ours.get(differ[-1], ""), theirs.get(differ[-1], ""))
            count.divergences.append(f"{about}: {', '.join(differ)}: {where} {ended.found['damaged']}")
            say(f"divergence: {count.divergences[-1]}")
        elif ended.found["damaged"]:
            count.damaged.append(f"{about}: {ended.found['damaged']}")
            say(f"damaged: {count.damaged[-1]}")
        shutil.rmtree(out, ignore_errors=True)
        if ended.kind != "whole" and not story:
            return


def _difference(one: str, other: str) -> str:
    """Where two texts differ."""
    place = max(len(os.path.commonprefix([one, other])) - 40, 0)  # noqa: RUF071 - of texts
    return f"...{one[place : place + 100]}... and ...{other[place : place + 100]}..."


def _kill(chance: random.Random, places: list[int] | None, reference: Ended, last: int) -> Kill:
    kind = chance.random()
    if places and kind < 0.8:
        return Kill(chance.choice(_SIGNALS), step=places.pop())
    if kind < 0.3:
        return Kill(size=chance.randrange(0, math.ceil(1.2 * reference.found["size"])))
    if kind < 0.6:
        return Kill(chance.choice(_SIGNALS), step=chance.randint(1, last))
    return Kill(chance.choice(_SIGNALS), seconds=chance.uniform(0, reference.seconds))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=12, help="kills of each configuration")
    parser.add_argument("--modes", default="eager,eager,traced", help="drawn from these; inductor takes seconds")
    parser.set_defaults(run=run)


def prepare() -> None:
    """Imports what a training imports on its way, so that not every process does; nothing is run."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    torch.set_num_threads(1)
    for name in ("_dynamo", "_functorch.aot_autograd", "_inductor.compile_fx", "fx.experimental.proxy_tensor"):
        importlib.import_module(f"torch.{name}")


def run(options: argparse.Namespace) -> int:
    prepare()
    started = time.monotonic()
    found = storm(options.times, options.seed, tuple(options.modes.split(",")), options.each)
    seconds = time.monotonic() - started
    total = sum(found.kills.values())
    for kind, names in {**AXES, "compile": set(options.modes.split(","))}.items():
        print(f"{kind}: {', '.join(f'{name} {found.trained[name]}' for name in names)}")
    print(f"refused configurations: {sum(found.refused.values())}")
    print(", ".join(f"{name} {number}" for name, number in found.kills.items()))
    print(
        f"{total:,} kills of {found.configurations} configurations: {len(found.divergences)} divergences, "
        f"{len(found.not_resumable)} not resumable, {len(found.damaged)} damaged; seed {options.seed}; {seconds:.0f} s"
    )
    return int(bool(found.wrong))
