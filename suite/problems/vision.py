"""Image classification: a network, images, and the certified accuracy of its quantized, smoothed classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from suite.certify import CertificationWarning, Certifier, Task, largest_radius
from suite.certify.bounds import check_alpha
from suite.contract.cost import float_bops, parse_budget
from suite.contract.objective import check_radii, parse_objective
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Meter, Problem, check_seed, check_sigma
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Fidelity, Metrics
from suite.errors import BitcertError
from suite.measure import measure
from suite.networks import network_layers, shortcut_ties
from suite.plugins import CERTIFIERS
from suite.problems.definition import Definition
from suite.problems.loading import Sources, load_workbench, usable_device
from suite.problems.network_probes import NetworkProbes
from suite.problems.setup import SearchSetup
from suite.protocols import Prepared, Request, protocol_for
from suite.train.finetune import FinetuneSettings
from suite.workbench import BenchProblem, Workbench


class VisionProblem(BenchProblem):
    """Find the policy whose smoothed classifier has the best certificates within a BOPs budget.

    Space, budget and BOPs are known at once; images and checkpoint are read when the network is first needed. An evaluation
    prepares the policy's network by the protocol and measures the first ``fidelity.images`` search images by the certifier,
    with ``fidelity.noise`` noise samples each (and ``select_samples(fidelity.noise)`` more where a class is chosen first); it
    classifies the images once without noise. What all searchers share is set-up and is not charged: calibration, the scores
    of set bounds, and the records of the bases of incremental certificates (the float network and the largest uniform policy
    within the budget, sampled ten times as often, kept on disk).

    Args:
        definition: What the named problem fixes; budget, sigma and checkpoint are its own by default.
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
        certify: str = "ranking",
        bases: Sequence[Policy] = (),
        alpha: float = 1e-3,
        data: str | Path | None = None,
        download: bool = False,
        checkpoint: str | Path | None = None,
        finetuning: FinetuneSettings | None = None,
        recalibrate: bool = False,
        device: str = "cpu",
        protocol: str | None = None,
    ) -> None:
        self.definition = definition
        self.name = definition.name
        self.sigma = definition.sigma if sigma is None else float(sigma)
        check_sigma(self.sigma)
        check_alpha(alpha)
        check_seed(seed)
        self.seed = seed
        self.alpha = alpha
        self.certify = certify
        self.certifier: Certifier = CERTIFIERS.make(certify)
        self.space = _space(definition)
        self.budget = parse_budget(definition.budget if budget is None else budget, self.space)
        for base in bases:
            if base not in self.space:
                raise BitcertError(f"the base does not belong to the space of {self.name}: {base.to_json()}")
        self.bases = tuple(bases)
        self.objective = parse_objective(objective)
        self.radii = check_radii(tuple(sorted({*definition.radii, *self.objective.radii})))
        self.fidelity = definition.fidelity
        if protocol is not None:
            self.fidelity = replace(self.fidelity, finetune_steps=protocol_for(protocol, 0).choose_steps(None))
        self.meter = Meter()
        self.protocol = protocol
        self.finetuning = finetuning or FinetuneSettings()
        self.recalibrate = recalibrate
        self.device = usable_device(device)
        self._sources = Sources(data, download, None if checkpoint is None else Path(checkpoint))
        self._evaluated: dict[tuple[Policy | None, Fidelity, int], Metrics] = {}

    @property
    def network(self) -> nn.Module:
        """The float network, normalization inside, in evaluation mode."""
        return self.bench.network

    @cached_property
    def bench(self) -> Workbench:
        """Network, data and calibration; read when first asked for."""
        return load_workbench(
            self.definition,
            self._sources,
            space=self.space,
            sigma=self.sigma,
            radii=self.radii,
            seed=self.seed,
            finetuning=self.finetuning,
            recalibrate=self.recalibrate,
            device=self.device,
            meter=self.meter,
        )

    @cached_property
    def setup(self) -> SearchSetup:
        """What all evaluations share."""
        return SearchSetup(
            self.bench,
            alpha=self.alpha,
            bases=list(dict.fromkeys([None, self.largest_uniform(), *self.bases])),
            calibration_images=self.definition.calibration_images,
        )

    def search_task(self, fidelity: Fidelity, seed: int = 0) -> Task:
        """What :meth:`evaluate` certifies."""
        return self.setup.task(fidelity, seed)

    def evaluate(self, policy: Policy, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure a feasible policy on search images; a repeated request is answered from memory and charged all the same."""
        self.check_feasible(policy)
        return self._charged(policy, fidelity, seed)

    def evaluate_float(self, fidelity: Fidelity, seed: int = 0) -> Metrics:
        """Measure the float network as :meth:`evaluate` measures policies, nothing finetuned; charges the meter."""
        return self._charged(None, replace(fidelity, finetune_steps=0), seed)

    def probes(self, settings: ProbeSettings) -> NetworkProbes:
        """Measurements on training images."""
        return NetworkProbes(self.bench, settings)

    def default_fidelity(self) -> Fidelity:
        """The default with no more images than the search split has: a folder may be small."""
        available = len(self.bench.dataset.splits["search"])
        return replace(self.fidelity, images=min(self.fidelity.images, available))

    @property
    def estimates(self) -> bool:
        """Whether the certifier of the search promises nothing."""
        return self.certifier.estimates

    def second_look(self, fidelity: Fidelity) -> Fidelity:
        """Up to twice the images, which buy more than noise samples."""
        return replace(fidelity, images=min(2 * fidelity.images, len(self.bench.dataset.splits["search"])))

    def check_fidelity(self, fidelity: Fidelity) -> None:
        """Raise BitcertError if there are too few images; warn if the samples cannot certify what the objective asks for.

        Scores of set bounds are designed here, so that all workers have the same.
        """
        self.search_task(fidelity)
        protocol_for(self.protocol, fidelity.finetune_steps).choose_steps(fidelity.finetune_steps)
        if self.certifier.limited_by_samples:
            warn_if_unreachable(self, fidelity.noise, self.alpha)
        if self.certifier.uses_scores:
            self.setup.scores(fidelity.images, fidelity.noise, self.alpha)

    def provenance(self) -> dict[str, Any]:
        """Settings and hashes; reads data and checkpoint."""
        definition, own = self.definition, {}
        if definition.based_on:
            own = {
                "based_on": definition.based_on,
                "image_size": definition.shape[-1],
                "unquantized": definition.unquantized,
            }
        if self.protocol is not None:
            own["protocol"] = self.protocol
        return own | {
            "problem": self.name,
            "network": self.definition.network,
            "dataset": self.definition.dataset,
            **self.budget.to_dict(),
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
            "data_sha256": self.bench.dataset.sha256,
            "network_sha256": self.bench.network_sha256,
        }

    def _charged(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> Metrics:
        key = policy, fidelity, seed
        if key not in self._evaluated:
            self._evaluated[key] = self._measure(policy, fidelity, seed)
        metrics = self._evaluated[key]
        self.meter.charge(metrics.forward_passes)
        return metrics

    def _measure(self, policy: Policy | None, fidelity: Fidelity, seed: int) -> Metrics:
        """Measure a policy, or the float network (None)."""
        task, started, steps = self.search_task(fidelity, seed), self.clock.now(), fidelity.finetune_steps
        protocol = protocol_for(self.protocol, steps)
        with self.bench.fixed_threads():
            try:
                if policy is None:
                    prepared, bops = Prepared(self.network), float_bops(self.space)
                else:
                    prepared = protocol.prepare(self.bench, policy, Request(protocol, steps, seed))
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


def warn_if_unreachable(problem: Problem, n: int, alpha: float) -> None:
    """Warn if ``n`` agreeing samples do not certify the objective's largest radius, or nothing at all."""
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
        ties=shortcut_ties(layers) if definition.tie_shortcuts else (),
        tie_weight_activation=definition.tie_weight_activation,
    )
