"""The pair whose weights are latent variables: scaling, held-out data, predictions."""

from __future__ import annotations

import copy
import functools
import json
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from laws import assert_same, seeded
from pairs import binary
from registry import BOTH, SYSTEM_VARIANTS
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae import bayesian, cli, diagnostics, evidence, models
from pyro_vae.bayesian import bayesian_layers
from pyro_vae.models import FullBayes
from pyro_vae.training.step import TrainingStep

X = binary(1, 8, 8)


def mlp(networks: Any = BOTH[:1], noise: Any = "shared", seed: int = 0, **options: Any) -> FullBayes:
    torch.manual_seed(seed)
    return FullBayes(pv.models.MLPVAE((1, 8, 8), latent_dim=2, hidden=(6,)), networks, noise=noise, **options)


def kl_of_weights(pair: FullBayes) -> float:
    return sum(kl_divergence(q.posterior(), q.prior()).item() for _, q in bayesian_layers(pair))


@pytest.mark.parametrize("name", ["FullBayes, local", "FullBayes, spike and slab", "FullBayes, flow"])
def test_takes_the_score_function_eager_and_traced(name: str) -> None:
    found = []
    for mode in ("eager", "traced"):
        torch.manual_seed(0)
        pair, batch = SYSTEM_VARIANTS[name](), SYSTEM_VARIANTS[name].batch()
        step = TrainingStep(pair, pv.ScoreFunction(2), compile=mode)
        objective = seeded(3, step, batch)
        found.append({"loss": objective.loss, **{n: p.grad for n, p in pair.named_parameters() if p.grad is not None}})
    assert_same(*found, rtol=1e-4, atol=1e-4)


def test_weights_count_once_for_the_data() -> None:
    """The KL of the weights has 1/N in a datum's bound, and does not depend on the size of the batch."""
    pair = mlp()
    kl = kl_of_weights(pair)
    for batch in (X, X[:2]):
        terms = pv.SGVB_B(num_data=1000).terms(pair, batch)
        weights = sum(terms[name].kl.sum() for name in pair.weight_sites).item()
        assert weights == pytest.approx(kl / 1000, rel=1e-5)
    counted = seeded(0, pv.SGVB_B(num_data=1000).bound, pair, X)
    held_out = seeded(0, pv.SGVB_B(num_data=math.inf).bound, pair, X)
    torch.testing.assert_close(held_out - counted, torch.full((len(X),), kl / 1000), rtol=1e-4, atol=1e-4)
    assert "weights" in pair.weight_sites[0]


HELD_OUT: dict[str, Any] = {
    **{name: getattr(pv, name) for name in ("SGVB_A", "Annealed", "SGVB_B", "Balanced", "TCVAE")},
    "ScoreFunction": functools.partial(pv.ScoreFunction, 2),
    "Capacity": functools.partial(pv.Capacity, 5.0),
    "FreeBits": functools.partial(pv.FreeBits, 0.1),
    "TCVAE, weighted": functools.partial(pv.TCVAE, sampling="weighted"),
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_every_estimator_takes_held_out_data(name: str) -> None:
    """No KL of the weights in bound and loss; the penalties stay finite."""
    pair, found = mlp(), []
    for num_data in (10**9, math.inf):
        estimator = HELD_OUT[name](num_data=num_data)
        bound = seeded(1, estimator.bound, pair, X)
        found.append((bound, seeded(1, estimator.objective, pair.model, pair.guide, X).loss))
    assert kl_of_weights(pair) > 10
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)
    assert found[1][1].isfinite()
    if not name.startswith("TCVAE"):
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-4)


