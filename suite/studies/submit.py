"""The verb ``submit``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.contract.problem import Problem
from suite.errors import BitcertError
from suite.files import json_sha256
from suite.studies.model import Group, Integers, Searchers, keyed, setting
from suite.studies.settings import DataSettings, HeldOutSettings, ProblemSettings
from suite.studies.study import Study, recorded_problem, with_network

if TYPE_CHECKING:
    from suite.board.winners import Winner
    from suite.workbench import BenchProblem

ENTRIES = "results/entries"


class RecordedProblems:
    """Problems made from records, once for all that share one.

    Args:
        data: Where images come from.
        checkpoint: Network, where none is included.
    """

    def __init__(self, data: DataSettings, checkpoint: str | None) -> None:
        self._given = ProblemSettings(data=data.data, download=data.download, checkpoint=checkpoint)
        self._known: dict[str, Problem] = {}

    def __call__(self, record: Mapping[str, Any]) -> Problem:
        """The problem of a record."""
        key = json_sha256(dict(record))
        if key not in self._known:
            self._known[key] = recorded_problem(record, self._given)
        return self._known[key]


class SubmitSettings(Group):
    """Settings of a submission."""

    directory: str = setting(
        ..., "a search, a comparison, or a recorded report with rows.csv; all its winners are submitted", metavar="RUN"
    )
    out: str = setting(ENTRIES, "folder of entries", metavar="DIR")
    searchers: Searchers | None = setting(None, "only the winners of these, separated by commas", metavar="A,B,...")
    seeds: Integers | None = setting(None, "only the winners of these seeds", metavar="A,B,...")
    experiment: str | None = setting(None, "experiment file of the search", metavar="FILE")
    author: tuple[str, ...] = setting((), "who submits; may be repeated", repeat=True)
    link: tuple[str, ...] = setting((), "a paper, or code; may be repeated", metavar="URL", repeat=True)
    notes: str = setting("", "what a reader should know, such as what was cut of a published method", metavar="TEXT")
    data: DataSettings = DataSettings()
    checkpoint: str | None = setting(None, "network of the problem, where none is included", metavar="FILE")
    exam: HeldOutSettings = HeldOutSettings()


class Submit(Study[SubmitSettings, "list[Path]"]):
    """Make leaderboard entries of the winners of a run.

    Certify the winner of a search, or all winners of a comparison, on the problem's held-out images, and write an entry for each:
    a JSON file with everything that is known of the result, one row per image included, and the weights beside it if the network
    was trained after the search. Winners of a comparison get the post-step and the exam that it recorded; for a single search,
    options say them. An entry that is there already is not made again, so the same command resumes.
    """

    Settings = SubmitSettings
    positional = ("directory",)

    def run(self, *, quiet: bool = True) -> list[Path]:
        """Make the entries that are missing."""
        from suite.board.make import Submission, submission_key, submitted_keys, write_entry
        from suite.report.progress import Progress
        from suite.run.exam import exam_forward_passes

        settings, folder = self.settings, Path(self.settings.out)
        winners = list(self.winners())
        if not winners:
            raise BitcertError(f"{settings.directory} has no winners of these searchers and seeds")
        experiment = settings.experiment
        if experiment is not None and not Path(experiment).is_file():
            raise BitcertError(f"there is no experiment file {experiment}")
        known, paths = submitted_keys(folder), []
        with Progress(quiet=quiet) as progress:
            progress.add("entries", len(winners))
            progress.add("post-step")
            progress.add("exam")
            for winner in winners:
                problem = self._problem(winner.problem)
                key = submission_key(winner, problem)
                if key not in known:
                    command = f"bitcert submit {shlex.quote(settings.directory)} --searchers {winner.method} --seeds {winner.seed}"
                    submission = Submission(command, experiment, settings.author, settings.link, settings.notes)
                    progress.update("post-step", 0, winner.post_step.steps)
                    progress.update("exam", 0, exam_forward_passes(problem, winner.exam))
                    known[key] = write_entry(
                        problem,
                        winner,
                        folder,
                        submission,
                        on_step=lambda done: progress.update("post-step", done),
                        progress=lambda count: progress.advance("exam", count),
                    )
                paths.append(known[key])
                progress.advance("entries")
        return paths

    def winners(self) -> Iterator[Winner]:
        """What is submitted."""
        wanted, seeds = self.settings.searchers, self.settings.seeds
        for winner in self._all():
            names = {winner.method, winner.method.partition(":")[0]}
            if (wanted is None or names & set(wanted)) and (seeds is None or winner.seed in seeds):
                yield winner

    @keyed("directory")
    def _all(self) -> list[Winner]:
        from suite.board.winners import ROWS, recorded_winners, winner_of, winners_of
        from suite.run.state import load_run
        from suite.studies.compare.run import CONTENTS, load_comparison

        folder = Path(self.settings.directory)
        if (folder / CONTENTS.name).exists():
            return list(winners_of(load_comparison(folder)))
        if (folder / ROWS).exists():
            return list(recorded_winners(folder / ROWS))
        run = load_run(folder)
        exam = self.settings.exam
        return [winner_of(run, exam.step(), exam.build(self._problem(run.provenance)))]

    def _problem(self, record: Mapping[str, Any]) -> BenchProblem:
        return with_network(self._problems(record), "images to hold an exam on")

    @cached_property
    def _problems(self) -> RecordedProblems:
        return RecordedProblems(self.settings.data, self.settings.checkpoint)

    def to_json(self, result: list[Path]) -> str:
        """The files."""
        return json.dumps({"entries": [str(path) for path in result]})

    def show(self, result: list[Path]) -> None:
        """Print the files, and what comes next."""
        for path in result:
            print(path)
        print(f"verify with: bitcert verify {self.settings.out}")
