"""check(): each sentence for each mistake, and no false alarm on pairs that are right."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PAIRS, binary, linear_gaussian, real
from torch import Tensor, nn

from pyro_vae import (
    MLP,
    SGVB_A,
    SGVB_B,
    VAE,
    Bernoulli,
    DiagonalNormal,
    Gaussian,
    Pair,
    PairError,
    StandardNormal,
    check,
    diagnostics,
    evidence,
    fit,
    likelihoods,
)
from pyro_vae.models import MLPVAE
from pyro_vae.pair import gate

EVENT, LATENT, BATCH = 6, 2, 5
Law = Callable[[Tensor], Any]
Program = Callable[[Tensor], None]


def mistaken(
    prior: Law | None = None,
    posterior: Law | None = None,
    likelihood: Law | None = None,
    *,
    plates: tuple[Any, Any] = ("data", "data"),
    sizes: tuple[int | None, int | None] = (None, None),
    dim: int | None = None,
    names: tuple[str, str] = ("z", "z"),
    observe: bool = True,
) -> Pair:
    """A right pair of one latent with one thing, (in the model, in the guide), done otherwise."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(EVENT, 2 * LATENT), nn.Linear(LATENT, EVENT)

    def plate(which: int, x: Tensor) -> Any:
        if plates[which] is None:
            return contextlib.nullcontext()
        return pyro.plate(plates[which], len(x) if sizes[which] is None else sizes[which], dim=dim)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with plate(0, x):
            p_z = dist.Normal(torch.zeros(LATENT), 1.0).to_event(1) if prior is None else prior(x)
            z = pyro.sample(names[0], p_z)
            p_x = dist.Bernoulli(logits=decoder(z)).to_event(1) if likelihood is None else likelihood(z)
            pyro.sample("x", p_x, obs=x if observe else None)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with plate(1, x):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample(names[1], dist.Normal(loc, log_scale.exp()).to_event(1) if posterior is None else posterior(x))

    return Pair(model, guide)


def problems(pair: Any, *batch: Any, **options: Any) -> str:
    """All sentences that check says of a pair."""
    with pytest.raises(PairError) as caught:
        check(pair, *batch, **options)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert "\n" not in "".join(caught.value.problems)
    for sentence in caught.value.problems:
        assert sentence.endswith("."), sentence
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, text


X = binary(EVENT)
GRAY = torch.linspace(0.1, 0.9, BATCH * EVENT).reshape(BATCH, EVENT)
SIZED = 'pyro.plate("data", len(x))'


def normal(*shape: int, events: int = 0) -> Any:
    return dist.Normal(torch.zeros(shape), 1.0).to_event(events)


def one(family: Any, *parameters: float) -> Law:
    """A law of ``LATENT`` independent numbers, the same for each datum."""
    return lambda x: family(*(torch.full((LATENT,), value) for value in parameters)).to_event(1)


def logits(z: Tensor, size: int = EVENT) -> Tensor:
    return z.sum(-1, keepdim=True).expand(*z.shape[:-1], size)


def bernoulli(z: Tensor, *shape: int, events: int = 1) -> Any:
    return dist.Bernoulli(logits=logits(z, math.prod(shape or (EVENT,))).unflatten(-1, shape or (EVENT,))).to_event(
        events
    )


def gaussian(z: Tensor) -> Any:
    return dist.Normal(logits(z), 1.0).to_event(1)


def program(*latents: str, x: Law | None = None, size: int | None = None, observe: bool = True) -> Program:
    """Draws standard normal latents of these names and, by a law of the first, x."""

    def run(data: Tensor) -> None:
        with pyro.plate("data", size or len(data), subsample_size=len(data)):
            drawn = [pyro.sample(name, normal(LATENT, events=1)) for name in latents]
            if x is not None:
                pyro.sample("x", x(drawn[0] if drawn else torch.zeros(LATENT)), obs=data if observe else None)

    return run


GUIDE = program("z")


