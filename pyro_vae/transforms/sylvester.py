"""Sylvester flows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_vae._checks import checked, whole
from pyro_vae.transforms.base import Parameters, Step
from pyro_vae.transforms.householder import reflected, reflections
from pyro_vae.transforms.roots import tanh_root

Form = Literal["orthogonal", "householder", "triangular"]
Map = Callable[[Tensor], Tensor]

_ITERATIONS = 16
_LEAST_SINGULAR_VALUE = 1e-4  # as a share of the largest: what the iterations are made for


class Sylvester(Step):
    r"""A planar flow with M columns.

    .. math:: y = z + Q R \tanh(\tilde R Q^\top z + b), \quad
        \log |\det| = \sum_m \log(1 + r_{mm} \tilde r_{mm} (1 - \tanh^2(\cdot)_m))

    Q: D x M has orthonormal columns, R and :math:`\tilde R` are upper triangular, and a tanh keeps their diagonals in
    (-1, 1), which makes it invertible. The inverse is a back substitution over the M columns with one scalar equation
    each, solved numerically; its first-order gradients are exact. With one column it is a planar flow. An amortized
    orthogonal Q is orthogonalized for each datum, which costs most; the other forms need no such thing.

    Args:
        latent_dim, context_dim: see :class:`Step`.
        num_columns: M, by default D // 2 (at least 1) for an orthogonal Q; the other forms have M = D.
        form: what Q is: ``"orthogonal"``, any, by iteration (see :func:`orthonormal`); ``"householder"``, a product of
            ``num_reflections`` reflections; ``"triangular"``, the identity or the reversal of the dimensions.
        num_reflections: of the householder form.
        reverse: for the triangular form, that Q is the reversal; let it alternate from step to step.

    Raises:
        ValueError: if ``form`` is something else, or a size does not fit the form.

    Source: van den Berg, Hasenclever, Tomczak & Welling (2018).
    """

    @checked(but=("latent_dim", "context_dim", "num_columns", "num_reflections"))
    def __init__(
        self,
        latent_dim: int,
        context_dim: int | None = None,
        *,
        num_columns: int | None = None,
        form: Form = "orthogonal",
        num_reflections: int = 8,
        reverse: bool = False,
    ) -> None:
        super().__init__(latent_dim, context_dim)
        if reverse and form != "triangular":
            raise ValueError(f"reverse=True is for a Sylvester step with form='triangular'; got form={form!r}.")
        any_number = form == "orthogonal"
        if num_columns is None:
            num_columns = max(1, latent_dim // 2) if any_number else latent_dim
        whole(num_columns=num_columns, num_reflections=num_reflections)
        if num_columns > latent_dim or not (any_number or num_columns == latent_dim):
            raise ValueError(
                f"a Sylvester step with form={form!r} has {'at most ' * any_number}as many columns as the latent has "
                f"dimensions, {latent_dim}; got num_columns={num_columns}."
            )
        self.form, self.reverse = form, reverse
        self.num_columns = m = num_columns
        # A small R makes the start nearly the identity; the diagonal of R~ is tanh(1).
        start = [0.01 * torch.randn(m, m), torch.ones(m), torch.zeros(m)]
        if form == "orthogonal":
            start.append(torch.nn.init.orthogonal_(torch.empty(latent_dim, m)))
        elif form == "householder":
            start.append(reflections(num_reflections, latent_dim))
        self.numbers = Parameters(start, context_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, form={self.form!r}, num_columns={self.num_columns}"

    def theta(self, context: Tensor | None) -> Columns:
        # One square matrix holds R in its upper triangle and what R~ has above the diagonal, transposed, in its lower.
        square, diagonal, bias, *frame = super().theta(context)
        r = square.triu(1) + torch.diag_embed(square.diagonal(dim1=-2, dim2=-1).tanh())
        r_tilde = square.mT.triu(1) + torch.diag_embed(diagonal.tanh())
        return Columns(r, r_tilde, bias, *self._frame(*frame))

    def _frame(self, frame: Tensor | None = None) -> tuple[Map, Map]:
        """The maps z -> Q^T z and a -> Q a."""
        if frame is None:
            maps = (lambda x: x.flip(-1)) if self.reverse else (lambda x: x)
            return maps, maps
        if self.form == "householder":
            return lambda x: reflected(x, frame, back=True), lambda a: reflected(a, frame)
        matrix = orthonormal(frame)
        return lambda x: _product(matrix.mT, x), lambda a: _product(matrix, a)

    def call_and_ladj(self, z: Tensor, theta: Columns) -> tuple[Tensor, Tensor]:
        shift, ladj = theta.shift_and_ladj(theta.into(z))
        return z + shift, ladj

    def inverse_and_ladj(self, y: Tensor, theta: Columns) -> tuple[Tensor, Tensor]:
        shift, ladj = theta.shift_and_ladj(theta.solved(theta.into(y)))
        return y - shift, -ladj


class Columns(NamedTuple):
    """What a Sylvester step does in the M columns of Q, by the maps z -> Q^T z (``into``) and a -> Q a (``out``)."""

    r: Tensor
    r_tilde: Tensor
    bias: Tensor
    into: Map
    out: Map

    def slopes(self) -> Tensor:
        """1 + r r~, by the diagonals."""
        return 1 + self.r.diagonal(dim1=-2, dim2=-1) * self.r_tilde.diagonal(dim1=-2, dim2=-1)

    def shift_and_ladj(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Q R tanh(R~ a + b), and the log-determinant of the step there."""
        t = self._tanh(a)
        # 1 + (slope - 1) (1 - t^2), as a sum of what is not negative.
        ladj = (t.square() + (1 - t.square()) * self.slopes()).log().sum(-1)
        return self.out(_product(self.r, t)), ladj

    def _tanh(self, a: Tensor) -> Tensor:
        return (_product(self.r_tilde, a) + self.bias).tanh()

    def solved(self, c: Tensor) -> Tensor:
        """a with a + R tanh(R~ a + b) = c, with the gradients of the implicit function."""
        with torch.no_grad(), torch.autocast(c.device.type, enabled=False):
            a = self._back_substitution(c)
            t = self._tanh(a)
            # d/da of a + R tanh(R~ a + b), upper triangular
            jacobian = self.r @ ((1 - t.square()).unsqueeze(-1) * self.r_tilde)
            jacobian = jacobian + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        residual = a + _product(self.r, self._tanh(a)) - c
        return a - torch.linalg.solve_triangular(jacobian, residual.unsqueeze(-1), upper=True).squeeze(-1)

    def _back_substitution(self, c: Tensor) -> Tensor:
        r, r_tilde, slopes = self.r, self.r_tilde, self.slopes()
        rest, inner = c, self.bias
        a = []
        for m in reversed(range(c.shape[-1])):
            t = tanh_root(slopes[..., m], r_tilde[..., m, m] * rest[..., m] + inner[..., m], 6).tanh()
            a.append(rest[..., m] - r[..., m, m] * t)
            rest = rest[..., :m] - r[..., :m, m] * t.unsqueeze(-1)
            inner = inner[..., :m] + r_tilde[..., :m, m] * a[-1].unsqueeze(-1)
        return torch.stack(a[::-1], -1)


