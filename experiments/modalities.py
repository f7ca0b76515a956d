"""Image, label and row profile of MNIST as three modalities: products and mixtures of experts (MVAE, MMVAE).

The image is binarized once, with Bernoulli pixels; the label is one of ten classes; the profile counts the white pixels
of each row, by a negative binomial. Three pairs of the same networks and 64 latents:

  product   a product of experts, trained on all three at once
  MVAE      the same, trained on the sum of the bounds of all seven subsets (Wu & Goodman 2018)
  MMVAE     a mixture of experts, with one stratified draw of each (Shi et al. 2019)

Told are, of test data:

- the accuracy of the label that is the likeliest given other modalities, beside a classifier of the same encoder that
  is trained on labels alone; and how often that classifier finds the label, or that of the datum, in what is generated
  from another modality, beside how often it does in test images themselves, and in those that a conditional VAE of the
  image given the label draws;
- the bound and log p of all modalities and of each alone. Theory: the mean of log p(x) of all is at least the sum of
  those of each (what is between is what they tell of each other); and a guide that sees more of what the model has has
  the higher bound, if it is the right posterior: L(image, label, profile; q(z | S)) rises with S.

These are numbers of other data and networks than the papers', which are not repeated here.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from drawing import rows_of_images, styled
from shared import adam, cached_fit, cached_json, dataset, finish, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import MLP, SGVB_A, SGVB_B, Bernoulli, Cosine, DiagonalNormal, Pair, StandardNormal, diagnostics, evidence
from pyro_vae.data import Data, Split
from pyro_vae.likelihoods import Classes, NegativeBinomial
from pyro_vae.models import ConditionalVAE, MultimodalVAE
from pyro_vae.models.multimodal import Modality
from pyro_vae.plotting.style import LINES, SQUARE, HouseFigure

NAMES = ("image", "label", "profile")
KINDS: dict[str, dict[str, Any]] = {
    "product": {"experts": "product", "subsets": "joint"},
    "MVAE": {"experts": "product", "subsets": "all"},
    "MMVAE": {"experts": "mixture", "subsets": "joint"},
}
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"epochs": 2, "width": 16, "images": 300, "test": 50, "draws": 10},
    "quick": {"epochs": 30, "width": 512, "images": None, "test": 1000, "draws": 500},
    "full": {"epochs": 300, "width": 512, "images": None, "test": 10_000, "draws": 5000},
}
LATENT, SHAPE, BATCH, DRAWS = 64, (1, 28, 28), 500, 100
GIVEN = (("image",), ("profile",), ("image", "profile"))  # from which the label is told
SEEN = (("label",), ("profile",), ("image",), ("image", "profile"), NAMES)  # by guides of all three
SHOWN = 10


def three(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The modalities of images ``[N, 1, 28, 28]`` of 0 and 1."""
    return images, labels, images.sum((1, 3))


def data_of(arguments: Any) -> Data:
    mnist, limit = dataset("mnist", arguments, "static"), SIZES[arguments.size]["images"]
    parts: dict[str, Any] = {}
    for part in ("train", "valid", "test"):
        split = getattr(mnist, part)
        (images,) = split.batch(slice(limit))
        parts[part] = Split(*three(images, split.labels[:limit]), name=part)
    return Data("mnist", **parts)


def make(kind: str, mean: Tensor, width: int) -> MultimodalVAE:
    """The pair, the image of which starts at the mean of the training data."""
    decoder = MLP(LATENT, SHAPE, (width, width))
    decoder.start_at(mean.clamp(0.005, 0.995).logit())
    modalities = {
        "image": Modality(DiagonalNormal(encoder("image", (2, LATENT), width)), Bernoulli(decoder)),
        "label": Modality(DiagonalNormal(MLP(10, (2, LATENT), (width,))), Classes(MLP(LATENT, 10, (width,)))),
        "profile": Modality(
            DiagonalNormal(encoder("profile", (2, LATENT), width)), NegativeBinomial(MLP(LATENT, (2, 28), (width,)))
        ),
    }
    return MultimodalVAE(modalities, StandardNormal(LATENT), **KINDS[kind])


