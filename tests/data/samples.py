"""What the tests of the data share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

ROOT = os.environ.get("PYRO_VAE_DATA")
LIMIT = "pyro_vae.data.arrays.IN_MEMORY_LIMIT"


def needs(path):
    there = ROOT is not None and (Path(ROOT) / path).exists()
    return pytest.mark.skipif(not there, reason=f"needs {path} in the folder that PYRO_VAE_DATA names")


def gray(n=20, shape=(1, 4, 5), seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def parts_of(found):
    return [s for s in (found.train, found.valid, found.test) if s is not None]


def everything(found):
    return torch.cat([s.tensors[0] for s in parts_of(found)])


class Rows(IterableDataset):
    """Rows without a length."""

    def __iter__(self):
        return iter(gray(10))


class Mapped(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]
