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
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import kl_divergence

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
POSTERIORS = {
    "mean field": MeanField,
    "low rank": functools.partial(LowRank, rank=2),
    "matrix": MatrixVariate,
    "full": FullCovariance,
}


def posterior(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A posterior in general position, over a matrix of 3 x 4."""
    torch.manual_seed(seed)
    q = POSTERIORS[name](torch.randn(ROWS, COLUMNS), 0.5).to(dtype)
    with torch.no_grad():
        for key, parameter in q.named_parameters():
            if key != "loc":
                parameter += 0.4 * torch.randn_like(parameter)
    return q


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


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior_is_the_gaussian_that_it_says(name: str) -> None:
    q = posterior(name)()
    reference = torch.distributions.MultivariateNormal(q.mean.flatten(), covariance(q))
    assert (q.batch_shape, q.event_shape) == ((), (ROWS, COLUMNS))
    draws = q.rsample((7,))
    assert draws.shape == (7, ROWS, COLUMNS)
    torch.testing.assert_close(q.log_prob(draws), reference.log_prob(draws.flatten(-2)))
    torch.testing.assert_close(q.variance.flatten(), reference.variance)
    torch.testing.assert_close(q.entropy(), reference.entropy())
    expanded = q.expand([5, 1])
    assert expanded.rsample().shape == (5, 1, ROWS, COLUMNS)
    torch.testing.assert_close(
        expanded.log_prob(draws[:, None, None]), q.log_prob(draws)[:, None, None].expand(7, 5, 1)
    )


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_have_the_covariance(name: str) -> None:
    q = posterior(name)()
    torch.manual_seed(1)
    draws = q.rsample((60_000,)).flatten(-2)
    expected = covariance(q).detach()
    tolerance = 5 * (expected.diagonal()[:, None] * expected.diagonal() * 2 / len(draws)).sqrt()
    assert ((draws.T.cov() - expected).abs() < tolerance).all()


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("learned", [None, "layer", "column"])
def test_kl_to_the_prior_is_in_closed_form(name: str, learned: Any) -> None:
    q = posterior(name)()
    prior = IsotropicNormal((ROWS, COLUMNS), 0.7, learned).double()
    if learned == "column":
        with torch.no_grad():
            prior.log_scale += 0.3 * torch.randn(COLUMNS)
    scale = prior.log_scale.exp().expand(ROWS, COLUMNS).flatten()
    reference = torch.distributions.MultivariateNormal(torch.zeros_like(scale), scale.square().diag())
    exact = kl_divergence(torch.distributions.MultivariateNormal(q.mean.flatten(), covariance(q)), reference)
    torch.testing.assert_close(kl_divergence(q, prior()), exact)


def test_scale_mixture_is_the_mixture() -> None:
    prior = ScaleMixture((2, 3), scales=(1.0, 0.1), probability=0.25).double()
    w = torch.randn(5, 2, 3, dtype=torch.float64)
    normal = torch.distributions.Normal
    each = 0.25 * normal(0.0, 1.0).log_prob(w).exp() + 0.75 * normal(0.0, 0.1).log_prob(w).exp()
    torch.testing.assert_close(prior().log_prob(w), each.log().sum((-1, -2)))
    assert prior().event_shape == (2, 3)


@pytest.mark.parametrize("name", ["mean field", "low rank", "matrix"])
def test_local_noise_has_the_moments_of_random_weights(name: str) -> None:
    """Over many draws: mean and covariance of W x + b for each datum, and none between data."""
    torch.manual_seed(0)
    network = bayesian_(nn.Sequential(nn.Linear(3, 2)), posterior=functools.partial(POSTERIORS[name], scale=0.5))
    layer = dict(bayesian_layers(network))["0"]
    with torch.no_grad():
        for key, parameter in layer.posterior.named_parameters():
            parameter += 0.3 * torch.randn_like(parameter) * (key != "loc")
    x = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, 2.0]])
    q = layer.posterior()
    ones = torch.cat([x, torch.ones(2, 1)], 1).double()
    # W x~ = (I (x) x~') vec(W), the rows of W one after another
    joint = torch.cat([torch.kron(torch.eye(2).double(), row) for row in ones])
    exact = joint @ covariance(q).double() @ joint.T

    outputs = {kind: draws(network, kind, x, 40_000) for kind in ("shared", "local")}
    for kind, y in outputs.items():
        y = y.flatten(1).double()
        mean = (ones @ q.mean.double().T).flatten()
        error = exact.diagonal().sqrt() / math.sqrt(len(y))
        assert ((y.mean(0) - mean).abs() < 5 * error).all(), kind
        expected = exact.clone()
        if kind == "local":
            expected[:2, 2:], expected[2:, :2] = 0.0, 0.0
        tolerance = 6 * (exact.diagonal()[:, None] * exact.diagonal() * 2 / len(y)).sqrt()
        assert ((y.T.cov() - expected).abs() < tolerance).all(), kind


def draws(network: Any, kind: Any, x: Tensor, count: int) -> Tensor:
    """``[count, B, out]``: outputs under q, by one draw of the weights in each run (or the noise of ``kind``)."""
    with pyro.plate("draws", count, dim=-2):
        return single(network, kind, x)


def test_flipout_has_the_moments_of_random_weights() -> None:
    """Of dense layers and of convolutions: each output's mean and variance; less covariance between data."""
    for module, x in (
        (nn.Linear(4, 3), torch.randn(2, 4)),
        (nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 2, 3, 3)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2), torch.randn(2, 2, 2, 2)),
    ):
        torch.manual_seed(3)
        network = bayesian_(nn.Sequential(module), posterior=functools.partial(MeanField, scale=0.3))
        samples: dict[str, list[Tensor]] = {"shared": [], "flipout": []}
        for kind, found in samples.items():
            for _ in range(1000):
                found.append(single(network, kind, x))
        stacked = {kind: torch.stack(found).flatten(2) for kind, found in samples.items()}
        variance = stacked["shared"].var(0)
        error = (variance / 1000).sqrt()
        assert ((stacked["shared"].mean(0) - stacked["flipout"].mean(0)).abs() < 7 * error).all()
        assert ((stacked["flipout"].var(0) / variance).log().abs() < 0.4).all()
        between = {kind: (y - y.mean(0)).prod(1).mean(0).abs().mean() for kind, y in stacked.items()}
        assert between["flipout"] < 0.5 * between["shared"]


