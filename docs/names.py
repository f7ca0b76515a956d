"""How names and papers in docstrings become links.

A docstring names a class as its own module knows it (``:class:`SGVB_A```), and a paper by authors and year in its
``Source:`` paragraph. Both read well in a terminal; here the first finds the page on which the object is documented,
and the second the entry of ``references.bib``. A name that nothing has, and a paper without an entry, is a warning.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature

log = logging.getLogger(__name__)
ROOT = "pyro_vae"

# Objects


def imported(dotted: str) -> Any:
    """The object of a dotted name, or ``None``."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except Exception:
            continue
        for name in parts[cut:]:
            found = member(found, name)
            if found is None:
                return None
        return found
    return None


def member(owner: Any, name: str) -> Any:
    """What has the name; of an attribute that only instances have, the class's word for it."""
    if inspect.ismodule(owner):
        return getattr(owner, name, None)  # some are imported when they are asked for
    found = inspect.getattr_static(owner, name, None)
    if found is None and inspect.isclass(owner):
        told = any(name in vars(base).get("__annotations__", {}) for base in owner.__mro__)
        if told or re.search(rf"\bself\.{name}\b", inspect.getsource(owner)):
            return f"{owner.__qualname__}.{name}"
    return found


def named_in(found: Any) -> Any:
    """Of a module that is named as what it is for, such as ``pyro_vae.check``, that."""
    return getattr(found, found.__name__.split(".")[-1], found) if inspect.ismodule(found) else found


def meant(target: str, module: str | None, owner: str | None, kind: str = "") -> Any:
    """What a name in a docstring of ``module.owner`` means there; a module where that is asked for, and no function."""
    found = _meant(target, module, owner)
    return found if kind == "mod" else named_in(found)


def _meant(target: str, module: str | None, owner: str | None) -> Any:
    scopes = []
    if module:
        context = imported(f"{module}.{owner}") if owner else None
        home = getattr(inspect.unwrap(context) if callable(context) else context, "__module__", None)
        scopes = [f"{module}.{owner}" if owner else None, home, module]
    for scope in filter(None, scopes):
        if (found := imported(f"{scope}.{target}")) is not None:
            return found
    if (found := imported(target)) is not None:
        return found
    rooms = [name for name in sorted(sys.modules) if name.split(".")[0] == ROOT]
    near = [name for name in rooms if module and name.startswith(module)]
    for name in (*near, *rooms):
        if (found := imported(f"{name}.{target}")) is not None:
            return found
    for name in ("typing", "collections.abc", "builtins", "torch", "torch.nn"):
        if (found := imported(f"{name}.{target}")) is not None:
            return found
    return None


def resolve(app, env, node, contnode):
    """A link to where the object is documented; the bare name of one that is not, such as torch's."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if re.fullmatch(r"[\d.\-\"']+|None|True|False|\.\.\.|Literal|optional", target):
        return contnode
    found = meant(target, node.get("py:module"), node.get("py:class"), node["reftype"])
    if found is None:
        return None
    domain = env.get_domain("py")
    name = documented(env).get(id(found)) or documented(env).get(id(getattr(found, "__func__", found)))
    if name is None and inspect.ismodule(found) and found.__name__ in domain.modules:
        entry = domain.modules[found.__name__]
        return reference(app, node, contnode, entry.docname, entry.node_id)
    if name is None:
        return nodes.literal("", contnode.astext()) if isinstance(contnode, nodes.literal) else contnode
    entry = domain.objects[name]
    return reference(app, node, contnode, entry.docname, entry.node_id)


def reference(app, node, contnode, page, anchor):
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], page, anchor, contnode)


@lru_cache(maxsize=1)
def documented(env) -> dict[int, str]:
    """The names under which objects have a page, by the objects' ids."""
    found: dict[int, str] = {}
    for name, entry in env.get_domain("py").objects.items():
        value = imported(name) if entry.objtype == "module" else named_in(imported(name))
        if not entry.aliased and value is not None and not isinstance(value, (int, str, float)):
            found.setdefault(id(value), name)
    return found


def check(app, env):
    """Warns of what is public and on no page."""
    import generate

    rooms = {name.split(".")[0] for name in generate.ROOMS}
    for path in Path(generate.pyro_vae.__file__).parent.glob("[a-z]*/__init__.py"):
        if path.parent.name not in rooms | {"sampling", "cli"}:  # whose files, and whose commands, have pages
            log.warning("ROOMS of docs/generate.py has no page of pyro_vae.%s", path.parent.name)
    for room in ("", *generate.ROOMS):
        module = importlib.import_module(f"{ROOT}.{room}".rstrip("."))
        for name in generate.public(module):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in documented(env):
                log.warning("%s.%s is public, and on no page", module.__name__, name)


