"""The command line as a user meets it."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pyro_vae import applications, cli, likelihoods, runs
from pyro_vae.training.records import read_metrics

FAST = "--compile eager --progress false"
QUICK = f"--epochs 2 {FAST}"
SMALL = "--model.hidden [16]"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    runs.options._load.cache_clear()
    runs.options._prepared.cache_clear()


def main(*parts):
    """The status of a command, given in parts that are cut at spaces; with braces they are one word."""
    return cli.main([word for part in parts for word in ([part] if "{" in part else part.split())])


def undrawn(*parts):
    """The status of a command that makes no figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.training, "draw", lambda *where: None)
        return main(*parts)


def trained(*options, out="run", draw=False):
    """The history of a run; options of one's own have the last word."""
    assert (main if draw else undrawn)("train", QUICK, "--out", out, *options) == 0
    return read_metrics(Path(out))


def evaluated(capsys, *options, out="run"):
    """What evaluate printed, and the entry that it stored."""
    capsys.readouterr()
    assert main("evaluate", str(out), FAST, *options) == 0
    return capsys.readouterr().out, json.loads(Path(out, "evaluation.json").read_text())[-1]


def configured(out="run"):
    return yaml.safe_load(Path(out, "config.yaml").read_text(encoding="utf-8"))


def figures(out="run"):
    return {path.stem for path in Path(out, "figures").iterdir()}


def fails(capsys, *parts):
    """The error, which is one line."""
    status = main(*parts)
    captured = capsys.readouterr()
    assert status == 2, captured
    assert captured.err.startswith("pyro-vae: error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def helped(capsys, *parts):
    with pytest.raises(SystemExit) as end:
        main(*parts, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert not re.search(r"``|:class:|torch\.ao|Linked arguments|--\w+_", text)
    return text


def written(name, source):
    Path(name).write_text(textwrap.dedent(source))


def test_train_evaluate_plot(capsys):
    """In a folder of its own each time, and with the same bits."""
    traced = "--compile traced"
    assert main("train", QUICK, SMALL, traced) == 0
    printed = capsys.readouterr().out
    run = Path("runs", "digits-1")
    assert "1,297 train" in printed
    assert "closed form" in printed
    assert f"figures: {run / 'figures'} (" in printed
    left = {"config.yaml", "metrics.jsonl", "checkpoint", "figures", "run.md", ".lock"}
    assert {path.name for path in run.iterdir()} - {"tensorboard"} == left
    drawn = "learning_curves reconstructions samples active_units latent_scatter traversals interpolations"
    assert figures(run) == set(drawn.split())
    history, again = read_metrics(run), trained(SMALL, traced, out=runs.free_folder(Path("runs"), "digits"))
    assert Path("runs", "digits-2").exists()
    assert len(history) == 2
    assert [entry["train"] for entry in history] == [entry["train"] for entry in again]

    printed, entry = evaluated(capsys, "--num-samples 50", traced, out=run)
    assert printed.startswith(f"test NLL {entry['nll']:.3f} nats (standard error over the data ")
    assert (entry["split"], entry["data"], entry["num_samples"]) == ("test", 250, 50)
    assert entry["nll"] < -history[-1]["valid"] + 1.5  # log p(x) is above the bound, on data alike
    printed, entry = evaluated(capsys, "--num-samples 50 --split valid --limit 20", out=run)
    assert printed.startswith("valid NLL")
    assert (entry["split"], entry["data"]) == ("valid", 20)
    assert len(json.loads((run / "evaluation.json").read_text())) == 2

    page = (run / "run.md").read_text()
    assert "$ pyro-vae train --epochs 2 " in page  # what was asked, and what was said
    assert "closed form" in page
    assert f"{history[-1]['valid']:.2f} nats per datum" in page
    assert page.count("$ pyro-vae evaluate runs/digits-1 --split ") == 2
    assert printed.splitlines()[0] in page
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], opened := {})
    assert opened["data"].name == "digits"

    assert "the nearest are runs/digits-1" in fails(capsys, "evaluate runs/digit-1")
    (run / "figures" / "samples.png").unlink()
    assert main("plot", str(run)) == 0
    assert "samples" in figures(run)


