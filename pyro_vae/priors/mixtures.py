"""Priors that are mixtures: of normals, and of the posteriors at learned inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import checked, number
from pyro_vae._recipes import Remembered
from pyro_vae.distributions.base import Parametrized, chosen, size_of, validated
from pyro_vae.distributions.supports import bare
from pyro_vae.networks import shape_of
from pyro_vae.pair.protocols import HasRunningStatistics


class Mixture(Parametrized):
    r"""A mixture of K components, :math:`p(z) = \sum_k w_k \, p_k(z)`.

    Unlike ``MixtureSameFamily`` it scores B values without K x B copies of parameters. It is not reparameterized.

    Args:
        logits: ``[K]``, log of the weights w up to a constant.
        components: a distribution of batch shape ``[K]``.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)

    def __init__(self, logits: Tensor, components: Any, validate_args: bool | None = None) -> None:
        if logits.shape != components.batch_shape:
            raise ValueError(
                f"a Mixture needs a weight for each of its components; got weights of shape {list(logits.shape)} and "
                f"components of batch shape {list(components.batch_shape)}."
            )
        self.logits = logits
        self.components = components
        super().__init__(torch.Size(), components.event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        support = self.components.support
        moving = any(isinstance(bound, Tensor) and bound.dim() for bound in vars(bare(support)).values())
        # The components' own support, unless its bounds differ: samplers know a bijection to it.
        return constraints.MixtureSameFamilyConstraint(support) if moving else support

    def log_prob(self, value: Tensor) -> Tensor:
        try:
            of_components = self.components.log_prob(validated(self, value).unsqueeze(-1 - len(self.event_shape)))
        except (NotImplementedError, KeyError) as error:  # KeyError: Pyro's steps that have no inverse
            raise ValueError(
                f"a mixture, as a VampPrior is, scores any z under each of its components, but these, a "
                f"{type(self.components).__name__}, cannot score a given value. Give VampPrior a posterior that can, "
                "for example DiagonalNormal, or a Flow of pyro_vae.transforms."
            ) from error
        log_prob = (self.logits.log_softmax(-1) + of_components).logsumexp(-1)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = size_of(sample_shape) + self.batch_shape
            drawn = self.components.sample(shape)  # [*, K, *event]
            index = chosen(self.logits, shape).reshape(*shape, *(1 for _ in range(1 + len(self.event_shape))))
            axis = len(shape)
            return drawn.gather(axis, index.expand(*shape, 1, *self.event_shape)).squeeze(axis)

    @property
    def mean(self) -> Tensor:
        weights = self.logits.softmax(-1).reshape(-1, *(1 for _ in self.event_shape))
        return (weights * self.components.mean).sum(0).expand(*self.batch_shape, *self.event_shape)


class MixtureOfNormals(Remembered, nn.Module):
    r"""A learned mixture of diagonal Gaussians.

    .. math:: p(z) = \sum_k w_k \, \mathcal N(z; \mathrm{loc}_k, \mathrm{scale}_k^2)

    It starts with equal weights, scales of 1, and locs drawn from :math:`\mathcal N(0, \mathrm{spread}^2)`.

    Args:
        latent_dim: size (or event shape) of z.
        num_components: K.
        spread: standard deviation of the locs at the start.

    Raises:
        ValueError: if a size is below 1, or ``spread`` is not positive.

    Source: Dilokthanakul et al. (2016); Tomczak & Welling (2018), section 5.
    """

    @checked(but=("spread",))
    def __init__(self, latent_dim: int | Sequence[int], num_components: int, spread: float = 2.0) -> None:
        super().__init__()
        self.event_shape = shape_of("latent_dim", latent_dim)
        (count,) = shape_of("num_components", num_components)
        number(above=0, spread=spread)
        self.logits = nn.Parameter(torch.zeros(count))
        self.loc = nn.Parameter(float(spread) * torch.randn(count, *self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(count, *self.event_shape))

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}, num_components={len(self.logits)}"

    def forward(self) -> Any:
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(len(self.event_shape))
        return Mixture(self.logits, components)


class VampPrior(Remembered, nn.Module):
    r"""The mixture of the posteriors at K learned pseudo-inputs, :math:`p(z) = \frac 1 K \sum_k q(z \mid u_k)`.

    It evaluates the pair's own posterior, whose parameters stay the posterior's alone: they are in none of this
    module's ``parameters()``, ``state_dict()`` or ``to()``. A copy of the whole pair keeps the two together. Batch
    normalization in it takes the statistics of the pseudo-inputs for them, but keeps running statistics of data alone.

    Args:
        posterior: the posterior of the pair; it has to give a density at any z, so not ``SemiImplicitNormal``, nor
            one whose support moves with x (``Uniform``).
        event_shape: shape of one datum.
        num_components: K.
        mean: ``[*event_shape]``, of the data, where the pseudo-inputs start; by default 1/2, or 0 without bounds.
        noise: standard deviation of the pseudo-inputs about it at the start.
        unit_interval: whether the pseudo-inputs are kept in [0, 1], as pixels are, by a hard tanh.

    Raises:
        ValueError: if a size is below 1, ``noise`` is not positive, or ``mean`` has another shape than a datum.
            When called: if the support of the posterior moves with x. When scored: if it cannot score a given z.

    Source: Tomczak & Welling (2018), eq. 9.
    """

    @checked(but=("noise",))
    def __init__(
        self,
        posterior: Callable[[Tensor], Any],
        event_shape: int | Sequence[int],
        num_components: int = 500,
        mean: Tensor | None = None,
        *,
        noise: float = 0.01,
        unit_interval: bool = True,
    ) -> None:
        super().__init__()
        shape = shape_of("event_shape", event_shape)
        (count,) = shape_of("num_components", num_components)
        number(above=0, noise=noise)
        if mean is None:
            mean = torch.full(shape, 0.5 if unit_interval else 0.0)
        if mean.shape != shape:
            raise ValueError(f"the mean of the data has to be of the shape {list(shape)}; got {list(mean.shape)}.")
        self._tied = (posterior,)  # in a tuple, where nn.Module does not register it
        self.unit_interval = unit_interval
        self.pseudo_inputs = nn.Parameter(mean + float(noise) * torch.randn(count, *shape).to(mean))

    @property
    def posterior(self) -> Callable[[Tensor], Any]:
        """The posterior of the pair."""
        return self._tied[0]

    def extra_repr(self) -> str:
        return f"pseudo_inputs={list(self.pseudo_inputs.shape)}"

    def forward(self) -> Any:
        u = self.pseudo_inputs.clamp(0.0, 1.0) if self.unit_interval else self.pseudo_inputs
        with _running_statistics_kept(self.posterior):
            mixture = Mixture(u.new_zeros(len(u)), self.posterior(u))
        if isinstance(mixture.support, constraints.MixtureSameFamilyConstraint):
            raise ValueError(
                f"a VampPrior needs a posterior whose support is the same for each x; that of a "
                f"{type(self.posterior).__name__} moves, which leaves most z without density. Give it another prior."
            )
        return mixture


@contextmanager
def _running_statistics_kept(posterior: Any) -> Iterator[None]:
    """Batch normalization uses the statistics of its batch in training, as ever, but does not remember them."""
    modules = posterior.modules() if isinstance(posterior, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, HasRunningStatistics) and module.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
