"""The deep Markov model: against a Kalman filter and smoother, and what padding and gaps do: nothing."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import IWAE, SGVB_A, Gaussian, check, diagnostics, evidence, likelihoods
from pyro_vae.models import DeepMarkovModel
from pyro_vae.testing.comparing import gradients, seeded

T, L, D = 5, 2, 3
A, SHIFT = np.array([0.9, -0.7]), np.array([0.1, 0.3])
Q, M0, P0, R = np.array([0.3, 0.5]), np.array([0.5, -1.0]), np.array([0.8, 1.5]), 0.4
# The columns of C are orthogonal, so that the units of the posterior are independent, as those of the guide are.
C = np.linalg.qr(np.random.default_rng(3).normal(size=(D, L)))[0] * [1.3, 0.8]
OFFSET = np.array([0.2, -0.1, 0.4])
LENGTHS = torch.tensor([5, 2, 4, 1])
GAPS = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1]]).bool()
X = torch.from_numpy(np.random.default_rng(4).normal(size=(4, T, D)))


class Kalman:
    """Of one sequence ``x: [T, D]`` with the steps that are there: log p(x), and moments of p(z_t | x)."""

    def __init__(self, x: np.ndarray, present: np.ndarray) -> None:
        transition, noise = np.diag(A), np.diag(Q)
        self.log_evidence, filtered, predicted = 0.0, [], []
        mean, cov = M0, np.diag(P0)
        for t in range(len(x)):
            if t:
                mean, cov = transition @ mean + SHIFT, transition @ cov @ transition.T + noise
            predicted.append((mean, cov))
            if present[t]:
                innovation = x[t] - C @ mean - OFFSET
                S = C @ cov @ C.T + R * np.eye(D)
                gain = cov @ C.T @ np.linalg.inv(S)
                self.log_evidence -= 0.5 * (
                    innovation @ np.linalg.solve(S, innovation) + np.linalg.slogdet(2 * math.pi * S)[1]
                )
                mean, cov = mean + gain @ innovation, cov - gain @ C @ cov
            filtered.append((mean, cov))
        self.last = mean, cov
        smoothed = [filtered[-1]]  # Rauch, Tung & Striebel
        for t in range(len(x) - 2, -1, -1):
            (mean, cov), (next_mean, next_cov) = filtered[t], predicted[t + 1]
            gain = cov @ transition.T @ np.linalg.inv(next_cov)
            later_mean, later_cov = smoothed[0]
            new = mean + gain @ (later_mean - next_mean), cov + gain @ (later_cov - next_cov) @ gain.T
            smoothed.insert(0, new)
        self.means = np.stack([mean for mean, _ in smoothed])
        self.scales = np.sqrt(np.stack([np.diag(cov) for _, cov in smoothed]))


def kalmans(lengths: Tensor | None) -> list[Kalman]:
    """Of X, each cut at its last step."""
    found = []
    for b in range(len(X)):
        present = np.ones(T, bool) if lengths is None else of_mask(lengths)[b]
        count = int(np.flatnonzero(present)[-1]) + 1
        found.append(Kalman(X[b, :count].numpy(), present[:count]))
    return found


def of_mask(lengths: Tensor) -> np.ndarray:
    return (lengths if lengths.dtype == torch.bool else torch.arange(T) < lengths[:, None]).numpy()


class Affine(nn.Module):
    """p(z_t | z_(t-1)) = N(A z + shift, Q)."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = z * torch.from_numpy(A) + torch.from_numpy(SHIFT)
        return loc, torch.from_numpy(Q).sqrt().expand_as(loc)


class Messages(nn.Module):
    """log p(x_t, ..., x_T | z_t) = -precision z^2 / 2 + weighed z + const, and whether t is the first."""

    def forward(self, x: Tensor, present: Tensor | None) -> Tensor:
        c, a, q, shift = map(torch.from_numpy, (C, A, Q, SHIFT))
        there = torch.ones(x.shape[:2], dtype=torch.bool) if present is None else present
        precision = weighed = torch.zeros(len(x), L, dtype=x.dtype)
        found = []
        for t in range(x.shape[1] - 1, -1, -1):
            own = there[:, t, None].to(x.dtype)
            precision = precision + own * c.square().sum(0) / R
            weighed = weighed + own * ((x[:, t] - torch.from_numpy(OFFSET)) @ c) / R
            found.insert(0, torch.cat([precision, weighed, torch.full_like(own, float(t == 0))], -1))
            weighed = a * (weighed - precision * shift) / (1 + q * precision)
            precision = a**2 * precision / (1 + q * precision)
        return torch.stack(found, 1)


