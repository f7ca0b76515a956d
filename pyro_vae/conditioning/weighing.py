"""Draws by a guide, or by the prior, weighed by p(x, z) / q(z | x); what is left of them: means, and a few of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from tqdm import tqdm

from pyro_vae.batches import num_rows, rows
from pyro_vae.distributions.particles import Particles
from pyro_vae.distributions.wrappers import family, unmasked, unwrapped
from pyro_vae.estimators import SGVB_A
from pyro_vae.estimators.run import Run, Site
from pyro_vae.evidence.result import check_log_prob
from pyro_vae.pair.gate import check_evidence, explained, first_part, refuse
from pyro_vae.pair.running import reading
from pyro_vae.pair.trials import point_problems

#: What is asked of a run: numbers ``[K, B, ...]`` by name of which means are taken, and others of which draws are kept.
Look = Callable[[Run], "tuple[Mapping[str, Tensor], Mapping[str, Tensor]]"]


@dataclass(frozen=True)
class Weighed:
    """What is left of weighed draws.

    Attributes:
        means: by name ``[N, ...]``, self-normalized: the sum of w v over the sum of w.
        draws: by name ``[M, N, ...]``, draws in proportion to their weights.
        log_prob: ``[N]``, the log of the mean weight, in nats.
        effective_sample_size: ``[N]``, (sum w)^2 / sum w^2.
        num_samples: of how many draws, at most.
    """

    means: dict[str, Tensor]
    draws: dict[str, Tensor]
    log_prob: Tensor
    effective_sample_size: Tensor
    num_samples: int


def weighed(
    who: str,
    pair: nn.Module,
    batch: Any,
    look: Look,
    num_samples: int,
    num_draws: int,
    *,
    enough: float = math.inf,
    chunk: int = 16384,
    seed: int = 0,
    progress: bool = False,
) -> Weighed:
    r"""Means and draws of a posterior by importance sampling from the guide.

    .. math:: w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x), \qquad
        \mathrm E[v \mid x] \approx \frac{\sum_k w_k v_k}{\sum_k w_k}

    A draw that is kept is one of the :math:`z_k`, chosen in proportion to its weight (sampling-importance-resampling).

    Args:
        who: needs it, for the messages.
        pair, batch: the pair and the arguments of its programs.
        look: what is asked of a run.
        num_samples: draws for each datum.
        num_draws: of them that are kept.
        enough: an effective sample size of all data at which no more is drawn.
        chunk: draws (over data and samples) that are held in memory at once.
        seed: of the draws; the caller's random state is left as it was.
        progress: show a progress bar.

    Raises:
        ValueError: as :func:`pyro_vae.evidence.importance`.
    """
    size = num_rows(batch)
    most = max(1, min(size, chunk // min(num_samples, 512)))
    parts: list[_Kept] = []
    drawn = 0
    bar = tqdm(total=size, unit=" data", desc=who, disable=not progress)
    with reading(pair, seed), explained(pair, *batch), bar:
        most, found = first_part(pair, most, *batch)
        nesting = check_evidence(who, found, most)
        refuse(point_problems(pair, *rows(batch, slice(most))))
        for start in range(0, size, most):
            part, kept = rows(batch, slice(start, start + most)), _Kept(num_draws)
            at_once = min(num_samples, max(1, chunk // most))
            while kept.count < num_samples and not kept.suffices(enough):
                estimator = SGVB_A(min(at_once, num_samples - kept.count), max_plate_nesting=nesting)
                log_weights, run = estimator.weighted(pair, *part)
                kept.add(log_weights.reshape(estimator.num_particles, -1), *look(run))
            parts.append(kept)
            drawn = max(drawn, kept.count)
            bar.update(num_rows(part))
    log_prob = torch.cat([kept.total - math.log(kept.count) for kept in parts]).cpu()
    check_log_prob(log_prob)
    return Weighed(
        {name: torch.cat([kept.means[name] for kept in parts]).cpu() for name in parts[0].means},
        {name: torch.cat([kept.draws[name] for kept in parts], 1).cpu() for name in parts[0].draws},
        log_prob,
        torch.cat([kept.effective_sample_size for kept in parts]).cpu(),
        drawn,
    )


class _Kept:
    """Running sums over chunks of draws of some data, and draws that stand for all so far."""

    def __init__(self, num_draws: int) -> None:
        self.num_draws, self.count = num_draws, 0
        self.total = self.squares = torch.empty(0)  # the logs of sum w and sum w^2, [B]
        self.means: dict[str, Tensor] = {}
        self.draws: dict[str, Tensor] = {}

    @property
    def effective_sample_size(self) -> Tensor:
        return (2 * self.total - self.squares).exp().nan_to_num(0.0).clamp(max=self.count)

    def suffices(self, enough: float) -> bool:
        return self.count > 0 and bool((self.effective_sample_size >= enough).all())

    def add(self, log_weights: Tensor, means: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        """Takes in ``log_weights: [K, B]`` and what goes with them, each ``[K, B, ...]``, or ``[1, B, ...]``."""
        first = not self.count
        log_weights = log_weights.double()
        new, squares = log_weights.logsumexp(0), (2 * log_weights).logsumexp(0)
        total = new if first else torch.logaddexp(self.total, new)
        share = (new - total).exp().nan_to_num(1.0)  # of the weights that are new
        normal = log_weights.softmax(0).nan_to_num(1 / len(log_weights))  # where all are 0 none is better
        for name, value in means.items():
            value = value.expand(len(log_weights), *value.shape[1:])
            mean = torch.einsum("kb,kb...->b...", normal.to(value.dtype), value)
            self.means[name] = mean if first else self.means[name] + _along(share, mean) * (mean - self.means[name])
        if self.num_draws:
            chosen = torch.multinomial(normal.T, self.num_draws, replacement=True).T  # [M, B]
            anew = torch.rand(chosen.shape, dtype=share.dtype, device=share.device) < share
            for name, value in values.items():
                value = value.expand(len(log_weights), *value.shape[1:])
                index = chosen.reshape(*chosen.shape, *[1] * (value.dim() - 2)).expand(-1, -1, *value.shape[2:])
                drawn = value.gather(0, index)
                self.draws[name] = drawn if first else torch.where(_along(anew, drawn), drawn, self.draws[name])
        self.squares = squares if first else torch.logaddexp(self.squares, squares)
        self.total, self.count = total, self.count + len(log_weights)


def _along(weights: Tensor, value: Tensor) -> Tensor:
    """Numbers of the first dimensions of a value, to meet it."""
    weights = weights if weights.dtype == torch.bool else weights.to(value.dtype)
    return weights.reshape(*weights.shape, *[1] * (value.dim() - weights.dim()))


def by_draw(run: Run, site: Site, value: Tensor) -> Tensor:
    """A value of a site of a run, ``[*particles, *plates, *event]``, as ``[K or 1, B, *other plates, *event]``."""
    events = site.fn.event_dim
    dims = run.nesting + (run.num_particles == 1) + events
    value = value.reshape((1,) * (dims - value.dim()) + value.shape)
    return value.movedim(run.plate.dim - events, 1)


def mean_of(fn: Any) -> Tensor:
    """The mean of a distribution, or its mode where that is not known, of particles too.

    Raises:
        ValueError: if it has neither.
    """
    if isinstance(fn, Particles):
        return fn.join([mean_of(part) for part in fn.parts], fn.event_dim)
    fn = unmasked(fn)
    if isinstance(base := unwrapped(fn), Categorical):  # of which torch knows no mean
        return (base.probs * torch.arange(base.probs.shape[-1]).to(base.probs)).sum(-1).expand(fn.shape())
    for center in ("mean", "mode"):
        try:
            value = getattr(fn, center)
        except (NotImplementedError, AttributeError):
            continue
        if value.isfinite().all():
            return value
    raise ValueError(
        f"p(x | z), a {family(fn)}, has neither a finite mean nor a mode, so that a missing entry has none. Draw it by "
        "pyro_vae.sample(pair, where={'x': x})."
    )


def missing_values(run: Run, name: str) -> Tensor:
    """Draws ``[K or 1, B, ...]`` of what is missing at a site that a run observes, given the latents.

    Those are the values of a latent called ``x_unobserved`` where the model has one, and else of p(x | z).
    """
    missing, seen = unobserved(run, name), run.model[name]
    return by_draw(run, seen, seen.fn.sample()) if missing is None else by_draw(run, missing, missing.value)


def unobserved(run: Run, name: str) -> Site | None:
    """The latent that holds what is missing at a site, where the model has one."""
    return run.model.get(f"{name.removesuffix('_observed')}_unobserved")
