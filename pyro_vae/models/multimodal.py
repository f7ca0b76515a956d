"""Several kinds of data at once: a latent that each of them tells something of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked, is_tensor, made, number, one_of, shown, whole
from pyro_vae._recipes import Remembered
from pyro_vae._torch import has_values
from pyro_vae.distributions.experts import MixtureOfExperts, product_of_experts
from pyro_vae.distributions.steps import Present
from pyro_vae.likelihoods import Bernoulli, Classes
from pyro_vae.models.parts import Dense
from pyro_vae.networks import MLP, shape_of
from pyro_vae.pair import data_plate, pair_method
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import distribution_of

Experts = Literal["product", "mixture", "mixture of independent draws"]
Subsets = Literal["joint", "singles", "all"]
Values = dict[str, tuple[Tensor, Tensor]]  # of the modalities that are given: x, and [B] which data have it


class Modality(Remembered, nn.Module):
    r"""One kind of data of a :class:`MultimodalVAE`: its expert q_m(z | x_m) and its likelihood p(x_m | z).

    Args:
        posterior: ``x_m -> q_m(z | x_m)``, see :mod:`pyro_vae.posteriors`. Of classes its network sees one-hot vectors.
        likelihood: ``z -> p(x_m | z)``, see :mod:`pyro_vae.likelihoods`.
        weight: how much the likelihood counts in a loss, above 0. Papers raise that of a modality of few numbers (50
            for the label of an image); with another number than 1 the loss is no bound, while what is told as one is.

    Raises:
        ValueError: if ``weight`` is not above 0.
    """

    @checked(but=("weight",))
    def __init__(
        self, posterior: Callable[[Tensor], Any], likelihood: Callable[[Tensor], Any], weight: float = 1.0
    ) -> None:
        super().__init__()
        number(above=0, weight=weight)
        self.posterior, self.likelihood, self.weight = posterior, likelihood, float(weight)

    def read(self, name: str, x: Any) -> tuple[Tensor, Tensor]:
        """x, and ``[B]`` which of its data are there."""
        if not isinstance(x, Tensor) or not (is_tensor(x) or not has_values(x)) or not x.dim():
            raise TypeError(f"{name} is a dense tensor of data, [B, *event], or None; got {shown(x)}.")
        if not x.numel():
            raise ValueError(f"there are no data: {name} is of shape {list(x.shape)}. Give [B, *event], B at least 1.")
        missing = x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)
        if isinstance(self.likelihood, Classes) or not (x.is_floating_point() or x.dtype == torch.bool):
            missing = missing | (x < 0)
        return x, ~missing.reshape(len(x), -1).all(-1)

    def expert(self, name: str, x: Tensor, present: Tensor) -> Any:
        """q_m(z | x_m), at some value of its own where there is no datum.

        Raises:
            ValueError: if it is not one posterior for each datum, as of labels ``[B, K]`` in the place of ``[B]``.
        """
        there = present.reshape(-1, *(1 for _ in x.shape[1:]))
        seen = torch.where(there, x, x.new_zeros(()))
        if isinstance(self.likelihood, Classes):
            seen = self.likelihood.one_hot(seen)
        elif not x.is_floating_point():
            seen = seen.to(next((p.dtype for p in self.parameters()), torch.get_default_dtype()))
        q = distribution_of("posterior", self.posterior(seen))
        if q.batch_shape != x.shape[:1]:
            raise ValueError(
                f"the networks of {name} take it for {list(q.batch_shape)} data, and it is of shape {list(x.shape)}. "
                f"Give {name} as [B, *event]; classes are whole numbers, one for each place, not one-hot vectors."
            )
        return q

    def check_values(self, name: str, x: Tensor) -> None:
        """Refuses classes that are none, which a likelihood refuses where it scores them.

        Raises:
            ValueError: naming one of them.
        """
        if isinstance(self.likelihood, Classes) and has_values(x):
            wrong = x[(x >= self.likelihood.num_classes) | (x % 1 != 0)]
            if len(wrong):
                raise ValueError(
                    f"{name} are classes, whole numbers from 0 to {self.likelihood.num_classes - 1}, or below 0 where "
                    f"they are missing; got {wrong[0].item():g}."
                )


class MultimodalVAE(Remembered, PyroModule):
    r"""Several kinds of data x_1, ..., x_M of one datum, each with an encoder, a decoder and a likelihood of its own.

    .. math:: z \sim p(z), \quad x_m \sim p(x_m \mid z), \quad m = 1, \dots, M

    The guide makes one posterior of those that are there, S, by the experts :math:`q_m(z \mid x_m)`:

    .. math::
        q(z \mid x_S) \propto p(z) \prod_{m \in S} q_m(z \mid x_m) \quad \text{(a product, MVAE)}, \qquad
        q(z \mid x_S) = \frac 1 {|S|} \sum_{m \in S} q_m(z \mid x_m) \quad \text{(a mixture, MMVAE)}

    see :func:`~pyro_vae.distributions.product_of_experts` and :class:`~pyro_vae.distributions.MixtureOfExperts`. The
    product is of Gaussians, sharper than each of them; the mixture is of any, and each of its draws is one of an expert
    by itself. Draws of the mixture are stratified over the experts where there are several: ``SGVB_A(M)``, ``IWAE(M)``.

    Arguments are the modalities, in the order of ``modalities`` or by their names; ``None`` is a modality that is
    missing for all data. A single one is missing where x is NaN throughout or, of whole numbers and of classes, below 0
    throughout (-1). It has no expert and no term: value and gradient of the others are as if it were not there, and the
    bound is that of :math:`\log p(x_S)`. Where nothing is there, the guide is the prior, and the bound is 0.

    A product is seldom good at subsets that it has not seen. With ``subsets="singles"`` training raises, beside the
    bound of what is there, that of each modality alone, and with ``"all"`` that of each subset, each with a latent of
    its own, ``z_NAME_NAME``:

    .. math:: \sum_{A \in \mathcal A} \mathcal L(x_A) \le \sum_{A \in \mathcal A} \log p(x_A)

    In training mode the value is such a sum of bounds, and no bound of log p(x); in evaluation mode it is the one of
    what is there. (The paper draws the subsets at random, M = 2 has but one choice.)

    Args:
        modalities: by name, each a :class:`Modality`; of the names are the sites.
        prior: ``() -> p(z)``, see :mod:`pyro_vae.priors`.
        experts: ``"product"``; ``"mixture"``; or ``"mixture of independent draws"``, for estimators that need those
            (:class:`~pyro_vae.DReG`).
        subsets: of which bounds are raised in training.

    Raises:
        ValueError: if there is no modality, a name is no word, or, when it is run, no modality is given, there are more
            than there are, or one has another number of data.
        TypeError: if a modality is none, or a product is not of diagonal Gaussians.

    Source: Wu & Goodman (2018), Multimodal Generative Models for Scalable Weakly-Supervised Learning (product,
        subsets); Shi, Siddharth, Paige & Torr (2019), Variational Mixture-of-Experts Autoencoders (mixture).

    >>> from pyro_vae import likelihoods
    >>> image = Modality(DiagonalNormal(MLP((1, 8, 8), (2, 4))), Bernoulli(MLP(4, (1, 8, 8))))
    >>> label = Modality(DiagonalNormal(MLP(10, (2, 4))), likelihoods.Classes(MLP(4, 10)))
    >>> pair = MultimodalVAE({"image": image, "label": label}, StandardNormal(4))
    >>> pair.predict("label", image=torch.rand(3, 1, 8, 8).round()).shape
    torch.Size([3, 10])
    """

    @checked
    def __init__(
        self,
        modalities: Mapping[str, nn.Module],
        prior: Callable[[], Any],
        experts: Experts = "product",
        subsets: Subsets = "joint",
    ) -> None:
        super().__init__()
        one_of(get_args(Experts), experts=experts)
        one_of(get_args(Subsets), subsets=subsets)
        if not modalities:
            raise ValueError("a MultimodalVAE has at least one modality; got none.")
        for name, modality in modalities.items():
            if not isinstance(name, str) or not name.isidentifier() or name == "z" or name.startswith("z_"):
                raise ValueError(
                    f"the name of a modality is that of an argument, such as 'image', and neither 'z' nor 'z_...', "
                    f"which are latents; got {shown(name)}."
                )
            if not isinstance(modality, Modality):
                raise TypeError(f"the modality {name!r} has to be a Modality; got {shown(modality)}.")
        self.names = tuple(modalities)
        self.modalities = nn.ModuleList(modalities.values())
        self.prior, self.experts, self.subsets = prior, experts, subsets

    @pair_method
    def model(self, *values: Tensor | None, **named: Tensor | None) -> dict[str, Tensor]:
        """z ~ p(z), x_m ~ p(x_m | z) of each modality that is given; of all, for one datum, where none is."""
        given = self._given(values, named)
        found: dict[str, Tensor] = {}
        with data_plate(next((x for x, _ in given.values()), None)):
            for suffix, names in self._subsets(given):
                z = pyro.sample(f"z{suffix}", distribution_of("prior", self.prior()))
                for name in names:
                    modality = self._of(name)
                    p = distribution_of("likelihood", modality.likelihood(z))
                    x, present = given.get(name, (None, None))
                    p = p if present is None else Present(p, present)
                    weighed = nullcontext() if modality.weight == 1 else poutine.scale(scale=modality.weight)
                    with weighed:
                        found[name + suffix] = pyro.sample(name + suffix, p, obs=x)
        return found

    @pair_method
    def guide(self, *values: Tensor | None, **named: Tensor | None) -> Tensor:
        """z ~ q(z | x_S)."""
        given = self._given(values, named)
        if not given:
            raise ValueError(
                f"q(z | x) needs data, and none of {', '.join(self.names)} is given. Give at least one of them."
            )
        drawn = []
        with data_plate(next(iter(given.values()))[0]):
            experts = {name: self._of(name).expert(name, x, present) for name, (x, present) in given.items()}
            for suffix, names in self._subsets(given):
                q = self._merged([experts[name] for name in names], [given[name][1] for name in names])
                drawn.append(pyro.sample(f"z{suffix}", q))
        return drawn[0]

    def encode(self, *values: Tensor | None, **named: Tensor | None) -> Any:
        """q(z | x_S), of the modalities that are given."""
        given = self._given(values, named)
        if not given:
            raise ValueError(f"none of {', '.join(self.names)} is given. Give at least one of them.")
        for name, (x, _) in given.items():
            self._of(name).check_values(name, x)
        experts = [self._of(name).expert(name, x, present) for name, (x, present) in given.items()]
        return self._merged(experts, [present for _, present in given.values()])

    def _of(self, name: str) -> Any:
        return self.modalities[self.names.index(name)]

    def _given(self, values: Sequence[Any], named: Mapping[str, Any]) -> Values:
        """Of each modality that is not ``None`` x, and which data have it.

        Raises:
            ValueError: if there are too many, one that there is not, or one of another number of data.
        """
        names = list(self.names)
        if len(values) > len(names):
            raise ValueError(f"this pair is of {len(names)} modalities, {', '.join(names)}; got {len(values)} values.")
        of_place = dict(zip(names, values, strict=False))
        for name in named:
            if name not in names or name in of_place:
                what = "is given twice" if name in of_place else f"is none of {', '.join(names)}"
                raise ValueError(f"the modality {name!r} {what}. Give each once, by its place or by its name.")
        every = {**of_place, **named}
        given = {name: self._of(name).read(name, every[name]) for name in names if every.get(name) is not None}
        counts = {name: len(x) for name, (x, _) in given.items()}
        if len(set(counts.values())) > 1:
            (first, size), *_ = counts.items()
            other = next(name for name, count in counts.items() if count != size)
            raise ValueError(
                f"the modalities are of the same data, but {first} holds {size} and {other} {counts[other]}. Mark what "
                "is missing, by NaN or a label of -1, and leave no datum out."
            )
        return given

    def _subsets(self, given: Values) -> Iterator[tuple[str, list[str]]]:
        """The suffix of the sites and the names of each subset of which a bound is taken: first that of all."""
        names = list(given) or list(self.names)
        yield "", names
        if not (self.training and given) or self.subsets == "joint":
            return
        for size in range(1, len(names) if self.subsets == "all" else min(2, len(names))):
            for chosen in itertools.combinations(names, size):
                yield "_" + "_".join(chosen), list(chosen)

    def _merged(self, experts: Sequence[Any], there: Sequence[Tensor]) -> Any:
        """One posterior of experts, by which of them are there."""
        prior = distribution_of("prior", self.prior())
        present = torch.stack(list(there), -1)
        if self.experts == "product":
            return product_of_experts(experts, present, prior)
        # The prior is there where nothing else is.
        weights = torch.cat([present, ~present.any(-1, keepdim=True)], -1).to(self._dtype())
        weights = weights / weights.sum(-1, keepdim=True)
        return MixtureOfExperts([*experts, prior], weights, stratified=self.experts == "mixture")

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    # What a trained pair is asked

    @torch.no_grad()
    @checked(but=("values",))
    def generate(self, *values: Tensor | None, num_samples: int = 1, **named: Tensor | None) -> dict[str, Tensor]:
        """Draws of all modalities given those that are given, by name: ``[num_samples, B, *event]`` each.

        z ~ q(z | x_S), x_m ~ p(x_m | z); where none is given, of the prior: ``[num_samples, *event]``.
        """
        whole(1, num_samples=num_samples)
        is_given = self._given(values, named)
        z = (self.encode(*values, **named) if is_given else self.prior()).sample((num_samples,))
        return {name: self._of(name).likelihood(z).sample() for name in self.names}

    @torch.no_grad()
    @checked(but=("values",))
    def predict(self, name: str, *values: Tensor | None, num_samples: int = 100, **named: Tensor | None) -> Tensor:
        r"""The mean of a modality given others, ``[B, *event]``; of classes their probabilities, ``[B, *event, K]``.

        .. math:: \mathrm E_{q(z \mid x_S)}[\, \mathrm E[x_m \mid z] \,]

        Raises:
            ValueError: if there is no such modality, or none is given.
        """
        whole(1, num_samples=num_samples)
        if name not in self.names:
            raise ValueError(f"{name!r} is none of the modalities {', '.join(self.names)}.")
        likelihood = self._of(name).likelihood
        p = likelihood(self.encode(*values, **named).sample((num_samples,)))
        if isinstance(likelihood, Classes):
            while hasattr(p, "base_dist"):
                p = p.base_dist
            return p.probs.mean(0)
        return p.mean.mean(0)


class LabeledVAE(MultimodalVAE):
    r"""Data x and their class y as two modalities, of dense networks; either of them may be missing.

    .. math:: z \sim p(z), \quad x \sim p(x \mid \mathrm{MLP}(z)), \quad y \sim \mathrm{Cat}(\mathrm{MLP}(z))

    A label is a whole number 0, ..., K - 1, or -1 where it is missing. ``fit`` passes the labels of the data.

    Args:
        event_shape: shape of x, for example (1, 28, 28).
        num_classes: K.
        latent_dim: size of z.
        hidden: widths of the hidden layers of the encoder of x; the decoder has them in reverse, the encoder of y the
            last one, and its decoder that.
        label_weight: how much log p(y | z) counts in a loss, see :class:`Modality`.
        activation: class of the non-linearity.
        network: class of the networks, one of :mod:`pyro_vae.networks` with the arguments of ``MLP``.
        prior: makes p(z) of ``latent_dim``, a class of :mod:`pyro_vae.priors` or a function.
        posterior: makes both experts, a class of :mod:`pyro_vae.posteriors` or a function.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        experts, subsets: see :class:`MultimodalVAE`.
        mean: mean of the training data, of shape ``event_shape``. The encoder of x then sees x - mean, and a Bernoulli
            decoder starts at it.

    Raises:
        ValueError: if a size is below 1, ``num_classes`` below 2, or ``mean`` is of another shape.

    Source: Wu & Goodman (2018), section 5.1.

    >>> pair = LabeledVAE((1, 8, 8), 10, latent_dim=4, hidden=(32,))
    >>> pair.predict("y", torch.rand(3, 1, 8, 8).round()).shape
    torch.Size([3, 10])
    """

    takes_labels = "y"

    @checked(but=("label_weight",))
    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 64,
        hidden: Sequence[int] = (512, 512),
        label_weight: float = 1.0,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        prior: Callable[[int], nn.Module] = StandardNormal,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        experts: Experts = "product",
        subsets: Subsets = "all",
        mean: Tensor | None = None,
    ) -> None:
        shape_of("num_classes and latent_dim", (num_classes, latent_dim))
        of_x = Dense(event_shape, latent_dim, hidden, activation, network, mean)
        of_y = Dense((num_classes,), latent_dim, hidden[-1:], activation, network)
        logits = made("a network", network, latent_dim, (num_classes,), hidden[-1:], activation)
        modalities = {
            "x": Modality(of_x.recognition(posterior), of_x.decoding(likelihood)),
            "y": Modality(of_y.recognition(posterior), Classes(logits, num_classes), label_weight),
        }
        super().__init__(modalities, made("a prior", prior, latent_dim), experts, subsets)
