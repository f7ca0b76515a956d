"""Restorations against closed forms: those of a linear Gaussian pair, and of pixels one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pairs import LinearGaussian, functions, hierarchy, made, plain_object, real
from torch import Tensor, nn

from pyro_vae import MLP, VAE, DiagonalNormal, Gaussian, Pair, StandardNormal, likelihoods
from pyro_vae.applications.restoration import (
    GaussianObservation,
    MaskedObservation,
    Observation,
    Pixels,
    SaltAndPepperObservation,
    infer,
    interpolated,
    psnr,
    restore,
)
from pyro_vae.data import Data, Split
from pyro_vae.models import MLPVAE

SCALE = 0.5  # of the pixels given z
LEADING = (3, 2)  # particles and data


def linear(*event_shape: int, size: int = 5) -> tuple[Any, Tensor, Tensor, Tensor]:
    """``(pair, x, W, b)`` of z ~ N(0, I), x | z ~ N(W z + b, s^2 I), in float64."""
    dim = math.prod(event_shape)
    generator = torch.Generator().manual_seed(3)
    W, b, x = (torch.randn(*shape, generator=generator).double() for shape in ((dim, 2), (dim,), (size, dim)))
    pair = LinearGaussian(W, b, SCALE)
    if len(event_shape) == 1:
        return pair, x, W, b

    def flat(program: Any) -> Any:
        return lambda y: program(y.flatten(1))

    return Pair(flat(pair.model), flat(pair.guide), pair), x.reshape(size, *event_shape), W, b


def conditioned(W: Tensor, b: Tensor, A: Tensor, noise: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """``(E[x | y], log p(y))`` of y = A x + noise, exact."""
    joint = W @ W.T + SCALE**2 * torch.eye(len(b)).double()
    covariance = A @ joint @ A.T + noise**2 * torch.eye(len(A)).double()
    expected = b + (y - b @ A.T) @ torch.linalg.inv(covariance) @ A @ joint
    return expected, dist.MultivariateNormal(A @ b, covariance).log_prob(y)


def cases() -> list[tuple[str, tuple[int, ...], Observation, Tensor, float]]:
    kept = torch.tensor([True, False, True, True, False, False])
    eye = torch.eye(6).double()
    rows, columns = torch.arange(16) // 4, torch.arange(16) % 4
    blocks = torch.stack([((rows // 2 == i) & (columns // 2 == j)).double() / 4 for i in (0, 1) for j in (0, 1)])
    return [
        ("inpainting", (6,), MaskedObservation(kept), eye[kept], 0.0),
        ("denoising", (6,), GaussianObservation(0.7), eye, 0.7),
        ("super-resolution", (1, 4, 4), GaussianObservation(0.1, 2), blocks, 0.1),
    ]


CASES = [
    pytest.param(*case[1:], id=case[0], marks=pytest.mark.slow if case[0] == "denoising" else ()) for case in cases()
]


@pytest.mark.parametrize(("shape", "observation", "A", "noise"), CASES)
def test_linear_gaussian(shape: tuple[int, ...], observation: Observation, A: Tensor, noise: float) -> None:
    """The maximum is E[x | y], the chains' mean is it within its standard error, and Laplace's log p(y) is exact."""
    pair, x, W, b = linear(*shape)
    y = observation.degrade(x)
    expected, log_evidence = conditioned(W, b, A, noise, y[~y.isnan()].reshape(len(x), -1))
    found = infer(pair, observation, y, num_samples=100, num_chains=8, num_steps=200, num_leapfrog=5)
    torch.testing.assert_close(found.maximum.flatten(1), expected, rtol=0, atol=2e-4)
    noisy = SCALE**2 * A @ A.T + noise**2 * torch.eye(len(A)).double()
    spread = torch.linalg.inv(torch.eye(2).double() + W.T @ A.T @ torch.linalg.inv(noisy) @ A @ W)  # of z | y
    laplace = found.log_prob + math.log(2 * math.pi) + torch.logdet(spread) / 2
    torch.testing.assert_close(laplace, log_evidence, rtol=0, atol=1e-4)
    assert found.mean is not None
    assert found.r_hat is not None
    # The spread of x | z, y in z is at most that of W z; the draws are worth a third of their number at least.
    error = (W @ spread @ W.T).diagonal().sqrt() / math.sqrt(100 * 8 / 3)
    assert ((found.mean.flatten(1) - expected).abs() <= 5 * error).all()
    assert found.r_hat.max() < 1.1


def test_nothing_observed_is_the_prior_and_everything_is_the_image() -> None:
    pair, x, _, b = linear(6)
    nothing, everything = MaskedObservation(torch.zeros(6)), MaskedObservation(torch.ones(6))
    torch.testing.assert_close(
        infer(pair, nothing, nothing.degrade(x)).maximum, b.expand_as(x).detach(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(infer(pair, everything, everything.degrade(x)).maximum, x)


def pixels() -> list[Any]:
    """Each kind of pixel, with parameters ``[3, 2, 4]``."""
    torch.manual_seed(1)
    logits = torch.randn(*LEADING, 4)
    return [dist.Bernoulli(logits=logits).to_event(1), dist.Normal(logits, 0.3).to_event(1)]


@pytest.mark.parametrize("index", [0, 1])
def test_missing_is_the_sum_over_the_observed(index: int) -> None:
    fn = pixels()[index]
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    y = MaskedObservation(mask).degrade(x)
    expected = (fn.base_dist.log_prob(x) * mask).sum(-1)
    torch.testing.assert_close(MaskedObservation(mask).log_prob(Pixels(fn, (4,)), y), expected)
    torch.testing.assert_close(MaskedObservation(mask).mean(Pixels(fn, (4,)), y), torch.where(mask, x, fn.mean))


def test_salt_and_pepper_of_binary_pixels_is_exact() -> None:
    """By enumeration of x: p(y | z) = sum_x p(x | z) p(y | x), and E[x | z, y] by Bayes' rule."""
    fn, level = pixels()[0], 0.4
    y = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    observation, white = SaltAndPepperObservation(level), fn.base_dist.probs
    terms = [(1 - level) * (y == x) + level / 2 for x in (0, 1)]
    total = (1 - white) * terms[0] + white * terms[1]
    torch.testing.assert_close(observation.log_prob(Pixels(fn, (4,)), y), total.log().sum(-1))
    torch.testing.assert_close(observation.mean(Pixels(fn, (4,)), y), white * terms[1] / total)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_salt_and_pepper_at_the_extremes(level: float) -> None:
    fn = pixels()[0]
    y = torch.tensor([[0.0, 1.0, 1.0, 0.0]] * 2)
    found = SaltAndPepperObservation(level).mean(Pixels(fn, (4,)), y)
    torch.testing.assert_close(found, y.expand_as(found) if level == 0 else fn.mean)
    assert SaltAndPepperObservation(level).log_prob(Pixels(fn, (4,)), y).isfinite().all()


