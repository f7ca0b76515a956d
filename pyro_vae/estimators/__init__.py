"""Objectives. Each is a Pyro ELBO, made of a bound and its gradient, and gives its bound for each datum."""

from pyro_vae.estimators import names
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import Bound, ImportanceWeighted, Mean, Mixture, RenyiBound, log_mean_exp
from pyro_vae.estimators.facts import Facts, facts_table
from pyro_vae.estimators.gradients import (
    DoublyReparameterized,
    Gradient,
    LeaveOneOut,
    Pathwise,
    Score,
    Split,
    StickingTheLanding,
)
from pyro_vae.estimators.names import *  # noqa: F403
from pyro_vae.estimators.names import ESTIMATORS, elbo_of
from pyro_vae.estimators.objectives import Phases
from pyro_vae.estimators.penalties import Penalized
from pyro_vae.estimators.run import Objective, Run, Site, SiteTerms
from pyro_vae.estimators.svi import SVILoss, as_estimator

__all__ = [
    "ESTIMATORS",
    "Bound",
    "DoublyReparameterized",
    "Estimator",
    "Facts",
    "Gradient",
    "ImportanceWeighted",
    "LeaveOneOut",
    "Mean",
    "Mixture",
    "Objective",
    "Pathwise",
    "Penalized",
    "Phases",
    "RenyiBound",
    "Run",
    "SVILoss",
    "Score",
    "Site",
    "SiteTerms",
    "Split",
    "StickingTheLanding",
    "as_estimator",
    "elbo_of",
    "facts_table",
    "log_mean_exp",
]
__all__ += names.__all__
