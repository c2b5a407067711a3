# %% [markdown]
# # A model of your own: a quantized quantum circuit
#
# bitcert quantizes networks, but a problem may be about any model whose numbers can be rounded. Here it is a tree of quantum
# gates on eight qubits, simulated exactly, that tells threes from fives. Its angles are rounded, each to a number of bits of its
# own, and what limits the bits is not BOPs but the T gates of a fault-tolerant computer. Smoothing, searchers and certificates are
# those of every problem.

# %%
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import suite
from suite.certify import Certificates, certify
from suite.contract.cost import Cost, float_bops, largest_uniform, parse_budget
from suite.contract.objective import check_radii, parse_objective
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Meter, Problem, check_seed, check_sigma
from suite.data import load_dataset
from suite.seeds import derive_seed

QUBITS, CLASSES = 8, (3, 5)
BLOCKS = ((0, 1), (2, 3), (4, 5), (6, 7), (1, 3), (5, 7), (3, 7))
ROTATED = (*(qubit for block in BLOCKS for qubit in block), 7)  # the last one turns the qubit that is measured
N0, ALPHA = 16, 0.001  # noise samples that choose a class in a search, failure probability of a certificate

# %% [markdown]
# ## The circuit
#
# `R_y` and controlled NOT are real, so a state is 256 real amplitudes. A block rotates two qubits, and the first of them controls
# the second, which goes on to the next level. The output is the mean of the last qubit's Pauli Z, between -1 and 1.


# %%
def rotate(states: Tensor, qubit: int, angle: Tensor) -> Tensor:
    """Apply R_y to a qubit of states of shape ``(rows, 256)``."""
    first, second = states.reshape(len(states), 2**qubit, 2, -1).unbind(2)
    cosine, sine = torch.cos(angle / 2), torch.sin(angle / 2)
    return torch.stack([cosine * first - sine * second, sine * first + cosine * second], dim=2).flatten(1)


def controlled_not(states: Tensor, control: int, target: int) -> Tensor:
    """Swap the target's amplitudes where the control, a qubit before it, is 1."""
    zero, one = states.reshape(len(states), 2**control, 2, 2 ** (target - control - 1), 2, -1).unbind(2)
    return torch.stack([zero, one.flip(3)], dim=2).flatten(1)


def apply_tree(states: Tensor, angles: Tensor) -> Tensor:
    """Run the circuit on states of shape ``(rows, 256)``; one angle for each of ``ROTATED``."""
    for number, (first, second) in enumerate(BLOCKS):
        states = rotate(rotate(states, first, angles[2 * number]), second, angles[2 * number + 1])
        states = controlled_not(states, first, second)
    return rotate(states, ROTATED[-1], angles[-1])


def encode(images: Tensor) -> Tensor:
    """The product state in which each value of an image turns a qubit from 0 (black) to 1 (white), by up to pi."""
    half = math.pi / 2 * images.flatten(1)
    states = images.new_ones(len(images), 1)
    for pair in torch.stack([torch.cos(half), torch.sin(half)], dim=2).unbind(1):
        states = (states[:, :, None] * pair[:, None]).flatten(1)
    return states


def expectation(states: Tensor) -> Tensor:
    """Mean of the last qubit's Pauli Z, shape ``(rows,)``."""
    return states[:, ::2].square().sum(1) - states[:, 1::2].square().sum(1)


