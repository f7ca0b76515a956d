"""Pyro programs as data: written out as code that a user might write, and interpreted without Pyro's handlers.

A program is a list of statements. :func:`source` prints it; :class:`Interpreter` runs it in plain torch, on a grid of
all values of its latents or on draws, and keeps each density apart. Both evaluate the same expressions, so that what
is independent of Pyro and of the library is all that happens between them: plates, scales, masks, weights, sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

# Statements


@dataclass(frozen=True)
class Param:
    """A number that is trained; ``ROWS`` is ``()``, or the size of the batch to have one for each datum."""

    name: str
    value: float


@dataclass(frozen=True)
class Let:
    """An assignment; ``deterministic`` makes it a site of Pyro's."""

    var: str
    expression: str
    deterministic: bool = False


@dataclass(frozen=True)
class Sample:
    """A random variable; in a loop its name holds ``{t}``.

    Attributes:
        fn: the distribution, in code.
        obs: what it meets, a view of an argument.
        masked: the argument of its own ``.mask()``.
        obs_mask: of Pyro's partial observation; then it is two sites, of which one is a latent of the model alone.
        extra: further arguments of the statement, in code.
    """

    name: str
    fn: str
    obs: str | None = None
    masked: str | None = None
    obs_mask: str | None = None
    extra: str = ""

    @property
    def var(self) -> str:
        return self.name.replace("_{t}", "")


@dataclass(frozen=True)
class Factor:
    name: str
    expression: str
    extra: str = ""


@dataclass(frozen=True)
class Noise:
    """Standard normal noise that no trace shows, of a shape in code: drawn by torch, or by a hidden statement."""

    var: str
    shape: str
    hidden: bool = False


@dataclass(frozen=True)
class Plate:
    """``level`` is ``"data"`` or ``"inner"``; ``size`` is ``None`` for a plate that is given none.

    Without a name there is no plate, only the level; a sequential one is a loop over its indices.
    """

    name: str | None
    level: str
    size: str | None
    body: Sequence[Any]
    index: str | None = None  # with a subsample: the variable of its indices
    options: str = ""


@dataclass(frozen=True)
class Scale:
    expression: str
    body: Sequence[Any]


@dataclass(frozen=True)
class Mask:
    expression: str
    body: Sequence[Any]


@dataclass(frozen=True)
class Loop:
    """``for t in over``, of so many steps; ``over`` is a sequential plate, ``pyro.markov``, or a range."""

    over: str
    length: int
    body: Sequence[Any]


def source(name: str, arguments: Sequence[str], body: Sequence[Any]) -> str:
    """A program as Pyro code."""
    return "\n".join([f"def {name}({', '.join(arguments)}):", *_lines(body, 1)])


def _lines(body: Sequence[Any], depth: int, loop: bool = False) -> Iterator[str]:
    tab = "    " * depth
    if not body:
        yield f"{tab}pass"
    for statement in body:
        match statement:
            case Param(name, value):
                yield f"{tab}{name} = pyro.param('{name}', torch.full(ROWS, {value}))"
            case Let(var, expression, deterministic):
                yield f"{tab}{var} = " + (f"pyro.deterministic('{var}', {expression})" if deterministic else expression)
            case Sample(name, fn, obs, masked, obs_mask, extra):
                mask = f".mask({masked})" if masked else ""
                rest = [f"{fn}{mask}"]
                rest += [f"obs={obs}"] if obs else []
                rest += [f"obs_mask={obs_mask}"] if obs_mask else []
                rest += [extra] if extra else []
                called = f"f'{name}'" if "{" in name else f"'{name}'"
                assigned = "" if obs and not obs_mask else f"{statement.var} = "
                yield f"{tab}{assigned}pyro.sample({called}, {', '.join(rest)})"
            case Factor(name, expression, extra):
                called = f"f'{name}'" if "{" in name else f"'{name}'"
                yield f"{tab}pyro.factor({called}, {expression}{', ' + extra if extra else ''})"
            case Noise(var, shape, hidden):
                if hidden:
                    yield f"{tab}with poutine.block():"
                    yield f"{tab}    {var} = pyro.sample('{var}', dist.Normal(torch.zeros({shape}), 1.0).to_event())"
                else:
                    yield f"{tab}{var} = torch.randn({shape})"
            case Plate(name, level, size, inside, index, options):
                given = [f"'{name}'", *([size] if size else []), *([options] if options else [])]
                dim = [] if options or not size else [f"dim={-1 if level == 'data' else -2}"]
                if name is not None:
                    yield f"{tab}with pyro.plate({', '.join([*given, *dim])}){' as ' + index if index else ''}:"
                yield from _lines(inside, depth + (name is not None))
            case Scale(expression, inside):
                yield f"{tab}with poutine.scale(scale={expression}):"
                yield from _lines(inside, depth + 1)
            case Mask(expression, inside):
                yield f"{tab}with poutine.mask(mask={expression}):"
                yield from _lines(inside, depth + 1)
            case Loop(over, _, inside):
                yield f"{tab}for t in {over}:"
                yield from _lines(inside, depth + 1)


