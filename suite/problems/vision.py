"""The real problem: a network, images, and the certified accuracy of its quantized, smoothed classifier."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suite.certify import (
    CertificationWarning,
    Halving,
    NoiseStream,
    NoisyClassifier,
    NoisyImages,
    Rung,
    SetScores,
    largest_radius,
    successive_halving,
)
from suite.certify.bounds import check_alpha, check_sigma
from suite.certify.sampling import Progress, noisy_batches, predict
from suite.contract.cost import float_bops, parse_budget
from suite.contract.objective import check_radii, parse_objective
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Meter, Problem
from suite.contract.space import FLOAT_BITS, Policy, SearchSpace
from suite.contract.trial import Fidelity, Metrics
from suite.data import ImageDataset, ImageSplit, load_dataset
from suite.errors import BitcertError, unknown_name
from suite.networks import (
    build_network,
    load_checkpoint,
    network_layers,
    network_sha256,
    shipped_checkpoint,
    shortcut_ties,
)
from suite.problems.definition import CERTIFICATION_METHODS, Definition
from suite.problems.methods import METHODS, Measurement, Method, Setting
from suite.problems.network_probes import NetworkProbes
from suite.problems.setup import SearchSetup, calibration_split
from suite.quantize import Calibration, QuantizedNetwork, TrainableNetwork, calibrate, recalibrate_batch_norm
from suite.seeds import derive_seed
from suite.train.finetune import FinetuneSettings, finetune


class DataWarning(UserWarning):
    """The images may not be what the network takes them for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """Everything that is read from disk or computed once, at the first use of the network."""

    dataset: ImageDataset
    network: nn.Module
    calibration: Calibration
    calibration_batches: list[Tensor]
    quantized: QuantizedNetwork
    network_sha256: str


