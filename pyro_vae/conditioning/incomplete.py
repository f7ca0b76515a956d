"""Data with missing entries, and pairs of them."""

from __future__ import annotations

from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._checks import checked, is_dense, shown
from pyro_vae._pyro import is_deterministic
from pyro_vae._torch import has_values, without_modes
from pyro_vae.data.arrays import tensor
from pyro_vae.data.draws import gray
from pyro_vae.diagnostics import sample as means_of_prior
from pyro_vae.distributions.incomplete import observing
from pyro_vae.pair import as_pair, programs
from pyro_vae.pair.arguments import Converted, batch_of
from pyro_vae.pair.gate import refuse
from pyro_vae.pair.running import trying
from pyro_vae.pair.signatures import mask_argument
from pyro_vae.pair.trials import reading_problems
from pyro_vae.pair.turns import fork_rng

_PRIOR = 256  # draws whose mean stands for what is missing


class PartlyObserved(nn.Module):
    r"""The pair of data with missing entries of a pair of whole data: :math:`z \sim p(z), x_\mathrm{obs} \sim
    p(x_\mathrm{obs} \mid z)`, with the guide :math:`q(z \mid x)` at x with a number in the place of what is missing.

    Its first argument is x with NaN where it is missing. Whatever takes a pair takes it: ``evidence.importance`` is
    log p(x_obs), ``evidence.posterior_draws`` are draws of p(z | x_obs). The guide was not made for such x; where its
    weights are poor, chains are right all the same.

    Args:
        pair: the pair of whole data; the entries of x are independent given the latents.
        fill: ``[*event]``, what the guide sees in the place of a missing entry, for example the mean of the data; by
            default 0.

    Raises:
        ValueError: while it runs, if the entries of x are not independent, x is not one observed site, of the same
            numbers in the same order, or what the model says of a site depends on an entry that is missing.
    """

    fill: Tensor

    @checked
    def __init__(self, pair: Any, fill: Tensor | None = None) -> None:
        super().__init__()
        self.pair = as_pair(pair)
        self.register_buffer("fill", torch.zeros(()) if fill is None else fill.detach().clone())
        self._looked: Tensor | None = None  # which entries were missing when they were looked at

    def model(self, x: Tensor, *others: Any) -> Any:
        """z ~ p(z), x_obs ~ p(x_obs | z); ``others`` are what the pair takes besides x."""
        model, _ = programs(self.pair)
        filled = self.filled(x)
        with _Entries(filled, ~x.isnan()) as entries:
            returned = model(filled, *others)
        entries.check()
        missing = x.isnan()
        if has_values(x) and missing.any() and not (self._looked is not None and torch.equal(missing, self._looked)):
            self._look(filled, missing, *others)
            self._looked = missing
        return returned

    def guide(self, x: Tensor, *others: Any) -> Any:
        """z ~ q(z | x), x with the ``fill`` in it."""
        _, guide = programs(self.pair)
        return guide(self.filled(x), *others)

    def _look(self, filled: Tensor, missing: Tensor, *others: Any) -> None:
        """Whether what stands in the place of missing entries is in no distribution of the model."""
        model, _ = programs(self.pair)

        def other(name: str, site: Any) -> Tensor:
            value = site["value"]
            if value.numel() != missing.numel():
                return cast(Tensor, value)
            return torch.where(missing.reshape(value.shape), site["fn"].sample(), value)

        with without_modes(), poutine.block(), trying(self.pair):
            trace = poutine.trace(model).get_trace(filled, *others)
            refuse(reading_problems(model, trace, (filled, *others), other))

    def filled(self, x: Tensor) -> Tensor:
        """x ``[B, *event]`` without NaN."""
        if not is_dense(x):
            raise TypeError(f"x has to be a dense tensor of real numbers [B, *event]; got {shown(x)}.")
        return torch.where(x.isnan(), self.fill.to(x), x)


