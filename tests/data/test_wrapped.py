"""Stream and as_data: loaders, data sets, iterables, tuples."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from datasets import DatasetDict
from PIL import Image
from samples import LIMIT, Mapped, Rows, gray, same
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_vae.data import Data, Split, Stream, as_data

# Stream


def test_a_stream_gives_what_the_split_gives():
    stream = Stream(DataLoader(TensorDataset(gray()), batch_size=6))
    assert (stream.num_batches(1000), stream.num_data, stream.event_shape) == (4, 20, (1, 4, 5))
    assert all(same(a, b) for a, b in zip(stream.batches(99), Split(gray()).batches(6), strict=True))


@pytest.mark.parametrize("y", [torch.arange(20), torch.rand(20)])
def test_the_same_pairs_however_they_are_wrapped(y):
    """All of them are (x, y); whole numbers, one for each datum, are labels besides; real numbers are not."""
    x = gray()
    rows = TensorDataset(x, y)
    wrapped = (
        rows,
        DataLoader(rows, batch_size=6),
        DataLoader(rows, batch_size=6, collate_fn=lambda items: tuple(np.stack(p) for p in zip(*items, strict=True))),
        Subset(rows, range(20)),
        ConcatDataset([Subset(rows, range(8)), Subset(rows, range(8, 20))]),
        list(rows),
        [(a.numpy(), b.item()) for a, b in rows],
        Mapped([(Image.fromarray(a[0].numpy()), b.item()) for a, b in rows]),
    )
    for given_ in wrapped:
        found = as_data(given_).train
        for split in (found, found.take(20)):
            batches = list(split.batches(6))
            assert torch.equal(torch.cat([a for a, _ in batches]), x / 255), type(given_)
            assert torch.cat([b for _, b in batches]).to(y.dtype).equal(y)
        assert (split.labels is None) == y.is_floating_point()
        assert split.labels is None or split.classes.equal(y)


def test_a_shuffling_loader_follows_seed_and_epoch():
    stream = Stream(DataLoader(TensorDataset(torch.arange(40.0)), batch_size=8, shuffle=True))

    def order(**keys):
        return torch.cat([x for (x,) in stream.batches(8, **keys)]).tolist()

    assert sorted(order()) == list(range(40))
    assert order(seed=1, epoch=1) == order(seed=1, epoch=1)
    assert len({tuple(order(seed=s, epoch=e)) for s in (0, 1) for e in (0, 1)}) == 4
    assert order(epoch=1, start=3) == order(epoch=1)[24:]


def test_dynamic_stream():
    stream = Stream(DataLoader(gray(), batch_size=6), binarization="dynamic", seed=5)
    first, again, other = ([x for (x,) in stream.batches(epoch=e)] for e in (0, 0, 1))
    assert set(torch.cat(first).unique().tolist()) == {0.0, 1.0}
    assert same(first, again)
    assert not same(first, other)
    assert same([x for (x,) in stream.batches(start=2)], first[2:])


class Every(torch.utils.data.Sampler):
    """A sampler, or a batch sampler, of one's own."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)

    def __len__(self):
        return len(self.items)


ROWS = TensorDataset(torch.rand(200, 3))


@pytest.mark.parametrize(
    ("options", "num_data"),
    [
        ({}, 200),
        ({"shuffle": True, "drop_last": True}, 200),
        ({"drop_last": True}, 192),
        ({"sampler": SubsetRandomSampler(range(20))}, 20),
        ({"sampler": range(20, 50)}, 30),
        ({"sampler": Every([3, 1, 2])}, 3),
        ({"sampler": RandomSampler(ROWS, num_samples=50)}, 200),
        ({"sampler": RandomSampler(ROWS, replacement=True, num_samples=1000)}, 200),
        ({"sampler": RandomSampler(range(20))}, 20),
        ({"sampler": DistributedSampler(ROWS, num_replicas=4, rank=0)}, 200),
        ({"sampler": DistributedSampler(ROWS, num_replicas=4, rank=0, shuffle=False)}, 50),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler(range(20)), 8, False)}, 20),
        ({"sampler": WeightedRandomSampler([1.0] * 200, 200)}, None),
        ({"batch_sampler": Every([[1, 2], [3]])}, None),
        ({"batch_size": None}, None),
    ],
)
def test_the_number_of_data_is_what_the_sampler_tells(options, num_data):
    options = options if "batch_sampler" in options else {"batch_size": 64, **options}
    assert Stream(DataLoader(ROWS, **options)).num_data == num_data


