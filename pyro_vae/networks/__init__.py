"""Networks: Tensor -> Tensor, with any number of leading dimensions.

A network maps ``[*, *in_shape]`` to ``[*, *out_shape]``, whatever the leading dimensions are, so that particles are
one more dimension on the left. Where a distribution has two parameters, the network stacks them: ``[*, 2, *event]``.

Of vectors: :class:`MLP`, :class:`GatedMLP`, :class:`ResidualMLP`. Of images: :class:`ConvEncoder` and
:class:`ConvDecoder` (gated on demand), :class:`ResidualEncoder` and :class:`ResidualDecoder`, and :class:`UNet` from
images to maps. All take ``normalization="batch"``, ``"layer"`` or ``"weight"``.

Labels and other conditions become vectors by :class:`OneHot` and :class:`Numbers`; :class:`Joined` puts them beside
what a part sees.

What a network sees in training can be corrupted: :class:`Corrupted` with :class:`Masking`, :class:`SaltAndPepper` or
:class:`GaussianNoise`. :class:`SelfMasking` tells of what is missing.
"""

from pyro_vae.networks.base import Network
from pyro_vae.networks.conditions import Joined, Numbers, OneHot, side_by_side
from pyro_vae.networks.convolutional import (
    ConvDecoder,
    ConvEncoder,
    Convolutional,
    ResidualDecoder,
    ResidualEncoder,
    UNet,
    residual_block,
)
from pyro_vae.networks.corruption import Corrupted, Corruption, GaussianNoise, Masking, SaltAndPepper
from pyro_vae.networks.dense import MLP, Centered, GatedMLP, ResidualMLP
from pyro_vae.networks.initial import data_dependent_init, normal_init
from pyro_vae.networks.layers import BatchNorm, Gated, Normalization, Residual
from pyro_vae.networks.masked import MaskedConv2d
from pyro_vae.networks.missing import SelfMasking
from pyro_vae.networks.shapes import (
    HasInShape,
    HasOutShape,
    applied,
    at_least_float32,
    check_fits,
    check_input,
    check_output,
    event_dim_of,
    in_shape_of,
    out_shape_of,
    shape_of,
    stacked,
)

__all__ = [
    "MLP",
    "BatchNorm",
    "Centered",
    "ConvDecoder",
    "ConvEncoder",
    "Convolutional",
    "Corrupted",
    "Corruption",
    "Gated",
    "GatedMLP",
    "GaussianNoise",
    "HasInShape",
    "HasOutShape",
    "Joined",
    "MaskedConv2d",
    "Masking",
    "Network",
    "Normalization",
    "Numbers",
    "OneHot",
    "Residual",
    "ResidualDecoder",
    "ResidualEncoder",
    "ResidualMLP",
    "SaltAndPepper",
    "SelfMasking",
    "UNet",
    "applied",
    "at_least_float32",
    "check_fits",
    "check_input",
    "check_output",
    "data_dependent_init",
    "event_dim_of",
    "in_shape_of",
    "normal_init",
    "out_shape_of",
    "residual_block",
    "shape_of",
    "side_by_side",
    "stacked",
]
