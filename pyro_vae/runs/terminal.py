"""What is typed in a terminal, and how options, docstrings and messages read there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from pyro_vae._pyro import without_shapes
from pyro_vae.runs.explained import line_explained
from pyro_vae.runs.options import FIT_OPTIONS, PREPARED
from pyro_vae.runs.trust import configured

_TYPED = "|".join([*FIT_OPTIONS, *PREPARED, "start"])  # what is an argument in Python and an option here
_OF_SEVERAL_WORDS = "|".join(name for name in _TYPED.split("|") if "_" in name)


def spelled(arguments: Sequence[str]) -> list[str]:
    """Arguments as the parser takes them: ``--num-samples`` is ``--num_samples``, and ``--trust`` alone is true."""
    found = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, equals, value = argument.partition("=")
        if argument == "--trust" and following not in ("true", "false"):
            argument = "--trust=true"
        elif argument.startswith("--"):
            argument = "--" + name[2:].replace("-", "_") + equals + value
        found.append(argument)
    return found


def given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values, as ``--option value`` or ``--option=value``; other words are among them."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = argument.partition("=")
        yield option, value if equals else following


def placed(message: str, arguments: Sequence[str]) -> str:
    """A message that begins with the name of an argument, with the option, or the file, that gave it."""
    begun: Any = re.match(r"(\w+)(?:=\S+)? (?:has|have|is|needs|was|must|cannot)\b", message)
    for option, value in reversed(list(given(arguments))) if begun else ():
        if option.startswith("--") and option.lstrip("-").rpartition(".")[2] == begun[1]:
            return _dashed(option) + message[len(begun[1]) :].replace("=", " ", begun[0].count("="))
        if option == "--config" and Path(value).is_file() and begun[1] in configured(Path(value)):
            return f"the configuration {value}: {message}"
    return message


def as_typed(message: str) -> str:
    """A message with options as they are typed in a terminal in the place of Python's arguments."""
    again = r"checkpoint in \1; go on with `pyro-vae train --config \1/config.yaml --resume true`"
    message = re.sub(r"checkpoint in (.+); go on with resume=True", again, message)
    message = re.sub(rf"\bfit\((?:\.\.\., )?({_TYPED})=(\w+)\)", r"--\1 \2", message)
    message = re.sub(rf"(?<![\w(.-])(?<!, )({_TYPED})=(?=[ ,.;])", r"--\1", message)
    for value, typed in (("True", "true"), ("False", "false"), (r"'(\w+)'", r"\2")):
        message = re.sub(rf"(?<![\w(.-])(?<!, )({_TYPED})={value}(?!\w)", rf"--\1 {typed}", message)
    message = re.sub(rf"(?<![\w.\-('])({_OF_SEVERAL_WORDS})(?![\w=(\[])", r"--\1", message)
    return _dashed(message)


def _dashed(text: str) -> str:
    return re.sub(r"(?<![\w-])--\w+", lambda found: found[0].replace("_", "-"), text)


def plain(text: str) -> str:
    """Without the marks of reStructuredText, and with options as they are typed."""
    text = re.sub(r":mod:`([^`]*)`", r"\1", text)
    text = re.sub(r":\w+:`~?([^`]*)`", lambda match: match[1].rpartition(".")[2], text).replace("``", "")
    return _dashed(text)


class Parser(ArgumentParser):
    """Shows docstrings as they read in a terminal, and errors as one sentence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.folder = Path.cwd()  # jsonargparse reads a file of options in the folder of that file

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        # jsonargparse reads --a.b.c=null, and hands it to the parser of b as --c=None.
        words = None if args is None else [re.sub(r"^(--[\w.]+)=None$", r"\1=null", word) for word in args]
        try:
            return super().parse_args(words, *more, **options)
        except (ValueError, TypeError, OSError):
            raise
        except Exception as error:  # of a file that is imported
            self.error(str(error), error)

    def format_help(self, *arguments: Any, **options: Any) -> str:
        text = plain(super().format_help(*arguments, **options))
        text = re.sub(r",\s+known\s+subclasses:[^)]*\btorch\.ao\.[^)]*\)", ")", text)  # all modules of torch
        return re.sub(r"\n*Linked arguments:\n(?: .*\n?)*", "\n", text)  # which no one can give

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        said = _dashed(line_explained(self, self.args, message, self.folder)) or f"{sentence(message).rstrip('.')}."
        raise ValueError(f"{said} `{self.prog} --help` tells the options.") from ex


_AROUND = re.compile(  # what jsonargparse says around a reason
    r"""Parser\ key\ "[\w.]+": | Does\ not\ validate\ against.* | Subtypes:\ \[.* | Errors:$ | Given\ value\ type:.*
    | Subclass\ types\ expect\ one\ of:(?:\n\ +-\ .*)+ | Type\ .*?\ expects\ a\ function\ or\ a\ callable\ class:
    | -\ Expected\ a\ (?:<class\ 'NoneType'>|path\ but\ .*) | (?:\.\ Got|^\ *Given)\ value:\ Namespace\(.*""",
    re.VERBOSE | re.MULTILINE,
)


def sentence(message: str) -> str:
    """A message without what the parser and Pyro lay around it: the classes of a union, the shapes of a trace."""
    message = re.sub(r"Call to compute_fn of link .* with args \(.*\) failed: ", "", without_shapes(message))
    keys = re.findall(r'Parser key "([\w.]+)":', message)
    if not keys and "Union subtypes" not in message:
        return message
    lines = [line.strip() for line in _AROUND.sub("", message).splitlines() if line.strip()]
    if any(re.match("- (?!Expected )", line) for line in lines):  # the reason of the class that was meant
        lines = [line for line in lines if not line.startswith("- Expected ")]
    text = "; ".join(dict.fromkeys(" ".join(line.removeprefix("- ").split()) for line in lines)).replace(":; ", ": ")
    for pattern, words in (
        (r"Problem with given class_path '([^']+)'", r"\1"),
        (r"Expected a dot import path string: [^;]+", "expected the dotted name of a class"),
        (r"Expected a <class '(?:\w+\.)*(\w+)'>", r"expected \1"),
        (
            r"Expected '([\w.]+)' to be a function that returns <class '(?:\w+\.)*(\w+)'>\.?",
            r"\1 does not say what it returns: annotate it, def function(...) -> \2",
        ),
        (r"Expected a typing.Literal\[(.*?)\]", r"expected one of \1"),
        (r"\. Got value: |; Given value: ", "; got "),
    ):
        text = re.sub(pattern, words, text)
    return plain(f"--{'.'.join(keys)}: " if keys else "") + text
