"""What chains of each datum cannot do, and where it is to be had."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import Normals, program, standard
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor

from pyro_vae import Pair
from pyro_vae.evidence import ais, hmc, posterior_draws
from pyro_vae.pair import as_pair


def globally(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@pytest.mark.parametrize("sampler", [hmc, posterior_draws, ais])
def test_latents_of_all_data_are_left_to_nuts(sampler: Any) -> None:
    """Which does on the pair, as the refusal says, what it does on the program: the posterior is known."""
    x = torch.tensor([1.0, 2.0, 0.5, 1.5])
    pair = Pair(globally, AutoNormal(globally))
    with pytest.raises(ValueError, match=r"'mean' stands outside the data plate.*MCMC\(NUTS\(as_pair\(pair\)\.model\)"):
        sampler(pair, x)
    if sampler is hmc:
        pyro.set_rng_seed(0)
        mcmc = MCMC(NUTS(as_pair(pair).model), num_samples=300, warmup_steps=100, disable_progbar=True)
        mcmc.run(x)
        draws, precision = mcmc.get_samples()["mean"], 1 / 4 + 4 / 1.25
        assert draws.mean().item() == pytest.approx(x.sum().item() / 1.25 / precision, abs=0.15)
        assert draws.std().item() == pytest.approx(precision**-0.5, rel=0.25)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(AutoNormal, "z_unconstrained, z and the model z"), (AutoDiagonalNormal, "'_Auto.*' for all data together")],
)
def test_an_autoguide_cannot_be_a_start(kind: Any, message: str) -> None:
    def model(x: Tensor) -> None:
        program(z=standard(), x=lambda x, z: dist.Normal(z, 1.0))(x)

    with pytest.raises(ValueError, match=rf"^the guide draws {message}.*Start from the prior: start='prior'\.$"):
        ais(Pair(model, kind(model)), torch.zeros(3), 2, 2, start="guide")


def test_chains_of_unknown_agreement_are_said() -> None:
    with pytest.warns(UserWarning, match=r"whether the chains of 3 of 3 data agree is not known .*fewer than four"):
        hmc(Pair(Normals().model, Normals().guide), torch.zeros(3, dtype=torch.float64), 3, 8, 40, compile="eager")
