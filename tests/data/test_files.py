"""load: arrays, archives and folders of images of one's own."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from samples import LIMIT, everything, gray, parts_of, same

from pyro_vae.data import load

# load: arrays of one's own


@settings(max_examples=20, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4),
        elements=st.integers(0, 1),
    ),
    n=st.integers(1, 40),
)
def test_arrays_of_any_shape(tmp_path_factory, array, n):
    path = tmp_path_factory.mktemp("array") / "a.npy"
    if array.dtype == np.uint8:
        array = array * np.uint8(255)
    elif array.dtype == np.float64:
        array[0, ..., 0] = -1.5  # no pixels
    array = np.resize(array, (n, *array.shape[1:]))
    np.save(path, array)
    found = load(path)
    expected = array[:, None] if array.ndim == 3 and array.dtype != np.float64 else array
    assert found.event_shape == expected.shape[1:]
    assert [len(s) for s in parts_of(found)[1:]] == ([round(0.1 * n)] * 2 if round(0.1 * n) else [])
    x = everything(found)
    assert sorted(x.flatten(1).double().tolist()) == sorted(expected.reshape(n, -1).astype(float).tolist())


def test_sizes_of_the_splits(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(50.0)[:, None])
    for options, sizes in (
        ({}, [40, 5, 5]),
        ({"valid_size": 7}, [38, 7, 5]),
        ({"valid_size": 0.5, "test_size": 0.2}, [15, 25, 10]),
        ({"valid_size": 0, "test_size": 0}, [50]),
        ({"test_size": 0.0, "valid_size": np.int64(9)}, [41, 9]),
    ):
        found, again, other = (load(tmp_path / "a.npy", seed=s, **options) for s in (0, 0, 1))
        assert [len(s) for s in parts_of(found)] == sizes
        assert sorted(everything(found)[:, 0].tolist()) == list(range(50))
        assert same(again.train.tensors, found.train.tensors)
        assert same(other.train.tensors, found.train.tensors) is (sizes == [50])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"valid_size": 30, "test_size": 20}, ValueError, r"50 data, and 30 to validate and 20 to test leave none"),
        ({"valid_size": 1.0}, ValueError, r"valid_size is 1\.0"),
        ({"test_size": -1}, ValueError, r"test_size is -1"),
        ({"test_size": float("nan")}, ValueError, r"test_size is nan"),
        ({"test_size": "a tenth"}, TypeError, r"'a tenth'"),
        ({"valid_size": True}, TypeError, r"True"),
        ({"image_size": 8}, ValueError, r"image_size=8 does not apply to the array file"),
    ],
)
def test_refusals_of_sizes(tmp_path, options, error, match):
    np.save(tmp_path / "a.npy", np.arange(50.0)[:, None])
    with pytest.raises(error, match=match):
        load(tmp_path / "a.npy", **options)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros(5), r"shape \[5\].*\[N, D\]"),
        (np.zeros((2, 1, 1, 3, 3)), r"shape \[2, 1, 1, 3, 3\]"),
        (np.zeros((9, 28, 28, 3)), r"looks like \[N, H, W, C\].*transpose"),
        (np.zeros((0, 4)), r"empty"),
    ],
)
def test_refusals_of_arrays(tmp_path, array, match):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=match):
        load(tmp_path / "a.npy")


def test_files_that_cannot_be_read(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"x": 1}]), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{"x": 1}]), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1, 2, 3]))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("objects.npy", "objects.npz", "pickle.npy", "empty.npy", "broken.npz"):
        with pytest.raises(ValueError, match=rf"{re.escape(name)} could not be read.*never unpickled"):
            load(tmp_path / name)
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.pt' is a file of a kind that load\(\) does not read.*\.npy"):
        load(tmp_path / "a.pt")


def test_npz_with_splits_of_its_own(tmp_path):
    x = {f"x_{part}": gray(n, seed=n).numpy() for part, n in (("train", 30), ("val", 6), ("test", 4))}
    np.savez(tmp_path / "a.npz", **x, y_train=np.arange(30), y_test=np.arange(4))
    found = load(str(tmp_path / "a.npz"), binarization="dynamic")
    assert found.describe() == "a: 30 train, 6 valid, 4 test images of 1 x 4 x 5, binarization dynamic"
    assert found.train.tensors[0].equal(gray(30, seed=30))
    assert found.train.labels.tolist() == list(range(30))
    assert (found.valid.labels, found.test.labels.tolist()) == (None, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"valid_size=5 was given, but .* has a valid set of its own"):
        load(tmp_path / "a.npz", valid_size=5)


def test_npz_with_train_and_test_is_cut_only_when_asked(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.arange(30.0)[:, None], test=np.arange(100.0, 104)[:, None])
    whole, cut = load(tmp_path / "a.npz"), load(tmp_path / "a.npz", valid_size=5)
    assert whole.valid is None
    assert whole.train.tensors[0][:, 0].tolist() == list(range(30))
    assert [len(s) for s in parts_of(cut)] == [25, 5, 4]
    assert cut.test.tensors[0][:, 0].tolist() == [100, 101, 102, 103]


def test_npz_with_one_array_or_x_and_y(tmp_path):
    np.savez(tmp_path / "one.npz", anything=np.random.default_rng(0).random((20, 3)))
    assert len(load(tmp_path / "one.npz").train) == 16
    np.savez(tmp_path / "xy.npz", x=np.arange(20.0)[:, None], y=np.arange(20))
    train = load(tmp_path / "xy.npz").train
    assert train.tensors[0][:, 0].tolist() == train.labels.tolist()


def test_splits_do_not_share_their_draws(tmp_path):
    half = np.full((40, 30), 0.5)
    np.savez(tmp_path / "a.npz", train=half, valid=half, test=half)
    train, valid, test = (s.tensors[0] for s in parts_of(load(tmp_path / "a.npz", binarization="static")))
    assert not train.equal(valid)
    assert not train.equal(test)
    assert not valid.equal(test)


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({"a": (3, 2), "b": (3, 2)}, r"has the arrays \['a', 'b'\]; expected were train"),
        ({"test": (3, 2), "valid": (3, 2)}, r"expected were train"),
        ({"train": (3, 2), "extra": (3, 2)}, r"\['extra', 'train'\]"),
        ({"train": (3, 2), "valid": (3, 2), "val": (3, 2)}, r"two arrays for the valid set"),
        ({"x": (3, 2), "y": (4,)}, r"labels y of \[4\]"),
        ({"train": (3, 2), "test": (3, 4)}, r"test of 'a' has data of shape \[4\]"),
    ],
)
def test_refusals_of_npz(tmp_path, shapes, match):
    np.savez(tmp_path / "a.npz", **{key: np.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(ValueError, match=match):
        load(tmp_path / "a.npz")


# load: folders of images


def write(path, size=(6, 4), color=100, mode="L"):
    """An image of size (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def test_folder_at_any_depth(tmp_path):
    for i, name in enumerate(["a.png", "b.bmp", "deep/er/c.gif", "deep/d.PNG", "e.jpg", "f.webp"]):
        write(tmp_path / name, color=10 * (i + 1))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    found = load(tmp_path, valid_size=0, test_size=0, channels=1)
    assert found.event_shape == (1, 4, 6)
    assert found.train.labels is None  # not every image lies in a subfolder
    means = sorted(everything(found).flatten(1).float().mean(1).tolist())
    assert means == pytest.approx([10, 20, 30, 40, 50, 60], abs=2)


def test_folder_names_are_labels(tmp_path):
    for label, name in enumerate(("cat", "dog", "emu")):
        for i in range(10):
            write(tmp_path / "pets" / name / f"{i}.png", color=label)
    write(tmp_path / "pets" / "emu" / "bright.png", color=250)
    found = load(tmp_path / "pets", seed=3)
    assert found.describe() == "pets: 25 train, 3 valid, 3 test images of 1 x 4 x 6, binarization none"
    for split in parts_of(found):
        assert split.labels.tolist() == [min(v, 2) for v in split.tensors[0][:, 0, 0, 0].tolist()]


def test_folder_with_splits(tmp_path):
    for part, names in (("train", "ab"), ("Val", "b"), ("test", "ac")):
        for name in names:
            write(tmp_path / part / name / "0.png", color=ord(name))
    found = load(tmp_path)
    for split in parts_of(found):  # one numbering for all
        assert split.labels.tolist() == [v - ord("a") for v in split.tensors[0][:, 0, 0, 0].tolist()]
    assert [len(s) for s in parts_of(found)] == [2, 1, 2]


def test_channels(tmp_path):
    write(tmp_path / "gray" / "a.png", color=77)
    write(tmp_path / "color" / "a.png", color=77)
    write(tmp_path / "color" / "b.png", mode="RGB", color=(255, 0, 10))
    write(tmp_path / "color" / "c.png", mode="RGBA", color=(255, 0, 10, 200))
    assert load(tmp_path / "gray").event_shape == (1, 4, 6)
    assert everything(load(tmp_path / "gray", channels=3))[0, :, 0, 0].tolist() == [77] * 3
    color = load(tmp_path / "color", valid_size=0, test_size=0)
    assert sorted(everything(color)[:, :, 0, 0].tolist()) == [[77, 77, 77], [255, 0, 10], [255, 0, 10]]
    assert load(tmp_path / "color", channels=1).event_shape == (1, 4, 6)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "a.png")
    assert everything(load(tmp_path)).unique().tolist() == [40_000 >> 8]


