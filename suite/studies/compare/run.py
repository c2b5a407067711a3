"""Many searches under equal spend whose winners are examined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from suite.certify.exam import ExamSettings
from suite.contract.cost import float_bops
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.execute.executor import Resources, make_executor
from suite.plugins import EXECUTORS, POST_STEPS
from suite.protocols import NoPostStep, PostStep, parse_post_step
from suite.report.comparison import Comparison
from suite.run.exam import ExamCase, check_exam, hold_exams, missing_exams
from suite.run.folder import SettingsFile, check_same
from suite.run.journal import FILE_NAME
from suite.run.limits import RETRIES, Limits
from suite.run.loop import SearchLoop
from suite.run.outcomes import read_outcome
from suite.run.records import Entry, Run
from suite.run.registry import make_searcher
from suite.run.rungs import NO_RUNGS, Rungs
from suite.run.state import load_run
from suite.run.watcher import Watcher
from suite.studies.search.run import check_finalists, evaluation_seed, promotion_of

CONTENTS = SettingsFile("comparison.json", "comparison", version=3)


@dataclass(frozen=True, slots=True)
class ComparisonSettings:
    """What a comparison does; two comparisons with equal settings on equal problems are the same one.

    Attributes:
        searchers: Registered names, options after them if any (``arq:episodes=64``).
        seeds: The same for every searcher. All luck depends on them: the searcher's own, the noise of evaluations (see
            :func:`evaluation_seed`), the post-step's order and noise, and network and images unless these are shared.
        limits: Of every search, second measurements of its best included.
        fidelity: Of every evaluation.
        post_step: What winners go through before the exam.
        exam: How winners are certified.
        controls: Other post-steps, after each of which every winner is certified, too.
        finalists: How many of each search's best policies are measured again before its winner is chosen; as for
            :func:`search`.
        rungs: Cheaper fidelities that a policy must survive first.
        same_network: Whether all seeds share base network, calibration images and search images, rather than each having its own;
            see :meth:`suite.contract.problem.Problem.replicate`. They always do where search images judge.
    """

    searchers: tuple[str, ...]
    seeds: tuple[int, ...]
    limits: Limits
    fidelity: Fidelity
    post_step: PostStep
    exam: ExamSettings
    controls: tuple[str, ...] = ()
    finalists: int | None = None
    rungs: Rungs = NO_RUNGS
    same_network: bool = False

    def __post_init__(self) -> None:
        for name, values in (("searchers", self.searchers), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise BitcertError(f"a comparison needs one or more {name} without repetition, got {list(values)}")
        for control in self.controls:
            parse_post_step(control)
        check_finalists(self.finalists)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready but for tuples."""
        return asdict(self) | {"post_step": self.post_step.to_dict(), "exam": self.exam.to_dict()}

    def problem_of(self, problem: Problem, seed: int) -> Problem:
        """What a seed searches, and what its winners are examined on."""
        shared = self.same_network or self.exam.split != "exam"
        return problem if shared else problem.replicate(seed)


