"""The state of a run: all that moves while a pair is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae.data import draws
from pyro_vae.estimators import Estimator, Objective
from pyro_vae.frozen import PythonState
from pyro_vae.pair import device_of
from pyro_vae.training import checkpoint, optimizers, trials
from pyro_vae.training.averaging import Weights
from pyro_vae.training.run import Run
from pyro_vae.training.step import TrainingStep

_COUNTS = ("epoch", "batches_done", "steps", "samples", "seconds", "sums", "looked_at", "several_kinds")
_OUTCOME = ("history", "stopped_early", "best_epoch")


class Noted(NamedTuple):
    """A step: the names of its numbers, and these, as means over so many data; which it was, and what it was given."""

    names: tuple[str, ...]
    values: Tensor
    size: int
    step: int
    again: Mapping[str, Any]


@dataclass
class State:
    """All that moves while a pair is trained, which is what a checkpoint holds."""

    pair: nn.Module
    weights: Weights
    optimizer: torch.optim.Optimizer
    estimator: Estimator
    run: Run
    step: TrainingStep
    python: PythonState  # what programs and other parts of the run keep in Python
    loaders: PythonState  # likewise of the loaders that data come from
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None  # torch's, of the learning rate
    epoch: int = 0  # under way
    batches_done: int = 0  # of that epoch
    steps: int = 0  # of the optimizer
    samples: int = 0  # data seen
    seconds: float = 0.0  # of training
    sums: dict[str, float] = field(default_factory=dict)  # of what the history tells of the epoch, over its data
    looked_at: int = 0  # the step at which a graph was last compared with the programs on purpose
    several_kinds: bool = False  # whether batches of several kinds have come
    begun: dict[str, Any] = field(default_factory=dict)  # the loaders at the start of the epoch under way
    noted: list[Noted] = field(default_factory=list)  # steps whose numbers have yet to be read

    def note(self, objective: Objective, size: int, *, last: bool = True, **again: Any) -> None:
        """Takes in a step on so many data, the ``last`` of those on them; its numbers stay where they are till read.

        ``again`` is what the step was given.
        """
        told = {"loss": objective.loss, **({} if objective.bound is None else {"train": objective.bound})}
        told |= {f"{site}/{kind}": term for site, kinds in objective.terms.items() for kind, term in kinds.items()}
        with torch.no_grad():
            values = torch.cat([value.reshape(1) for value in told.values()])
        self.steps += 1
        self.noted.append(Noted(tuple(told), values, size if last else 0, self.steps, again))
        self.samples += size if last else 0
        self.batches_done += last

    def read(self) -> Noted | None:
        """Adds up what was noted, up to the first step whose loss is not finite, which it gives."""
        noted, self.noted = self.noted, []
        values = iter(torch.cat([step.values for step in noted]).tolist() if noted else ())  # waited for once
        for step in noted:
            means = {name: next(values) for name in step.names}
            if not math.isfinite(means["loss"]):
                return step
            for name, mean in {**means, "size": 1.0}.items() if step.size else ():
                self.sums[name] = self.sums.get(name, 0.0) + mean * step.size
        return None

    def begin_epoch(self) -> None:
        """Notes how the loaders are, since an epoch that is interrupted is gone through again."""
        if self.batches_done == 0:
            self.begun = self.loaders.kept(every=True)

    def means(self) -> dict[str, Any]:
        """``train``, ``loss`` and ``terms`` of the epoch, as the history tells them."""
        means: dict[str, Any] = {"terms": {}, "train": None}
        for name, value in self.sums.items():
            site, _, kind = name.rpartition("/")
            (means["terms"].setdefault(site, {}) if site else means)[kind] = value / self.sums["size"]
        return {name: means[name] for name in ("train", "loss", "terms")}

    def pack(self, ended: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and the rest as JSON can hold it; the pair's are those for use when training has ended.

        Raises:
            TypeError: if something can be kept by neither; which names its place.
        """
        with self.weights.in_use(ended) as trained:
            pair = copy.deepcopy(dict(self.pair.state_dict()))
        state = {
            **{name: getattr(self, name) for name in _COUNTS},
            **{name: getattr(self.run, name) for name in _OUTCOME},
            "pair": pair,
            "trained": trained,
            "weights": self.weights.state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "buffers": dict(checkpoint.unsaved(self.pair)),
            "estimator": self.estimator.state(),
            "compiled": self.step.state(),
            "python": self.python.kept(),
            "loaders": self.begun if self.batches_done else self.loaders.kept(every=True),
            "random": draws.random_state(self._cuda),
        }
        tensors: dict[str, Tensor] = {}
        return tensors, {key: checkpoint.pack(value, tensors, key) for key, value in state.items()}

    def check_kept(self, folder: Path) -> None:
        """Refuses a run that has yet to begin, of which a checkpoint could not keep all that moves.

        Raises:
            ValueError: which names what cannot be kept, or is another when it has been taken up again.
        """
        try:
            tensors, packed = self.pack(False)
        except TypeError as error:
            raise trials.refused(folder, error, trials.KEPT) from error
        before, why = trials.digest(tensors, packed), "another"
        try:
            held = {name: tensor.clone() for name, tensor in tensors.items()}
            self.pair.load_state_dict(checkpoint.unpack(packed["pair"], held))
            self.estimator.load_state(checkpoint.unpack(packed["estimator"], held))
            after = trials.digest(*self.pack(False))
        except Exception as error:
            after, why = None, f"none ({type(error).__name__}: {error})"
        if after != before:
            why = f"the state of the pair or the estimator, when it has been taken up again, is {why}"
            raise trials.refused(folder, why, "Have set_extra_state and load_state set what was given")

    def restore(self, tensors: Mapping[str, Tensor], packed: Mapping[str, Any]) -> None:
        """Takes up what :meth:`pack` gave; of anything else see :func:`checkpoint.as_written`."""
        state = {key: checkpoint.unpack(value, tensors) for key, value in packed.items()}
        for name in _COUNTS:
            kind = type(getattr(self, name))
            if not isinstance(state[name], (float, int) if kind is float else kind):
                raise TypeError(f"{name} is of the class {type(state[name]).__name__}")
        if missing := checkpoint.load_weights(self.pair, tensors, packed):
            raise ValueError(
                f"the checkpoint is of an earlier version of pyro_vae, which did not keep the buffer {missing[0]!r}, "
                "so that this run cannot go on as it was. Train again into a new folder."
            )
        self.weights.put(state["trained"])
        self.weights.load_state(state["weights"])
        optimizers.take_up(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.estimator.load_state(state["estimator"])
        self.step.load_state(state["compiled"])
        self.python.take_up(state["python"])
        self.loaders.take_up(state["loaders"])
        self.begun = state["loaders"]
        draws.set_random_state(state["random"], self._cuda)
        vars(self).update({name: state[name] for name in _COUNTS})
        vars(self.run).update({name: state[name] for name in _OUTCOME})

    @property
    def _cuda(self) -> list[torch.device]:
        return [device] if (device := device_of(self.pair)).type == "cuda" else []