def test_held_out_data_of_a_subsampled_plate_do_not_pay() -> None:
    class Subsampled(pv.VAE):
        def model(self, x: Any) -> None:
            pyro.sample("w", pyro.distributions.Normal(0.0, 1.0))
            with pyro.plate("data", 100, subsample=torch.arange(len(x))):
                z = pyro.sample("z", self.prior())
                pyro.sample("x", self.likelihood(z), obs=x)

        def guide(self, x: Any) -> None:
            pyro.sample("w", pyro.distributions.Normal(1.0, 1.0))
            with pyro.plate("data", 100, subsample=torch.arange(len(x))):
                pyro.sample("z", self.posterior(x))

    vae, x = pv.models.MLPVAE((6,), 2, (4,)), binary(6)
    pair = Subsampled(vae.prior, vae.posterior, vae.likelihood)
    counted, held_out = (seeded(0, pv.SGVB_B(num_data=n).bound, pair, x) for n in (None, math.inf))
    torch.testing.assert_close(held_out - counted, torch.full((len(x),), 0.5 / 100), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("posterior", [bayesian.MeanField, bayesian.LowRank, bayesian.MatrixVariate])
def test_weights_stay_in_float32_in_bfloat16(posterior: Any) -> None:
    pair, estimator = mlp(BOTH, "local", posterior=posterior), pv.SGVB_B(num_data=100)
    exact = estimator.terms(pair, X)
    with torch.autocast("cpu", torch.bfloat16):
        terms = estimator.terms(pair, X)
    for site in pair.weight_sites:
        torch.testing.assert_close(terms[site].kl, exact[site].kl, rtol=1e-6, atol=0)
    assert terms["x"].log_p.dtype == torch.float32


def test_a_pickled_pair_is_another() -> None:
    pair = mlp(noise="local")
    other = pickle.loads(pickle.dumps(pair))
    bound = seeded(0, pv.SGVB_B(num_data=10).bound, pair, X)
    assert torch.equal(seeded(0, pv.SGVB_B(num_data=10).bound, other, X), bound)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(seeded(0, pv.SGVB_B(num_data=10).bound, pair, X), bound)


def test_validation_bound_leaves_the_weights_out() -> None:
    optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 20, "progress": False, "compile": "eager"}
    entry = pv.fit(mlp(), (X.repeat(8, 1, 1, 1), X), optimizer=optimizer, **options).history[-1]
    kl = sum(terms["kl"] for name, terms in entry["terms"].items() if name.endswith("weights"))
    assert kl > 8.0
    assert entry["valid"] == pytest.approx(entry["train"] + kl, abs=4.0)


