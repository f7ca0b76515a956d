"""Segmentation of ambiguous images: a probabilistic U-Net beside a plain one of as many parameters (Kohl et al. 2018).

The data are ``ambiguous-digits``: two overlapping digits of MNIST, one darker than the other, before a Frey face under
noise, each with the maps of five annotators, all as probable, who disagree by a known rule: who is in front (two of
them), which digit alone is the object (two), or both are one object.

Measured on 200 test images, with 400 draws of each: the mean intersection over union of the annotators' maps and a
single map, the one nearest to all draws; the generalized energy distance of draws and annotators, with d = 1 - IoU; and
the share of the annotators' modes that are drawn, also of 16 draws alone. The plain U-Net, trained on the same maps by
the cross-entropy for as many epochs, has one map. To be reached: its mean IoU, at most half of its energy distance, and
90 % of the modes.

A run on two quiet cores takes about 15 minutes; --quick is a smoke test of few data.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import pyro.distributions as dist
import torch
from networks import Plain, num_parameters
from shared import cached_to_its_best, finish, options, training_seconds
from torch import Tensor, nn

from pyro_vae.applications.segment import SegmentationScores, annotated, draw_maps, figure_of, scores, told
from pyro_vae.data import Data, load
from pyro_vae.models import ProbabilisticUNet
from pyro_vae.networks import Numbers, UNet

SIZES: dict[str, dict[str, Any]] = {
    "full": {"epochs": 12, "num_data": None, "num_images": 200},
    "quick": {"epochs": 1, "num_data": 250, "num_images": 20},
}
CHANNELS, WIDER, CLASSES, LATENT, DRAWS = (16, 32, 64), (16, 32, 100), 3, 6, 400
FEW = 16  # draws of which the modes are counted as well


class Maps(nn.Module):
    """c -> p(x | c), a class for each pixel by the U-Net alone."""

    def __init__(self, condition: nn.Module, unet: UNet) -> None:
        super().__init__()
        self.condition, self.unet = condition, unet

    def forward(self, c: Tensor) -> Any:
        return dist.Categorical(logits=self.unet(self.condition(c)).movedim(-3, -1)).to_event(2)


def plain(data: Data) -> Plain:
    image: Any = data.condition_shape
    return Plain(Maps(Numbers(image, flat=False), UNet(image, (CLASSES, *image[1:]), WIDER)))


def probabilistic(data: Data) -> ProbabilisticUNet:
    image: Any = data.condition_shape
    return ProbabilisticUNet(data.event_shape, image, CLASSES, LATENT, CHANNELS)


def main() -> None:
    arguments = options(__doc__, smoke=True).parse_args()
    size, data = SIZES[arguments.size], load("ambiguous-digits", arguments.root)
    if size["num_data"]:
        data = Data(data.name, *(getattr(data, part).take(size["num_data"]) for part in ("train", "valid", "test")))
    held: Any = data.test
    annotations, images = annotated(held, size["num_images"])
    found: dict[str, SegmentationScores] = {}
    runs: dict[str, Any] = {}
    figures = {}
    for name, make, count in (("probabilistic U-Net", probabilistic, DRAWS), ("plain U-Net", plain, 1)):
        settings = {"epochs": size["epochs"], "batch_size": 50}
        run = cached_to_its_best(
            "segmentation", name.replace(" ", "-"), functools.partial(make, data), data, arguments, **settings
        )
        with torch.random.fork_rng():
            torch.manual_seed(arguments.seed)
            drawn = draw_maps(run.pair.eval(), count, annotations, images)
        found[name] = scores(drawn, annotations)
        if count > FEW:
            few = scores(drawn[:, :FEW], annotations)
        runs[name] = {
            "parameters": num_parameters(run.pair),
            "epochs": run.best_epoch or len(run.history),
            "seconds": training_seconds(run.history)[-1],
            **asdict(found[name]),
        }
        if count > 1:
            figures["segmentation"] = figure_of(drawn, annotations, images)
    print(told({**found, f"probabilistic U-Net, {FEW} draws": few}))
    for name, entry in runs.items():
        print(f"{name}: {entry['parameters']:,} parameters, best at epoch {entry['epochs']}, {entry['seconds']:.0f} s")
    ours, theirs = found.values()
    print(
        f"mean IoU {ours.iou - theirs.iou:+.3f} beside the plain U-Net; its energy distance "
        f"{ours.energy / theirs.energy:.0%} of that; {ours.coverage:.1%} of the modes."
    )
    finish(arguments, "segmentation", {"runs": runs, "few_draws": asdict(few)}, figures)


if __name__ == "__main__":
    main()
