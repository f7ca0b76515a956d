"""The deep Markov model: a chain of latents, one for each step of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import checked, whole
from pyro_vae._recipes import Remembered
from pyro_vae.distributions.families import constrained
from pyro_vae.distributions.steps import MarkovNormal, Steps
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.recurrent import Layout, emission, only, seen_by_networks, shown_size, until_the_last
from pyro_vae.networks import MLP, at_least_float32, shape_of
from pyro_vae.networks.recurrent import GRU
from pyro_vae.pair import data_plate, pair_method
from pyro_vae.vae import given


def _scale(output: Tensor) -> Tensor:
    return constrained(constraints.positive, output)


class GatedTransition(Remembered, nn.Module):
    r"""p(z_t | z_(t-1)), between a linear map and a network by a gate.

    .. math::
        g = \sigma(\mathrm{MLP}(z)), \quad h = \mathrm{MLP}(z), \quad
        \mathrm{loc} = (1 - g) (W z + b) + g \, h, \quad
        \mathrm{scale} = \mathrm{softplus}(W' \mathrm{ReLU}(h) + b')

    with W = I at the start. ``z: [*, latent_dim]`` to loc and scale, ``[*, latent_dim]`` each.

    Args:
        latent_dim: size of z.
        hidden: width of the hidden layer of both networks.

    Source: Krishnan, Shalit & Sontag (2017), section 5.
    """

    @checked
    def __init__(self, latent_dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = MLP(latent_dim, latent_dim, (hidden,), nn.ReLU)
        self.proposed = MLP(latent_dim, latent_dim, (hidden,), nn.ReLU)
        self.linear = nn.Linear(latent_dim, latent_dim)
        self.scale = nn.Linear(latent_dim, latent_dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(latent_dim))
            self.linear.bias.zero_()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, proposed = self.gate(z).sigmoid(), self.proposed(z)
        loc = (1 - gate) * self.linear(z) + gate * proposed
        return at_least_float32(loc), _scale(at_least_float32(self.scale(proposed.relu())))


class Combiner(Remembered, nn.Module):
    r"""q(z_t | z_(t-1), h_t), of the latent before it and of what is told of the steps from t on.

    .. math:: c = \tfrac 1 2 (\tanh(W z_{t-1} + b) + h_t), \quad \mathrm{loc} = W' c + b', \quad
        \mathrm{scale} = \mathrm{softplus}(W'' c + b'')

    Args:
        latent_dim: size of z.
        rnn_dim: size of h.

    Source: Krishnan, Shalit & Sontag (2017), section 4.
    """

    @checked
    def __init__(self, latent_dim: int, rnn_dim: int) -> None:
        super().__init__()
        self.previous = nn.Linear(latent_dim, rnn_dim)
        self.loc, self.scale = nn.Linear(rnn_dim, latent_dim), nn.Linear(rnn_dim, latent_dim)

    def forward(self, previous: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        combined = (self.previous(previous).tanh() + h) / 2
        return at_least_float32(self.loc(combined)), _scale(at_least_float32(self.scale(combined)))


class _Apart(nn.Module):
    """q(z_t | h_t), of what is told of all steps."""

    def __init__(self, latent_dim: int, rnn_dim: int) -> None:
        super().__init__()
        self.network = MLP(rnn_dim, (2, latent_dim), ())

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, scale = at_least_float32(self.network(h)).unbind(-2)
        return loc, _scale(scale)


class _Reader(nn.Module):
    """What is told of a sequence at each step, ``[B, T, H]``: of the steps from it on, or in both directions of all."""

    def __init__(self, in_dim: int, rnn_dim: int, both: bool) -> None:
        super().__init__()
        self.backward_gru = GRU(in_dim, rnn_dim)
        self.forward_gru = GRU(in_dim, rnn_dim) if both else None

    def forward(self, x: Tensor, present: Tensor | None) -> Tensor:
        from_the_right = self.backward_gru(x, present, backward=True)
        if self.forward_gru is None:
            return from_the_right
        return torch.cat([self.forward_gru(x, present), from_the_right], -1)


class _First(nn.Module):
    """p(z_1) = N(loc, scale^2), and z_0 of the guide, all of them learned."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.loc, self.log_scale.exp()


