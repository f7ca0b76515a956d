"""Where networks start."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pyro_vae._checks import checked, number
from pyro_vae._tensors import module_
from pyro_vae._torch import weight_norm_gain

_ROUNDING = 1e-10  # variance below which outputs of order 1 are constant


@checked
def normal_init(module: nn.Module, scale: float = 0.01, generator: torch.Generator | None = None) -> nn.Module:
    """Draws every weight from N(0, scale^2) and sets every bias to 0, in place, as Kingma & Welling (2013) did.

    Under weight normalization it is the weight ``g v / |v|`` that is drawn. What is neither (the gain of another
    normalization, a scale) stays as it is.

    Returns:
        ``module``.

    Raises:
        TypeError: if ``module`` is no torch module.
        ValueError: if ``scale`` is negative, or not finite.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import networks
    >>> network = networks.normal_init(pv.MLP(4, 2, hidden=(8,)), scale=0.01)
    """
    module_(module=module)
    number(0, scale=scale)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "parametrizations" in name.split("."):
                continue
            if parameter.dim() > 1:
                parameter.normal_(0.0, float(scale), generator=generator)
            elif name.split(".")[-1] == "bias":
                parameter.zero_()
        for layer in module.modules():
            if is_parametrized(layer, "weight"):
                weight = cast(Tensor, layer.weight)
                layer.weight = torch.empty_like(weight).normal_(0.0, scale, generator=generator)
    return module


@checked
def data_dependent_init(module: nn.Module, x: Tensor) -> nn.Module:
    r"""Starts the weight-normalized layers of a network from one batch, in place.

    The gain g and bias b of each layer :math:`t = g \, v \cdot x / |v| + b` become such that its outputs have mean 0
    and variance 1 over the batch (and over pixels), each layer behind those that are set already:

    .. math:: g \leftarrow g / \mathrm{scale}[t], \qquad b \leftarrow (b - \mathrm{mean}[t]) / \mathrm{scale}[t]

    The gain of an output that is the same for all of the batch stays as it is. The batch runs in evaluation mode, and
    :meth:`Network.start_at` goes afterwards, if at all.

    Args:
        module: a network, or anything called with ``x`` that runs one, such as a posterior.
        x: ``[*, *in_shape]``, a batch.

    Returns:
        ``module``.

    Raises:
        ValueError: if no layer is weight-normalized, or one has no gain for each of its outputs.

    Source: Salimans & Kingma (2016), equations 5 and 6.

    >>> from pyro_vae.networks import MLP
    >>> network = data_dependent_init(MLP(784, (2, 20), normalization="weight"), torch.rand(100, 784))
    """
    module_(module=module)
    layers = [layer for layer in module.modules() if weight_norm_gain(layer) is not None]
    if not layers:
        raise ValueError(
            f"no layer of this {type(module).__name__} is weight-normalized. Build its networks with "
            "normalization='weight', or leave data_dependent_init out."
        )
    modes = [(part, part.training) for part in module.modules()]
    handles = [layer.register_forward_hook(_standardize) for layer in layers]
    try:
        with torch.no_grad():
            module.eval()(x)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes:
            part.training = training
    return module


def _standardize(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    gain, bias = cast(Tensor, weight_norm_gain(layer)), cast("Tensor | None", layer.bias)
    dim = 1 - cast(Tensor, layer.weight).dim()  # of the outputs: the last of a dense layer, the third last of images
    outputs = output.movedim(dim, -1)
    if gain.numel() != outputs.shape[-1]:
        raise ValueError(
            f"a weight-normalized {type(layer).__name__} has {gain.numel()} gains for {outputs.shape[-1]} outputs. "
            "Give weight_norm the dimension of the weight that counts outputs (dim=1 for transposed convolutions)."
        )
    variance, mean = torch.var_mean(outputs.flatten(0, -2), 0, correction=0)
    factor = torch.where(variance > _ROUNDING, variance.rsqrt(), 1.0)
    gain.mul_(factor.view_as(gain))
    if bias is None:
        return (outputs * factor).movedim(-1, dim)
    bias.sub_(mean).mul_(factor)
    return ((outputs - mean) * factor).movedim(-1, dim)
