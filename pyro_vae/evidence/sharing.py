"""Estimates of log p(x) of many data, shared by the processes of a group."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from pyro_vae.batches import num_rows
from pyro_vae.pair import as_pair
from pyro_vae.pair.arguments import batch_of
from pyro_vae.ranks import Ranks

P = ParamSpec("P")
R = TypeVar("R")


def over_ranks(estimate: Callable[P, R]) -> Callable[P, R]:
    """``estimate(pair, x, ..., seed=)`` of each rank's data, and the results of all on each rank.

    Tensors of a result have the data as their last dimension. Each rank has draws of its own. Without a group it is
    ``estimate`` as it is.
    """

    @functools.wraps(estimate)
    def shared(*args: Any, **options: Any) -> Any:
        ranks = Ranks()
        given: dict[str, Any] = {**dict(zip(("pair", "x"), args, strict=False)), **options}
        if ranks.alone or not {"pair", "x"} <= given.keys():
            return estimate(*args, **options)
        batch = batch_of(as_pair(given["pair"]), given["x"])
        seed, size = options.pop("seed", 0), num_rows(batch)
        options = {name: value for name, value in options.items() if name not in ("pair", "x")}
        options |= {"seed": ranks.seed_of(seed), "progress": options.get("progress", False) and ranks.first}
        found: Any = estimate(given["pair"], ranks.slice_of(batch), *args[2:], **options)
        values = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        joined = {name: ranks.joined(v, size) for name, v in values.items() if isinstance(v, Tensor)}
        return dataclasses.replace(found, **joined)

    return shared
