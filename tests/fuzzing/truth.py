"""What is true of a pair: what its bounds, evidence and gradients should be; and what an answer to a question is."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyro_vae as pv
from fuzzing.programs import Draw, Grid
from fuzzing.recipes import Recipe, Weights, log_evidence, log_mean_exp, weights

UNSEEN = -1e6  # a mean below is minus infinity, of which draws show nothing


@dataclass
class Outcome:
    """Of one question to the library.

    Attributes:
        what: the question.
        kind: "right", "refused", "warned" (wrong, and said to be doubtful), "unjudged", or what is wrong.
        detail: in words.
    """

    what: str
    kind: str
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("right", "refused", "warned", "unjudged")


class Refused(Exception):
    """A refusal in a sentence."""


class Broken(Exception):
    """An error that is no sentence of the library's."""


def asked(function: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and the library's warnings.

    Raises:
        Refused: if the library refuses it in a sentence.
        Broken: at any other error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function()
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = "/pyro_vae/" in frames[-1].filename
            text = str(error)
            sentence = re.match(r"[\w(`'\"{]", text) and text.rstrip().endswith((".", "?", "]", ")", "`"))
            if isinstance(error, (ValueError, TypeError)) and ours and sentence and "Trace Shapes" not in text:
                raise Refused(text.splitlines()[0]) from None
            where = " < ".join(f"{f.filename.rpartition('/pyro_vae/')[2]}:{f.lineno}" for f in frames[:-6:-1])
            raise Broken(f"{type(error).__name__}: {' '.join(text.split())[:300]} [{where}]") from None
    return value, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


# What is right


@dataclass
class Expected:
    """A mean and its standard error, ``[N]`` each, of which one suffices; ``above`` the most that it may be."""

    means: list[tuple[Tensor, Tensor]]
    most: Tensor

    def deviation(self, draws: Tensor) -> tuple[float, str]:
        """The largest z-score of draws ``[R, N]``, and it in words."""
        found = []
        mean, error = draws.double().mean(0), draws.double().std(0) / math.sqrt(len(draws))
        if not mean.isfinite().all() and not (mean == -math.inf).any():
            return math.inf, f"mean {numbers(mean)}"
        if any((right < UNSEEN).any() for right, _ in self.means):
            return 0.0, "a mean of minus infinity, which no draws show"
        if self.means:
            found = [z_score(mean, error, right, other, sides=2) for right, other in self.means]
        above = z_score(mean, error, self.most, torch.zeros(()), sides=1)
        if not found:
            return above
        best = min(found)
        return max(best, above)


def numbers(value: Tensor) -> str:
    return str([round(v, 3) for v in value.reshape(-1).tolist()])


def z_score(mean: Tensor, error: Tensor, right: Tensor, other: Tensor, sides: int) -> tuple[float, str]:
    mean, right = mean.double(), right.detach().double().expand_as(mean)
    other = other.detach().double().expand_as(mean)
    same = (mean == right) | ((mean == -math.inf) & (sides == 1))
    difference = torch.where(same, 0.0, mean - right)
    floor = 1e-4 + 5e-5 * right.abs().nan_to_num(0.0, posinf=0.0, neginf=0.0)
    spread = (error**2 + other**2).sqrt().nan_to_num(math.inf, posinf=math.inf)
    pooled = difference.mean() / ((spread**2).sum().sqrt() / len(spread) + floor.mean())
    each = difference / (spread + floor)
    scores = torch.cat([each.reshape(-1), pooled.reshape(1)]).nan_to_num(math.inf, posinf=math.inf)
    z = (scores.abs() if sides == 2 else scores).max().item()
    what = "right" if sides == 2 else "at most"
    return z, f"{numbers(mean)} +- {numbers(spread)}, {what} {numbers(right)}"


@dataclass(frozen=True)
class Ask:
    """An estimator, and the exact values of its bound and of its gradient.

    Attributes:
        bound: log-weights ``[K, *]`` -> the bound, ``[*]``.
        of_model, of_guide: of which the gradients are; ``None`` where they are not known.
    """

    make: Callable[..., Any]
    num_particles: int
    bound: Callable[[Tensor], Tensor]
    of_model: Callable[[Tensor], Tensor] | None = None
    of_guide: Callable[[Tensor], Tensor] | None = None
    summed: bool = False


def average(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


def _renyi(log_w: Tensor) -> Tensor:
    return 2 * log_mean_exp(0.5 * log_w)


def _mixture(log_w: Tensor) -> Tensor:
    return 0.3 * log_w.mean(0) + 0.7 * log_mean_exp(log_w)


def grouped(log_w: Tensor) -> Tensor:
    return log_mean_exp(log_w.unflatten(0, (2, 2)), 1).mean(0)


def _both(make: Any, num: int, bound: Any) -> Ask:
    return Ask(make, num, bound, bound, bound)


ASKS: dict[str, Ask] = {
    "SGVB_A": _both(lambda **o: pv.SGVB_A(2, **o), 2, average),
    "SGVB_A(1)": _both(lambda **o: pv.SGVB_A(1, **o), 1, average),
    "SGVB_A(sticking)": _both(lambda **o: pv.SGVB_A(2, sticking_the_landing=True, **o), 2, average),
    "SGVB_B": _both(lambda **o: pv.SGVB_B(2, **o), 2, average),
    "SGVB_B(sticking)": _both(lambda **o: pv.SGVB_B(2, sticking_the_landing=True, **o), 2, average),
    "Annealed": _both(lambda **o: pv.Annealed(2, **o), 2, average),
    "Capacity": _both(lambda **o: pv.Capacity(0.0, 1.0, 2, **o), 2, average),
    "FreeBits": _both(lambda **o: pv.FreeBits(0.0, "unit", 2, **o), 2, average),
    "FreeBits(site)": _both(lambda **o: pv.FreeBits(0.0, "site", 2, **o), 2, average),
    "Balanced": _both(lambda **o: pv.Balanced(2, **o), 2, average),
    "TCVAE": _both(lambda **o: pv.TCVAE(1.0, 1.0, 1.0, 2, **o), 2, average),
    "IWAE": _both(lambda **o: pv.IWAE(2, **o), 2, log_mean_exp),
    "DReG": _both(lambda **o: pv.DReG(2, **o), 2, log_mean_exp),
    "Renyi": _both(lambda **o: pv.Renyi(0.5, 2, **o), 2, _renyi),
    "MIWAE": _both(lambda **o: pv.MIWAE(2, 2, **o), 4, grouped),
    "CIWAE": _both(lambda **o: pv.CIWAE(0.3, 2, **o), 2, _mixture),
    "PIWAE": Ask(lambda **o: pv.PIWAE(2, 1, **o), 2, log_mean_exp, log_mean_exp, average),
    "ScoreFunction": _both(lambda **o: pv.ScoreFunction(2, **o), 2, average),
    "ScoreFunction(1)": _both(lambda **o: pv.ScoreFunction(1, **o), 1, average),
    "ScoreFunction(scored)": _both(lambda **o: pv.ScoreFunction(2, pathwise=False, **o), 2, average),
    "VIMCO": _both(lambda **o: pv.VIMCO(2, **o), 2, log_mean_exp),
    "Enumeration": Ask(lambda **o: pv.Enumeration(2, **o), 2, average, average, average, summed=True),
    "WakeSleep": Ask(lambda **o: pv.WakeSleep(2, **o), 2, average, average),
    "ReweightedWakeSleep": Ask(lambda **o: pv.ReweightedWakeSleep(2, **o), 2, log_mean_exp, log_mean_exp),
    "ReweightedWakeSleep(sleep)": Ask(
        lambda **o: pv.ReweightedWakeSleep(2, guide="sleep", **o), 2, log_mean_exp, log_mean_exp
    ),
    "MonteCarloEM": Ask(lambda **o: pv.MonteCarloEM(num_transitions=2, num_leapfrog=2, num_updates=1, **o), 1, average),
}


#: Estimators whose latents' terms are all sampled, so that scales count as in Pyro's Trace_ELBO.
SAMPLED = {
    "SGVB_A",
    "SGVB_A(1)",
    "SGVB_A(sticking)",
    "Annealed",
    "ScoreFunction",
    "ScoreFunction(1)",
    "ScoreFunction(scored)",
}


class Truth:
    """What is true of a recipe.

    Attributes:
        evidence: log p(x), ``[N]``; ``[]`` of data that share a latent.
        weights: the guide's, on a grid; ``None`` where it has none.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.traits = set(recipe.features)
        self.evidence = log_evidence(recipe).detach()
        self.shared = "global latent" in self.traits
        self.is_point = "point guide" in self.traits or recipe.guide == "autoguide.AutoDelta(model)"
        self.weights: Weights | None = None
        if not isinstance(recipe.guide, str) and "point guide" not in self.traits:
            with torch.no_grad():
                self.weights = weights(recipe, Grid())

    @functools.cache  # noqa: B019
    def elbo(self, how: str) -> Tensor:
        assert self.weights is not None
        return self.weights.elbo(how)

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def sampled(self, turn: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draws ``[S, N]``, others in each turn, of log-weights and of log q - log p of the latents of data."""
        draws, rates = {}, {}
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(turn)
            drawn = weights(self.recipe, Draw(20_000 if turn == 0 else 60_000))
        inside = [t for t in drawn.terms if t[3].kind == "latent" and t[1] != "outside"]
        for how in self.ways:
            draws[how] = drawn.draws(how).expand(-1, self.recipe.num)
            rates[how] = -dataclasses.replace(drawn, terms=inside).draws(how) * torch.ones(self.recipe.num)
        return draws, rates

    @property
    def ways(self) -> list[str]:
        """A masked latent may count in full, or not at all, where nothing depends on it."""
        return ["full", "seen"] if {"mask padding", "mask a latent"} & self.traits else ["full"]

    @property
    def known(self) -> bool:
        """Whether a bound has one right value, and not only a right side."""
        doubtful = {
            "auxiliary latent",
            "factor in the guide",
            "point guide",
            "autoguide",
            "mask a latent",
            "one latent for all data",
        }
        return self.weights is not None and not doubtful & self.traits

    def expected(self, ask: Ask, turn: int = 0) -> Expected:
        """Of the bound of an estimator; what is known by draws alone is drawn anew in each turn."""
        most = self.evidence if not self.shared else (self.evidence / self.recipe.num).expand(1)
        if "one latent for all data" in self.traits:
            most = most + math.inf
        if not self.known:
            return Expected([], most)
        assert self.weights is not None
        noise = {"noise in the model", "noise in the guide"} & self.traits
        if ask.bound is not average and noise:
            return Expected([], most)  # it depends on whether particles share the noise
        means = []
        for how in self.ways:
            if ask.summed and self.weights.own:
                return Expected([], most)
            if ask.bound is average:
                elbo = self.elbo(how)
                if not elbo.isnan().any():
                    means.append((elbo, torch.zeros(())))
                    continue
            draws = self.sampled(turn)[0][how].unflatten(0, (-1, ask.num_particles))
            values = ask.bound(draws.transpose(0, 1))
            means.append((values.mean(0), values.std(0) / math.sqrt(len(values))))
        return Expected(means, most)

    def importance(self, start: str = "guide") -> tuple[Tensor, Tensor]:
        """``(log E[w], E[w^2] / E[w]^2 - 1)`` of importance weights from the guide or the prior, each ``[N]``."""
        if start == "guide":
            assert self.weights is not None
            found = self.weights
        else:
            found = prior_weights(self.recipe)
        first, second = found.log_mean(), found.log_mean(2)
        return first, (second - 2 * first).expm1()


def prior_weights(recipe: Recipe) -> Weights:
    """As of a guide that is the prior."""
    grid = Grid()
    terms = recipe.interpreter(grid).run(recipe.model).terms
    proposal = [(t.level, t.log_prob) for t in terms if t.kind not in ("observed", "factor")]
    kept = [("p", t.level, 1, t) for t in terms if t.kind in ("observed", "factor")]
    return Weights(recipe, proposal, kept, grid.axes)
