"""A run that stops anywhere and goes on ends with the bits of one that did not, or is refused before its first step."""

import os
import random
import signal
from contextlib import contextmanager

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceGraph_ELBO
from registry import SYSTEMS
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, Subset, TensorDataset

import pyro_vae
from pyro_vae import compiled, diagnostics
from pyro_vae.compiled import Compiled
from pyro_vae.data import Mixed
from pyro_vae.models import MLPVAE
from pyro_vae.training import Schedule
from pyro_vae.training.state import State

X = (torch.rand(22, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def make(seed=0, **options):
    torch.manual_seed(seed)
    return MLPVAE((6,), latent_dim=2, hidden=(4,), **options)


def fit(pair, data=X, **options):
    return pyro_vae.fit(pair, data, **{"epochs": 3, "batch_size": 4, "compile": "eager", "progress": False, **options})


@contextmanager
def stopping(after):
    """Presses Ctrl-C after so many batches."""
    note, left = State.note, [after]

    def noting(*given, last, **named):
        note(*given, last=last, **named)
        left[0] -= last
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    State.note = noting
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        State.note = note


def bits_of(run):
    told = [{k: v for k, v in entry.items() if k not in ("seconds", "data_per_second")} for entry in run.history]
    return {name: value.tolist() for name, value in run.pair.state_dict().items()}, told


def assert_goes_on(folder, run, stops):
    """``run(seed, **options)`` fits; it is stopped after the first, and so many batches later after the second."""
    whole = bits_of(run(0, out=folder / "whole"))
    for index, after in enumerate(stops):
        with stopping(after):
            run(index, out=folder / "parts", resume=True)
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 - another process is elsewhere in its streams
    assert bits_of(run(7, out=folder / "parts", resume=True)) == whole


# Systems, at several places


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems(name, tmp_path):
    """In the middle of an epoch, at its end, and with averages of the weights."""

    def run(seed, **options):
        torch.manual_seed(seed)
        batch = tuple(torch.cat([part, part[:3]]) for part in SYSTEMS[name].batch())
        return fit(SYSTEMS[name](), TensorDataset(*batch), average=0.9, batch_size=3, epochs=2, **options)

    assert_goes_on(tmp_path, run, (2, 2))


# What is compiled


def other_bits(graph, flat):
    """In place of inductor: the same but for rounding."""
    run = torch.fx.Interpreter(graph).run
    return lambda *inputs: [None if value is None else value * (1 + 2**-20) for value in run(*inputs)]


@pytest.mark.parametrize("mode", ["inductor", "auto"])
@pytest.mark.parametrize("stops", [(4, 10), (17, 1)])
def test_what_is_compiled_follows_from_the_run(stops, mode, tmp_path, monkeypatch):
    """The first shape at its second use, the smaller last batch at its third, whichever comes first in a process."""
    monkeypatch.setattr(compiled, "compiled_by_inductor", other_bits)
    monkeypatch.setattr(Compiled, "_uses_before_compiling", 3)
    monkeypatch.setattr(compiled, "_RUNS", 10)  # and by the rule of "auto" at its second, too
    monkeypatch.setattr(compiled, "_has_compiler", lambda module: True)
    assert_goes_on(tmp_path, lambda seed, **o: fit(make(seed), compile=mode, epochs=5, **o), stops)


def test_a_run_that_fell_back_stays_so(tmp_path, monkeypatch):
    """A callback moves what a graph has as a constant, and the run is eager from there on."""
    monkeypatch.setattr(compiled, "compiled_by_inductor", other_bits)
    monkeypatch.setattr(compiled, "_RUNS", 10)
    monkeypatch.setattr(compiled, "_has_compiler", lambda module: True)

    class Tempered(MLPVAE):
        temperature = 1.0

        def model(self, *args):
            return pyro.poutine.scale(super().model, self.temperature)(*args)

    def run(seed, **options):
        torch.manual_seed(seed)
        pair = Tempered((6,), latent_dim=2, hidden=(4,))

        def move(run):
            run.pair.temperature = 1 / len(run.history)

        with pytest.warns(UserWarning, match="programs run eager instead of inductor"):
            return fit(pair, compile="auto", epochs=5, estimator=pyro_vae.SGVB_A(), callbacks=[move], **options)

    assert_goes_on(tmp_path, run, (19,))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "traced", "inductor"])
