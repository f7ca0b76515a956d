"""Conditional draws against closed forms: linear Gaussian pairs, and discrete ones by enumeration."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from incomplete import FactorAnalysis, conditional, data, follows_the_argument, of_linear
from pairs import Hierarchy, binary, functions, linear_gaussian, plain_object, two_arguments
from pyro import poutine
from torch import Tensor

from pyro_vae import Pair, diagnostics, evidence, sample
from pyro_vae.models import MLPVAE, LabeledVAE, SemiSupervisedVAE
from pyro_vae.pair.running import simulate

S = 2000


def close(draws: Tensor, mean: Tensor, covariance: Tensor, worth: float = S) -> None:
    """Moments of draws ``[S, D]`` that are worth so many independent ones."""
    scale = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() <= 5 * scale / math.sqrt(worth)).all()
    found = draws.T.cov().reshape_as(covariance)
    assert ((found - covariance).abs() <= 7 * torch.outer(scale, scale) / math.sqrt(worth)).all()


@pytest.mark.parametrize("method", ["auto", "chains", "prior"])
def test_linear_gaussian_given_all(method: Any) -> None:
    """z given x, by the guide, by chains and by the prior."""
    pair, x, _ = linear_gaussian()
    x = x[:2]
    found = sample(pair, S, where={"x": x}, method=method, max_draws=2_000_000, chunk=200_000)
    posterior: Any = pair.posterior(x)
    assert found["z"].shape == (S, 2, 2)
    assert torch.equal(found["x"], x.expand(S, *x.shape))
    assert found.method == {"auto": "guide"}.get(method, method)
    for n in range(2):
        worth = min(float(found.effective_sample_size[n]), S)
        close(found["z"][:, n], posterior.loc[n].detach(), posterior.covariance_matrix[n].detach(), worth / 2)
    assert f"{S:,} draws of z, x" in str(found)


@pytest.mark.parametrize("method", ["auto", "prior"])
def test_linear_gaussian_given_a_part(method: Any) -> None:
    """The rest of x given a part of it, of a pair of whole data."""
    pair, _, _ = linear_gaussian()
    x, mask = data()
    x, mask = x[2:4], mask[2:4]
    found = sample(pair, S, where={"x": x}, method=method, max_draws=2_000_000, chunk=200_000)
    assert found.method == {"auto": "chains"}.get(method, method)
    assert torch.equal(found["x"][:, mask], x[mask].expand(S, -1))
    if found.r_hat is not None:
        assert found.r_hat.max() < 1.05
    for n in range(2):
        worth = min(float(found.effective_sample_size[n]), S)
        close(found["x"][:, n, ~mask[n]], *conditional(*of_linear(pair), x[n], mask[n]), worth / 2)


def test_a_pair_of_missing_data() -> None:
    pair, (x, mask) = FactorAnalysis(widened=1.2), data()
    found = sample(pair, S, where={"x": x[2:]})
    assert found.method == "guide"
    for n in range(3):
        close(found["x"][:, n, ~mask[2 + n]], *conditional(*pair.marginal(), x[2 + n], mask[2 + n]), S / 2)


def test_given_latents() -> None:
    """Of a latent that is given what lies below follows by the model: x ~ N(W z + b, s^2)."""
    pair, x, _ = linear_gaussian()
    z = torch.tensor([[0.5, -1.0], [2.0, 0.0]]).double()
    found = sample(pair, S, x, where={"z": z})
    assert found.method == "prior"
    expected = (z @ pair.W.T + pair.b).detach()
    for n in range(2):
        close(found["x"][:, n], expected[n], pair.s**2 * torch.eye(4).double())
    # A VAE draws a datum itself, and needs none.
    vae = MLPVAE((4,), 2, (8,))
    assert sample(vae, 7, where={"z": torch.zeros(3, 2)})["x"].shape == (7, 3, 4)


@pytest.mark.parametrize("method", ["prior", "chains"])
@pytest.mark.parametrize("with_x", [False, True])
def test_given_a_part_of_a_latent(method: Any, with_x: bool) -> None:
    """One unit of z is held: x ~ N(w_0 z_0 + b, w_1 w_1' + s^2), and z_1 given x as well."""
    pair, x, _ = linear_gaussian()
    held, W = 0.5, pair.W.detach()
    where = {"z": torch.tensor([[held, math.nan]]).double(), **({"x": x[:1]} if with_x else {})}
    found = sample(pair, S, x, where=where, method=method, max_draws=2_000_000, chunk=200_000)
    worth = min(float(found.effective_sample_size), S) / 2
    assert (found["z"][..., 0] == held).all()
    assert set(found.sites) == {"z", "x"}
    mean, eye = held * W[:, 0] + pair.b.detach(), pair.s**2 * torch.eye(4).double()
    precision = 1 + W[:, 1] @ W[:, 1] / pair.s**2
    if with_x:
        loc = W[:, 1] @ (x[0] - mean) / pair.s**2 / precision
        close(found["z"][:, 0, 1:], loc[None], (1 / precision)[None, None], worth)
    else:
        close(found["x"][:, 0], mean, torch.outer(W[:, 1], W[:, 1]) + eye, worth)
        close(found["z"][:, 0, 1:], torch.zeros(1).double(), torch.eye(1).double(), worth)


def test_of_a_hierarchy() -> None:
    torch.manual_seed(0)
    found = sample(Hierarchy(), 50, binary(7), where={"z2": torch.zeros(3, 2)})
    assert {name: value.shape for name, value in found.sites.items()} == {
        "z1": (50, 3, 3), "x": (50, 3, 7), "z2": (50, 3, 2),
    }  # fmt: skip


P_Y = torch.tensor([0.2, 0.5, 0.3])
P_X = torch.tensor([[0.9, 0.2], [0.4, 0.6], [0.1, 0.7]])


def coin() -> Pair:
    """y ~ Cat, x_d | y ~ Bernoulli, of plain functions; the guide knows nothing."""

    def model(x: Tensor | None = None) -> None:
        with pyro.plate("data", 1 if x is None else len(x)):
            y = pyro.sample("y", dist.Categorical(P_Y))
            pyro.sample("x", dist.Bernoulli(P_X[y]).to_event(1), obs=x)

    def guide(x: Tensor | None = None) -> None:
        with pyro.plate("data", 1 if x is None else len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(3) / 3))

    return Pair(model, guide)


