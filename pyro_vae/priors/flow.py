"""A prior that is a normalizing flow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.distributions import Transform

from pyro_vae._checks import PARTS, checked, whole
from pyro_vae._recipes import Remembered
from pyro_vae.priors.normal import StandardNormal
from pyro_vae.transforms import InverseAutoregressive, NormalizingFlow
from pyro_vae.transforms.steps import Steps


class Flow(Remembered, nn.Module):
    r"""A base prior carried through bijections.

    .. math:: z = f_T \circ \dots \circ f_1(\epsilon), \quad \epsilon \sim p_0, \qquad
        \log p(z) = \log p_0(f^{-1}(z)) + \log |\det \partial f^{-1} / \partial z|

    Training scores the posterior's z, for which the inverse of f has to be fast. With ``invert`` the steps are read
    the other way, :math:`\epsilon = f_T \circ \dots \circ f_1(z)`, and scoring runs each of them forwards:

    - coupling, permutation, Householder: either way, both directions take one pass;
    - ``MaskedAutoregressive``: as it is; drawing from the prior takes D passes of its network;
    - ``InverseAutoregressive`` and Pyro's ``AffineAutoregressive``: ``invert=True``, which makes a masked
      autoregressive flow of them (Pyro's own cannot be traced without it);
    - planar, radial, Sylvester: ``invert=True``, as their inverses are solved for; Pyro's own have none, and with
      them the prior scores but cannot be drawn from.

    Args:
        base: a prior, ``() -> p(epsilon)``, for example ``StandardNormal(latent_dim)``.
        transforms: the steps :math:`f_1, \dots, f_T`, each a :class:`~pyro_vae.transforms.Step` without context,
            Pyro's ``TransformModule``, or a ``Transform`` without parameters: ``SigmoidTransform()`` for z in (0, 1).
        invert: read the steps from z to epsilon.

    Raises:
        ValueError: if there is no step, or one needs a context.
        TypeError: if a step is something else.

    Source: Rezende & Mohamed (2015), eq. 5; as a prior, Chen et al. (2017), section 3.2.

    >>> import torch
    >>> from pyro_vae.priors import StandardNormal
    >>> from pyro_vae.transforms import InverseAutoregressive
    >>> prior = Flow(StandardNormal(2), [InverseAutoregressive(2), InverseAutoregressive(2)], invert=True)
    >>> prior().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    @checked
    def __init__(self, base: nn.Module, transforms: Sequence[nn.Module | Transform], invert: bool = False) -> None:
        super().__init__()
        self.base = base
        self.transforms = Steps(transforms)
        self.invert = invert
        self.transforms()  # refuses a step that needs a context

    def extra_repr(self) -> str:
        return f"invert={self.invert}"

    def forward(self) -> NormalizingFlow:
        transforms = self.transforms()
        if self.invert:
            transforms = [transform.inv for transform in reversed(transforms)]
        return NormalizingFlow(self.base(), transforms)


class MaskedAutoregressiveFlow(Flow):
    r"""A masked autoregressive flow of K steps on a standard normal, whose scoring takes one pass for each step.

    .. math:: \epsilon = f_K \circ \dots \circ f_1(z) \sim \mathcal N(0, I), \qquad
        f(z)_d = \sigma_d z_d + (1 - \sigma_d) m_d

    where a masked network gives m_d and :math:`\sigma_d` of :math:`z_{<d}`.

    Args:
        latent_dim: size of z.
        num_transforms: K.
        hidden: widths of the hidden layers of each step's network, each at least ``latent_dim``.

    Raises:
        ValueError: if a size is below 1, or a hidden layer is narrower than ``latent_dim``.

    Source: Papamakarios, Pavlakou & Murray (2017); as a prior, Chen et al. (2017), section 3.2.
    """

    @checked
    def __init__(self, latent_dim: int, num_transforms: int = 4, hidden: Sequence[int] = (128,)) -> None:
        whole(0, PARTS, num_transforms=num_transforms)
        steps = [InverseAutoregressive(latent_dim, hidden=hidden) for _ in range(num_transforms)]
        super().__init__(StandardNormal(latent_dim), steps, invert=True)
