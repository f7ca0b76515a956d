"""The filter of experiments/sequences.py, and a small run of it and of experiments/modalities.py."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal


@pytest.fixture
def sequences(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("sequences")


def test_the_filter_is_a_normal_of_all_numbers_at_once(sequences: Any) -> None:
    """log p(x) and the smoothed moments, of several lengths."""
    system, lengths = sequences.LinearSystem.true().double(), torch.tensor([4, 2])
    x = system.draw(2, seed=1)[:, :4]
    with torch.no_grad():
        log_prob, means, variances = system.filter(x, lengths)
        for b, count in enumerate(lengths.tolist()):
            A, C = system.A, system.C
            cov = torch.zeros(4 * 2, 4 * 2).double()  # of z_1, ..., z_4
            at = system.logs["P"].exp().diag()
            for s in range(4):
                later = at
                for t in range(s, 4):
                    cov[2 * t : 2 * t + 2, 2 * s : 2 * s + 2] = later
                    cov[2 * s : 2 * s + 2, 2 * t : 2 * t + 2] = later.T
                    later = A @ later
                at = A @ at @ A.T + system.logs["Q"].exp().diag()
            emit = torch.block_diag(*([C] * count), torch.zeros(0, 2 * (4 - count)).double())
            noise = system.logs["R"].exp().repeat(count).diag()
            S = emit @ cov @ emit.T + noise
            joint = MultivariateNormal(torch.zeros(len(S)).double(), S)
            torch.testing.assert_close(log_prob[b], joint.log_prob(x[b, :count].flatten()))
            gain = cov @ emit.T @ torch.linalg.inv(S)
            torch.testing.assert_close(means[b].flatten(), gain @ x[b, :count].flatten())
            torch.testing.assert_close(variances[b].flatten(), (cov - gain @ emit @ cov).diagonal())


def test_nats_per_step_are_a_ratio_of_means(sequences: Any) -> None:
    value, error = sequences.per_step(torch.tensor([-6.0, -2.0, -4.0]), torch.tensor([3, 1, 2]))
    assert (value, error) == (pytest.approx(2.0), pytest.approx(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequences", "modalities"])
def test_a_small_run(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stores a result and figures, and again from its cache the same."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    found = []
    for _ in range(2):
        options = ["--smoke", "--root", str(root), "--cache", str(tmp_path / "cache"), "--results", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [name, *options])
        importlib.import_module(name).main()
        stored = json.loads((tmp_path / f"{name}_smoke.json").read_text())
        found.append([{key: v for key, v in row.items() if key != "seconds"} for row in stored["runs"]])
    assert found[0] == found[1]
    assert len(list(tmp_path.glob("*.png"))) == 2
