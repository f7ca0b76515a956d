"""Tables with empty cells on the command line: masks, log p(x) of what is observed, and what fills them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import QUICK, SMALL, _elsewhere, configured, evaluated, fails, main, trained, undrawn, written

import pyro_vae
from pyro_vae import evidence, runs

assert _elsewhere  # a fixture of every test

MODEL = "--model IncompleteVAE --model.latent-dim 2"


def saved_table(name="table.csv", rows=80, share=0.3, scale=(1.0, 20.0, 0.1)):
    """A table of three columns, of which the second is twice the first and a label is a word."""
    chance = np.random.default_rng(0)
    first = chance.normal(size=rows)
    x = np.stack([first, 2 * first + 0.1 * chance.normal(size=rows), chance.normal(size=rows)], 1) * np.array(scale)
    missing = chance.random(x.shape) < share
    with Path(name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["a", "b", "kind", "c"])
        for row, holes in zip(x, missing, strict=True):
            cells = ["" if hole else f"{value:.5f}" for value, hole in zip(row, holes, strict=True)]
            table.writerow([*cells[:2], "even" if row[0] > 0 else "odd", cells[2]])
    return x, missing


def test_empty_cells_become_a_mask(capsys):
    """Trained, evaluated in the units of the data, drawn and opened without the data."""
    saved_table()
    trained(MODEL, SMALL, "--data table.csv --labels kind", draw=True)
    printed = capsys.readouterr().out
    assert "mask: the last argument of model and guide, true where x is observed" in printed
    assert "Normal of a learned scale on standardized columns, chosen for real numbers" in printed
    chosen = configured()
    assert (chosen["missing"], chosen["with_mask"], chosen["standardize"]) == (True, True, True)
    data, pair = runs.load_data("run"), runs.load("run").pair
    x, mask = data.test.batch(slice(None))
    assert (x[~mask] == 0).all()
    assert not mask.all()
    printed, entry = evaluated(capsys, "--num-samples 50 --seed 1")
    told = evidence.importance(pair, (x, mask), 50, seed=1, compile="eager")
    scales = (mask * data.scale.log()).sum(1)
    assert entry["nll"] == pytest.approx((-told.log_prob + scales).mean().item(), abs=1e-4)
    assert main("plot run") == 0
    Path("table.csv").unlink()
    assert type(pyro_vae.load("run").pair).__name__ == "IncompleteVAE"
    assert undrawn("train --config run/config.yaml --epochs 1 --out again") == 2  # whose data are gone


def test_apply_impute_fills_a_file(capsys):
    x, missing = saved_table()
    trained(MODEL, "--model.hidden [32] --epochs 60 --data table.csv --labels kind --batch-size 20")
    capsys.readouterr()
    assert main("apply impute run --file table.csv --labels kind --num-imputations 2 --out out --progress false") == 0
    printed = capsys.readouterr().out
    assert f"{missing.sum()} missing entries of 240" in printed
    assert {path.name for path in Path("out").iterdir()} == {
        "impute.csv", "impute_1.csv", "impute_2.csv", "impute.json", "impute.png",
    }  # fmt: skip
    before, after = (list(csv.reader(Path(name).read_text().splitlines())) for name in ("table.csv", "out/impute.csv"))
    assert before[0] == after[0]
    for old, new in zip(before, after, strict=True):
        assert all(cell == filled or (cell == "" and float(filled)) for cell, filled in zip(old, new, strict=True))
    filled = np.array([[float(row[i]) for i in (0, 1, 3)] for row in after[1:]])
    both = missing[:, 1] & ~missing[:, 0]
    assert np.corrcoef(filled[both, 1], x[both, 1])[0, 1] > 0.9
    found = json.loads(Path("out/impute.json").read_text())
    assert found["rmse"] == {}
    assert found["num_missing"] == missing.sum()


def test_apply_impute_beside_others(capsys):
    """Of the test data of a run a share is hidden, also of whole data and of a plain pair."""
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).numpy()
    np.save("x.npy", x)
    trained("--data x.npy", SMALL)
    capsys.readouterr()
    assert main("apply impute run --num-samples 50 --progress false") == 0
    printed = capsys.readouterr().out
    for name in ("mean", "5 nearest neighbors", "iterative regressions", "this pair"):
        assert name in printed
    found = json.loads(Path("run/impute.json").read_text())
    assert found["num_hidden"] > 0
    assert found["rmse"]["this pair"] < 1.5
    assert Path("run/impute.npy").is_file()
    trained("--data digits", SMALL, out="digits")
    assert main("apply impute digits --num-samples 20 --num-imputations 2 --limit 12 --progress false") == 0
    assert np.load("digits/impute_2.npy").shape == (12, 1, 8, 8)


MINE = """
    import pyro, pyro.distributions as dist, torch
    from torch import nn
    class Mine(nn.Module):
        def __init__(self, width=3):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(width, 2), nn.Linear(2, width)
        def model(self, x, mask):
            pyro.module("mine", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).mask(mask).to_event(1), obs=x)
        def guide(self, x, mask):
            pyro.module("mine", self)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))
"""


def test_programs_of_a_user_are_given_the_mask(capsys):
    """Where they have an argument ``mask``; whole data have a mask, too, where they do not run without it."""
    written("own_masked.py", MINE)
    saved_table()
    trained("--model own_masked.Mine --data table.csv --labels kind")
    assert configured()["with_mask"] is True
    assert main("apply impute run --trust --num-samples 20 --progress false") == 0
    np.save("whole.npy", np.random.default_rng(0).normal(size=(50, 3)))
    trained("--model own_masked.Mine --data whole.npy", out="whole")
    assert configured("whole")["with_mask"] is True
    trained("--model own_masked.Mine --data table.csv --labels kind --with-mask true", out="typed")
    assert configured("typed")["missing"] is True
    trained(MODEL, SMALL, "--data whole.npy", out="plain")  # which needs none
    assert configured("plain")["with_mask"] is False
    capsys.readouterr()
    assert "not finite" in fails(capsys, "train", QUICK, SMALL, "--data table.csv --labels kind")
    assert "not finite" in fails(capsys, "train", QUICK, MODEL, "--data table.csv --labels kind --missing false")


def test_what_apply_impute_refuses(capsys):
    saved_table()
    trained(MODEL, SMALL, "--data table.csv --labels kind")
    np.save("other.npy", np.zeros((5, 7)))
    for words, said in (
        ("--hidden 1", "--hidden has to be a finite number"),
        ("--num-samples 0", "--num-samples has to be a whole number"),
        ("--file nowhere.csv", "There is no file or folder"),
        ("--file other.npy", "has data of shape [7], and the run [3]"),
    ):
        assert said in fails(capsys, f"apply impute run --progress false {words}"), words
    Path("other.csv").write_text("b,a,c\n1,,2\n")
    said = fails(capsys, "apply impute run --progress false --file other.csv")
    assert "other.csv has the columns b, a, c, and the run a, b, c. Give the columns of the run" in said
    np.save("whole.npy", np.zeros((5, 3)))
    assert "nothing is missing of whole.npy" in fails(capsys, "apply impute run --progress false --file whole.npy")
