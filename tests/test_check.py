"""check(): each sentence for each mistake, and no false alarm on pairs that are right."""

from __future__ import annotations

import contextlib
import copy
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
    likelihoods,
)
from pyro_vae.models import MLPVAE

EVENT, LATENT, BATCH = 6, 2, 5
Law = Callable[[Tensor], Any]


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


def logits(z: Tensor, size: int = EVENT) -> Tensor:
    return z.sum(-1, keepdim=True).expand(*z.shape[:-1], size)


# Event dimensions


@pytest.mark.parametrize("shape", [(LATENT,), (BATCH, LATENT)])
def test_latent_without_to_event_in_the_model(shape: tuple[int, ...]) -> None:
    text = problems(mistaken(prior=lambda x: dist.Normal(torch.zeros(shape), 1.0)), X)
    says(text, "'z' of the model", f"size {LATENT} at dimension -1", f"plate 'data' has {BATCH}", ".to_event(")


def test_latent_without_to_event_in_the_guide() -> None:
    text = problems(mistaken(posterior=lambda x: dist.Normal(torch.zeros(len(x), LATENT), 1.0)), X)
    says(text, "'z' of the guide", f"size {LATENT} at dimension -1", ".to_event(")


def test_observation_without_to_event() -> None:
    text = problems(mistaken(likelihood=lambda z: dist.Bernoulli(logits=logits(z))), X)
    says(text, "'x' of the model", f"size {EVENT} at dimension -1", ".to_event(")


def test_missing_to_event_shows_where_batch_and_event_have_one_size() -> None:
    pair = mistaken(likelihood=lambda z: dist.Bernoulli(logits=logits(z)))
    says(problems(pair, binary(EVENT, size=EVENT)), "'x' of the model", f"[{EVENT}]", "Add .to_event(1)")


def test_missing_to_event_shows_for_a_latent_of_one_dimension() -> None:
    pair = mistaken(prior=lambda x: dist.Normal(torch.zeros(len(x), 1), 1.0))
    says(problems(pair, X), "'z' of the model", "Add .to_event(1)")


def test_images_need_all_their_dimensions_declared() -> None:
    def likelihood(z: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=logits(z, 28).unflatten(-1, (1, 4, 7))).to_event(2)

    pair = mistaken(
        posterior=lambda x: dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1), likelihood=likelihood
    )
    text = problems(Pair(pair.model, _guide_of_zeros), binary(1, 4, 7))
    says(text, "'x' of the model", ".to_event(")


def _guide_of_zeros(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))


# Plates


def test_no_plate_in_the_model() -> None:
    says(problems(mistaken(plates=(None, "data")), X), "no plate over the data", 'pyro.plate("data", len(x))')


def test_no_plate_at_all() -> None:
    def prior(x: Tensor) -> dist.Distribution:
        return dist.Normal(torch.zeros(len(x), LATENT), 1.0).to_event(1)

    says(problems(mistaken(prior, plates=(None, None)), X), "no plate over the data", 'pyro.plate("data", len(x))')


def test_no_plate_in_the_guide() -> None:
    text = problems(mistaken(plates=("data", None)), X)
    says(text, "'z' of the guide", f"size {BATCH}", "in no plate", 'pyro.plate("data", len(x))')


@pytest.mark.parametrize("size", [1, 3, 60_000])
def test_plate_of_another_size(size: int) -> None:
    text = problems(mistaken(sizes=(size, size)), X)
    says(text, "'data'", f"size {size}", f"{BATCH} data", 'pyro.plate("data", len(x))')


def test_plate_of_another_size_in_the_model_alone() -> None:
    # Pyro replays the guide's indices there and would scale the model by 60000 / 5 without a word.
    text = problems(mistaken(sizes=(60_000, None)), X)
    says(text, "'data'", "60000 in the model", f"{BATCH} in the guide", 'pyro.plate("data", len(x))')


def test_subsampled_plate_of_one_program_alone() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", 100, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits(z)).to_event(1), obs=x)

    says(problems(Pair(model, _guide_of_zeros), X), "100 in the model", f"{BATCH} in the guide")


def test_plate_that_is_not_rightmost() -> None:
    def latent(x: Tensor) -> dist.Distribution:
        return dist.Normal(torch.zeros(len(x), 1, LATENT), 1.0).to_event(1)

    def likelihood(z: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=logits(z)).to_event(1)

    pair = mistaken(latent, latent, likelihood, dim=-2)
    says(problems(pair, X.unsqueeze(1)), "model is at dimension -2", "guide is at dimension -2", "dim=-1")


