"""The programs, and what is expected of each.

A program is what a user of Pyro has; nothing in it knows of this library. ``refused`` are refusals that are right and
stay. Faults of today are in :mod:`pyro_programs.faults`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

import pyro_vae as pv
from pyro_programs import (
    air,
    cevae,
    cvae,
    dmm,
    flows,
    hmm,
    lda,
    mixture,
    prodlda,
    regression,
    scanvi,
    schools,
    sparse_gamma,
    ss_vae,
    vae,
    zuko_prior,
)

Elbo = Callable[..., Any]


@dataclass(frozen=True)
class Program:
    """A program of a Pyro user.

    Attributes:
        name: of the table.
        make: ``(object with model and guide, batches)`` or ``(model, guide, batches)``; a batch is the tuple of
            arguments of one ``svi.step``.
        elbo: Pyro's, with which it is trained; takes ``num_particles``.
        estimator: ours, that is given to ``fit``; without one ``fit`` has to choose what ``elbo`` is.
        estimators: by name, ours and Pyro's that are one at equal seed; both take ``num_particles``.
        num_data: of the whole data, where the arguments do not tell it.
        command: the class by its dotted name, for the command line, and more options; with ``--covariates`` the data
            are a table.
        mode: of steps, without a compiler.
        same_names: whether model and guide call different modules the same, so that ``SVI`` trains one of them alone;
            its right values are those with other names.
        refused: refusals that are right, by aspect: a regular expression.
    """

    name: str
    make: Callable[[], Sequence[Any]]
    elbo: Elbo
    estimator: Elbo | None = None
    estimators: Mapping[str, tuple[Elbo, Elbo]] = field(default_factory=dict)
    num_data: int | None = None
    command: Sequence[str] = ()
    mode: str = "traced"
    same_names: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    def made(self) -> tuple[Any, Any, Any, list[tuple[Any, ...]]]:
        """``(pair, model, guide, batches)``, new: ``pair`` is what is given to this library."""
        *programs, batches = self.make()
        if len(programs) == 1:
            return programs[0], programs[0].model, programs[0].guide, batches
        return pv.Pair(*programs), *programs, batches


def sampled(nesting: int = 1) -> dict[str, tuple[Elbo, Elbo]]:
    return {"SGVB_A": (pv.SGVB_A, functools.partial(Trace_ELBO, max_plate_nesting=nesting))}


def scored(nesting: int = 1) -> dict[str, tuple[Elbo, Elbo]]:
    one = functools.partial(TraceGraph_ELBO, max_plate_nesting=nesting)
    return {**sampled(nesting), "ScoreFunction": (pv.ScoreFunction, one)}


def both(nesting: int = 1) -> dict[str, tuple[Elbo, Elbo]]:
    closed = pv.SGVB_B, functools.partial(TraceMeanField_ELBO, max_plate_nesting=nesting)
    return {**sampled(nesting), "SGVB_B": closed}


def points_in(nesting: int = 1) -> dict[str, tuple[Elbo, Elbo]]:
    """Of guides that draw elsewhere and place a ``Delta``, whose ``log_density`` ``TraceMeanField_ELBO`` leaves out."""
    one = functools.partial(Trace_ELBO, max_plate_nesting=nesting)
    return {"SGVB_A": (pv.SGVB_A, one), "SGVB_B": (pv.SGVB_B, one)}


def enumerated(nesting: int = 1) -> dict[str, tuple[Elbo, Elbo]]:
    return {"Enumeration": (pv.Enumeration, functools.partial(TraceEnum_ELBO, max_plate_nesting=nesting))}


mean_field = functools.partial(TraceMeanField_ELBO, max_plate_nesting=1)
trace = functools.partial(Trace_ELBO, max_plate_nesting=1)
enum = functools.partial(TraceEnum_ELBO, max_plate_nesting=1)
enum_2 = functools.partial(TraceEnum_ELBO, max_plate_nesting=2)
GLOBAL = {"importance": "stands? outside|global"}

PROGRAMS = [
    Program("VAE", vae.make, mean_field, estimators=both(), command=["pyro_programs.vae.VAE"]),
    Program(
        "conditional VAE",
        cvae.make,
        mean_field,
        estimators=both(),
        command=["pyro_programs.cvae.CVAE", "--covariates", "16,17,18"],
    ),
    Program("semi-supervised VAE", ss_vae.make, enum, estimators=enumerated(), command=["pyro_programs.ss_vae.SSVAE"]),
    Program("deep Markov model", dmm.make, trace, pv.SGVB_A, estimators=both()),
    Program("deep Markov model, IAF", lambda: dmm.make(1), trace, pv.SGVB_A, estimators=sampled()),
    Program("HMM, loops", lambda: hmm.make(hmm.model_loop), enum, estimators=enumerated(), refused=GLOBAL),
    Program("HMM, plates", lambda: hmm.make(hmm.model_plate), enum_2, estimators=enumerated(2), refused=GLOBAL),
    Program("HMM, vectorized", hmm.make_vectorized, mean_field, estimators=both(), refused=GLOBAL),
    Program("LDA", lda.make, enum_2, estimators=enumerated(2), num_data=lda.DOCUMENTS, refused=GLOBAL),
    Program(
        "LDA, mini-batches",
        lambda: lda.make(6),
        enum_2,
        estimators=enumerated(2),
        num_data=lda.DOCUMENTS,
        refused=GLOBAL,
    ),
    Program("ProdLDA", prodlda.make, mean_field, estimators=both(), command=["pyro_programs.prodlda.ProdLDA"]),
    Program("sparse gamma DEF", sparse_gamma.make, mean_field, estimators=both(), refused=GLOBAL),
    Program(
        "sparse gamma DEF, EasyGuide",
        lambda: sparse_gamma.make("easy"),
        trace,
        pv.SGVB_A,
        estimators=sampled(),
        refused=GLOBAL,
    ),
    Program(
        "CEVAE",
        cevae.make,
        cevae.TraceCausalEffect_ELBO,
        cevae.TraceCausalEffect_ELBO,  # a subclass of Pyro's ELBOs as it is
        command=["pyro_programs.cevae.CEVAE"],
        same_names=True,
    ),
    Program("scANVI, no labels", scanvi.make, enum, estimators=enumerated(), command=["pyro_programs.scanvi.SCANVI"]),
    Program(
        "scANVI, labels",
        lambda: scanvi.make(True),
        enum,
        enum,  # Pyro's, which trains the factor of the guide
        refused={"importance": "factor or observation"},
    ),
    Program("AIR", air.make, trace, pv.SGVB_A, estimators=scored(), command=["pyro_programs.air.AIR"]),
    *(
        Program(
            f"regression, {guide}",
            functools.partial(regression.make, guide),
            trace,
            estimators=sampled() if guide == "AutoStructured" else points_in(),  # it draws in an order of its own
            refused=GLOBAL,
        )
        for guide in regression.GUIDES
    ),
    Program("regression, by hand", regression.make_plain, mean_field, estimators=both(), refused=GLOBAL),
    Program("Gaussian mixture", mixture.make, enum, estimators=enumerated(), refused=GLOBAL),
    Program("eight schools", schools.make, trace, estimators=points_in(), refused=GLOBAL),
    Program("eight schools, reparametrized", lambda: schools.make(True), trace, estimators=points_in(), refused=GLOBAL),
    *(
        Program(f"VAE, prior {flow}", functools.partial(flows.make_prior, flow), mean_field, estimators=both())
        for flow in flows.PRIORS
    ),
    *(
        Program(f"VAE, guide {flow}", functools.partial(flows.make_guide, flow), mean_field, estimators=both())
        for flow in flows.GUIDES
    ),
    Program("VAE, prior of Zuko", zuko_prior.make, mean_field, estimators=both()),
]