def test_a_stream_of_zeros_and_ones_is_refused_unless_a_later_batch_is_dark():
    x = torch.tensor([[9, 4], [1, 0]], dtype=torch.uint8)
    assert len(list(Stream(DataLoader(x)).batches())) == 2
    with pytest.raises(ValueError, match=r"batch 0 .*only the integers 0 and 1"):
        next(Stream(DataLoader(x.flip(0))).batches())


def test_a_stream_without_length():
    stream = Stream(DataLoader(Rows(), batch_size=4))
    assert stream.num_batches() is stream.num_data is None
    assert [len(x) for (x,) in stream.batches()] == [4, 4, 2]
    assert Stream(DataLoader(ChainDataset([Rows(), Rows()]), batch_size=4)).num_data is None
    assert Data("rows", stream).describe() == "rows: train streamed images of 1 x 4 x 5, binarization none"


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda: Stream(gray()), TypeError, r"Stream.. was given a Tensor"),
        (lambda: Stream(DataLoader(gray()), binarization="static"), ValueError, '"static" needs all data in memory'),
        (
            lambda: next(Stream(DataLoader(Mapped([1.0]), collate_fn=lambda rows: {"n": 3})).batches()),
            TypeError,
            "gives dict, in which there are no data",
        ),
        (
            lambda: list(Stream(DataLoader(torch.tensor([[0.0], [float("nan")]]))).batches()),
            ValueError,
            r"x of batch 1 of 'stream'.*not finite",
        ),
        (lambda: Stream(DataLoader(gray())).batches(start=-1), ValueError, r"start has to be .*; got -1"),
        (
            lambda: Stream(DataLoader(TensorDataset(gray(3)), batch_size=5, drop_last=True)).event_shape,
            ValueError,
            "gives no batch",
        ),
    ],
)
def test_refusals_of_a_stream(act, error, match):
    with pytest.raises(error, match=match):
        act()


# as_data


def test_what_fit_accepts():
    x = gray()
    for given_, shape in (
        (x, (1, 4, 5)),
        (x.numpy(), (1, 4, 5)),
        (x[:, 0], (4, 5)),  # no dimension is invented
        (x[:, 0].float().numpy(), (4, 5)),
        (x.flatten(1), (20,)),
        (x.flatten(), ()),
        (x[None, :, 0].expand(3, -1, -1, -1), (20, 4, 5)),
        (Subset(TensorDataset(x), [1, 2]), (1, 4, 5)),
        (DataLoader(TensorDataset(x)), (1, 4, 5)),
    ):
        found = as_data(given_)
        assert (found.event_shape, found.valid) == (shape, None)
        assert next(found.train.batches(2))[0].dtype == torch.float32


def test_data_and_splits_pass_unchanged():
    split = Split(gray(), binarization="dynamic")
    whole = Data("d", split)
    assert as_data(whole) is whole
    assert as_data(split).train is as_data(split, binarization="dynamic").train is split
    for made in (split, whole, (gray(), split)):
        with pytest.raises(ValueError, match="'static' was asked for, but 'data' was made with 'dynamic'"):
            as_data(made, binarization="static")


def test_tensor_dataset_becomes_arguments():
    found = as_data(TensorDataset(gray(), torch.arange(20)), binarization="dynamic").train
    x, y = found.batch([4])
    assert set(x.unique().tolist()) <= {0.0, 1.0}
    assert (y.tolist(), found.labels[4]) == ([4], 4)


def test_a_map_style_dataset_is_read_once():
    assert as_data(Mapped([Image.new("RGB", (5, 4), (10, 20, 30))] * 3)).event_shape == (3, 4, 5)
    pairs = as_data(Mapped([(torch.rand(3), torch.rand(2))] * 4)).train
    assert [t.shape for t in pairs.tensors] == [(4, 3), (4, 2)]


