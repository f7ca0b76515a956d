"""Flow posteriors: the change of variables, what depends on x, and that a draw is scored on its way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pairs import binary, real
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, Independent, Normal, SigmoidTransform

import pyro_vae
from pyro_vae import MLP, SGVB_A, VAE, Bernoulli, ConvEncoder, priors
from pyro_vae.posteriors import DiagonalNormal, Flow, FullNormal
from pyro_vae.transforms import NormalizingFlow, Planar, Step

D, H = 3, 4


def base(width: int = 6) -> DiagonalNormal:
    return DiagonalNormal(MLP(width, (2, D), (8,)))


def pyro_compose() -> nn.Module:
    return pyro_transforms.ComposeTransformModule([pyro_transforms.planar(D), pyro_transforms.radial(D)])


FLOWS: dict[str, Callable[[], Flow]] = {
    "shared": lambda: Flow(base(), [Planar(D), Planar(D)]),
    "amortized by x": lambda: Flow(base(), [Planar(D, 6), Planar(D)]),
    "amortized by h": lambda: Flow(base(H), [Planar(D, H), Planar(D, H)], network=MLP(6, H)),
    "Pyro's": lambda: Flow(base(), [pyro_transforms.planar(D), pyro_transforms.affine_autoregressive(D, [8])]),
    "Pyro's composed": lambda: Flow(base(), [pyro_compose()]),
    "Pyro's conditional": lambda: Flow(base(H), [pyro_transforms.conditional_planar(D, H)], network=MLP(6, H)),
    "plain": lambda: Flow(base(), [Planar(D, 6), pyro_transforms.permute(D), ExpTransform()]),
    "plain composed": lambda: Flow(base(), [ComposeTransform([SigmoidTransform(), AffineTransform(-1.0, 2.0)])]),
    "on a full covariance": lambda: Flow(FullNormal(MLP(6, 9, (8,))), [Planar(D, 6)]),
}


def moved(flow: Flow) -> Flow:
    """Steps may start close to the identity: this moves them away from it."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return flow


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("name", FLOWS)
def test_change_of_variables(name: str, leading: tuple[int, ...]) -> None:
    flow = moved(FLOWS[name]())
    x = real(6).expand(*leading, 6)
    q: Any = flow(x)
    assert q.batch_shape == leading
    assert q.event_shape == (D,)
    assert q.has_rsample
    assert isinstance(q, NormalizingFlow)
    torch.manual_seed(0)
    z0 = q.base_dist.rsample()
    torch.manual_seed(0)
    z = q.rsample()

    def carried(z0: Tensor) -> Tensor:
        z = z0
        for transform in flow(x).transforms:
            z = transform(z)
        return z

    # Each datum by itself: summed over the data, the Jacobian is block diagonal.
    jacobian = torch.autograd.functional.jacobian(lambda z0: carried(z0).flatten(0, -2).sum(0), z0)
    blocks = jacobian.movedim(0, -2)
    log_det = torch.linalg.slogdet(blocks)[1]
    assert log_det.abs().max() > 1e-2  # no identity
    torch.testing.assert_close(q.log_prob(z), q.base_dist.log_prob(z0) - log_det, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FLOWS)
def test_particles_are_drawn_apart_and_scored(name: str) -> None:
    q: Any = FLOWS[name]()(real(6)).expand((4, 5))
    z = q.rsample()
    assert z.shape == (4, 5, D)
    assert (z[0] != z[1]).all()
    assert q.log_prob(z).shape == (4, 5)


@pytest.mark.parametrize("name", FLOWS)
def test_nothing_is_left_on_the_modules(name: str) -> None:
    flow = FLOWS[name]()
    before = {id(module): set(vars(module)) for module in flow.modules()}
    q: Any = flow(real(6))
    q.log_prob(q.rsample()).sum().backward()
    for module in flow.modules():
        assert set(vars(module)) == before[id(module)]
        assert vars(module).get("_cached_x_y", (None, None)) == (None, None)
    # The copies share the parameters.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in flow.transforms.parameters() if p.dim() > 1)


class OneWay(Step):
    def call_and_ladj(self, z: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        return z + 1, z.new_zeros(z.shape[:-1])

    def inverse_and_ladj(self, y: Tensor, theta: None) -> tuple[Tensor, Tensor]:
        raise AssertionError("a draw was inverted")


def test_a_draw_is_scored_without_inversion() -> None:
    q: Any = Flow(base(), [OneWay(D), OneWay(D)])(real(6))
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.base_dist.log_prob(z - 2))
    with pytest.raises(AssertionError, match="inverted"):
        q.log_prob(z.clone())


