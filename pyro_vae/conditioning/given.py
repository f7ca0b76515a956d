"""Draws of a pair's sites given values of some of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyro
import torch
from pyro.distributions import Unit
from pyro.ops.stats import effective_sample_size
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae._pyro import is_deterministic, is_subsample
from pyro_vae.batches import num_rows
from pyro_vae.conditioning.incomplete import incomplete
from pyro_vae.conditioning.result import Draws, Method, check_effective
from pyro_vae.conditioning.weighing import by_draw, missing_values, weighed
from pyro_vae.data.arrays import has_missing, tensor
from pyro_vae.data.draws import gray
from pyro_vae.diagnostics.latents import resized
from pyro_vae.distributions.incomplete import observing
from pyro_vae.distributions.steps import Present
from pyro_vae.estimators.run import Run
from pyro_vae.evidence.hmc import posterior_draws
from pyro_vae.pair import data_frame, programs
from pyro_vae.pair.arguments import arguments, batch_of
from pyro_vae.pair.gate import refuse, trial
from pyro_vae.pair.plans import plan_of
from pyro_vae.pair.running import reading
from pyro_vae.pair.signatures import argument_names, mask_argument
from pyro_vae.pair.sites import inside, random_sites, support_of
from pyro_vae.pair.trials import reading_problems

_CHAINS = 8  # of each condition
_WARM_UP = 300
_LEAST = 100  # draws of a chain


class Held(nn.Module):
    """The pair of a model some of whose sites have values, whichever the model observes; its guide draws nothing.

    So latents are drawn from their priors, and weigh p(given | latents). Arguments are ``{name: [N, *other plates,
    *event]}``, NaN where an entry of the sites ``partly`` is not given, and the model's own, of whose observations the
    shape alone matters. ``plate_dim`` is the dimension of the data's plate. What is not given of a site z is a latent
    ``z_unobserved`` (whose other entries are in no other term).
    """

    def __init__(self, pair: nn.Module, partly: Collection[str] = (), plate_dim: int = -1) -> None:
        super().__init__()
        self.pair, self.partly, self.plate_dim = pair, tuple(partly), plate_dim

    def model(self, given: Mapping[str, Tensor], *batch: Any) -> None:
        """The model, with the given sites at their values and all others drawn."""
        with _Holding(given, self.partly, self.plate_dim):
            programs(self.pair)[0](*batch)

    def guide(self, given: Mapping[str, Tensor], *batch: Any) -> None:
        """Nothing."""


class _Holding(Messenger):
    def __init__(self, given: Mapping[str, Tensor], partly: Collection[str], plate_dim: int) -> None:
        super().__init__()
        self.given, self.partly, self.plate_dim = given, partly, plate_dim

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) or is_deterministic(msg):
            return
        if isinstance(msg["fn"], Present):  # what is missing in example data
            msg["fn"] = msg["fn"].whole
        value = self.given.get(msg["name"])
        if value is not None:
            value = value.movedim(0, self.plate_dim - msg["fn"].event_dim)
            if msg["name"] in self.partly:
                known, rest = ~value.isnan(), pyro.sample(f"{msg['name']}_unobserved", msg["fn"])
                value, msg["fn"] = torch.where(known, value, rest), observing(msg["fn"], known)
            msg["value"], msg["is_observed"] = value, True
        elif msg["is_observed"] and not isinstance(msg["fn"], Unit):  # a factor weighs
            msg["value"], msg["is_observed"], msg["done"] = None, False, False


@dataclass(frozen=True)
class Condition:
    """Values of sites, and the programs that meet them.

    Attributes:
        pair: whose sites they are.
        given: ``[N, *event]`` by site, NaN where an entry is not given.
        batch: arguments of the model, without NaN.
        trace: a run of the model.
        sites: its random variables.
        plate: the data's.
    """

    pair: nn.Module
    given: dict[str, Tensor]
    batch: tuple[Any, ...]
    trace: Trace
    sites: dict[str, Any]
    plate: Any

    @classmethod
    def of(cls, pair: nn.Module, where: Mapping[str, Any], batch: Any) -> Condition:
        """The condition of values, and of example arguments where there are some.

        Raises:
            ValueError: if values are none of the pair's sites, or of other shapes, or the model does not run on them.
        """
        given = {name: tensor(value, f"the value of {name!r}") for name, value in where.items()}
        sizes = {len(value) if value.dim() else 0 for value in given.values()}
        if len(sizes) > 1 or 0 in sizes:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())
            raise ValueError(
                f"values of sites are of as many conditions each, [N, *event] with N at least 1; got {shapes}. Of one "
                "condition give value[None]."
            )
        size = sizes.pop()
        args = [*resized(batch, size)] if num_rows(batch) else [*batch]
        for place, name in enumerate(argument_names(pair)):
            if name in given:
                args += [None] * (place + 1 - len(args))
                args[place] = given[name].nan_to_num()
        if args and mask_argument(pair) == len(args):
            args.append(torch.ones(args[0].shape, dtype=torch.bool))
        try:
            with reading(pair):
                trace = _run(pair, args)
                plate = data_frame(trace, size)
                if plate is not None and plate.size != size:  # of a model that draws its data, as many as it is given
                    args = _with_examples(pair, args, random_sites(trace), size)
                    trace = _run(pair, args)
        except Exception as error:
            what = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the model does not run on the values that are given ({what}). Pass its other arguments: sample(pair, "
                "100, x, where=...)."
            ) from error
        sites, plate = random_sites(trace), data_frame(trace, size)
        if plate is not None and plate.size != size:  # it is not passed the values, which have no place by their names
            raise ValueError(
                f"values of {', '.join(given)} are of {size} conditions, and the model draws data of its own, "
                f"{plate.size} where it is given none. Pass example data: sample(pair, 100, x, ..., "
                "where=...), with all arguments of the model."
            )
        if num_rows(batch) not in (0, 1, size):
            _check_examples(zip(argument_names(pair), args, strict=False), given, sites, num_rows(batch), size)
        for name, value in given.items():
            if name not in sites:
                raise ValueError(f"the model has no site {name!r}; it has {', '.join(sites)}.")
            if plate is None or not inside(sites[name], plate):
                raise ValueError(
                    f"the site {name!r} stands in no plate of the data, so that all conditions share it. Hold it "
                    "by poutine.condition, and hide it by poutine.block, in model and guide."
                )
            seen = torch.broadcast_shapes(sites[name]["fn"].shape(), sites[name]["value"].shape)
            shape = _data_first(torch.empty(seen, device="meta"), sites[name], plate).shape[1:]
            if value.shape[1:] != shape:
                raise ValueError(
                    f"values of the site {name!r} are [N, {', '.join(map(str, shape))}]; got {list(value.shape)}."
                )
        given = {name: _numbers(value, sites[name]) for name, value in given.items()}
        return cls(pair, given, tuple(args), trace, sites, plate)

    def draws(self, num_samples: int, method: Method, max_draws: int, **options: Any) -> Draws:
        """See :func:`pyro_vae.conditioning.sample`."""
        masks = mask_argument(self.pair) is not None
        observed = {name for name, site in self.sites.items() if site["is_observed"]} - ({"mask"} if masks else set())
        of_data = observed == set(self.given) and observed <= set(argument_names(self.pair))
        of_data = of_data and all(self._as_passed(name) for name in self.given)
        if method == "guide" and not of_data:
            raise ValueError(
                f"the guide tells of the latents given {' and '.join(sorted(observed))}, as the programs are passed "
                f"them, and {', '.join(self.given)} was given. Take method='prior', or 'chains' where all others are "
                "continuous."
            )
        if method == "auto":
            method = "prior"
            if of_data:
                method = "chains" if self._partly() and not masks and not self._has_discrete() else "guide"
        if of_data and method != "prior":
            names, args = argument_names(self.pair), list(self.batch)
            args = [self.given.get(name, value) for name, value in zip(names, args, strict=False)]
            place = mask_argument(self.pair)
            pair, batch, _ = incomplete(self.pair, tuple(args[:place] if place == len(args) - 1 else args))
        else:
            self._check_read()
            pair = Held(self.pair, self._partly(), self.plate.dim)
            batch = batch_of(pair, (self.given, *self.batch))
        if method == "chains":
            return self._by_chains(pair, batch, num_samples, "guide" if of_data else "prior", **options)
        found = weighed(
            "conditional draws", pair, batch, self._look, max_draws, num_samples, enough=num_samples, **options
        )
        others = "" if self._has_discrete() else ", or take method='chains'"
        check_effective(found.effective_sample_size.min().item(), found.num_samples, num_samples, others)
        return Draws(self._completed(found.draws), found.effective_sample_size, method, found.num_samples)

    def _check_read(self) -> None:
        """Refuses a model that takes a distribution from example data, in the place of what it draws of them."""
        model, _ = programs(self.pair)
        with reading(self.pair):
            batch = arguments(self.pair, *self.batch, any_data=True)
            refuse(reading_problems(model, self.trace, batch, self._other))

    def _other(self, name: str, site: Any) -> Tensor:
        """Data in the place of those of a site that are not given."""
        drawn = site["fn"].sample().expand(site["value"].shape)
        if name not in self.given:
            return cast(Tensor, drawn)
        missing = self.given[name].movedim(0, self.plate.dim - site["fn"].event_dim).isnan()
        return torch.where(missing, drawn, site["value"])

    def _partly(self) -> list[str]:
        """The sites of which some entries are not given."""
        return [name for name, value in self.given.items() if has_missing(value)]

    def _has_discrete(self) -> bool:
        hidden = [site for name, site in self.sites.items() if name not in self.given]
        return any(site["fn"].support.is_discrete for site in hidden)

    def _as_passed(self, name: str) -> bool:
        """Whether the site observes the argument of its name as it is, so that its value is the argument's."""
        value, seen = gray(self.given[name]).nan_to_num(), self.sites[name]["value"]
        if name not in self._partly():
            value = value.movedim(0, self.plate.dim - self.sites[name]["fn"].event_dim)
        return seen.numel() == value.numel() and torch.equal(seen.reshape(value.shape).to(value), value)

    def _look(self, run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given = {name: missing_values(run, name) for name in self._partly()}
        drawn = {n: by_draw(run, site, site.value) for n, site in run.model.items() if not site.observed}
        return {}, {**drawn, **given}

    def _completed(self, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The draws of all sites, with what is given in its place."""
        num_samples = len(next(iter(drawn.values()))) if drawn else 1
        found = {name: value for name, value in drawn.items() if name in self.sites and name not in self.given}
        for name, value in self.given.items():
            whole = value.expand(num_samples, *value.shape)
            found[name] = torch.where(value.isnan(), drawn[name].to(value.dtype), value) if name in drawn else whole
        return found

    def _by_chains(
        self, pair: nn.Module, batch: Any, num_samples: int, start: Any, *, chunk: int, seed: int, progress: bool
    ) -> Draws:
        steps = max(_LEAST, -(-num_samples // _CHAINS))
        options: dict[str, Any] = {"seed": seed, "progress": progress, "start": start, "compile": "traced"}
        found = posterior_draws(pair, batch, steps, _CHAINS, _WARM_UP, chunk=min(chunk, 4096), **options)
        sites = {name: self.sites[name.removesuffix("_unobserved")] for name in found.latents}
        worth = [_effective(_data_first(value, sites[n], self.plate, 2)) for n, value in found.latents.items()]
        effective = torch.stack(worth).amin(0)
        index = torch.linspace(0, steps * _CHAINS - 1, num_samples).round().long()
        # Draws lie chain by chain for each step, so that neighbors are of different chains.
        latents = {name: value.flatten(0, 1)[index] for name, value in found.latents.items()}
        model, _ = programs(pair)
        with reading(pair, seed):
            trace = plan_of(model, model, batch, {}).trace(model, batch, {}, num_samples, values=latents)
            drawn = {name: _data_first(value, sites[name], self.plate, 1) for name, value in latents.items()}
            for name in self._partly():
                node: Any = trace.nodes[name]
                rest = latents.get(f"{name}_unobserved")
                rest = node["fn"].sample() if rest is None else rest
                drawn[name] = _data_first(rest, self.sites[name], self.plate, 1)
        return Draws(self._completed(drawn), effective, "chains", steps * _CHAINS, found.r_hat)


def _run(pair: nn.Module, args: Sequence[Any]) -> Trace:
    return trial(pair, *arguments(pair, *args, any_data=True), guide=False).model_trace


def _numbers(value: Tensor, site: Any) -> Tensor:
    """A value of uint8 as pixels, or as whole numbers where the site draws such."""
    counts = (constraints.integer_interval, type(constraints.nonnegative_integer))
    is_whole = value.dtype == torch.uint8 and isinstance(support_of(site["fn"]), counts)
    return value.long() if is_whole else gray(value)


def _with_examples(pair: nn.Module, args: Sequence[Any], sites: Mapping[str, Any], size: int) -> list[Any]:
    """Arguments with zeros for so many data in the place of those that are drawn where they are not given."""
    found = list(args)
    for place, name in enumerate(argument_names(pair)):
        if place < len(found) and found[place] is not None:
            continue
        if name not in sites:
            break
        value = sites[name]["value"]
        found[place : place + 1] = [value.new_zeros(size, *value.shape[1:])]
    return found


def _check_examples(
    args: Iterable[tuple[str, Any]], given: Mapping[str, Tensor], sites: Mapping[str, Any], count: int, size: int
) -> None:
    """Refuses arguments of another number of data than there are conditions, but those that the model observes."""
    observed = [site["value"] for site in sites.values() if site["is_observed"]]
    for name, arg in args:
        if not isinstance(arg, Tensor) or not arg.dim() or name in given:
            continue
        if not any(value.numel() == arg.numel() and torch.equal(value.reshape(arg.shape), arg) for value in observed):
            raise ValueError(
                f"values of sites are of {size} conditions, and the argument {name!r} of the model, which it does not "
                f"observe, holds {count} data: which of them belongs to a condition is not known. Give {size}, or one."
            )


def _data_first(value: Tensor, site: Any, plate: Any, leading: int = 0) -> Tensor:
    """``[*leading, *plates, *event] -> [*leading, N, *other plates, *event]``."""
    return value.movedim(plate.dim - site["fn"].event_dim, leading)


def _effective(draws: Tensor) -> Tensor:
    """``[S, C, N, ...] -> [N]``: effective sample size of chains, the least of all coordinates."""
    found = effective_sample_size(draws.double(), 0, 1)
    return found.reshape(len(found), -1).amin(-1) if found.dim() > 1 else found
