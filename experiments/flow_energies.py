"""Flows on the four 2-D energies of Rezende & Mohamed (2015), table 1 and figure 3.

A density p(z) = exp(-U(z)) / Z is fitted by a flow on a Gaussian base: planar steps (K = 2, 8, 32), inverse
autoregressive steps and spline couplings. The free energy F = E_q[log q(z) + U(z)] is never below -log Z, which a
grid gives here.

The pair has no data: its model is the energy as a factor, its guide the flow; the rows of a batch are draws.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule
from shared import adam, cached_fit, cached_json, finish, options, table
from torch import Tensor

from pyro_vae import SGVB_A, Cosine, Linear, pair_method, plotting
from pyro_vae.priors import Flow, LearnedNormal
from pyro_vae.transforms import InverseAutoregressive, Planar, SplineCoupling

# -log Z with z_1 in [-4, 4] (U1 over the whole plane).
PUBLISHED = {"U1": -1.8775, "U2": -2.0821, "U3": -2.6417, "U4": -2.7107}
FLOWS = {
    "planar, K = 2": (Planar, 2),
    "planar, K = 8": (Planar, 8),
    "planar, K = 32": (Planar, 32),
    "IAF, K = 8": (functools.partial(InverseAutoregressive, hidden=(32,)), 8),
    "spline, K = 4": (functools.partial(SplineCoupling, hidden=(32,), bound=5.0), 4),
}
STEPS = {"quick": 6_000, "full": 500_000}
BATCH = 256
EDGE = 4.0  # the walls of z_1, and of the pictures


def _w1(z: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * z[..., 0] / 4)


def _w2(z: Tensor) -> Tensor:
    return 3 * torch.exp(-0.5 * ((z[..., 0] - 1) / 0.6) ** 2)


def _w3(z: Tensor) -> Tensor:
    return 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)


def _two(first: Tensor, second: Tensor) -> Tensor:
    return -torch.logaddexp(-0.5 * first**2, -0.5 * second**2)


def u1(z: Tensor) -> Tensor:
    """Two half-moons on a ring of radius 2."""
    ring = 0.5 * ((z.norm(dim=-1) - 2) / 0.4) ** 2
    return ring + _two((z[..., 0] - 2) / 0.6, (z[..., 0] + 2) / 0.6)


def u2(z: Tensor) -> Tensor:
    """A wave."""
    return 0.5 * ((z[..., 1] - _w1(z)) / 0.4) ** 2


def u3(z: Tensor) -> Tensor:
    """A wave that parts in the middle."""
    return _two((z[..., 1] - _w1(z)) / 0.35, (z[..., 1] - _w1(z) + _w2(z)) / 0.35)


def u4(z: Tensor) -> Tensor:
    """A wave that parts for good."""
    return _two((z[..., 1] - _w1(z)) / 0.4, (z[..., 1] - _w1(z) + _w3(z)) / 0.35)


ENERGIES = {"U1": u1, "U2": u2, "U3": u3, "U4": u4}


def walled(energy: Any, z: Tensor) -> Tensor:
    """The energy with soft walls at z_1 = -4 and 4, without which U2 to U4 have no finite Z."""
    return energy(z) + 100 * (z[..., 0].abs() - EDGE).clamp(min=0) ** 2


class Energy(PyroModule):
    """p(z) = exp(-U(z)) / Z by a factor, and a flow q(z); the data are placeholders, a row for each draw."""

    def __init__(self, name: str, flow: str) -> None:
        super().__init__()
        self.energy = ENERGIES[name]
        step, count = FLOWS[flow]
        self.q = Flow(LearnedNormal(2), [step(2) for _ in range(count)])

    @pair_method
    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), (2,)))
            pyro.factor("energy", -walled(self.energy, z))

    @pair_method
    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q())


def grid(side: int = 200) -> tuple[Tensor, float]:
    """Points of a square grid [-4, 4]^2, ``[side * side, 2]``, and the area of a cell."""
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * EDGE - EDGE
    second, first = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack((first, second), -1).reshape(-1, 2), (2 * EDGE / side) ** 2


def log_normalizer(energy: Any, half: float = 9.0, side: int = 3000) -> float:
    """log Z of the walled energy by the sum over a grid on [-half, half]^2."""
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 * half - half
    rows = [torch.stack((row.expand(side), centres), -1) for row in centres]
    summed = torch.stack([(-walled(energy, row)).logsumexp(0) for row in rows]).logsumexp(0)
    return summed.item() + 2 * math.log(2 * half / side)


def fitted(name: str, flow: str, steps: int, arguments: Any) -> dict[str, Any]:
    """One flow fitted to one energy: free energy, estimate of log Z, density on the grid."""
    rows = 100 * BATCH  # an epoch of 100 steps
    run = cached_fit(
        arguments.cache / "flow_energies" / f"{name}-{flow}-{steps}-seed{arguments.seed}".replace(" ", "").lower(),
        functools.partial(Energy, name, flow),
        torch.zeros(rows, 1),
        seed=arguments.seed,
        estimator=SGVB_A(),
        optimizer=adam(5e-3),
        scheduler=Cosine(),
        # The paper anneals the energy by beta_t from 0.01 to 1. A weight 1 / beta_t on the entropy is the same optimum.
        beta=Linear(start=10.0, end=1.0, duration=0.4),
        average=0.99,
        epochs=steps // 100,
        batch_size=BATCH,
        clip_norm=100.0,
        compile="traced",  # compiling twenty small graphs would take longer than it saves
    )
    with torch.random.fork_rng():
        torch.manual_seed(arguments.seed)
        log_weights = SGVB_A().bound(run.pair, torch.zeros(200_000, 1)).double()
    weights = log_weights.softmax(0)
    points, _ = grid(100)
    with torch.no_grad(), pyro.validation_enabled(False):
        # Where no draw of a flow comes, its inverse may overflow: the density is zero there.
        density = run.pair.q().log_prob(points.float()).exp().nan_to_num(0.0).reshape(100, 100)  # type: ignore[operator]
    return {
        "energy": name,
        "flow": flow,
        "free_energy": -log_weights.mean().item(),
        "standard_error": (log_weights.std() / math.sqrt(len(weights))).item(),
        "log_normalizer": (log_weights.logsumexp(0) - math.log(len(weights))).item(),
        "effective_sample_size": 1 / (len(weights) * weights.square().sum().item()),
        "seconds": run.history[-1]["seconds"],
        "density": [[round(value, 5) for value in row] for row in density.tolist()],
    }


def main() -> None:
    arguments = options(__doc__).parse_args()
    size = arguments.size
    exact = {name: -log_normalizer(energy) for name, energy in ENERGIES.items()}
    found = [
        cached_json(
            arguments.cache / "flow_energies" / f"{name}-{flow}-{size}-{arguments.seed}.json".replace(" ", "").lower(),
            functools.partial(fitted, name, flow, STEPS[size], arguments),
        )
        for name in ENERGIES
        for flow in FLOWS
    ]
    header = ("flow", *(f"{name}: F" for name in ENERGIES), "seconds")
    rows: list[tuple[Any, ...]] = []
    for flow in FLOWS:
        chosen = {row["energy"]: row for row in found if row["flow"] == flow}
        energies = (f"{chosen[name]['free_energy']:.3f}" for name in ENERGIES)
        rows.append((flow, *energies, sum(row["seconds"] for row in chosen.values())))
    rows.append(("-log Z, with these walls", *(f"{exact[name]:.3f}" for name in ENERGIES), None))
    rows.append(("-log Z, published", *(f"{PUBLISHED[name]:.3f}" for name in ENERGIES), None))
    print(table(header, rows))
    result = {
        "steps": STEPS[size],
        "negative_log_normalizer": exact,
        "published": PUBLISHED,
        "runs": [{key: value for key, value in row.items() if key != "density"} for row in found],
    }
    finish(arguments, "flow_energies", result, {"flow_energies": draw(found, exact)})


def draw(found: list[dict[str, Any]], exact: dict[str, float]) -> Any:
    """Energies down the page; the target, then each flow."""
    points, _ = grid(100)
    panels = {}
    for name, energy in ENERGIES.items():
        target = (exact[name] - walled(energy, points)).exp().reshape(100, 100)
        panels[f"{name}, -log Z = {exact[name]:.2f}"] = target.numpy()
        for row in found:
            if row["energy"] == name:
                panels[f"{row['flow']}\nF = {row['free_energy']:.2f}"] = np.asarray(row["density"])
    return plotting.densities(panels, extent=EDGE, columns=len(FLOWS) + 1)


if __name__ == "__main__":
    main()
