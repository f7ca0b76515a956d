"""Importance sampling of log p(x), and the tail of its weights, against answers known in closed form."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import linear_gaussian, mlp_vae, plain_object, two_arguments
from programs import Normals, program, standard
from pyro import poutine
from scipy.stats import genpareto
from torch import Tensor, nn

from pyro_vae import SGVB_A, Pair
from pyro_vae.distributions.pixels import QuantizedCategorical
from pyro_vae.evidence import Importance, ais, importance
from pyro_vae.evidence.importance import _LogWeights, pareto_k_hat
from pyro_vae.pair import as_pair


def by_prior(scale: float = 1.0) -> Normals:
    """The guide does not look at the data."""
    return Normals(slope=0.0, scale=scale)


def silently(*arguments: Any, **options: Any) -> Importance:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importance(*arguments, **options)


@pytest.mark.parametrize("compile", ["eager", "traced", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("num_samples", "chunk"), [(1, 100), (64, 16384), (50, 7), (3, 1)])
def test_exact_posterior_gives_the_exact_evidence(num_samples: int, chunk: int, compile: Any) -> None:
    pair, x, exact = linear_gaussian()
    result = importance(pair, x, num_samples, chunk=chunk, compile=compile)
    torch.testing.assert_close(result.log_prob, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.effective_sample_size, torch.full_like(exact, num_samples), rtol=1e-6, atol=0)
    torch.testing.assert_close(result.standard_error, torch.zeros_like(exact), rtol=0, atol=1e-5)
    assert result.num_samples == num_samples
    assert result.nll == pytest.approx(-exact.mean().item())
    assert result.nll_standard_error == pytest.approx(exact.std().item() / math.sqrt(len(x)))


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_wrong_guide_within_its_standard_error(mode: Any) -> None:
    x = torch.linspace(-2, 2, 400, dtype=torch.float64)
    pair = Normals(scale=1.2)  # the exact scale is 0.71
    result = importance(pair, x, 200, compile=mode)
    errors = result.log_prob - pair.log_evidence(x)
    scores = errors / result.standard_error
    assert scores.abs().max() < 5
    assert 0.7 < scores.std() < 1.3  # the standard error is the size of the error
    # In expectation below, by half the variance: -1/2 (1 / ESS - 1 / S)
    assert errors.mean().item() == pytest.approx(
        -result.standard_error.square().mean().item() / 2, abs=4 * result.standard_error.mean().item() / 20
    )


@pytest.mark.parametrize(("x", "gap"), [(0.0, 0.1534), (2.0, 1.1534)])
def test_gap_of_one_sample(x: float, gap: float) -> None:
    """E[log p(x) - log w] with the prior as guide: KL(prior || posterior) = (x^2 + 1) / 4 - ... in closed form."""
    data = torch.full((400_000,), x, dtype=torch.float64)
    errors = by_prior().log_evidence(data) - importance(by_prior(), data, 1, chunk=1_000_000).log_prob
    assert errors.mean().item() == pytest.approx(gap, abs=5 * errors.std().item() / math.sqrt(len(data)))
    assert errors.std() / math.sqrt(len(data)) < 0.004


def test_rises_with_the_number_of_samples() -> None:
    data = torch.full((20_000,), 2.0, dtype=torch.float64)
    exact = by_prior().log_evidence(data)[0].item()
    means = [importance(by_prior(), data, k, chunk=1_000_000).log_prob.mean().item() for k in (1, 2, 8, 64)]
    assert means == sorted(means)
    assert means[0] < exact - 1
    assert exact - 0.05 < means[-1] < exact + 0.01


@pytest.mark.parametrize("chunk", [1, 3, 10, 64, 1000])
def test_chunk_bounds_memory_and_not_the_result(chunk: int) -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    pair = Normals(slope=0.4, scale=0.9)
    result = importance(pair, x, 50, chunk=chunk, compile="eager")
    assert pair.largest <= max(chunk, 2)  # two particles of a datum tell how they are run
    assert ((result.log_prob - pair.log_evidence(x)).abs() < 5 * result.standard_error).all()


def test_chunks_are_of_one_distribution() -> None:
    x = torch.full((1500,), 1.5, dtype=torch.float64)
    one = importance(by_prior(), x, 5, chunk=100_000)
    many = importance(by_prior(), x, 5, chunk=3, compile="traced", seed=1)
    for statistic in ("log_prob", "effective_sample_size"):
        a, b = getattr(one, statistic), getattr(many, statistic)
        error = math.hypot(a.std().item(), b.std().item()) / math.sqrt(len(x))
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=5 * error), statistic
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.15)


def test_against_the_log_weights_themselves() -> None:
    """The estimate and its effective sample size are those of the weights that the same seed draws."""
    x, pair = torch.tensor([0.3, -1.0, 2.0]), by_prior()
    result = importance(pair, x, 6, compile="eager", seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        SGVB_A().bound(pair, x[:1])  # the run that looks for latents that data share
        w = SGVB_A(6).log_weights(pair, x).exp()
    torch.testing.assert_close(result.log_prob, w.mean(0).log())
    torch.testing.assert_close(result.effective_sample_size, w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(result.standard_error, w.std(0, correction=0) / w.mean(0) / math.sqrt(6))


def test_several_arguments() -> None:
    torch.manual_seed(0)
    pair, (x, y) = two_arguments()
    result = importance(pair, (x, y), 2000)
    assert result.log_prob.shape == (5,)
    one = importance(pair, (x[2:3], y[2:3]), 2000, seed=1)  # its own label goes with each datum, in whatever chunk
    assert one.log_prob.item() == pytest.approx(result.log_prob[2].item(), abs=0.15)
    by_one = importance(pair, (x, y), 2000, chunk=2000, seed=2)
    torch.testing.assert_close(by_one.log_prob, result.log_prob, atol=0.15, rtol=0)


def test_seed_and_the_callers_state() -> None:
    torch.manual_seed(0)
    pair, (x,) = mlp_vae()
    state = torch.get_rng_state()
    first = importance(pair, x, 20).log_prob
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(importance(pair, x, 20).log_prob, first)
    assert not torch.equal(importance(pair, x, 20, seed=1).log_prob, first)
    assert not first.requires_grad
    assert pyro.settings.get("validate_distributions_pyro")


def test_training_mode_is_put_back() -> None:
    class Modes(Normals):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.fixed = nn.Dropout(0.5), nn.Dropout(0.5).eval()
            self.seen: list[bool] = []

        def guide(self, x: Tensor) -> None:
            self.seen.append(self.training or self.part.training)
            super().guide(x)

    pair = Modes()
    importance(pair, torch.zeros(2), 4)
    assert pair.seen
    assert not any(pair.seen)
    assert (pair.training, pair.part.training, pair.fixed.training) == (True, True, False)
    with pytest.raises(ValueError, match="At site 'z' of the guide the distribution has size 3"):
        importance(pair, torch.zeros(2, 3), 4)
    assert (pair.training, pair.part.training, pair.fixed.training) == (True, True, False)


def test_evaluation_mode_of_modules_that_are_first_announced_here() -> None:
    decoder = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 3))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    x, guide = torch.zeros(4, 3), program(z=standard(2))
    first, second = (importance(Pair(model, guide), x, 3, compile="eager").log_prob for _ in range(2))
    assert torch.equal(first, second)
    assert decoder[0].num_batches_tracked == 0
    assert decoder.training
    assert decoder[1].training


def test_poor_effective_sample_size_is_said() -> None:
    x = torch.tensor([0.0, 30.0, 40.0])
    with pytest.warns(UserWarning, match=r"below 5 of 100 for 2 of 3 data.*Use more samples") as caught:
        result = importance(by_prior(), x, 100)
    assert caught[0].filename == __file__
    assert (result.effective_sample_size < 5).tolist() == [False, True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importance(by_prior(), torch.zeros(3), 100)
        importance(by_prior(), x, 20)  # so few samples that a small effective number says nothing
    tiny = silently(by_prior(), torch.tensor([60.0, 0.0]), 100)  # weights that would underflow
    assert tiny.log_prob.isfinite().all()
    assert tiny.log_prob[0] < -1000
    assert (tiny.effective_sample_size >= 1).all()


def test_shared_latents_are_refused_and_may_be_fixed_as_the_message_says() -> None:
    torch.manual_seed(0)
    pair, (x,) = plain_object()
    with pytest.raises(ValueError, match=r"'bias' stands outside the data plate.*poutine\.condition.*poutine\.block"):
        importance(pair, x, 10)
    module, bias = as_pair(pair), torch.linspace(-1, 1, 6)
    SGVB_A().bound(module, x)
    conditioned = poutine.condition(module.model, data={"bias": bias})
    fixed = Pair(poutine.block(conditioned, hide=["bias"]), program(z=standard(2)))
    logits = pair.networks["decoder"](torch.randn(20_000, 1, 2)) + bias
    exact = dist.Bernoulli(logits=logits).to_event(1).log_prob(x).logsumexp(0) - math.log(20_000)
    torch.testing.assert_close(importance(fixed, x, 4000).log_prob, exact.detach(), atol=0.1, rtol=0)

    def component(x: Tensor) -> Tensor:
        with pyro.plate("components", 3):
            return pyro.sample("mean", dist.Normal(0.0, 1.0)).sum()

    guide = program(z=lambda x: dist.Normal(0.0, 1.0))

    def model(x: Tensor) -> None:
        mean = component(x)
        program(z=lambda x: dist.Normal(0.0, 1.0), x=lambda x, z: dist.Normal(z + mean, 1.0))(x)

    with pytest.raises(ValueError, match="'mean' stands outside the data plate"):
        importance(Pair(model, lambda x: (component(x), guide(x))), torch.zeros(5), 10)


def test_inner_plate() -> None:
    """x: [D, B], each pixel with a latent of its own: the evidence is the product over the pixels."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[-1], dim=-1), pyro.plate("pixels", 2, dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[-1], dim=-1), pyro.plate("pixels", 2, dim=-2):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_weights = _LogWeights(Pair(model, guide), 5, 2, "float32")
    torch.testing.assert_close(log_weights(x)[0] - math.log(5), Normals().log_evidence(x).sum(0))


