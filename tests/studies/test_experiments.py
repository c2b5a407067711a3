"""Experiment files: what they say is what runs, and every mistake is one line that says where it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import suite
from suite import plugins
from suite.cli import main
from suite.errors import BitcertError
from suite.run.limits import Limits
from suite.run.registry import standalone_names
from suite.studies.benchmark import BenchmarkStudy
from suite.studies.experiment import Document, read_experiments
from suite.studies.settings import HeldOutSettings, SpendSettings, validate
from suite.studies.study import EXPERIMENT_FILE

ROOT = Path(__file__).parents[2]
FILES = sorted(file for file in (ROOT / "experiments").rglob("*.yaml") if file.parent.name != "shared")
NOTHING = Document({}, {})

TINY = """\
study: compare
problem: {name: digits, budget: w2.5a2.5}
searchers: [random, cheapest]
seeds: [0]
spend: {images: 12, noise: 8, evaluations: 3}
exam: {images: 10, n0: 4, n: 20}
executor: inline
"""
STATISTICS = 250
"""Training images through which a quantized digits network recomputes its batch norms."""
SEARCH = "study: search\nproblem: separable\nsearcher: random\nspend:\n  evaluations: 4\n"


def write(folder: Path, text: str, name: str = "experiment.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def settings(experiment: str | Path | dict[str, Any], **overrides: Any) -> Any:
    (run,) = read_experiments(experiment, Document(overrides, {}))
    return run.study.settings


def test_every_recorded_result_has_its_file() -> None:
    written: set[str] = set()
    for file in FILES:
        for run in read_experiments(file, NOTHING):
            where = getattr(run.study.settings, "directory", None) or run.study.settings.out
            written.update(Path(where).parts)
    recorded = {folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir()}
    assert recorded - written == {"certification", "entries"}  # every entry names its command and its experiment


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_valid_and_says_what_it_is(file: Path) -> None:
    assert file.read_text().startswith("# ")
    for run in read_experiments(file, NOTHING):
        for name in getattr(run.study.settings, "searchers", None) or ():
            kind, _ = plugins.SEARCHERS.parse(name)
            assert kind in plugins.SEARCHERS.names()


def test_the_main_job_judges_all_methods_on_the_table_and_gives_every_real_search_what_200_evaluations_cost() -> None:
    (run,) = read_experiments(ROOT / "experiments" / "digits.yaml", NOTHING)
    assert isinstance(run.study, BenchmarkStudy)
    settings, table = run.study.settings, run.study.replay.settings
    agents_and_learned = {
        "arq",
        "arq+",
        "haq",
        "adaqat",
        "fracbits",
        "nipq",
        "interval-ilp",
    }  # the last needs certificates without noise
    assert set(standalone_names()) - set(table.searchers) == agents_and_learned
    assert (table.seeds, table.budgets, len(settings.seeds)) == (30, ("w2a2", "w2.5a2.5", "w3a3"), 2)
    compare = run.study.comparison(("fit", "tpe"))
    assert set(compare.searchers()) == {"random", "random-filled", "uniform", "cheapest", "fit", "tpe"}
    spend = settings.spend
    one = compare.problem.forward_passes(spend.fidelity_of(compare.problem, settings.problem))
    assert one is not None
    assert spend.limits == Limits(None, 200 * one)
    assert settings.exam == HeldOutSettings(n=200, n0=20, post_step="qat")
    assert settings.executor.name == "ray"
    assert settings.directory == "runs/digits"


def test_searchers_are_text_or_mappings(tmp_path: Path) -> None:
    file = write(tmp_path, SEARCH.replace("random", "{name: arq, episodes: 64, reward: 'certified@0.25,0.5'}"))
    assert settings(file).searcher == "arq:episodes=64:reward=certified@0.25,0.5"
    text = TINY.replace("[random, cheapest]", "random,{name}".format(name="arq:relabel=true"))
    assert settings(write(tmp_path, text)).searchers == ("random", "arq:relabel=true")


def test_an_including_file_wins_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, TINY, "base.yaml")
    (tmp_path / "sub").mkdir()
    found = settings(write(tmp_path / "sub", "include: ../base.yaml\nproblem: {sigma: 0.5}\nspend: {noise: 9}\n"))
    assert (found.problem.name, found.problem.budget, found.problem.sigma) == ("digits", "w2.5a2.5", 0.5)
    assert (found.spend.images, found.spend.noise) == (12, 9)


def test_options_override_single_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, SEARCH + f"directory: {tmp_path / 'run'}\n")
    assert main(["run", file, "--evaluations", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 2
    assert settings(file, problem={"budget": "w2.5a2.5"}).problem.budget == "w2.5a2.5"


def test_a_matrix_has_a_run_for_every_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SEARCH + f"directory: {tmp_path / 'runs'}\nmatrix: {{problem.budget: [w3a3, w2.5a2.5], seed: [0, 1]}}\n"
    file = write(tmp_path, text)
    found = {run.label: run.study.settings for run in read_experiments(file, NOTHING)}
    assert list(found) == ["w3a3-0", "w3a3-1", "w2.5a2.5-0", "w2.5a2.5-1"]
    assert found["w2.5a2.5-1"].seed == 1
    assert found["w2.5a2.5-1"].directory == str(tmp_path / "runs-w2.5a2.5-1")
    overridden = read_experiments(file, Document({"problem": {"budget": "w4a4"}}, {}))
    assert [run.study.settings.problem.budget for run in overridden] == ["w4a4", "w4a4"]
    assert main(["run", file, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(found)


def test_a_run_records_its_settings_and_they_resume_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", "--problem", "separable", "--searcher", "random", "--option", "fill=true"]
    directory = tmp_path / "run"
    assert main([*arguments[:5], "--evaluations", "4", "--directory", str(directory), "--json"]) == 0
    first, journal = capsys.readouterr().out, (directory / "journal.jsonl").read_bytes()
    recorded = directory / EXPERIMENT_FILE
    assert yaml.safe_load(recorded.read_text())["spend"]["evaluations"] == 4
    assert main(["run", str(recorded), "--json"]) == 0
    assert capsys.readouterr().out == first
    assert (directory / "journal.jsonl").read_bytes() == journal


def test_python_gets_the_result(tmp_path: Path) -> None:
    content = {"study": "search", "problem": "separable", "searcher": "random", "directory": str(tmp_path / "run")}
    run = suite.run_experiment(content, spend={"evaluations": 3})
    assert len(run.trials) == 3
    runs = suite.run_experiment({**content, "matrix": {"seed": [1, 2]}}, spend={"evaluations": 2})
    assert [found.seed for found in runs.values()] == [1, 2]
    with pytest.raises(BitcertError, match="unknown key 'serchers'"):
        suite.run_experiment(content, serchers=["random"])


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "more",
    [
        {"spend": {"evaluations": 9}},
        {"spend": {"evaluations": 9, "forward_passes": 4_000}, "seeds": [0, 1]},
        {"spend": {"evaluations": None, "forward_passes": 3_000, "finalists": 2}, "searchers": ["random"]},
        {"exam": {"post_step": "sqwa:captures=1", "post_step_steps": 3}},
        {"problem": {"certify": "sequential"}, "spend": {"noise": 20}},
        {"problem": {"certify": "irs"}, "spend": {"noise": 20}},
        {"problem": {"certify": "incremental"}, "spend": {"noise": 20}},
        {"problem": {"certify": "aggregate"}, "spend": {"noise": 20}},
        {"problem": {"protocol": "ptq:recalibrate=false"}, "spend": {"rungs": "6x4"}},
        {"problem": {"protocol": "finetune"}, "spend": {"finetune_steps": 2}},
    ],
    ids=str,
)
def test_a_plan_is_an_upper_bound_of_what_is_spent(
    more: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {**more, "directory": str(tmp_path / "run")}
    experiment = write(tmp_path, TINY)
    (run,) = read_experiments(experiment, Document(overrides, {}))
    plan = run.study.plan()
    assert not (tmp_path / "run").exists()
    comparison = suite.run_experiment(experiment, **overrides)
    spent = sum(entry.run.forward_passes for entry in comparison.entries)
    assert plan.searches == len(comparison.entries)
    assert plan.evaluations is None or sum(entry.run.evaluations for entry in comparison.entries) <= plan.evaluations
    assert spent <= (plan.passes["search"] or 0)
    held = [
        json.loads(file.read_text())["metrics"]["forward_passes"] for file in (tmp_path / "run" / "exams").iterdir()
    ]
    assert sum(held) <= (plan.passes["exam"] or 0) + (plan.passes.get("post-step") or 0)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("seeds", "same_network", "floats"), [([0], False, 1), ([0, 1], False, 2), ([0, 1], True, 1)])
def test_a_plan_without_a_choice_is_exact(seeds: list[int], same_network: bool, floats: int, tmp_path: Path) -> None:
    """Random search finds three different policies, nothing is measured again, and no winner is shared."""
    overrides = {
        "searchers": ["random"],
        "seeds": seeds,
        "same_network": same_network,
        "spend": {"finalists": 0},
        "directory": str(tmp_path / "run"),
    }
    experiment = write(tmp_path, TINY)
    (run,) = read_experiments(experiment, Document(overrides, {}))
    plan, comparison = run.study.plan(), suite.run_experiment(experiment, **overrides)
    spent = sum(entry.run.forward_passes for entry in comparison.entries)
    assert plan.passes["search"] == spent == len(seeds) * 3 * (12 * 9 + STATISTICS)
    held = [
        json.loads(file.read_text())["metrics"]["forward_passes"] for file in (tmp_path / "run" / "exams").iterdir()
    ]
    assert plan.passes["exam"] == sum(held) == (len(seeds) + floats) * 10 * 25 + len(seeds) * STATISTICS


def test_a_dry_run_says_what_it_costs_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    assert main(["run", file, "--dry-run"]) == 0
    assert "measured just now on this machine" in capsys.readouterr().out
    assert main(["run", file, "--dry-run", "--evaluations", "5", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"].values()
    assert found["evaluations"] == 2 * 5
    assert found["hours"] > 0
    assert list(tmp_path.iterdir()) == [Path(file)]


def test_a_dry_run_needs_no_data_where_the_file_says_enough(tmp_path: Path) -> None:
    text = """study: compare
