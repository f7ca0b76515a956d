"""What follows the gradients of a step as a part of its graph: clipping, the optimizer, the average of the weights."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._pyro import is_hooked
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
        clip: is given the parameters with their gradients, before the optimizer.
        weights: has the average of the weights, which follows.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: Callable[[Sequence[Tensor]], Any] | None,
        weights: Weights,
    ) -> None:
        names = {id(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}
        self._optimizer, self._clip, self._weights = optimizer, clip, weights
        self._groups = [[(p, names[id(p)]) for p in group["params"]] for group in optimizer.param_groups]
        self._parameters = [one for group in self._groups for one in group]
        self._moving = [names[id(value)] for value in weights.moving]
        device = self._parameters[0][0].device
        self._rates = [torch.zeros((), dtype=torch.float64, device=device) for _ in self._groups]
        self._share = torch.zeros((), dtype=torch.float64, device=device)

    @staticmethod
    def is_possible(optimizer: torch.optim.Optimizer) -> bool:
        """Whether it is one of torch's that calculates by operators on tensors alone, and nobody listens to it."""
        kind = type(optimizer)
        own = kind is getattr(torch.optim, kind.__name__, None) and not is_hooked(optimizer)
        return own and "differentiable" in inspect.signature(kind).parameters

    def key(self) -> Any:
        """What a graph with it has as constants."""
        groups = self._optimizer.param_groups
        return repr([[item for item in group.items() if item[0] not in ("params", "lr")] for group in groups])

    def begin(self, step: int) -> None:
        """Takes in the learning rates, and the number of the step that comes."""
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._share.fill_(self._weights.share(step))

    def inputs(self) -> list[Tensor]:
        """What it reads and writes beside the module's own."""
        held = [value for p, _ in self._parameters for value in self._optimizer.state.get(p, {}).values()]
        return [*self._rates, self._share, *self._weights.averaged, *(v for v in held if isinstance(v, Tensor))]

    def __call__(
        self, loss: Tensor, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], inputs: list[Tensor]
    ) -> None:
        """Writes the parameters among ``values``, which go by their names, and ``inputs``.

        Raises:
            ValueError: if the optimizer keeps what is no tensor, or makes more state than it has.
        """
        given = iter(inputs)
        rates = [next(given).clone().requires_grad_() for _ in self._rates]  # as such they are operands of operators
        share, averaged = next(given), [next(given) for _ in self._weights.averaged]
        written: list[tuple[Tensor, Tensor]] = []  # what is, and what it becomes
        leaves: dict[str, Tensor] = {}
        optimizer = copy.copy(self._optimizer)
        optimizer.state = defaultdict(dict)
        for parameter, name in self._parameters:
            leaves[name] = values[name].clone()
            leaves[name].grad = gradients.get(name)
            written.append((values[name], leaves[name]))
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    held = next(given)
                    value = held.double() if held.dim() == 0 else held.clone()  # a count of steps
                    written.append((held, value))
                optimizer.state[leaves[name]][key] = value
        kept = {leaf: dict(state) for leaf, state in optimizer.state.items()}
        optimizer.defaults = {**optimizer.defaults, **_HOW}
        optimizer.param_groups = [
            {**group, **_HOW, "lr": rate, "params": [leaves[name] for _, name in parameters]}
            for group, rate, parameters in zip(self._optimizer.param_groups, rates, self._groups, strict=True)
        ]
        with torch.no_grad():
            if self._clip is not None:
                self._clip(list(leaves.values()))
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
