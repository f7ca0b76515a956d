"""What SVI would train is what is trained, wherever the programs keep it; its state is copied, saved and loaded."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Trace_ELBO, autoguide, config_enumerate
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, pyro_method
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import SGVB_A, Pair, check, fit
from pyro_vae.pair import as_pair, trained_parameters
from pyro_vae.training.step import TrainingStep

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Model(PyroModule):
    """z in the plate; a plain network, PyroModules and PyroParams with and without a constraint."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 6)
        self.inner = PyroModule[nn.Sequential](PyroModule[nn.Linear](6, 6))
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)
        self.shift = PyroParam(torch.zeros(6))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.inner(self.decoder(z)) + self.shift
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.least = PyroParam(torch.tensor(0.3), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp() + self.least).to_event(1))


class Global(PyroModule):
    """Two global latents, for guides that Pyro makes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        s = pyro.sample("s", dist.LogNormal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * s.unsqueeze(-1), self.scale).to_event(1), obs=x)


class Easy(EasyGuide):
    def guide(self, x: Tensor) -> None:
        group = self.group(match="w")
        loc = pyro.param("w_loc", lambda: torch.zeros(group.event_shape))
        group.sample("joint", dist.Normal(loc, 0.3).to_event(1))
        self.map_estimate("s")


class Plain(nn.Module):
    """Announces one of its two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.other = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.other(self.encoder(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Both(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Model(), Guide()

    @pyro_method
    def model(self, x: Tensor) -> None:
        self.one(x)

    @pyro_method
    def guide(self, x: Tensor) -> None:
        self.other(x)


class CallableObject:
    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> None:
        self.module(x)


def default(module: nn.Module) -> Callable[[Tensor], None]:
    def run(x: Tensor, module: nn.Module = module) -> None:
        module(x)

    return run


def decorated(program: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    @functools.wraps(program)
    def run(x: Tensor) -> None:
        program(x)

    return run


def _list_made_as_it_runs() -> Any:
    first, second = nn.Linear(6, 4), nn.Linear(4, 4)

    def guide(x: Tensor) -> None:
        pyro.module("both", nn.ModuleList([first, second]))
        with pyro.plate("data", len(x)):
            loc, log_scale = second(first(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Model(), guide


def _bare_parameters() -> Any:
    encoder = nn.Linear(6, 4)

    def guide(x: Tensor) -> None:
        weight, shift = pyro.param("weight", encoder.weight), pyro.param("bare", nn.Parameter(torch.zeros(4)))
        with pyro.plate("data", len(x)):  # the bias is not announced
            loc, log_scale = (x @ weight.T + shift + encoder.bias).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Model(), guide


def _converted() -> Any:
    network = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6))
    to_pyro_module_(network)
    network[0].bias = PyroParam(torch.ones(6), constraint=constraints.positive)  # type: ignore[assignment]

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1), obs=x)

    return model, Guide()


def _list_of_guides() -> Any:
    model, encoder = Global(), nn.Linear(6, 2)
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoDiagonalNormal(poutine.block(model, expose=["w"])))

    def of_s(x: Tensor) -> None:
        loc, log_scale = pyro.module("encoder", encoder)(x.mean(0))
        pyro.sample("s", dist.LogNormal(loc, log_scale.exp()))

    guide.append(of_s)
    return model, guide


def _shared() -> Any:
    class Around(PyroModule):
        def __init__(self, program: nn.Module, shared: nn.Module) -> None:
            super().__init__()
            self.program, self.shared = program, shared

        def forward(self, x: Tensor) -> None:
            self.program(self.shared(x))

    shared = nn.Linear(6, 6)
    return Around(Model(), shared), Around(Guide(), shared)


def _reparametrized() -> Any:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = pyro.module("encoder", encoder)(x)
            pyro.sample("z_decentered", dist.Normal(loc, 0.5).to_event(1))

    encoder = nn.Linear(6, 2)
    return poutine.reparam(Model(), {"z": LocScaleReparam(shape_params=())}), guide


def _methods() -> Any:
    both = Both()
    return both.model, both.guide


def _made(kind: Any, ran: bool = False, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        model = Global()
        guide = kind(model, **options)
        if ran:
            guide(X)
            pyro.clear_param_store()
        return model, guide

    return make


AUTOGUIDES = {
    name: getattr(autoguide, name)
    for name in (
        "AutoNormal", "AutoDelta", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal",
        "AutoIAFNormal", "AutoLaplaceApproximation", "AutoStructured", "AutoGaussian",
    )
}  # fmt: skip
CASES: dict[str, Callable[[], Any]] = {
    "PyroModules": lambda: (Model(), Guide()),
    "methods": _methods,
    "functions": lambda: (default(Model()), (lambda guide: lambda x: guide(x))(Guide())),
    "plain module": lambda: (Model(), Plain()),
    "callable object": lambda: (CallableObject(Model()), Guide()),
    "decorated": lambda: (decorated(Model()), decorated(Guide())),
    "partial": lambda: (functools.partial(Model()), functools.partial(Guide())),
    "scale": lambda: (poutine.scale(Model(), 0.5), poutine.scale(Guide(), 0.5)),
    "condition": lambda: (poutine.condition(Model(), {"nothing": X}), Guide()),
    "config_enumerate": lambda: (config_enumerate(Model()), config_enumerate(Guide())),
    "reparam": _reparametrized,
    "block": lambda: (poutine.block(Model(), hide=["scale", "inner.0.weight"]), Guide()),
    "block of all parameters": lambda: (poutine.block(Model(), hide_types=["param"]), Guide()),
    "list made as it runs": _list_made_as_it_runs,
    "bare Parameters": _bare_parameters,
    "to_pyro_module_": _converted,
    "AutoGuideList": _list_of_guides,
    "EasyGuide": _made(Easy),
    "shared module": _shared,
    **{name: _made(kind) for name, kind in AUTOGUIDES.items()},
    **{f"{name} that has run": _made(kind, True) for name, kind in AUTOGUIDES.items()},
}


def by_svi(make: Callable[[], Any]) -> tuple[float, list[Tensor]]:
    """Loss for each datum, and the gradients of what ``SVI.step`` would hand to its optimizer."""
    torch.manual_seed(0)
    model, guide = make()
    torch.manual_seed(1)
    with torch.no_grad():
        guide(X)  # which makes what is made late
    torch.manual_seed(5)
    with poutine.trace(param_only=True) as captured:
        loss = Trace_ELBO().loss_and_grads(model, guide, X)
    parameters: Any = {id(p): p for p in (site["value"].unconstrained() for site in captured.trace.nodes.values())}
    pyro.clear_param_store()
    return loss / len(X), [p.grad / len(X) for p in parameters.values() if p.grad is not None]


def ours(make: Callable[[], Any], mode: Any) -> tuple[float, list[Tensor]]:
    torch.manual_seed(0)
    pair = Pair(*make())
    torch.manual_seed(1)
    with torch.no_grad():
        pair.guide(X)
    with torch.random.fork_rng(), torch.no_grad():
        pair.model(X)
    step = TrainingStep(pair, SGVB_A(), compile=mode, num_data=len(X))
    torch.manual_seed(5)
    loss = step((X,)).loss.item()
    assert step.mode == mode
    return loss, [p.grad for p in trained_parameters(pair) if p.grad is not None]


@pytest.mark.filterwarnings("ignore::UserWarning:pyro", "ignore:.*does not depend")
@pytest.mark.parametrize(
    ("case", "mode"),
    [
        *((case, "eager" if case.endswith("that has run") else "traced") for case in CASES),
        *(pytest.param(case, "traced", marks=pytest.mark.slow) for case in CASES if case.endswith("that has run")),
    ],
)
def test_trained_is_what_svi_trains(case: str, mode: Any) -> None:
    """With the same loss and gradients, as one graph."""
    expected, theirs = by_svi(CASES[case])
    loss, gradients = ours(CASES[case], mode)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert len(gradients) == len(theirs)
    for gradient in theirs:
        alike = [g.shape == gradient.shape and torch.allclose(g, gradient, 1e-3, 1e-5) for g in gradients]
        assert any(alike)
        del gradients[alike.index(True)]
    assert not list(pyro.get_param_store().keys())


@pytest.mark.parametrize("hide", [[], ["shift", "inner.0.weight"]])
def test_fit_moves_what_svi_moves(hide: list[str]) -> None:
    """Also where a block hides a part, and where programs are attributes of an object."""

    def moved(train: Callable[[Any, Any], Any]) -> set[str]:
        model, guide = Model(), Guide()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(poutine.block(model, hide=hide) if hide else model, guide)
        pyro.clear_param_store()
        return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}

    def by_fit(model: Any, guide: Any) -> None:
        owner = SimpleNamespace(model=model, guide=guide)
        fit(owner, X, epochs=1, batch_size=7, compile="eager", progress=False)

    found = moved(by_fit)
    assert found == moved(lambda *both: SVI(*both, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(X))
    assert len(found) == 6 - len(hide)


def test_a_hidden_statement_keeps_its_value() -> None:
    """It is drawn once and not trained, as in Pyro's store; also by another pair that loads the state."""

    def make() -> Any:
        seen: list[float] = []

        def model(x: Tensor) -> None:
            shift = pyro.param("a.shift", lambda: torch.randn(()).exp(), constraint=constraints.positive)
            seen.append(shift.item())
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand_as(x) + shift, 1.0).to_event(1), obs=x)

        return Pair(poutine.block(model, hide=["a.shift"]), Guide()), seen

    pair, seen = make()
    for _ in range(3):
        pair.model(X)
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    assert len(set(seen)) == 1
    other, of_other = make()
    other.load_state_dict(pair.state_dict())
    other.model(X)
    assert of_other == seen[:1]


