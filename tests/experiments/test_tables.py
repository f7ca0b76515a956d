"""The tables of experiments/README.md, docs/results.md and README.md are those of the result files."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("tables", ROOT / "experiments" / "tables.py")
assert _spec is not None
assert _spec.loader is not None
tables: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

PAGES = [path.read_text(encoding="utf-8") for path in tables.PAGES]
NAMES = [name.replace("_", "-") for name in vars(tables.Tables) if not name.startswith("_")]
NOT_SHOWN = {  # but in the minutes of the scripts
    "results": {"evaluation_float32", "hierarchy_grid_quick", "hierarchy_conv_quick"}
}


def test_the_pages_are_those_of_the_files(capsys):
    assert tables.main(["--check"]) == 0, f"run python experiments/tables.py:\n{capsys.readouterr().out}"


def test_each_marker_has_a_method_and_each_method_a_marker():
    marked = []
    for page in PAGES:
        found = re.findall(r"^<!-- table: (.*) -->$", page, re.MULTILINE)
        assert found == [name for name, _ in tables.BLOCK.findall(page)]
        assert len(found) == page.count("<!-- end of table -->")
        marked += found
    assert set(marked) == set(NAMES)


def places(value: Any, depth: int = 0) -> Iterator[tuple[tuple[bool, int], Any, Any]]:
    """Where the numbers are, in what and under which key; first, by the leading tuple, are those near the top."""
    for key in reversed(list(value) if isinstance(value, dict) else range(len(value))):  # the end of a history first
        if isinstance(value[key], (dict, list)):
            yield from places(value[key], depth + 1)
        elif type(value[key]) in (int, float):  # by whole numbers rows are known, so that they come last
            yield (isinstance(value[key], int), depth), value, key


def differing(made: Any) -> list[str]:
    return [line for page in PAGES for line in tables.written(page, made)[1]]


def table_of(made: Any, name: str) -> Any:
    found = getattr(made, name.replace("-", "_"))()
    return found if isinstance(found, dict) else tables.markdown(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_number_is_noticed(name):
    """One of each file that the table is made of."""
    made = tables.Tables()
    before = table_of(made, name)
    assert made.files
    for file in made.files.keys() - NOT_SHOWN.get(name, set()):
        for _, where, key in sorted(places(made.files[file]), key=lambda place: place[0]):
            value, where[key] = where[key], 3 * where[key] + 100
            shown = table_of(made, name) != before
            noticed = shown and any(line.startswith(f"{name}: ") for line in differing(made))
            where[key] = value
            if shown:
                break
        assert noticed, f"{name}: {key} of {file}"


def test_changed_seconds_are_noticed_in_the_sentences_of_minutes(monkeypatch):
    spent = tables.Tables()._spent()
    slow = {name: [[3 * seconds for seconds in part] for part in parts] for name, parts in spent.items()}
    monkeypatch.setattr(tables.Tables, "_spent", lambda self: slow)
    noticed = {line.partition(":")[0] for line in differing(tables.Tables()) if ": 'Minutes: " in line}
    assert noticed == set(spent)
    sections = re.findall(r"^## (.+)\n(?:(?!## ).*\n)*?Minutes: .*\d", PAGES[0], re.MULTILINE)
    assert len(sections) == len(spent)


def test_each_row_of_the_results_has_numbers():
    found = dict(re.findall(r"^\[(.+)\]: results/([\w-]+)\.md$", PAGES[1], re.MULTILINE))
    rows = {found[label] for label in re.findall(r"^\|.*\| \[(.+)\] \|$", PAGES[1], re.MULTILINE)}
    assert rows == {name for name, *_ in tables.Tables()._compared()}


def test_a_changed_page_is_told_and_written_anew(capsys, monkeypatch, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGES[0].replace("| NumPyro, epoch under jit | 4.22 |", "| NumPyro, epoch under jit | 4.02 |"))
    monkeypatch.setattr(tables, "PAGES", [page])
    monkeypatch.setattr(tables, "HERE", tmp_path / "experiments")
    assert tables.main(["--check"]) == 1
    assert re.match(r"README.md, speed: .* 4\.02 .* 4\.22 ", capsys.readouterr().out)
    tables.main([])
    assert tables.main(["--check"]) == 0
    assert page.read_text() == PAGES[0]


def test_a_table_of_which_nothing_stands_is_written_and_takes_no_text():
    text = "\nBetween.\n\n<!-- table: speed -->\nold\n<!-- end of table -->\nBehind.\n"
    page = "<!-- table: speed -->\n<!-- end of table -->\n" + text
    new, differ = tables.written(page, tables.Tables())
    table = dict(tables.BLOCK.findall(PAGES[0]))["speed"]
    assert new == f"<!-- table: speed -->{table}\n<!-- end of table -->\n{text.replace(chr(10) + 'old', table)}"
    assert len(differ) == 2 * len(table.strip().splitlines())


def test_a_table_of_which_words_stay_is_refused_where_there_are_none():
    page = "<!-- table: NAME -->\n<!-- end of table -->\n"
    found = [name for name in NAMES if isinstance(getattr(tables.Tables(), name.replace("-", "_"))(), dict)]
    assert found
    for name in found:
        with pytest.raises(ValueError, match=f"table {name}: between its markers stands nothing; write its rows"):
            tables.written(page.replace("NAME", name), tables.Tables())


@pytest.mark.parametrize("script", ["manifold", "samples_and_batch"])
def test_published_numbers_are_those_of_the_script(script):
    """Which holds them too, and is not imported, since that needs torch."""
    text = (ROOT / "experiments" / f"{script}.py").read_text(encoding="utf-8")
    held = ast.literal_eval(re.findall(r"^PUBLISHED = (.*)$", text, re.MULTILINE)[0])
    held = {str(key): value for key, value in held.get("mnist", held).items()}
    for key, value in tables.Tables()._read("published")[script].items():
        assert held.get(key, held.get(f"{key}.0")) == value
