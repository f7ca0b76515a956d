"""What posteriors share: a network, and where the event dimensions of x begin."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks import applied, at_least_float32, check_fits, event_dim_of, stacked


class Posterior(Remembered, nn.Module):
    r"""Base of the posteriors whose parameters a network gives, stacked: :math:`q(z \mid x) = q(z; \lambda(x))`.

    Args:
        network: ``x: [*, B, *event]`` to what :meth:`network_shape` says, after the leading ``[*, B]``.
        event_dim: number of event dimensions of ``x``; images have 3. By default that of the network's ``in_shape``.
    """

    @checked
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

    def _vector(self, x: Tensor, wanted: str, fits: Callable[[int], bool] = bool) -> Tensor:
        """What the network gives, ``[*, B, size]``, a vector of a size that fits; ``wanted`` says so in the message.

        Raises:
            ValueError: if it is none.
        """
        output = at_least_float32(applied(self.network, x, type(self).__name__))
        if output.dim() != x.dim() - self.event_dim + 1 or not fits(output.shape[-1]):
            raise ValueError(
                f"the network of a {type(self).__name__} has to give {wanted}; got {list(output.shape)} for x of shape "
                f"{list(x.shape)}. Build it with the out_shape that posterior.network_shape gives, or say how many "
                f"dimensions one datum has (event_dim={self.event_dim} here)."
            )
        return output

    def _made(self, distribution: Callable[..., Any], x: Tensor, *args: Any, **parameters: Any) -> Any:
        """A distribution of parameters; torch can look at none of no data."""
        try:
            return distribution(*args, **parameters)
        except RuntimeError as error:
            check_fits(self, x, error)
            raise

    def _independent(self, q: dist.TorchDistribution, x: Tensor) -> dist.Distribution:
        """The dimensions of q that are none of ``[*, B]`` as one event."""
        return q.to_event(len(q.batch_shape) - (x.dim() - self.event_dim))

    def _stacked(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """The ``count`` parameters that the network gives, each ``[*, B, *latent_shape]``."""
        remedy = f", or say how many dimensions one datum has (event_dim={self.event_dim} here)"
        return stacked(
            type(self).__name__, applied(self.network, x, type(self).__name__), count, x.dim() - self.event_dim, remedy
        )
