"""The laws of pairs, estimators, transforms and distributions, as test classes to inherit.

Each suite is a class whose tests need one method, ``make``. A test of a part of your own inherits it::

    from pyro_vae.testing import PairLaws

    BATCH = (torch.rand(5, 784),)  # the same for each pair that is made

    class TestMyPair(PairLaws):
        def make(self):
            return MyPair(), BATCH

and ``pytest`` runs every law over it; the docstring of a law says what it asserts and why. A law that does not apply
(Hamiltonian Monte Carlo of a discrete latent) is skipped and says so.

This room needs pytest (``pip install 'pyro-vae[test]'``), so that it is imported when it is asked for, as
``pyro_vae.testing``, and not by ``import pyro_vae``.
"""

# ruff: noqa: E402

import pytest

# The asserts of the laws then explain themselves as those of a test file do; so it has to come before their import.
ROOMS = ("comparing", "distributions", "estimators", "pairs", "steps", "transforms")
pytest.register_assert_rewrite(*(f"pyro_vae.testing.{name}" for name in ROOMS))

from pyro_vae.testing.comparing import assert_mean, assert_means_equal, assert_same, gradients, seeded
from pyro_vae.testing.distributions import DistributionLaws
from pyro_vae.testing.estimators import EstimatorLaws
from pyro_vae.testing.examples import Chain, Coin, OneLatent, Outside, Pixels
from pyro_vae.testing.pairs import PairLaws
from pyro_vae.testing.steps import assert_traced_step
from pyro_vae.testing.transforms import TransformLaws

__all__ = [
    "Chain",
    "Coin",
    "DistributionLaws",
    "EstimatorLaws",
    "OneLatent",
    "Outside",
    "PairLaws",
    "Pixels",
    "TransformLaws",
    "assert_mean",
    "assert_means_equal",
    "assert_same",
    "assert_traced_step",
    "gradients",
    "seeded",
]
