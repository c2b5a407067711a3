"""Deployed scores that earlier studies measured of the same policies, read from their reports."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from suite.certify.exam import ExamSettings
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.errors import BitcertError
from suite.run.exam import exam_images

PROVENANCE = "correlations.json"
"""The file beside the scores that says what was measured, and how."""

_COLUMNS = ("score", "deployed", "seed", "value", "bits")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is recorded of one post-step at one budget.

    Attributes:
        columns: Scores of the policies by training seed, each of shape ``(policies,)``; the seed is None where nothing is trained.
        preparation: Forward passes per policy and column, without the exam; NaN if not recorded.
    """

    columns: dict[int | None, NDArray[np.float64]] = field(default_factory=dict)
    preparation: float = math.nan


def read_recorded(
    files: Iterable[str | Path],
    problems: Sequence[Problem],
    policies: Sequence[Iterable[Policy]],
    post_steps: Sequence[str],
    exam: ExamSettings,
) -> list[dict[str, Recorded]]:
    """Read the deployed scores of these policies after these post-steps.

    Args:
        files: ``scores.csv`` of reports on predictors, with ``correlations.json`` beside them.
        problems: The problem at each budget.
        policies: Those drawn at each budget; the same in number and order is not required of the files.
        post_steps: What deploys the policies.
        exam: How the deployed scores of this study are certified.

    Returns:
        For each budget what is recorded by post-step.

    Raises:
        BitcertError: If a file cannot be read, was measured on another problem or in another way, lacks policies, repeats
            training seeds, or holds nothing that this study asks for.
    """
    found: list[dict[str, Recorded]] = [{} for _ in problems]
    for file in map(Path, files):
        rows, content = _read(file)
        known, used = content["provenance"], 0
        for problem, drawn, into in zip(problems, policies, found, strict=True):
            if (here := _at_budget(known, problem.budget.text)) is None:
                continue
            _check_same(file, here, problem, exam)
            there = rows[rows["deployed"].astype(bool) & (rows["budget"].astype(str) == problem.budget.text)]
            for name in post_steps:
                part = there[there["score"] == name]
                if part.empty:
                    continue
                examined = _exam_passes(problem, exam)
                made = _preparation(content, problem.budget.text, name, len(part), examined)
                recorded = into.setdefault(name, Recorded(preparation=made))
                _add(recorded, part, list(drawn), f"{file}, {name} at {problem.budget.text}")
                used += 1
        if not used:
            budgets = ", ".join(sorted(set(rows["budget"].astype(str))))
            names = ", ".join(sorted(set(rows["score"][rows["deployed"].astype(bool)])))
            raise BitcertError(
                f"{file} holds nothing that this study asks for: its budgets are {budgets}, its deployed scores {names}; here they "
                f"are {', '.join(problem.budget.text for problem in problems)} and {', '.join(post_steps)}"
            )
    return found


def _read(file: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The scores with the budget of each, and what is written beside them."""
    try:
        rows = pd.read_csv(file)
        content: dict[str, Any] = json.loads((file.parent / PROVENANCE).read_text(encoding="utf-8"))
        known = content["provenance"]
        if "budget" not in rows:
            rows["budget"] = known["budget"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BitcertError(
            f"no recorded scores can be read from {file}: {error}; give scores.csv of a report of 'bitcert predictors', with its "
            f"{PROVENANCE} beside it"
        ) from None
    if missing := [column for column in _COLUMNS if column not in rows]:
        raise BitcertError(
            f"{file} has no columns {', '.join(missing)}; give scores.csv of a report of 'bitcert predictors'"
        )
    return rows, content


def _at_budget(known: Mapping[str, Any], budget: str) -> dict[str, Any] | None:
    """The provenance of a study at one of its budgets; None if it had no such budget."""
    parts = known.get("budgets", [{"budget": known["budget"]}])
    part = next((part for part in parts if part["budget"] == budget), None)
    return None if part is None else {**known, **part}


def _check_same(file: Path, known: Mapping[str, Any], problem: Problem, exam: ExamSettings) -> None:
    """Raise BitcertError unless the scores were measured on this problem and certified by this exam."""
    pairs = [(key, known.get(key), value) for key, value in _as_json(problem.provenance()).items()]
    examined = known.get("exam", {})
    pairs += [(f"exam.{key}", examined.get(key), value) for key, value in _as_json(exam.to_dict()).items()]
    different = [f"{key} is {there} there and {here} here" for key, there, here in pairs if there != here]
    if different:
        raise BitcertError(
            f"the scores recorded in {file} were not measured as those of this study: {'; '.join(different)}; give the settings of "
            "that study, or leave the file out"
        )


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    normal: dict[str, Any] = json.loads(json.dumps(content))
    return normal


def _add(recorded: Recorded, part: pd.DataFrame, policies: list[Policy], where: str) -> None:
    """Add the columns of one post-step at one budget, policies in the order of this study."""
    for seed, column in part.groupby("seed", dropna=False):
        number = None if pd.isna(seed) else int(float(str(seed)))
        values = {Policy.from_json(bits): value for bits, value in zip(column["bits"], column["value"], strict=True)}
        missing = sum(policy not in values for policy in policies)
        if missing:
            raise BitcertError(
                f"{where}: {missing} of the {len(policies)} policies of this study have no recorded score; give policies, within "
                "and seed of that study, or leave the file out"
            )
        if number in recorded.columns:
            raise BitcertError(f"{where}: training seed {number} is recorded twice; leave one of the files out")
        recorded.columns[number] = np.array([values[policy] for policy in policies], dtype=np.float64)


def _preparation(content: Mapping[str, Any], budget: str, name: str, exams: int, examined: float) -> float:
    """Forward passes per policy and column, without the exam: as recorded, or from the total of so many exams."""
    rows = (row for row in content.get("spreads", []) if row["score"] == name and row["deployed"])
    row: Mapping[str, Any] = next((row for row in rows if row.get("budget", budget) == budget), {})
    if (made := row.get("preparation_passes")) is not None:
        return float(made)
    total = row.get("forward_passes")
    return math.nan if total is None else float(total) / exams - examined


def _exam_passes(problem: Problem, exam: ExamSettings) -> float:
    """Forward passes of one exam; NaN where they depend on what it finds."""
    images = len(exam_images(problem, exam))
    return images * (1 + exam.n0 + exam.n) if exam.method == "fixed" else math.nan
