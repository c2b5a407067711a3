"""The integer program: one choice per layer, least total loss within one or two budgets, solved exactly."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from suite.errors import BitcertError

MOST_COST = 2**62
"""Most that the costs of one budget may add up to, so that sums fit 64 bits."""

MOST_CUTS = 100

LOSS_SCALE = 1e6
"""Widest loss of a layer as HiGHS sees it: its absolute gap of 1e-6, which scipy cannot set, is 1e-12 of that."""

COST_SCALE = 1e3
"""Room of a budget as HiGHS sees it: its tolerance of 1e-6 is 1e-9 of the room."""

WIDE = 1e3
"""Where the widest loss of a layer is more than this many times the optimum, it is left out and the rest rescaled."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An optimal choice for every layer.

    Attributes:
        choice: Index of the choice of each layer.
        loss: Total loss.
        cost: Total cost, exact.
        lower_bound: Least total loss if layers could mix choices, at most ``loss``: the linear relaxation, without the
            choices that no optimum holds because they alone exceed a limit or lose more than the whole optimum.
        further_costs: Total cost in each further budget, exact.
    """

    choice: tuple[int, ...]
    loss: float
    cost: int
    lower_bound: float
    further_costs: tuple[int, ...] = ()

    @property
    def gap(self) -> float:
        """What integrality costs, ``loss - lower_bound``: the choice is optimal however large this is."""
        return self.loss - self.lower_bound


@dataclass(frozen=True, slots=True)
class _Program:
    """What is left to decide: one column for each choice that a group of tied layers may still take.

    Attributes:
        loss: Loss of each column above the least of its group, shape ``(columns,)``.
        costs: The same for the cost in each budget, shape ``(budgets, columns)``.
        rooms: What each limit leaves above the least costs.
        group, rank: Group and choice of each column.
        steps: Pairs of groups, of which the second must not take a higher level than the first, and the level of each column.
    """

    loss: NDArray[np.float64]
    costs: NDArray[np.int64]
    rooms: tuple[int, ...]
    group: NDArray[np.int64]
    rank: NDArray[np.int64]
    steps: tuple[tuple[int, int, NDArray[np.int64]], ...]


def assign(
    loss: ArrayLike,
    cost: ArrayLike,
    limit: int,
    ties: Sequence[Sequence[int]] = (),
    *,
    pins: Mapping[int, int] | None = None,
    also: Sequence[tuple[ArrayLike, int]] = (),
    descending: Sequence[tuple[Sequence[int], ArrayLike]] = (),
    layers: Sequence[str] | None = None,
    choices: Sequence[str] | None = None,
) -> Assignment:
    """Find the choices, one per layer, of least total loss among those whose total cost is at most ``limit``.

    The integer program of HAWQ-V3 (Yao et al. 2021, section 3.4), solved by branch and bound (HiGHS). Limits hold
    exactly: costs are summed in integers. The choice is optimal to the solver's tolerances, about 1e-9 of what a limit
    leaves to spend and of what it costs in loss; with the costs of networks (MACs times bits) it equals brute force.
    Costs that differ by less than that from each other, of 1e10 and more, can hide a slightly better choice.

    Args:
        loss: Loss of each choice in each layer, shape ``(layers, choices)``, finite.
        cost: Cost of the same, integers from 0; the most expensive choices may add up to 2^62.
        limit: Most total cost.
        ties: Groups of layers that take the same choice.
        pins: Layer -> the choice that it takes.
        also: Further budgets, each a cost and a limit like the first.
        descending: Orders to respect, each a sequence of layers and an integer level of each choice, shape ``(choices,)``:
            along the layers the level must not increase. HAWQ-V2 (Dong et al. 2020) goes from the most to the least
            sensitive layer with the bits as levels; where a choice is a pair of weight and activation bits, each may
            have its own order. A tied layer stands for all it is tied to.
        layers: Names of the layers, for errors.
        choices: Names of the choices, for errors.

    Raises:
        BitcertError: If the input is not as described, nothing is within the limits, or no optimum could be proven.

    Example:
        >>> assign([[3.0, 1.0], [5.0, 1.0]], [[4, 8], [4, 8]], 12).choice
        (0, 1)
    """
    losses = _read_losses(loss, layers, choices)
    budgets = [(_read_costs(costs, losses.shape, layers, choices), most) for costs, most in [(cost, limit), *also]]
    for _, most in budgets:
        if not isinstance(most, (int, np.integer)):
            raise BitcertError(f"a limit must be an integer, got {most!r}")
    count = len(losses)
    groups = _groups(ties, count)
    group_of = {layer: number for number, group in enumerate(groups) for layer in group}
    orders = [_read_order(path, levels, losses.shape) for path, levels in descending]
    allowed = _allowed(pins or {}, groups, losses.shape)

    members = np.array([[layer in group for layer in range(count)] for group in groups], dtype=np.int64)
    members = members.reshape(len(groups), count)  # also where there are no groups
    merged_loss = members @ losses
    excess = np.stack([members @ costs for costs, _ in budgets])
    least = np.where(allowed, excess, MOST_COST).min(axis=2, initial=MOST_COST)
    excess -= least[:, :, None]
    rooms = [int(most) - sum(row.tolist()) for row, (_, most) in zip(least, budgets, strict=True)]
    rooms = [max(-1, min(MOST_COST, room)) for room in rooms]
    allowed &= (excess <= np.array(rooms)[:, None, None]).all(axis=0)
    solution = None
    if min(rooms) >= 0 and allowed.any(axis=1).all():
        if not orders:
            allowed &= ~_dominated(merged_loss, excess, allowed)
        merged_loss -= np.where(allowed, merged_loss, np.inf).min(axis=1, initial=np.inf)[:, None]
        group, rank = np.nonzero(allowed)
        steps = tuple(
            (before, after, levels[rank])
            for path, levels in orders
            for before, after in pairwise([group_of[layer] for layer in path])
            if before != after
        )
        solution = _solve(_Program(merged_loss[allowed], excess[:, allowed], tuple(rooms), group, rank, steps))
    if solution is None:
        raise _infeasible(budgets, ties, pins, descending)
    chosen, above_bound = solution
    choice = tuple(int(chosen[group_of[layer]]) for layer in range(count))
    if any((np.diff(levels[chosen[[group_of[layer] for layer in path]]]) > 0).any() for path, levels in orders):
        raise BitcertError("no optimum could be proven: the solver's assignment breaks an order of `descending`")
    taken = range(count), choice
    total = float(losses[taken].sum())
    spent = [int(costs[taken].sum()) for costs, _ in budgets]
    return Assignment(choice, total, spent[0], total - above_bound, tuple(spent[1:]))


def _solve(program: _Program) -> tuple[NDArray[np.int64], float] | None:
    """Return the choice of each group and the loss above the linear relaxation, or None if nothing is feasible."""
    if not len(program.loss):
        return np.zeros(0, dtype=np.int64), 0.0
    constraints = _constraints(program)
    relaxed = _minimize(program.loss, constraints, integral=False)
    if relaxed is None:
        return None
    for _ in range(MOST_CUTS):
        solved = _minimize(program.loss, constraints, integral=True)
        if solved is None:
            return None
        taken = solved > 0.5
        exceeded = [number for number, room in enumerate(program.rooms) if program.costs[number, taken].sum() > room]
        if not exceeded:
            break
        constraints += [_cut(program, number, taken) for number in exceeded]
    else:
        raise BitcertError(
            f"no optimum could be proven: {MOST_CUTS} assignments in a row exceeded a limit by less than the solver "
            "can tell; give costs in a coarser unit"
        )
    found = float(program.loss[taken].sum())
    kept = program.loss <= found
    if program.loss[kept].max() * WIDE < program.loss.max():
        columns = program.costs[:, kept], program.rooms, program.group[kept], program.rank[kept]
        steps = tuple((before, after, levels[kept]) for before, after, levels in program.steps)
        return _solve(_Program(program.loss[kept], *columns, steps))
    return program.rank[taken], max(0.0, found - float(program.loss @ relaxed))


def _minimize(
    loss: NDArray[np.float64], constraints: Sequence[LinearConstraint], *, integral: bool
) -> NDArray[np.float64] | None:
    """Return the share of each column that minimizes the loss, or None if nothing is feasible."""
    objective = loss / (loss.max() or 1.0) * LOSS_SCALE
    integrality = np.full(len(loss), int(integral))
    for presolve in (True, False):  # with coefficients that differ by 1e11, HiGHS may give up after its presolve
        with _silence():
            result = milp(
                objective,
                integrality=integrality,
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "presolve": presolve},
            )
        if result.status in (0, 2):
            break
    if result.status == 2:
        return None
    if result.status != 0:
        raise BitcertError(f"no optimum could be proven: {result.message}")
    return np.asarray(result.x)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep a stray line that HiGHS 1.12 prints, whatever its options, out of standard output, which may be JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _constraints(program: _Program) -> list[LinearConstraint]:
    """One choice a group, every budget, and the order along ``steps``."""
    columns = np.arange(len(program.group))
    constraints = [LinearConstraint(csr_array((np.ones(len(columns)), (program.group, columns))), 1, 1)]
    for costs, room in zip(program.costs, program.rooms, strict=True):
        if room:
            constraints.append(LinearConstraint(costs[None] * (COST_SCALE / room), -np.inf, COST_SCALE))
    rows = [
        csr_array(
            (levels >= np.unique(levels)[1:, None]) * ((program.group == after) * 1.0 - (program.group == before))
        )
        for before, after, levels in program.steps
    ]
    if any(row.shape[0] for row in rows):
        constraints.append(LinearConstraint(vstack(rows), -np.inf, 0))
    return constraints


def _cut(program: _Program, budget: int, taken: NDArray[np.bool_]) -> LinearConstraint:
    """Exclude an assignment that exceeds a budget by less than the solver can tell, and all of at least its cost.

    A cover inequality: of the groups with the most expensive choices, as few as exceed the budget together, at least one
    has to take a cheaper choice.
    """
    costs = program.costs[budget]
    columns = np.flatnonzero(taken)
    dearest = columns[np.argsort(-costs[columns], kind="stable")]
    few = 1 + int(np.argmax(np.cumsum(costs[dearest]) > program.rooms[budget]))
    threshold = np.full(len(columns), MOST_COST + 1)
    threshold[program.group[dearest[:few]]] = costs[dearest[:few]]
    return LinearConstraint((costs >= threshold[program.group])[None] * 1.0, -np.inf, few - 1)


def _dominated(loss: NDArray[np.float64], costs: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which choices of each group another one matches or beats in loss and in every cost; of equals the first stays."""
    values = np.concatenate([loss[None], costs])
    dominated = np.zeros_like(allowed)
    for group in range(len(loss)):
        here = values[:, group]
        no_worse = (here[:, None, :] <= here[:, :, None]).all(axis=0) & allowed[group]
        first = np.tri(len(here[0]), k=-1, dtype=bool)
        dominated[group] = (no_worse & (~no_worse.T | first)).any(axis=1)
    return dominated


