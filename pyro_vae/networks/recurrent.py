"""A recurrent network of sequences in which steps may be missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_vae._checks import checked
from pyro_vae._recipes import Remembered


class GRU(Remembered, nn.Module):
    r"""A gated recurrent unit, in either direction, over the steps that are there.

    .. math::
        r = \sigma(W_r x_t + U_r h), \quad u = \sigma(W_u x_t + U_u h), \quad
        n = \tanh(W_n x_t + r \, (U_n h)), \qquad h_t = (1 - u) \, n + u \, h

    with biases, where h is the state of the step before (behind, where it runs backward). At a step that is not there
    the state stays as it is, so that padding at an end does nothing.

    Args:
        in_dim: size of x_t.
        hidden_dim: size of h.
        starts: whether the state before the first step is learned; else it is always given.

    Source: Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, section 2.3, in the form of
        ``torch.nn.GRU``.
    """

    @checked
    def __init__(self, in_dim: int, hidden_dim: int, starts: bool = True) -> None:
        super().__init__()
        self.inputs = nn.Linear(in_dim, 3 * hidden_dim)
        self.states = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.start = nn.Parameter(torch.zeros(hidden_dim)) if starts else None

    def cell(self, seen: Tensor, h: Tensor) -> Tensor:
        """The next state, of ``seen: [*, 3 H]`` by :attr:`inputs` and the one before it, ``[*, H]``."""
        x_reset, x_update, x_new = seen.chunk(3, -1)
        h_reset, h_update, h_new = self.states(h).chunk(3, -1)
        update = (x_update + h_update).sigmoid()
        new = (x_new + (x_reset + h_reset).sigmoid() * h_new).tanh()
        return new + update * (h - new)

    def forward(
        self,
        x: Tensor,
        present: Tensor | None = None,
        *,
        backward: bool = False,
        start: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """The state at each step, ``[*, T, H]``.

        Args:
            x: ``[*, T, in_dim]``, finite also where nothing is.
            present: ``[*, T]``, booleans; by default all steps are there.
            backward: whether it runs from the last step to the first.
            start: ``[*, H]``, the state before the first step, by default the learned one.
            context: ``[*, 3 H]``, added to what is seen of each step.
        """
        seen = self.inputs(x)
        seen = seen if context is None else seen + context.unsqueeze(-2)
        first = self.start if start is None else start
        assert first is not None
        h = first.expand(*seen.shape[:-2], -1)
        steps = list(enumerate(seen.unbind(-2)))  # a slice at each step would have a gradient of the size of all
        found = []
        for t, step in reversed(steps) if backward else steps:
            new = self.cell(step, h)
            h = new if present is None else torch.where(present[..., t].unsqueeze(-1), new, h)
            found.append(h)
        return torch.stack(found[::-1] if backward else found, -2)
