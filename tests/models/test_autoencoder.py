"""The autoencoder: its bound, where linear ones end in closed form, and what it refuses for want of a prior."""

import copy
import functools
import math

import pytest
import torch
from torch import nn

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
from pyro_vae.training.records import read_metrics

fit = functools.partial(train, compile="traced", progress=False)
SHAPE = (1, 6, 5)
REAL = functools.partial(Gaussian, sigmoid_mean=False)


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return Autoencoder(SHAPE, **{"latent_dim": 3, "hidden": (8,), **arguments})


@pytest.fixture
def x():
    return torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))


def half_squared_error(pair, x, target=None):
    """``[B]``, by the networks alone."""
    loc = pair.likelihood.network(pair.posterior.network(x)).sigmoid()
    return 0.5 * (loc - (x if target is None else target)).square().flatten(1).sum(1)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_the_bound_is_half_the_squared_error(x, estimator, num_particles):
    pair = make().double()
    x = x.double()
    bound = estimator(num_particles).bound(pair, x)
    expected = -half_squared_error(pair, x) - 30 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(bound, expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_the_gradient_is_that_of_half_the_squared_error(x, estimator):
    pair = make()
    loss = estimator().objective(*programs(pair), x).loss
    ours = torch.autograd.grad(loss, list(pair.parameters()))
    expected = torch.autograd.grad(half_squared_error(pair, x).mean(), list(pair.parameters()))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 4.0])
@pytest.mark.parametrize("estimator", [SGVB_A, SGVB_B])
def test_beta_has_no_part_in_it(x, estimator, beta):
    pair = make()
    losses = [estimator(beta=value).objective(*programs(pair), x).loss for value in (beta, 1.0)]
    torch.testing.assert_close(*losses, rtol=0, atol=0)


def test_both_estimators_eager_and_traced_train_alike(x):
    runs = [
        fit(make(corruption=Masking(0.3)), Split(x), epochs=3, batch_size=5, estimator=estimator, compile=compile)
        for estimator in (SGVB_A(), SGVB_B())
        for compile in ("eager", "traced")
    ]
    assert [run.mode for run in runs] == ["eager", "traced", "eager", "traced"]
    for run in runs[1:]:
        for ours, theirs in zip(run.history, runs[0].history, strict=True):
            assert ours["train"] == pytest.approx(theirs["train"], rel=1e-6)


@pytest.mark.parametrize("likelihood", [Bernoulli, functools.partial(Gaussian, scale=None), Gaussian])
def test_any_likelihood(x, likelihood):
    x = x.round()
    pair = make(likelihood=likelihood)
    z = diagnostics.encode(pair, x)["z"]
    torch.testing.assert_close(SGVB_B().bound(pair, x), pair.likelihood(z).log_prob(x).detach())


def test_check_names_both_and_a_closed_form(x):
    report = check(make(), x, estimator=SGVB_B(2))
    latent, observed = report.sites
    assert (latent.model, latent.guide, latent.analytic_kl) == ("Flat", "Point", True)
    assert (latent.batch_shape, latent.event_shape) == ((12,), (3,))
    assert observed.model == "Normal"


def test_encode_decode_reconstruct_interpolate(x):
    pair = make(mean=x.mean(0), corruption=Masking(0.9))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_that_of_the_pair(x, dtype):
    pair, x = make().to(dtype), x.to(dtype)
    assert diagnostics.reconstruct(pair, x).dtype == dtype
    assert diagnostics.interpolate(pair, x[:2], x[2:4]).dtype == dtype
    assert SGVB_A().bound(pair, x).dtype == dtype
    assert pair.prior().log_prob(torch.zeros(2, 3, dtype=dtype)).dtype == dtype


def test_the_code_is_float32_under_autocast(x):
    with torch.autocast("cpu", torch.bfloat16):
        assert make().posterior(x).mean.dtype == torch.float32


