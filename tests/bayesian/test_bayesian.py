"""Random weights: distributions over matrices, posteriors, priors, the noise of products, and layers."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import seeded
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from registry import WEIGHT_POSTERIORS
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_vae as pv
from pyro_vae.bayesian import (
    BayesianLinear,
    FullCovariance,
    IsotropicNormal,
    LowRank,
    MatrixVariate,
    MeanField,
    Noise,
    ScaleMixture,
    bayesian_,
    bayesian_layers,
    sample_posterior,
    sample_prior,
)
from pyro_vae.distributions import MatrixNormal, Rows
from pyro_vae.pair import data_plate, pair_method

ROWS, COLUMNS = 3, 4
posteriors = pytest.mark.parametrize("name", WEIGHT_POSTERIORS)
kinds = pytest.mark.parametrize("kind", ["shared", "local", "flipout"])


def shaken(q: Any, scale: float = 0.4) -> Any:
    """A posterior in general position."""
    with torch.no_grad():
        for key, parameter in q.named_parameters():
            if key != "loc":
                parameter += scale * torch.randn_like(parameter)
    return q


def posterior(name: str) -> Any:
    """Over a matrix of 3 x 4."""
    torch.manual_seed(0)
    return shaken(WEIGHT_POSTERIORS[name](torch.randn(ROWS, COLUMNS), scale=0.5).double())()


def covariance(q: Any) -> Tensor:
    """Of vec(W), row by row, from the definition of each family."""
    if isinstance(q, MatrixNormal):
        return torch.kron(q.row_tril @ q.row_tril.T, q.column_tril @ q.column_tril.T)
    if isinstance(q, Rows):
        base: Any = q.base
        if hasattr(base, "factor"):
            size = len(base.scale)
            return base.scale[:, None] * (torch.eye(size).to(base.scale) + base.factor @ base.factor.T) * base.scale
        return base.covariance_matrix
    return q.variance.flatten().diag()


def layer_of(module: nn.Module) -> Any:
    return next(layer for _, layer in bayesian_layers(module))


# Distributions over weights


@posteriors
def test_posterior_is_the_gaussian_that_it_says(name: str) -> None:
    """Density, moments, draws, shapes, and the KL to each prior."""
    q = posterior(name)
    reference = MultivariateNormal(q.mean.flatten(), covariance(q))
    assert (q.batch_shape, q.event_shape) == ((), (ROWS, COLUMNS))
    draws = q.rsample((7,))
    assert draws.shape == (7, ROWS, COLUMNS)
    torch.testing.assert_close(q.log_prob(draws), reference.log_prob(draws.flatten(-2)))
    torch.testing.assert_close(q.variance.flatten(), reference.variance)
    torch.testing.assert_close(q.entropy(), reference.entropy())
    expanded = q.expand([5, 1])
    assert expanded.rsample().shape == (5, 1, ROWS, COLUMNS)
    scored = expanded.log_prob(draws[:, None, None])
    torch.testing.assert_close(scored, q.log_prob(draws)[:, None, None].expand(7, 5, 1))
    many = seeded(1, q.rsample, (60_000,)).flatten(-2)
    expected = covariance(q).detach()
    tolerance = 5 * (expected.diagonal()[:, None] * expected.diagonal() * 2 / len(many)).sqrt()
    assert ((many.T.cov() - expected).abs() < tolerance).all()
    for learned in (None, "layer", "column"):
        prior: Any = IsotropicNormal((ROWS, COLUMNS), 0.7, learned).double()
        if learned == "column":
            with torch.no_grad():
                prior.log_scale += 0.3 * torch.randn(COLUMNS)
        scale = prior.log_scale.exp().expand(ROWS, COLUMNS).flatten()
        exact = kl_divergence(reference, MultivariateNormal(torch.zeros_like(scale), scale.square().diag()))
        torch.testing.assert_close(kl_divergence(q, prior()), exact)


def test_scale_mixture_is_the_mixture() -> None:
    prior = ScaleMixture((2, 3), scales=(1.0, 0.1), probability=0.25).double()
    w = torch.randn(5, 2, 3, dtype=torch.float64)
    normal = torch.distributions.Normal
    each = 0.25 * normal(0.0, 1.0).log_prob(w).exp() + 0.75 * normal(0.0, 0.1).log_prob(w).exp()
    torch.testing.assert_close(prior().log_prob(w), each.log().sum((-1, -2)))
    assert prior().event_shape == (2, 3)


# The noise of a product


def single(network: Any, kind: Any, x: Tensor) -> Tensor:
    with torch.no_grad(), Noise(kind), network._pyro_context:
        sample_posterior(network)
        return network(x)


def draws(network: Any, kind: Any, x: Tensor, count: int) -> Tensor:
    """``[count, B, out]``: outputs under q, by one draw of the weights in each run (or the noise of ``kind``)."""
    with pyro.plate("draws", count, dim=-2):
        return single(network, kind, x)


@pytest.mark.parametrize("name", ["MeanField", "LowRank", "MatrixVariate"])
def test_local_noise_has_the_moments_of_random_weights(name: str) -> None:
    """Over many draws: mean and covariance of W x + b for each datum, and none between data."""
    torch.manual_seed(0)
    network = bayesian_(nn.Sequential(nn.Linear(3, 2)), posterior=functools.partial(WEIGHT_POSTERIORS[name], scale=0.5))
    q = shaken(layer_of(network).posterior, 0.3)()
    x = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, 2.0]])
    ones = torch.cat([x, torch.ones(2, 1)], 1).double()
    # W x~ = (I (x) x~') vec(W), the rows of W one after another
    joint = torch.cat([torch.kron(torch.eye(2).double(), row) for row in ones])
    exact = joint @ covariance(q).double() @ joint.T
    for kind in ("shared", "local"):
        y = draws(network, kind, x, 40_000).flatten(1).double()
        mean = (ones @ q.mean.double().T).flatten()
        assert ((y.mean(0) - mean).abs() < 5 * exact.diagonal().sqrt() / math.sqrt(len(y))).all(), kind
        expected = exact.clone()
        if kind == "local":
            expected[:2, 2:], expected[2:, :2] = 0.0, 0.0
        tolerance = 6 * (exact.diagonal()[:, None] * exact.diagonal() * 2 / len(y)).sqrt()
        assert ((y.T.cov() - expected).abs() < tolerance).all(), kind


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: nn.Linear(4, 3), (2, 4)),
        (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 2, 3, 3)),
        (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 2, 2, 2)),
    ],
    ids=["linear", "convolution", "transposed"],
)
def test_flipout_has_the_moments_of_random_weights(module: Any, shape: tuple[int, ...]) -> None:
    """Each output's mean and variance; less covariance between data."""
    torch.manual_seed(3)
    network, x = (
        bayesian_(nn.Sequential(module()), posterior=functools.partial(MeanField, scale=0.3)),
        torch.randn(shape),
    )
    shared, flipout = (
        torch.stack([single(network, kind, x) for _ in range(1000)]).flatten(2) for kind in ("shared", "flipout")
    )
    variance = shared.var(0)
    assert ((shared.mean(0) - flipout.mean(0)).abs() < 7 * (variance / 1000).sqrt()).all()
    assert ((flipout.var(0) / variance).log().abs() < 0.4).all()
    between = [(y - y.mean(0)).prod(1).mean(0).abs().mean() for y in (shared, flipout)]
    assert between[1] < 0.5 * between[0]


