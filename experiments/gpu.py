"""A training step on a GPU: its time, what of it waits for the GPU, whether it is one CUDA graph, and its memory.

Each pair trains on random binary pixels, in the place, by Adam in float32:
  784-400-20     batches of 128 and 1,024
  IWAE(50)       784-200-200-50, batches of 128
  ladder         five levels with batch norm, batches of 128
  NVAE           the paper's size for MNIST, batches of 32

Told of each, traced and compiled by inductor: milliseconds a step, of so many steps after each other without waiting;
how many calls of a step wait for the GPU (torch.cuda.set_sync_debug_mode), so that none does is what is aimed at; and
the most memory that was allocated. Of the first also the time of the same step captured once as a CUDA graph and
replayed. --device cpu tells the times alone: a smoke test of the script.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvae
import torch
from benchmark import stepped
from shared import RESULTS, store, table
from torch import nn

from pyro_vae import IWAE, SGVB_B
from pyro_vae.estimators import Estimator
from pyro_vae.models import MLPVAE, NVAE, LadderVAE

IMAGE = (1, 28, 28)
# name -> pair, estimator, batch size
SYSTEMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Estimator], int]] = {
    "784-400-20": (lambda: MLPVAE(IMAGE, 20, (400,), activation=nn.ReLU), SGVB_B, 128),
    "784-400-20, large batch": (lambda: MLPVAE(IMAGE, 20, (400,), activation=nn.ReLU), SGVB_B, 1024),
    "IWAE(50)": (lambda: MLPVAE(IMAGE, 50, (200, 200), activation=nn.Tanh), lambda: IWAE(50), 128),
    "ladder": (lambda: LadderVAE(IMAGE), SGVB_B, 128),
    "NVAE": (lambda: NVAE(IMAGE, **nvae.SIZES["full"].nvae["mnist"]), SGVB_B, 32),
}
REPLAYED = "784-400-20"


def step_of(name: str, mode: Any, device: torch.device) -> Callable[[], torch.Tensor]:
    """One training step of a system on a batch that stays where it is."""
    make, estimator, size = SYSTEMS[name]
    torch.manual_seed(0)
    pair, x = make().to(device), (torch.rand(size, *IMAGE, device=device) < 0.3).float()
    return stepped(pair, x, mode, estimator())


def waited(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(run: Callable[[], Any], device: torch.device, steps: int) -> float:
    waited(device)
    started = time.perf_counter()
    for _ in range(steps):
        run()
    waited(device)
    return (time.perf_counter() - started) / steps * 1e3


def waits(run: Callable[[], Any]) -> int:
    """How many calls of a step wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)


def replayed(step: Callable[[], Any], device: torch.device, steps: int) -> float | str:
    """Milliseconds of the step as a CUDA graph, or why it is none."""
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return milliseconds(graph.replay, device, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200, help="that are timed")
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--mode", nargs="+", choices=("traced", "inductor"), default=["traced", "inductor"])
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu tries the script")
    found: list[dict[str, Any]] = []
    for name, mode in itertools.product(arguments.system, arguments.mode):
        started = time.perf_counter()
        step = step_of(name, mode, device)
        for _ in range(5):
            step()
        row: dict[str, Any] = {"system": name, "mode": mode, "seconds_until_warm": time.perf_counter() - started}
        row["ms"] = milliseconds(step, device, arguments.steps)
        if device.type == "cuda":
            row["waits"] = waits(step)
            torch.cuda.reset_peak_memory_stats(device)
            step()
            row["mebibytes"] = torch.cuda.max_memory_allocated(device) / 2**20
            if name == REPLAYED:
                row["replayed"] = replayed(step, device, arguments.steps)
        found.append(row)
        print(row, flush=True)
    columns = ("system", "mode", "ms", "waits", "mebibytes", "replayed")
    cells = [[f"{v:.3f}" if isinstance(v := row.get(key), float) else v for key in columns] for row in found]
    print(table(columns, cells))
    if device.type == "cuda":
        store(arguments.json, {"experiment": "gpu", "gpu": torch.cuda.get_device_name(device), "results": found})


if __name__ == "__main__":
    main()
