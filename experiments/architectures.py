"""Activations, depth and superfluous latents on MNIST: the architecture experiments of the Cambridge poster.

Gray MNIST, Bernoulli pixels. The poster's set-up is that of Kingma & Welling (2013) as its authors replicated it:
tanh, weights from N(0, 0.01^2), biases 0, Adagrad at 0.01, M = 100, and -|theta|^2 / 2 added to each mini-batch's sum,
which is the prior of the weights counted N / M times. Beside it stand the defaults of this library: SiLU, torch's own
initialization, the mean of the data (taken from the encoder's input; where the decoder starts), Adam at 0.002 with a
cosine, no prior.

  activations  five of them under both set-ups
  depth        1 to 4 hidden layers on both sides. The poster found that four do not learn, and put it down to vanishing
               gradients. Here four layers are trained with one thing changed at a time; "without information" is the
               bound of q(z | x) = p(z) with each pixel at its mean in the training data
  N_z          2 to 200 under both set-ups: do superfluous latents overfit?

The gradients of depth are those of the weights of each layer at the start (layer by layer from the data to the code and
back), over 20 mini-batches in nats per datum: the norm of their mean, the norm of their noise (the deviation of one
mini-batch from that mean), and the norm of what the prior of the weights adds. Adagrad divides each of them by its own
size, so that a small gradient alone does not stop it; one below the noise or below the prior may.

--quick trains on 10,000 images with 200 hidden units for 16 epochs, --full on 50,000 with 500 for 2,000 (1e8 samples).
Bounds are L^B at the last weights, over all training images of the run and over the validation images. The poster
published no numbers of these; its bounds at 1e8 samples, by L^B and so without the prior (lower_bound.py), stand beside
N_z = 10 and 20 of the full run. One seed: differences of a nat are not to be trusted. Seconds are of training, without
validation, on a machine that may have had else to do.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from drawing import TRAIN, color, crop, legend, line, log_axis, panels, styled
from shared import (
    adam,
    cached_fit,
    cached_json,
    dataset,
    finish,
    kept,
    options,
    table,
    thinned,
    training_seconds,
)
from torch import Tensor, nn

from pyro_vae import SGVB_B, Bernoulli, Cosine, WeightPrior, diagnostics, plotting
from pyro_vae.data import Data
from pyro_vae.models import MLPVAE
from pyro_vae.networks import MLP, Normalization, ResidualMLP, normal_init
from pyro_vae.plotting.style import INK, MUTED


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    num_data: int
    num_valid: int
    hidden: int
    epochs: int


SIZES = {"quick": Size(10_000, 5_000, 200, 16), "full": Size(50_000, 10_000, 500, 2_000)}
BATCH = 100


@dataclass(frozen=True)
class Setup:
    """A pair and its training; what is left out is the poster's."""

    latent_dim: int = 10
    encoder: int = 1  # hidden layers
    decoder: int = 1
    activation: type[nn.Module] = nn.Tanh
    normalization: Normalization | None = None
    residual: bool = False
    scale: float | None = 0.01  # of the initial weights; None for torch's own, 0 for 1 / sqrt(fan-in)
    centered: bool = False
    adam: bool = False
    prior: bool = True
    longer: int = 1  # times the epochs

    @property
    def key(self) -> str:
        """The name of its folder: what is not the poster's."""
        usual = Setup()
        changed = {name: value for name, value in vars(self).items() if value != getattr(usual, name)}
        parts = [f"{name}={getattr(value, '__name__', value)}" for name, value in changed.items()]
        return "-".join(parts) or "poster"


