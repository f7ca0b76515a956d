"""How a bound is differentiated."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.util import MultiFrameTensor
from torch import Tensor

from pyro_vae._checks import one_of
from pyro_vae._torch import has_values
from pyro_vae.distributions.wrappers import family, innermost
from pyro_vae.estimators.bounds import Bound, grouped
from pyro_vae.estimators.facts import Axis
from pyro_vae.estimators.run import Run, Site, summed_to

REMEDY = (
    "Use SGVB_A or, with less variance, ScoreFunction, VIMCO or ReweightedWakeSleep; or Enumeration where the support "
    "is finite."
)
Baseline = Literal["auto", "none", "leave_one_out", "batch"]
_NOTHING = 100.0  # nats below the largest weight, where another one no longer counts


class Gradient(Axis, ABC):
    """An estimator of the gradient of a bound, from one run of guide and model.

    A gradient of one's own is :meth:`surrogate`; the attributes say what it needs of the run.

    Attributes:
        reparameterized: whether the latents have to be.
        per_datum: whether each datum is weighed by itself also under a linear bound, so that all latents have to stand
            in the data plate.
        detached: whether the guide's draws carry no gradient.
        scored: whether the guide's latents are scored once more at fixed draws (``run.scores``).
        shown: a draw -> what the model sees in its place (``run.seen``).
        needs_support: whether it differentiates log q at draws that stay, so that q must not end where they may lie.
        no_beta: why beta has no place in it; empty where it has.
        sites, cost: for a table of facts; the model is evaluated for each sample.
    """

    reparameterized: bool = True
    per_datum: bool = False
    detached: bool = False
    scored: bool = False
    shown: Callable[[Tensor], Tensor] | None = None
    needs_support: bool = False
    no_beta: str = ""
    sites: str = "reparameterized"
    cost: str = "model, 1 guide"

    @abstractmethod
    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        """What is differentiated in the place of the bound (required).

        Returns:
            a tensor whose sum has the gradient of the bounds of the batch, summed over its data. Under a linear bound
            a gradient that is not :attr:`per_datum` gives that of ``run.total()``, the sum in Pyro's scale.
        """

    def exact(self, run: Run) -> bool:
        """Whether the surrogate's value is the bound's."""
        return False

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        """Raises a ``ValueError`` if it cannot be combined with a bound."""

    def check_once(self, run: Run) -> None:
        """Raises a ``ValueError`` if a pair cannot be trained, where only further runs tell; asked before training."""

    def check_sites(self, who: str, run: Run) -> None:
        """Raises a ``ValueError`` if a latent cannot be differentiated in this way, or is not scored anew as it was."""
        for name, site in run.drawn.items() if self.reparameterized else ():
            if not site.fn.has_rsample:
                raise ValueError(
                    f"the pathwise gradient of {who} needs reparameterized latents, but "
                    f"{'q' if name in run.guide else 'p'}({name}) is a "
                    f"{family(site.fn)}, which has no reparameterized sampler. {REMEDY}"
                )
        for name, score in run.scores.items() if self.scored else ():
            log_q = run.guide[name].log_prob
            if has_values(score) and not torch.allclose(score, log_q, rtol=1e-3, atol=1e-3, equal_nan=True):
                raise ValueError(
                    f"{who} runs the guide once more at its draws, where q({name}) is another one: the guide draws "
                    "noise beside its latents, by dropout or torch.randn. Draw it by pyro.sample as a latent of both "
                    "programs, or use SGVB_A or IWAE."
                )

    def evaluations(self, num_particles: int) -> tuple[int, int]:
        """Evaluations of the model and of the guide's networks for one gradient and one datum."""
        return num_particles, 1


def check_independent(who: str, run: Run, scored: bool = False) -> None:
    """Refuses draws of which one tells something of another, for what takes the score of each given the others.

    Args:
        who: does so, for the messages.
        run: of the pair.
        scored: whether it takes no score of what is reparameterized.

    Raises:
        ValueError: if there are several of a stratified mixture of experts.
    """
    for name, site in run.latents.items() if run.num_particles > 1 else ():
        if getattr(innermost(site.fn), "stratified", False) and not (scored and site.fn.has_rsample):
            raise ValueError(
                f"{who} takes its draws for independent, but those of q({name}), a {family(site.fn)}, are stratified, "
                "so that its gradient would be biased. Take stratified=False, or SGVB_A or IWAE."
            )


def possible(log_weights: Tensor) -> Tensor:
    """Log-weights of which the impossible, minus infinity, are constants: what weighs nothing has no gradient."""
    return torch.where(log_weights > -torch.inf, log_weights, -torch.inf)


@dataclass(frozen=True)
class Pathwise(Gradient):
    """The gradient of the bound itself, through reparameterized draws."""

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        return run.total("surrogate") if bound.linear else bound.reduce(possible(run.sum()))

    def exact(self, run: Run) -> bool:
        return True


