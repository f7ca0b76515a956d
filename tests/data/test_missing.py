"""Data with missing values: masks, standardized columns, kinds and means that do not see what is missing."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_vae.data import Data, Split, Stream, load, prepared
from pyro_vae.data.tables import filled_text

NAN = math.nan
X = torch.tensor([[1.0, NAN, 3.0], [3.0, 5.0, NAN], [5.0, 7.0, NAN], [7.0, NAN, 3.0]])
TABLE = "age,income,sex,note\n1,,w,3\n3,5,m,\n5,7,w,nan\n\n7,,m,3\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("age,income,note\n1,,3\n3,5,\n5,7,nan\n7,,3\n")
    return path


def test_masks(table: Path) -> None:
    """Of what lies in memory and of what is read from a file: 0 where x is missing, and true where it is not."""
    options = {"missing": True, "valid_size": 0, "test_size": 0}
    for data in (Data("x", Split(X, missing=True)), *(load(table, in_memory=way, **options) for way in (True, False))):
        x, mask = data.with_mask().train.batch(slice(None))
        assert torch.equal(mask, ~X.isnan())
        torch.testing.assert_close(x.float(), X.nan_to_num())
    named = Split(X, torch.arange(4), names=("x", "y"), missing=True, labels=torch.arange(4))
    (batch,) = Data("x", named).with_mask("seen").train.batch([1])
    assert list(batch) == ["x", "y", "seen"]
    pixels = Split(torch.arange(4, dtype=torch.uint8).reshape(2, 2))
    assert Data("pixels", pixels).with_mask().train.batch([0])[1].all()
    with pytest.raises(ValueError, match="is a stream, whose loader gives all arguments"):
        Data("loader", Stream(DataLoader([torch.zeros(2)]))).with_mask()


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_pandas_writes_beside_the_data_is_told(in_memory: bool, tmp_path: Path) -> None:
    path, frame = tmp_path / "x.csv", pandas.DataFrame(np.random.default_rng(0).normal(size=(20, 3)))
    for options, words in (
        ({}, "first line that may be"),
        ({"header": ["a", "b", "c"]}, "first column without a name"),
    ):
        frame.to_csv(path, index="header" in options, **options)
        with pytest.warns(UserWarning, match=words):
            load(path, in_memory=in_memory)
    frame.to_csv(path, index=False, header=["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, in_memory=in_memory)


def test_na_is_an_empty_cell(tmp_path: Path) -> None:
    """As R writes what is missing."""
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,NA\nNA,4\n")
    for in_memory in (True, False):
        (x,) = load(path, missing=True, in_memory=in_memory, valid_size=0, test_size=0).train.batch(slice(None))
        assert torch.equal(x.nan_to_num(-1), torch.tensor([[1.0, -1.0], [-1.0, 4.0]]).double())
    assert filled_text(path, [[1.0, 2.0], [3.0, 4.0]], None, None) == "a,b\n1,2\n3,4\n"


def test_standardized_by_what_is_observed() -> None:
    data = prepared.Standardized.of(Data("x", Split(X, missing=True), Split(X[:2], missing=True)))
    torch.testing.assert_close(data.loc, torch.tensor([4.0, 6.0, 3.0]).double())
    torch.testing.assert_close(data.scale, torch.tensor([math.sqrt(5), 1.0, 1.0]).double())
    assert data.constant == 1
    (u,) = data.train.batch(slice(None))
    assert torch.equal(u.isnan(), X.isnan())
    torch.testing.assert_close(data.original(u.double()).float(), X, equal_nan=True)
    x, mask = data.with_mask().train.batch(slice(None))
    assert (x[~mask] == 0).all()
    scales = math.log(math.sqrt(5)) * torch.ones(4).double()
    for batch in ((u,), (x, mask)):
        torch.testing.assert_close(data.log_scale_of(*batch), scales)
    assert data.mean_log_scale("valid") == pytest.approx(math.log(math.sqrt(5)))
    torch.testing.assert_close(data.standardized(Split(X + 1, missing=True)).tensors[0][0, 0].item(), -2 / math.sqrt(5))


def test_whole_data_are_standardized_as_before() -> None:
    """The same bits as by sums and counts of all rows."""
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    data = prepared.Standardized.of(Data("x", Split(x)))
    loc = x.double().sum(0) / 300
    scale = (((x.double() - loc) ** 2).sum(0) / 300).sqrt()
    assert torch.equal(data.loc, loc)
    assert torch.equal(data.scale, scale)
    assert torch.equal(Split(x).mean(), (x.double().sum(0) / 300).float())
    assert data.mean_log_scale() == pytest.approx(data.log_scale, abs=1e-12)


def test_kinds_and_means_do_not_see_what_is_missing() -> None:
    gray = torch.arange(256.0).reshape(4, 64) / 255
    for x, kind in (
        (gray, "gray"),
        ((gray > 0.5).float(), "binary"),
        ((255 * gray).round(), "counts"),
        (-gray, "real"),
    ):
        holed = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3, NAN, x)
        assert prepared.kind_of(Split(x)) == kind
        assert prepared.kind_of(Split(holed, missing=True)) == kind
    torch.testing.assert_close(Split(X, missing=True).mean(), torch.tensor([4.0, 6.0, 3.0]))
    assert (Split(torch.full((2, 2), NAN), missing=True).mean() == 0).all()


def test_empty_cells_are_filled_and_all_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("# a comment\n" + TABLE)
    values = [[1, 0.125, 3], [3, 5, 2.5], [5, 7, 1 / 3], [7, -1, 3]]
    text = filled_text(path, values, "sex", None)
    assert text == "# a comment\nage,income,sex,note\n1,0.125,w,3\n3,5,m,2.5\n5,7,w,0.3333333\n7,-1,m,3\n"
    path.write_text("1;2\n".replace(";", "\t"))
    assert filled_text(path.rename(tmp_path / "x.tsv"), [[1, 2]], None, None) == "1\t2\n"
    path.write_text("a,b,c\n1,,2\n")
    assert filled_text(path, [[0.5, 2]], None, "a") == "a,b,c\n1,0.5,2\n"


def test_an_array_of_halves(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan], [2.0, 3.0]], dtype=np.float16))
    data = load(tmp_path / "x.npy", missing=True, valid_size=0, test_size=0)
    assert data.with_mask().train.batch([0])[0].tolist() == [[1.0, 0.0]]
