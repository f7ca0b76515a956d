"""networks.corruption: what is corrupted and how often, and the denoising bound that it makes of a pair's."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pairs import binary
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn

import pyro_vae
from pyro_vae import IWAE, MLP, SGVB_A, VAE, Centered, DiagonalNormal, Gaussian, StandardNormal, evidence
from pyro_vae.compiled import Compiled
from pyro_vae.models import MLPVAE, ConvVAE
from pyro_vae.networks import Corrupted, Corruption, GaussianNoise, Masking, SaltAndPepper
from pyro_vae.testing import seeded
from pyro_vae.training import TrainingStep
from pyro_vae.transforms import Planar

CORRUPTIONS: dict[str, Callable[[float], Corruption]] = {
    "masking": Masking,
    "masking by -1": functools.partial(Masking, value=-1.0),
    "salt and pepper": SaltAndPepper,
    "salt and pepper of -2, 3": functools.partial(SaltAndPepper, low=-2.0, high=3.0),
    "Gaussian": GaussianNoise,
}
each = pytest.mark.parametrize("make", CORRUPTIONS.values(), ids=CORRUPTIONS)


def moments(corruption: Corruption, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each entry of corrupted - x, in closed form."""
    level = corruption.level.to(x.dtype)
    if isinstance(corruption, GaussianNoise):
        return torch.zeros_like(x), level.square().expand_as(x)
    ends = (corruption.low, corruption.high) if isinstance(corruption, SaltAndPepper) else (corruption.value,)
    mean = level * sum(end - x for end in ends) / len(ends)
    return mean, level * sum((end - x) ** 2 for end in ends) / len(ends) - mean**2


@each
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_mean_and_variance_of_what_it_does(make: Callable[[float], Corruption], level: float) -> None:
    torch.manual_seed(0)
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    shifts = make(level)(x.expand(100_000, 5)) - x
    mean, variance = moments(make(level), x)
    torch.testing.assert_close(shifts.mean(0), mean, rtol=0, atol=4 * 3 / 100_000**0.5)
    torch.testing.assert_close(shifts.var(0), variance, rtol=0.03, atol=0.0)


@each
def test_entries_are_corrupted_on_their_own(make: Callable[[float], Corruption]) -> None:
    torch.manual_seed(0)
    shifts = make(0.4)(torch.full((100_000, 3), 0.25)) - 0.25
    correlations = torch.corrcoef(shifts.T) - torch.eye(3)
    assert correlations.abs().max() < 5 / 100_000**0.5


@each
def test_at_level_0_and_in_evaluation_it_is_the_identity(make: Callable[[float], Corruption]) -> None:
    x = torch.rand(4, 6)
    assert torch.equal(make(0.0)(x), x)
    assert not torch.equal(make(0.5)(x), x)
    state = torch.get_rng_state()
    assert make(0.5).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 1, 4, 4)])
def test_any_leading_dimensions_and_dtypes(
    make: Callable[[float], Corruption], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = torch.rand(shape, dtype=dtype)
    corrupted = make(0.5)(x)
    assert (corrupted.shape, corrupted.dtype) == (x.shape, dtype)
    assert make(0.5).double().level.dtype == torch.float64


class Outputs(nn.Module):
    """What :class:`Compiled` takes."""

    def __init__(self, corruption: Corruption) -> None:
        super().__init__()
        self.corruption = corruption

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.corruption(x)]


