"""Corruption of a network's input, in training only."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, is_dense, number, shown
from pyro_vae._recipes import Remembered
from pyro_vae.networks.shapes import applied, at_least_float32, in_shape_of


class Corruption(Remembered, nn.Module):
    """Base of the random maps ``[*, *event] -> [*, *event]`` that act in training mode, as dropout does.

    In evaluation mode they are the identity. The noise comes from torch's generator, and is drawn at level 0 too.

    Args:
        level: how strong it is; a float buffer, which ``fit(..., schedules=...)`` can move.

    Raises:
        ValueError: if ``level``, given or loaded from a state dictionary, is outside of its range.
    """

    level: Tensor
    most: ClassVar[float] = 1.0

    @checked
    def __init__(self, level: float) -> None:
        super().__init__()
        self.check_buffer("level", level)
        self.initial_level = float(level)
        self.register_buffer("level", torch.tensor(self.initial_level))

    def check_buffer(self, name: str, value: float) -> None:
        """Refuses a ``level`` outside of its range; a schedule of it asks.

        Raises:
            ValueError: if it is.
        """
        if name == "level":
            number(0, self.most, level=value)

    @abstractmethod
    def corrupted(self, x: Tensor) -> Tensor:
        """A draw of the corrupted ``x``, of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_dense(x):
            raise TypeError(f"a {type(self).__name__} takes a dense tensor of real numbers; got {shown(x)}.")
        return self.corrupted(x) if self.training else x

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        level = state_dict.get(f"{prefix}level")
        if isinstance(level, Tensor) and level.numel() == 1 and not level.is_meta:
            self.check_buffer("level", level.item())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        # Not the level of the moment: a run that goes on is known by what its pair is built with.
        return f"initial_level={self.initial_level}"


class Masking(Corruption):
    r"""Each entry is lost with probability ``level``.

    .. math:: \tilde x_i = v \text{ with probability } \mathrm{level}, \quad x_i \text{ else}

    Args:
        level: the probability, in [0, 1].
        value: what a lost entry is set to, v.

    Source: Vincent et al. (2008), Extracting and Composing Robust Features with Denoising Autoencoders, section 2.3.

    >>> Masking(1.0)(torch.ones(2, 3))
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    """

    def __init__(self, level: float, value: float = 0.0) -> None:
        super().__init__(level)
        number(value=value)
        self.value = value

    def corrupted(self, x: Tensor) -> Tensor:
        return torch.where(torch.rand_like(at_least_float32(x)) < self.level, self.value, x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, value={self.value}"


class SaltAndPepper(Corruption):
    r"""Each entry goes to one of two extremes with probability ``level``, to each as often.

    .. math::
        \tilde x_i = \mathrm{low} \text{ or } \mathrm{high} \text{ with probability } \mathrm{level} / 2 \text{ each},
        \quad x_i \text{ else}

    Args:
        level: the probability, in [0, 1].
        low: one extreme.
        high: the other one.

    Source: Vincent et al. (2010), Stacked Denoising Autoencoders, section 3.3.
    """

    def __init__(self, level: float, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(level)
        number(low=low, high=high)
        self.low, self.high = low, high

    def corrupted(self, x: Tensor) -> Tensor:
        place = torch.rand_like(at_least_float32(x))
        return torch.where(place < self.level / 2, self.low, torch.where(place < self.level, self.high, x))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, low={self.low}, high={self.high}"


class GaussianNoise(Corruption):
    r"""Adds noise to each entry.

    .. math:: \tilde x = x + \mathrm{level} \cdot \epsilon, \quad \epsilon \sim \mathcal N(0, I)

    Args:
        level: standard deviation of the noise, in the units of x.

    Source: Vincent et al. (2010), Stacked Denoising Autoencoders, section 3.3.
    """

    most = math.inf

    def corrupted(self, x: Tensor) -> Tensor:
        return x + self.level * torch.randn_like(at_least_float32(x) if not x.is_floating_point() else x)


class Corrupted(Remembered, nn.Module):
    r"""A network that sees its input corrupted in training: ``network(corruption(x))``.

    As the encoder of a posterior it makes the bound that of denoising,

    .. math::
        \mathbb E_{p(\tilde x \mid x)} \mathbb E_{q(z \mid \tilde x)} [\log p(x, z) - \log q(z \mid \tilde x)]
        \le \log p(x)

    where the level is the buffer ``corruption.level``. The particles of a datum share one :math:`\tilde x`.

    Args:
        network: ``[*, *in_shape] -> [*, *out_shape]``.
        corruption: one of :class:`Masking`, :class:`SaltAndPepper`, :class:`GaussianNoise`, or any module
            ``[*, *in_shape] -> [*, *in_shape]``.

    Raises:
        TypeError: if ``corruption`` is no module.

    Source: Im, Ahn, Memisevic & Bengio (2017), Denoising Criterion for Variational Auto-Encoding Framework.
    """

    @checked(but=("corruption",))
    def __init__(self, network: nn.Module, corruption: nn.Module) -> None:
        super().__init__()
        if not isinstance(corruption, nn.Module):
            given = f"the class {corruption.__name__}" if isinstance(corruption, type) else shown(corruption)
            raise TypeError(f"a corruption is a module, such as Masking(0.5); got {given}.")
        self.network = network
        self.corruption = corruption
        if (in_shape := in_shape_of(network)) is not None:
            self.in_shape = in_shape

    def forward(self, x: Tensor) -> Tensor:
        return applied(self.network, self.corruption(x))
