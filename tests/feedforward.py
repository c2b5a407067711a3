"""A workbench whose network has no batch norm: `mlp-digits`, trained for a moment with interval bounds."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from suite.data import load_dataset
from suite.problems.definition import Definition
from suite.problems.vision import VisionProblem
from suite.train.base import TrainSettings
from suite.train.recipe import Recipe, make_checkpoint
from suite.workbench import Workbench

SETTINGS = TrainSettings(epochs=40, batch=64, rate=0.05, interval_radius=0.0625)
_DEFINITION = Definition("mlp", "for tests", "mlp-digits", "digits", (1, 8, 8), 10, sigma=0.05)


@cache
def checkpoint() -> Path:
    """The network's weights, trained once in a process."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "mlp.safetensors"
    make_checkpoint(load_dataset("digits"), Recipe("mlp-digits", SETTINGS), path, sigma=0.05, seed=0)
    return path


def mlp_bench(**options: Any) -> Workbench:
    """A new workbench."""
    return VisionProblem(_DEFINITION, checkpoint=checkpoint(), **options).bench
