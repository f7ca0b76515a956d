"""Objectives that are an ELBO and a penalty on the latents' KL."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pyro_vae._checks import checked, number, one_of
from pyro_vae.distributions.wrappers import family
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.kl import ClosedForm, aggregate, kl_by_unit, units
from pyro_vae.estimators.run import Number, Run, Site

Groups = Literal["unit", "site"]
Sampling = Literal["stratified", "weighted"]


class Penalized(ClosedForm):
    """Minus the ELBO, with the KL in closed form, plus :meth:`penalty`; :meth:`bound` stays the ELBO.

    The penalty concerns the latents in the data plate; those outside of it keep their terms of the ELBO.
    """

    @abstractmethod
    def penalty(self, run: Run) -> Tensor:
        """What the loss is above minus the ELBO with beta, in nats per datum, differentiable (required).

        Args:
            run: of guide and model; ``run.at`` has the numbers that a schedule may move.
        """

    def _surrogate(self, run: Run) -> Tensor:
        weight = torch.as_tensor(weighed_by_data(run).weight)
        return super()._surrogate(run) - self.penalty(run) * weight.float().mean() * run.plate.full_size

    def _loss(self, run: Run) -> Tensor:
        return -self._surrogate(run)

    def _value(self, run: Run) -> Tensor:
        return self._surrogate(run)


def mean_kl(run: Run, names: set[str] | None = None) -> Tensor:
    """The KL of the latents in the data plate, or of those named: its mean over the batch."""
    weighed = weighed_by_data(run)
    means = [
        -weighed.counted(weighed.weighed(term._replace(beta=1.0), "surrogate", True)).mean()
        / torch.as_tensor(weighed.weight).float().mean()
        for term in run.terms
        if run.inside(term.site) and _is_latent(run, term.site.name) and (names is None or term.site.name in names)
    ]
    return torch.stack(means).sum() if means else torch.zeros(())


def weighed_by_data(run: Run) -> Run:
    """The run in which what scales all of a datum is the datum's weight, by which no KL is multiplied."""
    run = replace(run, linear=False)
    try:
        run.weight  # noqa: B018
    except ValueError:  # sites of a datum are weighed otherwise
        return replace(run, linear=True)
    return run


def _is_latent(run: Run, name: str) -> bool:
    return name not in run.model or not run.model[name].observed


