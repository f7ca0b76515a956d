"""Latents that are discrete, or cannot be reparameterized for another reason."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from pyro import poutine
from pyro.distributions.score_parts import ScoreParts
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.poutine import Trace
from pyro.poutine.runtime import InferDict
from torch import Tensor

from pyro_vae._checks import whole
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.base import Draws, Facts, SiteTerms, Term, inside
from pyro_vae.estimators.per_datum import Detached, PerDatum, log_mean_exp
from pyro_vae.estimators.sgvb import SGVB
from pyro_vae.pair import latent_sites

Baseline = Literal["auto", "none", "leave_one_out", "batch"]


class ScoreFunction(SGVB):
    r"""The ELBO with the score-function gradient, and a baseline that lowers its variance.

    .. math:: \nabla_\phi \mathcal L = \mathbb E_q\left[(\log w - b) \, \nabla_\phi \log q(z \mid x)\right], \quad
              \log w = \log p(x, z) - \log q(z \mid x)

    A baseline b is free of bias as long as it does not depend on the draw itself:

    - ``"leave_one_out"``: the mean of log w over the other particles of the datum (VarGrad, RLOO);
    - ``"batch"``: the mean of log w over the other data of the batch;
    - ``"auto"``: the first with several particles, else the second; ``"none"``: SGVB_A.

    Latents that can be reparameterized are, unless ``pathwise`` is False.

    Args:
        num_particles: Monte Carlo samples of the latents for each datum.
        baseline: see above.
        pathwise: whether latents that can be reparameterized are differentiated that way.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if the baseline is something else, or leaves out the only particle; without ``pathwise`` also if a
            distribution cannot score a given value, as Pyro's planar flow cannot.

    Source: Paisley, Blei & Jordan (2012); Mnih & Gregor (2014); leave-one-out: Kool et al. (2019), Richter et al.
    (2020).
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO)",
        gradient="the ELBO's",
        sites="any",
        cost="L model, 1 guide",
        source="Paisley et al. 2012; baselines: Mnih & Gregor 2014, Kool et al. 2019",
    )

    def __init__(
        self, num_particles: int = 1, *, baseline: Baseline = "auto", pathwise: bool = True, **options: Any
    ) -> None:
        if baseline not in get_args(Baseline):
            raise ValueError(f"baseline is one of {', '.join(get_args(Baseline))}; got {baseline!r}.")
        if baseline == "leave_one_out" and num_particles == 1:
            raise ValueError(
                "baseline='leave_one_out' needs at least 2 particles; got num_particles=1. Use baseline='batch'."
            )
        super().__init__(num_particles, **options)
        if self.sticking_the_landing:
            raise ValueError("sticking the landing leaves out the score that ScoreFunction is made of; use SGVB_A.")
        self.baseline, self.pathwise = baseline, pathwise

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "baseline": self.baseline, "pathwise": self.pathwise}

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        if self.pathwise:
            return super()._get_trace(model, guide, args, kwargs)
        with Detached(f"{type(self).__name__}(pathwise=False)"):
            model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        for site in latent_sites(guide_trace).values():
            site["score_parts"] = ScoreParts(site["log_prob"], site["unscaled_log_prob"], 0)  # type: ignore[arg-type]
        return model_trace, guide_trace

    def _centered(self, draws: Draws, weight: Tensor, site: Any) -> Tensor:
        baseline = self.baseline
        if baseline == "auto":
            baseline = "leave_one_out" if self.num_particles > 1 else "batch"
        if baseline == "none" or (baseline == "batch" and not inside(site, draws.plate)):
            return weight
        dim = weight.dim() + (draws.plate.dim if baseline == "batch" else -self.max_plate_nesting)
        if dim < 0 or weight.shape[dim] == 1:
            return weight  # one datum alone, or a weight that is the same for all particles
        others = (weight.sum(dim, keepdim=True) - weight) / (weight.shape[dim] - 1)
        return weight - others


class VIMCO(PerDatum):
    r"""The importance-weighted bound for latents that cannot be reparameterized.

    .. math:: \nabla_\phi \mathcal L_K = \sum_k (\mathcal L_K - \mathcal L_{-k}) \nabla_\phi \log q(z_k \mid x)
              + \sum_k \tilde w_k \nabla \log w_k

    where :math:`\mathcal L_{-k}` has the geometric mean of the other weights in place of :math:`w_k`. Latents that can
    be reparameterized take the pathwise gradient.

    Args:
        num_particles: importance samples for each datum, K, at least 2.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if K is below 2, or a random variable stands outside the data plate.

    Source: Mnih & Rezende (2016).
    """

    facts = Facts(
        bounds="log p(x), from below; tighter with K",
        gradient="the IWAE bound's",
        sites="any, in the data plate",
        cost="K model, 1 guide",
        source="Mnih & Rezende 2016",
    )

    def __init__(self, num_particles: int, **options: Any) -> None:
        whole(2, num_particles=num_particles)
        super().__init__(num_particles, **options)

    def _reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    def _surrogate(self, draws: Draws) -> Tensor:
        log_weights = self._log_weights(draws)
        surrogate = self._reduce(log_weights)
        plate = draws.plate
        scores = [
            self._each_datum(site["score_parts"].score_function, site, plate, 1) * (plate.full_size / plate.size)
            for site in latent_sites(draws.guide_trace).values()
            if not site["fn"].has_rsample
        ]
        if not scores:
            return surrogate
        fixed = log_weights.detach()
        others = (fixed.sum(0) - fixed) / (self.num_particles - 1)  # log of the geometric mean of the others
        own = torch.eye(self.num_particles, dtype=torch.bool, device=fixed.device)
        # [K, K, B]: row k has the others' mean in place of its own weight
        replaced = torch.where(own[..., None], others[:, None], fixed[None])
        signal = self._reduce(fixed) - log_mean_exp(replaced, 1)
        return surrogate + (signal * torch.as_tensor(sum(scores))).sum(0)


