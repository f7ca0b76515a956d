"""Arguments: good ones by name, and bad ones of every kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import binary
from registry import DISTRIBUTIONS, FAMILIES, LIKELIHOODS, POSTERIORS, SYSTEMS
from torch import nn

import pyro_vae as pv
from pyro_vae import bayesian, priors
from pyro_vae.applications import restoration

Make = Callable[[], Any]


class Thing:
    """An object that is nothing."""

    def __repr__(self) -> str:
        return "Thing()"


class Nameless:
    """An object that cannot say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nothing(*args: Any, **kwargs: Any) -> None:
    """A function that takes anything and gives nothing."""


def _in_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def _nested() -> list[Any]:
    made: list[Any] = []
    for _ in range(3000):
        made = [made]
    return made


#: Each makes a value that hardly any argument can have; huge counts of work are left out, which are only slow.
BAD: dict[str, Make] = {
    **{
        repr(value): partial(lambda value: value, value)
        for value in (None, True, "", "x", b"x", -1, 0, 0.5, -0.5, 2**70)
    },
    **{f"float {value}": partial(float, value) for value in ("nan", "inf", "-inf", "1e300", "-1e-300", "1e-300")},
    **{f"{kind.__name__}()": kind for kind in (list, tuple, dict, set, object, Thing, Nameless)},
    "complex": lambda: 1j,
    "numpy nan": lambda: np.float64("nan"),
    "numpy -3": lambda: np.int64(-3),
    "numpy 2": lambda: np.int64(2),
    "numpy float32": lambda: np.float32(1.5),
    "numpy longdouble": lambda: np.longdouble(2),
    "numpy ints": lambda: np.array([2, 3]),
    "[numpy 2, fraction]": lambda: [np.int64(2), Fraction(1, 3)],
    "decimal": lambda: Decimal("1.5"),
    "decimal beyond floats": lambda: Decimal("1e999"),
    "integer beyond floats": lambda: 10**400,
    "numpy strings": lambda: np.array(["a", "b"]),
    "numpy objects": lambda: np.array([None, 1], dtype=object),
    "numpy float64": lambda: np.ones((5, 6)),
    "numpy scalar": lambda: np.array(1.0),
    "[-1]": lambda: [-1],
    "(0,)": lambda: (0,),
    "(2.5,)": lambda: (2.5,),
    "['a']": lambda: ["a"],
    "[None]": lambda: [None],
    "[nan]": lambda: [math.nan],
    "[[1], [1, 2]]": lambda: [[1], [1, 2]],
    "{'z': 1}": lambda: {"z": 1},
    "{1: None}": lambda: {1: None},
    "'3'": lambda: "3",
    "range": lambda: range(3),
    "fraction": lambda: Fraction(1, 3),
    "endless": itertools.count,
    "list in itself": _in_itself,
    "nested 3,000 deep": _nested,
    "numpy dates": lambda: np.array(["2020-01-01"], dtype="M8[D]"),
    "numpy masked": lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    "numpy complex": lambda: np.ones((5, 6), dtype=complex),
    "numpy 0-d object": lambda: np.array(None, dtype=object),
    "numpy 2**63": lambda: np.uint64(2**63),
    "numpy True": lambda: np.bool_(True),
    "bytearray": lambda: bytearray(b"x"),
    "path with NUL": lambda: "a\0b",
    "generator": lambda: iter([1, 2]),
    "lambda": lambda: lambda: None,
    "function": lambda: nothing,
    "int": lambda: int,
    "module": lambda: nn.Linear(3, 3),
    "module class": lambda: nn.Linear,
    "path": lambda: Path("/nowhere/at all"),
    "tensor 0-d": lambda: torch.tensor(1.0),
    "tensor 0-d nan": lambda: torch.tensor(math.nan),
    "tensor empty": lambda: torch.empty(0),
    "tensor no rows": lambda: torch.empty(0, 6),
    "tensor no columns": lambda: torch.empty(5, 0),
    "tensor nan": lambda: torch.full((5, 6), math.nan),
    "tensor inf": lambda: torch.full((5, 6), math.inf),
    "tensor huge": lambda: torch.full((5, 6), 1e38),
    "tensor negative": lambda: torch.full((5, 6), -3.0),
    "tensor float64": lambda: torch.ones(5, 6, dtype=torch.float64),
    "tensor half": lambda: torch.ones(5, 6, dtype=torch.float16),
    "tensor int64": lambda: torch.full((5, 6), 7),
    "tensor uint8": lambda: torch.full((5, 6), 7, dtype=torch.uint8),
    "tensor bool": lambda: torch.ones(5, 6, dtype=torch.bool),
    "tensor complex": lambda: torch.ones(5, 6, dtype=torch.complex64),
    "tensor 1-d": lambda: torch.ones(5),
    "tensor 4-d": lambda: torch.ones(2, 3, 4, 5),
    "tensor on meta": lambda: torch.ones(5, 6, device="meta"),
    "tensor sparse": lambda: torch.ones(5, 6).to_sparse(),
    "tensor bfloat16": lambda: torch.ones(5, 6, dtype=torch.bfloat16),
    "tensor float8": lambda: torch.ones(5, 6).to(torch.float8_e4m3fn),
    "tensor uint16": lambda: torch.ones(5, 6, dtype=torch.uint16),
    "tensor uint64": lambda: torch.ones(5, 6, dtype=torch.uint64),
    "tensor quantized": lambda: torch.quantize_per_tensor(torch.ones(5, 6), 0.1, 0, torch.quint8),
    "tensor 0-d float8": lambda: torch.tensor(1.0).to(torch.float8_e4m3fn),
    "tensor 0-d complex": lambda: torch.tensor(1j),
    "tensor 1-d int": lambda: torch.tensor([2, 3]),
    "tensor int8": lambda: torch.ones(5, 6, dtype=torch.int8),
    "parameter 0-d": lambda: nn.Parameter(torch.tensor(0.5)),
    "tensor nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
    "tensor 0-d int": lambda: torch.tensor(3),
    "tensor one row": lambda: torch.ones(1, 6),
    "tensor more columns": lambda: torch.ones(5, 7),
    "parameter": lambda: nn.Parameter(torch.ones(5, 6)),
    "tensor with gradient": lambda: torch.ones(5, 6, requires_grad=True) * 1,
}

