"""The laws of a pair of model and guide."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.infer import HMC, MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.inspect import get_model_relations
from pyro.optim import Adam  # type: ignore[attr-defined]
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pyro_vae.check import check
from pyro_vae.distributions.wrappers import without_events
from pyro_vae.estimators import SGVB_A, SGVB_B
from pyro_vae.pair import as_pair, data_frame, evaluating, latent_sites, observed_sites, programs, run, support_of
from pyro_vae.pair.sites import plate_nesting, random_sites
from pyro_vae.pair.turns import fork_rng
from pyro_vae.testing.comparing import assert_same, gradients, seeded
from pyro_vae.training import fit
from pyro_vae.training.step import TrainingStep


class Made(NamedTuple):
    """What ``make`` gave: the pair as it is, the same as a module, and the arguments of its programs."""

    raw: Any
    pair: nn.Module
    batch: tuple[Any, ...]


class PairLaws:
    """What holds for every pair: with Pyro's own tools, beside other pairs, and in this library's steps.

    A subclass overrides :meth:`make`.

    Attributes:
        isolated: whether the programs keep their parameters to themselves under Pyro's own tools as well, as those of
            :class:`~pyro_vae.VAE`, :class:`~pyro_vae.Pair` and :func:`~pyro_vae.pair_method` do. A class with bare
            ``pyro.module`` statements does so only in this library's hands: ``isolated = False``.
        idle: beginnings of the names of parameters that no term of the loss reaches, so that they are never trained.
    """

    isolated: bool = True
    idle: tuple[str, ...] = ()

    def make(self) -> tuple[Any, tuple[Any, ...]]:
        """A new pair (required) with weights by torch's generator, and arguments of its programs for 3 or more data.

        The arguments are the same at each call: laws compare pairs of other weights on them.
        """
        raise NotImplementedError

    # What the laws share

    @pytest.fixture(autouse=True)
    def _clean_store(self) -> Iterator[None]:
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()

    def _made(self, seed: int = 0) -> Made:
        """A pair by a seed, which has all its parameters."""
        torch.manual_seed(seed)
        raw, batch = self.make()
        pair = as_pair(raw)
        with evaluating(pair), torch.no_grad(), fork_rng():
            run(pair, *batch)
        return Made(raw, pair, batch)

    def _trained(self, made: Made) -> dict[str, Tensor]:
        """The parameters that training is to move."""
        named = made.pair.named_parameters()
        return {name: p for name, p in named if p.requires_grad and not name.startswith(self.idle or "-")}

    def _ours(self, made: Made, steps: int = 3) -> list[float]:
        """Losses of SVI steps of the programs in this library's hands."""
        model, guide = programs(made.pair)
        return steps_of(SimpleNamespace(model=model, guide=guide), made.batch, steps)

    # Pyro's own tools

    def test_check_passes(self) -> None:
        """``check`` finds nothing to mend, and leaves the pair and torch's random state as they were."""
        made = self._made()
        before = {name: value.clone() for name, value in made.pair.state_dict().items()}
        state, training = torch.get_rng_state(), made.pair.training
        report = check(made.raw, *made.batch, estimator=SGVB_A(2, max_plate_nesting=nesting_of(made)))
        assert any(site.observed for site in report.sites)
        assert report.num_parameters == sum(p.numel() for p in made.pair.parameters() if p.requires_grad)
        assert torch.equal(torch.get_rng_state(), state)
        assert made.pair.training == training
        for name, value in made.pair.state_dict().items():
            assert torch.equal(value, before[name]), name

    @pytest.mark.filterwarnings("ignore::UserWarning")  # Pyro's, of what mean field leaves out
    @pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
    def test_trains_under_svi(self, elbo: Any) -> None:
        """Pyro's SVI with Pyro's ELBOs lowers the loss, and moves every parameter that is to be trained."""
        made = self._made()
        if elbo is TraceMeanField_ELBO and not is_reparameterized(made):
            pytest.skip("TraceMeanField_ELBO needs reparameterized latents")
        options = {"vectorize_particles": True, "max_plate_nesting": nesting_of(made)}

        def loss() -> float:
            with kept_buffers(made.pair):
                return seeded(9, elbo(16, **options).loss, made.raw.model, made.raw.guide, *made.batch)

        at_first = loss()
        trained = self._trained(made) if self.isolated else dict(pyro.get_param_store().named_parameters())
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        steps_of(made.raw, made.batch, 10, elbo(2, **options))
        assert loss() < at_first
        assert before
        for name, parameter in trained.items():
            assert not torch.equal(parameter, before[name]), name

    def test_predictive(self) -> None:
        """Pyro's Predictive draws latents from the guide and data from the prior, and gives observed data back."""
        made = self._made()
        needs_prior(made)
        made.pair.eval()
        model_trace, guide_trace = run(made.pair, *made.batch)
        drawn = Predictive(made.raw.model, guide=made.raw.guide, num_samples=4)(*made.batch)
        random = is_random(made)
        for name, site in latent_sites(guide_trace).items():
            value = drawn[name].reshape(4, *site["value"].shape)
            assert (value != value[0]).any() == random[name], name
        given = Predictive(made.raw.model, num_samples=3, parallel=True)(*made.batch)
        for name, site in observed_sites(model_trace).items():
            assert torch.equal(given[name].reshape(-1, *site["value"].shape)[-1], site["value"]), name
            first = next(iter(inspect.signature(made.raw.model).parameters.values()))
            if first.default is None:  # the model draws a datum itself
                assert Predictive(made.raw.model, num_samples=3)()[name].shape == (3, 1, *site["value"].shape[1:])

    @pytest.mark.parametrize("kernel", [HMC, NUTS])
    def test_hamiltonian_monte_carlo(self, kernel: Any) -> None:
        """Pyro's kernels run over continuous latents, and leave no gradient on the parameters."""
        made = self._made()
        needs_prior(made)
        made.pair.eval()
        sites = latent_sites(run(made.pair, *made.batch)[0])
        for name, site in sites.items():
            if is_discrete(site):
                pytest.skip(f"{name} is discrete")
        made.pair.zero_grad()
        options = {"num_steps": 2} if kernel is HMC else {"max_tree_depth": 2}
        mcmc = MCMC(kernel(made.raw.model, **options), num_samples=1, warmup_steps=1, disable_progbar=True)
        mcmc.run(*made.batch)
        shapes = {name: value.shape[1:] for name, value in mcmc.get_samples().items()}
        assert shapes == {name: site["value"].shape for name, site in sites.items()}
        assert all(parameter.grad is None for parameter in made.pair.parameters())

    def test_relations_of_the_model(self) -> None:
        """Pyro reads the graphical model off the program, and draws it."""
        made = self._made()
        needs_prior(made)
        trace = run(made.pair, *made.batch)[0]
        relations = get_model_relations(made.raw.model, made.batch)
        assert relations["observed"] == list(observed_sites(trace))
        assert set(relations["sample_dist"]) == {*latent_sites(trace), *observed_sites(trace)}
        frame: Any = data_frame(trace)
        inside = {name for name, site in random_sites(trace).items() if frame in site["cond_indep_stack"]}
        assert set(relations["plate_sample"][frame.name]) == inside
        assert any(relations["sample_sample"][name] for name in relations["observed"])
        pytest.importorskip("graphviz")
        source = pyro.render_model(made.raw.model, model_args=made.batch, render_params=True).source
        assert all(f"{name} [" in source or f'"{name}" [' in source for name in relations["sample_dist"])

    @pytest.mark.filterwarnings("ignore:.*no closed-form KL:UserWarning")
    @pytest.mark.filterwarnings("ignore:.*mean field:UserWarning")
    @pytest.mark.parametrize("particles", [1, 3])
    def test_equals_pyros_elbos(self, particles: int) -> None:
        """SGVB_A is Trace_ELBO and SGVB_B, where it takes the pair, TraceMeanField_ELBO: value and gradient by seed."""
        made = self._made()
        nesting = nesting_of(made)
        model, guide = programs(made.pair)
        for ours, theirs in ((SGVB_A, Trace_ELBO), (SGVB_B, TraceMeanField_ELBO)):
            mine = ours(particles, max_plate_nesting=nesting)
            try:
                mine.bound(made.pair, *made.batch)
            except ValueError as error:
                if ours is SGVB_A or "Use SGVB_A" not in str(error):
                    raise
                continue
            found = []
            for one in (mine, theirs(particles, vectorize_particles=True, max_plate_nesting=nesting)):
                with kept_buffers(made.pair):
                    value = seeded(1, one.loss, model, guide, *made.batch)
                with kept_buffers(made.pair):
                    call = functools.partial(one.loss_and_grads, model, guide, *made.batch)
                    found.append((value, gradients(made.pair, call)))
            assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
            assert_same(found[0][1], found[1][1], rtol=1e-4, atol=1e-4 * largest(found[1][1]))

    # Its own parameters

    def test_same_seed_same_bits(self) -> None:
        """A pair, its bound and its training are functions of the seed."""
        first, second = self._made(), self._made()
        assert first.pair.state_dict().keys() == second.pair.state_dict().keys()
        for name, value in first.pair.state_dict().items():
            assert torch.equal(value, second.pair.state_dict()[name]), name
        assert self._ours(first) == self._ours(second)
        assert torch.equal(bound_of(first), bound_of(second))

    def test_pairs_do_not_meet(self) -> None:
        """Pairs trained in one process, in turns, are what each is alone; no two instances share a parameter."""
        alone = [self._ours(self._made(seed)) for seed in (1, 2)]
        assert alone[0] != alone[1]
        first, second = self._made(1), self._made(2)
        steps_of(self._made(3).raw, first.batch, 1)  # one that may fill Pyro's store
        owned = [{id(parameter) for parameter in made.pair.parameters()} for made in (first, second)]
        assert not owned[0] & owned[1]
        assert in_turns([SimpleNamespace(**dict(zip(("model", "guide"), programs(made.pair), strict=True)))
                         for made in (first, second)], [first.batch, second.batch]) == alone  # fmt: skip
        if self.isolated:
            first, second = self._made(1), self._made(2)
            assert in_turns([first.raw, second.raw], [first.batch, second.batch]) == alone

    def test_pyros_store_is_left_as_it_was(self) -> None:
        """Neither this library nor, where the pair is isolated, Pyro's tools write into Pyro's global store."""
        made = self._made()
        value: Any = pyro.param
        mine = value("mine", torch.ones(2)).unconstrained()
        scale = value("scale", torch.tensor(3.0)).unconstrained()  # a name that a pair may use as well
        check(made.raw, *made.batch)
        bound_of(made)
        self._ours(made, 2)
        if self.isolated:
            steps_of(made.raw, made.batch, 2)
        assert sorted(pyro.get_param_store().keys()) == ["mine", "scale"]
        assert value("mine").unconstrained() is mine
        assert value("scale").unconstrained() is scale
        assert scale.item() == 3.0

    def test_state_dict_round_trips(self) -> None:
        """A trained pair's state, loaded into another of the class, gives the same bound to the bit."""
        made, other = self._made(), self._made(1)
        self._ours(made)
        bound = bound_of(made)
        assert not torch.equal(bound_of(other), bound)
        other.pair.load_state_dict(made.pair.state_dict())
        assert torch.equal(bound_of(other), bound)

    def test_a_copy_is_independent(self) -> None:
        """``copy.deepcopy`` gives a pair that trains alike and moves nothing of the first; functions refuse it."""
        made = self._made()
        try:
            copied = made._replace(pair=copy.deepcopy(made.pair))
        except TypeError as error:
            if "cannot be copied" not in str(error):
                raise
            return
        before = {name: value.clone() for name, value in made.pair.state_dict().items()}
        assert copied.pair.state_dict().keys() == before.keys()
        bound, losses = bound_of(made), self._ours(copied)
        for name, value in made.pair.state_dict().items():
            assert torch.equal(value, before[name]), name
        for name, parameter in self._trained(copied).items():
            assert not torch.equal(parameter, before[name]), name
        assert torch.equal(bound_of(made), bound)
        assert self._ours(made) == losses

    # Shapes and types

    def test_particles_are_one_more_dimension(self) -> None:
        """A run with particles draws ``[K, B, *event]``, independently, and scores each as it is scored alone."""
        made = self._made()
        nesting, random = nesting_of(made), is_random(made)
        with evaluating(made.pair), torch.no_grad():
            plain: Any = run(made.pair, *made.batch)[1]
            traces = run(made.pair, *made.batch, num_particles=3, max_plate_nesting=nesting)
            for trace in traces:
                trace.compute_log_prob()
            latents = latent_sites(traces[1])
            for name, site in latents.items():
                size = site["value"].numel() // plain.nodes[name]["value"].numel()
                assert size == (3 if random[name] else size), name
                if random[name]:
                    values = site["value"].reshape(3, *plain.nodes[name]["value"].shape)
                    assert not torch.equal(values[0], values[1]), name
            for k in range(3):
                given = {name: particle(site["value"], plain.nodes[name]["value"].shape, k)
                         for name, site in latents.items()}  # fmt: skip
                for which, alone in enumerate(conditioned(made.pair, given, made.batch)):
                    for name, site in random_sites(alone).items():
                        together = traces[which].nodes[name]["log_prob"]
                        together = particle(together, site["log_prob"].shape, k)
                        torch.testing.assert_close(together, site["log_prob"], rtol=1e-4, atol=1e-3)

    def test_a_datum_is_scored_by_itself(self) -> None:
        """In evaluation mode the terms of a datum are the same in a batch of one, of some, and of all."""
        made = self._made()
        x = made.batch[0]
        with evaluating(made.pair), torch.no_grad():
            whole = run(made.pair, *made.batch)
            frame = data_frame(whole[0])
            for rows in ([1], [2, 0]):
                batch = tuple(rows_of(value, rows, len(x)) for value in made.batch)
                bound = SGVB_A(max_plate_nesting=nesting_of(made)).bound(made.pair, *batch)
                assert bound.shape == (len(rows),)
                latents = latent_sites(whole[1])
                inside = {name for name, site in latents.items() if has_frame(site, frame)}
                given = {name: along(site["value"], site, rows) if name in inside else site["value"]
                         for name, site in latents.items()}  # fmt: skip
                for which, part in enumerate(conditioned(made.pair, given, batch)):
                    whole[which].compute_log_prob()
                    for name, site in random_sites(part).items():
                        full = whole[which].nodes[name]
                        expected = full["log_prob"][..., rows] if has_frame(full, frame) else full["log_prob"]
                        torch.testing.assert_close(site["log_prob"], expected, rtol=1e-4, atol=1e-3)

    def test_float64(self) -> None:
        """A pair in float64 takes data in float64 and gives bounds in it."""
        made = self._made()
        estimator = SGVB_A(max_plate_nesting=nesting_of(made))
        made.pair.double()
        batch = tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in made.batch)
        check(made.raw, *batch)
        bound = estimator.bound(made.pair.eval(), *batch)
        assert bound.dtype == torch.float64
        assert bound.isfinite().all()

    # Training

    def test_a_traced_step_is_the_eager_one(self) -> None:
        """The step as one graph gives the loss, gradients and buffers of the programs, and draws anew each time."""
        found = []
        for mode in ("eager", "traced"):
            made = self._made()
            step = TrainingStep(made.pair, SGVB_A(2, max_plate_nesting=nesting_of(made)), compile=mode)
            torch.manual_seed(3)
            for _ in range(2):  # the second time the graph is there
                objective = step(made.batch, {"beta": torch.tensor(0.6)})
            assert step.mode == mode
            grads = {name: p.grad.clone() for name, p in made.pair.named_parameters() if p.grad is not None}
            found.append((objective, grads, dict(made.pair.named_buffers())))
        (eager, ours, buffers), (traced, theirs, others) = found
        torch.testing.assert_close(traced.loss, eager.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(traced.bound, eager.bound, rtol=1e-4, atol=1e-5)
        assert traced.terms.keys() == eager.terms.keys()
        assert_same(
            theirs, ours, rtol=1e-4, atol=1e-5 * max(1.0, *(value.abs().max().item() for value in ours.values()))
        )
        for name, value in buffers.items():
            torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5, msg=name)

    def test_resumed_is_the_same_bits(self, tmp_path: Path) -> None:
        """``fit`` that was interrupted and goes on in a fresh pair ends where an uninterrupted one does."""

        def fitted(seed: int, out: str, **options: Any) -> Any:
            made = self._made(seed)
            data = TensorDataset(*(torch.cat([value, value]) for value in made.batch))
            options["estimator"] = SGVB_A(max_plate_nesting=nesting_of(made))
            options.update(epochs=3, batch_size=len(made.batch[0]), compile="eager", progress=False)
            return fit(made.pair, data, out=tmp_path / out, checkpoint_every=0.0, **options)

        def stop(so_far: Any) -> None:
            if len(so_far.history) == 2:
                raise KeyboardInterrupt

        whole = fitted(0, "whole")
        with pytest.raises(KeyboardInterrupt):
            fitted(0, "parts", callbacks=[stop])
        resumed = fitted(7, "parts", resume=True)
        for (name, ours), theirs in zip(
            whole.pair.state_dict().items(), resumed.pair.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs), name
        assert [entry["train"] for entry in whole.history] == [entry["train"] for entry in resumed.history]


