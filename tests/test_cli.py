"""The command line: machine-readable results, exit codes, and one clear line for every mistake."""

import json
import pickle
import re
import textwrap
from pathlib import Path

import pytest
import torch

from suite.cli import main
from suite.run import provenance
from suite.run.journal import FILE_NAME
from suite.run.state import load_run
from suite.studies.ablate import Ablate
from suite.studies.experiment import Document, read_experiments

SEARCH = ["search", "--problem", "separable", "--searcher", "random", "--evaluations", "4"]
SMALL = [
    "--images",
    "20",
    "--noise",
    "16",
    "--evaluations",
    "3",
    "--exam-images",
    "20",
    "--exam-n0",
    "20",
    "--exam-n",
    "50",
]
COMPARE = ["compare", "--problem", "digits", "--searchers", "random,cheapest", "--executor", "inline", *SMALL]

ABLATE = ["ablate", "--problem", "digits", "--searcher", "arq", "--executor", "inline", *SMALL]


def mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with status 2 and one line; return the line."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("bitcert: ") and "warning" not in line]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"digits", "cifar10-resnet20", "imagenet-resnet50"} <= set(listed["problems"])
    assert {"random", "tpe", "nsga2", "evolution", "uniform", "cheapest"} <= set(listed["searchers"])
    assert main(["list"]) == 0
    assert "handwritten digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "train",
        "search",
        "compare",
        "ablate",
        "sensitivity",
        "examine",
        "post-steps",
        "plane",
        "report",
        "table",
    ],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "exit status" in capsys.readouterr().out


def test_search_resumes_and_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SEARCH, "--directory", str(tmp_path / "run"), "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    journal = (tmp_path / "run" / FILE_NAME).read_bytes()
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == journal
    assert first["trials"] == 4
    assert set(first["best"]["policy"]) == {"weights", "activations"}


