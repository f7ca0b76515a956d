"""Which arguments the programs of a pair take, by their signatures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae.batches import Keywords
from pyro_vae.data.arrays import is_classes
from pyro_vae.pair.pair import Pair
from pyro_vae.pair.protocols import TakesLabels

Signature = Mapping[str, inspect.Parameter] | None  # None where Python does not tell it


def num_taken(pair: Any, values: Sequence[Any]) -> tuple[int, bool]:
    """How many of the values both programs take by position, and whether these may be any number (``*args``)."""
    counts, unlimited = zip(*(_taken(found, values) for found in _parameters(pair)), strict=True)
    return min(counts), all(unlimited)


def argument_names(pair: Any) -> list[str]:
    """Of the model's arguments by position."""
    return _order(_parameters(pair)[0] or {})


def in_place(pair: Any, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[str]]:
    """The values with those by name in their places, and the names that the programs do not take.

    A parameter between that is not named has its default. What both programs take by name alone, or in other places,
    stays :class:`~pyro_vae.batches.Keywords` at the end.

    Raises:
        TypeError: if the programs do not take what was given by name.
    """
    if not values or not isinstance(values[-1], dict) or not all(isinstance(key, str) for key in values[-1]):
        return values, []
    *others, named = values
    signatures = _parameters(pair)
    taken = [key for key in named if all(_takes(found, key, len(others)) for found in signatures)]
    left_out = [key for key in named if key not in taken]
    if isinstance(named, Keywords) and left_out:
        raise TypeError(
            f"the programs of {type(pair).__name__} take no argument {left_out[0]!r}; model and guide take the same "
            "arguments. Leave it out, or write both with a parameter of that name."
        )
    if not taken:
        return values, []
    orders = [_order(found) for found in signatures if found is not None and not _is_open(found)]
    size = max((order.index(key) + 1 for order in orders for key in taken if key in order), default=0)
    same = bool(orders) and all(order[:size] == orders[0][:size] for order in orders)
    if not same or not set(taken) <= set(orders[0][:size]):
        return (*others, Keywords((key, named[key]) for key in taken)), left_out
    for name in orders[0][len(others) : size]:
        if name in taken:
            others.append(named[name])
            continue
        defaults = [found[name].default for found in signatures if found is not None and name in found]
        if any(default is inspect.Parameter.empty or default is not defaults[0] for default in defaults):
            return (*values[:-1], Keywords((key, named[key]) for key in taken)), left_out
        others.append(defaults[0])
    return tuple(others), left_out


def _parameters(pair: Any) -> list[Signature]:
    """The parameters of model and guide."""
    programs = pair._programs if isinstance(pair, Pair) else (pair.model, pair.guide)
    return [_signature(program.forward if isinstance(program, nn.Module) else program) for program in programs]


def _signature(program: Any) -> Signature:
    try:
        return inspect.signature(program).parameters
    except (TypeError, ValueError):
        return None


def _order(found: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _by_position(found: Mapping[str, inspect.Parameter]) -> list[inspect.Parameter]:
    return [p for p in found.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _is_open(found: Mapping[str, inspect.Parameter]) -> bool:
    """Whether these are ``*args, **kwargs`` alone, whose names another program tells."""
    return all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.values()) and len(found) == 2


def _takes(found: Signature, name: str, num_positional: int) -> bool:
    """Whether a program takes an argument by name, behind so many by position."""
    if found is None or any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return True
    by_name = name in _order(found)[num_positional:]
    return by_name or (name in found and found[name].kind is inspect.Parameter.KEYWORD_ONLY)


def _taken(found: Signature, values: Sequence[Any]) -> tuple[int, bool]:
    if found is None or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in found.values()):
        return len(values), True
    count = 0
    for parameter, value in zip(_by_position(found), values, strict=False):
        is_label = isinstance(value, Tensor) and is_classes(value)
        if count and is_label and parameter.default not in (parameter.empty, None):
            break
        count += 1
    return count, False


#: How arguments of labels are called; any other, such as beta, is no place for them unless it is asked for.
_LABELS = {"y", "ys", "c", "label", "labels", "target", "targets", "class_", "classes"}


def label_argument(pair: Any, place: int = 1) -> str | None:
    """The name of the argument at a place, where it is one of labels, which a program does not run without.

    The other program needs it as well, or takes it.
    """
    if isinstance(pair, TakesLabels):
        return pair.takes_labels
    name = None
    for found in _parameters(pair):
        if found is None:
            continue
        named = _by_position(found)
        if len(named) <= place and any(p.kind is p.VAR_POSITIONAL for p in found.values()):
            continue
        if len(named) <= place or named[place].name not in _LABELS:
            return None
        if named[place].default is inspect.Parameter.empty:
            name = named[place].name
        elif named[place].default is not None:
            return None
    return name


def mask_argument(pair: Any) -> int | None:
    """The place of the argument of both programs that is called ``mask``; ``None`` where they have none there.

    Of a class ``self`` counts.
    """
    orders = [_order(found or {}) for found in _parameters(pair)]
    places = {order.index("mask") if "mask" in order else None for order in orders}
    return places.pop() if len(places) == 1 else None


def needs_argument(pair: Any, place: int) -> bool:
    """Whether a program does not run without an argument by position."""
    named = [list((found or {}).values())[place : place + 1] for found in _parameters(pair)]
    return any(one.default is inspect.Parameter.empty for parameters in named for one in parameters)
