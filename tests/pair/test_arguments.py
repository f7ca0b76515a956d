"""The one conversion of data: fit, check, bounds, evidence and diagnostics give the programs the same numbers."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import pyro_vae
from pyro_vae import SGVB_A, Pair, check, diagnostics, evidence
from pyro_vae.data import Split
from pyro_vae.models import MLPVAE, FullBayes, LabeledVAE
from pyro_vae.pair.arguments import Arguments, arguments, batch_of

N = 40
fit = functools.partial(pyro_vae.fit, compile="eager", progress=False, epochs=1, batch_size=N)


class Seen(list[Any]):
    """Batches; a copy of a pair goes on writing here."""

    def __deepcopy__(self, memo: Any) -> Seen:
        return self


class Seeing(nn.Module):
    """A pair with one latent, which notes what its programs were given."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=dtype))
        self.seen = Seen()

    def observed(self, x: Any) -> Any:
        return dist.Normal(torch.zeros_like(x, dtype=self.loc.dtype), 1.0), x

    def model(self, *batch: Any) -> None:
        x = batch[0]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=self.loc.dtype), 1.0))
            law, value = self.observed(x)
            pyro.sample("x", law.to_event(x.dim() - 1), obs=value)
        self.seen.append(x)

    def guide(self, *batch: Any) -> None:
        pyro.module("pair", self)
        with pyro.plate("data", len(batch[0])):
            pyro.sample("z", dist.Normal(self.loc, 1.0))
        self.seen.append(batch[0])


def calls(data: Any) -> dict[str, Any]:
    """Everything that gives data to a pair; ``data`` is all of them, x or (x, ...)."""
    batch = data if isinstance(data, tuple) else (data,)
    wrapped = TensorDataset(*map(torch.as_tensor, batch)) if isinstance(data, tuple) else data
    return {
        "check": lambda pair: check(pair, *batch),
        "fit": lambda pair: fit(pair, wrapped),
        "bound": lambda pair: SGVB_A().bound(pair, *batch),
        "terms": lambda pair: SGVB_A().terms(pair, *batch),
        "importance": lambda pair: evidence.importance(pair, data, 2, compile="eager"),
        "ais": lambda pair: evidence.ais(pair, data, 2, 3, num_leapfrog=2, schedule="linear", compile="eager"),
        "encode": lambda pair: diagnostics.encode(pair, *batch),
        "rate_distortion": lambda pair: diagnostics.rate_distortion(pair, [batch]),
        "gradient_statistics": lambda pair: diagnostics.gradient_statistics(pair, data, [SGVB_A()], 4, compile="eager"),
    }


