"""The integer program: one choice a layer, least total loss within one or two budgets, solved exactly."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from suite.errors import BitcertError

MOST_COST = 2**62
"""Most that the costs of one budget may add up to, so that sums fit 64 bits."""

MOST_PARTIAL = 100_000
"""Most partial assignments kept at a time; of more, evenly spaced ones stay and optimality may be lost."""

BLOCK = 256

TOLERANCE = 1e-9
"""Share of what the limits cost within which an assignment counts as optimal where partial ones had to be left out."""

ROUNDING = 1e-12
"""Allowance for rounding where a bound decides what to leave out, as a share of the sums that it is made of."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An optimal choice for every layer.

    Attributes:
        choice: Index of the choice of each layer.
        loss: Total loss.
        cost: Total cost, exact.
        lower_bound: Least total loss if layers could mix choices, at most ``loss``: the linear relaxation, without the
            choices that alone exceed a limit.
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
    """What is to be decided, one choice for each group of layers that share it.

    Attributes:
        loss: Losses above the least of each group, shape ``(groups, choices)``.
        costs: The same for the cost in each budget, shape ``(budgets, groups, choices)``.
        rooms: What each limit leaves above the least costs.
        allowed: Which choices a group may take, shape ``(groups, choices)``.
        chained: In so many groups, the first ones, the choice must not increase from one to the next.
    """

    loss: NDArray[np.float64]
    costs: NDArray[np.int64]
    rooms: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    chained: int


def assign(
    loss: ArrayLike,
    cost: ArrayLike,
    limit: int,
    ties: Sequence[Sequence[int]] = (),
    *,
    pins: Mapping[int, int] | None = None,
    also: Sequence[tuple[ArrayLike, int]] = (),
    descending: Sequence[int] = (),
    layers: Sequence[str] | None = None,
    choices: Sequence[str] | None = None,
) -> Assignment:
    """Find the choices, one a layer, of least total loss among those whose total cost is at most ``limit``.

    The integer program of HAWQ-V3 (Yao et al. 2021, section 3.4). A linear program (HiGHS) prices the budgets; the
    prices bound the loss of whatever completes a partial assignment (Lagrange); those that cannot lead to an optimum,
    or that another one matches or beats in loss and costs, are left out group by group (branch and bound, breadth
    first, as in Pisinger 1995 for the multiple-choice knapsack problem). Costs are summed in integers, so limits hold
    to the last unit; the loss is least up to the rounding of sums. Only where more than ``MOST_PARTIAL`` partial
    assignments compete may it exceed the least by 1e-9 of what the limits cost, which is the loss less the sum of the
    least loss of every layer; where not even this can be proven, an error says so.

    Args:
        loss: Loss of each choice in each layer, shape ``(layers, choices)``, finite.
        cost: Cost of the same, integers from 0; the dearest choices may add up to 2^62.
        limit: Most total cost.
        ties: Groups of layers that take the same choice.
        pins: Layer -> the choice that it takes.
        also: Further budgets, each a cost and a limit like the first.
        descending: Layers along which the index of the choice must not increase, such as the layers from the most to
            the least sensitive where choices ascend in bits (HAWQ-V2, Dong et al. 2020). A tied layer stands for all
            it is tied to.
        layers: Names of the layers, for errors.
        choices: Names of the choices, for errors.

    Raises:
        BitcertError: If the input is not as described, nothing is within the limits, or no optimum could be proven.

    Example:
        >>> assign([[3.0, 1.0], [5.0, 1.0]], [[4, 8], [4, 8]], 12).choice
        (0, 1)
    """
    losses = _read_losses(loss, layers, choices)
    tables = [_read_costs(table, losses.shape, layers, choices) for table, _ in [(cost, limit), *also]]
    limits = [_read_limit(most) for _, most in [(cost, limit), *also]]
    count = len(losses)
    groups = _groups(ties, count)
    _check_pins(pins or {}, groups, losses.shape)
    groups, chained = _chain([_index(layer, count, "a layer of `descending`") for layer in descending], groups)

    members = np.array([[layer in group for layer in range(count)] for group in groups], dtype=np.int64)
    members = members.reshape(len(groups), count)
    allowed = np.ones((len(groups), losses.shape[1]), dtype=bool)
    for layer, pin in (pins or {}).items():
        allowed[members[:, layer] > 0] &= np.arange(losses.shape[1]) == pin
    merged_loss, merged = members @ losses, np.stack([members @ table for table in tables])
    least = [_least(costs, allowed, chained) for costs in merged]
    if max(least) > MOST_COST:
        raise BitcertError("the pins rise along `descending`; change the pins, or leave the pinned layers out of it")
    if any(total > most for total, most in zip(least, limits, strict=True)):
        raise _infeasible(limits, least, bool(chained))

    cheapest = np.where(allowed, merged, MOST_COST).min(axis=2, initial=MOST_COST)
    merged -= cheapest[:, :, None]
    rooms = np.array([min(most - sum(row.tolist()), MOST_COST) for row, most in zip(cheapest, limits, strict=True)])
    allowed &= (merged <= rooms[:, None, None]).all(axis=0)
    if not chained:
        allowed &= ~_dominated(merged_loss, merged, allowed)
    merged_loss -= np.where(allowed, merged_loss, np.inf).min(axis=1, initial=np.inf)[:, None]
    solution = _solve(_Program(merged_loss, merged, rooms, allowed, chained)) if allowed.any(axis=1).all() else None
    if solution is None:
        raise _infeasible(limits, least, bool(chained))
    chosen, gap = solution
    choice = tuple((chosen @ members).tolist())
    taken = range(count), choice
    total = float(losses[taken].sum())
    spent = [int(table[taken].sum()) for table in tables]
    return Assignment(choice, total, spent[0], total - gap, tuple(spent[1:]))


