"""Systems: one file each, a model/guide pair with its networks."""

from pyro_vae.models.conv_vae import ConvVAE
from pyro_vae.models.mlp_vae import MLPVAE

__all__ = ["MLPVAE", "ConvVAE"]
