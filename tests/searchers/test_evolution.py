"""Evolution conforms, breeds from the best of all generations, rejects instead of repairing, and ends."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import suite
from searchers.evolution import Evolution, EvolutionOptions
from searchers.random_search import RandomSearch
from suite.contract.problem import Problem
from suite.contract.searcher import Exhausted, Searcher
from suite.contract.trial import Trial
from suite.errors import BitcertError
from suite.run.registry import make_searcher
from suite.testing.searchers import SearcherConformance
from suite.testing.toys import best_score, drive, toy_problem

POPULATION, PARENTS = 20, 4
PATIENT = EvolutionOptions(population=POPULATION, generations=5, parents=PARENTS, attempts=200)
"""So many draws that no place of a generation is left to a random policy."""


class TestEvolution(SearcherConformance):
    learns = False  # in 64 evaluations, of which the first generation is 50; on longer runs below

    def make(self, problem: Problem, seed: int) -> Searcher:
        return Evolution(problem, seed)


def vectors(problem: Problem, trials: list[Trial]) -> NDArray[np.int64]:
    return np.array([problem.space.encode(trial.policy) for trial in trials])


def parents_of(problem: Problem, trials: list[Trial], generation: int) -> NDArray[np.int64]:
    """The best policies of the generations before one, by sorting all trials."""
    seen = [trial for trial in trials[: generation * POPULATION] if trial.metrics is not None]
    scored = sorted(seen, key=lambda trial: -problem.objective.score(trial.metrics) if trial.metrics is not None else 0)
    return vectors(problem, scored[:PARENTS])


def is_crossover(child: NDArray[np.int64], parents: NDArray[np.int64]) -> bool:
    return any(((child == one) | (child == other)).all() for one, other in combinations(parents, 2))


def fewest_changes(children: NDArray[np.int64], parents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance of each child to the nearest parent."""
    return (children[:, None] != parents[None]).sum(axis=2).min(axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("budget", ["w6a6", "w2.5a2.5"])
def test_crossovers_take_every_variable_from_one_of_two_parents(budget: str) -> None:
    problem = toy_problem(budget=budget)
    trials = drive(Evolution(problem, 0, PATIENT), problem, 3 * POPULATION)
    for generation in (1, 2):
        first = generation * POPULATION
        parents = parents_of(problem, trials, generation)
        children = vectors(problem, trials[first : first + POPULATION // 2])
        assert all(is_crossover(child, parents) for child in children)
    drawn, parents = vectors(problem, trials[:POPULATION]), parents_of(problem, trials, 1)
    assert sum(is_crossover(vector, parents) for vector in drawn) < POPULATION / 2


@pytest.mark.parametrize("budget", ["w6a6", "w2.5a2.5"])
def test_rejection_leaves_mutations_as_near_to_their_parents_as_they_were_drawn(budget: str) -> None:
    """A binomial number of variables changes, given that at least one does; a budget admits rather the smaller changes."""
    problem = toy_problem(budget=budget)
    trials = drive(Evolution(problem, 1, PATIENT), problem, 100)
    distances = np.concatenate(
        [
            fewest_changes(
                vectors(problem, trials[generation * POPULATION + POPULATION // 2 : (generation + 1) * POPULATION]),
                parents_of(problem, trials, generation),
            )
            for generation in range(1, 5)
        ]
    )
    changed = stats.binom(len(problem.space.variables), PATIENT.mutation_rate * (1 - 1 / len(problem.space.choices)))
    counts = np.arange(1, len(problem.space.variables) + 1)
    chances = changed.pmf(counts) / changed.sf(0)
    mean = counts @ chances
    deviation = np.sqrt((counts - mean) ** 2 @ chances / len(distances))
    assert distances.min() >= 1
    assert distances.mean() < mean + 3.1 * deviation  # one false alarm in a thousand


def test_the_space_runs_out_of_children_before_it_runs_out_of_policies() -> None:
    """Without mutation, parents that are known have no new children: random policies take the places."""
    problem = toy_problem(budget="w6a6")
    options = EvolutionOptions(population=POPULATION, generations=3, parents=1, mutation_rate=0)
    trials = drive(Evolution(problem, 0, options), problem, 100)
    assert len({trial.policy for trial in trials}) == len(trials) == 3 * POPULATION
    parents = parents_of(problem, trials, 1)[:1]
    assert fewest_changes(vectors(problem, trials[POPULATION:]), parents).mean() > 6


def test_results_that_are_pending_when_a_generation_begins_are_parents_from_the_next_one_on() -> None:
    problem = toy_problem(budget="w6a6")
    options = EvolutionOptions(population=POPULATION, generations=3, parents=1, attempts=200)
    searcher = Evolution(problem, 0, options)
    trials = drive(searcher, problem, POPULATION - 1)
    best = max(trials, key=lambda trial: trial.metrics.measured("acr") if trial.metrics is not None else 0)
    late = Trial(POPULATION - 1, searcher.ask(), problem.fidelity, seed=0)
    top = problem.evaluate(problem.space.uniform(6), problem.fidelity)
    second = [searcher.ask((late,))]
    searcher.tell(Trial(late.number, problem.space.uniform(6), late.fidelity, seed=0, metrics=top))
    second += [searcher.ask() for _ in range(POPULATION - 1)]
    third = [searcher.ask() for _ in range(POPULATION)]
    for children, parent in ((second, best.policy), (third, problem.space.uniform(6))):
        bred = np.array([problem.space.encode(child) for child in children[POPULATION // 2 :]])
        assert fewest_changes(bred, problem.space.encode(parent)[None]).mean() < 3


def test_failed_trials_become_no_parents() -> None:
    problem = toy_problem(budget="w6a6")
    trials = drive(Evolution(problem, 0, PATIENT), problem, 60, fails=lambda number: number % 2 == 1)
    for generation in (1, 2):
        first = generation * POPULATION
        children = vectors(problem, trials[first : first + POPULATION // 2])
        assert all(is_crossover(child, parents_of(problem, trials, generation)) for child in children)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_run_is_resumed_in_the_middle_of_a_generation(parallel: int, tmp_path: Path) -> None:
    runs = []
    for lengths in ([30], [11, 21, 30]):
        for evaluations in lengths:
            problem = toy_problem()
            searcher = make_searcher("evolution", problem, population=8, parents=2)
            directory = tmp_path / str(len(lengths))
            run = suite.search(problem, searcher, evaluations=evaluations, directory=directory, parallel=parallel)
        runs.append([trial.policy for trial in run.trials])
    assert len(runs[1]) == 30
    if parallel == 1:  # else the results that were pending at a limit arrive before the next proposal
        assert runs[0] == runs[1]


def test_ends_after_the_published_thousand_policies() -> None:
    problem = toy_problem()
    searcher = make_searcher("evolution", problem)
    trials = drive(searcher, problem, 1100, width=4)
    assert len({trial.policy for trial in trials}) == len(trials) == 20 * 50
    with pytest.raises(Exhausted, match="20 generations of 50"):
        searcher.ask()


def test_beats_random_search_in_six_generations() -> None:
    """One-sided paired t-test: a method as good as random search passes one time in 1000."""
    gains = []
    for seed in range(6):
        problem = toy_problem(seed=seed)
        bred, drawn = (drive(method(problem, seed), problem, 300) for method in (Evolution, RandomSearch))
        gains.append(best_score(problem, bred) - best_score(problem, drawn))
    assert stats.ttest_1samp(gains, 0, alternative="greater").pvalue < 1e-3


@pytest.mark.parametrize(
    "options",
    [{"population": 1}, {"generations": 0}, {"parents": 0}, {"mutation_rate": 1.5}, {"attempts": 0}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BitcertError, match=next(iter(options))):
        EvolutionOptions(**options)  # type: ignore[arg-type]
