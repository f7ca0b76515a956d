"""The figures hold the right numbers in the right places, say their units, and leave the process as it was."""

import io
import os
import subprocess
import sys
from itertools import pairwise
from math import erf
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.special import ndtri

from pyro_vae import plotting
from pyro_vae.plotting.anomaly import held_out_classes as anomaly
from pyro_vae.plotting.tiles import apart, as_grid, as_images, gap, tile

RNG = np.random.default_rng(0)
GRAY = RNG.uniform(0.05, 0.95, (12, 28, 20))  # Frey's shape, and nowhere the white of a gap


def mosaic_of(figure):
    (ax,) = figure.axes
    (image,) = ax.images
    return np.asarray(image.get_array())


def cell(figure, row, column, size=(28, 20)):
    """An image of a mosaic whose gaps are one pixel wide."""
    top, left = row * (size[0] + 1), column * (size[1] + 1)
    return mosaic_of(figure)[top : top + size[0], left : left + size[1]]


def ticks(ax, axis):
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def texts(figure):
    """Every string that a reader sees."""
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]


def legend_of(figure):
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return [t.get_text() for legend in legends for t in legend.get_texts()]


def history(epochs, *, top=-100.0, valid=True, datums=1000):
    return [
        {"epoch": e, "samples": e * datums, "train": top - 50 / e} | ({"valid": top - 3 - 50 / e} if valid else {})
        for e in range(1, epochs + 1)
    ]


def gradient_rows():
    """Three estimators by four groups; the third group is the first one under another name."""
    rows = []
    for i, estimator in enumerate(("SGVB_A(1)", "SGVB_B(1)", "IWAE(5)")):
        for group, size in (("p(x)", 1.0), ("q(z)", 0.01), ("likelihood", 1.0), ("all", 3.0)):
            variance = size * 10.0**i
            row = {"estimator": estimator, "group": group, "variance": variance, "variance_error": variance / 10}
            rows.append(row | {"snr": size + 1, "snr_error": 0.01, "bias": None if i == 0 else 0.0 if i == 1 else size})
    return rows


LINE_PANELS = {
    "one": {"VAE": ([1, 5, 50], [-9.0, -8.0, -7.0], [0.1, 0.2, 0.3]), "VAE, train": ([1, 50], [-8.0, -6.0])},
    "two": {"IWAE": ([5, 50], [-7.0, -5.0]), "VAE": ([5], [-8.5])},
}
PAPER = {"two": {"published": ([5, 50], [-6.0, -5.5])}}


def level_row(site, rate, **numbers):
    return {"site": site, "rate": rate, "num_units": 8, "threshold": 0.01, **numbers}


STRIPS, BLOCKS = GRAY.reshape(3, 4, 28, 20), GRAY.reshape(3, 2, 2, 28, 20)
CODES, ANALOGIES = GRAY[0, :, :2], GRAY[:6].reshape(2, 3, 28, 20)
FIGURES = {
    "image_grid": lambda: plotting.image_grid(GRAY, columns=5, title="grid"),
    "reconstructions": lambda: plotting.reconstructions(GRAY, GRAY[::-1], count=4),
    "manifold": lambda: plotting.manifold(GRAY[:9], side=3),
    "learning_curves": lambda: plotting.learning_curves(
        {"a": history(30)}, published=[{"label": "p", "x": 9e3, "y": -95}], title="t"
    ),
    "latent_scatter": lambda: plotting.latent_scatter(GRAY[0, :, :5], np.arange(28) % 3),
    "one code": lambda: plotting.latent_scatter([[0.0, 1.0, 2.0]]),
    "traversals": lambda: plotting.traversals(STRIPS, values=[-2, -1, 1, 2]),
    "quantiles": lambda: plotting.traversals(STRIPS, quantiles=[0.02, 0.1, 0.9, 0.98]),
    "interpolations": lambda: plotting.interpolations(STRIPS, GRAY[:3], GRAY[3:6]),
    "one step": lambda: plotting.interpolations(GRAY[:1, None], GRAY[:1], GRAY[:1]),
    "one density": lambda: plotting.densities({"U": np.ones((5, 5))}),
    "densities": lambda: plotting.densities({f"U{i}": GRAY[i, :20] for i in range(7)}, title="t"),
    "many densities": lambda: plotting.densities({f"U{i}": GRAY[i % 12, :20] for i in range(13)}, columns=6),
    "active_units": lambda: plotting.active_units([1.0, 1e-4, 0.3]),
    "gradients": lambda: plotting.gradients(gradient_rows(), title="t"),
    "resampled": lambda: plotting.resampled(BLOCKS, GRAY[:2], ["none", "a", "b"], title="a title"),
    "levels": lambda: plotting.levels({"a": [level_row("z1", 5.0, num_active=8), level_row("z2", 2.0, num_active=1)]}),
    "many levels": lambda: plotting.levels(
        {name: [level_row(f"z{i}", 1.0, num_active=i % 8, num_informative=1) for i in range(30)] for name in "abc"}
    ),
    "lines": lambda: plotting.lines(LINE_PANELS, x="K", y="bound (nats)", published=PAPER, log="x", title="t"),
    "restorations": lambda: plotting.restorations([{"original": GRAY[:3]}, {"noisy": GRAY[:3], "ours": GRAY[:3]}]),
    "observed_and_imputed": lambda: plotting.observed_and_imputed(
        {str(column): (GRAY[column, 0], GRAY[column, 1] + 0.1) for column in range(9)}
    ),
    "planes": lambda: plotting.planes(
        {"a": CODES, "b": -CODES}, np.arange(28) % 4, axes={name: ("x", "y") for name in "ab"}
    ),
    "anomaly": lambda: anomaly({"one": [0.9, 0.5]}, [0, 1], {"s": (GRAY[0, 0], GRAY[1, 0] + 1)}, "1"),
}
SLOW = ("many densities", "many levels", "densities", "active_units")


def picture(figure):
    """As a notebook draws it, not through save."""
    file = io.BytesIO()
    figure.savefig(file, dpi=50, metadata={"Software": None})
    return file.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FIGURES])
