"""What a benchmark found: the best methods, the winner, sentences made from the numbers, and the page."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from suite.report.comparison import FLOAT, Comparison
from suite.report.layout import leaderboard_table
from suite.report.ranking import leaderboard
from suite.report.statistics import ranking_reliability
from suite.report.write import render_page, write_files
from suite.run.records import Run
from suite.studies.replay.judge import Judged
from suite.studies.replay.report import overall_table, task_table


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What was found.

    Attributes:
        judged: All methods on the table.
        compared: The best of them and the trivial ones for real.
        winner: The search whose policy was exported.
        model: Where to.
    """

    judged: Judged
    compared: Comparison
    winner: Run
    model: Path

    @property
    def real_against(self) -> str:
        """The method that the others are tested against for real: the same if it was run, else random."""
        return self.judged.against if self.judged.against in self.compared.by_searcher() else "random"


def choose_best(judged: Judged, trivial: Collection[str], count: int) -> tuple[str, ...]:
    """The methods with the highest scores over all tasks, trivial ones left out."""
    return tuple([name for name in judged.overall["searcher"] if name not in trivial][:count])


def choose_winner(compared: Comparison, best: str) -> Run:
    """The search of the table's best method that has, of all its seeds, the highest search score: no exam chooses."""
    return max((entry.run for entry in compared.by_searcher()[best]), key=_search_score)


def _search_score(run: Run) -> float:
    assert run.best is not None  # a comparison refuses runs without a successful trial
    assert run.best.metrics is not None
    return run.objective.score(run.best.metrics)


def findings(found: Benchmark) -> list[str]:
    """Three sentences: the best method on the table, how many beat the method of reference, and what holds for real."""
    return [_best_on_table(found.judged), _count_better(found.judged), _best_for_real(found)]


def _best_on_table(judged: Judged) -> str:
    board, top = judged.board, judged.overall.iloc[0]
    start = (
        f"On the table, {top['searcher']} comes nearest to the known optimum: a score of {top['score']:.3f} (95 % interval "
        f"{_span(top['low'], top['high'], '.3f')}), where 1 is the best policy within the budget and 0 the mean one"
    )
    rows = board[(board["searcher"] == top["searcher"]) & board["difference"].notna()]
    if rows.empty:
        return f"{start}; all others are tested against it."
    told = [f"{row['difference']:+.4f} at {row['task']} ({_test(row)})" for _, row in rows.iterrows()]
    return (
        f"{start}; the ACR of what it ends with differs from that of {judged.against} by {', '.join(told)}, "
        f"{judged.replay.seeds} searches each."
    )


def _count_better(judged: Judged) -> str:
    others = judged.board[judged.board["searcher"] != judged.against]
    verdicts = {str(name): set(rows["verdict"]) for name, rows in others.groupby("searcher")}
    better, worse = ([name for name, held in verdicts.items() if held == {word}] for word in ("better", "worse"))
    start = f"After at most {judged.replay.evaluations} evaluations, {len(better)} of {len(verdicts)} methods are better than"
    return (
        f"{start} {judged.against} at every budget of the table ({', '.join(better) or 'none'}), and {len(worse)} are worse "
        f"at every one ({', '.join(worse) or 'none'}), by sign-flip tests over seeds with Holm's correction and beyond "
        "the table's noise."
    )


def _best_for_real(found: Benchmark) -> str:
    frame = leaderboard(found.compared, found.real_against)
    rows = frame[(frame["searcher"] != FLOAT) & (frame["searcher"] != found.real_against)]
    top, setting = rows.iloc[0], frame.iloc[0]
    step = "" if setting["post_step"] == "none" else f", after {setting['post_step']}"
    return (
        f"For real, on {setting['problem']} at {setting['budget']} with {setting['seeds']} seeds{step}, {top['searcher']} "
        f"certifies an ACR of {top['score']:.4f}, the highest of {len(rows)} methods tested against {found.real_against}: "
        f"{abs(top['difference']):.4f} {'above' if top['difference'] >= 0 else 'below'} it ({_test(top)}): {top['verdict']}."
    )


def _test(row: pd.Series) -> str:
    held = _span(row["difference_low"], row["difference_high"], "+.4f")
    return f"95 % interval {held}, p = {row['p_adjusted']:.2g}"


def _span(low: float, high: float, form: str) -> str:
    return f"{low:{form}} to {high:{form}}"


def write_benchmark(found: Benchmark, directory: Path) -> list[Path]:
    """Write ``findings.md`` and ``.json``, and the page ``index.html`` with all tables and figures."""
    sentences, judged = findings(found), found.judged
    real = leaderboard(found.compared, found.real_against)
    tables = {
        "Each budget of the table": task_table(judged),
        "For real": leaderboard_table(real, ranking_reliability(found.compared)),
    }
    table_report, real_report = directory / "table" / "report", found.compared.directory / "report"
    files = {f"On the table, {task.name}: regret": f"regret-{task.name}.png" for task in judged.replay.tasks}
    figures = {caption: (table_report / name).read_bytes() for caption, name in files.items()}
    for name, caption in (("certified_accuracy", "certified accuracy by radius"), ("policies", "bits of every winner")):
        figures[f"For real: {caption}"] = (real_report / f"{name}.png").read_bytes()
    recorded = judged.replay.tasks[0].problem.provenance()
    page = render_page(
        overall_table(judged),
        figures,
        {"table": recorded["problem"], "table_sha256": recorded["table_sha256"], **found.compared.provenance},
        tables,
        title="Methods on a table with a known optimum, and for real",
        opening=sentences,
    )
    winner = found.winner
    assert winner.best is not None
    content = {
        "findings": sentences,
        "table": {"overall": judged.overall, "leaderboard": judged.board},
        "real": real,
        "winner": {
            "searcher": winner.searcher,
            "seed": winner.seed,
            "policy": winner.best.policy.to_dict(),
            "model": found.model.name,
        },
    }
    text = "".join(f"{number}. {sentence}\n" for number, sentence in enumerate(sentences, 1))
    return write_files(directory, ("findings.md", text), ("findings", content), ("index.html", page))
