"""Where the modules of programs are found, and where not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pairs import functions
from pyro import poutine
from pyro.nn import PyroModule
from torch import nn

from pyro_vae import Pair
from pyro_vae.pair import device_of, evaluating, modules_of
from pyro_vae.pair.modules import ProgramModules

NETWORK, OTHER = nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 2)


def names_a_global() -> Any:
    return NETWORK


def calls_another() -> Any:
    return names_a_global()


def takes(network: Any) -> Any:
    return network


class Holder:
    """Keeps a network in an attribute."""

    def __init__(self, network: Any = NETWORK) -> None:
        self.network = network

    def program(self) -> None:
        """Nothing that names it."""

    __call__ = program


class Slots:
    __slots__ = ("empty", "network")

    def __init__(self) -> None:
        self.network = NETWORK

    program = Holder.program


class Program(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = NETWORK

    program = Holder.program


def wrapped_elsewhere(function: Any) -> Any:
    """As by a decorator of another file, which does not tell the name of what it wraps."""

    def program() -> Any:
        return function()

    program.__module__ = "elsewhere"
    return program


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


module = Program()
FOUND: dict[str, tuple[Callable[..., Any], nn.Module]] = {
    "closure": (closure(NETWORK), NETWORK),
    "list in a closure": (closure([1, (NETWORK,)]), NETWORK),
    "dictionary in a closure": (closure({"it": NETWORK}), NETWORK),
    "function in a closure": (closure(closure(NETWORK)), NETWORK),
    "global": (names_a_global, NETWORK),
    "global of a function of the file": (calls_another, NETWORK),
    "partial": (functools.partial(takes, NETWORK), NETWORK),
    "partial by name": (functools.partial(takes, network=[NETWORK]), NETWORK),
    "attribute of a method's object": (Holder().program, NETWORK),
    "slot of a method's object": (Slots().program, NETWORK),
    "method's own module": (module.program, module),
    "attribute of an object whose method is called": (closure(Holder().program), NETWORK),
    "callable object": (Holder(), NETWORK),
    "callable object in a closure": (closure(Holder()), NETWORK),
    "set": (closure({NETWORK}), NETWORK),
    "default argument": (lambda network=NETWORK: network, NETWORK),
    "function of another file in a closure": (closure(wrapped_elsewhere(names_a_global)), NETWORK),
    "handler": (poutine.scale(poutine.block(names_a_global), 2.0), NETWORK),
    "part of a handler": (poutine.reparam(print, lambda site: takes(NETWORK)), NETWORK),
}
NOT_FOUND: dict[str, Callable[..., Any]] = {
    "attribute of another object": closure(SimpleNamespace(network=NETWORK)),
    "function of another file": closure(functions),
    "made as it runs": lambda: nn.Linear(2, 3),
}


@pytest.mark.parametrize("place", FOUND)
def test_found(place: str) -> None:
    program, network = FOUND[place]
    modules = ProgramModules(print, program, [OTHER])
    assert modules.reachable() == [OTHER, network]
    assert modules.refer_to(NETWORK[0])
    assert modules.find("it$$$weight", NETWORK[0].weight) == ("it", NETWORK[0])
    assert modules.find("it$$$0.weight", NETWORK[0].weight) == ("it", NETWORK)
    assert modules.find("list$$$1.weight", NETWORK[0].weight) == ("list.1", NETWORK[0])  # of a list made as it runs
    assert modules.find("bare", NETWORK[0].weight) == ("bare", NETWORK[0])
    assert modules.find("it$$$weight", nn.Linear(2, 3).weight) is None


@pytest.mark.parametrize("place", NOT_FOUND)
def test_not_found(place: str) -> None:
    assert ProgramModules(NOT_FOUND[place], print).reachable() == []


def test_of_a_pyro_module_the_outermost_is_found() -> None:
    outer: Any = PyroModule("named")
    outer.inner = PyroModule[nn.Sequential](PyroModule[nn.Linear](2, 3))
    outer.plain = nn.Linear(2, 3)
    modules = ProgramModules(closure(nn.ModuleList([OTHER, outer])), print)
    assert modules.find("named.inner.0.weight", outer.inner[0].weight) == ("named", outer)
    assert modules.find("named.plain$$$weight", outer.plain.weight) == ("named", outer)
    assert modules.find("other$$$weight", outer.plain.weight) == ("other", outer.plain)
    assert ProgramModules(closure(PyroModule[nn.Linear](2, 3)), print).find("weight", outer.plain.weight) is None


def test_programs_that_are_pyro_modules() -> None:
    model, guide = PyroModule[nn.Linear](2, 3), PyroModule[nn.Linear](3, 2)
    wrapped = poutine.scale(functools.partial(poutine.mask(guide, mask=True), 1), 2.0)
    assert ProgramModules(model, wrapped).programs() == {"model": model, "guide": guide}
    assert ProgramModules(OTHER, guide.forward).programs() == {}  # of a plain module the statements tell


def test_a_copy_of_a_function_would_share_its_modules() -> None:
    assert ProgramModules(closure(NETWORK), print).in_functions()
    assert ProgramModules(functools.partial(closure(NETWORK), OTHER), print).in_functions()
    assert not ProgramModules(print, Holder().program, [OTHER]).in_functions()
    assert not ProgramModules(functools.partial(print, OTHER), OTHER).in_functions()


def test_exchanged_modules_are_found_anew() -> None:
    holder = Holder(None)
    modules = ProgramModules(holder.program, holder.program)
    assert modules.reachable() == []
    holder.network = OTHER
    assert modules.reachable() == [OTHER]


def test_modules_of_a_pair_are_those_of_its_parts_as_well() -> None:
    inner, _ = functions()
    outer = nn.ModuleDict({"inner": inner})
    around = Pair(closure(outer), closure(inner))
    known = modules_of(around)
    decoder, encoder = inner.program_modules.reachable()
    assert known[0] is around
    assert {id(part) for part in (outer, inner, encoder, decoder)} == {id(part) for part in known[1:]}
    assert len(known) == 5
    with evaluating(around):
        assert not any(part.training for part in known)
    assert all(part.training for part in known)
    assert device_of(inner).type == "cpu"
    decoder.to("meta")
    assert device_of(inner).type == "meta"
    assert modules_of(OTHER) == [OTHER]
