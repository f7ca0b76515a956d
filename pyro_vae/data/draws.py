"""Random draws from keys: orders and binary pixels.

The same key gives the same draw on every device, and the global random states of torch and numpy are neither read nor
moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Binarization = Literal["none", "dynamic", "static"]

# The first word of a key says what is drawn, so that no two purposes share a stream.
STATIC, DYNAMIC, ORDER, SPLIT, LOADER = range(1, 6)


def bits(*key: int) -> np.random.SFC64:
    """Random bits. They are fixed for good by the key, while a ``Generator``'s methods may change between releases."""
    return np.random.SFC64(np.random.SeedSequence(key))


def permutation(n: int, *key: int) -> Tensor:
    """A permutation of 0..n-1 that depends on n and the key alone."""
    return torch.from_numpy(np.argsort(bits(*key).random_raw(n), kind="stable"))


def bernoulli(x: Tensor, source: np.random.SFC64) -> Tensor:
    """x ~ Bernoulli(gray), float32 0/1, for x uint8 (gray = x / 255) or float in [0, 1]."""
    if x.dtype != torch.uint8:
        uniform = np.random.Generator(source).random(tuple(x.shape), dtype=np.float32)  # in [0, 1): 0 never, 1 always
        return (_send(torch.from_numpy(uniform), x.device) < x).to(torch.float32)
    # 16 bits decide a pixel: u < 257 x with u uniform on the even numbers 0, 2, .., 65534, so P(1) is within 2**-16 of
    # x / 255, 0 for x = 0 and 1 for x = 255. This is the inner loop of every epoch: a tenth of torch.bernoulli's time.
    n = x.numel()
    raw = source.random_raw((n + 3) // 4)
    raw &= np.uint64(0xFFFEFFFEFFFEFFFE)
    u = raw.view(np.uint16)[:n].reshape(x.shape)
    if x.device.type != "cpu":
        on_device = _send(torch.from_numpy(u.view(np.int16)), x.device).to(torch.int32).bitwise_and_(0xFFFF)
        return (on_device < x.to(torch.int32).mul_(257)).to(torch.float32)
    threshold = x.numpy().astype(np.uint16)
    threshold *= np.uint16(257)
    return torch.from_numpy((u < threshold).view(np.uint8).astype(np.float32))


def gray(x: Tensor) -> Tensor:
    """float32 in [0, 1] from uint8; floats stay as they are."""
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x


@contextmanager
def own_torch_seed(*key: int) -> Iterator[None]:
    """Torch's global generator, from which a ``DataLoader`` takes its seeds, is ours inside, and unmoved afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(bits(*key).random_raw()) >> 1)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _send(drawn: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory the copy does not wait for the work that is queued before it
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)
