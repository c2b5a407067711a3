"""Solvers of the integer program: CP-SAT, whose answers are exact, and HiGHS as a second opinion.

CP-SAT works on integers; its "infeasible" is a proof as far as the solver is right. HiGHS works in floating point with tolerances.
No integer point is lost if each row gets half a unit of slack, and then a tolerance of 1e-6 on rows of norm up to 10^5 cannot
make a feasible point infeasible; still it is no proof, so HiGHS alone never makes a verdict.

On one thread and with a fixed seed CP-SAT repeats itself step by step, and its deterministic time adds up what the steps are
estimated to take. A limit on that is reached at the same step however busy the machine is; a limit in seconds is not.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from suite.certify.linf.branching import solve_by_branching
from suite.certify.linf.encoding import Program, Row, encode
from suite.certify.linf.query import Answer, Limit, Query, Solver
from suite.errors import BitcertError, unknown_name

_SLACK = 0.5
_NO_LIMIT = 2**60


def solve_with_cp_sat(query: Query, limit: Limit, workers: int) -> Answer:
    """Answer a query by CP-SAT of OR-tools, target by target.

    Raises:
        BitcertError: If OR-tools is not installed.
        RuntimeError: If the solver does not accept a program.
    """
    check_installed()
    return _target_by_target(query, limit, lambda target, left: _cp_sat(query, target, left, workers))


def solve_with_highs(query: Query, limit: Limit, workers: int) -> Answer:
    """Answer a query by HiGHS, target by target, on one thread; points that the network does not confirm are no answer.

    Of the limit only seconds count: HiGHS does not say how much it worked.
    """
    return _target_by_target(query, limit, lambda target, left: (_highs(query, target, left.seconds), 0.0))


def _target_by_target(query: Query, limit: Limit, solve: Callable[[int, Limit], tuple[Answer, float]]) -> Answer:
    """Solve for one target after the other, easy ones first, until one is reached or the limit; with each answer comes its work."""
    ends, work = time.monotonic() + limit.seconds, limit.work
    for target in query.targets:
        left = Limit(ends - time.monotonic(), work)
        if min(left) <= 0:
            return Answer.unknown()
        answer, worked = solve(target, left)
        if answer.point is not None or not answer.complete:
            return answer
        work -= worked
    return Answer(None, complete=True)


def _cp_sat(query: Query, target: int, limit: Limit, workers: int) -> tuple[Answer, float]:
    from ortools.sat.python import cp_model

    program, model = encode(query, target), cp_model.CpModel()
    variables = [model.new_int_var(low, high, "") for low, high in zip(program.low, program.high, strict=True)]
    for row in program.rows:
        used = [variables[index] for index in row.variables]
        total = cp_model.LinearExpr.weighted_sum(used, row.coefficients)
        model.add_linear_constraint(total, row.low, _NO_LIMIT if row.high is None else row.high)
    for clip in program.clips:
        equal = model.add_min_equality if clip.above else model.add_max_equality
        equal(variables[clip.result], [variables[clip.source], clip.limit])
    solver = cp_sat_solver(limit, workers)
    status, worked = solver.solve(model), solver.response_proto.deterministic_time
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        point = [solver.value(variable) for variable in variables[: len(query.low)]]
        return Answer(np.array(point, dtype=np.int64), complete=True), worked
    if status == cp_model.MODEL_INVALID:
        raise RuntimeError(f"CP-SAT refuses the program of an image: {model.validate()}")
    return Answer(None, complete=status == cp_model.INFEASIBLE), worked


def cp_sat_solver(limit: Limit, workers: int) -> Any:
    """A ``CpSolver`` that repeats itself on one thread, within a limit."""
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit.seconds
    solver.parameters.max_deterministic_time = limit.work
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 0
    return solver


def _highs(query: Query, target: int, seconds: float) -> Answer:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program = encode(query, target)
    rows = [*program.rows, *chain.from_iterable(_clip_rows(program))]
    starts = np.cumsum([0, *(len(row.variables) for row in rows)])
    indices = np.fromiter(chain.from_iterable(row.variables for row in rows), dtype=np.int64)
    factors = np.fromiter(chain.from_iterable(row.coefficients for row in rows), dtype=np.float64)
    matrix = csr_array((factors, indices, starts), shape=(len(rows), len(program.low)))
    low = [row.low - _SLACK for row in rows]
    high = [np.inf if row.high is None else row.high + _SLACK for row in rows]
    result = milp(
        np.zeros(len(program.low)),
        integrality=np.ones(len(program.low), dtype=np.int64),
        bounds=Bounds(np.array(program.low), np.array(program.high)),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": seconds},
    )
    if result.x is None:
        return Answer(None, complete=result.status == 2)
    point = np.rint(result.x[: len(query.low)]).astype(np.int64)
    return Answer(point, complete=True) if query.breaks(point) else Answer.unknown()


def _clip_rows(program: Program) -> list[list[Row]]:
    """``min`` and ``max`` with a constant as rows, by a binary variable each, which is 1 where the limit applies."""
    made = []
    for result, source, limit, above in program.clips:
        sign = 1 if above else -1  # max(r, c) = -min(-r, -c)
        low, high = sorted((sign * program.low[source], sign * program.high[source]))
        constant, applies = sign * limit, program.variable(0, 1)
        made.append(
            [
                Row([source, result], [sign, -sign], 0),
                Row([source, result, applies], [-sign, sign, high - constant], 0),
                Row([result, applies], [sign, low - constant], low),
            ]
        )
    return made


def check_installed() -> None:
    """Refuse to go on without OR-tools."""
    if importlib.util.find_spec("ortools") is None:
        raise BitcertError("the solver cp-sat needs ortools: pip install 'bitcert[exact]', or choose the solver branch")


SOLVERS: Mapping[str, Solver] = {"cp-sat": solve_with_cp_sat, "branch": solve_by_branching}
"""Solvers whose answers are proofs."""


def check_name(name: str) -> None:
    """Raise BitcertError if no solver has this name."""
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)


def solver_named(name: str) -> Solver:
    """The solver of a name.

    Raises:
        BitcertError: If there is none, or what it needs is not installed.
    """
    check_name(name)
    if name == "cp-sat":
        check_installed()
    return SOLVERS[name]
