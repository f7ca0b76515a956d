"""A few of the calls, kills and files of :mod:`storm`; ``python tests/storm`` runs many."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from storm import api, lines
from storm.values import GOOD, good_of
from torch import nn

from pyro_vae import plotting
from pyro_vae._checks import checked
from pyro_vae.models import MLPVAE


def test_bad_arguments() -> None:
    """Each public callable some seven times: a result or a sentence, and nothing is left changed."""
    wrong = [f"{call}: {found}" for call, found in api.storm(5000, seed=0) if found.kind not in api.FINE]
    assert not wrong, "\n".join(wrong)


def test_good_arguments() -> None:
    """What is refused above is refused for its bad arguments: most callables take the good ones."""
    taken = 0
    for name, function in api.public().items():
        own, parameters = good_of(name, function), inspect.signature(function).parameters
        names = [key for key in parameters if key in own or (key in GOOD and parameters[key].default is inspect._empty)]
        missing = [key for key, p in parameters.items() if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
        if set(missing) <= set(names):
            made = api.Call(name, function, (), {}, "")
            taken += api.outcome(api.filled(made, random.Random(0), bad=0)).kind == "result"
    assert taken > 0.7 * len(api.public())


@pytest.mark.parametrize(
    "storm",
    [
        "kills --times 2 --seed 5",
        *(
            pytest.param(many, marks=pytest.mark.slow)
            for many in ("kills --times 20 --seed 5", "disks --times 15 --seed 1")
        ),
    ],
)
def test_a_few(storm: str) -> None:
    """By a process of its own, which forks before it has run anything."""
    command = [sys.executable, str(Path(api.__file__).parent), *storm.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr


class Judge:
    """That the judge sees what it is there to see."""

    def raw(self) -> None:
        return None + 1  # type: ignore[operator]

    def hangs(self) -> None:
        while True:
            pass

    def changes(self) -> None:
        torch.set_default_dtype(torch.float64)
        np.random.seed(0)  # noqa: NPY002


@pytest.mark.parametrize(("name", "kind"), [("raw", "raw error"), ("hangs", "hang"), ("changes", "state left changed")])
def test_the_judge(name: str, kind: str) -> None:
    assert api.outcome(api.Call(name, getattr(Judge(), name), (), {}, ""), seconds=0.2).kind == kind


def test_bad_lines() -> None:
    """A line of each kind: status 2, and one sentence that says what is wrong with it."""
    wrong = [
        f"{line}: {found.wrong}: {found.text}" for line, found in lines.storm(len(lines.KINDS), seed=0) if found.wrong
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("status", "text", "wrong"),
    [
        (2, "pyro-vae: error: --epochs has to be a whole number; got five.\n", ""),
        (0, "", "status 0"),
        (2, "usage: pyro-vae train\npyro-vae: error: --epochs: got five.\n", "1 sentences and 1 other lines"),
        (2, "pyro-vae: error: --epochs: expected <class 'int'>; got five.\n", "raw: <class"),
        (2, "pyro-vae: error: epochs has to be a number; got six.\n", "does not say --epochs, five"),
    ],
)
def test_the_judge_of_lines(status: int, text: str, wrong: str) -> None:
    line = lines.Line("", ("train", "--epochs", "five"), ("--epochs", "five"))
    assert lines.judged(line, status, text) == wrong


@checked
def asked(
    count: int, number: float = 1.0, flag: bool = False, sizes: tuple[int, ...] = (), network: nn.Module | None = None,
    *rest: torch.Tensor,
) -> Any:  # fmt: skip
    return count, number, flag, sizes, network, rest


@pytest.mark.parametrize(
    "arguments",
    [
        (np.int64(3), np.float32(2), np.bool_(True), [1, 2], None),
        (torch.tensor(3), torch.tensor(1.5), 1, torch.Size([2]), torch.tanh),
        (3, 2, False, np.array([1, 2]), nn.Linear(2, 2), torch.ones(2), torch.ones(())),
    ],
)
def test_wide_kinds(arguments: tuple[Any, ...]) -> None:
    """What Python takes as a kind is one."""
    assert asked(*arguments)[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("3",), "count has to be a whole number; got '3'"),
        ((True,), "count has to be a whole number; got True"),
        ((3, None), "number has to be a number; got None"),
        ((3, 1.0, "yes"), "flag has to be True or False; got 'yes'"),
        ((3, 1.0, True, (2.5,)), r"sizes has to be a sequence, each a whole number; got \(2.5,\)"),
        ((3, 1.0, True, (), "MLP"), "network has to be a torch module, or None; got 'MLP'"),
        ((3, 1.0, True, (), None, [1]), r"rest has to be a dense tensor of real numbers; got \[1\]"),
    ],
)
def test_other_kinds_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        asked(*arguments)


def test_numbers_are_pythons_own() -> None:
    """Once checked; and a tensor that torch cannot calculate with is refused, with its dtype."""
    given = asked(torch.tensor(3), Fraction(1, 2), np.bool_(True), np.array([1, 2]))[:4]
    assert repr(given) == "(3, 0.5, True, (1, 2))"
    with pytest.raises(TypeError, match=r"rest has to be a dense tensor .*; got Tensor .*uint16"):
        asked(3, 1.0, True, (), None, torch.ones(2, dtype=torch.uint16))


def test_parts_of_a_mapping() -> None:
    with pytest.raises(TypeError, match=r"columns has to be a mapping, each value a sequence of 2; got \{'z': 1\}"):
        plotting.observed_and_imputed({"z": 1})  # type: ignore[dict-item]


def test_the_innermost_part_that_cannot_be_made_says_so() -> None:
    with pytest.raises(TypeError, match=r"^activation cannot be made of nothing: (?!.*cannot be made of)"):
        MLPVAE((5,), activation=nn.Linear)  # type: ignore[arg-type]


def test_what_is_missing_is_said_of_the_function() -> None:
    """As Python says it, which names the function."""
    with pytest.raises(TypeError, match=r"asked\(\) missing 1 required positional argument: 'count'"):
        asked()  # type: ignore[call-arg]
