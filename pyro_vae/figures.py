"""The standard figures of a fitted pair: diagnostics give the numbers, plotting draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import diagnostics, plotting
from pyro_vae._checks import checked, warn
from pyro_vae.batches import num_rows, rows
from pyro_vae.data import Data, Split
from pyro_vae.data.quadrants import Quadrants
from pyro_vae.pair.turns import fork_rng

_MOST_CODES = 5000
_SHOWN = 10  # data whose reconstructions are drawn
_MOST_ROWS = 8  # of a mosaic of levels
_MOST_CLASSES = 20  # rows of classes
_DRAWS, _COMPLETED = 50, 4  # completions whose mean is drawn, and of which so many are drawn themselves


@checked
def draw(
    folder: str | Path,
    pair: Any,
    data: Data,
    histories: Mapping[str, Sequence[dict[str, Any]]],
    *,
    seed: int = 0,
    site: str | None = None,
) -> list[Path]:
    """Draws what applies to the pair and the data, and saves it as PNG files.

    Learning curves; where an image is observed reconstructions, samples from the prior (a row for each class, where the
    model is given classes) and, with continuous latents, interpolations between data; completions of images of which
    quadrants are given. With one continuous latent, a vector: traversals of its most active units through the quantiles
    of the prior, or its 2-D manifold; the codes by label; the active units. Units that are constrained jointly, as on a
    sphere, cannot be moved one by one: they have neither traversals nor a manifold. With other
    latents, such as a hierarchy z1, ..., zL, or a discrete one: the usage of each level (``levels``); for images
    samples with upper levels held at those of a datum (``levels_held``), and with one level drawn, those above held and
    those below at their means (``levels_drawn``). Where there is no prior, as in an autoencoder, there are no samples,
    traversals, manifold or levels.

    Args:
        folder: where the files go.
        pair: the fitted pair.
        data: the data; the test set is drawn from, or the validation or training set where there is none.
        histories: the histories of :func:`pyro_vae.fit` by name, for the learning curves.
        seed: of the samples from the prior.
        site: of the sites that the model observes, the image; see :func:`~pyro_vae.diagnostics.observed_site`.

    Returns:
        The paths of the figures.

    Raises:
        ValueError: if the model observes no ``site``.

    Warns:
        UserWarning: if a figure that applies cannot be drawn, and why.
    """
    held = data.held(_MOST_CODES)
    batch = held.batch(slice(None))
    if site is not None:
        diagnostics.observed_site(pair, *rows(batch, slice(1)), site=site)
    sheets = _Sheets(Path(folder), seed)
    if any(entry.get("train") is not None for history in histories.values() for entry in history):
        sheets.add("learning_curves", lambda: plotting.learning_curves(histories))
    shape = data.event_shape
    pictures = None
    if len(shape) == 3 and shape[0] in (1, 3):
        pictures = sheets.told("reconstructions and samples", lambda: _Pictures.of(pair, data, batch, site))
    drawable = sheets.told("what is drawn from the prior", lambda: diagnostics.has_prior(pair, *batch))
    if pictures:
        sheets.add("reconstructions", lambda: pictures.reconstructions(rows(batch, slice(_SHOWN))))
        if drawable:
            sheets.add("samples", lambda: pictures.samples(batch))
            if sheets.told("classes", lambda: diagnostics.class_argument(pair, *batch)) is not None:
                sheets.add("classes", lambda: pictures.classes(batch))
    if isinstance(data, Quadrants) and drawable:
        sheets.add("completions", lambda: _completions(pair, data, rows(batch, slice(_SHOWN)), site))
    spaces = sheets.told("figures of latents", lambda: _spaces(pair, batch))
    if spaces:
        _latents(sheets, pair, held, batch, pictures, spaces, bool(drawable))
    sheets.say()
    return sheets.paths


def _completions(pair: Any, data: Quadrants, batch: tuple[Any, ...], site: str | None) -> Any:
    """What is given, draws of the rest, their mean, and the truth."""
    x, c = batch
    draws = diagnostics.sample(pair, _DRAWS * len(x), *batch, site=site).unflatten(0, (_DRAWS, len(x))).cpu()
    draws = draws.clamp(0, 1)
    shown = {f"draw {number + 1}": data.completed(drawn, c) for number, drawn in enumerate(draws[:_COMPLETED])}
    given = data.completed(torch.full_like(draws[0], 0.5), c)
    mean = data.completed(draws.mean(0), c)
    return plotting.restorations([{"given": given}, {"mean": mean, **shown}, {"truth": data.completed(x, c)}])


class _Sheets:
    """The figures of a folder, and what could not be drawn."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.paths: list[Path] = []
        self._left_out: dict[str, list[str]] = {}  # names by reason

    def add(self, name: str, make: Callable[[], Any]) -> None:
        """Draws a figure and saves it."""
        figure = self.told(name, make)
        if figure is not None:
            self.paths.append(plotting.save(figure, self.folder / f"{name}.png"))

    def told(self, name: str, ask: Callable[[], Any]) -> Any:
        """What is found for a figure; ``None`` where it fails, as a program does for which it was not meant."""
        try:
            with fork_rng():
                torch.manual_seed(self.seed)
                return ask()
        except Exception as error:
            reason = " ".join((str(error).strip().splitlines() or [""])[0].split()).rstrip(".")
            known = isinstance(error, ValueError) and reason
            self._left_out.setdefault(reason if known else f"{type(error).__name__}: {reason}", []).append(name)
            return None

    def say(self) -> None:
        if self._left_out:
            told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in self._left_out.items())
            warn(f"not drawn: {told}.")


