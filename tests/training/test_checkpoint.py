"""training.checkpoint: what is read is what was written, or it is said that it is not."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pyro_vae._files import write_text, write_whole
from pyro_vae.training import checkpoint
from pyro_vae.training.checkpoint import LAST, PREVIOUS, CheckpointError, load, save

TENSORS = {
    "float32": torch.randn(3, 4),
    "float64": torch.randn(2, 1, 2, dtype=torch.float64),
    "bfloat16": torch.randn(5).bfloat16(),
    "float16": torch.randn(5).half(),
    "int64": torch.tensor([-3, 2**40]),
    "uint8": torch.arange(7, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.25),
    "counter": torch.tensor(7),
    "half scalar": torch.tensor(0.5).bfloat16(),
    "empty": torch.zeros(0, 3),
    "transposed": torch.randn(4, 3).T,
    "view": torch.arange(10.0)[2:5],
    "expanded": torch.ones(1).expand(4),
    "not finite": torch.tensor([float("nan"), float("inf"), -0.0]),
    "a.dotted/näme": torch.ones(1, requires_grad=True),
}
STATE = {"epoch": 3, "best": [-87.25, None], "name": "größer", "nested": {"a": [1, 2.5, True]}, "third": 1 / 3}


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    tensor = tensor.detach().contiguous()
    return tensor.dtype, tensor.shape, tensor.flatten().view(torch.uint8).numpy().tobytes()


def assert_bitwise(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert bits(ours[name]) == bits(theirs[name]), name


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint"
    assert not checkpoint.exists(folder)
    save(folder, TENSORS, STATE)
    assert checkpoint.exists(folder)
    tensors, state = load(folder)
    assert_bitwise(tensors, TENSORS)
    assert state == STATE
    assert [path.name for path in folder.iterdir()] == [LAST]


def test_what_is_saved_is_of_that_moment(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    save(tmp_path, {"w": tensor, "same": tensor}, {})  # shared memory is no obstacle
    tensor.add_(1)
    tensors, state = load(tmp_path)
    assert tensors["w"].tolist() == tensors["same"].tolist() == [0, 0, 0]
    assert state == {}
    save(tmp_path, {}, {})
    assert load(tmp_path) == ({}, {})


def test_keeps_the_newest_and_the_one_before(tmp_path: Path) -> None:
    for step in range(4):
        save(tmp_path, {"w": torch.full((2,), float(step))}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    assert load(tmp_path)[1] == {"step": 3}
    (tmp_path / LAST).unlink()
    assert load(tmp_path)[1] == {"step": 2}
    assert checkpoint.exists(tmp_path)


def test_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    save(tmp_path, TENSORS, STATE)
    tensors = load_file(tmp_path / LAST)
    assert json.loads(bytes(tensors.pop("state.json").numpy())) == STATE
    assert_bitwise(tensors, TENSORS)
    with safe_open(tmp_path / LAST, framework="pt") as file:
        assert file.metadata().keys() == {"format", "sha256"}
    content = (tmp_path / LAST).read_bytes()
    assert content[8:9] == b"{"
    assert not content.startswith((b"PK", b"\x80"))  # neither torch's archive nor a pickle
    assert (tmp_path / LAST).stat().st_mode & 0o777 == 0o644


def test_nothing_is_pickled(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path, {}, {"object": object()})
    assert not checkpoint.exists(tmp_path)


# Damage


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def other_digest(content: bytes) -> bytes:
    at = content.index(b"sha256") + 12
    return content[:at] + (b"0" if content[at : at + 1] != b"0" else b"1") + content[at + 1 :]


def of_torch(content: bytes) -> bytes:
    torch.save({"w": torch.ones(2)}, file := io.BytesIO())
    return file.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-5],
    "cut short": lambda content: content[:20],
    "emptied": lambda content: b"",
    "edited tensor": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "edited state": lambda content: replaced(content, b'step": 1', b'step": 9'),
    "edited digest": other_digest,
    "renamed tensor": lambda content: replaced(content, b'"weight"', b'"weighs"'),
    "other shape": lambda content: replaced(content, b"[2,3]", b"[3,2]"),
    "foreign": of_torch,
    "without metadata": lambda content: safetensors.torch.save({"weight": torch.ones(2, 3)}),
}
damages = pytest.mark.parametrize("damage", DAMAGES)


def harm(path: Path, damage: str) -> None:
    path.write_bytes(DAMAGES[damage](path.read_bytes()))


def two(folder: Path) -> None:
    for step in range(2):
        save(folder, {"weight": torch.full((2, 3), float(step))}, {"step": step})


@damages
def test_a_damaged_file_is_noticed_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    two(tmp_path)
    harm(tmp_path / LAST, damage)
    with pytest.warns(UserWarning, match=r"last\.safetensors (cannot be read|has been altered)") as caught:
        tensors, state = load(tmp_path)
    assert f"Going on from the checkpoint before it, {tmp_path / PREVIOUS}" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert state == {"step": 0}
    assert tensors["weight"].eq(0).all()


@damages
def test_both_damaged(tmp_path: Path, damage: str) -> None:
    two(tmp_path)
    harm(tmp_path / LAST, damage)
    harm(tmp_path / PREVIOUS, "cut")
    with pytest.raises(CheckpointError, match=r"last\..*previous\..*no other checkpoint; train again"):
        load(tmp_path)


def test_an_undamaged_file_gives_no_warning(tmp_path: Path) -> None:
    two(tmp_path)
    harm(tmp_path / PREVIOUS, "cut")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path)[1] == {"step": 1}


def test_a_damaged_file_is_never_all_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest is damaged, training goes on from the one before, and the next save is killed at its last moment."""
    two(tmp_path)
    harm(tmp_path / LAST, "cut")
    with pytest.warns(UserWarning, match="Going on"):
        load(tmp_path)
    replace, moves = os.replace, []

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == LAST:
            raise KeyboardInterrupt
        moves.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, {"weight": torch.ones(2, 3)}, {"step": 2})
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load(tmp_path)[1] == {"step": 0}


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*Give the folder of a run"):
        load(tmp_path)
    assert issubclass(CheckpointError, ValueError)