@each
def test_seeded_and_traced_with_a_level_that_moves(make: Callable[[float], Corruption]) -> None:
    module, x = Outputs(make(0.0)), torch.rand(50, 8)
    compiled = Compiled(module, compile="traced")
    assert torch.equal(compiled(x)[0][0], x)
    for level in (0.1, 0.8):
        module.corruption.level.fill_(level)
        traced, eager = seeded(3, compiled, x)[0][0], seeded(3, module, x)[0]
        assert torch.equal(traced, eager)
        assert not torch.equal(traced, x)
        assert not torch.equal(seeded(4, module, x)[0], eager)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masking(-0.1), "level has to be a finite number of at least 0 and at most 1; got -0.1"),
        (lambda: Masking(math.nan), "got nan"),
        (lambda: SaltAndPepper(1.01), "level has to be a finite number of at least 0 and at most 1; got 1.01"),
        (lambda: GaussianNoise(-1.0), "level has to be a finite number of at least 0; got -1.0"),
        (lambda: GaussianNoise(math.inf), "a finite number of at least 0; got inf"),
    ],
)
def test_refuses(make: Callable[[], Corruption], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    assert GaussianNoise(3.0).level == 3.0


@each
@pytest.mark.parametrize("level", [-0.5, math.nan, math.inf])
def test_refuses_a_level_that_is_loaded(make: Callable[[float], Corruption], level: float) -> None:
    network = Corrupted(nn.Identity(), make(0.25))
    with pytest.raises(ValueError, match=rf"level has to be a finite number of at least 0.*; got {level}"):
        network.load_state_dict({"corruption.level": torch.tensor(level)})
    assert network.corruption.level == 0.25
    network.load_state_dict({"corruption.level": torch.tensor(0.75)})
    assert network.corruption.level == 0.75
    network.load_state_dict({}, strict=False)
    with pytest.raises(RuntimeError, match="size mismatch for corruption"):
        network.load_state_dict({"corruption.level": torch.zeros(2)})


@pytest.mark.parametrize("make", [Masking, SaltAndPepper])
def test_a_small_level_in_half_precision(make: Callable[[float], Corruption]) -> None:
    """The places are drawn in float32: those of bfloat16 are multiples of 1 / 256."""
    torch.manual_seed(0)
    changed = (make(0.001)(torch.full((400_000,), 0.5, dtype=torch.bfloat16)) != 0.5).double().mean().item()
    assert changed == pytest.approx(0.001, abs=5 * (0.001 / 400_000) ** 0.5)


def test_corrupted_wraps_a_network() -> None:
    network = MLP((2, 3), 4)
    corrupted = Corrupted(network, Masking(1.0, value=0.5))
    x = torch.rand(5, 2, 3)
    assert corrupted.in_shape == (2, 3)
    assert DiagonalNormal(corrupted).event_dim == 2
    assert torch.equal(corrupted(x), network(torch.full_like(x, 0.5)))
    assert torch.equal(corrupted.eval()(x), network(x))
    assert not hasattr(Corrupted(nn.Identity(), Masking(0.1)), "in_shape")
    with pytest.raises(TypeError, match=r"a corruption is a module, such as Masking\(0.5\); got the class Masking"):
        Corrupted(network, Masking)  # type: ignore[arg-type]


MODELS: dict[str, Callable[..., Any]] = {
    "dense": functools.partial(MLPVAE, (1, 4, 4), 3, (8,)),
    "dense, flow": functools.partial(MLPVAE, (1, 4, 4), 3, (8,), transforms=[Planar]),
    "dense, mean": functools.partial(MLPVAE, (1, 4, 4), 3, (8,), mean=torch.full((1, 4, 4), 0.3)),
    "convolutional": functools.partial(ConvVAE, (1, 4, 4), 3, (4,), 8),
    "convolutional, flow": functools.partial(ConvVAE, (1, 4, 4), 3, (4,), 8, transforms=[Planar]),
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@models
def test_one_module_at_one_place(make: Callable[..., Any]) -> None:
    corruption = Masking(0.25)
    pair = make(corruption=corruption)
    assert pair.corruption is pair.posterior.network.corruption is corruption
    assert [name for name in pair.state_dict() if name.endswith("level")] == ["posterior.network.corruption.level"]
    assert [module for module in pair.modules() if isinstance(module, Masking)] == [corruption]
    other = copy.deepcopy(pair)
    other.load_state_dict(pair.state_dict())
    assert other.corruption is other.posterior.network.corruption is not corruption
    assert make().corruption is None
    assert not any("corruption" in name for name in make().state_dict())


@models
def test_the_encoder_sees_it_and_the_target_does_not(make: Callable[..., Any]) -> None:
    """All entries lost: q(z | x) is that of an empty image, and log p(x | z) is of x."""
    pair, x = make(corruption=Masking(1.0)), binary(1, 4, 4, size=20)
    terms = seeded(0, SGVB_A().objective, pair.model, pair.guide, x).terms
    torch.manual_seed(0)
    torch.rand_like(x)  # the mask
    z = pair.eval().posterior(torch.zeros_like(x)).rsample()
    assert terms["x"]["log_p"].item() == pytest.approx(pair.likelihood(z).log_prob(x).mean().item(), abs=1e-4)


@models
@pytest.mark.parametrize("estimator", [SGVB_A(), SGVB_A(2), IWAE(3)], ids=str)
def test_level_0_is_the_plain_bound(make: Callable[..., Any], estimator: Any) -> None:
    """To the bit, once the plain pair has passed over the noise of the mask."""
    x, bounds = binary(1, 4, 4, size=20), []
    for corruption in (None, SaltAndPepper(0.0)):
        pair = seeded(0, lambda corruption=corruption: make(corruption=corruption))
        torch.manual_seed(1)
        if corruption is None:
            torch.rand_like(x)
        bounds.append(estimator.bound(pair, x))
    assert torch.equal(*bounds)


@models
def test_nothing_is_corrupted_in_evaluation(make: Callable[..., Any]) -> None:
    x, bounds, scores = binary(1, 4, 4, size=20), [], []
    for corruption in (None, Masking(0.9)):
        torch.manual_seed(0)
        pair = make(corruption=corruption).eval()
        torch.manual_seed(1)
        bounds.append(SGVB_A().bound(pair, x))
        pair.train()
        scores.append(evidence.importance(pair, x, num_samples=20, seed=2, compile="eager").log_prob)
    assert torch.equal(*bounds)
    assert torch.equal(*scores)


STEPS = [
    pytest.param(name, marks=() if name in ("dense, flow", "convolutional") else pytest.mark.slow) for name in MODELS
]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_the_same_eager_and_traced(name: str) -> None:
    x, losses = binary(1, 4, 4, size=20), []
    for mode in ("eager", "traced"):
        pair = seeded(0, lambda: MODELS[name](corruption=SaltAndPepper(0.0)))
        step = TrainingStep(pair, SGVB_A(2), compile=mode)
        for level in (0.0, 0.8):
            pair.corruption.level.fill_(level)
            losses.append(seeded(1, step, (x,)).loss)
        assert step.mode == mode
    torch.testing.assert_close(losses[:2], losses[2:])
    assert losses[0] != losses[1]


def test_the_corruption_is_the_encoders_own() -> None:
    pair = MODELS["dense"]()
    pair.likelihood.network = Corrupted(pair.likelihood.network, Masking(0.5))
    assert pair.corruption is None


@pytest.mark.parametrize("room", ["networks", "posteriors", "likelihoods", "priors", "transforms"])
def test_pyro_can_derive_from_each_class(room: str) -> None:
    """As ``to_pyro_module_`` does; a class of another metaclass than nn.Module's could not be."""
    names = vars(getattr(pyro_vae, room)).values()
    classes = [value for value in names if inspect.isclass(value) and issubclass(value, nn.Module)]
    assert len(classes) > 2
    for each_class in classes:
        assert issubclass(PyroModule[each_class], each_class)


@models
@pytest.mark.parametrize("corruption", [Masking(0.3), SaltAndPepper(0.3), GaussianNoise(0.3)], ids=repr)
def test_a_whole_pair_as_pyro_modules(make: Callable[..., Any], corruption: Corruption) -> None:
    pair, x = make(corruption=copy.deepcopy(corruption)), binary(1, 4, 4, size=20)
    bounds, levels = [], []
    for convert in (lambda pair: None, to_pyro_module_):
        convert(pair)
        torch.manual_seed(0)
        bounds.append(SGVB_A().bound(pair, x))
        levels.append(pair.corruption.level.item())
    assert all(isinstance(module, PyroModule) for module in pair.modules())
    assert isinstance(pair.corruption, type(corruption))
    assert torch.equal(*bounds)
    assert levels[0] == levels[1]


# A linear-Gaussian pair, z ~ N(0, I), x ~ N(W z, s^2 I) with orthogonal columns of W, whose posterior
# N(A x, diag(S)) is diagonal and which the encoder has exactly. A shift of x by e takes e^T A^T S^-1 A e / 2 off
# the bound, so that the denoising bound is log p(x) less the mean of that.

SCALE = 0.7


def linear_pair(corruption: nn.Module | None) -> tuple[VAE, Tensor, Tensor]:
    """The pair, A^T S^-1 A and the covariance of x."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(5, 2, generator=generator, dtype=torch.float64)).Q
    loading = basis * torch.tensor([1.5, 0.8], dtype=torch.float64)
    variance = 1 / (1 + loading.square().sum(0) / SCALE**2)
    weight = variance.unsqueeze(-1) * loading.T / SCALE**2
    encoder, decoder = MLP(5, (2, 2), hidden=()).double(), MLP(2, 5, hidden=()).double()
    with torch.no_grad():
        for layer, value in ((encoder.layers[-1], torch.cat([weight, 0 * weight])), (decoder.layers[-1], loading)):
            layer.weight.copy_(value)
            layer.bias.zero_()
        encoder.layers[-1].bias[2:] = variance.log()
    network: nn.Module = Centered(encoder, torch.zeros(5, dtype=torch.float64))
    network = network if corruption is None else Corrupted(network, corruption)
    likelihood = Gaussian(decoder, SCALE, sigmoid_mean=False)
    pair = VAE(StandardNormal(2), DiagonalNormal(network), likelihood).double()
    curvature = weight.T @ (weight / variance.unsqueeze(-1))
    return pair, curvature, loading @ loading.T + SCALE**2 * torch.eye(5, dtype=torch.float64)


@each
def test_the_denoising_bound_is_below_log_p(make: Callable[[float], Corruption]) -> None:
    x = torch.tensor([[0.3, -1.0, 0.5, 1.2, 0.0]], dtype=torch.float64)
    clean, curvature, covariance = linear_pair(None)
    log_p = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance).log_prob(x[0])
    # The clean bound is exact in every draw.
    torch.testing.assert_close(SGVB_A().bound(clean, x.expand(7, 5)), log_p.expand(7))
    levels = (0.1, 0.4, 0.9)
    gaps = []
    for level in levels:
        pair, _, _ = linear_pair(make(level))
        torch.manual_seed(0)
        draws = SGVB_A().bound(pair, x.expand(40_000, 5))
        error = draws.std() / 40_000**0.5
        mean, variance = moments(make(level), x[0])
        gap = (curvature.diagonal() @ variance + mean @ curvature @ mean) / 2
        assert abs(draws.mean() - (log_p - gap)) < 4 * error
        assert draws.mean() < log_p - 4 * error
        torch.testing.assert_close(SGVB_A().bound(pair.eval(), x), log_p.unsqueeze(0))
        gaps.append(gap)
    assert gaps[0] < gaps[1]
