"""The page of a run folder: what was done with it, as a person reads it."""

from __future__ import annotations

import datetime
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pyro_vae._files import appending, read_text, write_text
from pyro_vae.ranks import Ranks
from pyro_vae.runs.options import CONFIG, PAGE
from pyro_vae.runs.terminal import as_typed


class Page:
    """What a command prints of a run, which :data:`PAGE` in its folder keeps: a section for each command.

    As a context manager it is written at the end, also of a command that is interrupted or fails.
    """

    def __init__(self, out: Path, command: str) -> None:
        self.out, self._command, self._lines = out, command, list[str]()
        self._shows = Ranks().first

    def say(self, *lines: str) -> None:
        """Prints lines, and keeps them."""
        if self._shows:
            print(*lines, sep="\n", flush=True)
        self._lines += lines

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, place: Any) -> None:
        if self._shows and (self.out / CONFIG).is_file():  # else nothing has begun
            self._lines += [as_typed(str(error)) or type(error).__name__] if error else []
            self.write()

    def write(self) -> None:
        """Adds the section."""
        path = self.out / PAGE
        when = f"{datetime.datetime.now():%Y-%m-%d %H:%M}, {_version()}torch {torch.__version__}"
        said = "\n".join([f"$ {self._command}", *self._lines])
        with appending(path):
            before = read_text(path) if os.path.lexists(path) else _HEAD.format(out=self.out)
            write_text(path, f"{before}\n## {when}\n\n```\n{said}\n```\n")


def _version() -> str:
    try:
        return f"pyro_vae {version('pyro-vae')}, "
    except PackageNotFoundError:  # used from its folder
        return ""


_HEAD = """\
# {out}

A run of pyro-vae. `config.yaml` has all its options, `metrics.jsonl` a line for each epoch, `checkpoint` the weights,
`figures` the figures, `evaluation.json` what `evaluate` has found. To go on with it, or begin it anew elsewhere:

```
pyro-vae train --config {out}/config.yaml --resume true
pyro-vae train --config {out}/config.yaml --out FOLDER
pyro-vae evaluate {out}
pyro-vae plot {out}
```

Each with `--trust` where the pair, or a part of it, is of a file of your own.

In Python:

```python
import pyro_vae as pv

run = pv.load("{out}")  # run.pair, run.history, run.configuration
data = pv.runs.load_data("{out}")  # in the folder in which it was trained, as it was trained on them
```
"""
