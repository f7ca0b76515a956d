"""The options of a run, and the pair, the data and the arguments of ``fit`` that they make."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor, nn

from pyro_vae._checks import whole
from pyro_vae.data import Binarization, Data, load, prepared
from pyro_vae.data.arrays import extremes
from pyro_vae.data.draws import gray
from pyro_vae.networks.dense import Centered
from pyro_vae.pair import as_pair
from pyro_vae.pair.protocols import TrainedPair
from pyro_vae.runs.trust import Untrusted, check_named, configured, is_known
from pyro_vae.training import CLI_DEFAULTS, Schedule, fit

CONFIG, EVALUATION, PAGE = "config.yaml", "evaluation.json", "run.md"
DEFAULT_MODEL = "pyro_vae.models.MLPVAE"
_OF_FILES = (
    "valid_size",
    "test_size",
    "image_size",
    "channels",
    "covariates",
    "weights",
    "labels",
    "missing",
    "quadrants",
    "in_memory",
)
LOADED = ("root", "split", *_OF_FILES, "download")
PREPARED = (*LOADED, "binarization", "standardize", "with_labels", "with_mask")
DATA_OPTIONS = (*PREPARED, "log_inputs")
FIT_OPTIONS = [name for name in inspect.signature(fit).parameters if name not in ("pair", "data", "callbacks")]


class Shapes(NamedTuple):
    """What a run tells of its data: the shape of a datum, and Data.condition_shape."""

    event_shape: Sequence[int]
    condition_shape: int | tuple[int, ...] | None = None


def close(name: str, names: Iterable[str]) -> list[str]:
    """What may have been meant by a name, the nearest first.

    >>> from pyro_vae.runs.options import close
    >>> close("minst", ["mnist", "frey"])
    ['mnist']
    """
    by_lower, word = {known.lower(): known for known in names}, name.lower()
    longer = [known for known in by_lower if known.startswith(word)]
    found = dict.fromkeys([*longer, *difflib.get_close_matches(word, by_lower, n=3, cutoff=0.5)])
    return [by_lower[known] for known in list(found)[:3]]


def nearest(name: str, names: Iterable[str], before: str = "") -> str:
    """The end of a sentence that names what may have been meant.

    >>> from pyro_vae import runs
    >>> runs.nearest("minst", ["mnist", "frey"])
    '; the nearest are mnist'
    """
    found = close(name, names)
    return f"; the nearest are {', '.join(before + known for known in found)}" if found else ""


def import_pair(name: str) -> type:
    """The class of a pair, by its dotted name, or by the name alone where it is one of ``pyro_vae.models``.

    Raises:
        ValueError: if there is none.

    >>> from pyro_vae import runs
    >>> runs.import_pair("ConvVAE")
    <class 'pyro_vae.models.conv_vae.ConvVAE'>
    """
    module_name, _, class_name = _full(name).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # also of what the file does
        raise ValueError(
            f"the module {module_name!r} of --model {name} cannot be imported "
            f"({'it is a path' if '/' in name else import_failure(error)}). "
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
        raise ValueError(
            f"{name} is no class with the methods model and guide, so it is no pair. Of two programs, functions or "
            f"modules, {module_name} makes one by: class MyPair(pyro_vae.Pair): def __init__(self): "
            "super().__init__(model, guide)."
        )
    return found


def import_failure(error: Exception) -> str:
    """An error of a file, and its line."""
    if isinstance(error, ImportError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) or "importlib" in last.filename else f", {last.filename}:{last.lineno}"
    return f"{type(error).__name__}: {error}{place}"


def _is_pair_class(value: Any) -> bool:
    """Whether a class has the two methods, or its ``__init__`` sets what is called so."""
    if not isinstance(value, type):
        return False
    makers = [code for kind in value.__mro__ if (code := getattr(vars(kind).get("__init__"), "__code__", None))]
    set_later = {name for code in makers for name in code.co_names}
    return all(callable(getattr(value, name, None)) or name in set_later for name in ("model", "guide"))


def read(path: Path, typed: Collection[str] = (), trust: bool = False) -> tuple[dict[str, Any], type]:
    """The options of a configuration file and the class of its pair, the default one if it names none.

    Args:
        path: of the file.
        typed: names that the user has typed besides, which may stand in the file.
        trust: whether the file may name anything.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no configuration, or names what is not taken from a file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pyro_vae import runs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "config.yaml")
    ...     written = path.write_text("model: pyro_vae.models.ConvVAE")
    ...     options, kind = runs.read(path)
    >>> kind.__name__
    'ConvVAE'
    """
    options = configured(path)
    model = options.get("model", DEFAULT_MODEL)
    name = model.get("class_path") if isinstance(model, dict) else model
    if not isinstance(name, str) or not name:
        raise ValueError(f"the configuration {path} has a model that is no name of a class: {name!r}.")
    if not (trust or name in typed or is_known(_full(name))):
        raise Untrusted(path, name, "model")
    try:
        found = import_pair(name)
    except ValueError as error:
        raise ValueError(f"the configuration {path}: {error}") from error
    if not trust:
        check_named(path, options, typed, trained_pairs(found))
    return options, found


def _full(name: str) -> str:
    return name if "." in name else f"pyro_vae.models.{name}"


def add_options(
    parser: ArgumentParser,
    model: type,
    open_pair: Callable[[str], nn.Module],
    shapes: Shapes | None = None,
) -> None:
    """The options of a run: of the data, of the pair, of the runs of pairs inside of it, and of ``fit``.

    Args:
        parser: gets them.
        model: the class of the pair.
        open_pair: gives the trained pair of a run folder.
        shapes: of the data, of a run whose weights are known; without them the data are looked at.
    """
    parser.add_argument("--config", action="config", help="a YAML file with any of these options")
    parser.add_argument(
        "--data", type=str, default="digits", help="name of a data set, or a file or folder of your own"
    )
    parser.add_function_arguments(load, skip={"name_or_path", "seed", "binarization"})
    parser.add_argument(
        "--binarization",
        type=Binarization | None,
        help="none, dynamic or static; by default gray pixels are drawn anew for each batch (dynamic) where the "
        "likelihood is one of 0 and 1, and stay as they are elsewhere",
    )
    parser.add_argument(
        "--standardize",
        type=bool | None,
        help="whether the columns of x are taken less their mean and over their standard deviation, those of the "
        "training set; by default where the likelihood is left to real numbers",
    )
    parser.add_argument(
        "--log_inputs",
        type=bool | None,
        help="whether the encoder sees log(1 + x); by default where the likelihood is left to counts",
    )
    parser.add_argument(
        "--with_labels",
        type=bool | None,
        help="whether model and guide are given the labels of the data as their second argument; by default where "
        "they do not run without one that is called y, c, label, target or class",
    )
    parser.add_argument(
        "--with_mask",
        type=bool | None,
        help="whether the last argument of model and guide is a mask of x, true where it is observed, and x 0 where it "
        "is missing; by default where they have an argument that is called mask and some of x is missing (empty cells, "
        "NaN), which is then allowed, or do not run without it",
    )
    parser.add_argument(
        "--site",
        type=str | None,
        help="which of several sites that the model observes is shown in the figures; by default that of the name of "
        "the first argument, or else the only one of its shape",
    )
    parameters, trained = inspect.signature(model).parameters, trained_pairs(model)
    answers = _ANSWERS if shapes is None else _known_answers(shapes)
    answered = {name: answer for name, answer in answers.items() if name in parameters}
    parser.add_subclass_arguments(
        model,
        "model",
        default={"class_path": f"{model.__module__}.{model.__qualname__}"},
        help="the pair, and its arguments" + (f" ({' and '.join(answered)} from the data)" if answered else ""),
        fail_untyped=False,
    )
    targets = {f"model.init_args.{name}": answer for name, answer in answered.items()}
    if "pair" in parameters and "pair" not in trained:  # and a pair inside, if it has such an argument
        targets |= {f"model.init_args.pair.init_args.{name}": answer for name, answer in answers.items()}
    for target, answer in targets.items():
        parser.link_arguments(("data", *DATA_OPTIONS), target, compute_fn=answer, apply_on="parse")
    parser.add_function_arguments(fit, skip={"pair", "data", "callbacks"}, fail_untyped=False)
    for name in trained:
        if name in ("config", "data", "model", "site", *DATA_OPTIONS, *FIT_OPTIONS):
            raise ValueError(
                f"{model.__name__} takes a trained pair as its argument {name!r}, but --{name} is another option. "
                "Call the argument otherwise."
            )
        parser.add_argument(f"--{name}", type=str, default="", help="folder of the run that trained this pair")
        compute = functools.partial(_trained_pair, model.__name__, name, open_pair)
        parser.link_arguments(name, f"model.init_args.{name}", compute_fn=compute, apply_on="parse")
    defaults = {name: _as_option(value) for name, value in CLI_DEFAULTS.items()}
    parser.set_defaults(defaults)


def check_untyped(config: Namespace) -> None:
    """Refuses arguments of a pair without annotations that are missing, or of another kind than their default.

    Raises:
        ValueError: if there is one.
    """
    parameters = inspect.signature(import_pair(config.model.class_path)).parameters
    given = config.model.get("init_args") or {}
    for name, parameter in parameters.items():
        if parameter.annotation is not parameter.empty or name not in given:
            continue
        value, default = given[name], parameter.default
        if default is parameter.empty:
            if value is None:
                raise ValueError(f"{config.model.class_path} needs its argument {name!r}: --model.{name} VALUE.")
            continue
        kind = type(default)
        taken = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}.get(kind, kind)
        is_other = not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool)
        if kind in (bool, int, float, list, tuple) and is_other and value is not None:
            raise ValueError(
                f"--model.{name}: expected {kind.__name__}, as of its default {default!r}; got {value!r}. Annotate the "
                "argument if it may be something else."
            )


def trained_pairs(model: type) -> list[str]:
    """The arguments of a class that are a :data:`~pyro_vae.pair.protocols.TrainedPair`.

    >>> from pyro_vae import models, runs
    >>> runs.trained_pairs(models.CodePrior), runs.trained_pairs(models.MLPVAE)
    (['first'], [])
    """
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
    return load(name, **dict(zip(LOADED, options, strict=True)))


def _unmasked(name: str, *options: Any) -> Data:
    """The data with their labels and in standardized columns, NaN where they are missing."""
    *loaded, binarization, standardize, with_labels = options
    data = _load(name, *loaded)
    if with_labels:
        data = data.with_labels()
    if not standardize:
        return data
    if binarization not in (None, "none"):
        raise ValueError(f"--standardize is of real numbers, and --binarization {binarization} of pixels. Keep one.")
    return prepared.Standardized.of(data)


@functools.lru_cache(maxsize=1)
def _prepared(name: str, *options: Any) -> Data:
    """The data of :data:`PREPARED`; those that were asked for last are kept."""
    *others, with_mask = options
    *loaded, binarization, standardize, _ = others
    if standardize and loaded[LOADED.index("missing")] and not with_mask:
        raise ValueError(
            "missing values are for programs that mask them, and standardized columns for the likelihoods of the "
            "library. Fill or drop what is missing, or give --model IncompleteVAE, or one of your own with an argument "
            "mask."
        )
    data = _unmasked(name, *others)
    if with_mask:
        data = data.with_mask()
    if binarization in (None, "none"):
        return data
    return prepared.with_x(data, Tensor.detach, binarization)


def data_of(config: Namespace) -> Data:
    """The data of a configuration."""
    return _prepared(config.data, *(config[option] for option in PREPARED))


def _log1p(x: Tensor) -> Tensor:
    return gray(x).float().log1p()


def _see_logs(encoder: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook of an encoder; what a VampPrior learns to show it may go below 0."""
    return inputs[0].clamp(min=0).log1p(), *inputs[1:]


