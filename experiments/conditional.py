"""Conditional VAEs of MNIST: classes, and the missing quadrants of an image (Sohn, Lee & Yan 2015, section 5.1).

  quadrants   one, two or three quadrants of an image are given, the others are to be predicted: -log p(x | c) of the
              missing pixels by a ConditionalVAE, with a learned p(z | c), and by a network alone with as many
              parameters. By importance sampling from q(z | x, c), and from p(z | c), which needs no x: both are too
              high in expectation, the second one by more.
  classes     labels as the condition: log p(x | c), and images of each class.

The missing pixels are 0 and 1, drawn by their gray value, anew for each batch in training and once for the test; what
is given stays gray. The published numbers are those of Pyro's example, whose targets are the gray values themselves:
for a network alone that is the same in expectation, for its CVAE it is not, and its number is the bound.

A run on two quiet cores takes about 20 minutes; --quick is a smoke test of few data.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from networks import Plain, num_parameters
from shared import cached_json, cached_to_its_best, finish, options, table, training_seconds
from torch import Tensor, nn

from pyro_vae import CVAE, MLP, SGVB_A, Bernoulli, diagnostics, evidence, plotting
from pyro_vae.data import Data, load
from pyro_vae.data.prepared import with_x
from pyro_vae.models import ConditionalVAE
from pyro_vae.networks import Numbers

#: Negative conditional log-likelihoods in nats, https://pyro.ai/examples/cvae.html: a network alone, and the CVAE.
PUBLISHED = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"epochs": 20, "num_data": None, "num_test": 10_000, "num_prior_test": 1000, "samples": (100, 2000)},
    "quick": {"epochs": 1, "num_data": 1000, "num_test": 100, "num_prior_test": 100, "samples": (10, 50)},
}
HIDDEN, ALONE, LATENT = (500, 500), (1000, 1000), 50


def data_of(arguments: Any, quadrants: int | None = None) -> Data:
    """MNIST binarized anew for each batch, some of it for a smoke test."""
    found = with_x(load("mnist", arguments.root, quadrants=quadrants), Tensor.detach, "dynamic")
    found = found if quadrants else found.with_labels("c")
    count = SIZES[arguments.size]["num_data"]
    if count is None:
        return found
    parts = {part: getattr(found, part).take(count) for part in ("train", "valid", "test")}
    return dataclasses.replace(found, **parts)


def alone(data: Data) -> Plain:
    """A network of what is given, with about as many parameters as the conditional VAE."""
    mean, shape = data.train.mean(), data.condition_shape
    network = MLP(math.prod(shape), data.event_shape, ALONE)  # type: ignore[arg-type]
    network.start_at(mean.clamp(0.005, 0.995).logit())
    return Plain(nn.Sequential(Numbers(shape, data.condition_mean), Bernoulli(network)))


def conditional(data: Data) -> ConditionalVAE:
    return ConditionalVAE(
        data.event_shape,
        data.condition_shape,
        LATENT,
        HIDDEN,
        mean=data.train.mean(),
        condition_mean=data.condition_mean,
    )


def trained(name: str, make: Any, data: Data, arguments: Any) -> Any:
    settings = {"epochs": SIZES[arguments.size]["epochs"], "batch_size": min(200, len(data.train))}
    return cached_to_its_best("conditional", name, lambda: make(data), data, arguments, **settings)


def from_prior(pair: ConditionalVAE) -> CVAE:
    """The pair with p(z | c) in the place of q(z | x, c), by which importance sampling is plain Monte Carlo."""
    return CVAE(pair.prior, lambda x, c: pair.prior(c), pair.likelihood, pair.condition)


def nats(log_prob: Tensor) -> dict[str, float]:
    """The negative mean over the data and its standard error."""
    values = -log_prob.double()
    return {"nll": values.mean().item(), "nll_error": values.std().item() / math.sqrt(len(values))}


def scored(pair: ConditionalVAE, data: Data, size: dict[str, Any], seed: int) -> dict[str, Any]:
    """-log p(x | c) of the test set by both ways of sampling, and minus the bound."""
    batch, (of_guide, of_prior) = data.test.batch(slice(size["num_test"])), size["samples"]  # type: ignore[union-attr]
    first = tuple(value[: size["num_prior_test"]] for value in batch)
    found = evidence.importance(pair, batch, of_guide, seed=seed)
    few = evidence.importance(from_prior(pair), first, of_prior, seed=seed)
    sides = diagnostics.rate_distortion(pair, diagnostics.chunks(*batch), SGVB_A())
    return {
        **nats(found.log_prob),
        "effective_sample_size": found.effective_sample_size.median().item(),
        "from_prior": nats(few.log_prob),
        "from_guide_of_the_same": nats(found.log_prob[: len(first[0])]),
        "minus_bound": sides.rate + sides.distortion,
        "rate": sides.rate,
    }


def structured(quadrants: int, arguments: Any) -> tuple[dict[str, Any], Any]:
    """What is measured with so many quadrants given, and pictures of completions."""
    size, data = SIZES[arguments.size], data_of(arguments, quadrants)
    ours = trained(f"quadrants-{quadrants}", conditional, data, arguments)
    theirs = trained(f"alone-{quadrants}", alone, data, arguments)
    cvae, network = ours.pair.eval(), theirs.pair.eval()
    folder = arguments.cache / "conditional"

    def evaluate() -> dict[str, Any]:
        batch = data.test.batch(slice(size["num_test"]))  # type: ignore[union-attr]
        with torch.no_grad():
            log_prob = SGVB_A().bound(network, *batch)
        return {"alone": nats(log_prob), "cvae": scored(cvae, data, size, arguments.seed)}

    found = cached_json(folder / f"test-{quadrants}-{arguments.size}-seed{arguments.seed}.json", evaluate)
    for name, run in (("alone", theirs), ("cvae", ours)):
        found[name] |= {
            "parameters": num_parameters(run.pair),
            "epochs": run.best_epoch or len(run.history),
            "seconds": training_seconds(run.history)[-1],
        }
    return {"quadrants": quadrants, **found}, pictures(cvae, network, data)


def pictures(cvae: ConditionalVAE, network: Plain, data: Data) -> Any:
    """Of ten test images what is given, the network's mean, three draws of ours, and the truth."""
    x, c = data.test.batch(slice(10))  # type: ignore[union-attr]
    completed = data.completed  # type: ignore[attr-defined]
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        mean = network.likelihood(c).mean
        draws = diagnostics.sample(cvae, 30, x, c).unflatten(0, (3, 10))
    rows = {f"CVAE, draw {number}": completed(drawn, c) for number, drawn in enumerate(draws, 1)}
    groups = [
        {"given": completed(torch.full_like(x, 0.5), c)},
        {"network alone": completed(mean, c), **rows},
        {"truth": completed(x, c)},
    ]
    return plotting.restorations(groups)


