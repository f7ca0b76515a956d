"""The variational autoencoder with one latent, and that of data which come with a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked, is_tensor, shown
from pyro_vae._recipes import Remembered
from pyro_vae.networks import Corrupted, in_shape_of
from pyro_vae.pair import data_plate, once, pair_method


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


class CVAE(Remembered, PyroModule):
    r"""The pair of one latent of data that come with a condition c: labels, numbers or images, which are not modeled.

    .. math:: z \sim p(z \mid c), \quad x \sim p(x \mid z, c), \qquad z \sim q(z \mid x, c)

    Bounds and evidences are of log p(x | c). Model and guide take (x, c), as the data give them; ``model(None, c)``
    draws a datum for each condition.

    Args:
        prior: ``c -> p(z | c)``, such as a class of :mod:`pyro_vae.posteriors`.
        posterior: ``(x, c) -> q(z | x, c)``, such as one in :class:`~pyro_vae.networks.Joined`.
        likelihood: ``(z, c) -> p(x | z, c)``, such as a class of :mod:`pyro_vae.likelihoods` in ``Joined``.
        condition: makes of c what the three are given, once for all: :class:`~pyro_vae.networks.OneHot` of labels,
            :class:`~pyro_vae.networks.Numbers` of tensors, or a network; by default c as it is.

    Raises:
        ValueError: if the guide is run without data, or there is not one condition for each datum.
        TypeError: if a part gives no distribution, or c is no tensor.

    Source: Sohn, Lee & Yan (2015), Learning structured output representation using deep conditional generative models.

    >>> import torch
    >>> from pyro_vae import MLP, Bernoulli, DiagonalNormal
    >>> from pyro_vae.networks import Joined, OneHot
    >>> cvae = CVAE(
    ...     DiagonalNormal(MLP(10, (2, 3))),
    ...     Joined(DiagonalNormal(MLP(784 + 10, (2, 3))), 784),
    ...     Joined(Bernoulli(MLP(3 + 10, 784)), 3),
    ...     condition=OneHot(10),
    ... )
    >>> cvae.model(None, torch.arange(10)).shape
    torch.Size([10, 784])
    """

    @checked
    def __init__(
        self,
        prior: Callable[[Tensor], dist.Distribution],
        posterior: Callable[[Tensor, Tensor], dist.Distribution],
        likelihood: Callable[[Tensor, Tensor], dist.Distribution],
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood
        self.condition = condition

    @pair_method
    def model(self, x: Tensor | None, c: Tensor) -> Tensor:
        """z ~ p(z | c), x ~ p(x | z, c), for the data ``x: [B, *event]``, or those that it draws itself, one for each
        condition ``c: [B, ...]``."""
        with data_plate(c if x is None else x):
            given_c = self._seen(x, c)
            z = pyro.sample("z", distribution_of("prior", self.prior(given_c)))
            return pyro.sample("x", distribution_of("likelihood", self.likelihood(z, given_c)), obs=x)

    @pair_method
    def guide(self, x: Tensor, c: Tensor) -> Tensor:
        """z ~ q(z | x, c)."""
        if x is None:
            raise ValueError("q(z | x, c) needs data: run the guide as guide(x, c), with x of shape [B, *event].")
        with data_plate(x):
            return pyro.sample("z", distribution_of("posterior", self.posterior(x, self._seen(x, c))))

    def _seen(self, x: Tensor | None, c: Tensor) -> Tensor:
        """What the parts are given of c."""
        if not is_tensor(c):
            raise TypeError(f"c is a tensor that holds a condition for each datum, [B, ...]; got {shown(c)}.")
        if x is not None and c.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"c holds a condition for each datum, and there are {len(x)} data; got c of the shape {list(c.shape)}."
            )
        if self.condition is None:
            return c
        shape = in_shape_of(self.condition) if isinstance(self.condition, nn.Module) else None
        if shape is not None and c.dim() != 1 + len(shape):
            wanted = ", ".join(map(str, ("B", *shape)))
            raise ValueError(f"c is a tensor [{wanted}], a condition for each datum; got the shape {list(c.shape)}.")
        return once(self.condition, c)


def given(x: Tensor | None) -> Tensor:
    """The data of a guide; a ``ValueError`` where there are none.

    >>> import torch
    >>> from pyro_vae.vae import given
    >>> given(torch.ones(2))
    tensor([1., 1.])
    """
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
