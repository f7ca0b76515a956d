"""What is called of the library's objects, and functions that no room exports: the methods that users call."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import binary
from pyro import distributions as dist
from registry import DISTRIBUTIONS, ESTIMATORS, LENGTHS, LIKELIHOODS, NETWORKS, POSTERIORS, PRIORS, SYSTEMS, TRANSFORMS

import pyro_vae as pv
from pyro_vae import conditioning, data, diagnostics, distributions, evidence, networks, priors
from pyro_vae.applications import restoration
from pyro_vae.transforms import NormalizingFlow, Planar

Make = Callable[[], Any]
Method = tuple[Callable[..., Any], dict[str, Make]]

#: Of our own in each class, beside what Python, torch and training call.
_OF_DISTRIBUTIONS = ("log_prob", "sample", "rsample", "cdf", "icdf", "expand")
_OF_SETS = (
    "batch", "batches", "take", "to", "num_batches", "mean", "gray", "at", "original", "with_labels", "with_mask",
    "held", "describe",
)  # fmt: skip
_OF_ESTIMATORS = ("bound", "terms", "mean_bound", "log_weights")
_OF_RESULTS = ("summary", "reliability", "as_rows")
_APPLICATIONS = {
    "anomaly": (
        "minus_elbo", "minus_log_evidence", "likelihood_ratio", "complexity_corrected", "compressed", "auroc",
        "perturbed", "classes", "without",
    ),
    "reduction": ("neighbor_accuracy", "trustworthiness", "continuity"),
    "labels": ("balanced", "classified"),
}  # fmt: skip


@functools.cache
def methods() -> dict[str, Method]:
    """By name: what is called, and good arguments of it."""
    found = dict(_all())
    return {name: found[name] for name in sorted(found)}


def _all() -> Iterator[tuple[str, Method]]:
    for name, fn in _distributions():
        value = fn.sample()
        good = {"value": value, "sample_shape": (3,), "batch_shape": (2, *fn.batch_shape)}
        yield from _of(f"distributions.{name}", fn, _OF_DISTRIBUTIONS, good)
    z = torch.zeros(5, 4)
    for kind, (make, _) in TRANSFORMS.items():
        if "," not in kind:
            step = make(4)
            yield f"transforms.{kind}()", (step, {"context": lambda: None})
            yield from _of(f"transforms.{kind}()()", step(), ("call_and_ladj", "inverse_and_ladj"), {"z": z, "y": z})
            yield f"transforms.{kind}(context)", (make(4, 3), {"context": lambda: torch.zeros(5, 3)})
    for kind, system in SYSTEMS.items():
        pair, batch = system(), system.batch()
        good = {"x": batch[0], "y": torch.tensor([1, 0, 2, 0, 1]), "z": torch.zeros(5, 2), "temperature": 1.0}
        good |= {"lengths": LENGTHS, "num_steps": 2, "num_samples": 3, "num_particles": 3, "name": "label"}
        good |= {"mask": torch.ones_like(batch[0], dtype=torch.bool), "h": None, "present": None, "values": batch}
        good |= {"xi": torch.zeros(5, 3), "s": torch.zeros(4, 2), "t": torch.zeros(4, 3), "args": batch}
        yield from _of(f"models.{kind}()", pair, _beside_programs(pair), good)
    for corruption in (networks.Masking, networks.GaussianNoise, networks.SaltAndPepper):
        yield f"networks.{corruption.__name__}()", (corruption(0.3), {"x": lambda: binary(6)})
    for name, network in (
        ("Centered", networks.Centered(networks.MLP(6, 2, ()), torch.zeros(6))),
        ("Corrupted", networks.Corrupted(networks.MLP(6, 2, ()), networks.Masking(0.3))),
    ):
        yield f"networks.{name}()", (network, {"x": lambda: binary(6)})
    for name, observation in (
        ("MaskedObservation", restoration.MaskedObservation(torch.ones(6, dtype=torch.bool))),
        ("GaussianObservation", restoration.GaussianObservation(0.1)),
        ("GaussianObservation, blocks", restoration.GaussianObservation(0.1, 2)),
        ("SaltAndPepperObservation", restoration.SaltAndPepperObservation(0.3)),
    ):
        seen = binary(1, 8, 8) if "blocks" in name else binary(6)
        yield from _of(f"applications.restoration.{name}()", observation, ("degrade", "fill"), {"x": seen, "y": seen})
    x = binary(6)
    for kind, latent in POSTERIORS.items():
        yield f"posteriors.{kind}()", (latent.posterior(latent.shapes[0]), {"x": lambda: x})
        yield from _of(f"posteriors.{kind}()", latent.posterior(), ("network_shape",), {"latent_shape": (3,)})
    for kind, likelihood in LIKELIHOODS.items():
        yield f"likelihoods.{kind}()", (likelihood(), {"z": lambda: torch.zeros(5, 2)})
        yield from _of(f"likelihoods.{kind}()", likelihood(), ("network_shape",), {"event_shape": (6,)})
    for kind, network in NETWORKS.items():
        if "," not in kind:
            made = network()
            yield f"networks.{kind}()", (made, {"x": functools.partial(torch.zeros, 5, *made.in_shape)})
            yield from _of(f"networks.{kind}()", made, ("start_at",), {"output": torch.zeros(made.out_shape)})
    for name, some in _sets():
        good = {"index": [0, 1], "batch_size": 3, "n": 2, "device": "cpu", "rows": torch.tensor([0]), "name": "part"}
        yield from _of(name, some, _OF_SETS, good)
    pair, batch = SYSTEMS["MLPVAE"](), SYSTEMS["MLPVAE"].batch()
    for kind, estimator in ESTIMATORS.items():
        good = {"pair": pair, "batch": batch, "batches": [batch], "num_data": None}
        yield from _of(f"estimators.{kind}()", estimator(), _OF_ESTIMATORS, good)
    partly = conditioning.PartlyObserved(pair)
    good = {"x": batch[0], "others": ()}
    yield from _of("conditioning.PartlyObserved()", partly, ("model", "guide", "filled"), good)
    for name, result in _results(pair, batch[0]):
        yield from _of(name, result, _OF_RESULTS, {})
    yield from _functions()


def _beside_programs(pair: Any) -> tuple[str, ...]:
    own = [base for base in type(pair).__mro__ if base.__module__.startswith("pyro_vae.models")]
    names = {name for base in own for name, value in vars(base).items() if inspect.isfunction(value)}
    return tuple(sorted(name for name in names if name[0] != "_" and name not in ("forward", "train")))


def _of(name: str, owner: Any, methods: tuple[str, ...], good: dict[str, Any]) -> Iterator[tuple[str, Method]]:
    """Those of the methods that the library wrote."""
    for method in methods:
        function = getattr(owner, method, None)
        place = getattr(inspect.unwrap(function), "__module__", "") if callable(function) else ""
        if function is not None and place.startswith("pyro_vae"):
            yield (
                f"{name}.{method}",
                (function, {key: functools.partial(_itself, value) for key, value in good.items()}),
            )


def _itself(value: Any) -> Any:
    return value


def _distributions() -> Iterator[tuple[str, Any]]:
    for name, row in DISTRIBUTIONS.items():
        yield name, row["make"](**{key: torch.tensor(value) for key, value in row["parameters"].items()})
    yield "SphereUniform", distributions.SphereUniform(3)
    yield "OptimalNormal", distributions.OptimalNormal(torch.zeros(5, 6), torch.ones(()), 1)
    yield "NormalizingFlow", NormalizingFlow(dist.Normal(torch.zeros(5, 2), 1.0).to_event(1), [Planar(2)()])
    yield "Mixture", priors.MixtureOfNormals(2, 3)()
    yield "Flow", PRIORS["Flow"].prior()()


def _results(pair: Any, x: torch.Tensor) -> Iterator[tuple[str, Any]]:
    yield "evidence.Importance()", evidence.importance(pair, x, 2, compile="eager")
    yield "evidence.AIS()", evidence.ais(pair, x, num_chains=1, num_steps=1, compile="eager")
    yield "diagnostics.Levels()", diagnostics.levels(pair, [(x,)])


def _sets() -> Iterator[tuple[str, Any]]:
    x = torch.rand(8, 6)
    split = data.Split(x, labels=torch.arange(8) % 2)
    yield "Split", split
    yield "Data", data.as_data(split)
    yield "Stored", data.Stored(x)
    yield "Mixed", data.Mixed(split, x)
    yield "Stream", data.Stream(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 4))


def _functions() -> Iterator[tuple[str, Method]]:
    """Those that are public without being exported by a room."""
    x, codes = np.random.default_rng(0).normal(size=(12, 6)), np.random.default_rng(1).normal(size=(12, 2))
    split = data.Split(torch.rand(8, 1, 8, 8), labels=torch.arange(8) % 2)
    good: dict[str, Any] = {
        "split": split, "data": split, "rate": 0.2, "held_out": 1, "normal": torch.rand(5), "anomalous": torch.rand(4),
        "num_labels": 2, "num_neighbors": 2, "num_samples": 2, "codes": codes,
        "held_codes": codes, "held_labels": np.arange(12) % 2,
    }  # fmt: skip
    pair = SYSTEMS["ConvVAE"]()
    for module, names in _APPLICATIONS.items():
        own: dict[str, Any] = {**good, "pair": pair, "background": pair, "x": binary(1, 8, 8)}
        if module == "reduction":
            own |= {"x": x, "labels": np.arange(12) % 2}
        if module == "labels":
            own |= {"y": torch.arange(8) % 2, "pair": SYSTEMS["SemiSupervisedVAE"](), "data": _labeled()}
        for name in names:
            function = getattr(importlib.import_module(f"pyro_vae.applications.{module}"), name)
            yield (
                f"applications.{module}.{name}",
                (function, {k: functools.partial(_itself, v) for k, v in own.items()}),
            )
    partly = importlib.import_module("pyro_vae.models.semi_supervised").partly_labeled
    y = torch.tensor([1, -1, 0, -1, 2])
    yield "models.partly_labeled", (partly, {"x": lambda: binary(6), "y": lambda: y, "num_classes": lambda: 3})
    nowhere = Path("/nowhere/at all")
    drawn = {"folder": nowhere, "pair": pair, "data": data.as_data(split), "histories": {}}
    yield "figures.draw", (pv.figures.draw, {key: functools.partial(_itself, value) for key, value in drawn.items()})
    yield "runs.evaluations", (pv.runs.evaluations, {"out": lambda: nowhere})
    yield "runs.load_data", (pv.runs.load_data, {"folder": lambda: Path("/nowhere/at all")})


def _labeled() -> Any:
    return data.Split(binary(6), labels=torch.tensor([1, 0, 2, 0, 1]))
