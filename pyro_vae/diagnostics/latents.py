"""What a fitted pair does with data: reconstructions, codes, rate and distortion, active units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import TransformedDistribution, biject_to, constraints
from torch.nn.functional import normalize

from pyro_vae._pyro import is_subsample
from pyro_vae.distributions.wrappers import unwrapped
from pyro_vae.estimators import Estimator, elbo_of
from pyro_vae.pair import (
    as_pair,
    data_frame,
    device_of,
    evaluating,
    latent_sites,
    observed_sites,
    programs,
    support_of,
)

Batches = Iterable[Sequence[Tensor]]


@contextmanager
def _reading(pair: nn.Module) -> Iterator[None]:
    """No gradients, no validation, evaluation mode; all put back afterwards."""
    with evaluating(pair), torch.no_grad(), pyro.validation_enabled(False):
        yield


def encode(pair: Any, *batch: Tensor) -> dict[str, Tensor]:
    """E[z | x] by the guide, for each latent of a datum: ``{"z": [B, *event]}``.

    Where a latent depends on another one, on the mean of that. Where the mean is no value of the latent (inside of a
    sphere) or infinite (Cauchy), the mode. For a flow, whose mean is not known, the image of its base's mean under the
    transforms, which is not the mean of q. Where a family has no known mean, a draw.
    """
    module = as_pair(pair)
    _, guide = programs(module)
    batch = _on_device(module, batch)
    with _reading(module):
        with _AtMean():
            trace = poutine.trace(guide).get_trace(*batch)
        shared = _shared(trace)
        return {name: site["value"] for name, site in latent_sites(trace).items() if name not in shared}


def _shared(trace: Trace) -> set[str]:
    """The latents that all data share, such as weights: those in no plate, where other sites are in one."""
    nodes: Any = trace.nodes
    plated = {name for name, site in nodes.items() if any(f.vectorized for f in site.get("cond_indep_stack", ()))}
    return set(latent_sites(trace)) - plated if plated else set()


class _AtMean(poutine.messenger.Messenger):
    """Puts the center of its distribution at each latent site, in place of a draw; or at continuous ones by name."""

    def __init__(self, names: Collection[str] | None = None) -> None:
        super().__init__()
        self.names = names

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_subsample(msg):
            return
        if self.names is not None and (msg["name"] not in self.names or _support(msg["fn"]).is_discrete):
            return
        center = _center(msg["fn"])
        if center is not None and center.shape == msg["value"].shape and center.isfinite().all():
            msg["value"] = center


def _center(fn: Any) -> Tensor | None:
    """The mean of a distribution, or its mode; of a flow the image of its base's mean; ``None`` where there is none."""
    try:
        mean = fn.mean
        return mean if fn.support.is_discrete or fn.support.check(mean).all() else fn.mode
    except NotImplementedError:
        pass
    shape = fn.batch_shape + fn.event_shape
    fn = unwrapped(fn)
    center = _center(fn.base_dist) if isinstance(fn, TransformedDistribution) else None
    if center is None:
        return None
    for transform in fn.transforms:
        center = transform(center)
    return center.expand(shape)


