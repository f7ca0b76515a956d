"""What is found out about a pair by a batch, before the first step of a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import nn

from pyro_vae._checks import warn
from pyro_vae.batches import leaves, num_rows
from pyro_vae.check import report_on
from pyro_vae.estimators import SGVB_A, TCVAE, Enumeration, Estimator, SVILoss
from pyro_vae.pair import data_frame, evaluating, latent_sites, modules_of, random_sites, run
from pyro_vae.pair.arguments import Converted
from pyro_vae.pair.protocols import ChecksBatch, DoubtsData
from pyro_vae.pair.signatures import argument_names, num_taken
from pyro_vae.pair.sites import inside
from pyro_vae.pair.supports import Supports
from pyro_vae.pair.turns import fork_rng
from pyro_vae.training.default import Chosen, chosen

Devices = Sequence[torch.device]  # GPUs whose random states a look leaves alone


def checked(
    pair: nn.Module,
    kinds: Sequence[Converted],
    asked: Estimator | None,
    supports: Supports | None,
    valid: bool,
    devices: Devices,
) -> Chosen:
    """A copy of the estimator that was asked for, or the ELBO that suits the pair, checked by a batch of each kind."""
    asked = copy.copy(asked)
    with fork_rng(devices):
        reports = []
        for batch in kinds:
            if isinstance(pair, ChecksBatch):
                pair.check_batch(*batch)
            reports.append(report_on(pair, batch, asked, supports))
        batch, report = kinds[0], reports[0]
        for note in {note: None for found in reports for note in found.notes}:
            if "is not trained" in note:  # which SVI would train, or which is fixed on purpose
                warn(note)
        bounded = valid and not isinstance(asked, SVILoss)
        if bounded and any(site.guide == "Delta" for site in report.sites):
            with evaluating(pair):  # of a point there may be no bound to be told
                SGVB_A(max_plate_nesting=1 if asked is None else asked.room).mean_bound(
                    pair, [batch], num_data=math.inf
                )
        found = Chosen(asked, "") if asked else chosen(pair, kinds, reports)
        if valid and isinstance(found.estimator, Enumeration):
            with evaluating(pair):  # of a sum over all data there is none, either
                found.estimator.mean_bound(pair, [batch], num_data=math.inf)
    if found.why:
        warn(found.why)
    return found


def num_data(
    pair: nn.Module, batch: tuple[Any, ...], known: int | None, estimator: Estimator, devices: Devices
) -> int | None:
    """The number of training data, ``known`` if it is given; not needed where nothing is shared among them.

    Raises:
        ValueError: if it is needed, and neither given nor known.
    """
    if known is not None or estimator.num_data is not None or isinstance(estimator, SVILoss):
        return known
    with evaluating(pair), torch.no_grad(), fork_rng(devices):
        traces = run(pair, *batch)
    plate = data_frame(traces.model_trace, num_rows(batch))
    if plate is None or plate.full_size > plate.size:  # the program tells it
        return None
    shared = [name for trace in traces for name, site in random_sites(trace).items() if not inside(site, plate)]
    if shared or isinstance(estimator, TCVAE):
        why = f"{shared[0]!r} stands outside the data plate" if shared else "TCVAE weighs by it"
        raise ValueError(
            f"the number of data N is not known: the loader does not tell it. {why}, so that the bound of a datum "
            "depends on N. Give fit(..., num_data=N)."
        )
    return None


def is_shuffled(pair: nn.Module, batch: tuple[Any, ...], num_batches: int | None, devices: Devices) -> bool:
    """Whether the order of the data is free: an AutoGuide keeps a latent of a datum by its place in the batch.

    Raises:
        ValueError: if there is such a latent and more than one batch.
    """
    if not any(isinstance(part, AutoGuide) for module in modules_of(pair) for part in module.modules()):
        return True
    with evaluating(pair), torch.no_grad(), fork_rng(devices):
        traces = run(pair, *batch)
    plate = data_frame(traces.model_trace, num_rows(batch))
    if plate is None:
        return True
    in_model = latent_sites(traces.model_trace)
    kept = [name for name, site in in_model.items() if name in traces.guide_trace.nodes and inside(site, plate)]
    if not kept or plate.size < plate.full_size:  # then the program tells the places
        return True
    if num_batches != 1:
        raise ValueError(
            f"the guide, one of Pyro's AutoGuides, keeps {kept[0]!r} of a datum by its place in the batch, so that "
            "a second batch would meet the values of the first. Give all data in one batch, fit(..., "
            "batch_size=N), or a guide that is a function of the data."
        )
    return False


def say_labels(pair: nn.Module, train: Any, batch: tuple[Any, ...]) -> None:
    """Says of labels, which a split keeps for figures, that they do not train a pair that could take them."""
    if train.labels is None or len(train.tensors) > 1 or argument_names(pair)[1:2] == ["lengths"]:
        return
    if num_taken(pair, (next(leaves(batch)), train.labels)) == (2, False):
        warn(
            f"the programs of {type(pair).__name__} take a second argument, but the labels of {train.name!r} "
            "are kept for figures and not passed. If they are that argument, give data.with_labels() (data as load "
            "gives them), TensorDataset(x, labels), or on the command line --with-labels true.",
        )


def say_doubts(pair: nn.Module, batch: tuple[Any, ...]) -> None:
    """Says what the likelihood of the pair has to say of the data; of several it is not known whose x is."""
    parts = [part for part in pair.modules() if isinstance(part, DoubtsData)]
    if len(parts) == 1 and (doubt := parts[0].doubt(next(leaves(batch)))):
        warn(doubt)


def announced(pair: nn.Module, batch: tuple[Any, ...], devices: Devices) -> tuple[dict[int, str], int | None]:
    """The names by which the programs announce their parameters, and N of a data plate that subsamples.

    Where there is no such plate, losses of Pyro's are sums over the batch.
    """
    record = poutine.trace(param_only=True)
    with evaluating(pair), torch.no_grad(), fork_rng(devices), record as found:
        plate = data_frame(run(pair, *batch).model_trace, num_rows(batch))
    sites: Any = found.trace.nodes
    names = {id(site["value"].unconstrained()): name for name, site in sites.items()}
    return names, None if plate is None or plate.full_size == plate.size else plate.full_size
