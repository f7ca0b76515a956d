"""The systems: what their arguments do."""

import functools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Bernoulli, Gaussian, check
from pyro_vae.diagnostics import decode
from pyro_vae.models import MLPVAE, ConvVAE

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
    centred = MLPVAE(SHAPE, latent_dim=2, likelihood=Gaussian, mean=mean)
    assert torch.equal(plain.likelihood.network.layers[-1].bias, centred.likelihood.network.layers[-1].bias)
    torch.manual_seed(0)
    grey = functools.partial(Bernoulli, support="unit_interval")
    started = MLPVAE(SHAPE, latent_dim=2, likelihood=grey, mean=mean)
    assert not torch.equal(plain.likelihood.network.layers[-1].bias, started.likelihood.network.layers[-1].bias)
