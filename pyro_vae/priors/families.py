"""Priors of the families of :mod:`pyro_vae.distributions.families`, with fixed or learned parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, shown
from pyro_vae._recipes import Remembered
from pyro_vae.distributions import families
from pyro_vae.distributions.families import constrained, is_positive, unconstrained
from pyro_vae.networks import shape_of

Sizes = int | Sequence[int]
Value = float | Sequence[float] | Tensor


class FamilyPrior(Remembered, nn.Module):
    r"""Base of the priors of one family, :math:`p(z) = \prod_d p(z_d; \lambda_d)`.

    Args:
        latent_dim: size (or event shape) of z.
        learned: whether the parameters are trained, from the given values on; they are kept unconstrained, as
            ``unconstrained_<name>``. Otherwise they are buffers.
        parameters: by name, a number each, or a tensor that expands to the shape of z.

    Raises:
        ValueError: if a size is below 1, or a parameter is not what the family asks for.

    Source: Kingma & Welling (2013), section 2.4.
    """

    distribution: ClassVar[Any]

    @checked
    def __init__(self, latent_dim: Sizes, learned: bool, **parameters: Value) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)
        self.learned = learned
        for name, value in parameters.items():
            parameter = self._checked(name, value)
            if learned:
                self.register_parameter(f"unconstrained_{name}", nn.Parameter(self._unconstrained(name, parameter)))
            else:
                self.register_buffer(name, parameter)

    def _checked(self, name: str, value: Value) -> Tensor:
        family, constraint = type(self).__name__, self.distribution.arg_constraints[name]
        try:
            if isinstance(value, torch.Tensor) and value.is_nested:
                raise TypeError("a nested tensor has no shape")
            parameter = torch.as_tensor(value, dtype=torch.get_default_dtype())
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(
                f"{name} of a {family} prior has to be a number, or a tensor; got {shown(value)}."
            ) from error
        if parameter.layout != torch.strided or parameter.is_meta:
            raise TypeError(f"{name} of a {family} prior has to be a dense tensor with values; got {shown(value)}.")
        try:
            parameter = parameter.expand(self.event_shape).clone()
        except RuntimeError:
            raise ValueError(
                f"{name} of a {family} prior has to be a number, or a tensor that expands to the shape of z, "
                f"{list(self.event_shape)}; got shape {list(parameter.shape)}."
            ) from None
        if not (parameter.isfinite().all() and constraint.check(parameter).all()):
            words = "positive and finite" if is_positive(constraint) else "finite"
            raise ValueError(f"{name} of a {family} prior has to be {words}; got {shown(value)}.")
        return parameter

    def _unconstrained(self, name: str, parameter: Tensor) -> Tensor:
        return unconstrained(self.distribution.arg_constraints[name], parameter)

    def _constrained(self, name: str, value: Tensor) -> Tensor:
        return constrained(self.distribution.arg_constraints[name], value)

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}, learned={self.learned}"

    def forward(self) -> Any:
        parameters = {
            name: self._constrained(name, getattr(self, f"unconstrained_{name}"))
            if self.learned
            else getattr(self, name)
            for name in self.distribution.arg_constraints
        }
        p = self.distribution(**parameters)
        return p.to_event(len(self.event_shape) - len(p.event_shape))


class Exponential(FamilyPrior):
    r""":math:`p(z) = \prod_d \mathrm{rate}_d \, e^{-\mathrm{rate}_d z_d}` on :math:`z_d > 0`."""

    distribution = families.Exponential

    def __init__(self, latent_dim: Sizes, rate: Value = 1.0, learned: bool = False) -> None:
        super().__init__(latent_dim, learned, rate=rate)


class _LocationScale(FamilyPrior):
    def __init__(self, latent_dim: Sizes, loc: Value = 0.0, scale: Value = 1.0, learned: bool = False) -> None:
        super().__init__(latent_dim, learned, loc=loc, scale=scale)


class Cauchy(_LocationScale):
    r""":math:`p(z) = \prod_d [\pi \, \mathrm{scale} \, (1 + y_d^2)]^{-1}`, y = (z - loc) / scale."""

    distribution = families.Cauchy


class Logistic(_LocationScale):
    r""":math:`p(z) = \prod_d e^{-y_d} / (\mathrm{scale} \, (1 + e^{-y_d})^2)`, y = (z - loc) / scale."""

    distribution = families.Logistic


class Gumbel(_LocationScale):
    r""":math:`p(z) = \prod_d \exp(-y_d - e^{-y_d}) / \mathrm{scale}`, y = (z - loc) / scale."""

    distribution = families.Gumbel


class Weibull(FamilyPrior):
    r""":math:`p(z) = \prod_d (k / \mathrm{scale}) \, y_d^{k - 1} e^{-y_d^k}` on :math:`z_d > 0`, y = z / scale.

    k is the concentration; at 1 it is the exponential distribution.
    """

    distribution = families.Weibull

    def __init__(
        self, latent_dim: Sizes, scale: Value = 1.0, concentration: Value = 1.0, learned: bool = False
    ) -> None:
        super().__init__(latent_dim, learned, scale=scale, concentration=concentration)


class _OnUnitInterval(FamilyPrior):
    def __init__(
        self, latent_dim: Sizes, concentration1: Value = 1.0, concentration0: Value = 1.0, learned: bool = False
    ) -> None:
        super().__init__(latent_dim, learned, concentration1=concentration1, concentration0=concentration0)


class Kumaraswamy(_OnUnitInterval):
    r""":math:`p(z) = \prod_d a b \, z_d^{a - 1} (1 - z_d^a)^{b - 1}` on (0, 1), a, b = concentration1, concentration0.

    By default uniform.

    Source: Nalisnick & Smyth (2017).
    """

    distribution = families.Kumaraswamy


class Laplace(_LocationScale):
    r""":math:`p(z) = \prod_d e^{-|z_d - \mathrm{loc}| / \mathrm{scale}} / (2 \, \mathrm{scale})`: sparse codes."""

    distribution = families.Laplace


class StudentT(FamilyPrior):
    r""":math:`p(z) \propto \prod_d (1 + y_d^2 / \mathrm{df})^{-(\mathrm{df} + 1) / 2}`, y = (z - loc) / scale."""

    distribution = families.StudentT

    def __init__(
        self, latent_dim: Sizes, df: Value = 3.0, loc: Value = 0.0, scale: Value = 1.0, learned: bool = False
    ) -> None:
        super().__init__(latent_dim, learned, df=df, loc=loc, scale=scale)


class Uniform(Remembered, nn.Module):
    r""":math:`p(z) = (\mathrm{high} - \mathrm{low})^{-D}` on :math:`(\mathrm{low}, \mathrm{high})^D`.

    The bounds are not learned: a posterior that they leave outside would have an infinite KL.

    Args:
        latent_dim: size (or event shape) of z.
        low: lower bound of each dimension.
        high: upper bound of each dimension.

    Raises:
        ValueError: if a size is below 1, or ``low`` is not below ``high``.
    """

    low: Tensor
    high: Tensor

    @checked
    def __init__(self, latent_dim: Sizes, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)
        families.check_bounds("a Uniform prior", low, high)
        self.register_buffer("low", torch.full(self.event_shape, float(low)))
        self.register_buffer("high", torch.full(self.event_shape, float(high)))

    def forward(self) -> Any:
        return families.Uniform(self.low, self.high).to_event(len(self.event_shape))


class LogNormal(_LocationScale):
    r""":math:`p(z) = \prod_d \mathcal N(\log z_d; \mathrm{loc}, \mathrm{scale}^2) / z_d` on :math:`z_d > 0`."""

    distribution = families.LogNormal


class Gamma(FamilyPrior):
    r""":math:`p(z) \propto \prod_d z_d^{c - 1} e^{-\mathrm{rate} \, z_d}` on :math:`z_d > 0`, c the concentration.

    By default Exponential(1).
    """

    distribution = families.Gamma

    def __init__(self, latent_dim: Sizes, concentration: Value = 1.0, rate: Value = 1.0, learned: bool = False) -> None:
        super().__init__(latent_dim, learned, concentration=concentration, rate=rate)


class Beta(_OnUnitInterval):
    r""":math:`p(z) \propto \prod_d z_d^{a - 1} (1 - z_d)^{b - 1}` on (0, 1), a, b = concentration1, concentration0.

    By default uniform.
    """

    distribution = families.Beta


class SparseBeta(Beta):
    r"""Nearly binary codes: a Beta whose two concentrations are below 1, so that its mass is near 0 and near 1.

    The nearest that a float32 comes to 1 is 1e-7, where a Beta of concentration c still has about :math:`10^{-7c}` of
    its mass beyond. A decoder sees such a draw rounded; it is scored where it was, so that a sampled KL is that of the
    closed form (:class:`~pyro_vae.SGVB_B`). Learned concentrations are sigmoids, and so stay below 1.

    Raises:
        ValueError: if ``concentration`` is not between 0 and 1.
    """

    def __init__(self, latent_dim: Sizes, concentration: Value = 0.3, learned: bool = False) -> None:
        super().__init__(latent_dim, concentration, concentration, learned)
        if not (torch.as_tensor(concentration, dtype=torch.get_default_dtype()) < 1).all():
            raise ValueError(
                f"concentration of a SparseBeta prior has to be below 1; got {concentration}. Use Beta for others."
            )

    def _unconstrained(self, name: str, parameter: Tensor) -> Tensor:
        return parameter.logit()

    def _constrained(self, name: str, value: Tensor) -> Tensor:
        return value.sigmoid().clamp(families.LEAST, 1 - families.LEAST)


class Dirichlet(FamilyPrior):
    r""":math:`p(z) \propto \prod_k z_k^{c_k - 1}` on the simplex, c the concentration; by default uniform.

    Raises:
        ValueError: if ``concentration`` is not positive, or z has fewer than two parts.
    """

    distribution = families.Dirichlet

    def __init__(self, latent_dim: Sizes, concentration: Value = 1.0, learned: bool = False) -> None:
        super().__init__(latent_dim, learned, concentration=concentration)
        if self.event_shape[-1] < 2:
            raise ValueError(f"a point of a simplex has at least two parts; got latent_dim={latent_dim}.")
