"""What is wrong with a command line or a configuration file, in one sentence: the option, its value, what is expected.

The parser says that there is a fault; here it is looked for again, from the options' types, so that it can be told in
the words of who has typed it.
"""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import json
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from pyro_vae._recipes import public_name
from pyro_vae.runs.options import close, import_failure, nearest
from pyro_vae.runs.trust import configured

Options = Iterable[tuple[str, Any]]
_PLAIN = {  # types that are no classes of parts, and how values of them are called
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null", Path: "a path",
    os.PathLike: "a path", dict: "a mapping {name: value}",
}  # fmt: skip


class _Typed(str):
    """A value as it was typed, which the parser reads; those of a file have been read."""


def line_explained(parser: ArgumentParser, words: Sequence[str], message: str = "", folder: Path = Path()) -> str:
    """What is wrong with a command line; empty where that cannot be told.

    Args:
        parser: knows the options.
        words: what was typed behind the command.
        message: what the parser says, which is asked for what is missing.
        folder: in which it was typed.
    """
    places = [action for action in parser._actions if not action.option_strings]
    options, others, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or word == "--":
            others.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                action, rest = _action(parser, name)
                expected = f": {_expected(_hint(action))}" if action and not rest else ""
                return f"{word} needs a value{expected}." if action else _unknown(parser, word[2:], "--")
            value = left.pop(0)
        options.append((name, _Typed(value)))
    held: list[tuple[str, Any]] = []
    for name, value in options:
        if name == "config":
            found = configured(folder / value)
            if text := file_explained(parser, Path(value), found, message):
                return text
            held += found.items()
    if text := _fault(parser, [*held, *((name, value) for name, value in options if name != "config")], "--", message):
        return text
    if len(others) > len(places):
        word = others[len(places)]
        return f"there is no place for {_shown(_Typed(word))}: options are --NAME VALUE, and begin with two dashes."
    if len(others) < len(places):
        place = places[len(others)]
        return f"{place.dest.upper()} is missing, the {place.help}: {parser.prog} {place.dest.upper()}."
    return ""


def file_explained(parser: ArgumentParser, path: Path, options: Mapping[str, Any], message: str = "") -> str:
    """What is wrong with the options of a configuration file; empty where that cannot be told."""
    text = _fault(parser, options.items(), "", message)
    return f"the configuration {path}: {text}" if text else ""


def _fault(parser: ArgumentParser, options: Options, before: str, message: str, of: str = "") -> str:
    """The first fault of options, which stand ``before`` something; ``of`` the arguments of a class."""
    by_action: dict[str, tuple[Any, list[tuple[str, Any]]]] = {}
    for name, value in options:
        action, rest = _action(parser, name)
        if action is None:
            return _unknown(parser, name, before, of)
        by_action.setdefault(action.dest, (action, []))[1].append((rest, value))
    for name, (action, values) in by_action.items():
        if text := _fault_of(_hint(action), values, before + name, action.default, message):
            return text
    lacking = re.search("arguments? (?:is|are) required: ([\\w, ]+)", message)
    for name in lacking[1].split(", ") if lacking and of else []:
        action, _ = _action(parser, name)
        if action is not None and name not in by_action:
            return f"{before}{name} is missing, which {of} needs: {_expected(_hint(action))}."
    return ""


def _action(parser: ArgumentParser, name: str) -> tuple[Any, str]:
    """What takes an option, and the rest of a name that goes into the arguments of a class."""
    actions = {action.dest: action for action in parser._actions}
    head = name
    while head and head not in actions:
        head = head.rpartition(".")[0]
    return actions.get(head), name[len(head) + 1 :]


def _hint(action: Any) -> Any:
    return getattr(action, "_typehint", action.type)


def _unknown(parser: ArgumentParser, name: str, before: str, of: str = "") -> str:
    names = [a.dest for a in parser._actions if not a.dest.endswith("help") and a.dest not in ("print_config", "self")]
    near = nearest(name, names, before)
    if of:
        there = near or (f"; its arguments are {', '.join(names)}" if names else "; it takes none")
        return f"{before}{name}: {of} has no argument {name!r}{there}."
    return f"there is no option {before}{name}{near}."


