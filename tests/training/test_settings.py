"""training.settings: the arguments of fit as one value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae import SGVB_A, Cosine, Linear, WeightPrior
from pyro_vae.training.settings import Settings, described

PARAMETERS = {
    name: parameter
    for name, parameter in inspect.signature(pyro_vae.fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def settings(**given: Any) -> Settings:
    return Settings(**{**{name: parameter.default for name, parameter in PARAMETERS.items()}, **given})


def test_they_are_the_keywords_of_fit() -> None:
    """With the same types, which the command line reads off fit; but the estimator is made of what was given."""
    types = {field.name: field.type for field in dataclasses.fields(Settings)}
    assert types.pop("estimator") == "Estimator | None"
    assert types == {name: parameter.annotation for name, parameter in PARAMETERS.items() if name != "estimator"}
    settings()


@pytest.mark.parametrize(
    ("error", "given", "message"),
    [
        (ValueError, {"epochs": 0}, "epochs has to be a whole number of at least 1; got 0"),
        (ValueError, {"batch_size": 2.5}, r"batch_size has to be a whole number of at least 1; got 2\.5"),
        (ValueError, {"seed": -1}, "seed has to be a whole number of at least 0; got -1"),
        (ValueError, {"patience": -1}, "patience has to be a whole number of at least 0; got -1"),
        (ValueError, {"average": 1}, "average has to be a finite number above 0 and below 1; got 1"),
        (ValueError, {"average": 0}, "average has to be a finite number above 0 and below 1; got 0"),
        (ValueError, {"clip_norm": 0.0}, r"clip_norm has to be a finite number above 0; got 0\.0"),
        (ValueError, {"checkpoint_every": -1}, "checkpoint_every has to be a finite number of at least 0; got -1"),
        (ValueError, {"beta": float("nan")}, "beta has to be a finite number; got nan"),
        (ValueError, {"beta": lambda place: 1.0}, "beta has to be a finite number; got <function"),
        (ValueError, {"beta": 0.5, "schedules": {"beta": Linear()}}, r"short for schedules=\{'beta': .* Give one"),
        (ValueError, {"compile": "fast"}, "compile is one of 'auto', 'inductor', 'traced', 'eager'; got 'fast'"),
        (ValueError, {"precision": "float16"}, "precision is one of 'float32', 'bfloat16', 'auto'; got 'float16'"),
        (TypeError, {"estimator": SGVB_A}, r"estimator is the class SGVB_A; .*as Trace_ELBO\(\) or SGVB_A\(\)"),
        (TypeError, {"estimator": 3}, r"estimator has to be a function, or another callable; got int"),
        (TypeError, {"optimizer": "adam"}, "optimizer has to be a function, or another callable; got str"),
        (TypeError, {"callbacks": [print, 3]}, r"callbacks\[1\] has to be a function, or another callable; got int"),
        (TypeError, {"schedules": Linear()}, r"schedules is a mapping of names to their schedules, .*; got Linear"),
        (TypeError, {"schedules": {"a.b": 0.5}}, r"schedules\['a.b'\] has to be a Schedule, such as .*; got 0\.5"),
    ],
)
def test_refuses(error: type[Exception], given: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=message):
        settings(**given)


def test_truth_values_of_numpy_are_truth_values() -> None:
    assert not settings(progress=np.bool_(False)).progress
    with pytest.raises(ValueError, match="progress is one of True, False; got 0"):
        settings(progress=0)


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        settings(device="cuda")


class Plain:
    """Without a description of its own."""

    def __init__(self) -> None:
        self.scale, self.prior = 0.5, WeightPrior()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (0.1, "0.1"),
        (torch.tensor(0.5), "0.5"),
        (Cosine(0.1), "Cosine(warmup=0.1, final=0.0)"),
        (functools.partial(torch.optim.SGD, lr=0.1), "torch.optim.sgd.SGD(lr=0.1)"),
        ({"a": Linear, "b": (1, [2])}, "a=pyro_vae.training.schedules.Linear, b=[1, [2]]"),
        ([print, lambda place: 1.0], f"[builtins.print, {__name__}.<lambda>]"),
        (Plain(), f"{__name__}.Plain(scale=0.5, prior=WeightPrior(scale=1.0, count='data'))"),
    ],
)
def test_described_without_addresses(value: Any, text: str) -> None:
    assert described(value) == text
