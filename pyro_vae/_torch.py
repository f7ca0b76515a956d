"""What the library leans on in torch beyond its public interface: private names, message texts, attributes.

Each stands here alone, and has a test in ``tests/test_torch.py`` that fails by its name when a release changes it.

Not here is what torch has its users' subclasses write or call: ``_validate_args`` and ``_extended_shape`` of a
distribution, ``_call`` of a transform; nor ``_modules``, ``_parameters`` and ``_buffers`` of a module, on which torch's
own documentation and saved files rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Transform
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

# Modules


#: Base of torch's batch normalizations, and of its convolutions.
BatchNorm = nn.modules.batchnorm._BatchNorm
Convolution = nn.modules.conv._ConvNd


def weight_norm_gain(layer: nn.Module) -> Tensor | None:
    """The gain g of a layer under ``parametrizations.weight_norm``, whose weight is g v / |v|."""
    if not is_parametrized(layer, "weight"):
        return None
    originals: Any = cast(nn.ModuleDict, layer.parametrizations)["weight"]
    return originals.original0 if isinstance(originals[0], _WeightNorm) else None


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside of what ``torch.compile`` makes of one."""
    return cast(nn.Module, getattr(module, "_modules", {}).get("_orig_mod", module))


# Transforms


def parts_of(transform: Transform) -> list[Transform]:
    """A ``Transform`` and all that are inside of it, however it holds them."""
    found: dict[int, Any] = {}

    def visit(value: Any) -> None:
        if isinstance(value, (Transform, nn.Module)):
            if id(value) not in found:
                found[id(value)] = value
                visit(vars(value))
        elif isinstance(value, dict):
            visit(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                visit(part)

    visit(transform)
    return [part for part in found.values() if isinstance(part, Transform)]


@contextmanager
def forgetful(transform: Transform) -> Iterator[None]:
    """A ``Transform`` that knows no pair yet; afterwards it and its parts have the attributes that they had before.

    torch and Pyro keep the last pair, its log-determinant and an inverse in attributes of several names.
    """
    before = [(part, dict(vars(part))) for part in parts_of(transform)]
    for part, _ in before:
        part._cached_x_y = None, None
    try:
        yield
    finally:
        for part, attributes in before:
            vars(part).clear()
            vars(part).update(attributes)


# Optimizers


def is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Whether something else happens at a step of an optimizer: hooks, or a step of this one object's own."""
    from torch.optim import optimizer as of_torch

    hooks: list[Any] = [of_torch._global_optimizer_pre_hooks, of_torch._global_optimizer_post_hooks]
    hooks += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    step = vars(optimizer).get("step")  # that of a scheduler notes that it was called, and calls what was there
    step = getattr(step, "__wrapped__", step) if hasattr(step, "_wrapped_by_lr_sched") else step
    return any(hooks) or not (step is None or step is type(optimizer).step)


def note_stepped(optimizer: torch.optim.Optimizer) -> None:
    """Tells torch's schedulers, which warn where an optimizer has not stepped before them, that it has."""
    vars(optimizer)["_opt_called"] = True


def lerp_(tensors: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """Moves each tensor by ``weight`` towards its end, in place, all at once."""
    torch._foreach_lerp_(tensors, ends, weight)


# Tensors


def factor(normal: Any) -> Tensor:
    """The triangular factor of a ``MultivariateNormal``'s covariance as it was given, whatever it expanded to since."""
    return normal._unbroadcasted_scale_tril


def standard_gamma(concentration: Tensor) -> Tensor:
    """A draw of Gamma(concentration, 1), with its implicit gradient."""
    return torch._standard_gamma(concentration)


def has_values(value: Tensor) -> bool:
    """Whether a tensor has values to look at: it has none while a graph is traced."""
    return not isinstance(value, FakeTensor)


def as_parameter(value: Tensor) -> Tensor:
    """A tensor in a parameter's place, for ``isinstance`` too: a ``PyroModule`` announces its parameters by that."""
    value._is_param = True
    return value.requires_grad_()


def memory(value: Tensor) -> int:
    """A number of the memory that a tensor lies in, which its views share; also of one without values."""
    return value.untyped_storage()._cdata


def remember(value: Tensor, kind: str, exact: Tensor) -> None:
    """Keeps ``exact``, a number of a ``kind`` for each of ``value``, with the memory of ``value``.

    :func:`remembered` finds it of the tensor and of its views, such as ``value[0]`` and ``value.detach()``; it goes
    when the memory goes. A tensor without memory of its own, as inside of ``torch.vmap``, keeps nothing.
    """
    with suppress(RuntimeError):
        storage: Any = value.untyped_storage()
        exact = exact.detach()
        if (exact.stride(), exact.storage_offset()) != (value.stride(), value.storage_offset()):
            exact = torch.empty_like(value).copy_(exact)
        storage.pyro_vae = (_version(value), kind, exact)


def _version(value: Tensor) -> int:
    """How often the memory of a tensor was written to, which one of inference mode does not count."""
    return -1 if value.is_inference() else value._version


def remembered(value: Tensor) -> tuple[str, Tensor] | None:
    """The kind and the exact numbers that :func:`remember` keeps of a tensor; ``None`` if it was changed since."""
    with suppress(RuntimeError):
        version, kind, exact = getattr(value.untyped_storage(), "pyro_vae", (None, "", value))
        if version == _version(value):
            return kind, exact.as_strided(value.shape, value.stride(), value.storage_offset())
    return None


# What programs read


_KINDS = ("bool", "int", "float", "complex", "index", "array")
_READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.equal, Tensor.allclose, Tensor.is_nonzero, Tensor.__format__),
    *(torch.equal, torch.allclose, torch.is_nonzero, *(getattr(Tensor, f"__{kind}__") for kind in _KINDS)),
}


