"""A code book, the level of a hierarchy that draws its codes, and the pairs of such levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._checks import number
from pyro_vae.distributions.point import Point
from pyro_vae.hierarchy import LatentLayer, TopDownVAE, concat
from pyro_vae.networks import at_least_float32, shape_of
from pyro_vae.pair import penalty

CODES = constraints.independent(constraints.one_hot, 2)  # maps of codes, [*, h, w, K]
_SMOOTHING = 1e-5  # added to all usages: Laplace's


class Codes(Point):
    """All mass at one map of codes, one-hot ``[*, h, w, K]``."""

    support = CODES

    def __init__(self, value: Tensor) -> None:
        super().__init__(value, 3)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Codes:
        return Codes(self.v.expand(*batch_shape, *self.event_shape))


class CodeBook(nn.Module):
    r"""Codes :math:`c_1, \dots, c_K` in :math:`\mathbb R^D`, the moving means of what is assigned to them.

    In training mode each call of :meth:`nearest` moves them: with n_k the share of the batch that is nearest to code k,
    and s_k the sum of its encoder outputs over the size of the batch,

    .. math::
        N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad S_k \leftarrow \gamma S_k + (1 - \gamma) s_k, \quad
        c_k = S_k / N_k

    with a little added to all N_k (Laplace); a code that has never been the nearest stays. Before that, a code whose
    usage N_k is below ``revival / K`` is put at the encoder output of a random place of the batch, with the usage
    1 / K. No code has been used before the first batch, so that all of them start there. A batch of fewer than K codes
    revives none.

    Args:
        num_codes: K.
        code_dim: D, at most K.
        decay: :math:`\gamma`, in (0, 1).
        revival: share of the mean usage below which a code counts as dead, in [0, 1); 0 revives none.

    Attributes:
        codes: ``[K, D]``.
        usage: N, ``[K]``.

    Raises:
        ValueError: if D is above K, a size is below 1, or a number is out of its range.

    Source: van den Oord et al. (2017), appendix A.1; Razavi et al. (2019), section 3.1; revival: Dhariwal et al.
    (2020), Jukebox, section 3.1.
    """

    codes: Tensor
    usage: Tensor
    sums: Tensor
    follows_batches = "the means of all data of a batch"

    def __init__(self, num_codes: int, code_dim: int, decay: float = 0.99, revival: float = 0.05) -> None:
        super().__init__()
        shape_of("num_codes and code_dim", (num_codes, code_dim))
        if code_dim > num_codes:
            raise ValueError(
                f"num_codes={num_codes} one-hot vectors carry the gradient of at most {num_codes} numbers to the "
                f"encoder, but code_dim={code_dim}. Take at least as many codes as dimensions."
            )
        number(above=0, below=1, decay=decay)
        number(0, below=1, revival=revival)
        self.num_codes, self.code_dim, self.decay, self.revival = num_codes, code_dim, decay, revival
        self.register_buffer("codes", torch.randn(num_codes, code_dim))
        self.register_buffer("usage", torch.zeros(num_codes))
        self.register_buffer("sums", torch.zeros(num_codes, code_dim))

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.code_dim}, decay={self.decay}, revival={self.revival}"

    def forward(self, z: Tensor) -> Tensor:
        """The codes of one-hot maps, ``[*, h, w, K] -> [*, D, h, w]``; linear in z."""
        # A copy, since the code book is written in place while a step may still have its backward pass before it.
        with torch.autocast(z.device.type, enabled=False):
            return _Contiguous.apply((z @ self.codes.clone()).movedim(-1, -3))

    def nearest(self, e: Tensor) -> Tensor:
        r"""The nearest code of each position, one-hot, ``[*, D, h, w] -> [*, h, w, K]``, the gradient straight through.

        .. math:: z = \mathrm{onehot}(\arg\min_k |e - c_k|^2) + (e - \mathrm{sg}(e)) M, \quad M = (C^T C)^{-1} C^T

        with sg the identity without a gradient, so that z C has the value of the nearest code and, since M C = I, the
        gradient of e. Where the codes span fewer than D dimensions, it is the part of the gradient in their span.

        Source: van den Oord et al. (2017), section 3.2.
        """
        rows = _rows(e)
        flat = rows.reshape(-1, self.code_dim)
        with torch.autocast(e.device.type, enabled=False):
            with torch.no_grad():
                if self.training and self.revival and len(flat) >= self.num_codes:
                    self._revive(flat)
                nearest = self._distances(flat).argmin(-1, keepdim=True)
                z = (nearest == torch.arange(self.num_codes, device=e.device)).to(flat.dtype)
                if self.training:
                    self._follow(flat, z)
            if flat.requires_grad:
                z = z + (flat - flat.detach()) @ self._inverse()
        return z.reshape(*rows.shape[:-1], self.num_codes)

    def distances(self, e: Tensor) -> Tensor:
        """|e - c_k|^2, up to what is the same for all k, ``[*, D, h, w] -> [*, h, w, K]``."""
        with torch.autocast(e.device.type, enabled=False):
            return self._distances(_rows(e))

    @property
    def perplexity(self) -> Tensor:
        """exp of the entropy of the moving usage: between 1 and K, NaN before the first batch."""
        return torch.special.entr(self.usage / self.usage.sum()).sum().exp()

    def _distances(self, e: Tensor) -> Tensor:
        codes = self.codes.clone()
        return codes.square().sum(-1) - 2 * e @ codes.T

    def _inverse(self) -> Tensor:
        """M, ``[D, K]``."""
        with torch.no_grad():
            codes = self.codes.double()
            gram = codes.T @ codes
            ridge = 1e-12 * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
            gram = gram + ridge * torch.eye(self.code_dim, dtype=gram.dtype, device=gram.device)
            return torch.linalg.solve_ex(gram, codes.T)[0].to(self.codes.dtype)

    def _revive(self, e: Tensor) -> None:
        uniform = 1 / self.num_codes
        dead = self.usage < self.revival * uniform
        start = e[torch.randperm(len(e), device=e.device)[: self.num_codes]]
        self.usage.copy_(torch.where(dead, uniform, self.usage))
        self.codes.copy_(torch.where(dead[:, None], start, self.codes))
        self.sums.copy_(torch.where(dead[:, None], start * uniform, self.sums))

    def _follow(self, e: Tensor, z: Tensor) -> None:
        self.usage.copy_(torch.lerp(z.mean(0), self.usage, self.decay))
        self.sums.copy_(torch.lerp(z.T @ e / len(e), self.sums, self.decay))
        total = self.usage.sum()
        smoothed = (self.usage + _SMOOTHING / self.num_codes) / (total + _SMOOTHING) * total
        self.codes.copy_(torch.where(self.usage[:, None] > 0, self.sums / smoothed[:, None], self.codes))


def _rows(e: Tensor) -> Tensor:
    """``[*, D, h, w] -> [*, h, w, D]``, in float32 or better."""
    return _Contiguous.apply(at_least_float32(e).movedim(-3, -1))


class _Contiguous(torch.autograd.Function):
    """A contiguous copy, forwards and backwards.

    The output of a convolution may have another memory layout where it is traced than where it is run, and a reshape
    that was traced for the one may be impossible for the other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone(memory_format=torch.contiguous_format)


