"""diagnostics.kl_decomposition and linear_vae_optimum: against closed forms, enumeration and quadrature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, linear_gaussian, made
from programs import program
from scipy import optimize
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import SGVB_B, Pair
from pyro_vae.diagnostics import KLDecomposition, decomposition, kl_decomposition, linear_vae_optimum
from pyro_vae.estimators import TCVAE
from pyro_vae.estimators.run import Call
from pyro_vae.pair import programs

PARTS = ("index_code_mutual_information", "total_correlation", "dimension_wise_kl", "kl")


class Codes(nn.Module):
    """q(z | x_n) = N(loc_n, scale_n), z ~ N(0, I); x plays no part."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale
        prior = dist.Normal(torch.zeros_like(loc[0]), 1.0).to_event(1)
        self.model = program(z=lambda x: prior, x=lambda x, z: dist.Normal(z.sum(-1), 1.0))
        self.guide = program(z=lambda x: dist.Normal(loc, scale).to_event(1))


def codes(size: int = 4) -> Codes:
    generator = torch.Generator().manual_seed(2)
    loc = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    loc[:, 1] = 0.9 * loc[:, 0] + 0.3 * loc[:, 1]
    return Codes(1.5 * loc, 0.3 + torch.rand(size, 2, generator=generator, dtype=torch.float64))


def assert_within(found: KLDecomposition, expected: dict[str, float], errors: float = 4.5) -> None:
    for name, value in expected.items():
        error = found.standard_errors[name]
        assert abs(getattr(found, name) - value) < errors * error + 1e-9, (name, getattr(found, name), value, error)
        assert abs(value) > 2 * errors * error, f"{name} = {value} +- {error} cannot be told from zero"


def by_quadrature(pair: Codes) -> tuple[dict[str, float], list[float]]:
    """The parts from densities on a grid: entropies of q(z), q(z_u) and q(z | x)."""
    q = dist.Normal(pair.loc, pair.scale)
    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    step = (grid[1] - grid[0]).item()
    each = q.log_prob(grid[:, None, None]).exp()  # [G, N, 2]
    single = each.mean(1)  # [G, 2]
    joint = torch.einsum("gn,hn->gh", each[..., 0], each[..., 1]) / len(pair.loc)

    def entropy(density: Tensor, volume: float) -> float:
        return -torch.special.xlogy(density, density).sum().item() * volume

    entropies = [entropy(single[:, u], step) for u in (0, 1)]
    joint_entropy = entropy(joint, step**2)
    conditional = q.entropy().sum(-1).mean().item()
    second = (pair.loc**2 + pair.scale**2).mean(0)
    cross = [(0.5 * math.log(2 * math.pi) + s / 2) for s in second.tolist()]
    by_unit = [c - h for c, h in zip(cross, entropies, strict=True)]
    parts = (joint_entropy - conditional, sum(entropies) - joint_entropy, sum(by_unit), sum(cross) - conditional)
    return dict(zip(PARTS, parts, strict=True)), by_unit


def test_against_quadrature() -> None:
    pair = codes()
    expected, by_unit = by_quadrature(pair)
    kl = kl_divergence(dist.Normal(pair.loc, pair.scale), dist.Normal(0.0, 1.0)).sum(-1).mean().item()
    assert expected["kl"] == pytest.approx(kl, rel=1e-9)
    found = kl_decomposition(pair, torch.zeros(4), num_samples=20_000)
    assert_within(found, expected)
    assert found.by_unit is not None
    assert found.by_unit.tolist() == pytest.approx(by_unit, abs=0.02)
    assert found.by_unit.sum().item() == pytest.approx(found.dimension_wise_kl)
    assert found.index_code_mutual_information < math.log(4)
    total = found.index_code_mutual_information + found.total_correlation + found.dimension_wise_kl
    assert total == pytest.approx(found.kl, rel=1e-12)
    assert found.marginal_kl == pytest.approx(found.kl - found.index_code_mutual_information, rel=1e-12)
    assert found.num_data == 4


def test_the_estimator_agrees_where_the_batch_is_all_the_data() -> None:
    """With N = M the stratified estimate is q(z) itself: each part, by TCVAE's own samples, is the quadrature's."""
    pair, (expected, _) = codes(), by_quadrature(codes())
    estimator = TCVAE(num_particles=20_000)
    torch.manual_seed(0)
    run = estimator._run(Call(*programs(pair), (torch.zeros(4),), {}))
    for name, part in estimator.parts(run)._asdict().items():
        error = part.var(1).div(20_000).sum().sqrt().item() / 4
        assert abs(part.mean().item() - expected[name]) < 4.5 * error, name
        assert error < 0.02 * expected[name]


