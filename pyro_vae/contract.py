"""The contract of a model/guide pair.

A pair is an object with two methods that take the same arguments and are Pyro programs::

    def model(self, x=None):     # z ~ p(z),  x ~ p(x | z)
    def guide(self, x=None):     # z ~ q(z | x)

- The plate over the data is called ``data`` and is the rightmost batch dimension; event dimensions inside are
  declared with ``to_event``. What is random but stands outside the plate (weights) counts once for the whole data.
- The observed site is ``x``; a single latent is ``z``, a hierarchy is ``z1``, ``z2``, ... from the data upwards.
- A pair that cannot be trained on every batch may have a method ``check_batch``, of the arguments of model and guide,
  that raises a ``ValueError``; ``fit`` calls it with a first batch before the first step.

Pyro keeps parameters in one global store, keyed by name, so that two pairs built alike would share and overwrite
each other's. Here a pair's parameters belong to the pair: :func:`isolated` runs a program in an empty store and
resolves each bare ``pyro.param`` from the pair itself.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

DATA_PLATE = "data"
_LOCAL = "pyro_params"

Method = TypeVar("Method", bound=Callable[..., Any])


class LocalParameters(nn.Module):
    """The bare ``pyro.param`` statements of one pair: unconstrained values and their constraints.

    It becomes the submodule ``pyro_params`` of the pair, so that ``parameters()`` and ``state_dict()`` hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constraints: dict[str, constraints.Constraint] = {}
        self.unowned: list[str] = []  # parameters of modules that cannot be reached from the pair

    @staticmethod
    def _key(name: str) -> str:
        return "param/" + name.replace(".", "/")  # torch forbids dots, and a module has attributes of its own

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._parameters

    def create(self, name: str, init: Tensor, constraint: constraints.Constraint) -> None:
        """Adds ``name``, with the value ``init`` in the constrained space."""
        with torch.no_grad():
            unconstrained = transform_to(constraint).inv(init.detach()).clone().contiguous()
        self.constraints[name] = constraint
        self.register_parameter(self._key(name), nn.Parameter(unconstrained))

    def adopt(self, name: str, parameter: nn.Parameter) -> None:
        """Adds a module's own parameter, when the module itself cannot be found."""
        self.constraints[name] = constraints.real
        self.unowned.append(name)
        self.register_parameter(self._key(name), parameter)

    def value(self, name: str) -> Tensor:
        """The constrained value; its ``unconstrained()`` is the parameter, as Pyro's optimisers expect."""
        unconstrained = cast(Tensor, self._parameters[self._key(name)])
        value = transform_to(self.constraints[name])(unconstrained)
        value.unconstrained = weakref.ref(unconstrained)
        return value


class _ResolveParameters(Messenger):
    """Answers ``pyro.param`` from the pair instead of from Pyro's global store."""

    def __init__(self, pair: nn.Module) -> None:
        super().__init__()
        self.pair = pair
        self.owned = {id(parameter) for parameter in pair.parameters()}

    def _local(self) -> LocalParameters:
        local = self.pair._modules.get(_LOCAL)
        if local is None:
            local = LocalParameters()
            self.pair._modules[_LOCAL] = local
        return cast(LocalParameters, local)

    def _claim(self, name: str, parameter: nn.Parameter) -> None:
        """Gives the pair a parameter that a program has announced: with its module, where that can be found."""
        claim = getattr(self.pair, "claim", None)
        if claim is None or not claim(name, parameter):
            self._local().adopt(name, parameter)
        self.owned = {id(parameter) for parameter in self.pair.parameters()}

    def _pyro_param(self, msg: Any) -> None:
        if msg["done"]:
            return  # answered by an isolation further in, or by the user's own handler
        name, *rest = msg["args"]
        local = cast("LocalParameters | None", self.pair._modules.get(_LOCAL))
        if local is None or name not in local:
            init = rest[0] if rest else msg["kwargs"].get("init_tensor")
            if init is None:
                return  # a PyroParam attribute, which its module has just put into the (empty) store
            if callable(init) and not isinstance(init, Tensor):
                init = init()
            constraint = msg["kwargs"].get("constraint", constraints.real)
            is_parameter = isinstance(init, nn.Parameter) or id(init) in self.owned
            if is_parameter and constraint is constraints.real:  # pyro.module, or a parameter of a PyroModule
                if id(init) not in self.owned:
                    self._claim(name, init)
                init.unconstrained = weakref.ref(init)
                msg["value"], msg["done"] = init, True
                return
            local = self._local()
            local.create(name, init, constraint)
        msg["value"], msg["done"] = local.value(name), True


