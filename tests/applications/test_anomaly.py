"""Anomaly detection: scores against closed forms, what is held out, and the application from end to end."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

from pyro_vae import plotting
from pyro_vae.applications import anomaly as room
from pyro_vae.applications import report
from pyro_vae.data import Split, load
from pyro_vae.plotting.anomaly import held_out_classes as draw


def legacy_state():
    """Numpy's global random state."""
    return np.random.get_state()[1].tolist()  # noqa: NPY002


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x ~ N(W z, scale^2 I) with orthogonal columns of W; the guide is the posterior, ``wide`` times."""

    def __init__(self, lengths=(2.0, 0.7), event_dim=5, scale=0.5, wide=1.0):
        super().__init__()
        basis = torch.linalg.qr(torch.randn(event_dim, event_dim, generator=torch.Generator().manual_seed(3))).Q
        self.weight = nn.Parameter(basis[:, : len(lengths)] * torch.tensor(lengths))
        self.scale, self.wide = scale, wide

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.weight.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.scale).to_event(1), obs=x)

    def guide(self, x):
        variance = 1 / (1 + self.weight.square().sum(0) / self.scale**2)
        with pyro.plate("data", len(x)):
            loc = x @ self.weight * variance / self.scale**2
            pyro.sample("z", dist.Normal(loc, self.wide * variance.sqrt()).to_event(1))

    def marginal(self, stretch=1.0):
        """p(x), or the same with its scale ``stretch`` times as large."""
        weight = self.weight.detach()
        covariance = weight @ weight.T + self.scale**2 * torch.eye(len(weight))
        return dist.MultivariateNormal(torch.zeros(len(weight)), stretch**2 * covariance)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return LinearGaussian().marginal(1.5).sample((400,))


def test_evidence_is_exact_with_the_posterior_as_guide(x):
    pair = LinearGaussian()
    exact = -pair.marginal().log_prob(x)
    scores = room.minus_log_evidence(pair, x, 5, compile="traced")
    torch.testing.assert_close(scores, exact, atol=1e-4, rtol=1e-5)
    assert torch.equal(scores.argsort(), exact.argsort())
    wide = room.minus_log_evidence(LinearGaussian(wide=1.2), x, 2000, compile="traced")
    torch.testing.assert_close(wide, exact, atol=0.1, rtol=0)


def test_minus_elbo_is_above_by_the_divergence_of_the_guide(x):
    wide, num_samples = 1.4, 400
    pair = LinearGaussian(wide=wide)
    state = torch.get_rng_state()
    gap = room.minus_elbo(pair, x, num_samples, chunk=1000) + pair.marginal().log_prob(x)
    assert torch.equal(torch.get_rng_state(), state)
    divergence = 2 * ((wide**2 - 1) / 2 - math.log(wide))  # KL(q || p(z | x)) of two units
    assert gap.shape == (400,)
    assert gap.mean().item() == pytest.approx(divergence, abs=5 * gap.std().item() / math.sqrt(len(x)))
    exact = room.minus_elbo(LinearGaussian(), x, 1)
    torch.testing.assert_close(exact, -pair.marginal().log_prob(x), atol=1e-4, rtol=1e-5)


def test_minus_elbo_is_of_the_pair_in_evaluation_mode(x):
    class Dropped(LinearGaussian):
        def guide(self, x):
            assert not self.training
            super().guide(x)

    pair = Dropped().train()
    room.minus_elbo(pair, x[:3])
    assert pair.training


def test_likelihood_ratio(x):
    pair, background = LinearGaussian(), LinearGaussian((1.0, 0.3), scale=0.9)
    exact = background.marginal().log_prob(x) - pair.marginal().log_prob(x)
    torch.testing.assert_close(
        room.likelihood_ratio(pair, background, x, 5, compile="traced"), exact, atol=1e-4, rtol=1e-5
    )


def test_complexity_is_the_length_of_the_code():
    """Of random bytes 8 bits each and a few of overhead; of a constant next to nothing; alike in bits and bytes."""
    torch.manual_seed(0)
    noise = torch.randint(256, (2, 1, 30, 30)) / 255
    images = torch.cat([noise, torch.zeros(1, 1, 30, 30), (noise[:1] > 0.5).float()])
    first, second, constant, binary = room.compressed(images).tolist()
    for length in (first, second):
        assert 900 * 8 * math.log(2) <= length < 930 * 8 * math.log(2)
    assert constant < 20 * 8 * math.log(2)
    assert 900 * math.log(2) <= binary < 2 * 900 * math.log(2)  # no code of fair coins is shorter than they are
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]; got values from 0 to 2"):
        room.compressed(2 * (images > 0.5))


def test_complexity_is_taken_from_the_score():
    torch.manual_seed(0)
    pair, x = LinearGaussian(), torch.rand(20, 5)
    found = room.complexity_corrected(pair, x, 5, compile="traced")
    torch.testing.assert_close(found, -pair.marginal().log_prob(x) - room.compressed(x), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("stretch", [1.2, 1.6, 2.5])
def test_auroc_of_two_gaussians(stretch):
    """-log p is half a squared Mahalanobis distance, chi-squared; the ratio of two of them is F-distributed."""
    torch.manual_seed(1)
    pair, count = LinearGaussian(), 4000
    sides = [pair.marginal(factor).sample((count,)) for factor in (1.0, stretch)]
    found = room.auroc(*(room.minus_log_evidence(pair, side, 2, compile="traced") for side in sides))
    exact = stats.f(5, 5).sf(1 / stretch**2)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / count))


def test_auroc_counts_pairs():
    torch.manual_seed(2)
    normal, anomalous = torch.randint(6, (40,)), torch.randint(3, 9, (30,))
    above, equal = anomalous[:, None] > normal, anomalous[:, None] == normal
    assert room.auroc(normal, anomalous) == pytest.approx((above.double() + 0.5 * equal).mean().item())
    assert room.auroc(torch.zeros(3), torch.ones(2)) == 1
    assert room.auroc(torch.ones(3), torch.zeros(2)) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_perturbed_pixels(dtype):
    """Pixels are 1 with probability (1 - rate) g + rate / 2, drawn anew."""
    gray = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(3000, 3)
    x = gray if dtype == torch.uint8 else gray / 255
    split = room.perturbed(Split(x, labels=torch.arange(3000), binarization="dynamic"), 0.3)
    drawn = torch.stack([split.batch(slice(None), draw=number)[0] for number in range(2)])
    assert drawn.unique().tolist() == [0, 1]
    assert not torch.equal(*drawn)
    expected = torch.tensor([0.15, 0.7 * 0.2 + 0.15, 0.85])
    error = (expected * (1 - expected) / 6000).sqrt()
    assert ((drawn.mean((0, 1)) - expected).abs() < 4 * error).all()
    assert torch.equal(split.labels, torch.arange(3000))


def test_without():
    train = load("digits").train
    kept = room.without(train, 4)
    rows = (train.labels != 4).nonzero()[:, 0]
    assert set(kept.labels.tolist()) == set(range(10)) - {4}
    assert torch.equal(kept.tensors[0], train.tensors[0][rows])
    assert torch.equal(kept.labels, train.labels[rows])
    dynamic = room.without(load("digits", binarization="dynamic").train, 4)
    assert dynamic.binarization == "dynamic"


SMALL = {"num_train": 300, "hidden": (16,), "latent_dim": 4, "epochs": 2, "num_samples": 5, "progress": False}


def test_nothing_is_trained_on_the_class_held_out(monkeypatch):
    seen = []

    def fit(pair, data, **options):
        seen.append(data)
        return original(pair, data, **options)

    original = room.fit
    monkeypatch.setattr(room, "fit", fit)
    room.anomaly("digits", 3, **SMALL)
    train = load("digits").train
    images = train.tensors[0][:300][train.labels[:300] != 3] / 255
    ordinary, noisy = (data.train.tensors[0] for data in seen)
    torch.testing.assert_close(ordinary / 255, images)
    torch.testing.assert_close(noisy, 0.8 * images + 0.1)
    assert all(data.valid is None and data.test is None for data in seen)


@pytest.fixture
def three(tmp_path):
    """A file of digits 1, 4 and 7."""
    splits = {"train": load("digits").train, "test": load("digits").test}
    arrays = {}
    for name, split in splits.items():
        rows = torch.isin(split.labels, torch.tensor([1, 4, 7]))
        arrays |= {f"x_{name}": split.tensors[0][rows, 0].numpy(), f"y_{name}": split.labels[rows].numpy()}
    np.savez(tmp_path / "three.npz", **arrays)
    return str(tmp_path / "three.npz")


def test_application(three, tmp_path, capsys):
    state, numpy_state = torch.get_rng_state(), legacy_state()
    found = room.anomaly(three, num_test=60, out=str(tmp_path), **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert legacy_state() == numpy_state
    assert found.classes == [1, 4, 7]
    assert list(found.auroc) == list(room.METHODS)
    assert all(0 <= value <= 1 for values in found.auroc.values() for value in values)
    assert found.mean["PCA"] == pytest.approx(np.mean(found.auroc["PCA"]))
    assert found.mean["PCA"] > 0.6
    stored = json.loads((tmp_path / "anomaly.json").read_text(encoding="utf-8"))
    assert stored["auroc"] == found.auroc
    assert stored["test_size"] == 60
    assert (tmp_path / "anomaly.png").stat().st_size > 10_000
    lines = capsys.readouterr().out.splitlines()
    assert "60 test images of three" in lines[0]
    assert lines[-1].split()[-2:] == [f"{found.mean[name]:.3f}" for name in ("PCA", "isolation forest")]
    (again,) = room.anomaly(three, 7, num_test=60, **SMALL).auroc["likelihood ratio"]
    assert again == found.auroc["likelihood ratio"][2]


def test_baselines_are_those_of_scikit_learn():
    """PCA: the squared distance from the affine plane of the first components, by a singular value decomposition."""
    found = room.anomaly("digits", 0, **SMALL)
    data = load("digits")
    train, test = data.train.tensors[0][:300].flatten(1) / 255, data.test.tensors[0].flatten(1) / 255
    train = train[data.train.labels[:300] != 0].double()
    components = torch.linalg.svd(train - train.mean(0)).Vh[:4]
    centered = test.double() - train.mean(0)
    error = (centered - centered @ components.T @ components).square().sum(1)
    strange = data.test.labels == 0
    assert found.auroc["PCA"][0] == pytest.approx(room.auroc(error[~strange], error[strange]), abs=2e-3)


def test_a_trained_pair_finds_what_is_strange():
    """Images of four bits, each the color of a block of nine pixels, against noise of the same mean."""
    torch.manual_seed(0)
    images = torch.randint(2, (600, 1, 2, 2)).repeat_interleave(3, 2).repeat_interleave(3, 3).float()
    train = Split(images[:400], binarization="dynamic")
    settings = {"latent_dim": 6, "hidden": (32,), "epochs": 40, "batch_size": 50, "seed": 0}
    options = {"compile": "traced", "progress": False}
    pair, background = (room._trained(split, train.mean(), settings, options) for split in (train, _noisy(train)))
    x, noise = images[400:], torch.randint(2, (200, 1, 6, 6)).float()
    for score in (room.minus_elbo, room.minus_log_evidence):
        assert room.auroc(score(pair, x), score(pair, noise)) > 0.99
    ratios = [room.likelihood_ratio(pair, background, side, compile="traced") for side in (x, noise)]
    assert room.auroc(*ratios) > 0.99


def _noisy(split):
    return room.perturbed(split, 0.5)


def test_sentences(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (60, 6, 6)).astype("uint8")
    np.save(tmp_path / "plain.npy", images)
    with pytest.raises(ValueError, match="has no labels, so that no class can be held out"):
        room.anomaly(str(tmp_path / "plain.npy"), **SMALL)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "untested.npz", x_train=images, y_train=labels, x_valid=images, y_valid=labels)
    with pytest.raises(ValueError, match="has no test set"):
        room.anomaly(str(tmp_path / "untested.npz"), **SMALL)
    with pytest.raises(ValueError, match=r"held_out is 12, .* its classes are 0, 1, 2"):
        room.anomaly("digits", 12, **SMALL)
    split = Split(images, labels=labels.astype("float32"))
    with pytest.raises(ValueError, match="expected one whole number for each datum"):
        room.classes(split)
    with pytest.raises(ValueError, match="with it held out none are left"):
        room.classes(Split(images, labels=np.zeros(60, int)))
    with pytest.raises(ValueError, match="perturbed by their draws"):
        room.perturbed(split, 0.2)
    with pytest.raises(ValueError, match=r"rate has to be .* above 0 and at most 1"):
        room.perturbed(Split(images, binarization="dynamic"), 0)
    with pytest.raises(ValueError, match="num_samples"):
        room.minus_log_evidence(LinearGaussian(), torch.zeros(3, 5), 0)


def test_figure(tmp_path):
    generator = np.random.default_rng(0)
    auroc = {"one": [0.9, 0.5, 0.7], "two": [0.6, 0.8, 1.0]}
    scores = {"-log p(x)": (generator.normal(size=500), 3 + generator.normal(size=50))}
    figure = draw(auroc, [0, 1, 5], scores, "5")
    top, below = figure.axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["0", "1", "5", "mean"]
    drawn = {line.get_label(): line.get_ydata() for line in top.lines[:2]}
    np.testing.assert_allclose(drawn["two"], [0.6, 0.8, 1.0, 0.8])
    assert below.get_xlabel() == "\N{MINUS SIGN}log p(x) (nats)"
    assert plotting.save(figure, tmp_path / "anomaly.png").exists()
    assert len(draw(auroc, [0, 1, 5], {}, "5").axes) == 1
    same = draw(auroc, [0, 1, 5], {"constant": (np.ones(3), np.ones(2))}, "5")
    assert plotting.save(same, tmp_path / "constant.png").exists()
    for wrong, sentence in (
        (({}, [0], {}, "0"), "nothing to draw"),
        (({"one": [0.5]}, [0, 1], {}, "0"), "expected one for each of 2 classes"),
        (({"one": [1.5]}, [0], {}, "0"), "expected \\[0, 1\\]"),
        (({"one": [0.5]}, [0], {"s": ([], [1.0])}, "0"), "0 normal and 1 anomalous"),
        (({"one": [0.5]}, [0], {"s": ([math.nan], [1.0])}, "0"), "NaN"),
    ):
        with pytest.raises(ValueError, match=sentence):
            draw(*wrong)


def test_report(tmp_path):
    text = report.table(("method", "AUROC", "n"), [("PCA", "0.9", 3), ("VAE, wide", "0.95 (0.01)", None)])
    assert text.splitlines() == [
        "method           AUROC  n",
        "PCA                0.9  3",
        "VAE, wide  0.95 (0.01)  -",
    ]
    assert report.table(("one", "two"), []) == "one  two"
    with pytest.raises(ValueError, match="2 cells and the header 1"):
        report.table(("one",), [(1, 2)])
    figure = draw({"one": [0.5]}, [0], {}, "0")
    numbers = {"a": torch.tensor([1.0, 2.0]), "b": np.float32(3), "c": tmp_path}
    paths = report.write(tmp_path / "new", "name", numbers, {"name": figure, "more": figure})
    assert [path.name for path in paths] == ["name.json", "name.png", "name_more.png"]
    assert json.loads(paths[0].read_text()) == {"a": [1.0, 2.0], "b": 3.0, "c": str(tmp_path)}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        report.write(tmp_path, "name", {"a": object()}, {})
