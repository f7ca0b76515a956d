"""Priors p(theta) of the weights of one layer, a matrix ``[R, C]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, number

Learned = Literal["layer", "column"]


class IsotropicNormal(nn.Module):
    r"""Independent Gaussian weights, :math:`p(\theta) = \mathcal N(0, \mathrm{scale}^2)`.

    Args:
        shape: (R, C) of the layer's matrix.
        scale: standard deviation; ``"fan_in"`` for :math:`1 / \sqrt C`, under which a layer's outputs stay as large as
            its inputs, whatever its width. Kingma & Welling's p(theta) = N(0, I) is 1.
        learned: whether the scale is learned with the rest (type-II maximum likelihood): ``"layer"`` for one scale,
            ``"column"`` for one for each column, so that what an input unit does not need is switched off at no cost
            (automatic relevance determination); the column of the bias has its own. ``None``: it stays as given.

    Raises:
        ValueError: if the scale is not positive, or ``learned`` is something else.

    Source: Kingma & Welling (2013), appendix F; MacKay (1992); Neal (1996) for the fan-in and the columns.

    >>> IsotropicNormal((3, 5))().event_shape
    torch.Size([3, 5])
    """

    log_scale: Tensor

    @checked
    def __init__(
        self, shape: Sequence[int], scale: float | Literal["fan_in"] = 1.0, learned: Learned | None = None
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale != "fan_in":
            raise ValueError(f"the scale of weights is a number, or 'fan_in'; got {scale!r}.")
        value = shape[1] ** -0.5 if isinstance(scale, str) else scale
        number(above=0, scale=value)
        self.shape, self.learned = torch.Size(shape), learned
        initial = torch.full((shape[1],) if learned == "column" else (), math.log(value))
        if learned is None:
            self.register_buffer("log_scale", initial)
        else:
            self.log_scale = nn.Parameter(initial)

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, learned={self.learned!r}"

    def forward(self) -> dist.Distribution:
        scale = self.log_scale.exp()
        return dist.Normal(scale.new_zeros(()), scale).expand(self.shape).to_event(2)


class ScaleMixture(nn.Module):
    r"""A spike and a slab of Gaussian form, for each weight by itself.

    .. math:: p(w) = \pi \, \mathcal N(w; 0, s_1^2) + (1 - \pi) \, \mathcal N(w; 0, s_2^2)

    Its KL has no closed form: SGVB_B samples it, which it says.

    Args:
        shape: (R, C) of the layer's matrix.
        scales: :math:`s_1` of the slab and :math:`s_2` of the spike.
        probability: :math:`\pi`, of the slab.

    Raises:
        ValueError: if a scale is not positive, or the probability is not in (0, 1).

    Source: Blundell, Cornebise, Kavukcuoglu & Wierstra (2015), section 3.3.

    >>> ScaleMixture((3, 5))().event_shape
    torch.Size([3, 5])
    """

    scales: Tensor
    logits: Tensor

    @checked(but=("probability",))
    def __init__(self, shape: Sequence[int], scales: Sequence[float] = (1.0, 0.0025), probability: float = 0.5) -> None:
        super().__init__()
        if len(scales) != 2:
            raise ValueError(f"a scale mixture has two positive scales, of the slab and of the spike; got {scales!r}.")
        number(above=0, slab=scales[0], spike=scales[1])
        number(above=0, below=1, probability=probability)
        self.shape = torch.Size(shape)
        self.register_buffer("scales", torch.tensor([float(scale) for scale in scales]))
        self.register_buffer("logits", torch.tensor([probability, 1 - probability]).log())

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, scales={self.scales.tolist()}, probability={self.logits[0].exp():.3g}"

    def forward(self) -> dist.Distribution:
        logits = self.logits.expand(*self.shape, 2)
        weights = dist.MixtureSameFamily(
            torch.distributions.Categorical(logits=logits),
            torch.distributions.Normal(torch.zeros_like(logits), self.scales.expand_as(logits)),
        )
        return weights.to_event(2)
