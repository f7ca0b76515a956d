"""What pairs of sequences have in common: how a datum is read as steps, and which of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._checks import is_dense, shown
from pyro_vae._torch import has_values
from pyro_vae.likelihoods import Classes, Normal
from pyro_vae.models.parts import with_network
from pyro_vae.networks import MLP, shape_of


@dataclass(frozen=True)
class Layout:
    """How data ``[B, *event_shape]`` are steps ``[B, T, *step_shape]``; the number of steps T is that of the data.

    Args:
        who: the pair, for messages.
        event_shape: ``(T, *step_shape)``; of images ``(C, H, W)``, which are read row by row, the rows are the steps,
            ``(C, W)`` each.

    Raises:
        ValueError: if a size is below 1.
    """

    who: str
    event_shape: torch.Size

    @classmethod
    def of(cls, who: str, event_shape: Sequence[int]) -> Layout:
        return cls(who, shape_of("event_shape", event_shape))

    @property
    def axis(self) -> int:
        """The dimension of an event that counts its steps."""
        return int(len(self.event_shape) == 3)

    @property
    def num_steps(self) -> int:
        """T of ``event_shape``."""
        return self.event_shape[self.axis]

    @property
    def step_shape(self) -> torch.Size:
        sizes = list(self.event_shape)
        del sizes[self.axis]
        return torch.Size(sizes)

    def steps(self, x: Tensor) -> Tensor:
        """``[B, T, *step_shape]``.

        Raises:
            TypeError: if x is no tensor.
            ValueError: if it holds no sequences of such steps.
        """
        sizes: list[Any] = list(self.event_shape)
        sizes[self.axis] = "T"
        if not is_dense(x):
            raise TypeError(f"x of a {self.who} is a dense tensor [B, {', '.join(map(str, sizes))}]; got {shown(x)}.")
        found = list(x.shape[1:])
        fits = len(found) == len(sizes) and found[self.axis] > 0
        if not fits or any(size not in ("T", other) for size, other in zip(sizes, found, strict=True)):
            raise ValueError(
                f"x of this {self.who} is of shape [B, {', '.join(map(str, sizes))}], T at least 1; got "
                f"{list(x.shape)}. Give the shape of one sequence as event_shape."
            )
        return x.movedim(1 + self.axis, 1)

    def present(self, x: Tensor | None, lengths: Tensor | None, gaps: bool = True) -> Tensor | None:
        """``[B, T]``, which steps of x are there; ``None`` where all are.

        Args:
            x: the data.
            lengths: ``[B]``, how many steps are there, or ``[B, T]``, booleans, which.
            gaps: whether a step may be missing before one that is there.

        Raises:
            TypeError: if ``lengths`` is no tensor of these.
            ValueError: if it is of another shape, a length is none of 1 to T, or a sequence has no step at all.
        """
        if lengths is None:
            return None
        if x is None:
            raise ValueError(f"lengths are those of data, and this {self.who} was given none. Give x as well.")
        count, num_steps = len(x), x.shape[1 + self.axis]
        if not is_dense(lengths):
            raise TypeError(
                f"lengths of a {self.who} are a tensor [{count}] of whole numbers, or [{count}, {num_steps}] of "
                f"booleans; got {shown(lengths)}."
            )
        wanted = (count, num_steps) if lengths.dtype == torch.bool else (count,)
        if lengths.shape != wanted:
            raise ValueError(
                f"lengths of {count} sequences of up to {num_steps} steps are [{count}] whole numbers, or [{count}, "
                f"{num_steps}] booleans; got {list(lengths.shape)} of {lengths.dtype}.".replace("torch.", "")
            )
        if lengths.dtype == torch.bool:
            self._check_mask(lengths, gaps)
            return lengths
        if has_values(lengths):
            wrong = lengths[~((lengths >= 1) & (lengths <= num_steps) & (lengths == lengths.floor()))]
            if len(wrong):
                raise ValueError(
                    f"{wrong[0].item():g} is no length of a sequence of x, which has {num_steps} steps: lengths are "
                    f"the whole numbers 1 to {num_steps}. Pad x to the longest, and leave out sequences without a step."
                )
        return torch.arange(num_steps, device=x.device) < lengths.unsqueeze(-1)

    def _check_mask(self, mask: Tensor, gaps: bool) -> None:
        if not has_values(mask):
            return
        if not bool(mask.any(-1).all()):
            first = int((~mask.any(-1)).nonzero()[0])
            raise ValueError(f"sequence {first} of x has no step that is there. Leave it out.")
        if not gaps and bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError(
                f"a {self.who} draws each step given those before it, so that none of these can be missing; the mask "
                "has gaps. Take a DeepMarkovModel, or cut the sequences at their first gap."
            )


def until_the_last(present: Tensor | None) -> Tensor | None:
    """``[B, T]``: the steps up to the last that is there."""
    return None if present is None else present.flip(-1).long().cumsum(-1).flip(-1) > 0


def only(steps: Tensor, present: Tensor | None) -> Tensor:
    """``[B, T, *step]`` with 0 where nothing is."""
    if present is None:
        return steps
    return torch.where(present.reshape(*present.shape, *(1 for _ in steps.shape[2:])), steps, steps.new_zeros(()))


def emission(
    likelihood: Any, layout: Layout, in_dim: int, hidden: Sequence[int], activation: type[nn.Module]
) -> nn.Module:
    """p(x_t | state) of one step, by a dense network of a state of ``in_dim``.

    Raises:
        ValueError: if a step has no size that the likelihood can be of, or its scale is taken of whole batches.
    """

    def network(shape: tuple[int, ...]) -> nn.Module:
        if not shape:
            raise ValueError(
                f"a step of this {layout.who} is one number: give event_shape=({layout.num_steps}, 1), and x of shape "
                f"[B, T, 1]; only of likelihoods.Classes data may be [B, T]. Got {tuple(layout.event_shape)}."
            )
        return MLP(in_dim, shape, hidden, activation)

    made = with_network(likelihood, layout.step_shape, network, default=layout.step_shape)
    if isinstance(made, Normal) and made.scale == "optimal":
        raise ValueError(
            f"the scale 'optimal' is that of all numbers of a batch, also of steps that are not there. Give the "
            f"likelihood of a {layout.who} scale='shared', None, or a number."
        )
    return made


def shown_size(likelihood: Any, step_shape: torch.Size) -> int:
    """How many numbers networks see of a step."""
    return step_shape.numel() * (likelihood.num_classes if isinstance(likelihood, Classes) else 1)


def seen_by_networks(likelihood: Any, steps: Tensor, step_dims: int, dtype: torch.dtype) -> Tensor:
    """``[*, F]``, what networks see of ``steps: [*, *step]``: one-hot vectors of classes, else the numbers."""
    seen = likelihood.one_hot(steps) if isinstance(likelihood, Classes) else steps
    return seen.reshape(*steps.shape[: steps.dim() - step_dims], -1).to(dtype)
