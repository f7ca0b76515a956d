"""Classes of few labels: what is drawn, what is judged, and the whole of it on images that are easy to tell apart."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import SGVB_A, Gaussian, applications
from pyro_vae.applications.labels import Classifier, Stacked, analogies, balanced, by_class, classified, labels
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE, SemiSupervisedVAE
from pyro_vae.plotting import classes_and_styles

SHAPE = (1, 4, 6)


def legacy_state() -> list[int]:
    """Numpy's global random state."""
    return np.random.get_state()[1].tolist()  # type: ignore[index,union-attr] # noqa: NPY002


def test_labels_are_balanced_and_seeded() -> None:
    y = torch.arange(90) % 3
    rows = balanced(y, 12, seed=1)
    assert torch.bincount(y[rows]).tolist() == [4, 4, 4]
    assert len(rows.unique()) == 12
    assert torch.equal(rows, balanced(y, 12, seed=1))
    assert not torch.equal(rows, balanced(y, 12, seed=2))
    assert sorted(torch.bincount(y[balanced(y, 14)]).tolist()) == [4, 5, 5]
    more = {tuple(torch.bincount(y[balanced(y, 13, seed)]).tolist()) for seed in range(20)}
    assert len(more) == 3  # which class has one more is drawn too
    assert torch.equal(balanced(y, 90), torch.arange(90))


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "num_labels=1 has to be from 2, one for each class, to 12"),
        (13, "num_labels=13 has to be from 2, .* to 12, the number of training data"),
        (8, "num_labels=8 asks for 4 data of class 1, of which there are 2"),
    ],
)
def test_labels_that_the_data_do_not_have(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced(torch.tensor([0] * 10 + [1] * 2), count)


def test_the_classifier_alone_is_the_cross_entropy() -> None:
    x, y = torch.randn(7, 5), torch.tensor([0, 1, 2, 2, 1, 0, 1])
    network = nn.Linear(5, 3)
    expected = -nn.functional.cross_entropy(network(x), y, reduction="none").detach()
    torch.testing.assert_close(SGVB_A().bound(Classifier(network), x, y), expected)


def stack(features: bool) -> Stacked:
    torch.manual_seed(0)
    if not features:
        return Stacked(SemiSupervisedVAE(SHAPE, 3, 2, (8,)))
    likelihood = functools.partial(Gaussian, sigmoid_mean=False)
    return Stacked(SemiSupervisedVAE((4,), 3, 2, (8,), likelihood=likelihood), MLPVAE(SHAPE, 4, (8,)))


@pytest.mark.parametrize("features", [True, False])
def test_classes_and_styles_of_a_pair(features: bool) -> None:
    pair, z, x = stack(features), torch.randn(5, 2), torch.rand(6, *SHAPE)
    images = by_class(pair, z)
    assert images.shape == (5, 3, *SHAPE)
    torch.testing.assert_close(images[2, 1], pair.mean(z[2], torch.tensor(1)).detach())
    moved = analogies(pair, x)
    y = pair.classify(x).probs.argmax(1)
    codes = pair.features.posterior(x).mean if features else x
    style = pair.semi_supervised.encode(codes, y).mean
    torch.testing.assert_close(moved[4, 2], pair.mean(style[4], torch.tensor(2)).detach())
    assert not torch.allclose(analogies(pair, x, (y + 1) % 3), moved)
    gray = Split((255 * x).to(torch.uint8), binarization="dynamic")
    seen = gray.tensors[0].float() / 255
    assert torch.equal(classified(pair, gray), pair.classify(seen).logits.argmax(1))


def easy(path: Path, labeled: bool = True, classes: int = 2) -> str:
    """Images that are bright on the left or on the right, whose labels are 3 and 7."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", 200), ("test", 40)):
        y = np.arange(size) % classes
        x = rng.integers(0, 60, (size, *SHAPE))
        x[y == 0, ..., :3] += 190
        x[y == 1, ..., 3:] += 190
        arrays[f"x_{part}"] = x.astype(np.uint8)
        if labeled:
            arrays[f"y_{part}"] = np.array([3, 7])[y]
    np.savez(path / "easy.npz", **arrays)
    return str(path / "easy.npz")


@pytest.mark.parametrize("num_features", [3, 0])
def test_the_application(tmp_path: Path, num_features: int, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_vae.applications.labels._STEPS_ALONE", 100)
    assert applications.function("labels") is labels
    before, numpy_before = torch.get_rng_state(), legacy_state()
    found = labels(
        easy(tmp_path),
        4,
        num_features=num_features,
        latent_dim=2,
        hidden=8,
        feature_epochs=10,
        epochs=8,
        batch_size=20,
        lr=1e-2,
        out=str(tmp_path / "out"),
        progress=False,
    )
    name = "M1 + M2" if num_features else "M2"
    assert torch.equal(torch.get_rng_state(), before)
    assert legacy_state() == numpy_before
    assert found.classes == [3, 7]
    assert (found.num_labels, found.num_data, found.num_test) == (4, 200, 40)
    assert found.methods[name].error < 0.1
    assert found.methods["labeled data alone: classifier"].error < 0.1
    assert ("labeled data alone: classifier of codes" in found.methods) == bool(num_features)
    stored = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert stored["methods"][name]["error"] == found.methods[name].error
    assert (tmp_path / "out" / "labels.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "4 of 200 training data have a label" in printed
    assert "Published" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "num_labels=1 has to be from 2"),
        ({"num_labels": 201}, "to 200, the number of training data"),
        ({"num_labels": 2, "num_data": 0}, "num_data has to be a whole number of at least 1; got 0"),
        ({"num_labels": 2, "num_data": 1}, "has the class ., which the 1 training data have not"),
    ],
)
def test_refuses(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels(easy(tmp_path), **options, progress=False)


def test_data_without_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the training set of 'easy' has no labels.*mnist.*y_train"):
        labels(easy(tmp_path, labeled=False), 2, progress=False)


def test_a_figure_is_of_images(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 200, (40, 5)).astype(np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "flat.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match=r"shows images \[C, H, W\], .* the shape \[5\]"):
        labels(str(tmp_path / "flat.npz"), 4, out=str(tmp_path / "out"), progress=False)


def test_the_figure_names_what_does_not_fit() -> None:
    left, data, right = np.zeros((3, 5, 4, 6)), np.zeros((2, 4, 6)), np.zeros((2, 3, 4, 6))
    figure = classes_and_styles(left, data, right, classes="abc")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["datum", "a", "b", "c"]
    for samples, originals, moved, classes in (
        (left, data, right, "ab"),
        (left, data[:1], right, "abc"),
        (left, data, right[:, :2], "abc"),
        (left[..., :4], data, right, "abc"),
    ):
        with pytest.raises(ValueError, match="expected K = "):
            classes_and_styles(samples, originals, moved, classes=classes)
    with pytest.raises(ValueError, match=r"samples have shape \[5, 4, 6\]; expected \[K, S, C, H, W\]"):
        classes_and_styles(left[0], data, right, classes="abc")
