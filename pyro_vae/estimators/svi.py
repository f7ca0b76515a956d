"""What ``pyro.infer.SVI`` takes as its loss, as an estimator: Pyro's ELBOs, classes derived from them, functions."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, cast

import pyro
import torch
from pyro.infer import SVI, JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO, Trace_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._checks import callable_, checked
from pyro_vae._pyro import backward_of, empty_store
from pyro_vae.batches import num_rows, num_told
from pyro_vae.estimators.base import Estimator
from pyro_vae.estimators.bounds import Mean
from pyro_vae.estimators.run import Objective
from pyro_vae.pair import as_pair, data_frame, programs
from pyro_vae.pair.arguments import Arguments, Converted, batch_by_batch, converted

_JIT = (JitTrace_ELBO, JitTraceEnum_ELBO, JitTraceGraph_ELBO, JitTraceMeanField_ELBO)


class SVILoss(Estimator):
    """A loss as ``pyro.infer.SVI`` takes it: the gradient of ``SVI.step``, and a number that claims to bound nothing.

    ``fit(estimator=Trace_ELBO())`` makes it. What is trained is as in SVI whatever the loss computes, so that guide and
    model are not asked for what a bound needs; the history tells the loss per datum, ``loss`` and ``valid_loss``, and
    no bound. A run of the loss is a graph where it calls ``.item()`` for nothing but its value.

    Args:
        svi_loss: an object of a class derived from ``pyro.infer.ELBO``, with ``loss_and_grads`` or
            ``differentiable_loss`` and perhaps ``loss``; or a function ``loss(model, guide, *args)`` of which the
            gradient is taken. Gradients come by ``backward()``. A loss that is a tuple, as of
            ``ReweightedWakeSleep``, is told as its sum.

    Raises:
        ValueError: if it is one of those that compile by ``torch.jit``; from a run, if it has no gradient.
        TypeError: if it is something else.
    """

    numbers = ()
    no_beta = "is Pyro's, which has none"

    def __init__(self, svi_loss: ELBO | Callable[..., Any]) -> None:
        if isinstance(svi_loss, (type, nn.Module)):
            what = f"the class {svi_loss.__name__}" if isinstance(svi_loss, type) else f"a {type(svi_loss).__name__}"
            raise TypeError(f"estimator is {what}; give the loss itself, as Trace_ELBO() or SGVB_A().")
        if isinstance(svi_loss, SVI):
            raise TypeError("estimator is an SVI; give what it has as its loss, as Trace_ELBO() or SGVB_A().")
        if not isinstance(svi_loss, ELBO):
            callable_(estimator=svi_loss)
            _check_takes_programs(svi_loss)
        if isinstance(svi_loss, _JIT):
            kind = type(svi_loss).__name__
            raise ValueError(
                f"estimator is a {kind}, which compiles by torch.jit. fit makes a graph of the whole step by itself "
                f"(compile=...): give {kind.removeprefix('Jit')}()."
            )
        super().__init__(Mean())
        self.svi_loss = svi_loss
        self.kept: dict[str, Tensor] = {}  # what the loss itself has in Pyro's store: averages, of baselines

    def __copy__(self) -> SVILoss:
        other = object.__new__(type(self))
        vars(other).update(vars(self), kept={})
        return other

    @classmethod
    def example(cls, **options: Any) -> Estimator:
        return cls(Trace_ELBO(**options))

    def __repr__(self) -> str:
        return _named(self.svi_loss)

    @property
    def side(self) -> Any:
        return "neither"

    def state(self) -> dict[str, Any]:
        return dict(self.kept)

    def load_state(self, state: dict[str, Any]) -> None:
        self.kept.update(state)

    def _run(self, *args: Any, **options: Any) -> NoReturn:
        raise ValueError(
            f"{self!r} is a loss of Pyro's, which is told as no bound. Take a bound of the pair from SGVB_A() or "
            "IWAE(5), or log p(x) from pyro_vae.evidence."
        )

    def _evaluate(self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``(loss, what backward() was called of, number of data that it sums over)``."""
        with _Sites() as seen, backward_of() as found, empty_store():
            store = pyro.get_param_store()
            for name, value in self.kept.items():
                store[name] = value
            loss = run(*args, **kwargs)
            self.kept.update({name: store[name].detach() for name in store})
        plate = data_frame(cast(Trace, seen), num_rows(args[2:]))
        size = num_told(args[2:]) if plate is None or plate.size == plate.full_size else plate.full_size
        return sum(loss) if isinstance(loss, (tuple, list)) else loss, found, size

    def objective(self, model: Any, guide: Any, *args: Any, at: Any = None, **options: Any) -> Objective:
        for name in at or {}:
            self.check_scheduled(name, 1.0)
        kwargs = {name: value for name, value in options.items() if name not in ("prepared", "num_data")}
        loss, found, size = self._evaluate(self._differentiated(), (model, guide, *args), kwargs)
        if isinstance(loss, Tensor) and not found and loss.requires_grad:
            found = [loss]
        if not found and torch.is_grad_enabled():
            raise ValueError(
                f"{self!r} calls backward() of nothing, so that nothing is trained. As under SVI the programs announce "
                "their networks by pyro.module; a loss of your own is differentiable, or calls backward()."
            )
        if isinstance(loss, float) and loss == math.inf:  # of TraceTailAdaptive_ELBO, which computes none
            loss = sum(surrogate.detach() for surrogate in found)
        precision = found[0].dtype if found else None
        value = loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(float(loss), dtype=precision)
        for surrogate in found:
            value = value + (surrogate - surrogate.detach())
        return Objective(value / size, None, {})

    def try_on(self, pair: Any, *batch: Any) -> None:
        with torch.enable_grad():  # without which a loss of one's own may be refused by the ELBOs that it calls
            copy.copy(self).objective(*programs(as_pair(pair)), *converted(pair, batch, any_data=True))

    def mean_loss(self, pair: Any, batches: Iterable[Sequence[Any]]) -> float:
        """The loss of data that are not trained on, as of ``SVI.evaluate_loss``, per datum."""
        convert, module = Arguments(pair, any_data=True), as_pair(pair)
        total, count = 0.0, 0
        loss_alone = getattr(self.svi_loss, "loss", None)
        run = loss_alone or self._differentiated()
        for given in batch_by_batch(batches):
            batch = given if isinstance(given, Converted) else convert(*given)
            with torch.set_grad_enabled(loss_alone is None):
                loss, _, size = self._evaluate(run, (*programs(module), *batch), {})
            total, count = total + float(loss) / size * num_told(batch), count + num_told(batch)
        if count == 0:
            raise ValueError("there are no data to average the loss over: the batches are empty.")
        return total / count

    def _differentiated(self) -> Callable[..., Any]:
        for name in ("loss_and_grads", "differentiable_loss"):
            if isinstance(self.svi_loss, ELBO) and hasattr(self.svi_loss, name):
                return getattr(self.svi_loss, name)
        if isinstance(self.svi_loss, ELBO):
            raise ValueError(f"{self!r} has neither loss_and_grads nor differentiable_loss, so that it trains nothing.")
        return self.svi_loss

    # Pyro's interface

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        return self.objective(model, guide, *args, **kwargs).loss

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        run: Any = getattr(self.svi_loss, "loss", self.svi_loss)
        return float(run(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return self._differentiated()(model, guide, *args, **kwargs)


class _Sites(Messenger):
    """The sites that programs meet, as a trace has them."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.nodes[msg["name"]] = msg


def _check_takes_programs(loss: Callable[..., Any]) -> None:
    """Raises a ``TypeError`` if a function cannot be called as ``loss(model, guide, ...)``."""
    try:
        signature = inspect.signature(loss)
    except ValueError:  # of a builtin that does not tell
        return
    try:
        signature.bind_partial(None, None)
    except TypeError as error:
        raise TypeError(
            f"estimator is a function loss(model, guide, *args), or one of pyro_vae.estimators; {_named(loss)}"
            f"{signature} takes other arguments."
        ) from error


def _named(loss: Any) -> str:
    """A loss by its dotted name and options, the same in another process."""
    if isinstance(loss, functools.partial):
        return f"{_named(loss.func)}({', '.join(map(repr, (*loss.args, *sorted(loss.keywords.items()))))})"
    kind = type(loss) if isinstance(loss, ELBO) or not hasattr(loss, "__qualname__") else loss
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not isinstance(loss, ELBO):
        return name
    usual = vars(Trace_ELBO())
    options = {
        key: value
        for key, value in vars(loss).items()
        if key != "max_plate_nesting"  # which may be guessed
        and isinstance(value, (int, float, str, bool))
        and value != usual.get(key)
    }
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"


@checked
def as_estimator(estimator: Any) -> Estimator | None:
    """What ``fit`` and ``check`` take as ``estimator``: one of this library's, or a loss as SVI takes it.

    Raises:
        ValueError, TypeError: if it is neither, as :class:`SVILoss` tells.

    >>> import pyro, pyro_vae as pv
    >>> from pyro_vae import estimators
    >>> [type(estimators.as_estimator(loss)).__name__ for loss in (pv.IWAE(5), pyro.infer.Trace_ELBO())]
    ['IWAE', 'SVILoss']
    """
    return estimator if estimator is None or isinstance(estimator, Estimator) else SVILoss(estimator)
