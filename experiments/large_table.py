"""A table that is larger than memory: 10 million rows of 500 numbers, 20 GB, reduced to 8 beside incremental PCA.

The table is made here, of 8 numbers a row that are bent and mixed, with noise, and removed at the end. Shown are the
resident memory of a training on it, its speed beside the same rows in memory, that an interrupted one ends with the
same bits, and the share of the variance of held-out rows that 8 numbers keep. To reach: below 2 GiB, at least 0.9 times
the speed in memory, the same bits.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import adam, options, store, table
from sklearn.decomposition import IncrementalPCA

import pyro_vae as pv
from pyro_vae.data import Data, Split, load

COLUMNS, LATENT, AT_ONCE = 500, 8, 100_000


def make(path: Path, rows: int, seed: int) -> float:
    """Writes the table, some rows at a time; returns the largest share of variance that is not noise."""
    random = np.random.default_rng(seed)
    bend = random.normal(size=(LATENT, 64)).astype(np.float32) / 4
    mix = random.normal(size=(64, COLUMNS)).astype(np.float32) / 8
    kept, total = 0.0, 0.0
    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, COLUMNS))
    for start in range(0, rows, AT_ONCE):
        count = min(AT_ONCE, rows - start)
        signal = np.sin(random.normal(size=(count, LATENT)).astype(np.float32) @ bend) @ mix
        x = signal + 0.5 * random.standard_normal((count, COLUMNS), np.float32)
        kept, total = kept + float(signal.var(0).sum()), total + float(x.var(0).sum())
        file[start : start + count] = x
        if start % (10 * AT_ONCE) == 0:  # what was written shall not stay in memory
            file.flush()
            del file
            file = np.lib.format.open_memmap(path, "r+")
    file.flush()
    return kept / total


def peak() -> float:
    """The largest resident memory of this process so far, GiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def pair(seed: int) -> pv.VAE:
    torch.manual_seed(seed)
    likelihood = functools.partial(pv.likelihoods.Normal, scale="shared", sigmoid_mean=False)
    return pv.models.MLPVAE((COLUMNS,), LATENT, (256,), likelihood=likelihood)


def spread(split: Split, count: int, seed: int) -> Split:
    """Rows from everywhere in the file, which are read from there."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    return split.at(chosen, "some")


def fitted(data: Any, arguments: argparse.Namespace, **settings: Any) -> pv.Run:
    found = {"epochs": 1, "batch_size": 1024, "optimizer": adam(1e-3), **settings}
    return pv.fit(pair(arguments.seed), data, seed=arguments.seed, progress=False, **found)


def speeds(data: Data, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of training, from the file and from memory, in turns."""
    some = spread(data.train, arguments.some, arguments.seed)
    held = some.take(arguments.some)
    found: dict[str, list[float]] = {"file": [], "memory": []}
    for _ in range(arguments.rounds):
        for name, part in (("file", some), ("memory", held)):
            run = fitted(part, arguments, epochs=3)
            found[name].append(max(entry["data_per_second"] for entry in run.history))
    ratios = [a / b for a, b in zip(found["file"], found["memory"], strict=True)]
    return {"rows_per_second": found, "ratio": statistics.median(ratios)}


def resumed(data: Data, arguments: argparse.Namespace, folder: Path) -> bool:
    """Whether a training that was interrupted after one of two epochs ends with the bits of one that was not."""
    some = spread(data.train, arguments.some // 4, arguments.seed + 1)
    whole = fitted(some, arguments, epochs=2)
    for epochs in (1, 2):
        run = fitted(some, arguments, epochs=epochs, out=folder / "resumed", resume=True)
    return all(map(torch.equal, whole.pair.state_dict().values(), run.pair.state_dict().values()))


def share_kept(x: torch.Tensor, means: torch.Tensor) -> float:
    return 1 - float(((x - means) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--some", type=int, default=200_000, help="rows of which the speed is measured")
    parser.add_argument("--rounds", type=int, default=3, help="trainings from the file and from memory, in turns")
    parser.add_argument("--folder", type=Path, default=None, help="where there is room for the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        folder = Path(place)
        started = time.perf_counter()
        most = make(folder / "table.npy", arguments.rows, arguments.seed)
        made = time.perf_counter() - started
        size = (folder / "table.npy").stat().st_size / 1e9
        data = load(folder / "table.npy", in_memory=False, valid_size=1000, test_size=10_000)
        (x,) = data.test.take(10_000).batch(slice(None))

        Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is that of the training
        started = time.perf_counter()
        run = fitted(data, arguments)
        seconds, memory = time.perf_counter() - started, peak()
        ours = share_kept(x, pv.diagnostics.reconstruct(run.pair, x))

        speed = speeds(data, arguments)
        same = resumed(data, arguments, folder)

        started = time.perf_counter()
        pca = IncrementalPCA(LATENT)
        for (batch,) in data.train.batches(10 * 1024):
            if len(batch) >= LATENT:
                pca.partial_fit(batch.numpy())
        pca_seconds = time.perf_counter() - started
        theirs = share_kept(x, torch.as_tensor(pca.inverse_transform(pca.transform(x.numpy())), dtype=x.dtype))

    rows = [
        ("table, GB", f"{size:.1f}", "20"),
        ("resident memory of the training, GiB", f"{memory:.2f}", "below 2"),
        ("speed, of that in memory", f"{speed['ratio']:.2f}", "at least 0.9"),
        ("the same bits after an interruption", str(same), "True"),
        (
            f"variance of held-out rows that {LATENT} numbers keep: the VAE, one pass",
            f"{ours:.3f}",
            f"{most:.3f} at most",
        ),
        ("  incremental PCA, one pass", f"{theirs:.3f}", "-"),
        ("seconds: making / the VAE / PCA", f"{made:.0f} / {seconds:.0f} / {pca_seconds:.0f}", "-"),
    ]
    print(table(("", "measured", "to reach"), rows))
    result = {"experiment": "large_table", "rows": arguments.rows, "gigabytes": size, "memory_GiB": memory, **speed}
    result |= {"same_bits": same, "kept": {"vae": ours, "pca": theirs, "most": most}}
    result |= {"seconds": {"make": made, "vae": seconds, "pca": pca_seconds}}
    store(arguments.results / "large_table.json", result)


if __name__ == "__main__":
    main()
