"""Reading a trace: latents, observed sites, the plate over the data, supports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._pyro import PARTICLES, is_deterministic, is_subsample, was_observed
from pyro_vae._torch import memory
from pyro_vae.batches import leaves
from pyro_vae.distributions.supports import bare

DATA_PLATE = "data"
PENALTY = "pyro_vae_penalty"  # the mark of a factor that lowers a guide's bound


def data_frame(trace: Trace, size: float | None = None, num_data: float | None = None) -> Any | None:
    """The plate over the data: the frame called ``data``, or else one around an observed site (:func:`data_frames`).

    One without a size has that of its sites.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> plate = pair.data_frame(pair.run(vae, x).model_trace)
    >>> plate.name, plate.size, plate.dim
    ('data', 3, -1)
    """
    found = data_frames(trace, size, num_data)
    return next((frame for frame in found if frame.dim == -1), found[0]) if found else None


def data_frames(trace: Trace, size: float | None = None, num_data: float | None = None) -> list[Any]:
    """The plates that may be that over the data: one, unless it cannot be told.

    Of several around the observed sites it is that of a known size, and then the one that is around all sites that
    stand in any of them: around the latents of a datum as well.

    Args:
        trace: of the model; of a guide only the name tells.
        size: of the batch, B.
        num_data: N. Where both are around the same sites, a plate of N that is none of B is another one, as of so many
            columns, unless it subsamples.
    """
    sites: Any = [site for site in trace.nodes.values() if site["type"] == "sample" and not is_subsample(site)]
    frames: dict[str, Any] = {}
    for site in sites:
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and frame.name == DATA_PLATE:
                return [_sized(frame, trace)]
            if frame.vectorized and frame.name != PARTICLES and (site["is_observed"] or was_observed(site) is not None):
                frames.setdefault(frame.name, frame)
    found = [_sized(frame, trace) for frame in frames.values()]
    found = [frame for frame in found if {frame.size, frame.full_size} & {size, num_data}] or found
    around = [kept for site in sites if (kept := [frame for frame in found if inside(site, frame)])]
    found = [frame for frame in found if all(frame in kept for kept in around)] or found
    for may_be in (
        lambda frame: frame.size == size and frame.full_size == num_data,
        lambda frame: frame.size < frame.full_size == num_data,
        lambda frame: size in (frame.size, frame.full_size),
        lambda frame: num_data in (frame.size, frame.full_size),
    ):
        found = list(filter(may_be, found)) or found
    return found


def _sized(frame: Any, trace: Trace) -> Any:
    if frame.size >= 0:
        return frame
    sites: Any = [site for site in trace.nodes.values() if site["type"] == "sample" and inside(site, frame)]
    shapes = [batch_shape(site) for site in sites if not is_subsample(site)]
    size = max(shape[frame.dim] if len(shape) >= -frame.dim else 1 for shape in shapes)
    return frame._replace(size=size, full_size=size)


def batch_shape(site: Any) -> torch.Size:
    """The shape of a site's plates; of one without a size the data tell it, where the distribution is one for all."""
    fn = site["fn"]
    shape = fn.batch_shape
    unsized = [frame.dim for frame in site["cond_indep_stack"] if frame.vectorized and frame.size < 0]
    if site["is_observed"] and isinstance(site["value"], Tensor) and unsized:
        of_data = site["value"].shape[: site["value"].dim() - fn.event_dim]
        told = [1] * -min(unsized)
        for dim in unsized:
            told[dim] = of_data[dim] if len(of_data) >= -dim else 1
        with contextlib.suppress(RuntimeError):  # of shapes that do not go together, which is another problem
            shape = torch.broadcast_shapes(shape, told)
    return shape


def inside(site: Any, plate: Any) -> bool:
    """Whether a site stands in a plate."""
    return any(frame.name == plate.name for frame in site["cond_indep_stack"])


def observed_sites(trace: Trace) -> dict[str, Any]:
    """The sites at which the model meets the data.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> list(pair.observed_sites(pair.run(vae, x).model_trace))
    ['x']
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["is_observed"] and not is_deterministic(site)
    }


def held_sites(trace: Trace, batch: Iterable[Any], size: float | None = None) -> set[str]:
    """The sites that the model itself gives a value that all data share, as by ``poutine.condition``.

    They are observed outside of the data plate, and none of the arguments ``batch``; a factor is none.
    """
    plate, data = data_frame(trace, size), {memory(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor)}
    observed = {} if plate is None else observed_sites(trace)
    found = {name for name, site in observed.items() if not inside(site, plate) and memory(site["value"]) not in data}
    return {name for name in found if not isinstance(observed[name]["fn"], Unit)}


def is_auxiliary_data(site: Any) -> bool:
    """Whether a guide observes data at a site that it marks as auxiliary: a network is trained there to tell them.

    Pyro marks factors so, too, which are something else.
    """
    marked = (site["infer"] or {}).get("is_auxiliary") and not isinstance(site["fn"], Unit)
    return bool(site["is_observed"] and marked and not is_deterministic(site))


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The random variables that are not observed (plates' subsamples left out).

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> {name: site["value"].shape for name, site in pair.latent_sites(pair.run(vae, x).model_trace).items()}
    {'z': torch.Size([3, 2])}
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
    }


def random_sites(trace: Trace) -> dict[str, Any]:
    """The latents, and behind them the observed sites.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> list(pair.random_sites(pair.run(vae, x).model_trace))
    ['z', 'x']
    """
    return {**latent_sites(trace), **observed_sites(trace)}


def scale_of_plates(site: Any) -> float:
    """The product of N / B over the plates around a site: what subsampling scales it by."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size != frame.size:
            scale *= frame.full_size / frame.size
    return scale


def plate_nesting(*traces: Trace) -> int:
    """How many plates programs nest; that of the data is one, and that of particles none."""
    frames = [frame for trace in traces for site in random_sites(trace).values() for frame in site["cond_indep_stack"]]
    return max((-frame.dim for frame in frames if frame.vectorized and frame.name != PARTICLES), default=1)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether log-probabilities are equal but for rounding."""
    return torch.allclose(one, other.to(one), rtol=1e-4, atol=1e-5, equal_nan=True)


def support_of(fn: Any) -> constraints.Constraint | None:
    """The support of one value, seen through ``to_event`` and mixtures; ``None`` if it is not known.

    >>> import pyro.distributions as dist
    >>> from pyro_vae.pair import support_of
    >>> support_of(dist.Gamma(2.0, 1.0).expand([5]).to_event(1))
    GreaterThanEq(lower_bound=0.0)
    """
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    return bare(support)