def decode(pair: Any, latents: Mapping[str, Tensor] | Tensor, *batch: Tensor) -> Tensor:
    """E[x | z]: the mean of the observed site at given latents ``[B, *event]``.

    Random variables that all data share, such as weights, are at their mean under the guide.

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
    with _reading(module), _InPlaceOfAPrior(module):
        trace = poutine.trace(programs(module)[0]).get_trace(*batch)
    plate = data_frame(trace)
    inside = {name: [frame.name for frame in site["cond_indep_stack"]] for name, site in latent_sites(trace).items()}
    return {name for name, frames in inside.items() if plate is not None and plate.name in frames}


class _InPlaceOfAPrior(poutine.messenger.Messenger):
    """Puts a value at each latent without a proper prior, which cannot be drawn, where only shapes are asked for."""

    def __init__(self, pair: Any) -> None:
        super().__init__()
        module = as_pair(pair)
        dtype = next((parameter.dtype for parameter in module.parameters()), None)
        self.zero = torch.zeros((), dtype=dtype, device=device_of(module))

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], ImproperUniform) and not msg["done"] and msg["value"] is None:
            msg["value"], msg["done"] = biject_to(msg["fn"].support)(self.zero.expand(msg["fn"].shape())), True


def has_prior(pair: Any, *batch: Tensor) -> bool:
    """Whether the model's latents can be drawn: not where one is ``ImproperUniform``, as in an autoencoder.

    Args:
        pair: the pair.
        batch: arguments of the model; one datum is enough.
    """
    with _InPlaceOfAPrior(pair):
        sites = latent_sites(_run_model(pair, _resized(batch, 1), {}))
    return not any(isinstance(site["fn"], ImproperUniform) for site in sites.values())


def reconstruct(pair: Any, *batch: Tensor) -> Tensor:
    """E[x | z] at z = E[z | x], the mean of the guide: ``[B, *event]``."""
    return decode(pair, encode(pair, *batch), *batch)


def sample(pair: Any, num_samples: int, *batch: Tensor) -> Tensor:
    """Means E[x | z] at draws from the prior: ``[num_samples, *event]``; ``batch`` as in :func:`decode`.

    Random variables that all data share, such as weights, are one draw from the guide.

    Raises:
        ValueError: if the model observes several sites, or none, or has no prior, as an autoencoder.
    """
    return _observed_mean(_run_model(pair, _resized(batch, num_samples), {}, draw_shared=True))


def prior_quantiles(
    pair: Any,
    quantiles: Tensor | Sequence[float],
    *batch: Tensor,
    site: str = "z",
    num_samples: int = 4096,
    seed: int = 0,
) -> Tensor:
    """Quantiles of each unit of a latent under the model: ``[D, Q]``, D the size of the latent.

    They are those of ``num_samples`` draws of the site, so that any prior has them; where the site is a Normal with
    the same parameters for all data, they are exact.

    Args:
        pair: the pair.
        quantiles: ``[Q]``, in (0, 1).
        batch: arguments of the model as in :func:`decode`; what is not observed (a label) is taken as it comes.
        site: the latent.
        num_samples: number of draws.
        seed: of the draws; the caller's random state is left as it was.

    Raises:
        ValueError: if a quantile is outside (0, 1), there is no such latent, or its units are constrained jointly (a
            point on a sphere or a simplex): a single one cannot be moved then.
    """
    wanted = torch.as_tensor(quantiles, dtype=torch.float64)
    if wanted.dim() != 1 or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"quantiles are a list of numbers between 0 and 1; got {quantiles!r}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fn = _prior(pair, site, *_resized(batch, _CHUNK))["fn"]
        if _support(fn).event_dim > 0:
            raise ValueError(
                f"the units of {site!r} are constrained jointly ({_support(fn)}), so that a unit has no quantiles of "
                "its own to be moved through. Interpolate between two data instead: interpolate(pair, start, end)."
            )
        exact = _normal_quantiles(fn, wanted)
        if exact is not None:
            return exact
        rows = range(0, num_samples, _CHUNK)
        sizes = [min(_CHUNK, num_samples - row) for row in rows]
        parts = [_prior(pair, site, *_resized(batch, size))["value"] for size in sizes] if batch else []
        while sum(map(len, parts)) < num_samples:  # a model that is given nothing draws one datum
            parts.append(_prior(pair, site)["value"])
    draws = torch.cat([part.reshape(len(part), -1).cpu() for part in parts])
    return torch.as_tensor(np.quantile(draws.double().numpy(), wanted.numpy(), axis=0)).T.to(draws.dtype)


_CHUNK = 256


def support(pair: Any, *batch: Tensor, site: str = "z") -> constraints.Constraint:
    """Where a latent lies under the model; its ``event_dim`` is above 0 only if its units constrain each other."""
    with _InPlaceOfAPrior(pair):
        return _support(_prior(pair, site, *_resized(batch, 1))["fn"])


def _prior(pair: Any, site: str, *batch: Tensor) -> Any:
    """A latent of one run of the model."""
    sites = latent_sites(_run_model(pair, batch, {}))
    if site not in sites:
        raise ValueError(f"the model has no latent {site!r}; it has {', '.join(sites) or 'none'}.")
    return sites[site]


def _normal_quantiles(fn: Any, quantiles: Tensor) -> Tensor | None:
    """``[D, Q]`` of a Normal that is the same for all data."""
    base = unwrapped(fn)
    if not isinstance(base, torch.distributions.Normal):
        return None
    shape = (-1, fn.event_shape.numel())
    loc, scale = (value.expand(fn.batch_shape + fn.event_shape).reshape(shape) for value in (base.loc, base.scale))
    if not (loc == loc[0]).all() or not (scale == scale[0]).all():
        return None
    standard = torch.special.ndtri(quantiles).to(loc)
    return (loc[0, :, None] + scale[0, :, None] * standard).cpu()


def _support(fn: Any) -> constraints.Constraint:
    """The support of a distribution, of one unit where the units are independent; where it is not known, R."""
    found = support_of(fn)
    return constraints.real if found is None else found


def interpolate(
    pair: Any, start: Tensor | Sequence[Tensor], end: Tensor | Sequence[Tensor], num_steps: int = 10
) -> Tensor:
    """E[x | z] along lines between the codes of data: ``[P, num_steps, *event]`` for P starts and P ends.

    The codes are those of :func:`encode`. The line is straight in the unconstrained space of the latent
    (``biject_to`` of its support); between unit vectors, which have none, it is the straight line brought back to the
    sphere. All latents of a datum move together.

    Args:
        pair: the pair.
        start: data ``[P, *event]``, or the arguments of model and guide. What is not observed (a label) stays the
            start's.
        end: as many data.
        num_steps: points of a line, with both ends.

    Raises:
        ValueError: if there are not as many ends as starts, fewer than two steps, or a latent that has neither an
            unconstrained space nor unit length, such as a discrete one.
    """
    first, last = (tuple([data] if isinstance(data, Tensor) else data) for data in (start, end))
    if len(first[0]) != len(last[0]):
        raise ValueError(f"interpolate needs as many ends as starts; got {len(first[0])} starts and {len(last[0])}.")
    if num_steps < 2:
        raise ValueError(f"a line has at least 2 steps, its ends; got num_steps={num_steps}.")
    codes, ends = encode(pair, *first), encode(pair, *last)
    moved = _local_latents(pair, *_resized(first, 1))
    weight = torch.linspace(0, 1, num_steps)
    with _InPlaceOfAPrior(pair):
        priors = latent_sites(_run_model(pair, _resized(first, _CHUNK), {}))
    for name, code in codes.items():
        if name in moved:
            codes[name] = _line(priors[name], code, ends[name], weight).flatten(0, 1)
    rows = tuple(tensor.repeat_interleave(num_steps, 0) for tensor in first)
    return decode(pair, codes, *rows).unflatten(0, (-1, num_steps))


def _line(site: Any, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """``[P, T, *event]``: from ``start`` to ``end``, both ``[P, *event]``, at the weights ``[T]`` of the end."""
    space = _support(site["fn"])
    try:
        transform = biject_to(space)
    except NotImplementedError:
        length = torch.linalg.vector_norm(site["value"], dim=-1) if site["value"].dim() > 1 else site["value"]
        if space.is_discrete or not torch.allclose(length, torch.ones_like(length), atol=1e-3):
            raise ValueError(
                f"there is no line between two values of {site['name']!r}, a {type(site['fn']).__name__}: it has "
                "neither an unconstrained space nor unit length. Interpolation needs a continuous latent."
            ) from None
        return normalize(_between(normalize(start, dim=-1), normalize(end, dim=-1), weight), dim=-1)
    return transform(_between(transform.inv(start), transform.inv(end), weight))


def _between(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(start).reshape(-1, *[1] * (start.dim() - 1))
    return torch.lerp(start[:, None], end[:, None], weight)


def _on_device(pair: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device_of(pair)) for tensor in batch)


def chunks(*batch: Tensor, size: int = 500) -> list[tuple[Tensor, ...]]:
    """The arguments of model and guide in batches of at most ``size`` data, so that few are encoded at once."""
    return list(zip(*(tensor.split(size) for tensor in batch), strict=True))


def _resized(batch: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    return tuple(tensor[torch.arange(size, device=tensor.device) % len(tensor)] for tensor in batch)


def _run_model(
    pair: Any,
    batch: Sequence[Tensor],
    latents: Mapping[str, Tensor],
    draw_shared: bool = False,
    centered: Collection[str] = (),
) -> Trace:
    """A run at given latents. What all data share (weights) has its value from the guide: the mean, or a draw.

    The latents that are ``centered`` are at their mean, and not drawn.
    """
    module = as_pair(pair)
    model, guide = programs(module)
    batch = _on_device(module, batch)
    latents = {name: value.to(device_of(module)) for name, value in latents.items()}
    with _reading(module):
        given = poutine.condition(model, data=dict(latents))
        trace = poutine.trace(given).get_trace(*batch)
        observed = [name for name in observed_sites(trace) if name not in latents]
        shared = _shared(trace)
        if shared:
            with nullcontext() if draw_shared else _AtMean():
                posterior = latent_sites(poutine.trace(guide).get_trace(*batch))
            latents.update({name: posterior[name]["value"] for name in shared if name in posterior})
        free = poutine.trace(poutine.condition(poutine.uncondition(model), data=dict(latents)))
        with _AtMean(centered):
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
        estimator: tells log p, log q and KL apart by site, by default as in :func:`pyro_vae.fit`; its draws use torch's
            generator.

    Source: Alemi et al. (2018).
    """
    module = as_pair(pair)
    rates: dict[str, float] = {}
    distortion, count = 0.0, 0
    for batch in batches:
        size = len(batch[0])
        with _reading(module):
            estimator = elbo_of(module, *_on_device(module, batch)) if estimator is None else estimator
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