def test_a_configuration_file_and_options_on_top_of_it():
    first = trained(SMALL, "--model.latent_dim 7 --batch-size 64", out="first")[0]
    config = configured("first")
    assert config["model"]["init_args"]["latent_dim"] == 7
    assert config["batch_size"] == 64
    assert undrawn("train --config first/config.yaml", "--out second --epochs 1") == 0
    second = read_metrics(Path("second"))[0]
    # The same seed and pair; the schedule of one epoch moves the rate faster than that of two.
    assert second["train"] == pytest.approx(first["train"], abs=5.0)
    assert second["learning_rate"] < first["learning_rate"]
    assert configured("second")["model"] == config["model"]


def test_resume_goes_on(capsys):
    before = trained(SMALL)
    options = ["train", QUICK, SMALL, "--out run"]
    assert "already holds a trained run" in fails(capsys, *options)
    assert "epochs was 2 and is now 3" in fails(capsys, *options, "--resume true --epochs 3")
    assert trained(SMALL, "--resume true") == before  # finished: read, not trained again
    assert undrawn("train --resume true --out run") == 0  # what is not given is as it was
    assert read_metrics(Path("run")) == before
    assert "belongs to another configuration" in fails(capsys, *options, "--resume true --seed 3")
    trained(SMALL, "--binarization static", out="static")
    trained(SMALL, "--resume true", out="static")
    assert "binarization static" in capsys.readouterr().out  # as it was begun


def test_the_same_again_but_for_what_is_typed(capsys):
    """Of the file in a folder of a run: in a new folder, with faults of the file told from where it was typed."""
    trained(SMALL)
    for number, options in enumerate(("--seed 1", "--model.latent_dim 3"), 1):
        assert undrawn("train --config run/config.yaml", options) == 0
        assert configured(f"runs/digits-{number}")["seed"] == 2 - number
    other = "train --config run/config.yaml --model pyro_vae.models.ConvVAE"
    assert "that of a MLPVAE, whose arguments are none of the ConvVAE" in fails(capsys, other)
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("seed: 0", "seed: x"))
    assert "run/config.yaml: seed has to be a whole number" in fails(capsys, "train --config run/config.yaml --out o")


@pytest.mark.parametrize("text", ["database: mine\n", "data: digits\nepochs: 1\n", "- no mapping\n"])
def test_a_configuration_of_something_else_is_not_written_over(capsys, text):
    Path("there").mkdir()
    Path("there/config.yaml").write_text(text)
    Path("mine.yaml").write_text("data: digits\nout: there\n")
    for options in ("--config mine.yaml", "--data digits --out there"):
        assert "there/config.yaml is none that a run has written" in fails(capsys, "train", QUICK, SMALL, options)
    assert [path.name for path in Path("there").iterdir()] == ["config.yaml"]
    assert Path("there/config.yaml").read_text() == text


def test_a_run_that_ended_before_it_began_is_begun_again(capsys):
    """By a fault of its options; only its configuration is there."""
    trained(SMALL, "--epochs 1")
    shutil.copy("run/config.yaml", "kept.yaml")
    shutil.rmtree("run")
    Path("run").mkdir()
    Path("kept.yaml").rename("run/config.yaml")
    assert len(trained(SMALL, "--epochs 1")) == 1


def test_a_run_whose_checkpoint_is_gone_or_edited(capsys):
    trained(SMALL)
    last = Path("run", "checkpoint", "last.safetensors")
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content)
    assert "altered since it was written" in fails(capsys, "evaluate run")
    last.unlink()
    assert "there is no checkpoint" in fails(capsys, "evaluate run")


