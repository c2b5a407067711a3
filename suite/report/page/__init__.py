"""What all HTML pages share: the style, the script, the vendored libraries of tables and plots, and the templates.

``assets/vendor`` holds DataTables and Chart.js as published, each with its licence.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

STYLE, SCRIPT = "page.css", "page.js"
TABLES, PLOTS = "vendor/datatables-3.1.5.min.js", "vendor/chart-4.6.1.min.js"
_NUMBER = re.compile(r"([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?) ?(G|M|k|h|min)?")
_UNITS = {"G": 1e9, "M": 1e6, "k": 1e3, "h": 3600.0, "min": 60.0, None: 1.0}
LICENCES = ("vendor/datatables.LICENSE.txt", "vendor/chart.LICENSE.txt")


def asset(name: str) -> str:
    """The text of an asset."""
    return (resources.files(__name__) / "assets" / name).read_text(encoding="utf-8")


def templates(*packages: str) -> Environment:
    """Templates of these packages' folders ``templates``, then the shared ones; whatever they show is escaped."""
    loaders = [PackageLoader(package) for package in (*packages, __name__)]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"embedded": embedded, "sort_key": sort_key}
    return environment


def embedded(content: Any) -> Markup:
    """JSON that may stand in a ``script`` element: nothing in it ends the element or begins a comment."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def sort_key(cell: str) -> str:
    """What a cell with a number is sorted by: the first number in it, in whole units; nothing if there is none."""
    found = _NUMBER.search(cell)
    return "" if found is None else f"{float(found[1].replace(',', '')) * _UNITS[found[2]]:.12g}"
