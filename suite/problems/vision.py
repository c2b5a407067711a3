"""Image classification: a network, images, and the certified accuracy of its quantized, smoothed classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from suite.certify import CertificationWarning, Certifier, NoiseStream, Task, largest_radius
from suite.certify.bounds import check_alpha
from suite.certify.sampling import noisy_batches
from suite.computing import torch_threads
from suite.contract.cost import float_bops, largest_uniform, parse_budget
from suite.contract.objective import check_radii, parse_objective
from suite.contract.probes import Probes, ProbeSettings
from suite.contract.problem import Meter, Problem, check_seed, check_sigma
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.measure import measure, measure_constant
from suite.networks import network_layers, network_sha256, shortcut_ties
from suite.plugins import CERTIFIERS
from suite.problems.definition import Definition
from suite.problems.interval_probes import IntervalProbes
from suite.problems.loading import batch_on, check_execution, check_states, load_images, load_network, usable_device
from suite.problems.network_probes import NetworkProbes
from suite.problems.setup import SearchSetup, calibration_split, draw_images, replicated, select_samples
from suite.protocols import Prepared, Protocol, Request, protocol_for
from suite.quantize import QuantizedNetwork, Statistics, calibrate, check_engine
from suite.seeds import derive_seed
from suite.train.finetune import FinetuneSettings
from suite.workbench import BenchProblem, Workbench


class VisionProblem(BenchProblem):
    """Find the policy whose smoothed classifier has the best certificates within a BOPs budget.

    Space, budget and BOPs are available at once; images and checkpoint are read when the network is first needed. An
    evaluation prepares the policy's network by the protocol, classifies the first ``fidelity.images`` search images without
    noise, and certifies them with ``fidelity.noise`` noise samples each (and ``select_samples(fidelity.noise)`` more where a
    class is chosen first). Set-up is shared by all searchers and not charged: calibration, the scores of set bounds, and the
    base records of incremental certificates (the float network and the largest uniform policy within the budget, with ten
    times the samples, kept on disk).

    Args:
        definition: What the named problem fixes.
        budget, sigma, ...: As for :func:`suite.problems.load_problem`.

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
        certify: str | None = None,
        bases: Sequence[Policy] = (),
        alpha: float = 1e-3,
        data: str | Path | None = None,
        download: bool = False,
        checkpoint: str | Path | None = None,
        finetuning: FinetuneSettings | None = None,
        device: str = "cpu",
        protocol: str | None = None,
        replicate: int | None = None,
        engine: str | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._given = given
        self._replicates: dict[int, VisionProblem] = {}
        self.definition = definition
        self.name = definition.name
        self.sigma = definition.sigma if sigma is None else float(sigma)
        check_sigma(self.sigma)
        check_alpha(alpha)
        check_seed(seed)
        self.seed = seed
        if replicate is not None:
            check_seed(replicate)
        self._replicate = replicate
        self.alpha = alpha
        self.certify = definition.certify if certify is None else certify
        self.certifier: Certifier = CERTIFIERS.make(self.certify)
        self.estimates = self.certifier.estimates
        self.norm = "l2" if self.certifier.samples else "linf"
        self.exam_method = definition.exam.method
        self.space = _space(definition)
        self.budget = parse_budget(definition.budget if budget is None else budget, self.space)
        for base in bases:
            if base not in self.space:
                raise BitcertError(f"the base does not belong to the space of {self.name}: {base.to_json()}")
        self.bases = tuple(bases)
        self.objective = parse_objective(objective)
        self.radii = check_radii(tuple(sorted({*definition.radii, *self.objective.radii})))
        self.fidelity = replace(definition.fidelity, noise=self._noise(definition))
        if protocol is not None:
            self.fidelity = replace(self.fidelity, finetune_steps=protocol_for(protocol, 0).choose_steps(None))
        self.meter = Meter()
        self.protocol = protocol
        self.finetuning = finetuning or FinetuneSettings()
        self.device = usable_device(device)
        self.batch = batch_on(self.device, definition.batch, definition.shape)
        self.engine = check_engine(definition.engine if engine is None else engine, self.device)
        check_states(definition, self.space, self.engine)
        self._data, self._download = data, download
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._evaluated: dict[tuple[Policy | None, Fidelity, int], Metrics] = {}

    def _noise(self, definition: Definition) -> int:
        """Noise samples by default: the definition's, unless this certifier, or the one that it was written for, draws none."""
        if not self.certifier.samples:
            return 1
        own: Certifier = CERTIFIERS.make(definition.certify)
        return definition.fidelity.noise if own.samples else Fidelity().noise

    @property
    def network(self) -> nn.Module:
        """The float network, normalization inside, in evaluation mode."""
        return self.bench.network

    @cached_property
    def bench(self) -> Workbench:
        """Network, data and calibration; loaded on first access."""
        definition, layers = self.definition, self.space.layers
        dataset = load_images(definition, self._data, download=self._download)
        if self._replicate is not None:
            dataset = replicated(dataset, self._replicate)
        network = load_network(definition, self._checkpoint, self.sigma, self.device, self._replicate or 0)
        train = dataset.splits["train"]
        drawn = draw_images(
            train, definition.statistics_images, derive_seed(self.seed, "statistics images", self._replicate or 0)
        )
        split = calibration_split(dataset, definition.calibration_images)
        stream = NoiseStream(derive_seed(self.seed, "calibration"), "calibration")
        with torch_threads(definition.threads):
            images = split.images().to(self.device)
            noisy = noisy_batches(images, split.ids, sigma=self.sigma, stop=1, stream=stream, batch=self.batch)
            batches = [chunk.inputs.clone() for chunk in noisy]
            calibration = calibrate(
                network,
                [layer.name for layer in layers],
                batches,
                ternary_inputs=definition.ternary_inputs,
                four_level_weights=definition.four_level_weights,
                state_levels=definition.state_levels,
            )
            executed = QuantizedNetwork(network, layers, calibration)
            own = bool(definition.based_on)  # a user's network
            identity = check_execution(network, executed, batches[0]) if own else network_sha256(network)
        return Workbench(
            network=network,
            network_sha256=identity,
            dataset=dataset,
            calibration=calibration,
            statistics_images=drawn,
            executed=executed,
            space=self.space,
            sigma=self.sigma,
            radii=self.radii,
            seed=self.seed,
            batch=self.batch,
            threads=definition.threads,
            device=self.device,
            finetuning=self.finetuning,
            statistics=self._statistics,
            exam=definition.exam,
            meter=self.meter,
            engine=self.engine,
        )

    def replicate(self, seed: int) -> VisionProblem:
        """The problem with the base network, calibration images and search images that belong to a seed.

        Included networks that differ in their training seeds take turns; a checkpoint of the user's stays. Exam images and exam
        noise are the same for all seeds. Charges go to the replicate's own meter.
        """
        if seed not in self._replicates:
            self._replicates[seed] = made_like(self, VisionProblem, replicate=seed)
        return self._replicates[seed]

    @cached_property
    def setup(self) -> SearchSetup:
        """What all evaluations share."""
        return SearchSetup(
            self.bench,
            alpha=self.alpha,
            bases=list(dict.fromkeys([None, largest_uniform(self.space, self.budget), *self.bases])),
            calibration_images=self.definition.calibration_images,
        )

    def search_task(self, fidelity: Fidelity, seed: int = 0) -> Task:
        """What :meth:`evaluate` certifies."""
        return self.setup.task(fidelity, seed)

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure a feasible policy on search images; repeated requests are answered from memory and charged in full."""
        self.check_feasible(policy)
        return self._charged(policy, fidelity, seed)

    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure the float network as :meth:`evaluate` measures policies, without finetuning; charges the meter."""
        return self._charged(None, replace(fidelity, finetune_steps=0), seed)

    def constant_score(self, fidelity: Fidelity, seed: int = 0) -> float:
        """Measured on search images, see :func:`measure_constant_on`."""
        return self.objective.score(measure_constant_on(self, self.search_task(fidelity, seed)))

    def forward_passes(self, fidelity: Fidelity) -> int:
        """Clean images, noise samples of the certifier, and what the protocol makes a network with."""
        steps = fidelity.finetune_steps
        samples = self.certifier.most_samples(select_samples(fidelity.noise), fidelity.noise)
        prepared = protocol_for(self.protocol, steps).forward_passes(self.bench, steps) + self.bench.engine_passes
        return fidelity.images * (1 + samples) + prepared

    def probes(self, settings: ProbeSettings) -> Probes:
        """Measurements on training images; without noise where certificates are."""
        bench = self._protocol.starting_point(self.bench)
        if self.certifier.samples:
            return NetworkProbes(bench, settings)
        return IntervalProbes(bench, settings, self.radii)

    def default_fidelity(self) -> Fidelity:
        """The default, limited to the search split's images: a folder may be small."""
        return self._limited(self.fidelity, self.fidelity.images)

    def second_look(self, fidelity: Fidelity) -> Fidelity:
        """Up to twice the images, which buy more than noise samples."""
        return self._limited(fidelity, 2 * fidelity.images)

    def _limited(self, fidelity: Fidelity, images: int) -> Fidelity:
        return replace(fidelity, images=min(images, len(self.bench.dataset.splits["search"])))

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError if there are too few images; warn if the samples cannot certify the objective.

        Scores of set bounds are designed here, once for all workers.
        """
        self.certifier.check_installed()
        self.search_task(fidelity)
        if not self.certifier.samples and fidelity.noise != 1:
            raise BitcertError(f"{self.certify} draws no noise: give 1 sample of it, not {fidelity.noise} (--noise 1)")
        protocol_for(self.protocol, fidelity.finetune_steps).choose_steps(fidelity.finetune_steps)
        if self.certifier.limited_by_samples:
            warn_if_unreachable(self, fidelity.noise, self.alpha)
        if self.certifier.uses_scores:
            self.setup.scores(fidelity.images, fidelity.noise, self.alpha)

    def provenance(self) -> dict[str, Any]:
        """Settings and hashes; reads data and checkpoint."""
        definition, space = self.definition, self.space
        own: dict[str, Any] = {}
        if definition.based_on:
            own |= {"based_on": definition.based_on, "image_size": definition.shape[-1]}
            own["unquantized"] = definition.unquantized
        if self.protocol is not None:
            own["protocol"] = self.protocol
        own |= self._protocol.starting_point(self.bench).origin
        if self.engine != "torch":
            own["engine"] = self.engine
        if definition.ternary_inputs:
            own["ternary_inputs"] = True
        if definition.four_level_weights:
            own["four_level_weights"] = True
        if definition.state_levels != "integers":
            own["state_levels"] = definition.state_levels
            own["state_ranges"] = {name: list(ends) for name, ends in self.bench.calibration.state_ranges().items()}
        return own | {
            "problem": self.name,
            "network": definition.network,
            "dataset": definition.dataset,
            **self.budget.to_dict(),
            "sigma": self.sigma,
            "objective": self.objective.text,
            "certify": self.certify,
            "bases": [base.to_dict() for base in self.bases],
            "alpha": self.alpha,
            "radii": list(self.radii),
            "choices": list(space.choices),
            "pins": {name: list(precision) for name, precision in space.pinned.items()},
            "ties": [list(group) for group in space.ties],
            "tie_weight_activation": space.tie_weight_activation,
            "batch": self.batch,
            "threads": definition.threads,
            "calibration_images": definition.calibration_images,
            "statistics_images": definition.statistics_images,
            "replicate": self._replicate,
            "finetuning": asdict(self.finetuning),
            "statistics": asdict(self._statistics),
            "device": str(self.device),
            "problem_seed": self.seed,
            "data_sha256": self.bench.dataset.sha256,
            "network_sha256": self.bench.network_sha256,
        }

    @property
    def _protocol(self) -> Protocol:
        """That of the problem's own fidelity."""
        return protocol_for(self.protocol, self.fidelity.finetune_steps)

    @property
    def _statistics(self) -> Statistics:
        return self._protocol.statistics

    def _charged(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> Metrics:
        """Measure a policy, or the float network (None), from memory if possible; charges the meter."""
        key = policy, fidelity, seed
        if key not in self._evaluated:
            task = self.search_task(fidelity, seed)
            self._evaluated[key] = self.measure_on(task, policy, fidelity.finetune_steps, seed)
        metrics = self._evaluated[key]
        self.meter.charge(metrics.forward_passes)
        return metrics

    def measure_on(self, task: Task, policy: Policy | None, steps: int = 0, seed: int = 0) -> Metrics:
        """Measure a policy, or the float network (None), on any images, feasible or not; charges a training that diverges alone.

        Args:
            task: Images, labels and samples.
            policy: Of the space.
            steps: Of finetuning.
            seed: Of the finetuning.
        """
        protocol, started = protocol_for(self.protocol, steps), self.clock.now()
        with self.bench.fixed_threads():
            try:
                if policy is None:
                    prepared, bops = Prepared(self.bench.executed_by_engine(None)), float_bops(self.space)
                else:
                    prepared = protocol.deploy(self.bench, policy, Request(protocol, steps, seed))
                    bops = self.bops(policy)
                metrics, _ = measure(
                    prepared,
                    self.certifier.measure,
                    task,
                    self.setup,
                    bops=bops,
                    method=self.certify,
                    clock=self.clock,
                    started=started,
                )
            except Exception:
                if policy is not None:  # a training that diverges is not free
                    self.meter.charge(protocol.forward_passes(self.bench, steps))
                raise
        return metrics


VisionT = TypeVar("VisionT", bound=VisionProblem)


def made_like(problem: VisionProblem, kind: type[VisionT], **changes: Any) -> VisionT:
    """The same problem of another class, or with other arguments."""
    return kind(**{**problem._given, **changes})


def measure_constant_on(problem: VisionProblem, task: Task) -> Metrics:
    """The best classifier with one answer for all images; where certificates count samples, by ``"fixed"``, which needs no base."""
    counts = problem.certifier.samples and not problem.certifier.estimates
    certifier = CERTIFIERS.make("fixed") if counts else problem.certifier
    return measure_constant(certifier.measure, task, problem.setup, method=problem.certify, clock=problem.clock)


def warn_if_unreachable(problem: Problem, n: int, alpha: float) -> None:
    """Warn if ``n`` agreeing samples cannot certify the objective's largest radius, or any at all."""
    most = largest_radius(n, alpha, problem.sigma)
    wanted = max(problem.objective.radii, default=0.0)
    if (problem.objective.certified and most <= 0) or most < wanted:
        warnings.warn(
            f"{n} noise samples at alpha = {alpha:g} and sigma = {problem.sigma:g} certify no radius above {most:.3g}, "
            f"and the objective is {problem.objective.text}; raise the number of samples",
            CertificationWarning,
            stacklevel=3,
        )


def _space(definition: Definition) -> SearchSpace:
    layers = network_layers(definition.network, definition.classes, definition.shape)
    return SearchSpace(
        layers,
        choices=definition.choices,
        pins=definition.pins,
        ties=shortcut_ties(layers) if definition.tie_shortcuts else (),
        tie_weight_activation=definition.tie_weight_activation,
        per_mac=definition.per_mac,
    )