class CodeLevel(LatentLayer):
    r"""One map of codes: uniform a priori, the nearest codes of a network of x and of the codes above a posteriori.

    .. math:: p(z_l \mid h_l) = K^{-hw}, \qquad q(z_l \mid h_l, x) = \delta(z_l - \mathrm{nearest}(e_l(x, h_l)))

    In training mode the guide also has the commitment of the encoder, an auxiliary site ``commitment<l>`` of
    :math:`\beta |e_l - \mathrm{sg}(z_l C)|^2`.

    Args:
        name: of the auxiliary site.
        shape: ``(h, w)``.
        book: the codes.
        encoder: of evidence and, below the top, h, stacked by channels, to e: ``[*, D, h, w]``.
        decoder: of the codes and, below the top, h, stacked by channels, to the state of the level below.
        commitment: its weight, :math:`\beta`.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        book: CodeBook,
        encoder: nn.Module,
        decoder: nn.Module,
        commitment: float,
    ) -> None:
        super().__init__()
        self.name, self.event_shape, self.commitment = name, torch.Size((*shape, book.num_codes)), commitment
        self.book, self.encoder, self.decoder = book, encoder, decoder

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return dist.OneHotCategorical(logits=self.book.codes.new_zeros(self.event_shape)).to_event(2)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        e = self.encoder(concat(evidence, h, -3))
        z = self.book.nearest(e)
        if self.training:
            distance = (at_least_float32(e) - self.book(z.detach())).square().sum((-3, -2, -1))
            penalty(self.name, self.commitment * distance)
        return Codes(z)

    def distances(self, h: Tensor | None, evidence: Tensor) -> Tensor:
        """|e - c_k|^2 of each position, up to what is the same for all k, ``[*, h, w, K]``."""
        return self.book.distances(self.encoder(concat(evidence, h, -3)))

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.decoder(concat(self.book(z), h, -3))


class CodesVAE(TopDownVAE):
    """A pair of which every level is a map of codes, with a method ``distances`` as :class:`CodeLevel` has it."""

    levels: Any

    def softened(self, temperature: float) -> TopDownVAE:
        r"""The same model with a guide that can draw every code: a pair on the same networks.

        .. math:: q(z_{li} = k \mid x, z_{>l}) \propto \exp(-|e_{li} - c_k|^2 / \mathrm{temperature})

        Importance sampling with the nearest codes gives log p(x, z*), a lower bound of log p(x) that does not rise with
        the number of samples; with this guide it is consistent.

        Args:
            temperature: in the units of squared distances.

        Raises:
            ValueError: if it is not positive and finite.
        """
        number(above=0, temperature=temperature)
        levels = [_Softened(level, temperature) for level in self.levels]
        softened = TopDownVAE(self.bottom_up, levels, self.likelihood).train(self.training)
        self.train(self.training)  # a part that this pair keeps in evaluation mode goes back to it
        return softened


class RelayedLevel(LatentLayer):
    """A level of codes that is another one, but for what a subclass changes."""

    def __init__(self, level: Any) -> None:
        super().__init__()
        self.level = level

    def prior(self, h: Tensor | None) -> dist.Distribution:
        return self.level.prior(h)

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        return self.level.posterior(p, h, evidence)

    def distances(self, h: Tensor | None, evidence: Tensor) -> Tensor:
        return self.level.distances(h, evidence)

    def forward(self, h: Tensor | None, z: Tensor) -> Tensor:
        return self.level(h, z)


class _Softened(RelayedLevel):
    """A level whose posterior prefers near codes, but can draw all of them."""

    def __init__(self, level: Any, temperature: float) -> None:
        super().__init__(level)
        self.temperature = temperature

    def posterior(self, p: dist.Distribution, h: Tensor | None, evidence: Tensor) -> dist.Distribution:
        logits = -self.level.distances(h, evidence) / self.temperature
        return dist.OneHotCategorical(logits=logits).to_event(2)