def _solve(program: _Program) -> tuple[NDArray[np.int64], float] | None:
    """Return the choice of each group and the loss above the linear relaxation, or None if nothing is within limits.

    Searches among the assignments whose loss exceeds the bound by at most a width, and widens until one is found.
    """
    if not len(program.loss):
        return np.zeros(0, dtype=np.int64), 0.0
    unit = float(program.loss[program.allowed].max()) or 1.0
    program = replace(program, loss=program.loss / unit)
    prices = _prices(program)
    if prices is None:
        return None
    # Groups in which most is at stake come first, so that the rooms tell early what can still fit.
    stakes = prices @ np.where(program.allowed, program.costs, 0).max(axis=2)
    stakes[: program.chained] = np.inf
    order = np.argsort(-stakes, kind="stable")
    allowed = program.allowed[order]
    program = replace(program, loss=program.loss[order], costs=program.costs[:, order], allowed=allowed)
    search = _Search(program, prices)
    width = search.first_width
    while True:
        found, loss, complete = search.run(width)
        gap = loss - search.bound
        if found is not None and (complete or gap <= TOLERANCE * loss):
            return found[np.argsort(order)], unit * max(0.0, min(gap, loss))
        if not complete and gap >= 0.9 * width:
            raise BitcertError(
                f"no optimum could be proven: more than {MOST_PARTIAL} partial assignments compete; "
                "round the losses, or allow fewer choices"
            )
        if complete and width >= search.last_width:
            return None
        width = 2 * width if complete else gap


def _prices(program: _Program) -> NDArray[np.float64] | None:
    """What one unit of each cost is worth in loss, from the linear relaxation; None if even that is infeasible."""
    group, rank = np.nonzero(program.allowed)
    scale = np.maximum(program.rooms, 1).astype(float)
    one_each = csr_array((np.ones(len(group)), (group, np.arange(len(group)))))
    reaches = rank >= np.arange(1, program.loss.shape[1])[:, None]
    steps = [
        csr_array(reaches * ((group == after) * 1.0 - (group == after - 1))) for after in range(1, program.chained)
    ]
    rows = vstack([csr_array(program.costs[:, program.allowed] / scale[:, None]), *steps])
    limits = np.concatenate([program.rooms / scale, np.zeros(rows.shape[0] - len(scale))])
    loss = program.loss[program.allowed]
    result = linprog(loss, A_ub=rows, b_ub=limits, A_eq=one_each, b_eq=np.ones(len(program.loss)), method="highs-ds")
    if result.status == 2 and len(scale) > 1:
        return None
    if result.status != 0:
        raise BitcertError(f"no optimum could be proven: {result.message}")
    return np.maximum(0.0, -result.ineqlin.marginals[: len(scale)]) / scale


