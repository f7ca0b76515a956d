"""MLPVAE, ConvVAE and VampVAE: what their arguments do. The laws of pairs hold for all systems (tests/testing)."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import IWAE, MLP, SGVB_A, Bernoulli, Gaussian, check, evidence, posteriors, priors, transforms
from pyro_vae.diagnostics import decode
from pyro_vae.models import GRUVAE, MLPVAE, NVAE, ConvVAE, VampVAE
from pyro_vae.networks import GatedMLP, ResidualMLP, data_dependent_init

SHAPE = (1, 6, 5)
both = pytest.mark.parametrize("model", [MLPVAE, ConvVAE])


def gray(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


X = gray(4, *SHAPE).round()


def kinds(pair: Any, x: Tensor = X) -> list[tuple[str, str | None]]:
    return [(site.model, site.guide) for site in check(pair, x).sites]


def layers_of(module: nn.Module, *kind: type[nn.Module]) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, kind or nn.Module) and not list(part.children())]


def widths(pair: nn.Module) -> list[int]:
    return [layer.out_features for layer in layers_of(pair, nn.Linear)]


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Own(nn.Module):
    """A likelihood without a word on the shape of its network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Any:
        return dist.Laplace(self.network(z), 1.0).to_event(3)


@both
def test_any_part(model: Any) -> None:
    """A likelihood of two parameters, of a function and of the user's own; any prior and posterior."""
    prior = functools.partial(priors.MixtureOfNormals, num_components=4)
    low_rank = functools.partial(posteriors.LowRankNormal, rank=2)
    for options, expected in (
        ({"likelihood": functools.partial(Gaussian, scale=None)}, [("Normal", "Normal"), ("Normal", None)]),
        ({"likelihood": lambda network: Bernoulli(network)}, [("Normal", "Normal"), ("Bernoulli", None)]),
        ({"likelihood": Own}, [("Normal", "Normal"), ("Laplace", None)]),
        ({"prior": prior, "posterior": low_rank}, [("Mixture", "LowRankNormal"), ("Bernoulli", None)]),
        (
            {"prior": priors.SphereUniform, "posterior": posteriors.PowerSpherical},
            [("SphereUniform", "PowerSpherical"), ("Bernoulli", None)],
        ),
    ):
        pair = model(SHAPE, latent_dim=3, **options)
        assert kinds(pair) == expected
    assert check(pair, X).sites[0].analytic_kl


@pytest.mark.parametrize("network", [GatedMLP, ResidualMLP, functools.partial(MLP, normalization="batch")])
def test_any_network(network: Any) -> None:
    pair = MLPVAE(SHAPE, latent_dim=2, hidden=(8, 8), network=network, mean=gray(*SHAPE))
    assert check(pair, X).num_parameters > 0


def test_hidden_layers_and_activation() -> None:
    pair = MLPVAE(SHAPE, latent_dim=2, hidden=(7, 5), activation=nn.Tanh)
    assert widths(pair) == [7, 5, 4, 5, 7, 30]
    assert len(layers_of(pair, nn.Tanh)) == 4
    assert widths(MLPVAE(SHAPE, latent_dim=2, hidden=(7,), decoder_hidden=(9, 8))) == [7, 4, 9, 8, 30]


def test_the_mean_of_the_data_is_where_encoder_and_decoder_start() -> None:
    mean = torch.rand(SHAPE)
    torch.manual_seed(0)
    plain = MLPVAE(SHAPE, latent_dim=2)
    torch.manual_seed(0)
    pair = MLPVAE(SHAPE, latent_dim=2, mean=mean)
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(pair.posterior(x + mean).mean, plain.posterior(x).mean)
    nn.init.zeros_(pair.likelihood.network.layers[-1].weight)
    expected = mean.clamp(0.005, 0.995).expand(3, *SHAPE)
    torch.testing.assert_close(decode(pair, torch.randn(3, 2), x.round()), expected)
    with pytest.raises(ValueError, match="mean of the input"):
        MLPVAE(SHAPE, latent_dim=2, mean=mean[0])


def test_only_a_bernoulli_decoder_starts_at_the_mean() -> None:
    def bias(**options: Any) -> Tensor:
        torch.manual_seed(0)
        return MLPVAE(SHAPE, latent_dim=2, **options).likelihood.network.layers[-1].bias

    mean = gray(*SHAPE)
    assert torch.equal(bias(likelihood=Gaussian), bias(likelihood=Gaussian, mean=mean))
    relaxed = functools.partial(Bernoulli, support="unit_interval")
    assert not torch.equal(bias(likelihood=Gaussian), bias(likelihood=relaxed, mean=mean))


# Flows on the posterior


@pytest.mark.parametrize("amortized", [True, False])
@both
def test_a_flow_on_the_posterior(model: Any, amortized: bool) -> None:
    steps = (transforms.Planar, functools.partial(transforms.SplineCoupling, hidden=(8,)))
    pair = model(SHAPE, latent_dim=2, transforms=steps, num_transforms=5, amortized=amortized)
    assert [type(step) for step in pair.posterior.transforms] == [
        *(transforms.Planar, transforms.SplineCoupling) * 2, transforms.Planar,
    ]  # fmt: skip
    assert all((step.context_dim is not None) == amortized for step in pair.posterior.transforms)
    assert check(pair, X).sites[0].analytic_kl is False
    SGVB_A().differentiable_loss(pair.model, pair.guide, X).backward()
    assert all(parameter.grad.isfinite().all() for parameter in pair.parameters())


