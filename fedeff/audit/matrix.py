"""Attacks by defences, row by row: each row is written when it is whole, and not made twice."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from fedeff.app.run import Plan, simulate
from fedeff.app.runtime import Runtime
from fedeff.app.settings import Settings
from fedeff.audit.attacks.table import attack_names
from fedeff.audit.attempts import OnProgress, Progress, attacked, case_of
from fedeff.audit.defences.epsilon import true_epsilon
from fedeff.audit.defences.table import Defence, defence_names, defence_of
from fedeff.audit.judging.judge import public_rows, trials_of
from fedeff.audit.judging.leaks import leaked
from fedeff.audit.judging.rules import Rules
from fedeff.audit.judging.trial import Trial
from fedeff.audit.matrix_result import MatrixCell, MatrixDefence, MatrixResult
from fedeff.audit.naive import is_plain, naive
from fedeff.audit.plan import AuditPlan, plan_of
from fedeff.audit.provenance import provenance_of
from fedeff.audit.result import Value, configuration_of, hash_of
from fedeff.audit.victims import Victim, chosen_victims
from fedeff.core.errors import ConfigError

__all__ = ["audit_matrix"]

_ROWS = "rows.jsonl"
_NOTHING = "it was tried, and told nothing"


@dataclass(frozen=True)
class _Row:
    """A finished row and the hash of all that it came of."""

    key: str
    defence: MatrixDefence
    cells: tuple[MatrixCell, ...]


def audit_matrix(
    target: Settings | Path | str | None,
    folder: Path,
    *,
    tier: str = "quick",
    threat: str = "curious",
    attacks: Sequence[str] = (),
    defences: Sequence[str] = (),
    clients: int | None = None,
    trials: int = 3,
    accuracy_rounds: int = 0,
    overrides: Mapping[str, Value] | None = None,
    processes: int | None = None,
    on_progress: OnProgress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> MatrixResult:
    """What attacks rebuild under defences, without and with knowing of them; finished rows lie in `folder`.

    Rows that are there, of the same settings, attacks and effort, are taken as they are. A defence that
    does not fit the settings is told to `on_notice` and left out, unless it was named.

    Raises:
        ConfigError, DataError: for an unknown name or settings that cannot be.
        AuditError: where there is nothing to attack.
    """
    started, began_s = datetime.now(UTC), time.monotonic()
    if accuracy_rounds < 0:
        raise ConfigError(f"accuracy rounds = {accuracy_rounds}; expected 0 for none, or more")
    tell = on_progress or _quiet
    plan = plan_of(
        target,
        tier=tier,
        threat=threat,
        rules=Rules(),
        attacks=attacks or attack_names(),
        clients=clients,
        trials=trials,
        overrides=overrides,
    )
    chosen = _chosen(plan.target.settings, plan.target.clients, defences, on_notice or _unheard)
    store = _Store(folder / _ROWS)
    rows = []
    for done, (defence, settings) in enumerate(chosen):
        tell(Progress(done, len(chosen), defence.name))
        key = _key(plan, settings, accuracy_rounds)
        row = store.row(defence.name, key)
        if row is None:
            row = _row_of(plan, defence, settings, key, accuracy_rounds, processes)
            store.add(row)
        rows.append(row)
    tell(Progress(len(chosen), len(chosen), "done"))
    target_settings = plan.target.settings
    return MatrixResult(
        name=plan.target.what,
        model=target_settings.model,
        dataset=target_settings.dataset,
        threat=plan.threat,
        tier=plan.tier.name,
        attacks=tuple(one.attack for one in plan.efforts),
        defences=tuple(row.defence for row in rows),
        cells=tuple(cell for row in rows for cell in row.cells),
        provenance=provenance_of(plan.efforts, [target_settings.seed], started, time.monotonic() - began_s),
    )


def _chosen(
    base: Settings, clients: int, names: Sequence[str], on_notice: Callable[[str], None]
) -> list[tuple[Defence, Settings]]:
    """Each defence with the settings under it; of those that nobody named only what fits the base."""
    if len(set(names)) < len(names):
        raise ConfigError(f"defence {max(names, key=list(names).count)!r} is named twice; name each once")
    chosen = []
    for defence in map(defence_of, names or defence_names()):
        try:
            checked, _ = Plan(defence.settings(base), Runtime(clients=clients, engine="inline")).checked()
        except ConfigError as error:
            if names:
                raise
            on_notice(f"{defence.name} is left out: {error}")
        else:
            chosen.append((defence, checked.settings))
    return chosen


@dataclass(frozen=True)
class _Store:
    """The rows that are finished, a line each; a line that a kill tore is none."""

    path: Path

    def row(self, defence: str, key: str) -> _Row | None:
        """The row of this defence, if it came of the same."""
        if not self.path.exists():
            return None
        for line in self.path.read_bytes().splitlines():
            try:
                row = msgspec.json.decode(line, type=_Row)
            except msgspec.MsgspecError:
                continue
            if (row.defence.name, row.key) == (defence, key):
                return row
        return None

    def add(self, row: _Row) -> None:
        """Write a row at the end, on a line of its own."""
        self.path.touch(0o600)
        with self.path.open("ab") as file:
            file.write(b"\n" + msgspec.json.encode(row) + b"\n")


def _key(plan: AuditPlan, settings: Settings, accuracy_rounds: int) -> str:
    """The hash of all that a row comes of."""
    efforts = [(one.attack, one.seconds, dict(one.options)) for one in plan.efforts]
    return hash_of(
        {
            **configuration_of(settings.run_config()),
            "clients": plan.target.clients,
            "threat": plan.threat,
            "trials": plan.trials or 0,
            "accuracy-rounds": accuracy_rounds,
            "efforts": repr(efforts),
            "version": version("fedeff"),
        }
    )


def _row_of(
    plan: AuditPlan,
    defence: Defence,
    settings: Settings,
    key: str,
    accuracy_rounds: int,
    processes: int | None,
) -> _Row:
    clients = plan.target.clients
    informed = plan.threat == "informed"
    shown = chosen_victims(settings, clients, lambda _: plan.trials or 1, informed=informed)
    cells = tuple(_cells(plan, defence.name, settings, shown, processes))
    changed = settings.run_config().items() - plan.target.settings.run_config().items()
    return _Row(
        key,
        MatrixDefence(
            defence.name,
            dict(sorted(changed)),
            accuracy=_accuracy(settings, clients, accuracy_rounds) if accuracy_rounds else None,
            epsilon=true_epsilon(settings),
            uplink_bytes=statistics.median(one.captured.wire_bytes / len(one.partitions) for one in shown),
        ),
        cells,
    )


def _cells(
    plan: AuditPlan, defence: str, settings: Settings, shown: Sequence[Victim], processes: int | None
) -> Iterator[MatrixCell]:
    """The cells of a row: adaptive, then naive; where there is nothing to know of they are the same."""
    told = [case_of(one, plan.efforts, place) for place, one in enumerate(shown)]
    untold = [
        case_of(one, plan.efforts, place, naive(one.captured.view))
        for place, one in enumerate(shown)
        if not is_plain(one.captured.view)
    ]
    found = attacked([*told, *untold], processes)
    public = public_rows(settings)
    adaptive = trials_of(told, found[: len(told)], public)
    unaware = trials_of(untold, found[len(told) :], public) if untold else adaptive
    for trials, knows in ((adaptive, True), (unaware, False)):
        yield from (_cell(one.attack, defence, knows, trials, plan.rules) for one in plan.efforts)


def _cell(attack: str, defence: str, adaptive: bool, trials: Sequence[Trial], rules: Rules) -> MatrixCell:
    tried = [one for trial in trials for one in trial.attempts if one.attack == attack]
    why = next((trial.skipped[attack] for trial in trials if attack in trial.skipped), "")
    nothing = all(one.score.rebuilt == 0 and one.score.labels_f1 is None for one in tried)
    return MatrixCell(
        attack,
        defence,
        adaptive,
        trials=len(tried),
        leaks=sum(attack in leaked(trial, rules) for trial in trials),
        psnr_db=_median([one.score.best_psnr_db for one in tried]),
        gain_db=_median([one.score.best_gain_db for one in tried]),
        tokens=_median([one.score.tokens for one in tried]),
        labels_f1=_median([one.score.labels_f1 for one in tried]),
        seconds=_median([one.seconds for one in tried]),
        obstacle=why if not tried else _NOTHING if nothing else "",
        unfinished=sum(one.ended != "converged" for one in tried),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _accuracy(settings: Settings, clients: int, rounds: int) -> float | None:
    """What a model reaches that is trained under these settings for so many rounds."""
    shorter = replace(settings, num_server_rounds=rounds, evaluate_every=rounds)
    plan, _ = Plan(shorter, Runtime(clients=clients, engine="inline")).checked()
    with TemporaryDirectory(prefix="fedeff-matrix-") as folder:
        summary = simulate(plan, Path(folder) / "run").summary()
    return None if summary is None else summary.accuracy


def _quiet(progress: Progress) -> None:
    """Nobody watches."""


def _unheard(notice: str) -> None:
    """Nobody listens."""
