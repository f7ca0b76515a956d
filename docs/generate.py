"""Writes the pages that are made of the code, of its results and of the notebooks.

``docs/tutorials``, ``docs/catalogue``, ``docs/reference`` and ``docs/results`` are written anew by each build, and are
not in the repository. What is written here is lists and titles: the words stand in the docstrings, in
``experiments/README.md`` and in the notebooks.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import parts

import pyro_vae
from pyro_vae import applications, cli, models
from pyro_vae.estimators import ESTIMATORS, Facts

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def version() -> str:
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


# The command by which a system is trained, and the experiments that measure it, by their sections.


@dataclass(frozen=True)
class Known:
    """What the code of a system does not say of itself."""

    options: str = ""  # of pyro-vae train, behind --model NAME; none where its class cannot be made by the command line
    experiments: tuple[str, ...] = ()  # sections of experiments/README.md
    label: str = ""  # how their tables call it
    python_only: str = ""  # why not by the command line


SYSTEMS: dict[str, Known] = {
    "MLPVAE": Known("--data mnist", ("defaults", "lower-bound", "flows", "priors", "beta", "sigma")),
    "ConvVAE": Known("--data mnist", ("nvae", "priors"), "ConvVAE"),
    "VampVAE": Known("--data mnist", ("priors",)),
    "VariationalGP": Known("--data mnist"),
    "Autoencoder": Known("--data mnist --model.latent_dim 10", ("autoencoder",)),
    "SemiSupervisedVAE": Known(experiments=("applications",), python_only="`pyro-vae apply labels` trains it"),
    "FullBayes": Known("--model.pair pyro_vae.models.MLPVAE --model.noise flipout --data mnist", ("full-bayes",)),
    "HierarchicalVAE": Known("--data mnist", ("hierarchies",)),
    "LadderVAE": Known(
        "--model.latent_dims '[16, 8, 4]' --model.hidden '[200, 100, 50]'", ("hierarchies",), "ladder, L = 5"
    ),
    "ConvLadderVAE": Known("--data mnist", ("hierarchies", "speed-of-a-ladder")),
    "NVAE": Known("--data mnist", ("nvae",), "NVAE"),
    "VQVAE": Known("--data mnist", ("vq-vae",), "codes, uniform prior"),
    "CodePrior": Known("--first runs/mnist-1 --data mnist", ("vq-vae",), "codes, PixelCNN prior"),
    "ConditionalVAE": Known("--data mnist", ("conditional-vae",)),
    "ProbabilisticUNet": Known("--model.num_classes 3 --data ambiguous-digits", ("segmentation",)),
    "IncompleteVAE": Known(
        "--data table.csv --estimator pyro_vae.IWAE --estimator.num_particles 20", ("missing-values",)
    ),
    "DeepMarkovModel": Known("--data sequences.npy", ("sequences",), "deep Markov model"),
    "GRUVAE": Known("--data sequences.npy", ("sequences",), "GRU-VAE"),
    "LabeledVAE": Known("--data mnist", ("modalities",)),
    "MultimodalVAE": Known(experiments=("modalities",), python_only="its modalities are made in Python"),
}

# The rooms in the order of the reference, with what each holds.
ROOMS: dict[str, str] = {
    "pair": "What a pair is",
    "pair.pair": "What a class of your own has to have",
    "pair.protocols": "What a pair or part may have besides",
    "check": "What is wrong with a pair, in sentences",
    "vae": "The pair of one latent",
    "hierarchy": "Pairs of several latents",
    "priors": "p(z)",
    "posteriors": "q(z | x)",
    "likelihoods": "p(x | z)",
    "transforms": "Steps of normalizing flows",
    "distributions": "What Pyro does not ship",
    "networks": "Tensor to tensor",
    "models": "Parts of the systems",
    "models.chain": "The chain of latents of the hierarchies",
    "models.multimodal": "Several kinds of data",
    "bayesian": "Random weights",
    "bayesian.priors": "p(theta)",
    "bayesian.posteriors": "q(theta)",
    "estimators": "Bounds, gradients, penalties",
    "training": "fit, schedules, priors of the weights",
    "compiled": "Programs as graphs",
    "frozen": "The Python values of which a graph has made constants",
    "evidence": "log p(x)",
    "sampling.hamiltonian": "Hamiltonian Monte Carlo",
    "sampling.joint": "The joint density that chains move over",
    "sampling.chains": "Chains over chunks of data",
    "conditioning": "Conditional draws and missing values",
    "diagnostics": "What a pair does with data",
    "data": "Data by name or from files",
    "batches": "Batches of any structure",
    "pair.arguments": "How data become arguments of programs",
    "plotting": "Arrays to figures",
    "figures": "The figures of a run",
    "applications": "What a VAE is for",
    "applications.anomaly": "Anomalies",
    "applications.restoration": "Restoration",
    "applications.imputation": "Missing values of a run",
    "applications.reduction": "Dimensionality reduction",
    "applications.labels": "Semi-supervised classification",
    "applications.segment": "Ambiguous segmentation",
    "runs": "The folder of a run",
    "runs.options": "Options of the command line",
    "runs.trust": "What is taken from a file",
    "choices": "What the command line leaves to the data",
    "testing": "The laws of parts of your own",
    "testing.examples": "Pairs whose log p(x) is known",
}


def write(docs: Path) -> None:
    """All of them; a page that is as it was keeps its time, so that it is not built again."""
    os.environ["COLUMNS"] = "88"  # of the help of commands
    pages = dict(
        (name, text) for kind in (tutorials, catalogue, reference, command_line, results) for name, text in kind()
    )
    for folder in ("tutorials", "catalogue", "reference", "results"):
        for old in (docs / folder).rglob("*"):
            if old.is_file() and str(old.relative_to(docs)) not in pages:
                old.unlink()
    for name, text in pages.items():
        path = docs / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


Pages = Iterator[tuple[str, str]]


def tutorials() -> Pages:
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8")
        yield f"tutorials/{notebook.name}", text.replace("](../docs/", "](../")  # links from their folder


# reStructuredText, in which the docstrings are written


def title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}\n\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto") -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [header, *rows]:
        for index, cell in enumerate(row):
            text = " ".join(cell.split()) if cell != "-" else "\\-"  # which is no list
            lines.append(f"   {'* -' if index == 0 else '  -'} {text}".rstrip())
    return "\n".join(lines) + "\n\n"


def contents(pages: Iterable[str], hidden: bool = True) -> str:
    lines = [".. toctree::", "   :hidden:" if hidden else "   :maxdepth: 1", "", *(f"   {page}" for page in pages)]
    return "\n".join(lines) + "\n\n"


def code(text: str, language: str = "console") -> str:
    return f".. code-block:: {language}\n\n" + "\n".join(f"   {line}" for line in text.splitlines()) + "\n\n"


def escaped(text: str) -> str:
    """Words as they are, which are no markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


