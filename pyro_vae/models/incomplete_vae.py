"""The VAE of data with missing values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked, is_dense, made, one_of, shown
from pyro_vae._recipes import Remembered
from pyro_vae.distributions.incomplete import observing
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import Dense
from pyro_vae.networks import MLP, applied, at_least_float32, shape_of
from pyro_vae.networks.shapes import check_has_values
from pyro_vae.pair import data_plate, once, pair_method
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import distribution_of, given

Imputation = Literal["fixed", "learned"]


class IncompleteVAE(Remembered, PyroModule):
    r"""One latent, and data of which each datum lacks some entries: MIWAE, and with ``missingness`` not-MIWAE.

    .. math::
        z \sim p(z), \quad x \sim p(x \mid z) = \prod_d p(x_d \mid z), \qquad
        z \sim q(z \mid x_\mathrm{obs})

    Arguments are ``x: [B, *event]`` and ``mask: [B, *event]`` of booleans, true where x is observed; without a mask
    what is NaN is missing. Whatever stands in x at a missing place, NaN too, has no part in any value or gradient. The
    bound is one of the observed entries alone,

    .. math:: \log p(x_\mathrm{obs}) \ge \mathrm E_q \log \frac 1 K \sum_k
        \frac{p(x_\mathrm{obs} \mid z_k) \, p(z_k)}{q(z_k \mid x_\mathrm{obs})}

    under ``IWAE(K)`` or ``DReG(K)``, as the paper trains it, and with K = 1 under the default of ``fit``; and evidence
    is log p(x_obs). That is right where values are missing at random, whatever the missing ones are.
    :func:`pyro_vae.conditioning.impute` gives :math:`\mathrm E[x_\mathrm{mis} \mid x_\mathrm{obs}]` and draws.

    The encoder sees x with a number in the place of a missing entry: the mean where one is given, else 0, or a number
    that is learned.

    With a ``missingness``, where a value may be missing because of what it is, the mask s is data too:

    .. math::
        s \sim \mathrm{Bern}(\mathrm{missingness}(x)), \qquad
        \log p(x_\mathrm{obs}, s) \ge \mathrm E \log \frac 1 K \sum_k
        \frac{p(s \mid x_\mathrm{obs}, x_{\mathrm{mis}, k}) \, p(x_\mathrm{obs} \mid z_k) \, p(z_k)}
             {q(z_k \mid x_\mathrm{obs})}

    The missing entries are a latent then, ``x_unobserved`` (of the shape of x; its entries where x is observed are in
    no other term), which the guide draws from p(x | z) as the model does. Where the likelihood is discrete they have no
    pathwise gradient: ``SGVB_A(M)`` and ``VIMCO(K)`` train it, and IWAE and DReG refuse it.

    (The estimator :class:`pyro_vae.MIWAE` is something else, the bound of Rainforth et al. 2018, which has the name
    too.)

    Args:
        event_shape, latent_dim, hidden, decoder_hidden, activation, network, prior, posterior, likelihood: as of
            :class:`~pyro_vae.models.MLPVAE`; the entries of x have to be independent given z.
        mean: mean of the observed entries of the training data, of shape ``event_shape``. The encoder sees x - mean,
            so 0 where an entry is missing, and a Bernoulli decoder starts at it.
        imputation: what the encoder sees in the place of a missing entry: ``"fixed"``, the mean; ``"learned"``, a
            parameter that starts there.
        see_mask: whether the encoder sees the mask too, behind x along its first dimension.
        missingness: makes the network of the logits of :math:`p(s \mid x)`, ``[*, *event] -> [*, *event]``, of
            ``event_shape``: :class:`~pyro_vae.networks.SelfMasking` or a function. ``None`` where values are missing
            at random.

    Raises:
        TypeError: if the mask is no tensor of booleans.
        ValueError: if it has another shape than x, the entries of the likelihood are not independent, ``mean`` is of
            another shape, or the guide is run without data.

    Source: Mattei & Frellsen (2019), MIWAE: deep generative modelling and imputation of incomplete data sets; Ipsen,
        Mattei & Frellsen (2021), not-MIWAE: deep generative modelling with missing not at random data.

    >>> vae = IncompleteVAE((3,), 2, (8,))
    >>> x = torch.tensor([[1.0, float("nan"), 0.0]])
    >>> torch.equal(vae.model(x, ~x.isnan())[0, [0, 2]], x[0, [0, 2]])
    True
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 40,
        hidden: Sequence[int] = (500, 500),
        decoder_hidden: Sequence[int] | None = None,
        activation: type[nn.Module] = nn.SiLU,
        network: Callable[[Any, Any, Any, Any], nn.Module] = MLP,
        prior: Callable[[int], nn.Module] = StandardNormal,
        posterior: Callable[[nn.Module], nn.Module] = DiagonalNormal,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
        imputation: Imputation = "fixed",
        see_mask: bool = False,
        missingness: Callable[[Sequence[int]], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        one_of(get_args(Imputation), imputation=imputation)
        self.event_shape, self.see_mask = shape_of("event_shape", event_shape), see_mask
        first, *others = self.event_shape
        seen_shape, seen_mean = (self.event_shape, mean)
        if see_mask:
            seen_shape = torch.Size((2 * first, *others))
            seen_mean = None if mean is None else torch.cat([mean, torch.zeros_like(mean)])
        seen = Dense(seen_shape, latent_dim, hidden, activation, network, seen_mean)
        self.posterior = seen.recognition(posterior)
        whole = Dense(self.event_shape, latent_dim, hidden, activation, network, mean, decoder_hidden)
        self.likelihood = whole.decoding(likelihood)
        self.prior = made("a prior", prior, latent_dim)
        self.missingness = None if missingness is None else made("a missingness", missingness, self.event_shape)
        fill = torch.zeros(self.event_shape) if mean is None else mean.clone()
        if imputation == "learned":
            self.fill: Tensor = nn.Parameter(fill)
        else:
            self.register_buffer("fill", fill)

    @pair_method
    def model(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """z ~ p(z), x ~ p(x | z), for ``x: [B, *event]`` of which the ``mask`` tells what is observed.

        Without data it draws one datum, whole. It returns x, with a draw in the place of what is missing where there
        is a ``missingness``.
        """
        with data_plate(x):
            z = pyro.sample("z", distribution_of("prior", self.prior()))
            p = distribution_of("likelihood", once(self.likelihood, z))
            if x is None:
                x = pyro.sample("x", p)
                if self.missingness is not None:
                    pyro.sample("mask", self._observed(x))
                return x
            mask = self.mask_of(x, mask)
            if self.missingness is None:
                return pyro.sample("x", observing(p, mask), obs=x)
            whole = torch.where(mask, x, pyro.sample("x_unobserved", p))
            pyro.sample("x", observing(p, mask), obs=x)
            pyro.sample("mask", self._observed(whole), obs=mask.to(whole.dtype))
            return whole

    @pair_method
    def guide(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """z ~ q(z | x_obs); with a ``missingness`` also x_unobserved ~ p(x | z)."""
        x = given(x)
        with data_plate(x):
            seen = self.seen(x, mask)
            z = pyro.sample("z", distribution_of("posterior", self.posterior(seen)))
            if self.missingness is not None:
                pyro.sample("x_unobserved", distribution_of("likelihood", once(self.likelihood, z)))
            return z

    def seen(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the encoder sees of ``x: [B, *event]``, with the ``mask`` of :meth:`mask_of`."""
        mask = self.mask_of(x, mask)
        seen = torch.where(mask, x, self.fill)
        return torch.cat([seen, mask.to(seen.dtype)], 1) if self.see_mask else seen

    def mask_of(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, *event]``, true where x is observed: the mask that is given, or where x is not NaN."""
        if not is_dense(x):
            raise TypeError(f"x of an IncompleteVAE is a dense tensor of real numbers; got {shown(x)}.")
        check_has_values(x, self)
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"an IncompleteVAE of event_shape {tuple(self.event_shape)} takes x of shape [B, "
                f"{', '.join(map(str, self.event_shape))}]; got {list(x.shape)}."
            )
        if mask is None:
            return ~x.isnan()
        if not is_dense(mask) or mask.dtype != torch.bool:
            raise TypeError(
                "mask is a tensor of booleans, true where x is observed; got "
                f"{f'one of {mask.dtype}' if is_dense(mask) else shown(mask)}. Give mask.bool(), or ~x.isnan()."
            )
        if mask.shape != x.shape:
            raise ValueError(
                f"mask says of each entry of x, {list(x.shape)}, whether it is observed; got the shape "
                f"{list(mask.shape)}."
            )
        return mask

    def _observed(self, x: Tensor) -> Any:
        """p(s | x)."""
        assert self.missingness is not None
        logits = at_least_float32(applied(self.missingness, x, "IncompleteVAE"))
        return dist.Bernoulli(logits=logits).to_event(len(self.event_shape))
