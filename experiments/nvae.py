"""A small NVAE (Vahdat & Kautz 2020) against the convolutional VAE, at about equal training time.

  mnist   dynamically binarized MNIST, 28 x 28
  color  color images of a folder (--folder PATH; cut 80 / 10 / 10 % if it has no splits), 32 x 32, 8 bits. Without a
          folder: MNIST digits in one color on a gradient between two others, drawn by this script into PNG files in
          the cache, and so no photographs. The pixels are mixtures of discretized logistics in both systems.

The NVAE has residual cells, groups of latents at two scales, and a posterior that is a residual of the prior. It is
trained by the recipe of the paper at a small size: KL balancing while beta rises over the first 30 % of the epochs
(Balanced), spectral regularization (SpectralPrior), a cosine for the learning rate. The convolutional VAE has one
latent and the plain ELBO with the same rise of beta. Both have averaged weights.

fit stops by epochs, not by time: the epochs below are from timed steps, so that both train for about as long. The table
has the minutes that each took, as the median epoch times the epochs, without what the first epoch compiles.

The bound is of all test images. The NLL is by importance sampling of the first test images, in the table by number,
carried over to all by the bound, of which both are known; for color also in bits per dimension.

--quick: one seed, minutes on two cores. --full: the published size for MNIST: 15 groups (10 of 8 x 8 and 5 of 4 x 4,
the image padded to 32 x 32), 400 epochs, Adamax at 1e-2, batch 400; for color the same with fewer epochs. The epochs
of the convolutional VAE are not matched in time there, and the table tells the minutes.

Published for dynamic MNIST: NLL 78.01 by 1,000 importance samples. Its budget by the authors' code: 400 epochs of batch
400 (200 on each of two 16 GB V100), about 21 hours.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from drawing import styled
from PIL import Image
from shared import (
    adam,
    cached_fit,
    cached_json,
    carried_over,
    dataset,
    finish,
    in_batches,
    options,
    table,
    training_seconds,
)
from torch import Tensor, nn

from pyro_vae import SGVB_A, SGVB_B, Balanced, Cosine, Linear, SpectralPrior, diagnostics, evidence, plotting
from pyro_vae.data import load
from pyro_vae.likelihoods import Bernoulli, MixtureOfDiscretizedLogistics, bits_per_dim
from pyro_vae.models import NVAE, ConvVAE
from pyro_vae.pair import evaluating
from pyro_vae.plotting.style import SQUARE, HouseFigure

PUBLISHED = {"nll": 78.01, "epochs": 400, "minutes": 21 * 60.0, "samples": 1000}
SYSTEMS = ("NVAE", "ConvVAE")
SIDE = 32  # of color images
COLOURED = {"train": 6000, "valid": 500, "test": 1000}  # images of digits in color
SHOWN = 36  # samples of each, in a square
DRAWS = 3  # of the latents for the bound of a test image


@dataclass(frozen=True)
class Size:
    """The networks, how long they are trained, and of how many test images the NLL is estimated."""

    nvae: Mapping[str, dict[str, Any]]
    conv: dict[str, Any]
    epochs: Mapping[tuple[str, str], int]
    fit: Mapping[str, dict[str, Any]]
    exact: int
    num_samples: Mapping[str, int]
    compile: Any


SMALL = {"channels": 8, "latent_channels": 4, "groups": (2, 2), "cells": 1, "expansion": 2, "preprocess": 1}
ADAM = {"optimizer": adam(2e-3), "average": 0.99, "batch_size": 100}
SIZES = {
    "quick": Size(
        nvae={"mnist": SMALL, "color": SMALL},
        conv={"latent_dim": 40, "channels": (32, 64), "hidden": 256},
        epochs={("mnist", "NVAE"): 4, ("mnist", "ConvVAE"): 20, ("color", "NVAE"): 3, ("color", "ConvVAE"): 10},
        fit={"NVAE": ADAM, "ConvVAE": ADAM},
        exact=100,
        num_samples={"mnist": 1000, "color": 100},
        compile="traced",  # convolutions take most of the time, and compiling the NVAE takes minutes
    ),
    "full": Size(
        nvae={
            "mnist": {"channels": 32, "latent_channels": 20, "groups": (10, 5), "preprocess": 2, "padding": 2},
            "color": {"channels": 32, "latent_channels": 20, "groups": (10, 5), "preprocess": 2},
        },
        conv={"latent_dim": 40, "channels": (64, 128), "hidden": 512},
        epochs={
            ("mnist", "NVAE"): 400, ("mnist", "ConvVAE"): 2000, ("color", "NVAE"): 200, ("color", "ConvVAE"): 1000
        },
        fit={
            "NVAE": {
                "optimizer": functools.partial(torch.optim.Adamax, lr=1e-2, eps=1e-3),
                "batch_size": 400,
            },
            "ConvVAE": {**ADAM, "average": 0.999},
        },
        exact=10_000,
        num_samples={"mnist": 1000, "color": 1000},
        compile="auto",
    ),
}  # fmt: skip


def colored_digits(arguments: Any) -> Path:
    """A folder of digits in color, with train, valid and test: the same files at every call."""
    folder: Path = arguments.cache / "nvae" / f"colored-digits-{SIDE}-{'-'.join(map(str, COLOURED.values()))}"
    if (folder / "done").exists():
        return folder
    digits: Any = load("mnist", arguments.root)
    place = torch.linspace(0, 1, SIDE)
    for part, count in COLOURED.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(list(COLOURED).index(part))
        (x,) = getattr(digits, part).batch(torch.arange(count))
        ink = nn.functional.pad(x, ((SIDE - 28) // 2,) * 4)
        colors = torch.rand(3, count, 3, 1, 1, generator=generator)
        first, second, front = 0.5 * colors[0], 0.5 * colors[1], 0.5 + 0.5 * colors[2]
        angle = 2 * math.pi * torch.rand(count, 1, 1, 1, generator=generator)
        slope = 0.5 + 0.5 * ((place - 0.5) * angle.cos() + (place - 0.5)[:, None] * angle.sin())
        images = (1 - ink) * (first + slope * (second - first)) + ink * front
        pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for index, pixel in enumerate(pixels):
            Image.fromarray(pixel).save(folder / part / f"{index:05d}.png")
    (folder / "done").touch()
    return folder


def images(part: str, arguments: Any) -> Any:
    if part == "mnist":
        return dataset("mnist", arguments, "dynamic")
    folder = arguments.folder or colored_digits(arguments)
    return load(Path(folder), image_size=SIDE, channels=3)


def describe(part: str, arguments: Any) -> str:
    if part == "mnist":
        return "MNIST, dynamic"
    return f"folder {Path(arguments.folder).name}" if arguments.folder else "digits in color (made by the script)"


def make(part: str, system: str, size: str, event_shape: Any) -> nn.Module:
    chosen = SIZES[size]
    likelihood = Bernoulli if part == "mnist" else MixtureOfDiscretizedLogistics
    if system == "NVAE":
        return NVAE(event_shape, likelihood=likelihood, **chosen.nvae[part])
    return ConvVAE(event_shape, likelihood=likelihood, **chosen.conv)


def run(part: str, system: str, data: Any, arguments: Any) -> tuple[dict[str, Any], Tensor]:
    """One training and its evaluation; means of p(x | z) at draws from the prior, ``[SHOWN, *event]``."""
    size = arguments.size
    chosen = SIZES[size]
    epochs = chosen.epochs[part, system]
    key = f"{part}-{system}-{epochs}-seed{arguments.seed}"
    if part == "color" and arguments.folder:
        key += f"-{Path(arguments.folder).name}"
    folder = arguments.cache / "nvae" / size / key
    nvae = system == "NVAE"
    trained = cached_fit(
        folder,
        functools.partial(make, part, system, size, data.event_shape),
        data,
        seed=arguments.seed,
        estimator=Balanced() if nvae else SGVB_B(),
        weight_prior=SpectralPrior() if nvae else None,
        beta=Linear(0.01, 1.0, duration=0.3),
        scheduler=Cosine(warmup=0.02, final=0.01),
        epochs=epochs,
        clip_norm=200.0,
        compile=chosen.compile,
        **chosen.fit[system],
    )
    pair: Any = trained.pair.eval()
    (x,) = data.test.batch(slice(None))
    exact = min(chosen.exact, len(x))
    num_samples = chosen.num_samples[part]
    measure = functools.partial(measured, pair, x, exact, num_samples, arguments.seed)
    found = cached_json(folder / f"test-{exact}-{num_samples}.json", measure)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(arguments.seed)
        samples = diagnostics.sample(pair, SHOWN, x[:1])
    ends = training_seconds(trained.history)
    row = {
        "system": system,
        "parameters": sum(parameter.numel() for parameter in pair.parameters()),
        **found,
        "bits_per_dim": bits_per_dim(-found["nll"], data.event_shape) if part == "color" else None,
        "epochs": epochs,
        "seconds": ends[-1],
        "mode": trained.mode,
        "history": [
            {"epoch": entry["epoch"], "train": entry["train"], "valid": entry["valid"], "minutes": end / 60}
            for entry, end in zip(trained.history, ends, strict=True)
        ],
    }
    return row, samples


def measured(pair: nn.Module, x: Tensor, exact: int, num_samples: int, seed: int) -> dict[str, Any]:
    """Bound, NLL and the KL of each group, of test images ``x``."""
    started = time.perf_counter()
    result = evidence.importance(pair, x[:exact], num_samples, chunk=2048, seed=seed, compile="eager")
    with torch.random.fork_rng(), evaluating(pair):
        torch.manual_seed(seed)
        bounds = torch.cat([SGVB_A().bound(pair, part) for _ in range(DRAWS) for (part,) in in_batches(x)])
        bounds = bounds.double().reshape(DRAWS, -1).mean(0)
        levels = diagnostics.levels(pair, in_batches(x[:1000])).as_rows()
    bound = bounds.mean().item()
    nll, error = carried_over(result.log_prob, bounds[:exact], bound)
    return {
        "bound": bound,
        "nll": nll,
        "nll_error": error if exact < len(x) else result.nll_standard_error,
        "exact": exact,
        "num_samples": num_samples,
        "effective_sample_size": result.effective_sample_size.median().item(),
        "levels": levels,
        "evaluation_seconds": time.perf_counter() - started,
    }


def report(part: str, arguments: Any) -> None:
    """The table, the words, the JSON file and the figures of one part."""
    data = images(part, arguments)
    found = {system: run(part, system, data, arguments) for system in SYSTEMS}
    rows = {system: row for system, (row, _) in found.items()}
    header = ["system", "parameters", "epochs", "minutes", "bound", "NLL", "std. error", "images x samples"]
    lines: list[list[Any]] = [
        [
            row["system"], f"{row['parameters']:,}", row["epochs"], row["seconds"] / 60, f"{row['bound']:.2f}",
            f"{row['nll']:.2f}", f"{row['nll_error']:.2f}", f"{row['exact']:,} x {row['num_samples']:,}",
        ]
        for row in rows.values()
    ]  # fmt: skip
    if part == "mnist":
        samples = f"10,000 x {PUBLISHED['samples']:,}"
        lines.append(
            ["NVAE, published", None, PUBLISHED["epochs"], PUBLISHED["minutes"], None, f"{PUBLISHED['nll']:.2f}", None,
             samples]
        )  # fmt: skip
    else:
        header.append("bits per dimension")
        for line, row in zip(lines, rows.values(), strict=True):
            line.append(f"{row['bits_per_dim']:.3f}")
    print(f"\n{describe(part, arguments)}\n{table(header, lines)}\n\n{in_words(part, rows)}")
    result = {
        "experiment": "nvae",
        "part": part,
        "data": describe(part, arguments),
        "published": PUBLISHED if part == "mnist" else None,
        "runs": list(rows.values()),
    }
    (test,) = data.test.batch(slice(SHOWN))
    minutes = {
        system: [{**entry, "minutes of training": entry["minutes"]} for entry in row["history"]]
        for system, row in rows.items()
    }
    nll = [{"label": "NLL, published", "y": -PUBLISHED["nll"]}] if part == "mnist" else None
    figures = {
        "samples": side_by_side(test, {system: samples for system, (_, samples) in found.items()}),
        "curves": plotting.learning_curves(minutes, x="minutes of training", published=nll),
        "levels": plotting.levels({"NVAE": rows["NVAE"]["levels"]}),
    }
    finish(arguments, f"nvae_{part}", result, {f"nvae_{part}_{kind}": figure for kind, figure in figures.items()})


def in_words(part: str, rows: Mapping[str, dict[str, Any]]) -> str:
    """What the numbers come to."""
    nvae, conv = rows["NVAE"], rows["ConvVAE"]
    gap = conv["nll"] - nvae["nll"]
    error = math.hypot(nvae["nll_error"], conv["nll_error"])
    levels = nvae["levels"]
    kls = ", ".join(f"{level['site']} {level['rate']:.1f}" for level in levels)
    used = sum(level["rate"] > 0.1 for level in levels)
    count = len(nvae["history"])
    last, tenth = nvae["history"][-1], nvae["history"][max(0, count - 1 - max(1, count // 10))]
    text = (
        f"After {nvae['seconds'] / 60:.1f} minutes ({conv['seconds'] / 60:.1f} for the convolutional VAE) the NVAE has "
        f"an NLL of {nvae['nll']:.2f}, which is {abs(gap):.2f} nats {'below' if gap > 0 else 'above'} that of the "
        f"convolutional VAE (standard error of both {error:.2f}). Of its {len(levels)} groups {used} hold more "
        f"than 0.1 nats: {kls}. In the last tenth of the epochs its validation bound still moved by "
        f"{last['valid'] - tenth['valid']:+.2f} nats."
    )
    if part == "mnist":
        text += (
            f" It is {nvae['nll'] - PUBLISHED['nll']:+.2f} nats from the published {PUBLISHED['nll']}, which had "
            f"{PUBLISHED['epochs'] / nvae['epochs']:.0f} times the epochs and "
            f"{60 * PUBLISHED['minutes'] / nvae['seconds']:.0f} times the time, on two GPUs."
        )
    return text


@styled
def side_by_side(test: Tensor, samples: Mapping[str, Tensor]) -> Any:
    """Test data, and samples of each system."""
    panels: dict[str, Tensor] = {"test data": test, **{f"{name}, samples": images for name, images in samples.items()}}
    figure = HouseFigure(figsize=(3.0 * len(panels), 3.2), layout=SQUARE)
    for ax, (title, images) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        plotting.image_grid(images, ax=ax, title=title)
    return figure


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=("color", "mnist"), default=None, help="one part")
    parser.add_argument("--folder", default=None, help="folder of color images, in place of the digits in color")
    arguments = parser.parse_args()
    for name in ("mnist", "color"):
        if arguments.only in (None, name):
            report(name, arguments)


if __name__ == "__main__":
    main()
