"""The gradient laboratory, on pairs whose gradients are known in closed form."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import linear_gaussian, made
from programs import program, standard
from scipy import stats
from torch import Tensor, nn

from pyro_vae import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    SGVB_A,
    SGVB_B,
    TCVAE,
    VIMCO,
    Annealed,
    Balanced,
    Capacity,
    DReG,
    FreeBits,
    Pair,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
)
from pyro_vae.diagnostics import GradientStatistics, gradient_statistics
from pyro_vae.diagnostics.parameters import by_site
from pyro_vae.estimators import ESTIMATORS, Enumeration, Estimator, MonteCarloEM
from pyro_vae.pair import as_pair

GROUPS, SIZE = 30, 6  # of data whose parameters are one tensor
PRECISION = 1.7  # of the likelihood: x | z ~ N(z, 1 / PRECISION)
Moments = Callable[["Separate"], "tuple[Tensor, Tensor]"]


class Separate(nn.Module):
    r"""z_i ~ N(0, 1), x_i | z_i ~ N(z_i, 1 / l); q(z_i) = N(loc_i, scale_i), parameters of its own for each datum.

    With a = l x the gradient of the bound at z = loc + scale e is, of L^A with its score and of L^B (the KL of N(m, s)
    to the prior is m^2 / 2 + s^2 / 2 - log s):

        loc    A: a - (1 + l) z              B: a - l z - m
        scale  A: (a - (1 + l) z) e + 1 / s  B: (a - l z) e - s + 1 / s
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        draws = torch.randn(3, GROUPS, SIZE, generator=generator, dtype=torch.float64)
        self.loc = nn.ParameterList(list(draws[0]))
        self.scale = nn.ParameterList(list((0.3 * draws[1] - 0.5).exp()))
        self.x = 2 * draws[2].flatten()

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, PRECISION**-0.5), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.cat(list(self.loc)), torch.cat(list(self.scale))))

    def sizes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, m, s, and the factor from one datum to the mean over data."""
        m, s = (torch.cat(list(part)).detach() for part in (self.loc, self.scale))
        return PRECISION * self.x, m, s, torch.tensor(1 / len(self.x))


def groups(name: str) -> str:
    return name.replace("loc.", "loc ").replace("scale.", "scale ")


def means(pair: Separate) -> tuple[Tensor, Tensor]:
    """The gradient of the loss: by loc, by scale."""
    a, m, s, factor = pair.sizes()
    return -factor * (a - (1 + PRECISION) * m), -factor * (1 / s - (1 + PRECISION) * s)


def variances_a(pair: Separate) -> tuple[Tensor, Tensor]:
    a, m, s, factor = pair.sizes()
    k = 1 + PRECISION
    return factor**2 * (k * s) ** 2, factor**2 * ((a - k * m) ** 2 + 2 * (k * s) ** 2)


def variances_b(pair: Separate) -> tuple[Tensor, Tensor]:
    a, m, s, factor = pair.sizes()
    return factor**2 * (PRECISION * s) ** 2, factor**2 * ((a - PRECISION * m) ** 2 + 2 * (PRECISION * s) ** 2)


def variances_stl(pair: Separate) -> tuple[Tensor, Tensor]:
    """Without the score: (a - (1 + l) z + e / s), and that times e."""
    a, m, s, factor = pair.sizes()
    k, rest = 1 + PRECISION, 1 / s - (1 + PRECISION) * s
    return factor**2 * rest**2, factor**2 * ((a - k * m) ** 2 + 2 * rest**2)


def variances_score(pair: Separate) -> tuple[Tensor, Tensor]:
    """log w = c0 + c1 e + c2 e^2 times the score, e / s or (e^2 - 1) / s."""
    a, m, s, factor = pair.sizes()
    k = 1 + PRECISION
    c0 = (
        -0.5 * m**2 - 0.5 * PRECISION * (pair.x - m) ** 2 + 0.5 * math.log(PRECISION / (2 * math.pi)) + s.log()
    )  # log p(x, z) - log q(z) at e = 0, where log sqrt(2 pi) of prior and guide cancel
    c1, c2 = s * (a - k * m), 0.5 * (1 - k * s**2)
    loc = (c0**2 + 3 * c1**2 + 15 * c2**2 + 6 * c0 * c2) / s**2 - (c1 / s) ** 2
    # E (e^2 - 1)^2 e^(2j) for j = 0, 1, 2: 2, 10, 78
    scale = (2 * c0**2 + 10 * (c1**2 + 2 * c0 * c2) + 78 * c2**2) / s**2 - (2 * c2 / s) ** 2
    return factor**2 * loc, factor**2 * scale


KNOWN: dict[str, tuple[Estimator, Moments]] = {
    "A": (SGVB_A(), variances_a),
    "B": (SGVB_B(), variances_b),
    "landing": (SGVB_A(sticking_the_landing=True), variances_stl),
    "score": (ScoreFunction(pathwise=False, baseline="none"), variances_score),
}
DRAWS = 300


@pytest.fixture(scope="module")
def separate() -> tuple[Separate, GradientStatistics]:
    pair = Separate()
    named = {name: estimator for name, (estimator, _) in KNOWN.items()}
    return pair, gradient_statistics(pair, pair.x, named, DRAWS, num_reference_draws=2 * DRAWS, groups=groups)


def by_group(result: GradientStatistics, name: str, field: str, kind: str = "") -> np.ndarray:
    """``[GROUPS]`` for the groups of loc or scale, or first the one and then the other."""
    names = [f"{k} {i}" for k in ((kind,) if kind else ("loc", "scale")) for i in range(GROUPS)]
    return np.array([getattr(result[name].groups[group], field) for group in names])


def grouped(*values: Tensor) -> np.ndarray:
    """Sums over the parameters of each group, of loc and then of scale."""
    return torch.cat([value.reshape(GROUPS, SIZE).sum(1) for value in values]).numpy()


def assert_standard(z: np.ndarray, spread: float | None = 1.0) -> None:
    """Independent errors in units of their standard error: no bias, and that unit is right."""
    assert abs(z.mean()) < 4 / math.sqrt(len(z)) + 0.1  # skewed estimates correlate with their standard errors
    if spread is not None:
        assert z.std() == pytest.approx(spread, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_mean_and_variance_in_closed_form(separate: tuple[Separate, GradientStatistics], name: str) -> None:
    pair, result = separate
    truth = grouped(*KNOWN[name][1](pair))
    estimate, error = (by_group(result, name, field) for field in ("variance", "variance_error"))
    if name == "score":  # a polynomial of degree 6 of the noise: too heavy-tailed for the error of one group
        np.testing.assert_allclose(estimate.mean(), truth.mean(), rtol=0.1)
    else:
        assert_standard((estimate - truth) / error)
    mean = grouped(*(part.square() for part in means(pair)))
    noise = truth / DRAWS  # |mean| squared is larger by this, and varies by 2 |mean| along one direction of it
    spread = np.sqrt(4 * mean * noise + 2 * noise**2)
    z = (by_group(result, name, "norm") ** 2 - mean - noise) / spread
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert z.std() < 1.3  # at most all the noise lies along the mean
    whole = result[name].groups["all"]
    assert whole.variance == pytest.approx(estimate.sum())
    assert whole.num_parameters == 2 * GROUPS * SIZE
    assert whole.norm == pytest.approx(math.sqrt((by_group(result, name, "norm") ** 2).sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A", "B"])
def test_signal_to_noise_ratio_in_closed_form(separate: tuple[Separate, GradientStatistics], name: str) -> None:
    pair, result = separate
    ratios = [(mean.abs() / variance.sqrt()) for mean, variance in zip(means(pair), KNOWN[name][1](pair), strict=True)]
    for kind, ratio in zip(("loc", "scale"), ratios, strict=True):
        # The estimate of a ratio mu is |N(mu, 1 / n)| in expectation.
        mu = ratio * math.sqrt(DRAWS)
        normal = torch.distributions.Normal(0.0, 1.0)
        folded = (mu * (1 - 2 * normal.cdf(-mu)) + 2 * normal.log_prob(mu).exp()) / math.sqrt(DRAWS)
        truth = folded.reshape(GROUPS, SIZE).mean(1).numpy()
        estimate, error = (by_group(result, name, field, kind) for field in ("snr", "snr_error"))
        assert_standard((estimate - truth) / error)


@pytest.mark.slow
def test_bias_without_bias_has_its_null_distribution(separate: tuple[Separate, GradientStatistics]) -> None:
    _, result = separate
    assert result.reference == "A"
    for name in KNOWN:
        z = by_group(result, name, "bias_z")
        assert_standard(z)
        assert stats.kstest(z, "norm").pvalue > 1e-3
        share = by_group(result, name, "bias") ** 2 / by_group(result, name, "bias_error") ** 2
        assert share.mean() == pytest.approx(1, abs=4 * share.std() / math.sqrt(len(share)))


def test_bias_is_found_and_of_the_right_size() -> None:
    """beta = 1.5 in place of 1 moves the gradient by half of that of the KL: m, s - 1 / s."""
    pair = Separate()
    result = gradient_statistics(
        pair, pair.x, [SGVB_B(beta=1.5)], DRAWS, reference=SGVB_B(), num_reference_draws=DRAWS, groups=groups
    )
    (name,) = result.estimators
    assert result.reference == "the reference SGVB_B(1)"
    _, m, s, factor = pair.sizes()
    truth = grouped((0.5 * factor * m).square(), (0.5 * factor * (s - 1 / s)).square())
    error = by_group(result, name, "bias_error")
    surplus = by_group(result, name, "bias") ** 2 - error**2 - truth
    spread = np.sqrt(4 * truth * error**2 + 2 * error**4)
    assert abs((surplus / spread).mean()) < 4 / math.sqrt(2 * GROUPS)
    assert result[name].groups["q(z)"].bias_z > 6
    found = result[name].groups["all"]
    assert found.bias**2 - found.bias_error**2 == pytest.approx(truth.sum(), abs=4 * math.hypot(*spread))
    assert truth.sum() > 6 * math.hypot(*spread)
    assert found.relative_bias == pytest.approx(found.bias / found.reference_norm)


def test_wake_sleep_learns_the_guide_by_another_objective() -> None:
    pair, x = linear_gaussian_apart(exact=False)
    result = gradient_statistics(pair, x, [SGVB_A(), WakeSleep()], 200)
    assert result["WakeSleep(1)"].groups["q(z)"].bias_z > 6
    assert abs(result["WakeSleep(1)"].groups["p(x)"].bias_z) < 4  # but the model by the ELBO


def linear_gaussian_apart(exact: bool = True) -> tuple[Pair, Tensor]:
    """The pair of ``linear_gaussian`` with parameters of its own for the guide: N(A x + c, L L')."""
    pair, x, _ = linear_gaussian()
    with torch.no_grad():
        posterior = pair.posterior(x)
        covariance = posterior.covariance_matrix[0]
        A = covariance @ pair.W.T / pair.s**2 * (1.0 if exact else 0.7)
        c, L = -A @ pair.b, torch.linalg.cholesky(covariance)
    guide_parameters = nn.ParameterDict({"A": A.detach(), "c": c.detach(), "L": L.detach()})

    def model(x: Tensor) -> None:
        pyro.module("model", pair)
        pair.model(x)

    def guide(x: Tensor) -> None:
        pyro.module("guide", guide_parameters)
        A, c, L = (guide_parameters[name] for name in "AcL")
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x @ A.T + c, scale_tril=L))

    return Pair(model, guide), x


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior() -> None:
    pair, x = linear_gaussian_apart()
    landing = [SGVB_A(sticking_the_landing=True), DReG(5)]
    result = gradient_statistics(pair, x, [SGVB_A(), *landing, IWAE(5)], 50)
    usual = result["SGVB_A(1)"].groups["q(z)"]
    for name in (n for n in result.estimators if n.startswith(("SGVB_A(1, stick", "DReG"))):
        guide = result[name].groups["q(z)"]
        assert guide.variance < 1e-24 * usual.variance
        assert guide.norm < 1e-12 * math.sqrt(usual.variance)
        assert math.isnan(guide.snr)  # 0 / 0
        assert guide.bias_z == pytest.approx(0, abs=4)
        assert result[name].groups["p(x)"].variance > 0.1 * result["SGVB_A(1)"].groups["p(x)"].variance
    assert result["IWAE(5)"].groups["q(z)"].variance > 0.01 * usual.variance
    off, x = linear_gaussian_apart(exact=False)
    assert gradient_statistics(off, x, landing[:1], 50).estimators.popitem()[1].groups["q(z)"].variance > 0.01


