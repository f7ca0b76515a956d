"""The published estimators by their names: each a bound and a gradient, or a class of its own."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae._checks import checked, number, whole
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import ImportanceWeighted, Mean, Mixture, RenyiBound
from pyro_vae.estimators.enumeration import Enumeration
from pyro_vae.estimators.facts import Facts
from pyro_vae.estimators.gradients import (
    Baseline,
    DoublyReparameterized,
    Gradient,
    LeaveOneOut,
    Score,
    Split,
    StickingTheLanding,
)
from pyro_vae.estimators.kl import ClosedForm
from pyro_vae.estimators.objectives import MonteCarloEM, Phase, Phases, WakeSleep
from pyro_vae.estimators.penalties import TCVAE, Balanced, Capacity, FreeBits
from pyro_vae.estimators.run import Number, Run, Site
from pyro_vae.pair import as_pair, evaluating, latent_sites
from pyro_vae.pair import run as run_pair
from pyro_vae.pair.arguments import converted
from pyro_vae.pair.structure import common_latents
from pyro_vae.pair.turns import fork_rng

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "SGVB_A",
    "SGVB_B",
    "TCVAE",
    "VIMCO",
    "Annealed",
    "Balanced",
    "Capacity",
    "DReG",
    "Enumeration",
    "FreeBits",
    "MonteCarloEM",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "WakeSleep",
]


class SGVB_A(Estimator):
    r"""SGVB-A: every term sampled; Pyro's ``Trace_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^A(x) = \frac 1 L \sum_l \log p(x \mid z_l) - \beta \,
              [\log q(z_l \mid x) - \log p(z_l)]

    Works for every pair; a guide that cannot be reparameterized is differentiated by the score function (better:
    :class:`ScoreFunction`). Latents may stand outside the data plate.

    Args:
        num_particles: Monte Carlo samples of the latents for each datum, L.
        sticking_the_landing: leave out of the gradient of log q(z | x) its score, whose expectation is zero (Roeder
            et al. 2017): at the exact posterior the guide's gradient then has no variance. A guide of several latents
            is run once more for it, and must not draw other noise (dropout) than its latents.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a count is below 1, or ``beta`` is negative.

    Source: Kingma & Welling (2013), eq. 6.
    """

    @checked(but=("num_particles",))
    def __init__(self, num_particles: int = 1, *, sticking_the_landing: bool = False, **options: Any) -> None:
        super().__init__(Mean(), StickingTheLanding() if sticking_the_landing else Score(), num_particles, **options)
        self.sticking_the_landing = sticking_the_landing


class SGVB_B(ClosedForm):
    r"""SGVB-B: the KL in closed form; Pyro's ``TraceMeanField_ELBO`` (same value and gradient at the same seed).

    .. math:: \tilde{\mathcal L}^B(x) = -\beta \, \mathrm{KL}(q(z \mid x) \| p(z)) + \frac 1 L \sum_l \log p(x \mid z_l)

    Where no closed form is registered a site falls back to sampling, which is said once in a warning. The closed form
    needs reparameterized latents, and a guide that draws them in the model's order. ``sticking_the_landing`` acts on
    the sites that are sampled: a KL in closed form has no score to leave out. The arguments are those of
    :class:`SGVB_A`.

    Args:
        num_particles, sticking_the_landing, options: see :class:`SGVB_A`.

    Raises:
        ValueError: if a latent cannot be reparameterized, or guide and model draw the latents in different orders.

    Source: Kingma & Welling (2013), eq. 7.
    """


class Annealed(SGVB_A):
    r"""SGVB-A with beta as an inverse temperature of the joint density.

    .. math:: \mathcal L_\beta = \beta \log p(x, z) - \log q(z \mid x)

    Elsewhere beta weighs the latents' terms, :math:`\log p(x \mid z) - \beta \, [\log q(z \mid x) - \log p(z)]`; here
    it weighs the model's terms, likelihood and prior alike. Divided by beta this is an entropy of weight
    :math:`1 / \beta`: at a small beta the guide is drawn to be wide. ``fit(pair, data, estimator=Annealed(),
    beta=Linear(0.01, steps=9_900))`` is the schedule of the paper, :math:`\beta_t = \min(1, 0.01 + t / 10\,000)`.

    Args:
        num_particles, sticking_the_landing, options: see :class:`SGVB_A`.

    Source: Rezende & Mohamed (2015), eq. 20.
    """

    known = Facts(gradient="that of beta log p(x, z) - log q(z | x)")

    def _weight(self, run: Run, kind: str, site: Site) -> Number:
        return run.at["beta"] if kind == "log_p" else 1.0


class IWAE(Estimator):
    r"""The importance-weighted bound.

    .. math:: \mathcal L_K(x) = \log \frac 1 K \sum_{k=1}^K w_k, \quad
              w_k = \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    In expectation it rises with K towards log p(x). The signal-to-noise ratio of the guide's gradient falls as
    :math:`1 / \sqrt K` (Rainforth et al. 2018); :class:`DReG` has the same expectation without that.

    Args:
        num_particles: importance samples for each datum, K.
        gradient: in place of the pathwise one, such as ``DoublyReparameterized()`` (:class:`DReG`) or
            ``LeaveOneOut()`` (:class:`VIMCO`) of :mod:`pyro_vae.estimators`.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if a count is below 1, a latent cannot be reparameterized, or a random variable stands outside the
            data plate.

    Source: Burda, Grosse & Salakhutdinov (2015), eq. 8.
    """

    def __init__(self, num_particles: int = 1, *, gradient: Gradient | None = None, **options: Any) -> None:
        super().__init__(ImportanceWeighted(), gradient, num_particles, **options)


class DReG(IWAE):
    r"""The importance-weighted bound with the doubly reparameterized gradient of the guide.

    .. math:: \nabla_\phi \mathcal L_K = \sum_k \tilde w_k^2 \,
              \frac{\partial \log w_k}{\partial z_k} \nabla_\phi z_k, \quad
              \nabla_\theta \mathcal L_K = \sum_k \tilde w_k \nabla_\theta \log p(x, z_k), \quad
              \tilde w_k = w_k / \textstyle\sum_j w_j

    Value and expected gradient are those of :class:`IWAE`; the signal-to-noise ratio of the guide's gradient rises
    with K. At K = 1 it is sticking the landing. See :class:`~pyro_vae.estimators.DoublyReparameterized`, also for beta,
    for what it asks of the guide, and for other bounds.

    Args:
        num_particles: importance samples for each datum, K.
        options: see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: as :class:`IWAE`, and if a distribution cannot score a given value, as Pyro's planar flow cannot.

    Source: Tucker, Lawson, Gu & Maddison (2019).
    """

    def __init__(self, num_particles: int = 1, **options: Any) -> None:
        super().__init__(num_particles, gradient=DoublyReparameterized(), **options)


class Renyi(Estimator):
    r"""The variational Renyi bound.

    .. math:: \mathcal L_{\alpha, K}(x) = \frac{1}{1 - \alpha} \log \frac 1 K \sum_{k=1}^K w_k^{1 - \alpha}

    At alpha = 0 it is :class:`IWAE`, and in the limit alpha -> 1 the ELBO. For alpha >= 0 it is a lower bound of
    log p(x), at any K. For alpha < 0 the limit of large K lies above log p(x), but the estimate falls short of it
    at a finite K, so that it bounds neither side.

    Args:
        alpha: order, of either sign, not 1.
        num_particles: importance samples for each datum, K.
        gradient, options: as of :class:`IWAE`.

    Raises:
        ValueError: if alpha is 1 or not finite, and as :class:`IWAE`.

    Source: Li & Turner (2016).
    """

    _small = (0.5, 3)

    @checked(but=("num_particles", "gradient"))
    def __init__(
        self, alpha: float, num_particles: int = 1, *, gradient: Gradient | None = None, **options: Any
    ) -> None:
        super().__init__(RenyiBound(alpha), gradient, num_particles, **options)
        self.alpha = alpha


class MIWAE(Estimator):
    r"""The mean of M importance-weighted bounds of K samples each.

    .. math:: \mathcal L_{M,K}(x) = \frac 1 M \sum_{m=1}^M \log \frac 1 K \sum_{k=1}^K w_{m,k}

    (The VAE of missing data that is called MIWAE too, of Mattei & Frellsen 2019, is
    :class:`pyro_vae.models.IncompleteVAE`.)

    Args:
        num_groups: M.
        samples_per_group: K.
        gradient, options: as of :class:`IWAE`, and what it raises too.

    Source: Rainforth et al. (2018).
    """

    _small = (2, 3)

    def __init__(
        self, num_groups: int, samples_per_group: int, *, gradient: Gradient | None = None, **options: Any
    ) -> None:
        whole(1, num_groups=num_groups, samples_per_group=samples_per_group)
        super().__init__(ImportanceWeighted(num_groups), gradient, num_groups * samples_per_group, **options)
        self.num_groups, self.samples_per_group = num_groups, samples_per_group


class CIWAE(Estimator):
    r"""A convex combination of the ELBO and the importance-weighted bound.

    .. math:: \mathcal L(x) = \beta \, \frac 1 K \sum_k \log w_k + (1 - \beta) \log \frac 1 K \sum_k w_k

    Args:
        elbo_weight: the weight of the ELBO, beta in the paper, from 0 (IWAE) to 1 (ELBO). (The option ``beta`` is that
            of all estimators: the weight of the latents' terms.)
        num_particles: importance samples for each datum, K.
        gradient, options: as of :class:`IWAE`.

    Raises:
        ValueError: if the weight is outside of [0, 1], and as :class:`IWAE`.

    Source: Rainforth et al. (2018).
    """

    known = Facts(bounds="log p(x), from below; between the ELBO and IWAE(K)")
    _small = (0.3, 3)

    def __init__(
        self, elbo_weight: float, num_particles: int = 1, *, gradient: Gradient | None = None, **options: Any
    ) -> None:
        number(0, 1, elbo_weight=elbo_weight)
        super().__init__(Mixture(elbo_weight), gradient, num_particles, **options)
        self.elbo_weight = elbo_weight


class PIWAE(Estimator):
    r"""The model learns by the bound of all M K samples, the guide by the mean of M bounds of K samples.

    .. math:: \nabla_\theta \log \frac{1}{M K} \sum_{m,k} w_{m,k}, \quad
              \nabla_\phi \frac 1 M \sum_m \log \frac 1 K \sum_k w_{m,k}

    Its value is the first of the two, :class:`IWAE` with M K samples.

    Args:
        num_groups: M.
        samples_per_group: K.
        options: as of :class:`IWAE`, and what it raises too.

    Source: Rainforth et al. (2018).
    """

    known = Facts(
        bounds="log p(x), from below; that of IWAE(M K)",
        gradient="model: IWAE(M K)'s; guide: MIWAE(M, K)'s",
        cost="M K model (backward twice), 1 guide",
    )
    _small = (2, 3)

    def __init__(self, num_groups: int, samples_per_group: int, **options: Any) -> None:
        whole(1, num_groups=num_groups, samples_per_group=samples_per_group)
        gradient = Split(ImportanceWeighted(num_groups))
        super().__init__(ImportanceWeighted(), gradient, num_groups * samples_per_group, **options)
        self.num_groups, self.samples_per_group = num_groups, samples_per_group


class ScoreFunction(Estimator):
    r"""The ELBO with the score-function gradient, and a baseline that lowers its variance.

    .. math:: \nabla_\phi \mathcal L = \mathbb E_q\left[(\log w - b) \, \nabla_\phi \log q(z \mid x)\right], \quad
              \log w = \log p(x, z) - \log q(z \mid x)

    A baseline b is free of bias as long as it does not depend on the draw itself:

    - ``"leave_one_out"``: the mean of log w over the other particles of the datum (VarGrad, RLOO);
    - ``"batch"``: the mean of log w over the other data of the batch;
    - ``"auto"``: the first with several particles, else the second; ``"none"``: SGVB_A.

    Latents that can be reparameterized are, unless ``pathwise`` is False.

    Args:
        num_particles: Monte Carlo samples of the latents for each datum.
        baseline: see above.
        pathwise: whether latents that can be reparameterized are differentiated that way.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if the baseline is something else, or leaves out the only particle; without ``pathwise`` also if a
            distribution cannot score a given value, as Pyro's planar flow cannot.

    Source: Paisley, Blei & Jordan (2012); Mnih & Gregor (2014); leave-one-out: Kool et al. (2019), Richter et al.
    (2020).
    """

    known = Facts(sites="any")

    @checked(but=("num_particles",))
    def __init__(
        self, num_particles: int = 1, *, baseline: Baseline = "auto", pathwise: bool = True, **options: Any
    ) -> None:
        if options.pop("sticking_the_landing", False):
            raise ValueError("sticking the landing leaves out the score that ScoreFunction is made of; use SGVB_A.")
        super().__init__(Mean(), Score(baseline, pathwise), num_particles, **options)
        self.baseline, self.pathwise = baseline, pathwise


class VIMCO(Estimator):
    r"""The importance-weighted bound for latents that cannot be reparameterized.

    .. math:: \nabla_\phi \mathcal L_K = \sum_k (\mathcal L_K - \mathcal L_{-k}) \nabla_\phi \log q(z_k \mid x)
              + \sum_k \tilde w_k \nabla \log w_k

    where :math:`\mathcal L_{-k}` has the geometric mean of the other weights in place of :math:`w_k`. Latents that can
    be reparameterized take the pathwise gradient. Of other bounds: ``MIWAE(M, K, gradient=LeaveOneOut())``.

    Args:
        num_particles: importance samples for each datum, K, at least 2.
        options: beta, max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`.

    Raises:
        ValueError: if K is below 2, or a random variable stands outside the data plate.

    Source: Mnih & Rezende (2016).
    """

    def __init__(self, num_particles: int, **options: Any) -> None:
        whole(2, num_particles=num_particles)
        super().__init__(ImportanceWeighted(), LeaveOneOut(), num_particles, **options)


class ReweightedWakeSleep(Estimator):
    r"""Reweighted wake-sleep, with weights for each datum.

    .. math:: \text{model:} \; \sum_k \tilde w_k \nabla_\theta \log p(x, z_k), \quad
              \text{wake guide:} \; \sum_k \tilde w_k \nabla_\phi \log q(z_k \mid x), \quad
              \text{sleep guide:} \; \nabla_\phi \, \mathbb E_{p(x, z)} \log q(z \mid x)

    with :math:`\tilde w_k = w_k / \sum_j w_j`. The value is the bound of :class:`IWAE`. The model's gradient is IWAE's,
    too, but for a latent that the model alone has: its draws, which are from the prior, are taken as fixed. Latents may
    be discrete. Parameters that guide and model share, as of a ladder, follow the sum of both gradients,
    which is neither.

    Args:
        num_particles: importance samples for each datum, K, at least 2 (with one the weights are constant).
        guide: how the guide learns: ``"wake"``, ``"sleep"``, or ``"both"``, their mean.
        options: max_plate_nesting and num_data, see :class:`~pyro_vae.estimators.Estimator`; no beta.

    Raises:
        ValueError: if K is below 2, ``guide`` is something else, and as :class:`WakeSleep`.

    Source: Bornschein & Bengio (2015); the names of Le et al. (2019).
    """

    known = Facts(
        bounds="log p(x), from below; that of IWAE(K)",
        gradient="model: IWAE(K)'s; guide: minus KL(p(z|x) || q(z|x)), wake: biased by 1/K, sleep: over dreams",
        cost="K model, 1 guide; asleep 1 and 1 more",
    )

    @checked(but=("num_particles",))
    def __init__(self, num_particles: int, *, guide: Phase = "wake", **options: Any) -> None:
        whole(2, num_particles=num_particles)
        super().__init__(ImportanceWeighted(), Phases(guide), num_particles, **options)
        self.guide = guide


@checked
def elbo_of(pair: Any, *batch: Any) -> Estimator:
    """The ELBO that is taken where none is asked for.

    ``SGVB_B()``, or ``SGVB_A()`` where guide and model draw the latents in different orders.

    >>> import torch, pyro_vae as pv
    >>> from pyro_vae import estimators
    >>> type(estimators.elbo_of(pv.models.MLPVAE((4,), latent_dim=2), torch.ones(3, 4))).__name__
    'SGVB_B'
    """
    module = as_pair(pair)
    with evaluating(module), torch.no_grad(), fork_rng():
        in_model, in_guide = common_latents(*map(latent_sites, run_pair(module, *converted(module, batch))))
    return SGVB_B() if in_model == in_guide else SGVB_A()


# In the order of the table of facts.
ESTIMATORS: tuple[type[Estimator], ...] = (
    SGVB_A,
    SGVB_B,
    Annealed,
    Capacity,
    FreeBits,
    Balanced,
    TCVAE,
    IWAE,
    DReG,
    Renyi,
    MIWAE,
    CIWAE,
    PIWAE,
    ScoreFunction,
    VIMCO,
    Enumeration,
    WakeSleep,
    ReweightedWakeSleep,
    MonteCarloEM,
)
