"""What the library asks a pair, or a part of one, for where it has it.

Nothing of this is required, and no class has to name a protocol as its base: an object is one by having the method or
attribute, in its class or set by its ``__init__``. What a pair has to have is said in :mod:`pyro_vae.pair.pair`; the
protocols of networks are at home in :mod:`pyro_vae.networks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from pyro_vae.networks.shapes import HasInShape as HasInShape
from pyro_vae.networks.shapes import HasOutShape as HasOutShape

# Pairs

#: A pair. On the command line, an argument of this type is the folder of the run that trained it.
TrainedPair: TypeAlias = Annotated[nn.Module, "run folder"]


@runtime_checkable
class ChecksBatch(Protocol):
    """A pair that cannot be trained on every batch; ``fit`` asks it before the first step, with a first batch."""

    def check_batch(self, *batch: Any) -> None:
        """Raises a ``ValueError`` that says what is wrong with these arguments of model and guide."""


@runtime_checkable
class DoubtsData(Protocol):
    """A likelihood that can tell data which it is hardly meant for; ``fit`` asks that of a pair that has one."""

    def doubt(self, x: Tensor) -> str | None:
        """What a user should know before it is fitted to data like ``x: [B, *event]``, if anything."""


@runtime_checkable
class FollowsBatches(Protocol):
    """A part whose buffers follow the data of each batch in training; several ranks, which have slices, refuse it."""

    #: What they follow, in words.
    follows_batches: str


@runtime_checkable
class TakesLabels(Protocol):
    """A pair that runs without labels, but is of labels; ``fit`` and the command line pass those of the data."""

    #: The name of their argument.
    takes_labels: str


@runtime_checkable
class HasPosteriorPredictive(Protocol):
    """A pair with random weights; ``pyro-vae evaluate`` asks it before importance sampling."""

    def posterior_predictive(self) -> nn.Module:
        """A pair that draws the weights from their posterior at each run, neither scored nor weighed."""


@runtime_checkable
class SamplesWeights(Protocol):
    """A pair with random weights; ``pyro-vae evaluate`` asks it before annealing and HMC."""

    def sample_weights(self, seed: int = 0) -> nn.Module:
        """A pair that holds its weights at one draw from their posterior."""


# Parts


@runtime_checkable
class ChecksBuffer(Protocol):
    """A module with a buffer that is not free to be any number; asked before a schedule moves it."""

    def check_buffer(self, name: str, value: float) -> None:
        """Raises a ``ValueError`` that says why the buffer ``name`` cannot be ``value``."""


@runtime_checkable
class RecallsState(Protocol):
    """A pair that keeps what was loaded of modules which its programs have yet to announce."""

    @property
    def recalls(self) -> bool:
        """Whether something of a loaded state is yet to be put in its place, as a run of the programs does."""


@runtime_checkable
class HasRandomWeights(Protocol):
    """A layer with a prior in the model; a weight prior of ``fit``, which would be a second one, leaves it out."""

    @property
    def random_weights(self) -> bool:
        """Whether it is so: then its parameters are those of prior and posterior."""


@runtime_checkable
class HasRunningStatistics(Protocol):
    """A normalization that remembers its batches, which a ``VampPrior`` stops for its pseudo-inputs."""

    track_running_stats: bool


@runtime_checkable
class HasNetworkShape(Protocol):
    """A posterior or likelihood of a network; a system asks it what to build."""

    def network_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the network's output for one datum, for a latent (of a likelihood: a datum) of ``shape``."""


@runtime_checkable
class HasNumLevels(Protocol):
    """A support of quantized values; asked for the message on data off the levels, and where bits are counted."""

    @property
    def num_levels(self) -> int:
        """The values are k / (num_levels - 1)."""
