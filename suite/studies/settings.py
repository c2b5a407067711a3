"""Settings that several verbs share: validated here, wherever they were given, and turned into what the functions take."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from suite import plugins
from suite.contract.problem import Problem
from suite.contract.space import Policy, SearchSpace
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.execute.executor import Resources
from suite.run.limits import Limits
from suite.run.rungs import Rungs
from suite.studies.model import (
    Certifier,
    Choices,
    ExecutorName,
    Group,
    PolicyText,
    PostStepName,
    ProblemName,
    ProtocolName,
    keyed,
    setting,
)
from suite.studies.model import validate as validate

if TYPE_CHECKING:
    from suite.certify.exam import ExamSettings
    from suite.protocols import PostStep

_CHOSEN_BY_STEPS = ("ptq", "finetune")
"""Protocols that the finetuning steps of a fidelity choose on their own: they do not change what the problem is."""


class DataSettings(Group):
    """Where images come from."""

    data: str | None = setting(None, "folder with the images (default: the variable BITCERT_DATA)", metavar="DIR")
    download: bool = setting(False, "download missing images, for MNIST and CIFAR-10")


class NetworkSettings(DataSettings):
    """Whose network it is, and under which noise; arguments of :func:`suite.problems.load_problem`."""

    name: ProblemName | None = setting(None, "see 'bitcert list'", flag="--problem", metavar="PROBLEM")
    network: str | None = setting(
        None,
        "your function that returns a network, in place of the problem's or alone, on --data; needs --checkpoint",
        metavar="MODULE:FUNCTION",
    )
    image_size: int | None = setting(
        None, "with --network, side to which a folder's images are scaled (default: 224)", metavar="N", expert=True
    )
    choices: Choices | None = setting(
        None, "bit widths to choose from, such as 1,2,4,8 (default: the problem's, usually 2 to 8)", metavar="A,B,..."
    )
    sigma: float | None = setting(None, "standard deviation of the noise, images in [0, 1] (default: the problem's)")
    seed: int = setting(0, "seed of calibration, search and exam noise", flag="--problem-seed", expert=True)
    checkpoint: str | None = setting(
        None, "pretrained network, .safetensors or a PyTorch state dict (default: the included one)", metavar="FILE"
    )
    replicate: int | None = setting(
        None,
        "take the base network, calibration images and search images that belong to this seed of a comparison",
        expert=True,
        ge=0,
    )
    device: str = setting("cpu", "where evaluations run")


class ProblemSettings(NetworkSettings):
    """What is searched, or whose network is examined; most are arguments of :func:`suite.problems.load_problem`."""

    budget: str | int | None = setting(
        None,
        "limit on BOPs: w3a3 or w2.5a2.5, a share of FP32's such as 1/64, or a number; on model size: 40KB; on another cost: "
        "NAME<=N; several at once: w4a4+40KB (default: the problem's)",
    )
    objective: str = setting(
        "acr", "acr, clean, or certified@0.25,0.5; with +bops, +bytes or both, fewer of them are further objectives"
    )
    certify: Certifier | None = setting(
        None,
        "how the search measures: ranking (estimates, cheapest), or certificates that are fixed, irs, incremental, sequential "
        "or aggregate; interval or verify (L-infinity, without noise, for the engine fixed-point); or MODULE:CLASS; held-out "
        "certification always certifies, see --exam-certify (default: the problem's, usually ranking)",
    )
    bases: tuple[PolicyText, ...] = setting(
        (),
        "with --certify incremental: one more policy, or a file with it, whose predictions are recorded; may be repeated",
        flag="--base",
        metavar="JSON",
        expert=True,
        repeat=True,
    )
    alpha: float = setting(1e-3, "failure probability of each certificate of the search", expert=True)
    quantizer: Literal["lsq", "fixed", "pact", "dorefa", "fatnn"] = setting(
        "lsq", "quantizer of finetuning: lsq, fixed, pact, dorefa or fatnn", expert=True
    )
    protocol: ProtocolName | None = setting(
        None,
        "how a policy becomes the network that is measured; ptq: quantized, batch norm recalibrated (ptq:recalibrate=false keeps "
        "the float network's); finetune: finetuned in every evaluation; supernet: inherited from one network trained for all "
        "policies; or MODULE:CLASS (default: the problem's, ptq)",
    )
    engine: Literal["torch", "integer", "onnx", "fixed-point"] | None = setting(
        None,
        "what executes networks: torch; integer: with integers only, the same to the last bit everywhere; onnx: that in ONNX "
        "Runtime, the float network too, the fastest on a CPU; fixed-point: sums, shifts and clamps, for layers and ReLUs one "
        "after the other (default: the problem's, usually torch)",
    )

    @keyed("problem")
    def load(self) -> Problem:
        """Make the problem; its images and checkpoint are read later.

        Raises:
            SettingError: If it cannot be made, or the budget is above the most expensive policy.
        """
        from suite.problems import load_problem
        from suite.train.finetune import FinetuneSettings

        if self.name is None and self.network is None:
            raise BitcertError(
                "name a problem, or bring your network with --network MODULE:FUNCTION; see 'bitcert list'"
            )
        given = dict(self) | {"bases": [read_policy(base) for base in self.bases]}
        name, finetuning = given.pop("name"), FinetuneSettings(quantizer=given.pop("quantizer"))
        kind = plugins.PROBLEMS.load(plugins.PROBLEMS.parse(name or "folder")[0])
        if given.get("protocol") in _CHOSEN_BY_STEPS and not getattr(kind, "holds_protocols", False):
            del given["protocol"]
        problem = load_problem(name or "folder", finetuning=finetuning, **given)
        space, bits = problem.space, problem.space.choices[-1]
        for limit in problem.budget.limits:
            cost, most = limit.cost, limit.cost.total(space, space.uniform(bits))
            if limit.most > most:
                raise BitcertError(
                    f"budget {limit.text} ({cost.units(limit.most):,} {cost.unit}) is above the most expensive policy "
                    f"({cost.units(most):,} {cost.unit} at {bits}/{bits} bits) and limits nothing; give w{bits}a{bits} to search "
                    "without a limit"
                )
        return problem


class SampleSettings(Group):
    """How much one measurement spends on images and noise."""

    images: int | None = setting(None, "search images of an evaluation (default: the problem's)")
    noise: int | None = setting(None, "noise samples per image (default: the problem's)")

    @keyed("spend")
    def fidelity(
        self, problem: Problem, protocol: str | None = None, finetune_steps: int | None = None, *, read: bool = True
    ) -> Fidelity:
        """The fidelity of an evaluation; reads the data, which may be few, if no number of images was given and it may."""
        if protocol is not None:
            finetune_steps = plugins.PROTOCOLS.make(protocol).choose_steps(finetune_steps)
        asked = {"images": self.images, "noise": self.noise, "finetune_steps": finetune_steps}
        default = problem.default_fidelity() if self.images is None and read else problem.fidelity
        return replace(default, **{name: value for name, value in asked.items() if value is not None})


class FidelitySettings(SampleSettings):
    """How much one evaluation spends."""

    finetune_steps: int | None = setting(None, "steps in every evaluation (default: 100 with --protocol finetune)")

    def fidelity_of(self, problem: Problem, settings: ProblemSettings, *, read: bool = True) -> Fidelity:
        """The fidelity of an evaluation under the problem's protocol."""
        return self.fidelity(problem, settings.protocol, self.finetune_steps, read=read)