def single(network: Any, kind: Any, x: Tensor) -> Tensor:
    with torch.no_grad(), Noise(kind), network._pyro_context:
        sample_posterior(network)
        return network(x)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Linear(4, 3), torch.randn(2, 4)),
        (nn.Linear(4, 3, bias=False), torch.randn(2, 4)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), torch.randn(2, 2, 5, 5)),
        (nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1), torch.randn(2, 2, 3, 3)),
    ],
    ids=["linear", "without bias", "convolution", "transposed"],
)
def test_layer_at_its_mean_is_the_layer_that_it_was(module: nn.Module, x: Tensor) -> None:
    expected = module(x)
    layer: Any = bayesian_(module)
    torch.testing.assert_close(layer.product(layer.posterior.loc, x), expected)


def test_one_draw_for_each_particle() -> None:
    torch.manual_seed(0)
    layer: Any = bayesian_(nn.Linear(3, 2))
    weights, x = torch.randn(5, 1, 2, 4), torch.randn(7, 3)
    each = torch.stack([layer.product(one[0], x) for one in weights])
    torch.testing.assert_close(layer.product(weights, x), each)
    torch.testing.assert_close(layer.product(weights, x.expand(5, 7, 3)), each)
    rows = torch.randn(5, 7, 6, 3)  # of a datum, as a transformer sees them
    each = torch.stack([layer.product(one[0], row) for one, row in zip(weights, rows, strict=True)])
    torch.testing.assert_close(layer.product(weights, rows), each)


@pytest.mark.parametrize("make", [
    lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), lambda: nn.ConvTranspose2d(4, 6, 3, stride=2)
])  # fmt: skip
def test_one_draw_of_a_convolution_for_each_particle(make: Any) -> None:
    torch.manual_seed(0)
    layer: Any = bayesian_(make())
    weights, x = torch.randn(3, 1, *layer.posterior.loc.shape), torch.randn(3, 5, 4, 7, 7)
    each = torch.cat([layer.product(one[0], images) for one, images in zip(weights, x, strict=True)])
    torch.testing.assert_close(layer.product(weights, x.flatten(0, 1)), each, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="do not divide"):
        layer.product(weights, x[0])


