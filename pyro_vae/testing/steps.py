"""A training step as one graph beside the step of the programs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from pyro_vae.estimators import SGVB_A
from pyro_vae.testing.comparing import assert_same, seeded
from pyro_vae.training.step import TrainingStep


def assert_traced_step(
    make: Callable[[], nn.Module], *batch: Any, estimator: Any = None, idle: Collection[str] = ()
) -> nn.Module:
    """A step of a pair as one graph gives the loss, gradients and buffers of the programs, and each parameter learns.

    Args:
        make: gives the pair, random by torch's generator.
        batch: arguments of its programs.
        estimator: by default :class:`~pyro_vae.SGVB_A`.
        idle: the names of parameters that have no gradient.

    Returns:
        The pair, with the gradients of a step.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.testing import assert_traced_step
    >>> x = torch.rand(3, 4).round()
    >>> pair = assert_traced_step(lambda: pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,)), x)
    >>> all(parameter.grad is not None for parameter in pair.parameters())
    True
    """
    found, pair = [], nn.Module()
    for mode in ("eager", "traced"):
        pair = seeded(0, make)
        step = TrainingStep(pair, SGVB_A() if estimator is None else estimator, compile=mode)
        torch.manual_seed(1)
        for _ in range(2):  # the second time the graph is there
            objective = step(batch, {"beta": torch.tensor(0.6)})
        assert step.mode == mode
        grads = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
        found.append((objective, grads, dict(pair.named_buffers())))
    (eager, ours, buffers), (traced, theirs, others) = found
    torch.testing.assert_close(traced.loss, eager.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(traced.bound, eager.bound, rtol=1e-4, atol=1e-5)
    assert traced.terms.keys() == eager.terms.keys()
    assert_same(theirs, ours, rtol=1e-4, atol=1e-5 * max(1.0, *(value.abs().max().item() for value in ours.values())))
    for name, value in buffers.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for name, parameter in pair.named_parameters():
        if parameter.requires_grad and name not in idle:
            assert name in theirs, name
            assert theirs[name].isfinite().all(), name
            assert theirs[name].any(), name
    return pair
