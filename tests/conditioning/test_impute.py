"""Missing entries against closed forms: of linear Gaussian pairs, and of one latent on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from incomplete import FactorAnalysis, conditional, data, follows_the_argument, log_evidence, of_linear
from pairs import functions, linear_gaussian
from torch import Tensor, nn

from pyro_vae import Pair, conditioning, evidence, likelihoods
from pyro_vae.conditioning import PartlyObserved, impute
from pyro_vae.models import MLPVAE, IncompleteVAE

K = 4000


def masking_nan(pair: FactorAnalysis) -> Pair:
    """The same pair, whose programs see by themselves what is missing."""

    def apart(program: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: program(x.nan_to_num(), ~x.isnan())

    return Pair(apart(pair.model), apart(pair.guide), pair)


@pytest.mark.parametrize("widened", [1.0, 1.4])
def test_linear_gaussian(widened: float) -> None:
    """Means, draws and log p(x_obs) are exact, with an exact guide at every draw of z."""
    pair, (x, mask) = FactorAnalysis(widened=widened), data()
    found = impute(pair, x, K, 2000)
    moments = pair.marginal()
    expected = log_evidence(*moments, x, mask)
    assert torch.equal(found.mask, mask)
    assert torch.equal(found.mean[mask], x[mask])
    assert (found.draws[:, mask] == x[mask]).all()
    if widened == 1.0:
        torch.testing.assert_close(found.log_prob, expected)
        torch.testing.assert_close(found.effective_sample_size, torch.full((5,), float(K)).double())
    else:
        assert ((found.effective_sample_size > K / 4) & (found.effective_sample_size < K)).all()
        torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=5 / math.sqrt(K / 4))
    for n, (row, seen) in enumerate(zip(x, mask, strict=True)):
        if seen.all():
            continue
        mean, covariance = conditional(*moments, row, seen)
        scale = covariance.diagonal().sqrt()
        error = 5 * scale / found.effective_sample_size[n].sqrt()
        assert ((found.mean[n, ~seen] - mean).abs() <= error).all()
        drawn = found.draws[:, n, ~seen]
        assert ((drawn.mean(0) - mean).abs() <= error + 5 * scale / math.sqrt(2000)).all()
        torch.testing.assert_close(drawn.T.cov().reshape_as(covariance), covariance, rtol=0.2, atol=0.2)


def test_ways_to_say_what_is_missing() -> None:
    """NaN, a mask, and programs that look for NaN themselves give the same numbers; so does any chunk their means."""
    pair, (x, mask) = FactorAnalysis(), data()
    found = impute(pair, x, 200)
    garbage = torch.where(mask, x, torch.full_like(x, 1e9))
    for other in (impute(pair, (garbage, mask), 200), impute(masking_nan(pair), x, 200)):
        assert torch.equal(other.mean, found.mean)
        assert torch.equal(other.log_prob, found.log_prob)
    small = impute(FactorAnalysis(widened=1.2), x, K, 3, chunk=37)
    assert small.draws.shape == (3, *x.shape)
    torch.testing.assert_close(small.mean, impute(FactorAnalysis(widened=1.2), x, K).mean, rtol=0, atol=0.25)


def test_a_pair_of_whole_data() -> None:
    """log p(x_obs), means and the posterior of a pair that knows of no missing entries."""
    pair, _, _ = linear_gaussian()
    x, mask = data()
    found = impute(pair, x, 20_000)
    moments = of_linear(pair)
    observed = PartlyObserved(pair)
    exact = log_evidence(*moments, x, mask)
    told = evidence.importance(observed, x, 20_000)
    assert ((told.log_prob - exact).abs() < 5 * told.standard_error + 1e-9).all()
    annealed = evidence.ais(observed, x, 16, 200)
    assert ((annealed.log_prob - exact).abs() < 5 * annealed.standard_error + 1e-9).all()
    for n in range(2, 5):
        mean, covariance = conditional(*moments, x[n], mask[n])
        error = 5 * covariance.diagonal().sqrt() / found.effective_sample_size[n].sqrt()
        assert ((found.mean[n, ~mask[n]] - mean).abs() <= error).all()


GRID = torch.linspace(-6, 6, 2001)[:, None]
KINDS: dict[str, Callable[..., Any]] = {
    "Bernoulli": likelihoods.Bernoulli,
    "StudentT": lambda network: likelihoods.StudentT(network, sigmoid_mean=False),
    "Poisson": likelihoods.Poisson,
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_likelihoods_on_a_grid(kind: str) -> None:
    """One latent, of which the posterior is known on a grid."""
    torch.manual_seed(2)
    vae = IncompleteVAE((5,), 1, (6,), likelihood=KINDS[kind]).eval()
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.mul_(3)
    x = torch.tensor([[1.0, 0.0, math.nan, 1.0, math.nan], [math.nan, 1.0, 1.0, math.nan, 0.0]])
    mask = ~x.isnan()
    with torch.no_grad():
        p = vae.likelihood(GRID)
        scores = p.base_dist.log_prob(x.nan_to_num()[:, None]) * mask[:, None]
        posterior = (scores.sum(-1) + dist.Normal(0.0, 1.0).log_prob(GRID[:, 0])).softmax(-1)
        expected = torch.einsum("bg,gd->bd", posterior, p.mean)
    found = impute(vae, x, 20_000, 4000)
    error = 5 / found.effective_sample_size.sqrt()[:, None] * (1 + expected)
    assert ((found.mean - expected).abs() <= error)[~mask].all()
    if kind == "Bernoulli":
        assert set(found.draws.unique().tolist()) == {0.0, 1.0}
    if kind != "StudentT":  # whose draws have a heavy tail
        assert ((found.draws.mean(0) - expected).abs() <= error + 5 * (expected / 4000).sqrt())[~mask].all()


def test_pyros_partial_observations() -> None:
    """A latent called x_unobserved, as Pyro's ``obs_mask`` makes it, is what is missing."""
    W = torch.tensor([1.0, 0.5])

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("columns", 2, dim=-1):
                pyro.sample("x", dist.Normal(z * W, 0.5), obs=x, obs_mask=mask)

    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))

    x = torch.tensor([[0.8, math.nan], [math.nan, math.nan], [0.3, 0.4]])
    found = impute(Pair(model, guide), x, 40_000, site="x_observed")
    slope = 0.5 * 1.0 / (1 + 0.25)
    torch.testing.assert_close(found.mean[:2, 1], torch.tensor([0.8 * slope, 0.0]), rtol=0, atol=0.03)


