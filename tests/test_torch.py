"""What the library leans on in torch beyond its interface: a test of each, named as it is in ``_torch``."""

from __future__ import annotations

import importlib
import shutil
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import transforms as pyro_transforms
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import ComposeTransform, ExpTransform, IndependentTransform
from torch.nn.utils import parametrizations

from pyro_vae import _pyro, _torch


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_batch_norm(kind: type[nn.Module]) -> None:
    assert issubclass(kind, _torch.BatchNorm)
    assert not issubclass(nn.InstanceNorm2d, _torch.BatchNorm)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_convolution(kind: type[nn.Module]) -> None:
    assert issubclass(kind, _torch.Convolution)
    assert not issubclass(nn.Linear, _torch.Convolution)
    layer: Any = kind(2, 3, 1)
    assert layer.transposed == ("Transpose" in kind.__name__)


def test_weight_norm_gain() -> None:
    layer = parametrizations.weight_norm(nn.Linear(2, 3))
    gain = _torch.weight_norm_gain(layer)
    assert gain is not None
    torch.testing.assert_close(gain[:, 0], layer.weight.norm(dim=1))
    assert _torch.weight_norm_gain(nn.Linear(2, 3)) is None
    assert _torch.weight_norm_gain(parametrizations.spectral_norm(nn.Linear(2, 3))) is None


def test_uncompiled() -> None:
    module = nn.Linear(2, 3)
    with pyro.validation_enabled(True):  # which the first use of torch.compile switches off
        assert _torch.uncompiled(torch.compile(module)) is module
    assert _torch.uncompiled(module) is module


def test_memory() -> None:
    x = torch.zeros(2, 3)
    assert _torch.memory(x[1:].T) == _torch.memory(x) != _torch.memory(x.clone())
    empty = torch.zeros(0), torch.zeros(0)
    assert _torch.memory(empty[0]) != _torch.memory(empty[1])


def test_remember() -> None:
    def exactly(value: Tensor) -> Tensor:
        found = _torch.remembered(value)
        assert found is not None
        assert found[0] == "log"
        return found[1]

    z, exact = torch.rand(3, 4).T, torch.rand(4, 3)
    _torch.remember(z, "log", exact)
    for view in (lambda t: t, lambda t: t.detach(), lambda t: t[1:, None, 2], lambda t: t.T.flatten()[3:5]):
        assert torch.equal(exactly(view(z)), view(exact.T.contiguous().T))
    assert _torch.remembered(z.clone()) is None
    (graph,) = torch.vmap(lambda row: (_torch.remember(row, "log", row), row)[1:])(z)
    assert torch.equal(graph, z)
    z[0, 0] = 2
    assert _torch.remembered(z) is None
    with torch.inference_mode():
        z = torch.rand(3)
        _torch.remember(z, "log", z + 1)
        assert torch.equal(exactly(z[1:]), z[1:] + 1)


def test_lerp() -> None:
    tensors = [torch.zeros(2), torch.ones(3)]
    _torch.lerp_(tensors, [torch.ones(2), torch.full((3,), 5.0)], 0.25)
    assert [tensor.tolist() for tensor in tensors] == [[0.25] * 2, [2.0] * 3]


def test_standard_gamma() -> None:
    concentration = torch.full((2000,), 3.0, requires_grad=True)
    draws = _torch.standard_gamma(concentration)
    assert abs(draws.mean().item() - 3) < 5 * (3 / 2000) ** 0.5
    draws.sum().backward()
    assert concentration.grad is not None
    assert abs(concentration.grad.mean().item() - 1) < 0.1  # E[z] = concentration


def test_as_parameter() -> None:
    layer = PyroModule[nn.Linear](1, 1, bias=False)
    with poutine.trace(param_only=True) as recorded:
        torch.func.functional_call(layer, {"weight": _torch.as_parameter(torch.ones(1, 1))}, torch.ones(1))
    assert list(recorded.trace.nodes) == ["weight"]


def test_cpp_compilers() -> None:
    found = _torch.cpp_compilers()
    assert found
    assert all(isinstance(name, str) for name in found)


@pytest.mark.skipif(not any(map(shutil.which, _torch.cpp_compilers())), reason="inductor needs a C++ compiler")
def test_compiled_by_inductor() -> None:
    draw = _pyro.traced(lambda x: [torch.rand_like(x).exp()], [torch.zeros(3)])
    torch.manual_seed(0)
    (found,) = _torch.compiled_by_inductor(draw, [torch.zeros(3)])(torch.zeros(3))
    torch.manual_seed(0)
    torch.testing.assert_close(found, torch.rand(3).exp())


def test_the_last_pair_of_a_transform_is_its_cached_x_y() -> None:
    planar, x = pyro_transforms.Planar(2), torch.randn(3, 2)
    assert planar._cached_x_y == (None, None)
    y = planar(x)
    assert planar._cached_x_y[0] is x
    assert planar._cached_x_y[1] is y
    planar._cached_x_y = None, None
    assert planar(x) is not y


