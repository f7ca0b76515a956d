"""Pairs of one's own from the command line: labels, covariates, constructors without annotations."""

import math

import numpy as np
import pytest
import torch
from test_cli import QUICK, _elsewhere, configured, evaluated, fails, figures, main, trained, written

from pyro_vae import runs
from pyro_vae.data import load

assert _elsewhere  # a fixture of every test

CVAE = """
    import pyro
    import pyro.distributions as dist
    import torch
    from torch import nn

    class CVAE(nn.Module):
        def __init__(self, latent_dim=4, hidden=[16], num_classes=10, rate=0.5, x_dim=64, of="labels"):
            super().__init__()
            assert type(latent_dim) is int and type(rate) is float, (latent_dim, rate)
            self.latent_dim, self.num_classes, self.x_dim, self.of = latent_dim, num_classes, x_dim, of
            self.encoder = nn.Sequential(nn.Linear(x_dim + num_classes, hidden[0]), nn.ReLU(),
                                         nn.Linear(hidden[0], 2 * latent_dim))
            self.decoder = nn.Linear(latent_dim + num_classes, x_dim)

        def condition(self, y):
            return nn.functional.one_hot(y, self.num_classes).float() if self.of == "labels" else y

        def model(self, xs, ys{default}):
            pyro.module("cvae", self)
            ys = self.condition(ys)
            with pyro.plate("data", len(xs)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(xs), self.latent_dim), 1.0).to_event(1))
                y = ys.expand(*z.shape[:-1], -1)
                logits = self.decoder(torch.cat([z, y], -1))
                x = xs.reshape(len(xs), -1)
                if self.of == "labels":
                    pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)
                else:
                    pyro.sample("x", dist.Normal(logits, 1.0).to_event(1), obs=x)

        def guide(self, xs, ys{default}):
            pyro.module("cvae", self)
            x = torch.cat([xs.reshape(len(xs), -1), self.condition(ys)], -1)
            loc, scale = self.encoder(x).chunk(2, -1)
            with pyro.plate("data", len(xs)):
                pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))
"""


def cvae(default=""):
    written("my_cvae.py", CVAE.replace("{default}", default))


def test_a_conditional_pair_to_the_end(capsys):
    """Labels go to a program that does not run without them; train, evaluate, plot."""
    cvae()
    last = trained("--model my_cvae.CVAE --model.latent_dim 3", draw=True)[-1]
    assert "labels: the second argument of model and guide" in capsys.readouterr().out
    assert configured()["with_labels"] is True
    assert {"reconstructions", "samples", "traversals", "latent_scatter"} <= figures()
    _, entry = evaluated(capsys, "--trust --num-samples 50 --limit 40")
    assert -entry["nll"] > last["valid"] - 30
    assert main("plot run --trust") == 0
    pair, data = runs.load("run", trust=True).pair, runs.load_data("run", trust=True)
    x, y = data.test.batch([0, 1])
    assert pair.latent_dim == 3
    assert torch.equal(y, load("digits").test.labels[:2])
    assert x.shape == (2, 1, 8, 8)


def test_labels_where_they_are_asked_for(capsys):
    cvae("=None")
    trained("--model my_cvae.CVAE --with-labels true")
    evaluated(capsys, "--trust --num-samples 20 --limit 20")
    np.savez("labeled.npz", x=np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8), y=np.arange(80) % 10)
    trained("--model my_cvae.CVAE --with-labels true --data labeled.npz --batch-size 32", out="npz")
    assert runs.load_data("npz", trust=True).train.batch([0])[1].dtype == torch.int64
    np.save("plain.npy", np.zeros((40, 8, 8), bool))
    assert "has no labels to pass" in fails(capsys, "train --model my_cvae.CVAE --with-labels true --data plain.npy")


TABLE = np.random.default_rng(0).normal(size=(120, 5)).round(3)


