"""What is known of an estimator, for a table."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


class Axis:
    """A part of an estimator, by whose options a run folder knows it again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(frozen=True)
class Facts:
    """The known facts of an estimator, with K, L, M as in its docstring.

    Attributes:
        bounds: what its value bounds, in expectation.
        gradient: what its gradient is unbiased for.
        sites: which random variables it can take.
        cost: evaluations of the model and of the guide, for one gradient and one datum.
        source: where it is from.
    """

    bounds: str = ""
    gradient: str = ""
    sites: str = ""
    cost: str = ""
    source: str = ""

    def over(self, other: Facts) -> Facts:
        """These facts, and of what they do not say those of ``other``."""
        return Facts(*(getattr(self, field.name) or getattr(other, field.name) for field in fields(Facts)))


def facts_of(kind: type, bound: Any, gradient: Any, per_datum: bool) -> Facts:
    """The facts of a class of estimators: those that it and its bases know, then what follows from bound and gradient.

    ``per_datum`` is whether each datum is weighed by itself; the source is that of the docstring.
    """
    _, said, source = inspect.cleandoc(kind.__doc__ or "").rpartition("\n\nSource: ")
    facts = Facts(
        bound.fact,
        "the ELBO's" if bound.linear else "the bound's",
        gradient.sites + (", in the data plate" if per_datum else ""),
        f"{'L' if bound.linear else 'K' if bound.num_groups == 1 else 'M K'} {gradient.cost}",
        re.sub(r"\((\d+)\)", r"\1", " ".join(source.split())).removesuffix(".") if said else "",
    )
    for base in reversed(kind.__mro__):
        facts = vars(base).get("known", Facts()).over(facts)
    return facts


def facts_table(estimators: Sequence[Any], width: int = 120) -> str:
    """The facts of estimators, or of classes of them, as a table of ``width`` characters, or as long words ask.

    >>> import pyro_vae as pv
    >>> from pyro_vae import estimators
    >>> estimators.facts_table([pv.IWAE(5), pv.SGVB_B()]).splitlines()[0].split()
    ['estimator', 'bounds', 'gradient', 'sites', 'cost', 'source']
    """
    header = ["estimator", *(field.name for field in fields(Facts))]
    made = [one if isinstance(one.facts, Facts) else one.example() for one in estimators]
    rows = [[type(one).__name__, *(getattr(one.facts, column) for column in header[1:])] for one in made]
    first = max(len(row[0]) for row in [header, *rows])
    column = (max(width, 90) - first) // (len(header) - 1) - 2
    cells = [
        [textwrap.wrap(cell, column if index else first, break_long_words=False) for index, cell in enumerate(row)]
        for row in rows
    ]
    cells.insert(0, [[name] for name in header])
    widths = [max(len(line) for row in cells for line in row[index]) for index in range(len(header))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for row in cells:
        for index in range(max(len(cell) for cell in row)):
            parts = [cell[index] if index < len(cell) else "" for cell in row]
            lines.append("  ".join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip())
        lines.append(rule)
    return "\n".join(lines)
