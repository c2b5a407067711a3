"""The verb ``doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from suite.studies.model import Group, setting
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.studies.doctor.checks import Finding


class DoctorSettings(Group):
    """What is checked."""

    ray: bool = setting(False, "start a Ray cluster on this machine and run a task, which takes about ten seconds")
    data: str | None = setting(None, "folder with images (default: the variable BITCERT_DATA)", metavar="DIR")
    directory: str = setting("runs", "where runs will go", metavar="DIR")


class Doctor(Study[DoctorSettings, "list[Finding]"]):
    """Say what works on this machine.

    Use every part that bitcert depends on, and say what works, what is missing or broken, and what to do: packages, GPU, Ray,
    extras, images, included networks and tables, disk, cores and memory. The exit status is 1 if something required does not work.
    """

    Settings = DoctorSettings

    def run(self, *, quiet: bool = True) -> list[Finding]:
        """Carry out all checks."""
        from suite.studies.doctor.checks import find
        from suite.studies.doctor.files import file_checks
        from suite.studies.doctor.software import software_checks

        asked = self.settings
        return find([*software_checks(ray=asked.ray), *file_checks(asked.data, Path(asked.directory))])

    def status(self, result: list[Finding]) -> int:
        """1 if something required does not work."""
        return int(any(finding.fails for finding in result))

    def to_json(self, result: list[Finding]) -> str:
        """Whether all that is required works, and what each check found."""
        works = not self.status(result)
        content = {"bitcert": metadata.version("bitcert"), "works": works, "checks": [asdict(each) for each in result]}
        return json.dumps(content, indent=2)

    def show(self, result: list[Finding]) -> None:
        """Print one row for each check, then the remedies."""
        for finding in result:
            optional = "" if finding.required or finding.status == "ok" else " (optional)"
            print(f"{finding.status:<8} {finding.check + optional}: {finding.found}")
            if finding.remedy:
                print(f"{'':<8}   to do: {finding.remedy}")
        failing = [finding.check for finding in result if finding.fails]
        print(f"required, and does not work: {', '.join(failing)}" if failing else "all that is required works")
