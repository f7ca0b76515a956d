"""What training gives: a run and its history, or the error that ended it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn


class NonFiniteError(FloatingPointError):
    """The loss or a gradient is not finite; the message names the epoch, the step, the site and the parameter."""


@dataclass
class Run:
    """What :func:`fit` returns.

    Attributes:
        pair: the trained pair.
        history: one dictionary an epoch: ``epoch``, ``samples`` seen, ``train`` and ``valid`` bound in nats per datum
            (``train`` is the mean over the epoch while the parameters moved; both are None of a loss of Pyro's, which
            is told as ``loss`` and ``valid_loss``), ``loss``, ``terms`` by site,
            ``learning_rate``, ``seconds`` of training so far, ``data_per_second``; the estimator's numbers by name
            (``beta``, ``capacity``) as the last step met them, and in ``schedules`` the buffers that are moved, at the
            end of the epoch.
        out: the run folder, if one was asked for.
        mode: how the steps ran: ``"inductor"``, ``"traced"`` or ``"eager"``.
        stopped_early: whether the validation bound ended the run before the last epoch.
        best_epoch: with ``patience``, the epoch whose weights the pair has.
        notes: which estimator was taken and why, where none was asked for and it is not the usual one.
        configuration: what a run with ``out`` is known again by: the arguments of ``fit`` in words, its pair and its
            data; of a run of the command line that :func:`pyro_vae.load` has opened, its options.
    """

    pair: nn.Module
    history: list[dict[str, Any]] = field(default_factory=list)
    out: Path | None = None
    mode: str = "eager"
    stopped_early: bool = False
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def bound(self) -> float | None:
        """The pair's validation bound, in nats per datum; the training bound where there was no validation set.

        ``None`` where nothing was trained, or the loss claims no bound.
        """
        if not self.history:
            return None
        entry = self.history[-1 if self.best_epoch is None else self.best_epoch - 1]
        return entry["train"] if entry["valid"] is None else entry["valid"]


def told(entry: dict[str, Any]) -> str:
    """An entry of a history in words: its bounds, or the losses where they claim no bound."""
    is_loss = entry["train"] is None
    first, second = (entry.get(name) for name in (("loss", "valid_loss") if is_loss else ("train", "valid")))
    valid = "" if second is None else f", valid {second:.2f}"
    return f"{'loss' if is_loss else 'bound'} train {first:.2f}{valid} {'' if is_loss else 'nats '}per datum"
