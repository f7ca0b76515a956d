"""frozen and compiled: what a program reads from Python, and what no graph can do, is never silently another number."""

from __future__ import annotations

import functools
import math
import random
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from pyro_vae import IWAE, SGVB_A, SGVB_B, evidence, fit
from pyro_vae import compiled as compiled_module
from pyro_vae.compiled import Compiled
from pyro_vae.graphs import Graph
from pyro_vae.models import MLPVAE
from pyro_vae.training import TrainingStep

X = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
LEVEL = 1.0
LEVELS = {"level": 1.0}
RUNS = 0


class Levels:
    level = 1.0


@pytest.fixture(autouse=True)
def _as_in_fit() -> Iterator[None]:
    with pyro.validation_enabled(False):
        yield


class Toy(nn.Module):
    """A pair of linear layers; ``encode`` is in front of the guide's, ``decode`` gives the mean of the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def model(self, x: Tensor) -> None:
        pyro.module("toy", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("toy", self)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(self.encode(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def toy(
    decode: Callable[[Any, Tensor], Tensor] | None = None,
    encode: Callable[[Any, Tensor], Tensor] | None = None,
    **attributes: Any,
) -> Any:
    methods = {"decode": decode, "encode": encode}
    pair = type("Toy", (Toy,), {k: v for k, v in methods.items() if v} | {"__module__": __name__})()
    for name, value in attributes.items():
        setattr(pair, name, value)
    return pair


def trained(make: Callable[[], Any], mode: str, move: Callable[[Any, int], Any], steps: int = 7) -> Any:
    """Losses and generator, parameters and buffers of a short training; the step, and what has been warned."""
    global LEVEL, RUNS
    LEVEL, RUNS, Levels.level, LEVELS["level"] = 1.0, 0, 1.0, 1.0
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    pair = make()
    step, found = TrainingStep(pair, SGVB_B(), compile="eager" if mode == "eager" else "auto"), []
    if mode == "traced":
        step._compiled.mode = mode  # as "auto" does where there is no compiler
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for index in range(steps):
            move(pair, index)
            torch.manual_seed(index)
            found += [step((X,)).loss, torch.rand(())]
            with torch.no_grad():
                for parameter in pair.parameters():
                    parameter -= 0.001 * parameter.grad.to_dense()
    found += [value.to_dense().abs() for value in pair.state_dict().values()]
    return found, pair, step, [str(w.message) for w in said if "programs run" in str(w.message)]


def assert_as_eager(make: Callable[[], Any], move: Callable[[Any, int], Any] = lambda pair, index: None) -> Any:
    (eager, *_), (ours, pair, step, said) = trained(make, "eager", move), trained(make, "traced", move)
    for one, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(one, other)
    return pair, step, said


# What is moved from outside


def set_global(value: float) -> None:
    global LEVEL
    LEVEL = value


MOVED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "attribute level of Toy (from 1.0 to 0.5)": (
        lambda: toy(lambda self, z: self.decoder(z) * torch.tensor(self.level), level=1.0),
        lambda pair: setattr(pair, "level", 0.5),
    ),
    "attribute p of Dropout": (
        lambda: toy(lambda self, z: self.dropout(self.decoder(z)), dropout=nn.Dropout(0.5)),
        lambda pair: setattr(pair.dropout, "p", 0.1),
    ),
    "attribute momentum of BatchNorm1d": (
        lambda: toy(encode=lambda self, x: self.norm(x), norm=nn.BatchNorm1d(6)),
        lambda pair: setattr(pair.norm, "momentum", 0.5),
    ),
    "attribute level of SimpleNamespace": (
        lambda: toy(lambda self, z: self.decoder(z) * self.options.level, options=types.SimpleNamespace(level=1.0)),
        lambda pair: setattr(pair.options, "level", 0.5),
    ),
    "attribute level of the class Levels": (
        lambda: toy(lambda self, z: self.decoder(z) * Levels.level),
        lambda pair: setattr(Levels, "level", 0.5),
    ),
    "global LEVEL (from 1.0 to 0.5)": (
        lambda: toy(lambda self, z: self.decoder(z) * LEVEL),
        lambda pair: set_global(0.5),
    ),
    "global LEVELS": (
        lambda: toy(lambda self, z: self.decoder(z) * LEVELS["level"]),
        lambda pair: LEVELS.update(level=0.5),
    ),
    "attribute seen of Toy": (
        lambda: toy(lambda self, z: self.decoder(z) / len(self.seen), seen=[1]),
        lambda pair: pair.seen.append(2),
    ),
    "attribute mask of Toy": (
        lambda: toy(lambda self, z: self.decoder(z) * torch.tensor(self.mask.tolist()), mask=np.ones(6)),
        lambda pair: pair.mask.__setitem__(slice(3), 0.0),
    ),
    "attribute shift of Toy": (
        lambda: toy(lambda self, z: self.decoder(z) + self.shift, shift=torch.ones(6)),
        lambda pair: setattr(pair, "shift", torch.zeros(6)),
    ),
    "attribute activation of Toy": (
        lambda: toy(lambda self, z: self.activation(self.decoder(z)), activation=torch.tanh),
        lambda pair: setattr(pair, "activation", torch.relu),
    ),
}


@pytest.mark.parametrize("what", MOVED)
def test_what_a_callback_moves_is_followed_from_the_next_step(what: str) -> None:
    make, move = MOVED[what]
    _, step, said = assert_as_eager(make, lambda pair, index: move(pair) if index == 4 else None)
    assert step.mode == "eager"
    assert len(said) == 1
    assert f"{what}" in said[0]
    for way_out in ("register_buffer", "fit(schedules=)", "compile='eager'"):
        assert way_out in said[0]


def test_what_a_callback_moves_is_refused_where_a_graph_is_asked_for() -> None:
    make, move = MOVED["attribute level of Toy (from 1.0 to 0.5)"]
    pair = make()
    with pytest.raises(ValueError, match=r"compile='traced' is not possible here: the attribute level of Toy \(from"):
        fit(pair, X, epochs=2, batch_size=3, compile="traced", callbacks=[lambda run: move(pair)], progress=False)


def test_a_variable_of_a_closure() -> None:
    level = 1.0

    def model(x: Tensor) -> Tensor:
        return weight * level * x

    def set_level(value: float) -> None:
        nonlocal level
        level = value

    weight = nn.Parameter(torch.ones(()))

    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> list[Tensor]:
            return [(self.weight * level * x).sum()]

    run = Compiled(Function(), compile="traced", gradients=True)
    assert run(torch.ones(3))[0][0] == 3
    set_level(2.0)
    with pytest.raises(
        ValueError, match=r"compile='traced' is not possible here: the variable level around forward \(f"
    ):
        run(torch.ones(3))


def test_a_gradient_that_moves_alone() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor, level: float) -> Tensor:
            ctx.level = level
            return z.view_as(z)

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
            return -ctx.level * slope, None

    _, step, said = assert_as_eager(
        lambda: toy(lambda self, z: Reversed.apply(self.decoder(z), self.level), level=1.0),
        lambda pair, index: setattr(pair, "level", 0.5) if index == 4 else None,
    )
    assert step.mode == "eager"
    assert "attribute level of Toy" in said[0]


def test_what_is_not_seen_is_noticed_by_comparison() -> None:
    """At the second use, and the tenth."""
    hidden = [[1.0]]
    _, step, said = assert_as_eager(
        lambda: (hidden.__setitem__(0, [1.0]), toy(lambda self, z: self.decoder(z) * self.hidden[0][0], hidden=hidden))[
            1
        ],
        lambda pair, index: pair.hidden[0].__setitem__(0, 0.5) if index == 1 else None,
    )
    assert step.mode == "eager"
    assert "something that they read from Python has changed since their graph was made" in said[0]


# What a run of the program itself moves


def counts(self: Any, z: Tensor) -> Tensor:
    self.runs += 1
    return self.decoder(z) / self.runs


def counts_globally(self: Any, z: Tensor) -> Tensor:
    global RUNS
    RUNS += 1
    return self.decoder(z) / RUNS


def collects(self: Any, z: Tensor) -> Tensor:
    self.seen.append(z.detach())
    return self.decoder(z) / len(self.seen)


def keeps(self: Any, z: Tensor) -> Tensor:
    self.z = z
    return self.decoder(z)


def averages(self: Any, z: Tensor) -> Tensor:
    mean = self.decoder(z)
    self._average = (0.9 * self._average + 0.1 * mean.mean()).detach()
    return mean + self._average


def thinned(draw: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: toy(
        lambda self, z: self.decoder(z) * torch.tensor([float(draw(self) < 0.5) for _ in range(6)]),
        generator=np.random.default_rng(0),
        own=random.Random(0),
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: toy(counts, runs=0), "changes the attribute runs of Toy"),
        (lambda: toy(counts_globally), "changes the global RUNS"),
        (lambda: toy(collects, seen=[]), "changes the attribute seen of Toy"),
        (lambda: toy(collects, seen=[X] * 150), "changes the attribute seen of Toy"),
        (lambda: toy(keeps), "changes the attribute z of Toy"),
        (lambda: toy(averages, _average=torch.zeros(())), "changes the attribute _average of Toy"),
        (thinned(lambda self: random.random()), "draws from Python's random"),
        (thinned(lambda self: np.random.rand()), "draws from numpy.random"),  # noqa: NPY002
        (thinned(lambda self: self.generator.random()), "draws from a numpy generator"),
        (thinned(lambda self: self.own.random()), "draws from a random.Random"),
    ],
)
def test_a_program_that_moves_what_it_reads_runs_eagerly(make: Callable[[], Any], said: str) -> None:
    """With the numbers of the eager program from the first step: looking has drawn and counted nothing."""
    pair, step, warned = assert_as_eager(make)
    assert step.mode == "eager"
    assert len(warned) == 1
    assert said in warned[0]
    assert getattr(pair, "runs", 7) == len(getattr(pair, "seen", range(7))) % 150 == 7
    assert not any(isinstance(value, FakeTensor) for value in getattr(pair, "seen", ()))


def test_evidence_of_such_a_program() -> None:
    """An average over numbers of Python too, which are others for each draw: over the 64 that may be thinned."""
    pair = thinned(lambda self: random.random())()
    with torch.no_grad():
        for parameter in pair.encoder.parameters():
            parameter.zero_()  # q is the prior
        weight, bias, eye = pair.decoder.weight, pair.decoder.bias, torch.eye(6)
        kept = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)[:, None]
        law = dist.MultivariateNormal(kept[:, 0] * bias, eye + kept.mT * (weight @ weight.mT) * kept)
        exact = law.log_prob(X[:, None]).logsumexp(-1) - math.log(64)
    for compile in ("eager", "auto"):
        found = evidence.importance(pair, X, 600, compile=compile, progress=False)
        assert ((found.log_prob - exact).abs() < 4 * found.standard_error).all(), found


def test_a_users_estimator_that_counts() -> None:
    class Counting(IWAE):
        runs = 0

        def _each(self, *args: Any, **kwargs: Any) -> Tensor:
            self.runs += 1
            return super()._each(*args, **kwargs)

    with pytest.raises(ValueError, match="a run of the programs changes the attribute runs of Counting"):
        TrainingStep(toy(), Counting(2), compile="traced")((X,))


# What is no reason


def remembers(self: Any, z: Tensor) -> Tensor:
    if "shift" not in self.made:
        self.made["shift"] = torch.arange(6.0)
    self._z = z
    return self.decoder(z) + self.made["shift"] + _shift(6)


@functools.lru_cache
def _shift(size: int) -> Tensor:
    return torch.arange(float(size))


def spectral() -> Any:
    """Which assigns the weight anew at each run."""
    pair = toy()
    nn.utils.spectral_norm(pair.decoder)
    return pair


def keeps_books(pair: Any, index: int) -> None:
    pair.unused = index
    pair.history.append(index)


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize(
    ("make", "move"),
    [
        (lambda: toy(lambda self, z: self.drop(self.decoder(z)), drop=nn.Dropout(0.5)), None),
        (lambda: toy(encode=lambda self, x: self.norm(x), norm=nn.BatchNorm1d(6)), None),
        (
            lambda: toy(encode=lambda self, x: self.norm(x), norm=nn.BatchNorm1d(6)),
            lambda pair, index: pair.train(index < 3),
        ),
        (lambda: toy(unused=0.0, history=[]), keeps_books),
        (
            lambda: toy(lambda self, z: self.decoder(z) + self.shift, shift=torch.zeros(6)),
            lambda pair, i: pair.shift.fill_(i),
        ),
        (lambda: toy(remembers, made={}), None),
        (spectral, None),
        (
            lambda: toy(
                lambda self, z: self.decoder(z) * torch.rand(6, generator=self.generator),
                generator=torch.Generator().manual_seed(1),
            ),
            None,
        ),
    ],
    ids=["dropout", "batch norm", "mode", "bookkeeping", "a tensor written to", "memory", "spectral norm", "generator"],
)
def test_what_a_graph_follows_is_no_reason(make: Any, move: Any) -> None:
    pair, step, said = assert_as_eager(make, move or (lambda pair, index: None))
    assert step.mode == "traced"
    assert not said
    assert not isinstance(getattr(pair, "_z", None), FakeTensor)


def test_how_often_it_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    uses: list[int] = []
    compare = Graph.compare

    def noted(self: Any, *args: Any) -> None:
        uses.append(self.uses)
        compare(self, *args)

    monkeypatch.setattr(Graph, "compare", noted)
    pair = toy(step=0)
    step = TrainingStep(pair, SGVB_A(), compile="traced")
    for _ in range(200):
        step((X,))
    assert uses == [0, 2, 10, 42, 170]
    uses.clear()
    for index in range(200):
        pair.step = index + 1
        step((X,))
    assert len(uses) < 25  # ever more rarely, where it finds nothing
    assert uses[0] == 201


# What no graph can do


class Doubled(torch.autograd.Function):
    """In numpy."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return torch.from_numpy(2 * z.detach().numpy())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * slope


