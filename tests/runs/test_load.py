"""pyro_vae.load: a run opens as it was trained, without its data; and what cannot be opened is one sentence."""

from __future__ import annotations

import copy
import functools
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from registry import LIKELIHOODS, SYSTEM_VARIANTS, SYSTEMS, marked
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import pyro_vae as pv
from pyro_vae import cli, runs
from pyro_vae.runs.trust import Untrusted
from pyro_vae.training import checkpoint

RELEASED = Path(__file__).parent / "released"
sys.path.insert(0, str(RELEASED))
import make  # noqa: E402
import own as of_own  # noqa: E402

QUIET: dict[str, Any] = {"compile": "eager", "progress": False}


def fit(pair: Any, *batch: Tensor, **options: Any) -> pv.Run:
    return pv.fit(pair, TensorDataset(*batch), **{"epochs": 2, "batch_size": len(batch[0]), **QUIET, **options})


def bound(pair: Any, *batch: Tensor) -> Tensor:
    torch.manual_seed(0)
    return pv.SGVB_A().bound(pair, *batch).detach()


@pytest.mark.parametrize("name", [*SYSTEMS, *marked(SYSTEM_VARIANTS), *(f"of {name}" for name in LIKELIHOODS)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_pair_of_the_library(name: str, tmp_path: Path) -> None:
    """Trained, with averaged weights: opened, copied, pickled, saved by torch, or as a state, it has the same bound."""
    row = {**SYSTEMS, **SYSTEM_VARIANTS, **LIKELIHOODS}[name.removeprefix("of ")]
    made: Callable[[], Any] = row.pair if name.startswith("of ") else row
    batch = (row.data(6),) if name.startswith("of ") else row.batch()
    run = fit(made(), *batch, out=tmp_path, average=0.5)
    run.pair.eval()
    expected, opened = bound(run.pair, *batch), pv.load(tmp_path)
    torch.save(run.pair, file := io.BytesIO())
    file.seek(0)
    fresh = made().eval()
    fresh.load_state_dict(run.pair.state_dict())
    again = pickle.loads(pickle.dumps(run.pair)), torch.load(file, weights_only=False), copy.deepcopy(run.pair)
    for pair in (opened.pair, *again, fresh):
        assert torch.equal(bound(pair, *batch), expected)
        assert not any(part.training for part in pair.modules())
    assert (opened.history, opened.bound, opened.out) == (run.history, run.bound, tmp_path)
    assert opened.configuration == run.configuration
    fit(copy.deepcopy(run.pair), *batch, epochs=1, out=tmp_path / "on")  # a copy knows what it was made with
    assert type(pv.load(tmp_path / "on").pair) is type(run.pair)


@pytest.mark.parametrize("folder", sorted(RELEASED.glob("*/bounds.json")), ids=lambda path: path.parent.name)
@pytest.mark.parametrize("name", make.KINDS)
def test_runs_of_released_versions(name: str, folder: Path) -> None:
    run = pv.load(folder.parent / name, pair=of_own.own(1) if name == "own" else None)
    assert make.bound(run.pair, name) == pytest.approx(json.loads(folder.read_text())[name], rel=1e-5)
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3]
    assert str(run.configuration["epochs"]) == "3"


def vae(likelihood: Any = None, network: nn.Module | None = None) -> pv.VAE:
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(approximate="tanh"), nn.Linear(6, 4))
    head = nn.Sequential(body if network is None else network, nn.Unflatten(-1, (2, 2)))
    decoder = likelihood or pv.Bernoulli(pv.MLP(2, 4, hidden=(6,)))
    return pv.VAE(pv.StandardNormal(2), pv.DiagonalNormal(head), decoder)