@contextmanager
def isolated(pair: nn.Module) -> Iterator[None]:
    """Runs Pyro programs of ``pair`` so that they see the parameters of this pair and leave Pyro's store as it was."""
    store = pyro.get_param_store()
    try:
        with store.scope(), _ResolveParameters(pair):
            yield
    finally:
        # Leaving a scope strips the weak references by which Pyro's optimisers find a parameter.
        for _, parameter in store.named_parameters():
            parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]


def pair_method(method: Method) -> Method:
    """Decorates ``model`` and ``guide`` of a pair written as a ``PyroModule``.

    It is ``pyro.nn.pyro_method``, and keeps the parameters with the pair: under ``pyro.infer.SVI`` two pairs of one
    class do not share them.

    Raises:
        TypeError: when the method is called, if its object is no ``PyroModule``.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, PyroModule):
            raise TypeError(
                f"pair_method decorates methods of a pyro.nn.PyroModule, which {type(self).__name__} is not. Derive it "
                "from PyroModule, or leave pair_method out and announce the networks by pyro.module(name, self)."
            )
        with isolated(self), self._pyro_context:
            return method(self, *args, **kwargs)

    return cast(Method, wrapped)


class Pair(nn.Module):
    """Two Pyro programs, ``model(*batch)`` and ``guide(*batch)``, as a pair with parameters of its own.

    The programs may hold ``pyro.param`` and ``pyro.module`` statements; as in Pyro, what they announce is trained and
    nothing else. It becomes part of the pair (``parameters()``, ``state_dict()``) when a program first runs, for which
    the modules are looked up where Python programs keep them: closures, globals, ``functools.partial``, a bound
    method's object. What cannot be found that way is passed as ``modules``.

    Args:
        model: z ~ p(z), x ~ p(x | z).
        guide: z ~ q(z | x), with the same arguments.
        modules: modules that the programs announce and that are kept elsewhere.

    Raises:
        TypeError: if ``model`` or ``guide`` is not callable.

    >>> decoder = nn.Linear(2, 5)
    >>> def model(x):
    ...     pyro.module("decoder", decoder)
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
    ...         pyro.sample("x", pyro.distributions.Normal(decoder(z), 1.0).to_event(1), obs=x)
    >>> def guide(x):
    ...     loc = pyro.param("loc", torch.zeros(2))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))
    >>> pair = Pair(model, guide)
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise TypeError(
                    f"the {name} of a pair has to be a Pyro program, that is a callable; got {type(program).__name__}."
                )
        self._programs = (model, guide)
        self._passed = modules
        self.announced = nn.ModuleDict()

    def claim(self, name: str, parameter: nn.Parameter) -> bool:
        """Takes in the module that holds ``parameter``, announced as ``name``; False if it is not to be found.

        Raises:
            ValueError: if the programs announce another module by the same name.
        """
        announced, _, path = name.partition("$$$")  # as pyro.module joins them
        known = self.reachable()
        parts = [part for module in known for part in module.modules()]
        exact = (part for part in parts if _parameter_at(part, path) is parameter)
        around = (module for module in known if any(other is parameter for other in module.parameters()))
        module = next(itertools.chain(exact, around), None)
        if module is None:
            return False
        key = announced.replace(".", "/")
        other = self.announced._modules.get(key)
        if other is not None and other is not module and any(part is other for part in parts):
            raise ValueError(
                f"two modules are announced as {announced!r}. Give each its own name: pyro.module(name, module)."
            )
        self.announced[key] = module
        return True

    def reachable(self) -> list[nn.Module]:
        """The modules that the programs refer to, announced or not."""
        return [*self._passed, *_modules_of(self._programs[0]), *_modules_of(self._programs[1])]

    def __deepcopy__(self, memo: dict[int, Any]) -> Pair:
        for program in self._programs:
            if not inspect.ismethod(program) and _modules_of(program):
                raise TypeError(
                    "a Pair of functions cannot be copied: a copy of a function would go on using the networks of the "
                    "original. Make each pair by a function of yours that makes its networks and its two programs, or "
                    "write the pair as a class."
                )
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the generative program p(x, z)."""
        with isolated(self):
            return self._programs[0](*args, **kwargs)

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the recognition program q(z | x)."""
        with isolated(self):
            return self._programs[1](*args, **kwargs)