def test_noise_that_would_change_the_distribution_is_refused() -> None:
    for module, posterior, kind, shape, message in (
        (nn.Conv2d(1, 2, 3), MeanField, "local", (2, 1, 5, 5), "many places of an image"),
        (nn.Linear(2, 3), MatrixVariate, "flipout", (2, 2), "flipout changes the signs"),
        (nn.Linear(2, 3), FullCovariance, "local", (2, 2), "not known"),
    ):
        with pytest.raises(ValueError, match=message):
            single(bayesian_(nn.Sequential(module), posterior=posterior), kind, torch.randn(shape))


# Layers


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (lambda: nn.Linear(4, 3), (2, 4)),
        (lambda: nn.Linear(4, 3, bias=False), (2, 4)),
        (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 5, 5)),
        (lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1), (2, 2, 3, 3)),
    ],
    ids=["linear", "without bias", "convolution", "transposed"],
)
def test_layer_at_its_mean_is_the_layer_that_it_was(module: Any, shape: tuple[int, ...]) -> None:
    layer, x = module(), torch.randn(shape)
    expected = layer(x)
    random: Any = bayesian_(layer)
    torch.testing.assert_close(random.product(random.posterior.loc, x), expected)


def test_one_draw_for_each_particle() -> None:
    layer: Any = bayesian_(nn.Linear(3, 2))
    weights, x = torch.randn(5, 1, 2, 4), torch.randn(7, 3)
    each = torch.stack([layer.product(one[0], x) for one in weights])
    torch.testing.assert_close(layer.product(weights, x), each)
    torch.testing.assert_close(layer.product(weights, x.expand(5, 7, 3)), each)
    rows = torch.randn(5, 7, 6, 3)  # of a datum, as a transformer sees them
    each = torch.stack([layer.product(one[0], row) for one, row in zip(weights, rows, strict=True)])
    torch.testing.assert_close(layer.product(weights, rows), each)
    for module in (nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 3, stride=2)):
        layer = bayesian_(module)
        weights, x = torch.randn(3, 1, *layer.posterior.loc.shape), torch.randn(3, 5, 4, 7, 7)
        each = torch.cat([layer.product(one[0], images) for one, images in zip(weights, x, strict=True)])
        torch.testing.assert_close(layer.product(weights, x.flatten(0, 1)), each, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="do not divide"):
            layer.product(weights, x[0])


