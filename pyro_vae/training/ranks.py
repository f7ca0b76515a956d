"""Several processes that train one pair, by ``torch.distributed``."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, DistributedSampler

from pyro_vae._checks import warn
from pyro_vae._torch import BatchNorm
from pyro_vae.data import draws
from pyro_vae.estimators import Estimator, MonteCarloEM, Objective, SVILoss
from pyro_vae.estimators.penalties import Penalized
from pyro_vae.pair.protocols import FollowsBatches
from pyro_vae.ranks import Ranks
from pyro_vae.training import checkpoint
from pyro_vae.training.averaging import Weights
from pyro_vae.training.weight_priors import WeightPrior

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingRanks(Ranks):
    r"""The processes that train one pair, each on a slice of every batch, :math:`M_r` of M data.

    With :math:`g_r` the gradient of the mean over a slice, that of the batch is :math:`\sum_r M_r g_r / M`, also of
    slices that are not equal; loss and terms likewise. These travel as one vector, with what signals were received. So
    all ranks take the same steps.
    """

    def add_up(
        self, objective: Objective, parameters: Sequence[nn.Parameter], size: int, received: int | None, due: bool
    ) -> tuple[Objective, int | None, bool]:
        """Objective and gradients of the whole batch, of which ``size`` are here; and what goes for all ranks.

        That is a signal that one of them has received, and whether a checkpoint is due by the clock of the first.
        """
        if self.alone:
            return objective, received, due
        scalars = [objective.loss, *([] if objective.bound is None else [objective.bound])]
        scalars += [value for kinds in objective.terms.values() for value in kinds.values()]
        there = [0.0 if parameter.grad is None else 1.0 for parameter in parameters]
        told = [float(size), float(due and self.first), *(float(received == number) for number in _SIGNALS), *there]
        means = [value.detach().reshape(1) for value in scalars]
        means += [_flat(torch.zeros_like(p) if p.grad is None else p.grad) for p in parameters]
        wide = torch.float64 if any(value.dtype == torch.float64 for value in means) else torch.float32
        told += [float(parameter.grad is not None and parameter.grad.is_sparse) for parameter in parameters]
        vector = torch.cat([torch.cat(means).to(wide) * size, torch.tensor(told, dtype=wide, device=means[0].device)])
        self.sum(vector)
        values, sums = vector[: -len(told)], vector[-len(told) :].tolist()
        values = values / sums[0]
        parts = iter(values.split([value.numel() for value in means]))
        loss, *others = [next(parts)[0].to(value.dtype) for value in scalars]
        bound = None if objective.bound is None else others.pop(0)
        named = iter(others)
        terms = {site: {kind: next(named) for kind in kinds} for site, kinds in objective.terms.items()}
        counts, sparse = torch.tensor(sums[2 + len(_SIGNALS) :]).view(2, -1).tolist()
        for parameter, gradient, count, is_sparse in zip(parameters, parts, counts, sparse, strict=True):
            if count:
                like = torch.view_as_real(parameter) if parameter.is_complex() else parameter
                gradient = gradient.to(like.dtype).reshape(like.shape)
                gradient = torch.view_as_complex(gradient) if parameter.is_complex() else gradient
                parameter.grad = gradient.to_sparse(1) if is_sparse else gradient  # of the rows that some rank met
        signals = [number for number, count in zip(_SIGNALS, sums[2:], strict=False) if count]
        return Objective(loss, bound, terms), signals[0] if signals else None, sums[1] > 0

    def loaded(self, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint of a folder, which the first rank alone has to see."""
        if self.alone:
            return checkpoint.load(folder)
        tensors, state = checkpoint.load(folder) if self.first else ({}, {})
        data, state = self.share((safetensors.torch.save(tensors), state))
        return safetensors.torch.load(data), state

    def begin(self, pair: nn.Module) -> None:
        """Gives all ranks the parameters and buffers of the first."""
        if not self.alone:
            with torch.no_grad(), self.answered():
                for value in (*pair.parameters(), *pair.buffers()):
                    distributed.broadcast(value, 0)

    def start_noise(self, *key: int) -> None:
        """Begins what this rank draws from torch, numpy and Python; of the first the latter two are as they are."""
        seed = self.seed_of(*key)
        torch.manual_seed(seed)
        if not self.first:
            np.random.seed(seed % 2**32)  # noqa: NPY002 - programs draw from it
            random.seed(seed)

    @contextmanager
    def as_one(self, pair: nn.Module, weights: Weights, cuda: Sequence[torch.device]) -> Iterator[list[dict[str, Any]]]:
        """Within it the statistics of batch norms are the means of all ranks'.

        Gives what each rank has of its own, these statistics and its random states, of GPUs those of ``cuda``.
        """
        if self.alone:
            yield []
            return
        statistics = _statistics(pair, weights)
        own = [value.detach().cpu().clone() for value in statistics]
        states = self.gathered({"random": draws.random_state(cuda), "statistics": own})
        of_all = zip(*(state["statistics"] for state in states), strict=True)
        _put(statistics, [torch.stack(values).mean(0) for values in of_all])
        try:
            yield states
        finally:
            _put(statistics, own)

    def go_on(
        self,
        states: Sequence[Mapping[str, Any] | None],
        pair: nn.Module,
        weights: Weights,
        key: Sequence[int],
        cuda: Sequence[torch.device],
    ) -> None:
        """Takes up what this rank had of its own, where there are as many as there were; else it draws by the key.

        Args:
            states: what :meth:`as_one` gave; of a process that was alone ``[None]``.
            pair, weights: of the run, which have been taken up, with the means of the statistics.
            key: of the draws.
            cuda: GPUs that draw.
        """
        if len(states) == self.count:
            if (own := states[self.rank]) is not None:
                draws.set_random_state(own["random"], cuda)
                _put(_statistics(pair, weights), own["statistics"])
            return
        self.start_noise(*key)
        if self.first:
            warn(
                f"the run was of {len(states)} ranks and goes on with {self.count}: the order of the data is the "
                "same, the noise is not."
            )

    def even_out(self, pair: nn.Module, weights: Weights) -> None:
        """Averages the statistics of batch norms, which each rank has of its own data, and their moving averages.

        Raises:
            ValueError: if another buffer differs between ranks, which is named.
        """
        if self.alone:
            return
        statistics = _statistics(pair, weights)
        for value in statistics:
            self.sum(value)
            value /= self.count
        for name, value in pair.named_buffers():
            if value.is_floating_point() and not any(value is one for one in statistics):
                low, high = value.detach().double().clone(), value.detach().double().clone()
                with self.answered():
                    distributed.all_reduce(low, distributed.ReduceOp.MIN)
                    distributed.all_reduce(high, distributed.ReduceOp.MAX)
                if not torch.equal(low.nan_to_num(), high.nan_to_num()):
                    raise ValueError(
                        f"the buffer {name} moves with the data, each rank's with its own, so that {self.count} ranks "
                        "would not train one pair. Train this pair in one process."
                    )


