"""The VAE of missing data: what is not observed counts for nothing, and what is counts as exact results say."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from incomplete import FactorAnalysis, conditional, data, log_evidence
from pairs import binary, real
from registry import uniform
from scipy import integrate
from torch import Tensor

from pyro_vae import IWAE, SGVB_A, SGVB_B, DReG, check, evidence, likelihoods, networks
from pyro_vae.conditioning import impute, sample
from pyro_vae.distributions.incomplete import Incomplete, known, observing
from pyro_vae.models import MLPVAE, IncompleteVAE
from pyro_vae.testing.comparing import gradients, seeded

OPTIONS: dict[str, Any] = {"event_shape": (6,), "latent_dim": 2, "hidden": (8,)}
NORMAL: dict[str, Any] = {**OPTIONS, "likelihood": partial(likelihoods.Normal, sigmoid_mean=False)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": NORMAL,
    "learned, mask seen": {**NORMAL, "imputation": "learned", "see_mask": True, "mean": torch.ones(6)},
    "StudentT": {**OPTIONS, "likelihood": partial(likelihoods.StudentT, sigmoid_mean=False)},
    "self-masking": {**NORMAL, "missingness": networks.SelfMasking},
}


def made(options: dict[str, Any], seed: int = 0) -> IncompleteVAE:
    torch.manual_seed(seed)
    return IncompleteVAE(**options)


@pytest.mark.parametrize("estimator", [SGVB_B(), IWAE(5), DReG(3)])
def test_all_observed_is_the_plain_vae(estimator: Any) -> None:
    """Bit by bit: the bound, and all gradients."""
    ours, x = made(OPTIONS), binary(6)
    torch.manual_seed(0)
    plain = MLPVAE(**OPTIONS)
    mask = torch.ones(x.shape, dtype=torch.bool)
    for batch in ((x, mask), (x,)):
        assert torch.equal(seeded(3, estimator.bound, ours, *batch), seeded(3, estimator.bound, plain, x))
        found = gradients(ours, lambda: estimator.loss_and_grads(ours.model, ours.guide, *batch), 3)  # noqa: B023
        expected = gradients(plain, lambda: estimator.loss_and_grads(plain.model, plain.guide, x), 3)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("estimator", [SGVB_A(2), IWAE(5), DReG(3)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_observed_counts_for_nothing(variant: str, estimator: Any) -> None:
    """Whatever stands there, NaN and infinity too, value and gradient are the same bits."""
    pair, x, mask = made(VARIANTS[variant]), real(6), uniform(6) < 0.6
    found = []
    for garbage in (0.0, 1e30, math.nan, -math.inf):
        batch = torch.where(mask, x, garbage), mask
        value = seeded(1, estimator.bound, pair, *batch)
        grads = gradients(pair, lambda: estimator.loss_and_grads(pair.model, pair.guide, *batch), 1)  # noqa: B023
        assert value.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in grads.values())
        found.append((value, grads))
    batch = (torch.where(mask, x, math.nan),)
    found.append((seeded(1, estimator.bound, pair, *batch), found[0][1]))
    for value, grads in found[1:]:
        assert torch.equal(value, found[0][0])
        for name, gradient in grads.items():
            assert torch.equal(gradient, found[0][1][name]), name


def test_nothing_observed() -> None:
    """log p(nothing) = 0, which every bound is below and evidence is."""
    pair, x = made(NORMAL).eval(), torch.full((3, 6), math.nan)
    assert (SGVB_B().bound(pair, x) <= 0).all()
    torch.testing.assert_close(evidence.importance(pair, x, 20_000).log_prob, torch.zeros(3), rtol=0, atol=0.05)


def linear(sizes: tuple[int, int] = (4, 2), **options: Any) -> tuple[IncompleteVAE, FactorAnalysis]:
    """A VAE without hidden layers and the factor analysis that it is, in float64."""
    exact = FactorAnalysis(*sizes)
    torch.manual_seed(0)
    normal = partial(likelihoods.Normal, scale=0.6, sigmoid_mean=False)
    vae = IncompleteVAE((sizes[0],), sizes[1], (), likelihood=normal, **options).double().eval()
    with torch.no_grad():
        exact.s.fill_(0.6)
        layer: Any = vae.likelihood.network.layers[-1]
        layer.weight.copy_(exact.W)
        layer.bias.copy_(exact.b)
    return vae, exact


def test_evidence_is_that_of_the_observed() -> None:
    vae, exact = linear()
    x, mask = data()
    expected = log_evidence(*exact.marginal(), x, mask)
    told = evidence.importance(vae, (x, mask), 20_000)
    assert ((told.log_prob - expected).abs() < 5 * told.standard_error).all()
    few = [evidence.importance(vae, given, 20) for given in ((x, mask), (torch.where(mask, x, 7.0), mask), (x,))]
    assert all(torch.equal(one.log_prob, few[0].log_prob) for one in few)
    annealed = evidence.ais(vae, (x, mask), 16, 200)
    assert ((annealed.log_prob - expected).abs() < 5 * annealed.standard_error + 1e-9).all()
    sides = evidence.bdmc(vae, (x.nan_to_num(), mask), 16, 200)
    assert (sides.gap.abs() < 0.5).all()
    # The bounds lie in their order below it.
    batch = x.repeat(200, 1), mask.repeat(200, 1)
    bounds = [e.bound(vae, *batch).reshape(200, len(x)).mean(0) for e in (SGVB_A(), IWAE(5), IWAE(50))]
    assert (bounds[0] < bounds[1]).all()
    assert (bounds[1] < bounds[2]).all()
    assert (bounds[2] < expected + 0.05).all()


def test_the_exact_guide_makes_every_bound_exact() -> None:
    pair, (x, mask) = FactorAnalysis(), data()
    expected = log_evidence(*pair.marginal(), x, mask)
    for estimator in (SGVB_A(), IWAE(3), DReG(2)):
        torch.testing.assert_close(estimator.bound(pair, x.nan_to_num(), mask), expected)
    assert check(pair, x.nan_to_num(), mask).sites


def test_not_at_random() -> None:
    """log p(x_obs, s) and E[x_mis | x_obs, s] of a self-masked Gaussian, by quadrature."""
    vae, exact = linear((2, 1), missingness=partial(networks.SelfMasking, missing="high"))
    with torch.no_grad():
        vae.missingness.slope.copy_(torch.tensor([1.0, 2.0]))  # type: ignore[union-attr]
        vae.missingness.center.copy_(torch.tensor([0.3, -0.5]))  # type: ignore[union-attr]
    mean, covariance = exact.marginal()
    x = torch.tensor([[0.4, math.nan], [-1.0, math.nan], [0.2, 0.1]]).double()
    mask = ~x.isnan()
    slope = torch.nn.functional.softplus(torch.tensor([1.0, 2.0]).double())
    center = torch.tensor([0.3, -0.5]).double()

    def missing(value: Any, column: int) -> Any:
        return 1 / (1 + np.exp(-slope[column].item() * (value - center[column].item())))

    told = evidence.importance(vae, (x, mask), 40_000)
    found = impute(vae, (x, mask), 40_000, 4000)
    for n in range(2):
        loc, variance = conditional(mean, covariance, x[n], mask[n])
        scale = variance.sqrt().item()
        normal = dist.Normal(loc[0].item(), scale)

        def weight(value: float) -> float:
            return float(normal.log_prob(torch.tensor(value)).exp()) * missing(value, 1)  # noqa: B023

        ends = loc[0].item() - 9 * scale, loc[0].item() + 9 * scale
        share = integrate.quad(weight, *ends)[0]
        first = integrate.quad(lambda value: value * weight(value), *ends)[0] / share
        seen = 1 - missing(x[n, 0].item(), 0)
        log_p = log_evidence(mean, covariance, x[n : n + 1], mask[n : n + 1]).item() + math.log(seen) + math.log(share)
        assert told.log_prob[n].item() == pytest.approx(log_p, abs=5 * told.standard_error[n].item())
        error = 5 * scale / math.sqrt(found.effective_sample_size[n].item())
        assert found.mean[n, 1].item() == pytest.approx(first, abs=error)
        assert found.draws[:, n, 1].mean().item() == pytest.approx(first, abs=error + 5 * scale / math.sqrt(4000))
        assert first > loc[0].item() + 0.1  # what is missing is high
        drawn = sample(vae, 2000, where={"x": x[n : n + 1]}, seed=n)
        error = 5 * scale * math.sqrt(1 / 2000 + 1 / drawn.effective_sample_size.item())
        assert drawn["x"][:, 0, 1].mean().item() == pytest.approx(first, abs=error)
    seen = (1 - missing(x[2, 0].item(), 0)) * (1 - missing(x[2, 1].item(), 1))
    whole = log_evidence(mean, covariance, x[2:], mask[2:]).item() + math.log(seen)
    assert told.log_prob[2].item() == pytest.approx(whole, abs=5 * told.standard_error[2].item())
    annealed = evidence.ais(vae, (x, mask), 16, 200)
    assert ((annealed.log_prob - told.log_prob).abs() < 5 * (annealed.standard_error + told.standard_error)).all()


def test_a_model_of_the_mask_draws_it() -> None:
    vae = made(VARIANTS["self-masking"])
    assert vae.model().shape == (1, 6)
    with pytest.raises(ValueError, match="'mask' observes a tensor that is no argument"):
        evidence.bdmc(vae, (real(6), uniform(6) < 0.6), 2, 5)
    free = made({**NORMAL, "missingness": lambda shape: networks.MLP(shape, shape, ())})
    assert SGVB_A().bound(free, real(6), uniform(6) < 0.6).isfinite().all()


def test_directions_of_self_masking() -> None:
    x = torch.tensor([[-1.0], [1.0]])
    high, low, either = (networks.SelfMasking((1,), way)(x)[:, 0] for way in ("high", "low", "any"))
    assert high[0] > high[1]
    assert low[0] < low[1]
    assert (either == 0).all()
    with pytest.raises(ValueError, match="missing is one of"):
        networks.SelfMasking((1,), "up")  # type: ignore[arg-type]


MASK = torch.ones(5, 6, dtype=torch.bool)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ((binary(6), MASK.long()), TypeError, "mask is a tensor of booleans.*torch.int64.*mask.bool()"),
        ((binary(6), MASK.float()), TypeError, "torch.float32"),
        ((binary(6), MASK[:, :3]), ValueError, r"of each entry of x, \[5, 6\].*\[5, 3\]"),
        ((binary(6), MASK[0]), ValueError, r"got the shape \[6\]"),
        ((binary(6).to_sparse(),), TypeError, "x of an IncompleteVAE is a dense tensor"),
        ((binary(5),), ValueError, r"takes x of shape \[B, 6\]; got \[5, 5\]"),
    ],
)
def test_bad_masks(batch: tuple[Tensor, ...], error: type[Exception], words: str) -> None:
    vae = made(OPTIONS)
    for program in (vae.guide, vae.model):
        with pytest.raises(error, match=words):
            program(*batch)


def test_nan_that_is_called_observed() -> None:
    x = torch.where(uniform(6) < 0.5, binary(6), math.nan)
    with pytest.raises(ValueError, match=r"x is NaN in \d of 5 data"):
        SGVB_B().bound(made(OPTIONS), x, MASK)
    with pytest.raises(ValueError, match="entries that are independent"):
        made({**OPTIONS, "likelihood": partial(likelihoods.Normal, scale="optimal")}).model(binary(6), MASK)


def test_masks_of_distributions() -> None:
    """What a mask leaves out is looked at by nobody: neither its score, nor its gradient, nor its support."""
    loc = torch.randn(2, 3, requires_grad=True)
    value, mask = torch.tensor([[0.5, math.nan, 2.0], [math.inf, 1.0, -3.0]]), torch.tensor([[1, 0, 1], [0, 1, 0]]) > 0
    fn = observing(dist.Normal(loc, 1.0).to_event(1), mask)
    assert fn.batch_shape == (2,)
    score = fn.log_prob(value)
    expected = (dist.Normal(loc, 1.0).log_prob(value.nan_to_num(0.0, 0.0)) * mask).sum(-1)
    torch.testing.assert_close(score, expected)
    (gradient,) = torch.autograd.grad(score.sum(), loc)
    torch.testing.assert_close(gradient, torch.where(mask, value - loc, 0.0))
    positive = Incomplete(dist.Gamma(2.0, torch.ones(2, 3)), mask)
    assert positive.support.check(known(positive, value))[mask].all()
    assert (known(positive, value)[~mask] == 1).all()
    assert positive.expand([4, 2, 3]).log_prob(value.abs()).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="entries that are independent"):
        observing(dist.MultivariateNormal(torch.zeros(3), torch.eye(3)), mask[0])