def test_plates_of_two_names() -> None:
    text = problems(mistaken(plates=("data", "batch")), X)
    says(text, "'z'", "in the model (data)", "in the guide (batch)", "the same names")


# Sites


def test_latent_in_the_model_only() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("h", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=logits(z)).to_event(1), obs=x)

    text = problems(Pair(model, _guide_of_zeros), X)
    says(text, "'h' is in the model but not in the guide", 'pyro.sample("h", ..., obs=x)')
    assert "'z'" not in text


def test_latent_in_the_guide_only() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=torch.zeros(EVENT)).to_event(1), obs=x)

    says(problems(Pair(model, _guide_of_zeros), X), "'z' is in the guide but not in the model", "is_auxiliary")


def test_a_name_that_differs_is_said_from_both_sides() -> None:
    text = problems(mistaken(names=("z", "Z")), X)
    says(text, "'z' is in the model but not in the guide", "'Z' is in the guide but not in the model")


def test_auxiliary_latent_of_the_guide_is_allowed() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 1.0).to_event(1))

    assert [site.name for site in check(Pair(mistaken().model, guide), X).sites] == ["z", "x"]


def test_nothing_observed() -> None:
    text = problems(mistaken(observe=False), X)
    assert text == 'The model observes nothing. Pass the data: pyro.sample("x", ..., obs=x).'


@pytest.mark.parametrize("observed", [True, False])
def test_data_in_the_guide(observed: bool) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=torch.zeros(EVENT)).to_event(1), obs=x if observed else None)

    says(problems(Pair(mistaken().model, guide), X), "'x', which the model observes", "remove 'x'")


@pytest.mark.parametrize("shape", [(3,), (1, LATENT), (LATENT, 1)])
def test_event_shapes_that_differ(shape: tuple[int, ...]) -> None:
    # The first does not even pass through the decoder, and is named all the same.
    def posterior(x: Tensor) -> dist.Distribution:
        return dist.Normal(torch.zeros(len(x), *shape), 1.0).to_event(len(shape))

    says(problems(mistaken(posterior=posterior), X), "'z'", f"model's event shape is [{LATENT}]", str(list(shape)))


def one(family: Any, *parameters: float) -> Law:
    """A law of ``LATENT`` independent numbers, the same for each datum."""
    return lambda x: family(*(torch.full((LATENT,), value) for value in parameters)).to_event(1)


@pytest.mark.parametrize(
    ("prior", "posterior", "named"),
    [
        (one(dist.Normal, 0.0, 1.0), one(dist.Beta, 2.0, 2.0), ("Beta lives on (0, 1)", "Normal on the real line")),
        (one(dist.Beta, 0.5, 0.5), one(dist.Normal, 0.5, 0.01), ("Normal lives on the real line", "Beta on (0, 1)")),
        (one(dist.Gamma, 2.0, 1.0), one(dist.Uniform, 0.0, 1.0), ("Uniform lives on (0, 1)", "Gamma on (0, inf)")),
        (one(dist.Uniform, 0.0, 1.0), one(dist.Uniform, 0.0, 1.5), ("Uniform lives on (0, 1.5)", "Uniform on (0, 1)")),
        (
            lambda x: dist.Dirichlet(torch.ones(LATENT)),
            one(dist.Beta, 2.0, 2.0),
            ("Beta lives on (0, 1)", "Dirichlet on a simplex"),
        ),
    ],
)
def test_supports_that_do_not_match(prior: Law, posterior: Law, named: tuple[str, str]) -> None:
    says(problems(mistaken(prior, posterior), X), "'z'", *named, "same support")


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


def test_factors_are_no_data_and_no_obstacle() -> None:
    right = mistaken()

    def model(x: Tensor) -> None:
        right._programs[0](x)
        pyro.factor("penalty", torch.tensor(-1.0))
        with pyro.plate("weighted", len(x)):
            pyro.factor("weight", torch.full((len(x),), -0.1))

    assert [site.name for site in check(Pair(model, right._programs[1]), X).sites] == ["z", "x", "penalty", "weight"]

    def blind(x: Tensor) -> None:
        pyro.factor("penalty", torch.tensor(-1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))

    says(problems(Pair(blind, _guide_of_zeros), X), "observes nothing")


