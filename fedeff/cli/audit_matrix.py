"""`fedeff audit matrix`: attacks by defences, and what each defence costs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedeff.cli.audit_progress import watching_audit
from fedeff.cli.audit_settings import Clients, Config, Data, TierName, checked_folder, overrides_of
from fedeff.cli.running import tell

__all__ = ["MATRIX_EXAMPLES", "matrix"]

MATRIX_EXAMPLES = (
    ("fedeff audit matrix --data digits -c batch-size=1 -c local-steps=1", "all attacks by all defences"),
    (
        "fedeff audit matrix --data digits --attack phong --defence none --defence 'top_k(0.1)'",
        "one corner of it",
    ),
    (
        "fedeff audit matrix --accuracy-rounds 20 --out audits/matrix",
        "with what defences cost",
    ),
)


def matrix(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[APP|RUN]", help="The built-in app's folder, or a run's. \\[default: built in]"
        ),
    ] = None,
    config: Config = None,
    data: Data = None,
    clients: Clients = None,
    tier: TierName = "quick",
    threat: Annotated[
        str, typer.Option("--threat", metavar="WHO", help="curious, informed or malicious.")
    ] = "curious",
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", metavar="NAME", help="In place of all that fit the data (repeat)."),
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option("--defence", metavar="NAME", help="In place of all that fit the settings (repeat)."),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", help="Clients to attack under each defence.")
    ] = 3,
    accuracy_rounds: Annotated[
        int,
        typer.Option(
            "--accuracy-rounds", metavar="N", help="Train so many rounds under each, 0 for not at all."
        ),
    ] = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of every random draw. \\[default: 0]")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where rows and page go; rows there are kept.")
    ] = Path("audits/matrix"),
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="N", help="\\[default: one a processor]")
    ] = None,
) -> None:
    """Try attacks under defences, without and with knowing of them, and write a page.

    Stopped anywhere, the same command goes on with the rows that are missing.
    """
    from fedeff.audit.matrix import audit_matrix
    from fedeff.audit.report import write_matrix

    console = Console()
    folder = checked_folder(out)
    with watching_audit(console, "matrix") as watch:
        result = audit_matrix(
            target,
            folder,
            tier=tier,
            threat=threat,
            attacks=attack or (),
            defences=defence or (),
            clients=clients,
            trials=trials,
            accuracy_rounds=accuracy_rounds,
            overrides=overrides_of(config or [], data=data, seed=seed),
            processes=processes,
            on_progress=watch,
            on_notice=lambda notice: tell(console, [notice]),
        )
    print(write_matrix(result, folder), flush=True)