class SmoothedProblem(Problem):
    """Find the policy whose smoothed classifier has the best certificates within a BOPs budget.

    Space, budget and BOPs are known at once; images and checkpoint are read when the network is first needed. An evaluation
    measures the first ``fidelity.images`` search images by the method ``certify`` with ``fidelity.noise`` noise samples each
    (and ``select_samples(fidelity.noise)`` more where a class is chosen first), and classifies the images once without
    noise. What all searchers share is set-up and is not charged: calibration, the scores of aggregate bounds, and the
    records of the bases of incremental certificates (the float network and the largest uniform policy within the budget,
    sampled ten times as often, kept on disk).

    Args:
        definition: What the named problem fixes.
        budget: Limit on BOPs; the definition's by default.
        sigma: Noise level; the definition's by default.
        seed: Root seed of calibration, search and exam noise.
        objective: ``"acr"``, ``"clean"`` or ``"certified@r,..."``, optionally with ``"+bops"``.
        certify: How the search measures: ``"ranking"`` estimates, for ordering policies, or certificates that are
            ``"fixed"``, ``"irs"``, ``"incremental"``, ``"sequential"`` or ``"aggregate"``.
        bases: Further policies whose recorded predictions incremental certificates may build on, feasible or not.
        alpha: Failure probability of each certificate of the search.
        data: Folder with the images, for datasets that are not embedded.
        download: Whether missing images may be downloaded, for MNIST and CIFAR-10.
        checkpoint: Trained network; the shipped one by default.
        finetuning: How ``fidelity.finetune_steps`` are done.
        recalibrate: Whether batch-norm statistics are measured anew for every policy, on the calibration images.
        device: Where evaluations run, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        BitcertError: On arguments out of range or an infeasible budget.
    """

    def __init__(
        self,
        definition: Definition,
        *,
        budget: str | int | None = None,
        sigma: float | None = None,
        seed: int = 0,
        objective: str = "acr",
        certify: str = "ranking",
        bases: Sequence[Policy] = (),
        alpha: float = 1e-3,
        data: str | Path | None = None,
        download: bool = False,
        checkpoint: str | Path | None = None,
        finetuning: FinetuneSettings | None = None,
        recalibrate: bool = False,
        device: str = "cpu",
    ) -> None:
        self.definition = definition
        self.name = definition.name
        self.sigma = definition.sigma if sigma is None else float(sigma)
        check_sigma(self.sigma)
        check_alpha(alpha)
        if seed < 0:
            raise BitcertError(f"seed must not be negative, got {seed}")
        if certify not in CERTIFICATION_METHODS:
            raise unknown_name("certification method", certify, CERTIFICATION_METHODS)
        self.seed = seed
        self.alpha = alpha
        self.certify = certify
        self.device = _usable(device)
        self.space = _space(definition)
        self.budget = parse_budget(definition.budget if budget is None else budget, self.space)
        for base in bases:
            if base not in self.space:
                raise BitcertError(f"the base does not belong to the space of {self.name}: {base.to_json()}")
        self.bases = tuple(bases)
        self.objective = parse_objective(objective)
        self.radii = check_radii(tuple(sorted({*definition.radii, *self.objective.radii})))
        self.fidelity = definition.fidelity
        self.finetuning = finetuning or FinetuneSettings()
        self.recalibrate = recalibrate
        self.meter = Meter()
        self._data = data
        self._download = download
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._evaluated: dict[tuple[Policy | None, Fidelity, int], Metrics] = {}
        self._setup = SearchSetup(self)

    @property
    def network(self) -> nn.Module:
        """The float network, normalization inside, in evaluation mode."""
        return self._loaded.network

    @property
    def network_sha256(self) -> str:
        """Hash of the float network: of its weights, and of a user's network also of what it computes."""
        return self._loaded.network_sha256

    @property
    def calibration(self) -> Calibration:
        """Quantizer steps of the float network, and what its layers have seen."""
        return self._loaded.calibration

    @property
    def dataset(self) -> ImageDataset:
        """The images, in their four splits."""
        return self._loaded.dataset

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure a feasible policy on search images; answered from memory when asked again, and charged all the same."""
        self.check_feasible(policy)
        return self._charged(policy, fidelity, seed)

    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure the float network as :meth:`evaluate` measures policies, nothing finetuned; charges the meter."""
        return self._charged(None, replace(fidelity, finetune_steps=0), seed)

    def probes(self, settings: ProbeSettings) -> NetworkProbes:
        """Measurements on training images."""
        return NetworkProbes(self, settings)

    def rank(self, policies: Sequence[Policy], rungs: Sequence[Rung], *, keep: float = 0.5, seed: int = 0) -> Halving:
        """Order feasible policies by estimated ACR on search images, by successive halving; charges the meter.

        Args:
            policies: What is ordered.
            rungs: Images and noise samples of each round, never shrinking.
            keep: Share of the policies that goes on to the next round.
            seed: Of the noise, as for :meth:`evaluate`.

        Raises:
            BitcertError: If a policy is not feasible, or on rungs out of range.
        """
        for policy in policies:
            self.check_feasible(policy)
        most = max((rung.images for rung in rungs), default=1)
        self._check_images(Fidelity(images=most))
        with self.fixed_threads():
            noisy, labels = self._setup.images(most, seed)

            def sampler(number: int) -> NoisyClassifier:
                self.meter.charge(self.preparation_passes(0))
                return NoisyClassifier(self.quantized(policies[number]), noisy)

            found = successive_halving(
                sampler,
                len(policies),
                labels,
                rungs,
                keep=keep,
            )
        self.meter.charge(found.forward_passes)
        return found

    def quantized(
        self, policy: Policy, finetune_steps: int = 0, seed: int = 0, progress: Progress | None = None
    ) -> nn.Module:
        """The network quantized to a policy, after ``finetune_steps`` of finetuning on training images."""
        if finetune_steps == 0:
            network = self._loaded.quantized
            network.set_policy(policy)
            if self.recalibrate:
                recalibrate_batch_norm(network, self._loaded.calibration_batches)
            return network
        trainable = self.trainable(policy)
        finetune(
            trainable,
            self.dataset.splits["train"],
            steps=finetune_steps,
            sigma=self.sigma,
            settings=self.finetuning,
            seed=derive_seed(self.seed, "finetune", seed),
            progress=progress,
        )
        return trainable.freeze()

    def trainable(self, policy: Policy) -> TrainableNetwork:
        """A copy of the network, quantized to a policy as calibrated, that can be finetuned."""
        return TrainableNetwork(
            self.network, self.space.layers, policy, self._loaded.calibration, self.finetuning.quantizer
        )

    def estimate(self, network: nn.Module, fidelity: Fidelity, seed: int = 0) -> Measurement:
        """Estimate the scores of any network on search images as a search with ``certify="ranking"`` does; not charged."""
        noisy, _ = self._setup.images(fidelity.images, seed)
        return METHODS["ranking"](NoisyClassifier(network, noisy), self._setup.setting(fidelity, seed))

    def measure(
        self, network: nn.Module, noisy: NoisyImages, method: Method, setting: Setting, progress: Progress | None = None
    ) -> tuple[float, Measurement]:
        """Clean accuracy of a network, and what a certification method finds."""
        clean = predict(network, noisy.pixels, batch=noisy.batch).cpu().numpy()
        return float((clean == setting.labels).mean()), method(NoisyClassifier(network, noisy, progress), setting)

    def set_scores(self, images: int, n: int, alpha: float) -> SetScores:
        """Scores of aggregate bounds on so many images with ``n`` samples each; made once, by ``100 n`` forward passes."""
        return self._setup.scores(images, n, alpha)

    def noisy(self, split: ImageSplit, seed: int, memory: int = 0) -> NoisyImages:
        """A split's images under the problem's noise, in its fixed batches; the noise is keyed by the images' ids."""
        return NoisyImages(
            split.images().to(self.device),
            sigma=self.sigma,
            seed=seed,
            ids=split.ids,
            batch=self.definition.batch,
            memory=memory,
        )

    def labelled_batches(self, split: ImageSplit, stream: NoiseStream, samples: int) -> list[tuple[Tensor, Tensor]]:
        """A split's images in the problem's batches, image by image, with ``samples`` of noise each (0: none), and labels."""
        images = split.images().to(self.device)
        labels = torch.tensor(split.labels, device=self.device)
        size = self.definition.batch
        if samples == 0:
            return list(zip(images.split(size), labels.split(size), strict=True))
        noisy = noisy_batches(images, split.ids, sigma=self.sigma, stop=samples, stream=stream, batch=size)
        return [(batch.inputs.clone(), labels[batch.rows]) for batch in noisy]

    @contextmanager
    def fixed_threads(self) -> Iterator[None]:
        """Run a block with the number of threads that the definition fixes."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.definition.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def provenance(self) -> dict[str, Any]:
        """Settings and hashes; reads data and checkpoint."""
        definition, own = self.definition, {}
        if definition.based_on:
            own = {
                "based_on": definition.based_on,
                "image_size": definition.shape[-1],
                "unquantized": definition.unquantized,
            }
        return own | {
            "problem": self.name,
            "network": self.definition.network,
            "dataset": self.definition.dataset,
            "budget": self.budget.text,
            "budget_bops": self.budget.limit,
            "sigma": self.sigma,
            "objective": self.objective.text,
            "certify": self.certify,
            "bases": [base.to_dict() for base in self.bases],
            "alpha": self.alpha,
            "radii": list(self.radii),
            "choices": list(self.space.choices),
            "pins": {name: list(precision) for name, precision in self.space.pinned.items()},
            "ties": [list(group) for group in self.space.ties],
            "tie_weight_activation": self.space.tie_weight_activation,
            "batch": self.definition.batch,
            "threads": self.definition.threads,
            "calibration_images": self.definition.calibration_images,
            "finetuning": asdict(self.finetuning),
            "recalibrate": self.recalibrate,
            "device": str(self.device),
            "problem_seed": self.seed,
            "data_sha256": self.dataset.sha256,
            "network_sha256": self._loaded.network_sha256,
        }

    def preparation_passes(self, finetune_steps: int) -> int:
        """Forward passes that making a policy's network costs: finetuning, or recalibration without it."""
        if finetune_steps == 0 and self.recalibrate:
            return sum(len(batch) for batch in self._loaded.calibration_batches)
        return self.finetuning.forward_passes(finetune_steps)

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError if there are too few images; warn if the samples cannot certify what the objective asks for.

        Scores of aggregate bounds are designed here, so that all workers have the same.
        """
        self._check_images(fidelity)
        if self.certify in ("fixed", "sequential"):
            self.warn_if_unreachable(fidelity.noise, self.alpha)
        if self.certify == "aggregate":
            self.set_scores(fidelity.images, fidelity.noise, self.alpha)

    def warn_if_unreachable(self, n: int, alpha: float) -> None:
        """Warn if ``n`` agreeing samples do not certify the objective's largest radius, or nothing at all."""
        most = largest_radius(n, alpha, self.sigma)
        wanted = max(self.objective.radii, default=0.0)
        if (self.objective.certified and most <= 0) or most < wanted:
            warnings.warn(
                f"{n} noise samples at alpha = {alpha:g} and sigma = {self.sigma:g} certify no radius above {most:.3g}, "
                f"and the objective is {self.objective.text}; raise the number of samples",
                CertificationWarning,
                stacklevel=2,
            )

    def _check_images(self, fidelity: Fidelity) -> None:
        available = len(self.dataset.splits["search"])
        if fidelity.images > available:
            raise BitcertError(
                f"{fidelity.images} images asked for, but the search split of {self.definition.dataset} has {available}"
            )

    def _charged(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> Metrics:
        key = policy, fidelity, seed
        if key not in self._evaluated:
            self._evaluated[key] = self._measure(policy, fidelity, seed)
        metrics = self._evaluated[key]
        self.meter.charge(metrics.forward_passes)
        return metrics

    def _measure(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> Metrics:
        """Measure a policy, or the float network (None)."""
        self._check_images(fidelity)
        started = time.perf_counter()
        with self.fixed_threads():
            noisy, _ = self._setup.images(fidelity.images, seed)
            setting = self._setup.setting(fidelity, seed)
            if self.certify == "incremental":
                setting.bases()  # before the policy is set: bases run on the same quantized network
            preparation = 0 if policy is None else self.preparation_passes(fidelity.finetune_steps)
            try:
                network = self.network if policy is None else self.quantized(policy, fidelity.finetune_steps, seed)
                clean_accuracy, measured = self.measure(network, noisy, METHODS[self.certify], setting)
            except Exception:
                self.meter.charge(preparation)  # a training that diverges is not free
                raise
        return Metrics(
            clean_accuracy=clean_accuracy,
            acr=measured.acr,
            certified_accuracy=measured.certified_accuracy,
            bops=float_bops(self.space) if policy is None else self.bops(policy),
            forward_passes=fidelity.images + measured.forward_passes + preparation,
            seconds=time.perf_counter() - started,
            alpha=measured.alpha,
            method=self.certify,
        )

    @cached_property
    def _loaded(self) -> _Loaded:
        dataset = load_dataset(
            self.definition.dataset, self._data, download=self._download, size=self.definition.shape[-1]
        )
        if dataset.shape != self.definition.shape or dataset.classes > self.definition.classes:
            raise BitcertError(
                f"{self.name} takes images of shape {self.definition.shape} in at most {self.definition.classes} classes; "
                f"the data have shape {dataset.shape} and {dataset.classes} classes"
            )
        if dataset.classes < self.definition.classes:
            warnings.warn(
                f"the network has {self.definition.classes} outputs and the images are of {dataset.classes} classes, which stand "
                f"for the outputs 0 to {dataset.classes - 1}, folders in alphabetical order; labels are wrong if that is not so",
                DataWarning,
                stacklevel=2,
            )
        network = build_network(self.definition.network, self.definition.classes, self.definition.shape[0])
        load_checkpoint(
            network, self._checkpoint or shipped_checkpoint(self.definition.trained_as or self.name, self.sigma)
        )
        network = network.to(self.device).eval().requires_grad_(False)
        with self.fixed_threads():
            batches = self._calibration_batches(dataset)
            calibration = calibrate(network, [layer.name for layer in self.space.layers], batches)
        if self.recalibrate and not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
            raise BitcertError(f"{self.name} has no batch norms that could be recalibrated")
        quantized = QuantizedNetwork(network, self.space.layers, calibration, fold=not self.recalibrate)
        identity = network_sha256(network)
        if self.definition.based_on:
            with self.fixed_threads():
                identity = _check_execution(network, quantized, batches[0], identity)
        return _Loaded(
            dataset=dataset,
            network=network,
            calibration=calibration,
            calibration_batches=batches,
            quantized=quantized,
            network_sha256=identity,
        )

    def _calibration_batches(self, dataset: ImageDataset) -> list[Tensor]:
        split = calibration_split(dataset, self.definition)
        stream = NoiseStream(derive_seed(self.seed, "calibration"), "calibration")
        return [inputs for inputs, _ in self.labelled_batches(split, stream, samples=1)]


@torch.no_grad()
def _check_execution(network: nn.Module, quantized: QuantizedNetwork, images: Tensor, weights_sha256: str) -> str:
    """Check that a network of the user's is executed as it is meant when nothing is quantized.

    Returns:
        A hash of its weights and of what it computes: its code may change while its weights stay.

    Raises:
        BitcertError: If it is not.
    """
    expected = network(images)
    layers = len(quantized.layers)
    quantized.set_policy(Policy.from_bits([FLOAT_BITS] * layers, [FLOAT_BITS] * layers))
    found = quantized(images)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise BitcertError(
            f"layer by layer the network gives other logits than as a whole, up to {float((found - expected).abs().max()):.3g} "
            "off with nothing quantized: something in it, such as a hook, changes what its Conv2d and Linear modules compute"
        )
    digest = hashlib.sha256(weights_sha256.encode())
    digest.update(expected.cpu().numpy().tobytes())
    return digest.hexdigest()


def _usable(device: str | torch.device) -> torch.device:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise BitcertError(
            f"device {str(device)!r} cannot be used here ({reason}); give cpu, cuda or cuda:1"
        ) from error
    return torch.device(device)


def _space(definition: Definition) -> SearchSpace:
    layers = network_layers(definition.network, definition.classes, definition.shape)
    return SearchSpace(
        layers,
        choices=definition.choices,
        ties=shortcut_ties(layers) if definition.tie_shortcuts else (),
        tie_weight_activation=definition.tie_weight_activation,
    )
