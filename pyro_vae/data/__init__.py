"""Name -> tensors, splits, binarization.

``load("mnist", binarization="dynamic")`` gives a :class:`Data`. Its ``train``, ``valid`` and ``test`` are each a
:class:`Split` (tensors in memory), a :class:`Stored` (rows of a file), a :class:`Stream` (a ``DataLoader``) or several
of these in turn (:class:`Mixed`), and all hand out batches alike::

    for (x,) in data.train.batches(128, shuffle=True, epoch=3):  # x: [B, C, H, W], float32
        ...

uint8 are pixels, parts of 255. All other numbers, and all shapes, are handed out as they were given.

Three ways to see a gray image g in [0, 1] (``binarization``):

- ``"none"``: x = g.
- ``"static"``: x ~ Bernoulli(g) once, when the split is made. The draw is ours, fixed by the seed; it is not the file
  that Larochelle published.
- ``"dynamic"``: x ~ Bernoulli(g) anew for each batch.

A published log p(x) of MNIST depends on which of them was used: static and dynamic numbers must not stand in one column
of a table.

Source:
    Static: Larochelle & Murray 2011, "The Neural Autoregressive Distribution Estimator". Dynamic: Burda et al. 2015,
    "Importance Weighted Autoencoders".
"""

from typing import Any

from pyro_vae.data.convert import as_data
from pyro_vae.data.data import Data
from pyro_vae.data.draws import Binarization
from pyro_vae.data.load import load
from pyro_vae.data.mixed import Mixed
from pyro_vae.data.named import NAMES
from pyro_vae.data.sets import Split, Stream
from pyro_vae.data.stored import Stored

__all__ = ["NAMES", "Binarization", "Data", "FreyFace", "Mixed", "Split", "Stored", "Stream", "as_data", "load"]


def __getattr__(name: str) -> Any:
    if name == "FreyFace":  # its base is torchvision's, which is slow to import
        from pyro_vae.data.frey import FreyFace

        return FreyFace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
