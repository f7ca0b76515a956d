"""How K particles of a pair are run: in a plate of their own, as the batch repeated, or in one run each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae._pyro import PARTICLES, is_subsample, particles
from pyro_vae.batches import num_rows, rows
from pyro_vae.distributions.particles import Looped, Particles, Repeated
from pyro_vae.pair.pair import Program

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
            layout, traces = Looped(count, self.nesting), list[Trace]()
            for k in range(count):
                with inside(k), _Subsampled(traces[:1]), At(layout, k, replayed, values or {}):
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


class At(Messenger):
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
            msg["value"], msg["done"] = node["value"], True
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
        if node["type"] == "sample" and not is_subsample(node):  # of which all runs have taken the same
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