def test_a_module_that_makes_its_guide() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Global()
            self.guide = autoguide.AutoDiagonalNormal(self.model)

    late = Late()
    run = fit(late, X, estimator=SGVB_A(), epochs=1, batch_size=7, compile="traced", progress=False)
    assert run.mode == "traced"
    names = {"model.scale_unconstrained", "guide.loc", "guide.scale_unconstrained"}
    assert set(dict(late.named_parameters())) == names


def test_names_of_programs_that_are_modules() -> None:
    pair = Pair(poutine.scale(Model(), 1.0), Guide())
    names = set(dict(pair.named_parameters()))  # before a run
    assert {
        "programs.model.decoder.weight",
        "programs.model.scale_unconstrained",
        "programs.guide.encoder.bias",
    } < names
    check(pair, X)
    assert set(pair.state_dict()) == names


# States


def values(pair: Any) -> dict[str, Tensor]:
    """The constrained values that the programs meet in one run."""
    with torch.random.fork_rng(), torch.no_grad(), poutine.trace(param_only=True) as captured:
        pair.guide(X)
        pair.model(X)
    nodes: Any = captured.trace.nodes
    return {name: site["value"].clone() for name, site in nodes.items()}


def functions_of_names() -> Pair:
    return Pair(model_of_names, guide_of_names)


