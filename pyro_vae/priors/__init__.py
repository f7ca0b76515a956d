"""Priors: ``() -> p(z)``, a distribution over one datum's latent, with its event dimensions declared."""

from pyro_vae.priors.normal import StandardNormal

__all__ = ["StandardNormal"]
