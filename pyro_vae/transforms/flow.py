"""The distribution of a normalizing flow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import ComposeTransform, Transform

from pyro_vae import _torch
from pyro_vae._checks import checked, shown
from pyro_vae.distributions.base import expandable, size_of, validated
from pyro_vae.transforms.base import Bijection


class NormalizingFlow(dist.TransformedDistribution):
    r"""A base distribution carried through bijections.

    .. math:: z = f_T \circ \dots \circ f_1(z_0), \quad z_0 \sim p_0, \qquad
        \log p(z) = \log p_0(z_0) - \sum_t \log \Big| \det \frac{\partial f_t}{\partial z_{t-1}} \Big|

    Its last draw is scored as it was made, at no cost and without an inverse; any other value by the inverse of each
    step. So is a draw made without gradients, once gradients are asked for. The steps themselves remember nothing, so
    that two flows with a step in common do not disturb each other.

    Args:
        base_distribution: :math:`p_0`.
        transforms: the bijections :math:`f_1, \dots, f_T`, ``Transform`` of torch, of Pyro or of
            :class:`~pyro_vae.transforms.Step`.

    Raises:
        NotImplementedError: if a value has to be scored by a step of Pyro's that has no inverse.

    Source: Rezende & Mohamed (2015), eq. 5 to 7.

    >>> from pyro_vae.transforms import Planar
    >>> q = NormalizingFlow(dist.Normal(torch.zeros(5, 2), 1.0).to_event(1), [Planar(2)()])
    >>> q.log_prob(q.rsample()).shape
    torch.Size([5])
    """

    @checked
    def __init__(
        self, base_distribution: Any, transforms: Transform | Iterable[Transform], validate_args: bool | None = None
    ) -> None:
        if not hasattr(base_distribution, "batch_shape"):
            raise TypeError(f"base_distribution has to be a distribution; got {shown(base_distribution)}.")
        transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(one, Transform) for one in transforms):
            raise TypeError(f"transforms has to be a Transform, or a list of them; got {shown(transforms)}.")
        super().__init__(base_distribution, _parts(transforms), validate_args=validate_args)
        # The last draw, that of the base, the log-determinants of the steps, and whether their graph was recorded.
        self._drawn: tuple[Tensor, Tensor, list[Tensor], bool] | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalizingFlow:
        new = super().expand(
            expandable(self, batch_shape), self.__new__(type(self)) if _instance is None else _instance
        )
        new._drawn = self._drawn
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._carried(self.base_dist.rsample(size_of(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self._carried(self.base_dist.sample(size_of(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        base, ladjs = self._way_to(validated(self, value))
        event_dim = len(self.event_shape)
        log_prob: Any = 0.0
        for step, ladj in zip(reversed(self.transforms), reversed(ladjs), strict=True):
            event_dim += step.domain.event_dim - step.codomain.event_dim
            log_prob = log_prob - sum_rightmost(ladj, event_dim - step.domain.event_dim)
        of_base = self.base_dist.log_prob(base)
        return log_prob + sum_rightmost(of_base, event_dim - len(self.base_dist.event_shape))

    def _carried(self, base: Tensor) -> Tensor:
        """The value that a draw of the base becomes, which is remembered."""
        value, ladjs = base, []
        for step in self.transforms:
            value, ladj = _call_and_ladj(step, value)
            ladjs.append(ladj)
        self._drawn = value, base, ladjs, torch.is_grad_enabled()
        return value

    def _way_to(self, value: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The base's draw that becomes ``value``, and the log-determinant of each step on its way."""
        if self._drawn is not None and self._drawn[0] is value:
            _, base, ladjs, recorded = self._drawn
            is_leaf = value.requires_grad and value.grad_fn is None  # of a graph that begins after the draw
            if not torch.is_grad_enabled() or (recorded and not is_leaf):
                return base, ladjs
        base, ladjs = value, []
        for step in reversed(self.transforms):
            try:
                base, ladj = _call_and_ladj(step.inv, base)
            except KeyError as error:  # of Pyro's, which look for their own draws
                raise NotImplementedError(
                    f"{type(step).__name__} has no inverse, so the flow scores its last draw alone, and with gradients "
                    "only one that was drawn with them"
                ) from error
            ladjs.insert(0, -ladj)
        return base, ladjs


def _parts(transforms: Iterable[Transform]) -> list[Transform]:
    """The transforms, with the parts of a composition in its place."""
    nested = (_parts(each.parts) if isinstance(each, ComposeTransform) else [each] for each in transforms)
    return [part for several in nested for part in several]


def _call_and_ladj(transform: Transform, value: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(transform, Bijection):
        return transform.call_and_ladj(value)
    with _torch.forgetful(transform):
        result = transform(value)
        return result, transform.log_abs_det_jacobian(value, result)
