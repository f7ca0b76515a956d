"""Posteriors: ``x -> q(z | x)``, a distribution over the latent; the network is passed in."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.networks import two_parameters


class DiagonalNormal(nn.Module):
    r"""Gaussian with diagonal covariance, :math:`q(z \mid x) = \mathcal N(\mathrm{loc}(x), \mathrm{scale}(x)^2)`.

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2, latent_dim]``, loc and log variance stacked, so that
            scale = exp(log variance / 2).
        event_dim: number of event dimensions of ``x``; images ``[C, H, W]`` have 3. By default what the network's
            ``in_shape`` says, or 1.

    Raises:
        ValueError: if the network does not give two stacked parameters.

    Source: Kingma & Welling (2013), appendix C.2.
    """

    def __init__(self, network: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.event_dim = len(getattr(network, "in_shape", (1,))) if event_dim is None else event_dim

    def forward(self, x: Tensor) -> dist.Distribution:
        remedy = f", or say how many dimensions one datum has (event_dim={self.event_dim} here)"
        loc, log_variance = two_parameters("DiagonalNormal", self.network(x), x.dim() - self.event_dim, remedy)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(1)