def steps_of(pair: Any, batch: tuple[Any, ...], steps: int, elbo: Any = None, seed: int = 0) -> list[float]:
    """Losses of Pyro's SVI, from a seed."""
    torch.manual_seed(seed)
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.02}), loss=elbo or Trace_ELBO())
    return [svi.step(*batch) for _ in range(steps)]


def in_turns(pairs: list[Any], batches: list[tuple[Any, ...]], steps: int = 3) -> list[list[float]]:
    """Losses of SVI steps of several pairs in turns, each with a random state of its own."""
    torch.manual_seed(0)
    loops = [SVI(pair.model, pair.guide, Adam({"lr": 0.02}), loss=Trace_ELBO()) for pair in pairs]
    states, losses = [torch.get_rng_state()] * len(pairs), [[] for _ in pairs]  # type: ignore[var-annotated]
    for _ in range(steps):
        for index, (svi, batch) in enumerate(zip(loops, batches, strict=True)):
            torch.set_rng_state(states[index])
            losses[index].append(svi.step(*batch))
            states[index] = torch.get_rng_state()
    return losses


@contextmanager
def kept_buffers(pair: nn.Module) -> Iterator[None]:
    """Puts a pair's buffers back, which a run in training mode may move."""
    buffers = [(buffer, buffer.clone()) for buffer in pair.buffers()]
    yield
    for buffer, value in buffers:
        buffer.copy_(value)