class SpendSettings(FidelitySettings):
    """When a search ends and what it may spend."""

    evaluations: int | None = setting(
        None,
        "most evaluations of a search; second measurements count, repeats do not (default: 64, or no limit with another one)",
    )
    forward_passes: int | None = setting(
        None, "most of a search, second measurements included, give or take one evaluation"
    )
    seconds: float | None = setting(None, "start no further trial after this time, over all sessions", expert=True)
    retries: int = setting(2, "how often a failed evaluation is retried before it counts as failed", expert=True, ge=0)
    rungs: str | None = setting(
        None,
        "cheaper fidelities, images x noise samples, that a policy must survive first, as in 30x16,60x32; finetuning steps "
        "other than the search's follow a plus, as in 30x16+0 (asynchronous successive halving; default: none)",
        metavar="AxB,...",
        expert=True,
    )
    reduction: float = setting(3.0, "with --rungs, about one policy in this many goes on", expert=True)
    finalists: int | None = setting(
        None,
        "best policies that are measured again at the end, within the limits, with other noise and up to twice the images "
        "(default: 4 with --certify ranking, else none)",
        expert=True,
        ge=0,
    )

    @property
    @keyed("spend")
    def limits(self) -> Limits:
        """When a search ends."""
        unlimited = self.evaluations is None and self.forward_passes is None and self.seconds is None
        return Limits(64 if unlimited else self.evaluations, self.forward_passes, self.seconds)

    @keyed("spend")
    def ladder(self, top: Fidelity) -> Rungs:
        """The rungs below a fidelity, which they must ascend to."""
        rungs = Rungs() if self.rungs is None else Rungs.parse(self.rungs, self.reduction, top.finetune_steps)
        rungs.up_to(top)
        return rungs


