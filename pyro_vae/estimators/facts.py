"""What is known of an estimator, for a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Facts:
    """The known facts of an estimator, with K, M as in its docstring.

    Attributes:
        bounds: what its value bounds, in expectation.
        gradient: what its gradient is unbiased for.
        sites: which random variables it can take.
        cost: evaluations of the model and of the guide, for one gradient and one datum.
        source: where it is from.
    """

    bounds: str
    gradient: str
    sites: str
    cost: str
    source: str


def facts_table(estimators: Sequence[type], width: int = 30) -> str:
    """The facts of classes of estimators as a table of text, one estimator a row, columns at most ``width`` wide."""
    names = [field.name for field in fields(Facts)]
    rows = [["estimator", *names]]
    for estimator in estimators:
        facts = estimator.facts  # type: ignore[attr-defined]
        rows.append([estimator.__name__, *(getattr(facts, name) for name in names)])
    cells = [[textwrap.wrap(cell, width) or [""] for cell in row] for row in rows]
    widths = [max(len(line) for row in cells for line in row[column]) for column in range(len(rows[0]))]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for row in cells:
        for index in range(max(len(cell) for cell in row)):
            parts = [cell[index] if index < len(cell) else "" for cell in row]
            lines.append("  ".join(part.ljust(size) for part, size in zip(parts, widths, strict=True)).rstrip())
        lines.append(rule)
    return "\n".join(lines)
