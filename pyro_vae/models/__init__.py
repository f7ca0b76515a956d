"""Systems: one file each, a model/guide pair with its networks."""

from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.code_prior import CodePrior
from pyro_vae.models.conditional_vae import ConditionalVAE
from pyro_vae.models.conv_vae import ConvVAE
from pyro_vae.models.deep_markov import DeepMarkovModel
from pyro_vae.models.full_bayes import FullBayes
from pyro_vae.models.gru_vae import GRUVAE
from pyro_vae.models.hierarchical_vae import HierarchicalVAE
from pyro_vae.models.incomplete_vae import IncompleteVAE
from pyro_vae.models.ladder_vae import ConvLadderVAE, LadderVAE
from pyro_vae.models.mlp_vae import MLPVAE
from pyro_vae.models.multimodal import LabeledVAE, MultimodalVAE
from pyro_vae.models.nvae import NVAE
from pyro_vae.models.probabilistic_unet import ProbabilisticUNet
from pyro_vae.models.semi_supervised import SemiSupervisedVAE
from pyro_vae.models.vamp_vae import VampVAE
from pyro_vae.models.variational_gp import VariationalGP
from pyro_vae.models.vq_vae import VQVAE

__all__ = [
    "GRUVAE",
    "MLPVAE",
    "NVAE",
    "VQVAE",
    "Autoencoder",
    "CodePrior",
    "ConditionalVAE",
    "ConvLadderVAE",
    "ConvVAE",
    "DeepMarkovModel",
    "FullBayes",
    "HierarchicalVAE",
    "IncompleteVAE",
    "LabeledVAE",
    "LadderVAE",
    "MultimodalVAE",
    "ProbabilisticUNet",
    "SemiSupervisedVAE",
    "VampVAE",
    "VariationalGP",
]
