"""Fits in threads, and inside of one another, are what they are alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pairs import functions, mlp_vae, plain_object, pyro_module

from pyro_vae import diagnostics, fit, load, sample
from pyro_vae.pair import as_pair, evaluating
from pyro_vae.pair.gate import trial
from pyro_vae.pair.turns import in_turn

FACTORIES = [functions, mlp_vae, plain_object, pyro_module]
OPTIONS: Any = {"epochs": 4, "batch_size": 2, "compile": "eager", "progress": False}


def made(factory: Callable[[], Any]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    pair, (x,) = factory()
    return pair, x


def outcome(pair: Any, x: Any, **options: Any) -> tuple[Any, ...]:
    run = fit(pair, (x, x), **OPTIONS, **options)
    losses = [(entry["train"], entry["valid"]) for entry in run.history]
    return losses, {name: value.clone() for name, value in run.pair.state_dict().items()}


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def test_four_fits_in_four_threads() -> None:
    alone = [outcome(*made(factory)) for factory in FACTORIES]
    together = [made(factory) for factory in FACTORIES]
    pyro.param("mine", torch.ones(2))
    state, start = torch.get_rng_state(), threading.Barrier(4)

    def train(pair: Any, x: Any) -> Any:
        start.wait()
        return outcome(pair, x)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda both: train(*both), together))
    assert all(map(same, alone, found))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.clear_param_store()


def test_a_fit_inside_of_a_fit() -> None:
    alone = [outcome(*made(factory)) for factory in FACTORIES[:2]]
    inner: list[Any] = []
    both = outcome(*made(functions), callbacks=[lambda run: inner.append(outcome(*made(mlp_vae)))])
    assert same(both, alone[0])
    assert len(inner) == 4
    assert all(same(found, alone[1]) for found in inner)


def test_an_evaluation_waits_for_a_fit() -> None:
    pair, x = made(functions)
    order: list[str] = []

    def evaluate() -> None:
        with evaluating(as_pair(pair)):
            order.append("evaluation")

    thread = threading.Thread(target=evaluate)

    def callback(run: Any) -> None:
        if not order:
            thread.start()
        thread.join(0.05)
        order.append("epoch")

    fit(pair, x, **OPTIONS, callbacks=[callback])
    thread.join()
    assert order == ["epoch"] * 4 + ["evaluation"]


READERS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "load": lambda pair, x, out: load(out),
    "quantiles": lambda pair, x, out: diagnostics.prior_quantiles(pair, [0.5]),
    "sample": lambda pair, x, out: sample(pair, 2, where=lambda sites: sites["z"][..., 0] > -9),
    "trial": lambda pair, x, out: trial(pair, x),
}


@pytest.mark.parametrize("name", READERS)
def test_what_reads_waits_and_leaves_the_random_state_of_both(name: str, tmp_path: Path) -> None:
    """A state that is read while another trains, and put back once it has ended, is the training's."""
    pair, x = made(mlp_vae)
    fit(pair, x, **OPTIONS, out=tmp_path)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(1) as threads:
        with in_turn():
            torch.manual_seed(99)  # as a training does
            state = torch.get_rng_state()
            reading = threads.submit(READERS[name], pair, x, tmp_path)
            assert not wait([reading], timeout=0.3).done
            assert torch.equal(torch.get_rng_state(), state)
            torch.set_rng_state(before)
        reading.result()
    assert torch.equal(torch.get_rng_state(), before)


FORKED = """
import os, threading
import pyro, torch
import pyro_vae as pv
from pyro_vae.pair.turns import in_turn

inside, leave = threading.Event(), threading.Event()

def hold():
    with {held}:
        inside.set()
        leave.wait()

def fit():
    vae = pv.models.MLPVAE((6,), 2, (4,))
    pv.fit(vae, torch.zeros(40, 6), epochs=1, batch_size=10, compile="eager", progress=False)

thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    {does}
    os._exit(7)
found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
leave.set()
thread.join()
assert found == 7, found
"""


def assert_a_copy_goes_on(held: str, does: str) -> None:
    """A process is forked while a thread is inside of ``held``, and the copy ``does`` something.

    In a process of its own: autograd refuses to go on in a copy of one that has used its threads.
    """
    subprocess.run([sys.executable, "-c", FORKED.format(held=held, does=does)], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_does_not_meet_the_handlers_of_a_thread_that_it_does_not_have() -> None:
    assert_a_copy_goes_on('in_turn(), pyro.poutine.trace(), pyro.plate("data", 3)', "fit()")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    assert_a_copy_goes_on("in_turn()", "in_turn().__enter__()")
