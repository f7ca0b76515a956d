"""Pairs of several latents z1, ..., zL, counted from the data upwards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.networks import side_by_side
from pyro_vae.pair import data_plate, once, pair_method
from pyro_vae.vae import distribution_of, given


class BottomUpVAE(Remembered, PyroModule):
    r"""A Markov chain of latents, recognized from the data upwards.

    .. math::
        z_L \sim p(z_L), \quad z_l \sim p(z_l \mid z_{l+1}), \quad x \sim p(x \mid z_1); \qquad
        q(z \mid x) = q(z_1 \mid x) \prod_{l=1}^{L-1} q(z_{l+1} \mid z_l)

    The guide draws in the opposite order of the model, where a closed-form KL of each level would be biased: its
    bound is :class:`~pyro_vae.SGVB_A`.

    Args:
        prior: ``() -> p(z_L)``, see :mod:`pyro_vae.priors`.
        conditionals: ``z_{l+1} -> p(z_l | z_{l+1})`` for l = 1, ..., L - 1, such as classes of
            :mod:`pyro_vae.posteriors`.
        posteriors: ``x -> q(z_1 | x)``, then ``z_l -> q(z_{l+1} | z_l)`` for l = 1, ..., L - 1.
        likelihood: ``z_1 -> p(x | z_1)``, see :mod:`pyro_vae.likelihoods`.

    Raises:
        ValueError: if there is not one posterior more than conditionals, or the guide is run without data.
        TypeError: if a part gives no distribution.

    Source: Rezende, Mohamed & Wierstra (2014), section 2; Burda et al. (2015), section 2.
    """

    @checked
    def __init__(
        self,
        prior: Callable[[], dist.Distribution],
        conditionals: Sequence[nn.Module],
        posteriors: Sequence[nn.Module],
        likelihood: Callable[[Tensor], dist.Distribution],
    ) -> None:
        super().__init__()
        if len(posteriors) != len(conditionals) + 1:
            raise ValueError(
                "a hierarchy of L latents has L posteriors, q(z1 | x) to q(zL | z(L-1)), and L - 1 conditionals, "
                f"p(z1 | z2) to p(z(L-1) | zL); got {len(posteriors)} posteriors and {len(conditionals)} conditionals."
            )
        self.prior = prior
        self.conditionals = nn.ModuleList(conditionals)
        self.posteriors = nn.ModuleList(posteriors)
        self.likelihood = likelihood

    @property
    def num_levels(self) -> int:
        """The number of latents L."""
        return len(self.posteriors)

    @pair_method
    def model(self, x: Tensor | None = None) -> Tensor:
        """z_L ~ p(z_L), z_l ~ p(z_l | z_(l+1)), x ~ p(x | z_1)."""
        with data_plate(x):
            z = pyro.sample(f"z{self.num_levels}", distribution_of("prior", self.prior()))
            for level in range(self.num_levels - 1, 0, -1):
                z = pyro.sample(f"z{level}", distribution_of("posterior", self.conditionals[level - 1](z)))
            return pyro.sample("x", distribution_of("likelihood", self.likelihood(z)), obs=x)

    @pair_method
    def guide(self, x: Tensor | None = None) -> Tensor:
        """z_1 ~ q(z_1 | x), z_(l+1) ~ q(z_(l+1) | z_l)."""
        with data_plate(given(x)):
            z: Tensor | None = x
            for level, posterior in enumerate(self.posteriors, 1):
                z = pyro.sample(f"z{level}", distribution_of("posterior", posterior(z)))
            return cast(Tensor, z)


class LatentLayer(nn.Module):
    """One latent z_l of a :class:`TopDownVAE`: its prior, its posterior, and what it hands down.

    The state h stands for all levels above; it is ``None`` at the top. A datum is a vector or feature maps, with any
    number of leading dimensions, ``[*, B]``; a state that is the same for all data may leave them out. Particles, and
    values of a discrete latent that are summed over, are dimensions left of B in h and z but not in the evidence. Sums
    of the two broadcast, and :func:`concat` puts them side by side.
    """

    @abstractmethod
    def prior(self, h: Tensor | None) -> dist.Distribution:
        """p(z_l | h)."""

    @abstractmethod
    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        """q(z_l | h, x), of the prior p(z_l | h) and of what x tells this level."""

    @abstractmethod
    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        """The state of the next level below; of the lowest one, the input of the likelihood."""


class BottomUpEncoder(Remembered, nn.Module):
    r"""A deterministic pass upwards: :math:`d_0 = x, \; d_l = \mathrm{body}_l(d_{l-1}), \; e_l = \mathrm{head}_l(d_l)`.

    Args:
        bodies: of the levels l = 1, ..., L.
        heads: as many; by default :math:`e_l = d_l`.

    Raises:
        ValueError: if there are not as many heads as bodies.
    """

    @checked
    def __init__(self, bodies: Sequence[nn.Module], heads: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        if heads is not None and len(heads) != len(bodies):
            raise ValueError(f"each level has a body and a head; got {len(bodies)} bodies and {len(heads)} heads.")
        self.bodies = nn.ModuleList(bodies)
        self.heads = None if heads is None else nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for body in self.bodies:
            x = body(x)
            features.append(x)
        return features if self.heads is None else [head(d) for head, d in zip(self.heads, features, strict=True)]


@checked
def concat(evidence: Tensor, h: Tensor | None, dim: int = -1) -> Tensor:
    """Both side by side in ``dim``, with the dimensions left of it broadcast; ``evidence`` alone where there is no h.

    Args:
        evidence: ``[*, B, D]``, or with ``dim=-3`` feature maps ``[*, B, C, H, W]``.
        h: likewise, with more or fewer leading dimensions.
        dim: the first dimension of one datum, counted from the right.

    >>> import torch
    >>> from pyro_vae.hierarchy import concat
    >>> concat(torch.ones(3, 4), torch.zeros(5, 3, 2)).shape  # of five particles
    torch.Size([5, 3, 6])
    """
    return evidence if h is None else side_by_side(evidence, h, dim)


class TopDownVAE(Remembered, PyroModule):
    r"""Latents that are recognized in the order in which they are generated, from the top down.

    .. math::
        z_l \sim p(z_l \mid h_l), \quad h_{l-1} = f_l(h_l, z_l), \quad x \sim p(x \mid h_0); \qquad
        q(z \mid x) = \prod_{l=L}^{1} q(z_l \mid h_l, e_l(x))

    where h_l is a function of the latents above and :math:`e_1(x), \dots, e_L(x)` is what a deterministic pass upwards
    makes of the data. The KL of each level given the draws above is an unbiased part of the bound, in closed form where
    one is known: :class:`~pyro_vae.SGVB_B` and :class:`~pyro_vae.SGVB_A` both apply. Under the estimators of this
    library the way down is computed once for guide and model (:func:`~pyro_vae.pair.once`), with one dropout for both;
    under Pyro's own ELBOs twice, with two.

    Args:
        bottom_up: x to the list of e_1, ..., e_L, such as :class:`BottomUpEncoder`.
        levels: the levels l = 1, ..., L, each a :class:`LatentLayer`.
        likelihood: ``h_0 -> p(x | h_0)``, see :mod:`pyro_vae.likelihoods`.

    Raises:
        ValueError: if there are no levels, the guide is run without data, or ``bottom_up`` gives something else than L
            tensors.
        TypeError: if a part gives no distribution.

    Source: Sonderby et al. (2016); Kingma et al. (2016), section 4; Vahdat & Kautz (2020), section 3.

    >>> from pyro_vae import MLP, Bernoulli, DiagonalNormal, StandardNormal
    >>> class Top(LatentLayer):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.p, self.q = StandardNormal(2), DiagonalNormal(MLP(32, (2, 2)))
    ...     def prior(self, h):
    ...         return self.p()
    ...     def posterior(self, p, h, evidence):
    ...         return self.q(evidence)
    ...     def forward(self, h, z):
    ...         return z
    >>> class Below(Top):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.p, self.q = DiagonalNormal(MLP(2, (2, 4))), DiagonalNormal(MLP(34, (2, 4)))
    ...     def prior(self, h):
    ...         return self.p(h)
    ...     def posterior(self, p, h, evidence):
    ...         return self.q(concat(evidence, h))
    >>> up = BottomUpEncoder([MLP(784, 32), MLP(32, 32)])
    >>> TopDownVAE(up, [Below(), Top()], Bernoulli(MLP(4, 784))).model().shape
    torch.Size([1, 784])
    """

    @checked
    def __init__(
        self,
        bottom_up: Callable[[Tensor], Sequence[Tensor]],
        levels: Sequence[LatentLayer],
        likelihood: Callable[[Tensor], dist.Distribution],
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("a hierarchy has at least one level; got none.")
        self.bottom_up = bottom_up
        self.levels = nn.ModuleList(levels)
        self.likelihood = likelihood

    @property
    def num_levels(self) -> int:
        """The number of latents L."""
        return len(self.levels)

    @pair_method
    def model(self, x: Tensor | None = None) -> Tensor:
        """z_l ~ p(z_l | h_l) from the top down, x ~ p(x | h_0)."""
        h: Any = None
        with data_plate(x):
            for index in range(self.num_levels, 0, -1):
                level = cast(LatentLayer, self.levels[index - 1])
                z = pyro.sample(f"z{index}", distribution_of("prior", once(level.prior, h)))
                h = once(level, h, z)
            return pyro.sample("x", distribution_of("likelihood", self.likelihood(h)), obs=x)

    @pair_method
    def guide(self, x: Tensor | None = None) -> None:
        """z_l ~ q(z_l | h_l, e_l(x)) from the top down."""
        h: Any = None
        x = given(x)
        with data_plate(x):
            evidence = self.bottom_up(x)
            if isinstance(evidence, Tensor) or len(evidence) != self.num_levels:
                got = "one tensor" if isinstance(evidence, Tensor) else f"{len(evidence)}"
                raise ValueError(
                    f"bottom_up has to give a list of {self.num_levels}, e_1 to e_L, one a level; got {got}."
                )
            for index in range(self.num_levels, 0, -1):
                level = cast(LatentLayer, self.levels[index - 1])
                p = once(level.prior, h)
                z = pyro.sample(f"z{index}", distribution_of("posterior", level.posterior(p, h, evidence[index - 1])))
                if index > 1:
                    h = once(level, h, z)
