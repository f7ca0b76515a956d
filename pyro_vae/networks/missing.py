"""Networks of missing data: with which probability a value is observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae._checks import checked, one_of
from pyro_vae._recipes import Remembered
from pyro_vae.networks.shapes import check_input, shape_of

Missing = Literal["high", "low", "any"]


class SelfMasking(Remembered, nn.Module):
    r"""Whether a value is observed depends on that value alone: the logits of :math:`p(s_d = 1 \mid x_d)` are

    .. math:: a_d \, (x_d - b_d)

    Args:
        event_shape: shape of one datum; it is ``in_shape`` and ``out_shape``.
        missing: which values are missing rather than others: the ``"high"`` ones, so that a is negative
            (:math:`-\mathrm{softplus}`), the ``"low"`` ones, or ``"any"``, where a is free and starts at 0. Where it is
            known it helps: data alone hardly tell a from what is missing.

    Raises:
        ValueError: if ``missing`` is something else.

    Source: Ipsen, Mattei & Frellsen (2021), not-MIWAE, section 3.2 and appendix C.

    >>> SelfMasking((3,), missing="high")(torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """

    @checked
    def __init__(self, event_shape: int | Sequence[int], missing: Missing = "any") -> None:
        super().__init__()
        one_of(get_args(Missing), missing=missing)
        self.in_shape = self.out_shape = shape_of("event_shape", event_shape)
        self.missing = missing
        self.slope = nn.Parameter(torch.zeros(self.in_shape))
        self.center = nn.Parameter(torch.zeros(self.in_shape))

    def extra_repr(self) -> str:
        return f"{tuple(self.in_shape)}, missing={self.missing!r}"

    def forward(self, x: Tensor) -> Tensor:
        check_input(self, x, self.in_shape)
        slope = self.slope if self.missing == "any" else softplus(self.slope)
        return (-slope if self.missing == "high" else slope) * (x - self.center)
