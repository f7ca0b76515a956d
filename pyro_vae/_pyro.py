"""What the library leans on in Pyro beyond its public interface: private names, message texts, attributes.

Each stands here alone, or in ``_torch`` where it is torch's, and has a test in ``tests/test_pyro.py`` that fails by its
name when a release changes it.

Not here is what Pyro has its users' subclasses write or call: ``_pyro_sample`` and its kin of a messenger,
``_get_trace`` of an ELBO.
"""

from __future__ import annotations

import functools
import re
import sys
import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, cast

import pyro
import pyro.util
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from pyro.params.param_store import (
    _MODULE_NAMESPACE_DIVIDER,
    module_from_param_with_module_name,
    normalize_param_name,
    user_param_name,
)
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import _context_wrap
from pyro.poutine.runtime import _DIM_ALLOCATOR, _ENUM_ALLOCATOR, _PYRO_STACK
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode

from pyro_vae._torch import has_values

# Sites

#: The plate of vectorized particles, as Pyro's ELBOs call it.
PARTICLES = "num_particles_vectorized"

#: ``infer=`` of a draw that no trace, and so no estimator, sees.
UNSEEN: Any = {"_do_not_trace": True, "is_auxiliary": True}


def particles(count: int, max_plate_nesting: int) -> pyro.plate:
    """The plate of ``count`` particles, on the left of the plates of the programs."""
    return pyro.plate(PARTICLES, count, dim=-1 - max_plate_nesting)


def is_unseen(site: Any) -> bool:
    """Whether no trace records the draw."""
    return bool((site["infer"] or {}).get("_do_not_trace"))


def is_deterministic(site: Any) -> bool:
    """Whether it is a ``pyro.deterministic`` statement, which Pyro records as an observation."""
    return bool((site["infer"] or {}).get("_deterministic"))


def enumeration_dim(infer: Any) -> int | None:
    """Along which dimension, from the right, a site has all of its values; ``None`` where it has one."""
    return infer.get("_enumerate_dim")


class EnumeratedAfter(EnumMessenger):
    """Enumerates a model, however often it runs, on dimensions behind those of the guide that has just run.

    What the guide has ``drawn`` takes no dimension of its own here. Pyro gives it one, where both programs mark it, and
    takes that for the dimension of a ``pyro.markov`` chain (seen with 1.9.1: -3.69 for -6.68).
    """

    def __init__(self, drawn: Container[str]) -> None:
        super().__init__()
        self._drawn = drawn
        self._dims = {**vars(_ENUM_ALLOCATOR), "dim_to_id": dict(_ENUM_ALLOCATOR.dim_to_id)}

    def __enter__(self) -> Any:
        vars(_ENUM_ALLOCATOR).update(self._dims, dim_to_id=dict(self._dims["dim_to_id"]))
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._drawn:
            msg["infer"] = {**msg["infer"], "enumerate": None}
        super()._pyro_sample(msg)


#: ``(model, guide)`` traces, packed -> terms that do not depend on latents of the model alone and factors that do, both
#: by their plates; the plates of each site; the dimensions to sum over; the scale that stands outside of that sum.
model_factors = _compute_model_factors


def is_subsample(site: Any) -> bool:
    """Whether it is the draw of a plate's indices."""
    return isinstance(site["fn"], _Subsample)


def was_observed(site: Any) -> Tensor | None:
    """What the site observed before ``poutine.uncondition`` made a draw of it; ``None`` where it observed nothing."""
    return (site.get("infer") or {}).get("obs")


# Handlers


def drop_handlers() -> None:
    """Takes all handlers away, and their dimensions, as those of a thread that is not there any more."""
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()


# Validation


def unvalidated() -> AbstractContextManager[None]:
    """Pyro's validation off for a while; a ``validate_args=False`` of the programs is still told apart.

    Distributions take over the default when they are expanded: here it is 0, which Pyro takes for False.
    """
    return pyro.validation_enabled(cast(Any, 0))


def validates() -> bool:
    """Whether distributions are validated, so that a run refuses data outside of their supports."""
    return bool(Distribution._validate_args)


def takes_anything(fn: Any) -> bool:
    """Whether a distribution was made with ``validate_args=False``, seen through ``expand``."""
    return vars(fn).get("_validate_args") is False


def mask_of(fn: Any) -> Tensor | bool:
    """The mask of a ``MaskedDistribution``, ``[*batch_shape]``, or one for all."""
    return fn._mask


# Messages


class Mismatch(NamedTuple):
    """A size that does not fit a plate, as Pyro says it."""

    plate: str
    site: str
    dim: int
    wanted: int
    got: int


