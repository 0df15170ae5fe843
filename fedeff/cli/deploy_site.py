"""The option that every command of a site takes."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["SITE", "SiteFolder"]

SITE = Path("deployment")
SiteFolder = Annotated[Path, typer.Option("--site", metavar="FOLDER", help="Where the site keeps its files.")]