# Writing


@pytest.mark.parametrize("moment", ["write", "sync", "rename"])
def test_a_write_that_is_killed_leaves_the_old_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    two(tmp_path)

    def killed(*args: Any, **kwargs: Any) -> None:
        if moment == "rename" and Path(args[1]).name != LAST:
            return replace(*args)
        raise KeyboardInterrupt

    replace = os.replace
    if moment == "write":
        monkeypatch.setattr(checkpoint, "save_file", killed)
    else:
        monkeypatch.setattr(os, "fsync" if moment == "sync" else "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, {"weight": torch.ones(2, 3)}, {"step": 2})
    monkeypatch.undo()
    assert load(tmp_path)[1] == {"step": 1}
    assert {path.name for path in tmp_path.iterdir()} <= {LAST, PREVIOUS}
    save(tmp_path, {"weight": torch.ones(2, 3)}, {"step": 2})
    assert load(tmp_path)[1] == {"step": 2}


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    two(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
    (tmp_path / LAST).unlink()
    assert load(tmp_path)[1] == {"step": 0}


def test_write_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    write_text(path, "größer\n")
    assert path.read_text(encoding="utf-8") == "größer\n"

    def half(temporary: Path) -> None:
        assert temporary.parent == path.parent  # renamed within one file system
        temporary.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(path, half)
    assert path.read_text(encoding="utf-8") == "größer\n"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("below", ["", "checkpoint"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, below: str) -> None:
    """A file stands where the folder should be (modes would not stop a superuser)."""
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=r"cannot write to the folder .*run.*Choose another output folder"):
        save(tmp_path / "run" / below, {}, {})
    assert (tmp_path / "run").read_text() == "a file"


# Optimizers


def quadratic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def advance(module: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adam fused": (torch.optim.Adam, {"fused": True}),
    "adam tensor rate": (torch.optim.Adam, {"lr": torch.tensor(0.01)}),
    "adamw amsgrad": (torch.optim.AdamW, {"betas": (0.8, 0.95), "amsgrad": True, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adamax": (torch.optim.Adamax, {}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_bit_by_bit(tmp_path: Path, name: str) -> None:
    """Each group with its own rate, which a schedule has moved since."""

    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        kind, options = OPTIMIZERS[name]
        module = quadratic()
        groups = [{"params": module[0].parameters(), "weight_decay": 0.3}, {"params": module[2].parameters()}]
        return module, kind(groups, **{"lr": 0.01, **options})

    def moved(steps: Iterable[int]) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.9 * group["lr"]
        advance(module, optimizer, steps)

    module, optimizer = begun()
    for steps in ((), range(3)):  # before the first step, and after some
        moved(steps)
        tensors: dict[str, Tensor] = {}
        packed = checkpoint.pack(optimizer.state_dict(), tensors, "optimizer")
        save(tmp_path, {**tensors, **module.state_dict(prefix="pair/")}, {"optimizer": packed})
        before = [{k: (v, type(v)) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        moved(range(3, 6))
        whole = module
        module, optimizer = begun()
        tensors, state = load(tmp_path)
        checkpoint.load_weights(module, tensors)
        optimizer.load_state_dict(checkpoint.unpack(state["optimizer"], tensors))
        after = [{k: (v, type(v)) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        assert after == before
        moved(range(3, 6))
        assert_bitwise(module.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    "value", [1, None, "a", [], (), {}, [1, (2.5, [True])], {"a/b": {3: (4,)}, 5: [{}]}, {"tensor": {"items": "b"}}]
)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    """Keys, lists and tuples are what they were, also where a dictionary looks like what packing makes."""
    tensors = {}
    packed = checkpoint.pack([value, {"x": torch.ones(2)}], tensors, "state")
    assert list(tensors) == ["state/1/x"]
    again, _ = checkpoint.unpack(json.loads(json.dumps(packed)), tensors)
    assert again == value
    assert repr(again) == repr(value)


def test_each_tensor_that_is_packed_has_a_name_of_its_own() -> None:
    nest = {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}}
    packed = checkpoint.pack(nest, tensors := {}, "state")
    again = checkpoint.unpack(packed, tensors)
    assert torch.equal(again["a/b"], nest["a/b"])
    assert torch.equal(again["a"]["b"], nest["a"]["b"])
