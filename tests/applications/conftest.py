"""What tests of applications share."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture
def keeps_random_states() -> Iterator[None]:
    """The test leaves the global random states of torch and of numpy where it found them."""
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