def test_weight_prior_is_for_point_weights_alone() -> None:
    """MAP of the encoder beside full Bayes of the decoder: q(theta) has its own prior."""
    pair = mlp()
    plain, penalized = (
        seeded(0, TrainingStep(pair, pv.SGVB_B(), compile="eager", weight_prior=prior, num_data=7), [X]).loss
        for prior in (None, pv.WeightPrior(0.5))
    )
    square = sum(value.square().sum() for value in pair.pair.posterior.parameters())
    torch.testing.assert_close(penalized - plain, square / (2 * 0.25) / 7, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise", ["shared", "local", "flipout"])
def test_the_likelihood_reaches_both_parameters_of_q(noise: Any) -> None:
    pair = mlp(noise=noise)
    pv.SGVB_B(num_data=math.inf).objective(pair.model, pair.guide, X).loss.backward()  # no KL of the weights
    for _, layer in bayesian_layers(pair):
        assert layer.posterior.loc.grad.abs().max() > 1e-6
        assert layer.posterior.log_scale.grad.abs().max() > 1e-8


def test_normalizations_stay_parameters_and_are_announced() -> None:
    network = functools.partial(pv.MLP, normalization="batch")
    pair = FullBayes(models.MLPVAE((6,), 2, (4,), network=network), networks=("likelihood.network",))
    with pyro.poutine.trace(param_only=True) as recorded:
        pyro.infer.Trace_ELBO().loss_and_grads(pair.model, pair.guide, binary(6))
    announced = {id(site["value"].unconstrained()) for site in recorded.trace.nodes.values() if site["type"] == "param"}
    assert announced == {id(parameter) for parameter in pair.parameters()}


def test_a_trained_pair_becomes_random_where_it_is() -> None:
    torch.manual_seed(0)
    vae, x = models.MLPVAE((6,), 2, (8,)), binary(6)
    pv.fit(vae, x, epochs=1, batch_size=5, progress=False, compile="eager")
    z = torch.ones(3, 2)
    expected = vae.likelihood(z).mean
    pair = FullBayes(copy.deepcopy(vae), posterior=functools.partial(bayesian.MeanField, scale=1e-6))
    torch.testing.assert_close(diagnostics.decode(pair, z, x), expected)
    assert len(list(bayesian_layers(FullBayes(vae)))) == 2


# Predictions


def test_predictive_density_is_the_mean_over_weights() -> None:
    """A model that is linear in its weights: the mean weight is p(x) under q(theta), known in closed form."""
    torch.manual_seed(0)
    likelihood = pv.Gaussian(nn.Linear(1, 1, bias=False), scale=0.5, sigmoid_mean=False)
    posterior = pv.DiagonalNormal(pv.MLP(1, (2, 1), hidden=()))
    vae = pv.VAE(pv.StandardNormal(1), posterior, likelihood)
    pair = FullBayes(vae, posterior=functools.partial(bayesian.MeanField, scale=0.3)).eval()
    x = torch.tensor([[0.3], [-0.8], [1.5]])
    layer: Any = next(layer for _, layer in bayesian_layers(pair))
    # p(x) = int N(w; loc, 0.3^2) N(x; 0, w^2 + 0.5^2) dw by a sum over a grid
    w = torch.linspace(-4, 4, 20_001, dtype=torch.float64) * 0.6 + layer.posterior.loc.item()
    density = torch.distributions.Normal(layer.posterior.loc.double().squeeze(), 0.3).log_prob(w)
    each = torch.distributions.Normal(0.0, (w**2 + 0.25).sqrt()).log_prob(x.double())
    exact = (density + each).logsumexp(1) + (w[1] - w[0]).log()
    found = evidence.importance(pair.posterior_predictive(), x, 40_000, compile="eager", progress=False)
    assert ((found.log_prob - exact).abs() < 5 * found.standard_error + 1e-3).all()
    for refused in (lambda: pv.IWAE(5).bound(pair, x), lambda: evidence.importance(pair, x, 5)):
        with pytest.raises(ValueError, match=r"outside the data plate.*posterior_predictive\(\)"):
            refused()
    assert pv.IWAE(5).bound(pair.posterior_predictive(), x).shape == (3,)
    images = SYSTEM_VARIANTS["FullBayes, convolutions, flipout"]()
    assert evidence.importance(images.posterior_predictive(), X, 6, compile="eager").log_prob.isfinite().all()


def test_drawn_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[evidence.ais.__module__], "_PILOT_STEPS", 5)
    pair, z = mlp().eval(), torch.ones(3, 2)
    one, other = pair.sample_weights(0), pair.sample_weights(1)
    torch.testing.assert_close(diagnostics.decode(one, z, X), diagnostics.decode(one, z, X))
    assert not torch.equal(diagnostics.decode(one, z, X), diagnostics.decode(other, z, X))
    ais = evidence.ais(one, X, num_chains=2, num_steps=5, progress=False, compile="eager")
    assert ais.log_prob.isfinite().all()


@pytest.mark.parametrize("function", [evidence.ais, evidence.bdmc, evidence.hmc])
def test_chains_refuse_weights_that_are_drawn_unseen(function: Any) -> None:
    """Each of their steps would meet another density."""
    pair = mlp().eval()
    with pytest.raises(ValueError, match=r"'pair\.likelihood.*weights' is drawn anew.*sample_weights\(\)"):
        function(pair.posterior_predictive(), X, progress=False, compile="eager")
    with pytest.raises(ValueError, match=r"outside the data plate.*sample_weights\(\)"):
        function(pair, X, progress=False, compile="eager")