def _fault_of(hint: Any, values: Sequence[tuple[str, Any]], place: str, default: Any, message: str) -> str:
    """What is wrong with the values of one option, and of what is below it."""
    kinds, simple = _kinds(hint)
    if not kinds:
        return _fault_of_values(hint, values, place, message)
    name = _class_path(default)
    arguments: list[tuple[str, Any]] = []
    for rest, value in values:
        if rest not in ("", "class_path"):
            arguments.append((re.sub(r"(^|\.)init_args\.", r"\1", rest), value))
            continue
        read = _read(value)
        if isinstance(read, (Mapping, Namespace)):
            held = dict(vars(read) if isinstance(read, Namespace) else read)
            others = [key for key in held if key not in ("class_path", "init_args", "dict_kwargs")]
            if others and "class_path" in held:
                return f"{place} holds {others[0]!r} beside class_path, where only init_args stands."
            name = held.get("class_path", name)
            inside = held.get("init_args", {}) if "class_path" in held or not others else held
            if not isinstance(name, str) or not isinstance(inside, (Mapping, NoneType)):
                return _refused(place, hint, value)
            arguments += (inside or {}).items()
        elif simple and _accepts(functools.reduce(operator.or_, simple), value):
            name = None
        elif isinstance(read, str) and re.fullmatch(r"[\w.]+", read):
            name = read
        else:
            return _refused(place, hint, value)
    if name is None:
        return f"{place}.{arguments[0][0]} is an argument of no class: give {place} CLASS, too." if arguments else ""
    found, text = _imported(name, kinds, place, hint)
    if text or found is None:
        return text
    inside = ArgumentParser(exit_on_error=False)
    if isinstance(found, type):
        inside.add_class_arguments(found, None, fail_untyped=False)
    else:
        inside.add_function_arguments(found, None, fail_untyped=False)
    return _fault(inside, arguments, f"{place}.", message, of=public_name(found))


def _fault_of_values(hint: Any, values: Sequence[tuple[str, Any]], place: str, message: str) -> str:
    """What is wrong with values of a type that is no class of parts."""
    of = next((member for member in _members(hint) if get_origin(member) is collections.abc.Mapping), None)
    for rest, value in values:
        if rest and of is None:
            return f"{place}.{rest} is no option: {place} is {_expected(hint)}, without arguments."
        read = {rest: value} if rest else _read(value)
        if of is not None and isinstance(read, Mapping):
            for key, item in read.items():
                if text := _fault_of(get_args(of)[1], [("", item)], f"{place}.{key}", None, message):
                    return text
        if not rest and not _accepts(hint, value):
            return _refused(place, hint, value)
    return ""


def _refused(place: str, hint: Any, value: Any) -> str:
    return f"{place} has to be {_expected(hint)}; got {_shown(value)}."


def _class_path(value: Any) -> Any:
    return value.get("class_path") if isinstance(value, (Mapping, Namespace)) else None


def _read(value: Any) -> Any:
    """What a typed value means as YAML; those of a file as they are."""
    if not isinstance(value, _Typed):
        return value
    try:
        return yaml.safe_load(value) if value[:1] in "{[" else str(value)
    except yaml.YAMLError:
        return str(value)


