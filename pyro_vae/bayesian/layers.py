"""Layers with random weights: each layer's weights, with its bias as the last column, are one site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._checks import checked, made, shown
from pyro_vae._pyro import UNSEEN, full_name, hold, picklable_prior
from pyro_vae.bayesian.noise import POSTERIOR, product


class BayesianLayer(PyroModule):
    r"""A layer whose weights are a random variable, ``weights: [R, C]``, a ``PyroSample`` of the prior.

    R outputs and C inputs; a bias is the column of an input that is always 1. A run of a program draws them once.

    Args:
        layer: the layer as it is: its weights are where the posterior starts.
        prior: makes p(theta) of the shape (R, C), see :mod:`pyro_vae.bayesian.priors`.
        posterior: makes q(theta) of the matrix of the layer's own weights, see :mod:`pyro_vae.bayesian.posteriors`.
    """

    random_weights = True  # its parameters are those of a prior and a posterior: no weight prior of fit is for them
    is_affine = False  # whether each output meets the weights of its row once
    input_dims = (-1, 1)  # where the channels of the input are, and how many dimensions a datum has
    output_dims = (-1, 1)

    @checked
    def __init__(
        self, layer: Any, prior: Callable[[Sequence[int]], nn.Module], posterior: Callable[[Tensor], nn.Module]
    ) -> None:
        super().__init__()
        wanted = "padding_mode" if isinstance(self, _Convolution) else "weight"
        if not isinstance(getattr(layer, "weight", None), Tensor) or not hasattr(layer, wanted):
            raise TypeError(f"layer has to be a torch layer of the kind of {type(self).__name__}; got {shown(layer)}.")
        point = self.matrix(layer)
        self.has_bias = layer.bias is not None
        if self.has_bias:
            point = functional.pad(point, (0, 1))
            point[:, -1] = layer.bias.detach()
        self.description = repr(layer)
        self.prior = made("prior", prior, tuple(point.shape)).to(point)
        self.posterior = made("posterior", posterior, point).to(point)

    @PyroSample
    def weights(self: Any) -> Any:
        return self.prior()

    def extra_repr(self) -> str:
        return self.description

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"the layer {full_name(self) or type(self).__name__}"

    @staticmethod
    @abstractmethod
    def matrix(layer: Any) -> Tensor:
        """The weights of the layer as they are, without bias: ``[R, C]``."""

    @abstractmethod
    def product(self, weights: Tensor, x: Tensor) -> Tensor:
        """The layer's outputs for one draw of the weights, ``[R, C]``, or ``[*particles, 1, R, C]``."""

    def sample_posterior(self, traced: bool = True) -> Tensor:
        """theta ~ q(theta), as the guide's site of the name that ``weights`` has in the model.

        Not ``traced``, the draw is no site for an estimator: nothing scores it.
        """
        q = self.posterior()
        infer: Any = {POSTERIOR: q} if traced else UNSEEN
        return self.fix(pyro.sample(full_name(self, "weights"), q, infer=infer))

    def fix(self, weights: Tensor) -> Tensor:
        """Gives the weights their value in this run of the program, which then draws none."""
        hold(self, "weights", weights)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        return product(self, self.weights, x)

    def _split(self, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        return (weights[..., :-1], weights[..., -1]) if self.has_bias else (weights, None)


picklable_prior(BayesianLayer, "weights")


class BayesianLinear(BayesianLayer):
    """``nn.Linear`` with random weights; ``[*, B, in] -> [*, B, out]``, also for one draw a particle."""

    is_affine = True

    @staticmethod
    def matrix(layer: nn.Linear) -> Tensor:
        return layer.weight.detach().clone()

    def product(self, weights: Tensor, x: Tensor) -> Tensor:
        weight, bias = self._split(weights)
        if weights.dim() == 2:
            return functional.linear(x, weight, bias)
        inner = max(x.dim() - weights.dim() + 1, 0)  # dimensions of a datum, of size 1 in the weights as the data plate
        y = x @ weight.squeeze(-3)[(..., *[None] * inner, slice(None), slice(None))].mT
        return y if bias is None else y + bias[(..., *[None] * inner, slice(None))]


class _Convolution(BayesianLayer):
    input_dims = (-3, 3)
    output_dims = (-3, 3)

    def __init__(self, layer: Any, prior: Any, posterior: Any) -> None:
        super().__init__(layer, prior, posterior)
        if layer.padding_mode != "zeros":
            raise ValueError(f"a Bayesian convolution pads with zeros; {layer} pads otherwise. Leave padding_mode out.")
        self.options = {option: getattr(layer, option) for option in ("stride", "padding", "dilation")}
        self.groups = layer.groups

    def product(self, weights: Tensor, x: Tensor) -> Tensor:
        """``[N, in, H, W] -> [N, out, H', W']``; of K draws each meets one K-th of the rows, in their order.

        Networks fold leading dimensions ``[K, B]`` into the rows of a convolution, the particles first.
        """
        weight, bias = self._split(weights)
        if weights.dim() == 2:
            return self._convolve(x, self._kernel(weight), bias, 1)
        weight = weight.flatten(0, -3)
        draws = len(weight)
        if len(x) % draws:
            raise ValueError(
                f"{self.name} has {draws} draws of its weights, one for each particle, but the {len(x)} images that it "
                "sees do not divide among them: pass images with the particles as their leftmost dimension."
            )
        side_by_side = x.unflatten(0, (draws, -1)).transpose(0, 1).flatten(1, 2)
        kernel = torch.cat([self._kernel(one) for one in weight.unbind()])
        y = self._convolve(side_by_side, kernel, None if bias is None else bias.flatten(), draws)
        return y.unflatten(1, (draws, -1)).transpose(0, 1).flatten(0, 1)

    @abstractmethod
    def _kernel(self, weight: Tensor) -> Tensor:
        """A matrix ``[R, C]`` as torch's convolutions expect it."""

    @abstractmethod
    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, draws: int) -> Tensor:
        """The convolution in ``draws`` times as many groups."""