class CertificateSettings(Group):
    """How networks are certified on held-out images."""

    images: int | None = setting(None, "exam images (default: as the problem says, usually all)", flag="--exam-images")
    n0: int = setting(100, "noise samples that choose a class", flag="--exam-n0")
    n: int = setting(10_000, "noise samples that enter a bound", flag="--exam-n")
    certify: Certifier | None = setting(
        None,
        "fixed; sequential: certifies at the problem's radii only, with far fewer samples, --exam-n is then the most an image may "
        "take; aggregate: as fixed, plus bounds on the whole set, tight even with --exam-n 100; or, without noise and for the "
        "engine fixed-point, interval or verify (default: the problem's, usually fixed)",
        flag="--exam-certify",
    )
    alpha: float = setting(1e-3, "failure probability of each certificate", flag="--exam-alpha", expert=True)
    arithmetic: Literal["float", "exact"] | None = setting(
        None,
        "float, or exact: integer noise and proven bounds, so that no rounding comes between the theorem and the program; for the "
        "engines integer and onnx (default: float)",
        flag="--exam-arithmetic",
    )

    def method_for(self, problem: Problem) -> str:
        """The certifier: the one given, else the problem's."""
        return problem.exam_method if self.certify is None else self.certify

    @keyed("exam")
    def build(self, problem: Problem, split: str = "exam") -> ExamSettings:
        """The exam; reads the data if no number of images was given."""
        from suite.certify.exam import ExamSettings
        from suite.run.exam import default_exam

        arithmetic = self.arithmetic or "float"
        method = self.method_for(problem)
        exam = ExamSettings(self.images, self.n0, self.n, self.alpha, method, split, arithmetic)
        return exam if self.images is not None else replace(exam, images=default_exam(problem, split).images)


class PostStepSettings(Group):
    """Finetuning before held-out certification."""

    post_step: PostStepName = setting(
        "none",
        "finetuning before the exam: none, sqwa, at equal steps its controls qat, qat-low-lr and swa, or another of 'bitcert "
        "list'; options follow the name, as in sqwa:captures=3:noise=false",
    )
    post_step_steps: int | None = setting(None, "optimizer steps of the post-step (default: 400)", metavar="STEPS")

    @keyed("exam", "post_step")
    def step(self) -> PostStep:
        """The post-step."""
        from suite.protocols import parse_post_step

        return parse_post_step(self.post_step, self.post_step_steps)


class HeldOutSettings(CertificateSettings, PostStepSettings):
    """Held-out certification: what winners go through, and how they are certified."""


class ExecutorSettings(Group):
    """Where evaluations run."""

    name: ExecutorName = setting("inline", "inline (this process) or ray; equal results", flag="--executor")
    workers: int | None = setting(None, "evaluations at the same time (default: as many as fit)")
    cpus_per_trial: float = setting(1.0, "CPUs of one evaluation, a fraction allowed", expert=True)
    gpus_per_trial: float = setting(0.0, "GPUs of one evaluation, a fraction allowed", expert=True)
    hours: float | None = setting(
        None, "refuse to start what is estimated to take longer than this on this machine", expert=True, gt=0
    )
    address: str | None = setting(None, "an existing Ray cluster, such as auto (default: start one here)", expert=True)

    @keyed("executor")
    def resources(self, directory: Path, loggers: tuple[str, ...] = ()) -> Resources:
        """What the executor may use."""
        cpus, gpus = self.cpus_per_trial, self.gpus_per_trial
        return Resources(self.workers, cpus, gpus, self.address, loggers, directory / "tune")


class LoggedExecutor(ExecutorSettings):
    """Where evaluations run, and where else their metrics are logged."""

    log: tuple[str, ...] = setting(
        (),
        "with --executor ray, metrics of all trials also go to tensorboard (files in DIR/tune), mlflow or wandb; may be repeated",
        metavar="NAME",
        expert=True,
        repeat=True,
    )

    @keyed("executor")
    def logged(self, directory: Path) -> Resources:
        """What the executor may use, loggers included."""
        if self.log and self.name != "ray":
            raise BitcertError(f"--log needs --executor ray, whose callbacks it uses; got {self.name}")
        return self.resources(directory, self.log)


class RayByDefault(LoggedExecutor):
    """Where the searches of a comparison run."""

    name: ExecutorName = setting("ray", "inline (this process) or ray; equal results", flag="--executor")


def read_policy(given: str, space: SearchSpace | None = None) -> Policy:
    """A policy from JSON, from a file that holds it, or, with a space, the uniform one that is called ``w2a4``.

    Raises:
        BitcertError: If there is none.
    """
    if space is not None and (uniform := re.fullmatch(r"w(\d)a(\d)", given, re.ASCII)):
        return space.uniform(int(uniform[1]), int(uniform[2]))
    if "{" in given:
        return Policy.from_json(given)
    try:
        return Policy.from_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BitcertError(
            f"no policy can be read from {given!r}: {error}; give JSON, a file that holds it, or a name such as w4a4"
        ) from None


def in_runs(problem: Problem, *parts: object) -> Path:
    """A folder in ``runs/`` named after problem, budget and further parts."""
    return Path("runs") / slug("-".join([problem.name, problem.budget.text, *map(str, parts)]))


def slug(text: str) -> str:
    """Text as the name of a folder."""
    return re.sub(r"[^\w.+=-]", "_", text.replace("/", "-of-"))