def test_a_dataset_larger_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr(LIMIT, 100)
    with pytest.raises(ValueError, match="DataLoader"):
        as_data(Mapped([torch.rand(3)] * 10))


def test_tuples():
    found = as_data((gray(), gray(8, seed=1)), binarization="static")
    assert found.describe() == "data: 20 train, 8 valid images of 1 x 4 x 5, binarization static"
    three = as_data((DataLoader(gray()), None, gray(6)))
    assert isinstance(three.train, Stream)
    assert three.valid is None
    assert len(three.test) == 6


def test_an_iterable_of_batches_is_a_stream():
    class Batches:
        def __iter__(self):
            yield torch.ones(3, 2), torch.arange(3)
            yield torch.zeros(1, 2), torch.arange(1)

    stream = as_data(Batches()).train
    for _ in range(2):
        assert [[part.shape[0] for part in batch] for batch in stream.batches()] == [[3, 3], [1, 1]]
    assert stream.num_batches() is None
    with pytest.raises(TypeError, match=r"data is a generator.*batches once"):
        as_data(iter(Batches()))


@pytest.mark.parametrize(
    ("given_", "error", "match"),
    [
        ("mnist", TypeError, r"is a str.*load\('mnist'\)"),
        (None, TypeError, "is a NoneType.*Split or Stream"),
        ([], ValueError, "the list of data is empty"),
        (["a"], TypeError, "item 0 of the dataset holds a str"),
        (Rows(), TypeError, "is a Rows.*DataLoader of it"),
        ((torch.rand(3, 2),), TypeError, "this one has 1 parts"),
        ((None, torch.rand(3, 2)), TypeError, "tuple of data"),
        ((gray(), torch.rand(3, 2)), ValueError, r"valid of 'data' has data of shape \[2\] and train of \[1, 4, 5\]"),
        (Mapped([torch.rand(3), torch.rand(4)]), ValueError, r"item 1 .* shapes \[\[4\]\].*item 0 has \[\[3\]\]"),
        (Mapped([]), ValueError, "empty"),
        (Mapped(["a"]), TypeError, "item 0 of the dataset holds a str"),
        (scipy.sparse.csr_matrix(np.eye(3)), TypeError, r"is a csr_matrix.*x\.toarray\(\)"),
        (DatasetDict(train=1, test=2), TypeError, r"a DatasetDict of 'train', 'test'. Give one of them, or a tuple"),
        (
            (pandas.DataFrame(np.eye(3)), pandas.Series([0, 1, 2])),
            ValueError,
            r"shapes \[3, 3\] and \[3\].*TensorDataset\(x, y\), or a dictionary of them by the names",
        ),
    ],
)
def test_refusals_of_as_data(given_, error, match):
    with pytest.raises(error, match=match):
        as_data(given_)


class _Twice(torch.utils.data.Sampler):
    """Every datum two times."""

    def __len__(self) -> int:
        return 20

    def __iter__(self):
        return iter([*range(10), *range(10)])


def test_data_that_a_sampler_repeats_count_once():
    def counted(sampler):
        return Stream(DataLoader(gray(10), batch_size=5, sampler=sampler)).num_data

    assert counted([0, 1, 2, 2, 2, 1]) == 3
    assert counted(torch.utils.data.SubsetRandomSampler([4, 4, 5])) == 2
    assert counted(_Twice()) is None
    assert counted(torch.utils.data.RandomSampler(gray(10), replacement=True, num_samples=40)) == 10


def test_images_of_16_bits():
    """As those of a folder: the upper 8 bits."""
    from PIL import Image

    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    split = as_data(Mapped([Image.fromarray(values)])).train
    assert split.tensors[0].dtype == torch.uint8
    assert torch.equal(split.tensors[0][0, 0], torch.from_numpy((values >> 8).astype(np.uint8)))
    counts = Split(torch.from_numpy(values.astype(np.int32)).to(torch.uint16)).tensors[0]
    assert counts.dtype == torch.int64
    assert int(counts.max()) == 60000
