"""Likelihoods against their formulae."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from pairs import binary, real
from torch import Tensor, nn

from pyro_vae import MLP, SGVB_A, VAE, Bernoulli, DiagonalNormal, Gaussian, StandardNormal, check, fit
from pyro_vae.likelihoods import (
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    Likelihood,
    MixtureOfDiscretizedLogistics,
    NegativeBinomial,
    Poisson,
    StudentT,
    bits_per_dim,
)

LATENT, EVENTS = 2, [(6,), (1, 2, 3)]


def uniform(*event_shape: int, size: int = 5) -> Tensor:
    return torch.rand(size, *event_shape, generator=torch.Generator().manual_seed(4))


def gray(*event_shape: int, size: int = 5) -> Tensor:
    """Gray levels, the lowest and the highest among them."""
    k = torch.randint(256, (size, *event_shape), generator=torch.Generator().manual_seed(5))
    k.view(-1)[:2] = torch.tensor([0, 255])
    return k / 255


def counts(*event_shape: int, size: int = 5) -> Tensor:
    return torch.randint(20, (size, *event_shape), generator=torch.Generator().manual_seed(6)).float()


def case(make: Callable[..., Likelihood], data: Callable[..., Tensor], id: str, **options: Any) -> Any:
    return pytest.param(functools.partial(make, **options), data, id=id)


ALL = [
    case(Bernoulli, binary, "bernoulli"),
    case(Bernoulli, uniform, "bernoulli-gray", support="unit_interval"),
    case(ContinuousBernoulli, uniform, "continuous-bernoulli"),
    case(Categorical, gray, "categorical"),
    case(DiscretizedLogistic, gray, "discretized-logistic"),
    case(DiscretizedLogistic, gray, "discretized-logistic-shared", scale="shared", sigmoid_mean=False),
    case(MixtureOfDiscretizedLogistics, gray, "mixture"),
    case(Gaussian, real, "gaussian"),
    case(Gaussian, uniform, "gaussian-none", scale=None),
    case(Gaussian, real, "gaussian-shared", scale="shared", sigmoid_mean=False),
    case(Gaussian, real, "gaussian-optimal", scale="optimal", sigmoid_mean=False),
    case(Laplace, real, "laplace", scale=0.5),
    case(Laplace, real, "laplace-none", sigmoid_mean=False),
    case(Laplace, real, "laplace-shared", scale="shared"),
    case(StudentT, real, "student-t", scale=0.5),
    case(StudentT, real, "student-t-none", sigmoid_mean=False, df=3.0),
    case(StudentT, real, "student-t-shared", scale="shared"),
    case(Poisson, counts, "poisson"),
    case(NegativeBinomial, counts, "negative-binomial"),
]
every = pytest.mark.parametrize(("make", "data"), ALL)


def built(make: Callable[[nn.Module], Likelihood], event: tuple[int, ...]) -> Likelihood:
    """With the network that it asks for."""
    likelihood = make(nn.Identity())
    likelihood.network = MLP(LATENT, likelihood.network_shape(event), (8,))
    return likelihood


def vae(make: Callable[[nn.Module], Likelihood], event: tuple[int, ...]) -> VAE:
    return VAE(StandardNormal(LATENT), DiagonalNormal(MLP(event, (2, LATENT), (8,))), built(make, event))


class Constant(nn.Module):
    """A network that gives the same output for each latent."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        return self.output.expand(*z.shape[:-1], *self.output.shape)


def summed(log_prob: Tensor, event: tuple[int, ...]) -> Tensor:
    return log_prob.flatten(-len(event)).sum(-1)


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", EVENTS)
def test_bernoulli(event: tuple[int, ...], leading: tuple[int, ...]) -> None:
    likelihood = Bernoulli(MLP(LATENT, event, (4,)))
    z, x = torch.randn(*leading, LATENT), binary(*event)
    p = likelihood(z)
    assert p.batch_shape == leading
    assert p.event_shape == event
    m = likelihood.network(z).sigmoid()
    torch.testing.assert_close(p.log_prob(x), summed(x * m.log() + (1 - x) * (1 - m).log(), event))
    assert set(p.sample().unique().tolist()) <= {0.0, 1.0}


