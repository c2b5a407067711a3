"""README, docs and results: links that lead somewhere, tables that are included, commands whose options exist. No network."""

import contextlib
import importlib.util
import io
import re
import shlex
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import suite
from suite.cli import main
from suite.plugins import STUDIES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "results").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
)
FENCE = re.compile(r"^(`{3,})(.*?)\n(.*?)^\1 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^`{3}\{(?:include|literalinclude|image|figure)\} +(\S+)", re.MULTILINE)
EXTERNAL = ("http://", "https://", "mailto:")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What can follow the # in a link to a page: slugs of its headings, as GitHub makes them, and named targets."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", page.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith(EXTERNAL):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_included_files_exist(page: Path) -> None:
    named = [name for name in DIRECTIVE.findall(page.read_text(encoding="utf-8")) if not name.startswith("_generated/")]
    assert not [name for name in named if not (page.parent / name).is_file()]


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"\{toctree\}\n(.*?)```", index, re.DOTALL) for line in block.split()}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"} <= listed


def test_every_recorded_table_is_shown_in_the_docs_and_none_is_pasted() -> None:
    shown = " ".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for table in (ROOT / "results").rglob("*.md"):
        if table.name != "README.md":
            assert f"../{name_of(table)}" in shown, table
    pasted = re.compile(
        r"^\|.*[+-]0\.\d{4} \| (\[.*\] \| )?(underpowered|not distinguishable|better|worse) \|", re.MULTILINE
    )
    assert pasted.search((ROOT / "results/digits/real/leaderboard.md").read_text(encoding="utf-8"))
    assert not pasted.search(shown + (ROOT / "README.md").read_text(encoding="utf-8"))


def test_every_result_has_its_experiment_file() -> None:
    table = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| ([^|]*) \|", table, re.MULTILINE))
    folders = {folder.name for folder in (ROOT / "results").iterdir() if folder.is_dir()}
    assert set(rows) == folders - {"certification"}
    for files in rows.values():
        for name in re.findall(r"`(experiments/[^`]+)`", files):
            assert list(ROOT.glob(name)), name


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def documented_commands() -> list[tuple[str, list[str]]]:
    """Every ``bitcert`` command in a code block, with its page."""
    found = []
    for page in PAGES:
        for _, language, code in FENCE.findall(page.read_text(encoding="utf-8")):
            if language.strip() not in ("bash", "console"):
                continue
            for line in code.replace("\\\n", " ").splitlines():
                command = re.search(r"\bbitcert +(?=[a-z])(.*)", line)
                if command is not None:
                    words = shlex.split(command[1].replace("'", ""), comments=True)
                    found.append((name_of(page), words))
    return found


@cache
def known_options(verb: str) -> set[str]:
    """The options of a verb, from its own help."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([verb, "--help-all"])
    return set(re.findall(r"--[a-z][\w-]*", shown.getvalue()))


def test_documented_commands_name_verbs_and_options_that_exist() -> None:
    commands = documented_commands()
    assert len(commands) > 10
    for page, (verb, *words) in commands:
        assert verb in (*STUDIES.names(), "run", "report"), page
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if verb == "run":
            assert words[0].endswith(".yaml"), page
            assert (ROOT / words[0]).is_file(), page
            assert given <= {"--dry-run", "--slice"}, page
        else:
            assert given <= known_options(verb), (page, verb)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands but for its sizes: few evaluations, and a small exam."""
    from suite.certify.exam import ExamSettings

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [code for _, language, code in FENCE.findall(text) if language == "python"]
    assert len([line for line in code.splitlines() if line]) <= 8
    monkeypatch.chdir(tmp_path)
    examine = suite.examine
    small = ExamSettings(images=20, n0=10, n=100)
    monkeypatch.setattr(suite, "examine", lambda *given: examine(*given, exam=small), raising=False)
    exec(code.replace("evaluations=64", "evaluations=4, fidelity=suite.Fidelity(images=10, noise=8)"), {})  # noqa: S102


def reference() -> ModuleType:
    """The module that generates reference pages."""
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_references_name_every_plug_in_and_every_key() -> None:
    made = reference()
    settings = made.settings_reference()
    for name in STUDIES.names():
        assert f"### study: {name}\n" in settings
    for word in ("`budget`", "`forward_passes`", "`n0`", "`post_step`", "`seeds`"):
        assert f"| {word} |" in settings
    for section in ("searchers", "protocols", "post_steps"):
        kind = made.plugins.KINDS[section]
        assert [f"### {name}\n" in made.options_of(kind) for name in kind.names()] == [True] * len(kind.names())


def test_citation_and_issue_forms_are_valid() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        if form.name != "config.yml":
            assert {"name", "description", "body"} <= set(content)
            ids = [item["id"] for item in content["body"]]
            assert len(set(ids)) == len(ids)