def test_the_corruption_acts_in_training_alone_and_the_target_is_clean(x):
    class Halved(nn.Module):
        def forward(self, x):
            return x / 2 if self.training else x

    pair = make(corruption=Halved())
    assert pair.corruption is pair.posterior.network.corruption
    assert make().corruption is None
    network = copy.deepcopy(pair)
    network.posterior.network = pair.posterior.network.network
    constant = 30 / 2 * math.log(2 * math.pi)
    for training, seen in ((True, x / 2), (False, x)):
        bound = SGVB_B().bound(pair.train(training), x)
        expected = -half_squared_error(network, seen, target=x) - constant
        torch.testing.assert_close(bound, expected.detach())


def test_dropout_is_a_corruption(x):
    run = fit(make(corruption=nn.Dropout(0.5)), Split(x), epochs=2, batch_size=5)
    assert run.mode == "traced"


def test_the_other_arguments():
    pair = make(hidden=(9, 7), decoder_hidden=(5,), activation=nn.Tanh)
    widths = [layer.out_features for layer in pair.modules() if isinstance(layer, nn.Linear)]
    assert widths == [9, 7, 3, 5, 30]
    widths = [layer.out_features for layer in make(hidden=(9, 7)).modules() if isinstance(layer, nn.Linear)]
    assert widths == [9, 7, 3, 7, 9, 30]
    pair = make(mean=torch.full(SHAPE, 0.3), likelihood=Bernoulli)
    torch.testing.assert_close(pair.likelihood.network.layers[-1].bias, torch.full((30,), 0.3).logit())
    with pytest.raises(ValueError, match="mean of the input has to be finite"):
        make(mean=torch.zeros(7))


def test_resumed_is_the_same_bits(x, tmp_path):
    arguments = {"epochs": 4, "batch_size": 5, "checkpoint_every": 0.0}
    whole = fit(make(corruption=Masking(0.3)), Split(x), out=tmp_path / "whole", **arguments)

    def stop(run):
        if len(run.history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make(corruption=Masking(0.3)), Split(x), out=tmp_path / "parts", callbacks=[stop], **arguments)
    assert len(read_metrics(tmp_path / "parts")) == 2
    resumed = fit(make(9, corruption=Masking(0.3)), Split(x), out=tmp_path / "parts", resume=True, **arguments)
    for ours, theirs in zip(resumed.pair.parameters(), whole.pair.parameters(), strict=True):
        assert torch.equal(ours, theirs)


EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.3, 0.1])
KEPT = 2


def linear_data(num_data=300):
    """``[num_data, 6]`` with sample mean 0 and the covariance ``basis diag(EIGENVALUES) basis'``, and the basis."""
    generator = torch.Generator().manual_seed(5)
    white = torch.randn(num_data, 6, generator=generator, dtype=torch.float64)
    white = torch.linalg.qr(white - white.mean(0)).Q * num_data**0.5
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    return ((white * EIGENVALUES.double().sqrt()) @ basis.T).float(), basis.float()


