"""Exact verification of fixed-point networks in the L-infinity norm: bounds, attack, solvers, verdicts."""

from suite.certify.linf.attack import attack
from suite.certify.linf.query import Answer, Limit, Query, Solver
from suite.certify.linf.solvers import SOLVERS, solver_named
from suite.certify.linf.verify import Effort, MaximumRadius, Status, Verdict, maximum_radius, verify

__all__ = [
    "SOLVERS",
    "Answer",
    "Effort",
    "Limit",
    "MaximumRadius",
    "Query",
    "Solver",
    "Status",
    "Verdict",
    "attack",
    "maximum_radius",
    "solver_named",
    "verify",
]