def _spaces(pair: Any, batch: tuple[Any, ...]) -> dict[str, Any]:
    """The support of each latent of a datum."""
    found = diagnostics.encode(pair, *rows(batch, slice(1)))
    if not found:
        raise ValueError("the guide has no latent of a datum")
    return {site: diagnostics.support(pair, *batch, site=site) for site in found}


def _latents(
    sheets: _Sheets,
    pair: Any,
    held: Split,
    batch: tuple[Any, ...],
    pictures: _Pictures | None,
    spaces: Mapping[str, Any],
    drawable: bool,
) -> None:
    continuous = not any(space.is_discrete for space in spaces.values())
    if pictures and continuous and len(held) > 1:
        sheets.add("interpolations", lambda: _interpolations(pair, batch, pictures))
    chunks = diagnostics.chunks(*batch)
    one, *others = spaces
    if others or not continuous or diagnostics.encode(pair, *rows(batch, slice(1)))[one].dim() != 2:
        if drawable:
            _levels(sheets, pair, chunks, pictures, continuous)
        return
    units = sheets.told("active_units, latent_scatter", lambda: diagnostics.active_units(pair, chunks, site=one))
    if units is None:
        return
    sheets.add("active_units", lambda: plotting.active_units(units.variances))
    if units.codes.shape[1] > 1:
        sheets.add("latent_scatter", lambda: plotting.latent_scatter(units.codes, held.labels))
    if pictures and drawable and spaces[one].event_dim == 0:
        name, make = ("manifold", _manifold) if units.codes.shape[1] == 2 else ("traversals", _traversals)
        sheets.add(name, lambda: make(pair, one, batch, units, pictures))


def _levels(
    sheets: _Sheets,
    pair: Any,
    chunks: Sequence[tuple[Tensor, ...]],
    pictures: _Pictures | None,
    continuous: bool,
) -> None:
    """What each of several latents holds and costs; pictures only of images."""
    usage = sheets.told("levels", lambda: diagnostics.levels(pair, chunks))
    if not usage:
        return
    sheets.add("levels", lambda: plotting.levels({"": usage.as_rows()}))
    shown = rows(chunks[0], slice(3))
    names = diagnostics.latent_names(pair, *shown)
    if pictures is None or len(names) < 2 or any(site not in usage.usage for site in names):
        return
    steps = min(len(names), _MOST_ROWS - 1)
    counts = sorted({round(step * len(names) / steps) for step in range(steps + 1)})
    held = [{"fixed": names[:count]} for count in counts]
    labels = [_span(names[:count]) for count in counts]
    title = "latents of the datum, and draws of the others given them"
    sheets.add("levels_held", lambda: pictures.resampled(shown, held, labels, title))
    if continuous:
        places = [count - 1 for count in counts[1:]]
        drawn = [{"fixed": names[:place], "sampled": [names[place]]} for place in places]
        named = [f"{plotting.site_name(names[place])} drawn" for place in places]
        of_one = "one latent drawn, those above of the datum, those below at their means"
        sheets.add("levels_drawn", lambda: pictures.resampled(shown, drawn, named, of_one))


def _span(names: Sequence[str]) -> str:
    shown = [plotting.site_name(name) for name in names]
    return " to ".join([shown[0], shown[-1]][: len(shown)]) if shown else "none"