class _OfELBO(Gradient):
    """Of an ELBO alone: pathwise where that is possible, elsewhere by the score function, as in Pyro."""

    reparameterized = False
    sites = "any; without reparameterization by the score function"
    baseline: Baseline = "none"

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        if not bound.linear:
            raise ValueError(
                f"{who}: {self!r} is of an ELBO, a mean of log-weights; under {bound!r} it would be biased. Use "
                "DoublyReparameterized(), or LeaveOneOut() where latents cannot be reparameterized."
            )

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        """Rao-Blackwellized over the plates as in Pyro: of log w what lies in the plates of the draw."""
        surrogate = run.total("surrogate")
        log_w = None
        for site in run.drawn.values():
            if is_identically_zero(site.score):
                continue
            if log_w is None:
                log_w = MultiFrameTensor()
                for term in run.terms:
                    frames = [frame for frame in term.site.frames if frame.vectorized]
                    log_w.add((frames, (term.weight * term.value).detach()))
            weight = self._centered(run, log_w.sum_to(site.frames), site)
            surrogate = surrogate + (weight * site.score).sum()
        return surrogate

    def _centered(self, run: Run, weight: Tensor, site: Site) -> Tensor:
        """The weight of a score, less the baseline."""
        baseline = self.baseline
        if baseline == "auto":
            baseline = "leave_one_out" if run.num_particles > 1 else "batch"
        if baseline == "none" or (baseline == "batch" and not run.inside(site)):
            return weight
        dim = weight.dim() + (run.plate.dim if baseline == "batch" else -run.nesting)
        if dim < 0 or weight.shape[dim] == 1:
            return weight  # one datum alone, or a weight that is the same for all particles
        others = (weight.sum(dim, keepdim=True) - weight) / (weight.shape[dim] - 1)
        return weight - others


@dataclass(frozen=True)
class Score(_OfELBO):
    """Pathwise where that is possible, elsewhere by the score function; see :class:`ScoreFunction` for both options."""

    baseline: Baseline = "none"
    pathwise: bool = True

    def __post_init__(self) -> None:
        one_of(get_args(Baseline), baseline=self.baseline)

    @property
    def detached(self) -> bool:  # type: ignore[override]
        return not self.pathwise

    @property
    def needs_support(self) -> bool:  # type: ignore[override]
        return not self.pathwise

    def exact(self, run: Run) -> bool:
        return all(is_identically_zero(site.score) for site in run.drawn.values())

    def check_sites(self, who: str, run: Run) -> None:
        super().check_sites(who, run)
        if self.baseline in ("auto", "leave_one_out"):
            check_independent(who, run, scored=self.pathwise)

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        super().check(who, bound, num_particles)
        if self.baseline == "leave_one_out" and num_particles == 1:
            raise ValueError(
                "baseline='leave_one_out' needs at least 2 particles; got num_particles=1. Use baseline='batch'."
            )


@dataclass(frozen=True)
class StickingTheLanding(_OfELBO):
    """The score of log q(z | x), whose expectation is zero, is left out of the ELBO's gradient (Roeder et al. 2017).

    At the exact posterior the guide's gradient then has no variance. A guide of several latents runs once more for
    it, and must not draw other noise (dropout) than its latents.
    """

    scored = True
    needs_support = True


@dataclass(frozen=True)
class DoublyReparameterized(Gradient):
    r"""The guide's score is differentiated through the draws as well.

    .. math:: \nabla_\phi L = \sum_k c_k \, (1 - r_k) \, \frac{\partial \log w_k}{\partial z_k} \nabla_\phi z_k, \quad
              \nabla_\theta L = \sum_k c_k \nabla_\theta \log p(x, z_k), \quad
              c_k = \frac{\partial L}{\partial \log w_k}, \quad r_k = \frac{\partial \log c_k}{\partial \log w_k}

    The pathwise gradient has the term :math:`-c_k \nabla_\phi \log q` at a fixed draw, whose expectation is that of
    :math:`-(\partial c_k / \partial z_k) \nabla_\phi z_k`. Of the importance-weighted bound :math:`c_k (1 - r_k)` is
    :math:`\tilde w_k^2`; of Renyi's :math:`\tilde w_k (1 - (1 - \alpha) (1 - \tilde w_k))`, with the weights of the
    tempered log-weights; of a mean 1 / K, so that it is sticking the landing. With beta, and s by which handlers
    scale a site, it is :math:`1 - \beta s r_k`. A guide of several latents runs once more, and must not draw other
    noise (dropout) than its latents.

    Raises:
        ValueError: if a distribution cannot score a given value, as Pyro's planar flow cannot.

    Source: Tucker, Lawson, Gu & Maddison (2019).
    """

    per_datum = True
    scored = True
    needs_support = True
    sites = "reparameterized, able to score a given value"
    cost = "model, 1 guide (2 with several latents)"

    def _check_weights(self, run: Run) -> None:
        """Refuses latents that handlers weigh differently, since one may depend on the draw of another."""
        if not any(site.is_weighed or site.mask is not None for site in (*run.model.values(), *run.guide.values())):
            return
        weights = {
            name: (torch.as_tensor(run.tempering(site)), torch.as_tensor(True if site.mask is None else site.mask))
            for name, site in run.latents.items()
        }
        first = next(iter(weights), "")
        for name, theirs in weights.items():
            ours = weights[first]
            known = all(map(has_values, (*ours, *theirs)))
            if known and not all(bool((one == other).all()) for one, other in zip(ours, theirs, strict=True)):
                raise ValueError(
                    f"{self!r}: poutine.scale or a mask weighs {name!r} otherwise than {first!r}, on which it may "
                    "depend; the doubly reparameterized gradient would be biased. Weigh all latents alike, or use the "
                    "pathwise gradient: IWAE."
                )

    def check_sites(self, who: str, run: Run) -> None:
        super().check_sites(who, run)
        check_independent(who, run)

    @staticmethod
    def shown(value: Tensor) -> Tensor:
        """A copy, at which the gradient from the model is weighed once more."""
        return value.view_as(value)

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        fixed = run.sum().detach()
        self._check_weights(run)
        rise = bound.curvature(fixed)
        log_q = []
        for term in (term for term in run.terms if term.kind == "log_q"):
            site = term.site
            rises = term.beta * run.laid(rise) * run.tempering(site)
            factor = 1 - rises if site.mask is None else 1 - torch.where(torch.as_tensor(site.mask), rises, 0.0)
            log_q.append(run.weighed(term._replace(surrogate=factor * term.surrogate), "surrogate", True))
            value = run.seen.get(site.name)
            if value is not None and value.requires_grad:
                factor = factor.reshape(factor.shape + (1,) * site.fn.event_dim)
                value.register_hook(functools.partial(_weighed, factor))
        return bound.weights(fixed) * (run.sum("log_p") + torch.as_tensor(sum(log_q)))


