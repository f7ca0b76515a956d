"""Likelihoods of counts 0, 1, 2, ...: Poisson and negative binomial."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyro_vae._checks import checked
from pyro_vae.distributions import pixels
from pyro_vae.likelihoods.base import Likelihood

_BOUND = 15.0


def _tamed(output: Tensor) -> Tensor:
    """A network's output where it is within 15 of zero; a logarithm beyond, on both sides."""
    return -pixels.logarithmic_above(-pixels.logarithmic_above(output, _BOUND), _BOUND)


class Poisson(Likelihood):
    r"""Independent counts, :math:`\log p(x \mid z) = \sum_d x_d \log r_d - r_d - \log x_d!`, with rates r.

    Args:
        network: ``z: [*, latent_dim] -> [*, *event]``, the log rates. An output a above 15 (a rate of 3.3 million) is
            read as 15 + log(a - 14), so that the rate goes on linearly and does not overflow; likewise below -15.
    """

    def forward(self, z: Tensor) -> dist.Distribution:
        return self._event(pixels.Poisson(_tamed(self._output(z))), z)


class NegativeBinomial(Likelihood):
    r"""Independent counts of more variance than a Poisson's: a Poisson whose rate is Gamma distributed,

    .. math:: \log p(x \mid z) = \sum_d \log \frac{\Gamma(x_d + r_d)}{\Gamma(r_d) \, x_d!}
        + r_d \log \sigma(-l_d) + x_d \log \sigma(l_d)

    with mean :math:`r e^l` and variance :math:`r e^l (1 + e^l)`.

    Args:
        network: ``z: [*, latent_dim] -> [*, 2, *event]``, log r (r is Pyro's ``total_count``) and the logits l
            stacked. Outputs above 15 or below -15 are read as in :class:`Poisson`.

    Raises:
        ValueError: if the network does not give two stacked parameters.
    """

    @checked
    def network_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        return (2, *event_shape)

    def forward(self, z: Tensor) -> dist.Distribution:
        log_count, logits = self._stacked(z, 2)
        return self._event(pixels.NegativeBinomial(_tamed(log_count).exp(), logits=_tamed(logits)), z)