X = (torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def test_layers_of_torch_shared_frozen_and_in_double_precision(tmp_path: Path) -> None:
    pair = vae().double()
    pair.likelihood.network.layers[0].bias.requires_grad_(False)
    fit(pair, X.double(), out=tmp_path)
    opened = pv.load(tmp_path).pair
    assert torch.equal(bound(opened, X.double()), bound(pair.eval(), X.double()))
    assert not opened.likelihood.network.layers[0].bias.requires_grad
    posterior = pv.DiagonalNormal(pv.MLP(4, (2, 2), hidden=(3,)))
    prior = pv.priors.VampPrior(posterior, (4,), num_components=2)
    fit(pv.VAE(prior, posterior, pv.Bernoulli(pv.MLP(2, 4))), X, out=tmp_path / "shared", estimator=pv.SGVB_A())
    opened = pv.load(tmp_path / "shared").pair
    assert opened.prior.posterior is opened.posterior


class Posterior(pv.DiagonalNormal):
    pass


def exchanged() -> pv.VAE:
    pair = vae()
    pair.likelihood = pv.likelihoods.ContinuousBernoulli(pair.likelihood.network)  # whose weights have the same names
    return pair


UNKNOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "function": (
        lambda: pv.models.MLPVAE((4,), 2, (3,), likelihood=lambda net: pv.Bernoulli(net)),
        "likelihood of MLPVAE is a function",
    ),
    "class of one's own": (
        lambda: pv.VAE(pv.StandardNormal(2), Posterior(pv.MLP(4, (2, 2))), pv.Bernoulli(pv.MLP(2, 4))),
        "argument 2 of VAE is of the class test_load.Posterior",
    ),
    "exchanged": (exchanged, "something in it was exchanged or set after it was made"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_pair_that_only_its_maker_can_build(name: str, tmp_path: Path) -> None:
    made, why = UNKNOWN[name]
    pair = made()
    fit(pair, X, out=tmp_path)
    with pytest.raises(ValueError, match=rf"cannot be made again .*{why}.*\)\. Give it, .*load\('.*', pair=\.\.\.\)"):
        pv.load(tmp_path)
    assert torch.equal(bound(pv.load(tmp_path, pair=made()).pair, X), bound(pair.eval(), X))


def functions(width: int = 3) -> pv.Pair:
    decoder, encoder = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 4)), nn.LazyLinear(2)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), scale).to_event(1))

    encoder(X)
    return pv.Pair(model, guide)


class Guided(nn.Module):
    """With an AutoGuide, which makes its parameters at its first run, for the data of that."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.guide = nn.Linear(2, 4), AutoNormal(self.model)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


@pytest.mark.parametrize("made", [of_own.own, functions, Guided])
def test_what_programs_make_when_they_first_run(made: Callable[[], Any], tmp_path: Path) -> None:
    pair = fit(made(), X, out=tmp_path).pair
    assert torch.equal(bound(pv.load(tmp_path, pair=made()).pair, X), bound(pair.eval(), X))


def weighted(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_the_median_of_a_guide_that_was_opened(kind: Any, tmp_path: Path) -> None:
    """Without a run of it before."""
    trained, opened = kind(weighted), kind(weighted)
    fit(pv.Pair(weighted, trained), X, out=tmp_path)
    pv.load(tmp_path, pair=pv.Pair(weighted, opened))
    assert torch.equal(opened.median()["w"], trained.median(X)["w"])


def test_a_wrong_pair_is_a_sentence(tmp_path: Path) -> None:
    fit(pv.models.MLPVAE((4,), 2, (3,)), X, out=tmp_path)
    shared = functools.partial(pv.likelihoods.Normal, scale="shared")
    name = r"posterior\.network\.layers\.0\.weight"
    for pair, words in (
        (
            pv.models.MLPVAE((4,), 2, (5,)),
            rf"pair than this MLPVAE: {name} is \[3, 4\] there and \[5, 4\] here",
        ),
        (pv.models.MLPVAE((4,), 2, (3,), likelihood=shared), r"MLPVAE: likelihood\.\w+, \[.*\], is here and not there"),
        (of_own.own(), rf"another pair than this Own: {name}, \[3, 4\], is there and not here"),
        (pv.models.MLPVAE((4,), 2, (3,)).double(), r"in torch.float32, and this pair in torch.float64. Give pair.to"),
    ):
        with pytest.raises(ValueError, match=words):
            pv.load(tmp_path, pair=pair)
    with pytest.raises(TypeError, match="a pair has two methods"):
        pv.load(tmp_path, pair=nn.Linear(2, 2))
    with pytest.raises(TypeError, match="folder has to be a path; got 5"):
        pv.load(5)  # type: ignore[arg-type]


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A checkpoint with another state, as somebody who knows its format may write it."""
    tensors, state = checkpoint.load(folder / "checkpoint")
    change(state)
    checkpoint.save(folder / "checkpoint", tensors, state)
    (folder / "checkpoint" / checkpoint.PREVIOUS).unlink()


