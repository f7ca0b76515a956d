"""Each law is broken by a part that breaks it: a law that cannot fail is none."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import UserModule, binary
from pyro.infer import HMC, Trace_ELBO
from scipy import stats
from torch import Tensor, nn

from pyro_vae import SGVB_A, VAE, Bernoulli, DiagonalNormal, StandardNormal, distributions
from pyro_vae.testing import DistributionLaws, EstimatorLaws, PairLaws, TransformLaws
from pyro_vae.transforms import Bijection, Parameters, Step

X = binary(6)


class Wrong(VAE):
    """A right pair, of which a subclass gets one thing wrong."""

    def __init__(self) -> None:
        decoder: Any = nn.Linear(2, 6)
        encoder: Any = nn.Sequential(nn.Linear(6, 4), nn.Unflatten(-1, (2, 2)))
        super().__init__(StandardNormal(2), DiagonalNormal(encoder), Bernoulli(decoder))


Right = Wrong


class Branches(Wrong):
    def model(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            self.turn = not getattr(self, "turn", False)
            if self.turn:
                pyro.sample("more", dist.Normal(z, 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(z), obs=x)


class Stiff(Wrong):
    def model(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z.reshape(len(x), 2)), obs=x)


class Loose(Wrong):
    def model(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
        return pyro.sample("x", self.likelihood(z), obs=x)


class Detached(Wrong):
    def model(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", dist.Bernoulli(logits=self.likelihood.network(z).detach()).to_event(1), obs=x)


class NumPys(Wrong):
    def guide(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            q = self.posterior(x)
            return pyro.sample("z", dist.Normal(q.mean, float(np.random.default_rng().uniform(0.5, 1))).to_event(1))


class Neighbors(Wrong):
    def guide(self, x: Tensor) -> Any:
        return super().guide(x - x.mean(0))


class Global(Wrong):
    network = nn.Linear(2, 6)

    def __init__(self) -> None:
        super().__init__()
        self.likelihood.network = self.network


class Bare(UserModule):
    """Whose ``pyro.module`` statements write into Pyro's store."""


class Forgetful(Wrong):
    """With weights that are not in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [torch.randn(6)]

    def guide(self, x: Tensor) -> Any:
        return super().guide(x + self.hidden[0])


class Aliased(Wrong):
    def __deepcopy__(self, memo: Any) -> Any:
        return copy.copy(self)


class Float32(Wrong):
    def guide(self, x: Tensor) -> Any:
        return super().guide(x.float())


class Frozen(Wrong):
    """Draws a number when it is traced, and no more."""

    def guide(self, x: Tensor) -> Any:
        return super().guide(x * float(torch.rand(()).item()))


class Counts(Wrong):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def guide(self, x: Tensor) -> Any:
        self.seen += 1
        return super().guide(x * self.seen)


class Writes(Wrong):
    def model(self, x: Tensor) -> Any:
        self.likelihood.network.bias.grad = torch.ones(6)
        return super().model(x)


class Untracked(Wrong):
    def model(self, x: Tensor) -> Any:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(torch.tensor(z.tolist())), obs=x)


def pair_laws(kind: Any) -> PairLaws:
    laws = PairLaws()
    laws.make = lambda: (kind(), (X,))  # type: ignore[method-assign]
    return laws


PAIR_LAWS: list[tuple[Callable[[PairLaws, Any], Any], Any]] = [
    (lambda laws, path: laws.test_check_passes(), Loose),
    (lambda laws, path: laws.test_trains_under_svi(Trace_ELBO), Detached),
    (lambda laws, path: laws.test_predictive(), Stiff),
    (lambda laws, path: laws.test_hamiltonian_monte_carlo(HMC), Writes),
    (lambda laws, path: laws.test_relations_of_the_model(), Untracked),
    (lambda laws, path: laws.test_equals_pyros_elbos(1), Counts),
    (lambda laws, path: laws.test_same_seed_same_bits(), NumPys),
    (lambda laws, path: laws.test_pairs_do_not_meet(), Global),
    (lambda laws, path: laws.test_pairs_do_not_meet(), Bare),
    (lambda laws, path: laws.test_pyros_store_is_left_as_it_was(), Bare),
    (lambda laws, path: laws.test_state_dict_round_trips(), Forgetful),
    (lambda laws, path: laws.test_a_copy_is_independent(), Aliased),
    (lambda laws, path: laws.test_particles_are_one_more_dimension(), Branches),
    (lambda laws, path: laws.test_a_datum_is_scored_by_itself(), Neighbors),
    (lambda laws, path: laws.test_float64(), Float32),
    (lambda laws, path: laws.test_a_traced_step_is_the_eager_one(), Frozen),
    (lambda laws, path: laws.test_resumed_is_the_same_bits(path), Forgetful),
]


@pytest.mark.parametrize(("law", "kind"), PAIR_LAWS, ids=lambda value: getattr(value, "__name__", ""))
def test_laws_of_pairs(law: Callable[[PairLaws, Any], Any], kind: Any, tmp_path: Any) -> None:
    law(pair_laws(Right), tmp_path / "right")
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        law(pair_laws(kind), tmp_path / "wrong")


def test_every_law_of_pairs_is_broken_once() -> None:
    names = {name for law, _ in PAIR_LAWS for name in law.__code__.co_names if name.startswith("test_")}
    assert names == {name for name in vars(PairLaws) if name.startswith("test_")}


# Estimators, each with one thing wrong


class Sign(SGVB_A):
    def loss(self, *args: Any, **kwargs: Any) -> float:
        return -super().loss(*args, **kwargs)


class Shifted(SGVB_A):
    def bound(self, *args: Any) -> Tensor:
        return super().bound(*args) + 1.0


class Mean(SGVB_A):
    def bound(self, *args: Any) -> Tensor:
        bound = super().bound(*args)
        return bound.mean().expand_as(bound)


class Scaled(SGVB_A):
    def bound(self, pair: Any, *batch: Any) -> Tensor:
        loss = self.loss(pair.model, pair.guide, *batch)
        return torch.full((len(batch[0]),), -loss / len(batch[0]))


class Random(SGVB_A):
    def bound(self, *args: Any) -> Tensor:
        return super().bound(*args) + float(np.random.default_rng().uniform())


class Silent(SGVB_A):
    def terms(self, *args: Any) -> Any:
        return {name: site for name, site in super().terms(*args).items() if name != "x"}


class Doubled(SGVB_A):
    """Whose gradient is twice what it should be, at the right value."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(*args, **kwargs)
        return 2 * loss - loss.detach()


