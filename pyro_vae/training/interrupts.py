"""Ctrl-C and SIGTERM during training."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from pathlib import Path
from typing import Any, NoReturn

_noting: weakref.WeakSet[Signals] = weakref.WeakSet()


class Signals:
    """Notes Ctrl-C and SIGTERM: a run ends between two steps, with a checkpoint in ``out``, or at once if asked twice.

    What is ignored stays ignored, as under nohup or in the background of a shell. Processes that are forked meanwhile
    end by SIGTERM as they would have before; Ctrl-C, which the terminal sends to them as well, is left to this one, so
    that workers that load data stay until the checkpoint is written.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.received: int | None = None
        self._out = out
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # None is of another language, and could not be put back
                    self._before[number] = signal.signal(number, self._note)
            _noting.add(self)
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.received is not None:
            self.end()
        self.received = number

    def __exit__(self, kind: Any, error: BaseException | None, place: Any) -> None:
        _noting.discard(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Also where it came behind the last step, or has failed what runs beside this process, a compiler or a worker.
        if self.received and (error is None or isinstance(error, Exception)):
            self.end()

    def leave(self) -> None:
        """In a process that was forked: SIGTERM is as it was."""
        if signal.SIGTERM in self._before:
            signal.signal(signal.SIGTERM, self._before[signal.SIGTERM])

    def end(self) -> NoReturn:
        """Ends the run.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM.
        """
        kept = "no output folder, nothing kept"
        if self._out is not None:
            kept = f"checkpoint in {self._out}; go on with resume=True"
        if self.received == signal.SIGTERM:
            raise SystemExit(f"training was terminated ({kept})")
        raise KeyboardInterrupt(f"training was interrupted ({kept})")


def _leave_all() -> None:
    for signals in list(_noting):
        signals.leave()
    _noting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