def test_a_value_is_scored_where_steps_can_be_inverted() -> None:
    flow = moved(Flow(base(), [pyro_transforms.affine_autoregressive(D, [8])]))
    q, x = flow(real(6)), real(6)
    z = q.rsample()
    torch.testing.assert_close(flow(x).log_prob(z.detach().clone()), q.log_prob(z), rtol=1e-4, atol=1e-4)


def test_amortized_steps_depend_on_their_datum() -> None:
    x, other = real(6), real(6).roll(1, 0)
    shared, amortized = moved(FLOWS["shared"]()), moved(FLOWS["amortized by x"]())
    z = torch.ones(5, D)
    assert torch.equal(shared(x).transforms[0](z), shared(other).transforms[0](z))
    assert (amortized(x).transforms[0](z) != amortized(other).transforms[0](z)).any()
    torch.testing.assert_close(amortized(x).transforms[0](z)[:4], amortized(other).transforms[0](z)[1:])


def test_images() -> None:
    x = real(1, 5, 7)
    encoder = ConvEncoder((1, 5, 7), (2, D))
    assert Flow(DiagonalNormal(encoder), [Planar(D)])(x).batch_shape == (5,)
    by_h = Flow(base(H), [Planar(D, H)], network=MLP((1, 5, 7), H))
    assert by_h.event_dim == 3
    assert by_h(x).batch_shape == (5,)
    for step in (Planar(D, 6), pyro_transforms.conditional_planar(D, 6)):
        with pytest.raises(ValueError, match=r"one datum has 3 dimensions. Give a network"):
            Flow(DiagonalNormal(encoder), [step])


def test_a_plain_transform_is_the_last_step() -> None:
    vae = VAE(priors.Gamma(D), Flow(base(), [Planar(D, 6), ExpTransform()]), Bernoulli(MLP(D, 6, (8,))))
    x = binary(6, size=8)
    run = pyro_vae.fit(vae, x, epochs=1, batch_size=4, estimator=SGVB_A(), progress=False, compile="traced")
    assert run.mode == "traced"
    q: Any = vae.posterior(x)
    z = q.rsample()
    assert (z > 0).all()
    assert q.support.check(z).all()
    torch.testing.assert_close(q.log_prob(z), vae.posterior(x).log_prob(z.detach().clone()), rtol=1e-4, atol=1e-4)
    copied = copy.deepcopy(vae).double()
    assert copied.posterior(x.double()).rsample().dtype == torch.float64
    assert vae.state_dict().keys() == copied.state_dict().keys()
    assert "ExpTransform()" in repr(vae)


def test_a_wrong_step_is_named() -> None:
    with pytest.raises(TypeError, match=r"a step of a flow is a pyro_vae.*got int"):
        Flow(base(), [3])  # type: ignore[list-item]


def test_pyro_splines_leave_nothing_behind() -> None:
    vae = VAE(
        priors.StandardNormal(4),
        Flow(DiagonalNormal(MLP(6, (2, 4), (8,))), [pyro_transforms.spline_coupling(4)]),
        Bernoulli(MLP(4, 6, (8,))),
    )
    x = binary(6)
    q: Any = vae.posterior(x)
    q.log_prob(q.rsample()).sum().backward()
    torch.manual_seed(0)
    z = copy.deepcopy(vae).posterior(x).rsample()
    torch.manual_seed(0)
    torch.testing.assert_close(vae.posterior(x).rsample(), z)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Flow(base(), [])
    with pytest.raises(ValueError, match=r"built for latent_dim=\[3, 2\]"):
        Flow(base(), [Planar(3), Planar(2)])
    with pytest.raises(ValueError, match=r"latent_dim=2, for which.*out_shape=\(2, 2\); it has one of .*\(2, 3\)"):
        Flow(base(), [Planar(2)])
    with pytest.raises(TypeError, match="MLP"):
        Flow(base(), [MLP(3, 3)])(real(6))
    assert Flow(base(), [Planar(D)]).network_shape((D,)) == (2, D)


def test_bfloat16_networks_give_float32_distributions() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        q = Flow(base(H), [Planar(D, H)], network=MLP(6, H))(real(6))
        z = q.rsample()
        assert z.dtype == q.log_prob(z).dtype == torch.float32


def test_base_is_any_posterior() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Independent(Normal(torch.zeros(len(x), D), 1.0), 1)

    assert Flow(Fixed(), [Planar(D, 6)])(real(6)).batch_shape == (5,)
