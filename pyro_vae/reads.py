"""What a program reads of tensors in Python while it is traced, and where it does.

A number that Python takes out of a tensor (``int(lengths.max())``, ``if x.sum() > 0``, ``x[mask]`` with a mask of the
data) is a constant of a graph. Where it follows from the batch and from buffers alone, a graph is right for every batch
from which the same numbers follow: :class:`DataReads` computes them anew from each.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pyro_vae._torch import has_values, memory, repeatable, without_modes, writes
from pyro_vae.frozen import LIBRARIES

aten = torch.ops.aten
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class _Of(NamedTuple):
    """A tensor: of the inputs (step -1), or among the results of a step."""

    step: int
    place: int


class _Step(NamedTuple):
    """An operator with what it is given, in which an :class:`_Of` stands for a tensor that was computed before."""

    operator: Callable[..., Any]
    args: Any
    kwargs: Any


class _Read(NamedTuple):
    """What was taken of a tensor, and what it was."""

    of: _Of | Tensor
    take: Callable[[Tensor], Any]
    value: Any


class DataReads:
    """What one run of a program read, as a function of its inputs.

    The first read is the same function of all inputs. Each further one is where the reads before it give what they
    gave, since a program that reads the same takes the same way. So they are compared in order.

    Args:
        constants: inputs, by number, that are part of the graph with all of their values.
    """

    def __init__(self, constants: Sequence[tuple[int, Tensor]] = ()) -> None:
        self.steps: list[_Step] = []
        self.reads: list[_Read] = []
        self.constants = [(index, value.clone()) for index, value in constants]

    @property
    def values(self) -> list[Any]:
        """What was read, in order, and what the constants are."""
        return [*(read.value for read in self.reads), *(value.tolist() for _, value in self.constants)]

    def hold(self, flat: Sequence[Tensor]) -> bool:
        """Whether the program reads the same of these inputs."""
        if not all(torch.equal(flat[index], value) for index, value in self.constants):
            return False
        known: dict[_Of, Tensor] = {}

        def value(of: _Of | Tensor) -> Tensor:
            if isinstance(of, Tensor):
                return of
            if of.step < 0:
                return flat[of.place]
            if of not in known:
                step = self.steps[of.step]
                args, kwargs = tree_map_only(_Of, value, (step.args, step.kwargs), is_leaf=_is_of)
                results = tree_leaves(step.operator(*args, **kwargs))
                known.update((_Of(of.step, index), result) for index, result in enumerate(results))
            return known[of]

        with torch.no_grad():
            try:
                return all(read.take(value(read.of)) == read.value for read in self.reads)
            except (ValueError, RuntimeError, IndexError):  # what is computed after another read than this
                return False

    @contextmanager
    def noted(self, fakes: Sequence[Tensor], flat: Sequence[Tensor], of_data: Sequence[int]) -> Iterator[None]:
        """Within it the reads of tensors that follow from some of the inputs are answered, and noted.

        Args:
            fakes: the inputs as the tracer has them, without values.
            flat: the inputs.
            of_data: which of them may be read.
        """
        with _Noting(self, {index: (fakes[index], flat[index]) for index in of_data}) as noting, _Packing(noting):
            yield


def _is_of(value: Any) -> bool:
    return isinstance(value, _Of)


class _Noting(TorchDispatchMode):
    """Computes what follows from the inputs beside the tracer."""

    def __init__(self, reads: DataReads, inputs: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.reads = reads
        self.known: dict[int, tuple[Tensor, int, _Of, Tensor]] = {}  # by identity, which the first keeps; its memory
        self.written: dict[int, Tensor] = {}  # memory that was written to
        self.places: dict[int, tuple[Tensor, list[Tensor]]] = {}  # of each mask
        for index, (fake, value) in inputs.items():
            self._know(fake, _Of(-1, index), value)

    def _know(self, fake: Tensor, of: _Of, real: Tensor) -> None:
        if fake.layout == torch.strided:
            self.known[id(fake)] = fake, memory(fake), of, real

    def _of(self, value: Tensor) -> tuple[_Of | Tensor, Tensor] | None:
        """What a tensor is, and its values; ``None`` where they do not follow from the inputs."""
        if value.layout != torch.strided or memory(value) in self.written:
            return None
        if id(value) in self.known:
            _, place, of, real = self.known[id(value)]
            return (of, real) if place == memory(value) else None  # another, where .data was assigned
        return (value, value) if has_values(value) and not value.requires_grad else None  # one of its own

    def _take(self, value: Tensor, take: Callable[[Tensor], Any]) -> Any:
        """Notes a read; ``None`` where it does not follow from the inputs."""
        found = self._of(value)
        if found is None:
            return None
        with without_modes():
            taken = take(found[1])
        self.reads.reads.append(_Read(found[0], take, taken))
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            taken = self._take(args[0], Tensor.item)
            return func(*args) if taken is None else taken
        if func is aten.equal.default:
            same = _alike(*args) and self._run(aten.all.default, (self._run(aten.eq.Tensor, args, {}),), {})
            taken = self._take(same, Tensor.item) if isinstance(same, Tensor) else False
            return func(*args) if taken is None else taken
        if func is aten.nonzero.default:
            size = self._take(args[0], _count)
            if size is not None:
                return self._run(aten.nonzero_static.default, args, {"size": size})
        if func in _INDEXED and any(map(_is_mask, args[1])):
            indices = self._indices(args[1])
            if indices is not None:
                args = (args[0], indices, *args[2:])
        return self._run(func, args, kwargs)

    def _indices(self, indices: Sequence[Tensor | None]) -> list[Tensor | None] | None:
        """Numbers in the place of masks."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or not _is_mask(index):
                found.append(index)
                continue
            if memory(index) in self.written:
                return None
            if id(index) not in self.places:  # inductor fails where one mask is looked through twice
                size = self._take(index, _count)
                if size is None:
                    places = aten.nonzero.default(index)
                else:
                    places = self._run(aten.nonzero_static.default, (index,), {"size": size})
                self.places[id(index)] = index, self._run(aten.unbind.int, (places, 1), {})
            found += self.places[id(index)][1]
        return found

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        results = func(*args, **kwargs)
        every = tree_leaves((args, kwargs))
        given = [value for value in every if isinstance(value, Tensor)]
        if into := writes(func, args, kwargs):
            self.written.update((memory(one), one) for one in into if one.layout == torch.strided)
            return results
        if not repeatable(func):
            return results
        if any(isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) for value in every):
            return results  # a number that was read, and not of the inputs
        sources = [self._of(value) for value in given]
        outputs = tree_leaves(results)
        if any(source is None for source in sources) or not all(isinstance(value, Tensor) for value in outputs):
            return results
        if all(has_values(value) for value in outputs):
            return results
        of = {id(value): source for value, source in zip(given, sources, strict=True) if source is not None}
        with without_modes(), torch.no_grad():
            values = tree_map_only(Tensor, lambda value: of[id(value)][1], (args, kwargs))
            reals = tree_leaves(func(*values[0], **values[1]))
        self.reads.steps.append(_Step(func, *tree_map_only(Tensor, lambda value: of[id(value)][0], (args, kwargs))))
        for index, (fake, real) in enumerate(zip(outputs, reals, strict=True)):
            self._know(fake, _Of(len(self.reads.steps) - 1, index), real)
        return results


