"""Reading a pair: as a function of the data and a seed, leaving it as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyro
import torch
from torch import nn

from pyro_vae.pair.running import evaluating


@contextlib.contextmanager
def reading(pair: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients and no validation of distributions for a while.

    Args:
        pair: the pair.
        seed: of the draws inside, the caller's random state staying as it was; without one they are torch's next.
    """
    with evaluating(pair), torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with pyro.validation_enabled(False):
            yield
