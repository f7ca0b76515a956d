"""Posteriors of the families of :mod:`pyro_vae.distributions.families`.

The three ways to reparameterize of Kingma & Welling (2013), section 2.4: inverse CDF (:class:`Exponential`,
:class:`Cauchy`, :class:`Logistic`, :class:`Gumbel`, :class:`Weibull`, :class:`Kumaraswamy`), location and scale
(:class:`Laplace`, :class:`StudentT`, :class:`Uniform`), composition (:class:`LogNormal`, :class:`Gamma`,
:class:`Beta`, :class:`Dirichlet`). Each has a prior of the same name and support in :mod:`pyro_vae.priors`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, number
from pyro_vae.distributions import families
from pyro_vae.distributions.families import constrained
from pyro_vae.posteriors.base import Posterior


class FamilyPosterior(Posterior):
    r"""Base of the posteriors of one family, :math:`q(z \mid x) = \prod_d q(z_d; \lambda_d(x))`.

    Args:
        network: ``x: [*, B, *event] -> [*, B, P, latent_dim]``, the P parameters of the family stacked, in the order of
            ``distribution.arg_constraints``; of positive ones the number whose softplus they are.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if the network does not give as many stacked parameters.

    Source: Kingma & Welling (2013), section 2.4.
    """

    distribution: ClassVar[Any]
    # A positive parameter is least + softplus(output + shift).
    least: ClassVar[dict[str, float]] = {}
    shift: ClassVar[dict[str, float]] = {}

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return (len(self.distribution.arg_constraints), *latent_shape)

    def forward(self, x: Tensor) -> Any:
        of = self.distribution.arg_constraints
        outputs = self._stacked(x, len(of))
        parameters = {
            name: constrained(constraint, output + self.shift.get(name, 0.0)) + self.least.get(name, 0.0)
            for (name, constraint), output in zip(of.items(), outputs, strict=True)
        }
        return self._independent(self._made(self.distribution, x, **parameters), x)


def _posterior(family: Any) -> type[FamilyPosterior]:
    """The posterior of a family that asks for nothing else: a class of its name, documented by how it draws z."""
    said = [part for part in inspect.cleandoc(family.__doc__ or "").split("\n\n") if not part.startswith("Args:")]
    doc = "\n\n".join([said[0], "The network gives the parameters, as :class:`FamilyPosterior` says.", *said[1:]])
    return type(family.__name__, (FamilyPosterior,), {"__doc__": doc, "__module__": __name__, "distribution": family})


Exponential = _posterior(families.Exponential)
Cauchy = _posterior(families.Cauchy)
Logistic = _posterior(families.Logistic)
Gumbel = _posterior(families.Gumbel)
Kumaraswamy = _posterior(families.Kumaraswamy)
Laplace = _posterior(families.Laplace)
LogNormal = _posterior(families.LogNormal)
Gamma = _posterior(families.Gamma)
Beta = _posterior(families.Beta)
Dirichlet = _posterior(families.Dirichlet)


class Weibull(FamilyPosterior):
    r""":math:`z = \mathrm{scale}(x) \, e^{1 / \mathrm{concentration}(x)}`, e ~ Exponential(1): on :math:`z_d > 0`.

    The concentration is above 0.3. Its mean is :math:`\mathrm{scale} \, \Gamma(1 + 1 / \mathrm{concentration})`, which
    explodes below: a few data would have a bound of minus infinity.

    The network gives the parameters, as :class:`FamilyPosterior` says.
    """

    distribution = families.Weibull
    least: ClassVar[dict[str, float]] = {"concentration": 0.3}


class StudentT(FamilyPosterior):
    r""":math:`z = \mathrm{loc}(x) + \mathrm{scale}(x) \, t`, t ~ Student's t of df degrees of freedom.

    Where the network gives df, it is :math:`1 + \mathrm{softplus}(\mathrm{output} + \log(e^2 - 1))`: 3 at an output of
    0, and above 1, where z has a mean. Draws of a lower df, which reach millions, spoil a decoder.

    Args:
        network: ``x: [*, B, *event]`` to ``[*, B, 3, latent_dim]``: df, loc and scale stacked; or, where ``df`` is
            given, ``[*, B, 2, latent_dim]``: loc and scale.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.
        df: degrees of freedom of all dimensions, or ``None``, as the network gives them. At 1 or less z has no mean.

    Raises:
        ValueError: if ``df`` is not positive, or the network does not give what ``df`` asks for.
    """

    distribution = families.StudentT
    least: ClassVar[dict[str, float]] = {"df": 1.0}
    shift: ClassVar[dict[str, float]] = {"df": math.log(math.expm1(2.0))}

    def __init__(self, network: nn.Module, event_dim: int | None = None, df: float | None = None) -> None:
        super().__init__(network, event_dim)
        if df is not None:
            number(above=0, df=df)
        self.df = df

    def extra_repr(self) -> str:
        return f"df={self.df}"

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return (3 if self.df is None else 2, *latent_shape)

    def forward(self, x: Tensor) -> Any:
        if self.df is None:
            return super().forward(x)
        loc, scale = self._stacked(x, 2)
        scale = constrained(self.distribution.arg_constraints["scale"], scale)
        return self._independent(self.distribution(torch.full_like(loc, self.df), loc, scale), x)


class Uniform(Posterior):
    r"""Uniform on a part of the prior's interval :math:`(L, H)`.

    .. math::
        w = \sigma(\mathrm{width}(x)), \quad \mathrm{low} = L + (H - L)(1 - w) \, \sigma(\mathrm{place}(x)), \quad
        \mathrm{high} = \mathrm{low} + (H - L) \, w

    Args:
        network: ``x: [*, B, *event] -> [*, B, 2, latent_dim]``, place and width stacked.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.
        low: the prior's lower bound L.
        high: the prior's upper bound H.

    Raises:
        ValueError: if ``low`` is not below ``high``, or the network does not give two stacked parameters.

    Source: Kingma & Welling (2013), section 2.4.
    """

    @checked(but=("network", "event_dim"))
    def __init__(self, network: nn.Module, event_dim: int | None = None, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(network, event_dim)
        families.check_bounds("a Uniform posterior", low, high)
        self.low, self.high = float(low), float(high)

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *latent_shape)

    def forward(self, x: Tensor) -> Any:
        place, width = self._stacked(x, 2)
        span = self.high - self.low
        part = width.sigmoid().clamp(min=1e-4)
        low = self.low + span * (1 - part) * place.sigmoid()
        high = (low + span * part).clamp(max=self.high)
        return self._independent(families.Uniform(low, high), x)
