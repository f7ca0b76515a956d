"""Running a pair: guide and model once, particles, evaluation mode, simulation; and statements for its programs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.poutine import Trace
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor, nn

from pyro_vae._checks import PLATES, callable_, shown, whole
from pyro_vae._pyro import failing_without_shapes, is_deterministic, unvalidated, was_observed
from pyro_vae._tensors import check_dense
from pyro_vae._torch import memory
from pyro_vae.batches import flattened, leaves, unflattened
from pyro_vae.pair.pair import as_pair, modules_of, programs
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.sharing import computing_once
from pyro_vae.pair.sites import DATA_PLATE, PENALTY, observed_sites
from pyro_vae.pair.turns import fork_rng, in_turn


@contextmanager
def kept_modes(pair: nn.Module) -> Iterator[None]:
    """Puts back the training mode of each part of a pair, also of modules that the programs have yet to announce.

    >>> import pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> with pair.kept_modes(vae):
    ...     vae = vae.eval()
    >>> vae.training
    True
    """
    with in_turn():
        modes = [(part, part.training) for module in modules_of(pair) for part in module.modules()]
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, for all parts of a pair.

    >>> import pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> with pair.evaluating(vae):
    ...     inside = vae.training
    >>> inside, vae.training
    (False, True)
    """
    with kept_modes(pair), failing_without_shapes():
        for module in modules_of(pair):
            module.eval()
        yield


@contextmanager
def trying(pair: nn.Module) -> Iterator[None]:
    """For a run that finds out something: as :func:`reading`, with torch's random state as it was afterwards."""
    with fork_rng(), reading(pair):
        yield