def test_every_figure(name):
    """Nothing is cut off; drawing again changes nothing; rcParams stay as they are and do not get in."""
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    before = picture(figure)
    width, height = figure.get_size_inches()
    assert 0.5 < width <= 8.5
    assert 0.5 < height <= 8.5
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert min(box.x0, box.y0) > -0.5
        assert box.x1 < figure.bbox.width + 0.5
        assert box.y1 < figure.bbox.height + 0.5
    style = {"font.size": 30, "axes.facecolor": "black", "axes.grid": True, "ytick.labelsize": 40}
    with matplotlib.rc_context(style):
        parameters = dict(matplotlib.rcParams)
        again = FIGURES[name]()
        again.draw_without_rendering()
        assert picture(again) == before
        assert dict(matplotlib.rcParams) == parameters


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    columns=st.integers(1, 6),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    channels=st.sampled_from([None, 1, 3]),
)
def test_every_image_is_in_its_place(count, columns, size, channels):
    images = np.random.default_rng(count).uniform(0, 0.9, (count, *(() if channels is None else (channels,)), *size))
    mosaic = tile(as_images(images, "images"), -(-count // columns), columns)
    height, width = size
    space = gap((count, 1, height, width))
    assert mosaic.shape[:2] == (-(-count // columns) * (height + space) - space, columns * (width + space) - space)
    assert mosaic.shape[2:] == ((3,) if channels == 3 else ())
    rest = mosaic.copy()
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + space), (i % columns) * (width + space)
        here = (slice(top, top + height), slice(left, left + width))
        wanted = image if channels is None else image[0] if channels == 1 else np.moveaxis(image, 0, -1)
        np.testing.assert_array_equal(mosaic[here], wanted)
        rest[here] = 1
    assert (rest == 1).all()  # gaps and free cells are the page


def test_image_grid_draws_the_mosaic_once_in_gray_with_the_origin_above():
    figure = plotting.image_grid(GRAY, columns=4, title="faces")
    (image,) = figure.axes[0].images
    assert (image.get_cmap().name, image.get_clim(), image.origin) == ("gray", (0, 1), "upper")
    np.testing.assert_array_equal(cell(figure, 0, 2), GRAY[2])
    np.testing.assert_array_equal(cell(figure, 1, 0), GRAY[4])
    assert "faces" in texts(figure)
    for how, (rows, columns) in (
        ({}, (3, 4)),
        ({"columns": 5}, (3, 5)),
        ({"rows": 2}, (2, 6)),
        ({"rows": 4, "columns": 4}, (4, 4)),
    ):
        square = plotting.image_grid(np.zeros((12, 28, 28)), **how)
        assert mosaic_of(square).shape == (rows * 29 - 1, columns * 29 - 1)


def test_image_grid_draws_into_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plotting.image_grid(GRAY, ax=right) is figure
    assert (len(left.images), len(right.images)) == (0, 1)
    assert plotting.image_grid(GRAY, ax=figure.subfigures(1, 2)[1].subplots()) is figure


def test_values_just_outside_are_clipped():
    mosaic = mosaic_of(plotting.image_grid([[[-0.2, 0.5], [1.3, 1.0]]]))
    np.testing.assert_array_equal(mosaic, [[0, 0.5], [1, 1]])


def test_a_tensor_is_as_good_as_an_array():
    import torch  # not at the head: the room is used without it

    tensor = plotting.samples(torch.tensor(GRAY)[:, None])
    np.testing.assert_array_equal(mosaic_of(tensor), mosaic_of(plotting.samples(GRAY)))
    with pytest.raises(TypeError, match=r"images \(Tensor\).*detach"):
        plotting.samples(torch.tensor(GRAY, requires_grad=True))


def test_originals_are_above_their_reconstructions():
    figure = plotting.reconstructions(GRAY, GRAY[::-1], count=3)
    for i in range(3):
        np.testing.assert_array_equal(cell(figure, 0, i), GRAY[i])
        np.testing.assert_array_equal(cell(figure, 1, i), GRAY[-1 - i])
    assert mosaic_of(figure).shape == (57, 62)
    ax = figure.axes[0]
    assert ticks(ax, "y") == ["original", "reconstruction"]
    assert list(ax.get_yticks()) == [13.5, 42.5]
    assert figure._repr_png_().startswith(b"\x89PNG")  # it shows itself in a notebook
    assert mosaic_of(plotting.reconstructions(GRAY, GRAY, count=99)).shape == (57, 12 * 21 - 1)


def test_manifold_grid_is_the_inverse_gaussian_cdf_of_the_unit_square():
    a = 0.6744897501960817  # the upper quartile of N(0, 1)
    np.testing.assert_allclose(plotting.manifold_grid(2), [[-a, a], [a, a], [-a, -a], [a, -a]], rtol=1e-14)
    np.testing.assert_array_equal(plotting.manifold_grid(1), [[0, 0]])
    normal = ndtri((np.arange(20) + 0.5) / 20)
    grid = plotting.manifold_grid(20).reshape(20, 20, 2)
    np.testing.assert_allclose(grid[0, :, 0], normal, rtol=1e-12)
    np.testing.assert_allclose(grid[:, 0, 1], normal[::-1], rtol=1e-12)  # the first row is the top
    np.testing.assert_allclose(plotting.manifold_grid(20, [normal, normal]).reshape(20, 20, 2), grid)
    # Of another prior.
    grid = plotting.manifold_grid(3, [[1.0, 2.0, 4.0], [0.1, 0.5, 0.9]]).reshape(3, 3, 2)
    np.testing.assert_array_equal(grid[0], [[1, 0.9], [2, 0.9], [4, 0.9]])
    np.testing.assert_array_equal(grid[:, 0, 1], [0.9, 0.5, 0.1])
    assert "quantile of $z_1$ under p" in texts(plotting.manifold(GRAY[:9], side=3, prior="p"))


def test_each_point_of_the_manifold_is_drawn_at_its_quantiles():
    level = 0.1 + 0.8 * np.arange(16) / 16
    figure = plotting.manifold(np.broadcast_to(level[:, None, None], (16, 28, 20)), side=4)
    (ax,) = figure.axes
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    mosaic = mosaic_of(figure)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (0, 1))
    for (z1, z2), wanted in zip(plotting.manifold_grid(4), level, strict=True):
        u, v = (0.5 * (1 + erf(z / 2**0.5)) for z in (z1, z2))
        column = int((u - left) / (right - left) * mosaic.shape[1])
        row = int((top - v) / (top - bottom) * mosaic.shape[0])
        assert mosaic[row, column] == wanted
    assert "quantile of $z_1$" in ax.get_xlabel()
    assert "$z_2$" in ax.get_ylabel()
    figure.draw_without_rendering()  # a pixel is as wide as it is high
    box = image.get_window_extent()
    np.testing.assert_allclose(box.width / mosaic.shape[1], box.height / mosaic.shape[0], rtol=1e-3)


def lines_of(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_learning_curves_say_units_and_names():
    published = [{"label": "Kingma 2014", "x": [1e4, 2e4], "y": [-110, -105]}, {"label": "Burda 2015", "y": -90}]
    figure = plotting.learning_curves({"ours": history(30), "theirs": history(30, top=-110)}, published=published)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training samples seen", "bound (nats per datum)")
    assert legend_of(figure) == ["ours", "theirs", "train", "valid", "Kingma 2014", "Burda 2015"]
    lines = lines_of(figure)
    train, valid = lines["ours, train"], lines["ours, valid"]
    assert train.get_color() == valid.get_color() != lines["theirs, train"].get_color()
    assert train.is_dashed()
    assert not valid.is_dashed()
    np.testing.assert_allclose(valid.get_xdata(), 1000 * np.arange(1, 31))
    np.testing.assert_allclose(valid.get_ydata(), -103 - 50 / np.arange(1, 31))
    markers = [line for line in ax.lines if line.get_linestyle() == "None"]
    np.testing.assert_array_equal(markers[0].get_xydata(), [[1e4, -110], [2e4, -105]])
    low, high = ax.get_ylim()
    assert low < -110
    assert high > -90
    # A dictionary of arrays is the same history.
    arrays = {key: np.array([row[key] for row in history(30)]) for key in history(1)[0]}
    again = lines_of(plotting.learning_curves({"ours": arrays}))["ours, valid"]
    np.testing.assert_array_equal(again.get_xydata(), valid.get_xydata())


def test_the_legend_hides_no_data():
    figure = plotting.learning_curves({"ours": history(30)})
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())
    many = plotting.learning_curves({f"run {i}": history(3) for i in range(40)})
    many.draw_without_rendering()
    assert many.legends[0].get_window_extent().y0 > 0


def test_x_axes():
    """More than a decade is logarithmic."""
    for epochs, scale in ((10, "linear"), (11, "log")):
        assert plotting.learning_curves({"a": history(epochs)}).axes[0].get_xscale() == scale
    assert plotting.learning_curves({"a": history(5)}, x="epoch").axes[0].get_xlabel() == "epoch"
    seconds = {"seconds": [1, 2], "train": [-3, -2]}
    assert plotting.learning_curves({"a": seconds}, x="seconds").axes[0].get_xlabel() == "seconds"


@pytest.mark.parametrize("gap", [None, np.nan, np.inf])
def test_what_is_not_known_is_left_out_and_drawn_through(gap):
    records = history(6)
    for i in (0, 2, 3):
        records[i]["valid"] = gap
    del records[4]["valid"]
    lines = lines_of(plotting.learning_curves({"a": records}))
    np.testing.assert_array_equal(lines["a, valid"].get_xdata(), [2000, 6000])
    assert len(lines["a, train"].get_xdata()) == 6
    for records in (history(6, valid=False), [row | {"valid": gap} for row in history(6)]):
        figure = plotting.learning_curves({"a": records})
        assert list(lines_of(figure)) == ["a, train"]
        assert legend_of(figure) == ["a", "train"]


def test_awful_first_epochs_do_not_squash_the_picture():
    def curve(train, **options):
        figure = plotting.learning_curves({"a": {"samples": np.arange(1, len(train) + 1), "train": train}}, **options)
        return figure, *figure.axes[0].get_ylim()

    bound = -100 - 5 / np.arange(1, 51)
    assert curve(bound)[1] > -106
    awful = bound.copy()
    awful[:2] = [-1e9, -600]
    figure, low, high = curve(awful)
    assert -105 < low < np.quantile(awful, 0.1)
    assert high > awful.max()
    assert any(t.startswith("2 points below the picture, lowest −1e+09") for t in texts(figure))
    assert curve(awful, published=[{"label": "p", "x": 1, "y": -300}])[1] < -300
    # A picture that holds everything has no note.
    figure, low, _ = curve([-3, -2.5, -2])
    assert low < -3
    assert not any("below the picture" in t for t in texts(figure))
    _, low, high = curve([0, 0])
    assert low < 0 < high


def cloud_of(figure):
    return figure.axes[0].collections[0]


def test_two_dimensions_are_drawn_as_they_are():
    codes = RNG.normal(size=(30, 2)) * [5, 1]
    figure = plotting.latent_scatter(codes)
    (ax,) = figure.axes
    np.testing.assert_array_equal(cloud_of(figure).get_offsets(), codes)
    assert (ax.get_xlabel(), ax.get_ylabel(), legend_of(figure)) == ("$z_1$", "$z_2$", [])
    figure = plotting.latent_scatter(codes, np.arange(30) % 2)
    figure.draw_without_rendering()  # distances are the same along both axes
    (ax,) = figure.axes
    box = ax.get_window_extent()
    np.testing.assert_allclose(box.width / np.ptp(ax.get_xlim()), box.height / np.ptp(ax.get_ylim()), rtol=1e-3)
    assert not ax.get_legend().get_window_extent().overlaps(box)


def test_more_dimensions_become_principal_components():
    codes = RNG.normal(size=(500, 6)) @ RNG.normal(size=(6, 6)) + 3
    figure = plotting.latent_scatter(codes)
    values, vectors = np.linalg.eigh(np.cov(codes.T))
    wanted = (codes - codes.mean(0)) @ vectors[:, [-1, -2]]
    points = np.asarray(cloud_of(figure).get_offsets())
    np.testing.assert_allclose(np.abs(points), np.abs(wanted), rtol=1e-6, atol=1e-8)
    share = values[-1] / values.sum()
    assert figure.axes[0].get_xlabel() == f"principal component 1 of 6 ({share:.0%} of the variance)"
    assert figure.axes[0].get_ylabel().startswith("principal component 2 of 6")
    # the sign of a component does not depend on the codes' order
    again = np.asarray(cloud_of(plotting.latent_scatter(codes[::-1])).get_offsets())[::-1]
    np.testing.assert_allclose(again, points, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.arange(24) % 12, [str(i) for i in range(12)]),
        (np.arange(24) % 3 + 0.0, ["0", "1", "2"]),
        (["cat", "dog"] * 12, ["cat", "dog"]),
        (np.array(["cat", "dog"] * 12, dtype=object), ["cat", "dog"]),
        (np.arange(24) % 2 == 0, ["False", "True"]),
    ],
)
def test_classes_have_colors_and_a_legend(labels, names):
    figure = plotting.latent_scatter(RNG.normal(size=(24, 2)), labels)
    assert legend_of(figure) == names
    colors = cloud_of(figure).get_facecolor()[:, :3]
    index = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    assert len({(tuple(c), i) for c, i in zip(colors, index, strict=True)}) == len(names)
    handle = figure.axes[0].get_legend().legend_handles[0]
    here = np.asarray(labels).astype(type(np.asarray(labels).flat[0])) == np.unique(labels)[0]
    assert np.allclose(colors[here], to_rgba(handle.get_color())[:3])


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 24), np.arange(24), np.arange(24) % 2 + 0.5])
def test_other_numbers_have_a_color_bar(labels):
    figure = plotting.latent_scatter(RNG.normal(size=(24, 2)), labels)
    assert (len(figure.axes), legend_of(figure)) == (2, [])
    np.testing.assert_array_equal(cloud_of(figure).get_array(), labels)


