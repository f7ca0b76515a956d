"""Objectives that are an ELBO and a penalty on the latents' KL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.estimators.base import Draws, Facts, Term, inside
from pyro_vae.estimators.sgvb import SGVB_B
from pyro_vae.estimators.units import kl_by_unit, units
from pyro_vae.pair import data_frame, latent_sites

Groups = Literal["unit", "site"]


class Penalized(SGVB_B):
    """Minus the ELBO, as :class:`SGVB_B` estimates it, plus a penalty; :meth:`bound` stays the ELBO.

    The penalty concerns the latents in the data plate; those outside of it keep their terms of the ELBO.
    """

    @abstractmethod
    def _penalty(self, draws: Draws) -> Tensor:
        """What the loss is above minus the ELBO, in nats per datum."""

    def _loss(self, draws: Draws) -> Tensor:
        elbo = torch.as_tensor(sum(term.weight * term.surrogate.sum() for term in draws.terms)) / self.num_particles
        return self._penalty(draws) * draws.plate.full_size - elbo

    def _value(self, draws: Draws) -> Tensor:
        return -self._loss(draws)

    def _mean_kl(self, draws: Draws, names: set[str] | None = None) -> Tensor:
        """The KL of the latents in the data plate, or of those named: its mean over the batch."""
        plate = draws.plate
        means = [
            -term.sign * self._each_datum(term.surrogate, term.site, plate, 1).mean()
            for term in draws.terms
            if inside(term.site, plate) and _is_latent(term, draws) and (names is None or term.name in names)
        ]
        return torch.stack(means).sum() if means else torch.zeros(())


def _is_latent(term: Term, draws: Draws) -> bool:
    site = draws.model_trace.nodes.get(term.name)
    return site is None or not site["is_observed"]


def local_latents(model_trace: Trace, guide_trace: Trace) -> list[tuple[str, Any, Any]]:
    """``(name, guide's site, model's site)`` of the latents in the data plate, as the guide draws them."""
    plate = data_frame(model_trace)
    in_model = latent_sites(model_trace)
    return [
        (name, site, in_model[name])
        for name, site in latent_sites(guide_trace).items()
        if name in in_model and plate is not None and inside(site, plate)
    ]


class Capacity(Penalized):
    r"""The KL held at a capacity of C nats.

    .. math:: -\frac 1 M \sum_i \mathbb E_q \log p(x_i \mid z) + \gamma \,
              \Big| \frac 1 M \sum_i \mathrm{KL}(q(z \mid x_i) \| p(z)) - C \Big|

    With C rising during training the code takes up one factor of variation after the other. Only
    :func:`pyro_vae.fit` moves a schedule; the number that it has reached stands in the history as ``beta``.

    Args:
        capacity: C, in nats per datum, or its schedule, such as ``Linear(0.0, 25.0, duration=0.5)``.
        gamma: weight of the distance.
        num_particles: Monte Carlo samples of the latents for each datum.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if ``capacity`` or ``gamma`` is negative, beta is given, a schedule meets a loss outside of fit,
            and as :class:`SGVB_B`.

    Source: Burgess et al. (2018), eq. 8.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO); its loss bounds nothing",
        gradient="that of -log p(x | z) + gamma |KL - C|",
        sites="reparameterized; KL sampled where no closed form is known; guide in the model's order",
        cost="L model, 1 guide",
        source="Burgess et al. 2018, eq. 8",
    )
    no_beta = "holds the KL at a capacity"

    def __init__(
        self,
        capacity: float | Tensor | Callable[[Any], float],
        gamma: float = 1000.0,
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        if isinstance(capacity, (int, float)) and not 0 <= capacity < float("inf"):
            raise ValueError(f"capacity is a KL in nats: it is finite and cannot be negative; got {capacity!r}.")
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma weighs the distance from the capacity: it cannot be negative; got {gamma!r}.")
        self.check_beta(options.pop("beta", 1.0) != 1.0)
        super().__init__(num_particles, **options)
        self.beta: Any = capacity  # the number that fit moves
        self.gamma = gamma

    @property
    def capacity(self) -> float | Tensor | Callable[[Any], float]:
        """C, or its schedule."""
        return self.beta

    @property
    def scheduled(self) -> dict[str, Tensor]:
        return {"capacity": torch.zeros(()) if callable(self.capacity) else torch.as_tensor(self.capacity)}

    @property
    def schedules(self) -> dict[str, Any]:
        return {"capacity": self.capacity} if callable(self.capacity) else {}

    def _options(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "gamma": self.gamma, **super()._options()}

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        return [term._replace(beta=1.0) for term in super()._terms(model_trace, guide_trace)]

    def _penalty(self, draws: Draws) -> Tensor:
        if callable(self.capacity):
            raise ValueError(
                f"the capacity is a schedule, {self.capacity!r}, which pyro_vae.fit moves. Elsewhere give a number."
            )
        kl = self._mean_kl(draws)
        return self.gamma * (kl - self.capacity).abs() - kl


class FreeBits(Penalized):
    r"""The KL of each group of latent units, where it is above a threshold.

    .. math:: -\frac 1 M \sum_i \mathbb E_q \log p(x_i \mid z) + \beta \sum_j \max\Big(\lambda,
              \frac 1 M \sum_i \mathrm{KL}(q(z_j \mid x_i) \| p(z_j))\Big)

    A group whose mean KL over the batch is below :math:`\lambda` is not pushed towards the prior.

    Args:
        free_nats: :math:`\lambda`, in nats per group and datum.
        per: ``"unit"`` where each unit of each latent is a group, for which guide and model have to take the units of
            a latent as independent (``Normal(...).to_event(1)``); ``"site"`` where each latent is one.
        num_particles: Monte Carlo samples of the latents for each datum.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if ``free_nats`` is negative, ``per`` is something else, the units of a latent are not independent,
            and as :class:`SGVB_B`.

    Source: Kingma et al. (2016), Improved variational inference with inverse autoregressive flow, appendix.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO); minus its loss lies below the ELBO",
        gradient="the ELBO's, without the KL of groups below the threshold",
        sites="reparameterized; KL sampled where no closed form is known; guide in the model's order",
        cost="L model, 1 guide",
        source="Kingma et al. 2016, free bits",
    )

    def __init__(self, free_nats: float, per: Groups = "unit", num_particles: int = 1, **options: Any) -> None:
        if not 0 <= free_nats < float("inf"):
            raise ValueError(f"free_nats is a KL in nats: it is finite and cannot be negative; got {free_nats!r}.")
        if per not in get_args(Groups):
            raise ValueError(f"per is one of {', '.join(get_args(Groups))}; got {per!r}.")
        super().__init__(num_particles, **options)
        self.free_nats = free_nats
        self.per: Groups = per

    def _options(self) -> dict[str, Any]:
        return {"free_nats": self.free_nats, "per": self.per, **super()._options()}

    def _terms(self, model_trace: Trace, guide_trace: Trace) -> list[Term]:
        if self.per == "unit":
            for name, *sites in local_latents(model_trace, guide_trace):
                for program, site in zip("qp", sites, strict=True):
                    if units(site["fn"]) is None:
                        raise ValueError(
                            f"FreeBits(per='unit') needs latents of independent units, which {program}({name}), "
                            f"{site['fn']}, does not have. Use per='site'."
                        )
        return super()._terms(model_trace, guide_trace)

    def _penalty(self, draws: Draws) -> Tensor:
        groups = self._groups(draws)
        free = torch.stack([kl.clamp(min=self.free_nats).sum() - kl.sum() for kl in groups]) if groups else None
        return torch.zeros(()) if free is None else self.beta * free.sum()

    def _groups(self, draws: Draws) -> list[Tensor]:
        """The mean KL of each group over the batch, in one tensor for each latent."""
        latents = local_latents(draws.model_trace, draws.guide_trace)
        if self.per == "site":
            return [self._mean_kl(draws, {name}) for name, _, _ in latents]
        plate = draws.plate
        share = plate.size / plate.full_size
        found = []
        for _, guide_site, model_site in latents:
            kl = kl_by_unit(guide_site, model_site)
            assert kl is not None
            dims = [plate.dim - 1, *([-self.max_plate_nesting - 1] if self.num_particles > 1 else [])]
            found.append(kl.mean(dims) * share)
        return found


class Balanced(Penalized):
    r"""The KL of each latent weighed by how much of it is used, while beta warms up.

    .. math:: -\frac 1 M \sum_i \mathbb E_q \log p(x_i \mid z) + \beta \sum_{l=1}^L \gamma_l K_l, \qquad
              K_l = \frac 1 M \sum_i \mathrm{KL}(q(z_l \mid x_i, z_{>l}) \| p(z_l \mid z_{>l}))

    For :math:`\beta < 1`

    .. math:: \gamma_l \propto (K_l + 0.01) / s_l, \qquad \frac 1 L \sum_l \gamma_l = 1,

    where :math:`s_l` is the number of units of :math:`z_l`: a latent that holds few nats for its size pays less for
    them than one that holds many, so that none is given up early. No gradient goes through :math:`\gamma`. From
    :math:`\beta = 1` on all :math:`\gamma_l = 1` and the loss is minus the ELBO. It is made for
    ``fit(pair, data, estimator=Balanced(), beta=Linear(duration=0.3))``.

    The paper's appendix says :math:`\gamma_l \propto s_l K_l`; the authors have called that a mistake in print, and
    their code divides (NVlabs/NVAE, issue 26). The code adds 0.01 nats, too, without which a latent that is not used at
    all would have a weight of zero.

    Args:
        num_particles: Monte Carlo samples of the latents for each datum.
        options: as of :class:`SGVB_B`; beta is a tensor or a number, or moved by fit.

    Raises:
        ValueError: as :class:`SGVB_B`.

    Source: Vahdat & Kautz (2020), appendix A; Vahdat et al. (2018), DVAE++, appendix H.
    """

    facts = Facts(
        bounds="log p(x), from below (ELBO); minus its loss from beta = 1 on",
        gradient="the ELBO's, the KL of each latent weighed while beta < 1",
        sites="reparameterized; KL sampled where no closed form is known; guide in the model's order",
        cost="L model, 1 guide",
        source="Vahdat & Kautz 2020, appendix A",
    )

    def _penalty(self, draws: Draws) -> Tensor:
        latents = local_latents(draws.model_trace, draws.guide_trace)
        if not latents:
            return torch.zeros(())
        kl = torch.stack([self._mean_kl(draws, {name}) for name, _, _ in latents])
        sizes = kl.new_tensor([_num_units(site["fn"], draws.plate, self.num_particles) for _, site, _ in latents])
        used = (kl.detach().clamp(min=0) + 0.01) / sizes  # a sampled KL may be negative
        beta = torch.as_tensor(self.beta)
        gamma = torch.where(beta < 1, used / used.mean(), 1.0)
        return beta * ((gamma - 1) * kl).sum()


def _num_units(fn: Any, plate: Any, num_particles: int) -> int:
    """The numbers in one draw of a latent for one datum."""
    return int((fn.batch_shape + fn.event_shape).numel()) // (plate.size * num_particles)
