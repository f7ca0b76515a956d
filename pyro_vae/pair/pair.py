"""The contract of a model/guide pair.

A pair is an object with two methods that take the same arguments and are Pyro programs::

    def model(self, x=None):     # z ~ p(z),  x ~ p(x | z)
    def guide(self, x=None):     # z ~ q(z | x)

- The plate over the data is the one called ``data``, or else one around the observed site
  (:func:`~pyro_vae.pair.sites.data_frames`); event dimensions inside are declared with ``to_event``. What is random but
  stands outside the plate (weights) counts once for the whole data.
- The observed site is ``x``; a single latent is ``z``, a hierarchy is ``z1``, ``z2``, ... from the data upwards.
- What it may have besides, such as a check of its batches, is in :mod:`pyro_vae.pair.protocols`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import Any, TypeVar, cast

import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_vae._checks import callable_, warn
from pyro_vae._pyro import GuidedModels, picklable, running, whole_or_new
from pyro_vae.batches import by_name
from pyro_vae.pair.modules import ProgramModules
from pyro_vae.pair.parameters import LOCAL, LocalParameters, isolated
from pyro_vae.pair.turns import fork_rng

Method = TypeVar("Method", bound=Callable[..., Any])
Program = Callable[..., Any]


def pair_method(method: Method) -> Method:
    """Decorates ``model`` and ``guide`` of a pair written as a ``PyroModule``.

    It is ``pyro.nn.pyro_method``, and keeps the parameters with the pair: under ``pyro.infer.SVI`` two pairs of one
    class do not share them.

    Raises:
        TypeError: when the method is called, if its object is no ``PyroModule``.

    >>> import torch, pyro, pyro.distributions as dist
    >>> from pyro.nn import PyroModule
    >>> from pyro_vae.pair import pair_method
    >>> class MyPair(PyroModule):
    ...     @pair_method
    ...     def model(self, x):
    ...         with pyro.plate("data", len(x)):
    ...             z = pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0))
    ...             pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    ...     @pair_method
    ...     def guide(self, x):
    ...         with pyro.plate("data", len(x)):
    ...             pyro.sample("z", dist.Normal(x / 2, 0.7))
    >>> pair = MyPair()
    >>> pair.model(torch.ones(3))
    >>> [name for name, _ in pair.named_parameters()], "loc" in pyro.get_param_store()
    (['pyro_params.param/loc'], False)
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, PyroModule):
            raise TypeError(
                f"pair_method decorates methods of a pyro.nn.PyroModule, which {type(self).__name__} is not. Derive it "
                "from PyroModule, or leave pair_method out and announce the networks by pyro.module(name, self)."
            )
        with isolated(self), running(self):
            return method(self, *args, **kwargs)

    return cast(Method, wrapped)


