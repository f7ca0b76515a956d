"""The ELBO with discrete latents summed out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import InferDict
from pyro.util import check_traceenum_requirements
from torch import Tensor

from pyro_vae._pyro import EnumeratedAfter, mismatch, unpacked, without_shapes
from pyro_vae._torch import has_values
from pyro_vae.batches import leaves
from pyro_vae.distributions.wrappers import family, unmasked
from pyro_vae.estimators.base import Estimator, call_of
from pyro_vae.estimators.bounds import Mean
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.run import Call, Run, Site, Term, traced
from pyro_vae.estimators.summing import EnumeratedRun, is_enumerated
from pyro_vae.pair.particles import Around


class Enumeration(Estimator, TraceEnum_ELBO):
    r"""The ELBO with every discrete latent of finite support summed out, by Pyro's enumeration.

    .. math:: \mathcal L = \sum_y q(y \mid x) \, [\log p(x, y) - \log q(y \mid x)]

    A discrete latent that only the model has is summed out of p(x, z) exactly; it belongs to the likelihood, which
    beta does not weigh. Value and gradient are those of ``TraceEnum_ELBO`` with ``config_enumerate`` on both programs,
    also in plates within a datum and along ``pyro.markov`` chains, over which it contracts. Continuous latents are
    sampled and have to be reparameterized. Where the discrete latents of a datum stand in no further plate and no
    chain, and have at most 4096 combinations, the cost is that of all of them.

    What stands outside of the data plate counts 1/N for each datum. There is no :meth:`bound` of a datum where the
    model alone has a discrete latent outside of it, over which all data are summed together; :meth:`objective` and
    ``fit`` then tell the total per datum. In the terms by site what the contraction sums over counts at one site.

    Args:
        num_particles: samples of the continuous latents for each datum.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a latent can neither be enumerated nor reparameterized, is marked not to be enumerated in
            parallel or by draws (``num_samples``), a program does not take the shape of all values at once, or sites
            summed over a latent of the model alone differ in their ``poutine.scale``; from :meth:`bound`, as above.

    Source: Bingham et al. (2019), Pyro's ``TraceEnum_ELBO``; Obermeyer et al. (2019), the contraction over plates;
    Kingma et al. (2014), eq. 7, for the use of it.
    """

    known = Facts(
        bounds="log p(x), from below (ELBO); exact where all latents are enumerated in the model",
        gradient="the ELBO's; without variance in the discrete latents",
        sites="discrete of finite support, and reparameterized",
        cost="model and guide for all values of the discrete latents, L times",
    )

    _get_trace = TraceEnum_ELBO._get_trace
    _runs = EnumeratedRun

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(Mean(), None, num_particles, **options)
        self.strict_enumeration_warning = False  # it advises marks, which are made here

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """For Pyro's marginals and posterior draws."""
        return TraceEnum_ELBO._get_traces(self, _marked(model), _marked(guide), args, kwargs)

    def _traces(self, call: Call) -> Any:
        plan = call.plan or self._plan(call)
        rightmost = -plan.nesting - (self.num_particles > 1)

        def around(drawn: Trace | None) -> Around:
            """The dimensions of the model's own values lie on the left of the guide's."""
            return EnumMessenger(rightmost - 1) if drawn is None else EnumeratedAfter(drawn.nodes)

        call = call._replace(model=_marked(call.model), guide=_marked(call.guide))
        found = traced(type(self).__name__, call, plan, self._count, around=around)
        if is_validation_enabled():
            check_traceenum_requirements(*found[:2])
        return found

    def _run(self, call: Call, *options: Any, **named: Any) -> Run:
        with _said(call):
            return super()._run(call, *options, **named)

    def _check(self, run: Run) -> None:
        for name, site in run.latents.items():
            if not is_enumerated(site) and not site.fn.has_rsample:
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
        if not is_enumerated(site) or site.name in run.guide:
            return term
        site = _without_mask(site)
        return term._replace(beta=1.0, value=site.density * site.scale, site=site)

    def _log_q(self, run: Run, site: Site) -> Term:
        term = super()._log_q(run, site)
        return term._replace(site=_without_mask(site)) if is_enumerated(site) else term

    def _each(self, run: Run, beta: bool = True) -> Tensor:
        return cast(EnumeratedRun, run).each(beta)

    def _mean(self, run: Run) -> Tensor:
        return cast(EnumeratedRun, run).mean()

    def _value(self, run: Run) -> Tensor:
        with _said(run.call):
            return cast(EnumeratedRun, run).value()

    def _surrogate(self, run: Run) -> Tensor:
        return self._value(run)

    def try_on(self, pair: Any, *batch: Any) -> None:
        """As of all estimators, also where there is no number for each datum."""
        with torch.no_grad():
            self._value(self._run(call_of(pair, batch)))

    def _claimed(self, pair: Any, batch: Sequence[Any], *options: Any, **named: Any) -> Run:
        run = cast(EnumeratedRun, super()._claimed(pair, batch, *options, **named))
        with _said(run.call):
            name = run.shared_sum()
        if name is not None:
            raise ValueError(
                f"Enumeration sums {name!r} over the joint probability of all data, so that there is no bound for each "
                "datum: it stands outside of the data plate, in the model alone. Train such a pair as it is; for a "
                "number take -Enumeration().loss(model, guide, x), the bound of all data."
            )
        return run

    def log_weights(self, pair: Any, *batch: Any) -> Tensor:
        """There is no weight for each draw where latents are summed out.

        Raises:
            ValueError: always.
        """
        raise ValueError("Enumeration sums latents out; take importance weights from SGVB_A.")


@contextmanager
def _said(call: Call) -> Iterator[None]:
    """Errors of programs that do not take all values at once, in sentences; those of a graph's trace as they are."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError) as error:
        if not all(has_values(leaf) for leaf in leaves((*call.args, call.kwargs)) if isinstance(leaf, Tensor)):
            raise
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


def _without_mask(site: Site) -> Site:
    """With the probabilities of its values, which a mask of its distribution would make one each."""
    fn = unmasked(site.fn)
    return site if fn is site.fn else site._replace(density=fn.log_prob(site.value))


def _event(site: Site) -> str:
    return " with to_event" if site.fn.event_shape else ""
