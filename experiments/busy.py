"""A training beside another busy process, under the settings of threads that are said to help, and without it.

The steps of a training wait for each other's threads at barriers. While all cores are free they spin, which is
fastest; where another process takes a core, a thread that spins waits for one that does not run. Each setting trains
the handwritten digits by `pyro-vae train` in a process of its own, twice: on a quiet machine, and beside one process
that computes all the time. Told are the seconds of the training steps, without those of starting.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from shared import options, store, table

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
OTHER = "while True: pass"


def seconds(setting: dict[str, str], epochs: int, busy: bool, limit: float) -> float | None:
    """Of the steps of one training; ``None`` where it does not end within the limit."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    other = subprocess.Popen([sys.executable, "-c", OTHER]) if busy else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pyro_vae", "train", "--data", "digits", "--compile", "traced"]
            command += ["--epochs", str(epochs), "--out", f"{folder}/run"]
            subprocess.run(command, env={**clean, **setting}, check=True, capture_output=True, timeout=limit)
            lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            return float(json.loads(lines[-1])["seconds"])
    except subprocess.TimeoutExpired:
        return None
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    parser = options(__doc__, smoke=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    epochs, limit = (2, 60.0) if arguments.size == "quick" else (40, 90.0)
    found: dict[str, dict[str, list[float | None]]] = {name: {"quiet": [], "busy": []} for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, setting in SETTINGS.items():
            for place, times in found[name].items():
                times.append(seconds(setting, epochs, place == "busy", limit))
                print(name, place, times[-1], flush=True)

    def median(times: list[float | None]) -> str:
        return f"{statistics.median(value if value is not None else limit for value in times):.1f}"

    rows = [(name, median(times["quiet"]), median(times["busy"])) for name, times in found.items()]
    print(table(("setting", "quiet, s", "beside a busy process, s"), rows))
    result = {"experiment": "busy", "epochs": epochs, "limit": limit, "seconds": found}
    store(
        arguments.results / "busy.json" if arguments.size == "full" else arguments.results / "busy_quick.json", result
    )


if __name__ == "__main__":
    main()
