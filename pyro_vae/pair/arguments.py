"""What a pair's programs are given of data: one conversion for ``fit``, ``check``, bounds, evidence and diagnostics.

A batch is what follows the pair in ``svi.step(*args, **kwargs)``. Its structure stays: ``None``, numbers, strings,
lists and dictionaries are handed on as they are, and so are packed sequences.

- A dictionary at the end, whose names are parameters of both programs, is passed by name, as ``step(**batch)`` does it:
  what a loader of dictionaries gives. Any other dictionary is an argument itself.
- Arrays and lists of numbers become tensors, where the pair is; floating-point numbers take on the pair's precision.
- Of x, the first argument, uint8 are pixels and become x / 255; bool becomes 0 and 1. Other integers are numbers. They
  stay integers where the programs run on them (an embedding, a count that is observed), and are floating-point numbers
  of the same value where only that runs (a linear layer). Further arguments keep their integers and booleans.
- Of several arguments those are passed that both programs take. Labels, a whole number for each datum, go by position
  to a parameter without a default or with the default ``None`` alone: ``beta=1.0`` is no place for them. What is left
  out is said.
- Batches may be of several kinds, ``(x,)`` and ``(x, y)`` in turn; each kind is decided for by its first batch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.utils.rnn import PackedSequence

from pyro_vae import batches
from pyro_vae._checks import shown, warn
from pyro_vae._pyro import has_values
from pyro_vae._tensors import check_dense
from pyro_vae.batches import Keywords, is_packed, kind_of, leaves, mapped
from pyro_vae.data.arrays import check_pixels, is_classes, is_integer, tensor
from pyro_vae.data.draws import gray
from pyro_vae.distributions.wrappers import family
from pyro_vae.pair.gate import has_autoguide
from pyro_vae.pair.pair import Pair, as_pair, modules_of
from pyro_vae.pair.protocols import TakesLabels
from pyro_vae.pair.running import device_of, run, trying
from pyro_vae.pair.sites import observed_sites, random_sites, support_of
from pyro_vae.pair.supports import Supports

_ROUNDED = 0.01  # rounding errors, in standard deviations of the data, above which they are said


class Converted(tuple[Any, ...]):
    """Arguments as the programs are given them, which nothing converts again."""


class Arguments:
    """The conversion for one pair: decided by the first batch of each kind, and the same for all later ones.

    Args:
        pair: the pair.
        device: where the arguments go, by default where the pair is.
        num_tried: data of the first batch on which the programs are run, where only that tells what they take; by
            default all.
        any_data: whether data may leave the supports of the likelihoods, since their shape alone matters, or who asks
            says it.
    """

    def __init__(
        self,
        pair: Any,
        device: torch.device | None = None,
        num_tried: int | None = None,
        *,
        any_data: bool = False,
    ) -> None:
        self.pair = as_pair(pair)
        self._device, self._num_tried = device, num_tried
        self._supports = None if any_data else Supports(self.pair, num_tried)
        self._kinds: dict[Any, _Kind] = {}
        self.finite = False  # whether x is known to hold no NaN that matters

    def __call__(self, *batch: Any) -> Converted:
        """``batch`` as the programs are given it.

        Raises:
            ValueError: if numbers leave the range of the pair's precision, pixels are only 0 and 1, x holds NaN that
                the programs do not mask, or data leave the support of a likelihood.
            TypeError: if an array is not of numbers, a tensor is sparse or nested, or the programs take no argument of
                a name.

        Warns:
            UserWarning: with the first batch of a kind, if arguments are left out, or rounding to the pair's precision
                blurs x.
        """
        values = tuple(_with_tensors(v, f"argument {i}", i == 0) for i, v in enumerate(batch))
        name = kind_of(values)
        kind = self._kinds.get(name)
        if kind is not None:
            return self._checked(self._converted(kind, self._passed(kind, values)))
        kind = self._decided(values)
        taken = self._passed(kind, values)
        converted = self._converted(kind, taken)
        x = next(leaves(taken), None)
        if isinstance(x, Tensor):
            check_pixels(x, "x")
            if x.dtype == torch.uint8:
                self._check_tokens(converted)
        for place, (given, value) in enumerate(zip(leaves(taken), leaves(converted), strict=True)):
            if isinstance(given, Tensor):
                _check_rounding(f"argument {place}" if place else "x", given, value)
        self._kinds[name] = kind
        return self._checked(converted)

    def _checked(self, values: Converted) -> Converted:
        """``values``, refused if NaN in x makes a density NaN, or if they are none that the likelihoods have."""
        self._check_missing(values)
        if self._supports is not None:
            self._supports(values)
        return values

    def _check_missing(self, values: Converted) -> None:
        """Refuses NaN that makes a density NaN: the programs do not mask what is missing."""
        given = () if self.finite else enumerate(leaves(values))
        holed = [(place, x) for place, x in given if isinstance(x, Tensor) and _is_real(x) and x.isnan().any()]
        if not holed:
            return
        try:
            with trying(self.pair):
                traces = run(self.pair, *values)
                for trace in traces:
                    trace.compute_log_prob()
        except Exception:  # said by those who run it
            return
        sites: Any = [site for trace in traces for site in random_sites(trace).values()]
        wrong = [site["name"] for site in sites if site["log_prob"].isnan().any()]
        if wrong:
            place, missing = holed[0][0], holed[0][1].isnan()
            rows = missing.flatten(1).any(1) if missing.dim() > 1 else missing.reshape(-1)
            what = f"argument {place}" if place else "x"
            raise ValueError(
                f"{what} is NaN in {int(rows.sum())} of {len(rows)} data, the first at index {int(rows.nonzero()[0])},"
                " and so"
                f" is the log-density of {wrong[0]!r}. Drop or repair them; or, if they are missing, have the programs"
                " mask them: law.mask(~x.isnan()), obs=x.nan_to_num()."
            )
        self.finite = True  # with what is missing the programs deal themselves

    def _passed(self, kind: _Kind, values: tuple[Any, ...]) -> tuple[Any, ...]:
        values = in_place(self.pair, values)[0]
        return values if kind.count is None else (*values[: kind.count], *values[max(kind.count, kind.positional) :])

    def _decided(self, values: tuple[Any, ...]) -> _Kind:
        kind = _Kind()
        if not values:
            return kind
        self._device = self._device or device_of(self.pair)
        given = values
        values, left_out = in_place(self.pair, values)
        by_name = values[-1:] if isinstance(values[-1], Keywords) else ()
        kind.positional = len(values) - len(by_name)
        kind.dtype = _dtype_of(self.pair)
        kind.count, unlimited = num_taken(self.pair, values[: kind.positional])

        def fails() -> Exception | None:
            return self._failure(kind, self._passed(kind, given))

        # Parameters of pyro.param are there after a run, which matters for numbers of another precision than torch's.
        reals = (leaf for leaf in leaves(values) if _is_real(leaf) and leaf.dtype != torch.get_default_dtype())
        if kind.dtype is None and any(True for _ in reals):
            failed = fails()
            kind.dtype = _dtype_of(self.pair)
            if failed is not None and kind.dtype is None:  # parameters to be made are of torch's default
                kind.dtype = torch.get_default_dtype()
                kind.dtype = kind.dtype if fails() is None else None
        if kind.count > 1 and unlimited:  # they hand on to programs with a limit
            while kind.count and _TOO_MANY.search(str(fails())):
                kind.count -= 1
            kind.count = kind.count or kind.positional
        x = next(leaves(values), None)
        if type(x) is Tensor and _is_whole(x) and fails() is not None:
            kind.whole = False
            kind.whole = fails() is not None  # what fails either way stays as it is
        if left_out or any(value is not None for value in values[kind.count : kind.positional]):
            _say_left_out(self.pair, kind.count + len(by_name), values, left_out)
        return kind

    def _check_tokens(self, values: tuple[Any, ...]) -> None:
        """Refuses uint8, which are pixels, where whole numbers are observed."""
        try:
            with trying(self.pair):
                sites = observed_sites(run(self.pair, *values).model_trace)
        except Exception:  # said by those who run it
            return
        others = [leaf for leaf in leaves(values) if isinstance(leaf, Tensor)][1:]
        for name, site in sites.items():
            if any(_is_of(leaf, site["value"]) for leaf in others):
                continue
            support: Any = support_of(site["fn"])
            counts = (constraints.integer_interval, type(constraints.nonnegative_integer))
            if isinstance(support, counts) and getattr(support, "upper_bound", 2) != 1:
                raise ValueError(
                    f"x is uint8, which are pixels, given as x / 255, but the site {name!r}, a {family(site['fn'])}, "
                    "observes whole numbers. Pass them as integers or floats: x.long() or x.float()."
                )

    def _failure(self, kind: _Kind, values: tuple[Any, ...]) -> Exception | None:
        """What the pair's programs, with their densities, raise on some of the data."""
        part = values if self._num_tried is None else batches.rows(values, slice(self._num_tried))
        try:
            with trying(self.pair):
                for trace in run(self.pair, *self._converted(kind, part)):
                    trace.compute_log_prob()
        except Exception as error:
            return error
        return None

    def _converted(self, kind: _Kind, values: tuple[Any, ...]) -> Converted:
        first = True  # the first leaf is x

        def converted(leaf: Any) -> Any:
            nonlocal first
            is_x, first = first, False
            return self._value(kind, leaf, is_x) if isinstance(leaf, (Tensor, PackedSequence)) else leaf

        return Converted(mapped(converted, value) for value in values)

    def _value(self, kind: _Kind, value: Any, is_x: bool) -> Any:
        if isinstance(value, PackedSequence):
            return value._replace(data=self._value(kind, value.data, is_x))
        value = value.to(self._device, non_blocking=True)
        if is_x and (value.dtype in (torch.uint8, torch.bool) or (not kind.whole and _is_whole(value))):
            return gray(value).to(kind.dtype or torch.get_default_dtype())
        if kind.dtype is None or not _is_real(value):
            return value
        converted = value.to(kind.dtype)
        if kind.dtype.itemsize < value.dtype.itemsize and bool((converted.isinf() & value.isfinite()).any()):
            raise ValueError(
                f"the data go up to {value.abs().max().item():.4g}, beyond the range of the pair's {kind.dtype}. "
                "Rescale them, or make the pair one of float64: pair.double()."
            )
        return converted


