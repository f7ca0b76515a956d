"""What a run writes down while it trains: a line of metrics per epoch, and TensorBoard's files where installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pyro_vae._files import append_text, check_held, read_text, write_text

METRICS = "metrics.jsonl"


class Recorder:
    """Writes ``metrics.jsonl`` into a run folder, anew from a checkpoint's history; without a folder nothing."""

    def __init__(self, out: Path | None, history: list[dict[str, Any]]) -> None:
        self.out, self._history = out, history
        self._board: Any = None
        if out is None:
            return
        write_text(out / METRICS, "".join(map(_line, history)))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=len(history) + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        if self.out is None:
            return
        check_held(self.out)
        if (path := self.out / METRICS).exists():
            append_text(path, _line(entry))
        else:  # taken away
            write_text(path, "".join(map(_line, self._history)))
        if self._board is not None:
            numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
            for group, values in {"schedules": entry.get("schedules", {}), **entry["terms"]}.items():
                numbers.update({f"{group}/{name}": value for name, value in values.items()})
            for name, value in numbers.items():
                self._board.add_scalar(name, value, entry["epoch"])
            self._board.flush()


def _line(entry: dict[str, Any]) -> str:
    """An entry as JSON; what callbacks add may be numbers of numpy and tensors of one number."""
    return json.dumps(entry, default=lambda value: value.item()) + "\n"


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The history of a run folder.

    Raises:
        ValueError: if there is none, or the file is damaged.
        OSError: if it cannot be read.
    """
    path = Path(out) / METRICS
    if not os.path.lexists(path):
        raise ValueError(f"{out} holds no {METRICS}; give the folder of a run that has been trained.")
    try:
        entries = [json.loads(line) for line in read_text(path).splitlines() if line]
    except (ValueError, RecursionError):
        entries = [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is damaged: it is no lines of JSON. Going on with the training writes it anew.")
    return entries