def of(law: Law) -> Pair:
    """A pair with another p(x | z), and a guide that looks at nothing."""
    return Pair(program("z", x=law), GUIDE)


def concatenated(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(LATENT, events=1))
        pyro.sample("x", bernoulli(torch.cat([z, x], -1)), obs=x)


def twice(x: Tensor) -> None:
    GUIDE(x)
    GUIDE(x)


def blind(x: Tensor) -> None:
    pyro.factor("penalty", torch.tensor(-1.0))
    GUIDE(x)


def broken_weights() -> Any:
    vae = MLPVAE((EVENT,), 2, (4,))
    with torch.no_grad():
        next(vae.likelihood.parameters()).fill_(float("nan"))
    return vae


def broken_data(value: float) -> Tensor:
    x = real(EVENT)
    x[1, 2] = value
    return x


def quantized() -> Any:
    return MLPVAE((EVENT,), 2, (4,), likelihood=likelihoods.DiscretizedLogistic)


def unit_interval() -> Any:
    likelihood = Bernoulli(MLP(2, EVENT, (4,)), "unit_interval")
    return VAE(StandardNormal(2), DiagonalNormal(MLP(EVENT, (2, 2), (4,))), likelihood)


class Folding(nn.Module):
    """A decoder that treats all that is not the first, or the last, dimension as one."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.linear = nn.Linear(LATENT, EVENT)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z.reshape(len(z), -1) if self.first else z.reshape(-1, LATENT))

    @classmethod
    def pair(cls, first: bool) -> Pair:
        folding = cls(first)
        return mistaken(likelihood=lambda z: dist.Bernoulli(logits=folding(z)).to_event(1))


# Each mistake: the arguments of check, and what is said of them

AT_Z, AT_X = f"size {LATENT} at dimension -1", f"size {EVENT} at dimension -1"
Mistake = tuple[Any, ...]  # a function that gives the arguments, and parts of the sentences
EVENTS: list[Mistake] = [
    (lambda: (mistaken(lambda x: normal(LATENT)), X), "'z' of the model", AT_Z, "plate 'data' has 5", ".to_event("),
    (lambda: (mistaken(lambda x: normal(5, LATENT)), X), "'z' of the model", AT_Z, "plate 'data' has 5", ".to_event("),
    (lambda: (mistaken(None, lambda x: normal(len(x), LATENT)), X), "'z' of the guide", AT_Z, ".to_event("),
    (lambda: (of(lambda z: bernoulli(z, events=0)), X), "'x' of the model", AT_X, ".to_event("),
    # where batch and event have one size, or the latent has one dimension, and where one of three is declared
    (lambda: (of(lambda z: bernoulli(z, events=0)), binary(6, size=6)), "'x' of the model", "[6]", "Add .to_event(1)"),
    (lambda: (mistaken(lambda x: normal(len(x), 1)), X), "'z' of the model", "Add .to_event(1)"),
    (lambda: (of(lambda z: bernoulli(z, 1, 4, 7, events=2)), binary(1, 4, 7)), "'x' of the model", ".to_event("),
]
PLATES: list[Mistake] = [
    (lambda: (mistaken(plates=(None, "data")), X), "no plate over the data", SIZED),
    (lambda: (mistaken(lambda x: normal(5, 2, events=1), plates=(None, None)), X), "no plate over the data", SIZED),
    (lambda: (mistaken(plates=("data", None)), X), "'z' of the guide", "size 5", "in no plate", SIZED),
    *((lambda size=size: (mistaken(sizes=(size, size)), X), "'data'", f"size {size}", "5 data", SIZED)
      for size in (1, 3, 60_000)),
    # Pyro replays the guide's indices there and would scale the model by 60000 / 5 without a word.
    (lambda: (mistaken(sizes=(60_000, None)), X), "'data'", "60000 in the model", "5 in the guide", SIZED),
    (lambda: (Pair(program("z", x=bernoulli, size=100), GUIDE), X), "100 in the model", "5 in the guide"),
    (lambda: (mistaken(plates=("data", "batch")), X), "'z'", "model (data)", "guide (batch)", "the same names"),
]  # fmt: skip
SITES: list[Mistake] = [
    (lambda: (Pair(program(x=bernoulli), GUIDE), X), "'z' is in the guide but not in the model", "a reverse model"),
    (lambda: (mistaken(names=("z", "Z")), X), 'pyro.sample("z", ..., obs=x)',
     "'z' is in the model but not in the guide", "'Z' is in the guide but not in the model"),
    (lambda: (mistaken(observe=False), X), 'The model observes nothing. Pass the data: pyro.sample("x", ..., obs=x).'),
    (lambda: (Pair(blind, GUIDE), X), "observes nothing"),
    *((lambda seen=seen: (Pair(mistaken().model, program("z", x=bernoulli, observe=seen)), X),
       "'x', which the model observes", "remove 'x'") for seen in (True, False)),
    # The first does not even pass through the decoder, and is named all the same.
    *((lambda shape=shape: (mistaken(None, lambda x: normal(len(x), *shape, events=len(shape))), X),
       "'z'", f"model's event shape is [{LATENT}]", str(list(shape))) for shape in ((3,), (1, LATENT), (LATENT, 1))),
    (lambda: (Pair(mistaken().model, twice), X), "guide", "sites named 'data'", "a name of its own"),
]  # fmt: skip
SUPPORTS: list[Mistake] = [
    (lambda p=p, q=q: (mistaken(p, q), X), "'z'", *named, "same support")
    for p, q, *named in (
        (one(dist.Normal, 0.0, 1.0), one(dist.Beta, 2.0, 2.0), "Beta lives on (0, 1)", "Normal on the real line"),
        (one(dist.Beta, 0.5, 0.5), one(dist.Normal, 0.5, 0.01), "Normal lives on the real line", "Beta on (0, 1)"),
        (one(dist.Gamma, 2.0, 1.0), one(dist.Uniform, 0.0, 1.0), "Uniform lives on (0, 1)", "Gamma on (0, inf)"),
        (one(dist.Uniform, 0.0, 1.0), one(dist.Uniform, 0.0, 1.5), "Uniform lives on (0, 1.5)", "Uniform on (0, 1)"),
        (lambda x: dist.Dirichlet(torch.ones(LATENT)), one(dist.Beta, 2.0, 2.0),
         "Beta lives on (0, 1)", "Dirichlet on a simplex"),
    )
]  # fmt: skip
DATA: list[Mistake] = [
    (lambda: (mistaken(), GRAY), "'x'", "Bernoulli", "[0.1, 0.9]", "binarization='dynamic'", "support='unit_interval'"),
    (lambda: (unit_interval(), GRAY + 0.5), "'x'", "Bernoulli", "outside", "Rescale"),
    (lambda: (mistaken(), 7 * X), "'x'", "Bernoulli", "[7, 7]", "Rescale"),
    (lambda: (of(lambda z: dist.Beta(logits(z).exp(), torch.ones(EVENT)).to_event(1)), 1 + X),
     "'x'", "Beta", "[2, 2]", "Rescale"),
    (lambda: (quantized(), X * 0.7001), "'x'", "DiscretizedLogistic", "k / 255 for k = 0 to 255", "round the data"),
    (lambda: (of(gaussian), broken_data(math.nan)), "'x'", "NaN in 1 of 5 data", "mask"),
    (lambda: (of(gaussian), broken_data(math.inf)), "'x'", "1 of 30", "NaN or infinite"),
    *((lambda size=size: (of(lambda z: bernoulli(z, size)), X), "'x'", "data have shape [5, 6]", f"over [5, {size}]")
      for size in (1, 4)),
    (lambda: (of(bernoulli), binary(1, 2, 3)), "'x'", "[5, 1, 2, 3]", "over [5, 6]"),
    (lambda: (of(lambda z: bernoulli(z, 1, 2, 3, events=3)), X), "'x'", "[5, 6]", "over [5, 1, 2, 3]"),
    (lambda: (MLPVAE((1, 8, 8), 2, (4,)), binary(64)), "MLP was built for inputs of shape [*, 1, 8, 8]", "[5, 64]"),
    (lambda: (MLPVAE((6,), 2, (4,)), X.to(torch.uint8)), "only the integers 0 and 1", "two shades of black"),
    (lambda: (MLPVAE((6,), 2, (4,)), [[0.5, 1.0], [1.0]]), "rows differ in shape"),
    *((lambda batch=batch: (mistaken(), *batch), "check(pair, x)", "B at least 1", given)
      for batch, given in (((), "got none"), ((binary(6, size=0),), "[0, 6]"), ((torch.tensor(1.0),), "[]"),
                           (("x",), "got str"))),
    (lambda: (Pair(mistaken().model, lambda x, y: None), X), "the same arguments", "guide"),
]  # fmt: skip
DISTRIBUTIONS: list[Mistake] = [
    (lambda: (mistaken(None, lambda x: dist.Normal(torch.zeros(LATENT), x[:, :LATENT] - 0.5).to_event(1)), X),
     "'z' of the guide", "scale of the Normal", "-0.5", "exp()"),
    (lambda: (of(lambda z: dist.Bernoulli(probs=2 + logits(z).abs()).to_event(1)), X),
     "'x' of the model", "probs of the Bernoulli", "logits="),
    (lambda: (broken_weights(), X), "'x' of the model", "logits of the Bernoulli", "not a number"),
    (lambda: (Pair(of(gaussian).model, mistaken(None, one(dist.Normal, 1e30, 1.0)).guide), X),
     "'z' of the model", "not finite for 5 of 5"),
    (lambda: (mistaken(None, lambda x: x[:, :LATENT]), X), "guide", "pyro.sample takes a distribution"),
    (lambda: (VAE(StandardNormal(2), MLP(EVENT, (2, 2)), Bernoulli(MLP(2, EVENT))), X), "posterior", "Tensor"),
    (lambda: (VAE(StandardNormal(2), DiagonalNormal(MLP(EVENT, (2, 2))), MLP(2, EVENT)), X), "likelihood", "Tensor"),
]  # fmt: skip

MISTAKES = {"events": EVENTS, "plates": PLATES, "sites": SITES, "supports": SUPPORTS, "data": DATA,
            "distributions": DISTRIBUTIONS}  # fmt: skip
ROWS = [pytest.param(row, id=f"{kind}: {row[1]}") for kind, rows in MISTAKES.items() for row in rows]


@pytest.mark.parametrize("mistake", ROWS)
def test_what_is_wrong_is_said(mistake: Mistake) -> None:
    make, *parts = mistake
    says(problems(*make()), *parts)


def test_nothing_else_is_said() -> None:
    report = check(Pair(program("z", "h", x=bernoulli), GUIDE), X)
    assert ["'h'" in note and "drawn from its prior" in note for note in report.notes] == [True]
    assert "Gray" not in problems(mistaken(), 7 * X)
    assert len(problems(mistaken(observe=False), X).splitlines()) == 1


# Estimators


def test_estimator_that_cannot_take_the_pair() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Bernoulli(logits=logits(y.unsqueeze(-1))).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x.sum(-1)))

    says(problems(Pair(model, guide), X, estimator=SGVB_B()), "q(y)", "Use SGVB_A")
    assert check(Pair(model, guide), X, estimator=SGVB_A(3)).sites[0].name == "y"


def nested(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        with pyro.plate("pixels", EVENT, dim=-2):
            pyro.sample("x", dist.Bernoulli(logits=z.sum(-1)), obs=x.T)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_nested_plates_are_found(num_particles: int) -> None:
    pair = Pair(nested, GUIDE)
    assert check(pair, X).sites[1].batch_shape == (EVENT, BATCH)
    values = []
    for nesting in (1, 2, 3):
        estimator = SGVB_B(num_particles, max_plate_nesting=nesting)
        check(pair, X, estimator=estimator)
        torch.manual_seed(0)
        values.append(estimator.bound(pair, X))
    assert torch.equal(values[0], values[1])
    assert torch.allclose(values[0], values[2])


@pytest.mark.parametrize(
    ("pair", "how"),
    [(mistaken(), "vectorized"), (Folding.pair(True), "repeated"), (Pair(concatenated, GUIDE), "repeated")],
)
def test_how_particles_are_run(pair: Pair, how: str) -> None:
    assert check(pair, binary(EVENT)).particles == how


# What is right


def test_right_pairs() -> None:
    assert check(unit_interval(), GRAY).sites[1].model == "Bernoulli"
    assert check(quantized(), (X * 200).round() / 255)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", normal(LATENT, events=1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u, event_dim=1))

    # z is what is drawn, as in Pyro's AutoGuides
    assert [site.name for site in check(Pair(mistaken().model, guide), X).sites] == ["z", "x"]


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (one(dist.Gamma, 2.0, 1.0), one(dist.LogNormal, 0.0, 1.0)),
        (one(dist.Uniform, 0.0, 1.0), one(dist.Uniform, 0.25, 0.5)),
        (one(dist.Normal, 0.0, 1.0), lambda x: dist.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))),
        (one(dist.Normal, 0.0, 1.0), lambda x: dist.Delta(torch.zeros(LATENT)).to_event(1)),
        (
            lambda x: dist.MixtureSameFamily(
                dist.Categorical(torch.ones(3)), dist.Normal(torch.zeros(3, LATENT), 1.0).to_event(1)
            ),
            one(dist.StudentT, 3.0, 0.0, 1.0),
        ),
        (
            one(dist.Beta, 2.0, 2.0),
            lambda x: dist.TransformedDistribution(one(dist.Normal, 0.0, 1.0)(x), dist.transforms.SigmoidTransform()),
        ),
    ],
)
def test_supports_that_match(prior: Law, posterior: Law) -> None:
    assert check(mistaken(prior, posterior, lambda z: dist.Bernoulli(logits=logits(z)).to_event(1)), X)


def test_factors_are_no_obstacle_and_one_in_the_data_plate_is_a_target() -> None:
    right = mistaken()

    def model(x: Tensor) -> None:
        right.model(x)
        pyro.factor("penalty", torch.tensor(-1.0))
        with pyro.plate("weighted", len(x)):
            pyro.factor("weight", torch.full((len(x),), -0.1))

    assert [site.name for site in check(Pair(model, right.guide), X).sites] == ["z", "x", "penalty", "weight"]

    def energy(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(LATENT, events=1))
            pyro.factor("energy", -(z**2).sum(-1))

    assert [site.name for site in check(Pair(energy, GUIDE), X).sites] == ["z", "energy"]


@pytest.mark.parametrize("factory", PAIRS)
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_no_false_alarm(factory: Any, num_particles: int, estimator: Any) -> None:
    pair, batch = factory()
    report = check(pair, *batch, estimator=estimator(num_particles))
    assert report.num_parameters > 0
    assert not report.notes
    assert all(site.analytic_kl for site in report.sites if not site.observed)
    assert [site.name for site in report.sites if site.observed] == ["x"]


@pytest.mark.parametrize("factory", PAIRS)
def test_no_false_alarm_on_one_datum(factory: Any) -> None:
    pair, batch = factory()
    check(pair, *(value[:1] for value in batch), estimator=SGVB_B(2))


@pytest.mark.parametrize("size", [1, 2, 3, EVENT])
@pytest.mark.parametrize("latent_dim", [1, 2, EVENT])
def test_no_false_alarm_where_sizes_coincide(size: int, latent_dim: int) -> None:
    vae = VAE(
        StandardNormal(latent_dim), DiagonalNormal(MLP(EVENT, (2, latent_dim), (4,))), Gaussian(MLP(latent_dim, EVENT))
    )
    check(vae, real(EVENT, size=size), estimator=SGVB_A(size + 1))


def test_no_false_alarm_on_global_weights_and_subsampled_plates() -> None:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(LATENT, EVENT), 1.0).to_event(2))
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.deterministic("mean", logits := (z.unsqueeze(-2) @ w).squeeze(-2), event_dim=1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(LATENT, EVENT), 0.1).to_event(2))
        with pyro.plate("data", 100, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[:, :LATENT], 1.0).to_event(1))

    report = check(Pair(model, guide), X, estimator=SGVB_A(3))
    assert [(site.name, site.batch_shape) for site in report.sites] == [("w", ()), ("z", (5,)), ("x", (5,))]


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_false_alarm_on_hidden_markov_models_of_any_length(wrapped: bool) -> None:
    one = dist.MultivariateNormal(torch.zeros(1), torch.eye(1))
    chain: Any = dist.GaussianHMM(one.expand([3]), torch.eye(1), one, torch.eye(1), one)

    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            law = dist.IndependentHMM(chain.expand([len(x), 3])) if wrapped else chain.expand([len(x), 3]).to_event(1)
            pyro.sample("x", law, obs=x - shift)

    def guide(x: Tensor) -> None:
        pyro.sample("shift", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    x = real(5, 3) if wrapped else real(3, 5, 1)
    check(Pair(model, guide), x, estimator=SGVB_A(2))


def test_report_says_which_kl_is_known_in_closed_form() -> None:
    pair, x, _ = linear_gaussian()
    report = check(pair, x)
    assert [site.analytic_kl for site in report.sites] == [False, None]
    assert "sampled" in str(report)
    text = str(check(MLPVAE((6,), 2, (4,)), X))
    says(text, "closed form", "Bernoulli", "5      6")
    assert "sampled" not in text
    assert text.splitlines()[0].split() == ["site", "kind", "batch", "event", "p", "q", "KL"]
    assert text.splitlines()[-2] == "90 parameters"
    says(text.splitlines()[-1], "Several particles", "a dimension of their own")


def test_report_counts_what_is_trained() -> None:
    vae = MLPVAE((6,), 2, (4,))
    vae.posterior.requires_grad_(False)
    assert check(vae, X).num_parameters == sum(p.numel() for p in vae.likelihood.parameters())


def test_report_notes_networks_that_are_not_announced() -> None:
    forgotten = nn.Linear(LATENT, EVENT)
    report = check(mistaken(likelihood=lambda z: dist.Bernoulli(logits=forgotten(z)).to_event(1)), X)
    says(str(report), "Linear", "not trained (18 parameters)", "pyro.module")
    forgotten.requires_grad_(False)
    report = check(mistaken(likelihood=lambda z: dist.Bernoulli(logits=forgotten(z)).to_event(1)), X)
    assert not report.notes


class Noisy(nn.Module):
    """A network with all that a forward pass may change: batch statistics, dropout, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(EVENT, 4), nn.Dropout(0.5), nn.LayerNorm(4), nn.Linear(4, 2 * LATENT))
        self.norm = nn.BatchNorm1d(EVENT)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(self.norm(x)).unflatten(-1, (2, LATENT))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("validation", [False, True])
