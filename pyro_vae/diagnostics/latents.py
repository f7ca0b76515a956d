"""Runs of a pair that is read: at the means of its latents, or with latents at given values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ImproperUniform, Unit
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import TransformedDistribution, biject_to, constraints

from pyro_vae import batches
from pyro_vae._checks import checked, whole
from pyro_vae._pyro import is_subsample
from pyro_vae._tensors import check_dense
from pyro_vae.distributions.steps import MarkovNormal
from pyro_vae.distributions.wrappers import family, unwrapped
from pyro_vae.pair import as_pair, data_frame, device_of, latent_sites, observed_sites, programs, support_of
from pyro_vae.pair.arguments import Converted, converted
from pyro_vae.pair.gate import explained, refuse
from pyro_vae.pair.running import Drawing, PairRun, reading
from pyro_vae.pair.signatures import argument_names
from pyro_vae.pair.sites import held_sites, inside
from pyro_vae.pair.structure import odd_sites
from pyro_vae.pair.turns import fork_rng

Batches = Iterable[Sequence[Any]]


@contextmanager
def opened(
    pair: Any, batch: Sequence[Tensor], seed: int | None = None, any_data: bool = False
) -> Iterator[tuple[nn.Module, tuple[Tensor, ...]]]:
    """The pair as a module to be read (:func:`~pyro_vae.pair.running.reading`), and what its programs are given.

    With ``any_data`` only the shape matters of what the model observes.
    """
    module = as_pair(pair)
    with reading(module, seed):
        given = converted(module, batch, any_data)
        with explained(module, *given):
            yield module, given


@checked
def chunks(*batch: Any, size: int = 500) -> list[tuple[Any, ...]]:
    """The arguments of model and guide in batches of at most ``size`` data, so that few are encoded at once.

    >>> import torch
    >>> from pyro_vae import diagnostics
    >>> [len(x) for x, y in diagnostics.chunks(torch.zeros(7, 4), torch.zeros(7), size=3)]
    [3, 3, 1]
    """
    whole(size=size)
    for part in batches.leaves(batch):
        if isinstance(part, Tensor):
            check_dense(part, "an argument")
    return [batches.rows(batch, slice(at, at + size)) for at in range(0, batches.num_rows(batch), size)]


def resized(batch: Sequence[Any], size: int) -> Any:
    """The arguments repeated, or cut, to ``size`` data.

    Raises:
        ValueError: if there are arguments, and no data among them.
    """
    count = batches.num_rows(batch)
    whole(1, num_samples=size)
    for leaf in batches.leaves(batch):
        if isinstance(leaf, Tensor):
            check_dense(leaf, "x")
    if not count and any(leaf is not None for leaf in batches.leaves(batch)):
        raise ValueError("there are no data among the arguments: give x of shape [B, *event], B at least 1, first.")

    def one(part: Any) -> Any:
        if not count:
            return part
        if isinstance(part, Tensor) and part.dim():
            return part[torch.arange(size, device=part.device) % len(part)]
        if isinstance(part, Converted):
            return resized(part, size)
        return batches.rows((torch.empty(count), part), torch.arange(size) % max(count, 1))[1]

    return batches.like(batch, [one(part) for part in batch])


def some(count: int) -> int:
    """``count``, which is not 0.

    Raises:
        ValueError: if it is.
    """
    if count == 0:
        raise ValueError("there are no data: the batches are empty.")
    return count


def named(sites: Mapping[str, Any], site: str, program: str = "guide", purpose: str = "") -> Any:
    """The latent of a name.

    Raises:
        ValueError: if there is none.
    """
    if site not in sites:
        raise ValueError(f"the {program} has no latent {site!r}{purpose}; it has {', '.join(sites) or 'none'}.")
    return sites[site]


def random_state() -> list[Tensor]:
    """Of torch's generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def put_back(state: list[Tensor]) -> None:
    """Gives torch's generators back their :func:`random_state`."""
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])


