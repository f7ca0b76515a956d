"""Objectives. Each is a Pyro ELBO, and gives its bound for each datum."""

from pyro_vae.estimators.base import Estimator, Objective, SiteTerms
from pyro_vae.estimators.sgvb import SGVB_A, SGVB_B

__all__ = ["SGVB_A", "SGVB_B", "Estimator", "Objective", "SiteTerms"]
