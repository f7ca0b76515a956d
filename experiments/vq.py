"""VQ-VAE-2 with a prior over its codes, against a Gaussian VAE of the same networks (Razavi et al. 2019).

Two maps of codes, z2 and below it z1, are learned with the nearest code as guide and a uniform prior (the first stage);
then a gated PixelCNN of each level, of z1 given z2, is fitted to the codes (the second stage). Data: MNIST, binarized
once, with Bernoulli pixels; Frey faces with a discretized logistic. For the test data:

- the squared error of a reconstruction E[x | z], a pixel,
- the perplexity of each level, exp of the entropy of the codes' usage, of K codes,
- -log p(x | z) - log p(z), in bits per dimension: with the uniform prior, with the code prior, and of the Gaussian VAE
  minus its ELBO. The guide is a point, so that those of the codes are -log p(x, z*): an upper bound on -log p(x), as
  that of the ELBO is.

The Gaussian VAE has the encoders, decoders and maps of the VQ-VAE-2, with a standard normal prior and a diagonal normal
posterior of code_dim channels in the place of each map of codes. Of these data and this model no numbers are published;
the VQ-VAE of van den Oord et al. (2017) has 4.67 bits per dimension of CIFAR-10, beside 4.51 of a VAE of the same
networks with Gaussian latents, section 4.1.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from drawing import rows_of_images, styled
from shared import adam, cached_fit, cached_json, dataset, finish, in_batches, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import SGVB_B, Cosine, DiagonalNormal, StandardNormal, TopDownVAE, diagnostics
from pyro_vae.hierarchy import LatentLayer, concat
from pyro_vae.likelihoods import Bernoulli, DiscretizedLogistic, bits_per_dim
from pyro_vae.models import VQVAE, CodePrior
from pyro_vae.networks import Convolutional
from pyro_vae.plotting.style import SQUARE, HouseFigure

TITLES = {"mnist": "MNIST", "frey": "Frey faces"}
LIKELIHOODS = {"mnist": Bernoulli, "frey": DiscretizedLogistic}
NETWORKS: dict[str, dict[str, Any]] = {
    "quick": {
        "num_codes": 64, "code_dim": 16, "strides": (4, 1), "channels": 32, "num_blocks": 1, "block_channels": 16,
    },
    "full": {
        "num_codes": 512, "code_dim": 64, "strides": (2, 2), "channels": 128, "num_blocks": 2, "block_channels": 64,
    },
}  # fmt: skip
PRIORS: dict[str, dict[str, Any]] = {
    "quick": {"channels": 32, "num_layers": 4, "dropout": 0.1},
    "full": {"channels": 256, "num_layers": 15, "kernel_size": 5, "dropout": 0.1},
}
EPOCHS = {  # of the first stage, which the Gaussian VAE has as well, and of the second
    "quick": {"mnist": (3, 2), "frey": (80, 50)},
    "full": {"mnist": (200, 200), "frey": (2000, 1000)},
}
BATCH = {"mnist": 128, "frey": 50}
SHOWN = 10


class GaussianLevel(LatentLayer):
    """A map of normal latents in the place of a level's codes, on the level's networks."""

    def __init__(self, level: Any) -> None:
        super().__init__()
        size = (level.book.code_dim, *level.event_shape[:2])
        (layer,) = level.encoder.layers
        wider = nn.Conv2d(layer.in_channels, 2 * layer.out_channels, 1)
        self.latent = StandardNormal(size)
        self.recognition = DiagonalNormal(Convolutional(level.encoder.in_shape, torch.Size((2, *size)), [wider]))
        self.decoder = level.decoder

    def prior(self, h: Tensor | None) -> Any:
        return self.latent()

    def posterior(self, p: Any, h: Tensor | None, evidence: Tensor) -> Any:
        return self.recognition(concat(evidence, h, -3))

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.decoder(concat(z, h, -3))


def first_stage(name: str, size: str, event_shape: Any) -> VQVAE:
    return VQVAE(event_shape, likelihood=LIKELIHOODS[name], **NETWORKS[size])


def gaussian(name: str, size: str, event_shape: Any) -> TopDownVAE:
    pair = first_stage(name, size, event_shape)
    return TopDownVAE(pair.bottom_up, [GaussianLevel(level) for level in pair.levels], pair.likelihood)


def train(name: str, data: Any, arguments: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The three pairs, trained, and the seconds that each took."""
    size = arguments.size
    epochs, prior_epochs = EPOCHS[size][name]
    fitted: dict[str, Any] = {}
    seconds: dict[str, float] = {}

    def fit(kind: str, make: Any, count: int) -> None:
        run = cached_fit(
            arguments.cache / "vq" / f"{name}-{kind}-{size}-{count}-seed{arguments.seed}".replace(" ", "-"),
            make,
            data,
            seed=arguments.seed,
            estimator=SGVB_B(),
            optimizer=adam(2e-3),
            scheduler=Cosine(warmup=0.05),
            epochs=count,
            batch_size=BATCH[name],
            clip_norm=1000.0,
            patience=max(20, count // 5),
            compile="traced",  # convolutions: inductor would compile for a minute, and has little to fuse
        )
        fitted[kind], seconds[kind] = run.pair.eval(), training_seconds(run.history)[-1]

    fit("codes", functools.partial(first_stage, name, size, data.train.event_shape), epochs)
    fit("code prior", lambda: CodePrior(fitted["codes"], **PRIORS[size]), prior_epochs)
    fit("gaussian", functools.partial(gaussian, name, size, data.train.event_shape), epochs)
    return fitted, seconds


def evaluate(fitted: dict[str, Any], data: Any, seed: int) -> dict[str, Any]:
    """What the table holds, of test data."""
    (x,) = data.test.batch(slice(None))
    batches = list(in_batches(x))
    found: dict[str, Any] = {}
    for kind, pair in fitted.items():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sides = diagnostics.rate_distortion(pair, batches, SGVB_B())
        found[kind] = {
            "bound": -(sides.rate + sides.distortion),
            "bits": bits_per_dim(-(sides.rate + sides.distortion), x.shape[1:]),
            "rate": sides.rate,
            "rates": sides.rates,
            "distortion": sides.distortion,
            "error_of_pixel": diagnostics.reconstruction_mse(pair, batches) / x[0].numel(),
        }
    found["perplexity"] = {level.site: level.perplexity for level in diagnostics.levels(fitted["codes"], batches)}
    return found


def images(fitted: dict[str, Any], data: Any, seed: int) -> list[dict[str, Tensor]]:
    """Labeled rows of the figure: reconstructions of test data, and samples."""
    (x,), (shown,) = data.test.batch(slice(SHOWN)), data.train.batch(slice(SHOWN))
    codes, prior, normal = fitted["codes"], fitted["code prior"], fitted["gaussian"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        reconstructions = {
            "test data": x,
            "VQ-VAE-2": diagnostics.reconstruct(codes, x),
            "Gaussian VAE": diagnostics.reconstruct(normal, x),
        }
        samples = {
            "training data": shown,
            "code prior": diagnostics.sample(prior, SHOWN, x[:1]),
            "uniform codes": diagnostics.sample(codes, SHOWN, x[:1]),
            "Gaussian VAE": diagnostics.sample(normal, SHOWN, x[:1]),
        }
    return [reconstructions, samples]


@styled
def draw(name: str, panels: list[dict[str, Tensor]]) -> Any:
    """Reconstructions beside samples, one row for each pair."""
    figure = HouseFigure(figsize=(10.0, 2.6), layout=SQUARE)
    titles = ("reconstructions E[x | z]", "means E[x | z] at z from the prior")
    for ax, title, rows in zip(figure.subplots(1, 2), titles, panels, strict=True):
        shown = {label: row.clamp(0, 1) for label, row in rows.items()}
        rows_of_images(ax, shown, f"{TITLES[name]}: {title}")
    return figure


def report(name: str, arguments: Any) -> None:
    """One data set: trains, evaluates, prints the table and stores JSON and figure."""
    size, data = arguments.size, dataset(name, arguments, "static")
    fitted, seconds = train(name, data, arguments)
    cache = arguments.cache / "vq" / f"{name}-test-{size}-{EPOCHS[size][name]}-seed{arguments.seed}.json"
    found = cached_json(
        cache.with_name(cache.name.replace(" ", "")),
        functools.partial(evaluate, fitted, data, arguments.seed),
    )
    num_codes = NETWORKS[size]["num_codes"]
    levels = [(site, level.event_shape[:2]) for site, level in zip(("z1", "z2"), fitted["codes"].levels, strict=True)]
    print(f"\n{TITLES[name]}, test data")
    header = ("level", "map", "perplexity", "of", "bits a code, uniform", "code prior")
    rows = []
    for site, (height, width) in levels:
        bits = [found[kind]["rates"][site] / (height * width * math.log(2)) for kind in ("codes", "code prior")]
        rows.append((site, f"{height} x {width}", found["perplexity"][site], num_codes, *(f"{b:.2f}" for b in bits)))
    print(table(header, rows))
    header = ("pair", "squared error a pixel", "-log p(x|z), nats", "rate, nats", "bits per dimension", "seconds")
    labels = {"codes": "VQ-VAE-2, uniform prior", "code prior": "VQ-VAE-2, code prior", "gaussian": "Gaussian VAE"}
    rows = []
    for kind, label in labels.items():
        row, bits = found[kind], f"{found[kind]['bits']:.3f}"
        rows.append((label, f"{row['error_of_pixel']:.5f}", row["distortion"], row["rate"], bits, seconds[kind]))
    print(f"\n{table(header, rows)}")
    print(f"\n{in_words(name, found, num_codes)}\n")
    result = {"experiment": "vq", "data": name, "num_codes": num_codes, **found, "seconds": seconds}
    finish(arguments, f"vq_{name}", result, {f"vq_{name}": draw(name, images(fitted, data, arguments.seed))})


def in_words(name: str, found: dict[str, Any], num_codes: int) -> str:
    """What it comes to."""
    above = [site for site, value in found["perplexity"].items() if value > num_codes / 2]
    codes, prior, normal = (found[kind] for kind in ("codes", "code prior", "gaussian"))
    less = "less" if prior["bits"] < normal["bits"] else "more"
    return (
        f"{TITLES[name]}: the perplexity is above half of the code book in {len(above)} of {len(found['perplexity'])} "
        f"levels. The code prior takes {codes['bits'] - prior['bits']:.3f} bits per dimension off the uniform one's "
        f"{codes['bits']:.3f}; the VQ-VAE-2 then takes {abs(prior['bits'] - normal['bits']):.3f} {less} than the "
        "bound of the Gaussian VAE, "
        f"and the squared error of a reconstruction is {codes['error_of_pixel'] / normal['error_of_pixel']:.2f} times "
        "as large."
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=sorted(TITLES), default=None, help="one data set")
    arguments = parser.parse_args()
    for name in TITLES:
        if arguments.only in (None, name):
            report(name, arguments)


if __name__ == "__main__":
    main()
