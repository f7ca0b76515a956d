"""Semi-implicit posteriors: a Gaussian whose parameters are random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import checked, whole
from pyro_vae.networks import in_shape_of, out_shape_of, shape_of, stacked
from pyro_vae.posteriors.base import Posterior


class SemiImplicit(TorchDistribution):
    r"""A mixture over the noise of a network, :math:`q(z) = \int q(z \mid \epsilon) \, N(\epsilon; 0, I) \, d\epsilon`.

    Its density has no closed form. What ``log_prob`` gives, for the distribution's own last draw alone, is

    .. math:: \log \frac 1 {K + 1} \sum_{j=0}^K q(z \mid \epsilon_j), \quad z \sim q(z \mid \epsilon_0),
        \quad \epsilon_j \sim \mathcal N(0, I)

    The draw comes from one of the K + 1, all of them alike, so that the expectation of f(z) over that mean is the
    integral of f, for any K: weights p(x, z) / q stay unbiased for p(x).

    Args:
        conditional: ``features: [*, H], noise: [*, noise_dim]`` to the loc and scale of q(z | noise),
            ``[*, *event_shape]`` each.
        features: ``[*batch_shape, H]``.
        event_shape: shape of z.
        noise_dim: size of the noise.
        num_mixtures: K.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(
        self,
        conditional: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        features: Tensor,
        event_shape: Sequence[int],
        noise_dim: int,
        num_mixtures: int,
        validate_args: bool | None = None,
    ) -> None:
        self.conditional = conditional
        self.features = features
        self.noise_dim = noise_dim
        self.num_mixtures = num_mixtures
        self._drawn: tuple[Tensor, Tensor, Any] | None = None
        super().__init__(features.shape[:-1], torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> SemiImplicit:
        features = self.features.expand(torch.Size(batch_shape) + self.features.shape[-1:])
        return type(self)(self.conditional, features, self.event_shape, self.noise_dim, self.num_mixtures, False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.features.shape[:-1]
        kind: dict[str, Any] = {"dtype": self.features.dtype, "device": self.features.device}
        noise = torch.randn((1 + self.num_mixtures, *shape, self.noise_dim), **kind)
        loc, scale = mixture = self._mixture(noise)
        z = loc[0] + scale[0] * torch.randn_like(loc[0])
        self._drawn = z, noise, mixture
        return z

    def _mixture(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """loc and scale of q(z | noise), ``[1 + K, *, *event_shape]`` each."""
        return self.conditional(self.features.expand(*noise.shape[:-1], -1), noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """The mean over the noise of a draw and K more, for that draw.

        Raises:
            NotImplementedError: for any other value than the last draw.
        """
        if self._drawn is None or self._drawn[0] is not value:
            raise NotImplementedError(
                "a SemiImplicit has no density in closed form: it scores its own last draw only, whose noise it knows"
            )
        z, noise, (loc, scale) = self._drawn
        if torch.is_grad_enabled() and not loc.requires_grad:  # drawn by sample(), without a graph
            loc, scale = self._mixture(noise)
        log_q = Normal(loc, scale, validate_args=False).log_prob(z).flatten(1 + z.dim() - len(self.event_shape)).sum(-1)
        return log_q.logsumexp(0) - math.log(1 + self.num_mixtures)


class SemiImplicitNormal(Posterior):
    r"""Gaussian whose loc and scale depend on noise: of any shape, skewed, with several modes.

    .. math:: q(z \mid x) = \int \mathcal N(z; \mathrm{loc}(h, \epsilon), \mathrm{scale}(h, \epsilon)^2) \,
        \mathcal N(\epsilon; 0, I) \, d\epsilon, \quad h = \mathrm{network}(x)

    A draw is scored by :math:`\log \frac 1 {K + 1} \sum_j q(z \mid \epsilon_j)` over its own noise and K fresh ones
    (:class:`SemiImplicit`). Importance weights with it are unbiased for p(x), so that SGVB_A, IWAE and importance
    sampling give lower bounds of log p(x) for every K, which rise with K. Estimators that score a given z cannot be
    used. The bound seeks modes: one that the noise does not reach at the start is seldom found later.

    Args:
        network: ``x: [*, B, *event] -> [*, B, H]``, computed once for each datum.
        head: ``[*, H + noise_dim] -> [*, 2, *latent_shape]``, of h and noise: loc and log variance, stacked. It is
            computed 1 + K times for each draw.
        noise_dim: size of the noise.
        num_mixtures: K, the fresh noises by which a draw is scored, at least 0.
        latent_shape: size (or event shape) of z, by default what the ``out_shape`` of ``head`` says.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`.

    Raises:
        ValueError: if a size cannot be, the latent's is not known, or a network gives another shape.

    Source: Yin & Zhou (2018); Sobolev & Vetrov (2019), section 4, for the bound.

    >>> from pyro_vae import MLP
    >>> posterior = SemiImplicitNormal(MLP(784, 100), MLP(100 + 10, (2, 20)), noise_dim=10)
    """

    @checked(but=("network", "noise_dim", "num_mixtures", "event_dim"))
    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        noise_dim: int,
        num_mixtures: int = 10,
        latent_shape: int | Sequence[int] | None = None,
        event_dim: int | None = None,
    ) -> None:
        super().__init__(network, event_dim)
        whole(noise_dim=noise_dim)
        whole(0, num_mixtures=num_mixtures)
        out_shape = out_shape_of(head)
        if latent_shape is None and out_shape is None:
            raise ValueError("the head of a SemiImplicitNormal does not tell its out_shape: give latent_shape, too.")
        self.head = head
        self.noise_dim = noise_dim
        self.num_mixtures = num_mixtures
        if latent_shape is not None:
            self.latent_shape = shape_of("latent_shape", latent_shape)
        elif out_shape is not None:
            self.latent_shape = out_shape[1:]
        else:
            raise ValueError("the head of a SemiImplicitNormal does not tell its out_shape: give latent_shape, too.")
        if out_shape is not None and (len(out_shape) < 2 or tuple(out_shape) != self.head_shape(self.latent_shape)):
            raise ValueError(
                f"the head of a SemiImplicitNormal gives loc and log variance, [*, 2, *latent_shape]; it was built "
                f"with out_shape={tuple(out_shape)}."
            )

    def extra_repr(self) -> str:
        return f"noise_dim={self.noise_dim}, num_mixtures={self.num_mixtures}"

    @checked
    def head_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the head's output for one datum, for a latent of ``latent_shape``."""
        return (2, *latent_shape)

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of h, which the head takes besides the noise; it does not depend on the latent."""
        in_shape = in_shape_of(self.head)
        if in_shape is None:
            raise ValueError("the head of a SemiImplicitNormal does not tell its in_shape, so h may have any size.")
        return (math.prod(in_shape) - self.noise_dim,)

    def forward(self, x: Tensor) -> SemiImplicit:
        features = self._vector(x, "a vector for each datum, [*, B, H]")
        return SemiImplicit(self._conditional, features, self.latent_shape, self.noise_dim, self.num_mixtures)

    def _conditional(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        output = self.head(torch.cat([features, noise], -1))
        loc, log_variance = stacked("SemiImplicitNormal", output, 2, noise.dim() - 1)
        return loc, (log_variance / 2).exp()