class Logistic(nn.Module):
    """z ~ N(0, I), x | z ~ Bernoulli(sigmoid(W z + b)); a mean field for each datum. log p(x | z) is concave in z."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8))
        self.loc, self.log_scale = nn.Parameter(torch.randn(size, 3)), nn.Parameter(0.3 * torch.randn(size, 3) - 0.5)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ self.W.T + self.b).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


def test_analytic_kl_never_has_the_greater_variance_of_the_locations() -> None:
    r"""A theorem where log p(x | z) is concave in z, as here.

    With f = log p(x | z), z = m + s e and the prior N(0, 1), the gradients by m are f'(z) - z in L^A, f'(z) - m in L^B
    (f' by z), and Stein's identity gives Cov(f'(z), e) = s E f''(z), so that

        Var A - Var B = s^2 (1 - 2 E f''(z)),

    which is not negative as long as E f'' <= 1/2: always for a concave f. The model's gradients are the same.
    """
    torch.manual_seed(3)
    pair = Logistic()
    x = torch.bernoulli(torch.full((6, 8), 0.5))
    result = gradient_statistics(pair, x, [SGVB_A(), SGVB_B()], 600, num_reference_draws=4)
    a, b = (result[name].groups for name in ("SGVB_A(1)", "SGVB_B(1)"))
    s = pair.log_scale.exp().detach()
    with torch.no_grad():  # f'' = -sum_j W_jd^2 p_j (1 - p_j)
        z = pair.loc + s * torch.randn(20000, *s.shape)
        p = torch.sigmoid(z @ pair.W.T + pair.b)
        curvature = -((p * (1 - p)) @ pair.W.square()).mean(0)
    truth = (s.square() * (1 - 2 * curvature)).sum().item() / len(x) ** 2
    difference = a["loc"].variance - b["loc"].variance
    assert difference > 0
    assert difference == pytest.approx(truth, abs=4 * math.hypot(a["loc"].variance_error, b["loc"].variance_error))
    assert truth > 4 * math.hypot(a["loc"].variance_error, b["loc"].variance_error)
    for group in ("W", "b"):
        assert a[group].variance == pytest.approx(b[group].variance, rel=1e-5)
        assert a[group].norm == pytest.approx(b[group].norm, rel=1e-5)


def test_analytic_kl_can_have_the_greater_variance_of_the_scales() -> None:
    r"""Not a theorem for every parameter. Here, by scale, with l the precision of the likelihood and a = l x,

        Var A - Var B = (1 + 2 l) (m^2 + 2 s^2) - 2 a m,

    and at the exact posterior m = a / (1 + l), s^2 = 1 / (1 + l) this is negative once m^2 > 2 (1 + 2 l) s^2: of data
    that are far from the prior's mean. There f'(z) - z nearly vanishes in L^A, while f'(z) = m alone does not in L^B.
    """
    pair = Separate()
    k = 1 + PRECISION
    pair.x = torch.linspace(-1, 1, GROUPS * SIZE, dtype=torch.float64).sign() * 6
    for loc, scale, x in zip(pair.loc, pair.scale, pair.x.split(SIZE), strict=True):
        loc.data.copy_(PRECISION * x / k)
        scale.data.fill_(k**-0.5)
    result = gradient_statistics(pair, pair.x, [SGVB_A(), SGVB_B()], 150, num_reference_draws=4)
    a, b = (result[name].groups for name in ("SGVB_A(1)", "SGVB_B(1)"))
    for group, index in (("loc", 0), ("scale", 1)):
        for found, variances in ((a[group], variances_a), (b[group], variances_b)):
            assert found.variance == pytest.approx(variances(pair)[index].sum().item(), abs=4 * found.variance_error)
    assert a["loc"].variance > 1.5 * b["loc"].variance
    assert b["scale"].variance > 1.5 * a["scale"].variance
    assert b["q(z)"].variance > a["q(z)"].variance  # also in all


class Common(nn.Module):
    """z_i ~ N(0, 1), x_i | z_i ~ N(weight z_i, 1); one q(z) = N(loc, scale), near the posterior, for all data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.3))
        self.loc, self.scale = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.tensor(0.8))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.weight * z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, self.scale).expand(x.shape))


