"""Every public callable, called with bad arguments: a result, or one ValueError or TypeError sentence, and no trace."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch.distributions import Distribution

import pyro_vae
from storm.methods import methods
from storm.values import BAD, CALLABLE, GOOD, good_of

PACKAGE = Path(pyro_vae.__file__).parent
ROOMS = (
    "", "applications", "applications.restoration", "bayesian", "conditioning", "data", "diagnostics", "distributions",
    "estimators", "evidence", "likelihoods", "models", "networks", "pair", "plotting", "posteriors", "priors",
    "training", "transforms",
)  # fmt: skip
#: Plumbing between the rooms, which users do not call: what reads traces, and protocols.
PLUMBING = {
    "pair": {"LocalParameters", "check_densities", "check_local", "data_frame", "isolated", "kept_modes", "evaluating",
             "computing_once", "latent_sites", "observed_sites", "random_sites", "support_of", "tracing_obstacle",
             "trained_parameters", "run", "modules_of", "device_of", "programs"},
    "networks": {"HasInShape", "HasOutShape", "Normalization", "applied", "at_least_float32", "check_fits",
                 "check_input", "check_output",
                 "event_dim_of", "in_shape_of", "out_shape_of", "shape_of", "stacked", "side_by_side", "residual_block",
                 "Network",
                 "Convolutional", "BatchNorm"},
    "estimators": {"Facts", "Site", "log_mean_exp", "facts_table", "Gradient", "Bound"},
    "training": {"Progress", "TrainingStep", "Schedule", "WeightPenalty"},
    "transforms": {"Bijection", "Parameters"},
    "bayesian": {"WeightNoise", "BayesianLayer", "WeightPosterior"},
    "data": {"Binarization"},
    "applications.restoration": {"Observation"},
}  # fmt: skip
SECONDS = 20
FINE = ("result", "sentence")
OUTCOMES = (*FINE, "raw error", "hang", "state left changed")


class Call(NamedTuple):
    """A call: which callable, its arguments, and in words those that are bad."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    bad: str

    def __str__(self) -> str:
        return f"{self.name}({self.bad})"


def public() -> dict[str, Callable[..., Any]]:
    """Each public callable by its name, once; records of results and plumbing are left out."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for room in sorted(ROOMS, key=len, reverse=True):
        module = importlib.import_module(f"pyro_vae.{room}".rstrip("."))
        for name in getattr(module, "__all__", ("function", "names")):  # applications list none
            value = getattr(module, name)
            if not callable(value) or id(value) in seen or name in PLUMBING.get(room, ()) or inspect.ismodule(value):
                continue
            if isinstance(value, type) and not _is_made_by_users(value):
                continue
            seen.add(id(value))
            found[f"{room}.{name}".lstrip(".")] = value
    estimator = pyro_vae.SGVB_A(2)
    for method in ("bound", "terms", "mean_bound", "log_weights", "loss", "loss_and_grads"):
        found[f"SGVB_A.{method}"] = getattr(estimator, method)
    found |= {name: method for name, (method, _) in methods().items()}
    return dict(sorted(found.items()))


def _is_made_by_users(kind: type) -> bool:
    """Whether it is more than a record, and has a constructor that is not torch's, Pyro's or Python's."""
    record = (dataclasses.is_dataclass(kind) and "__post_init__" not in vars(kind)) or issubclass(kind, tuple)
    ours = (getattr(kind.__init__, "__module__", None) or "").startswith("pyro_vae") or dataclasses.is_dataclass(kind)
    protocol = inspect.isabstract(kind) or getattr(kind, "_is_protocol", False)
    return ours and not (record or protocol or issubclass(kind, Exception))


def generated(count: int, seed: int) -> Iterator[Call]:
    """``count`` calls, the callables in turn: one argument is bad, seldom two or all."""
    chance = random.Random(seed)
    callables = list(public().items())
    for index in range(count):
        name, function = callables[index % len(callables)]
        bad = 1 if chance.random() < 0.85 else 2 if chance.random() < 0.7 else 100
        yield filled(Call(name, function, (), {}, ""), chance, bad)


#: Programs, and functions of tensors: what another function raises of their arguments is its own error.
_PROGRAMS = {"model", "guide", "function", "estimator", "svi_loss", "method", "groups", "where"}


#: Good arguments that are given in place of defaults, which take long.
_SMALL = {
    "num_samples", "num_chains", "num_steps", "num_warmup", "num_draws", "epochs", "batch_size", "progress", "compile",
    "precision", "num_leapfrog", "schedule",
}  # fmt: skip


