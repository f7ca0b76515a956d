"""The checks of what a user gives: one validator of each kind, each a sentence when it refuses."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import re
import sys
import warnings
from collections import abc
from collections.abc import Callable, Sequence
from numbers import Number
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, overload

import numpy as np

FLOAT32 = 3.4e38
"""About the largest number of float32, where one meets its tensors."""

PLATES, PARTS = 32, 10_000
"""The most plates inside each other, of a tensor's 64 dimensions, and the most parts that are made one by one."""


def whole(least: int = 1, most: int | None = None, **counts: Any) -> None:
    """Refuses what is no whole number in a range; numpy's integers are whole numbers, booleans are not.

    Args:
        least, most: the smallest and the largest that are allowed.
        counts: the values, by the names that the message calls them by.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, count in counts.items():
        if not (is_whole(count) and least <= operator.index(count) <= (math.inf if most is None else most)):
            ends = f"of at least {least}" if most is None else f"from {least} to {most:,}"
            raise ValueError(f"{name} has to be a whole number {ends}; got {shown(count)}.")


def data_size(**sizes: Any) -> None:
    """Refuses what is no number of data: a whole number of at least 1, infinity, or ``None`` where it is not told.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, size in sizes.items():
        if size is not None and not (isinstance(size, float) and size == math.inf):
            whole(1, **{name: size})


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
        found = float(value) if is_number(value) else math.nan
        if not (math.isfinite(found) and least <= found <= most and above < found < below):
            raise ValueError(
                f"{name} has to be a finite number{_range(least, most, above, below)}; got {shown(value)}."
            )


def _range(least: float, most: float, above: float, below: float) -> str:
    ends = (("of at least", least), ("above", above), ("at most", most), ("below", below))
    said = [f"{word} {end:g}" for word, end in ends if math.isfinite(end)]
    return f" {' and '.join(said)}" if said else ""


def held(what: str, count: int) -> None:
    """Refuses so many numbers, of 32 bits or more, that no memory of this machine holds them.

    Raises:
        ValueError: naming ``what`` they are.
    """
    if 4 * count > _memory():
        raise ValueError(
            f"{what} would be {count:,} numbers, of {4 * count // 2**30:,} GiB or more, and the memory of this "
            f"machine has {_memory() / 2**30:,.0f} GiB. Give smaller sizes."
        )