def first_sentence(value: Any) -> str:
    """The first paragraph of a docstring up to its first full stop, which is markup as it stands."""
    paragraph = " ".join(inspect.cleandoc(value.__doc__ or "").partition("\n\n")[0].split())
    paragraph = re.sub(
        r":(?:meth|attr):`~?(?:[\w.]+\.)?(\w+)`", r"``\1``", paragraph
    )  # of the class, which is elsewhere
    return re.split(r"(?<=[a-z)`\]])\. (?=[A-Z])", paragraph, maxsplit=1)[0].rstrip(":")


def source_paragraph(value: Any) -> str:
    """What a docstring says after ``Source:``, on one line."""
    found = re.search(r"^Source: (.*?)(?:\n\n|\Z)", inspect.cleandoc(value.__doc__ or ""), re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def source(value: Any, where: str) -> str:
    """The ``Source:`` paragraph of a docstring, as citations."""
    import names

    said = source_paragraph(value)
    return names.cited(said, where) if said else ""


def inherited_source(kind: type, where: str) -> str:
    return next((said for base in kind.__mro__ if (said := source(base, where))), "")


def public(module: ModuleType) -> list[str]:
    """The names of a room, in the order in which its pages tell them."""
    given = getattr(module, "__all__", None)
    if given is not None:
        return list(given)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


# The catalogue


def catalogue() -> Pages:
    yield from estimator_pages()
    yield from system_pages()
    for room in parts.ROOMS:
        yield from part_pages(room)


def estimator_pages() -> Pages:
    columns = [field.name for field in fields(Facts) if field.name != "source"]
    rows, pages = [], []
    for kind in ESTIMATORS:
        name, facts = kind.__name__, kind.example().facts
        pages.append(f"estimators/{name}")
        rows.append([f":doc:`{name} <estimators/{name}>`", *(escaped(getattr(facts, column)) for column in columns)])
        heads = {
            "bounds": "Its value bounds",
            "gradient": "Its gradient is",
            "sites": "Latents",
            "cost": "Evaluations",
        }
        told = [[heads[column], escaped(getattr(facts, column))] for column in columns]
        told.append(["Source", source(kind, name) or inherited_source(kind, name)])
        page = title(name) + table(["", "what is known"], told, "25 75")
        page += code(parts.shown("estimators", name), "python")
        page += code(f"pyro-vae train --estimator pyro_vae.{name}{typed(kind)}")
        yield f"catalogue/estimators/{name}.rst", page + documented("class", "estimators", name)
    text = title("Estimators")
    text += (
        "Each is a Pyro ELBO, ``pyro.infer.SVI(model, guide, optim, loss=pv.IWAE(5))``, and an argument of\n"
        ":func:`pyro_vae.fit`. ``estimator.bound(pair, x)`` is its value for each datum, in nats. K, L, M are\n"
        "numbers of samples. ``pyro-vae estimators`` prints this table. :doc:`../tutorials/estimators` compares them\n"
        "on one pair and says what to use when; :doc:`../explanation/objectives` says how they are made.\n\n"
    )
    text += table(["estimator", "its value bounds", "its gradient is", "latents", "evaluations"], rows)
    yield "catalogue/estimators.rst", text + contents(pages)


def typed(kind: type) -> str:
    """The options that an estimator cannot do without, as they are typed."""
    return "".join(f" --estimator.{name} {value}" for name, value in parts.needed(kind))


def system_pages() -> Pages:
    known_first = [name for name in SYSTEMS if name in models.__all__]
    order = [*known_first, *(name for name in models.__all__ if name not in SYSTEMS)]
    measured = measurements()
    rows = []
    for name in order:
        known = SYSTEMS.get(name, Known())
        kind = getattr(models, name)
        rows.append([f":doc:`{name} <systems/{name}>`", first_sentence(kind), source(kind, name)])
        page = title(name)
        if known.python_only:
            page += f"In Python; not by ``pyro-vae train``: {known.python_only.replace('`', '``')}.\n\n"
        else:
            page += code(f"pyro-vae train --model pyro_vae.models.{name} {known.options}".rstrip())
        page += documented("class", "models", name)
        page += title("Measured", "-")
        told = [
            [f"{escaped(row[0])} (:doc:`section <../../results/{slug}>`)", escaped(row[1]), escaped(row[2])]
            for slug in known.experiments
            for row in measured.get(slug, [])
        ]
        page += table(["experiment", "published", "ours"], told) if told else "By no experiment.\n\n"
        page += "".join(of_section(slug, known.label) for slug in known.experiments if known.label)
        yield f"catalogue/systems/{name}.rst", page
    text = title("Systems")
    text += (
        "Whole models, one file each. Every one is a pair: it trains by :func:`pyro_vae.fit` and by Pyro's ``SVI``,\n"
        "and ``evidence``, ``diagnostics`` and the figures take it. A page has the generative process, the paper, the\n"
        "command, and what we measured.\n\n"
        ".. py:currentmodule:: pyro_vae.models\n\n"
    )
    text += table(["system", "what it is", "source"], rows, "20 45 35")
    yield "catalogue/systems.rst", text + contents(f"systems/{name}" for name in order)


def of_section(slug: str, label: str) -> str:
    """The rows of a section's tables that have the label, and what is published beside them."""
    section = next(text for heading, text in sections() if anchor(heading) == slug)
    text = ""
    for block in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        cells = [line.replace("**", "").strip()[1:-1].split("|") for line in block.splitlines()]
        header, _, *rows = [[cell.strip() for cell in row] for row in cells]
        first = ""
        for row in rows:
            first = row[0] = row[0] or first
        found = [row for row in rows if label in row or any(cell.startswith("published") for cell in row)]
        if any(label in row for row in found):
            text += table([escaped(cell) for cell in header], [[escaped(cell) for cell in row] for row in found])
    return text


def part_pages(room: str) -> Pages:
    module = importlib.import_module(f"pyro_vae.{room}")
    whole = " ".join(inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].split())
    rows = []
    for name in parts.names(room):
        kind = getattr(module, name)
        rows.append([f":doc:`{name} <{room}/{name}>`", what_it_is(kind), inherited_source(kind, name)])
        page = title(name) + f".. py:currentmodule:: pyro_vae.{room}\n\n{whole} All: :doc:`../{room}`.\n\n"
        told = list(parts.facts(room, name))
        if not source(kind, name) and (said := inherited_source(kind, name)):
            told.append(("Source", said))
        page += table(["", "what is known"], told, "25 75") if told else ""
        page += code(parts.shown(room, name), "python")
        options = parts.command(room, name)
        page += code(f"pyro-vae train {options}") if options else ""
        yield f"catalogue/{room}/{name}.rst", page + documented("class", room, name)
    text = title(parts.ROOMS[room]) + f".. py:currentmodule:: pyro_vae.{room}\n\n{whole}\n\n"
    text += f"What parts are made of, and functions beside them: :doc:`reference <../reference/{room}>`.\n\n"
    text += table(["class", "what it is", "source"], rows, "20 50 30")
    yield f"catalogue/{room}.rst", text + contents(f"{room}/{name}" for name in parts.names(room))


