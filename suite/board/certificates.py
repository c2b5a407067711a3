"""The certificates of an entry, from the counts that it publishes."""

from __future__ import annotations

import numpy as np

from suite.board.schema import BoardEntry, Rows
from suite.certify import Certificates, clopper_pearson_lower
from suite.certify.exam import ExamSettings
from suite.certify.fixed import bound_counts


def certificates_of(entry: BoardEntry) -> Certificates:
    """One row per image, as the exam found them.

    Raises:
        BitcertError: If a count exceeds the number of samples.
    """
    rows, exam = entry.images, entry.exam
    prediction = np.array(rows.prediction, dtype=np.int64)
    if rows.successes is None:
        assert rows.radius is not None
        assert rows.p_lower is not None
        return Certificates(
            prediction, np.array(rows.radius), np.array(rows.p_lower), np.array(rows.forward_passes, dtype=np.int64)
        )
    return bound_counts(
        prediction,
        np.array(rows.successes, dtype=np.int64),
        sigma=entry.problem.sigma,
        n0=exam.n0,
        n=exam.n,
        alpha=exam.alpha,
    )


def counts_of(found: Certificates, exam: ExamSettings) -> list[int] | None:
    """How many of n samples gave each image's class, if all bounds are Clopper and Pearson's of n samples; else None."""
    if exam.exact or len(set(found.forward_passes.tolist())) != 1 or found.forward_passes[0] != exam.n0 + exam.n:
        return None
    every = clopper_pearson_lower(np.arange(exam.n + 1), exam.n, exam.alpha)
    counts = np.searchsorted(every, found.p_lower)
    if counts.max() > exam.n or not np.array_equal(every[counts], found.p_lower):
        return None
    return [int(count) for count in counts]


def rows_of(found: Certificates, labels: list[int], ids: list[int], exam: ExamSettings) -> Rows:
    """The rows that an entry publishes."""
    shared = {"id": ids, "label": labels, "prediction": found.prediction.tolist()}
    counts = counts_of(found, exam)
    if counts is not None:
        return Rows(**shared, successes=counts)
    return Rows(
        **shared,
        radius=found.radius.tolist(),
        p_lower=found.p_lower.tolist(),
        forward_passes=found.forward_passes.tolist(),
    )