def _accepts(hint: Any, value: Any) -> bool:
    """Whether the parser takes a value for a type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        found = parser.parse_args([f"--value={value}"]) if isinstance(value, _Typed) else None
        found = parser.parse_object({"value": value}) if found is None else found
    except (ArgumentError, ValueError, TypeError):
        return False
    return found.value is not None or NoneType in _members(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kinds(hint: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """The classes that an option takes by name, directly or as what makes one, and its other types."""
    kinds: list[Any] = []
    simple: list[Any] = []
    for member in _members(hint):
        made = get_args(member)[-1] if get_origin(member) is collections.abc.Callable else member
        made = get_args(member)[0] if get_origin(member) is type else made
        if made is Any and made is not member:
            kinds.append(object)
        elif isinstance(made, type) and get_origin(made) is None and made not in _PLAIN:
            kinds.append(made)
        else:
            simple.append(member)
    return (tuple(kinds), simple) if str not in simple else ((), simple)


def _expected(hint: Any) -> str:
    """What an option takes, in words."""
    choices = [choice for member in _members(hint) if get_origin(member) is Literal for choice in get_args(member)]
    words = [f"one of {', '.join(map(str, choices))}"] if choices else []
    for member in _members(hint):
        origin, of = get_origin(member), get_args(member)
        if member in _PLAIN or origin in _PLAIN:
            words.append(_PLAIN[member if member in _PLAIN else origin])
        elif origin is collections.abc.Mapping:
            words.append(f"a mapping {{NAME: ...}}, for each name {_expected(of[1])}")
        elif origin in (list, tuple, collections.abc.Sequence):
            inner = f", each {_expected(of[0])}" if of else ""
            words.append(f"a list [...]{inner}")
    kinds, _ = _kinds(hint)
    if named := [kind for kind in kinds if kind is not object and kind.__name__ != "Tensor"]:
        some = [
            public_name(kind) for kind in _below(named) if public_name(kind).startswith(("pyro_vae.", "torch.optim."))
        ]
        more = f", such as {' or '.join(some[:2])}" if some else ""
        words.append(f"the dotted name of a class of {' or '.join(kind.__name__ for kind in named)}{more}")
    words = sorted(dict.fromkeys(words), key=lambda word: word == "null")
    if "a whole number" in words and "a number" in words:
        words.remove("a whole number")
    return ", or ".join(words) or "a value"


def _below(kinds: Iterable[type]) -> list[type]:
    """The classes of some kinds that can be made, those with short paths first."""
    found: dict[type, None] = {}
    left = list(kinds)
    while left:
        kind = left.pop()
        if kind not in found and kind is not object:
            found[kind] = None
            left += type.__subclasses__(kind)
    made = [kind for kind in found if not inspect.isabstract(kind) and not kind.__name__.startswith("_")]
    return sorted(made, key=lambda kind: (public_name(kind).count("."), public_name(kind)))


def _imported(name: str, kinds: tuple[Any, ...], place: str, hint: Any) -> tuple[Any, str]:
    """What a dotted name names, and what is wrong with it."""
    below = _below(kinds)
    if "." not in name:
        by_name = {kind.__name__: kind for kind in reversed(below)}
        if name in by_name:
            return by_name[name], ""
        near = _near([public_name(by_name[word]) for word in close(name, by_name)])
        return None, f"{place} has to be {_expected(hint)}; got {name}{near}."
    room, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(room)
    except Exception as error:  # also of what the file does
        return (
            None,
            f"{place}: the module of {name} cannot be imported ({import_failure(error)}). Give {_expected(hint)}.",
        )
    if not hasattr(module, last):
        here = {key: f"{room}.{key}" for key, value in vars(module).items() if _fits(value, kinds)}
        known = {kind.__name__: public_name(kind) for kind in reversed(below)}
        paths = [here[word] for word in close(last, here)] or [known[word] for word in close(last, known)]
        meant = _near(paths) or f"; expected is {_expected(hint)}"
        return None, f"{place}: {name} is not there: {room} has no {last!r}{meant}."
    found = getattr(module, last)
    makes = not isinstance(found, type) and any(get_origin(m) is collections.abc.Callable for m in _members(hint))
    if not (_fits(found, kinds) or (makes and callable(found))):
        what = "a class" if isinstance(found, type) else "a function" if callable(found) else f"{_shown(found)}"
        return None, f"{place} has to be {_expected(hint)}; got {name}, which is {what}."
    if makes and object not in kinds and not isinstance(_returned(found), type):
        some = " or ".join(kind.__name__ for kind in kinds)
        return None, f"{place}: {name} does not say what it returns: annotate it, def function(...) -> {some}."
    return found, ""


def _returned(function: Any) -> Any:
    try:
        return get_type_hints(function).get("return")
    except (TypeError, NameError):  # of a builtin, or a name for type checkers
        return None


def _near(paths: Sequence[str]) -> str:
    return f"; the nearest are {', '.join(paths)}" if paths else ""


def _fits(value: Any, kinds: tuple[Any, ...]) -> bool:
    return isinstance(value, type) and issubclass(value, tuple(k for k in kinds if k is not object) or kinds)


def _shown(value: Any) -> str:
    """A value as it was typed, or as a file holds it."""
    if isinstance(value, _Typed):
        text = str(value) if value.strip() and value.isprintable() and " " not in value else repr(str(value))
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
