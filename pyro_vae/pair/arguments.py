"""What a pair's programs are given of data: one conversion for ``fit``, ``check``, bounds, evidence and diagnostics.

- Arrays and lists of numbers become tensors, where the pair is; floating-point numbers take on the pair's precision.
- Of x, the first argument, uint8 are pixels and become x / 255; bool becomes 0 and 1. Other integers are numbers. They
  stay integers where the programs run on them (an embedding, a count that is observed), and are floating-point numbers
  of the same value where only that runs (a linear layer). Further arguments keep their integers and booleans.
- Of several arguments those are passed that both programs take by position. Labels, a whole number for each datum, go
  to a parameter without a default or with the default ``None`` alone: ``beta=1.0`` is no place for them. What is left
  out is said.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._pyro import has_values
from pyro_vae.data.arrays import check_pixels, is_classes, is_integer, tensor
from pyro_vae.data.draws import gray
from pyro_vae.distributions.wrappers import family
from pyro_vae.pair.gate import has_autoguide
from pyro_vae.pair.pair import Pair, as_pair, modules_of
from pyro_vae.pair.running import device_of, evaluating, run
from pyro_vae.pair.sites import observed_sites, support_of

_ROUNDED = 0.01  # rounding errors, in standard deviations of the data, above which they are said


class Arguments:
    """The conversion for one pair: decided by a first batch, and the same for all later ones.

    Args:
        pair: the pair.
        device: where the arguments go, by default where the pair is.
        num_tried: data of the first batch on which the programs are run, where only that tells what they take; by
            default all.
    """

    def __init__(self, pair: Any, device: torch.device | None = None, num_tried: int | None = None) -> None:
        self.pair = as_pair(pair)
        self._device, self._num_tried = device, num_tried
        self._dtype: torch.dtype | None = None  # of the pair; where it has no parameters data keep their own
        self._count: int | None = None  # of the arguments that are passed
        self._whole = True  # integers of x stay integers

    def __call__(self, *batch: Any) -> tuple[Any, ...]:
        """``batch`` as the programs are given it.

        Raises:
            ValueError: if numbers leave the range of the pair's precision, or pixels are only 0 and 1.
            TypeError: if an array is not of numbers.

        Warns:
            UserWarning: with the first batch, if arguments are left out, or rounding to the pair's precision blurs x.
        """
        values = tuple(tensor(v, f"argument {i}") if _is_array(v, i) else v for i, v in enumerate(batch))
        first = self._count is None
        if first:
            self._decide(values)
        converted = self._converted(values[: self._count])
        if first and values and isinstance(values[0], Tensor):
            check_pixels(values[0], "x")
            if values[0].dtype == torch.uint8:
                self._check_tokens(converted)
        if first:
            for place, (given, value) in enumerate(zip(values, converted, strict=False)):
                if isinstance(given, Tensor):
                    _check_rounding(f"argument {place}" if place else "x", given, value)
        return converted

    def _decide(self, values: tuple[Any, ...]) -> None:
        self._count = len(values)
        if not values:
            return
        self._device = self._device or device_of(self.pair)
        self._dtype = _dtype_of(self.pair)
        self._count, unlimited = num_taken(self.pair, values)
        # Parameters of pyro.param are there after a run, which matters for numbers of another precision than torch's.
        if self._dtype is None and any(_is_real(v) and v.dtype != torch.get_default_dtype() for v in values):
            failed = self._failure(values[: self._count])
            self._dtype = _dtype_of(self.pair)
            if failed is not None and self._dtype is None:  # parameters to be made are of torch's default
                self._dtype = torch.get_default_dtype()
                self._dtype = self._dtype if self._failure(values[: self._count]) is None else None
        if self._count > 1 and unlimited:  # they hand on to programs with a limit
            while self._count and _TOO_MANY.search(str(self._failure(values[: self._count]))):
                self._count -= 1
            self._count = self._count or len(values)
        x, taken = values[0], values[: self._count]
        if type(x) is Tensor and _is_whole(x) and self._failure(taken) is not None:
            self._whole = False
            self._whole = self._failure(taken) is not None  # what fails either way stays as it is
        if any(value is not None for value in values[self._count :]):
            _say_left_out(self.pair, self._count, values)

    def _check_tokens(self, values: tuple[Any, ...]) -> None:
        """Refuses uint8, which are pixels, where whole numbers are observed."""
        try:
            with evaluating(self.pair), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
                sites = observed_sites(run(self.pair, *values).model_trace)
        except Exception:  # said by those who run it
            return
        for name, site in sites.items():
            support: Any = support_of(site["fn"])
            counts = (constraints.integer_interval, type(constraints.nonnegative_integer))
            if isinstance(support, counts) and getattr(support, "upper_bound", 2) != 1:
                raise ValueError(
                    f"x is uint8, which are pixels, given as x / 255, but the site {name!r}, a {family(site['fn'])}, "
                    "observes whole numbers. Pass them as integers or floats: x.long() or x.float()."
                )

    def _failure(self, values: tuple[Any, ...]) -> Exception | None:
        """What the pair's programs, with their densities, raise on some of the data."""
        size = len(values[0]) if isinstance(values[0], Tensor) and values[0].dim() else 0
        rows = (v[: self._num_tried] if isinstance(v, Tensor) and v.shape[:1] == (size,) else v for v in values)
        try:
            with evaluating(self.pair), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
                for trace in run(self.pair, *self._converted(tuple(rows))):
                    trace.compute_log_prob()
        except Exception as error:
            return error
        return None

    def _converted(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._value(v, i) if isinstance(v, Tensor) else v for i, v in enumerate(values))

    def _value(self, value: Tensor, place: int) -> Tensor:
        value = value.to(self._device, non_blocking=True)
        if place == 0 and (value.dtype in (torch.uint8, torch.bool) or (not self._whole and _is_whole(value))):
            return gray(value).to(self._dtype or torch.get_default_dtype())
        if self._dtype is None or not _is_real(value):
            return value
        converted = value.to(self._dtype)
        if self._dtype.itemsize < value.dtype.itemsize and bool((converted.isinf() & value.isfinite()).any()):
            raise ValueError(
                f"the data go up to {value.abs().max().item():.4g}, beyond the range of the pair's {self._dtype}. "
                "Rescale them, or make the pair one of float64: pair.double()."
            )
        return converted