@pytest.mark.slow
def test_signal_to_noise_ratios_of_importance_weighted_gradients() -> None:
    """Of the guide they fall as K^-1/2 with IWAE and rise as K^1/2 with DReG; of the model they rise as K^1/2.

    Rainforth et al. (2018), theorem 1; Tucker et al. (2019), section 5.
    """
    pair, x, counts = Common(), torch.full((100,), 1.2), [8, 32, 128]
    estimators = [kind(count) for kind in (IWAE, DReG) for count in counts]
    result = gradient_statistics(pair, x, estimators, 300, num_reference_draws=4)

    def slope(kind: str, group: str) -> tuple[float, float]:
        found = [result[f"{kind}({count})"].groups[group] for count in counts]
        weights = [f.snr / f.snr_error for f in found]
        (value, _), covariance = np.polyfit(
            np.log(counts), [math.log(f.snr) for f in found], 1, w=weights, cov="unscaled"
        )
        return value, math.sqrt(covariance[0, 0])

    for kind, group, expected in (
        ("IWAE", "q(z)", -0.5),
        ("DReG", "q(z)", 0.5),
        ("IWAE", "p(x)", 0.5),
        ("DReG", "p(x)", 0.5),
    ):
        value, error = slope(kind, group)
        assert error < 0.1
        assert value == pytest.approx(expected, abs=4 * error + 0.02)  # K is not infinite
    one, other = (result[f"{kind}(32)"].groups["q(z)"] for kind in ("IWAE", "DReG"))  # of one expectation
    assert abs(one.norm - other.norm) < 4 * math.sqrt((one.variance + other.variance) / 300)


