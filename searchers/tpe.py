"""TPE: densities of good and of other policies, and proposals where their ratio is largest (by Optuna)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from optuna.samplers import TPESampler

from searchers._study import StudySearcher
from searchers.portfolio import choose_portfolio
from suite.contract.problem import Problem
from suite.options import check_counts


@dataclass(frozen=True, slots=True)
class TPEOptions:
    """Options of :class:`TPE`; the defaults are Optuna's.

    Attributes:
        startup: Successful random trials before the estimator is followed.
        candidates: Draws from the good density among which the best ratio is taken.
        warm: Complete tables of other networks with the same space, joined by ``+``: the first trials are a portfolio of them
            (:class:`.Portfolio`) instead of random policies.
    """

    startup: int = 10
    candidates: int = 24
    warm: str = ""

    def __post_init__(self) -> None:
        check_counts(self, startup=1, candidates=1)


class TPE(StudySearcher):
    """Tree-structured Parzen estimator with the budget as a known constraint.

    Every proposal is the sampler's suggestion, repaired if it is over the budget (:func:`suite.contract.cost.repair`). The
    estimator learns the score of the policy evaluated and, of a suggestion over the budget, by how much: the latter joins
    the density of points to avoid, which is what keeps suggestions near the feasible policies. Pending policies join it
    too (constant liar). With two objectives it is MOTPE.

    The sampler has Optuna's defaults: 10 random trials first, 24 candidates, constant liar, and densities over all variables
    jointly with one objective, of each variable alone with two. What departs from Optuna comes from the budget: random
    trials are drawn among the feasible policies, and a policy that was proposed before is mutated, since evaluating it
    again would teach nothing.

    References:
        Bergstra, Bardenet, Bengio and Kegl, Algorithms for hyper-parameter optimization, NeurIPS 2011.
        Watanabe and Hutter, c-TPE: Tree-structured Parzen estimator with inequality constraints for expensive
        hyperparameter optimization, IJCAI 2023.
        Wistuba, Schilling and Schmidt-Thieme, Sequential model-free hyperparameter tuning, ICDM 2015 (``warm``).
        Ozaki et al., Multiobjective tree-structured Parzen estimator, JAIR 73, 2022.
    """

    Options: ClassVar[type] = TPEOptions

    def __init__(self, problem: Problem, seed: int, options: TPEOptions | None = None) -> None:
        options = options or TPEOptions()
        rng = np.random.default_rng(seed)
        # The arguments left out (prior, magic clip, endpoints, gamma, weights) are deprecated: passing them warns.
        sampler = TPESampler(
            n_startup_trials=options.startup,  # until then random feasible policies are proposed instead
            n_ei_candidates=options.candidates,
            seed=int(rng.integers(2**32)),
            multivariate=None,  # joint densities with one objective
            group=False,  # every trial has the same parameters, so there is nothing to group
            constant_liar=True,  # pending policies repel further proposals
            constraints_func=None,  # deprecated: constraints are set on the trials
        )
        first = choose_portfolio(problem, options.warm.split("+"), options.startup) if options.warm else ()
        super().__init__(problem, seed, sampler, rng, startup=options.startup, tell_excess=True, first=first)
