"""The command line: pyro-vae train | evaluate | plot | apply | estimators. ``python -m pyro_vae`` is the same."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from pyro_vae import _importing, runs
from pyro_vae._checks import whole
from pyro_vae.cli.evaluation import evaluate
from pyro_vae.cli.functions import apply, run
from pyro_vae.cli.training import plot, train
from pyro_vae.estimators import ESTIMATORS, facts_table
from pyro_vae.ranks import group
from pyro_vae.runs.terminal import as_typed, placed, sentence, spelled

_USAGE = """\
usage: pyro-vae COMMAND [options]

Variational autoencoders as Pyro programs.

commands:
  train       fit a pair to data and write a run folder
  evaluate    log p(x) of a run: importance sampling, annealed importance sampling, BDMC, HMC
  plot        draw the figures of a run again
  apply       what pairs are good for, beside baselines
  estimators  what is known of each estimator

`pyro-vae COMMAND --help` tells the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0, or 2 after an error that is the user's to mend)."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as of head, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0


def _main(arguments: Sequence[str] | None) -> int:
    arguments = spelled(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "train": train,
        "evaluate": functools.partial(run, evaluate),
        "plot": functools.partial(run, plot),
        "apply": apply,
        "estimators": functools.partial(run, estimators),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        return _fail(f"there is no command {name!r}{runs.nearest(name, commands)}. Commands: {', '.join(commands)}.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that --model my_file.MyPair finds a file beside the user
    try:
        _importing.imported()
        with warnings.catch_warnings():
            warnings.showwarning = _once()
            with group() as ranks:
                if not ranks.first:  # which says what all would say
                    warnings.simplefilter("ignore")
                if not ranks.alone and name not in ("train", "evaluate"):
                    return _fail(f"{name} runs in one process; {ranks.count} were started. Leave torchrun out.")
                if not ranks.alone and ranks.first:
                    print(f"{ranks.count} ranks take part, each with its share of every batch", flush=True)
                commands[name](rest)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename and len(str(error.filename)) < 300 else ""
        return _fail(f"{place}{error.strerror}. Give another path." if error.strerror else str(error))
    except (ValueError, TypeError, FloatingPointError) as error:
        return _fail(placed(sentence(str(error)), rest))
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", status=130)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        return _fail(end.code, status=143)  # terminated
    return 0


def _fail(message: str, status: int = 2) -> int:
    print(f"pyro-vae: error: {as_typed(message)}", file=sys.stderr)
    return status


def _once() -> Callable[..., None]:
    """Shows a warning as one line, above a progress bar where there is one, and no line twice."""
    said = set()

    def show(message: Warning | str, *where: Any, **options: Any) -> None:
        line = f"pyro-vae: warning: {as_typed(' '.join(str(message).split()))}"
        if line not in said:
            said.add(line)
            tqdm.write(line, file=sys.stderr)

    return show


def estimators(width: int | None = None) -> None:
    """A table of the estimators: what the value bounds, what the gradient is unbiased for, sites, cost, source.

    Args:
        width: of the table in characters, by default that of the terminal
    """
    if width is not None:
        whole(width=width)
    print(facts_table(ESTIMATORS, shutil.get_terminal_size((120, 24)).columns if width is None else width))
    print(
        "K, L, M: numbers of samples. Use one by its name: pyro-vae train --estimator pyro_vae.IWAE "
        "--estimator.num_particles 5"
    )
