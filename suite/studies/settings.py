"""Settings that several verbs share: validated here, wherever they were given, and turned into what the functions take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from suite import plugins
from suite.errors import BitcertError, unknown_name

if TYPE_CHECKING:
    from suite.certify.exam import ExamSettings
    from suite.contract.problem import Problem
    from suite.contract.space import Policy
    from suite.contract.trial import Fidelity
    from suite.execute.executor import Resources
    from suite.protocols import PostStep
    from suite.run.limits import Limits
    from suite.run.rungs import Rungs
    from suite.workbench import BenchProblem

Key = tuple[str | int, ...]
"""Where a setting stands, such as ``("problem", "budget")``."""

Model = TypeVar("Model", bound=BaseModel)


class SettingError(BitcertError):
    """A mistake in one setting.

    Args:
        key: The setting, or the group it is in.
        message: As for every BitcertError.
    """

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


class Group(BaseModel):
    """Base of all settings: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(
    default: Any,
    description: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    expert: bool = False,
    repeat: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: Its default; ``...`` if it must be given.
        description: For help texts; the default is added where there is one.
        flag: Its option on the command line; ``--`` and its name if None.
        metavar: What its value is called in help texts.
        expert: Whether it is left out of ``--help`` and shown by ``--help-all`` only.
        repeat: Whether the option may be repeated, one value each time.
        **constraints: pydantic's, such as ``ge``.
    """
    extra: dict[str, Any] = {"flag": flag, "metavar": metavar, "expert": expert, "repeat": repeat}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def validate(model: type[Model], tree: Mapping[str, Any]) -> Model:
    """Build settings from a tree of JSON values; nothing is coerced.

    Raises:
        SettingError: On the first setting that is wrong.
    """
    try:
        return model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key: Key = first["loc"]
        raise SettingError(key, _reason(model, first["type"], key, first)) from None


@contextmanager
def keyed(*key: str | int) -> Iterator[None]:
    """Say in which setting a mistake is; it is narrowed to the field of that group that the message names."""
    try:
        yield
    except SettingError:
        raise
    except BitcertError as error:
        raise SettingError(key, str(error)) from None


_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "model": "a mapping of settings",
}


def _reason(model: type[BaseModel], kind: str, key: Key, error: Mapping[str, Any]) -> str:
    """What pydantic found, in words."""
    name, given, limits = str(key[-1]) if key else "", json.dumps(error["input"]), error.get("ctx", {})
    if kind == "extra_forbidden":
        return str(unknown_name("key", name, fields_at(model, key[:-1])))
    if kind == "missing":
        return f"{name} is missing"
    if kind == "greater_than_equal":
        return (
            f"{name} must {'not be negative' if limits['ge'] == 0 else 'be at least ' + str(limits['ge'])}, got {given}"
        )
    if kind == "literal_error":
        return f"unknown {name} {given}; known: {limits['expected']}"
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected is not None:
        return f"{name} must be {expected}, got {given if len(given) < 80 else given[:76] + ' ...'}"
    return str(error["msg"]).removeprefix("Value error, ")


def fields_at(model: type[BaseModel], key: Key) -> tuple[str, ...]:
    """Names of the settings in the group at a key."""
    for part in key:
        model = model.model_fields[str(part)].annotation  # type: ignore[assignment]
    return tuple(model.model_fields)


def _named(given: object) -> object:
    """Text of a name with options, also where it is written as a mapping: ``{name: arq, episodes: 64}``."""
    if not isinstance(given, dict):
        return given
    options = dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise BitcertError(f"a plug-in with options is written as {{name: NAME, option: value}}, got {given}")
    return f"{name}:{_variant(options)}" if options else name


def _variant(given: object) -> object:
    """Text of options, also where they are written as a mapping: ``{relabel: true, updates: 4}``."""
    if not isinstance(given, dict):
        return given
    return ":".join(f"{option}={_option_text(option, value)}" for option, value in given.items())


def _option_text(option: str, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if ":" in text:
        raise BitcertError(f"the value of option {option} must not contain a colon, got {text}")
    return text


def _named_list(given: object) -> object:
    if isinstance(given, str):
        return plugins.split_names(given)
    return tuple(_named(item) for item in given) if isinstance(given, list) else given


def _integers(given: object) -> object:
    if not isinstance(given, str):
        return tuple(given) if isinstance(given, list) else given
    if not re.fullmatch(r"-?\d{1,20}(,-?\d{1,20})*", given, re.ASCII):
        raise BitcertError(f"seeds are integers separated by commas, got {given!r}")
    return tuple(int(part) for part in given.split(","))


def _seeds(given: tuple[int, ...]) -> tuple[int, ...]:
    if not given or len(set(given)) < len(given) or min(given) < 0:
        raise BitcertError(f"seeds are one or more integers >= 0 without repetition, got {list(given)}")
    return given


def _policy_text(given: object) -> object:
    return json.dumps(given) if isinstance(given, dict) else given


def known(kind: plugins.Kind) -> AfterValidator:
    """Check that a name, options after it or not, is one of a kind of plug-in."""

    def check(text: str) -> str:
        name, _ = kind.parse(text)
        if ":" not in name and name not in kind.names():
            raise unknown_name(kind.noun, name, kind.names())
        return text

    return AfterValidator(check)


Searcher = Annotated[str, BeforeValidator(_named), known(plugins.SEARCHERS)]
PostStepName = Annotated[str, BeforeValidator(_named), known(plugins.POST_STEPS)]
Searchers = Annotated[tuple[Annotated[str, known(plugins.SEARCHERS)], ...], BeforeValidator(_named_list)]
PostSteps = Annotated[tuple[Annotated[str, known(plugins.POST_STEPS)], ...], BeforeValidator(_named_list)]
Variants = tuple[Annotated[str, BeforeValidator(_variant)], ...]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_integers), AfterValidator(_seeds)]
PolicyText = Annotated[str, BeforeValidator(_policy_text)]


class DataSettings(Group):
    """Where images come from."""

    data: str | None = setting(
        None, "folder with the images (default: the environment variable BITCERT_DATA)", metavar="DIR"
    )
    download: bool = setting(False, "download missing images, for MNIST and CIFAR-10")


class ProblemSettings(DataSettings):
    """What is searched, or whose network is examined."""

    name: Annotated[str, known(plugins.PROBLEMS)] | None = setting(
        None, "see 'bitcert list'", flag="--problem", metavar="PROBLEM"
    )
    network: str | None = setting(
        None,
        "your function that returns a network, used in place of the problem's; without a problem, on your images "
        "(--data); needs --checkpoint",
        metavar="MODULE:FUNCTION",
    )
    image_size: int | None = setting(
        None, "with --network, side to which images in a folder are scaled (default: 224)", metavar="N", expert=True
    )
    budget: str | int | None = setting(
        None,
        "limit on BOPs: w3a3 or w2.5a2.5, a share of the float network's such as 1/64, or a number (default: the problem's)",
    )
    sigma: float | None = setting(
        None, "standard deviation of the smoothing noise, images in [0, 1] (default: the problem's)"
    )
    objective: str = setting("acr", "acr, clean, or certified@0.25,0.5; with +bops, fewer BOPs are a second objective")
    certify: Annotated[str, known(plugins.CERTIFIERS)] = setting(
        "ranking",
        "how the search measures: ranking (estimates, cheapest), or certificates that are fixed, irs, incremental, sequential "
        "or aggregate; held-out certification always certifies, see --exam-certify",
    )
    bases: tuple[PolicyText, ...] = setting(
        (),
        "with --certify incremental: one more policy, or a file with it, whose recorded predictions may be built on beside "
        "those of the float network and of the largest uniform policy; may be repeated",
        flag="--base",
        metavar="JSON",
        expert=True,
        repeat=True,
    )
    alpha: float = setting(1e-3, "failure probability of each certificate of the search", expert=True)
    seed: int = setting(0, "seed of calibration, search and exam noise", flag="--problem-seed", expert=True)
    checkpoint: str | None = setting(
        None,
        "pretrained network, .safetensors or a PyTorch state dict (default: the one that comes with bitcert)",
        metavar="FILE",
    )
    quantizer: Literal["lsq", "fixed", "pact", "dorefa"] = setting(
        "lsq", "quantizer of finetuning: lsq, fixed, pact or dorefa", expert=True
    )
    recalibrate: bool = setting(False, "recalibrate batch norm for every policy that is not finetuned")
    device: str = setting("cpu", "where evaluations run")

    @property
    def own_protocol(self) -> str | None:
        """The protocol, unless finetuning steps say as much."""
        return None

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
        problem = load_problem(
            self.name or "folder",
            network=self.network,
            image_size=self.image_size,
            budget=self.budget,
            sigma=self.sigma,
            seed=self.seed,
            objective=self.objective,
            certify=self.certify,
            bases=[read_policy(given) for given in self.bases],
            alpha=self.alpha,
            data=self.data,
            download=self.download,
            checkpoint=self.checkpoint,
            finetuning=FinetuneSettings(quantizer=self.quantizer),
            recalibrate=self.recalibrate,
            device=self.device,
            protocol=self.own_protocol,
        )
        bits = problem.space.choices[-1]
        most, cost = problem.cost(problem.space.uniform(bits)), problem.budget.cost
        if problem.budget.limit > most:
            raise BitcertError(
                f"budget {problem.budget.text} ({cost.units(problem.budget.limit):,} {cost.unit}) is above the most expensive "
                f"policy ({cost.units(most):,} {cost.unit} at {bits}/{bits} bits) and limits nothing; give w{bits}a{bits} to "
                "search without a limit"
            )
        return problem


class SearchedProblem(ProblemSettings):
    """What is searched, and how a policy becomes the network that is measured."""

    protocol: Annotated[str, known(plugins.PROTOCOLS)] | None = setting(
        None,
        "ptq: policies are measured as quantized; finetune: after finetuning, in every evaluation (default: the problem's, ptq)",
    )

    @property
    def own_protocol(self) -> str | None:
        """The protocol, unless finetuning steps say as much."""
        return None if self.protocol in ("ptq", "finetune") else self.protocol


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

    finetune_steps: int | None = setting(
        None, "finetuning steps in every evaluation (default: 100 with --protocol finetune)"
    )

    def fidelity_of(self, problem: Problem, settings: SearchedProblem, *, read: bool = True) -> Fidelity:
        """The fidelity of an evaluation under the problem's protocol."""
        return self.fidelity(problem, settings.protocol, self.finetune_steps, read=read)


class SpendSettings(FidelitySettings):
    """When a search ends and what it may spend."""

    evaluations: int | None = setting(
        None, "maximum number of trials of a search (default: 64, or no limit with another one)"
    )
    forward_passes: int | None = setting(None, "start no further trial once a search has spent these")
    seconds: float | None = setting(
        None, "start no further trial after this wall time, summed over sessions", expert=True
    )
    retries: int = setting(
        2, "how often a failed evaluation is retried before it is recorded as failed", expert=True, ge=0
    )
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
        "best policies that are measured again at the end, with other noise and up to twice the images "
        "(default: 4 with --certify ranking, else none)",
        expert=True,
        ge=0,
    )

    @property
    @keyed("spend")
    def limits(self) -> Limits:
        """When a search ends."""
        from suite.run.limits import Limits

        unlimited = self.evaluations is None and self.forward_passes is None and self.seconds is None
        return Limits(64 if unlimited else self.evaluations, self.forward_passes, self.seconds)

    @keyed("spend")
    def ladder(self, top: Fidelity) -> Rungs:
        """The rungs below a fidelity, which they must ascend to."""
        from suite.run.rungs import Rungs

        rungs = Rungs() if self.rungs is None else Rungs.parse(self.rungs, self.reduction, top.finetune_steps)
        rungs.up_to(top)
        return rungs


