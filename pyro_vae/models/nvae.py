"""NVAE: many groups of latent feature maps over several scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pyro_vae._checks import PARTS, checked, whole
from pyro_vae.hierarchy import BottomUpEncoder, LatentLayer, TopDownVAE
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models.parts import decoding, image_shape
from pyro_vae.networks import Convolutional, MaskedConv2d, Residual, normal_init, stacked
from pyro_vae.transforms import Bijection, NormalizingFlow, Step
from pyro_vae.transforms.autoregressive import solved_in_order

Shape = tuple[int, int, int]

_COUNTS = (
    "channels", "latent_channels", "cells", "expansion", "kernel", "multiplier", "preprocess", "padding", "num_flows",
)  # fmt: skip


class NVAE(TopDownVAE):
    r"""Groups of latent feature maps, several at each scale, recognized from the top down.

    .. math::
        z_L \sim \mathcal N(0, I), \quad z_l \sim \mathcal N(\mathrm{loc}_l(h_l), \mathrm{scale}_l(h_l)^2), \quad
        h_{l-1} = \mathrm{cells}_l(A_l h_l + B_l z_l), \quad x \sim p(x \mid h_0)

    where :math:`h_L` is learned and the same for all data, A and B are 1 x 1 convolutions, and the cells begin with one
    that doubles the image where the next group is of a finer scale. The posterior is a residual of the prior,

    .. math::
        q(z_l \mid z_{>l}, x) = \mathcal N(\mathrm{loc}_l + \Delta\mathrm{loc}_l, \;
        (\mathrm{scale}_l \, \Delta\mathrm{scale}_l)^2), \quad
        (\Delta\mathrm{loc}_l, \log \Delta\mathrm{scale}_l) = r_l(e_l(x) + D_l h_l)

    of :math:`e_1, \dots, e_L` from cells on the way up, so that the KL of each group is in closed form. The logs of
    both scales are within (-5, 5) by :math:`5 \tanh(s / 5)`. The site ``z1`` is next to the data; a site at image size
    H x W is ``[*, B, latent_channels, H, W]``.

    Args:
        event_shape: (channels, height, width) of one image, with pixels in [0, 1] or about there.
        channels: channels of the first convolution; each halving of the image multiplies them by ``multiplier``.
        latent_channels: channels of each group of latents.
        groups: number of groups at each scale, from the data upwards, as the sites count: (8, 4) is z1 to z8 on the
            larger maps and z9 to z12 on maps of half the side.
        cells: residual cells between two groups, on the way up and on the way down.
        expansion: how many times more channels the depthwise convolutions of the way down have.
        kernel: height and width of the depthwise convolutions, odd; on a CPU 3 takes a fraction of the time of 5.
        multiplier: see ``channels``.
        preprocess: how many times the image is halved before the first scale, each time by ``cells`` cells; the
            likelihood's network has as many to double it again.
        padding: pixels of zero on each side of the image on the way up, cut away on the way down: 2 makes 32 x 32 of
            28 x 28.
        num_flows: steps of an inverse autoregressive flow over the pixels in each posterior, the order reversed from
            one to the next. The KL is then sampled.
        likelihood: makes p(x | h_0) of the network of ``[*, C, H, W]``, a class of :mod:`pyro_vae.likelihoods` or a
            function; for colors :class:`~pyro_vae.likelihoods.MixtureOfDiscretizedLogistics`.
        checkpointing: in training, what a cell computes inside is computed again for the gradients instead of kept:
            the same gradients for less memory and more time, eager or traced.

    Raises:
        ValueError: if the data are no images, a number is too small or no whole number, there are no groups, or the
            scales do not divide the sides of the (padded) image.

    Source: Vahdat & Kautz (2020), sections 3.1 and 3.2, table 6; its code for the soft bounds. As published, MNIST has
    ``NVAE((1, 28, 28), 32, 20, groups=(10, 5), preprocess=2, padding=2)``, with three cells for each halving of
    preprocess. Here a cell that doubles the image does so behind its first 1 x 1 convolution, which is the same
    function for less work; :math:`A_l` starts as the identity; and no weight is normalized.

    >>> nvae = NVAE((1, 28, 28), channels=8, latent_channels=4, groups=(2, 1), preprocess=1)
    >>> nvae.model().shape, nvae.levels[0].latent_shape, nvae.levels[2].latent_shape
    (torch.Size([1, 1, 28, 28]), (4, 14, 14), (4, 7, 7))
    """

    @checked(but=_COUNTS)
    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 32,
        latent_channels: int = 20,
        groups: Sequence[int] = (8, 4),
        cells: int = 2,
        *,
        expansion: int = 6,
        kernel: int = 5,
        multiplier: int = 2,
        preprocess: int = 0,
        padding: int = 0,
        num_flows: int = 0,
        likelihood: Callable[[nn.Module], nn.Module] = Bernoulli,
        checkpointing: bool = False,
    ) -> None:
        image = image_shape("an NVAE", event_shape)
        groups = tuple(groups)
        if not groups:
            raise ValueError("an NVAE has groups at one scale at least; got groups=(). Give for example groups=(8, 4).")
        for count in groups:
            whole(1, PARTS, groups=count)
        whole(channels=channels, latent_channels=latent_channels, expansion=expansion, kernel=kernel)
        whole(multiplier=multiplier)
        whole(0, padding=padding)
        whole(1, PARTS, cells=cells)
        whole(0, PARTS, preprocess=preprocess, num_flows=num_flows)
        if kernel % 2 == 0:
            raise ValueError(
                f"the kernel of a depthwise convolution has a pixel in its middle, so it is odd; got {kernel}."
            )
        shapes = _scales(
            (channels, image[1] + 2 * padding, image[2] + 2 * padding), multiplier, preprocess + len(groups)
        )

        def up(shape: Shape, shape_in: Shape | None = None) -> nn.Module:
            return _recognition_cell(shape_in or shape, shape, checkpointing)

        def down(shape: Shape, shape_in: Shape | None = None) -> nn.Module:
            return _generation_cell(shape_in or shape, shape, expansion, kernel, checkpointing)

        stem: list[nn.Module] = [nn.ZeroPad2d(padding), nn.Conv2d(image[0], channels, 3, padding=1)]
        post: list[nn.Module] = []
        for outer, inner in itertools.pairwise(shapes[: preprocess + 1]):
            stem += [*(up(outer) for _ in range(cells - 1)), up(inner, outer)]
            post = [down(outer, inner), *(down(outer) for _ in range(cells - 1)), *post]

        scales = shapes[preprocess:]
        of_group = [shape for shape, count in zip(scales, groups, strict=True) for _ in range(count)]
        stages: list[nn.Module] = []
        levels: list[LatentLayer] = []
        for level, shape in enumerate(of_group):
            below = of_group[max(level - 1, 0)]
            change_up = [up(shape, below)] if shape != below else []
            change_down = [down(below, shape)] if shape != below else []
            stages.append(Convolutional(below, shape, [*change_up, *(up(shape) for _ in range(cells))]))
            cells_down = Convolutional(shape, below, [*change_down, *(down(below) for _ in range(cells))])
            kind = _TopGroup if level == len(of_group) - 1 else _Group
            levels.append(kind(shape, latent_channels, cells_down, num_flows))

        def network(out_shape: tuple[int, ...]) -> nn.Module:
            last = nn.Conv2d(channels, math.prod(out_shape[:-2]), 3, padding=1)
            return Convolutional(scales[0], out_shape, [*post, nn.ZeroPad2d(-padding), nn.SiLU(), last])

        stages[0] = nn.Sequential(Convolutional(image, scales[0], stem), stages[0])
        super().__init__(BottomUpEncoder(stages), levels, decoding(likelihood, image, network))


class _Group(LatentLayer):
    """One group of latents ``z: [*, C_z, H, W]``, from a state ``[*, C, H, W]`` to the state ``cells.out_shape``."""

    def __init__(self, shape: Shape, latent_channels: int, cells: Convolutional, num_flows: int) -> None:
        super().__init__()
        channels = shape[0]
        self.latent_shape = (latent_channels, *shape[1:])
        self.residual = self._head(shape, normal_init(nn.Conv2d(channels, 2 * latent_channels, 3, padding=1)))
        self.added = Convolutional(self.latent_shape, shape, [nn.Conv2d(latent_channels, channels, 1)])
        self.cells = cells
        self.flows = nn.ModuleList(
            _Autoregressive(self.latent_shape, shape, index % 2 == 1) for index in range(num_flows)
        )
        self._above(shape)

    def _above(self, shape: Shape) -> None:
        """What the state of the levels above goes through."""
        channels = shape[0]
        self.conditional = self._head(shape, normal_init(nn.Conv2d(channels, 2 * self.latent_shape[0], 1)))
        self.met = Convolutional(shape, shape, [nn.Conv2d(channels, channels, 1)])
        identity = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(identity.weight)
        self.kept = Convolutional(shape, shape, [identity])

    def _head(self, shape: Shape, layer: nn.Module) -> Convolutional:
        return Convolutional(shape, (2, *self.latent_shape), [nn.ELU(), layer])

    def prior(self, h: Any) -> dist.Distribution:
        loc, log_scale = _loc_and_log_scale(self.conditional, h)
        return dist.Normal(loc, log_scale.exp()).to_event(3)

    def posterior(self, p: Any, h: Any, evidence: Tensor) -> dist.Distribution:
        features = evidence if h is None else evidence + self.met(h)
        loc, log_scale = _loc_and_log_scale(self.residual, features)
        prior = p.base_dist
        q = dist.Normal(prior.loc + loc, prior.scale * log_scale.exp()).to_event(3)
        return NormalizingFlow(q, [flow(features) for flow in self.flows]) if self.flows else q

    def forward(self, h: Any, z: Tensor) -> Tensor:
        return self.cells(self.kept(h) + self.added(z))


class _TopGroup(_Group):
    """The group with nothing above it but the learned start."""

    def _above(self, shape: Shape) -> None:
        self.start = nn.Parameter(torch.zeros(shape))

    def prior(self, h: Tensor | None) -> dist.Distribution:
        zeros = self.start.new_zeros(self.latent_shape)
        return dist.Normal(zeros, torch.ones_like(zeros)).to_event(3)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.cells(self.start + self.added(z))


class _Autoregressive(Step):
    r"""A step of an inverse autoregressive flow on maps ``z: [*, C_z, H, W]``, from features ``[*, C, H, W]``.

    .. math:: y = \sigma z + (1 - \sigma) m, \quad \sigma = \mathrm{sigmoid}(s + 2)

    where m and s of a pixel depend on the pixels before it in the raster order, or with ``reverse`` on those behind.

    Source: Kingma et al. (2016), eqs. 13 and 14; van den Oord et al. (2016) for the masked convolutions.
    """

    def __init__(self, latent_shape: Shape, shape: Shape, reverse: bool) -> None:
        super().__init__(math.prod(latent_shape))
        channels = shape[0]
        self.latent_shape, self.reverse = latent_shape, reverse
        self.context = Convolutional(shape, shape, [nn.Conv2d(channels, channels, 1)])
        self.first = Convolutional(latent_shape, shape, [MaskedConv2d(latent_shape[0], channels, 5, "A")])
        last = normal_init(MaskedConv2d(channels, 2 * latent_shape[0], 1, "B"))
        hidden = [nn.ELU(), MaskedConv2d(channels, channels, 3, "B"), nn.ELU(), last]
        self.last = Convolutional(shape, (2, *latent_shape), hidden)

    def forward(self, features: Tensor) -> Bijection:  # type: ignore[override]
        return Bijection(self, self._turned(self.context(features)))

    def call_and_ladj(self, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._log_scale_and_shift(z, theta)
        ladj = log_scale.sum((-3, -2, -1))
        return log_scale.exp() * z + shift, ladj

    def inverse_and_ladj(self, y: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        _, height, width = self.latent_shape
        order = self._turned(torch.arange(height * width, device=y.device).reshape(height, width))
        z, log_scale = solved_in_order(lambda z: self._log_scale_and_shift(z, theta), y, order)
        return z, -log_scale.sum((-3, -2, -1))

    def _log_scale_and_shift(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        hidden = context + self.first(self._turned(z))
        m, s = map(self._turned, stacked("a step of a flow", self.last(hidden), 2, hidden.dim() - 3))
        log_scale = F.logsigmoid(_held(s) + 2)
        return log_scale, -torch.expm1(log_scale) * m

    def _turned(self, maps: Tensor) -> Tensor:
        return maps.flip((-2, -1)) if self.reverse else maps


def _loc_and_log_scale(network: Convolutional, h: Tensor) -> tuple[Tensor, Tensor]:
    loc, log_scale = stacked("a group of latents", network(h), 2, h.dim() - 3)
    return loc, _held(log_scale)


def _held(log_scale: Tensor) -> Tensor:
    """``log_scale``, softly within (-5, 5)."""
    return 5 * (log_scale / 5).tanh()


class _Cell(Residual):
    """Images ``[N, C, H, W]`` plus a tenth of the branch.

    With ``checkpointing`` the branch keeps nothing for its gradients in training but its input.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, checkpointing: bool) -> None:
        super().__init__(branch, shortcut)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)  # in which depthwise convolutions are several times faster
        keeps = not (self.checkpointing and self.training and torch.is_grad_enabled())
        return self.shortcut(x) + 0.1 * (self.branch(x) if keeps else _recomputed(self.branch, x))


