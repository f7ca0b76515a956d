"""Conditional pairs on the command line: labels, covariates and parts of images as the condition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import QUICK, SMALL, _elsewhere, evaluated, fails, figures, main, trained, written

from pyro_vae import runs

assert _elsewhere  # a fixture of every test

CONDITIONAL = "--model pyro_vae.models.ConditionalVAE"


def test_labels_are_the_condition_without_another_option(capsys):
    trained("--data digits", CONDITIONAL, SMALL, draw=True)
    assert "labels: the second argument of model and guide" in capsys.readouterr().out
    assert {"classes", "samples", "reconstructions", "learning_curves"} <= figures()
    pair = runs.load("run").pair
    assert (pair.condition.num_classes, pair.posterior.in_shape) == (10, (1, 8, 8))
    assert "NLL" in evaluated(capsys, "--num-samples 20 --limit 20")[0]
    assert main("plot run") == 0


@pytest.mark.parametrize(
    ("options", "shape", "drawn"),
    [("--data digits --quadrants 1", (1, 8, 8), {"completions"}), ("--data mine.csv --covariates a,b", (2,), set())],
)
def test_numbers_are_the_condition_and_a_run_opens_without_its_data(capsys, options, shape, drawn):
    table = np.random.default_rng(0).normal((50, 0, 0, 0, 0), size=(300, 5))
    np.savetxt("mine.csv", table, delimiter=",", header="a,b,c,d,e", comments="")
    trained(options, CONDITIONAL, SMALL, draw=True)
    assert drawn <= figures()
    assert "NLL" in evaluated(capsys, "--num-samples 20 --limit 20")[0]
    pair = runs.load("run").pair
    Path("mine.csv").unlink()
    again = runs.load("run").pair
    assert again.condition.in_shape == shape
    assert again.condition.mean.abs().max() > 0
    for name, value in pair.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_data_without_a_condition(capsys):
    np.save("mine.npy", np.random.default_rng(0).normal(size=(300, 5)))
    error = fails(capsys, "train", QUICK, "--data mine.npy", CONDITIONAL)
    assert "a ConditionalVAE is given a condition beside each datum, and there is none" in error
    error = fails(capsys, "train", QUICK, "--data digits --quadrants 5", CONDITIONAL)
    assert "quadrants is one of 1, 2, 3; got 5" in error


MINE = """
    import pyro, pyro.distributions as dist, torch
    from pyro.nn import PyroModule
    from pyro_vae import pair_method
    from torch import nn

    class Mine(PyroModule):
        '''A conditional pair in the manner of Pyro's example.'''

        def __init__(self, event_shape, classes: int = 10):
            super().__init__()
            size = torch.Size(event_shape).numel()
            self.encoder = nn.Linear(size + classes, 4)
            self.decoder = nn.Linear(2 + classes, size)
            self.classes, self.shape = classes, tuple(event_shape)

        def hot(self, label):
            return nn.functional.one_hot(label, self.classes).float()

        @pair_method
        def model(self, x, label):
            with pyro.plate("data", len(label)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(label), 2), 1.0).to_event(1))
                logits = self.decoder(torch.cat([z, self.hot(label)], -1)).reshape(-1, *self.shape)
                return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

        @pair_method
        def guide(self, x, label):
            with pyro.plate("data", len(label)):
                loc, log_scale = self.encoder(torch.cat([x.flatten(1), self.hot(label)], -1)).chunk(2, -1)
                return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
"""


def test_a_conditional_pair_of_ones_own(capsys):
    written("my_conditional.py", MINE)
    trained("--data digits --model my_conditional.Mine", draw=True)
    assert {"classes", "samples", "reconstructions"} <= figures()
    assert "NLL" in evaluated(capsys, "--trust --num-samples 20 --limit 20")[0]


def test_segment_is_an_application_of_a_run(capsys):
    random = np.random.default_rng(0)
    maps = random.integers(0, 3, (40, 3, 6, 8))
    images = random.random((40, 1, 6, 8), dtype=np.float32).repeat(3, 0)
    np.savez("maps.npz", x=maps.reshape(120, 6, 8), y=images)
    trained("--data maps.npz --model ProbabilisticUNet --model.num_classes 3 --model.channels [2,4]", draw=True)
    assert runs.load("run").pair.likelihood.unet.in_shape == (1, 6, 8)
    assert main("apply segment run --num-samples 4") == 0
    assert "energy distance" in capsys.readouterr().out
    assert Path("run/segment.json").is_file()
    assert Path("run/segment.png").is_file()
    trained("--data digits", SMALL, out="other")
    assert "segment takes maps of classes" in fails(capsys, "apply segment other")