def _answer(question: Callable[[Any], Any], otherwise: Any, name: str, *options: Any) -> Any:
    try:
        *others, with_mask, log_inputs = options
        data = _unmasked(name, *others) if with_mask else _prepared(name, *others, with_mask)
        return question(prepared.with_x(data, _log1p) if log_inputs else data)
    except (ValueError, TypeError, OSError):
        return otherwise  # the parser would bury the reason: the data are loaded once more, and tell it themselves


_ANSWERS = {  # arguments of a pair that the data answer
    "event_shape": functools.partial(_answer, lambda data: tuple(data.event_shape), (1,)),
    "mean": functools.partial(_answer, lambda data: data.train.mean(), torch.zeros(1)),
    "condition_shape": functools.partial(_answer, lambda data: data.condition_shape or (), ()),
    "condition_mean": functools.partial(_answer, lambda data: data.condition_mean, None),
    "condition_scale": functools.partial(_answer, lambda data: data.condition_scale, None),
}


def _known_answers(shapes: Shapes) -> dict[str, Callable[..., Any]]:
    """Those of data of known shapes; their means stand in the weights."""
    event, condition = tuple(shapes.event_shape), shapes.condition_shape
    mean = torch.zeros(condition) if isinstance(condition, tuple) and condition else None
    scale = None if mean is None else torch.ones_like(mean)
    return {
        "event_shape": lambda *_: event,
        "mean": lambda *_: torch.zeros(event),
        "condition_shape": lambda *_: condition or (),
        "condition_mean": lambda *_: mean,
        "condition_scale": lambda *_: scale,
    }


