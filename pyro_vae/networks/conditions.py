"""What programs are given besides the data, as vectors that networks see; and parts of two inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked, is_tensor, shown, whole
from pyro_vae._recipes import Remembered
from pyro_vae._torch import has_values
from pyro_vae.networks.shapes import check_input, shape_of


class OneHot(Remembered, nn.Module):
    """Classes as vectors of 0 and 1, ``[*] -> [*, K]``.

    Args:
        num_classes: K; classes are the whole numbers 0 ... K - 1.

    Raises:
        ValueError: if a number is none of the classes. A graph does not look at values: there it becomes NaN, so that
            no such datum counts as one of no class, and training stops.

    >>> OneHot(3)(torch.tensor([2, 0]))
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """

    in_shape = torch.Size(())  # of one label
    one: Tensor

    @checked
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        whole(num_classes=num_classes)
        self.num_classes = int(num_classes)
        self.register_buffer("one", torch.ones(()), persistent=False)  # knows the dtype

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}"

    def forward(self, c: Tensor) -> Tensor:
        if not is_tensor(c):
            raise TypeError(f"classes are a tensor of whole numbers; got {shown(c)}.")
        number = c.long()
        known = (number == c) & (number >= 0) & (number < self.num_classes)
        if has_values(c) and not known.all():
            raise ValueError(
                f"{c[~known][0].item():g} is no class of {self.num_classes}: they are the whole numbers 0 to "
                f"{self.num_classes - 1}, one for each datum. Number the classes anew, or build the pair for more."
            )
        one_hot = number[..., None] == torch.arange(self.num_classes, device=c.device)
        return torch.where(known[..., None], one_hot.to(self.one.dtype), self.one * torch.nan)


class Numbers(Remembered, nn.Module):
    """Numbers of any shape as vectors, ``[*, *in_shape] -> [*, D]``, or as they stand, less a mean and by a scale.

    uint8 are pixels, and become parts of 255; other integers and booleans are numbers.

    Args:
        in_shape: event shape of the input.
        mean: ``[*in_shape]``, which is subtracted; kept with the weights.
        flat: whether they become vectors.
        scale: ``[*in_shape]``, by which they are divided then; kept with the weights.

    Raises:
        ValueError: if ``mean`` is not finite or of another shape, ``scale`` also if it is not positive, or the input is
            of another shape.
    """

    mean: Tensor
    scale: Tensor

    @checked
    def __init__(
        self,
        in_shape: int | Sequence[int],
        mean: Tensor | None = None,
        flat: bool = True,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_shape = shape_of("in_shape", in_shape)
        self.flat = flat
        given = torch.zeros(self.in_shape) if mean is None else mean
        if given.shape != self.in_shape or not given.isfinite().all():
            raise ValueError(f"the mean has to be finite and of the shape {list(self.in_shape)}; got {shown(mean)}.")
        self.register_buffer("mean", given.clone())
        given = torch.ones(self.in_shape) if scale is None else scale
        if given.shape != self.in_shape or not (given.isfinite() & (given > 0)).all():
            raise ValueError(
                f"the scale has to be positive, finite and of the shape {list(self.in_shape)}; got {shown(scale)}."
            )
        self.register_buffer("scale", given.clone())

    def extra_repr(self) -> str:
        return f"in_shape={tuple(self.in_shape)}, flat={self.flat}"

    def forward(self, c: Tensor) -> Tensor:
        check_input(self, c, self.in_shape)
        if not c.is_floating_point():
            c = c.to(self.mean.dtype) / (255 if c.dtype == torch.uint8 else 1)
        c = (c - self.mean) / self.scale
        return c.flatten(-len(self.in_shape)) if self.flat else c


class Joined(Remembered, nn.Module):
    """A part of one vector, such as a posterior, given two inputs side by side: ``part([a, c])``.

    Args:
        part: of vectors ``[*, D + C]``.
        in_shape: event shape of a, of D elements; c is a vector, ``[*, C]``. Their leading dimensions broadcast.

    Raises:
        ValueError: if a has another event shape, or the leading dimensions do not go together.
    """

    @checked
    def __init__(self, part: nn.Module, in_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.part = part
        self.in_shape = shape_of("in_shape", in_shape)

    def forward(self, a: Tensor, c: Tensor) -> object:
        check_input(self, a, self.in_shape)
        return self.part(side_by_side(a.flatten(-len(self.in_shape)), c))


@checked
def side_by_side(a: Tensor, c: Tensor, dim: int = -1) -> Tensor:
    """Both in ``dim``, counted from the right, with the dimensions left of it broadcast.

    Raises:
        ValueError: if they differ in other dimensions.

    >>> import torch
    >>> from pyro_vae import networks
    >>> networks.side_by_side(torch.ones(5, 3, 4), torch.zeros(3, 2)).shape
    torch.Size([5, 3, 6])
    """
    try:
        leading = torch.broadcast_shapes(a.shape[:dim], c.shape[:dim])
        return torch.cat([part.expand(*leading, *part.shape[dim:]) for part in (a, c)], dim)
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"tensors of the shapes {list(a.shape)} and {list(c.shape)} cannot stand side by side in dimension {dim}: "
            "the others have to agree, or to be 1."
        ) from error
