"""diagnostics: what a pair does with data, on toys whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, linear_gaussian, made, plain_object, two_arguments
from programs import program, standard
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyro_vae import SGVB_A, SGVB_B, VAE, Bernoulli, DiagonalNormal, Pair, StandardNormal, diagnostics
from pyro_vae.diagnostics import (
    active_units,
    decode,
    encode,
    interpolate,
    prior_quantiles,
    rate_distortion,
    reconstruct,
    reconstruction_mse,
    resample,
    sample,
    support,
)
from pyro_vae.distributions import SphereUniform
from pyro_vae.pair import as_pair, modules_of

Factory = Callable[[], tuple[Any, tuple[Any, ...]]]


class Fixed(nn.Module):
    """x: [*, 3] -> [*, 2, 2]: loc = (x_0, 0.05 x_1), log variance = 2 log 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        loc = torch.stack([x[..., 0], 0.05 * x[..., 1]], -1)
        return torch.stack([loc, torch.full_like(loc, 2 * math.log(0.5))], -2)


class Logits(nn.Module):
    """z: [*, 2] -> [*, 3]."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([z[..., 0], z[..., 1], z[..., 0] - z[..., 1]], -1)


def vae() -> VAE:
    """z ~ N(0, I), x | z ~ Bernoulli(sigmoid(z_0, z_1, z_0 - z_1)), q = N((x_0, 0.05 x_1), 0.5)."""
    return VAE(StandardNormal(2), DiagonalNormal(Fixed(), event_dim=1), Bernoulli(Logits()))


def functions() -> Pair:
    """The same as two functions."""
    model = program(z=standard(2), x=lambda x, z: dist.Bernoulli(logits=Logits()(z)).to_event(1))
    return Pair(model, program(z=lambda x: dist.Normal(Fixed()(x)[..., 0, :], 0.5).to_event(1)))


class Unfinished:
    """The same as an object that is no module."""

    def __init__(self) -> None:
        pair = functions()
        self.model, self.guide = pair._programs


X = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
LOC = torch.stack([X[:, 0], 0.05 * X[:, 1]], -1)

kinds = pytest.mark.parametrize("make", [vae, functions, Unfinished])


@kinds
def test_encode_decode_reconstruct(make: Callable[[], Any]) -> None:
    pair = make()
    codes = encode(pair, X)
    assert list(codes) == ["z"]
    torch.testing.assert_close(codes["z"], LOC)
    means = torch.sigmoid(Logits()(LOC))
    torch.testing.assert_close(reconstruct(pair, X), means)
    torch.testing.assert_close(decode(pair, LOC, X), means)
    torch.testing.assert_close(decode(pair, {"z": LOC}, X), means)
    z = torch.randn(7, 2)
    torch.testing.assert_close(decode(pair, z, X[:1]), torch.sigmoid(Logits()(z)))  # one datum tells the shapes
    torch.testing.assert_close(decode(pair, z[:2], X), torch.sigmoid(Logits()(z[:2])))


@kinds
def test_sample(make: Callable[[], Any]) -> None:
    pair = make()
    torch.manual_seed(0)
    means = sample(pair, 20_000, X[:1])
    assert means.shape == (20_000, 3)
    assert ((means > 0) & (means < 1)).all()
    logits = torch.logit(means)
    torch.testing.assert_close(logits.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(logits.std(0), torch.tensor([1.0, 1.0, 2**0.5]), atol=0.05, rtol=0)
    torch.testing.assert_close(logits[:, 2], logits[:, 0] - logits[:, 1], atol=1e-4, rtol=1e-4)


@kinds
def test_reconstruction_mse(make: Callable[[], Any]) -> None:
    expected = (torch.sigmoid(Logits()(LOC)) - X).square().sum(-1).mean().item()
    assert reconstruction_mse(make(), [(X[:3],), (X[3:],)]) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no data: the batches are empty"):
        reconstruction_mse(make(), [])


@kinds
def test_rate_and_distortion(make: Callable[[], Any]) -> None:
    pair = make()
    torch.manual_seed(0)
    result = rate_distortion(pair, [(X,)] * 500)
    rate = (0.5 * (LOC.square() + 0.25 - 1).sum(-1) - 2 * math.log(0.5)).mean().item()
    assert result.rate == pytest.approx(rate, rel=1e-5)  # the KL in closed form
    assert result.rates == {"z": pytest.approx(rate, rel=1e-5)}
    z = LOC + 0.5 * torch.randn(20_000, 4, 2)
    distortion = -dist.Bernoulli(logits=Logits()(z)).log_prob(X).sum(-1).mean().item()
    assert result.distortion == pytest.approx(distortion, abs=0.05)
    for loader in (DataLoader(X, batch_size=4), DataLoader([{"x": x} for x in X], batch_size=4)):  # as fit takes them
        assert rate_distortion(pair, loader).rate == pytest.approx(rate, rel=1e-5)
    with pytest.raises(ValueError, match="no data"):
        rate_distortion(pair, [])


@pytest.mark.parametrize("factory", PAIRS)
@pytest.mark.parametrize("estimator", [SGVB_A(2), SGVB_B(), SGVB_B(3, beta=0.2)], ids=repr)
def test_rate_and_distortion_add_up_to_the_bound(estimator: Any, factory: Factory) -> None:
    torch.manual_seed(0)
    pair, batch = factory()
    module = as_pair(pair).eval()
    torch.manual_seed(1)
    result = rate_distortion(pair, [batch], estimator)
    torch.manual_seed(1)
    bound = type(estimator)(estimator.num_particles).mean_bound(module, [batch])
    assert -(result.rate + result.distortion) == pytest.approx(bound, rel=1e-5)
    assert sum(result.rates.values()) == pytest.approx(result.rate)
    latents = {"hierarchy": {"z1", "z2"}, "plain_object": {"z", "bias"}}
    assert result.rates.keys() == latents.get(factory.__name__, {"z"})
    if isinstance(estimator, SGVB_B):
        assert min(result.rates.values()) >= 0


def test_batches_weigh_by_their_size() -> None:
    pair, x, exact = linear_gaussian()
    whole = rate_distortion(pair, [(x,)], SGVB_A())
    parts = rate_distortion(pair, [(x[:4],), (x[4:],)], SGVB_A())
    for result in (whole, parts):
        assert -(result.rate + result.distortion) == pytest.approx(exact.mean().item())


@kinds
def test_active_units(make: Callable[[], Any]) -> None:
    result = active_units(make(), [(X[:1],), (X[1:],)])
    torch.testing.assert_close(result.codes, LOC)
    torch.testing.assert_close(result.variances, torch.tensor([0.25, 0.25 * 0.0025], dtype=torch.float64))
    assert result.count == 1
    assert result.threshold == 0.01
    assert active_units(make(), [(X,)], threshold=1e-5).count == 2
    assert active_units(make(), [(X,)], threshold=0.3).count == 0
    with pytest.raises(ValueError, match="the guide has no latent 'w'; it has z"):
        active_units(make(), [(X,)], site="w")
    with pytest.raises(ValueError, match="no data: the batches are empty"):
        active_units(make(), [])


def test_a_posterior_that_ignores_the_data_has_no_active_unit() -> None:
    guide = program(z=lambda x: dist.Normal(torch.ones(2), 1.0).to_event(1))
    assert active_units(Pair(functions()._programs[0], guide), [(X,)] * 3).count == 0


def test_hierarchy_at_its_means() -> None:
    """q(z2 | x), q(z1 | z2, x): the second is conditioned on the mean of the first."""

    model = program(
        z2=standard(), z1=lambda x, z2: dist.Normal(z2, 1.0), x=lambda x, z2, z1: dist.Normal(10 * z1 + z2, 1.0)
    )
    guide = program(z2=lambda x: dist.Normal(2 * x, 1.0), z1=lambda x, z2: dist.LogNormal(3 * z2, 0.1))
    pair, x = Pair(model, guide), torch.tensor([0.5, -0.2])
    codes = encode(pair, x)
    torch.testing.assert_close(codes["z2"], 2 * x)
    torch.testing.assert_close(codes["z1"], (6 * x + 0.005).exp())
    torch.testing.assert_close(reconstruct(pair, x), 10 * (6 * x + 0.005).exp() + 2 * x)
    assert active_units(pair, [(x,)], site="z2").count == 1
    torch.manual_seed(0)
    partly = decode(pair, {"z2": torch.full((5000,), 3.0)}, x)  # z1 from its prior given z2
    assert partly.mean().item() == pytest.approx(33, abs=0.6)
    assert partly.std().item() == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize(
    "posterior",
    [
        lambda x: dist.TransformedDistribution(dist.Normal(x, 1.0), [dist.transforms.SigmoidTransform()]),
        lambda x: dist.Categorical(logits=torch.zeros(len(x), 4)),
        lambda x: dist.Cauchy(x, 1.0),
    ],
    ids=["not implemented", "nan", "no mean"],
)
def test_a_family_without_a_mean_gives_a_draw(posterior: Callable[[Tensor], Any]) -> None:
    model = program(z=posterior, x=lambda x, z: dist.Normal(0.0, 1.0))
    codes = encode(Pair(model, program(z=posterior)), torch.zeros(5))["z"]
    assert codes.shape == (5,)
    assert codes.isfinite().all()


def test_several_arguments() -> None:
    pair, (x, y) = made(two_arguments)
    codes = encode(pair, x, y)["z"]
    torch.testing.assert_close(decode(pair, codes, x, y), reconstruct(pair, x, y))
    torch.testing.assert_close(decode(pair, codes[2:3], x[2:3], y[2:3]), reconstruct(pair, x, y)[2:3])
    decoder = next(m for m in modules_of(pair) if getattr(m, "in_features", None) == 5)
    condition = nn.functional.one_hot(y, 3).float()
    expected = torch.sigmoid(decoder(torch.cat([codes, condition], -1))).detach()  # to each datum its own label
    torch.testing.assert_close(reconstruct(pair, x, y), expected)
    labels = torch.tensor([2, 0])
    several = decode(pair, torch.zeros(3, 2), x[:1], labels)  # rows are repeated
    torch.testing.assert_close(several[0], several[2])
    assert not torch.allclose(several[0], several[1])
    assert sample(pair, 3, x, y).shape == (3, 6)


@pytest.mark.parametrize("factory", PAIRS)
def test_shapes_over_all_pairs(factory: Factory) -> None:
    torch.manual_seed(0)
    pair, batch = factory()
    x = batch[0]
    assert reconstruct(pair, *batch).shape == x.shape
    assert sample(pair, 3, *batch).shape == (3, *x.shape[1:])
    assert not reconstruct(pair, *batch).requires_grad
    assert reconstruction_mse(pair, [batch]) > 0
    for site, code in encode(pair, *batch).items():
        if site != "bias":
            assert len(code) == len(x)
            assert active_units(pair, [batch], site=site).variances.shape == code.shape[1:]


def test_a_latent_that_the_data_share() -> None:
    torch.manual_seed(0)
    user, (x,) = plain_object()
    z, bias = torch.randn(4, 2), torch.randn(6)
    expected = torch.sigmoid(user.networks["decoder"](z) + bias).detach()
    for latents in ({"z": z, "bias": bias}, {"bias": bias, "z": z}):
        torch.testing.assert_close(decode(user, latents, x), expected)
    assert decode(user, {"bias": bias}, x).shape == x.shape


def test_a_latent_that_the_data_share_is_one_number() -> None:
    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("shift", dist.Normal(0.3, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    z, x = torch.randn(4, 2), torch.randn(3, 2)
    torch.testing.assert_close(decode(Pair(model, guide), {"z": z, "shift": torch.tensor(5.0)}, x), z + 5)
    with pytest.raises(ValueError, match="'z' is one number"):
        decode(Pair(model, guide), {"z": torch.tensor(5.0)}, x)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("x y", "x"),  # the first argument's name
        ("y pixels", "pixels"),  # as many numbers as the first argument
        ("y genes", "genes"),
        ("other pixels", "pixels"),
        ("y w", "y"),  # the name of an argument
        ("pixels genes", None),
        ("v w", None),
    ],
)
def test_one_of_two_observed_sites(names: str, chosen: str | None) -> None:
    """The site asked for, or the one that is meant where that can be told."""
    torch.manual_seed(0)
    of_x, of_y = torch.randn(2, 3), torch.randn(2)
    wide = ("x", "pixels", "genes")

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            for name in names.split():
                if name in wide:
                    pyro.sample(name, dist.Normal(z @ of_x, 1.0).to_event(1), obs=x)
                else:
                    pyro.sample(name, dist.Bernoulli(logits=z @ of_y), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    x, y, pair = torch.randn(5, 3), torch.ones(5), Pair(model, guide)
    means = {name: x[:, :2] @ of_x if name in wide else (x[:, :2] @ of_y).sigmoid() for name in names.split()}
    for site, mean in means.items():
        torch.testing.assert_close(reconstruct(pair, x, y, site=site), mean)
        torch.testing.assert_close(decode(pair, x[:, :2], x, y, site=site), mean)
        assert sample(pair, 7, x, y, site=site).shape == (7, *mean.shape[1:])
        assert resample(pair, x, y, num_samples=2, site=site).shape == (5, 2, *mean.shape[1:])
        assert interpolate(pair, (x, y), (x, y), 3, site=site).shape == (5, 3, *mean.shape[1:])
    if chosen is None:
        first, second = names.split()
        with pytest.raises(ValueError, match=f"observes 2 sites, .*: give site='{first}', site='{second}'"):
            reconstruct(pair, x, y)
    else:
        torch.testing.assert_close(reconstruct(pair, x, y), means[chosen])
        assert diagnostics.observed_site(pair, x, y) == chosen
    with pytest.raises(ValueError, match=f"no site 'q'; it observes {', '.join(names.split())}"):
        sample(pair, 2, x, y, site="q")


def test_a_label_is_at_its_mode() -> None:
    """It has no mean; a factor is nothing that is observed."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("label", dist.Categorical(logits=z), obs=x)
            pyro.factor("more", z.sum(-1))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.eye(3)[x], 1.0).to_event(1))

    x = torch.tensor([2, 0, 1, 1])
    assert torch.equal(reconstruct(Pair(model, guide), x), x)


