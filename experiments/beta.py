"""What beta does: rate against distortion, the parts of the KL, traversals, and collapse where it is known exactly.

MNIST (static), 784-300-10-300: the beta-VAE of Higgins et al. (2017) over beta, beside the capacity of Burgess et al.
(2018), free bits and the beta-TCVAE of Chen et al. (2018), each a point in the plane of rate and distortion (Alemi et
al. 2018), with the KL's three parts over the same 1,000 test images.

A linear pair has its optimum in closed form (Lucas et al. 2019): a unit is used if its eigenvalue of the data's
covariance is above beta s^2. The trained pairs are counted beside it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from shared import adam, cached_fit, cached_json, dataset, finish, options, table
from torch import nn

from pyro_vae import MLP, SGVB_B, VAE, Cosine, DiagonalNormal, Gaussian, Linear, StandardNormal, diagnostics, plotting
from pyro_vae.estimators import TCVAE, Capacity, FreeBits
from pyro_vae.models import MLPVAE

BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SHOWN = (0.25, 1.0, 4.0, 16.0)  # traversals
LATENT_DIM = 10
OTHERS = {
    "capacity 5 nats": lambda: Capacity(Linear(0.0, 5.0, duration=0.5), gamma=30.0),
    "capacity 15 nats": lambda: Capacity(Linear(0.0, 15.0, duration=0.5), gamma=30.0),
    "free bits, 1 nat a unit": lambda: FreeBits(1.0),
    "beta-TCVAE, beta = 4": lambda: TCVAE(beta=4.0),
    "beta-TCVAE, beta = 8": lambda: TCVAE(beta=8.0),
}
EPOCHS = {"quick": 12, "full": 200}
LINEAR = {"quick": 400, "full": 4000}  # epochs of one batch
EIGENVALUES = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.6, 0.3, 0.1, 0.1)
LINEAR_BETAS = (0.25, 0.5, 0.9, 1.2, 1.8, 2.5, 3.5, 5.0, 7.0)


def train(name: str, estimator: Any, beta: float | None, arguments: Any) -> Any:
    """One pair on MNIST."""
    data: Any = dataset("mnist", arguments, "static")
    epochs = EPOCHS[arguments.size]
    return cached_fit(
        arguments.cache / "beta" / f"{name}-{epochs}-seed{arguments.seed}".replace(" ", "_").replace(",", ""),
        functools.partial(MLPVAE, data.event_shape, LATENT_DIM, (300,), mean=data.train.mean()),
        data,
        seed=arguments.seed,
        estimator=estimator,
        optimizer=adam(2e-3),
        scheduler=Cosine(),
        beta=beta,
        average=0.99,
        epochs=epochs,
        batch_size=250,
    )


def measured(pair: Any, arguments: Any) -> dict[str, Any]:
    """Rate, distortion, the parts of the KL and active units of a pair."""
    data: Any = dataset("mnist", arguments, "static")
    (x,) = data.test.batch(torch.arange(1000))
    sides = diagnostics.rate_distortion(pair, [(x,)])
    parts = diagnostics.kl_decomposition(pair, x, seed=arguments.seed)
    return {
        "rate": sides.rate,
        "distortion": sides.distortion,
        "mutual_information": parts.index_code_mutual_information,
        "total_correlation": parts.total_correlation,
        "dimension_wise_kl": parts.dimension_wise_kl,
        "active_units": diagnostics.active_units(pair, [(x,)]).count,
        "mse": diagnostics.reconstruction_mse(pair, [(x,)]),
    }


def linear_data(num_data: int = 2000) -> torch.Tensor:
    """Data whose sample covariance has the eigenvalues above, in a basis of no meaning."""
    generator = torch.Generator().manual_seed(0)
    size = len(EIGENVALUES)
    white = torch.randn(num_data, size, generator=generator, dtype=torch.float64)
    white -= white.mean(0)
    white = torch.linalg.qr(white).Q * num_data**0.5  # covariance exactly I
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return ((white * torch.tensor(EIGENVALUES, dtype=torch.float64).sqrt()) @ basis.T).float()


def collapse(beta: float, arguments: Any) -> dict[str, Any]:
    """Active units of a trained linear pair, beside the closed form."""
    x = linear_data()
    width = len(EIGENVALUES)

    def make() -> VAE:
        encoder, decoder = MLP(width, (2, width), hidden=()), MLP(width, width, hidden=())
        return VAE(StandardNormal(width), DiagonalNormal(encoder), Gaussian(decoder, 1.0, sigmoid_mean=False))

    run = cached_fit(
        arguments.cache / "beta" / f"linear-{beta}-{LINEAR[arguments.size]}-seed{arguments.seed}",
        make,
        x,
        seed=arguments.seed,
        estimator=SGVB_B(),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-2),
        scheduler=Cosine(),
        beta=beta,
        average=0.95,
        epochs=LINEAR[arguments.size],
        batch_size=250,
        compile="traced",
    )
    exact = diagnostics.linear_vae_optimum(torch.tensor(EIGENVALUES), width, beta=beta)
    found = diagnostics.active_units(run.pair, [(x,)])
    sides = diagnostics.rate_distortion(run.pair, [(x,)])
    return {
        "beta": beta,
        "active": found.count,
        "exact_active": exact.num_active,
        "rate": sides.rate,
        "exact_rate": exact.rate,
        "bound": -(sides.rate + sides.distortion),
        "exact_bound": exact.bound,
        "log_likelihood": exact.log_likelihood,
    }


def main() -> None:
    arguments = options(__doc__).parse_args()
    cache, end = arguments.cache / "beta", f"{arguments.size}-{arguments.seed}.json"
    pairs, found = {}, []
    for beta in BETAS:
        pairs[beta] = train(f"beta-{beta}", SGVB_B(), beta, arguments).pair
        values = cached_json(cache / f"measured-beta-{beta}-{end}", functools.partial(measured, pairs[beta], arguments))
        found.append({"objective": f"beta = {beta:g}", **values})
    for name, estimator in OTHERS.items():
        pair = train(name, estimator(), None, arguments).pair
        key = f"measured-{name}-{end}".replace(" ", "_")
        found.append({"objective": name, **cached_json(cache / key, functools.partial(measured, pair, arguments))})
    keys = ("rate", "distortion", "mutual_information", "total_correlation", "dimension_wise_kl", "mse")
    header = ("objective", "bound", "rate", "distortion", "mutual information", "total correlation", "units' KL", "MSE",
              "active units")  # fmt: skip
    rows = []
    for row in found:
        numbers = (-row["rate"] - row["distortion"], *(row[key] for key in keys))
        rows.append((row["objective"], *(f"{value:.2f}" for value in numbers), row["active_units"]))
    print(f"{table(header, rows)}\n")
    linear = [
        cached_json(cache / f"linear-{beta}-{end}", functools.partial(collapse, beta, arguments))
        for beta in LINEAR_BETAS
    ]
    header = ("beta", "active units", "exact", "rate", "exact", "bound", "exact", "log p(x)")
    keys = ("rate", "exact_rate", "bound", "exact_bound", "log_likelihood")
    lines = [(f"{r['beta']:g}", r["active"], r["exact_active"], *(f"{r[k]:.3f}" for k in keys)) for r in linear]
    print(table(header, lines))
    result = {"mnist": found, "eigenvalues": EIGENVALUES, "linear": linear}
    finish(arguments, "beta", result, {"beta": draw(found), "beta_collapse": draw_linear(linear)})
    look(pairs, arguments)


def draw(found: list[dict[str, Any]]) -> Any:
    """Distortion over rate."""
    curve = [row for row in found if row["objective"].startswith("beta = ")]
    lines = {"beta-VAE": ([row["rate"] for row in curve], [row["distortion"] for row in curve])}
    for row in found[len(curve) :]:
        lines[row["objective"]] = ([row["rate"]], [row["distortion"]])
    return plotting.lines({"": lines}, x="rate (nats)", y="distortion (nats)")


def draw_linear(linear: list[dict[str, Any]]) -> Any:
    """Active units over beta, trained and exact."""
    betas = [row["beta"] for row in linear]
    return plotting.lines(
        {"": {"trained": (betas, [row["active"] for row in linear])}},
        x="beta",
        y="active units of 10",
        published={"": {"closed form": (betas, [row["exact_active"] for row in linear])}},
        log="x",
    )


def look(pairs: dict[float, nn.Module], arguments: Any) -> None:
    """Traversals of the most active units, and interpolations between two images, for some beta."""
    data: Any = dataset("mnist", arguments, "static")
    (x,) = data.test.batch(torch.arange(1000))
    quantiles = torch.linspace(0.05, 0.95, 9)
    for beta in SHOWN:
        pair = pairs[beta]
        units = diagnostics.active_units(pair, [(x,)])
        shown = units.variances.argsort(descending=True)[:5]
        values = diagnostics.prior_quantiles(pair, quantiles, x[:1])
        latents = units.codes[:1].expand(len(shown), len(quantiles), LATENT_DIM).clone()
        for row, unit in enumerate(shown):
            latents[row, :, unit] = values[unit]
        images = diagnostics.decode(pair, latents.flatten(0, 1), x[:1]).unflatten(0, latents.shape[:2])
        figure = plotting.traversals(images, quantiles=quantiles, dims=shown.tolist())
        print(f"figure: {plotting.save(figure, arguments.results / f'beta_traversals_{beta:g}_{arguments.size}.png')}")
    start, end = x[[3, 5, 11, 18]], x[[2, 1, 9, 7]]
    steps = diagnostics.interpolate(pairs[1.0], start, end, 9)
    path = arguments.results / f"beta_interpolations_{arguments.size}.png"
    print(f"figure: {plotting.save(plotting.interpolations(steps, start, end), path)}")
    frames = diagnostics.interpolate(pairs[1.0], start, end, 25)
    print(f"animation: {plotting.animation(frames.transpose(0, 1), path.with_suffix('.gif'))}")


if __name__ == "__main__":
    main()
