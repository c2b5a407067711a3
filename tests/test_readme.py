"""The README's example searcher, run as it stands there."""

import re
from pathlib import Path

from suite.contract.problem import Problem
from suite.contract.searcher import Searcher
from suite.testing.searchers import SearcherConformance

README = Path(__file__).parents[1] / "README.md"


def example() -> type[Searcher]:
    """The class in the block marked as the example."""
    match = re.search(
        r"begin example: searcher -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert match is not None
    names: dict[str, object] = {"__name__": "readme_example"}
    exec(compile(match[1], str(README), "exec"), names)  # noqa: S102
    found = names["HillClimbing"]
    assert isinstance(found, type)
    assert issubclass(found, Searcher)
    return found


class TestReadmeExample(SearcherConformance):
    learns = False

    def make(self, problem: Problem, seed: int) -> Searcher:
        return example()(problem, seed)


def test_the_example_is_about_thirty_lines() -> None:
    block = README.read_text(encoding="utf-8").split("begin example: searcher -->")[1].split("```")[1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 36
