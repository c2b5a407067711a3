"""The protocol ``supernet``: what it inherits, that it leaves no state, and which files it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from suite.certify import NoiseStream
from suite.certify.exam import ExamSettings
from suite.contract.probes import ProbeSettings
from suite.contract.problem import Problem
from suite.contract.trial import Fidelity
from suite.errors import BitcertError
from suite.files import write_sealed
from suite.inheritance import inherited, make_supernet
from suite.networks import shipped_checkpoints
from suite.problems import load_problem
from suite.protocols import Request, parse_post_step, protocol_for
from suite.quantize import TrainableNetwork
from suite.run.exam import examine
from suite.train.supernet import SupernetSettings
from suite.workbench import bench_problem, workbench_of

FIDELITY = Fidelity(images=20, noise=16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A supernet as calibrated, one that was trained, and a trained one with weights for every bit width."""
    folder, bench = tmp_path_factory.mktemp("supernets"), workbench_of(load_problem("digits"), "a test")
    settings = {
        "untrained": SupernetSettings(steps=0),
        "trained": SupernetSettings(steps=3, batch=16, inheritance="none"),
        "private": SupernetSettings(steps=3, batch=16, inheritance="none", private_weights=True, norms="pairs"),
    }
    for name, chosen in settings.items():
        make_supernet(bench, folder / f"{name}.safetensors", chosen, seed=0, command="a test")
    return {name: folder / f"{name}.safetensors" for name in settings}


def load(file: Path, *options: str, budget: str = "w8a8", **settings: object) -> Problem:
    return load_problem("digits", budget=budget, protocol=":".join(["supernet", f"file={file}", *options]), **settings)  # type: ignore[arg-type]


def score(problem: Problem, bits: tuple[int, int]) -> tuple[float | None, float | None]:
    metrics = problem.evaluate(problem.space.uniform(*bits), FIDELITY)
    return metrics.acr, metrics.clean_accuracy


@pytest.mark.parametrize("recalibrate", ["true", "false"])
def test_without_a_training_step_it_is_post_training_quantization_bit_for_bit(
    files: dict[str, Path], recalibrate: str
) -> None:
    option = f"recalibrate={recalibrate}"
    plain = load_problem("digits", budget="w8a8", protocol=f"ptq:{option}")
    supernet = load(files["untrained"], option)
    for bits in ((3, 3), (2, 4)):
        expected = plain.evaluate(plain.space.uniform(*bits), FIDELITY)
        found = supernet.evaluate(supernet.space.uniform(*bits), FIDELITY)
        assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)


def test_statistics_may_be_measured_on_other_images_as_without_a_supernet(files: dict[str, Path]) -> None:
    problem, exam = load_problem("digits"), ExamSettings(images=20, n0=10, n=200)
    policy, file = problem.space.uniform(3), files["untrained"]
    inherits, few, plain = (
        examine(problem, policy, step, exam=exam)
        for step in (f"inherited:file={file}:images=30", f"inherited:file={file}", "recalibrate:images=30")
    )
    assert inherits.metrics.acr == plain.metrics.acr != few.metrics.acr
    assert inherits.provenance["post_step_record"]["supernet_passes"] == 0
    assert inherits.provenance["preparation_passes"] == plain.provenance["preparation_passes"] == 30
    with pytest.raises(BitcertError, match="images must be an integer >= 1"):
        parse_post_step("inherited:images=0")


