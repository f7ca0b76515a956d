"""Small synthetic data, from a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def _noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 20, side: int = 4) -> Tensor:
    """Gray images ``[N, side, side]`` in [0, 1]."""
    return torch.rand(count, side, side, generator=_noise())


def binary_images(count: int = 20, side: int = 4) -> Tensor:
    """Images ``[N, side, side]`` of 0 and 1."""
    return (images(count, side) > 0.5).float()


def one_hot_labels(count: int = 20, classes: int = 3) -> Tensor:
    """``[N, classes]``."""
    return torch.eye(classes)[torch.randint(classes, (count,), generator=_noise(1))]


def sequences(count: int = 12, steps: int = 5, features: int = 6) -> tuple[Tensor, Tensor]:
    """Binary sequences ``[N, T, F]``, zero behind their ends, and their lengths ``[N]`` in falling order."""
    noise = _noise(2)
    lengths = torch.randint(2, steps + 1, (count,), generator=noise).sort(descending=True).values
    lengths[0] = steps
    values = torch.rand(count, steps, features, generator=noise) < 0.4
    return (values & (torch.arange(steps) < lengths[:, None])[..., None]).float(), lengths


def counts(count: int = 20, features: int = 10) -> Tensor:
    """``[N, F]``, whole numbers as floats."""
    return torch.poisson(torch.rand(count, features, generator=_noise(3)) * 4 + 0.1, generator=_noise(4))


def points(count: int = 30, features: int = 3) -> tuple[Tensor, Tensor]:
    """Covariates ``[N, F]`` and responses ``[N]`` of a linear law."""
    noise = _noise(5)
    x = torch.randn(count, features, generator=noise)
    return x, x @ torch.arange(1.0, features + 1) + 0.1 * torch.randn(count, generator=noise)