@functools.cache
def _memory() -> float:
    """The bytes of the machine's memory; infinite where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def one_of(choices: Sequence[Any], **values: Any) -> None:
    """Refuses what is none of ``choices`` (``get_args`` of a ``Literal``).

    Raises:
        ValueError: naming the first that is not, and the choices.
    """
    for name, value in values.items():
        if not _is_among(choices, value):
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}; got {shown(value)}.")


def _is_among(choices: Sequence[Any], value: Any) -> bool:
    """Whether a value is one of the choices; one that only equals it, as 1 equals True, is not."""
    value = bool(value) if isinstance(value, np.bool_) else value
    return any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices)


def callable_(**values: Any) -> None:
    """Refuses what cannot be called.

    Raises:
        TypeError: naming the first.
    """
    for name, value in values.items():
        if not callable(value):
            raise TypeError(f"{name} has to be a function, or another callable; got {type(value).__name__}.")


_ALLOCATED = re.compile(
    r"DefaultCPUAllocator: .*you tried to allocate (\d+) bytes|calculation overflowed|mul\w+ overflow"
)
_LIBRARIES = ("pyro_vae", "pyro", "torch", "contextlib")
Function = TypeVar("Function", bound=Callable[..., Any])


def too_large(what: str, error: Exception) -> str | None:
    """The sentence of an error by which torch tells that there is no memory for ``what``."""
    if (asked := _ALLOCATED.search(str(error))) is None:
        return None
    size = f"{int(asked[1]) / 2**30:,.1f}" if asked[1] else f"{2**33:,} or more"
    return f"{what} needs {size} GiB of memory at once, which this machine has not free. Give smaller sizes."


@overload
def checked(function: Function) -> Function: ...
@overload
def checked(*, but: Sequence[str]) -> Callable[[Function], Function]: ...
def checked(function: Any = None, *, but: Sequence[str] = ()) -> Any:
    """A function, or an ``__init__``, that refuses arguments of another kind than their annotations tell.

    The kinds are wide, as Python programs are: a whole number is whatever has an index, a number whatever is a float, a
    sequence also an array or a tensor, and a module any callable. What has a range, or is a shape (one size or
    several), the function looks at itself. It is given Python's own numbers for numpy's, fractions and decimals, which
    torch does not take everywhere.

    Args:
        function: what is decorated.
        but: parameters that are not looked at, since the function has a sentence of its own for every other kind.

    Raises:
        ValueError: if a number, or one of several words, is something else, or there is no memory for what is asked.
        TypeError: if any other argument is.
    """
    if function is None:
        return functools.partial(checked, but=but)
    signature = inspect.signature(function)
    parameters = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}

    @functools.cache
    def kinds() -> dict[str, _Kind]:
        """By parameter; made at the first call, when all names of the annotations are known."""
        hints = {name: _evaluated(p.annotation, function) for name, p in parameters.items()}
        found = {name: _kind(hint) for name, hint in hints.items()}
        for name in but:
            kind = found[name]
            found[name] = _Kind("anything", lambda value: True, own=_index if kind and kind.own is _index else plain)
        return {name: kind for name, kind in found.items() if kind is not None}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:  # which the call itself says better: it names the function
            return function(*args, **kwargs)
        given, changed = bound.arguments, False
        for name, kind in kinds().items():
            if name not in given or given[name] is parameters[name].default:
                continue
            several = parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            for value in given[name] if several else (given[name],):
                if not kind.fits(value):
                    raise kind.error(f"{name} {kind.verb} {kind.text}; got {shown(value)}.")
            own = kind.own(given[name])
            if own is not given[name]:
                given[name], changed = own, True
        try:
            return function(*bound.args, **bound.kwargs) if changed else function(*args, **kwargs)
        except RuntimeError as error:
            said = too_large(function.__qualname__.removesuffix(".__init__"), error)
            if said is None:
                raise
            raise ValueError(said) from error

    return call


def _evaluated(annotation: Any, function: Any) -> Any:
    """What an annotation means; Any where a name of it is for type checkers alone."""
    if not isinstance(annotation, str):
        return Any if annotation is inspect.Parameter.empty else annotation
    try:
        return eval(annotation, function.__globals__)
    except NameError:
        return Any


def shown(value: Any) -> str:
    """A value in a message: short, and whatever its ``repr`` does."""
    if isinstance(value, str) and len(value) > 80:
        return f"{value[:60]!r}..., a text of {len(value):,} letters"
    if _is_of_torch(value, "Tensor") and value.is_nested:
        return "a nested tensor"
    if _is_of_torch(value, "Tensor") and value.dtype not in _dtypes():
        return f"{type(value).__name__} of shape {list(value.shape)}, of {value.dtype}"
    if (isinstance(value, np.ndarray) or _is_of_torch(value, "Tensor")) and value.ndim:
        return f"{type(value).__name__} of shape {list(value.shape)}"
    try:
        text = repr(value)
    except Exception:  # of a class that cannot say what it is
        text = ""
    return text if 0 < len(text) <= 80 and "\n" not in text else f"an object of {type(value).__name__}"


def counted(number: float, what: str) -> str:
    """A number of things in a message, as ``1 epoch`` and ``2 epochs``."""
    return f"{f'{number:g}' if isinstance(number, float) else f'{number:,}'} {what}{'s' * (number != 1)}"


def plain(value: Any) -> Any:
    """A number of numpy, a fraction or a decimal as Python's own, as an integer of more than 64 bits is a float.

    Anything else is given back as it is.
    """
    kind = type(value)
    if kind in (float, bool, str):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 or not is_number(value) else float(value)
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    if isinstance(value, np.bool_):
        return bool(value)
    if not isinstance(value, Number) or not is_number(value):
        return value
    return plain(operator.index(value)) if hasattr(value, "__index__") else float(value)  # type: ignore[arg-type]


def _of_plain(value: Any) -> Any:
    """:func:`plain`, also of each in a list or a tuple."""
    if type(value) not in (list, tuple):
        return plain(value)
    own = [plain(item) for item in value]
    return type(value)(own) if any(map(operator.is_not, own, value)) else value


def _index(value: Any) -> Any:
    """A whole number as an int, also one in a tensor."""
    return operator.index(value) if type(value) is not int and is_whole(value) else value


def _listed(value: Any) -> Any:
    """Numbers in a vector as a tuple, and those in a list or a tuple as Python's own."""
    if isinstance(value, np.ndarray) or _is_of_torch(value, "Tensor"):
        return tuple(value.tolist()) if value.ndim == 1 else value
    return _of_plain(value)