@pytest.mark.parametrize("method", ["auto", "guide", "prior"])
def test_discrete_by_enumeration(method: Any) -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, math.nan]])
    found = sample(coin(), S, where={"x": x}, method=method)
    likelihood = torch.stack([P_X[:, 0] * (1 - P_X[:, 1]), 1 - P_X[:, 0]])
    posterior = P_Y * likelihood / (P_Y * likelihood).sum(-1, keepdim=True)
    error = 5 * math.sqrt(0.25 / S)
    for n in range(2):
        share = torch.bincount(found["y"][:, n], minlength=3) / S
        assert ((share - posterior[n]).abs() < error).all()
    assert abs(found["x"][:, 1, 1].mean() - posterior[1] @ P_X[:, 1]) < error
    assert set(found["x"].unique().tolist()) == {0.0, 1.0}


def test_predicates_by_enumeration() -> None:
    """Accepted draws are of p(. | predicate), weighed ones of p times the weight."""
    both = P_Y[:, None] * (1 - (1 - P_X).prod(-1, keepdim=True))  # p(y, some x = 1)
    found = sample(coin(), S, where=lambda sites: sites["x"].sum(-1) > 0)
    share = torch.bincount(found["y"], minlength=3) / S
    assert ((share - both[:, 0] / both.sum()).abs() < 5 * math.sqrt(0.25 / S)).all()
    weights = torch.tensor([1.0, 0.5, 2.0])
    found = sample(coin(), S, where=lambda sites: weights[sites["y"]].log())
    share = torch.bincount(found["y"], minlength=3) / S
    assert ((share - P_Y * weights / (P_Y @ weights)).abs() < 7 * math.sqrt(0.25 / S)).all()
    assert found.effective_sample_size >= S


