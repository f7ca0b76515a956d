"""Makes small run folders of this version: ``python tests/runs/released/make.py VERSION``, once for each release.

Later versions have to open them, and find the bounds in ``bounds.json``: ``tests/runs/test_load.py``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae import cli

sys.path.insert(0, str(Path(__file__).parent))
from own import own

HERE = Path(__file__).resolve().parent


def data(kind: str) -> Tensor:
    """``[40, 4]``."""
    uniform = torch.rand(40, 4, generator=torch.Generator().manual_seed(1))
    return {"bits": (uniform > 0.5).float(), "counts": (9 * uniform).floor(), "reals": 3 * uniform - 1}[kind]


KINDS = {"command": "counts", "fit": "bits", "own": "reals"}  # of data, by folder


def bound(pair: Any, name: str) -> float:
    """The bound of the data that the pair of a folder was trained on, by a seed."""
    torch.manual_seed(0)
    return pv.SGVB_A().bound(pair, data(KINDS[name])).mean().item()


def command(out: Path) -> None:
    """A run of the command line on a file that is not kept."""
    np.save("counts.npy", data("counts").numpy())
    small = "--model.latent_dim 2 --model.hidden [8] --epochs 3 --batch-size 8 --compile eager --progress false"
    assert cli.main(["train", "--data", "counts.npy", "--out", str(out), *small.split()]) == 0


def fit(out: Path) -> None:
    """A run of the library's parts, of classes in ``partial``, a flow, torch's layers and a prior of the posterior."""
    torch.manual_seed(0)
    steps = [pv.transforms.Planar(2, None), pv.transforms.SplineCoupling(2, None, hidden=(4,), num_bins=3)]
    base = pv.DiagonalNormal(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.Unflatten(-1, (2, 2))))
    posterior = pv.posteriors.Flow(base, steps)
    likelihood = pv.likelihoods.Bernoulli(pv.MLP(2, 4, hidden=(6,)))
    pair = pv.VAE(pv.priors.VampPrior(posterior, (4,), num_components=3), posterior, likelihood)
    options: dict[str, Any] = {"compile": "eager", "progress": False, "average": 0.9}
    optimizer = functools.partial(torch.optim.Adam, lr=1e-2)
    pv.fit(pair, data("bits"), epochs=3, batch_size=8, optimizer=optimizer, out=out, **options)


def of_own(out: Path) -> None:
    """A run of a pair that only its maker can build."""
    pv.fit(own(), data("reals"), epochs=3, batch_size=8, out=out, compile="eager", progress=False)


def main(version: str) -> None:
    target, bounds = HERE / version, {}
    for name, make in {"command": command, "fit": fit, "own": of_own}.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # so that no path of this machine is kept
            make(Path(name))
            run = pv.load(name, pair=own(1) if name == "own" else None)
            bounds[name] = bound(run.pair, name)
            os.chdir(HERE)
            keep = shutil.ignore_patterns("figures", "tensorboard", ".lock", "previous*", "run.md")
            shutil.copytree(Path(folder, name), target / name, ignore=keep, dirs_exist_ok=True)
    (target / "bounds.json").write_text(json.dumps(bounds, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
