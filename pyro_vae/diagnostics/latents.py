"""What a fitted pair does with data: reconstructions, codes, rate and distortion, active units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.contract import as_pair, data_frame, device_of, evaluating, latent_sites, observed_sites, programs
from pyro_vae.estimators import SGVB_B, Estimator

Batches = Iterable[Sequence[Tensor]]


@contextmanager
def _reading(pair: nn.Module) -> Iterator[None]:
    """No gradients, no validation, evaluation mode; all put back afterwards."""
    with evaluating(pair), torch.no_grad(), pyro.validation_enabled(False):
        yield


def encode(pair: Any, *batch: Tensor) -> dict[str, Tensor]:
    """E[z | x] by the guide, for each latent: ``{"z": [B, *event]}``.

    Where a latent depends on another one, on the mean of that. Where a family has no known mean, a draw.
    """
    module = as_pair(pair)
    _, guide = programs(module)
    batch = _on_device(module, batch)
    with _reading(module):
        with _AtMean():
            trace = poutine.trace(guide).get_trace(*batch)
        return {name: site["value"] for name, site in latent_sites(trace).items()}


class _AtMean(poutine.messenger.Messenger):
    """Puts the mean of its distribution at each latent site, in place of a draw."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        try:
            mean = msg["fn"].mean
        except NotImplementedError:
            return
        if mean.shape == msg["value"].shape and mean.isfinite().all():
            msg["value"] = mean


def decode(pair: Any, latents: Mapping[str, Tensor] | Tensor, *batch: Tensor) -> Tensor:
    """E[x | z]: the mean of the observed site at given latents ``[B, *event]``.

    Args:
        pair: the pair.
        latents: a tensor for each latent site, or the tensor of the only one, ``z``.
        batch: arguments of the model; their rows are repeated, or cut, to the number of latents. Of what the model
            observes only the shape matters, and one datum is enough.

    Raises:
        ValueError: if the model observes several sites, or none.
    """
    values = dict(latents) if isinstance(latents, Mapping) else {"z": latents}
    local = _local_latents(pair, *_resized(batch, 1))
    sizes = [len(value) for name, value in values.items() if name in local]
    examples = _resized(batch, sizes[0]) if sizes else batch
    return _observed_mean(_run_model(pair, examples, values))


def _local_latents(pair: Any, *batch: Tensor) -> set[str]:
    """The latents inside the data plate."""
    module = as_pair(pair)
    with _reading(module):
        trace = poutine.trace(programs(module)[0]).get_trace(*batch)
    plate = data_frame(trace)
    inside = {name: [frame.name for frame in site["cond_indep_stack"]] for name, site in latent_sites(trace).items()}
    return {name for name, frames in inside.items() if plate is not None and plate.name in frames}


def reconstruct(pair: Any, *batch: Tensor) -> Tensor:
    """E[x | z] at z = E[z | x], the mean of the guide: ``[B, *event]``."""
    return decode(pair, encode(pair, *batch), *batch)


def sample(pair: Any, num_samples: int, *batch: Tensor) -> Tensor:
    """Means E[x | z] at draws from the prior: ``[num_samples, *event]``; ``batch`` as in :func:`decode`."""
    return _observed_mean(_run_model(pair, _resized(batch, num_samples), {}))


def _on_device(pair: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device_of(pair)) for tensor in batch)


