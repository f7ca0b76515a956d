"""The standard figures of a fitted pair: diagnostics give the numbers, plotting draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import diagnostics, plotting
from pyro_vae.batches import num_rows, rows
from pyro_vae.data import Data

_MOST_CODES = 5000
_MOST_ROWS = 8  # of a mosaic of levels


def draw(
    folder: str | Path, pair: Any, data: Data, histories: Mapping[str, Sequence[dict[str, Any]]], *, seed: int = 0
) -> list[Path]:
    """Draws what applies to the pair and the data, and saves it as PNG files.

    Learning curves; for images reconstructions, samples from the prior and, with continuous latents, interpolations
    between data. With one latent z, a vector: traversals of its most active units through the quantiles of the prior,
    or its 2-D manifold; the codes by label; the active units. Units that are constrained jointly, as on a sphere,
    cannot be moved one by one: they have neither traversals nor a manifold. With other latents, such as a hierarchy
    z1, ..., zL: the usage of each level (``levels``); for images samples with upper levels held at those of a datum
    (``levels_held``), and with one level drawn, those above held and those below at their means (``levels_drawn``).
    Where there is no prior, as in an autoencoder, there are no samples, traversals, manifold or levels.

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
    if any(entry.get("train") is not None for history in histories.values() for entry in history):
        yield "learning_curves", plotting.learning_curves(histories)
    held = data.held(_MOST_CODES)
    batch = held.batch(slice(None))
    shape = data.event_shape
    images = len(shape) == 3 and shape[0] in (1, 3)
    pictures = _Pictures.of(data, batch[0]) if images else None
    drawable = diagnostics.has_prior(pair, *batch)
    if pictures:
        shown = rows(batch, slice(10))
        drawn = diagnostics.reconstruct(pair, *shown)
        yield "reconstructions", plotting.reconstructions(pictures(shown[0]), pictures(drawn))
    if pictures and drawable:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield "samples", plotting.samples(pictures(diagnostics.sample(pair, 100, *batch)))
    first = diagnostics.encode(pair, *rows(batch, slice(1)))
    spaces = {site: diagnostics.support(pair, *batch, site=site) for site in first}
    continuous = bool(spaces) and not any(space.is_discrete for space in spaces.values())
    if pictures and continuous and len(held) > 1:
        yield "interpolations", _interpolations(pair, batch, pictures)
    chunks = diagnostics.chunks(*batch)
    if list(first) != ["z"] or first["z"].dim() != 2:
        if drawable:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                yield from _levels(pair, chunks, pictures, continuous)
        return
    space = spaces["z"]
    units = diagnostics.active_units(pair, chunks)
    yield "active_units", plotting.active_units(units.variances)
    if units.codes.shape[1] > 1:
        yield "latent_scatter", plotting.latent_scatter(units.codes, held.labels)
    if pictures and drawable and space.event_dim == 0:
        yield _latent_figure(pair, batch, units, pictures)


def _levels(
    pair: Any, chunks: Sequence[tuple[Tensor, ...]], pictures: _Pictures | None, continuous: bool
) -> Iterator[tuple[str, Any]]:
    """What each of several latents holds and costs; pictures only of images."""
    usage = diagnostics.levels(pair, chunks)
    if not len(usage):
        return
    yield "levels", plotting.levels({"": usage.as_rows()})
    shown = rows(chunks[0], slice(3))
    names = diagnostics.latent_names(pair, *shown)
    if pictures is None or len(names) < 2 or any(site not in usage.usage for site in names):
        return
    originals = pictures(shown[0])
    steps = min(len(names), _MOST_ROWS - 1)
    counts = sorted({round(step * len(names) / steps) for step in range(steps + 1)})
    mosaic = [pictures.rows(diagnostics.resample(pair, *shown, fixed=names[:count], num_samples=4)) for count in counts]
    labels = [_span(names[:count]) for count in counts]
    title = "latents of the datum, and draws of the others given them"
    yield "levels_held", plotting.resampled(torch.stack(mosaic), originals, labels, title=title)
    if continuous:
        places = [count - 1 for count in counts[1:]]
        mosaic = [
            pictures.rows(
                diagnostics.resample(pair, *shown, fixed=names[:place], sampled=[names[place]], num_samples=4)
            )
            for place in places
        ]
        labels = [f"{plotting.site_name(names[place])} drawn" for place in places]
        title = "one latent drawn, those above of the datum, those below at their means"
        yield "levels_drawn", plotting.resampled(torch.stack(mosaic), originals, labels, title=title)


def _span(names: Sequence[str]) -> str:
    shown = [plotting.site_name(name) for name in names]
    return " to ".join([shown[0], shown[-1]][: len(shown)]) if shown else "none"


def _interpolations(pair: Any, batch: tuple[Tensor, ...], pictures: _Pictures) -> Any:
    """Between neighbors among the first data, eight pairs at most."""
    count = min(8, num_rows(batch) // 2)
    starts, ends = (rows(batch, slice(first, 2 * count, 2)) for first in (0, 1))
    steps = diagnostics.interpolate(pair, starts, ends, 8)
    return plotting.interpolations(pictures.rows(steps), pictures(starts[0]), pictures(ends[0]))


def _latent_figure(
    pair: Any, batch: tuple[Tensor, ...], units: diagnostics.ActiveUnits, pictures: _Pictures
) -> tuple[str, Any]:
    """The manifold of two units, or traversals of several."""
    dim, one = units.codes.shape[1], rows(batch, slice(1))
    if dim == 2:
        side = 20
        places = diagnostics.prior_quantiles(pair, (torch.arange(side) + 0.5) / side, *batch)
        grid = torch.as_tensor(plotting.manifold_grid(side, places), dtype=units.codes.dtype)
        drawn = pictures(diagnostics.decode(pair, grid, *one))
        return "manifold", plotting.manifold(drawn, side=side, prior="the prior")
    quantiles = torch.tensor([0.02, *(tenth / 10 for tenth in range(1, 10)), 0.98])
    values = diagnostics.prior_quantiles(pair, quantiles, *batch).to(units.codes)
    shown = units.variances.argsort(descending=True)[:10]
    latents = units.codes[:1].expand(len(shown), len(quantiles), dim).clone()
    for row, unit in enumerate(shown):
        latents[row, :, unit] = values[unit]
    decoded = pictures(diagnostics.decode(pair, latents.flatten(0, 1), *one))
    grid = decoded.unflatten(0, (len(shown), len(quantiles)))
    return "traversals", plotting.traversals(grid, quantiles=quantiles, dims=shown.tolist())


@dataclass(frozen=True)
class _Pictures:
    """Makes pictures of x and its means: gray as it is, other numbers from the lowest to the highest of the data.

    Standardized data are shown in the units that were given. A Gaussian's mean may leave the range, and a pair may
    observe images as flat vectors.
    """

    shape: Sequence[int]
    original: Callable[[Tensor], Tensor]
    low: float
    high: float

    @classmethod
    def of(cls, data: Data, x: Tensor) -> _Pictures:
        low, high = (float(value) for value in data.original(x).aminmax())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        return cls(data.event_shape, data.original, low, max(high, math.nextafter(low, math.inf)))

    def __call__(self, images: Tensor) -> Tensor:
        flat = images.shape[1:] == (math.prod(self.shape),)
        shown = self.original(images.unflatten(1, self.shape) if flat else images)
        return ((shown - self.low) / (self.high - self.low)).clamp(0, 1).cpu()

    def rows(self, images: Tensor) -> Tensor:
        """``[P, S, *event]`` as pictures."""
        return self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