def test_weights_of_a_run_are_drawn_once() -> None:
    network = bayesian_(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    trace = poutine.trace(network).get_trace(torch.randn(3, 2))
    assert [name for name, site in trace.nodes.items() if site["type"] == "sample"] == ["0.weights"]
    with network._pyro_context:
        x = torch.randn(3, 2)
        torch.testing.assert_close(network(x), network(x))
    assert not torch.equal(network(x), network(x))


class Regression(PyroModule):
    """y = W x + noise of a known scale; conjugate, where W is Gaussian."""

    def __init__(self, size: int, posterior: Any = FullCovariance, scale: float = 0.5, kind: Any = "shared") -> None:
        super().__init__()
        self.network = bayesian_(nn.Sequential(nn.Linear(size, 1)), posterior=posterior)
        self.scale = scale
        self.kind = kind

    @pair_method
    def model(self, x: Tensor, y: Tensor) -> None:
        with Noise(self.kind):
            sample_prior(self)
            with data_plate(x):
                pyro.sample("x", dist.Normal(self.network(x), self.scale).to_event(1), obs=y)

    @pair_method
    def guide(self, x: Tensor, y: Tensor) -> None:
        sample_posterior(self)


def regression_data(size: int = 3, num_data: int = 20) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    x = torch.randn(num_data, size) @ (torch.eye(size) + 0.5)
    return x, x @ torch.randn(size, 1) + 0.5 * torch.randn(num_data, 1)


def exact_evidence(x: Tensor, y: Tensor, scale: float) -> Tensor:
    features = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    joint = features @ features.T + scale**2 * torch.eye(len(x)).double()
    return torch.distributions.MultivariateNormal(torch.zeros(len(x)).double(), joint).log_prob(y[:, 0].double())


def test_linear_regression_at_the_exact_posterior_is_the_exact_evidence() -> None:
    """Every draw gives log p(X), all of it for the data, 1/N of it for a datum, whatever the batch."""
    x, y = regression_data()
    pair = Regression(3).double()
    x, y = x.double(), y.double()
    features = torch.cat([x, torch.ones(len(x), 1)], 1)
    precision = features.T @ features / 0.25 + torch.eye(4)
    layer = dict(bayesian_layers(pair))["network.0"]
    with torch.no_grad():
        layer.posterior.loc.copy_(torch.linalg.solve(precision, features.T @ y / 0.25).T)
        tril = torch.linalg.cholesky(torch.linalg.inv(precision))
        layer.posterior.factor.copy_(tril.diagonal().log().diag() + 2 * (tril / tril.diagonal()[:, None]).tril(-1))
    exact = exact_evidence(x, y, 0.5)
    for _ in range(3):
        estimator = pv.SGVB_A()
        assert -estimator.loss(pair.model, pair.guide, x, y) == pytest.approx(exact.item(), abs=1e-9)
        assert estimator.bound(pair, x, y).sum().item() == pytest.approx(exact.item(), abs=1e-9)
    torch.manual_seed(0)
    halves = [pv.SGVB_B(20_000, num_data=20).bound(pair, x[rows], y[rows]) for rows in (slice(0, 10), slice(10, 20))]
    assert torch.cat(halves).sum().item() == pytest.approx(exact.item(), abs=0.1)


@pytest.mark.parametrize("kind", ["shared", "flipout"])
def test_held_out_data_do_not_pay_for_the_weights(kind: Any) -> None:
    x, y = regression_data()
    pair = Regression(3, MeanField, kind=kind)
    estimator = pv.SGVB_B(num_data=math.inf)
    torch.manual_seed(1)
    bound = estimator.bound(pair, x, y)
    torch.manual_seed(1)
    terms = estimator.terms(pair, x, y)
    torch.testing.assert_close(bound, terms["x"].log_p)


def test_linear_regression_reaches_the_exact_evidence_by_training() -> None:
    x, y = regression_data()
    torch.manual_seed(0)
    pair = Regression(3, kind="shared")
    pv.fit(
        pair, torch.utils.data.TensorDataset(x, y), estimator=pv.SGVB_A(16, sticking_the_landing=True), epochs=1500,
        batch_size=20, optimizer=functools.partial(torch.optim.Adam, lr=0.03), scheduler=pv.Cosine(), compile="traced",
        progress=False,
    )  # fmt: skip
    exact = exact_evidence(x, y, 0.5).item()
    bound = pv.SGVB_A(2000, num_data=20).bound(pair, x, y).sum().item()
    assert exact - 0.02 < bound < exact + 0.01


@pytest.mark.parametrize("kind", ["shared", "local", "flipout"])
def test_gradient_is_that_of_the_exact_bound(kind: Any) -> None:
    """For a linear model E_q of the log-likelihood is a function of loc and scale: its gradient, and N / M scaling."""
    x, y = regression_data(num_data=8)
    pair = Regression(3, functools.partial(MeanField, scale=0.4), kind=kind)
    layer = dict(bayesian_layers(pair))["network.0"]
    loc, log_scale = layer.posterior.loc, layer.posterior.log_scale
    features = torch.cat([x, torch.ones(8, 1)], 1)
    residual = (y - features @ loc.T).square() + features.square() @ (2 * log_scale).exp().T
    exact = -residual.sum() / (2 * 0.25) / 8 - kl_divergence(layer.posterior(), layer.prior()) / 100
    expected = torch.autograd.grad(-exact, [loc, log_scale])
    estimator = pv.SGVB_B(num_data=100)
    torch.manual_seed(2)
    found = []
    for _ in range(1000):
        loss = estimator.objective(pair.model, pair.guide, x, y).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [loc, log_scale])]))
    gradients = torch.stack(found)
    error = gradients.std(0) / math.sqrt(len(found))
    assert (gradients.mean(0) - torch.cat([g.flatten() for g in expected])).abs().le(5 * error + 1e-7).all()
    assert (expected[0].abs() > 0.1).any()
    assert (expected[1].abs() > 0.01).any()


