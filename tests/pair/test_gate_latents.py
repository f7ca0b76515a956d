"""Latents of one program alone: what model and guide draw without the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from gated import EXACT, LOWER, X, assert_evidence, mean_of, near, pair_of, whole
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLaplaceApproximation, AutoNormal
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, VIMCO, Enumeration, Pair, ReweightedWakeSleep, ScoreFunction, WakeSleep, check, fit
from pyro_vae.diagnostics import levels, rate_distortion
from pyro_vae.estimators import Estimator
from pyro_vae.evidence import ais, importance
from pyro_vae.pair import penalty, programs

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def alone(z: Tensor) -> None:
    pyro.sample("h", dist.Normal(torch.ones(z.shape[-1]), 2.0))


def test_a_latent_of_the_model_alone_has_weight_one() -> None:
    """One that nothing depends on, which counted before; and one on which x depends."""
    assert_evidence(Pair(whole(more=alone), near()), chains=False)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            h = pyro.sample("h", dist.Normal(torch.zeros(len(x)), 0.3))
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + h, 1.0), obs=x)

    exact = dist.Normal(0.0, 2.09**0.5).log_prob(X)
    assert_evidence(Pair(model, near()), exact=exact, chains=False)
    assert ((ais(Pair(model, near()), X, 32, 60, num_leapfrog=3, compile="eager").log_prob - exact).abs() < 0.15).all()
    with pytest.raises(ValueError, match="Start from the prior"):
        ais(Pair(model, near()), X, 4, 10, start="guide", compile="eager")
    assert set(rate_distortion(Pair(model, near()), [(X,)]).rates) == {"z"}
    with pytest.raises(ValueError, match=r"WakeSleep learns p\(h\) from the guide's draws"):
        WakeSleep().loss(*programs(Pair(model, near())), X)


@pytest.mark.parametrize("estimator", [ScoreFunction(20), VIMCO(20), ReweightedWakeSleep(200)], ids=repr)
def test_the_prior_of_a_discrete_latent_of_the_model_alone_learns(estimator: Estimator) -> None:
    logit = nn.Parameter(torch.tensor(0.3))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            h = pyro.sample("h", dist.Bernoulli(logits=logit.expand(len(x))))
            pyro.sample("x", dist.Normal(2 * h, 1.0), obs=x)

    x = torch.full((500,), 1.4)
    pair = Pair(model, lambda x: None)

    def slope() -> Tensor:
        return -torch.autograd.grad(estimator.differentiable_loss(*programs(pair), x), logit)[0] / len(x)

    found, error = mean_of(slope, 60)
    p, f = logit.detach().sigmoid(), dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(torch.tensor(1.4))
    if isinstance(estimator, ScoreFunction):
        exact = p * (1 - p) * (f[1] - f[0])  # of the ELBO, E_p(h) log p(x | h)
        assert (found - exact).abs() < 4 * error
    else:  # of log p(x), up to the bias of few samples
        posterior = (logit.detach() + f[1] - f[0]).sigmoid()
        assert (found - (posterior - p)).abs() < 4 * error + 0.02
    torch.testing.assert_close(
        Enumeration().bound(pair, x), (torch.stack([1 - p, p]).log() + f).logsumexp(0).expand(500)
    )


def test_missing_data_by_obs_mask() -> None:
    seen = torch.tensor([True, False, True])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=seen)

    pair = Pair(model, near())
    assert_evidence(pair, exact=torch.where(seen, EXACT, 0.0), chains=False, copies=1)
    history = fit(pair_with_weight(seen), X, epochs=1, batch_size=3, progress=False).history
    assert math.isfinite(history[0]["train"])


def pair_with_weight(seen: Tensor) -> nn.Module:
    class Missing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(0.3))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.flatten(), obs_mask=seen)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc * x.flatten(), 0.8))

    return Missing()


@pytest.mark.parametrize(
    "q", [dist.Categorical(torch.ones(4) / 4), dist.Normal(0.0, 50.0), dist.Normal(0.0, 0.1)], ids=str
)
def test_an_auxiliary_latent_of_the_guide_is_refused(q: Any) -> None:
    pair = Pair(whole(), near(more=lambda x: pyro.sample("a", q.expand([len(x)]), infer={"is_auxiliary": True})))
    for call in (
        *(lambda e=e: e.bound(pair, X) for e in LOWER),
        lambda: importance(pair, X, 10),
        lambda: check(pair, X),
    ):
        with pytest.raises(
            ValueError, match=r"'a' is in the guide but not in the model.*a reverse model r\(a \| z, x\)"
        ):
            call()
    assert (
        (ais(pair, X, 32, 60, num_leapfrog=3, compile="eager").log_prob - EXACT).abs() < 0.15
    ).all()  # which needs no guide


@pytest.mark.parametrize("make", [AutoNormal, AutoDiagonalNormal])
def test_autoguides_are_functions_of_what_they_draw(make: Any) -> None:
    """w ~ N(0, 1), x_i | w ~ N(w, 1): a constrained one has a Jacobian."""

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    w = torch.linspace(1e-3, 20, 200_001)
    joint = dist.LogNormal(0.0, 1.0).log_prob(w) + dist.Normal(w[:, None], 1.0).log_prob(X).sum(1)
    exact = torch.trapezoid(joint.exp(), w).log()
    guide = make(model, init_scale=1.0)
    pair = Pair(model, guide)
    check(pair, X)
    torch.manual_seed(0)
    weights = SGVB_A(20_000).log_weights(pair, X).sum(1)
    found = weights.logsumexp(0) - math.log(20_000)
    assert (found - exact).abs() < 4 * (weights - found).exp().std() / 20_000**0.5


def test_points_that_are_no_functions_of_what_is_drawn() -> None:
    """A draw beside a point, a point that is another function of it, and a density that is forgotten."""

    def beside(point: Callable[[Tensor, Tensor], Any]) -> Pair:
        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(len(x)), 2.0), infer={"is_auxiliary": True})
                pyro.sample("z", point(a, x))

        return Pair(whole(), guide)

    for point in (
        lambda a, x: dist.Delta(x / 2),
        lambda a, x: dist.Delta(2 * a),
        lambda a, x: dist.Delta(a, 1 + 0 * a),
    ):
        for call in (SGVB_A().bound, IWAE(3).bound, lambda *given: importance(*given, 10)):
            with pytest.raises(ValueError, match="'a' is in the guide but not in the model"):
                call(beside(point), X)
    assert_evidence(beside(lambda a, x: dist.Delta(a)), chains=False)
    affine = beside(lambda a, x: dist.Delta(x / 2 + 0.4 * a, log_density=-math.log(0.4) + 0 * a))
    assert_evidence(affine, chains=False)


def test_a_laplace_approximation_is_a_point_until_it_is_made() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    guide = AutoLaplaceApproximation(model)
    pair = Pair(model, guide)
    with pytest.raises(ValueError, match="gives 'w' a point"):
        SGVB_A().bound(pair, X)
    assert math.isfinite(SGVB_A().loss(*programs(pair), X))
    for _ in range(300):
        SGVB_A().loss_and_grads(*programs(pair), X)
        with torch.no_grad():
            for parameter in pair.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(X)
    found = SGVB_A(20).bound(Pair(model, guide.laplace_approximation(X)), X).sum()
    assert found.item() == pytest.approx(exact.item(), abs=1e-3)  # the posterior is normal


def test_noise_of_the_model_is_another_one_for_each_draw() -> None:
    """Also where the program knows of no draws, and would give all of them one."""

    def shared(like: Callable[[Tensor], Tensor]) -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z + 0.6 * torch.randn(like(z).shape), 0.8), obs=x)

        return Pair(model, near())

    alone = Pair(shared(lambda z: X).model, lambda x: None)  # z is the model's alone
    for pair, count in ((shared(lambda z: X), 500), (alone, 500), (shared(lambda z: z), 20_000)):
        found = importance(pair, X, count, compile="eager")
        assert ((found.log_prob - EXACT).abs() < 4 * found.standard_error).all(), found


def test_usage_is_told_without_scales() -> None:
    """A unit of 0.02 nats, of which a tenth is trained."""
    tenth = poutine.scale(scale=0.1)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), tenth:
            pyro.sample("z", dist.Normal(0.2 * torch.ones(len(x)), 1.0))

    found = levels(Pair(whole(latent=tenth), guide), [(X,)], threshold=0.01)["z"]
    assert (found.num_informative, found.rate) == (1, pytest.approx(0.02, rel=1e-4))


def test_a_factor_of_the_guide() -> None:
    pair = Pair(whole(), near(more=lambda x: pyro.factor("f", torch.full((len(x),), -2.0), has_rsample=False)))
    for call in (
        lambda: SGVB_A().loss(*programs(pair), X),
        lambda: Enumeration().bound(pair, X),
        lambda: ScoreFunction().bound(pair, X),
        lambda: importance(pair, X, 10),
    ):
        with pytest.raises(ValueError, match=r"factor or observation 'f'.*pyro_vae\.pair\.penalty"):
            call()
    lowered = Pair(whole(), near(more=lambda x: penalty("f", torch.full((len(x),), 2.0))))
    torch.manual_seed(0)
    plain = SGVB_A().loss(*programs(pair_of()), X)
    torch.manual_seed(0)
    assert SGVB_A().loss(*programs(lowered), X) == pytest.approx(plain + 6.0)


def test_noise_of_the_guide_that_no_site_shows() -> None:
    def noisy(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.45 * x + torch.randn(len(x)), 0.8))

    pair = Pair(whole(), noisy)
    for steps in (1, 10):
        with pytest.raises(ValueError, match="the guide draws noise that no site shows"):
            ais(pair, X, 4, steps, start="guide", compile="eager")
    with pytest.raises(ValueError, match="the model draws noise that no site shows"):
        ais(Pair(whole(more=lambda z: pyro.factor("f", torch.randn(len(X)))), near()), X, 4, 10, compile="eager")
    found = importance(pair, X, 20_000)
    assert ((found.log_prob - EXACT).abs() < 4 * found.standard_error).all()


@pytest.mark.parametrize("chunk", [12, 4])
def test_noise_that_not_every_datum_shows(chunk: int) -> None:
    def model(x: Tensor, there: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + torch.randn(len(x)), 1.0).mask(there), obs=x)

    pair = Pair(model, lambda x, there: near()(x))
    with pytest.raises(ValueError, match="the model draws noise that no site shows"):
        ais(pair, (X, torch.tensor([False, True, False])), 4, 10, chunk=chunk, compile="eager")
    ais(pair, (X, torch.zeros(3).bool()), 4, 10, chunk=chunk, compile="eager")