def _recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, which is computed again when its gradients are.

    By then a functional call, such as the one that is traced, is over: so the parameters and buffers are kept. The
    second time batch norm writes into copies, so that its running statistics move once.
    """
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    runs = itertools.count()

    def run(x: Tensor) -> Tensor:
        again = next(runs) > 0
        own = {name: buffer.clone() if again else buffer for name, buffer in buffers.items()}
        return functional_call(module, {**parameters, **own}, (x,))

    return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)


class _SqueezeAndExcitation(nn.Module):
    r"""Each channel times a gate of the means over the image, :math:`x_c \, \sigma(W_2 \max(W_1 \bar x, 0))_c`.

    Source: Hu, Shen & Sun (2018), equations 2 to 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 16, 4)
        self.gate = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((-2, -1))).unsqueeze(-1).unsqueeze(-1)


def _recognition_cell(shape: Shape, shape_out: Shape, checkpointing: bool) -> _Cell:
    """Batch norm, Swish and 3 x 3 convolution, twice; the first convolution halves the image where it changes."""
    channels, channels_out = shape[0], shape_out[0]
    halves = shape[1:] != shape_out[1:]
    branch = nn.Sequential(
        _batch_norm(channels),
        nn.SiLU(),
        nn.Conv2d(channels, channels_out, 3, stride=2 if halves else 1, padding=1, bias=False),
        _batch_norm(channels_out),
        nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        _SqueezeAndExcitation(channels_out),
    )
    return _Cell(branch, nn.Conv2d(channels, channels_out, 2, stride=2) if halves else None, checkpointing)


