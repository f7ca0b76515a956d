"""The checks of what a user gives: one validator of each kind, each a sentence when it refuses."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any


def whole(least: int = 1, **counts: Any) -> None:
    """Refuses what is no whole number of at least ``least``; numpy's integers are whole numbers, booleans are not.

    Args:
        least: the smallest that is allowed.
        counts: the values, by the names that the message calls them by.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, count in counts.items():
        try:
            fits = not isinstance(count, bool) and operator.index(count) >= least
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"{name} has to be a whole number of at least {least}; got {count!r}.")


def number(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    **values: Any,
) -> None:
    """Refuses what is no finite number in a range.

    Args:
        least, most: the ends of the range, which belong to it.
        above, below: ends that do not belong to it.
        values: the values, by the names that the message calls them by; a tensor of one number counts as that.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in values.items():
        try:
            found = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, RuntimeError):
            found = math.nan
        if not (math.isfinite(found) and least <= found <= most and above < found < below):
            raise ValueError(f"{name} has to be a finite number{_range(least, most, above, below)}; got {value!r}.")


def _range(least: float, most: float, above: float, below: float) -> str:
    ends = (("of at least", least), ("above", above), ("at most", most), ("below", below))
    said = [f"{word} {end:g}" for word, end in ends if math.isfinite(end)]
    return f" {' and '.join(said)}" if said else ""


def one_of(choices: Sequence[Any], **values: Any) -> None:
    """Refuses what is none of ``choices`` (``get_args`` of a ``Literal``).

    Raises:
        ValueError: naming the first that is not, and the choices.
    """
    for name, value in values.items():
        if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; got {value!r}.")


def callable_(**values: Any) -> None:
    """Refuses what cannot be called.

    Raises:
        TypeError: naming the first.
    """
    for name, value in values.items():
        if not callable(value):
            raise TypeError(f"{name} has to be a function, or another callable; got {type(value).__name__}.")