class _Asked(TorchFunctionMode):
    """Whether a program takes a number out of a tensor, and not an operator for its own checks, as of one_hot."""

    now = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now = func in _READS
        try:
            if func is Tensor.tolist:  # which reads memory by no operator
                args[0].detach()
            return func(*args, **(kwargs or {}))
        finally:
            self.now = False


class _Reads(TorchDispatchMode):
    def __init__(self, asked: _Asked) -> None:
        super().__init__()
        self.asked = asked
        self.found: list[Any] = []
        self._drawn: dict[int, Tensor] = {}  # what follows from random numbers, by identity, and so kept

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # for which torch would import its compiler at the first operator, a second or more

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        drawn = drawn or any(id(leaf) in self._drawn for leaf in tree_leaves((args, kwargs)))
        if drawn and self.asked.now:
            self.found.append(func)
        result = func(*args, **(kwargs or {}))
        if drawn:
            self._drawn.update((id(leaf), leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


@contextmanager
def draws_read_in_python() -> Iterator[list[Any]]:
    """One entry for each number that is taken out of a draw, by ``.item()``, ``if`` or ``int``, or of what follows."""
    with _Asked() as asked, _Reads(asked) as reads:
        yield reads.found


# Graphs


def depends_on_values(error: BaseException) -> bool:
    """Whether an error of the tracer tells that Python, or a shape, needs values of a tensor."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    return isinstance(
        error, (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
    ) or any(text in str(error) for text in ("Cannot access data pointer", "() is not supported for tensor subclasses"))


def writes(operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors into which an operator writes."""
    arguments = operator._schema.arguments
    named = {**{argument.name: value for argument, value in zip(arguments, args, strict=False)}, **kwargs}
    into = [named.get(one.name) for one in arguments if one.alias_info is not None and one.alias_info.is_write]
    return [value for value in tree_leaves(into) if isinstance(value, Tensor)]


def repeatable(operator: Any) -> bool:
    """Whether an operator gives the same of the same: neither draws nor whatever memory held."""
    drawn = torch.Tag.nondeterministic_seeded in operator.tags
    return not drawn and not operator._opname.startswith(("empty", "new_empty"))


def without_modes() -> AbstractContextManager[Any]:
    """Within it operators are run as they are, also inside of a trace."""
    return _disable_current_modes()


def compiled_by_inductor(graph: Any, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Any]]:
    """A traced graph compiled by inductor, with torch's own random numbers.

    Where sizes or numbers in it follow from values, as those of a boolean mask do, inductor needs symbols of its own.
    """
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    around: AbstractContextManager[Any] = nullcontext()
    if any("unbacked_bindings" in node.meta for node in graph.graph.nodes):
        for node in graph.graph.nodes:
            node.meta.clear()  # the symbols of the tracer
        around = tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)))
    with around:
        return torch._inductor.compile(graph, list(inputs), options={"fallback_random": True})


def cpp_compilers() -> tuple[str, ...]:
    """The programs among which inductor looks for a C++ compiler."""
    from torch._inductor import config

    names = config.cpp.cxx
    return tuple(name for name in (names if isinstance(names, tuple) else (names,)) if name is not None)