def _infeasible(
    budgets: Sequence[tuple[NDArray[np.int64], int]],
    ties: Sequence[Sequence[int]],
    pins: Mapping[int, int] | None,
    descending: Sequence[tuple[Sequence[int], ArrayLike]],
) -> BitcertError:
    if all(limit >= MOST_COST for _, limit in budgets):
        return BitcertError("the pins rise along `descending`; change the pins, or leave the pinned layers out of it")
    least = [assign(costs, costs, MOST_COST, ties, pins=pins, descending=descending).cost for costs, _ in budgets]
    what = "assignment that respects `descending`" if descending else "assignment"
    if len(budgets) == 1:
        return BitcertError(
            f"no {what} costs at most {budgets[0][1]}: the cheapest costs {least[0]}; "
            "raise the limit or allow cheaper choices"
        )
    each = "; ".join(f"limit {limit}, cheapest {cost}" for (_, limit), cost in zip(budgets, least, strict=True))
    return BitcertError(f"no {what} is within all limits at once ({each}); raise a limit or allow cheaper choices")


def _read_losses(loss: ArrayLike, layers: Sequence[str] | None, choices: Sequence[str] | None) -> NDArray[np.float64]:
    try:
        losses = np.array(loss, dtype=np.float64)
    except (TypeError, ValueError):
        raise BitcertError(
            "the losses are not a table of numbers with one row per layer and one column per choice"
        ) from None
    if losses.shape[:1] == (0,):
        return np.zeros((0, 0))
    if losses.ndim != 2 or not losses.size:
        raise BitcertError(f"the losses need one row per layer and one column per choice, got shape {losses.shape}")
    for names, expected, what in ((layers, len(losses), "layers"), (choices, losses.shape[1], "choices")):
        if names is not None and len(names) != expected:
            raise BitcertError(f"{len(names)} names for {expected} {what}; give one for each")
    for layer, choice in np.argwhere(~np.isfinite(losses)).tolist():
        place = _place(layer, choice, layers, choices)
        raise BitcertError(f"the loss of {place} is {losses[layer, choice]}; losses must be finite")
    with np.errstate(over="ignore"):
        if np.isinf(2 * np.abs(losses).sum()):
            raise BitcertError(f"losses up to {np.abs(losses).max()} overflow when added; give them in a coarser unit")
    return losses