def test_check_leaves_all_as_it_was(validation: bool, fails: bool) -> None:
    vae = VAE(StandardNormal(LATENT), DiagonalNormal(Noisy()), Bernoulli(MLP(LATENT, EVENT)))
    vae.likelihood.eval()
    modes = [module.training for module in vae.modules()]
    state = copy.deepcopy(vae.state_dict())
    pyro.get_param_store().clear()
    pyro.param("mine", torch.ones(2))
    random = torch.get_rng_state()
    x = X / 2 if fails else X
    with pyro.validation_enabled(validation):
        with pytest.raises(PairError) if fails else contextlib.nullcontext():
            check(vae, x, estimator=SGVB_B(2))
        assert torch.distributions.Distribution._validate_args is validation
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in vae.modules()] == modes
    assert vae.state_dict().keys() == state.keys()
    for name, value in vae.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.get_param_store().clear()


def test_batch_statistics_of_one_datum_are_no_obstacle() -> None:
    check(VAE(StandardNormal(LATENT), DiagonalNormal(Noisy()), Bernoulli(MLP(LATENT, EVENT))), X[:1])


def test_a_failure_tells_the_shapes_of_all_arguments():
    pair = Pair(lambda x, y: x @ y, lambda x, y: None)
    with pytest.raises(PairError, match=r"The model fails on this batch of \[5, 3\] and \[5, 1\] \("):
        check(pair, torch.zeros(5, 3), torch.zeros(5, 1))


