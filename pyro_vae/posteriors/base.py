"""What posteriors share: a network, and where the event dimensions of x begin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.networks import event_dim_of, stacked


class Posterior(nn.Module):
    r"""Base of the posteriors whose parameters a network gives, stacked: :math:`q(z \mid x) = q(z; \lambda(x))`.

    Args:
        network: ``x: [*, B, *event]`` to what :meth:`network_shape` says, after the leading ``[*, B]``.
        event_dim: number of event dimensions of ``x``; images ``[C, H, W]`` have 3. By default what the network's
            ``in_shape`` says, or 1.
    """

    def __init__(self, network: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        self.network = network
        self._event_dim = event_dim

    @property
    def event_dim(self) -> int:
        """Number of event dimensions of x."""
        return event_dim_of(self.network) if self._event_dim is None else self._event_dim

    @abstractmethod
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the network's output for one datum, for a latent of ``latent_shape``."""

    @abstractmethod
    def forward(self, x: Tensor) -> dist.Distribution:
        """q(z | x), with batch shape ``[*, B]``, for ``x: [*, B, *event]``."""

    def _independent(self, q: dist.TorchDistribution, x: Tensor) -> dist.Distribution:
        """The dimensions of q that are none of ``[*, B]`` as one event."""
        return q.to_event(len(q.batch_shape) - (x.dim() - self.event_dim))

    def _stacked(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The ``count`` parameters that the network gives, each ``[*, B, *latent_shape]``."""
        remedy = f", or say how many dimensions one datum has (event_dim={self.event_dim} here)"
        return stacked(type(self).__name__, self.network(x), count, x.dim() - self.event_dim, remedy)
