"""The probabilistic U-Net: a distribution over maps, its U-Net once for all draws, and what it refuses."""

from __future__ import annotations

from itertools import product
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import SGVB_A, evidence
from pyro_vae.models import ProbabilisticUNet
from pyro_vae.pair import run


def small(**options: Any) -> ProbabilisticUNet:
    given = {"num_classes": 3, "latent_dim": 2, "channels": (2, 4), **options}
    return ProbabilisticUNet(given.pop("event_shape", (4, 5)), given.pop("condition_shape", (1, 4, 5)), **given)


def test_it_is_a_distribution_over_maps() -> None:
    """Over all maps of two pixels and three classes p(x | c) sums to one for each of two images."""
    pair = small(event_shape=(1, 2), condition_shape=(1, 1, 2))
    for parameter in pair.likelihood.parameters():
        parameter.data.mul_(2)
    last = pair.posterior.posterior.network.layers[-1]
    torch.nn.init.zeros_(last.weight)  # q = N(0, 1.3^2), so that weights of importance are bounded
    last.bias.data = torch.tensor([0.0, 0.0, 0.5, 0.5])
    maps = torch.tensor(list(product(range(3), repeat=2))).reshape(9, 1, 2)
    images = torch.rand(2, 1, 1, 2)
    batch = (maps.repeat(2, 1, 1), images.repeat_interleave(9, 0))
    found = evidence.importance(pair, batch, 10_000, compile="eager")
    p = found.log_prob.exp().reshape(2, 9)
    error = (p * found.standard_error.reshape(2, 9)).square().sum(1).sqrt()
    assert error.max() < 0.01
    assert ((p.sum(1) - 1).abs() < 5 * error + 1e-5).all(), (p.sum(1), error)


def test_draws_of_z_are_joined_behind_the_u_net() -> None:
    """The logits of a particle are those of its z alone, and the U-Net sees each image once."""
    pair = small()
    maps, images = torch.randint(3, (6, 4, 5)), torch.rand(6, 1, 4, 5)
    seen = []
    pair.likelihood.unet.register_forward_hook(lambda module, given, result: seen.append(given[0].shape))
    z = torch.randn(7, 6, 2)
    p = pair.likelihood(z, images)
    assert (p.batch_shape, p.event_shape) == ((7, 6), (4, 5))
    torch.testing.assert_close(p.base_dist.logits[3, 4], pair.likelihood(z[3, 4], images[4]).base_dist.logits)
    seen.clear()
    run(pair, maps, images, num_particles=7)
    assert set(seen) == {(6, 1, 4, 5)}


def test_the_likelihood_is_the_cross_entropy_of_each_pixel() -> None:
    pair = small()
    maps, images = torch.randint(3, (6, 4, 5)), torch.rand(6, 1, 4, 5)
    trace = run(pair, maps, images).model_trace
    trace.compute_log_prob()
    site = trace.nodes["x"]
    logits = site["fn"].base_dist.logits.movedim(-1, 1)
    expected = -torch.nn.functional.cross_entropy(logits, maps, reduction="none").sum((1, 2))
    torch.testing.assert_close(site["log_prob"], expected)
    assert isinstance(site["fn"].base_dist, dist.Categorical)


def test_pixels_of_images_are_parts_of_255() -> None:
    pair, maps = small(), torch.randint(3, (6, 4, 5))
    pixels = torch.randint(0, 256, (6, 1, 4, 5), dtype=torch.uint8)
    bounds = []
    for images in (pixels, pixels / 255):
        torch.manual_seed(0)
        bounds.append(SGVB_A().bound(pair, maps, images))
    torch.testing.assert_close(*bounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_shape": (1, 4, 6)}, r"event_shape \(height, width\) .* got \(4, 5\) and \(1, 4, 6\)"),
        ({"condition_shape": 3}, r"for images of condition_shape .*; got \(4, 5\) and \(3,\)"),
        ({"event_shape": (1, 4, 5)}, r"maps of event_shape \(height, width\)"),
        ({"num_classes": 1}, "num_classes has to be a whole number of at least 2"),
        ({"channels": ()}, "channels has to hold sizes of at least 1"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize(
    ("maps", "images", "message"),
    [
        (torch.full((3, 4, 5), 3), torch.rand(3, 1, 4, 5), "3 is no class of 3"),
        (torch.zeros(3, 4, 5).long(), torch.rand(3, 1, 4, 6), r"built for inputs of shape \[\*, 1, 4, 5\]"),
        (torch.zeros(3, 5, 4).long(), torch.rand(3, 1, 4, 5), r"cannot stand side by side"),
        (torch.zeros(3, 4, 5).long(), torch.rand(2, 1, 4, 5), "there are 3 data"),
        (torch.zeros(3).long(), torch.rand(3, 1, 4, 5), r"maps of \[3\] and images of \[3, 1, 4, 5\]"),
    ],
)
def test_maps_and_images_that_do_not_fit(maps: Any, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().guide(maps, images)
