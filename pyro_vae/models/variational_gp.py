"""The variational Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked, made
from pyro_vae._recipes import Remembered
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense
from pyro_vae.networks import MLP, Centered, applied, at_least_float32, shape_of
from pyro_vae.pair import data_plate, pair_method
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import given

JITTER = 1e-4  # white noise of the process, as a share of its variance: float32 then factors coinciding points
_START = -2.0  # log variances of the process, and of z and f given each other


class VariationalGP(Remembered, PyroModule):
    r"""A Gaussian process as the family of q(z | x): a posterior bent like a ring, say, or of several modes.

    The guide draws a latent input, sends it through a random function that passes near the variational data
    :math:`(s_m, t_m(x))`, m = 1 ... M, and adds noise:

    .. math::
        \xi \sim \mathcal N(0, I), \quad
        f_i \sim \mathcal{GP}(0, k) \mid \{f_i(s_m) = t_{mi}(x)\}, \quad
        z_i \sim \mathcal N(f_i(\xi), \mathrm{scale}_i(x)^2), \qquad
        k(\xi, \xi') = v \, e^{-\frac 1 2 \sum_j (\xi_j - \xi'_j)^2 / l_j^2}

    The lengthscales l, the variance v and the inputs s are parameters, the outputs t and the scale are the encoder's.
    The density of z is not known, so the bound has an auxiliary model r, a diagonal Gaussian whose parameters are a
    network's (inverse mean-field):

    .. math::
        \mathcal L = \mathrm E_q[\log p(x, z) + \log r(\xi, f \mid z, x) - \log q(\xi, f, z \mid x)]

    Here r belongs to the model, which draws xi and f after x: p(x, z) r(xi, f | z, x) has the marginal p(x), so that no
    estimator of its own is needed. SGVB_A is the bound above; IWAE, DReG, importance sampling and AIS bound or estimate
    log p(x) as for any pair; SGVB_B refuses, since the guide draws z last. Near the inputs s the process has little
    variance, so that importance weights may have heavy tails: look at their k-hat, or take AIS.

    With M = 1, v near 0 and long lengthscales, q(z | x) is the diagonal Gaussian N(t(x), scale(x)^2).

    Args:
        event_shape: shape of one datum, for example (1, 28, 28).
        latent_dim: size of z.
        hidden: widths of the hidden layers of the encoder and of r's network; the decoder has them in reverse.
        decoder_hidden: widths of the decoder's hidden layers, where they are others.
        num_inducing: number of variational data, M.
        input_dim: size of xi, by default ``latent_dim``.
        amortized_inputs: whether the encoder gives the inputs s(x) too, for each datum its own. Then the M x M matrix
            of the kernel is factored for each datum.
        activation: class of the non-linearity.
        likelihood: makes p(x | z) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        prior: makes p(z) of ``latent_dim``, a class of :mod:`pyro_vae.priors` or a function. Its support is all of R^D.
        mean: mean of the training data, of shape ``event_shape``. The encoder and r's network then see x - mean, and a
            Bernoulli decoder starts at it.

    Raises:
        ValueError: if a size is below 1, ``mean`` is of another shape, or the guide is run without data.

    Source: Tran, Ranganath & Blei (2015), The Variational Gaussian Process; the auxiliary model: Ranganath, Tran &
    Blei (2015), Hierarchical Variational Models.

    >>> pair = VariationalGP((1, 8, 8), latent_dim=2, hidden=(32,), num_inducing=10)
    >>> pair.model(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 1, 8, 8])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        decoder_hidden: Sequence[int] | None = None,
        num_inducing: int = 20,
        input_dim: int | None = None,
        amortized_inputs: bool = False,
        activation: type[nn.Module] = nn.SiLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        prior: Callable[[int], nn.Module] = StandardNormal,
        mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = shape_of("event_shape", event_shape)
        self.latent_dim = latent_dim
        self.input_dim = latent_dim if input_dim is None else input_dim
        shape_of("num_inducing, input_dim and latent_dim", (num_inducing, self.input_dim, latent_dim))
        columns = latent_dim + self.input_dim if amortized_inputs else latent_dim
        q = MLP(event_shape, num_inducing * columns + latent_dim, hidden, activation)
        r = MLP(self.event_shape.numel() + latent_dim, 2 * (self.input_dim + latent_dim), hidden, activation)
        inputs = 2 * torch.randn(num_inducing, self.input_dim)
        # The map starts as z = xi, whose draws lie in all modes: from a constant they seldom part.
        outputs = torch.zeros(num_inducing, columns)
        outputs[:, :latent_dim] = inputs @ torch.eye(self.input_dim, latent_dim)
        q.start_at(torch.cat([outputs.flatten(), torch.full((latent_dim,), _START)]))
        r.start_at(torch.cat([torch.zeros(2 * self.input_dim + latent_dim), torch.full((latent_dim,), _START)]))
        encoder: nn.Module = q
        auxiliary: nn.Module = r
        if mean is not None:
            encoder = Centered(q, mean)
            auxiliary = Centered(r, torch.cat([mean.flatten(), mean.new_zeros(latent_dim)]))
        dense = Dense(event_shape, latent_dim, hidden, activation, MLP, mean, decoder_hidden)
        p = dense.decoding(likelihood)
        self.prior = made("a prior", prior, latent_dim)
        self.likelihood, self.encoder, self.auxiliary = p, encoder, auxiliary
        self.inputs = nn.Parameter(inputs)
        self.amortized_inputs = amortized_inputs
        self.log_lengthscale = nn.Parameter(torch.full((self.input_dim,), math.log(4 * self.input_dim) / 2))
        self.log_variance = nn.Parameter(torch.tensor(_START))

    @pair_method
    def model(self, x: Tensor | None = None) -> Tensor:
        """z ~ p(z), x ~ p(x | z), and the auxiliary (xi, f) ~ r(xi, f | z, x), for data ``x: [B, *event]``."""
        with data_plate(x):
            z = pyro.sample("z", self.prior())
            x = pyro.sample("x", self.likelihood(z), obs=x)
            xi, f = self.reverse(x, z)
            pyro.sample("xi", xi)
            pyro.sample("f", f)
            return x

    @pair_method
    def guide(self, x: Tensor | None = None) -> Tensor:
        """xi ~ N(0, I), f ~ GP(xi) given the variational data of x, z ~ N(f, scale(x)^2)."""
        x = given(x)
        s, t, scale = self.variational_data(x)
        with data_plate(x):
            xi = pyro.sample("xi", dist.Normal(t.new_zeros(self.input_dim), 1.0).to_event(1))
            f = pyro.sample("f", self.process(xi, s, t))
            return pyro.sample("z", dist.Normal(f, scale).to_event(1))

    def variational_data(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs s ``[M, C]`` (``[B, M, C]`` where amortized), outputs t ``[B, M, D]`` and z's scale ``[B, D]``."""
        output = at_least_float32(applied(self.encoder, x, "VariationalGP"))
        rows = output[..., : -self.latent_dim].unflatten(-1, (len(self.inputs), -1))
        scale = (output[..., -self.latent_dim :] / 2).exp()
        s = self.inputs + rows[..., self.latent_dim :] if self.amortized_inputs else self.inputs
        return s, rows[..., : self.latent_dim], scale

    @checked
    def process(self, xi: Tensor, s: Tensor, t: Tensor) -> Any:
        """The process at ``xi: [*, B, C]``, given that it passes through the variational data."""
        sizes = (len(self.inputs), self.input_dim)
        if xi.shape[-1:] != sizes[1:] or s.shape[-2:] != sizes or t.dim() < 2 or t.shape[-2] != sizes[0]:
            shapes = ", ".join(str(list(part.shape)) for part in (xi, s, t))
            raise ValueError(
                f"xi is [*, B, {sizes[1]}], s {list(sizes)} and t [B, {sizes[0]}, D]; got shapes {shapes}."
            )
        loc, scale = conditional(xi, s, t, self.log_lengthscale.exp(), self.log_variance.exp())
        return dist.Normal(loc, scale[..., None]).to_event(1)

    @checked
    def reverse(self, x: Tensor, z: Tensor) -> tuple[Any, Any]:
        """r(xi | z, x) and r(f | z, x); the network gives the mean of f as seen from z, which is f but for noise."""
        count = len(self.event_shape)
        leadings = zip(reversed(x.shape[:-count]), reversed(z.shape[:-1]), strict=False)
        apart = any(one != other and 1 not in (one, other) for one, other in leadings)
        if apart or x.shape[-count:] != self.event_shape or z.shape[-1:] != (self.latent_dim,):
            raise ValueError(
                f"x is [*, B, {', '.join(map(str, self.event_shape))}] and z [*, B, {self.latent_dim}]; got shapes "
                f"{list(x.shape)} and {list(z.shape)}."
            )
        x = x.flatten(-count).to(z.dtype)
        leading = torch.broadcast_shapes(x.shape[:-1], z.shape[:-1])
        both = torch.cat([x.expand(*leading, -1), z.expand(*leading, -1)], -1)
        loc, log_variance = at_least_float32(self.auxiliary(both)).chunk(2, -1)
        sizes = [self.input_dim, self.latent_dim]
        (xi_loc, f_loc), (xi_scale, f_scale) = loc.split(sizes, -1), (log_variance / 2).exp().split(sizes, -1)
        return dist.Normal(xi_loc, xi_scale).to_event(1), dist.Normal(z + f_loc, f_scale).to_event(1)


def conditional(xi: Tensor, s: Tensor, t: Tensor, lengthscale: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and scale of a zero-mean Gaussian process at a point, given its values at others.

    .. math::
        \mathrm{loc}_i = k_{\xi s} K_{ss}^{-1} t_i, \quad
        \mathrm{scale}^2 = k_{\xi\xi} - k_{\xi s} K_{ss}^{-1} k_{s \xi}

    The kernel is the squared exponential, with white noise of ``JITTER`` times its variance: the process passes near
    its data. It is computed in float32 or better, also under autocast.

    Args:
        xi: the points, ``[*, B, C]``.
        s: where the values are known, ``[M, C]`` or ``[B, M, C]``.
        t: the values, ``[B, M, D]``.
        lengthscale: ``[C]``.
        variance: ``[]``.

    Returns:
        ``(loc, scale)``, ``[*, B, D]`` and ``[*, B]``.

    Source: Rasmussen & Williams (2006), eq. 2.25 and 2.26.
    """
    with torch.autocast(xi.device.type, enabled=False):
        xi, s = xi / lengthscale, s / lengthscale
        identity = torch.eye(s.shape[-2], dtype=s.dtype, device=s.device)
        # cholesky_ex: cholesky would look at its result, which no traced step can
        factor, _ = torch.linalg.cholesky_ex(_correlation(s, s) + JITTER * identity)
        whitened = torch.linalg.solve_triangular(factor, identity, upper=False)
        k = torch.einsum("...m,...nm->...n", _correlation(xi[..., None, :], s).squeeze(-2), whitened)
        loc = torch.einsum("...n,...nd->...d", k, whitened @ t)
        left = (1 + JITTER - k.square().sum(-1)).clamp_min(JITTER)  # never below it but by rounding
        return loc, (variance * left).sqrt()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a - b|^2 / 2) of all pairs, ``[*, P, C]`` and ``[*, M, C] -> [*, P, M]``."""
    return (-0.5 * (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)).exp()