def what_it_is(value: Any) -> str:
    """The first sentence of a docstring, with the first formula where the sentence has none."""
    sentence, text = first_sentence(value), inspect.cleandoc(value.__doc__ or "")
    if ":math:" in sentence or not (found := re.search(r"^\.\. math::(.*?)(?:\n\S|\n\n\S|\Z)", text, re.S | re.M)):
        return sentence
    formula = re.split(r",?\s*\\q?quad|\\\\$", " ".join(found[1].split()))[0].strip().rstrip(",")
    return f"{sentence.rstrip('.')}: :math:`{formula}`"


def documented(kind: str, room: str, name: str) -> str:
    return f".. auto{kind}:: pyro_vae.{room}.{name}\n   :members:\n\n"


# The reference


def reference() -> Pages:
    seen = {id(kind) for kind in ESTIMATORS} | {id(getattr(models, name)) for name in models.__all__}
    seen |= {id(parts.kind(room, name)) for room in parts.ROOMS for name in parts.names(room)}
    for room, what in ROOMS.items():
        module = importlib.import_module(f"pyro_vae.{room}")
        own = getattr(module, "__all__", None)
        names = public(module)
        again = [name for name in names if id(getattr(module, name)) in seen and not plain_value(getattr(module, name))]
        seen |= {id(getattr(module, name)) for name in names}
        text = title(f"pyro_vae.{room}") + f"*{escaped(what)}*\n\n"
        if len(names) > 4:
            text += f".. py:currentmodule:: pyro_vae.{room}\n\n{listed(module, names)}"
        text += f".. automodule:: pyro_vae.{room}\n   :members:\n"
        if own is not None:
            text += "   :undoc-members:\n" if room == "testing" else ""
        text += f"   :exclude-members: {', '.join(again)}\n" if again else ""
        text += "\n"
        lazy = [name for name in names if name not in vars(module)]  # imported when it is asked for
        text += "".join(documented("class", room, name) for name in lazy)
        if room in ("estimators", "models", *parts.ROOMS):
            page = "systems" if room == "models" else room
            text += f"Each of the {page} has a page of its own: :doc:`../catalogue/{page}`.\n"
        yield f"reference/{room}.rst", text
    rows = [[f":doc:`pyro_vae.{room} <{room}>`", escaped(what)] for room, what in ROOMS.items()]
    yield "reference/rooms.rst", title("All rooms") + table(["room", "what is in it"], rows) + contents(ROOMS)
    yield "reference/names.rst", top_level()


