"""pyro-vae evaluate: log p(x) of a run."""

from __future__ import annotations

import dataclasses
import shlex
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pyro_vae import evidence, runs
from pyro_vae._checks import whole
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, Split
from pyro_vae.data.prepared import Standardized
from pyro_vae.diagnostics import chunks, latent_names, levels
from pyro_vae.evidence.ais import AnnealingSchedule
from pyro_vae.pair.protocols import HasPosteriorPredictive, SamplesWeights
from pyro_vae.pair.turns import fork_rng
from pyro_vae.ranks import Ranks
from pyro_vae.sampling.joint import Start

_ANNEALED = {"num_chains": 16, "num_steps": 1000, "start": "prior", "schedule": "adaptive"}
_METHODS: dict[str, dict[str, Any]] = {  # the options that a method has to itself, and their defaults
    "importance": {"num_samples": 5000, "precision": "float32"},
    "ais": _ANNEALED,
    "bdmc": _ANNEALED,
    "hmc": {"num_samples": 100, "num_chains": 16, "num_steps": 1000, "start": "guide"},
}
_FEW = 100  # data for which chains are run where nothing else is asked for
_FIRST = 10_000  # likewise, data of a file that are read into memory


def evaluate(
    run: str,
    split: Literal["train", "valid", "test"] = "test",
    method: Literal["importance", "ais", "bdmc", "hmc"] = "importance",
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_steps: int | None = None,
    start: Start | None = None,
    schedule: AnnealingSchedule | None = None,
    limit: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    precision: Precision | None = None,
    progress: bool = True,
    trust: bool = False,
) -> None:
    """Estimates log p(x) of a run, prints it and stores it in the run folder.

    The data are those of the run, binarized or standardized as they were for it; log p(x) of standardized columns is in
    the units of the data as they were given.

    Of a pair with several latents, such as a hierarchy, also the usage of each level over the same data.

    Of a pair with random weights, which has methods posterior_predictive() and sample_weights() as FullBayes does,
    importance gives the predictive density under their posterior, the other methods that of one draw of the weights.

    Args:
        run: folder of the run
        split: which data
        method: importance sampling from the guide; ais, annealed importance sampling; bdmc, annealing from both ends
            for data drawn from the model; hmc, the estimator of Kingma & Welling's appendix D
        num_samples: importance samples for each datum (5,000), or draws of each chain of hmc (100)
        num_chains: chains for each datum, for ais, bdmc and hmc (16)
        num_steps: steps of the annealing, for ais and bdmc; of the warm-up, for hmc (1,000)
        start: where chains start (ais and bdmc: prior, hmc: guide)
        schedule: of the annealing, for ais and bdmc (adaptive)
        limit: only the first so many data, which is said; without it all for importance (of data that are read from a
            file the first 10,000), the first 100 for the others
        chunk: draws or chains held in memory at once
        seed: of the draws
        compile: how the pair is run
        precision: bfloat16 for matrix products in bfloat16, for importance (float32)
        progress: show a progress bar
        trust: import and call what the folder names, whatever it is, and download its data; without it only classes
            of pyro_vae, torch.nn and torch.optim, and losses of Pyro, are; a pair of your own is refused
    """
    if limit is not None:
        whole(limit=limit)
    own: dict[str, Any] = {"num_samples": num_samples, "num_chains": num_chains, "num_steps": num_steps}
    own |= {"start": start, "schedule": schedule, "precision": precision}
    draws = {**_METHODS[method], **{option: value for option, value in own.items() if value is not None}}
    for option in draws:
        if option not in _METHODS[method]:
            methods = ", ".join(name for name, options in _METHODS.items() if option in options)
            name = option.replace("_", "-")
            raise ValueError(f"--{name} has no part in --method {method}, but in {methods}. Leave it out.")
    asked = {**draws, "limit": limit, "seed": seed}
    if method == "hmc":
        draws["num_warmup"] = draws.pop("num_steps")
    runs.evaluations(Path(run))  # which is refused now rather than after the work
    pair, data, out = runs.load(run, trust=trust).pair, runs.load_data(run, trust), Path(run)
    held, size = _held(data, split, _FEW if limit is None and method != "importance" else limit)
    x, partly = held.batch(torch.arange(len(held))), len(held) < size and method != "bdmc"
    pair, weights, words = _with_weights(pair, method, seed)
    memory = {} if chunk is None else {"chunk": chunk}
    started = time.perf_counter()
    result: evidence.Evidence = getattr(evidence, method)(
        pair, x, **draws, **memory, seed=seed, compile=compile, progress=progress
    )
    if not Ranks().first:
        return
    if isinstance(data, Standardized):
        log_scale = data.log_scale_of(*x).to(result.log_prob.dtype)
        sides = {name: getattr(result, name) - log_scale for name in ("log_prob", "upper") if hasattr(result, name)}
        result = dataclasses.replace(result, **sides)
        words, weights = f"{words}, in the units of the data", {**weights, "log_scale": log_scale.mean().item()}
    result = dataclasses.replace(result, effort=result.effort + words, seconds=time.perf_counter() - started)
    entry = {
        "method": method,
        "split": "simulated" if method == "bdmc" else split,
        "data": len(held),
        **({"of": size} if partly else {}),
        "precision": "float32",
        **draws,
        **weights,
        "seed": seed,
        **result.summary(),
    }
    page = runs.Page(out, f"pyro-vae evaluate {shlex.join([run, *_options(split=split, method=method, **asked)])}")
    page.say(str(result) if method == "bdmc" else f"{split} {result}")
    if partly:
        page.say(f"these are the first {len(held):,} of {size:,} {split} data; --limit takes another number")
    with fork_rng():
        torch.manual_seed(seed)
        if len(latent_names(pair, *x)) > 1:
            usage = levels(pair, chunks(*x))
            entry["levels"] = usage.as_rows()
            page.say(str(usage))
    stored = runs.store_evaluation(out, entry)  # before the page, which is a comment on it
    page.write()
    print(f"stored: {stored}")


def _options(**values: Any) -> list[str]:
    """Options as they are typed, without those that are left out."""
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in values.items() if value is not None}
    return [word for option in given.items() for word in option]


def _held(data: Data, split: str, limit: int | None) -> tuple[Split, int]:
    """The first data of one set, and the number of all of them."""
    sets = {"train": data.train, "valid": data.valid, "test": data.test}
    chosen = sets[split]
    if chosen is None:
        there = " or ".join(name for name, found in sets.items() if found is not None)
        raise ValueError(f"{data.name} has no {split} set; use --split {there}.")
    size = chosen.num_data or 0  # which load tells
    limit = limit or (size if chosen.in_memory else _FIRST)
    return chosen.take(limit), size


def _with_weights(pair: nn.Module, method: str, seed: int) -> tuple[nn.Module, dict[str, Any], str]:
    """The pair with its random weights, if it has such, drawn; and how, as an entry and in words."""
    if method == "importance" and isinstance(pair, HasPosteriorPredictive):
        words = ", weights drawn from their posterior for each sample"
        return pair.posterior_predictive(), {"weights": "posterior_predictive"}, words
    if method != "importance" and isinstance(pair, SamplesWeights):
        return pair.sample_weights(seed), {"weights": "sample"}, ", weights of one draw from their posterior"
    return pair, {}, ""
