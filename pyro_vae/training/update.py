"""What follows the gradients of a step as a part of its graph: clipping, the optimizer, the average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyro_vae._torch import is_hooked, note_stepped
from pyro_vae.training.averaging import Weights

State = dict[str, Tensor]


class _Rule(NamedTuple):
    """An optimizer's step for one parameter.

    ``numbers`` are what it takes of the group's options and the number of the step, in Python: as operators they would
    be computed anew for each weight. Where steps are counted on a device (:func:`_is_far`) they are operators all the
    same. ``apply`` gives parameter and state after the step.
    """

    numbers: Callable[[Mapping[str, Any], Any], Sequence[Any]]
    apply: Callable[[Tensor, Tensor, State, Mapping[str, Any], Sequence[Any]], tuple[Tensor, State]]


def _is_far(state: State) -> bool:
    """Whether the steps are counted on a device, for whose count one would have to wait at each."""
    return "step" in state and state["step"].device.type != "cpu"


def _adam_numbers(group: Mapping[str, Any], step: Any) -> Sequence[Any]:
    first, second = (1 - beta**step for beta in group["betas"])
    return [group["lr"] / first, second**0.5, 1 - group["lr"] * group["weight_decay"]]


def _adam(
    parameter: Tensor, gradient: Tensor, state: State, group: Mapping[str, Any], numbers: Sequence[Any]
) -> tuple[Tensor, State]:
    """Kingma & Ba (2015); with decoupled weight decay Loshchilov & Hutter (2019)."""
    rate, root, shrunk = numbers
    first, second = group["betas"]
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        parameter = parameter * shrunk
    elif group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    mean = state["exp_avg"] + (1 - first) * (gradient - state["exp_avg"])
    square = second * state["exp_avg_sq"] + (1 - second) * gradient * gradient
    after = {"step": state["step"] + 1, "exp_avg": mean, "exp_avg_sq": square}
    if group["amsgrad"]:
        square = after["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], square)
    return parameter - rate * (mean / (square.sqrt() / root + group["eps"])), after


def _sgd(
    parameter: Tensor, gradient: Tensor, state: State, group: Mapping[str, Any], numbers: Sequence[Any]
) -> tuple[Tensor, State]:
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * parameter
    after = {}
    if group["momentum"]:
        kept = group["momentum"] * state["momentum_buffer"] + (1 - group["dampening"]) * gradient
        after["momentum_buffer"] = kept
        gradient = gradient + group["momentum"] * kept if group["nesterov"] else kept
    return parameter - numbers[0] * gradient, after


_RULES = {
    torch.optim.Adam: _Rule(_adam_numbers, _adam),
    torch.optim.AdamW: _Rule(_adam_numbers, _adam),
    torch.optim.SGD: _Rule(lambda group, step: [group["lr"]], _sgd),
}

_INPUTS = ("params", "lr")  # of a group, which are no constants of a graph


class Update:
    """One step of an optimizer of torch's, as a function of tensors that can be traced.

    A graph that has it reads parameters, gradients and the optimizer's state once, and writes them where they are. The
    learning rates are inputs of it, other options are constants. From the first loss on that is not finite all stays as
    it was, so that nobody has to wait for each loss to look at it.

    Args:
        module: has the parameters and buffers, by the names that the graph has for them.
        optimizer: has the state, which stays its own.
        parameters: those that are trained, in the order in which ``clip`` is given them.
        clip: is given what stands for the parameters, with their gradients, and a size, before the optimizer.
        weights: has the average of the weights, which follows.

    Attributes:
        told: what a graph with it has as constants: groups and options of the optimizer, as they were at :meth:`look`.
    """

    told = ""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        clip: Callable[[Sequence[Tensor], Tensor], Any],
        weights: Weights,
    ) -> None:
        names = {id(value): name for name, value in (*module.named_parameters(), *module.named_buffers())}
        self._module, self._optimizer, self._clip, self._weights = module, optimizer, clip, weights
        self._parameters = [(parameter, names[id(parameter)]) for parameter in parameters]
        self._moving = [names[id(value)] for value in weights.moving]
        self._step, self._size = 1, 1.0
        self._finite = torch.ones((), device=self._parameters[0][0].device)  # 0 once a loss was not
        self.look()
        note_stepped(optimizer)

    @staticmethod
    def is_possible(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether it is an optimizer of torch's that is known here, and nobody listens to it."""
        moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        options = [value for group in optimizer.param_groups for key, value in group.items() if key not in _INPUTS]
        tensors = any(isinstance(one, Tensor) for one in tree_leaves(options))
        known = type(optimizer) in _RULES and moved <= {id(parameter) for parameter in parameters}
        return known and not (tensors or is_hooked(optimizer) or any(p.is_complex() for p in parameters))

    def look(self) -> bool:
        """Takes in the optimizer's groups; whether parameters and options are what they were when this was made.

        A learning rate is read at each step.
        """
        groups = self._optimizer.param_groups
        named = {id(parameter): name for parameter, name in self._parameters}
        there = dict(self._module.named_parameters())
        members = [[named.get(id(parameter)) for parameter in group["params"]] for group in groups]
        options = [[item for item in group.items() if item[0] not in _INPUTS] for group in groups]
        told = repr((members, options))
        same = self.is_possible(self._optimizer, [parameter for parameter, _ in self._parameters])
        same = same and all(there.get(name) is parameter for parameter, name in self._parameters)
        same = same and told == (self.told or told)
        self.told = told
        owners = {id(parameter): group for group in groups for parameter in group["params"]}
        self._groups = [owners.get(id(parameter)) for parameter, _ in self._parameters]  # none of what is left out
        return same

    def begin(self, step: int, size: float) -> None:
        """Takes in the number of the step that comes, and what ``clip`` is given."""
        self._step, self._size = step, size

    def key(self) -> Any:
        """What a graph with it is made for: :attr:`told`, and which state there is."""
        held = (self._optimizer.state.get(parameter, {}) for parameter, _ in self._parameters)
        return self.told, [sorted(state) for state in held]

    def inputs(self) -> list[Tensor]:
        """What it reads and writes beside the module's own: numbers, averages, the state of each parameter by name."""
        device = self._parameters[0][0].device
        self._states = [self._optimizer.state.get(parameter, {}) for parameter, _ in self._parameters]
        rule = _RULES[type(self._optimizer)]
        rows: list[Sequence[float]] = []
        groups = {id(group): group for group in self._groups if group is not None}
        rated = {key: {**group, "lr": float(group["lr"])} for key, group in groups.items()}
        for group, state in zip(self._groups, self._states, strict=True):
            if group is None:
                rows.append([])
            elif _is_far(state):
                rows.append([rated[id(group)]["lr"]])
            else:
                step = 1 + (state["step"].item() if "step" in state else 0)
                rows.append(rule.numbers(rated[id(group)], step))
        self._sizes = [1, 1, *map(len, rows)]
        flat = [self._size, self._weights.share(self._step), *(number for row in rows for number in row)]
        numbers = torch.tensor(flat, dtype=torch.float64)
        held = [state[key] for state in self._states for key in sorted(state) if isinstance(state[key], Tensor)]
        return [self._finite, numbers.to(device), numbers.float().to(device), *self._weights.averaged, *held]

    def __call__(
        self, loss: Tensor, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None], inputs: list[Tensor]
    ) -> None:
        """Writes the parameters among ``values``, which go by their names, and ``inputs``."""
        given = iter(inputs)
        so_far = next(given)
        wide, narrow = ([part.unbind() for part in next(given).split(self._sizes)] for _ in range(2))
        averaged = [next(given) for _ in self._weights.averaged]
        leaves = []
        for _, name in self._parameters:
            leaf = values[name].clone()
            leaf.grad = gradients.get(name)
            leaves.append(leaf)
        (size,), (share,) = wide[:2]
        self._clip(leaves, size)
        finite, rule = loss.isfinite() & (so_far > 0), _RULES[type(self._optimizer)]
        so_far.copy_(finite)
        ours = zip(self._parameters, self._groups, leaves, self._states, wide[2:], narrow[2:], strict=True)
        for (_, name), group, leaf, state, exact, short in ours:
            held = {key: next(given) for key in sorted(state) if isinstance(state[key], Tensor)}
            if group is None or leaf.grad is None:
                continue
            gradient = -leaf.grad if group["maximize"] else leaf.grad
            numbers: Sequence[Any] = exact if leaf.dtype == torch.float64 else short
            if _is_far(state):
                computed = rule.numbers({**group, "lr": exact[0]}, held["step"].double() + 1)
                numbers = [torch.as_tensor(number).to(leaf.dtype) for number in computed]
            after, states = rule.apply(values[name], gradient, held, group, numbers)
            for now, then in ((values[name], after), *((held[key], value) for key, value in states.items())):
                now.copy_(torch.where(finite, then, now))
        for average, name in zip(averaged, self._moving if averaged else (), strict=True):
            follows = average + share.to(average.dtype) * (values[name] - average)
            average.copy_(torch.where(finite, follows, average))
