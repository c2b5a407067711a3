"""Post-steps compared on the same policies: what finetuning is worth, all else being equal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from suite.certify.exam import ExamSettings
from suite.contract.cost import largest_uniform
from suite.contract.objective import Objective, parse_objective
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted
from suite.contract.space import Policy, SearchSpace
from suite.errors import BitcertError
from suite.execute.executor import Resources, make_executor
from suite.protocols import parse_post_step
from suite.run.exam import ExamCase, check_exam, hold_exams, missing_exams
from suite.run.folder import SettingsFile
from suite.run.outcomes import read_outcome
from suite.run.records import Outcome
from suite.run.registry import make_searcher
from suite.seeds import derive_seed
from suite.studies.compare.run import policy_slug, searcher_slug
from suite.workbench import workbench_of

CONTENTS = SettingsFile("post_steps.json", "comparison of post-steps")
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class PostStepSettings:
    """What is compared; two comparisons with equal settings on equal problems are the same one.

    Attributes:
        post_steps: Names, options after them if any (``sqwa:captures=3``); the first is what the others are measured by.
        policies: Feasible policies, each of which goes through every post-step.
        seeds: Seeds of order and noise; each is combined with the policy's position, so that no two policies share them.
        exam: How the results are certified.
        steps: Optimizer steps where a post-step does not say otherwise.
    """

    post_steps: tuple[str, ...]
    policies: tuple[Policy, ...]
    seeds: tuple[int, ...]
    exam: ExamSettings
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("post_steps", "policies", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BitcertError(f"a comparison of post-steps needs {name} without repetition, got {len(values)}")
        for name in self.post_steps:
            parse_post_step(name, self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class PostStepComparison:
    """Exams of policies after different post-steps.

    Attributes:
        exams: For each post-step one row per policy with one exam per seed; ``none`` has one exam per policy.
        reference: The exam of the float network.
        objective: What is scored.
        policies: In the order of the rows.
        names: What they are called in the report.
        provenance: Problem, settings, versions and commit, JSON-ready.
    """

    exams: dict[str, list[list[Outcome]]]
    reference: Outcome
    objective: Objective
    policies: tuple[Policy, ...]
    names: tuple[str, ...]
    provenance: dict[str, Any]


def sample_policies(problem: Problem, count: int, seed: int = 0) -> tuple[Policy, ...]:
    """Choose different feasible policies: the largest uniform one, then draws of random search.

    Raises:
        BitcertError: If the budget leaves fewer policies than asked for.
    """
    searcher, uniform = make_searcher("random", problem, seed), largest_uniform(problem.space, problem.budget)
    chosen = {} if uniform is None else {uniform: None}
    with suppress(Exhausted):
        while len(chosen) < count:
            chosen[searcher.ask()] = None
    if len(chosen) < count:
        raise BitcertError(
            f"{count} different policies asked for, but there are only {len(chosen)} within the budget "
            f"{problem.budget.text}; ask for fewer, or raise the budget"
        )
    return tuple(chosen)[:count]


def compare_post_steps(
    problem: Problem,
    settings: PostStepSettings,
    directory: str | Path,
    *,
    executor: str = "inline",
    resources: Resources | None = None,
    on_start: Callable[[int], object] = lambda _: None,
    on_exam: Callable[[Outcome], None] = lambda _: None,
) -> PostStepComparison:
    """Put policies through post-steps and examine them; a directory that holds the same comparison is resumed.

    Args:
        problem: Where the network and the images come from.
        settings: Post-steps, policies, seeds and exam.
        directory: Where the exams go, one file each.
        executor: ``"inline"`` or ``"ray"``; equal results.
        resources: For the Ray executor.
        on_start: Called with the number of exams still to be held.
        on_exam: Called after each.

    Raises:
        BitcertError: If a policy is not feasible or the directory holds something else.
    """
    folder = Path(directory)
    workbench_of(problem, "network to finetune")
    runner = make_executor(executor, resources)
    for policy in settings.policies:
        problem.check_feasible(policy)
    check_exam(problem, settings.exam)
    policies = [policy.to_dict() for policy in settings.policies]
    names = name_policies(problem.space, settings.policies)
    described = asdict(settings) | {"policies": policies, "names": names, "exam": settings.exam.to_dict()}
    wanted = {"problem": problem.provenance(), "settings": described}
    CONTENTS.claim(folder, wanted, but=("seeds", "post_steps"))  # more may be asked for
    missing = missing_exams(_cases(folder, settings))
    on_start(len(missing))
    hold_exams(runner, problem, settings.exam, missing, on_exam)
    return load_post_steps(folder)


def load_post_steps(directory: str | Path) -> PostStepComparison:
    """Read a finished comparison back.

    Raises:
        BitcertError: If the directory holds none, or an exam is missing.
    """
    folder = Path(directory)
    content = CONTENTS.read(folder)
    described = content["settings"]
    policies = tuple(map(Policy.from_dict, described["policies"]))
    exams: dict[str, list[list[Outcome]]] = {}
    for name in described["post_steps"]:
        seeds = described["seeds"] if parse_post_step(name).trains else described["seeds"][:1]
        files = [[_exam_file(folder, name, policy, seed) for seed in seeds] for policy in policies]
        exams[name] = [list(map(read_outcome, row)) for row in files]
    return PostStepComparison(
        exams=exams,
        reference=read_outcome(_exam_file(folder)),
        objective=parse_objective(content["problem"]["objective"]),
        policies=policies,
        names=tuple(described["names"]),
        provenance={**content["problem"], **described, **content["software"]},
    )


def name_policies(space: SearchSpace, policies: Sequence[Policy]) -> tuple[str, ...]:
    """Names of policies: a uniform one is called by its bits, such as ``w2a4``, others by their number."""
    pairs = itertools.product(space.choices, repeat=2)
    tied = space.tie_weight_activation
    uniform = {space.uniform(*bits): "w{}a{}".format(*bits) for bits in pairs if not tied or bits[0] == bits[1]}
    return tuple(uniform.get(policy, f"policy {number}") for number, policy in enumerate(policies, 1))


def _cases(folder: Path, settings: PostStepSettings) -> dict[Path, ExamCase]:
    """All exams by their file: seeds outermost, so that an early look at an unfinished comparison sees every post-step."""
    cases = {_exam_file(folder): ExamCase(None)}
    for seed in settings.seeds:
        for position, policy in enumerate(settings.policies):
            for name in settings.post_steps:
                path = _exam_file(folder, name, policy, seed)
                own = derive_seed(seed, "policy", position) % _SEEDS
                step = parse_post_step(name, settings.steps)
                cases.setdefault(path, ExamCase(policy, step, own))
    return cases


def _exam_file(folder: Path, name: str = "", policy: Policy | None = None, seed: int = 0) -> Path:
    """Where the exam of a policy after a post-step is; that of the float network has neither."""
    seeded = f"-{seed}" if name and parse_post_step(name).trains else ""
    return folder / "exams" / searcher_slug(name) / f"{policy_slug(policy)}{seeded}.json"
