"""Chains over the posterior of each datum, chunk by chunk: what AIS, BDMC, HMC and restorations have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from pyro.ops.stats import split_gelman_rubin
from pyro.poutine import Trace
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae._checks import PLATES, warn, whole
from pyro_vae.batches import mapped, num_rows, rows
from pyro_vae.compiled import Compile, Compiled
from pyro_vae.pair import PairRun, data_frame, latent_sites, tracing_obstacle
from pyro_vae.pair.gate import check_evidence, explained, first_part, smallest
from pyro_vae.pair.running import reading
from pyro_vae.pair.sites import inside
from pyro_vae.sampling.hamiltonian import Hamiltonian, Samples, State, warm_up
from pyro_vae.sampling.joint import Ends, Joint, NoDensity, Start, joint_of

Result = TypeVar("Result")


@dataclass(frozen=True)
class Chunk:
    """Some of the data, and the densities that their chains move over.

    Attributes:
        batch: N data, as the arguments of model and guide.
        joint: the densities of the pair.
        graph: what :class:`~pyro_vae.sampling.joint.Ends` computes.
        tick: to be called after each step, for the progress bar.
    """

    batch: tuple[Tensor, ...]
    joint: Joint
    graph: Compiled
    tick: Callable[[], Any]

    def draw(self, start: Start, num_chains: int) -> Tensor:
        """``u: [C, N, D]`` from the prior, or from the guide."""
        return self.joint.draw(start, num_chains, *self.batch)

    def ends(self, u: Tensor) -> list[Tensor]:
        """Both ends of the path at ``u: [C, N, D]``, see :class:`~pyro_vae.sampling.joint.Ends`."""
        return self.graph(u.contiguous(), *self.batch)[0]  # a graph is made for its strides

    def posterior(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) ``[C, N]`` at ``u: [C, N, D]``, and its gradient, for chains whose path starts at the prior."""
        self.tick()
        prior, likelihood, prior_gradient, likelihood_gradient = self.ends(u)
        return prior + likelihood, prior_gradient + likelihood_gradient

    def warmed_up(
        self, u: Tensor, num_warmup: int, num_leapfrog: int, target_acceptance: float = 0.8
    ) -> tuple[State, Hamiltonian]:
        """Chains of p(z | x) from ``u: [C, N, D]``, and the sampler fitted to it in ``num_warmup`` steps."""
        # Four steps in few dimensions are easily a whole period.
        sampler = Hamiltonian(self.posterior, num_leapfrog=num_leapfrog, jitter=0.5)
        return warm_up(sampler, sampler.init(u), num_warmup, target_acceptance)

    def simulated(self) -> tuple[Chunk, Tensor]:
        """The chunk with data drawn from the model in place of its own, and their latents ``u: [1, N, D]``."""
        batch, u = self.joint.simulate(*self.batch)
        return replace(self, batch=batch), u


