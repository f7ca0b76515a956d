"""Batches of any structure: what a program takes under ``svi.step(*args, **kwargs)``, it takes everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

import pyro_vae
from pyro_vae import SGVB_A, batches, check, diagnostics, evidence
from pyro_vae.pair.arguments import arguments

N, D = 12, 6
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 3
LENGTHS = torch.tensor([6, 5, 5, 4, 4, 4, 3, 3, 2, 2, 1, 1])


class Program(nn.Module):
    """A latent of each datum, x given it and ``shift``, which depends on the other arguments."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(D, 2), nn.Linear(1, D)
        self.shifts = nn.Parameter(torch.randn(3))

    def p(self, x: Tensor, shift: Any = 0.0, mask: Any = True) -> None:
        pyro.module("program", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with pyro.poutine.mask(mask=mask):
                loc = self.decoder(z[..., None]) + torch.as_tensor(shift)[..., None]
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def q(self, x: Tensor) -> None:
        pyro.module("program", self)
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * loc, 1.2 + 0.1 * scale.sigmoid()))


class ByName(Program):
    def model(self, *, x: Tensor, y: Tensor) -> None:
        self.p(x, self.shifts[y])

    def guide(self, *, x: Tensor, y: Tensor) -> None:
        self.q(x)


class Exact(ByName):
    """The guide is the posterior, so that each draw tells log p(x)."""

    def guide(self, *, x: Tensor, y: Tensor) -> None:
        pyro.module("program", self)
        w = self.decoder.weight[:, 0]
        precision = 1 + w @ w
        with pyro.plate("data", len(x)):
            loc = (x - self.decoder.bias - self.shifts[y][:, None]) @ w / precision
            pyro.sample("z", dist.Normal(loc, precision.rsqrt()))


class WithDefaults(Program):
    def model(self, x: Tensor, factor: float = 2.0, y: Tensor | None = None) -> None:
        assert isinstance(factor, float)
        self.p(x, factor * (self.shifts[y] if y is not None else self.shifts.mean()))

    def guide(self, x: Tensor, factor: float = 2.0, y: Tensor | None = None) -> None:
        self.q(x)


class OtherOrder(Program):
    def model(self, x: Tensor, y: Tensor) -> None:
        self.p(x, self.shifts[y])

    def guide(self, y: Tensor, x: Tensor) -> None:
        self.q(x)


class OfDictionaries(Program):
    def model(self, batch: dict[str, Any]) -> None:
        self.p(batch["x"], self.shifts[batch["y"]])

    def guide(self, batch: dict[str, Any]) -> None:
        self.q(batch["x"])


class Options(Program):
    """Numbers, strings, flags, None."""

    def model(self, x: Tensor, y: Tensor | None, times: int, kind: str, on: bool, mask: Tensor | None = None) -> None:
        assert type(times) is int
        assert type(on) is bool
        assert y is None
        self.p(x, sum(self.shifts[i] for i in range(times)) if kind == "shifted" and on else 0.0, True)

    def guide(self, x: Tensor, y: Tensor | None, times: int, kind: str, on: bool, mask: Tensor | None = None) -> None:
        self.q(x)


class Listed(Program):
    """A length for each datum, in a list of Python's."""

    def model(self, x: Tensor, lengths: list[int]) -> None:
        assert isinstance(lengths, list)
        assert len(lengths) == len(x)
        self.p(x, torch.tensor([self.shifts[0].item() * length for length in lengths]))

    def guide(self, x: Tensor, lengths: list[int]) -> None:
        assert len(lengths) == len(x)
        self.q(x)


class Packed(Program):
    def model(self, sequences: PackedSequence) -> None:
        x, lengths = pad_packed_sequence(sequences, batch_first=True, total_length=D)
        self.p(x, self.shifts[0] * lengths)

    def guide(self, sequences: PackedSequence) -> None:
        self.q(pad_packed_sequence(sequences, batch_first=True, total_length=D)[0])


class Nested(Program):
    def model(self, pair: tuple[Tensor, dict[str, Any]]) -> None:
        x, more = pair
        self.p(x, self.shifts[more["y"]])

    def guide(self, pair: tuple[Tensor, dict[str, Any]]) -> None:
        self.q(pair[0])