def test_an_energy_in_the_data_plate_is_a_target() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.factor("energy", -(z**2).sum(-1))

    assert [site.name for site in check(Pair(model, _guide_of_zeros), X).sites] == ["z", "energy"]


# Data


def test_gray_pixels_under_a_bernoulli() -> None:
    gray = torch.linspace(0.1, 0.9, BATCH * EVENT).reshape(BATCH, EVENT)
    text = problems(mistaken(), gray)
    says(text, "'x'", "Bernoulli", "[0.1, 0.9]", "binarization='dynamic'", "support='unit_interval'")
    vae = VAE(
        StandardNormal(2), DiagonalNormal(MLP(EVENT, (2, 2), (4,))), Bernoulli(MLP(2, EVENT, (4,)), "unit_interval")
    )
    assert check(vae, gray).sites[1].model == "Bernoulli"
    says(problems(vae, gray + 0.5), "'x'", "Bernoulli", "outside", "Rescale")


def test_data_out_of_the_support() -> None:
    text = problems(mistaken(), 7 * X)
    says(text, "'x'", "Bernoulli", "[7, 7]", "Rescale")
    assert "Gray" not in text
    beta = mistaken(likelihood=lambda z: dist.Beta(logits(z).exp(), torch.ones(EVENT)).to_event(1))
    says(problems(beta, 1 + X), "'x'", "Beta", "[2, 2]", "Rescale")