MINE = """
    import pyro, pyro.distributions as dist, torch
    from pyro_vae.pair.protocols import TrainedPair
    from torch import nn

    class MyPair(nn.Module):
        '''A pair of my own.'''

        def __init__(self, width: int = 8):
            super().__init__()
            self.width, self.decoder, self.encoder = width, nn.Linear(2, width), nn.Linear(width, 2)

        def model(self, x=None):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x=None):
            pyro.module("encoder", self.encoder)
            scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), scale).to_event(1))

    class SecondStage(nn.Module):
        '''The codes of a trained pair, which stays as it is, with a prior that is learned.'''

        def __init__(self, pair: TrainedPair, scale: float = 1.0):
            super().__init__()
            self.first, self.scale = pair.requires_grad_(False), scale
            self.loc = nn.Parameter(torch.zeros(2))

        def model(self, x):
            pyro.module("loc", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.loc, self.scale).to_event(1))
                pyro.sample("x", dist.Normal(self.first.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            return self.first.guide(x)

    class Taken(SecondStage):
        def __init__(self, seed: "TrainedPair"):
            super().__init__(seed)
"""


def test_a_pair_of_ones_own_and_a_second_stage_on_its_run(capsys):
    """The second stage has an option for the run of the first; no other is known to the command line."""
    written("my_file.py", MINE)
    np.save("mine.npy", np.random.default_rng(0).normal(size=(300, 5)).astype("float32"))
    data = "--data mine.npy --binarization none"
    trained(data, "--model my_file.MyPair --model.width 5")
    assert "NLL" in evaluated(capsys, "--trust --num-samples 20")[0]

    second = "--model my_file.SecondStage --model.scale 2"
    assert "  --pair PAIR           folder of the run that trained this pair" in helped(capsys, "train", second)
    assert "SecondStage needs a trained pair: --pair FOLDER" in fails(capsys, "train", QUICK, data, second)
    assert "nowhere is no run folder" in fails(capsys, "train", QUICK, data, second, "--pair nowhere")
    trained(data, second, "--trust --pair run", out="second")
    assert (configured("second")["pair"], configured("second")["model"]["init_args"]) == ("run", {"scale": 2.0})
    one, other = (runs.load(out, trust=True).pair for out in ("run", "second"))
    found, folder = runs.load_data("second", trust=True), runs.load("second", trust=True).out
    assert (other.scale, found.name, folder.name) == (2.0, "mine", "second")
    for name, value in one.state_dict().items():
        assert torch.equal(other.first.state_dict()[name], value), name
    assert other.loc.abs().min() > 0  # trained
    assert "NLL" in evaluated(capsys, "--trust --num-samples 20", out="second")[0]
    assert "its argument 'seed', but --seed is another option" in fails(capsys, "train --model my_file.Taken")

    trained(data, "--model my_file.MyPair --model.width 5 --standardize true", out="standard")
    trained("--data mine.npy", second, "--trust --pair standard", out="third")
    assert configured("third")["standardize"]
    capsys.readouterr()
    error = fails(capsys, "train", QUICK, data, second, "--trust --pair standard --standardize false")
    assert "--pair standard was trained with standardize true, and false is asked for here" in error


OBJECT = """
    import pyro, pyro.distributions as dist, torch
    from pyro.nn import PyroModule
    from torch import nn

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Linear(2, 5)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(5, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    class Holder:
        '''No module: it sets its programs.'''

        def __init__(self, shift: float = 0.0):
            self.model, self.guide = Model(), Guide()
"""


def test_an_object_that_is_no_module(capsys):
    """It is trained, evaluated and drawn, with what was trained."""
    written("my_object.py", OBJECT)
    np.save("mine.npy", np.random.default_rng(0).normal(size=(300, 5)).astype("float32"))
    trained("--data mine.npy --binarization none --model my_object.Holder")
    names = {"programs.model.decoder.weight", "programs.guide.encoder.weight"}
    assert names < set(runs.load("run", trust=True).pair.state_dict())
    assert "NLL" in evaluated(capsys, "--trust --num-samples 20")[0]
    assert main("plot run --trust") == 0
    assert "learning_curves" in figures()


