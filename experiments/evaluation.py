"""Time and memory of evaluating log p(x): all 10,000 MNIST test images, 5,000 importance samples each.

The pair is the one-layer VAE of the IWAE table (784-200-200-50), as ``iwae_table.py`` trained it, or untrained where
that has not run. To reach: 6 minutes on two cores, in less than 2 GiB of memory for the whole process.
"""

from __future__ import annotations

import resource
import time

import torch
from iwae_table import folder_of, make
from shared import options, store, table

from pyro_vae import evidence
from pyro_vae.compiled import resolved
from pyro_vae.data import load
from pyro_vae.training import checkpoint


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    arguments = parser.parse_args()
    data = load("mnist", arguments.root, binarization="dynamic")
    torch.manual_seed(arguments.seed)
    pair = make(1, data.event_shape, data.train.mean())
    folder = folder_of(1, "VAE", 1, "quick", arguments) / "checkpoint"
    trained = checkpoint.exists(folder)
    if trained:
        tensors, _ = checkpoint.load(folder)
        checkpoint.load_weights(pair, tensors)
    (x,) = data.test.batch(slice(None))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.perf_counter()
    result = evidence.importance(pair, x, 5000, precision=arguments.precision, progress=True, seed=arguments.seed)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {
        "experiment": "evaluation",
        "trained": trained,
        "precision": resolved(arguments.precision, x.device),
        "data": len(x),
        "num_samples": 5000,
        "seconds": seconds,
        "microseconds_per_draw": 1e6 * seconds / (len(x) * 5000),
        "peak_memory_GiB": peak / 2**30,
        "memory_before_GiB": before / 2**30,
        "nll": result.nll,
    }
    rows = [("minutes", f"{seconds / 60:.2f}", "at most 6"), ("peak memory, GiB", f"{peak / 2**30:.2f}", "below 2")]
    rows += [("  of which Python, torch, data", f"{before / 2**30:.2f}", "-"), ("NLL, nats", f"{result.nll:.2f}", "-")]
    print(table((f"in {found['precision']}", "measured", "to reach"), rows))
    store(arguments.results / f"evaluation_{found['precision']}.json", found)


if __name__ == "__main__":
    main()
