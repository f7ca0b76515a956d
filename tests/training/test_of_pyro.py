"""Losses and optimizers of Pyro's in ``fit``: the losses and parameters of ``SVI.step`` at equal seed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
    config_enumerate,
)
from pyro.infer.elbo import ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae as pv
from pyro_vae.batches import num_rows
from pyro_vae.cli import main
from pyro_vae.estimators import SVILoss
from pyro_vae.pair import as_pair, programs

optim: Any = pyro.optim  # whose names are made when it is imported
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
STEPS = 4


class Program(nn.Module):
    """A mixture of autoencoders; ``subsampled``: the plate has the size of more data than it is given."""

    def __init__(self, subsampled: bool = False, discrete: bool = False) -> None:
        super().__init__()
        self.size = 40 if subsampled else None
        self.discrete = discrete
        torch.manual_seed(0)
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 2)

    def plate(self, x: Tensor) -> Any:
        return pyro.plate("data", self.size or len(x), subsample=x)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            shift = pyro.sample("k", dist.Categorical(torch.ones(3))).unsqueeze(-1) if self.discrete else 0.0
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        share = pyro.param("share", torch.ones(3)) if self.discrete else None
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))
            if share is not None:
                pyro.sample("k", dist.Categorical(logits=share))


class Odd(Program):
    """Its guide has a factor and observes the data, so that no bound is known."""

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        loc = self.encoder(x)
        pyro.factor("classification", loc.sum(), has_rsample=False)
        with self.plate(x):
            seen = dist.Normal(loc.sum(-1, keepdim=True), 1.0).expand([len(x), 4]).to_event(1)
            pyro.sample("x", seen, obs=x, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


class Twice(Trace_ELBO):
    """A loss of a user's: backward is called of parts, and numbers are taken out by item()."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        total = 0.0
        for _ in range(2):
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
            loss.backward(retain_graph=True)
            total += loss.item()
        return total


class Bare(ELBO):
    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        loss = Trace_ELBO().differentiable_loss(model, guide, *args, **kwargs) + 3.0
        loss.backward()
        return loss.detach()

    def loss(self, *args: Any, **kwargs: Any) -> float:
        return Trace_ELBO().loss(*args, **kwargs) + 3.0