class Enumeration(PerDatum, TraceEnum_ELBO):
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

    facts = Facts(
        bounds="log p(x), from below (ELBO); exact where all latents are enumerated in the model",
        gradient="the ELBO's; without variance in the discrete latents",
        sites="discrete of finite support, and reparameterized, in the data plate",
        cost="model and guide for all values of the discrete latents, L times",
        source="Bingham et al. 2019 (TraceEnum_ELBO)",
    )

    _get_trace = TraceEnum_ELBO._get_trace

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.strict_enumeration_warning = False  # it advises marks, which are made here

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model, guide = (
            poutine.infer_config(config_enumerate(program, "parallel"), _in_parallel) for program in (model, guide)
        )
        return TraceEnum_ELBO._get_traces(self, model, guide, args, kwargs)

    def _draw(self, model: Any, guide: Any, args: Any, kwargs: Any, prepared: Any = ()) -> Draws:
        try:
            draws = super()._draw(model, guide, args, kwargs)
        except RuntimeError as error:
            raise ValueError(
                "Enumeration gives a discrete latent all of its values at once, on one more dimension on the left, "
                f"[V, 1, *event], with which a program fails ({str(error).strip().splitlines()[0]}). Where it meets "
                "data or another latent, expand both to torch.broadcast_shapes of their dimensions before the event's."
            ) from error
        for trace in (draws.guide_trace, draws.model_trace):
            for name, site in _enumerated(trace).items():
                within = [
                    f.name for f in site["cond_indep_stack"] if f.vectorized and f.name != "num_particles_vectorized"
                ]
                if within != [draws.plate.name]:
                    raise ValueError(
                        f"Enumeration sums a discrete latent of each datum, but {name!r} stands in the plates "
                        f"{', '.join(within)}. Use pyro.infer.TraceEnum_ELBO itself, which contracts over plates."
                    )
        for name, site in latent_sites(draws.guide_trace).items():
            if not _is_enumerated(site) and not site["fn"].has_rsample:
                raise ValueError(
                    f"q({name}) is a {family(site['fn'])}{_event(site)}, which can neither be enumerated nor "
                    "reparameterized. Use ScoreFunction, VIMCO or ReweightedWakeSleep."
                )
        for name, site in latent_sites(draws.model_trace).items():
            if not _is_enumerated(site) and name not in draws.guide_trace.nodes:
                raise ValueError(
                    f"p({name}) is a {family(site['fn'])}{_event(site)}, which cannot be enumerated, and the guide "
                    "does not draw it. Give the guide a site of that name."
                )
        return draws

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        """A latent of the model alone is summed over all of its distribution, which no beta and no mask changes."""
        terms = super()._terms(model_trace, guide_trace)
        for index, term in enumerate(terms):
            if term.kind == "log_p" and _is_enumerated(term.site) and term.name not in guide_trace.nodes:
                value = term.site["unscaled_log_prob"] * term.site["scale"]
                terms[index] = term._replace(beta=1.0, value=value)
        return terms

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """There is no weight for each draw where latents are summed out.

        Raises:
            ValueError: always.
        """
        raise ValueError("Enumeration sums latents out; take importance weights from SGVB_A.")

    def _surrogate(self, draws: Draws) -> Tensor:
        return self._bound(draws)

    def _bound(self, draws: Draws, beta: bool = True) -> Tensor:
        summed = self._summed(draws, beta)
        return _expected(summed.q, summed.log_p - summed.log_q).mean(0)

    def _summed(self, draws: Draws, beta: bool) -> _Summed:
        """The terms over all values of the discrete latents."""
        plate = draws.plate
        share = plate.size / plate.full_size
        terms = [((term.weight if beta else term.sign) * value, term) for term, value in self._per_datum(draws)]
        lead = max(value.dim() for value, _ in terms)
        terms = [(value.reshape((1,) * (lead - value.dim()) + value.shape), term) for value, term in terms]
        log_q = -torch.as_tensor(sum(value for value, term in terms if term.kind == "log_q"))
        # A probability knows neither the scale nor the mask of its site.
        enumerated = _enumerated(draws.guide_trace).values()
        logits = [self._each_datum(site["unscaled_log_prob"], site, plate, 1) / share for site in enumerated]

        alone = [site for name, site in _enumerated(draws.model_trace).items() if name not in draws.guide_trace.nodes]
        dims = [site["infer"]["_enumerate_dim"] + self.max_plate_nesting - 2 for site in alone]
        log_p = torch.zeros_like(log_q)
        factors = []  # of the sum over the values that the model alone has
        for value, term in terms:
            if term.kind == "log_p" and any(value.shape[dim] > 1 for dim in dims):
                factors.append((value, term))
            elif term.kind == "log_p":
                log_p = log_p + value
        log_posterior, scale = log_p.new_zeros(()), 1.0
        if factors:
            scale = share * _common_scale([term for _, term in factors])
            joint = torch.as_tensor(sum(value for value, _ in factors)) / scale
            marginal = joint.logsumexp(dims, keepdim=True)
            log_p, log_posterior = log_p + scale * marginal, joint - marginal
        q = torch.as_tensor(sum(logits)).exp() if logits else log_p.new_ones(())
        # What depends on fewer latents is the same for all values of the others.
        q, log_p, log_q = torch.broadcast_tensors(q, log_p, log_q)
        return _Summed(q, log_p, log_q, log_posterior, scale)

    def _each_datum(self, value: Tensor, site: Any, plate: Any, num_data: float) -> Tensor:
        """``[*values of discrete latents, K or 1, B]``."""
        value = value.reshape((1,) * (self.max_plate_nesting - value.dim()) + value.shape)
        kept = {plate.dim} | ({-self.max_plate_nesting} if self.num_particles > 1 else set())
        plates = [dim for dim in range(-self.max_plate_nesting, 0) if dim not in kept]
        value = value.sum(plates) if plates else value
        value = value if self.num_particles > 1 else value.unsqueeze(-2)
        return value * (plate.size / plate.full_size)

    def _by_site(self, draws: Draws) -> dict[str, SiteTerms]:
        """Expectations over the discrete latents; one that the model alone has takes its exact posterior as q."""
        summed = self._summed(draws, beta=False)
        joint = summed.q * summed.log_posterior.exp()

        def mean(value: Tensor) -> Tensor:
            expected = _expected(joint, value)
            return expected if self.num_particles > 1 else expected.squeeze(0)

        sites: dict[str, dict[str, Tensor]] = {}
        for term, value in self._per_datum(draws):
            sites.setdefault(term.name, {})[term.kind] = mean(value)
        alone = [name for name in _enumerated(draws.model_trace) if name not in draws.guide_trace.nodes]
        if alone:  # their joint posterior, counted at the first of them
            sites[alone[0]]["log_q"] = mean(summed.scale * summed.log_posterior)
        return {name: SiteTerms(**kinds) for name, kinds in sites.items()}


