"""Several kinds of data: in a linear-Gaussian pair, where all is in closed form, and what is missing: nothing."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils.data import TensorDataset

from pyro_vae import (
    IWAE,
    MLP,
    SGVB_A,
    SGVB_B,
    VIMCO,
    DiagonalNormal,
    DReG,
    Gaussian,
    Pair,
    ScoreFunction,
    StandardNormal,
    check,
    evidence,
    fit,
)
from pyro_vae import likelihoods as of
from pyro_vae.data import load
from pyro_vae.distributions import MixtureOfExperts
from pyro_vae.models import GRUVAE, LabeledVAE, MultimodalVAE
from pyro_vae.models.multimodal import Modality
from pyro_vae.pair.signatures import label_argument
from pyro_vae.testing.comparing import gradients, seeded

L, SIZES, SCALES = 2, {"x": 4, "y": 3}, {"x": 0.6, "y": 0.9}
MAPS: dict[str, Tensor] = {}
OFFSETS: dict[str, Tensor] = {}
for _index, (_name, _size) in enumerate(SIZES.items()):
    _generator = torch.Generator().manual_seed(_index)
    _turn = torch.linalg.qr(torch.randn(_size, L, generator=_generator, dtype=torch.float64))[0]
    MAPS[_name] = _turn * torch.tensor([1.5, 0.8])  # orthogonal columns: the experts' units are independent
    OFFSETS[_name] = torch.randn(_size, generator=_generator, dtype=torch.float64)
SUBSETS = (("x",), ("y",), ("x", "y"))


def data(count: int, seed: int = 5) -> dict[str, Tensor]:
    """Of the model."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, L, generator=generator, dtype=torch.float64)
    return {
        name: z @ MAPS[name].T
        + OFFSETS[name]
        + SCALES[name] * torch.randn(count, size, generator=generator, dtype=torch.float64)
        for name, size in SIZES.items()
    }


X = data(6)


def marginal(names: tuple[str, ...]) -> Any:
    """p(x_S)."""
    W, b = torch.cat([MAPS[name] for name in names]), torch.cat([OFFSETS[name] for name in names])
    noise = torch.cat([torch.full((SIZES[name],), SCALES[name] ** 2, dtype=torch.float64) for name in names])
    return dist.MultivariateNormal(b, W @ W.T + noise.diag())


