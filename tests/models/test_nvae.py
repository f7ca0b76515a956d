"""NVAE: its posterior as a residual of its prior, its flow, recomputation, and that it learns."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from laws import assert_means_equal, gradients, seeded
from pairs import binary
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import SGVB_A, SGVB_B, check, fit
from pyro_vae.diagnostics import rate_distortion
from pyro_vae.distributions.wrappers import innermost
from pyro_vae.evidence import ais, importance
from pyro_vae.likelihoods import MixtureOfDiscretizedLogistics
from pyro_vae.models.nvae import NVAE
from pyro_vae.pair import evaluating, programs, run
from pyro_vae.training.step import TrainingStep

SMALL = (1, 8, 8)
SHAPES = {"z1": (2, 8, 8), "z2": (2, 8, 8), "z3": (2, 4, 4)}
small: Any = functools.partial(NVAE, SMALL, channels=4, latent_channels=2, groups=(2, 1), cells=1, expansion=2)
X = binary(*SMALL, size=4)


def moved(pair: Any) -> Any:
    """``pair`` with weights of the heads at which the posterior is far from the prior."""
    torch.manual_seed(3)
    for level in pair.levels:
        for name in ("residual", "conditional"):
            if hasattr(level, name):
                nn.init.normal_(getattr(level, name).layers[-1].weight, 0.0, 0.3)
    return pair


def sites(pair: Any, x: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    with evaluating(pair), torch.no_grad():
        model_trace, guide_trace = run(pair, x)
    return ({name: trace.nodes[name] for name in SHAPES} for trace in (model_trace, guide_trace))  # type: ignore


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [
        ({}, [(2, 8, 8), (2, 8, 8), (2, 4, 4)]),
        ({"groups": (1, 1, 2)}, [(2, 8, 8), (2, 4, 4), (2, 2, 2), (2, 2, 2)]),
        ({"preprocess": 1, "cells": 2}, [(2, 4, 4), (2, 4, 4), (2, 2, 2)]),
        ({"preprocess": 1, "padding": 4, "groups": (1, 1)}, [(2, 8, 8), (2, 4, 4)]),
        ({"num_flows": 2}, [(2, 8, 8), (2, 8, 8), (2, 4, 4)]),
        ({"multiplier": 1, "groups": (1,)}, [(2, 8, 8)]),
    ],
)
def test_shapes(arguments: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    pair = small(**arguments)
    found = {site.name: site for site in check(pair, X).sites}
    assert [found[f"z{level}"].event_shape for level in range(1, len(shapes) + 1)] == shapes
    assert found["x"].event_shape == SMALL
    assert {site.analytic_kl for site in found.values() if not site.observed} == {"num_flows" not in arguments}
    assert pair.levels[-1].start.shape[1:] == shapes[-1][1:]


def test_channels_follow_the_halvings() -> None:
    pair = small(preprocess=1, groups=(1, 1), multiplier=3)
    assert [level.cells.in_shape[0] for level in pair.levels] == [12, 36]
    assert pair.bottom_up.bodies[0][0].out_shape == (12, 4, 4)
    assert pair.likelihood.network.in_shape == (12, 4, 4)
    assert pair.likelihood.network.layers[-1].in_channels == 4


# The posterior


def test_the_posterior_is_a_residual_of_the_prior() -> None:
    level = moved(small()).levels[1]
    h, e = torch.randn(2, 5, 4, 8, 8), torch.randn(5, 4, 8, 8)
    p = level.prior(h)
    q = level.posterior(p, h, e)
    loc, log_scale = level.residual(e + level.met(h)).unbind(2)
    torch.testing.assert_close(q.base_dist.loc, p.base_dist.loc + loc)
    torch.testing.assert_close(q.base_dist.scale.log(), p.base_dist.scale.log() + 5 * (log_scale / 5).tanh())
    ratio = q.base_dist.scale / p.base_dist.scale
    residual = ((loc / p.base_dist.scale) ** 2 + ratio**2 - 2 * ratio.log() - 1) / 2  # equation 3 of the paper
    torch.testing.assert_close(kl_divergence(q, p), residual.sum((-3, -2, -1)), rtol=1e-4, atol=1e-3)


def test_the_rate_of_each_level_is_the_kl_of_two_normals() -> None:
    pair = moved(small()).eval()
    terms = seeded(5, SGVB_B().objective, *programs(pair), X)[2]
    model, guide = seeded(5, sites, pair, X)
    for name, shape in SHAPES.items():
        expected = kl_divergence(guide[name]["fn"].base_dist, model[name]["fn"].base_dist)
        assert expected.shape == (4, *shape)
        torch.testing.assert_close(terms[name]["kl"], expected.sum((1, 2, 3)).mean(), rtol=1e-4, atol=1e-4)
        assert terms[name]["kl"] > 0.1


@pytest.mark.parametrize("index", [0, 1, 2])
def test_no_residual_no_rate(index: int) -> None:
    pair = moved(small())
    for parameter in pair.levels[index].residual.parameters():
        nn.init.zeros_(parameter)
    for name, rate in rate_distortion(pair, [(X,)]).rates.items():
        assert (rate == 0) == (name == f"z{index + 1}")


def test_both_bounds_are_one_in_expectation() -> None:
    pair = moved(small(groups=(1, 1))).eval()
    draws = [estimator.bound(pair, X[:1].expand(1000, *SMALL)) for estimator in (SGVB_A(), SGVB_B())]
    assert_means_equal(draws[0], draws[1])
    assert draws[1].std() < draws[0].std()


def test_extreme_states_stay_finite() -> None:
    level, h = moved(small()).levels[0], 1e4 * torch.randn(3, 4, 8, 8)
    p = level.prior(h)
    q = level.posterior(p, h, -h)
    for fn in (p, q):
        assert fn.base_dist.scale.log().abs().max() <= 10.001
        assert fn.log_prob(fn.sample()).isfinite().all()
    assert kl_divergence(q, p).isfinite().all()


def test_the_way_down_is_taken_once() -> None:
    """Under our estimators, forwards and backwards; by Pyro's own in the model once more."""
    pair, calls = small(), [0, 0, 0]
    for index, level in enumerate(pair.levels):
        level.register_forward_hook(lambda *_, i=index: calls.__setitem__(i, calls[i] + 1))
    SGVB_B().objective(*programs(pair), X).loss.backward()
    assert calls == [1, 1, 1]
    Trace_ELBO().loss(pair.model, pair.guide, X)
    assert calls == [2, 3, 3]


