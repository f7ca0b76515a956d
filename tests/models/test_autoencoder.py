"""The autoencoder: its bound, where linear ones end in closed form, and what it refuses for want of a prior."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import (
    IWAE,
    SGVB_A,
    SGVB_B,
    VIMCO,
    Bernoulli,
    Cosine,
    DReG,
    Gaussian,
    Renyi,
    WakeSleep,
    check,
    cli,
    diagnostics,
    evidence,
)
from pyro_vae import figures as drawing
from pyro_vae import fit as train
from pyro_vae.data import Data, Split
from pyro_vae.diagnostics import has_prior
from pyro_vae.distributions.point import Point
from pyro_vae.models import MLPVAE, Autoencoder
from pyro_vae.models.autoencoder import Flat
from pyro_vae.networks import Centered, GaussianNoise, Masking
from pyro_vae.pair import programs

fit = functools.partial(train, compile="traced", progress=False)
SHAPE = (1, 6, 5)
X = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))
both = pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])


def make(seed: int = 0, **arguments: Any) -> Any:
    torch.manual_seed(seed)
    return Autoencoder(SHAPE, **{"latent_dim": 3, "hidden": (8,), **arguments})


def half_squared_error(pair: Any, x: Tensor, target: Tensor | None = None) -> Tensor:
    """``[B]``, by the networks alone."""
    loc = pair.likelihood.network(pair.posterior.network(x)).sigmoid()
    return 0.5 * (loc - (x if target is None else target)).square().flatten(1).sum(1)


@both
def test_the_bound_is_half_the_squared_error(estimator: Any) -> None:
    """To the last digits in float64, with any number of particles; so is the gradient, and beta has no part in it."""
    pair, x = make().double(), X.double()
    error = half_squared_error(pair, x)
    for num_particles in (1, 3):
        bound = estimator(num_particles).bound(pair, x)
        torch.testing.assert_close(bound, -error.detach() - 30 / 2 * math.log(2 * math.pi), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(error.mean(), list(pair.parameters()))
    losses = [estimator(beta=beta).objective(*programs(pair), x).loss for beta in (1.0, 0.0, 4.0)]
    torch.testing.assert_close(torch.autograd.grad(losses[0], list(pair.parameters())), expected, rtol=1e-9, atol=1e-12)
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("likelihood", [Bernoulli, functools.partial(Gaussian, scale=None), Gaussian])
def test_any_likelihood(likelihood: Any) -> None:
    x = X.round()
    pair = make(likelihood=likelihood)
    z = diagnostics.encode(pair, x)["z"]
    torch.testing.assert_close(SGVB_B().bound(pair, x), pair.likelihood(z).log_prob(x).detach())


def test_check_names_both_and_a_closed_form() -> None:
    latent, observed = check(make(), X, estimator=SGVB_B(2)).sites
    assert (latent.model, latent.guide, latent.analytic_kl) == ("Flat", "Point", True)
    assert (latent.batch_shape, latent.event_shape) == ((12,), (3,))
    assert observed.model == "Normal"


def test_encode_decode_reconstruct_interpolate() -> None:
    x, pair = X, make(mean=X.mean(0), corruption=Masking(0.9))
    code = pair.posterior.network.network(x)
    assert isinstance(pair.posterior.network.network, Centered)
    torch.testing.assert_close(diagnostics.encode(pair, x)["z"], code.detach())
    assert pair.training
    means = pair.likelihood(code).mean.detach()
    torch.testing.assert_close(diagnostics.decode(pair, code.detach(), x[:1]), means)
    torch.testing.assert_close(diagnostics.reconstruct(pair, x), means)
    error = (means - x).square().flatten(1).sum(1).mean().item()
    assert diagnostics.reconstruction_mse(pair, [(x[:5],), (x[5:],)]) == pytest.approx(error, rel=1e-5)
    lines = diagnostics.interpolate(pair, x[:2], x[2:4], 3)
    torch.testing.assert_close(lines[:, 0], means[:2])
    torch.testing.assert_close(lines[:, 1], pair.likelihood((code[:2] + code[2:4]) / 2).mean.detach())
    assert diagnostics.rate_distortion(pair, [(x,)]).rate == 0


def test_the_code_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert make().posterior(X).mean.dtype == torch.float32
    assert make().double().prior().log_prob(torch.zeros(2, 3)).dtype == torch.float32  # of the value


def test_the_corruption_acts_in_training_alone_and_the_target_is_clean() -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2 if self.training else x

    pair = make(corruption=Halved())
    assert pair.corruption is pair.posterior.network.corruption
    assert make().corruption is None
    network = copy.deepcopy(pair)
    network.posterior.network = pair.posterior.network.network
    for training, seen in ((True, X / 2), (False, X)):
        bound = SGVB_B().bound(pair.train(training), X)
        expected = -half_squared_error(network, seen, target=X) - 30 / 2 * math.log(2 * math.pi)
        torch.testing.assert_close(bound, expected.detach())
    assert fit(make(corruption=nn.Dropout(0.5)), Split(X), epochs=2, batch_size=5).mode == "traced"


def test_the_other_arguments() -> None:
    def widths(pair: Any) -> list[int]:
        return [layer.out_features for layer in pair.modules() if isinstance(layer, nn.Linear)]

    assert widths(make(hidden=(9, 7), decoder_hidden=(5,), activation=nn.Tanh)) == [9, 7, 3, 5, 30]
    assert widths(make(hidden=(9, 7))) == [9, 7, 3, 7, 9, 30]
    pair = make(mean=torch.full(SHAPE, 0.3), likelihood=Bernoulli)
    torch.testing.assert_close(pair.likelihood.network.layers[-1].bias, torch.full((30,), 0.3).logit())
    with pytest.raises(ValueError, match="mean of the input has to be finite"):
        make(mean=torch.zeros(7))


# Linear ones

EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.3, 0.1])
KEPT = 2


def linear_data(num_data: int = 300) -> tuple[Tensor, Tensor]:
    """``[num_data, 6]`` with sample mean 0 and the covariance ``basis diag(EIGENVALUES) basis'``, and the basis."""
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(num_data, 6, generator=generator, dtype=torch.float64)
    white = torch.linalg.qr(white - white.mean(0)).Q * num_data**0.5
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    return ((white * EIGENVALUES.double().sqrt()) @ basis.T).float(), basis.float()