def named(class_name: str, *args: Any) -> Callable[[dict[str, Any]], Any]:
    """A recipe of something else."""
    made = {"number": 0, "made": class_name, "args": list(args), "kwargs": {}}
    told = {"event_shape": [4], "recipe": made, "frozen": [], "arguments": []}
    return lambda state: state.update(opening=checkpoint.pack(told, {}, "opening"))


@pytest.mark.parametrize(
    ("change", "words"),
    {
        "a function": (named("os.system", "touch executed"), "names os.system at pair"),
        "a function of torch": (named("torch.load", "executed"), "names torch.load at pair"),
        "a class of the user's": (named("test_load.Executed"), "names test_load.Executed at pair"),
        "another argument": (named("pyro_vae.models.MLPVAE", [4], "x"), "cannot be built: ValueError: latent_dim"),
        "no pair": (named("torch.nn.Linear", 2, 2), "another pair"),
        "without weights": (lambda state: state.pop("pair"), "is none that fit has written"),
        "weights of a word": (lambda state: state.update(pair="x"), "is none that fit has written"),
        "of a word": (lambda state: state.update(opening="x"), "is none that fit has written"),
        "of two kinds": (
            lambda state: state.update(opening={"items": [], "tuple": []}),
            "is none that fit has written",
        ),
        "of many levels": (
            lambda state: state.update(opening=functools.reduce(lambda inner, _: [inner], range(900), 1)),
            "is none that fit has written",
        ),
        "without a recipe": (lambda state: state.pop("opening"), "of before that was recorded"),
        "of a history of words": (lambda state: state.update(history=["x"]), "is none that fit has written"),
        "of no epoch": (lambda state: state.update(history=[{"items": [["a", 1]]}]), "is none that fit has written"),
        "of no pairs": (lambda state: state.update(opening={"items": [[1]]}), "is none that fit has written"),
        "of a tensor": (
            lambda state: state.update(opening=state["pair"]["items"][0][1]),
            "is none that fit has written",
        ),
    }.values(),
)
def test_a_checkpoint_of_a_stranger(change: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RELEASED / "0.1.0" / "fit", "run")
    rewritten(Path("run"), change)
    with pytest.raises(ValueError, match=words) as error:
        pv.load("run")
    assert "\n" not in str(error.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("told", [[], {"items": []}, {"items": [["event_shape", [2**40]]]}])
def test_a_shape_of_a_stranger(told: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RELEASED / "0.1.0" / "fit", folder)
    (folder / "config.yaml").write_text("data: digits\n")
    rewritten(folder, lambda state: state.update(opening=told))
    for read in (pv.load, pv.runs.load_data):
        with pytest.raises(ValueError, match="is none that fit has written"):
            read(folder)


@pytest.mark.parametrize("state", [5, [], "x"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.bfloat16])
def test_a_state_that_is_none(state: Any, kind: torch.dtype, tmp_path: Path) -> None:
    """Of a file whose checksum is right."""
    text = json.dumps(state).encode()
    even = bytearray(text.ljust(len(text) + len(text) % 2))
    held = {"state.json": torch.frombuffer(even, dtype=torch.uint8).view(kind)}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    metadata = {"format": "1", "sha256": checkpoint.digest(held)}
    save_file(held, folder / checkpoint.LAST, metadata=metadata)
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        pv.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    {
        "without a pair": lambda state: state.pop("pair"),
        "without a configuration": lambda state: state.pop("configuration"),
        "of words": lambda state: state.update(random="x"),
        "of a word for a count": lambda state: state.update(epoch="x"),
        "of a number for sums": lambda state: state.update(sums=1.0),
        "of another compiler": lambda state: state.update(compiled={"items": [["a", 1]]}),
        "of no optimizer": lambda state: state.update(optimizer={"items": []}),
        "of weights that are none": lambda state: state.update(trained=[1, "x"]),
    }.values(),
)
def test_a_checkpoint_of_a_stranger_does_not_go_on(change: Any, tmp_path: Path) -> None:
    def go_on(**options: Any) -> pv.Run:
        torch.manual_seed(0)
        pair, x = pv.models.MLPVAE((4,), 2, (3,)), torch.zeros(8, 4)
        return pv.fit(pair, x, batch_size=4, epochs=1, out=tmp_path, **QUIET, **options)

    go_on()
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    change(state)
    checkpoint.save(tmp_path / "checkpoint", tensors, state)
    with pytest.raises(checkpoint.CheckpointError, match="is none that fit has written") as error:
        go_on(resume=True)
    assert "\n" not in str(error.value)


