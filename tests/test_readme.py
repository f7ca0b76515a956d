"""The READMEs' Python runs as it stands; their files, sections and scripts are there. The site has ``test_docs``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
ROOT = PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", ROOT / "experiments" / "README.md")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text: str) -> list[str]:
    """What the links and figures of a page point to, without the addresses of the web."""
    text = FENCE.sub("", text)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    return [target for target in found if not target.startswith(("http://", "https://"))]


@pytest.mark.slow
def test_the_first_python_example_runs(capsys, monkeypatch, tmp_path):
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line.strip()]) == 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert "test NLL" in capsys.readouterr().out
    assert (tmp_path / "digits.png").stat().st_size > 0


@pytest.mark.slow
def test_the_python_of_the_readme_runs_in_order(monkeypatch, tmp_path):
    """As it stands, but that each training is one epoch and not compiled."""
    fit = pyro_vae.fit
    short = {"epochs": 1, "compile": "traced", "progress": False}
    monkeypatch.setattr(pyro_vae, "fit", lambda pair, data, **options: fit(pair, data, **{**options, **short}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 1
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_the_commands_of_ci_stand_in_the_readme():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    first, second, site = [line for line in lines if line.startswith("pip install -e")]
    for command in (first, second):
        assert f"```\n{command}\n```" in README
    assert f"```\n{site}\n```" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=("README", "experiments"))
def test_what_a_page_links_is_there(page):
    text = page.read_text(encoding="utf-8")
    targets = links(text)
    assert len(targets) > 10
    for target in targets:
        name, _, section = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not section or section in anchors(path.read_text(encoding="utf-8")), target
    for label in re.findall(r"\| \[([^\]]+)\] \|$", text, re.MULTILINE):
        assert f"\n[{label}]: " in text, label


@pytest.mark.parametrize("page", PAGES, ids=("README", "experiments"))
def test_lines_are_at_most_120_characters_long(page):
    long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert not long, long


@pytest.mark.parametrize("page", PAGES, ids=("README", "experiments"))
def test_the_scripts_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    scripts = set(re.findall(r"python experiments/([\w.]+)", text)) | set(re.findall(r"`(\w+\.py)`", text))
    assert len(scripts) > (10 if page.parent.name == "experiments" else 3)
    for script in scripts:
        assert (ROOT / "experiments" / script).is_file(), script


def test_every_experiment_is_listed_with_its_command():
    text = PAGES[1].read_text(encoding="utf-8")
    scripts = [path for path in sorted((ROOT / "experiments").glob("*.py")) if "__main__" in path.read_text("utf-8")]
    assert len(scripts) > 10
    missing = [p.name for p in scripts if not re.search(rf"^\| \[`{re.escape(p.name)}`\]\(#", text, re.MULTILINE)]
    missing += [
        p.name for p in scripts if not re.search(rf"^python experiments/{re.escape(p.name)}", text, re.MULTILINE)
    ]
    assert not missing, f"experiments/README.md has no row, or no section with the command, for {missing}"


def test_the_results_that_the_experiments_name_are_there():
    text = PAGES[1].read_text(encoding="utf-8")
    results = ROOT / "experiments" / "results"
    names = re.findall(r"\| `([\w.*]+)` \|$", text, re.MULTILINE) + re.findall(r"`([\w.*]+\.(?:json|png|gif))`", text)
    assert len(names) > 10
    for name in names:
        assert list(results.glob(name)), name