def test_planes_are_scatters_beside_each_other():
    names = {"a": ("x", "y"), "b": ("x", "y")}
    figure = plotting.planes({"a": CODES, "b": -CODES}, np.arange(28) % 4, axes=names)
    np.testing.assert_array_equal(figure.axes[1].collections[0].get_offsets(), -CODES)
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["0", "1", "2", "3"]
    assert figure.axes[0].get_xlabel() == "x"
    assert len(plotting.planes({"a": CODES}, CODES[:, 0], axes=names).axes) == 2  # and a color bar


def test_traversals_are_labeled_by_dimension_and_value():
    figure = plotting.traversals(STRIPS[:, :, None], values=[-1.5, -0.5, 0.5, 1.5])
    (ax,) = figure.axes
    np.testing.assert_array_equal(cell(figure, 1, 2), GRAY[1 * 4 + 2])  # second dimension, third value
    assert ticks(ax, "y") == ["$z_{1}$", "$z_{2}$", "$z_{3}$"]
    assert ticks(ax, "x") == ["−1.5", "−0.5", "0.5", "1.5"]
    np.testing.assert_array_equal(ax.get_xticks(), [9.5, 30.5, 51.5, 72.5])
    assert ax.get_xlabel() == "value of $z_d$"
    (ax,) = plotting.traversals(STRIPS, quantiles=[0.02, 0.1, 0.9, 0.98], dims=[6, 30, 2]).axes
    assert ticks(ax, "y") == ["$z_{7}$", "$z_{31}$", "$z_{3}$"]
    assert ticks(ax, "x") == ["0.02", "0.1", "0.9", "0.98"]
    assert ax.get_xlabel() == "quantile of $z_d$ under the prior"
    many = plotting.traversals(np.zeros((2, 40, 8, 8)), values=np.linspace(-3, 3, 40))
    many.draw_without_rendering()
    boxes = [t.get_window_extent() for t in many.axes[0].get_xticklabels()]
    assert len(boxes) > 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


