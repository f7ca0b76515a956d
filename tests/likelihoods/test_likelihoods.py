"""Likelihoods against their formulae; the laws of all are in test_likelihood_laws.py."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import scipy.stats
import torch
from pairs import binary, real
from registry import LIKELIHOODS, counts, gray, uniform
from torch import Tensor, nn

from pyro_vae import IWAE, MLP, SGVB_A, SGVB_B, VAE, Bernoulli, DiagonalNormal, Gaussian, StandardNormal, fit
from pyro_vae.diagnostics import reconstruct
from pyro_vae.distributions.classes import ClassNumber
from pyro_vae.distributions.pixels import OptimalNormal
from pyro_vae.evidence import importance
from pyro_vae.likelihoods import (
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    MixtureOfDiscretizedLogistics,
    NegativeBinomial,
    Poisson,
    StudentT,
    bits_per_dim,
)

LATENT = 2


class Constant(nn.Module):
    """A network that gives the same output for each latent, a parameter."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, z: Tensor) -> Tensor:
        return self.output.expand(*z.shape[:-1], *self.output.shape)


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
@pytest.mark.parametrize("event", [(6,), (1, 2, 3)])
def test_bernoulli(event: tuple[int, ...], leading: tuple[int, ...]) -> None:
    likelihood, z, x = Bernoulli(MLP(LATENT, event, (4,))), torch.randn(*leading, LATENT), binary(*event)
    p, m = likelihood(z), likelihood.network(z).sigmoid()
    by_hand = (x * m.log() + (1 - x) * (1 - m).log()).flatten(len(leading)).sum(-1)
    torch.testing.assert_close(p.log_prob(x), by_hand)
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
    network = Constant(torch.full((6,), logit))
    p = Bernoulli(network)(torch.zeros(5, LATENT))
    x = torch.ones(5, 6) if logit < 0 else torch.zeros(5, 6)
    torch.testing.assert_close(p.log_prob(x), torch.full((5,), -6 * 80.0))
    torch.testing.assert_close(p.log_prob(1 - x), torch.full((5,), 0.0))
    (slope,) = torch.autograd.grad(p.log_prob(x).sum(), network.output)
    assert slope.isfinite().all()
    assert slope.abs().max() > 1  # the wrong side of a steep sigmoid still pulls


def test_gaussian_of_known_scale_may_have_two_channels() -> None:
    # A first event dimension of size 2 is no pair of parameters there.
    assert Gaussian(MLP(LATENT, (2, 3), (4,)), 1.0)(torch.zeros(5, LATENT)).event_shape == (2, 3)


@pytest.mark.parametrize("family", [Gaussian, Laplace, StudentT])
def test_a_large_log_scale_goes_on_as_a_logarithm(family: Any) -> None:
    for size in (-15.0, 0.0, 14.9, 20.0, 1e3, 1e10):
        expected = size if size <= 15 else 15 + math.log1p(size - 15)
        output = torch.tensor([0.0, 2 * size if family is Gaussian else size]).unsqueeze(-1)
        pixel = family(Constant(output), None, min_log_scale=-30.0)
        shared = family(Constant(torch.zeros(1)), "shared", min_log_scale=-30.0)
        nn.init.constant_(shared.log_scale, size)
        for likelihood in (pixel, shared):
            scale = likelihood(torch.zeros(LATENT)).base_dist.scale
            assert scale.item() == pytest.approx(math.exp(expected), rel=1e-5)


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
        (lambda n: Gaussian(n, scale=0.0), "has to be positive and finite, or None to learn it.*got 0.0"),
        (lambda n: Gaussian(n, scale=math.nan), "has to be positive and finite, or None to learn it.*got nan"),
        (lambda n: Gaussian(n, scale=None)(torch.zeros(5, 6)), r"scale=None.*\[5, 6\]"),
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
    p, q = LIKELIHOODS["Poisson"](), LIKELIHOODS["NegativeBinomial"]()
    log_count, logits = q.network(z).detach().double().unbind(1)
    poisson = scipy.stats.poisson(p.network(z).exp().detach().double().numpy())
    nbinom = scipy.stats.nbinom(log_count.exp().numpy(), (-logits).sigmoid().numpy())
    for ours, theirs in ((p(z), poisson), (q(z), nbinom)):
        log_prob = torch.from_numpy(theirs.logpmf(x.numpy()).sum(-1))
        torch.testing.assert_close(ours.log_prob(x).double(), log_prob, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours.mean.double(), torch.from_numpy(theirs.mean()))


@pytest.mark.parametrize("size", [15.0, 1e3, 1e30])
def test_rates_do_not_overflow(size: float) -> None:
    for sign in (-1, 1):
        network = Constant(torch.tensor([sign * size]))
        log_rate = Poisson(network)(torch.zeros(LATENT)).base_dist.log_rate
        assert log_rate.item() == pytest.approx(sign * (15 + math.log1p(size - 15)), rel=1e-5)
        (slope,) = torch.autograd.grad(log_rate.sum(), network.output)
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


