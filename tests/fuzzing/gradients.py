"""Exact gradients of bounds of a recipe, for each datum, by sums over all values of its latents."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fuzzing.programs import Grid
from fuzzing.recipes import Recipe, Weights, weights

Bound = Callable[[Tensor], Tensor]
_MOST_STATES = 450  # of which all pairs are summed


def leaves(recipe: Recipe) -> dict[str, Tensor]:
    """The parameters, each datum with its own, ``[N]``."""
    values = recipe.params("model") | recipe.params("guide")
    return {
        name: torch.full((recipe.num,), value, dtype=torch.float64, requires_grad=True)
        for name, value in values.items()
    }


def exact(recipe: Recipe, objective: Callable[[Weights], Tensor | None]) -> dict[str, Tensor] | None:
    """The gradient of an objective ``[N]`` by each parameter, ``[N]``; ``None`` where it is not known."""
    env = leaves(recipe)
    value = objective(weights(recipe, Grid(), dict(env)))
    if value is None or not value.requires_grad:
        return None
    found = torch.autograd.grad(value.sum(), list(env.values()), allow_unused=True, materialize_grads=True)
    if not all(gradient.isfinite().all() for gradient in found):
        return None
    return dict(zip(env, found, strict=True))


def elbo(found: Weights) -> Tensor:
    """As Pyro weighs it in a loss."""
    return found.elbo("weighed")


def marginal_elbo(found: Weights) -> Tensor | None:
    """With the discrete latents of the model alone summed out of p(x, z)."""
    if not found.own:
        return elbo(found)
    return None


@functools.cache
def of_pairs(bound: Bound, fixed: bool = False) -> Callable[[Weights], Tensor | None]:
    """E of a bound of two samples, as often as the handlers around its datum count it.

    With ``fixed`` the draws and the density that they are from are, also where that is the model's prior.
    """

    def objective(found: Weights) -> Tensor | None:
        states = _pairs(found, "tempered") if found.weight is not None else None
        if states is None:
            return None
        log_q, log_w = states
        if fixed:
            log_w, log_q = log_w + log_q - log_q.detach(), log_q.detach()
        probability = (log_q[:, None] + log_q[None]).exp()
        both = torch.stack(torch.broadcast_tensors(log_w[:, None], log_w[None]))
        return found.weight * torch.where(probability > 0, probability * bound(both), 0.0).sum((0, 1))

    return objective


def wake(found: Weights) -> Tensor | None:
    """What reweighted wake-sleep raises awake with two samples, at fixed weights."""
    states = _pairs(found, "seen")
    if states is None:
        return None
    log_q, log_w = states
    probability = (log_q[:, None] + log_q[None]).exp().detach()
    share = torch.stack(torch.broadcast_tensors(log_w[:, None], log_w[None])).softmax(0).detach()
    return (probability * (share[0] * log_q[:, None] + share[1] * log_q[None])).sum((0, 1))


def _pairs(found: Weights, attribute: str) -> tuple[Tensor, Tensor] | None:
    if any(level != "data" for level, _ in found.proposal) or any(level != "data" for _, level, _, _ in found.terms):
        return None
    log_q, log_w = found.states(attribute)
    if len(log_q) > _MOST_STATES:  # the most probable of each datum, if they are all that counts
        kept = log_q.detach().topk(_MOST_STATES, 0).indices
        log_q, log_w = log_q.gather(0, kept), log_w.gather(0, kept)
    return (log_q, log_w) if (log_q.exp().sum(0) > 1 - 1e-6).all() else None


def drawn(recipe: Recipe, estimator: Any, times: int) -> dict[str, Tensor]:
    """``[times, N]`` of draws of an estimator's gradient of its bound, by parameter."""
    rows = times * recipe.num
    pair, batch = recipe.pair(rows), recipe.batch(times)
    loss = estimator.differentiable_loss(pair.model, pair.guide, *batch)
    if loss.requires_grad:
        loss.backward()
    scale = 4 if "size of all data" in recipe.features else 1
    return {
        re.split(r"[./]", name)[-1]: (torch.zeros(rows) if p.grad is None else -p.grad / scale)
        .double()
        .unflatten(0, (times, -1))
        for name, p in pair.named_parameters()
    }
