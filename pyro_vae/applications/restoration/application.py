"""The application: test images degraded and restored, beside filters and interpolations."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_vae._checks import checked, number, whole
from pyro_vae.applications import report
from pyro_vae.applications.restoration.baselines import filtered, interpolated, upscaled
from pyro_vae.applications.restoration.inference import infer
from pyro_vae.applications.restoration.observations import (
    GaussianObservation,
    MaskedObservation,
    Observation,
    SaltAndPepperObservation,
)
from pyro_vae.data import Data
from pyro_vae.pair.turns import fork_rng
from pyro_vae.plotting import restorations

Task = Literal["denoising", "inpainting", "super-resolution", "all"]
Inference = Literal["map", "sample"]

_COLUMNS = 10  # images of a row of the figure
_READING = 0.01  # noise of the observed block means: that of values given to two digits


@dataclass(frozen=True)
class RestorationScore:
    """How near one kind of restoration comes to the originals.

    Attributes:
        task: what was done to the images.
        method: how they were restored.
        mse: mean square error of a pixel, of images in [0, 1].
        mse_standard_error: over the images.
        psnr: in decibels, see :func:`psnr`.
    """

    task: str
    method: str
    mse: float
    mse_standard_error: float
    psnr: float


@dataclass(frozen=True)
class Restorations:
    """What :func:`restore` found.

    Attributes:
        scores: of each task and method.
        num_images: over how many images.
        r_hat: by task, the median over the images of the chains' split R-hat, where there were chains.
        seconds: by task, of our inference.
    """

    scores: tuple[RestorationScore, ...]
    num_images: int
    r_hat: dict[str, float]
    seconds: dict[str, float]


@checked(but=("level", "missing", "num_images"))
def restore(
    pair: Any,
    data: Data,
    *,
    task: Task = "all",
    method: Inference = "sample",
    level: float = 0.3,
    mask: str | None = None,
    missing: float = 0.5,
    factor: int = 4,
    num_images: int = 100,
    num_steps: int = 200,
    num_samples: int = 40,
    num_chains: int = 4,
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Restorations:
    """Restores degraded test images by inference in a fitted pair, beside filters and interpolations.

    The originals are the images that the pair is a model of: binarized ones where its data are. All restorations are
    clipped to [0, 1]. Table, JSON and figure give the mean square error and the PSNR; the figure has the best of the
    others beside ours. "As it is" has the mean of the observed pixels where one is missing.

    Args:
        pair: the fitted pair.
        data: images in [0, 1]; the test set, or the validation or training set where there is none.
        task: denoising (Gaussian noise; salt and pepper), inpainting (the lower half missing; random pixels missing),
            super-resolution, or all.
        method: map, E[x | z, y] at the most probable z; sample, also the mean over draws of p(z | y).
        level: of the noise: the scale of the Gaussian, and the share of pixels that become salt or pepper.
        mask: what is missing for inpainting: lower, right, random, or a .npy file of the shape of an image ([H, W] or
            [C, H, W]), true where a pixel is observed. Without it first lower, then random.
        missing: the share of the image that is missing, for lower, right and random.
        factor: of super-resolution: the side of the blocks whose means are observed.
        num_images: how many images.
        num_steps: steps of Adam.
        num_samples: draws of each chain.
        num_chains: chains, and starts of Adam, for each image.
        out: folder for restore.json and restore.png.
        seed: of the degradation and the draws.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument is out of its range, the data are no images in [0, 1], the mask is of another shape,
            or the pair cannot be inferred in (see :func:`infer`).
        OSError: if the mask cannot be read, or the results not be written.
    """
    number(0, 1, level=level, missing=missing)
    whole(num_images=num_images, num_samples=num_samples, num_chains=num_chains, num_steps=num_steps, factor=factor)
    whole(0, seed=seed)
    x, *others = _images(data.held(num_images).batch(slice(None)), data.name)
    scores: list[RestorationScore] = []
    seconds: dict[str, float] = {}
    r_hat: dict[str, float] = {}
    drawn: list[dict[str, Tensor]] = [{"original": x}]
    with fork_rng():
        torch.manual_seed(seed)
        cases = list(_cases(x, task, level, mask, missing, factor))
        degraded = [observation.degrade(x) for _, observation in cases]
    for (name, observation), y in zip(cases, degraded, strict=True):
        started = time.perf_counter()
        if progress:
            tqdm.write(name, file=sys.stderr)
        restored = infer(
            pair,
            observation,
            (y, *others),
            num_samples=num_samples if method == "sample" else 0,
            num_chains=num_chains,
            num_steps=num_steps,
            seed=seed,
            progress=progress,
        )
        seconds[name] = time.perf_counter() - started
        ours = {"most probable z": restored.maximum}
        if restored.mean is not None and restored.r_hat is not None:
            ours["posterior mean"] = restored.mean
            r_hat[name] = restored.r_hat.median().item()
        baselines = _baselines(observation, y)
        shown = {"as it is": observation.fill(y), **baselines, **ours}
        found = {method: _score(name, method, images, x) for method, images in shown.items()}
        scores += found.values()
        best = max(baselines, key=lambda method: found[method].psnr)
        if isinstance(observation, MaskedObservation):
            shown["as it is"] = y.nan_to_num(0.5)
        titles = {"as it is": name, best: best, **{method: method for method in ours}}
        drawn.append({f"{title}\n{found[method].psnr:.1f} dB": shown[method] for method, title in titles.items()})
    result = Restorations(tuple(scores), len(x), r_hat, seconds)
    lines = [(s.task, s.method, f"{s.mse:.4f} ({s.mse_standard_error:.4f})", f"{s.psnr:.2f}") for s in scores]
    print(report.table(("task", "restoration", "MSE (standard error)", "PSNR, dB"), lines))
    if out is not None:
        groups = [{label: images[:_COLUMNS].clamp(0, 1) for label, images in group.items()} for group in drawn]
        report.write(Path(out), "restore", asdict(result), {"restore": restorations(groups)})
    return result


def _score(task: str, method: str, images: Tensor, originals: Tensor) -> RestorationScore:
    images = images.clamp(0, 1)
    errors = (images - originals).double().square().flatten(1).mean(1)
    deviation = errors.std().item() / math.sqrt(len(errors)) if len(errors) > 1 else math.nan
    return RestorationScore(task, method, errors.mean().item(), deviation, psnr(images, originals))


def _images(batch: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
    """``batch``, if its x are images in [0, 1]."""
    x = batch[0]
    if x.dim() != 4:
        raise ValueError(
            f"{name} has data of shape {list(x.shape[1:])}; restore takes images [C, H, W]. For other data use "
            "infer(pair, observation, y) of pyro_vae.applications.restoration."
        )
    if x.min() < 0 or x.max() > 1:
        raise ValueError(
            f"{name} has values from {x.min():.3g} to {x.max():.3g}; restore takes images in [0, 1], to which its "
            "noise and its PSNR refer."
        )
    return batch


def _cases(
    x: Tensor, task: Task, level: float, mask: str | None, missing: float, factor: int
) -> Iterator[tuple[str, Observation]]:
    """What is done to the images: name and observation."""
    if task in ("denoising", "all"):
        yield f"Gaussian noise, scale {level:g}", GaussianObservation(level)
        yield f"salt and pepper, {level:.0%}", SaltAndPepperObservation(level)
    if task in ("inpainting", "all"):
        for which in ("lower", "random") if mask is None else (mask,):
            observed, name = _mask(x, which, missing)
            yield name, MaskedObservation(observed)
    if task in ("super-resolution", "all"):
        yield f"means of {factor} x {factor} pixels", GaussianObservation(_READING, factor)


def _mask(x: Tensor, which: str, missing: float) -> tuple[Tensor, str]:
    """``(true where a pixel is observed, name)``."""
    height, width = x.shape[-2:]
    if which == "random":
        observed = torch.rand(len(x), 1, height, width) >= missing
        return observed.expand_as(x), f"random {missing:.0%} missing"
    observed = torch.ones(x.shape[1:], dtype=torch.bool)
    if which == "lower":
        observed[:, height - round(missing * height) :] = False
        return observed, f"lower {missing:.0%} missing"
    if which == "right":
        observed[:, :, width - round(missing * width) :] = False
        return observed, f"right {missing:.0%} missing"
    if Path(which).suffix != ".npy":
        raise ValueError(f"mask is lower, right, random, or the name of a .npy file; got {which!r}.")
    try:
        array = torch.as_tensor(np.load(which, allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"the mask {which} is no array of numbers. Save it with numpy.save.") from error
    if array.shape not in (x.shape[1:], x.shape[2:]):
        raise ValueError(
            f"the mask in {which} has shape {list(array.shape)} and an image {list(x.shape[1:])}; give a mask "
            f"{list(x.shape[2:])} or {list(x.shape[1:])}, true where a pixel is observed."
        )
    return array.bool().expand(x.shape[1:]), f"missing by {Path(which).stem}"


def _baselines(observation: Observation, y: Tensor) -> dict[str, Tensor]:
    if isinstance(observation, MaskedObservation):
        return interpolated(y)
    if isinstance(observation, GaussianObservation) and observation.factor > 1:
        return upscaled(y, observation.factor)
    return filtered(y, observation.scale if isinstance(observation, GaussianObservation) else None)


@checked
def psnr(images: Tensor, originals: Tensor) -> float:
    r"""Peak signal-to-noise ratio in decibels, of images in [0, 1]:
    :math:`-10 \log_{10} \frac{1}{N D} \sum_{nd} (\hat x_{nd} - x_{nd})^2`.

    The mean square error is over all images, so that a single perfect one does not make the ratio infinite.

    Raises:
        ValueError: if there are no images, or as many originals of the same shape.

    >>> import torch
    >>> from pyro_vae.applications.restoration import psnr
    >>> round(psnr(torch.full((2, 1, 4, 4), 0.6), torch.full((2, 1, 4, 4), 0.5)), 3)
    20.0
    """
    if images.shape != originals.shape or not images.numel():
        raise ValueError(
            f"images and originals have to be of one shape; got {list(images.shape)} and {list(originals.shape)}."
        )
    error = (images - originals).double().square().mean().item()
    return -10 * math.log10(error) if error > 0 else math.inf