class _Kind:
    """What was decided for a kind of batch."""

    dtype: torch.dtype | None = None  # of the pair; where it has no parameters data keep their own
    positional = 0  # arguments by position that there are
    count: int | None = None  # of them that are passed
    whole = True  # integers of x stay integers


def arguments(pair: Any, *batch: Any, any_data: bool = False) -> Converted:
    """``batch`` as the arguments that the programs of ``pair`` are given; see :class:`Arguments`."""
    if any(isinstance(leaf, Tensor) and not has_values(leaf) for leaf in leaves(batch)):
        return Converted(batch)  # inside of a graph, whose inputs are converted already
    return Arguments(pair, any_data=any_data)(*batch)


def converted(pair: Any, batch: Sequence[Any], any_data: bool = False) -> Converted:
    """:func:`arguments` of a batch that may be converted already, or be the one argument."""
    if len(batch) == 1 and isinstance(batch[0], Converted):
        return batch[0]
    return batch if isinstance(batch, Converted) else arguments(pair, *batch, any_data=any_data)


def batch_of(pair: Any, x: Any) -> Converted:
    """``x``, data of any number, or a tuple or dictionary of several arguments, as the programs are given them.

    Raises:
        ValueError: if there are no data, and as :class:`Arguments`.
    """
    if isinstance(x, (dict, PackedSequence)):
        batch: tuple[Any, ...] = (x,)
    else:
        several = isinstance(x, tuple) and any(hasattr(type(leaf), "shape") or is_packed(leaf) for leaf in leaves(x))
        batch = tuple(x) if several else (tensor(x, "x"),)
    if not batches.num_rows(batch):
        raise ValueError("there are no data: x is empty. Give x of shape [N, *event] with N at least 1.")
    module = as_pair(pair)
    return Arguments(module, num_tried=None if has_autoguide(module) else 1)(*batch)


