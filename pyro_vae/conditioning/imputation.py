"""Missing entries of data: their mean given what is observed, and draws of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import checked, warn, whole
from pyro_vae.conditioning.incomplete import check_same, incomplete
from pyro_vae.conditioning.weighing import by_draw, mean_of, missing_values, unobserved, weighed
from pyro_vae.diagnostics import observed_site, observed_values
from pyro_vae.estimators.run import Run

_POOR = 5.0  # effective samples, below which an imputation rests on a handful of draws


@dataclass(frozen=True)
class Imputed:
    """Data of which the missing entries are filled. Printed, a sentence.

    Attributes:
        mean: ``[N, *event]``, x where it is observed, and E[x_mis | x_obs] elsewhere.
        draws: ``[M, N, *event]``, x where it is observed, and draws of p(x_mis | x_obs) elsewhere.
        mask: ``[N, *event]``, true where x is observed.
        log_prob: ``[N]``, the estimate of log p(x_obs), in nats; with a model of the mask, of log p(x_obs, mask).
        effective_sample_size: ``[N]``, :math:`(\\sum_k w_k)^2 / \\sum_k w_k^2`, of ``num_samples``.
        num_samples: draws of z for each datum, K.
    """

    mean: Tensor
    draws: Tensor
    mask: Tensor
    log_prob: Tensor
    effective_sample_size: Tensor
    num_samples: int

    def __str__(self) -> str:
        missing = int((~self.mask).sum())
        return (
            f"{missing:,} missing entries of {self.mask.numel():,} ({missing / self.mask.numel():.0%}) in "
            f"{int((~self.mask).flatten(1).any(1).sum()):,} of {len(self.mask):,} data; median effective sample size "
            f"{self.effective_sample_size.median():.1f} of {self.num_samples:,}, least "
            f"{self.effective_sample_size.min():.1f}"
        )


@checked(but=("num_samples", "num_imputations", "chunk"))
def impute(
    pair: Any,
    x: Any,
    num_samples: int = 1000,
    num_imputations: int = 0,
    *,
    site: str | None = None,
    chunk: int = 16384,
    seed: int = 0,
    progress: bool = False,
) -> Imputed:
    r"""The missing entries of data by a fitted pair, by self-normalized importance weights.

    .. math::
        \mathrm E[x_\mathrm{mis} \mid x_\mathrm{obs}] \approx \sum_k \tilde w_k \,
        \mathrm E[x_\mathrm{mis} \mid z_k], \quad
        w_k = \frac{p(x_\mathrm{obs} \mid z_k) \, p(z_k)}{q(z_k \mid x_\mathrm{obs})}, \quad
        z_k \sim q(z \mid x_\mathrm{obs})

    with :math:`\tilde w_k = w_k / \sum_l w_l`. That is the imputation of the least expected squared error under the
    model; of a Bernoulli it is a probability, of a class the mean of its number (draws are classes), and where p(x | z)
    has no mean, as Cauchy's, that of its mode. Multiple imputations are draws of p(x_mis | x_obs): one of the z_k in
    proportion to its weight, and x_mis from p(x | z_k) there (sampling-importance-resampling).

    The pair is one of programs with an argument ``mask``, true where x is observed, such as
    :class:`~pyro_vae.models.IncompleteVAE`; of programs that mask NaN themselves; or one of whole data, whose encoder
    then sees its mean of x in the place of what is missing (:class:`~pyro_vae.conditioning.PartlyObserved`). A latent
    called ``x_unobserved`` of the observed site x, which not-MIWAE has and Pyro's ``obs_mask`` makes, is what is
    missing itself.

    Args:
        pair: the pair.
        x: data ``[N, *event]`` with NaN where they are missing, or a tuple of the arguments of model and guide.
        num_samples: draws of z for each datum, K.
        num_imputations: draws of the missing entries, M; 0 for their mean alone.
        site: of the sites that the model observes, see :func:`~pyro_vae.diagnostics.observed_site`.
        chunk: draws (over data and samples) that are held in memory at once.
        seed: of the draws; the caller's random state is left as it was.
        progress: show a progress bar.

    Raises:
        TypeError: if the mask is not of booleans.
        ValueError: if a number is out of its range, there are no data, mask and x differ in shape, the model observes x
            in another size, order or unit, or as :func:`pyro_vae.evidence.importance`.

    Warns:
        UserWarning: where for more than one datum in a hundred the effective sample size is below 5.

    Source: Mattei & Frellsen (2019), section 3; Ipsen et al. (2021), section 3.1.

    >>> import torch, pyro_vae as pv
    >>> vae = pv.models.IncompleteVAE((3,), 2, (8,))
    >>> found = impute(vae, torch.tensor([[1.0, float("nan"), 0.0]]), num_imputations=5)
    >>> found.mean.shape, found.draws.shape, found.mean[0, [0, 2]].tolist()
    (torch.Size([1, 3]), torch.Size([5, 1, 3]), [1.0, 0.0])
    """
    whole(1, num_samples=num_samples, chunk=chunk)
    whole(0, num_imputations=num_imputations)
    module, batch, mask = incomplete(pair, x)
    given = batch[0].cpu()
    name = observed_site(module, *batch, site=site)
    values = observed_values(module, *batch, site=name).cpu()
    if values.numel() == given.numel():
        check_same(name, values, given, mask)

    def look(run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        seen = run.model[name]
        latent = unobserved(run, name) is not None
        draws = missing_values(run, name) if latent or num_imputations else None  # which cost more than all else
        means = draws if latent and draws is not None else by_draw(run, seen, mean_of(seen.fn))
        if means.shape[2:].numel() != given.shape[1:].numel():
            raise ValueError(
                f"the model observes {name!r} of shape {list(means.shape[2:])}, and x is of {list(given.shape[1:])}: "
                "its missing entries are none of the site's. Give site= the one that observes x."
            )
        rows = {"x": means.reshape(*means.shape[:2], -1)}  # of numbers [B] too
        return rows, {} if draws is None else {"x": draws.reshape(*draws.shape[:2], -1)}

    options: dict[str, Any] = {"chunk": chunk, "seed": seed, "progress": progress}
    found = weighed("imputing", module, batch, look, num_samples, num_imputations, **options)
    size, event = len(given), given.shape[1:]
    filled = found.means["x"].reshape(size, *event)
    drawn = found.draws["x"].reshape(-1, size, *event) if num_imputations else filled.new_empty(0, size, *event)
    result = Imputed(
        torch.where(mask, given, filled),
        torch.where(mask, given, drawn),
        mask,
        found.log_prob.to(filled.dtype),
        found.effective_sample_size.to(filled.dtype),
        num_samples,
    )
    poor = int((result.effective_sample_size < _POOR).sum())
    if num_samples > 10 * _POOR and poor > 0.01 * size:
        warn(
            f"the effective sample size is below {_POOR:.0f} of {num_samples:,} for {poor:,} of {size:,} data: their "
            "imputations rest on a handful of draws. Use more samples, a pair that is trained on missing data, or "
            "chains: pyro_vae.sample(pair, where={'x': x}, method='chains')."
        )
    return result