def made(code: str, **names: Any) -> dict[str, Any]:
    """What a code defines, in the names that programs use."""
    found = {"pyro": pyro, "dist": dist, "torch": torch, "poutine": poutine, **names}
    exec(code, found)
    return found


# Densities


class Term(NamedTuple):
    """log-density of one site, ``[*axes, J or 1, N or 1]``.

    Attributes:
        kind: "latent", "observed", "factor", "noise" (its density weighs draws, and is no term of a weight), or "node",
            the weight of an axis of the grid.
        level: "outside", "data" or "inner".
        scale, mask: of the handlers around it, ``None`` without.
    """

    name: str
    kind: str
    level: str
    log_prob: Tensor
    scale: Tensor | float = 1.0
    mask: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """As the data count: what is masked is missing."""
        return self.log_prob if self.mask is None else torch.where(self.mask, self.log_prob, 0.0)

    @property
    def weighed(self) -> Tensor:
        """As Pyro counts it in a loss."""
        return self.scale * self.seen


@dataclass
class Grid:
    """All values of the latents: a new axis on the left for each number that is drawn.

    Attributes:
        counting: whether only the first value of each is taken, to count the states beforehand.
        every: of so many values of a continuous number one is taken; more than one for a rough sum.
        axes: the dimension and the level of each number.
        states: how many combinations of values there are.
    """

    counting: bool = False
    every: int = 1
    axes: list[tuple[int, str]] = field(default_factory=list)
    states: int = 1

    def value(self, name: str, fn: Any, level: str, run: Interpreter) -> Tensor:
        if len(fn.event_shape) > 1 or fn.event_shape.numel() > 2:
            raise NotImplementedError(f"{name}: an event of shape {fn.event_shape}")
        if fn.event_shape and type(dist_base(fn)).__name__ != "OneHotCategorical":
            parts = [self._axis(f"{name}[{i}]", fn, level, run) for i in range(fn.event_shape[0])]
            return torch.stack(torch.broadcast_tensors(*parts), -1)
        return self._axis(name, fn, level, run)

    def _axis(self, name: str, fn: Any, level: str, run: Interpreter) -> Tensor:
        dim = -3 - len(self.axes)
        self.axes.append((dim, level))
        nodes, log_weight = _nodes(fn)
        if self.every > 1 and not fn.support.is_discrete:
            nodes, log_weight = nodes[:: self.every], log_weight[:: self.every] + math.log(self.every)
        self.states *= len(nodes)
        if self.counting:
            nodes, log_weight = nodes[:1], log_weight[:1]
        shape = (-1, *[1] * (-dim - 1))
        nodes, log_weight = (part.reshape(shape) if part.dim() == 1 else part for part in (nodes, log_weight))
        support = _bare(fn.support)
        if isinstance(support, type(constraints.interval(0, 1))) and not support.is_discrete:
            low, high = (
                torch.as_tensor(end, dtype=torch.float64) for end in (support.lower_bound, support.upper_bound)
            )
            low, high = (_lead(end, 2) for end in (low, high))
            log_weight = log_weight + (high - low).log()
            nodes = low + (high - low) * nodes
        run.terms.append(Term(f"{name}'s nodes", "node", level, log_weight))
        return nodes


