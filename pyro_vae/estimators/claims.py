"""What a run has to be for what is made of it: a loss, or a number that is told as a bound."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pyro.infer.util import is_validation_enabled, validation_enabled
from pyro.poutine import Trace

from pyro_vae.batches import num_rows
from pyro_vae.estimators.run import Run
from pyro_vae.pair import as_pair, gate
from pyro_vae.pair.trials import mask_problems, point_problems

#: Which latents must be no points, since the value is told as a bound: none, those of a datum, all.
Claims = Literal["none", "local", "all"]


@contextmanager
def looked_at(claims: Claims) -> Iterator[None]:
    """What is told as a bound is looked at also where Pyro's validation is off, of whose warnings there are none."""
    if claims == "none" or is_validation_enabled():
        yield
        return
    with validation_enabled(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found (auxiliary |non-auxiliary )?vars")
        yield


def check_run(
    who: str, run: Run, model_trace: Trace, guide_trace: Trace, claims: Claims, *, per_datum: bool, supported: bool
) -> None:
    """Refuses a run whose sites cannot be weighed as ``who`` weighs them.

    Args:
        who: the estimator, for the messages.
        run: the run, and the traces it is made of.
        model_trace, guide_trace: those.
        claims: what its value is told as.
        per_datum: whether each datum is weighed by itself.
        supported: whether the densities of draws of other data matter.

    Raises:
        ValueError: which names a site.
    """
    if claims != "none":
        gate.check_data(run.model.values())
    if claims != "none" or run.detached or not run.linear:
        gate.check_points(who, model_trace, guide_trace, run.frame if claims == "local" else None)
    if supported:
        gate.check_support(who, model_trace, guide_trace)
    if not per_datum:
        return
    gate.check_densities(who, model_trace)
    if not run.linear:
        gate.check_subsampled(who, model_trace, guide_trace, size=num_rows(run.call.args))
    for site in (*run.model.values(), *run.guide.values()):
        if not run.inside(site):
            raise ValueError(
                f"{who} weighs each datum by itself, but {site.name!r} stands outside the data "
                "plate and belongs to all of them. Use SGVB_A, SGVB_B or ScoreFunction; or of a FullBayes "
                "pair.posterior_predictive(), whose weights are drawn, not weighed."
            )


def check_bounds(pair: Any, run: Run) -> None:
    """Refuses a run whose value would bound nothing, by masked latents or points; other runs tell whether it would.

    Raises:
        ValueError: which names a site.
    """
    if any(site.mask is not None and not site.observed for site in (*run.model.values(), *run.guide.values())):
        gate.refuse(mask_problems(as_pair(pair), *run.call.args))
    if any(name not in run.model and not site.observed for name, site in run.guide.items()):
        gate.refuse(point_problems(as_pair(pair), *run.call.args))