# What the numbers are of

FOUND = [
    ("mlp_vae", {"p(x)": {"likelihood"}, "q(z)": {"posterior"}}),
    ("functions", {"p(x)": {"decoder", "scale"}, "q(z)": {"encoder"}}),
    ("plain_object", {"p(x)": {"decoder"}, "q(bias)": {"bias"}, "q(z)": {"encoder"}}),
    ("hierarchy", {"p(z1)": {"p_z1"}, "p(x)": {"p_x"}, "q(z2)": {"q_z2"}, "q(z1)": {"q_z1"}}),
]


@pytest.mark.parametrize(("name", "expected"), FOUND, ids=[name for name, _ in FOUND])
def test_groups(name: str, expected: dict[str, set[str]]) -> None:
    pair, batch = made(getattr(pairs, name))
    result = gradient_statistics(pair, batch, [SGVB_A()], 4, compile="eager")
    parts = set().union(*expected.values())
    assert set(result.parameters) == set(expected) | parts | {"all"}
    for site, attributes in expected.items():
        assert set(result.parameters[site]) == {n for a in attributes for n in result.parameters[a]}
    assert result.parameters["all"] == tuple(name for name, _ in pair.named_parameters())
    assert sorted(n for part in parts for n in result.parameters[part]) == sorted(result.parameters["all"])