def test_weights_of_a_run_are_drawn_once() -> None:
    network = bayesian_(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    x = torch.randn(3, 2)
    trace = poutine.trace(network).get_trace(x)
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["0.weights"]
    with network._pyro_context:
        torch.testing.assert_close(network(x), network(x))
    assert not torch.equal(network(x), network(x))


def test_layers_take_the_type_of_the_network() -> None:
    """The prior too: its draws meet the network's own inputs."""
    network: Any = bayesian_(nn.Sequential(nn.Linear(2, 3)).double(), prior=ScaleMixture)
    assert network(torch.ones(4, 2, dtype=torch.float64)).dtype == torch.float64
    assert {parameter.dtype for parameter in network.state_dict().values()} == {torch.float64}


def test_layers_keep_their_order_and_are_described() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 1))
    names, x = [name for name, _ in network.named_modules()], torch.randn(4, 2)
    expected = network(x)
    bayesian_(network, posterior=functools.partial(MeanField, scale=1e-8))
    assert [name for name, _ in network.named_modules() if not name.endswith(("prior", "posterior"))] == names
    with network._pyro_context:
        sample_posterior(network)
        torch.testing.assert_close(network(x), expected)
    assert "Linear(in_features=2, out_features=3, bias=True)" in repr(network)
    assert isinstance(network[0], BayesianLinear)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_random_networks_can_be_pickled_and_copied(again: Any) -> None:
    network: Any = bayesian_(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Conv2d(1, 2, 1)))
    other = again(network)
    for (_, layer), (_, first) in zip(bayesian_layers(other), bayesian_layers(network), strict=True):
        torch.testing.assert_close(layer.posterior.loc, first.posterior.loc)
        with torch.no_grad():
            layer.posterior.loc.fill_(7.0)
        assert not (first.posterior.loc == 7.0).any()
    with other._pyro_context:
        drawn = sample_posterior(other)["0"]
        torch.testing.assert_close(other[0](torch.ones(1, 2)), drawn.sum(1)[None])


# Linear regression, in which all is known


class Regression(PyroModule):
    """y = W x + noise of scale 0.5; conjugate, where W is Gaussian."""

    def __init__(self, posterior: Any = FullCovariance, kind: Any = "shared") -> None:
        super().__init__()
        self.network = bayesian_(nn.Sequential(nn.Linear(3, 1)), posterior=posterior)
        self.kind = kind

    @pair_method
    def model(self, x: Tensor, y: Tensor) -> None:
        with Noise(self.kind):
            sample_prior(self)
            with data_plate(x):
                pyro.sample("x", dist.Normal(self.network(x), 0.5).to_event(1), obs=y)

    @pair_method
    def guide(self, x: Tensor, y: Tensor) -> None:
        sample_posterior(self)