def bound_of(made: Made) -> Tensor:
    """``[B]``, in evaluation mode at one seed."""
    with evaluating(made.pair):
        return seeded(5, SGVB_A(max_plate_nesting=nesting_of(made)).bound, made.pair, *made.batch)


def largest(values: dict[str, Tensor]) -> float:
    return max(value.abs().max().item() for value in values.values())


def nesting_of(made: Made) -> int:
    """How many plates the programs nest."""
    with evaluating(made.pair), torch.no_grad(), fork_rng():
        return plate_nesting(*run(made.pair, *made.batch))


def is_random(made: Made) -> dict[str, bool]:
    """Which latents the guide draws anew at each run; the code of an autoencoder, say, it does not."""
    with evaluating(made.pair), torch.no_grad():
        one, other = (latent_sites(seeded(seed, run, made.pair, *made.batch)[1]) for seed in (1, 2))
    return {name: not torch.equal(site["value"], other[name]["value"]) for name, site in one.items()}


def is_reparameterized(made: Made) -> bool:
    return all(site["fn"].has_rsample for site in latent_sites(run(made.pair, *made.batch)[1]).values())


def needs_prior(made: Made) -> None:
    """Skips where nothing can be drawn from the model, as from an autoencoder's."""
    for name, site in latent_sites(run(made.pair, *made.batch)[0]).items():
        if isinstance(without_events(site["fn"]), ImproperUniform):
            pytest.skip(f"the prior of {name} is improper")


def is_discrete(site: Any) -> bool:
    return bool(getattr(support_of(site["fn"]), "is_discrete", False))


def has_frame(site: Any, frame: Any) -> bool:
    return any(other.name == frame.name for other in site["cond_indep_stack"])


def rows_of(value: Any, rows: list[int], size: int) -> Any:
    return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == size else value


def along(value: Tensor, site: Any, rows: list[int]) -> Tensor:
    """Rows of a value ``[*plates, B, *event]`` along the data plate, the rightmost."""
    return value.index_select(value.dim() - 1 - len(site["fn"].event_shape), torch.tensor(rows))


def particle(value: Tensor, shape: torch.Size, k: int) -> Tensor:
    """The k-th of the particles, as one run without them has it; what is the same for all particles as it is."""
    return value.reshape(shape) if value.numel() == shape.numel() else value.reshape(-1, *shape)[k]


def conditioned(pair: nn.Module, values: dict[str, Tensor], batch: tuple[Any, ...]) -> list[Trace]:
    """``[model_trace, guide_trace]`` of the programs at given latents, with their log-probabilities."""
    traces = []
    for program in programs(pair):
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(*batch)
        trace.compute_log_prob()
        traces.append(trace)
    return traces