def test_gray_pixels_only_on_purpose() -> None:
    network, z = MLP(LATENT, 6, (4,)), torch.randn(5, LATENT)
    gray = torch.rand(5, 6)
    binary_p, gray_p = Bernoulli(network)(z), Bernoulli(network, support="unit_interval")(z)
    assert not binary_p.support.check(gray).any()
    assert gray_p.support.check(gray).all()
    assert not gray_p.support.check(gray + 1).any()
    m = network(z).sigmoid()
    by_hand = (gray * m.log() + (1 - gray) * (1 - m).log()).sum(-1)
    torch.testing.assert_close(gray_p.log_prob(gray), by_hand)
    # What Pyro does to a distribution keeps the relaxed support.
    assert gray_p.expand((3, 5)).support.check(gray).all()
    with pytest.raises(ValueError, match="support is one of 'binary', 'unit_interval'; got 'gray'"):
        Bernoulli(network, support="gray")


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_extreme_logits_stay_finite(logit: float) -> None:
    output = torch.full((6,), logit, requires_grad=True)
    p = Bernoulli(Constant(output))(torch.zeros(5, LATENT))
    x = torch.ones(5, 6) if logit < 0 else torch.zeros(5, 6)
    torch.testing.assert_close(p.log_prob(x), torch.full((5,), -6 * 80.0))
    torch.testing.assert_close(p.log_prob(1 - x), torch.full((5,), 0.0))
    p.log_prob(x).sum().backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().max() > 1  # the wrong side of a steep sigmoid still pulls


def normal(x: Tensor, loc: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - loc) ** 2 / log_variance.exp())


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_gaussian(scale: float | None, sigmoid_mean: bool, event: Any, leading: Any) -> None:
    likelihood = Gaussian(MLP(LATENT, event if scale else (2, *event), (4,)), scale, sigmoid_mean)
    z, x = torch.randn(*leading, LATENT), real(*event)
    p = likelihood(z)
    assert p.batch_shape == leading
    assert p.event_shape == event
    output = likelihood.network(z)
    if scale is None:
        loc, log_variance = output.unbind(len(leading))
    else:
        loc, log_variance = output, torch.full_like(output, 2 * math.log(scale))
    loc = loc.sigmoid() if sigmoid_mean else loc
    torch.testing.assert_close(p.log_prob(x), summed(normal(x, loc, log_variance), event))


def test_gaussian_of_known_scale_may_have_two_channels() -> None:
    # A first event dimension of size 2 is no pair of parameters there.
    assert Gaussian(MLP(LATENT, (2, 3), (4,)), 1.0)(torch.zeros(5, LATENT)).event_shape == (2, 3)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_gaussian_needs_a_positive_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="has to be positive and finite, or None to learn it"):
        Gaussian(MLP(LATENT, 6), scale)


def test_gaussian_that_learns_its_scale_needs_two_parameters() -> None:
    with pytest.raises(ValueError, match=r"scale=None.*\[5, 6\]"):
        Gaussian(MLP(LATENT, 6), scale=None)(torch.zeros(5, LATENT))


@every
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", EVENTS)
def test_shapes(make: Any, data: Any, event: Any, leading: Any, training: bool) -> None:
    likelihood, x = built(make, event).train(training), data(*event)
    p = likelihood(torch.randn(*leading, LATENT))
    assert p.batch_shape == leading
    assert p.event_shape == event
    log_prob = p.log_prob(x)
    assert log_prob.shape == leading
    assert torch.isfinite(log_prob).all()
    assert p.support.check(x).all()
    assert p.support.check(p.sample()).all()
    assert p.mean.shape == (*leading, *event)
    assert p.expand((2, *leading)).log_prob(x).shape == (2, *leading)