def encoder(name: str, out_shape: Any, width: int) -> MLP:
    """Of an image or a profile; that of the classifier as well."""
    return MLP(SHAPE if name == "image" else 28, out_shape, (width, width))


def classifier(name: str, data: Data, arguments: Any) -> tuple[nn.Module, float]:
    """A network of the label given one modality, by cross-entropy on the training set, and its accuracy on the test
    set; the epoch is the one of the highest on the validation set."""
    size = SIZES[arguments.size]
    path = arguments.cache / "modalities" / f"classifier-{name}-{arguments.size}-seed{arguments.seed}.pt"
    network = nn.Sequential(encoder(name, 10, size["width"]))
    place = NAMES.index(name)
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        torch.manual_seed(arguments.seed)
        network = nn.Sequential(encoder(name, 10, size["width"]))
        optimizer, best = torch.optim.Adam(network.parameters(), 1e-3), -1.0
        kept: dict[str, Tensor] = {}
        for epoch in range(min(20, size["epochs"])):
            for batch in data.train.batches(100, shuffle=True, epoch=epoch, seed=arguments.seed):
                optimizer.zero_grad()
                F.cross_entropy(network(batch[place]), batch[1]).backward()
                optimizer.step()
            found = hits(network, data.valid, place).mean().item()
            if found > best:
                best, kept = found, {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(kept, path)
    return network, hits(network, data.test, place).mean().item()


def conditional(data: Data, judge: nn.Module, arguments: Any) -> dict[str, Any]:
    """A ConditionalVAE of the image given the label, of the same widths: how often the judge finds the label."""
    size = SIZES[arguments.size]

    def pairs_of(split: Any) -> Split:
        return Split(*split.tensors[:2], name=split.name)

    alone = Data("mnist", *(pairs_of(getattr(data, part)) for part in ("train", "valid", "test")))
    width, images = size["width"], alone.train.tensors[0]  # type: ignore[union-attr]
    mean = images.float().mean(0)
    folder = arguments.cache / "modalities" / f"conditional-{arguments.size}-{size['epochs']}-seed{arguments.seed}"
    trained = cached_fit(
        folder,
        lambda: ConditionalVAE(SHAPE, 10, LATENT, (width, width), mean=mean),
        alone,
        seed=arguments.seed,
        optimizer=adam(1e-3),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=size["epochs"],
        batch_size=min(BATCH, len(images) // 3),
        patience=size["epochs"],
    )

    def judged() -> list[float]:
        x, y = alone.test.batch(slice(None))  # type: ignore[union-attr]
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(arguments.seed)
            drawn = diagnostics.sample(trained.pair.eval(), len(x), x, y).bernoulli()
            return share(judge(drawn).argmax(-1) == y)

    return {
        "image given label": cached_json(folder / "judged.json", judged),
        "seconds": training_seconds(trained.history)[-1],
    }


@torch.no_grad()
def hits(network: nn.Module, split: Any, place: int) -> Tensor:
    batch = split.batch(slice(None))
    return (network(batch[place]).argmax(-1) == batch[1]).double()


def share(found: Tensor) -> list[float]:
    """A share with its standard error."""
    mean = found.double().mean().item()
    return [mean, math.sqrt(mean * (1 - mean) / len(found))]


@torch.no_grad()
def crossed(pair: Any, batch: tuple[Tensor, ...], judge: nn.Module, seed: int) -> dict[str, Any]:
    """Accuracies: of the label given others, and of the judge on images that are generated from others."""
    values = dict(zip(NAMES, batch, strict=True))
    found: dict[str, Any] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for names in GIVEN:
            given = {name: values[name] for name in names}
            parts = [pair.predict("label", **part, num_samples=DRAWS) for part in split_of(given)]
            found["label given " + " and ".join(names)] = share(torch.cat(parts).argmax(-1) == values["label"])
        for name in ("label", "profile"):
            drawn = [pair.generate(**part)["image"][0] for part in split_of({name: values[name]})]
            found[f"image given {name}"] = share(judge(torch.cat(drawn)).argmax(-1) == values["label"])
        joint = pair.generate(num_samples=len(values["label"]))
        found["image and label drawn"] = share(judge(joint["image"]).argmax(-1) == joint["label"].long())
    return found


def split_of(given: dict[str, Tensor], size: int = 500) -> list[dict[str, Tensor]]:
    count = len(next(iter(given.values())))
    return [{name: value[at : at + size] for name, value in given.items()} for at in range(0, count, size)]


class Seeing(Pair):
    """The pair, whose guide sees some of the modalities alone."""

    def __init__(self, pair: MultimodalVAE, names: tuple[str, ...]) -> None:
        def guide(*values: Tensor) -> Any:
            return pair.guide(*(v if name in names else None for name, v in zip(NAMES, values, strict=True)))

        super().__init__(lambda *values: pair.model(*values), guide, pair)


def bounds(pair: Any, batch: tuple[Tensor, ...], draws: int, seed: int) -> dict[str, Any]:
    """Bounds of all modalities by guides that see some, and log p of all and of each, with standard errors."""

    def mean(values: Tensor) -> list[float]:
        return [values.double().mean().item(), (values.double().std() / len(values) ** 0.5).item()]

    found: dict[str, Any] = {"guides": {}, "log_p": {}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for names in SEEN:
            seeing = Seeing(pair, names).eval()
            value = torch.cat(
                [SGVB_A(30).bound(seeing, *parts) for parts in zip(*(b.split(250) for b in batch), strict=True)]
            )
            found["guides"][" and ".join(names)] = mean(value)
        told = {}
        for names in (NAMES, *((name,) for name in NAMES)):
            given = tuple(value if name in names else None for name, value in zip(NAMES, batch, strict=True))
            told[names] = evidence.importance(pair, given, draws, seed=seed, chunk=8192).log_prob
            found["log_p"][" and ".join(names)] = mean(told[names])
        found["more_together"] = mean(told[NAMES] - torch.stack([told[name,] for name in NAMES]).sum(0))
    return found


def run(kind: str, data: Data, judge: nn.Module, arguments: Any) -> tuple[dict[str, Any], Any]:
    """One pair, trained and evaluated."""
    size = SIZES[arguments.size]
    folder = arguments.cache / "modalities" / f"{kind}-{arguments.size}-{size['epochs']}-seed{arguments.seed}"
    images: Any = data.train.tensors[0]  # type: ignore[union-attr]
    trained = cached_fit(
        folder,
        functools.partial(make, kind, images.float().mean(0), size["width"]),
        data,
        seed=arguments.seed,
        estimator=SGVB_A(len(NAMES)) if kind == "MMVAE" else SGVB_B(),
        optimizer=adam(1e-3),
        scheduler=Cosine(warmup=0.02),
        average=0.99,
        epochs=size["epochs"],
        batch_size=min(BATCH, len(images) // 3),
        clip_norm=1000.0,
        patience=size["epochs"],
    )
    pair: Any = trained.pair.eval()
    batch, few = data.test.batch(slice(None)), data.test.batch(slice(size["test"]))  # type: ignore[union-attr]
    accuracy = cached_json(folder / "crossed.json", lambda: crossed(pair, batch, judge, arguments.seed))
    found = cached_json(folder / "bounds.json", lambda: bounds(pair, few, size["draws"], arguments.seed))
    return {"kind": kind, "accuracy": accuracy, **found, "seconds": training_seconds(trained.history)[-1]}, pair


@styled
def draw(runs: list[dict[str, Any]], ceilings: dict[str, float]) -> Any:
    """Accuracies, and bounds by what the guide sees."""
    figure = HouseFigure(figsize=(10.0, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    tasks, seen = list(runs[0]["accuracy"]), list(runs[0]["guides"])
    for index, row in enumerate(runs):
        style: dict[str, Any] = {"fmt": "o", "color": LINES[index], "capsize": 2, "markersize": 4, "label": row["kind"]}
        for ax, values in ((left, row["accuracy"]), (right, row["guides"])):
            places = [at + 0.2 * (index - 1) for at in range(len(values))]
            centers, errors = zip(*values.values(), strict=True)
            ax.errorbar(centers, places, xerr=[2 * error for error in errors], **style)
    for at, task in enumerate(tasks):
        if task in ceilings:
            left.plot([ceilings[task]] * 2, [at - 0.4, at + 0.4], color="#222222", label="classifier" if not at else "")
    left.set_yticks(range(len(tasks)), tasks)
    left.set_xlabel("share of right labels")
    right.set_yticks(range(len(seen)), ["all" if name == " and ".join(NAMES) else name for name in seen])
    right.set_xlabel("bound of all three, nats, by what the guide sees")
    for ax in (left, right):
        ax.invert_yaxis()
        ax.grid(True, axis="x")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@styled
def draw_images(pairs: dict[str, Any], data: Data, seed: int) -> Any:
    """Images that are generated of labels, and of profiles."""
    figure = HouseFigure(figsize=(10.0, 2.4), layout=SQUARE)
    images, _, profiles = data.test.batch(slice(SHOWN))  # type: ignore[union-attr]
    for ax, (title, given) in zip(
        figure.subplots(1, 2),
        {"label": {"label": torch.arange(10)}, "profile": {"profile": profiles}}.items(),
        strict=True,
    ):
        rows = {"test data": images} if title == "profile" else {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for kind, pair in pairs.items():
                rows[kind] = pair.generate(**given)["image"][0]
        rows_of_images(ax, rows, f"images drawn of a {title}" + (", 0 to 9" if title == "label" else ""))
    return figure


def in_words(runs: list[dict[str, Any]], ceilings: dict[str, float]) -> str:
    """What it comes to."""
    lines = []
    for row in runs:
        together, error = row["more_together"]
        guides = [value for value, _ in row["guides"].values()]
        order = "rises" if all(a < b for a, b in itertools.pairwise(guides[2:])) else "does not rise"
        given = row["accuracy"]["label given image"]
        lines.append(
            f"{row['kind']}: log p of all three is {together:.1f} ({error:.1f}) nats above the sum of each; the "
            f"bound of all {order} from a guide that sees the image to image and profile and to all; label given image "
            f"{100 * given[0]:.1f} % ({100 * given[1]:.1f}), a classifier {100 * ceilings['label given image']:.1f} %."
        )
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--smoke", action="store_const", dest="size", const="smoke", help="seconds, to see that it runs"
    )
    arguments = parser.parse_args()
    data = data_of(arguments)
    judge, of_image = classifier("image", data, arguments)
    _, of_profile = classifier("profile", data, arguments)
    ceilings = {
        "label given image": of_image, "label given profile": of_profile, "image given label": of_image,
        "image given profile": of_image,
    }  # fmt: skip
    beside = conditional(data, judge.eval(), arguments)
    runs, pairs = [], {}
    for kind in KINDS:
        found, pairs[kind] = run(kind, data, judge.eval(), arguments)
        runs.append(found)
    tasks = list(runs[0]["accuracy"])

    def percent(value: list[float]) -> str:
        return f"{100 * value[0]:.1f} ({100 * value[1]:.1f})"

    rows = [
        (
            task,
            *(percent(row["accuracy"][task]) for row in runs),
            percent(beside[task]) if task in beside else None,
            f"{100 * ceilings[task]:.1f}" if task in ceilings else None,
        )
        for task in tasks
    ]
    print(table(("right labels, % (error)", *KINDS, "conditional VAE", "classifier"), rows))

    def nats(value: list[float]) -> str:
        return f"{value[0]:.1f} ({value[1]:.1f})"

    for title, key in (("bound of all, by what the guide sees", "guides"), ("log p", "log_p")):
        header = (f"{title}, nats (error)", *KINDS)
        print(f"\n{table(header, [(name, *(nats(row[key][name]) for row in runs)) for name in runs[0][key]])}")
    print(f"\n{in_words(runs, ceilings)}")
    figures = {"modalities": draw(runs, ceilings), "modalities_images": draw_images(pairs, data, arguments.seed)}
    finish(arguments, "modalities", {"runs": runs, "conditional": beside, "classifier": ceilings}, figures)


if __name__ == "__main__":
    main()
