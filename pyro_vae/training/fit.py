"""fit(): the only training loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae._checks import warn
from pyro_vae._files import holding
from pyro_vae.compiled import Compile, Precision
from pyro_vae.data import Data, as_data, draws
from pyro_vae.pair import as_pair, device_of, kept_modes
from pyro_vae.pair.signatures import label_argument, num_taken
from pyro_vae.pair.turns import in_turn
from pyro_vae.ranks import Ranks
from pyro_vae.training.interrupts import Signals
from pyro_vae.training.run import Run
from pyro_vae.training.schedules import Schedule
from pyro_vae.training.settings import OptimizerFactory, SchedulerFactory, Settings
from pyro_vae.training.step import check_trainable
from pyro_vae.training.trainer import Trainer
from pyro_vae.training.weight_priors import WeightPenalty, WeightPrior

default_optimizer: OptimizerFactory = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)


def fit(
    pair: Any,
    data: Any,
    *,
    estimator: ELBO | Callable[..., Any] | None = None,
    optimizer: OptimizerFactory | PyroOptim = default_optimizer,
    scheduler: Schedule | SchedulerFactory | None = None,
    epochs: int = 100,
    batch_size: int = 128,
    weight_prior: WeightPrior | WeightPenalty | None = None,
    beta: float | Schedule | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    compile: Compile = "auto",
    precision: Precision = "float32",
    device: torch.device | str | None = None,
    clip_norm: float | None = None,
    average: float | None = None,
    patience: int | None = None,
    num_data: int | None = None,
    checkpoint_every: float = 30.0,
    progress: bool = True,
    callbacks: Sequence[Callable[[Run], Any]] = (),
) -> Run:
    r"""Trains a pair by stochastic gradient variational Bayes.

    Each step draws a mini-batch :math:`x_{1..M}`, estimates :math:`\frac 1 M \sum_i \mathcal L(x_i)` and its gradient,
    and takes one optimizer step for all parameters. The whole of it is a function of ``seed``: on a CPU the same seed
    gives the same bits, also when the run was interrupted and resumed; what programs, data sets and schedules draw from
    numpy's and Python's global generators is part of it. The caller's random states are left as they were.
    It trains inside ``torch.no_grad`` and ``torch.inference_mode`` as well. Of several threads that call it, or
    evaluate a pair, one runs and the others wait, since Pyro's handlers and torch's generator are the process's: a
    callback may train another pair, but not wait for a thread that does. What a thread draws from torch's generator
    outside of this library, or a pair that it makes, moves the noise of a training that runs meanwhile. Ctrl-C and
    SIGTERM are met where the main thread trains; in another one they do what they do to any program.

    Args:
        pair: an object with ``model`` and ``guide``.
        data: what :func:`pyro_vae.data.load` gives, a tensor, an array, a list, a ``TensorDataset`` (its tensors are
            the arguments of model and guide), a dictionary of tensors (arguments by name), a ``Dataset``, a
            ``DataLoader`` or another iterable of batches, a :class:`~pyro_vae.data.Mixed` of labeled and unlabeled
            data, or ``(train, valid)`` of these, see :func:`pyro_vae.data.as_data`; ``None`` for programs without
            arguments, which a loss of Pyro's trains. Only uint8 are pixels. However data are wrapped, the programs are
            given what they take (:mod:`pyro_vae.pair.arguments`), and a warning says what is left out. Labels are the
            second argument by ``data.with_labels()``, and where a program does not run without one that is called y,
            c, label, target or class (or several of these), of which a warning tells. Batches of a
            loader may hold what is no tensor, and be of several kinds in turn, ``(x,)`` and ``(x, y)``: each kind is
            checked before its first step. What is the same for all batches is bound beforehand:
            ``Pair(functools.partial(model, size=3), functools.partial(guide, size=3))``.
        estimator: the objective, by default ``SGVB_B()``, or ``SGVB_A()`` for a guide that draws the latents in another
            order than the model; where latents are discrete ``Enumeration()``, or ``ScoreFunction()`` where they cannot
            be summed out, and a warning and :attr:`Run.notes` say so. Its ``num_particles`` is the L samples a datum.
            Also what ``pyro.infer.SVI`` takes as its loss: an ELBO of Pyro's, one of a class derived from these, a
            function ``loss(model, guide, *args)``. It trains what ``SVI.step`` would, also a pair of which no bound is
            known, and the history tells its loss per datum, ``loss`` and ``valid_loss``, in place of bounds
            (:class:`~pyro_vae.estimators.SVILoss`).
        optimizer: makes a torch optimizer of the parameters, functools.partial(torch.optim.Adam, lr=1e-3); or one of
            ``pyro.optim``, with options for all or by name, clipping and scheduler (stepped once an epoch), which meets
            gradients of sums over the data and makes the updates of ``SVI``. fit makes one torch optimizer of its
            options, and the object stays as it was.
        scheduler: a :class:`~pyro_vae.training.Schedule` that multiplies the learning rate at every step, or what
            makes a torch scheduler of the optimizer, which is stepped once an epoch.
        epochs: passes over the training set.
        batch_size: data in a mini-batch, M.
        weight_prior: a prior over the weights: MAP instead of maximum likelihood. A normal one
            (:class:`~pyro_vae.WeightPrior`), or one on the layers' norms (:class:`~pyro_vae.SpectralPrior`).
        beta: weight of the latents' terms, or its schedule, short for ``schedules={"beta": ...}``; by default the
            estimator's own.
        schedules: moves, by name, numbers of the estimator (:attr:`Estimator.scheduled`: beta, a capacity) and buffers
            of the pair that are one number: ``{"posterior.network.corruption.level": Linear(0.5, 0.0)}``, as in
            ``named_buffers()``. Each step sees the value of its place. Validation, and the pair in the end, see a
            buffer's value of the end of the epoch, also where ``patience`` goes back to earlier weights; ``average``
            leaves it alone.
        seed: of the noise, the order and the dynamic binarization. The initial weights are the pair's own.
        out: folder for ``metrics.jsonl`` and ``checkpoint/`` (and TensorBoard's files, where it is installed).
        resume: go on from the checkpoint in ``out``, if there is one.
        compile: see :class:`~pyro_vae.training.TrainingStep`.
        precision: ``"bfloat16"`` for matrix products in bfloat16, the parameters staying in float32; ``"auto"`` for
            that where the machine has them natively (so that another machine may give other bits).
        device: where to train; by default where the pair is.
        clip_norm: the gradient's norm is clipped to this.
        average: decay of an exponential moving average of the weights, which validation and the trained pair then use.
        patience: stop after so many epochs without a better validation bound, and go back to the best weights. A bound
            that is not finite is never better.
        num_data: number of training data N, by which the prior over the weights, and what is random outside of the data
            plate, is divided for each datum. By default what the data tell; a loader without a length does not.
        checkpoint_every: seconds between checkpoints (there is always one at the end).
        progress: show a progress bar.
        callbacks: called with the :class:`Run` after each epoch. What they draw (from torch, numpy or Python) is fixed
            by seed and epoch, and none of the run's own draws. After them each part of the pair is in the mode, of
            training or evaluation, in which it was; attributes and buffers that they set stay set. Of several processes
            each calls its own, with the same history: one that writes does so where ``torch.distributed.get_rank()`` is
            0, and one that changes the pair does so on all.

    Raises:
        ValueError: if the pair fails its :func:`~pyro_vae.check`, the batch is larger than the data, ``out`` belongs to
            another run, or to one that goes on in another process or thread, or could not keep all of it, training
            and validation data are of other kinds, x holds NaN that the programs do not mask, a number is out of its
            range, N is needed and not known, or ``schedules`` names nothing that it could move.
        TypeError: if an argument is of another kind, such as a class for ``estimator``.
        NonFiniteError: if the loss or a gradient is not finite. The last good checkpoint stays.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a checkpoint.

    Source: Kingma & Welling (2013), algorithm 1.

    >>> import torch, pyro_vae as pv
    >>> vae, x = pv.models.MLPVAE((5,), latent_dim=2, hidden=(8,)), (torch.rand(30, 5) > 0.5).float()
    >>> run = pv.fit(vae, (x[:20], x[20:]), epochs=2, batch_size=10, compile="eager", progress=False)
    >>> len(run.history), sorted({"epoch", "samples", "train", "valid"} & set(run.history[-1]))
    (2, ['epoch', 'samples', 'train', 'valid'])
    """
    settings = Settings(**{name: value for name, value in locals().items() if name not in ("pair", "data")})
    with holding(Path(out) if out is not None and Ranks().first else None):
        return trained(pair, data, settings)


def trained(pair: Any, data: Any, settings: Settings) -> Run:
    """:func:`fit` by one who holds the output folder (:func:`pyro_vae._files.holding`)."""
    device, out = settings.device, None if settings.out is None else Path(settings.out)
    with in_turn():
        pair = as_pair(pair)
        _check_tuple(pair, data)
        with draws.Apart(draws.READ, settings.seed):  # what a data set draws while it is read
            data = as_data(data, missing=True)  # which the programs may ask for
        if data.train.labels is not None and len(data.train.tensors) == 1 and (name := label_argument(pair)):
            data = Data(data.name, data.train, data.valid).with_labels(name)
            warn(f"the labels of {data.name!r} are {name}, the second argument of model and guide.")
        place = device_of(pair) if device is None else torch.device(device)
        check_trainable(pair)
        pair.to(place)
        apart = draws.Apart(draws.RUN, settings.seed, devices=[place] if place.type == "cuda" else [])
        with torch.inference_mode(False), torch.enable_grad(), apart, kept_modes(pair), Signals(out) as signals:
            torch.manual_seed(settings.seed)
            trainer = Trainer(pair, data, settings, place)
            with pyro.validation_enabled(False):
                trainer.train(signals)
        return trainer.run


def _check_tuple(pair: nn.Module, data: Any) -> None:
    """Refuses two arrays of one shape for programs of two arguments: they may be these, or a train and a valid set."""
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(v, (Tensor, np.ndarray)) for v in data)):
        return
    values = [torch.as_tensor(value) for value in data]
    if values[0].shape == values[1].shape and num_taken(pair, values)[0] == 2:
        raise ValueError(
            f"a tuple of data is (train, valid), but these have one shape, {list(values[0].shape)}, and the programs "
            "take two arguments. Give the two arguments as one TensorDataset(x, y), or two sets of data as "
            "(TensorDataset(train), TensorDataset(valid))."
        )
