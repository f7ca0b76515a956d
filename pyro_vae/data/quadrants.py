"""Images of which a part is given and the rest is missing: structured output."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.data.data import Data


def missing_pixels(height: int, width: int, quadrants: int) -> Tensor:
    """``[H, W]``, true where a pixel is missing, when so many quadrants of an image are given.

    1: the lower left one, 2: the left half, 3: all but the lower right one.
    """
    given = torch.zeros(height, width, dtype=torch.bool)
    given[height // 2 :, : width // 2] = True
    if quadrants == 2:
        given[:, : width // 2] = True
    elif quadrants == 3:
        given[:, : width // 2] = given[: height // 2] = True
    return ~given


@dataclass(frozen=True, eq=False)
class Quadrants(Data):
    """Data whose x are the missing pixels of images, ``[N, D]``, and whose second argument is the rest of each.

    Attributes:
        missing: ``[H, W]``, true where a pixel is missing. The second argument, ``[N, C, H, W]``, is 0 there.
    """

    missing: Tensor = field(kw_only=True)

    def completed(self, x: Tensor, c: Tensor) -> Tensor:
        """The images ``[*, C, H, W]``, in [0, 1], of missing pixels ``x: [*, D]``, or their means, and the rest."""
        found = (c / 255 if c.dtype == torch.uint8 else c).to(x.dtype).expand(*x.shape[:-1], *c.shape[-3:]).clone()
        found[..., self.missing.to(x.device)] = x.unflatten(-1, (c.shape[-3], -1))
        return found


def divided(missing: Tensor) -> list[Any]:
    """What makes x and the second argument of images ``[N, C, H, W]``."""
    return [functools.partial(_missing, missing=missing), functools.partial(_rest, missing=missing)]


def _missing(images: Tensor, missing: Tensor) -> Tensor:
    return images[..., missing].flatten(1)


def _rest(images: Tensor, missing: Tensor) -> Tensor:
    return images.masked_fill(missing, 0)
