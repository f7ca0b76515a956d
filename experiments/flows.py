"""Flows on a VAE's posterior: binarized MNIST, and Sylvester's table on Frey faces.

A published comparison of the vanilla VAE with planar flows lost its numbers; here they are: one 784-300-300-40 pair
with a diagonal Gaussian, with planar flows of K = 1 to 80 steps, and with IAF and spline flows (``--full``:
Householder and Sylvester, too), all amortized, at equal epochs and at equal time. The weight of the KL rises as in
Rezende & Mohamed (2015), beta_t = min(1, 0.01 + t / T), with T = 10,000 steps in the paper and a fifth of the training
here.

Frey faces: the flows of van den Berg et al. (2018), a discretized logistic likelihood, bits per dimension.
"""

from __future__ import annotations

import functools
import statistics
import time
from typing import Any

import torch
from shared import adam, cached_fit, cached_json, dataset, finish, kept, options, scored, table
from torch import nn

from pyro_vae import SGVB_A, SGVB_B, Cosine, Linear, plotting
from pyro_vae.likelihoods import Bernoulli, DiscretizedLogistic, bits_per_dim
from pyro_vae.models import MLPVAE
from pyro_vae.training import TrainingStep
from pyro_vae.transforms import Householder, InverseAutoregressive, Planar, SplineCoupling, Sylvester

# -log p(x) of binarized MNIST; van den Berg et al. (2018): -ELBO of static MNIST, bits per dimension of Frey faces
PUBLISHED_NLL = {"diagonal": 89.9, "planar, K = 10": 87.5, "planar, K = 20": 86.5, "planar, K = 40": 85.7,
                 "planar, K = 80": 85.1}  # fmt: skip
PUBLISHED_BOUND = {"diagonal": 86.55, "planar": 86.06, "IAF": 84.20, "Sylvester": 83.32}
PUBLISHED_FREY = {"diagonal": 4.53, "planar": 4.40, "IAF": 4.47, "Sylvester": 4.45}
PLANAR = (1, 2, 5, 10, 20, 40, 80)
iaf = functools.partial(InverseAutoregressive, hidden=(320,))
spline = functools.partial(SplineCoupling, hidden=(100,), bound=5.0)
orthogonal = functools.partial(Sylvester, num_columns=16, form="orthogonal")
householder = functools.partial(Sylvester, form="householder", num_reflections=8)
triangular = functools.partial(Sylvester, form="triangular")
FLOWS: dict[str, tuple[Any, int]] = {
    "diagonal": (None, 0),
    **{f"planar, K = {count}": (Planar, count) for count in PLANAR},
    "Householder, K = 10": (Householder, 10),
    "IAF, K = 4": (iaf, 4),
    "Sylvester orthogonal, K = 4": (orthogonal, 4),
    "Sylvester Householder, K = 4": (householder, 4),
    "Sylvester triangular, K = 4": (triangular, 4),
    "spline, K = 4": (spline, 4),
}
SYLVESTER = tuple(flow for flow in FLOWS if flow.startswith("Sylvester"))
FREY = ("diagonal", "planar, K = 10", "IAF, K = 4", *SYLVESTER)
MNIST = {"quick": [flow for flow in FLOWS if flow not in (*SYLVESTER, "Householder, K = 10")], "full": list(FLOWS)}
EPOCHS = {"mnist": {"quick": 15, "full": 2000}, "frey": {"quick": 100, "full": 2000}}
SEEDS = {"quick": 1, "full": 3}
TEST = {"quick": (2000, 500), "full": (10_000, 5000)}  # images and importance samples


def make(name: str, flow: str, mean: torch.Tensor) -> nn.Module:
    """The pair: one flow, the same networks for all of them."""
    step, count = FLOWS[flow]
    likelihood = Bernoulli if name == "mnist" else DiscretizedLogistic
    return MLPVAE(
        mean.shape,
        latent_dim=40 if name == "mnist" else 20,
        hidden=(300, 300) if name == "mnist" else (200,),
        transforms=() if step is None else (step,),
        num_transforms=count or None,
        likelihood=likelihood,
        mean=mean,
    )


def run(name: str, flow: str, seed: int, arguments: Any) -> dict[str, Any]:
    """One training and its evaluation."""
    data: Any = dataset(name, arguments, "static")
    epochs = EPOCHS[name][arguments.size]
    folder = arguments.cache / "flows" / f"{name}-{flow}-{epochs}-seed{seed}".replace(" ", "").replace(",", "-").lower()
    trained = cached_fit(
        folder,
        functools.partial(make, name, flow, data.train.mean()),
        data,
        seed=seed,
        estimator=SGVB_B() if flow == "diagonal" else SGVB_A(),
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        beta=Linear(start=0.01, duration=0.2),
        average=0.99,
        epochs=epochs,
        batch_size=250 if name == "mnist" else 100,
        clip_norm=200.0,
        patience=None if name == "mnist" else 50,
    )
    history = trained.history
    count, num_samples = TEST[arguments.size]
    (x,) = data.test.take(count).batch(slice(None))
    evaluate = functools.partial(scored, trained.pair, x, num_samples, seed)
    found = cached_json(folder / f"test-{count}-{num_samples}.json", evaluate)
    return {
        "data": name,
        "flow": flow,
        "seed": seed,
        **found,
        "valid": history[-1]["valid"] if trained.best_epoch is None else history[trained.best_epoch - 1]["valid"],
        "history": kept(history, "epoch", "train", "valid", "seconds"),
    }


