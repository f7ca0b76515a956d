"""What a checkpoint tells of how its pair was made, so that a run opens without its data or the program that ran it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._recipes import build, numbered, recipe
from pyro_vae.data import Data, Split
from pyro_vae.pair import device_of, run
from pyro_vae.pair.running import reading
from pyro_vae.pair.turns import fork_rng

_CHANGED = "the pair is another than its arguments make: something in it was exchanged or set after it was made"


def opening(pair: nn.Module, data: Data, batch: tuple[Any, ...]) -> dict[str, Any]:
    """The shapes of a datum and a batch, and the recipe of the pair, or ``unknown``, why there is none.

    A recipe is only believed if what it makes is the pair: of the same modules, and with the same log-probabilities on
    a batch.
    """
    train, told = data.train, recipe(pair)
    found: dict[str, Any] = {"event_shape": None}
    if isinstance(train, Split):
        condition = data.condition_shape
        shape = list(condition) if isinstance(condition, tuple) else condition
        found = {"event_shape": list(train.event_shape), "condition_shape": shape}
    if all(isinstance(value, Tensor) for value in batch):
        found["arguments"] = [[list(value.shape), str(value.dtype).removeprefix("torch.")] for value in batch]
    if "unknown" in told:
        return {**found, "unknown": told["unknown"]}
    made = {"recipe": numbered(told), "frozen": [name for name, p in pair.named_parameters() if not p.requires_grad]}
    with fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            other = remade(made, pair.state_dict(), _find)
            other.load_state_dict(pair.state_dict())
            same = repr(other) == repr(pair) and _sharing(other) == _sharing(pair)
            same = same and _agree(_log_probs(other.to(device_of(pair)), batch), _log_probs(pair, batch))
        except Exception:  # of a part that was given what a recipe does not hold
            same = False
    return {**found, **made} if same else {**found, "unknown": _CHANGED}


def remade(made: Mapping[str, Any], weights: Mapping[str, Tensor], find: Callable[[str], Any]) -> nn.Module:
    """The pair of a recipe with new weights, of the precisions of ``weights``.

    Args:
        made: what :func:`opening` gave.
        weights: of the pair, by name.
        find: gives the class of a dotted name, or refuses it.
    """
    pair = build(made["recipe"], find)
    for name, value in (*pair.named_parameters(), *pair.named_buffers()):
        value.data = value.data.to(weights[name].dtype) if name in weights else value.data
    for name, parameter in pair.named_parameters():
        parameter.requires_grad_(name not in made["frozen"])
    return pair


def _find(name: str) -> Any:
    module, _, kind = name.rpartition(".")
    return getattr(importlib.import_module(module), kind)


def _sharing(pair: nn.Module) -> dict[str, str]:
    """The names of all parameters, and the first name of each."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in pair.named_parameters(remove_duplicate=False)}


def _log_probs(pair: nn.Module, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """Sums over the data by program and site, of draws by a seed."""
    with reading(pair, seed=0):
        found = {}
        for program, trace in run(pair, *batch)._asdict().items():
            trace.compute_log_prob()
            sites = ((name, site) for name, site in trace.nodes.items() if "log_prob_sum" in site)
            found.update({f"{program} {name}": site["log_prob_sum"] for name, site in sites})
    return found


def _agree(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[name], value, rtol=1e-4, equal_nan=True) for name, value in theirs.items()
    )
