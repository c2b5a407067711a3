"""Whether a comparison compares like with like: checked before any number of it is shown."""

from __future__ import annotations

from collections import Counter

import numpy as np

from suite.errors import BitcertError
from suite.report.provenance import find_in, flatten
from suite.run.records import Comparison, Entry, Outcome

FLOAT = "float"
"""What the row of the float network is called where others bear the name of a searcher."""

_SHARED = ("n0", "n", "sigma", "problem_seed", "data_sha256", "network_sha256")
_TOLERANCE = 1e-9


def check_comparison(comparison: Comparison) -> None:
    """Check that all exams of a comparison can stand in one table.

    Raises:
        BitcertError: If there is no entry, a (searcher, seed) occurs twice, objectives or post-steps differ, exams are
            not the same (see :func:`check_same_exam`), a winner is over budget or is not the best of its search, or
            averages do not follow from the certificates.
    """
    if not comparison.entries:
        raise BitcertError(f"the comparison in {comparison.directory} has no entries; run at least one searcher")
    counts = Counter((entry.run.searcher, entry.run.seed) for entry in comparison.entries)
    (searcher, seed), count = counts.most_common(1)[0]
    if count > 1:
        raise BitcertError(f"searcher {searcher!r} with seed {seed} occurs {count} times; keep one run of each seed")
    objectives = sorted({entry.run.objective.text for entry in comparison.entries})
    if len(objectives) > 1:
        raise BitcertError(f"the runs have different objectives: {', '.join(objectives)}; compare runs of one")
    post_steps = sorted({entry.outcome.post_step for entry in comparison.entries})
    if len(post_steps) > 1:
        raise BitcertError(f"the winners had different post-steps: {', '.join(post_steps)}; examine all with one")
    _check_averages(FLOAT, comparison.reference)
    for entry in comparison.entries:
        _check_entry(entry, comparison)


def _check_entry(entry: Entry, comparison: Comparison) -> None:
    who, outcome, best = f"{entry.run.searcher} (seed {entry.run.seed})", entry.outcome, entry.run.best
    if entry.run.searcher == FLOAT:
        raise BitcertError(f"{FLOAT!r} stands for the float network; give the searcher another name")
    if outcome.policy is None or best is None or outcome.policy != best.policy:
        raise BitcertError(f"the exam of {who} is not of the best policy of its search; examine run.best.policy")
    if len(outcome.policy.precisions) != len(comparison.layer_names):
        given, expected = len(outcome.policy.precisions), len(comparison.layer_names)
        raise BitcertError(
            f"the winner of {who} has {given} layers, the network {expected}; compare one problem's runs"
        )
    bops, limit = outcome.metrics.bops, comparison.budget_bops
    if bops > limit:
        raise BitcertError(
            f"the winner of {who} has {bops} BOPs, over the budget of {limit}; compare one budget's runs"
        )
    _check_averages(who, outcome)
    check_same_exam(outcome, comparison.reference)


def check_same_exam(first: Outcome, second: Outcome) -> None:
    """Raise BitcertError if two exams differ in images, labels, method, alpha, n0, n, sigma, seed of the noise, data or network."""
    if not (np.array_equal(first.image_ids, second.image_ids) and np.array_equal(first.labels, second.labels)):
        raise BitcertError("two exams are on different images or labels; examine both on the same images")
    if first.metrics.method != second.metrics.method:
        methods = f"{first.metrics.method} and {second.metrics.method}"
        raise BitcertError(f"two exams certify by different methods: {methods}; repeat one of them")
    if first.metrics.alpha != second.metrics.alpha:
        alphas = f"{first.metrics.alpha} and {second.metrics.alpha}"
        raise BitcertError(f"two exams have different alpha: {alphas}; repeat one of them")
    flat, other = flatten(first.provenance), flatten(second.provenance)
    for name in _SHARED:
        given, expected = find_in(flat, name), find_in(other, name)
        if given is not None and expected is not None and given != expected:
            raise BitcertError(f"two exams have different {name}: {given} and {expected}; repeat one of them")


def _check_averages(who: str, outcome: Outcome) -> None:
    given, computed = outcome.metrics.acr, outcome.certificates.acr(outcome.labels)
    if abs(given - computed) > _TOLERANCE:
        raise BitcertError(f"the exam of {who} records ACR {given}, its certificates give {computed}; repeat the exam")
