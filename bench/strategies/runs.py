"""Runs of one comparison, each in a run folder of its own: what is there already is not run again."""

import hashlib
import json
import shutil
from pathlib import Path

from bench.strategies.rows import LAST, STEPS, Case, Comparison, Outcome
from fedeff.app import Plan, Settings, continue_run, simulate
from fedeff.app.run_folder import RunFolder, is_run
from fedeff.app.runtime import Runtime
from fedeff.core.errors import FedeffError

__all__ = ["folder_of", "outcome", "run", "settings_of"]


def run(comparison: Comparison, case: Case, seed: int, work: Path) -> RunFolder:
    """The finished run, taken from its folder, finished there, or run from the beginning."""
    path = folder_of(comparison, case, seed, work)
    if is_run(path):
        folder = RunFolder.open(path)
        if folder.finished:
            return folder
        with folder.locked():
            pass  # raises where another process is at it, which is no reason to delete the run
        try:
            return continue_run(folder)
        except FedeffError:  # a run whose folder a kill left in pieces
            shutil.rmtree(path)
    plan, _ = Plan(settings_of(comparison, case, seed), _runtime(comparison)).checked()
    return simulate(plan, path)


def folder_of(comparison: Comparison, case: Case, seed: int, work: Path) -> Path:
    """Where the run lies: other settings, other folder."""
    told = {
        "settings": settings_of(comparison, case, seed).complete().run_config(),
        "runtime": _runtime(comparison).table(),
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return work / comparison.key / f"{case.name}_seed-{seed}_{digest}"


def settings_of(comparison: Comparison, case: Case, seed: int) -> Settings:
    """All that a run is told."""
    given = {**comparison.settings, **case.settings, "seed": seed}
    return Settings.from_run_config(given)


def _runtime(comparison: Comparison) -> Runtime:
    return Runtime(clients=comparison.clients, engine="inline", **comparison.runtime)


def outcome(folder: RunFolder, target: float) -> Outcome:
    """What the run's record says."""
    rounds = [record for record in folder.rounds() if record.server_round > 0]
    scored = [record for record in rounds if record.accuracy is not None]
    last = [record.accuracy or 0.0 for record in scored[-LAST:]]
    reached = next((record for record in scored if (record.accuracy or 0.0) >= target), None)
    steps = int(folder.config()["config"]["local-steps"])
    return Outcome(
        accuracy=sum(last) / len(last),
        last_accuracy=last[-1],
        uplink_bytes=rounds[-1].uplink_bytes_total,
        downlink_bytes=rounds[-1].downlink_bytes_total,
        rounds_to_target=reached.server_round * steps / STEPS if reached else None,
        virtual_s_to_target=reached.virtual_s_total if reached else None,
        uplink_bytes_to_target=reached.uplink_bytes_total if reached else None,
    )
