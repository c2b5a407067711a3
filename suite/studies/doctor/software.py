"""Checks of software: each part is made to do something small whose result is known."""

from __future__ import annotations

import platform
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from suite.errors import BitcertError
from suite.run.machine import assigned_cores, core_limit
from suite.studies.doctor.checks import Check, MissingError

if TYPE_CHECKING:
    import torch
    from packaging.requirements import Requirement

_DRIVER = Path("/proc/driver/nvidia/version")
_GIB = 2**30
_AGAIN = "install bitcert again in a new environment"


def software_checks(*, ray: bool) -> list[Check]:
    """Checks of Python and packages; with ``ray``, a cluster is started on this machine."""
    onnx, exact = "pip install 'bitcert[onnx]'", "pip install 'bitcert[exact]'"
    start = "see the message; leave Ray out with --executor inline"
    return [
        Check("Python", check_python, "use a Python that bitcert supports", required=True),
        Check("packages", check_packages, _AGAIN, required=True),
        Check("PyTorch", check_torch, "pip install torch torchvision", required=True),
        Check("GPU", check_gpu, "leave --device out to compute on the CPU, or install PyTorch for your driver"),
        Check("Optuna", check_optuna, _AGAIN, required=True),
        Check("Ray", partial(check_ray, start=ray), start, required=True),
        Check("packages for ONNX", partial(check_packages, "onnx"), onnx),
        Check("ONNX Runtime", check_onnx, onnx),
        Check("packages for exact solving", partial(check_packages, "exact"), exact),
        Check("OR-Tools", check_ortools, exact),
    ]


def check_python() -> str:
    """The version of Python, which must be one that bitcert is for."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata("bitcert")["Requires-Python"]
    if not SpecifierSet(wanted).contains(platform.python_version()):
        raise BitcertError(f"{platform.python_version()}; bitcert needs {wanted}")
    return f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()} {platform.machine()})"


def check_packages(extra: str = "") -> str:
    """Versions of the packages that bitcert requires itself, or for an extra, against the bounds it was installed with."""
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in metadata.requires("bitcert") or ()]
    needed = [found for found in parsed if _applies(found, extra)]
    missing, unfit = [], []
    for wanted in needed:
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            missing.append(f"{wanted.name}{wanted.specifier}")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            unfit.append(f"{wanted.name} {version} is not {wanted.specifier}")
    if unfit:
        raise BitcertError("; ".join(unfit + [f"{name} is missing" for name in missing]))
    if missing:
        raise MissingError(f"not installed: {', '.join(missing)}")
    return f"{len(needed)} installed, none older than bitcert needs"


def _applies(wanted: Requirement, extra: str) -> bool:
    """Whether a requirement is one of an extra, or of none if that is empty."""
    holds = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
    always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
    return holds and (not extra or not always)


def check_torch() -> str:
    """Convolve on the CPU."""
    import torch

    from suite.studies.train import computes_bfloat16

    _convolve(torch.device("cpu"))
    threads, cores = torch.get_num_threads(), min(assigned_cores(), core_limit())
    most = "" if threads <= max(1, cores) else f", more than the {cores:g} cores here: set OMP_NUM_THREADS"
    fast = "fast" if computes_bfloat16() else "slow"
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{torch.__version__}, CPU instructions {kind}, bfloat16 {fast}, {threads} threads{most}"


def check_gpu() -> str:
    """Convolve on every GPU."""
    import torch

    if torch.backends.mps.is_available():
        _convolve(torch.device("mps"))
        return "Apple GPU (mps)"
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        if _DRIVER.exists():
            raise BitcertError(f"there is an NVIDIA driver, which PyTorch, built for {built}, cannot use")
        raise MissingError(f"PyTorch, built for {built}, finds no GPU")
    found = []
    for index in range(torch.cuda.device_count()):
        _convolve(torch.device("cuda", index))
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(f"cuda:{index} {name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free")
    return "; ".join(found)


def _convolve(device: torch.device) -> None:
    import torch

    image, kernel = (torch.ones(1, 1, side, side, device=device) for side in (5, 3))
    found = torch.nn.functional.conv2d(image, kernel).cpu()
    if not torch.equal(found, torch.full((1, 1, 3, 3), 9.0)):
        raise BitcertError(f"a convolution of ones on {device} gives {found.flatten().tolist()} instead of nines")


def check_optuna() -> str:
    """Ask a sampler for a number, and tell it the value."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        trial = study.ask()
        study.tell(trial, trial.suggest_int("bits", 2, 8))
    finally:
        optuna.logging.set_verbosity(verbosity)
    if not 2 <= study.best_value <= 8:
        raise BitcertError(f"asked for 2 to 8 bits, its sampler suggests {study.best_value}")
    return str(optuna.__version__)


def check_ray(*, start: bool) -> str:
    """Import Ray; with ``start``, run a task on a cluster that is started for it."""
    from suite.execute.ray_settings import apply_settings

    apply_settings()
    import ray

    if not start:
        return f"{ray.__version__}; not started, --ray does"
    from suite.execute.executor import Resources
    from suite.execute.ray import connect

    running = ray.is_initialized()
    connect(Resources(workers=1))
    try:
        answer = ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=900)
    finally:
        if not running:
            ray.shutdown()
    if answer != 42:
        raise BitcertError(f"a task that returns 42 has returned {answer}")
    return f"{ray.__version__}; a task ran on a cluster of this machine"


def check_onnx() -> str:
    """Multiply integer matrices in ONNX Runtime, as integer networks do."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    from suite.quantize.integer.pieces import open_session

    names = {"left": TensorProto.UINT8, "right": TensorProto.INT8}
    inputs = [helper.make_tensor_value_info(name, kind, (2, 2)) for name, kind in names.items()]
    output = helper.make_tensor_value_info("product", TensorProto.INT32, (2, 2))
    node = helper.make_node("MatMulInteger", list(names), ["product"])
    graph = helper.make_graph([node], "product", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    left, right = np.array([[1, 2], [3, 255]], np.uint8), np.array([[-128, 5], [6, 127]], np.int8)
    product = open_session(model).run(None, {"left": left, "right": right})[0]
    if not np.array_equal(product, left.astype(np.int32) @ right.astype(np.int32)):
        raise BitcertError(f"ONNX Runtime {onnxruntime.__version__} gives a wrong product of integer matrices")
    return str(onnxruntime.__version__)


def check_ortools() -> str:
    """Solve a program of one variable with CP-SAT."""
    from ortools.sat.python import cp_model

    model, solver = cp_model.CpModel(), cp_model.CpSolver()
    bits = model.new_int_var(2, 8, "bits")
    model.add(2 * bits <= 11)
    model.maximize(bits)
    solver.parameters.num_workers = 1
    if solver.solve(model) != cp_model.OPTIMAL or solver.value(bits) != 5:
        raise BitcertError("CP-SAT does not solve 2 x <= 11")
    return metadata.version("ortools")
