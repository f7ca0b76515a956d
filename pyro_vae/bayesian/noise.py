"""How the noise of random weights reaches the data of a mini-batch."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from pyro.distributions import Independent
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import Normal

from pyro_vae._checks import checked
from pyro_vae.distributions import LowRankNormal, MatrixNormal, Rows

WeightNoise = Literal["shared", "local", "flipout"]
POSTERIOR = "weight_posterior"  # the guide leaves q(theta) of a site here, in its `infer`


@effectful(type="product")
def product(layer: Any, weights: Tensor, x: Tensor) -> Tensor:
    """What a layer does with one draw of its weights; an effect, so that :class:`Noise` can do it otherwise."""
    return layer.product(weights, x)


class Noise(Messenger):
    r"""Runs a program so that each datum meets weights of its own, in place of one draw for the whole mini-batch.

    The bound is a sum over the data, and its expectation asks only for each datum's own marginal. Independent noise
    keeps that, and takes away the covariance between the data, which is most of the gradient's variance in a large
    batch. It acts on products with weights that a guide has drawn (:func:`~pyro_vae.bayesian.sample_posterior`); a
    draw from the prior stays one draw. The draws of different data are then no joint sample of one network: for
    predictions leave it out.

    Args:
        kind: ``"shared"``: one draw of the weights for all data, as the program says. ``"local"``: the outputs W x of a
            layer are drawn from their own Gaussian (the local reparameterization), for each datum anew.
            ``"flipout"``: the one draw's deviation from the mean is multiplied by random signs of the layer's inputs
            and outputs, for each datum anew; for :class:`~pyro_vae.bayesian.MeanField` alone, whose deviations are
            symmetric and independent.

    Raises:
        ValueError: if ``kind`` is something else, or (at a layer) where it would not be the same distribution.

    Source: Kingma, Salimans & Welling (2015), section 2.3; Wen, Vicol, Ba, Tran & Grosse (2018), section 3.
    """

    @checked
    def __init__(self, kind: WeightNoise) -> None:
        super().__init__()
        self.kind = kind
        self.drawn: list[tuple[Tensor, Any]] = []

    def __exit__(self, *error: Any) -> Any:
        self.drawn = []
        return super().__exit__(*error)

    def _pyro_post_sample(self, msg: Any) -> None:
        q = (msg["infer"] or {}).get(POSTERIOR)
        if q is not None and self.kind != "shared":
            self.drawn.append((msg["value"], q))

    def _pyro_product(self, msg: Any) -> None:
        layer, weights, x = msg["args"]
        q = next((q for value, q in self.drawn if value is weights), None)
        draws = weights.shape[:-3].numel() if weights.dim() > 2 else 0
        rows = next((frame.size for frame in msg["cond_indep_stack"] if frame.dim == -1), 0)
        # A convolutional network folds its leading dimensions [K, B], also for its affine layers.
        folded = draws > 0 and layer.is_affine and x.dim() == 2 and len(x) == draws * rows
        if q is None and not folded:
            return
        x = x.unflatten(0, (draws, rows)) if folded else _for_each_draw(weights, x)
        if q is None:
            y = layer.product(weights, x)
        else:
            y = _flipped(q, layer, weights, x) if self.kind == "flipout" else _local(q, layer, x)
        msg["value"], msg["done"] = y.flatten(0, 1) if folded else y, True


def _for_each_draw(weights: Tensor, x: Tensor) -> Tensor:
    """``x: [B, C]`` for each of the weights ``[K, 1, R, C]``: the particles have noise of their own."""
    draws = weights.shape[:-2]
    return x.expand(*torch.broadcast_shapes(draws, x.shape[:-1]), -1) if draws and x.dim() < 4 else x


def _flipped(q: Any, layer: Any, weights: Tensor, x: Tensor) -> Tensor:
    if not _mean_field(q):
        raise ValueError(
            f"flipout changes the signs of single weights' deviations, which leaves the distribution of independent "
            f"weights alone unchanged; {layer.name} has a {type(q).__name__}. Use posterior=MeanField, or "
            "noise='local'."
        )
    mean = layer.product(q.mean, x)
    deviation = layer.product(weights - q.mean, x * _signs(x, layer.input_dims))
    return mean + deviation * _signs(deviation, layer.output_dims)


def _signs(like: Tensor, event_dims: tuple[int, int]) -> Tensor:
    """Random signs for each datum and each channel; the same at all places of an image."""
    channel, event_dim = event_dims
    shape = [size if dim < like.dim() - event_dim or dim == like.dim() + channel else 1
             for dim, size in enumerate(like.shape)]  # fmt: skip
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype) * 2 - 1


def _local(q: Any, layer: Any, x: Tensor) -> Tensor:
    if not layer.is_affine:
        raise ValueError(
            f"{layer.name} meets its weights at many places of an image, whose outputs the local reparameterization "
            "would make independent: another distribution. Use noise='flipout' (with posterior=MeanField) or 'shared'."
        )
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1) if layer.has_bias else x
    loc = x @ q.mean.mT
    return loc + _deviation(q, x, loc)


@functools.singledispatch
def _deviation(q: Any, x: Tensor, like: Tensor) -> Tensor:
    """A draw of (W - E W) x for each row of x: ``[*, C]`` -> ``[*, R]``."""
    raise ValueError(
        f"the local reparameterization of a {type(q).__name__} over weights is not known. Use a MeanField, LowRank or "
        "MatrixVariate posterior, or noise='shared'."
    )


@_deviation.register
def _(q: Independent, x: Tensor, like: Tensor) -> Tensor:
    if not _mean_field(q):
        return _deviation.dispatch(object)(q, x, like)
    return _independent(q.variance, x, like)


@_deviation.register
def _(q: MatrixNormal, x: Tensor, like: Tensor) -> Tensor:
    length = (x @ q.column_tril).square().sum(-1, keepdim=True).clamp_min(_LEAST).sqrt()
    return length * (torch.randn_like(like) @ q.row_tril.mT)


@_deviation.register
def _(q: Rows, x: Tensor, like: Tensor) -> Tensor:
    if not isinstance(q.base, LowRankNormal):
        return _deviation.dispatch(object)(q, x, like)
    scale = q.base.scale.unflatten(-1, q.event_shape)
    columns = (q.base.scale[..., None] * q.base.factor).unflatten(-2, q.event_shape)
    shared = torch.randn(*x.shape[:-1], columns.shape[-1], dtype=x.dtype, device=x.device)
    return _independent(scale**2, x, like) + torch.einsum("...c,rck,...k->...r", x, columns.to(x.dtype), shared)


_LEAST = 1e-12  # below which the root of a variance has a gradient that is none


def _independent(variance: Tensor, x: Tensor, like: Tensor) -> Tensor:
    return (x.square() @ variance.mT).clamp_min(_LEAST).sqrt() * torch.randn_like(like)


def _mean_field(q: Any) -> bool:
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)
