"""What to say of programs that fail: which of the two, on what, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyro import poutine
from torch import Tensor

from pyro_vae._checks import too_large
from pyro_vae._pyro import mismatch, without_shapes
from pyro_vae.batches import num_rows
from pyro_vae.pair.running import PairRun
from pyro_vae.pair.structure import problems, wrong_size


def why(model: Callable[..., Any], guide: Callable[..., Any], batch: Sequence[Any]) -> list[str]:
    """Why a run of a guide and of the model against its draws fails, a sentence for each thing; nothing if it does not.

    What the guide draws may not fit the model: on its own draws that tells where they differ.
    """
    which = "guide"
    try:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        which = "model"
        if wrong := problems(PairRun(poutine.trace(model).get_trace(*batch), guide_trace), num_rows(batch)):
            return wrong
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        model_trace.compute_log_prob()
        which = "guide"
        guide_trace.compute_log_prob()
    except Exception as error:
        return [failure(error, which, batch)]
    return []


def failure(error: Exception, which: str, batch: Sequence[Any]) -> str:
    """What to say where a program, the model or the guide, fails on a batch."""
    text, wrong, count = str(error), mismatch(str(error)), num_rows(batch)
    if large := too_large(f"The {which}", error):
        return large
    if wrong is not None and wrong.wanted != count == wrong.got and wrong.dim == -1:
        return wrong_size(f"plate {wrong.plate!r}", which, wrong.wanted, count)
    if wrong is not None:
        return (
            f"At site {wrong.site!r} of the {which} the distribution has size {wrong.got} at dimension {wrong.dim}, "
            f"where plate {wrong.plate!r} has {wrong.wanted}. If that is a dimension of one datum, declare it as an "
            "event dimension: add .to_event(n), n the number of dimensions of one datum; otherwise make the network "
            "give one row for each datum."
        )
    if type(error) is ValueError and "\n" not in text:
        return text  # already a sentence, from one of the rooms or from the user's own program
    shapes = " and ".join(str(list(value.shape)) for value in batch if isinstance(value, Tensor)) or count
    return f"The {which} fails on this batch of {shapes} ({first_line(error)}).{_hint(error)}"


def _hint(error: Exception) -> str:
    text = str(error)
    if "argument" in text and "positional" in text:
        return (
            " Model and guide take the same arguments, those of check: check(pair, x) runs guide(x) and model(x); "
            "of data with labels, load(...).with_labels().train.batch(...) gives both, and "
            "fit(pair, data.with_labels()) passes both."
        )
    if "Multiple" in text and "named" in text:
        return " Give each sample statement and each plate a name of its own."
    if "is already in the trace" in text:
        return " Pyro keeps _INPUT and _RETURN for itself: give the sample statement another name."
    if isinstance(error, AssertionError) and not text:
        return " Look for a name or a value that is None."
    if "is not callable" in text:
        return " pyro.sample takes a distribution, for example pyro.distributions.Normal(loc, scale).to_event(1)."
    return ""


def first_line(error: Exception) -> str:
    """The kind of an error, and how its message begins."""
    lines = [line.strip() for line in without_shapes(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__
