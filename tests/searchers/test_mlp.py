"""The perceptron's gradients are those of automatic differentiation, and Adam is torch's, in double precision."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from searchers._ddpg import Adam, Perceptron


def torch_twin(network: Perceptron, inputs: int, hidden: int) -> torch.nn.Sequential:
    """The same network made of torch's layers, in double precision."""
    linears = [torch.nn.Linear(*sizes).double() for sizes in ((inputs, hidden), (hidden, hidden), (hidden, 1))]
    vector = torch.from_numpy(network.parameters.astype(np.float64))
    with torch.no_grad():
        for linear in linears:
            count, columns = linear.weight.numel(), linear.out_features
            weight, bias, vector = vector[:count], vector[count : count + columns], vector[count + columns :]
            linear.weight.copy_(weight.reshape(-1, columns).T)
            linear.bias.copy_(bias)
    return torch.nn.Sequential(linears[0], torch.nn.ReLU(), linears[1], torch.nn.ReLU(), linears[2])


def flat_gradient(twin: torch.nn.Sequential) -> NDArray[np.float64]:
    parts = []
    for linear in twin:
        if isinstance(linear, torch.nn.Linear):
            assert linear.weight.grad is not None
            assert linear.bias.grad is not None
            parts += [linear.weight.grad.T.reshape(-1), linear.bias.grad]
    return torch.cat(parts).numpy()


def test_gradients_equal_automatic_ones() -> None:
    rng = np.random.default_rng(0)
    network = Perceptron(7, 12, rng, np.float64)
    twin = torch_twin(network, 7, 12)
    inputs, outward = rng.normal(size=(9, 7)), rng.normal(size=(9, 1))
    value, tape = network.forward(inputs)
    leaf = torch.from_numpy(inputs).requires_grad_()
    expected = twin(leaf)
    expected.backward(torch.from_numpy(outward))
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(network.parameter_gradient(tape, outward), flat_gradient(twin), rtol=1e-10, atol=1e-14)
    assert leaf.grad is not None
    np.testing.assert_allclose(network.input_gradient(tape, outward), leaf.grad.numpy(), rtol=1e-10, atol=1e-14)


def test_adam_takes_the_steps_of_torch() -> None:
    rng = np.random.default_rng(1)
    parameters = rng.normal(size=50)
    twin = torch.from_numpy(parameters.copy()).requires_grad_()
    ours, theirs = Adam(parameters, 0.01), torch.optim.Adam([twin], lr=0.01)
    for _ in range(30):
        gradient = rng.normal(size=50)
        ours.descend(parameters, gradient)
        twin.grad = torch.from_numpy(gradient)
        theirs.step()
    np.testing.assert_allclose(parameters, twin.detach().numpy(), rtol=1e-10)


def test_initial_weights_stay_within_the_usual_bounds() -> None:
    network = Perceptron(4, 100, np.random.default_rng(0))
    first, second = network.parameters[: 5 * 100], network.parameters[5 * 100 : 5 * 100 + 101 * 100]
    assert 0.45 < np.abs(first).max() <= 0.5
    assert 0.095 < np.abs(second).max() <= 0.1


def test_a_copy_changes_with_its_own_parameters_only() -> None:
    network = Perceptron(3, 5, np.random.default_rng(0))
    inputs = np.ones((2, 3), dtype=np.float32)
    before, _ = network.forward(inputs)
    twin = network.copy()
    np.testing.assert_array_equal(twin.forward(inputs)[0], before)
    network.parameters += 0.1
    np.testing.assert_array_equal(twin.forward(inputs)[0], before)
    twin.follow(network, 1.0)
    np.testing.assert_array_equal(twin.forward(inputs)[0], network.forward(inputs)[0])