@pytest.mark.parametrize("channels", [1, 3])
def test_interpolations_stand_between_their_data(channels):
    steps = RNG.uniform(0.05, 0.95, (2, 4, channels, 28, 28))
    starts, ends = RNG.uniform(0.05, 0.95, (2, 2, channels, 28, 28))
    figure = plotting.interpolations(steps, starts, ends)
    mosaic = mosaic_of(figure).reshape(57, -1, channels)
    (ax,) = figure.axes
    places = dict(zip(ticks(ax, "x"), ax.get_xticks(), strict=True))
    assert list(places) == ["start", "0", "0.33", "0.67", "1", "end"]
    for row in range(2):
        images = [starts[row], *steps[row], ends[row]]
        for place, image in zip(places.values(), images, strict=True):
            left = int(place - 13.5)
            found = mosaic[29 * row : 29 * row + 28, left : left + 28]
            np.testing.assert_array_equal(np.moveaxis(found, -1, 0), image)
    assert (mosaic[:, 28:32] == 1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_resampled_images_stand_below_their_datum(channels):
    images = RNG.random((2, 3, 2, channels, 14, 10))  # two rows of latents, three data, two draws
    originals = RNG.random((3, channels, 14, 10))
    figure = plotting.resampled(images, originals, ["none", "$z_2$"], title="t")
    (ax,) = figure.axes
    mosaic = mosaic_of(figure).reshape(*mosaic_of(figure).shape[:2], channels)
    space = 1
    block = 2 * 10 + space + 4 * space

    def at(top, left):
        return mosaic[top : top + 14, left : left + 10].transpose(2, 0, 1)

    for datum in range(3):
        left = datum * block
        np.testing.assert_allclose(at(0, left), originals[datum])
        assert (mosaic[: 14 + 4 * space, left + 10 : left + block] == 1).all()
        for row in range(2):
            for draw in range(2):
                np.testing.assert_allclose(at(14 + 4 * space + row * 15, left + draw * 11), images[row, datum, draw])
    assert ticks(ax, "y") == ["datum", "none", "$z_2$"]
    np.testing.assert_allclose(ax.get_yticks(), [6.5, 24.5, 39.5])
    assert ax.get_title() == "t"


def test_rows_of_other_figures():
    figure = plotting.restorations([{"original": GRAY[:3]}, {"noisy": GRAY[:3], "ours": GRAY[:3]}])
    assert ticks(figure.axes[0], "y") == ["original", "noisy", "ours"]
    figure = plotting.classes_and_styles(STRIPS, GRAY[:2], ANALOGIES, classes="abc")
    assert ticks(figure.axes[0], "y") == ["a", "b", "c"]
    assert ticks(figure.axes[1], "x") == ["datum", "a", "b", "c"]


def test_active_units_are_sorted_counted_and_named():
    figure = plotting.active_units([1e-5, 0.5, 0.01, 2.0, 0.02])
    (ax,) = figure.axes
    bars = ax.patches
    np.testing.assert_array_equal([bar.get_height() for bar in bars], [2.0, 0.5, 0.02, 0.01, 1e-5])
    assert ticks(ax, "x") == ["4", "2", "5", "3", "1"]
    assert len({bar.get_facecolor() for bar in bars[:3]}) == 1
    assert bars[2].get_facecolor() != bars[3].get_facecolor()  # a variance at the threshold is not active
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] < 1e-5
    assert ax.get_title(loc="left") == "3 of 5 units active"
    assert "squared latent units" in ax.get_ylabel()
    assert legend_of(figure) == ["threshold 0.01"]
    assert list(ax.lines[0].get_ydata()) == [0.01, 0.01]
    assert plotting.active_units([0.3, 0.6], threshold=0.5).axes[0].get_title(loc="left") == "1 of 2 units active"