class Exact(nn.Module):
    """q(z_t | z_(t-1), x_t, ..., x_T), the true one."""

    def forward(self, previous: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        precision, weighed, first = h.split([L, L, 1], -1)
        m0, p0, q = map(torch.from_numpy, (M0, P0, Q))
        mean = torch.where(first > 0, m0, Affine()(previous)[0])
        variance = torch.where(first > 0, p0, q)
        posterior = 1 / (1 / variance + precision)
        return posterior * (mean / variance + weighed), posterior.sqrt()


class Near(Exact):
    """Somewhat wider than the true one, and beside it."""

    def forward(self, previous: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = super().forward(previous, h)
        return loc + 0.2 * scale, 1.3 * scale


def linear(**options: Any) -> DeepMarkovModel:
    """The model of :class:`Kalman`; by default with an exact guide."""
    given: dict[str, Any] = {"encoder": Messages(), "combiner": Exact(), **options}
    likelihood = functools.partial(Gaussian, scale=math.sqrt(R), sigmoid_mean=False)
    pair = DeepMarkovModel((T, D), L, 4, (), 6, likelihood=likelihood, transition=Affine(), **given).double()
    (layer,) = pair.likelihood.network.layers
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(C))
        layer.bias.copy_(torch.from_numpy(OFFSET))
        pair.first.loc.copy_(torch.from_numpy(M0))
        pair.first.log_scale.copy_(torch.from_numpy(P0).log() / 2)
    return pair


each = pytest.mark.parametrize("lengths", [None, LENGTHS, GAPS], ids=["all", "lengths", "gaps"])


def evidences(lengths: Tensor | None) -> Tensor:
    return torch.tensor([kalman.log_evidence for kalman in kalmans(lengths)], dtype=torch.float64)


@each
@pytest.mark.parametrize("particles", [1, 3])
def test_the_exact_guide_gives_the_evidence_draw_by_draw(lengths: Tensor | None, particles: int) -> None:
    pair = linear()
    for estimator in (SGVB_A(particles), IWAE(particles), SGVB_A(particles, sticking_the_landing=True)):
        torch.testing.assert_close(estimator.bound(pair, X, lengths), evidences(lengths))


@each
def test_smoothing_and_forecasts_are_kalmans(lengths: Tensor | None) -> None:
    torch.manual_seed(0)
    pair, count = linear(), 20_000
    found, ahead = pair.smooth(X, lengths, num_samples=count), pair.forecast(X, 2, lengths, num_samples=count)
    assert ahead.shape == (count, 4, 2, D)
    for b, kalman in enumerate(kalmans(lengths)):
        size = len(kalman.means)
        scales = torch.from_numpy(kalman.scales)
        assert ((found.mean[b, :size] - torch.from_numpy(kalman.means)).abs() < 5 * scales / count**0.5).all()
        torch.testing.assert_close(found.scale[b, :size], scales, rtol=0.04, atol=0.0)
        assert (found.mean[b, size:] == 0).all()
        mean = kalman.last[0]
        for step in range(2):
            mean = A * mean + SHIFT
            # Particles are drawn again: a hundred of them tell the mean.
            error = ahead[:, b, step].std(0).numpy() * (1 / count + 1 / 100) ** 0.5
            assert (np.abs(ahead[:, b, step].mean(0).numpy() - C @ mean - OFFSET) < 5 * error).all()


@each
def test_any_guide_has_the_evidence_in_the_limit(lengths: Tensor | None) -> None:
    """The bound is below, importance sampling is at log p(x), where the guide is near; annealing wherever it is."""
    torch.manual_seed(1)
    exact, batch = evidences(lengths), (X,) if lengths is None else (X, lengths)
    far = linear(encoder=None, combiner=None)
    assert (SGVB_A(500).bound(far, *batch) < exact).all()
    near = linear(combiner=Near())
    bound, tighter = SGVB_A(2000).bound(near, *batch), IWAE(2000).bound(near, *batch)
    assert (bound < exact - 0.1).all()
    assert (bound < tighter).all()
    found = evidence.importance(near, batch, 20_000, compile="eager", progress=False)
    assert ((found.log_prob - exact).abs() < 5 * found.standard_error).all()
    assert (found.standard_error < 0.05).all()
    if lengths is not GAPS:
        return
    chains = evidence.ais(far, batch, num_chains=40, num_steps=100, compile="eager", progress=False)
    assert ((chains.log_prob - exact).abs() < 5 * chains.standard_error).all()
    assert (chains.standard_error < 0.4).all()


def test_a_mean_field_guide_is_its_closed_form() -> None:
    """E_q[log p(x, z)] + H(q) of independent normals in a linear chain."""
    torch.manual_seed(0)
    pair = linear(encoder=None, combiner=None, structured=False)
    with torch.no_grad():
        q = pair.encode(X, LENGTHS)
    loc, variance = q.loc.numpy(), q.scale.square().numpy()

    def normal(mean: Any, var: Any, spread: Any) -> Any:
        """E log N(y; m, var), where E (y - m)^2 = mean^2 + spread."""
        return -0.5 * (np.log(2 * math.pi * var) + (mean**2 + spread) / var)

    expected = []
    for b, count in enumerate(LENGTHS.tolist()):
        m, v, x = loc[b, :count], variance[b, :count], X[b, :count].numpy()
        total = normal(m[0] - M0, P0, v[0]).sum()
        total += normal(m[1:] - A * m[:-1] - SHIFT, Q, v[1:] + A**2 * v[:-1]).sum()
        total += normal(x - m @ C.T - OFFSET, R, v @ (C**2).T).sum()
        expected.append(total + 0.5 * np.log(2 * math.pi * math.e * v).sum())
    draws = torch.stack([SGVB_A(2000).bound(pair, X, LENGTHS) for _ in range(20)])
    error = draws.std(0) / 20**0.5
    assert ((draws.mean(0) - torch.tensor(expected)).abs() < 5 * error).all()
    assert (error < 0.2).all()


# What is not there


def pairs() -> list[Any]:
    from pyro_vae.models import GRUVAE

    gaussian = functools.partial(Gaussian, scale="shared", sigmoid_mean=False)
    options: dict[str, Any] = {"likelihood": gaussian, "latent_dim": 2, "rnn_dim": 6}
    return [
        functools.partial(DeepMarkovModel, (T, D), **options),
        functools.partial(DeepMarkovModel, (T, D), structured=False, **options),
        functools.partial(GRUVAE, (T, D), **options),
        functools.partial(GRUVAE, (T, D), dropout=0.5, **options),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_what_stands_in_padding_counts_exactly_nothing(kind: int, garbage: float) -> None:
    """Value and gradient are the same bits, whatever it is."""
    torch.manual_seed(0)
    pair = pairs()[kind]()
    x = X.float()
    padded = torch.where(torch.from_numpy(of_mask(LENGTHS))[..., None], x, garbage)
    for estimator in (SGVB_A(2), IWAE(3)):
        found = []
        for data in (x, padded):
            pair.zero_grad()
            value = seeded(1, estimator.bound, pair, data, LENGTHS)
            call = functools.partial(estimator.loss_and_grads, pair.model, pair.guide, data, LENGTHS)
            found.append((value, seeded(1, gradients, pair, call)))
        assert torch.equal(found[0][0], found[1][0])
        assert found[0][1].keys() == found[1][1].keys()
        for name, gradient in found[0][1].items():
            assert torch.equal(gradient, found[1][1][name]), name
            assert gradient.isfinite().all(), name
    assert check(pair, padded, LENGTHS)
    assert evidence.importance(pair, (padded, LENGTHS), 20, compile="eager", progress=False).log_prob.isfinite().all()


@pytest.mark.parametrize("kind", range(3))
def test_a_padded_sequence_is_scored_as_it_is_alone(kind: int) -> None:
    torch.manual_seed(0)
    pair, x = pairs()[kind]().eval(), X.float()
    z = torch.randn(4, 2) if kind == 2 else torch.randn(4, T, 2)
    for b, count in enumerate(LENGTHS.tolist()):
        alone, own = x[b : b + 1, :count], z[b : b + 1] if kind == 2 else z[b : b + 1, :count]
        torch.testing.assert_close(
            pair.encode(x, LENGTHS).log_prob(z)[b], pair.encode(alone).log_prob(own)[0], rtol=1e-4, atol=1e-4
        )
        present = pair.layout.present(x, LENGTHS)
        both = (
            (pair.emit(z, T, present), pair.emit(own, count)) if kind == 2 else (pair.emit(z, present), pair.emit(own))
        )
        torch.testing.assert_close(both[0].log_prob(x)[b], both[1].log_prob(alone)[0], rtol=1e-4, atol=1e-4)


# Steps of other kinds


def test_rows_of_an_image_are_steps() -> None:
    torch.manual_seed(0)
    pair = DeepMarkovModel((1, 5, 4), latent_dim=3)
    x = torch.rand(6, 1, 5, 4).round()
    assert pair.layout.steps(x).shape == (6, 5, 1, 4)
    z = pair.encode(x).sample()
    assert z.shape == (6, 5, 3)
    by_hand = sum(pair.likelihood(z[:, t]).log_prob(x[:, :, t]) for t in range(5))
    torch.testing.assert_close(pair.emit(z).log_prob(x), by_hand)
    assert pair.sample(2, num_steps=9).shape == (2, 1, 9, 4)
    assert pair.forecast(x, 2, num_samples=3).shape == (3, 6, 1, 2, 4)
    assert diagnostics.reconstruct(pair, x).shape == x.shape
    assert torch.equal(diagnostics.reconstruct(pair, x), diagnostics.reconstruct(pair, x))


@pytest.mark.parametrize(
    ("event_shape", "likelihood", "data"),
    [
        ((T, 1), functools.partial(likelihoods.Categorical, num_levels=3), lambda: torch.randint(3, (4, T, 1)) / 2),
        ((T,), functools.partial(likelihoods.Classes, num_classes=3), lambda: torch.randint(3, (4, T))),
        ((T, 2), likelihoods.Poisson, lambda: torch.randint(9, (4, T, 2)).float()),
        ((T, 2), likelihoods.NegativeBinomial, lambda: torch.randint(9, (4, T, 2)).float()),
    ],
)
def test_emissions_of_the_house(event_shape: tuple[int, ...], likelihood: Any, data: Any) -> None:
    from pyro_vae.models import GRUVAE

    torch.manual_seed(0)
    x = data()
    for pair in (DeepMarkovModel(event_shape, 2, likelihood=likelihood), GRUVAE(event_shape, 2, likelihood=likelihood)):
        assert check(pair, x, LENGTHS)
        assert SGVB_A(3).bound(pair, x, LENGTHS).isfinite().all()
        assert pair.sample(7).shape == (7, *event_shape)
        assert pair.forecast(x, 2, LENGTHS).shape == (100, 4, 2, *event_shape[1:])
        assert pair.layout.steps(pair.sample(7)).shape[:2] == (7, T)


# Refusals


@pytest.mark.parametrize(
    ("lengths", "error", "says"),
    [
        (torch.tensor([5, 6, 1, 1]), ValueError, "6 is no length of a sequence of x, which has 5 steps"),
        (torch.tensor([5, 0, 1, 1]), ValueError, "0 is no length"),
        (torch.tensor([5.0, 1.5, 1, 1]), ValueError, "1.5 is no length"),
        (torch.tensor([5, 1, 1]), ValueError, r"got \[3\] of int64"),
        (torch.ones(4, 4, dtype=torch.bool), ValueError, r"got \[4, 4\] of bool"),
        (torch.zeros(4, T, dtype=torch.bool), ValueError, "sequence 0 of x has no step"),
        ([5, 1, 1, 1], TypeError, r"tensor \[4\] of whole numbers"),
        (torch.ones(4, dtype=torch.complex64), TypeError, "whole numbers"),
    ],
)
def test_lengths_that_cannot_be(lengths: Any, error: Any, says: str) -> None:
    for make in pairs()[::2]:
        pair = make()
        for run in (pair.guide, pair.model, pair.encode):
            if run != pair.encode or isinstance(lengths, Tensor):
                with pytest.raises(error, match=says):
                    run(X.float(), lengths)


def test_other_refusals() -> None:
    dmm, _, gru, _ = (make() for make in pairs())
    with pytest.raises(ValueError, match="the mask has gaps"):
        gru.guide(X.float(), GAPS)
    assert check(dmm, X.float(), GAPS)
    for pair in (dmm, gru):
        with pytest.raises(ValueError, match=r"\[B, T, 3\], T at least 1; got \[4, 5, 2\]"):
            pair.guide(torch.zeros(4, 5, 2))
        with pytest.raises(ValueError, match="q\\(z \\| x\\) needs data"):
            pair.guide()
        with pytest.raises(ValueError, match="was given none"):
            pair.model(None, LENGTHS)
        with pytest.raises(ValueError, match=r"event_shape=\(5, 1\)"):
            type(pair)((5,))
        with pytest.raises(ValueError, match="scale 'optimal'"):
            type(pair)((T, D), likelihood=functools.partial(Gaussian, scale="optimal"))
        with pytest.raises(ValueError, match="num_steps"):
            pair.sample(1, num_steps=0)


@pytest.mark.parametrize("present", [(), torch.ones(2, 4), torch.ones(2, 3, dtype=torch.bool)])
def test_steps_that_are_there_are_told_by_booleans(present: Any) -> None:
    with pytest.raises(ValueError, match=r"present tells by booleans which of 4 steps are there, \[\*, 4\]; got"):
        DeepMarkovModel((1, 4, 3), latent_dim=2).emit(torch.zeros(2, 4, 2), present)