def test_modes(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(Compiled, "_uses_before_compiling", 4)
    assert_goes_on(tmp_path, lambda seed, **o: fit(make(seed), compile=mode, epochs=6, **o), (3, 6, 10, 7))


# Data that draw


def noisy(draw, **members):
    """A data set whose items are flipped at random."""

    class Noisy(Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return (X[index] + float(draw(self) < 0.3)) % 2

    made = Noisy()
    vars(made).update(members)
    return made


class Passes(IterableDataset):
    """Batches, drawn anew in each pass, of which there are more with each."""

    passes = 0

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        for _ in range(4 + self.passes % 3):
            yield X[np.random.permutation(22)[:4]]  # noqa: NPY002

    def __len__(self):
        return 6


class Again:
    """What is no loader, and draws from a generator of its module."""

    def __init__(self):
        GLOBAL.bit_generator.state = np.random.default_rng(3).bit_generator.state  # as in another process

    def __iter__(self):
        for _ in range(6):
            yield X[GLOBAL.permutation(22)[:4]]


GLOBAL = np.random.default_rng(3)
torch_seed = torch.Generator().manual_seed


LOADERS = {
    "torch": lambda: DataLoader(noisy(lambda self: torch.rand(())), 4, shuffle=True),
    "numpy": lambda: DataLoader(noisy(lambda self: np.random.rand()), 4, shuffle=True),  # noqa: NPY002
    "numpy, normal": lambda: DataLoader(noisy(lambda self: np.random.randn()), 4, shuffle=True),  # noqa: NPY002
    "python": lambda: DataLoader(noisy(lambda self: random.random()), 4, shuffle=True),
    "own of torch": lambda: DataLoader(
        noisy(lambda self: torch.rand((), generator=self.own), own=torch_seed(1)), 4, shuffle=True
    ),
    "own of numpy": lambda: DataLoader(
        noisy(lambda self: self.own.random(), own=np.random.default_rng(1)), 4, shuffle=True
    ),
    "own of numpy, old": lambda: DataLoader(
        noisy(lambda self: self.own.randn(), own=np.random.RandomState(1)), 4, shuffle=True
    ),
    "own of python": lambda: DataLoader(noisy(lambda self: self.own.random(), own=random.Random(1)), 4, shuffle=True),
    "own, deep": lambda: DataLoader(
        Subset(noisy(lambda self: self.own[0]["a"].random(), own=[{"a": random.Random(1)}]), range(20)), 4
    ),
    "loader's": lambda: DataLoader(TensorDataset(X), 4, shuffle=True, generator=torch_seed(1)),
    "sampler's": lambda: DataLoader(
        TensorDataset(X), 4, sampler=RandomSampler(X, replacement=True, generator=torch_seed(1))
    ),
    "workers": lambda: DataLoader(noisy(lambda self: random.random() + np.random.rand()), 4, num_workers=1),  # noqa: NPY002
    "passes": lambda: DataLoader(Passes(), batch_size=None),
    "iterable": Again,
    "mixed": lambda: Mixed(X[:8], DataLoader(noisy(lambda self: torch.rand(())), 4, generator=torch_seed(2))),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders(name, tmp_path):
    """Taken up in another loader, of another process; they are stopped within epochs and at the end of one."""
    kept = LOADERS[name]()

    def run(seed, **options):
        data = LOADERS[name]() if seed != 1 else kept
        return fit(make(seed), (data, LOADERS[name]()) if name != "iterable" else data, epochs=4, **options)

    assert_goes_on(tmp_path, run, (2, 5, 5))


def test_the_callers_streams_stay(tmp_path):
    """And those of a pass over a loader are its own."""
    pairs = [make() for _ in range(3)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    loader = LOADERS["workers"]().dataset
    fit(pairs[0], DataLoader(loader, 4), callbacks=[lambda run: random.random() + np.random.rand()])  # noqa: NPY002
    fit(pairs[1], loader, out=tmp_path)  # read at once, as it is drawn by the seed of the run
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states  # noqa: NPY002
    fit(pairs[2], loader, out=tmp_path, resume=True)


class Shuffling(Sampler):
    """Shuffles an order that it keeps."""

    def __init__(self):
        self.order = list(range(22))

    def __iter__(self):
        random.shuffle(self.order)
        return iter(list(self.order))

    def __len__(self):
        return 22


REFUSED = {
    "of the operating system": lambda: DataLoader(noisy(lambda self: np.random.default_rng().random()), 4),
    "a list": lambda: DataLoader(TensorDataset(X), 4, sampler=Shuffling()),
    "a cursor": lambda: DataLoader(noisy(lambda self: next(self.own), own=iter([0.0, 1.0, 1.0] * 5000)), 4),
    "workers that persist": lambda: DataLoader(
        noisy(lambda self: random.random()), 4, num_workers=1, persistent_workers=True
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_loaders_that_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint in .* the loader of 'data', of a \w+, gives other batches when"):
        fit(make(), REFUSED[name](), out=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    if name != "workers that persist":
        fit(make(), REFUSED[name](), epochs=1)


def test_other_data_of_a_loader_are_another_configuration(tmp_path):
    fit(make(), DataLoader(TensorDataset(X), 4), out=tmp_path, epochs=1)
    other = X.clone()
    other[-1] = 1 - other[-1]
    for data in (DataLoader(TensorDataset(other), 4), DataLoader(TensorDataset(X), 5), DataLoader(noisy(len), 4)):
        with pytest.raises(ValueError, match=r"belongs to another configuration \(.*training data was .* and is now"):
            fit(make(), data, out=tmp_path, resume=True)
    fit(make(), DataLoader(TensorDataset(X), 4), out=tmp_path, resume=True)


# What else draws, counts and keeps


class Drawing(MLPVAE):
    """Draws from all that there is, and counts."""

    def __init__(self, counts=True):
        super().__init__((6,), latent_dim=2, hidden=(4,))
        self.step = int(counts)
        self.own, self.steps, self.seen, self.counts = torch_seed(1), 0, {"last": 0.0}, np.zeros(2)

    def model(self, *args):
        self.steps += self.step
        self.counts += self.steps
        self.seen["last"] += self.step / max(self.counts[0], 1)
        drawn = np.random.rand() + random.random() + torch.rand((), generator=self.own)  # noqa: NPY002
        scale = 1 + 0.1 * drawn / max(self.seen["last"], 1)
        return pyro.poutine.scale(super().model, scale)(*args)


class Jittered(Schedule):
    """A number that is drawn."""

    def __call__(self, progress):
        return 0.5 + random.random() + float(torch.rand(())) / 10


class Jumping(LRScheduler):
    """Rates that are drawn."""

    def get_lr(self):
        return [0.001 * (1 + random.random()) for _ in self.optimizer.param_groups]


def discrete():
    """Whose decaying average baseline the loss keeps."""

    class Discrete(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(6))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", pyro.distributions.Bernoulli(0.5 * torch.ones(6)).to_event(1))
                pyro.sample("x", pyro.distributions.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.distributions.Bernoulli(logits=self.p).to_event(1)
                pyro.sample("z", z, infer={"baseline": {"use_decaying_avg_baseline": True}})

    return Discrete()


class Momentum(torch.optim.Optimizer):
    """As one writes it down, with no more defaults than its own."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["sum"] = state.get("sum", 0.0) * 0.9 + parameter.grad
            parameter -= 0.01 * state["sum"]


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)


CHOICES = {
    "programs that draw and count": (Drawing, {"estimator": pyro_vae.SGVB_A()}),
    "schedules that draw": (make, {"schedules": {"beta": Jittered()}, "scheduler": Jittered()}),
    "a scheduler that draws": (make, {"scheduler": Jumping}),
    "averages of a loss": (discrete, {"estimator": TraceGraph_ELBO()}),
    "VIMCO": (make, {"estimator": pyro_vae.estimators.VIMCO(3), "weight_prior": pyro_vae.WeightPrior()}),
    "an optimizer of one's own": (make, {"optimizer": Momentum}),
    "a scheduler that ends with the run": (make, {"scheduler": one_cycle}),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name, tmp_path):
    pair, options = CHOICES[name]

    def run(seed, **others):
        torch.manual_seed(seed)
        return fit(pair(), (X[:20], X[:8]), **options, **others)

    assert_goes_on(tmp_path, run, (3, 4))


class Hidden(torch.optim.SGD):
    """Momentum that state_dict does not know."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01)
        self.before = {}

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad += 0.9 * self.before.get(parameter, 0.0)
                self.before[parameter] = parameter.grad.clone()
        super().step()


class Forgetting(Jumping):
    """Of a state that is not its own."""

    def get_lr(self):
        self.seen = {*getattr(self, "seen", ()), self.last_epoch}
        return [0.001 / len(self.seen) for _ in self.optimizer.param_groups]

    def state_dict(self):
        return {"last_epoch": self.last_epoch}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": Hidden}, "Hidden, saved by state_dict and taken up by load_state_dict, goes on otherwise"),
        ({"scheduler": Forgetting}, "Adam with Forgetting, saved by"),
    ],
)
def test_what_would_go_on_otherwise_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(make(), out=tmp_path, **options)
    fit(make(), epochs=1, **options)


# Callbacks


def sets_modes(run):
    run.pair.eval()


def draws(run):
    return random.random(), np.random.rand(), torch.rand(1), pyro.set_rng_seed(3)  # noqa: NPY002


def looks(run):
    diagnostics.active_units(run.pair, [(X,)])
    diagnostics.kl_decomposition(run.pair, X)
    diagnostics.reconstruct(run.pair, X)
    diagnostics.sample(run.pair, 3, X)
    next(iter(DataLoader(TensorDataset(X), shuffle=True, generator=run.pair.own)))


def measures(run):
    diagnostics.gradient_statistics(run.pair, X, [pyro_vae.SGVB_B()], num_draws=4)
    pyro_vae.evidence.importance(run.pair, X[:4], num_samples=5, progress=False)


@pytest.mark.parametrize("callback", [sets_modes, draws, looks, measures])
def test_callbacks_leave_the_training_alone(callback):
    def run(*callbacks):
        torch.manual_seed(0)
        pair = make() if callback is measures else Drawing(counts=False)
        pair.posterior.network.layers.insert(1, nn.Dropout(0.3))
        loader = DataLoader(TensorDataset(X), 4, shuffle=True, generator=getattr(pair, "own", None))
        return bits_of(fit(pair, (loader, X), estimator=pyro_vae.SGVB_A(), callbacks=callbacks))

    assert run(callback) == run()


def test_callbacks_draw_anew_and_set_what_they_like():
    """Numbers of each epoch, the same in each run; attributes of the pair are met by its programs."""
    drawn = []

    def moves(run):
        drawn.append((random.random(), float(torch.rand(()))))
        run.pair.level = 3.0

    first = fit(make(), callbacks=[moves])
    assert first.pair.level == 3.0
    assert len({*drawn}) == 3
    fit(make(), callbacks=[moves])
    assert drawn[3:] == drawn[:3]