def of_classes(arguments: Any) -> tuple[dict[str, Any], Any]:
    """log p(x | c) with labels as the condition, and images of each class."""
    size, data = SIZES[arguments.size], data_of(arguments)
    run = trained("classes", conditional, data, arguments)
    path = arguments.cache / "conditional" / f"test-classes-{arguments.size}-seed{arguments.seed}.json"
    found = cached_json(path, lambda: scored(run.pair.eval(), data, size, arguments.seed))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = data.test.batch(slice(100))  # type: ignore[union-attr]
        drawn = diagnostics.sample_by_class(run.pair, 10, *batch, classes=range(10))
    found |= {"epochs": run.best_epoch or len(run.history), "seconds": training_seconds(run.history)[-1]}
    return found, plotting.classes(drawn, range(10))


def main() -> None:
    parser = options(__doc__, smoke=True)
    parser.add_argument("--only", choices=("quadrants", "classes"), help="one of them, and no file")
    arguments = parser.parse_args()
    rows, results, figures = [], [], {}
    for quadrants in (1, 2, 3) if arguments.only != "classes" else ():
        found, figures[f"conditional_{quadrants}"] = structured(quadrants, arguments)
        results.append(found)
        for name, of, published in zip(("alone", "cvae"), ("network alone", "CVAE"), PUBLISHED[quadrants], strict=True):
            entry = found[name]
            prior = entry.get("from_prior", {})
            bound = entry.get("minus_bound")
            rows.append(
                (
                    *(quadrants, of, error(entry), error(prior) if prior else None),
                    *(bound, published, entry["parameters"], entry["epochs"], entry["seconds"]),
                )
            )
    if rows:
        header = ("quadrants", "pair", "NLL", "NLL from p(z | c)", "minus the bound", "published")
        print(table((*header, "parameters", "epochs", "seconds"), rows))
        for entry in results:
            gap = entry["alone"]["nll"] - entry["cvae"]["nll"]
            print(f"{entry['quadrants']} given: the CVAE is better by {gap:.2f} nats")
    classes: dict[str, Any] = {}
    if arguments.only != "quadrants":
        classes, figures["conditional_classes"] = of_classes(arguments)
        header = ("NLL", "NLL from p(z | c)", "minus the bound", "epochs", "seconds")
        one = (error(classes), error(classes["from_prior"]), classes["minus_bound"])
        print(table(("condition", *header), [("labels", *one, classes["epochs"], classes["seconds"])]))
    if arguments.only is None:
        published = {str(quadrants): values for quadrants, values in PUBLISHED.items()}
        found = {"published": published, "quadrants": results, "classes": classes}
        finish(arguments, "conditional", found, figures)


def error(entry: dict[str, float]) -> str:
    return f"{entry['nll']:.2f} ({entry['nll_error']:.2f})"


if __name__ == "__main__":
    main()