def _weighed(weight: Tensor, gradient: Tensor) -> Tensor:
    return (weight * gradient).reshape(gradient.shape).to(gradient.dtype)  # a draw of bfloat16 keeps its type


@dataclass(frozen=True)
class LeaveOneOut(Gradient):
    """The score function, its signal being what a sample adds to the bound; where possible pathwise.

    Its formula is that of :class:`VIMCO`, for any bound L; the others are those of the group.

    Raises:
        ValueError: if there are less than 2 samples in a group.
    """

    reparameterized = False
    per_datum = True
    sites = "any"

    def check(self, who: str, bound: Bound, num_particles: int) -> None:
        if num_particles < 2 * bound.num_groups:
            raise ValueError(
                f"{who}: LeaveOneOut() needs at least 2 samples in each group; got {num_particles} in "
                f"{bound.num_groups} groups."
            )

    def check_sites(self, who: str, run: Run) -> None:
        super().check_sites(who, run)
        check_independent(who, run, scored=True)

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        log_weights = possible(run.sum())
        surrogate = bound.reduce(log_weights)
        scored = [site for site in run.drawn.values() if not site.fn.has_rsample]
        scores = [run.each_datum(torch.as_tensor(site.score), site) * run.scale for site in scored]
        if not scores:
            return surrogate
        fixed = log_weights.detach()
        # An impossible draw counts as one whose weight vanishes beside the largest, so that a signal is finite.
        fixed = fixed.clamp(min=fixed.amax(0) - _NOTHING)
        groups = grouped(fixed, bound.num_groups)
        others = ((groups.sum(1, keepdim=True) - groups) / (groups.shape[1] - 1)).reshape(fixed.shape)
        own = torch.eye(len(fixed), dtype=torch.bool, device=fixed.device)
        # [K, K, B]: row k has the others' mean, the log of their geometric mean, in place of its own log-weight
        replaced = torch.where(own[..., None], others[:, None], fixed[None])
        signal = (bound.reduce(fixed) - bound.reduce(replaced.transpose(0, 1))).nan_to_num(0.0)
        return surrogate + (signal * torch.as_tensor(sum(scores))).sum(0)


@dataclass(frozen=True)
class Split(Gradient):
    """The model learns by the estimator's bound, the guide by another; an upper one is lowered.

    Args:
        guide: the guide's bound.

    Source: Rainforth et al. (2018), PIWAE.
    """

    guide: Bound
    per_datum = True
    cost = "model (backward twice), 1 guide"

    @staticmethod
    def shown(value: Tensor) -> Tensor:
        """A draw cut off from the guide; the model's gradient reaches it by another weight."""
        return value.detach().requires_grad_(value.requires_grad)

    def surrogate(self, bound: Bound, run: Run) -> Tensor:
        fixed = run.sum().detach()
        opposed = (self.guide.side == "above") != (bound.side == "above")  # one is raised, and the other lowered
        weights = self.guide.weights(fixed) * (-1 if opposed else 1)
        log_p = torch.where(fixed > -torch.inf, run.sum("log_p"), 0.0)
        surrogate = (bound.weights(fixed) * log_p + weights * run.sum("log_q")).sum(0)
        seen = {name: value for name, value in run.seen.items() if value.requires_grad}
        if not seen:
            return surrogate
        for_guide = (weights * log_p).sum()
        gradients = torch.autograd.grad(for_guide, list(seen.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                along = gradient * run.guide[name].value
                surrogate = surrogate + summed_to(along, [run.plate.dim - run.guide[name].fn.event_dim])
        return surrogate
