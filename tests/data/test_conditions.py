"""Data that come with a condition: quadrants of images, ambiguous digits, and what a pair is built for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from pyro_vae.data import Data, Split, Stored, as_data, load
from pyro_vae.data.ambiguous import ANNOTATORS, ambiguous_digits
from pyro_vae.data.prepared import with_x

GIVEN = {  # of an image 4 x 6, 1 where a pixel is given
    1: [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]],
    2: [[1, 1, 1, 0, 0, 0]] * 4,
    3: [[1, 1, 1, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2,
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("quadrants", [1, 2, 3])
def test_quadrants_divide_an_image(tmp_path, quadrants, in_memory):
    """x and its condition are all pixels, each once, and are put together again."""
    images = np.random.default_rng(0).integers(1, 256, (30, 2, 4, 6), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    plain = load(tmp_path / "images.npy", in_memory=in_memory)
    data = load(tmp_path / "images.npy", quadrants=quadrants, in_memory=in_memory)
    assert isinstance(data.train, Split if in_memory else Stored)
    given = torch.tensor(GIVEN[quadrants], dtype=torch.bool)
    assert torch.equal(data.missing, ~given)
    (whole,) = plain.train.take(7).tensors
    x, c = data.train.take(7).tensors
    assert x.shape == (7, 2 * int((~given).sum()))
    assert torch.equal(c, whole * given)
    x, c = data.train.take(7).batch(slice(None))
    assert torch.equal(data.completed(x, c), whole / 255)
    assert torch.equal(data.completed(x.expand(3, -1, -1), c)[2], whole / 255)
    assert data.condition_shape == (2, 4, 6)


def test_quadrants_keep_the_rest_where_x_is_binarized():
    data = load("digits", quadrants=2)
    binary = with_x(data, torch.Tensor.detach, "dynamic")
    assert torch.equal(binary.missing, data.missing)
    x, c = binary.train.batch(slice(50))
    assert sorted(x.unique().tolist()) == [0.0, 1.0]
    assert torch.equal(c, data.train.tensors[1][:50])
    assert torch.equal(binary.train.labels, load("digits").train.labels)


@pytest.mark.parametrize(
    ("name", "quadrants", "message"),
    [
        ("digits", 4, "quadrants is one of 1, 2, 3; got 4"),
        ("table", 1, r"quadrants are of images alone, .* have the shape \[7, 5\]"),
    ],
)
def test_quadrants_that_are_none(tmp_path, name, quadrants, message):
    np.save(tmp_path / "table.npy", np.random.default_rng(0).random((9, 5)))
    with pytest.raises(ValueError, match=message):
        load(name if name == "digits" else tmp_path / "table.npy", quadrants=quadrants)


def test_what_a_conditional_pair_is_built_for():
    x, y = torch.rand(9, 6), torch.tensor([0, 1, 2] * 3)
    numbers = torch.rand(9, 2, 3)
    assert load("digits").condition_shape == load("digits").with_labels().condition_shape == 10
    assert load("digits").condition_mean is None
    assert Data("d", Split(x, y), Split(x, y + 4)).condition_shape == 7
    given = as_data(TensorDataset(x, numbers))
    assert given.condition_shape == (2, 3)
    torch.testing.assert_close(given.condition_mean, numbers.mean(0))
    pixels = torch.randint(0, 256, (9, 3), dtype=torch.uint8)
    torch.testing.assert_close(as_data(TensorDataset(x, pixels)).condition_mean, (pixels / 255).mean(0))
    columns = torch.cat([torch.rand(9, 2) * 1000 - 300, torch.ones(9, 1)], -1)
    scale = as_data(TensorDataset(x, columns)).condition_scale
    torch.testing.assert_close(scale, torch.cat([columns[:, :2].std(0, correction=0), torch.ones(1)]))
    for other in (numbers, pixels, torch.rand(9, 3), y):
        assert as_data(TensorDataset(x, other)).condition_scale is None
    assert as_data(x).condition_shape is None
    assert as_data(torch.utils.data.DataLoader(TensorDataset(x, y))).condition_shape is None


def test_annotators_disagree_by_the_rule():
    """The five maps of an image, by the digits that it was made of; another seed makes others."""
    random = np.random.default_rng(0)
    digits = {part: (random.integers(0, 256, (20, 1, 28, 28)).astype(np.uint8), None) for part in ("train", "valid")}
    digits["test"] = digits["train"]
    faces = random.integers(0, 256, (1965, 28, 20)).astype(np.uint8)
    made = ambiguous_digits(digits, faces)
    for part, count in (("train", 3000), ("valid", 300), ("test", 400)):
        (maps, images), labels = made[part]
        assert labels is None
        assert maps.shape == (count * ANNOTATORS, 28, 28)
        assert images.shape == (count * ANNOTATORS, 1, 28, 28)
        one, two, three, four, five = maps.reshape(count, ANNOTATORS, 28, 28).swapaxes(0, 1)
        front, behind = three == 1, four == 2
        overlap = front & behind
        assert overlap.any((1, 2)).all()
        assert np.array_equal(one, np.where(front, 1, 2 * behind))
        assert np.array_equal(two[overlap], np.full(overlap.sum(), 2))
        assert np.array_equal(two[~overlap], one[~overlap])
        assert np.array_equal(three, 1 * front)
        assert np.array_equal(four, 2 * behind)
        assert np.array_equal(five, 1 * (front | behind))
        assert (images.reshape(count, ANNOTATORS, -1) == images.reshape(count, ANNOTATORS, -1)[:, :1]).all()
        level = images[::ANNOTATORS, 0]
        assert level[front].mean() > level[behind & ~front].mean() > level[~(front | behind)].mean()
    again, other = ambiguous_digits(digits, faces), ambiguous_digits(digits, faces, 1)
    assert np.array_equal(again["test"][0][1], made["test"][0][1])
    assert not np.array_equal(other["test"][0][1], made["test"][0][1])


def test_ambiguous_digits_of_real_images(root):
    data = load("ambiguous-digits", root, download=False)
    maps, images = data.train.batch(slice(10))
    assert (maps.dtype, images.dtype, data.condition_shape) == (torch.int64, torch.uint8, (1, 28, 28))
    with pytest.raises(ValueError, match=r"quadrants are of images alone, .* other arguments beside them"):
        load("ambiguous-digits", root, download=False, quadrants=1)
