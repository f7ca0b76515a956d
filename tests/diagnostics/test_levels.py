"""Several latents: what each holds and how far it is used, on pairs with known answers; evidence of feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, binary, made
from programs import program, standard
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyro_vae import SGVB_A, BottomUpVAE, DiagonalNormal, Pair, StandardNormal, TopDownVAE, evidence, figures
from pyro_vae.data import Data, Split
from pyro_vae.diagnostics import (
    active_units,
    decode,
    encode,
    interpolate,
    latent_names,
    levels,
    rate_distortion,
    reconstruct,
    resample,
    sample,
)
from pyro_vae.hierarchy import LatentLayer
from pyro_vae.networks import MLP, Convolutional


class Map(LatentLayer):
    """z [1, 2, 2] with p = N(h, 1) and q = N(h + e, scale); h = 2 z + 1 below."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return dist.Normal(torch.zeros(1, 2, 2) if h is None else h, 1.0).to_event(3)

    def posterior(self, p: Any, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        return dist.Normal(p.base_dist.loc + evidence, self.scale).to_event(3)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return 2 * z + 1


class Lowest(Map):
    """As :class:`Map`, and z is what the likelihood gets."""

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return z


class Linear(nn.Module):
    """x [1, 4, 4] ~ N(W z, 0.5) of a map z [1, 2, 2]; without a network x is z."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network

    def forward(self, h: Tensor) -> dist.Distribution:
        return dist.Normal(h if self.network is None else self.network(h), 0.5).to_event(3)


def upwards(x: Tensor) -> list[Tensor]:
    """The evidence of z1 is zero, that of z2 the upper left corner of x, but for one pixel."""
    corner = x[..., :2, :2] * torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    return [torch.zeros_like(corner), corner]


def maps(scale: float = 1.0, network: nn.Module | None = None) -> TopDownVAE:
    """z2 ~ N(0, I), z1 ~ N(2 z2 + 1, I), x ~ N(z1, 0.5); q(z2 | x) = N(corner, scale), q(z1 | z2) = p(z1 | z2)."""
    return TopDownVAE(upwards, [Lowest(1.0), Map(scale)], Linear(network))


X = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(3))


def top_down() -> tuple[Any, Tensor]:
    return maps(0.7), X


def bottom_up() -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    conditionals = [DiagonalNormal(MLP(above, (2, below), hidden=())) for below, above in ((4, 3), (3, 2))]
    posteriors = [DiagonalNormal(MLP(below, (2, above), hidden=())) for below, above in ((5, 4), (4, 3), (3, 2))]
    decoder = MLP(4, (5,), hidden=())
    return BottomUpVAE(
        StandardNormal(2), conditionals, posteriors, lambda z: dist.Bernoulli(logits=decoder(z)).to_event(1)
    ), binary(5)


class Codes(nn.Module):
    """z2 [1, 1, 3] and z1 [2, 2, 4] one-hot, uniform; x ~ Bernoulli of the codes' numbers; the guide is a Delta."""

    def __init__(self, top: Callable[[Tensor], Tensor], low: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.codes = {"z2": (top, (1, 1, 3)), "z1": (low, (2, 2, 4))}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = {}
            for name, (_, shape) in self.codes.items():
                z[name] = pyro.sample(name, dist.OneHotCategorical(torch.ones(shape)).to_event(2))
            number = (z["z1"] * torch.arange(4.0)).sum(-1) - 1.5 + (z["z2"] * torch.arange(3.0)).sum(-1)
            pyro.sample("x", dist.Bernoulli(logits=number.unsqueeze(-3)).to_event(3), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for name, (code, shape) in self.codes.items():
                number = code(x).reshape(-1, *shape[:-1])
                pyro.sample(name, dist.Delta(one_hot(number, shape[-1]).to(x.dtype), event_dim=3))


def quantized() -> tuple[Any, Tensor]:
    return Codes(lambda x: x.long().sum((1, 2, 3)) % 3, lambda x: x.long() + 2), binary(1, 2, 2, size=6)


hierarchies = pytest.mark.parametrize("make", [top_down, bottom_up, quantized])


@hierarchies
def test_all_latents_held_give_the_reconstruction_and_none_a_sample(make: Callable[[], tuple[Any, Tensor]]) -> None:
    pair, x = make()
    names = latent_names(pair, x)
    assert names == tuple(sorted(names, reverse=True))
    drawn = resample(pair, x, fixed=names, num_samples=3)
    assert drawn.shape == (len(x), 3, *x.shape[1:])
    for column in drawn.unbind(1):
        torch.testing.assert_close(column, reconstruct(pair, x))
    values = {name: value.flip(0) for name, value in encode(pair, x).items()}
    torch.testing.assert_close(resample(pair, x, fixed=values, num_samples=1)[:, 0], decode(pair, values, x))
    torch.manual_seed(1)
    none = resample(pair, x[:1], num_samples=7)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(none, sample(pair, 7, x[:1]))


def test_what_is_not_held_comes_from_its_conditional_prior() -> None:
    pair = maps(0.7)
    top = encode(pair, X)["z2"]
    torch.testing.assert_close(top, upwards(X)[1])
    torch.manual_seed(0)
    z1 = resample(pair, X, fixed=["z2"], num_samples=4000)  # E[x | z] is z1
    torch.testing.assert_close(z1.mean(1), 2 * top + 1, atol=5 / 4000**0.5, rtol=0)
    torch.testing.assert_close(z1.std(1), torch.ones_like(top), atol=0.06, rtol=0)
    z1 = resample(pair, X, sampled=["z2"], num_samples=4000)  # z1 at its mean given z2
    torch.testing.assert_close(z1.mean(1), torch.ones_like(top), atol=10 / 4000**0.5, rtol=0)
    torch.testing.assert_close(z1.std(1), 2 * torch.ones_like(top), atol=0.12, rtol=0)
    torch.testing.assert_close(resample(pair, X, sampled=[], num_samples=2), torch.ones(6, 2, 1, 2, 2))
    below = resample(pair, X, fixed=["z2"], sampled=[], num_samples=2)
    torch.testing.assert_close(below, (2 * top + 1)[:, None].expand(6, 2, 1, 2, 2))
    held = torch.arange(24.0).reshape(6, 1, 2, 2)
    assert torch.equal(resample(pair, X, fixed={"z1": held}, num_samples=2), held[:, None].expand(6, 2, 1, 2, 2))


def test_a_discrete_latent_has_no_mean_to_be_at() -> None:
    pair, x = quantized()
    torch.manual_seed(0)
    drawn = resample(pair, x[:1], fixed=["z2"], sampled=[], num_samples=200)[0]
    numbers = torch.logit(drawn) + 1.5 - (encode(pair, x[:1])["z2"] * torch.arange(3.0)).sum()
    assert sorted(numbers.round(decimals=3).unique().tolist()) == [0, 1, 2, 3]


def test_latents_that_cannot_be_held() -> None:
    pair = maps()
    with pytest.raises(ValueError, match="no latent 'z3'; it has z2, z1"):
        resample(pair, X, fixed=["z3"])
    with pytest.raises(ValueError, match="'z1' is named more than once: put it in fixed or in sampled"):
        resample(pair, X, fixed=["z1"], sampled=["z1"])
    with pytest.raises(ValueError, match=r"6 data need as many values of 'z2', \[6, \*event\]; got \[2, 1, 2, 2\]"):
        resample(pair, X, fixed={"z2": torch.zeros(2, 1, 2, 2)})


def test_usage_of_each_level() -> None:
    """The unit whose evidence is zero, and all of z1, copy their priors; but the means of z1 move with z2."""
    pair = maps(1.0)
    found = levels(pair, [(X[:2],), (X[2:],)])
    corner = upwards(X)[1].flatten(1)
    assert [level.site for level in found] == ["z1", "z2"]
    assert (found["z2"].num_units, found["z2"].num_active, found["z2"].num_informative) == (4, 3, 3)
    assert (found["z1"].num_units, found["z1"].num_active, found["z1"].num_informative) == (4, 3, 0)
    assert found["z2"].rate == pytest.approx(corner.square().sum(1).mean().item() / 2, rel=1e-5)
    assert found["z2"].rate_per_unit == pytest.approx(found["z2"].rate / 4)
    assert found["z1"].rate == pytest.approx(0, abs=1e-6)
    limit = corner.var(0, correction=0).sort().values[2].item()
    few = levels(pair, [(X,)], threshold=limit * 1.001)
    assert few["z2"].num_active == 1
    assert levels(pair, [(X,)], threshold=limit * 0.999)["z2"].num_active == 2
    assert levels(pair, [(X + torch.tensor([5000.0]),)])["z2"].num_active == 3  # the squares do not cancel
    lines = str(found).splitlines()
    assert " ".join(lines[0].split()) == "latent KL (nats) units active (variance > 0.01) informative (KL > 0.01 nats)"
    assert lines[1].split() == ["z1", "0.00", "4", "3", "0"]
    with pytest.raises(ValueError, match="no data"):
        levels(pair, [])


def test_the_kl_of_a_unit_is_not_biased_where_the_guide_runs_upwards() -> None:
    """z2 = z1 = 2 x up to small noise; with the closed form, E[KL(q(z1 | x) || p(z1 | z2))], the rate is another."""

    model = program(
        z2=standard(2),
        z1=lambda x, z2: dist.Normal(z2, 1.0).to_event(1),
        x=lambda x, z2, z1: dist.Normal(z1, 1.0).to_event(1),
    )
    guide = program(  # with the exact p(z2 | z1): KL 0 in all
        z1=lambda x: dist.Normal(torch.zeros_like(x), 2**0.5).to_event(1),
        z2=lambda x, z1: dist.Normal(z1 / 2, 0.5**0.5).to_event(1),
    )
    torch.manual_seed(0)
    found = levels(Pair(model, guide), [(torch.zeros(20_000, 2),)], threshold=0.4)
    # E log q(z1) - log p(z1 | z2) = -0.5 log 2 by unit, E log q(z2 | z1) - log p(z2) = 0.5 log 2
    assert found["z2"].num_informative == 0
    assert found["z1"].num_informative == 0  # 0.5 by the closed form
    assert found["z1"].rate == pytest.approx(-math.log(2), abs=0.03)
    assert found.rate == pytest.approx(0, abs=0.03)
    assert levels(Pair(model, guide), [(torch.zeros(20_000, 2),)], threshold=0.3)["z2"].num_informative == 2


@pytest.mark.parametrize("factory", PAIRS)
def test_levels_of_any_pair(factory: Any) -> None:
    pair, batch = made(factory)
    torch.manual_seed(0)
    rates = rate_distortion(pair, [batch], SGVB_A()).rates
    torch.manual_seed(0)
    found = levels(pair, [batch], estimator=SGVB_A())
    assert set(found.usage) == set(encode(pair, *batch)) == set(latent_names(pair, *batch))
    for level in found:
        assert level.rate == pytest.approx(rates[level.site])
        units = active_units(pair, [batch], site=level.site)
        assert (level.num_active, level.num_units) == (units.count, len(units.variances))
    assert found.rate == pytest.approx(sum(rates[site] for site in found.usage))


def usage_of(numbers: Tensor, kind: str) -> Any:
    """Levels of a pair whose code at N data and 3 positions is ``numbers: [N, 3]`` of 4, as a site of one kind."""
    hot = one_hot(numbers, 4).float()
    prior = dist.Categorical if kind == "integer" else dist.OneHotCategorical
    family = {"delta": lambda code: dist.Delta(code, event_dim=1)}.get(kind, prior)
    model = program(
        z=lambda x: prior(torch.ones(3, 4)).to_event(1),
        x=lambda x, z: dist.Normal(z.float().reshape(len(x), -1).sum(-1), 1.0),
    )
    x = torch.arange(float(len(numbers)))
    return levels(Pair(model, program(z=lambda x: family(hot[x.long()]).to_event(1))), [(x[:3],), (x[3:],)])


@pytest.mark.parametrize("kind", ["delta", "one-hot", "integer"])
def test_perplexity_of_codes(kind: str) -> None:
    uniform = torch.arange(24).reshape(8, 3) % 4
    found = usage_of(uniform, kind)["z"]
    assert found.perplexity == pytest.approx(4)
    assert (found.num_units, found.num_codes, found.num_active, found.num_informative) == (3, 4, None, None)
    assert found.rate == pytest.approx(3 * math.log(4), rel=1e-5)  # a code tells log K
    assert usage_of(torch.full((8, 3), 2), kind)["z"].perplexity == pytest.approx(1)
    skewed = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 2, 1], [0, 0, 3], [1, 1, 1]])
    share = torch.bincount(skewed.flatten(), minlength=4) / 15
    assert usage_of(skewed, kind)["z"].perplexity == pytest.approx(math.exp(stats.entropy(share)), rel=1e-5)
    assert str(usage_of(uniform, kind)).splitlines()[1].split() == ["z", "4.16", "3", "4.0", "4"]


