"""The verb ``export``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from suite.contract.problem import Problem
from suite.contract.space import Policy
from suite.errors import BitcertError, unknown_name
from suite.studies.model import Group, keyed, setting
from suite.studies.settings import ExecutorSettings, HeldOutSettings, ProblemSettings, read_policy
from suite.studies.study import Study, check_same_network, load_recorded, with_network

if TYPE_CHECKING:
    from torch import nn

    from suite.report.progress import Progress
    from suite.run.deployed import Sizes
    from suite.run.records import Outcome, Run
    from suite.studies.plan import Plan

_PURPOSE = "network to export"
_FIXED_POINT: Literal["fixed-point"] = "fixed-point"


class ExportSettings(Group):
    """Settings of an export."""

    source: str = setting(
        ...,
        "a run, whose best policy is exported, or a policy: JSON, a file with it, or a uniform one such as w4a4",
        metavar="RUN|POLICY",
    )
    out: str = setting("model.onnx", "model to write; packed weights and a description go beside it", metavar="FILE")
    form: str = setting(
        "integer",
        "integer: ONNX with integer operators; qonnx: QONNX, which states every bit width, for hardware compilers; fixed-point: "
        "JSON or safetensors, for 'bitcert verify-network'",
        flag="--format",
        metavar="FORMAT",
    )
    opset: int | None = setting(
        None, "ONNX operator set: 25 (default) has weights of 2 and 4 bits, 21 of 4 bits; 13 for qonnx", metavar="N"
    )
    certified: bool = setting(
        False, "certify the exported file on held-out images and write the result into it", flag="--exam"
    )
    samples: int = setting(
        0,
        "also write so many held-out images with their labels (.npz), for programs without bitcert",
        metavar="N",
        ge=0,
    )
    problem: ProblemSettings = ProblemSettings()
    exam: HeldOutSettings = HeldOutSettings()


@dataclass(frozen=True, slots=True)
class Exported:
    """A deployed network on disk.

    Attributes:
        path: The ONNX model.
        policy: Its policy.
        sizes: Of the files.
        rule_bytes: What a budget in bytes counts for the policy.
        outcome: Held-out certification of the file; None if it was not asked for.
    """

    path: Path
    policy: Policy
    sizes: Sizes
    rule_bytes: int
    outcome: Outcome | None


class Export(Study[ExportSettings, Exported]):
    """Write a policy's network as an ONNX model that computes with integers, or states its bit widths, or as a fixed-point network.

    The network of a run's best policy, or of a given one, goes through the post-step and becomes an integer network, which every
    conforming runtime executes to the same logits, bit for bit. Certificates of the engine onnx are about this file.
    """

    Settings = ExportSettings
    positional = ("source",)
    checked = True

    @cached_property
    def network(self) -> tuple[Run | None, Policy, Problem]:
        """The run if there is one, the policy, and the problem."""
        settings = self.settings
        if "{" not in settings.source and Path(settings.source).is_dir():
            run, problem = load_recorded(settings.source, settings.problem)
            assert run.best is not None
            return run, run.best.policy, with_network(problem, _PURPOSE)
        problem = settings.problem.load()
        with keyed("source"):
            policy = read_policy(settings.source, problem.space)
        return None, policy, with_network(problem, _PURPOSE)

    def run(self, *, quiet: bool = True) -> Exported:
        """Make the network, write it, and certify it if asked to."""
        from suite.contract.cost import ModelSize
        from suite.kept import KeptState, kept_beside, remove_kept
        from suite.protocols import Request, protocol_for
        from suite.report.progress import Progress
        from suite.run.deployed import read_deployed, write_deployed, write_samples
        from suite.workbench import bench_problem, workbench_of

        settings, (run, policy, problem) = self.settings, self.network
        check_export(Path(settings.out), settings.form, settings.opset)
        with keyed("source"):
            problem.check_feasible(policy)
        if run is not None:
            check_same_network(run.provenance, problem)
        bench, step = workbench_of(problem, _PURPOSE), settings.exam.step()
        steps = problem.fidelity.finetune_steps if run is None else run.provenance["fidelity"]["finetune_steps"]
        description = {
            "policy": policy.to_dict(),
            "post_step": step.to_dict(),
            "finetune_steps": steps,
            "problem": problem.provenance(),
            "bops": problem.bops(policy),
        }
        with Progress(quiet=quiet) as progress:
            progress.add("post-step", step.steps)
            with bench.fixed_threads():
                protocol = protocol_for(bench_problem(problem, _PURPOSE).protocol, steps)
                kept = KeptState(kept_beside(Path(settings.out)), description)
                on_step = partial(progress.update, "post-step")
                request = Request(protocol, steps, state=kept, progress=on_step)
                prepared = step.prepare(bench, policy, request).network
                network = None if settings.form == _FIXED_POINT else bench.integer(prepared)
            if network is None:
                made = replace(bench, engine=_FIXED_POINT).executed_by_engine(prepared)
                written = self._write_fixed_point(problem, policy, made, description, progress)
                remove_kept(kept.folder)
                return written
            if settings.samples:
                write_samples(Path(settings.out), bench.dataset.splits["exam"], settings.samples)
            outcome = None
            out = Path(settings.out)
            write = partial(write_deployed, out, network, bench.image_shape, form=settings.form, opset=settings.opset)
            sizes = write(description)
            if settings.certified:
                deployed = read_deployed(out, bench.threads)[0] if settings.form == "integer" else network
                outcome = self._certify(problem, policy, deployed, progress)
                exam = {"settings": outcome.provenance["exam"], "metrics": outcome.metrics.to_dict()}
                sizes = write({**description, "exam": exam})
            remove_kept(kept.folder)
        rule = ModelSize()
        return Exported(Path(settings.out), policy, sizes, rule.units(rule.total(problem.space, policy)), outcome)

    def _write_fixed_point(
        self,
        problem: Problem,
        policy: Policy,
        network: nn.Module,
        description: dict[str, Any],
        progress: Progress,
    ) -> Exported:
        """Write the file that ``bitcert verify-network`` reads, and what it is beside it."""
        from suite.contract.cost import ModelSize
        from suite.files import write_sealed
        from suite.quantize.fixed_point import FixedPointNetwork, write_fixed_point
        from suite.run.deployed import Sizes

        assert isinstance(network, FixedPointNetwork)
        out, rule = Path(self.settings.out), ModelSize()
        outcome = self._certify(problem, policy, network, progress) if self.settings.certified else None
        if outcome is not None:
            description["exam"] = {"settings": outcome.provenance["exam"], "metrics": outcome.metrics.to_dict()}
        write_fixed_point(network, out)
        write_sealed(record_path(out), {**description, "file_sha256": hashlib.sha256(out.read_bytes()).hexdigest()})
        weights = sum(-(-layer.weight.size * layer.weight_bits // 8) for layer in network.layers)
        sizes = Sizes(model=out.stat().st_size, packed=0, weights=weights)
        return Exported(out, policy, sizes, rule.units(rule.total(problem.space, policy)), outcome)

    def _certify(self, problem: Problem, policy: Policy, network: nn.Module, progress: Progress) -> Outcome:
        """Certify the file that was written, or the integer network that a form without a runtime here states."""
        from suite.kept import kept_beside
        from suite.run.exam import exam_forward_passes, examine

        exam = self.settings.exam.build(problem)
        progress.add("exam", exam_forward_passes(problem, exam))
        return examine(
            problem,
            policy,
            self.settings.exam.step(),
            exam=exam,
            state=kept_beside(Path(self.settings.out)),
            progress=lambda count: progress.advance("exam", count),
            deployed=network,
        )

    def to_json(self, result: Exported) -> str:
        """Where the files are, how large, and the certificates' summary if there is one."""
        found = asdict(result.sizes) | {"rule": result.rule_bytes}
        metrics = None if result.outcome is None else result.outcome.metrics.to_dict()
        content = {"model": str(result.path), "policy": result.policy.to_dict(), "bytes": found, "metrics": metrics}
        return json.dumps(content)

    def show(self, result: Exported) -> None:
        """Print what was written."""
        sizes = result.sizes
        if self.settings.form == _FIXED_POINT:
            print(
                f"{result.path}: {sizes.model:,} bytes, a fixed-point network; {record_path(result.path)}: what it is"
            )
            if result.outcome is not None:
                metrics = result.outcome.metrics
                print(f"certified as written: ACR {metrics.acr:.4f}, clean accuracy {metrics.clean_accuracy:.4f}")
            print(f"verify it: bitcert verify-network {result.path}")
            return
        kind = "computes with integers" if self.settings.form == "integer" else "states every bit width (QONNX)"
        print(f"{result.path}: {sizes.model:,} bytes, {kind}")
        packed = result.path.with_suffix(".safetensors")
        print(
            f"{packed}: {sizes.packed:,} bytes, {sizes.weights:,} of them weights (as a budget: {result.rule_bytes:,})"
        )
        print(f"{result.path.with_suffix('.json')}: what it is, with checksums")
        if result.outcome is not None:
            metrics = result.outcome.metrics
            what = "as written" if self.settings.form == "integer" else "as an integer network"
            print(f"certified {what}: ACR {metrics.acr:.4f}, clean accuracy {metrics.clean_accuracy:.4f}")
        elif self.settings.form == "integer":
            print(f"certify it: bitcert examine --model {result.path}")

    def plan(self) -> Plan:
        """The post-step, and an exam if asked for."""
        from suite.studies.plan import add_exams, add_post_steps, plan_for

        _, _, problem = self.network
        empty, exam = plan_for(problem, ExecutorSettings()), self.settings.exam
        step = exam.step()
        if self.settings.certified:
            return add_exams(empty, problem, exam, "exam", [step], before=False, references=0)
        return add_post_steps(empty, [step]) if step.trains else empty


