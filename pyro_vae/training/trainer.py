"""The training loop, and the state that it carries from step to step and from process to process."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae.check import check
from pyro_vae.compiled import Compile, Precision, resolved
from pyro_vae.data import Data, Stream
from pyro_vae.estimators import SGVB_B, Estimator, Objective, elbo_of
from pyro_vae.pair import device_of, programs
from pyro_vae.training import checkpoint
from pyro_vae.training.interrupts import Signals
from pyro_vae.training.records import Recorder
from pyro_vae.training.run import NonFiniteError, Run
from pyro_vae.training.scheduled import ScheduledBuffer
from pyro_vae.training.schedules import Progress, Schedule
from pyro_vae.training.step import TrainingStep, WeightPenalty, moved

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


class Trainer:
    """The state of one run, and what happens to it."""

    def __init__(
        self,
        pair: nn.Module,
        data: Data,
        *,
        estimator: Estimator | None,
        optimizer: OptimizerFactory,
        scheduler: Any,
        epochs: int,
        batch_size: int,
        weight_prior: WeightPenalty | None,
        beta: Any,
        schedules: Mapping[str, Schedule] | None,
        seed: int,
        device: torch.device | str | None,
        compile: Compile,
        precision: Precision,
        clip_norm: float | None,
        average: float | None,
        patience: int | None,
        checkpoint_every: float,
        callbacks: Sequence[Callable[[Run], Any]],
        out: Path | None,
    ) -> None:
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} has to be a whole number of at least 1; got {value!r}.")
        if average is not None and not 0 < average < 1:
            raise ValueError(f"average is the decay of a moving average, in (0, 1); got {average}.")
        if not isinstance(data.train, Stream) and batch_size > len(data.train):
            raise ValueError(
                f"batch_size={batch_size} is larger than the training set of {len(data.train)}. "
                f"Use a batch size of at most {len(data.train)}."
            )
        if patience is not None and data.valid is None:
            raise ValueError("patience needs a validation set; give data=(train, valid), or leave patience out.")
        self.asked = estimator is not None
        estimator = SGVB_B() if estimator is None else copy.copy(estimator)
        if beta is not None:
            estimator.check_scheduled("beta", 1.0)
        self.device = _usable(device) if device is not None else device_of(pair)
        self.pair = pair.to(self.device)
        self.data = data
        self.estimator = estimator
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.weight_prior = weight_prior
        own = next((getattr(estimator, name) for name in moved(estimator, None)), 1.0)
        self.beta_schedule = own if beta is None else beta
        self.beta = torch.ones((), device=self.device)
        if not isinstance(schedules, Mapping | None):
            raise TypeError(
                "schedules is a mapping of the names of buffers to their schedules, such as "
                f"{{'posterior.network.corruption.level': Linear(0.5, 0.0)}}; got {schedules!r}."
            )
        self.schedules = dict(sorted((schedules or {}).items()))
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.compile, self.precision = compile, resolved(precision, self.device)
        self.clip_norm, self.average, self.patience = clip_norm, average, patience
        self.checkpoint_every, self.callbacks, self.out = checkpoint_every, callbacks, out
        self.run = Run(pair, out=out)
        self.epoch = 0  # the epoch under way
        self.batches_done = 0  # its batches that have been trained on
        self.steps = 0
        self.samples = 0
        self.seconds = 0.0
        self.sums: dict[str, float] = {}  # of the epoch under way, over its data
        self.best: tuple[float, int] | None = None  # validation bound and epoch
        self.best_weights: list[Tensor] = []
        self.averaged: list[Tensor] = []
        self.moving: list[Tensor] = []

    @property
    def cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    # Before the first step

    def prepare(self, resume: bool) -> None:
        """Checks the pair, makes what the steps need, and takes the run up where a checkpoint left it."""
        batch = self._to_device(next(iter(self.data.train.batches(self.batch_size, epoch=0, seed=self.seed))))
        self.pair.train()
        with torch.random.fork_rng(self.cuda_devices):
            if callable(check_batch := getattr(self.pair, "check_batch", None)):
                check_batch(*batch)
            check(self.pair, *batch, estimator=self.estimator if self.asked else None)
            if not self.asked:
                self.estimator = elbo_of(self.pair, *batch)
        self.parameters = [parameter for parameter in self.pair.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError(
                "the pair has no parameters to train. Give it networks as attributes of a module, or announce them in "
                "its programs by pyro.module or pyro.param."
            )
        self.optimizer = self.make_optimizer(self.parameters)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError(
                "LBFGS evaluates the loss several times a step, which fit does not do; use another optimizer."
            )
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.torch_scheduler = None
        if self.make_scheduler is not None and not isinstance(self.make_scheduler, Schedule):
            self.torch_scheduler = self.make_scheduler(self.optimizer)
        self.scheduled = [ScheduledBuffer(self.pair, name, schedule) for name, schedule in self.schedules.items()]
        steps = self.epochs * self.estimator.num_updates * (self.data.train.num_batches(self.batch_size) or 0)
        ends = Progress(0, 0.0, 0.0), Progress(steps, float(self.epochs), 1.0)
        for scheduled, place in itertools.product(self.scheduled, ends):
            scheduled.value(place)  # what is out of range at the end is refused now
        # Statistics of a batch norm belong to the weights under which they were taken; what is scheduled does not.
        moved = {id(scheduled.buffer) for scheduled in self.scheduled}
        if len(moved) < len(self.scheduled):
            raise ValueError(
                f"two of schedules name the same buffer, of {', '.join(self.schedules)}. Keep one name of each buffer."
            )
        statistics = [value for value in self.pair.buffers() if value.is_floating_point() and id(value) not in moved]
        self.moving = [*self.parameters, *statistics]
        if self.average is not None:
            self.averaged = self._copied()
        num_data = self.data.train.num_data
        if num_data is None and self.weight_prior is not None and self.weight_prior.needs_num_data:
            raise ValueError("a weight prior needs the number of data, which a stream without a length does not tell.")
        self.step = TrainingStep(
            self.pair,
            self.estimator,
            compile=self.compile,
            precision=self.precision,
            weight_prior=self.weight_prior,
            num_data=num_data,
        )
        self.recorder = Recorder(self.out)
        if self.out is not None:
            # A loader draws its own order, which need not be the same in another process.
            self.digest = None if isinstance(self.data.train, Stream) else _digest(batch)
            self._open_folder(resume)

    def _open_folder(self, resume: bool) -> None:
        folder = self._folder
        if checkpoint.exists(folder):
            if not resume:
                raise ValueError(
                    f"{self.out} already holds a trained run. Go on with it by resume=True, or choose another folder."
                )
            tensors, state = checkpoint.load(folder)
            self._same_run(state["fingerprint"])
            self._restore(tensors, state)
        self.recorder.open(self.run.history)

    def _fingerprint(self) -> dict[str, Any]:
        """What has to be the same for a run to go on."""
        shapes = {name: list(parameter.shape) for name, parameter in self.pair.named_parameters()}
        return {
            "pair": f"{type(self.pair).__module__}.{type(self.pair).__qualname__}",
            "networks": repr(self.pair),
            "parameters": shapes,
            "data": self.data.describe(),
            "first batch": self.digest,
            "estimator": repr(self.estimator),
            "optimizer": type(self.optimizer).__name__,
            "optimizer options": _described(self.optimizer.defaults),
            "learning_rate": self.base_rates,
            # A schedule is a function of the share of the epochs: with other epochs it would jump.
            "epochs": self.epochs
            if any(isinstance(s, Schedule) for s in (self.make_scheduler, self.beta_schedule, *self.schedules.values()))
            else None,
            "scheduler": _described(self.make_scheduler),
            "beta": _described(self.beta_schedule),
            "schedules": _described(self.schedules) if self.schedules else None,
            "weight_prior": repr(self.weight_prior),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "precision": self.precision,
            "clip_norm": self.clip_norm,
            "average": self.average,
        }

    def _same_run(self, theirs: dict[str, Any]) -> None:
        ours = self._fingerprint()
        different = [key for key in ours if ours[key] != theirs.get(key)]
        if not different:
            return
        if "parameters" in different or "networks" in different:
            listed = "another pair"
        else:
            listed = ", ".join(f"{key} was {theirs.get(key)} and is now {ours[key]}" for key in different)
        raise ValueError(
            f"{self.out} belongs to another configuration ({listed}), so this run cannot go on there. "
            "Choose another folder, or use the configuration of that run."
        )

    # The loop

    def train(self, signals: Signals, progress: bool) -> None:
        self.run.mode = self.step.mode
        total = self.data.train.num_batches(self.batch_size)
        bar = tqdm(
            total=None if total is None else self.epochs * total,
            initial=self.epoch * (total or 0) + self.batches_done,
            unit=" steps",
            desc="training",
            disable=not progress,
            dynamic_ncols=True,
            mininterval=0.3,
        )
        self.saved_at = time.monotonic()
        with bar:
            while self.epoch < self.epochs and not self.run.stopped_early:
                started, samples = time.perf_counter(), self.samples
                start = self.batches_done
                epoch_batches = self.data.train.batches(
                    self.batch_size, shuffle=True, epoch=self.epoch, seed=self.seed, start=start
                )
                for batch in epoch_batches:
                    self._train_batch(self._to_device(batch), total)
                    bar.update()
                    if signals.received:
                        self.seconds += time.perf_counter() - started
                        self._stop(signals, bar)
                if self.batches_done == 0:
                    raise ValueError(f"the training data gave no batch in epoch {self.epoch + 1}.")
                seconds = time.perf_counter() - started
                self.seconds += seconds
                self._end_epoch((self.samples - samples) / max(seconds, 1e-9))
                bar.set_postfix_str(_bar_text(self.run.history[-1]))
                if signals.received:
                    self._stop(signals, bar)
        self.run.mode = self.step.mode
        if not self._finite():
            kept = "" if self.out is None else f" The last good checkpoint is in {self._folder}."
            raise NonFiniteError(
                f"the parameters are not finite after the last step. Use a smaller learning rate.{kept}"
            )
        self._save()
        if (weights := self._weights_for_use) is not None:
            self._put(weights)

    def _stop(self, signals: Signals, bar: Any) -> None:
        self._save()
        bar.close()
        signals.end(self.out)

    def _train_batch(self, batch: tuple[Tensor, ...], total: int | None) -> None:
        self._set_schedules(total)
        prepared = self.step.prepare(batch)
        for _ in range(self.estimator.num_updates):
            objective, loss = self._update(batch, prepared)
        self._add(loss, objective, len(batch[0]))
        self.batches_done += 1

    def _update(self, batch: tuple[Tensor, ...], prepared: tuple[Tensor, ...]) -> tuple[Objective, float]:
        objective = self.step(batch, self.beta, prepared)
        loss = objective.loss.item()
        if not math.isfinite(loss):
            self._explain(batch)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.steps += 1
        if self.averaged:
            # Early on the average follows closely: the initial weights are soon forgotten.
            decay = min(self.average or 0.0, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.averaged, [value.detach() for value in self.moving], 1 - decay)
        return objective, loss

    def _add(self, loss: float, objective: Objective, size: int) -> None:
        values = {"loss": loss, "train": objective.bound.item(), "size": 1.0}
        for site, kinds in objective.terms.items():
            values.update({f"{site}/{kind}": term.item() for kind, term in kinds.items()})
        for name, mean in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + mean * size
        self.samples += size

    def _place(self, epoch: float) -> Progress:
        return Progress(self.steps, epoch, min(epoch / self.epochs, 1.0))

    def _set_schedules(self, total: int | None) -> None:
        place = self._place(self.epoch + (self.batches_done / total if total else 0.0))
        for scheduled in self.scheduled:
            scheduled.move(place)
        beta = self.beta_schedule
        if isinstance(beta, Tensor):
            self.beta.copy_(beta)
        else:
            self.beta.fill_(beta(place) if callable(beta) else beta)
        if isinstance(self.make_scheduler, Schedule):
            factor = self.make_scheduler(place)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor

    def _end_epoch(self, images_per_second: float) -> None:
        size = self.sums["size"]
        terms: dict[str, dict[str, float]] = {}
        for name, value in self.sums.items():
            if "/" in name:
                site, kind = name.rsplit("/", 1)
                terms.setdefault(site, {})[kind] = value / size
        for scheduled in self.scheduled:  # so that the last epoch ends with the schedule's last value
            scheduled.move(self._place(self.epoch + 1))
        valid = self._validate()
        self.run.history.append(
            {
                "epoch": self.epoch + 1,
                "samples": self.samples,
                "train": self.sums["train"] / size,
                "valid": valid,
                "loss": self.sums["loss"] / size,
                "terms": terms,
                "beta": self.beta.item(),
                **({"schedules": {s.name: s.buffer.item() for s in self.scheduled}} if self.scheduled else {}),
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": self.seconds,
                "images_per_second": images_per_second,
            }
        )
        self.epoch, self.batches_done, self.sums = self.epoch + 1, 0, {}
        if isinstance(self.torch_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.torch_scheduler.step(self.run.history[-1]["loss"] if valid is None else -valid)
        elif self.torch_scheduler is not None:
            self.torch_scheduler.step()
        self._watch(valid)
        self.recorder.write(self.run.history[-1])
        for callback in self.callbacks:
            callback(self.run)
        if time.monotonic() - self.saved_at > self.checkpoint_every and self.epoch < self.epochs:
            self._save()

    def _validate(self) -> float | None:
        """The bound of held-out data at beta = 1, with noise of its own that is the same after every epoch."""
        if self.data.valid is None:
            return None
        one = {name: 1.0 for name in ("beta",) if name in self.estimator.scheduled}
        batches = (self._to_device(batch) for batch in self.data.valid.batches(1000, epoch=0, seed=self.seed))
        with torch.random.fork_rng(self.cuda_devices), self._weights_in_use():
            torch.manual_seed(self.seed)
            self.pair.eval()
            # the weights, if they are random, are paid for by the training data
            valid = self.estimator.mean_bound(self.pair, batches, at=one, num_data=math.inf)
            self.pair.train()
        return valid

    def _watch(self, valid: float | None) -> None:
        if self.patience is None or valid is None:
            return
        if self.best is None or not valid <= self.best[0]:
            self.best = (valid, self.epoch)
            self.run.best_epoch = self.epoch
            self.best_weights = [weight.clone() for weight in self.averaged] or self._copied()
        elif self.epoch - self.best[1] >= self.patience:
            self.run.stopped_early = True

    @property
    def _weights_for_use(self) -> list[Tensor] | None:
        """The weights that validation and the trained pair have, where they are not those that training moves."""
        if self.best_weights and (self.run.stopped_early or self.epoch >= self.epochs):
            return self.best_weights
        return self.averaged or None

    @contextmanager
    def _weights_in_use(self) -> Iterator[list[Tensor] | None]:
        """Puts them in for a while; gives those that training moves, where they differ."""
        weights = self._weights_for_use
        if weights is None:
            yield None
            return
        trained = self._copied()
        self._put(weights)
        try:
            yield trained
        finally:
            self._put(trained)

    def _copied(self) -> list[Tensor]:
        """What training moves, as it is now."""
        return [value.detach().clone() for value in self.moving]

    def _put(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for value, weight in zip(self.moving, weights, strict=True):
                value.copy_(weight)

    def _to_device(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """On the pair's device, and floating-point numbers in the pair's precision."""
        dtype = next((p.dtype for p in self.pair.parameters() if p.is_floating_point()), torch.float32)
        return tuple(
            tensor.to(self.device, dtype if tensor.is_floating_point() else tensor.dtype, non_blocking=True)
            for tensor in batch
        )

    def _finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def _explain(self, batch: tuple[Tensor, ...]) -> None:
        """Raises, with what is not finite: found by one more run of the pair on the same batch."""
        where = f"epoch {self.epoch + 1}, step {self.steps + 1}"
        gradients = [
            name
            for name, parameter in self.pair.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        model, guide = programs(self.pair)
        try:
            means = self.estimator.objective(model, guide, *batch).terms
            sites = [name for name, kinds in means.items() if not all(value.isfinite() for value in kinds.values())]
        except (ValueError, RuntimeError) as error:
            sites = [f"(the pair itself fails: {error})"]
        site = ", ".join(sites) or "none"
        parameter = ", ".join(gradients[:3]) + (f" and {len(gradients) - 3} more" if len(gradients) > 3 else "")
        kept = "" if self.out is None else f" The last good checkpoint is in {self._folder}."
        raise NonFiniteError(
            f"the loss or its gradient is not finite at {where}; site: {site}; "
            f"parameter with such a gradient: {parameter or 'none'}. "
            f"Use a smaller learning rate, clip_norm, or a likelihood with a bounded scale.{kept}"
        )

    # Checkpoints

    @property
    def _folder(self) -> Path:
        assert self.out is not None
        return self.out / "checkpoint"

    def _save(self) -> None:
        if self.out is None:
            return
        if not self._finite():
            return  # which the next step will say; the checkpoint before stays the last good one
        with self._weights_in_use() as trained:
            tensors = {f"pair/{name}": value.clone() for name, value in self.pair.state_dict().items()}
        for kind, weights in (("trained", trained or []), ("average", self.averaged), ("best", self.best_weights)):
            tensors.update({f"{kind}/{index}": weight for index, weight in enumerate(weights)})
        packed, optimizer = checkpoint.pack_optimizer(self.optimizer)
        tensors.update(packed)
        tensors["random/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "fingerprint": self._fingerprint(),
            "history": self.run.history,
            "epoch": self.epoch,
            "batches_done": self.batches_done,
            "steps": self.steps,
            "samples": self.samples,
            "seconds": self.seconds,
            "sums": self.sums,
            "best": self.best,
            "stopped_early": self.run.stopped_early,
            "optimizer": optimizer,
            "estimator": self.estimator.state(),
            "scheduler": None if self.torch_scheduler is None else _json_state(self.torch_scheduler.state_dict()),
        }
        checkpoint.save(self._folder, tensors, state)
        self.saved_at = time.monotonic()

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        checkpoint.load_weights(self.pair, tensors)
        checkpoint.unpack_optimizer(self.optimizer, tensors, state["optimizer"])
        if self.torch_scheduler is not None and state["scheduler"] is not None:
            self.torch_scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
        for kind, weights in (("average", self.averaged), ("best", self.best_weights)):
            weights[:] = self._stored(tensors, kind)
        if "trained/0" in tensors:
            self._put(self._stored(tensors, "trained"))
        self.estimator.load_state(state["estimator"] if "estimator" in state else self.estimator.state())
        self.run.history[:] = state["history"]
        self.epoch, self.batches_done, self.steps = state["epoch"], state["batches_done"], state["steps"]
        self.samples, self.seconds, self.sums = state["samples"], state["seconds"], state["sums"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self.run.stopped_early = state["stopped_early"]
        self.run.best_epoch = None if self.best is None else self.best[1]

    def _stored(self, tensors: dict[str, Tensor], kind: str) -> list[Tensor]:
        """The values of a kind; statistics that an earlier version left out stay as they are."""
        indices = range(len([name for name in tensors if name.startswith(f"{kind}/")]))
        stored = [tensors[f"{kind}/{index}"].to(self.device) for index in indices]
        return [*stored, *self._copied()[len(stored) :]] if stored else []


def _usable(device: torch.device | str) -> torch.device:
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} is not there: torch sees no GPU. Leave device out to use the CPU.")
    return chosen


def _digest(batch: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in batch:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _described(value: Any) -> str:
    """A description that is the same in another process: no addresses."""
    if isinstance(value, Tensor):
        return repr(value.tolist())
    if isinstance(value, functools.partial):
        inner = ", ".join([_described(a) for a in value.args] + [_described(value.keywords)])
        return f"{_described(value.func)}({inner})"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_described(item)}" for key, item in value.items())
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if callable(value) and type(value).__repr__ is object.__repr__:
        return f"{type(value).__module__}.{type(value).__qualname__}({_described(vars(value))})"
    return repr(value)


def _json_state(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if isinstance(value, (int, float, str, list, type(None)))}


def _bar_text(entry: dict[str, Any]) -> str:
    valid = "" if entry["valid"] is None else f", valid {entry['valid']:.2f}"
    return f"bound {entry['train']:.2f}{valid} nats, {entry['images_per_second']:,.0f} images/s"