def log_p(values: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    return marginal(names).log_prob(torch.cat([values[name] for name in names], 1))


def linear(**options: Any) -> MultimodalVAE:
    """x_m ~ N(W_m z + b_m, s_m^2), with experts that are the likelihoods as functions of z."""
    modalities = {}
    for name, size in SIZES.items():
        W, s = MAPS[name], SCALES[name]
        square = W.square().sum(0)
        encoder, decoder = MLP(size, (2, L), ()), MLP(L, size, ())
        likelihood = Gaussian(decoder, scale=s, sigmoid_mean=False)
        modalities[name] = Modality(DiagonalNormal(encoder), likelihood)
        with torch.no_grad():
            for layer, weight, bias in (
                (decoder.layers[0], W, OFFSETS[name]),
                (
                    encoder.layers[0],
                    torch.cat([W.T / square[:, None], torch.zeros(L, size)]),
                    torch.cat([-(OFFSETS[name] @ W) / square, (s**2 / square).log()]),
                ),
            ):
                layer.double().weight.copy_(weight)
                layer.bias.copy_(bias)
    return MultimodalVAE(modalities, StandardNormal(L), **options).double()


# The product


@pytest.mark.parametrize("particles", [1, 3])
def test_the_product_of_exact_experts_is_the_posterior_of_any_subset(particles: int) -> None:
    """The bound is log p(x_S), draw by draw, for each S, also where data of a batch miss others."""
    pair = linear()
    for names in SUBSETS:
        bound = SGVB_A(particles).bound(pair, *(X[name] if name in names else None for name in SIZES))
        torch.testing.assert_close(bound, log_p(X, names))
        keywords = {name: X[name] for name in names}
        torch.testing.assert_close(SGVB_A(particles).bound(pair, keywords), log_p(X, names))
    mixed = {name: value.clone() for name, value in X.items()}
    mixed["x"][[0, 2]] = math.nan
    mixed["y"][[1, 2]] = math.nan
    both, x, y = log_p(X, ("x", "y")), log_p(X, ("x",)), log_p(X, ("y",))
    expected = torch.stack([y[0], x[1], torch.zeros(()).double(), *both[3:]])
    for estimator in (SGVB_A(particles), SGVB_B(particles), IWAE(particles)):
        found = estimator.bound(pair, mixed["x"], mixed["y"])
        if isinstance(estimator, SGVB_B):  # the KL is that of the posterior, and the rest a draw
            assert found[2] == 0
        else:
            torch.testing.assert_close(found, expected)
            assert found[2] == 0
    result = evidence.importance(pair, (mixed["x"], mixed["y"]), 30, compile="eager", progress=False)
    torch.testing.assert_close(result.log_prob, expected)


def seeing(names: tuple[str, ...]) -> Any:
    """The pair of both, whose guide sees some of them alone."""
    pair = linear()
    return Pair(
        lambda x, y: pair.model(x, y),
        lambda x, y: pair.guide(*(value if name in names else None for name, value in (("x", x), ("y", y)))),
        pair,
    )


def test_a_guide_that_sees_more_has_the_higher_bound() -> None:
    """L(x, y; q(z | x)) = log p(x, y) - KL(q(z | x) || p(z | x, y)), which is 0 where it sees both."""
    torch.manual_seed(0)
    pair, both = linear(), log_p(X, ("x", "y"))
    posterior = pair.encode(*X.values())
    for names in SUBSETS:
        q = pair.encode(*(X[name] if name in names else None for name in SIZES))
        gap = kl_divergence(q, posterior)
        assert (gap > 0.01).all() or names == ("x", "y")
        draws = torch.stack([SGVB_A(1000).bound(seeing(names), *X.values()) for _ in range(10)])
        error = draws.std(0) / 10**0.5
        assert ((draws.mean(0) - both + gap).abs() <= 5 * error + 1e-9).all()


def test_together_they_tell_more_than_each_apart() -> None:
    """The mean of log p(x, y) - log p(x) - log p(y) over data is I(x; y), which is not below 0."""
    values = data(20_000, seed=6)
    each = {
        names: SGVB_A().bound(linear(), *(values.get(n) if n in names else None for n in SIZES)) for names in SUBSETS
    }
    gain = each["x", "y"] - each["x",] - each["y",]
    halves = {names: marginal(names).covariance_matrix.logdet() / 2 for names in SUBSETS}
    information = halves["x",] + halves["y",] - halves["x", "y"]
    assert information > 0
    assert (gain.mean() - information).abs() < 5 * gain.std() / len(gain) ** 0.5
    assert gain.min() < 0  # of a datum it may be


# The mixture


@pytest.mark.parametrize("experts", ["mixture", "mixture of independent draws"])
def test_the_mixture_bounds_the_evidence_and_reaches_it(experts: Any) -> None:
    """ELBO < IWAE < log p(x, y); the mean of the weights of stratified draws is p(x, y)."""
    torch.manual_seed(0)
    pair, both = linear(experts=experts), log_p(X, ("x", "y"))
    elbo = torch.stack([SGVB_A(200).bound(pair, *X.values()) for _ in range(10)]).mean(0)
    each = torch.stack([IWAE(20).bound(pair, *X.values()) for _ in range(40)])
    iwae, error = each.mean(0), each.std(0) / 40**0.5
    assert (elbo < iwae).all()
    assert (iwae < both + 5 * error).all()
    found = evidence.importance(pair, tuple(X.values()), 10_000, chunk=2000, compile="eager", progress=False)
    assert ((found.log_prob - both).abs() < 5 * found.standard_error + 1e-3).all()
    q = pair.encode(*X.values())
    z = torch.stack([q.expand([2, 6]).sample() for _ in range(2000)])
    weights = pair.prior().log_prob(z) - q.log_prob(z)
    for name in SIZES:
        weights = weights + pair._of(name).likelihood(z).log_prob(X[name])
    draws = weights.exp().mean(1)
    assert ((draws.mean(0) - both.exp()).abs() < 5 * draws.std(0) / 2000**0.5).all()
    for names in (("x",), ("y",)):  # the expert alone, which is no posterior: it lacks the prior
        value = IWAE(500).bound(pair, *(X[name] if name in names else None for name in SIZES))
        torch.testing.assert_close(value, log_p(X, names), atol=0.4, rtol=0.0)
    nothing = {name: torch.full_like(value, math.nan) for name, value in X.items()}
    assert torch.equal(SGVB_A(4).bound(pair, *nothing.values()), torch.zeros(6).double())


def test_stratified_draws_refuse_gradients_of_independent_ones() -> None:
    assert DReG(2).bound(linear(experts="mixture of independent draws"), *X.values()).isfinite().all()
    assert DReG(1).bound(linear(experts="mixture"), *X.values()).isfinite().all()
    with pytest.raises(ValueError, match=r"DReG takes its draws for independent.*stratified=False"):
        DReG(2).bound(linear(experts="mixture"), *X.values())
    classes = [dist.Categorical(torch.tensor(p)) for p in ([0.5, 0.2, 0.3], [0.1, 0.6, 0.3])]

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Categorical(torch.ones(3))).float(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", MixtureOfExperts([one.expand([len(x)]) for one in classes], torch.full((len(x), 2), 0.5)))

    discrete, x = Pair(model, guide), torch.zeros(4)
    for estimator in (VIMCO(2), ScoreFunction(2)):
        with pytest.raises(ValueError, match=r"takes its draws for independent.*stratified=False"):
            estimator.bound(discrete, x)
    for estimator in (SGVB_A(2), ScoreFunction(1), ScoreFunction(2, baseline="batch")):
        assert estimator.bound(discrete, x).isfinite().all()
    assert VIMCO(2).bound(linear(experts="mixture"), *X.values()).isfinite().all()  # reparameterized: no score


# Subsets


@pytest.mark.parametrize("subsets", ["singles", "all"])
def test_subsets_are_a_sum_of_bounds_in_training_alone(subsets: Any) -> None:
    pair = linear(subsets=subsets)
    total = torch.stack([log_p(X, names) for names in SUBSETS])
    torch.testing.assert_close(SGVB_A().bound(pair.train(), *X.values()), total.sum(0))
    torch.testing.assert_close(SGVB_A().bound(pair.eval(), *X.values()), total[-1])
    torch.testing.assert_close(SGVB_A().bound(pair.train(), X["x"], None), total[0])


# What is missing


def kinds(**options: Any) -> MultimodalVAE:
    torch.manual_seed(0)

    def modality(shape: Any, likelihood: Any, size: Any = None) -> Modality:
        return Modality(DiagonalNormal(MLP(shape, (2, L), (5,))), likelihood(MLP(L, size or shape, (5,))))

    return MultimodalVAE(
        {
            "image": modality((1, 3, 3), of.Bernoulli),
            "label": modality(4, functools.partial(of.Classes, num_classes=4)),
            "profile": modality(3, of.Poisson),
            "real": modality(2, functools.partial(Gaussian, sigmoid_mean=False)),
        },
        StandardNormal(L),
        **options,
    )


IMAGE = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(1)).round()
LABEL, PROFILE = torch.tensor([0, 3, 1, 2, 2]), torch.arange(15).reshape(5, 3)
REAL = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("experts", ["product", "mixture"])
def test_a_missing_modality_counts_exactly_nothing(experts: Any) -> None:
    """By None, by NaN and by -1: the bits of value and gradient are those without it."""
    pair = kinds(experts=experts)
    gone = [
        (IMAGE, torch.full((5,), -1), torch.full((5, 3), -1), torch.full((5, 2), math.nan)),
        (IMAGE, None, None, None),
        (IMAGE,),
    ]
    found = []
    for batch in gone:
        pair.zero_grad()
        call = functools.partial(SGVB_A(2).loss_and_grads, pair.model, pair.guide, *batch)
        slopes = seeded(1, gradients, pair, call)
        found.append((seeded(1, SGVB_A(2).bound, pair, *batch), {n: g for n, g in slopes.items() if g.any()}))
    for value, slopes in found[1:]:
        assert torch.equal(value, found[0][0])
        assert slopes.keys() == found[0][1].keys()
        for name, slope in slopes.items():
            torch.testing.assert_close(slope, found[0][1][name], rtol=0.0, atol=0.0)
    assert {name.split(".")[1] for name in found[0][1]} == {"0"}
    some = LABEL.clone()
    some[1] = -1
    partly, whole = (seeded(1, SGVB_A().bound, pair, IMAGE, y, PROFILE, REAL) for y in (some, LABEL))
    rows = [0, 2, 3, 4]
    assert torch.equal(partly[rows], whole[rows])
    assert partly[1] != whole[1]


