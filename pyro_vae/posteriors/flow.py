"""Posteriors by normalizing flows."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Transform

from pyro_vae._checks import checked
from pyro_vae.networks import applied, at_least_float32, out_shape_of
from pyro_vae.posteriors.base import Posterior
from pyro_vae.transforms import NormalizingFlow, Step
from pyro_vae.transforms.steps import Steps


class Flow(Posterior):
    r"""A posterior carried through bijections.

    .. math:: z = f_T \circ \dots \circ f_1(z_0), \quad z_0 \sim q_0(z_0 \mid h), \quad h = \mathrm{network}(x), \quad
        \log q(z \mid x) = \log q_0(z_0 \mid h) - \sum_t \log \Big| \frac{\partial f_t}{\partial z_{t-1}} \Big|

    A draw is scored on its way: no step is inverted for it.

    Args:
        base: :math:`q_0`, any posterior of h, for example ``DiagonalNormal(MLP(H, (2, D)))``.
        transforms: the steps :math:`f_1, \dots, f_T`, each a :class:`~pyro_vae.transforms.Step`, Pyro's
            ``TransformModule`` or ``ConditionalTransformModule``, or a ``Transform`` without parameters:
            ``ExpTransform()`` for positive z. Those with a ``context_dim`` and Pyro's conditional ones depend on h.
        network: ``x: [*, B, *event] -> [*, B, H]``, shared by base and steps; without it h is x itself.
        event_dim: see :class:`~pyro_vae.posteriors.Posterior`; without a network that of the base.

    Raises:
        ValueError: if there is no step, base and steps are built for latents of different sizes, or amortized steps
            would depend on an x of several event dimensions.
        TypeError: if a step is something else.

    Source: Rezende & Mohamed (2015), eq. 13; with h, Kingma et al. (2016).
    """

    @checked(but=("event_dim", "base"))
    def __init__(
        self,
        base: Posterior,
        transforms: Sequence[nn.Module | Transform],
        network: nn.Module | None = None,
        event_dim: int | None = None,
    ) -> None:
        if network is None and event_dim is None:
            event_dim = base.event_dim if isinstance(base, Posterior) else 1
        super().__init__(nn.Identity() if network is None else network, event_dim)
        self.base = base
        self.transforms = Steps(transforms)
        self._check_sizes()
        if network is None and self.event_dim != 1 and self.transforms.amortized:
            raise ValueError(
                f"the amortized steps of a Flow depend on a vector, but one datum has {self.event_dim} dimensions. "
                "Give a network that makes a vector of it: Flow(base, transforms, network=MLP(event_shape, H))."
            )

    def _check_sizes(self) -> None:
        sizes = [step.latent_dim for step in self.transforms if isinstance(step, Step)]
        if len(set(sizes)) > 1:
            raise ValueError(f"the steps of a Flow act on one latent, but were built for latent_dim={sizes}.")
        out_shape = out_shape_of(self.base.network) if isinstance(self.base, Posterior) else None
        if sizes and out_shape is not None and tuple(out_shape) != self.base.network_shape(sizes[:1]):
            raise ValueError(
                f"the steps of a Flow were built for latent_dim={sizes[0]}, for which its base, a "
                f"{type(self.base).__name__}, needs a network of out_shape={self.base.network_shape(sizes[:1])}; it "
                f"has one of out_shape={tuple(out_shape)}."
            )

    @checked
    def network_shape(self, latent_shape: Sequence[int]) -> tuple[int, ...]:
        """What the network of the base has to give."""
        return self.base.network_shape(latent_shape)

    def forward(self, x: Tensor) -> dist.Distribution:
        context = at_least_float32(applied(self.network, x, type(self).__name__))
        transforms = self.transforms(context)
        return NormalizingFlow(self.base(context), transforms)
