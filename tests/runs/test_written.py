"""A configuration that is written and read again is what it was: every option, and every argument of every part."""

import collections.abc
import copy
import inspect
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch import nn
from torch.optim import lr_scheduler as rates

import pyro_vae
from pyro_vae import bayesian, likelihoods, networks, posteriors, priors, runs, transforms
from pyro_vae.estimators import ESTIMATORS
from pyro_vae.runs.options import DATA_OPTIONS, FIT_OPTIONS
from pyro_vae.runs.terminal import Parser, spelled

GAUSSIAN = {"class_path": "pyro_vae.likelihoods.Normal", "init_args": {"scale": None}}
MASKING = {"class_path": "pyro_vae.networks.Masking", "init_args": {"level": 0.3}}
SPLINE = {"class_path": "pyro_vae.transforms.SplineCoupling", "init_args": {"hidden": [3], "num_bins": 2}}
LINEAR = {"class_path": "pyro_vae.Linear", "init_args": {"start": 0.5, "end": 0.25}}
PAIR = {"class_path": "pyro_vae.models.MLPVAE", "init_args": {"decoder_hidden": None, "likelihood": GAUSSIAN}}
# Of the arguments that are made by a class: some, by their names.
MAKERS: dict[str, list[Any]] = {
    "activation": ["torch.nn.Tanh"],
    "corruption": [MASKING],
    "estimator": ["pyro_vae.IWAE", {"class_path": "pyro_vae.SGVB_A", "init_args": {"num_data": None}}],
    "gradient": ["pyro_vae.estimators.DoublyReparameterized"],
    "likelihood": [GAUSSIAN],
    "network": [{"class_path": "pyro_vae.networks.GatedMLP", "init_args": {"normalization": None}}],
    "optimizer": [{"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-05, "foreach": None}}],
    "pair": [PAIR],
    "posterior": ["pyro_vae.posteriors.FullNormal"],
    "prior": [{"class_path": "pyro_vae.priors.MixtureOfNormals", "init_args": {"num_components": 3}}],
    "scheduler": [LINEAR, {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}}],
    "schedules": [{"posterior.network.corruption.level": LINEAR}],
    "transforms": [[SPLINE, "pyro_vae.transforms.Planar"]],
    "weight_prior": [{"class_path": "pyro_vae.WeightPrior", "init_args": {"scale": None}}],
}
OF_WEIGHTS = {"prior": ["pyro_vae.bayesian.ScaleMixture"], "posterior": ["pyro_vae.bayesian.LowRank"]}
# What a pair tells its parts, and torch's schedulers and optimizers are told by fit.
BY_THE_PAIR = set(
    [
        "in_shape",
        "out_shape",
        "hidden",
        "activation",
        "network",
        "latent_dim",
        "context_dim",
        "shape",
        "loc",
        "params",
        "optimizer",
    ]
)
BY_THE_PAIR |= {"base", "encoder", "posterior", "head", "dim"}


def public(room: Any, base: type = nn.Module) -> list[type]:
    return [kind for kind in map(room.__dict__.get, room.__all__) if isinstance(kind, type) and issubclass(kind, base)]


MODELS = [
    kind for kind in public(pyro_vae.models) if not {"first", "modalities"} & {*inspect.signature(kind).parameters}
]
OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adafactor]
RATES = [rates.StepLR, rates.MultiStepLR, rates.CosineAnnealingLR, rates.ReduceLROnPlateau]
SCHEDULES = [pyro_vae.Linear, pyro_vae.Cyclical, pyro_vae.Cosine]
PARTS = {  # by their places in a configuration
    "model": MODELS,
    "estimator": list(ESTIMATORS),
    "optimizer": OPTIMIZERS,
    "scheduler": [*SCHEDULES, *RATES],
    "beta": SCHEDULES,
    "weight_prior": [pyro_vae.WeightPrior, pyro_vae.SpectralPrior],
    "model.likelihood": public(likelihoods),
    "model.prior": [k for k in public(priors) if not {"base", "posterior"} & {*inspect.signature(k).parameters}],
    "model.posterior": [
        k for k in public(posteriors) if not {"transforms", "head"} & {*inspect.signature(k).parameters}
    ],
    "model.network": [networks.MLP, networks.GatedMLP, networks.ResidualMLP],
    "model.corruption": [networks.Masking, networks.SaltAndPepper, networks.GaussianNoise],
    "model.transforms": public(transforms, transforms.Step),
    "weights.prior": [bayesian.IsotropicNormal, bayesian.ScaleMixture],
    "weights.posterior": public(bayesian, bayesian.WeightPosterior),
}


