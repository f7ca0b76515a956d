"""Random small pairs whose evidence is known, and everything that the library says of them.

PYTHONPATH=. python experiments/fuzz.py --seed 0 --pairs 1000
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

from fuzzing.compose import compose
from fuzzing.judge import Judge, needless
from fuzzing.truth import Outcome


def by_likeness(outcomes: list[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """Those that say the same, but for numbers."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        words = outcome.detail if outcome.kind == "traceback" else ""
        found.setdefault((outcome.kind, re.sub(r"[\d\[\], ]+", "#", words)[:80]), []).append(outcome)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the others follow it")
    parser.add_argument("--pairs", type=int, default=1000, help="how many")
    parser.add_argument("--seeds", type=int, nargs="*", default=None, help="these seeds alone")
    parser.add_argument(
        "--every", type=int, default=8, help="of so many pairs one is asked for chains, one for gradients"
    )
    parser.add_argument("--traits", nargs="*", default=None, help="what to compose, in place of what a seed draws")
    parser.add_argument("--show", type=int, default=3, help="findings of a kind that are printed whole")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = arguments.seeds or range(arguments.seed, arguments.seed + arguments.pairs)
    results: Counter[tuple[str, str]] = Counter()
    shown: Counter[tuple[str, str]] = Counter()
    traits: Counter[tuple[str, str]] = Counter()
    start = time.perf_counter()
    for seed in seeds:
        try:
            recipe = compose(seed, arguments.traits)
            judge = Judge(recipe, chains=seed % arguments.every == 0, gradients=seed % arguments.every == 1)
            outcomes = judge.run()
        except Exception:
            print(f"seed {seed}: the fuzz itself fails\n{traceback.format_exc()}", flush=True)
            results["the fuzz itself", "broken"] += 1
            continue
        outcomes += needless(recipe, outcomes)
        for outcome in outcomes:
            results[outcome.what, outcome.kind] += 1
        found = [outcome for outcome in outcomes if outcome.is_finding]
        for outcome in found:
            for trait in recipe.features or ["plain"]:
                traits[trait, outcome.kind] += 1
        new = [o for o in found if shown[o.what, o.kind] < arguments.show]
        for outcome in new:
            shown[outcome.what, outcome.kind] += 1
        if new:
            print(f"\n{recipe}", flush=True)
            for (kind, _), alike in by_likeness(found).items():
                print(f"  {kind}: {', '.join(o.what for o in alike)}\n      {alike[0].detail[:400]}", flush=True)
    seconds = time.perf_counter() - start
    names = sorted({what for what, _ in results})
    columns = sorted({kind for _, kind in results})
    kinds = {kind: sum(results[name, kind] for name in names) for kind in columns}
    print(f"\n{len(seeds)} pairs, {sum(kinds.values())} results in {seconds:.0f} s: {kinds}")
    print("\n" + " ".join([f"{'':28}", *[f"{c:>10}" for c in columns]]))
    for name in names:
        print(" ".join([f"{name:28}", *[f"{results[name, c]:>10}" for c in columns]]))
    print("\nfindings by trait")
    for (trait, kind), count in traits.most_common():
        print(f"{count:>6} {kind:10} {trait}")
    return int(any(Outcome("", kind).is_finding for _, kind in results))


if __name__ == "__main__":
    sys.exit(main())
