"""The systems: what their arguments do."""

import copy
import functools
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import MLP, SGVB_A, Bernoulli, Gaussian, check, posteriors, priors, transforms
from pyro_vae.diagnostics import decode
from pyro_vae.models import MLPVAE, ConvVAE, VampVAE
from pyro_vae.networks import GatedMLP, ResidualMLP

SHAPE = (1, 6, 5)


@pytest.mark.parametrize("model", [MLPVAE, ConvVAE])
def test_a_likelihood_of_two_parameters(model):
    pair = model(SHAPE, latent_dim=2, likelihood=functools.partial(Gaussian, scale=None))
    report = check(pair, torch.rand(4, *SHAPE))
    assert [site.model for site in report.sites] == ["Normal", "Normal"]


@pytest.mark.parametrize("model", [MLPVAE, ConvVAE])
def test_a_likelihood_of_the_users_own(model):
    pair = model(SHAPE, latent_dim=2, likelihood=lambda network: Bernoulli(network))
    assert check(pair, torch.rand(4, *SHAPE).round()).sites[1].model == "Bernoulli"
    pair = model(SHAPE, latent_dim=2, likelihood=Own)
    assert check(pair, torch.rand(4, *SHAPE)).sites[1].model == "Laplace"


class Own(nn.Module):
    """A likelihood without a word on the shape of its network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return dist.Laplace(self.network(z), 1.0).to_event(3)


def test_hidden_layers_and_activation():
    pair = MLPVAE(SHAPE, latent_dim=2, hidden=(7, 5), activation=nn.Tanh)
    widths = [layer.out_features for layer in pair.modules() if isinstance(layer, nn.Linear)]
    assert widths == [7, 5, 4, 5, 7, 30]
    assert sum(isinstance(layer, nn.Tanh) for layer in pair.modules()) == 4
    pair = MLPVAE(SHAPE, latent_dim=2, hidden=(7,), decoder_hidden=(9, 8))
    assert [layer.out_features for layer in pair.modules() if isinstance(layer, nn.Linear)] == [7, 4, 9, 8, 30]


def test_the_mean_of_the_data_is_where_encoder_and_decoder_start():
    mean = torch.rand(SHAPE)
    torch.manual_seed(0)
    plain = MLPVAE(SHAPE, latent_dim=2)
    torch.manual_seed(0)
    pair = MLPVAE(SHAPE, latent_dim=2, mean=mean)
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(pair.posterior(x + mean).mean, plain.posterior(x).mean)
    for layer in (pair.likelihood.network.layers[-1],):
        nn.init.zeros_(layer.weight)
    expected = mean.clamp(0.005, 0.995).expand(3, *SHAPE)
    torch.testing.assert_close(decode(pair, torch.randn(3, 2), x.round()), expected)
    with pytest.raises(ValueError, match="mean of the input"):
        MLPVAE(SHAPE, latent_dim=2, mean=mean[0])


def test_only_a_bernoulli_decoder_starts_at_the_mean():
    mean = torch.rand(SHAPE)
    torch.manual_seed(0)
    plain = MLPVAE(SHAPE, latent_dim=2, likelihood=Gaussian)
    torch.manual_seed(0)
    centered = MLPVAE(SHAPE, latent_dim=2, likelihood=Gaussian, mean=mean)
    assert torch.equal(plain.likelihood.network.layers[-1].bias, centered.likelihood.network.layers[-1].bias)
    torch.manual_seed(0)
    gray = functools.partial(Bernoulli, support="unit_interval")
    started = MLPVAE(SHAPE, latent_dim=2, likelihood=gray, mean=mean)
    assert not torch.equal(plain.likelihood.network.layers[-1].bias, started.likelihood.network.layers[-1].bias)


@pytest.mark.parametrize("model", [MLPVAE, ConvVAE])
@pytest.mark.parametrize("amortized", [True, False])
def test_a_flow_on_the_posterior(model, amortized):
    steps = (transforms.Planar, functools.partial(transforms.SplineCoupling, hidden=(8,)))
    pair = model(SHAPE, latent_dim=2, transforms=steps, num_transforms=5, amortized=amortized)
    kinds = [type(step) for step in pair.posterior.transforms]
    assert kinds == [transforms.Planar, transforms.SplineCoupling] * 2 + [transforms.Planar]
    assert all((step.context_dim is not None) == amortized for step in pair.posterior.transforms)
    x = torch.rand(4, *SHAPE).round()
    assert check(pair, x).sites[0].analytic_kl is False
    # The base and every step learn, and the draws are scored as they are made.
    loss = SGVB_A().differentiable_loss(pair.model, pair.guide, x)
    loss.backward()
    assert all(parameter.grad is not None for parameter in pair.parameters())
    assert torch.isfinite(loss)


@pytest.mark.parametrize("model", [MLPVAE, ConvVAE])
def test_a_flow_has_the_encoder_of_the_pair_without_one(model):
    plain, flow = model(SHAPE, latent_dim=2), model(SHAPE, latent_dim=2, transforms=[transforms.Planar])
    shared = sum(p.numel() for p in plain.posterior.parameters())
    steps = sum(p.numel() for p in flow.posterior.transforms.parameters())
    assert sum(p.numel() for p in flow.posterior.parameters()) == shared + steps


@pytest.mark.parametrize("base", [posteriors.DiagonalNormal, posteriors.FullNormal])
def test_a_posterior_of_the_users_own_around_the_network(base):
    """What ``make`` builds around the network keeps it where it was put."""
    step = transforms.Planar(4)
    pair = MLPVAE((6,), 4, (8,), posterior=lambda network: posteriors.Flow(base(network), [step]))
    assert isinstance(pair.posterior.base.network, MLP)
    assert check(pair, torch.rand(5, 6).round()).sites[0].analytic_kl is False


def test_a_posterior_of_the_users_own_that_looks_at_the_network():
    def own(network):
        assert tuple(network.out_shape) == (2, 4)
        return posteriors.DiagonalNormal(network)

    assert check(MLPVAE((6,), 4, (8,), posterior=own), torch.rand(5, 6).round()).sites[0].guide == "Normal"


def test_no_steps_are_no_flow():
    pair = MLPVAE(SHAPE, latent_dim=2, transforms=[transforms.Planar], num_transforms=0)
    assert isinstance(pair.posterior, posteriors.DiagonalNormal)


def test_gated_convolutions():
    plain, gated = ConvVAE(SHAPE, 2, (4,), 8), ConvVAE(SHAPE, 2, (4,), 8, gated=True, transforms=[transforms.Planar])
    count = [sum(p.numel() for p in part.parameters()) for part in (plain.likelihood, gated.likelihood)]
    assert count[1] > count[0]
    assert check(gated, torch.rand(4, *SHAPE).round())


def test_flows_that_cannot_be():
    with pytest.raises(ValueError, match="no transforms of which num_transforms=3"):
        MLPVAE(SHAPE, latent_dim=2, num_transforms=3)
    with pytest.raises(ValueError, match=r"2 transforms do not fit in num_transforms=1"):
        MLPVAE(SHAPE, latent_dim=2, transforms=[transforms.Planar] * 2, num_transforms=1)
    with pytest.raises(ValueError, match="last hidden layer"):
        MLPVAE(SHAPE, latent_dim=2, hidden=(), transforms=[transforms.Planar])


@pytest.mark.parametrize("model", [MLPVAE, ConvVAE])
def test_any_prior_and_posterior(model):
    prior = functools.partial(priors.MixtureOfNormals, num_components=4)
    pair = model(SHAPE, latent_dim=3, prior=prior, posterior=functools.partial(posteriors.LowRankNormal, rank=2))
    report = check(pair, torch.rand(4, *SHAPE).round())
    assert (report.sites[0].model, report.sites[0].guide) == ("Mixture", "LowRankNormal")
    pair = model(SHAPE, latent_dim=3, prior=priors.SphereUniform, posterior=posteriors.PowerSpherical)
    assert check(pair, torch.rand(4, *SHAPE).round()).sites[0].analytic_kl


@pytest.mark.parametrize("network", [MLP, GatedMLP, ResidualMLP, functools.partial(MLP, normalization="batch")])
def test_any_network(network):
    pair = MLPVAE(SHAPE, latent_dim=2, hidden=(8, 8), network=network, mean=torch.rand(SHAPE))
    assert check(pair, torch.rand(4, *SHAPE).round()).num_parameters > 0


def test_a_vampprior_is_of_the_pairs_own_posterior():
    mean = torch.rand(SHAPE)
    pair = VampVAE(SHAPE, latent_dim=2, hidden=(8,), num_components=6, mean=mean)
    assert check(pair, torch.rand(4, *SHAPE).round()).sites[0].analytic_kl is False
    z, u = torch.randn(7, 2), pair.prior.pseudo_inputs.clamp(0, 1)
    by_hand = pair.posterior(u).log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(6)
    torch.testing.assert_close(pair.prior().log_prob(z), by_hand)
    copied = copy.deepcopy(pair)
    assert copied.prior.posterior is copied.posterior


def test_a_vampprior_of_a_linear_encoder():
    assert check(VampVAE(SHAPE, latent_dim=2, hidden=(), num_components=3), torch.rand(4, *SHAPE).round())
    with pytest.raises(ValueError, match="last hidden layer"):
        VampVAE(SHAPE, latent_dim=2, hidden=(), transforms=[transforms.Planar])
