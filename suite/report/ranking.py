"""The leaderboard: searchers ranked by what their winners score on the exam, as a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.contract.trial import GRADIENT_PASSES
from suite.report.comparison import (
    AFTER,
    CHEAPEST,
    COST,
    FLOAT,
    Comparison,
    certified_column,
    check_comparison,
    search_seconds,
    set_bounds,
)
from suite.report.exams import exam_score
from suite.report.intervals import average
from suite.report.statistics import (
    SIGNIFICANCE,
    Difference,
    Summary,
    compare_searchers,
    correct_p_values,
    summarize,
)
from suite.run.records import Entry, Outcome

_FINETUNE_STEPS = 100  # of the protocol "finetune" by default

TRIVIAL = ("random", "uniform", CHEAPEST, "sensitivity-greedy")
NOT_COMPARED = "not compared"
LIMITS = {"evaluations": "evaluations", "forward_passes": "forward passes", "seconds": "seconds"}


def leaderboard(comparison: Comparison, against: str = "random") -> pd.DataFrame:
    """Rank the searchers by their run's objective, measured on the exam; search scores have no part in it.

    Columns (shares are 0..1; means are over seeds):
        rank: From 1, equal scores share one; missing for a score not above ``constant``, and for the float network, which is the
            last row.
        searcher, seeds: The name; how many seeds.
        problem, budget, sigma, objective, post_step, exam_images: What was compared; ``score`` is the objective.
        score, score_sd, score_least, score_most: Exam score: mean, standard deviation and range over seeds.
        score_before: Mean exam score before the post-step; missing if there was none.
        ``after NAME``: Mean exam score after another post-step, of the same winners; one column for each control.
        low, high: 95 % interval of ``score`` over seeds and exam images; missing for a single seed. Of the float network, which
            has no seeds, over images.
        image_low, image_high: 95 % interval of ``score`` over exam images, seeds held fixed.
        constant: Score of the best classifier with one answer for all images; missing if it was not measured.
        acr, ``certified@r``, clean_accuracy: Exam means.
        set_acr, ``set_certified@r``: Means of the lower bounds on the set of exam images, if the exams have them.
        bops_share: BOPs of the winners as a share of the float network's.
        ``cost.NAME``: Mean of every other cost of the winners that is minimized, or one of several limits, in whole units.
        forward_passes, probe_passes, seconds: Spend of a search, the part of it that its probes made, and its time.
        limit_evaluations, limit_forward_passes, limit_seconds: When a search ended; missing if it was not limited so.
        finetune_steps: Finetuning in every evaluation.
        setup_passes, finetune_passes: Forward passes of a supernet's training, charged to no search, and of finetuning a policy for
            100 steps instead.
        exam_split, exam_method, norm: The images that judge, how they are certified, and in which norm.
        to_float, to_float_low, to_float_high: Score less that of the float network, with its interval over images.
        against, difference, p_adjusted, verdict: The test against ``against``, see :class:`.statistics.Difference`.
        difference_low, difference_high: 95 % interval of ``difference`` over seeds and exam images, paired.
        seeds_paired: Seeds in that test.
        beats_trivial: ``yes`` if better than every trivial method, by a test of all of them at once, ``no`` if tested and
            not, ``underpowered`` if only more seeds could tell, ``trivial`` for these methods themselves, ``not compared``
            if there are none.
        unbeaten: The trivial methods that it is not better than, each with the verdict.

    Args:
        comparison: What to rank.
        against: The searcher all others are tested against; where it has no run, verdicts are ``not compared``.

    Raises:
        BitcertError: If the comparison does not compare like with like.
    """
    check_comparison(comparison)
    entries = comparison.by_searcher()
    tests = {
        name: {test.searcher: test for test in compare_searchers(comparison, name)}
        for name in {against, *TRIVIAL} & set(entries)
    }
    trivial = {name: tests[name] for name in TRIVIAL if name in entries}
    joint = _joint_p_values([name for name in entries if name not in TRIVIAL], trivial)
    rows = [
        {
            **_describe(summary, entries[summary.searcher], comparison),
            **_describe_test(tests.get(against, {}).get(summary.searcher), against),
            **_describe_trivial(summary.searcher, trivial, joint),
        }
        for summary in summarize(comparison)
    ]
    frame = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable")
    frame.insert(
        0, "rank", frame["score"].mask(frame["score"] <= frame["constant"]).rank(method="min", ascending=False)
    )
    frame = pd.DataFrame([*frame.to_dict("records"), _describe_float(comparison)], columns=frame.columns)
    return frame.astype(dict.fromkeys(("rank", "seeds", "seeds_paired", "forward_passes", "probe_passes"), "Int64"))


def _describe(summary: Summary, entries: Sequence[Entry], comparison: Comparison) -> dict[str, Any]:
    outcomes, objective = [entry.outcome for entry in entries], comparison.objective
    to_float = average(outcomes, objective, baseline=[comparison.reference_of(entry.run.seed) for entry in entries])
    before = [exam_score(entry.before, objective) for entry in entries if entry.before is not None]
    return {
        "searcher": summary.searcher,
        "seeds": len(summary.seeds),
        **_describe_setting(comparison),
        "score": summary.mean,
        "score_sd": summary.sd,
        "score_least": summary.least,
        "score_most": summary.most,
        "score_before": _mean(before or [float("nan")]),
        **{
            AFTER + name: _mean([exam_score(entry.controls[name], objective) for entry in entries])
            for name in entries[0].controls
        },
        "low": summary.crossed.low,
        "high": summary.crossed.high,
        "image_low": summary.images.low,
        "image_high": summary.images.high,
        **_describe_exams(outcomes, comparison),
        "bops_share": _mean([outcome.metrics.bops / comparison.float_bops for outcome in outcomes]),
        **{
            COST + name: _mean([outcome.metrics.cost(name) for outcome in outcomes])
            for name in outcomes[0].metrics.costs
        },
        "forward_passes": round(_mean([entry.run.forward_passes for entry in entries])),
        "probe_passes": round(_mean([entry.run.probe_spend for entry in entries])),
        "seconds": _mean([search_seconds(entry.run) for entry in entries]),
        "to_float": to_float.mean,
        "to_float_low": to_float.images.low,
        "to_float_high": to_float.images.high,
    }


def _describe_exams(outcomes: Sequence[Outcome], comparison: Comparison) -> dict[str, Any]:
    radii = comparison.radii
    certified = [outcome.certificates.certified_accuracy(outcome.labels, radii) for outcome in outcomes]
    constants = [float("nan") if outcome.constant is None else outcome.constant for outcome in outcomes]
    return {
        "constant": _mean(constants),
        "acr": _mean([outcome.metrics.measured("acr") for outcome in outcomes]),
        **{certified_column(radius): _mean([shares[radius] for shares in certified]) for radius in radii},
        **set_bounds(outcomes, radii),
        "clean_accuracy": _mean([outcome.metrics.measured("clean_accuracy") for outcome in outcomes]),
    }


def _describe_setting(comparison: Comparison) -> dict[str, Any]:
    first = comparison.entries[0]
    return {
        **{name: comparison.recorded(name) for name in ("problem", "budget", "sigma")},
        "objective": first.run.objective.text,
        "post_step": first.outcome.post_step,
        "exam_images": len(comparison.reference.labels),
        "exam_method": comparison.reference.metrics.method,
        "norm": comparison.reference.metrics.norm,
        "exam_split": comparison.recorded("exam.split") or "exam",
        "finetune_steps": comparison.recorded("fidelity.finetune_steps") or 0,
        "setup_passes": comparison.recorded("supernet_passes") or 0,
        "finetune_passes": GRADIENT_PASSES * _FINETUNE_STEPS * (comparison.recorded("finetuning.batch") or 0),
        **{f"limit_{name}": comparison.recorded(f"limits.{name}") for name in LIMITS},
    }


def _describe_test(test: Difference | None, against: str) -> dict[str, Any]:
    return {
        "against": against,
        "seeds_paired": None if test is None else len(test.seeds),
        "difference": None if test is None else test.mean,
        "difference_low": None if test is None else test.crossed.low,
        "difference_high": None if test is None else test.crossed.high,
        "p_adjusted": None if test is None else test.p_adjusted,
        "verdict": NOT_COMPARED if test is None else test.verdict,
    }


def _joint_p_values(searchers: Sequence[str], tests: Mapping[str, Mapping[str, Difference]]) -> dict[str, float]:
    """P-values of "better than every trivial method": the largest over those methods, Holm-corrected over searchers.

    References:
        Berger, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24 (1982), intersection-union tests.
    """
    largest = [max((test[searcher].p_value for test in tests.values()), default=1.0) for searcher in searchers]
    return dict(zip(searchers, correct_p_values(largest), strict=True))


def _describe_trivial(
    searcher: str, tests: Mapping[str, Mapping[str, Difference]], joint: Mapping[str, float]
) -> dict[str, str]:
    if searcher in TRIVIAL or not tests:
        return {"beats_trivial": "trivial" if searcher in TRIVIAL else NOT_COMPARED, "unbeaten": ""}
    unbeaten = {name: test[searcher].verdict for name, test in tests.items() if test[searcher].verdict != "better"}
    if not unbeaten and joint[searcher] > SIGNIFICANCE:
        return {"beats_trivial": "no", "unbeaten": "each alone, not all of them at once"}
    tested = [verdict for verdict in unbeaten.values() if verdict != "underpowered"]
    return {
        "beats_trivial": "no" if tested else "underpowered" if unbeaten else "yes",
        "unbeaten": ", ".join(f"{name} ({verdict})" for name, verdict in unbeaten.items()),
    }


def _describe_float(comparison: Comparison) -> dict[str, Any]:
    score = average(comparison.references, comparison.objective)
    return {
        "searcher": FLOAT,
        **_describe_setting(comparison),
        "post_step": comparison.reference.post_step,
        "score": score.mean,
        "low": score.images.low,
        "high": score.images.high,
        "image_low": score.images.low,
        "image_high": score.images.high,
        **_describe_exams(comparison.references, comparison),
        "bops_share": 1.0,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
