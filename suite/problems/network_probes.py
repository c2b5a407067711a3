"""Probes of a real network: what searchers may measure of it on training images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from suite.certify import NoiseStream
from suite.contract.bit_settings import BitSettings
from suite.contract.probes import Derivatives, Probes, ProbeSettings, Quality, product_passes
from suite.contract.space import Part, Policy, Precision
from suite.contract.trial import GRADIENT_PASSES
from suite.data import ImageSplit
from suite.descent import descend, passes
from suite.errors import BitcertError
from suite.problems.sensitivity_probes import first_order_terms, mean_squared_gradients, output_changes, run_hooked
from suite.quantize.calibration import Calibration, quantizable_modules
from suite.quantize.steps import quantize
from suite.seeds import derive_seed
from suite.train.bit_training import NetworkTask
from suite.train.indicators import learn_steps, passes_per_image
from suite.workbench import Batches, Workbench

_SHARPNESS = 2.0  # factor of the margins: closer than softmax to the hard counts of a certificate
_MOST_CHANCE = 1e-3 ** (
    1 / 10_000
)  # largest probability that the default exam certifies: 10,000 samples at alpha = 0.001


class NetworkProbes(Probes):
    """Measurements on training images under the problem's noise, with its batches, threads and quantizer steps.

    Args:
        bench: Network and data; its meter is charged.
        settings: Images and noise.

    Raises:
        BitcertError: If there are not as many training images.
    """

    def __init__(self, bench: Workbench, settings: ProbeSettings) -> None:
        self._bench, self._settings = bench, settings
        self._names = [layer.name for layer in bench.space.layers]
        split = self._draw(settings.images)
        stream = NoiseStream(derive_seed(bench.seed, "probe", settings.seed), "probe")
        self._batches = bench.labelled_batches(split, stream, settings.noise)

    def measure(self, policy: Policy) -> Quality:
        """Measure the network quantized to a policy; one forward pass per row."""
        self._bench.meter.charge(self._settings.rows + self._bench.statistics_passes())
        with self._bench.fixed_threads():
            return self._quality(self._bench.quantized(policy))

    def perturbations(self, part: Part) -> NDArray[np.float64]:
        """Squared length of what the quantizer changes; free for weights, one forward pass per row for inputs."""
        calibration = self._bench.calibration
        if part == "activation":
            self._bench.meter.charge(self._settings.rows)
            return self._input_perturbations(calibration)

        def change(name: str, bits: int) -> float:
            return float((calibration.quantized_weight(name, bits) - calibration.weights[name]).square().sum())

        return np.array([[change(name, bits) for bits in self._bench.space.choices] for name in self._names])

    def first_order(self, policy: Policy) -> NDArray[np.float64]:
        """First-order terms of the loss at a quantized network; three forward passes per row, and recalibration."""
        self._bench.meter.charge(GRADIENT_PASSES * self._settings.rows + self._bench.statistics_passes())
        with self._bench.fixed_threads():
            return first_order_terms(self._bench, self._batches, policy)

    def squared_gradients(self) -> NDArray[np.float64]:
        """Mean squared derivatives of the rows' own losses; three forward passes per row."""
        self._bench.meter.charge(GRADIENT_PASSES * self._settings.rows)
        with self._bench.fixed_threads():
            return mean_squared_gradients(self._bench, self._names, self._batches)

    def output_changes(self, precisions: Sequence[Precision]) -> NDArray[np.float64]:
        """Weighted squared changes of outputs; three forward passes per row, and one for each precision."""
        self._bench.meter.charge((GRADIENT_PASSES + len(precisions)) * self._settings.rows)
        with self._bench.fixed_threads():
            return output_changes(self._bench, self._names, self._batches, precisions)

    def derivatives(self, part: Part) -> Derivatives:
        """Derivatives of the float network's loss, charged when computed."""
        return NetworkDerivatives(self._bench, self._names, self._batches, part)

    def learned_steps(
        self, epochs: int, images: int | None = None, *, freeze_weights: bool = False
    ) -> NDArray[np.float64]:
        """Quantizer steps learned jointly over all choices; ``passes_per_image`` of each image and epoch."""
        bench = self._bench
        train = bench.dataset.splits["train"] if images is None else self._draw(images)
        bench.meter.charge(epochs * len(train) * passes_per_image(len(bench.space.choices)))
        with bench.fixed_threads():
            return learn_steps(
                bench.network,
                bench.space.layers,
                bench.space.choices,
                bench.calibration,
                train,
                epochs=epochs,
                sigma=bench.sigma,
                freeze_weights=freeze_weights,
                seed=derive_seed(bench.seed, "learned steps", self._settings.seed),
            )

    def learned_bits(self, settings: BitSettings) -> NDArray[np.float64]:
        """Bit widths learned by gradient descent; what :func:`suite.descent.passes` says of each image and step."""
        bench, space = self._bench, self._bench.space
        bench.meter.charge(passes(settings, space))
        seed = derive_seed(bench.seed, "learned bits", self._settings.seed)
        with bench.fixed_threads():
            task = NetworkTask(
                bench.network,
                space,
                bench.calibration,
                bench.dataset.splits["train"],
                settings,
                sigma=bench.sigma,
                learning_rate=bench.finetuning.learning_rate,
                seed=seed,
            )
            return descend(settings, space, task, seed)

    def _draw(self, images: int) -> ImageSplit:
        train = self._bench.dataset.splits["train"]
        if images > len(train):
            raise BitcertError(f"{images} images asked for, but there are {len(train)} training images")
        order = np.random.default_rng([self._bench.seed, self._settings.seed]).permutation(len(train))
        return train.subset(order[:images])

    @torch.inference_mode()
    def _quality(self, network: nn.Module) -> Quality:
        losses: list[Tensor] = []
        chances: list[Tensor] = []
        for inputs, labels in self._batches:
            logits = network(inputs.clone())
            losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
            own = logits.gather(1, labels[:, None])[:, 0]
            rivals = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
            chances.append(torch.sigmoid(_SHARPNESS * (own - rivals)))
        loss = float(torch.cat(losses).double().mean())
        if not np.isfinite(loss):
            raise BitcertError("the network's loss is not finite; check its weights and the quantizer steps")
        chance = torch.cat(chances).double().reshape(self._settings.images, -1).mean(dim=1).cpu().numpy()
        radius = self._bench.sigma * norm.ppf(np.clip(chance, 0.5, _MOST_CHANCE))
        return Quality(loss, float(radius.mean()))

    @torch.inference_mode()
    def _input_perturbations(self, calibration: Calibration) -> NDArray[np.float64]:
        choices = self._bench.space.choices
        found = np.zeros((len(self._names), len(choices)))

        def compare(layer: int, inputs: Tensor) -> None:
            name = self._names[layer]
            for column, bits in enumerate(choices):
                grid = calibration.input_grid(name, bits)
                changed = quantize(inputs, calibration.activation_step(name, bits), grid).sub_(inputs)
                found[layer, column] += float(changed.square_().sum(dtype=torch.float64))

        with self._bench.fixed_threads():
            for inputs, _ in self._batches:
                run_hooked(self._bench.network, self._names, inputs, compare)
        return found / self._settings.rows


