"""The ELBO with discrete latents summed out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import InferDict
from pyro.util import check_traceenum_requirements
from torch import Tensor

from pyro_vae._pyro import enumeration_dim, mismatch, unpacked, without_shapes
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import Mean
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.run import Call, Run, Site, SiteTerms, Term, traced
from pyro_vae.pair import latent_sites
from pyro_vae.pair.particles import Around


class Summed(NamedTuple):
    """Tensors ``[*values, K, B]``, a dimension for each discrete latent."""

    q: Tensor  # the probability of the guide's values
    log_p: Tensor  # log p(x, z), summed over the latents of the model alone
    log_q: Tensor
    log_posterior: Tensor  # of the latents that the model alone has
    scale: float  # of what is summed over them; it stands outside of the sum


class EnumeratedRun(Run):
    """A run in which discrete latents have all of their values at once, each on a dimension on the left."""

    def each_datum(self, value: Tensor, site: Site) -> Tensor:
        """``[*values of discrete latents, K or 1, B]``."""
        value = value.reshape((1,) * (self.nesting - value.dim()) + value.shape)
        kept = {self.plate.dim} | ({-self.nesting} if self.num_particles > 1 else set())
        plates = [dim for dim in range(-self.nesting, 0) if dim not in kept]
        value = value.sum(plates) if plates else value
        value = value if self.num_particles > 1 else value.unsqueeze(-2)
        return value * self.share

    @property
    def alone(self) -> list[Site]:
        """The discrete latents of the model alone."""
        return [site for name, site in self.model.items() if _is_enumerated(site) and name not in self.guide]

    @property
    def unguided(self) -> dict[str, Site]:
        """Those that are drawn."""
        return {name: site for name, site in super().unguided.items() if not _is_enumerated(site)}

    def summed(self, beta: bool) -> Summed:
        """The terms over all values of the discrete latents, weighed by beta, or all by 1."""
        share = self.share
        values = [(self.weighed(term, "value", beta), term) for term in self.terms]
        lead = max(value.dim() for value, _ in values)
        values = [(value.reshape((1,) * (lead - value.dim()) + value.shape), term) for value, term in values]
        log_q = -torch.as_tensor(sum(value for value, term in values if term.kind == "log_q"))
        # A probability knows neither the scale nor the mask of its site.
        logits = [self.each_datum(site.density, site) / share for site in self.guide.values() if _is_enumerated(site)]

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
            scale = share * self._common_scale([term.site for _, term in factors], beta)
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

    def by_site(self) -> dict[str, SiteTerms]:
        """Expectations over the discrete latents; one that the model alone has takes its exact posterior as q."""
        summed = self.summed(beta=False)
        joint = summed.q * summed.log_posterior.exp()

        def mean(value: Tensor) -> Tensor:
            expected = _expected(joint, value)
            return expected if self.num_particles > 1 else expected.squeeze(0)

        sites: dict[str, dict[str, Any]] = {}
        for term in self.terms:
            sites.setdefault(term.site.name, {})[term.kind] = mean(self.each_datum(term.value, term.site))
        if self.alone:  # their joint posterior, counted at the first of them
            sites[self.alone[0].name]["log_q"] = mean(summed.scale * summed.log_posterior)
        return {name: SiteTerms(**kinds) for name, kinds in sites.items()}


class Enumeration(Estimator, TraceEnum_ELBO):
    r"""The ELBO with every discrete latent of finite support summed out, by Pyro's enumeration.

    .. math:: \mathcal L = \sum_y q(y \mid x) \, [\log p(x, y) - \log q(y \mid x)]

    A discrete latent that only the model has is summed out of p(x, z) exactly; it belongs to the likelihood, which
    beta does not weigh. Value and gradient are those of ``TraceEnum_ELBO`` with ``config_enumerate`` on both programs.
    Continuous latents are sampled and have to be reparameterized. With several discrete latents the cost is that of
    all their combinations.

    Args:
        num_particles: samples of the continuous latents for each datum, vectorized.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a latent can neither be enumerated nor reparameterized, a discrete one stands in a plate within
            the data plate or is marked not to be enumerated in parallel, a program does not take the shape of all
            values at once, or sites summed over a latent of the model alone differ in their ``poutine.scale``.

    Source: Bingham et al. (2019), Pyro's ``TraceEnum_ELBO``; Kingma et al. (2014), eq. 7, for the use of it.
    """

    known = Facts(
        bounds="log p(x), from below (ELBO); exact where all latents are enumerated in the model",
        gradient="the ELBO's; without variance in the discrete latents",
        sites="discrete of finite support, and reparameterized, in the data plate",
        cost="model and guide for all values of the discrete latents, L times",
    )

    _get_trace = TraceEnum_ELBO._get_trace
    _runs = EnumeratedRun

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(Mean(), None, num_particles, **options)
        self.strict_enumeration_warning = False  # it advises marks, which are made here

    @property
    def per_datum(self) -> bool:
        return True

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """For Pyro's marginals and posterior draws."""
        return TraceEnum_ELBO._get_traces(self, _marked(model), _marked(guide), args, kwargs)

    def _traces(self, call: Call) -> Any:
        plan = call.plan or self._plan(call)
        rightmost = -plan.nesting - (self.num_particles > 1)

        def around(drawn: Trace | None) -> Around:
            """The dimensions of the model's own values lie on the left of the guide's."""
            dims = [] if drawn is None else [enumeration_dim(site["infer"]) for site in latent_sites(drawn).values()]
            return EnumMessenger(min([rightmost, *(dim for dim in dims if dim is not None)]) - 1)

        call = call._replace(model=_marked(call.model), guide=_marked(call.guide))
        found = traced(type(self).__name__, call, plan, self._count, around=around)
        if is_validation_enabled():
            check_traceenum_requirements(*found[:2])
        return found

    def _run(self, call: Call, *options: Any, **named: Any) -> Run:
        try:
            return super()._run(call, *options, **named)
        except (RuntimeError, IndexError, ValueError) as error:
            if (name := unpacked(str(error))) is not None:
                raise ValueError(
                    f"Enumeration gives a discrete latent all of its values on its own dimension, but {name!r} has "
                    "one that no latent has there. A latent of a pyro.markov loop has its dimension within the loop "
                    "alone: use it there, or loop over a plain range, or use VIMCO or ReweightedWakeSleep."
                ) from error
            if isinstance(error, ValueError) and "dim conflict" not in str(error) and mismatch(str(error)) is None:
                raise ValueError(without_shapes(str(error))) from error
            if "dim conflict" in str(error):
                raise ValueError(
                    "Enumeration gives each discrete latent a dimension in the order in which the guide draws them, "
                    f"and the model draws them in another one ({str(error).strip().splitlines()[0]}). Draw them in "
                    "one order in both programs."
                ) from error
            raise ValueError(
                "Enumeration gives a discrete latent all of its values at once, on one more dimension on the left, "
                f"[V, 1, *event], with which a program fails ({str(error).strip().splitlines()[0]}). Where it meets "
                "data or another latent, expand both to torch.broadcast_shapes of their dimensions before the event's."
            ) from error

    def _check(self, run: Run) -> None:
        dims: dict[int, str] = {}
        for site in (*run.guide.values(), *run.model.values()):
            dim = enumeration_dim(site.infer)
            if dim is not None and dims.setdefault(dim, site.name) != site.name:
                raise ValueError(
                    f"{dims[dim]!r} and {site.name!r} are enumerated on one dimension, since pyro.markov uses it again "
                    "along a chain, over which Enumeration does not contract. Use pyro.infer.TraceEnum_ELBO itself, "
                    "or write the chain as one latent, such as pyro.distributions.DiscreteHMM."
                )
        for site in (*run.guide.values(), *run.model.values()):
            within = run.plates(site)
            if _is_enumerated(site) and within != [run.plate.name]:
                raise ValueError(
                    f"Enumeration sums a discrete latent of each datum, but {site.name!r} stands in the plates "
                    f"{', '.join(within)}. Use pyro.infer.TraceEnum_ELBO itself, which contracts over plates."
                )
        for name, site in run.latents.items():
            if not _is_enumerated(site) and not site.fn.has_rsample:
                raise ValueError(
                    f"q({name}) is a {family(site.fn)}{_event(site)}, which can neither be enumerated nor "
                    "reparameterized. Use ScoreFunction, VIMCO or ReweightedWakeSleep."
                )
        for name, site in run.unguided.items():
            if not site.fn.has_rsample:
                raise ValueError(
                    f"p({name}) is a {family(site.fn)}{_event(site)}, which can neither be enumerated nor "
                    "reparameterized. Give the guide a site of that name, and use ScoreFunction or VIMCO."
                )

    def _log_p(self, run: Run, site: Site) -> Term:
        """A latent of the model alone is summed over all of its distribution, which no beta and no mask changes."""
        term = super()._log_p(run, site)
        if not _is_enumerated(site) or site.name in run.guide:
            return term
        return term._replace(beta=1.0, value=site.density * site.scale)

    def _each(self, run: Run, beta: bool = True) -> Tensor:
        assert isinstance(run, EnumeratedRun)
        summed = run.summed(beta)
        return _expected(summed.q, summed.log_p - summed.log_q).mean(0)

    def _surrogate(self, run: Run) -> Tensor:
        return self._value(run)

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """There is no weight for each draw where latents are summed out.

        Raises:
            ValueError: always.
        """
        raise ValueError("Enumeration sums latents out; take importance weights from SGVB_A.")


