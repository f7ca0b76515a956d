"""The conditional VAE: against a known log p(x | c), as a distribution over x, and what it refuses."""

from __future__ import annotations

import functools
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import assert_mean
from torch import Tensor, nn

from pyro_vae import CVAE, IWAE, MLP, SGVB_A, SGVB_B, Bernoulli, DiagonalNormal, Gaussian, check, evidence, fit, priors
from pyro_vae.data import Split
from pyro_vae.estimators import Estimator
from pyro_vae.models import ConditionalVAE
from pyro_vae.networks import Joined, Numbers, OneHot
from pyro_vae.pair import run

D, EVENT, C = 2, 4, 3
X = torch.randn(6, EVENT, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
GIVEN = torch.randn(6, C, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
LABELS = torch.tensor([1, 2, 0, 0, 2, 1])


def linear(labels: bool, shift: float = 0.0) -> tuple[ConditionalVAE, Any, Tensor]:
    """z | c ~ N(A c + a, S), x | z, c ~ N(W z + B c + b, s^2 I) with the exact guide, its mean moved by ``shift``; the
    distribution of x | c, and the KL divergence of the guide from p(z | x, c).

    The columns of W are orthogonal, so that p(z | x, c) has a diagonal covariance.
    """
    generator = torch.Generator().manual_seed(1)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    W = torch.linalg.qr(draw(EVENT, D))[0] * torch.tensor([1.5, 0.8])
    A, a, B, b, s = draw(D, C), draw(D), draw(EVENT, C), draw(EVENT), 0.6
    S = torch.tensor([0.7, 1.3], dtype=torch.float64)
    likelihood = functools.partial(Gaussian, scale=s, sigmoid_mean=False)
    shape = C if labels else (C,)
    pair = ConditionalVAE((EVENT,), shape, D, hidden=(), likelihood=likelihood).double()
    variance = 1 / (1 / S + W.square().sum(0) / s**2)
    of_x = variance[:, None] * W.T / s**2
    of_c = variance[:, None] * A / S[:, None] - of_x @ B
    loc = variance * a / S - of_x @ b + shift
    zeros = torch.zeros(D, EVENT + C, dtype=torch.float64)
    parts: Any = pair.prior, pair.posterior.part, pair.likelihood.part
    with torch.no_grad():
        for part, weight, bias in zip(
            parts,
            (torch.cat([A, zeros[:, :C]]), torch.cat([torch.cat([of_x, of_c], 1), zeros]), torch.cat([W, B], 1)),
            (torch.cat([a, S.log()]), torch.cat([loc, variance.log()]), b),
            strict=True,
        ):
            (layer,) = part.network.layers
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    c = nn.functional.one_hot(LABELS, C).double() if labels else GIVEN
    covariance = W * S @ W.T + s**2 * torch.eye(EVENT, dtype=torch.float64)
    p_x = dist.MultivariateNormal((c @ A.T + a) @ W.T + c @ B.T + b, covariance)
    return pair, p_x, (shift**2 / variance / 2).sum()


def bounds(estimator: Estimator, pair: ConditionalVAE, c: Tensor, count: int) -> Tensor:
    """``[count, 6]``: so many draws of the bound of each datum, in one run."""
    x, c = (given.repeat(count, *[1] * (given.dim() - 1)) for given in (X, c))
    return estimator.bound(pair, x, c).reshape(count, len(X)).detach()


@pytest.mark.parametrize("labels", [True, False])
def test_an_exact_guide_gives_the_conditional_evidence(labels: bool) -> None:
    """log p(x | c), draw by draw, by the bounds and by importance sampling."""
    pair, p_x, _ = linear(labels)
    c, expected = LABELS if labels else GIVEN, p_x.log_prob(X)
    for estimator in (SGVB_A(), SGVB_A(3), IWAE(4)):
        torch.testing.assert_close(estimator.bound(pair, X, c), expected)
    torch.testing.assert_close(evidence.importance(pair, (X, c), 40, compile="eager").log_prob, expected)
    assert_mean(bounds(SGVB_B(), pair, c, 400).sum(1), expected.sum())


def test_another_guide_is_lower_by_its_divergence() -> None:
    """The bounds by KL(q || p(z | x, c)), and by less with several samples; importance sampling by nothing."""
    pair, p_x, divergence = linear(False, shift=0.3)
    log_prob = p_x.log_prob(X)
    for estimator in (SGVB_A(), SGVB_B()):
        assert_mean(bounds(estimator, pair, GIVEN, 2000).mean(1) - log_prob.mean(), -divergence)
    several = bounds(IWAE(20), pair, GIVEN, 200).mean()
    assert log_prob.mean() - divergence < several < log_prob.mean()
    found = evidence.importance(pair, (X, GIVEN), 20_000, compile="eager")
    torch.testing.assert_close(found.log_prob, log_prob, atol=0.05, rtol=0)


def wide(posterior: Any) -> None:
    """Makes it N(0, 1.3^2) for all data, so that weights of importance are bounded."""
    last = posterior.network.layers[-1]
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, 0.0, 0.5, 0.5])


