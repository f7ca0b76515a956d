"""One random pair: two programs, data, and what is known of it by sums over all values of its latents."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fuzzing.programs import Draw, Grid, Interpreter, Param, Term, expectation, log_sum, made, source
from pyro_vae import Pair

_AUTO = "from pyro.infer import autoguide"


@dataclass
class Recipe:
    """A pair in statements.

    Attributes:
        model, guide: the bodies; ``guide`` is text where it is one of Pyro's autoguides.
        data: the arguments by name, the first dimension being the data's.
        features: what was composed, by name.
        num_inner: size of the plate within that of the data; 1 without.
        narrow: whether the programs know data alone, and no dimension of particles.
        float64: whether parameters and data are of double precision.
    """

    seed: int
    model: Sequence[Any]
    guide: Sequence[Any] | str
    data: dict[str, Tensor]
    features: dict[str, Any] = field(default_factory=dict)
    num_inner: int = 1
    float64: bool = False
    narrow: bool = False

    @property
    def num(self) -> int:
        return len(next(iter(self.data.values())))

    @property
    def nesting(self) -> int:
        return 2 if self.num_inner > 1 else 1

    def code(self) -> str:
        arguments = list(self.data)
        parts = [source("model", arguments, self.model)]
        if isinstance(self.guide, str):
            parts += [_AUTO, f"guide = {self.guide}"]
        else:
            parts.append(source("guide", arguments, self.guide))
        code = "\n\n".join(parts)
        if self.narrow:
            code = re.sub(
                r"^( +)(z\w*) = pyro.sample\(.*$", r"\g<0>\n\1\2 = only_data('\2', \2)", code, flags=re.MULTILINE
            )
        return re.sub(r"(torch.full\(ROWS, [-.\d]+)", r"\1, dtype=torch.float64", code) if self.float64 else code

    def __str__(self) -> str:
        data = "\n".join(f"{name} = torch.tensor({_short(value)})" for name, value in self.data.items())
        return f"# seed {self.seed}: {', '.join(self.features) or 'plain'}\nROWS = ()\n{self.code()}\n{data}"

    def pair(self, rows: int | None = None) -> Pair:
        """The pair; with ``rows`` each datum of so many has its own parameters."""
        names = made(self.code(), ROWS=() if rows is None else (rows,), only_data=_OnlyData())
        return Pair(names["model"], names["guide"])

    def batch(self, times: int = 1) -> tuple[Tensor, ...]:
        """The arguments, each datum ``times`` times, as ``[times * N, ...]``."""
        dtype = torch.float64 if self.float64 else torch.float32
        return tuple(
            (value.to(dtype) if value.is_floating_point() else value).repeat(times, *[1] * (value.dim() - 1))
            for value in self.data.values()
        )

    def params(self, which: str) -> dict[str, float]:
        """The parameters of a program."""
        found: dict[str, float] = {}

        def visit(body: Any) -> None:
            for statement in body:
                if isinstance(statement, Param):
                    found[statement.name] = statement.value
                elif hasattr(statement, "body"):
                    visit(statement.body)

        visit(getattr(self, which) if not isinstance(getattr(self, which), str) else [])
        return found

    def with_params(self, values: dict[str, float]) -> Recipe:
        def visit(body: Any) -> Any:
            if isinstance(body, str):
                return body
            return [
                dataclasses.replace(s, value=values.get(s.name, s.value)) if isinstance(s, Param)
                else dataclasses.replace(s, body=visit(s.body)) if hasattr(s, "body") else s
                for s in body
            ]  # fmt: skip

        return dataclasses.replace(self, model=visit(self.model), guide=visit(self.guide))

    def states(self) -> int:
        """How many values its latents have on a grid, for all data."""
        grid = Grid(counting=True)
        values: dict[str, Tensor] = {}
        if not isinstance(self.guide, str):
            values = self.interpreter(grid).run(self.guide).values
        try:
            self.interpreter(grid, values=values).run(self.model)
        except ValueError:  # a grid's value outside of a support of the model
            return 10**9
        return grid.states * self.num * self.num_inner

    def interpreter(self, latents: Grid | Draw, env: dict[str, Any] | None = None, **options: Any) -> Interpreter:
        given = {name: value.clone() for name, value in self.data.items()} if "simulating" not in options else self.data
        return Interpreter({**given, **(env or {})}, self.num, self.num_inner, latents, **options)


class _OnlyData:
    """As a program that is written for ``[B, *event]``: it fails on a draw of more dimensions than before."""

    def __init__(self) -> None:
        self.dims: dict[str, int] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if value.dim() > self.dims.setdefault(name, value.dim()):
            raise RuntimeError(f"{name} has {value.dim()} dimensions where this program has {self.dims[name]}")
        self.dims[name] = value.dim()
        return value


def _short(value: Tensor) -> str:
    def rounded(v: Any) -> Any:
        return [rounded(part) for part in v] if isinstance(v, list) else round(v, 4) if isinstance(v, float) else v

    return str(rounded(value.tolist()))


def log_evidence(recipe: Recipe, data: dict[str, Tensor] | None = None) -> Tensor:
    """log p(x) of each datum, ``[N]``; where data share a latent of all of them together, ``[]``."""
    if data is not None:
        recipe = dataclasses.replace(recipe, data=data)
    grid = Grid()
    terms = recipe.interpreter(grid).run(recipe.model).terms
    kept = [(t.level, t.seen if t.kind in ("observed", "factor") else t.log_prob) for t in terms]
    found = log_sum(kept, grid.axes)
    return found.expand(recipe.num) if found.dim() else found


@dataclass
class Weights:
    """The log-weights of a guide: their terms, and the density by which they are drawn.

    Attributes:
        proposal: what weighs the values, ``(level, [*axes, J, N])``.
        terms: of log p(x, z) - log q(z | x), with their sign.
        axes: of a grid; empty for draws.
        own: the axes of discrete latents of the model alone.
    """

    recipe: Recipe
    proposal: list[tuple[str, Tensor]]
    terms: list[tuple[str, str, int, Term]]  # program, level, sign, term
    axes: list[tuple[int, str]]
    own: list[tuple[int, str]] = field(default_factory=list)

    def values(self, attribute: str = "full") -> list[tuple[str, Tensor]]:
        """``(level, sign * value)``: masked latents counting in full, or ``"seen"`` alone, or ``"weighed"``.

        As in a loss of importance weights, ``"tempered"`` is weighed by what handlers scale a site more than its datum.
        """

        def of(term: Term) -> Tensor:
            if attribute == "tempered":
                return term.weighed / self.weight
            if attribute == "full":
                return term.log_prob if term.kind == "latent" else term.seen
            return getattr(term, attribute)

        return [(level, sign * of(term)) for _, level, sign, term in self.terms]

    @property
    def is_resolved(self) -> bool:
        """Whether the density of a grid sums to one, so that it stands close enough."""
        return bool((log_sum(self.proposal, self.axes).abs() < 1e-5).all())

    @property
    def weight(self) -> Tensor | None:
        """How often handlers make what is observed of a datum count: ``[]`` or ``[N]``, ``None`` if they differ."""
        scales = [torch.as_tensor(t.scale) for _, _, _, t in self.terms if t.kind in ("observed", "factor")]
        return scales[0] if all(scale.equal(scales[0]) for scale in scales) else None

    def elbo(self, attribute: str = "full") -> Tensor:
        """``[N]``: E_q[log w]."""
        found = expectation(self.proposal, self.values(attribute), self.axes)
        share = [
            f if level != "outside" else f / self.recipe.num for f, (level, _) in zip(found, self.values(), strict=True)
        ]
        return torch.as_tensor(sum(share)).expand(self.recipe.num)

    def log_mean(self, power: int = 1, attribute: str = "full") -> Tensor:
        """``[N]``: log E_q[w^power]."""
        terms = [(level, power * value) for level, value in self.values(attribute)]
        return log_sum([*self.proposal, *terms], self.axes)

    def draws(self, attribute: str = "full") -> Tensor:
        """``[S, N]`` of draws."""
        total: Any = torch.zeros(1, 1, dtype=torch.float64)
        for level, value in self.values(attribute):
            value = value.sum(-2) if level == "inner" else value.squeeze(-2)
            total = total + (value / self.recipe.num if level == "outside" else value)
        return total

    def states(self, attribute: str = "full") -> tuple[Tensor, Tensor]:
        """``(log q, log w)``, each ``[states, N]``, of a grid without an inner plate."""
        log_q: Any = sum(value for _, value in self.proposal)
        log_w: Any = sum(value for _, value in self.values(attribute))
        log_q, log_w = torch.broadcast_tensors(log_q, log_w)
        return tuple(v.reshape(-1, v.shape[-1]).expand(-1, self.recipe.num) for v in (log_q, log_w))  # type: ignore


def weights(recipe: Recipe, latents: Grid | Draw, env: dict[str, Any] | None = None) -> Weights:
    """Of draws from the guide; what the model alone has is drawn from it, with weight one."""
    assert not isinstance(recipe.guide, str)
    q = recipe.interpreter(latents, env).run(recipe.guide)
    before = len(latents.axes) if isinstance(latents, Grid) else 0
    p = recipe.interpreter(latents, env, values=q.values).run(recipe.model)
    proposal = [(t.level, t.log_prob) for t in q.terms if t.kind in ("latent", "noise", "node")]
    proposal += [(t.level, t.log_prob) for t in p.terms if t.kind in ("noise", "node") or t.name in p.own]
    terms = [("q", t.level, -1, t) for t in q.terms if t.kind == "latent"]
    terms += [
        ("p", t.level, 1, t) for t in p.terms if t.kind in ("latent", "observed", "factor") and t.name not in p.own
    ]
    axes = list(latents.axes) if isinstance(latents, Grid) else []
    return Weights(recipe, proposal, terms, axes, axes[before:])


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def fitted(recipe: Recipe, steps: int = 30) -> Recipe:
    """With the guide's parameters moved towards the posterior by the ELBO, unless it gets too narrow for a grid."""
    values = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in recipe.params("guide").items()}
    if not values:
        return recipe
    optimizer = torch.optim.Adam(values.values(), lr=0.2)
    for _ in range(steps):
        loss = -weights(recipe, Grid(every=2), values).elbo().mean()
        if not loss.isfinite() or not loss.requires_grad:
            break
        optimizer.zero_grad()
        loss.backward()
        if not all(v.grad is None or v.grad.isfinite().all() for v in values.values()):
            break
        optimizer.step()
    moved = recipe.with_params({n: round(v.clamp(-3, 3).item(), 3) for n, v in values.items()})
    with torch.no_grad():
        return moved if weights(moved, Grid()).is_resolved else recipe
