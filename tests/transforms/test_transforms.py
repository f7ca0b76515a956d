"""Steps of normalizing flows against their formulae or Pyro's own; the laws of all are in test_transform_laws.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro.distributions import transforms as pyro_transforms
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.distributions.transforms.radial import ConditionedRadial
from pyro.distributions.transforms.spline import _monotonic_rational_spline
from registry import TRANSFORMS
from torch import Tensor, nn

from pyro_vae.networks import normal_init
from pyro_vae.transforms import (
    Householder,
    InverseAutoregressive,
    MaskedAutoregressive,
    Permutation,
    Planar,
    Radial,
    SplineCoupling,
    Step,
    Sylvester,
)
from pyro_vae.transforms.roots import tanh_root
from pyro_vae.transforms.spline import rational_quadratic
from pyro_vae.transforms.steps import Steps
from pyro_vae.transforms.sylvester import orthonormal

LATENT, CONTEXT = 5, 3
LEARNED = {name: make for name, (make, options) in TRANSFORMS.items() if options.get("learned", True)}
each_context = pytest.mark.parametrize("context_dim", [None, CONTEXT])


def shaken(make: Callable[..., Step], context_dim: int | None, latent_dim: int = LATENT, scale: float = 0.3) -> Step:
    """A step away from its start, in float64."""
    step = make(latent_dim, context_dim).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter += scale * torch.randn_like(parameter)
    return step


def context_of(context_dim: int | None, *leading: int) -> Tensor | None:
    return None if context_dim is None else torch.randn(*leading, context_dim, dtype=torch.float64)


@each_context
@pytest.mark.parametrize("name", LEARNED)
def test_starts_near_the_identity(name: str, context_dim: int | None) -> None:
    step, context = shaken(LEARNED[name], context_dim, scale=0.0), context_of(context_dim, 200)
    z = torch.randn(200, LATENT, dtype=torch.float64)
    y, expected = step(context)(z), z
    if isinstance(step, InverseAutoregressive):
        gate = torch.sigmoid(torch.tensor(2.0)) if step.gated else 1.0
        expected = z / gate if isinstance(step, MaskedAutoregressive) else z * gate
        expected = expected.flip(-1) if step.reverse else expected
    elif isinstance(step, SplineCoupling):
        expected = z.roll(-(LATENT // 2), -1)
    elif isinstance(step, Householder) and step.num_reflections == 1:
        y = step(context)(y)
    assert (y - expected).square().mean().sqrt() < 0.2
    assert not torch.equal(y, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Planar(0), "latent_dim has to be a whole number of at least 1; got 0"),
        (lambda: Planar(3, 0), "context_dim has to be a whole number of at least 1; got 0"),
        (lambda: Radial("2"), "latent_dim has to be a whole number of at least 1; got '2'"),
        (lambda: Householder(3, num_reflections=0), "num_reflections has to be"),
        (lambda: Sylvester(4, form="round"), "form is one of 'orthogonal', 'householder', 'triangular'; got 'round'"),
        (lambda: Sylvester(4, form="triangular", num_columns=2), "as many columns.*num_columns=2"),
        (lambda: Sylvester(4, num_columns=5), "at most as many columns.*4; got num_columns=5"),
        (lambda: Sylvester(4, reverse=True), "form='triangular'; got form='orthogonal'"),
        (lambda: InverseAutoregressive(9, hidden=(16, 8)), r"got hidden=\(16, 8\). Give hidden=\(9, ...\)"),
        (lambda: SplineCoupling(1), "at least 2 dimensions.*Planar"),
        (lambda: SplineCoupling(4, num_bins=1), "num_bins has to be a whole number of at least 2"),
        (lambda: SplineCoupling(4, num_bins=1000), "at most 500; got 1000"),
        (lambda: SplineCoupling(4, bound=0.0), "bound.*positive and finite; got 0.0"),
        (lambda: Permutation(4, order="random"), "'reversed' or an integer, the seed; got 'random'"),
    ],
)
def test_options_out_of_range(make: Callable[[], Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_root(dtype: torch.dtype) -> None:
    slope = torch.logspace(-8, 3, 45, dtype=dtype).unsqueeze(-1)
    root = torch.cat((-torch.logspace(-5, 2, 60, dtype=dtype), torch.zeros(1, dtype=dtype), torch.tensor([1e6])))
    value = root + (slope - 1) * root.tanh()
    p = tanh_root(slope, value)
    larger = torch.maximum(p.abs(), root.abs())
    terms = larger + (slope - 1).abs() * larger.tanh() + value.abs()
    residual = (p + (slope - 1) * p.tanh() - value).abs()
    assert (residual <= 8 * torch.finfo(dtype).eps * terms).all()
    steep = slope >= 0.5  # elsewhere a small value says little about its root
    close = (p - root).abs() <= 50 * torch.finfo(dtype).eps * (root.abs() + slope * root.tanh().abs())
    assert (close | ~steep).all()


def test_root_gradient() -> None:
    slope, value = torch.rand(20, dtype=torch.float64) * 3, torch.randn(20, dtype=torch.float64) * 2
    assert torch.autograd.gradcheck(tanh_root, (slope.requires_grad_(), value.requires_grad_()))


@pytest.mark.parametrize("condition", [1.0, 30.0, 3000.0])
def test_orthonormal_is_the_polar_factor(condition: float) -> None:
    u, _, v = torch.linalg.svd(torch.randn(7, 6, 4), full_matrices=False)
    matrix = 5 * u @ torch.diag(torch.logspace(0, -math.log10(condition), 4)) @ v
    q = orthonormal(matrix)
    torch.testing.assert_close(q.mT @ q, torch.eye(4).expand(7, 4, 4), atol=2e-6, rtol=0)
    torch.testing.assert_close(q, u @ v, atol=1e-6 * max(10, condition), rtol=0)


@pytest.mark.parametrize("form", ["orthogonal", "householder", "triangular"])
def test_sylvester_formula(form: Any) -> None:
    step = shaken(lambda *sizes: Sylvester(*sizes, form=form, reverse=form == "triangular"), None)
    transform, z = step(), torch.randn(9, LATENT, dtype=torch.float64)
    columns = step.num_columns
    r, r_tilde, bias, into, out = transform.theta
    q = out(torch.eye(columns, dtype=z.dtype)).T
    torch.testing.assert_close(q.T @ q, torch.eye(columns, dtype=z.dtype))
    torch.testing.assert_close(into(torch.eye(LATENT, dtype=z.dtype)), q)
    for matrix in (r, r_tilde):
        torch.testing.assert_close(matrix, matrix.triu())
        assert (matrix.diagonal().abs() < 1).all()
    assert not torch.allclose(r.triu(1), r_tilde.triu(1))
    expected = z + torch.tanh(z @ q @ r_tilde.T + bias) @ r.T @ q.T
    torch.testing.assert_close(transform(z), expected)


class Given(nn.Module):
    def __init__(self, *numbers: Tensor) -> None:
        super().__init__()
        self.numbers = numbers

    def forward(self, context: Tensor | None) -> tuple[Tensor, ...]:
        return self.numbers


@each_context
def test_sylvester_of_one_column_is_planar(context_dim: int | None) -> None:
    sylvester = shaken(lambda *sizes: Sylvester(*sizes, num_columns=1), context_dim)
    context, z = context_of(context_dim, 8), torch.randn(8, LATENT, dtype=torch.float64)
    transform = sylvester(context)
    y = transform(z)
    r, r_tilde, bias, _, out = transform.theta
    q = out(torch.ones(*bias.shape, dtype=z.dtype))
    r, r_tilde = r[..., 0], r_tilde[..., 0]
    w = r_tilde * q
    # The u whose constrained u_hat is r q: softplus(w.u) - 1 = r r~.
    product = torch.log(torch.expm1(1 + r * r_tilde))
    u = product * w / w.square().sum(-1, keepdim=True)
    planar = Planar(LATENT).double()
    planar.numbers = Given(bias, u, w)  # type: ignore[assignment]
    same = planar()
    torch.testing.assert_close(same(z), y)
    torch.testing.assert_close(
        same.log_abs_det_jacobian(z, same(z)), transform.log_abs_det_jacobian(z, y), atol=1e-12, rtol=1e-12
    )
    torch.testing.assert_close(same.inv(y.clone()), z)


@each_context
@pytest.mark.parametrize(("make", "theirs"), [(Planar, ConditionedPlanar), (Radial, ConditionedRadial)])
def test_equals_pyro(make: Any, theirs: Any, context_dim: int | None) -> None:
    step, context = shaken(make, context_dim), context_of(context_dim, 8)
    z = torch.randn(3, 8, LATENT, dtype=torch.float64)
    ours, reference = step(context), theirs(step.numbers(context))
    torch.testing.assert_close(ours(z), reference(z))
    torch.testing.assert_close(
        ours.log_abs_det_jacobian(z, ours(z)), reference.log_abs_det_jacobian(z, reference(z)).reshape(3, 8)
    )


@each_context
@pytest.mark.parametrize("gated", [True, False])
def test_autoregressive_equals_pyro(gated: bool, context_dim: int | None) -> None:
    step = shaken(lambda *sizes: InverseAutoregressive(*sizes, hidden=(16,), gated=gated), context_dim)
    masked = MaskedAutoregressive(LATENT, context_dim, hidden=(16,), gated=gated).double()
    masked.load_state_dict(step.state_dict())
    context, z = context_of(context_dim, 8), torch.randn(8, LATENT, dtype=torch.float64)
    if context is None:
        theirs = pyro_transforms.AffineAutoregressive(step.network, stable=gated)
    else:
        theirs = pyro_transforms.ConditionalAffineAutoregressive(step.network, stable=gated).condition(context)
    y, log_det = theirs(z), theirs.log_abs_det_jacobian(z, theirs(z))
    ours = step(context)
    torch.testing.assert_close(ours(z), y.flip(-1))
    torch.testing.assert_close(ours.log_abs_det_jacobian(z, ours(z)), log_det)
    maf = masked(context)
    torch.testing.assert_close(maf(y.flip(-1)), z)
    torch.testing.assert_close(maf.log_abs_det_jacobian(y.flip(-1), maf(y.flip(-1))), -log_det)


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("bound", [1.0, 4.0])
def test_spline_equals_pyro(bound: float, inverse: bool) -> None:
    widths, heights = torch.randn(2, 500, 6, dtype=torch.float64).softmax(-1)
    derivatives = torch.rand(500, 5, dtype=torch.float64) + 0.1
    inputs = 2 * torch.randn(500, dtype=torch.float64)
    y, log_derivative = rational_quadratic(inputs, widths, heights, derivatives, bound, inverse)
    expected, log_det = _monotonic_rational_spline(
        inputs, widths, heights, derivatives, None, inverse, bound, 0.0, 0.0, 0.0
    )
    torch.testing.assert_close(y, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_derivative, -log_det if inverse else log_det, atol=1e-6, rtol=1e-6)


def test_spline_at_its_knots_and_far_out() -> None:
    step = shaken(LEARNED["SplineCoupling"], None)
    z = torch.tensor([-1e9, -5.0, 0.0, 5.0, 1e9]).double().unsqueeze(-1).expand(5, LATENT).clone().requires_grad_()
    y = step()(z)
    torch.testing.assert_close(y[[0, 1, 3, 4]].roll(2, -1), z[[0, 1, 3, 4]])
    step().log_abs_det_jacobian(z, y).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_two_splines_bend_every_dimension() -> None:
    first, second = (shaken(LEARNED["SplineCoupling"], None, scale=1.0) for _ in range(2))
    z = torch.randn(50, LATENT, dtype=torch.float64)
    bent = second()(first()(z)).roll(-LATENT // 2 + 1, -1)
    sets = [set(column.tolist()) for column in z.T]
    assert not any(set(column.tolist()) & values for column in bent.T for values in sets)


def test_autoregressive_order_is_reversed_from_step_to_step() -> None:
    first, second = (shaken(LEARNED["InverseAutoregressive"], None) for _ in range(2))
    z = torch.randn(LATENT, dtype=torch.float64)
    one = torch.autograd.functional.jacobian(lambda z: first()(z).flip(-1), z)
    torch.testing.assert_close(one, one.tril())
    assert (one.tril(-1) != 0).any()
    both = torch.autograd.functional.jacobian(lambda z: second()(first()(z)), z)
    assert (both != 0).all()


def test_permutations() -> None:
    z = torch.arange(LATENT)
    assert Permutation(LATENT)()(z).tolist() == [4, 3, 2, 1, 0]
    torch.manual_seed(1)
    seeded = Permutation(LATENT, order=3)
    torch.manual_seed(2)
    assert torch.equal(seeded.permutation, Permutation(LATENT, order=3).permutation)
    assert sorted(seeded()(z).tolist()) == z.tolist()


def test_extreme_parameters_stay_finite() -> None:
    # w.u = -100 is all but singular; so are Sylvester diagonals whose tanh is 1 in float32.
    planar, sylvester = Planar(2), Sylvester(2, form="triangular")
    with torch.no_grad():
        planar.numbers.start.copy_(torch.tensor([0.3, -100.0, 0.0, 1.0, 0.0]))
        sylvester.numbers.start[:6] = torch.tensor([-30.0, 1.0, 1.0, 30.0, 30.0, 30.0])
        sylvester.numbers.start[6:8] = 0.3
    z = torch.randn(100, 2)
    for step in (planar, sylvester):
        transform = step()
        y = transform(z)
        log_det = transform.log_abs_det_jacobian(z, y)
        x = step().inv(y)
        assert log_det.isfinite().all()
        torch.testing.assert_close(step()(x), y, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad(log_det.sum() + x.sum(), list(step.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


@each_context
@pytest.mark.parametrize("make", [Planar, LEARNED["Householder, 4"], LEARNED["Sylvester, householder"]])
def test_zero_vectors_change_nothing(make: Any, context_dim: int | None) -> None:
    step, context = make(LATENT, context_dim).double(), context_of(context_dim, 8)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.zero_()
    z, transform = torch.randn(8, LATENT, dtype=torch.float64).requires_grad_(), step(context)
    y = transform(z)
    log_det = transform.log_abs_det_jacobian(z, y)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det))
    x = step(context).inv(z)
    torch.testing.assert_close(x, z)
    value = y.square().sum() + log_det.sum() + x.square().sum()
    for gradient in torch.autograd.grad(value, [z, *step.parameters()]):
        assert gradient.isfinite().all()


def test_planar_without_a_direction_is_a_translation() -> None:
    step, z = Planar(2).double(), torch.randn(8, 2, dtype=torch.float64)
    with torch.no_grad():
        step.numbers.start.copy_(torch.tensor([0.7, 1.0, -2.0, 0.0, 0.0]))
    transform = step()
    y = transform(z)
    torch.testing.assert_close(y, z + torch.tensor([1.0, -2.0]) * math.tanh(0.7))
    torch.testing.assert_close(transform.log_abs_det_jacobian(z, y), torch.zeros(8, dtype=torch.float64))


@each_context
@pytest.mark.parametrize("name", LEARNED)
def test_normal_init_leaves_the_start(name: str, context_dim: int | None) -> None:
    step, context = shaken(LEARNED[name], context_dim, scale=0.0), context_of(context_dim, 8)
    start = {name: value.clone() for name, value in step.named_parameters() if name.endswith("start")}
    normal_init(step)
    for name, value in step.named_parameters():
        if name in start:
            assert torch.equal(value, start[name])
    assert step(context)(torch.randn(8, LATENT, dtype=torch.float64)).isfinite().all()
    assert bool(start) == (not hasattr(step, "network"))


@pytest.mark.parametrize("output", [-100.0, -1e10, 1e10])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("make", [InverseAutoregressive, MaskedAutoregressive])
def test_autoregressive_scales_are_held(make: Any, gated: bool, output: float) -> None:
    step = make(LATENT, hidden=(8,), gated=gated, reverse=False)
    with torch.no_grad():
        step.network.layers[-1].bias[LATENT:] = output
    z, transform = torch.randn(20, LATENT), step()
    y = transform(z)
    log_scale = (-5.0 if output < 0 else 0.0 if gated else 3.0) * (-1 if make is MaskedAutoregressive else 1)
    log_det = transform.log_abs_det_jacobian(z, y)
    torch.testing.assert_close(log_det, torch.full((20,), LATENT * log_scale))
    torch.testing.assert_close(step().inv(y), z, atol=1e-3, rtol=1e-3)
    log_det.sum().backward()
    gradient = step.network.layers[-1].bias.grad[LATENT:]
    assert gradient.isfinite().all()
    assert (gradient != 0).all() or (gated and output > 0)  # a gate that is 1 is flat by itself


def test_permutation_has_no_use_for_a_context() -> None:
    step, context, z = Permutation(LATENT, CONTEXT), torch.randn(4, CONTEXT), torch.randn(4, LATENT)
    assert step.context_dim is None
    for y in (step(context)(z), step()(z), Steps([step])(context)[0](z)):
        assert torch.equal(y, z.flip(-1))
