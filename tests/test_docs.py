"""The pages of the site: their Python runs as it stands, their commands are such, and the rooms that they name exist.

``sphinx-build -W -n docs docs/_build`` looks at the rest: links, names, papers, formulas.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import applications, cli, runs
from pyro_vae.cli.functions import parser_of, takes_a_run
from pyro_vae.runs.terminal import Parser, spelled

PACKAGE = Path(pyro_vae.__file__).parent
DOCS = PACKAGE.parent / "docs"
MADE = ("_build", "tutorials", "catalogue", "reference", "results")  # by docs/generate.py
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.relative_to(DOCS).parts[0] not in MADE]
NAMES = [str(path.relative_to(DOCS)) for path in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


OF_PYTHON = [(name, page) for name, page in zip(NAMES, PAGES, strict=True) if blocks(page, "python")]
OF_LAWS = [(name, page) for name, page in OF_PYTHON if "class Test" in page.read_text(encoding="utf-8")]
OF_COMMANDS = [(name, page) for name, page in zip(NAMES, PAGES, strict=True) if blocks(page, "console")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "page"), OF_PYTHON, ids=[name for name, _ in OF_PYTHON])
def test_the_python_of_a_page_runs_in_order(name, page, monkeypatch, tmp_path):
    """As it stands, each page by itself, in an empty folder; but that what asks for no epochs gets one."""
    fit = pyro_vae.fit
    monkeypatch.setattr(pyro_vae, "fit", lambda pair, data, **more: fit(pair, data, **{"epochs": 1, **more}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, name, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "page"), OF_LAWS, ids=[name for name, _ in OF_LAWS])
def test_the_laws_of_a_page_hold(name, page, tmp_path):
    """The page as a test file."""
    (tmp_path / "test_page.py").write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout


MY_FILE = """
import pyro_vae as pv

class MyPair(pv.models.MLPVAE): pass
class Masked(pv.models.IncompleteVAE): pass
class CVAE(pv.models.ConditionalVAE): pass
"""


@pytest.mark.parametrize(("name", "page"), OF_COMMANDS, ids=[name for name, _ in OF_COMMANDS])
def test_the_commands_of_a_page_are_such(name, page, monkeypatch, tmp_path):
    """Each line is taken by the parser of its command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_file.py").write_text(MY_FILE)
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    assert lines
    for line in lines:
        command, *words = spelled(shlex.split(line.split("-m pyro_vae ")[-1].removeprefix("pyro-vae ")))
        if "--config" not in words:  # which is to be there
            parse(command, words)


def test_the_commands_of_the_catalogue_are_such(monkeypatch):
    """Each system that the command line makes is named in one that its parser takes."""
    systems = of_docs("generate", monkeypatch).SYSTEMS
    assert len(systems) > 15
    for name, known in systems.items():
        if not known.python_only and "--first" not in known.options:  # a run that is to be there
            parse("train", spelled(["--model", f"pyro_vae.models.{name}", *shlex.split(known.options)]))


