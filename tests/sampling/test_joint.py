"""log p(x, z) and log q(z | x) as functions of one real vector: against Pyro's densities, and against integrals."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, SAMPLED, gamma_vae, hierarchy, linear_gaussian, made, plain_object
from programs import program, standard
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from pyro_vae import Pair
from pyro_vae.compiled import Compiled
from pyro_vae.pair import run
from pyro_vae.sampling.joint import Ends, Joint, joint_of

FACTORIES = [p for p in (*PAIRS, *SAMPLED) if p.id != "plain_object"]
over_pairs = pytest.mark.parametrize("factory", FACTORIES)


@over_pairs
def test_densities_are_those_of_pyro(factory: Any) -> None:
    """At the guide's draws, site by site. Latents are real, so that u is z, or positive, where u is log z."""
    pair, batch = made(factory)
    joint = joint_of(pair, *batch)
    traces = run(pair, *batch, num_particles=3)
    for trace in traces:
        trace.compute_log_prob()
    p, q = ({name: site["log_prob"] for name, site in trace.nodes.items() if "log_prob" in site} for trace in traces)
    values = {name: traces[1].nodes[name]["value"] for name in joint.shapes}
    u = joint.unconstrained(values, *batch)
    assert u.shape == (3, 5, joint.dim)
    prior, likelihood, log_q = joint.densities(u, *batch, guide=True)
    log_slope = values["z"].log().sum(-1) if factory is gamma_vae else 0.0
    torch.testing.assert_close(prior, sum(p[name] for name in values) + log_slope)
    torch.testing.assert_close(log_q, sum(q[name] for name in values) + log_slope)
    torch.testing.assert_close(likelihood, p["x"])
    for name, value in joint.latents(u, *batch).items():
        torch.testing.assert_close(value, values[name])


@pytest.mark.parametrize(
    ("factory", "start"),
    [*(pytest.param(*p.values, "guide", id=p.id) for p in FACTORIES), (hierarchy, "prior"), (gamma_vae, "prior")],
)
def test_ends_trace_and_have_the_right_gradients(factory: Any, start: Any, request: pytest.FixtureRequest) -> None:
    torch.set_default_dtype(torch.float64)
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    pair, batch = made(factory)
    pair.eval()
    with pyro.validation_enabled(False):
        joint = joint_of(pair, *batch)
        u = joint.draw("prior", 2, *batch).detach()
        ends = Ends(pair, joint, start)
        results, traced = (Compiled(ends, compile=mode)(u, *batch)[0] for mode in ("eager", "traced"))
        step = 1e-5 * torch.randn(u.shape, dtype=u.dtype)
        forward, backward = ends(u + step, *batch), ends(u - step, *batch)
    for eager, graph in zip(results, traced, strict=True):
        torch.testing.assert_close(eager, graph)
        assert not eager.requires_grad
    for value in (0, 1):
        slope = (results[value + 2] * step).sum(-1)
        torch.testing.assert_close((forward[value] - backward[value]) / 2, slope, rtol=1e-4, atol=1e-8)
    value, gradient = joint.value_and_grad(u, *batch)
    torch.testing.assert_close(value, results[0] + results[1])
    torch.testing.assert_close(gradient, results[2] + results[3])


ONE, HALF = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)


def one_site(prior: dist.Distribution) -> Pair:
    """z of any family, x ~ N(0, 1) without regard to z; the guide is of the same family."""
    return Pair(
        program(z=lambda x: prior, x=lambda x, z: dist.Normal(x.new_zeros(()), 1.0)), program(z=lambda x: prior)
    )


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(ONE, HALF),
        dist.Exponential(2 * ONE),
        dist.Gamma(1.5 * ONE, ONE),
        dist.Beta(2 * ONE, 3 * ONE),
        dist.LogNormal(HALF, HALF),
        dist.Uniform(-3 * ONE, 2 * ONE),
        dist.Exponential(2 * ONE.expand(1)).to_event(1),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_densities_of_constrained_latents_are_normalized(prior: Any) -> None:
    """With respect to u: a forgotten Jacobian would not integrate to 1."""
    x = torch.zeros(2, dtype=torch.float64)
    u = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    densities = joint_of(one_site(prior), x).densities(u[:, None, None].expand(-1, 2, 1), x, guide=True)
    for log_density in (densities.prior, densities.guide):
        assert log_density is not None
        total = torch.trapezoid(log_density.exp(), u, dim=0)
        torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)


def test_density_of_a_simplex_is_normalized() -> None:
    x = torch.zeros(1, dtype=torch.float64)
    joint = joint_of(one_site(dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64))), x)
    assert joint.shapes == {"z": torch.Size([2])}
    line = torch.linspace(-15, 15, 301, dtype=torch.float64)
    u = torch.cartesian_prod(line, line)[:, None]
    total = joint.densities(u, x).prior.exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)
    draws = joint.draw("prior", 50, x)
    torch.testing.assert_close(joint.unconstrained(joint.latents(draws, x), x), draws)


