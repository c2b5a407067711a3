"""HAWQ: the Hessian of the loss says which layers suffer from quantization (versions 1, 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from baselines.hessian import Eigenvalues, Traces, estimate_traces, top_eigenvalues
from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, best_policy
from suite.contract.probes import Probes
from suite.contract.problem import Problem
from suite.contract.space import PARTS, Part, Policy
from suite.errors import BitcertError
from suite.options import check_counts, check_positive


@dataclass(frozen=True, slots=True)
class HAWQ1Options(ProbedOptions):
    """Options of :class:`HAWQ1`, besides those of :class:`ProbedOptions`.

    Attributes:
        activation_bits: Bits of all inputs; None for those of the largest uniform policy within the budget.
        tie_bits: Whether weights and inputs of a layer have equal bits instead, which is not published.
    """

    activation_bits: int | None = None
    tie_bits: bool = False

    def __post_init__(self) -> None:
        ProbedOptions.__post_init__(self)
        check_counts(self, activation_bits=1)
        if self.tie_bits and self.activation_bits is not None:
            raise BitcertError("tie_bits=true gives inputs the bits of the weights; leave activation_bits out")


class HAWQ1(ProbedSearcher[HAWQ1Options]):
    """HAWQ v1: layers in the order of the top Hessian eigenvalue by number of weights; the first of them get more bits.

    The paper orders the layers and leaves the bits to the reader, except that all inputs of a network have equal bits in its
    tables (4 on ResNet-20, a compression of 8x). Here inputs have ``activation_bits``, and :func:`raise_in_order` gives the
    weights what is left of the budget: no layer has more bits than a more sensitive one. Where the space ties weights and
    inputs of a layer, or the option does, they are raised together. The predicted loss of a policy is the sum of top
    eigenvalues times squared perturbations of the weights, by which the paper orders finetuning.

    Raises:
        BitcertError: If no policy with ``activation_bits`` is in the space and within the budget.

    References:
        Dong, Yao, Gholami, Mahoney and Keutzer, HAWQ: Hessian aware quantization of neural networks with mixed precision,
        ICCV 2019.
    """

    Options: ClassVar[type] = HAWQ1Options

    def __init__(self, problem: Problem, seed: int, options: HAWQ1Options | None = None) -> None:
        super().__init__(problem, seed, options)
        self._start = _lowest(problem, self._options)
        self.moves = "tied" if self._options.tie_bits else "weights"

    @cached_property
    def eigenvalues(self) -> Eigenvalues:
        """Top eigenvalues of the layers' Hessians by their weights."""

        def find(probes: Probes) -> dict[str, NDArray[np.float64]]:
            found = top_eigenvalues(probes.derivatives("weight"), np.random.default_rng([self.seed, 1]))
            return {"value": found.value, "residual": found.residual, "products": np.array(found.products)}

        found = self.probes.remembered("top eigenvalues", find)
        return Eigenvalues(found["value"], found["residual"], int(found["products"]))

    def _predict(self) -> Prediction:
        losses = np.abs(self.eigenvalues.value)[:, None] * self.probes.perturbations("weight")
        return Prediction(self.problem.space, losses, np.zeros_like(losses))

    def _orders(self) -> Mapping[Part, NDArray[np.float64]]:
        space = self.problem.space
        weights = np.array([layer.parameters for layer in space.layers])
        sensitivity = np.abs(self.eigenvalues.value) / weights
        for group in space.ties:
            members = [position for position, layer in enumerate(space.layers) if layer.name in group]
            sensitivity[members] = sensitivity[members].max()
        return {"weight": sensitivity}

    def _plan(self, prediction: Prediction) -> Policy:
        return raise_in_order(self.problem, self._orders()["weight"], self._start, tie_bits=self._options.tie_bits)


@dataclass(frozen=True, slots=True)
class TraceOptions(ProbedOptions):
    """Options of :class:`HAWQ2`, besides those of :class:`ProbedOptions`.

    Attributes:
        activations: Whether the inputs' share of the loss is counted.
        tolerance: Relative standard error at which a trace is known well enough.
        tie_bits: Whether weights and inputs of a layer have equal bits; of the three versions only v3 publishes that.
    """

    activations: bool = True
    tolerance: float = 0.1
    tie_bits: bool = False

    def __post_init__(self) -> None:
        ProbedOptions.__post_init__(self)
        check_positive(self, "tolerance")
        if not self.tie_bits and not self.activations:
            raise BitcertError("tie_bits=false needs activations=true: otherwise all inputs would get the fewest bits")


TraceT = TypeVar("TraceT", bound=TraceOptions)


