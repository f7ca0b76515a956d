"""What the command line chooses by the data, and that a run keeps it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import FAST, QUICK, SMALL, _elsewhere, configured, evaluated, fails, main, saved_data, trained, undrawn

from pyro_vae import SGVB_B, cli, evidence, runs
from pyro_vae import figures as figures_room
from pyro_vae.data import Split, prepared

assert _elsewhere  # a fixture of every test


CHOSEN = {
    "reals.npy": (
        "Normal",
        "columns standardized\nlikelihood: Normal of a learned scale on standardized columns, chosen",
    ),
    "counts.npy": ("NegativeBinomial", "likelihood: NegativeBinomial and an encoder of log(1 + x), chosen for counts"),
    "binary.npy": ("Bernoulli", "binarization none\nsite"),
    "levels.npy": ("Bernoulli", "binarization: dynamic, chosen for a likelihood of 0 and 1"),
    "digits": ("Bernoulli", "binarization: dynamic, chosen for a likelihood of 0 and 1"),
}


@pytest.mark.parametrize("data", CHOSEN)
def test_likelihood_and_binarization_follow_the_data(data, capsys):
    saved_data()
    name, words = CHOSEN[data]
    trained("--data", data, SMALL)
    assert words in capsys.readouterr().out
    chosen = configured()
    assert chosen["model"]["init_args"]["likelihood"]["class_path"].endswith(name)
    assert chosen["binarization"] == ("dynamic" if "dynamic" in words else "none")
    assert (chosen["standardize"], chosen["log_inputs"]) == (data == "reals.npy", data == "counts.npy")
    assert undrawn("train --config run/config.yaml --epochs 1 --out again") == 0  # where all of it is said
    assert configured("again")["model"] == chosen["model"]
    assert "NLL" in evaluated(capsys, "--num-samples 20 --limit 20")[0]


@pytest.mark.parametrize("options", ["--data reals.npy", "--data counts.npy", "--model.likelihood pyro_vae.Bernoulli"])
def test_a_run_has_the_data_that_it_was_trained_on(options):
    """The bound of an autoencoder has no noise: opened again, the run has that of its last epoch."""
    saved_data()
    last = trained("--model Autoencoder", SMALL, options, "--average null")[-1]
    pair, data = runs.load("run").pair, runs.load_data("run")
    batches = data.valid.batches(configured()["batch_size"])
    bound = torch.cat([SGVB_B().bound(pair, *batch) for batch in batches])
    assert bound.mean().item() == pytest.approx(last["valid"], abs=1e-3)


def test_standardized_columns_are_evaluated_in_the_units_of_the_data(capsys):
    reals = saved_data()
    last = trained("--data reals.npy", SMALL)[-1]
    printed = capsys.readouterr().out
    data = runs.load_data("run")
    u = data.train.batch(slice(None))[0].double()
    torch.testing.assert_close(u.mean(0), torch.zeros(5).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(u.std(0, correction=0), torch.ones(5).double(), atol=1e-6, rtol=0)
    whole = torch.cat([data.original(part.tensors[0]) for part in (data.train, data.valid, data.test)])
    rows = torch.as_tensor(reals).float()
    torch.testing.assert_close(whole[whole[:, 0].argsort()], rows[rows[:, 0].argsort()], rtol=1e-4, atol=1e-4)
    scales = torch.log((data.original(u[:1]) - data.original(u[:1] - 1)).double()).sum().item()
    assert f"in the units of the data they are {last['train'] - scales:.2f} and" in printed
    printed, entry = evaluated(capsys, "--num-samples 50 --seed 1")
    assert "in the units of the data" in printed
    standard = evidence.importance(*_opened(), num_samples=50, seed=1, compile="eager", progress=False)
    assert entry["nll"] == pytest.approx(standard.nll + scales, abs=1e-3)
    printed, entry = evaluated(capsys, "--method bdmc --limit 5 --num-chains 2 --num-steps 5")
    assert "in the units of the data" in printed
    assert entry["lower"] < entry["upper"] + 3
    trained(
        "--data binary.npy",
        SMALL,
        "--model.likelihood pyro_vae.likelihoods.Laplace --model.likelihood.sigmoid_mean false --standardize true",
        out="binary",
    )
    assert runs.load_data("binary").log_scale < 0
    assert "binarization dynamic of pixels" in fails(
        capsys, "train", QUICK, "--binarization dynamic --standardize true"
    )


def test_kinds_of_data():
    gray = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    for x, kind in (
        (gray, "gray"),
        (gray // 128 * 255, "binary"),
        (gray / 255, "gray"),
        (gray / 250, "real"),
        (torch.rand(4, 1, 8, 8), "gray"),
        (torch.rand(4, 64), "real"),
        (torch.rand(4, 64) > 0.5, "binary"),
        (gray.float(), "counts"),
        (-gray.float(), "real"),
    ):
        assert prepared.kind_of(Split(x)) == kind, x


def test_a_column_that_does_not_vary(capsys):
    table = torch.rand(50, 3, dtype=torch.float64)
    table[:, 1] = 0.1  # whose mean is not quite it
    np.save("table.npy", table)
    trained("--data table.npy", SMALL)
    assert "1 of 3 columns do not vary in the training set" in capsys.readouterr().out
    data = runs.load_data("run")
    assert data.scale[1] == 1
    assert data.train.tensors[0][:, 1].abs().max() < 1e-6


def _opened():
    pair, data = runs.load("run").pair, runs.load_data("run")
    return pair, data.test.batch(slice(None))


def test_real_images_are_shown_in_their_range():
    np.save("images.npy", np.random.default_rng(0).normal(7, 3, size=(60, 1, 8, 8)).astype("float32"))
    trained("--data images.npy", SMALL, "--epochs 1", draw=True)
    assert {"reconstructions", "samples", "traversals"} <= {path.stem for path in Path("run", "figures").iterdir()}
    pair, data = runs.load("run").pair, runs.load_data("run")
    (u,) = data.test.batch(slice(None))
    x, pictures = data.original(u), figures_room._Pictures.of(pair, data, (u,), None)
    torch.testing.assert_close(pictures(u), (x - x.min()) / (x.max() - x.min()))
    assert pictures(3 * u).max() == 1


def test_evaluate_says_which_data_it_has_seen_and_that_they_have_changed(capsys, monkeypatch):
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    np.save("x.npy", x)
    trained("--data x.npy --in-memory false", SMALL)
    monkeypatch.setattr(cli.evaluation, "_FIRST", 20)
    for options, size in (("", 20), ("--limit 7", 7), ("--limit 30", 30)):
        printed, entry = evaluated(capsys, "--num-samples 5", options)
        said = f"these are the first {size} of 30 test data; --limit takes another number"
        assert (said in printed) == (size < 30)
        assert (entry["data"], entry.get("of")) == (size, 30 if size < 30 else None)
    assert main("evaluate run --num-samples 5", FAST) == 0
    assert "other data" not in capsys.readouterr().err
    np.save("x.npy", x + 1)
    runs.options._load.cache_clear()
    runs.options._prepared.cache_clear()
    assert main("evaluate run --num-samples 5", FAST) == 0
    said = "x.npy has other data than those that the run run was trained on (training data and validation data differ)"
    assert said in capsys.readouterr().err
