"""What likelihoods share: a network, and where the event dimensions of its output begin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._checks import checked, is_tensor, shown
from pyro_vae._recipes import Remembered
from pyro_vae.networks import applied, at_least_float32, check_output, event_dim_of, stacked


class Likelihood(Remembered, nn.Module):
    r"""Base of the likelihoods whose parameters a network gives: :math:`p(x \mid z) = p(x; \lambda(z))`.

    Args:
        network: ``z: [*, latent_dim]`` to what :meth:`network_shape` says, after the leading ``[*]``. A network with an
            ``in_shape`` of several dimensions takes feature maps, ``z: [*, *in_shape]``.
    """

    @checked
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the network's output for one datum of ``event_shape``; by default the same."""
        return tuple(event_shape)

    @abstractmethod
    def forward(self, z: Tensor) -> dist.Distribution:
        """p(x | z), with batch shape ``[*]``, for ``z: [*, latent_dim]``."""

    def doubt(self, x: Tensor) -> str | None:
        """What a user should know before it is fitted to data like ``x: [B, *event]``; by default nothing."""
        return None

    def _leading(self, z: Tensor) -> int:
        """How many dimensions of z stand before those of one datum."""
        if not is_tensor(z):
            raise TypeError(f"a {type(self).__name__} takes a dense tensor of real numbers; got {shown(z)}.")
        return z.dim() - event_dim_of(self.network)

    def _output(self, z: Tensor) -> Tensor:
        """The network's output as it is, ``[*, *event]``, in float32 or better."""
        return at_least_float32(applied(self.network, z, type(self).__name__))

    def _stacked(self, z: Tensor, count: int, name: str | None = None) -> tuple[Tensor, ...]:
        """The ``count`` parameters that the network gives, each ``[*, *event]``."""
        return stacked(
            name or type(self).__name__, applied(self.network, z, type(self).__name__), count, self._leading(z)
        )

    def _last(self, z: Tensor, *sizes: int) -> Tensor:
        """The network's output ``[*, *sizes, *event]`` as ``[*, *event, *sizes]``."""
        leading = self._leading(z)
        output = check_output(type(self).__name__, applied(self.network, z, type(self).__name__), sizes, leading)
        return output.movedim(tuple(range(leading, leading + len(sizes))), tuple(range(-len(sizes), 0)))

    def _event(self, pixels: dist.TorchDistribution, z: Tensor) -> dist.Distribution:
        """Independent pixels ``[*, *event]`` as one datum."""
        return pixels.to_event(len(pixels.batch_shape) - self._leading(z))
