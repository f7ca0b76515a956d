"""What follows the gradients of a step as a part of its graph: clipping, the optimizer, the average of the weights."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._pyro import is_hooked, note_stepped
from pyro_vae.training.averaging import Weights

#: Options of torch's optimizers that say how they calculate, and not what.
_HOW = {"foreach": False, "fused": False, "capturable": False, "differentiable": True}


class Update:
    """One step of an optimizer of torch's, as a function of tensors that can be traced.

    A graph that has it reads parameters, gradients and the optimizer's state once, and writes them where they are. The
    learning rates are inputs of it, other options are constants. Where the loss is not finite all stays as it was.

    Args:
        module: has the parameters and buffers, by the names that the graph has for them.
        optimizer: has the state, which stays its own.
        parameters: those that are trained, in the order in which ``clip`` is given them.
        clip: is given what stands for the parameters, with their gradients, and a size, before the optimizer.
        weights: has the average of the weights, which follows.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        clip: Callable[[Sequence[Tensor], Tensor], Any],
        weights: Weights,
    ) -> None:
        names = {id(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}
        self._optimizer, self._clip, self._weights = optimizer, clip, weights
        self._parameters = [(parameter, names[id(parameter)]) for parameter in parameters]
        self._moving = [names[id(value)] for value in weights.moving]
        device = self._parameters[0][0].device
        self._rates = [torch.zeros((), dtype=torch.float64, device=device) for _ in optimizer.param_groups]
        self._size, self._share = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self.look()
        note_stepped(optimizer)

    @staticmethod
    def is_possible(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether it is one of torch's that calculates by operators on tensors alone, and nobody listens to it."""
        kind = type(optimizer)
        own = kind is getattr(torch.optim, kind.__name__, None) and not is_hooked(optimizer)
        moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        known = moved <= {id(parameter) for parameter in parameters}
        return own and known and "differentiable" in inspect.signature(kind).parameters

    def key(self) -> str:
        """What a graph with it has as constants: the optimizer's options, as they were at :meth:`look`."""
        return self._options

    def look(self) -> None:
        """Takes in the optimizer's options."""
        groups = self._optimizer.param_groups
        self._options = repr([[item for item in group.items() if item[0] not in ("params", "lr")] for group in groups])

    def begin(self, step: int, size: float) -> None:
        """Takes in the learning rates, the number of the step that comes, and what ``clip`` is given."""
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._size.fill_(size)
        self._share.fill_(self._weights.share(step))

    def inputs(self) -> list[Tensor]:
        """What it reads and writes beside the module's own."""
        held = [value for p, _ in self._parameters for value in self._optimizer.state.get(p, {}).values()]
        return [
            *self._rates,
            self._size,
            self._share,
            *self._weights.averaged,
            *(v for v in held if isinstance(v, Tensor)),
        ]

    def __call__(
        self, loss: Tensor, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], inputs: list[Tensor]
    ) -> None:
        """Writes the parameters among ``values``, which go by their names, and ``inputs``.

        Raises:
            ValueError: if the optimizer keeps what is no tensor, or makes more state than it has.
        """
        given = iter(inputs)
        rates = [next(given).clone().requires_grad_() for _ in self._rates]  # as such they are operands of operators
        size, share = next(given), next(given)
        averaged = [next(given) for _ in self._weights.averaged]
        written: list[tuple[Tensor, Tensor]] = []  # what is, and what it becomes
        leaves: dict[int, Tensor] = {}  # what stands for a parameter, by its id
        optimizer = copy.copy(self._optimizer)
        optimizer.state = defaultdict(dict)
        for parameter, name in self._parameters:
            leaf = leaves[id(parameter)] = values[name].clone()
            leaf.grad = gradients.get(name)
            written.append((values[name], leaf))
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    held = next(given)
                    value = held.double() if held.dim() == 0 else held.clone()  # of counts powers are taken
                    written.append((held, value))
                optimizer.state[leaf][key] = value
        kept = {leaf: dict(state) for leaf, state in optimizer.state.items()}
        optimizer.defaults = {**optimizer.defaults, **_HOW}
        optimizer.param_groups = [
            {**group, **_HOW, "lr": rate, "params": [leaves[id(parameter)] for parameter in group["params"]]}
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True)
        ]
        with torch.no_grad():
            self._clip(list(leaves.values()), size)
        optimizer.step()
        with torch.no_grad():
            for leaf, state in optimizer.state.items():
                before = kept.get(leaf, {})
                if leaf.grad is not None and any(value is not before.get(key) for key, value in state.items()):
                    raise ValueError(f"{type(optimizer).__name__} keeps numbers of Python's")
            finite = loss.isfinite()
            for now, then in written:
                now.copy_(torch.where(finite, then, now))
            for average, name in zip(averaged, self._moving if averaged else (), strict=True):
                average.copy_(torch.where(finite, average + share * (values[name] - average), average))
