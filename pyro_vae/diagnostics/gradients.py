"""The gradient laboratory: bias, variance and cost of gradient estimators at fixed parameters."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae._checks import callable_, checked, shown, whole
from pyro_vae.batches import num_rows
from pyro_vae.compiled import Compile
from pyro_vae.diagnostics.parameters import Layout, by_site
from pyro_vae.diagnostics.statistics import EstimatorStatistics, GradientStatistics, GroupStatistics
from pyro_vae.estimators import Estimator
from pyro_vae.pair import as_pair, device_of
from pyro_vae.pair.arguments import batch_of
from pyro_vae.pair.turns import fork_rng
from pyro_vae.training.step import TrainingStep

_ROUNDING = 8  # units in the last place, of a gradient of the usual size, below which nothing is told apart


@checked(but=("estimators", "num_draws", "reference", "num_reference_draws", "groups"))
def gradient_statistics(
    pair: Any,
    batch: Any,
    estimators: Mapping[str, Estimator] | Sequence[Estimator],
    num_draws: int = 1000,
    *,
    reference: Estimator | None = None,
    num_reference_draws: int | None = None,
    groups: Callable[[str], str | None] | None = None,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = False,
) -> GradientStatistics:
    r"""Bias, variance, signal-to-noise ratio and cost of gradient estimators, at the parameters that the pair has.

    The gradient is that of the loss per datum, minus the bound averaged over ``batch``, as a training step takes it
    (a mini-batch of M data has a variance of about 1/M of that of one). It is drawn again and again for the same
    batch, in the training mode that the pair is in; the pair, its gradients and the random state stay as they were.
    For each estimator three copies of the parameters are held, in float64.

    Parameters are grouped in three ways, and one may be in several groups: ``p(x)``, ``q(z)``, ..., those on which the
    density of that site depends by itself, at given values of the other sites; ``posterior``, ``decoder``, ..., the
    attribute of the pair in which they are; and ``all``.

    Args:
        pair: the pair.
        batch: the data ``[M, *event]``, or a tuple of the arguments of model and guide.
        estimators: name -> estimator, or a list, which are then named as ``"IWAE(5)"``.
        num_draws: gradients drawn of each estimator, n. All draw from the same seed, so that their noise is alike.
        reference: whose mean the others are compared to, by default the first of ``estimators``. Its draws are other
            ones, also where it is compared to itself. Estimators of different objectives, such as an ELBO and an
            importance-weighted bound, differ by more than bias.
        num_reference_draws: R, by default ``4 * num_draws``.
        groups: a parameter's name -> the name of its group or ``None``, in place of grouping by attribute.
        seed: of all draws.
        compile: see :class:`~pyro_vae.compiled.Compiled`. ``"auto"`` runs the traced graph, or eagerly where there
            is none; ``"inductor"`` takes longer for each estimator than some thousand draws, but times them as ``fit``
            runs them.
        progress: show a progress bar.

    Raises:
        ValueError: if a number of draws is below 4 (half of them find the direction of the bias, the others test it),
            there are no data, no estimators, no parameters, two estimators of one name, a group of ``groups`` has the
            name of another, or a gradient is not finite.
        TypeError: if something else than an estimator is given.

    Source: Rainforth et al. (2018), Tighter variational bounds are not necessarily better; for ``bias_z`` Kim & Ramdas
    (2024), Dimension-agnostic inference using cross U-statistics.

    >>> import torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.rand(3, 4).round()
    >>> found = pv.diagnostics.gradient_statistics(vae, x, [pv.SGVB_A(), pv.SGVB_B()], num_draws=20, compile="eager")
    >>> sorted({(row["estimator"], row["group"]) for row in found.as_rows() if row["group"] == "all"})
    [('SGVB_A(1)', 'all'), ('SGVB_B(1)', 'all')]
    """
    whole(4, num_draws=num_draws)
    if groups is not None:
        callable_(groups=groups)
    num_reference_draws = 4 * num_draws if num_reference_draws is None else num_reference_draws
    whole(4, num_reference_draws=num_reference_draws)
    named = _named(estimators)
    module = as_pair(pair)
    tensors = batch_of(module, batch)
    with fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        sites = by_site(module, tensors)
        layout = Layout(module, sites, groups)
        with _kept(module), tqdm(unit=" gradients", disable=not progress, dynamic_ncols=True) as bar:
            bar.total = num_reference_draws + len(named) * num_draws
            sources = {
                name: _Source(name, module, estimator, tensors, compile, bar) for name, estimator in named.items()
            }
            first = next(iter(named)) if reference is None else _name_of(reference, named)
            origin = sources.get(first) or _Source(first, module, reference, tensors, compile, bar)
            found = _measure(sources, origin, layout, num_draws, num_reference_draws, seed)
    return GradientStatistics(found, layout.groups, first, num_draws, num_reference_draws, num_rows(tensors))


def _named(estimators: Any) -> dict[str, Estimator]:
    if isinstance(estimators, Estimator):
        raise TypeError(f"estimators is one {type(estimators).__name__}; give a list of them, or name -> estimator.")
    if not isinstance(estimators, (Mapping, list, tuple)):
        raise TypeError(f"estimators is {shown(estimators)}; give a list of them, or name -> estimator.")
    pairs = list(estimators.items() if isinstance(estimators, Mapping) else ((None, e) for e in estimators))
    if not pairs:
        raise ValueError("there are no estimators to compare; give a list, such as [SGVB_A(), SGVB_B()].")
    named: dict[str, Estimator] = {}
    for name, estimator in pairs:
        if not isinstance(estimator, Estimator):
            what = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
            raise TypeError(f"estimators holds {what}, which is no estimator of this library; give such as SGVB_A().")
        name = _short(estimator) if name is None else str(name)
        if name in named:
            raise ValueError(f"two estimators are called {name}; give them names: {{'one': ..., 'other': ...}}.")
        named[name] = estimator
    return named


def _name_of(reference: Any, named: Mapping[str, Estimator]) -> str:
    if not isinstance(reference, Estimator):
        raise TypeError(f"reference is a {type(reference).__name__}; expected an estimator, such as SGVB_A().")
    same = (name for name, estimator in named.items() if estimator is reference)
    name = _short(reference)
    return next(same, f"the reference {name}" if name in named else name)


def _short(estimator: Estimator) -> str:
    """``IWAE(num_particles=5, max_plate_nesting=1)`` -> ``IWAE(5)``."""
    return re.sub(r"num_particles=|, max_plate_nesting=\d+", "", repr(estimator))


# Draws


class _Source:
    """Draws of the gradient of one estimator."""

    def __init__(self, name: str, pair: nn.Module, estimator: Any, batch: Sequence[Tensor], compile: Compile, bar: Any):
        self.name, self.estimator, self.bar = name, copy.deepcopy(estimator), bar
        self.pair, self.batch = pair, batch
        self.device = device_of(pair)
        self.seconds, self.count = 0.0, 0
        self.step = self._started(compile)

    def _started(self, compile: Compile) -> TrainingStep:
        """A step that has run once, so that what is timed later is neither traced nor compiled."""
        if compile == "auto":
            try:
                return self._started("traced")
            except ValueError:
                return self._started("eager")  # raises the error, if it is not the tracer's alone
        step = TrainingStep(self.pair, self.estimator, compile=compile)
        step(self.batch, prepared=step.prepare(self.batch))
        return step

    def draws(self, layout: Layout, num_draws: int, seed: int) -> Iterator[Tensor]:
        """``num_draws`` gradients ``[D]``, in float64."""
        torch.manual_seed(seed)
        for _ in range(num_draws):
            start = self._now()
            self.step(self.batch, prepared=self.step.prepare(self.batch))
            self.seconds += self._now() - start
            self.count += 1
            gradient = layout.gradient()
            if not gradient.sum().isfinite():
                raise ValueError(self._broken(layout, gradient))
            self.bar.update()
            yield gradient

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _broken(self, layout: Layout, gradient: Tensor) -> str:
        parts = zip(layout.groups["all"], gradient.split(layout.sizes), strict=True)
        names = [name for name, part in parts if not part.isfinite().all()]
        return (
            f"draw {self.count} of the gradient of {self.name} is not finite, in {', '.join(names[:3])}"
            f"{' and others' if names[3:] else ''}. `check(pair, *batch)` names a site that is broken; a likelihood "
            "with a bounded scale, logits in place of probabilities, or float64 is the usual remedy."
        )


@contextmanager
def _kept(pair: nn.Module) -> Iterator[None]:
    """Puts back the gradients of a pair, and its buffers, which a run in training mode may move."""
    gradients = [(parameter, parameter.grad) for parameter in pair.parameters()]
    buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for name, buffer in pair.named_buffers():
                buffer.copy_(buffers[name])


# Statistics


class _Moments:
    """Mean and variance of vectors that come one after the other (Welford 1962)."""

    def __init__(self, like: Tensor) -> None:
        self.count, self.mean, self._squares = 0, torch.zeros_like(like), torch.zeros_like(like)

    def add(self, value: Tensor) -> Tensor:
        """Takes in a vector; returns its deviation from the mean of those before."""
        self.count += 1
        deviation = value - self.mean
        self.mean.add_(deviation, alpha=1 / self.count)
        self._squares.addcmul_(deviation, deviation, value=1 - 1 / self.count)
        return deviation

    @property
    def variance(self) -> Tensor:
        return self._squares / (self.count - 1)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean."""
        return (self.variance / self.count).sqrt()


