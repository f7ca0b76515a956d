"""Each program of a Pyro user, as it is, through check, fit, estimators, evidence and the command line."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from torch.distributions import Distribution

import pyro_vae as pv
from pyro_programs.comparing import (
    LR,
    assert_gradients,
    loader,
    log_weights,
    num_trained,
    of_ours,
    of_pyro,
    plain,
    prepared,
    repeated,
    svi_losses,
)
from pyro_programs.faults import FAULTS
from pyro_programs.registry import PROGRAMS, Program
from pyro_vae._pyro import is_subsample
from pyro_vae.cli import main
from pyro_vae.pair import as_pair, programs

pytestmark = pytest.mark.slow
Distribution.set_default_validate_args(True)  # which an import of Zuko turns off
STEPS, PARTICLES, SAMPLES = 5, 3, 30
VALUE_ALONE = ("ScoreFunction",)  # whose baselines are not Pyro's


def of(aspect: str, programs: list[Program] = PROGRAMS, *more: str) -> list[Any]:
    """A case for each program, which is expected to fail where a fault is known."""
    return [case(program, aspect, *more) for program in programs]


def case(program: Program, aspect: str, *more: str) -> Any:
    fault = FAULTS.get((program.name, aspect))
    marks = [] if fault is None else [pytest.mark.xfail(strict=True, reason=fault)]
    return pytest.param(program, *more, marks=marks, id=f"{program.name}{', ' if more else ''}{', '.join(more)}")


def refused(program: Program, aspect: str, call: Callable[[], Any]) -> bool:
    """Whether a refusal is right here; then it is asserted."""
    sentence = program.refused.get(aspect)
    if sentence is None:
        return False
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
    return True


@pytest.mark.parametrize("program", of("check"))
def test_check(program: Program) -> None:
    """It is let through, and each latent and each observed site is told."""
    pair, _, _, batches = program.made()
    estimator = None if program.estimator is None else program.estimator()
    for batch in batches:
        if not refused(program, "check", lambda batch=batch: pv.check(pair, *batch, estimator=estimator)):
            report = pv.check(pair, *batch, estimator=estimator)
            assert any(site.observed for site in report.sites)


@pytest.mark.parametrize("program", of("fit"))
def test_fit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of ``SVI.step`` at equal seed, of a pair that nothing has run before, and in a graph."""
    monkeypatch.setattr("pyro_vae.compiled._has_compiler", lambda module: False)  # inductor takes seconds for each
    pair, batches = prepared(program)
    size = program.num_data or len(batches[0][0])
    options: dict[str, Any] = {} if program.estimator is None else {"estimator": program.estimator()}
    ours: list[float] = []
    adam = torch.optim.Adam
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = pv.fit(
            pair,
            loader(batches),
            optimizer=lambda parameters: adam(parameters, lr=LR),
            epochs=STEPS,
            seed=3,
            num_data=size,
            progress=False,
            callbacks=[lambda run: ours.append(size * run.history[-1]["loss"])],
            **options,
        )
    theirs = torch.tensor(svi_losses(program, STEPS, 3)).reshape(STEPS, -1).mean(1)
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-4, atol=1e-4)
    fallen = [str(warning.message) for warning in said if "instead of" in str(warning.message)]
    assert run.mode == program.mode, "; ".join(fallen)


def once(program: Program, pair: Any, batches: list[tuple[Any, ...]], **options: Any) -> None:
    """Trains on each batch once, eagerly if not told otherwise."""
    if program.estimator is not None:
        options["estimator"] = program.estimator()
    size = program.num_data or len(batches[0][0])
    pv.fit(pair, loader(batches), epochs=1, num_data=size, progress=False, **{"compile": "eager", **options})


@pytest.mark.parametrize("program", of("parameters"))
def test_parameters(program: Program) -> None:
    """A pair that nothing has run before trains as many numbers as ``SVI.step`` does."""
    pair, _, _, batches = program.made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once(program, pair, batches)
    assert sum(p.numel() for p in as_pair(pair).parameters() if p.requires_grad) == num_trained(program)


@pytest.mark.parametrize("program", of("state"))
def test_state(program: Program) -> None:
    """A new pair that nothing has run takes up the weights of a trained one, and has its losses."""
    trained, _, _, batches = program.made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once(program, trained, batches)
        new = program.made()[0]
        as_pair(new).load_state_dict(as_pair(trained).state_dict())
        found = []
        for pair in (trained, new):
            programs(as_pair(pair))[1](*batches[0])  # an AutoGuide draws when it is first called
            torch.manual_seed(5)
            found += [program.elbo().loss(*programs(as_pair(pair)), *batch) for batch in batches]
    assert found[: len(batches)] == pytest.approx(found[len(batches) :], rel=1e-6)


@pytest.mark.parametrize("program", of("SVI"))
def test_svi(program: Program) -> None:
    """``SVI`` with Pyro's own ELBO on the pair does what it does on the programs."""
    pair, batches = prepared(program)
    module: Any = as_pair(pair)
    theirs = svi_losses(program, 2, 3)
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": LR}), program.elbo())
    pyro.clear_param_store()
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = [svi.step(*batch) for _ in range(2) for batch in batches]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-4)


ESTIMATORS = [case(p, name, name) for p in PROGRAMS for name in p.estimators]
SEVERAL = [case(p, f"{name}({PARTICLES})", name) for p in PROGRAMS for name in p.estimators]