def test_degradations_draw_what_they_say() -> None:
    torch.manual_seed(0)
    x = torch.full((1, 1, 300, 300), 0.25)
    hit = SaltAndPepperObservation(0.4).degrade(x)
    for value in (0.0, 1.0):
        assert (hit == value).double().mean().item() == pytest.approx(0.2, abs=5 * 0.4 / 300)
    noisy = GaussianObservation(0.3, 3).degrade(x)
    assert noisy.shape == (1, 1, 100, 100)
    assert noisy.std().item() == pytest.approx(0.3, abs=5 * 0.3 / 141)
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert GaussianObservation(0.0, 2).degrade(ramp).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_a_score_of_gray_pixels_has_no_variance() -> None:
    z = torch.zeros(2, 3)
    for support, variance in (("unit_interval", 0.0), ("binary", 0.25)):
        fn = likelihoods.Bernoulli(nn.Identity(), support)(z)  # type: ignore[arg-type]
        assert (Pixels(fn, (3,)).variance == variance).all()
    levels = likelihoods.DiscretizedLogistic(nn.Identity(), 0.1)(z)
    assert (Pixels(levels, (3,)).variance == 0).all()


@pytest.mark.parametrize(
    ("factory", "observation"),
    [
        (functions, SaltAndPepperObservation(0.2)),
        (hierarchy, GaussianObservation(0.3)),
        pytest.param(functions, GaussianObservation(0.3), marks=pytest.mark.slow),
        pytest.param(hierarchy, SaltAndPepperObservation(0.2), marks=pytest.mark.slow),
    ],
)
def test_any_pair(factory: Any, observation: Observation) -> None:
    pair, (x,) = made(factory)
    found = infer(pair, observation, x, num_samples=4, num_chains=2, num_steps=3, num_warmup=4, num_leapfrog=2)
    assert found.mean is not None
    assert found.maximum.shape == found.mean.shape == x.shape
    assert found.mean.isfinite().all()
    again = infer(pair, observation, x, num_steps=3, num_chains=2, chunk=4)
    assert again.log_prob.shape == (len(x),)


def test_shared_latents_are_refused() -> None:
    pair, (x,) = made(plain_object)
    with pytest.raises(ValueError, match="bias"):
        infer(pair, SaltAndPepperObservation(0.2), x)


def test_dependent_pixels_are_refused() -> None:
    fn = dist.MultivariateNormal(torch.zeros(2, 3), torch.eye(3))
    with pytest.raises(ValueError, match="independent given z"):
        Pixels(fn, (3,))


def test_psnr_by_hand() -> None:
    x = torch.zeros(2, 1, 2, 2)
    assert psnr(x + 0.1, x) == pytest.approx(20.0, abs=1e-5)
    one = x.clone()
    one[0, 0, 0, 0] = 1.0
    assert psnr(one, x) == pytest.approx(10 * math.log10(8))
    assert psnr(x, x) == math.inf


