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

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.utils.rnn import PackedSequence

from pyro_vae import batches
from pyro_vae._checks import shown, warn
from pyro_vae._tensors import check_dense
from pyro_vae._torch import has_values
from pyro_vae.batches import Keywords, is_packed, kind_of, leaves, mapped
from pyro_vae.data.arrays import check_pixels, is_integer, tensor
from pyro_vae.data.draws import gray
from pyro_vae.distributions.wrappers import family
from pyro_vae.pair.gate import has_autoguide, refuse
from pyro_vae.pair.pair import as_pair, modules_of
from pyro_vae.pair.running import device_of, run, trying
from pyro_vae.pair.signatures import in_place, num_taken
from pyro_vae.pair.sites import observed_sites, random_sites, support_of
from pyro_vae.pair.structure import odd_sites
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
                found = run(self.pair, *values)
            refuse(odd_sites(found))
            sites = observed_sites(found.model_trace)
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
    """``batch`` as the arguments that the programs of ``pair`` are given; see :class:`Arguments`.

    >>> import numpy as np, pyro_vae as pv
    >>> from pyro_vae.pair.arguments import arguments
    >>> (x,) = arguments(pv.models.MLPVAE((4,), latent_dim=2), np.ones((3, 4)))
    >>> x.dtype
    torch.float32
    """
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