def test_predicates_of_a_linear_gaussian_pair() -> None:
    """A log-weight that is the density of one more observation: then draws are given that one."""
    pair, x, _ = linear_gaussian()
    mean, covariance = of_linear(pair)
    variance = 0.3
    found = sample(pair, S, x, where=lambda sites: -0.5 * (sites["x"][:, 0] - 1.0) ** 2 / variance)
    gain = covariance[:, 0] / (covariance[0, 0] + variance)
    expected, spread = mean + gain * (1.0 - mean[0]), covariance - torch.outer(gain, covariance[0])
    close(found["x"], expected, spread, S / 3)
    nothing = sample(pair, S, x)
    close(nothing["x"], mean, covariance)
    close(nothing["z"], torch.zeros(2).double(), torch.eye(2).double())


def test_pairs_of_users() -> None:
    """Plain functions, objects, weights that are random, labels beside x."""
    pair, (x,) = functions()
    found = sample(pair, 40, x, where=lambda sites: sites["x"][:, 0] > 0)
    assert bool((found["x"][:, 0] > 0).all())
    half = x.clone()
    half[:, :3] = math.nan
    assert sample(pair, 40, where={"x": half[:2]})["x"].isfinite().all()
    own, (x,) = plain_object()
    with pytest.raises(ValueError, match="'bias' stands outside of the data plate"):  # one draw of it is in all
        sample(own, 10, x, where=lambda sites: sites["x"].sum(-1) > 1)
    with pytest.raises(ValueError, match="stands outside the data plate"):
        sample(own, 10, where={"x": x})
    labeled, (x, y) = two_arguments()
    found = sample(labeled, 20, x, y, where={"x": x})
    assert found["z"].shape == (20, 5, 4 // 2)
    torch.manual_seed(0)
    semi = SemiSupervisedVAE((6,), 3, 2, (8,))
    found = sample(semi, 30, where={"y": torch.tensor([0, 2])})
    assert found["x"].shape == (30, 2, 6)
    assert torch.equal(found["y"], torch.tensor([0, 2]).expand(30, 2))


def shift_model(x: Tensor | None = None) -> None:
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 3 if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + shift, 0.5).to_event(1), obs=x)


def shift_guide(x: Tensor | None = None) -> None:
    pyro.sample("shift", dist.Normal(0.0, 0.1))
    if x is not None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * (x - 4.0), 0.4).to_event(1))


@pytest.mark.parametrize("hidden", [False, True])
def test_what_all_data_share_is_held_by_condition(hidden: bool) -> None:
    """x ~ N(z + shift, 1/4) at shift = 4, in all that draws of the model; log p(x | shift) where it is hidden."""
    value = {"shift": torch.tensor(4.0)}
    held: Any = [poutine.condition(program, data=value) for program in (shift_model, shift_guide)]
    if hidden:
        held = [poutine.block(program, hide=["shift"]) for program in held]
    pair, x = Pair(*held), torch.randn(50, 2) + 4
    mean, covariance = torch.full((2,), 4.0), 1.25 * torch.eye(2)
    torch.manual_seed(1)
    close(diagnostics.sample(pair, S, x), mean, torch.eye(2))  # E[x | z]
    close(sample(pair, S, x)["x"], mean, covariance)
    close(sample(pair, S)["x"], mean, covariance)
    z = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    if hidden:
        found = sample(pair, S, x, where={"z": z})["x"]
        close(found[:, 1], z[1] + 4, 0.25 * torch.eye(2))
        exact = dist.MultivariateNormal(mean, covariance).log_prob(x)
        assert torch.allclose(evidence.importance(pair, x, 2000).log_prob, exact, atol=0.15)
    else:
        with pytest.raises(ValueError, match=r"by poutine.condition, hide it by poutine.block"):
            sample(pair, S, x, where={"z": z})
        with pytest.raises(ValueError, match=r"'shift' observes a tensor that is no argument.*poutine.block"):
            simulate(pair.model, x)


def bad(**options: Any) -> Any:
    pair, x, _ = linear_gaussian()
    return lambda: sample(pair, 100, x, **options)


