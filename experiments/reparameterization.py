"""The three ways to reparameterize, Kingma & Welling (2013), section 2.4: a family for q each, with its prior.

Static MNIST, 784-200-10-200-784, the same training for every family. Its prior is of the same family and support, with
the parameters that pyro_vae.priors gives it (StudentT: 3 degrees of freedom). The hidden units are tanh, so that the
decoder is bounded: under a Cauchy, which has no mean, E[log p(x | z)] would not exist with a decoder linear in z.

  bound     after training by L^A (the KL sampled) and, where its KL is registered, by L^B (in closed form); on test
            data, by L^A for all. Where q has heavy tails few data may decide the mean: the median is beside it
  gradient  its variance by both estimators at the same weights, those that training by L^A has reached, on one batch
            of 100: for the parameters of q, in squared nats per squared unit of a parameter. Compare along a row:
            what the outputs of the network mean is another thing in another family
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from drawing import log_axis, styled
from shared import adam, cached_fit, cached_json, dataset, finish, in_batches, options, table, training_seconds
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import SGVB_A, SGVB_B, Cosine, DiagonalNormal, StandardNormal, diagnostics, posteriors, priors
from pyro_vae.models import MLPVAE
from pyro_vae.plotting.style import INK, LINES, MUTED, HouseFigure

FAMILIES: dict[str, dict[str, tuple[Any, Any]]] = {
    "location and scale": {
        "Gaussian": (StandardNormal, DiagonalNormal),
        "Laplace": (priors.Laplace, posteriors.Laplace),
        "StudentT": (priors.StudentT, posteriors.StudentT),
        "Uniform": (priors.Uniform, posteriors.Uniform),
    },
    "inverse CDF": {
        "Exponential": (priors.Exponential, posteriors.Exponential),
        "Cauchy": (priors.Cauchy, posteriors.Cauchy),
        "Logistic": (priors.Logistic, posteriors.Logistic),
        "Gumbel": (priors.Gumbel, posteriors.Gumbel),
        "Weibull": (priors.Weibull, posteriors.Weibull),
        "Kumaraswamy": (priors.Kumaraswamy, posteriors.Kumaraswamy),
    },
    "composition": {
        "LogNormal": (priors.LogNormal, posteriors.LogNormal),
        "Gamma": (priors.Gamma, posteriors.Gamma),
        "Beta": (priors.Beta, posteriors.Beta),
        "Dirichlet": (priors.Dirichlet, posteriors.Dirichlet),
    },
}
ESTIMATORS = {"L^A": SGVB_A, "L^B": SGVB_B}
LATENT_DIM = 10
EPOCHS = {"quick": 3, "full": 200}
DRAWS = {"quick": 100, "full": 1000}  # of each gradient


def make(parts: tuple[Any, Any], mean: torch.Tensor) -> nn.Module:
    """The pair: prior and posterior of one family, the same networks for all of them."""
    prior, posterior = parts
    return MLPVAE(mean.shape, LATENT_DIM, (200,), activation=nn.Tanh, prior=prior, posterior=posterior, mean=mean)


def has_closed_form(pair: Any, x: torch.Tensor) -> bool:
    """Whether KL(q(z | x) || p(z)) is registered."""
    try:
        kl_divergence(pair.posterior(x), pair.prior().expand((len(x),)))
    except NotImplementedError:
        return False
    return True


def run(way: str, family: str, arguments: Any) -> dict[str, Any]:
    """A family: trained by both estimators, and the gradients of both."""
    data: Any = dataset("mnist", arguments, "static")
    size, seed = arguments.size, arguments.seed
    parts, mean, epochs = FAMILIES[way][family], data.train.mean(), EPOCHS[size]
    (batch,) = data.train.batch(torch.arange(100))
    closed = has_closed_form(make(parts, mean), batch)
    estimators = {name: kind for name, kind in ESTIMATORS.items() if closed or kind is SGVB_A}
    found: dict[str, Any] = {"way": way, "family": family, "seed": seed, "closed_form": closed, "trained_by": {}}
    folders = {
        name: arguments.cache / "reparameterization" / f"{family.lower()}-{name[-1]}-{epochs}-seed{seed}"
        for name in estimators
    }
    pairs = {}
    for name, kind in estimators.items():
        trained = cached_fit(
            folders[name],
            functools.partial(make, parts, mean),
            data,
            seed=seed,
            estimator=kind(),
            optimizer=adam(2e-3),
            scheduler=Cosine(warmup=0.02),
            average=0.99,
            epochs=epochs,
            batch_size=200,
            clip_norm=200.0,
        )
        pairs[name] = trained.pair
        test = cached_json(folders[name] / "test.json", functools.partial(evaluate, trained.pair, data.test, seed))
        seconds = training_seconds(trained.history)[-1]
        found["trained_by"][name] = {"valid": trained.bound, **test, "seconds": seconds}

    def gradients() -> list[dict[str, Any]]:
        statistics = diagnostics.gradient_statistics(
            pairs["L^A"], batch, {name: kind() for name, kind in estimators.items()},
            num_draws=DRAWS[size], num_reference_draws=DRAWS[size], seed=seed,
        )  # fmt: skip
        return statistics.as_rows()

    found["gradients"] = cached_json(folders["L^A"] / f"gradients-{DRAWS[size]}.json", gradients)
    return found


def evaluate(pair: Any, test: Any, seed: int) -> dict[str, float]:
    """The bound by L^A, one draw for each datum: its mean, and the datum that has the lowest."""
    (x,) = test.batch(slice(None))
    scores, kls = [], []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for (part,) in in_batches(x):
            q, p = pair.posterior(part), pair.prior().expand((len(part),))
            z = q.sample()
            scores.append(pair.likelihood(z).log_prob(part).double())
            kls.append((q.log_prob(z) - p.log_prob(z)).double())
    score, kl = torch.cat(scores), torch.cat(kls)
    bound = score - kl
    return {
        "test": bound.mean().item(),
        "median": bound.median().item(),
        "worst_datum": bound.min().item(),
        "rate": kl.mean().item(),
        "distortion": -score.mean().item(),
    }


def gradient(row: dict[str, Any], estimator: str, group: str = "q(z)") -> dict[str, Any]:
    """The statistics of one estimator; empty where it has no closed form."""
    return next((g for g in row["gradients"] if (g["estimator"], g["group"]) == (estimator, group)), {})


def number(value: float | None) -> str | None:
    """With a decimal, or short where one datum is off all scales."""
    return None if value is None else f"{value:.1f}" if abs(value) < 1e5 else f"{value:.1e}"


def main() -> None:
    arguments = options(__doc__).parse_args()
    runs = [run(way, family, arguments) for way, families in FAMILIES.items() for family in families]
    header = (
        "way", "family", "bound, by L^A", "by L^B", "median, by L^A", "by L^B", "KL, by L^A", "by L^B",
        "gradient of q: variance of L^A", "of L^B", "A / B", "SNR of L^A", "of L^B", "of p(x): L^A", "bias z of L^B",
    )  # fmt: skip
    rows = []
    for row in runs:
        a, b = gradient(row, "L^A"), gradient(row, "L^B")
        by = row["trained_by"]
        rows.append(
            (
                row["way"], row["family"],
                *(number(by.get(name, {}).get(key)) for key in ("test", "median", "rate") for name in ESTIMATORS),
                f"{a['variance']:.3g}", f"{b['variance']:.3g}" if b else None,
                f"{a['variance'] / b['variance']:.2f}" if b else None, f"{a['snr']:.2f}",
                f"{b['snr']:.2f}" if b else None, f"{gradient(row, 'L^A', 'p(x)')['variance']:.3g}", b.get("bias_z"),
            )
        )  # fmt: skip
    print(table(header, rows))
    print(f"\n{in_words(runs)}")
    result = {"epochs": EPOCHS[arguments.size], "runs": runs}
    finish(arguments, "reparameterization", result, {"reparameterization": draw(runs)})


def in_words(runs: list[dict[str, Any]]) -> str:
    """What the families come to, beside the Gaussian."""
    best = max(runs, key=lambda row: row["trained_by"]["L^A"]["test"])
    gaussian = next(row for row in runs if row["family"] == "Gaussian")["trained_by"]["L^A"]["test"]
    lines = [f"The highest bound by L^A: {best['family']}, {best['trained_by']['L^A']['test'] - gaussian:+.1f} nats."]
    for way in FAMILIES:
        worst = min((row for row in runs if row["way"] == way), key=lambda row: row["trained_by"]["L^A"]["test"])
        value = number(worst["trained_by"]["L^A"]["test"] - gaussian)
        lines.append(f"{way}: the lowest is {worst['family']}, {value} nats beside the Gaussian.")
    for row in runs:
        for name, test in row["trained_by"].items():
            if test["test"] < test["median"] - 50:
                lines.append(
                    f"{row['family']} by {name}: few data decide the mean; the median datum has {test['median']:.1f} "
                    f"nats, the lowest {number(test['worst_datum'])}."
                )
    closed = [row for row in runs if row["closed_form"]]
    less = [row for row in closed if gradient(row, "L^A")["variance"] > gradient(row, "L^B")["variance"]]
    higher = [row for row in closed if row["trained_by"]["L^B"]["test"] > row["trained_by"]["L^A"]["test"]]
    lines.append(
        f"Of {len(closed)} families with a KL in closed form, L^B has the lower variance for {len(less)}, and ends at "
        f"the higher bound for {len(higher)}."
    )
    return "\n".join(lines)


@styled
def draw(runs: list[dict[str, Any]]) -> Any:
    """A row for each family, by way: the bound, and beside it the variance of the gradient."""
    figure = HouseFigure(figsize=(8.6, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    gaussian = next(row for row in runs if row["family"] == "Gaussian")
    lowest = gaussian["trained_by"]["L^A"]["test"] - 60
    places, labels, at = [], [], 0
    for way in FAMILIES:
        places.append(at)
        labels.append(f"{way}:")
        for row in runs:
            if row["way"] != way:
                continue
            at += 1
            places.append(at)
            labels.append(row["family"])
            for color, marker, (name, test) in zip(LINES, "os", row["trained_by"].items(), strict=False):
                style: Any = {"color": color, "marker": marker, "linestyle": "", "markersize": 5, "alpha": 0.85}
                if test["test"] > lowest:
                    left.plot(test["test"], at, **style, label=name if row["family"] == "Gaussian" else None)
                else:
                    left.plot(test["median"], at, **{**style, "markerfacecolor": "none"})
                    text = f"{name}: {number(test['test'])} (open: median)"
                    left.annotate(text, (lowest, at), (2, 6 if name == "L^A" else -6), textcoords="offset points",
                                  color=color, fontsize=7, va="center")  # fmt: skip
                found = gradient(row, name)
                right.errorbar(found["variance"], at, xerr=found["variance_error"], elinewidth=1, **style)
        at += 1
    left.axvline(gaussian["trained_by"]["L^A"]["test"], color=MUTED, linewidth=0.8, linestyle=":")
    right.axvline(gradient(gaussian, "L^A")["variance"], color=MUTED, linewidth=0.8, linestyle=":")
    left.set_yticks(places, labels)
    left.set_ylim(at - 0.4, -0.8)
    left.set_xlim(left=lowest)
    for label in left.get_yticklabels():
        if label.get_text().endswith(":"):
            label.set(color=INK, fontweight="bold")
    for ax in (left, right):
        ax.grid(True, axis="x")
        ax.tick_params(axis="y", length=0)
    left.set_xlabel("test bound (nats per datum)")
    log_axis(right, "variance of the gradient of q\n(squared nats per squared unit of a parameter)")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", title="KL sampled (A),\nclosed form (B)")
    return figure


if __name__ == "__main__":
    main()
