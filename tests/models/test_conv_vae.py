"""The convolutional system: which networks its arguments give, and that it trains and evaluates."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import SGVB_B, Gaussian, check, fit
from pyro_vae.models import ConvVAE
from pyro_vae.networks import data_dependent_init
from pyro_vae.pair import evaluating, run

SMALL = (1, 6, 5)
SHAPES = [(1, 28, 28), (3, 64, 64)]
every_normalization = pytest.mark.parametrize("normalization", [None, "batch", "layer", "weight"])

strided = functools.partial(  # blocks of convolution, batch norm and LeakyReLU straight to the latent and back
    ConvVAE,
    latent_dim=8,
    channels=(32, 64, 128, 256),
    hidden=None,
    activation=nn.LeakyReLU,
    normalization="batch",
)


def gray(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def layers_of(network: nn.Module) -> list[Any]:
    return [part for part in network.modules() if not list(part.children())]


def bound_of_each(pair: Any, x: Tensor) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) of each datum, at z = loc(x)."""
    z = pair.posterior(x).mean
    prior, posterior = pair.prior().log_prob(z), pair.posterior(x).log_prob(z)
    return (pair.likelihood(z).log_prob(x) + prior - posterior).detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_straight_to_the_latent_and_back(shape: tuple[int, ...]) -> None:
    pair = strided(shape, likelihood=Gaussian)
    innermost = shape[1] // 16 + (shape[1] % 16 > 0)
    encoder, decoder = layers_of(pair.posterior.network), layers_of(pair.likelihood.network)
    assert [type(layer) for layer in encoder[:-2]] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 4
    assert [layer.out_channels for layer in encoder if isinstance(layer, nn.Conv2d)] == [32, 64, 128, 256]
    assert (encoder[-1].in_features, encoder[-1].out_features) == (256 * innermost**2, 16)
    assert (decoder[0].in_features, decoder[0].out_features) == (8, 256 * innermost**2)
    convolutions = [layer for layer in decoder if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in convolutions] == [128, 64, 32, shape[0]]
    assert [type(layer) for layer in decoder[4:-1]] == [nn.ConvTranspose2d, nn.BatchNorm2d, nn.LeakyReLU] * 3
    assert decoder[-1] is convolutions[-1]


@pytest.mark.parametrize("hidden", [None, 0])
def test_no_hidden_layer(hidden: int | None) -> None:
    dense = [layer for layer in ConvVAE(SMALL, hidden=hidden).modules() if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in dense] == [80, 64 * 2 * 2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", [Gaussian, functools.partial(Gaussian, scale=None)])
def test_check_passes(shape: tuple[int, ...], likelihood: Any) -> None:
    pair, x = strided(shape, likelihood=likelihood), gray(4, *shape)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    report = check(pair, x, estimator=SGVB_B(2))
    assert [site.event_shape for site in report.sites] == [(8,), shape]
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


@pytest.mark.parametrize("shape", SHAPES)
def test_particles_are_one_more_dimension(shape: tuple[int, ...]) -> None:
    pair, x = strided(shape, likelihood=Gaussian), gray(3, *shape)
    model_trace, guide_trace = run(pair, x, num_particles=2)
    assert guide_trace.nodes["z"]["value"].shape == (2, 3, 8)
    assert model_trace.nodes["x"]["fn"].shape() == (2, 3, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_few_steps_and_the_bound_in_evaluation(shape: tuple[int, ...]) -> None:
    x = gray(24, *shape)
    pair = strided(shape, likelihood=Gaussian)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    fit(pair, x, estimator=SGVB_B(), epochs=1, batch_size=8, compile="traced", progress=False)
    for name, value in pair.state_dict().items():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), name  # weights, and the running statistics of batch norm
        if name.endswith("num_batches_tracked"):
            assert value == 3, name
    with evaluating(pair):
        together = bound_of_each(pair, x)
        alone = torch.cat([bound_of_each(pair, datum[None]) for datum in x[:3]])
        pairwise = bound_of_each(pair, x[[2, 0]])
    torch.testing.assert_close(together[:3], alone, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(pairwise, together[[2, 0]], rtol=1e-4, atol=1e-2)
    trained = bound_of_each(pair.train(), x[:3])
    assert not torch.allclose(trained, together[:3], rtol=1e-4, atol=1e-2)  # there it is of the batch


@every_normalization
def test_traced_as_eager(normalization: Any) -> None:
    x, states = gray(12, *SMALL), []
    for mode in ("traced", "eager"):
        torch.manual_seed(0)
        pair = ConvVAE(SMALL, 2, (3, 4), 6, nn.ELU, Gaussian, normalization)
        fit(pair, x, estimator=SGVB_B(), epochs=2, batch_size=5, compile=mode, progress=False)
        states.append(pair.state_dict())
    for (name, traced), eager in zip(states[0].items(), states[1].values(), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@every_normalization
def test_state_goes_round(normalization: Any) -> None:
    pair, other = (ConvVAE(SMALL, 2, (3, 4), 6, nn.ELU, Gaussian, normalization) for _ in range(2))
    x = gray(5, *SMALL)
    bound_of_each(pair, x)  # moves the running statistics
    other.load_state_dict(pair.state_dict())
    assert torch.equal(bound_of_each(pair.eval(), x), bound_of_each(other.eval(), x))


def test_data_dependent_start_of_both_networks() -> None:
    pair, x = ConvVAE(SMALL, 2, (3, 4), 6, nn.ELU, Gaussian, "weight"), gray(50, *SMALL)
    data_dependent_init(pair.posterior, x)
    z = pair.posterior(x).sample()
    data_dependent_init(pair.likelihood, z)
    for network, given in ((pair.posterior.network, x), (pair.likelihood.network, z)):
        first = network.layers[0](given).flatten(2) if given is x else network.layers[0](given).unsqueeze(-1)
        assert first.mean((0, 2)).abs().max() < 1e-4
        torch.testing.assert_close(first.var((0, 2), correction=0), torch.ones(first.shape[1]), rtol=1e-3, atol=1e-3)


def test_normalizations_that_there_are() -> None:
    with pytest.raises(ValueError, match="got 'instance'"):
        ConvVAE(SMALL, normalization="instance")
