"""Links inside of a run folder, which a stranger may have made: what they lead to is neither copied nor written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_vae import _files, runs
from pyro_vae.runs.options import CONFIG, EVALUATION, PAGE
from pyro_vae.training.records import METRICS, read_metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "private").write_text("[]\n")
    out = tmp_path / "run"
    out.mkdir()
    (out / CONFIG).touch()
    for name in (PAGE, EVALUATION, METRICS, _files.LOCK):
        (out / name).symlink_to(tmp_path / ("new" if name == _files.LOCK else "private"))
    return out


def test_what_a_link_leads_to_is_not_copied(folder: Path) -> None:
    page = runs.Page(folder, "pyro-vae evaluate run")
    for read in (page.write, lambda: runs.store_evaluation(folder, {}), lambda: read_metrics(folder)):
        with pytest.raises(OSError, match=r"cannot read .*it is a link out of its folder.*move it away"):
            read()


def test_nothing_is_written_through_a_link(folder: Path) -> None:
    with pytest.raises(OSError, match="cannot write"):
        _files.append_text(folder / METRICS, "more")
    with pytest.raises(OSError, match="cannot write to the folder"), _files.holding(folder):
        pass
    _files.write_text(folder / METRICS, "anew")
    assert not (folder / METRICS).is_symlink()
    assert (folder.parent / "private").read_text() == "[]\n"
    assert not (folder.parent / "new").exists()


def test_links_within_a_folder_and_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "mine").write_text("text")
    (folder / "link").symlink_to("mine")
    (tmp_path / "other").symlink_to(folder)
    assert _files.read_text(folder / "link") == _files.read_text(tmp_path / "other" / "link") == "text"
