"""Running a pair: guide and model once, particles, evaluation mode, simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.pair.pair import programs
from pyro_vae.pair.sites import DATA_PLATE, observed_sites


@contextmanager
def kept_modes(pair: nn.Module) -> Iterator[None]:
    """Puts back the training mode of each part of a pair, also of modules that the programs have yet to announce."""
    modules = [pair, *getattr(pair, "reachable", list)()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, for all parts of a pair."""
    with kept_modes(pair):
        for module in (pair, *getattr(pair, "reachable", list)()):
            module.eval()
        yield


def device_of(pair: nn.Module) -> torch.device:
    """Where a pair is: the device of its first parameter, also of one that its programs have yet to announce."""
    modules = (pair, *getattr(pair, "reachable", list)())
    first = next((parameter for module in modules for parameter in module.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def data_plate(x: Tensor | None) -> pyro.plate:
    """The plate over the data of a batch ``x: [B, *event]``; of size 1 where the program draws ``x`` itself."""
    return pyro.plate(DATA_PLATE, 1 if x is None else len(x), dim=-1)


def vectorized(
    pair: nn.Module, num_particles: int | None = None, max_plate_nesting: int = 1
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``(model, guide)`` of :func:`programs`, in a plate of ``num_particles`` on the left of their own plates."""
    model, guide = programs(pair)
    if num_particles is not None:
        plate = pyro.plate("num_particles_vectorized", num_particles, dim=-1 - max_plate_nesting)
        model, guide = plate(model), plate(guide)
    return model, guide


def run(
    pair: nn.Module, *batch: Any, num_particles: int | None = None, max_plate_nesting: int = 1
) -> tuple[Trace, Trace]:
    """Runs the guide on ``batch`` and the model against its draws.

    Returns:
        ``(model_trace, guide_trace)``. With ``num_particles`` the draws have one more dimension on the left of the
        plates: a latent inside the data plate is ``[num_particles, B, *event]``.
    """
    model, guide = vectorized(pair, num_particles, max_plate_nesting)
    with computing_once():
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    return model_trace, guide_trace


_results: ContextVar[dict[Any, tuple[tuple[Any, ...], Any]] | None] = ContextVar("pyro_vae_results", default=None)


@contextmanager
def computing_once(active: bool = True) -> Iterator[None]:
    """For one run of a guide and of the model against its draws, in which :func:`once` computes nothing twice.

    Args:
        active: False where guide and model are to compute apart, such as with weights that each of them draws.
    """
    token = _results.set({} if active else None)
    try:
        yield
    finally:
        _results.reset(token)


def once(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)``; what the guide has computed of the same inputs is not computed again by the model.

    A guide that runs top-down draws z_l by what p(z_l | z_{l+1}) and the data say together, so that it walks
    through the decoder, which the model then does a second time on the same draws. A pair that calls its decoder by
    ``once(self.decoder, z)`` in both programs walks through it once, forwards and backwards, under the estimators of
    this library. Elsewhere, as under Pyro's SVI, and on other inputs (other tensors, be their values the same) it is
    the plain call. So it is where the function has ``pyro.sample`` statements, which belong to both programs. Other
    noise (dropout) is the same in both.

    Args:
        function: of tensors; in the two programs the same function, or method of the same object.
        inputs: tensors, or what else is the same object in both.
    """
    results = _results.get()
    if results is None:
        return function(*inputs)
    key = (function, torch.is_grad_enabled(), *map(id, inputs))
    if key not in results:
        with _Sampling() as sampling:
            value = function(*inputs)
        if sampling.sites:
            return value
        results[key] = inputs, value  # inputs that are kept cannot pass their id on to others
    return results[key][1]


class _Sampling(Messenger):
    """Counts the sample statements."""

    sites = 0

    def _pyro_sample(self, msg: Any) -> None:
        self.sites += 1


def simulate(model: Callable[..., Any], *batch: Any) -> tuple[tuple[Any, ...], Trace]:
    """Draws latents and data from the model: (z, x) ~ p(z) p(x | z). Of the observed arguments only the shape matters.

    Args:
        model: the generative program. It has to observe its arguments as they are, or views of them.
        batch: its arguments; what it does not observe (a label, say) stays.

    Returns:
        ``(new batch, trace)``: the arguments with the data drawn in the place of those given, and the run that drew
        them, with its latents and with its observed sites marked as such.

    Raises:
        ValueError: if what the model observes is not an argument, or the model observes nothing.
    """
    # A memory of its own for each argument tells which of them an observed tensor is, or is a view of.
    given = [v.clone(memory_format=torch.contiguous_format) if isinstance(v, Tensor) else v for v in batch]
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*given)
    sites: Any = {name: site for name, site in trace.nodes.items() if "obs" in (site.get("infer") or {})}
    found = list(given)
    for name, site in sites.items():
        site["is_observed"] = True
        observed = site["infer"]["obs"]
        if site["infer"].get("_deterministic"):
            continue
        index = next((i for i, value in enumerate(given) if _shares_memory(value, observed)), None)
        if index is None:
            raise ValueError(
                f"{name!r} observes a tensor that is no argument of the model, nor a view of one, so what the model "
                "draws cannot be given back to it. Convert the data (dtype, binarization) before they are passed."
            )
        view = observed.size(), observed.stride(), observed.storage_offset()
        found[index] = torch.as_strided_scatter(found[index], site["value"].to(observed.dtype), *view)
    if not observed_sites(trace):
        raise ValueError("the model observes nothing when it is given these arguments, so there are no data to draw.")
    return tuple(found), trace


def _shares_memory(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage()._cdata == other.untyped_storage()._cdata
