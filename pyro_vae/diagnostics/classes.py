"""Draws of each class, by a pair that is given classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._checks import checked, whole
from pyro_vae._tensors import check_dense
from pyro_vae.batches import leaves, repeated, rows
from pyro_vae.data.arrays import is_classes
from pyro_vae.diagnostics.codes import sample
from pyro_vae.diagnostics.latents import InPlaceOfAPrior, run_model
from pyro_vae.pair import as_pair
from pyro_vae.pair.signatures import argument_names
from pyro_vae.pair.sites import random_sites
from pyro_vae.pair.turns import fork_rng


@checked
def sample_by_class(
    pair: Any,
    num_samples: int,
    *batch: Any,
    classes: Sequence[int] | Tensor | None = None,
    site: str | None = None,
) -> Tensor:
    r"""Means E[x | z, c] at draws z from p(z | c) of each class c: ``[K, num_samples, *event]``.

    Args:
        pair: a pair whose model is given classes, a whole number for each datum, which it neither draws nor observes,
            as a :class:`~pyro_vae.models.ConditionalVAE` of labels.
        num_samples: draws of each class.
        batch: arguments of the model; of x only the shape matters.
        classes: K of them, by default those of ``batch`` in ascending order.
        site: of the sites that the model observes, see :func:`~pyro_vae.diagnostics.observed_site`.

    Raises:
        ValueError: if the model is given no classes, and as :func:`~pyro_vae.diagnostics.sample`.

    >>> import pyro_vae as pv
    >>> cvae = pv.models.ConditionalVAE((6,), 3, latent_dim=2, hidden=(8,))
    >>> sample_by_class(cvae, 4, torch.zeros(5, 6), torch.tensor([0, 2, 1, 1, 0])).shape
    torch.Size([3, 4, 6])
    """
    whole(num_samples=num_samples)
    place = class_argument(pair, *batch)
    if place is None:
        raise ValueError(
            "the model is given no classes: among the arguments has to be a whole number for each datum, which it "
            "neither draws nor observes. Use sample(pair, n, *batch) for draws of other models."
        )
    given = batch[place]
    asked = given.unique() if classes is None else torch.as_tensor(classes).to(given)
    if asked.dim() != 1 or not len(asked):
        raise ValueError(f"classes are a list of at least one; got the shape {list(asked.shape)}.")
    one = list(repeated(rows(batch, slice(1)), len(asked) * num_samples))
    one[place] = asked.repeat_interleave(num_samples)
    return sample(pair, len(one[place]), *one, site=site).unflatten(0, (len(asked), num_samples))


@checked
def class_argument(pair: Any, *batch: Any) -> int | None:
    """Which argument of a model is a class for each datum that it is given, and neither draws nor observes.

    ``None`` where there is none. The caller's random state is left as it was.

    >>> import torch, pyro_vae as pv
    >>> cvae = pv.models.ConditionalVAE((6,), 3, latent_dim=2, hidden=(8,))
    >>> pv.diagnostics.class_argument(cvae, torch.zeros(2, 6), torch.tensor([0, 2]))
    1
    """
    for value in leaves(batch):
        if isinstance(value, Tensor):
            check_dense(value, "an argument of the model")
    places = [place for place, value in enumerate(batch) if place and isinstance(value, Tensor) and is_classes(value)]
    names = argument_names(as_pair(pair))
    first = rows(batch, slice(2))
    with fork_rng(), InPlaceOfAPrior(pair):
        sites: Any = random_sites(run_model(pair, first)) if places else {}
    for place in places:
        observed = [site["infer"].get("was_observed") for site in sites.values()]
        seen = any(value is not None and value.shape == first[place].shape for value in observed)
        if place < len(names) and names[place] not in sites and not seen:
            return place
    return None
