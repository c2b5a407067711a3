"""The report as one self-contained page: table, figures and provenance, nothing to load from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import jinja2
import pandas as pd

from suite.report.checks import FLOAT
from suite.report.provenance import flatten
from suite.report.tables import cells, columns, notes, title
from suite.run.records import Comparison

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bitcert: {{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; white-space: nowrap; border-bottom: 1px solid #ddd; }
td.left { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
th { border-bottom: 2px solid #222; } .left { text-align: left; } .right { text-align: right; }
tr.float td { border-top: 2px solid #222; color: #555; }
.note { font-size: .85rem; color: #444; margin: .4rem 0; max-width: 60rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { font-size: .85rem; color: #444; }
.provenance td { white-space: pre-wrap; overflow-wrap: anywhere; font: .8rem ui-monospace, monospace; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<h2>Leaderboard</h2>
<div class="wide"><table>
<thead><tr>{% for column in columns %}<th class="{{ column.align }}">{{ column.header }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr{% if row.is_float %} class="float"{% endif %}>
{%- for cell in row.cells %}<td class="{{ columns[loop.index0].align }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
<h2>Figures</h2>
{% for figure in figures %}<figure><img alt="{{ figure.caption }}" src="data:image/png;base64,{{ figure.data }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
<h2>Provenance</h2>
<table class="provenance">
{% for key, value in provenance.items() %}<tr><th class="left">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</table>
</body>
</html>
"""


def render_page(comparison: Comparison, frame: pd.DataFrame, figures: Mapping[str, bytes]) -> str:
    """Render a leaderboard and figures as HTML.

    Args:
        comparison: Where the leaderboard is from; its provenance is shown in full.
        frame: What :func:`.leaderboard.leaderboard` made of it.
        figures: Caption -> PNG.
    """
    shown = columns(frame)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_TEMPLATE).render(
        title=title(frame),
        columns=shown,
        rows=[
            {"is_float": searcher == FLOAT, "cells": line}
            for searcher, line in zip(frame["searcher"], cells(frame, shown), strict=True)
        ],
        notes=notes(frame),
        figures=[
            {"caption": caption, "data": base64.b64encode(data).decode("ascii")} for caption, data in figures.items()
        ],
        provenance=flatten(comparison.provenance),
    )