def packed() -> PackedSequence:
    kept = torch.arange(D) < LENGTHS[:, None]
    return pack_padded_sequence(X * kept, LENGTHS, batch_first=True)


# By name: the program, its batch as a loader gives it, and what svi.step is given of it.
GIVEN: dict[str, tuple[Callable[[], Any], Any, Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "by name alone": (ByName, {"x": X, "y": Y}, lambda b: ((), b)),
    "by name, in places": (WithDefaults, {"x": X, "y": Y}, lambda b: ((), b)),
    "without labels": (WithDefaults, {"x": X}, lambda b: ((), b)),
    "by name, in other places": (OtherOrder, {"y": Y, "x": X}, lambda b: ((), b)),
    "a dictionary": (OfDictionaries, {"x": X, "y": Y, "id": "first"}, lambda b: ((b,), {})),
    "options": (Options, (X, None, 2, "shifted", True), lambda *b: (b, {})),
    "options, and a name": (Options, (X, None, 2, "shifted", True, {"mask": None}),
                            lambda *b: (b[:-1], b[-1])),
    "a list": (Listed, (X, LENGTHS.tolist()), lambda *b: (b, {})),
    "packed sequences": (Packed, packed(), lambda b: ((b,), {})),
    "nested": (Nested, ((X, {"y": Y}),), lambda b: ((b,), {})),
}  # fmt: skip


class One(Dataset):
    """A data set of one item, which is a batch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.batch


def loader(batch: Any) -> DataLoader:
    return DataLoader(One(batch), batch_size=None, collate_fn=lambda item: item)


def as_tuple(batch: Any) -> tuple[Any, ...]:
    return batch if isinstance(batch, tuple) and not isinstance(batch, PackedSequence) else (batch,)


@pytest.mark.filterwarnings("ignore:the effective sample size", "ignore:programs run eager")
@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("compile", ["eager", "auto"])
def test_programs_train_as_under_svi(name: str, compile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same losses at the same seed, with the batch as a loader gives it."""
    monkeypatch.setattr("pyro_vae.compiled._has_compiler", lambda module: False)
    make, batch, called = GIVEN[name]
    args, kwargs = called(*as_tuple(batch))
    theirs, ours = make(), make()
    pyro.clear_param_store()
    svi = SVI(theirs.model, theirs.guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
    torch.manual_seed(0)
    losses = [svi.step(*args, **kwargs) / N for _ in range(4)]
    if compile == "auto":
        with pytest.warns(UserWarning, match="programs run"):
            run = fitted(ours, batch, compile)
    else:
        run = fitted(ours, batch, compile)
    assert [entry["loss"] for entry in run.history] == pytest.approx(losses, rel=1e-5)
    if compile == "auto" and name not in ("a list", "packed sequences"):
        assert run.mode == "traced"


def fitted(pair: Any, batch: Any, compile: Any) -> Any:
    return pyro_vae.fit(
        pair,
        loader(batch),
        estimator=SGVB_A(),
        optimizer=functools.partial(torch.optim.SGD, lr=1e-3 * N),
        epochs=4,
        num_data=N,
        compile=compile,
        progress=False,
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", GIVEN)
def test_everything_takes_what_programs_take(name: str) -> None:
    make, batch, called = GIVEN[name]
    pair = make()
    args, kwargs = called(*as_tuple(batch))
    report = check(pair, *args, **kwargs)
    assert {site.name for site in report.sites} == {"z", "x"}
    check(pair, *as_tuple(batch))
    torch.manual_seed(0)
    bound = SGVB_A().bound(pair, *as_tuple(batch))
    torch.manual_seed(0)
    trace = pyro.poutine.trace(pair.guide).get_trace(*args, **kwargs)
    model = pyro.poutine.trace(pyro.poutine.replay(pair.model, trace=trace)).get_trace(*args, **kwargs)
    torch.testing.assert_close(bound.sum(), model.log_prob_sum() - trace.log_prob_sum())
    data = batch
    # In chunks of a few data, whose arguments go along with them.
    whole = evidence.importance(pair, data, 2000, seed=1, compile="eager")
    parts = evidence.importance(pair, data, 2000, seed=1, chunk=2000, compile="eager")
    torch.testing.assert_close(whole.log_prob, parts.log_prob, atol=0.2, rtol=0)
    exact = log_evidence(pair, *args, **kwargs)
    torch.testing.assert_close(whole.log_prob, exact, atol=0.3, rtol=0)
    assert evidence.ais(pair, data, 2, 20, num_leapfrog=2, compile="eager").log_prob.shape == (N,)
    code = diagnostics.encode(pair, *as_tuple(batch))["z"]
    assert torch.equal(code, trace.nodes["z"]["fn"].mean)
    assert diagnostics.reconstruct(pair, *as_tuple(batch)).shape == (N, D)
    assert diagnostics.rate_distortion(pair, diagnostics.chunks(*as_tuple(batch), size=5)).rate > 0


def log_evidence(pair: Program, *args: Any, **kwargs: Any) -> Tensor:
    """x is a Gaussian of covariance I + w w^T around b + shift."""
    given = pyro.poutine.trace(pyro.poutine.condition(pair.model, {"z": torch.zeros(N)})).get_trace(*args, **kwargs)
    weight = pair.decoder.weight.detach()
    law = torch.distributions.MultivariateNormal(torch.zeros(D), torch.eye(D) + weight @ weight.T)
    site = given.nodes["x"]
    return law.log_prob(site["value"] - site["fn"].mean).detach()


def test_names_that_no_program_takes() -> None:
    with pytest.raises(ValueError, match="take no argument 'label'"):
        check(ByName(), x=X, y=Y, label=Y)
    with pytest.warns(UserWarning, match=r"arguments by name, id, which the programs of ByName do not take"):
        (named,) = arguments(ByName(), {"x": X, "y": Y, "id": torch.arange(N)})
    assert set(named) == {"x", "y"}


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (X.to_sparse(), r"x.to_dense\(\)"),
        (torch.nested.nested_tensor([X[0], X[1, :3]]), r"to_padded_tensor"),
    ],
)
def test_sparse_and_nested_tensors_are_refused_in_a_sentence(x: Tensor, remedy: str) -> None:
    for call in (check, pyro_vae.fit, SGVB_A().bound, evidence.importance):
        with pytest.raises((TypeError, ValueError), match=remedy):
            call(WithDefaults(), x)


def test_dictionaries_are_data() -> None:
    """As one set in memory, as items, and as batches of a loader: the same steps."""
    items = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    exact = log_evidence(ByName(), x=X, y=Y)
    for data in ({"x": X, "y": Y}, items, DataLoader(items, batch_size=N), (items, items)):
        pair = Exact()
        options: dict[str, Any] = {"estimator": SGVB_A(), "compile": "eager", "progress": False}
        run = pyro_vae.fit(pair, data, epochs=1, batch_size=N, **options)
        assert run.history[0]["train"] == pytest.approx(exact.mean().item(), rel=1e-5)


def test_rows_of_a_batch() -> None:
    batch = (X, {"y": Y, "name": "a", "rows": [str(i) for i in range(N)]}, packed(), None, torch.eye(3), [X[:2], 1])
    assert batches.num_rows(batch) == N
    x, named, sequences, none, matrix, pair = batches.rows(batch, torch.tensor([7, 2]))
    assert torch.equal(x, X[[7, 2]])
    assert torch.equal(named["y"], Y[[7, 2]])
    assert named["rows"] == ["7", "2"]
    assert named["name"] == "a"
    assert none is None
    padded, lengths = pad_packed_sequence(sequences, batch_first=True)
    assert lengths.tolist() == [3, 5]
    assert torch.equal(padded[0, :3], X[7, :3])
    assert torch.equal(padded[1], X[2, :5])
    assert matrix.shape == (3, 3)
    assert pair[0].shape == (2, D)
    tensors, structure = batches.flattened(batch)
    again = batches.unflattened(structure, iter(tensors))
    assert batches.flattened(again)[1] == structure
    assert hash(structure) == hash(batches.flattened(again)[1])
    assert (isinstance(again[2], PackedSequence) and again[1]["rows"] == named["rows"]) or len(again[1]["rows"]) == N
    assert batches.flattened((1.0,))[1] != batches.flattened((True,))[1]
    both = batches.joined([batches.rows((X, Y, 3), slice(5)), batches.rows((X, Y, 3), slice(5, N))])
    assert torch.equal(both[0], X)
    assert torch.equal(both[1], Y)
    assert both[2] == 3
