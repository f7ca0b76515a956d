"""The pair whose weights are latent variables: contract, scaling, held-out data, predictions."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive
from torch import nn

import pyro_vae as pv
from pyro_vae import bayesian, diagnostics, evidence, models
from pyro_vae.bayesian import bayesian_layers
from pyro_vae.models import FullBayes
from tests.pairs import binary, real

DECODER, ENCODER = "likelihood.network", "posterior.network"


def mlp(networks: Any = (DECODER,), noise: Any = "shared", seed: int = 0, **options: Any) -> FullBayes:
    torch.manual_seed(seed)
    return FullBayes(pv.models.MLPVAE((1, 8, 8), latent_dim=2, hidden=(6,)), networks, noise=noise, **options)


PAIRS: dict[str, Any] = {
    "decoder": lambda: (mlp(), binary(1, 8, 8)),
    "encoder": lambda: (mlp((ENCODER,)), binary(1, 8, 8)),
    "both": lambda: (mlp((DECODER, ENCODER)), binary(1, 8, 8)),
    "local": lambda: (mlp((DECODER, ENCODER), "local"), binary(1, 8, 8)),
    "flipout": lambda: (mlp((DECODER, ENCODER), "flipout"), binary(1, 8, 8)),
    "low rank": lambda: (mlp(posterior=bayesian.LowRank, noise="local"), binary(1, 8, 8)),
    "matrix": lambda: (mlp(posterior=bayesian.MatrixVariate, noise="local"), binary(1, 8, 8)),
    "spike and slab": lambda: (mlp(prior=bayesian.ScaleMixture), binary(1, 8, 8)),
    "learned": lambda: (mlp(prior=functools.partial(bayesian.IsotropicNormal, learned="column")), binary(1, 8, 8)),
    "flow": lambda: (
        FullBayes(models.MLPVAE((6,), 2, (8,), transforms=[pv.transforms.Planar]), (DECODER, "posterior.network")),
        binary(6),
    ),
    "gaussian": lambda: (
        FullBayes(models.MLPVAE((6,), 2, (8,), likelihood=functools.partial(pv.Gaussian, scale="shared"))),
        real(6),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("estimator", [pv.SGVB_A, pv.SGVB_B, pv.ScoreFunction])
def test_pair_is_a_pair(name: str, estimator: Any) -> None:
    """check, Pyro's SVI, the same value and gradient traced as eager, and bounds with particles."""
    if estimator is pv.SGVB_B and name in ("spike and slab", "flow"):
        pytest.skip("no closed form: said in a warning")
    pair, x = PAIRS[name]()
    pv.check(pair, x, estimator=estimator(2))
    one, three = estimator(1 if estimator is not pv.ScoreFunction else 2), estimator(3)
    assert three.bound(pair, x).shape == (len(x),)
    from pyro_vae.training.step import Step

    found = []
    for mode in ("eager", "traced"):
        torch.manual_seed(3)
        objective = Step(pair, one, compile=mode)([x], torch.tensor(1.0))
        found.append([objective.loss, *(p.grad for p in pair.parameters() if p.grad is not None)])
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(eager, traced, rtol=1e-4, atol=1e-5)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), one)
    assert math.isfinite(svi.step(x))


def test_value_is_pyro_s_at_equal_seed() -> None:
    pair, x = PAIRS["both"]()
    for ours, theirs in (
        (pv.SGVB_A(), pyro.infer.Trace_ELBO()),
        (pv.SGVB_B(), pyro.infer.TraceMeanField_ELBO()),
    ):
        losses = []
        for estimator in (ours, theirs):
            torch.manual_seed(1)
            losses.append(estimator.loss(pair.model, pair.guide, x))
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_count_once_for_the_data() -> None:
    """The KL of the weights has 1/N in a datum's bound, and does not depend on the size of the batch."""
    pair, x = PAIRS["decoder"]()
    kl = sum(torch.distributions.kl_divergence(q.posterior(), q.prior()) for _, q in bayesian_layers(pair)).item()
    for batch in (x, x[:2]):
        terms = pv.SGVB_B(num_data=1000).terms(pair, batch)
        weights = sum(terms[name].kl.sum() for name in pair.weight_sites).item()
        assert weights == pytest.approx(kl / 1000, rel=1e-5)
    torch.manual_seed(0)
    counted = pv.SGVB_B(num_data=1000).bound(pair, x)
    torch.manual_seed(0)
    held_out = pv.SGVB_B(num_data=math.inf).bound(pair, x)
    torch.testing.assert_close(held_out - counted, torch.full((len(x),), kl / 1000), rtol=1e-4, atol=1e-4)
    assert "weights" in pair.weight_sites[0]


