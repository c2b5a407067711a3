"""Bitcert's own problems, objectives and costs pass the kits that it ships."""

from __future__ import annotations

import pytest

from suite.contract.cost import BOPs, Cost, ModelSize
from suite.contract.objective import ACR, CertifiedAccuracy, CleanAccuracy, Objective
from suite.contract.per_mac import TERNARY
from suite.contract.problem import Problem
from suite.contract.state_memory import StateMemory
from suite.contract.trial import Fidelity
from suite.problems import load_problem
from suite.testing.costs import CostConformance
from suite.testing.objectives import ObjectiveConformance
from suite.testing.problems import ProblemConformance
from suite.testing.toys import toy_problem


class TestBOPs(CostConformance):
    def make(self) -> Cost:
        return BOPs()


class TestTernaryBOPs(CostConformance):
    def make(self) -> Cost:
        return BOPs(TERNARY)


class TestModelSize(CostConformance):
    def make(self) -> Cost:
        return ModelSize()


class TestStateMemory(CostConformance):
    def make(self) -> Cost:
        return StateMemory()


class TestACR(ObjectiveConformance):
    def make(self) -> Objective:
        return ACR()


class TestCleanAccuracy(ObjectiveConformance):
    def make(self) -> Objective:
        return CleanAccuracy()


class TestCertifiedAccuracy(ObjectiveConformance):
    def make(self) -> Objective:
        return CertifiedAccuracy((0.0, 0.5, 1.0))


class TestSeparable(ProblemConformance):
    def make(self) -> Problem:
        return toy_problem()


class TestSeparableInBytes(ProblemConformance):
    def make(self) -> Problem:
        return toy_problem(budget="10KB", objective="certified@0.25,0.4")


class TestDigits(ProblemConformance):
    fidelity = Fidelity(images=20, noise=8)

    def make(self) -> Problem:
        return load_problem("digits", budget="w3a3")


def test_a_cost_that_falls_with_more_bits_does_not_pass() -> None:
    class Falling(BOPs):
        def of_layer(self, layer, precision):  # type: ignore[no-untyped-def]
            return layer.macs * (9 - precision.weight)

    class Broken(CostConformance):
        def make(self) -> Cost:
            return Falling()

    with pytest.raises(AssertionError, match="gets cheaper"):
        Broken().test_layers_cost_whole_numbers_that_never_fall_with_more_bits()