def of_first(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[dict[str, Any]], Any]:
    """A change of what the optimizer holds of its first parameter."""
    return lambda saved: change(saved["state"][0])


@pytest.mark.parametrize(
    "change",
    {
        "a shape": of_first(lambda held: held.update(exp_avg=torch.zeros(7))),
        "a shape that goes with the parameter's": of_first(lambda held: held.update(exp_avg=torch.zeros(3, 1))),
        "a type": of_first(lambda held: held.update(exp_avg_sq=held["exp_avg_sq"].long())),
        "a missing key": of_first(lambda held: held.pop("exp_avg")),
        "a missing count": of_first(lambda held: held.pop("step")),
        "a number for a tensor": of_first(lambda held: held.update(exp_avg=1.0)),
        "a count that is none": of_first(lambda held: held.update(step=torch.tensor(float("nan")))),
        "a flag with a shape": lambda saved: (
            saved["param_groups"][0].update(amsgrad=True),
            saved["state"][0].update(max_exp_avg_sq=torch.zeros(1)),
        ),
        "one group more": lambda saved: saved["param_groups"].append({**saved["param_groups"][0], "params": []}),
        "a word for a rate": lambda saved: saved["param_groups"][0].update(lr="x"),
        "a missing rate": lambda saved: saved["param_groups"][0].pop("lr"),
    }.values(),
)
def test_an_optimizer_of_a_stranger_does_not_go_on(change: Any, tmp_path: Path) -> None:
    pair = functools.partial(pv.models.MLPVAE, (4,), 2, (3,))
    fit(pair(), X, out=tmp_path, epochs=1)
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    saved = checkpoint.unpack(state["optimizer"], tensors)
    change(saved)
    state["optimizer"] = checkpoint.pack(saved, tensors, "changed")
    checkpoint.save(tmp_path / "checkpoint", tensors, state)
    with pytest.raises(ValueError, match=r"the checkpoint in .* is none that fit has written .*new folder\.$") as error:
        fit(pair(), X, out=tmp_path, epochs=1, resume=True)
    assert "\n" not in str(error.value)


class Executed:
    def __init__(self) -> None:
        Path("executed").touch()


def test_a_newer_format_and_folders_of_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    checkpoint.save(tmp_path / "checkpoint", {}, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of a newer pyro_vae"):
        pv.load(tmp_path)
    with pytest.raises(ValueError, match=r"is no run folder: it has no config\.yaml\. Give .* or fit"):
        pv.load(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoint" / checkpoint.LAST).unlink()
    with pytest.raises(ValueError, match="ended before its first checkpoint"):
        pv.load(tmp_path)
    with pytest.raises(ValueError, match=r"train has written no config\.yaml there, which names its data"):
        runs.load_data(RELEASED / "0.1.0" / "fit")


def test_a_run_of_the_command_line_without_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Standardized columns, a chosen likelihood; the second stage of two runs; moved to another place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.training, "draw", lambda *where: None)
    random = np.random.default_rng(0)
    np.save("reals.npy", 100 * random.normal(size=(60, 4)))
    options = "--epochs 2 --batch-size 8 --compile eager --progress false --model.hidden [6] --out run"
    assert cli.main(["train", "--data", "reals.npy", *options.split()]) == 0
    x = runs.load_data("run").valid.batch(slice(None))
    expected = bound(pv.load("run").pair, *x)
    Path("reals.npy").unlink()
    runs.options._load.cache_clear()
    runs.options._prepared.cache_clear()
    Path("run").rename("moved")
    before = torch.get_rng_state()
    run = pv.load("moved")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(bound(run.pair, *x), expected)
    assert run.bound == pytest.approx(expected.mean().item(), abs=1.0)
    assert (run.configuration["standardize"], run.configuration["model"]["init_args"]["hidden"]) == (True, [6])
    capsys.readouterr()
    assert cli.main(["evaluate", "moved"]) == 2
    assert "the data of the run moved are not there" in capsys.readouterr().err


class Drifting(pv.models.MLPVAE):
    """With a buffer that its state leaves out."""

    def __init__(self) -> None:
        super().__init__((4,), 2, (3,))
        self.register_buffer("level", torch.zeros(()), persistent=False)


class Choosy(pv.models.MLPVAE):
    """With a state of its own, which it may refuse."""

    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__((4,), 2, (3,))

    def get_extra_state(self) -> int:
        return 1

    def set_extra_state(self, state: int) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("of two"), RuntimeError("of two"), KeyError("of two")])
