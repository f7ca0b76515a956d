"""What a linear VAE comes to, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._checks import checked, number, whole


@dataclass(frozen=True)
class LinearOptimum:
    r"""The best linear VAE, as :func:`linear_vae_optimum` gives it; numbers in nats per datum.

    Attributes:
        num_active: latent units that are used, K.
        code_variances: ``[latent_dim]``, Var_x(E[z_d | x]), as :func:`~pyro_vae.diagnostics.active_units` estimates
            it: :math:`1 - \beta s^2 / \lambda_d`, and 0 where a unit is not used. The order of trained units is free.
        rate: mean KL(q(z | x) || p(z)).
        distortion: mean of -log p(x | z).
        bound: the ELBO, minus rate and distortion.
        objective: the ELBO with beta, which is maximized.
        log_likelihood: mean of log p(x).
    """

    num_active: int
    code_variances: Tensor
    rate: float
    distortion: float
    bound: float
    objective: float
    log_likelihood: float


@checked(but=("latent_dim", "scale", "beta"))
def linear_vae_optimum(eigenvalues: Tensor, latent_dim: int, scale: float = 1.0, beta: float = 1.0) -> LinearOptimum:
    r"""The maximum of the ELBO with beta over W, b and a diagonal Gaussian posterior linear in x, for

    .. math:: z \sim \mathcal N(0, I), \quad x \mid z \sim \mathcal N(W z + b, s^2 I)

    Divided by beta, the objective is the ELBO of the same model with noise :math:`\beta s^2` in place of :math:`s^2`,
    up to a constant. So the optimum is that of probabilistic PCA with this noise. Of the ``latent_dim`` largest
    eigenvalues of the data's covariance each with :math:`\lambda_i > \beta s^2` has a unit, whose column of W has the
    length :math:`\sqrt{\lambda_i - \beta s^2}`; the other columns are zero, and their units collapse. The columns are
    orthogonal, so a diagonal posterior is exact under the noise :math:`\beta s^2`. The rate is
    :math:`\frac 1 2 \sum_i \log \lambda_i / \beta s^2`, that of the Gaussian rate-distortion function.

    Args:
        eigenvalues: ``[D]`` of the data's covariance, in any order.
        latent_dim: number of latent units.
        scale: s, which is fixed.
        beta: weight of the KL.

    Raises:
        ValueError: if an eigenvalue is negative, ``scale`` or ``beta`` is not positive, or ``latent_dim`` is below 1.

    Source: Tipping & Bishop (1999); Lucas, Tucker, Grosse & Norouzi (2019), Don't blame the ELBO! (beta = 1).

    >>> import torch
    >>> from pyro_vae.diagnostics import linear_vae_optimum
    >>> optimum = linear_vae_optimum(torch.tensor([9.0, 4.0, 0.5]), latent_dim=3)
    >>> optimum.num_active, round(optimum.rate, 4)  # log(9) / 2 + log(4) / 2
    (2, 1.7918)
    """
    whole(1, latent_dim=latent_dim)
    if eigenvalues.dim() != 1 or not len(eigenvalues) or not bool((eigenvalues >= 0).all()):
        raise ValueError(f"eigenvalues are those of a covariance: [D], none negative; got {eigenvalues}.")
    number(above=0, scale=scale, beta=beta)
    number(1e-100, 1e100, scale=scale, beta=beta)  # whose squares and quotients a float64 holds
    scale, beta = float(scale), float(beta)
    values = eigenvalues.detach().double().cpu().sort(descending=True).values
    size, noise = len(values), beta * scale**2
    num_active = int((values[:latent_dim] > noise).sum())
    active, rest = values[:num_active], values[num_active:]
    rate = (active / noise).log().sum().item() / 2
    square = num_active * noise + rest.sum().item()  # E|x - W z - b|^2
    distortion = size / 2 * math.log(2 * math.pi * scale**2) + square / (2 * scale**2)
    covariance = torch.cat([active - noise + scale**2, torch.full_like(rest, scale**2)])  # of the model, by eigenvalue
    log_likelihood = -0.5 * (size * math.log(2 * math.pi) + (covariance.log() + values / covariance).sum().item())
    code_variances = torch.zeros(latent_dim, dtype=torch.float64)
    code_variances[:num_active] = 1 - noise / active
    bound = -rate - distortion
    return LinearOptimum(num_active, code_variances, rate, distortion, bound, -beta * rate - distortion, log_likelihood)