@pytest.mark.parametrize("prior", [None, priors.StandardNormal])
def test_it_is_a_distribution_over_x_for_each_condition(prior: Any) -> None:
    """Over all images of four pixels p(x | c) sums to one, and differs from class to class."""
    torch.manual_seed(1)
    pair = ConditionalVAE((4,), 3, 2, (8,), prior=prior)
    for parameter in pair.likelihood.parameters():
        parameter.data.mul_(2)  # far from the start, where all are alike
    wide(pair.posterior.part)
    x = torch.tensor(list(product((0.0, 1.0), repeat=4))).repeat(3, 1)
    found = evidence.importance(pair, (x, torch.arange(3).repeat_interleave(16)), 20_000, compile="eager")
    p = found.log_prob.exp().reshape(3, 16)
    error = (p * found.standard_error.reshape(3, 16)).square().sum(1).sqrt()
    assert error.max() < 0.01
    assert ((p.sum(1) - 1).abs() < 5 * error + 1e-5).all(), (p.sum(1), error)
    assert (p[0] - p[1]).abs().max() > 0.05


def test_particles_stand_on_the_left_of_data_and_not_of_conditions() -> None:
    pair = ConditionalVAE((1, 2, 3), 4, 2, (8,), mean=torch.rand(1, 2, 3))
    c, x, z = torch.tensor([3, 0, 1, 1, 2]), torch.rand(7, 5, 1, 2, 3).round(), torch.randn(6, 7, 5, 2)
    seen = pair.condition(c)
    q, p = pair.posterior(x, seen), pair.likelihood(z, seen)
    assert (q.batch_shape, q.event_shape) == ((7, 5), (2,))
    assert (p.batch_shape, p.event_shape) == ((6, 7, 5), (1, 2, 3))
    torch.testing.assert_close(q.mean[3, 4], pair.posterior(x[3, 4], seen[4]).mean)
    torch.testing.assert_close(p.mean[2, 3, 4], pair.likelihood(z[2, 3, 4], seen[4]).mean)
    traces = run(pair, x[0], c, num_particles=6)
    assert traces.model_trace.nodes["x"]["fn"].batch_shape == (6, 5)
    assert traces.model_trace.nodes["z"]["fn"].batch_shape in ((5,), (6, 5))


def test_the_model_draws_a_datum_for_each_condition() -> None:
    pair = ConditionalVAE((6,), 3, 2, (8,))
    trace = pyro.poutine.trace(pair.model).get_trace(None, torch.arange(3))
    assert trace.nodes["z"]["value"].shape == (3, 2)
    assert trace.nodes["x"]["value"].shape == (3, 6)


def test_pixels_of_a_condition_are_parts_of_255() -> None:
    pair = ConditionalVAE((6,), (1, 2, 2), 2, (8,), condition_mean=torch.rand(1, 2, 2))
    pixels = torch.randint(0, 256, (5, 1, 2, 2), dtype=torch.uint8)
    torch.testing.assert_close(pair.condition(pixels), pair.condition(pixels / 255))
    torch.testing.assert_close(pair.condition(pixels / 255).reshape(5, 1, 2, 2) + pair.condition.mean, pixels / 255)
    assert torch.equal(Numbers(2)(torch.tensor([[True, False]])), torch.tensor([[1.0, 0.0]]))
    ages = Numbers(2, torch.tensor([40.0, 0.0]), scale=torch.tensor([20.0, 0.5]))
    assert torch.equal(ages(torch.tensor([[60.0, 1.0]])), torch.tensor([[1.0, 2.0]]))


