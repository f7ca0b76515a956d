"""What :mod:`test_ranks` starts by torchrun, or calls: trainings without noise in float64."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, distributed, nn

import pyro_vae as pv


class Mixture(nn.Module):
    """Of four normals, whose components are summed out."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.locs = nn.Linear(3, 4), nn.Embedding(4, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(4, dtype=x.dtype) / 4))
            pyro.sample("x", dist.Normal(self.locs(z.long()), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Categorical(logits=self.logits(x)))


def main(trainings: list[dict]) -> None:
    """One after the other; ``to`` is where each tells what came of it, and the rest goes to ``fit``."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    rank = int(os.environ.get("RANK", "0"))
    for asked in trainings:
        train(rank, **asked)
    if "RANK" in os.environ:
        distributed.destroy_process_group()
        check_ended()


def check_ended() -> None:
    """That no thread of the group is left, which could abort the process at its end."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
    assert not [name for name in names if "gloo" in name], names


def train(rank: int, to: str, apart: float = 0.0, **asked: Any) -> None:
    torch.manual_seed(rank)  # the weights of the first go for all
    pair = Mixture().double()
    x = torch.randn(101, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + rank * apart
    run = pv.fit(
        pair, (x, x[:20]), estimator=pv.Enumeration(), batch_size=25, clip_norm=1.0, compile="eager", resume=True,
        progress=False, **asked,
    )  # fmt: skip
    evidence = pv.evidence.importance(pair, x[:11], num_samples=2000, compile="eager")
    history = [entry[key] for entry in run.history for key in ("train", "loss", "valid", "samples")]
    told = {"weights": dict(pair.state_dict()), "history": history, "evidence": evidence.log_prob}
    torch.save(told, f"{to}.{rank}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