def test_perplexity_counts_the_probabilities_of_codes() -> None:
    """Not the draws: over a single datum a draw would have perplexity 1."""
    model = program(z=lambda x: dist.OneHotCategorical(torch.ones(4)), x=lambda x, z: dist.Normal(z.sum(-1), 1.0))
    guide = program(z=lambda x: dist.OneHotCategorical(torch.tensor([0.5, 0.25, 0.25, 0.0]).expand(len(x), 4)))
    found = levels(Pair(model, guide), [(torch.zeros(1),)])["z"]
    assert found.perplexity == pytest.approx(2**1.5)


def test_interpolation_of_feature_maps() -> None:
    pair = maps()
    steps = interpolate(pair, X[:3], X[3:], 5)
    torch.testing.assert_close(steps[:, 0], reconstruct(pair, X[:3]))
    torch.testing.assert_close(steps[:, -1], reconstruct(pair, X[3:]))
    torch.testing.assert_close(steps[:, 2], (steps[:, 0] + steps[:, -1]) / 2)


@pytest.mark.parametrize(
    ("make", "more"), [(top_down, {"interpolations", "levels_held", "levels_drawn"}), (quantized, {"levels_held"})]
)
def test_figures_of_levels(make: Callable[[], tuple[Any, Tensor]], more: set[str], tmp_path: Any) -> None:
    pair, x = make()
    data = Data("toy", Split(x.clamp(0, 1)), None, None)
    found = figures.draw(tmp_path, pair, data, {})
    assert {path.stem for path in found} == {"reconstructions", "samples", "levels"} | more