Z = torch.zeros(2, 2).double()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (bad(where=lambda sites: sites["x"][:, 0] > 1e3), ValueError, "none of 100,000 draws of the prior satisfies"),
        (bad(where=lambda sites: sites["x"][:, 0] > -1e3, max_draws=50), ValueError, "below the 100 draws"),
        (bad(where=lambda sites: 50 * sites["x"][:, 0], max_draws=5000), ValueError, "effective sample size of 5,000"),
        (bad(where=lambda sites: sites["x"] > 0), ValueError, r"for each of the 4096 draws.*\[4096, 4\]"),
        (bad(where=lambda sites: True), TypeError, "a predicate gives a tensor"),
        (bad(where=lambda sites: sites["x"][:, 0] * math.nan), ValueError, "are NaN or infinite"),
        (bad(where=3), TypeError, "where is a dictionary"),
        (bad(where={}), TypeError, "where is a dictionary"),
        (bad(where={"w": Z}), ValueError, "no site 'w'; it has z, x"),
        (bad(where={"x": torch.zeros(4).double()}), ValueError, r"values of the site 'x' are \[N, 4\]; got \[4\]"),
        (bad(where={"z": Z[:, :1]}), ValueError, r"values of the site 'z' are \[N, 2\]; got \[2, 1\]"),
        (bad(where={"z": Z, "x": torch.zeros(3, 4).double()}), ValueError, "as many conditions each"),
        (bad(where={"z": Z}, method="guide"), ValueError, "the guide tells of the latents given x"),
        (bad(where=lambda sites: sites["x"][:, 0] > 0, method="chains"), ValueError, "predicates weigh draws of the"),
        (bad(where={"x": torch.full((1, 4), 30.0).double()}, method="prior", max_draws=2000), ValueError, "chains"),
        (bad(where={"x": data()[0][2:]}, method="guide", max_draws=2000), ValueError, "of 2,000 weighed draws is"),
        (bad(num_samples=0), TypeError, "num_samples"),
    ],
)
def test_what_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_states_are_kept_and_seeds_tell() -> None:
    pair, x, _ = linear_gaussian()
    state = torch.get_rng_state()
    for where in ({"x": x}, {"z": Z}, lambda sites: sites["x"][:, 0] > 0):
        one, same, other = (sample(pair, 20, x, where=where, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, same[name]) for name, value in one.sites.items())
        assert any(not torch.equal(value, other[name]) for name, value in one.sites.items())


def of_a_condition() -> Pair:
    """z ~ N(c, 1), x ~ N(z, 1), with the posterior as the guide."""

    def model(x: Tensor | None, c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(c, 1.0)), 1.0), obs=x)

    def guide(x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(c)):
            pyro.sample("z", dist.Normal((x + c) / 2, 0.5**0.5))

    return Pair(model, guide)


def test_arguments_beside_the_values_are_of_as_many_conditions() -> None:
    """They are neither cut nor repeated: c of another datum would be taken. Examples of what is observed may be."""

    pair, c = of_a_condition(), torch.tensor([0.0, 4.0, 8.0])
    for count in (2, 4):
        with pytest.raises(ValueError, match=rf"{count} conditions, and the argument 'c' .* holds 3 data"):
            sample(pair, 10, torch.zeros(3), c, where={"x": torch.ones(count)})
    drawn = sample(pair, 1000, torch.zeros(1), c[1:2], where={"x": torch.ones(2)})["z"].mean(0)
    torch.testing.assert_close(drawn, torch.tensor([2.5, 2.5]), rtol=0, atol=0.12)
    assert sample(linear_gaussian()[0], 10, torch.zeros(7, 4).double(), where={"z": torch.zeros(3, 2).double()})[
        "x"
    ].shape == (10, 3, 4)


def test_bytes_are_pixels_for_the_guide_too() -> None:
    vae, x = MLPVAE((4,), 2, (8,)), torch.tensor([[0, 255, 255, 0]], dtype=torch.uint8)
    assert sample(vae, 10, where={"x": x}).method == "guide"


