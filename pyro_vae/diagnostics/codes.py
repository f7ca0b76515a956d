"""From data to codes and back: reconstructions, samples, interpolations, quantiles of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from torch import Tensor
from torch.distributions import Normal, biject_to, constraints
from torch.nn.functional import normalize

from pyro_vae._checks import checked, whole
from pyro_vae.batches import num_rows, repeated
from pyro_vae.diagnostics.latents import (
    AtMean,
    by_datum,
    local_latents,
    named,
    observed_mean,
    opened,
    plates_of,
    prior_sites,
    resized,
    run_model,
    shared_latents,
    space_of,
)
from pyro_vae.distributions.wrappers import family, unwrapped
from pyro_vae.pair import data_frame, latent_sites, programs
from pyro_vae.pair.arguments import converted
from pyro_vae.pair.sites import inside
from pyro_vae.pair.turns import fork_rng


@checked
def encode(pair: Any, *batch: Any) -> dict[str, Tensor]:
    """E[z | x] by the guide, for each latent of a datum: ``{"z": [B, *event]}``, or ``[B, *plates, *event]``.

    Where a latent depends on another one, on the mean of that. Where the mean is no value of the latent (inside of a
    sphere) or infinite (Cauchy), the mode. For a flow, whose mean is not known, the image of its base's mean under the
    transforms, which is not the mean of q. Where a family has no known mean, a draw.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> encode(pair, x)["z"].shape
    torch.Size([3, 2])
    """
    with opened(pair, batch) as (module, batch):
        with AtMean():
            trace = poutine.trace(programs(module)[1]).get_trace(*batch)
        shared, plate = shared_latents(trace), data_frame(trace)
        if plate is None and batch:  # one of another name, which a guide alone does not tell
            plate = data_frame(plates_of(module, batch), num_rows(batch))
        return {
            name: by_datum(site, site["value"], plate, num_rows(batch) if batch else 1).detach()  # of a parameter
            for name, site in latent_sites(trace).items()
            if name not in shared and not _is_shared(site, plate)
        }


def _is_shared(site: Any, plate: Any) -> bool:
    """Whether a guide draws one value for all data, none of its sites standing in their plate."""
    return plate is not None and not inside(site, plate) and site["value"].dim() == site["fn"].event_dim


@checked
def decode(pair: Any, latents: Mapping[str, Tensor] | Tensor, *batch: Any, site: str | None = None) -> Tensor:
    """E[x | z]: the mean of the observed site at given latents ``[B, *event]``.

    Random variables that all data share, such as weights, are at their mean under the guide. Of a likelihood whose
    mean is not known or not finite, as of a label, it is the mode.

    Args:
        pair: the pair.
        latents: a tensor for each latent site, or the tensor of the only one.
        batch: arguments of the model; their rows are repeated, or cut, to the number of latents. Of what the model
            observes only the shape matters, and one datum is enough. But a model that goes on from the argument itself,
            and not from what ``pyro.sample`` returns (teacher forcing; a label that is observed), is told the example:
            then this is E[x | z, example].
        site: of the sites that the model observes, see :func:`observed_site`.

    Raises:
        ValueError: as :func:`observed_site`, or if the likelihood has neither mean nor mode.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> decode(pair, torch.zeros(5, 2), x).shape
    torch.Size([5, 4])
    """
    local = local_latents(pair, *resized(batch, 1))
    values = dict(latents) if isinstance(latents, Mapping) else {next(iter(local)) if len(local) == 1 else "z": latents}
    if scalar := [name for name, value in values.items() if name in local and not value.dim()]:
        raise ValueError(f"latents have a value for each datum, [B, *event]; {scalar[0]!r} is one number.")
    sizes = [len(value) for name, value in values.items() if name in local]
    examples = resized(batch, sizes[0]) if sizes else batch
    size = num_rows(examples) if examples else None
    return observed_mean(run_model(pair, examples, values), pair, examples, site, size)


@checked
def reconstruct(pair: Any, *batch: Any, site: str | None = None) -> Tensor:
    """E[x | z] at z = E[z | x], the mean of the guide: ``[B, *event]``; ``site`` as in :func:`decode`.

    A latent that the model alone has is drawn.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> reconstruct(pair, x).shape
    torch.Size([3, 4])
    """
    batch = converted(pair, batch)
    return decode(pair, encode(pair, batch), batch, site=site)


@checked
def sample(pair: Any, num_samples: int, *batch: Any, site: str | None = None) -> Tensor:
    """Means E[x | z] at draws from the prior: ``[num_samples, *event]``; ``batch`` and ``site`` as in :func:`decode`.

    Random variables that all data share, such as weights, are one draw from the guide.

    Raises:
        ValueError: as :func:`decode`, or if the model has no prior, as an autoencoder.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> sample(pair, 5, x).shape
    torch.Size([5, 4])
    """
    rows = resized(batch, num_samples)
    trace = run_model(pair, rows, {}, draw_shared=True)
    return observed_mean(trace, pair, rows, site, num_samples if rows else None)


@checked
def latent_names(pair: Any, *batch: Any) -> tuple[str, ...]:
    """The latents of a datum in the order in which the model draws them: of a hierarchy ``("zL", ..., "z1")``.

    The caller's random state is left as it was.

    Args:
        pair: the pair.
        batch: arguments of the model; one datum is enough.

    >>> import torch, pyro_vae as pv
    >>> pv.diagnostics.latent_names(pv.models.LadderVAE((4,), latent_dims=(3, 2), hidden=(8, 8)), torch.ones(1, 4))
    ('z2', 'z1')
    """
    with fork_rng():
        sites, local = prior_sites(pair, *batch), local_latents(pair, *resized(batch, 1))
    return tuple(name for name in sites if name in local)


@checked
def resample(
    pair: Any,
    *batch: Any,
    fixed: Sequence[str] | Mapping[str, Tensor] = (),
    sampled: Sequence[str] | None = None,
    num_samples: int = 8,
    site: str | None = None,
) -> Tensor:
    r"""Means E[x | z] where some latents stay those of a datum and others are drawn from the model given them.

    With the levels above l fixed, :math:`z_l, \dots, z_1 \sim p(z_l, \dots, z_1 \mid z_L, \dots, z_{l+1})`: what the
    fixed levels leave open. With z_l alone sampled, and those below at their mean given it: what level l holds.

    Args:
        pair: the pair.
        batch: arguments of model and guide, P data.
        fixed: the latents that stay: names, for E[z | x] of :func:`encode`, or values ``[P, *event]`` by name.
        sampled: those that are drawn given what the model draws before them, by default all that are not fixed. What
            is neither fixed nor sampled is at its mean given what the model draws before it; one that is discrete or
            has no mean is drawn as well.
        num_samples: draws for each datum, S.
        site: of the sites that the model observes, see :func:`observed_site`.

    Returns:
        ``[P, S, *event]``.

    Raises:
        ValueError: if a latent is not one of the model's, both fixed and sampled, or has another number of values than
            there are data, and as :func:`decode`.

    >>> import torch, pyro_vae as pv
    >>> ladder, x = pv.models.LadderVAE((4,), latent_dims=(3, 2), hidden=(8, 8)), torch.rand(5, 4).round()
    >>> pv.diagnostics.resample(ladder, x, fixed=["z2"], num_samples=6).shape
    torch.Size([5, 6, 4])
    """
    whole(1, num_samples=num_samples)
    names = latent_names(pair, *batch)
    asked = (*fixed, *(sampled or ()))
    for name in asked:
        named(dict.fromkeys(names), name, "model")
        if asked.count(name) > 1:
            raise ValueError(f"the latent {name!r} is named more than once: put it in fixed or in sampled.")
    if isinstance(fixed, Mapping):
        values = dict(fixed)
    else:
        codes = encode(pair, *batch) if fixed else {}
        values = {name: named(codes, name, purpose=" to be fixed") for name in fixed}
    size = num_rows(batch)
    for name, value in values.items():
        if len(value) != size:
            raise ValueError(f"{size} data need as many values of {name!r}, [{size}, *event]; got {list(value.shape)}.")
    rows = repeated(batch, num_samples)
    fixed_values = {name: value.repeat_interleave(num_samples, 0) for name, value in values.items()}
    centered = () if sampled is None else set(names) - set(asked)
    trace = run_model(pair, rows, fixed_values, centered=centered)
    means = observed_mean(trace, pair, rows, site, size * num_samples)
    return means.unflatten(0, (size, num_samples))


@checked
def has_prior(pair: Any, *batch: Any) -> bool:
    """Whether the model's latents can be drawn: not where one is ``ImproperUniform``, as in an autoencoder.

    Args:
        pair: the pair.
        batch: arguments of the model; one datum is enough.

    >>> import torch, pyro_vae as pv
    >>> x = torch.rand(3, 4).round()
    >>> vae, autoencoder = pv.models.MLPVAE((4,), latent_dim=2), pv.models.Autoencoder((4,), latent_dim=2)
    >>> pv.diagnostics.has_prior(vae, x), pv.diagnostics.has_prior(autoencoder, x)
    (True, False)
    """
    return not any(isinstance(site["fn"], ImproperUniform) for site in prior_sites(pair, *batch).values())


@checked
def prior_quantiles(
    pair: Any,
    quantiles: Tensor | Sequence[float],
    *batch: Any,
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

    >>> import torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.ones(1, 4)
    >>> pv.diagnostics.prior_quantiles(vae, [0.025, 0.5, 0.975], x)
    tensor([[-1.9600,  0.0000,  1.9600],
            [-1.9600,  0.0000,  1.9600]])
    """
    wanted = torch.as_tensor(quantiles, dtype=torch.float64)
    if wanted.dim() != 1 or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"quantiles are a list of numbers between 0 and 1; got {quantiles!r}.")
    with fork_rng():
        torch.manual_seed(seed)
        fn = _prior(pair, site, *resized(batch, _CHUNK))["fn"]
        if space_of(fn).event_dim > 0:
            raise ValueError(
                f"the units of {site!r} are constrained jointly ({space_of(fn)}), so that a unit has no quantiles of "
                "its own to be moved through. Interpolate between two data instead: interpolate(pair, start, end)."
            )
        exact = _normal_quantiles(fn, wanted)
        if exact is not None:
            return exact
        rows = range(0, num_samples, _CHUNK)
        sizes = [min(_CHUNK, num_samples - row) for row in rows]
        parts = [_prior(pair, site, *resized(batch, size))["value"] for size in sizes] if batch else []
        while sum(map(len, parts)) < num_samples:  # a model that is given nothing draws one datum
            parts.append(_prior(pair, site)["value"])
    draws = torch.cat([part.reshape(len(part), -1).cpu() for part in parts])
    return torch.as_tensor(np.quantile(draws.double().numpy(), wanted.numpy(), axis=0)).T.to(draws.dtype)


