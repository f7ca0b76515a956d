"""Configuration files, which may come from a stranger: what they may hold, and what they may name.

A file names classes, and building a pair calls them. So that opening a folder runs nothing that its author wrote, only
classes of this library's parts, of ``torch.nn`` and ``torch.optim``, and losses of Pyro, are taken from a file, never
functions, and nothing else is imported. A class of one's own is taken where it is typed on the command line, or where
the file is trusted (``--trust``, ``trust=True``).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from pyro.infer.elbo import ELBO
from torch.utils._python_dispatch import TorchDispatchMode

_NEW = ("empty", "zeros", "ones", "full")
_MAKING = frozenset([*_NEW, *(f"new_{name}" for name in _NEW), "empty_strided", "rand", "randn", "randint"])
_BYTES, _DEPTH = 1_000_000, 32  # of a file, which has a few thousand and six
_PARTS = """bayesian estimators hierarchy likelihoods models networks posteriors priors training.schedules
    training.weight_priors transforms vae"""
_LIBRARY = tuple(f"pyro_vae.{room}." for room in _PARTS.split())
_PLAIN = {"covariates", "data", "labels", "out", "root", "site"}  # text and paths
_WORD, _NAME = re.compile(r"[\w.+:/\-]*"), re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class TooLarge(ValueError):
    """What a folder tells of its pair takes more memory, or time, than a pair of its weights does."""


class Bounded(TorchDispatchMode):
    """Within it a pair is built of not many more numbers than its run has stored, and in not many more operations.

    Args:
        out: the folder of the run, for the message.
        stored: the weights.

    Raises:
        TooLarge: where a tensor is asked for that is too large, before it is made, and after too many operations.
    """

    def __init__(self, out: Path, stored: Iterable[Any]) -> None:
        super().__init__()
        sizes = [value.numel() for value in stored if isinstance(value, torch.Tensor)]
        self._out, self._held = out, sum(sizes)
        self._numbers, self._calls = 10_000_000 + 20 * self._held, 20_000 + 500 * len(sizes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls -= 1
        if func.overloadpacket.__name__ in _MAKING:
            self._numbers -= next((math.prod(arg) for arg in args if isinstance(arg, (list, tuple))), 0)
        if min(self._calls, self._numbers) < 0:
            raise TooLarge(
                f"the run {self._out} tells of a pair that is much larger than the weights that it has stored, which "
                f"are {self._held:,} numbers. It was not written by this library, or is damaged: get it anew from who "
                "made it."
            )
        return func(*args, **(kwargs or {}))


def configured(path: Path) -> dict[str, Any]:
    """The options of a configuration file, as they stand there; nothing is imported.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no mapping of options to values, is larger or nests deeper than any that is written here,
            or has anchors and aliases.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyro_vae import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "config.yaml")
    ...     written = path.write_text("{model: pyro_vae.models.ConvVAE, fit.epochs: 20}")
    ...     options = runs.configured(path)
    >>> options
    {'model': 'pyro_vae.models.ConvVAE', 'fit.epochs': 20}
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no configuration file {path}.")
    try:
        with path.open("rb") as file:
            held = file.read(_BYTES + 1)
    except OSError as error:
        raise type(error)(f"the configuration {path} cannot be read ({error.strerror}).") from error
    if len(held) > _BYTES:
        raise ValueError(f"the configuration {path} has more than {_BYTES:,} bytes, which no configuration has.")
    try:
        text = held.decode("utf-8")
        _check_structure(path, text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"the configuration {path} is no YAML mapping of options to values.") from error
    try:
        found = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date or a number that there is not
        raise ValueError(f"the configuration {path} is no YAML mapping of options to values.") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"the configuration {path} is no YAML mapping of options to values.")
    if "config" in found:
        raise ValueError(f"the configuration {path} names another one, config: {found['config']}. Give that one.")
    if "trust" in found:
        raise ValueError(f"the configuration {path} asks for trust, which only you can give: --trust.")
    return found


