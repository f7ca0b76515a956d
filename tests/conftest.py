"""What all tests share: one thread each (they are small, and run side by side, as the notebooks do), and a check that
no test leaves Pyro or torch changed."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start

import pyro
import pytest
import torch
from torch.distributions import Distribution

from pyro_vae import compiled
from pyro_vae.evidence import ais


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks are slow."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def inductor() -> None:
    """Asked for by the few fast tests that compile; elsewhere the graph runs as it was traced."""


@pytest.fixture(autouse=True)
def _seconds_saved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test is not marked slow, a graph that inductor would compile runs as it was traced, and the pilot run
    from which annealing adapts its schedule is short."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(sys.modules[ais.__module__], "_PILOT_STEPS", 60)
        if "inductor" not in request.fixturenames:
            monkeypatch.setattr(compiled, "compiled_by_inductor", lambda graph, inputs: graph)


@pytest.fixture(autouse=True)
def _nothing_global(tmp_path_factory: pytest.TempPathFactory):
    """A test starts from a seed, leaves validation as it was, and no module of a file that it wrote: another test may
    write one of that name."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    before, imported = Distribution._validate_args, set(sys.modules)
    yield
    assert Distribution._validate_args == before, "a test left torch's validation of distributions changed"
    written = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - imported:
        if str(vars(sys.modules[name]).get("__file__", "")).startswith(written):
            del sys.modules[name]


@pytest.fixture
def root() -> Path:
    """The folder of the real data; tests that need it are skipped where it is not there."""
    folder = os.environ.get("PYRO_VAE_DATA")
    if not folder:
        pytest.skip("PYRO_VAE_DATA does not name a folder with MNIST and the Frey faces")
    return Path(folder)
