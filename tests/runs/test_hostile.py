"""Folders whose author means harm: nothing that they name runs, and each is refused in one sentence."""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_vae import cli, runs

HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.yaml"))
EVIL = """\
import pathlib
pathlib.Path("executed").touch()
import pyro_vae
class Pair(pyro_vae.models.MLPVAE): pass
class Likelihood(pyro_vae.Bernoulli): pass
class Estimator(pyro_vae.SGVB_A): pass
class Schedule(pyro_vae.Linear): pass
class WeightPrior(pyro_vae.WeightPrior): pass
def optimizer(parameters): pass
"""


@pytest.fixture(autouse=True)
def beside(tmp_path, monkeypatch):
    """A working folder with a module that notes when it is imported, as another file may be found beside the user."""
    (tmp_path / "evil_module.py").write_text(EVIL)
    (tmp_path / "other.yaml").write_text("model: evil_module.Pair\n")
    (tmp_path / "part").write_text("class_path: evil_module.Part\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("evil_module", None)


@pytest.fixture
def sentence(capsys) -> Callable[..., str]:
    """What a command says as it fails: one line, and quickly."""

    def said(*arguments: str) -> str:
        capsys.readouterr()
        started = time.perf_counter()
        assert cli.main(arguments) == 2
        assert time.perf_counter() - started < 10
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    return said


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_nothing_that_a_file_names_runs(path: Path, beside: Path, sentence) -> None:
    Path("run").mkdir()
    shutil.copy(path, "run/config.yaml")
    for arguments in (("evaluate", "run"), ("plot", "run"), ("train", "--config", "run/config.yaml", "--epochs", "1")):
        said = sentence(*arguments)
        assert "config.yaml" in said
        assert len(said) < 500
        assert not Path("executed").exists()
        assert "evil_module" not in sys.modules
    assert sorted(p.name for p in beside.iterdir()) == ["evil_module.py", "other.yaml", "part", "run"]


def test_a_short_name_builds_nothing_else(sentence) -> None:
    """The parser completes a name without dots to any class that it has seen."""
    import evil_module  # noqa: F401 - the user has it for another purpose

    Path("run").mkdir()
    Path("run/config.yaml").write_text("model:\n  class_path: MLPVAE\n  init_args:\n    likelihood: Likelihood\n")
    assert "evil_module.Likelihood" in sentence("evaluate", "run")


def test_a_run_that_names_itself(sentence) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: pyro_vae.models.CodePrior\nfirst: run\n")
    assert "names itself" in sentence("evaluate", "run")


def test_a_pair_of_ones_own_where_it_is_typed_or_trusted(sentence, monkeypatch) -> None:
    """Typed it trains; in a file it needs trust, and the refusal names it and says so."""
    monkeypatch.setattr(cli.training, "draw", lambda *where: None)
    small = ("--model.latent_dim", "2", "--model.hidden", "[4]", "--epochs", "1", "--compile", "eager")
    assert cli.main(("train", "--model", "evil_module.Pair", *small, "--out", "run")) == 0
    said = sentence("evaluate", "run", "--limit", "2")
    assert "evil_module.Pair" in said
    assert "--trust" in said
    evaluated = ("evaluate", "run", "--limit", "2", "--num-samples", "2", "--compile", "eager")
    assert cli.main((*evaluated, "--trust")) == 0
    assert type(runs.load("run", trust=True).pair).__name__ == "Pair"
    assert "evil_module.Pair" in sentence("train", "--config", "run/config.yaml", "--out", "second")
    for number, more in enumerate((("--trust",), ("--trust", "true"), ("--model", "evil_module.Pair"))):
        assert cli.main(("train", "--config", "run/config.yaml", "--out", f"run {number}", *more)) == 0


def test_data_that_are_not_there_are_not_fetched(sentence) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text("data: mnist\nroot: made/by/them\n")
    said = sentence("evaluate", "run")
    assert "made/by/them" in said
    assert "--trust" in said
    assert not Path("made").exists()


@pytest.mark.parametrize("text", [f"seed: {'9' * 5000}\n", "data: 2001-13-45\n"], ids=["digits", "date"])
def test_values_that_yaml_cannot_hold(text: str, sentence) -> None:
    Path("run").mkdir()
    Path("run/config.yaml").write_text(text)
    assert "is no YAML mapping of options to values" in sentence("evaluate", "run")


def test_data_of_a_file_are_not_to_be_had_by_trust(sentence) -> None:
    """Nobody is told to trust a folder for what trust does not give."""
    Path("run").mkdir()
    Path("run/config.yaml").write_text("data: table.csv\n")
    said = sentence("evaluate", "run")
    assert "Work in the folder in which it was trained" in said
    assert "--trust" not in said
