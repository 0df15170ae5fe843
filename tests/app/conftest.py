"""A run small enough to be repeated dozens of times, and the pieces that tests of runs share."""

from collections.abc import Callable

import pytest

from fedeff.app.run import Plan
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings

TINY = {
    "dataset": "digits",
    "model": "logistic",
    "cohort": 4,
    "num-server-rounds": 3,
    "partition": "dirichlet:0.5",
    "learning-rate": 0.2,
}


@pytest.fixture
def tiny() -> Callable[..., Plan]:
    """`tiny(key=value, ...)`: a plan over 12 clients in this process, settings by snake-case key."""

    def make(clients: int = 12, delays: str = "", **changes: object) -> Plan:
        kebab = {key.replace("_", "-"): value for key, value in changes.items()}
        runtime = Runtime(clients=clients, engine="inline", delays=delays)
        return Plan(Settings.from_run_config({**TINY, **kebab}), runtime)

    return make


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing of reports, which has its own tests and takes a second."""
    monkeypatch.setattr("fedeff.app.run_folder.RunFolder.write_report", lambda folder: folder.report_file)