class Circuit(nn.Module):
    """Two logits, plus and minus the expectation, for images of eight values."""

    matrix: Tensor

    def __init__(self, angles: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", apply_tree(torch.eye(2**QUBITS, dtype=angles.dtype), angles))

    def forward(self, images: Tensor) -> Tensor:
        found = expectation(encode(images) @ self.matrix)
        return torch.stack([found, -found], dim=1)


# %% [markdown]
# Images are averages over 2 x 4 pixels, doubled and cut at white. The float circuit is trained under the noise at which it is
# certified.


# %%
@cache
def images_of(split: str) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Images of shape ``(images, 1, 4, 2)`` in [0, 1], labels 0 and 1, and ids."""
    chosen = load_dataset("digits").splits[split]
    chosen = chosen.subset(np.flatnonzero(np.isin(chosen.labels, CLASSES)))
    small = (2 * nn.functional.avg_pool2d(chosen.images(), (2, 4))).clamp(max=1)
    return small, (chosen.labels == CLASSES[1]).astype(np.int64), chosen.ids


@cache
def train(sigma: float, seed: int) -> Tensor:
    """Angles of the float circuit, shape ``(15,)``."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "training"))
    images, labels = images_of("train")[0], torch.from_numpy(images_of("train")[1])
    angles = (2 * math.pi * torch.rand(len(ROTATED), generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([angles], lr=0.05)
    for _ in range(300):
        batch = torch.randint(len(images), (64,), generator=generator)
        noisy = images[batch] + sigma * torch.randn(64, *images.shape[1:], generator=generator)
        found = expectation(apply_tree(encode(noisy), angles))
        loss = nn.functional.cross_entropy(4 * torch.stack([found, -found], dim=1), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return angles.detach()


# %% [markdown]
# ## Rounded angles and what they cost
#
# An angle of b bits is a multiple of 2 pi / 2^b. Rounding moves it by at most pi / 2^b, which changes R_y by at most
# 2 sin(pi / 2^(b+2)) in operator norm, and the expectation by at most twice the sum of these over all angles.


# %%
def round_angles(angles: Tensor, bits: Sequence[int]) -> Tensor:
    """Each angle as the nearest multiple of 2 pi / 2^bits."""
    steps = 2 * math.pi / torch.tensor([2.0**number for number in bits], dtype=angles.dtype)
    return (angles / steps).round() * steps


def rounding_error(bits: int) -> float:
    """Most that rounding changes R_y, in operator norm."""
    return 2 * math.sin(math.pi / 2 ** (bits + 2))


@dataclass(frozen=True, slots=True)
class TGates(Cost):
    """T gates of the rotations: 3 log2(1/eps) each, where eps is the rounding error of its angle.

    That is the leading term for nearly optimal synthesis (Ross and Selinger 2016), rounded up. Up to 3 bits no synthesis is
    needed: multiples of pi / 2 are Clifford gates, which are free, and those of pi / 4 take one T gate.
    """

    name: ClassVar[str] = "t-gates"
    unit: ClassVar[str] = "T gates"

    def of_layer(self, layer: suite.Layer, precision: suite.Precision) -> int:
        if precision.weight <= 3:
            return int(precision.weight == 3)
        return math.ceil(-3 * math.log2(rounding_error(precision.weight)))


# %% [markdown]
# ## The problem
#
# Each angle is a layer with one number of bits. What is left to write is how a policy is measured.


# %%
class TreeTensorCircuit(Problem):
    """Bits for each angle of a tree tensor circuit, at a limited number of T gates.

    What it is: a small variational circuit, simulated exactly and without hardware noise, that tells two classes of digits apart
    from eight numbers; its smoothed classifier is certified like any other. Radii are L2, in units of those numbers.

    What it is not: a neural network, or quantization in the sense of one. It has no weights, no activations and no BOPs: the BOPs
    that every problem counts mean nothing here, and nothing here reads them. The expectation is exact, where hardware would
    estimate it from shots. Nothing is claimed about quantum advantage; a line through eight numbers may well do better.
    """

    def __init__(
        self,
        *,
        budget: str = "tree_tensor_circuit:TGates<=100",
        sigma: float = 0.125,
        objective: str = "acr",
        radii: tuple[float, ...] = (0.0, 0.1, 0.2),
        seed: int = 0,
    ) -> None:
        check_sigma(sigma)
        check_seed(seed)
        layers = (suite.Layer(f"R_y {n} on qubit {qubit}", "linear", 1, 1) for n, qubit in enumerate(ROTATED))
        self.name, self.sigma, self.seed, self.meter = "tree-tensor-circuit", sigma, seed, Meter()
        self.space = suite.SearchSpace(tuple(layers), pins={}, tie_weight_activation=True)
        self.budget = parse_budget(budget, self.space)
        self.objective = parse_objective(objective)
        self.radii = check_radii(tuple(sorted({*radii, *self.objective.radii})))
        self.fidelity = suite.Fidelity(images=50, noise=100)

    @property
    def network(self) -> Circuit:
        return Circuit(train(self.sigma, self.seed))

    def quantized(self, policy: suite.Policy) -> Circuit:
        """The circuit with the angles of a policy."""
        return Circuit(round_angles(train(self.sigma, self.seed), policy.weights))

    def evaluate(self, policy: suite.Policy, fidelity: suite.Fidelity, seed: int = 0) -> suite.Metrics:
        self.check_feasible(policy)
        return replace(
            self._measure(self.quantized(policy), fidelity, seed), bops=self.bops(policy), costs=self.costs(policy)
        )

    def evaluate_float(self, fidelity: suite.Fidelity, seed: int = 0) -> suite.Metrics:
        return replace(self._measure(self.network, fidelity, seed), bops=float_bops(self.space))

    def _measure(self, circuit: Circuit, fidelity: suite.Fidelity, seed: int) -> suite.Metrics:
        self.check_fidelity(fidelity)
        started = self.clock.now()
        images, labels, ids = (part[: fidelity.images] for part in images_of("search"))
        noise = derive_seed(self.seed, "search", seed)
        found = certify(
            circuit, images, labels, sigma=self.sigma, n0=N0, n=fidelity.noise, alpha=ALPHA, seed=noise, ids=ids
        )
        passes = len(images) + int(found.forward_passes.sum())
        self.meter.charge(passes)
        return suite.Metrics(
            clean_accuracy=accuracy(circuit, images, labels),
            acr=found.acr(labels),
            certified_accuracy=found.certified_accuracy(labels, self.radii),
            bops=0,
            forward_passes=passes,
            seconds=self.clock.now() - started,
            alpha=ALPHA,
            method="certify",
        )

    def examine(self, circuit: Circuit) -> Certificates:
        """Certificates of the held-out images, with noise that no search has seen."""
        images, labels, ids = images_of("exam")
        noise = derive_seed(self.seed, "exam")
        return certify(circuit, images, labels, sigma=self.sigma, n0=100, n=1000, alpha=ALPHA, seed=noise, ids=ids)

    def check_fidelity(self, fidelity: suite.Fidelity) -> None:
        if fidelity.finetune_steps or fidelity.images > len(images_of("search")[0]):
            raise suite.BitcertError(
                f"there are {len(images_of('search')[0])} images and no finetuning, got {fidelity}"
            )

    def probes(self, settings: ProbeSettings) -> Probes:
        raise suite.BitcertError("the circuit offers no probes; choose a searcher that only evaluates")

    def provenance(self) -> dict[str, Any]:
        angles = [round(angle, 4) for angle in train(self.sigma, self.seed).tolist()]
        about = {
            "problem": self.name,
            "sigma": self.sigma,
            "seed": self.seed,
            "radii": list(self.radii),
            "angles": angles,
        }
        return {**about, **self.budget.to_dict(), "objective": self.objective.text}


def accuracy(circuit: Circuit, images: Tensor, labels: NDArray[np.int64]) -> float:
    return float((circuit(images).argmax(1).numpy() == labels).mean())


# %% [markdown]
# ## The search
#
# Three searchers, each with as many evaluations; then their winners on held-out images, beside the best uniform policy within the
# budget and the float circuit. Three bits everywhere take 15 T gates and four take 165, so that uniform bits leave most of a
# budget of 100 unused. On the command line: `bitcert search --problem tree_tensor_circuit:TreeTensorCircuit --searcher tpe`.

# %%
if __name__ == "__main__":
    problem = TreeTensorCircuit()
    policies = {"uniform": largest_uniform(problem.space, problem.budget)}
    for name, options in {"random": "", "evolution": ":population=8:parents=4", "tpe": ""}.items():
        searcher = suite.make_searcher(name + options, problem, seed=0)
        run = suite.search(problem, searcher, evaluations=40, directory=f"runs/circuit-{name}")
        spent = sum(trial.spend for trial in run.trials)
        print(
            f"{name}: {run.evaluations} evaluations, {spent:,} circuits, best search estimate {run.score(run.best):.4f}"
        )
        policies[name] = run.best.policy

    # %%
    images, labels, _ = images_of("exam")
    print(f"held-out images: {len(labels)}\n{'':10} bits of the angles  T gates  accuracy     ACR  certified at 0.1")
    for name, policy in [*policies.items(), ("float", None)]:
        circuit = problem.network if policy is None else problem.quantized(policy)
        found = problem.examine(circuit)
        bits = "" if policy is None else "".join(map(str, policy.weights))
        gates = "" if policy is None else str(problem.budget.limits[0].cost.total(problem.space, policy))
        share = found.certified_accuracy(labels, [0.1])[0.1]
        print(
            f"{name:10} {bits:18}{gates:>9}{accuracy(circuit, images, labels):10.3f}{found.acr(labels):8.4f}{share:18.3f}"
        )
