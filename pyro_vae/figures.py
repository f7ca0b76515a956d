"""The standard figures of a fitted pair: diagnostics give the numbers, plotting draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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

    Learning curves; for images reconstructions, samples from the prior and, with one latent, interpolations between
    data, and traversals of its most active units through the quantiles of the prior, or its 2-D manifold; the codes by
    label; the active units. Units that are constrained jointly, as on a sphere, cannot be moved one by one: they have
    neither traversals nor a manifold. Where there is no prior, as in an autoencoder, there are no samples, traversals
    or manifold.

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
    drawable = diagnostics.has_prior(pair, *batch)
    if images:
        shown = tuple(tensor[:10] for tensor in batch)
        yield "reconstructions", plotting.reconstructions(shown[0], _unit(diagnostics.reconstruct(pair, *shown), shape))
    if images and drawable:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield "samples", plotting.samples(_unit(diagnostics.sample(pair, 100, *batch), shape))
    codes = diagnostics.encode(pair, *batch)
    space = diagnostics.support(pair, *batch, site=next(iter(codes))) if len(codes) == 1 else None
    if images and space is not None and not space.is_discrete and len(held) > 1:
        yield "interpolations", _interpolations(pair, batch, shape)
    if list(codes) != ["z"] or codes["z"].dim() != 2:
        return
    units = diagnostics.active_units(pair, [batch])
    yield "active_units", plotting.active_units(units.variances)
    if codes["z"].shape[1] > 1:
        yield "latent_scatter", plotting.latent_scatter(units.codes, held.labels)
    if images and drawable and space is not None and space.event_dim == 0:
        yield _latent_figure(pair, batch, units, shape)


def _interpolations(pair: Any, batch: tuple[Tensor, ...], shape: Sequence[int]) -> Any:
    """Between neighbours among the first data, eight pairs at most."""
    rows = min(8, len(batch[0]) // 2)
    starts, ends = (tuple(tensor[first : 2 * rows : 2] for tensor in batch) for first in (0, 1))
    steps = diagnostics.interpolate(pair, starts, ends, 8)
    drawn = _unit(steps.flatten(0, 1), shape).unflatten(0, steps.shape[:2])
    return plotting.interpolations(drawn, _unit(starts[0], shape), _unit(ends[0], shape))


def _latent_figure(
    pair: Any, batch: tuple[Tensor, ...], units: diagnostics.ActiveUnits, shape: Sequence[int]
) -> tuple[str, Any]:
    """The manifold of two units, or traversals of several."""
    dim, one = units.codes.shape[1], tuple(tensor[:1] for tensor in batch)
    if dim == 2:
        side = 20
        places = diagnostics.prior_quantiles(pair, (torch.arange(side) + 0.5) / side, *batch)
        grid = torch.as_tensor(plotting.manifold_grid(side, places), dtype=units.codes.dtype)
        drawn = _unit(diagnostics.decode(pair, grid, *one), shape)
        return "manifold", plotting.manifold(drawn, side=side, prior="the prior")
    quantiles = torch.tensor([0.02, *(tenth / 10 for tenth in range(1, 10)), 0.98])
    values = diagnostics.prior_quantiles(pair, quantiles, *batch).to(units.codes)
    shown = units.variances.argsort(descending=True)[:10]
    latents = units.codes[:1].expand(len(shown), len(quantiles), dim).clone()
    for row, unit in enumerate(shown):
        latents[row, :, unit] = values[unit]
    decoded = _unit(diagnostics.decode(pair, latents.flatten(0, 1), *one), shape)
    grid = decoded.unflatten(0, (len(shown), len(quantiles)))
    return "traversals", plotting.traversals(grid, quantiles=quantiles, dims=shown.tolist())


def _unit(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Means as pictures: a Gaussian's mean may leave [0, 1], and a pair may observe images as flat vectors."""
    flat = images.shape[1:] == (math.prod(shape),)
    return (images.unflatten(1, shape) if flat else images).clamp(0, 1).cpu()