problem: {name: cifar10-resnet20, budget: w2.5a2.5}
searchers: [random, cheapest]
seeds: [0, 1]
spend: {forward_passes: 65280, images: 60, noise: 16}
exam: {images: 250, n0: 10, n: 100, certify: aggregate, post_step: sqwa, post_step_steps: 200}
directory: runs/anywhere
"""
    (run,) = read_experiments(write(tmp_path, text), NOTHING)
    plan = run.study.plan()
    assert plan.searches == 4
    assert plan.passes["exam"] == (2 * 4 + 2) * 250 * 111 + 4 * STATISTICS


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (SEARCH + "serchers: [tpe]\n", 6, "unknown key 'serchers'; known: searcher"),
        (SEARCH + "  evaluation: 3\n", 6, "spend.evaluation: unknown key 'evaluation'; known: evaluations"),
        (SEARCH.replace("4", "four"), 5, 'spend.evaluations: evaluations must be an integer, got "four"'),
        (SEARCH.replace("4", "04"), 5, 'must be an integer, got "04"'),
        (SEARCH.replace("4", "2024-01-01"), 5, 'must be an integer, got "2024-01-01"'),
        (SEARCH.replace("4", "1:30"), 5, 'must be an integer, got "1:30"'),
        (SEARCH.replace("4", "1e999"), 5, "is not read"),
        (SEARCH.replace("4", "0"), 5, "spend.evaluations: evaluations must be at least 1, got 0"),
        (SEARCH.replace("4", "4.5"), 5, "must be an integer, got 4.5"),
        (SEARCH + "  retries: -1\n", 6, "retries must not be negative"),
        (SEARCH + "parallel: 0\n", 6, "parallel must be at least 1"),
        (SEARCH + "seed: yes\n", 6, 'seed must be an integer, got "yes"'),
        (SEARCH.replace("separable", "seperable"), 2, "problem.name: unknown problem 'seperable'; known: separable"),
        (
            SEARCH.replace("separable", "{name: digits, budget: w9z}"),
            2,
            "problem.budget: budget 'w9z' is not understood",
        ),
        (SEARCH.replace("separable", "{name: digits, sigma: -1}"), 2, "problem.sigma: sigma"),
        (SEARCH.replace("separable", "{name: digits, certify: magic}"), 2, "unknown certif"),
        (SEARCH.replace("random", "randon"), 3, "searcher: unknown searcher 'randon'; known: random"),
        (SEARCH.replace("random", "{name: random, wings: 2}"), 3, "unknown option of searcher random 'wings'"),
        (SEARCH.replace("random", "{wings: 2}"), 3, "{name: NAME, option: value}"),
        (SEARCH.replace("random", "[random]"), 3, "searcher must be text"),
        (SEARCH + "executor: cloud\n", 6, "unknown executor 'cloud'"),
        (SEARCH.replace("search\n", "serch\n"), 1, "unknown study 'serch'; known: search"),
        (SEARCH.replace("searcher: random\n", ""), 1, "searcher is missing"),
        ("problem: digits\n", 1, "study is missing; known: "),
        (SEARCH + "seed: 1\nseed: 2\n", 7, "seed is given twice"),
        (SEARCH + "include: 3\n", 6, "include must be the path of one file"),
        (SEARCH + "include: absent.yaml\n", 6, "there is no file"),
        (SEARCH + "include: experiment.yaml\n", 6, "include each other"),
        (SEARCH + "include: other.yaml\n", 1, "include each other"),
        (SEARCH + "matrix: [1, 2]\n", 6, "a matrix is a mapping"),
        (SEARCH + "directory: d\nmatrix: {seed: 3}\n", 7, "a list of numbers or text"),
        (SEARCH + "directory: d\nmatrix: {seed: [3, 3]}\n", 7, "differ, got 3, 3"),
        (SEARCH + "directory: d\nmatrix: {sead: [3]}\n", 7, "unknown key 'sead'"),
        (SEARCH + "matrix: {seed: [3]}\n", 6, "give a directory"),
        (SEARCH + "1: 2\n", 6, "keys are text"),
        (SEARCH + "seed: !!python/object/apply:os.system [ls]\n", 6, "must be an integer"),
        (SEARCH + "seed: !!binary aGk=\n", 6, "is not read"),
        (SEARCH + "seed: [1, 2\n", 7, "this is not YAML"),
        (SEARCH + "seed: 'a\n", 7, "this is not YAML"),
        (SEARCH + "---\nseed: 1\n", 6, "this is not YAML"),
        ("\tseed: 1\n", 1, "this is not YAML"),
        ("", 1, "the file is empty"),
        ("# nothing\n", 1, "the file is empty"),
        ("- search\n", 1, "not a mapping"),
        ("search", 1, "not a mapping"),
        ("a: &a [" + "[" * 3000, 1, ""),
        ("\n".join(["a0: &a0 [x, x]", *(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]" for n in range(25))]), 1, "too large"),
        ("a: &a [*a]\n", 1, "too large"),
        (TINY + "against: tpe\n", 8, "against: unknown searcher of this comparison 'tpe'"),
        (TINY.replace("[0]", "[0, x]"), 4, "must be an integer"),
        (
            TINY.replace("[0]", "[0, -1]"),
            4,
            "seeds: seeds are one or more integers >= 0 without repetition, got [0, -1]",
        ),
        (TINY.replace("[0]", "[3, 3]"), 4, "seeds: seeds are one or more integers >= 0 without repetition, got [3, 3]"),
        (TINY.replace("[0]", "[]"), 4, "seeds: seeds are one or more"),
        (TINY.replace("[random, cheapest]", "[random, cheapst]"), 3, "searchers.1: unknown searcher 'cheapst'"),
        (TINY.replace("n: 20", "n: 0"), 6, "exam.n: exam n must be at least 1"),
        (TINY.replace("n: 20", "post_step: magic"), 6, "unknown post-step 'magic'"),
        (TINY.replace("n: 20", "post_step: 'sqwa:captures=0'"), 6, "captures"),
        (TINY.replace("n: 20", "certify: ranking"), 6, "known: aggregate, fixed, interval, sequential, verify"),
    ],
)
def test_every_mistake_is_one_line_with_its_place(
    text: str,
    line: int,
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(tmp_path, text)
    write(tmp_path, "include: experiment.yaml\n", "other.yaml")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    assert main(["run", file]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert expected in shown
    if "too large" not in expected:
        assert shown.startswith((f"bitcert: {file}:{line}: ", f"bitcert: {tmp_path / 'other.yaml'}:{line}: "))
    assert "Traceback" not in shown
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\xff\xfe\x00", "not YAML"), (b"\x00" * 10, "not YAML"), (b"# " + b"x" * (1 << 20), "at most")],
)
def test_files_that_are_no_text_or_huge_are_refused(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.yaml").write_bytes(content)
    assert main(["run", str(tmp_path / "file.yaml")]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert expected in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "absent.yaml"], "cannot be read"),
        (["run", "--evaluations", "3"], "name the experiment file first"),
        (["run", "FILE", "--evaluations", "0"], "--evaluations: evaluations must be at least 1"),
        (["run", "FILE", "--evaluation", "3"], "the nearest is --evaluations"),
        (["completion", "csh"], "invalid choice"),
        (["run", "FILE", "--directory", "FILE"], "Not a directory"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, SEARCH)
    assert main([file if argument == "FILE" else argument for argument in arguments]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert expected in shown


def test_nothing_is_coerced() -> None:
    with pytest.raises(BitcertError, match="images must be an integer"):
        validate(SpendSettings, {"images": "3"})
    with pytest.raises(BitcertError, match="images must be an integer"):
        validate(SpendSettings, {"images": True})
    assert validate(SpendSettings, {"seconds": 3}).seconds == 3


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nfrom suite.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(*sys.modules, file=sys.stderr)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pydantic", "ray", "pandas", "yaml", "numpy"} & set(shown.stderr.split())
    for name in plugins.STUDIES.names():
        line = next(line for line in shown.stdout.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split()) > 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in (*plugins.STUDIES.names(), "run", "dry-run"):
        assert name in script
    assert "exam-n0" in script


def test_list_shows_every_kind_of_plug_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert list(listed) == list(plugins.KINDS)
    assert listed["searchers"]["random"].startswith("Draws policies")
    assert all(summary for summary in listed["studies"].values())