def listed(module: ModuleType, names: Iterable[str]) -> str:
    """What is on a page, a line each: functions first, then classes."""
    values = [(name, getattr(module, name)) for name in names]
    values = [(name, value) for name, value in values if inspect.isfunction(value) or inspect.isclass(value)]
    values.sort(key=lambda named: inspect.isclass(named[1]))
    role = {True: "class", False: "func"}
    rows = [[f":{role[inspect.isclass(value)]}:`{name}`", first_sentence(value)] for name, value in values]
    return table(["name", "what it is"], rows, "30 70") if rows else ""


def plain_value(value: Any) -> bool:
    return isinstance(value, (int, float, str, tuple, dict))


def top_level() -> str:
    """The names of ``import pyro_vae as pv``."""
    rows = []
    for name in sorted(pyro_vae.__all__, key=str.lower):
        value = getattr(pyro_vae, name)
        role = "mod" if inspect.ismodule(value) else "class" if inspect.isclass(value) else "func"
        target = value.__name__ if role == "mod" else f"pyro_vae.{name}"
        rows.append([f":{role}:`pv.{name} <{target}>`", first_sentence(value)])
    text = title("import pyro_vae as pv") + "What stands at the top; everything else is in its room.\n\n"
    return f"{text}.. py:currentmodule:: pyro_vae\n\n{table(['name', 'what it is'], rows, '30 70')}"