class _Packing(TorchFunctionMode):
    """Packs and pads sequences by indices, since torch's own way writes lengths into tensors in C++."""

    def __init__(self, noting: _Noting) -> None:
        super().__init__()
        self.noting = noting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_pack_padded_sequence" and (lengths := self._values(args[1])) is not None:
            padded, _, batch_first = args
            with without_modes():
                places = torch.arange(padded.shape[0] * padded.shape[1]).view(*padded.shape[:2], 1)
                places, sizes = func(places, lengths, batch_first)
            return padded.flatten(0, 1)[places[:, 0].to(padded.device)], sizes
        if name == "_pad_packed_sequence" and (sizes := self._values(args[1])) is not None:
            data, _, batch_first, padding, total = args
            with without_modes():
                places, lengths = func(torch.arange(1, 1 + len(data))[:, None], sizes, batch_first, 0, total)
            return torch.cat([data.new_full(data[:1].shape, padding), data])[places[..., 0].to(data.device)], lengths
        return func(*args, **(kwargs or {}))

    def _values(self, value: Tensor) -> Tensor | None:
        """The values of a tensor, which are noted as read; ``None`` where they do not follow from the inputs."""
        if has_values(value):
            return value
        read = self.noting._take(value, Tensor.tolist)
        if read is None:
            return None
        with without_modes():
            return torch.tensor(read, dtype=value.dtype)


def _count(mask: Tensor) -> int:
    return int(mask.count_nonzero())


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


# Where


_NOT_THE_USERS = LIBRARIES | sys.stdlib_module_names - {"__main__"}


def where(error: BaseException) -> str:
    """The line of the user's own at which an error came up, such as ``"my.py, line 3, 'if z > 0:'"``; else empty."""
    for frame, number in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        file = frame.f_code.co_filename
        if module in _NOT_THE_USERS or file.startswith("<"):
            continue
        text = " ".join(linecache.getline(file, number).split()) or frame.f_code.co_name
        return f"{Path(file).name}, line {number}, {text!r}"
    return ""


@contextmanager
def unvalidated() -> Iterator[None]:
    """No distribution looks at values, also none that was made before with validation."""

    def keep(distribution: Any, value: Any) -> None:
        vars(distribution)["_validate_args"] = value

    with pyro.validation_enabled(False):
        before = Distribution._validate_args
        Distribution._validate_args = property(lambda distribution: False, keep)  # type: ignore[assignment]
        try:
            yield
        finally:
            Distribution._validate_args = before
