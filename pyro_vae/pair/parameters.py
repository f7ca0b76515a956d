"""A pair's own parameters, apart from Pyro's global store.

Pyro keeps parameters in one global store, keyed by name, so that two pairs built alike would share and overwrite
each other's. Here a pair's parameters belong to the pair: :func:`isolated` runs a program in an empty store and
resolves each bare ``pyro.param`` from the pair itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_vae._pyro import remember_unconstrained

LOCAL = "pyro_params"

Claim = Callable[[str, nn.Parameter], bool]


class LocalParameters(nn.Module):
    """The bare ``pyro.param`` statements of one pair: unconstrained values and their constraints.

    It becomes the submodule ``pyro_params`` of the pair, so that ``parameters()`` and ``state_dict()`` hold them.

    Args:
        refusal: why ``{name}`` cannot be one, where there can be none.
    """

    def __init__(self, refusal: str = "") -> None:
        super().__init__()
        self.refusal = refusal
        self.constraints: dict[str, constraints.Constraint] = {}
        self.unowned: list[str] = []  # parameters of modules that cannot be reached from the pair

    @staticmethod
    def _key(name: str) -> str:
        return "param/" + name.replace(".", "/")  # torch forbids dots, and a module has attributes of its own

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._parameters

    def create(self, name: str, init: Tensor, constraint: constraints.Constraint) -> None:
        """Adds ``name``, with the value ``init`` in the constrained space; a ``TypeError`` where there can be none."""
        if self.refusal:
            raise TypeError(self.refusal.format(name=name))
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
        """The constrained value; its ``unconstrained()`` is the parameter, as Pyro's optimizers expect."""
        unconstrained = cast(Tensor, self._parameters[self._key(name)])
        value = transform_to(self.constraints[name])(unconstrained)
        remember_unconstrained(value, unconstrained)
        return value


class _ResolveParameters(Messenger):
    """Answers ``pyro.param`` from the pair instead of from Pyro's global store."""

    def __init__(self, pair: nn.Module, claim: Claim) -> None:
        super().__init__()
        self.pair, self.claim = pair, claim
        self.owned = {id(parameter) for parameter in pair.parameters()}

    def _local(self) -> LocalParameters:
        return cast(LocalParameters, self.pair._modules.setdefault(LOCAL, LocalParameters()))

    def _pyro_param(self, msg: Any) -> None:
        if msg["done"]:
            return  # answered by an isolation further in, or by the user's own handler
        name, *rest = msg["args"]
        local = _local_of(self.pair)
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
                    if not self.claim(name, init):
                        self._local().adopt(name, init)
                    self.owned = {id(parameter) for parameter in self.pair.parameters()}
                remember_unconstrained(init, init)
                msg["value"], msg["done"] = init, True
                return
            local = self._local()
            local.create(name, init, constraint)
        msg["value"], msg["done"] = local.value(name), True


@contextmanager
def isolated(pair: nn.Module, claim: Claim = lambda name, parameter: False) -> Iterator[None]:
    """Runs Pyro programs of ``pair`` so that they see the parameters of this pair and leave Pyro's store as it was.

    Args:
        pair: the pair.
        claim: called with what a program announces and the pair does not have yet. Where it gives False, the parameter
            alone becomes the pair's.
    """
    store = pyro.get_param_store()
    try:
        with store.scope(), _ResolveParameters(pair, claim):
            yield
    finally:
        # Leaving a scope strips the weak references by which Pyro's optimizers find a parameter.
        for _, parameter in store.named_parameters():
            remember_unconstrained(parameter, parameter)


def tracing_obstacle(pair: nn.Module) -> str | None:
    """Why the pair's programs cannot be run on exchanged parameters; ``None`` if they can."""
    local = _local_of(pair)
    if local is not None and local.unowned:
        return f"the module of parameter {local.unowned[0]} cannot be found; pass it as Pair(model, guide, module)"
    return None


def _local_of(pair: nn.Module) -> LocalParameters | None:
    local = pair._modules.get(LOCAL)
    return local if isinstance(local, LocalParameters) else None
