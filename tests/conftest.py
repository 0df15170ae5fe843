"""What every test runs under: nothing leaves the machine, nothing is written to the home folder."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports flwr, ray or matplotlib: they read these once.
os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a busy machine workers would hardly run
    "MPLBACKEND": "agg",
}

# A shared or slow machine must not fail a law: no deadline. In CI every run draws the same examples.
_LAWS = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("here", **_LAWS)
settings.register_profile("ci", **_LAWS, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def _own_flower_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep Flower's own folder out of the home folder; subprocesses of a test inherit it."""
    os.environ["FLWR_HOME"] = str(tmp_path_factory.mktemp("flwr-home"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests that need one: runs join it instead of starting their own."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    yield
    ray.shutdown()
