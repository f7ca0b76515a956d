"""The training loop: algorithm 1 of Kingma & Welling (2013)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae._checks import counted, made, number
from pyro_vae._files import check_held
from pyro_vae.batches import kind_of, num_told
from pyro_vae.compiled import resolved
from pyro_vae.data import Data, draws
from pyro_vae.estimators import SVILoss
from pyro_vae.frozen import PythonState
from pyro_vae.pair import kept_modes, trained_parameters
from pyro_vae.pair.arguments import Converted
from pyro_vae.pair.turns import fork_rng
from pyro_vae.training import checkpoint, looks, optimizers, trials
from pyro_vae.training.averaging import Weights
from pyro_vae.training.coming import AT_ONCE, Coming
from pyro_vae.training.identity import check_same_of_ranks, check_same_run, configuration
from pyro_vae.training.interrupts import Signals
from pyro_vae.training.opening import opening
from pyro_vae.training.ranks import TrainingRanks, check_apart
from pyro_vae.training.records import Recorder
from pyro_vae.training.run import NonFiniteError, Run, told
from pyro_vae.training.scheduled import Schedules, value_at
from pyro_vae.training.schedules import Progress, Schedule
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import State
from pyro_vae.training.step import TrainingStep

_AT_ONCE = {"cpu": 1, "cuda": 32}  # steps whose numbers are read together, since a device is waited for each time
_SELDOM = 10  # steps, at least, between two looks at whether callbacks moved what a graph does not follow


class Trainer:
    """What a run is made of before its first step, and the loop."""

    def __init__(self, pair: nn.Module, data: Data, settings: Settings, device: torch.device) -> None:
        settings.check_data(data)
        self.ranks = TrainingRanks()
        counted = PythonState(pair)
        self.pair, self.data, self.settings, self.device = pair, data, settings, device
        self.coming = Coming(pair, data, settings, device)
        given = [stream.loader for stream in self.coming.streams.values()]
        loaders = PythonState(given)
        begun = loaders.kept(every=True)
        kinds = self.coming.first_of_each_kind()
        batch = kinds[0]
        pair.train()
        self.ranks.begin(pair)
        supports, valid = self.coming.supports, data.valid is not None
        estimator, why = looks.checked(pair, kinds, settings.estimator, supports, valid, self._cuda)
        check_apart(pair, estimator, settings.weight_prior, settings.batch_size, self.ranks, given)
        self.coming.look_at_all(kinds)
        looks.say_labels(pair, data.train, batch)
        looks.say_doubts(pair, batch)
        self.parameters = trained_parameters(pair)
        self.announced: dict[Any, set[int]] = {}  # parameters, by the kind of batch, where that matters
        of_pyro = isinstance(settings.optimizer, PyroOptim)
        names, self.num_summed = looks.announced(pair, batch, self._cuda) if of_pyro else ({}, None)
        found = self._optimizer(names)
        optimizer, scheduler, self.clip = found.optimizer, self._scheduler(found), found.clip
        self.rates = [_rate(group) for group in optimizer.param_groups]  # which a Schedule multiplies
        self.num_batches = data.train.num_batches(settings.batch_size)  # of an epoch, where that is known
        self.shuffled = looks.is_shuffled(pair, batch, self.num_batches, self._cuda)
        self.schedules = Schedules(pair, estimator, settings.moved, settings.seed)
        steps = settings.epochs * estimator.num_updates * (self.num_batches or 0)
        for end in (Progress(0, 0.0, 0.0), Progress(steps, float(settings.epochs), 1.0)):
            self.schedules.values(end)  # what would be out of range there is refused now
            self._rate_factor(end)
        self.step = TrainingStep(
            pair,
            estimator,
            compile=settings.compile,
            precision=resolved(settings.precision, self.device),
            weight_prior=settings.weight_prior,
            planned=steps or None,
            num_data=looks.num_data(pair, batch, settings.num_data or data.train.num_data, estimator, self._cuda),
        )
        out = None if settings.out is None else Path(settings.out)
        self.run = Run(pair, out=out, mode=self.step.mode, notes=[why] if why else [])
        self.folder = None if out is None else out / "checkpoint"
        weights = Weights(pair, self.schedules.buffers.values(), settings.average)
        self.step.follow(optimizer, self.parameters, weights, self._clip)
        counted.put_counts_back()  # a program that counts its runs counts those of the training
        asked = (settings.weight_prior, self.schedules.given, settings.scheduler)
        python = PythonState((pair, estimator, *asked, optimizer, scheduler))
        self.state = State(pair, weights, optimizer, estimator, self.run, self.step, python, loaders, scheduler)
        repeats = trials.told(loaders.kept(every=True)) == trials.told(begun)
        loaders.take_up(begun)
        if not self.ranks.first:  # which has the noise of a process that is alone
            self.ranks.start_noise(settings.seed)
        if self.folder is not None or not self.ranks.alone:
            with fork_rng(self._cuda):  # a network may draw to describe itself, as Zuko's flows do
                looked = self.coming.looked if repeats else {}
                self.configuration = configuration(settings, self.data, looked, self.state, self.schedules)
            check_same_of_ranks(self.configuration, self.coming.looked, self.ranks)
        if self.folder is not None:
            self._take_up(self.folder, batch, names)
            loaders.take_up(self.state.begun or begun)
        self.recorder = Recorder(out if self.ranks.first else None, self.run.history)
        self.received: int | None = None  # by one of the ranks
        self.due = False
        self.at_once = _AT_ONCE.get(device.type, 32)
        self.saved_at = time.monotonic()

    def _take_up(self, folder: Path, batch: Converted, names: dict[int, str]) -> None:
        """The checkpoint of ``folder``, if there is one; else it is tried whether the run could go on from one.

        Raises:
            ValueError: if the run is another, or could not go on, or the folder holds one that is not to go on.
        """
        state, settings = self.state, self.settings
        self.run.configuration, self.opening = self.configuration, opening(self.pair, self.data, batch)
        if self.ranks.share(checkpoint.exists(folder)):
            if not settings.resume:
                raise ValueError(
                    f"{folder.parent} already holds a trained run. Go on with it by resume=True, or choose another "
                    "folder."
                )
            tensors, saved = self.ranks.loaded(folder)
            with checkpoint.as_written(folder.parent):
                check_same_run(self.configuration, saved.pop("configuration"), folder.parent)
                state.restore(tensors, saved)
                states = checkpoint.unpack(saved["ranks"], tensors) if "ranks" in saved else [None]
                key = (state.steps, settings.seed + state.steps)
                self.ranks.go_on(states, self.pair, state.weights, key, self._cuda)
            return
        state.check_kept(folder)
        begun = [(self.coming.streams[key], batches) for key, batches in self.coming.looked.items()]
        trials.check_repeats(begun, settings.batch_size, settings.seed, folder)

        def made_of(parameters: list[nn.Parameter]) -> Any:
            pairs = zip(self.parameters, parameters, strict=False)
            copied = {id(copy_): names[id(ours)] for ours, copy_ in pairs if id(ours) in names}
            found = optimizers.made(settings.optimizer, parameters, copied)
            return found.optimizer, self._scheduler(found)

        trials.check_goes_on(made_of, self.parameters, folder)

    def _scheduler(self, made_: optimizers.Made) -> Any:
        """Torch's scheduler of the learning rate, the optimizer's own or the one that was asked for."""
        asked = self.settings.scheduler
        if asked is None or isinstance(asked, Schedule):
            return made_.scheduler
        return made("scheduler", asked, made_.optimizer)

    def _optimizer(self, names: dict[int, str]) -> optimizers.Made:
        if not self.parameters:
            raise ValueError(
                "the pair has no parameters to train. Give it networks as attributes of a module, or announce them in "
                "its programs by pyro.module or pyro.param."
            )
        return optimizers.made(self.settings.optimizer, self.parameters, names)

    # The loop

    def train(self, signals: Signals) -> None:
        """Mini-batches and steps along their gradients, until the last epoch or until the bound rises no more."""
        state, num_batches = self.state, self.num_batches or 0
        bar = tqdm(
            total=self.settings.epochs * num_batches or None,
            initial=state.epoch * num_batches + state.batches_done,
            unit=" steps",
            desc="training",
            disable=not self.settings.progress or not self.ranks.first,
            dynamic_ncols=True,
            mininterval=0.3,
        )
        self.step.tell_to(lambda text: bar.set_postfix_str(text or self._bar_text()))
        with bar:
            while not self._ended:
                data_per_second = self._train_epoch(signals, bar)
                self._stop_if_asked(signals)
                self._end_epoch(data_per_second)
                bar.set_postfix_str(self._bar_text())
                self._stop_if_asked(signals)
        self.run.mode = self.step.ran
        if not self._finite():
            raise NonFiniteError(
                f"the parameters are not finite after the last step. Use a smaller learning rate.{self._kept}"
            )
        self._save()
        state.weights.put(state.weights.for_use(ended=True))

    def _train_epoch(self, signals: Signals, bar: Any) -> float:
        """What is left of the epoch; returns how many data a second it took."""
        state, started, samples = self.state, time.perf_counter(), self.state.samples
        place: dict[str, Any] = {"epoch": state.epoch, "seed": self.settings.seed, "start": state.batches_done}
        # What callbacks move in Python is looked at once they have run, and before a training ends.
        moved = self.settings.callbacks and state.steps - state.looked_at >= _SELDOM
        if state.batches_done == 0 and (moved or state.epoch + 1 == self.settings.epochs):
            self.step.look()
            state.looked_at = state.steps
        self.step.look_at_options()  # a scheduler and callbacks come between epochs
        state.begin_epoch()
        since = started
        for batch in self.data.train.batches(self.settings.batch_size, shuffle=self.shuffled, **place):
            mode = self.step.mode
            self._train_batch(self.coming.checked(batch, state.estimator, self.parameters), signals)
            if signals.received and self.step.mode != mode:  # a compiler met the same Ctrl-C: this step is another's
                signals.end()
            bar.update()
            if self.due:
                now = time.perf_counter()
                state.seconds, since = state.seconds + now - since, now
                self._read()
                self._save()
            if self.received or (self.ranks.alone and signals.received):
                break
        self._read()
        if state.batches_done == 0:
            raise ValueError(f"the training data gave no batch in epoch {state.epoch + 1}.")
        ended = time.perf_counter()
        state.seconds += ended - since
        return (state.samples - samples) / max(ended - started, 1e-9)

    def _train_batch(self, batch: tuple[Tensor, ...], signals: Signals) -> None:
        state, size = self.state, num_told(batch)
        batch = self.ranks.slice_of(batch)
        state.several_kinds = state.several_kinds or len(self.coming.kinds) > 1
        place = self._place_of_batch()
        self.schedules.move(place)
        if isinstance(self.settings.scheduler, Schedule):
            factor = self._rate_factor(place)
            for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
                group["lr" if "lr" in group else "eta"] = rate * factor
        prepared = self.step.prepare(batch)
        for update in range(state.estimator.num_updates):
            together = self.ranks.alone and not state.several_kinds
            number_of_it = state.steps + 1 if together else None
            objective = self.step(batch, self.schedules.at, prepared, number_of_it, self.num_summed or size)
            objective, self.received, self.due = self.ranks.add_up(
                objective, self.parameters, num_told(batch), signals.received, self._is_due()
            )
            last = update == state.estimator.num_updates - 1
            state.note(objective, size, last=last, batch=batch, prepared=prepared, place=place)
            if not self.step.updated or len(state.noted) >= self.at_once:
                self._read()
            if not self.step.updated:
                if state.several_kinds:
                    self._move_on(batch)
                self._clip(self.parameters, self.num_summed or size)
                optimizers.step(state.optimizer)
                state.weights.follow(state.steps)

    def _read(self) -> None:
        """Reads the numbers of the steps since the last time.

        Raises:
            NonFiniteError: if one had a loss or a gradient that is not finite, since when no weight has moved.
        """
        latest = self.state.steps
        if (noted := self.state.read()) is None:
            return
        batch, prepared, place = (noted.again[name] for name in ("batch", "prepared", "place"))
        self.schedules.move(place)
        if noted.step < latest:  # the gradients that are there are another step's
            self.step(batch, self.schedules.at, prepared)
        raise NonFiniteError(
            f"the loss or its gradient is not finite at epoch {self.state.epoch + 1}, step {noted.step}; "
            f"{self.step.broken(batch, self.schedules.at)}. "
            f"Use a smaller learning rate, clip_norm, or a likelihood with a bounded scale.{self._kept}"
        )

    def _move_on(self, batch: tuple[Any, ...]) -> None:
        """Has what a batch announces and does not use go on by the momentum that others gave it, as under ``SVI``."""
        still = [p for p in self.parameters if p.grad is None and p in self.state.optimizer.state]
        if still:
            kind = kind_of(batch)
            if kind not in self.announced:
                self.announced[kind] = set(looks.announced(self.pair, batch, self._cuda)[0])
            for parameter in still:
                if id(parameter) in self.announced[kind]:
                    parameter.grad = torch.zeros_like(parameter)

    def _clip(self, parameters: Sequence[Tensor], size: Any) -> None:
        """Gradients as the optimizer meets them; one of Pyro's meets sums over the data, and clips each by its options.

        ``parameters`` are the trained ones, or what stands for them in a graph.
        """
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
        if isinstance(self.settings.optimizer, PyroOptim):
            for parameter, own in zip(parameters, self.parameters, strict=True):
                if parameter.grad is not None:
                    parameter.grad.mul_(size)
                    if self.clip is not None:
                        self.clip(own, parameter)

    def _end_epoch(self, data_per_second: float) -> None:
        state, run, settings = self.state, self.run, self.settings
        self.schedules.move(self._place_of_batch(-1))  # which may have been before an interruption
        at = {name: value.item() for name, value in self.schedules.at.items()}  # as the last step met them
        self.schedules.move(self._place(state.epoch + 1))  # so that the pair ends with the last values
        buffers = {name: buffer.item() for name, buffer in self.schedules.buffers.items()}
        self.ranks.even_out(self.pair, self.state.weights)
        valid = self.ranks.share(self._validate())  # or machines that round otherwise may not stop together
        is_loss = isinstance(state.estimator, SVILoss)
        falls = is_loss or state.estimator.side == "above"
        score = -valid if valid is not None and falls else valid  # the greater the better
        entry = {
            "epoch": state.epoch + 1,
            "samples": state.samples,
            **state.means(),
            "valid": None if is_loss else valid,
            **({"valid_loss": valid} if is_loss and valid is not None else {}),
            **at,
            **({"schedules": buffers} if buffers else {}),
            "learning_rate": _rate(state.optimizer.param_groups[0]),
            "seconds": state.seconds,
            "data_per_second": data_per_second,
        }
        run.history.append(entry)
        state.epoch, state.batches_done, state.sums = state.epoch + 1, 0, {}
        with draws.Apart(draws.SCHEDULE, settings.seed, state.epoch, devices=self._cuda):
            if isinstance(state.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                state.scheduler.step(entry["loss"] if score is None else -score)
            elif state.scheduler is not None:
                state.scheduler.step()
        if settings.patience is not None and score is not None:
            if state.weights.is_best(score):
                run.best_epoch = state.epoch
            run.stopped_early = state.epoch - (run.best_epoch or 0) >= max(settings.patience, 1)
        self.recorder.write(entry)
        if settings.callbacks:
            # What they draw is none of this run's, nor is the mode in which they leave the pair.
            apart = draws.Apart(draws.CALLBACK, settings.seed, state.epoch, devices=self._cuda)
            with kept_modes(self.pair), state.python.kept_draws(), state.loaders.kept_draws(), apart:
                for callback in settings.callbacks:
                    callback(run)
        if self.ranks.agree(self._is_due() and self.ranks.first, self.device) and state.epoch < settings.epochs:
            self._save()

    def _validate(self) -> float | None:
        """The bound of held-out data at beta = 1, with noise of its own that is the same after every epoch.

        Of a loss that claims no bound it is the loss.
        """
        if self.data.valid is None:
            return None
        loaders = self.state.loaders.kept(every=True)  # so that it is the same data after every epoch
        given = self.data.valid.batches(AT_ONCE, epoch=0, seed=self.settings.seed)
        batches = map(self.coming.converted, given)
        with fork_rng(self._cuda), self.state.weights.in_use():
            torch.manual_seed(self.settings.seed)
            self.pair.eval()
            estimator = self.state.estimator
            if isinstance(estimator, SVILoss):
                valid = estimator.mean_loss(self.pair, batches)
            else:
                one = {"beta": 1.0} if "beta" in estimator.scheduled else {}
                # The weights, if they are random, are paid for by the training data.
                valid = estimator.mean_bound(self.pair, batches, at=one, num_data=math.inf)
            self.pair.train()
        self.state.loaders.take_up(loaders)
        return valid

    def _is_due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.saved_at > self.settings.checkpoint_every

    def _save(self) -> None:
        if self.folder is not None and self._finite():  # else the next step says so; the last good checkpoint stays
            check_held(self.folder.parent)
            with self.ranks.as_one(self.pair, self.state.weights, self._cuda) as states:
                tensors, state = self.state.pack(self._ended)
            state["opening"] = checkpoint.pack(self.opening, tensors, "opening")
            if not self.ranks.alone:
                state["ranks"] = checkpoint.pack(states, tensors, "ranks")
            if self.ranks.first:
                checkpoint.save(self.folder, tensors, {**state, "configuration": self.configuration})
            self.saved_at = time.monotonic()

    def _stop_if_asked(self, signals: Signals) -> None:
        received = self.ranks.agree(signals.received, self.device)
        if received:
            signals.received = int(received)
            self._save()
            signals.end()

    # What it needs

    @property
    def _ended(self) -> bool:
        return self.run.stopped_early or self.state.epoch >= self.settings.epochs

    @property
    def _kept(self) -> str:
        return "" if self.folder is None else f" The last good checkpoint is in {self.folder}."

    @property
    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    def _place(self, epoch: float, steps: int | None = None) -> Progress:
        steps = self.state.steps if steps is None else steps
        return Progress(steps, epoch, min(epoch / self.settings.epochs, 1.0))

    def _place_of_batch(self, ahead: int = 0) -> Progress:
        """Where the next batch stands, or one so many ahead of it in the epoch."""
        state = self.state
        passed = (state.batches_done + ahead) / self.num_batches if self.num_batches else 0.0
        return self._place(state.epoch + passed, state.steps + ahead * state.estimator.num_updates)

    def _rate_factor(self, place: Progress) -> float:
        """What a :class:`Schedule` multiplies the learning rate by.

        Raises:
            ValueError: if it is below 0, where each step would be uphill, or not finite.
        """
        schedule = self.settings.scheduler
        factor = value_at(schedule, place, self.settings.seed) if isinstance(schedule, Schedule) else 1.0
        number(0, **{f"the schedule of the learning rate after {counted(place.epoch, 'epoch')}": factor})
        return factor

    def _bar_text(self) -> str:
        if not self.run.history:
            return ""
        entry = self.run.history[-1]
        return f"{told(entry)}, {entry['data_per_second']:,.0f} data/s"


def _rate(group: dict[str, Any]) -> float:
    """The learning rate of a group, which ``AdagradRMSProp`` of Pyro calls eta."""
    return float(group["lr"] if "lr" in group else group["eta"])
