"""Networks: their shapes for any leading dimensions, what they do datum by datum, and their messages."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.parametrizations import weight_norm

from pyro_vae import MLP, Centered, ConvDecoder, ConvEncoder
from pyro_vae.networks import (
    BatchNorm,
    Gated,
    GatedMLP,
    Network,
    Residual,
    ResidualDecoder,
    ResidualEncoder,
    ResidualMLP,
    at_least_float32,
    data_dependent_init,
    normal_init,
    stacked,
)

IMAGE = (2, 5, 7)
NETWORKS: dict[str, Any] = {
    "mlp": functools.partial(MLP, (2, 3), (2, 4), (6, 5)),
    "gated mlp": functools.partial(GatedMLP, (2, 3), (2, 4), (6, 5)),
    "residual mlp": functools.partial(ResidualMLP, (2, 3), (2, 4), (6, 6)),
    "conv encoder": functools.partial(ConvEncoder, IMAGE, (2, 4), (3, 4), 6),
    "conv encoder, gated": functools.partial(ConvEncoder, IMAGE, (2, 4), (3, 4), 6, gated=True),
    "conv encoder, no hidden layer": functools.partial(ConvEncoder, IMAGE, (2, 4), (3, 4), None),
    "conv decoder": functools.partial(ConvDecoder, 4, (2, *IMAGE), (4, 3), 6),
    "conv decoder, gated": functools.partial(ConvDecoder, 4, (2, *IMAGE), (4, 3), 6, gated=True),
    "conv decoder, no hidden layer": functools.partial(ConvDecoder, 4, (2, *IMAGE), (4, 3), 0),
    "residual encoder": functools.partial(ResidualEncoder, IMAGE, (2, 4), (3, 4), 6),
    "residual encoder, no hidden layer": functools.partial(ResidualEncoder, IMAGE, (2, 4), (3, 4), None),
    "residual decoder": functools.partial(ResidualDecoder, 4, (2, *IMAGE), (4, 3), 6),
    "residual decoder, no hidden layer": functools.partial(ResidualDecoder, 4, (2, *IMAGE), (4, 3), 0),
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
every_normalization = pytest.mark.parametrize("normalization", [None, "batch", "layer", "weight"])

leading = st.lists(st.integers(1, 3), max_size=3).map(tuple)
event = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
image = st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11))
channels = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def keeps_leading_dimensions(network: nn.Module, leading: tuple[int, ...], x: torch.Tensor) -> None:
    """Each datum is mapped as it would be alone, wherever it stands."""
    y = network(x)
    out_shape = tuple(network.out_shape)
    assert y.shape == (*leading, *out_shape)
    rows = x.reshape(-1, *x.shape[len(leading) :])
    alone = torch.stack([network(row) for row in rows])
    torch.testing.assert_close(y.reshape(-1, *out_shape), alone, rtol=1e-4, atol=1e-5)


ENCODERS, DECODERS = st.sampled_from([ConvEncoder, ResidualEncoder]), st.sampled_from([ConvDecoder, ResidualDecoder])
SIZED = st.one_of(
    st.tuples(st.just(MLP), event, event, st.lists(st.integers(1, 5), max_size=2)),
    st.tuples(ENCODERS, image, event, channels, st.just(4)),
    st.tuples(
        DECODERS, st.integers(1, 4), image.flatmap(lambda s: st.sampled_from([s, (2, *s)])), channels, st.just(4)
    ),
)


@settings(max_examples=100, deadline=None)
@given(leading, SIZED)
def test_networks_of_any_sizes(leading: Any, sized: Any) -> None:
    torch.manual_seed(0)
    network = sized[0](*sized[1:])
    keeps_leading_dimensions(network, leading, torch.randn(*leading, *network.in_shape))


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


@every_network
@every_normalization
def test_no_activation_or_normalization_on_the_output(make: Any, normalization: Any) -> None:
    network = make(activation=nn.ReLU, normalization=normalization).eval()
    with torch.no_grad():
        network.layers[-1].bias.sub_(100)
    assert network(torch.randn(50, *network.in_shape)).max() < -50  # which no ReLU gives, nor a batch of mean 0


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
        (lambda: ConvEncoder((1, 8, 8), 2, hidden=-1), "hidden"),
        (lambda: ConvDecoder(2, (1, 8, 8), hidden=-1), "hidden"),
        (lambda: GatedMLP(2, 0), "out_shape"),
        (lambda: ResidualMLP(2, 2, (3, 4)), "one width for all blocks, for example (500, 500); got (3, 4)"),
        (
            lambda: ResidualMLP(2, 2, ()),
            "hidden has to hold sizes of at least 1",
        ),
        (lambda: ResidualEncoder((8, 8), 2), "in_shape"),
        (lambda: ResidualEncoder((1, 8, 8), 2, channels=()), "channels"),
        (lambda: ResidualDecoder(2, (8, 8)), "out_shape"),
        (lambda: ResidualDecoder(2, (1, 8, 8), channels=()), "channels"),
    ],
)
def test_sizes_that_cannot_be(build: Any, name: str) -> None:
    with pytest.raises(ValueError, match="has to") as caught:
        build()
    assert name in str(caught.value)


def test_sizes_of_numpy_are_sizes() -> None:
    assert MLP(np.int64(3), np.array([2, 4]))(torch.zeros(5, 3)).shape == (5, 2, 4)


@pytest.mark.parametrize("network", [MLP((1, 8, 8), 3), ConvEncoder((1, 8, 8), 3), ConvDecoder(3, (1, 8, 8))])
def test_input_of_another_shape(network: Any) -> None:
    wanted = "".join(f", {size}" for size in network.in_shape)
    for shape in ((5, 64), (5, 1, 8, 7), (8, 8), (5, 1, 8, 8, 1)):
        words = re.escape(f"{type(network).__name__} was built for inputs of shape [*{wanted}]; got {[*shape]}")
        with pytest.raises(ValueError, match=words):
            network(torch.zeros(shape))


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


def test_at_least_float32() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert at_least_float32(torch.ones(2, dtype=dtype)).dtype == max(
            dtype, torch.float32, key=lambda of: of.itemsize
        )


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
    with pytest.raises(ValueError, match=r"has to give them stacked, \[\*, 2, \*event\]; got") as caught:
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


@every_network
def test_start_at_a_given_output(make: Any) -> None:
    network = make()
    output = torch.randn(network.out_shape)
    network.start_at(output)
    nn.init.zeros_(network.layers[-1].weight)
    if isinstance(network.layers[-1], nn.Conv2d | nn.ConvTranspose2d):  # a bias a channel
        output = output.mean((-2, -1), keepdim=True).expand(network.out_shape)
    torch.testing.assert_close(network(torch.randn(3, *network.in_shape)), output.expand(3, *network.out_shape))
    with pytest.raises(ValueError, match=r"starts at an output of its out_shape \[2, .*got \[3\]"):
        network.start_at(torch.zeros(3))


# What every network does, under every normalization


@every_network
@every_normalization
@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_leading_dimensions(make: Any, normalization: Any, leading: tuple[int, ...]) -> None:
    network = make(normalization=normalization)
    network(torch.randn(50, *network.in_shape))  # running statistics that are not 0 and 1
    x = torch.randn(*leading, *network.in_shape)
    keeps_leading_dimensions(network.eval(), leading, x)
    if leading:
        network.train()
        assert network(x).shape == (*leading, *network.out_shape)


@every_network
@every_normalization
def test_every_parameter_has_a_gradient(make: Any, normalization: Any) -> None:
    network = make(normalization=normalization, activation=nn.Tanh)
    y = network(torch.randn(9, *network.in_shape))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-4, name  # a bias in front of a batch norm would have rounding alone


PLAIN = ("mlp", "gated mlp", "residual mlp", "conv encoder", "conv decoder", "residual encoder")


@pytest.mark.parametrize(
    ("make", "normalization"),
    [
        pytest.param(
            make,
            normalization,
            marks=() if (name in PLAIN and normalization == "batch") or name == "mlp" else pytest.mark.slow,
            id=f"{name}-{normalization}",
        )
        for name, make in NETWORKS.items()
        for normalization in ("batch", "weight")
    ],
)
def test_traced_as_one_graph(make: Any, normalization: Any) -> None:
    network, again = make(normalization=normalization), make(normalization=normalization)
    again.load_state_dict(network.state_dict())
    x, names = torch.randn(2, 5, *network.in_shape), [name for name, _ in network.named_parameters()]

    def step(x: Tensor, parameters: list[Tensor], buffers: list[Tensor]) -> list[Tensor]:
        leaves = [parameter.detach().requires_grad_() for parameter in parameters]
        state = dict(zip([*names, *dict(network.named_buffers())], [*leaves, *buffers], strict=True))
        return list(torch.autograd.grad(functional_call(network, state, (x,)).square().sum(), leaves))

    state = [p.detach() for p in network.parameters()], list(network.buffers())
    graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(x, *state)
    gradients = graph(x, *state)
    again(x).square().sum().backward()
    for gradient, parameter in zip(gradients, again.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    for traced, eager in zip(network.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(traced, eager)  # the graph wrote the running statistics


@every_network
@every_normalization
def test_state_goes_round(make: Any, normalization: Any) -> None:
    network, other = make(normalization=normalization), make(normalization=normalization)
    x = torch.randn(5, *network.in_shape)
    network(x)
    assert not torch.equal(network.eval()(x), other.eval()(x))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(x), other(x))
    assert network.double()(x.double()).dtype == torch.float64


@every_network
@every_normalization
def test_bfloat16_runs(make: Any, normalization: Any) -> None:
    network = make(normalization=normalization)
    x = torch.randn(50, *network.in_shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    torch.testing.assert_close(y.float(), network(x), rtol=0.05, atol=0.05)


@every_network
def test_normalizations_that_there_are(make: Any) -> None:
    with pytest.raises(ValueError, match="normalization is one of 'batch', 'weight', 'layer', None; got 'instance'"):
        make(normalization="instance")


@every_network
def test_a_network_tells_its_shapes(make: Any) -> None:
    network = make()
    assert isinstance(network, Network)
    assert network(torch.zeros(network.in_shape)).shape == network.out_shape


# Defaults stay what they were: the same layers, drawn in the same order


SILU = nn.SiLU
DEFAULTS: dict[str, Any] = {
    "mlp": lambda: [nn.Linear(6, 6), SILU(), nn.Linear(6, 5), SILU(), nn.Linear(5, 8)],
    "conv encoder": lambda: [
        *(nn.Conv2d(2, 3, 3, 2, 1), SILU(), nn.Conv2d(3, 4, 3, 2, 1), SILU()),
        *(nn.Flatten(), nn.Linear(16, 6), SILU(), nn.Linear(6, 8)),
    ],
    "conv decoder": lambda: [
        *(nn.Linear(4, 6), SILU(), nn.Linear(6, 16), SILU(), nn.Unflatten(-1, (4, 2, 2))),
        *(nn.ConvTranspose2d(4, 3, 3, 2, 1, (0, 1)), SILU(), nn.ConvTranspose2d(3, 4, 3, 2, 1, (0, 0))),
    ],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_networks_are_their_layers(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    torch.manual_seed(0)
    layers = nn.Sequential(*DEFAULTS[name]())
    expected = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    assert list(network.state_dict()) == list(expected)
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    x = torch.randn(7, *network.in_shape)
    flat = x.flatten(1) if isinstance(layers[0], nn.Linear) else x
    assert torch.equal(network(x), layers(flat).reshape(7, *network.out_shape))


# Gates and residuals


def test_gated_layer_by_hand() -> None:
    network = GatedMLP(3, (2, 2), (5,))
    x = torch.randn(2, 7, 3)
    w, v = (layer for layer in network.layers[0].modules() if isinstance(layer, nn.Linear))
    h = (x @ w.weight.T + w.bias) * torch.sigmoid(x @ v.weight.T + v.bias)
    torch.testing.assert_close(network(x), network.layers[-1](h).unflatten(-1, (2, 2)))
    gated = GatedMLP(3, 4, (5,), nn.Tanh)
    w, v = (layer for layer in gated.layers[0].modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(gated(x), gated.layers[-1](w(x).tanh() * v(x).sigmoid()))


def test_gated_convolutions_by_hand() -> None:
    network = ConvEncoder(IMAGE, 4, (3,), None, nn.Identity, gated=True)
    w, v = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    x = torch.randn(6, *IMAGE)
    torch.testing.assert_close(network(x), network.layers[-1]((w(x) * v(x).sigmoid()).flatten(1)))
    decoder = ConvDecoder(4, IMAGE, (3,), 5, nn.Tanh, gated=True)
    first, second = (layer for layer in decoder.layers if isinstance(layer, Gated))
    z = torch.randn(6, 4)
    h = first.value[0](z).tanh() * first.gate[0](z).sigmoid()
    h = second.value[0](h).tanh() * second.gate[0](h).sigmoid()
    torch.testing.assert_close(decoder(z), decoder.layers[-1](h.unflatten(-1, (3, 3, 4))))


def test_residual_mlp_by_hand() -> None:
    network = ResidualMLP(3, (2, 2), (5, 5), nn.Tanh)
    first, a, b, c, d, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    x = torch.randn(2, 7, 3)
    h = first(x)
    h = h + b(a(h.tanh()).tanh())
    h = h + d(c(h.tanh()).tanh())
    torch.testing.assert_close(network(x), last(h.tanh()).unflatten(-1, (2, 2)))
    for block in (b, d):  # identity + block
        nn.init.zeros_(block.weight)
        nn.init.zeros_(block.bias)
    torch.testing.assert_close(network(x), last(first(x).tanh()).unflatten(-1, (2, 2)))


def test_residual_mlp_normalizes_before_each_activation() -> None:
    network = ResidualMLP(3, 4, (5,), nn.Tanh, "layer")
    first, a, b, last = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
    x = torch.randn(7, 3)
    normal = functools.partial(nn.functional.layer_norm, normalized_shape=(5,))
    h = first(x)
    h = h + b(normal(a(normal(h).tanh())).tanh())
    torch.testing.assert_close(network(x), last(normal(h).tanh()))


def test_residual_encoder_by_hand() -> None:
    network = ResidualEncoder(IMAGE, 4, (3,), None)
    stem, block = network.layers[:2]
    assert isinstance(block, Residual)
    _, halving, _, second = block.branch
    assert (halving.stride, second.stride, block.shortcut.kernel_size) == ((2, 2), (1, 1), (1, 1))
    x = torch.randn(6, *IMAGE)
    h = stem(x)
    assert h.shape == (6, 3, *IMAGE[1:])
    h = h[:, :, ::2, ::2].movedim(1, -1) @ block.shortcut.weight[:, :, 0, 0].T + block.shortcut.bias
    h = h.movedim(-1, 1) + second(nn.functional.elu(halving(nn.functional.elu(stem(x)))))
    torch.testing.assert_close(network(x), network.layers[-1](nn.functional.elu(h).flatten(1)))


def test_residual_decoder_by_hand() -> None:
    network = ResidualDecoder(4, IMAGE, (3,), None)
    z, elu = torch.randn(6, 4), nn.functional.elu
    h = elu(network.layers[0](z)).unflatten(-1, (3, 3, 4))
    (block,) = (layer for layer in network.layers if isinstance(layer, Residual))
    _, doubling, _, second = block.branch
    repeated = block.shortcut[0](h).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :7]
    h = repeated + second(elu(doubling(elu(h))))
    torch.testing.assert_close(network(z), network.layers[-1](elu(h)))


# Weight normalization


@every_network
def test_weight_normalized_network_starts_as_the_plain_one(make: Any) -> None:
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    network, x = make(normalization="weight"), torch.randn(3, *plain.in_shape)
    torch.testing.assert_close(network(x), plain(x))


@every_network
def test_weights_are_gain_times_direction(make: Any) -> None:
    network, count = make(normalization="weight"), 0
    for layer in network.modules():
        if hasattr(layer, "parametrizations"):
            count += 1
            gain, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
            nn.init.uniform_(gain)
            outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
            assert gain.numel() == v.shape[outputs] == len(layer.bias)
            norms = layer.weight.movedim(outputs, 0).flatten(1).norm(dim=1)  # of the weights of each output
            torch.testing.assert_close(norms, gain.flatten())
    affine = sum(isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) for layer in network.modules())
    assert count == affine - 1  # all but the output's


@every_network
@pytest.mark.parametrize("leading", [(400,), (20, 20)])
def test_data_dependent_start(make: Any, leading: tuple[int, ...]) -> None:
    network = make(normalization="weight")
    x = 3 + 2 * torch.randn(*leading, *network.in_shape)
    assert data_dependent_init(network, x) is network
    seen = 0

    def look(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal seen
        seen += 1
        outputs = output.flatten(0, -2) if isinstance(layer, nn.Linear) else output.movedim(1, -1).flatten(0, 2)
        torch.testing.assert_close(outputs.mean(0), torch.zeros(outputs.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(outputs.shape[1]), atol=1e-3, rtol=0)

    for layer in network.modules():
        if hasattr(layer, "parametrizations"):
            layer.register_forward_hook(look)
    network(x)
    assert seen > 0


def test_data_dependent_start_leaves_the_rest() -> None:
    network = nn.Sequential(nn.Linear(3, 4), MLP(4, 2, (5,), normalization="weight", dropout=0.5), nn.BatchNorm1d(2))
    network[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x, random = torch.randn(50, 3), torch.get_rng_state()
    data_dependent_init(network, x)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".layers.")[-1] for name in changed} == {"0.parametrizations.weight.original0", "0.bias"}
    assert [part.training for part in network] == [False, True, True]
    assert network[1].layers[2].training
    assert torch.equal(random, torch.get_rng_state())
    assert not any(part._forward_hooks for part in network.modules())


def test_data_dependent_start_of_outputs_that_do_not_vary() -> None:
    network = MLP(3, 2, (5,), normalization="weight")
    gain = network.layers[0].parametrizations.weight.original0.detach().clone()
    data_dependent_init(network, torch.randn(3).expand(50, 3))
    assert torch.equal(gain, network.layers[0].parametrizations.weight.original0)
    assert network.layers[0](torch.randn(50, 3)).isfinite().all()


def test_data_dependent_start_without_a_bias() -> None:
    layer, x = weight_norm(nn.Linear(3, 4, bias=False)), torch.randn(50, 3) + 1
    data_dependent_init(layer, x)
    torch.testing.assert_close(layer(x).var(0, correction=0), torch.ones(4))


def test_data_dependent_start_needs_weight_normalization() -> None:
    with pytest.raises(ValueError, match=r"no layer of this MLP is weight-normalized.*normalization='weight'"):
        data_dependent_init(MLP(3, 2), torch.zeros(5, 3))
    network = nn.Sequential(weight_norm(nn.ConvTranspose2d(2, 3, 3)))
    with pytest.raises(ValueError, match="has 2 gains for 3 outputs"):
        data_dependent_init(network, torch.randn(5, 2, 4, 4))


@every_network
@every_normalization
def test_normal_init_draws_the_weights_themselves(make: Any, normalization: Any) -> None:
    network = normal_init(make(normalization=normalization), 0.3, torch.Generator().manual_seed(0))
    weights, others = [], []
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weights.append(layer.weight.detach().flatten())
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(getattr(layer, "weight", None), Tensor):
            others.append(layer.weight.detach())
    drawn = torch.cat(weights)
    error = 0.3 / len(drawn) ** 0.5
    assert abs(drawn.mean()) < 4 * error
    assert abs(drawn.std() - 0.3) < 4 * error / 2**0.5
    assert all((gain == 1).all() for gain in others)
    again = normal_init(make(normalization=normalization), 0.3, torch.Generator().manual_seed(0))
    for (name, value), other in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


# Batch normalization and dropout


@pytest.mark.parametrize("leading", [(8,), (3, 8), (2, 3, 8)])
def test_batch_norm_is_over_all_leading_dimensions(leading: tuple[int, ...]) -> None:
    layer, x = BatchNorm(4), 2 + 3 * torch.randn(*leading, 4)
    rows = x.reshape(-1, 4)
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(layer(x), expected.reshape(x.shape))
    torch.testing.assert_close(layer.running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * rows.var(0))
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.19 * rows.mean(0))
    running = layer.running_mean.clone()
    torch.testing.assert_close(layer.eval()(x), (x - running) / (layer.running_var + layer.eps).sqrt())
    assert torch.equal(layer.running_mean, running)


@every_network
def test_batch_norm_in_training_and_evaluation(make: Any) -> None:
    network = make(normalization="batch")
    x = torch.randn(4, 6, *network.in_shape)
    together, apart = network(x), torch.stack([network(particle) for particle in x])
    assert not torch.allclose(together, apart, atol=1e-3)  # the statistics are of all particles together
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    assert buffers
    network.eval()
    torch.testing.assert_close(network(x)[2, 3], network(x[2, 3]), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, buffers[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("network", "x"),
    [
        (MLP(3, 2, (5,), normalization="batch"), torch.ones(1, 3)),
        (MLP(3, 2, (5,), normalization="batch"), torch.ones(1, 1, 3)),
        (GatedMLP(3, 2, (5,), normalization="batch"), torch.ones(3)),
        (ResidualMLP(3, 2, (5,), normalization="batch"), torch.ones(1, 3)),
        (ConvEncoder((1, 8, 8), 2, normalization="batch"), torch.ones(1, 1, 8, 8)),
        (ConvDecoder(3, (1, 8, 8), normalization="batch"), torch.ones(1, 3)),
    ],
)
def test_batch_norm_needs_more_than_one_datum_in_training(network: Any, x: Tensor) -> None:
    message = "more than one datum in training; got a batch of size 1. Drop the last batch"
    with pytest.raises(ValueError, match=message):
        network(x)
    with pytest.raises(ValueError, match=message):
        make_fx(network)(x)
    pair = torch.cat([x.reshape(1, *network.in_shape)] * 2)
    torch.testing.assert_close(make_fx(network)(pair)(pair), network(pair))
    assert network.eval()(x).isfinite().all()


def test_batch_norm_stands_between_the_layer_and_its_activation() -> None:
    network, x = MLP(3, 2, (5,), nn.Tanh, "batch"), torch.randn(4, 6, 3)
    t = x @ network.layers[0].weight.T
    t = (t - t.mean((0, 1))) / (t.var((0, 1), correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(network(x), network.layers[-1](t.tanh()))


def test_layer_norm_of_images_is_over_channels_and_pixels() -> None:
    network, x = ConvEncoder(IMAGE, 4, (3,), None, nn.Tanh, "layer"), torch.randn(6, *IMAGE)
    t = nn.functional.layer_norm(network.layers[0](x), (3, 3, 4))
    torch.testing.assert_close(network(x), network.layers[-1](t.tanh().flatten(1)))


@pytest.mark.parametrize("cls", [MLP, GatedMLP, ResidualMLP])
def test_dropout_is_of_training_alone(cls: Any) -> None:
    network, x = cls(3, 2, (50, 50), dropout=0.5), torch.randn(7, 3)
    first, second = network(x), network(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    without = cls(3, 2, (50, 50))
    torch.manual_seed(0)
    network = cls(3, 2, (50, 50), dropout=0.5).eval()
    assert torch.equal(network(x), without(x))
    for dropout in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"dropout has to be .* at least 0 and below 1; got {dropout}"):
            cls(3, 2, (50, 50), dropout=dropout)


def test_dropout_keeps_the_mean_of_hidden_units() -> None:
    network = MLP(1, 1, (1000,), nn.Identity, dropout=0.25)
    hidden = network.layers[:-1](torch.ones(1)).detach()
    kept = hidden != 0
    assert abs(kept.float().mean() - 0.75) < 4 * (0.75 * 0.25 / 1000) ** 0.5
    torch.testing.assert_close(hidden[kept], (network.layers[0](torch.ones(1)) / 0.75)[kept])