@dataclass(frozen=True, slots=True)
class Batch:
    """A part of a comparison's searches, for machines that share no cluster.

    Attributes:
        number: Which part, from 1.
        count: How many parts there are.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise BitcertError(f"a batch is one of 1/N to N/N, got {self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Read ``3/32``."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None:
            raise BitcertError(f"a batch is written as 3/32, the third of 32 parts, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def of(self, settings: ComparisonSettings) -> list[tuple[str, int]]:
        """Searchers and seeds of this part; the parts of a comparison have no search in common and miss none."""
        runs = [(name, seed) for seed in settings.seeds for name in settings.searchers]
        return runs[self.number - 1 :: self.count]


def compare(
    problem: Problem,
    settings: ComparisonSettings,
    directory: str | Path,
    *,
    executor: str = "ray",
    retries: int = RETRIES,
    resources: Resources | None = None,
    watcher: Watcher | None = None,
) -> Comparison:
    """Search with every searcher and seed, then examine every winner and the float network.

    Each search runs one trial at a time, many searches side by side: the results are the same for every executor and
    number of workers. Identical winners of one seed share one post-step and one exam; with a post-step, another exam shows
    what they were before it. Where the search finetunes, winners that take no post-step are finetuned as much. A directory
    that holds the comparison is resumed, also with further searchers and seeds or higher limits.

    Args:
        problem: What is searched.
        settings: Searchers, seeds, limits, fidelity, post-step and exam.
        directory: Folder of the comparison.
        executor: ``"ray"`` or ``"inline"``.
        retries: How often a failed trial is retried before it is recorded as failed.
        resources: For the Ray executor.
        watcher: Hears about the progress.

    Raises:
        BitcertError: If the directory holds something else, or a search ends without a single successful trial.
    """
    ways: dict[str, Any] = {"executor": executor, "retries": retries, "resources": resources, "watcher": watcher}
    run_batch(problem, settings, directory, Batch(), **ways)
    return load_comparison(directory)


def run_batch(
    problem: Problem,
    settings: ComparisonSettings,
    directory: str | Path,
    batch: Batch,
    *,
    executor: str = "ray",
    retries: int = RETRIES,
    resources: Resources | None = None,
    on_start: Callable[[], object] = lambda: None,
    watcher: Watcher | None = None,
) -> None:
    """Run a part of a comparison, its exams included; :func:`load_comparison` puts the parts together.

    Arguments and errors are those of :func:`compare`; ``on_start`` is called once the directory is known to hold this part.
    Every part examines the float network.
    """
    folder, watching = Path(directory), watcher or Watcher()
    EXECUTORS.load(executor)
    searchers = [make_searcher(name, settings.problem_of(problem, seed), seed) for name, seed in batch.of(settings)]
    check_exam(problem, settings.exam)
    wanted = {
        "problem": problem.provenance(),
        "settings": settings.to_dict(),
        "layers": [layer.name for layer in problem.space.layers],
        "float_bops": float_bops(problem.space),
    }
    runner = None
    if (folder / CONTENTS.name).exists():
        _check_limits(CONTENTS.read(folder)["settings"]["limits"], settings.limits, folder)
    else:
        runner = make_executor(executor, resources)
    CONTENTS.claim(folder, wanted, but=("limits", "searchers", "seeds", "controls"))  # more may be asked for
    with ExitStack() as stack:
        loops = []
        for searcher in searchers:
            seed = evaluation_seed(searcher.seed)
            loop = SearchLoop(
                searcher.problem,
                searcher,
                search_folder(folder, searcher.name, searcher.seed),
                settings.limits,
                fidelity=settings.fidelity,
                seed=seed,
                promotion=promotion_of(searcher.problem, settings.fidelity, seed, settings.finalists),
                retries=retries,
                rungs=settings.rungs,
                on_trial=lambda trial, searcher=searcher: watching.trial(searcher.name, searcher.seed, trial),  # type: ignore[misc]
            )
            loops.append(stack.enter_context(closing(loop)))
        on_start()
        if any(not loop.finished for loop in loops):
            runner = runner or make_executor(executor, resources)
            runner.run(loops)
    cases = {}
    for searcher in searchers:
        replicate = searcher.seed if searcher.problem is not problem else None
        cases[_float_file(folder, replicate)] = ExamCase(None, replicate=replicate)
        winner = _winner(load_run(search_folder(folder, searcher.name, searcher.seed)))
        cases |= _exam_cases(folder, settings, winner, searcher.seed, replicate)
    missing = missing_exams(cases)
    watching.exams(len(missing))
    if missing:
        runner = runner or make_executor(executor, resources)
        hold_exams(runner, problem, settings.exam, missing, watching.exam)


def load_comparison(directory: str | Path, *others: str | Path) -> Comparison:
    """Read a finished comparison back.

    Args:
        directory: Folder of the comparison, or of one batch of it.
        *others: Folders of other batches.

    Raises:
        BitcertError: If a directory holds no comparison, or another one than the first, or searches or exams are missing.
    """
    folders = [Path(directory), *map(Path, others)]
    content = CONTENTS.read(folders[0])
    for other in folders[1:]:
        check_same(CONTENTS.read(other), content, f"{other} holds another comparison than {folders[0]}")
    runs = [(name, seed) for seed in content["settings"]["seeds"] for name in content["settings"]["searchers"]]
    homes = {run: [folder for folder in folders if (search_folder(folder, *run) / FILE_NAME).exists()] for run in runs}
    missing = [f"{name} with seed {seed}" for (name, seed), found in homes.items() if not found]
    if missing:
        raise BitcertError(
            f"{len(missing)} of {len(runs)} searches are missing, the first is {missing[0]}: the comparison is unfinished, or "
            "some of its batches were not named"
        )
    finetuned = content["settings"]["fidelity"]["finetune_steps"] > 0
    trains = POST_STEPS.load(content["settings"]["post_step"]["name"]).trains
    entries, references = [], {}
    for (name, seed), (folder, *_) in homes.items():
        run = load_run(search_folder(folder, name, seed))
        replicate = run.provenance.get("replicate")
        own, winner = finetuned or replicate is not None, _winner(run)
        after, before = _exam_files(folder, winner, seed, own=own, trains=trains)
        references[seed] = read_outcome(_float_file(folder, replicate))
        controls = {
            control: read_outcome(_control_file(folder, winner, seed, control))
            for control in content["settings"]["controls"]
        }
        entries.append(Entry(run, read_outcome(after), None if before is None else read_outcome(before), controls))
    return Comparison(
        directory=folders[0],
        entries=tuple(entries),
        reference=next(iter(references.values())),
        layer_names=tuple(content["layers"]),
        limits=_limits(content["problem"]),
        float_bops=content["float_bops"],
        provenance={**content["problem"], **content["settings"], **content["software"]},
        own_references=references if entries[0].run.provenance.get("replicate") is not None else {},
    )


def exam_files(folder: Path, settings: Mapping[str, Any], run: Run) -> set[Path]:
    """Where all exams that the winner of a finished search leads to are kept, that of the float network included.

    Args:
        folder: Of the comparison.
        settings: Of the comparison, as its folder records them.
        run: The search.

    Raises:
        BitcertError: If no trial succeeded.
    """
    replicate, winner = run.provenance.get("replicate"), _winner(run)
    own = settings["fidelity"]["finetune_steps"] > 0 or replicate is not None
    trains = POST_STEPS.load(settings["post_step"]["name"]).trains
    after, before = _exam_files(folder, winner, run.seed, own=own, trains=trains)
    controls = {_control_file(folder, winner, run.seed, control) for control in settings["controls"]}
    return {_float_file(folder, replicate), after, *([] if before is None else [before]), *controls}


def _limits(problem: Mapping[str, Any]) -> dict[str, int]:
    """The limits of a recorded budget by name; a single one on another cost than BOPs goes by no name."""
    found: dict[str, int] = problem.get("budget_limits") or {"bops": problem.get("budget_bops")}
    return {name: limit for name, limit in found.items() if limit is not None}


def _winner(run: Run) -> Policy:
    if run.best is None:
        reason = run.trials[0].failure if run.trials else "it proposed nothing"
        raise BitcertError(
            f"the search of {run.searcher} with seed {run.seed} has no successful trial; the first failure: {reason}"
        )
    return run.best.policy


def searcher_slug(searcher: str) -> str:
    """A searcher's name, options included, as part of a file name."""
    return re.sub(r"[^\w.+=-]", "_", searcher)