def test_the_way_of_measuring_can_be_chosen_for_search_and_exam(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = json.dumps({"weights": [8, *[3] * 8, 8], "activations": [8, *[3] * 8, 8]})
    arguments = [
        "search",
        "--problem",
        "digits",
        "--searcher",
        "random",
        *SMALL[:6],
        "--directory",
        str(tmp_path),
        "--json",
    ]
    assert main([*arguments, "--certify", "incremental", "--base", base]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["metrics"]["method"] == "incremental"
    exam = ["--exam-certify", "sequential", *SMALL[6:], "--exam-n", "400", "--json"]
    assert main(["examine", "--run", str(tmp_path), *exam]) == 0
    examined = json.loads(capsys.readouterr().out)
    assert examined["metrics"]["method"] == examined["provenance"]["exam"]["method"] == "sequential"
    assert examined["metrics"]["forward_passes"] < 20 * 421


def test_choices_are_kept_with_the_run_and_uniform_policies_have_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = ["--problem", "digits", "--choices", "1,2,8", "--budget", "w1a2"]
    search = ["search", *problem, "--searcher", "cheapest", *SMALL[:6], "--directory", str(tmp_path), "--json"]
    assert main(search) == 0
    found = json.loads(capsys.readouterr().out)["best"]["policy"]
    assert set(found["weights"]) == {1, 8}
    assert main(["examine", "--run", str(tmp_path), *SMALL[6:], "--json"]) == 0
    of_run = json.loads(capsys.readouterr().out)
    assert of_run["provenance"]["choices"] == [1, 2, 8]
    assert main(["examine", *problem, "--policy", "w1a1", *SMALL[6:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["acr"] == of_run["metrics"]["acr"]


def test_search_shows_progress_and_says_what_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, "--directory", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "separable holds no exams" in captured.out
    assert "random 0" in captured.err
    small = ["--problem", "digits", "--images", "10", "--noise", "4", "--evaluations", "1", "--finalists", "0"]
    given = ["--budget", "40KB+w4a4", "--objective", "clean", "--directory", str(tmp_path / "digits")]
    assert main(["search", *small, "--searcher", "cheapest", *given]) == 0
    shown = capsys.readouterr().out
    assert "bitcert examine --run" in shown
    assert re.search(r"at [0-9,]+ bytes, [0-9,]+ BOPs:", shown)


def test_a_search_without_a_success_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("suite.problems.separable.SeparableProblem.evaluate", fail)
    assert main([*SEARCH, "--directory", str(tmp_path / "run")]) == 1
    assert "the disk is on fire" in capsys.readouterr().err


def test_compare_examine_and_report_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "comparison"
    assert main([*COMPARE, "--directory", str(directory)]) == 0
    assert "random" in capsys.readouterr().out
    report = directory / "report"
    for name in ("leaderboard.csv", "leaderboard.json", "rows.csv", "index.html"):
        assert (report / name).stat().st_size > 0
    assert len(list(report.rglob("*.png"))) == 4
    assert len(list(report.rglob("*.svg"))) == 4
    assert main(["report", str(directory), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((report / "leaderboard.json").read_text())
    run = directory / "searches" / "random-0"
    small = ["--exam-images", "20", "--exam-n0", "20", "--exam-n", "50"]
    assert main(["examine", "--run", str(run), "--json", "--out", str(tmp_path / "exam.json"), *small]) == 0
    examined = json.loads(capsys.readouterr().out)["metrics"]
    filed = [json.loads(path.read_text()) for path in (directory / "exams").iterdir()]
    assert examined["acr"] in [exam["metrics"]["acr"] for exam in filed]
    assert (tmp_path / "exam.json").exists()


def test_a_variant_overrides_an_option_of_the_searcher_it_varies() -> None:
    settings = Ablate.Settings.model_validate(
        {"searcher": "evolution:population=4:parents=2", "vary": ["parents=3", "mutation_rate=0.2:population=8"]}
    )
    assert Ablate(settings).searchers() == (
        "evolution:population=4:parents=2",
        "evolution:population=4:parents=3",
        "evolution:parents=2:mutation_rate=0.2:population=8",
    )


@pytest.mark.usefixtures("no_figures")
def test_ablate_tests_variants_against_the_searcher_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant = "reward=certified@0.25,0.5:relabel=true"
    assert main([*ABLATE, "--vary", variant, "--directory", str(tmp_path / "ablation"), "--json"]) == 0
    board = {row["searcher"]: row for row in json.loads(capsys.readouterr().out)["leaderboard"]}
    assert set(board) == {"arq", f"arq:{variant}", "float"}
    assert board[f"arq:{variant}"]["against"] == "arq"
    assert board[f"arq:{variant}"]["difference"] is not None
    assert main(["report", str(tmp_path / "ablation"), "--against", f"arq:{variant}", "--json"]) == 0
    board = {row["searcher"]: row for row in json.loads(capsys.readouterr().out)["leaderboard"]}
    assert board["arq"]["against"] == f"arq:{variant}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([*SEARCH, "--budget", "w9z"], "not understood"),
        ([*SEARCH, "--budget", "12"], "below the cheapest policy"),
        ([*SEARCH, "--budget", "w4a4+w3a3"], "limits bops twice, by w4a4 and by w3a3"),
        ([*SEARCH, "--budget", "w4a4+1B"], "budget 1B (1 bytes) is below the cheapest policy"),
        ([*SEARCH, "--objective", "acr+bytes+bytes"], "the cost bytes is given twice"),
        (["search", "--problem", "digtis", "--searcher", "random"], "known: digits"),
        (["search", "--problem", "separable", "--searcher", "tpee"], "known: tpe"),
        ([*SEARCH, "--option", "wings=2"], "unknown option of searcher random"),
        ([*SEARCH, "--option", "wings"], "NAME=VALUE"),
        ([*SEARCH, "--executor", "cloud"], "known: "),
        ([*SEARCH, "--evaluations", "0"], "at least 1"),
        ([*SEARCH, "--objective", "certified@0.5,0.25"], "ascending"),
        ([*SEARCH, "--sigma", "-1"], "sigma"),
        ([*SEARCH, "--seed", "-1"], "seed"),
        (["search", "--problem", "digits", "--searcher", "random", "--sigma", "0"], "sigma"),
        (["search", "--problem", "digits", "--searcher", "random", "--noise", "0"], "noise"),
        (["search", "--problem", "digits", "--searcher", "random", "--sigma", "0.33"], "no trained digits"),
        (["search", "--problem", "digits", "--searcher", "random", "--checkpoint", "absent.pt"], "no checkpoint"),
        (["search", "--problem", "mnist", "--searcher", "random"], "--data"),
        (["search", "--problem", "evolution", "--searcher", "evolution", "--objective", "acr+bops"], "unknown problem"),
        (["compare", "--problem", "separable"], "no images"),
        (["search", "--problem", "digits", "--searcher", "random", "--protocol", "qat"], "unknown protocol"),
        (
            ["search", "--problem", "digits", "--searcher", "random", "--protocol", "ptq", "--finetune-steps", "3"],
            "contradict",
        ),
        ([*SEARCH, "--parallel", "0"], "parallel must be at least 1"),
        ([*SEARCH, "--retries", "-1"], "retries must not be negative"),
        ([*SEARCH, "--workers", "0"], "0 workers"),
        ([*SEARCH, "--cpus-per-trial", "-1"], "needs CPUs or GPUs"),
        ([*COMPARE, "--exam-n", "0"], "at least 1"),
        ([*COMPARE, "--against", "tpe"], "unknown searcher of this comparison"),
        ([*ABLATE, "--vary", "wings=2"], "unknown option of searcher arq"),
        ([*ABLATE, "--vary", "updates"], "NAME=VALUE"),
        ([*ABLATE, "--vary", "reward=certified@0.3"], "with radii of the problem"),
        ([*COMPARE, "--seeds", "0,x"], "integers"),
        ([*COMPARE, "--seeds", "0,\uff11"], "integers separated by commas"),
        ([*COMPARE, "--seeds=0,-1"], "integers >= 0"),
        ([*COMPARE, "--batch", "\uff11/2"], "a batch is written as 3/32"),
        ([*SEARCH, "--rungs", "\uff11x1"], "a rung is written as"),
        ([*COMPARE, "--post-step", "magic"], "known: "),
        ([*COMPARE, "--certify", "magic"], "known: aggregate, fixed, incremental"),
        ([*COMPARE, "--exam-certify", "ranking"], "known: aggregate, fixed, interval, sequential, verify"),
        ([*COMPARE, "--finalists", "-1"], "finalists must not be negative"),
        ([*SEARCH, "--finalists", "-1"], "finalists must not be negative"),
        ([*COMPARE, "--certify", "incremental", "--base", "{}"], "policy"),
        ([*COMPARE, "--certify", "incremental", "--base", "absent.json"], "no policy can be read from 'absent.json'"),
        (["examine", "--policy", "absent.json", "--problem", "digits"], "no policy can be read"),
        (["examine", "--policy", "{}", "--problem", "digits"], "a policy is JSON"),
        (["examine", "--policy", "w1a4", "--problem", "digits"], "1 bits are not among the choices"),
        (["examine", "--policy", "w4a4", "--problem", "digits", "--choices", "4,2"], "choices must be ascending"),
        (["examine", "--policy", "w4a4", "--problem", "digits", "--choices", "4,9"], "bits must lie in 1..8"),
        (
            ["examine", "--policy", "w4a4", "--problem", "digits", "--choices", "4;8"],
            "choices are integers separated by",
        ),
        (["examine", "--run", "nowhere"], "holds no run"),
        (["examine", "--float"], "name a problem"),
        (["report", "nowhere"], "holds no comparison"),
        (["train", "digits", "--sigma", "0"], "sigma"),
        (["train", "imagenet-resnet50"], "not trained here"),
        (["search", "--problem", "digits", "--searcher", "random", "--device", "gpu"], "cannot be used here"),
        (["search", "--problem", "digits", "--searcher", "random", "--budget", "w9a9"], "must lie in 1..8"),
        (["search", "--problem", "digits", "--searcher", "random", "--budget", "1/2"], "limits nothing"),
        (
            ["search", "--problem", "digits", "--searcher", "random", "--budget", "w3a3+9MB"],
            "budget 9MB (9,000,000 bytes) is above",
        ),
        (
            ["search", "--network", "module.py:build", "--checkpoint", "w.pt", "--data", ".", "--searcher", "random"],
            "without .py",
        ),
        (
            ["search", "--network", "module:", "--checkpoint", "w.pt", "--data", ".", "--searcher", "random"],
            "names no function",
        ),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing_behind(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITCERT_DATA", raising=False)
    assert expected in mistake(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_argument_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--searcher" in mistake(["search", "--problem", "digits"], capsys)


def test_unknown_commands_and_options_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the nearest is compare" in mistake(["comapre"], capsys)
    assert "the nearest is --evaluations" in mistake([*SEARCH, "--evaluation", "3"], capsys)
    assert "int" in mistake([*SEARCH, "--evaluations", "many"], capsys)


def test_options_for_experts_are_shown_by_help_all_only(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", option])
        assert stopped.value.code == 0
        shown[option] = capsys.readouterr().out
    assert "--reduction" not in shown["--help"]
    assert "--reduction" in shown["--help-all"]
    assert "--exam-n0" in shown["--help"]


def test_a_directory_with_another_run_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = ["--directory", str(tmp_path / "run")]
    assert main([*SEARCH, *directory]) == 0
    before = (tmp_path / "run" / FILE_NAME).read_bytes()
    assert "another run" in mistake([*SEARCH, "--seed", "4", *directory], capsys)
    assert (tmp_path / "run" / FILE_NAME).read_bytes() == before


def test_a_journal_of_another_version_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE_NAME).write_text('{"event":"start","version":0}\n')
    assert "version 0" in mistake([*SEARCH, "--directory", str(tmp_path)], capsys)
    assert (tmp_path / FILE_NAME).read_text() == '{"event":"start","version":0}\n'


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["pickle", "torch", "garbage", "empty"])
def test_checkpoints_that_are_damaged_or_hold_code_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "network.pt"
    if kind == "pickle":
        checkpoint.write_bytes(pickle.dumps(_Malicious()))
    elif kind == "torch":
        torch.save({"conv1.weight": _Malicious()}, checkpoint)
    else:
        checkpoint.write_bytes(b"\x80garbage" if kind == "garbage" else b"")
    arguments = ["search", "--problem", "digits", "--searcher", "random", "--checkpoint", str(checkpoint)]
    assert "checkpoint" in mistake(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt"]


def test_the_finetuning_protocol_finetunes_in_every_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--problem", "digits", "--searcher", "uniform", "--budget", "w2a2", "--images", "20"]
    command += ["--noise", "16", "--finalists", "0", "--json"]
    found = {}
    for name, more in {"ptq": [], "finetune": ["--finetune-steps", "20"]}.items():
        assert main([*command, "--directory", str(tmp_path / name), "--protocol", name, *more]) == 0
        found[name] = json.loads(capsys.readouterr().out)["best"]["metrics"]
    passes = {name: metrics["forward_passes"] for name, metrics in found.items()}
    recalibration = 250
    assert passes == {"ptq": 20 * 17 + recalibration, "finetune": 20 * 17 + 3 * 64 * 20}
    assert found["finetune"]["acr"] > found["ptq"]["acr"]


@pytest.mark.usefixtures("no_figures")
def test_a_protocol_from_elsewhere_prepares_search_and_exam(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It quantizes nothing, whatever the policy: its scores are those of the float network."""
    code = """
        from dataclasses import dataclass
        from typing import ClassVar

        from suite.protocols import Prepared, Protocol

        @dataclass(frozen=True, slots=True)
        class Untouched(Protocol):
            default_steps: ClassVar[int] = 0

            def prepare(self, bench, policy, request):
                return Prepared(bench.network, 7)

            def forward_passes(self, bench, steps):
                return 7
    """
    (tmp_path / "untouched_protocol.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exam = [*SMALL[6:], "--json"]
    own = ["--budget", "w2a2", "--protocol", "untouched_protocol:Untouched"]
    search = ["search", "--problem", "digits", "--searcher", "uniform", *SMALL[:4], "--finalists", "0", *own]
    assert main([*search, "--directory", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["metrics"]["forward_passes"] == 20 * 17 + 7
    assert main(["examine", "--run", "run", *exam]) == 0
    examined = json.loads(capsys.readouterr().out)
    assert examined["provenance"]["protocol"] == "untouched_protocol:Untouched"
    assert main(["examine", "--problem", "digits", "--float", *exam]) == 0
    untouched = json.loads(capsys.readouterr().out)["metrics"]
    compare = ["compare", "--problem", "digits", "--searchers", "uniform", "--seeds", "0", "--executor", "inline", *own]
    assert main([*compare, *SMALL, "--finalists", "0", "--directory", "comparison", "--json"]) == 0
    compared = [json.loads(file.read_text())["metrics"] for file in Path("comparison", "exams").iterdir()]
    assert {metrics["acr"] for metrics in [examined["metrics"], *compared]} == {untouched["acr"]}
    passes = untouched["forward_passes"]
    assert sorted(metrics["forward_passes"] for metrics in compared) == [passes, passes + 7]
    (plan,) = [run.study.plan() for run in read_experiments("comparison/experiment.yaml", Document({}, {}))]
    assert plan.passes == {"search": 3 * (20 * 17 + 7), "exam": 2 * passes + 7}


@pytest.mark.parametrize(("protocol", "more"), [("ptq", []), ("finetune", ["--finetune-steps", "2"])])
def test_the_usual_protocols_leave_the_problem_as_it_is(
    protocol: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--problem", "digits", "--searcher", "uniform", *SMALL[:4], "--finalists", "0", "--json"]
    assert main([*command, "--protocol", protocol, *more, "--directory", str(tmp_path)]) == 0
    assert "protocol" not in load_run(tmp_path).provenance


@pytest.mark.filterwarnings("always::suite.studies.train.PrecisionWarning")
def test_a_precision_that_is_slow_on_this_processor_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for present, said in ((False, True), (True, False)):
        flags = "avx2 avx512_bf16" if present else "avx2"
        monkeypatch.setattr(provenance, "processor", lambda flags=flags: {"flags": flags})
        out = tmp_path / f"{present}.safetensors"
        command = ["train", "digits", "--epochs", "1", "--weight-decay", "0.001", "--precision", "bfloat16"]
        assert main([*command, "--out", str(out), "--json"]) == 0
        told = capsys.readouterr()
        assert ("bitcert: warning: this processor has no instructions for bfloat16" in told.err) == said
        assert json.loads(told.out)["settings"]["weight_decay"] == 0.001
        assert json.loads(told.out)["command"].endswith("--epochs 1 --weight-decay 0.001 --precision bfloat16")
