"""The VAE of labeled and unlabeled data: against a known evidence, and against the sum over the labels by hand."""

from __future__ import annotations

import functools
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from laws import assert_same, gradients_of, seeded
from torch import Tensor, nn

from pyro_vae import SGVB_A, SGVB_B, DiagonalNormal, Enumeration, Gaussian, ScoreFunction, check, diagnostics, evidence
from pyro_vae import fit as fit_pair
from pyro_vae.models import SemiSupervisedVAE
from pyro_vae.models.semi_supervised import check_labels, partly_labeled
from pyro_vae.pair import programs

K, D, EVENT = 3, 2, 4
X = torch.randn(6, EVENT, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
MIXED = torch.tensor([1, -1, 0, -1, -1, 2])
MISSING = torch.full((6,), -1)


class AtOneNoise(dist.Normal):
    """A Normal whose draws are all at loc + 0.7 scale, so that they do not depend on what else is drawn."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return (self.loc + 0.7 * self.scale).expand(self._extended_shape(torch.Size(sample_shape)))


class FixedNoise(DiagonalNormal):
    def forward(self, x: Tensor) -> Any:
        loc, log_variance = self._stacked(x, 2)
        return AtOneNoise(loc, (log_variance / 2).exp()).to_event(1)


def small(**options: Any) -> SemiSupervisedVAE:
    torch.manual_seed(0)
    likelihood = functools.partial(Gaussian, sigmoid_mean=False)
    given = {"posterior": FixedNoise, "likelihood": likelihood, **options}
    return SemiSupervisedVAE((EVENT,), K, D, (5,), **given).double()


def exact() -> tuple[SemiSupervisedVAE, Tensor]:
    """x | y, z ~ N(W (z + c_y), s^2 I), with exact guides; and log p(x, y) of X, ``[B, K]``.

    The columns of W are orthogonal, so that p(z | x, y) has a diagonal covariance.
    """
    generator = torch.Generator().manual_seed(1)
    s, unit = 0.6, torch.eye(D, dtype=torch.float64)
    W = torch.linalg.qr(torch.randn(EVENT, D, generator=generator, dtype=torch.float64))[0] * torch.tensor([1.5, 0.8])
    c = torch.randn(K, D, generator=generator, dtype=torch.float64)
    p_x = dist.MultivariateNormal(c @ W.T, W @ W.T + s**2 * torch.eye(EVENT, dtype=torch.float64))
    pair = SemiSupervisedVAE(
        (EVENT,),
        K,
        D,
        (D,),
        activation=nn.Identity,
        classifier=Density(p_x),
        likelihood=functools.partial(Gaussian, scale=s, sigmoid_mean=False),
    ).double()
    variance = 1 / (1 + W.square().sum(0) / s**2)
    A = variance[:, None] * W.T / s**2
    (of_x,), (head,), (first, _, last) = (
        pair.of_x.layers,
        pair.posterior.network[1].layers,
        pair.likelihood.network.layers,
    )
    with torch.no_grad():
        for layer, weight, bias in (
            (of_x, A, torch.zeros(D)),
            (head, torch.cat([unit, 0 * unit]), torch.cat([torch.zeros(D), variance.log()])),
            (first, torch.cat([unit, c.T], 1), torch.zeros(D)),
            (last, W, torch.zeros(EVENT)),
        ):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        pair.of_y.weight.copy_(-A @ W @ c.T)
    return pair, p_x.log_prob(X[:, None]) - math.log(K)


class Density(nn.Module):
    """log p(x | y) of each class: logits of p(y | x), where all classes are as probable."""

    def __init__(self, p_x: Any) -> None:
        super().__init__()
        self.p_x = p_x

    def forward(self, x: Tensor) -> Tensor:
        return self.p_x.log_prob(x[..., None, :])


@pytest.mark.parametrize("particles", [1, 3])
def test_exact_guides_give_the_evidence(particles: int) -> None:
    """log p(x, y) where the label is known and log p(x) where not, draw by draw."""
    pair, log_joint = exact()
    evidences = torch.where(MIXED < 0, log_joint.logsumexp(1), log_joint.gather(1, MIXED.clamp_min(0)[:, None])[:, 0])
    torch.testing.assert_close(Enumeration(particles).bound(pair, X, MIXED), evidences)
    torch.testing.assert_close(Enumeration(particles).bound(pair, X), log_joint.logsumexp(1))
    torch.testing.assert_close(SGVB_A(particles).bound(pair, X, MIXED), evidences)
    found = evidence.importance(pair, (X, MIXED), 40, compile="eager")
    torch.testing.assert_close(found.log_prob, evidences)


def by_hand(pair: SemiSupervisedVAE, x: Tensor, y: int) -> Tensor:
    """-L(x, y) of each datum at the one noise: log p(y) + log p(z) + log p(x | y, z) - log q(z | x, y)."""
    one_hot = torch.zeros(len(x), K, dtype=x.dtype)
    one_hot[:, y] = 1
    hidden = x @ pair.of_x.layers[0].weight.T + pair.of_x.layers[0].bias + one_hot @ pair.of_y.weight.T
    loc, log_variance = pair.posterior.network(hidden).unbind(1)
    z = loc + 0.7 * (log_variance / 2).exp()
    q = dist.Normal(loc, (log_variance / 2).exp()).to_event(1)
    p_x = pair.likelihood(torch.cat([z, one_hot], 1))
    return dist.Normal(0.0, 1.0).log_prob(z).sum(1) + p_x.log_prob(x) - q.log_prob(z) - math.log(K)


@pytest.mark.parametrize("particles", [1, 3])
def test_the_bound_without_a_label_is_the_sum_over_the_labels(particles: int) -> None:
    pair, estimator = small(), Enumeration(particles)
    labeled = torch.stack([estimator.bound(pair, X, torch.full((6,), label)) for label in range(K)], 1)
    torch.testing.assert_close(labeled, torch.stack([by_hand(pair, X, label) for label in range(K)], 1))
    q = pair.classify(X).probs
    expected = (q * labeled).sum(1) - (q * q.log()).sum(1)
    torch.testing.assert_close(estimator.bound(pair, X, MISSING), expected)
    torch.testing.assert_close(estimator.bound(pair, X), expected)


def test_mixing_rows_changes_nothing() -> None:
    pair = small()
    for estimator in (Enumeration(), Enumeration(2), SGVB_A()):
        mixed = seeded(1, estimator.bound, pair, X, MIXED)
        for rows in (MIXED >= 0, MIXED < 0) if isinstance(estimator, Enumeration) else (MIXED >= 0,):
            torch.testing.assert_close(estimator.bound(pair, X[rows], MIXED[rows]), mixed[rows])


def test_labeled_data_move_the_classifier_by_alpha_alone() -> None:
    known = torch.tensor([0, 1, 2, 0, 1, 2])
    for alpha in (0.0, 0.4):
        pair = small(alpha=alpha)
        found = gradients_of(Enumeration(), pair, X, known)
        pair.zero_grad()
        (-alpha * pair.classify(X).log_prob(known).sum()).backward()
        for name, parameter in pair.named_parameters():
            if name.startswith("classifier"):
                torch.testing.assert_close(found[name], parameter.grad)
                assert (found[name].abs().sum() > 0) == (alpha > 0), name
            else:
                assert found[name].abs().sum() > 0, name
        pair.eval()
        quiet = gradients_of(Enumeration(), pair, X, known)
        assert not any(value.any() for name, value in quiet.items() if name.startswith("classifier"))


def test_the_classification_term_is_one_of_training() -> None:
    pair, plain = small(alpha=0.4), small()
    log_q = pair.classify(X).logits[torch.arange(6), MIXED.clamp_min(0)] * (MIXED >= 0)
    difference = Enumeration().bound(pair, X, MIXED) - Enumeration().bound(plain, X, MIXED)
    torch.testing.assert_close(difference, 0.4 * log_q.detach())
    torch.testing.assert_close(Enumeration().bound(pair.eval(), X, MIXED), Enumeration().bound(plain, X, MIXED))


def test_a_permutation_of_the_classes_changes_nothing() -> None:
    pair, permuted, order = small(), small(), torch.tensor([2, 0, 1])
    with torch.no_grad():
        permuted.of_y.weight.copy_(pair.of_y.weight[:, order])
        first = permuted.likelihood.network.layers[0]
        first.weight[:, D:] = pair.likelihood.network.layers[0].weight[:, D:][:, order]
        last = permuted.classifier.layers[-1]
        last.weight.copy_(pair.classifier.layers[-1].weight[order])
        last.bias.copy_(pair.classifier.layers[-1].bias[order])
    labels = torch.where(MIXED < 0, MIXED, order.argsort()[MIXED.clamp_min(0)])
    torch.testing.assert_close(Enumeration().bound(permuted, X, labels), Enumeration().bound(pair, X, MIXED))
    others = Enumeration().bound(permuted, X, MIXED) - Enumeration().bound(pair, X, MIXED)
    assert (others.abs() > 1e-3).sum() == (MIXED >= 0).sum()


def test_repeated_rows_add_up_to_each_datum_once() -> None:
    x = torch.randn(23, EVENT, dtype=torch.float64)
    y = torch.full((23,), -1)
    y[[3, 8, 9]] = torch.tensor([0, 2, 1])
    pair = small(alpha=0.3)
    for share in (0.2, 0.5, 0.8):
        rows = partly_labeled(x, y, K, share)
        assert (rows.tensors[1] >= 0).double().mean().item() == pytest.approx(share, abs=0.08)
        total = -Enumeration().loss(*programs(pair), *rows.tensors)
        assert total == pytest.approx(Enumeration().bound(pair, x, y).sum().item(), rel=1e-5)
    assert len(partly_labeled(x, y, K, 1e-6)) == 23


def blobs(size: int) -> tuple[Tensor, Tensor]:
    """Two classes that one label each tells apart, where the data are seen."""
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(size) % 2
    return torch.randn(size, EVENT, generator=generator) * 0.3 + (2 * y[:, None] - 1) * torch.tensor([2.0, 1, 0, 0]), y


def test_two_labels_are_enough_where_the_data_are_seen() -> None:
    x, y = blobs(120)
    few = torch.where(torch.arange(120) < 2, y, -1)
    likelihood = functools.partial(Gaussian, scale=0.3, sigmoid_mean=False)
    pair = SemiSupervisedVAE((EVENT,), 2, 1, (8,), alpha=1000.0, likelihood=likelihood)
    run = fit_pair(
        pair, partly_labeled(x, few, 2, 0.3), estimator=Enumeration(), epochs=6, batch_size=20, compile="traced",
        optimizer=functools.partial(torch.optim.Adam, lr=1e-2), progress=False,
    )  # fmt: skip
    assert run.mode == "traced"
    assert (pair.classify(x).probs.argmax(1) == y).double().mean() > 0.97
    assert (pair.conditional(torch.zeros(2, 1), torch.arange(2)).mean[:, 0] > 0).tolist() == [False, True]


def test_it_is_a_pair() -> None:
    pair = small()
    report = check(pair, X, MIXED, estimator=Enumeration(2))
    assert [site.name for site in report.sites] == ["y", "z", "x"]
    check(pair, X)
    assert pair.model().shape == (1, EVENT)
    assert pair.model(X, MIXED) is X
    with pytest.raises(ValueError, match=r"needs data: run the guide as guide\(x, y\)"):
        pair.guide()
    with pytest.raises(ValueError, match=r"q\(y\) is a Categorical.*Enumeration"):
        SGVB_B().bound(pair, X, MIXED)
    assert ScoreFunction(3).bound(pair, X, MIXED).isfinite().all()
    assert diagnostics.sample(pair, 4, X, MIXED).shape == (4, EVENT)
    assert diagnostics.reconstruct(pair, X, MIXED).shape == X.shape
    codes = diagnostics.encode(pair, X, MIXED)
    assert (codes["y"] == MIXED)[MIXED >= 0].all()
    z, y = torch.randn(5, 1, D, dtype=torch.float64), torch.arange(K)
    rows = pair.conditional(z, y).mean
    assert rows.shape == (5, K, EVENT)
    torch.testing.assert_close(rows[3, 2], pair.conditional(z[3, 0], torch.tensor(2)).mean)


def test_the_gradient_reaches_every_parameter_in_any_order_of_the_data() -> None:
    pair = small(alpha=0.1, mean=X.mean(0))
    found = gradients_of(Enumeration(2), pair, X, MIXED)
    assert found.keys() == dict(pair.named_parameters()).keys()
    assert all(value.isfinite().all() and value.any() for value in found.values())
    assert_same(found, gradients_of(Enumeration(2), pair, X.flip(0), MIXED.flip(0)))


@pytest.mark.parametrize("label", [3, -2, 0.5])
def test_a_label_that_is_none_is_named(label: float) -> None:
    y = MIXED.to(torch.float64 if label == 0.5 else torch.int64).clone()
    y[4] = label
    message = f"^{label} is no label of 3 classes: labels are the whole numbers 0 to 2, and -1 where one is missing"
    for call in (
        lambda: check(small(), X, y),
        lambda: Enumeration().bound(small(), X, y),
        lambda: fit_pair(
            small(), (torch.utils.data.TensorDataset(X.float(), y), None), estimator=Enumeration(), batch_size=6
        ),
        lambda: check_labels(y, K),
        lambda: partly_labeled(X, y, K),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(alpha=-1.0), "alpha has to be a finite number of at least 0; got -1.0"),
        (lambda: SemiSupervisedVAE((4,), 3, 2, ()), "give hidden at least one"),
        (lambda: SemiSupervisedVAE((4,), 0, 2), "sizes of at least 1"),
        (lambda: check(small(), X, MIXED[:2]), r"a label for each datum, \[6\], .*got \[2\]"),
        (lambda: partly_labeled(X, MISSING, K), "no datum has a label"),
        (lambda: partly_labeled(X, MIXED, K, 1.0), "share has to be a finite number above 0 and below 1; got 1.0"),
        (lambda: partly_labeled(X, MIXED[:2], K), r"got \[2\]"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
