"""Random small pairs whose evidence is known, and everything that the library says of them.

PYTHONPATH=. python experiments/fuzz.py --seed 7000 --pairs 1000
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzzing.judge import answers
from fuzzing.recipes import Recipe
from fuzzing.truth import Outcome


def by_likeness(outcomes: list[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Those that say the same, but for numbers."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        words = outcome.detail if outcome.kind == "traceback" else ""
        found.setdefault((outcome.kind, re.sub(r"[\d\[\], ]+", "#", words)[:80]), []).append(outcome)
    return found


class Tally:
    """The outcomes so far, counted; findings are printed as they come.

    Args:
        show: findings of a question and a kind that are printed whole.
    """

    def __init__(self, show: int) -> None:
        self.show = show
        self.pairs, self.start = 0, time.perf_counter()
        self.results: Counter[tuple[str, str]] = Counter()  # by question and kind
        self.traits: Counter[tuple[str, str]] = Counter()  # by what was composed and kind
        self.sentences: dict[
            str, list[tuple[str, int]]
        ] = {}  # of refusals, but for names and numbers: question and seed

    def add(self, recipe: Recipe, outcomes: list[Outcome]) -> None:
        found = [outcome for outcome in outcomes if outcome.is_finding]
        new = [o for o in found if self.results[o.what, o.kind] < self.show]
        self.pairs += 1
        self.results.update((outcome.what, outcome.kind) for outcome in outcomes)
        self.traits.update((trait, outcome.kind) for outcome in outcomes for trait in recipe.features or ["plain"])
        for outcome in outcomes:
            if outcome.kind == "refused":
                sentence = re.sub(r"'\w+'|\[[^]]*\]|-?\d[\d.,]*|^\w+(\([^)]*\))*", "#", outcome.detail)
                self.sentences.setdefault(sentence, []).append((outcome.what, recipe.seed))
        if new:
            print(f"\n{recipe}")
            for (kind, _), alike in by_likeness(found).items():
                print(f"  {kind}: {', '.join(o.what for o in alike)}\n      {alike[0].detail[:400]}", flush=True)

    def failed(self, seed: int) -> None:
        """What is wrong with the fuzz, not with the library."""
        self.results["the fuzz itself", "broken"] += 1
        print(f"\nseed {seed}: the fuzz itself fails\n{traceback.format_exc()}", flush=True)

    def refusals(self) -> str:
        """The sentences of refusals, each with those whom it was told, and a few seeds."""
        lines = []
        for sentence, told in sorted(self.sentences.items(), key=lambda item: -len(item[1])):
            whom = Counter(what.partition(".")[0] for what, _ in told)
            seeds = list(dict.fromkeys(seed for _, seed in told))
            lines += [
                f"\n{len(told)} of {len(seeds)} pairs: {sentence}",
                f"    {', '.join(f'{who} {count}' for who, count in whom.most_common(8))}; seeds {seeds[:6]}",
            ]
        return "\n".join(lines)

    def __str__(self) -> str:
        kinds: Counter[str] = Counter()
        for (_, kind), count in self.results.items():
            kinds[kind] += count
        seconds = time.perf_counter() - self.start
        columns = sorted(kinds)
        lines = [f"\n{self.pairs} pairs, {kinds.total()} results in {seconds:.0f} s: {dict(kinds.most_common())}\n"]
        for counted in (self.results, self.traits):
            lines.append(" ".join([f"\n{'':38}", *[f"{kind:>10}" for kind in columns]]))
            for name in sorted({name for name, _ in counted}):
                lines.append(" ".join([f"{name:38}", *[f"{counted[name, kind]:>10}" for kind in columns]]))
        return "\n".join(lines)

    @property
    def has_findings(self) -> bool:
        return any(Outcome("", kind).is_finding for _, kind in self.results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7000, help="of the first pair; the others follow it")
    parser.add_argument("--pairs", type=int, default=1000, help="how many")
    parser.add_argument("--seeds", type=int, nargs="*", default=None, help="these seeds alone")
    parser.add_argument(
        "--every", type=int, default=16, help="of so many pairs one is asked for chains, two for gradients"
    )
    parser.add_argument("--traits", nargs="*", default=None, help="what to compose, in place of what a seed draws")
    parser.add_argument("--show", type=int, default=3, help="findings of a kind that are printed whole")
    parser.add_argument("--refusals", action="store_true", help="print the sentences of refusals, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tally = Tally(arguments.show)
    try:
        for seed in arguments.seeds or range(arguments.seed, arguments.seed + arguments.pairs):
            try:
                recipe, outcomes = answers(seed, arguments.traits, arguments.every)
            except Exception:
                tally.failed(seed)
            else:
                tally.add(recipe, outcomes)
                if tally.pairs % 100 == 0:
                    print(str(tally).strip().partition("\n")[0], flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted")
    print(tally)
    if arguments.refusals:
        print(tally.refusals())
    return int(tally.has_findings)


if __name__ == "__main__":
    sys.exit(main())