def test_what_is_refused() -> None:
    pair, (x, mask) = FactorAnalysis(), data()
    for bad, error, words in (
        ((x.nan_to_num(), mask.long()), TypeError, "mask is a tensor of booleans"),
        ((x.nan_to_num(), mask[:, :2]), ValueError, "of the shape of x"),
        (x[:0], ValueError, "no data"),
    ):
        with pytest.raises(error, match=words):
            impute(pair, bad)
    with pytest.raises(ValueError, match="num_imputations"):
        impute(pair, x, num_imputations=-1)
    with pytest.raises(ValueError, match=r"takes x of shape \[B, 3\]; got \[4\]\.$"):  # without Pyro's table of shapes
        impute(IncompleteVAE((3,), 2, (8,)), torch.zeros(4))
    images, batch = functions()
    with pytest.raises(ValueError, match="no site 'y'"):
        impute(images, batch[0], site="y")


def test_a_poor_guide_is_told() -> None:
    pair, (x, _) = FactorAnalysis(widened=30.0), data()
    with pytest.warns(UserWarning, match="effective sample size is below 5"):
        impute(pair, x, 300)


def test_states_are_kept_and_seeds_tell() -> None:
    pair, (x, _) = FactorAnalysis(widened=1.3), data()
    state = torch.get_rng_state()
    one, same, other = (impute(pair, x, 100, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.draws, same.draws)
    assert not torch.equal(one.draws, other.draws)
    assert "missing entries of 20" in str(one)


def test_images_and_vectors() -> None:
    """x may be observed flat, as a user's pair of images does; integers are pixels."""
    vae = MLPVAE((9,), 2, (4,))
    flat = Pair(lambda x: vae.model(x.flatten(1)), lambda x: vae.guide(x.flatten(1)), vae)
    images = (torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    images[:, :, 2] = math.nan
    found = impute(flat, images, 50, 2)
    assert found.mean.shape == (3, 1, 3, 3)
    assert torch.equal(found.mean[:, :, :2], images[:, :, :2])
    assert found.mean.isfinite().all()
    assert conditioning.impute(vae, images.flatten(1), 50).mean.isfinite().all()


@pytest.mark.parametrize("parts", [2, 1], ids=["x in two sites", "another site of as many numbers"])
def test_entries_that_are_not_those_of_one_site_are_refused(parts):
    class Odd(nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                for part, value in enumerate(x.split(1, -1) if parts == 2 else (x, 2 * x)):
                    pyro.sample(f"x{part}", dist.Normal(z[:, None], 1.0).to_event(1), obs=value)

        def guide(self, x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    x = torch.tensor([[0.5, float("nan")], [1.0, 2.0]])
    with pytest.raises(ValueError, match=r"that has as many numbers as x, and (none has|'x0' and 'x1' have)"):
        impute(Odd(), x)


def observing_as(change: Callable[[Tensor], Tensor]) -> Pair:
    """x = z W + noise, two columns, of which the model observes what it makes of its argument."""
    W = torch.tensor([1.0, -2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 2, dim=-2):
                pyro.sample("x", dist.Normal(z * W[:, None], 1.0), obs=change(x))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0 * x.sum(-1), 1.0))

    return Pair(model, guide)


@pytest.mark.parametrize("change", [lambda x: x.T, lambda x: x.T.flip(0)], ids=["transposed", "flipped too"])
def test_x_in_another_order_is_refused_and_drawn_by_the_sites_own_entries(change: Any) -> None:
    """The mask of x would fall on other entries than those that are missing."""
    x = torch.tensor([[1.0, math.nan], [math.nan, math.nan], [0.5, 1.0]])
    pair = observing_as(change)
    with pytest.raises(ValueError, match="observes other numbers than x, or in another order"):
        impute(pair, x, 100)
    drawn = conditioning.sample(pair, 1000, where={"x": x})  # by site, whatever the programs make of an argument
    expected = torch.tensor([0.5, 0.0, (0.5 - 2.0) / 6])
    torch.testing.assert_close(drawn["z"].mean(0).flatten(), expected, rtol=0, atol=0.15)


def test_values_are_the_sites_and_not_the_arguments() -> None:
    """A model that observes x / 10 is conditioned on the value of its site, by each method, and imputes no x."""
    pair, x = observing_as(lambda x: x.T / 10), torch.tensor([[1.0, 2.0]])
    for method in ("auto", "prior"):
        drawn = conditioning.sample(pair, 2000, where={"x": x}, method=method)["z"]
        torch.testing.assert_close(drawn.mean(), torch.tensor((1.0 - 4.0) / 6), rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="as the programs are passed"):
        conditioning.sample(pair, 100, where={"x": x}, method="guide")
    masking = Pair(lambda x, mask: pair.model(x), lambda x, mask: pair.guide(x))
    with pytest.raises(ValueError, match="observes other numbers than x"):
        impute(masking, x, 100)


def test_numbers_one_a_datum() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    found = impute(Pair(model, guide), torch.tensor([1.0, math.nan]), 1000, 3)
    assert found.draws.shape == (3, 2)
    torch.testing.assert_close(found.log_prob[0], dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)))


def test_what_follows_missing_entries_by_the_argument_is_refused() -> None:
    """x_2 ~ N(z + x_1, 1) with the x_1 that was passed: where that is missing, it would be a number in its place."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.5).expand([len(x)]))

    pair, nan = Pair(follows_the_argument, guide), math.nan
    found = impute(pair, torch.tensor([[1.0, nan], [2.0, 0.0]]), 40_000)  # x_1 is known where it is looked at
    torch.testing.assert_close(found.mean[0, 1], torch.tensor(1.5), rtol=0, atol=0.05)
    torch.testing.assert_close(
        found.log_prob[0], dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)), rtol=0, atol=0.05
    )
    for x in ([[1.0, nan], [nan, 2.0]], [[nan, nan], [1.0, 1.0]]):
        with pytest.raises(ValueError, match=r"takes p\(x\) from data that it observes"):
            impute(pair, torch.tensor(x), 100)
        with pytest.raises(ValueError, match=r"takes p\(x\) from data that it observes"):
            evidence.importance(conditioning.PartlyObserved(pair), torch.tensor(x), 100)

    def regression(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x), 2]).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)

    def encoder(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"takes p\(y\) from data that it observes"):
        impute(Pair(regression, encoder), (torch.tensor([[1.0, nan]]), torch.zeros(1)), 100)


def test_classes_have_the_mean_of_their_numbers() -> None:
    """E[x_2 | x_1] of classes by enumeration, and not the mean of the most probable ones."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5)).long()
            pyro.sample("x", dist.Categorical(p[z].unsqueeze(-2).expand(*z.shape, 2, 3)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5).expand([len(x)]))

    found = impute(Pair(model, guide), torch.tensor([[0.0, math.nan]]), 40_000, 4000)
    expected = torch.tensor([5.0, 1.0]) / 6 @ p @ torch.arange(3.0)
    torch.testing.assert_close(found.mean[0, 1], expected, rtol=0, atol=0.01)
    torch.testing.assert_close(found.draws[:, 0, 1].mean(), expected, rtol=0, atol=0.07)


def test_without_a_mean_it_is_the_mode() -> None:
    """Of Student's t with one degree of freedom, E[z | x_1] by quadrature."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.StudentT(1.0, z.unsqueeze(-1).expand(*z.shape, 2)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.5).expand([len(x)]))

    z = torch.linspace(-9, 9, 4001)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.StudentT(1.0, z).log_prob(torch.tensor(2.0))
    found = impute(Pair(model, guide), torch.tensor([[2.0, math.nan]]), 40_000)
    torch.testing.assert_close(found.mean[0, 1], (log_p.softmax(0) * z).sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.zeros(5, 0), ValueError, r"'x' observes data of shape \[5, 0\], and its law is over \[5, 4\]"),
        ([[1.0]], TypeError, r"x has to be a dense tensor of real numbers \[B, \*event\]; got \[\[1.0\]\]"),
    ],
)
def test_what_is_no_data_of_the_pair(x: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        PartlyObserved(MLPVAE((4,), 2, (3,))).model(x)
