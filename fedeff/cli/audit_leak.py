"""`fedeff audit leak`: one configuration, attacked; the exit status is the verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedeff.cli.audit_progress import watching_audit
from fedeff.cli.audit_settings import Clients, Config, Data, TierName, checked_folder, overrides_of
from fedeff.cli.audit_table import show
from fedeff.cli.running import tell
from fedeff.core.errors import ConfigError

if TYPE_CHECKING:
    from fedeff.audit.judging.rules import Rules
    from fedeff.audit.result import AuditResult

__all__ = ["LEAK_EXAMPLES", "leak"]

LEAK_EXAMPLES = (
    ("fedeff audit leak --data digits -c batch-size=1 -c local-steps=1", "the open configuration: it leaks"),
    ("fedeff audit leak runs/demo --tier standard", "a run, with the model that it came to"),
    ("fedeff audit leak -c 'codec=top_k(0.1)' --fail-on images --fail-on labels", "labels count, too"),
    ("fedeff audit leak --threat malicious --out audits/imprint", "by a server that crafts the model"),
)


def leak(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[APP|RUN]", help="A Flower app's folder, or a run's. \\[default: built in]"),
    ] = None,
    config: Config = None,
    data: Data = None,
    clients: Clients = None,
    tier: TierName = "quick",
    threat: Annotated[
        str,
        typer.Option(
            "--threat",
            metavar="WHO",
            help="curious: the server as it is; informed: knows labels; malicious: crafts the model.",
        ),
    ] = "curious",
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="In place of the tier's (repeat)."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="WHAT",
            help="images, tokens or labels (repeat). \\[default: images and tokens]",
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", metavar="RATE", help="The leak rate that a PASS rules out.")
    ] = 0.05,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Clients to attack. \\[default: the tier's]")
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", help="Of each client, attacked together.")
    ] = 1,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of every random draw. \\[default: 0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The report's. \\[default: audits/DATE-TIME]")
    ] = None,
    redact: Annotated[
        bool | None,
        typer.Option(
            "--redact/--no-redact",
            help="Leave samples out of the report. \\[default: unless the data are public]",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", metavar="MODULE:CALLABLE", help="Describes APP where it is not the built-in one."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", help="\\[default: one a processor]")
    ] = None,
) -> None:
    """Attack what clients would send under a configuration, and write a report.

    Exit status: 0 PASS, 1 FAIL (it leaks), 2 INCONCLUSIVE, 3 no audit was made: the error says why.
    """
    from fedeff.app.run_folder import dated_name
    from fedeff.audit.judging.rules import Rules
    from fedeff.audit.report import write_audit

    console = Console()
    wanted = _Wanted(
        target,
        tier=tier,
        threat=threat,
        attacks=tuple(attack or ()),
        rules=Rules(fail_on=tuple(fail_on), budget=budget) if fail_on else Rules(budget=budget),
        clients=clients,
        trials=trials,
        rounds=rounds,
        config=tuple(config or ()),
        data=data,
        seed=seed,
        processes=processes,
    )
    folder = out or Path("audits") / dated_name("leak")
    result = _built_in(console, wanted, folder) if network is None else _app(console, wanted, network, folder)
    report = write_audit(result, folder, redact=redact)
    show(console, result)
    print(report, flush=True)
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, as far as both kinds of app take it."""

    target: Path | None
    tier: str
    threat: str
    attacks: tuple[str, ...]
    rules: "Rules"
    clients: int | None
    trials: int | None
    rounds: int
    config: tuple[str, ...]
    data: str | None
    seed: int | None
    processes: int | None


def _built_in(console: Console, wanted: _Wanted, folder: Path) -> "AuditResult":
    from fedeff.audit.audit import run_audit
    from fedeff.audit.plan import plan_of

    plan = plan_of(
        wanted.target,
        tier=wanted.tier,
        threat=wanted.threat,
        rules=wanted.rules,
        attacks=wanted.attacks,
        clients=wanted.clients,
        trials=wanted.trials,
        rounds=wanted.rounds,
        overrides=overrides_of(wanted.config, data=wanted.data, seed=wanted.seed),
    )
    checked_folder(folder)
    tell(console, plan.notices)
    with watching_audit(console, "audit") as watch:
        return run_audit(plan, processes=wanted.processes, on_progress=watch)


def _app(console: Console, wanted: _Wanted, network: str, folder: Path) -> "AuditResult":
    from fedeff.app.overrides import parse_overrides
    from fedeff.audit.app_audit import audit_app
    from fedeff.audit.foreign_app import described

    if wanted.target is None:
        raise ConfigError("--network describes a Flower app of others; name its folder, too")
    if wanted.threat != "curious":
        raise ConfigError(f"--threat {wanted.threat} is for the built-in app; an app of others takes curious")
    if wanted.data is not None:
        raise ConfigError("--data is for the built-in app; an app of others has its own")
    if wanted.rounds != 1:
        raise ConfigError(f"--rounds {wanted.rounds} is for the built-in app; an app of others is seen once")
    if wanted.clients is None:
        raise ConfigError("a Flower app does not say how many clients it has; give --clients N")
    description = described(network, wanted.target)
    checked_folder(folder)
    with watching_audit(console, "audit") as watch:
        return audit_app(
            wanted.target,
            description,
            clients=wanted.clients,
            tier=wanted.tier,
            rules=wanted.rules,
            attacks=wanted.attacks,
            trials=wanted.trials,
            overrides=parse_overrides(wanted.config),
            seed=wanted.seed or 0,
            processes=wanted.processes,
            on_progress=watch,
        )