class _Kind(NamedTuple):
    """What an annotation tells of a value, and Python's ``own`` number, or tuple of numbers, for one that fits."""

    text: str
    fits: Callable[[Any], bool]
    error: type[Exception] = TypeError
    verb: str = "has to be"
    own: Callable[[Any], Any] = plain


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of 64 bits; numpy's integers are, booleans are not."""
    try:
        return not isinstance(value, (bool, np.bool_)) and -(2**63) <= operator.index(value) < 2**63
    except (TypeError, ValueError, RuntimeError):
        return False


def is_number(value: Any) -> bool:
    """Whether a value is one number; a tensor of one number is."""
    if isinstance(value, (bool, np.bool_, str, bytes, np.complexfloating)) or bool(getattr(value, "ndim", 0)):
        return False
    if _is_of_torch(value, "Tensor") and value.dtype not in _dtypes():
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def _is_of_torch(value: Any, name: str) -> bool:
    """Whether a value is of a class of torch, which need not have been imported."""
    return "torch" in sys.modules and isinstance(value, getattr(sys.modules["torch"], name))


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1))


@functools.cache
def _dtypes() -> frozenset[Any]:
    """Those of real numbers that torch calculates with; it only keeps those of 8 or fewer bits, other unsigned ones."""
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    return frozenset(getattr(sys.modules["torch"], name) for name in names.split())