def sited(name: Any = "x", fn: Any = None, value: Callable[[Tensor], Any] = lambda x: x, latent: Any = "z") -> Pair:
    """A pair with something else than a text as a name, a distribution, or a tensor as a value."""
    decoder, encoder = nn.Linear(LATENT, EVENT), nn.Linear(EVENT, LATENT)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample(latent, dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            law = dist.Normal(decoder(z), 1.0).to_event(1)
            pyro.sample(name, law if fn is None else fn, obs=value(x))

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample(latent, dist.Normal(encoder(x), 1.0).to_event(1))

    return Pair(model, guide)


NUMBERS: tuple[Callable[[Any, Tensor], Any], ...] = (
    lambda pair, x: str(check(pair, x)),
    lambda pair, x: fit(pair, x, epochs=1, batch_size=len(x), compile="eager", progress=False),
    lambda pair, x: evidence.importance(pair, x, num_samples=2),
    lambda pair, x: evidence.ais(pair, x, num_chains=1, num_steps=1),
    lambda pair, x: diagnostics.reconstruct(pair, x),
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": 3}, "A site of the model is called 3. Give sample statements and plates a text"),
        ({"latent": ("z",)}, r"is called \('z',\)"),
        ({"name": None}, "AssertionError.*name or a value that is None"),
        ({"name": "_INPUT"}, "_INPUT and _RETURN for itself"),
        ({"name": "z"}, "a name of its own"),
        ({"fn": 1.0}, "At site 'x' of the model there is 1.0, which is no distribution of Pyro's"),
        ({"fn": dist.Normal}, "which is no distribution of Pyro's"),
        ({"fn": lambda: torch.zeros(BATCH)}, "which is no distribution of Pyro's"),
        ({"value": lambda x: 1.0}, "At site 'x' of the model the value is 1.0. Give a dense tensor"),
        ({"value": lambda x: x.to(torch.complex64)}, "the value is a tensor of torch.complex64"),
        ({"value": lambda x: x.to_sparse()}, "the value is a tensor of torch.float32, torch.sparse_coo"),
        ({"value": lambda x: x.to("meta")}, "torch.strided, on meta"),
        ({"value": lambda x: pyro.plate("p", 2**40, subsample_size=2) and x}, "needs 8,192.0 GiB of memory at once"),
    ],
)
def test_odd_names_and_values(options: dict[str, Any], says: str) -> None:
    """Are refused in the same words by whatever reads a pair."""
    for ask in NUMBERS:
        with pytest.raises(ValueError, match=says):
            ask(sited(**options), real(EVENT))


@pytest.mark.parametrize(("options", "says"), [({"name": None}, "is None"), ({"fn": 1.0}, "no distribution of Pyro's")])
def test_a_bound_of_programs_that_fail(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SGVB_A(2).bound(sited(**options), real(EVENT))


def test_errors_that_are_none_of_the_programs() -> None:
    """Are raised as they are: no sentence says that a pair fails which does not."""
    pair, x = sited(), real(EVENT)
    with pytest.raises(KeyError, match="ours"), gate.explained(pair, x):
        raise KeyError("ours")


def test_an_error_of_another_process_says_what_it_said_there() -> None:
    error = PairError(["The model fails.", "So does the guide."])
    other = pickle.loads(pickle.dumps(error))
    assert (str(other), other.problems) == (str(error), error.problems)
