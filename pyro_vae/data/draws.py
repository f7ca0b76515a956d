"""Random draws from keys: orders and binary pixels.

The same key gives the same draw on every device, and the global random states are neither read nor moved. Foreign code
that draws from these, a loader or a callback, has them by a key as well (:class:`Apart`).
"""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

_numpy: Any = np.random  # whose stubs leave its bit generator out

Binarization = Literal["none", "dynamic", "static"]

# The first word of a key says what is drawn, so that no two purposes share a stream.
STATIC, DYNAMIC, ORDER, SPLIT, LOADER, READ, RUN, CALLBACK, SCHEDULE, TRIAL, RANK = range(1, 12)


def bits(*key: int) -> np.random.SFC64:
    """Random bits. They are fixed for good by the key, while a ``Generator``'s methods may change between releases."""
    return np.random.SFC64(np.random.SeedSequence([operator.index(word) for word in key]))


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


def torch_state(devices: Sequence[torch.device] = ()) -> list[Tensor]:
    """Torch's random states on the CPU and on GPUs."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def set_torch_state(state: Sequence[Tensor], devices: Sequence[torch.device] = ()) -> None:
    """Puts back what :func:`torch_state` gave; of GPUs as many as there are."""
    torch.set_rng_state(state[0])
    for device, of_device in zip(devices, state[1:], strict=False):
        torch.cuda.set_rng_state(of_device, device)


def random_state(devices: Sequence[torch.device] = ()) -> dict[str, Any]:
    """The random states of the process: torch's, numpy's and Python's."""
    of_numpy = np.random.get_state()  # noqa: NPY002 - it is the process's that is asked for
    return {"torch": torch_state(devices), "numpy": of_numpy, "python": random.getstate()}


def set_random_state(state: Mapping[str, Any], devices: Sequence[torch.device] = ()) -> None:
    """Puts back what :func:`random_state` gave."""
    set_torch_state(state["torch"], devices)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])


class Apart:
    """Random states of its own for what draws from those of the process: torch's, numpy's and Python's.

    They begin by the key; ``with apart:`` goes on where the last one ended, and leaves the process's as they were (but
    for the second normal number of a pair that numpy's old functions may have in store).

    Args:
        key: fixes what is drawn.
        devices: GPUs whose states are put back as well.
    """

    def __init__(self, *key: int, devices: Sequence[torch.device] = ()) -> None:
        first, second, third = map(int, bits(*key).random_raw(3))
        self._devices = devices
        self._torch = torch.Generator().manual_seed(first >> 1).get_state()
        self._numpy = np.random.MT19937(second)
        self._python = random.Random(third).getstate()

    def __enter__(self) -> None:
        # Another bit generator, since to get and set numpy's state takes a third of a millisecond.
        self._outer = _numpy.get_bit_generator(), random.getstate(), torch_state(self._devices)
        _numpy.set_bit_generator(self._numpy)
        random.setstate(self._python)
        torch.set_rng_state(self._torch)

    def __exit__(self, *error: object) -> None:
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        bit_generator, of_python, of_torch = self._outer
        _numpy.set_bit_generator(bit_generator)
        random.setstate(of_python)
        set_torch_state(of_torch, self._devices)


def _send(drawn: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory the copy does not wait for the work that is queued before it
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)