_MISMATCH = re.compile(r"Shape mismatch inside plate\('(.*)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)")


def mismatch(message: str) -> Mismatch | None:
    """The mismatch that an error's message tells of, if it does."""
    found = _MISMATCH.search(message)
    return None if found is None else Mismatch(found[1], found[2], *(int(found[group]) for group in (3, 4, 5)))


_UNPACKED = re.compile(r"Error while packing tensors at site '(.*)':")


def unpacked(message: str) -> str | None:
    """The site at which an error's message tells of a dimension that no enumerated latent has there, if it does."""
    found = _UNPACKED.search(message)
    return None if found is None else found[1]


def without_shapes(message: str) -> str:
    """An error's message without the table of shapes that Pyro puts behind it."""
    return re.split(r"\n? *Trace Shapes:", message, maxsplit=1)[0]


@contextmanager
def failing_without_shapes() -> Iterator[None]:
    """What is raised inside of programs says what it said there, without that table."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (without_shapes(error.args[0]), *error.args[1:])
        raise


# Parameters and modules


def announced(name: str) -> tuple[str, str]:
    """Of a parameter that ``pyro.module`` announces, the module's name and the parameter's path in it."""
    module, _, path = name.partition(_MODULE_NAMESPACE_DIVIDER)
    return module, path


class _Unconstrained(weakref.ref[Tensor]):
    """A parameter that is its own value keeps it as an attribute, which is not to stand in the way of pickling."""

    def __reduce__(self) -> Any:
        return type(None), ()


def remember_unconstrained(value: Any, parameter: Tensor) -> None:
    """Has Pyro's optimizers find the parameter of which ``value`` is the constrained value."""
    value.unconstrained = _Unconstrained(parameter)


@contextmanager
def empty_store() -> Iterator[None]:
    """Pyro's store of parameters, empty for a while; afterwards it is the one that it was.

    (``scope()`` of the store strips the weak references by which Pyro's optimizers find a parameter.)
    """
    store = pyro.get_param_store()
    before = dict(vars(store))
    store.clear()  # which makes new dictionaries
    try:
        yield
    finally:
        vars(store).update(before)


def handled(program: Callable[..., Any]) -> tuple[Any, Callable[..., Any]] | None:
    """``(handler, program)`` of what a handler makes of a program, as ``poutine.scale(program, 2)``; else ``None``."""
    if isinstance(program, functools.partial):
        inner = program.func.func if isinstance(program.func, functools.partial) else program.func  # else: of a copy
        return program.args[:2] if inner is _context_wrap else None
    made: Any = program  # of poutine.reparam and poutine.trace
    return (made.msngr, made.fn) if hasattr(program, "msngr") and hasattr(program, "fn") else None


def picklable(program: Any) -> None:
    """Takes from handlers around a module its class's annotations, which Python has copied there and cannot pickle."""
    handlers = []
    while found := handled(program):
        handlers.append(program)
        program = found[1]
    for handler in handlers if isinstance(program, nn.Module) else []:
        vars(handler).pop("__annotations__", None)


@contextmanager
def whole_or_new(program: Any) -> Iterator[None]:
    """Around a run of a program: an ``AutoGuide`` in it that is new stays so where its first run fails."""
    parts = program.modules() if isinstance(program, nn.Module) else ()
    new = [part for part in parts if isinstance(part, AutoGuide) and part.prototype_trace is None]
    try:
        yield
    except Exception:
        for part in new:
            part.prototype_trace = None
        raise


class GuidedModels:
    """The models of the ``AutoGuide`` parts of a module, which they forget when they are copied or pickled.

    Behind the module in what is copied or pickled, it gives the guides their models back, and their copies the copies.
    """

    def __init__(self, module: nn.Module) -> None:
        guides = [part for part in module.modules() if isinstance(part, AutoGuide)]
        for guide in guides:
            picklable(guide.model)
        self._kept: list[Any] = [(guide, guide._model, guide.master) for guide in guides]

    def __reduce__(self) -> Any:
        for guide, model, master in self._kept:
            guide._model, guide.master = model, master
        return _guide, ([(guide, model) for guide, model, _ in self._kept],)


def _guide(guides: list[Any]) -> None:
    for guide, model in guides:
        guide._model = model


