"""One thread at a time.

Pyro's handlers, its store and its validation are the process's, and so are torch's generator and a module's mode. Two
threads that run programs at once would meet each other's handlers and draws.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pyro_vae._pyro import drop_handlers

_turn = threading.RLock()


@contextmanager
def in_turn() -> Iterator[None]:
    """Waits until no other thread is inside, which a thread that is inside already does not."""
    with _turn:
        yield


@contextmanager
def fork_rng(devices: Sequence[torch.device] | None = None, enabled: bool = True) -> Iterator[None]:
    """``torch.random.fork_rng`` in turn, since what it would put back may else be the state of another's training."""
    with in_turn(), torch.random.fork_rng(devices, enabled):
        yield


def _renew() -> None:
    """In a forked process, which does not have the thread that may have been inside, but its handlers."""
    global _turn
    if not _turn.acquire(blocking=False):
        drop_handlers()
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