def model_of_names(x: Tensor) -> None:
    scale = pyro.param("a.scale", torch.tensor(0.7), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand_as(x), scale).to_event(1), obs=x)


def guide_of_names(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    share = pyro.param("share", lambda: torch.tensor(0.1), constraint=constraints.unit_interval)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, share).to_event(1))


STATES: dict[str, Callable[[], Pair]] = {
    "statements": functions_of_names,
    "methods of an object": lambda: Pair(*(lambda owner: (owner.model, owner.guide))(ObjectOfNames())),
    **{name: functools.partial(lambda make: Pair(*make()), CASES[name])
       for name in ("PyroModules", "methods", "scale", "partial", "callable object", *AUTOGUIDES)},
}  # fmt: skip


class ObjectOfNames:
    def __init__(self) -> None:
        self.encoder = nn.Linear(6, 2)

    def model(self, x: Tensor) -> None:
        model_of_names(x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = pyro.module("encoder", self.encoder)(x) + pyro.param("loc", torch.zeros(2))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def moved(pair: Pair) -> Pair:
    values(pair)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return pair


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_copies_and_pickles(state: str, ran: bool) -> None:
    """Of a pair before and after its first run: equal, independent, and the first goes on."""
    torch.manual_seed(0)
    pair = moved(STATES[state]()) if ran else STATES[state]()
    if ran:
        pair.guide(X)  # of which transforms keep the draw, with its gradient
    copies = [copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))]
    torch.manual_seed(1)
    before = values(pair)
    assert before
    for copied in copies:
        torch.manual_seed(1)
        found = values(copied)
        assert found.keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in found.items())
        assert copied.state_dict().keys() == pair.state_dict().keys()
        moved(copied)
        assert all(torch.equal(value, before[name]) for name, value in values(pair).items())
        assert not torch.equal(*(torch.cat([v.flatten() for v in values(one).values()]) for one in (pair, copied)))


