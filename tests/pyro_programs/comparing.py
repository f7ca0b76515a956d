"""The right values, by Pyro alone: SVI, its ELBOs, and log-weights of plain traces."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_programs.registry import Program
from pyro_vae.pair import as_pair, modules_of, programs

LR = 1e-2


def prepared(program: Program) -> tuple[Any, list[tuple[Any, ...]]]:
    """``(pair, batches)`` whose parameters, also those that are made in a first run, follow from a seed."""
    torch.manual_seed(0)
    pair, _, _, batches = program.made()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches:
            program.elbo().loss(*programs(as_pair(pair)), *batch)
    return pair, batches


def plain(program: Program, evaluated: bool = False) -> tuple[Any, Any, list[tuple[Any, ...]]]:
    """``(model, guide, batches)`` with the same parameters, in Pyro's own store; its modules perhaps in eval mode."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    pair, model, guide, batches = program.made()
    if program.same_names:
        model = _Renamed()(model)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches:
            program.elbo().loss(model, guide, *batch)
    for module in modules_of(as_pair(pair)) if evaluated else ():
        module.eval()
    return model, guide, batches


class _Renamed(Messenger):
    """Parameters by other names than the guide's, of which Pyro's store would otherwise hold one."""

    def _pyro_param(self, msg: Any) -> None:
        msg["name"] = f"model.{msg['name']}"
        msg["args"] = (msg["name"], *msg["args"][1:])


def num_trained(program: Program) -> int:
    """Numbers that ``SVI.step`` trains."""
    model, guide, batches = plain(program)
    trained: dict[int, int] = {}
    for batch in batches:
        with poutine.trace(param_only=True) as recorded:
            program.elbo().loss(model, guide, *batch)
        values = [site["value"].unconstrained() for site in recorded.trace.nodes.values()]
        trained.update({id(value): value.numel() for value in values if value.requires_grad})
    return sum(trained.values())


def svi_losses(program: Program, steps: int, seed: int) -> list[float]:
    """Of ``SVI.step``, one batch after the other."""
    model, guide, batches = plain(program)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), program.elbo())
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [svi.step(*batch) for batch in itertools.islice(itertools.cycle(batches), steps * len(batches))]


class _Batches(list):  # type: ignore[type-arg]
    """A data set of whole batches."""


def loader(batches: Sequence[tuple[Any, ...]]) -> DataLoader[Any]:
    """The batches in their order, without a draw of torch's."""
    own = torch.Generator().manual_seed(0)
    (first, *others) = batches
    rows = {len(value) for value in first if isinstance(value, Tensor)}
    if not others and len(rows) == 1 and all(isinstance(value, Tensor) for value in first):
        return DataLoader(TensorDataset(*first), batch_size=rows.pop(), generator=own)
    return DataLoader(_Batches(batches), batch_size=None, generator=own)