def command_line() -> Pages:
    def told(*words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
        return out.getvalue().replace(str(Path.home()), "~").replace(" \b", "")

    text = title("Command line")
    text += (
        "What each command says under ``--help``. Commands for common tasks: :doc:`../howto/command_line`. An option\n"
        "that takes a class takes its dotted name, and the arguments of the class behind a dot:\n"
        "``--model pyro_vae.models.ConvVAE --model.latent_dim 20``.\n\n"
    )
    text += code(told(), "text")
    for command in ("train", "evaluate", "plot", "estimators"):
        text += title(f"pyro-vae {command}", "-") + code(told(command), "text")
    text += title("pyro-vae apply", "-") + code(told("apply"), "text")
    for name in applications.names():
        text += title(f"pyro-vae apply {name}", "^") + code(told("apply", name), "text")
    yield "reference/command_line.rst", text


# The results, which are Markdown


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def measurements() -> dict[str, list[list[str]]]:
    """The rows of the table in ``docs/results.md``, by the section that they link."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    places = dict(re.findall(r"^\[(.+)\]: results/([\w-]+)\.md$", text, re.MULTILINE))
    rows: dict[str, list[list[str]]] = {}
    for row, label in re.findall(r"^\| (.*) \| \[([^\]]+)\] \|$", text, re.MULTILINE):
        rows.setdefault(places[label], []).append(row.split(" | "))
    return rows


def sections() -> list[tuple[str, str]]:
    """The sections of ``experiments/README.md`` with their headings; what stands before them has none."""
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    marks = [match.start() for match in re.finditer(r"^## ", text, re.MULTILINE)]
    marks = [mark for mark in marks if not any(f.start() < mark < f.end() for f in FENCE.finditer(text))]
    intro, *found = [text[start:end] for start, end in zip([0, *marks], [*marks, len(text)], strict=True)]
    return [("", intro), *((part.partition("\n")[0].removeprefix("## "), part.partition("\n")[2]) for part in found)]


def results() -> Pages:
    """Each section of ``experiments/README.md`` as a page with its figures."""
    (_, intro), *found = sections()
    slugs = {anchor(heading) for heading, _ in found}
    yield "results/experiments.md", links(intro.replace("# Experiments", "# The scripts", 1), slugs)
    for heading, body in found:
        figures = dict.fromkeys(re.findall(r"results/([\w.]+\.(?:png|gif))", body))
        shown = "".join(
            f"\n![{name}](../../experiments/results/{name})\n"
            for name in figures
            if (ROOT / "experiments" / "results" / name).is_file()
        )
        yield f"results/{anchor(heading)}.md", links(f"# {heading}\n{body.rstrip()}\n{shown}", slugs)


def links(text: str, slugs: set[str]) -> str:
    """Links from the folder of the experiments, as they are from ``docs/results``."""
    text = text.replace("](results/", "](../../experiments/results/")
    text = re.sub(r"\]\(\.\./docs/", "](../", text)
    return re.sub(r"\]\(#([\w-]+)\)", lambda m: f"]({m[1]}.md)" if m[1] in slugs else m[0], text)


if __name__ == "__main__":
    write(Path(__file__).resolve().parent)
    shutil.rmtree(Path(__file__).resolve().parent / "__pycache__", ignore_errors=True)
