"""Parameters and modules of a pair. What holds for every pair is in ``pyro_vae.testing.PairLaws``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import BATCH, PAIRS, SAMPLED, functions, linear_gaussian, real
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from pyro_vae import Pair, check, pair_method
from pyro_vae.models import MLPVAE
from pyro_vae.pair import LocalParameters, as_pair, data_frame, isolated, run, tracing_obstacle


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


def train(pair: Any, x: Tensor, steps: int = 3) -> None:
    """By raw SVI."""
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), loss=Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def test_hamiltonian_monte_carlo_finds_the_exact_posterior() -> None:
    pair, x, _ = linear_gaussian(torch.float32)
    mcmc = MCMC(NUTS(pair.model, max_tree_depth=4), 150, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    z = mcmc.get_samples()["z"]
    exact = pair.posterior(x)
    assert ((z.mean(0) - exact.mean) / exact.variance.sqrt()).abs().max() < 0.5
    assert (z.var(0) / exact.variance).log().abs().max() < 1


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


def test_the_store_is_as_it_was_after_an_error() -> None:
    pair, (x,) = functions()
    mine = pyro.param("mine", torch.ones(2)).unconstrained()
    with pytest.raises(RuntimeError):
        pair.guide(x.double())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine").unconstrained() is mine


def test_functions_with_networks_are_not_copied() -> None:
    pair, _ = functions()
    with pytest.raises(TypeError, match="a Pair of functions cannot be copied"):
        copy.deepcopy(pair)


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
    train(pair, real(6), 5)
    moved = pair.pyro_params.value("here")
    assert not torch.equal(moved, value)
    assert constraint.check(moved).all()


@pytest.mark.parametrize("name", ["type", "value", "constraints", "training", "scale", "a.b", "forward", "_parameters"])
def test_every_name_of_pyro_param(name: str) -> None:
    pair = make_pair(lambda x: pyro.param(name, torch.zeros(6)))
    train(pair, real(6))
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
    train(pair, real(6))
    assert len(calls) == 1


def announce(network: nn.Module, x: Tensor) -> Tensor:
    return pyro.module("network", network)(x).mean().expand(6)


def test_only_what_is_announced_is_trained() -> None:
    both = nn.ModuleDict({"used": nn.Linear(6, 1), "unused": nn.Linear(6, 1)})
    pair = make_pair(lambda x: announce(both["used"], x))
    check(pair, real(6))
    assert not {id(p) for p in both["unused"].parameters()} & {id(p) for p in pair.parameters()}
    assert set(pair.state_dict()) == {"announced.network.weight", "announced.network.bias", "pyro_params.param/loc"}


def test_what_is_hidden_is_trained_and_named_as_an_obstacle() -> None:
    network = nn.Linear(6, 1)
    hidden = SimpleNamespace(network=network)
    pair = make_pair(lambda x: announce(hidden.network, x))
    before = network.weight.detach().clone()
    train(pair, real(6))
    assert not torch.equal(network.weight, before)
    assert "pass it as Pair(model, guide, module)" in str(tracing_obstacle(pair))
    assert set(map(id, network.parameters())) < set(map(id, pair.parameters()))
    passed = make_pair(lambda x: announce(hidden.network, x), network)
    check(passed, real(6))
    assert passed.announced["network"] is network
    assert tracing_obstacle(passed) is None


def test_a_pyro_module_that_announces_longer_names_is_found() -> None:
    inner = PyroModule[nn.Sequential](PyroModule[nn.Linear](6, 6))
    pair = make_pair(lambda x: inner(x).mean(0))
    check(pair, real(6))
    assert set(map(id, inner.parameters())) < set(map(id, pair.parameters()))
    assert tracing_obstacle(pair) is None


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
    train(first, real(6), 10)
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
