"""Programs in the manner of Pyro's examples: accepted or not, compiled or not and why, and times faster than SVI.step.

The programs are those of ``tests/pyro_programs``, as a user of Pyro writes them, on data so small that the time is of
the programs and not of their networks. Each round times ``SVI.step``, with Pyro's validation as it is by default and
without, and ours, in turn; printed is the median over the rounds. All with Adam and the same ELBO.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from benchmark import measure
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from shared import HERE, machine, table
from torch.distributions import Distribution

import pyro_vae as pv
from pyro_vae.estimators import as_estimator
from pyro_vae.pair import as_pair
from pyro_vae.pair.arguments import Arguments
from pyro_vae.training import TrainingStep

sys.path.insert(0, str(HERE.parent / "tests"))
from pyro_programs.registry import PROGRAMS, Program

Distribution.set_default_validate_args(True)  # which an import of Zuko turns off
OURS: dict[type, Callable[..., Any]] = {
    Trace_ELBO: pv.SGVB_A,
    TraceMeanField_ELBO: pv.SGVB_B,
    TraceEnum_ELBO: pv.Enumeration,
}


def svi(program: Program, validate: bool) -> Callable[[], Any]:
    """A step of Pyro's, in the parameter store of this program alone."""
    store = pyro.get_param_store()
    store.clear()
    torch.manual_seed(0)
    _, model, guide, batches = program.made()
    inference = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), program.elbo())
    batch = itertools.cycle(batches)
    inference.step(*batches[0])
    state = [store.get_state()]

    def run() -> None:
        with pyro.validation_enabled(validate):
            inference.step(*next(batch))

    def scoped() -> None:
        with store.scope(state[0]) as kept:
            for _ in range(scoped.steps):
                run()
        state[0] = kept

    scoped.steps = 20  # type: ignore[attr-defined]
    return scoped


def ours(program: Program, compile: Any, own: bool = False) -> tuple[Callable[[], Any], TrainingStep]:
    """A step as ``fit`` takes it, after its check; by the estimator that is Pyro's ELBO, or by that itself."""
    torch.manual_seed(0)
    pair, _, _, batches = program.made()
    elbo = program.elbo() if program.estimator is None else program.estimator()
    estimator = as_estimator(elbo) if own else OURS.get(type(elbo), lambda: as_estimator(elbo))()
    pv.check(pair, *batches[0], estimator=estimator)
    module = as_pair(pair)
    given = [Arguments(module)(*batch) for batch in batches]
    step = TrainingStep(module, estimator, compile=compile, num_data=program.num_data or len(given[0][0]))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    batch = itertools.cycle(given)

    def run() -> None:
        with pyro.validation_enabled(False):
            objective = step(next(batch))
            optimizer.step()
            objective.loss.item()

    return run, step


def first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].rstrip(".") + "."


def row(program: Program, compile: Any, rounds: int, repeats: int) -> dict[str, Any]:
    """What is told of a program."""
    found: dict[str, Any] = {"program": program.name, "accepted": True, "why": "", "mode": None}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            try:
                run, step = ours(program, compile)
            except ValueError as error:  # of what no bound is known, as of a factor in a guide
                found["why"] = f"By Pyro's ELBO: {first_sentence(str(error))}"
                run, step = ours(program, compile, own=True)
            for _ in range(5):
                run()
        except Exception as error:  # of whatever kind: it is told
            return {**found, "accepted": False, "why": first_sentence(f"{type(error).__name__}: {error}")}
    reasons = [str(warning.message) for warning in said if "instead of" in str(warning.message)]
    found.update(mode=step.mode, why=" ".join([*filter(None, [found["why"]]), *reasons]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = {"SVI.step": svi(program, True), "SVI.step, no validation": svi(program, False), "ours": run}
        found["ms"] = measure(rows, rounds, repeats)
    found["faster"] = found["ms"]["SVI.step"] / found["ms"]["ours"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--compile", default="auto", choices=("auto", "inductor", "traced", "eager"))
    parser.add_argument("--rounds", type=int, default=9, help="rounds over the three rows of a program")
    parser.add_argument("--repeats", type=int, default=40, help="steps of a row in each round")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    results = []
    for program in PROGRAMS:
        if arguments.only in program.name:
            results.append(row(program, arguments.compile, arguments.rounds, arguments.repeats))
            print(f"-- {program.name}: {results[-1]['mode'] or results[-1]['why']}", flush=True)
            if arguments.json is not None:
                written = {"experiment": "pyro_programs", "results": results, "machine": machine()}
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    body = []
    for found in results:
        times = [f"{found['ms'][name]:.2f}" for name in found["ms"]] if "ms" in found else ["-"] * 3
        faster = f"{found['faster']:.1f}" if "faster" in found else "-"
        body.append((found["program"], found["mode"] or "refused", *times, faster, found["why"]))
    print(table(("program", "steps", "SVI.step, ms", "no validation", "ours", "x faster", "why"), body))


if __name__ == "__main__":
    main()