def saved_data():
    """Files of each kind of data, and what is chosen for them."""
    random = np.random.default_rng(0)
    z = random.normal(size=(300, 2)) @ random.normal(size=(2, 5))
    reals = z * [1, 10, 1000, 0.01, 5] + [0, 100, 5000, 2, -3]
    np.save("reals.npy", reals)
    np.save("counts.npy", random.poisson(np.exp(2 * z)).astype("float32"))
    np.save("binary.npy", (random.random((300, 5)) < 0.3).astype("float64"))
    np.save("levels.npy", (random.integers(0, 256, (300, 64)) / 255).astype("float32"))
    return reals


def test_choices_of_classes(capsys):
    options = """
        --optimizer torch.optim.SGD --optimizer.lr 0.01 --scheduler torch.optim.lr_scheduler.StepLR
        --scheduler.step_size 1 --estimator pyro_vae.SGVB_A --estimator.num_particles 2 --beta pyro_vae.Linear
        --weight-prior pyro_vae.WeightPrior --model.likelihood pyro_vae.Gaussian --binarization none
        --model.activation torch.nn.Tanh
    """
    history = trained(SMALL, options)
    assert history[0]["learning_rate"] == pytest.approx(0.01)
    assert set(history[1]["terms"]["z"]) == {"log_p", "log_q"}
    assert isinstance(runs.load("run").pair.likelihood, likelihoods.Gaussian)

    step = "{class_path: pyro_vae.transforms.SplineCoupling, init_args: {hidden: [8], num_bins: 3}}"
    options = """
        --model.num_transforms 3 --model.prior pyro_vae.priors.MixtureOfNormals --model.prior.num_components 3
        --model.likelihood pyro_vae.likelihoods.Gaussian --model.likelihood.scale shared --binarization none
        --model.network pyro_vae.networks.GatedMLP --beta pyro_vae.Cyclical --estimator pyro_vae.Annealed --epochs 1
    """
    capsys.readouterr()
    trained(SMALL, "--model.transforms", f"[{step}, pyro_vae.transforms.Planar]", options, out="parts")
    printed = capsys.readouterr().out
    assert "Mixture" in printed
    assert "sampled" in printed
    assert "test NLL" in evaluated(capsys, "--limit 20 --num-samples 30", out="parts")[0]


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("IWAE", ["num_particles=3"]),
        ("Renyi", ["alpha=-0.5", "num_particles=3"]),
        ("MIWAE", ["num_groups=2", "samples_per_group=2"]),
        ("ReweightedWakeSleep", ["num_particles=3", "guide=both"]),
        ("MonteCarloEM", ["num_transitions=2", "start=guide"]),
        ("SGVB_A", ["sticking_the_landing=true"]),
    ],
)
def test_trains_by_any_estimator(estimator, options):
    options = [f"--estimator.{option}" for option in options]
    assert len(trained(SMALL, "--estimator", f"pyro_vae.{estimator}", *options)) == 2
    assert options[0].partition("=")[0].removeprefix("--estimator.") in configured()["estimator"]["init_args"]


def test_evaluates_by_every_method(capsys):
    """The same run: estimates that agree within their errors, and the sandwich of simulated data."""
    trained(SMALL, "--model.latent_dim 2")
    chains, limit = "--num-chains 8 --num-steps 60 --compile traced", "--limit 20"
    entries, printed = {}, {}
    for method, options in (
        ("importance", "--num-samples 2000"),
        ("ais", f"{chains} --start guide"),
        ("hmc", f"{chains} --num-samples 60"),
        ("bdmc", chains),
    ):
        printed[method], entries[method] = evaluated(capsys, "--method", method, limit, options)
        assert entries[method]["method"] == method
    estimates = [entries[method]["nll"] for method in ("importance", "ais", "hmc")]
    assert max(estimates) - min(estimates) < 0.3
    assert (entries["ais"]["start"], entries["hmc"]["num_warmup"]) == ("guide", 60)
    assert entries["bdmc"]["split"] == "simulated"
    assert entries["bdmc"]["lower"] < entries["bdmc"]["upper"] + 0.2
    assert all(line.startswith("test NLL") for method, line in printed.items() if method != "bdmc")
    assert re.search(r"from below -\d+\.\d+ \(standard error .*from above", printed["bdmc"])
    for method in ("importance", "hmc"):
        error = fails(capsys, "evaluate run --method", method, "--num-samples 0", limit)
        assert "--num-samples has to be a whole number of at least 1; got 0" in error
    for method, option, value in (
        ("ais", "num-samples", "50"),
        ("bdmc", "num-samples", "50"),
        ("importance", "start", "prior"),
        ("importance", "num-chains", "4"),
        ("hmc", "precision", "bfloat16"),
        ("hmc", "schedule", "linear"),
    ):
        error = fails(capsys, "evaluate run --method", method, f"--{option}", value)
        assert f"--{option} has no part in --method {method}, but in" in error