def test_support_that_depends_on_another_latent() -> None:
    model = program(
        top=lambda x: dist.Exponential(x.new_ones(())),
        z=lambda x, top: dist.Uniform(torch.zeros_like(top), top),
        x=lambda x, top, z: dist.Normal(z, 1.0),
    )
    x = torch.zeros(3, dtype=torch.float64)
    joint = Joint(model, None, x)
    u = torch.randn(4, 3, 2, dtype=torch.float64)
    latents = joint.latents(u, x)
    assert ((latents["z"] > 0) & (latents["z"] < latents["top"])).all()
    torch.testing.assert_close(joint.unconstrained(latents, x), u)
    expected = (
        -latents["top"]
        + u[..., 0]  # log |d top / du|
        + biject_to(dist.constraints.unit_interval).log_abs_det_jacobian(u[..., 1], latents["z"] / latents["top"])
    )
    torch.testing.assert_close(joint.densities(u, x).prior, expected)


@pytest.mark.parametrize("data_dim", [-1, -2])
def test_plates_inside_the_data_plate(data_dim: int) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[data_dim], dim=data_dim):
            scale = pyro.sample("scale", dist.Exponential(x.new_ones(())))
            with pyro.plate("pixels", 4, dim=-3 - data_dim):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.sum(-1), scale), obs=x)

    x = torch.randn((4, 3) if data_dim == -1 else (3, 4), dtype=torch.float64)
    joint = Joint(model, None, x, max_plate_nesting=2)
    assert joint.dim == 1 + 4 * 2
    u = torch.randn(5, 3, 9, dtype=torch.float64)
    latents = joint.latents(u, x)
    torch.testing.assert_close(joint.unconstrained(latents, x), u)
    first = poutine.trace(poutine.condition(model, {name: value[1] for name, value in latents.items()})).get_trace(x)
    first.compute_log_prob()
    nodes: Any = first.nodes
    rows = 0 if data_dim == -1 else 1
    prior, likelihood, _ = joint.densities(u, x)
    torch.testing.assert_close(likelihood[1], nodes["x"]["log_prob"].sum(rows))
    expected = nodes["z"]["log_prob"].sum(rows) + nodes["scale"]["log_prob"].flatten() + u[1, :, 0]
    torch.testing.assert_close(prior[1], expected)
    trace = poutine.trace(model).get_trace(x)
    torch.testing.assert_close(joint.latents(joint.of(trace), x)["z"][0], trace.nodes["z"]["value"])


def test_a_subsampling_plate_does_not_scale_a_datum() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x, u = torch.randn(3), torch.randn(2, 3, 1)
    prior, likelihood, _ = Joint(model, None, x[:2]).densities(u, x)
    torch.testing.assert_close(prior, dist.Normal(0.0, 1.0).log_prob(u[..., 0]))
    torch.testing.assert_close(likelihood, dist.Normal(u[..., 0], 1.0).log_prob(x))


def test_a_hierarchy_is_laid_out_in_the_models_order() -> None:
    pair, (x,) = made(hierarchy)
    joint = joint_of(pair, x)
    assert joint.shapes == {"z2": torch.Size([2]), "z1": torch.Size([3])}
    u = torch.randn(2, 5, 5)
    latents = joint.latents(u, x)
    torch.testing.assert_close(latents["z2"], u[..., :2])
    torch.testing.assert_close(latents["z1"], u[..., 2:])


def test_weights_at_the_exact_posterior_are_the_evidence() -> None:
    pair, x, exact = linear_gaussian()
    prior, likelihood, log_q = joint_of(pair, x).densities(torch.randn(4, 5, 2, dtype=torch.float64), x, guide=True)
    torch.testing.assert_close(prior + likelihood - log_q, exact.expand(4, 5))


def test_refuses() -> None:
    x = torch.zeros(3)
    model = program(z=standard(), x=lambda x, z: dist.Normal(z, 1.0))
    other = program(y=standard())

    def without_plate(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x)

    bits = program(
        z=lambda x: dist.Bernoulli(0.5 * torch.ones(2)).to_event(1), x=lambda x, z: dist.Normal(z.sum(-1), 1.0)
    )
    for program_, message in (
        (bits, r"'z' is a Bernoulli, which is discrete\. For log p\(x\) use evidence"),
        (without_plate, "no plate over the data"),
        (program(x=lambda x: dist.Normal(0.0, 1.0)), "no latent variable"),
    ):
        with pytest.raises(ValueError, match=message):
            Joint(program_, None, x)
    shared, batch = made(plain_object)
    with pytest.raises(ValueError, match="'bias' stands outside the data plate"):
        joint_of(shared, *batch)
    with pytest.raises(ValueError, match=r"the guide draws y and the model z.*start='prior'"):
        Joint(model, other, x).draw("guide", 2, x)
    with pytest.raises(ValueError, match=r"the guide draws .*y.* and the model z"):
        Joint(model, other, x).densities(torch.zeros(1, 3, 1), x, guide=True)
    outside = Joint(model, lambda x: pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1)), x)
    with pytest.raises(ValueError, match="'z' stands outside the data plate"):
        outside.draw("guide", 2, x)
    with pytest.raises(ValueError, match=r"there is none.*start='prior'"):
        Joint(model, None, x).draw("guide", 2, x)
    assert Joint(Pair(model, other).model, None, x).draw("prior", 2, x).shape == (2, 3, 1)
