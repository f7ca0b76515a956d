"""The variational autoencoder with one latent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks import Corrupted
from pyro_vae.pair import data_plate, pair_method


class VAE(Remembered, PyroModule):
    r"""The pair of one latent: any prior, posterior and likelihood, as a Pyro model and guide.

    .. math:: z \sim p(z), \quad x \sim p(x \mid z), \qquad z \sim q(z \mid x)

    Args:
        prior: ``() -> p(z)``, see :mod:`pyro_vae.priors`.
        posterior: ``x -> q(z | x)``, see :mod:`pyro_vae.posteriors`.
        likelihood: ``z -> p(x | z)``, see :mod:`pyro_vae.likelihoods`.

    Raises:
        ValueError: if the guide is run without data.
        TypeError: if one of the three gives no distribution.

    Source: Kingma & Welling (2013).

    >>> import torch
    >>> from pyro_vae import MLP, Bernoulli, DiagonalNormal, StandardNormal
    >>> vae = VAE(StandardNormal(2), DiagonalNormal(MLP(784, (2, 2))), Bernoulli(MLP(2, 784)))
    >>> vae.model().shape
    torch.Size([1, 784])
    """

    @checked
    def __init__(
        self,
        prior: Callable[[], dist.Distribution],
        posterior: Callable[[Tensor], dist.Distribution],
        likelihood: Callable[[Tensor], dist.Distribution],
    ) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    @property
    def corruption(self) -> nn.Module | None:
        """What corrupts x on its way into the posterior's network in training; ``None`` where nothing does."""
        modules = self.posterior.modules() if isinstance(self.posterior, nn.Module) else ()
        return next((module.corruption for module in modules if isinstance(module, Corrupted)), None)

    @pair_method
    def model(self, x: Tensor | None = None) -> Tensor:
        """z ~ p(z), x ~ p(x | z), for the data ``x: [B, *event]``, or one datum that it draws itself."""
        with data_plate(x):
            z = pyro.sample("z", distribution_of("prior", self.prior()))
            return pyro.sample("x", distribution_of("likelihood", self.likelihood(z)), obs=x)

    @pair_method
    def guide(self, x: Tensor | None = None) -> Tensor:
        """z ~ q(z | x)."""
        x = given(x)
        with data_plate(x):
            return pyro.sample("z", distribution_of("posterior", self.posterior(x)))


def given(x: Tensor | None) -> Tensor:
    """The data of a guide; a ``ValueError`` where there are none."""
    if x is None:
        raise ValueError("q(z | x) needs data: run the guide as guide(x), with x of shape [B, *event].")
    return x


def distribution_of(room: str, value: Any) -> Any:
    """``value``, what a part of a pair gave; a ``TypeError`` if it is no distribution."""
    if not isinstance(value, torch.distributions.Distribution):
        raise TypeError(
            f"the {room} of a VAE has to give a distribution; it gives {type(value).__name__}. "
            f"Use a class of pyro_vae.{_ROOMS[room]}, with the network as its argument where it has one."
        )
    return value


_ROOMS = {"prior": "priors", "posterior": "posteriors", "likelihood": "likelihoods"}
