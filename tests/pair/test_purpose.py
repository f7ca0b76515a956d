"""What a program asks for on purpose by ``validate_args=False``, with ``SVI.step`` as the judge of what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_vae as pv

optim: Any = pyro.optim  # whose names are made when it is imported
GRAY = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
Likelihood = Callable[[Tensor], Any]


class Program(nn.Module):
    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 2)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z).sigmoid()), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))


def expanded(means: Tensor, **options: Any) -> Any:
    return dist.Bernoulli(means[..., :1], **options).expand(means.shape).to_event(1)


def bernoulli(means: Tensor) -> Any:
    return dist.Bernoulli(means, validate_args=False).to_event(1)


LIKELIHOODS: dict[str, Likelihood] = {
    "Bernoulli": bernoulli,
    "validated": lambda means: dist.Bernoulli(means).to_event(1),
    "expanded": functools.partial(expanded, validate_args=False),
    "expanded, validated": expanded,
    "around": lambda means: dist.Independent(dist.Bernoulli(means), 1, validate_args=False),
    "masked": lambda means: dist.Bernoulli(means, validate_args=False).mask(True).to_event(1),
    "Poisson": lambda means: dist.Poisson(means, validate_args=False).to_event(1),
    "Poisson, validated": lambda means: dist.Poisson(means).to_event(1),
    "a parameter": lambda means: dist.Normal(means, -means, validate_args=False).to_event(1),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_what_svi_refuses_is_refused_and_nothing_else(name: str) -> None:
    program = Program(LIKELIHOODS[name])
    try:
        pyro.clear_param_store()
        loss = SVI(program.model, program.guide, optim.Adam({}), Trace_ELBO()).step(GRAY)
        right = loss == loss
    except ValueError:
        right = False
    if not right:
        with pytest.raises(ValueError, match=r"support of the|not finite"):
            pv.check(program, GRAY)
        return
    (note,) = pv.check(program, GRAY).notes
    assert "At the observed site 'x' validate_args=False takes values in" in note


def test_bounds_are_those_of_pyro_and_evidence_says_what_it_is() -> None:
    program = Program(bernoulli)
    torch.manual_seed(1)
    expected = Trace_ELBO().loss(program.model, program.guide, GRAY)
    torch.manual_seed(1)
    assert pv.SGVB_A().bound(program, GRAY).sum().item() == pytest.approx(-expected, rel=1e-5)
    for method in (pv.evidence.importance, functools.partial(pv.evidence.ais, num_steps=5, num_leapfrog=2)):
        with pytest.warns(UserWarning, match="no log p.*'x' validate_args=False takes .* cross-entropy"):
            method(program, GRAY, compile="eager")
    with pyro.validation_enabled(True):
        assert not pv.check(program, GRAY.round()).notes


def test_a_run_keeps_gray_pixels() -> None:
    run = pv.fit(Program(bernoulli), (GRAY, GRAY), epochs=1, batch_size=3, progress=False, compile="eager")
    assert run.history[-1]["valid"] < 0