def test_an_estimate_is_kept_where_its_page_cannot_be_written(capsys):
    trained(SMALL, "--model.latent_dim 2 --epochs 1")
    Path("run/run.md").write_bytes(b"\xff")
    assert "run.md is no text" in fails(capsys, "evaluate run --num-samples 2 --limit 2", FAST)
    assert len(json.loads(Path("run/evaluation.json").read_text())) == 1


@pytest.mark.parametrize("seed", [-1, 10**40])
def test_a_seed_that_is_none_is_refused_as_the_run_opens(seed):
    trained(SMALL, "--model.latent_dim 2 --epochs 1")
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("seed: 0", f"seed: {seed}"))
    with pytest.raises(ValueError, match=r"seed has to be a whole number of at least 0"):
        runs.load("run")


def test_a_pair_with_random_weights_is_evaluated_with_these_drawn(capsys):
    trained("--model FullBayes --model.pair MLPVAE --model.pair.hidden [8] --epochs 1")
    printed, entry = evaluated(capsys, "--num-samples 30 --limit 20")
    assert "20 data, 30 samples each, weights drawn from their posterior for each sample, median effective" in printed
    assert entry["weights"] == "posterior_predictive"
    printed, entry = evaluated(capsys, "--method ais --num-chains 2 --num-steps 3 --schedule linear --limit 5")
    assert "2 chains of 3 steps, weights of one draw from their posterior, median standard error" in printed
    assert entry["weights"] == "sample"


def test_bits_per_dimension_of_quantized_data(capsys):
    trained(SMALL, "--model.likelihood pyro_vae.likelihoods.DiscretizedLogistic --epochs 1")
    assert configured()["binarization"] == "none"  # of the gray levels themselves
    assert "binarization: none, chosen for the likelihood DiscretizedLogistic" in capsys.readouterr().out
    printed, entry = evaluated(capsys, "--limit 20 --num-samples 30")
    assert f"; {entry['bits_per_dim']:.3f} bits per dimension; 20 data" in printed
    assert entry["bits_per_dim"] == pytest.approx(entry["nll"] / (64 * np.log(2)))
    assert 4 < entry["bits_per_dim"] < 16


def test_a_hierarchy_has_figures_and_the_usage_of_its_levels(capsys):
    trained("--model LadderVAE --model.latent_dims [4,2] --model.hidden [8,8] --epochs 1", draw=True)
    drawn = "learning_curves reconstructions samples interpolations levels levels_held levels_drawn"
    assert figures() == set(drawn.split())
    printed, entry = evaluated(capsys, "--num-samples 20 --limit 100 --compile eager")
    lines = printed.splitlines()
    assert lines[1] == "these are the first 100 of 250 test data; --limit takes another number"
    assert [line.split()[0] for line in lines[2:5]] == ["latent", "z1", "z2"]
    assert [(row["site"], row["num_units"]) for row in entry["levels"]] == [("z1", 4), ("z2", 2)]
    assert lines[3].split()[1] == f"{entry['levels'][0]['rate']:.2f}"
    assert "the latents of the data are z2, z1, and none was chosen" in fails(capsys, "apply reduce run")


