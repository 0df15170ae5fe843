"""Federated runs of the built-in app, for rows that measure them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from fedeff.app import Plan, Settings, simulate
from fedeff.app.runtime import Runtime
from fedeff.core.records import RoundRecord

__all__ = ["federated", "reached"]

Value = bool | int | float | str


def federated(settings: Mapping[str, Value], clients: int, seed: int) -> list[RoundRecord]:
    """The records of a run's rounds, as `fedeff simulate -c key=value` gives them; the folder is dropped.

    Clients train in this process, one after another: the model is the one that workers would make.
    """
    given = Settings.from_run_config({**settings, "seed": seed})
    plan, _ = Plan(given, Runtime(clients=clients, engine="inline")).checked()
    with tempfile.TemporaryDirectory() as folder:
        return [record for record in simulate(plan, Path(folder) / "run").rounds() if record.server_round]


def reached(rounds: list[RoundRecord], accuracy: float) -> RoundRecord | None:
    """The first round after which the global model had this accuracy on the test data, in [0, 1]."""
    return next((one for one in rounds if (one.accuracy or 0.0) >= accuracy), None)