def over_chunks(
    work: Callable[[Chunk], Result],
    pair: nn.Module,
    batch: Sequence[Tensor],
    num_chains: int,
    num_steps: int,
    chunk: int,
    seed: int,
    max_plate_nesting: int,
    compile: Compile,
    progress: bool,
    *,
    start: Start = "prior",
    begin: Start = "prior",
    check: Callable[[Joint], Any] | None = None,
    title: str = "Hamiltonian Monte Carlo",
    num_gradients: int = 1,
) -> tuple[list[Result], Joint]:
    """What ``work`` makes of each chunk of the data, and the densities of the pair.

    Meanwhile the pair is in evaluation mode, nothing is differentiated or validated, and all draws come from ``seed``.

    Args:
        work: moves chains.
        pair: the pair.
        batch: arguments of model and guide.
        num_chains: of each datum.
        num_steps: of a chunk, for the progress bar.
        chunk, seed, max_plate_nesting, compile, progress: as for :func:`pyro_vae.evidence.ais`.
        start: of the path, see :class:`~pyro_vae.sampling.joint.Ends`.
        begin: whether ``work`` draws from the guide besides.
        check: is shown the densities before the first chunk.
        title: of the progress bar.
        num_gradients: of each of the steps.

    Raises:
        ValueError: as :class:`~pyro_vae.sampling.joint.Joint`, and if the guide is the start and cannot be scored.
    """
    whole(1, num_chains=num_chains, chunk=chunk)
    whole(1, PLATES, max_plate_nesting=max_plate_nesting)
    count = max(1, chunk // num_chains)
    drawn = "guide" in (start, begin)
    with reading(pair, seed), explained(pair, *batch, guide=drawn):
        count, found = first_part(pair, count, *batch, guide=drawn)
        _check_shared(found)
        if start == "prior":
            found = PairRun(found.model_trace, Trace())  # the guide's density does not matter
        chunks = [slice(first, first + count) for first in range(0, num_rows(batch), count)]
        total = len(chunks) * num_steps
        several = rows(batch, chunks[0])
        nesting = check_evidence(title, found, num_rows(several))
        first = smallest(pair, *several, guide=drawn)
        joint = joint_of(pair, *first, max_plate_nesting=max(max_plate_nesting, nesting))
        if start == "guide":
            _check_guide(joint, *first)
        for part in chunks:  # in all of the data, for noise may be masked, or be that of a few
            joint.check_repeatable(*rows(batch, part))
            if start == "guide":
                joint.check_repeatable(*rows(batch, part), guide=True)
        if check is not None:
            check(joint)
        obstacle = tracing_obstacle(pair)
        graph = Compiled(Ends(pair, joint, start), compile=compile, planned=total * num_gradients, obstacle=obstacle)
        parts = (mapped(_contiguous, rows(batch, part)) for part in chunks)
        with tqdm(total=total, unit=" steps", desc=title, disable=not progress, dynamic_ncols=True) as bar:
            return [work(Chunk(part, joint, graph, bar.update)) for part in parts], joint


def _check_shared(found: PairRun) -> None:
    """Refuses latents that the data share: there is no posterior of each datum then."""
    plate = data_frame(found.model_trace)
    if plate is None:
        return
    of_model, of_guide = ([n for n, s in latent_sites(trace).items() if not inside(s, plate)] for trace in found)
    if of_model:
        raise ValueError(
            f"{of_model[0]!r} stands outside the data plate, so all data share it, and a chain of one "
            "datum cannot move over it. Draw all latents together, given all data, by Pyro: "
            "MCMC(NUTS(as_pair(pair).model), num_samples=1000, warmup_steps=1000).run(*batch). Or fix it by "
            "poutine.condition, hide it by poutine.block in model and guide; of a FullBayes take pair.sample_weights()."
        )
    if of_guide:
        raise ValueError(
            f"the guide draws {of_guide[0]!r} for all data together, as AutoDiagonalNormal does, so "
            "that no chain of one datum can start from it. Start from the prior: start='prior'."
        )


def _contiguous(leaf: Any) -> Any:
    return leaf.contiguous() if isinstance(leaf, Tensor) else leaf


def _check_guide(joint: Joint, *batch: Tensor) -> None:
    u = joint.draw("guide", 1, *batch)
    try:
        scored = joint.densities(u.clone(), *batch, guide=True).guide
        reason = "it is NaN" if scored is None or scored.isnan().any() else None
    except NoDensity:
        raise
    except Exception as error:  # each family fails in its own way
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    if reason is not None:
        raise ValueError(
            "the density of the guide cannot be computed at values that it has not just drawn itself, as for Pyro's "
            f"planar flow ({reason}). Start from the prior, which needs no guide: start='prior'."
        )


def concatenated(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The results of the chunks, each ``[..., N]``, as one.

    >>> import torch
    >>> from pyro_vae.sampling.chains import concatenated
    >>> chunks = [(torch.zeros(4, 3), torch.zeros(3)), (torch.zeros(4, 2), torch.zeros(2))]
    >>> [value.shape for value in concatenated(chunks)]
    [torch.Size([4, 5]), torch.Size([5])]
    """
    return [torch.cat(column, -1).cpu() for column in zip(*parts, strict=True)]


def r_hat(samples: Samples) -> Tensor:
    """``[N]``: split R-hat of the chains, the largest of all coordinates; NaN with fewer than four draws.

    >>> import torch
    >>> from pyro_vae.sampling.chains import r_hat
    >>> from pyro_vae.sampling.hamiltonian import Hamiltonian, run_chains
    >>> seed = torch.manual_seed(0)
    >>> sampler = Hamiltonian(lambda u: (-u.square().sum(-1) / 2, -u), step_size=0.3)  # of N(0, I)
    >>> r_hat(run_chains(sampler, sampler.init(torch.randn(4, 3, 2)), 200)) < 1.1
    tensor([True, True, True])
    """
    if len(samples.u) < 4:
        return torch.full_like(samples.acceptance[0], math.nan)
    return split_gelman_rubin(samples.u, 1, 0).amax(-1)


def check_acceptance(acceptance: Tensor, proposals: int, low: float = 0.4, high: float = 0.95) -> None:
    """Looks at the mean acceptance of Hamiltonian Monte Carlo for each datum, ``[N]``, over ``proposals`` of each.

    With fewer than 100 proposals a datum's mean says little; then it is the mean over all data that is looked at.

    Raises:
        ValueError: if nothing is accepted for more than one datum in a hundred.

    Warns:
        UserWarning: if it is outside of [low, high] for more than one datum in a hundred.

    >>> import torch
    >>> from pyro_vae.sampling.chains import check_acceptance
    >>> check_acceptance(torch.tensor([0.7, 0.8]), proposals=200)  # as it should be
    """
    mean, size = acceptance.mean().item(), len(acceptance)
    judged = acceptance if proposals >= 100 else acceptance.mean(0, keepdim=True)

    def many(bad: Tensor) -> str:
        count = int(bad.sum())
        return "" if count <= 0.01 * len(judged) else f"{count:,} of {size:,} data" if proposals >= 100 else "all data"

    if data := many(judged < 1e-3):
        raise ValueError(
            f"Hamiltonian Monte Carlo accepts nothing for {data}: either log p(x, z) or its gradient is not finite, or "
            "the density is so rough that no step size is small enough. Look for NaN in the parameters, compute in "
            "float64, or use importance sampling."
        )
    if data := many((judged < low) | (judged > high)):
        remedy = (
            "Chains hardly move: use a higher target_acceptance, fewer leapfrog steps for each transition, more steps, "
            "or float64."
            if (judged < low).sum() >= (judged > high).sum()
            else "Steps are smaller than they need be, or the density is flat: use a lower target_acceptance, more "
            "leapfrog steps, or a longer warm-up."
        )
        warn(
            f"the mean acceptance of Hamiltonian Monte Carlo is outside of [{low}, {high}] for {data} (the mean of all "
            f"is {mean:.2f}). {remedy}",
        )