# Recomputation


def saved(pair: Any) -> int:
    """Bytes that a step keeps for its gradients, each storage once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = SGVB_B().objective(*programs(pair), X).loss
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def test_recomputed_cells_give_the_same_and_keep_less() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        pair = small(groups=(1, 1), checkpointing=checkpointing)
        grads = gradients(pair, lambda pair=pair: SGVB_B().objective(*programs(pair), X).loss)
        found.append((pair, grads, dict(pair.named_buffers())))
    (plain, ours, buffers), (pair, theirs, others) = found
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    for name, value in buffers.items():
        assert torch.equal(others[name], value), name
        if name.endswith("num_batches_tracked"):
            assert value == 1, name  # the running statistics moved once
    assert saved(pair) < 0.6 * saved(plain)
    plain.load_state_dict(pair.state_dict())
    assert saved(pair.eval()) == saved(plain.eval())  # evaluation recomputes nothing


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_graph_of_a_step_recomputes_what_is_to_be_recomputed(checkpointing: bool) -> None:
    pair = small(groups=(1,), checkpointing=checkpointing)
    step = TrainingStep(pair, SGVB_B(), compile="traced")
    step([X], {"beta": torch.tensor(0.7)})
    ((graph,),) = step._compiled._graphs.values()
    computed = sum("convolution.default" in str(node.target) for node in graph.run.graph.nodes)  # type: ignore
    convolutions = sum(isinstance(part, nn.Conv2d) for part in pair.modules())
    assert (computed > 1.3 * convolutions) if checkpointing else (computed == convolutions)


# Flows


@pytest.mark.parametrize("reverse", [False, True])
def test_log_determinant_and_inverse_of_the_flow(reverse: bool) -> None:
    flow = small(num_flows=2).double().levels[2].flows[int(reverse)]
    assert flow.reverse == reverse
    nn.init.normal_(flow.last.layers[-1].weight, 0.0, 0.5)
    transform = flow(torch.randn(3, 8, 4, 4, dtype=torch.float64))
    z = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: transform(z).sum(0), z)  # [2, 4, 4, 3, 2, 4, 4]
    jacobian = jacobian.movedim(3, 0).reshape(3, 32, 32)
    y = transform(z)
    log_det = transform.log_abs_det_jacobian(z, y)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1])
    assert log_det.abs().min() > 0.1
    by_pixel = jacobian.reshape(3, 2, 16, 2, 16).movedim(3, 2).abs().amax((0, 1, 2))
    by_pixel = by_pixel.mT if reverse else by_pixel
    assert by_pixel.triu(1).max() == 0
    assert by_pixel.tril(-1).max() > 0
    fresh = flow(torch.zeros(3, 8, 4, 4, dtype=torch.float64))
    value = fresh(z).clone()
    back = flow(torch.zeros(3, 8, 4, 4, dtype=torch.float64)).inv
    torch.testing.assert_close(back(value), z)
    torch.testing.assert_close(back.log_abs_det_jacobian(value, z), -fresh.log_abs_det_jacobian(z, fresh(z)))


def test_a_reversed_flow_is_the_flow_of_the_reversed_image() -> None:
    one, other = small(num_flows=2).levels[2].flows
    other.load_state_dict(one.state_dict())
    features, z = torch.randn(3, 8, 4, 4), torch.randn(3, 2, 4, 4)
    y = one(features)(z)
    assert not torch.allclose(y, z, atol=1e-2)
    torch.testing.assert_close(other(features.flip((-2, -1)))(z.flip((-2, -1))).flip((-2, -1)), y)


def test_a_density_of_the_flow() -> None:
    """log q of a draw is that of its base less the log-determinants, also of a value that comes from elsewhere."""
    level = moved(small(num_flows=2)).levels[2].double()
    q = level.posterior(level.prior(None), None, torch.randn(3, 8, 4, 4, dtype=torch.float64))
    z = q.rsample().detach()
    again = level.posterior(level.prior(None), None, torch.zeros(8, 4, 4, dtype=torch.float64))
    x, log_det = z, torch.zeros(3, dtype=torch.float64)
    for transform in reversed(again.transforms):
        before = transform.inv(x)
        log_det = log_det + transform.log_abs_det_jacobian(before, x)
        x = before
    torch.testing.assert_close(again.log_prob(z.detach()), again.base_dist.log_prob(x) - log_det)
    with pytest.raises(ValueError, match=r"latents of shape \[\*, 2, 4, 4\]; got \[2, 8, 8\]"):
        q.transforms[0](torch.randn(2, 8, 8))
    with pytest.warns(UserWarning, match="no closed-form KL is registered for z3, z2, z1"):
        terms = SGVB_B().objective(*programs(small(num_flows=1)), X)[2]
    assert terms["z1"].keys() == {"log_p", "log_q"}


# As a whole


def test_colors() -> None:
    likelihood = functools.partial(MixtureOfDiscretizedLogistics, num_components=2)
    pair: Any = NVAE((3, 8, 4), 4, 2, (1, 1), 1, likelihood=likelihood)
    x = torch.randint(0, 256, (12, 3, 8, 4), generator=torch.Generator().manual_seed(0)) / 255
    assert [site.event_shape for site in check(pair, x).sites] == [(2, 4, 2), (2, 8, 4), (3, 8, 4)]
    assert pair.likelihood.network.layers[-1].out_channels == 3 * 2 * 3
    history = fit(pair, x, epochs=3, batch_size=6, compile="eager", progress=False).history
    assert history[-1]["train"] > history[0]["train"]


@pytest.mark.slow
def test_it_learns() -> None:
    """Images of stripes, upright or not: 1 bit each."""
    stripes = (torch.arange(8) % 4 < 2).float().expand(8, 8)
    x = torch.stack([stripes, stripes.mT]).unsqueeze(1).repeat(32, 1, 1, 1)
    optimizer = functools.partial(torch.optim.Adamax, lr=1e-2)
    pair = small(groups=(1, 1))
    history = fit(pair, x, epochs=15, batch_size=16, optimizer=optimizer, compile="traced", progress=False).history
    assert history[0]["train"] < -20
    assert history[-1]["train"] > -16
    for name, value in pair.state_dict().items():
        assert value.isfinite().all(), name
        if name.endswith("num_batches_tracked"):
            assert value == 60, name


def test_bfloat16_leaves_the_latents_in_float32() -> None:
    half = small(num_flows=1)
    with torch.autocast("cpu", torch.bfloat16):
        for trace in sites(half, X):
            for site in trace.values():
                base: Any = innermost(site["fn"])
                assert base.loc.dtype == base.scale.dtype == torch.float32
                assert site["fn"].log_prob(site["value"]).dtype == torch.float32
    history = fit(small(), X, epochs=1, batch_size=4, precision="bfloat16", compile="eager", progress=False).history
    assert math.isfinite(history[0]["train"])


@pytest.mark.slow
def test_evidence() -> None:
    """Importance sampling from the guide, and annealing from the prior, which knows no guide."""
    torch.manual_seed(0)
    pair: Any = NVAE((1, 4, 4), 2, 1, (1, 1), 1, expansion=2)
    x = binary(1, 4, 4, size=2)
    nn.init.normal_(pair.levels[0].added.layers[0].weight, 0.0, 2.0)
    by_importance = importance(pair, x, 2000, compile="eager")
    by_annealing = ais(pair, x, 8, 8, num_leapfrog=1, compile="eager")
    error = (by_importance.standard_error**2 + by_annealing.standard_error**2).sqrt()
    assert ((by_importance.log_prob - by_annealing.log_prob).abs() < 5 * error + 0.05).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (64,)}, r"an NVAE is of images, of event_shape \(channels, height, width\); got \(64,\)"),
        ({"event_shape": (1, 8, 0)}, r"event_shape has to hold sizes of at least 1"),
        ({"groups": ()}, r"groups at one scale at least; got groups=\(\)"),
        ({"groups": (2, 0)}, r"groups has to be a whole number from 1 to 10,000; got 0"),
        ({"groups": (1, 1, 1, 1, 1)}, r"halved 4 times.* sides that 16 divides; got 8 x 8.*fewer scales in groups"),
        ({"event_shape": (1, 8, 6), "groups": (1, 1, 1)}, r"sides that 4 divides; got 8 x 6"),
        ({"preprocess": 3}, r"sides that 16 divides"),
        ({"padding": 1, "groups": (1, 1, 1)}, r"sides that 4 divides; got 10 x 10 \(with the padding\)"),
        *(({name: 0}, rf"{name} has to be a whole number of at least 1; got 0")
          for name in ("channels", "latent_channels", "expansion", "multiplier")),
        ({"cells": 0}, r"cells has to be a whole number from 1 to 10,000; got 0"),
        ({"kernel": 4}, r"has a pixel in its middle, so it is odd; got 4"),
        ({"preprocess": -1}, r"preprocess has to be a whole number from 0 to 10,000"),
        ({"padding": -1}, r"padding has to be a whole number of at least 0"),
        ({"num_flows": 1.5}, r"num_flows has to be a whole number from 0 to 10,000; got 1.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NVAE(**{"event_shape": SMALL, "channels": 4, "groups": (1, 1), "cells": 1, **arguments})


def test_images_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"inputs of shape \[\*, 1, 8, 8\]; got \[3, 1, 6, 6\]"):
        check(small(), binary(1, 6, 6, size=3))
