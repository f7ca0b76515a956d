"""The applications of pyro_vae.applications on MNIST, each beside its baselines.

  restore   denoising, inpainting and super-resolution by inference of z in a trained pair, beside filters and
            interpolations: mean square error and PSNR
  reduce    codes of the same pair beside principal components: nearest neighbors, trustworthiness, continuity
  anomaly   a class held out of training: AUROC of the ELBO, of log p(x), of a likelihood ratio (Ren et al. 2019) and of
            log p(x) corrected for complexity (Serra et al. 2020), beside PCA and an isolation forest
  labels    100 labeled images and the others without labels: the models M1 + M2 of Kingma, Rezende, Mohamed & Welling
            (2014), that is M2 of the codes of a VAE, beside classifiers of the labeled ones alone: error rate.
            (``pyro-vae apply labels --num-features 0`` is M2 of the pixels.) The paper has 3.33 %.
  labels_1000  the same with 1,000 labels. The paper has 2.40 %.

Each is the function of its name with the settings below, as ``pyro-vae apply NAME`` runs it; ``--only NAME`` runs one.
restore and reduce share a pair, an MLPVAE (784-500-500-40-500-500-784) of dynamically binarized images. The numbers and
the figure of each are applications_NAME.json and applications_NAME.png. What was measured before is read from the
cache.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared import adam, cached_fit, options, store

from pyro_vae import Cosine, applications
from pyro_vae._files import write_text
from pyro_vae.data import load
from pyro_vae.models import MLPVAE

DATA = "mnist"
RUN: dict[str, dict[str, Any]] = {"quick": {"epochs": 30}, "full": {"epochs": 220}}
HIDDEN = (500, 500)
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "restore": {},
        "reduce": {},
        "anomaly": {"num_train": 10_000, "num_test": 5000, "epochs": 8},
        "labels": {},
        "labels_1000": {"num_labels": 1000},
    },
    "full": {
        "restore": {"num_images": 1000},
        "reduce": {"num_data": 50_000},
        "anomaly": {"epochs": 50, "num_samples": 500},
        "labels": {"feature_epochs": 100, "epochs": 100},
        "labels_1000": {"num_labels": 1000, "feature_epochs": 100, "epochs": 100},
    },
}
TRAINED = ("restore", "reduce")


@functools.lru_cache
def trained(size: str, cache: Path, seed: int, progress: bool) -> tuple[Any, Any]:
    """The pair of restore and reduce, and its data."""
    data: Any = load(DATA, binarization="dynamic")
    epochs = RUN[size]["epochs"]
    run = cached_fit(
        cache / "applications" / f"run-{epochs}-seed{seed}",
        lambda: MLPVAE(data.event_shape, hidden=HIDDEN, mean=data.train.mean()),
        data,
        seed=seed,
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=epochs,
        batch_size=256,
        patience=10,
        progress=progress,
    )
    return run.pair.eval(), data


def apply(part: str, size: str, arguments: Any) -> dict[str, Any]:
    """Runs a part, or reads what it found; prints its table."""
    settings, (name, *_) = SETTINGS[size][part], part.split("_")
    folder = arguments.cache / "applications" / f"{part}-{size}-seed{arguments.seed}"
    numbers, said = folder / f"{name}.json", folder / f"{name}.txt"
    print(f"\n-- {part}", flush=True)
    if not said.exists():
        common = {**settings, "out": str(folder), "seed": arguments.seed, "progress": not arguments.quiet}
        given: tuple[Any, ...] = (DATA,)
        if name in TRAINED:
            given = trained(size, arguments.cache, arguments.seed, not arguments.quiet)
        heard, started = io.StringIO(), time.perf_counter()
        with contextlib.redirect_stdout(heard):
            applications.function(name)(*given, **common)
        seconds = time.perf_counter() - started
        write_text(said, f"{heard.getvalue()}{seconds:.0f} s in all\n")
    print(said.read_text(encoding="utf-8"), end="")
    result = json.loads(numbers.read_text(encoding="utf-8"))
    target = arguments.results / f"applications_{part}{'' if size == 'quick' else '_full'}.json"
    seconds = float(said.read_text(encoding="utf-8").splitlines()[-1].split()[0])
    about = {"experiment": "applications", "application": name, "size": size, "data": DATA, "settings": settings}
    store(target, {**about, "run": RUN[size] if name in TRAINED else None, "seconds_in_all": seconds, **result})
    shutil.copyfile(folder / f"{name}.png", target.with_suffix(".png"))
    print(f"figure: {target.with_suffix('.png')}")
    return result


def in_words(found: Mapping[str, Any]) -> str:
    """What they come to."""
    words = {"restore": restored, "reduce": reduced, "anomaly": detected, "labels": labeled}
    return "\n".join(f"{part}: {words[part.split('_')[0]](result)}" for part, result in found.items())


def detected(result: Any) -> str:
    auroc, mean = result["auroc"], result["mean"]
    highest = best(mean)
    ours = auroc["-log p(x)"]
    wins = sum(a > b for a, b in zip(ours, auroc["PCA"], strict=True))
    hardest = result["classes"][ours.index(min(ours))]
    return (
        f"the highest mean AUROC is {mean[highest]:.3f}, that of {highest}. -log p(x) has {mean['-log p(x)']:.3f} and "
        f"is above PCA ({mean['PCA']:.3f}) for {wins} of {len(ours)} classes; its lowest is {min(ours):.3f}, with "
        f"{hardest} held out. {changed(auroc, 'likelihood ratio')} {changed(auroc, 'corrected for complexity')}"
    )


def changed(auroc: Mapping[str, Sequence[float]], method: str) -> str:
    gains = [a - b for a, b in zip(auroc[method], auroc["-log p(x)"], strict=True)]
    return (
        f"The score {method!r} changes it by {min(gains):+.3f} to {max(gains):+.3f}, by {sum(gains) / len(gains):+.3f} "
        "on average."
    )


def restored(result: Any) -> str:
    ours = ("posterior mean", "most probable z")
    sentences = []
    for task in dict.fromkeys(score["task"] for score in result["scores"]):
        scores = {score["method"]: score["psnr"] for score in result["scores"] if score["task"] == task}
        own = best(scores, [name for name in scores if name in ours])
        other = best(scores, [name for name in scores if name not in ours])
        sentences.append(f"{task}, {own} {scores[own]:.1f} dB and {other} {scores[other]:.1f} dB")
    return f"PSNR of ours and of the best of the others: {'; '.join(sentences)}."


def reduced(result: Any) -> str:
    kept = result["representations"]
    accuracy = {name: entry["accuracy"] for name, entry in kept.items() if entry["accuracy"] is not None}
    parts = [f"{name} {100 * value:.1f} %" for name, value in accuracy.items()]
    trust = best({name: entry["trustworthiness"] for name, entry in kept.items() if name != "x"})
    return (
        f"accuracy of {result['num_neighbors']} nearest neighbors: {', '.join(parts) or 'none without labels'}. "
        f"The most trustworthy representation but x is {trust}; {result['num_active']} units of {result['site']} are "
        "active."
    )


def labeled(result: Any) -> str:
    errors = {name: -entry["error"] for name, entry in result["methods"].items()}
    order = sorted(errors, key=errors.__getitem__, reverse=True)
    return f"error rates, from the lowest: {', '.join(f'{name} {-100 * errors[name]:.2f} %' for name in order)}."


def best(values: Mapping[str, float], names: Sequence[str] | None = None) -> str:
    """The name of the highest value."""
    return max(values if names is None else names, key=values.__getitem__)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=list(SETTINGS["quick"]), help="one of them")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    arguments = parser.parse_args()
    if arguments.root is not None:
        os.environ["PYRO_VAE_DATA"] = str(arguments.root)  # where the applications look
    size = arguments.size
    parts = [arguments.only] if arguments.only else list(SETTINGS[size])
    arguments.results.mkdir(parents=True, exist_ok=True)
    found = {part: apply(part, size, arguments) for part in parts}
    print(f"\n{in_words(found)}")


if __name__ == "__main__":
    main()
