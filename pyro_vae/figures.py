"""The standard figures of a fitted pair: diagnostics give the numbers, plotting draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from pyro_vae import diagnostics, plotting
from pyro_vae.data import Data, Split

_MOST_CODES = 5000


def draw(
    folder: str | Path, pair: Any, data: Data, histories: Mapping[str, Sequence[dict[str, Any]]], *, seed: int = 0
) -> list[Path]:
    """Draws what applies to the pair and the data, and saves it as PNG files.

    Learning curves; for images reconstructions, samples from the prior and, with one latent vector, traversals of its
    most active units, or its 2-D manifold; the codes by label; the active units.

    Args:
        folder: where the files go.
        pair: the fitted pair.
        data: the data; the test set is drawn from, or the validation or training set where there is none.
        histories: the histories of :func:`pyro_vae.fit` by name, for the learning curves.
        seed: of the samples from the prior.

    Returns:
        The paths of the figures.
    """
    folder = Path(folder)
    figures = _figures(pair, data, histories, seed)
    return [plotting.save(figure, folder / f"{name}.png") for name, figure in figures]


def _figures(
    pair: Any, data: Data, histories: Mapping[str, Sequence[dict[str, Any]]], seed: int
) -> Iterator[tuple[str, Any]]:
    if any(histories.values()):
        yield "learning_curves", plotting.learning_curves(histories)
    split = data.test or data.valid or data.train
    held = split if isinstance(split, Split) else split.take(_MOST_CODES)
    held = held.take(_MOST_CODES)
    batch = held.batch(torch.arange(len(held)))
    shape = data.event_shape
    images = len(shape) == 3 and shape[0] in (1, 3)
    if images:
        shown = tuple(tensor[:10] for tensor in batch)
        yield "reconstructions", plotting.reconstructions(shown[0], _unit(diagnostics.reconstruct(pair, *shown), shape))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield "samples", plotting.samples(_unit(diagnostics.sample(pair, 100, *batch), shape))
    codes = diagnostics.encode(pair, *batch)
    if list(codes) != ["z"] or codes["z"].dim() != 2:
        return
    units = diagnostics.active_units(pair, [batch])
    yield "active_units", plotting.active_units(units.variances)
    if codes["z"].shape[1] > 1:
        yield "latent_scatter", plotting.latent_scatter(units.codes, held.labels)
    if images:
        yield _latent_figure(pair, batch, units)


def _latent_figure(pair: Any, batch: tuple[Tensor, ...], units: diagnostics.ActiveUnits) -> tuple[str, Any]:
    dim, shape = units.codes.shape[1], batch[0].shape[1:]
    if dim == 2:
        side = 20
        grid = torch.as_tensor(plotting.manifold_grid(side), dtype=units.codes.dtype)
        return "manifold", plotting.manifold(
            _unit(diagnostics.decode(pair, grid, *(tensor[:1] for tensor in batch)), shape), side=side
        )
    quantiles = torch.linspace(0.02, 0.98, 11)
    values = torch.tensor([NormalDist().inv_cdf(quantile) for quantile in quantiles.tolist()])
    shown = units.variances.argsort(descending=True)[:10]
    base = units.codes[:1]
    latents = base.expand(len(shown), len(values), dim).clone()
    for row, unit in enumerate(shown):
        latents[row, :, unit] = values
    decoded = _unit(diagnostics.decode(pair, latents.flatten(0, 1), *(tensor[:1] for tensor in batch)), shape)
    grid = decoded.unflatten(0, (len(shown), len(values)))
    return "traversals", plotting.traversals(grid, values=values, dims=shown.tolist())


def _unit(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Means as pictures: a Gaussian's mean may leave [0, 1], and a pair may observe images as flat vectors."""
    flat = images.shape[1:] == (math.prod(shape),)
    return (images.unflatten(1, shape) if flat else images).clamp(0, 1).cpu()
