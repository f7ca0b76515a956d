"""What is tried before the first step of a run that is to be kept: whether it could go on from a checkpoint."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.batches import flattened
from pyro_vae.data import Stream, draws
from pyro_vae.frozen import PythonState
from pyro_vae.training import checkpoint, optimizers

#: What to do about what no checkpoint can hold.
KEPT = "Have it be of tensors, numbers, texts, lists and dictionaries of these"
_MOST = 2**20  # numbers that are moved
_STEPS = 3  # before and after the state is saved


def refused(folder: Path, why: object, instead: str) -> ValueError:
    """The error of a run that a checkpoint could not keep."""
    return ValueError(f"a checkpoint in {folder} cannot keep all of this run: {why}. {instead}, or leave out= out.")


def check_repeats(looked: Sequence[tuple[Stream, list[Any]]], batch_size: int, seed: int, folder: Path) -> None:
    """Draws what streams begin with once more, from the same random states.

    Args:
        looked: streams, and the batches with which an epoch of theirs has begun.
        batch_size: of the run.
        seed: of the run.
        folder: of the checkpoints.

    Raises:
        ValueError: if other batches come, by a state that cannot be put back, or the order of the batches is that in
            which workers are done.
    """
    for stream, batches in looked:
        loader, kind = stream.loader, type(stream.loader.dataset).__name__
        again = itertools.islice(stream.batches(batch_size, epoch=0, seed=seed), len(batches))
        if loader.num_workers and not getattr(loader, "in_order", True):
            why = f"the loader of {stream.name!r} gives batches in the order in which its workers are done"
            raise refused(folder, why, "Leave in_order=False out")
        if [*map(_digest, batches)] != [*map(_digest, again)]:
            workers = " in workers that persist" if loader.persistent_workers else ""
            raise refused(
                folder,
                f"the loader of {stream.name!r}, of a {kind}, gives other batches when the same epoch is begun again"
                f"{workers}, by something that moves and cannot be put back",
                "Have it draw from the generators of torch, numpy or Python, or from ones that are its attributes, "
                "without persistent_workers, and have what it gives follow from these, its numbers and "
                "set_epoch(epoch)",
            )


def check_goes_on(
    make: Callable[[list[nn.Parameter]], tuple[torch.optim.Optimizer, Any]],
    parameters: Sequence[nn.Parameter],
    folder: Path,
) -> None:
    """Moves copies of the first parameters by an optimizer and its scheduler, and by such that are loaded midway.

    Args:
        make: gives an optimizer of parameters, and a scheduler or ``None``.
        parameters: of the run, which stay as they are.
        folder: of the checkpoints.

    Raises:
        ValueError: if what was loaded goes on otherwise, or cannot be saved.
    """
    sizes = itertools.accumulate(parameter.numel() for parameter in parameters)
    parameters = [p for p, size in zip(parameters, sizes, strict=True) if size <= _MOST] or parameters[:1]
    devices = list({parameter.device for parameter in parameters if parameter.device.type == "cuda"})
    kinds: list[str] = []
    with draws.Apart(draws.TRIAL, devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours, theirs = (_Moving(make, parameters) for _ in range(2))
            kinds = ours.kinds
            gradients = [ours.gradients() for _ in range(2 * _STEPS)] if ours.owned and theirs.owned else []
            ours.step(gradients[:_STEPS])
            tensors, state = ours.pack()
        except TypeError as error:
            if not kinds:
                return
            raise refused(folder, error, KEPT) from error
        except Exception:  # what cannot be tried is not judged
            return
        try:
            held = {name: value.clone() for name, value in tensors.items()}
            theirs.load(ours.parameters, held, json.loads(json.dumps(state)))
            ended = [moving.tried(gradients[_STEPS:], devices) for moving in (ours, theirs)]
            same = ended[0] == ended[1] and digest(*ours.pack()) == digest(*theirs.pack())
            why = "" if ended[0] else ended[1]
        except Exception as error:
            same, why = False, f" ({type(error).__name__}: {error})"
        if not same:
            raise refused(
                folder,
                f"{' with '.join(kinds)}, saved by state_dict and taken up by load_state_dict, goes on otherwise{why}",
                "Have these two hold all that moves",
            )


class _Moving:
    """Copies of parameters, and what moves them."""

    def __init__(self, make: Callable[..., Any], parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        self.optimizer, self.scheduler = make(self.parameters)
        self.python = PythonState((self.optimizer, self.scheduler))
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        self.owned = held <= {id(parameter) for parameter in self.parameters}  # else it moves the pair itself

    @property
    def kinds(self) -> list[str]:
        return [type(part).__name__ for part in (self.optimizer, self.scheduler) if part is not None]

    def gradients(self) -> list[Tensor]:
        return [torch.randn_like(parameter) for parameter in self.parameters]

    def step(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        for index, of_step in enumerate(gradients):
            for parameter, gradient in zip(self.parameters, of_step, strict=True):
                parameter.grad = gradient.clone()
            self.optimizer.step()
            if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(float(index))
            elif self.scheduler is not None:
                self.scheduler.step()

    def tried(self, gradients: Sequence[Sequence[Tensor]], devices: Sequence[torch.device]) -> str:
        """Steps as far as they go, and by what they ended: a scheduler may be made for no more."""
        try:
            with draws.Apart(draws.TRIAL, 1, devices=devices):
                self.step(gradients)
        except Exception as error:
            return f" ({type(error).__name__}: {error})"
        return ""

    def pack(self) -> tuple[dict[str, Tensor], Any]:
        tensors: dict[str, Tensor] = {}
        parts = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "python": self.python.kept(),
            "moved": [parameter.detach() for parameter in self.parameters],
        }
        return tensors, {name: checkpoint.pack(part, tensors, name) for name, part in parts.items()}

    def load(self, parameters: Sequence[nn.Parameter], tensors: Mapping[str, Tensor], packed: Any) -> None:
        parts = {name: checkpoint.unpack(part, tensors) for name, part in packed.items()}
        with torch.no_grad():
            for parameter, value in zip(self.parameters, parameters, strict=True):
                parameter.copy_(value)
        optimizers.load_state(self.optimizer, parts["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(parts["scheduler"])
        self.python.take_up(parts["python"])


def digest(tensors: Mapping[str, Tensor], state: Any) -> str:
    """Of what was packed."""
    return checkpoint.digest(tensors, json.dumps(state))


def told(kept: Mapping[str, Any]) -> str:
    """A digest of what :meth:`~pyro_vae.frozen.PythonState.kept` gives."""
    tensors: dict[str, Tensor] = {}
    return digest(tensors, checkpoint.pack(kept, tensors, "kept"))


def _digest(batch: Any) -> str:
    return checkpoint.digest(dict(enumerate(flattened(batch)[0])))