class _Summed(NamedTuple):
    """Tensors ``[*values, K, B]``, a dimension for each discrete latent."""

    q: Tensor  # the probability of the guide's values
    log_p: Tensor  # log p(x, z), summed over the latents of the model alone
    log_q: Tensor
    log_posterior: Tensor  # of the latents that the model alone has
    scale: float  # of what is summed over them; it stands outside of the sum


def _expected(probability: Tensor, value: Tensor) -> Tensor:
    """``[*values, K, B]`` -> ``[K, B]``; what has no probability counts nothing, be its value minus infinity."""
    possible = torch.where(probability > 0, value, torch.zeros_like(probability))
    return (probability * possible).reshape(-1, *probability.shape[-2:]).sum(0)


def _is_enumerated(site: Any) -> bool:
    return site["infer"].get("_enumerate_dim") is not None


def _enumerated(trace: Trace) -> dict[str, Any]:
    return {name: site for name, site in latent_sites(trace).items() if _is_enumerated(site)}


def _in_parallel(site: Any) -> InferDict:
    """Adds nothing to the marks of a site, but refuses one that is not to be enumerated in parallel."""
    way = site["infer"].get("enumerate", "parallel")
    if way != "parallel" and not site["is_observed"]:
        raise ValueError(
            f"{site['name']!r} is marked by infer={{'enumerate': {way!r}}}, but Enumeration sums over all values at "
            "once, in parallel. Leave the mark out, or use ScoreFunction, VIMCO or ReweightedWakeSleep."
        )
    return {}


def _event(site: Any) -> str:
    return " with to_event" if site["fn"].event_shape else ""


def _common_scale(terms: list[Term]) -> Any:
    scales = {term.name: term.site["scale"] for term in terms}
    if (
        any(isinstance(scale, Tensor) and scale.dim() for scale in scales.values())
        or len(set(map(float, scales.values()))) > 1
    ):
        raise ValueError(
            f"Enumeration sums {', '.join(scales)} over the values of a latent of the model alone, for which they need "
            "one poutine.scale, a single number, for all of them."
        )
    return next(iter(scales.values()))