_CHUNK = 256


@checked
def support(pair: Any, *batch: Any, site: str = "z") -> constraints.Constraint:
    """Where a latent lies under the model; its ``event_dim`` is above 0 only if its units constrain each other.

    >>> import torch, pyro_vae as pv
    >>> pv.diagnostics.support(pv.models.MLPVAE((4,), latent_dim=2), torch.ones(1, 4))
    Real()
    """
    return space_of(named(prior_sites(pair, *batch), site, "model")["fn"])


def _prior(pair: Any, site: str, *batch: Any) -> Any:
    """A latent of one run of the model."""
    return named(latent_sites(run_model(pair, batch)), site, "model")


def _normal_quantiles(fn: Any, quantiles: Tensor) -> Tensor | None:
    """``[D, Q]`` of a Normal that is the same for all data."""
    base = unwrapped(fn)
    if not isinstance(base, Normal):
        return None
    shape = (-1, fn.event_shape.numel())
    loc, scale = (value.expand(fn.batch_shape + fn.event_shape).reshape(shape) for value in (base.loc, base.scale))
    if not (loc == loc[0]).all() or not (scale == scale[0]).all():
        return None
    standard = torch.special.ndtri(quantiles).to(loc)
    return (loc[0, :, None] + scale[0, :, None] * standard).cpu()


