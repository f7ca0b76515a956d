"""Loaders as Pyro users write them: step(x) and step(x, y) in turn, variable lengths, constants."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import SGVB_A, Enumeration, Pair, diagnostics
from pyro_vae.data import Mixed, as_data

K, D, B = 3, 5, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(40, D, generator=GENERATOR).round()
Y = nn.functional.one_hot(torch.arange(40) % K, K).float()
sgd = functools.partial(torch.optim.SGD, lr=1e-3)


class M2(nn.Module):
    """Labels are given or drawn, as in Pyro's ss_vae_M2.py."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder_y, self.encoder_z = nn.Linear(D, K), nn.Linear(D + K, 4)
        self.decoder = nn.Linear(2 + K, D)

    def model(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), 2), 1.0).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(probs=torch.ones(len(xs), K) / K), obs=ys)
            shape = torch.broadcast_shapes(zs.shape[:-1], ys.shape[:-1])
            logits = self.decoder(torch.cat([zs.expand(*shape, -1), ys.expand(*shape, -1)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        with pyro.plate("data", len(xs)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(xs)))
            shape = torch.broadcast_shapes(xs.shape[:-1], ys.shape[:-1])
            both = torch.cat([xs.expand(*shape, -1), ys.expand(*shape, -1)], -1)
            loc, scale = self.encoder_z(both).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


LABELED, UNLABELED = TensorDataset(X[:16], Y[:16]), X[16:]
IN_TURN = [(UNLABELED[:8],), (X[:8], Y[:8]), (UNLABELED[8:16],), (X[8:16], Y[8:16]), (UNLABELED[16:],)]


class Batches(torch.utils.data.Dataset):
    """Items that are batches."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def in_turn(batches: list[Any]) -> DataLoader:
    return DataLoader(Batches(batches), batch_size=None, collate_fn=lambda item: item)


def theirs(pair: Any, loss: Any, steps: list[tuple[Any, ...]], guide: Any = None) -> float:
    """The mean loss of a datum under SVI, over one pass."""
    pyro.clear_param_store()
    svi = SVI(pair.model, guide or pair.guide, pyro.optim.SGD({"lr": 1e-3 / B}), loss)
    torch.manual_seed(0)
    return sum(svi.step(*step) for step in steps) / sum(len(step[0]) for step in steps)


@pytest.mark.parametrize("compile", ["eager", "traced"])
@pytest.mark.parametrize("labels", ["left out", "None"])
def test_labeled_and_unlabeled_batches_in_turn(labels: str, compile: Any) -> None:
    steps: list[Any] = IN_TURN if labels == "left out" else [(*step, None)[:2] for step in IN_TURN]
    pair = M2()
    loss = theirs(pair, TraceEnum_ELBO(max_plate_nesting=1), steps, config_enumerate(pair.guide))
    ours = M2()
    run = pyro_vae.fit(ours, in_turn(steps), estimator=Enumeration(), optimizer=sgd, epochs=1, num_data=40,
                       compile=compile, progress=False)  # fmt: skip
    assert run.history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    for one, other in zip(pair.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_two_sets_in_turn() -> None:
    """A pass goes through all data once; the steps are those of the loader above, but for the order."""
    mixed = Mixed(LABELED, UNLABELED)
    assert (mixed.num_data, mixed.num_batches(B), mixed.event_shape) == (40, 5, (D,))
    sizes = [len(batch) for batch in mixed.batches(B)]
    assert sizes == [1, 2, 1, 2, 1]
    whole = list(mixed.batches(B, shuffle=True, epoch=3, seed=1))
    for x, *y in list(mixed.batches(B, shuffle=True, epoch=3, seed=1, start=2)):
        assert any(torch.equal(x, other[0]) and len(other) == 1 + len(y) for other in whole[2:])
    seen = torch.cat([batch[0] for batch in whole])
    assert torch.equal(seen.sum(0), X.sum(0))
    ours = M2()
    options: dict[str, Any] = {"epochs": 2, "batch_size": B, "compile": "traced", "progress": False}
    run = pyro_vae.fit(ours, (mixed, X), estimator=Enumeration(), **options)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.history[-1]["valid"] is not None
    assert {"log_p"} <= set(run.history[0]["terms"]["y"])
    assert as_data(mixed).describe().startswith("data: 40 train")


def test_kinds_of_batches_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"another kind than the training data: \(\[8, 5\] float32\) and \(\[8, 5\]"):
        pyro_vae.fit(M2(), (TensorDataset(X, Y), X), estimator=Enumeration(), batch_size=B, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"is uint8 and valid int64.*go up to 200"):
        as_data(((255 * X).byte(), 200 * X.long()))

    class Late(M2):
        def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
            if ys is not None:
                pyro.param("late", torch.zeros(()))
            super().guide(xs, ys)

    pair, late = Late(), [(UNLABELED[:8],)] * 6 + [(X[:8], Y[:8])]
    with pytest.raises(ValueError, match=r"a batch of another kind makes the parameter '.*late'"):
        pyro_vae.fit(Pair(pair.model, pair.guide), in_turn(late), estimator=Enumeration(), epochs=1, num_data=40,
                     compile="eager", progress=False)  # fmt: skip


# Variable lengths

LENGTHS = [4, 2, 5, 1, 3, 3, 2, 4]
SEQUENCES = [torch.randn(length, 2, generator=GENERATOR) for length in LENGTHS]


class Sequences(nn.Module):
    """A code of each sequence by a recurrent network; the steps that are there are observed."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.rnn, self.decoder = form, nn.GRU(2, 4, batch_first=True), nn.Linear(2, 2)

    def unpacked(self, sequences: Any, lengths: Any) -> tuple[Any, Tensor, Tensor]:
        """The sequences packed, and padded with their lengths."""
        if self.form == "packed":
            return sequences, *pad_packed_sequence(sequences, batch_first=True)
        if "list" in self.form and lengths is None:
            assert isinstance(sequences, list)
            lengths, sequences = torch.tensor([len(one) for one in sequences]), pad_sequence(sequences, True)
        lengths = torch.as_tensor(lengths)
        return pack_padded_sequence(sequences, lengths, True, False), sequences, lengths

    def model(self, sequences: Any, lengths: Any = None) -> None:
        pyro.module("sequences", self)
        _, x, lengths = self.unpacked(sequences, lengths)
        there = torch.arange(x.shape[1]) < lengths[:, None]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            law = dist.Normal(self.decoder(z).unsqueeze(-2), 1.0).expand([*z.shape[:-1], x.shape[1], 2]).to_event(1)
            pyro.sample("x", law.mask(there).to_event(1), obs=x)

    def guide(self, sequences: Any, lengths: Any = None) -> None:
        pyro.module("sequences", self)
        packed, _, lengths = self.unpacked(sequences, lengths)
        loc, scale = self.rnn(packed)[1][0].chunk(2, -1)
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def collated(form: str, rows: list[Tensor]) -> Any:
    lengths = [len(row) for row in rows]
    padded = pad_sequence(rows, batch_first=True)
    return {
        "padded": (padded, torch.tensor(lengths)),
        "lengths in a list": (padded, lengths),
        "by name": {"sequences": padded, "lengths": torch.tensor(lengths)},
        "list": (rows,),
        "a list alone": rows,
        "packed": pack_padded_sequence(padded, torch.tensor(lengths), True, False),
    }[form]


@pytest.mark.filterwarnings("ignore:programs run eager")
@pytest.mark.parametrize("form", ["padded", "lengths in a list", "by name", "list", "a list alone", "packed"])
def test_sequences_of_variable_lengths(form: str) -> None:
    collate = functools.partial(collated, form)
    parts = [SEQUENCES[:3], SEQUENCES[3:6], SEQUENCES[6:]]
    loader = DataLoader(Batches(parts), batch_size=None, collate_fn=collate)
    pair = Sequences(form)
    steps = [batch if isinstance(batch, tuple) and form != "packed" else (batch,) for batch in map(collate, parts)]
    called = [tuple(step[0].values()) if form == "by name" else step for step in steps]
    pyro.clear_param_store()
    svi = SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    torch.manual_seed(0)
    loss = sum(svi.step(*step) for step in called) / len(SEQUENCES)
    run = pyro_vae.fit(pair, (loader, loader), estimator=SGVB_A(), optimizer=functools.partial(torch.optim.SGD, lr=0.0),
                       epochs=1, num_data=8, progress=False)  # fmt: skip
    assert run.history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert run.history[0]["valid"] == pytest.approx(-loss, rel=1.0)
    usage = diagnostics.rate_distortion(pair, steps, SGVB_A())
    assert usage.distortion > 0


def test_items_of_several_lengths_ask_for_a_loader() -> None:
    with pytest.raises(ValueError, match=r"DataLoader whose collate_fn pads them: \(x, lengths\)"):
        as_data(SEQUENCES)


def test_constants_are_partial() -> None:
    class Annealed(M2):
        def model(self, xs: Tensor, factor: float, name: str = "x") -> None:  # type: ignore[override]
            with pyro.poutine.scale(scale=factor):
                super().model(xs, Y[: len(xs)])

        def guide(self, xs: Tensor, factor: float, name: str = "x") -> None:  # type: ignore[override]
            with pyro.poutine.scale(scale=factor):
                super().guide(xs, Y[: len(xs)])

    pair = Annealed()
    loss = theirs(pair, Trace_ELBO(), [(X[:B], 0.5)])
    ours = Annealed()
    bound = Pair(functools.partial(ours.model, factor=0.5), functools.partial(ours.guide, factor=0.5))
    run = pyro_vae.fit(bound, in_turn([(X[:B],)]), estimator=SGVB_A(), optimizer=sgd, epochs=1, progress=False,
                       compile="eager")  # fmt: skip
    assert run.history[0]["loss"] == pytest.approx(loss, rel=1e-5)


# Missing values


class Masking(nn.Module):
    """NaN are missing, and the program says so, or not."""

    def __init__(self, masks: bool) -> None:
        super().__init__()
        self.masks, self.loc = masks, nn.Parameter(torch.zeros(D))

    def model(self, x: Tensor) -> None:
        pyro.module("masking", self)
        law = dist.Normal(self.loc, 1.0).expand(x.shape)
        if self.masks:
            law, x = law.mask(~x.isnan()), x.nan_to_num()
        with pyro.plate("data", len(x)):
            pyro.sample("x", law.to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pass


HOLED = torch.where(torch.arange(40 * D).reshape(40, D) % 7 == 6, torch.nan, X)
CALLS: dict[str, Any] = {
    "fit": lambda pair, x: pyro_vae.fit(pair, x, epochs=1, batch_size=B, compile="eager", progress=False),
    "fit, by a loader": lambda pair, x: pyro_vae.fit(
        pair, DataLoader(x, batch_size=B), epochs=1, compile="eager", progress=False
    ),
    "fit, with held-out data": lambda pair, x: pyro_vae.fit(
        pair, (X, x), epochs=1, batch_size=B, compile="eager", progress=False
    ),
    "check": pyro_vae.check,
    "bound": SGVB_A().bound,
    "mean_bound": lambda pair, x: SGVB_A().mean_bound(pair, [(x,)]),
    "importance": lambda pair, x: pyro_vae.evidence.importance(pair, x, 3, compile="eager"),
}


@pytest.mark.parametrize("call", CALLS)
def test_missing_values_are_the_program_s_to_mask(call: str) -> None:
    """Refused, unless the program masks them; the same everywhere."""
    CALLS[call](Masking(True), HOLED)
    with pytest.raises(
        ValueError, match=r"x is NaN in \d+ of \d+ data, the first at index \d+, and so is the log-dens"
    ):
        CALLS[call](Masking(False), HOLED)


def test_what_is_missing_counts_nothing() -> None:
    pair = Masking(True)
    run = pyro_vae.fit(pair, HOLED, epochs=300, batch_size=40, compile="eager", progress=False,
                       optimizer=functools.partial(torch.optim.Adam, lr=0.1))  # fmt: skip
    torch.testing.assert_close(pair.loc.detach(), HOLED.nanmean(0), atol=1e-3, rtol=0)
    squares = (HOLED - HOLED.nanmean(0)).square() + torch.tensor(2 * torch.pi).log()
    exact = -squares.nansum(1).mean().item() / 2
    assert run.history[-1]["train"] == pytest.approx(exact, abs=1e-4)


def test_conversions_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_vae.pair.arguments import Arguments

    decided: list[int] = []
    before = Arguments._decided
    monkeypatch.setattr(Arguments, "_decided", lambda self, values: decided.append(1) or before(self, values))
    pair = M2()
    batches = [(X[i : i + B].long(), Y[i : i + B]) for i in range(0, 40, B)]
    SGVB_A().mean_bound(pair, batches)
    assert len(decided) == 1
    diagnostics.rate_distortion(pair, batches[:1], SGVB_A())
    assert len(decided) == 2
    diagnostics.reconstruct(Masking(False), X)
    assert len(decided) == 3