VALUES = torch.arange(N * 6).reshape(N, 6) * 13 % 251
GIVEN: dict[str, tuple[Any, Tensor]] = {
    "pixels": (VALUES.to(torch.uint8), VALUES / 255),
    "integers": (VALUES, VALUES),
    "integers of 16 bits": (VALUES.to(torch.int16).numpy(), VALUES),
    "booleans": (VALUES > 99, (VALUES > 99).float()),
    "float64": (VALUES.double() + 1 / 3, VALUES.double() + 1 / 3),
    "an array": (VALUES.double().numpy() + 1 / 3, VALUES.double() + 1 / 3),
    "lists": (VALUES.tolist(), VALUES),
    "sequences": (VALUES.reshape(N, 2, 3).float(), VALUES.reshape(N, 2, 3).float()),
    "numbers": (VALUES[:, 0].float(), VALUES[:, 0].float()),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of so few draws
@pytest.mark.parametrize(
    ("given", "call"),
    [
        (given, call)
        for given in GIVEN
        for call in calls(None)
        if given in ("pixels", "lists") or call in ("fit", "bound")
    ],
)
def test_all_see_the_same_numbers(given: str, call: str) -> None:
    """Data of each kind by training and by a bound, and of two kinds by everything, which converts them alike."""
    data, expected = GIVEN[given]
    pair = Seeing()
    calls(data)[call](pair)
    assert pair.seen
    rows = {tuple(row) for row in expected.float().reshape(N, -1).tolist()}
    for x in pair.seen:
        assert x.is_floating_point() == expected.is_floating_point()
        assert x.shape[1:] == expected.shape[1:]
        assert {tuple(row) for row in x.reshape(len(x), -1).tolist()} <= rows
    assert max(map(len, pair.seen)) == N


class Text(Seeing):
    """Six words of 50."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(50))

    def observed(self, x: Any) -> Any:
        return dist.Categorical(logits=self.logits.expand(*x.shape, 50)), x.long()


def test_words_are_trained_on_as_words() -> None:
    words = torch.randint(0, 50, (300, 6), generator=torch.Generator().manual_seed(0))
    pair = Text()
    run = pyro_vae.fit(pair, words, epochs=200, batch_size=300, compile="eager", progress=False,
                       optimizer=functools.partial(torch.optim.Adam, lr=0.1))  # fmt: skip
    share = words.flatten().bincount(minlength=50) / words.numel()
    assert pair.logits.softmax(0).sub(share).abs().max() < 1e-3
    assert run.bound == pytest.approx(6 * torch.special.entr(share).sum().neg().item(), abs=0.05)


class Linear(Seeing):
    """A network of x, which no integers go through."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(6, 6)

    def observed(self, x: Any) -> Any:
        return dist.Poisson(self.network(x).exp().clamp(max=1e3)), x


def test_counts_become_real_numbers_where_the_networks_need_them() -> None:
    counts = VALUES // 50
    for call in calls(counts).values():
        pair = Linear()
        call(pair)
        assert any(torch.equal(x.sort(0).values, counts.float().sort(0).values) for x in pair.seen)
        assert pair.seen[-1].dtype == torch.float32


# Precision


class Precise(Seeing):
    def observed(self, x: Any) -> Any:
        return dist.Normal(1e6 + self.loc, 0.01).expand(x.shape), x


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", ["fit", "bound", "importance"])
def test_data_of_a_pair_in_float64_stay_what_they_are(call: str) -> None:
    x = 1e6 + 0.01 * torch.randn(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = dist.Normal(x.new_tensor(1e6), 0.01).log_prob(x).sum(-1).mean().item()
    pair, frozen = Precise(torch.float64), functools.partial(torch.optim.SGD, lr=0.0)
    for data in (x, x.numpy(), x.tolist(), TensorDataset(x), DataLoader(TensorDataset(x), batch_size=N)):
        if call == "fit":
            value = fit(pair, data, optimizer=frozen).history[0]["terms"]["x"]["log_p"]
        elif isinstance(data, (TensorDataset, DataLoader)):
            continue
        elif call == "bound":
            value = dict(SGVB_A().terms(pair, data)["x"].items())["log_p"].mean().item()
        else:  # guide and prior are one, so that all weights are p(x)
            value = evidence.importance(pair, data, 5, compile="eager").log_prob.mean().item()
        assert value == pytest.approx(exact, rel=1e-9)


def test_what_rounding_takes_away_is_said() -> None:
    x = 1e6 + 0.01 * torch.randn(N, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"float64 and the pair float32.*4 of the 4 numbers.*pair.double\(\)"):
        arguments(Seeing(), x)
    with pytest.raises(ValueError, match=r"go up to 1e\+300, beyond the range of the pair's torch.float32"):
        arguments(Seeing(), x * 1e294)
    arguments(
        Seeing(), torch.cat([VALUES / 255, torch.full((N, 1), 0.1)], 1).double()
    )  # nothing to say, also of a constant


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_parameters_of_functions_tell_their_precision_before_the_first_run(dtype: torch.dtype) -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(6, dtype=dtype))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        weight = pyro.param("weight", lambda: torch.zeros(6, 1, dtype=dtype))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x @ weight).squeeze(-1), 1.0))

    (x,) = arguments(Pair(model, guide), VALUES.double().numpy())
    assert x.dtype == dtype


# What is passed