def test_precision() -> None:
    torch.manual_seed(0)
    pair, (x,) = mlp_vae()
    full, half = (importance(pair, x, 500, precision=precision).log_prob for precision in ("float32", "bfloat16"))
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples has to be a whole number of at least 1; got 0"),
        ({"num_samples": 2.5}, r"num_samples .* got 2\.5"),
        ({"chunk": 0}, "chunk has to be a whole number of at least 1; got 0"),
        ({"x": torch.zeros(0)}, "there are no data: x is empty"),
        ({"x": ()}, "there are no data: x is empty"),
        ({"compile": "jit"}, "compile is one of"),
        ({"precision": "half"}, "precision is one of"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importance(by_prior(), **{"x": torch.zeros(2), "num_samples": 2, "compile": "eager", **arguments})


# --- Pareto k-hat


def zhang_stephens(excess: np.ndarray) -> float:
    """k of the generalized Pareto distribution, one sample, as in the paper's own program; positive k: heavy tail."""
    excess = np.sort(excess)
    n = len(excess)
    m = 30 + math.floor(math.sqrt(n))
    theta = 1 / excess[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / 3 / excess[math.floor(n / 4 + 0.5) - 1]
    log_likelihood = [n * (math.log(-b / k) - k - 1) for b in theta for k in [np.log1p(-b * excess).mean()]]
    weight = np.array([1 / sum(math.exp(other - own) for other in log_likelihood) for own in log_likelihood])
    return np.log1p(-(theta * weight).sum() * excess).mean().item()


def by_reference(log_weights: Tensor) -> Tensor:
    """Pareto smoothing's diagnostic, datum by datum."""
    found = []
    for column in log_weights.T.double().numpy():
        w = np.sort(np.exp(column - column.max()))
        m = math.ceil(min(len(w) / 5, 3 * math.sqrt(len(w))))
        found.append((zhang_stephens(w[-m:] - w[-m - 1]) * m + 0.5 * 10) / (m + 10))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("num_samples", [25, 100, 2500])
def test_k_hat_is_that_of_the_reference(num_samples: int) -> None:
    log_weights = torch.randn(num_samples, 6, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0])
    expected = by_reference(log_weights)
    torch.testing.assert_close(pareto_k_hat(log_weights), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(pareto_k_hat(log_weights - 1e4), expected, rtol=1e-6, atol=1e-6)
    largest = log_weights.sort(0).values[-num_samples // 2 :]
    torch.testing.assert_close(pareto_k_hat(largest, num_samples), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.7, 1.2])
def test_k_hat_of_generalized_pareto_draws(k: float) -> None:
    """Also the tail of a generalized Pareto distribution is one, of the same k; the fit shrinks to 1/2 by 10 / M."""
    draws = genpareto(k, scale=2.0).rvs((10_000, 50), random_state=np.random.default_rng(0))
    found = pareto_k_hat(torch.from_numpy(draws).log())
    expected = (300 * k + 5) / 310
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / math.sqrt(50) + 0.01)
    assert found.std().item() == pytest.approx((1 + max(k, 0)) / math.sqrt(300), rel=0.5)


@pytest.mark.parametrize("scale", [0.4, 0.55])
def test_k_hat_of_a_guide_that_is_too_narrow(scale: float) -> None:
    """q = N(m, s'), p(z | x) = N(m, s): w = exp(z^2 (1 / s'^2 - 1 / s^2) / 2), k = 1 - s'^2 / s^2."""
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)
    result = silently(Normals(scale=scale), x, 5000)
    assert result.k_hat.shape == (100,)
    assert result.k_hat.mean().item() == pytest.approx(1 - 2 * scale**2, abs=0.08)
    assert (importance(Normals(scale=1.0), x, 5000).k_hat < 0.5).all()  # bounded weights


