"""Annealing, the BDMC sandwich and posterior draws, against evidence that is known in closed form."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import pytest
import torch
from pairs import BATCH, hierarchy, linear_gaussian, made, mlp_vae, plain_object, two_arguments
from programs import GammaPoisson, Normals, mean_within, program, repeated, standard
from scipy.stats import ks_2samp
from torch import Tensor, nn

from pyro_vae import Pair
from pyro_vae.estimators import SGVB_A
from pyro_vae.evidence import AIS, ais, bdmc, hmc, importance, posterior_draws
from pyro_vae.pair import as_pair, programs, simulate
from pyro_vae.sampling.chains import check_acceptance
from pyro_vae.sampling.joint import joint_of

SCHEDULES = ("linear", "sigmoid", "adaptive")
NORMAL, POSITIVE = Normals(0.5, shift=0.2, scale=0.8), GammaPoisson()


def traced(method: Any, *arguments: Any, num_leapfrog: int = 2, **options: Any) -> Any:
    return method(*arguments, num_leapfrog=num_leapfrog, compile="traced", **options)


# --- AIS


@pytest.mark.parametrize(
    ("pair", "start", "num_steps", "schedule"),  # each two of them together
    [
        (NORMAL, "prior", 1, "linear"),
        (NORMAL, "guide", 2, "sigmoid"),
        (NORMAL, "guide", 6, "adaptive"),
        (POSITIVE, "guide", 1, "linear"),
        (POSITIVE, "prior", 2, "sigmoid"),
        (POSITIVE, "prior", 6, "adaptive"),
    ],
)
def test_weights_are_unbiased_for_any_number_of_steps(pair: Any, start: Any, num_steps: int, schedule: Any) -> None:
    x = repeated(0.0, 2.0, times=600)
    result = traced(ais, pair, x, 2, num_steps, start=start, schedule=schedule)
    mean_within((result.log_weights - pair.log_evidence(x)).exp(), 1.0, below=0.06)


@pytest.mark.parametrize(
    ("start", "schedule"), [*(("prior", schedule) for schedule in SCHEDULES), ("guide", "adaptive")]
)
def test_within_its_error_and_from_below(start: Any, schedule: Any) -> None:
    pair = Normals(0.3, shift=0.3, scale=0.5)
    x = repeated(-1.0, 0.5, 2.0, times=50)
    gaps = []
    for num_steps in (4, 40):
        result = traced(ais, pair, x, 8, num_steps, num_leapfrog=4, start=start, schedule=schedule)
        error = result.log_prob - pair.log_evidence(x)
        gaps.append(error.mean().item())
        assert result.log_prob.shape == result.acceptance.shape == (150,)
        assert result.log_weights.shape == (8, 150)
        assert (result.beta.shape, result.step_size.shape) == ((num_steps + 1, 150), (num_steps - 1, 150))
        assert (result.beta[0] == 0).all()
        torch.testing.assert_close(result.beta[-1], torch.ones(150, dtype=torch.float64))
        assert (result.beta.diff(dim=0) > 0).all()
    assert gaps[0] < gaps[1] < 3 * (error.std().item() / math.sqrt(150))
    scores = error / result.standard_error
    assert 0.7 < scores.std() < 1.7
    assert result.standard_error.mean() < 0.35
    w = result.log_weights.exp()
    torch.testing.assert_close(result.log_prob, w.mean(0).log())
    torch.testing.assert_close(result.standard_error, w.std(0) / w.mean(0) / math.sqrt(8))
    torch.testing.assert_close(result.effective_sample_size, w.sum(0) ** 2 / (w**2).sum(0))
    assert result.nll == pytest.approx(-result.log_prob.mean().item())
    assert "; 150 data, 8 chains of 40 steps, median standard error of a datum 0." in str(result)
    assert set(result.reliability()) == {"standard_error_median", "acceptance_mean"}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exact_from_the_exact_posterior(schedule: Any) -> None:
    pair, x, exact = linear_gaussian()
    result = traced(ais, pair, x, 3, 5, num_leapfrog=3, start="guide", schedule=schedule)
    torch.testing.assert_close(result.log_weights, exact.expand(3, BATCH), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.standard_error, torch.zeros_like(exact), rtol=0, atol=1e-8)
    assert ((result.acceptance > 0.3) & (result.acceptance < 1)).all()


def test_linear_gaussian_from_the_prior() -> None:
    pair, x, exact = linear_gaussian()
    result = traced(ais, pair, x, 64, 100, num_leapfrog=5)
    assert ((result.log_prob - exact).abs() < 4.5 * result.standard_error).all()
    assert (result.standard_error < 0.2).all()


def test_one_step_is_importance_sampling_from_the_prior() -> None:
    pair, x = Normals(0.5), torch.full((4000,), 1.0, dtype=torch.float64)
    result = ais(pair, x, 1, 1, compile="eager")
    draws = dist.Normal(torch.randn(4000, dtype=torch.float64), 0.5).log_prob(x)
    assert ks_2samp(result.log_weights[0].numpy(), draws.numpy()).pvalue > 1e-3
    assert result.acceptance.isnan().all()
    assert result.standard_error.isnan().all()


def test_adaptive_schedule_is_of_equal_thermodynamic_length() -> None:
    """The variance of log w, which is that of its steps, is smallest; most temperatures are where the spread is."""
    pair, x = Normals(0.03), repeated(1.0, times=100)
    found = {schedule: traced(ais, pair, x, 8, 30, num_leapfrog=4, schedule=schedule) for schedule in SCHEDULES}
    spread = {schedule: result.log_weights.std(0).mean() for schedule, result in found.items()}
    first = {schedule: result.beta[1].mean() for schedule, result in found.items()}
    assert spread["adaptive"] < 0.7 * min(spread["linear"], spread["sigmoid"])
    assert first["adaptive"] < 0.1 * first["sigmoid"] < 0.1 * first["linear"]


@pytest.mark.parametrize(
    ("mode", "rtol", "atol"), [("eager", 1e-4, 1e-3), pytest.param("inductor", 1e-3, 1e-2, marks=pytest.mark.slow)]
)
def test_modes_give_the_same(mode: Any, rtol: float, atol: float) -> None:
    torch.manual_seed(0)
    pair, (x,) = mlp_vae()
    found, expected = (ais(pair, x, 4, 6, compile=each, num_leapfrog=3).log_weights for each in (mode, "traced"))
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("chunk", [1, 12, 1000])
def test_chunk_bounds_memory_and_not_the_result(chunk: int) -> None:
    pair, x = Normals(0.5), torch.linspace(-1, 1, 3, dtype=torch.float64)
    result = ais(pair, x, 6, 10, num_leapfrog=2, chunk=chunk, compile="eager")
    assert pair.largest <= max(chunk, 6)
    assert ((result.log_prob - pair.log_evidence(x)).abs() < 6 * result.standard_error + 0.1).all()


def test_seed_and_the_callers_state() -> None:
    torch.manual_seed(0)
    pair, (x,) = mlp_vae()
    pair.train()
    state = torch.get_rng_state()
    first, again, other = (traced(ais, pair, x, 2, 3, seed=seed).log_prob for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again, first)
    assert not torch.equal(other, first)
    assert not first.requires_grad
    assert pair.training
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert pyro.settings.get("validate_distributions_pyro")


@pytest.mark.parametrize(
    ("factory", "start"),
    [pytest.param(hierarchy, "prior", marks=pytest.mark.slow), (hierarchy, "guide"), (two_arguments, "prior")],
)
def test_agrees_with_importance_sampling(factory: Any, start: Any) -> None:
    pair, batch = made(factory)
    result = traced(ais, pair, batch, 64, 40, num_leapfrog=3, start=start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = importance(pair, batch, 5000)
    error = torch.hypot(result.standard_error, reference.standard_error)
    assert ((result.log_prob - reference.log_prob).abs() < 4.5 * error).all()
    assert (error < 0.25).all()


def test_bounds_are_in_order() -> None:
    """1 <= 5 <= 50 importance samples <= AIS, in expectation, on a pair whose guide does not fit."""
    torch.manual_seed(0)
    pair, (x,) = mlp_vae()
    with torch.no_grad():
        for parameter in pair.likelihood.parameters():
            parameter *= 4
    x = x.repeat(40, 1, 1, 1)
    estimates = [importance(pair, x, k, compile="traced").log_prob for k in (1, 5, 50)]
    estimates.append(traced(ais, pair, x, 16, 40, num_leapfrog=5).log_prob)
    for lower, upper in itertools.pairwise(estimates):
        rise = upper - lower
        assert rise.mean() > 3 * rise.std() / math.sqrt(len(x))


def test_subsampling_and_shared_latents() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)), 1.0), obs=x)

    x = repeated(0.0, 2.0, times=20)
    result = traced(ais, Pair(model, model), x, 16, 10, num_leapfrog=3)
    mean_within((result.log_weights - Normals().log_evidence(x)).exp(), 1.0, below=0.05)
    shared, batch = made(plain_object)
    with pytest.raises(ValueError, match=r"'bias' stands outside the data plate.*poutine\.condition"):
        ais(shared, batch, 2, 2)


# --- BDMC


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_reverse_weights_are_unbiased(start: Any) -> None:
    """E[w'] = 1 / p(x) with the exact draw as start: it holds only if the transitions are reversible."""
    pair = Normals(0.7, shift=0.2, scale=0.8)
    result = traced(bdmc, pair, torch.zeros(1500, dtype=torch.float64), 2, 5, start=start)
    exact = pair.log_evidence(result.data[0])
    inverse = (result.log_inverse_weights + exact).exp()
    mean_within(inverse.mean(0), 1.0, below=0.06)  # the chains of a datum share their start
    mean_within((result.forward.log_weights - exact).exp(), 1.0, below=0.06)


def test_sandwich() -> None:
    pair, _, _ = linear_gaussian()
    gaps = []
    for num_steps in (2, 10, 60):
        result = traced(bdmc, pair, torch.zeros(60, 4, dtype=torch.float64), 8, num_steps, num_leapfrog=4)
        exact = pair.log_evidence(result.data[0])
        for bound, sign in ((result.lower, -1), (result.upper, 1)):
            error = sign * (bound - exact)
            assert error.mean() > -3 * error.std() / math.sqrt(60)
        torch.testing.assert_close(result.gap, result.upper - result.lower)
        gaps.append(result.gap.mean().item())
    assert gaps[0] > 2 * gaps[1] > 0
    assert gaps[1] > gaps[2]
    assert abs(gaps[2]) < 0.15
    assert torch.equal(result.log_prob, result.lower)
    assert torch.equal(result.standard_error, result.forward.standard_error)
    assert (result.upper_standard_error < 1).all()
    assert result.reverse_acceptance.shape == (60,)
    found = result.summary()
    assert (found["lower"], found["upper"]) == (pytest.approx(-result.nll), pytest.approx(result.upper.mean().item()))
    spread = result.upper_standard_error.square().sum().sqrt().item() / 60
    assert found["upper_standard_error"] == pytest.approx(spread, rel=1e-5)
    assert str(result).startswith(f"data drawn from the model: mean log p(x) from below {found['lower']:.3f} (standard")
    assert " nats (60 data, 8 chains of 60 steps, median standard error of a datum 0." in str(result)


def test_simulated_data_are_of_the_model() -> None:
    (data,) = bdmc(Normals(0.5), torch.full((4000,), 50.0), 1, 1, compile="eager", seed=3).data
    assert data.mean().abs() < 5 * math.sqrt(1.25 / 4000)
    assert data.var().item() == pytest.approx(1.25, rel=0.12)
    conditional, (x, y) = made(two_arguments)
    new_x, new_y = bdmc(conditional, (x, y), 4, 4, compile="traced").data
    assert torch.equal(new_y, y)
    assert new_x.shape == x.shape
    assert not torch.equal(new_x, x)


def test_simulate() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            two = z[:, None].expand(-1, 2)
            pyro.sample("left", dist.Normal(two, 1e-3).to_event(1), obs=x[:, :2])
            pyro.sample("right", dist.Normal(-two, 1e-3).to_event(1), obs=x.T[2:].T)
            pyro.deterministic("twice", 2 * z)
            pyro.sample("y", dist.Normal(z + 5, 1e-3), obs=y.view(-1))

    x, y = torch.zeros(3, 4), torch.zeros(3, 1)
    (new_x, new_y), trace = simulate(model, x, y)
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(new_x, torch.stack([z, z, -z, -z], -1), rtol=0, atol=0.01)
    torch.testing.assert_close(new_y, (z + 5)[:, None], rtol=0, atol=0.01)
    assert not x.any()
    assert trace.nodes["left"]["is_observed"]
    assert not trace.nodes["z"]["is_observed"]
    same_memory = torch.zeros(6, 4)
    (new_x, new_y), _ = simulate(model, same_memory[:3], same_memory[3:, :1])
    assert new_x.shape == (3, 4)
    assert (new_y - new_x[:, :1]).sub(5).abs().max() < 0.01

    def converting(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.float())

    with pytest.raises(ValueError, match="'x' observes a tensor that is no argument of the model"):
        simulate(converting, torch.zeros(3, dtype=torch.float64))

    def weighed(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.factor("f", -(pyro.sample("z", dist.Normal(0.0, 1.0)) ** 2))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(ValueError, match="'f' is a factor"):
        simulate(weighed, torch.zeros(3))
    with pytest.raises(ValueError, match="observes nothing"):
        simulate(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), torch.zeros(3))


def test_simulate_traces() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    pair, batch = made(two_arguments)
    simulated = lambda *batch: simulate(programs(as_pair(pair))[0], *batch)[0][0]  # noqa: E731
    with torch.no_grad(), pyro.validation_enabled(False):
        graph = make_fx(simulated, tracing_mode="fake", _allow_non_fake_inputs=True)(*batch)
        torch.manual_seed(1)
        expected = simulated(*batch)
        torch.manual_seed(1)
        torch.testing.assert_close(graph(*batch), expected)


# --- HMC


@pytest.mark.parametrize("pair", [Normals(0.5, scale=0.5), GammaPoisson()], ids=["normal", "positive"])
def test_estimator_of_appendix_d(pair: Any) -> None:
    x = repeated(0.0, 1.0, 3.0, times=10)
    result = traced(hmc, pair, x, 60, 16, 80, num_leapfrog=4)
    error = result.log_prob - pair.log_evidence(x)
    assert (error.abs() < 5 * result.standard_error + 0.02).all()
    assert error.mean().abs() < 0.02
    assert (result.standard_error < 0.2).all()
    assert ((result.acceptance > 0.6) & (result.acceptance < 0.95)).all()
    assert (result.r_hat < 1.15).all()
    assert result.log_inverse_weights.shape == (16, 30)
    assert "; 30 data, 16 chains of 60 draws, twice, median standard error of a datum 0." in str(result)
    assert result.summary()["r_hat_largest"] == result.r_hat.max()


def test_hmc_of_the_linear_gaussian_pair() -> None:
    pair, x, exact = linear_gaussian()
    result = hmc(pair, x, 100, 16, 100, compile="traced", start="prior")
    assert ((result.log_prob - exact).abs() < 5 * result.standard_error).all()
    assert (result.standard_error < 0.05).all()


def test_posterior_draws() -> None:
    """z | x ~ Gamma(2 + x, 2)."""
    x = repeated(0.0, 4.0, times=20)
    result = traced(posterior_draws, GammaPoisson(), x, 50, 8, 80, num_leapfrog=5)
    z = result.latents["z"]
    assert z.shape == (50, 8, 40)
    assert (z > 0).all()
    for start, shape in ((0, 2.0), (1, 6.0)):
        chains = z[..., start::2].flatten(1)
        mean_within(chains.mean(0), shape / 2, below=0.05)
        mean_within(chains.square().mean(0), shape * (shape + 1) / 4, below=0.3)
    assert result.r_hat.shape == result.acceptance.shape == result.step_size.shape == (40,)

    pair, (x,) = made(hierarchy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        latents = traced(posterior_draws, pair, x, 10, 2, 20, chunk=4, num_leapfrog=5).latents
    assert {name: tuple(value.shape) for name, value in latents.items()} == {
        "z2": (10, 2, BATCH, 2),
        "z1": (10, 2, BATCH, 3),
    }


def summed(size: int) -> Any:
    return program(z=standard(size), x=lambda x, z: dist.Normal(z.sum(-1), 1.0))


def test_more_than_five_dimensions_are_said() -> None:
    pair = Pair(summed(6), summed(6))
    with pytest.warns(UserWarning, match=r"6 dimensions.*up to 5.*evidence\.ais") as caught:
        hmc(pair, torch.zeros(2, dtype=torch.float64), 20, 4, 40, start="prior", compile="eager")
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=r"4 draws .* too few for the covariance of 6 latent dimensions.*at least 14"):
        hmc(pair, torch.zeros(2), 1, 4, 40)


def test_chains_that_do_not_agree_are_said() -> None:
    model = program(z=lambda x: dist.Normal(x.new_zeros(()), 3.0), x=lambda x, z: dist.Normal(z.abs(), 0.05))
    with pytest.warns(UserWarning, match=r"chains of 2 of 2 data do not agree \(split R-hat above 1\.1\)") as caught:
        posterior_draws(Pair(model, model), torch.tensor([3.0, 4.0]), 30, 6, 60, start="prior", compile="traced")
    assert caught[-1].filename == __file__


# --- bad input


@pytest.mark.parametrize("method", [ais, bdmc, hmc, posterior_draws])
def test_a_discrete_latent_is_refused(method: Any) -> None:
    discrete = program(z=lambda x: dist.Categorical(torch.ones(3)), x=lambda x, z: dist.Normal(z.float(), 1.0))
    with pytest.raises(
        ValueError, match=r"'z' is a Categorical, which is discrete\. For log p\(x\) use evidence\.importance"
    ):
        method(Pair(discrete, discrete), torch.zeros(3))


@pytest.mark.parametrize("method", [ais, posterior_draws])
def test_nothing_accepted(method: Any) -> None:
    """The gradient by z is NaN, the density is not."""
    rough = program(
        z=standard(), x=lambda x, z: dist.Normal(torch.where(z > 1e9, (-1 - z.abs()).sqrt(), z), 1.0)
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"accepts nothing for all data.*gradient is not finite"):
        traced(method, Pair(rough, rough), torch.zeros(3), 3, 3)


def test_weights_that_are_not_finite() -> None:
    """Found among the first data before they run, among others by their weights."""
    broken = program(z=standard(), x=lambda x, z: dist.Normal(z + torch.where(x > 0, torch.nan, 0.0), 1.0))
    with pytest.raises(ValueError, match="At site 'x' of the model the loc of the Normal is not a number"):
        ais(Pair(broken, broken), torch.tensor([-1.0, 1.0, -2.0]), 3, 1, compile="eager")
    with pytest.raises(ValueError, match="importance weights of 1 of 3 data are NaN or infinite"):
        ais(Pair(broken, broken), torch.tensor([-1.0, 1.0, -2.0]), 3, 1, compile="eager", chunk=1)
    guide = program(z=lambda x: dist.Normal(x[..., None].expand(-1, 2), 1.0).to_event(1))
    with pytest.raises(ValueError, match="x is NaN in 1 of 3 data"):
        hmc(Pair(summed(2), guide), torch.tensor([0.0, math.nan, 1.0]), 20, 4, 20, start="guide", compile="eager")


def test_acceptance_out_of_its_range_is_said() -> None:
    good = torch.full((98,), 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_acceptance(torch.cat([good, good, torch.tensor([0.99])]), 100)
        check_acceptance(torch.tensor([0.0, 1.0, 1.0]), 10)  # too few proposals to judge a datum
        check_acceptance(torch.full((3,), torch.nan), 0)  # no transitions at all
    with pytest.warns(UserWarning, match=r"outside of \[0\.4, 0\.95\] for 2 of 100 data .*fewer leapfrog"):
        check_acceptance(torch.cat([good, torch.tensor([0.1, 0.2])]), 100)
    with pytest.warns(UserWarning, match=r"for all data \(the mean of all is 0\.99\).*lower target_acceptance"):
        check_acceptance(good + 0.29, 10)
    with pytest.raises(ValueError, match="accepts nothing for 2 of 100 data"):
        check_acceptance(torch.cat([good, torch.tensor([0.0, 0.0])]), 100)
    x = torch.zeros(3, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"3 of 3 data.*lower target_acceptance") as caught:
        ais(Normals(), x, 8, 50, num_leapfrog=3, target_acceptance=0.99, compile="traced")
    assert caught[0].filename == __file__


def test_planar_flow_cannot_be_a_start() -> None:
    flow, encoder, decoder = transforms.Planar(2), nn.Linear(3, 2), nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        program(z=standard(2), x=lambda x, z: dist.Normal(decoder(z), 1.0).to_event(1))(x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        pyro.module("encoder", encoder)
        base = dist.Normal(encoder(x), 1.0).to_event(1)
        program(z=lambda x: dist.TransformedDistribution(base, [flow]))(x)

    pair, x = Pair(model, guide), torch.zeros(2, 3)
    SGVB_A().bound(pair, x)
    with pytest.raises(ValueError, match=r"planar flow .*start='prior'"):
        ais(pair, x, 2, 2, start="guide")
    assert isinstance(traced(ais, pair, x, 2, 2), AIS)
    assert hmc(pair, x, 20, 4, 40, compile="traced").log_prob.isfinite().all()  # of the guide, draws are enough


def test_a_pair_whose_latents_the_guide_does_not_have() -> None:
    pair, x = Pair(Normals().model, lambda x: None), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"the guide draws nothing and the model z.*start='prior'"):
        ais(pair, x, 2, 2, start="guide")
    with pytest.warns(UserWarning, match="the mean acceptance"):
        assert traced(ais, pair, x, 2, 2).log_prob.isfinite().all()
    assert joint_of(as_pair(pair), x).dim == 1


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (ais, {"num_chains": 0}, "num_chains has to be a whole number of at least 1; got 0"),
        (ais, {"num_steps": 1.5}, r"num_steps .* got 1\.5"),
        (ais, {"num_leapfrog": 0}, "num_leapfrog .* got 0"),
        (ais, {"chunk": 0}, "chunk .* got 0"),
        (ais, {"x": torch.zeros(0)}, "there are no data: x is empty"),
        (ais, {"start": "posterior"}, "start is one of 'prior', 'guide'; got 'posterior'"),
        (ais, {"schedule": "cosine"}, "schedule is one of 'linear', 'sigmoid', 'adaptive'; got 'cosine'"),
        (ais, {"target_acceptance": 1.0}, r"target_acceptance has to be a finite number above 0 and below 1; got 1\.0"),
        (ais, {"compile": "jit"}, "compile is one of"),
        (bdmc, {"num_chains": -1}, "num_chains .* got -1"),
        (bdmc, {"schedule": "cosine"}, "schedule is one of"),
        (hmc, {"num_samples": 0}, "num_samples .* got 0"),
        (hmc, {"num_warmup": 0}, "num_warmup .* got 0"),
        (hmc, {"start": "posterior"}, "start is one of"),
        (posterior_draws, {"target_acceptance": 0.0}, "target_acceptance has to be a finite number above 0"),
    ],
)
def test_refuses(method: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(Normals(), **{"x": torch.zeros(2), **arguments})


def test_a_prior_of_another_precision_than_the_data() -> None:
    pair = Pair(
        program(z=lambda x: dist.Normal(torch.zeros(len(x)), 1.0), x=lambda x, z: dist.Normal(z, 1.0)), lambda x: None
    )
    x = torch.tensor([0.5, -1.0], dtype=torch.float64)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    assert ((ais(pair, x, 16, 30, num_leapfrog=3, compile="eager").log_prob - exact).abs() < 0.2).all()
