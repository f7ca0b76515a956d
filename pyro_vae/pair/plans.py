"""Which way several particles of a pair are run, found out by comparing runs of two with runs of each by itself."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import is_dependent

from pyro_vae._pyro import is_subsample
from pyro_vae._torch import BatchNorm, draws_read_in_python, has_values
from pyro_vae.batches import kind_of, leaves, num_rows
from pyro_vae.distributions.particles import Looped
from pyro_vae.frozen import LIBRARIES
from pyro_vae.pair.modules import ProgramModules
from pyro_vae.pair.pair import Program, modules_of
from pyro_vae.pair.particles import At, How, Plan
from pyro_vae.pair.sharing import computing_once
from pyro_vae.pair.sites import data_frame, inside, latent_sites, plate_nesting, random_sites, same, support_of
from pyro_vae.pair.turns import fork_rng, in_turn

_plans: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, dict[Any, Plan]]] = weakref.WeakKeyDictionary()


def plan_of(model: Program, guide: Program, args: Any, kwargs: Any, nesting: int = 1, several: bool = True) -> Plan:
    """How a pair runs particles, found out once for programs and arguments of one kind.

    Vectorized where the log-probabilities of two particles in one run are those of each in a run of its own; else
    repeated, where they are so; else looped. They are compared at the guide's draws, and at draws and parameters that
    were moved from there, since a weight of zero, or two draws that are equal, hide what a program does with others.
    Noise that no site shows has to be another one for each particle. Looped are also programs that read draws in
    Python, and, in the place of repeated, those whose batch normalization is in training, since its statistics are
    those of a run.

    Args:
        model, guide, args, kwargs: the programs and their arguments.
        nesting: number of plates that they nest at least; those that they have are counted.
        several: whether there are particles; else the nesting alone is found.
    """
    owners = [getattr(program, "__self__", program) for program in (model, guide)]
    modules = _modules(model, guide)
    parts = [part for module in modules for part in module.modules()]
    batch = (*args, kwargs)
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]
    # What a program may branch by: whether it trains, and switches of its own; of one datum all is alike.
    switches = [
        [(name, value) for name, value in vars(part).items() if isinstance(value, (bool, str))] for part in parts
    ]
    kind = kind_of(batch), [tensor.dim() for tensor in tensors], [(id(part), type(part)) for part in parts]
    key = str((kind, num_rows(batch) == 1, switches, nesting, several))
    try:
        known = _plans.setdefault(owners[0], weakref.WeakKeyDictionary()).setdefault(owners[1], {})
    except TypeError:  # what cannot be referred to weakly
        known = {}
    if key in known:
        return known[key]
    if not all(map(has_values, tensors)):
        return Plan("looped", nesting)  # inside of a graph there is nothing to compare; this one is always right
    with in_turn(), _looking(parts):
        found = known[key] = _found(model, guide, args, kwargs, nesting, several, parts)
    return found


def _modules(model: Program, guide: Program) -> list[nn.Module]:
    owners = [getattr(program, "__self__", None) for program in (model, guide)]
    found = [module for owner in owners if isinstance(owner, nn.Module) for module in modules_of(owner)]
    return found or ProgramModules(model, guide).reachable()


@contextmanager
def _looking(parts: list[nn.Module]) -> Iterator[None]:
    """No gradients, no validation and nothing moved."""
    modes = [part.training for part in parts]
    buffers = [(buffer, buffer.detach().clone()) for part in parts for buffer in part.buffers(recurse=False)]
    try:
        with torch.no_grad(), fork_rng(), pyro.validation_enabled(False), computing_once():
            yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _elsewhere(parts: list[nn.Module], training: Sequence[nn.Module]) -> Iterator[None]:
    """Parameters at other values, so that none is zero, and some parts in training."""
    own = [parameter for part in parts for parameter in part.parameters(recurse=False)]
    every = {id(p): p for p in (*own, *dict(pyro.get_param_store().named_parameters()).values())}
    before = [(parameter, parameter.data) for parameter in every.values() if parameter.is_floating_point()]
    try:
        for parameter, value in before:
            fan_in = value[0].numel() if value.dim() > 1 and len(value) else 1
            parameter.data = value + 0.1 / max(fan_in, 1) ** 0.5 * torch.randn_like(value)
        for part in training:
            part.training = True
        yield
    finally:
        for part in training:
            part.training = False
        for parameter, value in before:
            parameter.data = value


def _found(
    model: Program, guide: Program, args: Any, kwargs: Any, nesting: int, several: bool, parts: list[nn.Module]
) -> Plan:
    tried, training = _Tried(model, guide, args, kwargs), [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        with draws_read_in_python() as reads:
            traces = tried.run()
    except Exception:  # said by who runs it
        return Plan("vectorized", nesting)
    nesting = max(nesting, plate_nesting(*traces))
    frame = data_frame(traces[0], num_rows((*args, kwargs)))
    data_dim = -1 if frame is None else frame.dim
    if not several:
        return Plan("vectorized", nesting, data_dim)
    hows: list[How] = ["vectorized"]
    if (
        not any(isinstance(part, BatchNorm) for part in training)
        and frame is not None
        and all(inside(site, frame) or site["is_observed"] for trace in traces for site in random_sites(trace).values())
    ):
        hows.append("repeated")
    # A program that reads a draw, as `if z > 0` does, may decide by it, and would do so for all particles at once.
    for how in () if reads else hows:
        plan = Plan(how, nesting, data_dim)
        if tried.agrees(plan) and tried.agrees_elsewhere(plan, parts, training):
            return plan
    return Plan("looped", nesting, data_dim)


def _draws(*traces: Trace) -> Trace:
    """The latents of runs of two particles, and what plates have subsampled, to be met again."""
    found = Trace()
    for name, node in cast("dict[str, Any]", {n: node for trace in traces for n, node in trace.nodes.items()}).items():
        if node["type"] == "sample" and is_subsample(node):
            if len(node["value"]) < node["fn"].size:
                found.add_node(name, **node)
        elif node["type"] == "sample" and not node["is_observed"]:
            found.add_node(name, **node)
    return found


def _with_second(draws: Trace, nesting: int, change: Callable[..., Sequence[Tensor]]) -> Trace:
    """Draws of two particles, those that differ between them as ``change(first, second, support)``."""
    found = Trace()
    for name, node in cast("dict[str, Any]", draws.nodes).items():
        left = -1 if is_subsample(node) else node["value"].dim() - node["fn"].event_dim - nesting - 1
        if left >= 0 and node["value"].shape[left] == 2:
            first, second = node["value"].split(1, left)
            node = {**node, "value": torch.cat(list(change(first, second, support_of(node["fn"]))), left)}
        found.add_node(name, **node)
    return found


def _other(value: Tensor, support: Any) -> Tensor:
    """Other values of a support at each place, as far as a way to them is known."""
    if support is None or is_dependent(support):
        return value
    if support is constraints.boolean:
        return 1 - value
    if support is constraints.one_hot:
        return value.roll(1, -1)
    if support is constraints.nonnegative_integer:
        return value + 1 + (3 * torch.rand(value.shape)).floor().to(value)
    if isinstance(support, constraints.integer_interval):
        low, size = support.lower_bound, support.upper_bound + 1 - torch.as_tensor(support.lower_bound)
        step = 1 + (torch.rand(value.shape).to(size.device) * (size - 1)).floor()
        return (low + (value - low + step) % size).to(value)
    try:
        to = biject_to(support)
        u = to.inv(value)
        return cast(Tensor, to(u + torch.randn_like(u)))
    except NotImplementedError:
        return value


class _Tried:
    """A pair that is tried on a batch."""

    def __init__(self, model: Program, guide: Program, args: Any, kwargs: Any) -> None:
        self.programs, self.args, self.kwargs = (model, guide), args, kwargs

    def run(self) -> tuple[Trace, Trace]:
        """Model and guide, without particles."""
        model, guide = self.programs
        drawn = poutine.trace(guide).get_trace(*self.args, **self.kwargs)
        return poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*self.args, **self.kwargs), drawn

    def agrees(self, plan: Plan, elsewhere: bool = False) -> bool:
        """Whether log-probabilities of two particles are those of each by itself, at their draws or at others."""
        model, guide = self.programs
        try:
            drawn = plan.trace(guide, self.args, self.kwargs, 2)
            of_model = plan.trace(model, self.args, self.kwargs, 2, replayed=drawn)
            draws = _draws(drawn, of_model)
            if elsewhere:
                draws = _with_second(draws, plan.nesting, lambda first, _, on: (first, _other(first, on)))
                drawn, of_model = (
                    plan.trace(program, self.args, self.kwargs, 2, replayed=draws) for program in (guide, model)
                )
                draws = _draws(drawn, of_model)
            return self._agrees(plan, guide, drawn, draws) and self._agrees(plan, model, of_model, draws)
        except Exception:  # which a program raises that does not take particles so
            return False

    def agrees_elsewhere(self, plan: Plan, parts: list[nn.Module], training: list[nn.Module]) -> bool:
        """As :meth:`agrees`, at other parameters and draws; where modules of the user's own train also with these so.

        What is zero, or equal by chance, hides what a program does.
        """
        own = [part for part in training if type(part).__module__.partition(".")[0] not in LIBRARIES]
        for modes in (False, True) if own else (False,):
            with _elsewhere(parts, own if modes else ()):
                try:
                    with draws_read_in_python() as reads:
                        sites = [site for trace in self.run() for site in latent_sites(trace).values()]
                except Exception:  # it cannot be there
                    continue
                tries = 1 + any(not site["fn"].has_rsample for site in sites)  # few values are easily alike
                if reads or not all(self.agrees(plan, elsewhere=True) for _ in range(tries)):
                    return False
        return True

    def _agrees(self, plan: Plan, program: Program, trace: Trace, draws: Trace) -> bool:
        layout = Looped(2, plan.nesting)
        together = self._log_probs(trace)
        alone = [self._log_probs(self._alone(program, layout, k, draws)) for k in (0, 0, 1)]
        noisy: list[str] = []
        for name, both in together.items():
            first, again, second = (found[name] for found in alone)
            apart = torch.cat([layout.padded(one, 0, plan.nesting + 1) for one in (first, second)])
            both = layout.padded(both, 0, plan.nesting + 1)
            if both.shape[1:] != apart.shape[1:] or len(both) not in (1, 2):
                return False
            if first.isnan().all():
                continue
            if not same(first, again):
                noisy.append(name)
            elif not same(both.expand_as(apart), apart):
                return False
        return not noisy or self._keeps_apart(plan, program, draws, noisy)

    def _keeps_apart(self, plan: Plan, program: Program, draws: Trace, noisy: list[str]) -> bool:
        """Whether a particle does not meet the draws of another one, nor its noise."""

        def at(change: Callable[..., Sequence[Tensor]]) -> dict[str, Tensor]:
            """``[2, ...]``: log-probabilities with draws changed, and equal noise each time."""
            other = _with_second(draws, plan.nesting, change)
            with fork_rng():
                torch.manual_seed(0)
                trace = plan.trace(program, self.args, self.kwargs, 2, replayed=other)
            found = {n: layout.padded(value, 0, plan.nesting + 1) for n, value in self._log_probs(trace).items()}
            return {name: value.expand(2, *value.shape[1:]) for name, value in found.items()}

        layout = Looped(2, plan.nesting)
        before, after = at(lambda *both: both[:2]), at(lambda first, second, on: (first, _other(second, on)))
        equal = at(lambda first, _, on: (first, first))
        apart = all(same(before[name][0], after[name][0]) for name in before)
        return apart and not any(same(*equal[name]) for name in noisy)

    def _alone(self, program: Program, layout: Looped, k: int, draws: Trace) -> Trace:
        """One particle in a run of its own."""
        with At(layout, k, draws, {}):
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)

    @staticmethod
    def _log_probs(trace: Trace) -> dict[str, Tensor]:
        """Log-probabilities of all sites; NaN where a draw of another run has none."""
        found = {}
        for name, site in random_sites(trace).items():
            try:
                found[name] = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
            except (NotImplementedError, KeyError):  # as of Pyro's planar flow
                found[name] = torch.full(site["fn"].batch_shape, math.nan)
        return found