def _trained_pair(model: str, argument: str, open_pair: Callable[[str], nn.Module], run: str) -> nn.Module:
    if not run:
        raise ValueError(f"{model} needs a trained pair: --{argument} FOLDER, a run that pyro-vae train has written.")
    return open_pair(run)


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """The configuration with objects in the place of class names and arguments."""
    try:
        return parser.instantiate(config) if hasattr(parser, "instantiate") else parser.instantiate_classes(config)
    except (ValueError, TypeError, OSError):
        raise
    except Exception as error:  # of a class of the user's own
        raise ValueError(f"a class that was named cannot be made: {import_failure(error)}.") from error


def written(parser: ArgumentParser, config: Namespace) -> str:
    """A configuration as a file holds it: every option, also what is ``None`` and would be something else if left out.

    Read again it is the same.
    """
    return parser.dump(config, skip_unset=False)


def build(parser: ArgumentParser, config: Namespace) -> tuple[nn.Module, Data, dict[str, Any]]:
    """The pair, the data and the arguments of ``fit`` of a configuration."""
    data = data_of(config)
    if config.log_inputs and extremes(data.train.tensors[0])[0] < 0:  # type: ignore[union-attr]  # no stream, see above
        raise ValueError(f"--log-inputs is of counts, and {data.name!r} holds negative numbers. Leave it out.")
    built = build_pair(parser, config, data.event_shape)
    return built.model, data, {name: built[name] for name in FIT_OPTIONS}


def build_pair(parser: ArgumentParser, config: Namespace, event_shape: Sequence[int]) -> Namespace:
    """The configuration with objects in the place of class names and arguments; its ``model`` is the pair."""
    whole(0, seed=config.seed)
    torch.manual_seed(config.seed)  # of the initial weights
    built = instantiate(parser, config)
    if config.log_inputs:
        encoders = [part for part in built.model.modules() if isinstance(part, Centered)]
        encoders = [part for part in encoders if tuple(part.mean.shape) == tuple(event_shape)]
        for encoder in encoders:
            encoder.register_forward_pre_hook(_see_logs)
        if not encoders:
            raise ValueError(
                f"--log-inputs is of pairs that take the mean of the data; {config.model.class_path} has none."
            )
    built.model = as_pair(built.model)
    return built