@pytest.mark.parametrize("chunk", [40, 700, 16384])
def test_k_hat_does_not_depend_on_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest weights of all chunks are the largest of all draws."""
    seen: list[tuple[Tensor, Tensor]] = []
    x = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    original = _LogWeights.forward

    def forward(self: Any, *batch: Tensor) -> list[Tensor]:
        out = original(self, *batch)
        seen.append((batch[0], out[2]))
        return out

    monkeypatch.setattr(_LogWeights, "forward", forward)
    result = importance(by_prior(), x, 400, chunk=chunk, compile="eager")
    by_datum = [torch.cat([w[:, b == value] for b, w in seen if (b == value).any()]) for value in x]
    log_weights = torch.cat(by_datum, 1)
    assert log_weights.shape == (400, 3)
    torch.testing.assert_close(result.k_hat, pareto_k_hat(log_weights))
    torch.testing.assert_close(result.log_prob, log_weights.logsumexp(0) - math.log(400))


def test_k_hat_at_the_edges() -> None:
    assert pareto_k_hat(torch.randn(20, 3)).isnan().all()  # too few
    assert (pareto_k_hat(torch.zeros(100, 3)) == -math.inf).all()  # no tail
    zero = torch.full((100, 2), -math.inf)
    zero[:10, 0] = 0.0  # fewer positive weights than the tail has
    assert (pareto_k_hat(zero) == math.inf).all()
    pair, x, _ = linear_gaussian(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (importance(pair, x, 200).k_hat == -math.inf).all()  # rounding is no tail
    assert importance(pair, x, 5).k_hat.isnan().all()


def test_heavy_tails_are_said() -> None:
    x = torch.linspace(-0.1, 0.1, 200)
    with pytest.warns(UserWarning, match=r"k-hat .* above 0\.7 for \d+ of 200 data.*evidence\.ais") as caught:
        importance(Normals(scale=0.25), x, 1000)
    assert caught[-1].filename == __file__


def weighted(*log_weights: float) -> Pair:
    """Log-weights that are given, for x = 0, 1, ..."""
    values = torch.tensor(log_weights)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Delta(0 * z, log_density=values[x.long()]), obs=0 * z)

    return Pair(model, program(z=standard()))


def test_weights_that_are_not_finite_are_refused_and_those_of_zero_said() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"importance weights of 2 of 4 data are NaN or infinite.*float64"):
            importance(weighted(0.0, value, 1.0, value), torch.arange(4.0), 30, compile="eager", chunk=1)
    with pytest.warns(UserWarning, match="all importance weights of 1 of 2 data are 0") as caught:
        result = importance(weighted(0.0, -math.inf), torch.arange(2.0), 30, compile="eager")
    assert caught[0].filename == __file__
    assert result.log_prob.tolist() == [0.0, -math.inf]
    assert result.effective_sample_size[1] == 1
    assert result.k_hat[1] == math.inf


def test_a_result_says_itself() -> None:
    result = Importance(torch.tensor([-2.0, -4.0]), torch.tensor([1.0, 3.0]), 1)
    assert result.standard_error.tolist() == [0, 0]
    assert str(result) == (
        "NLL 3.000 nats (standard error over the data 1.000; 2 data, median effective sample size 1.0, k-hat above 0.7 "
        "for 0%)"
    )
    found = importance(weighted(0.0, 1.0), torch.arange(2.0), 30, compile="eager")
    assert "; 2 data, 30 samples each, median effective" in str(found)
    assert found.bits_per_dim is None
    assert set(found.summary()) == {"nll", "nll_standard_error", *found.reliability()}
    assert set(found.reliability()) == {"effective_sample_size_median", "k_hat_median", "k_hat_above_0.7"}

    levels = program(
        z=standard(), x=lambda x, z: QuantizedCategorical(z[..., None, None].expand(*z.shape, 2, 4)).to_event(1)
    )
    bits = importance(
        Pair(levels, program(z=standard())), torch.tensor([[0.0, 1.0], [1 / 3, 2 / 3]]), 3, compile="eager"
    )
    assert bits.num_dims == 2
    assert bits.bits_per_dim == pytest.approx(2.0)  # four levels, of which each is as likely
    assert "; 2.000 bits per dimension; 2 data" in str(bits)
    assert bits.summary()["bits_per_dim"] == bits.bits_per_dim


def test_small_noise_in_the_shape_of_the_draws_is_not_taken_for_one_that_they_share():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + 3e-4 * torch.randn(z.shape), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    for seed in range(12):
        importance(Pair(model, guide), torch.linspace(-1, 1, 20), 5, seed=seed, compile="eager")


def test_one_is_told_as_one() -> None:
    pair, (x,) = mlp_vae()
    found = (
        importance(pair, x, 1),
        ais(pair, x, num_chains=1, num_steps=1),
        ais(pair, x, num_chains=2, num_steps=2),
    )
    told = "1 sample each", "1 chain of 1 step,", "2 chains of 2 steps,"
    assert all(words in str(one) for one, words in zip(found, told, strict=True))
