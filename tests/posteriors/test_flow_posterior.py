"""Flow posteriors: the change of variables, and what depends on x; tests/transforms has the flows themselves."""

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

from pyro_vae import MLP, VAE, Bernoulli, ConvEncoder, priors
from pyro_vae.posteriors import DiagonalNormal, Flow, FullNormal
from pyro_vae.testing import assert_traced_step
from pyro_vae.transforms import NormalizingFlow, Planar

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
    fresh = FLOWS[name]()
    particles = fresh(x).expand((4, *leading))
    z = particles.rsample()
    assert z.shape == (4, *leading, D)
    assert (z[0] != z[1]).all()
    log_prob = particles.log_prob(z)
    assert log_prob.shape == (4, *leading)
    log_prob.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.transforms.parameters() if p.dim() > 1)
    copy.deepcopy(fresh)  # which a graph left on a module would forbid


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
    def make() -> VAE:
        return VAE(priors.Gamma(D), Flow(base(), [Planar(D, 6), ExpTransform()]), Bernoulli(MLP(D, 6, (8,))))

    vae: Any = assert_traced_step(make, binary(6))
    q = vae.posterior(real(6))
    assert q.support.check(q.rsample()).all()
    copied = copy.deepcopy(vae).double()
    assert copied.posterior(real(6).double()).rsample().dtype == torch.float64
    assert vae.state_dict().keys() == copied.state_dict().keys()
    assert "ExpTransform()" in repr(vae)


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


def test_base_is_any_posterior() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Independent(Normal(torch.zeros(len(x), D), 1.0), 1)

    assert Flow(Fixed(), [Planar(D, 6)])(real(6)).batch_shape == (5,)