def test_a_pair_of_flat_vectors_has_figures():
    written(
        "flat_pair.py",
        """
        import pyro, pyro.distributions as dist, torch
        from pyro.nn import PyroModule
        from pyro_vae import pair_method

        class Flat(PyroModule):
            def __init__(self):
                super().__init__()
                self.encoder = PyroModule[torch.nn.Linear](64, 3)
                self.decoder = PyroModule[torch.nn.Linear](3, 64)

            @pair_method
            def model(self, x):
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                    pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))

            @pair_method
            def guide(self, x):
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(self.encoder(x.flatten(1)), 1.0).to_event(1))
        """,
    )
    dreg = "--estimator pyro_vae.DReG --estimator.num_particles 3 --precision bfloat16"
    trained("--model flat_pair.Flat", dreg, "--epochs 1", draw=True)
    assert {"reconstructions", "samples", "traversals"} <= figures()


def test_a_pair_around_a_pair(capsys):
    """The inner pair gets what the data answer, as it would by itself."""
    written(
        "around.py",
        """
        from torch import nn

        class Around(nn.Module):
            def __init__(self, pair: nn.Module, name: str = "none"):
                super().__init__()
                self.pair, self.name = pair, name

            def model(self, x):
                return self.pair.model(x)

            def guide(self, x):
                return self.pair.guide(x)
        """,
    )
    around = "--model around.Around --model.name mine --model.pair"
    wrapped = trained(around, "MLPVAE --model.pair.latent_dim 3 --model.pair.hidden [16]")
    bare = trained(SMALL, "--model.latent_dim 3", out="bare")
    assert [entry["train"] for entry in wrapped] == [entry["train"] for entry in bare]
    arguments = configured()["model"]["init_args"]
    assert arguments["name"] == "mine"
    assert "mean" not in arguments["pair"]["init_args"]
    pair, out = runs.load("run", trust=True).pair, runs.load("run", trust=True).out
    data = runs.load_data("run", trust=True)
    assert (pair.name, data.name, out.name) == ("mine", "digits", "run")
    evaluated(capsys, "--trust --num-samples 20")
    assert "--model.pair is missing, which around.Around needs" in fails(capsys, "train --model around.Around", QUICK)
    wrong = fails(capsys, "train", around, "pyro_vae.models.MLPVA", QUICK)
    assert "pyro_vae.models has no 'MLPVA'; the nearest are pyro_vae.models.MLPVAE" in wrong


ERRORS = {
    "trian": "there is no command 'trian'; the nearest are train",
    "train --data mnits": "Did you mean 'mnist'",
    "train --model pyro_vae.models.ConVAE": "the nearest are ConvVAE",
    "train --model nowhere.Pair": "cannot be imported",
    "train --model torch.nn.Linear": "no pair. Of two programs, functions or modules, torch.nn makes one by: class",
    "train --model ./mine.py": "the module './mine' of --model ./mine.py cannot be imported (it is a path). Give the",
    "train --model wrong.Pair": "cannot be imported (NameError: name 'nothing' is not defined, ",
    "train --binarization none": "Gray pixels",
    "train --batch-size 5000": "is larger than the training set",
    "train --binarization dynamic --model.likelihood pyro_vae.likelihoods.Laplace": "Laplace is no likelihood of these",
    "train --data reals.npy --model.likelihood pyro_vae.Bernoulli": "'reals' holds real numbers from -",
    "train --data counts.npy --model.likelihood pyro_vae.likelihoods.Categorical": "'counts' holds counts from 0 to ",
    "train --data reals.npy --binarization static": "reads them as probabilities in [0, 1]",
    "train --model.likelihood pyro_vae.likelihoods.Poisson": "the data leave the support of the Poisson likelihood",
    "train --model ConvVAE --log-inputs true": "--log-inputs is of pairs that take the mean of the data; pyro_vae",
    "train --data reals.npy --log-inputs true": "--log-inputs is of counts, and 'reals' holds negative numbers",
    "train --config nothing.yaml": "there is no configuration file",
    "train --config edited.yaml": "the configuration edited.yaml: there is no option epoch; the nearest are epochs.",
    "train --data mnist --root . --download false": "holds MNIST/raw by --root or the environment variable",
    "train --data pictures": "pictures",
    "train --out file/run": "cannot write to the folder",
    "train --estimator pyro_vae.IWAE --estimator.num_particles 0": (
        "error: --estimator.num_particles has to be a whole number of at least 1; got 0."
    ),
    "train --estimator pyro_vae.Renyi --estimator.alpha 1": "error: at alpha = 1 the Renyi bound is a limit, the ELBO,",
    "train --estimator pyro_vae.IWAEE": "pyro_vae.IWAEE is not there: pyro_vae has no 'IWAEE'; the nearest are",
    "train --model.latentdim 3": "has no argument 'latentdim'; the nearest are --model.latent_dim. `pyro-vae",
    "train --beta x": "error: --beta has to be a number, or the dotted name of a class of Schedule, such as pyro_vae.",
    "train --valid-size x": "error: --valid-size has to be a number, or null; got x.",
    "train --model.prior nope.X": "No module named 'nope'",
    "train --model.prior wrong.prior": "wrong.prior does not say what it returns: annotate it, def function(...) -> M",
    "train --schedules [3]": "error: --schedules has to be a mapping {NAME: ...}, for each name the dotted",
    "evaluate nothing": "error: nothing is no run folder: it has no config.yaml. Give a folder that",
    "evaluate": "error: RUN is missing, the folder of the run: pyro-vae evaluate RUN. `pyro-vae evaluate --help` tells",
    "evaluate run --method guess": "error: --method has to be one of importance, ais, bdmc, hmc; got guess.",
    "estimators --width x": "error: --width has to be a whole number, or null; got x.",
    "apply lern": "there is no application 'lern'",
    "apply restore": "RUN is missing, the folder of the run: pyro-vae apply restore RUN. `pyro-vae",
}


