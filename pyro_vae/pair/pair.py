"""The contract of a model/guide pair.

A pair is an object with two methods that take the same arguments and are Pyro programs::

    def model(self, x=None):     # z ~ p(z),  x ~ p(x | z)
    def guide(self, x=None):     # z ~ q(z | x)

- The plate over the data is called ``data`` and is the rightmost batch dimension; event dimensions inside are
  declared with ``to_event``. What is random but stands outside the plate (weights) counts once for the whole data.
- The observed site is ``x``; a single latent is ``z``, a hierarchy is ``z1``, ``z2``, ... from the data upwards.
- A pair that cannot be trained on every batch may have a method ``check_batch``, of the arguments of model and guide,
  that raises a ``ValueError``; ``fit`` calls it with a first batch before the first step.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pyro.nn import PyroModule
from torch import nn

from pyro_vae.pair.modules import _modules_of, _parameter_at
from pyro_vae.pair.parameters import isolated

Method = TypeVar("Method", bound=Callable[..., Any])


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