def feature_maps() -> tuple[TopDownVAE, Tensor, Tensor]:
    """``(pair, x, log p(x) of each datum)``: x ~ N(W z1 + b, 0.25 I) with z1 ~ N(1, 5 I), of maps [1, 2, 2]."""
    torch.manual_seed(0)
    network = Convolutional((1, 2, 2), (1, 4, 4), [nn.ConvTranspose2d(1, 1, 2, stride=2)]).requires_grad_(False)
    pair, x = maps(1.0, network), torch.randn(3, 1, 4, 4)
    b = network(torch.zeros(1, 1, 2, 2)).flatten()
    W = torch.stack([network(unit.reshape(1, 1, 2, 2)).flatten() - b for unit in torch.eye(4)], 1)
    law = dist.MultivariateNormal(W.sum(1) + b, 5 * W @ W.T + 0.25 * torch.eye(16))
    return pair, x, law.log_prob(x.flatten(1))


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_annealing_of_feature_maps(start: Any) -> None:
    pair, x, log_prob = feature_maps()
    found = evidence.ais(pair, x, 64, 40, num_leapfrog=3, start=start, compile="traced")
    assert found.log_prob.shape == (3,)
    error = found.standard_error.clamp_min(0.01)
    assert ((found.log_prob - log_prob).abs() < 4 * error).all(), (found.log_prob - log_prob, error)
    assert (error < 0.3).all()


def test_importance_sampling_of_feature_maps() -> None:
    pair, x, log_prob = feature_maps()
    with pytest.warns(UserWarning, match="effective sample size|k-hat"):  # the guide knows little
        found = evidence.importance(pair, x, 20_000, compile="traced")
    assert ((found.log_prob - log_prob).abs() < 4 * found.standard_error.clamp_min(0.02)).all()


@pytest.mark.parametrize("method", [evidence.ais, evidence.bdmc, evidence.hmc])
def test_chains_refuse_codes(method: Any) -> None:
    pair, x = quantized()
    with pytest.raises(ValueError, match=r"continuous latents, but 'z2' is a OneHotCategorical.*evidence\.importance"):
        method(pair, x, compile="traced")


def test_evidence_of_codes_is_that_of_the_nearest_code() -> None:
    """The guide is a point, so that importance sampling gives log p(x, z) there."""
    pair, x = quantized()
    codes = encode(pair, x)
    log_z = -math.log(3) - 4 * math.log(4)
    means = decode(pair, codes, x)
    expected = dist.Bernoulli(means).to_event(3).log_prob(x) + log_z
    found = evidence.importance(pair, x, 3, compile="traced")
    torch.testing.assert_close(found.log_prob, expected)
