"""What a run writes down while it trains: a line of metrics per epoch, and TensorBoard's files where installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_vae.training.checkpoint import write_text

METRICS = "metrics.jsonl"


class Recorder:
    """Writes ``metrics.jsonl`` into a run folder; without a folder it writes nothing."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._board: Any = None

    def open(self, history: list[dict[str, Any]]) -> None:
        """Starts the file with the epochs that a checkpoint remembers, dropping later ones that it does not."""
        if self.out is None:
            return
        write_text(self.out / METRICS, "".join(json.dumps(entry) + "\n" for entry in history))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=len(history) + 1)

    def write(self, entry: dict[str, Any]) -> None:
        """Adds the line of one epoch."""
        if self.out is None:
            return
        with (self.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is not None:
            for name in ("train", "valid", "loss", "beta", "learning_rate", "images_per_second"):
                if entry[name] is not None:
                    self._board.add_scalar(name, entry[name], entry["epoch"])
            for name, value in entry.get("schedules", {}).items():
                self._board.add_scalar(f"schedules/{name}", value, entry["epoch"])
            for site, kinds in entry["terms"].items():
                for kind, value in kinds.items():
                    self._board.add_scalar(f"{site}/{kind}", value, entry["epoch"])
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