def _interpolations(pair: Any, batch: tuple[Any, ...], pictures: _Pictures) -> Any:
    """Between neighbors among the first data, eight pairs at most."""
    count = min(8, num_rows(batch) // 2)
    starts, ends = (rows(batch, slice(first, 2 * count, 2)) for first in (0, 1))
    steps = diagnostics.interpolate(pair, starts, ends, 8, site=pictures.site)
    return plotting.interpolations(pictures.rows(steps), pictures.originals(starts), pictures.originals(ends))


def _manifold(
    pair: Any, latent: str, batch: tuple[Any, ...], units: diagnostics.ActiveUnits, pictures: _Pictures
) -> Any:
    """Of two units."""
    side = 20
    places = diagnostics.prior_quantiles(pair, (torch.arange(side) + 0.5) / side, *batch, site=latent)
    grid = torch.as_tensor(plotting.manifold_grid(side, places), dtype=units.codes.dtype)
    decoded = diagnostics.decode(pair, {latent: grid}, *rows(batch, slice(1)), site=pictures.site)
    return plotting.manifold(pictures(decoded), side=side, prior="the prior")


def _traversals(
    pair: Any, latent: str, batch: tuple[Any, ...], units: diagnostics.ActiveUnits, pictures: _Pictures
) -> Any:
    """Of the most active units."""
    quantiles = torch.tensor([0.02, *(tenth / 10 for tenth in range(1, 10)), 0.98])
    values = diagnostics.prior_quantiles(pair, quantiles, *batch, site=latent).to(units.codes)
    shown = units.variances.argsort(descending=True)[:10]
    latents = units.codes[:1].expand(len(shown), len(quantiles), -1).clone()
    for row, unit in enumerate(shown):
        latents[row, :, unit] = values[unit]
    moved = {latent: latents.flatten(0, 1)}
    decoded = pictures(diagnostics.decode(pair, moved, *rows(batch, slice(1)), site=pictures.site))
    grid = decoded.unflatten(0, (len(shown), len(quantiles)))
    return plotting.traversals(grid, quantiles=quantiles, dims=shown.tolist())


@dataclass(frozen=True)
class _Pictures:
    """Makes pictures of what is observed and its means: gray as it is, other numbers from the lowest to the highest.

    Standardized data are shown in the units that were given. A Gaussian's mean may leave the range, and a pair may
    observe images as flat vectors.
    """

    pair: Any
    site: str
    shape: Sequence[int]
    original: Callable[[Tensor], Tensor]
    low: float
    high: float

    @classmethod
    def of(cls, pair: Any, data: Data, batch: tuple[Any, ...], site: str | None) -> _Pictures:
        site = diagnostics.observed_site(pair, *rows(batch, slice(1)), site=site)
        x = diagnostics.observed_values(pair, *rows(batch, slice(_SHOWN)), site=site)
        if x.shape[1:].numel() != math.prod(data.event_shape):
            raise ValueError(f"the model observes {site!r} of shape {list(x.shape[1:])}, which is no image of the data")
        found = cls(pair, site, data.event_shape, data.original, 0.0, 1.0)
        if torch.equal(found._shaped(x), batch[0][:_SHOWN].to(x)):
            x = batch[0]  # whose range is that of all
        low, high = (float(value) for value in data.original(found._shaped(x)).aminmax())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        return replace(found, low=low, high=max(high, math.nextafter(low, math.inf)))

    def _shaped(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), *self.shape)

    def __call__(self, images: Tensor) -> Tensor:
        shown = self.original(self._shaped(images))
        return ((shown - self.low) / (self.high - self.low)).clamp(0, 1).cpu()

    def rows(self, images: Tensor) -> Tensor:
        """``[P, S, *event]`` as pictures."""
        return self(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def originals(self, batch: tuple[Any, ...]) -> Tensor:
        return self(diagnostics.observed_values(self.pair, *batch, site=self.site))

    def reconstructions(self, batch: tuple[Any, ...]) -> Any:
        drawn = diagnostics.reconstruct(self.pair, *batch, site=self.site)
        return plotting.reconstructions(self.originals(batch), self(drawn))

    def samples(self, batch: tuple[Any, ...]) -> Any:
        return plotting.samples(self(diagnostics.sample(self.pair, 100, *batch, site=self.site)))

    def classes(self, batch: tuple[Any, ...]) -> Any:
        place = diagnostics.class_argument(self.pair, *batch)
        assert place is not None
        names = batch[place].unique()[:_MOST_CLASSES]
        drawn = diagnostics.sample_by_class(self.pair, _SHOWN, *batch, classes=names, site=self.site)
        return plotting.classes(self.rows(drawn), names.tolist())

    def resampled(
        self, batch: tuple[Any, ...], held: Sequence[dict[str, Any]], labels: Sequence[str], title: str
    ) -> Any:
        drawn = [diagnostics.resample(self.pair, *batch, **one, num_samples=4, site=self.site) for one in held]
        mosaic = torch.stack([self.rows(images) for images in drawn])
        return plotting.resampled(mosaic, self.originals(batch), labels, title=title)
