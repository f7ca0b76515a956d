"""Sequences: the deep Markov model, a VAE of recurrent networks, and a linear dynamical system.

Two kinds of data, whose sequences are

  linear  draws of a linear-Gaussian system of two latents that turn, of 10 to 30 steps of 4 real numbers. Its Kalman
          filter gives log p(x) exactly: of the system itself (the truth, which none can pass but by chance), and of a
          linear dynamical system of the same size that is fitted by the gradient of that log p(x)
  rows    MNIST, binarized once: 28 rows of 28 pixels. The linear dynamical system has Bernoulli pixels of a linear map
          of its latents, and is fitted as the deep Markov model is: no filter gives its log p(x)

Told are, of test data, nats per step with the standard error over sequences: minus the bound (one draw of z), and
-log p(x), by importance sampling from the guide where no filter gives it. On the linear system also how far the moments
of p(z_t | x) that the pair with the true system's transition and emission finds are from those of the smoother.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import torch
from drawing import rows_of_images, styled
from shared import adam, cached_fit, cached_json, dataset, finish, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import SGVB_A, Cosine, Linear, evidence
from pyro_vae.data import Data, Split
from pyro_vae.distributions.families import constrained
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import GRUVAE, DeepMarkovModel
from pyro_vae.plotting.style import LINES, SQUARE, HouseFigure

TITLES = {"linear": "linear-Gaussian system", "rows": "MNIST, rows"}
LABELS = {"truth": "the system itself", "lds": "linear dynamical system", "dmm": "deep Markov model", "gru": "GRU-VAE"}
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"count": 60, "linear": 2, "rows": 1, "kalman": 3, "test": 20, "draws": 10, "images": 200, "width": 8},
    "quick": {
        "count": 4000, "linear": 60, "rows": 10, "kalman": 400, "test": 500, "draws": 500, "images": None,
        "width": 100,
    },
    "full": {
        "count": 20_000, "linear": 200, "rows": 200, "kalman": 4000, "test": 10_000, "draws": 5000, "images": None,
        "width": 400,
    },
}  # fmt: skip
STEPS, SHORTEST, UNITS = 30, 10, 4
LATENTS = {"linear": 2, "rows": 32}
BATCH = {"linear": 100, "rows": 200}
SHOWN, GIVEN = 8, 14


# The linear system and its filter


class LinearSystem(nn.Module):
    """z_t = A z_(t-1) + N(0, Q), x_t = C z_t + c + N(0, R), z_1 ~ N(m, P), with diagonal Q, R and P."""

    def __init__(self, latent_dim: int, size: int) -> None:
        super().__init__()
        self.A = nn.Parameter(0.9 * torch.eye(latent_dim))
        self.C = nn.Parameter(0.5 * torch.randn(size, latent_dim))
        self.m, self.c = nn.Parameter(torch.zeros(latent_dim)), nn.Parameter(torch.zeros(size))
        self.logs = nn.ParameterDict(
            {"Q": torch.zeros(latent_dim), "P": torch.zeros(latent_dim), "R": torch.zeros(size)}
        )

    @classmethod
    def true(cls) -> LinearSystem:
        """A slow turn, seen through a map that is drawn once."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(3)
            system, angle = cls(2, UNITS), math.pi / 6
            turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            system.A.copy_(0.95 * turn)
            system.C.copy_(torch.randn(UNITS, 2))
            for name, value in (("Q", 0.1), ("P", 1.0), ("R", 0.25)):
                system.logs[name].fill_(math.log(value))
        return system

    def draw(self, count: int, seed: int) -> Tensor:
        """``[count, STEPS, UNITS]``."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            z = self.m + (self.logs["P"] / 2).exp() * torch.randn(count, 2)
            found = []
            for _ in range(STEPS):
                found.append(z @ self.C.T + self.c + (self.logs["R"] / 2).exp() * torch.randn(count, UNITS))
                z = z @ self.A.T + (self.logs["Q"] / 2).exp() * torch.randn(count, 2)
            return torch.stack(found, 1)

    def filter(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x), ``[B]``, and means ``[B, T, L]`` and variances ``[B, T, L]`` of p(z_t | x), smoothed."""
        noise, emitted = self.logs["Q"].exp().diag(), self.logs["R"].exp().diag()
        mean, cov = self.m.expand(len(x), -1), self.logs["P"].exp().diag().expand(len(x), -1, -1)
        total = x.new_zeros(len(x))
        filtered, predicted = [], []
        for t in range(x.shape[1]):
            if t:
                mean, cov = mean @ self.A.T, self.A @ cov @ self.A.T + noise
            predicted.append((mean, cov))
            there = (t < lengths)[:, None]
            S = self.C @ cov @ self.C.T + emitted
            seen = torch.distributions.MultivariateNormal(mean @ self.C.T + self.c, S, validate_args=False)
            total = total + torch.where(there[:, 0], seen.log_prob(x[:, t]), 0.0)
            gain = torch.linalg.solve(S, self.C @ cov).mT
            new = mean + (gain @ (x[:, t] - mean @ self.C.T - self.c)[..., None])[..., 0]
            mean = torch.where(there, new, mean)
            cov = torch.where(there[..., None], cov - gain @ self.C @ cov, cov)
            filtered.append((mean, cov))
        smoothed = [filtered[-1]]
        for t in range(x.shape[1] - 2, -1, -1):
            (mean, cov), (next_mean, next_cov), (later_mean, later_cov) = filtered[t], predicted[t + 1], smoothed[0]
            gain = torch.linalg.solve(next_cov, self.A @ cov).mT
            mean = mean + (gain @ (later_mean - next_mean)[..., None])[..., 0]
            smoothed.insert(0, (mean, cov + gain @ (later_cov - next_cov) @ gain.mT))
        means, covs = (torch.stack(parts, 1) for parts in zip(*smoothed, strict=True))
        return total, means, covs.diagonal(dim1=-2, dim2=-1)


