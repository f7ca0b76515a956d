"""Convolutions in which a pixel sees only those before it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered

Mask = Literal["A", "B"]


class MaskedConv2d(Remembered, nn.Conv2d):
    r"""A convolution that follows the raster order: the output at a pixel depends on the pixels before it.

    .. math:: h_{ij} = b + \sum_{(r, s) \prec (i, j)} W_{r - i, s - j} \, x_{rs}

    where :math:`(r, s) \prec (i, j)` is r < i, or r = i and s < j; with the mask ``"B"`` also (r, s) = (i, j). Height
    and width stay as they are. A network whose first layer has the mask ``"A"`` and whose others have ``"B"`` gives
    for each pixel, all its channels, the parameters of a distribution given the pixels before it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd; one size or (height, width).
        mask: ``"A"`` without the pixel itself, ``"B"`` with it.
        options: dilation, groups, bias, device and dtype of ``nn.Conv2d``.

    Shape:
        ``[N, in_channels, H, W] -> [N, out_channels, H, W]``, as ``nn.Conv2d``.

    Raises:
        ValueError: if a kernel size is even, or ``mask`` is something else.
        TypeError: if a stride or a padding is given.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel Recurrent Neural Networks, section 3.4.
    """

    mask: Tensor

    @checked(but=("in_channels", "out_channels"))
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], mask: Mask, **options: Any
    ) -> None:
        height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        if min(height, width) < 1 or height % 2 == 0 or width % 2 == 0:
            raise ValueError(
                f"the kernel of a masked convolution has a pixel in its middle, so its sizes are odd; "
                f"got {kernel_size}."
            )
        if {"stride", "padding", "padding_mode"} & options.keys():
            raise TypeError("a masked convolution keeps height and width: it has no stride, padding or padding_mode.")
        super().__init__(in_channels, out_channels, (height, width), padding="same", **options)
        before = torch.zeros(height * width)
        before[: height * width // 2 + (mask == "B")] = 1
        self.register_buffer("mask", before.reshape(1, 1, height, width).to(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.mask, self.bias)
