"""One training step: the loss of a batch and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.batches import kind_of, num_rows
from pyro_vae.compiled import Compile, Compiled, Precision, autocast
from pyro_vae.estimators import Estimator, Objective
from pyro_vae.pair import device_of, evaluating, programs, tracing_obstacle
from pyro_vae.training.averaging import Weights
from pyro_vae.training.update import Update
from pyro_vae.training.weight_priors import WeightPenalty


class _Function(nn.Module):
    """A function that runs the programs of a pair, with the pair's parameters as its own.

    ``reads`` is what else it reads, and ``kept`` what it keeps from one run to the next.
    """

    def __init__(self, pair: nn.Module, function: Callable[..., Any], reads: Any = None, kept: Any = None) -> None:
        super().__init__()
        self.pair = pair
        self.function = function
        self.reads, self.kept = reads, kept

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.function(*inputs, **named)


def check_trainable(pair: nn.Module) -> None:
    """Raises a ``ValueError`` if a parameter of the pair was made inside ``torch.inference_mode``."""
    for name, parameter in pair.named_parameters():
        if parameter.is_inference():
            raise ValueError(
                f"the parameter {name} was made inside torch.inference_mode, where nothing that can be trained "
                "is made. Make the pair, and run its programs for the first time, outside of it."
            )


class TrainingStep:
    """Sets ``.grad`` of every trained parameter by a batch, and gives the loss per datum and its terms by site.

    They come as the :class:`~pyro_vae.estimators.Objective`, whose loss is NaN where a gradient is not finite.

    Args:
        pair: the pair; its parameters have to be there already (run :func:`pyro_vae.check` first).
        estimator: the objective.
        compile: see :class:`~pyro_vae.compiled.Compiled`.
        precision: ``"bfloat16"`` runs the matrix products in bfloat16.
        weight_prior: a prior over the weights; by default maximum likelihood.
        planned: how many steps there will be, for ``compile="auto"``, see :class:`~pyro_vae.compiled.Compiled`.
        num_data: number of training data N, for ``weight_prior`` and, where it has none of its own, the estimator.

    Raises:
        ValueError: if ``weight_prior`` needs the number of data and is not told it, or a parameter was made inside
            ``torch.inference_mode``.
    """

    def __init__(
        self,
        pair: nn.Module,
        estimator: Estimator,
        *,
        compile: Compile = "auto",
        precision: Precision = "float32",
        weight_prior: WeightPenalty | None = None,
        num_data: int | None = None,
        planned: int | None = None,
    ) -> None:
        if num_data is None and weight_prior is not None and weight_prior.needs_num_data:
            raise ValueError(
                "a weight prior needs the number of data, by which it is divided, and the loader does not tell it. "
                "Give fit(..., num_data=N)."
            )
        check_trainable(pair)
        self._pair, self._estimator, self._programs = pair, estimator, programs(pair)
        self._compile, self._precision, self._planned = compile, precision, planned
        self._weight_prior, self._num_data = weight_prior, num_data
        own = {name: value for name, value in estimator.scheduled.items() if name not in estimator.schedules}
        self._at = {name: value.to(device_of(pair)) for name, value in own.items()}
        kept = getattr(estimator, "kept", None)
        module, obstacle = _Function(pair, self._loss, (estimator, weight_prior), kept), tracing_obstacle(pair)
        self._module = module
        self._update: Update | None = None
        self.updated = False  # whether the optimizer's step was done with the last one
        self._compiled = Compiled(module, compile=compile, gradients=True, planned=planned, obstacle=obstacle)
        self._functions: dict[Any, Compiled] = {}
        self._awaited: dict[str, Any] = {}  # states of functions that have yet to run
        self._kinds: set[Any] = set()  # of batches, at which the estimator has looked

    @property
    def mode(self) -> str:
        """How steps run: ``"inductor"``, ``"traced"`` or ``"eager"``."""
        return self._compiled.mode

    @property
    def ran(self) -> str:
        """How steps have run (:attr:`~pyro_vae.compiled.Compiled.ran`)."""
        return self._compiled.ran

    def follow(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        weights: Weights,
        clip: Callable[[Sequence[Tensor], Tensor], Any] = lambda parameters, size: None,
    ) -> None:
        """Has ``optimizer`` move the parameters in one graph with their gradients, where both can be.

        That is where inductor compiles the step, and the optimizer is torch's Adam, AdamW or SGD, without hooks.
        :attr:`updated` says so of each step; where it is false, the caller has to clip, to step and to average.

        Args:
            optimizer: has the parameters.
            parameters: those of the pair that are trained.
            weights: has the average of the weights that follows.
            clip: is given what stands for these, with gradients, and the size of the batch, before the optimizer.
        """
        if Update.is_possible(optimizer, parameters):
            self._update = Update(self._module, optimizer, parameters, clip, weights)

    def state(self) -> dict[str, Any]:
        """How the programs have run so far, for a checkpoint (:meth:`~pyro_vae.compiled.Compiled.state`)."""
        made = {function.__qualname__: compiled.state() for function, compiled in self._functions.items()}
        options = None if self._update is None else self._update.told
        return {"step": self._compiled.state(), "functions": {**self._awaited, **made}, "options": options}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up :meth:`state`."""
        self._compiled.load_state(state["step"])
        self._awaited = dict(state["functions"])
        if self._update is not None and self._update.told != state.get("options"):
            self._update = None  # as in the process before

    def look_at_options(self) -> None:
        """Has the optimizer outside of the graph from here on, if what is a constant there has moved.

        These are its options but for learning rates, its groups, hooks, and which the parameters are.
        """
        if self._update is not None and not self._update.look():
            self._update = None

    def tell_to(self, tell: Callable[[str], Any]) -> None:
        """Has ``tell`` called with what a step waits for, which takes seconds, and with nothing when that is over."""
        self._compiled.tell = tell

    def prepare(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the estimator draws before the updates of a batch (:meth:`Estimator.prepare`), in evaluation mode."""
        if type(self._estimator).prepare is Estimator.prepare:
            return ()
        with evaluating(self._pair):
            return self._estimator.prepare(*self._programs, *batch, compiled=self._fast)

    def _fast(self, function: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        """``function``, which runs the pair's programs, as a graph."""
        if function not in self._functions:
            module, obstacle = _Function(self._pair, function, self._estimator), tracing_obstacle(self._pair)
            made = self._functions[function] = Compiled(
                module, compile=self._compile, planned=self._planned, obstacle=obstacle
            )
            if (state := self._awaited.pop(function.__qualname__, None)) is not None:
                made.load_state(state)
        return lambda *inputs: self._functions[function](*inputs)[0]

    def __call__(
        self,
        batch: Sequence[Tensor],
        at: Mapping[str, Tensor] | None = None,
        prepared: Sequence[Tensor] = (),
        step: int | None = None,
        size: float = 1.0,
    ) -> Objective:
        """One batch.

        Args:
            batch: the arguments of model and guide.
            at: values of what is scheduled (:attr:`Estimator.scheduled`), in place of the estimator's own.
            prepared: what :meth:`prepare` gave for the batch.
            step: the number of the optimizer's step that follows, where :meth:`follow` may have it done at once.
            size: what ``clip`` is given.
        """
        if (kind := kind_of(tuple(batch))) not in self._kinds:
            self._kinds.add(kind)
            self._estimator.look_at(*self._programs, *batch)
        named = {**self._at, **(at or {}), **{f"prepared {i}": value for i, value in enumerate(prepared)}}
        update = None
        if step is not None and self._update is not None:
            update = self._update
            update.begin(step, size)
        values, gradients, self.updated = self._compiled.followed(update, *batch, **named)
        trained = iter(gradients)
        for parameter in self._compiled.contents.parameters.values():
            parameter.grad = next(trained) if parameter.requires_grad else None
        terms: dict[str, dict[str, Tensor]] = {}
        loss, bound = values.pop("loss"), values.pop("bound", None)
        for (site, kind), value in values.items():
            terms.setdefault(site, {})[kind] = value
        return Objective(loss, bound, terms)

    def _loss(self, *batch: Tensor, **named: Tensor) -> dict[Any, Tensor]:
        """What a step computes, by name; behind what is scheduled, ``named`` has what is prepared."""
        at = {name: named.pop(name) for name in self._estimator.scheduled if name in named}
        num_data = self._num_data if self._estimator.num_data is None else None
        with autocast(self._precision, device_of(self._pair)):
            loss, bound, terms = self._estimator.objective(
                *self._programs, *batch, prepared=tuple(named.values()), at=at, num_data=num_data
            )
        if self._weight_prior is not None:
            loss = loss + self._weight_prior.loss(self._pair, self._num_data or 1, num_rows(batch))
        by_site = {(site, kind): value for site, kinds in terms.items() for kind, value in kinds.items()}
        return {"loss": loss, **({} if bound is None else {"bound": bound}), **by_site}

    def look(self) -> None:
        """Has the next step compared with one of the programs in Python, where it is traced."""
        self._compiled.look()

    def broken(self, batch: Sequence[Tensor], at: Mapping[str, Tensor]) -> str:
        """What is not finite, sites and gradients; found by one more run of the pair on the same batch."""
        named = self._pair.named_parameters()
        gradients = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
        try:
            terms = self._estimator.objective(*self._programs, *batch, at=at).terms
            sites = [name for name, kinds in terms.items() if not all(value.isfinite() for value in kinds.values())]
        except (ValueError, RuntimeError) as error:
            sites = [f"(the pair itself fails: {error})"]
        listed = ", ".join(gradients[:3]) + (f" and {len(gradients) - 3} more" if len(gradients) > 3 else "")
        return f"site: {', '.join(sites) or 'none'}; parameter with such a gradient: {listed or 'none'}"