# Papers

YEAR = re.compile(r"(?P<authors>[^;:()]*?)\s*(?:\((?P<year>(?:19|20)\d\d)\)|\b(?P<bare>(?:19|20)\d\d)\b)")
LAST = r"(?:van den |De )?[A-ZÀ-Ž][\w'-]*"
AUTHORS = re.compile(rf"{LAST}(?:(?:, | & | and ){LAST})*(?: et al\.)?,?$")
ENTRY = re.compile(r"@\w+\{(?P<key>[^,]+),(?P<body>.*?)\n\}", re.DOTALL)


def plain(text: str) -> str:
    """Letters without their accents, of TeX or Unicode, in lower case."""
    text = re.sub(r"\\[a-zA-Z]+\s*|\\[^a-zA-Z]|[{}]", "", text.replace(r"\o", "o").replace(r"\ae", "ae"))
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.replace("ø", "o").lower()


class Paper(NamedTuple):
    key: str
    title: str
    authors: int


@lru_cache
def papers() -> dict[tuple[str, str], list[Paper]]:
    """(first author's last name, year) -> entries of ``references.bib``."""
    found: dict[tuple[str, str], list[Paper]] = {}
    for entry in ENTRY.finditer((Path(__file__).parent / "references.bib").read_text(encoding="utf-8")):
        fields = dict(re.findall(r"\n\s*(\w+)\s*=\s*\{(.*?)\},?(?=\n|\Z)", entry["body"]))
        authors = fields["author"].split(" and ")
        paper = Paper(entry["key"], plain(fields["title"]), len(authors))
        found.setdefault((plain(authors[0].split(",")[0]), fields["year"]), []).append(paper)
    return found


def cited(source: str, where: str) -> str:
    """A ``Source:`` paragraph with its papers as citations."""

    def cite(match: re.Match[str]) -> str:
        authors, year = match["authors"], match["year"] or match["bare"]
        start = AUTHORS.search(authors)
        if start is None:
            return match[0]
        lead, authors = authors[: start.start()], start[0]
        first, *others = re.split(r", | & | and ", authors)
        known = papers().get((plain(first.removesuffix(" et al.")), year), [])
        if len(known) > 1 and "et al." not in authors:  # by how many wrote it
            known = [paper for paper in known if paper.authors == 1 + len(others)] or known
        if not known:
            log.warning("%s: references.bib has no entry of %s (%s)", where, authors, year)
            return match[0]
        rest = plain(source[match.end() :])[:80]
        keys = [paper.key for paper in known if paper.title[:12] in rest] or [known[0].key]
        return f"{lead}:cite:t:`{keys[0]}`"

    return YEAR.sub(cite, source)


def given_to_base(kind: type) -> list[str]:
    """The arguments in the docstring of the base of a family, whose classes say only what is their own."""
    for base in kind.__mro__[1:]:
        told = inspect.cleandoc(base.__doc__ or "")
        if told.startswith("Base of") and (
            found := re.search(r"^Args:\n.*?(?=\n\n|\Z)", told, re.DOTALL | re.MULTILINE)
        ):
            return ["", *found[0].splitlines(), ""]
    return []


def process(app, what, name, obj, options, lines):
    """Joins a ``Source:`` paragraph, and turns its papers into citations; a base may tell what a class is given."""
    if what == "class" and not any(line.startswith("Args:") for line in lines):
        lines += given_to_base(obj)
    if what in ("property", "attribute", "data"):
        lines[:0] = ["..", ""]  # or napoleon takes a sentence up to its colon for a type
    # A number that is called K is no item of a list.
    lines[:] = [re.sub(r"^( +[\w*, ]+: )(?=[A-Za-z]\.(?: |$))", r"\1\\", line) for line in lines]
    start = next((i for i, line in enumerate(lines) if line.lstrip().startswith("Source:")), None)
    if start is None:
        return
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].strip()), len(lines))
    text = " ".join(line.strip() for line in lines[start:end]).removeprefix("Source:").strip()
    lines[start:end] = [f"**Source:** {cited(text, name)}", ""]


def signature(app, what, name, obj, options, given, returned):
    """A class is made by its ``__init__``, whatever ``__new__`` notes of that."""
    if what != "class" or "__init__" not in {word for base in obj.__mro__[:-1] for word in vars(base)}:
        return None
    try:
        made = inspect.signature(obj.__init__)
    except (TypeError, ValueError):
        return None
    own = made.replace(parameters=list(made.parameters.values())[1:], return_annotation=made.empty)
    text = stringify_signature(own, unqualified_typehints=True)
    return re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text), None


def setup(app):
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", resolve, priority=900)
    app.connect("env-check-consistency", check)
    app.connect("autodoc-process-docstring", process, priority=100)
