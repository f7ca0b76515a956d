"""Latent Dirichlet allocation: global topics, documents in mini-batches with an amortized guide, words enumerated."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

TOPICS, WORDS, DOCUMENTS, LENGTH = 3, 12, 20, 8


def model(data=None, batch_size=None):
    with pyro.plate("topics", TOPICS):
        topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0 / TOPICS, 1.0))
        topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(WORDS) / WORDS))
    with pyro.plate("documents", DOCUMENTS) as ind:
        if data is not None:
            data = data[:, ind]
        doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
        with pyro.plate("words", LENGTH):
            word_topics = pyro.sample("word_topics", dist.Categorical(doc_topics), infer={"enumerate": "parallel"})
            data = pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=data)
    return topic_weights, topic_words, data


def make_predictor(hidden=10):
    return nn.Sequential(nn.Linear(WORDS, hidden), nn.Sigmoid(), nn.Linear(hidden, TOPICS), nn.Softmax(-1))


def parametrized_guide(predictor, data, batch_size=None):
    topic_weights_posterior = pyro.param(
        "topic_weights_posterior", lambda: torch.ones(TOPICS), constraint=constraints.positive
    )
    topic_words_posterior = pyro.param(
        "topic_words_posterior", lambda: torch.ones(TOPICS, WORDS) + torch.rand(TOPICS, WORDS),
        constraint=constraints.greater_than(0.5),
    )  # fmt: skip
    with pyro.plate("topics", TOPICS):
        pyro.sample("topic_weights", dist.Gamma(topic_weights_posterior, 1.0))
        pyro.sample("topic_words", dist.Dirichlet(topic_words_posterior))
    pyro.module("predictor", predictor)
    with pyro.plate("documents", DOCUMENTS, batch_size) as ind:
        data = data[:, ind]
        counts = torch.zeros(WORDS, data.shape[1]).scatter_add(0, data, torch.ones(data.shape))
        doc_topics = predictor(counts.transpose(0, 1))
        pyro.sample("doc_topics", dist.Delta(doc_topics, event_dim=1))


def make(batch_size=None):
    words = torch.randint(WORDS, (LENGTH, DOCUMENTS), generator=torch.Generator().manual_seed(6))
    guide = functools.partial(parametrized_guide, make_predictor())
    return model, guide, [(words,) if batch_size is None else (words, batch_size)]
