"""What a command line leaves to the data: likelihood, binarization and scales follow them, and are told."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist
from jsonargparse import ArgumentParser, Namespace
from torch import nn
from torch.distributions import constraints

from pyro_vae._pyro import GuidedModels, takes_anything, unvalidated
from pyro_vae.data import Data, prepared
from pyro_vae.data.arrays import has_missing
from pyro_vae.distributions.supports import bare
from pyro_vae.distributions.wrappers import family, unwrapped
from pyro_vae.likelihoods import Likelihood
from pyro_vae.pair import evaluating, observed_sites, run
from pyro_vae.pair.arguments import Arguments
from pyro_vae.pair.signatures import label_argument, mask_argument, needs_argument
from pyro_vae.pair.turns import fork_rng
from pyro_vae.runs import CONFIG, check_untyped, configured, data_of, import_pair, trained_pairs
from pyro_vae.runs.terminal import given

_KINDS = {"binary": "0 and 1", "gray": "gray pixels", "counts": "counts", "real": "real numbers"}
_LIKELIHOODS = {  # by kind, where the pair's own does not fit: the options, and how it is called
    "counts": ({"": "pyro_vae.likelihoods.NegativeBinomial"}, "NegativeBinomial"),
    "real": (
        {"": "pyro_vae.likelihoods.Normal", ".scale": "shared", ".sigmoid_mean": "false"},
        "Normal of a learned scale",
    ),
}


def chosen(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """The configuration of a command line, and in sentences what of it follows the data.

    The likelihood is chosen where none is given and the data are counts or real numbers, the columns of the latter are
    standardized, labels are passed to programs that do not run without them, and a pair that is trained on another run
    has the data of that run.
    Binarization follows the likelihood, see :func:`data_for`.
    """
    config = parser.parse_args(list(arguments))
    check_untyped(config)
    more, words = _of_first_stage(config), []
    if masked := _of_mask(config, arguments):
        more += masked
        config = parser.parse_args([*arguments, *masked])
        words.append("mask: the last argument of model and guide, true where x is observed")
    place = _place_of_likelihood(config)
    data = data_of(config)
    kind = prepared.kind_of(data.train)  # type: ignore[arg-type]  # load gives no streams
    if kind in _LIKELIHOODS and place and not _is_given(arguments, place) and config.binarization in (None, "none"):
        options, name = _LIKELIHOODS[kind]
        more += [f"--{place}{option}={value}" for option, value in options.items()]
        if kind == "real" and config.standardize is not False:
            more.append("--standardize=true")
            name += " on standardized columns"
        if kind == "counts" and config.log_inputs is None and _has_mean(config, place):
            more.append("--log_inputs=true")
            name += " and an encoder of log(1 + x)"
        words.append(f"likelihood: {name}, chosen for {_KINDS[kind]}")
    if config.with_labels is None and _needs_labels(config, data):
        more.append("--with_labels=true")
        words.append("labels: the second argument of model and guide, which are of labels")
    return (parser.parse_args([*arguments, *more]) if more else config), words


def _of_mask(config: Namespace, arguments: Sequence[str]) -> list[str]:
    """Options by which programs with an argument ``mask`` are given one, where some of x is missing, or they need it.

    Empty cells are allowed then.
    """
    kind = import_pair(config.model.class_path)
    if config.with_mask and not _is_given(arguments, "missing") and _loaded(config) is None:
        return ["--missing=true"]
    if config.with_mask is not None or not all(hasattr(kind, name) for name in ("model", "guide")):
        return []
    place = mask_argument(kind)
    if place is None:
        return []
    config, allowed = config.clone(), []
    config.standardize = None  # which asks for the mask
    found = _loaded(config)
    if found is None and not _is_given(arguments, "missing"):
        config.missing, allowed = True, ["--missing=true"]
        found = _loaded(config)
    if found is None:
        return []  # of which the reason is said by who loads them
    train: Any = found.train
    if len(train.tensors) != place - 1:  # behind self
        return []
    some = any(split is not None and has_missing(split.tensors[0]) for split in (train, found.valid, found.test))
    return [*allowed, "--with_mask=true"] if some or needs_argument(kind, place) else []


def _loaded(config: Namespace) -> Any:
    """The data of a configuration, ``None`` where they cannot be loaded."""
    try:
        return data_of(config)
    except (ValueError, TypeError, OSError):
        return None


def _needs_labels(config: Namespace, data: Data) -> bool:
    """Whether a program does not run without a second argument of labels, and the data have labels for it."""
    train: Any = data.train  # load gives no streams
    if train.labels is None or len(train.tensors) > 1:
        return False
    return label_argument(import_pair(config.model.class_path), 2) is not None  # behind self


def data_for(pair: nn.Module, config: Namespace) -> tuple[Data, list[str]]:
    """The data as the pair is to see them, and in sentences what was chosen; completes the configuration.

    Gray pixels become draws of 0 and 1 where the model observes x by a likelihood on these.

    Raises:
        ValueError: if likelihood and data, or binarization, contradict each other.
    """
    data, words = data_of(config), []
    kind = prepared.kind_of(data.train)  # type: ignore[arg-type]  # load gives no streams
    fn = _likelihood_of_x(pair, data)
    support = None if fn is None else bare(fn.support)
    if config.binarization is None:
        config.binarization = "dynamic" if support is constraints.boolean and kind == "gray" else "none"
        if config.binarization == "dynamic":
            words.append("binarization: dynamic, chosen for a likelihood of 0 and 1")
        elif kind == "gray" and fn is not None:
            words.append(f"binarization: none, chosen for the likelihood {family(fn)}")
    elif fn is not None and config.binarization != "none" and not _is_of_two(fn):
        raise ValueError(
            f"--binarization {config.binarization} makes 0 and 1 of the pixels, and {family(fn)} is no likelihood of "
            "these. Leave --binarization out, or take pyro_vae.likelihoods.Bernoulli."
        )
    if kind == "real" and config.standardize is None and _place_of_likelihood(config):
        words.append(
            "standardize: false, chosen for a likelihood that was given (--standardize true scales the columns)"
        )
    if isinstance(data, prepared.Standardized) and data.constant:
        words.append(
            f"{data.constant:,} of {data.scale.numel():,} columns do not vary in the training set: their densities are "
            "as high as the likelihood's least scale allows, leave them out"
        )
    for option in ("standardize", "log_inputs", "with_labels", "with_mask"):
        config[option] = bool(config[option])
    meant = fn is not None and takes_anything(unwrapped(fn))
    if support is not None and kind in ("real", "counts") and not (meant or isinstance(data, prepared.Standardized)):
        x, *others = _first(data)
        there = others[-1] if config.with_mask else ~x.isnan()
        # Of rows with gaps the single numbers can be looked at, and not what they are together, such as a total.
        x = x if there.all() else x[there]
        if (there.all() or not bare(support).event_dim) and not support.check(x).all():
            raise ValueError(
                f"{data.name!r} holds {_KINDS[kind]} from {x.min():.6g} to {x.max():.6g}, on which the likelihood "
                f"{family(fn)} is not defined. Leave the likelihood out, and it follows the data, or choose one of "
                "pyro_vae.likelihoods that fits."
            )
    return data_of(config), words


def _is_of_two(fn: Any) -> bool:
    """Whether a likelihood is one of 0 and 1, perhaps also asked for at values between."""
    support = bare(fn.support)
    is_binary = isinstance(unwrapped(fn), dist.Bernoulli) or support is constraints.boolean
    return is_binary or getattr(support, "num_levels", 0) == 2


def _likelihood_of_x(pair: nn.Module, data: Data) -> Any:
    """The distribution by which the model observes x, by a run of a copy; ``None`` where it cannot be told."""
    batch = _first(data)
    try:
        other, _ = copy.deepcopy((pair, GuidedModels(pair)))
        with fork_rng(), unvalidated(), evaluating(other), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = observed_sites(run(other, *Arguments(other, any_data=True)(*batch)).model_trace)
        found = next(site["fn"] for site in sites.values() if site["value"].numel() == batch[0].numel())
        return found if found.support is not None else None
    except Exception:  # whatever is wrong with a program, check says it better
        return None


def _first(data: Data) -> tuple[Any, ...]:
    """Data of which the likelihood is told, and on which it is tried: its support may follow them."""
    return next(iter(data.train.batches(1000)))


def _place_of_likelihood(config: Namespace) -> str:
    """The option that is the likelihood, of the pair or of a pair inside of it; empty where there is none."""
    for place in ("model", "model.init_args.pair"):
        kind = config.get(place)
        name = kind if isinstance(kind, str) else getattr(kind, "class_path", None)
        taken = inspect.signature(import_pair(name)).parameters.get("likelihood") if name else None
        if taken is not None and isinstance(taken.default, type) and issubclass(taken.default, Likelihood):
            return f"{place.replace('.init_args', '')}.likelihood"
    return ""


def _has_mean(config: Namespace, place: str) -> bool:
    pair = config["model" if place == "model.likelihood" else "model.init_args.pair"]
    return "mean" in inspect.signature(import_pair(pair.class_path)).parameters


def _is_given(arguments: Sequence[str], place: str) -> bool:
    """Whether an option, or one below it, is on a command line or in its configuration files."""
    import yaml

    names = set()
    for option, value in given(arguments):
        names.add(option.removeprefix("--").replace(".init_args", ""))
        if option == "--config":
            names.update(_flat(configured(Path(value))))
        elif option.startswith("--model") and value.startswith("{"):
            names.update(_flat({option.removeprefix("--").replace(".init_args", ""): yaml.safe_load(value)}))
    return any(name == place or name.startswith(f"{place}.") for name in names)


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted names of nested options, without ``init_args``."""
    for name, value in options.items():
        full = prefix if name == "init_args" else f"{prefix}.{name}".removeprefix(".")
        yield full
        if isinstance(value, dict):
            yield from _flat(value, full)


def _of_first_stage(config: Namespace) -> list[str]:
    """Options of the data that a run has which trained a pair of this one: they are its data as well.

    Raises:
        ValueError: if others are asked for.
    """
    more = []
    for name in trained_pairs(import_pair(config.model.class_path)):
        first = _saved(config[name])
        for option in ("binarization", "standardize") if first.get("data") == config.data else ():
            theirs, ours = first.get(option, False), config[option]
            if ours is None:
                more.append(f"--{option}={str(theirs).lower()}")
            elif ours != theirs:
                raise ValueError(
                    f"the pair of --{name} {config[name]} was trained with {option} {str(theirs).lower()}, and "
                    f"{str(ours).lower()} is asked for here. Leave --{option} out."
                )
    return more


def _saved(run: str | None) -> dict[str, Any]:
    """The configuration of a run folder, empty where there is none."""
    path = Path(run or "") / CONFIG
    return configured(path) if run and path.is_file() else {}
