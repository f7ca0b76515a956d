"""The KL of a latent, averaged over data, in three parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import checked, whole
from pyro_vae.batches import num_rows
from pyro_vae.diagnostics.latents import named, opened
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.kl import aggregate, units
from pyro_vae.pair import latent_sites, run
from pyro_vae.pair.arguments import batch_of
from pyro_vae.pair.turns import fork_rng

_NUMBERS = 2**23  # held at once: densities of draws under posteriors, by unit


@dataclass(frozen=True)
class KLDecomposition:
    r"""The mean over N data of KL(q(z | x) || p(z)), in nats, as the sum of three.

    With :math:`q(z) = \frac 1 N \sum_n q(z \mid x_n)`:

    Attributes:
        index_code_mutual_information: :math:`\frac 1 N \sum_n \mathrm{KL}(q(z \mid x_n) \| q(z))`, what a code tells of
            its datum; at most log N.
        total_correlation: :math:`\mathrm{KL}(q(z) \| \prod_u q(z_u))`, what the units tell of each other.
        dimension_wise_kl: :math:`\sum_u \mathrm{KL}(q(z_u) \| p(z_u))`.
        kl: their sum.
        by_unit: ``[U]``, the summands of ``dimension_wise_kl``; ``None`` if the units of the prior are not independent,
            where that part is E[log prod_u q(z_u) - log p(z)].
        standard_errors: of the four numbers, by name, from the draws of z; the data are taken as given.
        num_data: N.
    """

    index_code_mutual_information: float
    total_correlation: float
    dimension_wise_kl: float
    kl: float
    by_unit: Tensor | None
    standard_errors: dict[str, float]
    num_data: int

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) || p(z)), the last two parts (Hoffman & Johnson 2016)."""
        return self.total_correlation + self.dimension_wise_kl


@checked(but=("num_samples",))
def kl_decomposition(pair: Any, *batch: Any, num_samples: int = 4, site: str = "z", seed: int = 0) -> KLDecomposition:
    r"""Takes the KL of a latent apart, with the aggregate posterior over all the given data.

    Each draw of z is scored under the posteriors of all N data, so the cost is num_samples :math:`N^2 U` densities of
    one unit: seconds for N = 1,000, and minutes for N = 10,000.

    Args:
        pair: the pair.
        batch: arguments of model and guide, for all of the data.
        num_samples: draws of z for each datum, at least 2.
        site: a latent whose distribution in the guide depends on the data alone.
        seed: of the draws.

    Raises:
        ValueError: if the guide has no such latent, its prior depends on another one, its units are not independent,
            there are no data, or ``num_samples`` is below 2.

    Source: Chen et al. (2018), eq. 2; Hoffman & Johnson (2016).

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> parts = kl_decomposition(pair, x)
    >>> type(parts.total_correlation)
    <class 'float'>
    """
    whole(2, num_samples=num_samples)
    with opened(pair, batch_of(pair, batch), seed) as (module, batch):
        model, guide = map(latent_sites, run(module, *batch))
        fn, prior = named(guide, site)["fn"], named(model, site, "model")["fn"]
        with fork_rng():
            again = latent_sites(run(module, *batch).model_trace)[site]["fn"]
        if not torch.allclose(
            prior.log_prob(guide[site]["value"]), again.log_prob(guide[site]["value"]), equal_nan=True
        ):
            raise ValueError(
                f"p({site}) depends on another latent, so that there is no one prior to compare q({site}) with. Take "
                "the latent that the model draws first, or the rates of diagnostics.levels."
            )
        q, p = units(fn), units(prior)
        num_data = num_rows(batch)
        if q is None or fn.batch_shape != (num_data,):
            raise ValueError(
                f"q({site}) is a {family(fn)} of shape {list(fn.batch_shape)} + {list(fn.event_shape)}; the units of a "
                f"latent of each of the {num_data:,} data have to be independent there, as in Normal(...).to_event(1)."
            )
        z = fn.sample((num_samples,))  # [S, N, *event]
        event = fn.event_shape
        rows = max(1, _NUMBERS // (num_data * event.numel()))
        log_weights = q.log_prob(z[0]).new_full((num_data,), -float(torch.tensor(num_data).log()))
        joints, singles = [], []
        for part in z.flatten(0, 1).split(rows):
            log_q = q.log_prob(part.unsqueeze(1)).reshape(len(part), num_data, -1)
            joint, single = aggregate(log_q, log_weights)
            joints.append(joint.double())
            singles.append(single.double())
        joint = torch.cat(joints).unflatten(0, (num_samples, num_data))
        single = torch.cat(singles).unflatten(0, (num_samples, num_data))
        posterior, log_prior = fn.log_prob(z).double(), prior.log_prob(z).double()
        by_unit = None
        if p is not None:
            by_unit = (single - p.log_prob(z).double().reshape(single.shape)).mean((0, 1))
    product = single.sum(-1)
    samples = {
        "index_code_mutual_information": posterior - joint,
        "total_correlation": joint - product,
        "dimension_wise_kl": product - log_prior,
        "kl": posterior - log_prior,
    }
    return KLDecomposition(
        **{name: sample.mean().item() for name, sample in samples.items()},
        by_unit=by_unit,
        standard_errors={name: _standard_error(sample) for name, sample in samples.items()},
        num_data=num_data,
    )


def _standard_error(samples: Tensor) -> float:
    """Of the mean of ``[S, N]``: S draws for each of N data."""
    return (samples.var(0).sum() / samples.shape[0]).sqrt().item() / samples.shape[1]