class CertificateSettings(Group):
    """How networks are certified on held-out images."""

    images: int | None = setting(
        None, "exam images (default: as many as the problem says, usually all)", flag="--exam-images"
    )
    n0: int = setting(100, "noise samples that choose a class", flag="--exam-n0")
    n: int = setting(10_000, "noise samples that enter a bound", flag="--exam-n")
    certify: Annotated[str, known(plugins.CERTIFIERS)] = setting(
        "fixed",
        "fixed; sequential: certifies at the problem's radii only, with far fewer samples, --exam-n is then the most an image may "
        "take; or aggregate: as fixed, plus bounds on the whole set, tight even with --exam-n 100",
        flag="--exam-certify",
    )
    alpha: float = setting(1e-3, "failure probability of each certificate", flag="--exam-alpha", expert=True)

    @keyed("exam")
    def build(self, problem: Problem, split: str = "exam") -> ExamSettings:
        """The exam; reads the data if no number of images was given."""
        from suite.certify.exam import ExamSettings
        from suite.run.exam import default_exam

        exam = ExamSettings(self.images, self.n0, self.n, self.alpha, self.certify, split)
        return exam if self.images is not None else replace(exam, images=default_exam(problem, split).images)


class PostStepSettings(Group):
    """Finetuning before held-out certification."""

    post_step: PostStepName = setting(
        "none",
        "finetuning before the exam: none, sqwa, or at equal steps its controls qat, qat-low-lr and swa; options follow the "
        "name, as in sqwa:captures=3:noise=false",
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

    name: Annotated[str, known(plugins.EXECUTORS)] = setting(
        "inline", "inline (this process) or ray; equal results", flag="--executor"
    )
    workers: int | None = setting(None, "evaluations at the same time (default: as many as fit)")
    cpus_per_trial: float = setting(1.0, "CPUs of one evaluation, a fraction allowed", expert=True)
    gpus_per_trial: float = setting(0.0, "GPUs of one evaluation, a fraction allowed", expert=True)
    address: str | None = setting(
        None, "an existing Ray cluster, such as auto (default: start one on this machine)", expert=True
    )

    @keyed("executor")
    def resources(self, directory: Path, loggers: tuple[str, ...] = ()) -> Resources:
        """What the executor may use."""
        from suite.execute.executor import Resources

        return Resources(
            self.workers, self.cpus_per_trial, self.gpus_per_trial, self.address, loggers, directory / "tune"
        )


class LoggedExecutor(ExecutorSettings):
    """Where evaluations run, and who else hears of their metrics."""

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

    name: Annotated[str, known(plugins.EXECUTORS)] = setting(
        "ray", "inline (this process) or ray; equal results", flag="--executor"
    )


@keyed("problem")
def with_network(problem: Problem, purpose: str) -> BenchProblem:
    """The problem, which must have a network and images for this purpose, such as ``"network to probe"``."""
    from suite.workbench import bench_problem

    return bench_problem(problem, purpose)


def read_policy(given: str) -> Policy:
    """A policy from JSON, or from a file that holds it.

    Raises:
        BitcertError: If there is none.
    """
    from suite.contract.space import Policy

    if "{" in given:
        return Policy.from_json(given)
    try:
        return Policy.from_json(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BitcertError(
            f"no policy can be read from {given!r}: {error}; give JSON or a file that holds it"
        ) from None


def in_runs(problem: Problem, *parts: object) -> Path:
    """A folder in ``runs/`` named after problem, budget and further parts."""
    named = [problem.name, problem.budget.text.replace("/", "-of-"), *map(str, parts)]
    return Path("runs") / re.sub(r"[^\w.+=-]", "_", "-".join(named))
