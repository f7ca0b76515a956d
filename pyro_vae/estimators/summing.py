"""A run in which discrete latents have all of their values at once, and what is left when these are summed out."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae._pyro import PARTICLES, enumeration_dim, model_factors
from pyro_vae._torch import has_values
from pyro_vae.estimators.run import Number, Run, Site, SiteTerms, Term

MOST = 4096  # combinations of values that are laid side by side


class Summed(NamedTuple):
    """Tensors ``[*values, K, B]``, a dimension for each discrete latent."""

    q: Tensor  # the probability of the guide's values
    log_p: Tensor  # log p(x, z), summed over the latents of the model alone
    log_q: Tensor
    log_posterior: Tensor  # of the latents that the model alone has
    scale: float  # of what is summed over them; it stands outside of the sum


class Cost(NamedTuple):
    """A summand of the bound in Pyro's scale, by Pyro's contraction."""

    name: str  # of its site
    kind: str
    plates: frozenset[str]  # around it, as symbols
    value: Tensor  # packed: a dimension for each of its symbols


class Contraction(NamedTuple):
    """The bound as a sum over plates, and over values that the guide alone gives a probability."""

    costs: list[Cost]
    summed: list[Cost]  # those of latents of the model alone
    dice: Any  # the guide's probabilities, and scores of what is not reparameterized; None where there are none
    symbols: dict[str, str]  # of plates

    def total(self, costs: Iterable[Cost]) -> Tensor:
        """The expectation of the sum of costs."""
        found: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for cost in costs:
            found.setdefault(cost.plates, []).append(cost.value)
        if self.dice is None:
            return torch.as_tensor(sum(value.sum() for values in found.values() for value in values))
        return torch.as_tensor(self.dice.compute_expectation(found))

    def of(self, costs: Iterable[Cost], names: tuple[str, ...]) -> Tensor:
        """As :meth:`total`, without gradient, for each index of some plates: a dimension for each that is there."""
        costs = [cost._replace(value=_packed(cost.value.detach(), cost.value)) for cost in costs]
        sizes = {s: n for cost in costs for s, n in zip(_dims(cost.value), cost.value.shape, strict=True)}
        kept = "".join(symbol for name in names if (symbol := self.symbols.get(name)) in sizes)
        if self.dice is None:
            return torch.as_tensor(sum(_summed_to(kept, cost.value) for cost in costs))
        with torch.enable_grad():  # it is linear in the costs, so that weights of one tell each share
            weight: Any = torch.ones([sizes[symbol] for symbol in kept]).to(costs[0].value).requires_grad_()
            weight._pyro_dims = kept
            weighed = []
            for cost in costs:
                value, factor = packed.broadcast_all(cost.value, weight)
                weighed.append(cost._replace(value=_packed(value * factor, value)))
            (found,) = torch.autograd.grad(self.total(weighed), [weight])
        return cast(Tensor, found)


@dataclass(frozen=True)
class EnumeratedRun(Run):
    """A run in which discrete latents have all of their values at once, each on a dimension on the left.

    Where each of them stands in no plate but that of the data, a datum is a sum over all of their combinations. Else,
    in plates within a datum, along a ``pyro.markov`` chain, of very many combinations, or of a latent that the data
    share and that the model sums out, it is Pyro's contraction.

    Attributes:
        divided: whether the total is one for a plate of N data, in which what the data share counts 1/N.
    """

    divided: bool = False

    @functools.cached_property
    def is_direct(self) -> bool:
        """Whether a datum is a sum over all combinations of its values."""
        enumerated = [site for site in (*self.guide.values(), *self.model.values()) if is_enumerated(site)]
        own = None if self.frame is None else self.frame.name
        names: dict[Any, str] = {}
        if any(names.setdefault(enumeration_dim(site.infer), site.name) != site.name for site in enumerated):
            return False  # pyro.markov uses a dimension again
        sizes = [site.fn.enumerate_support(expand=False).shape[0] for site in enumerated]
        scored = any(isinstance(site.score, Tensor) and not is_enumerated(site) for site in self.guide.values())
        return (
            own is not None
            and not scored
            and math.prod(sizes) <= MOST
            and all(self.plates(site) == [own] for site in self.alone)
            and all(set(self.plates(site)) <= {own} for site in enumerated)
        )

    @property
    def alone(self) -> list[Site]:
        """The discrete latents of the model alone."""
        return [site for name, site in self.model.items() if is_enumerated(site) and name not in self.guide]

    @property
    def unguided(self) -> dict[str, Site]:
        """Those that are drawn."""
        return {name: site for name, site in super().unguided.items() if not is_enumerated(site)}

    def shared(self) -> Run:
        """What stands outside of the data plate counts 1/N."""
        return self._with(divided=True)

    def _with(self, **changes: Any) -> EnumeratedRun:
        """A copy that keeps what is contracted already."""
        copied = replace(self, **changes)
        vars(copied)["_known"] = self._known
        return copied

    def value(self) -> Tensor:
        """The bound with beta in Pyro's scale, averaged over particles.

        Raises:
            ValueError: if it is for one of several batches, and a latent of the model alone is shared by all of them.
        """
        if self.is_direct:
            run = self if self.divided else replace(self, given_num_data=None)
            return run.each(beta=True).sum() * self.scale
        found = self.contraction(beta=True)
        share = self.plate.full_size / self.num_data if self.divided else 1.0
        if share == 1:
            return found.total(found.costs) / self.num_particles
        for site in self.alone:
            if not site.frames:
                raise ValueError(
                    f"Enumeration sums {site.name!r}, which all data share, over the joint probability of all of them, "
                    f"but a batch has {self.plate.full_size} of {self.num_data:g}. Train with batch_size=N, or draw it "
                    "in the guide, too."
                )
        costs = [
            cost if self._is_inside(cost) else cost._replace(value=_packed(cost.value * share, cost.value))
            for cost in found.costs
        ]
        return found.total(costs) / self.num_particles

    def outside(self) -> float:
        """The sum of the terms outside of the data plate, with their beta, averaged over the particles."""
        if not self.is_direct:
            found = self.contraction(beta=True)
            outer = [cost for cost in found.costs if not self._is_inside(cost)]
            return float(found.total(outer)) / self.num_particles if outer else 0.0
        terms = [term for term in self.terms if not self.inside(term.site)]
        if not terms:
            return 0.0
        summed = self.summed(beta=True)
        values = [term.weight * _expected(summed.q, self._spread(term.value, term.site))[:, 0] for term in terms]
        return float(torch.as_tensor(sum(values)).sum()) / self.num_particles

    def each(self, beta: bool) -> Tensor:
        """``[B]``: the bound of each datum, its parts weighed by beta, or all by 1."""
        if self.is_direct:
            summed = self.summed(beta)
            return _expected(summed.q, summed.log_p - summed.log_q).mean(0)
        found = self.contraction(beta)
        inner = [cost for cost in found.costs if self._is_inside(cost)]
        outer = [cost for cost in found.costs if not self._is_inside(cost)]
        each = found.of(inner, (self.plate.name,)).expand(self.plate.size) * self.share if inner else torch.zeros(())
        if outer:
            each = each + found.total(outer).detach() / self.num_data
        return each / self.num_particles

    def mean(self) -> Tensor:
        """The mean of :meth:`each` at beta = 1, which is there also where there is no number for each datum."""
        if self.is_direct:
            return self.each(beta=False).detach().mean()
        found = self.contraction(beta=False)
        inner = [cost for cost in found.costs if self._is_inside(cost)]
        outer = [cost for cost in found.costs if not self._is_inside(cost)]
        parts = [found.total(inner) / self.plate.full_size] if inner else []
        parts += [found.total(outer) / self.num_data] if outer else []
        return torch.as_tensor(sum(parts)).detach() / self.num_particles

    def by_site(self) -> dict[str, SiteTerms]:
        """Expectations over the discrete latents.

        One that the model alone has takes its exact posterior as q; by Pyro's contraction all that is summed over such
        latents counts at the first site that depends on them.
        """
        return self._direct_by_site() if self.is_direct else self._contracted_by_site()

    # All combinations of the values of a datum

    def _spread(self, value: Tensor, site: Site) -> Tensor:
        """``[*values of discrete latents, K or 1, B or 1]``."""
        value = value.reshape((1,) * (self.nesting - value.dim()) + value.shape)
        inside = self.inside(site)
        kept = ({self.plate.dim} if inside else set()) | ({-self.nesting} if self.num_particles > 1 else set())
        plates = [dim for dim in range(-self.nesting, 0) if dim not in kept]
        value = value.sum(plates) if plates else value
        value = value if inside else value.unsqueeze(-1)
        return value if self.num_particles > 1 else value.unsqueeze(-2)

    def each_datum(self, value: Tensor, site: Site) -> Tensor:
        """``[*values of discrete latents, K or 1, B or 1]``, a share per datum."""
        return self._spread(value, site) * (self.share if self.inside(site) else 1 / self.num_data)

    def summed(self, beta: bool) -> Summed:
        """The terms over all values of the discrete latents, weighed by beta, or all by 1."""
        values = [(self.weighed(term, "value", beta), term) for term in self.terms]
        lead = max(value.dim() for value, _ in values)
        values = [(value.reshape((1,) * (lead - value.dim()) + value.shape), term) for value, term in values]
        log_q = -torch.as_tensor(sum(value for value, term in values if term.kind == "log_q"))
        # A probability knows neither the scale nor the mask of its site.
        of_guide = [term.site for term in self.terms if term.kind == "log_q" and is_enumerated(term.site)]
        logits = [self._spread(site.density, site) for site in of_guide]

        dims = [dim + self.nesting - 2 for site in self.alone if (dim := enumeration_dim(site.infer)) is not None]
        log_p = torch.zeros_like(log_q)
        factors = []  # of the sum over the values that the model alone has
        for value, term in values:
            if term.kind == "log_p" and any(value.shape[dim] > 1 for dim in dims):
                factors.append((value, term))
            elif term.kind == "log_p":
                log_p = log_p + value
        log_posterior, scale = log_p.new_zeros(()), 1.0
        if factors:
            scale = self.share * self._common_scale([term.site for _, term in factors], beta)
            joint = torch.as_tensor(sum(value for value, _ in factors)) / scale
            marginal = joint.logsumexp(dims, keepdim=True)
            log_p, log_posterior = log_p + scale * marginal, joint - marginal
        q = torch.as_tensor(sum(logits)).exp() if logits else log_p.new_ones(())
        # What depends on fewer latents is the same for all values of the others.
        q, log_p, log_q = torch.broadcast_tensors(q, log_p, log_q)
        return Summed(q, log_p, log_q, log_posterior, scale)

    def _common_scale(self, sites: list[Site], beta: bool) -> Any:
        """What scales all factors of a sum, which stands outside of it."""
        scales = {site.name: site.scale * self.tempering(site) if beta else site.scale for site in sites}
        if (
            any(isinstance(scale, Tensor) and scale.dim() for scale in scales.values())
            or len(set(map(float, scales.values()))) > 1
        ):
            raise ValueError(
                f"Enumeration sums {', '.join(scales)} over the values of a latent of the model alone, for which they "
                "need one poutine.scale, a single number, for all of them."
            )
        return next(iter(scales.values()))

    def _direct_by_site(self) -> dict[str, SiteTerms]:
        summed = self.summed(beta=False)
        joint = summed.q * summed.log_posterior.exp()

        def mean(value: Tensor) -> Tensor:
            expected = _expected(joint, value)
            return expected if self.num_particles > 1 else expected.squeeze(0)

        sites: dict[str, dict[str, Any]] = {}
        for term in self.terms:
            value, inside = mean(self.each_datum(term.value, term.site)), self.inside(term.site)
            sites.setdefault(term.site.name, {})[term.kind] = value if inside else value[..., :1]
        if self.alone:  # their joint posterior, counted at the first of them
            sites[self.alone[0].name]["log_q"] = mean(summed.scale * summed.log_posterior)
        shared = {term.site.name: 0 if self.inside(term.site) else self.num_data for term in self.terms}
        return {name: SiteTerms(**kinds, shared=shared[name]) for name, kinds in sites.items()}

    # Pyro's contraction

    @functools.cached_property
    def _known(self) -> dict[bool, Contraction]:
        return {}

    def contraction(self, beta: bool) -> Contraction:
        """All terms, weighed by beta, or all by 1, after the latents of the model alone are summed out."""
        beta = beta and any(not _is_one(number) for term in self.terms for number in (term.beta, term.site.weight))
        if beta not in self._known:
            self._known[beta] = self._contraction(beta)
        return self._known[beta]

    def _contraction(self, beta: bool) -> Contraction:
        guide, model = Trace(), Trace()
        for term in self.terms:
            (guide if term.kind == "log_q" else model).add_node(term.site.name, **self._node(term, beta))
        symbols: dict[str, str] = {}
        guide.pack_tensors(symbols)
        model.pack_tensors(symbols)
        try:
            kept, factors, plates, dims, scale = model_factors(model, guide)
        except ValueError as error:
            if "poutine.scale" not in str(error):
                raise
            raise ValueError(
                f"Enumeration sums {', '.join(model.nodes)} over the values of latents of the model alone, for which "
                "they need one poutine.scale, a single number, for all of them."
            ) from error
        names = {id(site["packed"]["log_prob"]): name for name, site in cast("dict[str, Any]", model.nodes).items()}
        costs = [Cost(names[id(value)], "log_p", at, value) for at, values in kept.items() for value in values]
        for name, site in cast("dict[str, Any]", guide.nodes).items():
            costs.append(Cost(name, "log_q", plates[name], packed.neg(site["packed"]["log_prob"])))
        sites = cast("dict[str, Any]", model.nodes)
        of_sum = [name for name in sites if dims & set(sites[name]["packed"]["log_prob"]._pyro_dims)]
        first = next((name for name in of_sum if sites[name]["is_observed"]), of_sum[0] if of_sum else "")
        summed = [
            Cost(first, "log_p", at, packed.scale_and_mask(value, scale=scale))
            for at, values in (contract_tensor_tree(factors, dims) if factors else {}).items()
            for value in values
        ]
        dice = Dice(guide, plates)
        return Contraction(costs + summed, summed, dice if dice.log_probs or dice.log_denom else None, symbols)

    def _node(self, term: Term, beta: bool) -> dict[str, Any]:
        """A site of a trace, as Pyro's contraction looks at it."""
        site = term.site
        weight: Number = term.beta * self.tempering(site) if beta else 1.0
        density = site.density * term.beta if beta and not _is_one(term.beta) else site.density
        log_prob = self._in_plates(term.value * weight if beta else term.value, site)
        return {
            "name": site.name,
            "type": "sample",
            "fn": site.fn,
            "value": site.value,
            "is_observed": site.observed,
            "cond_indep_stack": site.frames,
            "infer": dict(site.infer),
            "scale": site.scale * site.weight if beta else site.scale,
            "mask": site.mask,
            "log_prob": log_prob,
            "unscaled_log_prob": self._in_plates(density, site),
            "score_parts": ScoreParts(log_prob, cast(Tensor, site.score), log_prob),
        }

    def _in_plates(self, value: Tensor, site: Site) -> Tensor:
        """``value`` for each index of all plates around its site."""
        shape = [1] * max(self.nesting - value.dim(), 0) + list(value.shape)
        for frame in site.frames:
            if frame.vectorized and frame.size > 1:
                shape[frame.dim] = frame.size
        return value.expand(shape)

    def _is_inside(self, cost: Cost) -> bool:
        """Whether it stands in the plate over the data."""
        symbol = self._symbols.get(self.plate.name)
        return symbol in cost.plates

    @property
    def _symbols(self) -> dict[str, str]:
        return next(iter(self._known.values())).symbols

    def shared_sum(self) -> str | None:
        """The name of a latent of the model alone that the data share, so that there is no number for a datum."""
        if self.is_direct or all(map(self._is_inside, self.contraction(beta=False).summed)):
            return None
        return next((site.name for site in self.alone if not self.inside(site)), self.alone[0].name)

    def _contracted_by_site(self) -> dict[str, SiteTerms]:
        found = self.contraction(beta=False)
        sites: dict[str, dict[str, Any]] = {}
        shared: dict[str, float] = {}
        for cost in found.costs:
            inside = self._is_inside(cost)
            names = (*((PARTICLES,) if self.num_particles > 1 else ()), *((self.plate.name,) if inside else ()))
            value = found.of([cost], names)
            value = value if inside and self.plate.size > 1 else value.unsqueeze(-1)
            value = value * (self.share if inside else 1 / self.num_data) * (-1 if cost.kind == "log_q" else 1)
            kinds = sites.setdefault(cost.name, {})
            kinds[cost.kind] = kinds[cost.kind] + value if cost.kind in kinds else value
            shared[cost.name] = 0 if inside else self.num_data
        return {name: SiteTerms(**kinds, shared=shared[name]) for name, kinds in sites.items()}