POSTER = Setup()
DEFAULTS = Setup(activation=nn.SiLU, scale=None, centered=True, adam=True, prior=False)
SETUPS = {"poster": POSTER, "defaults": DEFAULTS}
ACTIVATIONS = (nn.Tanh, nn.Sigmoid, nn.ReLU, nn.SiLU, nn.GELU)
DEPTHS = (1, 2, 3, 4)
LATENT_DIMS = (2, 5, 10, 20, 50, 100, 200)
DEEP = replace(POSTER, encoder=4, decoder=4)
ALONE = {
    "as the poster": DEEP,
    "four times as long": replace(DEEP, longer=4),
    "depth of the encoder alone": replace(DEEP, decoder=1),
    "depth of the decoder alone": replace(DEEP, encoder=1),
    "initial scale: torch's own": replace(DEEP, scale=None),
    "initial scale: 1 / sqrt(fan-in)": replace(DEEP, scale=0.0),
    "activation: ReLU": replace(DEEP, activation=nn.ReLU),
    "activation: SiLU": replace(DEEP, activation=nn.SiLU),
    "batch normalization": replace(DEEP, normalization="batch"),
    "residual blocks": replace(DEEP, residual=True),
    "optimizer: Adam, cosine": replace(DEEP, adam=True),
    "mean of the data": replace(DEEP, centered=True),
    "no prior of the weights": replace(DEEP, prior=False),
}
# The changes that are drawn: what the poster's explanation is about.
DRAWN = (
    "as the poster", "initial scale: torch's own", "initial scale: 1 / sqrt(fan-in)", "activation: ReLU",
    "batch normalization", "residual blocks",
)  # fmt: skip
# N_z -> (train, validation) after 1e8 samples, of the replication by the poster's authors.
PUBLISHED = {10: (-103.1, -105.3), 20: (-100.2, -101.6)}
NUM_GRADIENTS = 20


