"""log p(x, z) and log q(z | x) of a pair as functions of one real vector for each datum.

Samplers move in R^D. Each latent site is mapped to its support by Pyro's ``biject_to`` (the identity for a Normal), and
the densities are with respect to the vector u, that is with :math:`\\log |\\partial z / \\partial u|` added. Several
sites (a hierarchy z1, z2) and their events are laid out one after the other. C chains of N data are ``u: [C, N, D]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions.util import sum_rightmost
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_vae.batches import num_rows
from pyro_vae.distributions.particles import Looped, bare
from pyro_vae.pair import latent_sites, observed_sites, programs, random_sites, simulate, support_of
from pyro_vae.pair.gate import (
    NothingUnseen,
    Unweighed,
    check_continuous,
    check_inside,
    check_local,
    check_repeatable,
    check_subsampled,
    refuse,
)
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.trials import reading_problems
from pyro_vae.pair.turns import fork_rng

Start = Literal["prior", "guide"]


class NoDensity(ValueError):
    """The guide draws other latents than the model."""


class Densities(NamedTuple):
    """Log-densities ``[C, N]`` in nats; those of the latents are with respect to u.

    Attributes:
        prior: log p(z).
        likelihood: log p(x | z).
        guide: log q(z | x), where it was asked for.
    """

    prior: Tensor
    likelihood: Tensor
    guide: Tensor | None


class Joint:
    """The densities of a model and a guide at given latents, ``u: [C, N, D]``.

    The model runs once here, so that its latents are known. Every method can be traced by ``make_fx``.

    Args:
        model: z ~ p(z), x ~ p(x | z).
        guide: z ~ q(z | x); needed where it is drawn from or scored.
        batch: arguments of both.
        max_plate_nesting: number of nested plates (the data plate is one) at least; those of the model are counted.

    Attributes:
        shapes: for each latent site the shape of its part of u: of one datum, plates inside the data plate first.
        dim: D.
        observed: see :func:`observed_supports`.
        data_dim: the dimension of :meth:`latents` that is the data's.

    Raises:
        ValueError: if there is no data plate, no latent, or one that is discrete, shared by the data or drawn unseen.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any] | None,
        *batch: Any,
        max_plate_nesting: int = 1,
    ) -> None:
        self._model, self._guide = model, guide
        self._plan = plan_of(model, model, batch, {}, max_plate_nesting)
        self._nesting = self._plan.nesting
        self._guides = self._plan if guide is None else plan_of(guide, guide, batch, {}, self._nesting)
        self.shapes: dict[str, torch.Size] = {}
        with NothingUnseen():
            trace = self._trace(model, 1, *batch)
        size = num_rows(batch)
        check_subsampled("a chain", trace, size=size)
        self._plate: Any = check_local(trace, size=size)
        if self._plate is None:
            raise ValueError(
                "the model has no plate over the data, so its latents cannot be told apart by datum. "
                'Put the sites of a datum inside `with pyro.plate("data", len(x)):`.'
            )
        trace.compute_log_prob()
        dtypes = (site["log_prob"].dtype for site in random_sites(trace).values())
        self._dtype = functools.reduce(torch.promote_types, dtypes)
        for name, site in latent_sites(trace).items():
            check_continuous(name, site["fn"])
        self._batch_dims = 1 + self._nesting  # chains and plates
        self.data_dim = self._batch_dims + self._plate.dim
        self.shapes = {name: self._rows(site).shape[2:] for name, site in latent_sites(trace).items()}
        self.observed = observed_supports(trace)
        self.dim = sum(math.prod(shape) for shape in self.shapes.values())
        if not self.dim:
            raise ValueError("the model has no latent variable: log p(x) is the sum of its observed sites.")

    def densities(self, u: Tensor, *batch: Any, guide: bool = False) -> Densities:
        """The log-densities at ``u: [C, N, D]``; of the guide only if asked.

        Raises:
            ValueError: if the guide has other latents than the model.
        """
        log_jacobians, trace = self._at(u, *batch)
        trace.compute_log_prob()
        log_jacobian = self._sum(log_jacobians.values())
        prior = self._sum(self._share(trace.nodes[name]) for name in self.shapes) + log_jacobian
        likelihood = self._sum(self._share(site) for site in observed_sites(trace).values())
        if not guide:
            return Densities(prior, likelihood.expand_as(prior), None)
        guide_trace = self._guide_trace(len(u), *batch, values=self._values(trace))
        guide_trace.compute_log_prob()
        log_q = self._sum(self._share(guide_trace.nodes[name]) for name in self.shapes) + log_jacobian
        return Densities(prior, likelihood.expand_as(prior), log_q)

    def value_and_grad(self, u: Tensor, *batch: Any) -> tuple[Tensor, Tensor]:
        """log p(x, z) ``[C, N]`` at ``u: [C, N, D]`` and its gradient by u ``[C, N, D]``, both detached."""
        with torch.inference_mode(False), torch.enable_grad():
            u = u.detach().requires_grad_()
            prior, likelihood, _ = self.densities(u, *batch)
            value = prior + likelihood
            return value.detach(), gradient(value, u)

    def latents(self, u: Tensor, *batch: Any) -> dict[str, Tensor]:
        """The latents at ``u: [C, N, D]``, by site: ``[C, *plates, *event]``, the last plate being the data's."""
        return self._values(self._at(u, *batch)[1])

    def unconstrained(self, latents: Mapping[str, Tensor], *batch: Any) -> Tensor:
        """``u: [C, N, D]`` of latents by site, each ``[C, *plates, *event]``; the inverse of :meth:`latents`."""
        num_chains = len(next(iter(latents.values())))
        return self.of(self._trace(self._model, num_chains, *batch, values=latents))

    def of(self, trace: Trace) -> Tensor:
        """``u: [C, N, D]`` of a run of the model; C is 1 if it ran without chains."""
        rows = [self._rows(trace.nodes[name]) for name in self.shapes]
        return torch.cat([row.reshape(*row.shape[:2], -1) for row in rows], -1).to(self._dtype)

    def draw(self, start: Start, num_chains: int, *batch: Any) -> Tensor:
        """``u: [C, N, D]`` drawn from the prior, or from the guide.

        Raises:
            ValueError: if the guide has other latents than the model.
        """
        if start == "prior":
            return self.of(self._trace(self._model, num_chains, *batch))
        return self.unconstrained(self._values(self._guide_trace(num_chains, *batch)), *batch)

    def simulate(self, *batch: Any) -> tuple[tuple[Any, ...], Tensor]:
        """``(batch, u)``: the arguments with data drawn from the model, and the latents of these, ``u: [1, N, D]``.

        Raises:
            ValueError: if what the model observes is no argument, see :func:`pyro_vae.pair.simulate`, or the model
                takes a distribution from it.
        """
        drawn, trace = simulate(self._model, *batch)
        refuse(reading_problems(self._model, trace, batch))
        return drawn, self.of(trace)

    def check_repeatable(self, *batch: Any, guide: bool = False) -> None:
        """Refuses noise of a program that no site shows, see :func:`pyro_vae.pair.gate.check_repeatable`."""
        with fork_rng():
            u = self.draw("guide" if guide else "prior", 1, *batch)
        check_repeatable("model", lambda: self._at(u, *batch)[1])
        if guide:
            values = self._values(self._at(u, *batch)[1])
            check_repeatable("guide", lambda: self._guide_trace(1, *batch, values=values))

    def _trace(self, program: Callable[..., Any], num_chains: int, *batch: Any, **options: Any) -> Trace:
        plan = self._plan if program is self._model else self._guides
        return plan.trace(Unweighed(self.shapes)(program), batch, {}, num_chains, **options)

    def _at(self, u: Tensor, *batch: Any) -> tuple[dict[str, Tensor], Trace]:
        """log |dz / du| of each latent, shaped as its plates, and the run of the model at u."""
        parts, runs = self._parts(u), []

        def at(k: int | None) -> _AtPoint:
            runs.append(_AtPoint(parts if k is None else {name: part[k : k + 1] for name, part in parts.items()}))
            return runs[-1]

        trace = self._trace(self._model, len(u), *batch, inside=at)
        if len(runs) == 1:
            return runs[0].log_jacobian, trace
        layout = Looped(len(u), self._nesting)
        return {name: layout.join([run.log_jacobian[name] for run in runs]) for name in parts}, trace

    def _guide_trace(self, num_chains: int, *batch: Any, values: Mapping[str, Tensor] | None = None) -> Trace:
        """The guide, with its latents at ``values`` if given."""
        if self._guide is None:
            raise ValueError("the guide is asked for, but there is none. Start from the prior: start='prior'.")
        with NothingUnseen() if values else nullcontext():
            trace = self._trace(self._guide, num_chains, *batch, values=values)
        drawn = latent_sites(trace)
        found = [name for name in trace.nodes if name in drawn or name in self.shapes]
        if not set(self.shapes) <= set(found) or (values and set(found) != set(self.shapes)):
            raise NoDensity(
                f"the guide draws {', '.join(found) or 'nothing'} and the model {', '.join(self.shapes)}, so the guide "
                "is no density of the model's latents. Start from the prior: start='prior'."
            )
        check_inside(self._plate, trace)
        return trace

    def _values(self, trace: Trace) -> dict[str, Tensor]:
        nodes: Any = trace.nodes
        return {name: nodes[name]["value"] for name in self.shapes}

    def _parts(self, u: Tensor) -> dict[str, Tensor]:
        """``[C, N, D]`` -> for each site ``[C, *plates, *event]``, unconstrained."""
        parts = u.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {
            name: part.reshape(*u.shape[:2], *shape).movedim(1, self.data_dim)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _rows(self, site: Any) -> Tensor:
        """A site's value, unconstrained: ``[C, N, *other plates, *event]``."""
        u = biject_to(site["fn"].support).inv(site["value"])
        u = u[(None,) * (self._batch_dims - len(site["fn"].batch_shape))]
        return u.movedim(self.data_dim, 1)

    def _share(self, site: Any) -> Tensor:
        """The log-probability of a site without the scale of a subsampling plate."""
        plate = next(frame for frame in site["cond_indep_stack"] if frame.name == self._plate.name)
        return site["log_prob"] * (plate.size / plate.full_size)

    def _sum(self, terms: Iterable[Tensor]) -> Tensor:
        """Terms over the plates -> ``[C, N]``, their sum."""
        total: Any = 0.0
        for term in terms:
            others = [dim for dim in range(1, term.dim()) if dim != term.dim() + self._plate.dim]
            total = total + (term.sum(others) if others else term)
        return torch.as_tensor(total)


class _AtPoint(Messenger):
    """Puts the latents at given unconstrained values, and keeps log |dz / du| of each, shaped as its plates."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.log_jacobian: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        u = self.values.get(msg["name"])
        if u is None:
            return
        transform, plates = biject_to(msg["fn"].support), len(msg["fn"].batch_shape)
        u = bare(u, plates + transform.domain.event_dim)
        msg["value"], msg["done"] = transform(u), True
        log_jacobian = transform.log_abs_det_jacobian(u, msg["value"])
        self.log_jacobian[msg["name"]] = sum_rightmost(log_jacobian, log_jacobian.dim() - plates)


def gradient(value: Tensor, u: Tensor) -> Tensor:
    """The gradient of ``value: [C, N]`` by ``u: [C, N, D]``, each chain by its own; 0 where it does not depend on u.

    >>> import torch
    >>> from pyro_vae.sampling.joint import gradient
    >>> u = torch.ones(4, 3, 2, requires_grad=True)
    >>> gradient(-u.square().sum(-1) / 2, u)[0, 0]
    tensor([-1., -1.])
    """
    if not value.requires_grad:
        return torch.zeros_like(u)
    (found,) = torch.autograd.grad(value.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


class Ends(nn.Module):
    r"""Both ends of a path of densities at u, and their gradients, as one graph.

    .. math:: \log f_\beta = \log f_0 + \beta \, (\log p(x, z) - \log f_0), \quad f_0 = p(z) \text{ or } q(z \mid x)

    ``forward(u, *batch)`` is ``[log f_0, log p(x, z) - log f_0, and the gradients of both by u]``.

    Args:
        pair: the pair.
        joint: its densities.
        start: :math:`f_0`, "prior" or "guide".
    """

    def __init__(self, pair: nn.Module, joint: Joint, start: Start = "prior") -> None:
        super().__init__()
        self.pair, self.joint, self.start = pair, joint, start

    def forward(self, u: Tensor, *batch: Tensor) -> list[Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            u = u.detach().requires_grad_()
            prior, likelihood, guide = self.joint.densities(u, *batch, guide=self.start == "guide")
            if guide is None:
                first, ratio = prior, likelihood
                slopes = gradient(prior, u), gradient(likelihood, u)
            else:
                first, ratio = guide, prior + likelihood - guide
                start = gradient(guide, u)
                slopes = start, gradient(prior + likelihood, u) - start
        return [first.detach(), ratio.detach(), *slopes]


def joint_of(pair: nn.Module, *batch: Any, max_plate_nesting: int = 1) -> Joint:
    """The :class:`Joint` of a pair, with the pair's own parameters.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.sampling.joint import joint_of
    >>> joint = joint_of(pv.models.MLPVAE((4,), latent_dim=2), x := torch.ones(3, 4))
    >>> value, grad = joint.value_and_grad(torch.zeros(5, 3, 2), x)  # five chains
    >>> joint.dim, value.shape, grad.shape
    (2, torch.Size([5, 3]), torch.Size([5, 3, 2]))
    """
    return Joint(*programs(pair), *batch, max_plate_nesting=max_plate_nesting)


def observed_supports(trace: Trace) -> dict[str, Any]:
    """For each observed site the support of one value, or ``None`` where it is not known.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae.sampling.joint import observed_supports
    >>> vae, x = pv.models.MLPVAE((4,), latent_dim=2), torch.ones(3, 4)
    >>> observed_supports(pv.pair.run(vae, x).model_trace)
    {'x': Boolean()}
    """
    return {name: support_of(site["fn"]) for name, site in observed_sites(trace).items()}
