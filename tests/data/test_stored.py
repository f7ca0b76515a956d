"""Data that lie in files: the same batches, splits, statistics and trainings as in memory."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import threading
from contextlib import nullcontext
from pathlib import Path

import datasets
import h5py
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pyro
import pyro.distributions as dist
import pytest
import torch
import zarr

import pyro_vae as pv
from pyro_vae.data import load, prepared
from pyro_vae.data.rows import Rows, ahead
from pyro_vae.data.stored import Stored

N = 50
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(N, 4))
TABLE[:, 3] **= 2  # weights
NAMES = ["a", "b", "age", "w"]
WORDS = np.array(["cat", "dog"])[RANDOM.integers(0, 2, N)]
PIXELS = RANDOM.integers(0, 256, (N, 6, 5), dtype=np.uint8)


def npy(folder: Path) -> Path:
    np.save(folder / "x.npy", TABLE.astype(np.float32))
    return folder / "x.npy"


def fortran(folder: Path) -> Path:
    np.save(folder / "x.npy", np.asfortranarray(TABLE))
    return folder / "x.npy"


def binary(folder: Path) -> Path:
    np.save(folder / "x.npy", TABLE > 0)
    return folder / "x.npy"


def big_endian(folder: Path) -> Path:
    np.save(folder / "x.npy", TABLE.astype(">f4"))
    return folder / "x.npy"


def pixels(folder: Path) -> Path:
    np.save(folder / "x.npy", PIXELS)
    return folder / "x.npy"


def counts(folder: Path) -> Path:
    np.save(folder / "x.npy", RANDOM.integers(0, 2000, (N, 3)).astype(np.uint16))
    return folder / "x.npy"


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("x", data=TABLE, chunks=(7, 2), compression="gzip")
        file.create_dataset("y", data=np.arange(N))
    return folder / "x.h5"


def zarr_group(folder: Path) -> Path:
    group = zarr.open_group(folder / "x.zarr", mode="w")
    group.create_array("train", shape=(N, 4), chunks=(7, 4), dtype="f4")[:] = TABLE
    group.create_array("test", shape=(N, 4), chunks=(9, 4), dtype="f4")[:] = TABLE + 1
    return folder / "x.zarr"


def zarr_of_shards(folder: Path) -> Path:
    made = zarr.create_array(folder / "x.zarr", shape=(N, 4), shards=(20, 4), chunks=(5, 2), dtype="f4")
    made[:] = TABLE
    return folder / "x.zarr"


def zarr_of_old(folder: Path) -> Path:
    made = zarr.create_array(folder / "x.zarr", shape=(N, 4), chunks=(7, 4), dtype="f4", zarr_format=2)
    made[:] = TABLE
    return folder / "x.zarr"


def table(arrays: bool = False) -> pa.Table:
    if arrays:
        return pa.table({"x": pa.array(list(PIXELS.reshape(N, -1))), "y": WORDS})
    return pa.table({**dict(zip(NAMES, TABLE.T, strict=True)), "y": WORDS})


def parquet(folder: Path) -> Path:
    pq.write_table(table(), folder / "x.parquet", row_group_size=7)
    return folder / "x.parquet"


def parquets(folder: Path) -> Path:
    for part in range(3):
        pq.write_table(table(arrays=True).slice(part * 20, 20), folder / f"x{part}.parquet")
    return folder


def csv(folder: Path) -> Path:
    lines = [
        ",".join([*NAMES, "y"]),
        *(",".join([*map(repr, row.tolist()), y]) for row, y in zip(TABLE, WORDS, strict=True)),
    ]
    lines[3] = lines[3].replace(lines[3].split(",")[1], "", 1)
    (folder / "x.csv").write_text("\n".join(lines) + "\n")
    return folder / "x.csv"


def saved(folder: Path) -> Path:
    made = {"image": list(PIXELS), "label": RANDOM.integers(0, 2, N).tolist()}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    one = datasets.Dataset.from_dict(made, features=features)
    datasets.DatasetDict({"train": one, "validation": one.select(range(10))}).save_to_disk(folder / "saved")
    return folder / "saved"


MAKERS = [
    npy,
    fortran,
    binary,
    big_endian,
    pixels,
    counts,
    hdf5,
    zarr_group,
    zarr_of_shards,
    zarr_of_old,
    parquet,
    parquets,
    csv,
    saved,
]
OPTIONS = {
    parquet: {"labels": "y", "covariates": "age", "weights": "w"},
    parquets: {"labels": "y"},
    csv: {"labels": "y", "covariates": "age, b", "missing": True},
    pixels: {"binarization": "dynamic"},
    hdf5: {"valid_size": 5, "test_size": 0.2},
}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_batches_are_those_in_memory(maker, tmp_path):
    options = OPTIONS.get(maker, {})
    path = maker(tmp_path)
    held, stored = (load(path, seed=3, in_memory=kept, **options) for kept in (True, False))
    for part in ("train", "valid", "test"):
        ours, theirs = getattr(stored, part), getattr(held, part)
        assert (ours is None) == (theirs is None)
        if ours is None:
            continue
        assert isinstance(ours, Stored)
        assert ours.event_shape == theirs.event_shape
        assert repr(ours) == repr(theirs)
        assert prepared.kind_of(ours) == prepared.kind_of(theirs)
        assert torch.equal(ours.mean(), theirs.mean()) or theirs.mean().isnan().any()
        assert (ours.labels is None) == (theirs.labels is None)
        assert ours.labels is None or torch.equal(ours.labels, theirs.labels)
        for one, other in (
            (
                list(ours.batches(2, shuffle=True, epoch=2, seed=5, start=1)),
                list(theirs.batches(2, shuffle=True, epoch=2, seed=5, start=1)),
            ),
            ([ours.batch([3, 1, 2])], [theirs.batch([3, 1, 2])]),
            ([ours.take(4).batch(slice(None))], [theirs.take(4).batch(slice(None))]),
            (
                [ours.at(torch.tensor([4, 0]), "some").batch([0, 1])],
                [theirs.at(torch.tensor([4, 0]), "some").batch([0, 1])],
            ),
        ):
            assert len(one) == len(other) > 0
            for a, b in zip(one, other, strict=True):
                assert [t.dtype for t in a] == [t.dtype for t in b]
                assert all(torch.equal(s.nan_to_num(7.0), t.nan_to_num(7.0)) for s, t in zip(a, b, strict=True))


def test_what_is_asked_of_all_data_is_the_same(tmp_path):
    held, stored = (load(npy(tmp_path), in_memory=kept) for kept in (True, False))
    assert prepared.kind_of(stored.train) == prepared.kind_of(held.train) == "real"
    ours, theirs = (prepared.Standardized.of(data) for data in (stored, held))
    assert torch.equal(ours.scale, theirs.scale)
    assert torch.equal(next(iter(ours.valid.batches(5)))[0], next(iter(theirs.valid.batches(5)))[0])
    assert theirs.scale == pytest.approx(held.train.tensors[0].double().std(0, correction=0))


def small():
    torch.manual_seed(0)
    return pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,), likelihood=pv.likelihoods.Gaussian)


def test_a_training_of_a_file_has_the_bits_of_one_in_memory_and_goes_on(tmp_path):
    found = []
    for kept in (True, False):
        data = load(npy(tmp_path), in_memory=kept)
        torch.manual_seed(0)
        pair = small()
        run = pv.fit(pair, data, epochs=4, batch_size=8, compile="eager", out=tmp_path / str(kept), progress=False)
        found.append((run.history[-1]["valid"], [p.detach().clone() for p in pair.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))
    torch.manual_seed(0)
    pair = small()
    for epochs in (2, 4):
        pv.fit(
            pair, data, epochs=epochs, batch_size=8, compile="eager", out=tmp_path / "two", resume=True, progress=False
        )
    assert all(map(torch.equal, found[1][1], pair.parameters()))


def test_bad_data_are_refused_as_they_are_read(tmp_path):
    x = TABLE.copy()
    x[40, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    stored = load(tmp_path / "x.npy", in_memory=False, valid_size=0, test_size=0).train
    with pytest.raises(ValueError, match="not finite"):
        list(stored.batches(8))
    with pytest.raises(ValueError, match="static"):
        load(pixels(tmp_path), in_memory=False, binarization="static")
    with pytest.raises(ValueError, match=r"column 'y' of .* labels="):
        load(parquet(tmp_path), in_memory=False)
    with pytest.raises(ValueError, match="no column 'agf'; the nearest are age"):
        load(parquet(tmp_path), in_memory=False, covariates="agf", labels="y")
    with pytest.raises(ValueError, match="covariates='a,b', weights='a' name a column twice"):
        load(parquet(tmp_path), covariates="a,b", weights="a", labels="y")


def test_labels_are_neither_rounded_nor_made_up(tmp_path):
    path, whole = tmp_path / "x.parquet", {"valid_size": 0, "test_size": 0}
    for given, found in (([1.5, 1.7, 1.5], [0, 1, 0]), ([3.0, 1.0, 3.0], [3, 1, 3]), (["b", "a", "b"], [1, 0, 1])):
        pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": given}), path)
        assert load(path, labels="y", **whole).train.labels.tolist() == found
    for given in ([1, None, 2], ["a", None, "b"]):
        pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": pa.array(given)}), path)
        with pytest.raises(ValueError, match="has no label in row 1, column 'y'"):
            load(path, labels="y", **whole)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_index_of_a_table_of_pandas_is_no_column(in_memory, tmp_path):
    path, options = tmp_path / "x.parquet", {"valid_size": 0, "test_size": 0, "in_memory": in_memory}
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]})
    for index in (None, pandas.Index([7, 8, 9]), pandas.Index(["u", "v", "w"], name="id")):
        (frame if index is None else frame.set_index(index)).to_parquet(path)
        (x,) = load(path, **options).train.batch(slice(None))
        assert x.tolist() == frame.to_numpy().tolist()
    assert load(path, labels="id", **options).train.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("in_memory", [True, False])
def test_splits_of_a_table_have_one_order_of_columns_and_one_numbering_of_words(in_memory, tmp_path):
    x = {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    train = datasets.Dataset.from_dict({**x, "y": ["ant", "bee", "cat"]})
    test = datasets.Dataset.from_dict({"y": ["cat", "ant", "cat"], "b": x["b"], "a": x["a"]})
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", labels="y", valid_size=0, in_memory=in_memory)
    assert data.test.labels.tolist() == [2, 0, 2]
    assert torch.equal(data.test.batch(slice(None))[0], torch.tensor([[1.0, 4], [2, 5], [3, 6]], dtype=torch.float64))
    for number, names in enumerate((("a", "b"), ("a", "c"))):
        pq.write_table(pa.table({name: [1.0, 2.0] for name in names}), tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match="parts of different columns: 'b'"):
        load(tmp_path, in_memory=in_memory)
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none.parquet has no row of numbers"):
        load(tmp_path / "none.parquet", in_memory=in_memory)
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 4), np.float32))
    with pytest.raises(ValueError, match="none"):
        load(tmp_path / "none.npy", in_memory=in_memory)


def test_dark_pixels_are_pixels_and_bits_are_not(tmp_path):
    x = np.zeros((10, 4, 4), np.uint8)
    x[:9, 0, 0], x[9] = 1, 200
    np.save(tmp_path / "dark.npy", x)
    stored = load(tmp_path / "dark.npy", in_memory=False, valid_size=0, test_size=0).train
    assert sum(float(batch.sum()) for (batch,) in stored.batches(2)) == pytest.approx(x.sum() / 255)
    np.save(tmp_path / "bits.npy", x[:9])
    with pytest.raises(ValueError, match="only the integers 0 and 1"):
        load(tmp_path / "bits.npy", in_memory=False)
    foreign = np.arange(3).astype(">u2")
    assert torch.equal(
        Stored(Rows.of_npy(tmp_path / "dark.npy").at(np.arange(7, 10)), labels=foreign).labels, torch.arange(3)
    )


def test_rows_of_other_lengths_do_not_run_into_each_other():
    with pytest.raises(ValueError, match=r"a row is of shape \[3\], and those from 2 on are of \[4\]"):
        Rows.of_blocks([np.zeros((2, 3)), np.zeros((3, 4))])


def test_an_array_file_takes_neither_another_file_nor_more_than_it_holds(tmp_path):
    hdf5(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(80))
    for name, make in (
        ("link", lambda file: file.update(x=h5py.ExternalLink(str(tmp_path / "x.h5"), "x"))),
        ("raw", lambda file: file.create_dataset("x", (10, 8), "u1", external=[(str(tmp_path / "secret"), 0, 80)])),
    ):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            make(file)
        with pytest.raises(ValueError, match="another file"):
            load(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "claims.h5", "w") as file:
        file.create_dataset("x", (2**40, 2**20), "f4", chunks=(1024, 1024), compression="gzip")
    zarr.create_array(tmp_path / "claims.zarr", shape=(2**40, 2**20), chunks=(1024, 1024), dtype="f4")
    for name in ("claims.h5", "claims.zarr"):
        with pytest.raises(ValueError, match="over 200 to 1"):
            load(tmp_path / name)


def test_columns_of_a_dataset_are_arguments_by_name():
    given = datasets.Dataset.from_dict({"x": TABLE.astype(np.float32), "y": np.arange(N)})
    (batch,) = next(iter(pv.data.as_data(given).train.batches(4)))
    assert torch.equal(batch["x"], torch.tensor(TABLE[:4], dtype=torch.float32))
    assert batch["y"].tolist() == [0, 1, 2, 3]


def test_a_mapped_array_that_is_too_large_is_led_to_its_file(tmp_path, monkeypatch):
    mapped = np.load(npy(tmp_path), mmap_mode="r")
    monkeypatch.setattr("pyro_vae.data.arrays.IN_MEMORY_LIMIT", 100)
    with pytest.raises(ValueError, match=r"load\(.*x.npy', in_memory=False\)"):
        pv.data.as_data(mapped)


def test_nothing_in_a_zarr_array_is_unpickled(tmp_path):
    path = zarr_of_old(tmp_path)
    described = (path / ".zarray").read_text()
    (path / ".zarray").write_text(described.replace('"filters": null', '"filters": [{"id": "pickle", "protocol": 5}]'))
    assert "pickle" in (path / ".zarray").read_text()
    with pytest.raises(ValueError, match="could not be read as an array of numbers"):
        load(path)
    described = (zarr_of_shards(tmp_path) / "zarr.json").read_text()
    (path / "zarr.json").write_text(described.replace('"name": "zstd"', '"name": "numcodecs.pickle"'))
    with pytest.raises(ValueError, match=r"numcodecs.pickle"):
        load(path)


def test_a_pass_that_ends_early_leaves_no_thread_behind(tmp_path):
    before = threading.active_count()
    rows = Rows.of_npy(npy(tmp_path))
    batches = Stored(rows).batches(2)
    next(batches)
    batches.close()
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // part for part in (1, 0)))


@pytest.mark.parametrize("in_memory", [True, False])
def test_weights_and_covariates_are_numbers_that_can_be_meant(in_memory, tmp_path):
    path = tmp_path / "x.parquet"

    def loaded(w, c, **options):
        pq.write_table(pa.table({"x": np.arange(20.0), "w": np.r_[np.ones(19), w], "c": np.r_[np.ones(19), c]}), path)
        data = load(path, weights="w", covariates="c", in_memory=in_memory, valid_size=0, test_size=0, **options)
        return torch.cat([torch.column_stack(batch[1:]) for batch in data.train.batches(8)])

    assert loaded(0, 2).sum() == 19 + 21
    for bad in (np.nan, np.inf, -1):
        for missing in (False, True):
            with pytest.raises(ValueError, match=r"weights='w' are finite numbers of at least 0, and 1 of .* such as"):
                loaded(bad, 1, missing=missing)
    with pytest.raises(ValueError, match=r"covariates='c' are not finite in 1 of .* or say missing=True"):
        loaded(1, np.nan)
    assert loaded(1, np.nan, missing=True).isnan().sum() == 1


def test_classes_as_covariates_lead_to_labels(tmp_path):
    pq.write_table(pa.table({"x": [1.0, 2.0], "kind": ["a", "b"]}), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("x,kind\n1,a\n2,b\n")
    whole = {"valid_size": 0, "test_size": 0}
    for path in (tmp_path / "x.parquet", tmp_path / "x.csv"):
        with pytest.raises(ValueError, match=r"labels= takes .* load\(...\).with_labels\(\) gives them to programs"):
            load(path, covariates="kind", **whole)
        for word in ("kind", "1"):
            with pytest.raises(ValueError, match=rf"'{word}' is that of the labels.*load\(...\).with_labels\(\)"):
                load(path, labels="kind", covariates=word, **whole)
        x, y = load(path, labels="kind", **whole).with_labels().train.batch([1, 0])
        assert (x.tolist(), y.tolist()) == ([[2.0], [1.0]], [1, 0])


def test_labels_keep_what_was_drawn_and_what_is_standardized(tmp_path):
    data = load("digits", binarization="static")
    assert torch.equal(data.with_labels().train.batch([3])[0], data.train.batch([3])[0])
    with pytest.raises(ValueError, match="has no labels to pass"):
        load(npy(tmp_path)).with_labels()
    standard = prepared.Standardized.of(load(parquet(tmp_path), labels="y")).with_labels()
    assert standard.loc.shape == (4,)
    assert len(standard.valid.batch([0])) == 2


class Conditional(torch.nn.Module):
    """Of labels, without which it does not run."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(5, 2), torch.nn.Linear(2, 4)

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            code = torch.cat([z, y[:, None].float()], -1)
            pyro.sample("x", dist.Normal(self.decoder(code), 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        loc, scale = self.encoder(torch.cat([x, y[:, None].float()], -1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def test_a_table_of_labels_trains_a_pair_that_does_not_run_without_them(tmp_path):
    data, found = load(parquet(tmp_path), labels="y"), []
    for given in (data, data.with_labels()):
        torch.manual_seed(0)
        pair = Conditional()
        with pytest.warns(UserWarning, match="of 'x' are y, the second") if given is data else nullcontext():
            found.append(pv.fit(pair, given, epochs=1, batch_size=10, compile="eager", progress=False).bound)
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"load\(...\).with_labels\(\).train.batch\(...\) gives both"):
        pv.check(pair, *data.train.batch([0, 1]))


def nested(folder: Path, kind: str, arrays: dict[str, np.ndarray]) -> Path:
    """Arrays in groups of a file."""
    path = folder / f"x.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    else:
        group = zarr.open_group(path, mode="w")
        for name, array in arrays.items():
            group.create_array(name, data=array, chunks=(7, *array.shape[1:]))
    return path


@pytest.mark.parametrize("kind", ["npz", "h5", "zarr"])
def test_arrays_in_groups_are_found(kind, tmp_path):
    y, whole = np.arange(N), {"valid_size": 0, "test_size": 0}
    for arrays, parts in (
        ({"a/b/x": TABLE}, ["train"]),
        ({"a/x": TABLE, "a/y": y}, ["train"]),
        ({"train/x": TABLE, "train/y": y, "test/x": TABLE[:9], "test/y": y[:9]}, ["train", "test"]),
        ({"all/x_train": TABLE, "all/test": TABLE[:9]}, ["train", "test"]),
    ):
        options = {"valid_size": 0} if "test" in parts else whole
        data = load(nested(tmp_path, kind, arrays), **options)
        assert [part for part in ("train", "valid", "test") if getattr(data, part) is not None] == parts
        assert torch.equal(data.train.tensors[0], torch.from_numpy(TABLE))
        assert (data.train.labels is None) == all("y" not in name for name in arrays)
    with pytest.raises(ValueError, match=r"has the arrays \['a/mean', 'b/scale'\]; expected were"):
        load(nested(tmp_path, kind, {"a/mean": TABLE, "b/scale": TABLE}))
    with pytest.raises(ValueError, match="two arrays for the valid set, 'val/x' and 'valid/x'"):
        load(nested(tmp_path, kind, {"train/x": TABLE, "val/x": TABLE, "valid/x": TABLE}))


def test_links_in_a_file_lead_to_no_other(tmp_path):
    hdf5(tmp_path)
    with h5py.File(tmp_path / "around.h5", "w") as file:
        file.create_group("g")["out"] = h5py.ExternalLink(str(tmp_path / "x.h5"), "/")
        file["g/itself"] = file["g"]
        file["x"] = h5py.SoftLink("/g/out/x")
    with pytest.raises(ValueError, match="another file"):
        load(tmp_path / "around.h5")
    with h5py.File(tmp_path / "within.h5", "w") as file:
        file["g/x"], file["g/itself"] = TABLE, h5py.SoftLink("/")
        file["train"] = h5py.SoftLink("/g/x")
    x = load(tmp_path / "within.h5", valid_size=0, test_size=0).train.tensors[0]
    assert torch.equal(x, torch.from_numpy(TABLE))


def test_links_in_a_circle_are_no_arrays_and_empty_ones_are_told(tmp_path):
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file["x"], file["again"] = TABLE, h5py.SoftLink("/again")
    assert len(load(tmp_path / "circle.h5", valid_size=0, test_size=0).train) == len(TABLE)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = h5py.Empty("f8")
    with pytest.raises(ValueError, match="x is empty"):
        load(tmp_path / "empty.h5")


def test_links_of_a_zarr_group_are_not_followed(tmp_path):
    zarr.open_array(tmp_path / "secret", mode="w", shape=TABLE.shape, dtype="f8")[:] = TABLE
    zarr.open_group(tmp_path / "x.zarr", mode="w")
    (tmp_path / "x.zarr" / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="x is no file or folder of it, but a link"):
        load(tmp_path / "x.zarr")


def test_the_codecs_of_numcodecs_are_known_by_both_names(tmp_path):
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    codecs = zarr.codecs.numcodecs
    group.create_array("x", data=TABLE, filters=[codecs.Delta(dtype="f8")], compressors=[codecs.Zlib(level=1)])
    assert len(load(tmp_path / "x.zarr", valid_size=0, test_size=0).train) == len(TABLE)


def test_data_of_a_relative_path_are_found_from_another_folder(tmp_path, monkeypatch):
    npy(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = load("x.npy", in_memory=False).train.tensors[0]
    monkeypatch.chdir("/")
    assert torch.equal(pickle.loads(pickle.dumps(rows))[:], rows[:])


def test_a_hash_is_a_letter_but_in_comments_before_a_table(tmp_path):
    path, whole = tmp_path / "x.csv", {"valid_size": 0, "test_size": 0}
    for text, options in (
        ("y,a,b\n#1,1,2\n#2,3,4\n", {"labels": "y"}),
        ("#1,1,2\n#2,3,4\n", {"labels": "0"}),
        ("a,b,y\n1,2,#1\n3,4,#2\n", {"labels": "y"}),
        ("# made by hand\n\n# on paper\na,b,y\n1,2,u\n3,4,v\n", {"labels": "y"}),
        ("# of a spreadsheet, here\na;b;y\n1;2;u, w\n3;4;v\n", {"labels": "y"}),
        ("# by numpy.savetxt\n# a,b\n1,2\n3,4\n", {}),
    ):
        path.write_text(text)
        for in_memory in (True, False):
            train = load(path, in_memory=in_memory, **options, **whole).train
            assert train.batch([0, 1])[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
            assert train.labels is None or train.labels.tolist() == [0, 1]
    assert load(path, covariates="a", **whole).train.batch([0])[1].item() == 1
    path.write_text("# one\na,b\n1,2\n# two\n3,4\n")
    with pytest.raises(ValueError, match="line 4 has 1 cells, and line 2 has 2"):
        load(path, **whole)


def test_comments_are_neither_data_nor_names_of_another_header(tmp_path):
    path, whole = tmp_path / "x.csv", {"valid_size": 0, "test_size": 0}
    for text, labels in (
        ("# exported, 2024\nr,1\ns,2\n", "0"),
        ("# exported, v2\n# id, 1e3\nr,1\ns,2\n", "id"),
        ("# made by me\n1\n2\n", None),
        ("# made by me\n# twice\n1\n2\n", None),
        ("# made by me\nx\n1\n2\n", None),
        ("# made by me, 2024\na,b\nr,1\ns,2\n", "a"),
        ('# by me,"of old\n#id,b\nr,1\ns,2\n', "id"),
        ('"a\nn",b\nr,1\ns,2\n', "0"),
        ("#0,0\n1,0\n2,1\n", "1"),  # a row of which someone has made a comment
    ):
        path.write_text(text)
        for in_memory in (True, False):
            train = load(path, in_memory=in_memory, labels=labels, **whole).train
            assert train.batch([0, 1])[0].tolist() == [[1.0], [2.0]]
            assert len(train) == 2
            assert train.labels is None or train.labels.tolist() == [0, 1]


def test_labels_of_text_that_are_numbers_are_these(tmp_path):
    path, whole = tmp_path / "x.csv", {"valid_size": 0, "test_size": 0}
    for words, labels in (
        (["1.0", "10.0", "2.0"], [1, 10, 2]),
        (["1.5", "10.5", "2.5"], [0, 2, 1]),
        (["x", " x", "y "], [0, 0, 1]),
        (["9007199254740993", "1", "2"], [9007199254740993, 1, 2]),
        (["9" * 30, "9" * 29 + "8", "2"], [2, 1, 0]),
    ):
        path.write_text("a,y\n" + "".join(f"0,{word}\n" for word in words))
        assert load(path, labels="y", **whole).train.labels.tolist() == labels


def test_a_folder_of_a_test_set_alone_has_no_train_set(tmp_path):
    for name in ("test-0", "test-1"):
        parquet(tmp_path).rename(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"files of \['test'\]; a set of the name train was expected"):
        load(tmp_path)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    """/dev/full takes nothing."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for maker in (csv, hdf5, zarr_of_old, parquet, saved):
        path = maker(tmp_path)
        with pytest.raises(OSError, match=r"has no room for the unpacked data \(No space left.* TMPDIR"):
            load(path, in_memory=False, labels="y" if maker in (csv, parquet) else None, missing=maker is csv)
    assert len(list(Path("/proc/self/fd").iterdir())) == handles


def test_another_process_reads_the_same_rows(tmp_path):
    for maker in (npy, pixels, binary, parquet, hdf5):
        data = load(maker(tmp_path), in_memory=False, **OPTIONS.get(maker, {}))
        if maker is parquet:
            data = prepared.Standardized.of(data)
        for same in (copy.deepcopy(data.train), pickle.loads(pickle.dumps(data.train))):
            assert all(map(torch.equal, same.batch([3, 1]), data.train.batch([3, 1])))
    _, (path, _) = Rows.of_blocks([TABLE])._file.__reduce__()  # ends here, and with it the file
    assert not Path(path).exists()
    unpacked = Rows.of_blocks([TABLE])
    _, (path, _) = unpacked._file.__reduce__()
    assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == TABLE.tobytes()


def test_rows_whose_file_is_another_say_so(tmp_path):
    packed = pickle.dumps(Rows.of_npy(npy(tmp_path)))
    np.save(tmp_path / "x.npy", TABLE[:7])
    with pytest.raises(ValueError, match="another file than the one that was loaded"):
        pickle.loads(packed)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(ValueError, match="cannot be opened"):
        pickle.loads(packed)
    unpacked = pickle.dumps(Rows.of_blocks([TABLE]))
    with pytest.raises(ValueError, match="Load the data"):
        pickle.loads(unpacked)
    rows = Rows.of_npy(npy(tmp_path))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="was cut off"):
        rows[:2]


def test_files_are_closed_with_the_last_rows_of_them(tmp_path, recwarn):
    gc.collect()
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for maker in (npy, hdf5):
        train = load(maker(tmp_path), in_memory=False).train
        assert len(list(Path("/proc/self/fd").iterdir())) == handles + 1
        del train
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) == handles
    assert not [found for found in recwarn if issubclass(found.category, ResourceWarning)]
