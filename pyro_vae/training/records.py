"""What a run writes down while it trains: a line of metrics per epoch, and TensorBoard's files where installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_vae.training.checkpoint import write_text

METRICS = "metrics.jsonl"


class Recorder:
    """Writes ``metrics.jsonl`` into a run folder; without a folder it writes nothing.

    Args:
        out: the folder.
        history: the epochs that a checkpoint remembers, with which the file starts; later ones are dropped.
    """

    def __init__(self, out: Path | None, history: list[dict[str, Any]]) -> None:
        self.out = out
        self._board: Any = None
        if out is None:
            return
        write_text(out / METRICS, "".join(json.dumps(entry) + "\n" for entry in history))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=len(history) + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        if self.out is None:
            return
        with (self.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is not None:
            numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
            numbers.update({f"schedules/{name}": value for name, value in entry.get("schedules", {}).items()})
            for site, kinds in entry["terms"].items():
                numbers.update({f"{site}/{kind}": value for kind, value in kinds.items()})
            for name, value in numbers.items():
                self._board.add_scalar(name, value, entry["epoch"])
            self._board.flush()


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The history of a run folder.

    Raises:
        ValueError: if there is none.
    """
    path = Path(out) / METRICS
    if not path.exists():
        raise ValueError(f"{out} holds no {METRICS}; give the folder of a run that has been trained.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
