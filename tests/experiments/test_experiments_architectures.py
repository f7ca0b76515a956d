"""The measurements of experiments/architectures.py."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli

from pyro_vae import SGVB_B, WeightPrior
from pyro_vae.data import Data, Split

SHAPE = (1, 6, 5)


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("architectures")


@pytest.fixture
def data() -> Data:
    torch.manual_seed(0)
    images = torch.rand(150, *SHAPE) ** 2
    images[:, :, 0] = 0.0  # pixels that are always black
    return Data("noise", Split(images[:100]), Split(images[100:]))


def test_without_information_is_the_log_probability_of_the_mean(architectures: Any, data: Any) -> None:
    (train,), (valid,) = data.train.batch(slice(None)), data.valid.batch(slice(None))
    mean = (train.sum(0) + 0.5) / 101
    expected = Bernoulli(mean, validate_args=False).log_prob(valid).sum((1, 2, 3)).mean().item()
    assert architectures.without_information(data) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_the_loss_per_datum(
    architectures: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architectures, "BATCH", 20)
    monkeypatch.setattr(architectures, "NUM_GRADIENTS", 4)
    torch.manual_seed(1)
    pair = architectures.make(replace(architectures.DEEP, latent_dim=3, scale=None), data.train.mean(), 8)
    torch.manual_seed(2)
    found = architectures.gradients(pair, data.train, True)
    weight = pair.likelihood.network.layers[2].weight
    torch.manual_seed(2)
    drawn = []
    for _, batch in zip(range(4), data.train.batches(20, shuffle=True), strict=False):
        pair.zero_grad()
        SGVB_B().objective(pair.model, pair.guide, *batch).loss.backward()
        drawn.append(weight.grad.double().clone())
    gradients = torch.stack(drawn)
    noise = gradients.var(0).sum().item()
    mean = gradients.mean(0).square().sum().item() - noise / 4
    place = architectures.affine_maps(pair).index(pair.likelihood.network.layers[2])
    assert found["noise"][place] == pytest.approx(math.sqrt(noise), rel=1e-4)
    assert found["mean"][place] == pytest.approx(math.sqrt(max(mean, 0.0)), rel=1e-3, abs=1e-6)
    (prior,) = torch.autograd.grad(WeightPrior(count="batch").loss(pair, 100, 20), [weight])
    assert found["prior"][place] == pytest.approx(prior.norm().item(), rel=1e-5)
    assert architectures.gradients(pair, data.train, False)["prior"] == [0.0] * 10


@pytest.mark.parametrize("scale", [0.01, 0.0])
def test_initial_scale(architectures: Any, data: Any, scale: float) -> None:
    torch.manual_seed(0)
    pair = architectures.make(replace(architectures.DEEP, scale=scale), data.train.mean(), 100)
    for layer in architectures.affine_maps(pair):
        expected = scale or layer.in_features**-0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * layer.weight.numel()))
        assert not layer.bias.any()


@pytest.mark.parametrize("change", ["as the poster", "depth of the encoder alone", "residual blocks"])
def test_places_name_each_affine_map(architectures: Any, data: Any, change: str) -> None:
    setup = architectures.ALONE[change]
    pair = architectures.make(setup, data.train.mean(), 8)
    sides = (pair.posterior, pair.likelihood)
    counts = [sum(isinstance(layer, torch.nn.Linear) for layer in side.modules()) for side in sides]
    found = {"start": {"mean": [0.0] * sum(counts)}, "encoder": setup.encoder, "decoder": setup.decoder}
    names = architectures.places(found)
    assert names == [
        f"{side} {i + 1}" for side, n in zip(("encoder", "decoder"), counts, strict=True) for i in range(n)
    ]


def test_setups_have_a_folder_each(architectures: Any) -> None:
    setups = set(architectures.ALONE.values()) | set(architectures.SETUPS.values())
    assert len({setup.key for setup in setups}) == len(setups)


def test_left_at_is_the_first_epoch_a_nat_above(architectures: Any) -> None:
    history = [{"samples": 100 * i, "valid": valid} for i, valid in enumerate((-210.0, -199.5, -198.5, -201.0), 1)]
    assert architectures.left_at(history, -200.0) == 300
    assert architectures.left_at(history, -190.0) is None