class Classes(nn.Module):
    """A model of x given y, where y is passed."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(3))

    def run(self, x: Tensor, y: Tensor | None) -> None:
        pyro.module("classes", self)
        loc = self.means[y] if y is not None else self.means.mean().expand(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        self.run(x, y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pass


class Plain(Classes):
    def model(self, x: Tensor) -> None:  # type: ignore[override]
        self.run(x, None)

    def guide(self, x: Tensor) -> None:  # type: ignore[override]
        pass


class Tempered(Plain):
    """Its second parameter is no place for labels."""

    def model(self, x: Tensor, beta: float = 1.0) -> None:  # type: ignore[override]
        assert isinstance(beta, float)
        self.run(x, None)

    def guide(self, x: Tensor, beta: float = 1.0) -> None:  # type: ignore[override]
        pass


class Forwarding(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def model(self, *args: Any) -> Any:
        return self.inner.model(*args)

    def guide(self, *args: Any) -> Any:
        return self.inner.guide(*args)


class Items(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= N:
            raise IndexError
        return X[index], int(Y[index])


Y = torch.arange(N) % 3
X = Y * 10.0 + torch.randn(N, generator=torch.Generator().manual_seed(0))
BOTH = TensorDataset(X, Y)
WRAPPED = {
    "TensorDataset": BOTH,
    "DataLoader": DataLoader(BOTH, batch_size=N),
    "Subset": Subset(BOTH, range(N)),
    "ConcatDataset": ConcatDataset([BOTH]),
    "list": list(BOTH),
    "dataset of (image, label)": Items(),
}
sgd = functools.partial(torch.optim.SGD, lr=2.0)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_pairs_of_labels_train_with_them_however_they_are_wrapped(wrapped: str) -> None:
    means = torch.stack([X[y == Y].mean() for y in range(3)])
    for pair in (Classes(), Forwarding(Classes())):
        fit(pair, WRAPPED[wrapped], epochs=20, optimizer=sgd)
        torch.testing.assert_close(getattr(pair, "inner", pair).means.detach(), means, atol=1e-2, rtol=0)


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(
    "make", [Plain, Tempered, lambda: Forwarding(Plain()), lambda: Pair(Plain().model, Plain().guide)]
)
def test_what_a_pair_does_not_take_is_left_out_and_said(make: Any, wrapped: str) -> None:
    with pytest.warns(
        UserWarning, match=r"2 arguments \(\[N\] float32, \[N\] int64\).*take the first; the rest"
    ) as said:
        run = fit(make(), WRAPPED[wrapped], epochs=3)
    assert len([one for one in said if "arguments" in str(one.message)]) == 1
    expected = fit(make(), X, epochs=3)
    losses, alone = ([entry["loss"] for entry in found.history] for found in (run, expected))
    assert losses == pytest.approx(alone, rel=1e-6)


def test_real_numbers_go_where_labels_do_not() -> None:
    class Weighed(Tempered):
        def model(self, x: Tensor, weight: Any = 1.0) -> None:
            self.weight = weight
            self.run(x, None)

    pair = Weighed()
    fit(pair, TensorDataset(X, torch.full((N,), 2.0)))
    assert torch.equal(pair.weight, torch.full((N,), 2.0))


def test_labels_that_are_kept_for_figures_are_said_not_to_train() -> None:
    with pytest.warns(UserWarning, match=r"Classes take a second argument, but the labels of 'digits' .*TensorDataset"):
        fit(Classes(), Split(X, labels=Y, name="digits"))
    fit(Plain(), Split(X, labels=Y))


class Needing(Classes):
    def model(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        self.run(x, y)

    def guide(self, *args: Any) -> None:  # type: ignore[override]
        pass


class Optional(Needing):
    def guide(self, x: Tensor, y: Any = None) -> None:  # type: ignore[override]
        pass


class Annealed(Needing):
    """Its second argument is no place for labels, and has no default."""

    def model(self, x: Tensor, beta: float) -> None:  # type: ignore[override]
        raise AssertionError


class Guided(Needing):
    def guide(self, *args: Any, **kwargs: Any) -> None:  # as those of Pyro's AutoGuides
        pass


@pytest.mark.parametrize(
    ("make", "names"), [(Needing, None), (Optional, None), (Guided, None), (Optional, ["x"]), (Guided, ["x"])]
)
def test_labels_go_to_a_program_that_does_not_run_without_them_and_that_is_said(make: Any, names: Any) -> None:
    pair, data = make(), Split(X, labels=Y, names=names, name="digits")
    with pytest.warns(UserWarning, match="the labels of 'digits' are y, the second argument"):
        fit(pair, data, epochs=20, optimizer=sgd)
    assert pair.means.detach()[2] > pair.means.detach()[0] + 5


def test_no_argument_of_another_name_is_taken_for_that_of_labels() -> None:
    with pytest.raises(pyro_vae.PairError, match=r"'beta'.*fit\(pair, data.with_labels\(\)\) passes both"):
        fit(Annealed(), Split(X, labels=Y))


def test_random_weights_hand_on_what_their_pair_takes() -> None:
    pair = FullBayes(MLPVAE((6,), 2, (4,), likelihood=pyro_vae.likelihoods.Poisson))
    with pytest.warns(UserWarning, match="FullBayes take the first"):
        (x,) = arguments(pair, VALUES, Y)
    assert torch.equal(x, VALUES.float())


def test_later_batches_are_treated_as_the_first() -> None:
    convert = Arguments(Plain())
    with pytest.warns(UserWarning, match="left out"):
        assert len(convert(X, Y)) == 1
    assert len(convert(X, Y)) == 1  # pytest makes an unexpected warning of ours an error


class Two(nn.Module):
    """x and y of one shape, both observed."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1))

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pass


