"""The verb ``verify``."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.errors import BitcertError
from suite.plugins import registered_alone
from suite.studies.model import Group, keyed, setting
from suite.studies.settings import DataSettings
from suite.studies.study import Study
from suite.studies.submit import RecordedProblems

if TYPE_CHECKING:
    from suite.board.schema import BoardEntry, Verification
    from suite.contract.problem import Problem
    from suite.workbench import BenchProblem


class VerifySettings(Group):
    """Settings of a verification."""

    entries: tuple[str, ...] = setting(..., "entries, or folders of them", metavar="ENTRY", min_length=1)
    images: int = setting(100, "held-out images of each entry that are certified again, chosen at random", ge=1)
    samples: int | None = setting(None, "fresh noise samples of each (default: the entry's n, at most 1,000)", ge=1)
    full: bool = setting(False, "certify all images with the entry's n again, and repeat the search")
    error_rate: float = setting(1e-4, "probability of rejecting an honest entry, at most", gt=0, lt=1)
    seed: int | None = setting(
        None, "of the fresh noise and the choice of images; known beforehand, it can be tuned to (default: drawn)", ge=0
    )
    record: bool = setting(False, "write what was found beside each entry, for the leaderboard")
    only_new: bool = setting(False, "skip entries with a recorded verification", expert=True)
    data: DataSettings = DataSettings()
    checkpoint: str | None = setting(None, "network of the problem, where none is included", metavar="FILE")


class Verify(Study[VerifySettings, "dict[str, Verification | str]"]):
    """Certify leaderboard entries again.

    Recompute an entry's costs and spend, make its network again from the policy or the weights beside it, and certify a random part
    of the held-out images with fresh noise. An entry is rejected, with the reason, if anything in it does not follow from the rest,
    if it exceeds its budget, or if its certificates lie outside joint confidence limits. Nothing in an entry is executed.

    Exit status 0 says that all entries were accepted, 1 that some were rejected.
    """

    Settings = VerifySettings
    positional = ("entries",)

    def run(self, *, quiet: bool = True) -> dict[str, Verification | str]:
        """File -> what was found, or why it cannot be read."""
        from suite.board.schema import Verification, read_checked, read_entry, verification_of, write_checked
        from suite.report.progress import Progress

        found: dict[str, Verification | str] = {}
        files = self._files()
        with Progress(quiet=quiet) as progress:
            progress.add("entries", len(files))
            progress.add("forward passes")
            for path in files:
                recorded = verification_of(path)
                try:
                    entry = read_entry(path)
                    if self.settings.only_new and recorded.exists():
                        known = read_checked(Verification, recorded, "a verification")
                        if known.entry == entry.sha256:
                            found[str(path)] = known
                            progress.advance("entries")
                            continue
                    outcome = self._verify(entry, path, lambda count: progress.advance("forward passes", count))
                    found[str(path)] = outcome
                    if self.settings.record:
                        write_checked(outcome, recorded)
                except BitcertError as error:
                    found[str(path)] = str(error)
                progress.advance("entries")
        return found

    def to_json(self, result: Mapping[str, Verification | str]) -> str:
        """All that was found."""
        return json.dumps({name: _as_dict(found) for name, found in result.items()})

    def show(self, result: Mapping[str, Verification | str]) -> None:
        """Print a line for each entry, and the reasons of rejections."""
        for name, found in result.items():
            if isinstance(found, str):
                print(f"rejected  {name}\n          {found}")
                continue
            print(f"{'accepted' if found.accepted else 'rejected'}  {name}")
            for reason in found.reasons:
                print(f"          {reason}")
            if found.accepted:
                sampled = (
                    f", {found.samples} fresh samples each, p = {found.p_value:.2g}"
                    if found.p_value is not None
                    else ""
                )
                print(f"          {found.images} certificates checked{sampled}; seed {found.seed}")

    def answer(self, result: Mapping[str, Verification | str], *, as_json: bool) -> int:
        """Print the result; status 1 if any entry was rejected."""
        super().answer(dict(result), as_json=as_json)
        return int(not all(not isinstance(found, str) and found.accepted for found in result.values()))

    @keyed("entries")
    def _files(self) -> list[Path]:
        files: list[Path] = []
        for given in map(Path, self.settings.entries):
            if given.is_dir():
                listed = [
                    path for path in sorted(given.glob("*.json")) if path.name.count(".json") == 1 and _is_entry(path)
                ]
                if not listed:
                    raise BitcertError(f"the folder {given} has no entries")
                files += listed
            elif given.is_file():
                files.append(given)
            else:
                raise BitcertError(f"there is no entry {given}")
        return files

    def _verify(self, entry: BoardEntry, path: Path, progress: Any) -> Verification:
        from suite.board.verify import Effort, verify_entry

        settings = self.settings
        seed = secrets.randbits(48) if settings.seed is None else settings.seed
        images, samples = (None, entry.exam.n) if settings.full else (settings.images, settings.samples)
        effort = Effort(seed, images, samples, settings.error_rate)
        with registered_alone():
            problem = self._problem(entry)
            return verify_entry(
                entry, path, problem, effort, repeat=_repeat if settings.full else None, progress=progress
            )

    def _problem(self, entry: BoardEntry) -> Problem:
        """The problem that an entry names: one that comes with bitcert or is installed beside it, never code of the entry's."""
        from suite.problems import definitions

        record, name = entry.problem.record, entry.problem.name
        if name not in definitions() or name != record.get("problem") or "based_on" in record:
            raise BitcertError(f"{name} is no problem that is included or installed here")
        return self._problems(record)

    @cached_property
    def _problems(self) -> RecordedProblems:
        return RecordedProblems(self.settings.data, self.settings.checkpoint)


def _is_entry(path: Path) -> bool:
    return not path.name.endswith((".verification.json", ".withdrawn.json"))


def _as_dict(found: Verification | str) -> dict[str, Any]:
    return {"accepted": False, "reasons": [found]} if isinstance(found, str) else found.model_dump(mode="json")


def _repeat(entry: BoardEntry, problem: BenchProblem) -> list[str]:
    """Search again, and say what came out differently."""
    from suite.contract.trial import Fidelity
    from suite.run.registry import make_searcher
    from suite.studies.search.run import evaluation_seed, search

    spend = entry.spend
    searcher = make_searcher(entry.method.text, problem, entry.method.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = search(
            problem,
            searcher,
            directory=folder,
            evaluations=spend.evaluations,
            fidelity=Fidelity(**spend.fidelity.model_dump()),
            seed=evaluation_seed(searcher.seed),
            finalists=spend.finalists,
        )
    reasons = []
    if run.best is None or run.best.policy != entry.policy.policy():
        reasons.append("the search, repeated, finds another policy")
    if run.forward_passes != spend.forward_passes:
        reasons.append(
            f"the search, repeated, makes {run.forward_passes:,} forward passes, not {spend.forward_passes:,}"
        )
    return reasons