def filled(call: Call, chance: random.Random, bad: int) -> Call:
    """The call with arguments, of which as many as ``bad`` are bad, and those of which no good one is known."""
    known = methods().get(call.name)
    own = good_of(call.name, call.function) if known is None else known[1]
    parameters = dict(inspect.signature(signed(call.function)).parameters)
    options = next((key for key, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    if options is not None:
        del parameters[options]
        if call.name.startswith("estimators.") or hasattr(pyro_vae.estimators.names, call.name):
            for key in ("beta", "max_plate_nesting", "num_data"):
                parameters[key] = inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=1)
    judged = [key for key in parameters if key not in ("args", "others") and key[0] != "_"]  # handed on as they are
    chosen = chance.sample(judged, min(bad, len(judged)))
    args: list[Any] = []
    kwargs, said = {}, []
    for key, parameter in parameters.items():
        several = parameter.kind is parameter.VAR_POSITIONAL
        known = key in own or (key in GOOD and (parameter.default is parameter.empty or key in _SMALL))
        if key in chosen or not (known or several or parameter.default is not parameter.empty):
            programs = key in _PROGRAMS and call.name != "fit"
            what = chance.choice([what for what in BAD if not (programs and what in CALLABLE)])
            said.append(f"{key}={what}")
            value: Any = BAD[what]()
            value = (value,) if several else value
        elif known:
            value = (own.get(key) or GOOD[key])()
        else:
            continue
        if several:
            args += value
        elif parameter.kind is parameter.KEYWORD_ONLY or len(args) < list(parameters).index(key):
            kwargs[key] = value
        else:
            args.append(value)
    return Call(call.name, call.function, tuple(args), kwargs, ", ".join(said))


def signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """What tells the arguments: of a module, its ``forward``."""
    return function.forward if isinstance(function, torch.nn.Module) else function


class Outcome(NamedTuple):
    kind: str
    detail: str = ""


class _TooLong(BaseException):
    pass


def outcome(call: Call, seconds: float = SECONDS) -> Outcome:
    """What came of a call."""

    def stop(*_: Any) -> None:
        raise _TooLong

    before, found = _state(), Outcome("result")
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            result = call.function(*call.args, **call.kwargs)
            if inspect.isgenerator(result):
                next(result, None)
    except _TooLong:
        found = Outcome("hang", f"over {seconds} s")
    except Exception as error:
        found = Outcome("sentence" if is_sentence(call, error) else "raw error", _shown(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        plots = sys.modules.get("matplotlib.pyplot")
        if plots is not None:
            plots.close("all")
    changed = [name for name, value in _state().items() if value != before[name]]
    _put_back()
    return Outcome("state left changed", ", ".join(changed)) if changed else found


def _state() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "validation": Distribution._validate_args,
        "Pyro's validation": pyro.poutine.runtime.__dict__.get("_validation"),
        "Pyro's handlers": len(_PYRO_STACK),
        "Pyro's store": sorted(pyro.get_param_store().keys()),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "numpy's generator": hash(np.random.get_state()[1].tobytes()),  # noqa: NPY002
        "python's generator": hash(random.getstate()),
        "handler of SIGINT": signal.getsignal(signal.SIGINT),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "print options": str(np.get_printoptions()) + str(torch._tensor_str.PRINT_OPTS),
    }


def _put_back() -> None:
    del _PYRO_STACK[:]
    torch.set_default_dtype(torch.float32)
    pyro.enable_validation(True)
    pyro.clear_param_store()


def _shown(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(no text)"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = [f for f in traceback.extract_tb(error.__traceback__) if str(PACKAGE) in f.filename][-1:]
    place = "".join(f" [{Path(f.filename).relative_to(PACKAGE)}:{f.lineno}]" for f in ours)
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}{place if ours != [frame] or place else ''}"


def is_sentence(call: Call, error: BaseException) -> bool:
    """Whether an error is one of the library's own: raised by it on purpose, and a sentence."""
    if not isinstance(error, (ValueError, TypeError, FileNotFoundError, IndexError, pyro_vae.NonFiniteError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    text, last = str(error).strip(), frames[-1]
    of_torch = "torch/distributions" in last.filename and (  # of parameters, which are what a network made of the data
        "()" in call.name or call.name.startswith("distributions.")
    )
    ours = str(PACKAGE) in last.filename or of_torch
    return ours and last.lineno is not None and _raises(last.filename, last.lineno) and len(text.split()) >= 5


@functools.cache
def _raising(filename: str) -> list[tuple[int, int]]:
    tree = ast.parse(Path(filename).read_text())
    return [(node.lineno, node.end_lineno or 0) for node in ast.walk(tree) if isinstance(node, ast.Raise)]


def _raises(filename: str, line: int) -> bool:
    return any(first <= line <= last for first, last in _raising(filename))


def storm(count: int, seed: int, seconds: float = SECONDS) -> list[tuple[Call, Outcome]]:
    """The outcomes of generated calls, in a folder of their own."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return [(call, outcome(call, seconds)) for call in generated(count, seed)]
        finally:
            os.chdir(before)


def table(found: list[tuple[Call, Outcome]]) -> str:
    """Counts by room."""
    rooms: dict[str, Counter[str]] = {}
    for call, result in found:
        for room in (call.name.rpartition(".")[0] or "pyro_vae", "all"):
            rooms.setdefault(room, Counter())[result.kind] += 1
    rows = [("", *OUTCOMES)]
    rows += [(room, *(f"{counts[kind]:,}" for kind in OUTCOMES)) for room, counts in sorted(rooms.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", action="store_true", help="show what was taken as well")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    found = storm(options.calls, options.seed)
    wrong = [(call, result) for call, result in found if result.kind not in FINE]
    for call, result in found if options.results else wrong:
        print(f"{result.kind}: {call}\n    {result.detail}")
    print(table(found))
    print(
        f"{len(wrong):,} of {len(found):,} calls ended in neither; seed {options.seed}; "
        f"{time.monotonic() - started:.0f} s"
    )
    return bool(wrong)
