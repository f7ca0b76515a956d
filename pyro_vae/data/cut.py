"""One set of data -> train, valid and test."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

from pyro_vae._checks import shown, warn
from pyro_vae.data import draws
from pyro_vae.data.rows import Rows

Arrays = dict[str, tuple[Any, Any]]  # part -> x, and labels or None

PARTS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}  # and their names in files


def part_names(names: Iterable[str], where: Any) -> dict[str, str]:
    """The names of the train, the valid and the test set among those of sets; a warning tells of others.

    Raises:
        ValueError: if two are of one part.
    """
    there = list(names)
    found = {part: [name for name in known if name in there] for part, known in PARTS.items()}
    for part, same in found.items():
        if len(same) > 1:
            raise ValueError(f"{where} has two sets of the part {part}, {same[0]!r} and {same[1]!r}. Keep one.")
    if others := sorted({*there}.difference(*found.values())):
        warn(f"{where} also has {', '.join(map(shown, others[:5]))}, left out: sets are train, valid and test.")
    return {part: same[0] for part, same in found.items() if same}


def cut(parts: Arrays, valid_size: int | float | None, test_size: int | float | None, seed: int, what: str) -> Arrays:
    """Completes ``parts`` by cutting what is missing off the train set, by a seeded permutation."""
    alone = set(parts) == {"train"}
    for part, size in (("valid", valid_size), ("test", test_size)):
        if part in parts and size is not None:
            raise ValueError(f"{part}_size={size!r} was given, but {what!r} has a {part} set of its own. Leave it out.")
    x, labels = parts["train"]
    n = len(x)
    if n == 0:
        return parts  # which Split refuses
    n_valid = 0 if "valid" in parts else _count(valid_size, n, 0.1 * alone, "valid_size")
    n_test = 0 if "test" in parts else _count(test_size, n, 0.1 * alone, "test_size")
    n_train = n - n_valid - n_test
    if n_train < 1:
        raise ValueError(
            f"{what!r} has {n:,} data, and {n_valid:,} to validate and {n_test:,} to test leave none to train on. Ask"
            " for smaller valid_size or test_size."
        )
    if n_train == n:
        return parts
    order = draws.permutation(n, draws.SPLIT, seed).numpy()
    rows = dict(zip(PARTS, np.split(order, [n_train, n_train + n_valid]), strict=True))
    taken = x.at if isinstance(x, Rows) else x.__getitem__
    pieces = {part: (taken(i), None if labels is None else labels[i]) for part, i in rows.items() if len(i)}
    whole = {**parts, **pieces}
    return {part: whole[part] for part in PARTS if part in whole}


def _count(size: int | float | None, n: int, default: float, what: str) -> int:
    if size is None:
        return round(default * n)
    if isinstance(size, bool) or not isinstance(size, numbers.Real):
        raise TypeError(f"{what} is {shown(size)}; it must be a count (int) or a fraction below 1 (float).")
    if size < 0 or not math.isfinite(size) or (size >= 1 and not isinstance(size, numbers.Integral)):
        raise ValueError(f"{what} is {size}; it must be a count of at least 0 (int) or a fraction in [0, 1) (float).")
    return int(size) if isinstance(size, numbers.Integral) else round(size * n)
