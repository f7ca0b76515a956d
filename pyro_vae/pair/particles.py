"""How K particles of a pair are run: in a plate of their own, as the batch repeated, or in one run each."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import is_dependent

from pyro_vae._pyro import (
    PARTICLES,
    BatchNorm,
    draws_read_in_python,
    has_values,
    is_subsample,
    particles,
)
from pyro_vae.batches import kind_of, leaves, num_rows, rows
from pyro_vae.distributions.particles import Looped, Particles, Repeated
from pyro_vae.frozen import LIBRARIES
from pyro_vae.pair.modules import ProgramModules
from pyro_vae.pair.pair import Program, modules_of
from pyro_vae.pair.sharing import computing_once
from pyro_vae.pair.sites import data_frame, inside, latent_sites, plate_nesting, random_sites, same, support_of
from pyro_vae.pair.turns import in_turn

How = Literal["vectorized", "repeated", "looped"]
Inside = Callable[[int | None], AbstractContextManager[Any]]
Around = Callable[[Program], Program]
Arounds = Callable[[Trace | None], Around]

SAID: dict[How, str] = {
    "vectorized": "Several particles are one run of the programs, with a dimension of their own on the left.",
    "repeated": "Several particles are one run of the programs, on the batch repeated.",
    "looped": "Several particles are one run of the programs each, as in Pyro.",
}


@dataclass(frozen=True)
class Plan:
    """How particles of a pair are run. In traces they lie on the left of the plates, ``[K, *plates, *event]``.

    Attributes:
        how: - ``"vectorized"``: the programs run once, in a plate of the particles, whose dimension they keep.
             - ``"repeated"``: they run once, on K times as many data.
             - ``"looped"``: they run K times.
        nesting: plates of the pair.
        data_dim: dimension of the data plate.
    """

    how: How
    nesting: int
    data_dim: int = -1

    def trace(
        self,
        program: Program,
        args: Any,
        kwargs: Any,
        count: int | None,
        *,
        replayed: Trace | None = None,
        values: Mapping[str, Tensor] | None = None,
        inside: Inside = lambda k: nullcontext(),
        around: Around = lambda program: program,
    ) -> Trace:
        """A run of a program, with particles or without.

        Args:
            program, args, kwargs: what is run.
            count: K; ``None`` for no dimension of particles.
            replayed: a trace of particles at whose draws it runs, as by ``poutine.replay``.
            values: draws as observations, as by ``poutine.condition``.
            inside: a context for each run, which is given the number of its particle, or ``None`` of all.
            around: what else handles the program, seen as with particles.
        """
        if count is not None and self.how == "looped":
            layout, traces = Looped(count, self.nesting), []
            for k in range(count):
                with inside(k), _Subsampled(traces[:1]), _At(layout, k, replayed, values or {}):
                    traces.append(poutine.trace(around(program)).get_trace(*args, **kwargs))
                traces[-1].compute_score_parts()
            return _joined(traces, layout)
        if count is not None and self.how == "repeated":
            size = num_rows((*args, kwargs))
            *args, kwargs = rows((*args, kwargs), torch.arange(size).repeat(count))
            program = _Folded(Repeated(count, self.nesting, size, self.data_dim))(program)
        elif count is not None:
            program = particles(count, self.nesting)(program)
        program = around(program)
        if values:
            program = poutine.condition(program, data=dict(values))
        if replayed is not None:
            program = poutine.replay(program, trace=replayed)
        with inside(None):
            return poutine.trace(program).get_trace(*args, **kwargs)

    def traces(
        self, model: Program, guide: Program, args: Any, kwargs: Any, count: int | None, around: Arounds
    ) -> tuple[Trace, Trace]:
        """Model and guide at the same draws, ``around(trace of the guide)`` being what handles the model."""
        if count is None or self.how != "looped":
            drawn = self.trace(guide, args, kwargs, count, around=around(None))
            return self.trace(model, args, kwargs, count, replayed=drawn, around=around(drawn)), drawn
        pairs = [self.traces(model, guide, args, kwargs, None, around)]
        with _Subsampled(pairs[0]):  # all particles are of the same data
            pairs += [self.traces(model, guide, args, kwargs, None, around) for _ in range(count - 1)]
        for trace in (trace for pair in pairs for trace in pair):
            trace.compute_score_parts()
        models, guides = zip(*pairs, strict=True)
        return _joined(list(models), Looped(count, self.nesting)), _joined(list(guides), Looped(count, self.nesting))


def _frame(count: int, nesting: int) -> CondIndepStackFrame:
    return CondIndepStackFrame(PARTICLES, -1 - nesting, count, 0, count)


class _Folded(Messenger):
    """A program on repeated data, seen from outside as with a dimension of the particles."""

    def __init__(self, layout: Repeated) -> None:
        super().__init__()
        self.layout = layout
        self._own: dict[str, dict[str, Any]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg):
            return
        layout, fn = self.layout, msg["fn"]
        kept = ("fn", "value", "cond_indep_stack", "mask", "scale")
        self._own[msg["name"]] = {name: msg[name] for name in kept}
        frames = [
            f._replace(size=layout.size, full_size=layout.size if f.full_size == f.size else f.full_size)
            if f.dim == layout.data_dim and f.size == layout.count * layout.size
            else f
            for f in msg["cond_indep_stack"]
        ]
        for before, frame in zip(msg["cond_indep_stack"], frames, strict=True):
            if before.full_size != before.size:  # N / (K B) of a plate that subsamples
                msg["scale"] = msg["scale"] * (before.size / frame.size)
        msg["fn"] = Particles([fn], layout)
        msg["cond_indep_stack"] = (*frames, _frame(layout.count, layout.nesting))
        if msg["value"] is not None:
            msg["value"] = layout.join([msg["value"]], fn.event_dim)
        for name in ("mask", "scale"):
            if isinstance(msg[name], Tensor) and msg[name].dim():
                msg[name] = layout.join([msg[name]])

    def _pyro_post_sample(self, msg: Any) -> None:
        own = self._own.pop(msg["name"], None)
        if own is not None:
            (value,) = msg["fn"].split(msg["value"])
            msg.update({**own, "value": own["value"] if own["value"] is not None else value})


class _Subsampled(Messenger):
    """Plates take the data that they took in other runs."""

    def __init__(self, traces: Iterable[Trace]) -> None:
        super().__init__()
        every: Any = [item for trace in traces for item in trace.nodes.items()]
        self.nodes = {name: node for name, node in every if node["type"] == "sample" and is_subsample(node)}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["name"] in self.nodes and not msg["done"]:
            msg["value"], msg["done"] = self.nodes[msg["name"]]["value"], True


class _At(Messenger):
    """Puts the latents of a program at those of one particle."""

    def __init__(self, layout: Looped, k: int, replayed: Trace | None, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layout, self.k, self.values = layout, k, values
        self.nodes: Any = {} if replayed is None else replayed.nodes

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        node = self.nodes.get(name)
        if name in self.values:
            value = self.values[name]
            msg["is_observed"] = True
        elif node is None or node["type"] != "sample" or node["is_observed"] or msg["is_observed"]:
            return
        elif is_subsample(msg):
            msg["value"], msg["done"] = node["parts"][self.k], True
            return
        else:
            value, msg["infer"] = node["value"], node["infer"]
        msg["value"] = self.layout.one(value, self.k, len(fn.batch_shape), fn.event_dim)
        msg["done"] = True


def _joined(traces: list[Trace], layout: Looped) -> Trace:
    """Runs of a program, a particle each, as one.

    Raises:
        ValueError: if they have other sites, or sites of other shapes.
    """
    found, names = Trace(), list(traces[0].nodes)
    for trace in traces[1:]:
        if other := set(names) ^ set(trace.nodes):
            raise ValueError(
                f"the site {sorted(other)[0]!r} is drawn in one run of the program and not in another, so that several "
                "particles have no common sites. Use one particle, or a mask in place of a branch."
            )
    for name in names:
        nodes: list[Any] = [trace.nodes[name] for trace in traces]
        node = dict(nodes[0])
        if node["type"] == "sample" and is_subsample(node):
            node["parts"] = [one["value"] for one in nodes]
        elif node["type"] == "sample":
            fn = node["fn"] = Particles([one["fn"] for one in nodes], layout)
            node["value"] = fn.join([one["value"] for one in nodes], fn.event_dim)
            node["cond_indep_stack"] = (*node["cond_indep_stack"], _frame(layout.count, layout.nesting))
            for kind in ("log_prob", "unscaled_log_prob", "mask", "scale"):
                node[kind] = fn.joined([one[kind] for one in nodes])
            node["log_prob_sum"] = node["log_prob"].sum()
            scores = zip(*(one["score_parts"] for one in nodes), strict=True)
            node["score_parts"] = type(node["score_parts"])(*map(fn.joined, scores))
        found.add_node(name, **node)
    return found


# Which way


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
        with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False), computing_once():
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
    plain, training = _Pair(model, guide, args, kwargs), [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        with draws_read_in_python() as reads:
            traces = plain.run()
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
        if plain.agrees(plan) and plain.agrees_elsewhere(plan, parts, training):
            return plan
    return Plan("looped", nesting, data_dim)


def _draws(*traces: Trace) -> Trace:
    """The latents of runs of two particles, and what plates have subsampled, to be met again."""
    found = Trace()
    for name, node in cast("dict[str, Any]", {n: node for trace in traces for n, node in trace.nodes.items()}).items():
        if node["type"] == "sample" and is_subsample(node):
            if len(node["value"]) < node["fn"].size:
                found.add_node(name, **{**node, "parts": [node["value"]] * 2})
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


class _Pair:
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
            with torch.random.fork_rng():
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
        with _At(layout, k, draws, {}):
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
