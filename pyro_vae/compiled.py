"""Pyro programs as compiled graphs.

What a module computes on a batch, and the gradients, is traced by ``make_fx`` to one graph of ATen operators that has
the parameters, the buffers and the batch as inputs; inductor compiles the graph. The noise comes from torch's own
generator in every mode, so that a traced and a compiled run draw what an eager one draws. (Seen with torch 2.11,
not with 2.15: inductor may change the order of draws of different kinds, so that a compiled dropout meets other noise.)

All else that a program reads from Python is a constant of its graph; :class:`Compiled` tells how a change is noticed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae._checks import one_of, warn
from pyro_vae._pyro import traced
from pyro_vae._torch import as_parameter, compiled_by_inductor, cpp_compilers, depends_on_values, memory
from pyro_vae.batches import flattened, packed_sizes, unflattened
from pyro_vae.contents import Contents
from pyro_vae.frozen import PythonState
from pyro_vae.graphs import FROZEN, Gradients, Graph, Untraceable, copies, digest, names_of, same_draws
from pyro_vae.reads import DataReads, unvalidated, where

Compile = Literal["auto", "inductor", "traced", "eager"]
Precision = Literal["float32", "bfloat16", "auto"]
_MODES = ("inductor", "traced", "eager")  # each falls back to the next


class Follows(Protocol):
    """What follows the gradients in one graph with them, and writes parameters and tensors of its own in place."""

    def key(self) -> Any:
        """What a graph with it has as constants."""

    def inputs(self) -> list[Tensor]:
        """What it reads and writes beside the module's own."""

    def __call__(
        self, loss: Tensor, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], inputs: list[Tensor]
    ) -> None:
        """Is traced: the first output, parameters and buffers by name, their gradients, and :meth:`inputs`."""


