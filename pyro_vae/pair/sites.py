"""Reading a trace: latents, observed sites, the plate over the data, supports."""

from __future__ import annotations

from typing import Any

from pyro.poutine import Trace
from torch.distributions import constraints

from pyro_vae._pyro import is_deterministic, is_subsample
from pyro_vae.distributions.wrappers import bare

DATA_PLATE = "data"


def data_frame(trace: Trace) -> Any | None:
    """The plate over the data: the frame called ``data``, or else the rightmost plate around an observed site."""
    rightmost = None
    for site in trace.nodes.values():
        if site["type"] != "sample":
            continue
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and frame.name == DATA_PLATE:
                return frame
            if frame.vectorized and frame.dim == -1 and site["is_observed"]:
                rightmost = frame
    return rightmost


def observed_sites(trace: Trace) -> dict[str, Any]:
    """The sites at which the model meets the data."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and site["is_observed"] and not is_deterministic(site)
    }


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The random variables that are not observed (plates' subsamples left out)."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
    }


def random_sites(trace: Trace) -> dict[str, Any]:
    """The latents, and behind them the observed sites."""
    return {**latent_sites(trace), **observed_sites(trace)}


def support_of(fn: Any) -> constraints.Constraint | None:
    """The support of one value, seen through ``to_event`` and mixtures; ``None`` if it is not known."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    return bare(support)