def ours_of(program: Program, name: str, batch: tuple[Any, ...], count: int) -> tuple[float, list[torch.Tensor]]:
    pair, _ = prepared(program)
    return of_ours(program.estimators[name][0](count), pair, batch, 2)


@pytest.mark.parametrize(("program", "name"), ESTIMATORS)
def test_estimator(program: Program, name: str) -> None:
    """Value and gradient are those of Pyro's ELBO at equal seed."""
    model, guide, batches = plain(program)
    for batch in batches:
        value, gradients = of_pyro(program.estimators[name][1](), model, guide, batch, 2)
        ours, found = ours_of(program, name, batch, 1)
        assert ours == pytest.approx(value, rel=1e-4)
        if name not in VALUE_ALONE:
            assert_gradients(found, gradients)


class SameData(Messenger):
    """What a plate subsamples is the same for all particles, also where Pyro runs them one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["name"] in self.taken:
            msg["value"], msg["done"] = self.taken[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            self.taken.setdefault(msg["name"], msg["value"])


@pytest.mark.parametrize(("program", "name"), SEVERAL)
def test_estimator_of_several_particles(program: Program, name: str) -> None:
    """The same of Pyro's, in one of the ways to draw: in a plate, one after another, or a batch several times over."""
    model, guide, batches = plain(program)
    elbo = program.estimators[name][1]
    for batch in batches:
        expected = []
        for options, given, share in (
            ({"num_particles": PARTICLES, "vectorize_particles": True}, batch, 1.0),
            ({"num_particles": PARTICLES}, batch, 1.0),
            ({}, repeated(batch, PARTICLES), 1 / PARTICLES),
        ):
            try:
                with SameData():
                    value, gradients = of_pyro(elbo(**options), model, guide, given, 2)
            except (ValueError, RuntimeError, IndexError, NotImplementedError):
                continue  # a program that cannot be run so
            expected.append((share * value, [share * gradient for gradient in gradients]))
        ours, found = ours_of(program, name, batch, PARTICLES)
        value, gradients = min(expected, key=lambda pair: abs(pair[0] - ours))
        assert ours == pytest.approx(value, rel=1e-4)
        if name not in VALUE_ALONE:
            assert_gradients(found, gradients)


@pytest.mark.parametrize("program", of("importance"))
def test_importance(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-mean-weights of plain traces, in one of the ways to draw, from the seed of the first weights."""
    weigh = importlib.import_module("pyro_vae.evidence.importance")._LogWeights
    forward = weigh.forward

    def seeded(self: Any, *batch: Any) -> Any:
        torch.manual_seed(4)
        return forward(self, *batch)

    monkeypatch.setattr(weigh, "forward", seeded)
    pair, batches = prepared(program)
    (batch, *_) = batches

    def found() -> Any:
        return pv.evidence.importance(pair, batch, SAMPLES, seed=4, compile="eager")

    if refused(program, "importance", found):
        return
    log_prob = found().log_prob
    model, guide, _ = plain(program, evaluated=True)
    given = program.elbo().max_plate_nesting
    nesting = 1 if given == float("inf") else given
    expected, said = [], []
    for name, weights in log_weights(model, guide, batch, SAMPLES, nesting, 4):
        try:
            expected.append(weights().logsumexp(0) - np.log(SAMPLES))
        except Exception as error:
            said.append(f"{name}: {error}")
    assert expected, said
    closest = min(expected, key=lambda value: (value - log_prob).abs().max().item())
    torch.testing.assert_close(log_prob, closest, rtol=1e-4, atol=1e-4)


CLASSES = [program for program in PROGRAMS if program.command]


def trained(program: Program, folder: Path) -> int:
    """The status of ``pyro-vae train --model file.Class`` on data from a file; the run is ``folder/run``."""
    *_, (batch, *_) = program.made()
    name, *options = program.command
    if "--covariates" in options:
        columns = [value.flatten(1).numpy() for value in batch]
        np.savetxt(path := folder / "data.csv", np.concatenate(columns, 1), delimiter=",")
    else:
        np.save(path := folder / "data.npy", batch[0].numpy())
    epochs = ["--epochs", "1", "--batch_size", "4", "--compile", "eager", "--out", str(folder / "run")]
    return main(["train", "--model", name, "--data", str(path), *epochs, *options])


@pytest.mark.filterwarnings("ignore:fit takes", "ignore:not drawn")
@pytest.mark.parametrize("program", of("train", CLASSES))
def test_train(program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line takes the class by its name."""
    assert trained(program, tmp_path) == 0, re.sub(r"\s+", " ", capsys.readouterr().err)


AFTER = [case(program, command, command) for program in CLASSES for command in ("plot", "evaluate")]


@pytest.mark.filterwarnings("ignore:fit takes", "ignore:not drawn", "ignore:what importance sampling gives")
@pytest.mark.parametrize(("program", "command"), AFTER)
def test_after(program: Program, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the command line trained it also draws and evaluates."""
    assert trained(program, tmp_path) == 0, re.sub(r"\s+", " ", capsys.readouterr().err)
    options = ["--trust", *(["--num_samples", "20"] if command == "evaluate" else [])]
    assert main([command, str(tmp_path / "run"), *options]) == 0, re.sub(r"\s+", " ", capsys.readouterr().err)
