"""Whether the data are ones that a model can have: the supports of its likelihoods, for all that takes data."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from pyro_vae._torch import memory
from pyro_vae.batches import kind_of, leaves, num_rows, rows
from pyro_vae.distributions.wrappers import unmasked, whole
from pyro_vae.pair.gate import refuse
from pyro_vae.pair.running import run, trying
from pyro_vae.pair.sites import observed_sites, support_of
from pyro_vae.pair.structure import odd_sites, value_problems

_AT_ONCE = 500  # data of a run of the programs


class _Seen(NamedTuple):
    """An observed site of a run: its name and distribution, and which leaf of the arguments it observes as it is."""

    name: str
    fn: Any
    place: int | None


class Supports:
    """Refuses data outside of the supports of a pair's likelihoods, and those that are not finite, batch by batch.

    The first batch of each kind is seen by a run of the programs. A later one is looked at without a run where sites
    observe arguments as they are; where one observes something else (a slice, other integers), by another run.

    Args:
        pair: the pair.
        num_tried: data of the first batch on which the programs are run at first, by default all.
        runs: whether later batches may be run.
    """

    def __init__(self, pair: nn.Module, num_tried: int | None = None, runs: bool = True) -> None:
        self._pair, self._num_tried, self._runs = pair, num_tried, runs
        self._kinds: dict[Any, list[_Seen]] = {}

    def __call__(self, batch: Any) -> None:
        """Looks at ``batch``, arguments as the programs are given them.

        Raises:
            ValueError: naming the first site at which the data are none that the likelihood has.
        """
        size, kind, done = num_rows(batch), kind_of(batch), 0
        if kind not in self._kinds:
            done = size if self._num_tried is None else min(size, self._num_tried)
            self._kinds[kind] = self._seen(batch if done == size else rows(batch, slice(done)))
        seen, given = self._kinds[kind], list(leaves(batch))
        if any(place is not None and list(value_problems(name, fn, given[place])) for name, fn, place in seen):
            self._seen(batch)  # its own likelihoods may have other supports than those of the first batch
        if self._runs and any(one.place is None for one in seen):
            for start in range(done, size, _AT_ONCE):
                self._seen(rows(batch, slice(start, start + _AT_ONCE)))

    def _seen(self, batch: Any) -> list[_Seen]:
        """The sites of a run, whose data are right; none where it fails, which those say that run it."""
        try:
            with trying(self._pair):
                found = run(self._pair, *batch)
            refuse(odd_sites(found))
            sites = observed_sites(found.model_trace)
        except Exception:
            return []
        return self._of(sites, batch)

    def learn(self, batch: Any, sites: Any) -> None:
        """Takes over the observed sites of a run on ``batch``, in which nothing was wrong."""
        self._kinds[kind_of(batch)] = self._of(sites, batch)

    def _of(self, sites: Any, batch: Any) -> list[_Seen]:
        found = []
        for name, site in sites.items():
            fn, value = site["fn"], site["value"]
            if value.shape != fn.shape() or site["mask"] is not None or unmasked(fn) is not fn:
                continue  # said by check; or some of it is missing
            refuse(list(value_problems(name, fn, value)))
            found.append(_Seen(name, whole(fn), _place(value, fn, batch)))  # other batches have other gaps
        return found


def _place(value: Tensor, fn: Any, batch: Any) -> int | None:
    """Which leaf of a batch a site observes as it is, where its support is the same for all data."""
    support: Any = support_of(fn)
    own = [part for part in vars(support).values() if isinstance(part, Tensor) and part.dim()] if support else []
    for place, leaf in enumerate(leaves(batch)):
        if isinstance(leaf, Tensor) and memory(leaf) == memory(value) and leaf.shape == value.shape and not own:
            return place
    return None