def test_any_kind_of_data_and_generation_across() -> None:
    pair = kinds()
    report = check(pair, IMAGE, LABEL, PROFILE, REAL)
    assert {site.name: site.model for site in report.sites} == {
        "z": "Normal", "image": "Bernoulli", "label": "ClassNumber", "profile": "Poisson", "real": "Normal",
    }  # fmt: skip
    assert report.sites[0].analytic_kl
    drawn = pair.generate(IMAGE, None, PROFILE, num_samples=6)
    shapes = {"image": (1, 3, 3), "label": (), "profile": (3,), "real": (2,)}
    assert {name: value.shape for name, value in drawn.items()} == {n: (6, 5, *s) for n, s in shapes.items()}
    assert pair.generate(num_samples=6)["image"].shape == (6, 1, 3, 3)
    torch.testing.assert_close(pair.predict("label", real=REAL).sum(-1), torch.ones(5))
    assert pair.predict("image", label=LABEL).shape == IMAGE.shape
    assert set(pair.model()) == set(shapes)
    with pytest.raises(ValueError, match="leave the support of the Bernoulli"):
        check(pair, IMAGE + 0.5, LABEL)


def test_weights_count_in_a_loss_and_not_in_a_bound() -> None:
    make = functools.partial(LabeledVAE, (9,), 4, L, (5,), subsets="joint")
    pairs = [seeded(0, functools.partial(make, label_weight=weight)) for weight in (1.0, 50.0)]
    batch = IMAGE.flatten(1), LABEL
    assert torch.equal(*(seeded(1, SGVB_A().bound, pair, *batch) for pair in pairs))
    plain, weighed = (seeded(1, SGVB_A().loss, pair.model, pair.guide, *batch) for pair in pairs)
    terms = seeded(1, SGVB_A().terms, pairs[0], *batch)
    assert weighed - plain == pytest.approx(-49 * terms["y"].log_p.sum().item(), rel=1e-4)


