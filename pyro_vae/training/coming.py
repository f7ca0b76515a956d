"""The data of a training as they come: converted for the programs, and looked at where they are new."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pyro_vae.batches import described, kind_of
from pyro_vae.check import report_on
from pyro_vae.data import Data, Mixed, Stream
from pyro_vae.estimators import Estimator, SVILoss
from pyro_vae.pair.arguments import Arguments, Converted
from pyro_vae.pair.supports import Supports
from pyro_vae.pair.turns import fork_rng
from pyro_vae.training.settings import Settings

AT_ONCE = 1000  # held-out data, and data that are looked at
_LOOKED = 4  # batches of a loader in which its kinds are looked for


class Coming:
    """The data of a training as they come.

    Attributes:
        arguments: the conversion; what the supports of likelihoods have to say is said by ``supports``.
        sets: all sets to train on and to validate by.
        streams: those of them that are loaders, by identity.
        looked: what these begin with, by the same.
        kinds: of batches, which have been checked.
        supports: of the likelihoods; ``None`` where nothing is asked of the data, or all have been seen.
    """

    def __init__(self, pair: nn.Module, data: Data, settings: Settings, device: torch.device) -> None:
        self._pair, self._data, self._settings = pair, data, settings
        self._devices = [device] if device.type == "cuda" else []
        self.arguments = Arguments(pair, device, any_data=True)
        given = [part for part in (data.train, data.valid) if part is not None]
        self.sets: list[Any] = [part for one in given for part in getattr(one, "parts", [one])]
        self.streams = {id(part): part for part in self.sets if isinstance(part, Stream)}
        self.looked: dict[int, list[Any]] = {}
        self.kinds: set[Any] = set()
        self.supports = None if isinstance(settings.estimator, SVILoss) else Supports(pair, runs=False)

    def first_of_each_kind(self) -> list[Converted]:
        """The first batch of each kind among the first of the data, as the programs are given it.

        Raises:
            ValueError: if the validation data begin with a batch of another kind.
        """
        train, size, seed = self._data.train, self._settings.batch_size, self._settings.seed
        parts = train.parts if isinstance(train, Mixed) else [train]
        few = _LOOKED if isinstance(train, Stream) else 1
        looked: list[Any] = []
        for part in parts:
            raws = [*itertools.islice(part.batches(size, epoch=0, seed=seed), few)]
            self.looked.update({id(part): raws} if isinstance(part, Stream) else {})
            looked += raws
        holed = [part for part in self.sets if part.in_memory and any(t.isnan().any() for t in part.tensors)]
        for raw in (raw for part in holed for raw in part.batches(AT_ONCE)):  # the first batch may hold no NaN
            self.arguments(*raw)
        self.arguments.finite |= not holed and train.in_memory
        found: dict[Any, Converted] = {}
        for raw in looked:
            batch = self.arguments(*raw)
            found.setdefault(kind_of(batch), batch)
        if self._data.valid is not None:
            raw = next(iter(self._data.valid.batches(size, epoch=0, seed=seed)), ())
            if isinstance(self._data.valid, Stream):
                self.looked.setdefault(id(self._data.valid), [raw])
            batch = self.arguments(*raw)
            if raw and kind_of(batch) not in found:
                ours = described(next(iter(found.values())))
                raise ValueError(
                    f"the validation data are of another kind than the training data: {described(batch)} and {ours}. "
                    "Give both the same arguments."
                )
        self.kinds = set(found)
        return list(found.values())

    def look_at_all(self, kinds: Iterable[Converted]) -> None:
        """Looks at all data in memory, as :func:`check` has looked at a batch of each kind."""
        for batch in kinds:
            self._look_at_values(batch)
        for part in [one for one in self.sets if one.in_memory and one.binarization == "none"]:
            for raw in part.batches(AT_ONCE):
                self.converted(raw)
        if all(part.in_memory for part in self.sets):
            self.supports = None  # nothing comes that has not been seen

    def converted(self, raw: Sequence[Any]) -> Converted:
        """A batch as the programs are given it, refused if it leaves the support of a likelihood.

        That is looked at where it has not been; a loss of SVI asks nothing of it.
        """
        return self._look_at_values(self.arguments(*raw))

    def _look_at_values(self, batch: Converted) -> Converted:
        if self.supports is not None:
            self.supports(batch)
        return batch

    def checked(self, raw: Sequence[Any], estimator: Estimator, parameters: Iterable[nn.Parameter]) -> Converted:
        """:meth:`converted`; the first batch of a kind is checked before it is trained on, as the first of all is.

        Raises:
            ValueError: if it fails its check, or makes parameters that the optimizer does not know.
        """
        batch = self.arguments(*raw)
        kind = kind_of(batch)
        if kind in self.kinds:
            return self._look_at_values(batch)
        self.kinds.add(kind)
        modes = self._pair.training
        with fork_rng(self._devices):
            report_on(self._pair, batch, estimator, self.supports)
        self._pair.train(modes)
        known = {id(parameter) for parameter in parameters}
        new = [name for name, p in self._pair.named_parameters() if p.requires_grad and id(p) not in known]
        if new:
            raise ValueError(
                f"a batch of another kind makes the parameter {new[0]!r}, which those before did not have and the "
                "optimizer does not know. Announce it for all batches: put its pyro.param or pyro.module before the "
                "branch."
            )
        return self._look_at_values(batch)
