"""fit(): the same bits for the same seed; what it refuses; what it leaves behind."""

import functools
import inspect
import json
import math
import signal
import warnings
from queue import SimpleQueue

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import CUBO
from pairs import made, two_arguments
from small import LEVEL, SHAPE, adam, fit, images, make, normed, weights
from test_schedules import NoValue
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae
from pyro_vae import (
    IWAE,
    SGVB_A,
    SGVB_B,
    TCVAE,
    Capacity,
    Cosine,
    Linear,
    NonFiniteError,
    WeightPrior,
    compiled,
)
from pyro_vae.estimators import DoublyReparameterized, Estimator
from pyro_vae.models import MLPVAE, FullBayes, HierarchicalVAE
from pyro_vae.networks import GaussianNoise, Masking, SaltAndPepper
from pyro_vae.training import Progress, checkpoint

data = pytest.fixture(images)


# What it does


def test_the_bound_rises_and_the_history_tells_it(data, tmp_path):
    run = fit(make(), data, epochs=8, optimizer=adam(lr=1e-2), out=tmp_path)
    assert [entry["epoch"] for entry in run.history] == list(range(1, 9))
    assert [entry["samples"] for entry in run.history] == [110 * epoch for epoch in range(1, 9)]
    assert run.history[-1]["train"] > run.history[0]["train"] + 0.5
    assert run.history[-1]["valid"] > run.history[0]["valid"] + 0.5
    last = run.history[-1]
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-4)
    assert last["seconds"] > 0
    assert last["data_per_second"] > 0
    assert run.bound == last["valid"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.history


def test_the_training_bound_is_a_mean_over_data_not_over_batches(data):
    # A learning rate of 0 keeps the pair as it is; the last batch is smaller than the others.
    pair = make()
    run = fit(pair, data, epochs=1, batch_size=100, optimizer=functools.partial(torch.optim.SGD, lr=0.0))
    draws = torch.stack([SGVB_B().bound(pair, *data[0].batch(torch.arange(110))).mean() for _ in range(200)])
    assert run.history[0]["train"] == pytest.approx(draws.mean().item(), abs=5 * draws.std().item())


@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_same_seed_same_bits(data, mode):
    one, same, other = (weights(fit(make(), data, epochs=2, seed=seed, compile=mode).pair) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_two_fits_in_one_process_are_what_two_processes_give(data):
    alone = weights(fit(make(1), data, epochs=2).pair)
    fit(make(2), data, epochs=2)
    pyro.param("decoder", torch.zeros(3))
    assert torch.equal(alone, weights(fit(make(1), data, epochs=2).pair))
    assert list(pyro.get_param_store().keys()) == ["decoder"]


def test_the_callers_random_state_and_settings_stay(data):
    pair, estimator = make().eval(), SGVB_B(beta=0.5)
    state = torch.get_rng_state()
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(pair, data, epochs=1, estimator=estimator, beta=Linear())
    assert torch.equal(torch.get_rng_state(), state)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert estimator.beta == 0.5
    assert estimator.num_data is None
    assert not pair.training


class Counting(MLPVAE):
    """Counts the runs of its programs: those of check, in evaluation mode, and those of the steps."""

    def model(self, *args):
        self.runs.put(("model", self.training))
        return super().model(*args)

    def guide(self, *args):
        self.runs.put(("guide", self.training))
        return super().guide(*args)


@pytest.mark.parametrize(("estimator", "checks"), [(None, 2), (SGVB_B(), 3), (IWAE(3), 31)])
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_guide_and_model_run_a_few_times_before_the_first_step(data, estimator, checks, mode):
    """By itself, under Pyro's validation, by an estimator that is asked for, and to see how its particles are run."""
    pair = Counting(SHAPE, 3, (16,))
    pair.runs = SimpleQueue()  # a list would be a reason not to trace
    fit(pair, data[0], epochs=1, batch_size=110, estimator=estimator, compile=mode)
    steps = 1 if mode == "eager" else 2  # one step, for which the program is run and traced
    runs = [pair.runs.get() for _ in range(pair.runs.qsize())]
    before = runs[: 2 * checks]
    assert sorted(name for name, _ in before) == ["guide"] * checks + ["model"] * checks
    looks = isinstance(estimator, IWAE)  # at particles in training, too: a class of the user's own may differ there
    assert any(training for _, training in before) == looks
    assert runs[2 * checks :] == [("guide", True), ("model", True)] * steps


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_precisions(data, precision):
    plain = fit(make(), data, epochs=3)
    pair = make().double() if precision == "float64" else make()
    run = fit(pair, data, epochs=3, precision="float32" if precision == "float64" else precision)
    assert run.history[-1]["valid"] == pytest.approx(plain.history[-1]["valid"], abs=0.1)
    expected = torch.float64 if precision == "float64" else torch.float32
    assert all(parameter.dtype == expected for parameter in pair.parameters())
    assert not torch.equal(weights(pair).float(), weights(plain.pair))


def test_the_progress_bar_tells_bound_speed_and_time_left(data, capfd):
    fit(make(), data, epochs=3, progress=True)
    shown = capfd.readouterr().err.split("\r")[-1]
    assert "nats" in shown
    assert "data/s" in shown
    assert "steps/s" in shown


def test_the_progress_bar_tells_what_a_step_waits_for(data, capfd, monkeypatch):
    monkeypatch.setattr(compiled, "_has_compiler", lambda module: True)
    monkeypatch.setattr(compiled, "compiled_by_inductor", lambda graph, flat: graph)
    monkeypatch.setattr(compiled, "_RUNS", 1)
    fit(make(), data, epochs=2, progress=True, compile="auto")
    shown = capfd.readouterr().err.split("\r")
    assert sum("compiling the programs" in line for line in shown) == 1
    assert "compiling" not in shown[-1]


def test_other_kinds_of_data(data):
    x = data[0].tensors[0]
    loader = DataLoader(TensorDataset(x), batch_size=32, shuffle=True)
    for run in (fit(make(), x, epochs=1), fit(make(), loader, epochs=1)):
        assert run.history[0]["samples"] == 110
        assert run.history[0]["valid"] is None


def test_two_tensors_are_two_arguments():
    pair, batch = made(two_arguments)
    run = fit(pair, TensorDataset(*batch), epochs=1, batch_size=2)
    assert run.history[0]["samples"] == len(batch[0])


class GlobalShift(pyro.nn.PyroModule):
    """x_i ~ N(w, 1) with one w for all data: conjugate, and its plate knows the batch alone."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))

    @pyro_vae.pair_method
    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.unsqueeze(-1), 1.0).to_event(1), obs=x)

    @pyro_vae.pair_method
    def guide(self, x):
        pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [10, 40])
def test_what_all_data_share_counts_once_whatever_the_batch_size(batch_size):
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) + 2
    pair = GlobalShift()
    epochs = 600 * batch_size // 10
    fit(pair, x, epochs=epochs, batch_size=batch_size, scheduler=Cosine(), optimizer=adam(lr=0.05))
    # The exact posterior of w given N data: precision 1 + N.
    assert pair.log_scale.exp().item() == pytest.approx((1 / 41) ** 0.5, rel=0.05)
    assert pair.loc.item() == pytest.approx(x.sum().item() / 41, abs=0.05)


def test_the_estimator_that_is_taken_where_none_is_asked_for(data):
    """SGVB_B, or SGVB_A for a guide from the data upwards."""

    def upwards():
        torch.manual_seed(0)
        return HierarchicalVAE(SHAPE, (2, 2), (4, 4), 1)

    for pair, estimator in ((make, SGVB_B()), (upwards, SGVB_A())):
        taken, asked = (fit(pair(), data, epochs=2, estimator=given).pair for given in (None, estimator))
        assert torch.equal(weights(taken), weights(asked))
    (x,) = data[1].batch(torch.arange(20))
    assert pyro_vae.diagnostics.rate_distortion(taken, [(x,)]).rates.keys() == {"z1", "z2"}
    report = pyro_vae.check(taken, x)
    assert not report.in_order
    assert not any(site.analytic_kl for site in report.sites)


# What is not finite


class Exploding(nn.Module):
    """A likelihood whose mean overflows as soon as its factor has moved."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.factor = inner, nn.Parameter(torch.zeros(()))

    def forward(self, z):
        shift = (self.factor * 1e5).exp() - (-self.factor * 1e5).exp()
        return dist.Normal(self.inner(z).mean + shift, 1.0).to_event(3)


class Root(nn.Module):
    """Finite at 0, with an infinite derivative."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.offset = inner, nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return dist.Normal(self.inner(z).mean + self.offset.sqrt(), 1.0).to_event(3)


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Exploding, "epoch 1, step 2; site: x; parameter with such a gradient: .* and 6 more"),
        (Root, r"epoch 1, step 1; .*such a gradient: likelihood\.offset"),
    ],
)
def test_not_finite_stops_and_says_where(data, tmp_path, mode, kind, message):
    pair = make(likelihood=lambda network: kind(pyro_vae.Bernoulli(network)))
    before = weights(pair)
    with pytest.raises(NonFiniteError, match=message):
        fit(pair, data, epochs=2, out=tmp_path, compile=mode)
    assert torch.equal(weights(pair), before) == (kind is Root)  # the gradient is not taken


def test_not_finite_keeps_the_last_good_checkpoint(data, tmp_path):
    def poison(run):
        if len(run.history) == 2:
            with torch.no_grad():
                next(run.pair.parameters()).fill_(math.nan)

    with pytest.raises(NonFiniteError, match="last good checkpoint"):
        fit(make(), data, epochs=5, out=tmp_path, callbacks=[poison], checkpoint_every=1e-9)
    tensors, state = checkpoint.load(tmp_path / "checkpoint")
    assert state["epoch"] == 1
    assert {**inspect.signature(pyro_vae.fit).parameters}.keys() - {"pair", "data"} < state["configuration"].keys()
    assert state["configuration"]["epochs"] == "5"
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("pair/"))


# The weights that a pair ends with


def test_early_stopping_goes_back_to_the_best(data):
    run = fit(make(), data, epochs=60, patience=3, optimizer=adam(lr=0.05))
    assert run.stopped_early
    valid = [entry["valid"] for entry in run.history]
    assert len(valid) - 1 - valid.index(max(valid)) == 3
    torch.manual_seed(0)
    batch = data[1].batch(torch.arange(len(data[1])))
    ours = torch.stack([SGVB_B().bound(run.pair.eval(), *batch).mean() for _ in range(100)])
    assert ours.mean().item() == pytest.approx(max(valid), abs=6 * ours.std().item())


@pytest.mark.parametrize("pair", [make, normed])
def test_with_patience_the_best_weights_are_kept_also_at_the_last_epoch(data, pair):
    """And with them the statistics of a batch norm."""
    run = fit(pair(), data, epochs=12, patience=50, optimizer=adam(lr=0.1))
    valid = [entry["valid"] for entry in run.history]
    assert not run.stopped_early
    assert run.best_epoch == 1 + valid.index(max(valid))
    assert run.best_epoch < 12, "the case is not tested: the last epoch is the best"
    assert run.bound == max(valid)
    until = fit(pair(), data, epochs=run.best_epoch, optimizer=adam(lr=0.1)).pair.state_dict()
    for name, value in run.pair.state_dict().items():
        assert not value.is_floating_point() or torch.equal(value, until[name]), name


def test_average_is_the_exponential_moving_average(data):
    """One batch an epoch: the average of weights and batch statistics after each step, by its formula."""

    def values(pair):
        return torch.cat([weights(pair), *(b.flatten() for b in pair.buffers() if b.is_floating_point())])

    steps, decay = 6, 0.5
    average = values(normed())
    for step in range(1, steps + 1):
        seen = fit(normed(), data, epochs=step, batch_size=110)
        average = average + (1 - min(decay, (1 + step) / (10 + step))) * (values(seen.pair) - average)
    averaged = fit(normed(), data, epochs=steps, batch_size=110, average=decay)
    torch.testing.assert_close(values(averaged.pair), average, rtol=1e-5, atol=1e-6)
    assert [entry["train"] for entry in averaged.history] == [entry["train"] for entry in seen.history]
    assert not torch.equal(values(averaged.pair), values(seen.pair))


# Schedules


def test_schedules_move_beta_and_the_rate(data):
    """By beta=, or by schedules=; the history tells what the last step of each epoch met."""
    runs = [
        fit(make(), data, epochs=4, scheduler=Cosine(), **{"callbacks": [lambda run: None], **given})
        for given in ({"beta": Linear(duration=1.0)}, {"schedules": {"beta": Linear(duration=1.0)}})
    ]
    for run in runs:
        assert [entry["beta"] for entry in run.history] == [(4 * epoch + 3) / 16 for epoch in range(4)]
        assert "schedules" not in run.history[0]
        assert run.history[0]["learning_rate"] > run.history[-1]["learning_rate"]
    assert torch.equal(weights(runs[0].pair), weights(runs[1].pair))


def test_a_capacity_moves(data):
    """As fit is told, or as the estimator was made."""
    line = Linear(0.0, 3.0, duration=1.0)
    given = fit(make(), data, epochs=3, estimator=Capacity(1.0, 10.0), schedules={"capacity": line})
    own = fit(make(), data, epochs=3, estimator=Capacity(line, 10.0))
    assert torch.equal(weights(given.pair), weights(own.pair))
    for run in (given, own):
        assert [entry["capacity"] for entry in run.history] == pytest.approx([3 * n / 12 for n in (3, 7, 11)])
        assert "beta" not in run.history[0]
    constant = fit(make(), data, epochs=3, estimator=Capacity(1.0, 10.0))
    assert [entry["capacity"] for entry in constant.history] == [1.0] * 3
    assert not torch.equal(weights(constant.pair), weights(own.pair))


def test_beta_changes_what_is_learnt_and_the_bound_stays_at_one(data):
    small, large = (fit(make(), data, epochs=10, beta=beta) for beta in (0.01, 10.0))
    assert small.history[-1]["terms"]["z"]["kl"] > 5 * large.history[-1]["terms"]["z"]["kl"]
    last = large.history[-1]
    assert last["loss"] == pytest.approx(-last["terms"]["x"]["log_p"] + 10 * last["terms"]["z"]["kl"], abs=1e-3)
    assert last["train"] == pytest.approx(last["terms"]["x"]["log_p"] - last["terms"]["z"]["kl"], abs=1e-3)
    own = fit(make(), data, epochs=10, estimator=SGVB_B(beta=10.0))
    assert torch.equal(weights(own.pair), weights(large.pair))


def test_a_plateau_scheduler_sees_the_validation_bound(data):
    plateau = functools.partial(ReduceLROnPlateau, patience=0, factor=0.1, threshold=10.0)
    assert fit(make(), data, epochs=5, scheduler=plateau).history[-1]["learning_rate"] < 1e-4


class Noting(Masking):
    """Notes the levels that it meets, where it runs eagerly."""

    def corrupted(self, x):
        self.seen.append(self.level.item())
        return super().corrupted(x)


def test_a_scheduled_buffer_moves_before_each_step(data):
    corruption = Noting(0.3)
    corruption.seen = []
    schedule = Linear(0.5, 0.1, duration=0.8)
    run = fit(make(corruption=corruption), data, epochs=2, compile="eager", schedules={LEVEL: schedule})
    expected = [schedule(Progress(step, step / 4, step / 8)) for step in range(8)]
    assert corruption.seen == pytest.approx(expected)
    assert [entry["schedules"][LEVEL] for entry in run.history] == pytest.approx([0.25, 0.1])
    assert corruption.level.item() == pytest.approx(0.1)


@pytest.mark.parametrize("arguments", [{}, {"average": 0.9}, {"patience": 50}], ids=str)
def test_after_an_epoch_a_buffer_has_the_value_of_its_end(data, arguments):
    seen, pair = [], make(corruption=Masking(0.3))
    run = fit(
        pair, data, epochs=4, schedules={LEVEL: Linear(1.0, 0.0, duration=1.0)},
        callbacks=[lambda run: seen.append(run.pair.corruption.level.item())], **arguments,
    )  # fmt: skip
    assert seen == pytest.approx([0.75, 0.5, 0.25, 0.0])
    assert [entry["schedules"][LEVEL] for entry in run.history] == seen
    assert pair.corruption.level.item() == 0.0


@pytest.mark.parametrize("corruption", [Masking, SaltAndPepper, GaussianNoise])
def test_a_schedule_is_the_same_eager_and_traced(data, corruption):
    def fitted(level, **arguments):
        return weights(fit(make(corruption=corruption(level)), data, epochs=2, **arguments).pair)

    line = {"schedules": {LEVEL: Linear(0.9, 0.1, 1.0)}}
    traced = fitted(0.0, compile="traced", **line)
    torch.testing.assert_close(fitted(0.0, **line), traced, rtol=1e-3, atol=1e-4)
    constant = fitted(0.9, compile="traced")
    assert (constant - traced).abs().max() > 1e-3
    assert torch.equal(fitted(0.0, compile="traced", schedules={LEVEL: Linear(0.9, 0.9)}), constant)


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 111}, "batch_size=111 is larger than the training set of 110"),
        ({"schedules": {"corruption.level": Linear()}}, rf"MLPVAE has no such buffer; the nearest are {LEVEL}"),
        ({"schedules": {"posterior.network.network.layers.0.weight": Linear()}}, "is a parameter"),
        *(
            (
                {"schedules": {LEVEL: line}},
                r"the schedule of .*level after [02] epochs: level .* number of at least 0 and at most 1",
            )
            for line in (Linear(0.5, -0.1), Linear(1.2, 0.0), Linear(0.5, 1.1, steps=8))
        ),
        ({"beta": Linear(0.5, -0.5)}, r"the schedule of beta after 2 epochs: .*got -0\.5"),
        ({"beta": -1.0}, r"got -1\.0"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS evaluates the loss several times"),
    ],
)
def test_what_does_not_go_is_refused_before_the_first_step(data, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(make(corruption=Masking(0.5)), data, out=tmp_path / "run", **{"epochs": 2, **arguments})
    assert not (tmp_path / "run").exists()


def test_bad_pairs_and_data(data, tmp_path):
    with pytest.raises(TypeError, match="a pair has two methods"):
        fit(nn.Linear(2, 2), data)
    with pytest.raises(ValueError, match="Gray pixels"):
        fit(make(), torch.rand(40, *SHAPE), batch_size=20)
    with pytest.raises(ValueError, match="patience needs a validation set"):
        fit(make(), data[0], patience=2)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(make().requires_grad_(False), data)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the folder"):
        fit(make(), data, epochs=1, out=tmp_path / "file" / "run")


@pytest.mark.parametrize("y", [torch.zeros(40), torch.zeros(40, 3), torch.zeros(40, dtype=torch.int64).numpy()])
def test_data_and_labels_are_no_train_and_valid(y):
    with pytest.raises(ValueError, match=r"shapes \[40, 1, 4, 4\] and \[40.*give one TensorDataset\(x, y\)"):
        fit(make(), (torch.zeros(40, 1, 4, 4), y), epochs=1, batch_size=10)


# The number of data


class Endless(torch.utils.data.IterableDataset):
    """Forty rows, without saying that there are so many."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


def shared_loss(data, **options):
    """The mean loss of an epoch in which nothing moves: the KL of w counts 1/N in it."""
    pair = GlobalShift()
    with torch.no_grad():
        pair.loc.fill_(3.0)
        pair.log_scale.fill_(-20.0)
    run = fit(pair, data, epochs=1, optimizer=functools.partial(torch.optim.SGD, lr=0.0), **options)
    return run.history[0]["loss"]


def test_the_number_of_data_is_told_and_never_guessed():
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)) + 2
    rows, sampler = TensorDataset(x), torch.utils.data.SubsetRandomSampler(range(40))
    kl = torch.distributions.kl_divergence(dist.Normal(3.0, math.exp(-20)), dist.Normal(0.0, 1.0)).item()
    expected = kl / 40 - dist.Normal(3.0, 1.0).log_prob(x[:40]).mean().item()
    for loader, options in (
        (DataLoader(rows, batch_size=10, sampler=sampler), {}),
        (DataLoader(Endless(x[:40]), batch_size=10), {"num_data": 40}),
        (DataLoader(rows, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 40 + [0.0] * 160, 40, False)),
         {"num_data": 40}),
        (x[:40], {"batch_size": 10}),
    ):  # fmt: skip
        assert shared_loss(loader, **options) == pytest.approx(expected, abs=1e-4)
    assert shared_loss(x[:40], num_data=80) == pytest.approx(expected - kl / 80, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda: FullBayes(make()), {}, r"likelihood.* stands outside the data plate.*num_data=N"),
        (make, {"weight_prior": WeightPrior()}, r"a weight prior needs the number of data.*num_data=N"),
        (make, {"estimator": TCVAE()}, r"TCVAE weighs by it.*num_data=N"),
        (make, {"num_data": 0}, "num_data has to be a whole number of at least 1; got 0"),
    ],
)
def test_what_is_divided_by_an_unknown_number_of_data_is_refused(make, options, match):
    loader = DataLoader(Endless(torch.rand(40, *SHAPE).round()), batch_size=10)
    with pytest.raises(ValueError, match=match):
        fit(make(), loader, epochs=1, **options)