@every
def test_the_data_of_a_batch_are_independent_in_evaluation(make: Any, data: Any) -> None:
    likelihood, z, x = built(make, (6,)).eval(), torch.randn(5, LATENT), data(6)
    each = torch.cat([likelihood(z[i : i + 1]).log_prob(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(likelihood(z).log_prob(x), each)


@every
def test_the_mean_is_that_of_the_draws(make: Any, data: Any) -> None:
    count = 20_000
    p = built(make, (6,)).eval()(torch.randn(3, LATENT))
    draws = p.sample((count,)).double()
    error = draws.std(0) / count**0.5
    assert ((draws.mean(0) - p.mean).abs() < 5 * error + 1e-6).all()


@every
def test_bfloat16_networks_give_float32_log_probabilities(make: Any, data: Any) -> None:
    likelihood = built(make, (6,))
    with torch.autocast("cpu", torch.bfloat16):
        p = likelihood(torch.randn(5, LATENT))
        assert p.log_prob(data(6)).dtype == torch.float32
        assert p.mean.dtype == torch.float32


@every
@pytest.mark.parametrize("training", [True, False])
def test_float64(make: Any, data: Any, training: bool) -> None:
    likelihood, z = built(make, (6,)).train(training), torch.randn(5, LATENT)
    single = likelihood(z).log_prob(data(6))
    p = likelihood.double()(z.double())
    assert p.sample().dtype == p.mean.dtype == torch.float64
    if training or not isinstance(likelihood, Gaussian) or likelihood.scale != "optimal":
        torch.testing.assert_close(p.log_prob(data(6).double()).float(), single)


@every
@pytest.mark.parametrize("size", [-80.0, -15.0, 0.0, 15.0, 80.0])
def test_extreme_outputs_stay_finite(make: Any, data: Any, size: float) -> None:
    likelihood, x = make(nn.Identity()), data(6)
    output = torch.full(likelihood.network_shape((6,)), size, requires_grad=True)
    likelihood.network = Constant(output)
    p = likelihood(torch.zeros(5, LATENT))
    assert torch.isfinite(p.log_prob(x)).all()
    assert torch.isfinite(p.mean).all()
    p.log_prob(x).sum().backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    if not getattr(likelihood, "sigmoid_mean", False) or abs(size) < 80:  # the sigmoid of 80 is flat in float32
        assert (output.grad != 0).any()


@every
def test_extreme_outputs_one_parameter_at_a_time(make: Any, data: Any) -> None:
    likelihood, x = make(nn.Identity()), data(6)
    shape = likelihood.network_shape((6,))
    for first in range(shape[0] if len(shape) > 1 else 0):
        for size in (-80.0, 80.0):
            output = torch.zeros(shape)
            output[first] = size
            likelihood.network = Constant(output.requires_grad_())
            log_prob = likelihood(torch.zeros(5, LATENT)).log_prob(x)
            log_prob.sum().backward()
            assert torch.isfinite(log_prob).all()
            assert output.grad is not None
            assert torch.isfinite(output.grad).all()
            assert (output.grad != 0).any()


LEARNED = [
    pytest.param(functools.partial(Gaussian, scale=None), real, id="gaussian"),
    pytest.param(Laplace, real, id="laplace"),
    pytest.param(StudentT, real, id="student-t"),
    pytest.param(DiscretizedLogistic, gray, id="discretized-logistic"),
    pytest.param(MixtureOfDiscretizedLogistics, gray, id="mixture"),
]


@pytest.mark.parametrize(("make", "data"), LEARNED)
@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("size", [-1e10, -1e4, -1e2, 1e2, 1e4, 1e10])
@pytest.mark.parametrize("alone", [True, False])
def test_a_learned_scale_stays_finite(make: Any, data: Any, sigmoid_mean: bool, size: float, alone: bool) -> None:
    likelihood, x = make(nn.Identity(), sigmoid_mean=sigmoid_mean), data(6)
    output = torch.zeros(likelihood.network_shape((6,)))
    output[-1 if alone else slice(None)] = size
    likelihood.network = Constant(output.requires_grad_())
    p = likelihood(torch.zeros(5, LATENT))
    log_prob = p.log_prob(x)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(p.mean).all()
    assert torch.isfinite(p.sample()).all()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    if size > 0:  # too large a scale is pulled back; below, the floor is meant to hold
        assert (output.grad[-1] < 0).any()


@pytest.mark.parametrize("family", [Gaussian, Laplace, StudentT])
@pytest.mark.parametrize("size", [-15.0, 0.0, 14.9, 20.0, 1e3, 1e10])
def test_a_large_log_scale_goes_on_as_a_logarithm(family: Any, size: float) -> None:
    expected = size if size <= 15 else 15 + math.log1p(size - 15)
    output = torch.tensor([0.0, 2 * size if family is Gaussian else size]).unsqueeze(-1)
    pixel = family(Constant(output), None, min_log_scale=-30.0)
    shared = family(Constant(torch.zeros(1)), "shared", min_log_scale=-30.0)
    nn.init.constant_(shared.log_scale, size)
    for likelihood in (pixel, shared):
        scale = likelihood(torch.zeros(LATENT)).base_dist.scale
        assert scale.item() == pytest.approx(math.exp(expected), rel=1e-5)


@pytest.mark.parametrize("df", [1.5, 4.0, 1e3, 1e6, 1e9])
def test_student_t_of_any_df_in_float32(df: float) -> None:
    likelihood = StudentT(Constant(torch.zeros(6)), 0.5, sigmoid_mean=False, df=df)
    x = torch.cat([torch.zeros(1, 6), real(6), 1e3 * real(6)])
    theirs = scipy.stats.t(df, 0.0, 0.5).logpdf(x.double().numpy()).sum(-1)
    if df == 1e9:  # a Gaussian near loc
        x, theirs = x[:6], scipy.stats.norm(0.0, 0.5).logpdf(x[:6].double().numpy()).sum(-1)
    log_prob = likelihood(torch.zeros(len(x), LATENT)).log_prob(x)
    torch.testing.assert_close(log_prob.double(), torch.from_numpy(theirs), rtol=1e-5, atol=1e-5)


@every
def test_a_pair_passes_the_check(make: Any, data: Any) -> None:
    report = check(vae(make, (1, 2, 3)), data(1, 2, 3), estimator=SGVB_A(3, max_plate_nesting=2))
    assert "_" not in report.sites[-1].model


@every
def test_a_traced_training_step_is_an_eager_one(make: Any, data: Any) -> None:
    x, after = data(6, size=32), []
    for compile in ("traced", "eager"):
        torch.manual_seed(1)
        pair = vae(make, (6,))
        before = {name: value.clone() for name, value in pair.state_dict().items()}
        run = fit(pair, (x, x[:8]), epochs=1, batch_size=16, compile=compile, progress=False)
        assert run.mode == compile
        assert math.isfinite(run.history[-1]["loss"])
        assert math.isfinite(run.history[-1]["valid"])
        trained = pair.state_dict()
        assert all((trained[name] != value).any() for name, value in before.items() if "network" in name)
        after.append(trained)
    torch.testing.assert_close(after[0], after[1])


OFF = [
    case(Categorical, lambda *e: gray(*e) + 0.5 / 255, "categorical"),
    case(DiscretizedLogistic, lambda *e: gray(*e) + 0.5 / 255, "discretized-logistic"),
    case(MixtureOfDiscretizedLogistics, lambda *e: gray(*e) * 255, "mixture"),
    case(ContinuousBernoulli, lambda *e: uniform(*e) + 1, "continuous-bernoulli"),
    case(Poisson, lambda *e: -1 - counts(*e), "poisson"),
    case(Poisson, lambda *e: counts(*e) + 0.5, "poisson-fraction"),
    case(NegativeBinomial, lambda *e: counts(*e) + 0.5, "negative-binomial"),
]


@pytest.mark.parametrize(("make", "data"), OFF)
def test_data_outside_of_the_support_are_said(make: Any, data: Any) -> None:
    with pytest.raises(ValueError, match="At the observed site 'x' the data leave the support of the"):
        check(vae(make, (6,)), data(6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: Categorical(n, num_levels=1), "num_levels.*at least 2; got 1"),
        (lambda n: DiscretizedLogistic(n, num_levels=0), "num_levels.*at least 2; got 0"),
        (lambda n: MixtureOfDiscretizedLogistics(n, num_components=0), "num_components.*at least 1; got 0"),
        (lambda n: StudentT(n, df=1.0), "df has to be a finite number above 1; got 1.0"),
        (lambda n: StudentT(n, df=math.nan), "df has to be a finite number above 1; got nan"),
        (lambda n: Laplace(n, scale="optimal"), "a Laplace likelihood.*'shared' for one.*got 'optimal'"),
        (lambda n: Gaussian(n, scale="best"), "'shared' or 'optimal'.*got 'best'"),
        (lambda n: Laplace(n, scale=-1.0), "has to be positive"),
        (lambda n: Gaussian(n, scale=math.inf), "a Normal likelihood has to be positive and finite.*got inf"),
        (lambda n: DiscretizedLogistic(n, scale=math.inf), "DiscretizedLogistic.*positive and finite.*got inf"),
        (lambda n: Gaussian(n, min_log_scale=math.nan), "min_log_scale has to be a finite number below 15; got nan"),
        (lambda n: StudentT(n, min_log_scale=math.inf), "min_log_scale has to be a finite number below 15; got inf"),
        (
            lambda n: MixtureOfDiscretizedLogistics(n, min_log_scale=math.nan),
            "min_log_scale has to be a finite number below 15; got nan",
        ),
        (lambda n: Categorical(n, num_levels=2.5), "num_levels.*whole number of at least 2; got 2.5"),
        (lambda n: DiscretizedLogistic(n, num_levels=256.0), "num_levels.*whole number of at least 2; got 256.0"),
        (lambda n: MixtureOfDiscretizedLogistics(n, num_levels=math.nan), "num_levels.*at least 2; got nan"),
        (lambda n: MixtureOfDiscretizedLogistics(n, num_components=1.5), "num_components.*at least 1; got 1.5"),
        (lambda n: Categorical(n)(torch.zeros(5, LATENT)), r"\[\*, 256, \*event\]; got \[5, 2\].*out_shape=\(256, "),
        (lambda n: MixtureOfDiscretizedLogistics(n)(torch.zeros(5, LATENT)), r"out_shape=\(3, 5, \*event\)"),
        (lambda n: NegativeBinomial(n)(torch.zeros(5, 3)), r"out_shape=\(2, \*event\)"),
    ],
)
def test_what_cannot_be_is_said(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(nn.Identity())


def test_counts_by_hand() -> None:
    z, x = torch.randn(5, LATENT), counts(6)
    p = built(Poisson, (6,))
    theirs = scipy.stats.poisson(p.network(z).exp().detach().double().numpy()).logpmf(x.numpy()).sum(-1)
    torch.testing.assert_close(p(z).log_prob(x).double(), torch.from_numpy(theirs), atol=1e-4, rtol=1e-5)
    q = built(NegativeBinomial, (6,))
    log_count, logits = q.network(z).detach().double().unbind(1)
    nbinom = scipy.stats.nbinom(log_count.exp().numpy(), (-logits).sigmoid().numpy())
    theirs = nbinom.logpmf(x.numpy()).sum(-1)
    torch.testing.assert_close(q(z).log_prob(x).double(), torch.from_numpy(theirs), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(q(z).mean.double(), torch.from_numpy(nbinom.mean()))


@pytest.mark.parametrize("size", [15.0, 1e3, 1e30])
def test_rates_do_not_overflow(size: float) -> None:
    for sign in (-1, 1):
        output = torch.tensor([sign * size], requires_grad=True)
        log_rate = Poisson(Constant(output))(torch.zeros(LATENT)).base_dist.log_rate
        assert log_rate.item() == pytest.approx(sign * (15 + math.log1p(size - 15)), rel=1e-5)
        (slope,) = torch.autograd.grad(log_rate.sum(), output)
        assert slope.item() == pytest.approx(1 / (size - 14), rel=1e-5)


def test_gray_levels_in_place_of_the_network_s_first_dimension() -> None:
    # The logits of pixel d and level k stand at [k, d]; those of component m at [parameter, m, d].
    output = torch.randn(256, 2, 3)
    p = Categorical(Constant(output))(torch.zeros(4, LATENT))
    torch.testing.assert_close(p.base_dist.logits, output.permute(1, 2, 0).expand(4, 2, 3, 256))
    output = torch.randn(3, 5, 2, 3)
    q = MixtureOfDiscretizedLogistics(Constant(output))(torch.zeros(4, LATENT)).base_dist
    torch.testing.assert_close(q.logits[0], output[0].permute(1, 2, 0))
    torch.testing.assert_close(q.loc[0], output[1].sigmoid().permute(1, 2, 0))
    torch.testing.assert_close(q.scale[0], output[2].exp().permute(1, 2, 0))


def test_bits_per_dim() -> None:
    # Uniform over 256 levels: 8 bits, as a probability and as a density of what was dequantized to [0, 1].
    p = Categorical(Constant(torch.zeros(256, 1, 2, 3)))(torch.zeros(5, LATENT))
    torch.testing.assert_close(bits_per_dim(p.log_prob(gray(1, 2, 3)), (1, 2, 3)), torch.full((5,), 8.0))
    q = ContinuousBernoulli(Constant(torch.zeros(6)))(torch.zeros(5, LATENT))
    dequantized = (gray(6) * 255 + uniform(6)) / 256
    torch.testing.assert_close(bits_per_dim(q.log_prob(dequantized), (6,), bin_width=1 / 256), torch.full((5,), 8.0))
    # The same density, whatever the units that it is over.
    wide = torch.distributions.Uniform(0, 256).log_prob(torch.tensor(3.0)).item()
    assert bits_per_dim(6 * wide, (6,)) == pytest.approx(8)
    with pytest.raises(ValueError, match="bin_width is the width"):
        bits_per_dim(-1.0, (6,), bin_width=0.0)
    with pytest.raises(ValueError, match="event_shape"):
        bits_per_dim(-1.0, (0,))
