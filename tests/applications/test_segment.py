"""Segmentation: metrics by closed form, draws of a pair that knows the annotators, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae import plotting
from pyro_vae.applications.segment import (
    _pairwise,
    annotated,
    consensus,
    coverage,
    energy_distance,
    iou,
    scores,
    segment,
    told,
)
from pyro_vae.data import Data, Split
from pyro_vae.models import ProbabilisticUNet
from pyro_vae.pair import data_plate, pair_method

# Two maps of 2 x 3 pixels: class 1 in common by 1 of 3 pixels, class 2 by 1 of 2.
A = torch.tensor([[1, 1, 0], [2, 0, 0]])
B = torch.tensor([[0, 1, 1], [2, 2, 0]])


def test_intersection_over_union() -> None:
    assert iou(A, B, 3).item() == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert iou(A, B, 4).item() == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)  # what is in neither counts as 1
    assert iou(A, A, 3) == iou(0 * A, 0 * B, 3) == 1
    assert iou(A, 0 * A, 3) == 0
    pairs = iou(torch.stack([A, B])[:, None], torch.stack([A, B, B]), 3)
    assert pairs.shape == (2, 3)
    assert pairs[1, 0] == iou(B, A, 3)


def test_energy_distance_of_few_maps_by_hand() -> None:
    """Of two distributions on A, B and an empty map O, with d = 1 - IoU."""
    d = 1 - iou(A, B, 3).item()
    empty = 0 * A
    # one map, two annotators: 2 (0 + d) / 2 - 0 - 2 d / 4
    assert energy_distance(A[None], torch.stack([A, B]), 3).item() == pytest.approx(d / 2)
    # draws A, B, B of the annotators O: 2 - 2 (2 d) / 6 - 0
    assert energy_distance(torch.stack([A, B, B]), empty[None], 3).item() == pytest.approx(2 - 2 * d / 3)
    # a single map of a single annotator
    assert energy_distance(A[None], A[None], 3) == 0


def test_energy_distance_has_no_bias() -> None:
    """Draws of the annotators' own distribution: the mean over all that three draws may be is 0."""
    maps = torch.stack([A, A, B, 0 * A])
    values = [energy_distance(maps[list(drawn)], maps, 3) for drawn in itertools.product(range(len(maps)), repeat=3)]
    assert torch.stack(values).mean().item() == pytest.approx(0, abs=1e-12)
    assert torch.stack(values).min() < 0 < torch.stack(values).max()


def test_coverage_of_modes() -> None:
    modes = torch.stack([A, B, B, 0 * A])
    assert coverage(torch.stack([A, B, 0 * A]), modes, 3) == 1
    assert coverage(torch.stack([A, A]), modes, 3).item() == pytest.approx(1 / 3)
    near = A.clone()
    near[0, 0] = 0  # IoU with A: (1 / 2 + 1) / 2
    assert coverage(near[None], torch.stack([A]), 3, 0.7) == 1
    assert coverage(near[None], torch.stack([A]), 3, 0.8) == 0


def test_consensus_is_the_map_nearest_to_all_draws() -> None:
    assert torch.equal(consensus(torch.stack([A, B, B]), 3), B)
    near = A.clone()
    near[0, 0] = 0
    drawn = torch.stack([0 * A, near, A, B, near])
    means = iou(drawn[:, None], drawn, 3).mean(1)
    assert torch.equal(consensus(drawn, 3), drawn[means.argmax()])
    assert means.argmax() == 1
    # Of three draws that each miss another pixel of an object of three, the vote misses none.
    bars = torch.stack([torch.tensor([[0, 1, 1]]), torch.tensor([[1, 0, 1]]), torch.tensor([[1, 1, 0]])])
    assert torch.equal(consensus(bars, 2), torch.ones(1, 3, dtype=bars.dtype))


def test_pairs_as_products_are_those_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, others = (torch.randint(4, (size, 3, 2), generator=generator) for size in (40, 30))
    expected = iou(drawn[:, None], others, 5)
    torch.testing.assert_close(_pairwise(drawn, others, 5), expected, rtol=1e-12, atol=1e-12)
    assert expected.max() > 0.9
    assert (expected == 0.25).any()  # the class that no map has


