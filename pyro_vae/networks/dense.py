"""Networks of vectors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks.base import Network
from pyro_vae.networks.layers import Normalization, activated, affine, hidden_layer, normalizer, preactivated
from pyro_vae.networks.shapes import applied, check_input, in_shape_of, shape_of


class _Dense(Network):
    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        return applied(self.layers, x.flatten(-len(self.in_shape)), "network").unflatten(-1, self.out_shape)


class MLP(_Dense):
    r"""Multilayer perceptron ``[*, *in_shape] -> [*, *out_shape]``, of layers :math:`h = \phi(W x + b)`.

    Args:
        in_shape: event shape of the input (flattened on the way in).
        out_shape: event shape of the output (unflattened on the way out).
        hidden: width of each hidden layer; empty for a linear map.
        activation: class of the non-linearity :math:`\phi` after each hidden layer.
        normalization: of :math:`W x + b` in the hidden layers: ``"batch"`` (over all leading dimensions, particles
            too), ``"layer"`` (each datum over its units), ``"weight"`` (each row of W is ``g v / |v|``; see
            :func:`~pyro_vae.networks.data_dependent_init`), or ``None``.
        dropout: probability with which a hidden unit is dropped in training.

    Raises:
        ValueError: if a size or an option is out of its range, or the input has another event shape.

    Source: Ioffe & Szegedy (2015), Ba et al. (2016), Salimans & Kingma (2016), for the normalizations.

    >>> import torch
    >>> MLP((1, 28, 28), (2, 20), hidden=(400,))(torch.rand(7, 128, 1, 28, 28)).shape
    torch.Size([7, 128, 2, 20])
    """

    _gated = False

    @checked
    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (500,),
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        size_in, size_out = shape_of("in_shape", in_shape), shape_of("out_shape", out_shape)
        widths = (size_in.numel(), *(shape_of("hidden", hidden) if len(hidden) else ()))
        layers: list[nn.Module] = []
        for sizes in itertools.pairwise(widths):
            make = functools.partial(nn.Linear, *sizes)
            layers += hidden_layer(make, activation, normalization, self._gated, dropout)
        super().__init__(size_in, size_out, [*layers, nn.Linear(widths[-1], size_out.numel())])


class GatedMLP(MLP):
    r"""Multilayer perceptron of gated layers, ``[*, *in_shape] -> [*, *out_shape]``.

    .. math:: h = \phi(W x + b) \, \sigma(V x + c)

    Args:
        in_shape, out_shape, hidden, dropout: see :class:`MLP`.
        activation: class of :math:`\phi`; the identity in the paper, where the gate is the non-linearity.
        normalization: of :math:`W x + b` and of :math:`V x + c`, see :class:`MLP`.

    Raises:
        ValueError: as :class:`MLP`.

    Source: Tomczak & Welling (2018), VAE with a VampPrior, section 5; Dauphin et al. (2017), equation 1.
    """

    _gated = True

    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (300, 300),
        activation: type[nn.Module] = nn.Identity,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_shape, out_shape, hidden, activation, normalization, dropout)


class ResidualMLP(_Dense):
    r"""Residual network of vectors, ``[*, *in_shape] -> [*, *out_shape]``: a linear map, blocks, a linear map.

    .. math::
        h_0 = W_0 x + b_0, \qquad h_l = h_{l-1} + W_l' \, \phi(W_l \, \phi(h_{l-1}) + b_l) + b_l', \qquad
        y = W \phi(h_L) + b

    Args:
        in_shape, out_shape: see :class:`MLP`.
        hidden: width of each block; all have the same.
        activation: class of the non-linearity :math:`\phi`.
        normalization: of the input of each :math:`\phi` (``"batch"``, ``"layer"``), or of each W but the last
            (``"weight"``), see :class:`MLP`.
        dropout: probability with which a unit inside of a block is dropped in training.

    Raises:
        ValueError: as :class:`MLP`, and if the widths differ or there are none.

    Source: He et al. (2016), Identity Mappings in Deep Residual Networks, figure 4e.
    """

    @checked
    def __init__(
        self,
        in_shape: int | Sequence[int],
        out_shape: int | Sequence[int],
        hidden: Sequence[int] = (500, 500),
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        dropout: float = 0.0,
    ) -> None:
        size_in, size_out = shape_of("in_shape", in_shape), shape_of("out_shape", out_shape)
        widths = shape_of("hidden", hidden)
        if len(set(widths)) > 1:
            raise ValueError(
                f"hidden of a ResidualMLP has to be one width for all blocks, for example (500, 500); got {hidden!r}."
            )
        width = widths[0]
        layers = [affine(nn.Linear(size_in.numel(), width), normalization)]
        for _ in widths:
            pair = nn.Linear(width, width), nn.Linear(width, width)
            layers.append(preactivated(*pair, activation, normalization, dropout=dropout))
        layers += [
            *normalizer(width, normalization),
            activated(activation),
            nn.Linear(width, size_out.numel()),
        ]
        super().__init__(size_in, size_out, layers)


class Centered(Remembered, nn.Module):
    r"""A network that sees its input about a fixed mean, :math:`h = \mathrm{network}(x - \mathrm{mean})`.

    Inputs that are not centered, such as pixels in [0, 1], make a poorly conditioned problem of the first layer.

    Args:
        network: ``[*, *in_shape] -> [*, *out_shape]``.
        mean: ``[*in_shape]``, for example that of the training data; it is kept with the weights.

    Raises:
        ValueError: if ``mean`` is not finite, or has another shape than the network's input.

    Source: LeCun, Bottou, Orr & Mueller (1998), Efficient BackProp, section 4.3.
    """

    mean: Tensor

    @checked
    def __init__(self, network: nn.Module, mean: Tensor) -> None:
        super().__init__()
        in_shape = in_shape_of(network)
        in_shape = mean.shape if in_shape is None else in_shape
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
        return applied(self.network, (x.to(self.mean.dtype) if x.dtype == torch.bool else x) - self.mean)