def search_folder(folder: Path, searcher: str, seed: int) -> Path:
    """Where a comparison keeps a search."""
    return folder / "searches" / f"{searcher_slug(searcher)}-{seed}"


def _exam_file(folder: Path, policy: Policy | None, suffix: str = "") -> Path:
    """Where a comparison keeps an exam; that of the float network has no policy."""
    return folder / "exams" / f"{policy_slug(policy)}{suffix}.json"


def _float_file(folder: Path, replicate: int | None) -> Path:
    return _exam_file(folder, None, "" if replicate is None else f"-{replicate}")


def _exam_files(folder: Path, winner: Policy, seed: int, *, own: bool, trains: bool) -> tuple[Path, Path | None]:
    """Exams of a winner after the post-step and before it, if there is one; a network that is a seed's ``own`` has its own."""
    untrained = f"-{seed}" if own else ""
    if not trains:
        return _exam_file(folder, winner, untrained), None
    return _exam_file(folder, winner, f"-{seed}"), _exam_file(folder, winner, f"{untrained}-before")


def _control_file(folder: Path, winner: Policy, seed: int, control: str) -> Path:
    return _exam_file(folder, winner, f"-{seed}-{searcher_slug(control)}")


def _exam_cases(
    folder: Path, settings: ComparisonSettings, winner: Policy, seed: int, replicate: int | None
) -> dict[Path, ExamCase]:
    step, steps = settings.post_step, settings.fidelity.finetune_steps
    own = steps > 0 or replicate is not None
    after, before = _exam_files(folder, winner, seed, own=own, trains=step.trains)
    cases = {after: ExamCase(winner, step, seed, steps, replicate)}
    if before is not None:
        cases[before] = ExamCase(winner, NoPostStep(), seed, finetune_steps=steps, replicate=replicate)
    for control in settings.controls:
        file = _control_file(folder, winner, seed, control)
        cases[file] = ExamCase(winner, parse_post_step(control), seed, finetune_steps=steps, replicate=replicate)
    return cases


def _check_limits(found: Mapping[str, Any], wanted: Limits, folder: Path) -> None:
    """Searches that are there already cannot be cut: under lower limits they would have spent more than others."""
    for name, limit in asdict(wanted).items():
        if limit is not None and (found[name] is None or limit < found[name]):
            before = "no limit" if found[name] is None else f"a limit of {found[name]:,}"
            raise BitcertError(
                f"{folder} holds searches with {before} on {name}, {limit:,} asked for; limits may be raised, not lowered"
            )


def policy_slug(policy: Policy | None) -> str:
    """A policy, or the float network, as part of a file name."""
    return "float" if policy is None else hashlib.sha256(policy.to_json().encode()).hexdigest()[:16]