# Scales

FAMILIES = [
    (Gaussian, lambda loc, scale: scipy.stats.norm(loc, scale)),
    (Laplace, lambda loc, scale: scipy.stats.laplace(loc, scale)),
    (StudentT, lambda loc, scale: scipy.stats.t(4.0, loc, scale)),
]


def small(scale: Any, **options: Any) -> VAE:
    torch.manual_seed(0)
    likelihood = Gaussian(MLP(LATENT, 6, (8,)), scale, sigmoid_mean=False, **options)
    return VAE(StandardNormal(LATENT), DiagonalNormal(MLP(6, (2, LATENT), (8,))), likelihood)


@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("scale", [None, 0.3, "shared"])
@pytest.mark.parametrize(("family", "theirs"), FAMILIES)
def test_densities(family: Any, theirs: Any, scale: Any, sigmoid_mean: bool) -> None:
    network = MLP(LATENT, (2, 6) if scale is None else 6, (8,))
    likelihood = family(network, scale, sigmoid_mean).double()
    z, x = torch.randn(5, LATENT).double(), real(6).double()
    output = network(z).detach()
    if scale is None:
        loc, raw = output.unbind(1)
        scales = (raw / 2 if family is Gaussian else raw).exp()
    elif scale == "shared":
        with torch.no_grad():
            likelihood.log_scale.fill_(-1.3)
        loc, scales = output, torch.full_like(output, math.exp(-1.3))
    else:
        loc, scales = output, torch.full_like(output, scale)
    loc = loc.sigmoid() if sigmoid_mean else loc
    by_hand = torch.from_numpy(theirs(loc.numpy(), scales.numpy()).logpdf(x.numpy()).sum(-1))
    torch.testing.assert_close(likelihood(z).log_prob(x), by_hand, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(likelihood(z).mean, loc)
    assert likelihood.network_shape((6,)) == ((2, 6) if scale is None else (6,))


@pytest.mark.parametrize(("family", "theirs"), FAMILIES)
def test_one_shared_scale_is_trained(family: Any, theirs: Any) -> None:
    likelihood, x = family(Constant(torch.zeros(6)), "shared"), real(6)
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale", "network.output"]
    assert not list(family(Constant(torch.zeros(6)), 1.0).named_buffers())
    likelihood(torch.zeros(5, LATENT)).log_prob(x).sum().backward()
    step = 1e-4
    sums = []
    for sign in (-1, 1):
        moved = copy.deepcopy(likelihood).double()
        moved.log_scale.data += sign * step
        sums.append(moved(torch.zeros(5, LATENT).double()).log_prob(x.double()).sum().item())
    assert likelihood.log_scale.grad.item() == pytest.approx((sums[1] - sums[0]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("family", [Gaussian, Laplace, StudentT])
def test_constant_pixels_do_not_let_the_scale_collapse(family: Any) -> None:
    x = torch.full((16, 3), 0.5)
    for scale in (None, "shared"):
        shape = (2, 3) if scale is None else (3,)
        likelihood = family(Constant(torch.zeros(shape)), scale)  # the sigmoid of 0 is 1/2: no error at all
        optimizer = torch.optim.Adam(likelihood.parameters(), lr=0.5)
        for _ in range(100):
            optimizer.zero_grad()
            loss = -likelihood(torch.zeros(16, LATENT)).log_prob(x).mean()
            loss.backward()
            optimizer.step()
        p = likelihood(torch.zeros(16, LATENT)).base_dist
        torch.testing.assert_close(p.scale, torch.full((16, 3), math.exp(-6)), rtol=0.01, atol=0)
        assert torch.isfinite(loss)


def test_the_floor_moves_no_scale_above_it() -> None:
    log_variance = torch.linspace(-10, 10, 6)
    p = Gaussian(Constant(torch.stack([torch.zeros(6), log_variance])), scale=None)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(p.scale, (log_variance / 2).exp(), rtol=1e-6, atol=0)
    lower = Gaussian(Constant(torch.full((2, 6), -20.0)), None, min_log_scale=-12.0)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(lower.scale, torch.full((6,), math.exp(-10)), rtol=1e-6, atol=0)
    # A known scale is what it is.
    known = Gaussian(Constant(torch.zeros(6)), 1e-4)(torch.zeros(LATENT)).base_dist
    torch.testing.assert_close(known.scale, torch.full((6,), 1e-4))


@pytest.mark.parametrize("leading", [(5,), (3, 5)])
def test_optimal_scale_in_training(leading: tuple[int, ...]) -> None:
    likelihood, z, x = small("optimal").likelihood.double(), torch.randn(*leading, LATENT).double(), real(6).double()
    p = likelihood(z)
    assert isinstance(p, OptimalNormal)
    log_prob = p.log_prob(x).sum()
    mean_square = (likelihood.network(z) - x).square().mean()
    closed = -0.5 * z[..., 0].numel() * 6 * (2 * math.pi * math.e * mean_square).log()
    torch.testing.assert_close(log_prob, closed)
    parameters = list(likelihood.network.parameters())
    torch.testing.assert_close(torch.autograd.grad(log_prob, parameters), torch.autograd.grad(closed, parameters))


def test_optimal_scale_in_evaluation_is_the_running_mean() -> None:
    likelihood = Gaussian(Constant(torch.zeros(6)), "optimal", sigmoid_mean=False)
    z, mean, batches = torch.zeros(5, LATENT), 0.0, torch.rand(30, 5, 6, generator=torch.Generator().manual_seed(1))
    for n, x in enumerate(batches, 1):
        likelihood(z).log_prob(x)
        mean += max(1 / n, 0.1) * (x.square().mean().item() - mean)
        assert likelihood.mean_square.item() == pytest.approx(mean, rel=1e-5)
    likelihood.eval()
    p = likelihood(z)
    x = real(6)
    torch.testing.assert_close(
        p.log_prob(x), torch.distributions.Normal(0.0, math.sqrt(mean)).log_prob(x).sum(-1), rtol=1e-5, atol=1e-5
    )
    assert likelihood.mean_square.item() == pytest.approx(mean, rel=1e-5)  # left alone
    assert likelihood.num_batches == 30
    torch.testing.assert_close(
        likelihood.train()(z).sample((4000,)).std(), torch.tensor(mean).sqrt(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(likelihood(z).variance, torch.full((5, 6), mean), rtol=1e-5, atol=0)
    restored = Gaussian(Constant(torch.zeros(6)), "optimal", sigmoid_mean=False)
    restored.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(restored.eval()(z).log_prob(x), p.log_prob(x))


@pytest.mark.parametrize(
    ("compile", "estimator"),
    [
        ("eager", SGVB_A()),
        ("traced", SGVB_A(3, max_plate_nesting=2)),
        pytest.param("traced", SGVB_A(), marks=pytest.mark.slow),
        pytest.param("traced", SGVB_B(), marks=pytest.mark.slow),
        pytest.param("traced", IWAE(3), marks=pytest.mark.slow),
    ],
)
def test_training_with_the_optimal_scale_writes_the_buffer(compile: Any, estimator: Any) -> None:
    pair, data = small("optimal"), 0.3 * real(6, size=32)
    estimator = copy.deepcopy(estimator)
    run = fit(pair, (data, data), estimator=estimator, epochs=20, batch_size=16, compile=compile, progress=False)
    assert run.mode == compile
    likelihood = pair.likelihood
    assert likelihood.num_batches == 20 * 2  # once a step: neither the check, nor tracing, nor validation counts
    error = (reconstruct(pair.eval(), data) - data).square().mean()
    assert 0.6 < likelihood.mean_square / error < 1.6
    # A density of each datum, which does not depend on the batch that it is in.
    assert torch.isfinite(importance(pair, data[:4], num_samples=50).log_prob).all()


def test_the_optimal_scale_is_the_best_shared_one() -> None:
    optimal, shared = small("optimal").likelihood, small("shared").likelihood
    shared.network = optimal.network
    z, x = torch.randn(5, LATENT), real(6)
    best = optimal(z).log_prob(x).sum()
    with torch.no_grad():
        shared.log_scale.copy_((optimal.network(z) - x).square().mean().log() / 2)
    reached = shared(z).log_prob(x).sum()
    torch.testing.assert_close(reached, best)
    assert torch.autograd.grad(reached, shared.log_scale)[0].abs() < 1e-4


def test_what_is_no_class_has_no_probability() -> None:
    """Where nothing validates, as in a training step of one graph, it is not taken for the class next to it."""
    fn = ClassNumber(torch.zeros(5, 4), validate_args=False)
    found = fn.log_prob(torch.tensor([3.0, 4.0, -1.0, 1.5, float("nan")]))
    torch.testing.assert_close(found, torch.tensor([-math.log(4), *[-math.inf] * 4]))


def test_what_is_missing_is_not_said_to_be_out_of_reach() -> None:
    likelihood, nan = Gaussian(MLP(2, (2, 3))), float("nan")
    assert likelihood.doubt(torch.tensor([[0.0, nan, 1.0]])) is None
    assert likelihood.doubt(torch.tensor([[nan]])) is None
    assert "goes from -3 to 1" in str(likelihood.doubt(torch.tensor([[-3.0, nan, 1.0]])))
