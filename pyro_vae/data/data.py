"""Data: a set to train on, and those to choose and to report by."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from pyro_vae.data.arrays import dtypes, extremes, is_classes, moments
from pyro_vae.data.rows import Rows
from pyro_vae.data.sets import Split, Stream

if TYPE_CHECKING:
    from pyro_vae.data.mixed import Mixed


@dataclass(frozen=True)
class Data:
    """Named data: a set to train on, and perhaps one to choose by (valid) and one to report (test).

    Attributes:
        columns: of a table that names them, the names of the columns of x; else ``None``.

    Raises:
        ValueError: if the splits' event shapes differ, or one has pixels of 0 to 255 and another other numbers.
    """

    name: str
    train: Split | Stream | Mixed
    valid: Split | Stream | Mixed | None = None
    test: Split | Stream | Mixed | None = None
    columns: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for part, split in (("valid", self.valid), ("test", self.test)):
            # a stream is not asked: it would have to draw a batch to know
            if isinstance(self.train, Split) and isinstance(split, Split) and split.event_shape != self.event_shape:
                raise ValueError(
                    f"{part} of {self.name!r} has data of shape {list(split.event_shape)} and train of"
                    f" {list(self.event_shape)}; they must be equal."
                )
            if isinstance(self.train, Split) and isinstance(split, Split):
                ours, theirs = self.train.tensors[0], split.tensors[0]
                for pixels, others in ((ours, theirs), (theirs, ours)):
                    if pixels.dtype == torch.uint8 != others.dtype and (high := extremes(others)[1]) > 1:
                        raise ValueError(
                            f"train of {self.name!r} is {dtypes([ours])} and {part} {dtypes([theirs])}: uint8 are "
                            f"pixels, of which programs see x / 255, and the others go up to {high:.4g}."
                            " Give both of one kind."
                        )

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, e.g. (1, 28, 28)."""
        return self.train.event_shape

    @property
    def condition_shape(self) -> int | tuple[int, ...] | None:
        """Of the second argument of model and guide, or else of the labels, which can be one.

        The number of classes where it is a whole number for each datum, otherwise the shape of one; ``None`` where
        there is neither.

        >>> from pyro_vae.data import load
        >>> load("digits").condition_shape
        10
        """
        second = _second(self.train)
        if second is None:
            return None
        if not is_classes(second[:1]):  # which may lie in a file
            return tuple(second.shape[1:])
        parts = [_second(split) for split in (self.train, self.valid, self.test) if split is not None]
        return 1 + max(int(extremes(part)[1]) for part in parts if part is not None)

    @property
    def condition_mean(self) -> Tensor | None:
        """The mean of what :attr:`condition_shape` is of, float32, where it is numbers; pixels in [0, 1]."""
        second = _second(self.train)
        if second is None or is_classes(second[:1]):
            return None
        total = torch.stack([part.double().sum(0) for part in second.split(4096)]).sum(0)
        return (total / (len(second) * (255 if second.dtype == torch.uint8 else 1))).float()

    @property
    def condition_scale(self) -> Tensor | None:
        """The standard deviations of the numbers that :attr:`condition_shape` is of, where these are columns, float32.

        ``None`` where they are no columns or lie in [0, 1], as pixels do; of a constant one it is 1.
        """
        second = _second(self.train)
        if second is None or second.dim() != 2 or second.dtype == torch.uint8 or is_classes(second[:1]):
            return None
        low, high = extremes(second)
        if low >= 0 and high <= 1:
            return None
        return moments(second)[1].float()

    def original(self, x: Tensor) -> Tensor:
        """x or its means, ``[*, *event]``, in the units that were given: as they are, unless they are standardized."""
        return x

    def with_labels(self, name: str = "labels") -> Self:
        """The same data, whose labels are the last argument of model and guide.

        Args:
            name: by which they are passed, where the others are passed by name.

        Raises:
            ValueError: if a set has no labels.

        >>> from pyro_vae.data import load
        >>> x, y = load("digits").with_labels().train.batch([0, 1])
        >>> x.shape, y.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2]))
        """
        changed: dict[str, Any] = {}
        for part, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if isinstance(split, Split) and split.labels is not None:
                changed[part] = copy.copy(split)  # not the constructor: what is binarized once stays as it was drawn
                changed[part].tensors = (*split.tensors, split.labels)
                changed[part].names = None if split.names is None else (*split.names, name)
            elif split is not None:
                raise ValueError(
                    f"the {part} set of {self.name!r} has no labels to pass. Give a .npz file with x and y, a table and"
                    " labels= the name of a column, or a folder of images with a subfolder for each class."
                )
        return dataclasses.replace(self, **changed)

    def with_mask(self, name: str = "mask") -> Self:
        """The same data, whose last argument is the mask of x, ``[N, *event]``: true where x is not NaN.

        What is missing of x is 0 then, so that programs meet no NaN.

        Args:
            name: by which the mask is passed, where the others are passed by name.

        Raises:
            ValueError: if a set is a stream, whose loader gives its arguments itself.

        >>> x = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
        >>> [argument.tolist() for argument in Data("two", Split(x, missing=True)).with_mask().train.batch([0])]
        [[[1.0, 0.0]], [[True, False]]]
        """
        changed: dict[str, Any] = {}
        for part, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if isinstance(split, Split):
                x: Any = split.tensors[0]
                both = [x.mapped(change) if isinstance(x, Rows) else change(x) for change in (_filled, _observed)]
                changed[part] = copy.copy(split)  # as in with_labels
                changed[part].tensors = (both[0], *split.tensors[1:], both[1])
                changed[part].names = None if split.names is None else (*split.names, name)
            elif split is not None:
                raise ValueError(
                    f"the {part} set of {self.name!r} is a stream, whose loader gives all arguments. Have it give the "
                    "mask as well: (x.nan_to_num(), ~x.isnan())."
                )
        return dataclasses.replace(self, **changed)

    def held(self, n: int) -> Split:
        """The first n data of the test set, or of the validation or training set where there is none, in memory."""
        return (self.test or self.valid or self.train).take(n)

    def describe(self) -> str:
        """One line: counts, shape and binarization.

        >>> from pyro_vae.data import load
        >>> load("digits").describe()
        'digits: 1,297 train, 250 valid, 250 test images of 1 x 8 x 8, binarization none'
        """
        counts = []
        for part, split in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if isinstance(split, Split):
                counts.append(f"{len(split):,} {part}")
            elif split is not None and not isinstance(split, Stream):
                counts.append(f"{split.num_data or 'mixed':,} {part}")
            elif split is not None:
                batches = split.num_batches()
                counts.append(f"{part} streamed" + ("" if batches is None else f" in {batches:,} batches"))
        shape = self.event_shape
        kind = "images" if len(shape) == 3 else "data"
        size = " x ".join(str(n) for n in shape) if shape else "1"
        return f"{self.name}: {', '.join(counts)} {kind} of {size}, binarization {self.train.binarization}"


def _filled(rows: Tensor) -> Tensor:
    return torch.where(rows.isnan(), 0, rows)


def _observed(rows: Tensor) -> Tensor:
    return ~rows.isnan()


def _second(split: Any) -> Any:
    """The second tensor of a set, or else its labels; ``None`` of a stream, which would have to draw a batch."""
    tensors: Any = () if isinstance(split, Stream) else getattr(split, "tensors", ())
    return tensors[1] if len(tensors) > 1 else getattr(split, "labels", None)
