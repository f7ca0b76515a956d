"""What is private in torch and Pyro: a test by name of each thing that we lean on."""

from __future__ import annotations

import torch
from pyro.distributions import transforms as pyro_transforms
from torch.distributions import ComposeTransform, ExpTransform, IndependentTransform

from pyro_vae import _pyro


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
    assert {id(part) for part in _pyro.parts_of(whole)} >= {id(whole), id(whole.parts[0]), id(exp), id(tanh)}
    spline = pyro_transforms.spline_coupling(4)
    assert any(part is spline.lower_spline for part in _pyro.parts_of(spline))


def test_a_forgetful_transform() -> None:
    spline, x = pyro_transforms.spline_coupling(4), torch.randn(3, 4)
    y = spline(x)
    before = [dict(vars(part)) for part in _pyro.parts_of(spline)]
    with _pyro.forgetful(spline):
        again = spline(x)
        assert again is not y
        assert spline(x) is again
        spline.log_abs_det_jacobian(x, again).sum().backward()
    assert spline(x) is y
    for part, attributes in zip(_pyro.parts_of(spline), before, strict=True):
        assert vars(part).keys() == attributes.keys()
        assert all(vars(part)[name] is value for name, value in attributes.items())
    assert all(parameter.grad is not None for parameter in spline.parameters())