def _read_costs(
    cost: ArrayLike, shape: tuple[int, ...], layers: Sequence[str] | None, choices: Sequence[str] | None
) -> NDArray[np.int64]:
    costs = np.array(cost, dtype=object)
    if costs.shape[:1] == (0,):
        costs = costs.reshape(0, 0)
    if costs.shape != shape:
        raise BitcertError(f"costs need the shape of the losses, {shape}, got {costs.shape}")
    for (layer, choice), value in np.ndenumerate(costs):
        if not isinstance(value, (int, np.integer)) or value < 0:
            place = _place(layer, choice, layers, choices)
            raise BitcertError(f"the cost of {place} is {value!r}; costs must be integers and at least 0")
    dearest = sum(max(map(int, row)) for row in costs.tolist())
    if dearest > MOST_COST:
        raise BitcertError(
            f"the most expensive choices cost {dearest} together, more than 2^62; give costs in a coarser unit"
        )
    return costs.astype(np.int64)


def _place(layer: int, choice: int, layers: Sequence[str] | None, choices: Sequence[str] | None) -> str:
    name = repr(layers[layer]) if layers else layer
    return f"layer {name} at {choices[choice] if choices else f'choice {choice}'}"


def _index(value: int, count: int, what: str) -> int:
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise BitcertError(f"{what} must be an integer from 0 to {count - 1}, got {value!r}")
    return index


