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

from pyro_vae._pyro import announced, empty_store, remember_unconstrained
from pyro_vae._torch import has_values
from pyro_vae.pair.protocols import RecallsState

LOCAL = "pyro_params"

Claim = Callable[[str, nn.Parameter], bool]


class LocalParameters(nn.Module):
    """The bare ``pyro.param`` statements of one pair: unconstrained values and their constraints.

    It becomes the submodule ``pyro_params`` of the pair, so that ``parameters()`` and ``state_dict()`` hold them. What
    a state has that the programs have yet to announce is taken up as it is loaded; its constraint comes with the
    statement.

    Args:
        refusal: why ``{name}`` cannot be one, where there can be none.
    """

    def __init__(self, refusal: str = "") -> None:
        super().__init__()
        self.refusal = refusal
        self.constraints: dict[str, constraints.Constraint] = {}
        self.unowned: list[str] = []  # parameters of modules that cannot be reached from the pair
        self.hidden: list[nn.Parameter] = []  # of modules, which no statement shows to the outside of the programs
        self.shown: list[nn.Parameter] = []  # of which one does nevertheless

    @staticmethod
    def _key(name: str, room: str = "param") -> str:
        return f"{room}/" + name.replace(".", "/")  # torch forbids dots, and a module has attributes of its own

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
        if announced(name)[1]:
            self.unowned.append(name)
        self.register_parameter(self._key(name), parameter)

    def held(self, name: str) -> nn.Parameter:
        """The unconstrained value."""
        return cast(nn.Parameter, self._parameters[self._key(name)])

    def release(self, name: str) -> None:
        """Leaves ``name`` to the module that has it."""
        del self.constraints[name], self._parameters[self._key(name)]
        self.unowned = [other for other in self.unowned if other != name]

    def fix(self, name: str, value: Tensor) -> None:
        """Keeps the value of a ``pyro.param`` that a ``poutine.block`` hides: it is not trained, and stays the same."""
        self.register_buffer(self._key(name, "fixed"), value.detach().clone())

    def fixed(self) -> dict[str, Tensor]:
        """The values that :meth:`fix` keeps, by name."""
        values = ((key.removeprefix("fixed/"), value) for key, value in self._buffers.items())
        return {name.replace("/", "."): value for name, value in values if value is not None}

    def value(self, name: str, init: Any = None, constraint: constraints.Constraint = constraints.real) -> Tensor:
        """The constrained value; its ``unconstrained()`` is the parameter, as Pyro's optimizers expect.

        Raises:
            ValueError: if it was loaded, and has another shape than ``init``.
        """
        unconstrained = self.held(name)
        if name not in self.constraints:
            wanted = transform_to(constraint).inv(init.detach()).shape if isinstance(init, Tensor) else None
            if wanted not in (None, unconstrained.shape):
                raise ValueError(
                    f"the state that was loaded has the parameter {name!r} in the shape {list(unconstrained.shape)}, "
                    f"and the program in {list(wanted or ())}. Load the state of a pair of the same programs."
                )
            self.constraints[name] = constraint
        value = transform_to(self.constraints[name])(unconstrained)
        remember_unconstrained(value, unconstrained)
        return value

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for key, value in state_dict.items():
            own = key.removeprefix(prefix)
            if key.startswith(f"{prefix}param/") and own not in self._parameters:
                self.register_parameter(own, nn.Parameter(value.detach().clone()))
            elif key.startswith(f"{prefix}fixed/") and own not in self._buffers:
                self.register_buffer(own, value.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)


