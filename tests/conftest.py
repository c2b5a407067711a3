"""What all tests share: one thread for each process, the settings of hypothesis, and a repository that stays clean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import torch

    from suite.quantize.steps import Grid

# Small networks gain nothing from threads, and threads of several processes fight for the cores. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no limit on their time: the machine may be busy.
settings.register_profile(
    "bitcert", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bitcert")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True, scope="session")
def _steps_are_fitted_once() -> Iterator[None]:
    """Hundreds of tests calibrate the same few networks: the same values on the same grid are fitted in the first of them."""
    import torch

    from suite.quantize import calibration
    from suite.quantize.steps import fit_steps

    fitted: dict[tuple[object, ...], torch.Tensor] = {}

    def fit_once(rows: torch.Tensor, grid: Grid) -> torch.Tensor:
        if rows.device.type != "cpu" or rows.numel() > 2**17:
            return fit_steps(rows, grid)
        key = sha256(rows.detach().numpy().tobytes()).digest(), rows.dtype, rows.shape, grid, torch.get_num_threads()
        if key not in fitted:
            fitted[key] = fit_steps(rows, grid)
        return fitted[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "fit_steps", fit_once)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What bitcert keeps on disk for the user goes to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITCERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but not rendered, which takes longer than a small comparison; they are looked at in tests/report."""
    monkeypatch.setattr("suite.report.write.render", lambda axes: {"png": b"", "svg": b""})


@pytest.fixture(autouse=True)
def _nothing_left_in_the_repository(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a file or folder beside pyproject.toml fails; what tools keep there for themselves is hidden."""
    root = request.config.rootpath
    before = _visible(root)
    yield
    left = _visible(root) - before
    if left:
        pytest.fail(f"left in {root}: {', '.join(sorted(left))}; write to tmp_path", pytrace=False)


def _visible(folder: Path) -> set[str]:
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if not name.startswith((".", "_")) and not name.endswith(("build", ".egg-info"))}
