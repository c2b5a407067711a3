"""What a release has beside the wheel: image, cluster examples, bill of materials, workflow. Nothing is built."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "examples" / "cluster"
EXPERIMENT = """
study: search
problem: {name: separable, budget: w3a3}
searcher: random
spend: {evaluations: 4}
"""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_the_image_copies_what_exists_and_is_not_ignored_and_runs_as_a_user() -> None:
    steps = instructions()
    words = [word for word, _ in steps]
    assert set(words) <= {"ARG", "FROM", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*", "nothing goes to the builder that is not named"
    sources = [name for word, rest in steps if word == "COPY" for name in rest.split()[:-1]]
    for name in sources:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    packages = re.findall(r'"(\w+)\*"', project)
    assert {*packages, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == set(sources)
    assert dict(steps)["USER"] == "bitcert"
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["bitcert"]
    assert not re.search(r"(?i)password|token|secret|api_key", (ROOT / "Dockerfile").read_text("utf-8"))
    for rest in (rest for word, rest in steps if word == "RUN"):
        subprocess.run(["sh", "-n", "-c", rest], check=True)
    extras = re.findall(
        r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2].partition("[project.")[0], re.M
    )
    (asked,) = re.findall(r"/source\[([\w,]+)\]", dict(steps)["RUN"] + " ".join(rest for _, rest in steps))
    assert set(asked.split(",")) <= set(extras)


def program(folder: Path, name: str, text: str) -> None:
    """A program that stands in for another."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def environment(folder: Path) -> dict[str, str]:
    """Programs of this folder come first; ``bitcert`` is the one under test."""
    program(folder, "bitcert", f'exec "{sys.executable}" -m suite.cli "$@"')
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_the_slurm_script_runs_an_experiment_and_goes_back_into_the_queue_when_its_slice_is_over(
    tmp_path: Path,
) -> None:
    script, bin_folder = CLUSTER / "slurm.sh", tmp_path / "bin"
    environ = environment(bin_folder) | {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(tmp_path)}
    program(bin_folder, "srun", 'exec "$@"')
    program(bin_folder, "scontrol", f'echo "$@" >> "{tmp_path}/scontrol"')
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)

    def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=False)

    subprocess.run(["bash", "-n", str(script)], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=\S+)?$", script.read_text("utf-8"), re.MULTILINE)
    assert {"time", "requeue", "open-mode", "nodes"} <= set(options)
    assert "name an experiment file" in submit().stderr
    dry = submit("experiment.yaml", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "evaluations" in dry.stdout
    assert not (tmp_path / "scontrol").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "experiment.yaml"], "a dry run writes nothing"
    for status, passed_on in ((3, 0), (1, 1)):
        program(bin_folder, "bitcert", f"exit {status}")
        assert submit("experiment.yaml").returncode == passed_on
    assert (tmp_path / "scontrol").read_text() == "requeue 17\n", "once, for status 3"


class Strict(BaseModel):
    """A part of a manifest; misspelled fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Container(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    image: str
    env: list[dict[Literal["name", "value"], str]] = []
    resources: dict[Literal["limits", "requests"], dict[str, str | int]]
    volumeMounts: list[dict[Literal["name", "mountPath"], str]]  # noqa: N815 (the manifest's)


class PodSpec(Strict):
    containers: list[Container] = Field(min_length=1)
    volumes: list[dict[str, Any]]
    securityContext: dict[Literal["runAsUser", "fsGroup"], int]  # noqa: N815


class PodTemplate(Strict):
    spec: PodSpec


class Head(Strict):
    rayStartParams: dict[str, str]  # noqa: N815
    template: PodTemplate


class Workers(Head):
    groupName: str  # noqa: N815
    replicas: int
    minReplicas: int  # noqa: N815
    maxReplicas: int  # noqa: N815


class Cluster(Strict):
    rayVersion: str  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Workers]  # noqa: N815


class JobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]  # noqa: N815
    backoffLimit: int  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    rayClusterSpec: Cluster  # noqa: N815


class RayJob(Strict):
    """The fields of KubeRay's RayJob, version 1, that the example uses."""

    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: dict[Literal["name"], str]
    spec: JobSpec


def test_the_rayjob_is_one_and_its_entrypoint_is_a_command_that_plans(tmp_path: Path) -> None:
    job = RayJob.model_validate(yaml.safe_load((CLUSTER / "rayjob.yaml").read_text("utf-8"))).spec
    cluster = job.rayClusterSpec
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    assert cluster.rayVersion == pinned[1]
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        pod = group.template.spec
        claimed = {volume["name"] for volume in pod.volumes}
        mounts = {mount["mountPath"]: mount["name"] for container in pod.containers for mount in container.volumeMounts}
        assert set(mounts.values()) == claimed
        assert "/bitcert" in mounts
    for group in cluster.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
    (tmp_path / "experiment.yaml").write_text(EXPERIMENT)
    command = shlex.split(job.entrypoint.replace("/bitcert/", f"{tmp_path}/"))
    environ = environment(tmp_path / "bin")
    done = subprocess.run([*command, "--dry-run"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluations" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_bill_of_materials_says_nothing_of_the_machine() -> None:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    part = {
        "bom-ref": "torch==2.15.0",
        "type": "library",
        "name": "torch",
        "version": "2.15.0",
        "description": "tensors",
        "licenses": [
            {"license": {"name": "BSD\nRedistribution and use", "text": {"content": "..."}, "url": "https://x"}}
        ],
        "externalReferences": [{"type": "distribution", "url": "file:///home/me/torch.whl"}],
        "properties": [{"name": "path", "value": "/home/me"}],
    }
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"bom-ref": "root-component", "name": "bitcert"}, "tools": {}},
        "components": [part, {"bom-ref": "b", "name": "bitcert", "externalReferences": part["externalReferences"]}],
        "dependencies": [{"ref": "root-component", "dependsOn": ["torch==2.15.0"]}],
    }
    kept = sbom.reduce(bill)
    assert not re.search(r"://|/home|Redistribution", json.dumps(kept))
    (component,) = kept["components"]
    assert (component["name"], component["licenses"]) == ("torch", [{"license": {"name": "BSD"}}])


def test_constraints_name_a_version_for_all_that_is_required() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").split())
    needed = [Requirement(text) for text in re.findall(r'"([a-zA-Z][\w-]*(?:\[\w+\])?>=[\d.]+)"', project)]
    assert len(needed) > 30
    for each in needed:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_the_workflow_calls_targets_that_exist_and_has_no_secrets() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    assert "secrets" not in text
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    called = [step["run"] for job in content["jobs"].values() for step in job["steps"] if "run" in step]
    assert {word for line in called for word in re.findall(r"^make (\w+)", line)} == {"dist", "sbom"} <= targets
    for line in called:
        for file in re.findall(r"^bash (\S+)", line):
            assert (ROOT / file).is_file()