def share_context(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are parts of one ``PyroModule``, or the same."""
    modules: Any = one, other
    both = all(isinstance(module, PyroModule) for module in modules)
    return both and modules[0]._pyro_context is modules[1]._pyro_context


def running(module: PyroModule) -> AbstractContextManager[Any]:
    """A run of a program of ``module``, in which each of its random attributes is drawn once."""
    return module._pyro_context


def is_running(module: PyroModule) -> bool:
    """Whether a program of the module, or of one around it, is running."""
    return bool(module._pyro_context.active)


def full_name(module: PyroModule, attribute: str = "") -> str:
    """The dotted name of a running module's attribute, or of the module itself, from the outermost module."""
    return module._pyro_get_fullname(attribute) if attribute else module._pyro_name


def hold(module: PyroModule, attribute: str, value: Tensor) -> None:
    """Gives a random attribute its value in this run, so that it is not drawn."""
    module._pyro_context.set(full_name(module, attribute), value)


def make_root(module: nn.Module) -> None:
    """Names the parts of a ``PyroModule`` anew from here, also those that have run by themselves before."""
    for part in module.modules():
        if isinstance(part, PyroModule):
            part._pyro_context = _Context()
    root = cast(PyroModule, module)
    root._pyro_set_supermodule("", root._pyro_context)


def picklable_prior(kind: type, attribute: str) -> None:
    """Has the function of a ``PyroSample`` found by its name in the class that has it.

    Pyro gives it another name, and sets it by that on the class of an object alone, which may be a derived one.
    """
    prior = vars(kind)[attribute].prior
    setattr(kind, prior.__name__, prior)


# Optimizers


def options_of(optimizer: Any) -> tuple[Callable[..., Any], Any, Callable[[str], dict[str, Any]]]:
    """Of one of ``pyro.optim``: what makes the torch optimizer, its options, and what clips a parameter.

    The options are a dictionary, or a function of a parameter's name, as what clips it is.
    """
    options, clips = optimizer.pt_optim_args, optimizer.pt_clip_args

    def parts(name: str) -> tuple[str, str]:  # as Pyro splits it, also where it is of no module
        return module_from_param_with_module_name(name), user_param_name(name)

    def named(name: str) -> Any:
        return options(normalize_param_name(name)) if optimizer.pt_optim_args_argc == 1 else options(*parts(name))

    def clip(name: str) -> Any:
        return clips(*parts(name)) if callable(clips) else clips

    return optimizer.pt_optim_constructor, named if callable(options) else options, clip


def scheduler_of(optimizer: Any, of_torch: torch.optim.Optimizer) -> Any:
    """The scheduler of a ``PyroLRScheduler``, of another optimizer; ``None`` of a plain ``PyroOptim``."""
    constructor = getattr(optimizer, "pt_scheduler_constructor", None)
    return None if constructor is None else constructor(of_torch, **optimizer.kwargs)


# Losses


class _Backward(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            gradient = (kwargs or {}).get("gradient")
            self.found.append(args[0] if gradient is None else (args[0] * gradient).sum())
            return None
        if func is Tensor.item and not has_values(args[0]):
            return args[0].detach()
        if (
            func is Tensor.all
            and not has_values(args[0])
            and sys._getframe(1).f_globals["__name__"] == "pyro.infer.util"
        ):
            return True  # of draws that are possible, which TraceEnum_ELBO would pick by a mask
        if func is Tensor.register_hook and not has_values(args[0]) and args[1].__module__ == "pyro.util":
            return None  # of warn_if_nan
        return func(*args, **(kwargs or {}))


@contextmanager
def backward_of() -> Iterator[list[Tensor]]:
    """Runs a loss of SVI: the tensors of which it calls ``backward()``, in place of that.

    While a graph is traced, ``.item()`` of a tensor without values is the tensor, and ``warn_if_nan`` does not look.
    """
    util: Any = pyro.util
    looked = util.torch_isnan
    util.torch_isnan = lambda value: looked(value) if not isinstance(value, Tensor) or has_values(value) else False
    try:
        with _Backward() as mode:
            yield mode.found
    finally:
        util.torch_isnan = looked


# Graphs


@contextmanager
def _counted_plates() -> Iterator[None]:
    """Loops over plates that do not subsample run over whole numbers, and not over tensors without values."""
    looped = IndepMessenger.__iter__

    def loop(plate: Any) -> Iterator[Any]:
        if getattr(plate, "subsample_size", None) == plate.size:
            plate._indices = range(plate.size)
        yield from looped(plate)

    IndepMessenger.__iter__ = loop  # type: ignore[method-assign]
    try:
        yield
    finally:
        IndepMessenger.__iter__ = looped  # type: ignore[method-assign]


def traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """``function`` as a graph of ATen operators, traced on tensors without values, beside others that have them."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with _counted_plates():
        return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
