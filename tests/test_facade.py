"""The façade and the command's help are light: heavy packages are imported where they are used."""

import subprocess
import sys

import pytest

import suite

HEAVY = ("torch", "torchvision", "ray", "optuna", "matplotlib", "seaborn", "pandas", "sklearn", "scipy")


@pytest.mark.parametrize(
    "statement",
    [
        "import suite",
        "from suite.cli import main; main(['--help'])",
        "from suite.cli import main; main(['compare', '--help'])",
    ],
)
def test_nothing_heavy_is_imported_for(statement: str) -> None:
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(answer.stderr.split()) & set(HEAVY)


def test_every_name_of_the_facade_can_be_imported() -> None:
    for name in suite.__all__:
        assert getattr(suite, name) is not None
    assert dir(suite) == suite.__all__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        suite.nonsense  # noqa: B018
