"""Sphinx settings of the site; every reference table is generated from the code while it is built."""

import sys
from importlib import metadata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import reference

reference.write(Path(__file__).parent / "_generated")

project = "bitcert"
copyright = "The bitcert authors"
author = "The bitcert authors"
release = version = metadata.version("bitcert")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included tables begin without a heading

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!suite\.|searchers\.|baselines\.).*"),  # other libraries: their sites are not fetched
    (r"py:class", r"(suite|searchers|baselines)\..*"),  # types in signatures may be internal
]

html_theme = "furo"
html_title = f"bitcert {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
