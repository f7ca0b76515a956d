"""Groups of a pair's parameters, and sums over them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae._pyro import is_subsample
from pyro_vae.pair import evaluating, latent_sites, programs, random_sites


class _Scored(Messenger):
    """Scores each site, and cuts its draw off, so that the score depends on the parameters of that site alone."""

    def __init__(self) -> None:
        super().__init__()
        self.log_probs: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not is_subsample(msg):
            self.log_probs[msg["name"]] = msg["fn"].log_prob(msg["value"]).sum()
        if not msg["is_observed"]:
            msg["value"] = msg["value"].detach()


def by_site(pair: nn.Module, batch: Sequence[Tensor]) -> dict[str, tuple[str, ...]]:
    """``{"p(x)": names of the parameters on which this density depends, ...}``, without those that have none."""
    model, guide = programs(pair)
    with evaluating(pair), torch.inference_mode(False), torch.enable_grad():
        with _Scored() as q:
            guide_trace = poutine.trace(guide).get_trace(*batch)
        with _Scored() as p:
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
        trained = {name: parameter for name, parameter in pair.named_parameters() if parameter.requires_grad}
        if not trained:
            raise ValueError("the pair has no parameters that are trained, so there is no gradient to look at.")
        scores = {f"p({name})": p.log_probs[name] for name in random_sites(model_trace)}
        scores |= {f"q({name})": q.log_probs[name] for name in latent_sites(guide_trace)}
        found = {site: _seen_by(score, trained) for site, score in scores.items()}
    return {site: names for site, names in found.items() if names}


def _seen_by(score: Tensor, parameters: Mapping[str, Tensor]) -> tuple[str, ...]:
    if not score.requires_grad:
        return ()
    gradients = torch.autograd.grad(score, list(parameters.values()), retain_graph=True, allow_unused=True)
    return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


def _attribute(name: str) -> str:
    """The attribute of a pair in which a parameter is; of a :class:`Pair`, the program, or what it announced."""
    for room in ("programs.", "announced.", "pyro_params.", "param/"):
        name = name.removeprefix(room)
    return re.split(r"[./]", name)[0]


class Layout:
    """Gradients as one vector ``[D]``, and sums over groups of its elements, ``[G]``."""

    def __init__(self, pair: nn.Module, sites: dict[str, tuple[str, ...]], groups: Callable[[str], str | None] | None):
        trained = {name: parameter for name, parameter in pair.named_parameters() if parameter.requires_grad}
        self.parameters = list(trained.values())
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.eps = max(torch.finfo(parameter.dtype).eps for parameter in self.parameters)
        by_part: dict[str, tuple[str, ...]] = {}
        for name in trained:
            part = (groups or _attribute)(name)
            if part in sites or part == "all":
                raise ValueError(f"{part!r} is a group by itself already; give the group of {name} another name.")
            if part is not None:
                by_part[part] = (*by_part.get(part, ()), name)
        self.groups: dict[str, tuple[str, ...]] = {**sites, **by_part, "all": tuple(trained)}
        device = self.parameters[0].device
        rows = [[float(name in names) for name in trained] for names in self.groups.values()]
        self._members = torch.tensor(rows, dtype=torch.float64, device=device)
        self.counts = self._members @ torch.tensor(self.sizes, dtype=torch.float64, device=device)

    def gradient(self) -> Tensor:
        """``[D]``: what stands in ``.grad``, in float64."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([part.detach().double().reshape(-1) for part in parts])

    def zeros(self) -> Tensor:
        """``[D]``."""
        return self.parameters[0].new_zeros(sum(self.sizes), dtype=torch.float64)

    def dot(self, one: Tensor, other: Tensor) -> Tensor:
        """``[G]``: inner product of the parts of two vectors ``[D]`` that are in each group."""
        parts = zip(one.split(self.sizes), other.split(self.sizes), strict=True)
        return self._members @ torch.stack([torch.dot(a, b) for a, b in parts])

    def norm(self, vector: Tensor) -> Tensor:
        """``[G]``."""
        return self.dot(vector, vector).sqrt()

    def total(self, values: Tensor) -> Tensor:
        """``[G]``: sum over the elements of each group."""
        return self._members @ torch.stack([part.sum() for part in values.split(self.sizes)])