class TraceSearcher(ProbedSearcher[TraceT]):
    """What HAWQ v2 and v3 share: average Hessian traces times squared perturbations are the predicted losses.

    Attributes:
        traces: Gives the traces of the layers' Hessians by a part, estimated at the first call.
    """

    def __init__(self, problem: Problem, seed: int, options: TraceT | None = None) -> None:
        super().__init__(problem, seed, options)
        self.moves = "tied" if self._options.tie_bits else "free"
        self.traces = cache(self._estimate)

    def _estimate(self, part: Part) -> Traces:
        tolerance = self._options.tolerance

        def estimate(probes: Probes) -> dict[str, NDArray[Any]]:
            rng = np.random.default_rng([self.seed, 2 + (part == "activation")])
            found = estimate_traces(probes.derivatives(part), rng, tolerance=tolerance)
            return {field.name: getattr(found, field.name) for field in fields(found)}

        return Traces(**self.probes.remembered(f"traces by {part}, tolerance {tolerance}", estimate))

    def _predict(self) -> Prediction:
        weights = self._losses("weight")
        inputs = self._losses("activation") if self._options.activations else np.zeros_like(weights)
        return Prediction(self.problem.space, weights, inputs)

    def _losses(self, part: Part) -> NDArray[np.float64]:
        # A layer at a minimum has a trace above 0: what is measured below is an estimate's error, or a saddle.
        losses: NDArray[np.float64] = np.abs(self.traces(part).mean)[:, None] * self.probes.perturbations(part)
        return losses


class HAWQ2(TraceSearcher[TraceOptions]):
    """HAWQ v2: least sum of average Hessian trace times squared perturbation, over policies monotone in the trace.

    The sum is over the weights of all layers, with traces by the weights, and over their inputs, with traces by these.
    Bits of weights and of inputs are chosen separately: no layer's weights get more bits than those of a layer of larger
    trace by the weights, no layer's inputs more than those of a layer of larger trace by the inputs. Among these policies
    the best within the budget is found by integer programming. Where weights and inputs of a layer are tied, the trace by
    the weights orders both.

    References:
        Dong et al., HAWQ-V2: Hessian aware trace-weighted quantization of neural networks, NeurIPS 2020.
    """

    Options: ClassVar[type] = TraceOptions

    def _orders(self) -> Mapping[Part, NDArray[np.float64]]:
        tied = self._options.tie_bits or self.problem.space.tie_weight_activation
        ordered: tuple[Part, ...] = ("weight",) if tied else PARTS
        return {part: np.abs(self.traces(part).mean) for part in ordered}

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=self._options.tie_bits, descending=self._orders())


@dataclass(frozen=True, slots=True)
class HAWQ3Options(TraceOptions):
    """Options of :class:`HAWQ3`.

    Attributes:
        activations: Whether the inputs' share of the loss is counted; the published sensitivities are those of the weights.
        tie_bits: Whether weights and inputs of a layer have equal bits, as published.
    """

    activations: bool = False
    tie_bits: bool = True


class HAWQ3(TraceSearcher[HAWQ3Options]):
    """HAWQ v3: least sum of average Hessian trace times squared perturbation within the budget, by integer programming.

    References:
        Yao et al., HAWQ-V3: Dyadic neural network quantization, ICML 2021.
    """

    Options: ClassVar[type] = HAWQ3Options

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=self._options.tie_bits)


def raise_in_order(
    problem: Problem, sensitivity: NDArray[np.float64], start: Policy, *, tie_bits: bool = False
) -> Policy:
    """Raise the weights' bits a choice at a time while one fits, so that no layer has more than a more sensitive one.

    Among the layers that may be raised, those of the fewest bits come first, and of these the most sensitive: all layers
    rise together, until one does not fit and what is left goes to the ones before it. Tied layers are raised together, in
    the place of the most sensitive of them.

    Args:
        problem: Whose space and budget hold.
        sensitivity: Of each layer, shape ``(layers,)``; that of tied layers is the largest of theirs.
        start: A feasible policy with equal bits for the weights of all free layers.
        tie_bits: Whether inputs are raised with the weights, also where the space leaves them free.
    """
    space = replace(problem.space, tie_weight_activation=tie_bits or problem.space.tie_weight_activation)
    vector = space.encode(start)
    weights = [number for number, slots in enumerate(space.variables) if slots[0].part == "weight"]
    order = sorted(weights, key=lambda number: -max(sensitivity[slot.layer] for slot in space.variables[number]))
    while True:
        bits = vector[order]
        open_places = np.flatnonzero(np.append(len(space.choices) - 1, bits[:-1]) > bits)
        for place in open_places[np.argsort(bits[open_places], kind="stable")]:
            raised = vector.copy()
            raised[order[place]] += 1
            if problem.is_feasible(space.decode(raised)):
                vector = raised
                break
        else:
            return space.decode(vector)


def _lowest(problem: Problem, options: HAWQ1Options) -> Policy:
    """The policy of the fewest weight bits, its inputs as the options say."""
    space, bits = problem.space, options.activation_bits
    least = space.choices[0]
    if options.tie_bits or space.tie_weight_activation:
        if bits is not None:
            raise BitcertError("this space ties weight and activation bits; leave activation_bits out")
        return space.uniform(least)
    if bits is None:
        uniform = [choice for choice in space.choices if problem.is_feasible(space.uniform(choice))]
        return space.uniform(least, max(uniform, default=least))
    start = space.uniform(least, bits)
    if not problem.is_feasible(start):
        raise BitcertError(
            f"activation_bits={bits} with the fewest weight bits, {least}, {problem.budget.describe_excess(space, start)}; "
            "lower activation_bits or raise the budget"
        )
    return start