class NetworkDerivatives(Derivatives):
    """Derivatives by automatic differentiation, batch by batch, in evaluation mode; the bench's meter is charged.

    Args:
        bench: The float network.
        names: Its layers.
        batches: Inputs and labels.
        part: What the loss is differentiated with respect to.

    Raises:
        BitcertError: If that is the inputs of a layer that is executed more than once.
    """

    def __init__(self, bench: Workbench, names: Sequence[str], batches: Batches, part: Part) -> None:
        self._bench, self._names, self._batches, self._part = bench, names, batches, part
        self._rows = sum(len(inputs) for inputs, _ in batches)
        self._modules = quantizable_modules(bench.network, names)
        if part == "weight":
            self.shapes = tuple((1, module.weight.numel()) for module in self._modules.values())
        else:
            points, _ = self._differentiable(batches[0][0][:1], batches[0][1][:1])
            self.shapes = tuple((self._rows, point.numel()) for point in points)

    def gradient(self) -> list[NDArray[np.float32]]:
        """The gradient by layer; three forward passes per row."""
        found = [np.zeros(shape, dtype=np.float32) for shape in self.shapes]
        with self._bench.fixed_threads():
            for lines, inputs, labels in self._lines():
                points, loss = self._differentiable(inputs, labels)
                for whole, gradient in zip(found, torch.autograd.grad(loss, points), strict=True):
                    whole[lines] += _flat(gradient, whole[lines])
        self._bench.meter.charge(GRADIENT_PASSES * self._rows)
        return found

    def products(self, vectors: Sequence[Mapping[int, NDArray[np.float32]]]) -> list[dict[int, NDArray[np.float32]]]:
        """Multiply the Hessian by vectors; three forward passes per row, plus ``product_passes``."""
        found = [{layer: np.zeros_like(values) for layer, values in vector.items()} for vector in vectors]
        with self._bench.fixed_threads(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            for lines, inputs, labels in self._lines():
                points, loss = self._differentiable(inputs, labels)
                slopes = torch.autograd.grad(loss, points, create_graph=True)
                for vector, product in zip(vectors, found, strict=True):
                    chosen = [points[layer] for layer in vector]
                    along = [
                        torch.from_numpy(values[lines]).to(points[layer].device).reshape(points[layer].shape)
                        for layer, values in vector.items()
                    ]
                    twice = torch.autograd.grad(
                        [slopes[layer] for layer in vector], chosen, along, retain_graph=True, materialize_grads=True
                    )
                    for whole, result in zip(product.values(), twice, strict=True):
                        whole[lines] += _flat(result, whole[lines])
        passes = GRADIENT_PASSES + product_passes(self._bench.space, vectors)
        self._bench.meter.charge(math.ceil(passes * self._rows))
        return found

    def _lines(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Each batch with its rows in arrays of :attr:`shapes`."""
        start = 0
        for inputs, labels in self._batches:
            yield slice(None) if self._part == "weight" else slice(start, start + len(inputs)), inputs, labels
            start += len(inputs)

    def _differentiable(self, inputs: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run a batch; return what its loss can be differentiated by, one tensor per layer, and the loss."""
        network = self._bench.network
        if self._part == "weight":
            leaves = [module.weight.detach().clone().requires_grad_() for module in self._modules.values()]
            weights = {f"{name}.weight": leaf for name, leaf in zip(self._names, leaves, strict=True)}
            logits = torch.func.functional_call(network, weights, (inputs,))
            return leaves, nn.functional.cross_entropy(logits, labels, reduction="sum") / self._rows
        shifts: dict[int, Tensor] = {}

        def shift(layer: int, seen: Tensor) -> Tensor:
            if layer in shifts:
                raise BitcertError(
                    f"layer {self._names[layer]!r} is executed more than once: the loss cannot be differentiated by its inputs"
                )
            shifts[layer] = torch.zeros_like(seen, requires_grad=True)
            return seen + shifts[layer]

        logits = run_hooked(network, self._names, inputs, shift)
        points = [shifts[layer] for layer in range(len(self._names))]
        return points, nn.functional.cross_entropy(logits, labels, reduction="sum")


def _flat(values: Tensor, like: NDArray[np.float32]) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = values.detach().cpu().numpy().reshape(like.shape)
    return flat
