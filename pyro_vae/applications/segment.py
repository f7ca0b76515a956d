"""Segmentation: several plausible maps of an ambiguous image, beside what several annotators made of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae import diagnostics, plotting
from pyro_vae._checks import checked, is_tensor, number, shown, whole
from pyro_vae.applications import report
from pyro_vae.batches import rows
from pyro_vae.data import Data, Split
from pyro_vae.data.arrays import is_integer
from pyro_vae.data.draws import gray
from pyro_vae.pair.turns import fork_rng

_COLUMNS = 8  # images of the figure
_ROWS = 6  # their draws, and annotators, that are shown at most
_CHUNK = 2000  # maps that are drawn at once
_MOST_ANNOTATORS = 50
_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of shares of the draws, from which on a pixel is of a class


@dataclass(frozen=True)
class SegmentationScores:
    """How maps that were drawn compare with those of the annotators, each a mean over images with its standard error.

    Attributes:
        num_images: how many images.
        num_samples: maps that were drawn for each.
        num_annotations: maps of annotators for each, on average.
        iou: mean intersection over union of the annotators' maps and a single map that is nearest to all draws, see
            :func:`consensus`.
        iou_error: its standard error.
        energy: generalized energy distance of the draws and the annotators, see :func:`energy_distance`.
        energy_error: its standard error.
        coverage: share of the annotators' modes that were drawn, see :func:`coverage`.
        coverage_error: its standard error.
    """

    num_images: int
    num_samples: int
    num_annotations: float
    iou: float
    iou_error: float
    energy: float
    energy_error: float
    coverage: float
    coverage_error: float


def segment(
    pair: Any,
    data: Data,
    *,
    num_samples: int = 32,
    num_images: int = 200,
    overlap: float = 0.5,
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SegmentationScores:
    """Draws maps of images by a fitted pair, and compares them with those of the annotators.

    The pair is one whose model observes maps of whole numbers and is given images, as a ProbabilisticUNet. Images are
    those of the test set, or the validation or training set where there is none. One that several have annotated is
    there several times; equal images are taken as one. For each z is drawn from p(z | image), and the map is that of
    the most probable classes.

    The table has the mean intersection over union of the annotators' maps and a single map, that nearest to all draws;
    the generalized energy distance of the draws and the annotators; and the share of the annotators' modes that are
    covered by the draws.

    Args:
        pair: the fitted pair.
        data: maps, and the images that they are of.
        num_samples: maps that are drawn for each image, at least 2.
        num_images: how many images.
        overlap: intersection over union of a mode and the draw nearest to it from which on it is covered.
        out: folder for segment.json and segment.png.
        seed: of the draws.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, or the data are no maps of images.
        OSError: if the results cannot be written.

    Source: Kohl et al. (2018), A probabilistic U-Net for segmentation of ambiguous images.
    """
    whole(2, num_samples=num_samples)
    whole(num_images=num_images)
    whole(0, seed=seed)
    number(0, 1, overlap=overlap)
    annotations, images = annotated(data.held(_MOST_ANNOTATORS * num_images), num_images)
    with fork_rng():
        torch.manual_seed(seed)
        drawn = draw_maps(pair, num_samples, annotations, images, progress)
    found = scores(drawn, annotations, overlap)
    print(told({"draws": found}))
    if out is not None:
        figure = figure_of(drawn, annotations, images)
        report.write(Path(out), "segment", asdict(found), {"segment": figure})
    return found


def annotated(held: Split, num_images: int) -> tuple[list[Tensor], Tensor]:
    """Of the first images of a set the maps ``[A, H, W]`` of the annotators of each, and these images ``[N, C, H, W]``.

    Raises:
        ValueError: if the data are no maps of whole numbers with an image beside each.
    """
    maps, *others = held.batch(slice(None))
    images = others[0] if others else None
    if maps.dim() != 3 or not is_integer(maps) or images is None or images.dim() != 4:
        shapes = ", ".join(f"{list(value.shape)} {value.dtype}" for value in (maps, *others)).replace("torch.", "")
        raise ValueError(
            "segment takes maps of classes, whole numbers [N, H, W], and as a second argument the images [N, C, H, W] "
            f"that they are of; these data are {shapes}."
        )
    places: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        places.setdefault(image.numpy().tobytes(), []).append(index)
    groups = list(places.values())[:num_images]
    firsts = torch.tensor([group[0] for group in groups])
    return [maps[group] for group in groups], images[firsts]


@torch.no_grad()
def draw_maps(pair: Any, num_samples: int, annotations: list[Tensor], images: Tensor, progress: bool = False) -> Tensor:
    """``[N, S, H, W]``: maps of images ``[N, C, H, W]``; of the annotators' maps only the shape matters."""
    examples = torch.stack([maps[0] for maps in annotations])
    found, size = [], max(1, _CHUNK // num_samples)
    for start in tqdm(range(0, len(images), size), desc="maps", disable=not progress):
        batch = rows((examples, images), slice(start, start + size))
        maps = diagnostics.sample(pair, num_samples * len(batch[0]), *batch)
        found.append(maps.unflatten(0, (num_samples, -1)).transpose(0, 1))
    return torch.cat(found).cpu().long()


@checked
def scores(drawn: Tensor, annotations: list[Tensor], overlap: float = 0.5) -> SegmentationScores:
    """What :class:`SegmentationScores` says.

    Args:
        drawn: ``[N, S, H, W]``, S maps of each image.
        annotations: of each image the maps ``[A, H, W]`` of its annotators.
        overlap: see :func:`coverage`.
    """
    if not is_tensor(drawn) or drawn.dim() != 4 or not drawn.numel() or len(drawn) != len(annotations):
        raise ValueError(
            f"drawn are maps [N, S, H, W] of as many images as there are annotations, {len(annotations)}; got "
            f"{shown(drawn)}."
        )
    num_classes = 1 + int(max(drawn.max(), *(maps.max() for maps in annotations)))
    ious, energies, covered = [], [], []
    for maps, of_annotators in zip(drawn, annotations, strict=True):
        ious.append(iou(consensus(maps, num_classes), of_annotators, num_classes).mean())
        energies.append(energy_distance(maps, of_annotators, num_classes))
        covered.append(coverage(maps, of_annotators, num_classes, overlap))
    return SegmentationScores(
        len(drawn),
        drawn.shape[1],
        sum(map(len, annotations)) / len(annotations),
        *(value for values in (ious, energies, covered) for value in _mean(torch.stack(values))),
    )


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean, and its standard error."""
    deviation = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), deviation


@checked
def iou(maps: Tensor, others: Tensor, num_classes: int) -> Tensor:
    r"""Mean intersection over union ``[*]`` of maps ``[*, H, W]`` of the classes 0 ... K - 1, of which 0 is background:

    .. math:: \frac{1}{K - 1} \sum_{k=1}^{K-1} \frac{|\{a = k\} \cap \{b = k\}|}{|\{a = k\} \cup \{b = k\}|},

    where a class that is in neither of the two maps counts as 1. Leading dimensions broadcast.

    Raises:
        ValueError: if there is no class but the background, or maps are not of one size.

    >>> import torch
    >>> from pyro_vae.applications.segment import iou
    >>> iou(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 0], [1, 1]]), num_classes=2)
    tensor(0.6667, dtype=torch.float64)
    """
    whole(2, num_classes=num_classes)
    if maps.shape[-2:] != others.shape[-2:] or min(maps.dim(), others.dim()) < 2:
        raise ValueError(f"maps are [*, H, W] of one size; got {list(maps.shape)} and {list(others.shape)}.")
    ratios = []
    for label in range(1, num_classes):
        ours, theirs = maps == label, others == label
        both, either = (ours & theirs).sum((-2, -1)), (ours | theirs).sum((-2, -1))
        ratios.append(torch.where(either > 0, both.double() / either.clamp_min(1), 1.0))
    return torch.stack(ratios).mean(0)


@checked
def energy_distance(drawn: Tensor, annotations: Tensor, num_classes: int) -> Tensor:
    r"""The generalized energy distance of a distribution over maps and the annotators', with d = 1 - IoU:

    .. math:: D^2 = 2 \, \mathrm E \, d(S, Y) - \mathrm E \, d(S, S') - \mathrm E \, d(Y, Y')

    Y and Y' are independent annotators, each as probable, who may be the same. S and S' are different ones of the
    draws, so that the estimate has no bias; a single one is a distribution of one map. It is 0 where both distributions
    are the same, up to the noise of the draws, by which it may be below.

    Args:
        drawn: ``[S, H, W]``.
        annotations: ``[A, H, W]``.
        num_classes: see :func:`iou`.

    Source: Kohl et al. (2018), section 3; Szekely & Rizzo (2013), Energy statistics.

    >>> import torch
    >>> from pyro_vae.applications.segment import energy_distance
    >>> annotations = torch.tensor([[[0, 1], [1, 1]]])
    >>> energy_distance(annotations.repeat(4, 1, 1), annotations, num_classes=2)
    tensor(0., dtype=torch.float64)
    """
    across = 1 - _pairwise(drawn, annotations, num_classes)
    among = 1 - _pairwise(drawn, drawn, num_classes)
    theirs = 1 - _pairwise(annotations, annotations, num_classes)
    pairs = len(drawn) * (len(drawn) - 1)
    return 2 * across.mean() - among.sum() / max(pairs, 1) - theirs.mean()


@checked
def coverage(drawn: Tensor, annotations: Tensor, num_classes: int, overlap: float = 0.5) -> Tensor:
    """The share of the annotators' modes, their different maps, that are drawn.

    A draw is of the mode that is nearest to it by :func:`iou`, and a mode is covered if a draw is of it whose
    intersection over union is at least ``overlap``.

    Args:
        drawn: ``[S, H, W]``.
        annotations: ``[A, H, W]``.
        num_classes: see :func:`iou`.
        overlap: in [0, 1].

    >>> import torch
    >>> from pyro_vae.applications.segment import coverage
    >>> annotations = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    >>> coverage(annotations[:1].repeat(4, 1, 1), annotations, num_classes=2)
    tensor(0.5000, dtype=torch.float64)
    """
    number(0, 1, overlap=overlap)
    modes = annotations.unique(dim=0)
    nearest = _pairwise(drawn, modes, num_classes).max(1)
    covered = nearest.indices[nearest.values >= overlap].unique()
    return torch.tensor(len(covered) / len(modes), dtype=torch.float64)


@checked
def consensus(drawn: Tensor, num_classes: int) -> Tensor:
    """``[H, W]``: of many maps the one with the highest mean :func:`iou` with maps ``[S, H, W]`` that were drawn.

    It is the single map to give where one is asked for: the draws stand for the annotators. It is one of the draws, or
    one that has at each pixel the most frequent class but the background, where this one has a share of the draws
    above some level (a union weighs a pixel that is missing less than its half).

    >>> import torch
    >>> from pyro_vae.applications.segment import consensus
    >>> drawn = torch.tensor([[[0, 1], [1, 1]], [[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    >>> consensus(drawn, num_classes=2)
    tensor([[0, 1],
            [1, 1]])
    """
    shares = torch.stack([drawn == label for label in range(1, num_classes)]).double().mean(1)
    most = shares.max(0)
    choices = [torch.where(most.values > level, most.indices + 1, 0) for level in _LEVELS]
    maps = torch.cat([drawn, torch.stack(choices).to(drawn.dtype)])
    return maps[_pairwise(maps, drawn, num_classes).mean(1).argmax()]


def _pairwise(maps: Tensor, others: Tensor, num_classes: int) -> Tensor:
    """``[S, A]``: :func:`iou` of each of ``maps: [S, H, W]`` with each of ``others: [A, H, W]``, by matrix products."""
    whole(2, num_classes=num_classes)
    if maps.dim() != 3 or others.dim() != 3 or maps.shape[1:] != others.shape[1:]:
        raise ValueError(f"maps are [S, H, W] of one size; got {list(maps.shape)} and {list(others.shape)}.")
    labels = torch.arange(1, num_classes)[:, None, None]
    ours, theirs = ((value.flatten(1) == labels).double() for value in (maps, others))
    both = ours @ theirs.mT
    either = ours.sum(-1)[..., None] + theirs.sum(-1)[:, None] - both
    return torch.where(either > 0, both / either.clamp_min(1), 1.0).mean(0)


def told(found: dict[str, SegmentationScores]) -> str:
    """A table, a row for each."""
    lines = [
        (
            name,
            score.num_samples,
            f"{score.iou:.3f} ({score.iou_error:.3f})",
            f"{score.energy:.3f} ({score.energy_error:.3f})",
            f"{100 * score.coverage:.1f} % ({100 * score.coverage_error:.1f})",
        )
        for name, score in found.items()
    ]
    one = next(iter(found.values()))
    return "\n".join(
        [
            report.table(("maps", "draws", "mean IoU", "energy distance", "modes covered"), lines),
            f"means (and their standard errors) over {one.num_images:,} images with {one.num_annotations:.3g} "
            "annotations each.",
        ]
    )


def figure_of(drawn: Tensor, annotations: list[Tensor], images: Tensor) -> Any:
    """Image, annotators' modes, and draws, an image in each column."""
    drawn, annotations, images = drawn[:_COLUMNS], annotations[:_COLUMNS], images[:_COLUMNS]
    modes = [maps.unique(dim=0)[:_ROWS] for maps in annotations]
    most = max(map(len, modes))
    empty = torch.ones(3, *images.shape[-2:])
    columns = [[*torch.as_tensor(plotting.colored(of)).float(), *[empty] * (most - len(of))] for of in modes]
    annotators = {f"annotation {row + 1}": torch.stack([column[row] for column in columns]) for row in range(most)}
    maps = {f"draw {row + 1}": plotting.colored(drawn[:, row]) for row in range(min(_ROWS, drawn.shape[1]))}
    pixels = gray(images).float()
    low, high = (float(value) for value in pixels.aminmax())
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low)
    shown = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
    return plotting.restorations([{"image": shown}, annotators, maps])
