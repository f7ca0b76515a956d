"""Networks of vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae.networks.shapes import check_input, shape_of


class MLP(nn.Module):
    """Multilayer perceptron ``[*, *in_shape] -> [*, *out_shape]``.

    Args:
        in_shape: event shape of the input (flattened on the way in).
        out_shape: event shape of the output (unflattened on the way out).
        hidden: width of each hidden layer; empty for a linear map.
        activation: class of the non-linearity after each hidden layer.

    Raises:
        ValueError: if a size is below 1, or the input has another event shape.

    >>> MLP((1, 28, 28), (2, 20), hidden=(400,))(torch.rand(7, 128, 1, 28, 28)).shape
    torch.Size([7, 128, 2, 20])
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (500,),
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape = shape_of("in_shape", in_shape)
        self.out_shape = shape_of("out_shape", out_shape)
        widths = (self.in_shape.numel(), *(shape_of("hidden", hidden) if hidden else ()), self.out_shape.numel())
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)

    def start_at(self, output: Tensor) -> None:
        """Sets the last bias, so that the untrained network gives about ``output``, of the shape ``out_shape``."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(output.reshape(-1))


class Centered(nn.Module):
    """A network that sees its input about a fixed mean: ``network(x - mean)``.

    Inputs that are not centred, such as pixels in [0, 1], make a poorly conditioned problem of the first layer.

    Args:
        network: ``[*, *in_shape] -> [*, *out_shape]``.
        mean: ``[*in_shape]``, for example that of the training data; it is kept with the weights.

    Raises:
        ValueError: if ``mean`` is not finite, or has another shape than the network's input.

    Source: LeCun, Bottou, Orr & Mueller (1998), Efficient BackProp, section 4.3.
    """

    mean: Tensor

    def __init__(self, network: nn.Module, mean: Tensor) -> None:
        super().__init__()
        in_shape = getattr(network, "in_shape", mean.shape)
        if mean.shape != in_shape or not mean.isfinite().all():
            raise ValueError(
                f"the mean of the input has to be finite and of the network's input shape {list(in_shape)}; "
                f"got shape {list(mean.shape)}."
            )
        self.network = network
        self.in_shape = in_shape
        self.register_buffer("mean", mean.clone())

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        return self.network(x - self.mean)