def check_apart(
    pair: nn.Module,
    estimator: Estimator,
    weight_prior: Any,
    batch_size: int,
    ranks: TrainingRanks,
    loaders: Sequence[DataLoader[Any]] = (),
) -> None:
    """Refuses what is no mean over the data of a batch, and so no mean of its slices', and ranks of other batches.

    Raises:
        ValueError: which names it.
    """
    if ranks.alone:
        return
    gradient = getattr(estimator, "gradient", None)
    baseline = getattr(gradient, "baseline", "none")
    what = None
    if isinstance(estimator, (Penalized, MonteCarloEM)):
        what = f"{type(estimator).__name__} depends on all data of a batch together"
    elif isinstance(estimator, SVILoss):
        what = "a loss of Pyro's is a sum over what its program takes for the data"
    elif baseline == "batch" or (baseline == "auto" and estimator.num_particles == 1):
        what = f"the baseline of {type(estimator).__name__} is a mean over the batch (give baseline='none')"
    elif isinstance(weight_prior, WeightPrior) and weight_prior.count == "batch":
        what = "WeightPrior(count='batch') counts the prior once a batch"
    elif any(getattr(module, "scale", None) == "optimal" for module in pair.modules()):
        what = "the scale of a likelihood with scale='optimal' is that of all data of a batch"
    elif follows := [part for part in pair.modules() if isinstance(part, FollowsBatches) and part.training]:
        what = f"a {type(follows[0]).__name__} follows {follows[0].follows_batches}"
    elif any(isinstance(one.sampler, DistributedSampler) and one.sampler.num_replicas > 1 for one in loaders):
        what = "the batches of a DistributedSampler are of a part of the data (leave it out: ranks take their slices)"
    elif batch_size < ranks.count:
        what = f"batch_size={batch_size} gives {ranks.count} ranks less than one datum each"
    if what is not None:
        raise ValueError(f"{what}, which {ranks.count} ranks cannot share. Train in one process, or choose another.")


def _statistics(pair: nn.Module, weights: Weights) -> list[Tensor]:
    """Of batch norms, as they are and in the moving average of the weights."""
    norms = [module for module in pair.modules() if isinstance(module, BatchNorm)]
    found = [b for module in norms for b in (module.running_mean, module.running_var) if b is not None]
    return found + weights.averages_of(found)


def _put(values: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for value, other in zip(values, others, strict=True):
        value.copy_(other)


def _flat(value: Tensor) -> Tensor:
    value = value.to_dense() if value.layout != torch.strided else value
    return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)
