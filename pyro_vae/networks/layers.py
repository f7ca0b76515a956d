"""Layers: affine maps with their normalization, gates and residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae._checks import checked, made, number, one_of, shown
from pyro_vae._recipes import Remembered

Normalization = Literal["batch", "weight", "layer"]
Affine: TypeAlias = "nn.Linear | nn.Conv2d | nn.ConvTranspose2d"


class BatchNorm(Remembered, nn.BatchNorm1d):
    r"""Batch normalization of vectors ``[*, C]``, with the statistics of all leading dimensions together.

    .. math:: h_c = g_c \, (x_c - m_c) / \sqrt{v_c + \mathrm{eps}} + b_c

    with mean m and variance v of the batch in training, and their running averages in evaluation mode.

    Args:
        num_features: C.
        eps, momentum, affine, track_running_stats: see ``nn.BatchNorm1d``.

    Raises:
        ValueError: in training, if there is but one datum, which has no variance.

    Source: Ioffe & Szegedy (2015).
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        if self.training and rows.shape[0] == 1:
            raise ValueError(
                "batch norm takes mean and variance over the batch, so it has to see more than one datum in training; "
                "got a batch of size 1. Drop the last batch where one datum is left over, choose a batch size that "
                "leaves none over, or build the network with normalization='layer'."
            )
        return super().forward(rows).reshape(input.shape)


class Gated(Remembered, nn.Module):
    r"""A layer times a gate, :math:`h = \mathrm{value}(x) \, \sigma(\mathrm{gate}(x))`.

    Args:
        value: ``[*, D] -> [*, H]``, or of images.
        gate: likewise.

    Source: Dauphin et al. (2017), equation 1.
    """

    @checked
    def __init__(self, value: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.value = value
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


class Residual(Remembered, nn.Module):
    r"""A branch beside a shortcut, :math:`h = \mathrm{shortcut}(x) + \mathrm{branch}(x)`.

    Args:
        branch: ``[*, D] -> [*, H]``, or of images.
        shortcut: likewise; by default the identity.

    Source: He et al. (2016), Identity Mappings in Deep Residual Networks, equation 1.
    """

    @checked
    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


def affine(layer: Affine, normalization: Normalization | None) -> nn.Module:
    """``layer``, with a gain for each output (``"weight"``), or without the bias that ``"batch"`` takes away again."""
    if normalization == "weight":
        return weight_norm(layer, dim=1 if isinstance(layer, nn.ConvTranspose2d) else 0)
    if normalization == "batch":
        layer.register_parameter("bias", None)
    return layer


def normalizer(width: int, normalization: Normalization | None, image: bool = False) -> list[nn.Module]:
    """What normalizes ``[*, width]`` or images ``[N, width, H, W]``; nothing for weight normalization, or none.

    Raises:
        ValueError: if ``normalization`` is something else.
    """
    one_of((*get_args(Normalization), None), normalization=normalization)
    if normalization == "batch":
        return [nn.BatchNorm2d(width) if image else BatchNorm(width)]
    if normalization == "layer":
        return [nn.GroupNorm(1, width) if image else nn.LayerNorm(width)]
    return []


def normalized(layer: Affine, normalization: Normalization | None) -> list[nn.Module]:
    """``layer`` and the normalization of its output."""
    image = not isinstance(layer, nn.Linear)
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return [affine(layer, normalization), *normalizer(width, normalization, image)]


def preactivated(
    first: Affine,
    second: Affine,
    activation: type[nn.Module],
    normalization: Normalization | None,
    shortcut: nn.Module | None = None,
    dropout: float = 0.0,
) -> Residual:
    r"""Two affine layers, each behind an activation, beside a shortcut: :math:`h = S x + W' \, \phi(W \, \phi(x))`.

    Source: He et al. (2016), Identity Mappings in Deep Residual Networks, figure 4e.
    """
    image = not isinstance(first, nn.Linear)
    width = first.in_features if isinstance(first, nn.Linear) else first.in_channels
    branch = nn.Sequential(
        *normalizer(width, normalization, image),
        activated(activation),
        *hidden_layer(lambda: first, activation, normalization, dropout=dropout),
        affine(second, normalization),
    )
    return Residual(branch, shortcut)


def activated(activation: type[nn.Module]) -> nn.Module:
    """A layer of a class of non-linearities.

    Raises:
        TypeError: if ``activation`` makes none.
    """
    layer = made("activation", activation)
    if not isinstance(layer, nn.Module):
        raise TypeError(f"activation has to make a module, such as nn.ReLU does; got {shown(activation)}.")
    return layer


def hidden_layer(
    make: Callable[[], Affine],
    activation: type[nn.Module],
    normalization: Normalization | None,
    gated: bool = False,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """An affine layer that ``make`` gives, its normalization, activation and dropout; two of them where gated.

    Raises:
        ValueError: if ``dropout`` is not in [0, 1).
    """
    number(0, below=1, dropout=dropout)
    layers = [*normalized(make(), normalization), activated(activation)]
    if gated:
        layers = [Gated(nn.Sequential(*layers), nn.Sequential(*normalized(make(), normalization)))]
    return [*layers, nn.Dropout(dropout)] if dropout else layers
