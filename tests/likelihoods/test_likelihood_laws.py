"""Every likelihood: shapes, moments, whatever its network gives, and training."""

from __future__ import annotations

import pytest
import torch
from registry import LIKELIHOODS
from torch import Tensor, nn

from pyro_vae import SGVB_A, check
from pyro_vae.testing import assert_traced_step

LATENT = 2
every = pytest.mark.parametrize("name", LIKELIHOODS)
# The distributions of the others are held to be traced by their own laws.
QUICK = ("Bernoulli", "Categorical", "Normal, optimal", "Normal, a scale a pixel", "StudentT, shared")


class Constant(nn.Module):
    """A network that gives the same output for each latent."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor) -> Tensor:
        return self.output.expand(*z.shape[:-1], *self.output.shape)


@every
def test_shapes(name: str) -> None:
    """Leading dimensions of z are batch dimensions of p, in training and in evaluation, for vectors and images."""
    row = LIKELIHOODS[name]
    for event in ((6,), (1, 2, 3)):
        likelihood, x = row(event=event), row.data(*event)
        for leading in ((5,), (3, 5)):
            for training in (True, False):
                p = likelihood.train(training)(torch.randn(*leading, LATENT))
                assert (p.batch_shape, p.event_shape) == (leading, event)
                log_prob = p.log_prob(x)
                assert log_prob.shape == leading
                assert log_prob.isfinite().all()
                assert p.support.check(x).all()
                assert p.support.check(p.sample()).all()
                assert p.mean.shape == (*leading, *event)
                assert p.expand((2, *leading)).log_prob(x).shape == (2, *leading)


@every
def test_a_datum_is_scored_by_itself_in_evaluation(name: str) -> None:
    likelihood, z, x = LIKELIHOODS[name]().eval(), torch.randn(5, LATENT), LIKELIHOODS[name].data(6)
    each = torch.cat([likelihood(z[i : i + 1]).log_prob(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(likelihood(z).log_prob(x), each)


@every
def test_the_mean_is_that_of_the_draws(name: str) -> None:
    p = LIKELIHOODS[name]().eval()(torch.randn(3, LATENT))
    draws = p.sample((20_000,)).double()
    assert ((draws.mean(0) - p.mean).abs() < 5 * draws.std(0) / 20_000**0.5 + 1e-6).all()


@every
def test_dtypes(name: str) -> None:
    """Networks in half precision give float32 distributions; float64 gives what float32 does, in more digits."""
    likelihood, x = LIKELIHOODS[name](), LIKELIHOODS[name].data(6)
    with torch.autocast("cpu", torch.bfloat16):
        p = likelihood(torch.randn(5, LATENT))
        assert p.log_prob(x).dtype == p.mean.dtype == torch.float32
    z = torch.randn(5, LATENT)
    for training in (True, False):
        single = likelihood.float().train(training)(z).log_prob(x)
        p = likelihood.double()(z.double())
        assert p.sample().dtype == p.mean.dtype == torch.float64
        if training or name != "Normal, optimal":
            torch.testing.assert_close(p.log_prob(x.double()).float(), single)


@every
def test_whatever_a_network_gives(name: str) -> None:
    """All of an output, or one parameter of it, is of any size: scores and gradients are finite, and pull."""
    row = LIKELIHOODS[name]
    x, shape = row.data(6), row.kind(nn.Identity(), **row.options).network_shape((6,))
    parameters = range(shape[0]) if len(shape) > 1 else ()
    for place, size in [
        *((slice(None), size) for size in (-80.0, -15.0, 0.0, 15.0, 80.0)),
        *((first, size) for first in parameters for size in (-80.0, 80.0)),
    ]:
        output = torch.zeros(shape)
        output[place] = size
        likelihood = row(Constant(output.requires_grad_()))
        p = likelihood(torch.zeros(5, LATENT))
        log_prob = p.log_prob(x)
        log_prob.sum().backward()
        assert output.grad is not None
        for value in (log_prob, p.mean, output.grad):
            assert value.isfinite().all(), (place, size)
        flat = getattr(likelihood, "sigmoid_mean", False) and abs(size) == 80  # the sigmoid of 80 in float32
        assert (output.grad != 0).any() or (flat and place == slice(None)), (place, size)


SCALED = {"Normal, a scale a pixel", "Laplace, a scale a pixel", "StudentT, a scale a pixel"}
SCALED |= {"DiscretizedLogistic", "MixtureOfDiscretizedLogistics"}


@pytest.mark.parametrize("sigmoid_mean", [True, False])
@pytest.mark.parametrize("name", sorted(SCALED))
def test_a_learned_scale_stays_finite(name: str, sigmoid_mean: bool) -> None:
    row = LIKELIHOODS[name]
    for size in (-1e10, -1e4, -1e2, 1e2, 1e4, 1e10):
        for place in (-1, slice(None)):
            output = torch.zeros(row().network_shape((6,)))
            output[place] = size
            p = row(Constant(output.requires_grad_()), sigmoid_mean=sigmoid_mean)(torch.zeros(5, LATENT))
            log_prob = p.log_prob(row.data(6))
            log_prob.sum().backward()
            assert output.grad is not None
            for value in (log_prob, p.mean, p.sample(), output.grad):
                assert value.isfinite().all(), (size, place)
            if size > 0:  # too large a scale is pulled back; below, the floor is meant to hold
                assert (output.grad[-1] < 0).any()


@every
def test_a_pair_passes_the_check(name: str) -> None:
    """With its data; those outside of the support are said."""
    row = LIKELIHOODS[name]
    x = row.data(1, 2, 3)
    report = check(row.pair((1, 2, 3)), x, estimator=SGVB_A(3, max_plate_nesting=2))
    assert "_" not in report.sites[-1].model
    if row.off is not None:
        with pytest.raises(ValueError, match="At the observed site 'x' the data leave the support of the"):
            check(row.pair((1, 2, 3)), row.off(x))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LIKELIHOODS]
)
def test_trains(name: str) -> None:
    """In a graph as eagerly, running statistics included."""
    assert_traced_step(LIKELIHOODS[name].pair, LIKELIHOODS[name].data(6, size=16))