def _expected(probability: Tensor, value: Tensor) -> Tensor:
    """``[*values, K, B]`` -> ``[K, B]``; what has no probability counts nothing, be its value minus infinity."""
    possible = torch.where(probability > 0, value, torch.zeros_like(probability))
    return (probability * possible).reshape(-1, *probability.shape[-2:]).sum(0)


def _is_enumerated(site: Site) -> bool:
    return not site.observed and enumeration_dim(site.infer) is not None


def _marked(program: Any) -> Any:
    """A program whose discrete latents have all of their values at once."""
    return poutine.infer_config(config_enumerate(program, "parallel"), _in_parallel)


def _in_parallel(site: Any) -> InferDict:
    """Adds nothing to the marks of a site, but refuses one that is not to be enumerated in parallel, or not whole."""
    if site["infer"].get("num_samples") is not None and not site["is_observed"]:
        raise ValueError(
            f"{site['name']!r} is marked by num_samples={site['infer']['num_samples']}: Enumeration sums over all "
            "values, of which these are draws. Leave the mark out, or use ScoreFunction or VIMCO."
        )
    way = site["infer"].get("enumerate", "parallel")
    if way != "parallel" and not site["is_observed"]:
        raise ValueError(
            f"{site['name']!r} is marked by infer={{'enumerate': {way!r}}}, but Enumeration sums over all values at "
            "once, in parallel. Leave the mark out, or use ScoreFunction, VIMCO or ReweightedWakeSleep."
        )
    return {}


def _event(site: Site) -> str:
    return " with to_event" if site.fn.event_shape else ""
