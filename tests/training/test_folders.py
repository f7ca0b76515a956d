"""The folder of a run: one training at a time, checkpoints when they are due, and what cannot be written or kept."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from storm import starters
from torch import nn

import pyro_vae
from pyro_vae._files import LOCK, holding, write_text
from pyro_vae.models import MLPVAE
from pyro_vae.training import checkpoint
from pyro_vae.training.records import read_metrics


def fit(out: Path, **options):
    torch.manual_seed(0)
    pair = options.pop("pair", None) or MLPVAE((6,), latent_dim=2, hidden=[4])
    x = (torch.rand(40, 6) < 0.5).float()
    given = {"epochs": 2, "batch_size": 10, "compile": "eager", "progress": False, **options}
    return pyro_vae.fit(pair, x, out=out, **given)


@pytest.mark.parametrize(
    ("times", "count"), [(1, 2), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((4, 2), (2, 5)))]
)
def test_two_that_start_at_once(times: int, count: int) -> None:
    """One of two trainings in a folder is refused, new folders are not shared, no result is lost."""
    assert not any(starters.storm(times=times, count=count).values())


def test_a_folder_is_held_for_the_life_of_a_run(tmp_path: Path) -> None:
    """Against this process as well, and free after a kill."""
    out = tmp_path / "run"
    with holding(out), pytest.raises(ValueError, match="is in use: another training writes there"):
        fit(out)
    assert not out.exists()  # nothing had begun
    child = os.fork()
    if child == 0:
        with holding(out):
            write_text(out / "begun", "")
            signal.pause()
    while not (out / "begun").exists():
        pass
    with pytest.raises(ValueError, match="is in use"):
        fit(out)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert fit(out).history


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        fit(tmp_path / "run", batch_size=100)
    assert not (tmp_path / "run").exists()


def test_checkpoints_inside_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One when it is due, however long an epoch is."""
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda folder, t, state: (saved.append(state["batches_done"]), save(folder, t, state))
    )
    whole = fit(tmp_path / "run", checkpoint_every=0.0, epochs=1)
    assert saved == [1, 2, 3, 4, 0]
    assert checkpoint.load(tmp_path / "run" / "checkpoint")[1]["seconds"] == whole.history[-1]["seconds"]


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    left = [tmp_path / "checkpoint" / ".last.safetensors.0a1b2c3d", tmp_path / ".metrics.jsonl.aaaa_bbb"]
    kept = tmp_path / ".gitignore"
    for path in (*left, kept):
        path.touch()
    fit(tmp_path)
    assert kept.exists()
    assert not any(path.exists() for path in left)


def test_files_are_of_the_users_mask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        fit(tmp_path)
    finally:
        os.umask(mask)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != LOCK:
            assert path.stat().st_mode & 0o777 == 0o640, path


def test_a_full_disk(tmp_path: Path) -> None:
    """A sentence, and the last good checkpoint stays; a limit of the size of files stands for the disk."""
    fit(tmp_path)
    before = (tmp_path / "checkpoint" / "last.safetensors").read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*last.safetensors \(.*\). What was there before is kept"):
            fit(tmp_path, epochs=4, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "checkpoint" / "last.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "checkpoint").iterdir() if path.name.startswith(".")] == []
    assert len(fit(tmp_path, epochs=4, resume=True).history) == 4


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_taken_away_is_not_written_to(tmp_path: Path, again: bool) -> None:
    """Not even where another training has begun in one of its name."""
    out = tmp_path / "run"

    def callback(run: pyro_vae.Run) -> None:
        if out.exists():
            shutil.rmtree(out)
            if again:
                out.mkdir()
                (out / LOCK).touch()

    with pytest.raises(OSError, match="was removed, or made anew, while a training wrote there"):
        fit(out, callbacks=[callback], checkpoint_every=0.0)
    assert out.exists() == again
    assert not again or [path.name for path in out.iterdir()] == [LOCK]


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "mine").touch()


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "kind"), [("previous.safetensors", _folder), ("last.safetensors", _pipe), ("last.safetensors", _folder)]
)
def test_what_is_no_file_in_the_place_of_a_checkpoint(tmp_path: Path, name: str, kind: Callable[[Path], None]) -> None:
    """Soon, and in a sentence where it cannot go on; the other checkpoint stays whole."""
    fit(tmp_path, checkpoint_every=0.0)
    kind(tmp_path / "checkpoint" / name)
    if kind is _pipe:
        assert len(fit(tmp_path, epochs=3, resume=True).history) == 3
    else:
        with pytest.raises(OSError, match=r"cannot write .*safetensors \(Is a directory\)"):
            fit(tmp_path, epochs=3, resume=True)
        assert checkpoint.load(tmp_path / "checkpoint")