def test_local_noise_lowers_the_variance_of_the_gradient() -> None:
    x, y = regression_data(num_data=200)
    variances = {}
    for kind in ("shared", "local", "flipout"):
        torch.manual_seed(0)
        pair = Regression(3, functools.partial(MeanField, scale=0.4), kind=kind)
        loc = dict(bayesian_layers(pair))["network.0"].posterior.loc
        estimator = pv.SGVB_B(num_data=200)
        gradients = torch.stack(
            [torch.autograd.grad(estimator.objective(pair.model, pair.guide, x, y).loss, loc)[0] for _ in range(200)]
        )
        variances[kind] = gradients.var(0).sum().item()
    assert variances["local"] < 0.1 * variances["shared"]
    assert variances["flipout"] < 0.3 * variances["shared"]


def test_pyro_s_own_tools_take_a_random_network() -> None:
    torch.manual_seed(0)
    x, y = regression_data(num_data=10)
    network = bayesian_(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        loc = network(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(loc, 0.5).to_event(1), obs=y)

    with pyro.get_param_store().scope():
        guide = AutoNormal(poutine.block(model, hide_fn=lambda site: site["type"] != "sample"))
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(x, y) for _ in range(200)]
        assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
        assert Predictive(model, guide=guide, num_samples=4)(x)["y"].shape == (4, 10, 1)
        mcmc = MCMC(NUTS(model), num_samples=5, warmup_steps=5, disable_progbar=True)
        mcmc.run(x, y)
        assert set(mcmc.get_samples()) == {"0.weights", "2.weights"}


def test_layers_take_the_type_of_the_network() -> None:
    """The prior too: its draws meet the network's own inputs."""
    network: Any = bayesian_(nn.Sequential(nn.Linear(2, 3)).double(), prior=ScaleMixture)
    assert network(torch.ones(4, 2, dtype=torch.float64)).dtype == torch.float64
    assert {parameter.dtype for parameter in network.state_dict().values()} == {torch.float64}