class AtMean(Messenger):
    """Puts the center of its distribution at each latent site, in place of a draw; or at continuous ones by name.

    Where no site had to be drawn, torch's random state is as it was afterwards.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        super().__init__()
        self.names = names
        self._states: list[Any] = []

    def __enter__(self) -> Any:
        self.drawn = False
        self._states.append(random_state())
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        before = self._states.pop()
        if not self.drawn:
            put_back(before)
        return super().__exit__(*error)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_subsample(msg):
            return
        if isinstance((msg["infer"] or {}).get("obs"), Tensor):
            return  # an observation that is not conditioned on, of which the mean is asked for
        center = None
        if self.names is None or (msg["name"] in self.names and not space_of(msg["fn"]).is_discrete):
            center = _center(msg["fn"])
        if center is not None and center.shape == msg["value"].shape and center.isfinite().all():
            msg["value"] = center
        else:
            self.drawn = True


def _center(fn: Any) -> Tensor | None:
    """The mean of a distribution, or its mode; of a flow the image of its base's mean; ``None`` where there is none.

    Of a Markov chain it is the path of means.
    """
    if isinstance(unwrapped(fn), MarkovNormal):
        return unwrapped(fn).center
    try:
        mean = fn.mean
        is_center = mean.isfinite().all() if fn.support.is_discrete else fn.support.check(mean).all()
        return mean if is_center else fn.mode
    except NotImplementedError:
        pass
    shape = fn.batch_shape + fn.event_shape
    fn = unwrapped(fn)
    center = _center(fn.base_dist) if isinstance(fn, TransformedDistribution) else None
    if center is None:
        return None
    for transform in fn.transforms:
        center = transform(center)
    return center.expand(shape)


def space_of(fn: Any) -> constraints.Constraint:
    """The support of a distribution, of one unit where the units are independent; where it is not known, R."""
    found = support_of(fn)
    return constraints.real if found is None else found


class InPlaceOfAPrior(Messenger):
    """Puts a value at each latent without a proper prior, which cannot be drawn, where only shapes are asked for."""

    def __init__(self, pair: Any) -> None:
        super().__init__()
        module = as_pair(pair)
        dtype = next((parameter.dtype for parameter in module.parameters()), None)
        self.zero = torch.zeros((), dtype=dtype, device=device_of(module))

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], ImproperUniform) and not msg["done"] and msg["value"] is None:
            msg["value"], msg["done"] = biject_to(msg["fn"].support)(self.zero.expand(msg["fn"].shape())), True


def shared_latents(trace: Trace) -> set[str]:
    """The latents that all data share, such as weights: those in no plate, where other sites are in one."""
    nodes: Any = trace.nodes
    plated = {name for name, site in nodes.items() if any(f.vectorized for f in site.get("cond_indep_stack", ()))}
    return set(latent_sites(trace)) - plated if plated else set()


def by_datum(site: Any, value: Tensor, plate: Any, size: int | None = None) -> Tensor:
    """A value of a site with the data, of that plate, first: ``[B, *other plates, *event]``.

    Raises:
        ValueError: if the program runs over another number of data than ``size``, since it subsamples, say.
    """
    if plate is None or not inside(site, plate):
        return value
    check_size(plate, size)
    if value.dim() < site["fn"].event_dim - plate.dim:
        raise ValueError(
            f"the site {site['name']!r} has one value for all data, since their plate has no size. Give it that of the "
            f"data: pyro.plate({plate.name!r}, len(x))."
        )
    return value.movedim(plate.dim - site["fn"].event_dim, 0)


def check_size(plate: Any, size: int | None) -> None:
    """Refuses a program that runs over another number of data than it was given, ``None`` where it was given none.

    Raises:
        ValueError: if it does.
    """
    if plate is not None and size is not None and plate.size != size:
        what = "subsamples" if plate.size < plate.full_size else "is over"
        raise ValueError(
            f"the data plate {plate.name!r} {what} {plate.size} of {plate.full_size} data, but the program was given "
            f"{size}. Size it by the batch, without subsample_size: pyro.plate({plate.name!r}, len(x))."
        )


def plates_of(module: nn.Module, batch: Sequence[Tensor]) -> Trace:
    """A run of the model that is looked at for its plates alone; torch's random state stays."""
    with fork_rng(), InPlaceOfAPrior(module):
        return poutine.trace(programs(module)[0]).get_trace(*batch)