class Pair(nn.Module):
    """Two Pyro programs, ``model(*batch)`` and ``guide(*batch)``, as a pair with parameters of its own.

    The programs may be functions with ``pyro.param`` and ``pyro.module`` statements, ``PyroModule``, AutoGuides, and
    any of these in ``functools.partial`` or a handler such as ``poutine.reparam``. What ``pyro.infer.SVI`` would train
    is trained and nothing else: each parameter of which a statement reaches the outside of a program, so not those that
    a ``poutine.block`` hides. A program that is a ``PyroModule`` is part of the pair (``parameters()``,
    ``state_dict()``) as ``programs.model`` or ``programs.guide``. All else becomes part of it when a program first
    runs, for which the modules are looked up where Python programs keep them
    (:class:`~pyro_vae.pair.modules.ProgramModules`): closures, globals, default arguments, a bound method's object.
    What cannot be found that way is passed as ``modules``.

    Pyro's own store is neither read nor written. So two modules of one name, in a model and a guide that are
    ``PyroModule``, are both trained, of which SVI would train one; and a value that an earlier SVI has left in the
    store is not taken over: a ``pyro.param`` starts from its initial value.

    A pair can be copied and pickled if its programs can. It can load the state of another one before its first run,
    which then meets the loaded values.

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

    def __init__(self, model: Program, guide: Program, *modules: nn.Module) -> None:
        super().__init__()
        callable_(model=model, guide=guide)
        self._programs = (model, guide)
        self.program_modules = ProgramModules(model, guide, modules)
        self.announced = nn.ModuleDict()
        if own := self.program_modules.programs():
            self.programs = nn.ModuleDict(own)
        self._loaded: dict[str, Tensor] = {}  # of modules that the programs have yet to announce, or to make
        self._ran: set[str] = set()
        self._owner: Any = None  # the object of as_pair, which lives as long as its pair
        self._kept: _Kept | None = None  # and what of its pair is kept beside it

    def _claim(self, name: str, parameter: nn.Parameter) -> bool:
        """Takes in the module that holds ``parameter``, announced as ``name``; False if it is not to be found.

        Raises:
            ValueError: if the programs announce another module by the same name.
        """
        for key, program in self._own_programs().items():
            if any(other is parameter for other in program.parameters()):
                self._recall(f"programs.{key}.", program)
                return True
        found = self.program_modules.find(name, parameter)
        if found is None:
            return False
        called, module = found
        key = called.replace(".", "/")
        other = self.announced._modules.get(key)
        if other is not None and other is not module and self.program_modules.refer_to(other):
            raise ValueError(
                f"two modules are announced as {called!r}. Give each its own name: pyro.module(name, module)."
            )
        self.announced[key] = module
        if self._kept is not None:
            self._kept.announced[key] = module
        self._recall(f"announced.{key}.", module)
        if called == name and not isinstance(module, PyroModule):  # a bare statement, of this parameter alone
            local = cast(LocalParameters, self._modules.setdefault(LOCAL, LocalParameters()))
            local.hidden += [other for other in module.parameters() if other is not parameter]
        return True

    def _own_programs(self) -> dict[str, nn.Module]:
        return dict(cast(Any, self._modules.get("programs", {})).items())

    # States

    @property
    def recalls(self) -> bool:
        """Whether a state was loaded of which the programs have yet to announce a part."""
        return bool(self._loaded)

    def _recall(self, prefix: str, module: nn.Module) -> None:
        """Puts into a module what was loaded of it before the programs announced it."""
        for key, value in module.state_dict(keep_vars=True).items():
            if prefix + key not in self._loaded:
                continue
            loaded = self._loaded[prefix + key]
            if loaded.shape != value.shape:
                raise ValueError(
                    f"the state that was loaded has {prefix}{key} in the shape {list(loaded.shape)}, and the programs "
                    f"in {list(value.shape)}. Load the state of a pair of the same programs."
                )
            with torch.no_grad():
                value.copy_(loaded)
            del self._loaded[prefix + key]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Of a pair that has not run, what the programs announce is yet to come: it is kept until they do."""
        if len(self._ran) < 2:
            if any(key.startswith(f"{prefix}{LOCAL}.") for key in state_dict):
                self._modules.setdefault(LOCAL, LocalParameters())
            known = self.state_dict(prefix=prefix)
            rooms = f"{prefix}announced.", f"{prefix}programs."
            for key in [key for key in state_dict if key.startswith(rooms) and key not in known]:
                self._loaded[key.removeprefix(prefix)] = state_dict.pop(key).detach().clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _has_run(self, program: str) -> None:
        self._ran.add(program)
        if not self._loaded or len(self._ran) < 2:
            return
        for room in ("programs", "announced"):
            for key, module in dict(cast(Any, self._modules.get(room, {})).items()).items():
                self._recall(f"{room}.{key}.", module)  # what no statement shows
        if self._loaded:
            warn(
                f"the state that was loaded has {', '.join(list(self._loaded)[:3])}, which the programs do not "
                "announce: it may be the state of another pair.",
            )
            self._loaded = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Pair:
        if self.program_modules.in_functions():
            raise TypeError(
                "a Pair of functions cannot be copied: a copy of a function would go on using the networks of the "
                "original. Make each pair by a function of yours that makes its networks and its two programs, or "
                "write the pair as a class."
            )
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        for module in modules_of(self):  # what a transform keeps of its last draw has a gradient, and cannot be copied
            kept = [value for part in module.modules() for value in vars(part).values()]
            for value in tree_leaves([one for one in kept if isinstance(one, (Tensor, tuple))]):
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach()
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        for program in self._programs:
            picklable(program)
        # What is kept is the object's, not a copy's; the models have to come behind their guides.
        return {**vars(self), "_kept": None, "": GuidedModels(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state.pop("")
        super().__setstate__(state)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the generative program p(x, z)."""
        return self._run("model", *by_name(args, kwargs))

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the recognition program q(z | x)."""
        return self._run("guide", *by_name(args, kwargs))

    def _run(self, program: str, args: Any, kwargs: Any) -> Any:
        if self._loaded:
            self._announce(args, kwargs)
        result = self._run_alone(program, args, kwargs)
        self._has_run(program)
        return result

    def _run_alone(self, program: str, args: Any, kwargs: Any) -> Any:
        run = self._programs[program == "guide"]
        new = nullcontext() if program in self._ran else whole_or_new(run)
        with isolated(self, self._claim), new:
            return run(*args, **kwargs)

    def _announce(self, args: Any, kwargs: Any) -> None:
        """Runs both programs apart, so that neither uses a module before what was loaded of it is in its place.

        What fails here is said by the run that follows.
        """
        modes = [(part, part.training) for module in modules_of(self) for part in module.modules()]
        try:
            for part, _ in modes:
                part.training = False
            with torch.inference_mode(False), torch.no_grad(), fork_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with suppress(Exception), poutine.block():
                    drawn = poutine.trace(self._run_alone).get_trace("guide", args, kwargs)
                    poutine.replay(self._run_alone, trace=drawn)("model", args, kwargs)
        finally:
            for part, training in modes:
                part.training = training


def programs(pair: nn.Module) -> tuple[Program, Program]:
    """``(model, guide)`` of a pair as callables that see the pair's own parameters.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> model, guide = pair.programs(pv.models.MLPVAE((4,), latent_dim=2))
    >>> guide(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """

    if isinstance(pair, Pair):
        return pair.model, pair.guide

    def isolate(program: Program) -> Program:
        def run(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = by_name(args, kwargs)
            with isolated(pair):
                return program(*args, **kwargs)

        run.__self__ = pair  # type: ignore[attr-defined]  # as of a bound method
        return run

    owner: Any = pair
    return isolate(owner.model), isolate(owner.guide)


def modules_of(pair: nn.Module) -> list[nn.Module]:
    """The modules of a pair, itself first, also those that programs of it, or of its parts, have yet to announce.

    >>> import pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> [type(module).__name__ for module in pair.modules_of(vae)]
    ['MLPVAE']
    """
    found = [pair]
    for module in found:
        for part in module.modules():
            if isinstance(part, Pair):
                found += [one for one in part.program_modules.reachable() if all(one is not other for other in found)]
    return found


# Objects that are no modules


class _Kept:
    """What has to outlive the pair of an object with these programs; it keeps neither the object nor modules alive.

    Raises:
        TypeError: if Python cannot refer to a program weakly.
    """

    def __init__(self, programs: Iterable[Program], refusal: str = "") -> None:
        self._programs = [weakref.WeakMethod(p) if inspect.ismethod(p) else weakref.ref(p) for p in programs]
        self.local = LocalParameters(refusal)
        self.announced: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()

    def is_of(self, programs: Iterable[Program]) -> bool:
        return [program() for program in self._programs] == list(programs)


# By identity, since equal objects are two pairs, and not every object has a hash. Neither keeps an object alive, and an
# object that has died leaves nothing to the next one at its address.
_pairs: weakref.WeakValueDictionary[int, Pair] = weakref.WeakValueDictionary()
_kept: dict[int, tuple[weakref.ref[Any], _Kept]] = {}


def as_pair(pair: Any) -> nn.Module:
    """``pair`` as a module with ``model`` and ``guide``.

    A module with both methods is itself. Any other object with both is wrapped by :class:`Pair`, and what one call
    trains the next one sees, for as long as the object lives and has the same programs. Nothing is written onto the
    object, so that a copy of it starts with ``pyro.param`` statements of its own: copy ``as_pair(it)`` to take them
    along.

    Raises:
        TypeError: if there are no two such methods. When run: if a program has a ``pyro.param`` statement of its own
            and Python cannot refer to the object weakly, as to a ``SimpleNamespace`` or an object with slots.

    >>> import pyro_vae as pv
    >>> from pyro_vae import pair
    >>> class Programs:
    ...     def model(self, x): ...
    ...     def guide(self, x): ...
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> pair.as_pair(vae) is vae, type(pair.as_pair(Programs())).__name__
    (True, 'Pair')
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
    found = _pairs.get(id(pair))
    if found is None or found._programs != (pair.model, pair.guide):
        found = _pairs[id(pair)] = Pair(pair.model, pair.guide)
        found._owner, found._kept = pair, _kept_of(pair)
        found._modules[LOCAL] = found._kept.local
        found.announced.update(found._kept.announced)
    return found


def _kept_of(owner: Any) -> _Kept:
    """What is known of an object with these programs, at first nothing."""
    key, programs = id(owner), (owner.model, owner.guide)
    known = _kept.get(key)
    if known is None or known[0]() is not owner or not known[1].is_of(programs):
        try:
            known = _kept[key] = weakref.ref(owner, lambda _: _kept.pop(key, None)), _Kept(programs)
        except TypeError:
            refusal = (
                f"an object of {type(owner).__name__} cannot hold the pyro.param {{name!r}} from one call to the next, "
                "since Python cannot refer to it weakly. Wrap it once yourself and use that: "
                "pair = Pair(it.model, it.guide)."
            )
            return _Kept((), refusal)
    return known[1]