def test_validation_bound_leaves_the_weights_out() -> None:
    pair, x = PAIRS["decoder"]()
    run = pv.fit(pair, (x.repeat(8, 1, 1, 1), x), epochs=1, batch_size=20, progress=False, compile="eager",
                 optimizer=functools.partial(torch.optim.SGD, lr=0.0))  # fmt: skip
    entry = run.history[-1]
    kl = sum(terms["kl"] for name, terms in entry["terms"].items() if name.endswith("weights"))
    assert kl > 1.0
    assert entry["valid"] == pytest.approx(entry["train"] + kl, abs=4.0)
    assert kl > 8.0


@pytest.mark.parametrize("noise", ["shared", "local", "flipout"])
def test_the_likelihood_reaches_both_parameters_of_q(noise: Any) -> None:
    pair, x = mlp(noise=noise), binary(1, 8, 8)
    terms = pv.SGVB_B(num_data=math.inf).objective(pair.model, pair.guide, x)  # no KL of the weights
    terms.loss.backward()
    for _, layer in bayesian_layers(pair):
        assert layer.posterior.loc.grad.abs().max() > 1e-6
        assert layer.posterior.log_scale.grad.abs().max() > 1e-8


def test_a_trained_pair_becomes_random_where_it_is() -> None:
    torch.manual_seed(0)
    vae, x = models.MLPVAE((6,), 2, (8,)), binary(6)
    pv.fit(vae, x, epochs=1, batch_size=5, progress=False, compile="eager")
    expected = vae.likelihood(torch.ones(3, 2)).mean
    pair = FullBayes(copy.deepcopy(vae), posterior=functools.partial(bayesian.MeanField, scale=1e-6))
    z = torch.ones(3, 2)
    torch.testing.assert_close(diagnostics.decode(pair, z, x), expected)
    direct = FullBayes(vae)
    assert len(list(bayesian_layers(direct))) == 2