def _read_order(path: Sequence[int], levels: ArrayLike, shape: tuple[int, ...]) -> tuple[list[int], NDArray[np.int64]]:
    order = [_index(layer, shape[0], "a layer of `descending`") for layer in path]
    read = np.asarray(levels)
    if shape[0] and (read.shape != shape[1:] or not np.issubdtype(read.dtype, np.integer)):
        raise BitcertError(f"`descending` needs an integer level for each of the {shape[1]} choices, got {levels!r}")
    return order, read.astype(np.int64)


def _groups(ties: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Layers that share a choice, in the order of the first of each."""
    tied = [[_index(layer, count, "a tied layer") for layer in group] for group in ties]
    members = [layer for group in tied for layer in group]
    for layer in members:
        if members.count(layer) > 1:
            raise BitcertError(f"layer {layer} is tied more than once; join its ties into one")
    return sorted([sorted(group) for group in tied if group] + [[n] for n in range(count) if n not in members])


def _allowed(pins: Mapping[int, int], groups: list[list[int]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which choices the pins leave to each group."""
    fixed = {
        _index(layer, shape[0], "a pinned layer"): _index(choice, shape[1], f"the pin of layer {layer}")
        for layer, choice in pins.items()
    }
    allowed = np.ones((len(groups), shape[1]), dtype=bool)
    for number, group in enumerate(groups):
        wanted = sorted({fixed[layer] for layer in group if layer in fixed})
        if len(wanted) > 1:
            raise BitcertError(f"the tied layers {group} are pinned to different choices, {wanted}; pin them to one")
        if wanted:
            allowed[number] = np.arange(shape[1]) == wanted[0]
    return allowed
