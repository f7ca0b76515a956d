"""Anomaly detection: what a pair makes of a class that it was not trained on.

A score is a function of a pair and of data ``x: [N, *event]``; it is ``[N]``, and the higher, the stranger.
"""

from __future__ import annotations

import functools
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import evidence
from pyro_vae._checks import checked, number, whole
from pyro_vae.applications import report
from pyro_vae.compiled import Compile
from pyro_vae.data import Data, Split, load
from pyro_vae.estimators import SGVB_A
from pyro_vae.models import MLPVAE
from pyro_vae.pair import as_pair, device_of, evaluating
from pyro_vae.pair.turns import fork_rng
from pyro_vae.plotting.anomaly import held_out_classes
from pyro_vae.training import Cosine, fit

METHODS = ("-ELBO", "-log p(x)", "likelihood ratio", "corrected for complexity", "PCA", "isolation forest")


@checked
def minus_elbo(pair: Any, x: Tensor, num_samples: int = 16, *, seed: int = 0, chunk: int = 16384) -> Tensor:
    r"""Minus the evidence lower bound by L draws, ``[N]`` in nats for ``x: [N, *event]``.

    .. math:: -\frac 1 L \sum_l [\log p(x, z_l) - \log q(z_l \mid x)], \quad z_l \sim q(z \mid x)

    Args:
        pair: the pair.
        x: the data.
        num_samples: L.
        seed: of the draws; the caller's random state is left as it was.
        chunk: draws held in memory at once.

    Source: An & Cho (2015), whose reconstruction probability is its first part.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.applications.anomaly import minus_elbo
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> minus_elbo(pair, x, num_samples=4).shape
    torch.Size([3])
    """
    whole(chunk=chunk)
    if not x.numel() or not x.dim():
        raise ValueError(f"x is data, [N, *event], N at least 1; got the shape {list(x.shape)}.")
    module, estimator = as_pair(pair), SGVB_A(num_samples)
    device = device_of(module)
    with evaluating(module), torch.no_grad(), fork_rng():
        torch.manual_seed(seed)
        parts = [estimator.bound(module, part.to(device)).cpu() for part in x.split(max(1, chunk // num_samples))]
    return -torch.cat(parts)


@checked
def minus_log_evidence(pair: Any, x: Tensor, num_samples: int = 50, **options: Any) -> Tensor:
    r"""Minus log p(x) by importance sampling, ``[N]`` in nats for ``x: [N, *event]``.

    The arguments are those of :func:`pyro_vae.evidence.importance`.

    Source: Bishop (1994), novelty detection by the density of the inputs.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.applications.anomaly import minus_log_evidence
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> minus_log_evidence(pair, x, num_samples=8).shape
    torch.Size([3])
    """
    return -evidence.importance(pair, x, num_samples, **options).log_prob


@checked
def likelihood_ratio(pair: Any, background: Any, x: Tensor, num_samples: int = 50, **options: Any) -> Tensor:
    r"""How much better a background model explains x, ``[N]`` in nats for ``x: [N, *event]``.

    .. math:: \log p_\text{background}(x) - \log p(x)

    log p(x) is high for whatever is simple, such as an image with few strokes, whether it was in the training data or
    not. A pair trained on data with noise (:func:`perturbed`) knows as much of what is simple, and less of the data;
    the difference leaves what is particular to the data.

    Args:
        pair: the pair.
        background: a pair of the same x, trained on perturbed data.
        x: the data.
        num_samples: importance samples for each datum and pair.
        options: see :func:`pyro_vae.evidence.importance`.

    Source: Ren, Liu, Fertig, Snoek, Poplin, DePristo, Dillon & Lakshminarayanan (2019), eq. 4.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.applications.anomaly import likelihood_ratio
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> likelihood_ratio(pair, pair, x, num_samples=8)  # one pair as both
    tensor([0., 0., 0.])
    """
    strange = minus_log_evidence(pair, x, num_samples, **options)
    return strange - minus_log_evidence(background, x, num_samples, **options)


@checked
def complexity_corrected(pair: Any, x: Tensor, num_samples: int = 50, **options: Any) -> Tensor:
    r"""How much longer the code of x is under the pair than under a general compressor, ``[N]`` in nats.

    .. math:: -\log p(x) - L(x)

    with L(x) of :func:`compressed`: a likelihood ratio whose background model is the compressor. It takes from the
    score what an image costs for being complex, and so finds data that are simple and strange; data that are complex
    and strange it scores lower than -log p(x) does. A general compressor is a poor model of a few hundred pixels: of
    small images L(x) is several times -log p(x) and varies more, so that the score is mostly -L(x).

    The arguments are those of :func:`pyro_vae.evidence.importance`; x are images ``[N, *event]``, pixels in [0, 1].

    Source: Serra, Alvarez, Gomez, Slizovskaia, Nunez & Luque (2020), eq. 1.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.applications.anomaly import complexity_corrected
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> complexity_corrected(pair, x, num_samples=8).shape
    torch.Size([3])
    """
    return minus_log_evidence(pair, x, num_samples, **options) - compressed(x)


@checked
def compressed(x: Tensor) -> Tensor:
    """The length of each image ``[N, *event]`` compressed by zlib, in nats: 8 log 2 for each byte, ``[N]``.

    Pixels, in [0, 1], are 256 gray levels, a byte each.

    Raises:
        ValueError: if a pixel is outside of [0, 1].

    >>> import torch
    >>> from pyro_vae.applications.anomaly import compressed
    >>> plain, noise = compressed(torch.stack([torch.zeros(28, 28), torch.rand(28, 28)]))
    >>> plain < noise
    tensor(True)
    """
    if x.dim() < 2 or not x.numel():
        raise ValueError(f"images to be compressed are [N, *event]; got the shape {list(x.shape)}.")
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"pixels to be compressed lie in [0, 1]; got values from {x.min():.3g} to {x.max():.3g}.")
    levels = (255 * x).round().to(torch.uint8).flatten(1).cpu().numpy()
    return torch.tensor([8 * math.log(2) * len(zlib.compress(row.tobytes(), 9)) for row in levels])


@checked
def auroc(normal: Tensor, anomalous: Tensor) -> float:
    """The area under the receiver operating characteristic: P(anomalous score > normal score), ties counting half.

    Args:
        normal: scores ``[N]``.
        anomalous: scores ``[M]``, higher ones being stranger.

    >>> import torch
    >>> from pyro_vae.applications.anomaly import auroc
    >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    0.875
    """
    from sklearn.metrics import roc_auc_score

    for scores in (normal, anomalous):
        if scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
            raise ValueError(f"scores are a finite number for each datum, [N]; got shape {list(scores.shape)}.")
    scores = torch.cat([normal, anomalous]).double()
    return float(roc_auc_score(torch.arange(len(scores)) >= len(normal), scores))


@checked(but=("rate",))
def perturbed(split: Split, rate: float) -> Split:
    """Binary images of which each pixel is replaced by a fair coin with probability ``rate``, drawn anew each epoch.

    A pixel g that is 1 with probability g becomes one that is 1 with probability (1 - rate) g + rate / 2.

    Raises:
        ValueError: if ``rate`` is outside of (0, 1], or the split is not binarized dynamically.

    Source: Ren et al. (2019), section 3.2, whose pixels are replaced uniformly.
    """
    number(most=1, above=0, rate=rate)
    if split.binarization != "dynamic":
        raise ValueError(
            f"{split.name!r} has binarization {split.binarization!r}; pixels are perturbed by their draws, so load the "
            'data with binarization="dynamic".'
        )
    x, *others = (1 - rate) * split.gray() + rate / 2, *split.tensors[1:]
    name = f"{split.name}, perturbed"
    return Split(x, *others, labels=split.labels, binarization="dynamic", seed=split.seed, name=name)


@checked
def classes(split: Split) -> list[int]:
    """The classes of a labeled split, in their order.

    Raises:
        ValueError: if there are no labels, they are no whole numbers ``[N]``, or all are the same.
    """
    if split.classes is None:
        raise ValueError(
            f"{split.name!r} has no labels, so that no class can be held out: expected one whole number for each "
            "datum. Give a named set such as mnist, an .npz file with labels y, or a folder with a subfolder for each "
            "class."
        )
    found = split.classes.unique().tolist()
    if len(found) < 2:
        raise ValueError(f"all data of {split.name!r} have the label {found[0]}: with it held out none are left.")
    return found


@checked
def without(split: Split, held_out: int) -> Split:
    """The data of all classes but one.

    Raises:
        ValueError: if there is no such class, or no labels.
    """
    found, labels = classes(split), split.labels
    assert labels is not None
    if held_out not in found:
        raise ValueError(
            f"held_out is {held_out}, and {split.name!r} has no such class; its classes are "
            f"{', '.join(map(str, found))}."
        )
    return split.at((labels != held_out).nonzero()[:, 0], name=f"{split.name} without {held_out}")


@dataclass(frozen=True)
class Anomaly:
    """AUROC by method and held-out class.

    Attributes:
        data: name of the data.
        classes: the classes that were held out, one after another.
        auroc: method -> one number for each of ``classes``.
        seconds: for all of it.
    """

    data: str
    classes: list[int]
    auroc: dict[str, list[float]]
    seconds: float

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the classes, by method."""
        return {name: sum(values) / len(values) for name, values in self.auroc.items()}

    def __str__(self) -> str:
        columns = list(self.auroc.values())
        rows = [(str(held_out), *(f"{column[i]:.3f}" for column in columns)) for i, held_out in enumerate(self.classes)]
        rows.append(("mean", *(f"{value:.3f}" for value in self.mean.values())))
        return report.table(("held out", *self.auroc), rows)


def anomaly(
    data: str = "mnist",
    held_out: int | None = None,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    latent_dim: int = 20,
    hidden: Sequence[int] = (400,),
    epochs: int = 8,
    batch_size: int = 128,
    num_samples: int = 50,
    rate: float = 0.2,
    compile: Compile = "traced",
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Anomaly:
    """Finds a class that was held out of training, beside PCA and an isolation forest.

    For each class an MLPVAE is trained on the binarized training images of all the others, and one more on the same
    images with noise, for the likelihood ratio. The test images, of all classes, are then scored; a score is judged by
    the AUROC of telling the held-out class from the others. Beside them stand two scores of the gray images: the error
    of reconstruction by as many principal components as the latent has dimensions, and an isolation forest.

    Args:
        data: name of a labeled data set, or a file or folder of your own; images with pixels in [0, 1]
        held_out: the class that is anomalous; without it each class in turn
        num_train: only the first so many training images (before a class is held out)
        num_test: only the first so many test images
        latent_dim: size of z, and number of principal components
        hidden: widths of the encoder's hidden layers, the decoder's in reverse
        epochs: passes over the training images
        batch_size: images in a mini-batch
        num_samples: importance samples for each image
        rate: probability of a pixel to be replaced by a fair coin, for the background model of the likelihood ratio
        compile: how the pairs are run
        out: folder for anomaly.json and anomaly.png
        seed: of weights, noise, order, and the forest
        progress: show progress bars

    Raises:
        ValueError: if an argument is out of its range, or the data have no labels, no test set, or no such class.
    """
    few = {name: size for name, size in (("num_train", num_train), ("num_test", num_test)) if size is not None}
    whole(**few, latent_dim=latent_dim, epochs=epochs, batch_size=batch_size, num_samples=num_samples)
    whole(0, seed=seed)
    number(0, 1, above=0, rate=rate)
    started = time.perf_counter()
    loaded = load(data, binarization="dynamic")
    train, test = loaded.train, loaded.test
    assert isinstance(train, Split)
    if not isinstance(test, Split):
        raise ValueError(f"{loaded.name} has no test set, and a score is measured there. Load data with a test_size.")
    train = train if num_train is None else train.take(num_train)
    test = test if num_test is None else test.take(num_test)
    chosen = classes(train) if held_out is None else [held_out]
    for label in chosen:  # before the first training
        without(train, label)
        without(test, label)
    settings: dict[str, Any] = {
        "latent_dim": latent_dim,
        "hidden": list(hidden),
        "epochs": epochs,
        "batch_size": batch_size,
        "num_samples": num_samples,
        "rate": rate,
        "seed": seed,
    }
    options: dict[str, Any] = {"compile": compile, "progress": progress}
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    shown: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
    for label in chosen:
        assert test.labels is not None
        strange = test.labels == label
        shown[label] = {}
        for name, scores in _scores(without(train, label), test, settings, options).items():
            sides = scores[~strange], scores[strange]
            found[name].append(auroc(*sides))
            if name in METHODS[1:3]:
                shown[label][name] = sides
    result = Anomaly(loaded.name, chosen, found, time.perf_counter() - started)
    print(f"AUROC on {len(test):,} test images of {loaded.name}, by the class that was held out\n{result}")
    if out is not None:
        numbers = {**asdict(result), "mean": result.mean, "test_size": len(test), "train_size": len(train), **settings}
        typical = _typical(chosen, found["-log p(x)"])
        figure = held_out_classes(found, chosen, shown[typical], str(typical))
        report.write(Path(out), "anomaly", numbers, {"anomaly": figure})
    return result


def _scores(train: Split, test: Split, settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The scores of the test images by each method, ``[N]``."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    seed, num_samples = settings["seed"], settings["num_samples"]
    (x,) = test.batch(slice(None))
    pair = _trained(train, train.mean(), settings, options)
    background = _trained(perturbed(train, settings["rate"]), train.mean(), settings, options)
    sampling = {**options, "seed": seed}
    minus_log_p = minus_log_evidence(pair, x, num_samples, **sampling)
    gray_train, gray_test = (split.gray().flatten(1).numpy() for split in (train, test))
    pca = PCA(min(settings["latent_dim"], *gray_train.shape), random_state=seed).fit(gray_train)
    error = gray_test - pca.inverse_transform(pca.transform(gray_test))
    forest = IsolationForest(random_state=seed).fit(gray_train)
    scores = (
        minus_elbo(pair, x, seed=seed),
        minus_log_p,
        minus_log_p - minus_log_evidence(background, x, num_samples, **sampling),
        minus_log_p - compressed(x),
        torch.as_tensor((error**2).sum(1)),
        torch.as_tensor(-forest.score_samples(gray_test)),
    )
    return dict(zip(METHODS, scores, strict=True))


def _trained(train: Split, mean: Tensor, settings: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    with fork_rng():
        torch.manual_seed(settings["seed"])
        pair = MLPVAE(train.event_shape, settings["latent_dim"], settings["hidden"], mean=mean)
    run = fit(
        pair,
        Data(train.name, train),
        optimizer=functools.partial(torch.optim.Adam, lr=2e-3, fused=True),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        **options,
    )
    return run.pair.eval()


def _typical(chosen: Sequence[int], values: Sequence[float]) -> int:
    """The class of the median value (the lower one of two)."""
    order = sorted(range(len(chosen)), key=values.__getitem__)
    return chosen[order[(len(order) - 1) // 2]]
