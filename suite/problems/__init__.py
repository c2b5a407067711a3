"""Named problems: a definition each, and the function that makes a problem of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import unknown_name
from suite.problem import Fidelity, Problem
from suite.problems.definition import Definition, ExamSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite.space import Policy
    from suite.train.finetune import FinetuneSettings

_CIFAR10 = {"dataset": "cifar10", "shape": (3, 32, 32), "classes": 10}
_IMAGENET = {"dataset": "imagenet", "shape": (3, 224, 224), "classes": 1000}

DEFINITIONS: dict[str, Definition] = {
    definition.name: definition
    for definition in (
        Definition(
            name="digits",
            summary="handwritten digits, 8x8, embedded; ResNet-8 (trained networks included)",
            network="resnet8",
            dataset="digits",
            shape=(1, 8, 8),
            classes=10,
            fidelity=Fidelity(images=120, noise=64),
        ),
        Definition(
            name="mnist",
            summary="MNIST, 28x28; ResNet-8",
            network="resnet8",
            dataset="mnist",
            shape=(1, 28, 28),
            classes=10,
        ),
        *(
            Definition(
                name=f"cifar10-resnet{depth}",
                summary=f"CIFAR-10, 32x32; ResNet-{depth}",
                network=f"resnet{depth}",
                sigma=0.5,
                **_CIFAR10,  # type: ignore[arg-type]
            )
            for depth in (20, 32, 56)
        ),
        Definition(
            name="cifar10-resnet20-tied",
            summary="the same with one number of bits for a layer's weights and inputs",
            network="resnet20",
            trained_as="cifar10-resnet20",
            sigma=0.5,
            tie_weight_activation=True,
            **_CIFAR10,  # type: ignore[arg-type]
        ),
        *(
            Definition(
                name=f"imagenet-{network.replace('_', '')}",
                summary=f"ImageNet-style folders, 224x224; torchvision's {network}",
                network=network,
                sigma=0.5,
                batch=50,
                threads=2,
                exam=ExamSettings(images=500),
                **_IMAGENET,  # type: ignore[arg-type]
            )
            for network in ("resnet18", "resnet50", "mobilenet_v2")
        ),
    )
}


def problem_names() -> tuple[str, ...]:
    """Names that :func:`load_problem` takes."""
    return (*DEFINITIONS, "separable")


def load_problem(
    name: str,
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
) -> Problem:
    """Make a problem by name; images and checkpoint are read at the first evaluation.

    Args:
        name: See :func:`problem_names`.
        budget: Limit on BOPs: ``"w3a3"``, ``"1/64"`` of FP32, or an integer; the problem's default if None.
        sigma: Standard deviation of the smoothing noise, in the units of images in [0, 1]; the problem's default if None.
        seed: Root seed of calibration, search and exam noise.
        objective: ``"acr"``, ``"clean"`` or ``"certified@0.25,0.5"``; with ``"+bops"``, fewer BOPs are a second objective.
        certify: How the search measures: ``"ranking"`` estimates, for ordering policies, or certificates that are
            ``"fixed"``, ``"irs"``, ``"incremental"``, ``"sequential"`` or ``"aggregate"``.
        bases: Further policies whose recorded predictions incremental certificates may build on, feasible or not.
        alpha: Failure probability of each certificate of the search.
        data: Folder with the images; the environment variable BITCERT_DATA if None.
        download: Whether missing images may be downloaded, for MNIST and CIFAR-10.
        checkpoint: Trained network (.safetensors, or a PyTorch state dict); the shipped one if None.
        finetuning: How the fidelity's finetuning steps are done.
        recalibrate: Whether batch-norm statistics are measured anew for every policy.
        device: Where evaluations run, such as ``"cuda"``.

    Raises:
        BitcertError: If the name is unknown or an argument out of range.
    """
    if name == "separable":
        from suite.problems.separable import SeparableProblem

        return SeparableProblem(
            budget="w3a3" if budget is None else budget,
            sigma=0.25 if sigma is None else sigma,
            objective=objective,
            seed=seed,
        )
    if name not in DEFINITIONS:
        raise unknown_name("problem", name, problem_names())
    from suite.problems.smoothed import SmoothedProblem

    return SmoothedProblem(
        DEFINITIONS[name],
        budget=budget,
        sigma=sigma,
        seed=seed,
        objective=objective,
        certify=certify,
        bases=bases,
        alpha=alpha,
        data=data,
        download=download,
        checkpoint=checkpoint,
        finetuning=finetuning,
        recalibrate=recalibrate,
        device=device,
    )