class _Before(nn.Module):
    """z_0 of the guide."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> Tensor:
        return self.z


class Smoothed(NamedTuple):
    """Moments of p(z_t | x): ``[B, T, latent_dim]`` each, 0 behind the end of a sequence."""

    mean: Tensor
    scale: Tensor


class DeepMarkovModel(Remembered, PyroModule):
    r"""A sequence from a Markov chain of latents, all of whose distributions are networks.

    .. math::
        z_1 \sim \mathcal N(\mathrm{loc}_1, \mathrm{scale}_1^2), \quad
        z_t \sim \mathcal N(\mathrm{loc}(z_{t-1}), \mathrm{scale}(z_{t-1})^2), \quad x_t \sim p(x_t \mid z_t); \qquad
        q(z \mid x) = \prod_t q(z_t \mid z_{t-1}, x_{t:T})

    as the true posterior factors, where a recurrent network from the right tells the guide of :math:`x_{t:T}` (the
    paper's DKS). With ``structured=False`` it is :math:`\prod_t q(z_t \mid x)`, of networks in both directions
    (MF-LR).

    Arguments are ``x: [B, *event_shape]``, padded to the longest sequence, and ``lengths: [B]``, whole numbers, or a
    mask ``[B, T]`` of booleans, true where a step is there. A step behind the last one has neither z_t nor x_t; one
    that is missing before has its z_t. Whatever stands in x there, it contributes exactly nothing to value and
    gradient. Sequences may be shorter or longer than ``event_shape`` says.

    The path z is one site, ``[B, T, latent_dim]``, with a density of its own
    (:class:`~pyro_vae.distributions.MarkovNormal`), and no T sites: its name does not depend on T; the model scores all
    transitions at once, where T sites take one after the other; estimators that score a draw anew need no further run
    of the guide; and what is padded has no density that evidence would have to weigh. The price: a KL
    of each step in closed form is not known, :class:`~pyro_vae.SGVB_B` samples it.

    The bound bends towards paths that are not used; the paper raises the weight of the KL with training:
    ``fit(pair, data, beta=Linear(0.01, 1.0, duration=0.3))``.

    Args:
        event_shape: (T, D) of a sequence, or ``(T, *step_shape)``; an image, (C, H, W), is read row by row.
        latent_dim: size of z_t.
        transition_dim: width of the hidden layers of the transition.
        hidden: widths of the hidden layers of the emission.
        rnn_dim: size of the states of the recurrent networks.
        structured: whether the guide draws z_t given the one before it.
        activation: class of the non-linearity of the emission.
        likelihood: makes p(x_t | z_t) of a network, a class of :mod:`pyro_vae.likelihoods` or a function. Of
            :class:`~pyro_vae.likelihoods.Classes` a datum may also be ``[T]``, a class at each step.
        transition: ``z: [*, latent_dim]`` to loc and scale of the next, in the place of :class:`GatedTransition`.
        encoder: ``(x: [B, T, F], present: [B, T] or None)`` to h, ``[B, T, H]``, in the place of recurrent networks.
        combiner: ``(z_(t-1), h_t)``, or without structure ``h_t``, to loc and scale of z_t, in the place of
            :class:`Combiner`; it has to take leading dimensions of z that h has not.

    Raises:
        ValueError: if a size is below 1, the guide is run without data, or x or lengths are none of such sequences.
        TypeError: if x or lengths are no tensors.

    Source: Krishnan, Shalit & Sontag (2017), Structured Inference Networks for Nonlinear State Space Models.

    >>> pair = DeepMarkovModel((6, 3), latent_dim=2)
    >>> pair.model().shape
    torch.Size([1, 6, 3])
    >>> pair.sample(5, num_steps=9).shape
    torch.Size([5, 9, 3])
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 32,
        transition_dim: int = 100,
        hidden: Sequence[int] = (100,),
        rnn_dim: int = 100,
        structured: bool = True,
        activation: type[nn.Module] = nn.SiLU,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        transition: nn.Module | None = None,
        encoder: nn.Module | None = None,
        combiner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layout = Layout.of("DeepMarkovModel", event_shape)
        shape_of("latent_dim, transition_dim and rnn_dim", (latent_dim, transition_dim, rnn_dim))
        self.latent_dim, self.structured = latent_dim, bool(structured)
        self.likelihood = emission(likelihood, self.layout, latent_dim, hidden, activation)
        self.first = _First(latent_dim)
        self.transition = GatedTransition(latent_dim, transition_dim) if transition is None else transition
        size = shown_size(self.likelihood, self.layout.step_shape)
        self.encoder = _Reader(size, rnn_dim, not self.structured) if encoder is None else encoder
        own = (Combiner if self.structured else _Apart)(latent_dim, rnn_dim if self.structured else 2 * rnn_dim)
        self.combiner = own if combiner is None else combiner
        self.before = _Before(latent_dim) if self.structured else None

    @pair_method
    def model(self, x: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """z_1 ~ p(z_1), z_t ~ p(z_t | z_(t-1)), x_t ~ p(x_t | z_t), for data ``x``, or one sequence that it draws."""
        with data_plate(x):
            num_steps = self.layout.num_steps if x is None else self.layout.steps(x).shape[1]
            present = self.layout.present(x, lengths)
            z = pyro.sample("z", self.prior(num_steps, until_the_last(present)))
            return pyro.sample("x", self.emit(z, present), obs=x)

    @pair_method
    def guide(self, x: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """z_t ~ q(z_t | z_(t-1), x_t, ..., x_T)."""
        x = given(x)
        with data_plate(x):
            return pyro.sample("z", self.encode(x, lengths))

    def prior(self, num_steps: int, present: Tensor | None = None) -> MarkovNormal:
        """p(z), of paths of so many steps; ``present: [B, T]`` tells which there are."""
        transition = self.transition  # here, where Pyro hears of it: the path is scored when the program has ended
        loc, scale = self.first()
        return MarkovNormal(loc, scale, num_steps, lambda previous, _: transition(previous), present)

    def emit(self, z: Tensor, present: Tensor | None = None) -> Steps:
        """p(x | z), for paths ``z: [*, T, latent_dim]``."""
        return Steps(self.likelihood(z), present, self.layout.axis)

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> MarkovNormal:
        """q(z | x)."""
        steps, present = self.layout.steps(x), self.layout.present(x, lengths)
        dtype, dims = self.first.loc.dtype, len(self.layout.step_shape)
        h = self.encoder(seen_by_networks(self.likelihood, only(steps, present), dims, dtype), present)
        num_steps, there = steps.shape[1], until_the_last(present)
        if self.before is None:
            loc, scale = self.combiner(h)
            return MarkovNormal(loc, scale, num_steps, None, there)

        combiner, told = self.combiner, h.unbind(1)  # a slice at each step would have a gradient of the size of all

        def conditional(previous: Tensor, t: int) -> tuple[Tensor, Tensor]:
            count = previous.shape[-2]
            return combiner(previous, told[t].unsqueeze(1) if count == 1 else h[:, t : t + count])

        loc, scale = combiner(self.before(), told[0])
        return MarkovNormal(loc, scale, num_steps, conditional, there)

    # What a trained pair is asked

    @torch.no_grad()
    @checked
    def sample(self, num_samples: int = 1, num_steps: int | None = None) -> Tensor:
        """Sequences from the model, ``[num_samples, *event]``, of a length that is by default that of ``event_shape``.

        Raises:
            ValueError: if a number is below 1.
        """
        num_steps = self.layout.num_steps if num_steps is None else num_steps
        whole(1, num_samples=num_samples, num_steps=num_steps)
        return self.emit(self.prior(num_steps).expand([num_samples]).sample()).sample()

    @torch.no_grad()
    @checked
    def smooth(self, x: Tensor, lengths: Tensor | None = None, num_samples: int = 100) -> Smoothed:
        r"""Mean and standard deviation of p(z_t | x), by importance sampling from the guide.

        .. math:: \mathrm E[z_t \mid x] \approx \sum_k \tilde w_k z_t^{(k)}, \qquad
            \tilde w_k \propto \frac{p(x, z^{(k)})}{q(z^{(k)} \mid x)}, \quad z^{(k)} \sim q(z \mid x)

        Raises:
            ValueError: as the guide, or if ``num_samples`` is below 1.
        """
        whole(1, num_samples=num_samples)
        z, weights = self._weighed(x, lengths, num_samples)
        weights = weights[..., None, None]
        mean = (weights * z).sum(0)
        return Smoothed(mean, (weights * (z - mean).square()).sum(0).sqrt())

    @torch.no_grad()
    @checked
    def forecast(
        self, x: Tensor, num_steps: int, lengths: Tensor | None = None, num_samples: int = 100, num_particles: int = 100
    ) -> Tensor:
        """Draws of the next steps given those of ``x``: ``[num_samples, B, *event]`` with ``num_steps`` steps.

        They go on from the last latents of paths that are drawn anew, by their importance weights, from so many
        particles of the guide.

        Raises:
            ValueError: as the guide, or if a number is below 1.
        """
        whole(1, num_steps=num_steps, num_samples=num_samples, num_particles=num_particles)
        z, weights = self._weighed(x, lengths, num_particles)
        there = until_the_last(self.layout.present(x, lengths))
        count, batch = z.shape[-2], torch.arange(len(x), device=x.device)
        ends = torch.full_like(batch, count - 1) if there is None else there.long().sum(-1) - 1
        chosen = torch.multinomial(weights.T, num_samples, replacement=True).T  # [S, B]
        loc, scale = self.transition(z[chosen, batch, ends])
        future = MarkovNormal(loc, scale, num_steps, lambda previous, _: self.transition(previous))
        return self.emit(future.sample()).sample()

    def _weighed(self, x: Tensor, lengths: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Paths from the guide, ``[K, B, T, L]``, and their normalized importance weights, ``[K, B]``."""
        q, present = self.encode(x, lengths), self.layout.present(x, lengths)
        z = q.sample((count,))
        prior = self.prior(z.shape[-2], until_the_last(present))
        log_weights = prior.log_prob(z) + self.emit(z, present).log_prob(x) - q.log_prob(z)
        return z, log_weights.softmax(0)
