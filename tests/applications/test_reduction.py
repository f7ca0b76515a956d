"""Dimensionality reduction: scores by brute force, and a linear VAE at its optimum, whose codes are principal ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pairs import LinearGaussian, hierarchy
from sklearn.decomposition import PCA
from torch import Tensor

from pyro_vae.applications.reduction import (
    Reduction,
    _figure,
    continuity,
    neighbor_accuracy,
    reduce,
    trustworthiness,
)
from pyro_vae.data import Data, Split

RNG = np.random.default_rng(0)


def ranks(points: np.ndarray) -> np.ndarray:
    """``[N, N]``: j is the rank-th nearest of i, 0 for i itself."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return distances.argsort(1).argsort(1)


def test_trustworthiness_and_continuity_are_their_formula() -> None:
    x, codes, k, count = RNG.normal(size=(30, 5)), RNG.normal(size=(30, 2)), 4, 30
    of_x, of_codes = ranks(x), ranks(codes)

    def score(true: np.ndarray, shown: np.ndarray) -> float:
        strangers = (shown > 0) & (shown <= k) & (true > k)
        return 1 - 2 / (count * k * (2 * count - 3 * k - 1)) * (true - k)[strangers].sum()

    assert trustworthiness(x, codes, k) == pytest.approx(score(of_x, of_codes))
    assert continuity(x, codes, k) == pytest.approx(score(of_codes, of_x))
    assert score(of_x, of_codes) != pytest.approx(score(of_codes, of_x))
    assert trustworthiness(torch.tensor(x), x @ np.linalg.qr(RNG.normal(size=(5, 5)))[0], k) == pytest.approx(1)


def test_random_codes_are_trusted_by_half() -> None:
    assert trustworthiness(RNG.normal(size=(500, 5)), RNG.normal(size=(500, 2))) == pytest.approx(0.5, abs=0.02)


def test_neighbor_accuracy_is_a_vote() -> None:
    codes, held = RNG.normal(size=(60, 3)), RNG.normal(size=(40, 3))
    labels, held_labels = (codes[:, 0] > 0) + (codes[:, 1] > 0), (held[:, 0] > 0) + (held[:, 1] > 0)
    labels, held_labels = labels.astype(int), held_labels.astype(int)
    nearest = np.linalg.norm(held[:, None] - codes[None], axis=-1).argsort(1)[:, :5]
    votes = np.array([np.bincount(labels[row]).argmax() for row in nearest])
    found = neighbor_accuracy(torch.tensor(codes), labels, held, torch.tensor(held_labels), 5)
    assert found == pytest.approx((votes == held_labels).mean())
    assert 0.4 < found < 1


