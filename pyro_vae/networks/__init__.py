"""Networks: Tensor -> Tensor, with any number of leading dimensions.

A network maps ``[*, *in_shape]`` to ``[*, *out_shape]``, whatever the leading dimensions are, so that particles are
one more dimension on the left. Where a distribution has two parameters, the network stacks them: ``[*, 2, *event]``.
"""

from pyro_vae.networks.convolutional import ConvDecoder, ConvEncoder
from pyro_vae.networks.dense import MLP, Centered
from pyro_vae.networks.initial import normal_init
from pyro_vae.networks.shapes import at_least_float32, check_input, shape_of, stacked

__all__ = [
    "MLP",
    "Centered",
    "ConvDecoder",
    "ConvEncoder",
    "at_least_float32",
    "check_input",
    "normal_init",
    "shape_of",
    "stacked",
]
