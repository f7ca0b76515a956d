"""The command line: pyro-vae train | evaluate | plot | apply | estimators. ``python -m pyro_vae`` is the same."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from torch import nn
from tqdm import tqdm

from pyro_vae import applications, choices, evidence, figures, runs
from pyro_vae._checks import whole
from pyro_vae._files import holding, write_text
from pyro_vae.check import check
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, Split
from pyro_vae.data.prepared import Standardized
from pyro_vae.diagnostics import chunks, has_prior, latent_names, levels, observed_site
from pyro_vae.diagnostics.latents import shared_latents
from pyro_vae.estimators import ESTIMATORS, facts_table
from pyro_vae.evidence.ais import AnnealingSchedule
from pyro_vae.pair import run as pair_run
from pyro_vae.pair.arguments import arguments
from pyro_vae.pair.protocols import HasPosteriorPredictive, SamplesWeights
from pyro_vae.pair.running import reading
from pyro_vae.ranks import Ranks, group
from pyro_vae.runs.terminal import Parser, as_typed, given, placed, plain, sentence, spelled
from pyro_vae.sampling.joint import Start
from pyro_vae.training import CLI_DEFAULTS, checkpoint
from pyro_vae.training.fit import trained
from pyro_vae.training.records import read_metrics
from pyro_vae.training.run import told
from pyro_vae.training.settings import Settings

_USAGE = """\
usage: pyro-vae COMMAND [options]

Variational autoencoders as Pyro programs.

commands:
  train       fit a pair to data and write a run folder
  evaluate    log p(x) of a run: importance sampling, annealed importance sampling, BDMC, HMC
  plot        draw the figures of a run again
  apply       what pairs are good for, beside baselines
  estimators  what is known of each estimator

