"""Solvers of the integer program: CP-SAT, whose answers are exact, and HiGHS as a second opinion.

CP-SAT works on integers; its "infeasible" is a proof as far as the solver is right. HiGHS works in floating point with tolerances.
No integer point is lost if each row gets half a unit of slack, and then a tolerance of 1e-6 on rows of norm up to 10^5 cannot
make a feasible point infeasible; still it is no proof, so HiGHS alone never makes a verdict.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from suite.certify.linf.branching import solve_by_branching
from suite.certify.linf.encoding import Program, Row, encode
from suite.certify.linf.query import Answer, Query, Solver
from suite.errors import BitcertError, unknown_name

_SLACK = 0.5


def solve_with_cp_sat(query: Query, seconds: float, workers: int) -> Answer:
    """Answer a query by CP-SAT of OR-tools.

    Raises:
        BitcertError: If OR-tools is not installed.
        RuntimeError: If the solver does not accept the program.
    """
    _check_installed()
    from ortools.sat.python import cp_model

    program, model = encode(query), cp_model.CpModel()
    variables = [model.new_int_var(low, high, "") for low, high in zip(program.low, program.high, strict=True)]

    def total(row: Row) -> Any:
        return cp_model.LinearExpr.weighted_sum([variables[index] for index in row.variables], row.coefficients)

    for row in program.rows:
        assert row.high is not None
        model.add_linear_constraint(total(row), row.low, row.high)
    for clip in program.clips:
        equal = model.add_min_equality if clip.above else model.add_max_equality
        equal(variables[clip.result], [variables[clip.source], clip.limit])
    chosen = [model.new_bool_var("") for _ in program.targets]
    for row, choice in zip(program.targets, chosen, strict=True):
        model.add(total(row) >= row.low).only_enforce_if(choice)
    model.add_bool_or(chosen)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 0
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        point = [solver.value(variable) for variable in variables[: len(query.low)]]
        return Answer(np.array(point, dtype=np.int64), complete=True)
    if status == cp_model.MODEL_INVALID:
        raise RuntimeError(f"CP-SAT refuses the program of an image: {model.validate()}")
    return Answer(None, complete=status == cp_model.INFEASIBLE)


def solve_with_highs(query: Query, seconds: float, workers: int) -> Answer:
    """Answer a query by HiGHS, on one thread; a point that the network does not confirm counts as no answer."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    program = encode(query)
    rows = [*program.rows, *chain.from_iterable(_clip_rows(program))]
    chosen = []
    for row in program.targets:
        choice = program.variable(0, 1)
        least = sum(
            min(factor * program.low[index], factor * program.high[index])
            for index, factor in zip(row.variables, row.coefficients, strict=True)
        )
        reach = max(row.low - least, 0)
        rows.append(Row([*row.variables, choice], [*row.coefficients, -reach], row.low - reach))
        chosen.append(choice)
    rows.append(Row(chosen, [1] * len(chosen), 1))
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


def _check_installed() -> None:
    if importlib.util.find_spec("ortools") is None:
        raise BitcertError("the solver cp-sat needs ortools: pip install 'bitcert[exact]', or choose the solver branch")


SOLVERS: Mapping[str, Solver] = {"cp-sat": solve_with_cp_sat, "branch": solve_by_branching}
"""Solvers whose answers are proofs."""


def solver_named(name: str) -> Solver:
    """The solver of a name.

    Raises:
        BitcertError: If there is none, or what it needs is not installed.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    if name == "cp-sat":
        _check_installed()
    return SOLVERS[name]
