"""Training: fit(), the compiled step, checkpoints and schedules."""

from pyro_vae.training.fit import fit
from pyro_vae.training.run import NonFiniteError, Run
from pyro_vae.training.schedules import Cosine, Cyclical, Linear, Progress, Schedule
from pyro_vae.training.settings import CLI_DEFAULTS
from pyro_vae.training.step import TrainingStep
from pyro_vae.training.weight_priors import SpectralPrior, WeightPenalty, WeightPrior

__all__ = [
    "CLI_DEFAULTS",
    "Cosine",
    "Cyclical",
    "Linear",
    "NonFiniteError",
    "Progress",
    "Run",
    "Schedule",
    "SpectralPrior",
    "TrainingStep",
    "WeightPenalty",
    "WeightPrior",
    "fit",
]
