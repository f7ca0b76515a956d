"""L^A against L^B: the KL sampled (SGVB-A) or in closed form (SGVB-B), over N_z and over L, on gray MNIST.

A published replication of Kingma & Welling (2013) reports that at N_z = 10 training by L^A ends 7 nats lower than by
L^B (validation -112.2 against -105.3 after 1e8 samples). That difference is not one of estimators: its L^A was trained
with a prior of the weights that counts N/M times, its L^B without one (lower_bound.py reproduces both). Both estimators
have the same expected gradient. Here they are compared at one prior:

  grid        the set-up of the published L^A (Adagrad 0.01, batches of 100, the weight prior once a batch) with both
              estimators, over N_z and over L samples a datum
  laboratory  bias and variance of both gradients at the same weights, early and late in a training by L^B
  schedule    the same pairs with Adam, whose steps do not shrink by all the noise that they have ever seen, on a
              cosine; and with Adagrad at twice the rate
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from networks import published_pair
from shared import cached_fit, cached_json, finish, kept, options, table

from pyro_vae import SGVB_A, SGVB_B, Cosine, WeightPrior, plotting
from pyro_vae.data import load
from pyro_vae.diagnostics import gradient_statistics

# L^A at N_z = 10, the one that was published at this set-up: samples -> validation bound
PUBLISHED = {1e5: -167.2, 1e6: -135.7, 1e7: -117.8, 1e8: -112.2}
LATENT_DIMS = (3, 10, 20)
NUM_PARTICLES = {"quick": (1, 5), "full": (1, 5, 10)}  # at N_z = 10
SAMPLES = {"quick": 1_000_000, "full": 100_000_000}
SEEDS = {"quick": 2, "full": 3}  # at N_z = 10
ESTIMATORS = {"A": SGVB_A, "B": SGVB_B}
adagrad, adam = (functools.partial(kind, fused=True) for kind in (torch.optim.Adagrad, torch.optim.Adam))
OPTIMISERS = {
    "Adagrad 0.01": (functools.partial(adagrad, lr=0.01), None),
    "Adagrad 0.02": (functools.partial(adagrad, lr=0.02), None),
    "Adam 1e-3, cosine": (functools.partial(adam, lr=1e-3), Cosine()),
}
LABORATORY_EPOCHS = (0, 2, 20)  # where in a training by L^B the gradients are looked at


def train(
    estimator: str, latent_dim: int, arguments: Any, *, epochs: int, seed: int, num_particles: int = 1,
    optimizer: str = "Adagrad 0.01",
) -> Any:  # fmt: skip
    """One run of the published pair."""
    data = load("mnist", arguments.root)
    make, scheduler = OPTIMISERS[optimizer]
    name = f"{estimator}-{latent_dim}-L{num_particles}-{optimizer}-{epochs}-seed{seed}".replace(" ", "_")
    return cached_fit(
        arguments.cache / "kl_estimators" / name,
        functools.partial(published_pair, "mnist", data.event_shape, latent_dim),
        data,
        seed=seed,
        estimator=ESTIMATORS[estimator](num_particles),
        optimizer=make,
        scheduler=scheduler,
        weight_prior=WeightPrior(count="batch"),
        epochs=epochs,
        batch_size=100,
    )


def laboratory(epochs: int, arguments: Any) -> list[dict[str, Any]]:
    """Both gradients at the weights that ``epochs`` of training by L^B have reached."""
    data = load("mnist", arguments.root)
    if epochs:
        pair = train("B", 10, arguments, epochs=epochs, seed=arguments.seed).pair
    else:
        torch.manual_seed(arguments.seed)
        pair = published_pair("mnist", data.event_shape, 10)
    (x,) = data.train.batch(torch.arange(100))
    found = gradient_statistics(
        pair, x, {"L^B": SGVB_B(), "L^A": SGVB_A()}, num_draws=400, num_reference_draws=400, seed=arguments.seed
    )
    print(f"after {epochs} epochs\n{found}", flush=True)
    return [{"epochs": epochs, **row} for row in found.as_rows()]


def main() -> None:
    arguments = options(__doc__).parse_args()
    size = arguments.size
    num_data = load("mnist", arguments.root).train.num_data
    epochs = round(SAMPLES[size] / num_data)
    plan: list[dict[str, Any]] = [{"latent_dim": n, "num_particles": 1} for n in LATENT_DIMS]
    plan += [{"latent_dim": 10, "num_particles": count} for count in NUM_PARTICLES[size][1:]]
    plan += [{"latent_dim": 10, "optimizer": name} for name in list(OPTIMISERS)[1:]]
    runs = []
    for settings in plan:
        repeated = settings["latent_dim"] == 10 and settings.get("num_particles", 1) == 1
        for seed in range(arguments.seed, arguments.seed + (SEEDS[size] if repeated else 1)):
            for estimator in ESTIMATORS:
                run = train(estimator, arguments=arguments, epochs=epochs, seed=seed, **settings)
                history = kept(run.history, "epoch", "samples", "train", "valid", "seconds")
                labels = {"num_particles": 1, "optimizer": "Adagrad 0.01", **settings}
                runs.append({"estimator": estimator, **labels, "seed": seed, "history": history})
    rows = summary(runs)
    header = ("N_z", "L", "optimizer", "samples", "L^A", "published", "L^B", "L^A - L^B", "seeds", "s / s")
    print(table(header, rows))
    found = [
        row
        for done in LABORATORY_EPOCHS
        for row in cached_json(
            arguments.cache / "kl_estimators" / f"laboratory-{done}-seed{arguments.seed}.json",
            functools.partial(laboratory, done, arguments),
        )
    ]
    groups = [row for row in found if row["group"] in ("q(z)", "p(x)")]
    print(
        table(
            ("epochs of L^B", "gradient of", "estimator", "variance", "signal to noise", "bias z", "norm of the mean"),
            [
                (
                    row["epochs"], row["group"], row["estimator"], f"{row['variance']:.3g}", f"{row['snr']:.2f}",
                    f"{row['bias_z']:.1f}", f"{row['norm']:.3g}",
                )
                for row in groups
            ],
        )
    )  # fmt: skip
    finish(arguments, "kl_estimators", {"runs": runs, "laboratory": found}, {"kl_estimators": draw(runs)})


def summary(runs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """A row for each setting and published mark: both bounds, averaged over the seeds."""
    rows = []
    settings = dict.fromkeys((run["latent_dim"], run["num_particles"], run["optimizer"]) for run in runs)
    for latent_dim, num_particles, optimizer in settings:
        chosen = [
            run for run in runs
            if (run["latent_dim"], run["num_particles"], run["optimizer"]) == (latent_dim, num_particles, optimizer)
        ]  # fmt: skip
        last = chosen[0]["history"][-1]["samples"]
        for samples in sorted({*(s for s in PUBLISHED if s < last), last}):
            means, seconds = {}, {}
            for estimator in ESTIMATORS:
                found = [
                    entry
                    for run in chosen
                    if run["estimator"] == estimator
                    for entry in run["history"]
                    if entry["samples"] == samples
                ]
                means[estimator] = sum(entry["valid"] for entry in found) / len(found)
                seconds[estimator] = sum(entry["seconds"] for entry in found) / len(found)
            same = (latent_dim, num_particles, optimizer) == (10, 1, "Adagrad 0.01")
            rows.append(
                (
                    latent_dim, num_particles, optimizer, f"{samples:.0e}", means["A"],
                    PUBLISHED.get(samples) if same else None, means["B"], means["A"] - means["B"], len(found),
                    f"{seconds['A']:.0f} / {seconds['B']:.0f}",
                )
            )  # fmt: skip
    return rows


def draw(runs: list[dict[str, Any]]) -> Any:
    """Validation bounds of both estimators at N_z = 10, in the published set-up and with Adam."""
    panels: dict[str, Any] = {}
    for optimizer in ("Adagrad 0.01", "Adam 1e-3, cosine"):
        for run in runs:
            if (run["latent_dim"], run["optimizer"]) != (10, optimizer) or run["seed"] != runs[0]["seed"]:
                continue
            name = f"L^{run['estimator']}, L = {run['num_particles']}"
            history = run["history"]
            line = [e["samples"] for e in history], [e["valid"] for e in history]
            panels.setdefault(optimizer, {})[name] = line
    furthest = max(run["history"][-1]["samples"] for run in runs)
    published = {"published, L^A": list(zip(*((s, v) for s, v in PUBLISHED.items() if s <= furthest), strict=True))}
    return plotting.lines(
        panels,
        x="training samples seen",
        y="validation bound (nats per datum)",
        published={"Adagrad 0.01": published},
        log="x",
        title="the KL sampled (A) or in closed form (B): gray MNIST, N_z = 10",
    )


if __name__ == "__main__":
    main()
