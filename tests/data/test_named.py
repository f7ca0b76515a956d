"""load: data by name, MNIST and its kin and the Frey faces."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from samples import ROOT, everything, needs, parts_of, same
from torch.utils.data import (
    DataLoader,
    Subset,
)

from pyro_vae import data
from pyro_vae.data import as_data, load

# load: names


def test_digits():
    from sklearn.datasets import load_digits

    def rows(images, labels):
        return sorted((*image, label) for image, label in zip(images.tolist(), labels.tolist(), strict=True))

    digits, published = load("digits", seed=1), load_digits()
    assert digits.describe() == "digits: 1,297 train, 250 valid, 250 test images of 1 x 8 x 8, binarization none"
    y = torch.cat([s.labels for s in parts_of(digits)])
    expected = np.round(published.data * 255 / 16).astype(int)
    assert rows(everything(digits).flatten(1), y) == rows(expected, published.target)  # each once, with its label
    assert same(load("digits", seed=1).test.tensors, digits.test.tensors)
    assert not same(load("digits", seed=2).test.tensors, digits.test.tensors)


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("mnits", {}, ValueError, r"'mnits' is not the name.*no such file or folder.*mean 'mnist'.*fashion-mnist"),
        ("Fashon_MNIST", {}, ValueError, r"mean 'fashion-mnist'"),
        ("zzz", {}, ValueError, r"exists\. The names are digits, mnist"),
        ("./digits", {}, FileNotFoundError, r"no file or folder '\./digits'"),
        (Path("digits"), {}, FileNotFoundError, r"no file or folder 'digits'"),
        ("digits", {"split": "published"}, ValueError, r"split='published' does not apply.*'digits'"),
        ("digits", {"valid_size": 10}, ValueError, r"valid_size=10 does not apply"),
        ("digits", {"binarization": "sometimes"}, ValueError, r"'sometimes'"),
        ("digits", {"seed": -2}, ValueError, r"seed has to be .*; got -2"),
        ("frey", {"split": "random"}, ValueError, r'"frey" has "published" and "shuffled"'),
    ],
)
def test_refusals_of_a_name(name, options, error, match):
    with pytest.raises(error, match=match):
        load(name, **options)


@pytest.mark.slow
def test_import_of_the_room_is_light():
    path = str(Path(data.__file__).parents[1])
    code = (
        "import sys, types, torch; before = set(sys.modules)\n"
        f"parent = sys.modules['pyro_vae'] = types.ModuleType('pyro_vae'); parent.__path__ = [{path!r}]\n"
        "import pyro_vae.data\n"
        "heavy = ('torchvision', 'sklearn', 'scipy', 'PIL', 'pyro')\n"
        "print([m for m in heavy if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# load: the MNIST family

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def no_network(*args, **kwargs):
    raise URLError("no route to host")


@pytest.fixture(scope="module")
def tiny_files():
    """As many images as MNIST has, of 2 x 3 pixels."""
    rng = np.random.default_rng(0)
    shapes = [(60_000, 2, 3), (60_000,), (10_000, 2, 3), (10_000,)]
    return {name: rng.integers(0, 10, shape, np.uint8) for name, shape in zip(FILES, shapes, strict=True)}


@pytest.fixture
def tiny_root(tmp_path, tiny_files):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in tiny_files.items():
        (folder / name).write_bytes(idx(array))
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_are_read_where_they_lie(tiny_root, tiny_files, monkeypatch, packed):
    if packed:
        from torchvision.datasets import MNIST

        resources = []
        for path in [tiny_root / "MNIST" / "raw" / name for name in FILES]:
            content = gzip.compress(path.read_bytes(), compresslevel=1)
            path.with_name(f"{path.name}.gz").write_bytes(content)
            path.unlink()
            resources.append((f"{path.name}.gz", hashlib.md5(content).hexdigest()))
        monkeypatch.setattr(MNIST, "resources", resources)
    before = sorted(tiny_root.rglob("*"))
    monkeypatch.setenv("PYRO_VAE_DATA", str(tiny_root))
    found = load("MNIST", download=False)
    assert found.describe() == "mnist: 50,000 train, 10,000 valid, 10,000 test images of 1 x 2 x 3, binarization none"
    train, train_labels, test, test_labels = (torch.from_numpy(a) for a in tiny_files.values())
    assert everything(found)[:, 0].equal(torch.cat([train, test]))
    assert torch.cat([s.labels for s in parts_of(found)]).equal(torch.cat([train_labels, test_labels]).long())
    assert sorted(tiny_root.rglob("*")) == before  # nothing was unpacked beside them
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(content[:-100])
        with pytest.raises(ValueError, match=rf"{path.name}\.gz is damaged: its MD5"):
            load("mnist")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tiny_root / "other"))):
        load("mnist", tiny_root / "other", download=False)  # the argument goes before the environment


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"<html>not found</html>", r"train-images-idx3-ubyte is damaged: it does not begin as an IDX file"),
        (idx(np.zeros((5, 2, 3), np.uint8))[:-1], r"is damaged: \[5, 2, 3\] takes 30 bytes, it has 29"),
        (idx(np.zeros((5, 2, 3), np.uint8)), r"60,000 images and labels were expected.*\[5, 2, 3\]"),
    ],
)
def test_a_file_of_another_kind_is_refused(tiny_root, content, match):
    (tiny_root / "MNIST" / "raw" / FILES[0]).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        load("mnist", tiny_root)


def test_missing_mnist_says_what_to_put_where(tmp_path, monkeypatch):
    from torchvision.datasets import KMNIST

    with pytest.raises(FileNotFoundError, match=r"(?s)KMNIST/raw\. Put train-images-idx3-ubyte\.gz.*download=True"):
        load("kmnist", tmp_path, download=False)
    monkeypatch.setattr(KMNIST, "download", no_network)
    with pytest.raises(FileNotFoundError, match=r"Put train-images.*PYRO_VAE_DATA.*no route to host"):
        load("kmnist", tmp_path)


def test_what_torchvision_downloads_is_read(tmp_path, tiny_root, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "download", lambda self: (tiny_root / "MNIST").rename(tmp_path / "FashionMNIST"))
    assert len(load("fashion_mnist", tmp_path).test) == 10_000


def test_processes_download_once_and_nothing_half(tmp_path, tiny_root, monkeypatch):
    from torchvision.datasets import KMNIST

    files, begun = list((tiny_root / "MNIST" / "raw").iterdir()), []

    def fetched(self):
        begun.append(self.root)
        raw = Path(self.raw_folder)
        raw.mkdir(parents=True)
        for file in files:
            (raw / file.name).write_bytes(file.read_bytes())
            if len(begun) == 1:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(KMNIST, "download", fetched)
    root = tmp_path / "root"
    with pytest.raises(FileNotFoundError, match="No space left"):
        load("kmnist", root)
    assert not any(root.iterdir())
    with ThreadPoolExecutor(2) as threads:
        assert [len(found.test) for found in threads.map(lambda _: load("kmnist", root), range(2))] == [10_000] * 2
    assert len(begun) == 2


@needs("MNIST/raw")
def test_mnist_as_published():
    mnist = load("mnist", binarization="dynamic", download=False)
    counts = "50,000 train, 10,000 valid, 10,000 test"
    assert mnist.describe() == f"mnist: {counts} images of 1 x 28 x 28, binarization dynamic"
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    (x,) = next(mnist.train.batches(1024, shuffle=True))
    assert x.shape == (1024, 1, 28, 28)
    assert abs(float(x.mean()) - 0.1307) < 0.005  # the mean gray of MNIST


# load: the Frey faces

FREY = "FreyFace/frey_rawface.mat"


def test_missing_frey_says_what_to_put_where(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"FreyFace\. Put frey_rawface\.mat there.*download=True"):
        load("frey", tmp_path, download=False)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(FileNotFoundError, match=r"The download failed.*no route to host"):
        load("frey", tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: io.BytesIO(b"<html>moved</html>"))
    with pytest.raises(FileNotFoundError, match=r"The download failed.*SHA-256"):
        load("frey", tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    (tmp_path / "FreyFace").mkdir(exist_ok=True)
    (tmp_path / FREY).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"not the published file.*SHA-256 sum is"):
        data.FreyFace(tmp_path)


@needs(FREY)
def test_a_good_download_is_put_in_place(tmp_path, monkeypatch):
    content = (Path(ROOT) / FREY).read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: io.BytesIO(content))
    assert len(data.FreyFace(tmp_path, download=True)) == 1965
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["frey_rawface.mat"]


@needs(FREY)
def test_frey_splits():
    published, shuffled = load("frey"), load("frey", split="shuffled", seed=2)
    assert published.describe() == "frey: 1,500 train, 465 valid images of 1 x 28 x 20, binarization none"
    assert shuffled.describe() == "frey: 1,565 train, 200 valid, 200 test images of 1 x 28 x 20, binarization none"
    film, again = torch.from_numpy(data.FreyFace(ROOT).data), everything(shuffled)[:, 0]
    assert everything(published)[:, 0].equal(film)
    assert not again.equal(film)
    assert torch.equal(again.flatten(1).sum(1).sort().values, film.flatten(1).sum(1).sort().values)


@needs(FREY)
def test_frey_face_is_a_torchvision_dataset():
    from torchvision.datasets import VisionDataset
    from torchvision.transforms.functional import pil_to_tensor

    def roughness(x):
        return max(np.abs(np.diff(x.astype(float), axis=axis)).mean() for axis in (1, 2))

    faces = data.FreyFace(ROOT)
    assert isinstance(faces, VisionDataset)
    assert (len(faces), faces[0].size) == (1965, (20, 28))
    assert np.array_equal(np.asarray(faces[7]), faces.data[7])
    # Neighbors are alike; they are not, where the same bytes are read in another shape.
    assert roughness(faces.data) < 0.6 * roughness(faces.data.reshape(-1, 20, 28))
    assert type(pickle.loads(pickle.dumps(faces))) is data.FreyFace
    (batch,) = next(as_data(DataLoader(data.FreyFace(ROOT, pil_to_tensor), batch_size=3)).train.batches(3))
    assert batch.shape == (3, 1, 28, 20)
    assert as_data(Subset(faces, [1, 2])).event_shape == (1, 28, 20)
