"""The verb ``list``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from suite import plugins
from suite.studies.model import Group
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.problems.definition import Definition


class ListPlugins(Study[Group, "dict[str, dict[str, str]]"]):
    """List every kind of plug-in.

    List problems, searchers, certifiers and all other kinds of plug-in, each with a line about it.
    """

    Settings = Group

    def run(self, *, quiet: bool = True) -> dict[str, dict[str, str]]:
        """Kind -> name -> summary."""
        from suite.problems import definitions

        listed = {kind: {name: found.summary(name) for name in found.names()} for kind, found in plugins.KINDS.items()}
        listed["problems"] |= {name: _describe(found) for name, found in definitions().items()}
        return listed

    def to_json(self, result: dict[str, dict[str, str]]) -> str:
        """The same."""
        return json.dumps(result, indent=2)

    def show(self, result: dict[str, dict[str, str]]) -> None:
        """Print one line per name."""
        for kind, rows in result.items():
            print(f"{kind.replace('_', '-')}:")
            width = max(map(len, rows))
            for name, summary in rows.items():
                print(f"  {name:<{width}}  {summary}")


def _describe(definition: Definition) -> str:
    """A named problem's summary, and which pretrained networks there are for it."""
    from suite.networks import shipped_sigmas

    if not definition.network:
        return definition.summary
    trained = ", ".join(f"{sigma:g}" for sigma in shipped_sigmas(definition.trained_as or definition.name))
    comes = f"trained for sigma {trained}" if trained else "needs --checkpoint"
    return f"{definition.summary} ({comes}; default {definition.sigma:g})"
