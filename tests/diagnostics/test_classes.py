"""Draws of each class: of pairs that are given classes, and of none that draw or observe them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import plotting
from pyro_vae.diagnostics import class_argument, sample_by_class
from pyro_vae.models import MLPVAE, ConditionalVAE, SemiSupervisedVAE
from pyro_vae.pair import data_plate, pair_method

X, C = torch.rand(5, 6).round(), torch.tensor([2, 0, 1, 1, 0])


class Given(PyroModule):
    """x | z, c ~ N(10 c + z, 1): a user's own; ``observed`` has the class as another site."""

    def __init__(self, observed: bool = False) -> None:
        super().__init__()
        self.shift, self.observed = nn.Parameter(torch.zeros(6)), observed

    @pair_method
    def model(self, x: Tensor | None, kind: Tensor) -> Tensor:
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(6), 0.1).to_event(1))
            if self.observed:
                pyro.sample("k", dist.Categorical(torch.ones(3)), obs=kind)
            loc = 10 * kind[:, None] + z + self.shift
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    @pair_method
    def guide(self, x: Tensor, kind: Tensor) -> Tensor:
        with data_plate(x):
            return pyro.sample("z", dist.Normal(torch.zeros(6), 0.1).to_event(1))


def test_draws_of_a_class_are_of_that_class() -> None:
    """Each row of its class, in the order that was asked for; the draws of a row differ."""
    drawn = sample_by_class(Given(), 7, X, C)
    assert drawn.shape == (3, 7, 6)
    assert torch.equal((drawn / 10).round(), torch.arange(3.0)[:, None, None].expand_as(drawn))
    assert (drawn[:, 0] != drawn[:, 1]).all()
    other = sample_by_class(Given(), 2, X, C, classes=[2, 0])
    assert torch.equal((other[:, 0, 0] / 10).round(), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize(
    ("pair", "batch", "place"),
    [
        (Given(), (X, C), 1),
        (Given(observed=True), (X, C), None),
        (ConditionalVAE((6,), 3, 2, (8,)), (X, C), 1),
        (ConditionalVAE((6,), (2,), 2, (8,)), (X, torch.rand(5, 2)), None),
        (SemiSupervisedVAE((6,), 3, 2, (8,)), (X, C), None),
        (MLPVAE((6,), 2, (8,)), (X,), None),
    ],
)
def test_classes_that_a_model_is_given(pair: Any, batch: Any, place: Any) -> None:
    before = torch.get_rng_state()
    assert class_argument(pair, *batch) == place
    assert torch.equal(torch.get_rng_state(), before)
    if place is None:
        with pytest.raises(ValueError, match="the model is given no classes"):
            sample_by_class(pair, 3, *batch)


def test_a_figure_of_a_row_for_each_class() -> None:
    figure = plotting.classes(torch.rand(3, 5, 1, 4, 4), ["a", "b", 7])
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "7"]
    with pytest.raises(ValueError, match="names are 2, but images have 3 rows"):
        plotting.classes(torch.rand(3, 5, 4, 4), ["a", "b"])