def test_discrete_codes_by_enumeration() -> None:
    """Bits: q(z_u | x_n) = Bernoulli(p_nu), p(z_u) = Bernoulli(0.3); all codes are listed."""
    p = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.1, 0.6], [0.5, 0.7, 0.3]], dtype=torch.float64)
    coin = dist.Bernoulli(torch.full((3,), 0.3, dtype=p.dtype))
    model = program(bits=lambda x: coin.to_event(1), x=lambda x, bits: dist.Normal(bits.sum(-1), 1.0))
    guide = program(bits=lambda x: dist.Bernoulli(p).to_event(1))
    z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=p.dtype)
    each = dist.Bernoulli(p).log_prob(z[:, None]).sum(-1).exp()  # [8, N]
    joint = each.mean(1)
    product = dist.Bernoulli(p.mean(0)).log_prob(z).sum(-1).exp()
    prior = coin.log_prob(z).sum(-1).exp()
    expected = {
        "index_code_mutual_information": (each * (each / joint[:, None]).log()).sum(0).mean().item(),
        "total_correlation": (joint * (joint / product).log()).sum().item(),
        "dimension_wise_kl": (joint * (product / prior).log()).sum().item(),
        "kl": (each * (each / prior[:, None]).log()).sum(0).mean().item(),
    }
    found = kl_decomposition(Pair(model, guide), torch.zeros(3), num_samples=100_000, site="bits")
    assert_within(found, expected)


def test_equal_posteriors_tell_nothing() -> None:
    found = kl_decomposition(Codes(torch.ones(5, 2), torch.full((5, 2), 0.5)), torch.zeros(5))
    assert found.index_code_mutual_information == pytest.approx(0.0, abs=1e-5)
    assert found.total_correlation == pytest.approx(0.0, abs=1e-5)
    apart = Codes(100.0 * torch.arange(5.0)[:, None].expand(5, 2), torch.ones(5, 2))
    found = kl_decomposition(apart, torch.zeros(5))
    assert found.index_code_mutual_information == pytest.approx(math.log(5), rel=1e-4)  # each code tells its datum
    assert found.total_correlation == pytest.approx(math.log(5), rel=1e-4)  # and one unit the other


def test_standard_errors() -> None:
    """They are the spread of the answers over seeds."""
    pair, x = codes(), torch.zeros(4)
    found = [kl_decomposition(pair, x, num_samples=8, seed=seed) for seed in range(300)]
    for name in PARTS:
        values = np.array([getattr(one, name) for one in found])
        claimed = np.sqrt(np.mean([one.standard_errors[name] ** 2 for one in found]))
        assert values.std() == pytest.approx(claimed, rel=0.2), name


@pytest.mark.parametrize("factory", [p for p in PAIRS if p.id not in ("hierarchy", "plain_object")])
def test_kl_of_any_pair(factory: Any) -> None:
    """The KL is that of SGVB-B; the pair, its mode and the random state stay as they were."""
    pair, batch = made(factory)
    pair.train()
    before = torch.get_rng_state()
    found = kl_decomposition(pair, *batch, num_samples=2000)
    assert torch.equal(before, torch.get_rng_state())
    assert pair.training
    kl = SGVB_B().terms(pair, *batch)["z"].kl
    assert kl is not None
    assert abs(found.kl - kl.double().mean().item()) < 4.5 * found.standard_errors["kl"] + 1e-5
    assert -1e-5 < found.index_code_mutual_information < math.log(5) + 1e-5


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, x = codes(7), torch.zeros(7)
    one = kl_decomposition(pair, x)
    monkeypatch.setattr(decomposition, "_NUMBERS", 40)
    other = kl_decomposition(pair, x)
    for name in PARTS:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert kl_decomposition(pair, x, seed=1).kl != one.kl


def test_a_prior_whose_units_depend_has_no_kl_by_unit() -> None:
    pair = codes()
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)

    prior = dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)
    found = kl_decomposition(Pair(program(z=lambda x: prior), pair.guide), torch.zeros(4))
    assert found.by_unit is None
    assert found.kl == pytest.approx(found.index_code_mutual_information + found.marginal_kl)


def test_refuses() -> None:
    pair, x = codes(), torch.zeros(4)
    with pytest.raises(ValueError, match=r"the guide has no latent 'w'; it has z"):
        kl_decomposition(pair, x, site="w")
    with pytest.raises(ValueError, match="num_samples has to be a whole number of at least 2; got 1"):
        kl_decomposition(pair, x, num_samples=1)
    with pytest.raises(ValueError, match="there are no data"):
        kl_decomposition(pair)
    with pytest.raises(ValueError, match=r"q\(z\) is a MultivariateNormal of shape \[5\] \+ \[2\].*to_event\(1\)"):
        kl_decomposition(*linear_gaussian()[:2])