def _modules_of(program: Any) -> list[nn.Module]:
    """The modules that a Python callable refers to, innermost containers first looked into."""
    found: list[nn.Module] = []
    seen: set[int] = set()

    def visit(value: Any, home: str | None) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, functools.partial):
            visit_all([value.func, *value.args, *value.keywords.values()], home)
        elif inspect.ismethod(value):
            owner = value.__self__
            visit_all([owner] if isinstance(owner, nn.Module) else vars(owner).values(), home)
            visit(value.__func__, home)
        elif inspect.isfunction(value) and value.__module__ == (home or value.__module__):
            variables = inspect.getclosurevars(value)
            visit_all([*variables.nonlocals.values(), *variables.globals.values()], value.__module__)
        elif isinstance(value, (list, tuple)):
            visit_all(value, home)
        elif isinstance(value, dict):
            visit_all(value.values(), home)

    def visit_all(values: Iterable[Any], home: str | None) -> None:
        for value in values:
            visit(value, home)

    visit(program, None)
    return found


def _parameter_at(module: nn.Module, path: str) -> Tensor | None:
    *parts, name = path.split(".")
    part: nn.Module | None = module
    for child in parts:
        part = part._modules.get(child) if part is not None else None
    return None if part is None else part._parameters.get(name)


def as_pair(pair: Any) -> nn.Module:
    """``pair`` as a module with ``model`` and ``guide``.

    A module with both methods is itself; any other object with both is wrapped by :class:`Pair`, once, and the
    wrapper kept on the object, so that what one call trains the next one sees.

    Raises:
        TypeError: if there are no two such methods.
    """
    if not (callable(getattr(pair, "model", None)) and callable(getattr(pair, "guide", None))) or isinstance(
        pair, type
    ):
        what = f"the class {pair.__name__} itself" if isinstance(pair, type) else f"an object of {type(pair).__name__}"
        raise TypeError(
            f"a pair has two methods, model and guide; got {what}. "
            "Write a class with both, or wrap two Pyro functions: Pair(model, guide)."
        )
    if isinstance(pair, nn.Module):
        return pair
    wrapped = getattr(pair, "_pyro_vae_pair", None)
    if wrapped is None or wrapped._programs != (pair.model, pair.guide):  # other programs since, or a copy.copy
        wrapped = Pair(pair.model, pair.guide)
        try:
            object.__setattr__(pair, "_pyro_vae_pair", wrapped)  # also on a frozen dataclass
        except (AttributeError, TypeError) as error:
            raise TypeError(
                f"an object of {type(pair).__name__} cannot hold the pair made of its model and guide. "
                "Wrap it once yourself and use that: pair = Pair(it.model, it.guide)."
            ) from error
    return wrapped