class Compiled:
    """A module whose ``forward(*inputs, **named)`` gives a list of tensors, or a dictionary of them, run as a graph.

    Inputs may be of any structure (:mod:`pyro_vae.batches`); what is no tensor in them is a constant.

    Each shape of the inputs has a graph of its own, and so has what the program reads in Python of their values and of
    buffers (``range(lengths.max())``, a boolean mask): a graph runs where it would read the same. After 8 graphs for
    one shape, or 32, further batches run eagerly, and a warning says so.

    In a graph all else that the program reads from Python is a constant: numbers in attributes, globals, numpy's draws.
    (A buffer is not, nor a tensor that is written to.) So a graph is compared with the program, which runs eagerly on
    copies of the same inputs with the same draws:

    - when it is made, at its uses 2, 10, 42, 170 and 682, and then after every 1,024;
    - when a Python value that the program may read has been set (:class:`~pyro_vae.frozen.PythonState`); after n such
      comparisons that found nothing, up to n uses later, 16 at most;
    - at the next use after :meth:`look`.

    It runs eagerly from there on, and a warning says why, where outputs, gradients or buffers differ by more than
    rounding, where a run of the program sets such values itself or draws random numbers that are not torch's, and where
    it cannot be traced. What changes unseen, a file say, is noticed at the next comparison.

    When a shape is compiled or compared, and what runs eagerly, follows from what has run so far. :meth:`state` tells
    that, so that a process that goes on where another stopped computes the same bits.

    Gradients are computed also inside ``torch.no_grad`` and ``torch.inference_mode``.

    Args:
        module: has ``training`` and all parameters already.
        compile: ``"inductor"`` compiles the traced graph, ``"traced"`` runs it as it is, ``"eager"`` does not trace.
            ``"auto"`` is the first of these that works here; of more than 2,000 operators, as loops over particles or
            time have them, the second, since inductor takes minutes for so many.
        gradients: whether to differentiate the first output by the parameters that require it. That output then
            becomes NaN if a gradient is not finite.
        planned: how many runs are planned, where that is known. ``"auto"`` then has inductor compile a shape at its use
            2, 10, 100, 1,000, ... if it has so many runs before it, as far as the runs so far tell, that they win more
            time than inductor takes: 8,000 runs n of operators on few numbers, and of operators on M numbers each
            n (1 + M / 30,000) > 8,000. This is a rule of counts, so that the same arguments give the same bits. Else
            the first shape is compiled at its first use (at the second, if the graph has what follows the gradients),
            and any other after 100 uses.
        obstacle: why the module cannot be traced, if that is known beforehand.

    Attributes:
        contents: of the module, as they were at the last run.
        mode: how it runs: ``"inductor"``, ``"traced"`` or ``"eager"``.
        tell: is called with what is waited for, a few words, and with none when that is over.

    Raises:
        ValueError: if ``compile`` is something else, or asks for what is not possible here.

    Warns:
        UserWarning: where ``"auto"`` falls back to the next way of running.
    """

    # Inductor takes seconds for each shape: one that comes rarely (the last batch of an epoch) runs as traced.
    _uses_before_compiling = 100

    def __init__(
        self,
        module: nn.Module,
        *,
        compile: Compile = "auto",
        gradients: bool = False,
        planned: float | None = None,
        obstacle: str | None = None,
    ) -> None:
        one_of(get_args(Compile), compile=compile)
        self._module, self.contents = module, Contents(module)
        self._differentiates = gradients
        self._strict = compile != "auto"
        self._planned = None if self._strict else planned
        self.mode: str = "inductor" if compile == "auto" else compile
        self.tell: Callable[[str], Any] = lambda text: None
        self._graphs: dict[Any, list[Graph]] = {}
        self._full = False  # whether it was said that there are as many graphs as there may be
        self._fell: str | None = None  # why the mode is not what was asked for
        self._awaited: dict[str, list[Any]] = {}  # graphs of another process by their names, with their counts
        if obstacle is not None and self.mode != "eager":
            self._fall_back("eager", obstacle)
        if self.mode == "inductor" and not _has_compiler(module):
            self._fall_back("traced", "no C++ compiler is found (install g++ or clang, or set CXX)")

    def _fall_back(self, mode: str, reason: str) -> None:
        if self._strict:
            raise ValueError(f"compile={self.mode!r} is not possible here: {reason}.")
        warn(f"programs run {mode} instead of {self.mode}: {reason}.")
        self.mode, self._fell = mode, reason

    def __call__(self, *inputs: Any, **named: Tensor) -> tuple[Any, Gradients]:
        """``(outputs, gradients)``, the gradients in the order of the trained parameters."""
        return self.followed(None, *inputs, **named)[:2]

    def followed(self, follows: Follows | None, *inputs: Any, **named: Tensor) -> tuple[Any, Gradients, bool]:
        """Likewise, and whether what follows the gradients has been done with them, as in a graph of inductor's."""
        with torch.inference_mode(False):  # in which nothing can be differentiated
            tensors, structure = flattened(inputs)
            tensors = [value.clone() if value.is_inference() else value for value in tensors]
            named = {name: value.clone() if value.is_inference() else value for name, value in named.items()}
            self.contents.look()
            if self.mode != "eager":
                try:
                    if (found := self._run(tensors, structure, named, follows)) is not None:
                        return found
                except Untraceable as error:
                    self._fall_back("eager", str(error))
            with torch.set_grad_enabled(self._differentiates):
                names, values = _listed(self._module(*unflattened(structure, iter(tensors)), **named))
            if not self._differentiates:
                return _named(names, values), [], False
            values, gradients = _differentiated(
                values, [p for p in self.contents.parameters.values() if p.requires_grad]
            )
            return _named(names, values), gradients, False

    def _run(
        self, inputs: Sequence[Tensor], structure: Any, named: Mapping[str, Tensor], follows: Follows | None
    ) -> tuple[Any, Gradients, bool] | None:
        """As a graph; ``None`` where there is none and can be no further one."""
        trained: dict[str, Tensor] = {}
        fixed: dict[str, Tensor] = {}
        for name, parameter in self.contents.parameters.items():
            (trained if self._differentiates and parameter.requires_grad else fixed)[name] = parameter
        fixed.update(self.contents.buffers)
        given = [*inputs, *named.values()]
        flat = [*(p.detach() for p in (*trained.values(), *fixed.values())), *given]
        key = (structure, *((t.shape, t.dtype, t.device) for t in given), *named, *self.contents.modes, *trained)
        graph = next((graph for graph in self._graphs.get(key, ()) if graph.reads.hold(flat)), None)
        if graph is None:
            names = names_of(structure, key)
            structures = {names_of(known, ())[0] for known, *_ in self._graphs} | {names[0]}
            if len(structures | {name.split()[0] for name in self._awaited}) > _STRUCTURES:
                raise Untraceable(f"the batches hold Python values of more than {_STRUCTURES} kinds. {_PASSED}")
            is_awaited = any(name.split()[:2] == names for name in self._awaited)
            if not is_awaited and self._no_further(key, names):
                return None
            graph = self._trace(list(trained), list(fixed), flat, list(named), structure)
            graph.name = " ".join((*names, digest(graph.reads.values)))
            counts = self._awaited.pop(graph.name, None)
            if counts is not None:
                graph.take_up(counts)
            elif is_awaited and self._no_further(key, names):
                graph.run = None  # it is found again, and never used
            self._graphs.setdefault(key, []).append(graph)
        if graph.run is None:
            return None
        if graph.due():
            graph.compare(flat)
        if self.mode == "inductor" and self._is_due(graph, follows):
            self.tell("compiling the programs")
            self._fuse(graph, [*trained, *fixed], flat, follows)
            self.tell("")
        own = follows.inputs() if follows is not None and graph.has_followed else []
        with torch.no_grad():
            results = list(graph.run(*flat, *own))
        split = len(results) - len(trained)
        return _named(graph.names, results[:split]), results[split:], graph.has_followed

    @property
    def ran(self) -> str:
        """How it has run: as :attr:`mode`, but for ``"traced"`` where inductor has compiled nothing."""
        is_fused = any(counts[-1] for _, counts in self._counted())
        return "traced" if self.mode == "inductor" and not is_fused else self.mode

    def look(self) -> None:
        """Has the next use of each graph compared with the program."""
        for graph in self._all():
            graph.next = graph.uses + 1
        for counts in self._awaited.values():
            counts[3] = counts[0] + 1

    def state(self) -> dict[str, Any]:
        """How it runs, why, and by the name of each graph how often it was used and compared, for a checkpoint."""
        return {"mode": self.mode, "why": self._fell, "graphs": dict(sorted(self._counted()))}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up :meth:`state`: each shape runs as it would have in the process that stopped."""
        self._awaited = {name: list(counts) for name, counts in state["graphs"].items()}
        if _MODES.index(state["mode"]) > _MODES.index(self.mode):
            self._fall_back(state["mode"], state["why"])

    def _all(self) -> Iterator[Graph]:
        return (graph for graphs in self._graphs.values() for graph in graphs if graph.run is not None)

    def _counted(self) -> Iterator[tuple[str, list[Any]]]:
        """The graphs that there are, here or in the process before, by name."""
        return itertools.chain(((graph.name, graph.counts()) for graph in self._all()), self._awaited.items())

    def _no_further(self, key: Any, names: list[str]) -> bool:
        """Whether there are as many graphs as there may be; it is said once."""
        known = [name for name, _ in self._counted()]
        of_values, every = sum(name.split()[:2] == names for name in known), len(known)
        if of_values < _VALUES and every < _GRAPHS:
            return False
        if not self._full:
            self._full = True
            reason = (
                f"the programs read other values of them in Python than in the {of_values} graphs that there are"
                if of_values >= _VALUES
                else f"there are {every} graphs already, one for each shape of a batch. Pad the batches to few lengths"
            )
            warn(f"programs run eager instead of {self.mode} on some batches: {reason}.")
        return True

    def _trace(
        self, trained: list[str], fixed: list[str], flat: list[Tensor], named: Sequence[str], structure: Any
    ) -> Graph:
        names = [*trained, *fixed]
        tied = _tied(self._module)
        outputs: Any = None  # their names

        def compute(*flat: Tensor) -> list[Tensor | None]:
            nonlocal outputs
            leaves = [as_parameter(value.detach()) for value in flat[: len(trained)]]
            state = dict(zip(names, (*leaves, *flat[len(trained) : len(names)]), strict=True))
            by_place, by_name = flat[len(names) : len(flat) - len(named)], flat[len(flat) - len(named) :]
            with torch.set_grad_enabled(self._differentiates):
                # Not by torch's own ties: of a module with two names it would leave the traced tensors behind.
                state.update({place: state[name] for name in names for place in tied.get(name, ())})
                options = dict(zip(named, by_name, strict=True))
                inputs = unflattened(structure, iter(by_place))
                outputs, values = _listed(functional_call(self._module, state, inputs, options, tie_weights=False))
            for name, before in zip(names, flat, strict=False):
                if name in fixed and state[name] is not before:  # a buffer that was assigned, not written in place
                    before.copy_(state[name])
            values, gradients = _differentiated(values, leaves) if self._differentiates else (values, [])
            return [*values, *gradients]

        buffers = {name for name, _ in self._module.named_buffers()}
        data = range(len(names), len(flat) - len(named))
        sizes = [data[place] for place in packed_sizes(structure)]
        readable = [place for place, name in enumerate(names) if name in buffers] + list(data)

        def noted(*fakes: Tensor) -> list[Tensor | None]:
            with graph.reads.noted(fakes, flat, readable):
                return compute(*(flat[place] if place in sizes else fake for place, fake in enumerate(fakes)))

        before = PythonState(self._module)
        try:
            graph = Graph(self._module, compute, len(trained), len(names), before)
            # In Python first: what a program makes once and keeps is then not made of tensors without values.
            expected = graph.apart(compute, flat)
            graph.state = PythonState(self._module)
            graph.reads = DataReads([(place, flat[place]) for place in sizes])
            # On fake tensors, which have no values: nothing is written, and a program that looks at a value of a draw
            # (`if z > 0`, `z.tolist()`) either stops the tracer or looks anew at each run; no value is frozen into the
            # graph. Values of data are part of its key. Validation looks at every value.
            constants: set[int] = set()
            try:
                with same_draws(flat), graph.state.same_draws(), _quiet(), unvalidated():
                    graph.traced = graph.run = traced(noted, flat)
                own = [node.target for node in graph.traced.graph.nodes if node.op == "get_attr"]
                constants = {id(getattr(graph.traced, name)) for name in own}
            finally:
                changed = graph.state.put_back(constants)
            if changed:
                raise Untraceable(f"a run of the programs {' and '.join(changed[:3])}. {FROZEN}")
            graph.names = outputs
            graph.compare(flat, expected)
        except Exception as error:
            before.put_back()
            if isinstance(error, Untraceable):
                raise
            # Whatever stops the tracer, the eager program is the judge: if that fails as well, its error is raised.
            raise Untraceable(f"the pair cannot be traced ({_said(error)})") from error
        # What a program reaches by its own reference is a constant of the graph, which has no gradient.
        for name, parameter in self._module.named_parameters():
            if name in trained and id(parameter) in constants:
                raise Untraceable(f"the parameter {name} is used otherwise than as an attribute of its module")
        return graph

    def _is_due(self, graph: Graph, follows: Follows | None) -> bool:
        """Whether inductor is to compile a graph now."""
        if graph.fused or graph.was_fused:
            return not graph.fused or graph.follows != (follows and follows.key())
        others = [counts for _, counts in self._counted()]
        if self._planned is not None:
            done = sum(counts[0] for counts in others)
            left = (self._planned - done) * graph.uses / done
            is_asked = graph.uses == 2 or (graph.uses > 2 and math.log10(graph.uses).is_integer())
            return is_asked and left * (1 + graph.size / _NUMBERS) > _RUNS
        # An optimizer makes its state by its first step, which so comes before what a graph has of it.
        is_first = not any(counts[-1] for counts in others) and (follows is None or graph.uses > 1)
        return is_first or graph.uses >= self._uses_before_compiling

    def _fuse(self, graph: Graph, names: list[str], flat: list[Tensor], follows: Follows | None) -> None:
        """Has inductor compile a graph, with what follows its gradients where that can be traced."""
        graph.fused, graph.has_followed, graph.follows = True, False, follows and follows.key()
        graph.run = graph.traced  # where inductor refuses, also a second time
        nodes = graph.traced.graph.nodes
        if any(node.kwargs.get("generator") is not None for node in nodes):
            self._fall_back("traced", "inductor would draw from torch's own generator in place of the programs'")
            return
        if (size := len(nodes)) > _OPERATORS and not self._strict:
            reason = f"inductor would take minutes for the {size} operators of a step, of which each loop adds its own"
            self._fall_back("traced", f"{reason}. compile='inductor' has it do so")
            return
        whole, given = graph.traced, flat
        if follows is not None and self._differentiates:
            own = follows.inputs()

            def both(*values: Tensor) -> list[Tensor | None]:
                results = graph.traced(*values[: len(flat)])
                by_name = dict(zip(names, values, strict=False))
                gradients = dict(zip(names, results[len(results) - graph.num_trained :], strict=False))
                follows(results[0], by_name, gradients, list(values[len(flat) :]))
                return list(results)

            with contextlib.suppress(Exception), same_draws(flat), _quiet():  # a state that is not there yet, say
                whole, given, graph.has_followed = traced(both, [*flat, *own]), [*flat, *own], True
        try:
            graph.run = _by_inductor(whole, given)
        except Exception as error:
            graph.has_followed = False
            self._fall_back("traced", f"inductor failed ({_first_line(error)})")


def _by_inductor(graph: Any, flat: list[Tensor]) -> Callable[..., Sequence[Any]]:
    with _quiet(), torch.no_grad():
        run = compiled_by_inductor(graph, flat)
        with same_draws(flat):
            run(*copies(flat))  # what fails at its first run fails here
    return run


#: Structures of inputs, graphs, and graphs for values that are read of inputs of one shape, at most.
_STRUCTURES, _GRAPHS, _VALUES = 8, 32, 8
#: Inductor takes as long as it wins in so many runs of operators on few numbers, and twice as much where an operator
#: has so many numbers (measured with the pairs of experiments/benchmark.py).
_RUNS, _NUMBERS = 8_000, 30_000
#: Operators of a graph that is compiled unasked, at most: inductor takes 30 to 100 ms for each.
_OPERATORS = 2_000
_PASSED = "In a graph they are constants: pass what changes from batch to batch as a tensor, or pass compile='eager'"


def _listed(outputs: Any) -> tuple[list[Any] | None, list[Tensor]]:
    """The names of outputs, if they have some, and their values."""
    return (list(outputs), list(outputs.values())) if isinstance(outputs, dict) else (None, list(outputs))


def _named(names: list[Any] | None, values: list[Tensor]) -> Any:
    return values if names is None else dict(zip(names, values, strict=True))


def _tied(module: nn.Module) -> dict[str, list[str]]:
    """By the name of a parameter or buffer, the other places where it is; a module of two names is one place."""
    first: dict[int, str] = {}
    tied: dict[str, list[str]] = {}
    every = {"recurse": False, "remove_duplicate": False}
    for prefix, part in module.named_modules():
        for name, value in (*part.named_parameters(prefix, **every), *part.named_buffers(prefix, **every)):
            if first.setdefault(id(value), name) != name:
                tied.setdefault(first[id(value)], []).append(name)
    return tied


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _said(error: Exception) -> str:
    """What stopped the tracer, and where."""
    place = where(error)
    if depends_on_values(error):
        what = "what follows depends on values of draws or parameters that Python reads (.item(), int(), if, a mask)"
    else:
        what = _first_line(error)
    return f"{place}: {what}" if place else what


def _differentiated(outputs: list[Tensor], parameters: list[Tensor]) -> tuple[list[Tensor], Gradients]:
    """Gradients of the first output, ``None`` where it does not depend; a guard takes the place of that output."""
    value, *others = outputs
    gradients: Gradients = [None for _ in parameters]
    if value.requires_grad:
        gradients = _apart(torch.autograd.grad(value, parameters, allow_unused=True))
    # 0 * gradient is NaN for what is not finite: one number to look at in each step instead of all gradients.
    zeros = [0.0 * gradient.sum() for gradient in gradients if gradient is not None]
    guarded = value.detach() + torch.stack(zeros).sum() if zeros else value.detach()
    return [guarded, *(other.detach() for other in others)], gradients


def _apart(gradients: Sequence[Tensor | None]) -> Gradients:
    """Gradients that may be written to: autograd may give one tensor to two parameters, or an expanded scalar."""
    apart: Gradients = []
    storages = set()
    for gradient in gradients:
        if gradient is not None and gradient.layout == torch.strided:
            if memory(gradient) in storages or 0 in gradient.stride():
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            storages.add(memory(gradient))
        apart.append(gradient)
    return apart


def resolved(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """What ``"auto"`` means on this machine: bfloat16 where matrix products in it are native, float32 elsewhere.

    Raises:
        ValueError: if ``precision`` is not "float32", "bfloat16" or "auto".

    >>> resolved("float32", torch.device("cpu"))
    'float32'
    """
    one_of(get_args(Precision), precision=precision)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = torch.cpu.get_capabilities()
    return "bfloat16" if native.get("avx512_bf16") or native.get("amx_bf16") or native.get("bf16") else "float32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in bfloat16 where ``precision`` says so; the parameters stay in float32.

    >>> with autocast("bfloat16", torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if resolved(precision, device) == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the tracer and the compiler log, but where TORCH_LOGS asks for it; their errors come through."""
    known = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.partition(".")[0] == "torch"]
    handlers = [handler for logger in known for handler in logger.handlers] if "TORCH_LOGS" not in os.environ else []
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _has_compiler(module: nn.Module) -> bool:
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        return True  # Triton, not C++
    return any(shutil.which(name) for name in cpp_compilers())