def as_plates(latents: Mapping[str, Tensor], module: nn.Module, batch: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`by_datum`: latents with the data first, laid out as the plates of the model."""
    trace = plates_of(module, batch)
    plate, sites = data_frame(trace, batches.num_rows(batch)), latent_sites(trace)
    found = dict(latents)
    for name, value in latents.items():
        if plate is not None and name in sites and inside(sites[name], plate):
            events = sites[name]["fn"].event_dim
            if value.dim() > events - plate.dim:
                found[name] = value.movedim(0, plate.dim - events)
    return found


def local_latents(pair: Any, *batch: Tensor) -> set[str]:
    """The latents inside the data plate."""
    with opened(pair, batch, any_data=True) as (module, batch):
        trace = plates_of(module, batch)
    plate = data_frame(trace, batches.num_rows(batch))
    return {name for name, site in latent_sites(trace).items() if plate is not None and inside(site, plate)}


def prior_sites(pair: Any, *batch: Tensor, size: int = 1) -> dict[str, Any]:
    """The latents of one run of the model for ``size`` data; what has no proper prior is at some value."""
    with InPlaceOfAPrior(pair):
        return latent_sites(run_model(pair, resized(batch, size)))


def run_model(
    pair: Any,
    batch: Sequence[Tensor],
    latents: Mapping[str, Tensor] | None = None,
    draw_shared: bool = False,
    centered: Collection[str] = (),
) -> Trace:
    """A run at given latents. What all data share (weights) has its value from the guide: the mean, or a draw.

    The latents that are ``centered`` are at their mean, and not drawn.
    """
    with opened(pair, batch, any_data=True) as (module, batch):
        before = random_state()
        model, guide = programs(module)
        latents = {name: value.to(device_of(module)) for name, value in (latents or {}).items()}
        latents = as_plates(latents, module, batch) if latents else latents
        try:
            trace = poutine.trace(poutine.condition(model, data=dict(latents))).get_trace(*batch)
        except Exception as error:
            if batches.num_rows(batch):
                raise
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"the model does not run without data ({what}): pass an example batch, as in sample(pair, n, x)."
            ) from error
        refuse(odd_sites(PairRun(trace, Trace())))
        size = batches.num_rows(batch) if batch else None
        check_size(data_frame(trace, size), size)
        held = held_sites(trace, batch, size) - latents.keys()
        sites = {name: site for name, site in observed_sites(trace).items() if name not in {*latents, *held}}
        observed = {name: site["value"] for name, site in sites.items() if not isinstance(site["fn"], Unit)}
        if shared := shared_latents(trace):
            with nullcontext() if draw_shared else AtMean():
                posterior = latent_sites(poutine.trace(guide).get_trace(*batch))
            latents.update({name: posterior[name]["value"] for name in shared if name in posterior})
        free = poutine.trace(poutine.condition(Drawing(held)(model), data=dict(latents)))
        with AtMean(centered) as means:
            trace = free.get_trace(*batch)
        if not means.drawn and not (shared and draw_shared):
            put_back(before)
    nodes: Any = trace.nodes
    for name in observed.keys() & nodes.keys():
        nodes[name]["infer"]["was_observed"] = observed[name]
    return trace


@checked
def observed_site(pair: Any, *batch: Any, site: str | None = None) -> str:
    """The site at which the model meets x, of those that it observes when it is given ``batch``.

    That is the only one; or else that of the name of the model's first argument; the only one with as many numbers as
    this has; or the only one of an argument's name.

    Raises:
        ValueError: if there is none, none of the name ``site``, or without a name it cannot be told.

    >>> import torch, pyro_vae as pv
    >>> pv.diagnostics.observed_site(pv.models.MLPVAE((4,), latent_dim=2), torch.ones(3, 4))
    'x'
    """
    with fork_rng(), InPlaceOfAPrior(pair):
        return _chosen(run_model(pair, batch), pair, batch, site)["name"]


@checked
def observed_values(pair: Any, *batch: Any, site: str | None = None) -> Tensor:
    """What the model observes at a site, see :func:`observed_site`: ``[B, *event]``, or ``[B, *plates, *event]``.

    >>> import torch, pyro_vae as pv
    >>> x = torch.rand(3, 4).round()
    >>> torch.equal(pv.diagnostics.observed_values(pv.models.MLPVAE((4,), latent_dim=2), x), x)
    True
    """
    with fork_rng(), InPlaceOfAPrior(pair):
        trace = run_model(pair, batch)
    found = _chosen(trace, pair, batch, site)
    return by_datum(found, found["infer"]["was_observed"], data_frame(trace, batches.num_rows(batch)))


def _chosen(trace: Trace, pair: Any, batch: Sequence[Any], site: str | None) -> Any:
    nodes: Any = trace.nodes
    sites = {name: node for name, node in nodes.items() if "was_observed" in node.get("infer", {})}
    if not sites:
        raise ValueError(
            "the model observes nothing. If it is that it was given no data, pass an example batch: sample(pair, n, x)."
        )
    if site is not None:
        if site not in sites:
            raise ValueError(f"the model observes no site {site!r}; it observes {', '.join(sites)}.")
        return sites[site]
    names = argument_names(as_pair(pair))
    given = batch[0] if len(batch) == 1 and isinstance(batch[0], Converted) else batch
    size = given[0].numel() if given and isinstance(given[0], Tensor) else None
    for found in (
        list(sites),
        [name for name in sites if name in names[:1]],
        [name for name, node in sites.items() if node["fn"].shape().numel() == size],
        [name for name in sites if name in names],
    ):
        if len(found) == 1:
            return sites[found[0]]
    shown = [f"site={name!r}" for name in sites]
    few = shown if len(shown) < 6 else [*shown[:3], "...", shown[-1]]
    raise ValueError(f"the model observes {len(sites)} sites, and one is asked for: give {', '.join(few)}.")


def observed_mean(
    trace: Trace, pair: Any, batch: Sequence[Any], site: str | None = None, size: int | None = None
) -> Tensor:
    """E[x | z] of a run by :func:`run_model`, of ``size`` data where it was given some.

    Raises:
        ValueError: as :func:`observed_site`, or if the data have no plate, or the likelihood neither mean nor mode.
    """
    found = _chosen(trace, pair, batch, site)
    with torch.no_grad():
        means = by_datum(found, _expected(found), data_frame(trace)).detach()  # which may be a parameter
    if size is not None and means.shape[:1] != (size,):
        raise ValueError(
            f"the model gives a mean of shape {list(means.shape)} for {size} data, so that its data cannot be told "
            'apart. Put what belongs to a datum inside `with pyro.plate("data", len(x)):`.'
        )
    return means


def _expected(site: Any) -> Tensor:
    """The mean of a site, or its mode where that is not known or not finite, as of a label."""
    found = None
    for center in ("mean", "mode"):
        try:
            value = getattr(site["fn"], center)
        except (NotImplementedError, AttributeError):
            continue
        if value.isfinite().all():
            return value
        found = value if found is None else found
    if found is None:
        raise ValueError(
            f"the likelihood of {site['name']!r}, a {family(site['fn'])}, has neither a mean nor a mode, so that there "
            "is none to be shown. Draw from it by pyro.infer.Predictive(pair.model, guide=pair.guide, num_samples=1)."
        )
    return found
