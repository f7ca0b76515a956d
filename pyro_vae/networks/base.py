"""What networks share: the shapes of one datum, and the layers in between."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered


class Network(Remembered, nn.Module):
    """Base of the networks ``[*, *in_shape] -> [*, *out_shape]``.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the output.
        layers: what lies between; the last has a ``bias``.
    """

    @checked
    def __init__(self, in_shape: torch.Size, out_shape: torch.Size, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.in_shape = in_shape
        self.out_shape = out_shape
        self.layers = nn.Sequential(*layers)

    @checked
    def start_at(self, output: Tensor) -> None:
        """Sets the last bias, so that the untrained network gives about ``output``, of the shape ``out_shape``.

        Where the last layer is a convolution, which has one bias a channel, it is the mean of ``output`` over pixels.

        Raises:
            ValueError: if ``output`` has another shape.
        """
        if output.shape != self.out_shape:
            raise ValueError(
                f"{type(self).__name__} starts at an output of its out_shape {list(self.out_shape)}; "
                f"got {list(output.shape)}."
            )
        bias = self.layers[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(output.reshape(len(bias), -1).mean(1))
