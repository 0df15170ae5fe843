"""One run of the built-in app, from settings to a run folder with its report; new or resumed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fedeff.app.closing import About, summarised
from fedeff.app.run_folder import RunFolder
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.core.errors import ConfigError, ResumeError
from fedeff.core.records import RoundRecord
from fedeff.core.state import StateStore

__all__ = ["BUILT_IN", "OnRound", "Plan", "continue_run", "simulate"]

BUILT_IN = "fedeff"  # `app` in config.toml; a foreign app's is its folder
OnRound = Callable[[RoundRecord], None]


@dataclass(frozen=True)
class Plan:
    """What to run and where: the built-in app's settings, and the runtime under it."""

    settings: Settings
    runtime: Runtime

    def checked(self) -> tuple["Plan", tuple[str, ...]]:
        """The plan with every "auto" decided, and notices of that; what cannot run is refused here.

        Raises:
            ConfigError, DataError, TraceError: what is wrong, in one line.
        """
        from fedeff.app.client import training_of
        from fedeff.app.coding import check_down_codec
        from fedeff.app.server import strategy_of
        from fedeff.app.versions import plan_of, sparsity_of
        from fedeff.app.workload import new_model, resolved, shares_of

        settings, notices = resolved(self.settings)
        if settings.run_folder:
            raise ConfigError("run-folder is for fedeff deploy run; here the folder is --out and --name")
        settings.check_clients(self.runtime.clients)
        self.runtime.clock(settings.seed)
        training_of(settings)
        strategy_of(settings).check_clients(self.runtime.clients)
        model, sparsity = new_model(settings), sparsity_of(settings)
        if sparsity and plan_of(settings):
            sparsity.penalty(model)
        check_down_codec(settings, model)
        shares_of(settings, self.runtime.clients)
        return replace(self, settings=settings.complete()), notices

    def config(self) -> dict[str, Any]:
        """The tables of `config.toml`."""
        return {
            "app": BUILT_IN,
            "started-at": datetime.now().astimezone().isoformat(timespec="seconds"),
            "simulation": self.runtime.table(),
            "config": self.settings.run_config(),
        }

    @classmethod
    def of_run(cls, folder: RunFolder) -> "Plan":
        """The plan that a run began with.

        Raises:
            ResumeError: if the run was another app's than the built-in one.
            ConfigError: if its `config.toml` was damaged.
        """
        config = folder.config()
        if (app := config.get("app")) != BUILT_IN:
            raise ResumeError(
                f"{folder.path} is a run of the Flower app {app}: its strategy starts at round 1 and keeps "
                "its state to itself, so it cannot be resumed; run it again under another --name"
            )
        if "deployment" in config:
            raise ResumeError(
                f"{folder.path} is a run of a deployment; go on with it by: "
                f"fedeff deploy run --resume {folder.name}"
            )
        settings = Settings.from_run_config(config.get("config", {}))
        return cls(settings, Runtime.from_table(config.get("simulation", {}), folder.config_file))


def simulate(plan: Plan, path: Path, on_round: OnRound | None = None) -> RunFolder:
    """Run a checked plan in a new folder and return it, with record, summary and report.

    >>> plan, notices = Plan(Settings(cohort=10), Runtime(clients=100)).checked()  # doctest: +SKIP
    >>> simulate(plan, Path("runs/first")).summary().accuracy  # doctest: +SKIP

    Raises:
        ResumeError: if the folder exists already.
        EngineError, StateError: if the run fails.
    """
    return _run(plan, RunFolder.create(path, plan.config()), on_round)


def continue_run(folder: RunFolder, on_round: OnRound | None = None) -> RunFolder:
    """Finish a run that was stopped anywhere, to the same result; a finished one is left as it is.

    Raises:
        ResumeError: if the run is not the built-in app's, or another process is at it.
    """
    plan = Plan.of_run(folder)
    if not folder.finished:
        return _run(plan, folder, on_round)
    if not folder.report_file.exists():  # killed between the last round and the report
        StateStore(folder.client_states).discard()
        folder.write_report()
    return folder


def _run(plan: Plan, folder: RunFolder, on_round: OnRound | None) -> RunFolder:
    from fedeff.app.client import client_app_of
    from fedeff.app.server import server_app
    from fedeff.simulation import run_simulation

    clock = plan.runtime.clock(plan.settings.seed)
    states = StateStore(folder.client_states)
    with folder.locked():
        _keep_partition(plan, folder)
        with summarised(folder, _about(plan, folder)):
            run_simulation(
                server_app(folder, clock=clock, states=states, on_round=on_round or _quiet),
                client_app_of(plan.settings),
                plan.runtime.clients,
                run_config=plan.settings.run_config(),
                clock=clock,
                state_dir=states,
                **plan.runtime.engine_options(),
            )
        states.discard()
        folder.write_report()
    return folder


def _quiet(record: RoundRecord) -> None:
    """Nobody watches."""


def _about(plan: Plan, folder: RunFolder) -> About:
    return About(
        strategy=plan.settings.strategy,
        seed=plan.settings.seed,
        clients=plan.runtime.clients,
        engine=plan.runtime.engine,
        started_at=str(folder.config().get("started-at", "")),
        rounds=plan.settings.num_server_rounds,
        target_accuracy=plan.settings.target_accuracy,
    )


def _keep_partition(plan: Plan, folder: RunFolder) -> None:
    """Write which classes each client holds, for the report."""
    from fedeff.app.workload import dataset_of, shares_of

    labels = dataset_of(plan.settings).labels
    counts = shares_of(plan.settings, plan.runtime.clients).train.class_counts(labels, int(labels.max()) + 1)
    folder.write_partition(counts)