def values(name: str, hint: Any, default: Any, makers: dict[str, list[Any]]) -> Iterator[Any]:
    """Values that an argument may have, none of them its default."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for one in of:
            yield from values(name, one, default, makers)
    elif hint is type(None):
        yield None
    elif origin is Literal:
        yield from of[-2:]
    elif hint is bool:
        yield not default
    elif hint is int:
        yield 7
    elif hint is float:
        yield 1e-05
    elif hint is str:
        yield "words, with a comma"
    elif origin in (collections.abc.Sequence, list, tuple) and of[0] in (int, float, str):
        yield [{int: 3, float: 0.5, str: "likelihood.network"}[of[0]]] * 2
    elif name in makers:
        yield from makers[name]


@cache
def parser(model: type) -> Parser:
    made = Parser(prog="test", exit_on_error=False)
    runs.add_options(made, model, lambda run: nn.Identity())
    return made


@cache
def parser_of_part(place: str) -> Parser:
    """Of an argument alone, as the pair that has it annotates it."""
    room, _, name = place.rpartition(".")
    of = {"model": pyro_vae.models.MLPVAE, "weights": pyro_vae.models.FullBayes}[room] if room else pyro_vae.fit
    hint = get_type_hints(inspect.unwrap(of.__init__ if room else of))[name]
    made = Parser(prog="test", exit_on_error=False)
    made.add_argument(f"--{name}", type=hint)
    return made


def assert_same(ours: Parser, options: dict[str, Any], given: dict[str, Any]) -> None:
    """A configuration with these options is what is read of what is written, and has what is given at its places."""
    config = ours.parse_object(copy.deepcopy(options))
    text = runs.written(ours, config)
    again = ours.parse_object(yaml.safe_load(text))
    for one in (config, again):
        for place in ("model.init_args", "model.init_args.pair.init_args"):
            one.get(place, Namespace()).pop("mean", None)  # a tensor, which the data give
    assert again == config
    assert runs.written(ours, again) == text
    for place, value in given.items():
        held: Any = yaml.safe_load(text)
        for word in place.split("."):
            held = held[int(word) if word.isdigit() else word]
        assert contains(held, value), (place, value, held)


def contains(held: Any, value: Any) -> bool:
    """Whether a value was kept; a class may have got its other arguments, and another name of it."""
    if isinstance(value, str) and isinstance(held, dict):
        return contains(held["class_path"], value)
    if isinstance(value, str) and value.startswith(("pyro_vae.", "torch.")):
        return held.rpartition(".")[2] == value.rpartition(".")[2]
    if isinstance(value, dict):
        return all(contains(held[key], item) for key, item in value.items())
    if isinstance(value, list):
        return len(held) == len(value) and all(map(contains, held, value))
    return held == value and type(held) is type(value)


def arguments(kind: type) -> dict[str, list[Any]]:
    """The arguments of a class, with values for each; first ``None`` where it may be that."""
    hints = {} if kind is rates.MultiStepLR else get_type_hints(inspect.unwrap(kind.__init__))  # a name is not there
    makers = {**MAKERS, **OF_WEIGHTS} if kind is pyro_vae.models.FullBayes else MAKERS
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            found[name] = sorted(
                values(name, hints.get(name, Any), parameter.default, makers), key=lambda v: v is not None
            )
    return {name: of for name, of in found.items() if of}


NEEDED = {"num_components": 3, "milestones": [2, 5], "pair": PAIR}


@pytest.mark.parametrize(
    ("place", "kind"), [pytest.param(p, k, id=f"{p} {k.__name__}") for p, kinds in PARTS.items() for k in kinds]
)
def test_every_argument_of_a_part(place: str, kind: type) -> None:
    """All at once, each with its first value, then each with its second, until every value has been."""
    skip = (
        {"event_shape", "mean", "condition_shape", "condition_mean", "condition_scale"}
        if place == "model"
        else BY_THE_PAIR
    )
    given = {name: of for name, of in arguments(kind).items() if name not in skip}
    for turn in range(max(map(len, given.values()), default=1)):
        chosen = {name: of[turn % len(of)] for name, of in given.items()}
        needed = {name: value for name, value in NEEDED.items() if name in inspect.signature(kind).parameters}
        part = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": {**needed, **chosen}}
        if place == "model":
            ours, options, at = parser(kind), {"download": False, "model": part}, "model.init_args"
        else:
            name = place.rpartition(".")[2]
            several = name == "transforms"
            ours, options = parser_of_part(place), {name: [part] if several else part}
            at = f"{name}{'.0' if several else ''}.init_args"
        assert_same(ours, options, {f"{at}.{name}": value for name, value in chosen.items()})


def of_functions() -> dict[str, list[Any]]:
    """The options that are no part, with values for each."""
    hints = {**get_type_hints(inspect.unwrap(pyro_vae.data.load)), **get_type_hints(pyro_vae.fit)}
    hints |= dict.fromkeys(("standardize", "log_inputs", "with_labels", "with_mask"), bool | None) | {
        "site": str | None
    }
    names = (*DATA_OPTIONS, "site", *FIT_OPTIONS)
    return {name: [*values(name, hints[name], False, {**MAKERS, "beta": [LINEAR]})] for name in names}


@pytest.mark.parametrize("turn", range(4))
def test_every_option(turn: int) -> None:
    options = {name: of[turn % len(of)] for name, of in of_functions().items()}
    assert all(map(len, of_functions().values()))
    assert_same(parser(pyro_vae.models.MLPVAE), {**options, "data": "digits"}, options)


def test_what_is_null_on_the_command_line(tmp_path: Path) -> None:
    """At any depth, also as Python spells it; trained from its own configuration it is the same experiment."""
    pair = (
        "--model.pair.likelihood pyro_vae.Gaussian --model.pair.likelihood.scale null --model.pair.decoder_hidden None"
    )
    words = spelled(
        f"--model pyro_vae.models.FullBayes --model.pair MLPVAE {pair} --scheduler null --average null".split()
    )
    ours = parser(pyro_vae.models.FullBayes)
    config = ours.parse_args(words)
    path = tmp_path / "config.yaml"
    path.write_text(runs.written(ours, config))
    again = ours.parse_args(["--config", str(path)])
    for one in (config, again):
        inside = one.model.init_args.pair.init_args
        assert (one.scheduler, one.average, inside.likelihood.init_args.scale, inside.decoder_hidden) == (None,) * 4