class Capacity(Penalized):
    r"""The KL held at a capacity of C nats.

    .. math:: -\frac 1 M \sum_i \mathbb E_q \log p(x_i \mid z) + \gamma \,
              \Big| \frac 1 M \sum_i \mathrm{KL}(q(z \mid x_i) \| p(z)) - C \Big|

    With C rising during training the code takes up one factor of variation after the other. Only
    :func:`pyro_vae.fit` moves a schedule; the numbers that it has reached stand in the history as ``capacity``.
    A KL without a closed form is that of the draws, which may lie below 0: the distance is then of that number.

    Args:
        capacity: C, in nats per datum, or its schedule, such as ``Linear(0.0, 25.0, duration=0.5)``.
        gamma: weight of the distance.
        num_particles, options: as of :class:`SGVB_B`, but no beta.

    Raises:
        ValueError: if ``capacity`` or ``gamma`` is negative, beta is given, a schedule meets a loss outside of fit,
            and as :class:`SGVB_B`.

    Source: Burgess et al. (2018), eq. 8.
    """

    numbers = ("capacity", "gamma")
    _small = (0.0, 1.0, 3)
    no_beta = "holds the KL at a capacity"
    known = Facts(
        bounds="log p(x), from below (ELBO); its loss bounds nothing",
        gradient="that of -log p(x | z) + gamma |KL - C|",
    )

    @checked(but=("num_particles",))
    def __init__(
        self,
        capacity: float | Tensor | Callable[[Any], float],
        gamma: float = 1000.0,
        num_particles: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(num_particles, **options)
        self.capacity, self.gamma = capacity, gamma
        if not callable(capacity):
            self.check_scheduled("capacity", capacity)
        self.check_scheduled("gamma", gamma)

    def penalty(self, run: Run) -> Tensor:
        capacity = run.at["capacity"]
        if callable(capacity):
            raise ValueError(
                f"the capacity is a schedule, {capacity!r}, which pyro_vae.fit moves. Elsewhere give a number."
            )
        kl = mean_kl(run)
        return run.at["gamma"] * (kl - capacity).abs() - kl


class FreeBits(Penalized):
    r"""The KL of each group of latent units, where it is above a threshold.

    .. math:: -\frac 1 M \sum_i \mathbb E_q \log p(x_i \mid z) + \beta \sum_j \max\Big(\lambda,
              \frac 1 M \sum_i \mathrm{KL}(q(z_j \mid x_i) \| p(z_j))\Big)

    A group whose mean KL over the batch is below :math:`\lambda` is not pushed towards the prior. A KL without a
    closed form is that of the draws, which may lie below 0 and then counts as :math:`\lambda`.

    Args:
        free_nats: :math:`\lambda`, in nats per group and datum.
        per: ``"unit"`` where each unit of each latent is a group, for which guide and model have to take the units of
            a latent as independent (``Normal(...).to_event(1)``); ``"site"`` where each latent is one.
        num_particles, options: as of :class:`SGVB_B`.

    Raises:
        ValueError: if ``free_nats`` is negative, ``per`` is something else, the units of a latent are not independent,
            and as :class:`SGVB_B`.

    Source: Kingma et al. (2016), Improved variational inference with inverse autoregressive flow, appendix.
    """

    numbers = ("beta", "free_nats")
    _small = (0.0, "unit", 3)
    known = Facts(
        bounds="log p(x), from below (ELBO); minus its loss lies below the ELBO",
        gradient="the ELBO's, without the KL of groups below the threshold",
    )

    @checked(but=("num_particles",))
    def __init__(self, free_nats: float, per: Groups = "unit", num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, **options)
        self.check_scheduled("free_nats", free_nats)
        self.free_nats = free_nats
        self.per: Groups = per

    def _check(self, run: Run) -> None:
        super()._check(run)
        for name, *sites in run.local_latents if self.per == "unit" else ():
            for program, site in zip("qp", sites, strict=True):
                if units(site.fn) is None:
                    raise ValueError(
                        f"FreeBits(per='unit') needs latents of independent units, which {program}({name}), "
                        f"{site.fn}, does not have. Use per='site'."
                    )

    def penalty(self, run: Run) -> Tensor:
        groups, free_nats = self._groups(run), run.at["free_nats"]
        free = [kl.clamp(min=free_nats).sum() - kl.sum() for kl in groups]
        return run.at["beta"] * torch.stack(free).sum() if free else torch.zeros(())

    def _groups(self, run: Run) -> list[Tensor]:
        """The mean KL of each group over the batch, in one tensor for each latent."""
        if self.per == "site":
            return [mean_kl(run, {name}) for name, _, _ in run.local_latents]
        dims = [run.plate.dim - 1, *([-run.nesting - 1] if run.num_particles > 1 else [])]
        found, weighed = [], weighed_by_data(run)
        for _, site, model_site in run.local_latents:
            kl = kl_by_unit(site.fn, model_site.fn, site.value, site.scale * weighed.tempering(site), site.mask)
            assert kl is not None
            found.append(kl.mean(dims) * run.share)
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
        num_particles, options: as of :class:`SGVB_B`, and what it raises too.

    Source: Vahdat & Kautz (2020), appendix A; Vahdat et al. (2018), DVAE++, appendix H.
    """

    known = Facts(
        bounds="log p(x), from below (ELBO); minus its loss from beta = 1 on",
        gradient="the ELBO's, the KL of each latent weighed while beta < 1",
    )

    def penalty(self, run: Run) -> Tensor:
        latents = run.local_latents
        if not latents:
            return torch.zeros(())
        kl = torch.stack([mean_kl(run, {name}) for name, _, _ in latents])
        sizes = kl.new_tensor([_num_units(run, site) for _, site, _ in latents])
        used = (kl.detach().clamp(min=0) + 0.01) / sizes  # a sampled KL may be negative
        beta = torch.as_tensor(run.at["beta"])
        gamma = torch.where(beta < 1, used / used.mean(), 1.0)
        return beta * ((gamma - 1) * kl).sum()


def _num_units(run: Run, site: Site) -> int:
    """The numbers in one draw of a latent for one datum."""
    return int((site.fn.batch_shape + site.fn.event_shape).numel()) // (run.plate.size * run.num_particles)


class Parts(NamedTuple):
    """Samples of the three parts of a KL, ``[B, *particles]``, in nats; they sum to log q(z | x) - log p(z)."""

    index_code_mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


class TCVAE(Penalized):
    r"""The KL as mutual information, total correlation and KL of each unit, with a weight each.

    .. math:: \mathbb E_x \mathrm{KL}(q(z \mid x) \| p(z)) =
              \underbrace{\mathrm{KL}(q(z, x) \| q(z) q(x))}_{\alpha} +
              \underbrace{\mathrm{KL}\Big(q(z) \Big\| \prod_j q(z_j)\Big)}_{\beta} +
              \underbrace{\sum_j \mathrm{KL}(q(z_j) \| p(z_j))}_{\gamma}

    where :math:`q(z) = \frac 1 N \sum_n q(z \mid x_n)` over the N training data. From a batch of M data it is estimated
    by weights of the batch's posteriors,

    - ``"stratified"``: 1/N for the datum of the draw, and (N - 1) / (N (M - 1)) for each other one. Free of bias for
      q(z), and exact where the batch is all the data. It is the estimator of appendix C.2, averaged over the order of
      the batch;
    - ``"weighted"``: 1 / (N M) for all of them (eq. 3), biased; the published experiments use it.

    The parts sum to the KL whatever the estimate of q(z), so the KL is taken in closed form where one is known, and
    only :math:`(\alpha - 1)`, :math:`(\beta - 1)` and :math:`(\gamma - 1)` times the parts are sampled.

    Where there are several latents, the first that the guide draws in the data plate is taken apart, as its
    distribution depends on x alone; the others keep their terms of the ELBO. N is ``num_data``, which
    :func:`pyro_vae.fit` sets. ``fit(beta=...)`` moves the weight of the total correlation. A ``poutine.scale`` or
    ``poutine.mask`` at the latent does not reach the parts.

    Args:
        alpha: weight of the mutual information of code and datum.
        beta: weight of the total correlation.
        gamma: weight of the units' KL.
        sampling: how q(z) is estimated, see above.
        num_particles, options: as of :class:`SGVB_B`.

    Raises:
        ValueError: if a weight is negative, ``sampling`` is something else, the units of q(z | x) are not independent,
            the latent stands in a plate within the data plate, and as :class:`SGVB_B`.

    Source: Chen, Li, Grosse & Duvenaud (2018), eq. 2 to 4, appendix C.
    """

    numbers = ("alpha", "beta", "gamma")
    needs_support = True
    _small = (1.0, 1.0, 1.0, 3)
    known = Facts(
        bounds="log p(x), from below (ELBO); its loss bounds nothing",
        gradient="that of the weighted parts, with q(z) estimated from the batch",
        sites="reparameterized, of independent units in the guide; guide in the model's order",
        cost="L model, 1 guide; L M densities of a code",
    )

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float | Tensor = 6.0,
        gamma: float = 1.0,
        num_particles: int = 1,
        *,
        sampling: Sampling = "stratified",
        **options: Any,
    ) -> None:
        one_of(get_args(Sampling), sampling=sampling)
        number(0, alpha=alpha, gamma=gamma)
        super().__init__(num_particles, beta=beta, **options)
        self.alpha, self.gamma = alpha, gamma
        self.sampling: Sampling = sampling

    def _check(self, run: Run) -> None:
        super()._check(run)
        for name, site, _ in run.local_latents[:1]:
            if units(site.fn) is None:
                raise ValueError(
                    f"TCVAE takes each unit of q({name}) by itself, but it is a {family(site.fn)}, whose units are "
                    "not independent. Use a guide such as DiagonalNormal, or SGVB_B."
                )
            within = run.plates(site)
            if within != [run.plate.name]:
                raise ValueError(
                    f"TCVAE takes the code of a datum apart, but {name!r} stands in the plates {', '.join(within)}. "
                    "Draw it at once, with to_event in place of the inner plate."
                )

    def _weight(self, run: Run, kind: str, site: Site) -> Number:
        return 1.0

    def penalty(self, run: Run) -> Tensor:
        if not run.local_latents:
            return torch.zeros(())
        weights = (run.at[name] - 1 for name in self.numbers)
        return torch.stack([weight * part.mean() for weight, part in zip(weights, self.parts(run), strict=True)]).sum()

    def parts(self, run: Run) -> Parts:
        """The three parts of the KL of the first latent, at the draws of a run."""
        plate = run.plate
        _, site, model_site = run.local_latents[0]
        q, z = units(site.fn), site.value
        assert q is not None
        num_events = len(site.fn.event_shape)
        dim = plate.dim - num_events
        # The datum of the draw becomes the first dimension; those of the posteriors, and the units, the last two.
        log_q = q.log_prob(z.movedim(dim, 0).unsqueeze(dim))
        log_q = (log_q.flatten(-num_events) if num_events else log_q.unsqueeze(-1)).movedim(plate.dim - 1, -2)
        # Held-out data have a q(z) of their own.
        num_data = plate.full_size if run.num_data == math.inf else max(run.num_data, plate.size)
        log_weights = log_mixture(log_q, plate.size, num_data, self.sampling)
        joint, single = aggregate(log_q, log_weights.unflatten(0, (-1, *[1] * (log_q.dim() - 3))))
        product = single.sum(-1)
        log_posterior, log_prior = (s.density.movedim(plate.dim, 0) for s in (site, model_site))
        return Parts(log_posterior - joint, joint - product, product - log_prior)


def log_mixture(like: Tensor, size: int, num_data: float, sampling: Sampling) -> Tensor:
    """``[M, M]``: log-weight in q(z) of each posterior of a batch of M, at the draw of each datum."""
    if sampling == "weighted":
        return like.new_full((size, size), -math.log(num_data * size))
    others = math.log((num_data - 1) / (num_data * (size - 1))) if size > 1 else 0.0
    own = torch.eye(size, dtype=torch.bool, device=like.device)
    return torch.where(own, like.new_full((), -math.log(num_data)), like.new_full((), others))
