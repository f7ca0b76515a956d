r"""Dimensionality reduction: the codes E[z | x] of a pair, beside principal components.

Distances in the plain Euclidean space of each are compared. A VAE scales its units by itself: an active unit has a
variance near that of the prior, whichever part of the data's variance it stands for, and a unit that is not active
stays at the prior's mean and adds nothing. So the codes of a linear VAE are *whitened* principal components,
:math:`\mathrm{E}[z_d \mid x] = \sqrt{1 - s^2 / \lambda_d} \; u_d^\top (x - b) / \sqrt{\lambda_d}`, and both forms of
PCA, plain and whitened, stand in the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn import manifold
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from tqdm import tqdm

from pyro_vae._checks import checked, shown, whole
from pyro_vae.applications import report
from pyro_vae.batches import rows
from pyro_vae.data import Data, Mixed, Split, Stream, as_data
from pyro_vae.diagnostics import encode
from pyro_vae.diagnostics.latents import chunks, local_latents
from pyro_vae.pair.turns import fork_rng
from pyro_vae.plotting import planes

_CHUNK = 1000
_ACTIVE = 0.01  # Burda et al. (2015)
_DRAWN = 5000


@dataclass(frozen=True)
class Quality:
    """What a representation keeps of the data.

    Attributes:
        dimensions: numbers for each datum.
        accuracy: of the k-nearest-neighbor classifier on the held data; ``None`` without labels.
        accuracy_error: its standard error.
        trustworthiness: see :func:`trustworthiness`.
        continuity: see :func:`continuity`.
    """

    dimensions: int
    accuracy: float | None
    accuracy_error: float | None
    trustworthiness: float
    continuity: float


@dataclass(frozen=True)
class Reduction:
    """What :func:`reduce` measured.

    Attributes:
        site: the latent.
        num_active: units of it with Var_x(E[z_d | x]) > 0.01 over the training data.
        num_neighbors: k.
        num_train: training data, to which PCA and classifier are fitted.
        num_held: held data that are classified.
        num_ranked: of these the data among which neighbors are ranked, for trustworthiness and continuity.
        representations: by name; the data themselves are "x".
    """

    site: str
    num_active: int
    num_neighbors: int
    num_train: int
    num_held: int
    num_ranked: int
    representations: dict[str, Quality]


def reduce(
    pair: Any,
    data: Data,
    *,
    site: str | None = None,
    num_neighbors: int = 5,
    num_data: int = 10_000,
    num_ranked: int = 2000,
    accuracy: bool | None = None,
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Reduction:
    """Codes of a pair beside principal components: nearest neighbors in them, and where the classes lie.

    Measured on the test set (the validation set where there is none): the accuracy of a k-nearest-neighbor classifier
    fitted to the training set, trustworthiness and continuity; for E[z | x], for PCA of as many dimensions and of as
    many as z has active units, plain and whitened, and for the data themselves. All see the same x, binarized if the
    data are. Without labels, or labels that are no classes, there is no accuracy.

    Args:
        pair: the fitted pair
        data: its data
        site: which latent; without it the only one
        num_neighbors: k, for all three
        num_data: training data, and as many held data, drawn at random
        num_ranked: held data whose neighbors are ranked; the cost is quadratic in it
        accuracy: false leaves it out, true insists on labels
        out: folder of the numbers (reduce.json) and the figure (reduce.png)
        seed: of the choice of data, and of codes that are drawn, where E[z | x] is not known
        progress: show a progress bar

    Raises:
        ValueError: if an argument is out of its range, there is nothing but a training set, too few data for k
            neighbors, no such latent (or several and no choice), accuracy without labels, or codes that are not finite.

    Source: Kingma & Welling (2019), section 1.7.1; trustworthiness and continuity: Venna & Kaski (2001).
    """
    whole(num_neighbors=num_neighbors, num_data=num_data, num_ranked=num_ranked)
    whole(0, seed=seed)
    data = as_data(data)
    source = data.test or data.valid
    if source is None:
        raise ValueError(
            f"{data.name!r} has only a training set, and nearest neighbors are judged on held data. Give data with a "
            "test or a validation set."
        )
    (batch, labels), (held_batch, held_labels) = (_some(split, num_data, seed) for split in (data.train, source))
    if accuracy and (labels is None or held_labels is None):
        raise ValueError(
            f"accuracy needs a class, a whole number, of each datum, and {data.name!r} has none. Leave accuracy out "
            "for trustworthiness and continuity alone, or give labels."
        )
    x, held_x = _rows(batch[0]), _rows(held_batch[0])
    ranked = min(num_ranked, len(held_x))
    _check_neighbors(num_neighbors, ranked, len(x))

    with fork_rng():  # the programs run, and codes without a known mean are drawn
        torch.manual_seed(seed)
        site = _chosen(pair, site, batch)
        codes, held_codes = (_codes(pair, tensors, site) for tensors in (batch, held_batch))
    num_active = int((codes.var(0) > _ACTIVE).sum())
    found = {"x": (x, held_x), f"E[{site} | x]": (codes, held_codes)}
    found |= _principal(x, held_x, (codes.shape[1], num_active), seed)

    representations = {}
    for name, (fitted, tested) in tqdm(found.items(), desc="representations", disable=not progress):
        share = error = None
        if labels is not None and held_labels is not None and accuracy is not False:
            share = neighbor_accuracy(fitted, labels, tested, held_labels, num_neighbors)
            error = (share * (1 - share) / len(tested)) ** 0.5
        first, original = tested[:ranked], held_x[:ranked]
        representations[name] = Quality(
            tested.shape[1],
            share,
            error,
            trustworthiness(original, first, num_neighbors),
            continuity(original, first, num_neighbors),
        )
    result = Reduction(site, num_active, num_neighbors, len(x), len(held_x), ranked, representations)
    print(_told(result))
    if out is not None:
        figure = _figure(site, (codes, held_codes), (x, held_x), held_labels)
        report.write(Path(out), "reduce", asdict(result), {"reduce": figure})
    return result


@checked
def neighbor_accuracy(
    codes: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    held_codes: np.ndarray | Tensor,
    held_labels: np.ndarray | Tensor,
    num_neighbors: int = 5,
) -> float:
    """The share of held data whose label is that of most of their nearest neighbors among the fitted data.

    Args:
        codes: ``[N, D]``.
        labels: ``[N]``, classes.
        held_codes: ``[M, D]``.
        held_labels: ``[M]``.
        num_neighbors: k; among equally frequent labels the smallest counts.

    >>> import torch
    >>> from pyro_vae.applications.reduction import neighbor_accuracy
    >>> codes, labels = torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([0, 0, 1, 1])
    >>> neighbor_accuracy(codes, labels, codes + 0.01, labels, num_neighbors=2)
    1.0
    """
    fitted, held = (_rows(codes), _array(labels)), (_rows(held_codes), _array(held_labels))
    for points, classes in (fitted, held):
        if classes.shape != points.shape[:1] or points.shape[1] != fitted[0].shape[1]:
            raise ValueError(
                f"codes are [N, D], and labels a class for each of them, [N]; got the shapes {list(points.shape)} and "
                f"{list(classes.shape)}."
            )
    if not 1 <= num_neighbors <= len(fitted[0]):
        raise ValueError(f"num_neighbors has to be from 1 to {len(fitted[0])}, the fitted data; got {num_neighbors}.")
    classifier = KNeighborsClassifier(num_neighbors).fit(*fitted)
    return float((classifier.predict(held[0]) == held[1]).mean())


@checked
def trustworthiness(x: np.ndarray | Tensor, codes: np.ndarray | Tensor, num_neighbors: int = 5) -> float:
    r"""How far neighbors among codes are neighbors among the data,

    .. math:: 1 - \frac{2}{N k (2 N - 3 k - 1)} \sum_i \sum_{j \in U_k(i)} (r(i, j) - k)

    with :math:`U_k(i)` the data among the k nearest neighbors of i in the codes that are not among those in x, and
    r(i, j) the rank of j as a neighbor of i in x, 1 the nearest. It is 1 if no neighbor among the codes is a stranger
    in the data, and about 1/2 for random codes.

    Args:
        x: ``[N, *event]``.
        codes: ``[N, D]``.
        num_neighbors: k, below N / 2.

    Raises:
        ValueError: if k is not from 1 to below N / 2.

    Source: Venna & Kaski (2001), equation 2.

    >>> import torch
    >>> from pyro_vae.applications.reduction import trustworthiness
    >>> x = torch.arange(20.0).square()[:, None]
    >>> trustworthiness(x, 2 * x + 1, num_neighbors=3)
    1.0
    """
    first, second = _rows(x), _rows(codes)
    if len(first) != len(second):
        raise ValueError(f"x and codes are rows of the same data; got {len(first)} and {len(second)} of them.")
    _check_neighbors(num_neighbors, len(first))
    return float(manifold.trustworthiness(first, second, n_neighbors=num_neighbors))


@checked
def continuity(x: np.ndarray | Tensor, codes: np.ndarray | Tensor, num_neighbors: int = 5) -> float:
    """How far neighbors among the data stay neighbors among the codes: :func:`trustworthiness` with their parts
    exchanged.

    Source: Venna & Kaski (2001), equation 3.

    >>> import torch
    >>> from pyro_vae.applications.reduction import continuity
    >>> x = torch.arange(20.0).square()[:, None]
    >>> continuity(x, 2 * x + 1, num_neighbors=3)
    1.0
    """
    return trustworthiness(codes, x, num_neighbors)


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    """``[N, ...]``, finite numbers, or words."""
    if isinstance(values, Tensor):
        values = (values.float() if values.dtype == torch.bfloat16 else values).detach().cpu().numpy()
    array = np.asarray(values)
    finite = array.dtype.kind in "biuU" or (array.dtype.kind == "f" and np.isfinite(array).all())
    if not (array.ndim and array.size and finite):
        raise ValueError(f"data, codes and labels are arrays of finite numbers, one row each; got {shown(values)}.")
    return array


def _rows(values: np.ndarray | Tensor) -> np.ndarray:
    """``[N, *event]`` as ``[N, D]``."""
    array = _array(values)
    return array.reshape(len(array), -1)


def _some(split: Split | Stream | Mixed, count: int, seed: int) -> tuple[tuple[Tensor, ...], np.ndarray | None]:
    """So many data at random, of a stream the first, and their labels, if these are classes."""
    whole(num_data=count)
    held = split if isinstance(split, Split) else split.take(count)
    rows = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))[:count]
    return held.batch(rows), None if held.classes is None else _array(held.classes)[rows]


def _check_neighbors(num_neighbors: int, ranked: int, fitted: float = math.inf) -> None:
    most = min((ranked - 1) // 2, fitted)
    if not 1 <= num_neighbors <= most:
        raise ValueError(
            f"num_neighbors has to be from 1 to {most}, below half of the {ranked} data whose neighbors are ranked; "
            f"got {num_neighbors}. Ask for fewer neighbors, or give more data."
        )


def _chosen(pair: Any, site: str | None, batch: Sequence[Tensor]) -> str:
    """The latent that is asked for, or the only one that each datum has."""
    two = rows(batch, slice(2))
    local = local_latents(pair, *two)
    names = [name for name in encode(pair, *two) if name in local]
    if site is None and len(names) == 1:
        return names[0]
    if site is None or site not in names:
        asked = "none was chosen" if site is None else f"{site!r} was asked for"
        raise ValueError(f"the latents of the data are {', '.join(names) or 'none'}, and {asked}. Choose one by site.")
    return site


def _codes(pair: Any, batch: Sequence[Tensor], site: str) -> np.ndarray:
    """``[N, D]``: E[z | x] of a latent."""
    parts = chunks(*batch, size=_CHUNK)
    codes = torch.cat([encode(pair, *chunk)[site].float().cpu() for chunk in parts])
    if not codes.isfinite().all():
        raise ValueError(f"E[{site} | x] is NaN or infinite for some data: the pair is not fitted, or has diverged.")
    return _rows(codes)


def _principal(
    x: np.ndarray, held_x: np.ndarray, dims: Sequence[int], seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Principal components of x, and those of the held data along the same axes, plain and whitened, for each size."""
    pca = PCA(min(max(dims), *x.shape), random_state=seed).fit(x.astype(np.float64))
    scores, held_scores = pca.transform(x), pca.transform(held_x)
    scale = np.sqrt(pca.explained_variance_)
    rank = int((scale > 1e-5 * scale[0]).sum())  # the rest is rounding, which whitening would blow up
    found = {}
    for dim in dict.fromkeys(min(dim, rank) for dim in dims):
        if dim > 0:
            first, held = scores[:, :dim], held_scores[:, :dim]
            found[f"PCA, {dim} dimensions"] = first, held
            found[f"PCA, {dim} dimensions, whitened"] = first / scale[:dim], held / scale[:dim]
    return found