def test_interpolation_of_a_plane() -> None:
    """A plane is what linear interpolation and the thin-plate spline give back exactly."""
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    x = torch.stack([0.1 + 0.05 * rows + 0.02 * columns, 0.9 - 0.1 * columns])[:, None]
    y = x.clone()
    y[0, 0, 2, 1:4] = math.nan
    y[1, 0, 3, 2] = math.nan
    found = interpolated(y)
    for name in ("linear interpolation", "thin-plate spline"):
        torch.testing.assert_close(found[name], x, rtol=0, atol=1e-5)
    assert found["nearest pixel"][1, 0, 3, 2].item() in x[1].flatten().tolist()
    line = torch.full((1, 1, 3, 3), math.nan)
    line[..., 0, :] = 0.2
    assert all((filled - 0.2).abs().max() < 1e-6 for filled in interpolated(line).values())
    assert all((filled == 0.5).all() for filled in interpolated(line * math.nan).values())


def images(size: int = 6) -> Data:
    x = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Data("squares", Split(x))


def small() -> Any:
    torch.manual_seed(0)
    return MLPVAE((1, 8, 8), 2, (8,), likelihood=Gaussian)


@pytest.mark.parametrize("method", ["map", pytest.param("sample", marks=pytest.mark.slow)])
def test_restore(method: Any, tmp_path: Path, capsys: Any) -> None:
    drawn = method == "sample"
    effort: dict[str, Any] = {"num_images": 2, "num_steps": 2, "num_samples": 4, "num_chains": 2, "progress": False}
    found = restore(small(), images(), method=method, factor=2, out=str(tmp_path) if drawn else None, **effort)
    assert found.num_images == 2
    assert len({score.task for score in found.scores}) == 5
    names = {score.method for score in found.scores}
    assert {"as it is", "median filter", "bicubic", "thin-plate spline", "most probable z"} <= names
    assert ("posterior mean" in names) == drawn
    assert all(score.psnr == pytest.approx(-10 * math.log10(score.mse)) for score in found.scores)
    assert (tmp_path / "restore.png").exists() == drawn
    printed = capsys.readouterr()
    assert printed.out.split()[:2] == ["task", "restoration"]
    assert str(tmp_path) not in printed.out  # the command tells where
    assert not printed.err
    if drawn:
        stored = json.loads((tmp_path / "restore.json").read_text())
        assert stored["scores"][0]["psnr"] == found.scores[0].psnr


def test_restorations_are_a_function_of_the_seed(random_states_kept: Any) -> None:
    effort: dict[str, Any] = {"num_images": 2, "num_steps": 2, "num_samples": 2, "num_chains": 2, "progress": False}
    effort.update(task="inpainting", mask="random")
    pair, data = small(), images()
    with random_states_kept():
        first, again, other = (restore(pair, data, seed=seed, **effort).scores for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_restore_with_a_mask_of_ones_own(tmp_path: Path) -> None:
    mask = np.ones((8, 8), dtype=bool)
    mask[2:4] = False
    np.save(tmp_path / "bar.npy", mask)
    effort: dict[str, Any] = {"task": "inpainting", "method": "map", "num_steps": 2, "progress": False}
    found = restore(small(), images(), mask=str(tmp_path / "bar.npy"), **effort)
    assert {score.task for score in found.scores} == {"missing by bar"}
    np.save(tmp_path / "bar.npy", mask[:7])
    with pytest.raises(ValueError, match=r"shape \[7, 8\]"):
        restore(small(), images(), mask=str(tmp_path / "bar.npy"), **effort)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.5}, "level has to be .* at least 0 and at most 1; got 1.5"),
        ({"missing": -0.1}, "missing has to be .* at most 1"),
        ({"task": "coloring"}, "task is one of"),
        ({"method": "guess"}, "method is one of"),
        ({"task": "super-resolution", "factor": 3}, "divides height and width"),
        ({"task": "inpainting", "mask": "left"}, "mask is lower, right, random"),
        ({"num_images": 0}, "num_images"),
    ],
)
def test_restore_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restore(small(), images(), progress=False, **options)


def test_restore_refuses_what_is_no_image() -> None:
    vectors = VAE(StandardNormal(1), DiagonalNormal(MLP(6, (2, 1))), Gaussian(MLP(1, 6)))
    with pytest.raises(ValueError, match="takes images"):
        restore(vectors, Data("vectors", Split(real(6))), progress=False)
    with pytest.raises(ValueError, match=r"images in \[0, 1\]"):
        restore(small(), Data("loud", Split(2 + real(1, 8, 8))), progress=False)


def test_a_mask_of_another_shape_and_a_negative_scale() -> None:
    with pytest.raises(ValueError, match=r"mask has shape \[3\]"):
        MaskedObservation(torch.ones(3)).degrade(torch.ones(2, 6))
    with pytest.raises(ValueError, match="at least 0"):
        GaussianObservation(-1.0)
    with pytest.raises(ValueError, match="factor has to be a whole number of at least 1"):
        GaussianObservation(0.1, 0)
    with pytest.raises(ValueError, match=r"at most 1; got 1\.1"):
        SaltAndPepperObservation(1.1)
