"""Everything that the library is asked of a pair, and what is wrong with its answers."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from torch import Tensor

import pyro_vae as pv
from fuzzing import gradients
from fuzzing.compose import compose
from fuzzing.recipes import Recipe, log_evidence, log_mean_exp
from fuzzing.truth import (
    ASKS,
    SAMPLED,
    UNSEEN,
    Ask,
    Broken,
    Expected,
    Outcome,
    Refused,
    Truth,
    asked,
    average,
    grouped,
    numbers,
    z_score,
)
from pyro_vae import diagnostics, evidence

#: What changes no number: with these alone nothing that can be known may be refused.
HARMLESS = {
    "two data sites", "another name", "no size", "size of all data", "sequential plate", "inner plate", "float64",
    "factor", "mask data", "mask data by the distribution", "mask padding", "deterministic", "scale a datum",
    "guide in another order",
}  # fmt: skip


#: How many more draws each turn takes. A suspicious answer is asked for again, and is wrong only if it is off in each
#: turn: of many thousand some are off by chance, and the tails of some are heavier than an error of few draws tells.
MORE = (1, 16, 16, 16)


def limit(turn: int) -> float:
    """Standard errors beyond which an answer is off: a first one of few draws is suspicious before it is."""
    return 3.0 if turn == 0 else 4.0


class Judge:
    """Asks all questions of one recipe.

    Args:
        recipe: the recipe.
        chains: whether to ask what takes long, too: AIS of several steps, BDMC, HMC.
        gradients: whether to compare mean gradients with exact ones.
    """

    def __init__(self, recipe: Recipe, *, chains: bool = False, gradients: bool = False) -> None:
        self.recipe, self.chains, self.gradients = recipe, chains, gradients
        self.truth = Truth(recipe)
        self.traits = self.truth.traits
        self.asks = ASKS
        self.outcomes: list[Outcome] = []
        self.pair = recipe.pair()
        # Half of the pairs say their nesting, half leave it to the library.
        self.nesting = {"max_plate_nesting": recipe.nesting} if recipe.seed % 2 else {}

    def run(self) -> list[Outcome]:
        pyro.clear_param_store()
        self.ask("check", lambda _: pv.check(self.pair, *self.recipe.batch()))
        for name, ask in self.asks.items():
            self.bound(name, ask)
        self.importance()
        for start in ("prior", "guide"):
            self.one_step(start)
        self.diagnostics()
        if self.chains:
            for start in ("prior", "guide"):
                self.annealed(start)
            self.both_sides()
            self.hmc()
        return self.outcomes

    def ask(self, what: str, question: Callable[[int], Any], judged: Callable[[Any, int], str] | None = None) -> None:
        """Asks, if need be in several turns; ``judged`` gives what is wrong with an answer, or an empty string."""
        wrong, doubts = "", []
        for turn in range(len(MORE)):
            torch.default_generator.manual_seed(self.recipe.seed + 7919 * turn)
            try:
                value, said = asked(lambda turn=turn: question(turn))
                wrong = judged(value, turn) if judged is not None else ""
            except Refused as refusal:
                self.add(
                    what, *("traceback", f"asked again, it refuses: {refusal}") if turn else ("refused", str(refusal))
                )
                return
            except Broken as error:
                self.add(what, "traceback", str(error))
                return
            if not wrong or (turn and wrong.startswith("unjudged")):
                break
            doubts += [w for w in said if re.search(r"k-hat|effective sample size|acceptance|agree|infinity|finite", w)]
        if not wrong:
            self.add(what, "right")
        elif wrong.startswith("unjudged"):
            self.add(what, "unjudged", wrong)
        else:
            self.add(what, "warned" if doubts else "wrong", wrong + (f" ({doubts[0]})" if doubts else ""))

    def add(self, what: str, kind: str, detail: str = "") -> None:
        self.outcomes.append(Outcome(what, kind, detail))

    # Bounds

    def bounds(self, estimator: Any, rounds: int) -> Tensor:
        """``[R, N]`` of draws, or ``[R, 1]`` of means where rows are not told apart."""
        if self.truth.shared or "autoguide" in self.traits:
            batch = self.recipe.batch()
            return torch.stack([estimator.bound(self.pair, *batch).mean() for _ in range(rounds // 10)])[:, None]
        found = estimator.bound(self.pair, *self.recipe.batch(rounds))
        if "subsample inside" in self.traits:
            return found[:, None]
        if found.shape != (rounds * self.recipe.num,):
            raise AssertionError(f"bound has shape {list(found.shape)} for {rounds * self.recipe.num} data")
        return found.unflatten(0, (rounds, -1))

    def bound(self, name: str, ask: Ask) -> None:
        try:
            estimator, _ = asked(lambda: ask.make(**self.nesting))
        except (Refused, Broken) as error:
            self.add(f"{name}()", "traceback", str(error))
            return

        def judged(draws: Tensor, turn: int) -> str:
            if self.truth.is_point:
                return f"a bound of a point: {numbers(draws.mean(0))}"
            if ask.summed and "noise in the model" in self.traits:
                return ""  # one value for all data, where a latent has all of its values at once
            expected = self.truth.expected(ask, turn)
            if {"global latent", "autoguide", "subsample inside"} & self.traits:
                means = [(m.mean().expand(1), s.mean().expand(1)) for m, s in expected.means]
                expected = Expected(means, expected.most.mean().expand(1))
            z, words = expected.deviation(draws)
            return f"{words}, z = {z:.1f}" if z > limit(turn) else ""

        self.ask(f"{name}.bound", lambda turn: self.bounds(estimator, 200 * MORE[turn]), judged)
        self.loss(name, estimator)
        if self.gradients:
            self.gradient(name, ask, estimator)

    def gradient(self, name: str, ask: Ask, estimator: Any) -> None:
        """The mean of its gradients, and what it should be."""
        if not self.truth.known or {"global latent", "subsample inside", "impossible value"} & self.traits:
            return
        scaled = {trait for trait in self.traits if trait.startswith("scale")}
        weighed = ask.bound is not average and ask.bound is ask.of_model is ask.of_guide
        alike = "SGVB_B" in name and all(self.recipe.features[trait][0] == "both" for trait in scaled)
        if scaled and not (name in SAMPLED or weighed or alike):
            return
        exact: dict[str, Tensor] = {}
        for which, of in (("model", ask.of_model), ("guide", ask.of_guide)):
            found = None
            if name == "ReweightedWakeSleep" and which == "guide":
                found = self.exact(gradients.wake)
            elif of is not None:
                summed = gradients.marginal_elbo if ask.summed else gradients.elbo
                fixed = "ReweightedWakeSleep" in name and "latent of the model alone" in self.traits
                of_pairs = gradients.of_pairs(log_mean_exp if of is grouped else of, fixed)
                found = self.exact(summed if of is average else of_pairs)
            if found is not None:
                exact |= {n: found[n] for n in self.recipe.params(which)}
        if not exact:
            return

        def worst(found: dict[str, Tensor]) -> tuple[float, str]:
            scores = []
            for n, right in exact.items():
                draws = found[n]
                mean, error = draws.mean(0), draws.std(0) / math.sqrt(len(draws))
                z, words = z_score(mean, error + 1e-3, right, torch.zeros(()), 2)
                scores.append((z, f"d/d{n}: {words}"))
            return max(scores)

        def judged(found: dict[str, Tensor], turn: int) -> str:
            if set(exact) - set(found):
                return f"no parameter {set(exact) - set(found)}"
            z, words = worst(found)
            return f"{words}, z = {z:.1f}" if z > limit(turn) else ""

        self.ask(f"{name}.gradient", lambda turn: gradients.drawn(self.recipe, estimator, 400 * MORE[turn]), judged)

    @functools.cache  # noqa: B019
    def exact(self, objective: Any) -> dict[str, Tensor] | None:
        noise = {"noise in the model", "noise in the guide"} & self.traits
        if noise and objective not in (gradients.elbo, gradients.marginal_elbo):
            return None
        return gradients.exact(self.recipe, objective)

    def loss(self, name: str, estimator: Any) -> None:
        impossible = "impossible value" in self.traits
        one = impossible or "autoguide" in self.traits
        weighed = any(trait.startswith("scale") for trait in self.traits)

        def drawn(seed: int, batch: tuple[Tensor, ...]) -> float:
            torch.default_generator.manual_seed(seed)
            loss = estimator.differentiable_loss(self.pair.model, self.pair.guide, *batch)
            for parameter in self.pair.parameters():
                parameter.grad = None
            if loss.requires_grad:
                loss.backward()
            return loss.item()

        def question(turn: int) -> tuple[float, Tensor | None]:
            batch = self.recipe.batch(1 if one else 5 * MORE[turn])
            seed, loss = 1, drawn(1, batch)
            while impossible and math.isinf(loss) and seed < 12:  # until one draw alone has no probability, perhaps
                seed, loss = seed + 1, drawn(seed + 1, batch)
            torch.default_generator.manual_seed(seed)
            found = None if weighed or name == "MonteCarloEM" else estimator.bound(self.pair, *batch).sum()
            return loss, found

        def judged(found: tuple[float, Tensor | None], turn: int) -> str:
            loss, bound = found
            broken = [n for n, p in self.pair.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            if broken and ("impossible value" not in self.traits or math.isfinite(loss)):
                return f"the gradient of {', '.join(broken)} is not finite, loss {loss}"
            if math.isnan(loss):
                return "the loss is NaN"
            scale = 4 if "size of all data" in self.traits else 2 if "subsample inside" in self.traits else 1
            if "subsample inside" in self.traits:
                return ""
            off = 0.0 if bound is None or not math.isfinite(loss) else loss + scale * bound.item()
            if turn and off > 0 and name.startswith(("Capacity", "FreeBits")):
                off = max(0.0, off - self.below(5 * MORE[turn]))
            if abs(off) > 1e-3 * (1 + abs(loss)):
                return f"loss {loss}, minus the sum of the bounds {-scale * bound.item()}"
            return ""

        self.ask(f"{name}.loss", question, judged)

    def below(self, times: int) -> float:
        """By how much a loss may exceed minus its bound that takes |KL|, or max(KL, 0), of a KL that is sampled.

        That of a draw may lie below 0, by its error.
        """
        rates = self.truth.sampled()[1].values() if self.truth.known else []
        return max(
            (2 * 4 * rate.mean(1).std().item() * self.recipe.num * math.sqrt(times) for rate in rates), default=0.0
        )

    # Evidence

    def weighed(self, log_prob: Tensor, target: Tensor, excess: Tensor, draws: int, turn: int) -> str:
        """What is wrong with an average of so many weights of known variance."""
        exact = self.truth.evidence
        if "one latent for all data" in self.traits:
            return f"evidence {numbers(log_prob)} of data that share a latent"
        if log_prob.shape != exact.shape:
            return f"{len(log_prob)} numbers of {len(exact)} data"
        words = f"{numbers(log_prob)}, right {numbers(exact)}"
        difference = log_prob.double() - exact
        if not (difference < 9).all():  # Markov's inequality
            return f"{words}, with a probability below exp(-9)"
        covered = (target - exact).abs() < 1e-3
        if not covered.all() and (target.isfinite() & (target < exact)).any():
            return f"{words}; the guide covers {numbers((target - exact).exp())} of p(x)"
        error = (excess.clamp(min=0) / draws).sqrt()
        if not (error < 0.2).all():
            return "unjudged: weights of large variance"
        z = difference.abs() / (error * 1.1 + error**2 + 1e-3)
        return f"{words}, standard error {numbers(error)}, z = {z.max():.1f}" if z.max() > limit(turn) else ""

    def importance(self) -> None:
        truth = self.truth

        def question(turn: int) -> Any:
            options: Any = {"compile": "eager", "seed": self.recipe.seed + turn, **self.nesting}
            return evidence.importance(self.pair, self.recipe.batch(), 1000 * MORE[turn], **options)

        def judged(found: Any, turn: int) -> str:
            draws = 1000 * MORE[turn]
            if truth.shared:
                return f"evidence {numbers(found.log_prob)} of data that share a latent"
            if "no data plate" in self.traits:
                return f"evidence {numbers(found.log_prob)} without a plate over the data"
            if truth.is_point:
                return f"evidence of a point: {numbers(found.log_prob)}"
            if truth.weights is None:
                return self.weighed(found.log_prob, truth.evidence, torch.full_like(truth.evidence, 1e9), draws, turn)
            target, excess = (
                truth.importance()
                if not {"auxiliary latent", "factor in the guide"} & self.traits
                else (truth.evidence, truth.evidence * 0)
            )
            return self.weighed(found.log_prob, target, excess, draws, turn)

        self.ask("importance", question, judged)

    def ais(self, start: str, turn: int, chains: int, **options: Any) -> Any:
        options |= {"num_chains": chains * MORE[turn], "compile": "eager", "seed": self.recipe.seed + turn}
        return evidence.ais(self.pair, self.recipe.batch(), start=start, **options, **self.nesting)  # type: ignore

    def one_step(self, start: str) -> None:
        truth = self.truth

        def judged(found: Any, turn: int) -> str:
            if truth.shared:
                return f"evidence {numbers(found.log_prob)} of data that share a latent"
            if start == "guide" and truth.is_point:
                return f"evidence of a point: {numbers(found.log_prob)}"
            if start == "guide" and (
                truth.weights is None or {"auxiliary latent", "factor in the guide"} & self.traits
            ):
                target, excess = truth.evidence, torch.full_like(truth.evidence, 1e9 if truth.weights is None else 0.0)
            else:
                target, excess = truth.importance(start)
            return self.weighed(found.log_prob, target, excess, 500 * MORE[turn], turn)

        self.ask(f"ais({start}, one step)", lambda turn: self.ais(start, turn, 500, num_steps=1), judged)

    def annealed(self, start: str) -> None:
        def judged(found: Any, turn: int) -> str:
            exact = self.truth.evidence
            if found.log_prob.shape != exact.shape or self.truth.shared:
                return f"{len(found.log_prob)} numbers of {exact.numel()} data"
            ratio = (found.log_weights.double() - exact).exp()
            error = ratio.std(0) / math.sqrt(len(ratio))
            z, words = z_score(ratio.mean(0), error, torch.ones_like(exact), torch.zeros(()), sides=2)
            return f"E[w] / p(x): {words}, z = {z:.1f}" if z > limit(turn) else ""

        self.ask(f"ais({start})", lambda turn: self.ais(start, turn, 40, num_steps=6, num_leapfrog=2), judged)

    def both_sides(self) -> None:
        def question(turn: int) -> Any:
            options: Any = {"num_leapfrog": 2, "compile": "eager", "seed": self.recipe.seed + turn, **self.nesting}
            return evidence.bdmc(self.pair, self.recipe.batch(8 if turn == 0 else 32), 20, 6, **options)

        def judged(found: Any, turn: int) -> str:
            if self.truth.shared:
                return "numbers of data that share a latent"
            data = {
                name: value.double() if value.is_floating_point() else value
                for name, value in zip(self.recipe.data, found.data, strict=True)
            }
            exact = log_evidence(self.recipe, data).detach()
            if found.lower.shape != exact.shape:
                return f"{len(found.lower)} numbers of {len(exact)} data"
            for side, difference in (("lower", found.lower - exact), ("upper", exact - found.upper)):
                error = difference.std() / math.sqrt(len(difference))
                z = (difference.mean() / (error + 1e-3)).item()
                if not z < limit(turn) or difference.max() > 9:
                    return f"the {side} bound is {difference.mean():.3f} +- {error:.3f} on the wrong side of log p(x)"
            return ""

        self.ask("bdmc", question, judged)

    def hmc(self) -> None:
        def question(turn: int) -> Any:
            options: Any = {"compile": "eager", "seed": self.recipe.seed + turn, **self.nesting}
            return evidence.hmc(self.pair, self.recipe.batch(), 30 * MORE[turn], 12, 60, **options)

        def judged(found: Any, _: int) -> str:
            exact = self.truth.evidence
            if found.log_prob.shape != exact.shape or self.truth.shared:
                return f"{len(found.log_prob)} numbers of {exact.numel()} data"
            difference = (found.log_prob.double() - exact).abs()
            if not (difference < 0.15 + 4 * found.standard_error.clamp(max=0.3)).all():
                return f"{numbers(found.log_prob)} +- {numbers(found.standard_error)}, right {numbers(exact)}"
            return ""

        self.ask("hmc", question, judged)

    # Diagnostics

    def diagnostics(self) -> None:
        truth, recipe = self.truth, self.recipe
        batch = recipe.batch()
        names = [name for name in ("z", "z0", "z1") if f"'{name}'" in recipe.code()]

        def rates(found: Any, turn: int) -> str:
            if not truth.known or truth.weights is None or "subsample inside" in self.traits:
                return (
                    ""
                    if math.isfinite(found.rate + found.distortion) or "impossible value" in self.traits
                    else f"{found}"
                )
            value = torch.tensor([-(found.rate + found.distortion)])
            options = []
            for how in truth.ways:
                spread = truth.sampled(turn)[0][how].mean(1).std() / math.sqrt(100 * MORE[turn])
                mean = truth.elbo(how).mean()
                if mean < UNSEEN:
                    return ""
                options.append(z_score(value, spread.expand(1), mean.expand(1), torch.zeros(()), 2))
            z, words = min(options)
            return f"{words}, z = {z:.1f}" if z > limit(turn) else ""

        one = bool({"global latent", "autoguide"} & self.traits)  # of which a batch is not repeated

        def question(turn: int) -> Any:
            times = 100 * MORE[turn]
            elbo = pv.SGVB_A(times if truth.shared else 1, **self.nesting)
            return diagnostics.rate_distortion(self.pair, [recipe.batch(1 if one else times)], elbo)

        self.ask("rate_distortion", question, rates)
        if truth.shared and "size of all data" not in self.traits:
            each = [tuple(part[n : n + 1] for part in batch) for n in range(recipe.num)]
            mean_of = pv.SGVB_A(100, **self.nesting).mean_bound
            self.ask(
                "mean_bound",
                lambda turn: torch.tensor([mean_of(self.pair, each) for _ in range(16 if turn == 0 else 64)]),
                lambda found, turn: self.near(found, 0, 100, turn),
            )
        self.ask("rate_distortion()", lambda _: diagnostics.rate_distortion(self.pair, [batch]))

        def levels(turn: int) -> Tensor:
            drawn = recipe.batch(1 if one else 100)
            elbo = pv.SGVB_A(1, **self.nesting)
            found = [diagnostics.levels(self.pair, [drawn], estimator=elbo).rate for _ in range(MORE[turn])]
            return torch.tensor(found, dtype=torch.float64)

        self.ask(
            "levels",
            levels,
            lambda found, turn: self.near(found, 1, 1 if one else 100, turn),
        )
        self.ask("encode", lambda _: diagnostics.encode(self.pair, *batch))
        self.ask("reconstruct", lambda _: diagnostics.reconstruct(self.pair, *batch), self.shaped)
        self.ask("sample", lambda _: diagnostics.sample(self.pair, 3, *batch))
        self.ask("latent_names", lambda _: diagnostics.latent_names(self.pair, *batch))
        self.ask("resample", lambda _: diagnostics.resample(self.pair, *batch, num_samples=2))
        for name in names[:1]:
            self.ask("active_units", lambda _, name=name: diagnostics.active_units(self.pair, [batch], site=name))
            self.ask(
                "kl_decomposition", lambda _, name=name: diagnostics.kl_decomposition(self.pair, *batch, site=name)
            )

    def near(self, found: Tensor, which: int, times: int, turn: int) -> str:
        """What is wrong with answers ``[R]``, each a mean over the data and so many draws of each, by other draws.

        They are of log-weights (0), or of the latents' log q - log p (1).
        """
        if not self.truth.known or {"subsample inside", "impossible value"} & self.traits:
            return ""
        options = []
        for value in self.truth.sampled(turn)[which].values():
            means = value.expand(max(2, len(value)), -1).mean(1)
            own = (
                found.std() / math.sqrt(len(found)) if len(found) > 1 else 0.0
            )  # data that are drawn apart spread more
            error = (means.std() * math.sqrt(1 / (times * len(found)) + 1 / len(means))).clamp(min=own)
            options.append(
                z_score(found.mean().reshape(1), error.expand(1), means.mean().expand(1), torch.zeros(()), 2)
            )
        z, words = min(options)
        return f"{words}, z = {z:.1f}" if z > limit(turn) else ""

    def shaped(self, found: Tensor, _: int) -> str:
        """What is wrong with means of the data, which are as the data are."""
        one_site = not {"two data sites", "subsample inside"} & self.traits
        right = self.recipe.data["x"].shape
        return f"means of shape {list(found.shape)} for data {list(right)}" if one_site and found.shape != right else ""


def answers(seed: int, traits: list[str] | None = None, every: int = 16) -> tuple[Recipe, list[Outcome]]:
    """The pair of a seed, and what was said of it; of so many pairs one is asked for chains, two for gradients.

    A third of the pairs runs without Pyro's validation, as in many scripts.
    """
    recipe = compose(seed, traits)
    slopes = seed % every in (1 % every, (1 + every // 2) % every)
    with pyro.validation_enabled(seed % 3 != 2):
        outcomes = Judge(recipe, chains=seed % every == 0, gradients=slopes).run()
    return recipe, [*outcomes, *needless(recipe, outcomes)]


def needless(recipe: Recipe, outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Refusals of what can be known well."""
    if not set(recipe.features) <= HARMLESS or (recipe.nesting > 1 and recipe.seed % 2 == 0):
        return []
    if "another name" in recipe.features and recipe.num == recipe.num_inner > 1:
        return []  # of two plates of one size around what is observed nothing tells which is that of the data
    always = {"check", "SGVB_A.bound", "SGVB_A.loss", "importance", "encode", "rate_distortion"}
    return [Outcome(o.what, "needless", o.detail) for o in outcomes if o.kind == "refused" and o.what in always]