`pyro-vae COMMAND --help` tells the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status (0, or 2 after an error that is the user's to mend)."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as of head, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0


def _main(arguments: Sequence[str] | None) -> int:
    arguments = spelled(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "train": train,
        "evaluate": functools.partial(_run, evaluate),
        "plot": functools.partial(_run, plot),
        "apply": apply,
        "estimators": functools.partial(_run, estimators),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in commands:
        return _fail(f"there is no command {name!r}{runs.nearest(name, commands)}. Commands: {', '.join(commands)}.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that --model my_file.MyPair finds a file beside the user
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _once()
            with group() as ranks:
                if not ranks.first:  # which says what all would say
                    warnings.simplefilter("ignore")
                if not ranks.alone and name not in ("train", "evaluate"):
                    return _fail(f"{name} runs in one process; {ranks.count} were started. Leave torchrun out.")
                if not ranks.alone and ranks.first:
                    print(f"{ranks.count} ranks take part, each with its share of every batch", flush=True)
                commands[name](rest)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename and len(str(error.filename)) < 300 else ""
        return _fail(f"{place}{error.strerror}. Give another path." if error.strerror else str(error))
    except (ValueError, TypeError, FloatingPointError) as error:
        return _fail(placed(sentence(str(error)), rest))
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", status=130)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        return _fail(end.code, status=143)  # terminated
    return 0


def _fail(message: str, status: int = 2) -> int:
    print(f"pyro-vae: error: {as_typed(message)}", file=sys.stderr)
    return status


def _once() -> Callable[..., None]:
    """Shows a warning as one line, above a progress bar where there is one, and no line twice."""
    said = set()

    def show(message: Warning | str, *where: Any, **options: Any) -> None:
        line = f"pyro-vae: warning: {as_typed(' '.join(str(message).split()))}"
        if line not in said:
            said.add(line)
            tqdm.write(line, file=sys.stderr)

    return show


# The commands


def train(arguments: Sequence[str]) -> None:
    """Fits a pair to data; writes configuration, metrics, checkpoints and figures."""
    about = (
        "Fits a pair to data and writes a run folder. What is not given of likelihood, binarization and scales follows "
        "the data, and is printed."
    )
    parser, trust = Parser(prog="pyro-vae train", description=about), dict(given(arguments)).get("--trust") == "true"
    words = [*_saved(arguments), *arguments]
    runs.add_options(parser, _model(words, trust), lambda run: runs.load(run, trust=trust).pair)
    parser.add_argument("--trust", **_TRUST)
    config, chosen = choices.chosen(parser, words)
    if config.out is None or _is_of_file(config, dict(given(arguments))):
        ranks = Ranks()
        config.out = ranks.share(runs.free_folder(Path("runs"), Path(config.data).stem) if ranks.first else None)
    out = Path(config.out)
    with runs.Page(out, plain(shlex.join(["pyro-vae", "train", *arguments]))) as page:
        _train(parser, config, chosen, page)


def _train(parser: Parser, config: Namespace, chosen: Sequence[str], page: runs.Page) -> None:
    out = page.out
    size = runs.data_of(config).train.num_data
    if size is not None and size < config.batch_size == CLI_DEFAULTS["batch_size"]:
        config.batch_size = size  # the default is for larger sets; a size that the user gave is refused by fit
    pair, _, options = runs.build(parser, config)
    data, more = choices.data_for(pair, config)
    page.say(*[data.describe(), *chosen, *more])
    batch = next(iter(data.train.batches(min(config.batch_size, 100))))
    page.say(str(check(pair, *batch, estimator=options["estimator"])))
    if config.site is not None:
        observed_site(pair, *batch, site=config.site)  # which is refused now rather than after training
    settings = Settings(**{**options, "out": out, "callbacks": ()})
    started = time.perf_counter()
    first = Ranks().first
    with holding(out if first else None):
        if first and not checkpoint.exists(out / "checkpoint"):
            saved = config.clone()
            saved.pop("config", None)
            saved.pop("trust")
            saved.resume = False
            write_text(out / runs.CONFIG, runs.written(parser, saved))
        run = trained(pair, data, settings)
    if not first:
        return
    last = run.history[-1]
    page.say(
        f"{told(last)} after {last['epoch']} epochs, {last['seconds']:.0f} s of training "
        f"({time.perf_counter() - started:.0f} s in all, steps {run.mode})"
    )
    if isinstance(data, Standardized):
        ours = " and ".join(
            f"{last[part] - data.mean_log_scale(part):.2f}" for part in ("train", "valid") if last[part] is not None
        )
        page.say(
            f"bounds, here and in the metrics, are of standardized columns; in the units of the data they are {ours}"
        )
    _draw(out, run.pair, data, config.site)
    print(f"run: {out}")
    if _has_evidence(run.pair, *batch):
        own = "" if runs.is_known(config.model.class_path) else " --trust"
        print(f"log p(x): pyro-vae evaluate {out}{own}")


_TRUST: dict[str, Any] = {
    "type": bool,
    "default": False,
    "help": "import and call what a configuration file or a run folder names, whatever it is, and download its data: "
    "it is run, so know who wrote it",
}


def _saved(arguments: Sequence[str]) -> list[str]:
    """The configuration of a run that goes on: what is not given is as it was when it began."""
    typed = dict(given(arguments))
    path = Path(typed.get("--out", "")) / runs.CONFIG
    goes_on = typed.get("--resume", "").lower() == "true" and "--out" in typed and path.is_file()
    return ["--config", str(path)] if goes_on and "--config" not in typed else []


def _is_of_file(config: Namespace, typed: Mapping[str, str]) -> bool:
    """Whether ``out`` is the folder of the run whose file --config gives, which is to be had the same again."""
    own = "--config" in typed and "--out" not in typed and not config.resume
    return own and Path(typed["--config"]).resolve() == (Path(config.out) / runs.CONFIG).resolve()


def _model(arguments: Sequence[str], trust: bool) -> type:
    """The class named by --model or, behind that, by the file of --config, which is read and may be refused."""
    model: str | type = runs.DEFAULT_MODEL
    of_file: str | type = ""
    typed = {value for _, value in given(arguments)}
    for option, value in given(arguments):
        if option == "--config" and value:
            model = runs.read(Path(value), typed, trust)[1]
        elif option in ("--model", "--model.class_path", "--model.help") and value and not value.startswith("-"):
            of_file, model = model, _class_of(value)
    found = runs.import_pair(model) if isinstance(model, str) else model
    if isinstance(of_file, type) and not issubclass(of_file, found):
        raise ValueError(
            f"the configuration is that of a {of_file.__name__}, whose arguments are none of the {found.__name__} that "
            "--model asks for. Leave --model out, or leave model: out of a copy of the file."
        )
    return found


def _class_of(value: str) -> str:
    """The name of a class, as it is or in a mapping {class_path: NAME, init_args: ...}."""
    if not value.startswith("{"):
        return value
    try:
        held = yaml.safe_load(value)
    except yaml.YAMLError:
        held = None
    name = held.get("class_path", runs.DEFAULT_MODEL) if isinstance(held, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"--model has to be NAME, or {{class_path: NAME, init_args: {{...}}}}; got {value}.")
    return name


def _has_evidence(pair: nn.Module, *batch: Any) -> bool:
    """Whether there is a log p(x) of each datum to be estimated."""
    try:
        with reading(pair, seed=0):
            shared = shared_latents(pair_run(pair, *arguments(pair, *batch, any_data=True)).model_trace)
        return has_prior(pair, *batch) and (not shared or isinstance(pair, HasPosteriorPredictive))
    except Exception:  # of a program that does not run on one datum; evaluate says it better
        return True


def _draw(out: Path, pair: nn.Module, data: Data, site: str | None) -> None:
    paths = figures.draw(out / "figures", pair, data, {out.name: read_metrics(out)}, site=site)
    print(f"figures: {out / 'figures'} ({', '.join(path.stem for path in paths)})")


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
    with torch.random.fork_rng():
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


def plot(run: str, site: str | None = None, trust: bool = False) -> None:
    """Draws the figures of a run again.

    Args:
        run: folder of the run
        site: which of the sites that the model observes is shown; by default as in training
        trust: as for evaluate
    """
    opened, data = runs.load(run, trust=trust), runs.load_data(run, trust)
    _draw(Path(run), opened.pair, data, site or opened.configuration.get("site"))


def estimators(width: int | None = None) -> None:
    """A table of the estimators: what the value bounds, what the gradient is unbiased for, sites, cost, source.

    Args:
        width: of the table in characters, by default that of the terminal
    """
    if width is not None:
        whole(width=width)
    print(facts_table(ESTIMATORS, shutil.get_terminal_size((120, 24)).columns if width is None else width))
    print(
        "K, L, M: numbers of samples. Use one by its name: pyro-vae train --estimator pyro_vae.IWAE "
        "--estimator.num_particles 5"
    )


def _parser_of(name: str, function: Callable[..., Any], trained: bool = False) -> Parser:
    """The options of a function; if it takes a trained pair and its data, a run folder in the place of these."""
    about = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    parser = Parser(prog=f"pyro-vae {name}", description=plain(about))  # before lines are filled
    if trained:
        parser.add_argument("run", type=str, help="folder of the run")
        parser.add_argument("--trust", **_TRUST)
    skip: set[str | int] = {"pair", "data"} if trained else set()
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=skip)
    return parser


def _run(function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """A function as a command of its name."""
    function(**vars(_parser_of(function.__name__, function).parse_args(list(arguments))))


def apply(arguments: Sequence[str]) -> None:
    """An application, or the list of them."""
    names = applications.names()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: pyro-vae apply NAME [options]\n\n{_listing(names)}\n\n{_APPLY_HELP}")
        return
    name, *rest = arguments
    if name not in names:
        near = runs.nearest(name, names)
        raise ValueError(f"there is no application {name!r}{near}. Applications: {', '.join(names)}.")
    function = applications.function(name)
    trained = _takes_a_run(function)
    parser = _parser_of(f"apply {name}", function, trained)
    options = vars(runs.instantiate(parser, parser.parse_args(rest)))
    if trained:
        run, trust = options.pop("run"), options.pop("trust")
        pair, data = runs.load(run, trust=trust).pair, runs.load_data(run, trust)
        out = options["out"] = options["out"] or run
        function(pair, data, **options)
    else:
        out = options["out"] = options["out"] or runs.free_folder(Path("runs"), name)
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
