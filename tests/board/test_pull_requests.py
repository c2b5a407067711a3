"""The script that verifies what a pull request adds: entries alone, none of its code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "verify-entries"
ENTRY = "results/entries/digits-w3a3-fit-0-0123456789.json"


class Repository:
    """A repository with the script, a main branch, and a branch of entries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir(parents=True)
        (folder / ".ci" / "verify-entries").write_bytes(SCRIPT.read_bytes())
        (folder / ".ci" / "verify-entries").chmod(0o755)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit()

    def git(self, *arguments: str) -> None:
        given = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *given, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "files")

    def submit(self, files: dict[str, str]) -> None:
        self.git("checkout", "--quiet", "-b", "entry")
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(text.removeprefix("->")) if text.startswith("->") else path.write_text(text)
        self.commit()
        self.git("checkout", "--quiet", "main")

    def verify(self, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the script with a verifier that prints what it is called with."""
        verifier = self.folder.parent / "verifier"
        verifier.write_text(f'#!/bin/sh\necho "$@"\nexit {status}\n')
        verifier.chmod(0o755)
        environment = os.environ | {"BITCERT": str(verifier)}
        command = [str(self.folder / ".ci" / "verify-entries"), "main", "entry"]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.mark.parametrize("status", [0, 1])
def test_entries_are_taken_and_verified(repository: Repository, status: int) -> None:
    repository.submit({ENTRY: "{}", ENTRY.replace(".json", ".safetensors"): "weights"})
    found = repository.verify(status)
    assert (found.returncode, found.stdout) == (status, f"verify {ENTRY} --record\n")
    assert (repository.folder / ENTRY).read_text() == "{}"


def test_withdrawn_entries_are_not_verified(repository: Repository) -> None:
    repository.submit({ENTRY: "{}", ENTRY.replace(".json", ".withdrawn.json"): "{}"})
    assert repository.verify().stdout == f"withdrawn {ENTRY}\n"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({ENTRY: "{}", "suite/x.py": "import os"}, "results/entries/ alone"),
        ({"results/entries/../../x.json": "{}"}, "results/entries/ alone"),
        ({"results/entries/a b.json": "{}"}, "results/entries/ alone"),
        ({ENTRY.replace(".json", ".verification.json"): "{}"}, "not submitted"),
        ({ENTRY: "->/etc/passwd"}, "plain files"),
    ],
)
def test_anything_else_is_refused(repository: Repository, files: dict[str, str], reason: str) -> None:
    repository.submit(files)
    found = repository.verify()
    assert found.returncode == 2
    assert reason in found.stderr
    assert not found.stdout