#: Those that can be called.
CALLABLE = {"lambda", "function", "int", "module", "module class"}


def pair() -> Any:
    return pv.models.MLPVAE((6,), 2, (8,))


def image() -> torch.Tensor:
    return binary(1, 8, 8)


def observed() -> Any:
    return restoration.MaskedObservation(torch.ones(6, dtype=torch.bool))


def trace() -> Any:
    return pv.pair.run(pair(), binary(6)).model_trace


#: Good arguments by the name of a parameter.
GOOD: dict[str, Make] = {
    "pair": pair,
    "module": pair,
    "x": lambda: binary(6),
    "batch": lambda: (binary(6),),
    "batches": lambda: [(binary(6),)],
    "data": lambda: binary(6),
    "y": lambda: binary(6),
    "start": lambda: binary(6),
    "end": lambda: binary(6),
    "latents": lambda: torch.zeros(5, 2),
    "estimators": lambda: [pv.SGVB_A()],
    "estimator": pv.SGVB_A,
    "quantiles": lambda: [0.2, 0.5],
    "eigenvalues": lambda: torch.tensor([2.0, 1.0, 0.5]),
    "network": lambda: nn.Linear(6, 4),
    "in_shape": lambda: 6,
    "out_shape": lambda: (2, 2),
    "hidden": lambda: (8,),
    "event_shape": lambda: (6,),
    "latent_dim": lambda: 2,
    "latent_dims": lambda: (3, 2),
    "shape": lambda: (3, 2),
    "num_classes": lambda: 3,
    "num_samples": lambda: 4,
    "num_particles": lambda: 2,
    "num_chains": lambda: 2,
    "num_steps": lambda: 3,
    "num_warmup": lambda: 3,
    "num_leapfrog": lambda: 1,
    "num_draws": lambda: 4,
    "num_groups": lambda: 2,
    "samples_per_group": lambda: 2,
    "num_components": lambda: 2,
    "epochs": lambda: 1,
    "batch_size": lambda: 5,
    "progress": lambda: False,
    "compile": lambda: "eager",
    "elbo_weight": lambda: 0.5,
    "capacity": lambda: 1.0,
    "free_nats": lambda: 0.5,
    "alpha": lambda: 0.5,
    "prior": lambda: priors.StandardNormal(2),
    "posterior": lambda: POSTERIORS["DiagonalNormal"].posterior((2,)),
    "likelihood": lambda: LIKELIHOODS["Bernoulli"](),
    "mean": lambda: torch.full((6,), 0.5),
    "loc": lambda: torch.zeros(3, 2),
    "layer": lambda: nn.Linear(3, 2),
    "dim": lambda: 3,
    "context_dim": lambda: 3,
    "model": lambda: pair().model,
    "guide": lambda: pair().guide,
    "observation": observed,
    "level": lambda: 0.3,
    "mask": lambda: torch.ones(6, dtype=torch.bool),
    "fn": lambda: torch.distributions.Normal(torch.zeros(5, 6), 1.0),
    "images": lambda: torch.rand(4, 1, 8, 8),
    "originals": lambda: torch.rand(4, 1, 8, 8),
    "reconstructions": lambda: torch.rand(4, 1, 8, 8),
    "codes": lambda: torch.randn(5, 2),
    "variances": lambda: torch.rand(3),
    "curves": lambda: {"a": [{"samples": 1, "train": -1.0}, {"samples": 2, "train": -0.5}]},
    "panels": lambda: {"a": torch.rand(8, 8)},
    "points": lambda: {"a": torch.rand(5, 2)},
    "axes": lambda: {"a": ("x", "y")},
    "side": lambda: 2,
    "name": lambda: "z",
    "value": lambda: torch.zeros(5),
    "trace": trace,
    "model_trace": trace,
    "tensors": lambda: (binary(6),),
    "sets": lambda: (binary(6), binary(6)),
    "method": lambda: pair().model,
    "function": lambda: nothing,
    "inputs": lambda: (torch.ones(2),),
    "evidence": lambda: torch.zeros(5, 2),
    "h": lambda: torch.zeros(5, 3),
    "transforms": lambda: [pv.transforms.Planar(2)],
    "num_codes": lambda: 3,
    "code_dim": lambda: 2,
    "size": lambda: 3,
    "sizes": lambda: (5,),
    "bound": lambda: pv.estimators.bounds.Mean(),
    "scale": lambda: 1.0,
    "factor": lambda: 1,
    "threshold": lambda: 0.01,
    "num_levels": lambda: 8,
    "num_inducing": lambda: 3,
    "noise_dim": lambda: 2,
    "rank": lambda: 2,
    "rate": lambda: torch.tensor(1.0),
    "logits": lambda: torch.zeros(5),
    "path": lambda: Path("/nowhere/at all"),
    "kind": lambda: "shared",
    "root": lambda: Path("/nowhere/at all"),
    "name_or_path": lambda: "digits",
    "loader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(binary(6)), 5),
    "precision": lambda: "float32",
    "schedule": lambda: "linear",
}