@pytest.mark.parametrize("state", STATES)
def test_a_fresh_pair_takes_a_state(state: str) -> None:
    """Its very first run meets the loaded values, also of what the programs have yet to announce, or to make."""
    torch.manual_seed(0)
    pair, fresh = moved(STATES[state]()), STATES[state]()
    fresh.load_state_dict(pair.state_dict())
    expected, found = values(pair), values(fresh)
    assert expected.keys() == found.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert not fresh.recalls
    assert fresh.state_dict().keys() == pair.state_dict().keys()
    assert {id(p) for p in trained_parameters(fresh)} == {id(p) for p in fresh.parameters()}


@pytest.mark.parametrize("first", ["model", "guide"])
def test_the_first_run_uses_the_state(first: str) -> None:
    """Also where the guide uses what the model alone announces, and the other way round; nothing else is moved."""

    def made() -> Pair:
        networks = {"one": nn.Linear(2, 2), "other": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))}

        def program(own: str, x: Tensor, obs: Tensor | None) -> None:
            pyro.module(own, networks[own])
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(networks["one"](x) + networks["other"](x), 1.0).to_event(1))
                if obs is not None:
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=obs)

        return Pair(lambda x: program("one", x, x), lambda x: program("other", x, None))

    torch.manual_seed(0)
    pair, fresh, x = made(), made(), torch.randn(5, 2)
    for run in (pair.model, pair.guide):
        run(x)
    fresh.load_state_dict(pair.state_dict())
    found = []
    for one in (pair, fresh):
        torch.manual_seed(1)
        found.append(poutine.trace(getattr(one, first)).get_trace(x).nodes["z"]["value"])
        found.append(torch.rand(()))
    torch.testing.assert_close(found[:2], found[2:], rtol=0, atol=0)
    assert all(part.training for part in fresh.modules())
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(value, pair.state_dict()[name], rtol=0, atol=0)


def test_a_state_of_other_shapes_or_of_another_pair() -> None:
    pair = functions_of_names()
    pair.load_state_dict({"pyro_params.param/loc": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"has the parameter 'loc' in the shape \[3\], and the program in \[2\]"):
        pair.guide(X)
    late = STATES["AutoNormal"]()
    late.load_state_dict({**late.state_dict(), "programs.guide.locs.w_unconstrained": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"has programs.guide.locs.w_unconstrained in the shape \[3\].*in \[6\]"):
        late.guide(X)
    other = functions_of_names()
    other.load_state_dict({"announced.network.weight": torch.zeros(3)})
    other.guide(X)
    with pytest.warns(UserWarning, match=r"has announced.network.weight, which the programs do not announce"):
        other.model(X)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*announced.network.weight"):
        other.load_state_dict({**other.state_dict(), "announced.network.weight": torch.zeros(3)})


@pytest.mark.parametrize("case", ["PyroModules", "AutoNormal", "AutoDiagonalNormal", "AutoNormal that has run"])
def test_parameters_that_pyro_keeps_with_modules(case: str) -> None:
    """Under ``module_local_params``: the same parameters, and a fresh pair takes their state."""
    names = set(dict(moved(Pair(*CASES[case]())).named_parameters()))
    with pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        pair, fresh = moved(Pair(*CASES[case]())), Pair(*CASES[case]())
        assert set(dict(pair.named_parameters())) == names
        fresh.load_state_dict(pair.state_dict())
        found = values(fresh)
        for name, value in values(pair).items():
            assert torch.equal(found[name], value)


def test_an_object_of_modules_goes_on_with_what_was_trained() -> None:
    owner = SimpleNamespace(model=Global(), guide=None)
    owner.guide = autoguide.AutoNormal(owner.model)
    fit(owner, X, estimator=SGVB_A(), epochs=1, batch_size=7, compile="eager", progress=False)
    trained = {name: value.clone() for name, value in as_pair(owner).state_dict().items()}
    assert len(trained) == 5
    assert as_pair(owner).state_dict().keys() == trained.keys()
