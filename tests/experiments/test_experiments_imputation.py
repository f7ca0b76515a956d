"""The measurements of experiments/imputation.py, on a table of seconds."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def imputation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("imputation")


def test_masks(imputation: Any) -> None:
    x = imputation.columns_of("iris")
    torch.testing.assert_close(x.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4))
    assert abs(imputation.at_random(x, 1).float().mean() - 0.5) < 0.1
    mask = imputation.self_masked(x)
    assert mask[:, 2:].all()
    assert (x[:, :2][~mask[:, :2]] > 0).all()  # what is missing is above the mean, which is 0


def test_a_table_is_measured_and_read_again(imputation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imputation, "PAIR", {**imputation.PAIR, "steps": 6})
    measured = imputation.measured("iris", 1, tmp_path, "masked", {"samples": 20})
    assert list(measured["rmse"]) == ["mean", "k-NN", "iterative", "MIWAE", "not-MIWAE"]
    assert all(0 < value < 10 for value in measured["rmse"].values())
    again = imputation.measured("iris", 1, tmp_path, "masked", {"samples": 20})
    assert again["rmse"] == measured["rmse"]
    mean, error = imputation.summary([measured, {"rmse": {name: 1.0 for name in measured["rmse"]}}])["mean"]
    assert mean == pytest.approx((measured["rmse"]["mean"] + 1) / 2)
    assert error == pytest.approx(abs(measured["rmse"]["mean"] - 1) / 2)
    figure = imputation.drawn({"one": {"iris": imputation.summary([measured])}})
    assert len(figure.axes) == 1
