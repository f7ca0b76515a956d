"""Gaussian posteriors."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.posteriors.base import Posterior


class DiagonalNormal(Posterior):
    r"""Gaussian with diagonal covariance, :math:`q(z \mid x) = \mathcal N(\mathrm{loc}(x), \mathrm{scale}(x)^2)`.

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2, latent_dim]``, loc and log variance stacked, so that
            scale = exp(log variance / 2).
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if the network does not give two stacked parameters.

    Source: Kingma & Welling (2013), appendix C.2.
    """

    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *latent_shape)

    def forward(self, x: Tensor) -> dist.Distribution:
        loc, log_variance = self._stacked(x, 2)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(loc.dim() - x.dim() + self.event_dim)