def batch_by_batch(batches: Any) -> Iterator[Sequence[Any]]:
    """``batches``, each of them the arguments of model and guide.

    Raises:
        TypeError: if these are something else, such as the data themselves.
    """
    if isinstance(batches, (Tensor, np.ndarray, dict, str, bytes)) or not hasattr(batches, "__iter__"):
        raise TypeError(f"batches are the arguments of model and guide, batch by batch: [(x,)]; got {shown(batches)}.")
    for batch in batches:
        if not isinstance(batch, (tuple, list, dict, Tensor, np.ndarray)):
            raise TypeError(f"a batch is a tuple of the arguments of model and guide, (x,); got {shown(batch)}.")
        yield batch if isinstance(batch, (tuple, list)) else (batch,)


_TOO_MANY = re.compile(r"takes (from \d+ to |up to )?\d+ positional arguments? but \d+ (was|were) given")


def _with_tensors(value: Any, what: str, is_x: bool = False) -> Any:
    """Arrays become tensors; a list of numbers or a table only as x, elsewhere it may be meant as one."""
    listed = is_x and (isinstance(value, list) or hasattr(value, "__array__"))
    if listed and not isinstance(value, Tensor) and not _is_of_tensors(value):
        return tensor(value, what)

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            check_dense(leaf, what)
        return tensor(leaf, what) if isinstance(leaf, np.ndarray) else leaf

    return mapped(change, value)