def test_of_examples_that_are_missing_the_shape_alone_matters() -> None:
    """A modality that the example batch has not is drawn, and where its value is given it counts."""
    vae = LabeledVAE((4,), 3, 2, (8,)).eval()
    nothing = torch.full((3, 4), math.nan), torch.full((3,), -1)
    something = torch.zeros(3, 4), torch.zeros(3)
    for where in ({"y": torch.tensor([0.0, 1.0, 2.0])}, {"x": torch.eye(3, 4)}, lambda sites: sites["y"] == 1):
        one, other = (sample(vae, 50, *batch, where=where) for batch in (nothing, something))
        assert one["x"].any()
        for name in ("x", "y", "z"):
            torch.testing.assert_close(one[name], other[name], check_dtype=False)


def test_what_follows_data_by_the_argument_is_refused() -> None:
    """x_2 ~ N(z + x_1, 1) with the x_1 of the example: draws of x_2 would follow that, not the x_1 drawn."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((2 * x[:, 0] - x[:, 1]) / 3, 1.0))

    pair, x = Pair(follows_the_argument, guide), torch.full((1, 2), 5.0)
    for where in ({"z": torch.ones(1)}, {"x": torch.tensor([[math.nan, 2.0]])}, lambda sites: sites["z"] > 0):
        with pytest.raises(ValueError, match=r"takes p\(x\) from data that it observes"):
            sample(pair, 10, x, where=where)
    with pytest.raises(ValueError, match=r"takes p\(x\) from data that it observes"):
        evidence.bdmc(pair, x.expand(4, 2), 2, 10)
    for method in ("guide", "prior"):  # given all of x: z | x ~ N((x_1 + x_2 - x_1) / 3, 1 / 3)
        found = sample(pair, S, where={"x": torch.tensor([[1.0, 3.0]])}, method=method)["z"]
        torch.testing.assert_close(found.mean(), torch.tensor(1.0), rtol=0, atol=5 / math.sqrt(3 * S) * 1.5)


def test_predicates_are_of_one_condition() -> None:
    """Draws under several would be of none of them; of what the model observes rows may differ."""

    pair = of_a_condition()
    with pytest.raises(ValueError, match=r"p\(z\) differs between the rows of the arguments"):
        sample(pair, 10, torch.zeros(2), torch.tensor([0.0, 9.0]), where=lambda sites: sites["x"] > 0)
    for x in (torch.zeros(1), torch.tensor([1.0, -1.0])):
        c = torch.tensor([4.0]).expand(len(x))
        found = sample(pair, 1000, x, c, where=lambda sites: sites["x"] > -99)["z"]
        torch.testing.assert_close(found.mean(), torch.tensor(4.0), rtol=0, atol=0.16)


def test_bytes_are_pixels_or_classes_wherever_they_stand() -> None:
    """By each method, and in each order: a class by its number, and a pixel as a part of 255."""

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Categorical(logits=torch.stack([0 * z, z, 2 * z], -1)), obs=y)
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.5).expand([len(x)]))

    z = torch.linspace(-8, 8, 4001)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + 2 * dist.Normal(z, 1.0).log_prob(torch.ones(()))
    log_p = log_p + torch.stack([0 * z, z, 2 * z], -1).log_softmax(-1)[:, 2]
    expected = (log_p.softmax(0) * z).sum()
    x, y = torch.full((1, 2), 255, dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)
    for where in ({"x": x, "y": y}, {"y": y, "x": x}):
        found = sample(Pair(model, guide), S, where=where, method="prior")
        torch.testing.assert_close(found["z"].mean(), expected, rtol=0, atol=0.07)
        assert (found["x"] == 1).all()
        assert (found["y"] == 2).all()


def test_example_data_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"'x' observes data of shape \[\d+, 7\]"):
        sample(MLPVAE((6,), 2, (4,)), 3, torch.zeros(5, 7))


def test_conditions_of_a_model_that_takes_its_data_by_name_alone() -> None:
    """Without example data it draws its own, and meets no value."""
    pair = LabeledVAE((4,), 3, latent_dim=2, hidden=(4,))
    with pytest.raises(ValueError, match=r"of y are of 2 conditions, and the model draws data of its own, 1 where"):
        sample(pair, 3, where={"y": torch.tensor([1, 2])})
