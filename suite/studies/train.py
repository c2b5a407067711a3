"""The verb ``train``."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from suite.errors import BitcertError, unknown_name
from suite.studies.model import Group, keyed, setting
from suite.studies.settings import DataSettings
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.problems.definition import Definition
    from suite.studies.plan import Plan
    from suite.train.recipe import Recipe

_OF_RECIPE = ("epochs", "weight_decay", "consistency", "interval_radius", "interval_weight", "precision", "threads")


class PrecisionWarning(UserWarning):
    """A precision that is slow on this processor."""


def computes_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    from suite.run.provenance import processor

    found = processor()
    return "bf16" in found.get("flags", found.get("Features", ""))


class TrainedProblem(DataSettings):
    """Whose network is trained, and under which noise."""

    name: str = setting(..., "problem whose network is trained, see 'bitcert list'", metavar="PROBLEM")
    sigma: float | None = setting(None, "standard deviation of the noise (default: the problem's)")
    device: str = setting("cpu", "where it is trained, such as cuda")


class TrainSettings(Group):
    """Settings of a training."""

    problem: TrainedProblem = setting(..., "whose network is trained")
    seed: int = setting(0, "seed of weights, order, noise and augmentation")
    epochs: int | None = setting(None, "passes over the training images (default: the dataset's)")
    weight_decay: float | None = setting(None, "L2 penalty on all parameters (default: the dataset's)", ge=0)
    consistency: float | None = setting(
        None,
        "weight of consistency regularization, which trains on two noise samples of each image, at twice the cost; its authors "
        "take 20 at sigma 0.25 and 10 above (default: 0, none)",
    )
    interval_radius: float | None = setting(
        None,
        "L-infinity radius, in units of the image, in which interval bounds are to prove labels: training for certificates without "
        "noise, at three times the cost, of networks without batch norm (default: the network's, else 0, none)",
    )
    interval_weight: float | None = setting(
        None, "weight of the margins that interval bounds prove, beside cross-entropy (default: 0.5)"
    )
    precision: Literal["float32", "bfloat16"] | None = setting(
        None,
        "of convolutions while training: float32, or bfloat16, faster on processors that have it; the trained network is float32 "
        "in any case (default: the dataset's)",
    )
    threads: int | None = setting(None, "CPU threads; they change floating-point sums (default: the dataset's)", ge=1)
    out: str | None = setting(None, "checkpoint to write (default: PROBLEM-sigmaS.safetensors here)", metavar="FILE")


class Train(Study[TrainSettings, "dict[str, Any]"]):
    """Train a problem's float network.

    Train the float network of a problem under Gaussian noise. Rerun it to resume it.
    """

    Settings = TrainSettings
    positional = ("problem.name",)

    @cached_property
    def definition(self) -> Definition:
        """Of the problem."""
        from suite.problems import definitions

        name, known = self.settings.problem.name, definitions()
        with keyed("problem", "name"):
            if name not in known:
                raise unknown_name("problem", name, known)
            if not known[name].network:
                raise BitcertError(
                    "networks of your own are trained elsewhere; bitcert trains those of its named problems"
                )
        return known[name]

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        sigma = self.settings.problem.sigma
        return self.definition.sigma if sigma is None else sigma

    @cached_property
    def out(self) -> Path:
        """The checkpoint."""
        return Path(self.settings.out or f"{self.definition.name}-sigma{self.sigma:g}.safetensors")

    @property
    def _changed(self) -> dict[str, Any]:
        """Settings of the recipe that were given."""
        given = {name: getattr(self.settings, name) for name in _OF_RECIPE}
        return {name: value for name, value in given.items() if value is not None}

    @cached_property
    def recipe(self) -> Recipe:
        """Network and training."""
        from suite.train.recipe import recipe_for

        recipe = recipe_for(self.definition.dataset, self.definition.network)
        return replace(recipe, settings=replace(recipe.settings, **self._changed))

    def run(self, *, quiet: bool = True) -> dict[str, Any]:
        """Train, or resume the training; returns the checkpoint's record."""
        from suite.data import load_dataset
        from suite.problems.loading import usable_device
        from suite.report.progress import Progress
        from suite.train.recipe import make_checkpoint

        settings, definition, sigma, recipe = self.settings, self.definition, self.sigma, self.recipe
        if sigma < 0 or (sigma == 0 and not recipe.settings.interval_radius):
            raise BitcertError(
                f"sigma must be positive, got {sigma}; it is the standard deviation of the smoothing noise"
            )
        command = f"bitcert train {definition.name} --sigma {sigma:g} --seed {settings.seed}"
        command += "".join(f" --{name.replace('_', '-')} {value}" for name, value in self._changed.items())
        with keyed("problem", "device"):
            device = usable_device(settings.problem.device)
        if recipe.settings.precision == "bfloat16" and device.type == "cpu" and not computes_bfloat16():
            warnings.warn(
                "this processor has no instructions for bfloat16, so it is slower than float32 here; leave --precision out",
                PrecisionWarning,
                stacklevel=2,
            )
        dataset = load_dataset(definition.dataset, settings.problem.data, download=settings.problem.download)
        with Progress(quiet=quiet) as progress:
            progress.add("training", recipe.settings.epochs)
            progress.show()

            def on_epoch(epoch: int, _: int, loss: float, accuracy: float) -> None:
                progress.update("training", epoch, state=f"loss {loss:.3f}  accuracy under noise {accuracy:.3f}")

            return make_checkpoint(
                dataset,
                recipe,
                self.out,
                sigma=sigma,
                seed=settings.seed,
                device=device,
                command=command,
                progress=on_epoch,
            )

    def to_json(self, result: dict[str, Any]) -> str:
        """The checkpoint and its record."""
        return json.dumps({"checkpoint": str(self.out), **result})

    def show(self, result: dict[str, Any]) -> None:
        """Say where the checkpoint is."""
        print(f"trained {self.out}; use it with --checkpoint {self.out}")

    def plan(self) -> Plan:
        """Passes of every training image and epoch: three for a noise sample, those of interval bounds; reads the data."""
        from suite.data import load_dataset
        from suite.studies.plan import Plan
        from suite.train.finetune import PASSES_PER_IMAGE
        from suite.train.interval_loss import PENALTY_PASSES

        data = self.settings.problem
        dataset = load_dataset(self.definition.dataset, data.data, download=data.download)
        training = self.recipe.settings
        each = PASSES_PER_IMAGE * training.samples + (PENALTY_PASSES if training.interval else 0)
        passes = each * training.epochs * len(dataset.splits["train"])
        return Plan(passes={"training": passes}, notes=("no hours are estimated for a training",))