def orthonormal(matrix: Tensor) -> Tensor:
    r"""The matrix with orthonormal columns that is nearest to ``matrix: [*, D, M]``, :math:`A (A^\top A)^{-1/2}`.

    .. math:: Q_{k + 1} = Q_k (I + \tfrac 1 2 (I - Q_k^\top Q_k))

    from :math:`Q_0 = A / c`, with :math:`c^2 = \|A^\top A\|_\infty \ge \|A\|_2^2`, a constant that the limit does not
    depend on. The first steps take :math:`\rho_k Q_k` for :math:`Q_k`, :math:`1.5 \ge \rho_k \to 1`, which lets a small
    singular value grow by 2.25 and not by 1.5 each: after 16 steps the columns are orthonormal to rounding, in float32
    and float64, where the condition number of A is below about 10,000.

    Source: Björck & Bowie (1971); van den Berg et al. (2018); the scale: Chen & Chow (2014).
    """
    least = _LEAST_SINGULAR_VALUE
    with torch.autocast(matrix.device.type, enabled=False):
        gram = (matrix.mT @ matrix).detach()
        q = matrix / gram.abs().sum(-1, keepdim=True).amax(-2, keepdim=True).sqrt()
        for _ in range(_ITERATIONS):
            # The best scale sends the ends of [least, 1] to one value; much above 1.5 it would send 1 near 0.
            scale = min(1.5, math.sqrt(3 / (1 + least + least * least)))
            least = min(x * (3 - x * x) / 2 for x in (scale * least, scale))
            q = (1.5 * scale) * q - (0.5 * scale**3) * q @ (q.mT @ q)
    return q


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """``[*, M, N], [*, N] -> [*, M]``; leading dimensions broadcast without copies of the matrix."""
    with torch.autocast(vector.device.type, enabled=False):
        return torch.einsum("...mn,...n->...m", matrix, vector)