@pytest.mark.parametrize("name", ["trained", "private"])
def test_a_policy_scores_the_same_whatever_was_measured_before(files: dict[str, Path], name: str) -> None:
    problem = load(files[name])
    policies = [problem.space.random(np.random.default_rng(seed)) for seed in (0, 1)]
    bench = bench_problem(problem, "a test").bench
    start = inherited(bench, str(files[name]))
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(which: int) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = start.quantized(policies[which])(images)
        return logits

    first, other, again = run(0), run(1), run(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    fresh = inherited(bench_problem(load(files[name]), "a test").bench, str(files[name]))
    with torch.no_grad():
        assert torch.equal(fresh.quantized(policies[0])(images), first)


def test_recalibrated_norms_have_the_mean_of_the_batches_of_this_policy(files: dict[str, Path]) -> None:
    problem = load(files["trained"])
    start = inherited(bench_problem(problem, "a test").bench, str(files["trained"]))
    policy, name = problem.space.uniform(2), problem.space.layers[0].name
    layer = start.separate(policy).get_submodule(f"network.{name}")
    means = []
    for batch in start.statistics_batches:
        grid, step = start.calibration.input_grid(name, 8), start.calibration.activation_step(name, 8)
        seen = start.network.normalization(batch)  # type: ignore[operator]
        inputs = grid.nearest(seen / step) * step
        module = start.network.get_submodule(name)
        with torch.no_grad():
            outputs = module._conv_forward(inputs, start.calibration.quantized_weight(name, 8), None)  # type: ignore[operator]
        means.append(outputs.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(layer._norms[0].running_mean, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr,index]


def test_probes_exams_and_post_steps_start_from_the_supernet_and_say_so(files: dict[str, Path]) -> None:
    problem, plain = load(files["trained"], budget="w3a3"), load_problem("digits", budget="w3a3")
    settings = ProbeSettings(images=16)
    policy = problem.space.uniform(3)
    assert problem.probes(settings).measure(policy) != plain.probes(settings).measure(policy)
    exam = ExamSettings(images=10, n0=10, n=20)
    as_searched, inherits = (
        examine(problem, policy, "none", exam=exam),
        examine(plain, policy, f"inherited:file={files['trained']}", exam=exam),
    )
    assert as_searched.metrics.acr == inherits.metrics.acr
    assert (as_searched.certificates.radius == inherits.certificates.radius).all()
    record = json.loads(files["trained"].with_suffix(".json").read_text())
    for provenance in (problem.provenance(), inherits.provenance["post_step_record"]):
        assert provenance["supernet_sha256"] == record["network_sha256"]
        assert provenance["supernet_passes"] == 3 * 16 * 3 * 3
    assert "supernet_sha256" not in plain.provenance()


def test_evaluations_are_charged_as_after_post_training_quantization(files: dict[str, Path]) -> None:
    plain, supernet = load_problem("digits"), load(files["trained"])
    for problem in (plain, supernet):
        problem.evaluate(problem.space.uniform(3), FIDELITY)
    assert supernet.meter.forward_passes == plain.meter.forward_passes == supernet.forward_passes(FIDELITY)


def test_supernets_that_do_not_fit_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    trained = files["trained"]
    policy = load_problem("digits").space.uniform(4)

    def refuse(message: str, problem: Problem) -> None:
        with pytest.raises(BitcertError, match=message):
            problem.evaluate(policy, FIDELITY)

    refuse("another float network", load(trained, replicate=1))
    refuse("sigma 0.25, not 0.5", load(trained, sigma=0.5, checkpoint=shipped_checkpoints("digits", 0.25)[0]))
    refuse("no weights of 1 bits", load(trained, choices=(1, 4, 8)))
    refuse("there is no supernet", load(tmp_path / "none.safetensors"))
    refuse("unknown variant", load_problem("digits", budget="w8a8", protocol="supernet:variant=own"))
    refuse("train one by `bitcert supernet`", load_problem("digits", budget="w8a8", sigma=1.0, protocol="supernet"))
    changed = tmp_path / "changed.safetensors"
    content = bytearray(trained.read_bytes())
    content[-9] ^= 1
    changed.write_bytes(content)
    shutil.copy(trained.with_suffix(".json"), changed.with_suffix(".json"))
    refuse("not the one its record describes", load(changed))
    write_sealed(changed.with_suffix(".json"), {"dataset": "digits"}, indent=2)
    refuse("is not a supernet", load(changed))


def test_fewer_bit_widths_than_were_trained_are_served(files: dict[str, Path]) -> None:
    some, every = load(files["private"], choices=(2, 3, 4)), load(files["private"])
    assert score(some, (2, 3)) == score(every, (2, 3))


def test_post_steps_train_the_supernet_when_asked_to(files: dict[str, Path]) -> None:
    bench = workbench_of(load_problem("digits", budget="w8a8"), "a test")
    policy, request = bench.space.uniform(3), Request(protocol_for("ptq", 0))
    file = files["private"]

    def first_loss(start: str) -> float:
        """What is trained, before its first step counts: a rate so small that nothing moves."""
        step = parse_post_step(f"qat:steps=1:rate=1e-12:start={start}")
        network = step.deploy(bench, policy, request).network
        inputs, labels = bench.labelled_batches(bench.dataset.splits["search"], NoiseStream(0, "test"), 0)[0]
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(network(inputs.clone()), labels))

    start = inherited(bench, str(file))
    alone = TrainableNetwork(start.network, bench.space.layers, policy, start.calibration)
    assert first_loss(str(file)) != first_loss("float")
    weights = alone.layers()[bench.space.layers[2].name].weight
    assert torch.equal(weights, start.calibration.masters[bench.space.layers[2].name, 3])
    deployed = parse_post_step(f"qat:steps=1:start={file}").deploy(bench, policy, request)
    assert deployed.record["supernet_sha256"] == start.origin["supernet_sha256"]
    for refused in ("qat:start=nowhere", f"swa:start={file}", "swa-masked:start=supernet"):
        with pytest.raises(BitcertError, match="start"):
            parse_post_step(refused)
