"""VQVAE and CodePrior: straight-through gradients, moving codes, code priors and evidence; masked convolutions."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import sys
import warnings

import pyro
import pyro.infer
import pytest
import torch
from torch import nn

from pyro_vae import SGVB_A, SGVB_B, MonteCarloEM, TopDownVAE, check, cli, diagnostics, evidence, fit, runs
from pyro_vae.likelihoods import DiscretizedLogistic
from pyro_vae.models import VQVAE, CodePrior
from pyro_vae.models.code_book import CodeBook, Codes
from pyro_vae.models.code_prior import AutoregressiveCodes, PixelCNN
from pyro_vae.networks.masked import MaskedConv2d
from pyro_vae.pair import run

SMALL = {"num_codes": 6, "code_dim": 4, "channels": 8, "num_blocks": 1, "block_channels": 4}


adam = functools.partial(torch.optim.Adam, lr=1e-2)


def binary(*shape):
    return torch.bernoulli(torch.full(shape, 0.4), generator=torch.Generator().manual_seed(1))


def make(event_shape=(1, 8, 8), seed=0, **options):
    torch.manual_seed(seed)
    return VQVAE(event_shape, **{**SMALL, **options})


def tiny(seed=0, **options):
    """One position a level, and codes that are not alike."""
    pair = make((1, 2, 2), seed, num_codes=3, code_dim=2, **{"strides": (2, 1), **options})
    for level in pair.levels:
        level.book.codes.mul_(2.0)
    return pair


def one_hots(count, num_codes):
    """``[num_codes ** count, count, num_codes]``: all there are."""
    index = torch.tensor(list(itertools.product(range(num_codes), repeat=count)))
    return nn.functional.one_hot(index, num_codes).float()


# Masked convolutions


@pytest.mark.parametrize("kernel_size", [3, (1, 5), (5, 3)])
def test_masked_convolution_sees_what_comes_before(kernel_size):
    size = (4, 5)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    height, width = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    place = torch.cartesian_prod(torch.arange(size[0]), torch.arange(size[1]))
    down, right = (place[:, None] - place[None]).unbind(-1)  # from the input's pixel to the output's
    near = (down.abs() <= height // 2) & (right.abs() <= width // 2)
    before = near & ((down > 0) | ((down == 0) & (right > 0)))
    for mask, expected in (("A", before), ("B", before | torch.eye(20, dtype=torch.bool))):
        layer = MaskedConv2d(2, 3, kernel_size, mask).double()
        jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, :, :, 0]
        found = jacobian.permute(0, 3, 1, 2, 4, 5).reshape(3, 2, 20, 20)
        assert torch.equal(found != 0, expected.expand_as(found))
        assert layer(x).shape == (1, 3, *size)


def test_masked_convolution_refuses():
    for arguments, message in (((4, "A"), "sizes are odd; got 4"), ((3, "C"), r"mask is one of 'A', 'B'; got 'C'")):
        with pytest.raises(ValueError, match=message):
            MaskedConv2d(1, 1, *arguments)
    with pytest.raises(TypeError, match="no stride"):
        MaskedConv2d(1, 1, 3, "A", stride=2)


# Gradients


def textbook(pair, x):
    """Minus the mean of log p(x | z*), with e + sg(c - e) in the place of the codes, and the commitments."""
    h, commitment = None, 0.0
    for index, level in reversed(list(enumerate(pair.levels))):
        evidence_ = pair.bottom_up(x)[index]
        e = level.encoder(evidence_ if h is None else torch.cat([evidence_, h], -3))
        codes = level.book.codes
        distance = (e.movedim(-3, -1).unsqueeze(-2) - codes).square().sum(-1)
        c = codes[distance.argmin(-1)].movedim(-1, -3)
        passed = e + (c - e).detach()
        h = level.decoder(passed if h is None else torch.cat([passed, h], -3))
        commitment = commitment + level.commitment * (e - c.detach()).square().sum((-3, -2, -1))
    return -pair.likelihood(h).log_prob(x), commitment


def gradients(loss, pair):
    found = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
    return {name: g for (name, _), g in zip(pair.named_parameters(), found, strict=True)}


@pytest.mark.parametrize(
    ("strides", "estimator"), [((2,), SGVB_B()), ((2, 2), SGVB_A(3)), ((1, 2, 2), SGVB_A())], ids=repr
)
def test_gradient_is_straight_through(strides, estimator):
    pair, x = make(strides=strides).eval(), binary(5, 1, 8, 8)
    reconstruction, _ = textbook(pair, x)
    objective = estimator.objective(pair.model, pair.guide, x)
    for level in pair.levels:
        reconstruction = reconstruction + math.log(6) * level.event_shape[0] * level.event_shape[1]
    torch.testing.assert_close(objective.loss, reconstruction.mean())
    ours, theirs = gradients(objective.loss, pair), gradients(reconstruction.mean(), pair)
    for name, gradient in theirs.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=1e-5)
        assert scale > 0, name


@pytest.mark.parametrize("elbo", [pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO, SGVB_A, SGVB_B])
def test_training_pays_for_the_commitment(elbo):
    pair, x = make(commitment=0.7).train(), binary(32, 1, 8, 8)
    pair.guide(x)
    for level in pair.levels:
        level.book.decay = 1 - 1e-9  # the codes stay, so that the textbook sees those of the step
    loss = elbo().differentiable_loss(pair.model, pair.guide, x)
    reconstruction, commitment = textbook(pair, x)
    expected = (reconstruction + commitment).sum() + 32 * (4 + 16) * math.log(6)
    torch.testing.assert_close(loss, expected)
    assert commitment.mean() > 1e-3
    ours, theirs = gradients(loss, pair), gradients(expected, pair)
    for name, gradient in theirs.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=1e-4)


def test_evaluation_is_the_pure_bound():
    pair, x = make(commitment=100.0).train(), binary(32, 1, 8, 8)
    pair.guide(x)
    pair.eval()
    codes = [level.book.codes.clone() for level in pair.levels]
    model_trace, guide_trace = run(pair, x)
    assert set(guide_trace.nodes) & {"commitment1", "commitment2"} == set()
    bound = SGVB_A().bound(pair, x)
    z = {name: model_trace.nodes[name]["value"] for name in ("z1", "z2")}
    assert all(((value == 0) | (value == 1)).all() and (value.sum(-1) == 1).all() for value in z.values())
    likelihood = model_trace.nodes["x"]["fn"].log_prob(x)
    torch.testing.assert_close(bound, likelihood - (4 + 16) * math.log(6))
    torch.testing.assert_close(SGVB_B().bound(pair, x), bound)
    for before, level in zip(codes, pair.levels, strict=True):
        assert torch.equal(before, level.book.codes)
    assert set(diagnostics.encode(pair, x)) == {"z1", "z2"}
    torch.testing.assert_close(diagnostics.encode(pair, x)["z1"], z["z1"])


# The code book


def test_codes_are_moving_means():
    torch.manual_seed(0)
    book = CodeBook(5, 3, decay=0.9, revival=0.0).double()
    book.usage.copy_(torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2]))
    book.sums.copy_(book.codes * book.usage[:, None])
    old, usage, sums = book.codes.clone(), book.usage.clone(), book.sums.clone()
    e = torch.randn(2, 7, 3, 4, 2, dtype=torch.float64)
    z = book.nearest(e)
    rows = e.movedim(-3, -1).reshape(-1, 3)
    nearest = torch.cdist(rows, old).argmin(-1)
    assert torch.equal(z.reshape(-1, 5).argmax(-1), nearest)
    for k in range(5):
        mine = rows[nearest == k]
        usage[k] = 0.9 * usage[k] + 0.1 * len(mine) / len(rows)
        sums[k] = 0.9 * sums[k] + 0.1 * mine.sum(0) / len(rows)
    torch.testing.assert_close(book.usage, usage)
    torch.testing.assert_close(book.codes, sums / usage[:, None], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(book.usage.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(book(z).movedim(-3, -1), book.codes[z.argmax(-1)])
    entropy = -sum(share * math.log(share) for share in usage.tolist())
    assert book.perplexity.item() == pytest.approx(math.exp(entropy))


def test_a_code_that_was_never_nearest_stays():
    torch.manual_seed(0)
    book = CodeBook(4, 2, revival=0.0)
    book.codes[3] = 100.0
    e = torch.randn(50, 2, 1, 1)
    nearest = book.nearest(e).flatten(0, -2)
    assert torch.equal(book.codes[3], torch.full((2,), 100.0))
    for k in range(3):
        torch.testing.assert_close(book.codes[k], e.flatten(1)[nearest[:, k] == 1].mean(0), rtol=0.02, atol=0.02)


def test_dead_codes_are_revived():
    torch.manual_seed(0)
    book = CodeBook(4, 2)
    e = 5 + torch.randn(50, 2, 1, 1)
    book.nearest(e[:1])  # fewer than K: nothing to start at
    assert (book.codes.norm(dim=-1) < 4).any()
    book.nearest(e)
    assert (torch.cdist(book.codes, e.flatten(1)).amin(-1) < 0.5).all()
    assert book.perplexity > 3
    book.codes[2] = -100.0
    book.sums[2] = 0.0
    book.usage[2] = 0.01
    book.nearest(e)
    assert (torch.cdist(book.codes, e.flatten(1)).amin(-1) < 0.5).all()
    assert book.usage[2] > 0.2
    book.eval()
    book.usage[2] = 0.0
    kept = book.codes.clone()
    book.nearest(e)
    assert torch.equal(book.codes, kept)


@pytest.mark.parametrize("stage", ["uniform", "prior"])
def test_usage_of_each_level(stage):
    first, x = make().eval(), binary(9, 1, 8, 8)
    pair = first if stage == "uniform" else CodePrior(first, channels=4, num_layers=1).eval()
    codes = diagnostics.encode(pair, x)
    found = diagnostics.levels(pair, [(x[:4],), (x[4:],)])
    assert [(level.site, level.num_units, level.num_codes) for level in found] == [("z1", 16, 6), ("z2", 4, 6)]
    for name, value in codes.items():
        share = value.flatten(0, -2).mean(0)
        entropy = -sum(p * math.log(p) for p in share.tolist() if p > 0)
        assert found[name].perplexity == pytest.approx(math.exp(entropy))
        if stage == "uniform":
            assert found[name].rate == pytest.approx(found[name].num_units * math.log(6), rel=1e-5)
    distortion = diagnostics.rate_distortion(pair, [(x,)]).distortion
    assert found.rate + distortion == pytest.approx(-SGVB_B().bound(pair, x).mean().item(), rel=1e-5)


def test_held_codes_are_those_of_the_datum():
    pair, x = CodePrior(make(), channels=4, num_layers=1).eval(), binary(3, 1, 8, 8)
    held = diagnostics.resample(pair, x, fixed=["z2", "z1"], num_samples=2)
    torch.testing.assert_close(held, diagnostics.reconstruct(pair, x)[:, None].expand(3, 2, 1, 8, 8))
    free = diagnostics.resample(pair, x, fixed=["z2"], num_samples=2)
    assert (free[:, 0] - free[:, 1]).abs().amax((1, 2, 3)).min() > 1e-4


# Training


@pytest.mark.slow
def test_fit_raises_the_bound():
    x = binary(4, 1, 8, 8).repeat(32, 1, 1, 1)  # four images
    pair = make(strides=(4, 2))
    before = SGVB_B().mean_bound(pair.eval(), [(x,)])
    fit(pair, x, epochs=30, batch_size=64, compile="traced", optimizer=adam, average=0.9, progress=False)
    pair.eval()
    assert SGVB_B().mean_bound(pair, [(x,)]) > before + 10
    assert diagnostics.reconstruct(pair, x[:4]).sub(x[:4]).abs().mean() < 0.4


def test_codes_stay_in_float32_in_bfloat16():
    x = binary(8, 1, 8, 8)
    run = fit(make(), x, epochs=2, batch_size=8, precision="bfloat16", compile="eager", progress=False)
    assert run.pair.levels[0].book.codes.dtype == torch.float32
    assert run.pair.levels[0].book.usage.min() > 0


def test_likelihoods_and_shapes():
    pair = make((2, 12, 8), likelihood=DiscretizedLogistic, strides=(2, 2))
    x = torch.rand(30, 2, 12, 8).mul(255).round() / 255
    report = check(pair, x)
    assert [site.event_shape for site in report.sites] == [(3, 2, 6), (6, 4, 6), (2, 12, 8)]
    assert all(site.analytic_kl for site in report.sites[:2])
    assert pair.model().shape == (1, 2, 12, 8)
    assert diagnostics.sample(pair, 3, x[:1]).shape == (3, 2, 12, 8)


# Evidence


def exact_evidence(pair, x):
    """log p(x) by all codes of two maps of one position."""
    terms = []
    for z1, z2 in itertools.product(one_hots(1, 3), repeat=2):
        values = {"z1": z1.expand(len(x), 1, 1, 3), "z2": z2.expand(len(x), 1, 1, 3)}
        trace = pyro.poutine.trace(pyro.condition(pair.model, data=values)).get_trace(x)
        trace.compute_log_prob()
        terms.append(sum(trace.nodes[name]["log_prob"] for name in ("z1", "z2", "x")))
    return torch.stack(terms).logsumexp(0)


@pytest.mark.filterwarnings("ignore:.*k-hat")  # of nine different weights: no tail to fit
@pytest.mark.parametrize("stage", ["uniform", "prior"])
def test_evidence(stage):
    first, x = tiny().eval(), binary(6, 1, 2, 2)
    torch.manual_seed(3)
    pair = (first if stage == "uniform" else CodePrior(first, channels=4, num_layers=1)).eval()
    with torch.no_grad():
        exact = exact_evidence(pair, x)
    bound = SGVB_A().bound(pair, x)
    assert (bound < exact - 0.1).all()
    torch.testing.assert_close(evidence.importance(pair, x, num_samples=50, compile="eager").log_prob, bound)
    soft = pair.softened(3.0)
    assert check(soft, x).sites[0].guide == "OneHotCategorical"
    estimate = evidence.importance(soft, x, num_samples=4000, compile="eager")
    assert ((estimate.log_prob - exact).abs() < 4 * estimate.standard_error + 1e-4).all()
    assert estimate.standard_error.max() < 0.05
    with torch.no_grad():
        torch.testing.assert_close(SGVB_A().bound(pair.softened(1e-6), x), bound)


def test_samplers_of_continuous_latents_are_refused():
    pair, x = make(), binary(8, 1, 8, 8)
    for refused in (
        lambda: evidence.ais(pair, x),
        lambda: fit(pair, x, estimator=MonteCarloEM(), batch_size=8, progress=False),
        lambda: evidence.ais(CodePrior(pair, channels=4, num_layers=1), x),
    ):
        before = copy.deepcopy(pair.state_dict())
        message = r"AIS, .* and MonteCarloEM .* continuous latents, but 'z2' is .* discrete.*softened\(temperature\)"
        with pytest.raises(ValueError, match=message):
            refused()
        parameters = dict(pair.named_parameters())
        assert all(torch.equal(before[name], value) for name, value in parameters.items())


# The second stage


def code_prior(context, height=2, width=2, num_codes=2):
    torch.manual_seed(0)
    network = PixelCNN(num_codes, 3 * context, channels=6, num_layers=3)
    for parameter in network.parameters():  # far from uniform
        parameter.data.mul_(2.5)
    return AutoregressiveCodes(network, (height, width, num_codes), torch.randn(3, height, width) if context else None)


@pytest.mark.parametrize("context", [False, True])
def test_code_prior_sums_to_one(context):
    p, z = code_prior(context), one_hots(4, 2).reshape(16, 2, 2, 2)
    probs = p.log_prob(z).exp()
    torch.testing.assert_close(probs.sum(), torch.ones(()))
    assert probs.max() > 3 * probs.min()
    torch.manual_seed(1)
    draws = p.sample((4000,))
    assert draws.shape == (4000, 2, 2, 2)
    counts = (draws.flatten(1)[:, None] == z.flatten(1)).all(-1).sum(0)
    assert counts.sum() == 4000
    deviation = (counts / 4000 - probs) / (probs * (1 - probs) / 4000).sqrt()
    assert deviation.abs().max() < 4
    assert p.expand((5,)).sample().shape == (5, 2, 2, 2)
    torch.testing.assert_close(p.expand((16,)).log_prob(z).exp(), probs)


@pytest.mark.parametrize("context", [False, True])
def test_code_prior_is_autoregressive(context):
    torch.manual_seed(0)
    network = PixelCNN(3, 4 * context, channels=16, num_layers=5).double()  # five layers see across five columns
    p = AutoregressiveCodes(network, (4, 5, 3), torch.randn(4, 4, 5).double() if context else None)
    z = torch.rand(4, 5, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(p.logits, z).reshape(20, 3, 20, 3).abs().sum((1, 3))
    assert torch.equal(jacobian > 0, torch.ones(20, 20).tril(-1).bool())  # all that come before, without a blind spot


def test_code_prior_takes_its_context():
    torch.manual_seed(0)
    network, context = PixelCNN(3, 4, channels=6, num_layers=2), torch.randn(7, 4, 2, 2)
    p = AutoregressiveCodes(network, (2, 2, 3), context)
    z = p.sample((5,))
    assert p.batch_shape == (7,)
    assert z.shape == (5, 7, 2, 2, 3)
    alone = torch.stack(
        [AutoregressiveCodes(network, (2, 2, 3), h).log_prob(z[:, i]) for i, h in enumerate(context)], 1
    )
    torch.testing.assert_close(p.log_prob(z), alone)
    other = AutoregressiveCodes(network, (2, 2, 3), context.flip(0)).log_prob(z)
    assert (other - alone).abs().max() > 1e-2


def test_code_prior_is_fitted():
    x = binary(6, 1, 8, 8).repeat(10, 1, 1, 1)
    first = make().train()
    first.guide(x)
    state = copy.deepcopy(first.state_dict())
    torch.manual_seed(2)
    pair = CodePrior(first, channels=8, num_layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pyro's of parameters without a gradient
        run(pair, x)
        fit(pair, x, epochs=12, batch_size=30, compile="eager", optimizer=adam, progress=False)
    uniform, fitted = (SGVB_B().bound(p.eval(), x).mean() for p in (first, pair))
    assert fitted > uniform + 8
    assert first.levels[0].encoder.layers[0].weight.requires_grad
    for name, value in first.state_dict().items():
        assert torch.equal(value, state[name])
        second = name.replace("levels.0.", "levels.0.level.").replace("levels.1.", "levels.1.level.")
        assert torch.equal(pair.state_dict()[second], state[name])
    codes, expected = diagnostics.encode(pair, x), diagnostics.encode(first, x)
    assert all(torch.equal(codes[name], expected[name]) for name in expected)
    torch.testing.assert_close(diagnostics.reconstruct(pair, x), diagnostics.reconstruct(first, x))
    assert diagnostics.sample(pair, 4, x[:1]).shape == (4, 1, 8, 8)


def test_code_prior_takes_a_pair_of_ones_own():
    pair = make().eval()
    own = TopDownVAE(pair.bottom_up, list(pair.levels), pair.likelihood)
    torch.manual_seed(2)
    expected = CodePrior(pair, channels=4, num_layers=1).eval()
    torch.manual_seed(2)
    found = CodePrior(own, channels=4, num_layers=1).eval()
    x = binary(3, 1, 8, 8)
    assert torch.equal(SGVB_B().bound(found, x), SGVB_B().bound(expected, x))


def test_first_stage_stays_in_evaluation_mode():
    pair = CodePrior(make(), channels=4, num_layers=1).train()
    assert pair.levels[0].network.training
    fixed = [pair.bottom_up, pair.likelihood, pair.levels[0].level, pair.levels[1].level]
    assert not any(part.training for module in fixed for part in module.modules())
    assert all("network" in name for name, p in pair.named_parameters() if p.requires_grad and "levels" in name)
    assert all("levels" in name for name, p in pair.named_parameters() if p.requires_grad)
    pair.softened(1.0)
    assert not any(part.training for module in fixed for part in module.modules())


@pytest.mark.slow
def test_both_stages_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = ["--data", "digits", "--epochs", "1", "--batch-size", "200", "--compile", "eager", "--progress", "false"]
    first = ["--model", "VQVAE", *(part for name, value in SMALL.items() for part in (f"--model.{name}", str(value)))]
    second = ["--model", "CodePrior", "--model.channels", "4", "--model.num_layers", "1", "--out", "prior"]
    assert cli.main(["train", *options, *first, "--out", "codes"]) == 0
    assert cli.main(["train", *options, *second, "--first", "codes"]) == 0
    drawn = {path.stem for path in (tmp_path / "prior" / "figures").iterdir()}
    assert drawn == {"learning_curves", "reconstructions", "samples", "levels", "levels_held"}
    codes, prior = (runs.load(out).pair for out in ("codes", "prior"))
    assert torch.equal(prior.levels[0].level.book.codes, codes.levels[0].book.codes)
    assert prior.levels[0].level.book.usage.min() > 0
    capsys.readouterr()
    for arguments, message in (
        ([], "needs a trained pair: --first FOLDER"),
        (["--first", "nowhere"], "nowhere is no run folder"),
    ):
        assert cli.main(["train", *options, *second, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["train", *options, *second, "--first", "prior"]) == 2
    assert "codes of a VQVAE; got CodePrior" in capsys.readouterr().err


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_shape": (1, 28, 28), "strides": (4, 2)}, "divide the sides of an image by 8, which 28 x 28 are not"),
        ({"strides": (3,)}, r"powers of 2, such as \(4, 2\); got \(3,\)"),
        ({"event_shape": (64,)}, r"a VQVAE is of images, .*; got \(64,\)"),
        ({"num_codes": 3}, "num_codes=3 one-hot vectors .* but code_dim=4"),
        ({"decay": 1.0}, "decay has to be .* above 0 and below 1"),
        ({"revival": 1.0}, "revival has to be .* at least 0 and below 1"),
        ({"commitment": -1.0}, "commitment has to be .* at least 0"),
        ({"block_channels": 0}, "channels and block_channels"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_refuses_what_cannot_be_trained_or_softened():
    pair, x = make(num_codes=50), binary(48, 1, 8, 8)
    pair.check_batch(x[:13])
    with pytest.raises(ValueError, match=r"a batch of 12 has 48 codes in z2 .* batch size of at least 13"):
        fit(pair, x, epochs=1, batch_size=12, progress=False)
    assert all(not level.book.usage.any() for level in pair.levels)
    with pytest.raises(ValueError, match="first stage of this CodePrior has not been trained"):
        fit(CodePrior(make(), channels=4, num_layers=1), x, batch_size=12, progress=False)
    with pytest.raises(TypeError, match="codes of a VQVAE; got Linear"):
        CodePrior(nn.Linear(1, 1))
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature has to be a finite number above 0"):
            make().softened(temperature)
    with pytest.raises(ValueError, match="needs data"):
        make().guide()


def test_codes_as_a_distribution():
    z = one_hots(4, 3)[:7].reshape(7, 2, 2, 3)
    q = Codes(z)
    assert q.batch_shape == (7,)
    assert torch.equal(q.log_prob(z), torch.zeros(7))
    assert (q.log_prob(z.flip(0))[:3] == -math.inf).all()
    p = pyro.distributions.OneHotCategorical(logits=torch.randn(7, 2, 2, 3)).to_event(2)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, p), -p.log_prob(z))