def test_a_state_that_the_pair_itself_refuses(error: Exception, tmp_path: Path) -> None:
    pair = Choosy()
    fit(pair, X, out=tmp_path)
    pair.error = error
    words = rf"set_extra_state of Choosy, .* refuses .* \({type(error).__name__}: '?of two'?\)\. Have it take"
    for opened in (
        lambda: pv.load(tmp_path, pair=pair),
        lambda: fit(pair, X, out=tmp_path, resume=True),
    ):
        with pytest.raises(ValueError, match=words) as found:
            opened()
        assert found.value.__cause__ is error


def test_a_buffer_of_before_buffers_were_kept(tmp_path: Path) -> None:
    pair = Drifting()
    pair.level.fill_(3.0)
    fit(pair, X, out=tmp_path)
    assert pv.load(tmp_path, pair=Drifting()).pair.level == 3
    rewritten(tmp_path, lambda state: state.pop("buffers"))
    with pytest.warns(UserWarning, match="did not keep the buffer 'level': it is as the pair was built"):
        assert pv.load(tmp_path, pair=Drifting()).pair.level == 0
    with pytest.raises(ValueError, match="earlier version of pyro_vae, which did not keep the buffer 'level'"):
        fit(pair, X, out=tmp_path, epochs=3, resume=True)


def test_a_refusal_of_another_process_says_what_it_said_there() -> None:
    error = Untrusted(Path("runs/digits-1"), "my_file.MyPair", "model")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


LARGER = {"one": [2**30], "several": [60_000, 60_000]}


@pytest.mark.parametrize("sizes", LARGER)
def test_a_pair_much_larger_than_its_weights_is_not_built(
    sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint, and of the configuration of a run of the command line."""
    fit(pv.models.MLPVAE((6,), 2, (4,)), (torch.rand(8, 6) > 0.5).float(), out=tmp_path / "fit")
    tensors, state = checkpoint.load(tmp_path / "fit" / "checkpoint")
    told, hidden = json.dumps(state), json.dumps({"tuple": [4]})
    assert told.count(hidden) == 1
    state = json.loads(told.replace(hidden, json.dumps({"tuple": LARGER[sizes]})))
    checkpoint.save(tmp_path / "fit" / "checkpoint", tensors, state)
    monkeypatch.setattr(cli.training, "draw", lambda *where: None)
    small = "--epochs 1 --model.hidden [4] --model.latent_dim 2 --progress false --compile eager"
    assert cli.main(["train", "--data", "digits", *small.split(), "--out", str(tmp_path / "command")]) == 0
    path = tmp_path / "command" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["hidden"] = LARGER[sizes]
    path.write_text(yaml.safe_dump(config))
    for folder in ("fit", "command"):
        with pytest.raises(ValueError, match="much larger than the weights that it has stored"):
            pv.load(tmp_path / folder)


def test_a_pair_of_too_many_layers_is_not_built() -> None:
    with pytest.raises(ValueError, match="much larger than the weights"), runs.trust.Bounded(Path("run"), []):
        nn.Sequential(*(nn.Linear(1, 1) for _ in range(20_000)))


@pytest.mark.parametrize("out", [None, {1: None}, torch.tensor(3)])
def test_no_folder_of_evaluations(out: Any) -> None:
    with pytest.raises(TypeError, match="out has to be a path"):
        pv.runs.evaluations(out)
