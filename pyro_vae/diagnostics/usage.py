"""How far latents are used: rate and distortion, active units, and what each of several latents z1, ..., zL holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, OneHotCategorical, constraints
from torch.nn.functional import one_hot

from pyro_vae._checks import checked
from pyro_vae.batches import num_rows
from pyro_vae.diagnostics.codes import encode, reconstruct
from pyro_vae.diagnostics.latents import Batches, named, opened, some
from pyro_vae.diagnostics.table import columns
from pyro_vae.distributions.wrappers import unwrapped
from pyro_vae.estimators import SGVB_A, SGVB_B, Estimator, elbo_of
from pyro_vae.estimators.kl import kl_by_unit, units
from pyro_vae.pair import as_pair, latent_sites, run, support_of
from pyro_vae.pair.arguments import batch_by_batch
from pyro_vae.pair.turns import fork_rng


@checked
def reconstruction_mse(pair: Any, batches: Batches) -> float:
    """Squared error of :func:`~pyro_vae.diagnostics.reconstruct`, summed over the pixels and averaged over the data.

    >>> import torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.rand(6, 4).round()
    >>> error = pv.diagnostics.reconstruction_mse(vae, [(x[:3],), (x[3:],)])
    >>> 0 < error < 4  # of four pixels
    True
    """
    total, count = 0.0, 0
    for batch in batch_by_batch(batches):
        error = (reconstruct(pair, *batch).to(batch[0].device) - batch[0]) ** 2
        total, count = total + error.double().sum().item(), count + num_rows(batch)
    return total / some(count)


@dataclass(frozen=True)
class RateDistortion:
    """The two sides of the bound, in nats per datum: bound = -(rate + distortion).

    Attributes:
        rate: E[KL(q(z | x) || p(z))], what the latent tells of x.
        distortion: -E[log p(x | z)].
        rates: the rate of each latent site.
    """

    rate: float
    distortion: float
    rates: dict[str, float]


@checked
def rate_distortion(pair: Any, batches: Batches, estimator: Estimator | None = None) -> RateDistortion:
    r"""Rate and distortion over data.

    .. math:: \mathrm{rate} = \mathrm E_x \mathrm{KL}(q(z \mid x) \| p(z)), \qquad
        \mathrm{distortion} = -\mathrm E_x \mathrm E_{q(z \mid x)} \log p(x \mid z)

    in nats per datum; their sum is minus the bound.

    Args:
        pair: the pair.
        batches: the arguments of model and guide, batch by batch.
        estimator: tells log p, log q and KL apart by site, by default as in :func:`pyro_vae.fit`, and SGVB_A where a
            latent is drawn that is not reparameterized; its draws use torch's generator.

    Source: Alemi et al. (2018).

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> split = rate_distortion(pair, [(x,)])
    >>> split.rate > 0, split.distortion > 0
    (True, True)
    """
    totals: dict[str, float] = {}  # of a site, over the data; of what all data share, over the batches
    latent: set[str] = set()
    shared: dict[str, float] = {}  # N of what all data share, or 1 where the programs do not tell it
    count, num_batches = 0, 0
    for batch in batch_by_batch(batches):
        with opened(pair, batch) as (module, batch):
            estimator = estimator or _estimator_of(module, *batch)
            sites = estimator.terms(module, batch, num_data=1)
        for name, terms in sites.items():
            size = terms.shared or num_rows(batch)
            value = {kind: term.double().mean().item() * size for kind, term in terms.items()}
            total = value["kl"] if "kl" in value else value.get("log_q", 0.0) - value.get("log_p", 0.0)
            totals[name] = totals.get(name, 0.0) + total
            if "kl" in value or "log_q" in value:
                latent.add(name)
            if terms.shared:
                shared[name] = terms.shared
        count, num_batches = count + num_rows(batch), num_batches + 1
    some(count)
    sizes = {name: num_batches * (count if num_data == 1 else num_data) for name, num_data in shared.items()}
    means = {name: total / sizes.get(name, count) for name, total in totals.items()}
    rates = {name: mean for name, mean in means.items() if name in latent}
    distortion = sum(mean for name, mean in means.items() if name not in latent)
    return RateDistortion(sum(rates.values()), distortion, rates)


@dataclass(frozen=True)
class ActiveUnits:
    """Which units of a latent the pair uses.

    Attributes:
        variances: ``[D]``, Var_x(E[z_d | x]) over the data.
        threshold: above which a unit is active.
        codes: ``[N, D]``, E[z | x].
    """

    variances: Tensor
    threshold: float
    codes: Tensor

    @property
    def count(self) -> int:
        """How many units are active."""
        return int((self.variances > self.threshold).sum())


@checked
def active_units(pair: Any, batches: Batches, *, site: str = "z", threshold: float = 0.01) -> ActiveUnits:
    """Units of ``site`` whose mean moves with the data: Var_x(E[z_d | x]) > threshold.

    Raises:
        ValueError: if the guide has no such latent.

    Source: Burda et al. (2015), section 5.2.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> active_units(pair, [(x,)]).count  # of equal data
    0
    """
    parts = []
    for batch in batch_by_batch(batches):
        code = named(encode(pair, *batch), site)
        count = num_rows(batch)
        if code.shape[:1] != (count,):
            raise ValueError(
                f"the guide gives values {list(code.shape)} of {site!r} for {count} data. Size its data plate "
                "by the batch, without subsample_size, and look at a latent of each datum."
            )
        parts.append(code.reshape(len(code), -1).cpu())
    some(len(parts))
    held = torch.cat(parts)
    return ActiveUnits(held.double().var(0, correction=0), threshold, held)


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
        table: dict[str, Sequence[Any]] = {
            "latent": [level.site for level in self],
            "KL (nats)": [f"{level.rate:.2f}" for level in self],
            "units": [f"{level.num_units:,}" for level in self],
            f"active (variance > {above})": [level.num_active for level in self],
            f"informative (KL > {above} nats)": [level.num_informative for level in self],
            "perplexity": [None if level.perplexity is None else f"{level.perplexity:.1f}" for level in self],
            "codes": [level.num_codes for level in self],
        }
        shown = [(head, *cells) for head, cells in table.items() if any(cell is not None for cell in cells)]
        return columns([["-" if cell is None else str(cell) for cell in row] for row in zip(*shown, strict=True)])


@checked
def levels(pair: Any, batches: Batches, *, threshold: float = 0.01, estimator: Estimator | None = None) -> Levels:
    r"""The rate of each latent, and which of its units are used; of a discrete one the perplexity of its codes.

    .. math:: \exp \Big( -\sum_k \bar p_k \log \bar p_k \Big), \quad \bar p = \mathrm{E}_{x, i} [q(z_i \mid x)]

    with the mean over data and positions i. Any pair has levels: one latent is one of them.

    Args:
        pair: the pair.
        batches: the arguments of model and guide, batch by batch.
        threshold: of the variance, in squared latent units, and of the KL of a unit, in nats.
        estimator: of the rates, see :func:`rate_distortion`.

    Raises:
        ValueError: if there are no data.

    Source: active units: Burda et al. (2015), section 5.2; perplexity: van den Oord et al. (2017), appendix A.

    >>> import torch, pyro_vae as pv
    >>> pair, x = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), torch.ones(3, 4)
    >>> [level.site for level in levels(pair, [(x,)])]
    ['z']
    """
    module = as_pair(pair)
    totals: dict[str, _Totals] = {}
    count = 0
    for batch in batch_by_batch(batches):
        with opened(module, batch) as (_, batch):
            estimator = estimator or _estimator_of(module, *batch)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*no closed-form KL is registered")  # a table needs none
                rates = rate_distortion(module, [batch], estimator).rates
            codes = encode(module, batch)
            model, guide = map(latent_sites, run(module, *batch))
        ordered = [name for name in model if name in guide] == [name for name in guide if name in model]
        for name in reversed(model):
            if name in codes and name in rates:
                totals.setdefault(name, _Totals()).add(rates[name], codes[name], guide[name], model[name], ordered)
        count += num_rows(batch)
    some(count)
    return Levels({name: total.usage(name, threshold) for name, total in totals.items()}, threshold, count)


def _estimator_of(pair: nn.Module, *batch: Any) -> Estimator:
    """The ELBO of :func:`pyro_vae.fit`, or the sampled one where a latent that is drawn is not reparameterized."""
    estimator = elbo_of(pair, *batch)
    if not isinstance(estimator, SGVB_B):
        return estimator
    with fork_rng():
        model, guide = map(latent_sites, run(pair, *batch))
    drawn = {**model, **guide}.values()  # of a latent of both the guide's
    return estimator if all(site["fn"].has_rsample for site in drawn) else SGVB_A()


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
        return kl_by_unit(q, p, guide_site["value"], mask=guide_site["mask"])
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
