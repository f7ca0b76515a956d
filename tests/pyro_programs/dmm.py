"""A deep Markov model of sequences of several lengths; its guide is a recurrent network, with IAF if asked for."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import affine_autoregressive
from torch import nn

from pyro_programs import data


def reverse_sequences(mini_batch, seq_lengths):
    reversed_mini_batch = torch.zeros_like(mini_batch)
    for b in range(mini_batch.size(0)):
        steps = seq_lengths[b]
        reversed_mini_batch[b, :steps] = mini_batch[b, :steps].flip(0)
    return reversed_mini_batch


def pad_and_reverse(rnn_output, seq_lengths):
    rnn_output, _ = nn.utils.rnn.pad_packed_sequence(rnn_output, batch_first=True)
    return reverse_sequences(rnn_output, seq_lengths)


def mini_batch_of(sequences, lengths):
    """The four arguments of model and guide."""
    mask = (torch.arange(sequences.size(1)) < lengths[:, None]).float()
    packed = nn.utils.rnn.pack_padded_sequence(reverse_sequences(sequences, lengths), lengths, batch_first=True)
    return sequences, packed, mask, lengths


class GatedTransition(nn.Module):
    def __init__(self, z_dim, hidden):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, z_dim), nn.Sigmoid())
        self.proposed = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, z_dim))
        self.loc = nn.Linear(z_dim, z_dim)
        self.loc.weight.data = torch.eye(z_dim)
        self.scale = nn.Linear(z_dim, z_dim)

    def forward(self, z_t_1):
        gate, proposed = self.gate(z_t_1), self.proposed(z_t_1)
        loc = (1 - gate) * self.loc(z_t_1) + gate * proposed
        return loc, nn.functional.softplus(self.scale(nn.functional.relu(proposed)))


class Combiner(nn.Module):
    def __init__(self, z_dim, rnn_dim):
        super().__init__()
        self.hidden, self.loc, self.scale = (
            nn.Linear(z_dim, rnn_dim),
            nn.Linear(rnn_dim, z_dim),
            nn.Linear(rnn_dim, z_dim),
        )

    def forward(self, z_t_1, h_rnn):
        h_combined = 0.5 * (torch.tanh(self.hidden(z_t_1)) + h_rnn)
        return self.loc(h_combined), nn.functional.softplus(self.scale(h_combined))


class DMM(nn.Module):
    def __init__(self, input_dim=6, z_dim=3, hidden=8, rnn_dim=8, num_iafs=0):
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, input_dim), nn.Sigmoid())
        self.trans, self.combiner = GatedTransition(z_dim, hidden), Combiner(z_dim, rnn_dim)
        self.rnn = nn.RNN(input_size=input_dim, hidden_size=rnn_dim, nonlinearity="relu", batch_first=True)
        self.iafs = [affine_autoregressive(z_dim, hidden_dims=[8]) for _ in range(num_iafs)]
        self.iafs_modules = nn.ModuleList(self.iafs)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, rnn_dim))

    def model(self, mini_batch, mini_batch_reversed, mini_batch_mask, mini_batch_seq_lengths, annealing_factor=1.0):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                z_loc, z_scale = self.trans(z_prev)
                with poutine.scale(scale=annealing_factor):
                    z_dist = dist.Normal(z_loc, z_scale).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                    z_t = pyro.sample(f"z_{t}", z_dist)
                emission_probs_t = self.emitter(z_t)
                x_dist = dist.Bernoulli(emission_probs_t).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                pyro.sample(f"obs_x_{t}", x_dist, obs=mini_batch[:, t - 1, :])
                z_prev = z_t

    def guide(self, mini_batch, mini_batch_reversed, mini_batch_mask, mini_batch_seq_lengths, annealing_factor=1.0):
        T_max = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0_contig = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output, _ = self.rnn(mini_batch_reversed, h_0_contig)
        rnn_output = pad_and_reverse(rnn_output, mini_batch_seq_lengths)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, T_max + 1)):
                z_loc, z_scale = self.combiner(z_prev, rnn_output[:, t - 1, :])
                if len(self.iafs) > 0:
                    z_dist = TransformedDistribution(dist.Normal(z_loc, z_scale), self.iafs)
                    z_dist = z_dist.mask(mini_batch_mask[:, t - 1])
                else:
                    z_dist = dist.Normal(z_loc, z_scale).mask(mini_batch_mask[:, t - 1 : t]).to_event(1)
                with poutine.scale(scale=annealing_factor):
                    z_prev = pyro.sample(f"z_{t}", z_dist)


def make(num_iafs=0):
    dmm = DMM(num_iafs=num_iafs)
    return dmm, [mini_batch_of(*data.sequences())]
