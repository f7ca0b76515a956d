"""The command line: pyro-vae train | evaluate | plot | apply | estimators. ``python -m pyro_vae`` is the same."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import nn
from tqdm import tqdm

from pyro_vae import applications, evidence, figures
from pyro_vae.check import check
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, Split, load
from pyro_vae.diagnostics import chunks, has_prior, latent_names, levels
from pyro_vae.estimators import ESTIMATORS, facts_table
from pyro_vae.likelihoods import bits_per_dim
from pyro_vae.models import CodePrior
from pyro_vae.pair import observed_sites, support_of
from pyro_vae.pair import run as run_pair
from pyro_vae.training import CLI_DEFAULTS, Schedule, checkpoint, fit
from pyro_vae.training.records import read_metrics

CONFIG, EVALUATION = "config.yaml", "evaluation.json"
DEFAULT_MODEL = "pyro_vae.models.MLPVAE"
_USAGE = """\
usage: pyro-vae COMMAND [options]

Variational autoencoders as Pyro programs.

commands:
  train      fit a pair to data and write a run folder
  evaluate   log p(x) of a run: importance sampling, annealed importance sampling, BDMC, HMC
  plot       draw the figures of a run again
  apply      what pairs are good for, beside baselines
  estimators what is known of each estimator

`pyro-vae COMMAND --help` tells the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0, or 2 after an error that is the user's to mend)."""
    arguments = [_dashes(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    commands = {"train": train, "evaluate": evaluate, "plot": plot, "apply": apply, "estimators": estimators}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        return _fail(f"there is no command {name!r}{_nearest(name, commands)}. Commands: {', '.join(commands)}.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that --model my_file.MyPair finds a file beside the user
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            commands[name](rest)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        return _fail(_sentence(str(error)))
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", status=130)
    return 0


def _fail(message: str, status: int = 2) -> int:
    print(f"pyro-vae: error: {message}", file=sys.stderr)
    return status


def _warn(message: Warning | str, *where: Any, **options: Any) -> None:
    """A warning as one line, above a progress bar where there is one."""
    tqdm.write(f"pyro-vae: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _sentence(message: str) -> str:
    """A message without what the parser and Pyro lay around it: the classes of a union, the shapes of a trace."""
    message = message.partition("\nTrace Shapes:")[0]
    buried = re.findall(r"^ +- (?!Expected )(.+)$", message, re.MULTILINE) if "Union subtypes" in message else []
    return " ".join(buried) or message


def _dashes(argument: str) -> str:
    """``--num-samples`` is ``--num_samples``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(close)}" if close else ""


# The configuration of a run


def _import_pair(name: str) -> type:
    """The class of a pair, by its dotted name."""
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        module_name = "pyro_vae.models"
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"the module {module_name!r} of --model {name} cannot be imported ({error}). "
            "Give the dotted name of a class, for example pyro_vae.models.ConvVAE, or my_file.MyPair for a class in "
            "my_file.py in this folder."
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        pairs = [key for key, value in vars(module).items() if _is_pair_class(value)]
        raise ValueError(
            f"{module_name} has no class {class_name!r}{_nearest(class_name, pairs)}. "
            f"Its pairs: {', '.join(pairs) or 'none'}."
        )
    if not _is_pair_class(found):
        raise ValueError(f"{name} is no class with the methods model and guide, so it is no pair.")
    return found


def _is_pair_class(value: Any) -> bool:
    return isinstance(value, type) and all(callable(getattr(value, name, None)) for name in ("model", "guide"))


def _model_name(arguments: Sequence[str]) -> str:
    """The class named by --model or, behind that, by the file of --config."""
    name = DEFAULT_MODEL
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if option == "--config" and value:
            name = _configured_model(Path(value)) or name
        elif option in ("--model", "--model.class_path", "--model.help") and value and not value.startswith("-"):
            name = value
    return name


def _configured_model(path: Path) -> str | None:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}.")
    try:
        model = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("model")
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"the configuration {path} is no YAML mapping of options to values.") from error
    return model.get("class_path") if isinstance(model, dict) else model


@functools.lru_cache(maxsize=1)
def _load(name: str, *options: Any) -> Data:
    return load(name, **dict(zip(_LOAD_OPTIONS, options, strict=True)))


_LOAD_OPTIONS = ("root", "binarization", "split", "valid_size", "test_size", "image_size", "channels", "download")


class _Parser(ArgumentParser):
    """Shows docstrings in a terminal: without the marks of reStructuredText."""

    def format_help(self, *arguments: Any, **options: Any) -> str:
        text = _plain(super().format_help(*arguments, **options))
        return re.sub(r",\s+known\s+subclasses:[^)]*\btorch\.ao\.[^)]*\)", ")", text)  # all modules of torch


def _plain(text: str) -> str:
    text = re.sub(r":mod:`([^`]*)`", r"\1", text)
    return re.sub(r":\w+:`~?([^`]*)`", lambda match: match[1].rpartition(".")[2], text).replace("``", "")


def _train_parser(model: type) -> ArgumentParser:
    parser = _Parser(prog="pyro-vae train", description="Fits a pair to data and writes a run folder.")
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_argument(
        "--data", type=str, default="digits", help="name of a data set, or a file or folder of your own"
    )
    parser.add_function_arguments(load, skip={"name_or_path", "seed"})
    name = f"{model.__module__}.{model.__qualname__}"
    parser.add_subclass_arguments(model, "model", default={"class_path": name}, help="the pair, and its arguments")
    sources = ("data", *_LOAD_OPTIONS)
    parameters = inspect.signature(model).parameters
    for argument, compute in (("event_shape", _event_shape), ("mean", _mean)):  # what the data answer
        if argument in parameters:
            parser.link_arguments(sources, f"model.init_args.{argument}", compute_fn=compute, apply_on="parse")
        if "pair" in parameters:  # and a pair inside, if it has such an argument
            target = f"model.init_args.pair.init_args.{argument}"
            parser.link_arguments(sources, target, compute_fn=compute, apply_on="parse")
    if issubclass(model, CodePrior) and "first" in parameters:
        parser.add_argument("--first", type=str, default="", help="the run folder of the first stage")
        parser.link_arguments("first", "model.init_args.first", compute_fn=_first_stage, apply_on="parse")
    parser.add_function_arguments(fit, skip={"pair", "data", "callbacks"}, fail_untyped=False)
    parser.set_defaults(
        {"binarization": "dynamic", **{name: _as_option(value) for name, value in CLI_DEFAULTS.items()}}
    )
    return parser


def _as_option(value: Any) -> Any:
    """A value as the parser writes it: classes by their dotted names."""
    if isinstance(value, functools.partial):
        return {"class_path": f"{value.func.__module__}.{value.func.__qualname__}", "init_args": dict(value.keywords)}
    if isinstance(value, Schedule):
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": dict(vars(value))}
    return value


def _event_shape(name: str, *options: Any) -> tuple[int, ...]:
    try:
        return tuple(_load(name, *options).event_shape)
    except (ValueError, TypeError, OSError):
        return (1,)  # the parser would bury the reason: the data are loaded once more, and tell it themselves


def _mean(name: str, *options: Any) -> torch.Tensor:
    try:
        train = _load(name, *options).train
    except (ValueError, TypeError, OSError):
        return torch.zeros(1)
    assert isinstance(train, Split)
    return train.mean()


def _first_stage(run: str) -> nn.Module:
    if not run:
        raise ValueError("a second stage needs the run of the first: --first FOLDER, which pyro-vae train has written.")
    return open_run(run)[0]


def _build(parser: ArgumentParser, config: Namespace) -> tuple[nn.Module, Data, dict[str, Any]]:
    """The pair, the data and the arguments of fit() of a configuration."""
    data = _load(config.data, *(config[option] for option in _LOAD_OPTIONS))
    torch.manual_seed(config.seed)  # of the initial weights
    built = _instantiate(parser, config)
    skipped = {"config", "data", "model", "first", *_LOAD_OPTIONS}
    return built.model, data, {key: value for key, value in vars(built).items() if key not in skipped}


def _instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    return parser.instantiate(config) if hasattr(parser, "instantiate") else parser.instantiate_classes(config)


def open_run(run: str) -> tuple[nn.Module, Data, Path]:
    """The trained pair, the data and the path of a run folder.

    Raises:
        ValueError: if ``run`` is no folder that ``pyro-vae train`` has written.
    """
    out = Path(run)
    if not (out / CONFIG).is_file():
        raise ValueError(f"{run} is no run folder: it has no {CONFIG}. Give a folder that pyro-vae train has written.")
    parser = _train_parser(_import_pair(_configured_model(out / CONFIG) or DEFAULT_MODEL))
    config = parser.parse_args(["--config", str(out / CONFIG)])
    pair, data, _ = _build(parser, config)
    tensors, _ = checkpoint.load(out / "checkpoint")
    batch = next(iter(data.train.batches(2)))
    with torch.random.fork_rng():
        run_pair(pair, *batch)  # parameters that a program makes when it first runs
    checkpoint.load_weights(pair, tensors)
    return pair.eval(), data, out


# The commands


def train(arguments: Sequence[str]) -> None:
    """Fits a pair to data; writes configuration, metrics, checkpoints and figures."""
    parser = _train_parser(_import_pair(_model_name(arguments)))
    config = parser.parse_args(list(arguments))
    if config.out is None:
        config.out = _free_folder(Path("runs"), Path(config.data).stem)
    out = Path(config.out)
    size = _load(config.data, *(config[option] for option in _LOAD_OPTIONS)).train.num_data
    if size is not None and size < config.batch_size == CLI_DEFAULTS["batch_size"]:
        config.batch_size = size  # the default is for larger sets; a size that the user gave is refused by fit
    pair, data, options = _build(parser, config)
    print(data.describe())
    (batch,) = [next(iter(data.train.batches(min(config.batch_size, 100))))]
    print(check(pair, *batch), flush=True)
    if not checkpoint.exists(out / "checkpoint"):
        saved = config.clone()
        saved.pop("config", None)
        saved.resume = False
        text = parser.dump(saved)
        checkpoint.write_text(out / CONFIG, text)
    started = time.perf_counter()
    run = fit(pair, data, **{**options, "out": out})
    last = run.history[-1]
    bound = f"train {last['train']:.2f}" + ("" if last["valid"] is None else f", valid {last['valid']:.2f}")
    print(
        f"bound {bound} nats per datum after {last['epoch']} epochs, {last['seconds']:.0f} s of training "
        f"({time.perf_counter() - started:.0f} s in all, steps {run.mode})"
    )
    _draw(out, run.pair, data)
    print(f"run: {out}")
    if has_prior(run.pair, *(tensor[:1] for tensor in batch)):
        print(f"log p(x): pyro-vae evaluate {out}")


def _free_folder(parent: Path, stem: str) -> str:
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return str(parent / f"{stem}-{number}")


def _draw(out: Path, pair: nn.Module, data: Data) -> None:
    paths = figures.draw(out / "figures", pair, data, {out.name: read_metrics(out)})
    print(f"figures: {out / 'figures'} ({', '.join(path.stem for path in paths)})")


def _score(
    run: str,
    split: Literal["train", "valid", "test"] = "test",
    method: Literal["importance", "ais", "bdmc", "hmc"] = "importance",
    num_samples: int | None = None,
    num_chains: int = 16,
    num_steps: int = 1000,
    start: Literal["prior", "guide"] | None = None,
    schedule: Literal["linear", "sigmoid", "adaptive"] = "adaptive",
    limit: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    precision: Precision = "float32",
    progress: bool = True,
) -> None:
    """Estimates log p(x) of a run, prints it and stores it in the run folder.

    Of a pair with several latents, such as a hierarchy, also the usage of each level over the same data.

    Of a pair with random weights, which has methods posterior_predictive() and sample_weights() as FullBayes does,
    importance gives the predictive density under their posterior, the other methods that of one draw of the weights.

    Args:
        run: folder of the run
        split: which data
        method: importance sampling from the guide; ais, annealed importance sampling; bdmc, annealing from both ends
            for data drawn from the model; hmc, the estimator of Kingma & Welling's appendix D
        num_samples: importance samples for each datum (5,000), or draws of each chain of hmc (100)
        num_chains: chains for each datum, for ais, bdmc and hmc
        num_steps: steps of the annealing, for ais and bdmc; of the warm-up, for hmc
        start: where chains start (ais and bdmc: prior, hmc: guide)
        schedule: of the annealing
        limit: only the first so many data; without it all for importance, the first 100 for the others
        chunk: draws or chains held in memory at once
        seed: of the draws
        compile: how the pair is run
        precision: bfloat16 for matrix products in bfloat16, for importance
        progress: show a progress bar
    """
    for option, given, methods in (
        ("num-samples", num_samples is not None, ("importance", "hmc")),
        ("start", start is not None, ("ais", "bdmc", "hmc")),
        ("precision", precision != "float32", ("importance",)),
    ):
        if given and method not in methods:
            raise ValueError(f"--{option} has no part in --method {method}, but in {', '.join(methods)}. Leave it out.")
    pair, data, out = open_run(run)
    chosen = getattr(data, split)
    if chosen is None:
        there = [name for name in ("train", "valid", "test") if getattr(data, name) is not None]
        raise ValueError(f"{data.name} has no {split} set; use --split {' or '.join(there)}.")
    limit = _FEW if limit is None and method != "importance" else limit
    held = chosen if isinstance(chosen, Split) else chosen.take(limit or 10_000)
    held = held.take(limit) if limit is not None else held
    x = held.batch(torch.arange(len(held)))
    effort: dict[str, Any]
    options: dict[str, Any] = {"seed": seed, "compile": compile, "progress": progress}
    if chunk is not None:
        options["chunk"] = chunk
    if start is not None:
        options["start"] = start
    weights: dict[str, str] = {}
    random: Any = pair
    if method == "importance" and hasattr(pair, "posterior_predictive"):
        pair, weights = random.posterior_predictive(), {"weights": "posterior_predictive"}
    elif method != "importance" and hasattr(pair, "sample_weights"):
        pair, weights = random.sample_weights(seed), {"weights": "sample"}
    started = time.perf_counter()
    result: Any
    if method == "importance":
        num_samples = 5000 if num_samples is None else num_samples
        result = evidence.importance(pair, x, num_samples, precision=precision, **options)
        effort = {"num_samples": num_samples}
    elif method == "hmc":
        num_samples = 100 if num_samples is None else num_samples
        result = evidence.hmc(pair, x, num_samples, num_chains, num_steps, **options)
        effort = {"num_samples": num_samples, "num_chains": num_chains, "num_warmup": num_steps}
    else:
        function = evidence.ais if method == "ais" else evidence.bdmc
        result = function(pair, x, num_chains, num_steps, schedule=schedule, **options)
        effort = {"num_chains": num_chains, "num_steps": num_steps, "schedule": schedule}
    entry = {
        "method": method,
        "split": "simulated" if method == "bdmc" else split,
        "data": len(held),
        **effort,
        **weights,
        "seed": seed,
        "precision": precision if method == "importance" else "float32",
        "nll": result.nll,
        "nll_standard_error": result.nll_standard_error,
        **_bits(pair, x, result.nll),
        **_diagnostics(method, result),
        "seconds": time.perf_counter() - started,
    }
    usage = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if len(latent_names(pair, *x)) > 1:
            usage = levels(pair, chunks(*x))
            entry["levels"] = usage.as_rows()
    path = out / EVALUATION
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    checkpoint.write_text(path, json.dumps([*entries, entry], indent=2) + "\n")
    print(_said(entry))
    if usage is not None:
        print(usage)
    print(f"stored: {path}")


_FEW = 100  # data for which chains are run where nothing else is asked for


def _bits(pair: nn.Module, batch: Sequence[torch.Tensor], nll: float) -> dict[str, float]:
    """Bits per dimension, where the likelihood is one of quantized data."""
    with torch.no_grad(), torch.random.fork_rng():
        model_trace, _ = run_pair(pair, *(tensor[:2] for tensor in batch))
    for site in observed_sites(model_trace).values():
        if hasattr(support_of(site["fn"]), "num_levels"):
            return {"bits_per_dim": bits_per_dim(-nll, batch[0].shape[1:])}
    return {}


def _diagnostics(method: str, result: Any) -> dict[str, float]:
    """What tells whether an estimate can be trusted, over the data."""
    if method == "importance":
        return {
            "effective_sample_size_median": result.effective_sample_size.median().item(),
            "k_hat_median": result.k_hat.median().item(),
            "k_hat_above_0.7": (result.k_hat > 0.7).double().mean().item(),
        }
    found = {"standard_error_median": result.standard_error.median().item()}
    if method == "bdmc":
        acceptance = result.forward.acceptance
        for side, error in (("lower", result.standard_error), ("upper", result.upper_standard_error)):
            found[side] = getattr(result, side).double().mean().item()
            found[f"{side}_standard_error"] = error.double().square().sum().sqrt().item() / len(error)
    else:
        acceptance = result.acceptance
    if method == "hmc":
        found["r_hat_largest"] = result.r_hat.max().item()
    return {**found, "acceptance_mean": acceptance.mean().item()}


def _said(entry: dict[str, Any]) -> str:
    """The line for an entry of the evaluation file."""
    over = f"{entry['data']:,} data, " + {
        "importance": "{num_samples:,} samples each",
        "hmc": "{num_chains} chains of {num_samples:,} draws, twice",
        "ais": "{num_chains} chains of {num_steps:,} steps",
        "bdmc": "{num_chains} chains of {num_steps:,} steps",
    }[entry["method"]].format(**entry)
    if "weights" in entry:
        over += {
            "posterior_predictive": ", weights drawn from their posterior for each sample",
            "sample": ", weights of one draw from their posterior",
        }[entry["weights"]]
    if "bits_per_dim" in entry:
        over = f"{entry['bits_per_dim']:.3f} bits per dimension; {over}"
    if entry["method"] == "importance":
        trust = (
            f"median effective sample size {entry['effective_sample_size_median']:.1f}, "
            f"k-hat above 0.7 for {entry['k_hat_above_0.7']:.0%}"
        )
    else:
        trust = (
            f"median standard error of a datum {entry['standard_error_median']:.3f}, "
            f"acceptance {entry['acceptance_mean']:.2f}"
        )
    if entry["method"] == "bdmc":
        lower, upper = (
            f"{entry[side]:.3f} (standard error {entry[f'{side}_standard_error']:.3f})" for side in ("lower", "upper")
        )
        return (
            f"data drawn from the model: mean log p(x) from below {lower}, from above {upper} nats "
            f"({over}, {trust}, {entry['seconds']:.0f} s)"
        )
    return (
        f"{entry['split']} NLL {entry['nll']:.3f} nats (standard error over the data "
        f"{entry['nll_standard_error']:.3f}; {over}, {trust}, {entry['seconds']:.0f} s)"
    )


def _run_parser(
    name: str, function: Callable[..., Any], skip: set[str | int] | None = None, trained: bool = False
) -> ArgumentParser:
    """The options of a function; with ``trained`` the folder of a run before them."""
    about = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    parser = _Parser(prog=f"pyro-vae {name}", description=_plain(about))  # before lines are filled
    if trained:
        parser.add_argument("run", type=str, help="folder of the run")
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skip)
    return parser


def evaluate(arguments: Sequence[str]) -> None:
    """log p(x) of a run."""
    parser = _run_parser("evaluate", _score)
    _score(**vars(parser.parse_args(list(arguments))))


def _plot(run: str) -> None:
    """Draws the figures of a run again.

    Args:
        run: folder of the run
    """
    pair, data, out = open_run(run)
    _draw(out, pair, data)


def plot(arguments: Sequence[str]) -> None:
    """The figures of a run."""
    parser = _run_parser("plot", _plot)
    _plot(**vars(parser.parse_args(list(arguments))))


def apply(arguments: Sequence[str]) -> None:
    """An application, or the list of them."""
    names = applications.names()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: pyro-vae apply NAME [options]\n\n{_listing(names)}\n\n{_APPLY_HELP}")
        return
    name, *rest = arguments
    if name not in names:
        raise ValueError(f"there is no application {name!r}{_nearest(name, names)}. Applications: {', '.join(names)}.")
    function = applications.function(name)
    trained = _takes_a_run(function)
    parser = _run_parser(f"apply {name}", function, skip={"pair", "data"} if trained else set(), trained=trained)
    options = vars(_instantiate(parser, parser.parse_args(rest)))
    if trained:
        pair, data, folder = open_run(options.pop("run"))
        out = options["out"] = options["out"] or str(folder)
        function(pair, data, **options)
    else:
        out = options["out"] = options["out"] or _free_folder(Path("runs"), name)
        function(**options)
    print(f"written: {out}")


_APPLY_HELP = """\
`pyro-vae apply NAME --help` tells the options of an application. RUN is the folder of a run of pyro-vae train, which
gets the results where no --out is given; the others take data, train themselves, and make a folder runs/NAME-1."""


def _takes_a_run(function: Callable[..., Any]) -> bool:
    return list(inspect.signature(function).parameters)[:2] == ["pair", "data"]


def _listing(names: Sequence[str]) -> str:
    """One line for each application."""
    functions = {name: applications.function(name) for name in names}
    heads = {name: f"{name} RUN" if _takes_a_run(function) else name for name, function in functions.items()}
    width = max(map(len, heads.values()), default=0)
    lines = [f"  {heads[name].ljust(width)}  {_first_line(function)}" for name, function in functions.items()]
    return "\n".join(["applications:", *lines])


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def _facts(width: int | None = None) -> None:
    """A table of the estimators: what the value bounds, what the gradient is unbiased for, sites, cost, source.

    Args:
        width: of the table in characters, by default that of the terminal
    """
    print(facts_table(ESTIMATORS, shutil.get_terminal_size((120, 24)).columns if width is None else width))
    print(
        "K, L, M: numbers of samples. Use one by its name: pyro-vae train --estimator pyro_vae.IWAE "
        "--estimator.num_particles 5"
    )


def estimators(arguments: Sequence[str]) -> None:
    """The table of facts."""
    parser = _run_parser("estimators", _facts)
    _facts(**vars(parser.parse_args(list(arguments))))
