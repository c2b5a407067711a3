"""The verb ``supernet``."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from suite.contract.per_mac import MAX_BITS
from suite.errors import BitcertError
from suite.studies.model import Group, keyed, setting
from suite.studies.settings import NetworkSettings
from suite.studies.study import Study

if TYPE_CHECKING:
    from suite.studies.plan import Plan
    from suite.train.supernet import SupernetSettings
    from suite.workbench import Workbench


class SupernetTraining(Group):
    """Settings of a supernet's training."""

    problem: NetworkSettings = NetworkSettings()
    variant: Literal["shared", "switchable", "private"] = setting(
        "shared",
        "shared: one set of weights and batch norms; switchable: a batch norm for every precision of a layer; private: weights for "
        "every bit width, too",
    )
    steps: int = setting(2_000, "optimizer steps, each with the most bits, random policies and the fewest bits")
    random: int = setting(1, "random policies per step", expert=True)
    batch: int = setting(64, "images per step", expert=True)
    rate: float = setting(1e-3, "Adam's initial rate", expert=True)
    distillation: float = setting(
        0.5, "weight of what policies learn from those with more bits, within [0, 1)", expert=True
    )
    inheritance: Literal["doubled", "none"] = setting(
        "doubled",
        "doubled: bit widths join one by one, each with twice the quantizer steps of the next; none: all from the beginning",
        expert=True,
    )
    growth: float = setting(0.3, "share of the steps until all bit widths have joined", expert=True)
    seed: int = setting(0, "seed of order, noise and random policies")
    out: str | None = setting(None, "file to write (default: PROBLEM-sigmaS-VARIANT.safetensors here)", metavar="FILE")


class TrainSupernet(Study[SupernetTraining, "dict[str, Any]"]):
    """Train one network for all policies, from which the protocol 'supernet' takes its weights.

    Train a supernet from a problem's float network, under its noise. Policies then inherit weights and quantizer steps and cost
    an evaluation each, instead of a finetuning: --protocol supernet. Rerun it to resume it.
    """

    Settings = SupernetTraining
    positional = ("problem.name",)

    @cached_property
    def bench(self) -> Workbench:
        """Network and data."""
        from suite.problems import load_problem
        from suite.workbench import workbench_of

        given = dict(self.settings.problem)
        with keyed("problem"):  # a supernet has no budget: that of the most bits allows every policy
            problem = load_problem(given.pop("name") or "folder", budget=f"w{MAX_BITS}a{MAX_BITS}", **given)
        return workbench_of(problem, "network to train")

    @cached_property
    def training(self) -> SupernetSettings:
        """How it is trained."""
        from suite.inheritance import VARIANTS
        from suite.train.supernet import SupernetSettings

        own = self.settings
        names = ("steps", "random", "batch", "rate", "distillation", "inheritance", "growth")
        return SupernetSettings(**{name: getattr(own, name) for name in names}, **VARIANTS[own.variant])

    @cached_property
    def out(self) -> Path:
        """The supernet."""
        name = self.settings.problem.name or "folder"
        return Path(self.settings.out or f"{name}-sigma{self.bench.sigma:g}-{self.settings.variant}.safetensors")

    def run(self, *, quiet: bool = True) -> dict[str, Any]:
        """Train, or resume the training; returns the supernet's record."""
        from suite.inheritance import make_supernet
        from suite.report.progress import Progress

        training = self.training
        if self.out.suffix != ".safetensors":
            with keyed("out"):
                raise BitcertError(f"a supernet is written as .safetensors, not as {self.out.name}")
        with Progress(quiet=quiet) as progress:
            progress.add("training", training.steps)
            progress.show()

            def on_step(step: int, loss: float) -> None:
                progress.update("training", step, state=f"loss at the fewest bits {loss:.3f}")

            return make_supernet(
                self.bench, self.out, training, seed=self.settings.seed, command=self.command, progress=on_step
            )

    @property
    def command(self) -> str:
        """What reproduces it, paths left out."""
        own, fields = self.settings, type(self.settings).model_fields
        given = {name: getattr(own, name) for name in fields if name not in ("problem", "out")}
        options = [f"--{name} {value}" for name, value in given.items() if value != fields[name].default]
        problem = own.problem
        if problem.choices is not None:
            options.insert(0, f"--choices {','.join(map(str, problem.choices))}")
        if problem.replicate is not None:
            options.insert(0, f"--replicate {problem.replicate}")
        return " ".join(["bitcert supernet", problem.name or "folder", f"--sigma {self.bench.sigma:g}", *options])

    def to_json(self, result: dict[str, Any]) -> str:
        """The supernet and its record."""
        return json.dumps({"supernet": str(self.out), **result})

    def show(self, result: dict[str, Any]) -> None:
        """Say where the supernet is."""
        print(f"trained {self.out}; use it with --protocol supernet:file={self.out}")

    def plan(self) -> Plan:
        """Three passes for every image and policy of a step."""
        from suite.studies.plan import Plan
        from suite.train.supernet import training_passes

        passes = training_passes(self.bench.space.choices, self.training)
        return Plan(passes={"training": passes}, notes=("no hours are estimated for a training",))
