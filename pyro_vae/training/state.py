"""The state of a run: all that moves while a pair is trained, and what a run is known again by."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.batches import flattened
from pyro_vae.compiled import resolved
from pyro_vae.data import Data, Split
from pyro_vae.estimators import Estimator, Objective
from pyro_vae.pair import device_of
from pyro_vae.training import checkpoint
from pyro_vae.training.averaging import Weights
from pyro_vae.training.run import Run
from pyro_vae.training.scheduled import Schedules
from pyro_vae.training.schedules import Schedule
from pyro_vae.training.settings import Settings, described

_COUNTS = ("epoch", "batches_done", "steps", "samples", "seconds", "sums")
_OUTCOME = ("history", "stopped_early", "best_epoch")
_FREE = ("out", "resume", "compile", "device", "epochs", "patience", "checkpoint_every", "progress", "callbacks")


@dataclass
class State:
    """All that moves while a pair is trained, which is what a checkpoint holds."""

    pair: nn.Module
    weights: Weights
    optimizer: torch.optim.Optimizer
    estimator: Estimator
    run: Run
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None  # torch's, of the learning rate
    epoch: int = 0  # under way
    batches_done: int = 0  # of that epoch
    steps: int = 0  # of the optimizer
    samples: int = 0  # data seen
    seconds: float = 0.0  # of training
    sums: dict[str, float] = field(default_factory=dict)  # of what the history tells of the epoch, over its data

    def add(self, objective: Objective, loss: float, size: int) -> None:
        """Takes in a batch that was trained on."""
        means = {"loss": loss, "size": 1.0}
        if objective.bound is not None:
            means["train"] = objective.bound.item()
        for site, kinds in objective.terms.items():
            means.update({f"{site}/{kind}": term.item() for kind, term in kinds.items()})
        for name, mean in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + mean * size
        self.samples += size
        self.batches_done += 1

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
            "random": [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda)],
        }
        tensors: dict[str, Tensor] = {}
        return tensors, {key: checkpoint.pack(value, tensors, key) for key, value in state.items()}

    def check_kept(self, folder: Path) -> None:
        """Refuses a run of which a checkpoint could not keep all that moves.

        Raises:
            ValueError: which names what cannot be kept.
        """
        try:
            self.pack(False)
        except TypeError as error:
            raise ValueError(
                f"a checkpoint in {folder} cannot keep all of this run: {error}. Have it be of tensors, numbers, "
                "texts, lists and dictionaries of these, or leave out= out."
            ) from error

    def restore(self, tensors: Mapping[str, Tensor], packed: Mapping[str, Any]) -> None:
        """Takes up what :meth:`pack` gave."""
        state = {key: checkpoint.unpack(value, tensors) for key, value in packed.items()}
        if missing := checkpoint.load_weights(self.pair, tensors, packed):
            raise ValueError(
                f"the checkpoint is of an earlier version of pyro_vae, which did not keep the buffer {missing[0]!r}, "
                "so that this run cannot go on as it was. Train again into a new folder."
            )
        self.weights.put(state["trained"])
        self.weights.load_state(state["weights"])
        self._restore_optimizer(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.estimator.load_state(state["estimator"])
        torch.set_rng_state(state["random"][0])
        for device, random in zip(self._cuda, state["random"][1:], strict=False):
            torch.cuda.set_rng_state(random, device)
        vars(self).update({name: state[name] for name in _COUNTS})
        vars(self.run).update({name: state[name] for name in _OUTCOME})

    def _restore_optimizer(self, saved: dict[str, Any]) -> None:
        """``load_state_dict``, which gives floating tensors the parameters' precision, and then their own again."""
        self.optimizer.load_state_dict(saved)
        ours = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        theirs = [index for group in saved["param_groups"] for index in group["params"]]
        for parameter, index in zip(ours, theirs, strict=True):
            held = self.optimizer.state[parameter] if index in saved["state"] else {}
            for name, value in saved["state"].get(index, {}).items():
                if isinstance(value, Tensor) and held[name].dtype != value.dtype:
                    held[name] = value.to(held[name].device)

    @property
    def _cuda(self) -> list[torch.device]:
        return [device] if (device := device_of(self.pair)).type == "cuda" else []


def configuration(
    settings: Settings, data: Data, batch: Sequence[Tensor], state: State, schedules: Schedules
) -> dict[str, Any]:
    """What a run is known again by: its settings, its data with a first batch, and the pair as it was at the start."""
    pair, optimizer, tensors = state.pair, state.optimizer, flattened(batch)[0]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    follows = any(map(callable, schedules.given.values())) or isinstance(settings.scheduler, Schedule)
    return {
        **{name: described(value) for name, value in vars(settings).items()},
        "pair": f"{type(pair).__module__}.{type(pair).__qualname__}",
        "networks": repr(pair),
        "num_data": settings.num_data,  # None as in a run of before there was one
        "parameters": {name: list(parameter.shape) for name, parameter in pair.named_parameters()},
        "data": data.describe(),
        # A loader draws its own order, which need not be the same in another process.
        "first batch": checkpoint.digest(dict(enumerate(tensors))) if isinstance(data.train, Split) else None,
        "estimator": repr(state.estimator),
        "optimizer": f"{type(optimizer).__name__}({described(groups)})",
        # A schedule is a function of the share of the epochs: with other epochs it would jump.
        "scheduled epochs": settings.epochs if follows else None,
        "schedules": described({name: schedules.given[name] for name in schedules.buffers}) or None,
        **{name: described(schedules.given[name]) for name in schedules.at},
        "precision": resolved(settings.precision, device_of(pair)),
    }


def check_same_run(ours: Mapping[str, Any], theirs: Mapping[str, Any], out: Any) -> None:
    """Raises a ``ValueError`` if two configurations differ in what has to be the same for a run to go on."""
    different = [key for key in ours if key not in _FREE and ours[key] != theirs.get(key)]
    listed = ", ".join(f"{key} was {theirs.get(key)} and is now {ours[key]}" for key in different)
    if "parameters" in different or "networks" in different:
        listed = "another pair"
    if different:
        raise ValueError(
            f"{out} belongs to another configuration ({listed}), so this run cannot go on there. "
            "Choose another folder, or use the configuration of that run."
        )
