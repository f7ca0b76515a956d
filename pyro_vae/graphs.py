"""One graph of a program: what it was traced of, how often it ran, whether it still computes what the program does."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.frozen import PythonState
from pyro_vae.reads import DataReads

Gradients = list["Tensor | None"]

#: Uses between two comparisons, at most, of a graph whose Python values move without an effect.
_PATIENCE = 16

#: What to do about Python values that move.
FROZEN = (
    "In a graph Python's values are constants: keep what moves in a buffer (register_buffer), which fit(schedules=) "
    "can move, draw random numbers by torch, or pass compile='eager'"
)


class Untraceable(Exception):
    """The tracer stopped."""


@dataclass
class Graph:
    """What was traced for one shape of the inputs, and what it was traced of."""

    module: nn.Module
    program: Callable[..., Sequence[Any]]
    num_trained: int
    num_state: int  # parameters and buffers, which come before the other inputs
    state: PythonState  # as it was when the graph was made
    reads: DataReads = field(default_factory=DataReads)
    traced: Any = None
    run: Any = None
    names: list[Any] | None = None  # of the outputs, if they are a dictionary
    name: str = ""  # by its shapes and what it reads, the same in another process
    uses: int = 0
    fused: bool = False  # compiled by inductor
    follows: Any = None  # the key of what follows the gradients, when it was compiled
    has_followed: bool = False  # whether it was compiled into it
    was_fused: bool = False  # in the process before
    moved: bool = False  # Python values have been written since it was compared
    compared: int = 0  # the last use that was compared with the program
    in_vain: int = 0  # how often it was for values that had moved, and was right
    next: int = 1

    @property
    def size(self) -> float:
        """How many numbers an operator gives, in the mean."""
        given = [node.meta.get("val") for node in self.traced.graph.nodes if node.op == "call_function"]
        counts = [value.numel() for value in given if isinstance(value, Tensor)]
        known = [count for count in counts if isinstance(count, int)]  # the others follow from values
        return sum(known) / max(len(given), 1)

    def counts(self) -> list[Any]:
        """What decides when it is compared, and last whether it is compiled."""
        return [self.uses, self.compared, self.in_vain, self.next, self.moved, self.fused or self.was_fused]

    def take_up(self, counts: Sequence[Any]) -> None:
        """Takes up the :meth:`counts` of a graph like this one."""
        self.uses, self.compared, self.in_vain, self.next, self.moved, self.was_fused = counts

    def due(self) -> bool:
        """Whether to compare it with the program; asked once at each use."""
        self.uses += 1
        self.moved = self.state.moved() or self.moved
        return self.uses >= self.next or (self.moved and self.uses - self.compared > self.in_vain)

    def apart(self, run: Callable[..., Sequence[Any]], flat: list[Tensor]) -> tuple[list[Any], Gradients]:
        """Outputs with parameters and buffers as they are after the run, and gradients; a run on copies."""
        with same_draws(flat), self.state.same_draws(), torch.no_grad():
            inputs = copies(flat)
            results = list(run(*inputs))
        split = len(results) - self.num_trained
        return results[:split] + inputs[: self.num_state], results[split:]

    def compare(self, flat: list[Tensor], expected: tuple[list[Any], Gradients] | None = None) -> None:
        """Compares a run with one of the program in Python, whose results are ``expected`` if they are there.

        Raises:
            Untraceable: if they are not the same.
        """
        before = PythonState(self.module)
        if expected is None:
            expected = self.apart(self.program, flat)
        ours = self.apart(self.traced, flat)
        agree = all(map(_agree, ours[0], expected[0])) and _agree_jointly(ours[1], expected[1])
        if not agree:
            changed = ", ".join(self.state.changes()[:3]) or "something that they read from Python"
            before.put_back()
            late = (
                f" (the last {since} uses may have met the old value)"
                if (since := self.uses - self.compared) > 1
                else ""
            )
            raise Untraceable(
                f"{changed} has changed since their graph was made, and what they compute{late}. {FROZEN}"
            )
        self.in_vain = min(self.in_vain + self.moved, _PATIENCE)
        self.moved, self.compared, self.next = False, self.uses, min(4 * self.uses + 2, self.uses + 1024)


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def names_of(structure: Any, key: Any) -> list[str]:
    """What tells graphs apart in any process: the structure of the inputs, and their shapes, but not where they are."""
    placed = [isinstance(part, tuple) and isinstance(part[-1], torch.device) for part in key]
    shapes = [part[:-1] if is_placed else part for part, is_placed in zip(key, placed, strict=True)]
    return [digest(structure), digest(shapes)]


def copies(flat: list[Tensor]) -> list[Tensor]:
    return [value.clone() for value in flat]


def same_draws(flat: list[Tensor]) -> contextlib.AbstractContextManager[None]:
    """Around a run that leaves torch's own generators as they were."""
    return torch.random.fork_rng([value.device for value in flat if value.device.type == "cuda"][:1])


def _agree(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Whether two results are the same but for rounding."""
    if ours is None or theirs is None:
        return ours is theirs
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not (theirs.is_floating_point() or theirs.is_complex()):
        return torch.equal(ours, theirs)
    tolerance = _tolerance(theirs)
    largest = theirs.abs().nan_to_num(posinf=0.0).max().item() if theirs.numel() else 0.0
    return torch.allclose(ours, theirs, tolerance, tolerance * largest, equal_nan=True)


def _agree_jointly(ours: Gradients, theirs: Gradients) -> bool:
    """Whether two gradients are the same but for rounding, which is large beside the part of them that vanishes."""
    difference, norm, tolerance = 0.0, 0.0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one is None or other is None:
            if one is not other:
                return False
            continue
        difference = math.hypot(difference, (one - other).norm().item())
        norm = math.hypot(norm, other.norm().item())
        tolerance = max(tolerance, 10 * _tolerance(other))
    return difference <= tolerance * norm or not math.isfinite(norm)


def _tolerance(value: Tensor) -> float:
    """On a CPU both run the same kernels; a GPU adds up in any order."""
    eps = torch.finfo(value.dtype).eps
    return 100 * eps if value.device.type == "cpu" else eps**0.5
