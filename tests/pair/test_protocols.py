"""What the library asks for where it is there: who has it, and that a class of one's own is asked as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import binary
from torch import Tensor, nn

from pyro_vae import MLP, Bernoulli, DiagonalNormal, StandardNormal, fit, transforms
from pyro_vae.bayesian import BayesianLayer, bayesian_, bayesian_layers
from pyro_vae.distributions import UniformLevels
from pyro_vae.distributions.supports import bare
from pyro_vae.distributions.wrappers import innermost
from pyro_vae.likelihoods import Normal
from pyro_vae.models import MLPVAE, CodePrior, FullBayes, LabeledVAE
from pyro_vae.models.code_book import CodeBook
from pyro_vae.networks import Centered, Corrupted, Masking, event_dim_of, in_shape_of, out_shape_of
from pyro_vae.pair import Pair, protocols
from pyro_vae.posteriors import Flow
from pyro_vae.priors import VampPrior
from pyro_vae.training import Linear, WeightPrior


def random_layer() -> BayesianLayer:
    return next(layer for _, layer in bayesian_layers(bayesian_(nn.Sequential(nn.Linear(2, 3)))))


HAVE: list[tuple[Any, Callable[[], Any], Callable[[], Any]]] = [
    (protocols.ChecksBatch, lambda: CodePrior, lambda: MLPVAE),
    (protocols.ChecksBuffer, lambda: Masking(0.5), lambda: nn.Dropout(0.5)),
    (protocols.DoubtsData, lambda: Normal(nn.Linear(2, 2)), lambda: nn.Linear(2, 2)),
    (protocols.FollowsBatches, lambda: CodeBook(4, 2), lambda: nn.BatchNorm1d(2)),
    (protocols.HasInShape, lambda: MLP(6, 2), lambda: nn.Linear(6, 2)),
    (protocols.HasNetworkShape, lambda: DiagonalNormal(MLP(6, (2, 2))), lambda: StandardNormal(2)),
    (protocols.HasNumLevels, lambda: UniformLevels(256), lambda: dist.Bernoulli(0.5).support),
    (protocols.HasOutShape, lambda: MLP(6, 2), lambda: nn.Linear(6, 2)),
    (protocols.HasPosteriorPredictive, lambda: FullBayes(MLPVAE((6,), 2)), lambda: MLPVAE((6,), 2)),
    (protocols.HasRandomWeights, random_layer, lambda: nn.Linear(2, 3)),
    (protocols.HasRunningStatistics, lambda: nn.BatchNorm1d(3), lambda: nn.LayerNorm(3)),
    (protocols.RecallsState, lambda: Pair(print, print), lambda: MLPVAE((6,), 2)),
    (protocols.SamplesWeights, lambda: FullBayes(MLPVAE((6,), 2)), lambda: MLPVAE((6,), 2)),
    (protocols.TakesLabels, lambda: LabeledVAE, lambda: MLPVAE),
]


@pytest.mark.parametrize(("protocol", "has", "has_not"), [pytest.param(*row, id=row[0].__name__) for row in HAVE])
def test_who_has_it(protocol: Any, has: Callable[[], Any], has_not: Callable[[], Any]) -> None:
    assert isinstance(has(), protocol)
    assert not isinstance(has_not(), protocol)


def test_every_protocol_is_in_the_table() -> None:
    declared = [one for one in vars(protocols).values() if isinstance(one, type(Protocol)) and one is not Protocol]
    assert {row[0] for row in HAVE} == set(declared)
    assert all(one.__doc__ for one in declared)


# A class of one's own is asked


class Own(nn.Module):
    """A network that says its shapes, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.in_shape, self.out_shape = (2, 3), (2, 4)
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(-2)).unflatten(-1, self.out_shape)


def test_shapes_of_a_network() -> None:
    own = Own()
    assert (in_shape_of(own), out_shape_of(own), event_dim_of(own)) == ((2, 3), (2, 4), 2)
    assert (in_shape_of(nn.Linear(2, 3)), out_shape_of(nn.Linear(2, 3)), event_dim_of(nn.Linear(2, 3))) == (
        None,
        None,
        1,
    )
    with pyro.validation_enabled(True):  # which the first use of torch.compile switches off
        assert event_dim_of(torch.compile(own)) == 2  # type: ignore[arg-type]
    assert DiagonalNormal(own)(torch.zeros(5, 2, 3)).batch_shape == (5,)
    assert Corrupted(own, Masking(0.5)).in_shape == (2, 3)
    with pytest.raises(ValueError, match=r"input shape \[2, 3\]; got shape \[6\]"):
        Centered(own, torch.zeros(6))
    with pytest.raises(ValueError, match=r"built for latent_dim=3.* it has one of out_shape=\(2, 4\)"):
        Flow(DiagonalNormal(own), [transforms.Planar(3)])


def test_a_pair_checks_its_batch() -> None:
    class Choosy(MLPVAE):
        def check_batch(self, x: Tensor) -> None:
            if len(x) > 3:
                raise ValueError("too many.")

    fit(Choosy((6,), 2, (4,)), binary(6, size=3), epochs=1, batch_size=3, compile="eager", progress=False)
    with pytest.raises(ValueError, match=r"too many\."):
        fit(Choosy((6,), 2, (4,)), binary(6, size=4), epochs=1, batch_size=4, compile="eager", progress=False)


def test_a_module_checks_its_buffer() -> None:
    class Tempered(MLP):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("temperature", torch.tensor(1.0))

        def check_buffer(self, name: str, value: float) -> None:
            if name == "temperature" and value <= 0:
                raise ValueError(f"the {name} cannot be {value:g}.")

    pair = MLPVAE((6,), 2, (4,))
    pair.likelihood = Bernoulli(Tempered(2, 6))
    schedules = {"likelihood.network.temperature": Linear(1.0, 0.0, steps=2)}
    with pytest.raises(ValueError, match=r"the temperature cannot be 0"):
        fit(pair, binary(6), schedules=schedules, epochs=3, batch_size=2, compile="eager", progress=False)


def test_random_weights_are_left_out_of_a_weight_prior() -> None:
    class Frozen(nn.Linear):
        random_weights = True

    pair = MLPVAE((6,), 2, (4,))
    with_all = WeightPrior().loss(pair, 1, 1)
    pair.extra = Frozen(2, 2)
    assert torch.equal(WeightPrior().loss(pair, 1, 1), with_all)
    pair.extra.random_weights = False
    assert WeightPrior().loss(pair, 1, 1) > with_all


def test_running_statistics_are_of_data_alone() -> None:
    class Counting(nn.Module):
        track_running_stats, seen = True, 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += len(x) if self.track_running_stats else 0
            return x

    counting = Counting()
    posterior = DiagonalNormal(nn.Sequential(counting, MLP(6, (2, 2))))
    VampPrior(posterior, 6, 3)()
    assert counting.seen == 0
    posterior(binary(6))
    assert counting.seen == len(binary(6))


def test_what_is_wrapped() -> None:
    assert isinstance(innermost(dist.Normal(0.0, 1.0).expand([2, 3]).mask(False).to_event(2)), dist.Normal)
    assert isinstance(innermost(dist.ZeroInflatedPoisson(torch.tensor(1.0), gate=torch.tensor(0.5))), dist.Poisson)
    positive = dist.Gamma(1.0, 1.0).expand([2]).to_event(1)
    assert bare(positive.support) is dist.constraints.nonnegative