def arguments(pair: Any, *batch: Any) -> tuple[Any, ...]:
    """``batch`` as the arguments that the programs of ``pair`` are given; see :class:`Arguments`."""
    if any(isinstance(value, Tensor) and not has_values(value) for value in batch):
        return batch  # inside of a graph, whose inputs are converted already
    return Arguments(pair)(*batch)


def batch_of(pair: Any, x: Any) -> tuple[Tensor, ...]:
    """``x``, data of any number, or a tuple of several arguments, as the programs of ``pair`` are given them.

    Raises:
        ValueError: if there are no data, and as :class:`Arguments`.
    """
    several = isinstance(x, tuple) and any(isinstance(value, (Tensor, np.ndarray)) for value in x)
    batch = tuple(x) if several else (tensor(x, "x"),)
    if not getattr(batch[0], "shape", ()) or not len(batch[0]):
        raise ValueError("there are no data: x is empty. Give x of shape [N, *event] with N at least 1.")
    module = as_pair(pair)
    return Arguments(module, num_tried=None if has_autoguide(module) else 1)(*batch)


_TOO_MANY = re.compile(r"takes (from \d+ to |up to )?\d+ positional arguments? but \d+ (was|were) given")


def _is_array(value: Any, place: int) -> bool:
    """Whether a value is to become a tensor; a list or a table only as x, elsewhere it may be meant as one."""
    listed = place == 0 and (isinstance(value, list) or hasattr(value, "__array__"))
    return not isinstance(value, Tensor) and (isinstance(value, np.ndarray) or listed)


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
    programs = pair._programs if isinstance(pair, Pair) else (pair.model, pair.guide)
    counts, unlimited = zip(*(_taken(program, values) for program in programs), strict=True)
    return min(counts), all(unlimited)


def _taken(program: Any, values: Sequence[Any]) -> tuple[int, bool]:
    try:
        found = inspect.signature(program.forward if isinstance(program, nn.Module) else program).parameters.values()
    except (TypeError, ValueError):
        return len(values), True
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in found):
        return len(values), True
    named = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    count = 0
    for parameter, value in zip(named, values, strict=False):
        is_label = isinstance(value, Tensor) and is_classes(value)
        if count and is_label and parameter.default not in (parameter.empty, None):
            break
        count += 1
    return count, False


def _say_left_out(pair: nn.Module, count: int, values: Sequence[Any]) -> None:
    shapes = [f"{list(v.shape)} {v.dtype}".replace("torch.", "") if isinstance(v, Tensor) else repr(v) for v in values]
    taken = "the first" if count == 1 else f"the first {count}"
    warnings.warn(
        f"the data hold {len(values)} arguments ({', '.join(shapes)}), of which the programs of {type(pair).__name__} "
        f"take {taken}; the rest is left out. Programs of labels have a place for them: model(x=None, y=None), and a "
        "guide alike.",
        stacklevel=4,
    )


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
        warnings.warn(
            f"{what} is {dtype} and the pair {converted.dtype}, whose rounding is above a hundredth of the standard "
            f"deviation of {int(blurred.sum()):,} of the {blurred.numel():,} numbers of a datum. Subtract their means, "
            "or make the pair one of float64: pair.double().".replace("torch.", ""),
            stacklevel=4,
        )