def test_random_networks_can_be_pickled_and_copied() -> None:
    network: Any = bayesian_(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Conv2d(1, 2, 1)))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for name, layer in bayesian_layers(other):
            mean = dict(bayesian_layers(network))[name].posterior.loc
            torch.testing.assert_close(layer.posterior.loc, mean)
            with torch.no_grad():
                layer.posterior.loc.fill_(7.0)
            assert not (mean == 7.0).any()
        with other._pyro_context:
            drawn = sample_posterior(other)["0"]
            torch.testing.assert_close(other[0](torch.ones(1, 2)), drawn.sum(1)[None])


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
    with pytest.raises(ValueError, match=f"{statement.__name__}: the weights of 0 .*pair_method"):
        statement(network)
    network(torch.ones(1, 2))
    with pytest.raises(ValueError, match=f"{statement.__name__}: the weights of 0 .*pair_method"):
        statement(network)
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

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


@pytest.mark.parametrize(
    ("module", "networks", "message"),
    [
        (nn.Sequential(nn.Linear(2, 3), Scaled()), ("",), "the layer 1 is a Scaled"),
        (nn.Sequential(nn.Linear(2, 3), nn.PReLU()), ("",), "the layer 1 is a PReLU"),
        (pv.MLP(2, 3, hidden=(4,), normalization="weight"), ("",), r"the layer layers\.0 is a parametrized"),
        (nn.Sequential(nn.Linear(2, 3)), ("decoder",), "no network 'decoder'.* 0"),
        (nn.Sequential(nn.Tanh()), ("",), "no layer with weights"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), ("",), "pads with zeros"),
        (shared_layer(), ("",), "the layer 0 shares its weight with 2"),
        (shared_layer(), ("0",), "the layer 0 shares its weight with 2"),
        (tied_weights(), ("",), "the layer 0 shares its weight with 2"),
        (normalized(), ("",), "the layer 0 is a parametrized Linear"),
    ],
)
def test_what_cannot_be_made_random_is_named(module: nn.Module, networks: Any, message: str) -> None:
    before = repr(module)
    with pytest.raises(ValueError, match=message):
        bayesian_(module, networks)
    assert repr(module) == before


def test_layers_keep_their_order() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 1))
    names, x = [name for name, _ in network.named_modules()], torch.randn(4, 2)
    expected = network(x)
    bayesian_(network, posterior=functools.partial(MeanField, scale=1e-8))
    assert [name for name, _ in network.named_modules() if not name.endswith(("prior", "posterior"))] == names
    with network._pyro_context:
        sample_posterior(network)
        torch.testing.assert_close(network(x), expected)


def test_random_twice() -> None:
    network = bayesian_(nn.Sequential(nn.Linear(2, 3)))
    with pytest.raises(ValueError, match="already"):
        bayesian_(network)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IsotropicNormal((2, 3), 0.0), "positive"),
        (lambda: IsotropicNormal((2, 3), "fan_out"), "fan_in"),
        (lambda: IsotropicNormal((2, 3), 1.0, "row"), "'layer', 'column' or None"),
        (lambda: ScaleMixture((2, 3), (1.0,)), "two positive scales"),
        (lambda: ScaleMixture((2, 3), probability=1.0), "in \\(0, 1\\)"),
        (lambda: MeanField(torch.zeros(2, 3), -1.0), "positive"),
        (lambda: LowRank(torch.zeros(2, 3), rank=0), "at least 1"),
        (lambda: Noise("global"), "'shared', 'local', 'flipout'"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_noise_that_would_change_the_distribution_is_refused() -> None:
    network = bayesian_(nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(ValueError, match="many places of an image"):
        single(network, "local", torch.randn(2, 1, 5, 5))
    network = bayesian_(nn.Sequential(nn.Linear(2, 3)), posterior=MatrixVariate)
    with pytest.raises(ValueError, match="flipout changes the signs"):
        single(network, "flipout", torch.randn(2, 2))
    network = bayesian_(nn.Sequential(nn.Linear(2, 3)), posterior=FullCovariance)
    with pytest.raises(ValueError, match="not known"):
        single(network, "local", torch.randn(2, 2))


def test_layers_are_described() -> None:
    network = bayesian_(nn.Sequential(nn.Linear(2, 3)))
    assert "Linear(in_features=2, out_features=3, bias=True)" in repr(network)
    assert isinstance(network[0], BayesianLinear)
