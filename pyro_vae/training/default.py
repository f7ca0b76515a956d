"""The estimator of ``fit`` where none is asked for: what the latents of the pair allow."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pyro_vae.check import Report
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators import SGVB_A, SGVB_B, Enumeration, Estimator, ScoreFunction
from pyro_vae.estimators.summing import MOST
from pyro_vae.pair import evaluating, latent_sites, run
from pyro_vae.pair.turns import fork_rng


class Chosen(NamedTuple):
    """An estimator, and why it is not the usual one; empty where it is."""

    estimator: Estimator
    why: str


def chosen(pair: nn.Module, kinds: Sequence[Sequence[Any]], reports: Sequence[Report]) -> Chosen:
    """The ELBO that suits a pair, by a batch of each kind and what :func:`~pyro_vae.check` tells of it.

    ``SGVB_B()``, or ``SGVB_A()`` for a guide that draws the latents in another order than the model; of pairs with
    discrete latents ``Enumeration()``, if it sums all of them out, else ``ScoreFunction()``, or ``SGVB_A()`` where that
    cannot take the pair either.
    """
    usual = SGVB_B() if all(report.in_order for report in reports) else SGVB_A()
    if all(site.reparameterized for report in reports for site in report.sites):
        return Chosen(usual, "")
    drawn: dict[str, Any] = {}
    with evaluating(pair), torch.no_grad(), fork_rng():
        for batch in kinds:
            model, guide = map(latent_sites, run(pair, *batch))
            drawn.update({**model, **guide})  # a latent of both is drawn by the guide
    discrete = {name: site for name, site in drawn.items() if not site["fn"].has_rsample}
    if not discrete:  # by other branches of a program
        return Chosen(usual, "")
    names = ", ".join(map(repr, list(discrete)[:3])) + (f" and {len(discrete) - 3} more" if len(discrete) > 3 else "")
    reason = _not_summed(discrete) or _refusal(Enumeration(), pair, kinds)
    if not reason:
        few = "is discrete with few values, which are" if len(discrete) == 1 else "are discrete with few values, all"
        return Chosen(Enumeration(), f"fit takes Enumeration(): {names} {few} summed over. estimator= takes another.")
    for estimator in (ScoreFunction(), SGVB_A()):
        if not _refusal(estimator, pair, kinds):
            break
    return Chosen(
        estimator,
        f"fit takes {type(estimator).__name__}(), which draws {names}, since Enumeration does not sum over the values: "
        f"{reason} estimator= takes another, such as VIMCO(5), with less variance.",
    )


def _not_summed(discrete: dict[str, Any]) -> str:
    """Why discrete latents are not all summed out; empty where they are."""
    sizes = []
    for name, site in discrete.items():
        mark, fn = site["infer"].get("enumerate", "parallel"), site["fn"]
        if mark != "parallel" or site["infer"].get("num_samples") is not None:
            return f"{name!r} is marked by infer= otherwise."
        if not fn.has_enumerate_support:
            return (
                f"{name!r} is a {family(fn)}{' with to_event' if fn.event_shape else ''}, which cannot be enumerated."
            )
        if "_markov_scope" not in site["infer"]:  # along a chain a few are met at once
            sizes.append(len(fn.enumerate_support(expand=False)))
    if math.prod(sizes) > MOST:
        return f"they have {math.prod(sizes):,} combinations."
    return ""


def _refusal(estimator: Estimator, pair: nn.Module, kinds: Sequence[Sequence[Any]]) -> str:
    """Why an estimator does not take a pair; empty where it does."""
    with evaluating(pair), torch.no_grad(), fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        try:
            for batch in kinds:
                estimator.try_on(pair, *batch)
        except Exception as error:  # also what a program raises of values in more dimensions
            return " ".join(str(error).split())
    return ""