def _is_one(number: Number) -> bool:
    """Whether it is known to be 1."""
    if isinstance(number, Tensor):
        return not number.dim() and has_values(number) and bool(number == 1)
    return number == 1


def _dims(value: Any) -> str:
    return cast(str, value._pyro_dims)


def _summed_to(kept: str, value: Tensor) -> Tensor:
    """A packed tensor summed over all but some symbols, in their order."""
    dims = _dims(value)
    value = value.sum([at for at, symbol in enumerate(dims) if symbol not in kept]) if set(dims) - set(kept) else value
    left = [symbol for symbol in dims if symbol in kept]
    value = value.permute([left.index(symbol) for symbol in kept if symbol in left])
    return value.reshape([value.shape[sorted(left, key=kept.index).index(s)] if s in left else 1 for s in kept])


def _packed(value: Any, like: Any) -> Tensor:
    value._pyro_dims = like._pyro_dims
    return cast(Tensor, value)


def _expected(probability: Tensor, value: Tensor) -> Tensor:
    """``[*values, K, B]`` -> ``[K, B]``; what has no probability counts nothing, be its value minus infinity."""
    possible = torch.where(probability > 0, value, torch.zeros_like(probability))
    return (probability * possible).reshape(-1, *probability.shape[-2:]).sum(0)


def is_enumerated(site: Site) -> bool:
    """Whether it is a latent that has all of its values at once."""
    return not site.observed and enumeration_dim(site.infer) is not None
