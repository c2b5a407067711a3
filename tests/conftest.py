"""What all tests share: one thread for each process, and the settings of hypothesis."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Small networks gain nothing from threads, and threads of several processes fight for the cores. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no limit on their time: the machine may be busy.
settings.register_profile(
    "bitcert", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bitcert")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What bitcert keeps on disk for the user goes to a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITCERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
