"""Problems by name: a definition of a network and images, or a class of problems of its own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.contract.problem import Problem
from suite.errors import BitcertError, unknown_name
from suite.options import read_values
from suite.plugins import PROBLEMS

if TYPE_CHECKING:
    from suite.contract.space import Policy
    from suite.problems.definition import Definition
    from suite.train.finetune import FinetuneSettings

_OWN = "folder"  # the problem that takes a user's network by default


class UnquantizedWarning(UserWarning):
    """Part of a network stays in floating point."""


def problem_names() -> tuple[str, ...]:
    """Names that :func:`load_problem` takes."""
    return PROBLEMS.names()


def definitions() -> dict[str, Definition]:
    """The registered problems that are definitions, by name."""
    from suite.problems.definition import Definition

    found = {name: PROBLEMS.load(name) for name in problem_names()}
    return {name: thing for name, thing in found.items() if isinstance(thing, Definition)}


def load_problem(
    name: str = _OWN,
    *,
    network: str | None = None,
    image_size: int | None = None,
    choices: Sequence[int] | None = None,
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
) -> Problem:
    """Make a problem by name; images and checkpoint are read at the first evaluation.

    Args:
        name: See :func:`problem_names`; also ``"my_module:Thing"``, a definition, or a class or function that returns a
            problem. Its options may follow, as in ``"separable:layers=20"``.
        network: Your function ``"my_module:build"``, whose network replaces the problem's, with weights from
            ``checkpoint``. It takes images in [0, 1] and normalizes them itself. Only ``"folder"`` needs one.
        image_size: Side to which a folder's images are cropped, with ``network``; 224 if None.
        choices: Bit widths to choose from, each within 1 to 8; the problem's if None.
        budget: Limit on BOPs: ``"w3a3"``, ``"1/64"`` of FP32, or an integer; on model size: ``"40KB"``; on another cost:
            ``"NAME<=N"``; several at once, on different costs: ``"w4a4+40KB"``; the problem's default if None.
        sigma: Standard deviation of the smoothing noise, in the units of images in [0, 1]; the problem's default if None.
        seed: Root seed of calibration, search and exam noise.
        objective: ``"acr"``, ``"clean"`` or ``"certified@0.25,0.5"``; with ``"+bops"``, ``"+bytes"`` or both, fewer of them are
            further objectives.
        certify: The certifier of the search: ``"ranking"`` estimates, for ordering policies, or certificates by
            ``"fixed"``, ``"irs"``, ``"incremental"``, ``"sequential"`` or ``"aggregate"``; without noise (in the
            L-infinity norm, with the engine ``"fixed-point"``) ``"interval"`` or ``"verify"``; the problem's if None.
        bases: Additional policies, feasible or not, whose recorded predictions incremental certificates may reuse.
        alpha: Failure probability of each certificate of the search.
        data: Folder with the images; the environment variable BITCERT_DATA if None.
        download: Whether missing images may be downloaded, for MNIST and CIFAR-10.
        checkpoint: Pretrained checkpoint (.safetensors, or a PyTorch state dict); the included one if None.
        finetuning: How networks are finetuned.
        device: Where evaluations run, such as ``"cuda"``.
        protocol: How policies become networks: ``"ptq"`` (batch norm recalibrated; ``"ptq:recalibrate=false"`` for the float
            network's statistics), ``"finetune"`` or ``"supernet"``; by default ``"finetune"`` if the fidelity has finetuning
            steps, else ``"ptq"``.
        replicate: Number of a replicate: base network (of several included ones), calibration images and search images are
            those of this number; see :meth:`suite.contract.problem.Problem.replicate`. None for the plain problem.
        engine: What executes networks, and what certificates are about: ``"torch"``, ``"integer"`` (integers only, the
            same to the last bit everywhere), ``"onnx"`` (that, in ONNX Runtime, and the float network) or ``"fixed-point"`` (sums,
            shifts and clamps, for certificates without noise); the problem's if None.

    Raises:
        BitcertError: If the name is unknown, an argument is out of range, or the problem does not take it.
    """
    given = {**locals(), "bases": tuple(bases), "choices": None if choices is None else tuple(choices)}
    del given["name"]
    chosen, options = PROBLEMS.parse(name)
    found = PROBLEMS.load(chosen)
    if network is None and (chosen == _OWN or image_size is not None):
        raise BitcertError(
            "bring your network with --network MODULE:FUNCTION; --image-size and 'folder' are for such networks"
        )
    if callable(found):
        if finetuning is not None and finetuning == type(finetuning)():
            given["finetuning"] = None
        return _make(chosen, found, {key: value for key, value in given.items() if value != _DEFAULTS[key]}, options)
    from suite.problems.definition import Definition
    from suite.problems.vision import VisionProblem

    if not isinstance(found, Definition) or options:
        what = f"takes no options, got {', '.join(options)}" if options else "is neither a definition nor a class"
        raise BitcertError(f"the problem {chosen!r} {what}")
    if network is not None:
        if checkpoint is None:
            raise BitcertError(f"the weights of {network} are missing: give them with --checkpoint FILE")
        found = _with_network(found, network, image_size)
    del given["network"], given["image_size"], given["choices"]
    if choices is not None:
        found = replace(found, choices=tuple(choices))
    return VisionProblem(found, **given)


def takes(name: str, setting: str) -> bool:
    """Whether :func:`load_problem` may be given a setting for the problem of this name."""
    found = PROBLEMS.load(PROBLEMS.parse(name)[0])
    return setting in (_parameters(found) if callable(found) else _DEFAULTS)


_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(load_problem).parameters.items()}


def _parameters(make: Any) -> list[str]:
    """What a class or function takes; a class whose ``__init__`` passes settings on takes those of the next one, too."""
    makers = [vars(kind).get("__init__") for kind in make.__mro__] if isinstance(make, type) else [make]
    known: list[str] = []
    for maker in filter(None, makers):
        found = inspect.signature(maker).parameters.values()
        known += [
            each.name for each in found if each.kind is not each.VAR_KEYWORD and each.name not in ("self", *known)
        ]
        if all(each.kind is not each.VAR_KEYWORD for each in found):
            break
    return known


def _make(name: str, make: Any, given: dict[str, Any], options: dict[str, Any]) -> Problem:
    """Call a class or function with the given settings, all of which it must take."""
    known = _parameters(make)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    options = read_values(f"problem {name}", make, options)
    refused = [setting for setting in given if setting not in known]
    if refused:
        raise BitcertError(f"{name} does not take {', '.join(refused)}; it takes {', '.join(known)}")
    problem = make(**{**given, **options})
    if not isinstance(problem, Problem):
        raise BitcertError(f"{name} is not a problem: it makes something of type {type(problem).__name__}")
    return problem


def _with_network(base: Definition, network: str, image_size: int | None) -> Definition:
    """Put a user's network into a definition; warns about its unquantized parts."""
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