def test_batches_of_other_sizes_and_gaps_are_looked_at() -> None:
    """Each by what it misses itself; what is off the support is said wherever it stands."""
    pair, y = LabeledVAE((9,), 4, L, (5,)), LABEL.repeat(300)
    x = IMAGE.flatten(1).repeat(300, 1)
    y[700:] = -1
    options = {"epochs": 1, "batch_size": 100, "progress": False, "compile": "eager"}
    assert fit(pair, TensorDataset(x, y), **options).history
    x[1400, 0] = 0.5
    with pytest.raises(ValueError, match="'x' the data leave the support of the Bernoulli"):
        fit(pair, TensorDataset(x, y), **options)
    y[1450] = 4
    x[1400, 0] = 0.0
    with pytest.raises(ValueError, match="'y' the data leave the support of the ClassNumber"):
        fit(pair, TensorDataset(x, y), **options)


def test_fit_and_the_command_line_pass_labels() -> None:
    """Which are no lengths of sequences."""
    options: dict[str, Any] = {"epochs": 1, "batch_size": 600, "progress": False, "compile": "eager"}
    assert label_argument(LabeledVAE, 2) == "y"
    pair, data = LabeledVAE((1, 8, 8), 10, L, (5,)), load("digits", binarization="static")
    before = pair._of("y").likelihood.network.layers[-1].weight.clone()
    with pytest.warns(UserWarning, match="the labels of 'digits' are y, the second argument"):
        fit(pair, data, **options)
    assert not torch.equal(pair._of("y").likelihood.network.layers[-1].weight, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(GRUVAE((1, 8, 8), 2, 4), data, **options)


@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        ((None, None, None, None), ValueError, "none of image, label, profile, real is given"),
        ((IMAGE, LABEL[:3]), ValueError, "image holds 5 and label 3"),
        ((IMAGE, LABEL, PROFILE, REAL, REAL), ValueError, "of 4 modalities.*got 5 values"),
        ((IMAGE, [0, 1, 2, 3, 3]), TypeError, "label is a dense tensor of data"),
        ((IMAGE, torch.tensor(1)), TypeError, "label is a dense tensor"),
    ],
)
def test_what_is_no_batch(batch: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        kinds().guide(*batch)


@pytest.mark.parametrize(
    "y", [torch.eye(3)[:2], torch.zeros(2, 1).long(), torch.tensor([0, 7]), torch.tensor([0.5, 1.0])]
)
def test_labels_that_are_none(y: Tensor) -> None:
    pair = LabeledVAE((4,), 3, latent_dim=2, hidden=(4,))
    for ask in (pair.encode, pair.generate, functools.partial(SGVB_A().bound, pair)):
        with pytest.raises(ValueError, match=r"networks of y take it for|y are classes|data leave the support"):
            ask(torch.zeros(2, 4), y)


def test_other_refusals() -> None:
    pair = kinds()
    with pytest.raises(ValueError, match="'sound' is none of image, label"):
        pair.guide(IMAGE, sound=REAL)
    with pytest.raises(ValueError, match="'image' is given twice"):
        pair.guide(IMAGE, image=IMAGE)
    with pytest.raises(ValueError, match="'sound' is none of the modalities"):
        pair.predict("sound", IMAGE)
    with pytest.raises(ValueError, match="at least one modality"):
        MultimodalVAE({}, StandardNormal(2))
    part = Modality(DiagonalNormal(MLP(2, (2, L))), of.Poisson(MLP(L, 2)))
    for name in ("z", "z_x", "two words"):
        with pytest.raises(ValueError, match="name of a modality"):
            MultimodalVAE({name: part}, StandardNormal(L))
    with pytest.raises(TypeError, match="has to be a Modality"):
        MultimodalVAE({"x": MLP(2, 2)}, StandardNormal(L))
    with pytest.raises(ValueError, match="weight has to be"):
        Modality(part.posterior, part.likelihood, 0)
    from pyro_vae import posteriors, priors

    laplace = Modality(posteriors.Laplace(MLP(2, (2, L))), of.Poisson(MLP(L, 2)))
    with pytest.raises(TypeError, match="expert 1 is a Laplace"):
        MultimodalVAE({"x": laplace}, StandardNormal(L)).guide(REAL)
    own = MultimodalVAE({"x": laplace}, priors.Laplace(L), experts="mixture")
    assert check(own, torch.randint(4, (5, 2)))
