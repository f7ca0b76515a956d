"""The ladder: a hierarchy whose guide merges what the data say, level by level, with the prior from above."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._checks import PARTS, checked, whole
from pyro_vae.hierarchy import BottomUpEncoder, LatentLayer, TopDownVAE, concat
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.chain import Chain, ChainVAE
from pyro_vae.models.parts import decoding, image_shape
from pyro_vae.networks import MLP, Centered, Convolutional, Normalization, residual_block, shape_of, stacked
from pyro_vae.networks.layers import activated, hidden_layer
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal

_Map = tuple[int, int, int]


def merged(p: Any, loc: Tensor, log_variance: Tensor) -> dist.Distribution:
    r"""The normalized product of two diagonal Gaussians: a mean weighed by precisions.

    .. math::
        q = \mathcal N\Big(\frac{\mathrm{loc}\, s^{-2} + \mathrm{loc}_p\, s_p^{-2}}{s^{-2} + s_p^{-2}},\;
        \frac{1}{s^{-2} + s_p^{-2}}\Big), \qquad s^2 = \exp(\text{log variance})

    Args:
        p: the prior of a level, ``Normal(loc_p, s_p).to_event(n)``.
        loc: what the data say, ``[*, B, *event]``.
        log_variance: how sure they are of it, likewise.

    Source: Sonderby et al. (2016), equations 16 and 17.
    """
    above = p.base_dist
    log_precision, log_precision_above = -log_variance, -2 * above.scale.log()
    weight = (log_precision - log_precision_above).sigmoid()
    scale = (-torch.logaddexp(log_precision, log_precision_above) / 2).exp()
    return dist.Normal(torch.lerp(above.loc, loc, weight), scale).to_event(len(p.event_shape))


class _Rung(LatentLayer):
    """A level that knows of those above only the latent of the next one; at the top p(z) = N(0, I), and no merging."""

    def __init__(self, latent_dim: int, conditional: nn.Module | None) -> None:
        super().__init__()
        self.marginal = StandardNormal(latent_dim) if conditional is None else None
        self.conditional = conditional

    def prior(self, h: Tensor | None) -> dist.Distribution:
        source: Any = self.conditional or self.marginal
        return source() if h is None else source(h)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        loc, log_variance = stacked("a rung of a LadderVAE", evidence, 2, evidence.dim() - 2)
        return _normal(loc, log_variance, 1) if h is None else merged(p, loc, log_variance)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return z


class LadderVAE(ChainVAE, TopDownVAE):
    r"""The chain of latents of :class:`~pyro_vae.models.HierarchicalVAE`, recognized from the top down.

    .. math::
        z_L \sim \mathcal N(0, I), \quad z_l \sim \mathcal N(\mathrm{MLP}(z_{l+1})), \quad
        x \sim p(x \mid \mathrm{MLP}(z_1))

    The guide goes over the data upwards once, d_0 = x and :math:`d_l = \mathrm{MLP}(d_{l-1})`, and on its way down
    weighs what each level has seen against the model's own prior, each by its precision:

    .. math::
        q(z_L \mid x) = \mathcal N(\hat{\mathrm{loc}}_L, \hat s_L^2), \qquad
        q(z_l \mid z_{l+1}, x) \propto \mathcal N(z_l; \hat{\mathrm{loc}}_l(d_l), \hat s_l(d_l)^2) \,
        p(z_l \mid z_{l+1})

    The paper trains it with batch norm and a warm-up of beta:
    ``fit(LadderVAE(shape, normalization="batch"), data, beta=Linear(0.005, 1.0, duration=0.1))``.

    The arguments are those of :class:`~pyro_vae.models.chain.ChainVAE`.

    Source: Sonderby, Raiko, Maaloe, Sonderby & Winther (2016), Ladder Variational Autoencoders.

    >>> pair = LadderVAE((1, 8, 8), latent_dims=(4, 2), hidden=(16, 8))
    >>> pair.model().shape
    torch.Size([1, 1, 8, 8])
    """

    def _parts(self, chain: Chain, likelihood: Callable[[nn.Module], nn.Module]) -> tuple[Any, ...]:
        layer = functools.partial(hidden_layer, activation=chain.activation, normalization=chain.normalization)
        bodies = [chain.trunk()]
        for level in range(1, len(chain.latent_dims)):
            sizes = itertools.pairwise([chain.hidden[level - 1], *chain.widths(level)])
            makers = [functools.partial(nn.Linear, *pair) for pair in sizes]
            bodies.append(nn.Sequential(*(part for make in makers for part in layer(make))))
        heads = [MLP(width, (2, size), ()) for width, size in zip(chain.hidden, chain.latent_dims, strict=True)]
        conditionals = [*(DiagonalNormal(network) for network in chain.downwards()), None]
        rungs = [_Rung(size, above) for size, above in zip(chain.latent_dims, conditionals, strict=True)]
        return BottomUpEncoder(bodies, heads), rungs, chain.decoding(likelihood)


class _ConvRung(LatentLayer):
    """A level of feature maps whose state carries all levels above; at the top p(z) = N(0, I), and no merging."""

    def __init__(
        self, latent_dim: int, shape: _Map, top: bool, downwards: nn.Module, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        latent = (latent_dim, *shape[1:])
        self.marginal = StandardNormal(latent) if top else None
        self.prior_head = None if top else _head(shape[0], shape, latent_dim, activation)
        self.posterior_head = _head(shape[0] if top else 2 * shape[0], shape, latent_dim, activation)
        self.inwards = Convolutional(latent, shape, [nn.Conv2d(latent_dim, shape[0], 1)])
        self.downwards = downwards

    def prior(self, h: Tensor | None) -> dist.Distribution:
        source: Any = self.prior_head or self.marginal
        if h is None:
            return source()
        loc, log_variance = stacked("ConvLadderVAE", source(h), 2, h.dim() - 3)
        return _normal(loc, log_variance, 3)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        seen = concat(evidence, h, -3)
        loc, log_variance = stacked("ConvLadderVAE", self.posterior_head(seen), 2, seen.dim() - 3)
        return _normal(loc, log_variance, 3) if h is None else merged(p, loc, log_variance)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        inwards = self.inwards(z)
        return self.downwards(inwards if h is None else h + inwards)


class ConvLadderVAE(TopDownVAE):
    r"""The ladder of convolutions: feature maps for latents, and deterministic paths up and down beside them.

    .. math::
        z_l \sim \mathcal N(\mathrm{conv}(h_l)), \quad h_{l-1} = \mathrm{up}(h_l + W_l z_l), \quad
        x \sim p(x \mid \mathrm{deconv}(h_0)), \qquad z_L \sim \mathcal N(0, I)

    so that h_l hands down all latents above l, and the levels form no Markov chain. The guide goes over the data
    upwards once, :math:`e_l = \mathrm{down}(e_{l-1})`, and then down together with the model:

    .. math::
        q(z_L \mid x) = \mathcal N(\mathrm{conv}(e_L)), \qquad
        q(z_l \mid h_l, x) \propto \mathcal N(z_l; \mathrm{conv}(e_l, h_l)) \, p(z_l \mid h_l)

    Args:
        event_shape: (channels, height, width) of one image.
        latent_dims: channels of z_1, ..., z_L, from the data upwards.
        channels: of the feature maps of each level, as many.
        strides: by how much each level is smaller than the one below, z_1 than the image, as many.
        blocks: residual blocks of each level on the way up, and on the way down.
        activation: class of the non-linearity.
        normalization: in the residual blocks: ``"batch"``, ``"layer"``, ``"weight"`` or ``None``, see
            :class:`~pyro_vae.networks.ConvEncoder`.
        likelihood: makes p(x | h_0) of the decoder, a class of :mod:`pyro_vae.likelihoods` or a function.
        mean: mean of the training data, of shape ``event_shape``. The encoder then sees x - mean, and a Bernoulli
            decoder starts at it.

    Raises:
        ValueError: if the data are no images, there are not as many channels and strides as latents, a size is below 1,
            or a stride does not divide the sides that it meets.

    Source: Sonderby et al. (2016), for the merging; Kingma et al. (2016), section 4, for the bidirectional form.

    >>> pair = ConvLadderVAE((1, 8, 8), latent_dims=(2, 3), channels=(4, 6), strides=(2, 4))
    >>> pair.model().shape
    torch.Size([1, 1, 8, 8])
    """

    @checked(but=("blocks",))
    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dims: Sequence[int] = (16, 16, 32),
        channels: Sequence[int] = (32, 64, 64),
        strides: Sequence[int] = (2, 2, 1),
        blocks: int = 1,
        activation: type[nn.Module] = nn.SiLU,
        normalization: Normalization | None = None,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        mean: Tensor | None = None,
    ) -> None:
        image = image_shape("a convolutional ladder", event_shape)
        shapes = _pyramid(image, latent_dims, channels, strides)
        whole(0, PARTS, blocks=blocks)

        def same(shape: _Map) -> list[nn.Module]:
            size = 3 if max(shape[1:]) > 1 else 1
            return [residual_block(shape[0], shape[0], activation, normalization, 1, size) for _ in range(blocks)]

        steps: list[nn.Module] = []
        rungs: list[LatentLayer] = []
        for level, (below, shape) in enumerate(itertools.pairwise([image, *shapes])):
            step: nn.Module = Convolutional(below, shape, [*_falling(below, shape, activation), *same(shape)])
            steps.append(Centered(step, mean) if mean is not None and not level else step)
            # The lowest state keeps the size of z_1: the likelihood's network makes an image of it.
            down = Convolutional(shape, below, [*same(shape), *_rising(shape, below, activation)])
            rungs.append(
                _ConvRung(
                    latent_dims[level],
                    shape,
                    level == len(shapes) - 1,
                    down if level else Convolutional(shape, shape, same(shape)),
                    activation,
                )
            )

        def decoder(out_shape: tuple[int, ...]) -> nn.Module:
            pixels = (math.prod(out_shape[:-2]), *image[1:])
            return Convolutional(shapes[0], out_shape, _rising(shapes[0], pixels, activation))

        super().__init__(BottomUpEncoder(steps), rungs, decoding(likelihood, image, decoder, mean))


def _normal(loc: Tensor, log_variance: Tensor, event_dim: int) -> dist.Distribution:
    return dist.Normal(loc, (log_variance / 2).exp()).to_event(event_dim)


def _head(seen: int, shape: _Map, latent_dim: int, activation: type[nn.Module]) -> nn.Module:
    """A network of feature maps with ``seen`` channels: loc and log variance of z, stacked."""
    size = 3 if max(shape[1:]) > 1 else 1
    layers = [activated(activation), nn.Conv2d(seen, 2 * latent_dim, size, padding=size // 2)]
    return Convolutional((seen, *shape[1:]), (2, latent_dim, *shape[1:]), layers)


def _steps(below: _Map, shape: _Map) -> list[tuple[int, int, int]]:
    """Stride, channels below and channels above of each convolution between two levels; a power of 2 goes by 2."""
    stride = below[1] // shape[1]
    halvings = stride.bit_length() - 1
    strides = [2] * halvings if stride == 2**halvings and stride > 1 else [stride]
    widths = [below[0], *(max(1, shape[0] >> step) for step in range(len(strides) - 1, -1, -1))]
    return [(stride, *pair) for stride, pair in zip(strides, itertools.pairwise(widths), strict=True)]


def _falling(below: _Map, shape: _Map, activation: type[nn.Module]) -> list[nn.Module]:
    """Convolutions from the feature maps of one level to those of the level above."""
    layers: list[nn.Module] = []
    for stride, outer, inner in _steps(below, shape):
        layers += [activated(activation)] if layers else []
        layers.append(nn.Conv2d(outer, inner, 3, stride, 1) if stride <= 2 else nn.Conv2d(outer, inner, stride, stride))
    return layers


def _rising(shape: _Map, below: _Map, activation: type[nn.Module]) -> list[nn.Module]:
    """Transposed convolutions from the feature maps of one level to those of the level below, or to pixels."""
    layers: list[nn.Module] = []
    for stride, outer, inner in reversed(_steps(below, shape)):
        kernel = {1: (3, 1, 1), 2: (4, 2, 1)}.get(stride, (stride, stride, 0))  # size, stride, padding
        layer = nn.Conv2d if stride == 1 else nn.ConvTranspose2d
        layers += [activated(activation), layer(inner, outer, *kernel)]
    return layers


def _pyramid(image: _Map, latent_dims: Sequence[int], channels: Sequence[int], strides: Sequence[int]) -> list[_Map]:
    """The shapes of the feature maps of each level."""
    for name, sizes in (("latent_dims", latent_dims), ("channels", channels), ("strides", strides)):
        shape_of(name, sizes)
        if len(sizes) != len(latent_dims):
            raise ValueError(
                f"each level has a latent, channels and a stride; got {len(latent_dims)} latents, "
                f"latent_dims={tuple(latent_dims)}, and {name}={tuple(sizes)}."
            )
    shapes = []
    height, width = image[1:]
    for level, (size, stride) in enumerate(zip(channels, strides, strict=True), 1):
        if height % stride or width % stride:
            raise ValueError(
                f"the stride {stride} of level {level} does not divide its sides {height} x {width}. Choose strides "
                f"whose product divides the image's sides {image[1]} x {image[2]}, or crop or pad the data."
            )
        height, width = height // stride, width // stride
        shapes.append((size, height, width))
    return shapes
