"""The folder of a run: its configuration, and the trained pair, the data and the results that belong to it."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn

from pyro_vae.data import Data, load
from pyro_vae.pair import run as run_pair
from pyro_vae.pair.protocols import TrainedPair
from pyro_vae.training import CLI_DEFAULTS, Schedule, checkpoint, fit

CONFIG, EVALUATION = "config.yaml", "evaluation.json"
DEFAULT_MODEL = "pyro_vae.models.MLPVAE"
DATA_OPTIONS = ("root", "binarization", "split", "valid_size", "test_size", "image_size", "channels", "download")
FIT_OPTIONS = [name for name in inspect.signature(fit).parameters if name not in ("pair", "data", "callbacks")]


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence that names what may have been meant."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(close)}" if close else ""


def import_pair(name: str) -> type:
    """The class of a pair, by its dotted name, or by the name alone where it is one of ``pyro_vae.models``.

    Raises:
        ValueError: if there is none.
    """
    module_name, _, class_name = name.rpartition(".")
    module_name = module_name or "pyro_vae.models"
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
            f"{module_name} has no class {class_name!r}{nearest(class_name, pairs)}. "
            f"Its pairs: {', '.join(pairs) or 'none'}."
        )
    if not _is_pair_class(found):
        raise ValueError(f"{name} is no class with the methods model and guide, so it is no pair.")
    return found


def _is_pair_class(value: Any) -> bool:
    return isinstance(value, type) and all(callable(getattr(value, name, None)) for name in ("model", "guide"))


def configured_model(path: Path) -> str | None:
    """The name of the pair's class in a configuration file; ``None`` if it is left to the default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no configuration.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}.")
    try:
        model = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("model")
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"the configuration {path} is no YAML mapping of options to values.") from error
    return model.get("class_path") if isinstance(model, dict) else model


def add_options(parser: ArgumentParser, model: type) -> None:
    """The options of a run: of the data, of the pair, of the runs of pairs inside of it, and of ``fit``."""
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_argument(
        "--data", type=str, default="digits", help="name of a data set, or a file or folder of your own"
    )
    parser.add_function_arguments(load, skip={"name_or_path", "seed"})
    parameters, trained = inspect.signature(model).parameters, trained_pairs(model)
    answered = {name: answer for name, answer in _ANSWERS.items() if name in parameters}
    parser.add_subclass_arguments(
        model,
        "model",
        default={"class_path": f"{model.__module__}.{model.__qualname__}"},
        help="the pair, and its arguments" + (f" ({' and '.join(answered)} from the data)" if answered else ""),
    )
    targets = {f"model.init_args.{name}": answer for name, answer in answered.items()}
    if "pair" in parameters and "pair" not in trained:  # and a pair inside, if it has such an argument
        targets |= {f"model.init_args.pair.init_args.{name}": answer for name, answer in _ANSWERS.items()}
    for target, answer in targets.items():
        parser.link_arguments(("data", *DATA_OPTIONS), target, compute_fn=answer, apply_on="parse")
    parser.add_function_arguments(fit, skip={"pair", "data", "callbacks"}, fail_untyped=False)
    for name in trained:
        if name in ("config", "data", "model", *DATA_OPTIONS, *FIT_OPTIONS):
            raise ValueError(
                f"{model.__name__} takes a trained pair as its argument {name!r}, but --{name} is another option. "
                "Call the argument otherwise."
            )
        parser.add_argument(f"--{name}", type=str, default="", help="folder of the run that trained this pair")
        compute = functools.partial(_trained_pair, model.__name__, name)
        parser.link_arguments(name, f"model.init_args.{name}", compute_fn=compute, apply_on="parse")
    defaults = {name: _as_option(value) for name, value in CLI_DEFAULTS.items()}
    parser.set_defaults({"binarization": "dynamic", **defaults})


