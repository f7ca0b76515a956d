"""What pairs are good for, beside baselines, on real data: one module for each application.

The function that gives a module its use is a command, ``pyro-vae apply NAME``: its signature and docstring are the
options and the help. Scores, restorations and the like are functions of any pair, to be used without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pyro_vae._checks import one_of

_PLACES = {
    "anomaly": "anomaly",
    "restore": "restoration",
    "impute": "imputation",
    "reduce": "reduction",
    "labels": "labels",
    "segment": "segment",
}


def names() -> list[str]:
    """The applications by name, in the order in which they are listed.

    >>> from pyro_vae import applications
    >>> applications.names()
    ['anomaly', 'restore', 'impute', 'reduce', 'labels', 'segment']
    """
    return list(_PLACES)


def function(name: str) -> Callable[..., Any]:
    """The function behind ``pyro-vae apply NAME``; its module is imported when it is first asked for.

    Raises:
        ValueError: if there is no application of that name.

    >>> from pyro_vae import applications
    >>> applications.function("reduce").__name__
    'reduce'
    """
    one_of(list(_PLACES), name=name)
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
