"""Reading a trace: latents, observed sites, the plate over the data, supports."""

from __future__ import annotations

from typing import Any

from pyro.distributions import ImproperUniform
from pyro.poutine import Trace
from torch.distributions import constraints

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
        if site["type"] == "sample" and site["is_observed"] and not (site["infer"] or {}).get("_deterministic")
    }


def latent_sites(trace: Trace) -> dict[str, Any]:
    """The random variables that are not observed (plates' subsamples left out)."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and type(site["fn"]).__name__ != "_Subsample"
    }


def support_of(fn: Any) -> constraints.Constraint | None:
    """The support of one value, seen through ``to_event`` and mixtures; ``None`` if it is not known."""
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    return bare(support)


def check_densities(who: str, model_trace: Trace) -> None:
    """Refuses latents without a density, for what takes p(x, z) / q(z | x) as a weight of each datum.

    Args:
        who: needs the densities, for the message.
        model_trace: a run of the model.

    Raises:
        ValueError: if the prior of a latent is improper, as an autoencoder's.
    """
    for name, site in latent_sites(model_trace).items():
        if isinstance(site["fn"], ImproperUniform):
            raise ValueError(
                f"{who} needs densities p({name}) and q({name}), but the prior is improper: an autoencoder has no "
                f"prior, and its q({name}) is a point without a density: there are no importance weights, and no p(x). "
                "Train it by SGVB_A or SGVB_B, or take a VAE, such as pyro_vae.models.MLPVAE."
            )
