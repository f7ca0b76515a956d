"""What handlers weigh sites by tempers a loss, and no bound and no evidence."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gated import X, assert_evidence, mean_of, near, pair_of, whole
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, VIMCO, DReG, Pair, ReweightedWakeSleep
from pyro_vae.estimators import Estimator
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.pair import programs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


OF_EACH = torch.tensor([0.5, 1.0, 3.0])


@pytest.mark.parametrize(
    ("where", "scale"), [("latent", 0.1), ("latent", OF_EACH), ("around", 2.0), ("around", OF_EACH)], ids=str
)
def test_a_scale_tempers_no_evidence(where: str, scale: Any) -> None:
    pair = pair_of(**{where: poutine.scale(scale=scale)})
    is_number = isinstance(scale, float)
    assert_evidence(pair, chains=where == "latent" and is_number and scale < 1, copies=20 if is_number else 1)
    torch.manual_seed(0)
    ours = SGVB_A(3).loss(*programs(pair), X)
    torch.manual_seed(0)
    pyros = Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1).loss(*programs(pair), X)
    assert ours == pytest.approx(pyros, rel=1e-5)  # what is trained is what Pyro trains


@pytest.mark.parametrize("make", [IWAE, VIMCO, DReG, ReweightedWakeSleep, lambda k: IWAE(k, beta=0.5)])
def test_a_weight_of_a_datum_weighs_its_bound(make: Any) -> None:
    """Loss and gradient are the sums of each datum's own, times its weight."""
    weight = torch.tensor([0.5, 1.0, 3.0])
    loc = nn.Parameter(torch.tensor(0.45))

    def of(weights: Tensor, x: Tensor) -> Pair:
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=weights):
                pyro.sample("z", dist.Normal(loc * x, 0.8))

        return Pair(whole(poutine.scale(scale=weights)), guide)

    def loss(weights: Tensor, x: Tensor) -> tuple[float, float]:
        torch.manual_seed(1)
        value = make(5).differentiable_loss(*programs(of(weights, x)), x)
        return value.item(), torch.autograd.grad(value, loc)[0].item()

    together = loss(weight, X)
    # One datum repeated in the place of each of the others: the same draws, and the weight of the others is 0+.
    apart = [loss(torch.where(torch.arange(3) == i, weight[i], 1e-9), X) for i in range(3)]
    assert together[0] == pytest.approx(sum(value for value, _ in apart), rel=1e-4)
    assert together[1] == pytest.approx(sum(slope for _, slope in apart), rel=1e-3)
    plain = [loss(torch.where(torch.arange(3) == i, 1.0, 1e-9), X)[0] for i in range(3)]
    assert [value / w for (value, _), w in zip(apart, weight.tolist(), strict=True)] == pytest.approx(plain, rel=1e-4)


def test_a_semi_supervised_pair_of_weighed_data() -> None:
    torch.manual_seed(0)
    pair = SemiSupervisedVAE((1, 2, 2), 2, 3, hidden=(5,)).eval()
    x, y, weight = torch.bernoulli(torch.full((4, 1, 2, 2), 0.5)), torch.tensor([0, 1, -1, -1]), torch.rand(4) + 0.5
    for estimator in (VIMCO(3), ReweightedWakeSleep(3)):
        torch.manual_seed(2)
        plain = estimator.bound(pair, x, y)
        torch.manual_seed(2)
        torch.testing.assert_close(estimator.bound(pair, x, y, weight), plain)


def test_sites_of_a_datum_that_are_weighed_otherwise() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            with poutine.scale(scale=3.0):
                pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    pair = Pair(model, near())
    assert math.isfinite(SGVB_A().loss(*programs(pair), X))
    with pytest.raises(ValueError, match=r"poutine\.scale weighs 'y' otherwise than 'x'"):
        IWAE(3).loss(*programs(pair), X)
    exact = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 2.0]])).log_prob(
        X[:, None].expand(3, 2)
    )
    assert_evidence(pair, exact=exact, chains=False)


@pytest.mark.parametrize("handler", ["scale", "mask"])
def test_doubly_reparameterized_under_a_handler(handler: str) -> None:
    """The mean gradient is that of the pathwise gradient of the same bound."""
    mask = torch.tensor([True, False]).repeat(2000)
    handlers = {"scale": poutine.scale(scale=0.3), "mask": poutine.mask(mask=mask)}
    loc, x = nn.Parameter(torch.tensor(0.9)), torch.ones(4000)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), handlers[handler]:
            pyro.sample("z", dist.Normal(loc * x, 0.6))

    pair = Pair(whole(latent=handlers[handler]), guide)

    def gradient(estimator: Estimator) -> Tensor:
        return torch.autograd.grad(estimator.differentiable_loss(*programs(pair), x), loc)[0] / len(x)

    (one, error), (other, more) = (mean_of(lambda made=made: gradient(made), 40) for made in (IWAE(4), DReG(4)))
    assert (one - other).abs() < 4 * (error**2 + more**2).sqrt()