def _told(result: Reduction) -> str:
    header = ["representation", "dimensions", "accuracy", "trustworthiness", "continuity"]
    rows: list[list[Any]] = []
    for name, quality in result.representations.items():
        share, error = quality.accuracy, quality.accuracy_error
        known = None if share is None else f"{share:.4f} ({error:.4f})"
        rows.append([name, quality.dimensions, known, f"{quality.trustworthiness:.4f}", f"{quality.continuity:.4f}"])
    labeled = result.representations["x"].accuracy is not None
    if not labeled:
        for row in (header, *rows):
            del row[2]
    k, units = result.num_neighbors, "unit is" if result.num_active == 1 else "units are"
    lines = [
        report.table(header, rows),
        f"{k} nearest neighbors; trustworthiness and continuity among {result.num_ranked:,} held data.",
        f"accuracy (and its standard error) of {result.num_held:,} held data by {result.num_train:,} training data."
        if labeled
        else "No accuracy: no labels were used.",
        f"{result.num_active} {units} active in {result.site}.",
    ]
    return "\n".join(lines)


def _figure(
    site: str,
    codes: tuple[np.ndarray, np.ndarray],
    x: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray | None,
) -> Figure:
    """The held codes along the principal axes of the codes, or as they are where they are two numbers, beside the held
    data along those of the data."""
    panels, axes = {}, {}
    size = codes[0].shape[1]
    titles = f"E[{site} | x], {size} dimension{'s' * (size != 1)}", "PCA of the data"
    for title, (fitted, held) in zip(titles, (codes, x), strict=True):
        held = held[:_DRAWN]
        if fitted is codes[0] and size == 2:
            panels[title], axes[title] = held, ("first unit", "second unit")
            continue
        pca = PCA(min(2, *fitted.shape), svd_solver="full").fit(fitted)
        panels[title] = np.zeros((len(held), 2))
        panels[title][:, : pca.n_components_] = pca.transform(held)
        shares = [*np.nan_to_num(pca.explained_variance_ratio_), 0.0]
        first, second = (f"principal component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1))
        axes[title] = first, second
    return planes(panels, None if labels is None else labels[:_DRAWN], axes=axes)
