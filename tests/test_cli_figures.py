"""Figures and refusals of the command line for pairs as a user of Pyro writes them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import _elsewhere, fails, figures, main, written

assert _elsewhere  # a fixture of every test

QUICK = "--epochs 1 --batch_size 16 --compile eager --progress false --out run"
PROGRAMS = """
    import pyro, pyro.distributions as dist, torch
    from pyro.infer.autoguide import AutoNormal

    class TwoSites(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = torch.nn.Linear(64, 3), torch.nn.Linear(3, 64)

        def model(self, x, y):
            pyro.module("pair", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("code", dist.Normal(torch.zeros(3), 1.0).to_event(1))
                pyro.sample("pixels", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x.flatten(1))
                pyro.sample("label", dist.Poisson(z[..., 0].exp()), obs=y)

        def guide(self, x, y):
            pyro.module("pair", self)
            with pyro.plate("data", len(x)):
                pyro.sample("code", dist.Normal(self.encoder(x.flatten(1)), 1.0).to_event(1))

    class Bare:
        def model(self, x):
            mean = pyro.sample("mean", dist.Normal(torch.zeros(64), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Bernoulli(logits=mean).to_event(1), obs=x.flatten(1))

        def guide(self, x):
            loc = pyro.param("loc", torch.zeros(64))
            pyro.sample("mean", dist.Normal(loc, 0.1).to_event(1))

    class Counts:
        def model(self, x):
            rate = pyro.param("rate", torch.ones(3))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                total = int(x.sum(-1).max())
                pyro.sample("x", dist.Multinomial(total, logits=rate * z[..., None], validate_args=False), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0).expand([len(x)]))
"""


@pytest.mark.filterwarnings("default::UserWarning")
def test_two_observed_sites(capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is an image is drawn; of the other what does not need one, with a line that says so."""
    written("programs_of_a_user.py", PROGRAMS)
    model = "--model programs_of_a_user.TwoSites --data digits"
    assert main("train", model, QUICK) == 0
    of_latents = {"learning_curves", "active_units", "latent_scatter"}
    assert figures() == {*of_latents, "reconstructions", "samples", "interpolations", "traversals"}
    assert "not drawn" not in capsys.readouterr().err
    assert "the model observes no site 'labels'; it observes pixels, label" in fails(
        capsys, f"train {model} {QUICK} --site labels".replace("--out run", "--out other")
    )
    assert not Path("other", "checkpoint").exists()
    for path in Path("run", "figures").iterdir():
        path.unlink()
    assert main("plot run --site label --trust") == 0
    assert figures() == of_latents
    said = capsys.readouterr().err
    assert "not drawn: reconstructions and samples (the model observes 'label' of shape []" in said
    assert said.count("\n") == 1


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_latent_of_all_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Has pictures of what it explains, and no figure of codes; there is no log p(x) of a datum to be told of."""
    written("programs_of_a_user.py", PROGRAMS)
    assert main("train --model programs_of_a_user.Bare --data digits", QUICK) == 0
    captured = capsys.readouterr()
    assert figures() == {"learning_curves", "reconstructions", "samples"}
    assert "not drawn: figures of latents (the guide has no latent of a datum)." in captured.err
    assert "pyro-vae evaluate" not in captured.out
    assert main("plot run --trust") == 0


def test_a_support_that_follows_the_data() -> None:
    """It is told of the data that are asked for."""
    written("programs_of_a_user.py", PROGRAMS)
    np.save("counts.npy", np.random.default_rng(0).poisson(np.linspace(1, 30, 60)[:, None], (60, 3)).astype(float))
    assert main("train --model programs_of_a_user.Counts --data counts.npy", QUICK) == 0


@pytest.mark.parametrize(
    "command", ["train --help", *(pytest.param(one, marks=pytest.mark.slow) for one in ("estimators", "", "apply"))]
)
def test_a_pipe_that_closes(command: str) -> None:
    """As that to ``head``: without a traceback or an error."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        found = subprocess.run(
            [sys.executable, "-m", "pyro_vae", *command.split()], stdout=pipe, stderr=subprocess.PIPE, text=True
        )
    assert found.stderr == ""