class BayesianConv2d(_Convolution):
    """``nn.Conv2d`` with random weights: R is the number of output channels."""

    def __init__(self, layer: nn.Conv2d, prior: Any, posterior: Any) -> None:
        super().__init__(layer, prior, posterior)
        self.kernel_shape = layer.weight.shape[1:]

    @staticmethod
    def matrix(layer: nn.Conv2d) -> Tensor:
        return layer.weight.detach().flatten(1).clone()

    def _kernel(self, weight: Tensor) -> Tensor:
        return weight.unflatten(-1, self.kernel_shape)

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, draws: int) -> Tensor:
        return functional.conv2d(x, kernel, bias, groups=draws * self.groups, **self.options)


class BayesianConvTranspose2d(_Convolution):
    """``nn.ConvTranspose2d`` with random weights: R is the number of output channels."""

    def __init__(self, layer: nn.ConvTranspose2d, prior: Any, posterior: Any) -> None:
        super().__init__(layer, prior, posterior)
        if layer.groups != 1:
            raise ValueError(f"a Bayesian transposed convolution has one group; got {layer}.")
        self.options["output_padding"] = layer.output_padding
        self.kernel_shape = (layer.in_channels, *layer.kernel_size)

    @staticmethod
    def matrix(layer: nn.ConvTranspose2d) -> Tensor:
        return layer.weight.detach().transpose(0, 1).flatten(1).clone()

    def _kernel(self, weight: Tensor) -> Tensor:
        return weight.unflatten(-1, self.kernel_shape).transpose(0, 1)

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, draws: int) -> Tensor:
        return functional.conv_transpose2d(x, kernel, bias, groups=draws, **self.options)


#: What each layer becomes.
LAYERS: dict[type[nn.Module], type[BayesianLayer]] = {
    nn.Linear: BayesianLinear,
    nn.Conv2d: BayesianConv2d,
    nn.ConvTranspose2d: BayesianConvTranspose2d,
}