def points_of(ax):
    """(value, estimator's place) of each group, in the order of the legend."""
    return [container.lines[0].get_xydata() for container in ax.containers]


def test_gradients_have_a_place_for_each_estimator_and_a_color_for_each_group():
    figure = plotting.gradients(gradient_rows(), title="a title")
    left, right = figure.axes
    estimators = ["SGVB_A(1)", "SGVB_B(1)", "IWAE(5)"]
    assert legend_of(figure) == ["p(x)", "q(z)", "all"]  # the likelihood is p(x) again
    assert ticks(left, "y") == estimators
    assert left.get_ylim() == (2.5, -0.5)  # the first is above
    assert "nats" in left.get_xlabel()
    assert right.get_xlabel() == "signal-to-noise ratio"
    assert left.get_xscale() == right.get_xscale() == "log"
    assert "a title" in texts(figure)
    for group, size in zip(points_of(left), (1, 0.01, 3), strict=True):
        np.testing.assert_allclose(group[:, 0], [size, 10 * size, 100 * size])
        np.testing.assert_array_equal(np.round(group[:, 1]), [0, 1, 2])
    assert len({container.lines[0].get_color() for container in left.containers}) == 3
    (bars,) = left.containers[0].lines[2]
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:, 1] / ends[:, 0], np.exp(0.4))  # two errors of a tenth on either side
    # Some groups and quantities.
    figure = plotting.gradients(gradient_rows(), groups=["q(z)"], quantities=["bias"])
    (ax,) = figure.axes
    (points,) = points_of(ax)
    np.testing.assert_allclose(points, [[0.01, 2]])  # None and 0 have no point
    assert (legend_of(figure), ticks(ax, "y")) == (["q(z)"], estimators)


def test_lines_have_a_color_for_each_name_and_one_legend():
    figure = plotting.lines(LINE_PANELS, x="K", y="bound (nats)", published=PAPER, log="x", title="a title")
    one, two = figure.axes
    assert legend_of(figure) == ["VAE", "IWAE", "train", "published"]
    assert [ax.get_title() for ax in figure.axes] == ["one", "two"]
    assert one.get_xlabel() == two.get_xlabel() == "K"
    assert (one.get_ylabel(), one.get_xscale(), one.get_yscale()) == ("bound (nats)", "log", "linear")
    (bars,) = one.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[1, -9], [5, -8], [50, -7]])
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], [0.2, 0.4, 0.6])  # one standard error on either side
    train = next(line for line in one.get_lines() if len(line.get_xdata()) == 2)
    assert train.get_linestyle() == "--"
    iwae, vae, paper = two.get_lines()
    assert train.get_color() == bars.lines[0].get_color() == vae.get_color() != iwae.get_color()
    np.testing.assert_allclose(paper.get_xydata(), [[5, -6], [50, -5.5]])
    assert paper.get_linestyle() == "None"
    assert {"1", "5", "50", "a title"} <= set(texts(figure))


def test_densities_lie_as_their_axes_say():
    values = np.zeros((4, 4))
    values[0, 3] = 1.0  # the smallest z_2, the largest z_1
    figure = plotting.densities({"target": values, "fitted": 2 * values, "other": values}, extent=2.0, columns=2)
    axes = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in axes] == ["target", "fitted", "other"]
    assert [ax.get_xlabel() for ax in axes] == ["", "$z_1$", "$z_1$"]
    assert [ax.get_ylabel() for ax in axes] == ["$z_2$", "", "$z_2$"]
    for ax in axes:
        (image,) = ax.images
        assert image.origin == "lower"
        assert tuple(image.get_extent()) == (-2, 2, -2, 2)
        assert image.get_clim() == (0, image.get_array().max())
        assert ax.get_xlim() == ax.get_ylim() == (-2, 2)


