"""The example with a quantum circuit: rotations against closed forms, a stranger's problem and cost against the kits."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite.contract.cost import Cost
from suite.contract.problem import Problem
from suite.contract.space import Precision
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.run.exam import examine
from suite.testing.costs import CostConformance
from suite.testing.problems import ProblemConformance

NAME = "tree_tensor_circuit"
FEW = Fidelity(images=20, noise=20)


def load() -> ModuleType:
    """The example as a module that a budget finds by its name."""
    spec = importlib.util.spec_from_file_location(NAME, Path(__file__).parents[1] / "examples" / f"{NAME}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


circuit = load()


class TestTreeTensorCircuit(ProblemConformance):
    fidelity = FEW

    def make(self) -> Problem:
        problem: Problem = circuit.TreeTensorCircuit()
        return problem


class TestTGates(CostConformance):
    def make(self) -> Cost:
        cost: Cost = circuit.TGates()
        return cost


def drawn(seed: int, images: int = 5) -> tuple[Tensor, Tensor]:
    """States of random images and random angles, in 64 bits."""
    rng = np.random.default_rng(seed)
    states = circuit.encode(torch.from_numpy(rng.normal(0.5, 0.5, (images, 1, 4, 2))))
    return states, torch.from_numpy(rng.uniform(-10, 10, len(circuit.ROTATED)))


def expectations(states: Tensor, angles: Tensor) -> Tensor:
    found: Tensor = circuit.expectation(circuit.apply_tree(states, angles))
    return found


def on_qubit(gate: NDArray[np.float64], qubit: int) -> NDArray[np.float64]:
    """A gate on one qubit as a matrix on all of them."""
    whole: NDArray[np.float64] = np.eye(1)
    for place in range(circuit.QUBITS):
        whole = np.asarray(np.kron(whole, gate if place == qubit else np.eye(2)), dtype=np.float64)
    return whole


def rotation(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    return np.array([[cosine, -sine], [sine, cosine]])


def test_the_simulation_is_that_of_kronecker_products() -> None:
    states, angles = drawn(0)
    turns = iter(angles.tolist())
    whole = np.eye(256)
    for first, second in circuit.BLOCKS:
        for qubit in (first, second):
            whole = on_qubit(rotation(next(turns)), qubit) @ whole
        zero, one, flip = np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])
        whole = (on_qubit(zero, first) + on_qubit(one, first) @ on_qubit(flip, second)) @ whole
    whole = on_qubit(rotation(next(turns)), 7) @ whole
    measured = on_qubit(np.diag([1.0, -1.0]), 7)
    expected = [state @ whole.T @ measured @ whole @ state for state in states.numpy()]
    assert expectations(states, angles).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_values_turn_qubits_from_zero_to_one() -> None:
    image = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    state = circuit.encode(image.reshape(1, 1, 4, 2))[0]
    assert int(state.abs().argmax()) == 0b01001001
    assert float(state.abs().max()) == pytest.approx(1.0)


def test_a_network_gives_the_expectation_and_its_negative() -> None:
    _, angles = drawn(1)
    images = torch.rand(6, 1, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = circuit.Circuit(angles)(images)
    found = expectations(circuit.encode(images), angles)
    assert torch.allclose(logits, torch.stack([found, -found], dim=1), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_states_keep_their_norm(seed: int) -> None:
    states, angles = drawn(seed)
    for found in (states, circuit.apply_tree(states, angles)):
        assert found.square().sum(1).numpy() == pytest.approx(np.ones(len(states)), abs=1e-12)


@pytest.mark.parametrize(("bits", "bound"), [(2, 0.3902), (3, 0.1960), (4, 0.0981), (6, 0.02454), (8, 0.00614)])
def test_rounding_changes_a_rotation_by_the_bound_at_most_and_half_way_by_the_bound(bits: int, bound: float) -> None:
    assert circuit.rounding_error(bits) == pytest.approx(bound, abs=5e-5)
    step = 2 * math.pi / 2**bits
    angles = [*np.random.default_rng(bits).uniform(-10, 10, 200), 3.4999999999 * step]
    rounded = circuit.round_angles(torch.tensor(angles, dtype=torch.float64), [bits] * len(angles)).tolist()
    changes = [np.linalg.norm(rotation(a) - rotation(b), 2) for a, b in zip(angles, rounded, strict=True)]
    assert max(changes) <= circuit.rounding_error(bits) + 1e-12
    assert changes[-1] == pytest.approx(circuit.rounding_error(bits), abs=1e-8)
    turns = np.array(rounded) / step
    assert turns == pytest.approx(np.rint(turns), abs=1e-9), "multiples of the step"


@pytest.mark.parametrize("seed", range(20))
def test_expectations_change_by_twice_the_sum_of_the_bounds_at_most(seed: int) -> None:
    states, angles = drawn(seed, images=50)
    bits = np.random.default_rng(seed).integers(3, 9, len(angles)).tolist()
    change = expectations(states, circuit.round_angles(angles, bits)) - expectations(states, angles)
    assert 0 < float(change.abs().max()) <= 2 * sum(map(circuit.rounding_error, bits))


def test_many_bits_equal_the_float_circuit() -> None:
    states, angles = drawn(3)
    rounded = circuit.round_angles(angles, [45] * len(angles))
    assert torch.allclose(expectations(states, rounded), expectations(states, angles), rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_the_parameter_shift_equals_automatic_differentiation(seed: int) -> None:
    """R_y is generated by a matrix of eigenvalues plus and minus 1/2, so that shifts by pi / 2 give the derivative exactly."""
    states, angles = drawn(seed)
    angles.requires_grad_()
    (gradient,) = torch.autograd.grad(expectations(states, angles).sum(), angles)
    assert float(gradient.abs().min()) > 1e-6, "every angle matters"
    with torch.no_grad():
        for place, derivative in enumerate(gradient.tolist()):
            shift = torch.zeros_like(angles)
            shift[place] = math.pi / 2
            difference = expectations(states, angles + shift).sum() - expectations(states, angles - shift).sum()
            assert float(difference) / 2 == pytest.approx(derivative, abs=1e-12)


def test_rotations_by_multiples_of_a_quarter_of_pi_need_no_synthesis_and_others_three_gates_a_bit() -> None:
    cost, layer = circuit.TGates(), circuit.TreeTensorCircuit().space.layers[0]
    prices = [cost.of_layer(layer, Precision(bits, bits)) for bits in range(1, 9)]
    assert prices == [0, 0, 1, 11, 14, 17, 20, 23]


def test_an_angle_is_one_variable_and_the_budget_is_on_t_gates() -> None:
    problem = circuit.TreeTensorCircuit(budget="tree_tensor_circuit:TGates<=120")
    assert len(problem.space.variables) == len(problem.space.layers) == 15
    assert [limit.cost.unit for limit in problem.budget.limits] == ["T gates"]
    with pytest.raises(BitcertError, match="costs 345 T gates, over the budget of 120"):
        problem.evaluate(problem.space.uniform(8), FEW)


def test_the_trained_circuit_tells_the_classes_apart_and_certifies() -> None:
    problem = circuit.TreeTensorCircuit()
    metrics = problem.evaluate_float(problem.fidelity)
    assert metrics.clean_accuracy > 0.75
    assert metrics.acr > 0.05
    assert not set(circuit.images_of("exam")[2]) & set(circuit.images_of("search")[2])


def test_what_bitcert_cannot_do_with_it_is_said() -> None:
    problem = circuit.TreeTensorCircuit()
    with pytest.raises(
        BitcertError, match=r"tree-tensor-circuit has no images to hold an exam on.*suite\.certify\.certify"
    ):
        examine(problem, problem.space.uniform(2))
    with pytest.raises(BitcertError, match="59 images and no finetuning"):
        problem.evaluate(problem.space.uniform(2), Fidelity(images=1000, noise=1))
