"""Signals during training, as who uses a Unix expects them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vae
from pyro_vae import compiled
from pyro_vae.models import MLPVAE
from pyro_vae.training import Linear, checkpoint
from pyro_vae.training.trainer import Trainer

BOTH = (signal.SIGINT, signal.SIGTERM)


def fit(**options: Any) -> pyro_vae.Run:
    torch.manual_seed(0)
    x = (torch.rand(20, 6) < 0.5).float()
    given = {"epochs": 3, "batch_size": 10, "compile": "eager", "progress": False, **options}
    return pyro_vae.fit(MLPVAE((6,), latent_dim=2, hidden=[4]), x, **given)


def sending(*numbers: int) -> Callable[[Any], None]:
    def send(run: Any) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", BOTH)
def test_what_is_ignored_stays_ignored(number: int) -> None:
    """As under nohup, or of a process in the background of a shell."""
    with handled(number, signal.SIG_IGN):
        assert len(fit(callbacks=[sending(number)]).history) == 3
        assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_one_ends_at_once(tmp_path: Path, number: int, kind: type[BaseException]) -> None:
    """And is what the first was; nothing is saved."""
    with pytest.raises(kind, match=r"training was (interrupted|terminated) \(checkpoint in .*; go on with resume=True"):
        fit(callbacks=[sending(number, number)], out=tmp_path)
    assert not checkpoint.exists(tmp_path / "checkpoint")


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_during_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[BaseException]
) -> None:
    """It ends the process, with all that was trained."""
    save = checkpoint.save

    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), number)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(kind, match="checkpoint in"):
        fit(out=tmp_path)
    monkeypatch.undo()
    assert len(fit(out=tmp_path, resume=True).history) == 3


def test_behind_the_last_batch_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch tells the beta that its last step met, though that was in another process."""
    options: dict[str, Any] = {"beta": Linear(0.0, 1.0, duration=1.0), "checkpoint_every": 0.0}
    whole = fit(out=tmp_path / "whole", **options)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(out=tmp_path / "parts", **options)
    monkeypatch.undo()
    parts = fit(out=tmp_path / "parts", resume=True, **options)
    assert [entry["beta"] for entry in parts.history] == [entry["beta"] for entry in whole.history]


def test_what_is_forked_ends_by_sigterm() -> None:
    ended = []

    def fork(run: Any) -> None:
        ready, begun = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(begun, b"1")
            time.sleep(20)
            os._exit(0)
        os.read(ready, 1)
        os.kill(child, signal.SIGTERM)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert len(fit(callbacks=[fork], epochs=2).history) == 2
    assert ended == [-signal.SIGTERM] * 2


def test_what_a_signal_has_failed_beside(tmp_path: Path) -> None:
    """A worker or a compiler that meets the same signal: the run ends by the signal, and not by their error."""

    def fails(run: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("a worker was terminated")

    with pytest.raises(SystemExit, match="training was terminated"):
        fit(callbacks=[fails], out=tmp_path)


@pytest.mark.filterwarnings("ignore:programs run traced")
@pytest.mark.parametrize("compile", ["auto", "inductor"])
def test_a_compiler_that_meets_the_same_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compile: str) -> None:
    """No step is kept that would be compiled in a run that goes on."""

    def fails(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("the C++ compiler was interrupted")

    monkeypatch.setattr(compiled, "compiled_by_inductor", fails)
    monkeypatch.setattr(compiled, "_RUNS", 0)  # "auto" does not wait for a long training
    with pytest.raises(KeyboardInterrupt, match="training was interrupted"):
        fit(out=tmp_path, compile=compile)
    assert not checkpoint.exists(tmp_path / "checkpoint")


def test_in_another_thread_nothing_is_handled() -> None:
    before = [signal.getsignal(number) for number in BOTH]
    seen: list[Any] = []
    callbacks = [lambda run: seen.append([signal.getsignal(number) for number in BOTH])]
    thread = threading.Thread(target=lambda: fit(callbacks=callbacks, epochs=1))
    thread.start()
    thread.join()
    assert seen == [before]


SLOW = """
import os, signal, sys
from pyro_vae import cli
from pyro_vae.training import trainer
end_epoch = trainer.Trainer._end_epoch
def ended(self, speed):
    end_epoch(self, speed)
    os.kill(os.getpid(), int(sys.argv[1]))
trainer.Trainer._end_epoch = ended
raise SystemExit(cli.main("train --model.hidden [4] --epochs 3 --compile eager --progress false --out run".split()))
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_the_status_of_a_command(tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-c", SLOW, str(int(number))]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("pyro-vae: error: training was ")
    assert "--resume true" in ended.stderr


#: In the place of Pyro: Ctrl-C while it is imported, and a library that takes any exception for its own.
INTERRUPTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
except BaseException as error:
    raise ImportError("no Pyro") from error
"""


def test_an_interrupt_of_what_is_imported(tmp_path: Path) -> None:
    """The command line says it in its own words; a program that imports the library has its exception."""
    (tmp_path / "pyro.py").write_text(INTERRUPTED)
    (tmp_path / "pyro-vae").write_text("from pyro_vae.cli import main\nraise SystemExit(main())\n")
    path = os.pathsep.join([str(tmp_path), str(Path(pyro_vae.__file__).parents[1])])

    def ended(*start: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run([sys.executable, *start], cwd=tmp_path, env=env, capture_output=True, text=True)

    for start in (("-m", "pyro_vae", "train", "--epochs", "1"), ("-mpyro_vae",), ("pyro-vae", "train")):
        command = ended(*start)
        assert (command.returncode, command.stderr) == (130, "pyro-vae: error: interrupted\n")
    program = ended("-c", "import pyro_vae")
    assert program.returncode == 1
    assert "KeyboardInterrupt" in program.stderr