def linear_vae(x: np.ndarray, latent_dim: int, scale: float) -> LinearGaussian:
    """The best one: W = U (eigenvalues - scale^2)^(1/2) R with some rotation R, b the mean."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1][:latent_dim], vectors[:, ::-1][:, :latent_dim]
    rotation = np.linalg.qr(RNG.normal(size=(latent_dim, latent_dim)))[0]
    weights = vectors * np.sqrt(np.maximum(values - scale**2, 0)) @ rotation
    return LinearGaussian(torch.tensor(weights).float(), torch.tensor(x.mean(0)).float(), scale)


def toy(size: int = 300, *, labeled: bool = True) -> Data:
    """Four overlapping classes in six dimensions of different scales."""
    classes = np.arange(2 * size) % 4
    centres = RNG.normal(size=(4, 6)) * 1.2
    x = (centres[classes] + RNG.normal(size=(2 * size, 6))) * np.array([3.0, 2.0, 1.5, 1.0, 0.5, 0.3])
    splits = [
        Split(x[part].astype(np.float32), labels=classes[part] if labeled else None)
        for part in (slice(size), slice(size, None))
    ]
    return Data("toy", splits[0], test=splits[1])


def reduced(pair: Any, data: Data, **options: Any) -> Reduction:
    return reduce(pair, data, **{"progress": False, "num_neighbors": 5, **options})


def any_pair(size: int = 2, kind: Any = LinearGaussian) -> Any:
    return kind(torch.randn(6, size), torch.zeros(6), 0.5)


def test_codes_of_the_best_linear_vae_are_whitened_principal_components() -> None:
    data = toy()
    assert isinstance(data.train, Split)
    result = reduced(linear_vae(data.train.tensors[0].double().numpy(), 3, 0.01), data)
    codes, whitened = (result.representations[name] for name in ("E[z | x]", "PCA, 3 dimensions, whitened"))
    plain, whole = (result.representations[name] for name in ("PCA, 3 dimensions", "x"))
    assert result.num_active == 3
    assert list(result.representations) == ["x", "E[z | x]", "PCA, 3 dimensions", "PCA, 3 dimensions, whitened"]
    assert codes.accuracy == pytest.approx(whitened.accuracy, abs=0.004)  # one datum of 300
    assert codes.trustworthiness == pytest.approx(whitened.trustworthiness, abs=1e-4)
    assert codes.continuity == pytest.approx(whitened.continuity, abs=1e-4)
    assert plain.trustworthiness > whitened.trustworthiness + 0.005  # whitening bends distances
    assert whole.trustworthiness == pytest.approx(1)
    assert (whole.dimensions, codes.dimensions, plain.dimensions) == (6, 3, 3)
    assert codes.accuracy_error == pytest.approx(np.sqrt(codes.accuracy * (1 - codes.accuracy) / 300))


def test_principal_components_are_fitted_to_the_training_data() -> None:
    data = toy()
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    x, held = data.train.tensors[0].numpy(), data.test.tensors[0].numpy()
    pca = PCA(2).fit(x)
    wanted = neighbor_accuracy(pca.transform(x), data.train.labels, pca.transform(held), data.test.labels)
    result = reduced(linear_vae(x.astype(float), 2, 0.1), data)
    assert result.representations["PCA, 2 dimensions"].accuracy == pytest.approx(wanted)


def test_pca_of_as_many_dimensions_as_units_are_active() -> None:
    data = toy()
    assert isinstance(data.train, Split)
    pair = linear_vae(data.train.tensors[0].double().numpy(), 4, 1.0)
    with torch.no_grad():
        pair.W[:, 1:] = 0  # these units tell nothing: their codes are 0
    result = reduced(pair, data)
    assert result.num_active == 1
    assert [quality.dimensions for quality in result.representations.values()] == [6, 4, 4, 4, 1, 1]


def test_whitening_leaves_out_what_is_rounding() -> None:
    x = RNG.normal(size=(200, 2)).astype(np.float32) @ RNG.normal(size=(2, 6)).astype(np.float32)
    pair = LinearGaussian(torch.randn(6, 4), torch.zeros(6), 0.5)
    result = reduced(pair, Data("plane", Split(x[:100]), test=Split(x[100:])))
    assert result.representations["PCA, 2 dimensions, whitened"].dimensions == 2
    assert "PCA, 4 dimensions" not in result.representations


def test_without_labels_neighbors_alone(capsys: pytest.CaptureFixture[str]) -> None:
    data = toy(labeled=False)
    pair = any_pair()
    result = reduced(pair, data)
    assert all(quality.accuracy is None for quality in result.representations.values())
    said = capsys.readouterr().out
    assert "No accuracy" in said
    assert "accuracy" not in said.splitlines()[0]
    with pytest.raises(ValueError, match=r"accuracy needs a class.*'toy' has none"):
        reduced(pair, data, accuracy=True)
    assert reduced(pair, toy(), accuracy=False).representations["x"].accuracy is None


class Drawn(LinearGaussian):
    """Its guide has no known mean, so that its codes are draws."""

    def guide(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", Unknown(self.W.new_zeros(len(x), 2), 1.0).to_event(1))


class Unknown(dist.Normal):
    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    mode = mean


@pytest.mark.parametrize("family", [LinearGaussian, Drawn])
def test_the_random_state_stays_and_the_seed_tells_all(family: Any, random_states_kept: Any) -> None:
    pair, data = family(torch.randn(6, 2), torch.zeros(6), 0.5), toy()
    with random_states_kept():
        first, again, other = (reduced(pair, data, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert (first.representations["E[z | x]"] == other.representations["E[z | x]"]) == (family is LinearGaussian)


def test_one_of_several_latents() -> None:
    pair, (x,) = hierarchy()
    x = torch.cat([x] * 4)
    x = (x + (torch.rand(x.shape) < 0.05)) % 2
    data = Data("two", Split(x), valid=Split(x))
    with pytest.raises(ValueError, match=r"are z2, z1, and none was chosen"):
        reduced(pair, data, num_neighbors=2)
    with pytest.raises(ValueError, match=r"'z3' was asked for"):
        reduced(pair, data, num_neighbors=2, site="z3")
    for site, dimensions in (("z1", 3), ("z2", 2)):
        result = reduced(pair, data, num_neighbors=2, site=site)
        assert result.representations[f"E[{site} | x]"].dimensions == dimensions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors has to be a whole number of at least 1; got 0"),
        ({"num_neighbors": 150}, "from 1 to 149, below half of the 300"),
        ({"num_neighbors": 6, "num_ranked": 12}, "from 1 to 5"),
        ({"num_data": 0}, "num_data has to be a whole number of at least 1; got 0"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reduced(any_pair(), toy(), **options)


def test_what_cannot_be_judged() -> None:
    pair, x = any_pair(), torch.randn(50, 6)
    with pytest.raises(ValueError, match="only a training set"):
        reduced(pair, Data("alone", Split(x)))
    pair.b.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        reduced(pair, toy())


def test_the_same_seed_chooses_the_same_data() -> None:
    pair, data = any_pair(), toy()
    first, again, other = (reduced(pair, data, num_data=100, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert (first.num_train, first.num_held, first.num_ranked) == (100, 100, 100)


def test_numbers_and_figure_are_written(tmp_path: Path) -> None:
    pair = LinearGaussian(torch.randn(6, 3), torch.zeros(6), 0.5)
    result = reduced(pair, toy(), out=str(tmp_path))
    numbers = json.loads((tmp_path / "reduce.json").read_text())
    assert numbers["representations"]["x"]["accuracy"] == result.representations["x"].accuracy
    assert (tmp_path / "reduce.png").stat().st_size > 10_000


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def shown(figure: Figure, panel: int) -> np.ndarray:
    return np.asarray(figure.axes[panel].collections[0].get_offsets())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_figure_holds_codes_beside_components(size: int) -> None:
    codes, x = RNG.normal(size=(2, 40, size)), RNG.normal(size=(2, 40, 6))
    figure = _figure("z", (codes[0], codes[1]), (x[0], x[1]), np.arange(40) % 3)
    assert titles(figure) == [f"E[z | x], {size} dimension{'s' * (size > 1)}", "PCA of the data"]
    np.testing.assert_allclose(shown(figure, 1), PCA(2).fit(x[0]).transform(x[1]))
    if size == 2:
        np.testing.assert_array_equal(shown(figure, 0), codes[1])
    if size == 1:
        assert not shown(figure, 0)[:, 1].any()


def test_images_on_the_way(tmp_path: Path) -> None:
    """Data of any event shape are taken as vectors."""
    x: Tensor = torch.rand(60, 1, 2, 3)
    pair = any_pair()

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = pair

        def model(self, x: Tensor) -> Tensor:
            return self.inner.model(x.flatten(1))

        def guide(self, x: Tensor) -> Tensor:
            return self.inner.guide(x.flatten(1))

    result = reduced(Flat(), Data("images", Split(x), test=Split(x)))
    assert result.representations["x"].dimensions == 6