def linear(x: Tensor, epochs: int, corruption: Any = None, **arguments: Any) -> tuple[Any, Tensor]:
    likelihood = functools.partial(Gaussian, sigmoid_mean=False)
    torch.manual_seed(0)
    pair = Autoencoder((6,), KEPT, hidden=(), likelihood=likelihood, corruption=corruption)
    optimizer = functools.partial(torch.optim.Adam, lr=0.02)
    fit(pair, x, epochs=epochs, batch_size=len(x), optimizer=optimizer, scheduler=Cosine(), **arguments)
    encoder, decoder = (layer.weight for layer in pair.modules() if isinstance(layer, nn.Linear))
    return pair, (decoder @ encoder).detach()


def test_a_linear_autoencoder_is_principal_components() -> None:
    x, basis = linear_data()
    pair, product = linear(x, 500)
    assert diagnostics.reconstruction_mse(pair, [(x,)]) == pytest.approx(EIGENVALUES[KEPT:].sum().item(), rel=1e-4)
    torch.testing.assert_close(product, basis[:, :KEPT] @ basis[:, :KEPT].T, rtol=0, atol=5e-3)


def test_a_linear_denoising_autoencoder_is_ridge_regression_on_principal_components() -> None:
    """The minimum of E |x - B (x + s e)|^2 over B of rank k is U_k diag(l / (l + s^2)) U_k'."""
    x, basis = linear_data()
    level = 1.2
    shrunk = (EIGENVALUES / (EIGENVALUES + level**2))[:KEPT]
    expected = basis[:, :KEPT] * shrunk @ basis[:, :KEPT].T
    _, product = linear(x.repeat(10, 1), 600, GaussianNoise(level), average=0.98)
    torch.testing.assert_close(product, expected, rtol=0, atol=0.03)
    assert (basis[:, :KEPT] @ basis[:, :KEPT].T - expected).abs().max() > 0.1