@dataclass
class Draw:
    """Draws ``[S, J or 1, N or 1]`` of each latent."""

    num: int

    def value(self, name: str, fn: Any, level: str, run: Interpreter) -> Tensor:
        shape = torch.broadcast_shapes(
            fn.batch_shape, (self.num, run.num_inner if level == "inner" else 1, 1 if level == "outside" else run.num)
        )
        fn = fn.expand(shape)
        return fn.rsample() if fn.has_rsample else fn.sample()


class Interpreter:
    """Runs a program in plain torch.

    Args:
        env: arguments, parameters and constants by name.
        num: data, N.
        num_inner: size of the inner plate, J.
        latents: gives the value of a latent (a :class:`Grid` or a :class:`Draw`).
        values: of latents that are known already, by name.
        simulating: whether what is observed is drawn, and written into the arguments.

    Attributes:
        terms: the densities, in the order of the program.
        values: of the latents, by name.
        own: the names of those that were not given.
    """

    def __init__(
        self,
        env: dict[str, Any],
        num: int,
        num_inner: int,
        latents: Grid | Draw,
        values: dict[str, Tensor] | None = None,
        simulating: bool = False,
    ) -> None:
        self.env = {"torch": torch, "dist": dist, **env}
        self.num, self.num_inner, self.latents = num, num_inner, latents
        self.values, self.simulating = dict(values or {}), simulating
        self.terms: list[Term] = []
        self.own: set[str] = set()

    def run(self, body: Sequence[Any]) -> Interpreter:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            self._run(body, "outside", 1.0, None)
        finally:
            torch.set_default_dtype(before)
        return self

    def _eval(self, expression: str) -> Any:
        return eval(expression, self.env)

    def _run(self, body: Sequence[Any], level: str, scale: Any, mask: Any) -> None:
        for statement in body:
            match statement:
                case Param(name, value):
                    self.env.setdefault(name, torch.tensor(value, dtype=torch.float64))
                case Let(var, expression, _) if not (self.simulating and expression == f"{var}[i]"):
                    self.env[var] = self._eval(expression)
                case Sample():
                    self._sample(statement, level, scale, mask)
                case Factor(name, expression):
                    value = torch.as_tensor(self._eval(expression))
                    self._add(name, "factor", level, value, scale, mask)
                case Noise(var, _, _):
                    fn = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
                    self.env[var] = value = self.latents.value(var, fn, level, self)
                    self._add(var, "noise", level, fn.log_prob(value), 1.0, None)
                case Plate(_, inner, _, inside, index, _):
                    if index is not None:
                        self.env[index] = torch.arange(self.num)
                    self._run(inside, inner, scale, mask)
                case Scale(expression, inside):
                    self._run(inside, level, scale * self._eval(expression), mask)
                case Mask(expression, inside):
                    new = torch.as_tensor(self._eval(expression))
                    self._run(inside, level, scale, new if mask is None else mask & new)
                case Loop(_, length, inside):
                    for t in range(length):
                        self.env["t"] = t
                        self._run(inside, level, scale, mask)

    def _sample(self, statement: Sample, level: str, scale: Any, mask: Any) -> None:
        fn: Any = self._eval(statement.fn)
        name = statement.name.replace("{t}", str(self.env.get("t")))
        if statement.masked:
            new = torch.as_tensor(self._eval(statement.masked))
            mask = new if mask is None else mask & new
        if statement.obs is None:
            if name not in self.values:
                self.values[name] = self.latents.value(name, fn, level, self)
                self.own.add(name)
            self.env[statement.var] = value = self.values[name]
            self._add(name, "latent", level, fn.log_prob(value), scale, mask)
            return
        value = self._eval(statement.obs)
        if self.simulating:
            shape = torch.broadcast_shapes(fn.batch_shape, (1, self.num_inner if level == "inner" else 1, self.num))
            value.copy_(fn.expand(shape).sample().reshape(value.shape))
        if statement.obs_mask:
            seen = torch.as_tensor(self._eval(statement.obs_mask))
            mask = seen if mask is None else mask & seen
        self._add(name, "observed", level, fn.log_prob(value), scale, mask)

    def _add(self, name: str, kind: str, level: str, log_prob: Tensor, scale: Any, mask: Any) -> None:
        self.terms.append(Term(name, kind, level, _lead(log_prob, 2), scale, mask))


