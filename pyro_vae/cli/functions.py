"""Functions as commands, whose options are their parameters; pyro-vae apply."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyro_vae import applications, runs
from pyro_vae.runs.terminal import Parser, plain

TRUST: dict[str, Any] = {
    "type": bool,
    "default": False,
    "help": "import and call what a configuration file or a run folder names, whatever it is, and download its data: "
    "it is run, so know who wrote it",
}


def parser_of(name: str, function: Callable[..., Any], trained: bool = False) -> Parser:
    """The options of a function; if it takes a trained pair and its data, a run folder in the place of these."""
    about = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    parser = Parser(prog=f"pyro-vae {name}", description=plain(about))  # before lines are filled
    if trained:
        parser.add_argument("run", type=str, help="folder of the run")
        parser.add_argument("--trust", **TRUST)
    skip: set[str | int] = {"pair", "data"} if trained else set()
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skip)
    return parser


def run(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """A function as a command of its name."""
    function(**vars(parser_of(function.__name__, function).parse_args(list(arguments))))


def apply(arguments: Sequence[str]) -> None:
    """An application, or the list of them."""
    names = applications.names()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: pyro-vae apply NAME [options]\n\n{_listing(names)}\n\n{_APPLY_HELP}")
        return
    name, *rest = arguments
    if name not in names:
        near = runs.nearest(name, names)
        raise ValueError(f"there is no application {name!r}{near}. Applications: {', '.join(names)}.")
    function = applications.function(name)
    trained = takes_a_run(function)
    parser = parser_of(f"apply {name}", function, trained)
    options = vars(runs.instantiate(parser, parser.parse_args(rest)))
    if trained:
        run, trust = options.pop("run"), options.pop("trust")
        pair, data = runs.load(run, trust=trust).pair, runs.load_data(run, trust)
        out = options["out"] = options["out"] or run
        function(pair, data, **options)
    else:
        out = options["out"] = options["out"] or runs.free_folder(Path("runs"), name)
        function(**options)
    print(f"written: {out}")


_APPLY_HELP = """\
`pyro-vae apply NAME --help` tells the options of an application. RUN is the folder of a run of pyro-vae train, which
gets the results where no --out is given; the others take data, train themselves, and make a folder runs/NAME-1."""


def takes_a_run(function: Callable[..., Any]) -> bool:
    return list(inspect.signature(function).parameters)[:2] == ["pair", "data"]


def _listing(names: Sequence[str]) -> str:
    """One line for each application."""
    functions = {name: applications.function(name) for name in names}
    heads = {name: f"{name} RUN" if takes_a_run(function) else name for name, function in functions.items()}
    width = max(map(len, heads.values()), default=0)
    lines = [f"  {heads[name].ljust(width)}  {_first_line(function)}" for name, function in functions.items()]
    return "\n".join(["applications:", *lines])


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]