def trained_pairs(model: type) -> list[str]:
    """The arguments of a class that are a :data:`~pyro_vae.pair.protocols.TrainedPair`."""
    init: Any = inspect.getattr_static(model, "__init__")
    try:
        hints = get_type_hints(init, include_extras=True)
    except NameError:  # a name that only a type checker imports
        hints = inspect.get_annotations(init)
    return [name for name, hint in hints.items() if hint is TrainedPair or str(hint).split(".")[-1] == "TrainedPair"]


def _as_option(value: Any) -> Any:
    """A value as the parser writes it: classes by their dotted names."""
    if not isinstance(value, (functools.partial, Schedule)):
        return value
    kind, options = (value.func, value.keywords) if isinstance(value, functools.partial) else (type(value), vars(value))
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": dict(options)}


@functools.lru_cache(maxsize=1)
def _load(name: str, *options: Any) -> Data:
    return load(name, **dict(zip(DATA_OPTIONS, options, strict=True)))


def data_of(config: Namespace) -> Data:
    """The data of a configuration; those that were asked for last are kept."""
    return _load(config.data, *(config[option] for option in DATA_OPTIONS))


def _answer(question: Callable[[Any], Any], otherwise: Any, name: str, *options: Any) -> Any:
    try:
        return question(_load(name, *options))
    except (ValueError, TypeError, OSError):
        return otherwise  # the parser would bury the reason: the data are loaded once more, and tell it themselves


_ANSWERS = {  # arguments of a pair that the data answer
    "event_shape": functools.partial(_answer, lambda data: tuple(data.event_shape), (1,)),
    "mean": functools.partial(_answer, lambda data: data.train.mean(), torch.zeros(1)),
}


def _trained_pair(model: str, argument: str, run: str) -> nn.Module:
    if not run:
        raise ValueError(f"{model} needs a trained pair: --{argument} FOLDER, a run that pyro-vae train has written.")
    return open_run(run)[0]


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """The configuration with objects in the place of class names and arguments."""
    return parser.instantiate(config) if hasattr(parser, "instantiate") else parser.instantiate_classes(config)


def build(parser: ArgumentParser, config: Namespace) -> tuple[nn.Module, Data, dict[str, Any]]:
    """The pair, the data and the arguments of ``fit`` of a configuration."""
    data = data_of(config)
    torch.manual_seed(config.seed)  # of the initial weights
    built = instantiate(parser, config)
    return built.model, data, {name: built[name] for name in FIT_OPTIONS}


def open_run(run: str) -> tuple[nn.Module, Data, Path]:
    """The trained pair, the data and the path of a run folder.

    Raises:
        ValueError: if ``run`` is no folder that ``pyro-vae train`` has written.
    """
    out = Path(run)
    if not (out / CONFIG).is_file():
        raise ValueError(f"{run} is no run folder: it has no {CONFIG}. Give a folder that pyro-vae train has written.")
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, import_pair(configured_model(out / CONFIG) or DEFAULT_MODEL))
    try:
        config = parser.parse_args(["--config", str(out / CONFIG)])
    except ArgumentError as error:
        raise ValueError(f"the configuration {out / CONFIG} cannot be read: {error}") from error
    pair, data, _ = build(parser, config)
    tensors, _ = checkpoint.load(out / "checkpoint")
    batch = next(iter(data.train.batches(2)))
    with torch.random.fork_rng():
        run_pair(pair, *batch)  # parameters that a program makes when it first runs
    checkpoint.load_weights(pair, tensors)
    return pair.eval(), data, out


def free_folder(parent: Path, stem: str) -> str:
    """``parent/stem-1``, or with the first number that is not taken."""
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return str(parent / f"{stem}-{number}")


def store_evaluation(out: Path, entry: Mapping[str, Any]) -> Path:
    """Adds an entry to the evaluation file of a run."""
    path = out / EVALUATION
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    checkpoint.write_text(path, json.dumps([*entries, entry], indent=2) + "\n")
    return path