class _Search:
    """Branch and bound, breadth first: every partial assignment of the first groups that an optimum may begin with.

    Paid is the loss plus the costs at their prices. The least that remains to be paid, minus the price of the rooms,
    bounds the loss of every assignment within the limits from below, whatever the prices.
    """

    def __init__(self, program: _Program, prices: NDArray[np.float64]) -> None:
        self._program, self._prices = program, prices
        allowed, chained = program.allowed, program.chained
        self._paid = np.where(allowed, program.loss + np.tensordot(prices, program.costs, 1), np.inf)
        self._to_pay = _to_go(self._paid, chained)
        worth = float(prices @ program.rooms)
        self.bound = float(self._to_pay[0, -1]) - worth
        self._rounding = ROUNDING * (float(self._to_pay[0, -1]) + worth)
        never = np.where(allowed, program.costs.astype(object), MOST_COST)
        self._to_spend = np.stack([_to_go(costs, chained) for costs in never]).clip(max=MOST_COST).astype(np.int64)
        self._above_least = self._paid - self._paid.min(axis=1)[:, None]
        above = np.sort(self._above_least[allowed])
        self.first_width = max(float(above[min(len(above) - 1, 3 * len(allowed) // 2)]), self._rounding)
        self.last_width = float(np.where(allowed, program.loss, 0).max(axis=1).sum()) - self.bound

    def run(self, width: float) -> tuple[NDArray[np.int64] | None, float, bool]:
        """Find the best assignment whose loss exceeds the bound by at most ``width``.

        Returns:
            The choices, or None if there is no such assignment; their loss, or infinity; and whether all were searched.
        """
        program, prices, rooms = self._program, self._prices, self._program.rooms
        width += self._rounding
        bend = self._to_pay[0, -1] - self._paid.min(axis=1).sum()
        kept = program.allowed & (self._above_least <= width + bend + self._rounding)
        most = np.where(kept, program.costs, 0).max(axis=2)
        still = most.sum(axis=1)
        loss, spent, last = np.zeros(1), np.zeros((len(rooms), 1), dtype=np.int64), np.full(1, kept.shape[1] - 1)
        trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        complete = True
        for group in range(len(kept)):
            ranks = np.flatnonzero(kept[group])
            still = still - most[:, group]
            parent, rank = (part.ravel() for part in np.meshgrid(np.arange(len(loss)), ranks, indexing="ij"))
            loss = loss[parent] + program.loss[group, rank]
            spent = spent[:, parent] + program.costs[:, group, rank]
            unused = np.maximum(0, rooms[:, None] - spent - still[:, None])
            above = loss + prices @ (spent + unused) + self._to_pay[group + 1, rank] - self._to_pay[0, -1]
            open_ = (above <= width) & (spent <= rooms[:, None] - self._to_spend[:, group + 1, rank]).all(axis=0)
            if group < program.chained:
                open_ &= rank <= last[parent]
            here = np.flatnonzero(open_)
            last = rank if group + 1 < program.chained else np.zeros_like(rank)
            here = here[_undominated(last[here], spent[:, here], loss[here])]
            if len(here) > MOST_PARTIAL:
                here = here[np.linspace(0, len(here) - 1, MOST_PARTIAL).astype(np.int64)]
                complete = False
            if not len(here):
                return None, np.inf, complete
            loss, spent, last = loss[here], spent[:, here], last[here]
            trail.append((rank[here].astype(np.int32), parent[here].astype(np.int32)))
        best = at = int(loss.argmin())
        choice = []
        for ranks, parents in reversed(trail):
            choice.append(ranks[at])
            at = parents[at]
        return np.array(choice[::-1], dtype=np.int64), float(loss[best]), complete


def _to_go(values: NDArray[Any], chained: int) -> NDArray[Any]:
    """Least total from each group on if its choice is at most each rank, shape ``(groups + 1, choices)``."""
    total = np.zeros((len(values) + 1, values.shape[1]), dtype=values.dtype)
    for group in reversed(range(len(values))):
        step = values[group] + total[group + 1]
        total[group] = np.minimum.accumulate(step) if group < chained else step.min()
    return total


def _least(costs: NDArray[np.int64], allowed: NDArray[np.bool_], chained: int) -> int:
    """Least total cost, exact; above ``MOST_COST`` if pins and order exclude each other."""
    return int(_to_go(np.where(allowed, costs.astype(object), 2 * MOST_COST), chained)[0, -1])


def _undominated(last: NDArray[np.int64], spent: NDArray[np.int64], loss: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which partial assignments no other one with the same last choice matches or beats, sorted by cost.

    With three or more budgets only some of the dominated ones are found.
    """
    kept = []
    for same in (np.flatnonzero(last == choice) for choice in np.unique(last)):
        if len(spent) == 1:
            kept.append(same[_stairs(spent[0, same], loss[same])])
            continue
        order = same[np.lexsort((loss[same], *spent[::-1, same]))]
        stairs = np.zeros(0, dtype=np.int64)  # the front of all before, in the second cost and the loss
        for block in np.split(order, range(BLOCK, len(order), BLOCK)):
            if len(spent) == 2:
                lower = np.searchsorted(spent[1, stairs], spent[1, block], side="right")
                block = block[loss[block] < np.append(np.inf, loss[stairs])[lower]]
            no_worse = (spent[:, None, block] <= spent[:, block, None]).all(axis=0) & (loss[block] <= loss[block, None])
            block = block[~np.tril(no_worse, -1).any(axis=1)]
            kept.append(block)
            if len(spent) == 2:
                stairs = np.append(stairs, block)
                stairs = stairs[_stairs(spent[1, stairs], loss[stairs])]
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def _stairs(cost: NDArray[np.int64], loss: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions with a lower loss than all that cost no more, by ascending cost; of equals the first."""
    order = np.lexsort((loss, cost))
    lowest = np.minimum.accumulate(loss[order])
    return order[np.append(True, loss[order][1:] < lowest[:-1])] if len(order) else order


def _dominated(loss: NDArray[np.float64], costs: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which choices of each group another one matches or beats in loss and in every cost; of equals the first stays."""
    dominated = np.zeros_like(allowed)
    for group in range(len(loss)):
        no_worse = (loss[group] <= loss[group][:, None]) & allowed[group]
        no_worse &= (costs[:, group, None, :] <= costs[:, group, :, None]).all(axis=0)
        first = np.tri(allowed.shape[1], k=-1, dtype=bool)
        dominated[group] = (no_worse & (~no_worse.T | first)).any(axis=1)
    return dominated


def _infeasible(limits: Sequence[int], least: Sequence[int], chained: bool) -> BitcertError:
    what = "assignment that respects `descending`" if chained else "assignment"
    if len(limits) == 1:
        return BitcertError(
            f"no {what} costs at most {limits[0]}: the cheapest costs {least[0]}; "
            "raise the limit or allow cheaper choices"
        )
    each = "; ".join(f"limit {limit}, cheapest {cost}" for limit, cost in zip(limits, least, strict=True))
    return BitcertError(f"no {what} is within all limits at once ({each}); raise a limit or allow cheaper choices")


def _read_losses(loss: ArrayLike, layers: Sequence[str] | None, choices: Sequence[str] | None) -> NDArray[np.float64]:
    try:
        losses = np.array(loss, dtype=np.float64)
    except (TypeError, ValueError):
        raise BitcertError("the losses are not a table of numbers with a row a layer and a column a choice") from None
    if losses.shape[:1] == (0,):
        return np.zeros((0, 1))
    if losses.ndim != 2 or not losses.size:
        raise BitcertError(f"the losses need a row a layer and a column a choice, got shape {losses.shape}")
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
        costs = costs.reshape(0, 1)
    if costs.shape != shape:
        raise BitcertError(f"costs need the shape of the losses, {shape}, got {costs.shape}")
    for (layer, choice), value in np.ndenumerate(costs):
        if not isinstance(value, (int, np.integer)) or value < 0:
            place = _place(layer, choice, layers, choices)
            raise BitcertError(f"the cost of {place} is {value!r}; costs must be integers and at least 0")
    dearest = sum(max(map(int, row)) for row in costs.tolist())
    if dearest > MOST_COST:
        raise BitcertError(f"the dearest choices cost {dearest} together, more than 2^62; give costs in a coarser unit")
    return costs.astype(np.int64)


def _place(layer: int, choice: int, layers: Sequence[str] | None, choices: Sequence[str] | None) -> str:
    name = repr(layers[layer]) if layers else layer
    return f"layer {name} at {choices[choice] if choices else f'choice {choice}'}"


def _read_limit(limit: int) -> int:
    if not isinstance(limit, (int, np.integer)):
        raise BitcertError(f"a limit must be an integer, got {limit!r}")
    return int(limit)


def _index(value: int, count: int, what: str) -> int:
    try:
        index = operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise BitcertError(f"{what} must be an integer from 0 to {count - 1}, got {value!r}")
    return index


def _groups(ties: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Layers that share a choice, in the order of the first of each."""
    tied = [[_index(layer, count, "a tied layer") for layer in group] for group in ties]
    members = [layer for group in tied for layer in group]
    for layer in members:
        if members.count(layer) > 1:
            raise BitcertError(f"layer {layer} is tied more than once; join its ties into one")
    return sorted([sorted(group) for group in tied if group] + [[n] for n in range(count) if n not in members])


def _check_pins(pins: Mapping[int, int], groups: list[list[int]], shape: tuple[int, ...]) -> None:
    fixed = {
        _index(layer, shape[0], "a pinned layer"): _index(choice, shape[1], f"the pin of layer {layer}")
        for layer, choice in pins.items()
    }
    for group in groups:
        wanted = sorted({fixed[layer] for layer in group if layer in fixed})
        if len(wanted) > 1:
            raise BitcertError(f"the tied layers {group} are pinned to different choices, {wanted}; pin them to one")


def _chain(path: Sequence[int], groups: list[list[int]]) -> tuple[list[list[int]], int]:
    """Put the groups along the path first, in its order; all between two occurrences of a group become one with it."""
    chain: list[list[int]] = []
    for layer in path:
        again = next((number for number, group in enumerate(chain) if layer in group), None)
        if again is None:
            chain.append(next(group for group in groups if layer in group))
        else:
            chain[again:] = [[member for group in chain[again:] for member in group]]
    chained = {layer for group in chain for layer in group}
    return chain + [group for group in groups if group[0] not in chained], len(chain)
