"""Pairs that are no modules: what is known of an object is kept beside it, and no longer than it lives."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import UserModule, UserObject, binary, real
from torch import Tensor, nn

from pyro_vae import Pair, check, fit
from pyro_vae.models import MLPVAE
from pyro_vae.pair import as_pair, modules_of, run
from pyro_vae.pair import pair as registry


def sites(network: nn.Module | None, x: Tensor, observe: bool) -> None:
    loc = torch.zeros(2) if network is None or observe else pyro.module("network", network)(x)
    if network is None and not observe:
        loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        if observe:
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6), 1.0).to_event(1), obs=x)


@dataclass(frozen=True)
class Frozen:
    """Equal to every other one of its name, and without a hash."""

    name: str = "it"
    settings: dict[str, int] = field(default_factory=dict)

    def model(self, x: Tensor) -> None:
        sites(None, x, True)

    def guide(self, x: Tensor) -> None:
        sites(None, x, False)


@dataclass(frozen=True, eq=True)
class Slotted:
    """Out of reach of weak references."""

    __slots__ = ("network",)
    network: nn.Module

    def model(self, x: Tensor) -> None:
        sites(self.network, x, True)

    def guide(self, x: Tensor) -> None:
        sites(self.network, x, False)


class Programs(NamedTuple):
    model: Any
    guide: Any


X = real(6)


def loc(owner: Any) -> Tensor:
    return as_pair(owner).pyro_params.value("loc").detach()


def trained(owner: Any, value: float = 7.0) -> Any:
    """The object, run once, with its ``loc`` moved."""
    run(as_pair(owner), X)
    with torch.no_grad():
        next(as_pair(owner).pyro_params.parameters()).fill_(value)
    return owner


def test_what_is_a_pair() -> None:
    module, user = UserModule(), UserObject()
    assert as_pair(module) is module
    assert as_pair(user) is as_pair(user)


def test_what_is_no_pair() -> None:
    with pytest.raises(TypeError, match=r"got the class MLPVAE itself.*Pair\(model, guide\)"):
        as_pair(MLPVAE)
    with pytest.raises(TypeError, match=r"two methods, model and guide; got an object of Linear"):
        as_pair(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"an object of dict"):
        as_pair({"model": print, "guide": print})
    with pytest.raises(TypeError, match=r"an object of SimpleNamespace"):
        as_pair(SimpleNamespace(model=print, guide=3))
    with pytest.raises(TypeError, match=r"guide has to be a function.*got Normal"):
        Pair(print, torch.distributions.Normal(0, 1))
    with pytest.raises(TypeError, match=r"model has to be a function.*got NoneType"):
        Pair(None, print)  # type: ignore[arg-type]


def test_nothing_is_written_onto_the_object() -> None:
    for owner, x in ((UserObject(), binary(6)), (Frozen(), X)):
        before = dict(vars(owner))
        check(owner, x)
        fit(owner, x, epochs=1, batch_size=5, compile="eager", progress=False)
        assert vars(owner) == before
    assert pickle.loads(pickle.dumps(trained(Frozen()))) == Frozen()


def test_what_one_call_trains_the_next_one_sees() -> None:
    user = UserObject()
    check(user, binary(6))
    names = list(as_pair(user).state_dict())
    values = [parameter.detach().clone() for parameter in as_pair(user).parameters()]
    fit(user, binary(6), epochs=3, batch_size=5, compile="eager", progress=False)
    gc.collect()  # nobody holds the pair
    assert not registry._pairs
    assert list(as_pair(user).state_dict()) == names
    assert {"announced.decoder.weight", "pyro_params.param/bias/loc"} < set(names)
    for parameter, before in zip(as_pair(user).parameters(), values, strict=True):
        assert not torch.equal(parameter, before)


def test_equal_objects_are_two_pairs() -> None:
    first, second = Frozen(), Frozen()
    assert first == second
    with pytest.raises(TypeError, match="unhashable"):
        hash(first)
    trained(first)
    run(as_pair(second), X)
    assert loc(first).tolist() == [7, 7]
    assert loc(second).tolist() == [0, 0]


def test_copies_start_anew_and_a_copy_of_the_pair_does_not() -> None:
    owner = trained(Frozen())
    for copied in (copy.copy(owner), copy.deepcopy(owner)):
        run(as_pair(copied), X)
        assert as_pair(copied)._programs[0].__self__ is copied
        assert loc(copied).tolist() == [0, 0]
    pair: Any = copy.deepcopy(as_pair(owner))
    assert pair._programs[0].__self__ is not owner
    trained(owner, 8.0)
    run(pair, X)
    assert pair.pyro_params.value("loc").tolist() == [7, 7]


def test_other_programs_are_another_pair() -> None:
    owner = trained(UserWithPrograms())
    before = as_pair(owner)
    owner.guide = lambda x: sites(None, x, False)
    assert as_pair(owner) is not before
    run(as_pair(owner), X)
    assert loc(owner).tolist() == [0, 0]
    assert as_pair(owner)._programs == (owner.model, owner.guide)


class UserWithPrograms:
    def __init__(self) -> None:
        self.model = lambda x: sites(None, x, True)
        self.guide = lambda x: sites(None, x, False)


def test_an_object_lives_no_longer_than_its_user_holds_it_or_its_pair() -> None:
    def owners() -> list[Any]:
        listening = UserObject()
        listening.encoder.register_forward_hook(lambda *_, owner=listening: None)  # a module that holds the object
        return [listening, UserObject(), Frozen(), UserWithPrograms(), Slotted(nn.Linear(6, 2))]

    for owner in owners():
        check(owner, binary(6))
        del owner
    gc.collect()
    assert not registry._kept
    assert not registry._pairs
    user = UserObject()
    alive, pair = weakref.ref(user), as_pair(user)
    del user
    gc.collect()
    assert alive() is not None
    check(pair, binary(6))
    del pair
    gc.collect()
    assert alive() is None
    assert not registry._kept


def test_the_next_object_at_an_address_starts_anew() -> None:
    addresses = set()
    for _ in range(20):
        owner: Any = Frozen()
        addresses.add(id(owner))
        run(as_pair(owner), X)
        assert loc(owner).tolist() == [0, 0]
        trained(owner)
        del owner
    assert len(addresses) < 20


def test_objects_that_cannot_be_referred_to_weakly() -> None:
    network = nn.Linear(6, 2)
    for owner in (
        Slotted(network),
        SimpleNamespace(model=lambda x: sites(network, x, True), guide=lambda x: sites(network, x, False)),
        Programs(lambda x: sites(network, x, True), lambda x: sites(network, x, False)),
    ):
        assert as_pair(owner) is as_pair(owner)
        assert network in modules_of(as_pair(owner))
        before = network.weight.detach().clone()
        fit(owner, X, epochs=1, batch_size=5, compile="eager", progress=False)
        assert not torch.equal(network.weight, before)
    namespace: Any = SimpleNamespace(model=lambda x: sites(None, x, True), guide=lambda x: sites(None, x, False))
    for owner in (namespace, Programs(namespace.model, namespace.guide)):
        name = type(owner).__name__
        with pytest.raises(TypeError, match=rf"object of {name} cannot hold the pyro.param 'loc'.*pair = Pair\("):
            as_pair(owner).guide(X)
        with pytest.raises(ValueError, match=rf"The guide fails .*object of {name} cannot hold the pyro.param 'loc'"):
            check(owner, X)
    pair = as_pair(namespace)
    namespace.guide = lambda x: sites(network, x, False)
    assert as_pair(namespace) is not pair
