"""Full variational Bayes: a pair whose weights are latent variables as well."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered
from pyro_vae.bayesian import (
    IsotropicNormal,
    MeanField,
    Noise,
    WeightNoise,
    bayesian_,
    bayesian_layers,
    sample_posterior,
    sample_prior,
)
from pyro_vae.pair import Pair, computing_once, pair_method
from pyro_vae.pair.turns import fork_rng


class FullBayes(Remembered, PyroModule):
    r"""Any pair, with a posterior over the weights of its decoder and, by option, of its encoder.

    .. math::
        \theta \sim p(\theta), \quad z_i \sim p(z), \quad x_i \sim p_\theta(x \mid z_i), \qquad
        \theta \sim q(\theta), \quad z_i \sim q(z \mid x_i)

    The bound is on log p(X) of all N data, of which a datum has 1/N:

    .. math::
        \frac 1 N \log p(X) \ge \frac 1 N \sum_i \mathrm E_{q(\theta)}\big[ \mathcal L_\theta(x_i) \big]
        - \frac 1 N \mathrm{KL}(q(\theta) \| p(\theta))

    The weights stand outside the plate over the data, so that any ELBO counts their KL once for the N data of
    :func:`pyro_vae.fit`, whatever the size of a batch. The bound of held-out data leaves it out: they are scored under
    the posterior that the training data have paid for. Estimators that weigh each datum by itself (IWAE and its kin)
    take :meth:`posterior_predictive`, whose weights are drawn, not weighed; so does ``pyro_vae.evidence.importance``,
    and ``pyro-vae evaluate`` does by itself.

    Args:
        pair: the pair, which is changed in place: its weights now are where q(theta) starts.
        networks: dotted names of its networks whose weights are random. ``("likelihood.network",)`` is the decoder of
            every one-latent pair here, ``"posterior.network"`` the encoder of one without a flow.
        prior: makes p(theta) of a layer, see :mod:`pyro_vae.bayesian.priors`.
        posterior: makes q(theta) of a layer, see :mod:`pyro_vae.bayesian.posteriors`.
        noise: how the noise of the weights reaches the data of a mini-batch in training, see
            :class:`~pyro_vae.bayesian.Noise`. In evaluation mode one draw is shared by all data.

    Raises:
        ValueError: if a layer is of an unknown kind, or there is no such network, see
            :func:`~pyro_vae.bayesian.bayesian_`.

    Source: Kingma & Welling (2013), appendix F.

    >>> from pyro_vae.models import MLPVAE
    >>> pair = FullBayes(MLPVAE((1, 8, 8), latent_dim=2))
    >>> [name for name, _ in bayesian_layers(pair)]
    ['pair.likelihood.network.layers.0', 'pair.likelihood.network.layers.2', 'pair.likelihood.network.layers.4']
    """

    @checked
    def __init__(
        self,
        pair: nn.Module,
        networks: Sequence[str] = ("likelihood.network",),
        prior: Callable[[Sequence[int]], nn.Module] = IsotropicNormal,
        posterior: Callable[[Tensor], nn.Module] = MeanField,
        noise: WeightNoise = "local",
    ) -> None:
        super().__init__()
        Noise(noise)  # refuses what it does not know
        self.pair: Any = bayesian_(pair, networks, prior, posterior)
        self.networks = tuple(networks)
        self.noise: WeightNoise = noise

    @pair_method
    def model(self, *args: Any, **kwargs: Any) -> Any:
        """theta ~ p(theta), then the pair's model."""
        with self._noise():
            sample_prior(self)
            return self.pair.model(*args, **kwargs)

    @pair_method
    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """theta ~ q(theta), then the pair's guide."""
        with self._noise():
            return self._recognize(sample_posterior(self), *args, **kwargs)

    def _recognize(self, weights: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The pair's guide, whose networks see the data once for each of K particles, as each has its own weights."""
        particles = next(iter(weights.values())).shape[:-3]

        def expand(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(x.expand(*particles, *x.shape) if any(x is arg for arg in args) else x for x in inputs)

        parts = {name.partition(".")[0] for name, _ in bayesian_layers(self.pair)} if particles else ()
        hooks = [self.pair.get_submodule(name).register_forward_pre_hook(expand) for name in parts]
        try:
            return self.pair.guide(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _noise(self) -> Noise:
        return Noise(self.noise if self.training else "shared")

    @property
    def weight_sites(self) -> list[str]:
        """The names of the sites of the weights."""
        return [f"{name}.weights" for name, _ in bayesian_layers(self)]

    def posterior_predictive(self) -> Pair:
        r"""The pair for new data under the posterior of the weights, with its latents inside the data plate alone.

        Each run draws theta ~ q(theta) in model and guide, unseen: the weights are neither scored nor weighed. So the
        mean weight of a datum is :math:`\int q(\theta) \, p_\theta(x) \, d\theta`, the predictive density of the
        approximate posterior, which importance sampling and the importance-weighted estimators bound as they do
        log p(x) of any pair. The draw is new at each run: annealing and HMC want :meth:`sample_weights`.
        """
        return Pair(self._predictive_model, self._predictive_guide, self)

    @checked
    def sample_weights(self, seed: int = 0) -> Pair:
        """The pair with the weights of one draw from q(theta), the same at every run."""
        with torch.no_grad(), fork_rng():
            torch.manual_seed(seed)
            weights = [layer.posterior().sample() for _, layer in bayesian_layers(self)]
        model, guide = (functools.partial(self._at, weights, run) for run in (self.pair.model, self.pair.guide))
        return Pair(model, guide, self)

    @pair_method
    def _predictive_model(self, *args: Any, **kwargs: Any) -> Any:
        with Noise("shared"), computing_once(False):  # each program draws weights of its own
            sample_posterior(self, traced=False)
            return self.pair.model(*args, **kwargs)

    @pair_method
    def _predictive_guide(self, *args: Any, **kwargs: Any) -> Any:
        with Noise("shared"), computing_once(False):  # each program draws weights of its own
            return self._recognize(sample_posterior(self, traced=False), *args, **kwargs)

    @pair_method
    def _at(self, weights: Sequence[Tensor], program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A program of the pair with these weights."""
        for (_, layer), value in zip(bayesian_layers(self), weights, strict=True):
            layer.fix(value)
        return program(*args, **kwargs)