def test_image_size_crops_at_the_center(tmp_path):
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200  # the central square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.T.copy()).save(tmp_path / "tall.png")
    found = load(tmp_path, image_size=4, valid_size=0, test_size=0)
    assert found.event_shape == (1, 4, 4)
    assert everything(found).unique().tolist() == [200]


def test_refusals_of_a_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"holds no images \(\.png"):
        load(tmp_path)
    write(tmp_path / "a.png", size=(6, 4))
    write(tmp_path / "b.png", size=(5, 7))
    with pytest.raises(ValueError, match=r"a\.png is 4 x 6.*b\.png is 7 x 5.*image_size="):
        load(tmp_path)
    for options, error in (({"channels": 2}, ValueError), ({"image_size": 0}, ValueError)):
        with pytest.raises(error, match=next(iter(options))):
            load(tmp_path, **options)
    with monkeypatch.context() as patch:
        patch.setattr(LIMIT, 100)
        with pytest.raises(ValueError, match=r"2 images\) would take.*image_size"):
            load(tmp_path, image_size=100)
    (tmp_path / "c.png").write_bytes(b"\x89PNG and no more")
    for channels in (None, 3):
        with pytest.raises(ValueError, match=r"c\.png could not be read as an image"):
            load(tmp_path, image_size=4, channels=channels)