def test_a_site_has_the_parameters_of_its_own_density_also_of_a_flow() -> None:
    """A planar flow scores only what it has just drawn; z2 hangs on z1 by its draw, not by its parameters."""
    encoder, flow, second = nn.Linear(4, 4), dist.transforms.Planar(2), nn.Linear(2, 2)
    fixed = nn.Linear(2, 2).requires_grad_(False)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", standard(2)(x))
            z2 = pyro.sample("z2", dist.Normal(second(z1), 1.0).to_event(1))
            pyro.deterministic("twice", 2 * z2)
            pyro.sample("x", dist.Normal(fixed(z2), 1.0).to_event(1), obs=x[:, :2])

    def guide(x: Tensor) -> None:
        for name, module in (("encoder", encoder), ("flow", flow), ("second", second), ("fixed", fixed)):
            pyro.module(name, module)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            base = dist.Normal(loc, log_scale.exp()).to_event(1)
            z1 = pyro.sample("z1", dist.TransformedDistribution(base, [flow]))
            pyro.sample("z2", dist.Normal(second(z1), 1.0).to_event(1))

    pair = Pair(model, guide)
    sites = by_site(pair, (torch.randn(3, 4),))
    names = {site: {name.split(".")[1] for name in found} for site, found in sites.items()}
    assert names == {"p(z2)": {"second"}, "q(z1)": {"encoder", "flow"}, "q(z2)": {"second"}}