# Without a prior, and without densities

NO_PRIOR: list[Callable[[Any], Any]] = [
    lambda pair: pair.model(),
    lambda pair: diagnostics.sample(pair, 3, X),
    lambda pair: diagnostics.sample(pair, 3),
    lambda pair: diagnostics.prior_quantiles(pair, [0.5], X),
    lambda pair: evidence.ais(pair, X, 2, 2, compile="eager"),
    lambda pair: evidence.ais(pair, X, 2, 2, start="guide", compile="eager"),
    lambda pair: evidence.bdmc(pair, X, 2, 2, compile="eager"),
    lambda pair: evidence.hmc(pair, X, 2, 2, 2, compile="eager"),
    lambda pair: fit(pair, X, estimator=WakeSleep(), epochs=1, batch_size=4, compile="eager"),
]
NO_WEIGHTS: list[Callable[[Any], Any]] = [
    lambda pair: evidence.importance(pair, X, 10, compile="eager"),
    lambda pair: IWAE(5).bound(pair, X),
    lambda pair: Renyi(0.5, 5).bound(pair, X),
    lambda pair: VIMCO(5).bound(pair, X),
    lambda pair: fit(pair, X, estimator=DReG(5), epochs=1, batch_size=4),
    lambda pair: check(pair, X, estimator=IWAE(5)),
]


def test_what_needs_a_prior_says_so() -> None:
    for ask in NO_PRIOR:
        with pytest.raises(ValueError, match="an autoencoder has no prior"):
            ask(make())
    for ask in NO_WEIGHTS:
        with pytest.raises(ValueError, match="a point without a density: there are no importance weights"):
            ask(make())
    assert not has_prior(make(), X)
    assert has_prior(MLPVAE(SHAPE, 2, (8,)), X)


def test_the_measure_and_the_point() -> None:
    flat = Flat(torch.distributions.constraints.real_vector, torch.Size(), torch.Size([3]))
    assert flat.expand([4]).log_prob(torch.randn(2, 4, 3)).shape == (2, 4)
    point = Point(torch.randn(4, 3), 1)
    assert torch.equal(point.expand([2, 4]).rsample(), point.v.expand(2, 4, 3))
    assert torch.equal(point.log_prob(point.v), torch.zeros(4))
    assert torch.equal(torch.distributions.kl_divergence(point, flat.expand([4])), torch.zeros(4))


WITHOUT_A_PRIOR = {"reconstructions", "interpolations", "active_units", "latent_scatter"}


def test_figures_leave_out_what_needs_a_prior(tmp_path: Path) -> None:
    paths = drawing.draw(tmp_path, make(latent_dim=2), Data("rows", Split(X)), {})
    assert {path.stem for path in paths} == WITHOUT_A_PRIOR


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "1", "--compile", "eager", "--progress", "false", "--model.hidden", "[16]", "--out", "run"]
    noise = ["--model.corruption", "pyro_vae.networks.Masking", "--model.corruption.level", "0.2"]
    assert cli.main(["train", "--model", "pyro_vae.models.Autoencoder", *options, *noise]) == 0
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {"learning_curves", *WITHOUT_A_PRIOR}
    assert "pyro-vae evaluate" not in capsys.readouterr().out
    assert cli.main(["evaluate", "run", "--method", "ais", "--limit", "3"]) == 2
    said = capsys.readouterr().err
    assert "an autoencoder has no prior" in said
    assert said.count("\n") == 1  # without the shapes that Pyro adds