def test_a_stream_without_a_length_trains_what_needs_none():
    loader = DataLoader(Endless(torch.rand(40, *SHAPE).round()), batch_size=10)
    assert fit(make(), loader, epochs=2).history[-1]["samples"] == 80
    assert fit(make(), loader, epochs=1, weight_prior=WeightPrior(), num_data=40).bound is not None


# Comparisons that NaN slips through


def bounds(monkeypatch, *values):
    """Validation bounds, one an epoch."""
    left = list(values)
    monkeypatch.setattr("pyro_vae.training.trainer.Trainer._validate", lambda self: left.pop(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_is_never_the_best(data, monkeypatch, bad):
    bounds(monkeypatch, -5.0, bad, -4.0, bad, bad, -3.0)
    run = fit(make(), data, epochs=6, patience=2)
    assert (run.best_epoch, run.stopped_early, len(run.history), run.bound) == (3, True, 5, -4.0)
    bounds(monkeypatch, bad, bad, bad)
    run = fit(make(), data, epochs=6, patience=3)
    assert (run.best_epoch, run.stopped_early, len(run.history)) == (None, True, 3)


def test_of_an_upper_bound_the_least_is_the_best(data, monkeypatch):
    estimator = Estimator(CUBO(-10.0), DoublyReparameterized(), num_particles=2)
    bounds(monkeypatch, 5.0, 4.0, 6.0, 7.0)
    pair = make()
    run = fit(pair, data, epochs=4, patience=2, estimator=estimator)
    assert (run.best_epoch, run.stopped_early, len(run.history)) == (2, True, 4)


@pytest.mark.parametrize("schedule", [Linear(1.0, -1.0, duration=1.0), NoValue()])
def test_a_rate_below_zero_or_of_no_value_is_refused(data, schedule):
    with pytest.raises(ValueError, match=r"the schedule of the learning rate after .* at least 0; got (-|nan)"):
        fit(make(), data, epochs=4, scheduler=schedule)


def test_data_that_a_sigmoid_mean_does_not_reach_are_told_of():
    options = {"epochs": 1, "batch_size": 8, "compile": "eager", "progress": False}
    x, vae = torch.randn(8, 3), functools.partial(pyro_vae.models.MLPVAE, (3,), 2, (4,))
    with pytest.warns(UserWarning, match=r"of the Laplace likelihood is a sigmoid.*Give Laplace\(\.\.\., sigmoid_mean"):
        pyro_vae.fit(vae(likelihood=pyro_vae.likelihoods.Laplace), x, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyro_vae.fit(vae(likelihood=pyro_vae.likelihoods.Laplace), x.sigmoid(), **options)
        reaches = functools.partial(pyro_vae.likelihoods.Laplace, sigmoid_mean=False)
        pyro_vae.fit(vae(likelihood=reaches), x, **options)