def record_path(out: Path) -> Path:
    """The file beside a fixed-point network that says what it is."""
    return out.with_name(f"{out.stem}.record.json")


def check_export(out: Path, form: str, opset: int | None) -> None:
    """Check what can be checked before anything is prepared.

    Raises:
        BitcertError: If packages are missing, form or operator set are unknown, or the file has another ending.
    """
    from suite.quantize import missing_packages
    from suite.run.deployed import FORMS

    if form == _FIXED_POINT:
        with keyed("opset"):
            if opset is not None:
                raise BitcertError("a fixed-point network has no operator set; leave --opset out")
        with keyed("out"):
            if out.suffix not in (".json", ".safetensors"):
                raise BitcertError(f"a fixed-point network is written as .json or .safetensors, got {out.name!r}")
        return
    if missing_packages():
        raise BitcertError(f"an export needs {' and '.join(missing_packages())}: pip install 'bitcert[onnx]'")
    with keyed("form"):
        if form not in FORMS:
            raise unknown_name("format", form, (*FORMS, _FIXED_POINT))
    with keyed("opset"):
        if opset is not None and opset not in FORMS[form]:
            raise BitcertError(f"unknown operator set {opset}; known: {', '.join(map(str, FORMS[form]))}")
    with keyed("out"):
        if out.suffix != ".onnx":
            raise BitcertError(f"a model is written to a file that ends in .onnx, got {out.name!r}")
