"""The command line as a user meets it."""

import inspect
import json
import re
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
import yaml

from pyro_vae import applications, cli
from pyro_vae.training.records import read_metrics

QUICK = ["--epochs", "2", "--compile", "traced", "--progress", "false", "--model.hidden", "[16]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cli._load.cache_clear()


def fails(capsys, *arguments):
    try:
        status = cli.main(list(arguments))
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2, captured
    assert "Traceback" not in captured.err
    return captured.err


def test_train_evaluate_plot(tmp_path, capsys):
    assert cli.main(["train", *QUICK]) == 0
    printed = capsys.readouterr().out
    run = tmp_path / "runs" / "digits-1"
    assert "1,297 train" in printed
    assert "closed form" in printed
    assert str(run.relative_to(tmp_path) / "figures") in printed
    assert {path.name for path in run.iterdir()} - {"tensorboard"} == {
        "config.yaml", "metrics.jsonl", "checkpoint", "figures"
    }  # fmt: skip
    drawn = {path.stem for path in (run / "figures").iterdir()}
    assert drawn == {
        "learning_curves", "reconstructions", "samples", "active_units", "latent_scatter", "traversals",
        "interpolations",
    }  # fmt: skip
    assert len(read_metrics(run)) == 2

    score = ["evaluate", "runs/digits-1", "--num-samples", "50", "--compile", "traced", "--progress", "false"]
    assert cli.main(score) == 0
    printed = capsys.readouterr().out
    (entry,) = json.loads((run / "evaluation.json").read_text())
    assert f"test NLL {entry['nll']:.3f} nats" in printed
    assert entry["data"] == 250
    assert entry["num_samples"] == 50
    valid = read_metrics(run)[-1]["valid"]
    assert entry["nll"] < -valid + 1.5  # log p(x) is above the bound, on data alike
    assert cli.main([*score, "--split", "valid", "--limit", "20"]) == 0
    assert [(e["split"], e["data"]) for e in json.loads((run / "evaluation.json").read_text())] == [
        ("test", 250),
        ("valid", 20),
    ]

    (run / "figures" / "samples.png").unlink()
    assert cli.main(["plot", "runs/digits-1"]) == 0
    assert (run / "figures" / "samples.png").exists()


def test_the_same_command_twice_takes_another_folder_and_gives_the_same_bits(tmp_path, capsys):
    for _ in range(2):
        assert cli.main(["train", *QUICK]) == 0
    first, second = (read_metrics(tmp_path / "runs" / f"digits-{number}") for number in (1, 2))
    assert [entry["train"] for entry in first] == [entry["train"] for entry in second]


def test_a_configuration_file_and_options_on_top_of_it(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--out", "first", "--model.latent_dim", "7", "--batch-size", "64"]) == 0
    config = yaml.safe_load((tmp_path / "first" / "config.yaml").read_text())
    assert config["model"]["init_args"]["latent_dim"] == 7
    assert config["batch_size"] == 64
    assert cli.main(["train", "--config", "first/config.yaml", "--out", "second", "--epochs", "1"]) == 0
    first, second = (read_metrics(tmp_path / name)[0] for name in ("first", "second"))
    # The same seed and pair; the schedule of one epoch moves the rate faster than that of two.
    assert second["train"] == pytest.approx(first["train"], abs=5.0)
    assert second["learning_rate"] < first["learning_rate"]
    again = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert again["model"] == config["model"]


def test_resume_goes_on(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--out", "run"]) == 0
    assert "already holds a trained run" in fails(capsys, "train", *QUICK, "--out", "run")
    longer = [*QUICK, "--out", "run", "--resume", "true"]
    assert "epochs was 2 and is now 3" in fails(capsys, "train", *longer, "--epochs", "3")
    before = read_metrics(tmp_path / "run")
    assert cli.main(["train", *longer]) == 0  # finished: read, not trained again
    assert read_metrics(tmp_path / "run") == before
    assert "belongs to another configuration" in fails(capsys, "train", *longer, "--seed", "3")


def test_a_pair_in_a_users_own_file(tmp_path, capsys):
    (tmp_path / "my_file.py").write_text(
        textwrap.dedent(
            '''
            import pyro, pyro.distributions as dist, torch
            from torch import nn

            class MyPair(nn.Module):
                """A pair of my own."""

                def __init__(self, width: int = 8):
                    super().__init__()
                    self.decoder, self.encoder = nn.Linear(2, width), nn.Linear(width, 2)

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
            '''
        )
    )
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(300, 5)).astype("float32"))
    arguments = ["--data", "mine.npy", "--model", "my_file.MyPair", "--model.width", "5", "--binarization", "none"]
    assert cli.main(["train", *QUICK[:6], *arguments, "--out", "run"]) == 0
    assert cli.main(["evaluate", "run", "--num-samples", "20", "--compile", "traced", "--progress", "false"]) == 0
    assert "NLL" in capsys.readouterr().out


def test_choices_of_classes(tmp_path, capsys):
    arguments = [
        "--optimizer", "torch.optim.SGD", "--optimizer.lr", "0.01", "--scheduler", "torch.optim.lr_scheduler.StepLR",
        "--scheduler.step_size", "1", "--estimator", "pyro_vae.SGVB_A", "--estimator.num_particles", "2",
        "--beta", "pyro_vae.Linear", "--weight-prior", "pyro_vae.WeightPrior", "--model.likelihood",
        "pyro_vae.Gaussian", "--binarization", "none", "--model.activation", "torch.nn.Tanh",
    ]  # fmt: skip
    assert cli.main(["train", *QUICK, *arguments, "--out", "run"]) == 0
    (first, second) = read_metrics(tmp_path / "run")
    assert first["learning_rate"] == pytest.approx(0.01)
    assert set(second["terms"]["z"]) == {"log_p", "log_q"}
    assert cli.main(["plot", "run"]) == 0


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
def test_trains_by_any_estimator(tmp_path, estimator, options):
    arguments = ["--estimator", f"pyro_vae.{estimator}", *(f"--estimator.{option}" for option in options)]
    assert cli.main(["train", *QUICK, *arguments, "--out", "run"]) == 0
    assert len(read_metrics(tmp_path / "run")) == 2
    assert options[0].partition("=")[0] in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


def test_table_of_estimators(capsys):
    assert cli.main(["estimators", "--width", "100"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    for name in ("SGVB_B", "DReG", "VIMCO", "Enumeration", "MonteCarloEM"):
        assert name in text


def test_evaluates_by_every_method(tmp_path, capsys):
    """The same run: estimates that agree within their errors, and the sandwich of simulated data."""
    assert cli.main(["train", *QUICK, "--out", "run", "--model.latent_dim", "2"]) == 0
    common = ["--compile", "traced", "--progress", "false", "--limit", "20"]
    chains = ["--num-chains", "8", "--num-steps", "60"]
    capsys.readouterr()
    for method, options in (
        ("importance", ["--num-samples", "2000"]),
        ("ais", [*chains, "--start", "guide"]),
        ("hmc", [*chains, "--num-samples", "60"]),
        ("bdmc", chains),
    ):
        assert cli.main(["evaluate", "run", "--method", method, *options, *common]) == 0
    entries = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert [entry["method"] for entry in entries] == ["importance", "ais", "hmc", "bdmc"]
    estimates = [entry["nll"] for entry in entries[:3]]
    assert max(estimates) - min(estimates) < 0.3
    assert entries[3]["split"] == "simulated"
    assert entries[3]["lower"] < entries[3]["upper"] + 0.2
    text = capsys.readouterr().out
    assert "test NLL" in text
    assert re.search(r"from below -\d+\.\d+ \(standard error .*from above", text)
    assert "--method" in fails(capsys, "evaluate", "run", "--method", "guess")
    for method in ("importance", "hmc"):
        error = fails(capsys, "evaluate", "run", "--method", method, "--num-samples", "0", *common)
        assert "num_samples has to be a whole number of at least 1; got 0" in error
    for method, option, value in (
        ("ais", "num-samples", "50"),
        ("bdmc", "num-samples", "50"),
        ("importance", "start", "prior"),
        ("hmc", "precision", "bfloat16"),
    ):
        error = fails(capsys, "evaluate", "run", "--method", method, f"--{option}", value, *common)
        assert f"--{option} has no part in --method {method}, but in" in error


def test_a_pair_of_flat_vectors_has_figures(tmp_path, capsys):
    (tmp_path / "flat_pair.py").write_text(
        textwrap.dedent(
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
            """
        )
    )
    options = ["--epochs", "1", "--compile", "traced", "--progress", "false", "--precision", "bfloat16"]
    dreg = ["--estimator", "pyro_vae.DReG", "--estimator.num_particles", "3"]
    assert cli.main(["train", "--model", "flat_pair.Flat", *options, *dreg, "--out", "run"]) == 0
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"reconstructions", "samples", "traversals"} <= drawn


def test_errors_are_one_sentence(tmp_path, capsys):
    for arguments, sentence in (
        (["IWAE", "--estimator.num_particles", "0"], "num_particles has to be a whole number of at least 1; got 0."),
        (["Renyi", "--estimator.alpha", "1"], "at alpha = 1 the Renyi bound is a limit, the ELBO, which"),
    ):
        error = fails(capsys, "train", "--estimator", f"pyro_vae.{arguments[0]}", *arguments[1:])
        assert error.startswith(f"pyro-vae: error: {sentence}")
        assert error.count("\n") == 1
    assert "there is no command 'trian'; the nearest are train" in fails(capsys, "trian")
    assert "Did you mean 'mnist'" in fails(capsys, "train", "--data", "mnits")
    assert "the nearest are ConvVAE" in fails(capsys, "train", "--model", "pyro_vae.models.ConVAE")
    assert "cannot be imported" in fails(capsys, "train", "--model", "nowhere.Pair")
    assert "no pair" in fails(capsys, "train", "--model", "torch.nn.Linear")
    assert "Gray pixels" in fails(capsys, "train", *QUICK, "--binarization", "none")
    assert "is larger than the training set" in fails(capsys, "train", *QUICK, "--batch-size", "5000")
    assert "is no run folder" in fails(capsys, "evaluate", "nothing")
    assert "there is no configuration file" in fails(capsys, "train", "--config", "nothing.yaml")
    where = fails(capsys, "train", "--data", "mnist", "--root", str(tmp_path), "--download", "false")
    assert "train-images-idx3-ubyte.gz" in where
    (tmp_path / "pictures").mkdir()
    assert "pictures" in fails(capsys, "train", "--data", "pictures")
    (tmp_path / "file").write_text("")
    assert "cannot write to the folder" in fails(capsys, "train", *QUICK, "--out", "file/run")


def test_a_run_whose_checkpoint_is_gone_or_edited(tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--out", "run"]) == 0
    last = tmp_path / "run" / "checkpoint" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content)
    assert "altered since it was written" in fails(capsys, "evaluate", "run")
    last.unlink()
    assert "there is no checkpoint" in fails(capsys, "evaluate", "run")


def test_help_reads_well(capsys):
    assert cli.main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    for command in ("train", "evaluate", "plot", "estimators"):
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert "``" not in text
        assert ":class:" not in text
        assert "torch.ao" not in text


def test_module_and_import():
    """``python -m pyro_vae`` works; importing changes nothing and loads no heavy package."""
    result = subprocess.run([sys.executable, "-m", "pyro_vae", "--help"], capture_output=True, text=True, check=True)
    assert "usage: pyro-vae" in result.stdout
    code = """
        import sys, torch, pyro
        from torch.distributions import Distribution
        before = (torch.get_rng_state().sum().item(), Distribution._validate_args, torch.get_default_dtype(),
                  torch.get_num_threads(), torch.is_grad_enabled())
        import pyro_vae
        after = (torch.get_rng_state().sum().item(), Distribution._validate_args, torch.get_default_dtype(),
                 torch.get_num_threads(), torch.is_grad_enabled())
        assert before == after
        assert len(pyro.get_param_store()) == 0
        for name in ("torchvision", "sklearn", "jsonargparse", "matplotlib", "torch._inductor.compile_fx"):
            assert name not in sys.modules, name
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_numbers_of_help_and_readme_commands_exist():
    """Each ``pyro-vae`` command that the README shows is one that the program knows."""
    readme = (cli.Path(cli.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"pyro-vae (\w+)", readme)
    assert {"train", "evaluate", "plot", "estimators"} <= set(commands)
    assert set(commands) <= {"train", "evaluate", "plot", "apply", "estimators"}


def test_mnist_from_the_command_line(root, tmp_path, capsys):
    small = ["--epochs", "1", "--batch-size", "500", "--compile", "traced", "--progress", "false"]
    assert cli.main(["train", "--data", "mnist", "--root", str(root), *small, "--model.hidden", "[32]"]) == 0
    assert "50,000 train, 10,000 valid, 10,000 test" in capsys.readouterr().out
    assert torch.isfinite(torch.tensor(read_metrics(tmp_path / "runs" / "mnist-1")[0]["valid"]))


def test_parts_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    step = "{class_path: pyro_vae.transforms.SplineCoupling, init_args: {hidden: [8], num_bins: 3}}"
    arguments = ["--model.transforms", f"[{step}, pyro_vae.transforms.Planar]", "--model.num_transforms", "3"]
    arguments += ["--model.prior", "pyro_vae.priors.MixtureOfNormals", "--model.prior.num_components", "3"]
    arguments += ["--model.likelihood", "pyro_vae.likelihoods.Gaussian", "--model.likelihood.scale", "shared"]
    arguments += ["--model.network", "pyro_vae.networks.GatedMLP", "--model.hidden", "[16]", "--binarization", "none"]
    arguments += ["--beta", "pyro_vae.Cyclical", "--estimator", "pyro_vae.Annealed", "--epochs", "1"]
    assert cli.main(["train", *arguments, "--compile", "traced", "--progress", "false", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "Mixture" in printed
    assert "sampled" in printed
    assert cli.main(["evaluate", out, "--limit", "20", "--num-samples", "30", "--progress", "false"]) == 0
    assert "test NLL" in capsys.readouterr().out


def test_bits_per_dimension_of_quantized_data(tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["--model.likelihood", "pyro_vae.likelihoods.DiscretizedLogistic"]
    arguments += ["--binarization", "none", "--epochs", "1", "--compile", "traced", "--model.hidden", "[16]"]
    assert cli.main(["train", *arguments, "--progress", "false", "--out", out]) == 0
    assert cli.main(["evaluate", out, "--limit", "20", "--num-samples", "30", "--progress", "false"]) == 0
    assert "bits per dimension" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert entry["bits_per_dim"] == pytest.approx(entry["nll"] / (64 * np.log(2)))
    assert 0 < entry["bits_per_dim"] < 16


def test_help_of_a_model_is_short(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--model.help", "pyro_vae.models.MLPVAE"])
    text = capsys.readouterr().out
    assert "class of pyro_vae.priors" in " ".join(text.split())
    assert "torch.ao" not in text
    assert len(text.splitlines()) < 120


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
    warnings.warn("beware\n   of this", RuntimeWarning, stacklevel=2)
    print(f"{data} {num_train} {out}")
    if num_train == 0:
        raise ValueError("num_train is 0.")


@pytest.fixture
def stand_ins(monkeypatch):
    functions = {"measure": measure, "learn": learn}
    monkeypatch.setattr(applications, "names", lambda: list(functions))
    monkeypatch.setattr(applications, "function", functions.__getitem__)


def test_applications(stand_ins, tmp_path, capsys):
    for arguments in (["apply"], ["apply", "--help"]):
        assert cli.main(arguments) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["measure", "RUN", "Measures", "a", "trained", "pair."] in lines
        assert ["learn", "Trains", "by", "itself."] in lines
    assert "there is no application 'lern'; the nearest are learn" in fails(capsys, "apply", "lern")
    assert cli.main(["train", *QUICK, "--out", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["apply", "measure", "run", "--level", "2"]) == 0
    assert capsys.readouterr().out == "MLPVAE digits 2.0 run\nwritten: run\n"
    assert cli.main(["apply", "measure", "run", "--out", "there"]) == 0
    assert capsys.readouterr().out.endswith("written: there\n")
    assert cli.main(["apply", "learn", "--num-train", "7"]) == 0
    assert "digits 7 runs/learn-1" in capsys.readouterr().out
    (tmp_path / "runs" / "learn-1").mkdir(parents=True)
    assert cli.main(["apply", "learn"]) == 0
    assert "digits None runs/learn-2" in capsys.readouterr().out
    assert fails(capsys, "apply", "learn", "--num-train", "0").endswith("pyro-vae: error: num_train is 0.\n")
    assert "is no run folder" in fails(capsys, "apply", "measure", "nothing")
    assert "level" in fails(capsys, "apply", "measure", "run", "--level", "high")
    assert "run" in fails(capsys, "apply", "measure")


def test_help_of_applications(stand_ins, capsys):
    about = "Measures a trained pair. There is noise, as in GaussianNoise, of a level. "
    for name, words in (
        ("measure", (about, "folder of the run", "of the noise")),
        ("learn", ("Trains by itself.", "name of the data")),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["apply", name, "--help"])
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert text.startswith(f"usage: pyro-vae apply {name}")
        assert all(word in text for word in words)
        assert text.count(words[0]) == 1
        assert "--pair" not in text


@pytest.mark.parametrize("name", applications.names())
def test_each_application_is_a_command(name, capsys):
    """Its module is there, it has what every application has, and each of its options is explained."""
    with pytest.raises(SystemExit) as end:
        cli.main(["apply", name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in ("--out", "--seed", "--progress"):
        assert option in text
    assert "``" not in text
    function = applications.function(name)
    for option in inspect.signature(function).parameters:
        assert f"\n        {option}: " in function.__doc__, option


def test_a_warning_is_one_line(stand_ins, capsys):
    shown = warnings.showwarning
    assert cli.main(["apply", "learn"]) == 0
    assert capsys.readouterr().err == "pyro-vae: warning: beware of this\n"
    assert warnings.showwarning is shown


def test_a_pair_around_a_pair(tmp_path, capsys):
    """The inner pair gets what the data answer, as it would by itself."""
    (tmp_path / "around.py").write_text(
        textwrap.dedent(
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
            """
        )
    )
    around = ["--model", "around.Around", "--model.name", "mine", "--model.pair", "pyro_vae.models.MLPVAE"]
    options = ["--model.pair.latent_dim", "3", "--model.pair.hidden", "[16]"]
    assert cli.main(["train", *QUICK[:6], *around, *options, "--out", "run"]) == 0
    assert cli.main(["train", *QUICK, "--model.latent_dim", "3", "--out", "bare"]) == 0
    wrapped, bare = (read_metrics(tmp_path / name) for name in ("run", "bare"))
    assert [entry["train"] for entry in wrapped] == [entry["train"] for entry in bare]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["init_args"]["name"] == "mine"
    assert "mean" not in config["model"]["init_args"]["pair"]["init_args"]
    pair, data, out = cli.open_run("run")
    assert (pair.name, data.name, out.name) == ("mine", "digits", "run")
    assert cli.main(["evaluate", "run", "--num-samples", "20", "--compile", "traced", "--progress", "false"]) == 0
    assert "arguments are required: pair" in fails(capsys, "train", "--model", "around.Around", *QUICK[:6])
    assert "no attribute 'MLPVA'" in fails(capsys, "train", *around[:-1], "pyro_vae.models.MLPVA", *QUICK[:6])


def test_a_hierarchy_has_figures_and_the_usage_of_its_levels(tmp_path, capsys):
    hierarchy = ["--model", "LadderVAE", "--model.latent_dims", "[4,2]", "--model.hidden", "[8,8]"]
    assert cli.main(["train", *QUICK[:6], *hierarchy, "--epochs", "1", "--out", "run"]) == 0
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {
        "learning_curves", "reconstructions", "samples", "interpolations", "levels", "levels_held", "levels_drawn"
    }  # fmt: skip
    capsys.readouterr()
    score = ["evaluate", "run", "--num-samples", "20", "--limit", "100", "--compile", "eager", "--progress", "false"]
    assert cli.main(score) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["latent", "z1", "z2"]
    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [(row["site"], row["num_units"]) for row in entry["levels"]] == [("z1", 4), ("z2", 2)]
    assert lines[2].split()[1] == f"{entry['levels'][0]['rate']:.2f}"
    assert "the latents of the data are z2, z1, and none was chosen" in fails(capsys, "apply", "reduce", "run")
