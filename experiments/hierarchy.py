"""Deep hierarchies of latents on MNIST: a guide from the data upwards against the ladder.

Sonderby et al. (2016) train the same chain of five Gaussian latents (64, 32, 16, 8, 4, between them two hidden layers
of 512, 256, 128, 64, 32) with two guides. One goes from the data upwards (plain): its upper levels stay unused. The
other goes down with the model, and merges at each level what it has seen of the data with the model's prior, weighed by
their precisions (ladder): its upper levels are used. Batch norm and a warm-up of beta help both.

  grid    both guides, L = 1 ... 5 (--quick: 1, 3, 5), with and without batch norm and warm-up; one latent has one guide
  ladder  the ladder of five levels against pairs of one latent with the same widths, at equal epochs: the networks next
          to the data alone, without and with batch norm, with as many units as all levels of the ladder have together,
          and with all hidden layers of the ladder one behind the other
  conv    the convolutional ladder of three levels, on dynamic MNIST (--full: on static MNIST as well)

Dynamic MNIST unless said. The bound and the KL of each level, at draws of the levels before it, are of all test images.
The NLL is by importance sampling (5,000 samples; conv: 1,000, as published) of the first test images, in the table by
number, carried over to all 10,000 by the bound, of which both are known. Of a level, "active" counts its units whose
mean moves with the data, Var_x(E[z | x]) > 0.01, and in brackets those of the paper, KL > 0.01 nats: where the prior of
a level moves with the levels above, a unit may do the one and not the other. A level is called used if its KL is above
0.1 nats and the mean of at least one of its units moves.

--quick: Adam at 2e-3 with a cosine, batch 250 (conv: 125), averaged weights, warm-up over the first 40 % of the epochs
in the grid and 20 % elsewhere; few epochs, one seed. --full: the schedule in the example of the authors' code: 2,000
epochs at batch 256, Adam at 2e-4, warm-up over 200 epochs. Published: the five-layer ladder (fine-tuned with 10
importance samples, which is not done here), and -ELBO and NLL of convolutional ladders.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from drawing import styled
from matplotlib.colors import LogNorm, Normalize
from shared import (
    adam,
    cached_fit,
    cached_json,
    carried_over,
    dataset,
    finish,
    in_batches,
    options,
    table,
    training_seconds,
)
from torch import Tensor, nn

from pyro_vae import SGVB_A, Cosine, Linear, diagnostics, evidence, plotting
from pyro_vae.models import MLPVAE, ConvLadderVAE, HierarchicalVAE, LadderVAE
from pyro_vae.networks import MLP
from pyro_vae.pair import evaluating, latent_sites, run
from pyro_vae.plotting.style import INK, PAGE, HouseFigure

LATENT_DIMS, HIDDEN = (64, 32, 16, 8, 4), (512, 256, 128, 64, 32)
GUIDES: dict[str, Any] = {"plain": HierarchicalVAE, "ladder": LadderVAE}
VARIANTS = {(False, False): "neither", (True, False): "batch norm", (False, True): "warm-up", (True, True): "both"}
leaky_relu: Any = functools.partial(nn.LeakyReLU, 0.1)
CONV: dict[str, Any] = {
    "latent_dims": (8, 16, 32),
    "channels": (24, 48, 48),
    "strides": (2, 2, 1),
    "normalization": "batch",
}
PUBLISHED_NLL = 81.74  # log p(x) >= -81.74, five levels
PUBLISHED_CONV = {"bound": -82.14, "nll": 79.24}  # static MNIST, three levels
CONV_TARGET = 82.0
ACTIVE_KL, USED = 0.01, 0.1  # nats of a unit, of a level


@dataclass(frozen=True)
class Size:
    """How long is trained, and of how many test images the NLL is estimated exactly."""

    levels: Sequence[int]  # of the grid
    epochs: Mapping[str, int]
    exact: Mapping[str, int]
    compile: Mapping[str, Any]
    warmup: Mapping[str, float]
    batch_size: Mapping[str, int]
    fit: Mapping[str, Any]


SIZES = {
    "quick": Size(
        levels=(1, 3, 5),
        epochs={"grid": 3, "ladder": 60, "conv-dynamic": 45},
        exact={"grid": 100, "ladder": 500, "conv-static": 250, "conv-dynamic": 250},
        # Compiling a pair takes longer than it saves in a few epochs.
        compile={"grid": "traced", "ladder": "auto", "conv-static": "auto", "conv-dynamic": "auto"},
        warmup={"grid": 0.4, "ladder": 0.2, "conv-static": 0.2, "conv-dynamic": 0.2},
        batch_size={"grid": 250, "ladder": 250, "conv-static": 125, "conv-dynamic": 125},
        fit={
            "optimizer": adam(2e-3),
            "scheduler": Cosine(warmup=0.02),
            "average": 0.99,
        },
    ),
    "full": Size(
        levels=(1, 2, 3, 4, 5),
        epochs={"grid": 2000, "ladder": 2000, "conv-static": 2000, "conv-dynamic": 2000},
        exact={"grid": 10_000, "ladder": 10_000, "conv-static": 10_000, "conv-dynamic": 10_000},
        compile={"grid": "auto", "ladder": "auto", "conv-static": "auto", "conv-dynamic": "auto"},
        warmup={"grid": 0.1, "ladder": 0.1, "conv-static": 0.1, "conv-dynamic": 0.1},
        batch_size={"grid": 256, "ladder": 256, "conv-static": 256, "conv-dynamic": 256},
        fit={"optimizer": adam(2e-4)},
    ),
}


def chain(guide: str, levels: int, batch_norm: bool, mean: Tensor) -> nn.Module:
    """The lowest levels of the paper's hierarchy, under one of the two guides."""
    return GUIDES[guide](
        mean.shape,
        LATENT_DIMS[:levels],
        HIDDEN[:levels],
        activation=leaky_relu,
        normalization="batch" if batch_norm else None,
        mean=mean,
    )