def make(setup: Setup, mean: Tensor, hidden: int) -> nn.Module:
    """The pair. A residual block has two layers, so that depth 4 is two blocks."""

    def widths(depth: int) -> tuple[int, ...]:
        return (hidden,) * (max(depth // 2, 1) if setup.residual else depth)

    pair = MLPVAE(
        mean.shape,
        setup.latent_dim,
        widths(setup.encoder),
        widths(setup.decoder),
        activation=setup.activation,
        network=functools.partial(ResidualMLP if setup.residual else MLP, normalization=setup.normalization),
        likelihood=functools.partial(Bernoulli, support="unit_interval"),
        mean=mean if setup.centered else None,
    )
    if setup.scale is not None:
        normal_init(pair, setup.scale)
    if setup.scale == 0:
        for layer in affine_maps(pair):
            nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5)
    return pair


def affine_maps(pair: Any) -> list[nn.Linear]:
    """From the data to the code and back."""
    parts = [*pair.posterior.modules(), *pair.likelihood.modules()]
    return [layer for layer in parts if isinstance(layer, nn.Linear)]


def subset(arguments: Any) -> Data:
    size, data = SIZES[arguments.size], dataset("mnist", arguments)
    return Data("mnist", data.train.take(size.num_data), data.valid.take(size.num_valid))


def trained(setup: Setup, arguments: Any) -> dict[str, Any]:
    """One training, with what is measured at its start and at its end."""
    size = SIZES[arguments.size]
    data: Any = subset(arguments)
    build = functools.partial(make, setup, data.train.mean(), size.hidden)
    epochs = setup.longer * size.epochs
    by_adam = {"optimizer": adam(2e-3), "scheduler": Cosine(warmup=0.02)}
    by_adagrad = {"optimizer": functools.partial(torch.optim.Adagrad, lr=0.01, fused=True)}
    folder = arguments.cache / "architectures" / arguments.size / f"{setup.key}-{epochs}-seed{arguments.seed}"
    run = cached_fit(
        folder,
        build,
        data,
        seed=arguments.seed,
        estimator=SGVB_B(),
        weight_prior=WeightPrior(count="batch") if setup.prior else None,
        batch_size=BATCH,
        epochs=epochs,
        compile="traced",
        **(by_adam if setup.adam else by_adagrad),
    )

    def measure() -> dict[str, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(arguments.seed)
            start = build()
            return {
                "train": bound(run.pair, data.train),
                "valid": bound(run.pair, data.valid),
                "active_units": diagnostics.active_units(run.pair, data.valid.batches(1000)).count,
                "start": gradients(start, data.train, setup.prior),
                "end": gradients(run.pair, data.train, setup.prior),
            }

    return {
        **{key: getattr(value, "__name__", value) for key, value in vars(setup).items()},
        **cached_json(folder / "measured.json", measure),
        "left_at": left_at(run.history, without_information(data)),
        "epochs": epochs,
        "seconds_an_epoch": training_seconds(run.history)[-1] / epochs,
        "history": thinned(kept(run.history, "epoch", "samples", "train", "valid"), 16),
    }


def bound(pair: nn.Module, split: Any) -> float:
    sides = diagnostics.rate_distortion(pair, split.batches(1000), SGVB_B())
    return -sides.rate - sides.distortion


def gradients(pair: nn.Module, split: Any, prior: bool) -> dict[str, list[float]]:
    """Norms of the gradient of the loss per datum with respect to the weights of each affine map.

    That of the mean over mini-batches (less what the noise adds to its square), that of the deviation of one of them,
    and that of the prior's part.
    """
    pair = copy.deepcopy(pair).train()  # a copy: running statistics move
    weights = [layer.weight for layer in affine_maps(pair)]
    drawn: list[tuple[Tensor, ...]] = []
    for _, (x,) in zip(range(NUM_GRADIENTS), split.batches(BATCH, shuffle=True), strict=False):
        loss = SGVB_B().differentiable_loss(pair.model, pair.guide, x) / len(x)
        drawn.append(torch.autograd.grad(loss, weights))
    found: dict[str, list[float]] = {"mean": [], "noise": [], "prior": []}
    for weight, parts in zip(weights, zip(*drawn, strict=True), strict=True):
        stacked = torch.stack(parts).double()
        variance = stacked.var(0).sum().item()
        square = stacked.mean(0).square().sum().item() - variance / len(stacked)
        found["mean"].append(math.sqrt(max(square, 0.0)))
        found["noise"].append(math.sqrt(variance))
        found["prior"].append(weight.detach().norm().item() / BATCH if prior else 0.0)
    return found


def without_information(data: Any) -> float:
    """The validation bound of q(z | x) = p(z) and each pixel at its mean (of the data and half a white image)."""
    num_data = len(data.train)
    mean = (data.train.mean().double() * num_data + 0.5) / (num_data + 1)
    (x,) = data.valid.batch(slice(None))
    return (x * mean.log() + (1 - x) * (-mean).log1p()).flatten(1).sum(1).mean().item()


def left_at(history: list[dict[str, Any]], nothing: float) -> int | None:
    """Samples seen when the validation bound first was more than a nat above the one without information."""
    return next((entry["samples"] for entry in history if entry["valid"] > nothing + 1), None)


def main() -> None:
    arguments = options(__doc__).parse_args()
    run = functools.partial(trained, arguments=arguments)
    nothing = without_information(subset(arguments))
    activations = {
        (way, activation.__name__): run(replace(setup, activation=activation))
        for way, setup in SETUPS.items()
        for activation in ACTIVATIONS
    }
    depths = {
        (way, depth): run(replace(setup, encoder=depth, decoder=depth))
        for way, setup in SETUPS.items()
        for depth in DEPTHS
    }
    alone = {change: run(setup) for change, setup in ALONE.items()}
    latents = {
        (way, latent_dim): run(replace(setup, latent_dim=latent_dim))
        for way, setup in SETUPS.items()
        for latent_dim in LATENT_DIMS
    }

    rows: list[Any] = [(way, activation, *columns(found)) for (way, activation), found in activations.items()]
    print(f"Activations\n{table(('set-up', 'activation', *COLUMNS), rows)}")

    rows = [("without information", None, None, nothing, 0, None, None)]
    rows += [(way, depth, *columns(found), seen(found)) for (way, depth), found in depths.items()]
    print(f"\nDepth\n{table(('set-up', 'hidden layers', *COLUMNS, LEFT), rows)}")
    changes = {**alone, "all defaults": depths["defaults", DEPTHS[-1]]}
    rows = [(change, *columns(found), seen(found), *weakest(found)) for change, found in changes.items()]
    header: tuple[str, ...] = (
        "four hidden layers, with", *COLUMNS, LEFT, "weakest layer", "gradient", "its noise", "prior's",
    )  # fmt: skip
    print(f"\nOne thing changed (gradients at the start)\n{table(header, rows)}")
    rows = [
        (depth, place, *(f"{depths['poster', depth]['start'][part][index]:.1e}" for part in ("mean", "noise", "prior")))
        for depth in DEPTHS
        for index, place in enumerate(places(depths["poster", depth]))
    ]
    header = ("hidden layers", "layer", "gradient", "its noise", "prior's")
    print(f"\nThe poster's set-up at the start, norms by layer\n{table(header, rows)}")

    rows = []
    for (way, latent_dim), found in latents.items():
        published = PUBLISHED if (arguments.size, way) == ("full", "poster") else {}
        theirs = published.get(latent_dim, (None, None))
        train, valid, active, seconds = columns(found)
        rows.append(
            (way, latent_dim, train, theirs[0], valid, theirs[1], found["train"] - found["valid"], active, seconds)
        )
    header = ("set-up", "N_z", "train", "published", "valid", "published", "train - valid", *COLUMNS[2:])
    print(f"\nLatents\n{table(header, rows)}")
    print(f"\n{in_words(activations, depths, alone, latents, nothing)}")

    results: dict[str, Any] = {
        **vars(SIZES[arguments.size]),
        "without_information": nothing,
        "activations": [{"set-up": way, **found} for (way, _), found in activations.items()],
        "depths": [{"set-up": way, **found} for (way, _), found in depths.items()],
        "alone": [{"change": change, **found} for change, found in alone.items()],
        "latents": [{"set-up": way, **found} for (way, _), found in latents.items()],
    }
    figures = {
        "architectures_activations": draw_activations(activations),
        "architectures_depth": draw_depth(depths, alone, nothing),
        "architectures_latents": draw_latents(latents),
    }
    finish(arguments, "architectures", results, figures)


COLUMNS = ("train", "valid", "active units", "seconds an epoch")
LEFT = "above no information after"  # by a nat, in samples


def seen(found: dict[str, Any]) -> str | None:
    return None if found["left_at"] is None else f"{found['left_at']:.1e}"


def columns(found: dict[str, Any]) -> tuple[Any, ...]:
    active = f"{found['active_units']} of {found['latent_dim']}"
    return found["train"], found["valid"], active, f"{found['seconds_an_epoch']:.2f}"


def places(found: dict[str, Any]) -> list[str]:
    """Names of the affine maps; each side has one more than hidden layers, a residual one two more."""
    total = len(found["start"]["mean"])
    deeper = (total - found["encoder"] - found["decoder"]) // 2  # the same surplus on both sides
    first = found["encoder"] + deeper
    return [f"encoder {index + 1}" for index in range(first)] + [f"decoder {i + 1}" for i in range(total - first)]


def weakest(found: dict[str, Any]) -> tuple[str, ...]:
    """The layer whose gradient is the smallest at the start, that gradient, its noise, and the prior's part there."""
    norms = found["start"]
    index = min(range(len(norms["mean"])), key=lambda i: math.hypot(norms["mean"][i], norms["noise"][i]))
    return places(found)[index], *(f"{norms[part][index]:.1e}" for part in ("mean", "noise", "prior"))


def in_words(activations: Any, depths: Any, alone: Any, latents: Any, nothing: float) -> str:
    """What the three come to."""
    lines = []
    for way in SETUPS:
        these = {key[1]: found for key, found in activations.items() if key[0] == way}
        ranked = sorted(these, key=lambda name: these[name]["valid"], reverse=True)
        times = [found["seconds_an_epoch"] for found in these.values()]
        order = ", ".join(f"{name} {these[name]['valid']:.1f}" for name in ranked)
        lines.append(
            f"{way}, activations by validation bound: {order}; {min(times):.2f} to {max(times):.2f} s an epoch."
        )
    lines.append(
        f"Without information the bound is {nothing:.1f}. In what follows stand how many nats above it the last "
        "weights are, the active units, and after how many samples the bound was a nat above it."
    )
    for way in SETUPS:
        courses = [f"{key[1]} {above(found, nothing)}" for key, found in depths.items() if key[0] == way]
        lines.append(f"{way}, by depth: {'; '.join(courses)}.")
    ranked = sorted(alone, key=lambda change: alone[change]["valid"], reverse=True)
    usual = alone["as the poster"]
    least = max(usual["valid"], nothing) + 1
    better = [c for c in ranked if alone[c]["valid"] > least and alone[c]["active_units"] > 0]
    same = [c for c in ranked if c not in better and alone[c] is not usual]
    lines += [
        f"Depth {DEPTHS[-1]} as the poster: {above(usual, nothing)}.",
        f"Better by more than a nat with: {each(alone, better, nothing)}.",
        f"Not better with: {each(alone, same, nothing)}.",
    ]
    shallow, deep = (total_norms(depths["poster", depth]) for depth in (DEPTHS[0], DEPTHS[-1]))
    norms = depths["poster", DEPTHS[-1]]["start"]
    below_noise = sum(a < b for a, b in zip(norms["mean"], norms["noise"], strict=True))
    below_prior = sum(a < b for a, b in zip(norms["mean"], norms["prior"], strict=True))
    lines.append(
        f"At the start the gradient of the poster's weakest layer is {min(shallow) / min(deep):.0f} times smaller at "
        f"depth {DEPTHS[-1]} than at depth {DEPTHS[0]}. Of the {len(deep)} layers of depth {DEPTHS[-1]} the mean "
        f"gradient is below the noise of one mini-batch in {below_noise}, and below the prior's in {below_prior}."
    )
    for way in SETUPS:
        these = {key[1]: found for key, found in latents.items() if key[0] == way}
        best = max(these, key=lambda n: these[n]["valid"])
        last = max(these)
        gaps = {n: found["train"] - found["valid"] for n, found in these.items()}
        lines.append(
            f"{way}: the best validation bound is {these[best]['valid']:.1f} at N_z = {best}; at N_z = {last} it is "
            f"{these[last]['valid']:.1f}, with {these[last]['active_units']} active units. Train - validation goes "
            f"from {gaps[min(these)]:.1f} nats at N_z = {min(these)} to {gaps[best]:.1f} at {best} and "
            f"{gaps[last]:.1f} at {last}."
        )
    return "\n".join(lines)


def above(found: dict[str, Any], nothing: float) -> str:
    left = "never" if found["left_at"] is None else f"after {found['left_at']:.1e}"
    return f"{found['valid'] - nothing:+.1f} ({found['active_units']} units, {left})"


def each(alone: dict[str, dict[str, Any]], changes: list[str], nothing: float) -> str:
    return "; ".join(f"{change} {above(alone[change], nothing)}" for change in changes) or "none of them"


def total_norms(found: dict[str, Any]) -> list[float]:
    """The norm of one mini-batch's gradient by layer, its mean and noise together."""
    return [math.hypot(a, b) for a, b in zip(found["start"]["mean"], found["start"]["noise"], strict=True)]


# Figures


def draw_activations(activations: dict[tuple[str, str], dict[str, Any]]) -> Any:
    """The validation bound against samples, a panel for each set-up."""
    shown: dict[str, dict[str, Any]] = {}
    for (way, activation), found in activations.items():
        history = [entry for entry in found["history"] if entry["epoch"] > 1] or found["history"]
        samples = [entry["samples"] for entry in history]
        shown.setdefault(TITLES[way], {})[activation] = (samples, [entry["valid"] for entry in history])
    return plotting.lines(shown, x="training samples seen", y="validation bound (nats per datum)", log="x")


TITLES = {"poster": "the poster's set-up", "defaults": "defaults of this library"}


@styled
def draw_depth(depths: Any, alone: Any, nothing: float) -> Any:
    """The bound by depth, its course, and the gradients at the start by layer."""
    figure, axes = panels(2, 2)
    figure.set_size_inches(10.5, 6.2)
    by_depth, course, by_layer, changed = axes.flat
    for index, way in enumerate(SETUPS):
        values = [depths[way, depth]["valid"] for depth in DEPTHS]
        line(by_depth, DEPTHS, values, color=color(index), label=TITLES[way])
    by_depth.set_xticks(DEPTHS)
    by_depth.set_xlabel("hidden layers on each side")
    for index, depth in enumerate(DEPTHS):
        history, label = depths["poster", depth]["history"], f"{depth} hidden layer{'s' * (depth > 1)}"
        samples = [entry["samples"] for entry in history]
        line(course, samples, [entry["valid"] for entry in history], color=color(index), label=label, marker="")
        layers(by_layer, depths["poster", depth], color=color(index), label=label)
    course.set_title(f"{TITLES['poster']}")
    log_axis(course)
    for ax in (by_depth, course):
        ax.axhline(nothing, color=MUTED, linestyle=":", label="without information")
        ax.set_ylabel("validation bound (nats per datum)")
    crop([by_depth, course])
    for index, change in enumerate(DRAWN):
        layers(changed, alone[change], color=color(index), label=change)
    deep = alone["as the poster"]
    layers(changed, deep, "prior", color=INK, linestyle=":", marker="", label="the prior's part, as the poster")
    layers(by_layer, deep, "prior", color=INK, linestyle=":", marker="", label="the prior's part, 4 layers")
    by_layer.set_title(f"{TITLES['poster']}, at the start")
    changed.set_title("four hidden layers, one thing changed")
    for ax in (by_layer, changed):
        ax.set_yscale("log")
        ax.axvline(1, color=MUTED, linewidth=0.8)
        ax.set_xlim(0, 2)
        ax.set_xticks([0, 0.5, 1, 1.5, 2], ["data", "encoder", "code", "decoder", "data"])
        ax.set_ylabel("norm of a mini-batch's\ngradient (nats per datum)")
    low, high = zip(*(ax.get_ylim() for ax in (by_layer, changed)), strict=True)
    for ax in (by_layer, changed):
        ax.set_ylim(min(low), max(high))
    for ax in axes.flat:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.4, fontsize=7.5)
    return figure


def layers(ax: Any, found: dict[str, Any], part: str = "", **style: Any) -> None:
    """Norms by layer, the layers of each side evenly over its half of the axis."""
    values = found["start"][part] if part else total_norms(found)
    first = sum(name.startswith("encoder") for name in places(found))
    at = [(index + 0.5) / first for index in range(first)]
    at += [1 + (index + 0.5) / (len(values) - first) for index in range(len(values) - first)]
    line(ax, at, values, **style)


@styled
def draw_latents(latents: dict[tuple[str, int], dict[str, Any]]) -> Any:
    """Train and validation bound, and active units, over N_z."""
    figure, (bounds, units) = (lambda found: (found[0], found[1][0]))(panels(1, 2))
    for index, way in enumerate(SETUPS):
        these = [latents[way, latent_dim] for latent_dim in LATENT_DIMS]
        line(bounds, LATENT_DIMS, [found["train"] for found in these], color=color(index), ls=TRAIN)
        line(bounds, LATENT_DIMS, [found["valid"] for found in these], color=color(index))
        line(units, LATENT_DIMS, [found["active_units"] for found in these], color=color(index))
    units.plot(LATENT_DIMS, LATENT_DIMS, color=MUTED, linestyle=":", linewidth=1.0)
    units.annotate("all", (LATENT_DIMS[-1], LATENT_DIMS[-1]), xytext=(-16, -2), textcoords="offset points", color=MUTED)
    bounds.set_ylabel("bound (nats per datum)")
    units.set_ylabel("active units")
    units.set_yscale("symlog", linthresh=1)
    units.set_yticks([0, *LATENT_DIMS], [str(value) for value in (0, *LATENT_DIMS)])
    for ax in (bounds, units):
        ax.set_xscale("log")
        ax.set_xticks(LATENT_DIMS, [str(value) for value in LATENT_DIMS])
        ax.minorticks_off()
        ax.set_xlabel("N_z, units of the latent")
    legend(figure, [TITLES[way] for way in SETUPS], "train", "validation")
    return figure


if __name__ == "__main__":
    main()
