"""Priors over the weights: norms of layers beside the singular value decomposition, and what training makes of them."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from pairs import binary
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae import SGVB_B, WeightPrior, runs
from pyro_vae.models import MLPVAE, ConvVAE
from pyro_vae.networks import BatchNorm
from pyro_vae.networks.masked import MaskedConv2d
from pyro_vae.training import TrainingStep, fit
from pyro_vae.training.weight_priors import SpectralPrior, WeightPenalty, spectral_norm

MANY = 2000  # iterations until a singular value is exact


def norms(module: nn.Module, num_iterations: int = MANY, **options: Any) -> Tensor:
    return SpectralPrior(1.0, num_iterations, **options).loss(module, 1, 1)


def seeded(make: Any) -> Any:
    torch.manual_seed(0)
    return make().double()


def unrolled(layer: nn.ConvTranspose2d) -> Tensor:
    """[out, in / groups k k] of a transposed convolution, entry by entry."""
    per_group_in, per_group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    rows = []
    for channel in range(layer.out_channels):
        group, within = divmod(channel, per_group_out)
        inputs = range(group * per_group_in, (group + 1) * per_group_in)
        rows.append(torch.cat([layer.weight[i, within].flatten() for i in inputs]))
    return torch.stack(rows)


LAYERS: dict[str, tuple[Any, Any]] = {
    "linear": (lambda: nn.Linear(5, 7), lambda layer: layer.weight),
    "convolution": (lambda: nn.Conv2d(3, 4, (3, 5)), lambda layer: layer.weight.reshape(4, -1)),
    "strided": (lambda: nn.Conv2d(3, 4, 3, stride=2), lambda layer: layer.weight.reshape(4, -1)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6), lambda layer: layer.weight.reshape(6, 9)),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), lambda layer: layer.weight.reshape(4, 27)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), unrolled),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), unrolled),
    "weight norm": (lambda: weight_norm(nn.Conv2d(3, 4, 3)), lambda layer: layer.weight.reshape(4, -1)),
    "masked": (lambda: MaskedConv2d(2, 4, 3, "A"), lambda layer: (layer.weight * layer.mask).reshape(4, -1)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_norm_of_a_layer(kind: str) -> None:
    """Value and gradient are those of the singular value decomposition."""
    make, matrix = LAYERS[kind]
    layer = seeded(make)
    found, expected = norms(layer), torch.linalg.matrix_norm(matrix(layer), 2)
    torch.testing.assert_close(found, expected)
    weights = [parameter for name, parameter in layer.named_parameters() if name != "bias"]
    ours, theirs = (torch.autograd.grad(value, weights) for value in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert any(gradient.abs().max() > 0.01 for gradient in ours)


def test_a_few_iterations_are_below_and_rise() -> None:
    matrices = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrices, 2)
    found = [spectral_norm(matrices, steps) for steps in (1, 2, 4, 8, 16, 64)]
    assert all((before < after).all() for before, after in itertools.pairwise(found))
    assert (found[-1] <= exact * (1 + 1e-12)).all()
    assert (found[3] > 0.9 * exact).all()
    assert (found[0] > matrices.norm(dim=-1).amax(-1)).all()  # above the start


def test_gradient_is_the_outer_product_of_what_was_found() -> None:
    """Of rank one and norm one, also before the iteration has come to its end."""
    matrices = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    value = spectral_norm(matrices, 1)
    (gradient,) = torch.autograd.grad(value.sum(), matrices)
    singular = torch.linalg.svdvals(gradient[0])
    torch.testing.assert_close(singular, torch.eye(6, dtype=torch.float64)[0])
    torch.testing.assert_close((gradient * matrices).sum(), value.sum())  # u' W v


@pytest.mark.parametrize("scale", [0.0, 1e-15, 1e15])
def test_extremes(scale: float) -> None:
    matrices = (scale * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    value = spectral_norm(matrices, 500)
    torch.testing.assert_close(value, torch.linalg.matrix_norm(matrices, 2), rtol=1e-4, atol=1e-20)
    (gradient,) = torch.autograd.grad(value.sum(), matrices)
    assert gradient.isfinite().all()


def test_sum_over_layers_of_equal_and_other_shapes() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)))
    expected = sum(torch.linalg.matrix_norm(module[i].weight, 2) for i in (0, 2, 3))
    torch.testing.assert_close(norms(module), expected)
    torch.testing.assert_close(SpectralPrior(0.3, MANY).loss(module, 50, 5), 0.3 * expected)  # whatever N and M are


def test_batch_norms() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.BatchNorm2d(2), nn.BatchNorm2d(5)))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([0.1, -2.0, 1.0]))
        module[2].weight.copy_(torch.tensor([0.5, 0.2]))
    module[3].requires_grad_(False)
    difference = norms(module) - norms(module, batch_norm=False)
    assert difference.item() == pytest.approx(2.5)
    (gradient,) = torch.autograd.grad(norms(module), module[1].weight)
    assert gradient.tolist() == [0.0, -1.0, 0.0]
    assert norms(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(3, affine=False))).isfinite()


def test_leaves_out_what_is_not_trained_or_random() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3)))
    module[0].requires_grad_(False)
    torch.testing.assert_close(norms(module), torch.linalg.matrix_norm(module[1].weight, 2))
    pair: Any = seeded(lambda: MLPVAE((1, 4, 4), 2, (5,)))
    whole = norms(pair)
    layers = [m for m in pair.likelihood.modules() if isinstance(m, nn.Linear)]
    for layer in layers:
        layer.random_weights = True  # as the layers of pyro_vae.bayesian say
    decoder = sum(torch.linalg.matrix_norm(layer.weight, 2) for layer in layers)
    torch.testing.assert_close(norms(pair) + decoder, whole)


@pytest.mark.parametrize("count", ["data", "batch"])
def test_the_normal_prior_is_a_share_of_the_log_density(count: Any) -> None:
    """Up to its constant; over what is trained."""
    pair: Any = seeded(lambda: MLPVAE((1, 4, 4), 2, (5,)))
    first, *others = pair.parameters()
    first.requires_grad_(False)
    normal = torch.distributions.Normal(0.0, 0.5)
    expected = sum((normal.log_prob(torch.zeros_like(p)) - normal.log_prob(p)).sum() for p in others)
    found = WeightPrior(0.5, count).loss(pair, 100, 5)
    torch.testing.assert_close(found, expected / (100 if count == "data" else 5))


@pytest.mark.parametrize(
    ("prior", "mode"),
    [
        (WeightPrior(0.5), "eager"),
        (WeightPrior(0.5, "batch"), "traced"),
        (SpectralPrior(0.2, 6), "eager"),
        (SpectralPrior(0.2, 6), "traced"),
    ],
)
def test_in_a_training_step(prior: WeightPenalty, mode: Any) -> None:
    """The loss and the gradients of a step gain those of the penalty, and the bound nothing, at each batch size."""
    torch.manual_seed(0)
    pair: Any = ConvVAE((1, 8, 8), 3, (2, 4), 8, normalization="batch")
    plain, step = (
        TrainingStep(pair, SGVB_B(), compile=mode, weight_prior=given, num_data=100) for given in (None, prior)
    )
    for x in (binary(1, 8, 8), binary(1, 8, 8)[:2]):
        found = []
        for one in (plain, step):
            torch.manual_seed(1)
            found.append((one((x,)), [p.grad.clone() for p in pair.parameters()]))
        (without, before), (objective, gradients) = found
        penalty = prior.loss(pair, 100, len(x))
        expected = torch.autograd.grad(penalty, list(pair.parameters()), allow_unused=True, materialize_grads=True)
        assert objective.bound == without.bound
        torch.testing.assert_close(objective.loss - without.loss, penalty.detach(), rtol=1e-4, atol=1e-4)
        for gradient, other, share in zip(gradients, before, expected, strict=True):
            torch.testing.assert_close(gradient - other, share, rtol=1e-3, atol=1e-4)
    assert step.mode == mode


def largest(pair: nn.Module) -> float:
    """The sum of the exact norms."""
    return sum(
        torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        for layer in pair.modules()
        if isinstance(layer, nn.Linear)
    )


def test_fit_lowers_the_norms(tmp_path: Any) -> None:
    x = binary(1, 8, 8, size=40)
    found = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        run = fit(
            MLPVAE((1, 8, 8), 3, (16,)), x, epochs=15, batch_size=20, compile="traced", progress=False,
            weight_prior=SpectralPrior(strength), optimizer=functools.partial(torch.optim.Adam, lr=1e-2),
            out=tmp_path / str(strength),
        )  # fmt: skip
        found[strength] = largest(run.pair)
    assert found[1.0] < 0.7 * found[0.0]


def test_resuming_with_another_prior_is_refused(tmp_path: Any) -> None:
    x = binary(1, 8, 8, size=20)
    arguments: dict[str, Any] = {"batch_size": 10, "compile": "eager", "progress": False, "out": tmp_path}
    fit(MLPVAE((1, 8, 8), 2, (4,)), x, epochs=1, weight_prior=SpectralPrior(0.1), **arguments)
    for other in (None, WeightPrior(), SpectralPrior(0.2), SpectralPrior(0.1, 3)):
        with pytest.raises(ValueError, match=r"weight_prior was SpectralPrior\(strength=0.1.*and is now"):
            fit(MLPVAE((1, 8, 8), 2, (4,)), x, epochs=2, resume=True, weight_prior=other, **arguments)
    fit(MLPVAE((1, 8, 8), 2, (4,)), x, epochs=2, resume=True, weight_prior=SpectralPrior(0.1), **arguments)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--weight_prior.scale", "0.5"], WeightPrior(0.5)),  # without a class, as ever
        (['--weight_prior={"scale": 2.0, "count": "batch"}'], WeightPrior(2.0, "batch")),
        (["--weight_prior", "pyro_vae.WeightPrior", "--weight_prior.count", "batch"], WeightPrior(count="batch")),
        (["--weight_prior", "pyro_vae.SpectralPrior", "--weight_prior.strength", "0.1"], SpectralPrior(0.1)),
        ([], None),
    ],
)
def test_as_an_option_of_the_command_line(given: list[str], expected: WeightPenalty | None) -> None:
    runs.add_options(parser := ArgumentParser(), MLPVAE, open_pair=nn.Module)
    config = parser.parse_args(["--data", "digits", *given])
    again = parser.parse_string(parser.dump(config))  # as a run folder keeps it
    assert runs.instantiate(parser, again).weight_prior == expected


def test_a_stream_needs_a_length_for_the_prior_that_is_shared_by_the_data_alone() -> None:
    assert WeightPrior().needs_num_data
    assert not WeightPrior(count="batch").needs_num_data
    assert not SpectralPrior().needs_num_data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightPrior(0.0), r"scale has to be a finite number above 0; got 0\.0"),
        (lambda: WeightPrior(count="epoch"), "count is one of 'data', 'batch'; got 'epoch'"),  # type: ignore[arg-type]
        (lambda: SpectralPrior(-1.0), r"strength has to be a finite number of at least 0; got -1\.0"),
        (lambda: SpectralPrior(float("nan")), "strength has to be a finite number of at least 0; got nan"),
        (lambda: SpectralPrior(num_iterations=0), "num_iterations has to be a whole number of at least 1; got 0"),
        (lambda: SpectralPrior(num_iterations=2.0), r"whole number of at least 1; got 2\.0"),  # type: ignore[arg-type]
    ],
)
def test_refuses(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_a_pair_without_layers() -> None:
    with pytest.raises(ValueError, match=r"of which this pair trains none.*use WeightPrior"):
        norms(nn.BatchNorm1d(3))
