"""Folders of Hugging Face's datasets: what they name is read where it lies inside of them, and nowhere else."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pyro_vae.data import load

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
WHOLE = {"valid_size": 0, "test_size": 0}


def of_images(folder: Path, *paths: str) -> Path:
    """A data set of images, the last of which are replaced by paths."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    made = datasets.Dataset.from_dict({"image": list(IMAGES), "label": [0, 1] * 10}, features=features)
    made.save_to_disk(folder / "saved")
    (file,) = (folder / "saved").glob("*.arrow")
    with pa.ipc.open_stream(file) as stream:
        table = stream.read_all()
    cells = table["image"].to_pylist()
    cells[len(cells) - len(paths) :] = [{"bytes": None, "path": path} for path in paths]
    table = table.set_column(0, table.schema.field("image"), pa.array(cells, table.schema.field("image").type))
    file.unlink()  # which is mapped
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return folder / "saved"


def test_images_are_read_of_their_bytes_and_of_files_inside_of_the_folder(tmp_path):
    path = of_images(tmp_path, "inside.png")
    Image.fromarray(IMAGES[0]).save(path / "inside.png")
    x = load(path, **WHOLE).train.tensors[0]
    assert x.shape == (20, 1, 6, 5)
    assert torch.equal(x[:, 0], torch.from_numpy(IMAGES[[*range(19), 0]]))


@pytest.mark.parametrize(
    "cell", ["{outside}", "../outside.png", "link.png", "nul\0.png", "long" * 999, "https://localhost:9/x.png"]
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_image_elsewhere_is_not_opened(cell, in_memory, tmp_path):
    path = of_images(tmp_path, cell.format(outside=tmp_path / "outside.png"))
    Image.fromarray(IMAGES[0]).save(tmp_path / "outside.png")
    (path / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match=r"names the image .* which is no file of that folder"):
        load(path, in_memory=in_memory, **WHOLE)


def test_nothing_else_of_the_folder_leads_out_of_it(tmp_path):
    datasets.Dataset.from_dict({"x": [1.0] * 20}).save_to_disk(tmp_path / "other")
    path = of_images(tmp_path)
    state = json.loads((path / "state.json").read_text())
    (arrow,) = (tmp_path / "other").glob("*.arrow")
    (path / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": str(arrow)}]}))
    with pytest.raises(ValueError, match=r"state.json names .* no file of its folder"):
        load(path)
    (tmp_path / "dict").mkdir()
    for split in ("../other", "x::https://localhost:9/"):
        (tmp_path / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
        with pytest.raises(ValueError, match=r"dataset_dict.json names .* no file of its folder"):
            load(tmp_path / "dict")
    features = datasets.Features({"images": datasets.List(datasets.Image())})
    datasets.Dataset.from_dict({"images": [[Image.fromarray(IMAGES[0])]]}, features=features).save_to_disk(
        tmp_path / "lists"
    )
    with pytest.raises(ValueError, match=r"column 'images' of .* is a List, whose cells may lie elsewhere"):
        load(tmp_path / "lists")


def test_links_out_of_a_folder_and_pipes_are_not_read(tmp_path):
    other, saved = tmp_path / "other", tmp_path / "saved"
    for folder in (other, saved):
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1.0] * 4})}).save_to_disk(folder)
    (arrow,) = (saved / "train").glob("*.arrow")
    (others,) = (other / "train").glob("*.arrow")
    for file, there in ((arrow, others), (saved / "train" / "state.json", other / "train" / "state.json")):
        kept = file.rename(tmp_path / "kept")
        file.symlink_to(there)
        with pytest.raises(ValueError, match=rf"{file.name}' in .* is no file of .*; nothing else is read"):
            load(saved)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ValueError, match=rf"{file.name}' in .* is no file of .*; nothing else is read"):
            load(saved)
        file.unlink()
        kept.rename(file)
    train = (saved / "train").rename(saved / "inside")
    (saved / "train").symlink_to(train)
    assert len(load(saved, **WHOLE).train) == 4
    (saved / "train").unlink()
    (saved / "train").symlink_to(other / "train")
    with pytest.raises(ValueError, match=r"is no file of .*; nothing else is read"):
        load(saved)


@pytest.mark.parametrize("in_memory", [True, False])
def test_columns_keep_their_dtype(in_memory, tmp_path):
    seconds, gray = 1.7e9 + np.arange(6.0), np.arange(36, dtype=np.uint8).reshape(6, 2, 3)
    nested = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
    for kind, x, dtype in (
        (datasets.Value("float64"), seconds, torch.float64),
        (datasets.Array2D((2, 3), "uint8"), gray, torch.uint8),
        (nested, gray / 7, torch.float64),
    ):
        made = datasets.Dataset.from_dict({"x": x.tolist()}, features=datasets.Features({"x": kind}))
        made.save_to_disk(tmp_path / "saved", num_shards=2)
        train = load(tmp_path / "saved", in_memory=in_memory, **WHOLE).train
        assert train.tensors[0].dtype == dtype
        assert torch.equal(train.tensors[0][:].reshape(x.shape), torch.from_numpy(x))


def test_sets_that_are_not_read_are_told_and_two_of_one_part_are_refused(tmp_path):
    one = datasets.Dataset.from_dict({"x": [1.0, 2.0]})
    datasets.DatasetDict({"train": one, "unsupervised": one}).save_to_disk(tmp_path / "more")
    with pytest.warns(UserWarning, match="also has 'unsupervised', left out"):
        load(tmp_path / "more", **WHOLE)
    datasets.DatasetDict({"train": one, "valid": one, "validation": one}).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="two sets of the part valid, 'valid' and 'validation'"):
        load(tmp_path / "two")
    for name in ("train", "val", "masks"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(IMAGES[0]).save(tmp_path / "images" / name / "x.png")
    with pytest.warns(UserWarning, match="also has 'masks', left out"):
        load(tmp_path / "images")
    (tmp_path / "images" / "valid").mkdir()
    with pytest.raises(ValueError, match="two sets of the part valid, 'valid' and 'val'"):
        load(tmp_path / "images")


def test_files_of_a_folder_of_tables_are_sets_by_their_names(tmp_path):
    def written(**files: list[float]) -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        for name, x in files.items():
            pq.write_table(pa.table({"x": x, "y": ["a"] * len(x)}), tmp_path / f"{name.replace('_', '-')}.parquet")

    written(train_0_of_2=[1.0, 2], train_1_of_2=[3.0], test_0_of_1=[4.0, 5])
    for in_memory in (True, False):
        data = load(tmp_path, labels="y", valid_size=0, in_memory=in_memory)
        assert [part.batch(slice(None))[0].flatten().tolist() for part in (data.train, data.test)] == [
            [1, 2, 3],
            [4, 5],
        ]
    written(testament=[1.0], trained=[2.0, 3])
    assert len(load(tmp_path, labels="y", **WHOLE).train) == 3
    written(train=[1.0], test=[2.0], more=[3.0])
    with pytest.raises(ValueError, match=r"has files of a set, and more.parquet, of which that is not known"):
        load(tmp_path, labels="y")


def test_a_table_of_text_has_all_its_labels(tmp_path):
    (tmp_path / "x.csv").write_text("x,y\n1,a\n2,\n3,b\n")
    with pytest.raises(ValueError, match="has no label in row 1, column 'y'"):
        load(tmp_path / "x.csv", labels="y", **WHOLE)
