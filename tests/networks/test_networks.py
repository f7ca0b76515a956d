"""Networks: their shapes for any leading dimensions, what they do datum by datum, and their messages."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registry import MAPS, NETWORKS
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
    UNet,
    at_least_float32,
    data_dependent_init,
    normal_init,
    stacked,
)

every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)

leading = st.lists(st.integers(1, 3), max_size=3).map(tuple)
event = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
image = st.tuples(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11))
channels = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
law = settings(max_examples=25, deadline=None)


def keeps_leading_dimensions(network: nn.Module, leading: tuple[int, ...]) -> None:
    """Each datum is mapped as it would be alone, wherever it stands."""
    x = torch.randn(*leading, *network.in_shape)
    y, out_shape = network(x), tuple(network.out_shape)
    assert y.shape == (*leading, *out_shape)
    alone = torch.stack([network(row) for row in x.reshape(-1, *network.in_shape)])
    torch.testing.assert_close(y.reshape(-1, *out_shape), alone, rtol=1e-4, atol=1e-5)


@law
@given(leading, event, event, st.lists(st.integers(1, 5), max_size=2))
def test_mlp_keeps_leading_dimensions(leading: Any, in_shape: Any, out_shape: Any, hidden: Any) -> None:
    keeps_leading_dimensions(MLP(in_shape, out_shape, hidden), leading)


@pytest.mark.parametrize("cls", [ConvEncoder, ResidualEncoder])
@law
@given(leading, image, event, channels)
def test_encoders_take_any_image(cls: Any, leading: Any, in_shape: Any, out_shape: Any, channels: Any) -> None:
    keeps_leading_dimensions(cls(in_shape, out_shape, channels, hidden=4), leading)


@pytest.mark.parametrize("cls", [ConvDecoder, ResidualDecoder])
@law
@given(leading, st.integers(1, 4), st.sampled_from([(), (2,)]), image, channels)
def test_decoders_give_any_image(cls: Any, leading: Any, size: int, stacked: Any, image: Any, channels: Any) -> None:
    keeps_leading_dimensions(cls(size, (*stacked, *image), channels, hidden=4), leading)


class TestLaws:
    """What every network does, under every normalization."""

    @pytest.fixture(autouse=True, params=NETWORKS)
    def _network(self, request: Any) -> None:
        self.of = NETWORKS[request.param]

    @pytest.fixture(autouse=True, params=[None, "batch", "layer", "weight"], ids=str)
    def _normalization(self, request: Any) -> None:
        self.normalization = request.param

    def make(self, **options: Any) -> Any:
        return self.of(normalization=self.normalization, **options)

    def test_leading_dimensions(self) -> None:
        network = self.make()
        assert isinstance(network, Network)
        network(torch.randn(50, *network.in_shape))  # running statistics that are not 0 and 1
        for leading in ((), (5,), (2, 5)):
            keeps_leading_dimensions(network.eval(), leading)
            if leading:
                assert network.train()(torch.randn(*leading, *network.in_shape)).shape == (*leading, *network.out_shape)

    def test_no_activation_or_normalization_on_the_output(self) -> None:
        network = self.make(activation=nn.ReLU).eval()
        with torch.no_grad():
            network.layers[-1].bias.sub_(100)
        assert network(torch.randn(50, *network.in_shape)).max() < -50  # which no ReLU gives, nor a batch of mean 0

    def test_every_parameter_has_a_gradient(self) -> None:
        network = self.make(activation=nn.Tanh)
        y = network(torch.randn(9, *network.in_shape))
        (y * torch.randn_like(y)).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-4, name  # a bias in front of a batch norm would have rounding alone

    def test_state_and_types(self) -> None:
        network, other = self.make(), self.make()
        x = torch.randn(50, *network.in_shape)
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        torch.testing.assert_close(y.float(), network(x), rtol=0.05, atol=0.05)
        assert not torch.equal(network.eval()(x), other.eval()(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(network(x), other(x))
        assert network.double()(x.double()).dtype == torch.float64

    def test_normal_init_draws_the_weights_themselves(self) -> None:
        network = normal_init(self.make(), 0.3, torch.Generator().manual_seed(0))
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
        again = normal_init(self.make(), 0.3, torch.Generator().manual_seed(0))
        for (name, value), other in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(value, other), name


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
        (lambda: ResidualMLP(2, 2, ()), "hidden has to hold sizes of at least 1"),
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


@every_network
def test_normalizations_that_there_are(make: Any) -> None:
    with pytest.raises(ValueError, match="normalization is one of 'batch', 'weight', 'layer', None; got 'instance'"):
        make(normalization="instance")


def test_sizes_of_numpy_are_sizes() -> None:
    assert MLP(np.int64(3), np.array([2, 4]))(torch.zeros(5, 3)).shape == (5, 2, 4)


def test_an_input_of_no_values() -> None:
    x = torch.zeros(5, 4, device="meta")
    for network in (MLP(4, 3), Centered(MLP(4, 3), torch.zeros(4)), Centered(nn.Identity(), torch.zeros(4))):
        with pytest.raises(ValueError, match="on the meta device"):
            network(x)
        assert network.to("meta")(x).is_meta


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


@pytest.mark.parametrize("init", [normal_init, lambda module: data_dependent_init(module, torch.ones(2, 3))])
def test_what_is_no_module_has_no_weights_to_start(init: Any) -> None:
    with pytest.raises(TypeError, match="module has to be a torch module; got <"):
        init(torch.tanh)


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


@every_network
@pytest.mark.parametrize("normalization", ["batch", "weight"])
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


# Defaults stay what they were: the same layers, drawn in the same order


def test_default_mlp_is_its_layers() -> None:
    torch.manual_seed(0)
    network = MLP((2, 3), (2, 4), (6, 5))
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 8))
    same_as(network, layers, torch.randn(7, 2, 3), torch.Size((7, 6)))


def test_default_conv_encoder_is_its_layers() -> None:
    torch.manual_seed(0)
    network = ConvEncoder(MAPS, (2, 4), (3, 4), 6)
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1),
        nn.SiLU(),
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.SiLU(),
        nn.Linear(6, 8),
    )
    same_as(network, layers, torch.randn(7, *MAPS), torch.Size((7, *MAPS)))


def test_default_conv_decoder_is_its_layers() -> None:
    torch.manual_seed(0)
    network = ConvDecoder(4, (2, *MAPS), (4, 3), 6)
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(4, 6),
        nn.SiLU(),
        nn.Linear(6, 16),
        nn.SiLU(),
        nn.Unflatten(-1, (4, 2, 2)),
        nn.ConvTranspose2d(4, 3, 3, 2, 1, (0, 1)),
        nn.SiLU(),
        nn.ConvTranspose2d(3, 4, 3, 2, 1, (0, 0)),
    )
    same_as(network, layers, torch.randn(7, 4), torch.Size((7, 4)))


def same_as(network: Any, layers: nn.Module, x: Tensor, shape: torch.Size) -> None:
    expected = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    assert list(network.state_dict()) == list(expected)
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(network(x), layers(x.reshape(shape)).reshape(-1, *network.out_shape))


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
    network = ConvEncoder(MAPS, 4, (3,), None, nn.Identity, gated=True)
    w, v = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    x = torch.randn(6, *MAPS)
    torch.testing.assert_close(network(x), network.layers[-1]((w(x) * v(x).sigmoid()).flatten(1)))
    decoder = ConvDecoder(4, MAPS, (3,), 5, nn.Tanh, gated=True)
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
    network = ResidualEncoder(MAPS, 4, (3,), None)
    stem, block = network.layers[:2]
    assert isinstance(block, Residual)
    _, halving, _, second = block.branch
    assert (halving.stride, second.stride, block.shortcut.kernel_size) == ((2, 2), (1, 1), (1, 1))
    x = torch.randn(6, *MAPS)
    h = stem(x)
    assert h.shape == (6, 3, *MAPS[1:])
    h = h[:, :, ::2, ::2].movedim(1, -1) @ block.shortcut.weight[:, :, 0, 0].T + block.shortcut.bias
    h = h.movedim(-1, 1) + second(nn.functional.elu(halving(nn.functional.elu(stem(x)))))
    torch.testing.assert_close(network(x), network.layers[-1](nn.functional.elu(h).flatten(1)))


def test_residual_decoder_by_hand() -> None:
    network = ResidualDecoder(4, MAPS, (3,), None)
    z, elu = torch.randn(6, 4), nn.functional.elu
    h = elu(network.layers[0](z)).unflatten(-1, (3, 3, 4))
    (block,) = (layer for layer in network.layers if isinstance(layer, Residual))
    _, doubling, _, second = block.branch
    repeated = block.shortcut[0](h).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :5, :7]
    h = repeated + second(elu(doubling(elu(h))))
    torch.testing.assert_close(network(z), network.layers[-1](elu(h)))


# Weight normalization


@every_network
def test_weights_are_gain_times_direction(make: Any) -> None:
    """And start as those of the plain network."""
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    network, x, count = make(normalization="weight"), torch.randn(3, *plain.in_shape), 0
    torch.testing.assert_close(network(x), plain(x))
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
    network, x = ConvEncoder(MAPS, 4, (3,), None, nn.Tanh, "layer"), torch.randn(6, *MAPS)
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


@every_network
def test_a_network_tells_its_shapes_on_the_meta_device(make: Any) -> None:
    network = make()
    x = torch.randn(3, *network.in_shape)
    expected = network.eval()(x).shape
    assert network.to("meta")(x.to("meta")).shape == expected


def test_a_unet_keeps_height_and_width() -> None:
    """Of any sizes; a pixel of the output follows its own place most, and by way of the small sizes also far ones."""
    network = UNet((1, 15, 13), (2, 3, 15, 13), (8, 8, 8))
    x = torch.randn(16, 1, 15, 13, requires_grad=True)
    network(x)[:, 0, 0, 7, 6].sum().backward()
    assert x.grad is not None
    slope = x.grad.abs().mean((0, 1))
    assert slope[6:9, 5:8].mean() > 3 * slope.mean() > 0
    assert slope[1, 1] > 0
    with pytest.raises(ValueError, match=r"of the height and width of its images, \(7, 5\); got out_shape \(2, 7, 6\)"):
        UNet((1, 7, 5), (2, 7, 6))
