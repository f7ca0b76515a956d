"""Split: tensors, batches, orders, binarization."""

from __future__ import annotations

import time

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import gray, same
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae.data import Data, Split, Stored, Stream, as_data, load

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


@pytest.mark.parametrize("kind", [Split, Stored])
def test_rows_that_are_no_index(kind):
    split = kind(torch.arange(10.0).reshape(10, 1))
    assert split.at(torch.tensor([2, 5]), "two").batch(slice(None))[0].flatten().tolist() == [2.0, 5.0]
    assert split.gray(torch.tensor([2, 5])).flatten().tolist() == [2.0, 5.0]
    for rows, error in (([10], IndexError), ({1: None}, TypeError), ("x", TypeError), (0.5, TypeError)):
        for ask in (split.gray, lambda rows: split.at(rows, "part")):
            with pytest.raises(error, match=r"^rows is a slice|^rows has dtype|is outside of"):
                ask(rows)
    with pytest.raises(TypeError, match="name has to be a string"):
        split.at(torch.tensor([2]), 3)


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


def test_the_mean_is_that_of_gray_pixels_however_they_are_drawn():
    x = torch.randint(0, 256, (5000, 1, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = x.double().mean(0).float() / 255
    for binarization in ("none", "dynamic"):
        torch.testing.assert_close(Split(x, binarization=binarization).mean(), expected)
    torch.testing.assert_close(Split(x.float() / 255).mean(), expected)
    assert Split(x).mean().shape == (1, 2, 3)