def fit_kalman(split: Any, steps: int, seed: int) -> LinearSystem:
    """A system of the size of the true one, by Adam on log p(x)."""
    torch.manual_seed(seed)
    system = LinearSystem(2, UNITS)
    optimizer = torch.optim.Adam(system.parameters(), 0.02)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = (batch for epoch in range(steps) for batch in split.batches(500, shuffle=True, epoch=epoch, seed=seed))
    for _, (x, lengths) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        (-system.filter(x, lengths)[0].mean()).backward()
        optimizer.step()
        rate.step()
    return system


def linear_data(count: int) -> Data:
    """Of the true system, of lengths that are all as probable."""
    parts, lengths = {}, {}
    for index, (part, size) in enumerate({"train": count, "valid": count // 4, "test": count // 2}.items()):
        generator = torch.Generator().manual_seed(100 + index)
        lengths[part] = torch.randint(SHORTEST, STEPS + 1, (size,), generator=generator)
        x = LinearSystem.true().draw(size, seed=200 + index)
        parts[part] = Split(x * (torch.arange(STEPS) < lengths[part][:, None])[..., None], lengths[part], name=part)
    return Data("linear", **parts)


# The pairs


class AffineTransition(nn.Module):
    """z_t ~ N(A z_(t-1) + a, Q), learned, in the place of networks."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.map, self.scale = nn.Linear(latent_dim, latent_dim), nn.Parameter(torch.zeros(latent_dim))
        with torch.no_grad():
            self.map.weight.copy_(0.9 * torch.eye(latent_dim))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.map(z)
        return loc, constrained(torch.distributions.constraints.positive, self.scale).expand_as(loc)


def make(data: str, kind: str, event_shape: Any, width: int) -> nn.Module:
    """The pair: Gaussian numbers of one learned scale, or Bernoulli pixels."""
    chosen: dict[str, Any] = {"latent_dim": LATENTS[data]}
    if data == "linear":
        chosen["likelihood"] = functools.partial(Gaussian, scale="shared", sigmoid_mean=False)
    if kind == "gru":
        return GRUVAE(event_shape, rnn_dim=width, **chosen)
    if kind == "lds":
        return DeepMarkovModel(
            event_shape, hidden=(), rnn_dim=width, transition=AffineTransition(LATENTS[data]), **chosen
        )
    return DeepMarkovModel(event_shape, transition_dim=width, hidden=(width,), rnn_dim=width, **chosen)


def per_step(log_prob: Tensor, lengths: Tensor) -> list[float]:
    """Nats per step of -log p, and its standard error over sequences, as of a ratio of two means."""
    total, steps = log_prob.double(), lengths.double()
    ratio = total.sum() / steps.sum()
    error = (total - ratio * steps).std() * len(total) ** 0.5 / steps.sum()
    return [-ratio.item(), error.item()]


def run(name: str, kind: str, data: Any, arguments: Any) -> tuple[dict[str, Any], Any]:
    """One pair, trained and evaluated."""
    size = SIZES[arguments.size]
    epochs = size[name]
    folder = arguments.cache / "sequences" / f"{name}-{kind}-{arguments.size}-{epochs}-seed{arguments.seed}"
    trained = cached_fit(
        folder,
        functools.partial(make, name, kind, data.event_shape, size["width"]),
        data,
        seed=arguments.seed,
        estimator=SGVB_A(),
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        beta=Linear(0.1, 1.0, duration=0.2),
        epochs=epochs,
        batch_size=min(BATCH[name], data.train.num_data),
        clip_norm=100.0,
        patience=epochs,
    )
    pair: Any = trained.pair.eval()

    def evaluated() -> dict[str, Any]:
        batch = data.test.batch(slice(size["test"]))
        lengths = batch[1] if len(batch) > 1 else torch.full((len(batch[0]),), pair.layout.num_steps)
        with torch.random.fork_rng():
            torch.manual_seed(arguments.seed)
            bound = torch.cat([SGVB_A().bound(pair, *(part for part in parts)) for parts in chunked(batch, 500)])
        found = evidence.importance(pair, batch, size["draws"], seed=arguments.seed, chunk=4096)
        return {
            "bound": per_step(bound, lengths),
            "nll": per_step(found.log_prob, lengths),
            "effective_sample_size": found.effective_sample_size.median().item(),
        }

    found = cached_json(folder / "test.json", evaluated)
    return {"data": name, "kind": kind, **found, "seconds": training_seconds(trained.history)[-1]}, pair


def chunked(batch: Any, size: int) -> Any:
    return zip(*(part.split(size) for part in batch), strict=True)


def smoothing(arguments: Any, data: Any) -> dict[str, float]:
    """Root mean square errors of smoothed means and scales of z, in units of the exact scale, of a pair that has the
    true system for its model and a guide that is trained."""
    size, true = SIZES[arguments.size], LinearSystem.true()

    def of_truth() -> DeepMarkovModel:
        likelihood = functools.partial(Gaussian, scale=0.5, sigmoid_mean=False)
        affine = AffineTransition(2)
        pair = DeepMarkovModel(
            (STEPS, UNITS), 2, hidden=(), rnn_dim=size["width"], likelihood=likelihood, transition=affine
        )
        with torch.no_grad():
            affine.map.weight.copy_(true.A)
            affine.map.bias.zero_()
            affine.scale.fill_(math.log(math.expm1(0.1**0.5)))
            pair.likelihood.network.layers[0].weight.copy_(true.C)
            pair.likelihood.network.layers[0].bias.copy_(true.c)
        for part in (affine, pair.likelihood, pair.first):
            part.requires_grad_(False)
        return pair

    epochs = size["linear"]
    warnings.filterwarnings("ignore", message=".*was not registered in the param store")  # held on purpose
    trained = cached_fit(
        arguments.cache / "sequences" / f"smoothing-{arguments.size}-{epochs}-seed{arguments.seed}",
        of_truth,
        data,
        seed=arguments.seed,
        estimator=SGVB_A(sticking_the_landing=True),
        optimizer=adam(2e-3),
        scheduler=Cosine(warmup=0.02),
        epochs=epochs,
        batch_size=min(BATCH["linear"], data.train.num_data),
        clip_norm=100.0,
        patience=epochs,
    )
    pair: Any = trained.pair.eval()
    x, lengths = data.test.batch(slice(min(200, size["test"])))
    with torch.no_grad():
        log_prob, means, variances = true.filter(x, lengths)
        torch.manual_seed(arguments.seed)
        found = pair.smooth(x, lengths, num_samples=size["draws"])
        bound = SGVB_A(20).bound(pair, x, lengths)
    there = (torch.arange(STEPS) < lengths[:, None])[..., None].expand_as(means)
    scale = variances.sqrt()[there]
    return {
        "mean_error": ((found.mean - means)[there] / scale).square().mean().sqrt().item(),
        "scale_error": ((found.scale[there] - scale) / scale).square().mean().sqrt().item(),
        "gap_per_step": ((log_prob - bound).sum() / lengths.sum()).item(),
    }


def images(fitted: dict[str, Any], data: Any, seed: int) -> list[dict[str, Tensor]]:
    """Rows of the figure: samples, and what is drawn below the first rows of test images."""
    (x,) = data.test.batch(slice(SHOWN))
    top = x[:, :, :GIVEN]
    samples, forecasts = {"training data": data.train.batch(slice(SHOWN))[0]}, {"test data": x}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for kind, pair in fitted.items():
            samples[LABELS[kind]] = pair.sample(SHOWN)
            ahead = pair.forecast(top, x.shape[2] - GIVEN, num_samples=1)[0]
            forecasts[LABELS[kind]] = torch.cat([top, ahead], 2)
    return [samples, forecasts]


@styled
def draw(runs: list[dict[str, Any]]) -> Any:
    """Nats per step, with two standard errors."""
    figure = HouseFigure(figsize=(8.4, 2.4), layout="constrained")
    for ax, name in zip(figure.subplots(1, 2), TITLES, strict=True):
        rows = [row for row in runs if row["data"] == name]
        for at, row in enumerate(reversed(rows)):
            value, error = row["nll"]
            ax.errorbar(
                value, at, xerr=2 * error, fmt="o", color=LINES[0], capsize=3, label="-log p(x)" if not at else ""
            )
            if row.get("bound"):
                ax.plot(
                    row["bound"][0], at, "D", color=LINES[1], markersize=5, label="minus the bound" if not at else ""
                )
        ax.set_yticks(range(len(rows)), [LABELS[row["kind"]] for row in reversed(rows)])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_xlabel("nats per step, lower is better")
        ax.set_title(TITLES[name])
        ax.grid(True, axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def draw_images(panels: list[dict[str, Tensor]]) -> Any:
    figure = HouseFigure(figsize=(10.0, 2.6), layout=SQUARE)
    titles = ("draws from the model", f"draws given the first {GIVEN} rows")
    for ax, title, rows in zip(figure.subplots(1, 2), titles, panels, strict=True):
        rows_of_images(ax, rows, title)
    return figure


def in_words(runs: list[dict[str, Any]], smoothed: dict[str, float]) -> str:
    """What it comes to."""
    of = {(row["data"], row["kind"]): row for row in runs}
    truth = of["linear", "truth"]["nll"][0]
    apart = ", ".join(f"{LABELS[kind]} {of['linear', kind]['nll'][0] - truth:+.3f}" for kind in ("lds", "dmm", "gru"))
    rows = {kind: of["rows", kind]["nll"] for kind in ("lds", "dmm", "gru")}
    told = ", ".join(f"{LABELS[kind]} {value:.3f} ({error:.3f})" for kind, (value, error) in rows.items())
    return (
        f"On the linear system, nats per step above the system itself: {apart}. With the true model, a trained guide's "
        f"bound is {smoothed['gap_per_step']:.3f} nats a step below log p(x); smoothed means are off by "
        f"{smoothed['mean_error']:.3f} exact standard deviations (root mean square), scales by "
        f"{100 * smoothed['scale_error']:.1f} %. On rows of MNIST, nats per row (standard error): {told}."
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--smoke", action="store_const", dest="size", const="smoke", help="seconds, to see that it runs"
    )
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    linear, rows = linear_data(size["count"]), dataset("mnist", arguments, "static")
    if size["images"]:
        rows = Data("mnist", *(Split(rows.train.take(size["images"]).tensors[0]) for _ in range(3)))
    x, lengths = linear.test.batch(slice(size["test"]))  # type: ignore[union-attr]
    runs: list[dict[str, Any]] = []
    with torch.no_grad():
        runs.append(
            {"data": "linear", "kind": "truth", "nll": per_step(LinearSystem.true().filter(x, lengths)[0], lengths)}
        )

    def kalman() -> list[float]:
        system = fit_kalman(linear.train, size["kalman"], arguments.seed)
        with torch.no_grad():
            return per_step(system.filter(x, lengths)[0], lengths)

    cache = arguments.cache / "sequences" / f"kalman-{arguments.size}-{size['kalman']}-seed{arguments.seed}.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    runs.append({"data": "linear", "kind": "lds", "nll": cached_json(cache, kalman)})
    fitted: dict[str, Any] = {}
    for kind in ("dmm", "gru"):
        runs.append(run("linear", kind, linear, arguments)[0])
    for kind in ("lds", "dmm", "gru"):
        found, fitted[kind] = run("rows", kind, rows, arguments)
        runs.append(found)
    smoothed = smoothing(arguments, linear)
    header = ("data", "model", "-log p(x) per step", "error", "minus the bound", "effective sample size", "seconds")
    print(
        table(
            header,
            [
                (
                    TITLES[row["data"]], LABELS[row["kind"]], f"{row['nll'][0]:.3f}", f"{row['nll'][1]:.3f}",
                    f"{row['bound'][0]:.3f}" if "bound" in row else None, row.get("effective_sample_size"),
                    row.get("seconds"),
                )
                for row in runs
            ],
        )
    )  # fmt: skip
    print(f"\n{in_words(runs, smoothed)}")
    figures = {"sequences": draw(runs), "sequences_rows": draw_images(images(fitted, rows, arguments.seed))}
    finish(arguments, "sequences", {"runs": runs, "smoothing": smoothed}, figures)


if __name__ == "__main__":
    main()