@pytest.mark.parametrize("file", ["table.csv", "table.tsv", "table.npy"])
def test_columns_are_covariates(file, capsys):
    written("saved.txt", "")
    if file == "table.npy":
        np.save(file, TABLE)
    else:
        between = "," if file == "table.csv" else "\t"
        lines = ["a,age,b,c,sex".replace(",", between), *(between.join(map(str, row)) for row in TABLE)]
        written(file, "\n".join(lines))
    cvae()
    covariates = "1,4" if file == "table.npy" else "age,4"
    options = f"--data {file} --covariates {covariates} --batch-size 32 --standardize true"
    sizes = "--model.x_dim 3 --model.num_classes 2 --model.of columns"
    trained("--model my_cvae.CVAE", options, sizes)
    data = runs.load_data("run", trust=True)
    x, y = data.train.batch(slice(None))
    rows = torch.cat([data.original(x)[:, :1], y[:, :1], data.original(x)[:, 1:], y[:, 1:]], 1)
    everything = {tuple(row) for row in TABLE.round(3).tolist()}
    assert {tuple(row) for row in rows.double().numpy().round(3).tolist()} <= everything
    evaluated(capsys, "--trust --num-samples 20 --limit 20")
    assert (
        "no column 'agee'; the nearest are age"
        in fails(capsys, "train --model my_cvae.CVAE --data table.csv --covariates agee")
        if file == "table.csv"
        else True
    )


def test_constructors_without_annotations(capsys):
    cvae()
    assert "--model.latent_dim: expected int, as of its default 4; got 'x'" in fails(
        capsys, "train --model my_cvae.CVAE --model.latent_dim x"
    )
    assert "expected list" in fails(capsys, "train --model my_cvae.CVAE --model.hidden 3")
    trained("--model my_cvae.CVAE --model.hidden [8] --model.rate 1")
    assert configured()["model"]["init_args"]["hidden"] == [8]
    written("needs.py", "from my_cvae import CVAE\n\nclass Needs(CVAE):\n    def __init__(self, size, latent_dim=2):\n"
            "        super().__init__(latent_dim, [size])")  # fmt: skip
    assert "needs its argument 'size': --model.size" in fails(capsys, "train --model needs.Needs")
    trained("--model needs.Needs --model.size 7", out="sized")
    assert runs.load("sized", trust=True).pair.decoder.weight.shape == (64, 12)


HOLES = "sick,age,height\n" + "no,30.5,1.7\nyes,,1.6\nno,41,\n" * 20


def test_labels_and_missing_values_of_a_table():
    written("holes.csv", HOLES)
    data = load("holes.csv", labels="sick", missing=True, valid_size=0, test_size=0)
    assert data.train.labels.tolist() == [0, 1, 0] * 20
    assert data.train.tensors[0][:3].nan_to_num(-1.0).tolist() == [[30.5, 1.7], [-1.0, 1.6], [41.0, -1.0]]
    x, covariates = load("holes.csv", labels="0", covariates="2", missing=True).train.tensors
    assert x[:, 0].nan_to_num(30.5).min() == 30.5
    assert covariates.nan_to_num(1.7).max() == pytest.approx(1.7)
    written("bare.csv", ",2\n3,4\n")  # an empty cell is no name
    assert len(load("bare.csv", missing=True, valid_size=0, test_size=0).train) == 2
    written(
        "masked.py",
        """
        import pyro, pyro.distributions as dist, torch
        from torch import nn

        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)

            def model(self, x, y):
                pyro.module("decoder", self.decoder)
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                    fn = dist.Normal(self.decoder(z) + y[:, None], 1.0).mask(~x.isnan()).to_event(1)
                    pyro.sample("x", fn, obs=x.nan_to_num())

            def guide(self, x, y):
                pyro.module("encoder", self.encoder)
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(self.encoder(x.nan_to_num()), 1.0).to_event(1))
        """,
    )
    history = trained("--data holes.csv --labels sick --missing true --model masked.Masked")
    assert math.isfinite(history[-1]["train"])
    assert configured()["with_labels"]


def test_tables_that_are_refused(capsys):
    written("text.csv", "a,b\n1,2\n3,x\n")
    written("labels.csv", "a\n1\n2\n")
    written("holes.csv", HOLES)
    text = fails(capsys, "train --data text.csv")
    assert "text.csv is no table of numbers ('x' in line 3, column 'b'). Leave out columns of text" in text
    assert "no column but its labels" in fails(capsys, "train --data labels.csv --labels a")
    assert "has no column 'agee'; the nearest are age" in fails(capsys, "train --data holes.csv --labels agee")
    assert "or say --missing true where the programs" in fails(capsys, "train --data holes.csv --labels sick", QUICK)
    assert "Fill or drop what is" in fails(capsys, "train --data holes.csv --labels sick --missing true", QUICK)
    assert "does not apply to the data set 'digits'" in fails(capsys, "train --data digits --covariates 1")