def test_rate_and_distortion_of_a_discrete_latent_of_the_model_alone() -> None:
    """It is drawn, for which there is no pathwise gradient, and none is needed."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("x", dist.Normal(0.0 * k, 1.0), obs=x)

    x = torch.zeros(3)
    found = rate_distortion(Pair(model, lambda x: None), [(x,)])
    assert found.distortion == pytest.approx(0.5 * math.log(2 * math.pi))


def test_no_data_to_take() -> None:
    with pytest.raises(ValueError, match=r"the model observes nothing\. .* pass an example batch"):
        sample(vae(), 2)


def test_evaluation_mode_for_the_time_of_a_call() -> None:
    """Also of a module that the programs have not yet announced; each part gets its own mode back."""
    decoder = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 3))
    decoder[1].eval()
    seen = []

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        seen.append(decoder[0].training)
        program(z=standard(2), x=lambda x, z: dist.Normal(decoder(z), 1.0).to_event(1))(x)

    pair = Pair(model, program(z=standard(2)))
    first = reconstruct(pair, X)
    assert torch.equal(first, reconstruct(pair, X))
    rate_distortion(pair, [(X,)])
    assert seen
    assert not any(seen)
    assert decoder[0].num_batches_tracked == 0
    assert [part.training for part in decoder] == [True, False, True]
    assert decoder.training
    with pytest.raises((ValueError, RuntimeError)):
        decode(pair, torch.zeros(4, 7), X)
    assert [part.training for part in decoder] == [True, False, True]
    assert pyro.settings.get("validate_distributions_pyro")
    assert torch.is_grad_enabled()


def flow(x: Tensor) -> Any:
    """z = exp(2 z_0 + 1), z_0 ~ N(x, 0.5^2), written as a flow, so that no mean is known."""
    steps = [dist.transforms.AffineTransform(1.0, 2.0), dist.transforms.ExpTransform()]
    return dist.TransformedDistribution(dist.Normal(x, 0.5), steps)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: flow(x).to_event(1),
        lambda x: flow(x).mask(torch.ones(())).to_event(1),
        lambda x: flow(x[0]).expand((2,)).to_event(1).expand((len(x),)),
        lambda x: dist.TransformedDistribution(flow(x).to_event(1), []),
    ],
    ids=["event", "masked", "expanded", "flow of a flow"],
)
def test_the_code_of_a_flow_is_the_image_of_the_mean_of_its_base(wrap: Callable[[Tensor], Any]) -> None:
    x = torch.tensor([[0.3, -0.2], [0.3, -0.2], [0.3, -0.2]])

    prior = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
    model = program(z=lambda x: prior, x=lambda x, z: dist.Normal(z, 1.0).to_event(1))
    pair = Pair(model, program(z=wrap))
    expected = (2 * x + 1).exp()
    torch.testing.assert_close(encode(pair, x)["z"], expected)
    torch.testing.assert_close(reconstruct(pair, x), expected)
    assert active_units(pair, [(x,)]).count == 0  # the same datum has the same code, without noise


def with_prior(prior: Any, posterior: Callable[[Tensor], Any]) -> Pair:
    """x | z ~ N(10 z, 1)."""
    model = program(z=lambda x: prior, x=lambda x, z: dist.Normal(10 * z, 1.0).to_event(1))
    return Pair(model, program(z=posterior))


QUANTILES = [0.02, 0.5, 0.9]


GAMMA, BETA, LOW, CENTER = torch.tensor([[2.0, 3.0], [0.5, 3.0], [0.0, -3.0], [1.0, -1.0]])
SCALE = torch.tensor([0.1, 10.0])
LAWS = {
    "Gamma": (dist.Gamma(GAMMA, 1.5), lambda unit: stats.gamma(GAMMA[unit], scale=1 / 1.5)),
    "Beta": (dist.Beta(BETA, 2.0), lambda unit: stats.beta(BETA[unit], 2.0)),
    "Uniform": (dist.Uniform(LOW, 5.0), lambda unit: stats.uniform(LOW[unit], 5.0 - LOW[unit])),
    "Normal": (dist.Normal(CENTER, SCALE), lambda unit: stats.norm(CENTER[unit], SCALE[unit])),
}


@pytest.mark.parametrize("name", LAWS)
def test_quantiles_are_the_priors(name: str) -> None:
    prior, law = LAWS[name]
    pair, x = with_prior(prior.to_event(1), lambda x: prior.expand((len(x), 2)).to_event(1)), torch.zeros(3, 2)
    state = torch.get_rng_state()
    found = prior_quantiles(pair, QUANTILES, x, num_samples=5000)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.shape == (2, 3)
    for unit, row in enumerate(found.tolist()):
        if name == "Normal":
            assert row == pytest.approx(law(unit).ppf(QUANTILES), rel=1e-5)
            continue
        for q, value in zip(QUANTILES, row, strict=True):
            assert abs(law(unit).cdf(value) - q) < 4 * math.sqrt(q * (1 - q) / 5000) + 1e-3


def test_quantiles_of_a_latent_that_depends_on_another_one() -> None:
    model = program(
        z2=lambda x: dist.Normal(0.0, 3.0),
        z1=lambda x, z2: dist.Normal(z2, 4.0),
        x=lambda x, z2, z1: dist.Normal(z1, 1.0),
    )
    pair = Pair(model, lambda x: None)
    found = prior_quantiles(pair, [0.16, 0.84], torch.zeros(2), site="z1", num_samples=20_000)
    assert found.flatten().tolist() == pytest.approx([-5, 5], abs=0.2)  # not those of p(z1 | z2)
    with pytest.raises(ValueError, match="no latent 'z'; it has z2, z1"):
        prior_quantiles(pair, [0.5], torch.zeros(2))
    with pytest.raises(ValueError, match=r"numbers between 0 and 1; got \[0, 1\]"):
        prior_quantiles(pair, [0, 1], torch.zeros(2), site="z1")


def test_units_that_constrain_each_other_have_no_quantiles() -> None:
    for prior in (dist.Dirichlet(torch.ones(3)), SphereUniform(3)):
        pair, x = with_prior(prior, lambda x, prior=prior: prior.expand((len(x),))), torch.zeros(4, 3)
        assert support(pair, x).event_dim == 1
        with pytest.raises(ValueError, match="the units of 'z' are constrained jointly"):
            prior_quantiles(pair, QUANTILES, x)
    assert support(vae(), X).event_dim == 0


def test_interpolation_is_straight_in_the_unconstrained_space() -> None:
    start, end = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[100.0, 2.0], [3.0, 1.0]])
    weight = torch.linspace(0, 1, 5)[:, None]
    straight = torch.lerp(start[:, None], end[:, None], weight)
    geometric = torch.lerp(start.log()[:, None], end.log()[:, None], weight).exp()
    normal = with_prior(dist.Normal(torch.zeros(2), 1.0).to_event(1), lambda x: dist.Normal(x, 1.0).to_event(1))
    torch.testing.assert_close(interpolate(normal, start, end, 5), 10 * straight)
    gamma = with_prior(dist.Gamma(torch.ones(2), 1.0).to_event(1), lambda x: dist.Gamma(2 * x, 2.0).to_event(1))
    torch.testing.assert_close(interpolate(gamma, start, end, 5), 10 * geometric)
    torch.testing.assert_close(interpolate(gamma, start, end, 5)[:, [0, -1]], 10 * torch.stack([start, end], 1))
    simplex = with_prior(dist.Dirichlet(torch.ones(3)), dist.Dirichlet)
    path = interpolate(simplex, torch.tensor([[1.0, 2.0, 7.0]]), torch.tensor([[5.0, 4.0, 1.0]]), 4) / 10
    torch.testing.assert_close(path.sum(-1), torch.ones(1, 4))
    torch.testing.assert_close(path[0, [0, -1]], torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]))


def test_interpolation_on_the_sphere_keeps_the_length() -> None:
    pair = with_prior(SphereUniform(3), lambda x: dist.Normal(x, 1.0).to_event(1))
    start, end = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    path = interpolate(pair, start, end, 3)[0] / 10
    root = 0.5**0.5
    torch.testing.assert_close(path, torch.tensor([[1.0, 0.0, 0.0], [root, root, 0.0], [0.0, 1.0, 0.0]]))


def test_interpolation_of_several_arguments_and_of_all_pairs() -> None:
    pair, (x, y) = made(two_arguments)
    path = interpolate(pair, (x[:2], y[:2]), (x[2:4], y[:2]), 3)
    torch.testing.assert_close(path[:, 0], reconstruct(pair, x[:2], y[:2]))
    torch.testing.assert_close(path[:, -1], reconstruct(pair, x[2:4], y[:2]))
    for parameter in PAIRS:
        pair, batch = parameter.values[0]()
        halves = [tuple(tensor[part] for tensor in batch) for part in (slice(0, 2), slice(2, 4))]
        assert interpolate(pair, *halves, 4).shape == (2, 4, *batch[0].shape[1:])


def test_no_line_to_draw() -> None:
    with pytest.raises(ValueError, match="got 2 starts and 1"):
        interpolate(vae(), X[:2], X[:1])
    with pytest.raises(ValueError, match="num_steps=1"):
        interpolate(vae(), X[:2], X[:2], 1)
    coin = dist.Bernoulli(torch.full((3,), 0.5)).to_event(1)
    with pytest.raises(ValueError, match="no line between two values of 'z'"):
        interpolate(with_prior(coin, lambda x: coin.expand((len(x),))), torch.zeros(2, 3), torch.zeros(2, 3))


def test_a_model_that_takes_data_is_not_sampled_without():
    pair = Pair(lambda x: pyro.sample("x", dist.Normal(x, 1.0), obs=x), lambda x: None)
    with pytest.raises(ValueError, match=r"does not run without data \(.*: pass an example batch, as in sample"):
        diagnostics.sample(pair, 3)