def regression_data(num_data: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, outputs, and the inputs with a one for the bias."""
    torch.manual_seed(5)
    x = torch.randn(num_data, 3) @ (torch.eye(3) + 0.5)
    return x, x @ torch.randn(3, 1) + 0.5 * torch.randn(num_data, 1), torch.cat([x, torch.ones(num_data, 1)], 1)


def exact_evidence(features: Tensor, y: Tensor) -> float:
    features = features.double()
    joint = features @ features.T + 0.25 * torch.eye(len(features)).double()
    return MultivariateNormal(torch.zeros(len(features)).double(), joint).log_prob(y[:, 0].double()).item()


def test_linear_regression_at_the_exact_posterior_is_the_exact_evidence() -> None:
    """Every draw gives log p(X), all of it for the data, 1/N of it for a datum, whatever the batch."""
    x, y, features = (value.double() for value in regression_data())
    pair = Regression().double()
    precision = features.T @ features / 0.25 + torch.eye(4)
    q = layer_of(pair).posterior
    with torch.no_grad():
        q.loc.copy_(torch.linalg.solve(precision, features.T @ y / 0.25).T)
        tril = torch.linalg.cholesky(torch.linalg.inv(precision))
        q.factor.copy_(tril.diagonal().log().diag() + 2 * (tril / tril.diagonal()[:, None]).tril(-1))
    exact = exact_evidence(features, y)
    for _ in range(3):
        estimator = pv.SGVB_A()
        assert -estimator.loss(pair.model, pair.guide, x, y) == pytest.approx(exact, abs=1e-9)
        assert estimator.bound(pair, x, y).sum().item() == pytest.approx(exact, abs=1e-9)
    torch.manual_seed(0)
    halves = [pv.SGVB_B(20_000, num_data=20).bound(pair, x[rows], y[rows]) for rows in (slice(0, 10), slice(10, 20))]
    assert torch.cat(halves).sum().item() == pytest.approx(exact, abs=0.1)


@pytest.mark.slow
def test_linear_regression_reaches_the_exact_evidence_by_training() -> None:
    x, y, features = regression_data()
    torch.manual_seed(0)
    pair = Regression()
    pv.fit(
        pair, torch.utils.data.TensorDataset(x, y), estimator=pv.SGVB_A(16, sticking_the_landing=True), epochs=1500,
        batch_size=20, optimizer=functools.partial(torch.optim.Adam, lr=0.03), scheduler=pv.Cosine(), compile="traced",
        progress=False,
    )  # fmt: skip
    exact = exact_evidence(features, y)
    bound = pv.SGVB_A(2000, num_data=20).bound(pair, x, y).sum().item()
    assert exact - 0.02 < bound < exact + 0.01


@kinds
def test_gradient_is_that_of_the_exact_bound(kind: Any) -> None:
    """For a linear model E_q of the log-likelihood is a function of loc and scale: its gradient, and N / M scaling."""
    x, y, features = regression_data(num_data=8)
    pair = Regression(functools.partial(MeanField, scale=0.4), kind)
    layer = layer_of(pair)
    loc, log_scale = layer.posterior.loc, layer.posterior.log_scale
    residual = (y - features @ loc.T).square() + features.square() @ (2 * log_scale).exp().T
    exact = -residual.sum() / (2 * 0.25) / 8 - kl_divergence(layer.posterior(), layer.prior()) / 100
    expected = torch.autograd.grad(-exact, [loc, log_scale])
    estimator = pv.SGVB_B(10, num_data=100)
    torch.manual_seed(2)
    found = []
    for _ in range(100):
        loss = estimator.objective(pair.model, pair.guide, x, y).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [loc, log_scale])]))
    gradients = torch.stack(found)
    error = gradients.std(0) / math.sqrt(len(found))
    assert (gradients.mean(0) - torch.cat([g.flatten() for g in expected])).abs().le(5 * error + 1e-7).all()
    assert (expected[0].abs() > 0.1).any()
    assert (expected[1].abs() > 0.01).any()


def test_local_noise_lowers_the_variance_of_the_gradient() -> None:
    x, y, _ = regression_data(num_data=200)
    variances = {}
    for kind in ("shared", "local", "flipout"):
        torch.manual_seed(0)
        pair, estimator = Regression(functools.partial(MeanField, scale=0.4), kind), pv.SGVB_B(num_data=200)
        loc = layer_of(pair).posterior.loc
        losses = (estimator.objective(pair.model, pair.guide, x, y).loss for _ in range(100))
        variances[kind] = torch.stack([torch.autograd.grad(loss, loc)[0] for loss in losses]).var(0).sum().item()
    assert variances["local"] < 0.1 * variances["shared"]
    assert variances["flipout"] < 0.3 * variances["shared"]


@pytest.mark.parametrize("kind", ["shared", "flipout"])
def test_held_out_data_do_not_pay_for_the_weights(kind: Any) -> None:
    x, y, _ = regression_data()
    pair, estimator = Regression(MeanField, kind), pv.SGVB_B(num_data=math.inf)
    bound, terms = (seeded(1, call, pair, x, y) for call in (estimator.bound, estimator.terms))
    torch.testing.assert_close(bound, terms["x"].log_p)


def test_pyros_own_tools_take_a_random_network() -> None:
    x, y, _ = regression_data(num_data=10)
    torch.manual_seed(0)
    network = bayesian_(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        loc = network(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)

    with pyro.get_param_store().scope():
        guide = AutoNormal(poutine.block(model, hide_fn=lambda site: site["type"] != "sample"))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
        losses = [svi.step(x, y) for _ in range(100)]
        assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
        assert Predictive(model, guide=guide, num_samples=4)(x)["y"].shape == (4, 10, 1)
        mcmc = MCMC(NUTS(model, max_tree_depth=4), num_samples=3, warmup_steps=3, disable_progbar=True)
        mcmc.run(x, y)
        assert set(mcmc.get_samples()) == {"0.weights", "2.weights"}


# What is refused


class Inside(PyroModule):
    """A pair with its network where Pyro does not look: in a module that is no PyroModule."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.ModuleDict({"network": bayesian_(nn.Sequential(nn.Linear(2, 3)))})

    @pair_method
    def model(self, statement: Any) -> None:
        statement(self)


@pytest.mark.parametrize("statement", [sample_prior, sample_posterior])
def test_weights_that_would_be_drawn_anew_at_each_use_are_refused(statement: Any) -> None:
    network: Any = bayesian_(nn.Sequential(nn.Linear(2, 3)))
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{statement.__name__}: the weights of 0 .*pair_method"):
            statement(network)
        network(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"the weights of part.network.0 .*bayesian_\(pair"):
        Inside().model(statement)
    with pytest.raises(ValueError, match=f"{statement.__name__}: no layer of this Sequential.*bayesian_"):
        statement(nn.Sequential(nn.Linear(2, 3)))


def shared_layer() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied_weights() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    return network


def normalized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3)))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("make", "networks", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 3), Scaled()), "", "the layer 1 is a Scaled"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.PReLU()), "", "the layer 1 is a PReLU"),
        (lambda: pv.MLP(2, 3, (4,), normalization="weight"), "", r"the layer layers\.0 is a parametrized"),
        (lambda: nn.Sequential(nn.Linear(2, 3)), "decoder", "no network 'decoder'.* 0"),
        (lambda: nn.Sequential(nn.Tanh()), "", "no layer with weights"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "", "pads with zeros"),
        (shared_layer, "", "the layer 0 shares its weight with 2"),
        (shared_layer, "0", "the layer 0 shares its weight with 2"),
        (tied_weights, "", "the layer 0 shares its weight with 2"),
        (normalized, "", "the layer 0 is a parametrized Linear"),
        (lambda: bayesian_(nn.Sequential(nn.Linear(2, 3))), "", "already"),
    ],
)
def test_what_cannot_be_made_random_is_named(make: Any, networks: str, message: str) -> None:
    module = make()
    before = repr(module)
    with pytest.raises(ValueError, match=message):
        bayesian_(module, (networks,))
    assert repr(module) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IsotropicNormal((2, 3), 0.0), "scale has to be a finite number above 0"),
        (lambda: IsotropicNormal((2, 3), "fan_out"), "fan_in"),
        (lambda: IsotropicNormal((2, 3), 1.0, "row"), "learned is one of 'layer', 'column', None"),
        (lambda: ScaleMixture((2, 3), (1.0,)), "two positive scales"),
        (lambda: ScaleMixture((2, 3), probability=1.0), "probability has to be a finite number above 0 and below 1"),
        (lambda: MeanField(torch.zeros(2, 3), -1.0), "scale has to be a finite number above 0"),
        (lambda: LowRank(torch.zeros(2, 3), rank=0), "at least 1"),
        (lambda: Noise("global"), "'shared', 'local', 'flipout'"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