def test_levels_show_the_kl_and_the_share_of_units_that_are_used():
    plain = [level_row("z1", 5.0, num_active=8, num_informative=6), level_row("z2", 0.5, num_active=2)]
    figure = plotting.levels({"plain": plain, "ladder": [level_row("z1", 3.0, num_active=4, num_informative=4)]})
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [5.0, 0.5, 3.0]
    assert [bar.get_height() for bar in right.patches] == [0.75, 0.25, 0.5]
    assert {text.get_text() for text in right.texts} == {"6/8", "2/8", "4/8"}
    assert ticks(left, "x") == ["$z_{1}$", "$z_{2}$"]
    assert left.get_ylabel() == "KL (nats per datum)"
    assert right.get_ylabel() == "share: units with KL > 0.01 nats,\nunits with variance > 0.01"
    assert legend_of(figure) == ["plain", "ladder"]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in left.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2])
    codes = plotting.levels({"": [level_row("top", 30.0, perplexity=12.0, num_codes=16)]})
    share = codes.axes[1]
    assert [bar.get_height() for bar in share.patches] == [0.75]
    assert [text.get_text() for text in share.texts] == ["12/16"]
    assert share.get_ylabel() == "share: perplexity / codes"
    assert not codes.legends
    names = [plotting.site_name(name) for name in ("z1", "z_12", "top", "z")]
    assert names == ["$z_{1}$", "$z_{12}$", "top", "z"]


def test_anomalies_have_a_mean_and_histograms():
    auroc = {"one": [0.9, 0.5, 0.7], "two": [0.6, 0.8, 1.0]}
    figure = anomaly(auroc, [0, 1, 5], {"-log p(x)": (GRAY[0, 0], GRAY[1, 0] + 3)}, "5")
    top, below = figure.axes
    assert ticks(top, "x") == ["0", "1", "5", "mean"]
    drawn = {line.get_label(): line.get_ydata() for line in top.lines[:2]}
    np.testing.assert_allclose(drawn["two"], [0.6, 0.8, 1.0, 0.8])
    assert below.get_xlabel() == "\N{MINUS SIGN}log p(x) (nats)"
    assert len(anomaly(auroc, [0, 1, 5], {}, "5").axes) == 1
    assert picture(anomaly(auroc, [0, 1, 5], {"constant": (np.ones(3), np.ones(2))}, "5"))


# Files


def test_saving_makes_the_folder_and_gives_the_same_bytes(tmp_path):
    first, second = tmp_path / "a" / "b" / "one.png", tmp_path / "two.png"
    figure = plotting.learning_curves({"a": history(20)}, title="bounds")
    assert plotting.save(figure, first) == first
    plotting.save(plotting.learning_curves({"a": history(20)}, title="bounds"), str(second))
    picture = first.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert b"Software" not in picture
    assert picture == second.read_bytes()
    assert int.from_bytes(picture[16:20], "big") == round(150 * figure.get_figwidth())  # 150 dots per inch
    assert [p.name for p in first.parent.iterdir()] == ["one.png"]
    old = os.umask(0)
    os.umask(old)
    assert first.stat().st_mode & 0o777 == 0o666 & ~old


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch, step):
    path = tmp_path / "picture.png"
    path.write_bytes(b"the old picture")

    def half(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    def refuse(source, target):
        assert Path(source).parent == tmp_path
        assert Path(source).read_bytes().endswith(b"IEND\xaeB`\x82")  # the whole picture is there before it is named
        raise PermissionError(13, "Permission denied")

    if step == "write_bytes":
        monkeypatch.setattr(Path, "write_bytes", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    expected = OSError if step == "write_bytes" else PermissionError
    with pytest.raises(expected, match=r"cannot write picture\.png to the folder .*; give a path") as caught:
        plotting.save(plotting.samples(GRAY), path)
    assert str(tmp_path) in str(caught.value)
    assert path.read_bytes() == b"the old picture"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 1, 8, 6), (3, 3, 8, 6)])
def test_an_animation_holds_its_frames(tmp_path, shape):
    from PIL import Image

    images = np.linspace(0, 1, 3).reshape(3, *[1] * (len(shape) - 1)) * np.ones(shape)
    path = plotting.animation(images, tmp_path / "new" / "a.gif", fps=4, scale=5)
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]
    film = Image.open(path)
    assert film.size == (30, 40)
    assert film.n_frames == 3
    assert film.info["loop"] == 0
    for i in range(3):
        film.seek(i)
        assert film.info["duration"] == 250
        assert np.abs(np.asarray(film.convert("L")) - 255 * i / 2).max() <= 1
    picture = path.read_bytes()
    assert plotting.animation(images, path, fps=4, scale=5).read_bytes() == picture


