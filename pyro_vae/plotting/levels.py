"""How far each of several latents is used, by pair."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pyro_vae._checks import checked, shown
from pyro_vae.plotting.arrays import check_row, shaped
from pyro_vae.plotting.style import LINES, MUTED, STYLE, HouseFigure

_NUMBERS = ("rate", "num_units")
_COUNTS = ("num_active", "num_informative", "perplexity", "num_codes", "threshold")
_MANY = 10  # bars of a panel above which none has its numbers written above it


@matplotlib.rc_context(STYLE)
@checked
def levels(pairs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The KL of each latent in nats, beside the share of its units that are used; a color for each pair.

    A unit is used if its own KL is above the threshold or, where the KL of single units is not known, if it is active.
    Of a discrete latent the share is that of its perplexity in the code book. The numbers above the bars are those of
    units or codes.

    Args:
        pairs: name -> a dictionary for each latent, from the data upwards, with the keys ``site``, ``rate``,
            ``num_units`` and, where they are known, ``num_active``, ``num_informative`` and their ``threshold``, or
            ``perplexity`` and ``num_codes``: ``diagnostics.levels(pair, batches).as_rows()``.

    Raises:
        ValueError: if there are no latents, a key is missing, or a number is not finite.
        TypeError: if something is not a number.

    >>> from pyro_vae import plotting
    >>> z1 = {"site": "z1", "rate": 12.0, "num_units": 16, "num_informative": 10, "threshold": 0.01}
    >>> z2 = {"site": "z2", "rate": 3.0, "num_units": 8, "num_informative": 4, "threshold": 0.01}
    >>> figure = plotting.levels({"ladder": [z1, z2]})
    """
    for name, rows in pairs.items():
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise TypeError(f"the latents of {name!r} are a list of dictionaries, of as_rows(); got {shown(rows)}.")
    tables = {name: [_row(row, name) for row in rows] for name, rows in pairs.items()}
    if not any(tables.values()):
        raise ValueError(
            'levels has nothing to draw; give {"name": diagnostics.levels(pair, batches).as_rows()} with one latent or '
            "more"
        )
    sites = list(dict.fromkeys(row["site"] for rows in sorted(tables.values(), key=len)[::-1] for row in rows))
    figure = HouseFigure(figsize=(float(np.clip(3.4 + 0.5 * len(sites) * len(tables), 5.4, 8.2)), 3.1))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(tables)
    few = len(sites) * len(tables) <= _MANY
    kinds: dict[str, None] = {}
    for index, rows in enumerate(tables.values()):
        style: dict[str, Any] = {"width": 0.9 * width, "color": LINES[index % len(LINES)]}
        for row in rows:
            place = sites.index(row["site"]) + (index - (len(tables) - 1) / 2) * width
            left.bar(place, row["rate"], **style)
            share, label, kind = _used(row)
            if share is None:
                continue
            kinds[kind] = None
            right.bar(place, share, **style)
            if few:
                right.annotate(label, (place, share), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    for ax in (left, right):
        ax.grid(True, axis="y")
        every = math.ceil(len(sites) / 12)
        ax.set_xticks(range(0, len(sites), every), [site_name(site) for site in sites[::every]])
        ax.tick_params(axis="x", length=0)
        ax.set_xlim(-0.6, len(sites) - 0.4)
        ax.set_xlabel("latent, from the data upwards" if len(sites) > 1 else "latent")
    left.set_ylabel("KL (nats per datum)")
    right.set_ylim(0, 1.12 if few else 1.02)
    right.axhline(1, color=MUTED, linewidth=0.6)
    right.set_ylabel("share: " + ",\n".join(kinds or {"units used": None}))
    if len(tables) > 1:
        handles = [Patch(color=LINES[i % len(LINES)], label=name) for i, name in enumerate(tables)]
        figure.legend(handles=handles, loc="outside upper right", ncols=min(len(handles), 5))
    return figure


@checked
def site_name(site: str) -> str:
    """``z2`` with its number as an index; any other name as it is.

    >>> from pyro_vae import plotting
    >>> plotting.site_name("z2"), plotting.site_name("theta")
    ('$z_{2}$', 'theta')
    """
    found = re.fullmatch(r"([a-zA-Z])_?(\d+)", site)
    return f"${found[1]}_{{{found[2]}}}$" if found else site


def _used(row: Mapping[str, Any]) -> tuple[float | None, str, str]:
    """The share of a latent that is used, its numbers, and what they count."""
    if row["perplexity"] is not None and row["num_codes"]:
        share = row["perplexity"] / row["num_codes"]
        return share, f"{row['perplexity']:.3g}/{row['num_codes']:.0f}", "perplexity / codes"
    informative = row["num_informative"] is not None
    used = row["num_informative"] if informative else row["num_active"]
    if used is None or not row["num_units"]:
        return None, "", ""
    limit = "the threshold" if row["threshold"] is None else f"{row['threshold']:g}"
    kind = f"units with KL > {limit} nats" if informative else f"units with variance > {limit}"
    return used / row["num_units"], f"{used:.0f}/{row['num_units']:.0f}", kind


def _row(row: Any, name: str) -> dict[str, Any]:
    check_row(row, ("site", *_NUMBERS), f"a latent of {name!r}")
    site = str(row["site"])
    given = {key: row.get(key) for key in (*_NUMBERS, *_COUNTS) if key in _NUMBERS or row.get(key) is not None}
    numbers = {key: float(shaped(value, f"{key} of {site!r}", (), "one number")) for key, value in given.items()}
    return {"site": site, **dict.fromkeys(_COUNTS), **numbers}
