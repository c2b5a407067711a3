"""The verb ``list``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from suite import plugins
from suite.studies.settings import Group
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.studies.plan import Plan


class ListSettings(Group):
    """There are none."""


class ListPlugins(Study[ListSettings, "dict[str, dict[str, str]]"]):
    """List every kind of plug-in.

    List problems, searchers, certifiers and all other kinds of plug-in, each with a line about it.
    """

    Settings = ListSettings

    def run(self, *, quiet: bool = True) -> dict[str, dict[str, str]]:
        """Kind -> name -> summary."""
        listed = {kind: {name: found.summary(name) for name in found.names()} for kind, found in plugins.KINDS.items()}
        return {**listed, "problems": {name: _problem(name, text) for name, text in listed["problems"].items()}}

    def answer(self, result: dict[str, dict[str, str]], *, as_json: bool) -> int:
        """Print the names."""
        if as_json:
            print(json.dumps(result, indent=2))
            return 0
        for kind, rows in result.items():
            print(f"{kind.replace('_', '-')}:")
            width = max(map(len, rows))
            for name, summary in rows.items():
                print(f"  {name:<{width}}  {summary}")
        return 0

    def plan(self) -> Plan:
        """No forward passes at all."""
        from suite.studies.plan import Plan

        return Plan()


def _problem(name: str, summary: str) -> str:
    """A named problem's summary, and which pretrained networks there are for it."""
    from suite.networks import shipped_sigmas
    from suite.problems import DEFINITIONS

    definition: Any = DEFINITIONS.get(name)
    if definition is None:
        return summary
    trained = ", ".join(f"{sigma:g}" for sigma in shipped_sigmas(definition.trained_as or name))
    comes = f"trained for sigma {trained}" if trained else "needs --checkpoint"
    return f"{definition.summary} ({comes}; default {definition.sigma:g})"