# The linear VAE

EIGENVALUES = torch.tensor([0.3, 5.0, 2.0, 0.9], dtype=torch.float64)


def elbo(eigenvalues: np.ndarray, parameters: np.ndarray, scale: float, beta: float) -> tuple[float, float, float]:
    """``(ELBO with beta, rate, distortion)`` of W, V and log s, each ``[D, L]`` or ``[L]``, for q = N(V'x, s^2)."""
    size, latent_dim = len(eigenvalues), len(parameters) // (2 * len(eigenvalues) + 1)
    W, V = parameters[: 2 * size * latent_dim].reshape(2, size, latent_dim)
    variances = np.exp(2 * parameters[2 * size * latent_dim :])
    S = np.diag(eigenvalues)
    rate = 0.5 * (np.trace(V.T @ S @ V) + (variances - 1 - np.log(variances)).sum())
    left = np.eye(size) - W @ V.T
    square = np.trace(left @ S @ left.T) + (variances * (W**2).sum(0)).sum()
    distortion = size / 2 * math.log(2 * math.pi * scale**2) + square / (2 * scale**2)
    return -distortion - beta * rate, rate, distortion


@pytest.mark.parametrize(
    ("latent_dim", "scale", "beta", "count"), [(3, 1.0, 1.0, 2), (1, 0.5, 1.0, 1), (2, 0.7, 3.0, 2), (2, 1.0, 6.0, 0)]
)
def test_linear_optimum_against_an_optimizer(latent_dim: int, scale: float, beta: float, count: int) -> None:
    """The ELBO of a linear VAE, written out for Gaussian data of a covariance, maximized numerically."""
    optimum = linear_vae_optimum(EIGENVALUES, latent_dim, scale, beta)
    values = EIGENVALUES.numpy()
    generator = np.random.default_rng(0)
    best = max(
        (
            optimize.minimize(
                lambda parameters: -elbo(values, parameters, scale, beta)[0],
                0.5 * generator.standard_normal(9 * latent_dim),
                tol=1e-10,
            )
            for _ in range(3)
        ),
        key=lambda result: -result.fun,
    )
    _, rate, distortion = elbo(values, best.x, scale, beta)
    assert optimum.num_active == count
    assert -best.fun == pytest.approx(optimum.objective, abs=1e-5)
    assert rate == pytest.approx(optimum.rate, abs=1e-3)
    assert distortion == pytest.approx(optimum.distortion, abs=1e-3)
    assert optimum.bound == pytest.approx(-rate - distortion, abs=2e-3)
    W, V = best.x[: 8 * latent_dim].reshape(2, 4, latent_dim)
    variances = np.sort(np.einsum("dl,d,dl->l", V, values, V))[::-1]
    assert variances == pytest.approx(optimum.code_variances.numpy(), abs=5e-3)
    covariance = W @ W.T + scale**2 * np.eye(4)
    log_likelihood = -0.5 * (
        4 * math.log(2 * math.pi)
        + np.linalg.slogdet(covariance)[1]
        + np.trace(np.linalg.solve(covariance, np.diag(values)))
    )
    assert optimum.log_likelihood == pytest.approx(log_likelihood, abs=1e-3)


def test_at_beta_one_the_bound_is_tight() -> None:
    """Where the posterior is exact the ELBO is log p(x), probabilistic PCA's."""
    for latent_dim in (1, 2, 5):
        optimum = linear_vae_optimum(EIGENVALUES, latent_dim, 0.8)
        assert optimum.bound == pytest.approx(optimum.log_likelihood)
        assert optimum.objective == optimum.bound
    assert linear_vae_optimum(EIGENVALUES, 2, 0.8, 0.5).bound < linear_vae_optimum(EIGENVALUES, 2, 0.8).bound
    assert linear_vae_optimum(EIGENVALUES.flip(0), 2).code_variances.tolist() == pytest.approx([0.8, 0.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([1.0, -0.1]), 1), r"eigenvalues are those of a covariance: \[D\], none negative"),
        ((torch.eye(2), 1), r"eigenvalues are those of a covariance: \[D\]"),
        ((EIGENVALUES, 0), r"latent_dim has to be a whole number of at least 1; got 0"),
        ((EIGENVALUES, 1, 0.0), r"scale has to be a finite number above 0; got 0.0"),
        ((EIGENVALUES, 1, 1.0, math.nan), r"beta has to be a finite number above 0; got nan"),
    ],
)
def test_linear_optimum_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_vae_optimum(*arguments)