@pytest.mark.parametrize("command", ERRORS)
def test_errors_are_one_sentence(command, capsys):
    Path("pictures").mkdir()
    Path("file").write_text("")
    saved_data()
    Path("edited.yaml").write_text("data: digits\nepoch: 3\n")
    Path("wrong.py").write_text("def prior(latent_dim):\n    pass\n" + "x = nothing\n" * ("Pair" in command))
    quick = [QUICK, SMALL] if command.startswith("train") and "model" not in command else []
    assert ERRORS[command] in fails(capsys, command, *quick)


def test_help_reads_well(capsys):
    assert main("--help") == 0
    assert "train" in capsys.readouterr().out
    for command in ("train", "evaluate", "plot", "estimators"):
        helped(capsys, command)
    text = " ".join(helped(capsys, "train").split())
    assert "--valid-size VALID_SIZE" in text
    assert "the pair, and its arguments (event_shape and mean from the data)" in text
    with pytest.raises(SystemExit):
        main("train --model.help pyro_vae.models.MLPVAE")
    text = capsys.readouterr().out
    assert "class of pyro_vae.priors" in " ".join(text.split())
    assert "torch.ao" not in text
    assert len(text.splitlines()) < 120


def test_table_of_estimators(capsys):
    assert main("estimators", "--width 100") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    for name in ("SGVB_B", "DReG", "VIMCO", "Enumeration", "MonteCarloEM"):
        assert name in text