@contextmanager
def reading(pair: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients and no validation of distributions for a while.

    Args:
        pair: the pair.
        seed: of the draws inside, the caller's random state staying as it was; without one they are torch's next.
    """
    with evaluating(pair), torch.no_grad(), fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        with unvalidated():
            yield


def device_of(pair: nn.Module) -> torch.device:
    """Where a pair is: the device of its first parameter, also of one that its programs have yet to announce.

    >>> import pyro_vae as pv
    >>> from pyro_vae import pair
    >>> pair.device_of(pv.models.MLPVAE((4,), latent_dim=2))
    device(type='cpu')
    """
    first = next((parameter for module in modules_of(pair) for parameter in module.parameters()), None)
    return torch.device("cpu") if first is None else first.device


def data_plate(x: Tensor | None) -> pyro.plate:
    """The plate over the data of a batch ``x: [B, *event]``; of size 1 where the program draws ``x`` itself.

    Raises:
        TypeError: if x is no tensor.
        ValueError: if it has no data.

    >>> import torch
    >>> from pyro_vae import pair
    >>> plate = pair.data_plate(torch.ones(3, 4))
    >>> plate.name, plate.size
    ('data', 3)
    """
    if x is not None and not isinstance(x, Tensor):
        raise TypeError(f"the data of a batch are a tensor x of shape [B, *event]; got {shown(x)}.")
    if x is not None and x.is_nested:
        check_dense(x, "x")
    if x is not None and not (x.dim() and len(x)):
        raise ValueError(f"there are no data: x has shape {list(x.shape)}. Give x of shape [B, *event], B at least 1.")
    return pyro.plate(DATA_PLATE, 1 if x is None else len(x), dim=-1)


def penalty(name: str, value: Tensor) -> None:
    """A penalty of a guide, ``value: [*plates]`` of at least 0, in nats: what is trained is lowered by it.

    ``pyro.factor`` in a guide is refused, since it may be meant as a part of log q(z | x); this one is known to lower
    the bound. Evidence leaves it out.

    >>> import pyro, torch, pyro.distributions as dist, pyro_vae as pv
    >>> from pyro_vae.pair import Pair, penalty
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)
    >>> def guide(x):
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))  # p(z | x)
    ...         penalty("far", x.square())
    >>> pv.SGVB_A().bound(Pair(model, guide), torch.zeros(1)).shape
    torch.Size([1])
    """
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise TypeError(f"a penalty is a name and a tensor of its plates; got {shown(name)} and {shown(value)}.")
    check_dense(value, f"the penalty {name!r}")
    try:
        fn = Unit(value, has_rsample=True)
    except ValueError as error:  # while Pyro validates
        raise ValueError(f"the penalty {name!r} is NaN in places; give numbers of at least 0, in nats.") from error
    infer: Any = {"is_auxiliary": True, PENALTY: True}
    pyro.sample(name, fn, obs=fn.sample(), infer=infer)


class PairRun(NamedTuple):
    """One run of a guide, and of the model against its draws."""

    model_trace: Trace
    guide_trace: Trace


def run(pair: nn.Module, *batch: Any, num_particles: int | None = None, max_plate_nesting: int = 1) -> PairRun:
    """Runs the guide on ``batch`` and the model against its draws.

    With ``num_particles`` the draws have one more dimension on the left of the plates: a latent inside the data plate
    is ``[num_particles, B, *event]``; see :class:`~pyro_vae.pair.particles.Plan`.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.rand(3, 4).round()
    >>> model_trace, guide_trace = pair.run(vae, x, num_particles=5)
    >>> guide_trace.nodes["z"]["value"].shape
    torch.Size([5, 3, 2])
    """
    model, guide = programs(as_pair(pair))
    if num_particles is not None:
        whole(1, num_particles=num_particles)
        whole(1, PLATES, max_plate_nesting=max_plate_nesting)
        plan = plan_of(model, guide, batch, {}, max_plate_nesting)
        with computing_once():
            guide_trace = plan.trace(guide, batch, {}, num_particles)
            return PairRun(plan.trace(model, batch, {}, num_particles, replayed=guide_trace), guide_trace)
    with computing_once():
        guide_trace = poutine.trace(guide).get_trace(*batch)
        return PairRun(poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch), guide_trace)


class Drawing(UnconditionMessenger):
    """Makes a draw of what a program observes, as ``poutine.uncondition``, but of the sites that are ``held``."""

    def __init__(self, held: Collection[str] = ()) -> None:
        super().__init__()
        self.held = held

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.held:
            super()._pyro_sample(msg)


def simulate(model: Callable[..., Any], *batch: Any) -> tuple[tuple[Any, ...], Trace]:
    """Draws latents and data from the model: (z, x) ~ p(z) p(x | z). Of the observed arguments only the shape matters.

    Args:
        model: the generative program. It has to observe its arguments as they are, or views of them.
        batch: its arguments; what it does not observe (a label, say) stays.

    Returns:
        ``(new batch, trace)``: the arguments with the data drawn in the place of those given, and the run that drew
        them, with its latents and with its observed sites marked as such.

    Raises:
        ValueError: if what the model observes is not an argument, it has a factor, or it observes nothing.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import pair
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2)
    >>> (x,), trace = pair.simulate(vae.model, torch.zeros(3, 4))
    >>> x.shape, trace.nodes["z"]["value"].shape
    (torch.Size([3, 4]), torch.Size([3, 2]))
    """
    callable_(model=model)
    list(leaves(batch))  # which refuses what holds itself
    # A memory of its own for each argument tells which of them an observed tensor is, or is a view of.
    tensors, structure = flattened(batch)
    for tensor in tensors:
        check_dense(tensor, "an argument of the model")
    given = [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*unflattened(structure, iter(given)))
    found = list(given)
    nodes: Any = trace.nodes
    for name, site in nodes.items():
        observed = was_observed(site)
        if observed is None:
            continue
        site["is_observed"] = True
        if is_deterministic(site):
            continue
        if isinstance(site["fn"], Unit):
            raise ValueError(
                f"{name!r} is a factor, which weighs what the model draws, so that its draws are not of p(x, z). Write "
                "it as a distribution that is drawn or observed, or use what weighs draws of the guide alone: "
                "ReweightedWakeSleep, evidence.importance, evidence.ais."
            )
        index = argument_of(observed, given)
        if index is None:
            raise ValueError(
                f"{name!r} observes a tensor that is no argument of the model, nor a view of one, so what the model "
                "draws cannot be given back to it. Convert the data (dtype, binarization) before they are passed; hide "
                "a site that poutine.condition holds by poutine.block."
            )
        found[index] = put(name, found[index], observed, site["value"])
    if not observed_sites(trace):
        raise ValueError("the model observes nothing when it is given these arguments, so there are no data to draw.")
    return unflattened(structure, iter(found)), trace


def argument_of(observed: Tensor, given: Sequence[Tensor]) -> int | None:
    """Which of some tensors, each with a memory of its own, an observed one is, or is a view of."""
    return next((i for i, value in enumerate(given) if memory(value) == memory(observed)), None)


def put(name: str, argument: Tensor, observed: Tensor, value: Tensor) -> Tensor:
    """The argument with a value in the place of that view of it which the site of this name observes.

    Raises:
        ValueError: if that is of another shape.
    """
    if value.shape != observed.shape:
        raise ValueError(
            f"{name!r} observes data of shape {list(observed.shape)}, and what the model draws has shape "
            f"{list(value.shape)}. Give data of that shape."
        )
    view = observed.size(), observed.stride(), observed.storage_offset()
    return torch.as_strided_scatter(argument, value.to(observed.dtype), *view)
