"""The laws of a distribution."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import biject_to, constraints, kl_divergence
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.testing.comparing import seeded

Parameters = dict[str, Tensor]
ERRORS = 4.5  # standard errors that a mean of draws may be off


class Points(NamedTuple):
    """Values ``[N, *event]`` with weights ``[N]``, whose sum over f(values) is the integral of f over the support.

    Those of a grid are exact, those of random draws weigh 1 / (N density).
    """

    values: Tensor
    weights: Tensor
    random: bool = False


class DistributionLaws:
    """What holds for every distribution: its density is one, and its draws, moments, gradients and KL are of it.

    A subclass overrides :meth:`make` and says its ``parameters``; where the density of one number is meant they are
    checked by quadrature or by enumeration, and for a vector or a matrix by draws from a :meth:`proposal`.

    Attributes:
        parameters: of one distribution, by name, as numbers or nested lists.
        other: parameters of a second one, to which a KL may be registered; those that it does not name are the same.
        extremes: parameters, as ``other``, at which draws, scores and gradients in float32 have to be finite.
        priors: further distributions to which a KL is registered.
        bad: a value for each parameter that is refused while validation is on.
        tolerance: of what is computed by quadrature.
        num_draws: how many draws a mean is taken of.
        reparameterized: whether draws have gradients.
        closed_form: whether a KL to another of its class is registered.
    """

    parameters: dict[str, Any]
    other: ClassVar[dict[str, Any]] = {}
    extremes: list[dict[str, Any]] = []  # noqa: RUF012
    priors: tuple[Callable[[], Any], ...] = ()
    bad: ClassVar[dict[str, Any]] = {}
    tolerance: float = 1e-6
    num_draws: int = 20_000
    reparameterized: bool = True
    closed_form: bool = False

    def make(self, **parameters: Tensor) -> Any:
        """The distribution of these parameters (required), of batch shape ``[*]`` where each has it on the left."""
        raise NotImplementedError

    def reference(self, **parameters: Any) -> Any:
        """Another library's distribution of the parameters as numpy arrays, with ``logpdf`` or ``logpmf``, if any."""
        return None

    def points(self, p: Any) -> Points:
        """Where p is integrated: by the rule of its support, or by draws from :meth:`proposal`."""
        support = p.support
        if p.event_shape:
            q = self.proposal(p)
            values = q.sample((self.num_draws,))
            return Points(values, (-q.log_prob(values)).exp() / self.num_draws, random=True)
        if p.has_enumerate_support:
            values = p.enumerate_support()
        elif support.is_discrete:
            values = torch.arange(math.ceil(p.mean + 40 * p.variance.sqrt()) + 50.0, dtype=p.mean.dtype)
        else:
            return _double_exponential(support)
        return Points(values, torch.ones_like(values))

    def proposal(self, p: Any) -> Any:
        """A distribution whose density is known, with mass wherever p has some: by default a wide normal."""
        draws = p.sample((2000,))
        return dist.Normal(draws.mean(0), 1.5 * draws.std(0)).to_event(len(p.event_shape))

    # What the laws share

    def _tensors(self, dtype: torch.dtype = torch.float64, **changed: Any) -> Parameters:
        given = {**self.parameters, **changed}
        return {name: torch.as_tensor(value).to(dtype) for name, value in given.items()}

    def _made(self, dtype: torch.dtype = torch.float64, **changed: Any) -> Any:
        return self.make(**self._tensors(dtype, **changed))

    def _batch(self, *leading: int, dtype: torch.dtype = torch.float64, grad: bool = False) -> Parameters:
        """The parameters, each for every one of a batch."""
        made = {name: value.expand((*leading, *value.shape)) for name, value in self._tensors(dtype).items()}
        return {name: value.clone().requires_grad_() if grad else value for name, value in made.items()}

    def _expected(self, p: Any, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """E f(x) and its error."""
        values, weights, random = self.points(p)
        terms = f(values) * _like(weights * p.log_prob(values).exp(), f(values))
        spread = terms.std(0) * math.sqrt(len(values)) if random else torch.full_like(terms[0], self.tolerance)
        return terms.sum(0), spread

    def _agrees(self, p: Any, f: Callable[[Tensor], Tensor], value: Tensor) -> None:
        """``value`` is E f(x)."""
        expected, error = self._expected(p, f)
        assert ((value - expected).abs() <= ERRORS * error + self.tolerance * expected.abs()).all(), (value, expected)

    # The density and what is drawn from it

    def test_the_density_is_normalized(self) -> None:
        """Its integral, or the sum of its masses, is 1."""
        p = self._made()
        total, error = self._expected(p, lambda x: torch.ones(len(x), dtype=torch.float64))
        assert error < 0.03
        assert (total - 1).abs() < max(self.tolerance, ERRORS * error.item())

    def test_another_library_gives_the_same_density(self) -> None:
        """To the digits of float64 at draws, and to those of float32."""
        reference = self.reference(**{name: value.numpy() for name, value in self._tensors().items()})
        if reference is None:
            pytest.skip("no other library has it")
        p = self._made()
        x = p.sample((200,))
        score = getattr(reference, "logpmf", None) or reference.logpdf
        theirs = torch.as_tensor(score(x.numpy()))
        torch.testing.assert_close(p.log_prob(x), theirs, rtol=1e-8, atol=1e-8)
        single = self._made(torch.float32).log_prob(x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), p.log_prob(x.float().double()), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_draws_follow_the_density(self, dtype: torch.dtype) -> None:
        """Discrete ones by their frequencies, others by quantiles and bounded moments, numbers by their cdf as well."""
        p, size = self._made(), self.num_draws
        drawn = seeded(1, self._made(dtype).sample, (size,))
        assert drawn.dtype == dtype
        x = drawn.double()
        values, weights, _ = self.points(p)
        mass = weights * p.log_prob(values).exp()
        if p.support.is_discrete:
            frequencies = torch.stack([((x - value).abs() < 1e-4).double().mean() for value in values[mass > 1e-6]])
            error = (mass * (1 - mass) / size).sqrt()[mass > 1e-6]
            assert ((frequencies - mass[mass > 1e-6]).abs() <= ERRORS * error + 1e-6).all()
            assert frequencies.sum() > 1 - 1e-3
            return
        below = x.quantile(torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 0).movedim(0, -1)
        functions: list[Callable[[Tensor], Tensor]] = [_bounded, lambda x: _bounded(x).square()]
        if p.event_shape:
            functions += [lambda x: (x.unsqueeze(-1) < below).double(), lambda x: _bounded(x).prod(-1)]
        else:
            at, cdf = values.numpy(), (mass.cumsum(0) - mass / 2).numpy()
            assert kstest(x.numpy(), lambda value: np.interp(value, at, cdf)).pvalue > 1e-3
        for f in functions:
            value, error = self._expected(p, f)
            error = (error.square() + f(x).var(0) / size).sqrt()
            assert ((f(x).mean(0) - value).abs() < ERRORS * error + 1e-6).all()

    def test_moments(self) -> None:
        """Mean, variance and entropy, where there are any, are those of the density."""
        p, known = self._made(), set()
        for name in ("mean", "variance", "entropy"):
            try:
                value = p.entropy() if name == "entropy" else getattr(p, name)
            except NotImplementedError:
                continue
            if value.isfinite().all():
                known.add(name)
                mean = p.mean if name == "variance" else 0.0
                f: dict[str, Any] = {"mean": lambda x: x, "variance": lambda x, m=mean: (x - m).square()}
                self._agrees(p, f.get(name, lambda x: -p.log_prob(x)), value)
        if not known:
            pytest.skip("it knows no moment")

    def test_gradients_of_draws(self) -> None:
        """d E f(x) / d parameter, by draws and from the density, for a bounded f and its square."""
        p, size = self._made(), self.num_draws
        assert p.has_rsample == self.reparameterized
        if not self.reparameterized:
            pytest.skip("it is not reparameterized")
        weight = torch.arange(1.0, 1 + p.event_shape.numel(), dtype=torch.float64).reshape(p.event_shape)
        each, told = self._batch(size, grad=True), set()
        x = seeded(1, self.make(**each).rsample)
        for power in (1, 2):

            def f(x: Tensor, power: int = power) -> Tensor:
                return (_bounded(x) ** power * weight).reshape(len(x), -1).sum(-1)

            slopes = torch.autograd.grad(f(x).sum(), list(each.values()), retain_graph=True)
            for name, found in zip(each, slopes, strict=True):
                expected, error = self._slope(name, f)
                error = (error.square() + found.var(0) / size).sqrt()
                assert ((found.mean(0) - expected).abs() < ERRORS * error + 1e-9).all(), (name, found.mean(0), expected)
                if (expected.abs() > 2 * ERRORS * error).any():
                    told.add(name)
        assert told == each.keys(), "a gradient cannot be told from zero"

    def _slope(self, name: str, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """d E f(x) / d parameter and its error, by quadrature or, with the score, by draws of the proposal."""
        given, step = self._tensors(), 1e-4
        if not self._made().event_shape:
            sides = [self._expected(self.make(**{**given, name: given[name] + s}), f)[0] for s in (step, -step)]
            return (sides[0] - sides[1]) / (2 * step), torch.tensor(self.tolerance)
        values, weights, _ = self.points(self.make(**given))
        each = self._batch(len(values))[name].clone().requires_grad_()
        terms = weights * self.make(**{**given, name: each}).log_prob(values).exp() * f(values)
        (slopes,) = torch.autograd.grad(terms.sum(), each)
        return slopes.sum(0), slopes.std(0) * math.sqrt(len(values))

    def test_same_seed_same_draws(self) -> None:
        """``sample`` is ``rsample`` without the graph, and both are functions of the seed."""
        p = self.make(**self._batch(5, dtype=torch.float32, grad=True))
        drawn = seeded(3, p.sample)
        assert not drawn.requires_grad
        assert torch.equal(drawn, seeded(3, p.sample))
        assert not torch.equal(drawn, seeded(4, p.sample))
        if p.has_rsample:
            z = seeded(3, p.rsample)
            assert z.requires_grad
            torch.testing.assert_close(drawn, z.detach(), rtol=0, atol=0)

    # Shapes and types

    @pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
    def test_shapes_and_expansion(self, leading: tuple[int, ...]) -> None:
        """Batches of parameters, and what Pyro's plates make of one: the same scores, independent draws."""
        p, one = self.make(**self._batch(*leading, dtype=torch.float32)), self._made(torch.float32)
        event, dim = one.event_shape, len(one.event_shape)
        assert (p.batch_shape, p.event_shape) == (leading, event)
        x = p.sample((7,))
        assert x.shape == (7, *leading, *event)
        assert p.support.check(x).all()
        assert p.log_prob(x).shape == (7, *leading)
        torch.testing.assert_close(p.log_prob(x), one.expand(leading).log_prob(x), rtol=1e-4, atol=1e-5)
        wider = p.expand((3, *leading))
        assert type(wider) is type(p)
        y = wider.sample((40,))
        assert (y[:, 0] != y[:, 1]).any()
        torch.testing.assert_close(wider.log_prob(y)[:, 1], p.log_prob(y[:, 1]), rtol=1e-4, atol=1e-5)
        if leading:
            torch.testing.assert_close(p.to_event(1).log_prob(x), p.log_prob(x).sum(-1))
        if leading == (5,):
            with pyro.plate("particles", 3, dim=-2), pyro.plate("data", 5, dim=-1):
                trace = pyro.poutine.trace(lambda: pyro.sample("x", p, obs=x[0])).get_trace()
                assert pyro.sample("y", p).shape == (3, 5, *event)
            trace.compute_log_prob()
            score = p.log_prob(x[0])
            torch.testing.assert_close(trace.nodes["x"]["log_prob"].expand(3, 5), score.expand(3, 5))
        assert dim == p.event_dim

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        """Draws, scores and moments are of the parameters' dtype; float32 gives what float64 gives, in fewer digits."""
        p = self._made(dtype)
        x = p.sample((50,))
        assert x.dtype == p.log_prob(x).dtype == dtype
        with contextlib.suppress(NotImplementedError):
            assert p.mean.dtype == dtype
        other = self._made(torch.float64).log_prob(x.double())
        torch.testing.assert_close(p.log_prob(x).double(), other, rtol=1e-4, atol=1e-3)

    def test_what_is_refused(self) -> None:
        """While validation is on: a value off the support, and a parameter that cannot be."""
        with pyro.validation_enabled(True):
            for p in (self._made(torch.float32), self._made(torch.float32).expand((3,))):
                x, refused = p.sample(), 0
                for bad in (torch.full_like(x, math.nan), x - 1.5, x + 0.37, x + 1.7, -x - 1):
                    if not p.support.check(bad).all():
                        refused += 1
                        with pytest.raises(ValueError, match="support"):
                            p.log_prob(bad)
                assert refused
                p.log_prob(x)
            for name, value in self.bad.items():
                with pytest.raises(ValueError, match=name):
                    self._made(**{name: value})

    # Floating point

    def test_extremes_stay_finite(self) -> None:
        """In float32 draws are inside the support, and scores and gradients finite, whatever the parameters."""
        if not self.extremes:
            pytest.skip("no extremes are given")
        for extreme in self.extremes:
            given = {name: value.requires_grad_() for name, value in self._tensors(torch.float32, **extreme).items()}
            p = self.make(**given)
            x = p.rsample((500,)) if p.has_rsample else p.sample((500,))
            assert x.isfinite().all(), extreme
            assert p.support.check(x).all(), extreme
            score = p.log_prob(x)
            assert score.isfinite().all(), extreme
            total = score.sum() + (_bounded(x).sum() if p.has_rsample else 0.0)
            gradients = torch.autograd.grad(total, list(given.values()), allow_unused=True, materialize_grads=True)
            assert all(gradient.isfinite().all() for gradient in gradients), extreme

    # Closed forms and graphs

    def test_registered_divergences(self) -> None:
        """The KL to another of its class, and to ``priors``, is that of the density; it is 0 to itself."""
        p, targets = self._made(), [prior() for prior in self.priors]
        if self.closed_form:
            targets.append(self._made(**self.other))
            torch.testing.assert_close(kl_divergence(p, self._made()).item(), 0.0, atol=1e-9, rtol=0)
        else:
            with pytest.raises(NotImplementedError):
                kl_divergence(p, self._made(**self.other))
        for q in targets:
            kl = kl_divergence(p, q)
            assert kl > 0.01
            self._agrees(p, functools.partial(_log_ratio, p, q), kl)
            assert kl_divergence(p.expand((3,)), q.expand((3,))).shape == (3,)

    def test_traces(self) -> None:
        """A draw and its score become one graph, which draws anew for other parameters: as training needs it."""
        names = list(self.parameters)

        def compute(*values: Tensor) -> list[Tensor]:
            leaves = [value.detach().requires_grad_() for value in values]
            p = self.make(**dict(zip(names, leaves, strict=True)))
            x = p.rsample((2,)) if p.has_rsample else p.sample((2,))
            total = p.log_prob(x).sum() + (_bounded(x).sum() if p.has_rsample else 0.0)
            slopes = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
            return [x.detach(), total.detach(), *slopes]

        with pyro.validation_enabled(False):
            given = list(self._batch(5, dtype=torch.float32).values())
            graph = make_fx(compute, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
            changed = self._tensors(torch.float32, **self.other)
            moved = [value.expand(5, *value.shape) for value in changed.values()]
            for traced, eager in zip(seeded(1, graph, *moved), seeded(1, compute, *moved), strict=True):
                torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


def _bounded(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


def _like(weights: Tensor, terms: Tensor) -> Tensor:
    """``[N]`` with as many dimensions as ``[N, *event]``."""
    return weights.reshape(-1, *(1 for _ in terms.shape[1:]))


def _double_exponential(support: Any) -> Points:
    """A rule of integration over an interval, the half line or the line, also where the density is infinite at an end.

    Source: Takahasi & Mori (1974).
    """
    reach = 4.2 if support is constraints.real else 6.5  # 1e22, and 1e-227 from an end
    u = torch.linspace(-reach, reach, 4001, dtype=torch.float64)
    inner, slope = math.pi / 2 * u.sinh(), math.pi / 2 * u.cosh() * (u[1] - u[0])
    if support is constraints.real:
        values, slope = inner.sinh(), slope * inner.cosh()
    else:
        to = biject_to(support)
        values = to(inner)
        slope = slope * to.log_abs_det_jacobian(inner, values).exp()
    # An end itself is what numbers next to it round to.
    inside = (values > values[0]) & (values < values[-1].clamp(max=1e140))
    return Points(values[inside], slope[inside])


def _log_ratio(p: Any, q: Any, x: Tensor) -> Tensor:
    return p.log_prob(x) - q.log_prob(x)