def step_times(flows: list[str], arguments: Any, rounds: int = 15) -> dict[str, float]:
    """Milliseconds of a traced training step of each system, the median of one interleaved run on MNIST."""
    data: Any = dataset("mnist", arguments, "static")
    (x,) = data.train.batch(torch.arange(250))
    steps = {}
    for flow in flows:
        torch.manual_seed(0)
        steps[flow] = TrainingStep(make("mnist", flow, data.train.mean()), SGVB_A(), compile="traced")
        steps[flow]((x,))
    found: dict[str, list[float]] = {flow: [] for flow in flows}
    for _ in range(rounds):
        for flow, step in steps.items():
            started = time.perf_counter()
            for _ in range(3):
                step((x,))
            found[flow].append((time.perf_counter() - started) / 3)
    return {flow: 1000 * statistics.median(times) for flow, times in found.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only-seed", type=int, default=None, help="train for this seed alone and stop")
    arguments = parser.parse_args()
    size = arguments.size
    seeds = range(arguments.seed, arguments.seed + SEEDS[size])
    plan = [("mnist", flow) for flow in MNIST[size]] + [("frey", flow) for flow in FREY]
    if arguments.only_seed is not None:
        for name, flow in plan:
            run(name, flow, arguments.only_seed, arguments)
        return
    runs = [run(name, flow, seed, arguments) for name, flow in plan for seed in seeds]
    mnist, frey = ([entry for entry in runs if entry["data"] == name] for name in ("mnist", "frey"))
    times = cached_json(
        arguments.cache / "flows" / "step-times.json", functools.partial(step_times, list(MNIST[size]), arguments)
    )
    header = ("MNIST, static", "bound", "KL", "-log p(x | z)", "NLL", "+-", "published", "ms a step", "at equal time")
    rows: list[tuple[Any, ...]] = []
    for flow in MNIST[size]:
        values = [mean(mnist, flow, key) for key in ("test_bound", "rate", "distortion", "nll", "nll_error")]
        epochs = max(1, int(EPOCHS["mnist"][size] * times["diagonal"] / times[flow]))  # in the diagonal one's time
        last = min(epochs, EPOCHS["mnist"][size]) - 1
        early = statistics.mean(entry["history"][last]["valid"] for entry in mnist if entry["flow"] == flow)
        numbers = (f"{value:.2f}" for value in values)
        rows.append((flow, *numbers, PUBLISHED_NLL.get(flow), f"{times[flow]:.1f}", f"{early:.2f}"))
    print(f"{table(header, rows)}\n")
    shape = dataset("frey", arguments).event_shape
    header = ("Frey", "bits per dimension: bound", "published", "NLL")
    rows = []
    for flow in FREY:
        bound, nll = -mean(frey, flow, "test_bound"), mean(frey, flow, "nll")
        published = next(value for key, value in PUBLISHED_FREY.items() if flow.startswith(key))
        bits = (f"{bits_per_dim(-value, shape):.3f}" for value in (bound, nll))
        rows.append((flow, next(bits), f"{published:.2f}", next(bits)))
    print(table(header, rows))
    published = {"nll": PUBLISHED_NLL, "bound": PUBLISHED_BOUND, "frey": PUBLISHED_FREY}
    result = {"published": published, "milliseconds_a_step": times, "runs": runs}
    finish(arguments, "flows", result, {"flows": draw(mnist)})


def mean(runs: list[dict[str, Any]], flow: str, key: str) -> float:
    """The mean of a number over the seeds."""
    return statistics.mean(entry[key] for entry in runs if entry["flow"] == flow)


def draw(runs: list[dict[str, Any]]) -> Any:
    """NLL over K of the planar flows, beside the published curve."""
    planar = [f"planar, K = {count}" for count in PLANAR]

    def points(key: str) -> tuple[list[int], list[float]]:
        return [0.5, *PLANAR], [mean(runs, flow, key) for flow in ("diagonal", *planar)]  # type: ignore[list-item]

    bound = points("test_bound")
    ours = {"NLL": points("nll"), "minus the bound": (bound[0], [-value for value in bound[1]])}
    paper = [(0.5 if flow == "diagonal" else int(flow.split("= ")[1]), value) for flow, value in PUBLISHED_NLL.items()]
    published = {"Rezende & Mohamed (2015), NLL": tuple(zip(*paper, strict=True))}
    return plotting.lines(
        {"": ours},
        x="planar steps K (at 0.5: diagonal Gaussian)",
        y="nats per datum",
        published={"": published},
        log="x",
    )


if __name__ == "__main__":
    main()
