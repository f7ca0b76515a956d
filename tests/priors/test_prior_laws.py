"""Every prior: shapes in plates, state, and training."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pytest
import torch
from pairs import binary
from registry import FAMILIES, PRIORS

from pyro_vae import SGVB_A, SGVB_B, check
from pyro_vae.testing import assert_traced_step

every = pytest.mark.parametrize("name", PRIORS)


@every
def test_in_plates(name: str) -> None:
    """Of one datum; under a plate and with particles each draw is scored as it is alone."""
    for shape in PRIORS[name].shapes:
        prior = PRIORS[name].prior(shape)
        p = prior()
        assert (p.batch_shape, p.event_shape) == ((), shape)
        z = p.sample((5,))
        assert z.shape == (5, *shape)
        assert not z.requires_grad
        assert p.log_prob(z).isfinite().all()
        assert bool(list(prior.parameters())) == p.log_prob(z).requires_grad == PRIORS[name].learned
        with pyro.plate("data", 5):
            assert pyro.sample("z", p).shape == (5, *shape)
        in_plate = p.expand((5,))
        assert in_plate.batch_shape == (5,)
        torch.testing.assert_close(in_plate.log_prob(z), p.log_prob(z))
        particles = in_plate.sample((7,))
        assert particles.shape == (7, 5, *shape)
        one_by_one = torch.stack([p.log_prob(particle) for particle in particles])
        torch.testing.assert_close(in_plate.log_prob(particles), one_by_one)
        assert in_plate.log_prob(z[0]).shape == (5,)


@every
def test_state_and_copies(name: str) -> None:
    prior, other = (PRIORS[name].prior() for _ in range(2))
    with torch.no_grad():
        for value in prior.state_dict().values():
            value += 0.1
    if name == "VampPrior":
        other._tied = prior._tied
    other.load_state_dict(prior.state_dict())
    z = other().sample((5,))
    torch.testing.assert_close(other().log_prob(z), prior().log_prob(z))
    torch.testing.assert_close(copy.deepcopy(prior)().log_prob(z), prior().log_prob(z))
    if name != "VampPrior":  # which is of the dtype of its posterior
        assert prior.double()().sample().dtype == torch.float64


# A fixed prior takes the way of a learned one, and the families take one of two ways.
TRAINED = [
    pytest.param(name, marks=[pytest.mark.slow] if name not in ("Gamma, learned", "StudentT, learned") else [])
    if name.endswith(", learned")
    else name
    for name in PRIORS
    if name not in FAMILIES
]


@pytest.mark.parametrize("name", TRAINED)
def test_trains(name: str) -> None:
    """With a posterior of its support, by the closed form where there is one, in a graph as eagerly."""
    row, x = PRIORS[name], binary(6)
    estimator: Any = SGVB_B() if row.closed_form else SGVB_A()
    assert check(row.pair(), x, estimator=estimator).sites[0].analytic_kl == row.closed_form
    assert_traced_step(row.pair, x, estimator=estimator)


@pytest.mark.parametrize("name", [name for name in PRIORS if name not in ("VampPrior", "Flow")])
def test_sizes_that_cannot_be(name: str) -> None:
    kind = type(PRIORS[name].prior())
    for size in (0, -1, (), (2, 0), 2.5, "two", None):
        with pytest.raises(ValueError, match="latent_dim has to hold sizes of at least 1"):
            kind(size, *([2] if name == "MixtureOfNormals" else []))