def _resized(batch: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    return tuple(tensor[torch.arange(size, device=tensor.device) % len(tensor)] for tensor in batch)


def _run_model(pair: Any, batch: Sequence[Tensor], latents: Mapping[str, Tensor]) -> Trace:
    module = as_pair(pair)
    model, _ = programs(module)
    batch = _on_device(module, batch)
    latents = {name: value.to(device_of(module)) for name, value in latents.items()}
    with _reading(module):
        observed = list(observed_sites(poutine.trace(model).get_trace(*batch)))
        free = poutine.trace(poutine.condition(poutine.uncondition(model), data=dict(latents)))
        trace = free.get_trace(*batch)
    nodes: Any = trace.nodes
    for name in observed:
        nodes[name]["infer"]["was_observed"] = True
    return trace


def _observed_mean(trace: Trace) -> Tensor:
    nodes: Any = trace.nodes
    sites = [site for site in nodes.values() if site["type"] == "sample" and site["infer"].get("was_observed")]
    if len(sites) != 1:
        raise ValueError(
            f"the model observes {len(sites)} sites; an image can be taken from exactly one. "
            "If the model observes nothing without data, pass an example batch: sample(pair, n, x)."
        )
    with torch.no_grad():
        return sites[0]["fn"].mean


def reconstruction_mse(pair: Any, batches: Batches) -> float:
    """Squared error of :func:`reconstruct`, summed over the pixels and averaged over the data."""
    total, count = 0.0, 0
    for batch in batches:
        error = (reconstruct(pair, *batch).to(batch[0].device) - batch[0]) ** 2
        total, count = total + error.double().sum().item(), count + len(batch[0])
    return total / _some(count)


@dataclass(frozen=True)
class RateDistortion:
    """The two sides of the bound, in nats per datum: bound = -(rate + distortion).

    Attributes:
        rate: E[KL(q(z | x) || p(z))], what the latent tells of x.
        distortion: -E[log p(x | z)].
        rates: the rate of each latent site.
    """

    rate: float
    distortion: float
    rates: dict[str, float]


def rate_distortion(pair: Any, batches: Batches, estimator: Estimator | None = None) -> RateDistortion:
    """Rate and distortion over data.

    Args:
        pair: the pair.
        batches: the arguments of model and guide, batch by batch.
        estimator: tells log p, log q and KL apart by site, by default ``SGVB_B()``; its draws use torch's generator.

    Source: Alemi et al. (2018).
    """
    module = as_pair(pair)
    estimator = SGVB_B() if estimator is None else estimator
    rates: dict[str, float] = {}
    distortion, count = 0.0, 0
    for batch in batches:
        size = len(batch[0])
        with _reading(module):
            sites = estimator.terms(module, *_on_device(module, batch))
        for name, terms in sites.items():
            value = {kind: term.double().mean().item() * size for kind, term in terms.items()}
            if "kl" in value or "log_q" in value:
                rate = value["kl"] if "kl" in value else value["log_q"] - value.get("log_p", 0.0)
                rates[name] = rates.get(name, 0.0) + rate
            else:
                distortion -= value["log_p"]
        count += size
    rates = {name: value / _some(count) for name, value in rates.items()}
    return RateDistortion(sum(rates.values()), distortion / _some(count), rates)


@dataclass(frozen=True)
class ActiveUnits:
    """Which units of a latent the pair uses.

    Attributes:
        variances: ``[D]``, Var_x(E[z_d | x]) over the data.
        threshold: above which a unit is active.
        codes: ``[N, D]``, E[z | x].
    """

    variances: Tensor
    threshold: float
    codes: Tensor

    @property
    def count(self) -> int:
        """How many units are active."""
        return int((self.variances > self.threshold).sum())


def active_units(pair: Any, batches: Batches, *, site: str = "z", threshold: float = 0.01) -> ActiveUnits:
    """Units of ``site`` whose mean moves with the data: Var_x(E[z_d | x]) > threshold.

    Raises:
        ValueError: if the guide has no such latent.

    Source: Burda et al. (2015), section 5.2.
    """
    parts = []
    for batch in batches:
        codes = encode(pair, *batch)
        if site not in codes:
            raise ValueError(f"the guide has no latent {site!r}; it has {', '.join(codes) or 'none'}.")
        parts.append(codes[site].reshape(len(batch[0]), -1).cpu())
    _some(len(parts))
    held = torch.cat(parts)
    return ActiveUnits(held.double().var(0, correction=0), threshold, held)


def _some(count: int) -> int:
    if count == 0:
        raise ValueError("there are no data: the batches are empty.")
    return count
