"""reads: a graph is used for no batch of which its program reads something else in Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_vae import SGVB_A, Pair
from pyro_vae import compiled as compiled_module
from pyro_vae.compiled import Compiled
from pyro_vae.training import TrainingStep


class Reading(nn.Module):
    """``read(module, x, lengths)`` times a trained number, with noise."""

    def __init__(self, read: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = read
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.rnn = nn.RNN(2, 3, batch_first=True)
        self.register_buffer("ready", torch.tensor(False))
        self.table = torch.tensor([3, 1, 2, 0, 2, 1])

    def forward(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        return [(self.scale * self.read(self, x, lengths) * torch.rand(())).sum()]


def loop(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    z = x[:, 0]
    for t in range(1, lengths.max()):
        z = torch.tanh(z) + x[:, t]
    return z


def each(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([x[i, : lengths[i]].sum() for i in range(len(x))])


def write_by_mask(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    y = module.scale * x
    y[x > 0] = x[x > 0] ** 2
    return y


def through_table(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return x[:, : module.table[lengths.min()].item() + 1]


def packed(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    out, _ = module.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(out, batch_first=True, padding_value=-1.0)[0]


def prepared(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    """Once by the data, as ActNorm does."""
    if not module.ready:
        module.ready.fill_(True)
        return x * 3
    return x


READS: dict[str, Callable[..., Any]] = {
    "loop": loop,
    "slices": each,
    "branch": lambda m, x, lengths: x if x.sum() > 0 else -2 * x,
    "second branch": lambda m, x, lengths: (x if lengths[0] > 3 else 2 * x) if x.sum() > 0 else x.exp(),
    "count": lambda m, x, lengths: x * int(x.abs().sum(-1).max()),
    "tolist": lambda m, x, lengths: sum(x[0, 0, 0] * n for n in lengths.tolist()),
    "mask": lambda m, x, lengths: x[x > 0].exp(),
    "mask of rows": lambda m, x, lengths: (m.scale * x)[lengths > 2, 1:].sum(0),
    "nonzero": lambda m, x, lengths: x[(lengths > 2).nonzero()[:, 0]],
    "write by mask": write_by_mask,
    "equal": lambda m, x, lengths: x if torch.equal(lengths, lengths.sort().values) else 2 * x,
    "table": through_table,
    "packed": packed,
    "buffer": prepared,
}


def batches(count: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(3, 5, 2, generator=generator), torch.randint(1, 6, (3,), generator=generator))
        for _ in range(count)
    ]


def results(run: Compiled, batch: Any, seed: int) -> list[Any]:
    torch.manual_seed(seed)
    outputs, gradients = run(*batch)
    return [*outputs, *gradients, torch.rand(())]


@pytest.mark.parametrize("read", READS)
def test_what_is_read_of_data_is_part_of_the_key(read: str) -> None:
    traced, eager = (Compiled(Reading(READS[read]), compile=c, gradients=True) for c in ("traced", "eager"))
    for seed, batch in enumerate(2 * batches()):
        for one, other in zip(results(traced, batch, seed), results(eager, batch, seed), strict=True):
            torch.testing.assert_close(one, other)
    assert traced.mode == "traced"
    graphs = list(traced._all())
    for batch in batches():
        results(traced, batch, 0)
    assert list(traced._all()) == graphs
    assert len(graphs) > 1


def packed_batch(module: Any, sequences: Any, lengths: Tensor) -> Tensor:
    out, _ = module.rnn(sequences)
    return pad_packed_sequence(out)[0]


def test_packed_sequences() -> None:
    traced, eager = (Compiled(Reading(packed_batch), compile=c, gradients=True) for c in ("traced", "eager"))
    for seed, (x, lengths) in enumerate(2 * batches()):
        batch = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), lengths
        for one, other in zip(results(traced, batch, seed), results(eager, batch, seed), strict=True):
            torch.testing.assert_close(one, other)


def written(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    counts = torch.zeros(3)
    view = counts[:2]
    counts[0] = torch.randn(())
    return x if view.sum() > 0 else 2 * x


def assigned(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    counts = torch.zeros(3)
    counts.data = torch.randn(3)
    return x if counts.sum() > 0 else 2 * x


def drawn_mask(module: Any, x: Tensor, lengths: Tensor) -> Tensor:
    chosen = x[torch.rand(3) > 0.5]
    return chosen if len(chosen) else x


NEVER: dict[str, Callable[..., Any]] = {
    "draw": lambda m, x, lengths: x if torch.randn(()) > 0 else 2 * x,
    "draw in a tensor of constants": written,
    "draw by .data": assigned,
    "parameter": lambda m, x, lengths: x * int(m.scale > 0) + m.scale,
    "noise of the shape of data": lambda m, x, lengths: x if torch.rand_like(x).sum() > 15 else 2 * x,
    "empty": lambda m, x, lengths: x if torch.empty(3).uniform_().sum() > 1.5 else 2 * x,
    "drawn mask": drawn_mask,
}


@pytest.mark.parametrize("read", NEVER)
def test_what_is_read_of_draws_is_not(read: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence names the line, nothing else is printed, and the program runs as it is."""
    run, eager = (Compiled(Reading(NEVER[read]), compile=c, gradients=True) for c in ("auto", "eager"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed, batch in enumerate(2 * batches()):
            for one, other in zip(results(run, batch, seed), results(eager, batch, seed), strict=True):
                torch.testing.assert_close(one, other)
    (reason,) = [str(warning.message) for warning in said]
    assert reason.startswith("programs run eager instead of "), reason
    assert "test_reads.py, line " in reason
    assert "\n" not in reason
    assert run.mode == "eager"
    captured = capfd.readouterr()
    assert not captured.out + captured.err


@pytest.mark.parametrize("cause", ["values", "shapes"])
def test_graphs_are_bounded(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_module, "_VALUES" if cause == "values" else "_GRAPHS", 3)
    monkeypatch.setattr(compiled_module, "_has_compiler", lambda module: True)
    monkeypatch.setattr(compiled_module, "compiled_by_inductor", lambda graph, inputs: graph)
    run, eager = (Compiled(Reading(loop), compile=c, gradients=True) for c in ("auto", "eager"))
    x = torch.randn(6, 5, 2)
    if cause == "values":
        given = [(x, torch.full((6,), n)) for n in range(1, 6)]
    else:
        given = [(x[:n], torch.full((n,), 2)) for n in range(1, 6)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for seed, batch in enumerate(2 * given):
            for one, other in zip(results(run, batch, seed), results(eager, batch, seed), strict=True):
                torch.testing.assert_close(one, other)
    (reason,) = [str(warning.message) for warning in said]
    assert reason.startswith("programs run eager instead of inductor on some batches: ")
    assert len(list(run._all())) == 3


def test_distributions_that_were_made_before() -> None:
    """With validation, which looks at values, and has to be as it was afterwards."""
    torch.manual_seed(0)
    prior = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    checked = dist.Normal(0.0, 1.0, validate_args=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0, validate_args=True), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    pair, x = Pair(model, guide), torch.randn(5)
    SGVB_A().bound(pair, x)
    found = []
    for compile in ("eager", "traced"):
        torch.manual_seed(1)
        step = TrainingStep(pair, SGVB_A(), compile=compile)
        found.append(step((x,)).loss)
    torch.testing.assert_close(*found)
    for kept in (prior, prior.base_dist, checked, dist.Normal(0.0, 1.0)):
        assert kept._validate_args is True
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(torch.tensor(torch.nan))
