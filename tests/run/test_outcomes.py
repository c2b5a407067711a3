"""What an exam's file keeps beside its certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from suite.files import read_sealed, write_sealed
from suite.run.outcomes import read_outcome, write_outcome
from tests.report.fabricated import make_outcome


@pytest.mark.parametrize("constant", [None, 0.1234567890123])
def test_the_score_of_the_best_constant_classifier_is_read_back(tmp_path: Path, constant: float | None) -> None:
    labels = np.zeros(3, dtype=np.int64)
    outcome = replace(make_outcome(labels, labels, np.full(3, 0.25)), constant=constant)
    write_outcome(outcome, tmp_path / "exam.json")
    assert read_outcome(tmp_path / "exam.json").constant == constant


def test_exams_that_did_not_measure_it_are_read(tmp_path: Path) -> None:
    labels, path = np.zeros(3, dtype=np.int64), tmp_path / "exam.json"
    write_outcome(make_outcome(labels, labels, np.full(3, 0.25)), path)
    content = read_sealed(path, "an exam")
    del content["constant"]
    write_sealed(path, content)
    assert read_outcome(path).constant is None