class _ResolveParameters(Messenger):
    """Answers ``pyro.param`` from the pair instead of from Pyro's global store.

    As in ``SVI``, the pair's is each parameter of which a statement reaches the outside of the program.
    """

    def __init__(self, pair: nn.Module, claim: Claim) -> None:
        super().__init__()
        self.pair, self.claim = pair, claim
        self.made: list[str] = []  # in this run, of which a module may be the owner when it is over
        self.created: set[str] = set()  # those of them that are no module's yet
        self.seen: dict[str, Any] = {}
        self._count()

    def _count(self) -> None:
        self.owned = {id(parameter) for parameter in self.pair.parameters()}

    def _recalls(self) -> bool:
        """Whether a part of a loaded state is yet to be put in its place."""
        return isinstance(self.pair, RecallsState) and self.pair.recalls

    def _local(self) -> LocalParameters:
        return cast(LocalParameters, self.pair._modules.setdefault(LOCAL, LocalParameters()))

    def _own(self, name: str, parameter: Any) -> None:
        """Makes a parameter that a program announces the pair's."""
        recalls = self._recalls()
        if not isinstance(parameter, nn.Parameter) or (id(parameter) in self.owned and not recalls):
            return
        self._count()  # a module of the pair, or an isolation further in, may have made it
        taken = (recalls or id(parameter) not in self.owned) and self.claim(name, parameter)
        if not taken and id(parameter) not in self.owned:
            self._local().adopt(name, parameter)
            self.made.append(name)
        self._count()

    def place(self, name: str) -> None:
        """Leaves a parameter that was made in this run to the module that has become its owner, if one has."""
        local = self._local()
        parameter = local.held(name)
        places = self.pair.named_parameters(remove_duplicate=False)
        owned = any(other is parameter and not place.startswith(f"{LOCAL}.") for place, other in places)
        if self.claim(name, parameter) or owned:
            local.release(name)
            self.made.remove(name)
            self._count()

    def check_kept(self) -> None:
        """Raises a ``TypeError`` if a statement that is no module's was made where there can be none."""
        local = _local_of(self.pair)
        alone = [] if local is None or not local.refusal else [name for name in self.made if name in self.created]
        if local is not None and alone:
            local.release(alone[0])
            raise TypeError(local.refusal.format(name=alone[0]))

    def put_fixed(self) -> None:
        """Gives hidden statements the values that they had, of which Pyro's own store answers."""
        local = _local_of(self.pair)
        for name, value in {} if local is None else local.fixed().items():
            pyro.get_param_store()[name] = value.detach().clone()

    def note_hidden(self) -> None:
        """Notes what the programs have put into the store and no statement has shown."""
        store = pyro.get_param_store()
        hidden = {name: value for name, value in store.named_parameters() if name not in self.seen}
        local = _local_of(self.pair)
        if not (hidden or (local is not None and local.hidden)):
            return
        local = self._local()
        for name, value in hidden.items():
            if isinstance(value, nn.Parameter):
                local.hidden = _with(local.hidden, value)
            elif name not in local.fixed() and has_values(value) and id(value) not in self.owned:
                local.fix(name, store[name])
        for value in self.seen.values():
            if isinstance(value, nn.Parameter):
                local.shown = _with(local.shown, value)

    def _pyro_param(self, msg: Any) -> None:
        if msg["done"]:
            return  # answered by an isolation further in, or by the user's own handler
        name, *rest = msg["args"]
        init = rest[0] if rest else msg["kwargs"].get("init_tensor")
        constraint = msg["kwargs"].get("constraint", constraints.real)
        if name in self.made and self._recalls():
            self.place(name)
        local, store = _local_of(self.pair), pyro.get_param_store()
        if init is None and name in store:  # a PyroParam attribute, which its module has just put into the empty store
            self._own(name, dict(store.named_parameters())[name])
            return
        if local is None or name not in local:
            if init is None:
                return
            if callable(init) and not isinstance(init, Tensor):
                init = init()
            is_parameter = isinstance(init, nn.Parameter) or id(init) in self.owned
            if is_parameter and constraint is constraints.real:  # pyro.module, or a parameter of a PyroModule
                self._own(name, init)
                remember_unconstrained(init, init)
                msg["value"], msg["done"] = init, True
                return
            local = self._local()
            local.create(name, local.fixed().get(name, init), constraint)
            local._buffers.pop(local._key(name, "fixed"), None)
            self.made.append(name)
            self.created.add(name)
            self._count()
        msg["value"], msg["done"] = local.value(name, init, constraint), True

    def _pyro_post_param(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        parameter = value.unconstrained() if hasattr(value, "unconstrained") else None
        # Under module_local_params an attribute comes with its value.
        late = self._recalls() and len(msg["args"]) == 1 and name not in pyro.get_param_store()
        self._own(name, parameter)
        self.seen[name] = parameter
        if late and isinstance(parameter, Tensor) and name not in self.made:
            msg["value"] = value = transform_to(msg["kwargs"].get("constraint", constraints.real))(parameter)
            remember_unconstrained(value, parameter)
        elif value is parameter:
            remember_unconstrained(value, parameter)  # in a way that can be pickled


@contextmanager
def isolated(pair: nn.Module, claim: Claim = lambda name, parameter: False) -> Iterator[None]:
    """Runs Pyro programs of ``pair`` so that they see the parameters of this pair and leave Pyro's store as it was.

    Args:
        pair: the pair.
        claim: called with what a program announces and the pair does not have yet. Where it gives False, the parameter
            alone becomes the pair's.

    >>> import pyro, torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> def program():
    ...     return pyro.param("theta", torch.ones(2))
    >>> mine = pair.Pair(program, program)
    >>> with pair.isolated(mine):
    ...     value = program()
    >>> "theta" in pyro.get_param_store(), [name for name, _ in mine.named_parameters()]
    (False, ['pyro_params.param/theta'])
    """
    resolve = _ResolveParameters(pair, claim)
    try:
        with empty_store():
            resolve.put_fixed()
            with resolve:
                yield
            resolve.note_hidden()
    finally:
        for name in list(resolve.made):
            resolve.place(name)
    resolve.check_kept()


def trained_parameters(pair: nn.Module) -> list[nn.Parameter]:
    """The parameters that training moves: as under ``SVI`` not those that a ``poutine.block`` hides.

    >>> import pyro_vae as pv
    >>> from pyro_vae.pair import trained_parameters
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> len(trained_parameters(vae)) == len(list(vae.parameters()))
    True
    """
    local = _local_of(pair)
    hidden = set() if local is None else {id(p) for p in local.hidden} - {id(p) for p in local.shown}
    return [p for p in pair.parameters() if p.requires_grad and id(p) not in hidden]


def _with(parameters: list[nn.Parameter], other: nn.Parameter) -> list[nn.Parameter]:
    return parameters if any(other is one for one in parameters) else [*parameters, other]


def tracing_obstacle(pair: nn.Module) -> str | None:
    """Why the pair's programs cannot be run on exchanged parameters; ``None`` if they can.

    >>> import pyro_vae as pv
    >>> from pyro_vae.pair import tracing_obstacle
    >>> tracing_obstacle(pv.models.MLPVAE((4,), latent_dim=2)) is None
    True
    """
    local = _local_of(pair)
    if local is not None and local.unowned:
        return f"the module of parameter {local.unowned[0]} cannot be found; pass it as Pair(model, guide, module)"
    return None


def _local_of(pair: nn.Module) -> LocalParameters | None:
    local = pair._modules.get(LOCAL)
    return local if isinstance(local, LocalParameters) else None