class Against(SGVB_A):
    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().differentiable_loss(*args, **kwargs)
        return 2 * loss.detach() - loss

    def objective(self, *args: Any, **kwargs: Any) -> Any:
        objective = super().objective(*args, **kwargs)
        return objective._replace(loss=objective.loss.detach() + 0 * objective.loss)


class Constant(SGVB_A):
    """Draws a number when it is traced, and no more."""

    def objective(self, *args: Any, **kwargs: Any) -> Any:
        objective = super().objective(*args, **kwargs)
        return objective._replace(loss=objective.loss * float(torch.rand(()).item()))


class Nameless(SGVB_A):
    def __repr__(self) -> str:
        return "SGVB_A()"


class Boasting(SGVB_A):
    @property
    def facts(self) -> Any:
        return dataclasses.replace(super().facts, sites="reparameterized, in the data plate")

    @property
    def evaluations(self) -> tuple[int, int]:
        return 1, 1


class Quiet(SGVB_A):
    def bound(self, *args: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return super().bound(*args)


def estimator_laws(kind: Any) -> EstimatorLaws:
    laws = EstimatorLaws()
    laws.make = lambda **options: kind(3, **options)  # type: ignore[method-assign]
    return laws


ESTIMATOR_LAWS: list[tuple[Callable[[EstimatorLaws], Any], Any]] = [
    (lambda laws: laws.test_one_loss_in_all_ways("one latent"), Sign),
    (lambda laws: laws.test_same_seed_same_bits(), Random),
    (lambda laws: laws.test_a_datum_has_its_own_bound(), Mean),
    (lambda laws: laws.test_a_bound_does_not_depend_on_the_batch(), Scaled),
    (lambda laws: laws.test_the_terms_add_up(), Silent),
    (lambda laws: laws.test_the_bound_is_on_its_side(), Shifted),
    (lambda laws: laws.test_at_the_posterior_it_is_the_evidence(), Shifted),
    (lambda laws: laws.test_the_gradient_is_that_of_the_expectation(), Doubled),
    (lambda laws: laws.test_a_traced_step_is_the_eager_one(), Constant),
    (lambda laws: laws.test_learns_under_svi(), Against),
    (lambda laws: laws.test_fits(), Against),
    (lambda laws: laws.test_repr_makes_it_again(), Nameless),
    (lambda laws: laws.test_it_takes_the_sites_that_it_names(), Boasting),
    (lambda laws: laws.test_evaluations_are_counted(), Boasting),
    (lambda laws: laws.test_a_bound_that_is_not_finite_is_said(), Quiet),
]


@pytest.mark.parametrize(("law", "kind"), ESTIMATOR_LAWS, ids=lambda value: getattr(value, "__name__", ""))
def test_laws_of_estimators(law: Callable[[EstimatorLaws], Any], kind: Any) -> None:
    with pytest.raises((AssertionError, ValueError, RuntimeError, pytest.fail.Exception)):
        law(estimator_laws(kind))


def test_every_law_of_estimators_is_broken_once() -> None:
    names = {name for law, _ in ESTIMATOR_LAWS for name in law.__code__.co_names if name.startswith("test_")}
    assert names == {name for name in vars(EstimatorLaws) if name.startswith("test_")}


# Parts: subclasses of a right one, of which one method is wrong


def of_numpy(*args: Any) -> float:
    """A number that no seed of torch's gives."""
    return float(np.random.default_rng().normal())


def of_tracing(*args: Any) -> float:
    """A number that is drawn when a graph is made, and no more."""
    return float(torch.rand(()).item())


Laplace: Any = distributions.Laplace
draw, log_prob = Laplace._draw, Laplace.log_prob


class Halved(Laplace):
    """To which a KL is registered that is half of what it should be."""


@torch.distributions.register_kl(Halved, Halved)
def _half(q: Halved, p: Halved) -> Tensor:
    return torch.distributions.kl_divergence(*(Laplace(of.loc, of.scale) for of in (q, p))) / 2


class LawsOfLaplace(DistributionLaws):
    parameters: ClassVar[dict[str, Any]] = {"loc": 0.4, "scale": 1.7}
    other: ClassVar[dict[str, Any]] = {"loc": -0.3, "scale": 0.9}
    extremes: ClassVar[list[dict[str, Any]]] = [{"scale": 100.0}]
    bad: ClassVar[dict[str, Any]] = {"scale": -1.0}
    closed_form = True

    def __init__(self, kind: Any = Laplace) -> None:
        self.make = kind

    def reference(self, **parameters: Any) -> Any:
        return stats.laplace(**parameters)


DISTRIBUTION_LAWS: list[tuple[Callable[[DistributionLaws], Any], dict[str, Any]]] = [
    (lambda laws: laws.test_the_density_is_normalized(), {"log_prob": lambda p, x: log_prob(p, x) + 0.01}),
    (
        lambda laws: laws.test_another_library_gives_the_same_density(),
        {"log_prob": lambda p, x: dist.Laplace(p.loc, 1.02 * p.scale).log_prob(x)},
    ),
    (
        lambda laws: laws.test_draws_follow_the_density(torch.float64),
        {"_draw": lambda p, shape: p.loc + 1.05 * (draw(p, shape) - p.loc)},
    ),
    (lambda laws: laws.test_moments(), {"mean": property(lambda p: p.loc + 0.01)}),
    (
        lambda laws: laws.test_gradients_of_draws(),
        {"_draw": lambda p, shape: p.loc + (draw(p, shape) - p.loc).detach()},
    ),
    (lambda laws: laws.test_same_seed_same_draws(), {"_draw": lambda p, shape: draw(p, shape) + of_numpy()}),
    (
        lambda laws: laws.test_shapes_and_expansion((5,)),
        {"expand": lambda p, shape, _=None: Laplace(p.loc.expand(shape), p.scale.expand(shape))},
    ),
    (lambda laws: laws.test_dtypes(torch.float32), {"_draw": lambda p, shape: draw(p, shape).double()}),
    (
        lambda laws: laws.test_what_is_refused(),
        {"log_prob": lambda p, x: Laplace(p.loc, p.scale, validate_args=False).log_prob(x)},
    ),
    (lambda laws: laws.test_extremes_stay_finite(), {"_draw": lambda p, shape: (100 * draw(p, shape)).exp()}),
    (lambda laws: laws.test_registered_divergences(), {}),
    (lambda laws: laws.test_traces(), {"_draw": lambda p, shape: draw(p, shape) + of_tracing()}),
]


@pytest.mark.parametrize(("law", "wrong"), DISTRIBUTION_LAWS)
def test_laws_of_distributions(law: Callable[[DistributionLaws], Any], wrong: dict[str, Any]) -> None:
    law(LawsOfLaplace())
    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        law(LawsOfLaplace(type("Wrong", (Laplace,), wrong) if wrong else Halved))


class Scaling(Step):
    """y = exp(a) z."""

    def __init__(self, latent_dim: int, context_dim: int | None = None) -> None:
        super().__init__(latent_dim, context_dim)
        self.numbers = Parameters([0.1 * torch.randn(latent_dim)], context_dim)

    def call_and_ladj(self, z: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        y = z * theta[0].exp()
        return y, theta[0].sum(-1).expand(y.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: Any) -> tuple[Tensor, Tensor]:
        return Scaling.call_and_ladj(self, y, [-theta[0]])


def forward(change: Callable[..., Any]) -> dict[str, Any]:
    """A step whose map and log-determinant are ``change`` of the right ones."""
    return {"call_and_ladj": lambda self, z, theta: change(z, *Scaling.call_and_ladj(self, z, theta))}


def backward(change: Callable[..., Any]) -> dict[str, Any]:
    return {"inverse_and_ladj": lambda self, y, theta: change(y, *Scaling.inverse_and_ladj(self, y, theta))}


def half(z: Tensor, y: Tensor, ladj: Tensor) -> Any:
    return (y.bfloat16() if torch.is_autocast_enabled("cpu") else y), ladj


def hidden(self: Any, context: Tensor | None) -> Any:
    """Numbers that are in no state."""
    self.__dict__.setdefault("hidden", torch.randn(self.latent_dim))
    return [Step.theta(self, context)[0] + self.hidden]


TRANSFORM_LAWS: list[tuple[Callable[[TransformLaws], Any], dict[str, Any]]] = [
    (lambda laws: laws.test_is_a_bijection(None, 2), backward(lambda y, z, ladj: (1.001 * z, ladj))),
    (
        lambda laws: laws.test_the_log_determinant_is_that_of_the_jacobian(3),
        forward(lambda z, y, ladj: (y, 1.01 * ladj)),
    ),
    (
        lambda laws: laws.test_gradients_of_the_inverse(None),
        {"inverse_and_ladj": lambda self, y, theta: Scaling.inverse_and_ladj(self, y, [theta[0].detach()])},
    ),
    (
        lambda laws: laws.test_gradients_reach_everything(3, 0.0),
        {"call_and_ladj": lambda self, z, theta: (z + 0 * theta[0], 0 * theta[0].sum(-1).expand(z.shape[:-1]))},
    ),
    (
        lambda laws: laws.test_leading_dimensions(None, (2, 4)),
        forward(lambda z, y, ladj: (y + 0.1 * y.mean(0), ladj)),
    ),
    (lambda laws: laws.test_fewer_latents_than_contexts(3, ()), forward(lambda z, y, ladj: (y, ladj[0]))),
    (lambda laws: laws.test_state_and_copies_give_the_same_map(None), {"theta": hidden}),
    (lambda laws: laws.test_half_precision_leaves_float32(None), forward(half)),
    (
        lambda laws: laws.test_other_sizes_are_refused(3),
        {"forward": lambda self, context=None: Bijection(self, self.theta(context))},
    ),
    (lambda laws: laws.test_a_draw_is_scored_as_any_value(None), backward(lambda y, z, ladj: (z, ladj - 0.01))),
    (lambda laws: laws.test_the_density_integrates_to_one(None), backward(lambda y, z, ladj: (z, ladj - 0.1))),
    (lambda laws: laws.test_trains_in_a_posterior_and_a_prior(), forward(lambda z, y, ladj: (y + of_tracing(), ladj))),
]


@pytest.mark.parametrize(("law", "wrong"), TRANSFORM_LAWS)
def test_laws_of_transforms(law: Callable[[TransformLaws], Any], wrong: dict[str, Any]) -> None:
    laws, broken = TransformLaws(), TransformLaws()
    laws.make, broken.make = Scaling, type("Wrong", (Scaling,), wrong)  # type: ignore[method-assign]
    law(laws)
    with pytest.raises((AssertionError, ValueError, RuntimeError, pytest.fail.Exception)):
        law(broken)


@pytest.mark.parametrize(("laws", "broken"), [(DistributionLaws, DISTRIBUTION_LAWS), (TransformLaws, TRANSFORM_LAWS)])
def test_every_law_of_parts_is_broken_once(laws: Any, broken: Any) -> None:
    names = {name for law, _ in broken for name in law.__code__.co_names if name.startswith("test_")}
    assert names == {name for name in vars(laws) if name.startswith("test_")}