def programs(pair: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``(model, guide)`` of a pair as callables that see the pair's own parameters."""

    def isolate(program: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with isolated(pair):
                return program(*args, **kwargs)

        return run

    owner: Any = pair
    return isolate(owner.model), isolate(owner.guide)


@contextmanager
def kept_modes(pair: nn.Module) -> Iterator[None]:
    """Puts back the training mode of each part of a pair, also of modules that the programs have yet to announce."""
    modules = [pair, *getattr(pair, "reachable", list)()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, for all parts of a pair."""
    with kept_modes(pair):
        for module in (pair, *getattr(pair, "reachable", list)()):
            module.eval()
        yield


def device_of(pair: nn.Module) -> torch.device:
    """Where a pair is: the device of its first parameter, also of one that its programs have yet to announce."""
    modules = (pair, *getattr(pair, "reachable", list)())
    first = next((parameter for module in modules for parameter in module.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def data_plate(x: Tensor | None) -> pyro.plate:
    """The plate over the data of a batch ``x: [B, *event]``; of size 1 where the program draws ``x`` itself."""
    return pyro.plate(DATA_PLATE, 1 if x is None else len(x), dim=-1)


def vectorized(
    pair: nn.Module, num_particles: int | None = None, max_plate_nesting: int = 1
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``(model, guide)`` of :func:`programs`, in a plate of ``num_particles`` on the left of their own plates."""
    model, guide = programs(pair)
    if num_particles is not None:
        plate = pyro.plate("num_particles_vectorized", num_particles, dim=-1 - max_plate_nesting)
        model, guide = plate(model), plate(guide)
    return model, guide


def support_of(fn: Any) -> constraints.Constraint | None:
    """The support of one value, seen through ``to_event`` and mixtures; ``None`` if it is not known."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def run(
    pair: nn.Module, *batch: Any, num_particles: int | None = None, max_plate_nesting: int = 1
) -> tuple[Trace, Trace]:
    """Runs the guide on ``batch`` and the model against its draws.

    Returns:
        ``(model_trace, guide_trace)``. With ``num_particles`` the draws have one more dimension on the left of the
        plates: a latent inside the data plate is ``[num_particles, B, *event]``.
    """
    model, guide = vectorized(pair, num_particles, max_plate_nesting)
    with computing_once():
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    return model_trace, guide_trace


_results: ContextVar[dict[Any, tuple[tuple[Any, ...], Any]] | None] = ContextVar("pyro_vae_results", default=None)


@contextmanager
def computing_once(active: bool = True) -> Iterator[None]:
    """For one run of a guide and of the model against its draws, in which :func:`once` computes nothing twice.

    Args:
        active: False where guide and model are to compute apart, such as with weights that each of them draws.
    """
    token = _results.set({} if active else None)
    try:
        yield
    finally:
        _results.reset(token)


def once(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``; what the guide has computed of the same inputs is not computed again by the model.

    A guide that runs top-down draws z_l by what p(z_l | z_{l+1}) and the data say together, so that it walks
    through the decoder, which the model then does a second time on the same draws. A pair that calls its decoder by
    ``once(self.decoder, z)`` in both programs walks through it once, forwards and backwards, under the estimators of
    this library. Elsewhere, as under Pyro's SVI, and on other inputs (other tensors, be their values the same) it is
    the plain call. So it is where the function has ``pyro.sample`` statements, which belong to both programs. Other
    noise (dropout) is the same in both.

    Args:
        function: of tensors; in the two programs the same function, or method of the same object.
        inputs: tensors, or what else is the same object in both.
    """
    results = _results.get()
    if results is None:
        return function(*inputs)
    key = (function, torch.is_grad_enabled(), *map(id, inputs))
    if key not in results:
        with _Sampling() as sampling:
            value = function(*inputs)
        if sampling.sites:
            return value
        results[key] = inputs, value  # inputs that are kept cannot pass their id on to others
    return results[key][1]


class _Sampling(Messenger):
    """Counts the sample statements."""

    sites = 0

    def _pyro_sample(self, msg: Any) -> None:
        self.sites += 1


def tracing_obstacle(pair: nn.Module) -> str | None:
    """Why the pair's programs cannot be run on exchanged parameters; ``None`` if they can."""
    local = pair._modules.get(_LOCAL)
    if isinstance(local, LocalParameters) and local.unowned:
        return f"the module of parameter {local.unowned[0]} cannot be found; pass it as Pair(model, guide, module)"
    return None


def data_frame(trace: Trace) -> Any | None:
    """The plate over the data: the frame called ``data``, or else the rightmost plate around an observed site."""
    rightmost = None
    for site in trace.nodes.values():
        if site["type"] != "sample":
            continue
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and frame.name == DATA_PLATE:
                return frame
            if frame.vectorized and frame.dim == -1 and site["is_observed"]:
                rightmost = frame
    return rightmost


def observed_sites(trace: Trace) -> dict[str, Any]:
    """The sites at which the model meets the data."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["is_observed"] and not (site["infer"] or {}).get("_deterministic")
    }


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The random variables that are not observed (plates' subsamples left out)."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"
    }


def check_densities(who: str, model_trace: Trace) -> None:
    """Refuses latents without a density, for what takes p(x, z) / q(z | x) as a weight of each datum.

    Args:
        who: needs the densities, for the message.
        model_trace: a run of the model.

    Raises:
        ValueError: if the prior of a latent is improper, as an autoencoder's.
    """
    for name, site in latent_sites(model_trace).items():
        if isinstance(site["fn"], ImproperUniform):
            raise ValueError(
                f"{who} needs densities p({name}) and q({name}), but the prior is improper: an autoencoder has no "
                f"prior, and its q({name}) is a point without a density: there are no importance weights, and no p(x). "
                "Train it by SGVB_A or SGVB_B, or take a VAE, such as pyro_vae.models.MLPVAE."
            )


def dream(model: Callable[..., Any], *batch: Any) -> tuple[tuple[Any, ...], Trace]:
    """Draws latents and data from the model: (z, x) ~ p(z) p(x | z). Of the observed arguments only the shape matters.

    Args:
        model: the generative program. It has to observe its arguments as they are, or views of them.
        batch: its arguments; what it does not observe (a label, say) stays.

    Returns:
        ``(new batch, trace)``: the arguments with the data drawn in the place of those given, and the run that drew
        them, with its latents and with its observed sites marked as such.

    Raises:
        ValueError: if what the model observes is not an argument, or the model observes nothing.
    """
    # A memory of its own for each argument tells which of them an observed tensor is, or is a view of.
    given = [v.clone(memory_format=torch.contiguous_format) if isinstance(v, Tensor) else v for v in batch]
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*given)
    sites: Any = {name: site for name, site in trace.nodes.items() if "obs" in (site.get("infer") or {})}
    found = list(given)
    for name, site in sites.items():
        site["is_observed"] = True
        observed = site["infer"]["obs"]
        if site["infer"].get("_deterministic"):
            continue
        index = next((i for i, value in enumerate(given) if _shares_memory(value, observed)), None)
        if index is None:
            raise ValueError(
                f"{name!r} observes a tensor that is no argument of the model, nor a view of one, so what the model "
                "draws cannot be given back to it. Convert the data (dtype, binarisation) before they are passed."
            )
        view = observed.size(), observed.stride(), observed.storage_offset()
        found[index] = torch.as_strided_scatter(found[index], site["value"].to(observed.dtype), *view)
    if not observed_sites(trace):
        raise ValueError("the model observes nothing when it is given these arguments, so there are no data to draw.")
    return tuple(found), trace


def _shares_memory(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage()._cdata == other.untyped_storage()._cdata