def test_groups_of_ones_own() -> None:
    pair, batch = made(pairs.hierarchy)

    def layer(name: str) -> str | None:
        return name.split("_")[0] if name.endswith("weight") else None

    result = gradient_statistics(pair, batch, [SGVB_A()], 4, groups=layer, compile="eager")
    assert list(result.parameters) == ["p(z1)", "p(x)", "q(z2)", "q(z1)", "p", "q", "all"]
    assert result.parameters["q"] == ("q_z2.weight", "q_z1.weight")
    with pytest.raises(ValueError, match=r"'all' is a group by itself already; give the group of p_z1.weight another"):
        gradient_statistics(pair, batch, [SGVB_A()], 4, groups=lambda name: "all")


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_equals_a_loop_over_gradients(mode: Any) -> None:
    """Every number of two draws and four of the reference, computed anew; also what weighs by beta."""
    pair, batch = made(pairs.gaussian_vae)
    estimator = SGVB_A(2, beta=0.3)
    result = gradient_statistics(pair, batch, {"one": estimator}, 6, num_reference_draws=8, seed=5, compile=mode)
    parameters = list(pair.parameters())

    def draw(seed: int, count: int) -> Tensor:
        torch.manual_seed(seed)
        drawn = []
        for _ in range(count):
            loss = estimator.objective(pair.model, pair.guide, *batch).loss
            drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double())
        return torch.stack(drawn)

    r = torch.cat([draw(20, 4), draw(22, 4)])
    g = torch.cat([draw(21, 3), draw(23, 3)])
    found = result["one"].groups["all"]
    mean, target, variance = g.mean(0), r.mean(0), g.var(0)
    close = {"rel": 1e-4}
    assert found.norm == pytest.approx(mean.norm().item(), **close)
    assert found.bias == pytest.approx((mean - target).norm().item(), **close)
    assert found.bias_error == pytest.approx((variance / 6 + r.var(0) / 8).sum().sqrt().item(), **close)
    assert found.variance == pytest.approx(variance.sum().item(), **close)
    assert found.snr == pytest.approx((mean.abs() / variance.sqrt()).mean().item(), **close)
    cosine = torch.nn.functional.cosine_similarity
    assert found.cosine == pytest.approx(cosine(g[3:], target[None]).mean().item(), **close)
    assert found.cosine_of_mean == pytest.approx(cosine(mean, target, 0).item(), **close)
    line = g[:3].mean(0) - r[:4].mean(0)
    one, other = g[3:] @ line, r[4:] @ line
    z = (one.mean() - other.mean()) / (one.var() / 3 + other.var() / 4).sqrt()
    assert found.bias_z == pytest.approx(z.item(), rel=1e-3)
    assert found.variance_seconds == pytest.approx(found.variance * result["one"].seconds)
    assert found.variance_evaluations == pytest.approx(3 * found.variance)
    assert result["one"].evaluations == (2, 1)
    assert result["one"].mode == mode
    assert result["one"].seconds > 0


def test_all_estimators() -> None:
    pair, batch = made(pairs.mlp_vae)
    estimators = [
        SGVB_A(),
        SGVB_B(2),
        IWAE(3),
        DReG(3),
        Renyi(0.5, 3),
        MIWAE(2, 2),
        CIWAE(0.5, 3),
        PIWAE(2, 2),
        ScoreFunction(2),
        VIMCO(3),
        Enumeration(2),
        WakeSleep(),
        ReweightedWakeSleep(3, guide="both"),
        Annealed(),
        Capacity(1.0),
        FreeBits(0.1),
        Balanced(),
        TCVAE(),
        MonteCarloEM(2, num_transitions=2),
    ]
    assert {type(estimator) for estimator in estimators} == set(ESTIMATORS)
    step_size = estimators[-1].step_size
    result = gradient_statistics(pair, batch, estimators, 4, num_reference_draws=4, compile="eager")
    assert len(result.estimators) == len(estimators)
    assert all(found.groups["all"].variance > 0 for found in result.estimators.values())
    assert [found.evaluations for found in result.estimators.values()] == [e.evaluations for e in estimators]
    assert estimators[-1].step_size == step_size  # it adapts to the chains that it has seen