def _is_of(argument: Tensor, observed: Tensor) -> bool:
    """Whether what a site observes are the numbers of an argument."""
    return argument.numel() == observed.numel() and torch.equal(argument.reshape(observed.shape).to(observed), observed)


def _is_of_tensors(value: Any) -> bool:
    """Whether this is a list of tensors, of which some batches may have equal lengths by chance: it stays one."""
    return isinstance(value, list) and all(isinstance(row, Tensor) for row in value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_whole(value: Tensor) -> bool:
    """Whether these are integers, and not pixels."""
    return is_integer(value) and value.dtype != torch.uint8


def _dtype_of(pair: nn.Module) -> torch.dtype | None:
    parameters = (p for module in modules_of(pair) for p in module.parameters() if p.is_floating_point())
    return next((parameter.dtype for parameter in parameters), None)


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


Signature = Mapping[str, inspect.Parameter] | None


def _parameters(pair: Any) -> list[Signature]:
    """The parameters of model and guide, ``None`` where Python does not tell them."""
    return [_signature(program) for program in _programs(pair)]


def _programs(pair: Any) -> list[Any]:
    programs = pair._programs if isinstance(pair, Pair) else (pair.model, pair.guide)
    return [program.forward if isinstance(program, nn.Module) else program for program in programs]


def _signature(program: Any) -> Signature:
    try:
        return inspect.signature(program).parameters
    except (TypeError, ValueError):
        return None


def _order(found: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD]


def _is_open(found: Mapping[str, inspect.Parameter]) -> bool:
    """Whether these are ``*args, **kwargs`` alone, whose names another program tells."""
    return all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.values()) and len(found) == 2


def _takes(found: Signature, name: str, num_positional: int) -> bool:
    """Whether a program takes an argument by name, behind so many by position."""
    if found is None or any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return True
    by_name = name in found and found[name].kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return by_name and name not in _order(found)[:num_positional]


def _taken(found: Signature, values: Sequence[Any]) -> tuple[int, bool]:
    if found is None or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in found.values()):
        return len(values), True
    named = [p for p in found.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    count = 0
    for parameter, value in zip(named, values, strict=False):
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
        parameters = [] if found is None else list(found.values())
        named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if found is None or (len(named) <= place and any(p.kind is p.VAR_POSITIONAL for p in parameters)):
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


def _say_left_out(pair: nn.Module, count: int, values: Sequence[Any], names: Sequence[str]) -> None:
    shapes = [_shape(value) if isinstance(value, Tensor) else repr(value) for value in values]
    taken = "the first" if count == 1 else f"the first {count}"
    what = f"{len(values)} arguments ({', '.join(shapes)})"
    rest = f"of which the programs of {type(pair).__name__} take {taken}; the rest is left out"
    if names:
        what = f"arguments by name, {', '.join(names)}"
        rest = f"which the programs of {type(pair).__name__} do not take; they are left out"
    warn(
        f"the data hold {what}, {rest}. Programs of labels have a place for them: model(x=None, y=None), and a "
        "guide alike.",
    )


def _shape(value: Tensor) -> str:
    """Without the number of data, so that batches of any size are spoken of alike, and a warning is shown once."""
    return f"[{', '.join(map(str, ('N', *value.shape[1:])[: value.dim()]))}] {value.dtype}".replace("torch.", "")


def _check_rounding(what: str, given: Tensor, converted: Tensor) -> None:
    rounded = _is_whole(given) and converted.is_floating_point()
    rounded = rounded or (given.is_floating_point() and converted.dtype.itemsize < given.dtype.itemsize)
    if not (rounded and given.dim() and len(given) > 1):
        return
    dtype, given = given.dtype, given.to(converted.device, torch.float64)
    error = (converted.double() - given).abs().amax(0)
    deviation = given.std(0)
    blurred = (deviation > 0) & (error > _ROUNDED * deviation)
    if blurred.any():
        warn(
            f"{what} is {dtype} and the pair {converted.dtype}, whose rounding is above a hundredth of the standard "
            f"deviation of {int(blurred.sum()):,} of the {blurred.numel():,} numbers of a datum. Subtract their means, "
            "or make the pair one of float64: pair.double().".replace("torch.", ""),
        )