def _generation_cell(shape: Shape, shape_out: Shape, expansion: int, kernel: int, checkpointing: bool) -> _Cell:
    """A depthwise convolution between two 1 x 1, behind the first of which the image is doubled."""
    channels, channels_out, width = shape[0], shape_out[0], expansion * shape[0]
    doubled = [nn.UpsamplingNearest2d(scale_factor=2)] if shape[1:] != shape_out[1:] else []
    branch = nn.Sequential(
        _batch_norm(channels),
        nn.Conv2d(channels, width, 1, bias=False),
        _batch_norm(width),
        nn.SiLU(),
        *doubled,
        nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
        _batch_norm(width),
        nn.SiLU(),
        nn.Conv2d(width, channels_out, 1, bias=False),
        _batch_norm(channels_out),
        _SqueezeAndExcitation(channels_out),
    )
    shortcut = nn.Sequential(nn.Conv2d(channels, channels_out, 1), *doubled) if doubled else None
    return _Cell(branch, shortcut, checkpointing)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.05)


def _scales(shape: Shape, multiplier: int, halvings: int) -> list[Shape]:
    """The shapes of the maps from the (padded) image inwards, ``halvings`` of them."""
    channels, *sides = shape
    factor = 2 ** (halvings - 1)
    if any(side % factor for side in sides):
        raise ValueError(
            f"maps that are halved {halvings - 1} times, once for each preprocess and between two scales, need sides "
            f"that {factor} divides; got {sides[0]} x {sides[1]} (with the padding). Give fewer scales in groups, less "
            "preprocess, or another padding."
        )
    return [(channels * multiplier**depth, sides[0] // 2**depth, sides[1] // 2**depth) for depth in range(halvings)]
