"""Networks: Tensor -> Tensor, with any number of leading dimensions.

A network maps ``[*, *in_shape]`` to ``[*, *out_shape]``, whatever the leading dimensions are, so that particles are
one more dimension on the left. Where a distribution has two parameters, the network stacks them: ``[*, 2, *event]``.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def shape_of(name: str, shape: int | Sequence[int]) -> torch.Size:
    """``shape``, one size or several, as a ``torch.Size``; an error calls it ``name``."""
    try:
        sizes = tuple(operator.index(size) for size in (shape if isinstance(shape, Iterable) else (shape,)))
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(f"{name} has to hold sizes of at least 1, for example 20 or (1, 28, 28); got {shape!r}.")
    return torch.Size(sizes)


def _check_input(network: nn.Module, x: Tensor, in_shape: torch.Size) -> None:
    if x.shape[-len(in_shape) :] != in_shape:
        raise ValueError(
            f"{type(network).__name__} was built for inputs of shape [*, {', '.join(map(str, in_shape))}]; "
            f"got {list(x.shape)}. Build it with in_shape={tuple(x.shape[-len(in_shape) :])}, or reshape the data."
        )


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
        _check_input(self, x, self.in_shape)
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
        _check_input(self, x, self.in_shape)
        return self.network(x - self.mean)


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 and one hidden layer: images ``[*, C, H, W] -> [*, *out_shape]``.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: event shape of the output.
        channels: output channels of each 3 x 3 convolution; each halves height and width (rounded up).
        hidden: width of the layer between the convolutions and the output.
        activation: class of the non-linearity.

    Raises:
        ValueError: if ``in_shape`` is not ``(C, H, W)``, there are no ``channels``, or the input has another event
            shape.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: int | Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = _image_shape("in_shape", in_shape), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        layers: list[nn.Module] = []
        for channels_in, channels_out in itertools.pairwise((self.in_shape[0], *channels)):
            layers += [nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1), activation()]
        features = math.prod(_halved(self.in_shape, channels)[-1])
        layers += [nn.Flatten(), nn.Linear(features, hidden), activation(), nn.Linear(hidden, self.out_shape.numel())]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        _check_input(self, x, self.in_shape)
        leading = x.shape[:-3]
        return self.layers(x.reshape(-1, *self.in_shape)).reshape(*leading, *self.out_shape)


class ConvDecoder(nn.Module):
    """One hidden layer and transposed convolutions of stride 2: ``[*, in_features] -> [*, *out_shape]``.

    The mirror image of :class:`ConvEncoder`; any height and width come out exactly.

    Args:
        in_features: size of the latent.
        out_shape: ``(C, H, W)``, or ``(2, C, H, W)`` for two parameters a pixel.
        channels: input channels of each 3 x 3 transposed convolution, from the innermost outwards.
        hidden: width of the layer between the input and the convolutions.
        activation: class of the non-linearity.

    Raises:
        ValueError: if ``out_shape`` does not end with ``(C, H, W)``, there are no ``channels``, or the input has
            another size.
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = shape_of("in_features", in_features), shape_of("out_shape", out_shape)
        channels = shape_of("channels", channels)
        image = _image_shape("out_shape", self.out_shape[-3:])
        image = torch.Size((image[0] * self.out_shape[:-3].numel(), *image[1:]))
        shapes = _halved(image, tuple(reversed(channels)))[::-1]  # innermost first, the image last
        layers: list[nn.Module] = [
            nn.Linear(in_features, hidden),
            activation(),
            nn.Linear(hidden, math.prod(shapes[0])),
            activation(),
            nn.Unflatten(-1, shapes[0]),
        ]
        for inner, outer in itertools.pairwise(shapes):
            # A stride of 2 leaves open whether a size was even or odd: output_padding says which.
            padding = (1 - 2 * inner[1] + outer[1], 1 - 2 * inner[2] + outer[2])
            layers += [
                nn.ConvTranspose2d(inner[0], outer[0], 3, stride=2, padding=1, output_padding=padding),
                activation(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        _check_input(self, z, self.in_shape)
        leading = z.shape[:-1]
        return self.layers(z.reshape(-1, *self.in_shape)).reshape(*leading, *self.out_shape)


def _image_shape(name: str, shape: Sequence[int]) -> torch.Size:
    if len(shape) != 3:
        raise ValueError(f"{name} has to be (channels, height, width); got {tuple(shape)}.")
    return shape_of(name, shape)


def _halved(image: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """The shapes from the image inwards: each step halves height and width, rounded up."""
    shapes = [(image[0], image[1], image[2])]
    for width in channels:
        _, height, breadth = shapes[-1]
        shapes.append((width, (height + 1) // 2, (breadth + 1) // 2))
    return shapes


def normal_init(module: nn.Module, scale: float = 0.01, generator: torch.Generator | None = None) -> nn.Module:
    """Draws every weight from N(0, scale^2) and sets every bias to 0, in place, as Kingma & Welling (2013) did.

    What is neither (the gain of a normalisation, a scale) stays as it is.

    Returns:
        ``module``.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, scale, generator=generator)
            elif name.split(".")[-1] == "bias":
                parameter.zero_()
    return module


def at_least_float32(parameter: Tensor) -> Tensor:
    """``parameter`` in float32 or better: log-probabilities are never summed in half precision."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


def two_parameters(name: str, output: Tensor, leading: int, remedy: str = "") -> tuple[Tensor, Tensor]:
    """Splits a network's output ``[*, 2, *event]``, with ``leading`` dimensions in ``*``.

    ``remedy`` is what else may help, for the message.

    Raises:
        ValueError: if there is no dimension of size 2 in that place.
    """
    if output.dim() <= leading or output.shape[leading] != 2:
        raise ValueError(
            f"{name} has two parameters, so its network has to give [*, 2, *event], the two stacked; "
            f"got {list(output.shape)} for {leading} leading dimension{'s' * (leading != 1)}. "
            f"Build the network with out_shape=(2, *event){remedy}."
        )
    first, second = at_least_float32(output).unbind(leading)
    return first, second
