"""What conditional sampling gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Method = Literal["auto", "guide", "prior", "chains"]

_HOW = {"guide": "from the guide, weighed", "prior": "from the prior, weighed", "chains": "of chains"}


@dataclass(frozen=True)
class Draws:
    """Draws of a pair's sites under a condition. Printed, a sentence.

    Attributes:
        sites: by name, ``[S, *event]`` under a predicate, ``[S, N, *event]`` under N conditions; given ones as they
            were given.
        effective_sample_size: ``[]``, or ``[N]``: how many independent draws they are chosen of.
        method: ``"guide"``, ``"prior"`` or ``"chains"``.
        num_drawn: how many draws were made, of each condition.
        r_hat: ``[N]``, split R-hat of chains, 1 where they agree; ``None`` where there are none.
    """

    sites: dict[str, Tensor]
    effective_sample_size: Tensor
    method: str
    num_drawn: int
    r_hat: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.sites[name]

    def __str__(self) -> str:
        agree = "" if self.r_hat is None else f", R-hat at most {self.r_hat.max():.3f}"
        return (
            f"{len(next(iter(self.sites.values()))):,} draws of {', '.join(self.sites)}, chosen of {self.num_drawn:,} "
            f"{_HOW[self.method]}; effective sample size at least {self.effective_sample_size.min():.1f}{agree}"
        )


def check_effective(effective: float, drawn: int, wanted: int, others: str = "") -> None:
    """Refuses weighed draws that are worth fewer independent ones than are asked for.

    Raises:
        ValueError: if they are.
    """
    if effective < wanted * (1 - 1e-6):  # rounding
        raise ValueError(
            f"the effective sample size of {drawn:,} weighed draws is {effective:.1f}, below the {wanted:,} draws that "
            "are asked for, so that a few values would come again and again. Ask for fewer draws, allow more "
            f"(max_draws), or condition on less{others}."
        )
