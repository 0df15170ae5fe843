"""`fedeff compare`: runs side by side, as a table and a page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedeff.cli.running import Outcome, finish

__all__ = ["EXAMPLES", "compare"]

EXAMPLES = (
    ("fedeff compare demo", "all runs of a sweep or of `simulate` with several strategies"),
    ("fedeff compare first second --to both.html", "two runs of the folder runs"),
)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Names under --out, or folders.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where run folders are.")] = Path(
        "runs"
    ),
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="The page. \\[default: comparison.html in --out]"),
    ] = None,
) -> None:
    """Compare runs: a table with mean and spread over seeds, and a page with their curves."""
    from fedeff.app.run_folder import expand_runs
    from fedeff.report import write_comparison

    folders = [folder.path for run in runs for folder in expand_runs(_place(run, out))]
    page = write_comparison(folders, to or out / "comparison.html")
    finish(Console(), Outcome(folders, page))


def _place(run: str, out: Path) -> Path:
    """The folder that is meant: one of this name under `out`, else the path itself."""
    named = out / run
    return named if named.is_dir() or not Path(run).is_dir() else Path(run)
