"""Named problems: a definition each, and the function that makes a problem of one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from suite.contract.problem import Problem
from suite.contract.trial import Fidelity
from suite.errors import BitcertError, unknown_name
from suite.problems.definition import Definition, ExamSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite.contract.space import Policy
    from suite.train.finetune import FinetuneSettings

_CIFAR10 = {"dataset": "cifar10", "shape": (3, 32, 32), "classes": 10}
_IMAGENET = {"dataset": "imagenet", "shape": (3, 224, 224), "classes": 1000}

DEFINITIONS: dict[str, Definition] = {
    definition.name: definition
    for definition in (
        Definition(
            name="digits",
            summary="handwritten digits, 8x8, embedded; ResNet-8",
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
            summary="cifar10-resnet20 with one number of bits for a layer's weights and inputs",
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

FOLDER = Definition(
    name="folder",
    summary="your network (--network MODULE:FUNCTION) and your images (train/CLASS/*, val/CLASS/*)",
    network="",
    dataset="folder",
    shape=(3, 224, 224),
    classes=0,
    batch=50,
    threads=2,
    exam=ExamSettings(images=500),
)
"""What a network of the user's is put into by default."""


class UnquantizedWarning(UserWarning):
    """Something of a network stays in floating point."""


def problem_names() -> tuple[str, ...]:
    """Names that :func:`load_problem` takes."""
    return (*DEFINITIONS, FOLDER.name, "separable")


def load_problem(
    name: str = FOLDER.name,
    *,
    network: str | None = None,
    image_size: int | None = None,
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
        network: A function of yours, ``"my_module:build"``, whose network takes the place of the problem's; its weights are
            given by ``checkpoint``. It takes images in [0, 1] and normalizes them itself. Only ``"folder"`` needs one.
        image_size: Side of the square images that are made of those in a folder, with ``network``; 224 if None.
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
    if network is None and (name == FOLDER.name or image_size is not None):
        raise BitcertError(
            "bring your network with --network MODULE:FUNCTION; --image-size and 'folder' are for such ones"
        )
    if name == "separable":
        if network is not None:
            raise BitcertError("separable is a formula: it has no images that a network could be put on")
        from suite.problems.separable import SeparableProblem

        return SeparableProblem(
            budget="w3a3" if budget is None else budget,
            sigma=0.25 if sigma is None else sigma,
            objective=objective,
            seed=seed,
        )
    definition = {**DEFINITIONS, FOLDER.name: FOLDER}.get(name)
    if definition is None:
        raise unknown_name("problem", name, problem_names())
    if network is not None:
        if checkpoint is None:
            raise BitcertError(f"the weights of {network} are missing: give them with --checkpoint FILE")
        definition = _with_network(definition, network, image_size)
    from suite.problems.vision import SmoothedProblem

    return SmoothedProblem(
        definition,
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


def _with_network(base: Definition, network: str, image_size: int | None) -> Definition:
    """A problem with a network of the user's in it; warns about what of the network is not quantized."""
    from suite.networks import build_own, check_layers, count_outputs, find_unquantized, trace_layers

    size = base.shape[-1] if image_size is None else image_size
    if size < 1 or (size != base.shape[-1] and base.dataset not in ("folder", "imagenet")):
        raise BitcertError(f"an image size is a positive number of pixels, for images in folders only; got {size}")
    shape = (base.shape[0], size, size)
    built = build_own(network)
    layers = trace_layers(built, shape)
    check_layers(built, layers)
    unquantized = str(find_unquantized(built, layers, shape))
    if unquantized:
        warnings.warn(f"{network}: {unquantized}", UnquantizedWarning, stacklevel=3)
    return replace(
        base,
        name=f"{base.dataset}-{network.replace(':', '.')}",
        network=network,
        shape=shape,
        classes=count_outputs(built, shape),
        trained_as=None,
        based_on=base.name,
        unquantized=unquantized,
    )