def writes(self: Any, z: Tensor) -> Tensor:
    self.norm.running_mean.mul_(0.9).add_(0.1 * self.decoder(z).detach().mean(0))
    return self.decoder(z) + self.norm.running_mean


def attends(self: Any, x: Tensor) -> Tensor:
    steps = x.reshape(-1, 2, 3)
    return self.attention(steps, steps, steps)[0].flatten(1)


def packed(self: Any, x: Tensor) -> Tensor:
    steps = nn.utils.rnn.pack_padded_sequence(x.reshape(-1, 2, 3), torch.full((len(x),), 2), batch_first=True)
    return self.rnn(steps)[1][0]


def linalg(self: Any, z: Tensor) -> Tensor:
    square = torch.eye(2) + z.T @ z
    return self.decoder(z) + torch.linalg.cholesky(square).sum() + torch.linalg.slogdet(square)[1]


OPERATORS: dict[str, Callable[[], Any]] = {
    **{
        name: functools.partial(
            lambda kind: toy(
                encode=lambda self, x: self.rnn(x.reshape(-1, 2, 3))[0][:, -1], rnn=kind(3, 6, batch_first=True)
            ),
            getattr(nn, name),
        )
        for name in ("LSTM", "GRU", "RNN")
    },
    "packed": lambda: toy(encode=packed, rnn=nn.GRU(3, 6, batch_first=True)),
    "attention": lambda: toy(encode=attends, attention=nn.MultiheadAttention(3, 1, dropout=0.1, batch_first=True)),
    "transformer": lambda: toy(
        encode=lambda self, x: self.layer(x.reshape(-1, 2, 3)).flatten(1),
        layer=nn.TransformerEncoderLayer(3, 1, 4, batch_first=True),
    ),
    "bag": lambda: toy(encode=lambda self, x: self.bag((x > 0).long()), bag=nn.EmbeddingBag(2, 6)),
    "sparse bag": lambda: toy(encode=lambda self, x: self.bag((x > 0).long()), bag=nn.EmbeddingBag(2, 6, sparse=True)),
    "fft": lambda: toy(lambda self, z: (torch.fft.fft(self.decoder(z)) * (1 + 2j)).real),
    "sparse": lambda: toy(lambda self, z: torch.sparse.mm(self.eye, self.decoder(z).T).T, eye=torch.eye(6).to_sparse()),
    "scatter": lambda: toy(lambda self, z: torch.zeros(len(z), 6).scatter_add(1, (z > 0).long(), z) + self.decoder(z)),
    "unique": lambda: toy(lambda self, z: self.decoder(z) * len(torch.unique(z > 0))),
    "nonzero": lambda: toy(lambda self, z: self.decoder(z) + (z > 0).nonzero().float().mean()),
    "linalg": lambda: toy(linalg),
    "numpy": lambda: toy(lambda self, z: Doubled.apply(self.decoder(z))),
    "buffer": lambda: toy(writes, norm=nn.BatchNorm1d(6, affine=False)),
    "bfloat16": lambda: toy(
        lambda self, z: nn.functional.linear(z.bfloat16(), *(p.bfloat16() for p in self.decoder.parameters())).float()
    ),
    "checkpoint": lambda: toy(lambda self, z: torch.utils.checkpoint.checkpoint(self.decoder, z, use_reentrant=False)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_run_traced_or_fall_back_with_a_reason(name: str) -> None:
    _, step, said = assert_as_eager(lambda: (torch.manual_seed(0), OPERATORS[name]())[1])
    assert (step.mode, len(said)) in (("traced", 0), ("eager", 1))


def test_a_graph_that_fails_at_its_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*flat: Tensor) -> Any:
        raise RuntimeError("an undefined tensor")

    monkeypatch.setattr(compiled_module, "compiled_by_inductor", lambda graph, flat: fails)
    monkeypatch.setattr(compiled_module, "_has_compiler", lambda module: True)
    run = Compiled(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.Unflatten(0, (1, 6))), gradients=False)
    with pytest.warns(
        UserWarning, match=r"run traced instead of inductor: inductor failed \(RuntimeError: an undefined"
    ):
        run(X)
    assert run.mode == "traced"