def is_dense(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers with which torch calculates, perhaps of their shape alone."""
    dense = _is_of_torch(value, "Tensor") and not value.is_nested and value.layout == sys.modules["torch"].strided
    return dense and value.dtype in _dtypes()


def is_tensor(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers, which it has."""
    return is_dense(value) and not value.is_meta


def _is_sequence(value: Any, part: _Kind | None) -> bool:
    if isinstance(value, np.ndarray) or _is_of_torch(value, "Tensor"):
        if value.ndim == 0 or not (isinstance(value, np.ndarray) or is_tensor(value)):
            return False
        if part in (None, _TENSOR):
            return True
        return part in (_KINDS[int], _KINDS[float]) and value.ndim == 1 and all(map(part.fits, value))
    fits = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return fits and (part is None or all(map(part.fits, value)))


_TENSOR = _Kind("a dense tensor of real numbers", is_tensor)
_MODULE = _Kind("a torch module", lambda value: callable(value) and not isinstance(value, type))
_MAPPING = _Kind("a mapping", lambda value: isinstance(value, abc.Mapping))
_PATH = _Kind("a path", lambda value: isinstance(value, (str, os.PathLike)) and "\0" not in str(value))
_KINDS: dict[Any, _Kind] = {
    int: _Kind("a whole number", is_whole, ValueError, own=_index),
    float: _Kind("a number", is_number, ValueError),
    bool: _Kind("True or False", _is_flag),
    str: _Kind("a string", lambda value: isinstance(value, str)),
    type: _Kind("a class", callable),
    type(None): _Kind("None", lambda value: value is None),
    os.PathLike: _PATH,
    Path: _PATH,
    abc.Callable: _Kind("a function, or another callable", callable),
    abc.Iterable: _Kind(
        "something to iterate over", lambda value: hasattr(value, "__iter__") and not isinstance(value, str)
    ),
    abc.Mapping: _MAPPING,
    dict: _MAPPING,
}


_TOLD = (_TENSOR, _KINDS[int], _KINDS[float])  # of a mapping's values; others have sentences of their own


def _kind(hint: Any) -> _Kind | None:
    """The kind of an annotation; ``None`` where it tells nothing that could be looked at."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return None
    if origin is Annotated:
        return _kind(of[0])
    if isinstance(hint, type) and hint.__module__.startswith("torch") and hint.__name__ in ("Tensor", "Module"):
        return _TENSOR if hint.__name__ == "Tensor" else _MODULE
    if origin in (Union, UnionType):
        return _one_of_kinds(of)
    if origin is Literal:
        return _literal(of)
    each = _kind(of[1]) if origin in (dict, abc.Mapping) else None
    if each is not None and (each in _TOLD or get_origin(of[1]) is tuple):
        text, fits = f"{_MAPPING.text}, each value {each.text}", each.fits
        return _Kind(text, lambda value: _MAPPING.fits(value) and all(map(fits, value.values())))
    if hint in _KINDS or origin in _KINDS:
        return _KINDS[hint if hint in _KINDS else origin]
    if origin in (list, tuple, abc.Sequence):
        if len(of) > 1 and of[-1] is not ...:
            return _Kind(f"a sequence of {len(of)}", lambda value: _is_sequence(value, None) and len(value) == len(of))
        part = _kind(of[0]) if of else None
        text = f"a sequence{'' if part is None else f', each {part.text}'}"
        error = TypeError if part is None else part.error
        own = _listed if part in (_KINDS[int], _KINDS[float]) else _of_plain
        return _Kind(text, lambda value: _is_sequence(value, part), error, own=own)
    if isinstance(origin or hint, type) and not getattr(hint, "_is_protocol", False):
        kind = origin or hint
        return _Kind(f"a {kind.__name__}", lambda value: isinstance(value, kind))
    return None


def _one_of_kinds(hints: Sequence[Any]) -> _Kind | None:
    """That of a union; ``None`` of shapes, one size or several, which have a sentence of their own."""
    if any(get_origin(hint) is os.PathLike for hint in hints):  # a string is one, too
        hints = [hint for hint in hints if hint is not str]
    kinds = [_kind(hint) for hint in hints]
    if None in kinds or {int, Sequence[int]} <= set(hints):
        return None
    literals = [choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint)]
    others = [hint for hint in hints if get_origin(hint) is not Literal and hint is not type(None)]
    if literals and not others:
        return _literal([*literals, None])
    known = [kind for kind in kinds if kind is not None]
    error = ValueError if any(kind.error is ValueError for kind in known) else TypeError
    owns = {kind.own for kind in known if kind.text != "None"}
    own = owns.pop() if len(owns) == 1 else _of_plain
    return _Kind(
        ", or ".join(kind.text for kind in known), lambda value: any(k.fits(value) for k in known), error, own=own
    )


def _literal(choices: Sequence[Any]) -> _Kind:
    return _Kind(", ".join(map(repr, choices)), functools.partial(_is_among, choices), ValueError, "is one of")


def warn(message: str) -> None:
    """A ``UserWarning`` at the line of the program that has asked, however deep in the library it is given.

    Of several processes of ``torch.distributed`` the first one tells it.
    """
    if _is_of_another_rank():
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_of_another_rank() -> bool:
    group = sys.modules.get("torch.distributed")
    return group is not None and group.is_available() and group.is_initialized() and group.get_rank() > 0


def made(what: str, make: Callable[..., Any], *args: Any) -> Any:
    """``make(*args)`` of a class or a function that was given as the argument ``what``.

    Raises:
        TypeError: if it fails, but for a ``ValueError`` of the library, or a part of it that cannot be made, which say
            it themselves.
    """
    try:
        result = make(*args)
        if result is None:
            raise TypeError("it gives None")
        return result
    except Exception as error:
        if is_ours(error) and (isinstance(error, ValueError) or _raiser(error).f_code is made.__code__):
            raise
        raise TypeError(
            f"{what} cannot be made of {', '.join(map(shown, args)) or 'nothing'}: {type(error).__name__}: {error}. "
            f"Give a class or a function that can, such as those of pyro_vae; got {shown(make)}."
        ) from error


def is_ours(error: Exception) -> bool:
    """Whether an error was raised by a line of the library, below the one that calls this."""
    raiser = _raiser(error)
    return raiser is not None and raiser.f_globals.get("__name__", "").partition(".")[0] == "pyro_vae"


def _raiser(error: Exception) -> Any:
    place = None if error.__traceback__ is None else error.__traceback__.tb_next
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return None if place is None else place.tb_frame