@pytest.mark.parametrize("content", ["[3]\n", "{", "Lorem", "[" * 100_000, b"\xff", _pipe, _folder])
def test_metrics_that_are_damaged(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "metrics.jsonl"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=r"metrics\.jsonl (is damaged|\((it is no file|Is a directory)\))"):
        read_metrics(tmp_path)


class Secret(nn.Module):
    """A module with a state that is no tensor."""

    def __init__(self, state: object) -> None:
        super().__init__()
        self.state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state


def secretive(state: object) -> nn.Module:
    pair = MLPVAE((6,), latent_dim=2, hidden=[4])
    pair.secret = Secret(state)
    return pair


def test_what_a_checkpoint_cannot_keep_is_refused_before_the_first_step(tmp_path: Path) -> None:
    message = (
        r"checkpoint in .* cannot keep all of this run: pair/secret._extra_state/1 is of the class builtins.object"
    )
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, pair=secretive([1, object()]))
    state = {"numbers": np.arange(3), "one": np.float32(2.5), "pair": (1, "two"), "flag": np.bool_(True)}
    fit(tmp_path, pair=secretive(state))
    resumed = fit(tmp_path, pair=secretive(None), epochs=3, resume=True).pair.secret.state
    assert (resumed["numbers"] == state["numbers"]).all()
    assert {**resumed, "numbers": 0} == {**state, "numbers": 0}


FORKED = """
import os, sys
import torch
import pyro_vae as pv

here, codes = os.getpid(), []

def callback(run):
    if os.getpid() == here and len(run.history) == 1 and (child := os.fork()):
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

x, vae = torch.zeros(40, 6), pv.models.MLPVAE((6,), 2, (4,))
options = dict(epochs=3, batch_size=10, compile="eager", progress=False)
try:
    pv.fit(vae, x, out=sys.argv[1], callbacks=[callback], **options)
except ValueError as error:
    assert os.getpid() != here and "is in use: another training writes there" in str(error), error
    os._exit(7)
assert os.getpid() == here and codes == [7], codes
"""


def test_a_forked_copy_of_a_training_does_not_write(tmp_path: Path) -> None:
    """In a process of its own: autograd refuses to go on in a copy of one that has used its threads."""
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "run")], check=True, timeout=120)
    assert [entry["epoch"] for entry in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_numbers_that_a_callback_writes_into_the_history(tmp_path: Path) -> None:
    def callback(run: pyro_vae.Run) -> None:
        run.history[-1] |= {"own": np.float32(0.5), "tensor": torch.tensor(2)}

    fit(tmp_path, callbacks=[callback])
    assert fit(tmp_path, epochs=3, resume=True).history[0]["own"] == 0.5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tensor"] for line in lines[:2]] == [2, 2]


def test_a_checkpoint_of_another_format(tmp_path: Path) -> None:
    """The first format had its state in the header; one that comes later is named."""
    from safetensors.torch import save_file

    tensors, text = {"w": torch.ones(2)}, json.dumps({"step": 1})
    path = tmp_path / "last.safetensors"
    save_file(tensors, path, metadata={"state": text, "sha256": checkpoint.digest(tensors, text)})
    assert checkpoint.load(tmp_path)[1] == {"step": 1}
    save_file(tensors, path, metadata={"format": "99", "sha256": ""})
    with pytest.raises(ValueError, match=r"is of a newer pyro_vae \(format 99\)"):
        checkpoint.load(tmp_path)
