"""The VAE of labeled and unlabeled data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pyro_vae._checks import checked, is_tensor, made, number, shown
from pyro_vae._recipes import Remembered
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense, with_network
from pyro_vae.networks import MLP, applied, at_least_float32, shape_of
from pyro_vae.networks.layers import activated
from pyro_vae.pair import data_plate, pair_method
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal

MISSING = -1  # the label of a datum without one


class SemiSupervisedVAE(Remembered, PyroModule):
    r"""A class y and a style z; of most data the class is not known (the model M2).

    .. math::
        y \sim \mathrm{Cat}(1 / K), \quad z \sim p(z), \quad x \sim p(x \mid y, z), \qquad
        y \sim q(y \mid x), \quad z \sim q(z \mid x, y)

    Arguments are ``x: [B, *event]`` and ``y: [B]``, whole numbers 0 ... K - 1, or -1 where the label is missing; a
    batch may mix both. Labels are checked when a pair first runs, and all of them by :func:`partly_labeled`; in a
    training step one that is no class counts as missing. Under :class:`~pyro_vae.estimators.Enumeration`, which sums y
    out, the bound of a datum is

    .. math::
        -\mathcal L(x, y) &= \mathrm E_{q(z \mid x, y)}[\log p(x, y, z) - \log q(z \mid x, y)] \le \log p(x, y)
            && \text{with a label} \\
        -\mathcal U(x) &= \sum_y q(y \mid x) \, [-\mathcal L(x, y) - \log q(y \mid x)] \le \log p(x)
            && \text{without}

    Both are one program: the guide draws y from a point mass at a known label, and from q(y | x) otherwise. A point
    mass leaves one term of the sum, with log q = 0, so that the model is the generative process itself, without masks,
    and any estimator of discrete latents takes the pair. The price: x is decoded for all K classes also where the label
    is known.

    Labeled data reach q(y | x) only by the classification term of the paper, a factor of the model,

    .. math:: \alpha \log q(y \mid x) \quad \text{with a label, in training mode only.}

    The value in training includes it, and is then no bound; in evaluation mode (``pair.eval()``, as in validation,
    :func:`~pyro_vae.check` and :mod:`pyro_vae.evidence`) it is the bound above. The paper takes
    :math:`\alpha = 0.1 \, N / N_\mathrm{labeled}`.

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        num_classes: K.
        latent_dim: size of z.
        hidden: widths of the hidden layers of both encoders, at least one; the decoder has them in reverse. The label
            enters the first layer of q(z | x, y) beside x, and the first layer of the decoder beside z.
        alpha: weight of the classification term; a buffer.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        classifier: the network of q(y | x), ``[*, *event] -> [*, K]``, in place of one like the encoder of z.
        prior: makes p(z) of ``latent_dim``, a class of :mod:`pyro_vae.priors` or a function.
        posterior: makes q(z | x, y) of a network, a class of :mod:`pyro_vae.posteriors` or a function.
        likelihood: makes p(x | y, z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, of shape ``event_shape``. The encoders then see x - mean, and a Bernoulli
            decoder starts at it.

    Raises:
        ValueError: if a size is below 1, there is no hidden layer, ``alpha`` is negative, ``mean`` is of another shape,
            there is not one label for each datum, or the guide is run without data; while Pyro validates (in ``check``
            too) also if a label is none of the classes.

    Source: Kingma, Rezende, Mohamed & Welling (2014), Semi-supervised learning with deep generative models, section
    2.1, eq. 6 to 9.

    >>> pair = SemiSupervisedVAE((1, 8, 8), 10, latent_dim=4, hidden=(32,))
    >>> pair.model(torch.zeros(2, 1, 8, 8), torch.tensor([3, -1])).shape
    torch.Size([2, 1, 8, 8])
    """

    alpha: Tensor

    @checked(but=("alpha",))
    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 50,
        hidden: Sequence[int] = (500,),
        alpha: float = 0.0,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        classifier: nn.Module | None = None,
        prior: Callable[[int], nn.Module] = StandardNormal,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("the label enters q(z | x, y) in its first hidden layer: give hidden at least one.")
        number(0, alpha=alpha)
        shape_of("num_classes and latent_dim", (num_classes, latent_dim))
        self.event_shape = shape_of("event_shape", event_shape)
        self.num_classes, self.latent_dim = num_classes, latent_dim
        dense = Dense(event_shape, latent_dim + num_classes, hidden, activation, network, mean)
        self.classifier = dense.encoder((num_classes,)) if classifier is None else classifier
        # The first layer of a network of (x, y): W x + V y + b, so that W x is computed once for all classes.
        self.of_x = dense.encoder((hidden[0],), ())
        self.of_y = nn.Linear(num_classes, hidden[0], bias=False)
        self.posterior = with_network(
            posterior,
            (latent_dim,),
            lambda shape: nn.Sequential(activated(activation), network(hidden[0], shape, hidden[1:], activation)),
            default=(2, latent_dim),
        )
        self.prior = made("a prior", prior, latent_dim)
        self.likelihood = dense.decoding(likelihood)
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    @pair_method
    def model(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """y ~ Cat(1 / K), z ~ p(z), x ~ p(x | y, z), for data ``x: [B, *event]``, or one datum that it draws itself.

        Args:
            x: the data.
            y: ``[B]``, their labels, -1 where missing; without it none is known.
            weight: ``[B]``, how much each datum counts, above 0; by default 1.
        """
        with data_plate(x), _weighed(weight):
            label = pyro.sample("y", dist.Categorical(logits=self.of_y.weight.new_zeros(self.num_classes)))
            z = pyro.sample("z", self.prior())
            if self.training and x is not None and y is not None:
                _check_rows(x, y)
                log_q = (self.one_hot(y) * self.classify(x).logits).sum(-1)
                pyro.factor("classification", self.alpha * log_q)
            return pyro.sample("x", self.conditional(z, label), obs=x)

    @pair_method
    def guide(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """y ~ q(y | x), or the label where it is known; z ~ q(z | x, y)."""
        if x is None:
            raise ValueError("q(y, z | x) needs data: run the guide as guide(x, y), with x of shape [B, *event].")
        with data_plate(x), _weighed(weight):
            label = pyro.sample("y", self.labels(x, y))
            return pyro.sample("z", self.encode(x, label))

    def classify(self, x: Tensor) -> Any:
        """q(y | x), for ``x: [*, B, *event]``."""
        logits = at_least_float32(applied(self.classifier, x, "SemiSupervisedVAE"))
        if not logits.numel():
            raise ValueError(f"there are no data to classify: x has the shape {list(x.shape)}.")
        return dist.Categorical(logits=logits)

    def labels(self, x: Tensor, y: Tensor | None = None) -> Any:
        """q(y | x), or a point mass at the label where it is known."""
        if y is None:
            return self.classify(x)
        _check_rows(x, y)
        if is_validation_enabled():
            check_labels(y, self.num_classes)
        logits = self.classify(x).logits
        one_hot = self.one_hot(y)
        return dist.Categorical(logits=torch.where(one_hot.sum(-1, keepdim=True) > 0, one_hot.log(), logits))

    def encode(self, x: Tensor, y: Tensor) -> Any:
        """q(z | x, y), for ``x: [B, *event]`` and classes ``y`` that go with ``[B]``."""
        of_x = applied(self.of_x, x, "SemiSupervisedVAE")
        self._check_classes(y, of_x.shape[:-1], "x")
        return self.posterior(of_x + self.of_y(self.one_hot(y)))

    def conditional(self, z: Tensor, y: Tensor) -> Any:
        """p(x | y, z), for ``z: [*, latent_dim]`` and classes ``y`` that go with ``[*]``."""
        if not is_tensor(z) or z.shape[-1:] != (self.latent_dim,):
            raise ValueError(f"z of a SemiSupervisedVAE is a tensor [*, {self.latent_dim}]; got {shown(z)}.")
        self._check_classes(y, z.shape[:-1], "z")
        leading = torch.broadcast_shapes(z.shape[:-1], y.shape)
        one_hot = self.one_hot(y).to(z.dtype)
        return self.likelihood(torch.cat([z.expand(*leading, -1), one_hot.expand(*leading, -1)], -1))

    def one_hot(self, y: Tensor) -> Tensor:
        """``[*, K]``; zeros where the label is missing."""
        self._check_classes(y)
        classes = torch.arange(self.num_classes, device=y.device)
        return (y[..., None] == classes).to(self.of_y.weight.dtype)

    def _check_classes(self, y: Tensor, leading: torch.Size | None = None, beside: str = "") -> None:
        """Refuses what is no tensor of classes, or does not go with the ``leading`` dimensions of ``beside``."""
        if not is_tensor(y):
            raise TypeError(f"y of a SemiSupervisedVAE is a tensor of whole numbers, a class each; got {shown(y)}.")
        sizes = zip(reversed(y.shape), reversed(leading or ()), strict=False)
        if any(one != other and 1 not in (one, other) for one, other in sizes):
            raise ValueError(f"classes y of shape {list(y.shape)} do not go with {beside} of {list(leading or ())}.")


@checked(but=("share",))
def partly_labeled(x: Tensor, y: Tensor, num_classes: int, share: float = 0.5) -> TensorDataset:
    r"""Data of which few have a label, for ``fit``: labeled rows are repeated, so that every mini-batch holds some.

    About ``share`` of the rows have a label. Each of the R copies of a labeled datum weighs 1 / R, others 1, so that a
    pass over the rows adds up each datum once,

    .. math:: \sum_\text{labeled} [-\mathcal L(x, y) + \alpha \log q(y \mid x)] + \sum_\text{unlabeled} -\mathcal U(x)

    which is the objective of the paper (eq. 9).

    Args:
        x: ``[N, *event]``.
        y: ``[N]``, whole numbers 0 ... K - 1, -1 where the label is missing.
        num_classes: K.
        share: of labeled rows, in (0, 1).

    Returns:
        Tensors x, y and weight, the arguments of :class:`SemiSupervisedVAE`.

    Raises:
        ValueError: if no datum has a label, a label is none of the classes, ``share`` is out of range, or x and y are
            not of one length.
    """
    number(above=0, below=1, share=share)
    share = float(share)
    _check_rows(x, y)
    check_labels(y, num_classes)
    known = (y != MISSING).nonzero()[:, 0]
    missing = (y == MISSING).nonzero()[:, 0]
    if not len(known):
        raise ValueError("no datum has a label: all of y are -1. Give the label of at least one datum of each class.")
    repeats = max(1, round(share / (1 - share) * len(missing) / len(known)))
    rows = torch.cat([missing, known.repeat(repeats)])
    weight = torch.cat([torch.ones(len(missing)), torch.full((repeats * len(known),), 1 / repeats)])
    return TensorDataset(x[rows], y[rows], weight.to(x.device))


def _check_rows(x: Tensor, y: Tensor) -> None:
    if not is_tensor(x) or not x.dim():
        raise TypeError(f"x is a dense tensor of data, [B, *event]; got {shown(x)}.")
    if not is_tensor(y):
        raise TypeError(f"y is a tensor of labels, [B], -1 where one is missing; got {shown(y)}.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y holds a label for each datum, [{len(x)}], -1 where it is missing; got {list(y.shape)}.")


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raises a ``ValueError`` that names a label which is none of the classes and not -1."""
    wrong = y[(y != MISSING) & ~((y >= 0) & (y < num_classes) & (y == y.floor()))]
    if len(wrong):
        raise ValueError(
            f"{wrong[0].item()} is no label of {num_classes} classes: labels are the whole numbers 0 to "
            f"{num_classes - 1}, and -1 where one is missing. Number the classes anew, or give num_classes as many."
        )


def _weighed(weight: Tensor | None) -> Any:
    if weight is not None and not is_tensor(weight):
        raise TypeError(f"weight is a tensor [B], how much each datum counts; got {shown(weight)}.")
    try:
        return contextlib.nullcontext() if weight is None else poutine.scale(scale=weight)
    except ValueError as error:
        raise ValueError(f"weight is how much each datum counts, above 0; got {shown(weight)}.") from error
