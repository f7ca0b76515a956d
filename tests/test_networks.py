"""Networks: their shapes for any leading dimensions, what they do datum by datum, and their messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_vae import MLP, Centered, ConvDecoder, ConvEncoder
from pyro_vae.networks import at_least_float32, normal_init, stacked

leading = st.lists(st.integers(1, 3), max_size=3).map(tuple)
event = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
image = st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11))
channels = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
law = settings(max_examples=25, deadline=None)


def keeps_leading_dimensions(network: nn.Module, leading: tuple[int, ...], x: torch.Tensor) -> None:
    """Each datum is mapped as it would be alone, wherever it stands."""
    y = network(x)
    out_shape = tuple(network.out_shape)
    assert y.shape == (*leading, *out_shape)
    rows = x.reshape(-1, *x.shape[len(leading) :])
    alone = torch.stack([network(row) for row in rows])
    torch.testing.assert_close(y.reshape(-1, *out_shape), alone, rtol=1e-4, atol=1e-5)


@law
@given(leading, event, event, st.lists(st.integers(1, 5), max_size=2))
def test_mlp_keeps_leading_dimensions(leading: Any, in_shape: Any, out_shape: Any, hidden: Any) -> None:
    torch.manual_seed(0)
    keeps_leading_dimensions(MLP(in_shape, out_shape, hidden), leading, torch.randn(*leading, *in_shape))


@law
@given(leading, image, event, channels)
def test_conv_encoder_keeps_leading_dimensions(leading: Any, in_shape: Any, out_shape: Any, channels: Any) -> None:
    torch.manual_seed(0)
    network = ConvEncoder(in_shape, out_shape, channels, hidden=4)
    keeps_leading_dimensions(network, leading, torch.randn(*leading, *in_shape))


@law
@given(leading, st.integers(1, 4), st.sampled_from([(), (2,)]), image, channels)
def test_conv_decoder_gives_any_image(leading: Any, size: int, stacked: Any, image: Any, channels: Any) -> None:
    torch.manual_seed(0)
    network = ConvDecoder(size, (*stacked, *image), channels, hidden=4)
    keeps_leading_dimensions(network, leading, torch.randn(*leading, size))


def test_empty_batch_passes() -> None:
    assert MLP(3, 4)(torch.zeros(0, 3)).shape == (0, 4)
    assert ConvEncoder((1, 5, 7), 4)(torch.zeros(0, 1, 5, 7)).shape == (0, 4)
    assert ConvDecoder(3, (1, 5, 7))(torch.zeros(0, 3)).shape == (0, 1, 5, 7)


def test_mlp_is_a_multilayer_perceptron() -> None:
    network = MLP(3, 2, hidden=(5, 4), activation=nn.Tanh)
    first, second, third = (layer for layer in network.layers if isinstance(layer, nn.Linear))
    x = torch.randn(7, 3)
    torch.testing.assert_close(network(x), third(second(first(x).tanh()).tanh()))
    linear = MLP(3, 2, hidden=())
    assert [type(layer) for layer in linear.layers] == [nn.Linear]


@pytest.mark.parametrize("network", [ConvEncoder((1, 5, 7), 4), ConvDecoder(3, (2, 5, 7)), MLP(3, 2)])
def test_no_activation_on_the_output(network: nn.Module) -> None:
    torch.manual_seed(0)
    assert network(100 * torch.randn(50, *network.in_shape)).min() < -1  # which no SiLU gives


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: MLP(0, 2), "in_shape"),
        (lambda: MLP((), 2), "in_shape"),
        (lambda: MLP(2, (2, -1)), "out_shape"),
        (lambda: MLP(2, 2.5), "out_shape"),
        (lambda: MLP(2, "ab"), "out_shape"),
        (lambda: MLP(2, 3, hidden=(4, 0)), "hidden"),
        (lambda: ConvEncoder((28, 28), 2), "in_shape has to be (channels, height, width); got (28, 28)"),
        (lambda: ConvEncoder((1, 28, 0), 2), "in_shape"),
        (lambda: ConvEncoder((1, 8, 8), 2, channels=()), "channels"),
        (lambda: ConvDecoder(2, (28, 28)), "out_shape has to be (channels, height, width); got (28, 28)"),
        (lambda: ConvDecoder(0, (1, 8, 8)), "in_features"),
        (lambda: ConvDecoder(2, (1, 8, 8), channels=()), "channels"),
    ],
)
def test_sizes_that_cannot_be(build: Any, name: str) -> None:
    with pytest.raises(ValueError, match="has to") as caught:
        build()
    assert name in str(caught.value)


def test_sizes_of_numpy_are_sizes() -> None:
    assert MLP(np.int64(3), np.array([2, 4]))(torch.zeros(5, 3)).shape == (5, 2, 4)


@pytest.mark.parametrize("network", [MLP((1, 8, 8), 3), ConvEncoder((1, 8, 8), 3)])
@pytest.mark.parametrize("shape", [(5, 64), (5, 1, 8, 7), (8, 8), (5, 1, 8, 8, 1)])
def test_input_of_another_shape(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="inputs of shape") as caught:
        network(torch.zeros(shape))
    assert "[*, 1, 8, 8]" in str(caught.value)
    assert str(list(shape)) in str(caught.value)
    assert type(network).__name__ in str(caught.value)


def test_latent_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"ConvDecoder was built for inputs of shape \[\*, 3\]; got \[5, 4\]"):
        ConvDecoder(3, (1, 8, 8))(torch.zeros(5, 4))


def test_normal_init() -> None:
    network = nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50), nn.Linear(100, 100))
    assert normal_init(network, 0.1, torch.Generator().manual_seed(0)) is network
    first = network[2].weight.detach().clone()
    assert abs(first.mean()) < 0.005
    assert abs(first.std() - 0.1) < 0.005
    assert abs(network[0].weight.std() - 0.1) < 0.01
    for layer in network:
        assert not layer.bias.any()
    assert (network[1].weight == 1).all()  # a gain of 0 would silence the layer
    normal_init(network, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(first, network[2].weight)
    state = torch.get_rng_state()
    normal_init(network, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())
    assert abs(network[2].weight.std() - 0.01) < 0.0005


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_at_least_float32(given: torch.dtype, expected: torch.dtype) -> None:
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == expected


def test_parameters_are_split_in_their_place() -> None:
    output = torch.randn(3, 2, 2, 4)
    first, second = stacked("it", output, 2, 1)
    assert torch.equal(first, output[:, 0])
    assert torch.equal(second, output[:, 1])
    first, second = stacked("it", output, 2, 2)
    assert torch.equal(second, output[:, :, 1])
    assert [p.dtype for p in stacked("it", output.bfloat16(), 2, 1)] == [torch.float32] * 2


@pytest.mark.parametrize(("shape", "leading"), [((5, 4), 1), ((5,), 1), ((2, 5, 4), 2), ((), 0)])
def test_two_parameters_that_are_not_there(shape: tuple[int, ...], leading: int) -> None:
    with pytest.raises(ValueError, match="2 stacked") as caught:
        stacked("the thing", torch.zeros(shape), 2, leading)
    assert str(list(shape)) in str(caught.value)
    assert "the thing" in str(caught.value)
    assert "out_shape=(2, *event)" in str(caught.value)


def test_centered_is_the_network_about_the_mean() -> None:
    network, mean, x = MLP((2, 3), 4), torch.rand(2, 3), torch.rand(5, 7, 2, 3)
    centered = Centered(network, mean)
    torch.testing.assert_close(centered(x), network(x - mean))
    assert "mean" in centered.state_dict()
    with pytest.raises(ValueError, match=r"input shape \[2, 3\]; got shape \[3, 2\]"):
        Centered(network, mean.T)
    with pytest.raises(ValueError, match="finite"):
        Centered(network, mean / 0)


def test_mlp_starts_near_a_given_output() -> None:
    network, output = MLP(3, (2, 5)), torch.randn(2, 5)
    network.start_at(output)
    network.layers[-1].weight.data.zero_()
    torch.testing.assert_close(network(torch.randn(4, 3)), output.expand(4, 2, 5))
