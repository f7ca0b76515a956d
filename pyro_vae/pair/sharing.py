"""What guide and model have in common, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful

from pyro_vae._checks import callable_


@effectful(type="once")
def once(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``; what the guide has computed of the same inputs is not computed again by the model.

    A guide that runs top-down draws z_l by what p(z_l | z_{l+1}) and the data say together, so that it walks
    through the decoder, which the model then does a second time on the same draws. A pair that calls its decoder by
    ``once(self.decoder, z)`` in both programs walks through it once, forwards and backwards, where
    :class:`computing_once` is around the two, as under the estimators of this library (also in Pyro's SVI). Elsewhere,
    as under Pyro's own ELBOs, and on other inputs (another tensor of the same values) it is the plain call. So it is
    where the function has ``pyro.sample`` statements, which belong to both programs.

    So of a function with noise of its own, such as dropout in training, guide and model meet one draw under the
    estimators of this library and two draws under Pyro's own ELBOs, and the two bounds differ: the one is an average of
    KL(q_m || p_m), the other of KL(q_m || p_m') over independent masks m and m'. What a function writes, such as the
    running statistics of a batch norm, it writes once here and twice there.

    Args:
        function: of tensors; in the two programs the same function, or method of the same object.
        inputs: tensors, or what else is the same object in both.

    >>> import torch
    >>> from pyro_vae.pair import once
    >>> decoder, z = torch.nn.Linear(2, 4), torch.zeros(3, 2)
    >>> torch.equal(once(decoder, z), decoder(z))
    True
    """
    callable_(function=function)
    return function(*inputs)


class computing_once(Messenger):
    """For one run of a guide and of the model against its draws, in which :func:`once` computes nothing twice.

    Args:
        active: False where guide and model are to compute apart, such as with weights that each of them draws.
    """

    def __init__(self, active: bool = True) -> None:
        super().__init__()
        self.active = active
        self._results: dict[Any, tuple[tuple[Any, ...], Any]] = {}

    def __exit__(self, *error: Any) -> Any:
        self._results = {}
        return super().__exit__(*error)

    def _pyro_once(self, msg: Any) -> None:
        if msg["done"]:
            return  # answered by a run further in
        if not self.active:
            msg["stop"] = True
            return
        function, *inputs = msg["args"]
        key = (function, torch.is_grad_enabled(), *map(id, inputs))
        if key not in self._results:
            with _Samples() as samples:
                value = function(*inputs)
            if samples.there:
                msg["value"], msg["done"] = value, True
                return
            self._results[key] = inputs, value  # inputs that are kept cannot pass their id on to others
        msg["value"], msg["done"] = self._results[key][1], True


class _Samples(Messenger):
    """Whether there are sample statements."""

    there = False

    def _pyro_sample(self, msg: Any) -> None:
        self.there = True