def linear(x, epochs, corruption=None, **arguments):
    torch.manual_seed(0)
    pair = Autoencoder((6,), KEPT, hidden=(), likelihood=REAL, corruption=corruption)
    optimizer = functools.partial(torch.optim.Adam, lr=0.02)
    run = fit(pair, x, epochs=epochs, batch_size=len(x), optimizer=optimizer, scheduler=Cosine(), **arguments)
    (encoder,), (decoder,) = (
        [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
        for part in (run.pair.posterior, run.pair.likelihood)
    )
    return run.pair, (decoder.weight @ encoder.weight).detach()


def test_a_linear_autoencoder_is_principal_components():
    x, basis = linear_data()
    pair, product = linear(x, 500)
    assert diagnostics.reconstruction_mse(pair, [(x,)]) == pytest.approx(EIGENVALUES[KEPT:].sum().item(), rel=1e-4)
    torch.testing.assert_close(product, basis[:, :KEPT] @ basis[:, :KEPT].T, rtol=0, atol=5e-3)


def test_a_linear_denoising_autoencoder_is_ridge_regression_on_principal_components():
    # The minimum of E |x - B (x + s e)|^2 over B of rank k is U_k diag(l / (l + s^2)) U_k'.
    x, basis = linear_data()
    level = 1.2
    shrunk = (EIGENVALUES / (EIGENVALUES + level**2))[:KEPT]
    expected = basis[:, :KEPT] * shrunk @ basis[:, :KEPT].T
    _, product = linear(x.repeat(10, 1), 600, GaussianNoise(level), average=0.98)
    torch.testing.assert_close(product, expected, rtol=0, atol=0.03)
    assert (basis[:, :KEPT] @ basis[:, :KEPT].T - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    "ask",
    [
        lambda pair, x: pair.model(),
        lambda pair, x: diagnostics.sample(pair, 3, x),
        lambda pair, x: diagnostics.sample(pair, 3),
        lambda pair, x: diagnostics.prior_quantiles(pair, [0.5], x),
        lambda pair, x: evidence.ais(pair, x, 2, 2, compile="eager"),
        lambda pair, x: evidence.ais(pair, x, 2, 2, start="guide", compile="eager"),
        lambda pair, x: evidence.bdmc(pair, x, 2, 2, compile="eager"),
        lambda pair, x: evidence.hmc(pair, x, 2, 2, 2, compile="eager"),
        lambda pair, x: fit(pair, x, estimator=WakeSleep(), epochs=1, batch_size=4, compile="eager"),
    ],
)
def test_without_a_prior_there_is_a_sentence(x, ask):
    with pytest.raises(ValueError, match="an autoencoder has no prior"):
        ask(make(), x)


@pytest.mark.parametrize(
    "ask",
    [
        lambda pair, x: evidence.importance(pair, x, 10, compile="eager"),
        lambda pair, x: IWAE(5).bound(pair, x),
        lambda pair, x: Renyi(0.5, 5).bound(pair, x),
        lambda pair, x: VIMCO(5).bound(pair, x),
        lambda pair, x: fit(pair, x, estimator=DReG(5), epochs=1, batch_size=4),
        lambda pair, x: check(pair, x, estimator=IWAE(5)),
    ],
)
def test_without_densities_there_are_no_weights(x, ask):
    with pytest.raises(ValueError, match="a point without a density: there are no importance weights"):
        ask(make(), x)


def test_has_prior(x):
    assert not has_prior(make(), x)
    assert has_prior(MLPVAE(SHAPE, 2, (8,)), x)


def test_the_measure_and_the_point():
    flat = Flat(torch.distributions.constraints.real_vector, torch.Size(), torch.Size([3]))
    assert flat.expand([4]).log_prob(torch.randn(2, 4, 3)).shape == (2, 4)
    point = Point(torch.randn(4, 3), 1)
    assert torch.equal(point.expand([2, 4]).rsample(), point.v.expand(2, 4, 3))
    assert torch.equal(point.log_prob(point.v), torch.zeros(4))
    assert torch.equal(torch.distributions.kl_divergence(point, flat.expand([4])), torch.zeros(4))


def test_figures_leave_out_what_needs_a_prior(x, tmp_path):
    paths = drawing.draw(tmp_path, make(latent_dim=2), Data("rows", Split(x)), {})
    assert {path.stem for path in paths} == {"reconstructions", "interpolations", "active_units", "latent_scatter"}


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "2", "--compile", "traced", "--progress", "false", "--model.hidden", "[16]", "--out", "run"]
    noise = ["--model.corruption", "pyro_vae.networks.Masking", "--model.corruption.level", "0.2"]
    assert cli.main(["train", "--model", "pyro_vae.models.Autoencoder", *options, *noise]) == 0
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {"learning_curves", "reconstructions", "interpolations", "active_units", "latent_scatter"}
    assert "pyro-vae evaluate" not in capsys.readouterr().out
    assert cli.main(["plot", "run"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "run", "--method", "ais", "--limit", "3"]) == 2
    said = capsys.readouterr().err
    assert "an autoencoder has no prior" in said
    assert said.count("\n") == 1  # without the shapes that Pyro adds