def good_of(name: str, function: Any) -> dict[str, Make]:
    """Good arguments of a public callable, where those by name are none of its own."""
    kind = name.rpartition(".")[2]
    if name in ("SGVB_A.loss", "SGVB_A.loss_and_grads"):
        programs = pair()
        return {"model": lambda: programs.model, "guide": lambda: programs.guide, "args": lambda: (binary(6),)}
    if kind in SYSTEMS and SYSTEMS[kind].kind is function:
        return {key: partial(lambda value: value, value) for key, value in SYSTEMS[kind].options.items()}
    if kind == "FullBayes":
        return {"pair": pair}
    if kind == "CodePrior":
        return {"first": lambda: SYSTEMS["VQVAE"]()}
    if "distributions" in name and kind in DISTRIBUTIONS:
        parameters = DISTRIBUTIONS[kind]["parameters"]
        return {key: partial(torch.tensor, value) for key, value in parameters.items()}
    if "posteriors" in name and kind in FAMILIES:
        return {"network": lambda: nn.Linear(6, 4)}
    if kind in ("VampPrior",):
        return {"posterior": lambda: POSTERIORS["DiagonalNormal"].posterior((2,)), "event_shape": lambda: 6}
    if "likelihoods" in name:
        return {"network": lambda: nn.Linear(2, 6)}
    if "transforms" in name:
        return {"dim": lambda: 4}
    if kind in ("ConvEncoder", "ResidualEncoder"):
        return {"in_shape": lambda: (1, 8, 8), "channels": lambda: (2, 4)}
    if kind in ("ConvDecoder", "ResidualDecoder"):
        return {"in_features": lambda: 4, "out_shape": lambda: (1, 8, 8), "channels": lambda: (4, 2)}
    if kind in ("IsotropicNormal", "ScaleMixture"):
        return {"shape": lambda: (3, 2)}
    if kind.startswith("Bayesian"):
        layers = {"BayesianConv2d": nn.Conv2d(1, 2, 3), "BayesianConvTranspose2d": nn.ConvTranspose2d(1, 2, 3)}
        layer = layers.get(kind, nn.Linear(3, 2))
        return {
            "layer": lambda: layer,
            "prior": lambda: bayesian.IsotropicNormal,
            "posterior": lambda: bayesian.MeanField,
        }
    if kind == "bayesian_":
        return {
            "module": lambda: pv.MLP(3, 2, (4,)),
            "prior": lambda: bayesian.IsotropicNormal,
            "posterior": lambda: bayesian.MeanField,
        }
    return {}
