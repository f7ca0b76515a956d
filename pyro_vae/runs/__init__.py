"""Runs of the command line: their options, what a configuration file may name, and their folders.

:mod:`~pyro_vae.runs.options`
    the options, and the pair, the data and the arguments of ``fit`` that they make;
:mod:`~pyro_vae.runs.trust`
    what is taken from a file;
:mod:`~pyro_vae.runs.folder`
    opening a run folder, and storing results in it;
:mod:`~pyro_vae.runs.page`
    its page, which tells what was done;
:mod:`~pyro_vae.runs.terminal`
    what is typed in a terminal, and how messages read there.
"""

from pyro_vae.runs.folder import evaluations, free_folder, load, load_data, store_evaluation
from pyro_vae.runs.options import (
    CONFIG,
    DEFAULT_MODEL,
    EVALUATION,
    add_options,
    build,
    check_untyped,
    data_of,
    import_pair,
    instantiate,
    nearest,
    read,
    trained_pairs,
    written,
)
from pyro_vae.runs.page import Page
from pyro_vae.runs.trust import configured, is_known

__all__ = [
    "CONFIG",
    "DEFAULT_MODEL",
    "EVALUATION",
    "Page",
    "add_options",
    "build",
    "check_untyped",
    "configured",
    "data_of",
    "evaluations",
    "free_folder",
    "import_pair",
    "instantiate",
    "is_known",
    "load",
    "load_data",
    "nearest",
    "read",
    "store_evaluation",
    "trained_pairs",
    "written",
]