def test_an_animation_of_several_pictures_is_whole_or_not_at_all(tmp_path, monkeypatch):
    from PIL import Image

    film = Image.open(plotting.animation(RNG.random((2, 5, 1, 28, 28)), tmp_path / "a.gif"))
    mosaic = mosaic_of(plotting.image_grid(np.zeros((5, 28, 28))))
    assert film.size == (3 * mosaic.shape[1], 3 * mosaic.shape[0])

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    before = (tmp_path / "a.gif").read_bytes()
    with pytest.raises(PermissionError, match=r"cannot write a\.gif"):
        plotting.animation(GRAY, tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


REFUSALS = [
    (lambda: plotting.image_grid(np.zeros((4, 784))), r"\[4, 784\].*reshape"),
    (lambda: plotting.image_grid(np.zeros((4, 2, 8, 8))), r"C = 2 channels; expected 1 \(gray\) or 3"),
    (lambda: plotting.image_grid(np.zeros((4, 8, 8, 3))), r"moveaxis"),
    (lambda: plotting.image_grid(np.zeros((0, 8, 8))), r"empty"),
    (lambda: plotting.image_grid(np.full((2, 8, 8), 255)), r"from 255 to 255; expected \[0, 1\]: divide"),
    (lambda: plotting.image_grid(np.full((2, 8, 8), -1.0)), r"from -1 to -1"),
    (lambda: plotting.image_grid(np.full((2, 8, 8), np.nan)), r"128 of 128 values that are NaN"),
    (lambda: plotting.image_grid(GRAY, rows=2, columns=5), "12 images do not fit into 2 rows x 5 columns = 10"),
    (lambda: plotting.image_grid(GRAY, columns=0), "columns is 0"),
    (lambda: plotting.image_grid(GRAY, rows=2.0), r"rows is 2\.0 \(float\)"),
    (lambda: plotting.samples([[["a"]]]), "images: got values of dtype <U1; expected real numbers"),
    (lambda: plotting.samples([[[0.0], [0.0, 1.0]]]), "cannot be read as an array"),
    (lambda: plotting.reconstructions(GRAY, GRAY[1:]), r"\[12, 1, 28, 20\].*\[11, 1, 28, 20\]"),
    (lambda: plotting.manifold(GRAY, side=3), r"12 images for side=3; expected side \* side = 9"),
    (lambda: plotting.manifold_grid(True), "side is True"),
    (lambda: plotting.manifold_grid(3, [[1, 2], [3, 4]]), r"shape \[2, 2\]; expected .*\[2, 3\]"),
    (lambda: plotting.manifold_grid(1, [[np.inf], [3]]), "quantiles hold 1 of 2"),
    (lambda: plotting.traversals(STRIPS, values=[1, 2]), r"shape \[2\].*each column of the images, \[4\]"),
    (lambda: plotting.traversals(GRAY, values=[1]), r"\[12, 28, 20\]; expected \[D, V, C, H, W\]"),
    (lambda: plotting.traversals(STRIPS), "give values or quantiles, one of the two"),
    (lambda: plotting.traversals(STRIPS, values=[1, 2, 3, 4], quantiles=[0, 0, 1, 1]), "one of the two"),
    (lambda: plotting.traversals(STRIPS, quantiles=[0, 1, 2, 3]), "quantiles go from 0 to 3"),
    (
        lambda: plotting.traversals(STRIPS, values=[1, 2, 3, 4], dims=[6]),
        "dims names 1 latent dimensions, but .* 3 rows",
    ),
    (lambda: plotting.interpolations(GRAY, GRAY, GRAY), r"\[12, 28, 20\]; expected \[P, T, C, H, W\]"),
    (lambda: plotting.interpolations(STRIPS, GRAY[:3], GRAY[:2]), r"ends are .*\[2, 1, 28, 20\]; .*\[3, 1, 28, 20\]"),
    (lambda: plotting.animation(GRAY, "x.png"), r"x\.png.*ends in \.gif"),
    (lambda: plotting.animation(GRAY, "x.gif", fps=0), "fps is 0"),
    (lambda: plotting.animation(GRAY, "x.gif", scale=0), "scale is 0"),
    (lambda: plotting.animation(GRAY[0], "x.gif"), r"\[28, 20\]; expected"),
    (lambda: plotting.densities({}), "nothing to draw"),
    (lambda: plotting.densities({"U": [1.0]}), r"'U': got shape \[1\]; expected \[H, W\]"),
    (lambda: plotting.densities({"U": [[-1.0]]}), "lowest value of the density 'U' is -1"),
    (lambda: plotting.densities({"U": [[1.0]]}, extent=0), "extent is 0"),
    (lambda: plotting.learning_curves([{"samples": 1}]), "curves is a list; expected a dictionary"),
    (lambda: plotting.learning_curves({}), "curves is empty"),
    (lambda: plotting.learning_curves({"a": "history"}), "history of 'a' is a str"),
    (lambda: plotting.learning_curves({"a": {"epoch": [1], "train": [1]}}), r"no 'samples' \(it has epoch, train\)"),
    (lambda: plotting.learning_curves({"a": {"samples": [1], "train": [None]}}), "no finite value"),
    (lambda: plotting.learning_curves({"a": {"samples": [1, 2], "train": [1]}}), "has 1 values and samples has 2"),
    (lambda: plotting.learning_curves({"a": {"samples": 1, "train": 1}}), r"expected \[E\]"),
    (lambda: plotting.learning_curves({"a": history(2)}, published=[{"x": 1}]), "label, x and y"),
    (
        lambda: plotting.learning_curves({"a": history(2)}, published=[{"label": "p", "x": [1, 2], "y": 3}]),
        r"x of shape \[2\] and y of \[1\]",
    ),
    (lambda: plotting.latent_scatter(np.zeros((5, 1))), r"\[5, 1\]; expected \[N, D\]"),
    (lambda: plotting.latent_scatter([1.0]), "shape"),
    (lambda: plotting.latent_scatter(np.full((5, 2), np.nan)), "10 of 10 values"),
    (lambda: plotting.latent_scatter(np.zeros((5, 2)), [1, 2]), r"labels have shape \[2\]; expected one for .*\[5\]"),
    (lambda: plotting.latent_scatter(np.zeros((13, 2)), list("abcdefghijklm")), "13 different words"),
    (lambda: plotting.latent_scatter(np.zeros((2, 2)), [0.5, np.nan]), "labels hold 1 of 2"),
    (lambda: plotting.active_units([[1.0]]), r"\[1, 1\]; expected \[D\]"),
    (lambda: plotting.active_units([-1.0]), "lowest of the variances is -1"),
    (lambda: plotting.active_units([1.0], threshold=0.0), r"threshold is 0\.0"),
    (lambda: plotting.active_units([1.0], threshold=np.nan), "threshold is nan"),
    (lambda: plotting.gradients([]), "rows is empty"),
    (lambda: plotting.gradients([3]), "a row is a int"),
    (lambda: plotting.gradients([{"estimator": "A", "group": "all"}]), "a row has no snr, variance; it has estimator"),
    (lambda: plotting.gradients(gradient_rows(), groups=["q"]), "no row has the group 'q'; there are p"),
    (lambda: plotting.gradients(gradient_rows(), quantities=[]), "quantities are 0; expected 1 to 3"),
    (lambda: plotting.gradients(gradient_rows()[:4], quantities=["bias"]), "no bias is finite and above 0"),
    (lambda: lines({}), "there is nothing to draw"),
    (lambda: lines({"one": {}}), "there is nothing to draw"),
    (lambda: lines({"": {"a": ([1, 2], [1])}}), "'a' has 2 and 1 numbers; expected as many of each"),
    (lambda: lines({"": {"a": ([], [])}}), "'a' has 0 and 0 numbers"),
    (lambda: lines({"": {"a": ([1],)}}), r"'a' has 1 parts; expected \(x, y\) or \(x, y, error\)"),
    (lambda: lines({"": {"a": ([1], [np.nan])}}), "y of 'a'"),
    (lambda: lines({"": {"a": ([1], [1])}}, {"other": {}}), "published names the panel 'other'; the panels are ''"),
    (lambda: plotting.levels({}), "nothing to draw"),
    (lambda: plotting.levels({"a": []}), "nothing to draw"),
    (lambda: plotting.levels({"a": [3]}), "a latent of 'a' is a int"),
    (lambda: plotting.levels({"a": [{"site": "z1"}]}), "no num_units, rate; it has site"),
    (lambda: plotting.levels({"a": [level_row("z1", float("nan"))]}), "rate of 'z1' hold 1 of 1"),
    (lambda: plotting.levels({"a": [level_row("z1", [1.0])]}), r"rate of 'z1': got shape \[1\]"),
    (lambda: plotting.resampled(STRIPS, GRAY[:2], ["a", "b", "c"]), r"\[3, 4, 28, 20\]; expected \[R, P, S"),
    (lambda: plotting.resampled(BLOCKS, GRAY[:1], ["a", "b", "c"]), r"originals are .*expected one for each block"),
    (lambda: plotting.resampled(BLOCKS, GRAY[:2], ["a"]), "rows names 1 rows, but images have 3"),
    (lambda: plotting.restorations([]), "there are no rows"),
    (lambda: plotting.observed_and_imputed({}), "nothing to draw"),
    (lambda: plotting.observed_and_imputed({"a": ([], [1.0])}), "0 observed and 1 imputed"),
    (lambda: plotting.restorations([{"a": GRAY, "b": GRAY[:2]}]), "of one shape"),
    (lambda: planes({}), "nothing to draw"),
    (lambda: planes({"a": CODES, "b": CODES[1:]}), "the same N"),
    (lambda: planes({"a": CODES[:, :1]}), r"expected \[N, 2\]"),
    (lambda: planes({"c": CODES}), "'c' needs names"),
    (lambda: planes({"a": CODES * np.inf}), "NaN or infinite"),
    (lambda: anomaly({}, [0], {}, "0"), "nothing to draw"),
    (lambda: anomaly({"one": [0.5]}, [0, 1], {}, "0"), "expected one for each of 2 classes"),
    (lambda: anomaly({"one": [1.5]}, [0], {}, "0"), r"expected \[0, 1\]"),
    (lambda: anomaly({"one": [0.5]}, [0], {"s": ([], [1.0])}, "0"), "0 normal and 1 anomalous"),
    (lambda: anomaly({"one": [0.5]}, [0], {"s": ([np.nan], [1.0])}, "0"), "NaN"),
    (lambda: plotting.classes_and_styles(STRIPS, GRAY[:2], ANALOGIES, classes="ab"), "expected K = "),
    (lambda: plotting.classes_and_styles(STRIPS, GRAY[:1], ANALOGIES, classes="abc"), "expected K = "),
    (lambda: plotting.classes_and_styles(STRIPS, GRAY[:2], ANALOGIES[:, :2], classes="abc"), "expected K = "),
    (lambda: plotting.classes_and_styles(STRIPS[..., :4], GRAY[:2], ANALOGIES, classes="abc"), "expected K = "),
    (lambda: plotting.classes_and_styles(STRIPS[0], GRAY[:2], ANALOGIES, classes="abc"), r"expected \[K, S, C, H, W\]"),
    (lambda: plotting.save("figure", "x.png"), "figure is a str"),
    (lambda: plotting.save(plotting.samples(GRAY), "x.pdf"), r"x\.pdf.*ends in \.png"),
]


def lines(panels, published=None):
    return plotting.lines(panels, x="x", y="y", published=published)


def planes(panels):
    return plotting.planes(panels, axes={"a": ("x", "y"), "b": ("x", "y")})


@pytest.mark.parametrize(("draw", "match"), REFUSALS)
def test_what_is_refused(draw, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(matplotlib.rcParams)
    with pytest.raises((TypeError, ValueError), match=match):
        draw()
    assert dict(matplotlib.rcParams) == before
    assert not list(tmp_path.iterdir())


def test_the_room_stands_alone_and_changes_nothing(tmp_path):
    program = f"""
import sys, types
import matplotlib
before = dict(matplotlib.rcParams.copy())
parent = sys.modules["pyro_vae"] = types.ModuleType("pyro_vae")
parent.__path__ = [{str(Path(plotting.__file__).parents[1])!r}]
from pyro_vae import plotting
foreign = {{"torch", "pyro", "scipy", "matplotlib.pyplot"}}
assert not foreign & set(sys.modules), foreign & set(sys.modules)
plotting.save(plotting.samples([[[0.0, 1.0]]]), {str(tmp_path / "x.png")!r})
assert "matplotlib.pyplot" not in sys.modules
assert dict(matplotlib.rcParams.copy()) == before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mosaics_apart():
    first, second = np.zeros((2, 3)), np.full((2, 1), 0.5)
    np.testing.assert_array_equal(apart([first, second], 2, axis=1), [[0, 0, 0, 1, 1, 0.5]] * 2)
    assert apart([np.zeros((2, 3, 3)), np.zeros((4, 3, 3))], 1, axis=0).shape == (7, 3, 3)
    np.testing.assert_array_equal(apart([first], 5, axis=0), first)


def test_grids_of_images():
    images = RNG.random((2, 3, 4, 5))
    np.testing.assert_array_equal(as_grid(images, "images", "R, S"), images[:, :, None])
    np.testing.assert_array_equal(as_grid(images[:, :, None], "images", "R, S"), images[:, :, None])
    np.testing.assert_array_equal(tile(as_grid(images, "images", "R, S"), 2, 3), tile(images.reshape(6, 1, 4, 5), 2, 3))
    with pytest.raises(
        ValueError, match=r"expected \[R, S, C, H, W\] or \[R, S, H, W\], row by draw, none of them empty"
    ):
        as_grid(images[0], "images", "R, S", "row by draw")
    with pytest.raises(ValueError, match=r"images, one after the other, have values from"):
        as_grid(3 + images, "images", "R, S")