def of_pyro(elbo: Any, model: Any, guide: Any, batch: tuple[Any, ...], seed: int) -> tuple[float, list[Tensor]]:
    """The loss of an ELBO and its gradients, by all that ``SVI.step`` would train."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with poutine.trace(param_only=True) as recorded:
            loss = elbo.loss_and_grads(model, guide, *batch)
    trained = {id(u): u for u in (site["value"].unconstrained() for site in recorded.trace.nodes.values())}
    return float(loss), _taken(trained.values())


def of_ours(estimator: Any, pair: Any, batch: tuple[Any, ...], seed: int) -> tuple[float, list[Tensor]]:
    """The loss of an estimator and its gradients, by all parameters of the pair, which ``fit`` trains."""
    module = as_pair(pair)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is sampled
        loss = estimator.loss_and_grads(*programs(module), *batch)
    return float(loss), _taken(module.parameters())


def _taken(parameters: Iterable[Tensor]) -> list[Tensor]:
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    found = [parameter.grad.clone() for parameter in trained if parameter.grad is not None]
    for parameter in trained:
        parameter.grad = None
    return found


def assert_gradients(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-4) -> None:
    """The same gradients in any order; those that vanish may be missing."""
    left = [gradient for gradient in ours if gradient.abs().max() > 0]
    theirs = [gradient for gradient in theirs if gradient.abs().max() > 0]
    norm = torch.stack([gradient.norm() for gradient in theirs]).norm().item()
    for gradient in theirs:
        alike = [(index, one) for index, one in enumerate(left) if one.shape == gradient.shape]
        assert alike, f"no gradient is left for one of shape {list(gradient.shape)}: a parameter is not trained"
        index, best = min(alike, key=lambda pair: (pair[1] - gradient).norm().item())
        assert (best - gradient).norm() <= tolerance * norm, f"a gradient of shape {list(gradient.shape)} differs"
        del left[index]
    tiny = [gradient for gradient in left if gradient.norm() > tolerance * norm]
    assert not tiny, f"gradients of shapes {[list(one.shape) for one in tiny]} that Pyro does not have"


def repeated(batch: tuple[Any, ...], times: int) -> tuple[Any, ...]:
    """The batch ``times`` over, one behind the other."""
    size = len(batch[0])
    return tuple(
        value.repeat(times, *(1,) * (value.dim() - 1)) if isinstance(value, Tensor) and len(value) == size else value
        for value in batch
    )


def log_weights(
    model: Any, guide: Any, batch: tuple[Any, ...], count: int, nesting: int, seed: int
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Ways to ``[S, B]`` log-weights of S plain traces from one seed; not each suits each program."""
    size = len(batch[0])

    def vectorized() -> Tensor:
        plate = pyro.plate("num_particles_vectorized", count, dim=-nesting - 1)
        return summed(*traces(plate(model), plate(guide), batch), nesting)

    def folded() -> Tensor:
        return summed(*traces(model, guide, repeated(batch, count)), nesting).reshape(count, size)

    def looped() -> Tensor:
        return torch.stack([summed(*traces(model, guide, batch), nesting) for _ in range(count)])

    for name, way in (("vectorized", vectorized), ("folded", folded), ("looped", looped)):

        def seeded(way: Callable[[], Tensor] = way) -> Tensor:
            torch.manual_seed(seed)
            with torch.no_grad(), pyro.validation_enabled(False):
                return way()

        yield name, seeded


def traces(model: Any, guide: Any, batch: tuple[Any, ...]) -> tuple[Any, Any]:
    q = poutine.trace(guide).get_trace(*batch)
    return poutine.trace(poutine.replay(model, trace=q)).get_trace(*batch), q


def summed(p: Any, q: Any, nesting: int) -> Tensor:
    """log p(x, z) - log q(z) of two traces, summed over all but the data and the particles."""
    total = torch.zeros(())
    drawn = {name for name, site in q.nodes.items() if site["type"] == "sample" and not site["is_observed"]}
    for sign, trace in ((1, p), (-1, q)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or (not site["is_observed"] and name not in drawn):
                continue
            if type(site["fn"]).__name__ == "_Subsample" or (sign < 0 and site["is_observed"]):
                continue
            fn = site["fn"] if site["is_observed"] else without_mask(site["fn"])
            log_prob = fn.log_prob(site["value"])
            if site["is_observed"] and site["mask"] is not None:
                log_prob = torch.where(torch.as_tensor(site["mask"]), log_prob, 0.0)
            kept = {-1, -nesting - 1}
            others = [dim for dim in range(-log_prob.dim(), 0) if dim not in kept]
            log_prob = log_prob.sum(others, keepdim=True) if others else log_prob
            if log_prob.dim() > nesting:
                log_prob = log_prob.reshape(log_prob.shape[0], log_prob.shape[-1])
            else:
                log_prob = log_prob.reshape(log_prob.shape[-1:])
            total = total + sign * log_prob
    return total


def without_mask(fn: Any) -> Any:
    """A distribution without its mask; a latent that is masked is one that does not matter."""
    if type(fn).__name__ == "Independent":
        return without_mask(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    return without_mask(fn.base_dist) if type(fn).__name__ == "MaskedDistribution" else fn