def test_module_and_import():
    """``python -m pyro_vae`` works; importing changes nothing and loads no heavy package."""
    code = """
        import runpy, sys, torch, pyro
        from torch.distributions import Distribution

        def settings():
            return (torch.get_rng_state().sum().item(), Distribution._validate_args, torch.get_default_dtype(),
                    torch.get_num_threads(), torch.is_grad_enabled())

        before = settings()
        import pyro_vae
        assert before == settings()
        assert len(pyro.get_param_store()) == 0
        for name in ("torchvision", "sklearn", "jsonargparse", "matplotlib", "torch._inductor.compile_fx"):
            assert name not in sys.modules, name
        sys.argv[1:] = ["--help"]
        runpy.run_module("pyro_vae", run_name="__main__")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert "usage: pyro-vae" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_commands_of_the_readme_and_its_page_exist():
    root = Path(cli.__file__).parent.parent.parent
    pages = [root / "README.md", root / "docs" / "howto" / "command_line.md"]
    commands = {name for page in pages for name in re.findall(r"pyro-vae (\w+)", page.read_text(encoding="utf-8"))}
    assert {"train", "evaluate", "plot", "estimators"} <= commands
    assert commands <= {"train", "evaluate", "plot", "apply", "estimators"}


def test_mnist_from_the_command_line(root, capsys):
    small = "--epochs 1 --batch-size 500 --model.hidden [32]"
    (entry,) = trained("--data mnist --root", str(root), small)
    assert "50,000 train, 10,000 valid, 10,000 test" in capsys.readouterr().out
    assert np.isfinite(entry["valid"])


# Applications


def measure(pair, data, *, level: float = 0.5, out: str | None = None, seed: int = 0, progress: bool = True):
    """Measures a trained pair.

    There is noise, as in :class:`~pyro_vae.applications.restoration.GaussianNoise`, of a ``level``.

    Args:
        pair: the pair
        data: its data
        level: of the noise
        out: folder of the results
        seed: of the noise
        progress: show a bar
    """
    assert not pair.training
    print(f"{type(pair).__name__} {data.name} {level} {out}")


def learn(data: str = "digits", num_train: int | None = None, *, out: str | None = None):
    """Trains by itself.

    Args:
        data: name of the data
        num_train: how many
        out: folder of the results
    """
    for _ in range(2):
        warnings.showwarning(RuntimeWarning("beware\n   of this"))
    print(f"{data} {num_train} {out}")
    if num_train == 0:
        raise ValueError("num_train is 0.")


@pytest.fixture
def stand_ins(monkeypatch):
    functions = {"measure": measure, "learn": learn}
    monkeypatch.setattr(applications, "names", lambda: list(functions))
    monkeypatch.setattr(applications, "function", functions.__getitem__)


def test_applications(stand_ins, capsys):
    for command in ("apply", "apply --help"):
        assert main(command) == 0
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert "measure RUN Measures a trained pair." in lines
        assert "learn Trains by itself." in lines
    assert "there is no application 'lern'; the nearest are learn" in fails(capsys, "apply lern")
    trained(SMALL)
    Path("runs", "learn-1").mkdir(parents=True)
    for command, printed in (
        ("measure run --level 2", "MLPVAE digits 2.0 run\nwritten: run\n"),
        ("measure run --out there", "MLPVAE digits 0.5 there\nwritten: there\n"),
        ("learn --num-train 7", "digits 7 runs/learn-2\nwritten: runs/learn-2\n"),
    ):
        capsys.readouterr()
        assert main("apply", command) == 0
        assert capsys.readouterr().out == printed
    assert "is no run folder" in fails(capsys, "apply measure nothing")
    assert "level" in fails(capsys, "apply measure run", "--level high")
    assert "run" in fails(capsys, "apply measure")
    assert main("apply learn", "--num-train 0") == 2
    assert capsys.readouterr().err.endswith("pyro-vae: error: --num-train is 0.\n")


def test_a_warning_is_one_line_and_said_once(stand_ins, capsys):
    shown = warnings.showwarning
    assert main("apply learn") == 0
    assert capsys.readouterr().err == "pyro-vae: warning: beware of this\n"
    assert warnings.showwarning is shown


def test_help_of_applications(stand_ins, capsys):
    about = "Measures a trained pair. There is noise, as in GaussianNoise, of a level. "
    for name, words in (
        ("measure", (about, "folder of the run", "of the noise")),
        ("learn", ("Trains by itself.", "name of the data")),
    ):
        text = " ".join(helped(capsys, "apply", name).split())
        assert text.startswith(f"usage: pyro-vae apply {name}")
        assert all(word in text for word in words)
        assert text.count(words[0]) == 1
        assert "--pair" not in text


@pytest.mark.parametrize("name", applications.names())
def test_each_application_is_a_command(name, capsys):
    """Its module is there, it has what every application has, and each of its options is explained."""
    text = helped(capsys, "apply", name)
    for option in ("--out", "--seed", "--progress"):
        assert option in text
    function = applications.function(name)
    for option in inspect.signature(function).parameters:
        assert f"\n        {option}: " in function.__doc__, option
