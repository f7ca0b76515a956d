"""The likelihood of a class."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, whole
from pyro_vae.distributions.classes import ClassNumber
from pyro_vae.likelihoods.base import Likelihood


class Classes(Likelihood):
    r"""One of K classes, or several independent ones, as labels and words are:
    :math:`P(y_d = k \mid z) = \mathrm{softmax}(\mathrm{logits}_d(z))_k`.

    Args:
        network: ``z: [*, latent_dim] -> [*, K, *event]``, the logits; ``[*, K]`` for one class a datum, of event shape
            ``()``.
        num_classes: K, at least 2. Data are the whole numbers 0, ..., K - 1.

    Raises:
        ValueError: if ``num_classes`` is no whole number of at least 2, or the network does not give the logits.
    """

    def __init__(self, network: nn.Module, num_classes: int = 10) -> None:
        super().__init__(network)
        whole(2, num_classes=num_classes)
        self.num_classes = int(num_classes)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}"

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (self.num_classes, *event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._event(ClassNumber(self._last(z, self.num_classes)), z)

    def one_hot(self, y: Tensor) -> Tensor:
        """``[*, K]``, what a network is shown of classes ``y: [*]``; zeros of what is none of them."""
        classes = torch.arange(self.num_classes, device=y.device)
        parameter = next(self.parameters(), None)
        return (y.unsqueeze(-1) == classes).to(torch.get_default_dtype() if parameter is None else parameter.dtype)