def test_parts_of_a_transform() -> None:
    exp, tanh = ExpTransform(), torch.distributions.TanhTransform()
    whole = ComposeTransform([IndependentTransform(exp, 1), tanh.inv])
    assert {id(part) for part in _torch.parts_of(whole)} >= {id(whole), id(whole.parts[0]), id(exp), id(tanh)}
    spline = pyro_transforms.spline_coupling(4)
    assert any(part is spline.lower_spline for part in _torch.parts_of(spline))


def test_a_forgetful_transform() -> None:
    spline, x = pyro_transforms.spline_coupling(4), torch.randn(3, 4)
    y = spline(x)
    before = [dict(vars(part)) for part in _torch.parts_of(spline)]
    with _torch.forgetful(spline):
        again = spline(x)
        assert again is not y
        assert spline(x) is again
        spline.log_abs_det_jacobian(x, again).sum().backward()
    assert spline(x) is y
    for part, attributes in zip(_torch.parts_of(spline), before, strict=True):
        assert vars(part).keys() == attributes.keys()
        assert all(vars(part)[name] is value for name, value in attributes.items())
    assert all(parameter.grad is not None for parameter in spline.parameters())


def test_factor() -> None:
    tril = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    normal = dist.MultivariateNormal(torch.zeros(2), scale_tril=tril)
    assert torch.equal(_torch.factor(normal), tril)
    assert _torch.factor(normal.expand((5, 4))).shape == (2, 2)


def test_writes() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    aten = torch.ops.aten
    assert not _torch.writes(aten.add.Tensor, (a, b), {})
    for operator, args, kwargs in (
        (aten.add_.Tensor, (a, b), {}),
        (aten.add.out, (b, b), {"out": a}),
        (aten._foreach_mul_.Scalar, ([a], 2.0), {}),
    ):
        (into,) = _torch.writes(operator, args, kwargs)
        assert into is a


def test_repeatable() -> None:
    aten = torch.ops.aten
    assert all(map(_torch.repeatable, (aten.add.Tensor, aten.zeros.default, aten.sort.default)))
    drawn = aten.bernoulli.default, aten.rand.default, aten.native_dropout.default, aten.multinomial.default
    assert not any(map(_torch.repeatable, (*drawn, aten.empty.memory_format, aten.new_empty.default)))


def test_without_modes() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not _torch.has_values(torch.zeros(2))
        with _torch.without_modes():
            assert _torch.has_values(torch.zeros(2))


@pytest.mark.parametrize("read", [Tensor.item, lambda z: z.numpy(), lambda z: z[z > 0], Tensor.tolist])
def test_depends_on_values(read: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises((RuntimeError, NotImplementedError), match=r"\S") as error:
        read(torch.zeros(2)[0] if read is Tensor.item else torch.zeros(2))
    assert _torch.depends_on_values(error.value)
    assert not _torch.depends_on_values(ValueError("of the program"))


def test_draws_read_in_python() -> None:
    x = torch.tensor([1.0, 2.0])
    with _torch.draws_read_in_python() as reads:
        torch.nn.functional.one_hot(x.long(), 3)
        assert x.max().item() == 2
        z = dist.Normal(x, 1.0).rsample()
        torch.nn.functional.one_hot((z > 0).long(), 3)
        (z + x).exp().sum()
        assert not reads
        if (z * x)[0] > 0:
            z.max().item()
        dist.Bernoulli(0.5).sample().item()
    assert len(reads) >= 2
    for read in (Tensor.tolist, torch.is_nonzero, "{:.1f}".format, lambda z: torch.allclose(z, 1 + z)):
        with _torch.draws_read_in_python() as reads:
            read(dist.Bernoulli(0.5).sample())
        assert reads, read


def test_draws_are_read_without_the_compiler() -> None:
    """Which torch imports, for a second or more, where it wraps the mode that looks."""
    assert not hasattr(_torch._Reads.__torch_dispatch__, "__wrapped__")
    net = torch.compile(nn.Linear(2, 1), backend="eager")
    with _torch.draws_read_in_python() as reads:
        assert net(torch.randn(3, 2)).shape == (3, 1)
        assert not reads
        net(torch.randn(3, 2)).sum().item()
    assert reads


def test_is_hooked() -> None:
    def made() -> torch.optim.Optimizer:
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))])

    assert not _torch.is_hooked(made())
    scheduled = made()
    torch.optim.lr_scheduler.StepLR(scheduled, 1)
    assert not _torch.is_hooked(scheduled)
    for listen in ("register_step_pre_hook", "register_step_post_hook"):
        optimizer = made()
        getattr(optimizer, listen)(lambda *given: None)
        assert _torch.is_hooked(optimizer)
        of_all = importlib.import_module("torch.optim.optimizer")
        handle = getattr(of_all, listen.replace("register", "register_optimizer"))(lambda *given: None)
        assert _torch.is_hooked(made())
        handle.remove()
    changed = made()
    changed.step = lambda closure=None: None  # type: ignore[method-assign, assignment]
    assert _torch.is_hooked(changed)


def test_note_stepped() -> None:
    for noted in (False, True):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        if noted:
            _torch.note_stepped(optimizer)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            scheduler.step()
        assert len(told) == (not noted)
