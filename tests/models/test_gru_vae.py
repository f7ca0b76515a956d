"""GRUVAE: its density is one, and its draws are of it. What padding does is tested with the deep Markov model."""

from __future__ import annotations

import itertools

import torch

from pyro_vae.models import GRUVAE


def small(**options: object) -> GRUVAE:
    torch.manual_seed(0)
    pair = GRUVAE((3, 1), latent_dim=2, rnn_dim=4, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in pair.decoder.parameters():
            parameter.mul_(3)  # far from independent steps
    return pair


def test_sequences_have_probabilities_by_which_they_are_drawn() -> None:
    pair, z = small(), torch.tensor([[0.5, -1.0]])
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).unsqueeze(-1)
    p = pair.emit(z.expand(8, 2), 3).log_prob(every).exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))
    drawn = pair.emit(z.expand(40_000, 2), 3).sample()
    counts = torch.stack([(drawn == one).all(-1).all(-1).double().mean() for one in every])
    assert ((counts - p).abs() < 5 * (p * (1 - p) / 40_000).sqrt() + 1e-4).all()
    most = pair.emit(z, 3).mode
    assert most.shape == (1, 3, 1)


def test_a_step_sees_those_before_it_alone() -> None:
    pair = small().eval()
    x, z = torch.rand(1, 3, 1).requires_grad_(), torch.randn(1, 2)
    logits = pair.decoder.conditionals(x, z).base_dist.logits[0, :, 0]
    for t in range(3):
        (slope,) = torch.autograd.grad(logits[t], x, retain_graph=True, allow_unused=True)
        slope = torch.zeros(3) if slope is None else slope.flatten()
        assert (slope[:t] != 0).all()
        assert (slope[t:] == 0).all()


def test_forecasts_go_on_from_the_end_of_each_sequence() -> None:
    """A forecast is drawn from p(x_t | those before, z), at the z of the guide."""
    torch.manual_seed(0)
    pair, lengths = small().eval(), torch.tensor([3, 1])
    x = torch.tensor([[[1.0], [0.0], [1.0]], [[1.0], [0.0], [0.0]]])
    ahead = pair.forecast(x, 1, lengths, num_samples=40_000)
    z = pair.encode(x, lengths).sample((40_000,))
    for b, count in enumerate(lengths.tolist()):
        longer = torch.cat([x[b, :count], torch.ones(1, 1)]).expand(40_000, -1, -1)
        with torch.no_grad():
            p = pair.decoder.conditionals(longer, z[:, b]).base_dist.probs[:, -1, 0].mean()
        assert abs(ahead[:, b, 0, 0].mean() - p) < 5 * 0.5 / 40_000**0.5 * 1.5
    assert ahead.shape == (40_000, 2, 1, 1)


def test_steps_are_dropped_in_training_alone() -> None:
    pair, z = small(dropout=1.0), torch.randn(1, 2)
    x, other = torch.ones(1, 3, 1), torch.zeros(1, 3, 1)

    def last(x: torch.Tensor) -> torch.Tensor:
        return pair.decoder.conditionals(x, z).base_dist.logits[0, -1]

    assert torch.equal(last(x), last(other))
    pair.eval()
    assert not torch.equal(last(x), last(other))