@checked
def interpolate(
    pair: Any,
    start: Any,
    end: Any,
    num_steps: int = 10,
    *,
    site: str | None = None,
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
        site: of the sites that the model observes, see :func:`observed_site`.

    Raises:
        ValueError: if there are not as many ends as starts, fewer than two steps, or a latent that has neither an
            unconstrained space nor unit length, such as a discrete one.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> interpolate(pair, x, 1 - x, num_steps=7).shape
    torch.Size([3, 7, 4])
    """
    first, last = (tuple(data) if isinstance(data, (tuple, list)) else (data,) for data in (start, end))
    counts = num_rows(first), num_rows(last)
    if counts[0] != counts[1]:
        raise ValueError(f"interpolate needs as many ends as starts; got {counts[0]} starts and {counts[1]}.")
    if num_steps < 2:
        raise ValueError(f"a line has at least 2 steps, its ends; got num_steps={num_steps}.")
    codes, ends = encode(pair, *first), encode(pair, *last)
    moved = local_latents(pair, *resized(first, 1))
    weight = torch.linspace(0, 1, num_steps)
    with fork_rng():
        priors = prior_sites(pair, *first, size=_CHUNK)
    for name, code in codes.items():
        if name in moved:
            codes[name] = _line(priors[name], code, ends[name], weight).flatten(0, 1)
    rows = repeated(first, num_steps)
    return decode(pair, codes, *rows, site=site).unflatten(0, (-1, num_steps))


def _line(site: Any, start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """``[P, T, *event]``: from ``start`` to ``end``, both ``[P, *event]``, at the weights ``[T]`` of the end."""
    space = space_of(site["fn"])
    try:
        transform = biject_to(space)
    except NotImplementedError:
        length = torch.linalg.vector_norm(site["value"], dim=-1) if site["value"].dim() > 1 else site["value"]
        if space.is_discrete or not torch.allclose(length, torch.ones_like(length), atol=1e-3):
            raise ValueError(
                f"there is no line between two values of {site['name']!r}, a {family(site['fn'])}: it has "
                "neither an unconstrained space nor unit length. Interpolation needs a continuous latent."
            ) from None
        return normalize(_between(normalize(start, dim=-1), normalize(end, dim=-1), weight), dim=-1)
    return transform(_between(transform.inv(start), transform.inv(end), weight))


def _between(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(start).reshape(-1, *[1] * (start.dim() - 1))
    return torch.lerp(start[:, None], end[:, None], weight)
