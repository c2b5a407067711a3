"""HAWQ: the Hessian of the loss says which layers suffer from quantization (versions 1, 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from baselines.hessian import Eigenvalues, Traces, estimate_traces, top_eigenvalues
from baselines.planned import ProbedOptions, ProbedSearcher
from baselines.prediction import Prediction, best_policy
from suite.contract.probes import Part
from suite.contract.problem import Problem
from suite.contract.space import Policy, Precision, SearchSpace
from suite.errors import BitcertError
from suite.plugins import check_positive


class HAWQ1(ProbedSearcher[ProbedOptions]):
    """HAWQ v1: layers in the order of the top Hessian eigenvalue by number of weights; the first of them get more bits.

    The paper orders the layers and leaves the bits to the reader; :func:`raise_in_order` chooses them here: at most two
    neighbouring bit widths are used, and no layer has more than a more sensitive one. Weights and inputs of a layer have
    equal bits. The predicted loss of a policy is the sum of top eigenvalues times squared perturbations of the weights, by
    which the paper orders finetuning.

    References:
        Dong, Yao, Gholami, Mahoney and Keutzer, HAWQ: Hessian aware quantization of neural networks with mixed precision,
        ICCV 2019.
    """

    Options: ClassVar[type] = ProbedOptions

    @cached_property
    def eigenvalues(self) -> Eigenvalues:
        """Top eigenvalues of the layers' Hessians by their weights."""
        return top_eigenvalues(self.probes.derivatives("weight"), np.random.default_rng([self.seed, 1]))

    def _predict(self) -> Prediction:
        losses = np.abs(self.eigenvalues.value)[:, None] * self.probes.perturbations("weight")
        return Prediction(self.problem.space, losses, np.zeros_like(losses))

    def _plan(self, prediction: Prediction) -> Policy:
        weights = np.array([layer.parameters for layer in self.problem.space.layers])
        return raise_in_order(self.problem, np.abs(self.eigenvalues.value) / weights)


@dataclass(frozen=True, slots=True)
class TraceOptions(ProbedOptions):
    """Options of :class:`HAWQ2`, besides those of :class:`ProbedOptions`.

    Attributes:
        activations: Whether the inputs' share of the loss is counted.
        tolerance: Relative standard error at which a trace is known well enough.
    """

    activations: bool = True
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        ProbedOptions.__post_init__(self)
        check_positive(self, "tolerance")


TraceT = TypeVar("TraceT", bound=TraceOptions)


class TraceSearcher(ProbedSearcher[TraceT]):
    """What HAWQ v2 and v3 share: average Hessian traces times squared perturbations are the predicted losses.

    Attributes:
        traces: Gives the traces of the layers' Hessians by a part, estimated at the first call.
    """

    def __init__(self, problem: Problem, seed: int, options: TraceT | None = None) -> None:
        super().__init__(problem, seed, options)
        self.traces = cache(self._estimate)

    def _estimate(self, part: Part) -> Traces:
        rng = np.random.default_rng([self.seed, 2 + (part == "activation")])
        return estimate_traces(self.probes.derivatives(part), rng, tolerance=self._options.tolerance)

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

    No layer gets more bits than one of a larger average trace by the weights; among these policies the best within the
    budget is found by integer programming. Weights and inputs of a layer have equal bits. Traces by the inputs are part of
    the loss, as in the paper's section on activations.

    References:
        Dong et al., HAWQ-V2: Hessian aware trace-weighted quantization of neural networks, NeurIPS 2020.
    """

    Options: ClassVar[type] = TraceOptions

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=True, descending=np.abs(self.traces("weight").mean))


@dataclass(frozen=True, slots=True)
class HAWQ3Options(TraceOptions):
    """Options of :class:`HAWQ3`.

    Attributes:
        activations: Whether the inputs' share of the loss is counted; the published sensitivities are those of the weights.
        tie_bits: Whether weights and inputs of a layer have equal bits, as published.
    """

    activations: bool = False
    tie_bits: bool = True

    def __post_init__(self) -> None:
        TraceOptions.__post_init__(self)
        if not self.tie_bits and not self.activations:
            raise BitcertError("tie_bits=false needs activations=true: otherwise all inputs would get the fewest bits")


class HAWQ3(TraceSearcher[HAWQ3Options]):
    """HAWQ v3: least sum of average Hessian trace times squared perturbation within the budget, by integer programming.

    References:
        Yao et al., HAWQ-V3: Dyadic neural network quantization, ICML 2021.
    """

    Options: ClassVar[type] = HAWQ3Options

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=self._options.tie_bits)


def raise_in_order(problem: Problem, sensitivity: NDArray[np.float64]) -> Policy:
    """Raise layers from the fewest bits, a choice at a time, the most sensitive first, until one does not fit.

    Tied layers are raised together, when the most sensitive of them is met.
    """
    space = problem.space
    policy = space.uniform(space.choices[0])
    tied = {name: group for group in space.ties for name in group}
    order = sorted(range(len(space.layers)), key=lambda layer: -sensitivity[layer])
    groups = list(dict.fromkeys(tied.get(space.layers[layer].name, (space.layers[layer].name,)) for layer in order))
    for bits in space.choices[1:]:
        for group in groups:
            if not any(name in space.pinned for name in group):
                raised = _with_bits(space, policy, group, bits)
                if not problem.is_feasible(raised):
                    return policy
                policy = raised
    return policy


def _with_bits(space: SearchSpace, policy: Policy, names: tuple[str, ...], bits: int) -> Policy:
    layers = zip(space.layers, policy.precisions, strict=True)
    return Policy(tuple(Precision(bits, bits) if layer.name in names else given for layer, given in layers))
