"""What each of several processes has of its own, noise and statistics, and what they must have alike."""

import functools
import itertools
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import spawn
from torch.utils.data import DataLoader, IterableDataset

import pyro_vae as pv
from pyro_vae._checks import warn
from pyro_vae.training import checkpoint
from pyro_vae.training.ranks import TrainingRanks

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
QUIET: dict[str, Any] = {"compile": "eager", "progress": False}


def begin(rank: int, folder: Path, work: Callable[..., Any]) -> None:
    torch.set_num_threads(1)
    where = f"file://{folder / 'group'}"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    torch.save(work(rank, folder), folder / f"told.{rank}")
    distributed.destroy_process_group()


def in_ranks(folder: Path, work: Callable[..., Any]) -> list[Any]:
    """What ``work`` gives in each of two processes of a group; new ones, as autograd does not go on in a fork."""
    spawn(begin, (folder, work), nprocs=2)
    return [torch.load(folder / f"told.{rank}", weights_only=False) for rank in range(2)]


class Normed(nn.Module):
    """With a batch norm, and noise of numpy and Python."""

    drawn: tuple[float, float] = (0.0, 0.0)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.decoder = nn.Linear(1, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        Normed.drawn = np.random.normal(), random.random()  # noqa: NPY002
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.encoder(x) + 0.1 * sum(self.drawn), 0.5).to_event(1))


class StoppedError(Exception):
    """In the middle of an epoch."""


def trained(out: Path | None = None, stop: int = -1) -> dict[str, Tensor]:
    torch.manual_seed(0)
    pair, steps, add_up = Normed(), itertools.count(), TrainingRanks.add_up

    def stopping(*args: Any) -> Any:
        if next(steps) == stop:
            raise StoppedError
        return add_up(*args)

    TrainingRanks.add_up = stopping  # type: ignore[method-assign]
    try:
        options: dict[str, Any] = {"epochs": 3, "batch_size": 10, "average": 0.5, "checkpoint_every": 1e-9, **QUIET}
        pv.fit(pair, (X, X[:8]), out=out, resume=True, **options)
    except StoppedError:
        pass
    finally:
        TrainingRanks.add_up = add_up  # type: ignore[method-assign]
    return dict(pair.state_dict())


def interrupted(rank: int, folder: Path) -> Any:
    whole, drawn = trained(), Normed.drawn
    trained(folder / "run", stop=6)
    distributed.barrier()  # until the first has written
    tensors, state = checkpoint.load(folder / "run" / "checkpoint")
    assert 0 < state["batches_done"] < 4
    first, second = (of_one["statistics"] for of_one in checkpoint.unpack(state["ranks"], tensors))
    assert not torch.equal(first[0], second[0])
    opened = pv.load(folder / "run", pair=Normed()).pair
    distributed.barrier()
    assert torch.equal(opened.encoder[1].running_mean, (first[2] + second[2]) / 2)
    return whole, trained(folder / "run"), drawn


class Tokens(nn.Module):
    """Of embeddings with sparse gradients alone."""

    def __init__(self) -> None:
        super().__init__()
        self.logits, self.locs = nn.Embedding(9, 4, sparse=True), nn.Embedding(4, 3, sparse=True)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Categorical(torch.ones(4, dtype=torch.float64) / 4))
            pyro.sample("x", dist.Normal(self.locs(z.long()).sum(-1), 1.0), obs=x.double())

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Categorical(logits=self.logits(x)))


def of_sparse_gradients(*_: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    pair, x = Tokens().double(), torch.randint(0, 9, (31,), generator=torch.Generator().manual_seed(0))
    optimizer = functools.partial(torch.optim.SparseAdam, lr=0.01)
    pv.fit(pair, x, estimator=pv.Enumeration(), optimizer=optimizer, epochs=3, batch_size=10, **QUIET)
    return dict(pair.state_dict())


class Dealt(IterableDataset):
    """Each rank is given other data, and no pass is like another."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(X[distributed.get_rank() :: 2])


def of_other_data(*_: Any) -> Any:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn("what all see")
    try:
        pv.fit(Normed(), DataLoader(Dealt(), batch_size=10), epochs=1, batch_size=10, **QUIET)
    except (ValueError, ConnectionError) as error:
        return len(said), str(error)
    return len(said), ""


def all_of_it(rank: int, folder: Path) -> Any:
    return interrupted(rank, folder), of_sparse_gradients(), of_other_data()


def test_two_ranks(tmp_path):
    """They have noise and statistics of their own and go on with them, add up sparse gradients as such, and refuse a
    loader that gives each other data; one of them warns. In one pair of processes, which take seconds to begin."""
    ours, theirs = in_ranks(tmp_path, all_of_it)
    have_noise_and_statistics_of_their_own_and_go_on_with_them(ours[0], theirs[0])
    sparse_gradients_are_added_up_as_such(ours[1], theirs[1])
    a_loader_that_gives_each_rank_other_data_is_refused_and_one_rank_warns(ours[2], theirs[2])


def have_noise_and_statistics_of_their_own_and_go_on_with_them(ours: Any, theirs: Any) -> None:
    (ours, ours_again, ours_drawn), (theirs, theirs_again, theirs_drawn) = ours, theirs
    for name, value in ours.items():
        for other in (theirs, ours_again, theirs_again):
            assert torch.equal(value, other[name]), name
    assert not any(a == b for a, b in zip(ours_drawn, theirs_drawn, strict=True))


def sparse_gradients_are_added_up_as_such(*both: Any) -> None:
    alone = of_sparse_gradients()
    for together in both:
        assert all(torch.allclose(together[name], value, rtol=0, atol=1e-12) for name, value in alone.items())
    for pair, x, optimizer in ((Tokens(), X[:, 0].long(), torch.optim.Adam), (Normed(), X, torch.optim.SparseAdam)):
        with pytest.raises(ValueError, match=rf"{optimizer.__name__} does not go with these gradients .* SGD and Ada"):
            pv.fit(pair.double(), x % 9, optimizer=optimizer, batch_size=9, **QUIET)


def a_loader_that_gives_each_rank_other_data_is_refused_and_one_rank_warns(ours: Any, theirs: Any) -> None:
    (ours, _), (theirs, refusal) = ours, theirs
    assert (ours, theirs) == (1, 0)
    assert "rank 1 was given another run than the first rank (the hash of the first batches of loaders is" in refusal
    assert "each takes its slice of every batch itself" in refusal