def test_traced_equals_eager_and_a_seed_is_a_seed() -> None:
    pair, batch = made(pairs.hierarchy)

    def numbers(seed: int, mode: Any) -> list[float]:
        result = gradient_statistics(pair, batch, [SGVB_A(), DReG(3), WakeSleep()], 10, seed=seed, compile=mode)
        rows = [row for row in result.as_rows()]
        return [v for row in rows for k, v in row.items() if isinstance(v, float) and "seconds" not in k]

    eager = numbers(1, "eager")
    assert numbers(1, "eager") == eager
    assert numbers(1, "auto") == pytest.approx(eager, rel=2e-3, abs=1e-4)
    assert numbers(2, "eager") != pytest.approx(eager, rel=2e-3, abs=1e-4)


def test_what_cannot_be_traced_runs_eagerly() -> None:
    pair, batch = made(pairs.functions)
    inner = pair._programs[0]

    def model(x: Tensor) -> None:
        with torch.random.fork_rng():
            draw = torch.rand(())
        if float(draw) > -1:  # a look at it, which no graph follows
            inner(x)

    looking = Pair(model, pair._programs[1])
    result = gradient_statistics(looking, batch, [SGVB_A()], 4)
    assert result["SGVB_A(1)"].mode == "eager"
    expected = gradient_statistics(pair, batch, [SGVB_A()], 4, compile="eager")
    assert result["SGVB_A(1)"].groups["all"].norm == pytest.approx(expected["SGVB_A(1)"].groups["all"].norm, rel=1e-4)


def test_everything_is_left_as_it_was() -> None:
    """Parameters, gradients, buffers, modes, the estimator, the random state; in the mode that the pair is in."""
    encoder = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4))
    decoder = nn.Linear(2, 6)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        program(z=standard(2), x=lambda x, z: dist.Normal(decoder(z), 1.0).to_event(1))(x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(x).chunk(2, -1)
        program(z=lambda x: dist.Normal(loc, log_scale.exp()).to_event(1))(x)

    pair, x = Pair(model, guide), torch.randn(5, 6)
    encoder[2].weight.grad = marked = torch.full((4, 6), 7.0)
    estimator = SGVB_B(beta=torch.tensor(0.5))
    before, fields = copy.deepcopy((encoder.state_dict(), decoder.state_dict())), dict(vars(estimator))
    state = torch.get_rng_state()
    training = gradient_statistics(pair, x, [estimator], 30, compile="traced")
    encoder.eval()
    evaluating = gradient_statistics(pair, x, [estimator], 30)
    assert training[training.reference].groups["all"].variance > 1.2 * evaluating["SGVB_B(1)"].groups["all"].variance
    assert torch.equal(torch.get_rng_state(), state)
    for old, new in zip(before, (encoder.state_dict(), decoder.state_dict()), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert encoder[2].weight.grad is marked
    assert torch.equal(marked, torch.full((4, 6), 7.0))
    assert decoder.weight.grad is None
    assert [part.training for part in encoder] == [False, False, False]
    assert decoder.training
    assert dict(vars(estimator)) == fields
    assert pyro.settings.get("validate_distributions_pyro")
    assert not list(pyro.get_param_store().keys())


def test_a_gradient_without_noise() -> None:
    """A prior's parameter has the gradient of the KL alone: no variance, no bias, and the ratio is infinite."""
    free = nn.Parameter(torch.tensor([0.3, -0.2]))
    unused = nn.Parameter(torch.zeros(2))

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.unused, self.loc = free, unused, nn.Parameter(torch.ones(2))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.free, 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc, 0.5).expand((len(x), 2)).to_event(1))

    result = gradient_statistics(Exact(), torch.zeros(3, 2), [SGVB_B(), SGVB_A()], 20)
    found = result["SGVB_B(1)"].groups["p(z)"]
    assert (found.variance, found.variance_error, found.bias_error) == pytest.approx((0, 0, 0), abs=1e-12)
    assert found.norm == pytest.approx(math.hypot(0.7, 1.2))
    assert found.snr == math.inf
    assert found.bias_z == pytest.approx(0, abs=0.5)
    assert found.cosine == pytest.approx(1)
    assert result["SGVB_A(1)"].groups["p(z)"].variance > 0.01
    nothing = result["SGVB_B(1)"].groups["unused"]
    assert (nothing.norm, nothing.variance, nothing.bias_z, nothing.cosine, nothing.relative_bias) == (0, 0, 0, 0, 0)
    assert math.isnan(nothing.snr)
    rows = result.as_rows()
    assert next(r for r in rows if r["group"] == "p(z)" and r["estimator"] == "SGVB_B(1)")["snr"] is None
    json.dumps(rows, allow_nan=False)