def test_parts_of_ones_own_and_a_network_of_the_condition() -> None:
    """The network runs once for guide and model."""

    class Embedding(nn.Embedding):
        runs = 0

        def forward(self, c: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(c)

    embedding = Embedding(5, 3)
    pair = CVAE(
        DiagonalNormal(MLP(3, (2, 2))),
        Joined(DiagonalNormal(MLP(6 + 3, (2, 2))), 6),
        Joined(Bernoulli(MLP(2 + 3, 6)), 2),
        condition=embedding,
    )
    x, c = torch.rand(7, 6).round(), torch.arange(7) % 5
    run(pair, x, c)
    assert embedding.runs == 1
    assert [(site.model, site.guide) for site in check(pair, x, c).sites] == [
        ("Normal", "Normal"),
        ("Bernoulli", None),
    ]


LABELED, TENSORS = ConditionalVAE((6,), 3, 2, (8,)), ConditionalVAE((6,), (2,), 2, (8,))
x = torch.rand(5, 6).round()


@pytest.mark.parametrize(
    ("pair", "c", "message"),
    [
        (LABELED, torch.tensor([0, 1]), r"c holds a condition for each datum, and there are 5 data; got .* \[2\]"),
        (LABELED, torch.tensor(1), r"there are 5 data; got c of the shape \[\]"),
        (LABELED, torch.tensor([[0], [1], [2], [0], [1]]), r"c is a tensor \[B\], .*; got the shape \[5, 1\]"),
        (TENSORS, torch.rand(5, 5, 2), r"c is a tensor \[B, 2\], .*; got the shape \[5, 5, 2\]"),
        (LABELED, torch.tensor([0, 1, 2, 3, 0]), "3 is no class of 3: they are the whole numbers 0 to 2"),
        (LABELED, torch.tensor([0, 1, 2, -1, 0]), "-1 is no class of 3"),
        (LABELED, torch.tensor([0, 1, 2, 0.5, 0]), "0.5 is no class of 3"),
        (LABELED, torch.tensor([0, 1, 2, float("nan"), 0]), "nan is no class of 3"),
        (TENSORS, torch.rand(5), r"c is a tensor \[B, 2\]"),
        (TENSORS, torch.rand(5, 3), r"built for inputs of shape \[\*, 2\]; got \[5, 3\]"),
        (TENSORS, torch.rand(4, 2), r"there are 5 data; got c of the shape \[4, 2\]"),
    ],
)
def test_conditions_that_do_not_fit(pair: Any, c: Any, message: str) -> None:
    for program in (pair.model, pair.guide, functools.partial(check, pair)):
        with pytest.raises(ValueError, match=message) as caught:
            program(x, c)
        assert "\n" not in str(caught.value)


def test_a_condition_that_is_missing() -> None:
    for program in (LABELED.model, LABELED.guide):
        with pytest.raises(TypeError, match=r"c is a tensor that holds a condition for each datum.*; got None"):
            program(x, None)
    for call in (functools.partial(check, LABELED), functools.partial(fit, LABELED, batch_size=5, progress=False)):
        with pytest.raises((TypeError, ValueError), match=r"same arguments.*with_labels") as caught:
            call(x)
        assert "\n" not in str(caught.value), caught.value
    with pytest.raises(ValueError, match=r"run the guide as guide\(x, c\)"):
        LABELED.guide(None, torch.arange(3))


def test_a_wrong_class_in_a_graph_stops_training() -> None:
    """A graph does not look at values; what would count as no class is NaN there."""
    c = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 7])
    pair = ConditionalVAE((6,), 3, 2, (8,))
    data = Split(torch.rand(10, 6).round(), c)
    with pytest.raises((ValueError, FloatingPointError), match=r"class|finite"):
        fit(pair, data, epochs=2, batch_size=2, compile="traced", progress=False)
    assert torch.equal(OneHot(3)(torch.tensor([[2], [0]]))[1, 0], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_shape": ()}, "a ConditionalVAE is given a condition beside each datum, and there is none"),
        ({"condition_shape": 0}, "num_classes has to be a whole number of at least 1"),
        ({"condition_mean": torch.zeros(3)}, "condition_mean is of conditions that are numbers, and c are labels"),
        ({"condition_shape": (2,), "condition_mean": torch.zeros(3)}, r"finite and of the shape \[2\]"),
        ({"condition_scale": torch.ones(3)}, "condition_scale is of conditions that are numbers, and c are labels"),
        ({"condition_shape": (2,), "condition_scale": torch.zeros(2)}, "the scale has to be positive, finite"),
        ({"mean": torch.zeros(5)}, r"of their shape event_shape=\(6,\); got \[5\]"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionalVAE(**{"event_shape": (6,), "condition_shape": 3, "latent_dim": 2, "hidden": (8,), **options})
