"""Inference of the image given its degraded form: Adam up to the most probable z, and chains of z ~ p(z | y)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._checks import FLOAT32, checked, number, whole
from pyro_vae._pyro import is_deterministic, particles
from pyro_vae.applications.restoration.observations import Observation, Pixels
from pyro_vae.compiled import Compile
from pyro_vae.diagnostics import encode
from pyro_vae.pair import as_pair, programs
from pyro_vae.pair.arguments import batch_of
from pyro_vae.sampling.chains import Chunk, over_chunks, r_hat
from pyro_vae.sampling.hamiltonian import Density, run_chains
from pyro_vae.sampling.joint import Joint


class Observed(nn.Module):
    """The pair of a degraded image: z ~ p(z), y ~ p(y | z), with the guide q(z | crude image of y).

    Whatever takes a pair of continuous latents takes it, with y in the place of x: ``evidence.ais(observed, y)`` is
    log p(y), ``evidence.posterior_draws(observed, y, start="prior")`` draws of p(z | y). The model returns
    E[x | z, y], ``[*, B, *event]``.

    Args:
        pair: the pair of x.
        observation: p(y | x).
    """

    @checked
    def __init__(self, pair: Any, observation: Observation) -> None:
        super().__init__()
        self.pair, self.observation = as_pair(pair), observation

    def model(self, y: Tensor, *others: Any) -> Tensor:
        """z ~ p(z), y ~ p(y | z); ``others`` are what the pair takes besides x.

        Raises:
            ValueError: if the pair observes several sites, or none.
        """
        model, _ = programs(self.pair)
        x = self.observation.fill(y)
        with _Degraded(self.observation, y, x.shape[1:]) as degraded:
            model(x, *others)
        if len(degraded.restored) != 1:
            raise ValueError(
                f"the model observes {len(degraded.restored)} sites; a restoration needs a pair that observes one."
            )
        return degraded.restored[0]

    def guide(self, y: Tensor, *others: Any) -> Any:
        """z ~ q(z | crude image of y)."""
        _, guide = programs(self.pair)
        return guide(self.observation.fill(y), *others)


class _Degraded(Messenger):
    """Puts log p(y | z) in the place of log p(x | z), and keeps E[x | z, y]."""

    def __init__(self, observation: Observation, y: Tensor, shape: Sequence[int]) -> None:
        super().__init__()
        self.observation, self.y, self.shape = observation, y, shape
        self.restored: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or is_deterministic(msg):
            return
        pixels = Pixels(msg["fn"], self.shape)
        self.restored.append(self.observation.mean(pixels, self.y))
        msg["fn"] = dist.Unit(self.observation.log_prob(pixels, self.y), has_rsample=False, validate_args=False)
        msg["value"] = msg["fn"].sample()


@dataclass(frozen=True)
class Restored:
    """Restorations of degraded images by a pair.

    Attributes:
        maximum: ``[N, *event]``, E[x | z, y] at the greatest p(z | y) that was found.
        log_prob: ``[N]``, log p(y, z) there, in nats; the density is that of the unconstrained z.
        mean: ``[N, *event]``, E[x | y], the mean of E[x | z, y] over draws of p(z | y), if they were asked for.
        acceptance: ``[N]``, the mean probability of acceptance of those.
        r_hat: ``[N]``, split R-hat of their chains, the largest of all coordinates; 1 where they agree.
    """

    maximum: Tensor
    log_prob: Tensor
    mean: Tensor | None = None
    acceptance: Tensor | None = None
    r_hat: Tensor | None = None


@checked(but=("num_samples", "num_chains", "num_steps", "num_warmup", "num_leapfrog"))
def infer(
    pair: Any,
    observation: Observation,
    y: Any,
    *,
    num_samples: int = 0,
    num_chains: int = 4,
    num_steps: int = 200,
    learning_rate: float = 0.1,
    num_warmup: int = 60,
    num_leapfrog: int = 8,
    chunk: int = 4096,
    seed: int = 0,
    compile: Compile = "traced",
    progress: bool = False,
) -> Restored:
    r"""Restores degraded images by a fitted pair: at the most probable z, and by the mean over draws of p(z | y).

    :math:`\log p(y, z)` is ascended by Adam from the encoder's code of a crude image and from draws of the prior, in
    the unconstrained space of the latents; the best of these is ``maximum``. The chains of Hamiltonian Monte Carlo
    start at the ends of those ascents, each at one drawn in proportion to p(y, z) there, so that none starts in a poor
    local maximum.

    Args:
        pair: the pair; its latents are continuous.
        observation: p(y | x).
        y: the degraded images ``[N, ...]``, or a tuple of them and of what the pair takes besides x.
        num_samples: draws of each chain; 0 for the most probable z alone.
        num_chains: chains, and ascents, for each datum.
        num_steps: steps of Adam, whose rate falls to 0 by a cosine.
        learning_rate: the first rate, in units of the latents.
        num_warmup: steps of each chain before the draws.
        num_leapfrog: leapfrog steps of each.
        chunk: chains (over data) that are held in memory at once.
        seed: of all draws; the caller's random state is left as it was.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        progress: show a progress bar.

    Raises:
        ValueError: if there are no data, a count is too small, the pixels are not independent given z, a latent is
            discrete or shared by the data, or log p(y, z) is not finite.
    """
    observed = Observed(pair, observation)
    batch = batch_of(observed, y)
    if batch[0].dim() < 2:
        raise ValueError(f"y is of shape [N, *event], N images; got {list(batch[0].shape)}.")
    whole(1, num_chains=num_chains, num_steps=num_steps, num_warmup=num_warmup, num_leapfrog=num_leapfrog)
    whole(0, num_samples=num_samples, seed=seed)
    number(above=0, most=FLOAT32, learning_rate=learning_rate)

    def restored(part: Chunk) -> dict[str, Tensor]:
        starts = _starts(observed, part.joint, num_chains, *part.batch)
        u, log_prob = _ascended(part.posterior, starts, num_steps, learning_rate)
        best = _picked(u, log_prob.argmax(0)[None])
        found = {"maximum": _restored(observed, part.joint, best, *part.batch)[0], "log_prob": log_prob.amax(0)}
        if num_samples:
            chosen = torch.multinomial(log_prob.T.softmax(-1), num_chains, replacement=True).T
            chains, sampler = part.warmed_up(_picked(u, chosen), num_warmup, num_leapfrog)
            draws = run_chains(sampler, chains, num_samples)
            means = [_restored(observed, part.joint, draw, *part.batch).mean(0) for draw in draws.u]
            found |= {"mean": torch.stack(means).mean(0), "acceptance": draws.acceptance.mean(0), "r_hat": r_hat(draws)}
        return found

    steps = num_steps + (num_warmup + num_samples) * num_leapfrog * (num_samples > 0)
    options = (chunk, seed, 1, compile, progress)
    parts, _ = over_chunks(restored, observed, batch, num_chains, steps, *options, title="restoring")
    return Restored(**{name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]})


def _starts(observed: Observed, joint: Joint, num_starts: int, *batch: Tensor) -> Tensor:
    """``u: [C, N, D]``: the encoder's code of the crude image, if it is one of the model's, and draws of the prior."""
    starts = joint.draw("prior", num_starts, *batch)
    codes = encode(observed, *batch)
    if set(codes) == set(joint.shapes):
        code = joint.unconstrained({name: value[None] for name, value in codes.items()}, *batch)
        starts = torch.cat([torch.where(code.isfinite(), code, starts[:1]), starts[1:]])
    return starts


def _ascended(density: Density, u: Tensor, num_steps: int, learning_rate: float) -> tuple[Tensor, Tensor]:
    """``(u [C, N, D], log density [C, N])`` after ``num_steps`` steps of Adam from ``u``."""
    u = u.clone()
    optimizer = torch.optim.Adam([u], lr=learning_rate, maximize=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for _ in range(num_steps):
        u.grad = density(u)[1]
        optimizer.step()
        scheduler.step()
    log_prob = density(u)[0].nan_to_num(-math.inf, posinf=-math.inf)
    if (log_prob.amax(0) == -math.inf).any():
        bad = int((log_prob.amax(0) == -math.inf).sum())
        raise ValueError(
            f"log p(y, z) is not finite for {bad} of {u.shape[1]} data, from any start. Look for NaN in the data and "
            "the parameters, or take a lower learning_rate."
        )
    return u.detach(), log_prob


def _picked(u: Tensor, index: Tensor) -> Tensor:
    """``[C, N, D]``: of ``u: [S, N, D]`` those that ``index: [C, N]`` names for each datum."""
    return u.gather(0, index[..., None].expand(*index.shape, u.shape[-1]))


def _restored(observed: Observed, joint: Joint, u: Tensor, *batch: Tensor) -> Tensor:
    """E[x | z, y] at ``u: [C, N, D]``: ``[C, N, *event]``."""
    model = particles(len(u), 1)(programs(observed)[0])
    return poutine.condition(model, data=joint.latents(u, *batch))(*batch)
