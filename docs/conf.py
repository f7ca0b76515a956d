"""The site: sphinx-build -W -n docs docs/_build"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import sphinxcontrib.bibtex.plugin
from sphinx.util.fileutil import copy_asset
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
warnings.filterwarnings("ignore")  # of what is imported; Sphinx tells its own by other means

import generate  # noqa: E402
import names  # noqa: E402

project = "pyro_vae"
author = "the authors of pyro_vae"
copyright = author
version = release = generate.version()

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "jupyter_execute"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
nitpicky = True
suppress_warnings = ["mystnb.unknown_mime_type"]

# Pages are Markdown. The notebooks hold their outputs; `pytest -m slow` runs them, the build does not.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"show-inheritance": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "round"
bibtex_default_style = "plain"

html_theme = "furo"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
mathjax_path = "mathjax/tex-chtml.js"
html_extra_path = ["llms.txt"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def round_brackets() -> BracketStyle:
    return BracketStyle(left="(", right=")")


@dataclass
class Round(AuthorYearReferenceStyle):
    """Kingma and Welling (2013)."""

    bracket_parenthetical: BracketStyle = field(default_factory=round_brackets)
    bracket_textual: BracketStyle = field(default_factory=round_brackets)
    bracket_author: BracketStyle = field(default_factory=round_brackets)
    bracket_label: BracketStyle = field(default_factory=round_brackets)
    bracket_year: BracketStyle = field(default_factory=round_brackets)


sphinxcontrib.bibtex.plugin.register_plugin("sphinxcontrib.bibtex.style.referencing", "round", Round)


def copy_mathjax(app, error):
    """The site needs no other one: what it uses of MathJax, from the package that has it as files."""
    if error is None and app.builder.format == "html":
        spec = importlib.util.find_spec("sphinx-mathjax-offline")
        there = Path(spec.submodule_search_locations[0]) / "static" / "mathjax"
        for part in ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts"):
            place = app.outdir / "_static" / "mathjax" / part
            copy_asset(there / part, place if (there / part).is_dir() else place.parent)


def setup(app):
    generate.write(DOCS)
    names.setup(app)
    app.connect("build-finished", copy_mathjax)