def of_docs(name, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module(name)


@pytest.mark.parametrize("room", ["priors", "posteriors", "likelihoods", "transforms", "networks", "distributions"])
def test_every_part_has_a_page_whose_example_runs(room, monkeypatch):
    """With what it is given and gives; its command is one that the parser takes."""
    parts = of_docs("parts", monkeypatch)
    assert room in parts.ROOMS
    assert len(parts.names(room)) > 8
    for name in parts.names(room):
        assert "torch.Size" in parts.shown(room, name), name
        assert list(parts.facts(room, name)) or room in ("transforms", "networks"), name
        if options := parts.command(room, name):
            parse("train", spelled(shlex.split(options)))


def test_every_estimator_has_an_example_that_runs(monkeypatch):
    parts = of_docs("parts", monkeypatch)
    for kind in pyro_vae.estimators.ESTIMATORS:
        assert "torch.Size([5])" in parts.shown("estimators", kind.__name__), kind


# What has no formula but its shapes, and what is nobody's in particular.
NO_FORMULA = {"ConvDecoder", "Convolutional", "Joined", "Numbers", "OneHot", "ResidualDecoder", "Rows"}
NO_SOURCE = {
    *("Classes", "ClassNumber", "Laplace", "Poisson", "NegativeBinomial", "MultivariateNormal", "Permutation"),
    *("ConvDecoder", "Convolutional", "Joined", "Numbers", "OneHot", "Rows", "Uniform"),
}
ARGUMENTS_ELSEWHERE = {"HierarchicalVAE", "LadderVAE"}  # of which their docstrings say where


def test_docstrings_say_the_formula_the_arguments_and_the_source(monkeypatch):
    """Of each part, estimator and system, or of the base of its family."""
    parts, generate = of_docs("parts", monkeypatch), of_docs("generate", monkeypatch)
    kinds = [parts.kind(room, name) for room in parts.ROOMS for name in parts.names(room)]
    kinds += [*pyro_vae.estimators.ESTIMATORS, *(getattr(pyro_vae.models, name) for name in pyro_vae.models.__all__)]
    lacking = []
    for kind in kinds:
        bases = [base.__doc__ or "" for base in kind.__mro__ if base.__module__.startswith("pyro_vae")]
        told = "".join([bases[0], *(doc for doc in bases[1:] if doc.startswith("Base of"))])
        has = {
            "formula": "math:" in told or kind.__name__ in NO_FORMULA,
            "arguments": "Args:" in told or kind.__name__ in ARGUMENTS_ELSEWHERE,
            "source": any(generate.source_paragraph(base) for base in kind.__mro__) or kind.__name__ in NO_SOURCE,
        }
        lacking += [f"{kind.__module__}.{kind.__name__}: {what}" for what, there in has.items() if not there]
    assert len(kinds) > 130
    assert not lacking, "\n".join(lacking)


NO_EXAMPLE = {  # public functions, by the reason why their docstrings have none
    "an application: its page of the reference is what it says under --help, with a command": (
        "applications.anomaly.anomaly applications.imputation.impute applications.labels.labels "
        "applications.reduction.reduce applications.restoration.application.restore applications.segment.segment"
    ),
    "a part of an application, of its data and its tables": (
        "applications.anomaly.classes applications.anomaly.perturbed applications.anomaly.without "
        "applications.labels.analogies applications.labels.by_class applications.labels.classified "
        "applications.restoration.inference.infer applications.segment.annotated applications.segment.draw_maps "
        "applications.segment.figure_of applications.segment.scores applications.segment.told"
    ),
    "of the command line, which is its example: it reads the parser and what was typed": (
        "choices.chosen choices.data_for figures.draw runs.folder.load_data runs.options.add_options "
        "runs.options.build runs.options.build_pair runs.options.check_untyped runs.options.data_of "
        "runs.options.import_failure runs.options.instantiate runs.options.written runs.trust.check_built "
        "runs.trust.check_named"
    ),
    "a refusal, which parts and programs of the library share": (
        "networks.shapes.check_fits networks.shapes.check_input networks.shapes.check_output vae.distribution_of"
    ),
    "as the function beside it, which has one": (
        "bayesian.random.sample_posterior check.report_on pair.arguments.batch_by_batch pair.arguments.batch_of "
        "pair.arguments.converted"
    ),
    "what evidence and compiled graphs are made of": "batches.packed_sizes sampling.chains.over_chunks",
}


def test_every_public_function_has_an_example_or_a_reason(monkeypatch):
    """Of every room of the reference; tests/test_docstrings.py runs the examples."""
    generate, found = of_docs("generate", monkeypatch), {}
    for room in generate.ROOMS:
        module = importlib.import_module(f"pyro_vae.{room}")
        for value in (getattr(module, name) for name in generate.public(module)):
            if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
                name = f"{value.__module__}.{value.__name__}".removeprefix("pyro_vae.")
                found[name] = ">>>" in (value.__doc__ or "")
    assert len(found) > 200
    reasons = " ".join(NO_EXAMPLE.values()).split()
    assert {name for name, has in found.items() if not has} == set(reasons)


def parse(command: str, words: list[str]) -> None:
    if command == "train":
        parser = Parser(prog="pyro-vae train")
        runs.add_options(parser, cli.training._model(words, True), lambda run: run)
    elif command == "apply":
        name, *words = words
        function = applications.function(name)
        parser = parser_of(f"apply {name}", function, takes_a_run(function))
    else:
        parser = parser_of(command, {"evaluate": cli.evaluate, "plot": cli.plot, "estimators": cli.estimators}[command])
    parser.parse_args(words)


def test_the_rooms_of_the_reference_are_there():
    rows = re.findall(r"^\| (\[`.*?`\]) \|", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    rooms = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(rooms) > 20
    for name in rooms:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_are_at_most_120_characters_long(page):
    """But for rows of tables, which cannot be broken."""
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [line for line in lines if len(line) > 120 and not line.startswith("|")]
    assert not long, long
