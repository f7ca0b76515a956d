"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any


class Signals:
    """Notes Ctrl-C and SIGTERM, so that a run ends between two steps, with a checkpoint."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Signals:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self.received = number

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end(self, out: Path | None) -> None:
        kept = "no output folder, nothing kept" if out is None else f"checkpoint in {out}; go on with resume=True"
        if self.received == signal.SIGTERM:
            raise SystemExit(f"training was terminated ({kept})")
        raise KeyboardInterrupt(f"training was interrupted ({kept})")