# Gradients where torch computes none


class Slope(nn.Module):
    """Differentiates on its own, as the chains of annealing do."""

    def forward(self, x: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return list(torch.autograd.grad(x.square().sum(), x))


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_gradients_inside_no_grad_and_inference_mode(without: Any, mode: Any) -> None:
    found = []
    for around in (torch.enable_grad, without):
        torch.manual_seed(0)
        pair = MLPVAE((6,), 2, (8,))
        with around():
            data = (X > 0).float()
            run = fit(pair, (data, data), epochs=2, batch_size=3, compile=mode, average=0.9, progress=False)
            torch.manual_seed(0)
            TrainingStep(pair, SGVB_B(), compile=mode)((data,))
            (slope,), _ = Compiled(Slope(), compile=mode)(data)
        slopes = [parameter.grad for parameter in pair.parameters()]
        found.append([torch.tensor(run.bound), slope, *pair.parameters(), *slopes])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(slope, 2 * data)


def test_a_pair_made_in_inference_mode() -> None:
    with torch.inference_mode():
        pair = MLPVAE((6,), 2, (8,))
    with pytest.raises(ValueError, match=r"the parameter .*weight was made inside torch\.inference_mode"):
        fit(pair, X, epochs=1, batch_size=3, progress=False)
    with pytest.raises(ValueError, match=r"the parameter .*weight was made inside torch\.inference_mode"):
        TrainingStep(pair, SGVB_B())


def test_a_training_does_not_end_on_values_that_it_has_not_seen() -> None:
    """A value that moves from the first epoch on, and matters in the last ones alone."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.epoch = nn.Parameter(torch.tensor(0.3)), 0

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=1.0 if self.epoch >= 38 else 0.01):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=1.0 if self.epoch >= 38 else 0.01):
                pyro.sample("z", dist.Normal(self.loc * x[:, 0], 0.7))

    pair = Late()
    with pytest.warns(
        UserWarning, match=r"the attribute epoch of Late .* has changed .*\(the last \d+ uses may have met"
    ):
        fit(
            pair,
            torch.randn(20, 1),
            epochs=40,
            batch_size=20,
            compile="auto",
            progress=False,
            callbacks=[lambda run: setattr(pair, "epoch", len(run.history))],
        )


def test_what_a_callback_moves_deep_in_a_container_is_met_in_the_next_epoch() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc, self.options = nn.Parameter(torch.tensor(0.3)), {"vae": {"beta": 0.1}}

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=self.options["vae"]["beta"]):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=self.options["vae"]["beta"]):
                pyro.sample("z", dist.Normal(self.loc * x[:, 0], 0.7))

    losses = []
    for compile in ("eager", "auto"):
        pair = Deep()
        move = {"callbacks": [lambda run, pair=pair: pair.options["vae"].update(beta=1.0)]}
        with pytest.warns(UserWarning, match="has changed since their graph") if compile == "auto" else nullcontext():
            run = fit(pair, torch.ones(60, 1), epochs=4, batch_size=4, compile=compile, progress=False, **move)
        losses.append([entry["loss"] for entry in run.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