def _lead(value: Tensor, dims: int) -> Tensor:
    return value.reshape((1,) * max(0, dims - value.dim()) + tuple(value.shape))


def dist_base(fn: Any) -> Any:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _bare(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


_STEP = 0.25


def _nodes(fn: Any) -> tuple[Tensor, Tensor]:
    """Values of one number of a distribution's support and the logs of their weights: trapezoids on the real line.

    They are spectrally exact for smooth densities that are some steps wide; bounded supports are mapped there.
    """
    support = _bare(fn.support)
    if support.is_discrete:
        values = dist_base(fn).enumerate_support(expand=False)
        values = values.reshape(-1).double() if values.is_floating_point() else values.reshape(-1)
        return values, torch.zeros(len(values), dtype=torch.float64)
    if isinstance(support, type(constraints.real)):
        u = torch.arange(-12, 12 + _STEP / 2, _STEP, dtype=torch.float64)
        return u, torch.full_like(u, _STEP).log()
    if isinstance(support, type(constraints.interval(0, 1))):
        u = torch.arange(-24, 24.1, 0.4, dtype=torch.float64)
        return u.sigmoid(), (0.4 * u.sigmoid() * (-u).sigmoid()).log()
    if isinstance(support, (type(constraints.positive), type(constraints.nonnegative))):
        u = torch.arange(-20, 6.1, _STEP, dtype=torch.float64)
        return u.exp(), u + torch.full_like(u, _STEP).log()
    raise NotImplementedError(f"no nodes on {support}")


# Sums over a grid


def log_sum(terms: Sequence[tuple[str, Tensor]], axes: Sequence[tuple[int, str]]) -> Tensor:
    """log of the sum over all axes of the product over data and inner plate: ``[N]``, or ``[]`` with axes outside."""

    def reduced(value: Tensor, level: str) -> Tensor:
        dims = [dim for dim, its in axes if its == level and -dim <= value.dim()]
        return value.logsumexp(dims, keepdim=True) if dims else value

    def total(level: str) -> Any:
        return sum(value for its, value in terms if its == level)

    value = torch.as_tensor(total("inner"))
    value = reduced(value, "inner").sum(-2, keepdim=True) if value.dim() else value
    value = reduced(torch.as_tensor(value + total("data")), "data")
    if any(its == "outside" for _, its in axes):
        value = reduced(value.sum(-1, keepdim=True) + total("outside"), "outside")
        return value.reshape(())
    return torch.as_tensor(value + total("outside")).reshape(-1)


def expectation(
    weights: Sequence[tuple[str, Tensor]], values: Sequence[tuple[str, Tensor]], axes: Sequence[tuple[int, str]]
) -> list[Tensor]:
    """Of each value its expectation under the weights' product: ``[N]``, or ``[1]`` of one outside the data plate."""
    levels = ("outside", "data", "inner")
    found = []
    for level, value in values:
        within = levels[: levels.index(level) + 1]
        log_weight: Any = sum(w for its, w in weights if its in within)
        log_weight = torch.as_tensor(log_weight, dtype=torch.float64)
        weight = log_weight.exp()
        dims = [dim for dim, its in axes if its in within]
        product = torch.where(weight > 0, weight * value, torch.zeros((), dtype=weight.dtype))
        # an axis on which neither depends has summed weights of one
        product = product if not dims else _sum_axes(product, weight, dims)
        found.append(product.sum(-2).reshape(-1))
    return found


def _sum_axes(product: Tensor, weight: Tensor, dims: Sequence[int]) -> Tensor:
    have = [dim for dim in dims if -dim <= product.dim()]
    return product.sum(have, keepdim=True).reshape(product.shape[-2:]) if have else product
