"""The contract suite: every pair works with Pyro's own tools, and keeps its parameters to itself."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import (
    BATCH,
    PAIRS,
    SAMPLED,
    UserPyroModule,
    functions,
    linear_gaussian,
    real,
)
from pyro.infer import HMC, MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_model_relations
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_vae import SGVB_A, Pair, check, pair_method
from pyro_vae.models import MLPVAE, ConvVAE
from pyro_vae.pair import LocalParameters, as_pair, data_frame, isolated, programs, run, tracing_obstacle


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def train(pair: Any, batch: tuple[Any, ...], steps: int = 5, elbo: Any = None, seed: int = 0) -> list[float]:
    """Losses of raw SVI."""
    torch.manual_seed(seed)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), loss=elbo or Trace_ELBO())
    return [svi.step(*batch) for _ in range(steps)]


# Pyro's own tools on every pair


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_trains_under_svi(factory: Any, elbo: Any) -> None:
    pair, batch = factory()
    pair = as_pair(pair)
    run(pair, *batch)  # now all parameters are there
    before = {name: parameter.detach().clone() for name, parameter in pair.named_parameters()}
    losses = train(pair, batch, 40, elbo(num_particles=4, vectorize_particles=True, max_plate_nesting=1))
    assert sum(losses[-10:]) < sum(losses[:10])
    moved = {name for name, parameter in pair.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(before)


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_predictive(factory: Any) -> None:
    pair, batch = factory()
    x = batch[0]
    prior = Predictive(pair.model, num_samples=3)(None, *batch[1:]) if takes_no_data(pair) else None
    if prior is not None:
        assert prior["x"].shape == (3, 1, *x.shape[1:])
    given = Predictive(pair.model, num_samples=3, parallel=True)(*batch)
    assert torch.equal(given["x"][1].reshape(x.shape), x)
    posterior = Predictive(pair.model, guide=pair.guide, num_samples=4)(*batch)
    for site in check(pair, *batch).sites:
        if not site.observed:
            assert posterior[site.name].reshape(4, *site.batch_shape, *site.event_shape).std(0).min() > 0


def takes_no_data(pair: Any) -> bool:
    return isinstance(pair, (MLPVAE, ConvVAE, UserPyroModule))


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_vectorized_particles_agree_with_a_loop(factory: Any) -> None:
    # Not the same draws, but the same expectation: 2000 draws give it to a few per cent of its spread.
    pair, batch = factory()
    torch.manual_seed(1)
    vectorized = Trace_ELBO(2000, max_plate_nesting=1, vectorize_particles=True).loss(pair.model, pair.guide, *batch)
    with torch.no_grad():
        singles = torch.tensor([Trace_ELBO().loss(pair.model, pair.guide, *batch) for _ in range(100)])
    assert abs(vectorized - singles.mean()) < 5 * singles.std() / 100**0.5


@pytest.mark.parametrize("kernel", [HMC, NUTS])
@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_hamiltonian_monte_carlo(factory: Any, kernel: Any) -> None:
    pair, batch = factory()
    sites = check(pair, *batch).sites
    options = {"num_steps": 2} if kernel is HMC else {"max_tree_depth": 2}
    mcmc = MCMC(kernel(pair.model, **options), num_samples=2, warmup_steps=1, disable_progbar=True)
    mcmc.run(*batch)
    samples = mcmc.get_samples()
    assert {name: tuple(value.shape[1:]) for name, value in samples.items()} == {
        site.name: (*site.batch_shape, *site.event_shape) for site in sites if not site.observed
    }
    assert all(parameter.grad is None for parameter in as_pair(pair).parameters())


def test_hamiltonian_monte_carlo_finds_the_exact_posterior() -> None:
    pair, x, _ = linear_gaussian(torch.float32)
    mcmc = MCMC(NUTS(pair.model, max_tree_depth=4), 150, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"]
    exact = pair.posterior(x)
    assert ((z.mean(0) - exact.mean) / exact.variance.sqrt()).abs().max() < 0.5
    assert (z.var(0) / exact.variance).log().abs().max() < 1


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_relations_of_the_model(factory: Any) -> None:
    pair, batch = factory()
    relations = get_model_relations(pair.model, batch)
    assert relations["observed"] == ["x"]
    latents = [name for name in relations["sample_dist"] if name != "x"]
    assert latents
    assert set(relations["plate_sample"]["data"]) == {"x", *latents} - {"bias"}
    assert "z1" in latents or set(relations["sample_sample"]["x"]) == set(latents)


def test_render_model() -> None:
    pair, batch = functions()
    source = pyro.render_model(pair.model, model_args=batch, render_params=True).source
    assert "z -> x" in source
    assert "scale" in source


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_run_gives_the_traces(factory: Any) -> None:
    pair, batch = factory()
    pair = as_pair(pair)
    for particles in (None, 1, 3):
        model_trace, guide_trace = run(pair, *batch, num_particles=particles)
        frame = data_frame(model_trace)
        assert (frame.name, frame.dim, frame.size) == ("data", -1, BATCH)
        latent = "z1" if "z1" in guide_trace.nodes else "z"
        value = guide_trace.nodes[latent]["value"]
        assert value.shape[:-1] == ((BATCH,) if particles is None else (particles, BATCH))
        assert model_trace.nodes[latent]["value"] is value


# Isolation


def isolated_pairs() -> list[Any]:
    """Those whose parameters are their own also under raw SVI; the user's bare modules are Pyro's business."""
    return [case for case in PAIRS if case.id in ("mlp_vae", "conv_vae", "gaussian_vae", "functions", "two_arguments")]


@pytest.mark.parametrize("factory", isolated_pairs())
def test_raw_svi_leaves_the_store_as_it_was(factory: Any) -> None:
    pair, batch = factory()
    mine = pyro.param("mine", torch.ones(2), constraint=constraints.positive).unconstrained()
    train(pair, batch, 2)
    Predictive(pair.model, guide=pair.guide, num_samples=2)(*batch)
    store = pyro.get_param_store()
    assert list(store.keys()) == ["mine"]
    assert pyro.param("mine").unconstrained() is mine


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_ours_leaves_the_store_as_it_was(factory: Any) -> None:
    pair, batch = factory()
    mine = pyro.param("mine", torch.ones(2)).unconstrained()
    scale = pyro.param("scale", torch.tensor(3.0)).unconstrained()  # a name that some pairs use as well
    check(pair, *batch)
    SGVB_A(2).bound(pair, *batch)
    run(as_pair(pair), *batch)
    assert sorted(pyro.get_param_store().keys()) == ["mine", "scale"]
    assert pyro.param("mine").unconstrained() is mine
    assert pyro.param("scale").unconstrained() is scale
    assert scale.item() == 3.0


def test_the_store_is_as_it_was_after_an_error() -> None:
    pair, (x,) = functions()
    mine = pyro.param("mine", torch.ones(2)).unconstrained()
    with pytest.raises(RuntimeError):
        pair.guide(x.double())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine").unconstrained() is mine


@pytest.mark.parametrize("factory", isolated_pairs())
def test_two_pairs_of_one_class_do_not_meet(factory: Any) -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        return factory()

    alone = [train(*make(seed)) for seed in (1, 2)]
    assert alone[0] != alone[1]
    first, second = make(1), make(2)
    assert [train(*first), train(*second)] == alone

    # Interleaved, each with its own random state.
    cases = [make(1), make(2)]
    states = []
    for pair, _ in cases:
        torch.manual_seed(0)
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), loss=Trace_ELBO())
        states.append([svi, torch.get_rng_state(), []])
    for _ in range(5):
        for state, (_, batch) in zip(states, cases, strict=True):
            torch.set_rng_state(state[1])
            state[2].append(state[0].step(*batch))
            state[1] = torch.get_rng_state()
    assert [state[2] for state in states] == alone


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_two_pairs_do_not_meet_in_ours(factory: Any) -> None:
    def losses(pair: Any, batch: tuple[Any, ...]) -> list[float]:
        model, guide = programs(as_pair(pair))
        return train(SimpleNamespace(model=model, guide=guide), batch)

    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        return factory()

    alone = [losses(*make(1)), losses(*make(2))]
    first, second = make(1), make(2)
    train(make(3)[0], first[1])  # and a raw one, which fills Pyro's store
    assert [losses(*first), losses(*second)] == alone


@pytest.mark.parametrize("factory", [factory for factory in PAIRS if factory.id not in ("functions", "two_arguments")])
def test_deepcopy_is_independent(factory: Any) -> None:
    pair, batch = factory()
    pair = as_pair(pair)
    check(pair, *batch)
    copied = copy.deepcopy(pair)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    assert copied.state_dict().keys() == before.keys()
    torch.manual_seed(0)
    bound = SGVB_A().bound(pair, *batch)
    model, guide = programs(copied)
    losses = train(SimpleNamespace(model=model, guide=guide), batch, 3)
    for name, value in pair.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert copied.state_dict().keys() == before.keys()
    assert not any(torch.equal(value, before[name]) for name, value in copied.named_parameters())
    torch.manual_seed(0)
    assert torch.equal(SGVB_A().bound(pair, *batch), bound)
    model, guide = programs(pair)
    assert train(SimpleNamespace(model=model, guide=guide), batch, 3) == losses


def test_functions_with_networks_are_not_copied() -> None:
    pair, _ = functions()
    with pytest.raises(TypeError, match="a Pair of functions cannot be copied"):
        copy.deepcopy(pair)


@pytest.mark.parametrize("factory", [*PAIRS, *SAMPLED])
def test_state_dict_round_trips(factory: Any) -> None:
    pair, batch = factory()
    other, _ = factory()
    pair, other = as_pair(pair), as_pair(other)
    model, guide = programs(pair)
    train(SimpleNamespace(model=model, guide=guide), batch, 3)
    check(other, *batch)
    torch.manual_seed(0)
    bound = SGVB_A().bound(pair, *batch)
    torch.manual_seed(0)
    assert not torch.equal(SGVB_A().bound(other, *batch), bound)
    other.load_state_dict(pair.state_dict())
    torch.manual_seed(0)
    assert torch.equal(SGVB_A().bound(other, *batch), bound)


def test_a_global_parameter_trains_beside_a_pair() -> None:
    pair, (x,) = functions()

    def model(x: Tensor) -> None:
        shift = pyro.param("shift", torch.zeros(6))
        pair.model(x - shift)

    svi = SVI(model, pair.guide, pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO())
    for _ in range(30):
        svi.step(x + 5)
    assert list(pyro.get_param_store().keys()) == ["shift"]
    assert pyro.param("shift").min() > 1
    assert pair.pyro_params.value("scale").item() != pytest.approx(0.7)


# Parameters of a pair


def make_pair(program: Callable[[Tensor], Any], *modules: nn.Module) -> Pair:
    """A pair of which ``program`` gives the logits of the data."""

    def model(x: Tensor) -> None:
        value = program(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True) + value, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    return Pair(model, guide, *modules)


@pytest.mark.parametrize(
    ("initial", "constraint"),
    [
        (lambda: torch.zeros(6), constraints.real),
        (lambda: torch.zeros(6, requires_grad=True), constraints.real),  # as old tutorials write it
        (lambda: nn.Parameter(torch.zeros(6)), constraints.real),
        (lambda: nn.Parameter(0.5 * torch.ones(6)), constraints.positive),
        (lambda: 0.5 * torch.ones(6), constraints.unit_interval),
        (lambda: torch.ones(6) / 6, constraints.simplex),
    ],
)
def test_every_way_of_pyro_param_is_trained(initial: Any, constraint: Any) -> None:
    pair = make_pair(lambda x: pyro.param("here", initial(), constraint=constraint))
    check(pair, real(6))
    value = pair.pyro_params.value("here").detach().clone()
    torch.testing.assert_close(value, initial().detach())
    held = pair.pyro_params._parameters["param/here"]
    torch.testing.assert_close(transform_to(constraint)(held).detach(), value)
    train(pair, (real(6),), 5)
    moved = pair.pyro_params.value("here")
    assert not torch.equal(moved, value)
    assert constraint.check(moved).all()


@pytest.mark.parametrize("name", ["type", "value", "constraints", "training", "scale", "a.b", "forward", "_parameters"])
def test_every_name_of_pyro_param(name: str) -> None:
    pair = make_pair(lambda x: pyro.param(name, torch.zeros(6)))
    train(pair, (real(6),), 3)
    assert pair.pyro_params.value(name).any()
    key = f"pyro_params.param/{name.replace('.', '/')}"
    assert key in pair.state_dict()
    again = make_pair(lambda x: pyro.param(name, torch.zeros(6)))
    check(again, real(6))
    again.load_state_dict(pair.state_dict())
    assert torch.equal(again.pyro_params.value(name), pair.pyro_params.value(name))


def test_pyro_param_with_a_lazy_initial_value_is_drawn_once() -> None:
    calls: list[int] = []

    def initial() -> Tensor:
        calls.append(1)
        return torch.randn(6)

    pair = make_pair(lambda x: pyro.param("here", initial))
    train(pair, (real(6),), 3)
    assert len(calls) == 1


class Nets:
    """Networks where Python does not look for them."""

    def __init__(self, *nets: nn.Module) -> None:
        self.nets = nets


def announce(network: nn.Module, x: Tensor) -> Tensor:
    return pyro.module("network", network)(x).mean().expand(6)


GLOBAL = nn.Linear(6, 1)


def announce_global(x: Tensor) -> Tensor:
    return announce(GLOBAL, x)


def test_modules_are_found_where_programs_keep_them() -> None:
    def found(program: Callable[[Tensor], Any], network: nn.Module, *modules: nn.Module) -> bool:
        pair = make_pair(program, *modules)
        check(pair, real(6))
        assert {id(p) for p in network.parameters()} < {id(p) for p in pair.parameters()}
        return tracing_obstacle(pair) is None

    network = nn.Linear(6, 1)
    inside, listed, hidden = nn.Sequential(network), [network], Nets(network)
    assert found(lambda x: announce(network, x), network)
    assert found(lambda x: announce(inside[0], x), network)
    assert found(lambda x: announce(listed[0], x), network)
    assert found(functools.partial(announce, network), network)
    assert found(announce_global, GLOBAL)
    inner = PyroModule[nn.Sequential](PyroModule[nn.Linear](6, 6))  # its parameters are announced by longer names
    assert found(lambda x: inner(x).mean(0), inner)
    assert not found(lambda x: announce(hidden.nets[0], x), network)
    assert found(lambda x: announce(hidden.nets[0], x), network, network)


def test_only_what_is_announced_is_trained() -> None:
    both = nn.ModuleDict({"used": nn.Linear(6, 1), "unused": nn.Linear(6, 1)})
    pair = make_pair(lambda x: announce(both["used"], x))
    check(pair, real(6))
    assert not {id(p) for p in both["unused"].parameters()} & {id(p) for p in pair.parameters()}
    assert set(pair.state_dict()) == {"announced.network.weight", "announced.network.bias", "pyro_params.param/loc"}


def test_what_is_hidden_is_trained_and_named_as_an_obstacle() -> None:
    hidden = Nets(nn.Linear(6, 1))
    pair = make_pair(lambda x: announce(hidden.nets[0], x))
    before = hidden.nets[0].weight.detach().clone()
    train(pair, (real(6),), 3)
    assert not torch.equal(hidden.nets[0].weight, before)
    assert "pass it as Pair(model, guide, module)" in str(tracing_obstacle(pair))


def test_two_modules_of_one_name() -> None:
    first, second = nn.Linear(6, 1), nn.Linear(6, 1)
    pair = make_pair(lambda x: announce(first, x) + announce(second, x))
    with pytest.raises(ValueError, match=r"two modules are announced as 'network'\. Give each its own name"):
        check(pair, real(6))


def test_a_module_that_is_made_anew_takes_the_old_ones_place() -> None:
    holder = {"network": nn.Linear(6, 1)}
    pair = make_pair(lambda x: announce(holder["network"], x))
    check(pair, real(6))
    holder["network"] = nn.Linear(6, 1)
    check(pair, real(6))
    assert tracing_obstacle(pair) is None
    assert pair.announced["network"] is holder["network"]


class Own(PyroModule):
    """A user's PyroModule with our decorator."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PyroModule[nn.Linear](6, 4)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    @pair_method
    def model(self, x: Tensor) -> Tensor:
        """The model."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand_as(x), self.scale).to_event(1), obs=x)

    @pair_method
    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.network(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_pair_method_keeps_pyro_params_with_their_module() -> None:
    assert Own.model.__doc__ == "The model."
    first, second = Own(), Own()
    train(first, (real(6),), 10)
    assert first.scale.item() != pytest.approx(0.7)
    assert second.scale.item() == pytest.approx(0.7)
    assert not list(pyro.get_param_store().keys())
    assert first.scale > 0


def test_pair_method_needs_a_pyro_module() -> None:
    class Plain(nn.Module):
        model, guide = Own.model, Own.guide

    with pytest.raises(TypeError, match=r"Plain is not\. Derive it from PyroModule, or leave pair_method out"):
        Plain().guide(real(6))
    with pytest.raises(ValueError, match=r"The guide fails .* Plain is not\. Derive it from PyroModule"):
        check(Plain(), real(6))


def test_isolated_needs_no_pyro_param() -> None:
    pair, _ = functions()
    with isolated(pair):
        pyro.param("here", torch.ones(2))
        assert list(pyro.get_param_store().keys()) == []
    assert isinstance(pair.pyro_params, LocalParameters)
    assert "here" in pair.pyro_params
    assert "there" not in pair.pyro_params


# Without data


def test_guide_of_a_vae_without_data() -> None:
    with pytest.raises(ValueError, match=r"needs data: run the guide as guide\(x\)"):
        MLPVAE((6,), 2, (4,)).guide()


def test_vae_draws_a_datum_itself() -> None:
    vae = MLPVAE((1, 8, 8), 2, (4,))
    assert vae.model().shape == (1, 1, 8, 8)
    assert set(vae.model().unique().tolist()) <= {0.0, 1.0}
