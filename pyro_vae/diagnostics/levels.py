"""What each of several latents z1, ..., zL holds, and how far it is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, OneHotCategorical, constraints
from torch.nn.functional import one_hot

from pyro_vae.diagnostics.latents import (
    Batches,
    _InPlaceOfAPrior,
    _local_latents,
    _observed_mean,
    _on_device,
    _reading,
    _run_model,
    _some,
    encode,
    rate_distortion,
)
from pyro_vae.distributions.wrappers import unwrapped
from pyro_vae.estimators import SGVB_A, Estimator, elbo_of
from pyro_vae.estimators.kl import kl_by_unit, units
from pyro_vae.pair import as_pair, latent_sites, run, support_of


def latent_names(pair: Any, *batch: Tensor) -> tuple[str, ...]:
    """The latents of a datum in the order in which the model draws them: of a hierarchy ``("zL", ..., "z1")``.

    The caller's random state is left as it was.

    Args:
        pair: the pair.
        batch: arguments of the model; one datum is enough.
    """
    one = tuple(tensor[:1] for tensor in batch)
    with torch.random.fork_rng():
        with _InPlaceOfAPrior(pair):
            sites = latent_sites(_run_model(pair, one, {}))
        local = _local_latents(pair, *one)
    return tuple(name for name in sites if name in local)


def resample(
    pair: Any,
    *batch: Tensor,
    fixed: Sequence[str] | Mapping[str, Tensor] = (),
    sampled: Sequence[str] | None = None,
    num_samples: int = 8,
) -> Tensor:
    r"""Means E[x | z] where some latents stay those of a datum and others are drawn from the model given them.

    With the levels above l fixed, :math:`z_l, \dots, z_1 \sim p(z_l, \dots, z_1 \mid z_L, \dots, z_{l+1})`: what the
    fixed levels leave open. With z_l alone sampled, and those below at their mean given it: what level l holds.

    Args:
        pair: the pair.
        batch: arguments of model and guide, P data.
        fixed: the latents that stay: names, for E[z | x] of :func:`encode`, or values ``[P, *event]`` by name.
        sampled: those that are drawn given what the model draws before them, by default all that are not fixed. What
            is neither fixed nor sampled is at its mean given what the model draws before it; one that is discrete or
            has no mean is drawn as well.
        num_samples: draws for each datum, S.

    Returns:
        ``[P, S, *event]``.

    Raises:
        ValueError: if a latent is not one of the model's, both fixed and sampled, or has another number of values than
            there are data, and as :func:`decode`.
    """
    names = latent_names(pair, *batch)
    asked = (*fixed, *(sampled or ()))
    for name in asked:
        if name not in names:
            raise ValueError(f"the model has no latent {name!r}; it has {', '.join(names) or 'none'}.")
        if asked.count(name) > 1:
            raise ValueError(f"the latent {name!r} is named more than once: put it in fixed or in sampled.")
    if isinstance(fixed, Mapping):
        values = dict(fixed)
    else:
        codes = encode(pair, *batch) if fixed else {}
        missing = [name for name in fixed if name not in codes]
        if missing:
            raise ValueError(f"the guide has no latent {missing[0]!r} to be fixed; it has {', '.join(codes)}.")
        values = {name: codes[name] for name in fixed}
    size = len(batch[0])
    for name, value in values.items():
        if len(value) != size:
            raise ValueError(f"{size} data need as many values of {name!r}, [{size}, *event]; got {list(value.shape)}.")
    rows = [tensor.repeat_interleave(num_samples, 0) for tensor in batch]
    repeated = {name: value.repeat_interleave(num_samples, 0) for name, value in values.items()}
    centered = () if sampled is None else set(names) - set(asked)
    return _observed_mean(_run_model(pair, rows, repeated, centered=centered)).unflatten(0, (size, num_samples))


@dataclass(frozen=True)
class LevelUsage:
    """How far one latent is used.

    Attributes:
        site: its name.
        rate: mean of KL(q || p) given the latents drawn before it, in nats per datum.
        num_units: its numbers for one datum; of a one-hot site, the codes.
        num_active: units whose mean moves with the data, Var_x(E[z_d | x]) > threshold; ``None`` for codes. Where the
            prior p(z_l | z_{l+1}) is learned, the mean of a unit that copies it moves too.
        num_informative: units whose own mean KL is above the threshold in nats, so that they tell of x what the latents
            drawn before do not; ``None`` for codes, and where the units are not independent.
        num_codes: size of the code book, K, of a site that is one-hot or a whole number; ``None`` for others.
        perplexity: exp of the entropy of the codes' usage over data and positions, between 1 and K.
    """

    site: str
    rate: float
    num_units: int
    num_active: int | None = None
    num_informative: int | None = None
    num_codes: int | None = None
    perplexity: float | None = None

    @property
    def rate_per_unit(self) -> float:
        """Nats per unit, or per code; a code tells log K at most where p is uniform."""
        return self.rate / self.num_units


@dataclass(frozen=True)
class Levels:
    """The usage of each latent, from the data upwards (z1, ..., zL); it prints as a table.

    Attributes:
        usage: by site.
        threshold: above which a unit is active or informative.
        num_data: over which the means are.
    """

    usage: dict[str, LevelUsage]
    threshold: float
    num_data: int

    def __iter__(self) -> Iterator[LevelUsage]:
        return iter(self.usage.values())

    def __len__(self) -> int:
        return len(self.usage)

    def __getitem__(self, site: str) -> LevelUsage:
        return self.usage[site]

    @property
    def rate(self) -> float:
        """The sum over the latents, in nats per datum."""
        return sum(level.rate for level in self)

    def as_rows(self) -> list[dict[str, Any]]:
        """A dictionary for each latent, as ``plotting.levels`` takes them."""
        return [{**asdict(level), "threshold": self.threshold} for level in self]

    def __str__(self) -> str:
        above = f"{self.threshold:g}"
        header = ["latent", "KL (nats)", "units", f"active (variance > {above})", f"informative (KL > {above} nats)"]
        rows = [
            [level.site, f"{level.rate:.2f}", f"{level.num_units:,}", level.num_active, level.num_informative]
            for level in self
        ]
        if any(level.perplexity is not None for level in self):
            header += ["perplexity", "codes"]
            for row, level in zip(rows, self, strict=True):
                row += [None if level.perplexity is None else f"{level.perplexity:.1f}", level.num_codes]
        if all(level.perplexity is not None for level in self):
            header, rows = [*header[:3], *header[5:]], [[*row[:3], *row[5:]] for row in rows]
        cells = [header, *([("-" if cell is None else str(cell)) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells
        )


def levels(pair: Any, batches: Batches, *, threshold: float = 0.01, estimator: Estimator | None = None) -> Levels:
    r"""The rate of each latent, and which of its units are used; of a discrete one the perplexity of its codes.

    .. math:: \exp \Big( -\sum_k \bar p_k \log \bar p_k \Big), \quad \bar p = \mathrm{E}_{x, i} [q(z_i \mid x)]

    with the mean over data and positions i. Any pair has levels: one latent is one of them.

    Args:
        pair: the pair.
        batches: the arguments of model and guide, batch by batch.
        threshold: of the variance, in squared latent units, and of the KL of a unit, in nats.
        estimator: of the rates, see :func:`rate_distortion`; by default SGVB_A where a latent is discrete in the
            guide. Draws use torch's generator.

    Raises:
        ValueError: if there are no data.

    Source: active units: Burda et al. (2015), section 5.2; perplexity: van den Oord et al. (2017), appendix A.
    """
    module = as_pair(pair)
    totals: dict[str, _Totals] = {}
    count = 0
    for batch in batches:
        estimator = _estimator_of(module, *_on_device(module, batch)) if estimator is None else estimator
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*no closed-form KL is registered")  # a table needs none
            rates = rate_distortion(module, [batch], estimator).rates
        codes = encode(module, *batch)
        with _reading(module):
            model_trace, guide_trace = run(module, *_on_device(module, batch))
        model, guide = latent_sites(model_trace), latent_sites(guide_trace)
        ordered = [name for name in model if name in guide] == [name for name in guide if name in model]
        for name in reversed(model):
            if name in codes and name in rates:
                totals.setdefault(name, _Totals()).add(rates[name], codes[name], guide[name], model[name], ordered)
        count += len(batch[0])
    _some(count)
    return Levels({name: total.usage(name, threshold) for name, total in totals.items()}, threshold, count)


def _estimator_of(pair: nn.Module, *batch: Tensor) -> Estimator:
    """The ELBO of :func:`pyro_vae.fit`, or the sampled one where a latent of the guide is not reparameterized."""
    with _reading(pair), torch.random.fork_rng():
        sites = latent_sites(run(pair, *batch)[1]).values()
    return elbo_of(pair, *batch) if all(site["fn"].has_rsample for site in sites) else SGVB_A()


class _Totals:
    """Sums over data of what :class:`LevelUsage` has of one latent."""

    def __init__(self) -> None:
        self.count, self.rate = 0, 0.0
        self.num_codes: int | None = None
        self.shape: tuple[int, ...] = ()
        self.sums: list[Tensor] = []

    def add(self, rate: float, code: Tensor, guide_site: Any, model_site: Any, ordered: bool) -> None:
        size = len(code)
        self.rate += rate * size
        probabilities = _code_probabilities(guide_site, model_site)
        if probabilities is not None:
            sums = [probabilities.double().sum(0)]
            self.num_codes = probabilities.shape[-1]
            self.shape = (len(probabilities) // size,)
        else:
            flat = code.reshape(size, -1).double()
            if not self.count:
                self.first = flat.mean(0)  # near the mean, so that the squares do not cancel
            sums = [(flat - self.first).sum(0), (flat - self.first).square().sum(0)]
            kl = _kl_by_unit(guide_site, model_site, ordered)
            sums += [] if kl is None else [kl.reshape(size, -1).double().sum(0)]
            self.shape = flat.shape[1:]
        self.sums = [total + new for total, new in zip(self.sums, sums, strict=True)] if self.count else sums
        self.count += size

    def usage(self, site: str, threshold: float) -> LevelUsage:
        rate, num_units = self.rate / self.count, self.shape[0]
        means = [total / self.count for total in self.sums]
        if self.num_codes is not None:
            p = means[0] / means[0].sum()
            perplexity = torch.special.entr(p).sum().exp().item()
            return LevelUsage(site, rate, num_units, num_codes=self.num_codes, perplexity=perplexity)
        num_active = int((means[1] - means[0].square() > threshold).sum())
        num_informative = int((means[2] > threshold).sum()) if len(means) > 2 else None
        return LevelUsage(site, rate, num_units, num_active, num_informative)


def _kl_by_unit(guide_site: Any, model_site: Any, ordered: bool) -> Tensor | None:
    """``[B, U]``; at the draw where guide and model draw in different orders, and a closed form would be biased."""
    if ordered:
        q, p = guide_site["fn"], model_site["fn"]
        return kl_by_unit(q, p, guide_site["value"], guide_site["scale"], guide_site["mask"])
    q, p = units(guide_site["fn"]), units(model_site["fn"])
    value = guide_site["value"]
    return None if q is None or p is None else q.log_prob(value) - p.log_prob(value)


def _code_probabilities(guide_site: Any, model_site: Any) -> Tensor | None:
    """``[N, K]``: q of each code at N data and positions, or the code itself; ``None`` for what is no code."""
    support, fn, value = support_of(model_site["fn"]), unwrapped(guide_site["fn"]), guide_site["value"]
    if isinstance(support, type(constraints.one_hot)):
        found = fn.probs.expand_as(value) if isinstance(fn, OneHotCategorical) else value
    elif isinstance(support, constraints.integer_interval) and not torch.is_tensor(support.upper_bound):
        lowest, size = int(support.lower_bound), int(support.upper_bound - support.lower_bound) + 1
        found = one_hot(value.long() - lowest, size)
        if isinstance(fn, Categorical):
            found = fn.probs.expand_as(found)
    else:
        return None
    return found.reshape(-1, found.shape[-1])