def _check_structure(path: Path, text: str) -> None:
    """Refuses, before anything is built of it, what grows when it is read."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"the configuration {path} has anchors or aliases (& and *). Write the values out.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEPTH:
            raise ValueError(
                f"the configuration {path} nests deeper than {_DEPTH} levels, which no configuration does."
            )


def check_named(
    path: Path, options: Mapping[str, Any], typed: Collection[str] = (), plain: Collection[str] = ()
) -> None:
    """Refuses a configuration that names what is not taken from a file; nothing of it is imported.

    Args:
        path: where it stands, for the message.
        options: as :func:`configured` gives them.
        typed: names that the user has typed besides.
        plain: further options that are text or a path.

    Raises:
        ValueError: which tells the name, and the way out.
    """
    folders = (Path(), path.parent)
    for place, text in _texts({name: value for name, value in options.items() if name not in {*_PLAIN, *plain}}):
        if not _WORD.fullmatch(text):  # which the parser might read as a nest of options
            raise ValueError(
                f"the configuration {path} has a text at {place} where a word was expected: {text[:60]!r}. Write what "
                "it means as YAML."
            )
        if place.startswith("model.") and any(_is_read(folder / text) for folder in folders):
            raise ValueError(  # the parser would take the class from there, and import it
                f"the configuration {path} names the file {text} at {place}, and no other file is read for one. Write "
                "what it holds in its place."
            )
        if _NAME.fullmatch(text) and text not in typed and _is_importable(text) and not is_known(text):
            raise Untrusted(path, text, place)


def check_built(path: Path, options: Any) -> None:
    """Refuses parsed options that would build what is not taken from a file: a short name has found another class.

    Raises:
        ValueError: which tells the name, and the way out.
    """
    for place, text in _texts(options):
        if place.rpartition(".")[2] == "class_path" and not is_known(text):
            raise Untrusted(path, text, place)


class Untrusted(ValueError):
    """A file names what would be run."""

    def __init__(self, path: Path, name: str, place: str) -> None:
        self._told = (path, name, place)
        if near := _misspelled(name):
            message = f"the configuration {path} names {name} at {place}, which is not there; the nearest are {near}."
            super().__init__(message)
            return
        super().__init__(
            f"the configuration {path} names {name} at {place}, and what a file names is run: only classes of "
            "pyro_vae, torch.nn and torch.optim, and losses of Pyro, are taken from one. If you know who wrote it, and "
            "what that is, add --trust (trust=True)."
        )

    def __reduce__(self) -> tuple[Any, ...]:  # as a process of a pool sends it
        return type(self), self._told


def _misspelled(name: str) -> str:
    """The names nearest to one that a room of the library, or torch.optim, does not have."""
    room, _, last = name.rpartition(".")
    module = sys.modules.get(room) if room == "pyro_vae" or f"{room}.".startswith((*_LIBRARY, "torch.optim.")) else None
    if module is None or hasattr(module, last):
        return ""
    kinds = [word for word, kind in vars(module).items() if isinstance(kind, type)]
    return ", ".join(f"{room}.{word}" for word in difflib.get_close_matches(last, kinds, n=3, cutoff=0.5))


def _is_read(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isdir(path)


def _is_importable(name: str) -> bool:
    """Whether a dotted name begins with that of a module; others name parts of a pair, ``likelihood.network``."""
    root = name.partition(".")[0]
    return root in sys.modules or importlib.util.find_spec(root) is not None


def is_known(name: str) -> bool:
    """Whether a dotted name is that of a class which may be taken from any file.

    >>> from pyro_vae import runs
    >>> runs.is_known("torch.nn.Linear"), runs.is_known("os.system")
    (True, False)
    """
    module_name, _, class_name = name.rpartition(".")
    if module_name != "pyro_vae" and not f"{module_name}.".startswith(
        (*_LIBRARY, "torch.nn.", "torch.optim.", "pyro.infer.")
    ):
        return False
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return False
    if not isinstance(found, type):
        return False
    if issubclass(found, ELBO):
        return f"{found.__module__}.".startswith(("pyro.infer.", *_LIBRARY))
    if issubclass(found, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)):
        return found.__module__.startswith("torch.optim.")
    return f"{found.__module__}.".startswith((*_LIBRARY, "torch.nn.modules."))


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a nest of values, with their places."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, (Mapping, Namespace)):
        for name, item in value.items():
            yield from _texts(item, f"{place}.{name}".removeprefix("."))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}[{index}]")