def test_table_and_rows() -> None:
    pair, batch = made(pairs.mlp_vae)
    long = ScoreFunction(4, pathwise=False)
    result = gradient_statistics(pair, batch, [SGVB_A(), long], 10)
    text = str(result)
    assert max(map(len, text.splitlines())) <= 120
    assert "10 draws of each estimator" in text
    assert "the mean of 40 draws of SGVB_A(1)" in text
    assert "p(x) = likelihood: 1,152 parameters" in text  # one block for one set of parameters
    assert "q(z) = posterior" in text
    assert "ScoreFunction(4, baseline='auto', pathwise=False)" in text  # whole among the costs
    assert repr(result) == text
    rows = result.as_rows()
    assert len(rows) == 2 * len(result.parameters)
    assert rows[0]["estimator"] == "SGVB_A(1)"
    assert rows[0]["variance"] == result["SGVB_A(1)"].groups[rows[0]["group"]].variance
    with pytest.raises(KeyError, match=r"no estimator is called 'B'; there are SGVB_A\(1\), Score"):
        result["B"]


EMPTY = Pair(program(z=standard(), x=lambda x, z: dist.Normal(z, 1.0)), program(z=standard()))
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_draws": 3}, ValueError, "num_draws has to be a whole number of at least 4; got 3"),
    ({"num_reference_draws": 0}, ValueError, "num_reference_draws has to be a whole number of at least 4; got 0"),
    ({"estimators": []}, ValueError, "there are no estimators to compare"),
    ({"estimators": {}}, ValueError, "there are no estimators to compare"),
    ({"estimators": SGVB_A()}, TypeError, "estimators is one SGVB_A; give a list of them"),
    ({"estimators": [SGVB_A]}, TypeError, "estimators holds SGVB_A, which is no estimator"),
    ({"estimators": {"a": pyro.infer.Trace_ELBO()}}, TypeError, "estimators holds Trace_ELBO, which is no estimator"),
    ({"estimators": [SGVB_A(), SGVB_A(beta=0.5)]}, ValueError, r"two estimators are called SGVB_A\(1\); give them"),
    ({"reference": 3}, TypeError, "reference is a int; expected an estimator"),
    ({"batch": torch.zeros(0)}, ValueError, "there are no data: x is empty"),
    ({"batch": ()}, ValueError, "there are no data: x is empty"),
    ({"pair": EMPTY}, ValueError, "the pair has no parameters that are trained"),
    ({"pair": 3}, TypeError, "a pair has two methods"),
    ({"compile": "fast"}, ValueError, "compile is one of"),
    (
        {"estimators": [IWAE(2)], "batch": torch.tensor([1.0, math.nan])},
        ValueError,
        r"x is NaN in 1 of 2 data",
    ),
]


@pytest.mark.parametrize(("given", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refuses(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments = {"pair": Common(), "batch": torch.ones(2), "estimators": [SGVB_A()], "num_draws": 4} | given
    with pytest.raises(kind, match=message):
        gradient_statistics(**arguments)


def test_a_broken_gradient_is_named_and_leaves_nothing_behind() -> None:
    pair = Common()
    pair.weight.data.fill_(math.inf)
    with pytest.raises(ValueError, match=r"draw 1 of .*SGVB_A\(1\) is not finite, in weight, loc, scale\. `check\("):
        gradient_statistics(pair, torch.tensor([1.0]), [SGVB_A()], 4, compile="eager")
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_an_estimators_own_refusal_comes_through() -> None:
    pair = Pair(
        program(
            z=lambda x: dist.Bernoulli(0.5), x=lambda x, z: dist.Normal(pyro.param("w", torch.tensor(1.0)) * z, 1.0)
        ),
        program(z=lambda x: dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.2)).expand(len(x)))),
    )
    with pytest.raises(ValueError, match=r"IWAE needs reparameterized latents, but q\(z\) is a Bernoulli"):
        gradient_statistics(pair, torch.ones(3), [IWAE(2)], 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gradient_statistics(pair, torch.ones(3), [ScoreFunction(3), VIMCO(3)], 4)
    assert set(result.parameters) == {"p(x)", "q(z)", "w", "logit", "all"}
    assert as_pair(pair) is pair
