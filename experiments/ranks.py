"""Two processes of one thread each beside one process of one thread: training at batch 1,024, and evaluation.

To reach: at least 1.8 times as fast, on two quiet cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shared import adam, options, store, table
from torch import distributed

import pyro_vae as pv
from pyro_vae.data import load

FLAG = "--as-rank"


def work(arguments: Any) -> dict[str, float]:
    """Images a second of training, the fastest of some epochs, and draws a second of importance sampling."""
    torch.set_num_threads(1)
    data = load("mnist", arguments.root, binarization="dynamic").train
    torch.manual_seed(arguments.seed)
    pair = pv.models.MLPVAE((1, 28, 28), 20, (400,))
    run = pv.fit(pair, data, epochs=5, batch_size=1024, optimizer=adam(1e-3), seed=arguments.seed, progress=False)
    (x,) = data.batch(slice(2000))
    pv.evidence.importance(pair, x[:200], 500)  # which traces
    started = time.perf_counter()
    pv.evidence.importance(pair, x, 500)
    seconds = time.perf_counter() - started
    return {
        "training": max(entry["data_per_second"] for entry in run.history),
        "evaluation": len(x) * 500 / seconds,
    }


def started(ranks: int, words: list[str], folder: Path) -> dict[str, float]:
    """What so many processes reach together."""
    out = folder / "told.json"
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOLD": str(out)}
    subprocess.run([sys.executable, *launch, __file__, FLAG, *words], env=environment, check=True)
    return json.loads(out.read_text())


def main() -> None:
    words = [word for word in sys.argv[1:] if word != FLAG]
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="one process and two, in turns")
    arguments = parser.parse_args(words)
    if FLAG in sys.argv:
        several = "RANK" in os.environ
        if several:
            distributed.init_process_group("gloo")
        found = work(arguments)
        if int(os.environ.get("RANK", "0")) == 0:
            Path(os.environ["TOLD"]).write_text(json.dumps(found))
        if several:
            distributed.destroy_process_group()
        return
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for ranks in (1, 2):
                for name, rate in started(ranks, words, Path(folder)).items():
                    found.setdefault(f"{name}, {ranks}", []).append(rate)
    times = {n: statistics.median(b / a for a, b in zip(found[f"{n}, 1"], found[f"{n}, 2"], strict=True))
             for n in ("training", "evaluation")}  # fmt: skip
    rates = {name: [f"{statistics.median(found[f'{name}, {ranks}']):,.0f}" for ranks in (1, 2)] for name in times}
    rows = [(name, *rates[name], f"{times[name]:.2f}", "1.8") for name in times]
    print(table(("a second", "one process", "two ranks", "times", "to reach"), rows))
    store(arguments.results / "ranks.json", {"experiment": "ranks", "rates": found, "times": times})


if __name__ == "__main__":
    main()
