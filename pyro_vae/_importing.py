"""Ctrl-C while the command line is imported, which takes seconds and comes before any line of :mod:`pyro_vae.cli`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

_COMMAND = "pyro-vae"


def _is_command() -> bool:
    """Whether this process is ``pyro-vae`` or ``python -m pyro_vae``, and not one that it has started."""
    if sys.argv[:1] == ["-m"]:  # until the module is found
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "pyro_vae"
    return os.path.basename(getattr(sys.modules["__main__"], "__file__", None) or "") == _COMMAND


def _end(*signal: Any) -> NoReturn:
    """Ends the process, at once: nothing is written yet, and libraries take an exception for an import that failed."""
    os.write(2, f"{_COMMAND}: error: interrupted\n".encode())
    os._exit(130)


def imported() -> None:
    """Ctrl-C raises again; what is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
