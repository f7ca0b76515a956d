"""data: names and paths to tensors, splits, binarization, batches."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_vae import data
from pyro_vae.data import Data, Split, Stream, as_data, load

ROOT = os.environ.get("PYRO_VAE_DATA")
LIMIT = "pyro_vae.data.arrays.IN_MEMORY_LIMIT"


def needs(path):
    there = ROOT is not None and (Path(ROOT) / path).exists()
    return pytest.mark.skipif(not there, reason=f"needs {path} in the folder that PYRO_VAE_DATA names")


def gray(n=20, shape=(1, 4, 5), seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def parts_of(found):
    return [s for s in (found.train, found.valid, found.test) if s is not None]


def everything(found):
    return torch.cat([s.tensors[0] for s in parts_of(found)])


class Rows(IterableDataset):
    """Rows without a length."""

    def __iter__(self):
        return iter(gray(10))


class Mapped(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


# Split


def test_a_batch_is_x_as_float_and_the_further_tensors_as_they_are():
    x, w = gray(), torch.rand(20, 3, dtype=torch.float64)
    split = Split(x, torch.arange(20), w, labels=torch.arange(20) % 3)
    assert (split.tensors[0].dtype, split.event_shape, len(split)) == (torch.uint8, (1, 4, 5), 20)
    batch, y5, w5 = split.batch(torch.tensor([5, 7, 5]))
    assert batch.dtype == torch.float32
    assert torch.equal(batch, x[[5, 7, 5]].double().div(255).float())
    assert y5.tolist() == [5, 7, 5]
    assert torch.equal(w5, w[[5, 7, 5]])


def test_index_of_any_kind():
    split = Split(torch.arange(10.0))
    for index in (slice(2, 9, 3), [2, 5, 8], np.array([2, 5, 8]), torch.tensor([2, 5, 8]), range(2, 9, 3)):
        assert split.batch(index)[0].tolist() == [2.0, 5.0, 8.0]
    for index, error in (([0, 10], IndexError), ([-1], IndexError), ([0.5], TypeError), ([True] * 10, TypeError)):
        with pytest.raises(error, match="index"):
            split.batch(index)


def test_writing_into_a_batch_leaves_the_split():
    x = torch.rand(6, 2)
    split, before = Split(x), x.clone()
    split.batch(slice(None))[0].zero_()
    next(split.batches(6))[0].zero_()
    assert torch.equal(split.tensors[0], before)


@pytest.mark.parametrize("dtype", [*"BbhHlL", ">i4", "e", "f", "d", "g", ">f8", "?"])
def test_numbers_of_any_kind(dtype):
    """uint8 alone are pixels, parts of 255; other numbers are what they are, in Split and Stream alike."""
    kind, bits = np.dtype(dtype).kind, 8 * np.dtype(dtype).itemsize
    given = {"f": [[-2.5, 7.0]], "b": [[True, False]]}.get(kind, [[0, 3], [7, 100]])
    array = np.array(given, dtype=dtype)
    split = Split(array)
    streamed = Stream(DataLoader(TensorDataset(split.tensors[0]), batch_size=2))
    for x in (split.batch(slice(None))[0], next(streamed.batches())[0]):
        if dtype == "B":
            assert x.dtype == torch.float32
            assert torch.equal(x, torch.tensor(given) / 255)
            continue
        assert x.tolist() == array.astype(float if kind != "i" and kind != "u" else int).tolist()
        expected = f"int{bits if kind == 'i' else 64}" if kind in "iu" else f"float{min(max(bits, 32), 64)}"
        assert x.dtype == getattr(torch, expected)


def test_lists_and_tables_are_arrays():
    class Table:
        def __array__(self, dtype=None, copy=None):
            return np.array([[1.5, 2.0], [3.0, 1e-17]])

    for given_ in ([[1.5, 2.0], [3.0, 1e-17]], Table()):
        (x,) = as_data(given_).train.batch([0, 1])
        assert (x.dtype, x.tolist()) == (torch.float64, [[1.5, 2.0], [3.0, 1e-17]])
    assert as_data([3, 1, 2]).train.batch([0])[0].tolist() == [3]
    with pytest.raises(ValueError, match="rows differ in shape"):
        as_data([[1.0], [2.0, 3.0]])


def test_what_is_masked_or_na_is_missing():
    """And no number that lies below a mask, or that makes objects of all others."""
    nan, expected = float("nan"), [[1.0, 2.0], [3.0, float("nan")]]
    frame = pandas.DataFrame({"a": [1, 3], "b": [2, None]})
    for given_ in (
        np.ma.masked_greater(np.array([[1.0, 2.0], [3.0, 1e20]]), 10),
        np.ma.masked_greater(np.array([[1, 2], [3, 99]]), 10),
        [[1.0, 2.0], [3.0, None]],
        frame.astype("Float64"),
        frame.convert_dtypes(),
        frame.astype(object).where(frame.notna(), None),
    ):
        found = Split(given_, missing=True).batch([0, 1])[0].double()
        assert torch.equal(found.nan_to_num(-1), torch.tensor(expected).double().nan_to_num(-1))
        with pytest.raises(ValueError, match="not finite"):
            Split(given_)
    assert as_data(np.ma.masked_less(np.array([[1, 2]]), 0)).train.tensors[0].dtype == torch.int64  # nothing is masked
    with pytest.raises(TypeError, match=r"dtype object.*columns of text"):
        as_data(pandas.DataFrame({"a": [1.0, nan], "b": ["1", "2"]}))


def test_read_only_and_reversed_arrays_are_taken_without_a_warning(recwarn):
    array = np.arange(12.0).reshape(4, 3)
    array.flags.writeable = False
    assert Split(array[::-1]).batch([0])[0].tolist() == [[9.0, 10.0, 11.0]]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("tensors", "options", "error", "match"),
    [
        ((), {}, ValueError, r"no tensors"),
        ((torch.zeros(0, 3),), {}, ValueError, r"empty \(shape \[0, 3\]\)"),
        ((torch.tensor(1.0),), {}, ValueError, r"empty|one datum"),
        (("1.0",), {}, TypeError, r"x of 'data' is a str"),
        ((np.array(["a"]),), {}, TypeError, r"dtype <U1"),
        ((torch.zeros(2, 2, dtype=torch.complex64),), {}, TypeError, r"complex"),
        ((torch.tensor([[0, 30]]),), {"binarization": "dynamic"}, ValueError, r"integer values from 0 to 30.*uint8"),
        ((torch.tensor([[0, 1]], dtype=torch.uint8),), {}, ValueError, r"only the integers 0 and 1.*booleans"),
        ((torch.tensor([[0.0, 1.5]]),), {"binarization": "dynamic"}, ValueError, r"from 0 to 1\.5.*x / 255"),
        ((torch.tensor([[-0.1, 1.0]]),), {"binarization": "static"}, ValueError, r"from -0\.1 to 1"),
        ((torch.rand(3, 2), torch.rand(2)), {}, ValueError, r"tensor 1 of 'data' has shape \[2\], but x has 3"),
        ((torch.rand(3, 2),), {"labels": torch.zeros(4)}, ValueError, r"labels of 'data' has shape \[4\]"),
        ((torch.rand(3, 2),), {"binarization": "bernoulli"}, ValueError, r"'dynamic', 'static'; got 'bernoulli'"),
        ((torch.rand(3, 2),), {"seed": -1}, ValueError, r"seed has to be .*; got -1"),
        ((torch.rand(3, 2),), {"seed": 0.5}, ValueError, r"seed has to be .*; got 0\.5"),
    ],
)
def test_refusals_of_a_split(tensors, options, error, match):
    with pytest.raises(error, match=match):
        Split(*tensors, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_datum_that_is_not_finite_is_named(bad):
    x = torch.rand(9, 1, 2, 2, dtype=torch.float64)
    x[6, 0, 1, 0] = x[8] = bad
    with pytest.raises(ValueError, match=r"in 2 of 9 data, the first at index 6"):
        Split(x)


def test_an_empty_index_gives_an_empty_batch():
    for binarization in ("none", "dynamic", "static"):
        x = Split(gray(), binarization=binarization).batch([])[0]
        assert (x.shape, x.dtype) == ((0, 1, 4, 5), torch.float32)


def test_rows_gray_and_classes() -> None:
    x = torch.arange(60, dtype=torch.uint8).reshape(10, 6)
    split = Split(x, torch.arange(10.0), labels=torch.arange(10) % 3, binarization="dynamic", seed=4, name="all")
    rows = torch.tensor([7, 2])
    some = split.at(rows, "some")
    assert (some.name, some.seed, some.binarization, len(some)) == ("some", 4, "dynamic", 2)
    assert torch.equal(some.tensors[0], x[rows])
    assert some.tensors[1].tolist() == [7.0, 2.0]
    assert some.classes is not None
    assert some.classes.tolist() == [1, 2]
    assert (split.name, len(split)) == ("all", 10)
    assert torch.equal(split.gray(), x.float() / 255)
    assert torch.equal(split.gray(rows), some.gray())
    for labels in (None, torch.arange(10.0), torch.zeros(10, 2, dtype=torch.int64)):
        assert Split(x, labels=labels).classes is None


def test_held_data_are_those_to_be_judged_on() -> None:
    parts = [Split(torch.full((5, 2), float(i))) for i in range(3)]
    stream = Stream(DataLoader(TensorDataset(torch.full((5, 2), 7.0)), batch_size=2))
    for found, value in ((Data("d", *parts), 2.0), (Data("d", *parts[:2]), 1.0), (Data("d", stream), 7.0)):
        assert torch.equal(found.held(3).tensors[0], torch.full((3, 2), value))
    assert len(Data("d", parts[0]).held(100)) == 5


def test_take_and_to():
    split = Split(gray(), torch.arange(20), labels=torch.arange(20), binarization="static", seed=4)
    first = split.take(7)
    assert (len(first), len(split), len(split.take(100))) == (7, 20, 20)
    assert first.labels.tolist() == list(range(7))
    assert same(first.batch(slice(None)), split.batch(slice(7)))  # static pixels are not drawn again
    with pytest.raises(ValueError, match=r"n has to be .*; got 0"):
        split.take(0)
    moved = split.to("meta")
    assert {t.device.type for t in (*moved.tensors, moved.labels)} == {"meta"}


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    batch_size=st.integers(1, 40),
    start=st.integers(0, 35),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    binarization=st.sampled_from(["none", "dynamic", "static"]),
)
def test_one_pass(n, batch_size, start, epoch, shuffle, binarization):
    """It holds each datum once; the batch at a place does not depend on where the pass starts."""
    split = Split(gray(n), torch.arange(n), binarization=binarization)
    whole = list(split.batches(batch_size, shuffle=shuffle, epoch=epoch))
    assert len(whole) == split.num_batches(batch_size) == -(-n // batch_size)
    assert [len(y) for _, y in whole[:-1]] == [batch_size] * (len(whole) - 1)
    order = torch.cat([y for _, y in whole]).tolist()
    assert sorted(order) == list(range(n))
    assert shuffle or order == list(range(n))
    rest = list(split.batches(batch_size, shuffle=shuffle, epoch=epoch, start=start))
    assert len(rest) == max(len(whole) - start, 0)
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_every_order_is_about_as_frequent():
    split = Split(torch.arange(3.0))
    orders = [tuple(next(split.batches(3, shuffle=True, epoch=e))[0].tolist()) for e in range(1200)]
    counts = [orders.count(o) for o in set(orders)]
    assert len(counts) == 6
    assert max(abs(c - 200) for c in counts) < 5 * (1200 * (1 / 6) * (5 / 6)) ** 0.5


def test_refusals_of_batches_come_at_once():
    for options, error in (
        ({"batch_size": 0}, ValueError),
        ({"batch_size": 2.5}, ValueError),
        ({"batch_size": 2, "epoch": -1}, ValueError),
        ({"batch_size": 2, "seed": -1}, ValueError),
        ({"batch_size": 2, "start": -1}, ValueError),
    ):
        with pytest.raises(error, match=list(options)[-1]):
            Split(torch.rand(3, 2)).batches(**options)  # not iterated


def test_global_random_states_are_neither_read_nor_moved():
    def draws():
        split = Split(gray(), binarization="dynamic")
        static = Split(torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), binarization="static")
        loader = DataLoader(TensorDataset(gray()), batch_size=6, shuffle=True)
        streamed = Stream(loader, binarization="dynamic").batches(epoch=1)
        digits = load("digits", binarization="dynamic").train.batches(1297, shuffle=True)
        return [*(x for (x,) in (*split.batches(6, shuffle=True), *streamed, *digits)), static.tensors[0]]

    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what is tested)
    before, before_np = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    first = draws()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_np)  # noqa: NPY002
    torch.manual_seed(2)
    assert same(draws(), first)


# binarization


@pytest.mark.parametrize("as_float", [False, True])
def test_dynamic_draws_have_the_mean_of_their_gray(as_float):
    x = torch.arange(256, dtype=torch.uint8).repeat(4, 1)
    split = Split(x / 255 if as_float else x, binarization="dynamic")
    n = 1000
    total = torch.stack([split.batch(slice(None), draw=i)[0] for i in range(n)]).sum((0, 1))
    assert (total[0], total[255]) == (0, 4 * n)
    p = torch.arange(256) / 255
    deviation = (total / (4 * n) - p)[1:-1] / (p * (1 - p) / (4 * n)).sqrt()[1:-1]
    assert deviation.abs().max() < 5
    assert 0.8 < deviation.std() < 1.2  # neither too regular nor too wild
    assert abs(float(deviation.mean())) < 5 / 254**0.5


@pytest.mark.parametrize("x", [torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0.0, 1.0])])
def test_black_and_white_are_certain(x):
    for binarization in ("dynamic", "static"):
        split = Split(x.repeat(200_000, 1), binarization=binarization)
        assert split.batch(slice(None))[0].sum(0).tolist() == [0, 200_000]


def test_neighboring_pixels_and_batches_are_drawn_independently():
    split = Split(torch.full((400, 1, 20, 20), 128, dtype=torch.uint8), binarization="dynamic")
    a, b = (next(split.batches(400, epoch=e))[0].flatten() - 128 / 255 for e in (0, 1))
    bound = 5 * 0.25 / len(a) ** 0.5
    assert abs(float((a * b).mean())) < bound
    for lag in (1, 2, 3, 4, 20, 400):
        assert abs(float((a[lag:] * a[:-lag]).mean())) < bound


def test_batches_of_one_pass_are_drawn_apart():
    x = torch.full((30, 50), 128, dtype=torch.uint8)
    stream = Stream(DataLoader(TensorDataset(x), batch_size=10), binarization="dynamic")
    for made in (Split(x, binarization="dynamic"), stream):
        first, second, third = (b for (b,) in made.batches(10))
        assert not first.equal(second)
        assert not second.equal(third)


def test_orders_and_draws_stay_what_they_were_in_the_first_release():
    order = next(Split(torch.arange(10.0)).batches(10, shuffle=True, epoch=1, seed=2))[0]
    assert order.int().tolist() == [0, 1, 5, 2, 3, 6, 7, 9, 4, 8]
    x = torch.full((1, 16), 128, dtype=torch.uint8)
    static = Split(x, binarization="static", seed=3).tensors[0].div(255).int()
    assert static.tolist() == [[0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1]]
    dynamic = next(Split(x, binarization="dynamic").batches(1, epoch=1, seed=2))[0].int()
    assert dynamic.tolist() == [[0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1]]
    assert load("digits", seed=4).test.labels[:10].tolist() == [9, 3, 5, 7, 4, 6, 5, 1, 5, 3]


def test_orders_and_dynamic_draws_are_fixed_by_the_keys():
    numbers = Split(torch.arange(50.0))
    keys = [(e, s) for e in (0, 1, 2) for s in (0, 1, 2)]
    orders = [next(numbers.batches(50, shuffle=True, epoch=e, seed=s))[0] for e, s in (*keys, *keys)]
    assert same(orders[:9], orders[9:])
    assert len({tuple(o.tolist()) for o in orders}) == 9
    split, other = (Split(gray(), binarization="dynamic", seed=s) for s in (3, 4))
    assert same(split.batch([1, 2], draw=5), split.batch([1, 2], draw=5))
    draws = [split.batch(slice(None), draw=0), split.batch(slice(None), draw=1), other.batch(slice(None), draw=0)]
    draws += [next(split.batches(20, epoch=e, seed=s)) for e in (0, 1) for s in (0, 1)]
    assert not any(same(a, b) for i, a in enumerate(draws) for b in draws[:i])


@pytest.mark.parametrize("x", [gray(50), gray(50) / 255])
def test_static_is_drawn_once(x):
    split = Split(x, binarization="static", seed=1)
    assert split.tensors[0].dtype == torch.uint8
    (first,) = split.batch(slice(None))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first, split.batch(slice(None), draw=7)[0])
    assert torch.equal(first, next(split.batches(50, epoch=3, seed=9))[0])
    assert same(Split(x, binarization="static", seed=1).tensors, split.tensors)
    assert not same(Split(x, binarization="static", seed=2).tensors, split.tensors)
    values = x / 255 if x.dtype == torch.uint8 else x
    assert abs(float((first - values).mean())) < 5 * 0.5 / x.numel() ** 0.5


def test_dynamic_binarization_takes_less_than_half_of_torch_bernoulli():
    x = gray(512, (784,))
    split, probability, index = Split(x, binarization="dynamic"), x / 255, torch.arange(512)

    def best(f):
        times = []
        for _ in range(15):
            begin = time.thread_time()  # not the time on the wall, which depends on who else is working
            f()
            times.append(time.thread_time() - begin)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert best(lambda: split.batch(index)) < 0.5 * best(lambda: torch.bernoulli(probability))
    finally:
        torch.set_num_threads(threads)


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


def test_the_mean_is_that_of_gray_pixels_however_they_are_drawn():
    x = torch.randint(0, 256, (5000, 1, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = x.double().mean(0).float() / 255
    for binarization in ("none", "dynamic"):
        torch.testing.assert_close(Split(x, binarization=binarization).mean(), expected)
    torch.testing.assert_close(Split(x.float() / 255).mean(), expected)
    assert Split(x).mean().shape == (1, 2, 3)


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