class _Record:
    """What is kept of the gradients of one estimator: moments of each parameter ``[D]``, and of each group ``[G]``."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.gradient = _Moments(layout.zeros())
        self.square = _Moments(torch.zeros_like(layout.counts))  # squared deviation of a draw

    def add(self, gradient: Tensor) -> None:
        deviation = self.gradient.add(gradient)
        count = self.gradient.count
        if count > 1:  # what a draw adds to the sum of squares, whose expectation is the variance
            self.square.add(self.layout.dot(deviation, deviation) * (1 - 1 / count))

    def ratio(self, tiny: float) -> tuple[Tensor, Tensor]:
        """``[D]``: mean over deviation, 0 where nothing varies; and 1 over the deviation, 0 there."""
        deviation = self.gradient.variance.sqrt()
        inverse = torch.where(deviation > tiny, 1 / deviation, 0.0)
        return self.gradient.mean * inverse, inverse


def _measure(
    sources: dict[str, _Source], origin: _Source, layout: Layout, num_draws: int, num_reference_draws: int, seed: int
) -> dict[str, EstimatorStatistics]:
    """The first half of all draws gives the directions along which the second half is looked at."""
    streams = [4 * seed + stream for stream in range(4)]  # of the halves of the reference, and of each estimator
    reference, records = _Record(layout), {name: _Record(layout) for name in sources}
    for gradient in origin.draws(layout, num_reference_draws // 2, streams[0]):
        reference.add(gradient)
    for name, source in sources.items():
        for gradient in source.draws(layout, num_draws // 2, streams[1]):
            records[name].add(gradient)

    lines = {name: record.gradient.mean - reference.gradient.mean for name, record in records.items()}
    along = {name: _Moments(torch.zeros_like(layout.counts)) for name in sources}
    for gradient in origin.draws(layout, num_reference_draws - num_reference_draws // 2, streams[2]):
        reference.add(gradient)
        for name, line in lines.items():
            along[name].add(layout.dot(gradient, line))

    found = {}
    for name, source in sources.items():
        draws = source.draws(layout, num_draws - num_draws // 2, streams[3])
        values = _compared(draws, records.pop(name), reference, lines[name], along[name])
        seconds, evaluations = source.seconds / source.count, source.estimator.evaluations
        groups = _by_group(layout, values, seconds, sum(evaluations))
        found[name] = EstimatorStatistics(repr(source.estimator), seconds, evaluations, source.step.mode, groups)
    return found


def _compared(
    draws: Iterator[Tensor], record: _Record, reference: _Record, line: Tensor, along_line: _Moments
) -> dict[str, Tensor]:
    """The second half of the draws of an estimator -> ``[G]`` for each field of :class:`GroupStatistics`."""
    layout, own, target = record.layout, record.gradient, reference.gradient
    tiny = _ROUNDING * layout.eps * (target.mean.square() + target.variance).mean().sqrt().item()
    length = layout.norm(target.mean)
    along, cosine, influence = (_Moments(torch.zeros_like(layout.counts)) for _ in range(3))
    mean = own.mean.clone()
    ratio, inverse = record.ratio(tiny)
    linear, quadratic = ratio.sign() * inverse, ratio.abs() * inverse.square()
    for gradient in draws:
        record.add(gradient)
        along.add(layout.dot(gradient, line))
        cosine.add(_quotient(layout.dot(gradient, target.mean), layout.norm(gradient) * length))
        deviation = gradient - mean  # moves |mean| / deviation, to first order, by
        influence.add(layout.dot(deviation, torch.addcmul(linear, quadratic, deviation, value=-0.5)))

    ratio, inverse = record.ratio(tiny)
    varying, norm = layout.total((inverse > 0).double()), layout.norm(own.mean)
    constant = torch.where(norm > tiny * layout.counts.sqrt(), math.inf, math.nan)
    bias = own.mean - target.mean
    rounding = tiny * layout.counts.sqrt() * layout.norm(line)
    error = (along.error.square() + along_line.error.square() + rounding.square()).sqrt()
    return {
        "norm": norm,
        "reference_norm": length,
        "bias": layout.norm(bias),
        "bias_error": layout.total(own.error.square() + target.error.square()).sqrt(),
        "bias_z": _quotient(along.mean - along_line.mean, error),
        "variance": layout.total(own.variance),
        "variance_error": record.square.error,
        "snr": torch.where(varying > 0, layout.total(ratio.abs()) / varying, constant),
        "snr_error": _quotient(influence.variance.sqrt(), varying * math.sqrt(own.count)),
        "cosine": cosine.mean,
        "cosine_of_mean": _quotient(layout.dot(own.mean, target.mean), norm * length),
    }


def _quotient(one: Tensor, other: Tensor) -> Tensor:
    """``one / other``, 0 where ``other`` is."""
    return torch.where(other == 0, 0.0, one / other)


def _by_group(
    layout: Layout, values: dict[str, Tensor], seconds: float, evaluations: int
) -> dict[str, GroupStatistics]:
    groups = {}
    for index, name in enumerate(layout.groups):
        of = {field: value[index].item() for field, value in values.items()}
        cost = {"variance_seconds": of["variance"] * seconds, "variance_evaluations": of["variance"] * evaluations}
        groups[name] = GroupStatistics(num_parameters=int(layout.counts[index]), **of, **cost)
    return groups