def test_evaluation_mode_shares_one_draw() -> None:
    """One network for all data in evaluation mode: equal latents give equal pixels, not so with local noise."""
    pair, z = mlp(noise="local"), torch.ones(5, 2)

    def logits() -> Tensor:
        guide = pyro.poutine.trace(pair.guide).get_trace(X)
        replayed = pyro.poutine.condition(pyro.poutine.replay(pair.model, trace=guide), data={"z": z})
        return pyro.poutine.trace(replayed).get_trace(X).nodes["x"]["fn"].base_dist.logits

    drawn = logits()
    assert not torch.allclose(drawn[0], drawn[1])
    pair.eval()
    drawn = logits()
    torch.testing.assert_close(drawn[0], drawn[1])


def test_diagnostics_see_latents_of_data_alone() -> None:
    pair = mlp(BOTH).eval()
    assert list(diagnostics.encode(pair, X)) == ["z"]
    assert diagnostics.reconstruct(pair, X).shape == X.shape
    assert diagnostics.active_units(pair, [(X,)]).codes.shape == (len(X), 2)
    # far from q's mean the prior's weights, of scale 1, would give other pictures
    last: Any = [layer for _, layer in bayesian_layers(pair)][-1]
    with torch.no_grad():
        last.posterior.loc.zero_()
        last.posterior.log_scale.fill_(-20.0)
    torch.testing.assert_close(diagnostics.sample(pair, 6, X), torch.full((6, 1, 8, 8), 0.5))
    in_float64 = mlp(prior=bayesian.ScaleMixture).double().eval()
    assert diagnostics.sample(in_float64, 3, X.double()).dtype == torch.float64


@pytest.mark.slow
def test_uncertainty_grows_away_from_the_data() -> None:
    """A one-dimensional latent: the spread of E[x | z] over the weights is larger where no data were."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 40)[:, None] * torch.tensor([1.0, -0.5]) + 0.05 * torch.randn(40, 2)
    likelihood = functools.partial(pv.Gaussian, scale=0.1, sigmoid_mean=False)
    pair = FullBayes(models.MLPVAE((2,), 1, (10,), activation=nn.Tanh, likelihood=likelihood))
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    pv.fit(pair, x, epochs=400, batch_size=20, progress=False, compile="traced", optimizer=optimizer)
    z = torch.tensor([[0.0], [6.0]])
    spread = torch.stack([diagnostics.decode(pair.sample_weights(seed), z, x) for seed in range(30)]).var(0).sum(-1)
    assert spread[1] > 3 * spread[0]


@pytest.mark.slow
def test_command_line(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--compile", "traced", "--progress", "false"]
    model = [
        "--model",
        "pyro_vae.models.FullBayes",
        "--model.pair",
        "pyro_vae.models.MLPVAE",
        "--model.noise",
        "flipout",
    ]
    sizes = ["--model.pair.hidden", "[8]", "--model.pair.latent_dim", "2", "--epochs", "1", "--out", "run"]
    assert cli.main(["train", *model, *sizes, *common]) == 0
    assert cli.main(["evaluate", "run", "--num-samples", "30", "--limit", "10", *common]) == 0
    assert "weights drawn from their posterior for each sample" in capsys.readouterr().out
    chains = ["--method", "ais", "--num-steps", "4", "--num-chains", "2", "--limit", "5"]
    assert cli.main(["evaluate", "run", *chains, *common]) == 0
    assert "weights of one draw" in capsys.readouterr().out
    entries = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [entry["weights"] for entry in entries] == ["posterior_predictive", "sample"]
    assert all(math.isfinite(entry["nll"]) for entry in entries)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"no network 'decoder'.*likelihood.network"):
        mlp(networks=("decoder",))
    with pytest.raises(ValueError, match="'shared', 'local', 'flipout'"):
        mlp(noise="global")
    with pytest.raises(ValueError, match="larger than the training set"):
        pv.fit(mlp(), X, batch_size=100)
