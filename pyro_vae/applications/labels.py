"""Labels: learning a class of few labels and many data without, and drawing data of a class."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from pyro_vae._checks import checked, number, shown, whole
from pyro_vae.applications import report
from pyro_vae.compiled import Compile
from pyro_vae.data import Binarization, Data, Split, load
from pyro_vae.estimators import SGVB_A, Enumeration, Estimator
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import MLPVAE, SemiSupervisedVAE
from pyro_vae.models.semi_supervised import MISSING, partly_labeled
from pyro_vae.networks import MLP, Centered
from pyro_vae.pair import data_plate, evaluating, pair_method
from pyro_vae.pair.turns import fork_rng
from pyro_vae.plotting import classes_and_styles
from pyro_vae.training import Cosine, fit
from pyro_vae.vae import VAE

#: Error rates in per cent on MNIST, by number of labels: Kingma, Rezende, Mohamed & Welling (2014), table 1.
PUBLISHED = {100: {"M2": 11.97, "M1 + M2": 3.33}, 1000: {"M2": 3.60, "M1 + M2": 2.40}}
_STYLES = 10  # columns of the figure
_CHUNK = 2000
_STEPS_ALONE = 1000  # of the classifiers that see the labeled data alone


@dataclass(frozen=True)
class ErrorRate:
    """What a method makes of the test set.

    Attributes:
        error: the share of the test set that it takes for another class.
        error_error: its standard error over the test set.
        seconds: of training.
    """

    error: float
    error_error: float
    seconds: float


@dataclass(frozen=True)
class Labels:
    """What :func:`labels` measured.

    Attributes:
        num_labels: data with a label.
        num_data: training data, labeled or not.
        num_test: test data.
        classes: the labels.
        methods: by name.
    """

    num_labels: int
    num_data: int
    num_test: int
    classes: list[Any]
    methods: dict[str, ErrorRate]


class Classifier(PyroModule):
    r"""A classifier alone as a pair without latents, :math:`y \sim q(y \mid x)`, trained by maximum likelihood.

    Args:
        network: ``[*, *event] -> [*, K]``, logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @pair_method
    def model(self, x: Tensor, y: Tensor) -> Tensor:
        """y ~ q(y | x)."""
        with data_plate(x):
            return pyro.sample("y", self.classify(x), obs=y)

    @pair_method
    def guide(self, x: Tensor, y: Tensor) -> None:
        """There is no latent."""

    def classify(self, x: Tensor) -> Any:
        """q(y | x), for ``x: [*, B, *event]``."""
        return pyro.distributions.Categorical(logits=self.network(x).float())


class Stacked(nn.Module):
    r"""A semi-supervised VAE of the codes of another VAE (the model M1 + M2), or of the data themselves.

    .. math:: p(y, z_2, z_1, x) = p(y) \, p(z_2) \, p(z_1 \mid y, z_2) \, p(x \mid z_1)

    As in the paper the two are trained one after the other, here the second one on the means E[z_1 | x].

    Args:
        semi_supervised: of codes, or of data where there is no M1.
        features: the VAE whose codes they are, M1; or ``None``.

    Source: Kingma, Rezende, Mohamed & Welling (2014), section 2.1.
    """

    def __init__(self, semi_supervised: SemiSupervisedVAE, features: VAE | None = None) -> None:
        super().__init__()
        self.semi_supervised = semi_supervised
        self.features = features

    def codes(self, x: Tensor) -> Tensor:
        """E[z_1 | x], or x itself."""
        return x if self.features is None else _mean(self.features.posterior(x))

    def classify(self, x: Tensor) -> Any:
        """q(y | x), for ``x: [*, B, *event]``."""
        return self.semi_supervised.classify(self.codes(x))

    def style(self, x: Tensor, y: Tensor) -> Tensor:
        """``[B, latent_dim]``: E[z_2 | x, y]."""
        return self.semi_supervised.encode(self.codes(x), y).mean

    def mean(self, z: Tensor, y: Tensor) -> Tensor:
        """``[*, *event]``: E[x | y, z_2], with M1 at the mean of z_1."""
        below = self.semi_supervised.conditional(z, y).mean
        return below if self.features is None else _mean(self.features.likelihood(below))


