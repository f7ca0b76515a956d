"""Posteriors on the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae import distributions
from pyro_vae._checks import checked
from pyro_vae.posteriors.base import Posterior


class _Spherical(Posterior):
    distribution: ClassVar[Any]

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        if len(latent_shape) != 1 or latent_shape[0] < 2:
            raise ValueError(
                f"{type(self).__name__} is on a sphere: its latent is a vector of at least 2 numbers, of shape (D,); "
                f"got {tuple(latent_shape)}."
            )
        return (latent_shape[0] + 1,)

    def forward(self, x: Tensor) -> dist.Distribution:
        wanted = "D + 1 numbers for a latent of size D, at least 2 (a direction and a concentration): [*, B, D + 1]"
        output = self._vector(x, wanted, lambda count: count > 2)
        return self.distribution(_unit(output[..., :-1]), softplus(output[..., -1]))


class PowerSpherical(_Spherical):
    r"""Power spherical posterior, :math:`q(z \mid x) \propto (1 + \mathrm{loc}(x)^\top z)^{\kappa(x)}`, on the sphere.

    Its draws need no rejection. The KL to :class:`~pyro_vae.priors.sphere.SphereUniform` is in closed form.

    Args:
        network: ``x: [*, B, *event] -> [*, B, D + 1]``: loc, of any length, and what softplus makes the concentration.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if the network gives another shape.

    Source: De Cao & Aziz (2020).
    """

    distribution = distributions.PowerSpherical


class VonMisesFisher(_Spherical):
    r"""Von Mises-Fisher posterior, :math:`q(z \mid x) \propto \exp(\kappa(x) \mathrm{loc}(x)^\top z)`, on the sphere.

    The KL to :class:`~pyro_vae.priors.sphere.SphereUniform` is in closed form.

    Args:
        network, event_dim: see :class:`PowerSpherical`.

    Raises:
        ValueError: if the network gives another shape.

    Source: Davidson et al. (2018).
    """

    distribution = distributions.VonMisesFisher


def _unit(vector: Tensor) -> Tensor:
    """``vector`` at length 1; the first unit vector where it is zero."""
    largest = vector.abs().amax(-1, keepdim=True)
    is_zero = largest == 0
    pole = (torch.arange(vector.shape[-1], device=vector.device) == 0).to(vector.dtype)
    scaled = torch.where(is_zero, pole, vector / torch.where(is_zero, 1.0, largest).detach())
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