@both
def test_a_flow_has_the_encoder_of_the_pair_without_one(model: Any) -> None:
    plain, flow = model(SHAPE, latent_dim=2), model(SHAPE, latent_dim=2, transforms=[transforms.Planar])
    assert size(flow.posterior) == size(plain.posterior) + size(flow.posterior.transforms)
    none = model(SHAPE, latent_dim=2, transforms=[transforms.Planar], num_transforms=0)
    assert isinstance(none.posterior, posteriors.DiagonalNormal)


@pytest.mark.parametrize("base", [posteriors.DiagonalNormal, posteriors.FullNormal])
def test_a_posterior_of_the_users_own_around_the_network(base: Any) -> None:
    """What ``make`` builds around the network keeps it where it was put, and may look at it."""
    step = transforms.Planar(4)
    pair: Any = MLPVAE((6,), 4, (8,), posterior=lambda network: posteriors.Flow(base(network), [step]))
    assert isinstance(pair.posterior.base.network, MLP)
    assert check(pair, torch.rand(5, 6).round()).sites[0].analytic_kl is False

    def own(network: Any) -> nn.Module:
        assert tuple(network.out_shape) == (2, 4)
        return posteriors.DiagonalNormal(network)

    assert kinds(MLPVAE((6,), 4, (8,), posterior=own), torch.rand(5, 6).round())[0] == ("Normal", "Normal")


def test_flows_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no transforms of which num_transforms=3"):
        MLPVAE(SHAPE, latent_dim=2, num_transforms=3)
    with pytest.raises(ValueError, match=r"2 transforms do not fit in num_transforms=1"):
        MLPVAE(SHAPE, latent_dim=2, transforms=[transforms.Planar] * 2, num_transforms=1)
    for model in (MLPVAE, functools.partial(VampVAE, num_components=3)):
        with pytest.raises(ValueError, match="last hidden layer"):
            model(SHAPE, latent_dim=2, hidden=(), transforms=[transforms.Planar])


# ConvVAE


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_blocks_straight_to_the_latent_and_back(shape: tuple[int, ...]) -> None:
    """Blocks of convolution, batch norm and LeakyReLU, without a hidden layer."""
    pair: Any = ConvVAE(shape, 8, (32, 64, 128, 256), None, nn.LeakyReLU, Gaussian, "batch")
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
    assert [site.event_shape for site in check(pair, gray(2, *shape)).sites] == [(8,), shape]
    x = gray(3, *shape)
    in_training = pair.posterior(x).mean
    alone = torch.cat([pair.eval().posterior(datum[None]).mean for datum in x])
    torch.testing.assert_close(pair.posterior(x).mean, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(in_training, alone, rtol=1e-2, atol=1e-2)  # there it is of the batch


def test_other_arguments_of_convolutions() -> None:
    for hidden in (None, 0):
        assert widths(ConvVAE(SHAPE, hidden=hidden)) == [80, 64 * 2 * 2]
    plain, gated = (ConvVAE(SHAPE, 2, (4,), 8, gated=gated) for gated in (False, True))
    assert size(gated.likelihood) > size(plain.likelihood)
    with pytest.raises(ValueError, match="got 'instance'"):
        ConvVAE(SHAPE, normalization="instance")  # type: ignore[arg-type]


def test_data_dependent_start_of_both_networks() -> None:
    pair: Any = ConvVAE(SHAPE, 2, (3, 4), 6, nn.ELU, Gaussian, "weight")
    x = gray(50, *SHAPE)
    data_dependent_init(pair.posterior, x)
    z = pair.posterior(x).sample()
    data_dependent_init(pair.likelihood, z)
    for network, given in ((pair.posterior.network, x), (pair.likelihood.network, z)):
        first = network.layers[0](given).reshape(50, -1, 9 if given is x else 1)
        assert first.mean((0, 2)).abs().max() < 1e-4
        torch.testing.assert_close(first.var((0, 2), correction=0), torch.ones(first.shape[1]), rtol=1e-3, atol=1e-3)


# VampVAE


def test_a_vampprior_is_of_the_pairs_own_posterior() -> None:
    pair: Any = VampVAE(SHAPE, latent_dim=2, hidden=(8,), num_components=6, mean=gray(*SHAPE))
    assert check(pair, X).sites[0].analytic_kl is False
    z, u = torch.randn(7, 2), pair.prior.pseudo_inputs.clamp(0, 1)
    by_hand = pair.posterior(u).log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(6)
    torch.testing.assert_close(pair.prior().log_prob(z), by_hand)
    copied = copy.deepcopy(pair)
    assert copied.prior.posterior is copied.posterior
    assert check(VampVAE(SHAPE, latent_dim=2, hidden=(), num_components=3), X)  # of a linear encoder


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: NVAE((1, 8, 8), channels=2**40), "NVAE needs .* GiB of memory"),
        (lambda: IWAE(2**40).bound(MLPVAE((4,), 2, (3,)), torch.zeros(2, 4)), "particles of 2 data would be"),
        (lambda: GRUVAE((5, 3)).sample(2, 2**40), "sequences of .* steps would be"),
        (lambda: NVAE((1, 8, 8), cells=2**40), "cells has to be a whole number from 1 to 10,000"),
        (lambda: transforms.Planar(2**40), "Planar needs .* GiB of memory"),
        (lambda: transforms.Sylvester(2**40), "Sylvester needs .* or more GiB of memory"),
        (lambda: GRUVAE((5, 3)).forecast(torch.zeros(2, 5, 3), 2**40), "forecasts of .* steps would be"),
        (lambda: evidence.hmc(MLPVAE((4,), 2, (3,)), torch.zeros(2, 4), 2**40), "chains of .* draws would be"),
        (lambda: IWAE(2, max_plate_nesting=2**40), "a whole number from 1 to 32"),
        (lambda: MLPVAE((2**40,), 2), r"of at least 1 and below 2\*\*31"),
    ],
)
def test_sizes_that_no_memory_holds(ask: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ask()