class _Entries(Messenger):
    """Scores the observed entries alone of the one site that has as many numbers as the mask, which is x."""

    def __init__(self, filled: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.filled, self.mask = filled, mask
        self.met: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if msg["is_observed"] and not is_deterministic(msg) and value.numel() == self.mask.numel():
            shape = msg["fn"].shape()
            try:
                torch.broadcast_shapes(value.shape, shape)
            except RuntimeError as error:
                raise ValueError(
                    f"{msg['name']!r} observes data of shape {list(value.shape)}, and its law is over {list(shape)}. "
                    "Give x of that shape."
                ) from error
            msg["fn"] = observing(msg["fn"], self.mask.reshape(value.shape))
            self.met[msg["name"]] = value

    def check(self) -> None:
        """Whether it was one site, and x."""
        if len(self.met) != 1:
            found = f"{' and '.join(map(repr, self.met))} have" if self.met else "none has"
            raise ValueError(
                f"missing entries of x are left out of the observed site that has as many numbers as x, and {found}. "
                "Give the programs an argument called mask, and leave the entries out there: "
                "x ~ fn.mask(mask).to_event(...), with some number in their place."
            )
        for name, value in self.met.items():
            check_same(name, value, self.filled, self.mask)


def check_same(name: str, observed: Tensor, x: Tensor, mask: Tensor) -> None:
    """Whether a site observes x itself, entry by entry, so that the entries that are missing are the site's.

    Raises:
        ValueError: if it observes them in another order, or other numbers.
    """
    if has_values(observed) and has_values(mask) and not torch.equal(observed.reshape(x.shape).to(x)[mask], x[mask]):
        raise ValueError(
            f"missing entries of x are those of what the model observes, but {name!r} observes other numbers than x, "
            "or in another order. Transform x before it is passed, and not in the model."
        )


def incomplete(pair: Any, x: Any) -> tuple[nn.Module, Converted, Tensor]:
    """``(pair, batch, mask)``: a pair that takes data with missing entries, its arguments, and where x is observed.

    Args:
        pair: of programs with an argument ``mask``, that mask NaN themselves, or of whole data.
        x: data with NaN where they are missing, or a tuple of the arguments, the mask among them if there is one.

    Raises:
        ValueError: if mask and x differ in shape.
        TypeError: if the mask is not of booleans.
    """
    module, place = as_pair(pair), mask_argument(pair)
    args = [*x] if isinstance(x, tuple) else [x]
    args[0] = gray(tensor(args[0], "x"))
    missing = args[0].isnan()
    if place is not None:
        if place > len(args):
            raise ValueError(
                f"the mask is argument {place} of the programs, behind {place - 1} others beside x; got {len(args)} "
                "arguments. Give them all in a tuple: (x, ..., mask)."
            )
        mask = args[place] if place < len(args) and args[place] is not None else ~missing
        _check_mask(mask, args[0])
        args[place : place + 1] = [mask]
        args[0] = torch.where(mask, args[0], 0)
        return module, batch_of(module, tuple(args)), mask.cpu()
    try:
        return module, batch_of(module, tuple(args)), ~missing.cpu()
    except ValueError:
        if not missing.any():
            raise
    return whole(module, *args)


def _check_mask(mask: Any, x: Tensor) -> None:
    is_mask = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not is_mask or mask.shape != x.shape:
        raise (ValueError if is_mask else TypeError)(
            f"mask is a tensor of booleans of the shape of x, {list(x.shape)}, true where x is observed; got "
            f"{shown(mask)}{f' of {mask.dtype}' if isinstance(mask, Tensor) else ''}."
        )


def whole(module: nn.Module, x: Tensor, *others: Any) -> tuple[nn.Module, Converted, Tensor]:
    """As :func:`incomplete`, of a pair of whole data."""
    try:
        with fork_rng():
            torch.manual_seed(0)
            fill = means_of_prior(module, _PRIOR, x.nan_to_num(), *others).mean(0).reshape(x.shape[1:])
    except (ValueError, RuntimeError):  # of no prior or no mean, and of data that are not of one shape
        fill = x.nanmean(0).nan_to_num()
    made = PartlyObserved(module, fill)
    return made, batch_of(made, (x, *others)), ~x.isnan().cpu()