def one_latent(latent_dim: int, hidden: Sequence[int], batch_norm: bool, mean: Tensor) -> nn.Module:
    network = functools.partial(MLP, normalization="batch" if batch_norm else None)
    return MLPVAE(mean.shape, latent_dim, hidden, activation=leaky_relu, network=network, mean=mean)


def convolutional(mean: Tensor) -> nn.Module:
    return ConvLadderVAE(mean.shape, mean=mean, **CONV)


WIDE, DEEP = (HIDDEN[0],) * 2, tuple(width for width in HIDDEN for _ in range(2))
#: The pairs of the second part; the first one is the ladder.
RIVALS: dict[str, Callable[[Tensor], nn.Module]] = {
    "ladder, L = 5": functools.partial(chain, "ladder", 5, True),
    "one latent, no batch norm": functools.partial(one_latent, LATENT_DIMS[0], WIDE, False),
    "one latent": functools.partial(one_latent, LATENT_DIMS[0], WIDE, True),
    "one latent, as many units": functools.partial(one_latent, sum(LATENT_DIMS), WIDE, True),
    "one latent, as deep": functools.partial(one_latent, HIDDEN[-1], DEEP, True),
}


def trained(part: str, name: str, make: Callable[[Tensor], nn.Module], warm_up: bool, arguments: Any) -> dict[str, Any]:
    """One training and its evaluation."""
    size = arguments.size
    chosen = SIZES[size]
    data: Any = dataset("mnist", arguments, "static" if part == "conv-static" else "dynamic")
    epochs = chosen.epochs[part]
    key = name.replace(" ", "").replace(",", "-").replace("=", "")
    folder = arguments.cache / "hierarchy" / size / f"{part}-{key}-{epochs}-seed{arguments.seed}"
    found = cached_fit(
        folder,
        functools.partial(make, data.train.mean()),
        data,
        seed=arguments.seed,
        epochs=epochs,
        beta=Linear(0.01, 1.0, duration=chosen.warmup[part]) if warm_up else None,
        clip_norm=200.0,
        precision="auto",
        compile=chosen.compile[part],
        batch_size=chosen.batch_size[part],
        **chosen.fit,
    )
    exact, num_samples = chosen.exact[part], 1000 if part.startswith("conv") else 5000
    (x,) = data.test.batch(slice(None))
    measure = functools.partial(measured, found.pair, x, exact, num_samples, arguments.seed)
    ends = training_seconds(found.history)
    return {
        "part": part,
        "system": name,
        "parameters": sum(parameter.numel() for parameter in found.pair.parameters()),
        **cached_json(folder / f"test-{exact}-{num_samples}.json", measure),
        "epochs": epochs,
        "seconds": ends[-1],
        "history": [
            {"epoch": entry["epoch"], "train": entry["train"], "valid": entry["valid"], "seconds": end}
            for entry, end in zip(found.history, ends, strict=True)
            if entry["epoch"] % max(1, epochs // 100) == 0
        ],
    }


def measured(pair: nn.Module, x: Tensor, exact: int, num_samples: int, seed: int) -> dict[str, Any]:
    """Bound, NLL, and each level, of test images ``x``."""
    started = time.perf_counter()
    result = evidence.importance(pair, x[:exact], num_samples, seed=seed, precision="auto", progress=False)
    with torch.random.fork_rng(), evaluating(pair):
        torch.manual_seed(seed)
        sides = diagnostics.rate_distortion(pair, in_batches(x))
        units = unit_rates(pair, in_batches(x))
        bound, nll, error = -(sides.rate + sides.distortion), result.nll, result.nll_standard_error
        if exact < len(x):
            first = torch.cat([SGVB_A(50).bound(pair, part) for (part,) in in_batches(x[:exact], 50)])
            nll, error = carried_over(result.log_prob, first, bound)
    return {
        "bound": bound,
        "nll": nll,
        "nll_error": error,
        "exact": len(result.log_prob),
        "num_samples": num_samples,
        "effective_sample_size": result.effective_sample_size.median().item(),
        "rate": sides.rate,
        "levels": [
            {
                "site": site,
                "units": len(units[site]),
                "kl": sides.rates[site],
                "active": diagnostics.active_units(pair, in_batches(x), site=site).count,
                "active_by_kl": int((units[site] > ACTIVE_KL).sum()),
            }
            for site in sorted(units)
        ],
        "evaluation_seconds": time.perf_counter() - started,
    }


def unit_rates(pair: nn.Module, data: Iterator[tuple[Tensor]]) -> dict[str, Tensor]:
    """E[log q - log p] of each unit of each latent, one draw a datum: its share of the KL, ``[D]`` in nats."""
    totals: dict[str, Tensor] = {}
    count = 0
    for batch in data:
        with torch.no_grad(), pyro.validation_enabled(False):
            model, guide = run(pair, *batch)
        for name, site in latent_sites(guide).items():
            z = site["value"]
            log_ratio = by_unit(site["fn"], z) - by_unit(model.nodes[name]["fn"], z)
            totals[name] = totals.get(name, 0.0) + log_ratio.double().flatten(1).sum(0)
        count += len(batch[0])
    return {name: total / count for name, total in totals.items()}


def by_unit(fn: Any, z: Tensor) -> Tensor:
    """The log-density of independent units, one by one."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn.log_prob(z)


def grid(arguments: Any) -> list[dict[str, Any]]:
    """Both guides, all depths and variants."""
    rows = []
    for guide, levels, (batch_norm, warm_up) in itertools.product(GUIDES, SIZES[arguments.size].levels, VARIANTS):
        if arguments.only_guide not in (None, guide):
            continue
        one = levels == 1  # which is the same pair under both guides
        name = ", ".join(("one latent" if one else guide, f"L = {levels}", VARIANTS[batch_norm, warm_up]))
        make = functools.partial(chain, "plain" if one else guide, levels, batch_norm)
        facts = {"guide": guide, "num_levels": levels, "batch_norm": batch_norm, "warm_up": warm_up}
        rows.append({**facts, **trained("grid", name, make, warm_up, arguments)})
    return rows


def ladder(arguments: Any) -> list[dict[str, Any]]:
    """The ladder and its rivals of one latent."""
    return [trained("ladder", name, make, True, arguments) for name, make in RIVALS.items()]


def conv(arguments: Any) -> list[dict[str, Any]]:
    """The convolutional ladder, on static and on dynamic MNIST."""
    return [
        trained(f"conv-{kind}", f"convolutional ladder, L = 3, {kind}", convolutional, True, arguments)
        for kind in ("dynamic", "static")
        if f"conv-{kind}" in SIZES[arguments.size].epochs
    ]


def used(row: dict[str, Any]) -> int:
    return sum(level["kl"] > USED and level["active"] > 0 for level in row["levels"])


def above(row: dict[str, Any]) -> float:
    """The KL of all levels but the lowest."""
    return sum(level["kl"] for level in row["levels"][1:])


def grid_in_words(rows: list[dict[str, Any]]) -> str:
    deepest = max(row["num_levels"] for row in rows)
    found = {(row["guide"], variant_of(row)): row for row in rows if row["num_levels"] == deepest}
    parts = []
    for guide in GUIDES:
        of_guide = {name: found[guide, name] for name in VARIANTS.values()}
        texts = [
            f"{used(row)} ({name}; {above(row):.1f} of {row['rate']:.1f} nats above z1)"
            for name, row in of_guide.items()
        ]
        parts.append(f"the {guide} guide uses {', '.join(texts)}")
    gaps = [found["plain", name]["nll"] - found["ladder", name]["nll"] for name in VARIANTS.values()]
    best = [min((row for row in rows if row["guide"] == guide), key=lambda row: row["nll"]) for guide in GUIDES]
    bests = [f"{row['nll']:.2f} ({row['system']})" for row in best]
    return (
        f"Of {deepest} levels {'; '.join(parts)}. The ladder has the lower NLL in {sum(gap > 0 for gap in gaps)} of "
        f"{len(gaps)} variants of this depth (by {', '.join(f'{gap:+.2f}' for gap in gaps)} nats). The best NLL of "
        f"each guide: {'; '.join(bests)}."
    )


def variant_of(row: dict[str, Any]) -> str:
    return VARIANTS[row["batch_norm"], row["warm_up"]]


def ladder_in_words(rows: list[dict[str, Any]]) -> str:
    ours, *rivals = rows
    best = min(rivals, key=lambda row: row["nll"])
    gap = best["nll"] - ours["nll"]
    error = math.hypot(ours["nll_error"], best["nll_error"])
    met = gap > 0 and used(ours) >= 3
    return (
        f"After {ours['epochs']} epochs each the NLL of the ladder is {ours['nll']:.2f}, that of the best pair of one "
        f"latent ({best['system']}) {best['nll']:.2f}: the ladder is {abs(gap):.2f} nats "
        f"{'below' if gap > 0 else 'above'} (standard error at most {error:.2f}). It uses {used(ours)} of "
        f"{len(ours['levels'])} levels, with {above(ours):.1f} of {ours['rate']:.1f} nats above z1. The target, below "
        f"the best of one latent with three levels or more, is {'met' if met else 'not met'}."
    )


def conv_in_words(rows: list[dict[str, Any]]) -> str:
    dynamic, *others = rows
    missed = dynamic["nll"] - CONV_TARGET
    last = dynamic["history"][-1]
    tenth = dynamic["history"][-1 - max(1, len(dynamic["history"]) // 10)]
    text = (
        f"Dynamic MNIST: {dynamic['nll']:.2f} nats after {dynamic['seconds'] / 60:.0f} minutes of training; the target "
        f"of {CONV_TARGET} is {'met' if missed <= 0 else f'missed by {missed:.2f}'}. In the last tenth of the epochs "
        f"the validation bound still moved by {last['valid'] - tenth['valid']:+.2f} nats; it is "
        f"{last['train'] - last['valid']:.2f} nats better in training than in validation. Levels used: "
        f"{used(dynamic)} of {len(dynamic['levels'])}."
    )
    for row in others:
        text += (
            f" {row['part'].removeprefix('conv-')} MNIST: {row['nll']:.2f}, {row['nll'] - PUBLISHED_CONV['nll']:+.2f} "
            "from the published."
        )
    return text


def published_of(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Bound and NLL in the paper."""
    if row["part"] == "conv-static":
        return PUBLISHED_CONV["bound"], PUBLISHED_CONV["nll"]
    five = row["part"] in ("grid", "ladder") and row["system"] in ("ladder, L = 5, both", "ladder, L = 5")
    return None, PUBLISHED_NLL if five else None


def line(row: dict[str, Any]) -> tuple[str | None, ...]:
    bound, nll = published_of(row)
    levels = row["levels"]
    return (
        row["system"],
        f"{row['bound']:.2f}",
        None if bound is None else f"{bound:.2f}",
        f"{row['nll']:.2f} ± {row['nll_error']:.2f}",
        None if nll is None else f"{nll:.2f}",
        str(row["exact"]),
        " / ".join(f"{level['kl']:.2f}" for level in levels),
        " / ".join(f"{level['active']} ({level['active_by_kl']})" for level in levels),
        str(row["epochs"]),
        f"{row['seconds'] / 60:.1f}",
    )


HEADER = (
    "system", "bound", "published", "NLL", "published", "images", "KL of z1 / z2 / ...", "active (by KL)", "epochs",
    "minutes",
)  # fmt: skip


def draw_grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    panels: dict[str, Any] = {}
    for guide, (variant, name) in itertools.product(GUIDES, VARIANTS.items()):
        found = [row for row in rows if row["guide"] == guide and (row["batch_norm"], row["warm_up"]) == variant]
        values = [[row[key] for row in found] for key in ("num_levels", "nll")]
        panels.setdefault(f"{guide} guide", {})[name] = values
    published = {"ladder guide": {"published, both, 2,000 epochs": ([5], [PUBLISHED_NLL])}}
    depth = plotting.lines(
        panels,
        x="levels L",
        y="test NLL (nats per datum)",
        published=published,
        title=f"dynamic MNIST, {rows[0]['epochs']} epochs, batch norm and warm-up",
    )
    for ax in depth.axes:
        ax.set_xticks(sorted({row["num_levels"] for row in rows}))
    deepest = [row for row in rows if row["num_levels"] == max(row["num_levels"] for row in rows)]
    return {
        "hierarchy_grid": depth,
        "hierarchy_grid_levels": draw_levels(
            {f"{row['guide']}, {variant_of(row)}": row for row in deepest},
            f"dynamic MNIST, L = {deepest[0]['num_levels']}, {deepest[0]['epochs']} epochs, batch norm and warm-up",
        ),
    }


@styled
def draw_levels(rows: dict[str, dict[str, Any]], title: str) -> Any:
    """KL and active units: a row for each system, a column for each level."""
    names = list(rows)
    depth = max(len(row["levels"]) for row in rows.values())
    figure = HouseFigure(figsize=(8.4, 1.1 + 0.32 * len(names)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2, sharey=True)
    kl = torch.tensor([[level["kl"] for level in row["levels"]] for row in rows.values()])
    share = torch.tensor([[level["active_by_kl"] / level["units"] for level in row["levels"]] for row in rows.values()])
    panels: list[tuple[Any, Tensor, Any, str, Callable[[Any], str]]] = [
        (left, kl.clamp_min(ACTIVE_KL), LogNorm(ACTIVE_KL, 30.0), "KL (nats per datum)", "{kl:.2f}".format_map),
        (right, share, Normalize(0, 1), f"units with KL > {ACTIVE_KL} nats", "{active_by_kl} of {units}".format_map),
    ]
    for ax, values, norm, title, text in panels:
        ax.imshow(values, cmap="Blues", aspect="auto", norm=norm)
        for row, name in enumerate(names):
            for column, level in enumerate(rows[name]["levels"]):
                dark = norm(float(values[row, column])) > 0.6
                color = PAGE if dark else INK
                ax.text(column, row, text(level), ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(depth), [f"z{level + 1}" for level in range(depth)])
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(length=0, labelleft=ax is left)
        ax.spines[:].set_visible(False)
        ax.set_title(title)
        ax.set_xlabel("level (z1 is next to the data)")
    return figure


def draw_ladder(rows: list[dict[str, Any]]) -> dict[str, Any]:
    lines = {row["system"]: late(row, "epoch", 1.0) for row in rows}
    figure = plotting.lines(
        {"": lines}, x="epochs", y="minus the validation bound (nats)", title="dynamic MNIST, warm-up"
    )
    return {"hierarchy_ladder": figure}


def draw_conv(rows: list[dict[str, Any]]) -> dict[str, Any]:
    lines = {row["part"].removeprefix("conv-") + " MNIST": late(row, "seconds", 1 / 60) for row in rows}
    end = max(row["seconds"] for row in rows) / 60
    nll = {f"test NLL, {row['part'].removeprefix('conv-')}": ([row["seconds"] / 60], [row["nll"]]) for row in rows}
    published = {
        "published -ELBO, static": ([end], [-PUBLISHED_CONV["bound"]]),
        "published NLL, static": ([end], [PUBLISHED_CONV["nll"]]),
    }
    figure = plotting.lines(
        {"": lines},
        x="minutes of training",
        y="minus the validation bound (nats)",
        published={"": {**nll, **published}},
        title="convolutional ladder, three levels",
    )
    return {"hierarchy_conv": figure}


def late(row: dict[str, Any], key: str, scale: float) -> tuple[list[float], list[float]]:
    """Minus the validation bound, from a fifth of the training on."""
    kept = [entry for entry in row["history"] if entry["epoch"] >= 0.2 * row["epochs"]]
    return [scale * entry[key] for entry in kept], [-entry["valid"] for entry in kept]


PARTS: dict[str, tuple[Any, Any, Any]] = {
    "grid": (grid, grid_in_words, draw_grid),
    "ladder": (ladder, ladder_in_words, draw_ladder),
    "conv": (conv, conv_in_words, draw_conv),
}


def finished(part: str, rows: list[dict[str, Any]], arguments: Any) -> str:
    """Stores a part, draws it, and says what came out."""
    _, in_words, draw = PARTS[part]
    words = in_words(rows)
    published = {"nll": PUBLISHED_NLL, "convolutional": PUBLISHED_CONV}
    result = {"experiment": "hierarchy", "part": part, "published": published, "rows": rows, "words": words}
    finish(arguments, f"hierarchy_{part}", result, draw(rows))
    return words


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=PARTS, default=None, help="this part alone")
    parser.add_argument("--only-guide", choices=GUIDES, default=None, help="train the grid of this guide and stop")
    arguments = parser.parse_args()
    if arguments.only_guide is not None:
        grid(arguments)
        return
    rows: list[dict[str, Any]] = []
    words = []
    for part in PARTS if arguments.only is None else (arguments.only,):
        found = PARTS[part][0](arguments)
        words.append(finished(part, found, arguments))
        rows += found
    systems = {row["system"]: row for row in rows}  # one latent, under both guides, once
    print(table(HEADER, [line(row) for row in systems.values()]))
    print("\n" + "\n".join(words))


if __name__ == "__main__":
    main()