def function(model: Any, guide: Any, *args: Any) -> Tensor:
    guide_trace = poutine.trace(guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    return guide_trace.log_prob_sum() - 2 * model_trace.log_prob_sum()


vectorized = {"vectorize_particles": True, "max_plate_nesting": 1}
LOSSES: dict[str, Callable[[], Any]] = {
    "Trace": Trace_ELBO,
    "particles": functools.partial(Trace_ELBO, num_particles=2),
    "vectorized": functools.partial(Trace_ELBO, num_particles=2, **vectorized),
    "TraceMeanField": TraceMeanField_ELBO,
    "TraceGraph": TraceGraph_ELBO,
    "TraceEnum": functools.partial(TraceEnum_ELBO, max_plate_nesting=1),
    "Renyi": functools.partial(RenyiELBO, alpha=0.3, num_particles=2, **vectorized),
    "ReweightedWakeSleep": functools.partial(ReweightedWakeSleep, num_particles=2, **vectorized),
    "a subclass": Twice,
    "an ELBO": Bare,
    "a function": lambda: function,
    "a function that asks for a gradient": lambda: TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss,
}


def svi(program: Program, loss: Any, optimizer: Any, seed: int = 3, steps: int = STEPS) -> list[float]:
    """The losses of ``SVI.step`` on all data; the program is trained."""
    pyro.clear_param_store()
    guide = config_enumerate(program.guide) if program.discrete else program.guide
    step = SVI(program.model, guide, optimizer, loss).step
    torch.manual_seed(seed)
    found = []
    for _ in range(steps):
        value: Any = step(X)
        found.append(sum(value) if isinstance(value, tuple) else value)
        if hasattr(optimizer, "pt_scheduler_constructor"):
            optimizer.step()
    return found


def fitted(program: Program, compile: Any = "eager", **options: Any) -> pv.Run:
    own = torch.Generator().manual_seed(0)
    data = DataLoader(TensorDataset(X), batch_size=len(X), generator=own)
    pair = pv.Pair(program.model, config_enumerate(program.guide)) if program.discrete else program
    return pv.fit(pair, data, epochs=STEPS, seed=3, compile=compile, progress=False, **options)


def adam() -> Any:
    return optim.Adam({"lr": 0.05})


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_trains_as_svi(name: str, subsampled: bool) -> None:
    discrete = name == "TraceEnum"
    theirs, ours = Program(subsampled, discrete), Program(subsampled, discrete)
    losses = torch.tensor(svi(theirs, LOSSES[name](), adam())) / (40 if subsampled else 8)
    run = fitted(ours, "traced", estimator=LOSSES[name](), optimizer=adam())
    torch.testing.assert_close(torch.tensor([entry["loss"] for entry in run.history]), losses, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours.decoder.parameters(), theirs.decoder.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert run.mode == "traced"
    assert run.bound is None
    assert {entry["train"] for entry in run.history} == {None}


def test_a_loss_trains_what_has_no_bound() -> None:
    theirs, ours = Odd(), Odd()
    losses = torch.tensor(svi(theirs, Trace_ELBO(), adam())) / 8
    run = fitted(ours, estimator=Trace_ELBO(), optimizer=adam())
    torch.testing.assert_close(torch.tensor([entry["loss"] for entry in run.history]), losses, rtol=1e-5, atol=1e-5)
    notes = pv.check(ours, X, estimator=Trace_ELBO()).notes
    assert [note for note in notes if "No bound is known of this pair" in note and "'classification'" in note]
    for refused in (lambda: pv.check(ours, X), lambda: fitted(ours), lambda: pv.evidence.importance(ours, X)):
        with pytest.raises(ValueError, match=r"'classification'.*estimator=Trace"):
            refused()


def test_validation_is_the_loss_of_held_out_data() -> None:
    program = Program()
    valid = X[:5] + 1
    run = pv.fit(program, (X, valid), estimator=RenyiELBO(0.0, 3), epochs=3, batch_size=8, patience=1, progress=False)
    entry = run.history[-1 if run.best_epoch is None else run.best_epoch - 1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.no_grad():
            expected = RenyiELBO(0.0, 3).loss(*programs(as_pair(program)), valid) / 5
    assert (entry["valid"], entry["valid_loss"]) == (None, pytest.approx(expected, rel=1e-5))


def test_a_loss_of_no_value_is_its_surrogate() -> None:
    run = fitted(Program(), estimator=TraceTailAdaptive_ELBO(num_particles=3, **vectorized))
    assert run.history[-1]["loss"] < run.history[0]["loss"] < float("inf")


def test_a_loss_claims_no_bound() -> None:
    loss = SVILoss(Trace_ELBO(num_particles=2))
    assert repr(loss) == "pyro.infer.trace_elbo.Trace_ELBO(num_particles=2)"
    for call in (loss.bound, loss.log_weights, loss.terms):
        with pytest.raises(ValueError, match=r"Trace_ELBO\(num_particles=2\).*no bound.*SGVB_A"):
            call(Program(), X)
    with pytest.raises(ValueError, match="no beta"):
        fitted(Program(), estimator=Trace_ELBO(), beta=0.5)
    with pytest.raises(ValueError, match=r"backward\(\) of nothing"):
        fitted(Program(), estimator=lambda model, guide, x: function(model, guide, x).detach())


@pytest.mark.parametrize(
    ("estimator", "error", "sentence"),
    [
        (Trace_ELBO, TypeError, r"the class Trace_ELBO.*Trace_ELBO\(\)"),
        (Trace_ELBO()(Program().decoder, Program().encoder), TypeError, "ELBOModule"),
        (JitTrace_ELBO(), ValueError, r"torch.jit.*give Trace_ELBO\(\)"),
        (3, TypeError, "estimator"),
        (
            SVI(None, None, optim.Adam({"lr": 1e-3}), Trace_ELBO()),
            TypeError,
            "estimator is an SVI; give what it has as its",
        ),
    ],
)
def test_what_is_no_loss_is_refused(estimator: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        fitted(Program(), estimator=estimator)


def by_name(name: str) -> dict[str, Any]:
    return {"lr": 0.1 if name == "decoder.weight" else 0.01 if name == "scale" else 0.0}


def by_parts(module: str, name: str) -> dict[str, Any]:
    return {"lr": 0.1 if (module, name) == ("encoder", "bias") else 0.003}


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "Adam": adam,
    "SGD": lambda: optim.SGD({"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}),
    "ClippedAdam": lambda: optim.ClippedAdam({"lr": 0.05, "clip_norm": 0.5, "lrd": 0.7}),
    "AdagradRMSProp": lambda: optim.AdagradRMSProp({"eta": 0.1}),
    "DCTAdam": lambda: optim.DCTAdam({"lr": 0.05}),
    "by name": lambda: optim.Adam(by_name),
    "by parts": lambda: optim.SGD(by_parts),
    "clipped": lambda: optim.SGD({"lr": 0.1}, {"clip_norm": 0.7}),
    "clipped by name": lambda: optim.SGD(
        {"lr": 0.1}, lambda module, name: {"clip_value": 0.1} if module == "decoder" else {"clip_norm": 0.5}
    ),
    "ExponentialLR": lambda: optim.ExponentialLR(
        {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01}, "gamma": 0.3}
    ),
}


@pytest.mark.parametrize("ours", [None, Trace_ELBO], ids=["our estimator", "Pyro's"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_updates_as_in_svi(name: str, ours: Any) -> None:
    one, other = Program(subsampled=True), Program(subsampled=True)
    losses = torch.tensor(svi(one, Trace_ELBO(), OPTIMIZERS[name]())) / 40
    scale = pyro.param("scale").detach()
    run = fitted(other, optimizer=OPTIMIZERS[name](), estimator=pv.SGVB_A() if ours is None else ours())
    torch.testing.assert_close(torch.tensor([entry["loss"] for entry in run.history]), losses, rtol=1e-4, atol=1e-5)
    for part in ("decoder", "encoder"):
        for ours_, theirs in zip(getattr(other, part).parameters(), getattr(one, part).parameters(), strict=True):
            torch.testing.assert_close(ours_, theirs, rtol=1e-3, atol=1e-5)
    trained: Any = as_pair(other)
    torch.testing.assert_close(trained.pyro_params.value("scale").detach(), scale, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["Adam", "by name", "ExponentialLR"])
def test_a_run_goes_on_with_them(name: str, tmp_path: Any) -> None:
    def trained(out: Any, epochs: int, **options: Any) -> pv.Run:
        optimizer = OPTIMIZERS[name]()
        options |= {"estimator": Trace_ELBO(num_particles=2), "optimizer": optimizer, "compile": "eager"}
        return pv.fit(Program(), X, batch_size=4, epochs=epochs, out=out, progress=False, **options)

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "parts", 2)
    resumed = trained(tmp_path / "parts", 4, resume=True)
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    with pytest.raises(ValueError, match=r"estimator was .*Trace_ELBO\(num_particles=2\) and is now .*Trace_ELBO\(\)"):
        pv.fit(
            Program(),
            X,
            batch_size=4,
            out=tmp_path / "parts",
            resume=True,
            estimator=Trace_ELBO(),
            optimizer=OPTIMIZERS[name](),
            progress=False,
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimizer": torch.optim.Adam(Program().parameters())}, r"optimizer=lambda parameters: torch.optim.Adam\("),
        ({"optimizer": optim.multi.Newton(trust_radii={"z": 1.0})}, "Newton of pyro.optim.multi, which"),
        ({"optimizer": optim.Adam}, r"pyro.optim.Adam\(\{'lr': 1e-3\}\)"),
        ({"optimizer": lambda parameters: None}, "NoneType"),
        (
            {"scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(Program().parameters()), 3)},
            r"scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR\(",
        ),
    ],
)
def test_objects_that_are_made_already_are_explained(options: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        fitted(Program(), **options)


def test_two_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match="one of the"):
        fitted(Program(), optimizer=OPTIMIZERS["ExponentialLR"](), scheduler=pv.Cosine())


def test_the_command_line_takes_a_loss(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--epochs", "1", "--compile", "eager", "--out", str(out), "--estimator.num_particles", "2"]
    assert main(["train", "--data", "digits", "--estimator", "pyro.infer.Trace_ELBO", *options]) == 0
    assert "loss train" in capsys.readouterr().out
    assert "Trace_ELBO" in (out / "config.yaml").read_text()
    assert main(["plot", str(out)]) == 0


class Kinds(Program):
    """With a label the encoder is announced and not used."""

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        super().model(x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", self.encoder)
        loc = self.encoder(x) if y is None else y
        with self.plate(x):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def test_what_a_batch_does_not_use_goes_on_by_its_momentum() -> None:
    theirs, ours = Kinds(), Kinds()
    batches = [(X,), (X, X[:, :2])]
    pyro.clear_param_store()
    svi_ = SVI(theirs.model, theirs.guide, adam(), Trace_ELBO())
    torch.manual_seed(3)
    losses = [svi_.step(*batch) / 8 for _ in range(3) for batch in batches]
    own = torch.Generator().manual_seed(0)
    data: Any = DataLoader(Batches(batches), batch_size=None, generator=own)
    run = pv.fit(ours, data, epochs=3, seed=3, estimator=pv.SGVB_A(), optimizer=adam(), num_data=8, progress=False)
    found = [entry["loss"] for entry in run.history]
    assert found == pytest.approx([(one + other) / 2 for one, other in zip(losses[::2], losses[1::2], strict=True)])
    torch.testing.assert_close(ours.encoder.weight, theirs.encoder.weight)


class Batches(list[Any], Dataset[Any]):
    """A data set of whole batches."""


class Auxiliary(Program):
    """Its guide also learns to tell the data, and has a deterministic site."""

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with self.plate(x):
            loc = pyro.deterministic("loc", self.encoder(x), event_dim=1)
            told = dist.Normal(loc.sum(-1, keepdim=True), 1.0).expand([len(x), 4]).to_event(1)
            pyro.sample("x", told, obs=x, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.parametrize("method", ["importance", "ais"])
def test_data_that_a_guide_observes_are_no_part_of_evidence(method: str) -> None:
    options: Any = (
        {"num_samples": 30} if method == "importance" else {"num_steps": 3, "num_leapfrog": 2, "start": "guide"}
    )
    found = [getattr(pv.evidence, method)(made(), X, compile="eager", **options) for made in (Program, Auxiliary)]
    torch.testing.assert_close(found[1].log_prob, found[0].log_prob)
    fitted(Auxiliary(), estimator=Trace_ELBO())


class Located(PyroModule[nn.Module]):
    """The parameter of a guide, which nothing but the access to it announces."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))

    def forward(self, *args: Any) -> None:
        pyro.sample("mean", dist.Normal(self.loc, 0.5))


def of_all(*data: Any) -> None:
    """A number, a list of numbers in a loop, sequences in several plates, or nothing at all is given."""
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    values = data[0] if data else X[0]
    if isinstance(values, list) and values[0].dim():
        for i, value in enumerate(torch.cat(values).split([len(value) for value in values])):
            with pyro.plate(f"sequence {i}", len(value)):
                pyro.sample(f"x_{i}", dist.Normal(mean, 1.0), obs=value)
    elif isinstance(values, float):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.tensor(values))
    else:
        for i in pyro.plate("loop", len(values)):
            pyro.sample(f"x_{i}", dist.Normal(mean, 1.0), obs=values[i])


GIVEN: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "a number": (8.5,),
    "a list of numbers": (list(X[0]),),
    "sequences": ([X[0], X[1, :3], X[2]],),
    "sequences of equal lengths": ([X[0], X[1], X[2]],),
}


@pytest.mark.parametrize("given", GIVEN)
def test_programs_whose_arguments_are_no_data_train_as_svi(given: str) -> None:
    pyro.clear_param_store()
    theirs, ours = Located(), Located()
    step = SVI(of_all, theirs, optim.SGD({"lr": 0.01}), Trace_ELBO()).step
    torch.manual_seed(3)
    losses = torch.tensor([step(*GIVEN[given]) for _ in range(STEPS)])
    data = DataLoader([GIVEN[given]], batch_size=None, collate_fn=tuple) if GIVEN[given] else None  # type: ignore
    run = pv.fit(
        pv.Pair(of_all, ours),
        data,
        estimator=Trace_ELBO(),
        optimizer=optim.SGD({"lr": 0.01}),
        epochs=STEPS,
        seed=3,
        compile="traced",
        progress=False,
    )
    told = torch.tensor([entry["loss"] for entry in run.history]) * max(1, num_rows(GIVEN[given]))
    torch.testing.assert_close(told, losses)
    torch.testing.assert_close(ours.loc, theirs.loc)
    if "sequences" not in given:
        with pytest.raises(ValueError, match=r"estimator=Trace_ELBO"):
            pv.check(pv.Pair(of_all, ours), *GIVEN[given])


class Guessed(Program):
    """In float64: its guide draws bits, of which the loss keeps an average as a baseline."""

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with self.plate(x):
            bits = pyro.sample("bits", dist.Bernoulli(x.new_full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(bits), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        infer = {"baseline": {"use_decaying_avg_baseline": True}}
        with self.plate(x):
            pyro.sample("bits", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer=infer)


@pytest.mark.filterwarnings("ignore:programs run eager")
@pytest.mark.parametrize("compile", ["eager", "auto"])
def test_averages_that_a_loss_keeps_are_of_one_training(compile: Any) -> None:
    pyro.clear_param_store()
    theirs, loss = Guessed().double(), TraceGraph_ELBO()
    step = SVI(theirs.model, theirs.guide, adam(), loss).step
    torch.manual_seed(3)
    losses = torch.tensor([step(X.double()) for _ in range(STEPS)], dtype=torch.float64) / 8
    before = [id(value) for value in pyro.get_param_store().values()]
    for _ in range(2):
        ours = Guessed().double()
        run = fitted(ours, compile, estimator=loss, optimizer=adam())
        told = torch.tensor([entry["loss"] for entry in run.history], dtype=torch.float64)
        torch.testing.assert_close(told, losses, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(ours.encoder.weight, theirs.encoder.weight)
    assert [id(value) for value in pyro.get_param_store().values()] == before


def test_a_loss_in_float64_is_traced() -> None:
    assert fitted(Program().double(), "traced", estimator=Trace_ELBO()).mode == "traced"


class Annealed(Program):
    """It counts its runs, and draws by numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.runs, self.numpy = 0, np.random.default_rng(0)

    def model(self, x: Tensor) -> None:
        self.runs += 1
        with poutine.scale(scale=0.1 * self.runs + self.numpy.random()):
            super().model(x)


@pytest.mark.filterwarnings("ignore:programs run eager")
def test_a_program_counts_the_runs_of_the_training_alone() -> None:
    theirs, ours = Annealed(), Annealed()
    losses = torch.tensor(svi(theirs, Trace_ELBO(), adam())) / 8
    run = fitted(ours, "auto", estimator=Trace_ELBO(), optimizer=adam())
    torch.testing.assert_close(torch.tensor([entry["loss"] for entry in run.history]), losses)
    assert ours.runs == theirs.runs == STEPS
