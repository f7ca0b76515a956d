"""Draws of a pair's sites where others have given values, or where a predicate holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pyro_vae._checks import checked, one_of, shown, whole
from pyro_vae.conditioning.given import Condition
from pyro_vae.conditioning.predicates import Predicate, everything, of_predicate
from pyro_vae.conditioning.result import Draws, Method
from pyro_vae.pair import as_pair


@checked(but=("where", "num_samples", "max_draws", "chunk"))
def sample(
    pair: Any,
    num_samples: int = 100,
    *batch: Any,
    where: Mapping[str, Any] | Predicate | None = None,
    method: Method = "auto",
    max_draws: int = 100_000,
    chunk: int = 16384,
    seed: int = 0,
    progress: bool = False,
) -> Draws:
    r"""Draws of all sites of a fitted pair, given some of them: p(sites | where).

    ``where`` is one of

    - a dictionary of values by site, each ``[N, *event]`` for N conditions: of latents, of what the model observes, or
      of both. NaN stand for entries that are not given: ``{"x": x}`` with half of each image NaN gives the other half.
    - a predicate: a function of the sites, ``{name: [n, *event]}`` drawn from the model, that gives ``[n]`` booleans,
      or log-weights: draws are of p(sites) times what these tell, up to a constant.
    - ``None``: nothing, so that draws are of the prior.

    How it is inferred, by ``method``:

    - ``"guide"``: draws from q(z | x), weighed by p(x, z) / q(z | x) (sampling-importance-resampling), where all that
      the model observes is given. By ``"auto"`` so where x is given in full; where a part of it is given, to a pair
      that takes a ``mask``, or one of discrete latents.
    - ``"chains"``: Hamiltonian Monte Carlo, of continuous latents, 8 chains for each datum. By ``"auto"`` so where
      else a part of x is given.
    - ``"prior"``: draws from the model with the given sites held, weighed by their density. By ``"auto"`` so for all
      else: where latents are given, or not all that the model observes. Predicates take it always.

    Weighed draws are made until their effective sample size is ``num_samples``, for each condition; where
    ``max_draws`` do not suffice, they are refused. Random variables that all data share, such as weights, are
    refused; without example data a predicate is given a draw of them each.

    Args:
        pair: the pair, of plain functions, a class or a module.
        num_samples: draws, S.
        batch: arguments of the model, where it needs others than what is given to run; of what it observes the shape
            alone matters; of others there are as many data as conditions, or one, and for predicates one.
        where: what is given.
        method: see above.
        max_draws: draws at most, for each condition.
        chunk: draws (over data and samples) that are held in memory at once.
        seed: of the draws; the caller's random state is left as it was.
        progress: show a progress bar.

    Raises:
        ValueError: if a site is none of the pair's, values have other shapes or numbers of data, no draw satisfies the
            predicate, the effective sample size stays below ``num_samples``, the method does not apply, or the model
            has a factor, or takes a distribution from data that it observes and are not given.
        TypeError: if ``where`` is something else, or a predicate gives no tensor.

    >>> import torch, pyro_vae as pv
    >>> vae = pv.models.MLPVAE((4,), latent_dim=2, hidden=(8,))
    >>> draws = sample(vae, 50, where=lambda sites: sites["x"].sum(-1) >= 3)
    >>> draws["z"].shape, bool((draws["x"].sum(-1) >= 3).all())
    (torch.Size([50, 2]), True)
    >>> sample(vae, 50, where={"x": torch.ones(3, 4)})["z"].shape
    torch.Size([50, 3, 2])
    """
    whole(1, num_samples=num_samples, max_draws=max_draws, chunk=chunk)
    one_of(get_args(Method), method=method)
    module = as_pair(pair)
    if where is None or callable(where):
        if method not in ("auto", "prior"):
            raise ValueError(
                f"predicates weigh draws of the prior, and method={method!r} was asked for. Leave it out, or give "
                "values by site."
            )
        return of_predicate(module, num_samples, batch, where or everything, max_draws, seed)
    if not isinstance(where, Mapping) or not where:
        raise TypeError(
            "where is a dictionary of values by site, {'x': x}, or a function of the sites that gives booleans or "
            f"log-weights; got {shown(where)}."
        )
    condition = Condition.of(module, where, batch)
    return condition.draws(num_samples, method, max_draws, chunk=chunk, seed=seed, progress=progress)
