"""The training loop: algorithm 1 of Kingma & Welling (2013)."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor, nn
from tqdm import tqdm

from pyro_vae._checks import made, number, warn
from pyro_vae._files import check_held
from pyro_vae.batches import described, kind_of, num_told
from pyro_vae.check import report_on
from pyro_vae.compiled import resolved
from pyro_vae.data import Data, Mixed, Stream, draws
from pyro_vae.estimators import SGVB_A, Enumeration, Estimator, SVILoss
from pyro_vae.frozen import PythonState
from pyro_vae.pair import evaluating, kept_modes, trained_parameters
from pyro_vae.pair.arguments import Arguments, Converted
from pyro_vae.pair.protocols import ChecksBatch
from pyro_vae.pair.supports import Supports
from pyro_vae.training import checkpoint, looks, optimizers, trials
from pyro_vae.training.averaging import Weights
from pyro_vae.training.default import Chosen, chosen
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

_AT_ONCE = 1000  # held-out data, and data that are looked at
_LOOKED = 4  # batches of a loader in which its kinds are looked for
_SELDOM = 10  # steps, at least, between two looks at whether callbacks moved what a graph does not follow


class Trainer:
    """What a run is made of before its first step, and the loop."""

    def __init__(self, pair: nn.Module, data: Data, settings: Settings, device: torch.device) -> None:
        settings.check_data(data)
        self.ranks = TrainingRanks()
        counted = PythonState(pair)
        self.pair, self.data, self.settings, self.device = pair, data, settings, device
        self.arguments = Arguments(pair, device, any_data=True)  # whose supports check looks at, and then _check_all
        self.streams = {id(part): part for part in self._sets() if isinstance(part, Stream)}
        given = [stream.loader for stream in self.streams.values()]
        loaders = PythonState(given)
        begun = loaders.kept(every=True)
        self.looked: dict[int, list[Any]] = {}  # what streams begin with
        kinds = self._first_of_each_kind()
        batch = next(iter(kinds.values()))
        pair.train()
        self.kinds = set(kinds)  # of batches, which have been checked
        self.supports = None if isinstance(settings.estimator, SVILoss) else Supports(pair, runs=False)
        self.ranks.begin(pair)
        estimator = self._checked(list(kinds.values()))
        check_apart(pair, estimator, settings.weight_prior, settings.batch_size, self.ranks, given)
        self._check_all(kinds.values())
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
        self.run = Run(pair, out=out, mode=self.step.mode, notes=self.notes)
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
            with torch.random.fork_rng(self._cuda):  # a network may draw to describe itself, as Zuko's flows do
                looked = self.looked if repeats else {}
                self.configuration = configuration(settings, self.data, looked, self.state, self.schedules)
            check_same_of_ranks(self.configuration, self.looked, self.ranks)
        if self.folder is not None:
            self._take_up(self.folder, batch, names)
            loaders.take_up(self.state.begun or begun)
        self.recorder = Recorder(out if self.ranks.first else None, self.run.history)
        self.received: int | None = None  # by one of the ranks
        self.due = False
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
        begun = [(self.streams[key], batches) for key, batches in self.looked.items()]
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

    def _first_of_each_kind(self) -> dict[Any, Converted]:
        """The first batch of each kind among the first of the data, as the programs are given it.

        Raises:
            ValueError: if the validation data begin with a batch of another kind.
        """
        train, size, seed = self.data.train, self.settings.batch_size, self.settings.seed
        parts = train.parts if isinstance(train, Mixed) else [train]
        few = _LOOKED if isinstance(train, Stream) else 1
        looked: list[Any] = []
        for part in parts:
            raws = [*itertools.islice(part.batches(size, epoch=0, seed=seed), few)]
            self.looked.update({id(part): raws} if isinstance(part, Stream) else {})
            looked += raws
        holed = [part for part in self._sets() if part.in_memory and any(t.isnan().any() for t in part.tensors)]
        for raw in (raw for part in holed for raw in part.batches(_AT_ONCE)):  # the first batch may hold no NaN
            self.arguments(*raw)
        self.arguments.finite |= not holed and train.in_memory
        found: dict[Any, Converted] = {}
        for raw in looked:
            batch = self.arguments(*raw)
            found.setdefault(kind_of(batch), batch)
        if self.data.valid is not None:
            raw = next(iter(self.data.valid.batches(size, epoch=0, seed=seed)), ())
            if isinstance(self.data.valid, Stream):
                self.looked.setdefault(id(self.data.valid), [raw])
            batch = self.arguments(*raw)
            if raw and kind_of(batch) not in found:
                ours = described(next(iter(found.values())))
                raise ValueError(
                    f"the validation data are of another kind than the training data: {described(batch)} and {ours}. "
                    "Give both the same arguments."
                )
        return found

    def _checked(self, kinds: list[Converted]) -> Estimator:
        """A copy of the estimator that was asked for, or the ELBO that suits the pair."""
        asked = copy.copy(self.settings.estimator)
        with torch.random.fork_rng(self._cuda):
            reports = []
            for batch in kinds:
                if isinstance(self.pair, ChecksBatch):
                    self.pair.check_batch(*batch)
                reports.append(report_on(self.pair, batch, asked, self.supports))
            batch, report = kinds[0], reports[0]
            for note in {note: None for found in reports for note in found.notes}:
                if "is not trained" in note:  # which SVI would train, or which is fixed on purpose
                    warn(note)
            bounded = self.data.valid is not None and not isinstance(asked, SVILoss)
            if bounded and any(site.guide == "Delta" for site in report.sites):
                with evaluating(self.pair):  # of a point there may be no bound to be told
                    SGVB_A(max_plate_nesting=1 if asked is None else asked.room).mean_bound(
                        self.pair, [batch], num_data=math.inf
                    )
            found = Chosen(asked, "") if asked else chosen(self.pair, kinds, reports)
            if self.data.valid is not None and isinstance(found.estimator, Enumeration):
                with evaluating(self.pair):  # of a sum over all data there is none, either
                    found.estimator.mean_bound(self.pair, [batch], num_data=math.inf)
        if found.why:
            warn(found.why)
        self.notes = [found.why] if found.why else []
        return found.estimator

    def _check_all(self, kinds: Iterable[Converted]) -> None:
        """Looks at all data in memory, as :func:`check` has looked at a batch of each kind."""
        for batch in kinds:
            self._look_at_values(batch)
        for part in [one for one in self._sets() if one.in_memory and one.binarization == "none"]:
            for raw in part.batches(_AT_ONCE):
                self._look_at_values(self.arguments(*raw))
        if all(part.in_memory for part in self._sets()):
            self.supports = None  # nothing comes that has not been seen

    def _sets(self) -> list[Any]:
        """All sets to train on and to validate by."""
        given = [part for part in (self.data.train, self.data.valid) if part is not None]
        return [part for one in given for part in getattr(one, "parts", [one])]

    def _look_at_values(self, batch: Converted) -> Converted:
        """``batch``, refused if it leaves the support of a likelihood, where that is still to be looked at.

        A loss of SVI asks nothing of it.
        """
        if self.supports is not None:
            self.supports(batch)
        return batch

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
            arguments, mode = self.arguments(*batch), self.step.mode
            self._look_at(arguments)
            self._look_at_values(arguments)
            self._train_batch(arguments, signals)
            if signals.received and self.step.mode != mode:  # a compiler met the same Ctrl-C: this step is another's
                signals.end()
            bar.update()
            if self.due:
                now = time.perf_counter()
                state.seconds, since = state.seconds + now - since, now
                self._save()
            if self.received or (self.ranks.alone and signals.received):
                break
        if state.batches_done == 0:
            raise ValueError(f"the training data gave no batch in epoch {state.epoch + 1}.")
        ended = time.perf_counter()
        state.seconds += ended - since
        return (state.samples - samples) / max(ended - started, 1e-9)

    def _look_at(self, batch: Converted) -> None:
        """Has the first batch of a kind checked before it is trained on, as the first of all is.

        Raises:
            ValueError: if it fails its check, or makes parameters that the optimizer does not know.
        """
        kind = kind_of(batch)
        if kind in self.kinds:
            return
        self.kinds.add(kind)
        modes = self.pair.training
        with torch.random.fork_rng(self._cuda):
            report_on(self.pair, batch, self.state.estimator, self.supports)
        self.pair.train(modes)
        known = {id(parameter) for parameter in self.parameters}
        new = [name for name, p in self.pair.named_parameters() if p.requires_grad and id(p) not in known]
        if new:
            raise ValueError(
                f"a batch of another kind makes the parameter {new[0]!r}, which those before did not have and the "
                "optimizer does not know. Announce it for all batches: put its pyro.param or pyro.module before the "
                "branch."
            )

    def _train_batch(self, batch: tuple[Tensor, ...], signals: Signals) -> None:
        state, size = self.state, num_told(batch)
        batch = self.ranks.slice_of(batch)
        state.several_kinds = state.several_kinds or len(self.kinds) > 1
        place = self._place_of_batch()
        self.schedules.move(place)
        if isinstance(self.settings.scheduler, Schedule):
            factor = self._rate_factor(place)
            for group, rate in zip(state.optimizer.param_groups, self.rates, strict=True):
                group["lr" if "lr" in group else "eta"] = rate * factor
        prepared = self.step.prepare(batch)
        for _ in range(state.estimator.num_updates):
            together = self.ranks.alone and not state.several_kinds
            number_of_it = state.steps + 1 if together else None
            objective = self.step(batch, self.schedules.at, prepared, number_of_it, self.num_summed or size)
            objective, self.received, self.due = self.ranks.add_up(
                objective, self.parameters, num_told(batch), signals.received, self._is_due()
            )
            loss = objective.loss.item()
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"the loss or its gradient is not finite at epoch {state.epoch + 1}, step {state.steps + 1}; "
                    f"{self.step.broken(batch, self.schedules.at)}. "
                    f"Use a smaller learning rate, clip_norm, or a likelihood with a bounded scale.{self._kept}"
                )
            state.steps += 1
            if not self.step.updated:
                if state.several_kinds:
                    self._move_on(batch)
                self._clip(self.parameters, self.num_summed or size)
                optimizers.step(state.optimizer)
                state.weights.follow(state.steps)
        state.add(objective, loss, size)

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
        given = self.data.valid.batches(_AT_ONCE, epoch=0, seed=self.settings.seed)
        batches = (self._look_at_values(self.arguments(*batch)) for batch in given)
        with torch.random.fork_rng(self._cuda), self.state.weights.in_use():
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
        number(0, **{f"the schedule of the learning rate after {place.epoch:g} epochs": factor})
        return factor

    def _bar_text(self) -> str:
        if not self.run.history:
            return ""
        entry = self.run.history[-1]
        return f"{told(entry)}, {entry['data_per_second']:,.0f} data/s"


def _rate(group: dict[str, Any]) -> float:
    """The learning rate of a group, which ``AdagradRMSProp`` of Pyro calls eta."""
    return float(group["lr"] if "lr" in group else group["eta"])
