"""pyro-vae train, and plot: a run folder and its figures."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from torch import nn

from pyro_vae import choices, figures, runs
from pyro_vae._checks import counted
from pyro_vae._files import holding, write_text
from pyro_vae.check import check
from pyro_vae.cli.functions import TRUST
from pyro_vae.data import Data
from pyro_vae.data.prepared import Standardized
from pyro_vae.diagnostics import has_prior, observed_site
from pyro_vae.diagnostics.latents import shared_latents
from pyro_vae.pair import run as pair_run
from pyro_vae.pair.arguments import arguments
from pyro_vae.pair.protocols import HasPosteriorPredictive
from pyro_vae.pair.running import reading
from pyro_vae.ranks import Ranks
from pyro_vae.runs.terminal import Parser, given, plain
from pyro_vae.training import CLI_DEFAULTS, checkpoint
from pyro_vae.training.fit import trained
from pyro_vae.training.records import METRICS, read_metrics
from pyro_vae.training.run import told
from pyro_vae.training.settings import Settings


def train(arguments: Sequence[str]) -> None:
    """Fits a pair to data; writes configuration, metrics, checkpoints and figures."""
    about = (
        "Fits a pair to data and writes a run folder. What is not given of likelihood, binarization and scales follows "
        "the data, and is printed."
    )
    parser, trust = Parser(prog="pyro-vae train", description=about), dict(given(arguments)).get("--trust") == "true"
    words = [*_saved(arguments), *arguments]
    runs.add_options(parser, _model(words, trust), lambda run: runs.load(run, trust=trust).pair)
    parser.add_argument("--trust", **TRUST)
    config, chosen = choices.chosen(parser, words)
    if config.out is None or _is_of_file(config, dict(given(arguments))):
        ranks = Ranks()
        config.out = ranks.share(runs.free_folder(Path("runs"), Path(config.data).stem) if ranks.first else None)
    out = Path(config.out)
    _check_ours(out, config)
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
        f"{told(last)} after {counted(last['epoch'], 'epoch')}, {last['seconds']:.0f} s of training "
        f"({time.perf_counter() - started:.0f} s in all, steps {run.mode})"
    )
    if isinstance(data, Standardized):
        ours = " and ".join(
            f"{last[part] - data.mean_log_scale(part):.2f}" for part in ("train", "valid") if last[part] is not None
        )
        page.say(
            f"bounds, here and in the metrics, are of standardized columns; in the units of the data they are {ours}"
        )
    draw(out, run.pair, data, config.site)
    print(f"run: {out}")
    if _has_evidence(run.pair, *batch):
        own = "" if runs.is_known(config.model.class_path) else " --trust"
        print(f"log p(x): pyro-vae evaluate {out}{own}")


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


def _check_ours(out: Path, config: Namespace) -> None:
    """Refuses a folder whose configuration would be written over, and is none that a run has begun with."""
    path = out / runs.CONFIG
    if not os.path.lexists(path) or checkpoint.exists(out / "checkpoint") or os.path.isfile(out / METRICS):
        return
    try:
        written = runs.configured(path)
    except (OSError, ValueError):
        written = {}
    if not {*vars(config)} - {"config", "trust"} <= {*written}:  # a run's has every option
        raise ValueError(
            f"{path} is none that a run has written, and would be written over. Choose another folder by --out, or "
            "move the file away."
        )


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


def draw(out: Path, pair: nn.Module, data: Data, site: str | None) -> None:
    paths = figures.draw(out / "figures", pair, data, {out.name: read_metrics(out)}, site=site)
    print(f"figures: {out / 'figures'} ({', '.join(path.stem for path in paths)})")


def plot(run: str, site: str | None = None, trust: bool = False) -> None:
    """Draws the figures of a run again.

    Args:
        run: folder of the run
        site: which of the sites that the model observes is shown; by default as in training
        trust: as for evaluate
    """
    opened, data = runs.load(run, trust=trust), runs.load_data(run, trust)
    draw(Path(run), opened.pair, data, site or opened.configuration.get("site"))
