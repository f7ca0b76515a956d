"""What tests of applications share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch


@pytest.fixture
def random_states_kept() -> Callable[[], AbstractContextManager[None]]:
    """``with random_states_kept():`` the global random states of torch and of numpy stay where they are."""

    @contextmanager
    def kept() -> Iterator[None]:
        torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        yield
        assert torch.equal(torch.get_rng_state(), torch_before)
        assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002

    return kept