def test_gray_values_between_the_levels() -> None:
    vae = MLPVAE((EVENT,), 2, (4,), likelihood=likelihoods.DiscretizedLogistic)
    assert check(vae, (X * 200).round() / 255)
    says(problems(vae, X * 0.7001), "'x'", "DiscretizedLogistic", "k / 255 for k = 0 to 255", "round the data")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite(value: float) -> None:
    x = real(EVENT)
    x[1, 2] = value
    pair = mistaken(posterior=lambda x: dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
    says(problems(Pair(_gaussian_model, pair.guide), x), "'x'", "1 of 30", "NaN or infinite")


def _gaussian_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(logits(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("size", [1, 4])
def test_decoder_of_another_size_than_the_data(size: int) -> None:
    pair = mistaken(likelihood=lambda z: dist.Bernoulli(logits=logits(z, size)).to_event(1))
    says(problems(pair, X), "'x'", f"data have shape [{BATCH}, {EVENT}]", f"over [{BATCH}, {size}]")


def test_images_given_to_a_flat_decoder_and_the_other_way_round() -> None:
    flat = Pair(mistaken().model, _guide_of_zeros)
    says(problems(flat, binary(1, 2, 3)), "'x'", "[5, 1, 2, 3]", "over [5, 6]")
    image = mistaken(likelihood=lambda z: dist.Bernoulli(logits=logits(z).unflatten(-1, (1, 2, 3))).to_event(3))
    says(problems(image, X), "'x'", "[5, 6]", "over [5, 1, 2, 3]")


def test_data_that_the_network_was_not_built_for() -> None:
    says(problems(MLPVAE((1, 8, 8), 2, (4,)), binary(64)), "MLP was built for inputs of shape [*, 1, 8, 8]", "[5, 64]")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_data_of_another_dtype(dtype: torch.dtype) -> None:
    says(problems(MLPVAE((6,), 2, (4,)), X.to(dtype)), "guide", f"{dtype}", "x.to(torch.float32)")


@pytest.mark.parametrize(
    ("batch", "given"),
    [((), "none"), ((binary(6, size=0),), "[0, 6]"), ((torch.tensor(1.0),), "[]"), ((X.numpy(),), "ndarray")],
)
def test_no_batch(batch: tuple[Any, ...], given: str) -> None:
    says(problems(mistaken(), *batch), "check(pair, x)", "B at least 1", f"got {given}" if "[" not in given else given)


def test_arguments_that_the_programs_do_not_take() -> None:
    says(problems(mistaken(), X, X), "the same arguments", "guide")


# Distributions


def test_scale_that_is_not_positive() -> None:
    text = problems(mistaken(posterior=lambda x: dist.Normal(torch.zeros(LATENT), x[:, :LATENT] - 0.5).to_event(1)), X)
    says(text, "'z' of the guide", "scale of the Normal", "-0.5", "exp()")


def test_probabilities_beyond_one() -> None:
    text = problems(mistaken(likelihood=lambda z: dist.Bernoulli(probs=2 + logits(z).abs()).to_event(1)), X)
    says(text, "'x' of the model", "probs of the Bernoulli", "logits=")


def test_weights_that_are_not_numbers() -> None:
    vae = MLPVAE((EVENT,), 2, (4,))
    with torch.no_grad():
        next(vae.likelihood.parameters()).fill_(float("nan"))
    says(problems(vae, X), "'x' of the model", "logits of the Bernoulli", "not a number")


def test_log_probability_that_is_not_finite() -> None:
    pair = mistaken(posterior=lambda x: dist.Normal(torch.full((LATENT,), 1e30), 1.0).to_event(1))
    says(problems(Pair(_gaussian_model, pair.guide), X), "'z' of the model", "not finite for 5 of 5")


def test_network_in_the_place_of_a_distribution() -> None:
    says(problems(mistaken(posterior=lambda x: x[:, :LATENT]), X), "guide", "pyro.sample takes a distribution")
    says(problems(VAE(StandardNormal(2), MLP(EVENT, (2, 2)), Bernoulli(MLP(2, EVENT))), X), "posterior", "Tensor")
    says(problems(VAE(StandardNormal(2), DiagonalNormal(MLP(EVENT, (2, 2))), MLP(2, EVENT)), X), "likelihood", "Tensor")


def test_site_that_is_sampled_twice() -> None:
    def twice(x: Tensor) -> None:
        _guide_of_zeros(x)
        _guide_of_zeros(x)

    says(problems(Pair(mistaken().model, twice), X), "guide", "sites named 'data'", "a name of its own")


# Particles


class Folding(nn.Module):
    """A decoder that treats all that is not the first, or the last, dimension as one."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.linear = nn.Linear(LATENT, EVENT)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z.reshape(len(z), -1) if self.first else z.reshape(-1, LATENT))


@pytest.mark.parametrize("size", [1, 2, BATCH])
@pytest.mark.parametrize("first", [True, False])
def test_network_that_folds_leading_dimensions_away(first: bool, size: int) -> None:
    folding = Folding(first)
    pair = mistaken(likelihood=lambda z: dist.Bernoulli(logits=folding(z)).to_event(1))
    text = problems(pair, binary(EVENT, size=size))
    says(text, "With two particles the model fails", "[2, B, *event]", "x.flatten(-3)")


def test_data_concatenated_to_a_latent() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            joint = torch.cat([z, x], -1)
            pyro.sample("x", dist.Bernoulli(logits=logits(joint)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))

    says(problems(Pair(model, guide), X), "With two particles the model fails", "x.expand(*z.shape[:-1], -1)")


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
def test_nested_plates(num_particles: int) -> None:
    pair = Pair(nested, _guide_of_zeros)
    assert check(pair, X).sites[1].batch_shape == (EVENT, BATCH)
    check(pair, X, estimator=SGVB_A(num_particles, max_plate_nesting=2))
    check(pair, X, estimator=SGVB_B(num_particles, max_plate_nesting=3))
    text = problems(pair, X, estimator=SGVB_B(num_particles))
    says(text, "2 plates", "SGVB_B(..., max_plate_nesting=2)")


# What is right


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
            logits = (z.unsqueeze(-2) @ w).squeeze(-2)
            pyro.deterministic("logits", logits, event_dim=1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(LATENT, EVENT), 0.1).to_event(2))
        with pyro.plate("data", 100, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x[:, :LATENT], 1.0).to_event(1))

    report = check(Pair(model, guide), X, estimator=SGVB_A(3))
    assert [(site.name, site.batch_shape) for site in report.sites] == [("w", ()), ("z", (5,)), ("x", (5,))]


def test_report_says_which_kl_is_known_in_closed_form() -> None:
    pair, x, _ = linear_gaussian()
    report = check(pair, x)
    assert [site.analytic_kl for site in report.sites] == [False, None]
    assert "sampled" in str(report)
    text = str(check(MLPVAE((6,), 2, (4,)), X))
    says(text, "closed form", "Bernoulli", "5      6")
    assert "sampled" not in text
    assert text.splitlines()[0].split() == ["site", "kind", "batch", "event", "p", "q", "KL"]
    assert text.splitlines()[-1] == "90 parameters"


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
