"""The laws of an estimator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.data import TensorDataset

from pyro_vae import estimators
from pyro_vae.estimators import IWAE, Estimator, Penalized
from pyro_vae.pair import Pair, programs
from pyro_vae.testing.comparing import assert_same, gradients, seeded
from pyro_vae.testing.examples import Chain, Coin, OneLatent, Outside, Pixels
from pyro_vae.training import fit
from pyro_vae.training.step import TrainingStep

X = torch.tensor([0.5, 2.0, 1.0, -1.0, 0.3])
PAIRS: dict[str, Callable[[], nn.Module]] = {"one latent": lambda: OneLatent(5), "two latents": lambda: Chain(5)}
MANY = 2_500  # draws of an expectation


class EstimatorLaws:
    """What holds for every estimator, on small pairs whose log p(x) is known (:mod:`pyro_vae.testing.examples`).

    A subclass overrides :meth:`make`. Of an upper bound the laws hold that compare its values and gradients with each
    other; those of the size of a bound, which are of bounds from below, are skipped.

    Attributes:
        unbiased: whose gradient is in expectation that of the value: of the parameters of the ``"model"``, of the
            ``"guide"``, or of both. An estimator whose guide learns from another objective names the model alone.
    """

    unbiased: tuple[str, ...] = ("model", "guide")

    def make(self, **options: Any) -> Estimator:
        """A new estimator (required) that takes ``options`` as its class does: ``beta``, ``max_plate_nesting``."""
        raise NotImplementedError

    def _sign(self) -> int:
        """Of the loss beside the bound: an upper bound is minimized."""
        return 1 if self.make().side == "above" else -1

    def _from_below(self) -> None:
        if self.make().side == "above":
            pytest.skip("a law of bounds from below")

    @pytest.fixture(autouse=True)
    def _nothing_global(self) -> Iterator[None]:
        pyro.clear_param_store()
        before = Distribution._validate_args
        yield
        assert Distribution._validate_args == before
        pyro.clear_param_store()

    # One value and one gradient

    @pytest.mark.parametrize("name", PAIRS)
    def test_one_loss_in_all_ways(self, name: str) -> None:
        """Pyro's interface and this library's give one value, minus the sum of the bounds, and one gradient.

        So it is with a beta as well, of which the bound of ``objective`` knows nothing; but for a penalty, to which it
        gives another weight.
        """
        pair = PAIRS[name]()
        model, guide = programs(pair)
        has_beta = "beta" in self.make().scheduled and not isinstance(self.make(), Penalized)
        estimator = self.make(beta=0.7) if has_beta else self.make()
        bound = seeded(1, estimator.bound, pair, X)
        assert bound.shape == (5,)
        assert not bound.requires_grad
        loss = self._sign() * bound.sum().item()
        assert seeded(1, estimator.loss, model, guide, X) == pytest.approx(loss, rel=1e-5)
        assert seeded(1, estimator.loss_and_grads, model, guide, X) == pytest.approx(loss, rel=1e-5)
        value = seeded(1, estimator.differentiable_loss, model, guide, X)
        assert value.shape == ()
        assert value.item() == pytest.approx(loss, rel=1e-5)
        objective = seeded(1, estimator.objective, model, guide, X)
        assert objective.loss.item() * 5 == pytest.approx(loss, rel=1e-5)
        assert not objective.bound.requires_grad
        assert objective.bound.item() == pytest.approx(seeded(1, self.make().bound, pair, X).mean().item(), rel=1e-5)
        found = gradients(pair, lambda: estimator.loss_and_grads(model, guide, X))
        assert found.keys() == {name for name, p in pair.named_parameters() if p.requires_grad}
        assert_same(found, gradients(pair, lambda: estimator.differentiable_loss(model, guide, X)))
        assert_same(found, gradients(pair, lambda: estimator.objective(model, guide, X).loss * 5))

    def test_same_seed_same_bits(self) -> None:
        """Bound and gradient are functions of the seed, of the estimator and of its copies alike."""
        pair, estimator = Chain(5), self.make()
        first = seeded(1, estimator.bound, pair, X), gradients_of(estimator, pair, X)
        for other in (estimator, copy.copy(estimator), copy.deepcopy(estimator), self.make()):
            assert torch.equal(seeded(1, other.bound, pair, X), first[0])
            again = gradients_of(other, pair, X)
            assert all(torch.equal(again[name], value) for name, value in first[1].items())

    def test_a_datum_has_its_own_bound(self) -> None:
        """Exchanging one datum changes its bound and no other, also where it has latents in a plate of its own."""
        self._from_below()
        estimator, pair, other = self.make(), OneLatent(5), X.clone()
        other[3] += 1
        moved = seeded(1, estimator.bound, pair, X) != seeded(1, estimator.bound, pair, other)
        assert moved.tolist() == [False, False, False, True, False]
        nested, inner, x = self.make(max_plate_nesting=2), Pixels(), torch.randn(4, 5)
        changed = x.clone()
        changed[2, 3] += 1
        bound = seeded(1, nested.bound, inner, x)
        assert bound.shape == (5,)
        assert (seeded(1, nested.bound, inner, changed) != bound).tolist() == moved.tolist()

    def test_a_bound_does_not_depend_on_the_batch(self) -> None:
        """A plate over 100 data of which the batch has 5 gives the bounds of the batch alone, and 100 / 5 its loss."""
        estimator, pair = self.make(), OneLatent(5)

        def model(x: Tensor) -> None:
            with pyro.plate("data", 100, subsample=x):
                z = pyro.sample("z", pair.prior(x))
                pyro.sample("x", dist.Normal(pair.w * z, 1.0), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", 100, subsample=x):
                pyro.sample("z", dist.Normal(pair.a * x + pair.b, pair.s.exp()))

        part = Pair(model, guide, pair)
        bound = seeded(1, estimator.bound, pair, X)
        torch.testing.assert_close(seeded(1, estimator.bound, part, X), bound)
        total = self._sign() * bound.sum().item() * 20
        assert seeded(1, estimator.loss, *programs(part), X) == pytest.approx(total, rel=1e-5)
        assert seeded(1, estimator.objective, *programs(part), X).loss.item() == pytest.approx(
            seeded(1, estimator.objective, *programs(pair), X).loss.item(), rel=1e-5
        )

    def test_the_terms_add_up(self) -> None:
        """``terms`` has log p, log q or KL of every site for each datum; in an ELBO they sum to the bound."""
        estimator, pair = self.make(), Chain(5)
        terms = {name: dict(site.items()) for name, site in seeded(1, estimator.terms, pair, X).items()}
        assert terms.keys() == {"z2", "z1", "x"}
        assert terms["x"].keys() == {"log_p"}
        for name, site in terms.items():
            assert site.keys() in ({"log_p"}, {"kl"}, {"log_p", "log_q"}), name
            assert all(value.shape[-1] == 5 and not value.requires_grad for value in site.values()), name
        means = seeded(1, estimator.objective, *programs(pair), X).terms
        for name, site in terms.items():
            for kind, value in site.items():
                torch.testing.assert_close(means[name][kind], value.mean())

    # What the value bounds

    def test_the_bound_is_on_its_side(self) -> None:
        """With a guide that is not the posterior the mean bound is below log p(x), as is claimed."""
        self._from_below()
        if self.make().side == "neither":
            pytest.skip("it claims neither side")
        pair = OneLatent(MANY)
        gaps = pair.log_evidence(1.0) - seeded(0, self.make().bound, pair, pair.data(1.0))
        error = max(gaps.std().item() / MANY**0.5, 1e-4)
        assert gaps.mean().item() > 5 * error

    def test_at_the_posterior_it_is_the_evidence(self) -> None:
        """With the exact posterior for a guide the bound is log p(x): by each draw, or in the mean by a KL."""
        self._from_below()
        pair = OneLatent.exact(MANY)
        bound = seeded(0, self.make().bound, pair, pair.data(1.0))
        error = bound.std().item() / MANY**0.5
        assert bound.mean().item() == pytest.approx(pair.log_evidence(1.0), abs=4.5 * error + 1e-9)
        assert error < 0.02

    def test_the_gradient_is_that_of_the_expectation(self) -> None:
        """The mean gradient is the finite difference of the mean bound, for the parameters in ``unbiased``."""
        self._from_below()
        estimator, step = self.make(), 1e-3
        pair = OneLatent(MANY, torch.float64)
        x = pair.data(1.0)
        found = pair.draws(estimator, 1.0)
        for side, names in (("model", "w"), ("guide", "abs")):
            if side not in self.unbiased:
                continue
            for name in names:
                value = pair.w.new_tensor(getattr(pair, name)[0].item())
                bounds = []
                for shift in (step, -step):
                    moved = OneLatent(MANY, torch.float64, **{name: value.item() + shift})
                    bounds.append(seeded(1, estimator.bound, moved, x))
                difference = (bounds[0] - bounds[1]) / (2 * step)
                error = ((difference.var() + found[name].var()) / MANY).sqrt()
                gap = (found[name].mean() - difference.mean()).abs()
                assert gap < 4.5 * error, f"{name}: {found[name].mean()}, expected {difference.mean()} +- {error}"
                assert error < 0.12, name

    # Training

    def test_a_traced_step_is_the_eager_one(self) -> None:
        """The graph draws what the programs draw, also a discrete latent where that is taken, and anew each time."""
        pairs = [lambda: Chain(5)]
        if self._takes(Coin(5), X):
            pairs.append(lambda: Coin(5))  # type: ignore[arg-type, return-value]
        for make in pairs:
            results = []
            for mode in ("eager", "traced"):
                pair, estimator = make(), self.make()
                step = TrainingStep(pair, estimator, compile=mode)
                torch.manual_seed(3)
                for _ in range(2):
                    objective = step((X,), dict.fromkeys(estimator.scheduled, torch.tensor(0.6)))
                assert step.mode == mode
                grads = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
                results.append((objective, grads))
            (eager, ours), (traced, theirs) = results
            assert_same(ours, theirs)
            torch.testing.assert_close(eager.loss, traced.loss)
            torch.testing.assert_close(eager.bound, traced.bound)
            assert eager.terms.keys() == traced.terms.keys()

    def test_learns_under_svi(self) -> None:
        """Pyro's SVI brings the guide of a linear-Gaussian pair to the posterior, N(w x / v, 1 / v), v = 1 + w^2.

        Whatever the bound on log p(x), its optimum is there.
        """
        self._from_below()
        if self.make().side == "neither":
            pytest.skip("what bounds nothing has its optimum elsewhere")
        pair, x = OneLatent(1), 2**0.5 * seeded(0, torch.randn, 256)
        model, guide = programs(pair)
        before = seeded(5, IWAE(20).bound, pair, x).mean()
        svi = SVI(model, guide, Adam({"lr": 0.05}), loss=self.make())
        torch.manual_seed(0)
        for _ in range(80):
            loss = svi.step(x)
        w, variance = pair.w.item(), 1 + pair.w.item() ** 2
        assert pair.a.item() == pytest.approx(w / variance, abs=0.12)  # at first 0.2 in place of 0.5
        assert pair.s.exp().item() == pytest.approx(variance**-0.5, abs=0.12)  # at first 0.45 in place of 0.7
        assert seeded(5, IWAE(20).bound, pair, x).mean() > before
        assert svi.evaluate_loss(x) / 256 == pytest.approx(loss / 256, abs=0.3)

    def test_fits(self) -> None:
        """``fit`` trains every parameter with it; a beta is taken, or refused where there is no place for it."""
        pair = OneLatent(5)
        before = {name: parameter.clone() for name, parameter in pair.named_parameters()}
        options: dict[str, Any] = {"epochs": 2, "batch_size": 5, "compile": "eager", "progress": False}
        data = TensorDataset(X.repeat(2)), TensorDataset(X)
        run = fit(pair, data, estimator=self.make(), **options)
        assert math.isfinite(run.history[-1]["valid"])
        assert all((parameter != before[name]).any() for name, parameter in pair.named_parameters())
        if self.make().no_beta:
            with pytest.raises(ValueError, match="no beta weighs"):
                fit(pair, data, estimator=self.make(), beta=0.5, **options)
            with pytest.raises(ValueError, match="no beta weighs"):
                self.make(beta=0.5)
        else:
            assert math.isfinite(fit(pair, data, estimator=self.make(), beta=0.5, **options).history[-1]["train"])

    # What it says of itself

    def test_repr_makes_it_again(self) -> None:
        """``eval(repr(estimator))`` and the copies have its options, by which a run folder knows it again."""
        estimator = self.make(max_plate_nesting=2)
        names = {**vars(estimators), type(estimator).__name__: type(estimator)}
        for other in (eval(repr(estimator), names), copy.copy(estimator), copy.deepcopy(estimator)):
            assert type(other) is type(estimator)
            assert repr(other) == repr(estimator)
            kinds = (int, float, str, bool)
            mine, its = ({k: v for k, v in vars(e).items() if isinstance(v, kinds)} for e in (estimator, other))
            assert mine == its
        assert "max_plate_nesting=2" in repr(estimator)

    def test_it_takes_the_sites_that_it_names(self) -> None:
        """A discrete latent, and one outside of the data plate, are taken or refused in a sentence, as facts say."""
        sites = self.make().facts.sites
        assert self._takes(Coin(5), X) == sites.startswith(("any", "discrete"))
        assert self._takes(Outside(), X) == ("in the data plate" not in sites)

    def test_evaluations_are_counted(self) -> None:
        """``evaluations`` are the rows that go through the networks of model and guide for a gradient and a datum."""
        pair = Networks()
        rows = {"decoder": 0, "encoder": 0}
        for name in rows:

            def count(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                rows[name] += output.shape[:-1].numel()

            getattr(pair, name).register_forward_hook(count)
        gradients_of(self.make(), pair, X)  # which sees how particles and plates of the pair are run
        rows.update(decoder=0, encoder=0)
        gradients_of(self.make(), pair, X)
        assert (rows["decoder"] / 5, rows["encoder"] / 5) == self.make().evaluations

    def test_a_bound_that_is_not_finite_is_said(self) -> None:
        """Of a log-likelihood of minus infinity, or none at all, for two of three data."""
        self._from_below()

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)
                pyro.factor("broken", torch.tensor([0.0, -math.inf, math.nan]))

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

        with (
            pyro.validation_enabled(False),
            pytest.warns(UserWarning, match=r"bound of 2 of 3 data is not finite.*remedy"),
        ):
            bound = self.make().bound(Pair(model, guide), torch.zeros(3))
        assert bound.isfinite().tolist() == [True, False, False]

    def _takes(self, pair: nn.Module, *batch: Any) -> bool:
        """Whether it takes a pair; what it refuses is refused with the name of an estimator that takes it."""
        try:
            gradients_of(self.make(), pair, *batch)
        except ValueError as error:
            if "Use SGVB_A" not in str(error):
                raise
            return False
        return True


class Networks(nn.Module):
    """A pair of two networks: z = encoder(x) + noise, x | z ~ N(decoder(z), 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(1, 1), nn.Linear(1, 1)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[:, None])

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x[:, None]), 1.0).to_event(1))


def gradients_of(estimator: Estimator, pair: nn.Module, *batch: Any, seed: int = 1) -> dict[str, Tensor]:
    """The gradients of an estimator's loss at a seed."""
    return gradients(pair, lambda: estimator.loss_and_grads(*programs(pair), *batch), seed)
