"""A distribution of classes, by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae._checks import checked
from pyro_vae.distributions.base import Parametrized, chosen, size_of, validated


class ClassNumber(Parametrized):
    r"""A class by its number, :math:`P(y = k) = \mathrm{softmax}(\mathrm{logits})_k` for k = 0, ..., K - 1.

    Unlike torch's ``Categorical`` it draws numbers of the dtype of its parameters, as the other likelihoods do;
    integers are scored as well.

    Args:
        logits: ``[*, K]``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.independent(constraints.real, 1)}

    @checked
    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        if not logits.numel() or not logits.dim():
            raise ValueError(
                f"logits have to be [*, K], one for each of K classes; got the shape {list(logits.shape)}."
            )
        self.logits = logits
        self.num_classes = logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> Any:
        return constraints.integer_interval(0, self.num_classes - 1)

    @property
    def probs(self) -> Tensor:
        return self.logits.softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        value = validated(self, value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        number = value.expand(shape).nan_to_num().clamp(0, self.num_classes - 1).long()
        logits = self.logits.expand(*shape, self.num_classes)
        log_prob = logits.gather(-1, number.unsqueeze(-1)).squeeze(-1) - self.logits.logsumexp(-1)
        return torch.where(value == number, log_prob, -torch.inf)  # of what is no class, where nothing validates

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return chosen(self.logits, size_of(sample_shape)).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Of the numbers, which says little of classes."""
        return (self.probs * torch.arange(self.num_classes).to(self.logits)).sum(-1)

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)