class Annotators(PyroModule):
    """It knows the maps of the annotators of each image, which it tells by its first pixel, and draws one of them."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps  # [N, A, H, W]
        self.scale = torch.nn.Parameter(torch.ones(()))

    @pair_method
    def model(self, x: Tensor | None, c: Tensor) -> Tensor:
        with data_plate(x):
            z = pyro.sample("z", dist.Categorical(torch.ones(self.maps.shape[1])))
            maps = self.maps[c[:, 0, 0, 0].long(), z]
            logits = 40.0 * torch.nn.functional.one_hot(maps, 3) * self.scale
            return pyro.sample("x", dist.Categorical(logits=logits).to_event(2), obs=x)

    @pair_method
    def guide(self, x: Tensor, c: Tensor) -> Tensor:
        with data_plate(x):
            return pyro.sample("z", dist.Categorical(torch.ones(self.maps.shape[1])))


def known() -> tuple[Tensor, Data]:
    """Three annotators of 20 images, one row each, in any order."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(3, (20, 3, 4, 5), generator=generator)
    images = torch.rand(20, 1, 4, 5, generator=generator)
    images[:, 0, 0, 0] = torch.arange(20)
    order = torch.randperm(60, generator=generator)
    return maps, Data("maps", Split(maps.flatten(0, 1)[order], images.repeat_interleave(3, 0)[order]))


def test_equal_images_are_one_that_several_have_annotated() -> None:
    maps, data = known()
    annotations, images = annotated(data.train, 7)
    assert images.shape == (7, 1, 4, 5)
    for of, image in zip(annotations, images, strict=True):
        expected = maps[int(image[0, 0, 0])]
        assert sorted(of.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())


def test_a_pair_that_knows_the_annotators(tmp_path: Path, capsys: Any) -> None:
    """Its draws have the annotators' distribution and cover their modes; the files hold what is printed."""
    maps, data = known()
    found = segment(Annotators(maps), data, num_samples=200, out=str(tmp_path))
    assert (found.num_images, found.num_samples, found.num_annotations) == (20, 200, 3)
    assert abs(found.energy) < 4.5 * found.energy_error < 0.02
    assert found.coverage == 1
    expected = torch.stack([iou(consensus(of, 3), of, 3).mean() for of in maps])
    assert found.iou == pytest.approx(expected.mean().item(), abs=0.02)
    stored = json.loads((tmp_path / "segment.json").read_text())
    assert stored["energy"] == found.energy
    assert (tmp_path / "segment.png").stat().st_size > 1000
    assert told({"draws": found}) in capsys.readouterr().out
    again = segment(Annotators(maps), data, num_samples=200)
    assert again == found


def test_a_network_that_has_learned_nothing_is_scored() -> None:
    _, data = known()
    pair = ProbabilisticUNet((4, 5), (1, 4, 5), 3, 2, (2, 4))
    found = segment(pair, data, num_samples=4, num_images=6)
    assert found.num_images == 6
    assert found.energy > 0.1


@pytest.mark.parametrize(
    ("x", "others", "message"),
    [
        (torch.rand(9, 4, 5), (torch.rand(9, 1, 4, 5),), r"these data are \[9, 4, 5\] float32, \[9, 1, 4, 5\] float32"),
        (torch.zeros(9, 4, 5).long(), (), r"as a second argument the images .*; these data are \[9, 4, 5\] int64"),
        (torch.zeros(9, 4, 5).long(), (torch.zeros(9).long(),), "whole numbers"),
    ],
)
def test_data_that_are_no_maps_of_images(x: Tensor, others: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment(ProbabilisticUNet((4, 5), (1, 4, 5)), Data("d", Split(x, *others)))


def test_maps_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"maps are \[\*, H, W\] of one size; got \[2, 3\] and \[3, 2\]"):
        iou(A, B.T, 3)
    with pytest.raises(ValueError, match=r"drawn are maps \[N, S, H, W\] of as many images .* annotations, 1"):
        scores(torch.zeros(2, 1, 2, 3), [A[None]])
    with pytest.raises(ValueError, match="num_classes has to be a whole number of at least 2"):
        iou(A, B, 1)
    with pytest.raises(ValueError, match="num_samples has to be a whole number of at least 2"):
        segment(None, known()[1], num_samples=1)


def test_colored_maps_are_images() -> None:
    colors = plotting.colored(torch.stack([A, B]))
    assert colors.shape == (2, 3, 2, 3)
    assert (colors[0, :, 0, 0] == colors[0, :, 0, 1]).all()
    assert (colors[0, :, 0, 0] != colors[0, :, 1, 0]).any()
    with pytest.raises(ValueError, match="whole numbers of at least 0"):
        plotting.colored(A - 1)