def labels(
    data: str = "mnist",
    num_labels: int = 100,
    *,
    num_data: int | None = None,
    num_features: int = 50,
    latent_dim: int = 20,
    hidden: int = 300,
    alpha: float = 20.0,
    share: float = 0.3,
    feature_epochs: int = 10,
    epochs: int = 20,
    batch_size: int = 200,
    lr: float = 2e-3,
    compile: Compile = "traced",
    out: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Labels:
    r"""Learns classes of a few labeled and many unlabeled data, and draws data of each class.

    A VAE of all data (M1), and of its codes a :class:`~pyro_vae.models.SemiSupervisedVAE` (M2) of a class and a style.
    Beside it what the labeled data alone give: the same classifier network of codes, a classifier of pixels, and the
    nearest neighbor in both. Error rates are those of the test set. Gray pixels are binarized dynamically to train M1
    and the classifier of pixels, and taken as they are for codes and for the test.

    Labeled data are repeated in the mini-batches and weigh less by as much, so that the objective is that of the
    paper. Its classification term has a larger weight by default: in a short training the bounds of the
    unlabeled data may otherwise settle what a class is before the labels do.

    The figure shows p(x | y, z): on the left each class at styles z drawn from the prior, on the right the styles of
    test data in all classes.

    Args:
        data: name of a set of images with labels, or a file or folder of your own
        num_labels: training data whose label is used, as many of each class, drawn at random
        num_data: training data in all, drawn at random; without it all
        num_features: size of the codes; 0 for the model M2 of the pixels themselves
        latent_dim: size of the style z
        hidden: width of the hidden layer of each network
        alpha: weight of the classification term, alpha N / num_labels for each labeled datum; 0.1 in the paper
        share: of labeled data in a mini-batch, by repetition
        feature_epochs: passes of M1 over the training data
        epochs: passes of M2
        batch_size: data in a mini-batch
        lr: learning rate of Adam, at the start
        compile: how training steps run
        out: folder of the numbers (labels.json) and the figure (labels.png)
        seed: of the choice of data and labels, the initial weights and the training
        progress: show a progress bar

    Raises:
        ValueError: if an argument is out of its range, the data have no labels or no test set, ``num_labels`` is below
            the number of classes or above that of the data, or there are fewer of a class than are to be labeled.

    Source: Kingma, Rezende, Mohamed & Welling (2014), Semi-supervised learning with deep generative models.
    """
    whole(num_labels=num_labels, latent_dim=latent_dim, hidden=hidden, epochs=epochs, batch_size=batch_size)
    whole(feature_epochs=feature_epochs, **({} if num_data is None else {"num_data": num_data}))
    whole(0, num_features=num_features, seed=seed)
    number(0, alpha=alpha)
    number(above=0, lr=lr)
    number(above=0, below=1, share=share)
    train, y, test, test_y, classes = _labeled(load(data, binarization="dynamic", seed=seed), num_data, seed)
    if out is not None and len(train.event_shape) != 3:
        raise ValueError(
            f"the figure shows images [C, H, W], and the data of {data!r} have the shape {list(train.event_shape)}. "
            "Ask for no folder (out) to have the table alone."
        )
    rows = balanced(y, num_labels, seed)
    known = torch.full_like(y, MISSING)
    known[rows] = y[rows]
    options: dict[str, Any] = {"seed": seed, "compile": compile, "progress": progress, "scheduler": Cosine()}
    options["optimizer"] = functools.partial(torch.optim.Adam, lr=lr, fused=True)
    methods = {}

    def trained(pair: Any, on: Split, epochs: int, estimator: Estimator | None = None) -> Any:
        size = min(batch_size, len(on))
        return fit(pair, on, epochs=epochs, estimator=estimator, batch_size=size, **options).pair.eval()

    def alone(x: Tensor, binarization: Binarization) -> Any:
        """The classifier of the stack, or of pixels, trained on the labeled data."""
        few = Split(x, y[rows], binarization=binarization, seed=seed)
        network = MLP(few.event_shape, len(classes), (hidden,))
        steps = math.ceil(num_labels / min(batch_size, num_labels))
        return trained(Classifier(Centered(network, few.mean())), few, math.ceil(_STEPS_ALONE / steps), SGVB_A())

    with fork_rng():
        torch.manual_seed(seed)
        started, features = time.perf_counter(), None
        if num_features:
            pair = MLPVAE(train.event_shape, num_features, (hidden,), mean=train.mean())
            features = trained(pair, train, feature_epochs)
        x = train.tensors[0] if features is None else _codes(features, train)
        of_x: Binarization = "dynamic" if features is None else "none"
        mixed = Split(*partly_labeled(x, known, len(classes), share).tensors, binarization=of_x, seed=seed)
        second = SemiSupervisedVAE(
            mixed.event_shape,
            len(classes),
            latent_dim,
            (hidden,),
            alpha=alpha * len(y) / num_labels,
            likelihood=Bernoulli if features is None else functools.partial(Gaussian, sigmoid_mean=False),
            mean=mixed.mean(),
        )
        stack = Stacked(trained(second, mixed, epochs, Enumeration()), features)
        name = "M2" if features is None else "M1 + M2"
        methods[name] = _judged(classified(stack, test), test_y, started)

        held, few_gray = test.gray(), train.gray(rows)
        started = time.perf_counter()
        predicted = classified(alone(train.tensors[0][rows], train.binarization), test)
        methods["labeled data alone: classifier"] = _judged(predicted, test_y, started)
        places = {"nearest neighbor": (few_gray, held)}
        if features is not None:
            held_codes = _codes(features, test)
            started = time.perf_counter()
            classifier = alone(x[rows], "none")
            with torch.no_grad():
                predicted = classifier.classify(held_codes).logits.argmax(-1)
            methods["labeled data alone: classifier of codes"] = _judged(predicted, test_y, started)
            places["nearest neighbor of codes"] = x[rows], held_codes
        for name, (labeled, unknown) in places.items():
            started = time.perf_counter()
            neighbor = KNeighborsClassifier(1).fit(labeled.flatten(1).numpy(), y[rows].numpy())
            predicted = torch.from_numpy(neighbor.predict(unknown.flatten(1).numpy()))
            methods[f"labeled data alone: {name}"] = _judged(predicted, test_y, started)

    result = Labels(num_labels, len(y), len(test), classes, methods)
    print(_told(result, data))
    if out is not None:
        shown = torch.stack([(test_y == label).nonzero()[0, 0] for label in torch.unique(test_y)])
        with fork_rng():
            torch.manual_seed(seed)
            styles = stack.semi_supervised.prior().sample((_STYLES,))
        figure = classes_and_styles(
            by_class(stack, styles).transpose(0, 1), held[shown], analogies(stack, held[shown]), classes=classes
        )
        report.write(Path(out), "labels", asdict(result), {"labels": figure})
    return result


@checked
def balanced(y: Tensor, num_labels: int, seed: int = 0) -> Tensor:
    """Rows to be labeled, as many of each class, or one more where the number does not divide.

    Args:
        y: ``[N]``, classes.
        num_labels: how many rows.
        seed: of the choice, and of which classes have one more.

    Returns:
        ``[num_labels]``, in ascending order.

    Raises:
        ValueError: if there are more labels asked for than there are data (of a class), or fewer than classes.

    >>> import torch
    >>> from pyro_vae.applications.labels import balanced
    >>> y = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> y[balanced(y, 4)]
    tensor([0, 0, 1, 1])
    """
    if y.dim() != 1 or not len(y):
        raise ValueError(f"y is a class for each datum, [N]; got the shape {list(y.shape)}.")
    classes, counts = torch.unique(y, return_counts=True)
    if not len(classes) <= num_labels <= len(y):
        raise ValueError(
            f"num_labels={num_labels} has to be from {len(classes)}, one for each class, to {len(y)}, the number of "
            "training data."
        )
    generator = torch.Generator().manual_seed(seed)
    asked = torch.full_like(counts, num_labels // len(classes))
    asked[torch.randperm(len(classes), generator=generator)[: num_labels % len(classes)]] += 1
    for label, count, most in zip(classes.tolist(), asked.tolist(), counts.tolist(), strict=True):
        if count > most:
            raise ValueError(
                f"num_labels={num_labels} asks for {count} data of class {label}, of which there are {most}. Give more "
                "data by num_data, or ask for fewer labels."
            )
    chosen = []
    for label, count in zip(classes.tolist(), asked.tolist(), strict=True):
        rows = (y == label).nonzero()[:, 0]
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


@checked
def classified(pair: Any, data: Split) -> Tensor:
    """``[N]``: the most probable class of each datum under q(y | x), of gray pixels as they are."""
    if not isinstance(pair, nn.Module) or not callable(getattr(pair, "classify", None)):
        raise TypeError(f"pair has to classify data, as a SemiSupervisedVAE does; got {shown(pair)}.")
    classify: Any = pair.classify
    return _of_all(pair, lambda x: classify(x).logits.argmax(-1), data)


def by_class(stack: Stacked, z: Tensor) -> Tensor:
    """``[S, K, *event]``: E[x | y, z] of each style ``z: [S, latent_dim]`` in each class."""
    with evaluating(stack), torch.no_grad():
        return stack.mean(z[:, None], torch.arange(stack.semi_supervised.num_classes, device=z.device))


def analogies(stack: Stacked, x: Tensor, y: Tensor | None = None) -> Tensor:
    """``[N, K, *event]``: E[x | y, z] in each class at the style of a datum, z = E[z | x, y].

    Args:
        stack: the pair, alone or on features.
        x: data ``[N, *event]``.
        y: ``[N]``, their classes; by default the most probable ones under q(y | x).
    """
    with evaluating(stack), torch.no_grad():
        y = stack.classify(x).logits.argmax(-1) if y is None else y
        return by_class(stack, stack.style(x, y))


def _labeled(data: Data, num_data: int | None, seed: int) -> tuple[Split, Tensor, Split, Tensor, list[Any]]:
    """Some of the training data, their classes 0 ... K - 1, the test data, theirs, and what the classes are called."""
    train: Any = data.train
    test: Any = data.test
    for split, part in ((train, "training"), (test, "test")):
        if not isinstance(split, Split):
            raise ValueError(f"{data.name!r} has no {part} set in memory, on which a classifier could be judged.")
        if split.classes is None:
            raise ValueError(
                f"the {part} set of {data.name!r} has no labels, one whole number for each datum. Give data with "
                "labels: mnist, fashion-mnist, digits, an .npz with y_train and y_test, or a folder of folders."
            )
    whole(num_data=1 if num_data is None else num_data)
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:num_data]
    labels, test_labels = train.labels[rows], test.labels
    some = Split(train.tensors[0][rows], labels=labels, binarization="dynamic", seed=seed, name=train.name)
    classes, y = torch.unique(labels, return_inverse=True)
    unseen = ~torch.isin(test_labels, classes)
    if unseen.any():
        raise ValueError(
            f"the test set of {data.name!r} has the class {int(test_labels[unseen][0])}, which the {len(rows)} "
            "training data have not. Give more data by num_data."
        )
    return some, y, test, torch.searchsorted(classes, test_labels), classes.tolist()


def _codes(features: VAE, split: Split) -> Tensor:
    """``[N, D]``: E[z | x], of gray pixels as they are."""
    return _of_all(features, lambda x: _mean(features.posterior(x)), split)


def _of_all(pair: nn.Module, function: Callable[[Tensor], Tensor], split: Split) -> Tensor:
    """``function`` of the gray pixels, in chunks."""
    with evaluating(pair), torch.no_grad():
        chunks = (split.gray(slice(start, start + _CHUNK)) for start in range(0, len(split), _CHUNK))
        return torch.cat([function(x).cpu() for x in chunks])


def _mean(distribution: Any) -> Tensor:
    return distribution.mean


def _judged(predicted: Tensor, y: Tensor, started: float) -> ErrorRate:
    error = (predicted != y).double().mean().item()
    return ErrorRate(error, math.sqrt(error * (1 - error) / len(y)), time.perf_counter() - started)


def _told(result: Labels, data: str) -> str:
    rows: list[list[Any]] = [
        [name, f"{100 * method.error:.2f} ({100 * method.error_error:.2f})", f"{method.seconds:.1f}"]
        for name, method in result.methods.items()
    ]
    lines = [
        report.table(["method", "error rate, %", "seconds"], rows),
        f"error rate (and its standard error) of {result.num_test:,} test data; {result.num_labels:,} of "
        f"{result.num_data:,} training data have a label.",
    ]
    published = PUBLISHED.get(result.num_labels) if data == "mnist" else None
    if published:
        numbers = ", ".join(f"{name} {number:.2f} %" for name, number in published.items())
        lines.append(f"Published, with 50,000 training data: {numbers}.")
    return "\n".join(lines)