def test_two_pairs_do_not_meet() -> None:
    x = binary(1, 8, 8)
    alone = mlp(seed=1)
    pv.fit(alone, x, epochs=2, batch_size=5, progress=False, compile="eager")
    other, again = mlp(seed=2), mlp(seed=1)
    pv.fit(other, x, epochs=2, batch_size=5, progress=False, compile="eager")
    pv.fit(again, x, epochs=2, batch_size=5, progress=False, compile="eager")
    for a, b in zip(alone.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert len(pyro.get_param_store()) == 0


def test_fit_resumes(tmp_path: Path) -> None:
    x = binary(1, 8, 8).repeat(4, 1, 1, 1)
    fit = functools.partial(pv.fit, data=x, batch_size=10, progress=False, compile="traced", seed=3)
    whole = mlp(noise="local")
    fit(whole, epochs=4)
    parts = mlp(noise="local")
    fit(parts, epochs=2, out=tmp_path / "run")
    again = mlp(noise="local")
    fit(again, epochs=4, out=tmp_path / "run", resume=True)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_predictive_density_is_the_mean_over_weights() -> None:
    """A model that is linear in its weights: the mean weight is p(x) under q(theta), known in closed form."""
    torch.manual_seed(0)
    likelihood = pv.Gaussian(nn.Linear(1, 1, bias=False), scale=0.5, sigmoid_mean=False)
    posterior = pv.DiagonalNormal(pv.MLP(1, (2, 1), hidden=()))
    vae = pv.VAE(pv.StandardNormal(1), posterior, likelihood)
    pair = FullBayes(vae, posterior=functools.partial(bayesian.MeanField, scale=0.3)).eval()
    x = torch.tensor([[0.3], [-0.8], [1.5]])
    layer = next(layer for _, layer in bayesian_layers(pair))
    # p(x) = int N(w; loc, 0.3^2) N(x; 0, w^2 + 0.5^2) dw by a sum over a grid
    w = torch.linspace(-4, 4, 20_001, dtype=torch.float64) * 0.6 + layer.posterior.loc.item()
    density = torch.distributions.Normal(layer.posterior.loc.double().squeeze(), 0.3).log_prob(w)
    each = torch.distributions.Normal(0.0, (w**2 + 0.25).sqrt()).log_prob(x.double())
    exact = (density + each).logsumexp(1) + (w[1] - w[0]).log()
    found = evidence.importance(pair.predictive(), x, 40_000, compile="eager", progress=False)
    assert ((found.log_prob - exact).abs() < 5 * found.standard_error + 1e-3).all()
    with pytest.raises(ValueError, match="outside the data plate"):
        pv.IWAE(5).bound(pair, x)
    assert pv.IWAE(5).bound(pair.predictive(), x).shape == (3,)


def test_drawn_weights_stay() -> None:
    pair, x = mlp().eval(), binary(1, 8, 8)
    one, other = pair.drawn(0), pair.drawn(1)
    z = torch.ones(3, 2)
    torch.testing.assert_close(diagnostics.decode(one, z, x), diagnostics.decode(one, z, x))
    assert not torch.equal(diagnostics.decode(one, z, x), diagnostics.decode(other, z, x))
    ais = evidence.ais(one, x, num_chains=4, num_steps=20, progress=False, compile="eager")
    assert ais.log_prob.isfinite().all()


def test_evaluation_mode_shares_one_draw() -> None:
    """One network for all data in evaluation mode: equal latents give equal pixels, not so with local noise."""
    pair, x = mlp(noise="local"), binary(1, 8, 8)
    z = torch.ones(5, 2)

    def logits() -> Any:
        guide = pyro.poutine.trace(pair.guide).get_trace(x)
        replayed = pyro.poutine.condition(pyro.poutine.replay(pair.model, trace=guide), data={"z": z})
        return pyro.poutine.trace(replayed).get_trace(x).nodes["x"]["fn"].base_dist.logits

    drawn = logits()
    assert not torch.allclose(drawn[0], drawn[1])
    pair.eval()
    drawn = logits()
    torch.testing.assert_close(drawn[0], drawn[1])


def test_diagnostics_see_latents_of_data_alone() -> None:
    pair, x = mlp((DECODER, ENCODER)).eval(), binary(1, 8, 8)
    assert list(diagnostics.encode(pair, x)) == ["z"]
    assert diagnostics.reconstruct(pair, x).shape == x.shape
    torch.manual_seed(0)
    drawn = diagnostics.sample(pair, 6, x)
    assert drawn.shape == (6, 1, 8, 8)
    assert diagnostics.active_units(pair, [(x,)]).codes.shape == (len(x), 2)
    # far from q's mean the prior's weights, of scale 1, would give other pictures
    layers = [layer for _, layer in bayesian_layers(pair)]
    with torch.no_grad():
        layers[-1].posterior.loc.zero_()
        layers[-1].posterior.log_scale.fill_(-20.0)
    torch.testing.assert_close(diagnostics.sample(pair, 6, x), torch.full((6, 1, 8, 8), 0.5))


def test_uncertainty_grows_away_from_the_data() -> None:
    """A one-dimensional latent: the spread of E[x | z] over the weights is larger where no data were."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 40)[:, None] * torch.tensor([1.0, -0.5]) + 0.05 * torch.randn(40, 2)
    vae = models.MLPVAE((2,), 1, (10,), activation=nn.Tanh, likelihood=functools.partial(
        pv.Gaussian, scale=0.1, sigmoid_mean=False))  # fmt: skip
    pair = FullBayes(vae)
    pv.fit(pair, x, epochs=400, batch_size=20, progress=False, compile="traced",
           optimizer=functools.partial(torch.optim.Adam, lr=1e-2))  # fmt: skip
    z = torch.tensor([[0.0], [6.0]])
    spread = torch.stack([diagnostics.decode(pair.drawn(seed), z, x) for seed in range(30)]).var(0).sum(-1)
    assert spread[1] > 3 * spread[0]


@pytest.mark.parametrize("noise", ["shared", "flipout"])
def test_convolutions(noise: Any) -> None:
    torch.manual_seed(0)
    x = binary(1, 8, 8)
    pair = FullBayes(models.ConvVAE((1, 8, 8), 2, (2, 4), 8), (DECODER, ENCODER), noise=noise)
    pv.check(pair, x, estimator=pv.SGVB_B(3))
    assert pv.SGVB_A(3).bound(pair, x).isfinite().all()
    run = pv.fit(pair, x, epochs=2, batch_size=5, progress=False, compile="traced")
    assert run.mode == "traced"
    assert evidence.importance(pair.predictive(), x, 6, compile="eager", progress=False).log_prob.isfinite().all()


def test_predictions_of_pyro() -> None:
    pair, x = mlp().eval(), binary(1, 8, 8)
    drawn = Predictive(pair.model, guide=pair.guide, num_samples=3, return_sites=("z", *pair.weight_sites))(x)
    assert drawn["z"].shape[0] == 3
    assert all(drawn[name].shape[0] == 3 for name in pair.weight_sites)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"networks": ("decoder",)}, "no network 'decoder'.*likelihood.network"),
        ({"noise": "global"}, "shared, local, flipout"),
    ],
)
def test_bad_input(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp(**arguments)
    with pytest.raises(ValueError, match="larger than the training set"):
        pv.fit(mlp(), binary(1, 8, 8), batch_size=100)
