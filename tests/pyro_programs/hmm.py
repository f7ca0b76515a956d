"""Hidden Markov models: the states are enumerated along a loop, or summed out by ``DiscreteHMM``."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.infer.autoguide import AutoDelta
from torch.distributions import constraints

from pyro_programs import data

HIDDEN = 3


def model_loop(sequences, lengths, batch_size=None, include_prior=True):
    data_dim = sequences.shape[-1]
    with poutine.mask(mask=include_prior):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(HIDDEN) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([HIDDEN, data_dim]).to_event(2))
    tones_plate = pyro.plate("tones", data_dim, dim=-1)
    for i in pyro.plate("sequences", len(sequences), batch_size):
        length = lengths[i]
        sequence = sequences[i, :length]
        x = 0
        for t in pyro.markov(range(length)):
            x = pyro.sample(f"x_{i}_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
            with tones_plate:
                pyro.sample(f"y_{i}_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequence[t])


def model_plate(sequences, lengths, batch_size=None, include_prior=True):
    num_sequences, _, data_dim = sequences.shape
    with poutine.mask(mask=include_prior):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(HIDDEN) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([HIDDEN, data_dim]).to_event(2))
    tones_plate = pyro.plate("tones", data_dim, dim=-1)
    with pyro.plate("sequences", num_sequences, batch_size, dim=-2) as batch:
        lengths = lengths[batch]
        x = 0
        for t in pyro.markov(range(lengths.max())):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                with tones_plate:
                    pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[batch, t])


def model_vectorized(observed):
    """Real-valued sequences ``[N, T]`` whose states are summed out by the distribution."""
    init = pyro.param("init", torch.ones(HIDDEN) / HIDDEN, constraint=constraints.simplex)
    trans = pyro.sample("trans", dist.Dirichlet(torch.ones(HIDDEN) + 2 * torch.eye(HIDDEN)).to_event(1))
    loc = pyro.sample("loc", dist.Normal(torch.linspace(-1.0, 1.0, HIDDEN), 1.0).to_event(1))
    with pyro.plate("sequences", len(observed)):
        hmm = dist.DiscreteHMM(init.log(), trans.log(), dist.Normal(loc, 0.5), duration=observed.size(1))
        pyro.sample("y", hmm, obs=observed)


def make(model):
    guide = AutoDelta(poutine.block(model, expose_fn=lambda msg: msg["name"].startswith("probs_")))
    sequences, lengths = data.sequences(count=4, features=4)
    return model, guide, [(sequences, lengths)]


def make_vectorized():
    return model_vectorized, AutoDelta(model_vectorized), [(data.images(10, 5)[:, 0] * 2 - 1,)]
