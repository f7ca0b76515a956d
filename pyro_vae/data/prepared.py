"""What kind of numbers data are, and the same data with another x: binarized, standardized."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.data.arrays import extremes, moments
from pyro_vae.data.data import Data
from pyro_vae.data.draws import Binarization
from pyro_vae.data.sets import Split


def kind_of(split: Split) -> Literal["binary", "gray", "counts", "real"]:
    """What x is: 0 and 1; gray pixels, which are uint8, images in [0, 1] or levels k / 255; counts; or real numbers.

    What is missing tells nothing.
    """
    x = split.tensors[0]
    if x.dtype == torch.uint8:
        return "binary" if all(bool(((part == 0) | (part == 255)).all()) for part in x.split(4096)) else "gray"
    low, high = extremes(x)
    if all(bool(((part == part.round()) | part.isnan()).all()) for part in x.split(4096)):
        return "real" if low < 0 else "binary" if high <= 1 else "counts"
    if low < 0 or high > 1:
        return "real"
    off = (bool(((255 * part - (255 * part).round()).abs() >= 0.01).any()) for part in x.split(4096))
    on_levels = not any(off)
    return "gray" if x.dim() == 4 or on_levels else "real"


def with_x(data: Data, change: Callable[[Tensor], Tensor], binarization: Binarization = "none") -> Data:
    """The data with what ``change`` makes of some rows of x, ``[B, *event]``, in each of their splits."""
    splits: dict[str, Any] = {}
    for part in ("train", "valid", "test"):
        split = getattr(data, part)
        if split is not None:
            options: dict[str, Any] = {"labels": split.labels, "seed": split.seed, "name": split.name, "missing": True}
            x = change(split.tensors[0]) if split.in_memory else split.tensors[0].mapped(change)
            splits[part] = type(split)(x, *split.tensors[1:], binarization=binarization, **options)
    return dataclasses.replace(data, **splits)


def _standardized(rows: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return ((rows.double() - loc) / scale).float()


@dataclass(frozen=True, eq=False)
class Standardized(Data):
    r"""Data whose columns are standardized, :math:`u = (x - \mathrm{loc}) / \mathrm{scale}`.

    Attributes:
        loc, scale: mean and standard deviation of each column of the training set, ``[*event]``, float64, of what is
            not missing of it; the scale of a column that does not vary is 1.
        constant: how many columns do not vary.
    """

    loc: Tensor = field(kw_only=True)
    scale: Tensor = field(kw_only=True)
    constant: int = field(kw_only=True)

    @classmethod
    def of(cls, data: Data) -> Standardized:
        """The data with standardized columns."""
        x: Any = data.train.tensors[0]  # type: ignore[union-attr]  # load gives no streams
        loc, scale, varies = moments(x)
        standard = with_x(data, functools.partial(_standardized, loc=loc, scale=scale))
        return cls(
            data.name,
            standard.train,
            standard.valid,
            standard.test,
            columns=data.columns,
            loc=loc,
            scale=scale,
            constant=int((~varies).sum()),
        )

    def standardized(self, split: Split) -> Split:
        """Other data of the same columns, in the units of these."""
        standard = with_x(Data(split.name, split), functools.partial(_standardized, loc=self.loc, scale=self.scale))
        return standard.train  # type: ignore[return-value]  # of a split one is made

    @property
    def log_scale(self) -> float:
        """What log p(u) is above log p(x) of whole data, in nats: the sum of the log scales."""
        return self.scale.log().sum().item()

    def log_scale_of(self, *batch: Tensor) -> Tensor:
        """``[B]``: :attr:`log_scale` of the entries of each datum that are observed, of arguments of a program."""
        x, *others = batch
        masks = [other for other in others if other.dtype == torch.bool and other.shape == x.shape]
        observed = masks[-1] if masks else ~x.isnan()
        return (observed * self.scale.log().to(x.device)).flatten(1).sum(1)

    def mean_log_scale(self, part: Literal["train", "valid", "test"] = "train") -> float:
        """The mean of :meth:`log_scale_of` over a set."""
        split: Any = getattr(self, part)
        found = [self.log_scale_of(*batch) for batch in split.batches(4096)]
        return torch.cat(found).mean().item()

    def original(self, u: Tensor) -> Tensor:
        """u or its means, ``[*, *event]``, in the units of x."""
        return (u * self.scale.to(u.device) + self.loc.to(u.device)).to(u.dtype)

    def describe(self) -> str:
        return f"{super().describe()}, columns standardized"
