"""HAWQ: the Hessian of the loss says which layers suffer from quantization (versions 1, 2 and 3)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from baselines.hessian import Eigenvalues, Traces, estimate_traces, top_eigenvalues
from baselines.planned import PlannedSearcher
from baselines.prediction import Prediction, best_policy
from searchers._options import check_flag, check_positive
from suite.contract.probes import Part, ProbeSettings
from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.errors import BitcertError


class HAWQ1(PlannedSearcher):
    """HAWQ v1: layers in the order of the top Hessian eigenvalue by number of weights; the first of them get more bits.

    The paper orders the layers and leaves the bits to the reader. Here all layers start at the fewest bits and are raised
    together, the most sensitive first, until one does not fit: at most two neighbouring numbers of bits are used, and no
    layer has more than a more sensitive one. Weights and inputs of a layer have equal bits. The predicted loss of a policy is
    the sum of top eigenvalues times squared perturbations of the weights, by which the paper orders finetuning.

    Args:
        problem: What is searched.
        seed: Of the images, their noise and the first vectors.
        images: Training images of the loss.
        noise: Noise samples of each image, as in the training of a smoothed network; 0 for none.
        refine: Whether the rest of the spend is used to search around the policy; the paper does not.

    References:
        Dong, Yao, Gholami, Mahoney and Keutzer, HAWQ: Hessian aware quantization of neural networks with mixed precision,
        ICCV 2019.
    """

    def __init__(self, problem: Problem, seed: int, *, images: int = 128, noise: int = 1, refine: bool = False) -> None:
        super().__init__(problem, seed, ProbeSettings(images, noise, seed), refine=refine)

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


class TraceSearcher(PlannedSearcher):
    """What HAWQ v2 and v3 share: average Hessian traces times squared perturbations are the predicted losses.

    Args:
        problem: What is searched.
        seed: Of the images, their noise and the random vectors.
        images: Training images of the loss.
        noise: Noise samples of each image; 0 for none.
        activations: Whether the inputs' share of the loss is counted.
        tolerance: Relative standard error at which a trace is known well enough.
        refine: Whether the rest of the spend is used to search around the policy.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        images: int = 128,
        noise: int = 1,
        activations: bool = True,
        tolerance: float = 0.1,
        refine: bool = False,
    ) -> None:
        super().__init__(problem, seed, ProbeSettings(images, noise, seed), refine=refine)
        self._activations = check_flag("activations", activations)
        self._tolerance = check_positive("tolerance", tolerance)
        self._traces: dict[Part, Traces] = {}

    def traces(self, part: Part) -> Traces:
        """Traces of the layers' Hessians by a part, estimated at the first use."""
        if part not in self._traces:
            rng = np.random.default_rng([self.seed, 2 + (part == "activation")])
            self._traces[part] = estimate_traces(self.probes.derivatives(part), rng, tolerance=self._tolerance)
        return self._traces[part]

    def _predict(self) -> Prediction:
        weights = self._losses("weight")
        inputs = self._losses("activation") if self._activations else np.zeros_like(weights)
        return Prediction(self.problem.space, weights, inputs)

    def _losses(self, part: Part) -> NDArray[np.float64]:
        # A layer at a minimum has a trace above 0: what is measured below is an estimate's error, or a saddle.
        losses: NDArray[np.float64] = np.abs(self.traces(part).mean)[:, None] * self.probes.perturbations(part)
        return losses


class HAWQ2(TraceSearcher):
    """HAWQ v2: least sum of average Hessian trace times squared perturbation, over policies monotone in the trace.

    No layer gets more bits than one of a larger average trace by the weights; among these policies the best within the
    budget is found by integer programming. Weights and inputs of a layer have equal bits. Traces by the inputs are part of
    the loss, as in the paper's section on activations.

    Its options are those of :class:`TraceSearcher`; ``refine`` is not in the paper.

    References:
        Dong et al., HAWQ-V2: Hessian aware trace-weighted quantization of neural networks, NeurIPS 2020.
    """

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=True, descending=np.abs(self.traces("weight").mean))


class HAWQ3(TraceSearcher):
    """HAWQ v3: least sum of average Hessian trace times squared perturbation within the budget, by integer programming.

    Args:
        problem: What is searched.
        seed: Of the images, their noise and the random vectors.
        images: Training images of the loss.
        noise: Noise samples of each image, as in the training of a smoothed network; 0 for none.
        tie_bits: Whether weights and inputs of a layer have equal bits, as published.
        activations: Whether the inputs' share of the loss is counted; the published sensitivities are those of the weights.
        tolerance: Relative standard error at which a trace is known well enough.
        refine: Whether the rest of the spend is used to search around the policy; the paper does not.

    Raises:
        BitcertError: If bits are not tied and the inputs not counted: all inputs would get the fewest bits.

    References:
        Yao et al., HAWQ-V3: Dyadic neural network quantization, ICML 2021.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        images: int = 128,
        noise: int = 1,
        tie_bits: bool = True,
        activations: bool = False,
        tolerance: float = 0.1,
        refine: bool = False,
    ) -> None:
        super().__init__(
            problem,
            seed,
            images=images,
            noise=noise,
            activations=activations,
            tolerance=tolerance,
            refine=refine,
        )
        self._tie_bits = check_flag("tie_bits", tie_bits)
        if not tie_bits and not activations:
            raise BitcertError("tie_bits=false needs activations=true: else all inputs would get the fewest bits")

    def _plan(self, prediction: Prediction) -> Policy:
        return best_policy(self.problem, prediction, tie_bits=self._tie_bits)


def raise_in_order(problem: Problem, sensitivity: NDArray[np.float64]) -> Policy:
    """Raise layers from the fewest bits, one choice at a time over all layers, the most sensitive first, until one does not fit.

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
                raised = _with_bits(problem, policy, group, bits)
                if not problem.is_feasible(raised):
                    return policy
                policy = raised
    return policy


def _with_bits(problem: Problem, policy: Policy, names: tuple[str, ...], bits: int) -> Policy:
    return replace(
        policy,
        precisions=tuple(
            precision._replace(weight=bits, activation=bits) if layer.name in names else precision
            for layer, precision in zip(problem.space.layers, policy.precisions, strict=True)
        ),
    )