def test_two_arrays_of_one_shape_may_be_arguments_or_sets() -> None:
    x, y = torch.randn(6, 1), torch.randn(6, 1)
    with pytest.raises(ValueError, match=r"one TensorDataset\(x, y\)"):
        fit(Two(), (x, y), epochs=1, batch_size=3, progress=False)
    fit(Two(), TensorDataset(x, y), epochs=1, batch_size=3, progress=False, compile="eager")


def test_a_list_is_data_everywhere() -> None:
    rows = [torch.rand(3) for _ in range(4)]
    assert torch.equal(batch_of(Two(), rows)[0], torch.stack(rows))


def test_numbers_that_are_blurred_are_told_wherever_they_stand() -> None:
    far = 1_700_000_000 + torch.arange(6)[:, None]
    with pytest.warns(UserWarning, match=r"argument 1 is float64 and the pair float32, whose rounding"):
        arguments(Two(), torch.randn(6, 1), far.double())
    with pytest.warns(UserWarning, match=r"x is int64 and the pair float32, whose rounding"):
        arguments(Two(), far)


def test_bytes_are_no_pixels_where_whole_numbers_are_observed() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(5))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Categorical(logits=self.logits).expand([x.shape[1]]).to_event(1), obs=x.long())

        def guide(self, x: Tensor) -> None:
            pass

    words = torch.randint(0, 5, (8, 3))
    with pytest.raises(ValueError, match=r"x is uint8, which are pixels.*'x', a Categorical, observes whole numbers"):
        arguments(Text(), words.byte())
    assert torch.equal(arguments(Text(), words)[0], words)


def test_the_precision_of_a_guide_that_makes_its_parameters_later() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    pair = Pair(model, AutoDiagonalNormal(model))
    given = arguments(pair, torch.randn(6, 2).double(), torch.randn(6).double())
    assert [value.dtype for value in given] == [torch.float32, torch.float32]


def test_pixels_of_bytes_stand_beside_labels_that_are_observed() -> None:
    """Only x are pixels: a class that another argument gives says nothing against bytes."""
    vae = LabeledVAE((4,), 3, 2, (8,)).eval()
    x, y = torch.tensor([[0, 255, 255, 0]] * 5, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1])
    torch.manual_seed(0)
    found = SGVB_A().bound(vae, x, y)
    torch.manual_seed(0)
    torch.testing.assert_close(found, SGVB_A().bound(vae, x / 255, y))
